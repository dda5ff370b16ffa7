/* One setting for each place so that sums stay within limits: a multiple-choice knapsack. */
#ifndef SQF_BUDGET_SOLVE_H
#define SQF_BUDGET_SOLVE_H

#include "base/memory.h"

/* What a setting costs in a place. Sums over places are what limits speak of. */
typedef enum sqf_budget_quantity {
    SQF_QUANTITY_LOSS = 0,
    SQF_QUANTITY_COST,
    SQF_QUANTITY_BITS,
    SQF_QUANTITY_COUNT
} sqf_budget_quantity;

/* Settings of all places. A setting that does not fit a place has an infinite loss. */
typedef struct sqf_budget_problem {
    size_t places, settings;
    const double (*figures)[SQF_QUANTITY_COUNT]; /* [places * settings], finite but for the loss, none below 0 */
    double limit[SQF_QUANTITY_COUNT]; /* most that a sum may be; infinite = none; the objective's is kept too */
    sqf_budget_quantity objective;    /* the sum that is made small */
} sqf_budget_problem;

/* Chooses a setting for each place; *found = false if no choice keeps the limits (choice is undefined then).
 *
 * Dynamic programming over the places: partial sums that nothing beats in both the limited quantity and the objective,
 * at most 4096 of them (of sums that close together the one with the better objective stays; limits hold exactly in
 * every case). With one limited quantity beside the objective the result is the optimum wherever that bound is not
 * met. A second one is weighed into the objective by a Lagrange multiplier, and what is left of it is used by
 * exchanging the settings of one or two places as long as that helps. Ties: the cheaper setting (fewer bits, then less
 * cost), then the one that comes first. */
sqf_status sqf_budget_solve(const sqf_budget_problem *problem, size_t *choice, bool *found, sqf_error *err);

/* Sums of a choice. */
void sqf_budget_sums(const sqf_budget_problem *problem, const size_t *choice, double sums[SQF_QUANTITY_COUNT]);

#endif

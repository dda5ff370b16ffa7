/* The knapsack of the budget. Places are few (four a layer) and settings some dozens, so that exact dynamic programming
 * over partial sums is cheap beside measuring; what needs care is that limits hold exactly and ties are deterministic.
 */
#include "budget/solve.h"

#include <math.h>
#include <string.h>

/* STATES: partial sums that are kept after each place. MULTIPLIERS: steps of the search for a Lagrange multiplier,
 * which halves its interval each time. EXCHANGES: passes of exchanging; each pass improves or is the last one. */
enum { STATES = 4096, MULTIPLIERS = 40, EXCHANGES = 64 };

/* Of the objective, for all bits (and a part of it for all products), so that among equal choices the smaller model
 * wins; far below what can be measured. */
#define TIE 1e-9

/* Sums over the first places, and how they came about. */
typedef struct state {
    double x; /* the limited quantity */
    double y; /* what is made small */
    uint32_t parent, setting;
} state;

/* One call at work: y = objective + multiplier * second. */
typedef struct solver {
    const sqf_budget_problem *problem;
    sqf_budget_quantity limited, second;
    double multiplier;
    double tie[SQF_QUANTITY_COUNT]; /* what a unit of the other quantities adds to the objective */
    double *rest;                   /* [places + 1] least sum of the limited quantity over the places from here on */
    state **kept;                   /* [places] of [STATES] */
    size_t *counts;                 /* [places] */
    state *fresh;                   /* [STATES * settings] */
} solver;

static const double *figures_at(const sqf_budget_problem *problem, size_t place, size_t setting)
{
    return problem->figures[place * problem->settings + setting];
}

void sqf_budget_sums(const sqf_budget_problem *problem, const size_t *choice, double sums[SQF_QUANTITY_COUNT])
{
    memset(sums, 0, SQF_QUANTITY_COUNT * sizeof *sums);
    for (size_t p = 0; p < problem->places; p++) {
        for (int q = 0; q < SQF_QUANTITY_COUNT; q++) {
            sums[q] += figures_at(problem, p, choice[p])[q];
        }
    }
}

/* Sums of many figures differ in the last bits by their order: a limit that is itself such a sum must admit it. */
static bool within(double sum, double limit)
{
    return sum <= limit + 1e-12 * fabs(limit);
}

static bool keeps_limits(const sqf_budget_problem *problem, const double *sums)
{
    for (int q = 0; q < SQF_QUANTITY_COUNT; q++) {
        if (!within(sums[q], problem->limit[q])) {
            return false;
        }
    }
    return isfinite(sums[SQF_QUANTITY_LOSS]);
}

/* ---- dynamic programming ---- */

static int compare_states(const void *left, const void *right)
{
    const state *a = left, *b = right;
    if (a->x != b->x) {
        return a->x < b->x ? -1 : 1;
    }
    if (a->y != b->y) {
        return a->y < b->y ? -1 : 1;
    }
    if (a->setting != b->setting) {
        return a->setting < b->setting ? -1 : 1;
    }
    return a->parent < b->parent ? -1 : a->parent > b->parent;
}

/* Keeps, of states in ascending x, those with a smaller y than all before. Returns their number. */
static size_t drop_beaten(state *states, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || states[i].y < states[kept - 1].y) {
            states[kept++] = states[i];
        }
    }
    return kept;
}

/* At most STATES of them: the last of each slice of x, which has the smallest y of the slice; the very first stays, so
 * that what can be reached at all is still reached. */
static size_t thin(state *states, size_t count)
{
    if (count <= STATES) {
        return count;
    }
    const double first = states[0].x, width = (states[count - 1].x - first) / (STATES - 2);
    size_t kept = 1;
    for (size_t i = 1; i < count; i++) {
        const bool last =
            i + 1 == count || floor((states[i + 1].x - first) / width) > floor((states[i].x - first) / width);
        if (last) {
            states[kept++] = states[i];
        }
    }
    return kept;
}

static double objective_of(const solver *s, const double *figures)
{
    double y = figures[s->problem->objective];
    if (s->multiplier > 0.0) {
        y += s->multiplier * figures[s->second];
    }
    return y + s->tie[SQF_QUANTITY_BITS] * figures[SQF_QUANTITY_BITS] +
           s->tie[SQF_QUANTITY_COST] * figures[SQF_QUANTITY_COST];
}

/* All states after a place from those before it. */
static void step(solver *s, size_t place)
{
    static const state empty = {0};
    const state *before = place == 0 ? &empty : s->kept[place - 1];
    const size_t before_count = place == 0 ? 1 : s->counts[place - 1];
    const double limit = s->problem->limit[s->limited];
    size_t count = 0;
    for (size_t setting = 0; setting < s->problem->settings; setting++) {
        const double *figures = figures_at(s->problem, place, setting);
        if (!isfinite(figures[SQF_QUANTITY_LOSS])) {
            continue;
        }
        const double y = objective_of(s, figures);
        for (size_t i = 0; i < before_count; i++) {
            const double x = before[i].x + figures[s->limited];
            if (within(x + s->rest[place + 1], limit)) {
                s->fresh[count++] = (state){x, before[i].y + y, (uint32_t)i, (uint32_t)setting};
            }
        }
    }
    if (count > 0) {
        qsort(s->fresh, count, sizeof *s->fresh, compare_states);
        count = thin(s->fresh, drop_beaten(s->fresh, count));
        memcpy(s->kept[place], s->fresh, count * sizeof *s->fresh);
    }
    s->counts[place] = count;
}

/* The choice with the least y; false if there is none. */
static bool run(solver *s, size_t *choice)
{
    const size_t places = s->problem->places;
    for (size_t p = 0; p < places; p++) {
        step(s, p);
        if (s->counts[p] == 0) {
            return false;
        }
    }
    size_t at = s->counts[places - 1] - 1; /* ascending x, descending y */
    for (size_t p = places; p-- > 0;) {
        choice[p] = s->kept[p][at].setting;
        at = s->kept[p][at].parent;
    }
    return true;
}

/* ---- two limits ---- */

/* What an exchange makes of the sums: the figures of one place replaced. */
static void replace(double sums[SQF_QUANTITY_COUNT], const double *old, const double *new)
{
    for (int q = 0; q < SQF_QUANTITY_COUNT; q++) {
        sums[q] += new[q] - old[q];
    }
}

static bool improves(const sqf_budget_problem *problem, const double *sums, double best)
{
    return keeps_limits(problem, sums) && sums[problem->objective] < best - 1e-9 * fabs(best);
}

/* The best exchange in `first` and at most one place after it. */
static bool exchange_at(const sqf_budget_problem *problem, size_t first, size_t *choice,
                        double sums[SQF_QUANTITY_COUNT])
{
    size_t other = first, settings[2] = {choice[first], 0};
    double best = sums[problem->objective];
    for (size_t a = 0; a < problem->settings; a++) {
        double changed[SQF_QUANTITY_COUNT];
        memcpy(changed, sums, sizeof changed);
        replace(changed, figures_at(problem, first, choice[first]), figures_at(problem, first, a));
        if (improves(problem, changed, best)) {
            best = changed[problem->objective];
            other = first;
            settings[0] = settings[1] = a;
        }
        for (size_t p = first + 1; p < problem->places; p++) {
            for (size_t b = 0; b < problem->settings; b++) {
                double both[SQF_QUANTITY_COUNT];
                memcpy(both, changed, sizeof both);
                replace(both, figures_at(problem, p, choice[p]), figures_at(problem, p, b));
                if (improves(problem, both, best)) {
                    best = both[problem->objective];
                    other = p;
                    settings[0] = a;
                    settings[1] = b;
                }
            }
        }
    }
    const bool better = best < sums[problem->objective];
    if (better) {
        choice[first] = settings[0];
        choice[other] = settings[1];
        sqf_budget_sums(problem, choice, sums);
    }
    return better;
}

static void exchange(const sqf_budget_problem *problem, size_t *choice)
{
    double sums[SQF_QUANTITY_COUNT];
    sqf_budget_sums(problem, choice, sums);
    bool better = true;
    for (int pass = 0; pass < EXCHANGES && better; pass++) {
        better = false;
        for (size_t p = 0; p < problem->places; p++) {
            better = exchange_at(problem, p, choice, sums) || better;
        }
    }
}

/* The least multiplier with which the second limit holds, and the best choice seen on the way. */
static bool weigh_second(solver *s, size_t *choice, size_t *trial)
{
    const sqf_budget_problem *problem = s->problem;
    double low = 0.0, high = 0.0, best = INFINITY, sums[SQF_QUANTITY_COUNT];
    for (int i = 0; i < MULTIPLIERS; i++) {
        s->multiplier = high == 0.0 ? ldexp(1e-6, 3 * i) : 0.5 * (low + high);
        if (!run(s, trial)) {
            return false;
        }
        sqf_budget_sums(problem, trial, sums);
        if (!within(sums[s->second], problem->limit[s->second])) {
            low = s->multiplier;
            continue;
        }
        high = s->multiplier;
        if (sums[problem->objective] < best) {
            best = sums[problem->objective];
            memcpy(choice, trial, problem->places * sizeof *choice);
        }
    }
    return isfinite(best);
}

/* ---- one call ---- */

static void choose_quantities(solver *s)
{
    const sqf_budget_problem *problem = s->problem;
    s->limited = problem->objective;
    s->second = problem->objective;
    for (int q = 0; q < SQF_QUANTITY_COUNT; q++) {
        if (q != (int)problem->objective && isfinite(problem->limit[q])) {
            if (s->limited == problem->objective) {
                s->limited = (sqf_budget_quantity)q;
            } else {
                s->second = (sqf_budget_quantity)q;
            }
        }
    }
}

/* Units differ by many orders of magnitude (nats, products, bits): ties are weighed by the largest sums. */
static void weigh_ties(solver *s)
{
    const sqf_budget_problem *problem = s->problem;
    double most[SQF_QUANTITY_COUNT] = {0};
    for (size_t p = 0; p < problem->places; p++) {
        double here[SQF_QUANTITY_COUNT] = {0};
        for (size_t i = 0; i < problem->settings; i++) {
            const double *figures = figures_at(problem, p, i);
            for (int q = 0; q < SQF_QUANTITY_COUNT; q++) {
                here[q] = isfinite(figures[q]) ? fmax(here[q], figures[q]) : here[q];
            }
        }
        for (int q = 0; q < SQF_QUANTITY_COUNT; q++) {
            most[q] += here[q];
        }
    }
    const double unit = TIE * most[problem->objective];
    s->tie[SQF_QUANTITY_BITS] = most[SQF_QUANTITY_BITS] > 0.0 ? unit / most[SQF_QUANTITY_BITS] : 0.0;
    s->tie[SQF_QUANTITY_COST] = most[SQF_QUANTITY_COST] > 0.0 ? 1e-3 * unit / most[SQF_QUANTITY_COST] : 0.0;
}

static sqf_status create(solver *s, sqf_error *err)
{
    const sqf_budget_problem *problem = s->problem;
    SQF_TRY(SQF_ALLOC(&s->rest, problem->places + 1, "budget", err));
    SQF_TRY(SQF_ALLOC(&s->kept, problem->places, "budget", err));
    SQF_TRY(SQF_ALLOC(&s->counts, problem->places, "budget", err));
    SQF_TRY(SQF_ALLOC(&s->fresh, STATES * problem->settings, "budget", err));
    for (size_t p = problem->places; p-- > 0;) {
        double least = INFINITY;
        for (size_t i = 0; i < problem->settings; i++) {
            const double *figures = figures_at(problem, p, i);
            least = isfinite(figures[SQF_QUANTITY_LOSS]) ? fmin(least, figures[s->limited]) : least;
        }
        s->rest[p] = s->rest[p + 1] + least;
        SQF_TRY(SQF_ALLOC(&s->kept[p], STATES, "budget", err));
    }
    return SQF_OK;
}

static void clear(solver *s)
{
    for (size_t p = 0; s->kept && p < s->problem->places; p++) {
        free(s->kept[p]);
    }
    free(s->rest);
    free(s->kept);
    free(s->counts);
    free(s->fresh);
}

static sqf_status solve(solver *s, size_t *choice, bool *found, sqf_error *err)
{
    const sqf_budget_problem *problem = s->problem;
    double sums[SQF_QUANTITY_COUNT];
    SQF_TRY(create(s, err));
    *found = run(s, choice);
    if (!*found) {
        return SQF_OK;
    }
    sqf_budget_sums(problem, choice, sums);
    if (s->second != problem->objective && !within(sums[s->second], problem->limit[s->second])) {
        size_t *trial;
        SQF_TRY(SQF_ALLOC(&trial, problem->places, "budget", err));
        *found = weigh_second(s, choice, trial);
        free(trial);
        if (*found) {
            exchange(problem, choice);
        }
    }
    sqf_budget_sums(problem, choice, sums);
    *found = *found && keeps_limits(problem, sums);
    return SQF_OK;
}

sqf_status sqf_budget_solve(const sqf_budget_problem *problem, size_t *choice, bool *found, sqf_error *err)
{
    solver s = {.problem = problem};
    *found = false;
    choose_quantities(&s);
    weigh_ties(&s);
    const sqf_status status = solve(&s, choice, found, err);
    clear(&s);
    return status;
}

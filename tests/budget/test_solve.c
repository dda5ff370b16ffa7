/* The knapsack of the budget: against all choices on small problems, ties, limits that cannot be kept. */
#include "check.h"

#include <math.h>

#include "base/random.h"
#include "budget/candidates.h"
#include "budget/solve.h"

enum { PLACES = 5, SETTINGS = 4, COMBINATIONS = 1024 /* SETTINGS ^ PLACES */, PROBLEMS = 300 };

static double draw(sqf_random *random, unsigned most)
{
    return (double)sqf_random_below(random, most) / 8.0;
}

/* The orders of magnitude of a real model: nats, and products or bits. */
#define UNIT_LOSS 0x1p-10
#define UNIT_COST 0x1p20

static double draw_limit(sqf_random *random, size_t quantity)
{
    return quantity == SQF_QUANTITY_LOSS ? UNIT_LOSS * draw(random, 400) : UNIT_COST * draw(random, 80);
}

/* Few distinct figures, so that ties and sums that meet are common; some settings do not fit their place. */
static void make_problem(sqf_random *random, double figures[PLACES * SETTINGS][SQF_QUANTITY_COUNT],
                         sqf_budget_problem *problem)
{
    for (size_t i = 0; i < PLACES * SETTINGS; i++) {
        const bool fits = i % SETTINGS == 0 || sqf_random_below(random, 8) > 0;
        figures[i][SQF_QUANTITY_LOSS] = fits ? UNIT_LOSS * draw(random, 100) : INFINITY;
        figures[i][SQF_QUANTITY_COST] = UNIT_COST * draw(random, 20);
        figures[i][SQF_QUANTITY_BITS] = UNIT_COST * draw(random, 30);
    }
    *problem = (sqf_budget_problem){.places = PLACES,
                                    .settings = SETTINGS,
                                    .figures = (const double(*)[SQF_QUANTITY_COUNT])figures,
                                    .limit = {INFINITY, INFINITY, INFINITY},
                                    .objective = (sqf_budget_quantity)sqf_random_below(random, SQF_QUANTITY_COUNT)};
}

static bool keeps(const sqf_budget_problem *problem, const double *sums)
{
    bool kept = isfinite(sums[SQF_QUANTITY_LOSS]);
    for (int q = 0; q < SQF_QUANTITY_COUNT; q++) {
        kept = kept && sums[q] <= problem->limit[q] * (1.0 + 1e-9);
    }
    return kept;
}

/* The least objective of all choices; infinite if none keeps the limits. */
static double best_of_all(const sqf_budget_problem *problem)
{
    double best = INFINITY;
    for (size_t number = 0; number < COMBINATIONS; number++) {
        size_t choice[PLACES], rest = number;
        double sums[SQF_QUANTITY_COUNT];
        for (size_t p = 0; p < PLACES; p++, rest /= SETTINGS) {
            choice[p] = rest % SETTINGS;
        }
        sqf_budget_sums(problem, choice, sums);
        if (keeps(problem, sums) && sums[problem->objective] < best) {
            best = sums[problem->objective];
        }
    }
    return best;
}

/* The objective of the solver's choice; infinite if it found none. */
static double solved(const sqf_budget_problem *problem)
{
    sqf_error err = {0};
    size_t choice[PLACES];
    double sums[SQF_QUANTITY_COUNT];
    bool found;
    assert_ok(sqf_budget_solve(problem, choice, &found, &err), &err);
    if (!found) {
        return INFINITY;
    }
    sqf_budget_sums(problem, choice, sums);
    assert_true(keeps(problem, sums));
    return sums[problem->objective];
}

static void test_one_limit_gives_the_best_of_all_choices(void **state)
{
    (void)state;
    sqf_random random = {.state = test_seed("solve", 17)};
    size_t impossible = 0;
    for (int i = 0; i < PROBLEMS; i++) {
        double figures[PLACES * SETTINGS][SQF_QUANTITY_COUNT];
        sqf_budget_problem problem;
        make_problem(&random, figures, &problem);
        const size_t limited = (size_t)(problem.objective + 1 + sqf_random_below(&random, 2)) % SQF_QUANTITY_COUNT;
        problem.limit[limited] = draw_limit(&random, limited);
        const double best = best_of_all(&problem), found = solved(&problem);
        impossible += isinf(best) ? 1 : 0;
        if (isinf(best) != isinf(found) || (!isinf(best) && fabs(best - found) > 1e-9 * best)) {
            fail_msg("problem %d: found %g, the best is %g", i, found, best);
        }
    }
    assert_true(impossible > 0 && impossible < PROBLEMS);
}

static void test_two_limits_are_kept_at_little_loss(void **state)
{
    (void)state;
    sqf_random random = {.state = test_seed("solve", 18)};
    double excess = 0.0;
    size_t solvable = 0, optimal = 0;
    for (int i = 0; i < PROBLEMS; i++) {
        double figures[PLACES * SETTINGS][SQF_QUANTITY_COUNT];
        sqf_budget_problem problem;
        make_problem(&random, figures, &problem);
        for (int q = 0; q < SQF_QUANTITY_COUNT; q++) {
            if (q != (int)problem.objective) {
                problem.limit[q] = draw_limit(&random, (size_t)q);
            }
        }
        const double best = best_of_all(&problem), found = solved(&problem);
        assert_true(found >= best * (1.0 - 1e-9));
        if (!isinf(best) && !isinf(found)) {
            solvable++;
            optimal += found <= best * (1.0 + 1e-9);
            excess += best > 0.0 ? found / best - 1.0 : 0.0;
        }
    }
    print_message("%zu of %zu optimal, %.2f %% above the best on average\n", optimal, solvable,
                  100.0 * excess / (double)solvable);
    assert_true(solvable > 50 && optimal * 10 >= solvable * 8 && excess / (double)solvable < 0.05);
}

/* A limit that is itself the sum of a choice admits it, however the sum is rounded; many places are thinned. */
static void test_many_places_keep_a_limit_exactly(void **state)
{
    (void)state;
    enum { MANY = 200, OPTIONS = 6 };
    static double figures[MANY * OPTIONS][SQF_QUANTITY_COUNT];
    sqf_random random = {.state = test_seed("solve", 19)};
    sqf_error err = {0};
    size_t uniform[MANY], choice[MANY];
    double limit[SQF_QUANTITY_COUNT], sums[SQF_QUANTITY_COUNT];
    bool found;
    for (size_t i = 0; i < MANY * OPTIONS; i++) {
        const double option = (double)(i % OPTIONS), noise = 0.5 + (double)sqf_random_below(&random, 1000) / 1000.0;
        figures[i][SQF_QUANTITY_LOSS] = noise / (1.0 + option);
        figures[i][SQF_QUANTITY_COST] = (0.1 + option / 3.0) * (1.0 + (double)(i / OPTIONS % 7));
        figures[i][SQF_QUANTITY_BITS] = 4.0;
        uniform[i / OPTIONS] = 2;
    }
    sqf_budget_problem problem = {.places = MANY,
                                  .settings = OPTIONS,
                                  .figures = (const double(*)[SQF_QUANTITY_COUNT])figures,
                                  .limit = {INFINITY, INFINITY, INFINITY},
                                  .objective = SQF_QUANTITY_LOSS};
    sqf_budget_sums(&problem, uniform, limit);
    problem.limit[SQF_QUANTITY_COST] = limit[SQF_QUANTITY_COST];
    assert_ok(sqf_budget_solve(&problem, choice, &found, &err), &err);
    assert_true(found);
    sqf_budget_sums(&problem, choice, sums);
    assert_true(sums[SQF_QUANTITY_COST] <= limit[SQF_QUANTITY_COST] * (1 + 1e-11));
    assert_true(sums[SQF_QUANTITY_LOSS] < limit[SQF_QUANTITY_LOSS]);
}

static void test_equal_settings_go_to_the_smaller_model(void **state)
{
    (void)state;
    const double figures[][SQF_QUANTITY_COUNT] = {{1, 1, 8}, {1, 1, 4}, {1, 1, 4}};
    const sqf_budget_problem problem = {
        .places = 1, .settings = 3, .figures = figures, .limit = {INFINITY, INFINITY, INFINITY}};
    sqf_error err = {0};
    size_t choice[1];
    bool found;
    assert_ok(sqf_budget_solve(&problem, choice, &found, &err), &err);
    assert_true(found);
    assert_int_equal(choice[0], 1);
}

/* ---- candidates ---- */

static void test_alternatives_are_written_out(void **state)
{
    (void)state;
    static const char *const expected[] = {"w4a4",
                                           "w4a-sq5 mask=l2 act_scale=token",
                                           "w4a-sq5 mask=l2 act_scale=group",
                                           "w4a-sq6 mask=l2 act_scale=token",
                                           "w4a-sq6 mask=l2 act_scale=group",
                                           "w4a8"};
    sqf_error err = {0};
    sqf_candidates candidates;
    assert_ok(
        sqf_candidates_parse("w4a4 , w4a-sq5|w4a-sq6  mask=l2\tact_scale=token|group,w4a8,w4a4", &candidates, &err),
        &err);
    assert_int_equal(candidates.count, sizeof expected / sizeof *expected);
    for (size_t i = 0; i < candidates.count; i++) {
        assert_string_equal(candidates.text[i], expected[i]);
    }
    sqf_candidates_clear(&candidates);
}

static void test_lists_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    static const char *const lists[] = {"", "w4a4,,w4a8", "w4a4 mask", "w4a4|", "w4a8 mask=", "w4a8 mask=l2||l1"};
    sqf_error err;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        sqf_candidates candidates;
        assert_fails(sqf_candidates_parse(lists[i], &candidates, &err), SQF_E_ARG, &err, "candidate");
        sqf_candidates_clear(&candidates);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_limit_gives_the_best_of_all_choices),
        cmocka_unit_test(test_two_limits_are_kept_at_little_loss),
        cmocka_unit_test(test_many_places_keep_a_limit_exactly),
        cmocka_unit_test(test_equal_settings_go_to_the_smaller_model),
        cmocka_unit_test(test_alternatives_are_written_out),
        cmocka_unit_test(test_lists_that_make_no_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The automatic budget from beginning to end, on a small model: targets, the recipe that repeats it, what is measured
 * once and what is refused. */
#include "ptq/small.h"

#include <math.h>

#include <sqf/budget.h>

static const char candidates[] = "w8a8, w4a8, w4a-sq6 mask=l2 quota=equal, w4a4 act_scale=token|group act_group=16";

/* A model of its own for each test, and what it asks for. */
typedef struct trial {
    small s;
    sqf_budget_options wishes;
} trial;

static int set_up(void **state)
{
    static trial t;
    small_llama(&t.s);
    t.wishes = sqf_budget_options_default();
    t.wishes.candidates = candidates;
    t.wishes.windows = 3;
    *state = &t;
    return 0;
}

static int tear_down(void **state)
{
    trial *t = *state;
    small_remove(&t->s);
    return 0;
}

static sqf_status choose(const trial *t, const char *output, const char *yaml, sqf_budget **budget, sqf_error *err)
{
    const small *s = &t->s;
    const sqf_quantize_options options = small_options(s);
    sqf_recipe *recipe;
    must(sqf_recipe_parse(yaml, strlen(yaml), "recipe", &recipe, err), err);
    const sqf_status status =
        sqf_quantize_budget(s->context, s->model.path, output, recipe, &options, &t->wishes, NULL, budget, err);
    sqf_recipe_destroy(recipe);
    return status;
}

static bool same_file(const char *a, const char *b, const char *name)
{
    char command[512];
    snprintf(command, sizeof command, "cmp -s '%s/%s' '%s/%s'", a, name, b, name);
    return system(command) == 0;
}

static void test_a_target_of_speed_is_kept_exactly(void **state)
{
    trial *t = *state;
    sqf_error err = {0};
    sqf_budget *budget;
    t->wishes.cost_like = "W4A(SQ6)";
    assert_ok(choose(t, t->s.output, "scheme: w4a8", &budget, &err), &err);
    const sqf_budget_summary summary = sqf_budget_summary_get(budget);
    double cost = 0.0, share = 0.0, loss = 0.0, worst = 0.0;
    for (size_t i = 0; i < sqf_budget_count(budget); i++) {
        const sqf_budget_choice choice = sqf_budget_at(budget, i);
        cost += choice.share * choice.chosen.cost;
        share += choice.share;
        loss += choice.chosen.loss;
        worst = fmax(worst, choice.chosen.loss);
        assert_true(!choice.better.setting || choice.better.loss < choice.chosen.loss);
        assert_true(!choice.cheaper.setting || choice.cheaper.cost <= choice.chosen.cost);
    }
    assert_int_equal(sqf_budget_count(budget), 12);
    assert_true(fabs(share - 1.0) < 1e-9 && fabs(cost - summary.cost) < 1e-9);
    assert_true(summary.rounds == 1 && summary.measured == 12 * 5);
    assert_true(isfinite(summary.loss) && loss > 0.0 && worst < 10.0);
    sqf_budget_destroy(budget);
}

/* recipe.yaml with the same options makes the same tensors; threads change nothing; a second run measures nothing. */
static void test_the_recipe_and_the_measurements_repeat(void **state)
{
    trial *t = *state;
    sqf_error err = {0};
    sqf_budget *first, *second;
    sqf_quantize_options options;
    sqf_recipe *recipe;
    char again[96], path[128];
    snprintf(again, sizeof again, "%s/again", t->s.scratch);
    t->wishes.speed = 1.2;
    assert_ok(choose(t, t->s.output, "scheme: w4a8\nclip: mse", &first, &err), &err);
    small_context(&t->s, 1);
    assert_ok(choose(t, again, "scheme: w4a8\nclip: mse", &second, &err), &err);
    assert_true(same_file(t->s.output, again, "model.safetensors") && same_file(t->s.output, again, "budget.json"));
    sqf_budget_destroy(second);

    snprintf(path, sizeof path, "%s/budget.json", t->s.output);
    t->wishes.sensitivity = path;
    assert_ok(choose(t, again, "scheme: w4a8\nclip: mse", &second, &err), &err);
    assert_int_equal(sqf_budget_summary_get(second).measured, 0);
    assert_true(same_file(t->s.output, again, "model.safetensors"));
    assert_fails(choose(t, again, "scheme: w4a8\nclip: absmax", NULL, &err), SQF_E_ARG, &err, "another");

    snprintf(path, sizeof path, "%s/recipe.yaml", t->s.output);
    options = small_options(&t->s);
    options.tokens = 1500 - 1500 / 4; /* a token is a byte here, and the last quarter is held out */
    assert_ok(sqf_recipe_load(path, &recipe, &err), &err);
    assert_ok(sqf_quantize(t->s.context, t->s.model.path, again, recipe, &options, NULL, &err), &err);
    assert_true(same_file(t->s.output, again, "model.safetensors") && same_file(t->s.output, again, "config.json"));
    sqf_recipe_destroy(recipe);
    sqf_budget_destroy(first);
    sqf_budget_destroy(second);
}

static void test_slopes_stand_for_measurements(void **state)
{
    trial *t = *state;
    sqf_error err = {0};
    sqf_budget *budget;
    t->wishes.measure = SQF_BUDGET_MEASURE_SLOPE;
    t->wishes.speed = 1.2;
    assert_ok(choose(t, t->s.output, "scheme: w4a8", &budget, &err), &err);
    for (size_t i = 0; i < sqf_budget_count(budget); i++) {
        const sqf_budget_choice choice = sqf_budget_at(budget, i);
        assert_true(choice.chosen.loss > 0.0 && isfinite(choice.chosen.loss));
    }
    sqf_budget_destroy(budget);
}

/* The rest of the model must stand in the basis of the layer at work: else eight bits would lose all there is. */
static void test_rotated_models_are_measured_in_their_basis(void **state)
{
    trial *t = *state;
    sqf_error err = {0};
    sqf_budget *plain, *rotated;
    t->wishes.candidates = "w8a8, w4a4";
    t->wishes.cost = 100.0;
    assert_ok(choose(t, t->s.output, "scheme: w4a8", &plain, &err), &err);
    assert_ok(choose(t, t->s.output, "scheme: w4a8\nrotate: random", &rotated, &err), &err);
    for (size_t i = 0; i < sqf_budget_count(rotated); i++) {
        const sqf_budget_choice a = sqf_budget_at(plain, i), b = sqf_budget_at(rotated, i);
        assert_string_equal(b.chosen.setting, "w8a8");
        assert_true(b.chosen.loss < 0.1 * b.cheaper.loss && b.chosen.loss < 10.0 * a.chosen.loss);
    }
    sqf_budget_destroy(plain);
    sqf_budget_destroy(rotated);
}

static void test_ignored_modules_count_and_stay(void **state)
{
    trial *t = *state;
    sqf_error err = {0};
    sqf_budget *budget;
    t->wishes.bits = 9.0;
    assert_ok(choose(t, t->s.output,
                     "scheme: w4a8\nsmooth: off\nignore:\n  - 're:.*layers\\.1\\..*'\n  - 're:.*k_proj'", &budget,
                     &err),
              &err);
    assert_int_equal(sqf_budget_count(budget), 8);
    assert_true(sqf_budget_summary_get(budget).bits <= 9.0);
    sqf_budget_destroy(budget);
}

static void test_what_cannot_be_done_is_refused_in_one_line(void **state)
{
    trial *t = *state;
    sqf_error err;
    assert_fails(choose(t, t->s.output, "scheme: w4a8", NULL, &err), SQF_E_ARG, &err, "found none");
    t->wishes.speed = 9.0;
    assert_fails(choose(t, t->s.output, "scheme: w4a8", NULL, &err), SQF_E_ARG, &err, "expected at most");
    t->wishes.speed = NAN;
    t->wishes.bits = 2.0;
    assert_fails(choose(t, t->s.output, "scheme: w4a8", NULL, &err), SQF_E_ARG, &err, "expected at least");
    t->wishes.bits = -1.0;
    assert_fails(choose(t, t->s.output, "scheme: w4a8", NULL, &err), SQF_E_ARG, &err, "above 0");
    t->wishes.bits = 8.0;
    t->wishes.candidates = "w4a8, w4a9";
    assert_fails(choose(t, t->s.output, "scheme: w4a8", NULL, &err), SQF_E_ARG, &err, "candidate 'w4a9'");
    t->wishes.candidates = "w4a8 bnak=3";
    assert_fails(choose(t, t->s.output, "scheme: w4a8", NULL, &err), SQF_E_ARG, &err, "bnak");
    t->wishes.candidates = candidates;
    assert_fails(choose(t, t->s.output, "scheme: w4a8\nignore:\n  - 're:.*'", NULL, &err), SQF_E_ARG, &err,
                 "ignores every");
    t->wishes.text = t->s.text;
    t->wishes.sensitivity = t->s.text;
    assert_fails(choose(t, t->s.output, "scheme: w4a8", NULL, &err), SQF_E_FORMAT, &err, "calib.txt");
    assert_int_not_equal(access(t->s.output, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_target_of_speed_is_kept_exactly, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_recipe_and_the_measurements_repeat, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_slopes_stand_for_measurements, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_rotated_models_are_measured_in_their_basis, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_ignored_modules_count_and_stay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_done_is_refused_in_one_line, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

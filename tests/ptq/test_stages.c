/* The stopwatch of stages and the time left, with clocks that the tests move. */
#include <math.h>

#include "check.h"
#include "ptq/stages.h"

static double wall_now, cpu_now;

static double fake_wall(void)
{
    return wall_now;
}

static double fake_cpu(void)
{
    return cpu_now;
}

/* Some work in one stage: `seconds` by the clock on two processors. */
static void spend(sqf_stages *stages, sqf_stage stage, double seconds, double work)
{
    sqf_stages_begin(stages, stage);
    wall_now += seconds;
    cpu_now += 2.0 * seconds;
    sqf_stages_end(stages, work);
}

static bool is_close(double found, double expected, double tolerance)
{
    return fabs(found - expected) <= tolerance * expected;
}

static void test_time_counts_for_the_innermost_stage(void **state)
{
    (void)state;
    sqf_stages stages;
    wall_now = cpu_now = 100.0;
    sqf_stages_start(&stages, fake_wall, fake_cpu);
    wall_now += 1.0;
    sqf_stages_begin(&stages, SQF_STAGE_FORWARD);
    wall_now += 2.0;
    spend(&stages, SQF_STAGE_HESSIAN, 4.0, 40.0);
    wall_now += 8.0;
    sqf_stages_end(&stages, 80.0);
    wall_now += 16.0;
    spend(&stages, SQF_STAGE_HESSIAN, 32.0, 2.0);
    assert_true(is_close(stages.stage[SQF_STAGE_FORWARD].seconds, 10.0, 1e-12));
    assert_true(is_close(stages.stage[SQF_STAGE_HESSIAN].seconds, 36.0, 1e-12));
    assert_true(is_close(stages.stage[SQF_STAGE_HESSIAN].cpu_seconds, 72.0, 1e-12));
    assert_true(is_close(stages.stage[SQF_STAGE_OTHER].seconds, 17.0, 1e-12));
    assert_true(stages.stage[SQF_STAGE_HESSIAN].work == 42.0 && stages.stage[SQF_STAGE_FORWARD].work == 80.0);
}

static void test_without_a_start_nothing_is_counted(void **state)
{
    (void)state;
    sqf_stages stages = {0};
    sqf_stages_begin(&stages, SQF_STAGE_LOAD);
    sqf_stages_end(&stages, 1.0);
    assert_true(stages.stage[SQF_STAGE_LOAD].work == 0.0 && sqf_stages_left(&stages) < 0.0);
}

/* One layer whose stages run at speeds far from the usual ones. */
static void run_layer(sqf_stages *stages, double size, double noise)
{
    spend(stages, SQF_STAGE_LOAD, 0.5 * size * noise, 1e6 * size);
    spend(stages, SQF_STAGE_FORWARD, 20.0 * size / noise, 1e12 * size);
    spend(stages, SQF_STAGE_FACTOR, 7.0 * noise, 3e9);
    spend(stages, SQF_STAGE_QUANTIZE, 9.0 * size / noise, 2e11 * size);
    spend(stages, SQF_STAGE_REFORWARD, 3.0 * size * noise, 1e12 * size);
}

static void expect_layer(sqf_stages *stages, double size)
{
    sqf_stages_expect(stages, SQF_STAGE_LOAD, 1e6 * size);
    sqf_stages_expect(stages, SQF_STAGE_FORWARD, 1e12 * size);
    sqf_stages_expect(stages, SQF_STAGE_FACTOR, 3e9);
    sqf_stages_expect(stages, SQF_STAGE_QUANTIZE, 2e11 * size);
    sqf_stages_expect(stages, SQF_STAGE_REFORWARD, 1e12 * size);
}

/* Layers of sizes 1 to 8 and 10 % of noise: after the first layer every prediction is within 20 %. A share of the steps
 * would be off by more than half. */
static void test_time_left_is_right_after_the_first_layer(void **state)
{
    (void)state;
    enum { LAYERS = 16 };
    double at[LAYERS], left[LAYERS], cpu_left[LAYERS];
    sqf_stages stages;
    wall_now = cpu_now = 0.0;
    sqf_stages_start(&stages, fake_wall, fake_cpu);
    assert_true(sqf_stages_left(&stages) < 0.0);
    for (int layer = 0; layer < LAYERS; layer++) {
        expect_layer(&stages, 1.0 + (double)(layer / 2));
    }
    for (int layer = 0; layer < LAYERS; layer++) {
        run_layer(&stages, 1.0 + (double)(layer / 2), layer % 2 == 0 ? 1.1 : 1.0 / 1.1);
        at[layer] = wall_now;
        left[layer] = sqf_stages_left(&stages);
        cpu_left[layer] = sqf_stages_cpu_left(&stages);
        assert_true(is_close(sqf_stages_cpu_spent(&stages), cpu_now, 1e-9));
    }
    for (int layer = 0; layer + 1 < LAYERS; layer++) {
        assert_true(is_close(left[layer], wall_now - at[layer], 0.2));
        assert_true(is_close(cpu_left[layer], 2.0 * (wall_now - at[layer]), 0.2));
    }
    assert_true(left[LAYERS - 1] == 0.0);
}

/* Before a stage has run it is scaled like those that have. */
static void test_a_stage_to_come_is_scaled_like_the_others(void **state)
{
    (void)state;
    sqf_stages stages[2];
    double left[2];
    for (int slow = 0; slow < 2; slow++) {
        wall_now = cpu_now = 0.0;
        sqf_stages_start(&stages[slow], fake_wall, fake_cpu);
        sqf_stages_expect(&stages[slow], SQF_STAGE_FORWARD, 1e12);
        sqf_stages_expect(&stages[slow], SQF_STAGE_QUANTIZE, 1e12);
        spend(&stages[slow], SQF_STAGE_FORWARD, slow ? 30.0 : 3.0, 1e12);
        left[slow] = sqf_stages_left(&stages[slow]);
    }
    assert_true(left[0] > 0.0 && is_close(left[1], 10.0 * left[0], 1e-9));
}

/* More work than was announced is no negative time. */
static void test_work_beyond_the_announced_takes_no_time_back(void **state)
{
    (void)state;
    sqf_stages stages;
    wall_now = cpu_now = 0.0;
    sqf_stages_start(&stages, fake_wall, fake_cpu);
    sqf_stages_expect(&stages, SQF_STAGE_FORWARD, 10.0);
    sqf_stages_expect(&stages, SQF_STAGE_LOAD, 4.0);
    spend(&stages, SQF_STAGE_FORWARD, 1.0, 1000.0);
    spend(&stages, SQF_STAGE_LOAD, 2.0, 2.0);
    assert_true(is_close(sqf_stages_left(&stages), 2.0, 1e-9));
}

static void test_stages_have_names(void **state)
{
    (void)state;
    for (int s = 0; s < SQF_STAGE_COUNT; s++) {
        assert_string_not_equal(sqf_stage_name((sqf_stage)s), "unknown");
    }
    assert_string_equal(sqf_stage_name(SQF_STAGE_COUNT), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_time_counts_for_the_innermost_stage),
        cmocka_unit_test(test_without_a_start_nothing_is_counted),
        cmocka_unit_test(test_time_left_is_right_after_the_first_layer),
        cmocka_unit_test(test_a_stage_to_come_is_scaled_like_the_others),
        cmocka_unit_test(test_work_beyond_the_announced_takes_no_time_back),
        cmocka_unit_test(test_stages_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Scales of a group: absmax, least squared error, tied. */
#include <math.h>

#include "random_matrix.h"

enum { N = 48 };

typedef struct group {
    float x[N], weight[N];
    uint8_t mask[N];
} group;

static void random_group(sqf_random *random, group *g)
{
    const float low = (float)exp2(-12.0 * sqf_random_unit(random)), high = (float)exp2(-12.0 * sqf_random_unit(random));
    const bool no_low = sqf_random_below(random, 20) == 0, no_high = sqf_random_below(random, 20) == 0;
    for (size_t i = 0; i < N; i++) {
        g->mask[i] = (uint8_t)sqf_random_below(random, 2);
        g->x[i] = (float)(sqf_random_unit(random) * 2 - 1) * (g->mask[i] ? high : low);
        g->x[i] = (g->mask[i] ? no_high : no_low) ? 0.0f : g->x[i];
        g->weight[i] = (float)sqf_random_unit(random);
    }
}

static float part_max(const group *g, uint8_t part)
{
    float max = 0;
    for (size_t i = 0; i < N; i++) {
        max = g->mask[i] == part ? fmaxf(max, fabsf(g->x[i])) : max;
    }
    return max;
}

static double part_error(const group *g, uint8_t part, sqf_type type, float scale)
{
    double sum = 0;
    for (size_t i = 0; i < N; i++) {
        const double d = (double)g->x[i] - (double)sqf_type_round(type, g->x[i], scale) * (double)scale;
        sum += g->mask[i] == part ? (double)g->weight[i] * d * d : 0;
    }
    return sum;
}

static void test_absmax_scales_are_maxima_divided_by_the_largest_value(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 11)};
    for (int i = 0; i < 2000; i++) {
        group g;
        random_group(&random, &g);
        sqf_weight_spec spec = random_weights(&random, 8);
        spec.scales = SQF_SCALES_FREE;
        const sqf_group_scales s = sqf_group_scales_choose(&spec, g.x, g.mask, NULL, N, false);
        const sqf_type types[2] = {spec.low, spec.high};
        const float found[2] = {s.low, s.high};
        for (uint8_t part = 0; part < 2; part++) {
            const sqf_type t = types[part];
            const float max = part_max(&g, part), quotient = max / sqf_type_max(t);
            const float power = exp2f(floorf(log2f(max)) - floorf(log2f(sqf_type_max(t))));
            const float expected = t == SQF_TYPE_NONE       ? 0.0f
                                   : !sqf_type_has_scale(t) ? 1.0f
                                   : spec.scale_type == SQF_TYPE_E8M0 && max
                                       ? power
                                       : sqf_scale_round(spec.scale_type, quotient);
            assert_true(found[part] == expected);
        }
        assert_int_equal(s.shift, 0);
    }
}

static void test_without_a_mask_all_elements_are_low(void **state)
{
    (void)state;
    const sqf_weight_spec spec = {.low = SQF_TYPE_INT4, .scale_type = SQF_TYPE_FP32};
    const float x[3] = {0.5f, -1.75f, 1.0f};
    const sqf_group_scales s = sqf_group_scales_choose(&spec, x, NULL, NULL, 3, false);
    assert_true(s.low == 0.25f && s.high == 0.0f);
}

static void test_the_search_finds_the_least_weighted_error_of_the_51_factors(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 12)};
    size_t smaller = 0;
    for (int i = 0; i < 300; i++) {
        group g;
        random_group(&random, &g);
        const sqf_weight_spec spec = {
            .low = SQF_TYPE_INT3, .high = SQF_TYPE_FP4, .bank = 1, .scale_type = SQF_TYPE_FP16};
        const sqf_group_scales s = sqf_group_scales_choose(&spec, g.x, g.mask, g.weight, N, true);
        const sqf_group_scales start = sqf_group_scales_choose(&spec, g.x, g.mask, g.weight, N, false);
        for (int f = 100; f >= 50; f--) {
            const float low = sqf_scale_round(SQF_TYPE_FP16, part_max(&g, 0) * (float)f / 100.0f / 3.0f);
            const float high = sqf_scale_round(SQF_TYPE_FP16, part_max(&g, 1) * (float)f / 100.0f / 6.0f);
            assert_true(part_error(&g, 0, spec.low, s.low) <= part_error(&g, 0, spec.low, low));
            assert_true(part_error(&g, 1, spec.high, s.high) <= part_error(&g, 1, spec.high, high));
        }
        smaller += s.low < start.low;
    }
    assert_true(smaller > 100); /* else the search found nothing to do and this test nothing to check */
}

static void test_ties_of_the_search_go_to_the_larger_factor(void **state)
{
    (void)state;
    const float x[3] = {0.7f, -0.2f, 5.0f}, weight[3] = {0, 0, 0}; /* every factor has the error 0 */
    const uint8_t mask[3] = {0, 0, 1};
    for (int scales = 0; scales < 2; scales++) {
        const sqf_weight_spec spec = {.low = SQF_TYPE_INT4,
                                      .high = SQF_TYPE_INT8,
                                      .bank = 1,
                                      .scale_type = SQF_TYPE_FP32,
                                      .scales = (sqf_scales)scales};
        const sqf_group_scales s = sqf_group_scales_choose(&spec, x, mask, weight, 3, true);
        assert_true(s.low == 0.7f / 7.0f);
    }
}

/* n by the formula of docs/format.md section 3, with logarithms; near whole values either side is right. */
static void check_shift(float low, float high_max, int qmax_high, int qmax_low, int shift)
{
    const double exact = log2((double)qmax_high * (double)low / (double)high_max);
    const int limit = (int)floor(log2((double)qmax_high / qmax_low));
    const int below = (int)fmax(0, fmin(limit, floor(exact - 1e-9))),
              above = (int)fmax(0, fmin(limit, floor(exact + 1e-9)));
    assert_true(shift == below || shift == above);
}

static void test_tied_scales_follow_the_formula_and_fit_one_grid(void **state)
{
    (void)state;
    static const sqf_type pairs[][2] = {{SQF_TYPE_INT4, SQF_TYPE_INT8},
                                        {SQF_TYPE_INT2, SQF_TYPE_INT8},
                                        {SQF_TYPE_INT2, SQF_TYPE_INT4},
                                        {SQF_TYPE_INT5, SQF_TYPE_INT6}};
    sqf_random random = {test_seed(__func__, 13)};
    size_t seen[8] = {0};
    for (int i = 0; i < 4000; i++) {
        group g;
        random_group(&random, &g);
        const sqf_weight_spec spec = {.low = pairs[i % 4][0],
                                      .high = pairs[i % 4][1],
                                      .bank = 1,
                                      .scale_type = SQF_TYPE_FP16,
                                      .scales = SQF_SCALES_TIED};
        const sqf_group_scales s = sqf_group_scales_choose(&spec, g.x, g.mask, g.weight, N, i % 8 > 3);
        const int qmax_low = (int)sqf_type_max(spec.low), qmax_high = (int)sqf_type_max(spec.high);
        const float high_max = part_max(&g, 1), low_max = part_max(&g, 0);
        seen[s.shift]++;
        assert_true(s.shift <= sqf_shift_max(&spec) && qmax_low << s.shift <= qmax_high);
        assert_true(s.high == ldexpf(s.low, -s.shift));
        if (s.low == 0.0f) {
            assert_true(low_max == 0.0f && high_max == 0.0f && s.shift == 0);
        } else if (high_max > 0.0f) {
            check_shift(s.low, high_max, qmax_high, qmax_low, s.shift);
            /* The largest high element is not clipped, but for the rounding of a normal fp16 scale. */
            assert_true((double)qmax_high * (double)s.high >= (double)high_max * (1 - 0x1p-10) || s.low < 0x1p-14f);
        }
        if (i % 8 <= 3) {
            const float free_low = sqf_scale_round(SQF_TYPE_FP16, low_max / (float)qmax_low);
            const float raised = sqf_scale_round(SQF_TYPE_FP16, high_max / (float)qmax_high);
            assert_true(s.low == (free_low < high_max / (float)qmax_high ? raised : free_low));
        }
    }
    for (int n = 0; n <= 6; n++) {
        assert_true(seen[n] > 0);
    }
}

static void test_types_that_cannot_be_tied_have_no_shift(void **state)
{
    (void)state;
    sqf_weight_spec spec = {.low = SQF_TYPE_FP4, .high = SQF_TYPE_INT8};
    assert_int_equal(sqf_shift_max(&spec), -1);
    spec = (sqf_weight_spec){.low = SQF_TYPE_NONE, .high = SQF_TYPE_INT8};
    assert_int_equal(sqf_shift_max(&spec), -1);
    spec = (sqf_weight_spec){.low = SQF_TYPE_INT4, .high = SQF_TYPE_INT8};
    assert_int_equal(sqf_shift_max(&spec), 4);
    spec.low = SQF_TYPE_INT8;
    assert_int_equal(sqf_shift_max(&spec), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absmax_scales_are_maxima_divided_by_the_largest_value),
        cmocka_unit_test(test_without_a_mask_all_elements_are_low),
        cmocka_unit_test(test_the_search_finds_the_least_weighted_error_of_the_51_factors),
        cmocka_unit_test(test_ties_of_the_search_go_to_the_larger_factor),
        cmocka_unit_test(test_tied_scales_follow_the_formula_and_fit_one_grid),
        cmocka_unit_test(test_types_that_cannot_be_tied_have_no_shift),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

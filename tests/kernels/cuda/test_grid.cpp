/* Grids and scales of the device beside the library's: every type, at random and at the edges, bit for bit. */
#include <math.h>

extern "C" {
#include "base/random.h"
#include "format/type.h"
}

#include "emulated.hpp"

extern "C" {
#include <cmocka.h>
}

#include "kernels/cuda/input/grid.h"

static uint64_t seed;

static bool same(float a, float b)
{
    return grid_bits(a) == grid_bits(b) || (isnan(a) && isnan(b));
}

/* Any finite float, subnormal ones as well; half of them within a few powers of two of 1. */
static float random_float(sqf_random *random)
{
    const uint32_t bits = (uint32_t)sqf_random_u64(random);
    const uint32_t exponent = sqf_random_below(random, 2) ? 118 + (bits >> 8) % 20 : (bits >> 8) % 255;
    return grid_float((bits & 0x807fffffu) | exponent << 23);
}

static void check_round(sqf_type type, float x, float scale)
{
    const float want = sqf_type_round(type, x, scale), found = grid_round(grid_make(type), x, scale);
    if (!same(want, found)) {
        fail_msg("type %d: %.9g / %.9g: %.9g, expected %.9g", (int)type, (double)x, (double)scale, (double)found,
                 (double)want);
    }
}

static const sqf_type TYPES[] = {SQF_TYPE_INT2, SQF_TYPE_INT3, SQF_TYPE_INT4,     SQF_TYPE_INT5,     SQF_TYPE_INT6,
                                 SQF_TYPE_INT8, SQF_TYPE_FP4,  SQF_TYPE_FP6,      SQF_TYPE_FP6_E3M2, SQF_TYPE_FP8,
                                 SQF_TYPE_FP16, SQF_TYPE_BF16, SQF_TYPE_FP8_E5M2, SQF_TYPE_FP32};
static const sqf_type SCALES[] = {SQF_TYPE_FP16, SQF_TYPE_BF16, SQF_TYPE_FP32, SQF_TYPE_FP8, SQF_TYPE_E8M0};

static void test_types(void **)
{
    sqf_random random = {seed};
    for (sqf_type type : TYPES) {
        assert_true(grid_has_scale(grid_make(type)) == sqf_type_has_scale(type));
        assert_true(type == SQF_TYPE_FP32 || same(grid_make(type).limit, sqf_type_limits[type]));
        for (int i = 0; i < 100000; i++) {
            const float scale = i % 50 == 0 ? 0.0f : fabsf(random_float(&random));
            check_round(type, random_float(&random), scale);
        }
        for (int i = -4096; i <= 4096; i++) { /* half way between the values of every grid, and next to that */
            const float x = (float)i / 64.0f;
            check_round(type, x, 1.0f);
            check_round(type, x * 1024.0f, 1.0f);
            check_round(type, x * 0x1p-12f, 1.0f);
            check_round(type, nextafterf(x, 1e9f), 1.0f);
            check_round(type, nextafterf(x, -1e9f), 1.0f);
        }
    }
}

static void test_halves(void **)
{
    sqf_random random = {seed + 1};
    for (uint32_t half = 0; half < 65536; half++) {
        const float value = sqf_fp16_to_float((uint16_t)half);
        assert_true(same(grid_from_fp16((uint16_t)half), value));
        assert_int_equal(grid_to_fp16(value), sqf_fp16_from_float(value));
        /* half way to the next, and the floats beside it */
        const uint32_t bits = grid_bits(value) + 0x1000u;
        for (uint32_t near = bits - 1; near <= bits + 1; near++) {
            assert_int_equal(grid_to_fp16(grid_float(near)), sqf_fp16_from_float(grid_float(near)));
        }
        const uint32_t middle = half << 16 | 0x8000u;
        for (uint32_t near = middle - 1; near <= middle + 1; near++) {
            assert_true(same(grid_bf16(grid_float(near)), sqf_bf16_to_float(sqf_bf16_from_float(grid_float(near)))));
        }
    }
    for (int i = 0; i < 100000; i++) {
        const float x = random_float(&random);
        assert_int_equal(grid_to_fp16(x), sqf_fp16_from_float(x));
    }
}

static void test_scales(void **)
{
    sqf_random random = {seed + 2};
    for (sqf_type scale_type : SCALES) {
        for (int i = 0; i < 100000; i++) {
            const float x = i % 100 == 0 ? 0.0f : fabsf(random_float(&random));
            assert_true(same(grid_scale_round(scale_type, x), sqf_scale_round(scale_type, x)));
        }
        for (sqf_type type : TYPES) {
            for (int i = 0; i < 10000 && sqf_type_has_scale(type); i++) {
                const float max = i % 100 == 0 ? 0.0f : fabsf(random_float(&random));
                const float unit = sqf_scale_unit(scale_type, type, max * (float)(1 + i % 7));
                assert_true(same(grid_scale_for_max(scale_type, grid_make(type), max, unit),
                                 sqf_scale_for_max(scale_type, type, max, unit)));
            }
        }
    }
}

int main(void)
{
    seed = test_seed("grid", 21);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

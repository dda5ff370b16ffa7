/* Element types: every code of every type, rounding against brute force, half floats against double arithmetic. */
#include <math.h>

#include "base/random.h"
#include "check.h"
#include "format/type.h"

static const sqf_type coded[] = {SQF_TYPE_INT2, SQF_TYPE_INT3,     SQF_TYPE_INT4,    SQF_TYPE_INT5,
                                 SQF_TYPE_INT6, SQF_TYPE_INT8,     SQF_TYPE_FP4,     SQF_TYPE_FP8,
                                 SQF_TYPE_FP6,  SQF_TYPE_FP6_E3M2, SQF_TYPE_FP8_E5M2};
enum { CODED = sizeof coded / sizeof *coded };

static void test_names_bits_and_limits(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        unsigned bits;
        float max;
    } expected[SQF_TYPE_COUNT] = {{"none", 0, 0},   {"int2", 2, 1},     {"int3", 3, 3},        {"int4", 4, 7},
                                  {"int5", 5, 15},  {"int6", 6, 31},    {"int8", 8, 127},      {"fp4", 4, 6},
                                  {"fp8", 8, 448},  {"fp16", 16, 0},    {"bf16", 16, 0},       {"fp32", 32, 0},
                                  {"fp6", 6, 7.5f}, {"fp6e3m2", 6, 28}, {"fp8e5m2", 8, 57344}, {"e8m0", 8, 0}};
    for (int i = 0; i < SQF_TYPE_COUNT; i++) {
        sqf_type parsed;
        assert_string_equal(sqf_type_name((sqf_type)i), expected[i].name);
        assert_int_equal(sqf_type_bits((sqf_type)i), expected[i].bits);
        assert_true(sqf_type_max((sqf_type)i) == expected[i].max);
        assert_true(sqf_type_parse(expected[i].name, &parsed) && parsed == (sqf_type)i);
    }
    assert_true(sqf_type_is_integer(SQF_TYPE_FP4) && sqf_type_is_integer(SQF_TYPE_INT8));
    assert_false(sqf_type_is_integer(SQF_TYPE_FP8) || sqf_type_is_integer(SQF_TYPE_NONE));
    sqf_type type;
    assert_true(sqf_type_parse("INT4", &type) && type == SQF_TYPE_INT4);
    assert_false(sqf_type_parse("int7", &type));
    assert_string_equal(sqf_type_name((sqf_type)99), "unknown");
    assert_int_equal(sqf_type_bits((sqf_type)99), 0);
    assert_int_equal(sqf_type_storage_bytes((sqf_type)99), 0);
    assert_string_equal(sqf_type_dtype((sqf_type)99), "U8");
    assert_string_equal(sqf_type_dtype(SQF_TYPE_FP8), "F8_E4M3");
}

/* The value of a code by the definitions of docs/format.md section 3; NAN where there is none. */
static double defined_value(sqf_type type, uint32_t code)
{
    static const double fp4[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    if (type == SQF_TYPE_FP4) {
        return code == 8 ? NAN : code & 8 ? -fp4[code & 7] : fp4[code & 7];
    }
    if (type == SQF_TYPE_FP8) {
        const int exponent = code >> 3 & 15, fraction = code & 7;
        const double magnitude = exponent ? ldexp(1 + fraction / 8.0, exponent - 7) : ldexp(fraction / 8.0, -6);
        return (code & 127) == 127 || code == 128 ? NAN : code & 128 ? -magnitude : magnitude;
    }
    if (type == SQF_TYPE_FP6) {
        const int exponent = code >> 3 & 3, fraction = code & 7;
        const double magnitude = exponent ? ldexp(1 + fraction / 8.0, exponent - 1) : fraction / 8.0;
        return code == 32 ? NAN : code & 32 ? -magnitude : magnitude;
    }
    if (type == SQF_TYPE_FP6_E3M2) {
        const int exponent = code >> 2 & 7, fraction = code & 3;
        const double magnitude = exponent ? ldexp(1 + fraction / 4.0, exponent - 3) : ldexp(fraction / 4.0, -2);
        return code == 32 ? NAN : code & 32 ? -magnitude : magnitude;
    }
    if (type == SQF_TYPE_FP8_E5M2) {
        const int exponent = code >> 2 & 31, fraction = code & 3;
        const double magnitude = exponent ? ldexp(1 + fraction / 4.0, exponent - 15) : ldexp(fraction / 4.0, -14);
        return exponent == 31 || code == 128 ? NAN : code & 128 ? -magnitude : magnitude;
    }
    const double qmax = (double)sqf_type_max(type);
    return code > 2 * qmax ? NAN : code - qmax;
}

static void test_every_code_decodes_as_defined_and_encodes_back(void **state)
{
    (void)state;
    for (int t = 0; t < CODED; t++) {
        const sqf_type type = coded[t];
        for (uint32_t code = 0; code < 1u << sqf_type_bits(type); code++) {
            const double value = defined_value(type, code);
            assert_int_equal(sqf_type_code_valid(type, code), !isnan(value));
            if (!isnan(value)) {
                assert_true((double)sqf_type_decode(type, code) == value);
                assert_int_equal(sqf_type_encode(type, (float)value), code);
            }
        }
        assert_false(sqf_type_code_valid(type, sqf_type_sentinel(type)));
        assert_false(sqf_type_code_valid(type, 1u << sqf_type_bits(type)));
        assert_int_equal(sqf_type_encode(type, -0.0f), sqf_type_encode(type, 0.0f));
    }
    assert_int_equal(sqf_type_sentinel(SQF_TYPE_INT4), 15);
    assert_int_equal(sqf_type_sentinel(SQF_TYPE_INT8), 255);
    assert_int_equal(sqf_type_sentinel(SQF_TYPE_INT3), 7);
    assert_int_equal(sqf_type_sentinel(SQF_TYPE_FP4), 8);
    assert_int_equal(sqf_type_sentinel(SQF_TYPE_FP8), 255);
    assert_true(isnan(sqf_type_decode(SQF_TYPE_FP8, 255)));
    assert_false(sqf_type_code_valid(SQF_TYPE_FP32, 0));
    assert_true(sqf_type_decode(SQF_TYPE_NONE, 1) == 0.0f && sqf_type_encode(SQF_TYPE_NONE, 1.0f) == 0);
}

/* The grid value nearest to q; of two equally near ones that with the even place on the grid. */
static double nearest(sqf_type type, double q)
{
    double best = NAN, distance = INFINITY;
    for (uint32_t code = 0; code < 1u << sqf_type_bits(type); code++) {
        const double value = defined_value(type, code);
        const double d = fabs(q - value);
        /* For floats an even code has an even last digit; integers have an even value. */
        const bool even = type == SQF_TYPE_FP4 || type >= SQF_TYPE_FP8 ? code % 2 == 0 : fmod(value, 2) == 0;
        if (!isnan(value) && (d < distance || (d == distance && even))) {
            best = value;
            distance = d;
        }
    }
    return best;
}

static void test_rounding_finds_the_nearest_value_and_ties_go_to_even(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 1)};
    for (int t = 0; t < CODED; t++) {
        const sqf_type type = coded[t];
        const double limit = (double)sqf_type_max(type);
        for (int i = 0; i < 3000; i++) {
            /* Every second value lies on the fine grid of halves and quarters, where the ties are. */
            double q = (sqf_random_unit(&random) * 2.2 - 1.1) * limit;
            q = i % 2 ? (double)(float)q : i % 4 ? nearbyint(q * 4) / 4 : nearbyint(q * 512) / 512;
            q = i % 8 < 4 ? q : (double)(float)ldexp(q, -(int)sqf_random_below(&random, 20)); /* fp8's subnormals */
            const float rounded = sqf_type_round(type, (float)q, 1.0f);
            if ((double)rounded != nearest(type, q) || (rounded == 0.0f && signbit(rounded))) {
                fail_msg("%s: %.9g rounded to %.9g, expected %.9g", sqf_type_name(type), q, (double)rounded,
                         nearest(type, q));
            }
        }
        assert_true((double)sqf_type_round(type, 1e30f, 1e-30f) == limit);
        assert_true((double)sqf_type_round(type, -1e30f, 1.0f) == -limit);
        assert_true(sqf_type_round(type, 5.0f, 0.0f) == 0.0f);
    }
    assert_true(sqf_type_round(SQF_TYPE_NONE, 5.0f, 1.0f) == 0.0f);
    assert_true(sqf_type_round(SQF_TYPE_FP32, 5.1f, 0.0f) == 5.1f);
    assert_true(sqf_type_round(SQF_TYPE_FP16, 1e6f, 0.0f) == 65504.0f);
    assert_true(sqf_type_round(SQF_TYPE_BF16, -3.4e38f, 0.0f) == -0x1.fep127f);
    assert_true(sqf_type_round(SQF_TYPE_BF16, 1.00390625f, 7.0f) == 1.0f);
    assert_false(signbit(sqf_type_round(SQF_TYPE_FP16, -0.0f, 1.0f)));
}

static void test_rounding_divides(void **state)
{
    (void)state;
    /* 11.5f / 3.2857144f is 3.5 exactly; the product with the rounded reciprocal is another float. */
    const float scale = 11.5f / 3.5f;
    assert_true(sqf_type_round(SQF_TYPE_INT4, 11.5f, scale) == sqf_round_to_step(11.5f / scale, 1.0f));
    sqf_random random = {test_seed(__func__, 2)};
    for (int i = 0; i < 100000; i++) {
        const float x = (float)(sqf_random_unit(&random) * 2 - 1), s = (float)sqf_random_unit(&random) * 0.01f;
        const float expected = (float)nearbyint((double)fmaxf(-127.0f, fminf(127.0f, x / s)));
        assert_true(sqf_type_round(SQF_TYPE_INT8, x, s) == expected);
    }
}

/* The value of half-float bits, by the definition of the format. */
static double half_value(uint32_t bits, int fraction_bits, int exponent_bits)
{
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = (int)(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
    const double fraction = ldexp((double)(bits & ((1u << fraction_bits) - 1)), -fraction_bits);
    const double magnitude = exponent == (1 << exponent_bits) - 1 ? (fraction != 0 ? NAN : INFINITY)
                             : exponent                           ? ldexp(1 + fraction, exponent - bias)
                                                                  : ldexp(fraction, 1 - bias);
    return bits >> 15 ? -magnitude : magnitude;
}

static void check_half_exhaustively(float (*to)(uint16_t), uint16_t (*from)(float), int fraction_bits,
                                    int exponent_bits)
{
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const double value = half_value(bits, fraction_bits, exponent_bits);
        const float x = to((uint16_t)bits);
        if (isnan(value)) {
            assert_true(isnan(x) && isnan(to(from(x))));
            continue;
        }
        assert_true((double)x == value && !signbit(x) == !signbit(value));
        assert_int_equal(from(x), bits);
        if (isinf(value) || isinf(half_value(bits + 1, fraction_bits, exponent_bits)) || (bits & 0x7fff) == 0x7fff) {
            continue;
        }
        /* Half way to the next larger magnitude: even bits win; a little to either side: the nearer one. */
        const double next = half_value(bits + 1, fraction_bits, exponent_bits);
        const float middle = (float)((value + next) / 2);
        assert_int_equal(from(middle), bits % 2 ? bits + 1 : bits);
        assert_int_equal(from(nextafterf(middle, (float)value)), bits);
        assert_int_equal(from(nextafterf(middle, (float)next)), bits + 1);
    }
}

static void test_half_floats_exhaustively(void **state)
{
    (void)state;
    check_half_exhaustively(sqf_fp16_to_float, sqf_fp16_from_float, 10, 5);
    check_half_exhaustively(sqf_bf16_to_float, sqf_bf16_from_float, 7, 8);
    assert_int_equal(sqf_fp16_from_float(65519.99f), 0x7bff);
    assert_int_equal(sqf_fp16_from_float(65520.0f), 0x7c00);
    assert_int_equal(sqf_fp16_from_float(-INFINITY), 0xfc00);
    assert_int_equal(sqf_fp16_from_float(1e-30f), 0);
    assert_int_equal(sqf_bf16_from_float(3.4e38f), 0x7f80);
    assert_int_equal(sqf_fp16_from_float(NAN) & 0x7fff, 0x7e00);
    for (uint32_t code = 0; code < 65536; code++) {
        assert_int_equal(sqf_type_code_valid(SQF_TYPE_FP16, code), isfinite(half_value(code, 10, 5)));
        assert_int_equal(sqf_type_code_valid(SQF_TYPE_BF16, code), isfinite(half_value(code, 7, 8)));
    }
}

static void test_scales_neither_overflow_nor_vanish(void **state)
{
    (void)state;
    assert_true(sqf_scale_round(SQF_TYPE_FP16, 1e9f) == 65504.0f);
    assert_true(sqf_scale_round(SQF_TYPE_FP16, 1e-9f) == 0x1p-24f);
    assert_true(sqf_scale_round(SQF_TYPE_FP16, 0.0f) == 0.0f);
    assert_true(sqf_scale_round(SQF_TYPE_FP16, 0.1f) == 0.0999755859375f);
    assert_true(sqf_scale_round(SQF_TYPE_BF16, 3.4e38f) == 0x1.fep127f);
    assert_true(sqf_scale_round(SQF_TYPE_BF16, 0x1p-149f) == 0x1p-133f);
    assert_true(sqf_scale_round(SQF_TYPE_FP32, 0.1f) == 0.1f);
    assert_true(sqf_scale_round(SQF_TYPE_FP8, 0.1f) == 0.1015625f && sqf_scale_round(SQF_TYPE_FP8, 1e9f) == 448.0f);
    assert_true(sqf_scale_round(SQF_TYPE_FP8, 1e-9f) == 0x1p-9f && sqf_scale_round(SQF_TYPE_FP8, 0.0f) == 0.0f);
    assert_true(sqf_scale_round(SQF_TYPE_E8M0, 1.99f) == 1.0f && sqf_scale_round(SQF_TYPE_E8M0, 0.0f) == 0x1p-127f);
    assert_true(sqf_scale_round(SQF_TYPE_E8M0, 3.4e38f) == 0x1p127f);
}

/* The exponents are those of the OCP MX specification: floor(log2 max) less the largest exponent of the elements. */
static void test_scales_follow_the_rules_of_the_block_formats(void **state)
{
    (void)state;
    static const struct {
        sqf_type type;
        int largest_exponent;
    } rows[] = {
        {SQF_TYPE_FP4, 2}, {SQF_TYPE_FP6, 2}, {SQF_TYPE_FP6_E3M2, 4}, {SQF_TYPE_FP8, 8}, {SQF_TYPE_FP8_E5M2, 15}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int e = -100; e <= 100; e++) {
            const float scale = ldexpf(1.0f, e - rows[i].largest_exponent);
            assert_true(sqf_scale_for_max(SQF_TYPE_E8M0, rows[i].type, ldexpf(1.0f, e), 1.0f) == scale);
            assert_true(sqf_scale_for_max(SQF_TYPE_E8M0, rows[i].type, ldexpf(1.999f, e), 1.0f) == scale);
        }
        assert_true(sqf_scale_for_max(SQF_TYPE_E8M0, rows[i].type, 0.0f, 1.0f) == 0x1p-127f);
        assert_true(sqf_scale_for_max(SQF_TYPE_E8M0, rows[i].type, 0x1p-149f, 1.0f) == 0x1p-127f);
    }
    /* 7.9 in a block of scale 1 is clamped to fp4's 6 */
    assert_true(sqf_type_round(SQF_TYPE_FP4, 7.9f, sqf_scale_for_max(SQF_TYPE_E8M0, SQF_TYPE_FP4, 7.9f, 1.0f)) == 6.0f);
    /* NVFP4: the largest block has the scale 448 units, one of half its size 224 */
    const float unit = sqf_scale_unit(SQF_TYPE_FP8, SQF_TYPE_FP4, 26.88f);
    assert_true(fabsf(unit - 0.01f) < 1e-8f);
    assert_true(sqf_scale_for_max(SQF_TYPE_FP8, SQF_TYPE_FP4, 26.88f, unit) == unit * 448.0f);
    assert_true(sqf_scale_for_max(SQF_TYPE_FP8, SQF_TYPE_FP4, 13.44f, unit) == unit * 224.0f);
    assert_true(sqf_scale_for_max(SQF_TYPE_FP8, SQF_TYPE_FP4, 100.0f, unit) == unit * 448.0f);
    assert_true(sqf_scale_for_max(SQF_TYPE_FP8, SQF_TYPE_FP4, 0.0f, unit) == 0.0f);
    assert_true(sqf_scale_unit(SQF_TYPE_FP16, SQF_TYPE_FP4, 3.0f) == 1.0f);
    assert_true(sqf_scale_unit(SQF_TYPE_FP8, SQF_TYPE_FP4, 0.0f) > 0.0f);
}

static void test_only_scale_types_hold_scales(void **state)
{
    (void)state;
    for (int i = 0; i < SQF_TYPE_COUNT; i++) {
        const sqf_type type = (sqf_type)i;
        const bool expected = type == SQF_TYPE_FP16 || type == SQF_TYPE_BF16 || type == SQF_TYPE_FP32 ||
                              type == SQF_TYPE_FP8 || type == SQF_TYPE_E8M0;
        assert_int_equal(sqf_type_is_scale(type), expected);
    }
    for (uint32_t code = 0; code < 256; code++) {
        assert_int_equal(sqf_type_code_valid(SQF_TYPE_E8M0, code), code < 255);
        if (code < 255) {
            const float value = sqf_type_decode(SQF_TYPE_E8M0, code);
            assert_true(value == ldexpf(1.0f, (int)code - 127));
            assert_int_equal(sqf_type_encode(SQF_TYPE_E8M0, value), code);
        }
    }
    assert_true(isnan(sqf_type_decode(SQF_TYPE_E8M0, 255)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_bits_and_limits),
        cmocka_unit_test(test_every_code_decodes_as_defined_and_encodes_back),
        cmocka_unit_test(test_rounding_finds_the_nearest_value_and_ties_go_to_even),
        cmocka_unit_test(test_rounding_divides),
        cmocka_unit_test(test_half_floats_exhaustively),
        cmocka_unit_test(test_scales_neither_overflow_nor_vanish),
        cmocka_unit_test(test_scales_follow_the_rules_of_the_block_formats),
        cmocka_unit_test(test_only_scale_types_hold_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

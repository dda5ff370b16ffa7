/* Activation quantization against its definition, and the reference product against dequantized operands. */
#include <math.h>

#include "format/reference.h"
#include "random_matrix.h"

enum { K_MAX = 160, N_MAX = 5 };

typedef struct token {
    float x[K_MAX], norm[K_MAX];
    uint8_t mask[K_MAX];
    float value[K_MAX], scale_low[K_MAX], scale_high[K_MAX];
    int32_t zero_low[K_MAX], zero_high[K_MAX];
    sqf_act_row row;
} token;

static void begin_token(token *t, sqf_random *random, const sqf_act_spec *spec, size_t columns)
{
    const float one_sided = sqf_random_below(random, 3) ? 0.0f : 1.0f;
    memset(t, 0, sizeof *t);
    t->row = (sqf_act_row){.mask = t->mask, .value = t->value, .scale_low = t->scale_low, .scale_high = t->scale_high};
    if (spec->zero != SQF_ACT_ZERO_NONE) {
        t->row.zero_low = t->zero_low;
        t->row.zero_high = t->zero_high;
    }
    for (size_t j = 0; j < columns; j++) {
        t->x[j] = (float)((sqf_random_unit(random) * 2 - 1) * exp2(4 * sqf_random_unit(random)));
        t->x[j] = one_sided > 0 ? fabsf(t->x[j]) : t->x[j];
        t->norm[j] = (float)sqf_random_unit(random);
    }
}

/* A channel list that a static mask allows: k random channels of each bank are high. */
static void random_channels(sqf_random *random, const sqf_act_spec *spec, size_t columns, size_t border, int32_t *out)
{
    size_t low = 0, high = border;
    for (size_t begin = 0; begin < columns; begin += spec->bank) {
        const size_t end = columns - begin < spec->bank ? columns : begin + spec->bank;
        size_t left = sqf_bank_high(spec->bank, spec->high_per_bank, end - begin);
        for (size_t j = begin; j < end; j++) {
            const bool is_high = sqf_random_below(random, end - j) < left;
            left -= is_high;
            out[is_high ? high++ : low++] = (int32_t)j;
        }
    }
    assert_int_equal(low, border);
    assert_int_equal(high, columns);
}

/* The largest magnitude among the columns [begin, end) that are in the part of column `j`. */
static float part_max(const token *t, size_t j, size_t begin, size_t end, const int32_t *channels)
{
    float max = 0;
    for (size_t i = begin; i < end; i++) {
        max = t->mask[i] == t->mask[j] ? fmaxf(max, fabsf(t->x[channels ? channels[i] : (int32_t)i])) : max;
    }
    return max;
}

/* The definition of zero points for one part: columns [begin, end) share a scale; `j` is one of the part's. */
static void check_zero(const sqf_act_spec *spec, const token *t, size_t j, size_t g, size_t begin, size_t end,
                       const int32_t *channels, const float *static_scale, const int32_t *static_zero)
{
    const bool high = t->mask[j];
    const sqf_type type = high ? spec->high : spec->low;
    const float scale = high ? t->scale_high[g] : t->scale_low[g];
    const int32_t zero = high ? t->zero_high[g] : t->zero_low[g];
    const int top = (1 << (sqf_type_bits(type) - 1)) - 1, bottom = type == SQF_TYPE_INT8 ? -127 : -top - 1;
    float least = 0, most = 0;
    for (size_t i = begin; i < end; i++) {
        const float x = t->mask[i] == t->mask[j] ? t->x[channels ? channels[i] : (int32_t)i] : 0.0f;
        least = fminf(least, x);
        most = fmaxf(most, x);
    }
    const float steps = (float)(top - bottom);
    if (spec->scale == SQF_ACT_STATIC) {
        assert_true(scale == static_scale[high] && zero == static_zero[high]);
    } else {
        const float clip = high && spec->high_clip > 0.0f ? spec->high_clip : spec->clip;
        assert_true(scale == clip * (most / steps - least / steps));
        const float code = rintf((float)bottom - clip * least / scale);
        assert_int_equal(zero, scale > 0 ? (int)fminf(fmaxf(code, (float)bottom), (float)top) : 0);
    }
    const float x = t->x[channels ? channels[j] : (int32_t)j];
    const float code =
        scale > 0 ? fminf(fmaxf(rintf(x / scale) + (float)zero, (float)bottom), (float)top) : (float)zero;
    assert_true(t->value[j] == code - (float)zero);
    assert_true(x != 0 || t->value[j] == 0); /* 0 stays 0 */
}

/* The definition, element by element: is it high, and which scale does it have? */
static void check_token(const sqf_act_spec *spec, const token *t, size_t columns, const int32_t *channels,
                        size_t border, const sqf_partition *groups, const float *static_scale,
                        const int32_t *static_zero)
{
    const bool split = sqf_act_spec_is_split(spec);
    for (size_t j = 0; j < columns; j++) {
        const size_t g = sqf_partition_find(groups, j);
        const bool high = t->mask[j];
        size_t begin = 0, end = columns;
        if (split && spec->mask == SQF_MASK_DYNAMIC) {
            const size_t bank = j / spec->bank * spec->bank;
            const size_t stop = bank + spec->bank < columns ? bank + spec->bank : columns;
            size_t before = 0;
            for (size_t i = bank; i < stop; i++) {
                const float a = fabsf(t->x[i]) * (spec->dynamic_weighted ? t->norm[i] : 1.0f);
                const float b = fabsf(t->x[j]) * (spec->dynamic_weighted ? t->norm[j] : 1.0f);
                before += a > b || (a == b && i < j);
            }
            assert_int_equal(high, before < sqf_bank_high(spec->bank, spec->high_per_bank, stop - bank));
        } else {
            assert_int_equal(high, split && j >= border);
        }
        if (spec->scale == SQF_ACT_GROUP) {
            sqf_partition_range(groups, g, &begin, &end);
        }
        const sqf_type type = high ? spec->high : spec->low;
        const bool wanted = spec->zero == SQF_ACT_ZERO_POINT || (spec->zero == SQF_ACT_ZERO_LOW && !high);
        if (wanted && sqf_type_multiplier(type) == 1) {
            check_zero(spec, t, j, g, begin, end, channels, static_scale, static_zero);
            continue;
        }
        const float clip = high && spec->high_clip > 0.0f ? spec->high_clip : spec->clip;
        const float max = clip * part_max(t, j, begin, end, channels);
        const sqf_type scale_type = sqf_act_scale_type(spec);
        const float unit = sqf_scale_unit(scale_type, type, clip * part_max(t, j, 0, columns, channels));
        const float expected = type == SQF_TYPE_NONE           ? 0.0f
                               : !sqf_type_has_scale(type)     ? 1.0f
                               : spec->scale == SQF_ACT_STATIC ? static_scale[high]
                                                               : sqf_scale_for_max(scale_type, type, max, unit);
        const float scale = high ? t->scale_high[g] : t->scale_low[g];
        assert_true(scale == expected);
        assert_true(t->value[j] == sqf_type_round(type, t->x[channels ? channels[j] : (int32_t)j], scale));
    }
}

/* y by the dequantized operands alone: no groups, no parts, no integers. */
static double naive(const sqf_matrix *m, size_t n, sqf_row *row, const token *t, const sqf_partition *groups)
{
    double y = 0;
    sqf_matrix_unpack_row(m, n, row);
    for (size_t j = 0; j < m->columns; j++) {
        const size_t wg = sqf_partition_find(&m->groups, j), ag = sqf_partition_find(groups, j);
        const double w = (double)row->value[j] * (double)(row->mask[j] ? row->scale_high[wg] : row->scale_low[wg]);
        y += w * (double)t->value[j] * (double)(t->mask[j] ? t->scale_high[ag] : t->scale_low[ag]);
    }
    return y;
}

static void check_sums(const sqf_matrix *m, size_t n, const sqf_row *row, const token *t, const int32_t *sums)
{
    const int wm[2] = {sqf_type_multiplier(m->spec.low), sqf_type_multiplier(m->spec.high)};
    const int am[2] = {sqf_type_multiplier(t->row.low), sqf_type_multiplier(t->row.high)};
    for (size_t g = 0; g < m->group_count; g++) {
        int64_t expected[2][2] = {{0}};
        size_t begin, end;
        sqf_partition_range(&m->groups, g, &begin, &end);
        for (size_t j = begin; j < end; j++) {
            const int a = t->mask[j], w = row->mask[j];
            expected[a][w] +=
                am[a] && wm[w] ? (int64_t)((double)t->value[j] * am[a]) * (int64_t)((double)row->value[j] * wm[w]) : 0;
        }
        for (int i = 0; i < 4; i++) {
            assert_true(sums[(n * m->group_count + g) * 4 + (size_t)i] == expected[i / 2][i % 2]);
        }
    }
}

static void check_product(sqf_random *random, const sqf_scheme *scheme, size_t rows, size_t columns)
{
    sqf_error err;
    sqf_matrix m;
    sqf_row row;
    token t;
    int32_t channels[K_MAX];
    const float static_scale[2] = {0.3f, 0.02f};
    const int32_t static_zero[2] = {-1, 1};
    const sqf_act_spec *spec = &scheme->activations;
    const size_t border = sqf_act_low_channels(spec, columns);
    const bool gathered = sqf_act_spec_is_split(spec) && spec->mask == SQF_MASK_STATIC;
    if (gathered) {
        random_channels(random, spec, columns, border, channels);
        assert_ok(sqf_channels_check(channels, columns, border, spec, "c", &err), &err);
    }
    assert_ok(sqf_matrix_create(&scheme->weights, rows, columns, border, gathered ? channels : NULL, &m, &err), &err);
    assert_ok(sqf_row_create(&m, &row, &err), &err);
    for (size_t n = 0; n < rows; n++) {
        random_row(random, &m, &row);
        sqf_matrix_pack_row(&m, n, &row);
    }
    begin_token(&t, random, spec, columns);
    const sqf_partition groups = sqf_act_scale_groups(spec, &m.groups);
    sqf_act_quantize_row(spec, t.x, columns, m.channels, border, &groups, static_scale, static_zero, t.norm, &t.row);
    check_token(spec, &t, columns, m.channels, border, &groups, static_scale, static_zero);

    double y[N_MAX], magnitude[N_MAX];
    int32_t sums[N_MAX * K_MAX * 4];
    assert_ok(sqf_reference_product(&m, &t.row, &groups, y, sums, magnitude, &err), &err);
    for (size_t n = 0; n < rows; n++) {
        const double expected = naive(&m, n, &row, &t, &groups);
        if (!(fabs(y[n] - expected) <= 1e-12 * (magnitude[n] + fabs(expected)) + 1e-300)) {
            fail_msg("y = %.17g, expected %.17g", y[n], expected);
        }
        check_sums(&m, n, &row, &t, sums);
    }
    double again[N_MAX];
    assert_ok(sqf_reference_product(&m, &t.row, &groups, again, NULL, NULL, &err), &err);
    assert_memory_equal(y, again, rows * sizeof *y);
    sqf_row_clear(&row);
    sqf_matrix_clear(&m);
}

static void test_products_equal_those_of_the_dequantized_operands(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 31)};
    size_t checked = 0;
    while (checked < 3000) {
        const sqf_scheme scheme = {.weights = random_weights(&random, 40),
                                   .activations = random_activations(&random, 40)};
        if (sqf_scheme_check(&scheme, NULL) == SQF_OK) {
            check_product(&random, &scheme, random_between(&random, 1, N_MAX), random_between(&random, 1, K_MAX));
            checked++;
        }
    }
}

static void test_every_named_scheme_multiplies(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 32)};
    size_t count;
    const sqf_scheme_entry *entries = sqf_scheme_list(&count);
    for (size_t i = 1; i < count; i++) { /* BF16 is no quantized product */
        sqf_error err;
        sqf_scheme scheme;
        assert_ok(sqf_scheme_parse(entries[i].name, &scheme, &err), &err);
        check_product(&random, &scheme, N_MAX, K_MAX);
        check_product(&random, &scheme, N_MAX, 131);
    }
}

/* The worked example of docs/format.md section 8. */
static void test_the_worked_example_of_a_product(void **state)
{
    (void)state;
    sqf_error err;
    sqf_matrix m;
    sqf_row row;
    const sqf_weight_spec spec = {.low = SQF_TYPE_INT4, .group = 4, .scale_type = SQF_TYPE_FP32};
    const sqf_act_spec act = {.low = SQF_TYPE_INT4, .high = SQF_TYPE_INT8, .bank = 4, .high_per_bank = 1, .clip = 1.0f};
    const int32_t channels[4] = {0, 1, 3, 2};
    const float x[4] = {0.5f, -0.25f, 12.7f, 1.75f}, weights[4] = {7, -3, 2, 5};
    assert_ok(sqf_matrix_create(&spec, 1, 4, 3, channels, &m, &err), &err);
    assert_ok(sqf_row_create(&m, &row, &err), &err);
    memcpy(row.value, weights, sizeof weights);
    row.scale_low[0] = 0.5f;
    row.scale_low[1] = 0.25f;
    sqf_matrix_pack_row(&m, 0, &row);
    token t = {.row = {.mask = t.mask, .value = t.value, .scale_low = t.scale_low, .scale_high = t.scale_high}};
    sqf_act_quantize_row(&act, x, 4, m.channels, 3, &m.groups, NULL, NULL, NULL, &t.row);
    assert_true(t.scale_low[0] == 0.25f && t.scale_high[1] == 0.1f);
    const float expected[4] = {2, -1, 7, 127};
    assert_memory_equal(t.value, expected, sizeof expected);
    double y, magnitude;
    int32_t sums[8];
    assert_ok(sqf_reference_product(&m, &t.row, &m.groups, &y, sums, &magnitude, &err), &err);
    const int32_t integer_sums[8] = {31, 0, 0, 0, 0, 0, 635, 0};
    assert_memory_equal(sums, integer_sums, sizeof sums);
    assert_true(fabs(y - 19.75) < 1e-6 && magnitude == y);
    sqf_row_clear(&row);
    sqf_matrix_clear(&m);
}

/* One-sided inputs use all 16 codes: 0 to 15 steps of 0.5. */
static void test_a_worked_example_of_zero_points(void **state)
{
    (void)state;
    sqf_error err;
    sqf_matrix m;
    sqf_row row;
    const sqf_weight_spec spec = {.low = SQF_TYPE_INT4, .group = 4, .scale_type = SQF_TYPE_FP32};
    const sqf_act_spec act = {.low = SQF_TYPE_INT4, .clip = 1.0f, .zero = SQF_ACT_ZERO_POINT};
    const float x[4] = {0.5f, 7.5f, 0.0f, 3.0f}, weights[4] = {7, -3, 2, 5};
    assert_ok(sqf_matrix_create(&spec, 1, 4, 4, NULL, &m, &err), &err);
    assert_ok(sqf_row_create(&m, &row, &err), &err);
    memcpy(row.value, weights, sizeof weights);
    row.scale_low[0] = 0.5f;
    sqf_matrix_pack_row(&m, 0, &row);
    token t;
    t.row = (sqf_act_row){.mask = t.mask,
                          .value = t.value,
                          .scale_low = t.scale_low,
                          .scale_high = t.scale_high,
                          .zero_low = t.zero_low,
                          .zero_high = t.zero_high};
    sqf_act_quantize_row(&act, x, 4, NULL, 4, &m.groups, NULL, NULL, NULL, &t.row);
    assert_true(t.scale_low[0] == 0.5f && t.zero_low[0] == -8);
    const float expected[4] = {1, 15, 0, 6}; /* codes -7, 7, -8 and -2 */
    assert_memory_equal(t.value, expected, sizeof expected);
    double y, magnitude;
    assert_ok(sqf_reference_product(&m, &t.row, &m.groups, &y, NULL, &magnitude, &err), &err);
    assert_true(y == 0.25 * (7 - 45 + 30));
    sqf_row_clear(&row);
    sqf_matrix_clear(&m);
}

static void test_groups_whose_sums_could_overflow_are_refused(void **state)
{
    (void)state;
    sqf_error err;
    sqf_matrix m;
    const sqf_weight_spec spec = {.low = SQF_TYPE_INT8, .scale_type = SQF_TYPE_FP16};
    const sqf_act_row act = {.low = SQF_TYPE_INT8};
    double y;
    assert_ok(sqf_matrix_shape(&spec, 1, 133145, 133145, &m, &err), &err);
    assert_fails(sqf_reference_product(&m, &act, &m.groups, &y, NULL, NULL, &err), SQF_E_SUPPORT, &err,
                 "a group of 133145 columns: its int8 * int8 sums may not fit int32");
    assert_ok(sqf_matrix_shape(&spec, 0, 133144, 133144, &m, &err), &err);
    assert_ok(sqf_reference_product(&m, &act, &m.groups, &y, NULL, NULL, &err), &err);
    /* codes less their zero points reach 254 */
    int32_t zero = 0;
    const sqf_act_row asymmetric = {.low = SQF_TYPE_INT8, .zero_low = &zero, .zero_high = &zero};
    assert_ok(sqf_matrix_shape(&spec, 1, 66573, 66573, &m, &err), &err);
    assert_fails(sqf_reference_product(&m, &asymmetric, &m.groups, &y, NULL, NULL, &err), SQF_E_SUPPORT, &err,
                 "a group of 66573 columns: its int8 * int8 sums may not fit int32");
    assert_ok(sqf_matrix_shape(&spec, 0, 66572, 66572, &m, &err), &err);
    assert_ok(sqf_reference_product(&m, &asymmetric, &m.groups, &y, NULL, NULL, &err), &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_equal_those_of_the_dequantized_operands),
        cmocka_unit_test(test_every_named_scheme_multiplies),
        cmocka_unit_test(test_the_worked_example_of_a_product),
        cmocka_unit_test(test_a_worked_example_of_zero_points),
        cmocka_unit_test(test_groups_whose_sums_could_overflow_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

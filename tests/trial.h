/* Random linear layers with their inputs, what the reference says of them, and when a result is close enough: shared by
 * the tests of whatever computes them. */
#ifndef SQF_TESTS_TRIAL_H
#define SQF_TESTS_TRIAL_H

#include "check.h"

#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "format/reference.h"
#include "kernels/linear.h"

enum { PARTS = 2 };

/* A random layer with its input. Buffers are exact, so that a sanitizer sees one byte too far. */
typedef struct trial {
    sqf_scheme scheme;
    size_t rows, columns, tokens, border;
    sqf_matrix matrix;
    int32_t *channels, *row_order;
    float *bias, *x, *column_norm;
    float static_scale[PARTS];
    int32_t static_zero[PARTS];
} trial;

static float random_float(sqf_random *random)
{
    const double u = sqf_random_unit(random) + sqf_random_unit(random) + sqf_random_unit(random) - 1.5;
    return (float)u;
}

static uint32_t pick(sqf_random *random, const uint32_t *values, size_t count)
{
    return values[sqf_random_below(random, count)];
}

static const sqf_type integer_types[] = {SQF_TYPE_INT2, SQF_TYPE_INT3, SQF_TYPE_INT4, SQF_TYPE_INT5,
                                         SQF_TYPE_INT6, SQF_TYPE_INT8, SQF_TYPE_FP4,  SQF_TYPE_FP6};
static const sqf_type high_types[] = {SQF_TYPE_INT8, SQF_TYPE_INT8, SQF_TYPE_INT6, SQF_TYPE_INT4,
                                      SQF_TYPE_FP8,  SQF_TYPE_FP16, SQF_TYPE_BF16};
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* The bits of a type as the specification orders low and high. */
static sqf_type pick_type(sqf_random *random, const sqf_type *types, size_t count)
{
    return types[sqf_random_below(random, count)];
}

static void random_weights(sqf_random *random, sqf_weight_spec *spec)
{
    static const uint32_t banks[] = {1, 2, 4, 5, 8, 16, 33, 64, 128};
    *spec = (sqf_weight_spec){.scale_type = SQF_TYPE_FP32, .layout = SQF_LAYOUT_BITMASK};
    spec->low = pick_type(random, integer_types, COUNT(integer_types));
    spec->bank = pick(random, banks, COUNT(banks));
    spec->group = sqf_random_below(random, 4) ? spec->bank * (uint32_t)(1 + sqf_random_below(random, 4)) : 0;
    switch (sqf_random_below(random, 4)) {
    case 0:
        if (sqf_random_below(random, 4) == 0) {
            spec->low = SQF_TYPE_FP8;
        }
        break;
    case 1:
        spec->low = SQF_TYPE_NONE;
        spec->high = pick_type(random, high_types, COUNT(high_types));
        spec->high_per_bank = (uint32_t)sqf_random_below(random, spec->bank + 1);
        break;
    default:
        spec->high = pick_type(random, high_types, COUNT(high_types));
        spec->high_per_bank = (uint32_t)sqf_random_below(random, spec->bank + 1);
        spec->scales = sqf_random_below(random, 3) ? SQF_SCALES_FREE : SQF_SCALES_TIED;
    }
}

/* A group of activation scales that nests with the weights' groups: theirs (0), a multiple, a divisor, anything. */
static uint32_t random_group(sqf_random *random, uint32_t weights)
{
    if (weights == 0) {
        return (uint32_t)sqf_random_below(random, 260);
    }
    uint32_t divisor = 1 + (uint32_t)sqf_random_below(random, weights);
    while (weights % divisor != 0) {
        divisor--;
    }
    const uint32_t choices[] = {0, weights, weights * 2, weights * 3, divisor, divisor};
    return pick(random, choices, COUNT(choices));
}

static void random_activations(sqf_random *random, const sqf_weight_spec *weights, sqf_act_spec *spec)
{
    static const uint32_t banks[] = {1, 4, 7, 16, 32, 64, 128};
    *spec = (sqf_act_spec){.clip = sqf_random_below(random, 4) ? 1.0f : 0.875f};
    const uint64_t kind = sqf_random_below(random, 6);
    if (kind == 0) {
        spec->low = SQF_TYPE_FP32;
        return;
    }
    spec->low = pick_type(random, integer_types, COUNT(integer_types));
    if (kind == 1 && sqf_random_below(random, 3) == 0) {
        spec->low = SQF_TYPE_FP8;
    }
    spec->scale = (sqf_act_scale)sqf_random_below(random, 3);
    if (spec->scale == SQF_ACT_GROUP) {
        spec->group = random_group(random, weights->group);
    }
    if (kind > 2) {
        spec->high = pick_type(random, high_types, COUNT(high_types));
        spec->high_clip = sqf_random_below(random, 3) ? 0.0f : 0.9375f;
        spec->bank = pick(random, banks, COUNT(banks));
        spec->high_per_bank = (uint32_t)sqf_random_below(random, spec->bank + 1);
        spec->mask = kind == 5 ? SQF_MASK_DYNAMIC : SQF_MASK_STATIC;
        spec->dynamic_weighted = kind == 5 && sqf_random_below(random, 2);
    }
    static const sqf_type scale_types[] = {SQF_TYPE_BF16, SQF_TYPE_FP16, SQF_TYPE_E8M0, SQF_TYPE_FP8};
    if (sqf_random_below(random, 3) == 0) {
        spec->scale_type = pick_type(random, scale_types, COUNT(scale_types));
        return;
    }
    spec->zero = sqf_random_below(random, 2) ? SQF_ACT_ZERO_NONE : (sqf_act_zero)(1 + sqf_random_below(random, 2));
}

/* Rows on the grid with masks of exactly k; a quarter of the time all extremes, or zero banks. */
static void random_row(sqf_random *random, const trial *t, sqf_row *row)
{
    const sqf_weight_spec *spec = &t->matrix.spec;
    const uint64_t kind = sqf_random_below(random, 8);
    float *score = malloc((t->columns ? t->columns : 1) * sizeof *score);
    for (size_t k = 0; k < t->columns; k++) {
        score[k] = random_float(random);
    }
    for (size_t b = 0; b < sqf_partition_count(&t->matrix.banks); b++) {
        size_t begin, end;
        sqf_partition_range(&t->matrix.banks, b, &begin, &end);
        const size_t high =
            spec->high == SQF_TYPE_NONE ? 0 : sqf_bank_high(spec->bank, spec->high_per_bank, end - begin);
        sqf_select_top(score + begin, end - begin, high, row->mask + begin);
    }
    for (size_t k = 0; k < t->columns; k++) {
        const sqf_type type = row->mask[k] ? spec->high : spec->low;
        const float max = sqf_type_max(type) > 0 ? sqf_type_max(type) : 2.0f;
        float value = random_float(random) * max;
        value = kind == 0 ? (sqf_random_below(random, 2) ? max : -max) : kind == 1 ? 0.0f : value;
        row->value[k] = type == SQF_TYPE_NONE ? 0.0f : sqf_type_round(type, value, 1.0f);
    }
    for (size_t g = 0; g < t->matrix.group_count; g++) {
        row->scale_low[g] = sqf_type_has_scale(spec->low) ? fabsf(random_float(random)) + 0.01f : 1.0f;
        row->scale_high[g] = sqf_type_has_scale(spec->high) ? fabsf(random_float(random)) + 0.01f : 1.0f;
        if (spec->scales == SQF_SCALES_TIED && spec->high != SQF_TYPE_NONE) {
            const double room = log2((double)(sqf_type_max(spec->high) / sqf_type_max(spec->low)));
            row->shift[g] = room >= 1 ? (uint8_t)sqf_random_below(random, (uint64_t)room + 1) : 0;
            row->scale_high[g] = ldexpf(row->scale_low[g], -row->shift[g]);
        }
    }
    free(score);
}

static int compare_channels(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* A static mask: any permutation with a border serves the product. */
static void random_channels(sqf_random *random, trial *t)
{
    t->channels = malloc((t->columns ? t->columns : 1) * sizeof *t->channels);
    for (size_t k = 0; k < t->columns; k++) {
        t->channels[k] = (int32_t)k;
    }
    for (size_t k = t->columns; k > 1; k--) {
        const size_t other = sqf_random_below(random, k);
        const int32_t swap = t->channels[other];
        t->channels[other] = t->channels[k - 1];
        t->channels[k - 1] = swap;
    }
    qsort(t->channels, t->border, sizeof *t->channels, compare_channels);
    qsort(t->channels + t->border, t->columns - t->border, sizeof *t->channels, compare_channels);
}

static void random_input(sqf_random *random, trial *t)
{
    const uint64_t kind = sqf_random_below(random, 8);
    t->x = malloc(t->tokens * t->columns * sizeof *t->x);
    for (size_t i = 0; i < t->tokens * t->columns; i++) {
        const float sign = sqf_random_below(random, 2) ? 1.0f : -1.0f;
        const float value = random_float(random) * (sqf_random_below(random, 50) ? 1.0f : 30.0f);
        t->x[i] = kind == 0            ? sign * 3.0f
                  : kind == 1 && i % 3 ? 0.0f
                  : kind == 2          ? value * 1e-30f
                  : kind == 3          ? fabsf(value) /* one-sided */
                                       : value;
    }
    t->column_norm = malloc(t->columns * sizeof *t->column_norm);
    for (size_t k = 0; k < t->columns; k++) {
        t->column_norm[k] = fabsf(random_float(random));
    }
    t->static_scale[0] = 0.05f;
    t->static_scale[1] = 0.25f;
    t->static_zero[0] = (int32_t)sqf_random_below(random, 4) - 2; /* -2..1: codes of every type */
    t->static_zero[1] = (int32_t)sqf_random_below(random, 4) - 2;
}

/* Weights, input and the rest at random for the trial's scheme. */
static void fill_trial(sqf_random *random, trial *t, size_t rows, size_t columns, size_t tokens)
{
    sqf_error err;
    t->rows = rows;
    t->columns = t->border = columns;
    t->tokens = tokens;
    const sqf_act_spec *act = &t->scheme.activations;
    const bool static_mask = sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC;
    if (static_mask) {
        t->border = sqf_act_low_channels(act, t->columns);
        random_channels(random, t);
    }
    assert_ok(sqf_matrix_create(&t->scheme.weights, t->rows, t->columns, t->border, t->channels, &t->matrix, &err),
              &err);
    sqf_row row;
    assert_ok(sqf_row_create(&t->matrix, &row, &err), &err);
    for (size_t n = 0; n < t->rows; n++) {
        random_row(random, t, &row);
        sqf_matrix_pack_row(&t->matrix, n, &row);
    }
    sqf_row_clear(&row);
    random_input(random, t);
    if (sqf_random_below(random, 2)) {
        t->bias = malloc(t->rows * sizeof *t->bias);
        t->row_order = malloc(t->rows * sizeof *t->row_order);
        for (size_t n = 0; n < t->rows; n++) {
            t->bias[n] = random_float(random);
            t->row_order[n] = (int32_t)(t->rows - 1 - n);
        }
    }
}

/* False if the drawn specification has no meaning. */
static bool make_trial(sqf_random *random, trial *t)
{
    sqf_error err;
    *t = (trial){0};
    random_weights(random, &t->scheme.weights);
    random_activations(random, &t->scheme.weights, &t->scheme.activations);
    if (sqf_scheme_check(&t->scheme, &err) != SQF_OK) {
        return false;
    }
    const size_t rows = 1 + sqf_random_below(random, sqf_random_below(random, 4) ? 40 : 150);
    const size_t columns = 1 + sqf_random_below(random, sqf_random_below(random, 8) ? 200 : 3000);
    fill_trial(random, t, rows, columns, 1 + sqf_random_below(random, sqf_random_below(random, 3) ? 8 : 140));
    return true;
}
static void free_trial(trial *t)
{
    sqf_matrix_clear(&t->matrix);
    free(t->channels);
    free(t->row_order);
    free(t->bias);
    free(t->x);
    free(t->column_norm);
}

static void describe(const trial *t, const char *level, unsigned threads)
{
    char text[SQF_SCHEME_TEXT];
    sqf_scheme_print(&t->scheme, SQF_SPELLING_LONG, text);
    print_message("%s, %u threads: M=%zu N=%zu K=%zu border=%zu %s\n", level, threads, t->tokens, t->rows, t->columns,
                  t->border, text);
}

/* The reference's y and sum of |terms| for all tokens, and its quantized input in original order. */
static void refer(const trial *t, double *y, double *magnitude, float *undone)
{
    sqf_error err;
    const sqf_act_spec *act = &t->scheme.activations;
    const sqf_partition groups = sqf_act_scale_groups(act, &t->matrix.groups);
    const size_t count = sqf_partition_count(&groups);
    sqf_act_row row = {0};
    row.mask = malloc(t->columns);
    row.value = malloc(t->columns * sizeof(float));
    row.scale_low = malloc(count * sizeof(float));
    row.scale_high = malloc(count * sizeof(float));
    row.zero_low = act->zero ? malloc(count * sizeof(int32_t)) : NULL;
    row.zero_high = act->zero ? malloc(count * sizeof(int32_t)) : NULL;
    for (size_t m = 0; m < t->tokens; m++) {
        sqf_act_quantize_row(act, t->x + m * t->columns, t->columns, t->channels, t->border, &groups, t->static_scale,
                             t->static_zero, t->column_norm, &row);
        assert_ok(
            sqf_reference_product(&t->matrix, &row, &groups, y + m * t->rows, NULL, magnitude + m * t->rows, &err),
            &err);
        for (size_t k = 0; k < t->columns; k++) {
            const size_t g = sqf_partition_find(&groups, k);
            const float scale = row.mask[k] ? row.scale_high[g] : row.scale_low[g];
            const size_t channel = t->channels ? (size_t)t->channels[k] : k;
            undone[m * t->columns + channel] = row.value[k] * (sqf_act_spec_is_float(act) ? 1.0f : scale);
        }
    }
    free(row.mask);
    free(row.value);
    free(row.scale_low);
    free(row.scale_high);
    free(row.zero_low);
    free(row.zero_high);
}

/* share: what a result may be off by, of the sum of magnitudes. */
static bool close_enough(const trial *t, const float *y, const double *want, const double *magnitude, double share)
{
    for (size_t m = 0; m < t->tokens; m++) {
        for (size_t n = 0; n < t->rows; n++) {
            const size_t row = t->row_order ? (size_t)t->row_order[n] : n;
            const double bias = t->bias ? (double)t->bias[n] : 0.0;
            const double expected = want[m * t->rows + row] + bias;
            const double found = (double)y[m * t->rows + n];
            /* The last term: results below the normal range of float keep fewer digits. */
            const double allowed = share * (magnitude[m * t->rows + row] + fabs(bias)) + 1e-36;
            if (!(fabs(found - expected) <= allowed)) {
                print_message("token %zu row %zu: %.9g, expected %.9g +- %.3g\n", m, n, found, expected, allowed);
                return false;
            }
        }
    }
    return true;
}

#endif

/* Activation quantization and the dual-path product, word for word as docs/format.md sections 5 and 8 say. This file
 * is the specification in C: plain loops, no layout of its own, double where the text says real number. Every kernel
 * is checked against it, so it is never made faster at the price of being longer. */
#include "format/reference.h"

#include <math.h>

#include "base/memory.h"
#include "format/zero_point.h"

/* Index of a part, on either side of a product. */
enum { LOW, HIGH, PARTS };

sqf_partition sqf_act_scale_groups(const sqf_act_spec *spec, const sqf_partition *weights_groups)
{
    if (spec->scale != SQF_ACT_GROUP || spec->group == 0) {
        return *weights_groups;
    }
    return sqf_partition_make(weights_groups->columns, weights_groups->border, spec->group);
}

/* Dynamic masks rank the channels of each bank by what this token has in them. out->value is the scratch. */
static void choose_dynamic(const sqf_act_spec *spec, const float *x, size_t columns, const float *column_norm,
                           sqf_act_row *out)
{
    const sqf_partition banks = sqf_partition_make(columns, columns, spec->bank);
    const size_t count = sqf_partition_count(&banks);
    for (size_t j = 0; j < columns; j++) {
        out->value[j] = fabsf(x[j]) * (spec->dynamic_weighted && column_norm ? column_norm[j] : 1.0f);
    }
    for (size_t bank = 0; bank < count; bank++) {
        size_t begin, end;
        sqf_partition_range(&banks, bank, &begin, &end);
        sqf_select_top(out->value + begin, end - begin, sqf_bank_high(spec->bank, spec->high_per_bank, end - begin),
                       out->mask + begin);
    }
}

/* Scale of a part whose largest magnitude is `max`: 0 for a dropped part, 1 for a type without scale. */
static float act_scale(const sqf_act_spec *spec, int part, float max, float unit, const float *static_scale)
{
    const sqf_type type = part == HIGH ? spec->high : spec->low;
    if (!sqf_type_has_scale(type)) {
        return type == SQF_TYPE_NONE ? 0.0f : 1.0f;
    }
    return spec->scale == SQF_ACT_STATIC
               ? static_scale[part]
               : sqf_scale_for_max(sqf_act_scale_type(spec), type, sqf_act_part_clip(spec, part == HIGH) * max, unit);
}

/* The largest magnitude of each part among the columns [begin, end). */
static void find_max(const sqf_act_row *row, size_t begin, size_t end, float max[PARTS])
{
    max[LOW] = max[HIGH] = 0.0f;
    for (size_t j = begin; j < end; j++) {
        const int part = row->mask[j] ? HIGH : LOW;
        max[part] = fmaxf(max[part], fabsf(row->value[j]));
    }
}

/* Scales for the columns [begin, end) in groups [first, last) that share them. */
static void set_scales(const sqf_act_spec *spec, const float unit[PARTS], size_t begin, size_t end, size_t first,
                       size_t last, const float *static_scale, sqf_act_row *out)
{
    float max[PARTS];
    find_max(out, begin, end, max);
    for (size_t g = first; g < last; g++) {
        out->scale_low[g] = act_scale(spec, LOW, max[LOW], unit[LOW], static_scale);
        out->scale_high[g] = act_scale(spec, HIGH, max[HIGH], unit[HIGH], static_scale);
    }
}

/* Scale and zero point of one part for the columns [begin, end) in groups [first, last) that share them. A part
 * without a zero point keeps its scale. */
static void set_zeros(const sqf_act_spec *spec, int part, size_t begin, size_t end, size_t first, size_t last,
                      const float *static_scale, const int32_t *static_zero, sqf_act_row *out)
{
    const sqf_type type = part == HIGH ? spec->high : spec->low;
    const bool has_zero = sqf_act_has_zero(spec, part == HIGH);
    sqf_range range = {0.0f, 0.0f};
    for (size_t j = begin; has_zero && j < end; j++) {
        if ((out->mask[j] ? HIGH : LOW) == part) {
            sqf_range_add(&range, out->value[j]);
        }
    }
    for (size_t g = first; out->zero_low && g < last; g++) {
        float *scale = part == HIGH ? &out->scale_high[g] : &out->scale_low[g];
        int32_t *zero = part == HIGH ? &out->zero_high[g] : &out->zero_low[g];
        *zero = 0;
        if (has_zero && spec->scale == SQF_ACT_STATIC) {
            *scale = static_scale[part];
            *zero = static_zero[part];
        } else if (has_zero) {
            const float clip = sqf_act_part_clip(spec, part == HIGH);
            *scale = sqf_zero_scale(type, clip, range);
            *zero = sqf_zero_point(type, clip, range, *scale);
        }
    }
}

/* The grid value of one element; with a zero point the code less that. */
static float act_round(const sqf_act_spec *spec, const sqf_act_row *row, size_t j, size_t g)
{
    const bool high = row->mask[j];
    const sqf_type type = high ? spec->high : spec->low;
    const float scale = high ? row->scale_high[g] : row->scale_low[g];
    if (sqf_act_has_zero(spec, high)) {
        return sqf_zero_round(type, row->value[j], scale, high ? row->zero_high[g] : row->zero_low[g]);
    }
    return sqf_type_round(type, row->value[j], scale);
}

/* Section 5: gather or rank, then scales, then codes.
 *
 *     S = clip * max|x| / qmax, over the part's elements in the token, or in the group
 *     p = clamp(round(x / S)) on the part's grid
 *
 * S is rounded to the scale type; with fp8 in units of the token: clip * max|x| / qmax / 448 over the part's elements
 * in the token.
 *
 * With zero points: S = clip * (largest - lowest) / (number of codes - 1), z = round(lowest code - clip * lowest / S),
 * p = clamp(round(x / S) + z) - z, where the range from lowest to largest always holds 0.
 *
 * Masks come before scales, because a scale is that of a part. out->value holds |x| * norm while masks are chosen, x
 * while scales are, and grid values at the end. */
void sqf_act_quantize_row(const sqf_act_spec *spec, const float *x, size_t columns, const int32_t *channels,
                          size_t border, const sqf_partition *scale_groups, const float *static_scale,
                          const int32_t *static_zero, const float *column_norm, sqf_act_row *out)
{
    const size_t groups = sqf_partition_count(scale_groups);
    const bool split = sqf_act_spec_is_split(spec);
    if (split && spec->mask == SQF_MASK_DYNAMIC) {
        choose_dynamic(spec, x, columns, column_norm, out);
    }
    out->low = spec->low;
    out->high = spec->high;
    for (size_t j = 0; j < columns; j++) {
        if (!split || spec->mask == SQF_MASK_STATIC) {
            out->mask[j] = split && j >= border;
        }
        out->value[j] = channels ? x[channels[j]] : x[j];
    }
    float max[PARTS];
    find_max(out, 0, columns, max);
    const sqf_type scale_type = sqf_act_scale_type(spec);
    const float unit[PARTS] = {sqf_scale_unit(scale_type, spec->low, sqf_act_part_clip(spec, false) * max[LOW]),
                               sqf_scale_unit(scale_type, spec->high, sqf_act_part_clip(spec, true) * max[HIGH])};
    if (spec->scale != SQF_ACT_GROUP) {
        set_scales(spec, unit, 0, columns, 0, groups, static_scale, out);
        set_zeros(spec, LOW, 0, columns, 0, groups, static_scale, static_zero, out);
        set_zeros(spec, HIGH, 0, columns, 0, groups, static_scale, static_zero, out);
    }
    for (size_t g = 0; g < groups; g++) {
        size_t begin, end;
        sqf_partition_range(scale_groups, g, &begin, &end);
        if (spec->scale == SQF_ACT_GROUP) {
            set_scales(spec, unit, begin, end, g, g + 1, static_scale, out);
            set_zeros(spec, LOW, begin, end, g, g + 1, static_scale, static_zero, out);
            set_zeros(spec, HIGH, begin, end, g, g + 1, static_scale, static_zero, out);
        }
        for (size_t j = begin; j < end; j++) {
            out->value[j] = act_round(spec, out, j, g);
        }
    }
}

/* One output channel's sums over the columns of one segment, by activation part and weight part. */
typedef struct segment_sums {
    int32_t whole[PARTS][PARTS];    /* of grid values times their multipliers */
    double product[PARTS][PARTS];   /* of grid values */
    double magnitude[PARTS][PARTS]; /* of |products| */
} segment_sums;

/* One call: the operands, and what turns grid values into integers. */
typedef struct product {
    const sqf_matrix *weights;
    const sqf_act_row *act;
    const sqf_partition *scale_groups;
    int multiplier_weights[PARTS], multiplier_act[PARTS]; /* 0 = not integer */
    sqf_row row;
} product;

/* True if products of activation part a and weight part w are integers, once multiplied. */
static bool is_whole(const product *p, int a, int w)
{
    return p->multiplier_act[a] != 0 && p->multiplier_weights[w] != 0;
}

/* Columns [begin, end), sorted into four sums by the parts of both operands. Both the exact sum and the float one are
 * kept for every pair; add_segment takes the one that the types call for. */
static segment_sums sum_segment(const product *p, size_t begin, size_t end)
{
    segment_sums sums = {0};
    for (size_t j = begin; j < end; j++) {
        const int a = p->act->mask[j] ? HIGH : LOW, w = p->row.mask[j] ? HIGH : LOW;
        /* Exact: a grid value has at most 24 significant bits, a product of two fits the 53 of a double. */
        const double term = (double)p->act->value[j] * (double)p->row.value[j];
        if (is_whole(p, a, w)) {
            sums.whole[a][w] += (int32_t)(p->act->value[j] * (float)p->multiplier_act[a]) *
                                (int32_t)(p->row.value[j] * (float)p->multiplier_weights[w]);
        }
        sums.product[a][w] += term;
        sums.magnitude[a][w] += fabs(term);
    }
    return sums;
}

/* Adds a segment to y: integer sums are scaled once, other types are sums of products of their values. */
static void add_segment(const product *p, const segment_sums *sums, size_t weight_group, size_t act_group, double *y,
                        double *magnitude)
{
    const float *const act_scales[PARTS] = {p->act->scale_low, p->act->scale_high};
    const float *const weight_scales[PARTS] = {p->row.scale_low, p->row.scale_high};
    for (int a = 0; a < PARTS; a++) {
        for (int w = 0; w < PARTS; w++) {
            const double scale = (double)act_scales[a][act_group] * (double)weight_scales[w][weight_group];
            const double whole = is_whole(p, a, w)
                                     ? (double)sums->whole[a][w] / (p->multiplier_act[a] * p->multiplier_weights[w])
                                     : sums->product[a][w];
            *y += scale * whole;
            *magnitude += scale * (is_whole(p, a, w) ? fabs(whole) : sums->magnitude[a][w]);
        }
    }
}

/* One output channel. Segments are the stretches over which both scales are constant: groups of the weights, cut
 * again at groups of the activations where those are shorter. The integer sums are reported by group of the weights. */
static void multiply_row(const product *p, double *y, double *magnitude, int32_t *sums)
{
    *y = *magnitude = 0.0;
    for (size_t g = 0; g < p->weights->group_count; g++) {
        size_t begin, end;
        sqf_partition_range(&p->weights->groups, g, &begin, &end);
        for (size_t at = begin; at < end;) {
            const size_t act_group = sqf_partition_find(p->scale_groups, at);
            size_t ignored, act_end;
            sqf_partition_range(p->scale_groups, act_group, &ignored, &act_end);
            const size_t stop = act_end < end ? act_end : end;
            const segment_sums segment = sum_segment(p, at, stop);
            add_segment(p, &segment, g, act_group, y, magnitude);
            for (int i = 0; sums && i < PARTS * PARTS; i++) {
                sums[g * PARTS * PARTS + (size_t)i] += segment.whole[i / PARTS][i % PARTS];
            }
            at = stop;
        }
    }
}

/* The longest group must not overflow an int32 sum: with |code| <= 127 on both sides a column adds at most 16129, so
 * 133144 columns = floor((2^31 - 1) / 16129) are safe for int8 times int8. Kernels cut long groups instead
 * (kernels/kernels.h); the reference refuses, because it reports one sum a group. */
static sqf_status check_sums(const product *p, sqf_error *err)
{
    const sqf_type act[PARTS] = {p->act->low, p->act->high};
    const sqf_type weights[PARTS] = {p->weights->spec.low, p->weights->spec.high};
    const size_t columns =
        p->weights->groups.size < p->weights->columns ? p->weights->groups.size : p->weights->columns;
    for (int a = 0; a < PARTS; a++) {
        for (int w = 0; w < PARTS; w++) {
            /* a code and its zero point may stand at either end of the grid */
            const float lowest = p->act->zero_low ? sqf_zero_lowest(act[a]) : 0.0f;
            const double reach = (double)(sqf_type_max(act[a]) - lowest);
            const double largest =
                reach * p->multiplier_act[a] * (double)sqf_type_max(weights[w]) * p->multiplier_weights[w];
            if (largest * (double)columns > (double)INT32_MAX) {
                return sqf_fail(err, SQF_E_SUPPORT, "a group of %zu columns: its %s * %s sums may not fit int32",
                                columns, sqf_type_name(weights[w]), sqf_type_name(act[a]));
            }
        }
    }
    return SQF_OK;
}

/* Section 8:
 *
 *     y[n] = sum over segments, activation parts u, weight parts v of  a_u * S_v[n] * I[n, u, v] */
sqf_status sqf_reference_product(const sqf_matrix *weights, const sqf_act_row *act, const sqf_partition *scale_groups,
                                 double *y, int32_t *sums, double *magnitude, sqf_error *err)
{
    const sqf_weight_spec *spec = &weights->spec;
    product p = {.weights = weights,
                 .act = act,
                 .scale_groups = scale_groups,
                 .multiplier_weights = {sqf_type_multiplier(spec->low), sqf_type_multiplier(spec->high)},
                 .multiplier_act = {sqf_type_multiplier(act->low), sqf_type_multiplier(act->high)}};
    SQF_TRY(check_sums(&p, err));
    SQF_TRY(sqf_row_create(weights, &p.row, err));
    const size_t sums_per_row = weights->group_count * PARTS * PARTS;
    for (size_t i = 0; sums && i < weights->rows * sums_per_row; i++) {
        sums[i] = 0;
    }
    for (size_t n = 0; n < weights->rows; n++) {
        double terms;
        sqf_matrix_unpack_row(weights, n, &p.row);
        multiply_row(&p, &y[n], &terms, sums ? sums + n * sums_per_row : NULL);
        if (magnitude) {
            magnitude[n] = terms;
        }
    }
    sqf_row_clear(&p.row);
    return SQF_OK;
}

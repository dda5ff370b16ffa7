/* The scales of one group: absmax or least squared error, free or tied. Spec: docs/format.md section 3.
 *
 * Scales are rounded to their storage type before anything is measured with them: what is optimised is what a reader
 * will compute. The search tries every factor, because the error has several local minima. */
#include "format/matrix.h"

#include <math.h>

/* The factors of the search: 1.00, 0.99 ... 0.50; with powers of two 2, 1, 0.5, because their absmax rule may clamp. */
enum { SEARCH_STEPS = 51, POWER_STEPS = 3 };

/* The elements of one group and which of its parts is meant. */
typedef struct group_view {
    const float *x;
    const uint8_t *mask; /* NULL = all low */
    const float *unit;   /* [2] of the low and the high scales */
    const float *weight; /* NULL = 1 */
    size_t n;
} group_view;

static bool is_high(const group_view *group, size_t i)
{
    return group->mask && group->mask[i];
}

/* Largest magnitude of one part; 0 if it has no elements. */
static float part_max(const group_view *group, bool high)
{
    float max = 0.0f;
    for (size_t i = 0; i < group->n; i++) {
        const float magnitude = fabsf(group->x[i]);
        max = is_high(group, i) == high && magnitude > max ? magnitude : max;
    }
    return max;
}

/* Squared error of one part under a scale, weighted; in double, so that 51 nearly equal sums can be told apart. */
static double part_error(const group_view *group, bool high, sqf_type type, float scale)
{
    double sum = 0.0;
    for (size_t i = 0; i < group->n; i++) {
        if (is_high(group, i) == high) {
            const double d = (double)group->x[i] - (double)sqf_type_round(type, group->x[i], scale) * (double)scale;
            sum += (group->weight ? (double)group->weight[i] : 1.0) * d * d;
        }
    }
    return sum;
}

/* The scale that puts `max` on the end of the grid. Tied scales have no units. */
static float scale_from_max(const sqf_weight_spec *spec, sqf_type type, float max)
{
    return sqf_scale_round(spec->scale_type, max / sqf_type_limits[type]);
}

static float search_factor(const sqf_weight_spec *spec, int step)
{
    return spec->scale_type == SQF_TYPE_E8M0 ? ldexpf(2.0f, -step) : (float)(100 - step) / 100.0f;
}

/* The scale of one part by itself from its largest magnitude: 0 where the type is none, 1 where it has no scale. */
static float scale_of_part(const sqf_weight_spec *spec, sqf_type type, float max, float unit)
{
    if (!sqf_type_has_scale(type)) {
        return type == SQF_TYPE_NONE ? 0.0f : 1.0f;
    }
    return sqf_scale_for_max(spec->scale_type, type, max, unit);
}

static float free_scale(const sqf_weight_spec *spec, const group_view *group, bool high, bool search)
{
    const sqf_type type = high ? spec->high : spec->low;
    const float max = sqf_type_has_scale(type) ? part_max(group, high) : 0.0f, unit = group->unit[high];
    float best = scale_of_part(spec, type, max, unit);
    if (!search || max == 0.0f) {
        return best;
    }
    double least = INFINITY;
    for (int step = 0; step < (spec->scale_type == SQF_TYPE_E8M0 ? POWER_STEPS : SEARCH_STEPS); step++) {
        const float scale = sqf_scale_for_max(spec->scale_type, type, max * search_factor(spec, step), unit);
        const double error = part_error(group, high, type, scale);
        /* < and not <=: ties go to the larger factor, which comes first. */
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    return best;
}

/* S_low is the larger of what both parts need, so that n = 0 serves the high part. Then the largest n for which the
 * high maximum still fits: n = floor(log2(qmax_high * S_low / max|high|)) between 0 and the limit of the types, found
 * by trying, because products of powers of two are exact and logarithms are not. */
static sqf_group_scales tied_scales(const sqf_weight_spec *spec, float low_max, float high_max)
{
    const float qmax = sqf_type_limits[spec->high];
    sqf_group_scales out = {.low = scale_from_max(spec, spec->low, low_max)};
    if (out.low < high_max / qmax) {
        out.low = scale_from_max(spec, spec->high, high_max);
    }
    const int limit = out.low > 0.0f ? sqf_shift_max(spec) : 0;
    while (out.shift < limit && ldexp((double)qmax * (double)out.low, -(out.shift + 1)) >= (double)high_max) {
        out.shift++;
    }
    out.high = ldexpf(out.low, -out.shift);
    return out;
}

/* The factor acts on the low maximum alone: the high elements are the important ones and are never clipped. */
static sqf_group_scales tied_search(const sqf_weight_spec *spec, const group_view *group, bool search)
{
    const float low_max = part_max(group, false), high_max = part_max(group, true);
    sqf_group_scales best = tied_scales(spec, low_max, high_max);
    double least = INFINITY;
    for (int step = 0; search && step < SEARCH_STEPS; step++) {
        const sqf_group_scales scales = tied_scales(spec, low_max * (float)(100 - step) / 100.0f, high_max);
        const double error =
            part_error(group, false, spec->low, scales.low) + part_error(group, true, spec->high, scales.high);
        if (error < least) {
            least = error;
            best = scales;
        }
    }
    return best;
}

sqf_group_scales sqf_group_scales_choose(const sqf_weight_spec *spec, const float *x, const uint8_t *mask,
                                         const float *weight, size_t n, bool search)
{
    static const float one[2] = {1.0f, 1.0f};
    return sqf_group_scales_choose_in(spec, one, x, mask, weight, n, search);
}

sqf_group_scales sqf_group_scales_choose_in(const sqf_weight_spec *spec, const float unit[2], const float *x,
                                            const uint8_t *mask, const float *weight, size_t n, bool search)
{
    const group_view group = {x, mask, unit, weight, n};
    if (spec->high != SQF_TYPE_NONE && spec->scales == SQF_SCALES_TIED) {
        return tied_search(spec, &group, search);
    }
    return (sqf_group_scales){.low = free_scale(spec, &group, false, search),
                              .high = free_scale(spec, &group, true, search)};
}

sqf_group_scales sqf_group_scales_from_maxima(const sqf_weight_spec *spec, const float unit[2], float low_max,
                                              float high_max)
{
    if (spec->high != SQF_TYPE_NONE && spec->scales == SQF_SCALES_TIED) {
        return tied_scales(spec, low_max, high_max);
    }
    return (sqf_group_scales){.low = scale_of_part(spec, spec->low, low_max, unit[0]),
                              .high = scale_of_part(spec, spec->high, high_max, unit[1])};
}

/* Zero points of activations (docs/format.md section 5): the codes of an integer part stand for the range from its
 * lowest to its largest value instead of one that is symmetric about 0. Inline and shared, because the reference and
 * the kernels must choose the same scale, zero point and code to the last bit. */
#ifndef SQF_FORMAT_ZERO_POINT_H
#define SQF_FORMAT_ZERO_POINT_H

#include "format/type.h"

/* True for the parts that have one: integers whose codes are their grid values. */
static inline bool sqf_act_has_zero(const sqf_act_spec *spec, bool high)
{
    const bool wanted = spec->zero == SQF_ACT_ZERO_POINT || (spec->zero == SQF_ACT_ZERO_LOW && !high);
    return wanted && sqf_type_multiplier(high ? spec->high : spec->low) == 1;
}

/* The lowest code: all 2^bits of them are used but for int8, whose -128 the products of some machines cannot take. The
 * largest is sqf_type_max. */
static inline float sqf_zero_lowest(sqf_type type)
{
    return type == SQF_TYPE_INT8 ? -127.0f : -sqf_type_limits[type] - 1.0f;
}

/* The range that a scale must cover: always with 0 in it, because 0 must have a code (it is what padding holds). */
typedef struct sqf_range {
    float lowest, largest; /* <= 0, >= 0 */
} sqf_range;

static inline void sqf_range_add(sqf_range *range, float x)
{
    range->lowest = x < range->lowest ? x : range->lowest;
    range->largest = x > range->largest ? x : range->largest;
}

/* clip * (largest - lowest) / steps, divided before the difference so that no finite input overflows. */
static inline float sqf_zero_scale(sqf_type type, float clip, sqf_range range)
{
    const float steps = sqf_type_limits[type] - sqf_zero_lowest(type);
    return clip * (range.largest / steps - range.lowest / steps);
}

/* The code of 0. */
static inline int32_t sqf_zero_point(sqf_type type, float clip, sqf_range range, float scale)
{
    if (scale == 0.0f) {
        return 0;
    }
    const float lowest = sqf_zero_lowest(type), largest = sqf_type_limits[type];
    const float zero = lowest - clip * range.lowest / scale;
    return (int32_t)sqf_round_to_step(zero > largest ? largest : zero < lowest ? lowest : zero, 1.0f);
}

/* The code of x less the zero point: the integer that stands for x. */
static inline float sqf_zero_round(sqf_type type, float x, float scale, int32_t zero)
{
    if (scale == 0.0f) {
        return 0.0f;
    }
    const float lowest = sqf_zero_lowest(type) - (float)zero, largest = sqf_type_limits[type] - (float)zero;
    const float q = x / scale;
    return sqf_round_to_step(q > largest ? largest : q < lowest ? lowest : q, 1.0f);
}

#endif

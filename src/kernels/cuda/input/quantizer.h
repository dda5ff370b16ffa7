/* The rounding of activations on the device: what kernels/quantize.c and format/zero_point.h compute on the host,
 * operation by operation, so that codes and scales are the same to the last bit. Spec: docs/format.md section 5. */
#ifndef SQF_KERNELS_CUDA_QUANTIZER_H
#define SQF_KERNELS_CUDA_QUANTIZER_H

#include "kernels/cuda/input/grid.h"
#include "kernels/cuda/instructions/common.h"
#include "kernels/cuda/linear/linear.h"

/* 1.5 * 2^23: added to a number of magnitude up to 2^22 it rounds to a whole one, half to even, whose two's complement
 * then stands in the low bits. */
#define QUANTIZER_ROUND 12582912.0f

enum { QUANTIZER_INFINITY = 0x7f800000 };

/* One part of an input. */
typedef struct quantizer_part {
    cuda_grid grid;
    cuda_element element;
    int32_t multiplier; /* grid value * multiplier is an integer; 0: is none */
    bool has_zero;
    float clip, lowest, largest; /* codes of the integer types, before the zero point */
    float static_scale;
    int32_t static_zero;
} quantizer_part;

/* x / scale for one scale and many x: the quotient as IEEE rounds it, by two corrections of a product with the
 * reciprocal (the residual of a fused multiply-add is exact). Where the range of exponents forbids that, by division.
 */
typedef struct quotient {
    float scale, inverse;
    bool divide;
} quotient;

/* peak: the bits of the largest |x|. Below 2^-90 a residual may be inexact, but then the quotient is so far below every
 * grid that it rounds to 0 in any case. */
CUDA_DEVICE quotient quotient_make(float scale, uint32_t peak)
{
    const bool ordinary = scale >= 0x1p-60f && scale <= 0x1p60f;
    const float inverse = scale >= 0x1p-120f ? 1.0f / scale : 0.0f;
    const bool divide = !(ordinary && __uint_as_float(peak) * inverse <= 0x1p100f);
    return quotient{scale, inverse, divide};
}

/* Where `divide` is false. */
CUDA_DEVICE float quotient_corrected(const quotient &by, float x)
{
    float q = x * by.inverse;
    q = fmaf(fmaf(-q, by.scale, x), by.inverse, q);
    return fmaf(fmaf(-q, by.scale, x), by.inverse, q);
}

CUDA_DEVICE float quotient_of(const quotient &by, float x)
{
    return by.divide ? x / by.scale : quotient_corrected(by, x);
}

CUDA_DEVICE float quantizer_clamp(float x, float lowest, float largest)
{
    return fmaxf(fminf(x, largest), lowest);
}

/* sqf_scale_unit: of a part whose largest magnitude in the token is `peak`. */
CUDA_DEVICE float quantizer_unit(sqf_type scale_type, const quantizer_part &part, float peak)
{
    if (scale_type != SQF_TYPE_FP8) {
        return 1.0f;
    }
    const float unit = part.clip * peak / part.grid.limit / 448.0f;
    return unit < 0x1p-100f ? 0x1p-100f : unit;
}

/* sqf_zero_scale and sqf_zero_point of a range from -below to above. */
CUDA_DEVICE float quantizer_zero_scale(const quantizer_part &part, float below, float above, int32_t *zero)
{
    const float steps = part.largest - part.lowest, lowest = -below;
    const float scale = part.clip * (above / steps - lowest / steps);
    *zero = 0;
    if (scale != 0.0f) {
        const float point = quantizer_clamp(part.lowest - part.clip * lowest / scale, part.lowest, part.largest);
        *zero = (int32_t)(__float_as_uint(point + QUANTIZER_ROUND) - 0x4b400000u);
    }
    return scale;
}

/* The power of two that brings magnitudes up to `peak` below 2^15: what halves of float activations are divided by. So
 * the smallest normal half is 2^-28 of the largest magnitude. */
CUDA_DEVICE float quantizer_half_scale(float peak)
{
    const int exponent = peak > 0.0f ? grid_exponent(peak) - 14 : 0;
    return grid_power(exponent < -112 ? -112 : exponent);
}

/* The integer that stands for x of a part of integers, in the low bits; `zero` included. Scale > 0. corrected: `divide`
 * is known to be false. */
template <bool corrected>
CUDA_DEVICE uint32_t quantizer_whole(const quantizer_part &part, const quotient &by, int32_t zero, float x)
{
    const float shift = (float)zero, exact = corrected ? quotient_corrected(by, x) : quotient_of(by, x);
    const float q = quantizer_clamp(exact, part.lowest - shift, part.largest - shift);
    return __float_as_uint(q + QUANTIZER_ROUND) + (uint32_t)zero;
}

/* What stands in the codes for x, as a float: grid value * multiplier for integers (less the zero point), the grid
 * value for small floats, the rounded x for halves. Scale > 0. */
CUDA_DEVICE float quantizer_value(const quantizer_part &part, const quotient &by, int32_t zero, float x)
{
    if (part.multiplier == 1) {
        const float shift = (float)zero;
        const float q = quantizer_clamp(quotient_of(by, x), part.lowest - shift, part.largest - shift);
        return (q + QUANTIZER_ROUND) - QUANTIZER_ROUND;
    }
    if (grid_has_scale(part.grid)) {
        const float value = grid_round_quotient(part.grid, grid_clamp(quotient_of(by, x), part.grid.limit));
        return part.multiplier ? value * (float)part.multiplier : value;
    }
    return part.grid.type == SQF_TYPE_FP32 ? x : grid_round_divided(part.grid, x, 1.0f);
}

/* The e4m3 pattern of a value on its grid; 0 for both zeros. */
CUDA_DEVICE uint32_t quantizer_e4m3(float value)
{
    const uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
    const uint32_t normal = (magnitude >> 20) - (120u << 3);
    const uint32_t tiny = __float_as_uint(__uint_as_float(magnitude) * 0x1p9f + QUANTIZER_ROUND) & 0x7fu;
    const uint32_t code = magnitude < 0x3c800000u ? tiny : normal; /* 2^-6 */
    return magnitude ? code | (bits >> 24 & 0x80u) : 0;
}

/* The value of an e4m3 pattern that is no NaN. */
CUDA_DEVICE float quantizer_from_e4m3(uint32_t code)
{
    const uint32_t sign = (code & 0x80u) << 24, magnitude = code & 0x7fu;
    const float value = magnitude < 8 ? (float)magnitude * 0x1p-9f : __uint_as_float((magnitude << 20) + (120u << 23));
    return __uint_as_float(sign | __float_as_uint(value));
}

/* bf16 of a finite number, never infinite. */
CUDA_DEVICE uint32_t quantizer_bf16(float x)
{
    return __float_as_uint(grid_clamp(grid_bf16(x), 0x1.fep127f)) >> 16;
}

/* e^x as the CPU's kernels compute it (kernels/cpu/vector.h): 0 below -87, the same roundings. */
CUDA_DEVICE float quantizer_exponential(float x)
{
    const bool vanishes = x < -87.0f;
    x = 88.0f < x ? 88.0f : x;
    x = -87.0f > x ? -87.0f : x;
    const float shifted = x * 1.44269504088896341f + QUANTIZER_ROUND;
    const float n = shifted - QUANTIZER_ROUND;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const float power = __uint_as_float((__float_as_uint(shifted) - 0x4b400000u + 127u) << 23);
    return vanishes ? 0.0f : p * power;
}

CUDA_DEVICE float quantizer_silu(float x)
{
    return x / (quantizer_exponential(-x) + 1.0f);
}

/* The rules of a part; host. static_scale, static_zero: [2]. */
static inline quantizer_part quantizer_part_make(const cuda_input_layout *layout, bool high)
{
    const sqf_act_spec *spec = &layout->spec;
    const sqf_type type = high ? spec->high : spec->low;
    const bool whole = type >= SQF_TYPE_INT2 && type <= SQF_TYPE_INT8;
    const bool zero_wanted = spec->zero == SQF_ACT_ZERO_POINT || (spec->zero == SQF_ACT_ZERO_LOW && !high);
    quantizer_part part = quantizer_part();
    part.grid = grid_make(type);
    part.element = high ? layout->high_element : layout->low_element;
    part.multiplier = whole ? 1 : type == SQF_TYPE_FP4 ? 2 : type == SQF_TYPE_FP6 ? 8 : 0;
    part.has_zero = zero_wanted && whole;
    part.clip = high && spec->high_clip > 0.0f ? spec->high_clip : spec->clip;
    part.largest = part.grid.limit;
    part.lowest = part.has_zero && type != SQF_TYPE_INT8 ? -part.grid.limit - 1.0f : -part.grid.limit;
    part.static_scale = layout->static_scale[high];
    part.static_zero = part.has_zero ? layout->static_zero[high] : 0;
    return part;
}

#endif

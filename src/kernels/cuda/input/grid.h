/* The grids of the element types and of scales for code that runs on the device: format/type.h and format/type.c word
 * for word, bit for bit (tests/kernels/cuda compares them). Exponents are read from the bits, so that no function of a
 * mathematical library is called. */
#ifndef SQF_KERNELS_CUDA_GRID_H
#define SQF_KERNELS_CUDA_GRID_H

#include <string.h>

#include <sqf/format.h>

#include "kernels/cuda/linear/layout.h"

/* How one type rounds: a multiple of the step, which grows with the power of two of the value from `normal` on and is
 * `normal` * fraction below. Integers have a `normal` beyond their limit. */
typedef struct cuda_grid {
    sqf_type type;
    float limit, normal, fraction;
} cuda_grid;

SQF_BOTH uint32_t grid_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

SQF_BOTH float grid_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

SQF_BOTH cuda_grid grid_make(sqf_type type)
{
    const float beyond = 0x1p30f;
    switch (type) {
    case SQF_TYPE_INT2: return cuda_grid{type, 1.0f, beyond, 0x1p-30f};
    case SQF_TYPE_INT3: return cuda_grid{type, 3.0f, beyond, 0x1p-30f};
    case SQF_TYPE_INT4: return cuda_grid{type, 7.0f, beyond, 0x1p-30f};
    case SQF_TYPE_INT5: return cuda_grid{type, 15.0f, beyond, 0x1p-30f};
    case SQF_TYPE_INT6: return cuda_grid{type, 31.0f, beyond, 0x1p-30f};
    case SQF_TYPE_INT8: return cuda_grid{type, 127.0f, beyond, 0x1p-30f};
    case SQF_TYPE_FP4: return cuda_grid{type, 6.0f, 1.0f, 0x1p-1f};
    case SQF_TYPE_FP6: return cuda_grid{type, 7.5f, 1.0f, 0x1p-3f};
    case SQF_TYPE_FP6_E3M2: return cuda_grid{type, 28.0f, 0x1p-2f, 0x1p-2f};
    case SQF_TYPE_FP8: return cuda_grid{type, 448.0f, 0x1p-6f, 0x1p-3f};
    case SQF_TYPE_FP8_E5M2: return cuda_grid{type, 57344.0f, 0x1p-14f, 0x1p-2f};
    case SQF_TYPE_FP16: return cuda_grid{type, 65504.0f, 0.0f, 0.0f};
    case SQF_TYPE_BF16: return cuda_grid{type, 0x1.fep127f, 0.0f, 0.0f};
    case SQF_TYPE_E8M0: return cuda_grid{type, 0x1p127f, 0.0f, 0.0f};
    default: return cuda_grid{type, 0.0f, 0.0f, 0.0f};
    }
}

SQF_BOTH bool grid_has_scale(const cuda_grid &grid)
{
    return grid.fraction != 0.0f;
}

SQF_BOTH float grid_clamp(float x, float limit)
{
    x = x > limit ? limit : x;
    return x < -limit ? -limit : x;
}

/* A quotient within the limits of a type with scale, rounded to its grid. */
SQF_BOTH float grid_round_quotient(const cuda_grid &grid, float q)
{
    const float power = grid_float(grid_bits(q) & 0x7f800000u);
    const float shift = 0x1.8p23f * ((power < grid.normal ? grid.normal : power) * grid.fraction);
    return (q + shift) - shift;
}

SQF_BOTH uint16_t grid_to_fp16(float x)
{
    const uint32_t bits = grid_bits(x);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (magnitude >= 0x477ff000u) {
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) {
        return (uint16_t)(sign | (uint32_t)((grid_float(magnitude) * 0x1p24f + 0x1.8p23f) - 0x1.8p23f));
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | ((rounded >> 13) - (112u << 10)));
}

SQF_BOTH float grid_from_fp16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 0x1fu;
    const uint32_t fraction = half & 0x3ffu;
    if (exponent == 0) {
        return grid_float(sign | grid_bits((float)fraction * 0x1p-24f));
    }
    return grid_float(sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13);
}

/* A value rounded to bf16. */
SQF_BOTH float grid_bf16(float x)
{
    const uint32_t bits = grid_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return grid_float((bits | 0x400000u) & 0xffff0000u);
    }
    return grid_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

SQF_BOTH float grid_fp16(float x)
{
    return grid_from_fp16(grid_to_fp16(x));
}

/* sqf_type_round where a zero scale has become an infinite divisor: grid values, not what they stand for. */
SQF_BOTH float grid_round_divided(const cuda_grid &grid, float x, float divisor)
{
    if (grid_has_scale(grid)) {
        return grid_round_quotient(grid, grid_clamp(x / divisor, grid.limit));
    }
    switch (grid.type) {
    case SQF_TYPE_FP16: return grid_clamp(grid_fp16(x), grid.limit) + 0.0f;
    case SQF_TYPE_BF16: return grid_clamp(grid_bf16(x), grid.limit) + 0.0f;
    case SQF_TYPE_FP32: return x;
    default: return 0.0f;
    }
}

SQF_BOTH float grid_divisor(float scale)
{
    return scale > 0.0f ? scale : grid_float(0x7f800000u);
}

/* sqf_type_round */
SQF_BOTH float grid_round(const cuda_grid &grid, float x, float scale)
{
    return grid_round_divided(grid, x, scale == 0.0f ? grid_divisor(0.0f) : scale);
}

/* floor(log2 x) of x > 0 */
SQF_BOTH int grid_exponent(float x)
{
    const int shift = x < 0x1p-126f ? 24 : 0;
    return (int)(grid_bits(shift ? x * 0x1p24f : x) >> 23) - 127 - shift;
}

/* 2^exponent, kept within 2^-127 .. 2^127 */
SQF_BOTH float grid_power(int exponent)
{
    return exponent <= -127 ? grid_float(1u << 22)
                            : grid_float((uint32_t)((exponent > 127 ? 127 : exponent) + 127) << 23);
}

/* sqf_scale_round */
SQF_BOTH float grid_scale_round(sqf_type scale_type, float scale)
{
    if (scale_type == SQF_TYPE_E8M0) {
        return grid_power(scale > 0.0f ? grid_exponent(scale) : -127);
    }
    if (scale_type == SQF_TYPE_FP32 || scale == 0.0f) {
        return scale;
    }
    const cuda_grid grid = grid_make(scale_type);
    const float smallest = scale_type == SQF_TYPE_FP16 ? 0x1p-24f : scale_type == SQF_TYPE_FP8 ? 0x1p-9f : 0x1p-133f;
    const float rounded = scale_type == SQF_TYPE_FP8    ? grid_round(grid, scale, 1.0f)
                          : scale_type == SQF_TYPE_FP16 ? grid_fp16(scale)
                                                        : grid_bf16(scale);
    return rounded > grid.limit ? grid.limit : rounded < smallest ? smallest : rounded;
}

/* sqf_scale_for_max */
SQF_BOTH float grid_scale_for_max(sqf_type scale_type, const cuda_grid &grid, float max, float unit)
{
    if (scale_type == SQF_TYPE_E8M0) {
        return grid_power(max > 0.0f ? grid_exponent(max) - grid_exponent(grid.limit) : -127);
    }
    const float scale = max / grid.limit;
    return scale_type == SQF_TYPE_FP8 ? unit * grid_scale_round(scale_type, scale / unit)
                                      : grid_scale_round(scale_type, scale);
}

#endif

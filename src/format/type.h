/* The grids of the element types: rounding to them, their codes, and half floats. Spec: docs/format.md section 3.
 *
 * A grid value is a float on the type's grid, before the scale: 7 for the largest int4, 448 for the largest fp8.
 * Algorithms work on grid values, only the stored layout knows codes. Rounding is inline and the same in the
 * reference, the algorithms and (lane by lane) the kernels: all must choose the same code for the same quotient. */
#ifndef SQF_FORMAT_TYPE_H
#define SQF_FORMAT_TYPE_H

#include <string.h>

#include <sqf/format.h>

/* True for the types whose grid values are small integers (fp4 and fp6 count: 2 or 8 times their value is one). */
bool sqf_type_is_integer(sqf_type type);

/* 1 for the integer types, 2 for fp4, 8 for fp6: grid value * multiplier is an integer that fits int8. 0 for the
 * others. */
int sqf_type_multiplier(sqf_type type);

/* True if a part of this type has scales (integers and floats of 4, 6 and 8 bits). */
bool sqf_type_has_scale(sqf_type type);

/* Largest grid value by type, 0 for none; 65504 and the largest finite bf16 for the half types. Read by the inline
 * rounding below; sqf_type_max is the public view. */
extern const float sqf_type_limits[SQF_TYPE_COUNT];

/* Half floats, round to nearest even; overflow gives infinity. NaN stays NaN. */
uint16_t sqf_fp16_from_float(float x);
float sqf_fp16_to_float(uint16_t bits);
uint16_t sqf_bf16_from_float(float x);
float sqf_bf16_to_float(uint16_t bits);

/* |q| <= 2^22 rounded to a multiple of `step` (a power of two), ties to even: the sum pushes the bits below `step`
 * out of the 24 bits of a float, and the addition's own rounding does the work, alike on every machine. Gives +0. */
static inline float sqf_round_to_step(float q, float step)
{
    const float shift = 0x1.8p23f * step;
    return (q + shift) - shift;
}

/* The distance of neighbours on a small float's grid at |q|: 2^exponent * fraction, a constant below the smallest
 * normal number. */
static inline float sqf_small_float_step(float q, float smallest_normal, float fraction)
{
    uint32_t bits;
    float power;
    memcpy(&bits, &q, sizeof bits);
    bits &= 0x7f800000u;
    memcpy(&power, &bits, sizeof power);
    return (power < smallest_normal ? smallest_normal : power) * fraction;
}

/* The same for a type, at q within its limits; 1 for the integers. */
static inline float sqf_type_step(sqf_type type, float q)
{
    switch (type) {
    case SQF_TYPE_FP4: return sqf_small_float_step(q, 1.0f, 0x1p-1f);
    case SQF_TYPE_FP6: return sqf_small_float_step(q, 1.0f, 0x1p-3f);
    case SQF_TYPE_FP6_E3M2: return sqf_small_float_step(q, 0x1p-2f, 0x1p-2f);
    case SQF_TYPE_FP8: return sqf_small_float_step(q, 0x1p-6f, 0x1p-3f);
    case SQF_TYPE_FP8_E5M2: return sqf_small_float_step(q, 0x1p-14f, 0x1p-2f);
    default: return 1.0f;
    }
}

/* NaN passes through; callers have checked for it. */
static inline float sqf_clamp(float x, float limit)
{
    x = x > limit ? limit : x;
    return x < -limit ? -limit : x;
}

/* Nearest grid value of x / scale, ties to even, clamped to the grid; 0 where scale is 0. For fp16 and bf16 the value
 * x itself rounded to the type (scale ignored), for fp32 x. The result times the scale is the dequantized value.
 * A true division, never a product with the reciprocal. x finite, scale >= 0. Never gives a negative zero. */
static inline float sqf_type_round(sqf_type type, float x, float scale)
{
    if (type == SQF_TYPE_FP16) {
        return sqf_clamp(sqf_fp16_to_float(sqf_fp16_from_float(x)), sqf_type_limits[type]) + 0.0f;
    }
    if (type == SQF_TYPE_BF16) {
        return sqf_clamp(sqf_bf16_to_float(sqf_bf16_from_float(x)), sqf_type_limits[type]) + 0.0f;
    }
    if (type == SQF_TYPE_FP32) {
        return x;
    }
    if (scale == 0.0f) {
        return 0.0f;
    }
    const float q = sqf_clamp(x / scale, sqf_type_limits[type]);
    return sqf_round_to_step(q, sqf_type_step(type, q));
}

/* The stored code of a grid value (q + qmax for integers, the bit pattern for floats), and back.
 * fp4, fp6 and fp8: a zero has the code 0 whatever its sign, so that the sentinels stay free. A code decodes to a value
 * whether or not it is valid, none to 0. */
uint32_t sqf_type_encode(sqf_type type, float value);
float sqf_type_decode(sqf_type type, uint32_t code);

/* The code that marks a high element in the low plane (vmask): all ones for integers and fp8, negative zero for
 * fp4 and fp6.
 * Only for types that may be a low part. */
uint32_t sqf_type_sentinel(sqf_type type);

/* False for codes that no writer produces: the sentinel, negative zeros of fp4, fp6 and fp8, NaN and infinity.
 */
bool sqf_type_code_valid(sqf_type type, uint32_t code);

/* True for the types that scales may be stored in: fp16, bf16, fp32, fp8, e8m0. */
bool sqf_type_is_scale(sqf_type type);

/* A scale as its storage type holds it: half to even, e8m0 downwards. A scale that would overflow or vanish (0 though
 * x > 0) becomes the largest finite or the smallest positive value; e8m0 has no 0 and takes its smallest. scale >= 0.
 */
float sqf_scale_round(sqf_type scale_type, float scale);

/* The scale of a part of `type` whose largest magnitude is `max`: max / qmax rounded to the scale type. With e8m0 the
 * rule of OCP MX, 2^(floor(log2 max) - floor(log2 qmax)), where the largest element may be clamped. With fp8 in
 * multiples of `unit`, the scale of the tensor or token; for the other types unit is 1. */
float sqf_scale_for_max(sqf_type scale_type, sqf_type type, float max, float unit);

/* The unit for a part whose largest magnitude is `max`: the largest scale becomes fp8's largest value; never so small
 * that products with it could be subnormal. 1 for scale types other than fp8. */
float sqf_scale_unit(sqf_type scale_type, sqf_type type, float max);

/* Bytes of one element of a type that is stored in whole bytes: int8 and fp8 1, fp16 and bf16 2, fp32 4. 0 for none
 * and for the types that are packed. */
size_t sqf_type_storage_bytes(sqf_type type);

/* The name of a whole-byte type in safetensors: "I8", "F8_E4M3", "F16", "BF16", "F32"; "U8" for packed codes. */
const char *sqf_type_dtype(sqf_type type);

#endif

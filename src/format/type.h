/* The grids of the element types: rounding to them, their codes, and half floats. Spec: docs/format.md section 3.
 *
 * A grid value is a float on the type's grid, before the scale: 7 for the largest int4, 448 for the largest fp8.
 * Algorithms work on grid values, only the stored layout knows codes. Rounding is inline and the same in the
 * reference, the algorithms and (lane by lane) the kernels: all must choose the same code for the same quotient. */
#ifndef SQF_FORMAT_TYPE_H
#define SQF_FORMAT_TYPE_H

#include <string.h>

#include <sqf/format.h>

/* True for the types whose grid values are small integers (fp4 counts: twice its value is one). */
bool sqf_type_is_integer(sqf_type type);

/* 1 for the integer types, 2 for fp4: grid value * multiplier is an integer that fits int8. 0 for the others. */
int sqf_type_multiplier(sqf_type type);

/* True if a part of this type has scales (int, fp4, fp8). */
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

/* The distance of neighbours on fp8's grid at |q|: 2^(exponent - 3), subnormals below 2^-6. */
static inline float sqf_fp8_step(float q)
{
    uint32_t bits;
    float power;
    memcpy(&bits, &q, sizeof bits);
    bits &= 0x7f800000u;
    memcpy(&power, &bits, sizeof power);
    return (power < 0x1p-6f ? 0x1p-6f : power) * 0x1p-3f;
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
    if (type == SQF_TYPE_FP4) {
        const float magnitude = q < 0.0f ? -q : q;
        return sqf_round_to_step(q, magnitude < 2.0f ? 0.5f : magnitude < 4.0f ? 1.0f : 2.0f);
    }
    return sqf_round_to_step(q, type == SQF_TYPE_FP8 ? sqf_fp8_step(q) : 1.0f);
}

/* The stored code of a grid value (q + qmax for integers, the bit pattern for fp4, fp8, fp16 and bf16), and back.
 * fp4 and fp8: a zero has the code 0 whatever its sign, so that the sentinels stay free. A code decodes to a value
 * whether or not it is valid, none to 0. */
uint32_t sqf_type_encode(sqf_type type, float value);
float sqf_type_decode(sqf_type type, uint32_t code);

/* The code that marks a high element in the low plane (vmask): all ones for integers, 0x8 for fp4, 0xFF for fp8.
 * Only for types that may be a low part. */
uint32_t sqf_type_sentinel(sqf_type type);

/* False for codes that no writer produces: the sentinel, negative zeros of fp4 and fp8, NaN and infinity. */
bool sqf_type_code_valid(sqf_type type, uint32_t code);

/* A scale as its storage type holds it (fp16, bf16, fp32). A scale that would overflow or vanish (0 though x > 0)
 * becomes the largest finite or the smallest positive value. scale >= 0. */
float sqf_scale_round(sqf_type scale_type, float scale);

/* Bytes of one element of a type that is stored in whole bytes: int8 and fp8 1, fp16 and bf16 2, fp32 4. 0 for none
 * and for the types that are packed. */
size_t sqf_type_storage_bytes(sqf_type type);

/* The name of a whole-byte type in safetensors: "I8", "F8_E4M3", "F16", "BF16", "F32"; "U8" for packed codes. */
const char *sqf_type_dtype(sqf_type type);

#endif

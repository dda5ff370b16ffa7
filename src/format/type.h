/* The grids of the element types: rounding to them, their codes, and half floats. Spec: docs/format.md section 3. */
#ifndef SQF_FORMAT_TYPE_H
#define SQF_FORMAT_TYPE_H

#include <sqf/format.h>

/* True for the types whose grid values are small integers (fp4 counts: twice its value is one). */
bool sqf_type_is_integer(sqf_type type);

/* 1 for the integer types, 2 for fp4: grid value * multiplier is an integer that fits int8. */
int sqf_type_multiplier(sqf_type type);

/* True if a part of this type has scales (int, fp4, fp8). */
bool sqf_type_has_scale(sqf_type type);

/* Nearest grid value of x / scale, ties to even, clamped to the grid; 0 where scale is 0. For fp16 and bf16 the value
 * x itself rounded to the type (scale ignored). The result times the scale is the dequantized value. */
float sqf_type_round(sqf_type type, float x, float scale);

/* The stored code of a grid value (q + qmax for integers, the bit pattern for fp4 and fp8), and back.
 * fp4 and fp8: a zero has the code 0 whatever its sign, so that the sentinels stay free. */
uint32_t sqf_type_encode(sqf_type type, float value);
float sqf_type_decode(sqf_type type, uint32_t code);

/* The code that marks a high element in the low plane (vmask). */
uint32_t sqf_type_sentinel(sqf_type type);

/* False for codes that no writer produces (the sentinel among them). */
bool sqf_type_code_valid(sqf_type type, uint32_t code);

/* Half floats, round to nearest even; overflow gives infinity. */
uint16_t sqf_fp16_from_float(float x);
float sqf_fp16_to_float(uint16_t bits);
uint16_t sqf_bf16_from_float(float x);
float sqf_bf16_to_float(uint16_t bits);

/* A scale as its storage type holds it (fp16, bf16, fp32). An fp16 scale that would overflow or vanish
 * (0 though x > 0) becomes the largest finite or the smallest positive value. */
float sqf_scale_round(sqf_type scale_type, float scale);

/* Bytes of a scale or of an element of a whole-byte type in storage: fp16 2, bf16 2, fp32 4, int8 and fp8 1. */
size_t sqf_type_storage_bytes(sqf_type type);

#endif

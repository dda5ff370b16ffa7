/* How the codes of an input are read back: for dequantizing and for the reference product. */
#ifndef SQF_KERNELS_CUDA_INPUT_H
#define SQF_KERNELS_CUDA_INPUT_H

#include "kernels/cuda/input/quantizer.h"

/* The number that stands at column 0..63 of a unit of activations, before scale and zero point. */
CUDA_DEVICE float cuda_activation_code(const uint8_t *unit, cuda_element element, unsigned column)
{
    switch (element) {
    case CUDA_NIBBLE: return (float)((int)((uint32_t)unit[column / 2] << (column % 2 ? 24 : 28)) >> 28);
    case CUDA_BYTE: return (float)(int8_t)unit[cuda_byte_unit_place(column)];
    case CUDA_FP4: return cuda_e2m1_twice((uint32_t)unit[column / 2] >> column % 2 * 4);
    case CUDA_FP8: return quantizer_from_e4m3(unit[cuda_byte_unit_place(column)]);
    case CUDA_FP16: return grid_from_fp16(((const uint16_t *)unit)[cuda_half_unit_place(column)]);
    case CUDA_BF16: return __uint_as_float((uint32_t)((const uint16_t *)unit)[cuda_half_unit_place(column)] << 16);
    default: return ((const float *)unit)[column];
    }
}

/* Where unit `unit` of a plane stands in a token's codes, by the elements of the low and the high section (or plane).
 */
SQF_BOTH size_t cuda_unit_offset(cuda_element low, cuda_element high, unsigned plane, unsigned low_units, unsigned unit)
{
    if (plane == 1) {
        return (size_t)unit * cuda_unit_bytes(high);
    }
    const unsigned before = unit < low_units ? unit : low_units;
    return (size_t)before * cuda_unit_bytes(low) + (size_t)(unit - before) * cuda_unit_bytes(high);
}

/* The value at a column of a unit. */
CUDA_DEVICE float cuda_activation(const uint8_t *unit, cuda_element element, unsigned column, float scale, int32_t zero)
{
    const float code = cuda_activation_code(unit, element, column);
    return element == CUDA_BF16 || element == CUDA_FP32 ? code : (code - (float)zero) * scale;
}

#endif

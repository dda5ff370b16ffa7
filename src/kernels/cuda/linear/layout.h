/* How weights and activations lie in device memory, as functions that the host and the GPU share: packing, kernels,
 * tests and the emulation all ask here.
 *
 * UNIT: 64 stored columns. A segment (constant scales of both operands) is padded with zeros to whole units, so that
 * every kernel steps by units. A tile is 16 rows of one unit; weights are held tile by tile in the order in which the
 * 32 lanes of a warp hold them as the A operand of a matrix instruction (rows = output channels); tokens are the
 * columns of the B operand. A lane's registers of a tile are 16 adjacent bytes (or several times 16), so that a warp
 * reads a tile with full 16-byte loads and no shared memory, or a bulk copy moves it as it is.
 *
 * With g = lane / 4 and t = lane % 4 the A registers of all matrix instructions here (m16n8k16 of 16 bits, m16n8k32 of
 * 8, m16n8k64 of 4) are: a0 row g, first half of the depth; a1 row g + 8, first half; a2 row g, second half; a3 row
 * g + 8, second half; inside a half lane t holds the t-th 32 bits.
 *
 *   NIBBLES  tile 512 bytes: lane 16 bytes = r0..r3; r0: row g, columns 8t..8t+7, column 8t + j in bits 4j..4j+3
 *            (two's complement); r1: row g + 8; r2, r3: the same of columns 32 + 8t. As it is the A operand of
 * m16n8k64. For m16n8k32 a register gives two: even columns (low nibbles of its bytes) and odd ones. BYTES    tile 1024
 * bytes: [2 halves of 32 columns][32 lanes][16 bytes] a0..a3 of m16n8k32: even columns of 8t..8t+7 first half of the
 * depth, odd ones second half. FP8 the same. HALVES   tile 2048 bytes: [4 steps][32 lanes][16 bytes] a0..a3 of
 * m16n8k16, 16 bits each, order below.
 *
 * Activations lie token by token, unit by unit, with the columns of a unit in the order in which the B operand meets
 * the A operand's: */
#ifndef SQF_KERNELS_CUDA_LAYOUT_H
#define SQF_KERNELS_CUDA_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define SQF_BOTH __host__ __device__ __forceinline__
#else
#define SQF_BOTH inline
#endif

enum {
    CUDA_UNIT = 64,        /* columns */
    CUDA_TILE_ROWS = 16,   /* rows of a tile */
    CUDA_ROW_PAD = 128,    /* rows are padded to a multiple of this: what one block of the prefill kernels covers */
    CUDA_TOKEN_PAD = 128,  /* buffers of activations have room for a multiple of this many tokens */
    CUDA_NIBBLE_UNIT = 32, /* bytes of a unit of activations: nibbles, bytes, halves */
    CUDA_BYTE_UNIT = 64,
    CUDA_HALF_UNIT = 128,
    CUDA_NIBBLE_TILE = 512, /* bytes of a tile of weights */
    CUDA_BYTE_TILE = 1024,
    CUDA_HALF_TILE = 2048
};

/* Column (0..31 of each half unit) that stands at byte `place` (0..31) of 32 bytes of int8 or fp8: the first 16 are the
 * even columns, the last 16 the odd ones. */
SQF_BOTH unsigned cuda_byte_column(unsigned place)
{
    return 8 * (place % 16 / 4) + 2 * (place % 4) + place / 16;
}

/* The inverse. */
SQF_BOTH unsigned cuda_byte_place(unsigned column)
{
    return column % 2 * 16 + column / 8 * 4 + column % 8 / 2;
}

/* The same for 32 halves: two steps of 16 places; a pair of neighbours are columns 4 apart, because that is how two
 * nibbles come out of a register with one mask. */
SQF_BOTH unsigned cuda_half_column(unsigned place)
{
    const unsigned step = place / 16, q = place % 16;
    return 8 * (q % 8 / 2) + 2 * step + q / 8 + 4 * (q % 2);
}

SQF_BOTH unsigned cuda_half_place(unsigned column)
{
    const unsigned t = column / 8, in = column % 8;
    return in % 4 / 2 * 16 + in % 2 * 8 + 2 * t + in / 4;
}

/* Byte offset of a nibble's byte in its tile, and whether it is the upper half of the byte; row 0..15, column 0..63. */
SQF_BOTH size_t cuda_nibble_offset(unsigned row, unsigned column, unsigned *upper)
{
    const unsigned lane = row % 8 * 4 + column % 32 / 8, reg = row / 8 + 2 * (column / 32);
    *upper = column % 2;
    return lane * 16 + reg * 4 + column % 8 / 2;
}

/* Byte offset of an element in a BYTES tile. */
SQF_BOTH size_t cuda_byte_offset(unsigned row, unsigned column)
{
    const unsigned place = cuda_byte_place(column % 32);
    const unsigned lane = row % 8 * 4 + place % 16 / 4, reg = row / 8 + 2 * (place / 16);
    return column / 32 * 512 + lane * 16 + reg * 4 + place % 4;
}

/* Byte offset of an element in a HALVES tile. */
SQF_BOTH size_t cuda_half_offset(unsigned row, unsigned column)
{
    const unsigned place = cuda_half_place(column % 32), step = column / 32 * 2 + place / 16, q = place % 16;
    const unsigned lane = row % 8 * 4 + q % 8 / 2, reg = row / 8 + 2 * (q / 8);
    return step * 512 + lane * 16 + reg * 4 + q % 2 * 2;
}

/* Place of column 0..63 in a unit of activations; nibbles stand in natural order, two a byte, the even one low. */
SQF_BOTH unsigned cuda_byte_unit_place(unsigned column)
{
    return column / 32 * 32 + cuda_byte_place(column % 32);
}

SQF_BOTH unsigned cuda_half_unit_place(unsigned column)
{
    return column / 32 * 32 + cuda_half_place(column % 32);
}

/* Twice a number of the fp4 grid as e2m1. */
SQF_BOTH uint32_t cuda_e2m1(int twice)
{
    const int magnitude = twice < 0 ? -twice : twice;
    const int code = magnitude <= 4 ? magnitude : magnitude <= 6 ? 5 : magnitude <= 8 ? 6 : 7;
    return (uint32_t)(twice < 0 ? 8 | code : code);
}

/* The inverse, of the lower four bits. */
SQF_BOTH float cuda_e2m1_twice(uint32_t code)
{
    const uint32_t magnitude = code & 7;
    const float twice = magnitude <= 4 ? (float)magnitude : magnitude == 7 ? 12.0f : (float)(2 * magnitude - 4);
    return code & 8 ? -twice : twice;
}

#endif

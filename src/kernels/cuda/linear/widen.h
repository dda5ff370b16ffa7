/* Weights in registers made wider: nibbles and fp8 into what matrix instructions take, integers into floats, and the
 * high elements of SPLIT weights out of their compact list. Every function works on one register of one lane, in the
 * order of layout.h: with the A register of columns 8t..8t+7 of a half unit in mind, "even" are columns 8t, 8t + 2,
 * 8t + 4, 8t + 6, and pair j (0..3) of 16 bits are columns 8t + j and 8t + j + 4.
 *
 * Multiplying by a power of two is free where a scale follows: the constants below say what a result is times too
 * large. */
#ifndef SQF_KERNELS_CUDA_WIDEN_H
#define SQF_KERNELS_CUDA_WIDEN_H

#include "kernels/cuda/instructions/common.h"

#ifndef __CUDACC__
#include "kernels/cuda/emulation/halves.h"
#endif

/* What the widened number is times the stored one. */
#define WIDEN_NIBBLE_GAIN 16.0f       /* widen_even, widen_odd */
#define WIDEN_FP8_GAIN    0.00390625f /* widen_fp8_fp16: 2^-8 */
/* How many times smaller it is. */
#define WIDEN_NIBBLE_FP8_LOSS 512.0f /* widen_nibbles_fp8 */
#define WIDEN_FP4_FP8_LOSS    64.0f  /* widen_fp4_fp8_even, _odd */

/* The start of an integer sum that is to be read as a float: 1.5 * 2^23. For |sum| < 2^22. */
enum { WIDEN_SUM_START = 0x4B400000 };

CUDA_DEVICE float widen_sum(int32_t started)
{
    return __int_as_float(started) - 12582912.0f;
}

/* ---- nibbles to bytes, 16 times as large ---- */

CUDA_DEVICE uint32_t widen_even(uint32_t nibbles)
{
    return nibbles << 4 & 0xf0f0f0f0u;
}

CUDA_DEVICE uint32_t widen_odd(uint32_t nibbles)
{
    return nibbles & 0xf0f0f0f0u;
}

/* a0..a3 (or b0, b1 of two halves: any registers in even, odd order) of a half unit: rows g and g + 8. */
CUDA_DEVICE void widen_nibbles(uint32_t row, uint32_t row8, uint32_t a[4])
{
    a[0] = widen_even(row);
    a[1] = widen_even(row8);
    a[2] = widen_odd(row);
    a[3] = widen_odd(row8);
}

/* ---- to fp16 and bf16, exactly ---- */

/* Columns 8t + pair and 8t + pair + 4 of a register of nibbles. 0x6400 is 1024, whose last places count 1; the sign is
 * taken off by the exclusive or, which adds 8. Odd pairs are read sixteenfold, which saves a shift. */
template <int pair> CUDA_DEVICE uint32_t widen_nibble_fp16(uint32_t nibbles)
{
    const uint32_t at = pair < 2 ? nibbles : nibbles >> 8;
    if (pair % 2) {
        return fma_fp16x2(and_xor(at, 0x00f000f0u, 0x64806480u), 0x2c002c00u, 0xd480d480u); /* / 16 - 72 */
    }
    return fma_fp16x2(and_xor(at, 0x000f000fu, 0x64086408u), 0x3c003c00u, 0xe408e408u); /* - 1032 */
}

template <int pair> CUDA_DEVICE uint32_t widen_nibble_bf16(uint32_t nibbles)
{
    const uint32_t raised = and_xor(nibbles >> 4 * pair, 0x000f000fu, 0x43084308u);
    return fma_bf16x2(raised, 0x3f803f80u, 0xc308c308u); /* - 136 */
}

/* Bytes 0 and 2 of a register of int8 (pair 0: columns 8t, 8t + 4 of the even register), or 1 and 3 (pair 1). */
template <int pair> CUDA_DEVICE uint32_t widen_byte_fp16(uint32_t bytes)
{
    const uint32_t raised = __byte_perm(bytes ^ 0x80808080u, 0x64646464u, pair ? 0x4341 : 0x4240);
    return fma_fp16x2(raised, 0x3c003c00u, 0xe480e480u); /* - 1152 */
}

/* bf16 has 8 significant bits: the number is put together of its upper and its lower nibble. */
template <int pair> CUDA_DEVICE uint32_t widen_byte_bf16(uint32_t bytes)
{
    const uint32_t at = bytes >> 8 * pair;
    const uint32_t upper = and_xor(at >> 4, 0x000f000fu, 0x43084308u);        /* 136 + upper */
    const uint32_t lower = and_xor(at, 0x000f000fu, 0x43004300u);             /* 128 + lower */
    const uint32_t sixteenfold = fma_bf16x2(upper, 0x41804180u, 0xc508c508u); /* 16 * upper: - 2176 */
    return fma_bf16x2(sixteenfold, 0x3f803f80u, fma_bf16x2(lower, 0x3f803f80u, 0xc300c300u));
}

/* The same two of a register of e4m3. The fields lie in both alike, so that a shift does, but for the bias of the
 * exponent: fp16 is 2^-8 of the number; bf16 takes the 2^120 at once. */
template <int pair> CUDA_DEVICE uint32_t widen_fp8_fp16(uint32_t bytes)
{
    const uint32_t at = pair ? bytes : bytes << 8;
    return (at & 0x80008000u) | (at >> 1 & 0x3f803f80u);
}

template <int pair> CUDA_DEVICE uint32_t widen_fp8_bf16(uint32_t bytes)
{
    const uint32_t at = pair ? bytes : bytes << 8;
    return fma_bf16x2((at & 0x80008000u) | (at >> 4 & 0x07f007f0u), 0x7b807b80u, 0x80008000u);
}

/* ---- to e4m3, exactly ---- */

/* Four nibbles of two's complement in the lower halves of the bytes: the lowest numbers of that format, denormal and
 * not, count in steps of 2^-9. */
CUDA_DEVICE uint32_t widen_nibbles_fp8(uint32_t nibbles)
{
    const uint32_t negative = nibbles & 0x08080808u, one = negative >> 3;
    return ((nibbles ^ ((negative << 1) - one)) + one) | negative << 4;
}

/* Even or odd columns of a register of e2m1: the fields lie in both alike, but for the bias of the exponent. */
CUDA_DEVICE uint32_t widen_fp4_fp8_even(uint32_t nibbles)
{
    return (nibbles << 4 & 0x80808080u) | (nibbles << 2 & 0x1c1c1c1cu);
}

CUDA_DEVICE uint32_t widen_fp4_fp8_odd(uint32_t nibbles)
{
    return (nibbles & 0x80808080u) | (nibbles >> 2 & 0x1c1c1c1cu);
}

/* ---- SPLIT: a nibble tile in which -8 marks the places of high elements, and a row's high elements in ascending
 * column ---- */

/* Bit 3 of each nibble that is -8. */
CUDA_DEVICE uint32_t split_marks(uint32_t nibbles)
{
    return and_not_and(nibbles, (nibbles & 0x77777777u) + 0x77777777u, 0x88888888u);
}

/* Ranks of the first marked element of each register of a tile among its row's: in bytes 0..3 those of registers
 * r0..r3. All lanes. */
CUDA_DEVICE uint32_t split_ranks(const uint32_t marks[4])
{
    const unsigned lane = threadIdx.x & 31;
    const uint32_t counts = (uint32_t)__popc(marks[0]) + (uint32_t)__popc(marks[1]) * 256 +
                            (uint32_t)__popc(marks[2]) * 65536 + (uint32_t)__popc(marks[3]) * 16777216;
    const uint32_t neighbour = __shfl_xor_sync(0xffffffffu, counts, 1);
    const uint32_t pair = counts + neighbour;
    const uint32_t others = __shfl_xor_sync(0xffffffffu, pair, 2);
    /* r2 and r3 come after all of r0 and r1 of the quad. */
    const uint32_t before = (lane & 1 ? neighbour : 0) + (lane & 2 ? others : 0);
    return before + ((pair + others) << 16);
}

/* The high elements of a register's eight columns, 0 elsewhere: columns 8t..8t+3 and 8t+4..8t+7 in natural order.
 * list0, list1: the eight bytes from the register's rank on. A prefix sum of the marks (a product with ones in the
 * nibbles above) is what the byte permutation wants; the signs of the marks, copied over bytes, blank the rest. */
CUDA_DEVICE void split_expand(uint32_t marks, uint32_t list0, uint32_t list1, uint32_t natural[2])
{
    const uint32_t places = marks * 0x02222222u, even = marks << 4;
    natural[0] = permute_bytes(list0, list1, places) & permute_bytes(even, marks, 0xd9c8);
    natural[1] = permute_bytes(list0, list1, places >> 16) & permute_bytes(even, marks, 0xfbea);
}

/* The eight bytes of register i from its rank on; row: the compact list of the register's row, whole words, of which up
 * to 11 bytes behind the end are read. */
template <int i> CUDA_DEVICE void split_fetch(const uint8_t *row, uint32_t ranks, uint32_t *list0, uint32_t *list1)
{
    const uint32_t *from = (const uint32_t *)(row + __byte_perm(ranks & 0xfcfcfcfcu, 0, 0x4440 + i));
    const uint32_t w0 = from[0], w1 = from[1], w2 = from[2];
    const uint32_t odd = ranks & 0x03030303u, shift = i == 0 ? odd << 3 : odd >> (8 * i - 3); /* in bits, modulo 32 */
    *list0 = __funnelshift_r(w0, w1, shift);
    *list1 = __funnelshift_r(w1, w2, shift);
}

/* Activations of a half unit for natural order: from the even and the odd register (b0, b1). */
CUDA_DEVICE void split_natural_activations(uint32_t even, uint32_t odd, uint32_t natural[2])
{
    natural[0] = __byte_perm(even, odd, 0x5140);
    natural[1] = __byte_perm(even, odd, 0x7362);
}

#endif

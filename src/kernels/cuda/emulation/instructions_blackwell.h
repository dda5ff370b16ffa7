/* Emulation of CUDA on the host: the functions of kernels/cuda/instructions_blackwell.h as the PTX manual describes the
 * instructions. */
#ifndef SQF_KERNELS_CUDA_EMULATION_INSTRUCTIONS_BLACKWELL_H
#define SQF_KERNELS_CUDA_EMULATION_INSTRUCTIONS_BLACKWELL_H

#include "kernels/cuda/emulation/instructions.h"

/* The nibble of column `k` (0..63) in four or two registers of a fragment: eight columns a lane, 32 a register. */
static inline float emulated_e2m1(const uint32_t *registers, unsigned stride, unsigned k)
{
    static const float values[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    const uint32_t nibble = registers[k / 32 * stride] >> k % 8 * 4 & 15;
    return nibble & 8 ? -values[nibble & 7] : values[nibble & 7];
}

static inline void emulated_mma_fp4(void *const operands[EMULATED_WARP])
{
    for (unsigned lane = 0; lane < EMULATED_WARP; lane++) {
        const emulated_mma *to = (const emulated_mma *)operands[lane];
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = 0;
            for (unsigned k = 0; k < 64; k++) {
                const emulated_mma *a = (const emulated_mma *)operands[row % 8 * 4 + k % 32 / 8];
                const emulated_mma *b = (const emulated_mma *)operands[column * 4 + k % 32 / 8];
                sum += (double)emulated_e2m1(a->a + row / 8, 2, k) * emulated_e2m1(b->b, 1, k);
            }
            ((float *)to->d)[i] = (float)(((const float *)to->c)[i] + sum);
        }
    }
}

static inline void mma_fp4(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    emulated_mma operand = {a, b, c, c};
    emulated_warp_meet("mma_fp4", EMULATED_ALL, &operand, emulated_mma_fp4);
}

#endif

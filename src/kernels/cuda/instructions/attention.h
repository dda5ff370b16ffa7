/* More machine instructions, those of attention and of conversions: common.h for what they have in common. Each
 * has its meaning on the host beside it. */
#ifndef SQF_KERNELS_CUDA_INSTRUCTIONS_ATTENTION_H
#define SQF_KERNELS_CUDA_INSTRUCTIONS_ATTENTION_H

#include "kernels/cuda/instructions/common.h"

#ifdef __CUDACC__

/* c += A B, A [16, 8] and B [8, 8] of tf32: floats of which the last 13 bits are not looked at. a0 row g, column t;
 * a1 row g + 8; a2, a3 the same of column t + 4; b0 row t, b1 row t + 4, of column g. */
CUDA_DEVICE void mma_tf32(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Two floats rounded to fp16, `low` in the low half. */
CUDA_DEVICE uint32_t pack_halves(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

/* fp16 of both halves: a - b. */
CUDA_DEVICE uint32_t subtract_halves(uint32_t a, uint32_t b)
{
    uint32_t r;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

CUDA_DEVICE uint16_t half_from_float(float x)
{
    uint16_t r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
    return r;
}

CUDA_DEVICE float half_to_float(uint16_t x)
{
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x));
    return r;
}

/* 2^x, relative error about 2^-22; exactly 1 at 0, 0 at -infinity and wherever the result is no normal number. */
CUDA_DEVICE float power_of_two(float x)
{
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

/* 4 bytes from global to shared memory, as async_copy. */
CUDA_DEVICE void async_copy_word(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 4 : 0)
                 : "memory");
}

#else

/* Rounds to nearest, ties to even. */
CUDA_DEVICE uint16_t half_from_float(float x)
{
    const uint32_t bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return 0x7fffu;
    }
    if (magnitude >= 0x477ff000u) { /* from 65520 on */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) { /* below 2^-14: multiples of 2^-24 */
        return (uint16_t)(sign | (__float_as_uint(fabsf(x) + 0.5f) - 0x3f000000u));
    }
    const uint32_t odd = magnitude >> 13 & 1u;
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

CUDA_DEVICE float half_to_float(uint16_t x)
{
    const uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = x >> 10 & 31u, mantissa = x & 0x3ffu;
    if (exponent == 31) {
        return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
    }
    if (exponent == 0) {
        return __uint_as_float(sign | __float_as_uint((float)mantissa * 0x1p-24f));
    }
    return __uint_as_float(sign | (exponent + 112u) << 23 | mantissa << 13);
}

CUDA_DEVICE uint32_t pack_halves(float low, float high)
{
    return half_from_float(low) | (uint32_t)half_from_float(high) << 16;
}

CUDA_DEVICE uint32_t subtract_halves(uint32_t a, uint32_t b)
{
    const float low = half_to_float((uint16_t)a) - half_to_float((uint16_t)b);
    return pack_halves(low, half_to_float((uint16_t)(a >> 16)) - half_to_float((uint16_t)(b >> 16)));
}

CUDA_DEVICE float power_of_two(float x)
{
    const float r = exp2f(x);
    return r < 0x1p-126f ? 0.0f : r; /* NaN stays */
}

CUDA_DEVICE void async_copy_word(void *shared, const void *global, bool valid)
{
    emulated_async_copy(shared, global, 4, valid);
}

typedef struct emulated_tf32_operands {
    float *c;
    const uint32_t *a, *b;
} emulated_tf32_operands;

static inline float emulated_tf32(uint32_t bits)
{
    return __uint_as_float(bits & 0xffffe000u);
}

/* Sums in double, rounded once: a GPU may truncate what it aligns. */
static inline void emulated_mma_tf32_all(void *const operands[EMULATED_WARP])
{
    float a[16][8], b[8][8];
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        const emulated_tf32_operands *mine = (const emulated_tf32_operands *)operands[lane];
        for (int i = 0; i < 4; i++) {
            a[lane / 4 + i % 2 * 8][lane % 4 + i / 2 * 4] = emulated_tf32(mine->a[i]);
        }
        for (int i = 0; i < 2; i++) {
            b[lane % 4 + i * 4][lane / 4] = emulated_tf32(mine->b[i]);
        }
    }
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        float *c = ((const emulated_tf32_operands *)operands[lane])->c;
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = (double)c[i];
            for (int k = 0; k < 8; k++) {
                sum += (double)a[row][k] * (double)b[k][column];
            }
            c[i] = (float)sum;
        }
    }
}

CUDA_DEVICE void mma_tf32(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    emulated_tf32_operands operands = {c, a, b};
    emulated_warp_meet("mma_tf32", EMULATED_ALL, &operands, emulated_mma_tf32_all);
}

#endif

#endif

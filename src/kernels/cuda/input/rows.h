/* A row of an input before it is quantized, one block a row: gate, norm, rotation. The sums have the order of the CPU's
 * kernels (kernels/cpu/vector.h), so that the row has the same bits there and here: the sum of squares is 64 partial
 * sums folded in halves, butterflies go from near to far, and the mixing of blocks adds in ascending order. */
#ifndef SQF_KERNELS_CUDA_ROWS_H
#define SQF_KERNELS_CUDA_ROWS_H

#include "kernels/cuda/input/quantizer.h"

/* sqf_cuda_steps and where they work. */
typedef struct row_steps {
    const float *x, *gate, *gain; /* [tokens][columns] twice, [columns]; gate, gain NULL = none */
    float epsilon;
    uint32_t columns;
    uint32_t factor, block; /* factor 0 = no rotation */
    const float *matrix;    /* NULL = unit */
    size_t stride;          /* columns in whole vectors: from one block's row in the workspace to the next */
    float *mixed;           /* [blocks][stride] room for the mixed row; with a matrix */
    bool vector;            /* rows begin at multiples of 16 bytes */
} row_steps;

/* What the block's threads tell each other. */
typedef struct row_control {
    uint32_t peak[32]; /* of each warp */
    float factor;
} row_control;

CUDA_DEVICE uint32_t magnitude_bits(float x)
{
    return __float_as_uint(x) & 0x7fffffffu;
}

CUDA_DEVICE uint32_t larger_bits(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

CUDA_DEVICE uint32_t peak_of_four(uint32_t peak, const float4 &v)
{
    return larger_bits(larger_bits(larger_bits(peak, magnitude_bits(v.x)), magnitude_bits(v.y)),
                       larger_bits(magnitude_bits(v.z), magnitude_bits(v.w)));
}

/* Row `token` of x, gated, in `row`; the thread's largest magnitude. */
CUDA_DEVICE uint32_t row_load(const row_steps &steps, size_t token, float *row)
{
    const float *x = steps.x + token * steps.columns;
    const float *gate = steps.gate ? steps.gate + token * steps.columns : NULL;
    uint32_t peak = 0;
    if (steps.vector) {
        for (unsigned i = threadIdx.x; i < steps.columns / 4; i += blockDim.x) {
            float4 v = reinterpret_cast<const float4 *>(x)[i];
            if (gate) {
                const float4 g = reinterpret_cast<const float4 *>(gate)[i];
                v.x = quantizer_silu(g.x) * v.x;
                v.y = quantizer_silu(g.y) * v.y;
                v.z = quantizer_silu(g.z) * v.z;
                v.w = quantizer_silu(g.w) * v.w;
            }
            reinterpret_cast<float4 *>(row)[i] = v;
            peak = peak_of_four(peak, v);
        }
        return peak;
    }
    for (unsigned i = threadIdx.x; i < steps.columns; i += blockDim.x) {
        const float v = gate ? quantizer_silu(gate[i]) * x[i] : x[i];
        row[i] = v;
        peak = larger_bits(peak, magnitude_bits(v));
    }
    return peak;
}

/* Partial sums of a warp folded in halves: lane l holds those of 2 l and 2 l + 1. In all lanes. */
CUDA_DEVICE float warp_fold(float even, float odd)
{
    for (int distance = 16; distance > 0; distance /= 2) {
        even += __shfl_xor_sync(0xffffffffu, even, distance);
        odd += __shfl_xor_sync(0xffffffffu, odd, distance);
    }
    return even + odd;
}

/* The dot product of n numbers with others in the order of the CPU's kernels, in all lanes of a warp: element i goes to
 * partial sum i % 64. */
CUDA_DEVICE float warp_dot(const float *a, const float *b, unsigned n)
{
    float even = 0.0f, odd = 0.0f;
    unsigned at = 2 * (threadIdx.x % 32);
#pragma unroll 8
    for (; at + 1 < n; at += 64) {
        even += a[at] * b[at];
        odd += a[at + 1] * b[at + 1];
    }
    if (at < n) {
        even += a[at] * b[at];
    }
    return warp_fold(even, odd);
}

/* The same of a row with itself, which begins at a multiple of 16 bytes: what a norm waits for. */
CUDA_DEVICE float warp_squares(const float *row, unsigned n)
{
    float even = 0.0f, odd = 0.0f;
    const unsigned lane = threadIdx.x % 32, left = n % 64;
    const float2 *at = reinterpret_cast<const float2 *>(row) + lane;
#pragma unroll 8
    for (unsigned i = n / 64; i > 0; i--) {
        const float2 v = *at;
        even += v.x * v.x;
        odd += v.y * v.y;
        at += 32;
    }
    if (2 * lane < left) {
        const float v = reinterpret_cast<const float *>(at)[0];
        even += v * v;
    }
    if (2 * lane + 1 < left) {
        const float v = reinterpret_cast<const float *>(at)[1];
        odd += v * v;
    }
    return warp_fold(even, odd);
}

/* row = row / sqrt(mean of squares + epsilon) * gain; the thread's largest magnitude. `row` complete before. */
CUDA_DEVICE uint32_t row_norm(const row_steps &steps, float *row, row_control *control)
{
    if (threadIdx.x < 32) {
        const float mean = warp_squares(row, steps.columns) / (float)steps.columns;
        if (threadIdx.x == 0) {
            control->factor = 1.0f / sqrtf(mean + steps.epsilon);
        }
    }
    __syncthreads();
    const float factor = control->factor;
    uint32_t peak = 0;
    if (steps.vector) {
        for (unsigned i = threadIdx.x; i < steps.columns / 4; i += blockDim.x) {
            float4 v = reinterpret_cast<const float4 *>(row)[i];
            const float4 g = reinterpret_cast<const float4 *>(steps.gain)[i];
            v.x = (v.x * factor) * g.x;
            v.y = (v.y * factor) * g.y;
            v.z = (v.z * factor) * g.z;
            v.w = (v.w * factor) * g.w;
            reinterpret_cast<float4 *>(row)[i] = v;
            peak = peak_of_four(peak, v);
        }
        return peak;
    }
    for (unsigned i = threadIdx.x; i < steps.columns; i += blockDim.x) {
        const float v = (row[i] * factor) * steps.gain[i];
        row[i] = v;
        peak = larger_bits(peak, magnitude_bits(v));
    }
    return peak;
}

/* Butterflies at the distances 1 to 16 that a block of the transform has, between lanes. */
CUDA_DEVICE void hadamard_near(const row_steps &steps, float *row)
{
    const unsigned lane = threadIdx.x % 32, padded = (steps.columns + 31) / 32 * 32;
    for (unsigned i = threadIdx.x; i < padded; i += blockDim.x) {
        float v = i < steps.columns ? row[i] : 0.0f;
        for (unsigned half = 1; half < 32 && half < steps.block; half *= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, v, (int)half);
            v = lane & half ? other - v : v + other;
        }
        if (i < steps.columns) {
            row[i] = v;
        }
    }
}

/* Butterflies at the distances half, 2 half .. half * radix / 2 between numbers of one thread. */
template <int radix> CUDA_DEVICE void hadamard_far(const row_steps &steps, float *row, unsigned half)
{
    for (unsigned i = threadIdx.x; i < steps.columns / radix; i += blockDim.x) {
        float *first = row + (size_t)(i / half) * half * radix + i % half;
        float v[radix];
#pragma unroll
        for (int k = 0; k < radix; k++) {
            v[k] = first[k * half];
        }
#pragma unroll
        for (int distance = 1; distance < radix; distance *= 2) {
#pragma unroll
            for (int k = 0; k < radix; k++) {
                if ((k & distance) == 0) {
                    const float a = v[k], b = v[k + distance];
                    v[k] = a + b;
                    v[k + distance] = a - b;
                }
            }
        }
#pragma unroll
        for (int k = 0; k < radix; k++) {
            first[k * half] = v[k];
        }
    }
}

/* The blocks of `row` mixed by the matrix, in `out`. Blocks of one number: a warp makes an output. */
CUDA_DEVICE void row_mix(const row_steps &steps, const float *row, float *out)
{
    enum { OUTPUTS = 8 };
    const unsigned factor = steps.factor, block = steps.block;
    if (block == 1) {
        for (unsigned j = threadIdx.x / 32; j < factor; j += blockDim.x / 32) {
            const float sum = warp_dot(steps.matrix + (size_t)j * factor, row, factor);
            if (threadIdx.x % 32 == 0) {
                out[j] = sum;
            }
        }
        return;
    }
    const unsigned chunks = (factor + OUTPUTS - 1) / OUTPUTS;
    for (unsigned at = threadIdx.x; at < block * chunks; at += blockDim.x) {
        const unsigned i = at % block, first = at / block * OUTPUTS;
        float sums[OUTPUTS] = {};
        for (unsigned r = 0; r < factor; r++) {
            const float x = row[(size_t)r * block + i];
#pragma unroll
            for (int q = 0; q < OUTPUTS; q++) {
                const unsigned j = first + q < factor ? first + q : factor - 1;
                sums[q] += x * steps.matrix[(size_t)j * factor + r];
            }
        }
#pragma unroll
        for (int q = 0; q < OUTPUTS; q++) {
            if (first + q < factor) {
                out[(size_t)(first + q) * block + i] = sums[q];
            }
        }
    }
}

/* The row rotated; where the result stands. `row` complete before and, with a matrix, read no more after. */
CUDA_DEVICE float *row_rotate(const row_steps &steps, float *row)
{
    if (steps.block > 1) {
        hadamard_near(steps, row);
        __syncthreads();
    }
    unsigned half = 32;
    for (; half * 4 < steps.block; half *= 8) {
        hadamard_far<8>(steps, row, half);
        __syncthreads();
    }
    if (half * 2 < steps.block) {
        hadamard_far<4>(steps, row, half);
        __syncthreads();
    } else if (half < steps.block) {
        hadamard_far<2>(steps, row, half);
        __syncthreads();
    }
    if (!steps.matrix) {
        return row;
    }
    float *mixed = steps.mixed + (size_t)blockIdx.x * steps.stride;
    row_mix(steps, row, mixed);
    __syncthreads();
    return mixed;
}

/* All of it: the row of a token in `room` ([columns]) or where it came to stand, complete for all threads, and the bits
 * of its largest magnitude in *peak (a NaN or infinity: QUANTIZER_INFINITY or more). */
CUDA_DEVICE float *row_prepare(const row_steps &steps, size_t token, float *room, row_control *control, uint32_t *peak)
{
    float *row = room;
    uint32_t most = row_load(steps, token, row);
    if (steps.gain) {
        __syncthreads();
        most = row_norm(steps, row, control);
    }
    if (steps.factor) {
        __syncthreads();
        row = row_rotate(steps, row);
        most = 0;
        for (unsigned i = threadIdx.x; i < steps.columns; i += blockDim.x) {
            most = larger_bits(most, magnitude_bits(row[i]));
        }
    }
    most = __reduce_max_sync(0xffffffffu, most);
    if (threadIdx.x % 32 == 0) {
        control->peak[threadIdx.x / 32] = most;
    }
    async_wait<0>(); /* what the kernel began to copy */
    __syncthreads();
    const unsigned lane = threadIdx.x % 32;
    *peak = __reduce_max_sync(0xffffffffu, lane < blockDim.x / 32 ? control->peak[lane] : 0u);
    return row;
}

#endif

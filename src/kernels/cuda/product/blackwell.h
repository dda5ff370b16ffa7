/* Products of FP4 and FP8 activations on data-center Blackwell (sm_100a): a block of 128 output channels times 128
 * tokens, products in tensor memory.
 *
 * Warps 8 to 11 fetch weights, widen them where the activations are e4m3 and write them to shared memory, row by row
 * and swizzled: 32-bit words whose columns are neighbours in the order of the activations, eight rows of four words at
 * a time, which are all banks. One thread of warp 12 copies tokens by a tensor map, one of warp 13 issues products. A
 * stage is a chunk: 128 columns (64 bytes of FP4, 128 of FP8) with one scale; its products go to one of two
 * accumulators of 128 columns in tensor memory, from which warps 0 to 3 (the first 64 tokens) and 4 to 7, a row a
 * thread, scale and add them to their sums while the other one is being filled.
 *
 * Tensor cycles of a chunk: 128 with FP4, 256 with FP8. Issue slots of a scheduler: 128 additions and 4 loads of the
 * sums (256 multiplications and additions and 32 loads more where the tokens' scale changes), 16 stores and 8 loads of
 * weights (32 and 4 per word of widening with FP8). So FP4 is at the limit of both, FP8 of the tensor cores alone. */
#ifndef SQF_KERNELS_CUDA_BLACKWELL_H
#define SQF_KERNELS_CUDA_BLACKWELL_H

#include "kernels/cuda/instructions/blackwell.h"
#include "kernels/cuda/instructions/hopper.h"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/linear/store.h"
#include "kernels/cuda/linear/widen.h"

enum {
    BLACKWELL_ROWS = 128,
    BLACKWELL_TOKENS = 128,
    BLACKWELL_THREADS = 448,
    BLACKWELL_COLUMNS = 64, /* tokens of a warp that sums */
    BLACKWELL_STAGES = 5,
    BLACKWELL_OPERAND = 128 * 128, /* bytes of an operand in a stage at most */
    BLACKWELL_SHARED = BLACKWELL_STAGES * 2 * BLACKWELL_OPERAND + 256,
    BLACKWELL_ONES = 256 /* columns of tensor memory behind the accumulators: block scales of 1 */
};

struct blackwell_job {
    const uint8_t *tiles;
    const float *scales; /* [row tiles][segments][16] */
    const float *act_scales;
    size_t token_stride;
    const cuda_chunk *chunks;
    uint32_t chunk_count, low_chunks;
    uint32_t units, low_units, segments;
    cuda_element low, high;
    bool grouped; /* the activations' scales change within a section */
    uint32_t rows, tokens;
    float *y;
    const float *bias;
    sqf_cuda_store store;
};

/* The block's shared memory behind the stages. */
struct blackwell_barriers {
    uint64_t full[BLACKWELL_STAGES], empty[BLACKWELL_STAGES]; /* stages */
    uint64_t done[2], free[2];                                /* accumulators */
    uint32_t tensor;                                          /* address of the tensor memory */
};

CUDA_DEVICE blackwell_barriers *blackwell_barriers_of(uint8_t *shared)
{
    return reinterpret_cast<blackwell_barriers *>(shared + BLACKWELL_STAGES * 2 * BLACKWELL_OPERAND);
}

CUDA_DEVICE bool blackwell_is_fp4(const blackwell_job &job, uint32_t index)
{
    return (index < job.low_chunks ? job.low : job.high) == CUDA_FP4;
}

/* ---- weights: warps 8 to 11, two tiles of 16 rows each ---- */

/* Bytes of a row of A from byte `at` on, four of them. */
CUDA_DEVICE void blackwell_put(uint8_t *stage, unsigned row_bytes, unsigned row, unsigned at, uint32_t word)
{
    const unsigned swizzle = row_bytes == 64 ? row / 2 % 4 : row % 8;
    *reinterpret_cast<uint32_t *>(stage + row * row_bytes + ((at / 16 ^ swizzle) * 16 | at % 16)) = word;
}

/* A unit of a tile whose first row is `row`: registers r0..r3 (FP4) or the two halves' (FP8). */
template <sqf_cuda_form FORM>
CUDA_DEVICE void blackwell_put_unit(uint8_t *stage, bool fp4, unsigned row, unsigned unit, const uint4 *raw)
{
    const unsigned lane = threadIdx.x % 32, t = lane % 4;
    row += lane / 4;
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        if constexpr (FORM == SQF_CUDA_FP4) {
            const uint32_t r0 = half ? raw[0].z : raw[0].x, r1 = half ? raw[0].w : raw[0].y;
            if (fp4) {
                blackwell_put(stage, 64, row, unit * 32 + half * 16 + t * 4, r0);
                blackwell_put(stage, 64, row + 8, unit * 32 + half * 16 + t * 4, r1);
            } else {
                const unsigned at = unit * 64 + half * 32 + t * 4;
                blackwell_put(stage, 128, row, at, widen_fp4_fp8_even(r0));
                blackwell_put(stage, 128, row + 8, at, widen_fp4_fp8_even(r1));
                blackwell_put(stage, 128, row, at + 16, widen_fp4_fp8_odd(r0));
                blackwell_put(stage, 128, row + 8, at + 16, widen_fp4_fp8_odd(r1));
            }
        } else {
            const unsigned at = unit * 64 + half * 32 + t * 4;
            blackwell_put(stage, 128, row, at, raw[half].x);
            blackwell_put(stage, 128, row + 8, at, raw[half].y);
            blackwell_put(stage, 128, row, at + 16, raw[half].z);
            blackwell_put(stage, 128, row + 8, at + 16, raw[half].w);
        }
    }
}

template <sqf_cuda_form FORM> CUDA_DEVICE void blackwell_weights(const blackwell_job &job, uint8_t *shared)
{
    constexpr unsigned QUADS = FORM == SQF_CUDA_FP4 ? 1 : 2;
    blackwell_barriers *const barriers = blackwell_barriers_of(shared);
    const unsigned warp = threadIdx.x / 32 - 8, lane = threadIdx.x % 32;
    const uint32_t first_tile = blockIdx.x * (BLACKWELL_ROWS / CUDA_TILE_ROWS) + warp * 2;
    for (uint32_t index = 0; index < job.chunk_count; index++) {
        const cuda_chunk chunk = job.chunks[index];
        const uint32_t stage = index % BLACKWELL_STAGES, round = index / BLACKWELL_STAGES;
        uint4 raw[2][2][QUADS];
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
#pragma unroll
            for (unsigned q = 0; q < QUADS; q++) {
                const size_t tile =
                    (size_t)(first_tile + i / 2) * job.units + chunk.unit + (i % 2 < chunk.units ? i % 2 : 0);
                raw[i / 2][i % 2][q] =
                    *reinterpret_cast<const uint4 *>(job.tiles + (tile * QUADS + q) * 512 + lane * 16);
            }
        }
        transaction_wait(&barriers->empty[stage], (round & 1) ^ 1);
        uint8_t *const a = shared + stage * 2 * BLACKWELL_OPERAND;
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            if (i % 2 < chunk.units) {
                blackwell_put_unit<FORM>(a, blackwell_is_fp4(job, index), warp * 32 + i / 2 * 16, i % 2,
                                         raw[i / 2][i % 2]);
            }
        }
        fence_async_proxy();
        transaction_arrive(&barriers->full[stage]);
    }
}

/* ---- tokens: one thread ---- */

CUDA_DEVICE void blackwell_tokens(const blackwell_job &job, uint8_t *shared, const cuda_tensor_map *fp4,
                                  const cuda_tensor_map *fp8)
{
    blackwell_barriers *const barriers = blackwell_barriers_of(shared);
    const uint32_t low_bytes = cuda_unit_bytes(job.low), high_bytes = cuda_unit_bytes(job.high);
    for (uint32_t index = 0; index < job.chunk_count; index++) {
        const uint32_t stage = index % BLACKWELL_STAGES, round = index / BLACKWELL_STAGES;
        const uint32_t unit = job.chunks[index].unit;
        const bool narrow = blackwell_is_fp4(job, index);
        const uint32_t byte =
            index < job.low_chunks ? unit * low_bytes : job.low_units * low_bytes + (unit - job.low_units) * high_bytes;
        transaction_wait(&barriers->empty[stage], (round & 1) ^ 1);
        transaction_expect(&barriers->full[stage], BLACKWELL_TOKENS * (narrow ? 64 : 128));
        tensor_copy(shared + (stage * 2 + 1) * BLACKWELL_OPERAND, narrow ? fp4 : fp8, (int)byte,
                    (int)(blockIdx.y * BLACKWELL_TOKENS), &barriers->full[stage]);
    }
}

/* ---- products: one thread ---- */

CUDA_DEVICE void blackwell_products(const blackwell_job &job, uint8_t *shared)
{
    blackwell_barriers *const barriers = blackwell_barriers_of(shared);
    const uint32_t tensor = barriers->tensor;
    for (uint32_t index = 0; index < job.chunk_count; index++) {
        const uint32_t stage = index % BLACKWELL_STAGES, set = index % 2, d = tensor + set * BLACKWELL_TOKENS;
        const bool fp4 = blackwell_is_fp4(job, index);
        const unsigned row_bytes = fp4 ? 64 : 128, steps = job.chunks[index].units * (fp4 ? 1 : 2);
        const uint32_t at = shared_address(shared) + stage * 2 * BLACKWELL_OPERAND;
        const uint64_t a = tensor_descriptor(at, row_bytes), b = tensor_descriptor(at + BLACKWELL_OPERAND, row_bytes);
        transaction_wait(&barriers->full[stage], index / BLACKWELL_STAGES & 1);
        transaction_wait(&barriers->free[set], (index / 2 & 1) ^ 1);
        tensor_fence_after();
        for (unsigned s = 0; s < steps; s++) { /* 32 bytes of each row */
            if (fp4) {
                tensor_product_fp4(d, a + 2 * s, b + 2 * s, tensor_shape_fp4(BLACKWELL_TOKENS), tensor + BLACKWELL_ONES,
                                   s > 0);
            } else {
                tensor_product_fp8(d, a + 2 * s, b + 2 * s, tensor_shape_fp8(BLACKWELL_TOKENS), s > 0);
            }
        }
        tensor_commit(&barriers->empty[stage]);
        tensor_commit(&barriers->done[set]);
    }
}

/* ---- sums: warps 0 to 7 ---- */

/* A token's scale in a row of scales; 1 where all its codes are 0, and beyond the tokens. */
CUDA_DEVICE float blackwell_token_scale(const blackwell_job &job, uint32_t scale_row, uint32_t token)
{
    const float scale = token < job.tokens ? job.act_scales[scale_row * job.token_stride + token] : 1.0f;
    return scale == 0.0f ? 1.0f : scale;
}

/* sums += scale * (tokens' scales) * accumulator. */
CUDA_DEVICE void blackwell_add(const blackwell_job &job, uint32_t d, float scale, uint32_t scale_row, uint32_t token,
                               float sums[BLACKWELL_COLUMNS])
{
#pragma unroll
    for (int part = 0; part < BLACKWELL_COLUMNS / 16; part++) {
        uint32_t r[16];
        tensor_load(r, d + (uint32_t)part * 16);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const int column = part * 16 + i;
            const float factor =
                job.grouped ? scale * blackwell_token_scale(job, scale_row, token + (uint32_t)column) : scale;
            sums[column] = fmaf(__uint_as_float(r[i]), factor, sums[column]);
        }
    }
}

/* The sums become those in units of the next section's scales (`to`; UINT32_MAX: plain ones). */
CUDA_DEVICE void blackwell_rescale(const blackwell_job &job, uint32_t from, uint32_t to, uint32_t token,
                                   float sums[BLACKWELL_COLUMNS])
{
#pragma unroll
    for (int i = 0; i < BLACKWELL_COLUMNS; i++) {
        const float scale = blackwell_token_scale(job, from, token + (uint32_t)i);
        const float next = to == UINT32_MAX ? 1.0f : blackwell_token_scale(job, to, token + (uint32_t)i);
        sums[i] *= __fdividef(scale, next);
    }
}

template <sqf_cuda_form FORM> CUDA_DEVICE void blackwell_sums(const blackwell_job &job, uint8_t *shared)
{
    blackwell_barriers *const barriers = blackwell_barriers_of(shared);
    const uint32_t lanes = threadIdx.x / 32 % 4 * 32, first = threadIdx.x / 128 * BLACKWELL_COLUMNS;
    const uint32_t row = blockIdx.x * BLACKWELL_ROWS + threadIdx.x % 128;
    const uint32_t token = blockIdx.y * BLACKWELL_TOKENS + first, tensor = barriers->tensor + (lanes << 16) + first;
    const float *const scales = job.scales + (size_t)(row / 16) * job.segments * 16 + row % 16;
    float sums[BLACKWELL_COLUMNS];
#pragma unroll
    for (int i = 0; i < BLACKWELL_COLUMNS; i++) {
        sums[i] = 0.0f;
    }
    uint32_t last = 0;
    for (uint32_t index = 0; index < job.chunk_count; index++) {
        const cuda_chunk chunk = job.chunks[index];
        const uint32_t set = index % 2, scale_row = chunk.act_scale & ~CUDA_CHUNK_FIRST;
        /* Codes of FP4 are halves of the numbers; widened ones are smaller still. */
        const float gain = FORM == SQF_CUDA_FP8           ? 1.0f
                           : blackwell_is_fp4(job, index) ? 4.0f
                                                          : 2.0f * WIDEN_FP4_FP8_LOSS;
        const float scale = scales[chunk.segment * 16] * gain;
        if (!job.grouped && index > 0 && scale_row != last) {
            blackwell_rescale(job, last, scale_row, token, sums);
        }
        last = scale_row;
        transaction_wait(&barriers->done[set], index / 2 & 1);
        tensor_fence_after();
        blackwell_add(job, tensor + set * BLACKWELL_TOKENS, scale, scale_row, token, sums);
        tensor_fence_before();
        transaction_arrive(&barriers->free[set]);
    }
    if (!job.grouped) {
        blackwell_rescale(job, last, UINT32_MAX, token, sums);
    }
    const float bias = job.bias && row < job.rows ? job.bias[row] : 0.0f;
#pragma unroll
    for (int i = 0; i < BLACKWELL_COLUMNS; i++) {
        if (row < job.rows && token + (uint32_t)i < job.tokens) {
            store_product(job.y + (size_t)(token + (uint32_t)i) * job.rows + row, sums[i] + bias, job.store);
        }
    }
}

/* ---- the kernel ---- */

template <sqf_cuda_form FORM>
__global__ void __launch_bounds__(BLACKWELL_THREADS, 1)
    blackwell_kernel(const blackwell_job job, const __grid_constant__ cuda_tensor_map fp4,
                     const __grid_constant__ cuda_tensor_map fp8)
{
    CUDA_SHARED(shared);
    blackwell_barriers *const barriers = blackwell_barriers_of(shared);
    const unsigned warp = threadIdx.x / 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < BLACKWELL_STAGES; i++) {
            transaction_init(&barriers->full[i], 128 + 1); /* writers of weights, the tokens' copy */
            transaction_init(&barriers->empty[i], 1);
        }
        for (int i = 0; i < 2; i++) {
            transaction_init(&barriers->done[i], 1);
            transaction_init(&barriers->free[i], 256);
        }
        transaction_fence();
    }
    if (warp == 13) {
        tensor_allocate(&barriers->tensor);
    }
    tensor_fence_before();
    __syncthreads();
    tensor_fence_after();
    if (warp < 4) { /* block scales, of both operands, before the first product */
        for (unsigned i = 0; i < 16; i += 4) {
            tensor_fill(barriers->tensor + (warp * 32 << 16) + BLACKWELL_ONES + i, 0x7f7f7f7f);
        }
    }
    tensor_fence_before();
    __syncthreads();
    tensor_fence_after();
    if (warp < 8) {
        blackwell_sums<FORM>(job, shared);
    } else if (warp < 12) {
        blackwell_weights<FORM>(job, shared);
    } else if (warp == 12) {
        if (threadIdx.x % 32 == 0) {
            blackwell_tokens(job, shared, &fp4, &fp8);
        }
        __syncwarp();
    } else {
        if (threadIdx.x % 32 == 0) {
            blackwell_products(job, shared);
        }
        __syncwarp();
    }
    tensor_fence_before();
    __syncthreads();
    if (warp == 13) {
        tensor_fence_after();
        tensor_release(barriers->tensor);
    }
}

#endif

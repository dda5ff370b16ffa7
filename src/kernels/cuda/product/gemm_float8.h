/* Products of FP8, FP4 and bf16 activations by mma.sync: a block of 128 output channels times 16 or 32 tokens, sm_89
 * and later; FP4 by the block-scaled instruction of sm_120, all block scales 1.
 *
 * Four warps own 32 channels each and all tokens of the block. Weights come from global memory into registers in the
 * order in which they are stored, one chunk (two units; one of halves) ahead; activations by cp.async through three
 * stages of swizzled shared memory and ldmatrix. An accumulator lives for eight tokens and a chunk and is then scaled
 * by weights' and tokens' scales and added to the sums, so that sections and groups of any kind need no case of their
 * own.
 *
 * Issue slots of a warp for eight tokens and a chunk of 128 columns: 8 instructions of FP8 (or 4 of FP4), 4 ldmatrix at
 * most, 16 multiplications and additions of the sums, 1 load of scales: 29 beside 128 (64) cycles of the tensor unit
 * where m16n8k32 of FP8 takes 16 of a quarter of the multiprocessor. */
#ifndef SQF_KERNELS_CUDA_GEMM_FLOAT8_H
#define SQF_KERNELS_CUDA_GEMM_FLOAT8_H

#include "kernels/cuda/instructions/blackwell.h"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/linear/store.h"
#include "kernels/cuda/linear/swizzle.h"
#include "kernels/cuda/linear/widen.h"

enum {
    FLOAT8_THREADS = 128,
    FLOAT8_ROWS = 128, /* of a block */
    FLOAT8_STAGES = 3,
    FLOAT8_PITCH = 128 /* bytes of a token in a stage */
};

struct float8_job {
    const uint8_t *tiles;
    const float *scales; /* [row tiles][segments][16] */
    const uint8_t *codes;
    size_t stride;
    const float *act_scales; /* [scale rows][token_stride] */
    size_t token_stride;
    const cuda_chunk *chunks;
    uint32_t chunk_count, low_chunks;
    uint32_t units, low_units, segments;
    cuda_element low, high;
    uint32_t rows, tokens;
    float *y;
    const float *bias;
    sqf_cuda_store store;
};

/* ---- copies ---- */

/* Starts the copies of a chunk's activations into its stage. */
template <int TOKENS>
CUDA_DEVICE void float8_copy(const float8_job &job, uint8_t *shared, uint32_t index, uint32_t first_token)
{
    const cuda_chunk chunk = job.chunks[index];
    const bool low = index < job.low_chunks;
    const uint32_t low_bytes = cuda_unit_bytes(job.low), bytes = low ? low_bytes : cuda_unit_bytes(job.high);
    const size_t offset = low ? (size_t)chunk.unit * low_bytes
                              : (size_t)job.low_units * low_bytes + (size_t)(chunk.unit - job.low_units) * bytes;
    uint8_t *const stage = shared + index % FLOAT8_STAGES * (TOKENS * FLOAT8_PITCH);
    const unsigned piece = threadIdx.x % 8;
    for (unsigned row = threadIdx.x / 8; row < TOKENS && piece * 16 < chunk.units * bytes; row += FLOAT8_THREADS / 8) {
        async_copy(stage + swizzle_wide(row, piece), job.codes + (first_token + row) * job.stride + offset + piece * 16,
                   true);
    }
}

/* ---- weights ---- */

template <sqf_cuda_form FORM> struct float8_weights {
    static constexpr int QUADS = FORM == SQF_CUDA_FP8 ? 2 : 1;
    uint32_t raw[2][2][QUADS][4]; /* [tile][unit] */
};

template <sqf_cuda_form FORM>
CUDA_DEVICE void float8_load(const float8_job &job, uint32_t index, uint32_t first_tile, float8_weights<FORM> *out)
{
    constexpr unsigned QUADS = float8_weights<FORM>::QUADS;
    const cuda_chunk chunk = job.chunks[index];
#pragma unroll
    for (unsigned m = 0; m < 2; m++) {
#pragma unroll
        for (unsigned u = 0; u < 2; u++) {
#pragma unroll
            for (unsigned q = 0; q < QUADS; q++) {
                const uint8_t *const at =
                    job.tiles + ((size_t)(first_tile + m) * job.units + chunk.unit + u) * QUADS * 512;
                uint4 v = {0, 0, 0, 0};
                if (u < chunk.units) {
                    v = *reinterpret_cast<const uint4 *>(at + q * 512 + threadIdx.x % 32 * 16);
                }
                out->raw[m][u][q][0] = v.x, out->raw[m][u][q][1] = v.y;
                out->raw[m][u][q][2] = v.z, out->raw[m][u][q][3] = v.w;
            }
        }
    }
}

/* What widened weights of FORM are times too small beside e4m3 activations. */
template <sqf_cuda_form FORM> CUDA_DEVICE constexpr float float8_gain(void)
{
    return FORM == SQF_CUDA_FP4 ? 2.0f * WIDEN_FP4_FP8_LOSS : FORM == SQF_CUDA_NIBBLES ? WIDEN_NIBBLE_FP8_LOSS : 1.0f;
}

/* A of a chunk's step of 32 columns beside e4m3: `half` of a unit. */
template <sqf_cuda_form FORM>
CUDA_DEVICE void float8_widen(const uint32_t raw[float8_weights<FORM>::QUADS][4], int half, uint32_t a[4])
{
    if constexpr (FORM == SQF_CUDA_FP8) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = raw[half][i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t r = raw[0][2 * half + i];
            a[i] = FORM == SQF_CUDA_FP4 ? widen_fp4_fp8_even(r) : widen_nibbles_fp8(r & 0x0f0f0f0fu);
            a[2 + i] = FORM == SQF_CUDA_FP4 ? widen_fp4_fp8_odd(r) : widen_nibbles_fp8(r >> 4 & 0x0f0f0f0fu);
        }
    }
}

/* A of step 0..3 (16 columns) of a unit beside bf16; FP4 come as e4m3, with their loss. */
template <sqf_cuda_form FORM>
CUDA_DEVICE void float8_widen_half(const uint32_t raw[float8_weights<FORM>::QUADS][4], int step, uint32_t a[4])
{
    const int half = step / 2;
    if constexpr (FORM == SQF_CUDA_NIBBLES) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t r = raw[0][2 * half + i];
            a[i] = step % 2 ? widen_nibble_bf16<2>(r) : widen_nibble_bf16<0>(r);
            a[2 + i] = step % 2 ? widen_nibble_bf16<3>(r) : widen_nibble_bf16<1>(r);
        }
    } else {
        uint32_t bytes[4];
        float8_widen<FORM>(raw, half, bytes);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = step % 2 ? widen_fp8_bf16<1>(bytes[i]) : widen_fp8_bf16<0>(bytes[i]);
        }
    }
}

/* ---- products ---- */

/* Adds the sums of eight tokens; halves have no scale of the token. */
template <bool SCALED>
CUDA_DEVICE void float8_flush(const float c[2][4], const float scales[2][2], const float *token_scales,
                              float sums[2][4])
{
    float2 token = {1.0f, 1.0f};
    if constexpr (SCALED) {
        token = *reinterpret_cast<const float2 *>(token_scales);
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sums[m][i] = fmaf(c[m][i], scales[m][i / 2] * (i % 2 ? token.y : token.x), sums[m][i]);
        }
    }
}

/* A chunk of ELEMENT. Where it is one unit the weights of the second are 0 and meet the first one's tokens, whatever
 * the stage holds behind them. When the weights are widened, those of chunk `next` are fetched in their place.
 * token_scales: from the lane's first token on. */
template <int TOKENS, sqf_cuda_form FORM, cuda_element ELEMENT>
CUDA_DEVICE void float8_multiply(const float8_job &job, uint32_t next, uint32_t first_tile, const uint8_t *stage,
                                 float8_weights<FORM> *weights, bool whole, const float scales[2][2],
                                 const float *token_scales, float sums[TOKENS / 8][2][4])
{
    constexpr int STEPS = ELEMENT == CUDA_FP4 ? 2 : 4; /* of 32 bytes of a token */
    const unsigned row = threadIdx.x % 8, piece = threadIdx.x % 32 / 8;
    const bool second = ELEMENT == CUDA_BF16 || whole;
    uint32_t a[2][STEPS][4];
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            if constexpr (ELEMENT == CUDA_BF16) {
                float8_widen_half<FORM>(weights->raw[m][0], s, a[m][s]);
            } else if constexpr (ELEMENT == CUDA_FP8) {
                float8_widen<FORM>(weights->raw[m][s / 2], s % 2, a[m][s]);
            } else {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    a[m][s][i] = weights->raw[m][s][0][i];
                }
            }
        }
    }
    float8_load<FORM>(job, next, first_tile, weights);
#pragma unroll
    for (int j = 0; j < TOKENS / 8; j++) {
        uint32_t b[STEPS][2];
        float c[2][4] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
        if constexpr (ELEMENT == CUDA_FP4) {
            load_matrix_x4(b[0], stage + swizzle_wide(8 * j + row, second ? piece : piece % 2));
        } else {
            load_matrix_x4(b[0], stage + swizzle_wide(8 * j + row, piece));
            load_matrix_x4(b[2], stage + swizzle_wide(8 * j + row, second ? piece + 4 : piece));
        }
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
#pragma unroll
            for (int m = 0; m < 2; m++) {
                ELEMENT == CUDA_FP4   ? mma_fp4(c[m], a[m][s], b[s])
                : ELEMENT == CUDA_FP8 ? mma_fp8(c[m], a[m][s], b[s])
                                      : mma_bf16(c[m], a[m][s], b[s]);
            }
        }
        float8_flush<ELEMENT != CUDA_BF16>(c, scales, token_scales + 8 * j, sums[j]);
        __syncwarp(); /* nothing to protect: it keeps the loads of all steps from being moved to the front */
    }
}

/* ---- the kernel ---- */

/* The scales of rows g and g + 8 of both tiles, times the gain. */
CUDA_DEVICE void float8_row_scales(const float8_job &job, uint32_t first_tile, uint32_t segment, float gain,
                                   float out[2][2])
{
    const float *from =
        job.scales + ((size_t)first_tile * job.segments + segment) * CUDA_TILE_ROWS + threadIdx.x % 32 / 4;
#pragma unroll
    for (int m = 0; m < 2; m++) {
        out[m][0] = from[0] * gain;
        out[m][1] = from[8] * gain;
        from += (size_t)job.segments * CUDA_TILE_ROWS;
    }
}

template <int TOKENS>
CUDA_DEVICE void float8_store(const float8_job &job, uint32_t first_tile, uint32_t first_token,
                              const float sums[TOKENS / 8][2][4])
{
    const uint32_t row = first_tile * CUDA_TILE_ROWS + threadIdx.x % 32 / 4;
#pragma unroll
    for (int j = 0; j < TOKENS / 8; j++) {
#pragma unroll
        for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t at = row + 16 * m + i / 2 * 8, token = first_token + 8 * j + threadIdx.x % 4 * 2 + i % 2;
                if (at < job.rows && token < job.tokens) {
                    store_product(job.y + (size_t)token * job.rows + at,
                                  sums[j][m][i] + (job.bias ? job.bias[at] : 0.0f), job.store);
                }
            }
        }
    }
}

/* A chunk that stands in its stage, by its element. */
template <int TOKENS, sqf_cuda_form FORM>
CUDA_DEVICE void float8_chunk(const float8_job &job, const uint8_t *shared, uint32_t index, uint32_t first_tile,
                              uint32_t first_token, float8_weights<FORM> *weights, float sums[TOKENS / 8][2][4])
{
    const cuda_chunk chunk = job.chunks[index];
    const uint32_t next = index + 1 < job.chunk_count ? index + 1 : index;
    const cuda_element element = index < job.low_chunks ? job.low : job.high;
    const uint8_t *const stage = shared + index % FLOAT8_STAGES * (TOKENS * FLOAT8_PITCH);
    const float *const token_scales =
        job.act_scales + (chunk.act_scale & ~CUDA_CHUNK_FIRST) * job.token_stride + first_token + threadIdx.x % 4 * 2;
    float scales[2][2];
    if (FORM == SQF_CUDA_FP4 && element == CUDA_FP4) { /* both operands are halves of the codes */
        float8_row_scales(job, first_tile, chunk.segment, 4.0f, scales);
        if constexpr (FORM == SQF_CUDA_FP4) {
            float8_multiply<TOKENS, FORM, CUDA_FP4>(job, next, first_tile, stage, weights, chunk.units > 1, scales,
                                                    token_scales, sums);
        }
    } else if (element == CUDA_FP8) {
        float8_row_scales(job, first_tile, chunk.segment, float8_gain<FORM>(), scales);
        float8_multiply<TOKENS, FORM, CUDA_FP8>(job, next, first_tile, stage, weights, chunk.units > 1, scales,
                                                token_scales, sums);
    } else {
        const float gain = FORM == SQF_CUDA_NIBBLES ? 1.0f : float8_gain<FORM>();
        float8_row_scales(job, first_tile, chunk.segment, gain, scales);
        float8_multiply<TOKENS, FORM, CUDA_BF16>(job, next, first_tile, stage, weights, true, scales, token_scales,
                                                 sums);
    }
}

template <int TOKENS, sqf_cuda_form FORM>
__global__ void __launch_bounds__(FLOAT8_THREADS, TOKENS == 32 ? 2 : 3) float8_kernel(const float8_job job)
{
    CUDA_SHARED(shared);
    const uint32_t first_tile = blockIdx.x * (FLOAT8_ROWS / CUDA_TILE_ROWS) + threadIdx.x / 32 * 2;
    const uint32_t first_token = blockIdx.y * TOKENS;
    float sums[TOKENS / 8][2][4];
#pragma unroll
    for (int i = 0; i < TOKENS; i++) {
        sums[i / 8][i / 4 % 2][i % 4] = 0.0f;
    }
    for (uint32_t i = 0; i < FLOAT8_STAGES - 1; i++) {
        if (i < job.chunk_count) {
            float8_copy<TOKENS>(job, shared, i, first_token);
        }
        async_commit();
    }
    float8_weights<FORM> weights;
    float8_load<FORM>(job, 0, first_tile, &weights);
    for (uint32_t index = 0; index < job.chunk_count; index++) {
        async_wait<FLOAT8_STAGES - 2>();
        __syncthreads();
        if (index + FLOAT8_STAGES - 1 < job.chunk_count) {
            float8_copy<TOKENS>(job, shared, index + FLOAT8_STAGES - 1, first_token);
        }
        async_commit();
        float8_chunk<TOKENS, FORM>(job, shared, index, first_tile, first_token, &weights, sums);
    }
    async_wait<0>();
    float8_store<TOKENS>(job, first_tile, first_token, sums);
}

#endif

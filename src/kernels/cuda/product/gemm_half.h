/* Products of many tokens in 16 bits by mma.sync: activations are fp16 or bf16, weights whatever can be widened to that
 * exactly. A block is 128 output channels times 64 tokens (dense weights: 128 too), in the manner of gemm_integer.h:
 * each of the four warps owns 32 channels and all tokens of the block, reads its weights straight into registers in the
 * order in which they are stored, one unit ahead, and widens each once; cp.async brings the activations and the scales
 * to shared memory three stages deep, swizzled, and ldmatrix hands them out.
 *
 * Eight tokens at a time meet the widened unit: two sums of 64 columns start from nothing, and are scaled and added to
 * the sums of the block, so that codes stay exact and a scale costs one instruction a sum. Dense weights have no
 * scales: the matrix instruction adds to the block's sums itself. */
#ifndef SQF_KERNELS_CUDA_GEMM_HALF_H
#define SQF_KERNELS_CUDA_GEMM_HALF_H

#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/linear/pack.h"
#include "kernels/cuda/linear/store.h"
#include "kernels/cuda/linear/swizzle.h"
#include "kernels/cuda/linear/widen.h"

enum {
    HALF_THREADS = 128,
    HALF_ROWS = 128, /* of a block */
    HALF_STAGES = 3,
    HALF_FLUSH = 36 /* floats from token to token where sums change places: 8 t + g are all banks */
};

/* One product as the kernel sees it. */
typedef struct half_job {
    const uint8_t *tiles;
    const float *scales; /* NULL: dense */
    const uint8_t *codes;
    size_t stride;
    const float *act_scales;  /* [tokens] of the activations, or NULL: 1 */
    const cuda_chunk *chunks; /* of one unit each */
    uint32_t units, segments;
    uint32_t rows, tokens;
    uint32_t row_blocks, token_blocks, splits;
    float *y;
    const float *bias;
    sqf_cuda_store store;
    float *partial; /* [splits][tokens][rows] in place of y if splits > 1 */
} half_job;

/* Bytes of a stage: the tokens' unit, then the scales of the rows. */
SQF_BOTH constexpr unsigned half_stage_bytes(unsigned tokens)
{
    return tokens * CUDA_HALF_UNIT + HALF_ROWS * 4;
}

/* The weights of a unit as they are stored, for the lane: [tile of 16 rows][quad]. */
template <sqf_cuda_form form> struct half_weights {
    static constexpr unsigned tile_bytes = form == SQF_CUDA_NIBBLES                         ? CUDA_NIBBLE_TILE
                                           : form == SQF_CUDA_BYTES || form == SQF_CUDA_FP8 ? CUDA_BYTE_TILE
                                                                                            : CUDA_HALF_TILE;
    static constexpr int quads = tile_bytes / 512;
    uint4 raw[2][quads];
};

template <sqf_cuda_form form>
CUDA_DEVICE void half_load(const half_job &job, unsigned thread, uint32_t first_row, uint32_t unit,
                           half_weights<form> *out)
{
    const unsigned lane = thread % 32, first_tile = first_row / CUDA_TILE_ROWS + thread / 32 * 2;
    constexpr unsigned bytes = half_weights<form>::tile_bytes;
#pragma unroll
    for (int m = 0; m < 2; m++) {
        const uint8_t *tile = job.tiles + ((size_t)(first_tile + m) * job.units + unit) * bytes + lane * 16;
#pragma unroll
        for (int q = 0; q < half_weights<form>::quads; q++) {
            out->raw[m][q] = *reinterpret_cast<const uint4 *>(tile + q * 512);
        }
    }
}

/* Step `step` (0, 1) of a half unit from the nibbles of rows g and g + 8. */
template <bool bf16, int step> CUDA_DEVICE void half_nibbles(uint32_t row, uint32_t row8, uint32_t a[4])
{
    a[0] = bf16 ? widen_nibble_bf16<2 * step>(row) : widen_nibble_fp16<2 * step>(row);
    a[1] = bf16 ? widen_nibble_bf16<2 * step>(row8) : widen_nibble_fp16<2 * step>(row8);
    a[2] = bf16 ? widen_nibble_bf16<2 * step + 1>(row) : widen_nibble_fp16<2 * step + 1>(row);
    a[3] = bf16 ? widen_nibble_bf16<2 * step + 1>(row8) : widen_nibble_fp16<2 * step + 1>(row8);
}

/* The same from a register of bytes or fp8: registers 0 and 1 hold even columns of rows g and g + 8, 2 and 3 odd ones.
 */
template <sqf_cuda_form form, bool bf16, int step> CUDA_DEVICE uint32_t half_byte(uint32_t bytes)
{
    if (form == SQF_CUDA_FP8) {
        return bf16 ? widen_fp8_bf16<step>(bytes) : widen_fp8_fp16<step>(bytes);
    }
    return bf16 ? widen_byte_bf16<step>(bytes) : widen_byte_fp16<step>(bytes);
}

/* The A operand of a tile: four steps of 16 columns. */
template <sqf_cuda_form form, bool bf16> CUDA_DEVICE void half_widen(const uint4 *raw, uint32_t a[4][4])
{
    if (form == SQF_CUDA_NIBBLES) {
        half_nibbles<bf16, 0>(raw[0].x, raw[0].y, a[0]);
        half_nibbles<bf16, 1>(raw[0].x, raw[0].y, a[1]);
        half_nibbles<bf16, 0>(raw[0].z, raw[0].w, a[2]);
        half_nibbles<bf16, 1>(raw[0].z, raw[0].w, a[3]);
    } else {
#pragma unroll
        for (int i = 0; i < half_weights<form>::quads * 4; i++) {
            const uint4 q = raw[i / 4];
            const uint32_t word = i % 4 == 0 ? q.x : i % 4 == 1 ? q.y : i % 4 == 2 ? q.z : q.w;
            if (half_weights<form>::quads == 2) {
                a[i / 4 * 2][i % 4] = half_byte<form, bf16, 0>(word);
                a[i / 4 * 2 + 1][i % 4] = half_byte<form, bf16, 1>(word);
            } else {
                a[i / 4][i % 4] = word;
            }
        }
    }
}

template <bool bf16> CUDA_DEVICE void half_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    if (bf16) {
        mma_bf16(c, a, b);
    } else {
        mma_fp16(c, a, b);
    }
}

template <bool bf16> CUDA_DEVICE void half_mma_first(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    if (bf16) {
        mma_bf16_first(d, a, b);
    } else {
        mma_fp16_first(d, a, b);
    }
}

/* Starts the copies of a unit's activations and of the rows' scales into its stage. */
template <int tokens, bool scaled>
CUDA_DEVICE void half_copy(const half_job &job, unsigned thread, const uint32_t place[2], uint32_t unit,
                           uint8_t *shared)
{
    constexpr int step = HALF_THREADS / 8;
    const unsigned row = thread / 8, piece = thread % 8;
    const uint8_t *from =
        job.codes + (size_t)(place[1] + row) * job.stride + (size_t)unit * CUDA_HALF_UNIT + piece * 16;
    uint8_t *stage = shared + unit % HALF_STAGES * half_stage_bytes(tokens);
    uint8_t *to = stage + swizzle_wide(row, piece);
#pragma unroll
    for (int i = 0; i < tokens / step; i++) {
        async_copy(to + i * step * CUDA_HALF_UNIT, from, true);
        from += step * job.stride;
    }
    if (scaled && thread < HALF_ROWS / 4) {
        const uint32_t tile = place[0] / CUDA_TILE_ROWS + thread / 4, segment = job.chunks[unit].segment;
        const float *scales = job.scales + ((size_t)tile * job.segments + segment) * CUDA_TILE_ROWS + thread % 4 * 4;
        async_copy(stage + tokens * CUDA_HALF_UNIT + thread * 16, scales, true);
    }
}

/* The B operands of eight tokens: four steps of 16 columns. `lane`: where the lane's row of the first eight tokens
 * begins, by half units; those of the next eight are 1024 bytes further, with the same swizzle. */
CUDA_DEVICE void half_tokens(const uint8_t *const lane[2], int octet, uint32_t b[4][2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t r[4];
        load_matrix_x4(r, lane[h] + octet * 8 * CUDA_HALF_UNIT);
        b[2 * h][0] = r[0];
        b[2 * h][1] = r[1];
        b[2 * h + 1][0] = r[2];
        b[2 * h + 1][1] = r[3];
    }
}

/* One unit of the block, sixteen tokens at a time. The warp's barrier keeps the compiler from starting more of them at
 * once than there are registers for. The second eight tokens are fetched while the first are multiplied.
 * sums [tile][eight tokens][4]: rows g (0, 1) and g + 8 (2, 3) of tokens 2 t, 2 t + 1. */
template <bool bf16, int tokens, bool scaled>
CUDA_DEVICE void half_unit(const uint8_t *const lane[2], const uint32_t a[2][4][4], const float scales[2][2],
                           float sums[2][tokens / 8][4])
{
    uint32_t b[2][4][2];
    half_tokens(lane, 0, b[0]);
#pragma unroll
    for (int n = 0; n < tokens / 8; n++) {
        float part[2][4];
        if (n + 1 < tokens / 8) {
            half_tokens(lane, n + 1, b[(n + 1) % 2]);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int k = i / 2, m = i % 2;
            if (!scaled) {
                half_mma<bf16>(sums[m][n], a[m][k], b[n % 2][k]);
            } else if (k == 0) {
                half_mma_first<bf16>(part[m], a[m][k], b[n % 2][k]);
            } else {
                half_mma<bf16>(part[m], a[m][k], b[n % 2][k]);
            }
        }
#pragma unroll
        for (int i = 0; scaled && i < 8; i++) {
            float *sum = &sums[i / 4][n][i % 4];
            *sum = fmaf(part[i / 4][i % 4], scales[i / 4][i % 4 / 2], *sum);
        }
        if (n % 2) {
            __syncwarp();
        }
    }
}

/* Blocks of up to 16 bands of rows are taken together, so that those which run at once share weights and tokens in the
 * L2 cache. */
SQF_BOTH void half_place(const half_job &job, uint32_t index, uint32_t *row_block, uint32_t *token_block)
{
    const uint32_t bands = 16, group = index / (bands * job.token_blocks), first = group * bands;
    const uint32_t width = job.row_blocks - first < bands ? job.row_blocks - first : bands;
    const uint32_t local = index - first * job.token_blocks;
    *row_block = first + local % width;
    *token_block = local / width;
}

/* The sums of a warp go to y, or to the block's part, sixteen tokens at a time by way of shared memory: so that the 32
 * rows of a token are stored together, by a loop that is not unrolled for each sum. */
template <int tokens>
CUDA_DEVICE void half_store(const half_job &job, unsigned thread, uint32_t block_row, uint32_t first_token,
                            uint8_t *shared, const float sums[2][tokens / 8][4])
{
    const unsigned lane = thread % 32, warp = thread / 32;
    const uint32_t row = block_row + warp * 32 + lane;
    const bool mine = row < job.rows;
    const float bias = job.bias && mine && job.splits == 1 ? job.bias[row] : 0.0f;
    float *places = reinterpret_cast<float *>(shared) + warp * 16 * HALF_FLUSH;
#pragma unroll
    for (int pair = 0; pair < tokens / 16; pair++) {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const int n = i / 8, m = i / 4 % 2, c = i % 4;
            places[(8 * n + lane % 4 * 2 + c % 2) * HALF_FLUSH + 16 * m + lane / 4 + c / 2 * 8] =
                sums[m][2 * pair + n][c];
        }
        __syncwarp();
#pragma unroll 1
        for (unsigned k = 0; k < 16; k++) {
            const uint32_t token = first_token + 16 * pair + k;
            if (mine && token < job.tokens) {
                const float p = places[k * HALF_FLUSH + lane] * (job.act_scales ? job.act_scales[token] : 1.0f);
                if (job.splits > 1) {
                    job.partial[((size_t)blockIdx.y * job.tokens + token) * job.rows + row] = p;
                } else {
                    store_product(job.y + (size_t)token * job.rows + row, p + bias, job.store);
                }
            }
        }
        __syncwarp();
    }
}

/* Grid: blocks of rows and tokens, parts of the columns. */
template <sqf_cuda_form form, bool bf16, int tokens, bool scaled>
__global__ void __launch_bounds__(HALF_THREADS, 2) half_kernel(half_job job)
{
    CUDA_SHARED(shared);
    __shared__ uint32_t place[2]; /* first row and token; what is read anew for each unit takes no registers */
    if (threadIdx.x == 0) {
        half_place(job, blockIdx.x, &place[0], &place[1]);
        place[0] *= HALF_ROWS;
        place[1] *= tokens;
    }
    __syncthreads();
    const uint32_t begin = (uint32_t)((uint64_t)job.units * blockIdx.y / job.splits);
    const uint32_t end = (uint32_t)((uint64_t)job.units * (blockIdx.y + 1) / job.splits);
    float sums[2][tokens / 8][4] = {};
    half_weights<form> weights = {};
    half_load<form>(job, threadIdx.x, place[0], begin, &weights);
#pragma unroll
    for (uint32_t i = 0; i < HALF_STAGES - 1; i++) {
        if (begin + i < end) {
            half_copy<tokens, scaled>(job, threadIdx.x, place, begin + i, shared);
        }
        async_commit();
    }
#pragma unroll 1
    for (uint32_t unit = begin; unit < end; unit++) {
        const unsigned thread = opaque(threadIdx.x);
        async_wait<HALF_STAGES - 2>();
        __syncthreads();
        if (unit + HALF_STAGES - 1 < end) {
            half_copy<tokens, scaled>(job, thread, place, unit + HALF_STAGES - 1, shared);
        }
        async_commit();
        uint32_t a[2][4][4];
        half_widen<form, bf16>(weights.raw[0], a[0]);
        half_widen<form, bf16>(weights.raw[1], a[1]);
        half_load<form>(job, thread, place[opaque(0)], unit + 1 < end ? unit + 1 : unit, &weights);
        const uint8_t *stage = shared + unit % HALF_STAGES * half_stage_bytes(tokens);
        const float *rows =
            reinterpret_cast<const float *>(stage + tokens * CUDA_HALF_UNIT) + thread / 32 * 32 + thread % 32 / 4;
        const float gain = form == SQF_CUDA_FP8 && !bf16 ? 1.0f / WIDEN_FP8_GAIN : 1.0f;
        float scales[2][2] = {};
#pragma unroll
        for (int i = 0; scaled && i < 4; i++) {
            scales[i / 2][i % 2] = rows[i * 8] * gain;
        }
        const uint32_t lane_offset = swizzle_wide(thread % 8, thread % 32 / 8);
        const uint8_t *const lane[2] = {stage + lane_offset, stage + (lane_offset ^ 64)};
        half_unit<bf16, tokens, scaled>(lane, a, scales, sums);
    }
    async_wait<0>();
    __syncthreads();
    half_store<tokens>(job, opaque(threadIdx.x), place[opaque(0)], place[opaque(1)], shared, sums);
}

#endif

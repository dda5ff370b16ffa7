/* The dual-path product on tensor units by mma.sync: a block of 128 output channels times 32, 64 or 128 tokens.
 *
 * Each of the four warps owns 32 channels and all tokens of the block, so that no weight is read by two warps: weights
 * come straight from global memory into registers, in the order in which they are stored, one chunk ahead. What all
 * warps share are the activations: cp.async brings them to shared memory three stages deep, swizzled, and ldmatrix
 * hands them out.
 *
 * The work goes chunk by chunk (two units, 128 columns; one unit of halves). The weights of a chunk are widened once
 * and meet the tokens eight at a time: an integer accumulator lives only for these eight tokens and is then scaled
 * and added to the float sums. So 32 x 128 sums take 128 registers and the integers 8, where accumulators of both
 * kinds for all tokens would take 256.
 *
 *     for each chunk:            for each 8 tokens:
 *       wait for its stage         ldmatrix B
 *       start the copies 2 ahead   mma (INT4, INT8 or BF16) into 2 x 4 integers
 *       widen weights, load next   sums += scale * integers
 *
 * The activations' scale of a section, constant for a token, is multiplied in once after the low section. Sums of a
 * chunk start at 1.5 * 2^23, so that their bits are a float: |sum| <= 255 * 127 * 128 < 2^22. A segment longer than a
 * chunk is added up as floats, each exact; the order of the sums is that of the chunks, and a token's sum does not
 * depend on its neighbours unless the number of tokens makes the product be split (gemm_integer.cu). */
#ifndef SQF_KERNELS_CUDA_GEMM_INTEGER_H
#define SQF_KERNELS_CUDA_GEMM_INTEGER_H

#include "kernels/cuda/linear/store.h"
#include "kernels/cuda/linear/swizzle.h"
#include "kernels/cuda/linear/widen.h"
#include "kernels/cuda/product/gemm_integer_job.h"

/* ---- copies ---- */

SQF_BOTH constexpr uint32_t integer_unit_bytes(integer_path path)
{
    return path == PATH_INT4   ? (uint32_t)CUDA_NIBBLE_UNIT
           : path == PATH_INT8 ? (uint32_t)CUDA_BYTE_UNIT
                               : (uint32_t)CUDA_HALF_UNIT;
}

/* Starts the copies of chunk `index` into its stage. */
template <int tokens, integer_path low_path, integer_path high_path>
CUDA_DEVICE void integer_copy(const integer_job &job, const integer_block &block, unsigned thread, uint32_t index)
{
    constexpr uint32_t low_bytes = integer_unit_bytes(low_path), high_bytes = integer_unit_bytes(high_path);
    constexpr int step = INTEGER_THREADS / 8;
    const cuda_chunk chunk = job.chunks[index];
    const unsigned row = thread / 8, piece = thread % 8;
    const uint8_t *from = job.codes + (block.first_token + row) * job.stride + piece * 16;
    uint8_t *stage = block.shared + index % INTEGER_STAGES * block.stage_bytes;
    uint8_t *to = stage + swizzle_wide(row, piece);
    const bool low = high_path == PATH_NONE || index < job.low_chunks;
    from += low ? (size_t)chunk.unit * low_bytes
                : (size_t)job.low_units * low_bytes + (size_t)(chunk.unit - job.low_units) * high_bytes;
    if (piece * 16 < chunk.units * (low ? low_bytes : high_bytes)) {
#pragma unroll
        for (int i = 0; i < tokens / step; i++) {
            async_copy(to + i * step * INTEGER_PITCH, from, true);
            from += job.step_stride;
        }
    }
    if (job.grouped) {
        const size_t at = (chunk.act_scale & ~CUDA_CHUNK_FIRST) * job.token_stride + block.first_token;
        uint8_t *scales = stage + tokens * INTEGER_PITCH;
        if (thread < tokens / 4) {
            async_copy(scales + thread * 16, job.act_scales + at + thread * 4, true);
        } else if (thread >= 64 && thread < 64 + tokens / 4 && job.act_zeros) {
            const unsigned i = thread - 64;
            async_copy(scales + tokens * 4 + i * 16, job.act_zeros + at + i * 4, true);
        }
    }
}

/* Where the scales of the tokens stand for a chunk, and [2][tokens] floats behind them, or [tokens], the zero points.
 */
template <int tokens>
CUDA_DEVICE const float *integer_token_scales(const integer_job &job, const integer_block &block, uint32_t index,
                                              bool high)
{
    if (job.grouped) {
        const uint8_t *stage = block.shared + index % INTEGER_STAGES * block.stage_bytes;
        return reinterpret_cast<const float *>(stage + tokens * INTEGER_PITCH);
    }
    const float *fixed = reinterpret_cast<const float *>(block.shared + INTEGER_STAGES * block.stage_bytes);
    return fixed + (high ? tokens : 0);
}

/* Scales that hold for a whole section go to shared memory once: [low, high][tokens], then the zero points. */
template <int tokens> CUDA_DEVICE void integer_keep_scales(const integer_job &job, const integer_block &block)
{
    if (job.grouped) {
        return;
    }
    float *fixed = reinterpret_cast<float *>(block.shared + INTEGER_STAGES * block.stage_bytes);
    for (unsigned i = threadIdx.x; i < 2 * tokens; i += INTEGER_THREADS) {
        const size_t at = (i < tokens ? 0 : job.high_scale * job.token_stride) + block.first_token + i % tokens;
        fixed[i] = job.act_scales[at];
        if (job.act_zeros) {
            reinterpret_cast<int32_t *>(fixed)[2 * tokens + i] = job.act_zeros[at];
        }
    }
}

/* ---- weights ---- */

/* The weights of a chunk as they are stored, for the lane: [unit][tile of 16 rows], bytes in two halves. */
template <sqf_cuda_form form> struct integer_weights {
    static constexpr int quads = form == SQF_CUDA_NIBBLES ? 1 : 2;
    uint4 raw[2][2][quads];
};

template <sqf_cuda_form form>
CUDA_DEVICE void integer_load(const integer_job &job, const integer_block &block, unsigned thread,
                              const cuda_chunk &chunk, integer_weights<form> *out)
{
    constexpr unsigned bytes = form == SQF_CUDA_NIBBLES ? (unsigned)CUDA_NIBBLE_TILE : (unsigned)CUDA_BYTE_TILE;
    const uint32_t first_tile = block.first_row / CUDA_TILE_ROWS + thread / 32 * 2;
    const uint8_t *tile = job.tiles + ((size_t)first_tile * job.units + chunk.unit) * bytes + thread % 32 * 16;
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int u = 0; u < 2; u++) {
#pragma unroll
            for (int q = 0; q < integer_weights<form>::quads; q++) {
                out->raw[u][m][q] = u == 0 || chunk.units > 1
                                        ? *reinterpret_cast<const uint4 *>(tile + u * bytes + q * 512)
                                        : uint4{0, 0, 0, 0};
            }
        }
        tile += (size_t)job.units * bytes;
    }
}

/* The scales of the lane's rows g and g + 8 of both tiles, or the sums of their weights. They are read when a chunk
 * begins and not a chunk ahead, for which there are no registers: the way to the barrier hides some of the wait. */
template <typename T>
CUDA_DEVICE void integer_load_rows(const T *array, const integer_job &job, const integer_block &block, unsigned thread,
                                   uint32_t segment, T out[2][2])
{
    const uint32_t first_tile = block.first_row / CUDA_TILE_ROWS + thread / 32 * 2;
    const T *from = array + ((size_t)first_tile * job.segments + segment) * CUDA_TILE_ROWS + thread % 32 / 4;
#pragma unroll
    for (int m = 0; m < 2; m++) {
        out[m][0] = from[0];
        out[m][1] = from[8];
        from += (size_t)job.segments * CUDA_TILE_ROWS;
    }
}

/* Registers that are the operand as they are stored. */
CUDA_DEVICE void integer_keep(const uint32_t stored[4], uint32_t a[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a[i] = stored[i];
    }
}

/* Two steps of 16 columns of a half unit from the nibbles of rows g and g + 8. */
CUDA_DEVICE void integer_widen_bf16(uint32_t row, uint32_t row8, uint32_t first[4], uint32_t second[4])
{
    first[0] = widen_nibble_bf16<0>(row);
    first[1] = widen_nibble_bf16<0>(row8);
    first[2] = widen_nibble_bf16<1>(row);
    first[3] = widen_nibble_bf16<1>(row8);
    second[0] = widen_nibble_bf16<2>(row);
    second[1] = widen_nibble_bf16<2>(row8);
    second[2] = widen_nibble_bf16<3>(row);
    second[3] = widen_nibble_bf16<3>(row8);
}

/* The same from bytes: registers 0 and 1 hold even columns of rows g and g + 8, 2 and 3 odd ones. */
CUDA_DEVICE void integer_widen_bytes_bf16(const uint32_t bytes[4], uint32_t first[4], uint32_t second[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        first[i] = widen_byte_bf16<0>(bytes[i]);
        second[i] = widen_byte_bf16<1>(bytes[i]);
    }
}

/* The A operand of a chunk: [tile][step], steps of 64 columns (INT4), 32 (INT8) or 16 (BF16, one unit). */
template <sqf_cuda_form form, integer_path path>
CUDA_DEVICE void integer_widen(const integer_weights<form> &weights, uint32_t a[2][4][4])
{
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int u = 0; u < (path == PATH_BF16 ? 1 : 2); u++) {
            const uint4 r = weights.raw[u][m][0];
            const uint32_t first[4] = {r.x, r.y, r.z, r.w};
            if constexpr (form == SQF_CUDA_NIBBLES && path == PATH_INT4) {
                integer_keep(first, a[m][u]);
            } else if constexpr (form == SQF_CUDA_NIBBLES && path == PATH_INT8) {
                widen_nibbles(r.x, r.y, a[m][2 * u]);
                widen_nibbles(r.z, r.w, a[m][2 * u + 1]);
            } else if constexpr (form == SQF_CUDA_NIBBLES) {
                integer_widen_bf16(r.x, r.y, a[m][0], a[m][1]);
                integer_widen_bf16(r.z, r.w, a[m][2], a[m][3]);
            } else {
                const uint4 q = weights.raw[u][m][1];
                const uint32_t second[4] = {q.x, q.y, q.z, q.w};
                if constexpr (path == PATH_INT8) {
                    integer_keep(first, a[m][2 * u]);
                    integer_keep(second, a[m][2 * u + 1]);
                } else {
                    integer_widen_bytes_bf16(first, a[m][0], a[m][1]);
                    integer_widen_bytes_bf16(second, a[m][2], a[m][3]);
                }
            }
        }
    }
}

/* ---- products ---- */

/* Adds the sums of eight tokens and 32 rows: c times the scales of the rows and, if `scaled`, of the lane's tokens. */
template <bool scaled>
CUDA_DEVICE void integer_flush(const int32_t c[2][4], const float scales[2][2], const float *token_scales,
                               float sums[2][4])
{
    float token[2];
    if (scaled) {
        const float2 both = *reinterpret_cast<const float2 *>(token_scales);
        token[0] = both.x, token[1] = both.y;
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float scale = scaled ? scales[m][i / 2] * token[i % 2] : scales[m][i / 2];
            sums[m][i] = __fmaf_rn(widen_sum(c[m][i]), scale, sums[m][i]);
        }
    }
}

/* A chunk of integers. Where it is one unit the weights of the second are 0, and what the stage holds does not count.
 * Sixteen tokens beyond the `present` ones are left out. That question has a second use: the assembler moves no loads
 * across it, which it would otherwise do for as many tokens as there are registers, and more. `small` is below
 * 256, but comes from memory: four registers then hold what sums start from, where the assembler would set four anew
 * before each product, had it reason to believe that they are equal. */
template <int tokens, integer_path path, bool scaled>
CUDA_DEVICE void integer_multiply(const uint8_t *stage, unsigned thread, uint32_t present, uint32_t small,
                                  const uint32_t a[2][4][4], const float scales[2][2], const float *token_scales,
                                  float sums[tokens / 8][2][4])
{
    constexpr int steps = path == PATH_INT4 ? 2 : 4;
    constexpr bool wide = path != PATH_INT4;
    const unsigned row = thread % 8, piece = thread % 32 / 8;
    const uint8_t *from = stage + swizzle_wide(row, piece), *next = stage + swizzle_wide(row, piece + 4);
    token_scales += thread % 4 * 2;
    const int32_t start[4] = {WIDEN_SUM_START + (int32_t)(small >> 8), WIDEN_SUM_START + (int32_t)(small >> 9),
                              WIDEN_SUM_START + (int32_t)(small >> 10), WIDEN_SUM_START + (int32_t)(small >> 11)};
    uint32_t b[2][4], late[4]; /* pieces 0..3, those of the next tokens ahead of time, and 4..7 */
    load_matrix_x4(b[0], from);
#pragma unroll
    for (int j = 0; j < tokens / 8; j++) {
        if (j > 0 && j % 2 == 0 && 8u * j >= present) {
            break;
        }
        int32_t c[2][4];
        if (wide) {
            load_matrix_x4(late, next + j * 1024);
        }
        if (j + 1 < tokens / 8) {
            load_matrix_x4(b[(j + 1) % 2], from + (j + 1) * 1024);
        }
#pragma unroll
        for (int m = 0; m < 2; m++) {
            if (path == PATH_INT4) {
                mma_s4_from(c[m], a[m][0], b[j % 2], start);
            } else {
                mma_s8_from(c[m], a[m][0], b[j % 2], start);
            }
        }
#pragma unroll
        for (int s = 1; s < steps; s++) {
#pragma unroll
            for (int m = 0; m < 2; m++) {
                if (path == PATH_INT4) {
                    mma_s4(c[m], a[m][s], (s < 2 ? b[j % 2] : late) + 2 * (s % 2));
                } else {
                    mma_s8(c[m], a[m][s], (s < 2 ? b[j % 2] : late) + 2 * (s % 2));
                }
            }
        }
        integer_flush<scaled>(c, scales, token_scales + 8 * j, sums[j]);
    }
}

/* A chunk of bfloat16, one unit. */
template <int tokens>
CUDA_DEVICE void integer_multiply_bf16(const uint8_t *stage, unsigned thread, uint32_t present,
                                       const uint32_t a[2][4][4], const float scales[2][2],
                                       float sums[tokens / 8][2][4])
{
    const unsigned row = thread % 8, piece = thread % 32 / 8;
    const uint8_t *from = stage + swizzle_wide(row, piece), *next = stage + swizzle_wide(row, piece + 4);
    uint32_t b[2][4], late[4];
    load_matrix_x4(b[0], from);
#pragma unroll
    for (int j = 0; j < tokens / 8; j++) {
        if (j > 0 && j % 2 == 0 && 8u * j >= present) {
            break;
        }
        float c[2][4] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
        load_matrix_x4(late, next + j * 1024);
        if (j + 1 < tokens / 8) {
            load_matrix_x4(b[(j + 1) % 2], from + (j + 1) * 1024);
        }
#pragma unroll
        for (int s = 0; s < 4; s++) {
#pragma unroll
            for (int m = 0; m < 2; m++) {
                mma_bf16(c[m], a[m][s], (s < 2 ? b[j % 2] : late) + 2 * (s % 2));
            }
        }
#pragma unroll
        for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[j][m][i] = __fmaf_rn(c[m][i], scales[m][i / 2], sums[j][m][i]);
            }
        }
    }
}

/* At the first chunk of a segment: takes off what the codes that stand for 0 contribute, zero * sum of the weights. */
template <int tokens>
CUDA_DEVICE void integer_correct(const integer_job &job, const integer_block &block, unsigned thread, uint32_t segment,
                                 const float *token_scales, const float scales[2][2], float gain,
                                 float sums[tokens / 8][2][4])
{
    const int32_t *zeros = reinterpret_cast<const int32_t *>(token_scales) + (job.grouped ? 1 : 2) * tokens;
    int32_t column[2][2];
    integer_load_rows(job.sums, job, block, thread, segment, column);
#pragma unroll
    for (int j = 0; j < tokens / 8; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned token = 8 * j + thread % 4 * 2 + i % 2;
            const float zero = (float)zeros[token], scale = token_scales[token];
#pragma unroll
            for (int m = 0; m < 2; m++) {
                sums[j][m][i] =
                    __fmaf_rn(-(zero * (float)column[m][i / 2] * gain), scales[m][i / 2] * scale, sums[j][m][i]);
            }
        }
    }
}

/* The low section is done: its sums lack the scale of the tokens. */
template <int tokens>
CUDA_DEVICE void integer_scale_tokens(const float *token_scales, unsigned thread, float sums[tokens / 8][2][4])
{
#pragma unroll
    for (int j = 0; j < tokens / 8; j++) {
        const float2 both = *reinterpret_cast<const float2 *>(token_scales + 8 * j + thread % 4 * 2);
#pragma unroll
        for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[j][m][i] *= i % 2 ? both.y : both.x;
            }
        }
    }
}

/* ---- the end ---- */

/* Sums change places through shared memory, 16 tokens at a time, so that a warp writes 32 channels of a token side by
 * side. Every warp has its own part: no barrier but that of the warp. */
template <int tokens>
CUDA_DEVICE void integer_store(const integer_job &job, const integer_block &block, const float sums[tokens / 8][2][4])
{
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
    float *place = reinterpret_cast<float *>(block.shared) + warp * 16 * INTEGER_FLUSH;
    const uint32_t row = block.first_row + warp * 32 + lane;
    const bool mine = row < job.rows;
    const float bias = job.bias && mine && job.split_bits == 0 ? job.bias[row] : 0.0f;
#pragma unroll
    for (int p = 0; p < tokens / 16; p++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
            for (int m = 0; m < 2; m++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    place[(8 * j + 2 * t + i % 2) * INTEGER_FLUSH + 16 * m + g + i / 2 * 8] = sums[2 * p + j][m][i];
                }
            }
        }
        __syncwarp();
        for (unsigned k = 0; k < 16; k++) {
            const uint32_t token = block.first_token + 16 * p + k;
            if (mine && token < job.tokens) {
                const float sum = place[k * INTEGER_FLUSH + lane] + bias;
                if (job.split_bits > 0) {
                    job.partial[((size_t)block.split * job.tokens + token) * job.rows + row] = sum;
                } else {
                    store_product(job.y + (size_t)token * job.rows + row, sum, job.store);
                }
            }
        }
        __syncwarp();
    }
}

/* ---- the kernel ---- */

/* One chunk that stands in its stage. The lane's weights are those of the chunk; when they are widened, those of
 * chunk `next` are fetched in their place. */
template <int tokens, sqf_cuda_form form, integer_path path, bool scaled>
CUDA_DEVICE void integer_chunk(const integer_job &job, const integer_block &block, unsigned thread, uint32_t index,
                               uint32_t next, float scales[2][2], integer_weights<form> *weights,
                               float sums[tokens / 8][2][4])
{
    constexpr float gain = path == PATH_INT8 && form == SQF_CUDA_NIBBLES ? 1.0f / WIDEN_NIBBLE_GAIN : 1.0f;
    constexpr integer_path integers = path == PATH_INT4 ? PATH_INT4 : PATH_INT8;
    const uint8_t *stage = block.shared + index % INTEGER_STAGES * block.stage_bytes;
    scales[0][0] *= gain, scales[0][1] *= gain, scales[1][0] *= gain, scales[1][1] *= gain;
    uint32_t a[2][4][4];
    integer_widen<form, path>(*weights, a);
    const cuda_chunk ahead = job.chunks[next];
    integer_load<form>(job, block, thread, ahead, weights);
    if (path == PATH_BF16) {
        integer_multiply_bf16<tokens>(stage, thread, job.tokens - block.first_token, a, scales, sums);
        return;
    }
    const float *token_scales = integer_token_scales<tokens>(job, block, index, index >= job.low_chunks);
    integer_multiply<tokens, integers, scaled>(stage, thread, job.tokens - block.first_token, ahead.units, a, scales,
                                               token_scales, sums);
    if (scaled && job.act_zeros) {
        const cuda_chunk chunk = job.chunks[index];
        if (chunk.act_scale & CUDA_CHUNK_FIRST) {
            integer_correct<tokens>(job, block, thread, chunk.segment, token_scales, scales, 1.0f / gain, sums);
        }
    }
}

/* high_path PATH_NONE: both sections are of low_path. scaled: the low section too takes the scales of the tokens chunk
 * by chunk: those that change from segment to segment, and zero points. */
template <int tokens, sqf_cuda_form form, integer_path low_path, integer_path high_path, bool scaled>
__global__ void __launch_bounds__(INTEGER_THREADS, integer_blocks(tokens, form, scaled))
    integer_kernel(const integer_job given)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (low_path == PATH_INT4) { /* linear.cu keeps bytes where there are no such instructions */
        __trap();
        return;
    }
    constexpr integer_path low = low_path == PATH_INT4 ? PATH_INT8 : low_path;
#else
    constexpr integer_path low = low_path;
#endif
    CUDA_SHARED(shared);
    integer_job job = given;
    job.grouped = scaled && given.grouped;
    job.act_zeros = scaled ? given.act_zeros : NULL;
    const integer_block first = integer_place(job, blockIdx, tokens, shared);
    if (first.first_row >= job.rows) {
        return;
    }
    float sums[tokens / 8][2][4];
#pragma unroll
    for (int i = 0; i < tokens; i++) {
        sums[i / 8][i / 4 % 2][i % 4] = 0.0f;
    }
    integer_keep_scales<tokens>(job, first);
    for (uint32_t i = 0; i < INTEGER_STAGES - 1; i++) {
        if (first.begin + i < first.end) {
            integer_copy<tokens, low, high_path>(job, first, threadIdx.x, first.begin + i);
        }
        async_commit();
    }
    integer_weights<form> weights;
    if (first.begin < first.end) {
        integer_load<form>(job, first, threadIdx.x, job.chunks[first.begin], &weights);
    }
    for (uint32_t index = first.begin; index < first.end; index++) {
        const unsigned thread = opaque(threadIdx.x);
        const uint3 place = {opaque(blockIdx.x), opaque(blockIdx.y), opaque(blockIdx.z)};
        const integer_block block = integer_place(job, place, tokens, shared);
        const uint32_t next = index + 1 < block.end ? index + 1 : index;
        float scales[2][2];
        integer_load_rows(job.scales, job, block, thread, job.chunks[index].segment, scales);
        async_wait<INTEGER_STAGES - 2>();
        __syncthreads();
        if (index + INTEGER_STAGES - 1 < block.end) {
            integer_copy<tokens, low, high_path>(job, block, thread, index + INTEGER_STAGES - 1);
        }
        async_commit();
        if (high_path == PATH_NONE || index < job.low_chunks) {
            integer_chunk<tokens, form, low, scaled>(job, block, thread, index, next, scales, &weights, sums);
            if (!scaled && (index + 1 == job.low_chunks || index + 1 == block.end)) {
                integer_scale_tokens<tokens>(integer_token_scales<tokens>(job, block, index, false), thread, sums);
            }
        } else {
            integer_chunk<tokens, form, high_path, true>(job, block, thread, index, next, scales, &weights, sums);
        }
    }
    async_wait<0>();
    __syncthreads();
    const uint3 place = {opaque(blockIdx.x), opaque(blockIdx.y), opaque(blockIdx.z)};
    integer_store<tokens>(job, integer_place(job, place, tokens, shared), sums);
}

#endif

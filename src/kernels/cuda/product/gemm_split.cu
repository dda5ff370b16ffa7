/* Products of compact SPLIT weights with many tokens of int8 activations.
 *
 * A block computes 128 rows and `tokens` tokens. Each of its 8 warps has one tile of 16 rows and all the tokens, so
 * that every weight is unpacked exactly once a block, by the warp that multiplies it, out of shared memory into
 * registers: low elements (high places 0) and high elements (low places 0) of the two units of a chunk are 32 registers
 * of A operands. Activations are shared by the warps, 128 bytes a token and chunk, swizzled; each fragment that
 * ldmatrix brings meets both parts. Their integer sums stay apart and are scaled and added once a chunk:
 *
 *     memory --cp.async--> [nibbles | high lists | scales | activations] x 3 stages
 *        warp w:  nibbles, lists of tile w --unpack--> A low, A high        (once a chunk)
 *                 for each 8 tokens: B = ldmatrix;  I_low = A low B,  I_high = A high B
 *                                    sum += s_low I_low + s_high I_high
 *
 * A chunk of 128 columns is 8 products of 4096 multiplications for each 16 rows and 8 tokens, and 2 * 128 tokens / 8
 * ldmatrix against them: shared memory is read half as long as the tensor units multiply at A100's rates. Where there
 * are too few blocks, columns are cut and the parts added in ascending order by the block that comes last. */
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/linear/store.h"
#include "kernels/cuda/linear/swizzle.h"
#include "kernels/cuda/linear/widen.h"

enum {
    SPLIT_WARPS = 8,
    SPLIT_THREADS = 32 * SPLIT_WARPS,
    SPLIT_ROWS = SPLIT_WARPS * CUDA_TILE_ROWS,
    SPLIT_STAGES = 3,
    SPLIT_UNITS = 2,      /* of a chunk at most */
    SPLIT_AHEAD = 2,      /* groups of 8 tokens whose activations may be in registers at a time */
    SPLIT_CUT_MAX = 8,    /* parts of the columns */
    SPLIT_CUT_CHUNKS = 8, /* chunks of a part at least */

    /* A stage: activations, then each warp's part: nibbles, scales of both parts, high lists. */
    SPLIT_TOKEN_BYTES = SPLIT_UNITS * CUDA_BYTE_UNIT,
    SPLIT_SCALES_AT = SPLIT_UNITS * CUDA_NIBBLE_TILE,
    SPLIT_LISTS_AT = SPLIT_SCALES_AT + 2 * CUDA_TILE_ROWS * 4
};

typedef struct split_job {
    const uint8_t *tiles, *high;
    const float *scales, *high_scales;
    const uint8_t *codes;
    const float *act_scales;
    const cuda_chunk *chunks;
    float *y;
    const float *bias;
    float *partial;     /* [token blocks][row blocks][parts][tokens of a block][SPLIT_ROWS] */
    uint32_t *counters; /* [token blocks][row blocks], 0 */
    size_t stride, token_stride;
    uint32_t rows, tokens, units, segments, chunk_count, unit_high;
    sqf_cuda_store store;
} split_job;

/* Bytes of a warp's part of a stage; lists are read up to 11 bytes behind their end. */
SQF_BOTH uint32_t split_warp_bytes(uint32_t unit_high)
{
    return SPLIT_LISTS_AT + SPLIT_UNITS * CUDA_TILE_ROWS * unit_high + 16;
}

/* Of a stage; `scaled`: with the tokens' scales. */
SQF_BOTH uint32_t split_stage_bytes(uint32_t tokens, uint32_t unit_high, bool scaled)
{
    return tokens * (SPLIT_TOKEN_BYTES + (scaled ? 4 : 0)) + SPLIT_WARPS * split_warp_bytes(unit_high);
}

/* Where a thread stands. */
typedef struct split_place {
    uint32_t lane, warp;
    uint32_t token; /* first of the block */
    uint32_t tile;  /* row tile of the warp */
} split_place;

/* ---- copies ---- */

template <int tokens>
CUDA_DEVICE void split_stage_codes(const split_job &job, const split_place &place, const cuda_chunk &chunk,
                                   uint8_t *stage)
{
    const uint32_t piece = threadIdx.x % 8, first = threadIdx.x / 8;
    if (piece / 4 < chunk.units) {
        const uint8_t *from = job.codes + (place.token + first) * job.stride + chunk.unit * CUDA_BYTE_UNIT + piece * 16;
#pragma unroll
        for (uint32_t row = 0; row < tokens; row += SPLIT_THREADS / 8) {
            async_copy(stage + swizzle_wide(first + row, piece), from + row * job.stride, true);
        }
    }
}

/* The warp's tile: nibbles, lists, scales; all tokens' scales by the first warp. */
template <int tokens, bool scaled>
CUDA_DEVICE void split_stage_tile(const split_job &job, const split_place &place, const cuda_chunk &chunk,
                                  uint8_t *stage, uint8_t *part)
{
    const size_t unit = (size_t)place.tile * job.units + chunk.unit;
#pragma unroll 1
    for (uint32_t u = 0; u < chunk.units; u++) {
        const uint32_t at = u * CUDA_NIBBLE_TILE + place.lane * 16;
        async_copy(part + at, job.tiles + unit * CUDA_NIBBLE_TILE + at, true);
    }
    const uint8_t *lists = job.high + unit * CUDA_TILE_ROWS * job.unit_high;
#pragma unroll 1
    for (uint32_t i = place.lane; i < chunk.units * job.unit_high; i += 32) {
        async_copy(part + SPLIT_LISTS_AT + i * 16, lists + i * 16, true);
    }
    if (place.lane < 8) {
        const float *scales = place.lane < 4 ? job.scales : job.high_scales;
        async_copy(part + SPLIT_SCALES_AT + place.lane * 16,
                   scales + ((size_t)place.tile * job.segments + chunk.segment) * CUDA_TILE_ROWS + place.lane % 4 * 4,
                   true);
    }
    if (scaled && place.warp == 0 && place.lane < tokens / 4) {
        const uint32_t group = chunk.act_scale & ~CUDA_CHUNK_FIRST;
        async_copy(stage + tokens * SPLIT_TOKEN_BYTES + place.lane * 16,
                   job.act_scales + group * job.token_stride + place.token + place.lane * 4, true);
    }
}

/* ---- products ---- */

/* A operands of a unit, both parts; `there` false: zeros, for a chunk of one unit. */
CUDA_DEVICE void split_unpack(const uint8_t *nibbles, const uint8_t *lists, uint32_t unit_high, uint32_t lane,
                              bool there, uint32_t low[2][4], uint32_t high[2][4])
{
    const uint4 words = *(const uint4 *)(nibbles + lane * 16);
    uint32_t w[4] = {words.x, words.y, words.z, words.w}, marks[4], list[4][2];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = there ? w[i] : 0;
        marks[i] = split_marks(w[i]);
        w[i] ^= marks[i];
    }
    const uint32_t ranks = split_ranks(marks);
    const uint8_t *row = lists + lane / 4 * unit_high, *row8 = row + 8 * unit_high;
    split_fetch<0>(row, ranks, &list[0][0], &list[0][1]);
    split_fetch<1>(row8, ranks, &list[1][0], &list[1][1]);
    split_fetch<2>(row, ranks, &list[2][0], &list[2][1]);
    split_fetch<3>(row8, ranks, &list[3][0], &list[3][1]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t natural[2];
        split_expand(marks[i], list[i][0], list[i][1], natural);
        high[i / 2][i % 2] = __byte_perm(natural[0], natural[1], 0x6420);
        high[i / 2][i % 2 + 2] = __byte_perm(natural[0], natural[1], 0x7531);
    }
    widen_nibbles(w[0], w[1], low[0]);
    widen_nibbles(w[2], w[3], low[1]);
}

/* The sum over a chunk: a's registers of two units times b's. */
CUDA_DEVICE void split_multiply(const uint32_t a[SPLIT_UNITS][2][4], const uint32_t b[SPLIT_UNITS][4], float product[4])
{
    const int32_t start[4] = {WIDEN_SUM_START, WIDEN_SUM_START, WIDEN_SUM_START, WIDEN_SUM_START};
    int32_t whole[4];
    mma_s8_from(whole, a[0][0], &b[0][0], start);
    mma_s8(whole, a[0][1], &b[0][2]);
    mma_s8(whole, a[1][0], &b[1][0]);
    mma_s8(whole, a[1][1], &b[1][2]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        product[i] = widen_sum(whole[i]);
    }
}

/* One chunk in shared memory, all tokens. */
template <int tokens, bool scaled>
CUDA_DEVICE void split_chunk(const split_job &job, const split_place &place, uint32_t units, const uint8_t *stage,
                             const uint8_t *part, float sum[tokens / 8][4])
{
    const float *scales = (const float *)(part + SPLIT_SCALES_AT) + place.lane / 4;
    const float low_scale[2] = {scales[0] * (1.0f / WIDEN_NIBBLE_GAIN), scales[8] * (1.0f / WIDEN_NIBBLE_GAIN)};
    const float high_scale[2] = {scales[CUDA_TILE_ROWS], scales[CUDA_TILE_ROWS + 8]};
    uint32_t low[SPLIT_UNITS][2][4], high[SPLIT_UNITS][2][4];
#pragma unroll
    for (uint32_t u = 0; u < SPLIT_UNITS; u++) {
        split_unpack(part + u * CUDA_NIBBLE_TILE, part + SPLIT_LISTS_AT + u * CUDA_TILE_ROWS * job.unit_high,
                     job.unit_high, place.lane, u < units, low[u], high[u]);
    }
    const uint8_t *rows[SPLIT_UNITS];
#pragma unroll
    for (uint32_t u = 0; u < SPLIT_UNITS; u++) {
        rows[u] = stage + swizzle_wide(place.lane % 8, u * 4 + place.lane / 8);
    }
#pragma unroll
    for (int n = 0; n < tokens / 8; n++) {
        uint32_t b[SPLIT_UNITS][4];
        float product[2][4];
        if (n % SPLIT_AHEAD == 0) {
            __syncwarp(); /* nothing is to be gained by loading more at once than this */
        }
        load_matrix_x4(b[0], rows[0] + n * 8 * SPLIT_TOKEN_BYTES);
        load_matrix_x4(b[1], rows[1] + n * 8 * SPLIT_TOKEN_BYTES);
        split_multiply(low, b, product[0]);
        split_multiply(high, b, product[1]);
        float act[2] = {1.0f, 1.0f};
        if (scaled) {
            const float2 of =
                *(const float2 *)(stage + tokens * SPLIT_TOKEN_BYTES + (n * 8 + 2 * (place.lane % 4)) * 4);
            act[0] = of.x;
            act[1] = of.y;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (scaled) {
                const float both = fmaf(high_scale[i / 2], product[1][i], low_scale[i / 2] * product[0][i]);
                sum[n][i] = fmaf(act[i % 2], both, sum[n][i]);
            } else {
                sum[n][i] = fmaf(low_scale[i / 2], product[0][i], sum[n][i]);
                sum[n][i] = fmaf(high_scale[i / 2], product[1][i], sum[n][i]);
            }
        }
    }
}

/* ---- the end ---- */

/* Index of element i of the lane's sums of tokens 8n.. in a block's [tokens][SPLIT_ROWS]. */
CUDA_DEVICE uint32_t split_element(const split_place &place, int n, int i)
{
    return (n * 8 + 2 * (place.lane % 4) + i % 2) * SPLIT_ROWS + place.warp * CUDA_TILE_ROWS + place.lane / 4 +
           i / 2 * 8;
}

/* True in the block that comes last of those that share an output; it has all sums in `sum` then. */
template <int tokens>
CUDA_DEVICE bool split_gather(const split_job &job, const split_place &place, float sum[tokens / 8][4])
{
    __shared__ uint32_t arrived;
    const uint32_t output = blockIdx.y * gridDim.x + blockIdx.x;
    float *partial = job.partial + (size_t)output * gridDim.z * tokens * SPLIT_ROWS;
#pragma unroll
    for (int n = 0; n < tokens / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            partial[blockIdx.z * tokens * SPLIT_ROWS + split_element(place, n, i)] = sum[n][i];
            sum[n][i] = 0.0f;
        }
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        arrived = atomicAdd(&job.counters[output], 1u);
    }
    __syncthreads();
    if (arrived + 1 != gridDim.z) {
        return false;
    }
    __threadfence();
    if (threadIdx.x == 0) {
        job.counters[output] = 0;
    }
#pragma unroll 1
    for (uint32_t s = 0; s < gridDim.z; s++) {
#pragma unroll
        for (int n = 0; n < tokens / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sum[n][i] += __ldcg(partial + s * tokens * SPLIT_ROWS + split_element(place, n, i));
            }
        }
    }
    return true;
}

template <int tokens, bool scaled>
CUDA_DEVICE void split_store(const split_job &job, const split_place &place, const float sum[tokens / 8][4])
{
#pragma unroll
    for (int n = 0; n < tokens / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t token = place.token + n * 8 + 2 * (place.lane % 4) + i % 2;
            const uint32_t row = place.tile * CUDA_TILE_ROWS + place.lane / 4 + i / 2 * 8;
            if (token < job.tokens && row < job.rows) {
                const float p = scaled ? sum[n][i] : sum[n][i] * job.act_scales[token];
                store_product(job.y + (size_t)token * job.rows + row, p + (job.bias ? job.bias[row] : 0.0f), job.store);
            }
        }
    }
}

/* Grid: blocks of rows, blocks of tokens, parts of the columns. scaled: activations have more than one scale a token.
 */
template <int tokens, bool scaled>
__global__ void __launch_bounds__(SPLIT_THREADS, tokens > 64 ? 1 : 2) split_kernel(const split_job job)
{
    CUDA_SHARED(shared);
    const split_place place = {threadIdx.x % 32, threadIdx.x / 32, (uint32_t)(blockIdx.y * tokens),
                               blockIdx.x * SPLIT_WARPS + threadIdx.x / 32};
    const uint32_t stage_bytes = split_stage_bytes(tokens, job.unit_high, scaled);
    const uint32_t part_at =
        tokens * (SPLIT_TOKEN_BYTES + (scaled ? 4 : 0)) + place.warp * split_warp_bytes(job.unit_high);
    const uint32_t begin = job.chunk_count * blockIdx.z / gridDim.z;
    const uint32_t count = job.chunk_count * (blockIdx.z + 1) / gridDim.z - begin;
    uint32_t units[SPLIT_STAGES]; /* of the chunks under way, the next first */
    float sum[tokens / 8][4] = {};

#pragma unroll
    for (uint32_t i = 0; i + 1 < SPLIT_STAGES; i++) {
        units[i] = 0;
        if (i < count) {
            const cuda_chunk chunk = job.chunks[begin + i];
            uint8_t *stage = shared + i * stage_bytes;
            units[i] = chunk.units;
            split_stage_codes<tokens>(job, place, chunk, stage);
            split_stage_tile<tokens, scaled>(job, place, chunk, stage, stage + part_at);
        }
        async_commit();
    }
    cuda_chunk ahead = job.chunks[begin + min(count - 1, (uint32_t)SPLIT_STAGES - 1)];
    uint32_t at = 0, to = SPLIT_STAGES - 1;
#pragma unroll 1
    for (uint32_t i = 0; i < count; i++) {
        async_wait<SPLIT_STAGES - 2>();
        __syncthreads();
        units[SPLIT_STAGES - 1] = ahead.units;
        if (i + SPLIT_STAGES - 1 < count) {
            uint8_t *stage = shared + to * stage_bytes;
            split_stage_codes<tokens>(job, place, ahead, stage);
            split_stage_tile<tokens, scaled>(job, place, ahead, stage, stage + part_at);
            ahead = job.chunks[begin + min(count - 1, i + SPLIT_STAGES)];
        }
        async_commit();
        const uint8_t *stage = shared + at * stage_bytes;
        split_chunk<tokens, scaled>(job, place, units[0], stage, stage + part_at, sum);
#pragma unroll
        for (int s = 0; s + 1 < SPLIT_STAGES; s++) {
            units[s] = units[s + 1];
        }
        at = at + 1 == SPLIT_STAGES ? 0 : at + 1;
        to = to + 1 == SPLIT_STAGES ? 0 : to + 1;
    }
    if (gridDim.z == 1 || split_gather<tokens>(job, place, sum)) {
        split_store<tokens, scaled>(job, place, sum);
    }
}

/* ---- the family ---- */

typedef struct split_cut {
    uint32_t tokens; /* of a block */
    uint32_t row_blocks, token_blocks, parts;
    bool scaled;
} split_cut;

/* Blocks of 128 tokens unpack the weights half as often; 64 where that is padding, or shared memory is small. Columns
 * are cut while blocks are fewer than multiprocessors. */
static split_cut cut_product(const cuda_product *product)
{
    const cuda_input_layout *layout = &product->linear->layout;
    const uint32_t tokens = (uint32_t)product->input->tokens, unit_high = product->weights->unit_high;
    const uint32_t processors = (uint32_t)product->device->info.multiprocessors;
    split_cut cut = {128, product->linear->padded_rows / SPLIT_ROWS, 0, 1, layout->scale_count > 1};
    const size_t shared = (size_t)SPLIT_STAGES * split_stage_bytes(128, unit_high, cut.scaled);
    if (tokens <= 64 || shared > product->device->info.shared_bytes) {
        cut.tokens = 64;
    }
    cut.token_blocks = (tokens + cut.tokens - 1) / cut.tokens;
    const uint32_t blocks = cut.row_blocks * cut.token_blocks;
    while (cut.parts < SPLIT_CUT_MAX && blocks <= CUDA_COUNTERS && blocks * (cut.parts + 1) <= processors &&
           layout->chunk_count / (cut.parts + 1) >= SPLIT_CUT_CHUNKS) {
        cut.parts++;
    }
    return cut;
}

static bool split_serves(const cuda_product *product)
{
    const cuda_input_layout *layout = &product->linear->layout;
    const uint32_t unit_high = product->weights->unit_high;
    return product->weights->form == SQF_CUDA_SPLIT && layout->low_element == CUDA_BYTE &&
           layout->high_element == CUDA_BYTE && layout->spec.zero == SQF_ACT_ZERO_NONE &&
           SPLIT_STAGES * split_stage_bytes(64, unit_high, true) <= product->device->info.shared_bytes;
}

static size_t split_workspace(const cuda_product *product)
{
    const split_cut cut = cut_product(product);
    return cut.parts == 1 ? 0 : sizeof(float) * cut.parts * cut.tokens * cut.token_blocks * SPLIT_ROWS * cut.row_blocks;
}

static split_job make_job(const cuda_product *product)
{
    const cuda_input_layout *layout = &product->linear->layout;
    const cuda_plane *plane = &product->input->planes[product->plane];
    const cuda_weights *weights = product->weights;
    split_job job = split_job();
    job.tiles = weights->tiles;
    job.high = weights->high;
    job.scales = weights->scales;
    job.high_scales = weights->high_scales;
    job.codes = plane->codes;
    job.act_scales = plane->scales;
    job.chunks = layout->device_chunks;
    job.y = product->y;
    job.bias = product->bias;
    job.partial = static_cast<float *>(product->device->workspace);
    job.counters = product->device->counters;
    job.stride = layout->stride[product->plane];
    job.token_stride = product->input->token_stride;
    job.rows = product->linear->rows;
    job.tokens = (uint32_t)product->input->tokens;
    job.units = layout->units;
    job.segments = layout->segment_count;
    job.chunk_count = layout->chunk_count;
    job.unit_high = weights->unit_high;
    job.store = product->store;
    return job;
}

static sqf_status split_run(const cuda_product *product, sqf_error *err)
{
    const split_cut cut = cut_product(product);
    if (cut.parts > 1) {
        SQF_TRY(cuda_counters(product->device, err));
    }
    const split_job job = make_job(product);
    const dim3 grid(cut.row_blocks, cut.token_blocks, cut.parts);
    const size_t shared = (size_t)SPLIT_STAGES * split_stage_bytes(cut.tokens, job.unit_high, cut.scaled);
    void (*kernel)(const split_job) = cut.tokens == 128
                                          ? cut.scaled ? split_kernel<128, true> : split_kernel<128, false>
                                      : cut.scaled ? split_kernel<64, true>
                                                   : split_kernel<64, false>;
    return cuda_check(cuda_launch(product->device->stream, kernel, grid, dim3(SPLIT_THREADS), shared, job),
                      "product of split weights", err);
}

const cuda_family cuda_family_split = {"split", split_serves, split_run, split_workspace};

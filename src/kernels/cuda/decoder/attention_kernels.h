/* The kernels of attention for one type of cache: prefill, with blocks of many rows that share tiles of keys, and
 * decode, where the keys of a sequence are cut into stretches. attention.cu chooses; one .cu file for each type makes
 * them.
 *
 * Prefill. A block is 8 warps of 16 rows (4 of 32 where heads are narrow: half the loads of matrices for each product);
 * keys and values pass through two stages of shared memory. For a tile of 64 keys and heads of 128 a warp of F16
 * executes 128 matrix instructions: 1024 cycles of a quarter of an 8.0. It issues some 430 instructions (those, 64
 * ldmatrix, 70 for the copies, 170 of the softmax), and 32 powers of two take 256 cycles of the special function unit,
 * beside the matrix unit. The 64 ldmatrix are 32 KB a warp, 128 bytes a cycle of the multiprocessor: all that shared
 * memory gives, so that about half of the peak is what to expect, and less of 9.0's, whose matrix units are twice as
 * fast. INT8 issues some 1000 instructions, most to widen codes: bound by them. F32 executes 768 for the same tile, of
 * half the rate and depth: a sixth of F16. Global memory is no bound: 32 KB in 2 * 1024 cycles.
 *
 * Decode. A warp has two stages of its own and meets the others of its block at the end only. 16 keys and values of F16
 * and 128 elements are 8 KB: a block of 4 warps has 32 to 64 KB under way, more than the 20 KB that one multiprocessor
 * must have to draw 3.35 TB/s / 132 at a latency of 800 ns. A warp issues some 350 instructions for those 8 KB, which
 * take 560 cycles at that rate: a sixth of the issue slots, whatever the number of heads that share the key head, up
 * to 16.
 */
#ifndef SQF_KERNELS_CUDA_ATTENTION_KERNELS_H
#define SQF_KERNELS_CUDA_ATTENTION_KERNELS_H

#include "kernels/cuda/decoder/attention.h"
#include "kernels/cuda/decoder/attention_core.h"

/* Keys of a tile, by what fits the 99 KB that a block of 8.6, 8.9 and 12.0 may have. */
template <sqf_kv_type type, int dim> struct attention_config {
    static constexpr int tiles = type != SQF_KV_F32 && dim <= 64 ? 2 : 1; /* of 16 rows a warp, in prefill */
    static constexpr int prefill_warps = dim <= 128 && tiles == 1 ? 8 : 4;
    static constexpr int prefill_keys = type == SQF_KV_F32 ? (dim <= 64    ? 32
                                                              : dim <= 128 ? 16
                                                                           : 8)
                                                           : (dim <= 128 ? 64 : 32);
    static constexpr int prefill_parts = 1;
    static constexpr int decode_parts = type == SQF_KV_F32 ? 1 : 2;
    static constexpr int decode_warps = dim <= 128 ? 4 : 2;
    static constexpr int decode_keys = type == SQF_KV_F32 ? 8 : type == SQF_KV_F16 ? 16 : 32;
};

/* The cache of a sequence's head. */
template <sqf_kv_type type> CUDA_DEVICE attention_source source_of(const attention_job &job, int sequence, int head)
{
    const sqf_cuda_kv kv = job.kv[sequence];
    const int element = type == SQF_KV_F32 ? 4 : type == SQF_KV_F16 ? 2 : 1;
    const size_t slot = (size_t)head * (size_t)job.capacity, row = (size_t)(job.head_dim * element);
    attention_source source = {(const uint8_t *)kv.key + slot * row, (const uint8_t *)kv.value + slot * row, NULL, NULL,
                               (int)row};
    if (type == SQF_KV_INT8) {
        source.key_scales = kv.key_scales + slot;
        source.value_scales = kv.value_scales + slot;
    }
    return source;
}

/* Rows `row`.. of a sequence's key head in one warp: their queries, and what each sees. Rows from `count` on repeat the
 * last. */
template <sqf_kv_type type, int dim, int tiles, int parts>
CUDA_DEVICE void begin_rows(attention_rows<type, dim, tiles, parts> &rows, const attention_job &job,
                            const sequence_rows &sequence, int head, int row, uint4 *shared, bool writes,
                            attention_span span[tiles][2], int lane)
{
    CUDA_UNROLL
    for (int m = 0; m < tiles; m++) {
        const float *from[2];
        CUDA_UNROLL
        for (int h = 0; h < 2; h++) {
            const int mine = min(row + 16 * m + 8 * h + lane / 4, sequence.rows - 1);
            const int token = sequence.begin + mine / job.group;
            from[h] = job.query + ((size_t)token * (size_t)job.heads + (size_t)(head * job.group + mine % job.group)) *
                                      (size_t)job.head_dim;
            span[m][h] = span_of(job, token);
        }
        attention_begin<type, dim, tiles, parts>(rows, m, from, job.head_dim, job.factor, shared, writes, lane);
    }
}

/* What all rows from `row` to `last` see, and what some see. */
typedef struct span_bounds {
    attention_span all, some;
} span_bounds;

CUDA_DEVICE span_bounds bounds_of(const attention_job &job, const sequence_rows &sequence, int row, int last)
{
    const attention_span a = span_of(job, sequence.begin + min(row, sequence.rows - 1) / job.group);
    const attention_span b = span_of(job, sequence.begin + min(last, sequence.rows - 1) / job.group);
    return span_bounds{{b.first, a.last}, {a.first, b.last}};
}

template <sqf_kv_type type, int dim>
__global__ void __launch_bounds__(attention_config<type, dim>::prefill_warps * 32, 1)
    attention_prefill(attention_job job)
{
    typedef attention_config<type, dim> config;
    constexpr int tiles = config::tiles, warps = config::prefill_warps, keys = config::prefill_keys;
    constexpr int parts = config::prefill_parts;
    constexpr int warp_rows = 16 * tiles, stage = attention_tile<type, dim, keys>::bytes;
    CUDA_SHARED(shared);
    const sequence_rows sequence = rows_of_sequence(job, (int)blockIdx.z);
    const int head = (int)blockIdx.y, warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    /* the last rows see the most keys and begin first */
    const int block = (sequence.rows + warps * warp_rows - 1) / (warps * warp_rows) - 1 - (int)blockIdx.x;
    if (block < 0) {
        return;
    }
    const int block_row = block * warps * warp_rows, row = block_row + warp * warp_rows;
    const span_bounds range = bounds_of(job, sequence, block_row, block_row + warps * warp_rows - 1);
    const span_bounds mine = bounds_of(job, sequence, row, row + warp_rows - 1);
    const attention_source source = source_of<type>(job, (int)blockIdx.z, head);
    const int end = range.some.last + 1;
    int at = range.some.first / keys * keys;
    attention_copy<type, dim, keys, warps * 32>(shared, source, at, end, (int)threadIdx.x);
    async_commit();
    attention_rows<type, dim, tiles, parts> rows;
    attention_span span[tiles][2];
    begin_rows<type, dim, tiles, parts>(
        rows, job, sequence, head, row,
        (uint4 *)(shared + 2 * stage + warp * attention_rows<type, dim, tiles, parts>::query_bytes), true, span, lane);
    for (int turn = 0; at < end; at += keys, turn ^= 1) {
        async_wait<0>();
        __syncthreads(); /* the tile is here, and nobody reads the one before */
        if (at + keys < end) {
            attention_copy<type, dim, keys, warps * 32>(shared + (turn ^ 1) * stage, source, at + keys, end,
                                                        (int)threadIdx.x);
        }
        async_commit();
        if (row < sequence.rows && at <= mine.some.last && at + keys > mine.some.first) {
            const bool hidden = at < mine.all.first || at + keys - 1 > mine.all.last;
            attention_step<type, dim, keys, tiles, parts>(rows, shared + turn * stage, span, at, hidden, lane);
        }
    }
    attention_total<type, dim, tiles, parts>(rows);
    CUDA_UNROLL
    for (int i = 0; i < 2 * tiles; i++) {
        const int own = row + i * 8 + lane / 4;
        if (own < sequence.rows) {
            attention_store<type, dim, tiles, parts>(
                rows, i / 2, i % 2, (type == SQF_KV_INT8 ? rows.unit : 1.0f) / rows.total[i / 2][i % 2],
                output_of(job, sequence, head, own), job.head_dim, lane);
        }
    }
}

/* What the warps of a block found, in shared memory: [warps][16] largest scores and totals, then sums
 * [warps][16][dim]. Put together in order of the warps and written as a part of the row, or as the result where there
 * is one stretch. */
template <int dim, int warps>
CUDA_DEVICE void merge_warps(const attention_job &job, const sequence_rows &sequence, int head, int row,
                             const uint8_t *shared)
{
    const float *largest = (const float *)shared, *totals = largest + warps * 16, *sums = totals + warps * 16;
    const int rows = min(16, sequence.rows - row);
    for (int i = (int)threadIdx.x; i < rows * (dim / 4); i += warps * 32) {
        const int r = i / (dim / 4), d = i % (dim / 4) * 4;
        float most = largest[r], total = 0.0f;
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        CUDA_UNROLL
        for (int w = 1; w < warps; w++) {
            most = fmaxf(most, largest[w * 16 + r]);
        }
        CUDA_UNROLL
        for (int w = 0; w < warps; w++) {
            const float weight = power_of_two(largest[w * 16 + r] - most);
            const float4 part = *(const float4 *)(sums + (w * 16 + r) * dim + d);
            total = fmaf(weight, totals[w * 16 + r], total);
            sum.x = fmaf(weight, part.x, sum.x), sum.y = fmaf(weight, part.y, sum.y);
            sum.z = fmaf(weight, part.z, sum.z), sum.w = fmaf(weight, part.w, sum.w);
        }
        if (gridDim.x == 1) {
            if (d < job.head_dim) {
                const float factor = 1.0f / total;
                *(float4 *)(output_of(job, sequence, head, row + r) + d) =
                    make_float4(sum.x * factor, sum.y * factor, sum.z * factor, sum.w * factor);
            }
            continue;
        }
        const size_t part = part_of(job, (int)blockIdx.z, head, row + r) + blockIdx.x;
        if (d == 0) {
            job.part_largest[part] = most;
            job.part_totals[part] = total;
        }
        *(float4 *)(job.part_sums + part * (size_t)dim + d) = sum;
    }
}

template <sqf_kv_type type, int dim>
__global__ void __launch_bounds__(attention_config<type, dim>::decode_warps * 32, 2) attention_decode(attention_job job)
{
    typedef attention_config<type, dim> config;
    constexpr int warps = config::decode_warps, keys = config::decode_keys;
    constexpr int parts = config::decode_parts;
    constexpr int stage = attention_tile<type, dim, keys>::bytes;
    CUDA_SHARED(shared);
    const sequence_rows sequence = rows_of_sequence(job, (int)blockIdx.z);
    const int head = (int)blockIdx.y % job.kv_heads, row = (int)blockIdx.y / job.kv_heads * 16;
    if (row >= sequence.rows) {
        return;
    }
    const span_bounds range = bounds_of(job, sequence, 0, sequence.rows - 1);
    const span_bounds mine = bounds_of(job, sequence, row, row + 15);
    const int stretch = range.some.first / ATTENTION_STRETCH + (int)blockIdx.x;
    const int end = min((stretch + 1) * ATTENTION_STRETCH, range.some.last + 1);
    if (stretch * ATTENTION_STRETCH >= end) {
        return;
    }
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const attention_source source = source_of<type>(job, (int)blockIdx.z, head);
    uint8_t *stages = shared + warp * 2 * stage;
    int at = max(stretch * ATTENTION_STRETCH, range.some.first / keys * keys) + warp * keys;
    if (at < end) {
        attention_copy<type, dim, keys, 32>(stages, source, at, end, lane);
    }
    async_commit();
    attention_rows<type, dim, 1, parts> rows;
    attention_span span[1][2];
    begin_rows<type, dim, 1, parts>(rows, job, sequence, head, row, (uint4 *)(shared + warps * 2 * stage), warp == 0,
                                    span, lane);
    if (!attention_rows<type, dim, 1, parts>::kept) {
        __syncthreads(); /* the queries are there */
    }
    for (int turn = 0; at < end; at += warps * keys, turn ^= 1) {
        if (at + warps * keys < end) {
            attention_copy<type, dim, keys, 32>(stages + (turn ^ 1) * stage, source, at + warps * keys, end, lane);
        }
        async_commit();
        async_wait<1>();
        __syncwarp();
        const bool hidden = at < mine.all.first || at + keys - 1 > mine.all.last;
        attention_step<type, dim, keys, 1, parts>(rows, stages + turn * stage, span, at, hidden, lane);
        __syncwarp(); /* the stage is read */
    }
    attention_total<type, dim, 1, parts>(rows);
    __syncthreads();
    float *largest = (float *)shared, *totals = largest + warps * 16, *sums = totals + warps * 16;
    for (int h = 0; h < 2; h++) {
        const int slot = warp * 16 + h * 8 + lane / 4;
        if (lane % 4 == 0) {
            largest[slot] = rows.largest[0][h];
            totals[slot] = rows.total[0][h];
        }
        attention_store<type, dim, 1, parts>(rows, 0, h, type == SQF_KV_INT8 ? rows.unit : 1.0f, sums + slot * dim, dim,
                                             lane);
    }
    __syncthreads();
    merge_warps<dim, warps>(job, sequence, head, row, shared);
}

/* Queues one of the two. */
template <sqf_kv_type type, int dim>
cudaError_t launch_attention(cudaStream_t stream, const attention_job &job, const attention_grid &grid)
{
    typedef attention_config<type, dim> config;
    if (grid.splits > 0) {
        constexpr int warps = config::decode_warps;
        constexpr size_t stages = 2 * attention_tile<type, dim, config::decode_keys>::bytes;
        constexpr size_t bytes = warps * stages + attention_rows<type, dim, 1, config::decode_parts>::query_bytes;
        constexpr size_t merge = warps * 16 * (2 + dim) * sizeof(float);
        return cuda_launch(stream, attention_decode<type, dim>,
                           dim3(grid.splits, (grid.rows + 15) / 16 * (unsigned)job.kv_heads, grid.sequences),
                           dim3(warps * 32), bytes > merge ? bytes : merge, job);
    }
    constexpr int warps = config::prefill_warps, rows = warps * 16 * config::tiles;
    constexpr size_t stages = 2 * attention_tile<type, dim, config::prefill_keys>::bytes;
    constexpr size_t bytes =
        stages + warps * attention_rows<type, dim, config::tiles, config::prefill_parts>::query_bytes;
    return cuda_launch(stream, attention_prefill<type, dim>,
                       dim3((grid.rows + rows - 1) / rows, (unsigned)job.kv_heads, grid.sequences), dim3(warps * 32),
                       bytes, job);
}

/* The smallest kernel that has room for the head. */
template <sqf_kv_type type>
cudaError_t launch_attention_of(cudaStream_t stream, const attention_job &job, const attention_grid &grid)
{
    switch (attention_dim(job.head_dim)) {
    case 64: return launch_attention<type, 64>(stream, job, grid);
    case 96: return launch_attention<type, 96>(stream, job, grid);
    case 128: return launch_attention<type, 128>(stream, job, grid);
    default: return launch_attention<type, 256>(stream, job, grid);
    }
}

#endif

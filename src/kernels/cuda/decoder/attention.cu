/* Attention over the caches of several sequences: the choice of the kernel, what puts the stretches of a decoded row
 * together, and a plain kernel for heads of other sizes. attention_kernels.h has the fast ones. */
#include "kernels/cuda/decoder/attention.h"

#include "kernels/cuda/decoder/decoder.h"
#include "kernels/cuda/instructions/attention.h"

/* ---- stretches ---- */

enum { MERGE_WARPS = 8 };

/* One row of a decoded sequence: its parts in ascending order, dealt to the warps in turn, then those of the warps.
 * Only the stretches that the sequence's tokens see have been written. */
static __global__ void __launch_bounds__(MERGE_WARPS * 32) attention_merge(attention_job job, int dim)
{
    __shared__ float sums[MERGE_WARPS][ATTENTION_LARGEST_DIM];
    __shared__ float totals[MERGE_WARPS];
    const sequence_rows sequence = rows_of_sequence(job, (int)blockIdx.z);
    const int head = (int)blockIdx.y, row = (int)blockIdx.x, warp = (int)threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32;
    if (row >= sequence.rows) {
        return;
    }
    const int last = span_of(job, sequence.begin + (sequence.rows - 1) / job.group).last;
    const int count = last / ATTENTION_STRETCH + 1 - span_of(job, sequence.begin).first / ATTENTION_STRETCH;
    const size_t first = part_of(job, (int)blockIdx.z, head, row);
    float most = -1e30f, total = 0.0f, sum[ATTENTION_LARGEST_DIM / 32] = {0.0f};
    for (int i = lane; i < count; i += 32) {
        most = fmaxf(most, job.part_largest[first + (size_t)i]);
    }
    most = warp_maximum(most);
    for (int i = warp; i < count; i += MERGE_WARPS) {
        const size_t part = first + (size_t)i;
        const float weight = power_of_two(job.part_largest[part] - most);
        total = fmaf(weight, job.part_totals[part], total);
        for (int j = 0; j < ATTENTION_LARGEST_DIM / 32; j++) {
            const int d = lane + 32 * j;
            sum[j] = d < dim ? fmaf(weight, job.part_sums[part * (size_t)dim + (size_t)d], sum[j]) : 0.0f;
        }
    }
    for (int j = 0; j < ATTENTION_LARGEST_DIM / 32; j++) {
        sums[warp][lane + 32 * j] = sum[j];
    }
    if (lane == 0) {
        totals[warp] = total;
    }
    __syncthreads();
    float *out = output_of(job, sequence, head, row);
    for (int d = (int)threadIdx.x; d < job.head_dim; d += MERGE_WARPS * 32) {
        float whole = 0.0f, all = 0.0f;
        for (int w = 0; w < MERGE_WARPS; w++) {
            whole += sums[w][d];
            all += totals[w];
        }
        out[d] = whole * (1.0f / all);
    }
}

/* ---- heads of any size ---- */

enum { SIMPLE_THREADS = 128 };

/* An element of the cache. */
ATTENTION_DEVICE float cached(sqf_kv_type type, const void *from, size_t at)
{
    return type == SQF_KV_F32   ? ((const float *)from)[at]
           : type == SQF_KV_F16 ? half_to_float(((const uint16_t *)from)[at])
                                : (float)((const int8_t *)from)[at];
}

/* The sum of a block, or the maximum, in every thread. `scratch` has a float for each warp. */
ATTENTION_DEVICE float block_fold(float x, bool maximum, float *scratch)
{
    x = maximum ? warp_maximum(x) : warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        scratch[threadIdx.x / 32] = x;
    }
    __syncthreads();
    x = scratch[0];
    for (unsigned w = 1; w < SIMPLE_THREADS / 32; w++) {
        x = maximum ? fmaxf(x, scratch[w]) : x + scratch[w];
    }
    return x;
}

/* One query head of one token a block, in float32 throughout. Shared: the query, then the sums. */
static __global__ void __launch_bounds__(SIMPLE_THREADS)
    attention_simple(attention_job job, const int32_t *sequences, sqf_kv_type type)
{
    CUDA_SHARED(shared);
    __shared__ float weights[SIMPLE_THREADS], scratch[SIMPLE_THREADS / 32];
    const int token = (int)blockIdx.x, head = (int)blockIdx.y, dim = job.head_dim, thread = (int)threadIdx.x;
    const sqf_cuda_kv kv = job.kv[sequences[token]];
    const attention_span span = span_of(job, token);
    const size_t slot = (size_t)(head / job.group) * (size_t)job.capacity;
    const size_t row = ((size_t)token * (size_t)job.heads + (size_t)head) * (size_t)dim;
    float *query = (float *)shared, *sums = query + dim, largest = -1e30f, total = 0.0f;
    for (int d = thread; d < dim; d += SIMPLE_THREADS) {
        query[d] = job.query[row + (size_t)d] * job.factor;
        sums[d] = 0.0f;
    }
    for (int begin = span.first; begin <= span.last; begin += SIMPLE_THREADS) {
        const int position = begin + thread, count = min(SIMPLE_THREADS, span.last + 1 - begin);
        float score = 0.0f, weight = 0.0f;
        __syncthreads();
        for (int d = 0; thread < count && d < dim; d++) {
            score = fmaf(query[d], cached(type, kv.key, (slot + (size_t)position) * (size_t)dim + (size_t)d), score);
        }
        if (type == SQF_KV_INT8 && thread < count) {
            score *= kv.key_scales[slot + (size_t)position];
        }
        const float now = fmaxf(largest, block_fold(thread < count ? score : -INFINITY, true, scratch));
        const float shrink = power_of_two(largest - now);
        largest = now;
        if (thread < count) {
            weight = power_of_two(score - now);
        }
        total = fmaf(total, shrink, block_fold(weight, false, scratch));
        weights[thread] =
            type == SQF_KV_INT8 && thread < count ? weight * kv.value_scales[slot + (size_t)position] : weight;
        __syncthreads();
        for (int d = thread; d < dim; d += SIMPLE_THREADS) {
            float sum = sums[d] * shrink;
            for (int i = 0; i < count; i++) {
                const size_t at = (slot + (size_t)(begin + i)) * (size_t)dim + (size_t)d;
                sum = fmaf(weights[i], cached(type, kv.value, at), sum);
            }
            sums[d] = sum;
        }
    }
    for (int d = thread; d < dim; d += SIMPLE_THREADS) {
        job.out[row + (size_t)d] = sums[d] * (1.0f / total);
    }
}

/* ---- the choice ---- */

/* The matrix kernels read rows by 16 bytes, and queries too. */
static bool is_regular(const sqf_cuda_attention_spec *spec)
{
    const size_t element = spec->type == SQF_KV_F32 ? 4 : spec->type == SQF_KV_F16 ? 2 : 1;
    return spec->head_dim <= ATTENTION_LARGEST_DIM && spec->head_dim * element % 16 == 0 && spec->head_dim % 4 == 0;
}

/* Stretches that the tokens of a sequence can see at most. */
static size_t most_splits(const sqf_cuda_attention_spec *spec, const sqf_cuda_batch *batch)
{
    const size_t all = (batch->reach + ATTENTION_STRETCH - 1) / ATTENTION_STRETCH;
    const size_t seen = (spec->window + batch->longest + ATTENTION_STRETCH - 2) / ATTENTION_STRETCH + 1;
    return spec->window > 0 && seen < all ? seen : all > 0 ? all : 1;
}

static sqf_status check_spec(const sqf_cuda_attention_spec *spec, sqf_error *err)
{
    if (spec->kv_heads == 0 || spec->heads % spec->kv_heads != 0 || spec->head_dim == 0) {
        return sqf_fail(err, SQF_E_ARG, "attention: %zu heads of %zu over %zu key heads, expected a multiple",
                        spec->heads, spec->head_dim, spec->kv_heads);
    }
    if (spec->head_dim > 4096 || spec->heads > 65535 || spec->capacity > INT32_MAX / 2) {
        return sqf_fail(err, SQF_E_SUPPORT, "attention: %zu heads of %zu with %zu positions: too large for the device",
                        spec->heads, spec->head_dim, spec->capacity);
    }
    return SQF_OK;
}

static attention_job make_job(const sqf_cuda_attention_spec *spec, const sqf_cuda_batch *batch, const float *query,
                              const sqf_cuda_kv *kv, float *out)
{
    attention_job job = {};
    job.query = query;
    job.out = out;
    job.kv = kv;
    job.position = batch->position;
    job.begin = batch->begin;
    job.heads = (int)spec->heads;
    job.kv_heads = (int)spec->kv_heads;
    job.group = (int)(spec->heads / spec->kv_heads);
    job.head_dim = (int)spec->head_dim;
    job.window = spec->window < INT32_MAX ? (int)spec->window : 0;
    job.capacity = (int)spec->capacity;
    job.factor = spec->scale * 1.44269504f;
    return job;
}

/* Rows in parts: memory for them. */
static sqf_status reserve_parts(sqf_cuda_device *device, attention_job *job, const attention_grid *grid, sqf_error *err)
{
    const size_t dim = (size_t)attention_dim(job->head_dim);
    const size_t parts = (size_t)grid->sequences * (size_t)job->kv_heads * grid->rows * grid->splits;
    SQF_TRY(cuda_workspace(device, parts * (dim + 2) * sizeof(float), err));
    job->part_sums = (float *)device->workspace;
    job->part_largest = job->part_sums + parts * dim;
    job->part_totals = job->part_largest + parts;
    job->slots = (int)grid->rows;
    job->splits = (int)grid->splits;
    return SQF_OK;
}

sqf_status cuda_attention(sqf_cuda_device *device, const sqf_cuda_attention_spec *spec, const sqf_cuda_batch *batch,
                          const float *query, const sqf_cuda_kv *kv, float *out, sqf_error *err)
{
    SQF_TRY(check_spec(spec, err));
    attention_job job = make_job(spec, batch, query, kv, out);
    if (batch->tokens == 0) {
        return SQF_OK;
    }
    if (!is_regular(spec)) {
        CUDA_TRY(cuda_launch(device->stream, attention_simple, dim3((unsigned)batch->tokens, (unsigned)spec->heads),
                             dim3(SIMPLE_THREADS), 2 * spec->head_dim * sizeof(float), job, batch->sequence,
                             spec->type),
                 "attention");
        return SQF_OK;
    }
    const bool decode = batch->longest <= ATTENTION_DECODE_TOKENS;
    const attention_grid grid = {(unsigned)(batch->longest * (size_t)job.group), (unsigned)batch->sequences,
                                 decode ? (unsigned)most_splits(spec, batch) : 0};
    if (grid.splits > 1) {
        SQF_TRY(reserve_parts(device, &job, &grid, err));
    }
    CUDA_TRY(spec->type == SQF_KV_F32   ? attention_f32(device->stream, job, grid)
             : spec->type == SQF_KV_F16 ? attention_f16(device->stream, job, grid)
                                        : attention_int8(device->stream, job, grid),
             "attention");
    if (grid.splits > 1) {
        CUDA_TRY(cuda_launch(device->stream, attention_merge, dim3(grid.rows, (unsigned)spec->kv_heads, grid.sequences),
                             dim3(MERGE_WARPS * 32), 0, job, attention_dim(job.head_dim)),
                 "attention: merge");
    }
    return SQF_OK;
}

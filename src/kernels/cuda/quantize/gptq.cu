/* GPTQ on the device: src/ptq/walk.c, importance.c, energy.c and format/scales.c for all rows of a matrix at once.
 *
 * A warp owns a row. Inside a leaf (128 columns) the row lies in shared memory and the columns are rounded one after
 * another: every lane computes the rounding of the column at hand, so that nothing has to be handed round, and pushes
 * its error into four columns of its own. The errors reach a weight in the order of their columns, each product and
 * each difference rounded by itself: inside a leaf a row has the bits that the CPU gives it. Between leaves the errors
 * travel by matrix products (cuBLAS), whose order of sums is their own: there float order can move a weight across a
 * boundary of rounding.
 *
 * A step of a leaf is a chain of two divisions and a rounding, some 200 cycles, and about 130 instructions: from two
 * warps a scheduler on the issue slots are what takes the time. 80 registers and 17 KB of shared memory for 8 warps
 * hold six. */
#include "kernels/cuda/quantize/gptq_choose.h"
#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/quantize/solver.h"

enum {
    LEAF = SQF_CUDA_GPTQ_LEAF_COLUMNS,
    PER_LANE = LEAF / LANES, /* columns of a leaf */
    WARPS = 8,               /* rows of a block */
    GATHER_THREADS = 256,
    PANEL = 512,       /* columns of one product with the Hessian */
    SUM_BLOCKS = 1024, /* partial sums at most; a constant, so that sums do not depend on the device */
    SUM_THREADS = 256
};

/* ---- kernels ---- */

/* A group or bank wider than a leaf. The place of its values, which do not exist yet, is the scratch. */
static __global__ __launch_bounds__(WARPS *LANES, 3) void enter_kernel(gptq_view view, unsigned what, uint32_t begin,
                                                                       uint32_t n)
{
    const uint32_t row = blockIdx.x * WARPS + threadIdx.x / LANES;
    if (row >= view.rows) {
        return;
    }
    const size_t at = (size_t)row * view.columns + begin;
    const row_range range = {view.weights + at, view.mask + at, (uint32_t *)(view.values + at), begin, n};
    group_scales scales;
    enter_range(view, range, row, what == SQF_CUDA_GPTQ_GROUP, scales);
}

/* What a warp keeps of its row in shared memory. */
typedef struct leaf_row {
    float x[LEAF], errors[LEAF], values[LEAF];
    uint32_t keys[LEAF];
    uint8_t mask[LEAF];
} leaf_row;

/* Columns from `column` to the end of the group or bank that begins there. */
static __device__ __forceinline__ uint32_t range_width(const gptq_view &view, uint32_t size, uint32_t column)
{
    const uint32_t left = (column < view.border ? view.border : view.columns) - column;
    return left < size ? left : size;
}

/* Chooses what begins at `column`, outer ranges first; `scales` change where a group begins. */
static __device__ void enter_in_leaf(const gptq_view &view, leaf_row &leaf, uint32_t row, uint32_t leaf_begin,
                                     uint32_t column, unsigned what, group_scales &scales)
{
    const uint32_t j = column - leaf_begin;
    row_range range = {leaf.x + j, leaf.mask + j, leaf.keys + j, column, 0};
#pragma unroll 1
    for (int turn = 0; turn < 2; turn++) {
        const bool group = (turn == 0) != view.masks_first;
        if (what & (group ? SQF_CUDA_GPTQ_GROUP : SQF_CUDA_GPTQ_BANK)) {
            range.n = range_width(view, group ? view.group_size : view.bank, column);
            enter_range(view, range, row, group, scales);
        }
    }
    __syncwarp();
}

static __device__ void load_leaf(const gptq_view &view, leaf_row &leaf, size_t at, uint32_t count)
{
    for (unsigned i = lane_index(); i < LEAF; i += LANES) {
        leaf.x[i] = i < count ? view.weights[at + i] : 0.0f;
        leaf.mask[i] = i < count ? view.mask[at + i] : 0;
    }
    __syncwarp();
}

/* The columns [begin, begin + count) of all rows. */
static __global__ __launch_bounds__(WARPS *LANES, 3) void leaf_kernel(gptq_view view, uint32_t begin, uint32_t count)
{
    __shared__ leaf_row leaves[WARPS];
    const uint32_t row = blockIdx.x * WARPS + threadIdx.x / LANES;
    if (row >= view.rows) {
        return; /* warps never meet each other */
    }
    const unsigned lane = lane_index();
    const size_t at = (size_t)row * view.columns + begin;
    leaf_row &leaf = leaves[threadIdx.x / LANES];
    load_leaf(view, leaf, at, count);
    const size_t group = (size_t)row * view.groups + view.group[begin];
    group_scales scales = {view.scale_low[group], view.scale_high[group], 0}; /* of a group that began before */
    bool overflow = false;
    for (uint32_t j = 0; j < count; j++) {
        const uint32_t column = begin + j;
        const float *upper = view.upper + (size_t)column * view.columns + begin;
        float u[PER_LANE];
#pragma unroll
        for (int c = 0; c < PER_LANE; c++) {
            const uint32_t i = c * LANES + lane;
            u[c] = view.upper && i > j && i < count ? upper[i] : 0.0f;
        }
        const float divisor = view.upper ? upper[j] : 1.0f;
        const unsigned what = view.enters[column];
        if (what) {
            enter_in_leaf(view, leaf, row, begin, column, what, scales);
        }
        const bool high = leaf.mask[j] != 0;
        const float x = leaf.x[j], scale = high ? scales.high : scales.low;
        const float value = grid_round_divided(high ? view.high : view.low, x, grid_divisor(scale));
        const float error = (x - value * scale) / divisor;
        overflow = overflow || !(fabsf(error) <= 0x1.fffffep127f);
        if (lane == 0) {
            leaf.errors[j] = error;
            leaf.values[j] = value;
        }
#pragma unroll
        for (int c = 0; c < PER_LANE; c++) {
            const uint32_t i = c * LANES + lane;
            if (view.upper && i > j) {
                leaf.x[i] -= error * u[c];
            }
        }
        __syncwarp();
    }
#pragma unroll
    for (int c = 0; c < PER_LANE; c++) {
        const uint32_t i = c * LANES + lane;
        if (i < count) {
            view.weights[at + i] = leaf.errors[i];
            view.values[at + i] = leaf.values[i];
            view.mask[at + i] = leaf.mask[i];
        }
    }
    if (overflow && lane == 0) {
        atomicMin(view.overflow, (unsigned long long)row);
    }
}

/* weights = the original in stored order, dead channels 0. */
static __global__ __launch_bounds__(GATHER_THREADS) void gather_kernel(const float *original, const int32_t *channels,
                                                                       const uint8_t *dead, uint32_t columns,
                                                                       float *weights)
{
    const uint32_t j = blockIdx.y * GATHER_THREADS + threadIdx.x;
    if (j >= columns) {
        return;
    }
    const size_t row = (size_t)blockIdx.x * columns;
    const uint32_t channel = channels ? (uint32_t)channels[j] : j;
    weights[row + j] = dead && dead[j] ? 0.0f : original[row + channel];
}

/* difference = W - W' in the original order of channels. */
static __global__ __launch_bounds__(GATHER_THREADS) void subtract_kernel(gptq_view view, const float *original,
                                                                         const int32_t *channels, float *difference)
{
    const uint32_t j = blockIdx.y * GATHER_THREADS + threadIdx.x;
    if (j >= view.columns) {
        return;
    }
    const size_t row = (size_t)blockIdx.x * view.columns, group = (size_t)blockIdx.x * view.groups + view.group[j];
    const uint32_t channel = channels ? (uint32_t)channels[j] : j;
    const float scale = view.mask[row + j] ? view.scale_high[group] : view.scale_low[group];
    difference[row + channel] = original[row + channel] - view.values[row + j] * scale;
}

/* ---- energies ---- */

/* Adds up what the threads of a block have, in a fixed order; the sum is thread 0's. */
static __device__ double block_sum(double sum)
{
    __shared__ double parts[SUM_THREADS];
    parts[threadIdx.x] = sum;
    for (unsigned half = SUM_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            parts[threadIdx.x] += parts[threadIdx.x + half];
        }
    }
    __syncthreads();
    return parts[0];
}

/* partial[block] = the sum of a b over the rows of this block. */
static __global__ __launch_bounds__(SUM_THREADS) void dot_kernel(const float *a, size_t a_stride, const float *b,
                                                                 size_t b_stride, uint32_t rows, uint32_t width,
                                                                 double *partial)
{
    double sum = 0.0;
    for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
        for (uint32_t j = threadIdx.x; j < width; j += SUM_THREADS) {
            sum += (double)a[row * a_stride + j] * (double)b[row * b_stride + j];
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
    }
}

/* *total += the partial sums. */
static __global__ __launch_bounds__(SUM_THREADS) void total_kernel(const double *partial, unsigned count, double *total)
{
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < count; i += SUM_THREADS) {
        sum += partial[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        *total += sum;
    }
}

/* ---- the host's side ---- */

/* Scratch in the device's workspace. */
typedef struct gptq_scratch {
    unsigned long long *overflow;
    double *totals; /* [4] as in sqf_cuda_gptq_result */
    double *partial;
    float *product; /* [rows, PANEL] */
} gptq_scratch;

static sqf_status add_dot(sqf_cuda_device *device, const gptq_scratch *scratch, const float *a, size_t a_stride,
                          const float *b, size_t b_stride, size_t rows, size_t width, int which, sqf_error *err)
{
    const unsigned blocks = rows < SUM_BLOCKS ? (unsigned)rows : (unsigned)SUM_BLOCKS;
    CUDA_TRY(cuda_launch(device->stream, dot_kernel, dim3(blocks), dim3(SUM_THREADS), 0, a, a_stride, b, b_stride,
                         (uint32_t)rows, (uint32_t)width, scratch->partial),
             "weight errors");
    CUDA_TRY(cuda_launch(device->stream, total_kernel, dim3(1), dim3(SUM_THREADS), 0, scratch->partial, blocks,
                         scratch->totals + which),
             "weight errors");
    return SQF_OK;
}

/* tr(D H D^T): H is symmetric, so the part below the diagonal panels counts twice and is not computed. */
static sqf_status quadratic_form(sqf_cuda_device *device, const sqf_cuda_gptq *job, const gptq_scratch *scratch,
                                 const float *d, int which, sqf_error *err)
{
    const size_t columns = job->columns;
    for (size_t begin = 0; begin < columns; begin += PANEL) {
        const size_t left = columns - begin, width = left < (size_t)PANEL ? left : (size_t)PANEL;
        SQF_TRY(solver_product(device, job->rows, width, width, 1.0f, d + begin, columns,
                               job->hessian + begin * columns + begin, columns, 0.0f, scratch->product, PANEL, err));
        if (begin > 0) {
            SQF_TRY(solver_product(device, job->rows, width, begin, 2.0f, d, columns, job->hessian + begin, columns,
                                   1.0f, scratch->product, PANEL, err));
        }
        SQF_TRY(add_dot(device, scratch, scratch->product, PANEL, d + begin, columns, job->rows, width, which, err));
    }
    return SQF_OK;
}

static sqf_status measure(sqf_cuda_device *device, const sqf_cuda_gptq *job, const gptq_view *view,
                          const gptq_scratch *scratch, sqf_error *err)
{
    const size_t rows = job->rows, columns = job->columns;
    const dim3 grid((unsigned)rows, (unsigned)((columns + GATHER_THREADS - 1) / GATHER_THREADS));
    float *difference = job->weights; /* the errors in it have done their work */
    CUDA_TRY(cuda_launch(device->stream, subtract_kernel, grid, dim3(GATHER_THREADS), 0, *view, job->original,
                         job->channels, difference),
             "weight errors");
    SQF_TRY(add_dot(device, scratch, job->original, columns, job->original, columns, rows, columns, 0, err));
    SQF_TRY(add_dot(device, scratch, difference, columns, difference, columns, rows, columns, 1, err));
    if (!job->hessian) {
        return SQF_OK;
    }
    SQF_TRY(quadratic_form(device, job, scratch, job->original, 2, err));
    return quadratic_form(device, job, scratch, difference, 3, err);
}

static sqf_status take_step(sqf_cuda_device *device, const sqf_cuda_gptq *job, const gptq_view *view,
                            const sqf_cuda_gptq_step *step, sqf_error *err)
{
    const dim3 grid((unsigned)((job->rows + WARPS - 1) / WARPS)), block(WARPS * LANES);
    const uint32_t begin = (uint32_t)step->begin, width = (uint32_t)(step->end - step->begin);
    switch (step->action) {
    case SQF_CUDA_GPTQ_CATCH_UP:
        /* weights [begin, end) -= errors [from, begin) U[from..begin, begin..end) */
        return solver_product(device, job->rows, width, step->begin - step->from, -1.0f, job->weights + step->from,
                              job->columns, job->upper + step->from * job->columns + begin, job->columns, 1.0f,
                              job->weights + begin, job->columns, err);
    case SQF_CUDA_GPTQ_ENTER:
        CUDA_TRY(cuda_launch(device->stream, enter_kernel, grid, block, 0, *view, step->what, begin, width),
                 "masks and scales");
        return SQF_OK;
    default: CUDA_TRY(cuda_launch(device->stream, leaf_kernel, grid, block, 0, *view, begin, width), "GPTQ");
    }
    return SQF_OK;
}

static gptq_view make_view(const sqf_cuda_gptq *job, const gptq_scratch *scratch)
{
    const sqf_weight_spec *spec = &job->spec;
    gptq_view view = {};
    view.weights = job->weights;
    view.values = job->values;
    view.upper = job->upper;
    view.score_factor = job->score_factor;
    view.search_weight = job->search_weight;
    view.group = job->group;
    view.enters = job->enters;
    view.mask = job->mask;
    view.shift = job->shift;
    view.scale_low = job->scale_low;
    view.scale_high = job->scale_high;
    view.overflow = scratch->overflow;
    view.random_key = job->random_key;
    view.first_row = job->first_row;
    view.rows = (uint32_t)job->rows;
    view.columns = (uint32_t)job->columns;
    view.groups = (uint32_t)job->group_count;
    view.border = (uint32_t)job->border;
    view.bank = spec->bank ? spec->bank : 1;
    view.high_per_bank = spec->high_per_bank;
    view.group_size = spec->group ? spec->group : view.columns;
    view.low = grid_make(spec->low);
    view.high = grid_make(spec->high);
    view.scale_type = spec->scale_type;
    view.unit[0] = job->scale_unit[0];
    view.unit[1] = job->scale_unit[1];
    view.shift_max = job->shift_max;
    view.prune = spec->low == SQF_TYPE_NONE;
    view.split = spec->high != SQF_TYPE_NONE && !view.prune;
    view.masks_first = spec->high != SQF_TYPE_NONE && spec->group != 0 && spec->group < spec->bank;
    view.tied = spec->high != SQF_TYPE_NONE && spec->scales == SQF_SCALES_TIED;
    view.search = job->search;
    view.gain = job->gain;
    view.random = job->random;
    return view;
}

static sqf_status need_scratch(sqf_cuda_device *device, const sqf_cuda_gptq *job, gptq_scratch *out, sqf_error *err)
{
    enum { HEAD = 256 };
    const size_t sums = HEAD + SUM_BLOCKS * sizeof(double);
    SQF_TRY(cuda_workspace(device, sums + job->rows * PANEL * sizeof(float), err));
    uint8_t *memory = (uint8_t *)device->workspace;
    out->overflow = (unsigned long long *)memory;
    out->totals = (double *)(memory + 64);
    out->partial = (double *)(memory + HEAD);
    out->product = (float *)(memory + sums);
    CUDA_TRY(cudaMemsetAsync(memory, 0, HEAD, device->stream), "GPTQ");
    CUDA_TRY(cudaMemsetAsync(out->overflow, 0xff, sizeof *out->overflow, device->stream), "GPTQ");
    return SQF_OK;
}

/* Everything that the steps and the energies read. */
static sqf_status load(sqf_cuda_device *device, const sqf_cuda_gptq *job, sqf_error *err)
{
    const dim3 grid((unsigned)job->rows, (unsigned)((job->columns + GATHER_THREADS - 1) / GATHER_THREADS));
    const size_t weights = job->rows * job->columns;
    CUDA_TRY(cudaMemsetAsync(job->mask, 0, weights, device->stream), "GPTQ");
    CUDA_TRY(cudaMemsetAsync(job->shift, 0, job->rows * job->group_count, device->stream), "GPTQ");
    CUDA_TRY(cuda_launch(device->stream, gather_kernel, grid, dim3(GATHER_THREADS), 0, job->original, job->channels,
                         job->dead, (uint32_t)job->columns, job->weights),
             "GPTQ");
    return SQF_OK;
}

sqf_status cuda_gptq(sqf_cuda_device *device, const sqf_cuda_gptq *job, sqf_cuda_gptq_result *result, sqf_error *err)
{
    gptq_scratch scratch;
    double totals[4];
    unsigned long long overflow;
    *result = sqf_cuda_gptq_result{SIZE_MAX, 0.0, 0.0, 0.0, 0.0};
    if (job->rows == 0 || job->columns == 0) {
        return SQF_OK;
    }
    SQF_TRY(need_scratch(device, job, &scratch, err));
    SQF_TRY(load(device, job, err));
    const gptq_view view = make_view(job, &scratch);
    for (size_t i = 0; i < job->step_count; i++) {
        SQF_TRY(take_step(device, job, &view, &job->steps[i], err));
    }
    SQF_TRY(measure(device, job, &view, &scratch, err));
    CUDA_TRY(cudaMemcpyAsync(totals, scratch.totals, sizeof totals, cudaMemcpyDeviceToHost, device->stream), "GPTQ");
    CUDA_TRY(cudaMemcpyAsync(&overflow, scratch.overflow, sizeof overflow, cudaMemcpyDeviceToHost, device->stream),
             "GPTQ");
    CUDA_TRY(cudaStreamSynchronize(device->stream), "GPTQ");
    *result = sqf_cuda_gptq_result{overflow == UINT64_MAX ? SIZE_MAX : (size_t)overflow, totals[0], totals[1],
                                   totals[2], totals[3]};
    return SQF_OK;
}

/* The product of any input with any weights in float32: what no other family serves, and the reference on the device.
 *
 * Codes of both operands become floats element by element, times their scales, on the way to shared memory: a unit of
 * 64 rows and of 32 tokens at a time. A unit's products are added up in ascending order of the columns, then the units:
 * the same sum for a token whatever stands beside it. */
#include "kernels/cuda/input/input.h"
#include "kernels/cuda/linear/pack.h"
#include "kernels/cuda/linear/store.h"
#include "kernels/cuda/linear/widen.h"

enum { SIMPLE_ROWS = 64, SIMPLE_TOKENS = 32, SIMPLE_THREADS = 256, ROWS_OF_THREAD = 4, TOKENS_OF_THREAD = 2 };

/* One product as the kernel sees it. */
typedef struct simple_job {
    cuda_weights weights;
    const cuda_segment *segments;
    uint32_t segment_count, units, low_units, rows, tokens;
    cuda_element low, high;
    unsigned plane;
    cuda_plane input;
    size_t stride, token_stride;
    float *y;
    const float *bias;
    sqf_cuda_store store;
} simple_job;

/* Of a compact row the element at a marked column: marks before it say which of the list it is. */
CUDA_DEVICE float split_high(const uint32_t *tile, const uint8_t *list, uint32_t unit_high, unsigned row,
                             unsigned column)
{
    unsigned rank = 0;
    for (unsigned word = 0; word <= column / 8; word++) {
        const uint32_t nibbles = tile[(row % 8 * 4 + word % 4) * 4 + row / 8 + 2 * (word / 4)];
        const uint32_t before = word < column / 8 ? 0xffffffffu : (1u << 4 * (column % 8)) - 1u;
        rank += (unsigned)__popc(split_marks(nibbles) & before);
    }
    return (float)(int8_t)list[row * unit_high + rank];
}

/* The weight at a row 0..15 of a tile and a column 0..63 of a unit. */
CUDA_DEVICE float simple_weight(const cuda_weights &weights, size_t tile, size_t scale, unsigned row, unsigned column)
{
    const uint8_t *from = weights.tiles + tile * cuda_tile_bytes(weights.form);
    float code = 0.0f;
    switch (weights.form) {
    case SQF_CUDA_NIBBLES:
    case SQF_CUDA_SPLIT: {
        unsigned upper;
        const size_t at = cuda_nibble_offset(row, column, &upper);
        code = (float)((int)((uint32_t)from[at] << (upper ? 24 : 28)) >> 28);
        if (weights.form == SQF_CUDA_SPLIT && code == -8.0f) {
            const uint8_t *list = weights.high + tile * CUDA_TILE_ROWS * weights.unit_high;
            const uint32_t *words = reinterpret_cast<const uint32_t *>(from);
            return split_high(words, list, weights.unit_high, row, column) * weights.high_scales[scale + row];
        }
        break;
    }
    case SQF_CUDA_FP4: {
        unsigned upper;
        const size_t at = cuda_nibble_offset(row, column, &upper);
        code = cuda_e2m1_twice((uint32_t)from[at] >> (upper ? 4 : 0));
        break;
    }
    case SQF_CUDA_BYTES: code = (float)(int8_t)from[cuda_byte_offset(row, column)]; break;
    case SQF_CUDA_FP8: code = quantizer_from_e4m3(from[cuda_byte_offset(row, column)]); break;
    case SQF_CUDA_BF16:
        code = __uint_as_float((uint32_t) * (const uint16_t *)(from + cuda_half_offset(row, column)) << 16);
        break;
    case SQF_CUDA_FP16: code = grid_from_fp16(*(const uint16_t *)(from + cuda_half_offset(row, column))); break;
    default: code = ((const float *)from)[row * CUDA_UNIT + column];
    }
    return weights.scales ? code * weights.scales[scale + row] : code;
}

/* A unit of weights, column by column. */
CUDA_DEVICE void simple_load_weights(const simple_job &job, uint32_t unit, uint32_t segment,
                                     float to[CUDA_UNIT][SIMPLE_ROWS + 4])
{
    for (unsigned i = threadIdx.x; i < CUDA_UNIT * SIMPLE_ROWS; i += SIMPLE_THREADS) {
        const unsigned column = i % CUDA_UNIT, row = i / CUDA_UNIT;
        const size_t band = blockIdx.x * (SIMPLE_ROWS / CUDA_TILE_ROWS) + row / CUDA_TILE_ROWS;
        to[column][row] =
            simple_weight(job.weights, band * job.units + unit, (band * job.segment_count + segment) * CUDA_TILE_ROWS,
                          row % CUDA_TILE_ROWS, column);
    }
}

/* The same of activations; tokens beyond the last are 0. */
CUDA_DEVICE void simple_load_tokens(const simple_job &job, uint32_t unit, const cuda_segment &segment,
                                    float to[CUDA_UNIT][SIMPLE_TOKENS + 2])
{
    const cuda_element element = job.plane == 1 || unit >= job.low_units ? job.high : job.low;
    const size_t offset = cuda_unit_offset(job.low, job.high, job.plane, job.low_units, unit);
    for (unsigned i = threadIdx.x; i < CUDA_UNIT * SIMPLE_TOKENS; i += SIMPLE_THREADS) {
        const unsigned column = i % CUDA_UNIT, m = i / CUDA_UNIT;
        const size_t token = (size_t)blockIdx.y * SIMPLE_TOKENS + m;
        float value = 0.0f;
        if (token < job.tokens) {
            const size_t at = segment.act_scale * job.token_stride + token;
            value = cuda_activation(job.input.codes + token * job.stride + offset, element, column,
                                    job.input.scales[at], job.input.zeros ? job.input.zeros[at] : 0);
        }
        to[column][m] = value;
    }
}

/* Grid: blocks of rows, of tokens. */
__global__ void __launch_bounds__(SIMPLE_THREADS, 4) simple_kernel(simple_job job)
{
    __shared__ float weights[CUDA_UNIT][SIMPLE_ROWS + 4];
    __shared__ float tokens[CUDA_UNIT][SIMPLE_TOKENS + 2];
    const unsigned row = threadIdx.x % 16 * ROWS_OF_THREAD, token = threadIdx.x / 16 * TOKENS_OF_THREAD;
    float sums[ROWS_OF_THREAD][TOKENS_OF_THREAD] = {};
    uint32_t s = 0;
    for (uint32_t unit = 0; unit < job.units; unit++) {
        while (s + 1 < job.segment_count && job.segments[s + 1].unit <= unit) {
            s++;
        }
        simple_load_weights(job, unit, s, weights);
        simple_load_tokens(job, unit, job.segments[s], tokens);
        __syncthreads();
        float part[ROWS_OF_THREAD][TOKENS_OF_THREAD] = {};
        for (int k = 0; k < CUDA_UNIT; k++) {
#pragma unroll
            for (int r = 0; r < ROWS_OF_THREAD; r++) {
#pragma unroll
                for (int m = 0; m < TOKENS_OF_THREAD; m++) {
                    part[r][m] = fmaf(weights[k][row + r], tokens[k][token + m], part[r][m]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS_OF_THREAD * TOKENS_OF_THREAD; i++) {
            sums[i / TOKENS_OF_THREAD][i % TOKENS_OF_THREAD] += part[i / TOKENS_OF_THREAD][i % TOKENS_OF_THREAD];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < ROWS_OF_THREAD * TOKENS_OF_THREAD; i++) {
        const size_t n = blockIdx.x * SIMPLE_ROWS + row + i / TOKENS_OF_THREAD;
        const size_t m = (size_t)blockIdx.y * SIMPLE_TOKENS + token + i % TOKENS_OF_THREAD;
        if (n < job.rows && m < job.tokens) {
            const float p = sums[i / TOKENS_OF_THREAD][i % TOKENS_OF_THREAD] + (job.bias ? job.bias[n] : 0.0f);
            store_product(job.y + m * job.rows + n, p, job.store);
        }
    }
}

static bool simple_serves(const cuda_product *)
{
    return true;
}

static size_t simple_workspace(const cuda_product *)
{
    return 0;
}

static sqf_status simple_run(const cuda_product *product, sqf_error *err)
{
    const cuda_input_layout *layout = &product->linear->layout;
    simple_job job = simple_job();
    job.weights = *product->weights;
    job.segments = layout->device_segments;
    job.segment_count = layout->segment_count;
    job.units = layout->units;
    job.low_units = layout->low_units;
    job.rows = product->linear->rows;
    job.tokens = (uint32_t)product->input->tokens;
    job.low = layout->low_element;
    job.high = layout->high_element;
    job.plane = product->plane;
    job.input = product->input->planes[product->plane];
    job.stride = layout->stride[product->plane];
    job.token_stride = product->input->token_stride;
    job.y = product->y;
    job.bias = product->bias;
    job.store = product->store;
    const dim3 grid((job.rows + SIMPLE_ROWS - 1) / SIMPLE_ROWS, (job.tokens + SIMPLE_TOKENS - 1) / SIMPLE_TOKENS);
    return cuda_check(cuda_launch(product->device->stream, simple_kernel, grid, dim3(SIMPLE_THREADS), 0, job),
                      "product in float32", err);
}

const cuda_family cuda_family_simple = {"simple", simple_serves, simple_run, simple_workspace};

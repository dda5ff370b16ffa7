/* Products in 16 bits: which kernel serves a product, how its work is split, and compact W(SQ) weights, which are
 * expanded to their two planes first: both products stay exact, at the price of twice the matrix instructions. */
#include "kernels/cuda/product/gemm_half.h"

enum {
    FEW_UNITS = 8, /* a part of the columns is at least so many units */
    MOST_SPLITS = 16,
    GATE_TOKENS = 512, /* of an expanded product that is gated: its two parts are added up apart */
    EXPAND_WARPS = 4
};

typedef void (*half_function)(half_job);

/* Whether the product's plane is made of the high part. */
static bool is_high(const cuda_product *product)
{
    const cuda_input_layout *layout = &product->linear->layout;
    return product->plane == 1 || (layout->planes == 1 && layout->low_units == 0);
}

static cuda_element element_of(const cuda_product *product)
{
    const cuda_input_layout *layout = &product->linear->layout;
    return is_high(product) ? layout->high_element : layout->low_element;
}

/* Whether all units of the product's plane are of one 16-bit element, with one scale a token at most. */
static bool is_half(const cuda_product *product)
{
    const cuda_input_layout *layout = &product->linear->layout;
    const bool one = layout->planes == 2 || layout->low_units == layout->units || layout->low_units == 0;
    const sqf_type type = is_high(product) ? layout->spec.high : layout->spec.low;
    const cuda_element element = element_of(product);
    const bool unscaled = type == SQF_TYPE_FP16 || type == SQF_TYPE_BF16;
    return one && (element == CUDA_BF16 || (element == CUDA_FP16 && (unscaled || layout->scale_count == 1))) &&
           layout->chunk_count == layout->units;
}

/* Blocks of 128 tokens: dense weights, which leave the registers for that. NULL: there is none. */
static half_function wide_kernel(sqf_cuda_form form, bool bf16, bool scaled)
{
    return scaled                           ? NULL
           : form == SQF_CUDA_BF16 && bf16  ? half_kernel<SQF_CUDA_BF16, true, 128, false>
           : form == SQF_CUDA_FP16 && !bf16 ? half_kernel<SQF_CUDA_FP16, false, 128, false>
                                            : NULL;
}

/* Blocks of 64 tokens: everything that is served. Weights are not SPLIT. */
static half_function narrow_kernel(sqf_cuda_form form, bool bf16, bool scaled)
{
    switch (form) {
    case SQF_CUDA_NIBBLES: return bf16 ? NULL : half_kernel<SQF_CUDA_NIBBLES, false, 64, true>;
    case SQF_CUDA_BYTES: return bf16 ? NULL : half_kernel<SQF_CUDA_BYTES, false, 64, true>;
    case SQF_CUDA_FP8:
        return bf16 ? half_kernel<SQF_CUDA_FP8, true, 64, true> : half_kernel<SQF_CUDA_FP8, false, 64, true>;
    case SQF_CUDA_BF16:
        return !bf16    ? NULL
               : scaled ? half_kernel<SQF_CUDA_BF16, true, 64, true>
                        : half_kernel<SQF_CUDA_BF16, true, 64, false>;
    case SQF_CUDA_FP16:
        return bf16     ? NULL
               : scaled ? half_kernel<SQF_CUDA_FP16, false, 64, true>
                        : half_kernel<SQF_CUDA_FP16, false, 64, false>;
    default: return NULL;
    }
}

/* How a product of one plane of weights is cut. */
typedef struct half_shape {
    uint32_t tokens, row_blocks, token_blocks, splits;
    half_function kernel;
} half_shape;

/* Two blocks a multiprocessor; where there are not so many, parts of the columns make more. */
static half_shape shape_of(const cuda_product *product, sqf_cuda_form form, size_t tokens)
{
    const sqf_cuda_linear *linear = product->linear;
    const bool bf16 = element_of(product) == CUDA_BF16, scaled = product->weights->scales != NULL;
    half_shape out;
    out.kernel = tokens > 64 ? wide_kernel(form, bf16, scaled) : NULL;
    out.tokens = out.kernel ? 128 : 64;
    out.kernel = out.kernel ? out.kernel : narrow_kernel(form, bf16, scaled);
    out.row_blocks = linear->padded_rows / HALF_ROWS;
    out.token_blocks = (uint32_t)((tokens + out.tokens - 1) / out.tokens);
    const uint32_t blocks = out.row_blocks * out.token_blocks;
    const uint32_t wanted = 2 * (uint32_t)product->device->info.multiprocessors / blocks;
    const uint32_t most = linear->layout.units / FEW_UNITS;
    out.splits = wanted < most ? wanted : most;
    out.splits = out.splits < 1 ? 1 : out.splits > MOST_SPLITS ? (uint32_t)MOST_SPLITS : out.splits;
    return out;
}

/* ---- compact weights ---- */

/* One warp a unit of a tile: nibbles without the marks, and the high elements as bytes. */
static __global__ void half_expand(const uint8_t *tiles, const uint8_t *high, uint32_t unit_high, uint32_t count,
                                   uint4 *nibbles, uint4 *bytes)
{
    const uint32_t lane = threadIdx.x % 32, at = blockIdx.x * EXPAND_WARPS + threadIdx.x / 32;
    if (at >= count) {
        return;
    }
    const uint4 raw = reinterpret_cast<const uint4 *>(tiles)[(size_t)at * 32 + lane];
    const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
    uint32_t marks[4], natural[4][2], list[4][2];
    for (int i = 0; i < 4; i++) {
        marks[i] = split_marks(word[i]);
    }
    const uint32_t ranks = split_ranks(marks);
    const uint8_t *rows = high + (size_t)at * CUDA_TILE_ROWS * unit_high;
    const uint8_t *row = rows + lane / 4 * unit_high, *row8 = row + 8 * unit_high;
    split_fetch<0>(row, ranks, &list[0][0], &list[0][1]);
    split_fetch<1>(row8, ranks, &list[1][0], &list[1][1]);
    split_fetch<2>(row, ranks, &list[2][0], &list[2][1]);
    split_fetch<3>(row8, ranks, &list[3][0], &list[3][1]);
    for (int i = 0; i < 4; i++) {
        split_expand(marks[i], list[i][0], list[i][1], natural[i]);
    }
    nibbles[(size_t)at * 32 + lane] =
        uint4{word[0] ^ marks[0], word[1] ^ marks[1], word[2] ^ marks[2], word[3] ^ marks[3]};
    for (int h = 0; h < 2; h++) {
        const uint32_t *first = natural[2 * h], *second = natural[2 * h + 1];
        bytes[(size_t)at * 64 + h * 32 + lane] =
            uint4{__byte_perm(first[0], first[1], 0x6420), __byte_perm(second[0], second[1], 0x6420),
                  __byte_perm(first[0], first[1], 0x7531), __byte_perm(second[0], second[1], 0x7531)};
    }
}

/* The parts of the workspace, in bytes from its beginning. */
typedef struct half_room {
    size_t nibbles, bytes, sums, end; /* the split sums of a product begin it */
} half_room;

static half_room room_of(const cuda_product *product)
{
    const sqf_cuda_linear *linear = product->linear;
    const bool compact = product->weights->form == SQF_CUDA_SPLIT;
    const bool apart = compact && product->store == SQF_CUDA_GATE;
    const size_t tokens = apart && product->input->tokens > GATE_TOKENS ? (size_t)GATE_TOKENS : product->input->tokens;
    const uint32_t splits = shape_of(product, compact ? SQF_CUDA_NIBBLES : product->weights->form, tokens).splits;
    const size_t sums = tokens * linear->rows * sizeof(float);
    const size_t units = compact ? (size_t)linear->padded_rows / CUDA_TILE_ROWS * linear->layout.units : 0;
    half_room out;
    out.nibbles = ((splits > 1 ? splits * sums : 0) + 255) / 256 * 256;
    out.bytes = out.nibbles + units * CUDA_NIBBLE_TILE;
    out.sums = out.bytes + units * CUDA_BYTE_TILE;
    out.end = out.sums + (apart ? sums : 0);
    return out;
}

/* ---- the run ---- */

static bool half_serves(const cuda_product *product)
{
    if (!is_half(product)) {
        return false;
    }
    const sqf_cuda_form form = product->weights->form;
    const bool bf16 = element_of(product) == CUDA_BF16;
    return form == SQF_CUDA_SPLIT ? !bf16 : narrow_kernel(form, bf16, product->weights->scales != NULL) != NULL;
}

static size_t half_workspace(const cuda_product *product)
{
    return room_of(product).end;
}

/* The parts of a split product, in ascending order. */
static __global__ void half_reduce(const float *partial, uint32_t splits, uint32_t tokens, uint32_t rows,
                                   const float *bias, sqf_cuda_store store, float *y)
{
    const size_t count = (size_t)tokens * rows, step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        float sum = partial[i];
        for (uint32_t s = 1; s < splits; s++) {
            sum += partial[s * count + i];
        }
        store_product(y + i, sum + (bias ? bias[i % rows] : 0.0f), store);
    }
}

static sqf_status reduce(const cuda_product *product, const float *partial, uint32_t splits, size_t tokens,
                         const float *bias, sqf_cuda_store store, float *y, sqf_error *err)
{
    const uint32_t rows = product->linear->rows;
    const size_t blocks = (tokens * rows + 255) / 256;
    return cuda_check(cuda_launch(product->device->stream, half_reduce, dim3((unsigned)(blocks < 4096 ? blocks : 4096)),
                                  dim3(256), 0, partial, splits, (uint32_t)tokens, rows, bias, store, y),
                      "sum of a split product", err);
}

/* `count` tokens from `first` on with weights of one plane. */
static sqf_status run_plane(const cuda_product *product, const cuda_weights &weights, size_t first, size_t count,
                            const float *bias, sqf_cuda_store store, float *y, sqf_error *err)
{
    const sqf_cuda_linear *linear = product->linear;
    const cuda_input_layout *layout = &linear->layout;
    const cuda_plane *plane = &product->input->planes[product->plane];
    const half_shape shape = shape_of(product, weights.form, count);
    half_job job = half_job();
    job.tiles = weights.tiles;
    job.scales = weights.scales;
    job.stride = layout->stride[product->plane];
    job.codes = plane->codes + first * job.stride;
    job.act_scales = element_of(product) == CUDA_FP16
                         ? plane->scales + layout->segments[0].act_scale * product->input->token_stride + first
                         : NULL;
    job.chunks = layout->device_chunks;
    job.units = layout->units;
    job.segments = layout->segment_count;
    job.rows = linear->rows;
    job.tokens = (uint32_t)count;
    job.row_blocks = shape.row_blocks;
    job.token_blocks = shape.token_blocks;
    job.splits = shape.splits;
    job.y = y;
    job.bias = bias;
    job.store = store;
    job.partial = static_cast<float *>(product->device->workspace);
    CUDA_TRY(cuda_launch(product->device->stream, shape.kernel, dim3(job.row_blocks * job.token_blocks, job.splits),
                         dim3(HALF_THREADS), HALF_STAGES * half_stage_bytes(shape.tokens), job),
             "product in 16 bits");
    return job.splits > 1 ? reduce(product, job.partial, job.splits, count, bias, store, y, err) : SQF_OK;
}

/* Compact weights: both planes, one after the other. */
static sqf_status run_compact(const cuda_product *product, sqf_error *err)
{
    const sqf_cuda_linear *linear = product->linear;
    const cuda_weights *weights = product->weights;
    const half_room room = room_of(product);
    uint8_t *base = static_cast<uint8_t *>(product->device->workspace);
    const uint32_t units = linear->padded_rows / CUDA_TILE_ROWS * linear->layout.units;
    CUDA_TRY(cuda_launch(product->device->stream, half_expand, dim3((units + EXPAND_WARPS - 1) / EXPAND_WARPS),
                         dim3(32 * EXPAND_WARPS), 0, weights->tiles, weights->high, weights->unit_high, units,
                         reinterpret_cast<uint4 *>(base + room.nibbles), reinterpret_cast<uint4 *>(base + room.bytes)),
             "expanding weights");
    cuda_weights low = *weights, high = *weights;
    low.form = SQF_CUDA_NIBBLES;
    low.tiles = base + room.nibbles;
    high.form = SQF_CUDA_BYTES;
    high.tiles = base + room.bytes;
    high.scales = weights->high_scales;
    const size_t tokens = product->input->tokens;
    if (product->store != SQF_CUDA_GATE) {
        SQF_TRY(run_plane(product, low, 0, tokens, product->bias, product->store, product->y, err));
        return run_plane(product, high, 0, tokens, NULL, SQF_CUDA_ADD, product->y, err);
    }
    float *sums = reinterpret_cast<float *>(base + room.sums);
    for (size_t first = 0; first < tokens; first += GATE_TOKENS) {
        const size_t count = tokens - first < GATE_TOKENS ? tokens - first : (size_t)GATE_TOKENS;
        SQF_TRY(run_plane(product, low, first, count, product->bias, SQF_CUDA_SET, sums, err));
        SQF_TRY(run_plane(product, high, first, count, NULL, SQF_CUDA_ADD, sums, err));
        SQF_TRY(reduce(product, sums, 1, count, NULL, SQF_CUDA_GATE, product->y + first * linear->rows, err));
    }
    return SQF_OK;
}

static sqf_status half_run(const cuda_product *product, sqf_error *err)
{
    SQF_TRY(cuda_workspace(product->device, half_workspace(product), err));
    if (product->weights->form == SQF_CUDA_SPLIT) {
        return run_compact(product, err);
    }
    return run_plane(product, *product->weights, 0, product->input->tokens, product->bias, product->store, product->y,
                     err);
}

const cuda_family cuda_family_half = {"half", half_serves, half_run, half_workspace};

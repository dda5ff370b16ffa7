/* The dual-path product by mma.sync: which kernel of gemm_integer.h runs, with how many tokens a block, and in how many
 * parts. */
#include "kernels/cuda/product/gemm_integer.h"

/* ---- which kernel ---- */

/* The paths of a product's sections. */
typedef struct integer_paths {
    integer_path low, high; /* high: PATH_NONE with one section */
    bool scaled;
    bool served;
} integer_paths;

static integer_path path_of(cuda_element element)
{
    return element == CUDA_NIBBLE ? PATH_INT4
           : element == CUDA_BYTE ? PATH_INT8
           : element == CUDA_BF16 ? PATH_BF16
                                  : PATH_NONE;
}

/* Two sections of bytes are one path with scales in the loop; bfloat16 alone (the high plane of a dynamic mask) is a
 * high section without a low one. */
static integer_paths paths_of(const cuda_product *product)
{
    const cuda_input_layout *layout = &product->linear->layout;
    const bool sections = layout->planes == 1 && layout->low_units < layout->units;
    const integer_path first = path_of(product->plane ? layout->high_element : layout->low_element);
    const integer_path second = sections ? path_of(layout->high_element) : PATH_NONE;
    const sqf_cuda_form form = product->weights->form;
    integer_paths paths = {first, second,
                           layout->scale_count > 2 || layout->spec.scale == SQF_ACT_GROUP ||
                               layout->spec.zero != SQF_ACT_ZERO_NONE,
                           product->weights->scales && (form == SQF_CUDA_NIBBLES || form == SQF_CUDA_BYTES)};
    if (!sections && first == PATH_BF16) {
        paths.low = PATH_INT8;
        paths.high = PATH_BF16;
    } else if (first != PATH_INT4 && first != PATH_INT8) {
        paths.served = false;
    } else if (sections && second != PATH_INT8 && second != PATH_BF16) {
        paths.served = false;
    } else if (first == PATH_INT8 && second == PATH_INT8) {
        paths.high = PATH_NONE;
        paths.scaled = true;
    } else if (first == PATH_INT4 && !sections) {
        paths.high = PATH_INT8;
    }
    paths.served = paths.served && (paths.low != PATH_INT4 || form == SQF_CUDA_NIBBLES);
    return paths;
}

typedef void (*integer_function)(const integer_job);

template <int tokens, sqf_cuda_form form, bool scaled> static integer_function find_kernel(const integer_paths &paths)
{
    if (form == SQF_CUDA_NIBBLES && paths.low == PATH_INT4) {
        constexpr sqf_cuda_form nibbles = SQF_CUDA_NIBBLES;
        return paths.high == PATH_BF16 ? integer_kernel<tokens, nibbles, PATH_INT4, PATH_BF16, scaled>
                                       : integer_kernel<tokens, nibbles, PATH_INT4, PATH_INT8, scaled>;
    }
    return paths.high == PATH_BF16 ? integer_kernel<tokens, form, PATH_INT8, PATH_BF16, scaled>
                                   : integer_kernel<tokens, form, PATH_INT8, PATH_NONE, scaled>;
}

template <int tokens> static integer_function kernel_for(sqf_cuda_form form, const integer_paths &paths)
{
    if (form == SQF_CUDA_NIBBLES) {
        return paths.scaled ? find_kernel<tokens, SQF_CUDA_NIBBLES, true>(paths)
                            : find_kernel<tokens, SQF_CUDA_NIBBLES, false>(paths);
    }
    return paths.scaled ? find_kernel<tokens, SQF_CUDA_BYTES, true>(paths)
                        : find_kernel<tokens, SQF_CUDA_BYTES, false>(paths);
}

/* ---- how it is divided ---- */

typedef struct integer_shape {
    uint32_t tokens; /* of a block */
    uint32_t row_blocks, token_blocks;
    uint32_t split_bits, share; /* 2^split_bits parts of `share` chunks */
} integer_shape;

enum {
    SPLIT_CHUNKS = 4, /* a part has at least so many chunks */
    SPLIT_BLOCKS = 2, /* parts are made until there are so many blocks a multiprocessor */
    SPLIT_LIMIT = 4,  /* so many bits */
    WIDE_FROM = 65    /* tokens from which blocks of 128 are considered */
};

/* Blocks of 128 tokens read the weights least often; narrower ones where half of the wide ones would be padding or
 * multiprocessors would have none. Split until there is work for all: the parts are summed in ascending order. */
static integer_shape shape_of(const cuda_product *product)
{
    const uint32_t tokens = (uint32_t)product->input->tokens;
    const uint32_t processors = (uint32_t)product->device->info.multiprocessors;
    const uint32_t chunks = product->linear->layout.chunk_count;
    integer_shape shape = {tokens <= 32 ? 32u : 64u, product->linear->padded_rows / INTEGER_ROWS, 0, 0, 0};
    const uint32_t wide = (tokens + 127) / 128;
    if (tokens >= WIDE_FROM && wide * shape.row_blocks >= processors && wide * 128 <= tokens + tokens / 4) {
        shape.tokens = 128;
    }
    shape.token_blocks = (tokens + shape.tokens - 1) / shape.tokens;
    const uint32_t blocks = shape.row_blocks * shape.token_blocks;
    while (shape.split_bits < SPLIT_LIMIT && blocks << shape.split_bits < SPLIT_BLOCKS * processors &&
           chunks >> (shape.split_bits + 1) >= SPLIT_CHUNKS) {
        shape.split_bits++;
    }
    shape.share = (chunks + (1u << shape.split_bits) - 1) >> shape.split_bits;
    return shape;
}

static bool serves(const cuda_product *product)
{
    return paths_of(product).served;
}

static size_t workspace(const cuda_product *product)
{
    const integer_shape shape = shape_of(product);
    return shape.split_bits == 0 ? 0
                                 : sizeof(float) * (product->input->tokens << shape.split_bits) * product->linear->rows;
}

/* ---- the run ---- */

static integer_job make_job(const cuda_product *product, const integer_paths &paths, const integer_shape &shape)
{
    const sqf_cuda_linear *linear = product->linear;
    const cuda_input_layout *layout = &linear->layout;
    const cuda_plane *plane = &product->input->planes[product->plane];
    const bool zero = layout->spec.zero != SQF_ACT_ZERO_NONE;
    /* bfloat16 alone: all of it is the high section */
    const bool only_high = layout->planes > 1 && paths.high == PATH_BF16;
    integer_job job = integer_job();
    job.tiles = product->weights->tiles;
    job.scales = product->weights->scales;
    job.sums = zero ? product->weights->sums : NULL;
    job.codes = plane->codes;
    job.stride = layout->stride[product->plane];
    job.step_stride = job.stride * (INTEGER_THREADS / 8);
    job.act_scales = plane->scales;
    job.act_zeros = zero ? plane->zeros : NULL;
    job.token_stride = product->input->token_stride;
    job.chunks = layout->device_chunks;
    job.chunk_count = layout->chunk_count;
    job.low_chunks = only_high ? 0 : layout->low_chunks;
    job.units = layout->units;
    job.low_units = only_high ? 0 : layout->low_units;
    job.segments = layout->segment_count;
    job.rows = linear->rows;
    job.tokens = (uint32_t)product->input->tokens;
    job.split_bits = shape.split_bits;
    job.share = shape.share;
    job.grouped = layout->spec.scale == SQF_ACT_GROUP;
    job.high_scale = layout->scale_count - 1;
    job.y = product->y;
    job.bias = product->bias;
    job.store = product->store;
    job.partial = static_cast<float *>(product->device->workspace);
    return job;
}

/* The parts of a split product, in ascending order. */
static __global__ void integer_reduce(const float *partial, uint32_t splits, uint32_t tokens, uint32_t rows,
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

static sqf_status run(const cuda_product *product, sqf_error *err)
{
    const integer_paths paths = paths_of(product);
    const integer_shape shape = shape_of(product);
    SQF_TRY(cuda_workspace(product->device, workspace(product), err));
    const integer_job job = make_job(product, paths, shape);
    const sqf_cuda_form form = product->weights->form;
    const integer_function kernel = shape.tokens == 128  ? kernel_for<128>(form, paths)
                                    : shape.tokens == 64 ? kernel_for<64>(form, paths)
                                                         : kernel_for<32>(form, paths);
    const bool scaled = paths.scaled;
    const size_t shared = integer_shared_bytes(shape.tokens, scaled && job.grouped, scaled && job.act_zeros != NULL);
    const uint32_t groups = (shape.row_blocks + INTEGER_BANDS - 1) / INTEGER_BANDS;
    const dim3 grid(shape.row_blocks < INTEGER_BANDS ? shape.row_blocks : (uint32_t)INTEGER_BANDS, shape.token_blocks,
                    groups << shape.split_bits);
    CUDA_TRY(cuda_launch(product->device->stream, kernel, grid, dim3(INTEGER_THREADS), shared, job), "integer product");
    if (shape.split_bits > 0) {
        const size_t blocks = ((size_t)job.tokens * job.rows + 255) / 256;
        CUDA_TRY(cuda_launch(product->device->stream, integer_reduce, dim3((unsigned)(blocks < 4096 ? blocks : 4096)),
                             dim3(256), 0, job.partial, 1u << job.split_bits, job.tokens, job.rows, job.bias, job.store,
                             job.y),
                 "sum of a split product");
    }
    return SQF_OK;
}

const cuda_family cuda_family_integer = {"integer", serves, run, workspace};

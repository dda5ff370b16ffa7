/* Products of float32 weights with many float32 tokens, by cuBLAS: what the calibration of a quantization consists of.
 * Tiles are laid out row by row first, a block of rows at a time: a hundredth of the product's work. Sums are in
 * cuBLAS's order; TF32 is off. */
#include "kernels/cuda/input/input.h"
#include "kernels/cuda/linear/pack.h"
#include "kernels/cuda/linear/store.h"
#include "kernels/cuda/quantize/solver.h"

/* Fewer tokens are decoding, whose steps are recorded as graphs. */
enum { DENSE_TOKENS = 257, DENSE_ROWS = 2048, DENSE_THREADS = 256 };

/* rows [band * 16 + row][unit * 64 + column] = the tiles from band `first` on. Grid: units, bands. */
static __global__ __launch_bounds__(DENSE_THREADS) void dense_rows_kernel(const float *tiles, size_t first, float *rows)
{
    enum { QUADS = CUDA_UNIT / 4 };
    const unsigned row = threadIdx.x / QUADS, quad = threadIdx.x % QUADS;
    const size_t units = gridDim.x, band = blockIdx.y, unit = blockIdx.x;
    const float4 *from = (const float4 *)(tiles + ((first + band) * units + unit) * CUDA_TILE_ROWS * CUDA_UNIT);
    float4 *to = (float4 *)(rows + ((band * CUDA_TILE_ROWS + row) * units + unit) * CUDA_UNIT);
    to[quad] = from[row * QUADS + quad];
}

/* y [tokens][rows] from the products of `count` of its rows. Grid: tokens. */
static __global__ __launch_bounds__(DENSE_THREADS) void dense_store_kernel(const float *products, uint32_t count,
                                                                           const float *bias, sqf_cuda_store store,
                                                                           float *y, size_t rows)
{
    for (uint32_t n = threadIdx.x; n < count; n += DENSE_THREADS) {
        const float p = products[(size_t)blockIdx.x * count + n] + (bias ? bias[n] : 0.0f);
        store_product(y + blockIdx.x * rows + n, p, store);
    }
}

static bool dense_serves(const cuda_product *product)
{
    const cuda_input_layout *layout = &product->linear->layout;
    return product->weights->form == SQF_CUDA_FP32 && !product->weights->scales && product->plane == 0 &&
           layout->planes == 1 && layout->low_element == CUDA_FP32 &&
           (layout->low_units == layout->units || layout->high_element == CUDA_FP32) &&
           product->input->tokens >= DENSE_TOKENS;
}

static size_t dense_block_rows(const cuda_product *product)
{
    const size_t rows = product->linear->rows;
    return rows < (size_t)DENSE_ROWS ? rows : (size_t)DENSE_ROWS;
}

static size_t dense_block_bytes(const cuda_product *product)
{
    static_assert(CUDA_TILE_ROWS * (CUDA_UNIT / 4) == DENSE_THREADS, "a thread moves four elements of a tile");
    const size_t bands = (dense_block_rows(product) + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS;
    return bands * CUDA_TILE_ROWS * product->linear->layout.units * CUDA_UNIT * sizeof(float);
}

static size_t dense_workspace(const cuda_product *product)
{
    return dense_block_bytes(product) + product->input->tokens * dense_block_rows(product) * sizeof(float);
}

/* The rows [first, first + count) of the weights. */
static sqf_status dense_block(const cuda_product *product, size_t first, size_t count, sqf_error *err)
{
    sqf_cuda_device *device = product->device;
    const cuda_input_layout *layout = &product->linear->layout;
    const size_t width = (size_t)layout->units * CUDA_UNIT, tokens = product->input->tokens;
    const unsigned bands = (unsigned)((count + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS);
    float *rows = (float *)device->workspace;
    float *products = (float *)((uint8_t *)device->workspace + dense_block_bytes(product));
    CUDA_TRY(cuda_launch(device->stream, dense_rows_kernel, dim3(layout->units, bands), dim3(DENSE_THREADS), 0,
                         (const float *)product->weights->tiles, first / CUDA_TILE_ROWS, rows),
             "matrix product");
    SQF_TRY(solver_product_transposed(device, tokens, count, width, (const float *)product->input->planes[0].codes,
                                      layout->stride[0] / sizeof(float), rows, width, products, count, err));
    CUDA_TRY(cuda_launch(device->stream, dense_store_kernel, dim3((unsigned)tokens), dim3(DENSE_THREADS), 0, products,
                         (uint32_t)count, product->bias ? product->bias + first : NULL, product->store,
                         product->y + first, product->linear->rows),
             "matrix product");
    return SQF_OK;
}

static sqf_status dense_run(const cuda_product *product, sqf_error *err)
{
    const size_t rows = product->linear->rows;
    SQF_TRY(cuda_workspace(product->device, dense_workspace(product), err));
    for (size_t first = 0; first < rows; first += DENSE_ROWS) {
        const size_t left = rows - first;
        SQF_TRY(dense_block(product, first, left < (size_t)DENSE_ROWS ? left : (size_t)DENSE_ROWS, err));
    }
    return SQF_OK;
}

extern const cuda_family cuda_family_dense = {"cuBLAS float32", dense_serves, dense_run, dense_workspace};

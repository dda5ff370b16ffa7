/* cuBLASLt's products of BF16, FP8 (e4m3) and INT8, row by row as linear layers have them: weights [rows, columns] and
 * activations [tokens, columns], both with the reduction axis inside, which is the layout that its FP8 and INT8 kernels
 * ask for. */
#include "reference.h"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { ALGORITHMS = 8, COPIES_MOST = 64, WORKSPACE = 64 << 20, WARM = 2 };

typedef struct product {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t weights_layout, input_layout, output_layout;
    cublasLtMatmulPreference_t preference;
    uint8_t *weights, *input, *output, *workspace;
    size_t weight_bytes, copies;
    bool integer;
} product;

const char *reference_name(void)
{
    static char name[64];
    const size_t version = cublasLtGetVersion();
    snprintf(name, sizeof name, "cuBLASLt %zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
    return name;
}

/* Bytes that are harmless numbers in each type: bf16 of magnitude about 1, e4m3 of at most 15, any int8. */
static __global__ void fill(uint8_t *bytes, size_t count, int type, unsigned seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        unsigned x = (unsigned)i * 2654435761u + seed;
        x ^= x >> 15;
        x *= 2246822519u;
        x ^= x >> 13;
        if (type == REFERENCE_BF16) {
            bytes[i] = i % 2 ? (uint8_t)(0x3f | (x & 0x80)) : (uint8_t)x;
        } else {
            bytes[i] = type == REFERENCE_FP8 ? (uint8_t)(x & 0xd7) : (uint8_t)x;
        }
    }
}

static void release(product *p)
{
    const cublasLtMatrixLayout_t layouts[] = {p->weights_layout, p->input_layout, p->output_layout};
    for (int i = 0; i < 3; i++) {
        if (layouts[i]) {
            cublasLtMatrixLayoutDestroy(layouts[i]);
        }
    }
    if (p->preference) {
        cublasLtMatmulPreferenceDestroy(p->preference);
    }
    if (p->operation) {
        cublasLtMatmulDescDestroy(p->operation);
    }
    if (p->handle) {
        cublasLtDestroy(p->handle);
    }
    cudaFree(p->weights);
    cudaFree(p->input);
    cudaFree(p->output);
    cudaFree(p->workspace);
}

static size_t cache_bytes(void)
{
    int device = 0, bytes = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device);
    return (size_t)bytes;
}

/* Column-major for the library: D [rows, tokens] = A^T B with A [columns, rows], B [columns, tokens]. */
static bool describe(product *p, reference_type type, size_t tokens, size_t rows, size_t columns)
{
    const cudaDataType_t in = type == REFERENCE_BF16 ? CUDA_R_16BF : type == REFERENCE_FP8 ? CUDA_R_8F_E4M3 : CUDA_R_8I;
    const cudaDataType_t out = type == REFERENCE_INT8 ? CUDA_R_32I : CUDA_R_16BF;
    const cublasOperation_t transpose = CUBLAS_OP_T;
    const size_t limit = WORKSPACE;
    p->integer = type == REFERENCE_INT8;
    return cublasLtCreate(&p->handle) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulDescCreate(&p->operation, p->integer ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                    p->integer ? CUDA_R_32I : CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p->weights_layout, in, columns, rows, (int64_t)columns) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p->input_layout, in, columns, tokens, (int64_t)columns) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p->output_layout, out, rows, tokens, (int64_t)rows) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulPreferenceCreate(&p->preference) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulPreferenceSetAttribute(p->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit,
                                                sizeof limit) == CUBLAS_STATUS_SUCCESS;
}

/* As many copies of the weights as fill the second-level cache twice: a product must find its weights in memory. */
static bool allocate(product *p, reference_type type, size_t tokens, size_t rows, size_t columns)
{
    const size_t element = type == REFERENCE_BF16 ? 2 : 1;
    p->weight_bytes = rows * columns * element;
    p->copies = 2 * cache_bytes() / p->weight_bytes + 1;
    p->copies = p->copies > COPIES_MOST ? COPIES_MOST : p->copies;
    if (cudaMalloc((void **)&p->weights, p->weight_bytes * p->copies) != cudaSuccess ||
        cudaMalloc((void **)&p->input, tokens * columns * element) != cudaSuccess ||
        cudaMalloc((void **)&p->output, rows * tokens * (p->integer ? 4 : 2)) != cudaSuccess ||
        cudaMalloc((void **)&p->workspace, WORKSPACE) != cudaSuccess) {
        return false;
    }
    fill<<<1024, 256>>>(p->weights, p->weight_bytes * p->copies, type, 1);
    fill<<<1024, 256>>>(p->input, tokens * columns * element, type, 2);
    return cudaDeviceSynchronize() == cudaSuccess;
}

static bool run(const product *p, const cublasLtMatmulAlgo_t *algorithm, size_t copy)
{
    const int32_t one_integer = 1, zero_integer = 0;
    const float one_float = 1, zero_float = 0;
    const void *one = p->integer ? (const void *)&one_integer : &one_float;
    const void *zero = p->integer ? (const void *)&zero_integer : &zero_float;
    return cublasLtMatmul(p->handle, p->operation, one, p->weights + p->weight_bytes * (copy % p->copies),
                          p->weights_layout, p->input, p->input_layout, zero, p->output, p->output_layout, p->output,
                          p->output_layout, algorithm, p->workspace, WORKSPACE, 0) == CUBLAS_STATUS_SUCCESS;
}

/* Seconds of one product, a mean over `count`; negative if it fails. */
static double time_products(const product *p, const cublasLtMatmulAlgo_t *algorithm, size_t count)
{
    cudaEvent_t begin, end;
    float milliseconds = -1;
    bool good = true;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    cudaEventRecord(begin);
    for (size_t i = 0; good && i < count; i++) {
        good = run(p, algorithm, i);
    }
    cudaEventRecord(end);
    if (cudaEventSynchronize(end) != cudaSuccess || cudaEventElapsedTime(&milliseconds, begin, end) != cudaSuccess) {
        good = false;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return good ? 1e-3 * milliseconds / (double)count : -1;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The fastest of the proposed algorithms, then `rounds` of it. */
static bool measure(const product *p, int rounds, double *least, double *median)
{
    cublasLtMatmulHeuristicResult_t found[ALGORITHMS];
    int count = 0, best = -1;
    double best_seconds = 0, times[64];
    if (cublasLtMatmulAlgoGetHeuristic(p->handle, p->operation, p->weights_layout, p->input_layout, p->output_layout,
                                       p->output_layout, p->preference, ALGORITHMS, found,
                                       &count) != CUBLAS_STATUS_SUCCESS) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        time_products(p, &found[i].algo, WARM);
        const double seconds = time_products(p, &found[i].algo, p->copies);
        if (seconds > 0 && (best < 0 || seconds < best_seconds)) {
            best = i;
            best_seconds = seconds;
        }
    }
    if (best < 0) {
        return false;
    }
    rounds = rounds > 64 ? 64 : rounds;
    const size_t repeats = (size_t)(1e-3 / best_seconds) + p->copies;
    for (int r = 0; r < rounds; r++) {
        times[r] = time_products(p, &found[best].algo, repeats);
    }
    qsort(times, (size_t)rounds, sizeof *times, compare);
    *least = times[0];
    *median = times[rounds / 2];
    return times[0] > 0;
}

bool reference_seconds(reference_type type, size_t tokens, size_t rows, size_t columns, int rounds, double *least,
                       double *median)
{
    product p = {};
    const bool good = describe(&p, type, tokens, rows, columns) && allocate(&p, type, tokens, rows, columns) &&
                      measure(&p, rounds, least, median);
    release(&p);
    cudaGetLastError(); /* a product that does not exist leaves its error behind */
    return good;
}

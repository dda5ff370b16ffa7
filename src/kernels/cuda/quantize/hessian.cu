/* Calibration on the device: sums over activations, the Hessian's factor, and the handles that these need. */
#include <stdlib.h>

#include "kernels/cuda/linear/layout.h"
#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/quantize/solver.h"

/* ---- handles ---- */

sqf_status cuda_blas_check(cublasStatus_t status, const char *what, sqf_error *err)
{
    return status == CUBLAS_STATUS_SUCCESS
               ? SQF_OK
               : sqf_fail(err, SQF_E_SUPPORT, "%s: cuBLAS: %s", what, cublasGetStatusString(status));
}

sqf_status cuda_solver_check(cusolverStatus_t status, const char *what, sqf_error *err)
{
    return status == CUSOLVER_STATUS_SUCCESS
               ? SQF_OK
               : sqf_fail(err, SQF_E_SUPPORT, "%s: cuSOLVER: status %d", what, (int)status);
}

static sqf_status make_handles(sqf_cuda_device *device, cuda_solver *solver, sqf_error *err)
{
    SQF_TRY(cuda_blas_check(cublasCreate(&solver->blas), "cublasCreate", err));
    SQF_TRY(cuda_blas_check(cublasSetStream(solver->blas, device->stream), "cublasSetStream", err));
    SQF_TRY(cuda_blas_check(cublasSetMathMode(solver->blas, CUBLAS_DEFAULT_MATH), "cublasSetMathMode", err));
    SQF_TRY(cuda_solver_check(cusolverDnCreate(&solver->dense), "cusolverDnCreate", err));
    SQF_TRY(cuda_solver_check(cusolverDnSetStream(solver->dense, device->stream), "cusolverDnSetStream", err));
    return cuda_solver_check(cusolverDnCreateParams(&solver->params), "cusolverDnCreateParams", err);
}

void cuda_solver_destroy(cuda_solver *solver)
{
    if (!solver) {
        return;
    }
    if (solver->params) {
        cusolverDnDestroyParams(solver->params);
    }
    if (solver->dense) {
        cusolverDnDestroy(solver->dense);
    }
    if (solver->blas) {
        cublasDestroy(solver->blas);
    }
    free(solver);
}

sqf_status cuda_solver_need(sqf_cuda_device *device, cuda_solver **out, sqf_error *err)
{
    *out = device->solver;
    if (*out) {
        return SQF_OK;
    }
    cuda_solver *solver = (cuda_solver *)calloc(1, sizeof *solver);
    if (!solver) {
        return sqf_fail(err, SQF_E_MEMORY, "handles of cuBLAS: out of memory");
    }
    const sqf_status status = make_handles(device, solver, err);
    if (status != SQF_OK) {
        cuda_solver_destroy(solver);
        return status;
    }
    *out = device->solver = solver;
    return SQF_OK;
}

sqf_status solver_product(sqf_cuda_device *device, size_t rows, size_t width, size_t depth, float alpha, const float *a,
                          size_t a_stride, const float *b, size_t b_stride, float beta, float *c, size_t c_stride,
                          sqf_error *err)
{
    cuda_solver *solver;
    SQF_TRY(cuda_solver_need(device, &solver, err));
    /* row-major matrices are the transposes of column-major ones: c^T = b^T a^T */
    return cuda_blas_check(cublasSgemm(solver->blas, CUBLAS_OP_N, CUBLAS_OP_N, (int)width, (int)rows, (int)depth,
                                       &alpha, b, (int)b_stride, a, (int)a_stride, &beta, c, (int)c_stride),
                           "matrix product", err);
}

sqf_status solver_product_transposed(sqf_cuda_device *device, size_t rows, size_t width, size_t depth, const float *a,
                                     size_t a_stride, const float *b, size_t b_stride, float *c, size_t c_stride,
                                     sqf_error *err)
{
    cuda_solver *solver;
    const float one = 1.0f, zero = 0.0f;
    SQF_TRY(cuda_solver_need(device, &solver, err));
    return cuda_blas_check(cublasSgemm(solver->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)width, (int)rows, (int)depth, &one,
                                       b, (int)b_stride, a, (int)a_stride, &zero, c, (int)c_stride),
                           "matrix product", err);
}

/* ---- sums over activations ---- */

/* In float32 as ptq/statistics.c, which adds window by window too: cuBLAS may group the tokens of a window in another
 * way, so that sums agree to rounding. */
sqf_status cuda_hessian_add(sqf_cuda_device *device, const float *x, size_t tokens, size_t n, float factor,
                            float *hessian, sqf_error *err)
{
    cuda_solver *solver;
    const float one = 1.0f;
    SQF_TRY(cuda_solver_need(device, &solver, err));
    /* x is column-major [n, tokens], the row-major upper triangle column-major lower */
    return cuda_blas_check(cublasSsyrk(solver->blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, (int)n, (int)tokens, &factor,
                                       x, (int)n, &one, hessian, (int)n),
                           "Hessian", err);
}

enum { CHANNEL_THREADS = 64 };

/* A thread walks down one channel, so that its sums are those of the CPU, bit for bit. Neighbours read neighbours. */
static __global__ __launch_bounds__(CHANNEL_THREADS) void channels_kernel(const float *x, size_t tokens, size_t n,
                                                                          float *extremes, double *sums)
{
    const size_t j = (size_t)blockIdx.x * CHANNEL_THREADS + threadIdx.x;
    if (j >= n) {
        return;
    }
    float largest_magnitude = extremes[j], lowest = extremes[n + j], largest = extremes[2 * n + j];
    double magnitudes = sums[j], values = sums[n + j], squares = sums[2 * n + j];
#pragma unroll 8
    for (size_t t = 0; t < tokens; t++) {
        const float value = x[t * n + j], magnitude = fabsf(value);
        const double wide = (double)value;
        largest_magnitude = magnitude > largest_magnitude ? magnitude : largest_magnitude;
        lowest = value < lowest ? value : lowest;
        largest = value > largest ? value : largest;
        magnitudes += (double)magnitude;
        values += wide;
        squares += wide * wide;
    }
    extremes[j] = largest_magnitude;
    extremes[n + j] = lowest;
    extremes[2 * n + j] = largest;
    sums[j] = magnitudes;
    sums[n + j] = values;
    sums[2 * n + j] = squares;
}

sqf_status cuda_channels_add(sqf_cuda_device *device, const float *x, size_t tokens, size_t n, float *extremes,
                             double *sums, sqf_error *err)
{
    const unsigned blocks = (unsigned)((n + CHANNEL_THREADS - 1) / CHANNEL_THREADS);
    if (n == 0) {
        return SQF_OK;
    }
    CUDA_TRY(cuda_launch(device->stream, channels_kernel, dim3(blocks), dim3(CHANNEL_THREADS), 0, x, tokens, n,
                         extremes, sums),
             "channel statistics");
    return SQF_OK;
}

/* ---- the factor ---- */

/* With A = R R^T, R upper triangular, U = R^-1 (ptq/factor.c): a Cholesky factorization from the last row to the first
 * and the inverse of a triangle. No inverse of A is formed, whose condition would enter twice. cuSOLVER factors from
 * the first row to the last: mirrored at the other diagonal, A is the matrix whose ordinary factor is R mirrored. */
enum { MIRROR_TILE = 32, MIRROR_ROWS = 8 };

/* Exchanges a[i][j] and a[n-1-j][n-1-i] where i <= j, that is the upper triangle with its mirror image; what stands
 * below the main diagonal becomes 0. */
static __global__ __launch_bounds__(MIRROR_TILE *MIRROR_ROWS) void mirror_kernel(float *a, size_t n)
{
    const size_t j = (size_t)blockIdx.x * MIRROR_TILE + threadIdx.x % MIRROR_TILE;
    for (unsigned k = threadIdx.x / MIRROR_TILE; k < MIRROR_TILE; k += MIRROR_ROWS) {
        const size_t i = (size_t)blockIdx.y * MIRROR_TILE + k;
        if (i >= n || j >= n) {
            continue;
        }
        float *here = a + i * n + j;
        if (i > j) {
            *here = 0.0f;
        } else if (i + j + 1 < n) {
            float *there = a + (n - 1 - j) * n + (n - 1 - i);
            const float kept = *here;
            *here = *there;
            *there = kept;
        }
    }
}

static sqf_status mirror(sqf_cuda_device *device, float *a, size_t n, sqf_error *err)
{
    const unsigned tiles = (unsigned)((n + MIRROR_TILE - 1) / MIRROR_TILE);
    CUDA_TRY(cuda_launch(device->stream, mirror_kernel, dim3(tiles, tiles), dim3(MIRROR_TILE * MIRROR_ROWS), 0, a, n),
             "factor of the Hessian");
    return SQF_OK;
}

/* Buffers of the two steps; `info` [2] on the device. */
typedef struct factor_buffers {
    size_t factor_bytes, factor_host_bytes, inverse_bytes, inverse_host_bytes;
    uint8_t *device;
    int *info;
    void *host;
} factor_buffers;

static sqf_status need_buffers(sqf_cuda_device *device, const cuda_solver *solver, float *a, size_t n,
                               factor_buffers *out, sqf_error *err)
{
    const int64_t size = (int64_t)n;
    SQF_TRY(cuda_solver_check(cusolverDnXpotrf_bufferSize(solver->dense, solver->params, CUBLAS_FILL_MODE_LOWER, size,
                                                          CUDA_R_32F, a, size, CUDA_R_32F, &out->factor_bytes,
                                                          &out->factor_host_bytes),
                              "factor of the Hessian", err));
    SQF_TRY(cuda_solver_check(cusolverDnXtrtri_bufferSize(solver->dense, CUBLAS_FILL_MODE_LOWER, CUBLAS_DIAG_NON_UNIT,
                                                          size, CUDA_R_32F, a, size, &out->inverse_bytes,
                                                          &out->inverse_host_bytes),
                              "factor of the Hessian", err));
    const size_t most = out->factor_bytes > out->inverse_bytes ? out->factor_bytes : out->inverse_bytes;
    const size_t aligned = (most + 255) / 256 * 256;
    const size_t host =
        out->factor_host_bytes > out->inverse_host_bytes ? out->factor_host_bytes : out->inverse_host_bytes;
    SQF_TRY(cuda_workspace(device, aligned + 2 * sizeof(int), err));
    out->device = (uint8_t *)device->workspace;
    out->info = (int *)(out->device + aligned);
    out->host = malloc(host ? host : 1);
    return out->host ? SQF_OK : sqf_fail(err, SQF_E_MEMORY, "factor of the Hessian: out of memory");
}

static sqf_status factor_and_invert(sqf_cuda_device *device, const cuda_solver *solver, const factor_buffers *buffers,
                                    float *a, size_t n, int info[2], sqf_error *err)
{
    const int64_t size = (int64_t)n;
    SQF_TRY(mirror(device, a, n, err));
    SQF_TRY(cuda_solver_check(cusolverDnXpotrf(solver->dense, solver->params, CUBLAS_FILL_MODE_LOWER, size, CUDA_R_32F,
                                               a, size, CUDA_R_32F, buffers->device, buffers->factor_bytes,
                                               buffers->host, buffers->factor_host_bytes, buffers->info),
                              "factor of the Hessian", err));
    CUDA_TRY(cudaMemcpyAsync(info, buffers->info, sizeof(int), cudaMemcpyDeviceToHost, device->stream),
             "factor of the Hessian");
    CUDA_TRY(cudaStreamSynchronize(device->stream), "factor of the Hessian");
    if (info[0] != 0) {
        return SQF_OK;
    }
    SQF_TRY(cuda_solver_check(cusolverDnXtrtri(solver->dense, CUBLAS_FILL_MODE_LOWER, CUBLAS_DIAG_NON_UNIT, size,
                                               CUDA_R_32F, a, size, buffers->device, buffers->inverse_bytes,
                                               buffers->host, buffers->inverse_host_bytes, buffers->info + 1),
                              "factor of the Hessian", err));
    SQF_TRY(mirror(device, a, n, err));
    CUDA_TRY(cudaMemcpyAsync(info + 1, buffers->info + 1, sizeof(int), cudaMemcpyDeviceToHost, device->stream),
             "factor of the Hessian");
    CUDA_TRY(cudaStreamSynchronize(device->stream), "factor of the Hessian");
    return SQF_OK;
}

sqf_status cuda_factor(sqf_cuda_device *device, float *a, size_t n, bool *positive, sqf_error *err)
{
    cuda_solver *solver;
    factor_buffers buffers = {};
    int info[2] = {0, 0};
    *positive = n == 0;
    if (n == 0) {
        return SQF_OK;
    }
    SQF_TRY(cuda_solver_need(device, &solver, err));
    sqf_status status = need_buffers(device, solver, a, n, &buffers, err);
    if (status == SQF_OK) {
        status = factor_and_invert(device, solver, &buffers, a, n, info, err);
    }
    free(buffers.host);
    *positive = status == SQF_OK && info[0] == 0 && info[1] == 0;
    return status;
}

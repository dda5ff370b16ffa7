/* Emulation of CUDA on the host: cuBLAS and cuSOLVER on OpenBLAS. Matrices are column-major in both. */
#include "kernels/cuda/emulation/blas.h"

#include <stdlib.h>
#include <string.h>

#include <cblas.h>
#include <lapacke.h>

/* What a handle knows: the stream that calls are queued on. */
struct emulated_blas {
    cudaStream_t stream;
};

static cublasStatus_t blas_status(cudaError_t error)
{
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

static cusolverStatus_t solver_status(cudaError_t error)
{
    return error == cudaSuccess ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_INVALID_VALUE;
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? "CUBLAS_STATUS_SUCCESS" : "CUBLAS_STATUS_INVALID_VALUE";
}

cublasStatus_t cublasCreate(cublasHandle_t *handle)
{
    *handle = new emulated_blas();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

static CBLAS_TRANSPOSE transposed(cublasOperation_t operation)
{
    return operation == CUBLAS_OP_N ? CblasNoTrans : CblasTrans;
}

/* SQF_EMULATION_BLAS=plain: sums one term after another, another order than OpenBLAS's, as a GPU's is. */
static bool plain_sums(void)
{
    static const char *const choice = getenv("SQF_EMULATION_BLAS");
    return choice && strcmp(choice, "plain") == 0;
}

/* c [m, n] = alpha a b + beta c with element (row, column) of an operand at row * step[0] + column * step[1]; of c
 * only the lower or the upper triangle, or (uplo NULL) all. */
static void plain_product(const cublasFillMode_t *uplo, int m, int n, int k, float alpha, const float *a,
                          const size_t a_step[2], const float *b, const size_t b_step[2], float beta, float *c, int ldc)
{
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < m; i++) {
            if (uplo && (*uplo == CUBLAS_FILL_MODE_LOWER ? i < j : i > j)) {
                continue;
            }
            float sum = 0.0f;
            for (int p = 0; p < k; p++) {
                sum += a[i * a_step[0] + p * a_step[1]] * b[p * b_step[0] + j * b_step[1]];
            }
            float *to = c + i + (size_t)j * ldc;
            *to = alpha * sum + (beta == 0.0f ? 0.0f : beta * *to);
        }
    }
}

/* Steps of op(a), column-major with leading dimension ld. */
struct plain_steps {
    size_t step[2];
    plain_steps(cublasOperation_t operation, int ld)
    {
        step[operation == CUBLAS_OP_N ? 0 : 1] = 1;
        step[operation == CUBLAS_OP_N ? 1 : 0] = (size_t)ld;
    }
};

cublasStatus_t cublasSsyrk(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t trans, int n, int k,
                           const float *alpha, const float *a, int lda, const float *beta, float *c, int ldc)
{
    const float x = *alpha, y = *beta; /* the caller's may be gone when a recorded call runs */
    return blas_status(emulated_enqueue(handle->stream, [=]() {
        if (plain_sums()) {
            const plain_steps left(trans, lda), right(trans == CUBLAS_OP_N ? CUBLAS_OP_T : CUBLAS_OP_N, lda);
            plain_product(&uplo, n, n, k, x, a, left.step, a, right.step, y, c, ldc);
            return;
        }
        cblas_ssyrk(CblasColMajor, uplo == CUBLAS_FILL_MODE_LOWER ? CblasLower : CblasUpper, transposed(trans), n, k, x,
                    a, lda, y, c, ldc);
    }));
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                           int k, const float *alpha, const float *a, int lda, const float *b, int ldb,
                           const float *beta, float *c, int ldc)
{
    const float x = *alpha, y = *beta;
    return blas_status(emulated_enqueue(handle->stream, [=]() {
        if (plain_sums()) {
            const plain_steps left(transa, lda), right(transb, ldb);
            plain_product(NULL, m, n, k, x, a, left.step, b, right.step, y, c, ldc);
            return;
        }
        cblas_sgemm(CblasColMajor, transposed(transa), transposed(transb), m, n, k, x, a, lda, b, ldb, y, c, ldc);
    }));
}

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle)
{
    *handle = new emulated_blas();
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle)
{
    delete handle;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params)
{
    *params = new emulated_blas();
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params)
{
    delete params;
    return CUSOLVER_STATUS_SUCCESS;
}

/* Both work in place here; a byte each, so that callers' buffers are looked at. */
static cusolverStatus_t no_buffers(size_t *device_bytes, size_t *host_bytes)
{
    *device_bytes = 1;
    *host_bytes = 1;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXpotrf_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, cublasFillMode_t, int64_t,
                                             cudaDataType, const void *, int64_t, cudaDataType, size_t *device_bytes,
                                             size_t *host_bytes)
{
    return no_buffers(device_bytes, host_bytes);
}

cusolverStatus_t cusolverDnXtrtri_bufferSize(cusolverDnHandle_t, cublasFillMode_t, cublasDiagType_t, int64_t,
                                             cudaDataType, void *, int64_t, size_t *device_bytes, size_t *host_bytes)
{
    return no_buffers(device_bytes, host_bytes);
}

cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t handle, cusolverDnParams_t, cublasFillMode_t uplo, int64_t n,
                                  cudaDataType, void *a, int64_t lda, cudaDataType, void *, size_t device_bytes, void *,
                                  size_t host_bytes, int *info)
{
    if (device_bytes < 1 || host_bytes < 1) {
        return CUSOLVER_STATUS_INVALID_VALUE;
    }
    return solver_status(emulated_enqueue(handle->stream, [=]() {
        *info = LAPACKE_spotrf_work(LAPACK_COL_MAJOR, uplo == CUBLAS_FILL_MODE_LOWER ? 'L' : 'U', (lapack_int)n,
                                    (float *)a, (lapack_int)lda);
    }));
}

cusolverStatus_t cusolverDnXtrtri(cusolverDnHandle_t handle, cublasFillMode_t uplo, cublasDiagType_t diag, int64_t n,
                                  cudaDataType, void *a, int64_t lda, void *, size_t device_bytes, void *,
                                  size_t host_bytes, int *info)
{
    if (device_bytes < 1 || host_bytes < 1) {
        return CUSOLVER_STATUS_INVALID_VALUE;
    }
    return solver_status(emulated_enqueue(handle->stream, [=]() {
        *info = LAPACKE_strtri_work(LAPACK_COL_MAJOR, uplo == CUBLAS_FILL_MODE_LOWER ? 'L' : 'U',
                                    diag == CUBLAS_DIAG_UNIT ? 'U' : 'N', (lapack_int)n, (float *)a, (lapack_int)lda);
    }));
}

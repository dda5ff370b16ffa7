/* Emulation of CUDA on the host: cuBLAS and cuSOLVER on OpenBLAS. Matrices are column-major in both. */
#include "kernels/cuda/emulation/blas.h"

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

cublasStatus_t cublasSsyrk(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t trans, int n, int k,
                           const float *alpha, const float *a, int lda, const float *beta, float *c, int ldc)
{
    const float x = *alpha, y = *beta; /* the caller's may be gone when a recorded call runs */
    return blas_status(emulated_enqueue(handle->stream, [=]() {
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

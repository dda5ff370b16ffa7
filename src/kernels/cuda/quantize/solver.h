/* cuBLAS and cuSOLVER of a device: the libraries under nvcc, their emulation on the host. */
#ifndef SQF_KERNELS_CUDA_SOLVER_H
#define SQF_KERNELS_CUDA_SOLVER_H

#include "kernels/cuda/device.h"

#ifdef __CUDACC__
#include <cublas_v2.h>
#include <cusolverDn.h>
#else
#include "kernels/cuda/emulation/blas.h"
#endif

/* Handles, bound to the device's stream. float32 throughout: neither TF32 nor emulated products. */
typedef struct cuda_solver {
    cublasHandle_t blas;
    cusolverDnHandle_t dense;
    cusolverDnParams_t params;
} cuda_solver;

/* device->solver, made on the first call. */
sqf_status cuda_solver_need(sqf_cuda_device *device, cuda_solver **out, sqf_error *err);

/* The status of a call. */
sqf_status cuda_blas_check(cublasStatus_t status, const char *what, sqf_error *err);
sqf_status cuda_solver_check(cusolverStatus_t status, const char *what, sqf_error *err);

/* c [rows, width] = beta c + alpha a [rows, depth] b [depth, width], all row-major with the given strides. */
sqf_status solver_product(sqf_cuda_device *device, size_t rows, size_t width, size_t depth, float alpha, const float *a,
                          size_t a_stride, const float *b, size_t b_stride, float beta, float *c, size_t c_stride,
                          sqf_error *err);

/* c [rows, width] = a [rows, depth] b^T, b [width, depth]. */
sqf_status solver_product_transposed(sqf_cuda_device *device, size_t rows, size_t width, size_t depth, const float *a,
                                     size_t a_stride, const float *b, size_t b_stride, float *c, size_t c_stride,
                                     sqf_error *err);

#endif

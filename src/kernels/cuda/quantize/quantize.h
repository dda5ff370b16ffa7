/* Quantization on the device: what the table of operations calls (api.cu). */
#ifndef SQF_KERNELS_CUDA_QUANTIZE_H
#define SQF_KERNELS_CUDA_QUANTIZE_H

#include "kernels/cuda/ops.h"

struct cuda_solver;

/* hessian.cu */
sqf_status cuda_hessian_add(sqf_cuda_device *device, const float *x, size_t tokens, size_t n, float factor,
                            float *hessian, sqf_error *err);
sqf_status cuda_channels_add(sqf_cuda_device *device, const float *x, size_t tokens, size_t n, float *extremes,
                             double *sums, sqf_error *err);
sqf_status cuda_factor(sqf_cuda_device *device, float *a, size_t n, bool *positive, sqf_error *err);
/* When the device is closed; NULL is fine. */
void cuda_solver_destroy(struct cuda_solver *solver);

/* gptq.cu */
sqf_status cuda_gptq(sqf_cuda_device *device, const sqf_cuda_gptq *job, sqf_cuda_gptq_result *result, sqf_error *err);

#endif

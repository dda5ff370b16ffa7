/* The parts of a decoder outside of the linear layers: ops.h says what each does. Internal to the backend. */
#ifndef SQF_KERNELS_CUDA_DECODER_H
#define SQF_KERNELS_CUDA_DECODER_H

#include "kernels/cuda/device.h"

sqf_status cuda_embed(sqf_cuda_device *device, const void *table, sqf_type dtype, const sqf_cuda_batch *batch,
                      size_t columns, float *x, sqf_error *err);
sqf_status cuda_rope_store(sqf_cuda_device *device, const sqf_cuda_attention_spec *spec, const sqf_cuda_batch *batch,
                           const float *query_norm, const float *key_norm, float epsilon, const float *cosine,
                           const float *sine, float *query, const float *key, const float *value, const sqf_cuda_kv *kv,
                           sqf_error *err);
sqf_status cuda_attention(sqf_cuda_device *device, const sqf_cuda_attention_spec *spec, const sqf_cuda_batch *batch,
                          const float *query, const sqf_cuda_kv *kv, float *out, sqf_error *err);
sqf_status cuda_sample(sqf_cuda_device *device, const sqf_cuda_sample *sample, sqf_error *err);

#endif

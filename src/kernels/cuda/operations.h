/* The functions behind ops.h's table that belong to the device itself (device.cu) and to its inputs (input.cu); the
 * other parts have headers of their own. What each does says ops.h. */
#ifndef SQF_KERNELS_CUDA_OPERATIONS_H
#define SQF_KERNELS_CUDA_OPERATIONS_H

#include "kernels/cuda/decoder/decoder.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/quantize/quantize.h"

sqf_status cuda_count(int *devices, sqf_error *err);
sqf_status cuda_open(int index, sqf_cuda_device **out, sqf_error *err);
void cuda_close(sqf_cuda_device *device);
sqf_status cuda_info(sqf_cuda_device *device, sqf_cuda_info *out, sqf_error *err);
sqf_status cuda_allocate(sqf_cuda_device *device, size_t bytes, void **out, sqf_error *err);
void cuda_release(sqf_cuda_device *device, void *memory);
sqf_status cuda_upload(sqf_cuda_device *device, void *to, const void *from, size_t bytes, sqf_error *err);
sqf_status cuda_download(sqf_cuda_device *device, void *to, const void *from, size_t bytes, sqf_error *err);
sqf_status cuda_copy(sqf_cuda_device *device, void *to, const void *from, size_t bytes, sqf_error *err);
sqf_status cuda_clear(sqf_cuda_device *device, void *memory, size_t bytes, sqf_error *err);
sqf_status cuda_finish(sqf_cuda_device *device, sqf_error *err);
sqf_status cuda_graph_begin(sqf_cuda_device *device, sqf_error *err);
sqf_status cuda_graph_end(sqf_cuda_device *device, sqf_cuda_graph **out, sqf_error *err);
sqf_status cuda_graph_run(sqf_cuda_device *device, sqf_cuda_graph *graph, sqf_error *err);
void cuda_graph_destroy(sqf_cuda_device *device, sqf_cuda_graph *graph);
sqf_status cuda_mark(sqf_cuda_device *device, int which, sqf_error *err);
sqf_status cuda_elapsed(sqf_cuda_device *device, double *seconds, sqf_error *err);

sqf_status cuda_input_create(sqf_cuda_device *device, sqf_cuda_input **out, sqf_error *err);
void cuda_input_destroy(sqf_cuda_device *device, sqf_cuda_input *input);
sqf_status cuda_input_prepare(sqf_cuda_device *device, sqf_cuda_input *input, const sqf_cuda_linear *linear,
                              const float *x, const sqf_cuda_steps *steps, size_t tokens, sqf_error *err);
sqf_status cuda_input_dequantize(sqf_cuda_device *device, const sqf_cuda_input *input, float *out, sqf_error *err);
sqf_status cuda_apply_steps(sqf_cuda_device *device, const float *x, const sqf_cuda_steps *steps, size_t tokens,
                            size_t columns, float *out, sqf_error *err);

#endif

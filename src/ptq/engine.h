/* What computes the heavy steps of a quantization: passes of text through a layer, what they say of its inputs,
 * factors, rounding. One table of functions for the CPU, one for a device; the pipeline knows no other difference.
 * Masks, smoothing, corrections and rotations are computed by the CPU with both. */
#ifndef SQF_PTQ_ENGINE_H
#define SQF_PTQ_ENGINE_H

#include "model/layer.h"
#include "ptq/algorithm.h"

struct sqf_pipeline;
struct sqf_layer_work;

typedef struct sqf_engine {
    /* Once there are plan and calibration; close releases what the engine holds, also after a failure. */
    sqf_status (*open)(struct sqf_pipeline *pipeline, sqf_error *err);
    void (*close)(struct sqf_pipeline *pipeline);

    /* Makes a linear layer of `layer`, in place of the one that is there. What `dense` points to must live until it is
     * replaced, dropped or forgotten and may change before `begin`; nothing else is kept. */
    sqf_status (*linear)(struct sqf_pipeline *pipeline, sqf_layer *layer, sqf_linear_kind kind,
                         const sqf_linear_params *params, sqf_error *err);
    void (*drop)(struct sqf_pipeline *pipeline, sqf_layer *layer, sqf_linear_kind kind);
    /* Before a layer is cleared. */
    void (*forget)(struct sqf_pipeline *pipeline, const sqf_layer *layer);
    /* Before windows run through a layer: norms, rotation and weights are as they will be for all of them. */
    sqf_status (*begin)(struct sqf_pipeline *pipeline, const sqf_layer *layer, sqf_error *err);
    /* A window x [calibration length, hidden] goes through the layer in place; the tap sees memory of the host. */
    sqf_status (*run)(struct sqf_pipeline *pipeline, const sqf_layer *layer, float *x, const sqf_layer_tap *tap,
                      sqf_error *err);
    /* The same for the statistics of the layer's inputs in work->statistics; x is left alone. */
    sqf_status (*collect)(struct sqf_pipeline *pipeline, struct sqf_layer_work *work, const float *x, sqf_error *err);
    /* After the last window: the statistics of all inputs are complete. */
    sqf_status (*collected)(struct sqf_pipeline *pipeline, struct sqf_layer_work *work, sqf_error *err);

    /* sqf_factor_create */
    sqf_status (*factor)(struct sqf_pipeline *pipeline, const char *name, const float *hessian, size_t channel_count,
                         const int32_t *channels, double damping, sqf_factor *out, sqf_error *err);
    /* sqf_matrix_quantize */
    sqf_status (*quantize)(struct sqf_pipeline *pipeline, const sqf_matrix_job *job, sqf_matrix *out,
                           sqf_matrix_result *result, sqf_error *err);
} sqf_engine;

extern const sqf_engine sqf_engine_cpu, sqf_engine_device;

/* "input of model.layers.3.mlp.down_proj: " before the text of an error. */
sqf_status sqf_engine_fail_input(const struct sqf_layer_work *work, sqf_input_kind kind, sqf_status status,
                                 sqf_error *err);

/* engine_round.c: `quantize` of a device. `upper` is the factor in device memory, or NULL where the job's own is to be
 * sent there. */
sqf_status sqf_device_quantize(sqf_context *context, const sqf_matrix_job *job, const float *upper, sqf_matrix *out,
                               sqf_matrix_result *result, sqf_error *err);

#endif

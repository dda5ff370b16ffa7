/* A quantized decoder layer's modules in float again, in the quantized layer's own frame: smoothing factors, the order
 * of down_proj's channels and its rotation are those that the neighbours expect. */
#ifndef SQF_DIAGNOSE_SWAP_H
#define SQF_DIAGNOSE_SWAP_H

#include "model/model.h"

/* Zero-initialise; release with sqf_float_layer_clear, also after a failure. */
typedef struct sqf_float_layer {
    sqf_linear *linear[SQF_LINEAR_COUNT];
    float *weights[SQF_LINEAR_COUNT]; /* borrowed by the layers */
} sqf_float_layer;

/* Modules of layer `index` with the original's weights. smoothed: the inputs of o and down whose factors sit in rows of
 * v and up; those of norms are found in the norms. basis: [hidden, hidden] of the quantized model's residual stream, or
 * NULL. Values that are rotated are not followed: v and o then only go together, o unsmoothed. */
sqf_status sqf_float_layer_create(sqf_context *context, const sqf_model *original, const sqf_model *quantized,
                                  size_t index, const bool smoothed[SQF_INPUT_COUNT], const float *basis,
                                  sqf_float_layer *out, sqf_error *err);
void sqf_float_layer_clear(sqf_float_layer *layer);

/* The quantized weights of one module with its input in float: what is left of the damage is the weights'. */
sqf_status sqf_weights_alone_create(sqf_context *context, const sqf_model *quantized, size_t index,
                                    sqf_linear_kind kind, sqf_linear **out, sqf_error *err);

#endif

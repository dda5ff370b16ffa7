/* One decoder layer: its tensors, and its forward pass. Used whole by the model and one at a time by the quantization
 * pipeline, which needs to see the inputs of a layer (sqf_layer_tap) and never has more than one layer in memory. */
#ifndef SQF_MODEL_LAYER_H
#define SQF_MODEL_LAYER_H

#include "kernels/linear.h"
#include "model/checkpoint.h"
#include "model/kv_cache.h"

/* A layer that computes. Immutable once loaded; sessions share it. */
typedef struct sqf_layer {
    size_t index;
    sqf_linear *linear[SQF_LINEAR_COUNT];
    float *attention_norm, *mlp_norm; /* [hidden], owned */
    float *query_norm, *key_norm;     /* [head_dim] or NULL, owned */
    int32_t *down_order;              /* [intermediate] channel at each place of the DOWN input where down_proj's
                                         permutation was folded into gate and up; else NULL */
    void *owned[SQF_LINEAR_COUNT];    /* aligned copies of dense weights */
    sqf_rotation down_rotation;       /* of the DOWN input, before it is quantized; factor 0 = none */
} sqf_layer;

/* Loads one layer for computing: quantized modules repacked (down_proj's permutation folded into gate and up), into
 * `arena` or (NULL) blocks of their own; dense ones left in the mapping. Release with sqf_layer_clear, also after a
 * failure, and before the arena. */
sqf_status sqf_layer_load(const sqf_checkpoint *checkpoint, sqf_context *context, size_t index, sqf_arena *arena,
                          sqf_layer *out, sqf_error *err);
void sqf_layer_clear(sqf_layer *layer);

/* Where the linear layers of a decoder layer go as they are read. The parameters hold until it returns. `dense` is the
 * tensor where params->dense is given. */
typedef struct sqf_layer_sink {
    sqf_status (*linear)(void *user, sqf_linear_kind kind, const sqf_linear_params *params, const sqf_tensor *dense,
                         sqf_error *err);
    void *user;
} sqf_layer_sink;

/* The same for linear layers elsewhere: out->linear stays empty. */
sqf_status sqf_layer_read(const sqf_checkpoint *checkpoint, sqf_context *context, size_t index,
                          const sqf_layer_sink *sink, sqf_layer *out, sqf_error *err);

/* Called with each distinct input before it is quantized: x [tokens, channels]. A status other than SQF_OK stops. */
typedef struct sqf_layer_tap {
    sqf_status (*input)(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                        sqf_error *err);
    void *user;
    bool stops; /* the pass ends once `last` was seen; x and the cache then hold no meaningful values */
    sqf_input_kind last;
} sqf_layer_tap;

/* Scratch of a forward pass; grows and is reused. `config` is borrowed: the one of every layer that uses it. */
typedef struct sqf_workspace sqf_workspace;
sqf_status sqf_workspace_create(const sqf_config *config, sqf_workspace **out, sqf_error *err);
void sqf_workspace_destroy(sqf_workspace *workspace);

/* The tokens of one sequence in a pass: token t stands at position past + t, behind `past` positions of the cache. */
typedef struct sqf_layer_sequence {
    size_t tokens, past;
    sqf_kv_view kv;
} sqf_layer_sequence;

/* x [tokens of all sequences one behind the other, hidden] goes through the layer in place: linear layers read their
 * weights once for all tokens, attention runs by sequence. The rest as sqf_layer_forward. */
sqf_status sqf_layer_forward_all(sqf_context *context, const sqf_config *config, const sqf_layer *layer, float *x,
                                 const sqf_layer_sequence *sequences, size_t count, const sqf_layer_tap *tap,
                                 sqf_workspace *workspace, sqf_error *err);

/* x [tokens, hidden] of ONE sequence goes through the layer in place. Token t stands at position past + t.
 * kv: the layer's cache, with room for past + tokens positions; those from `past` on are written here.
 * tap may be NULL. Note for taps: a rotated DOWN input (layer->down_rotation) arrives rotated; where a permutation was
 * folded (layer->down_order), the DOWN input arrives in stored order. After a failure x holds no meaningful values. */
sqf_status sqf_layer_forward(sqf_context *context, const sqf_config *config, const sqf_layer *layer, float *x,
                             size_t tokens, size_t past, sqf_kv_view kv, const sqf_layer_tap *tap,
                             sqf_workspace *workspace, sqf_error *err);

#endif

/* One decoder layer: its tensors, and its forward pass. Used whole by the model and one at a time by the
 * quantization pipeline. */
#ifndef SQF_MODEL_LAYER_H
#define SQF_MODEL_LAYER_H

#include "io/safetensors.h"
#include "kernels/linear.h"
#include "model/config.h"

/* The linear layers of a decoder layer, in the order in which they compute. */
typedef enum sqf_linear_kind {
    SQF_LINEAR_Q = 0,
    SQF_LINEAR_K,
    SQF_LINEAR_V,
    SQF_LINEAR_O,
    SQF_LINEAR_GATE,
    SQF_LINEAR_UP,
    SQF_LINEAR_DOWN,
    SQF_LINEAR_COUNT
} sqf_linear_kind;

/* The distinct inputs of a decoder layer; q/k/v share one, gate/up share one. */
typedef enum sqf_input_kind {
    SQF_INPUT_QKV = 0,
    SQF_INPUT_O,
    SQF_INPUT_GATE_UP,
    SQF_INPUT_DOWN,
    SQF_INPUT_COUNT
} sqf_input_kind;

sqf_input_kind sqf_linear_input(sqf_linear_kind kind);
const char *sqf_linear_kind_name(sqf_linear_kind kind); /* "self_attn.q_proj" */
void sqf_linear_shape(const sqf_config *config, sqf_linear_kind kind, size_t *rows, size_t *columns);
bool sqf_linear_has_bias(const sqf_config *config, sqf_linear_kind kind);

/* Room for any module or tensor name of a decoder layer. */
enum { SQF_MODULE_NAME = 160 };
/* "model.layers.3.mlp.down_proj" */
void sqf_linear_name(size_t layer, sqf_linear_kind kind, char name[SQF_MODULE_NAME]);
/* "MODULE.SUFFIX"; MODULE of at most 100 bytes, as sqf_linear_name writes it. */
void sqf_tensor_name(const char *module, const char *suffix, char name[SQF_MODULE_NAME]);

/* An opened model directory: configuration, mapped tensors, schemes. Immutable. */
typedef struct sqf_checkpoint {
    char *directory;
    sqf_config config;
    json_t *config_json;
    sqf_tensors *tensors;
    sqf_module_schemes *schemes; /* NULL = nothing is quantized */
} sqf_checkpoint;

/* Opens a directory and checks that every tensor the configuration asks for is there with the right shape
 * and dtype (quantized ones included), and that nothing unknown of a decoder is (buffers named rotary_emb.inv_freq are
 * ignored). Hashes and contents are not read. Release with sqf_checkpoint_close, also after a failure. */
sqf_status sqf_checkpoint_open(const char *directory, sqf_checkpoint *out, sqf_error *err);
void sqf_checkpoint_close(sqf_checkpoint *checkpoint);

/* One tensor of a stored linear layer: "P." and the suffix. The one list that reader and writer share. */
typedef struct sqf_stored_part {
    const char *suffix, *dtype; /* "sq_low", "U8" */
    size_t dimensions, shape[2];
} sqf_stored_part;
enum { SQF_STORED_PARTS = SQF_MATRIX_PARTS + 3 };

#define SQF_PART_CHANNELS    "sq_channels"    /* I32 [K], static activation masks */
#define SQF_PART_ACT_SCALE   "sq_act_scale"   /* F32 [2], static activation scales: low, high */
#define SQF_PART_COLUMN_NORM "sq_column_norm" /* F32 [K], weighted dynamic masks */

/* The tensors of a quantized module of this scheme, biases left out. */
sqf_status sqf_stored_parts(const sqf_scheme *scheme, size_t rows, size_t columns,
                            sqf_stored_part parts[SQF_STORED_PARTS], size_t *count, sqf_error *err);

/* Columns of the low path: fewer than `columns` with a static mask alone. */
size_t sqf_scheme_border(const sqf_scheme *scheme, size_t columns);

/* A stored quantized module as a matrix that borrows the mapping; every row checked (in parallel), hashes verified.
 * static_scale, column_norm: borrowed or NULL. Release with sqf_stored_linear_clear (also after a failure). */
typedef struct sqf_stored_linear {
    sqf_scheme scheme;
    sqf_matrix matrix;
    const float *static_scale, *column_norm;
    void *owned[3]; /* copies of what was not aligned in the file */
} sqf_stored_linear;
sqf_status sqf_checkpoint_linear(const sqf_checkpoint *checkpoint, sqf_context *context, const char *module,
                                 size_t rows, size_t columns, sqf_stored_linear *out, sqf_error *err);
void sqf_stored_linear_clear(sqf_stored_linear *linear);

/* A dense tensor in the mapping, its hash verified and its values checked (in parallel): NaN and infinity are
 * SQF_E_VALUE naming tensor and position. BF16, F16 or F32. */
sqf_status sqf_checkpoint_dense(const sqf_checkpoint *checkpoint, sqf_context *context, const char *name, size_t rows,
                                size_t columns, const sqf_tensor **out, sqf_error *err);
sqf_type sqf_dtype_type(sqf_dtype dtype); /* BF16, F16, F32; SQF_TYPE_NONE for the others */

/* The same as a float32 copy, for free(). */
sqf_status sqf_checkpoint_floats(const sqf_checkpoint *checkpoint, const char *name, size_t rows, size_t columns,
                                 float **out, sqf_error *err);

/* A dense matrix as a layer: left in the mapping, or copied to *owned (for free()) where the file does not align it. */
sqf_status sqf_dense_linear(const sqf_checkpoint *checkpoint, sqf_context *context, const char *name, size_t rows,
                            size_t columns, const float *bias, sqf_linear **out, void **owned, sqf_error *err);

typedef struct sqf_layer {
    size_t index;
    sqf_linear *linear[SQF_LINEAR_COUNT];
    float *attention_norm, *mlp_norm; /* [hidden], owned */
    float *query_norm, *key_norm;     /* [head_dim] or NULL, owned */
    int32_t *down_order;              /* [intermediate] channel at each place of the DOWN input where down_proj's
                                         permutation was folded into gate and up; else NULL */
    void *owned[SQF_LINEAR_COUNT];    /* aligned copies of dense weights */
} sqf_layer;

/* Loads one layer for computing: quantized modules repacked (down_proj's permutation folded into gate and up),
 * dense ones left in the mapping. Release with sqf_layer_clear, also after a failure. */
sqf_status sqf_layer_load(const sqf_checkpoint *checkpoint, sqf_context *context, size_t index, sqf_layer *out,
                          sqf_error *err);
void sqf_layer_clear(sqf_layer *layer);

/* Called with each distinct input before it is quantized: x [tokens, channels]. A status other than SQF_OK stops. */
typedef struct sqf_layer_tap {
    sqf_status (*input)(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                        sqf_error *err);
    void *user;
} sqf_layer_tap;

/* Scratch of a forward pass; grows and is reused. `config` is borrowed: the one of every layer that uses it. */
typedef struct sqf_workspace sqf_workspace;
sqf_status sqf_workspace_create(const sqf_config *config, sqf_workspace **out, sqf_error *err);
void sqf_workspace_destroy(sqf_workspace *workspace);

/* x [tokens, hidden] of ONE sequence goes through the layer in place. Token t stands at position past + t.
 * key, value [past + tokens, kv_heads * head_dim]: the layer's cache; rows `past` and up are written here.
 * tap may be NULL. Note for taps: where a permutation was folded (layer->down_order), the DOWN input arrives in stored
 * order. After a failure x holds no meaningful values. */
sqf_status sqf_layer_forward(sqf_context *context, const sqf_config *config, const sqf_layer *layer, float *x,
                             size_t tokens, size_t past, float *key, float *value, const sqf_layer_tap *tap,
                             sqf_workspace *workspace, sqf_error *err);

#endif

/* The linear layers of a decoder layer as the checkpoint knows them: kinds, inputs, shapes, names. Facts that follow
 * from the configuration alone; the one place that knows how Hugging Face names the modules of these families. */
#ifndef SQF_MODEL_MODULES_H
#define SQF_MODEL_MODULES_H

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

/* The distinct inputs of a decoder layer; q/k/v share one, gate/up share one. Layers with one input have one channel
 * list (docs/format.md section 5) and are calibrated from the same statistics. */
typedef enum sqf_input_kind {
    SQF_INPUT_QKV = 0,
    SQF_INPUT_O,
    SQF_INPUT_GATE_UP,
    SQF_INPUT_DOWN,
    SQF_INPUT_COUNT
} sqf_input_kind;

sqf_input_kind sqf_linear_input(sqf_linear_kind kind);
const char *sqf_linear_kind_name(sqf_linear_kind kind); /* "self_attn.q_proj" */
/* The weights' shape: rows N (outputs), columns K (inputs). */
void sqf_linear_shape(const sqf_config *config, sqf_linear_kind kind, size_t *rows, size_t *columns);
bool sqf_linear_has_bias(const sqf_config *config, sqf_linear_kind kind);

/* The two matrices [vocabulary, hidden] of a model. Where embeddings are tied the first is both. */
#define SQF_MODULE_EMBEDDING "model.embed_tokens"
#define SQF_MODULE_OUTPUT    "lm_head"
/* The module whose matrix makes the logits. */
const char *sqf_output_module(const sqf_config *config);

/* Room for any module or tensor name of a decoder layer: MODULE (100) "." SUFFIX (50) and a NUL, rounded up. Tensors
 * that are not ours may have longer names (SQF_TENSOR_NAME). */
enum { SQF_MODULE_NAME = 160 };
/* "model.layers.3.mlp.down_proj" */
void sqf_linear_name(size_t layer, sqf_linear_kind kind, char name[SQF_MODULE_NAME]);
/* "MODULE.SUFFIX"; MODULE of at most 100 bytes, as sqf_linear_name writes it. */
void sqf_tensor_name(const char *module, const char *suffix, char name[SQF_MODULE_NAME]);

#endif

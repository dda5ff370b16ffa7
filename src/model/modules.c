/* Names, inputs and shapes of a decoder's linear layers: tables in the order of sqf_linear_kind. */
#include "model/modules.h"

#include <stdio.h>

sqf_input_kind sqf_linear_input(sqf_linear_kind kind)
{
    switch (kind) {
    case SQF_LINEAR_O: return SQF_INPUT_O;
    case SQF_LINEAR_GATE:
    case SQF_LINEAR_UP: return SQF_INPUT_GATE_UP;
    case SQF_LINEAR_DOWN: return SQF_INPUT_DOWN;
    default: return SQF_INPUT_QKV;
    }
}

const char *sqf_linear_kind_name(sqf_linear_kind kind)
{
    static const char *const names[SQF_LINEAR_COUNT] = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
    };
    return names[kind];
}

void sqf_linear_shape(const sqf_config *config, sqf_linear_kind kind, size_t *rows, size_t *columns)
{
    const size_t query = config->heads * config->head_dim, key = config->kv_heads * config->head_dim;
    const size_t shapes[SQF_LINEAR_COUNT][2] = {
        {query, config->hidden},
        {key, config->hidden},
        {key, config->hidden},
        {config->hidden, query},
        {config->intermediate, config->hidden},
        {config->intermediate, config->hidden},
        {config->hidden, config->intermediate},
    };
    *rows = shapes[kind][0];
    *columns = shapes[kind][1];
}

bool sqf_linear_has_bias(const sqf_config *config, sqf_linear_kind kind)
{
    switch (sqf_linear_input(kind)) {
    case SQF_INPUT_QKV: return config->qkv_bias;
    case SQF_INPUT_O: return config->output_bias;
    default: return config->mlp_bias;
    }
}

const char *sqf_output_module(const sqf_config *config)
{
    return config->tied ? SQF_MODULE_EMBEDDING : SQF_MODULE_OUTPUT;
}

void sqf_linear_name(size_t layer, sqf_linear_kind kind, char name[SQF_MODULE_NAME])
{
    snprintf(name, SQF_MODULE_NAME, "model.layers.%zu.%s", layer, sqf_linear_kind_name(kind));
}

void sqf_tensor_name(const char *module, const char *suffix, char name[SQF_MODULE_NAME])
{
    snprintf(name, SQF_MODULE_NAME, "%.100s.%.50s", module, suffix);
}

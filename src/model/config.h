/* What config.json says about a decoder: sizes, rope, windows, biases. Everything is checked and bounded here. */
#ifndef SQF_MODEL_CONFIG_H
#define SQF_MODEL_CONFIG_H

#include <sqf/format.h>

#include "base/json.h"

typedef enum sqf_rope_kind { SQF_ROPE_DEFAULT = 0, SQF_ROPE_LINEAR, SQF_ROPE_LLAMA3 } sqf_rope_kind;

/* How one architecture differs from another: a row of the table in config.c. */
typedef struct sqf_architecture {
    const char *name;       /* "LlamaForCausalLM" */
    const char *model_type; /* "llama" */
    bool qkv_bias;          /* default where config.json does not say (attention_bias) */
    bool query_key_norm;    /* RMSNorm over each head of q and k before rope */
    bool sliding_window;    /* config.json's sliding_window is honoured */
    bool window_by_layer;   /* Qwen2, Qwen3: use_sliding_window and max_window_layers */
} sqf_architecture;

typedef struct sqf_config {
    const sqf_architecture *architecture;
    size_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, positions;
    float norm_epsilon;
    double rope_theta;
    sqf_rope_kind rope_kind;
    double rope_factor, rope_low_frequency, rope_high_frequency, rope_original_positions;
    size_t window;              /* 0 = none */
    size_t first_window_layer;  /* layers before it see everything */
    bool tied;                  /* output matrix is the embedding */
    bool qkv_bias, output_bias, mlp_bias;
    uint32_t bos;               /* UINT32_MAX = none */
    bool quantized;             /* has a quantization_config of ours */
} sqf_config;

/* Reads a directory's config.json. `json` (may be NULL) receives the parsed file for the caller to json_decref. */
sqf_status sqf_config_load(const char *directory, sqf_config *out, json_t **json, sqf_error *err);

/* Sliding window of a layer; 0 = none. */
size_t sqf_config_window(const sqf_config *config, size_t layer);

/* cosine, sine [count, head_dim / 2] for the positions first .. first + count - 1. */
void sqf_config_rope(const sqf_config *config, size_t first, size_t count, float *cosine, float *sine);

/* quantization_config: which scheme a module has. */
typedef struct sqf_module_schemes sqf_module_schemes;
sqf_status sqf_module_schemes_load(const json_t *config_json, const char *where, sqf_module_schemes **out,
                                   sqf_error *err); /* *out = NULL without quantization_config */
void sqf_module_schemes_destroy(sqf_module_schemes *schemes);
/* The scheme of "model.layers.0.self_attn.q_proj"; dense BF16 for ignored modules and NULL schemes. */
sqf_scheme sqf_module_schemes_get(const sqf_module_schemes *schemes, const char *module);
const json_t *sqf_module_schemes_json(const sqf_module_schemes *schemes); /* borrowed */

#endif

/* What config.json says about a decoder: sizes, rope, windows, biases. Everything is checked and bounded here, once;
 * code that takes an sqf_config relies on it. Also quantization_config, which says what scheme each module is stored
 * in. */
#ifndef SQF_MODEL_CONFIG_H
#define SQF_MODEL_CONFIG_H

#include <sqf/format.h>

#include "base/json.h"

typedef enum sqf_rope_kind { SQF_ROPE_DEFAULT = 0, SQF_ROPE_LINEAR, SQF_ROPE_LLAMA3 } sqf_rope_kind;

/* How one architecture differs from another: a row of the table in config.c. */
typedef struct sqf_architecture {
    const char *name;         /* "LlamaForCausalLM" */
    const char *model_type;   /* "llama" */
    bool qkv_bias;            /* q, k and v have biases whatever config.json says (Qwen2) */
    bool attention_bias;      /* config.json's attention_bias is honoured: biases on q, k, v and o */
    bool mlp_bias;            /* config.json's mlp_bias is honoured */
    bool query_key_norm;      /* RMSNorm over each head of q and k before rope */
    bool sliding_window;      /* config.json's sliding_window is honoured */
    bool window_by_layer;     /* Qwen2, Qwen3: use_sliding_window and max_window_layers */
    size_t default_window;    /* where config.json has no member sliding_window; 0 = none */
    size_t default_head_dim;  /* where it has no head_dim; 0 = hidden / heads */
    size_t default_positions; /* where it has no max_position_embeddings */
} sqf_architecture;

/* Bounds on what a configuration may ask for; far above every published model of these families. */
enum { SQF_LAYERS_MAX = 1024, SQF_WIDTH_MAX = 1 << 22, SQF_VOCABULARY_MAX = 1 << 24, SQF_POSITIONS_MAX = 1 << 28 };

/* The configuration of one model; plain data, no pointers but the table row. Letters of docs/format.md: widths are N
 * and K of the linear layers. */
typedef struct sqf_config {
    const sqf_architecture *architecture;
    size_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, positions;
    float norm_epsilon;
    double rope_theta;
    sqf_rope_kind rope_kind;
    double rope_factor, rope_low_frequency, rope_high_frequency, rope_original_positions;
    size_t window;                             /* 0 = none; sqf_config_window says for which layers */
    uint8_t window_layers[SQF_LAYERS_MAX / 8]; /* bit i % 8 of byte i / 8: layer i sees the window alone */
    bool tied;                                 /* output matrix is the embedding */
    bool qkv_bias, output_bias, mlp_bias;
    uint32_t bos;   /* UINT32_MAX = none */
    bool quantized; /* has a quantization_config of ours */
} sqf_config;

/* The largest config.json or generation_config.json that is read: overrides name every module at most. */
enum { SQF_CONFIG_LIMIT = 64 << 20 };

/* Reads a directory's config.json. `json` (may be NULL) receives the parsed file for the caller to json_decref.
 * SQF_E_SUPPORT names an architecture, rope type, activation function or other member that changes the computation in
 * a way that is not known here; SQF_E_FORMAT a member that is absent, of another type or out of bounds. */
sqf_status sqf_config_load(const char *directory, sqf_config *out, json_t **json, sqf_error *err);

/* The same from the parsed file; `where` is its name in messages. */
sqf_status sqf_config_parse(const json_t *json, const char *where, sqf_config *out, sqf_error *err);

/* Sliding window of a layer; 0 = none. */
size_t sqf_config_window(const sqf_config *config, size_t layer);

/* rope_scaling and rope_parameters; called by sqf_config_parse. */
sqf_status sqf_config_parse_rope(const json_t *json, const char *where, sqf_config *config, sqf_error *err);

/* cosine, sine [count, head_dim / 2] for the positions first .. first + count - 1. Angles are rounded to float32 as in
 * Hugging Face's code: models were trained with them. */
void sqf_config_rope(const sqf_config *config, size_t first, size_t count, float *cosine, float *sine);

/* quantization_config (docs/format.md section 7): which scheme a module has. Immutable after loading; NULL stands for
 * a model in which nothing is quantized, in every function below. */
typedef struct sqf_module_schemes sqf_module_schemes;
sqf_status sqf_module_schemes_load(const json_t *config_json, const char *where, sqf_module_schemes **out,
                                   sqf_error *err); /* *out = NULL without quantization_config */
void sqf_module_schemes_destroy(sqf_module_schemes *schemes);
/* The scheme of "model.layers.0.self_attn.q_proj"; dense BF16 for ignored modules and NULL schemes, and for the output
 * matrix and the embedding unless they are named. */
sqf_scheme sqf_module_schemes_get(const sqf_module_schemes *schemes, const char *module);
/* The scheme that modules have which are not named; dense BF16 for NULL schemes. */
sqf_scheme sqf_module_schemes_main(const sqf_module_schemes *schemes);
/* Fails (SQF_E_FORMAT) for the first module named by overrides or ignore that `known` denies. */
sqf_status sqf_module_schemes_check(const sqf_module_schemes *schemes,
                                    bool (*known)(const void *user, const char *name), const void *user,
                                    sqf_error *err);
/* The member "rotation": which bases the weights are in (names for people, "off" where there is none), and what a
 * reader must do: rotate down_proj's input. Names are borrowed. */
typedef struct sqf_rotation_spec {
    const char *residual, *values, *down;
    size_t down_factor; /* docs/format.md section 8; 0 = nothing at run time */
    bool down_mixed;    /* there is a dense factor: its order is above 1 and `down` is not "blocks" */
} sqf_rotation_spec;
sqf_rotation_spec sqf_module_schemes_rotation(const sqf_module_schemes *schemes);
const json_t *sqf_module_schemes_json(const sqf_module_schemes *schemes); /* borrowed */

#endif

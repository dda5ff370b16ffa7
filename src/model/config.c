/* config.json: one table of architectures, one of members that nothing here knows how to compute, and bounds.
 *
 * A configuration is a promise about a computation, and most members of a file change it. What is read here is
 * computed; what is known to change other families' computations is refused by name (`foreign`) unless it says "off";
 * the rest (names, dtypes, training settings, caches) does not matter. A new family is a row of the first table if
 * its differences fit the columns.
 *
 * Every number has a bound, so that products of two of them fit a size_t and an allocation that fails does so for
 * lack of memory and not by overflow. */
#include "model/config.h"

#include <math.h>
#include <string.h>

#include "base/file.h"

/* Defaults are those of the configuration classes of Hugging Face's transformers. */
static const sqf_architecture architectures[] = {
    {.name = "LlamaForCausalLM",
     .model_type = "llama",
     .attention_bias = true,
     .mlp_bias = true,
     .default_positions = 2048},
    {.name = "MistralForCausalLM",
     .model_type = "mistral",
     .sliding_window = true,
     .default_window = 4096,
     .default_positions = 131072},
    {.name = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .qkv_bias = true,
     .sliding_window = true,
     .window_by_layer = true,
     .default_window = 4096,
     .default_positions = 32768},
    {.name = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .attention_bias = true,
     .query_key_norm = true,
     .sliding_window = true,
     .window_by_layer = true,
     .default_window = 4096,
     .default_head_dim = 128,
     .default_positions = 32768},
};
enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };

/* Members that change the computation, known from other families, with the one number that changes nothing (false, null
 * and empty change nothing either). NAN: no number is harmless. */
static const struct {
    const char *key;
    double neutral;
} foreign[] = {
    {"partial_rotary_factor", 1},
    {"rotary_pct", 1},
    {"rope_interleaved", NAN},
    {"attn_logit_softcapping", NAN},
    {"final_logit_softcapping", NAN},
    {"logit_scale", 1},
    {"logits_scaling", 1},
    {"embedding_multiplier", 1},
    {"residual_multiplier", 1},
    {"attention_multiplier", NAN},
    {"query_pre_attn_scalar", NAN},
    {"scale_emb", 1},
    {"scale_depth", NAN},
    {"dim_model_base", NAN},
    {"clip_qkv", NAN},
    {"use_qk_norm", NAN},
    {"qk_layernorm", NAN},
    {"use_mrope", NAN},
    {"mrope_section", NAN},
    {"num_experts", 0},
    {"num_local_experts", 0},
    {"n_routed_experts", 0},
    {"moe_intermediate_size", 0},
    {"no_rope_layers", NAN},
    {"attention_chunk_size", NAN},
    {"kv_lora_rank", NAN},
    {"q_lora_rank", NAN},
    {"is_encoder_decoder", NAN},
    {"add_cross_attention", NAN},
    {"vision_config", NAN},
    {"text_config", NAN},
    {"audio_config", NAN},
    {"parallel_attn", NAN},
    {"use_parallel_residual", NAN},
    {"alibi", NAN},
    {"attention_sinks", NAN},
    {"per_layer_config", NAN},
    {"compression_config", NAN},
};
enum { FOREIGN = sizeof foreign / sizeof *foreign };

/* True if the value says "off". */
static bool is_neutral(const json_t *value, double neutral)
{
    switch (json_typeof(value)) {
    case JSON_NULL:
    case JSON_FALSE: return true;
    case JSON_INTEGER:
    case JSON_REAL: return json_number_value(value) == neutral;
    case JSON_ARRAY: return json_array_size(value) == 0;
    case JSON_OBJECT: return json_object_size(value) == 0;
    default: return false;
    }
}

/* SQF_E_SUPPORT naming the first member that would change the computation. */
static sqf_status refuse_foreign(const json_t *json, const char *where, sqf_error *err)
{
    for (size_t i = 0; i < FOREIGN; i++) {
        const json_t *value = json_object_get(json, foreign[i].key);
        if (value && !is_neutral(value, foreign[i].neutral)) {
            return sqf_fail(err, SQF_E_SUPPORT, "%s: %s: it changes the computation in a way that is not supported",
                            where, foreign[i].key);
        }
    }
    return SQF_OK;
}

/* By class name, or by model_type where there is none. NULL if it is no family of the table. */
static const sqf_architecture *find_architecture(const char *name, const char *model_type)
{
    for (size_t i = 0; i < ARCHITECTURES; i++) {
        const bool found = name ? strcmp(architectures[i].name, name) == 0
                                : model_type && strcmp(architectures[i].model_type, model_type) == 0;
        if (found) {
            return &architectures[i];
        }
    }
    return NULL;
}

/* `architectures` decides; model_type must agree, and stands in where there is no list. */
static sqf_status read_architecture(const json_t *json, const char *where, sqf_config *config, sqf_error *err)
{
    json_t *list;
    const char *model_type = NULL, *name = NULL;
    SQF_TRY(sqf_json_string_find(json, "model_type", where, &model_type, err));
    SQF_TRY(sqf_json_member_find(json, "architectures", JSON_ARRAY, where, &list, err));
    if (list) {
        name = json_string_value(json_array_get(list, 0));
        if (json_array_size(list) != 1 || !name) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: architectures: expected a list of one name, found %zu members",
                            where, json_array_size(list));
        }
    }
    config->architecture = find_architecture(name, model_type);
    if (!config->architecture) {
        return sqf_fail(err, SQF_E_SUPPORT,
                        "%s: %s: expected LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM, "
                        "found %.80s",
                        where, name ? "architectures" : "model_type",
                        name         ? name
                        : model_type ? model_type
                                     : "nothing");
    }
    if (model_type && strcmp(model_type, config->architecture->model_type) != 0) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: model_type: expected %s for %s, found %.80s", where,
                        config->architecture->model_type, config->architecture->name, model_type);
    }
    return SQF_OK;
}

/* heads, kv_heads, head_dim. Their products are widths of tensors and bounded like the other widths. */
static sqf_status read_heads(const json_t *json, const char *where, sqf_config *config, sqf_error *err)
{
    SQF_TRY(sqf_json_size(json, "num_attention_heads", 1, SQF_WIDTH_MAX, where, &config->heads, err));
    config->kv_heads = config->heads;
    SQF_TRY(sqf_json_size_find(json, "num_key_value_heads", 1, SQF_WIDTH_MAX, where, &config->kv_heads, err));
    if (config->heads % config->kv_heads != 0) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: num_key_value_heads: expected a divisor of %zu, found %zu", where,
                        config->heads, config->kv_heads);
    }
    config->head_dim = config->architecture->default_head_dim;
    SQF_TRY(sqf_json_size_find(json, "head_dim", 1, SQF_WIDTH_MAX, where, &config->head_dim, err));
    if (config->head_dim == 0) {
        if (config->hidden % config->heads != 0) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: hidden_size: expected a multiple of %zu heads, found %zu", where,
                            config->heads, config->hidden);
        }
        config->head_dim = config->hidden / config->heads;
    }
    /* rotary embedding turns pairs */
    if (config->head_dim % 2 != 0) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: head_dim: expected an even number, found %zu", where, config->head_dim);
    }
    size_t width;
    if (!sqf_mul_size(&width, config->heads, config->head_dim) || width > SQF_WIDTH_MAX) {
        return sqf_fail(err, SQF_E_FORMAT,
                        "%s: num_attention_heads times head_dim: expected at most %d, found %zu x %zu", where,
                        SQF_WIDTH_MAX, config->heads, config->head_dim);
    }
    return SQF_OK;
}

/* The widths and counts that fix every tensor's shape; four are required, the others have the family's defaults. */
static sqf_status read_sizes(const json_t *json, const char *where, sqf_config *config, sqf_error *err)
{
    double epsilon = 1e-6;
    SQF_TRY(sqf_json_size(json, "hidden_size", 1, SQF_WIDTH_MAX, where, &config->hidden, err));
    SQF_TRY(sqf_json_size(json, "intermediate_size", 1, SQF_WIDTH_MAX, where, &config->intermediate, err));
    SQF_TRY(sqf_json_size(json, "num_hidden_layers", 1, SQF_LAYERS_MAX, where, &config->layers, err));
    SQF_TRY(sqf_json_size(json, "vocab_size", 1, SQF_VOCABULARY_MAX, where, &config->vocabulary, err));
    config->positions = config->architecture->default_positions;
    SQF_TRY(sqf_json_size_find(json, "max_position_embeddings", 1, SQF_POSITIONS_MAX, where, &config->positions, err));
    SQF_TRY(sqf_json_real_find(json, "rms_norm_eps", 1e-20, 1, where, &epsilon, err));
    config->norm_epsilon = (float)epsilon;
    return read_heads(json, where, config, err);
}

/* The MLP is silu(gate) * up; nothing else is implemented. */
static sqf_status check_activation(const json_t *json, const char *where, sqf_error *err)
{
    const char *name = "silu";
    SQF_TRY(sqf_json_string_find(json, "hidden_act", where, &name, err));
    if (strcmp(name, "silu") != 0 && strcmp(name, "swish") != 0) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: hidden_act: expected silu, found %.80s", where, name);
    }
    return SQF_OK;
}

/* A bias that an architecture's code never has must not be asked for. `honoured`: the family's code looks at this
 * member; `fixed`: what it does where the member is absent or not honoured. */
static sqf_status read_bias(const json_t *json, const char *where, const char *key, bool honoured, bool fixed,
                            bool *out, sqf_error *err)
{
    bool value = fixed;
    SQF_TRY(sqf_json_bool_find(json, key, where, &value, err));
    if (!honoured && value != fixed) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: %s: expected %s for this architecture, found %s", where, key,
                        fixed ? "true" : "false", value ? "true" : "false");
    }
    *out = value;
    return SQF_OK;
}

/* output_bias is apart from qkv_bias because Qwen2 has biases on q, k and v but never on o, and Llama's
 * attention_bias means all four. */
static sqf_status read_biases(const json_t *json, const char *where, sqf_config *config, sqf_error *err)
{
    const sqf_architecture *family = config->architecture;
    SQF_TRY(read_bias(json, where, "attention_bias", family->attention_bias, family->qkv_bias, &config->qkv_bias, err));
    config->output_bias = config->qkv_bias && !family->qkv_bias;
    return read_bias(json, where, "mlp_bias", family->mlp_bias, false, &config->mlp_bias, err);
}

static void set_window(sqf_config *config, size_t layer)
{
    config->window_layers[layer / 8] = (uint8_t)(config->window_layers[layer / 8] | 1u << layer % 8);
}

size_t sqf_config_window(const sqf_config *config, size_t layer)
{
    return (config->window_layers[layer / 8] >> layer % 8 & 1) != 0 ? config->window : 0;
}

/* layer_types, the newer spelling: one name a layer. */
static sqf_status read_layer_types(const json_t *types, const char *where, sqf_config *config, sqf_error *err)
{
    if (json_array_size(types) != config->layers) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: layer_types: expected %zu names, found %zu", where, config->layers,
                        json_array_size(types));
    }
    for (size_t i = 0; i < config->layers; i++) {
        const char *name = json_string_value(json_array_get(types, i));
        const bool sliding = name && strcmp(name, "sliding_attention") == 0;
        if (!sliding && (!name || strcmp(name, "full_attention") != 0)) {
            return sqf_fail(err, SQF_E_SUPPORT,
                            "%s: layer_types: expected full_attention or sliding_attention, found %.80s", where,
                            name ? name : "no string");
        }
        if (sliding && config->window == 0) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: layer_types: layer %zu: sliding_attention without a sliding_window",
                            where, i);
        }
        if (sliding) {
            set_window(config, i);
        }
    }
    return SQF_OK;
}

/* First layer that sees the window alone (Qwen); config->window becomes 0 where windows are switched off. */
static sqf_status read_window_switch(const json_t *json, const char *where, sqf_config *config, size_t *first,
                                     sqf_error *err)
{
    bool use = false;
    SQF_TRY(sqf_json_bool_find(json, "use_sliding_window", where, &use, err));
    *first = 28; /* the default of both Qwen classes */
    SQF_TRY(sqf_json_size_find(json, "max_window_layers", 0, SQF_WIDTH_MAX, where, first, err));
    if (!use) {
        config->window = 0;
    }
    return SQF_OK;
}

/* Which layers see only the last `window` positions. Three generations of spelling: one window for all layers
 * (Mistral), from a layer on with a switch (Qwen2), and a list by layer (layer_types), which wins. */
static sqf_status read_windows(const json_t *json, const char *where, sqf_config *config, sqf_error *err)
{
    const sqf_architecture *family = config->architecture;
    size_t first = 0;
    json_t *types;
    if (family->sliding_window) {
        /* null says that there is no window; an absent member says the default */
        config->window = json_object_get(json, "sliding_window") ? 0 : family->default_window;
        SQF_TRY(sqf_json_size_find(json, "sliding_window", 1, SQF_POSITIONS_MAX, where, &config->window, err));
    }
    if (family->window_by_layer) {
        SQF_TRY(read_window_switch(json, where, config, &first, err));
    }
    SQF_TRY(sqf_json_member_find(json, "layer_types", JSON_ARRAY, where, &types, err));
    if (types) {
        return read_layer_types(types, where, config, err);
    }
    for (size_t i = first; config->window > 0 && i < config->layers; i++) {
        set_window(config, i);
    }
    return SQF_OK;
}

sqf_status sqf_config_parse(const json_t *json, const char *where, sqf_config *out, sqf_error *err)
{
    /* zero is the default of every other member that may be absent */
    *out = (sqf_config){.bos = UINT32_MAX};
    if (!json_is_object(json)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: expected a JSON object", where);
    }
    /* first, because everything after it depends on the family's defaults */
    SQF_TRY(read_architecture(json, where, out, err));
    SQF_TRY(refuse_foreign(json, where, err));
    SQF_TRY(read_sizes(json, where, out, err));
    SQF_TRY(check_activation(json, where, err));
    SQF_TRY(read_biases(json, where, out, err));
    SQF_TRY(read_windows(json, where, out, err));
    SQF_TRY(sqf_config_parse_rope(json, where, out, err));
    SQF_TRY(sqf_json_bool_find(json, "tie_word_embeddings", where, &out->tied, err));
    size_t bos = UINT32_MAX;
    SQF_TRY(sqf_json_size_find(json, "bos_token_id", 0, SQF_VOCABULARY_MAX, where, &bos, err));
    out->bos = (uint32_t)bos;
    /* only whether there is one; schemes.c reads it */
    const json_t *quantization = json_object_get(json, "quantization_config");
    out->quantized = quantization && !json_is_null(quantization);
    return SQF_OK;
}

/* The parsed file is handed out because schemes and end ids stand in it too, and copied to a quantized model. */
sqf_status sqf_config_load(const char *directory, sqf_config *out, json_t **json, sqf_error *err)
{
    char *path;
    json_t *parsed = NULL;
    if (json) {
        *json = NULL;
    }
    SQF_TRY(sqf_path_join(&path, directory, "config.json", err));
    sqf_status status = sqf_json_load(path, SQF_CONFIG_LIMIT, &parsed, err);
    if (status == SQF_OK) {
        status = sqf_config_parse(parsed, path, out, err);
    }
    free(path);
    if (status == SQF_OK && json) {
        *json = parsed;
    } else {
        json_decref(parsed);
    }
    return status;
}

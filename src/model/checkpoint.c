/* A model directory: configuration, tensors and schemes that agree with each other. Opening one is cheap (files are
 * mapped, headers read) and final: afterwards every tensor that the configuration asks for is known to be there with
 * its shape and dtype, so that loading, counting and inspecting need not look again. Contents are stored.c's
 * business.
 *
 * The survey also goes the other way: a tensor of the decoder that nothing asks for is an error, because it means
 * that the model computes something that we would leave out. */
#include <string.h>

#include "model/checkpoint.h"

void sqf_checkpoint_close(sqf_checkpoint *checkpoint)
{
    if (checkpoint) {
        free(checkpoint->directory);
        json_decref(checkpoint->config_json);
        sqf_tensors_close(checkpoint->tensors);
        sqf_module_schemes_destroy(checkpoint->schemes);
        *checkpoint = (sqf_checkpoint){0};
    }
}

/* What of the file is accounted for, by index of the tensor. */
typedef struct survey {
    const sqf_checkpoint *checkpoint;
    bool *known;
} survey;

/* `tensor` must come from the checkpoint's own list: its place in that list is its index. */
static void mark(const survey *s, const sqf_tensor *tensor)
{
    s->known[tensor - sqf_tensors_at(s->checkpoint->tensors, 0)] = true;
}

static sqf_status expect_dense(const survey *s, const char *name, size_t rows, size_t columns, sqf_error *err)
{
    const sqf_tensor *tensor;
    SQF_TRY(sqf_checkpoint_find_dense(s->checkpoint, name, rows, columns, &tensor, err));
    mark(s, tensor);
    return SQF_OK;
}

static sqf_status expect_part(const survey *s, const char *module, const sqf_stored_part *part, sqf_error *err)
{
    const sqf_tensor *tensor;
    SQF_TRY(sqf_checkpoint_find_part(s->checkpoint, module, part, &tensor, err));
    mark(s, tensor);
    return SQF_OK;
}

/* A module's weights, dense or in the parts that its scheme calls for. */
static sqf_status expect_weights(const survey *s, const char *module, size_t rows, size_t columns, sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    size_t count;
    sqf_stored_part parts[SQF_STORED_PARTS];
    const sqf_scheme scheme = sqf_module_schemes_get(s->checkpoint->schemes, module);
    if (sqf_weight_spec_is_dense(&scheme.weights)) {
        sqf_tensor_name(module, "weight", name);
        return expect_dense(s, name, rows, columns, err);
    }
    SQF_TRY(sqf_stored_parts(&scheme, rows, columns, parts, &count, err));
    for (size_t i = 0; i < count; i++) {
        SQF_TRY(expect_part(s, module, &parts[i], err));
    }
    return SQF_OK;
}

/* The tensors of one linear layer: its weights and its bias. */
static sqf_status expect_linear(const survey *s, size_t layer, sqf_linear_kind kind, sqf_error *err)
{
    char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
    size_t rows, columns;
    sqf_linear_name(layer, kind, module);
    sqf_linear_shape(&s->checkpoint->config, kind, &rows, &columns);
    SQF_TRY(expect_weights(s, module, rows, columns, err));
    if (!sqf_linear_has_bias(&s->checkpoint->config, kind)) {
        return SQF_OK;
    }
    sqf_tensor_name(module, "bias", name);
    return expect_dense(s, name, rows, 0, err);
}

static sqf_status expect_norm(const survey *s, size_t layer, const char *norm, size_t n, sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, norm);
    return expect_dense(s, name, n, 0, err);
}

/* The factor of the rotation before down_proj, where there is one. */
static sqf_status expect_rotation(const survey *s, size_t layer, sqf_error *err)
{
    const sqf_rotation_spec rotation = sqf_module_schemes_rotation(s->checkpoint->schemes);
    char module[SQF_MODULE_NAME];
    if (!rotation.down_mixed) {
        return SQF_OK;
    }
    const sqf_stored_part part = sqf_down_rotation_part(rotation.down_factor);
    sqf_mlp_name(layer, module);
    return expect_part(s, module, &part, err);
}

static sqf_status expect_layer(const survey *s, size_t layer, sqf_error *err)
{
    const sqf_config *config = &s->checkpoint->config;
    SQF_TRY(expect_rotation(s, layer, err));
    SQF_TRY(expect_norm(s, layer, "input_layernorm", config->hidden, err));
    SQF_TRY(expect_norm(s, layer, "post_attention_layernorm", config->hidden, err));
    if (config->architecture->query_key_norm) {
        SQF_TRY(expect_norm(s, layer, "self_attn.q_norm", config->head_dim, err));
        SQF_TRY(expect_norm(s, layer, "self_attn.k_norm", config->head_dim, err));
    }
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        SQF_TRY(expect_linear(s, layer, (sqf_linear_kind)kind, err));
    }
    return SQF_OK;
}

static bool ends_with(const char *text, const char *suffix)
{
    const size_t length = strlen(text), tail = strlen(suffix);
    return length >= tail && strcmp(text + length - tail, suffix) == 0;
}

/* A tensor of the decoder that the configuration does not account for would be left out of the computation. Tensors
 * of other names (a vision tower, an optimizer's state) change nothing here. inv_freq is a buffer that older
 * checkpoints carry; it follows from the configuration. */
static sqf_status refuse_unknown(const survey *s, sqf_error *err)
{
    for (size_t i = 0; i < sqf_tensors_count(s->checkpoint->tensors); i++) {
        const sqf_tensor *tensor = sqf_tensors_at(s->checkpoint->tensors, i);
        const bool ours = strncmp(tensor->name, "model.", 6) == 0 || strncmp(tensor->name, "lm_head.", 8) == 0;
        if (!s->known[i] && ours && !ends_with(tensor->name, ".rotary_emb.inv_freq")) {
            return sqf_fail(
                err, SQF_E_FORMAT, "%s: tensor %s: expected none of this name for the configuration (%s, %zu layers)",
                tensor->file, tensor->name, s->checkpoint->config.architecture->name, s->checkpoint->config.layers);
        }
    }
    return SQF_OK;
}

/* Everything that the configuration asks for, in the order of the computation. A tied model may still store lm_head:
 * it is checked and not used. */
static sqf_status survey_tensors(const survey *s, sqf_error *err)
{
    const sqf_config *config = &s->checkpoint->config;
    SQF_TRY(expect_weights(s, SQF_MODULE_EMBEDDING, config->vocabulary, config->hidden, err));
    SQF_TRY(expect_dense(s, "model.norm.weight", config->hidden, 0, err));
    if (!config->tied || sqf_tensors_find(s->checkpoint->tensors, "lm_head.weight")) {
        SQF_TRY(expect_weights(s, SQF_MODULE_OUTPUT, config->vocabulary, config->hidden, err));
    }
    for (size_t layer = 0; layer < config->layers; layer++) {
        SQF_TRY(expect_layer(s, layer, err));
    }
    return refuse_unknown(s, err);
}

/* Modules that quantization_config may name: the decoder's linear layers, output matrix and embedding. */
static bool is_module(const void *user, const char *name)
{
    const sqf_config *config = user;
    size_t layer;
    char known[SQF_MODULE_NAME];
    if (strcmp(name, SQF_MODULE_OUTPUT) == 0 || strcmp(name, SQF_MODULE_EMBEDDING) == 0) {
        return true;
    }
    /* four digits at most: the bound on layers is 1024, and the full name is compared below */
    if (sscanf(name, "model.layers.%4zu.", &layer) != 1 || layer >= config->layers) {
        return false;
    }
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        sqf_linear_name(layer, (sqf_linear_kind)kind, known);
        if (strcmp(known, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Tied embeddings are one matrix, and so have one scheme: the embedding's, whose activations are those of the output.
 * An embedding that makes no logits has nothing to multiply: its rows are looked up. */
static sqf_status check_vocabulary_schemes(const sqf_checkpoint *checkpoint, sqf_error *err)
{
    const sqf_scheme output = sqf_module_schemes_get(checkpoint->schemes, SQF_MODULE_OUTPUT);
    const sqf_scheme embedding = sqf_module_schemes_get(checkpoint->schemes, SQF_MODULE_EMBEDDING);
    const bool tied = checkpoint->config.tied;
    if (tied && !sqf_weight_spec_is_dense(&output.weights)) {
        return sqf_fail(err, SQF_E_FORMAT,
                        "%s/config.json: quantization_config: overrides: lm_head: expected no scheme of its own where "
                        "embeddings are tied (model.embed_tokens has it)",
                        checkpoint->directory);
    }
    if (!tied && !sqf_act_spec_is_float(&embedding.activations)) {
        return sqf_fail(err, SQF_E_FORMAT,
                        "%s/config.json: quantization_config: overrides: model.embed_tokens: expected unquantized "
                        "activations where embeddings are not tied: its rows are looked up",
                        checkpoint->directory);
    }
    return SQF_OK;
}

/* A rotation must fit the width that it turns. */
static sqf_status check_schemes(const sqf_checkpoint *checkpoint, sqf_error *err)
{
    const size_t factor = sqf_module_schemes_rotation(checkpoint->schemes).down_factor;
    if (factor > 0 && !sqf_rotation_fits(checkpoint->config.intermediate, factor)) {
        return sqf_fail(err, SQF_E_FORMAT,
                        "%s/config.json: quantization_config: rotation: down_factor: expected a divisor of %zu that "
                        "leaves a power of two, found %zu",
                        checkpoint->directory, checkpoint->config.intermediate, factor);
    }
    SQF_TRY(sqf_module_schemes_check(checkpoint->schemes, is_module, &checkpoint->config, err));
    return check_vocabulary_schemes(checkpoint, err);
}

/* Messages about quantization_config name the file that it stands in. */
static sqf_status load_schemes(sqf_checkpoint *checkpoint, const char *directory, sqf_error *err)
{
    char *path;
    SQF_TRY(sqf_path_join(&path, directory, "config.json", err));
    const sqf_status status = sqf_module_schemes_load(checkpoint->config_json, path, &checkpoint->schemes, err);
    free(path);
    return status;
}

/* In the order in which mistakes are most useful to hear of: what kind of model, which schemes, which tensors. */
static sqf_status open_parts(sqf_checkpoint *checkpoint, const char *directory, sqf_error *err)
{
    SQF_TRY(sqf_copy_text(&checkpoint->directory, directory, strlen(directory), err));
    SQF_TRY(sqf_config_load(directory, &checkpoint->config, &checkpoint->config_json, err));
    SQF_TRY(load_schemes(checkpoint, directory, err));
    SQF_TRY(check_schemes(checkpoint, err));
    SQF_TRY(sqf_tensors_open(directory, &checkpoint->tensors, err));
    const size_t count = sqf_tensors_count(checkpoint->tensors);
    survey s = {.checkpoint = checkpoint};
    SQF_TRY(SQF_ALLOC(&s.known, count, "tensors", err));
    const sqf_status status = survey_tensors(&s, err);
    free(s.known);
    return status;
}

sqf_status sqf_checkpoint_open(const char *directory, sqf_checkpoint *out, sqf_error *err)
{
    *out = (sqf_checkpoint){0};
    const sqf_status status = open_parts(out, directory, err);
    if (status != SQF_OK) {
        sqf_checkpoint_close(out);
    }
    return status;
}

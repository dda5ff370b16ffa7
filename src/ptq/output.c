/* The directory of a quantized model. Spec: docs/format.md section 7. */
#define _GNU_SOURCE
#include "ptq/output.h"

#include <errno.h>
#include <libgen.h>
#include <string.h>

/* What of a checkpoint a tokenizer or a generating program reads; copied where present. */
static const char *const companion_files[] = {
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
};

/* The canonical path of something that need not exist in a directory that does; for free(). NULL: errno says why. */
static char *resolved_path(const char *path)
{
    char *whole = realpath(path, NULL), *copies[2] = {strdup(path), strdup(path)}, *result = NULL;
    if (whole) {
        result = whole;
    } else if (copies[0] && copies[1]) {
        char *parent = realpath(dirname(copies[0]), NULL);
        if (parent && sqf_path_join(&result, parent, basename(copies[1]), NULL) != SQF_OK) {
            errno = ENOMEM;
        }
        free(parent);
    }
    free(copies[0]);
    free(copies[1]);
    return result;
}

/* True if `inner` is `outer` or lies below it; both are canonical. */
static bool lies_in(const char *inner, const char *outer)
{
    const size_t length = strlen(outer);
    return strncmp(inner, outer, length) == 0 && (inner[length] == '\0' || inner[length] == '/');
}

static sqf_status check_apart(const char *input, const char *output, sqf_error *err)
{
    char *from = resolved_path(input), *to = from ? resolved_path(output) : NULL;
    sqf_status status = SQF_OK;
    if (!to) {
        const int number = errno;
        status = sqf_fail(err, SQF_E_IO, "%s: %s", from ? output : input, strerror(number));
    } else if (lies_in(to, from) || lies_in(from, to)) {
        status = sqf_fail(err, SQF_E_ARG, "%s: expected an output apart from the input, %s", output, input);
    }
    free(from);
    free(to);
    return status;
}

sqf_status sqf_model_output_begin(sqf_context *context, const sqf_checkpoint *checkpoint, const char *directory,
                                  const sqf_quantize_options *options, sqf_model_output *out, sqf_error *err)
{
    *out = (sqf_model_output){.context = context, .checkpoint = checkpoint};
    SQF_TRY(check_apart(checkpoint->directory, directory, err));
    SQF_TRY(sqf_output_begin(directory, true, options->force, &out->output, err));
    const sqf_status status =
        sqf_tensor_writer_create(sqf_output_path(out->output), options->shard_bytes, &out->writer, err);
    if (status != SQF_OK) {
        sqf_model_output_abort(out);
    }
    return status;
}

sqf_status sqf_model_output_values(sqf_model_output *out, const char *name, sqf_dtype dtype, size_t rows,
                                   size_t columns, const void *values, sqf_error *err)
{
    const size_t shape[2] = {rows, columns};
    if (!out->writer) {
        return SQF_OK; /* measuring */
    }
    return sqf_tensor_writer_add(out->writer, name, dtype, columns ? 2 : 1, shape, values, err);
}

sqf_status sqf_model_output_copy(sqf_model_output *out, const char *name, size_t rows, size_t columns, sqf_error *err)
{
    const sqf_tensor *tensor;
    SQF_TRY(sqf_checkpoint_dense(out->checkpoint, out->context, name, rows, columns, &tensor, err));
    return sqf_model_output_values(out, name, tensor->dtype, rows, columns, tensor->data, err);
}

/* Where the bytes of a part are. */
static const void *part_data(sqf_matrix *matrix, const sqf_stored_linear *linear, const char *suffix)
{
    sqf_matrix_part arrays[SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(matrix, arrays);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(arrays[i].suffix, suffix) == 0) {
            return *arrays[i].data;
        }
    }
    if (strcmp(suffix, SQF_PART_SCALE_UNIT) == 0) {
        return matrix->scale_unit;
    }
    if (strcmp(suffix, SQF_PART_CHANNELS) == 0) {
        return linear->matrix.channels;
    }
    if (strcmp(suffix, SQF_PART_ACT_ZERO) == 0) {
        return linear->static_zero;
    }
    return strcmp(suffix, SQF_PART_ACT_SCALE) == 0 ? linear->static_scale : linear->column_norm;
}

sqf_status sqf_model_output_linear(sqf_model_output *out, const char *module, const sqf_stored_linear *linear,
                                   uint64_t *bytes, sqf_error *err)
{
    sqf_matrix matrix = linear->matrix; /* sqf_matrix_parts points into it */
    sqf_stored_part parts[SQF_STORED_PARTS];
    size_t count;
    uint64_t total = 0;
    SQF_TRY(sqf_stored_parts(&linear->scheme, matrix.rows, matrix.columns, parts, &count, err));
    for (size_t i = 0; i < count; i++) {
        char name[SQF_MODULE_NAME + 32];
        snprintf(name, sizeof name, "%s.%s", module, parts[i].suffix);
        const sqf_dtype dtype = sqf_dtype_of_name(parts[i].dtype);
        if (out->writer) {
            SQF_TRY(sqf_tensor_writer_add(out->writer, name, dtype, parts[i].dimensions, parts[i].shape,
                                          part_data(&matrix, linear, parts[i].suffix), err));
        }
        total +=
            (uint64_t)parts[i].shape[0] * (parts[i].dimensions == 2 ? parts[i].shape[1] : 1) * sqf_dtype_bytes(dtype);
    }
    if (bytes) {
        *bytes = total;
    }
    return SQF_OK;
}

sqf_status sqf_model_output_seal(sqf_model_output *out, uint64_t *bytes, sqf_error *err)
{
    SQF_TRY(sqf_tensor_writer_finish(out->writer, err));
    *bytes = sqf_tensor_writer_bytes(out->writer);
    return SQF_OK;
}

/* Takes over `value`. */
static sqf_status set(json_t *object, const char *key, json_t *value, sqf_error *err)
{
    return json_object_set_new(object, key, value) == 0 ? SQF_OK
                                                        : sqf_fail(err, SQF_E_MEMORY, "config.json: out of memory");
}

/* Which bases the weights are in, and what that asks of a reader. */
static sqf_status set_rotation(json_t *block, const sqf_rotation_choice *rotation, size_t down_factor, sqf_error *err)
{
    json_t *object;
    if (rotation->residual == SQF_ROTATE_OFF && rotation->values == SQF_ROTATE_PART_OFF && down_factor == 0) {
        return SQF_OK;
    }
    object = json_object();
    SQF_TRY(set(block, "rotation", object, err));
    SQF_TRY(set(object, "residual", json_string(sqf_rotate_name(rotation->residual)), err));
    SQF_TRY(set(object, "values", json_string(sqf_rotate_part_name(rotation->values)), err));
    SQF_TRY(set(object, "down", json_string(sqf_rotate_part_name(rotation->down)), err));
    return down_factor ? set(object, "down_factor", json_integer((json_int_t)down_factor), err) : SQF_OK;
}

static sqf_status add_module(const sqf_module_plan *module, const sqf_scheme *main, const char *name, json_t *overrides,
                             json_t *ignore, sqf_error *err)
{
    char scheme[SQF_SCHEME_TEXT];
    if (module->ignored) {
        return json_array_append_new(ignore, json_string(name)) == 0
                   ? SQF_OK
                   : sqf_fail(err, SQF_E_MEMORY, "config.json: out of memory");
    }
    if (sqf_scheme_equal(&module->recipe.scheme, main)) {
        return SQF_OK;
    }
    sqf_scheme_print(&module->recipe.scheme, SQF_SPELLING_LONG, scheme);
    return set(overrides, name, json_string(scheme), err);
}

static sqf_status add_modules(const sqf_plan *plan, const sqf_scheme *main, json_t *overrides, json_t *ignore,
                              sqf_error *err)
{
    for (size_t layer = 0; layer < plan->layers; layer++) {
        for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
            char name[SQF_MODULE_NAME];
            sqf_linear_name(layer, (sqf_linear_kind)kind, name);
            SQF_TRY(add_module(&plan->layer[layer].module[kind], main, name, overrides, ignore, err));
        }
    }
    return SQF_OK;
}

/* The matrices of the vocabulary are named wherever they have a scheme: the main one does not speak of them. */
static sqf_status add_vocabulary(const sqf_vocabulary_plan *plan, json_t *overrides, json_t *ignore, sqf_error *err)
{
    char scheme[SQF_SCHEME_TEXT];
    const sqf_module_plan *embedding = plan->shared ? &plan->output : &plan->embedding;
    if (embedding->quantized) {
        sqf_scheme_print(&embedding->recipe.scheme, SQF_SPELLING_LONG, scheme);
        SQF_TRY(set(overrides, SQF_MODULE_EMBEDDING, json_string(scheme), err));
    }
    if (plan->output.quantized && !plan->shared) {
        sqf_scheme_print(&plan->output.recipe.scheme, SQF_SPELLING_LONG, scheme);
        return set(overrides, SQF_MODULE_OUTPUT, json_string(scheme), err);
    }
    if (!plan->output.quantized && json_array_append_new(ignore, json_string(SQF_MODULE_OUTPUT)) != 0) {
        return sqf_fail(err, SQF_E_MEMORY, "config.json: out of memory");
    }
    return SQF_OK;
}

/* quantization_config of a plan, put into `config`. Every object belongs to `config` before the next one is made. */
static sqf_status set_quantization(json_t *config, const sqf_plan *plan, const sqf_scheme *main, size_t down_factor,
                                   sqf_error *err)
{
    char scheme[SQF_SCHEME_TEXT];
    sqf_scheme_print(main, SQF_SPELLING_LONG, scheme);
    json_t *block = json_object();
    SQF_TRY(set(config, "quantization_config", block, err));
    SQF_TRY(set(block, "quant_method", json_string("sq-format"), err));
    SQF_TRY(set(block, "format_version", json_integer(1), err));
    SQF_TRY(set(block, "scheme", json_string(scheme), err));
    json_t *overrides = json_object();
    SQF_TRY(set(block, "overrides", overrides, err));
    json_t *ignore = json_array();
    SQF_TRY(set(block, "ignore", ignore, err));
    SQF_TRY(add_vocabulary(&plan->vocabulary, overrides, ignore, err));
    /* a rotated stream has an output matrix of its own: the embedding lacks the final norm's gain */
    if (plan->rotation.residual != SQF_ROTATE_OFF || plan->vocabulary.unties) {
        SQF_TRY(set(config, "tie_word_embeddings", json_false(), err));
    }
    SQF_TRY(set_rotation(block, &plan->rotation, down_factor, err));
    return add_modules(plan, main, overrides, ignore, err);
}

static sqf_status write_text(const sqf_model_output *out, const char *name, const char *text, sqf_error *err)
{
    char *path;
    SQF_TRY(sqf_path_join(&path, sqf_output_path(out->output), name, err));
    const sqf_status status = sqf_file_write(path, text, strlen(text), err);
    free(path);
    return status;
}

static sqf_status write_config(const sqf_model_output *out, const sqf_plan *plan, const sqf_scheme *main,
                               sqf_error *err)
{
    const size_t down_factor = sqf_rotation_down_factor(&plan->rotation, out->checkpoint->config.intermediate);
    char *text = NULL;
    json_t *config = json_copy(out->checkpoint->config_json);
    /* where memory fails jansson copies what it can */
    const bool whole = config && json_object_size(config) == json_object_size(out->checkpoint->config_json);
    sqf_status status = whole ? set_quantization(config, plan, main, down_factor, err)
                              : sqf_fail(err, SQF_E_MEMORY, "config.json: out of memory");
    if (status == SQF_OK) {
        status = sqf_json_print(config, &text, err);
    }
    if (status == SQF_OK) {
        status = write_text(out, "config.json", text, err);
    }
    json_decref(config);
    free(text);
    return status;
}

static sqf_status write_recipe(const sqf_model_output *out, const sqf_recipe *recipe, sqf_error *err)
{
    char *text;
    SQF_TRY(sqf_recipe_print(recipe, &text, err));
    const sqf_status status = write_text(out, "recipe.yaml", text, err);
    free(text);
    return status;
}

static sqf_status copy_companion(const sqf_model_output *out, const char *name, sqf_error *err)
{
    char *from = NULL, *to = NULL;
    sqf_status status = sqf_path_join(&from, out->checkpoint->directory, name, err);
    if (status == SQF_OK && sqf_path_exists(from)) {
        status = sqf_path_join(&to, sqf_output_path(out->output), name, err);
        if (status == SQF_OK) {
            status = sqf_file_copy(from, to, err);
        }
    }
    free(from);
    free(to);
    return status;
}

/* The files that a tokenizer and a generating program read; then everything takes its place. */
static sqf_status commit_with_companions(sqf_model_output *out, sqf_error *err)
{
    for (size_t i = 0; i < sizeof companion_files / sizeof *companion_files; i++) {
        SQF_TRY(copy_companion(out, companion_files[i], err));
    }
    sqf_output *output = out->output;
    out->output = NULL;
    return sqf_output_commit(output, err);
}

sqf_status sqf_model_output_describe(const sqf_model_output *out, const sqf_plan *plan, const sqf_recipe *recipe,
                                     sqf_error *err)
{
    SQF_TRY(write_config(out, plan, &recipe->base.scheme, err));
    return write_recipe(out, recipe, err);
}

sqf_status sqf_model_output_commit(sqf_model_output *out, const char *name, const char *text, sqf_error *err)
{
    SQF_TRY(write_text(out, name, text, err));
    return commit_with_companions(out, err);
}

sqf_status sqf_model_output_commit_original(sqf_model_output *out, const char *name, const char *text, sqf_error *err)
{
    SQF_TRY(copy_companion(out, "config.json", err));
    return sqf_model_output_commit(out, name, text, err);
}

void sqf_model_output_abort(sqf_model_output *out)
{
    sqf_tensor_writer_destroy(out->writer);
    sqf_output_abort(out->output);
    *out = (sqf_model_output){0};
}

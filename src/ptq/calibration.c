/* Calibration text as windows of token ids. Spec: docs/format.md section 10. */
#include "ptq/calibration.h"

#include <sqf/tokenizer.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/random.h"

/* Far beyond any calibration text; the file is read whole. */
#define TEXT_BYTES_MAX ((size_t)1 << 32)

size_t sqf_calibration_window(size_t index, size_t windows, size_t length, size_t tokens)
{
    /* tokens < 2^32 bytes of text and index < 2^32 windows: the product fits */
    return windows < 2 ? 0 : index * (tokens - length) / (windows - 1);
}

/* Appends the text of one line. */
static sqf_status join_line(const char *line, size_t n, const char *field, const char *name, sqf_buffer *out,
                            sqf_error *err)
{
    json_t *object, *text;
    SQF_TRY(sqf_json_parse(line, n, name, &object, err));
    sqf_status status = sqf_json_member(object, field, JSON_STRING, name, &text, err);
    if (status == SQF_OK && out->data && out->size > 0) {
        status = sqf_buffer_append(out, "\n", 1, err);
    }
    if (status == SQF_OK) {
        status = sqf_buffer_append(out, json_string_value(text), json_string_length(text), err);
    }
    json_decref(object);
    return status;
}

sqf_status sqf_calibration_join(const char *lines, size_t n, const char *field, const char *name, sqf_buffer *out,
                                sqf_error *err)
{
    *out = (sqf_buffer){0};
    sqf_status status = SQF_OK;
    const char *const end = lines + n;
    for (size_t number = 1; lines < end && status == SQF_OK; number++) {
        const char *stop = memchr(lines, '\n', (size_t)(end - lines));
        const size_t length = (size_t)((stop ? stop : end) - lines);
        char where[256];
        snprintf(where, sizeof where, "%.200s: line %zu", name, number);
        if (strspn(lines, " \t\r") < length) {
            status = join_line(lines, length, field, where, out, err);
        }
        lines += length + 1;
    }
    if (status != SQF_OK) {
        free(out->data);
        *out = (sqf_buffer){0};
    }
    return status;
}

static bool is_json_lines(const char *path)
{
    const size_t length = strlen(path);
    return length >= 6 && strcmp(path + length - 6, ".jsonl") == 0;
}

static sqf_status read_text(const sqf_quantize_options *options, sqf_buffer *out, sqf_error *err)
{
    sqf_buffer file;
    SQF_TRY(sqf_file_read(options->calibration, TEXT_BYTES_MAX, &file, err));
    if (!is_json_lines(options->calibration)) {
        *out = file;
        return SQF_OK;
    }
    const char *field = options->calibration_field ? options->calibration_field : "text";
    const sqf_status status = sqf_calibration_join(file.data, file.size, field, options->calibration, out, err);
    free(file.data);
    return status;
}

static sqf_status encode_text(const char *model_directory, const sqf_quantize_options *options, const sqf_buffer *text,
                              sqf_ids *ids, sqf_error *err)
{
    sqf_tokenizer *tokenizer;
    SQF_TRY(sqf_tokenizer_load(model_directory, &tokenizer, err));
    const char *bytes = text->data ? text->data : "";
    const sqf_status status = sqf_tokenizer_encode(tokenizer, bytes, text->size, options->special, ids, err);
    sqf_tokenizer_destroy(tokenizer);
    return status;
}

/* The caller's ids, or those of the text. */
static sqf_status read_ids(const char *model_directory, const sqf_quantize_options *options, sqf_ids *ids,
                           sqf_error *err)
{
    if (options->calibration_ids) {
        SQF_TRY(SQF_ALLOC(&ids->data, options->calibration_id_count, "calibration ids", err));
        memcpy(ids->data, options->calibration_ids, options->calibration_id_count * sizeof *ids->data);
        ids->count = options->calibration_id_count;
        return SQF_OK;
    }
    sqf_buffer text = {0};
    SQF_TRY(read_text(options, &text, err));
    const sqf_status status = encode_text(model_directory, options, &text, ids, err);
    free(text.data);
    return status;
}

/* What messages call the text. */
static const char *source_name(const sqf_quantize_options *options)
{
    return options->calibration ? options->calibration : "calibration ids";
}

static sqf_status check_ids(const sqf_ids *ids, const sqf_config *config, const char *path, sqf_error *err)
{
    for (size_t i = 0; i < ids->count; i++) {
        if (ids->data[i] >= config->vocabulary) {
            return sqf_fail(err, SQF_E_VALUE, "%s: token %zu has id %u, expected less than the vocabulary, %zu", path,
                            i, ids->data[i], config->vocabulary);
        }
    }
    return SQF_OK;
}

static sqf_status cut_windows(const sqf_ids *ids, const sqf_quantize_options *options, sqf_calibration *out,
                              sqf_error *err)
{
    const size_t windows = options->samples, length = options->length;
    const size_t tokens = options->tokens > 0 && options->tokens < ids->count ? options->tokens : ids->count;
    if (tokens < length) {
        return sqf_fail(err, SQF_E_ARG, "%s: too little text: %zu tokens needed for one window, %zu found",
                        source_name(options), length, tokens);
    }
    size_t total;
    if (!sqf_mul_size(&total, windows, length)) {
        return sqf_fail(err, SQF_E_ARG, "calibration: %zu windows of %zu tokens are too many", windows, length);
    }
    SQF_TRY(SQF_ALLOC(&out->ids, total, "calibration windows", err));
    sqf_random random = {.state = options->seed};
    for (size_t i = 0; i < windows; i++) {
        const size_t first = options->random_windows ? (size_t)sqf_random_below(&random, tokens - length + 1)
                                                     : sqf_calibration_window(i, windows, length, tokens);
        memcpy(out->ids + i * length, ids->data + first, length * sizeof *ids->data);
    }
    out->windows = windows;
    out->length = length;
    out->tokens = tokens;
    return SQF_OK;
}

sqf_status sqf_calibration_encode(const char *model_directory, const sqf_config *config,
                                  const sqf_quantize_options *options, sqf_ids *out, sqf_error *err)
{
    *out = (sqf_ids){0};
    SQF_TRY(read_ids(model_directory, options, out, err));
    return check_ids(out, config, source_name(options), err);
}

sqf_status sqf_calibration_load(const char *model_directory, const sqf_config *config,
                                const sqf_quantize_options *options, sqf_calibration *out, sqf_error *err)
{
    *out = (sqf_calibration){0};
    if (options->samples < 1 || options->samples > UINT32_MAX) {
        return sqf_fail(err, SQF_E_ARG, "calibration: %zu windows, expected 1 to %u", options->samples, UINT32_MAX);
    }
    if (options->length < 1 || options->length > config->positions) {
        return sqf_fail(err, SQF_E_ARG, "calibration: windows of %zu tokens, expected 1 to the model's %zu positions",
                        options->length, config->positions);
    }
    sqf_ids ids;
    sqf_status status = sqf_calibration_encode(model_directory, config, options, &ids, err);
    if (status == SQF_OK) {
        status = cut_windows(&ids, options, out, err);
    }
    sqf_ids_clear(&ids);
    return status;
}

void sqf_calibration_clear(sqf_calibration *calibration)
{
    free(calibration->ids);
    *calibration = (sqf_calibration){0};
}

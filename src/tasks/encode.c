/* The tokenization rule of lm-eval (HFLM._encode_pair): a text is cut where the context's own tokens end, because a
 * continuation that is encoded alone would get other tokens than it has in the text. */
#include "tasks/encode.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "tasks/text.h"

/* tokenizer_config.json of models with many added tokens. */
enum { CONFIG_BYTES_MAX = 64 << 20 };

void sqf_encoded_clear(sqf_encoded *encoded)
{
    sqf_ids_clear(&encoded->input);
    sqf_ids_clear(&encoded->targets);
    *encoded = (sqf_encoded){0};
}

/* ids[from .. from + count - 1] of one list as a list of its own. */
static sqf_status copy_ids(const sqf_ids *ids, size_t from, size_t count, sqf_ids *out, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(&out->data, count, "tokens", err));
    if (count > 0) {
        memcpy(out->data, ids->data + from, count * sizeof *ids->data);
    }
    out->count = out->capacity = count;
    return SQF_OK;
}

/* `whole` is context and continuation, the first `context` ids of it the context's. */
static sqf_status split(const sqf_ids *whole, size_t context, size_t positions, const char *where, sqf_encoded *out,
                        sqf_error *err)
{
    if (context == 0) {
        return sqf_fail(err, SQF_E_VALUE, "%s: the context has no token", where);
    }
    if (whole->count <= context) {
        return sqf_fail(err, SQF_E_VALUE, "%s: the continuation has no token of its own", where);
    }
    const size_t targets = whole->count - context;
    if (targets > positions) {
        return sqf_fail(err, SQF_E_VALUE,
                        "%s: a continuation of %zu tokens, expected at most the model's %zu positions", where, targets,
                        positions);
    }
    const size_t input = whole->count - 1, kept = input < positions ? input : positions;
    out->truncated = kept < input;
    SQF_TRY(copy_ids(whole, input - kept, kept, &out->input, err));
    return copy_ids(whole, context, targets, &out->targets, err);
}

/* The prefix stands in front; where the text begins with it anyway it is the context. */
static sqf_status encode_alone(const sqf_tokenizer *tokenizer, uint32_t prefix, const sqf_buffer *text,
                               size_t positions, const char *where, sqf_encoded *out, sqf_error *err)
{
    sqf_ids ids = {0}, whole = {0};
    sqf_status status = sqf_tokenizer_encode(tokenizer, text->data, text->size, false, &ids, err);
    if (status == SQF_OK) {
        status = SQF_ALLOC(&whole.data, ids.count + 1, "tokens", err);
    }
    if (status == SQF_OK) {
        whole.data[0] = prefix;
        const size_t skip = ids.count > 0 && ids.data[0] == prefix;
        if (ids.count > skip) {
            memcpy(whole.data + 1, ids.data + skip, (ids.count - skip) * sizeof *ids.data);
        }
        whole.count = 1 + ids.count - skip;
        status = split(&whole, 1, positions, where, out, err);
    }
    sqf_ids_clear(&ids);
    sqf_ids_clear(&whole);
    return status;
}

static sqf_status encode_together(const sqf_tokenizer *tokenizer, const sqf_buffer *text, size_t context_bytes,
                                  size_t positions, const char *where, sqf_encoded *out, sqf_error *err)
{
    sqf_ids whole = {0}, context = {0};
    sqf_status status = sqf_tokenizer_encode(tokenizer, text->data, text->size, true, &whole, err);
    if (status == SQF_OK) {
        status = sqf_tokenizer_encode(tokenizer, text->data, context_bytes, true, &context, err);
    }
    if (status == SQF_OK) {
        status = split(&whole, context.count, positions, where, out, err);
    }
    sqf_ids_clear(&whole);
    sqf_ids_clear(&context);
    return status;
}

sqf_status sqf_encode_pair(const sqf_tokenizer *tokenizer, uint32_t prefix, const char *context,
                           const char *continuation, size_t positions, const char *where, sqf_encoded *out,
                           sqf_error *err)
{
    sqf_buffer text = {0};
    *out = (sqf_encoded){0};
    sqf_status status = sqf_buffer_append(&text, context, strlen(context), err);
    if (status == SQF_OK) {
        status = sqf_buffer_append(&text, continuation, strlen(continuation), err);
    }
    if (status == SQF_OK) {
        const size_t context_bytes = sqf_text_trimmed(context, strlen(context));
        status = context_bytes > 0 ? encode_together(tokenizer, &text, context_bytes, positions, where, out, err)
                                   : encode_alone(tokenizer, prefix, &text, positions, where, out, err);
    }
    free(text.data);
    if (status != SQF_OK) {
        sqf_encoded_clear(out);
    }
    return status;
}

/* A token is written as its text or as an object with its text in "content". */
static bool find_token(const sqf_tokenizer *tokenizer, const json_t *config, const char *key, uint32_t *id)
{
    const json_t *token = json_object_get(config, key);
    token = json_is_object(token) ? json_object_get(token, "content") : token;
    return json_is_string(token) && sqf_tokenizer_find(tokenizer, json_string_value(token), id);
}

uint32_t sqf_prefix_id(const sqf_tokenizer *tokenizer, const char *model_directory, uint32_t otherwise)
{
    char *path = NULL;
    json_t *config = NULL;
    uint32_t id = otherwise;
    if (sqf_path_join(&path, model_directory, "tokenizer_config.json", NULL) == SQF_OK &&
        sqf_json_load(path, CONFIG_BYTES_MAX, &config, NULL) == SQF_OK &&
        !find_token(tokenizer, config, "bos_token", &id)) {
        find_token(tokenizer, config, "eos_token", &id);
    }
    json_decref(config);
    free(path);
    return id;
}

size_t sqf_common_prefix(const uint32_t *a, size_t a_count, const uint32_t *b, size_t b_count)
{
    const size_t least = a_count < b_count ? a_count : b_count;
    size_t n = 0;
    while (n < least && a[n] == b[n]) {
        n++;
    }
    return n;
}

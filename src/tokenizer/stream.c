/* Text that comes token by token. */
#include <string.h>

#include "tokenizer/internal.h"
#include "tokenizer/unicode.h"

/* How many tokens with text before a new one decide what it decodes to: decoders look at whether a token is the
 * first, and strip a few characters at the begin. */
enum { CONTEXT = 8 };

struct sqf_text_stream {
    const sqf_tokenizer *tokenizer;
    uint32_t context[CONTEXT + 1]; /* the last ids, and room for the new one */
    size_t context_count;
    sqf_buffer pending; /* bytes that do not make a character yet */
    sqf_buffer text;    /* what the last call gave out */
};

/* Special tokens and ids without a token give no text and are no context. */
static bool has_text(const sqf_tokenizer *tokenizer, uint32_t id)
{
    const sqf_vocabulary *v = &tokenizer->vocabulary;
    return id < v->size && v->tokens[id].present && !v->tokens[id].special;
}

static void remember(sqf_text_stream *stream, uint32_t id)
{
    if (stream->context_count == CONTEXT) {
        memmove(stream->context, stream->context + 1, (CONTEXT - 1) * sizeof *stream->context);
        stream->context_count--;
    }
    stream->context[stream->context_count++] = id;
}

sqf_status sqf_text_stream_create(const sqf_tokenizer *tokenizer, const uint32_t *prompt, size_t count,
                                  sqf_text_stream **out, sqf_error *err)
{
    sqf_text_stream *stream;
    *out = NULL;
    SQF_TRY(SQF_ALLOC(&stream, 1, "text stream", err));
    stream->tokenizer = tokenizer;
    for (size_t i = 0; i < count; i++) {
        if (has_text(tokenizer, prompt[i])) {
            remember(stream, prompt[i]);
        }
    }
    *out = stream;
    return SQF_OK;
}

void sqf_text_stream_destroy(sqf_text_stream *stream)
{
    if (stream) {
        free(stream->pending.data);
        free(stream->text.data);
        free(stream);
    }
}

/* Appends to `pending` what the last id of the context adds to the text of those before it. */
static sqf_status append_new_bytes(sqf_text_stream *stream, sqf_error *err)
{
    sqf_buffer before = {0}, after = {0};
    sqf_status status = sqf_tokenizer_decode_into(stream->tokenizer, stream->context, stream->context_count - 1, true,
                                                  true, &before, err);
    if (status == SQF_OK) {
        status = sqf_tokenizer_decode_into(stream->tokenizer, stream->context, stream->context_count, true, true,
                                           &after, err);
    }
    if (status == SQF_OK && after.size > before.size) {
        status = sqf_buffer_append(&stream->pending, after.data + before.size, after.size - before.size, err);
    }
    free(before.data);
    free(after.data);
    return status;
}

/* Moves from `pending` to `text` all but an incomplete character at the end. */
static sqf_status release(sqf_text_stream *stream, sqf_error *err)
{
    size_t whole = 0;
    while (whole < stream->pending.size) {
        uint32_t code_point;
        size_t length;
        if (sqf_utf8_next(stream->pending.data + whole, stream->pending.size - whole, &code_point, &length) ==
            SQF_UTF8_INCOMPLETE) {
            break;
        }
        whole += length;
    }
    SQF_TRY(sqf_utf8_append_lossy(&stream->text, stream->pending.data, whole, err));
    stream->pending.size -= whole;
    if (stream->pending.size > 0) {
        memmove(stream->pending.data, stream->pending.data + whole, stream->pending.size);
    }
    return SQF_OK;
}

static sqf_status begin_text(sqf_text_stream *stream, const char **text, sqf_error *err)
{
    *text = "";
    stream->text.size = 0;
    return sqf_buffer_append(&stream->text, "", 0, err);
}

sqf_status sqf_text_stream_push(sqf_text_stream *stream, uint32_t id, const char **text, sqf_error *err)
{
    SQF_TRY(begin_text(stream, text, err));
    if (!has_text(stream->tokenizer, id)) {
        return SQF_OK;
    }
    stream->context[stream->context_count++] = id;
    const sqf_status status = append_new_bytes(stream, err);
    stream->context_count--;
    remember(stream, id);
    if (status != SQF_OK) {
        return status;
    }
    SQF_TRY(release(stream, err));
    *text = stream->text.data;
    return SQF_OK;
}

sqf_status sqf_text_stream_finish(sqf_text_stream *stream, const char **text, sqf_error *err)
{
    SQF_TRY(begin_text(stream, text, err));
    SQF_TRY(sqf_utf8_append_lossy(&stream->text, stream->pending.data, stream->pending.size, err));
    stream->pending.size = 0;
    *text = stream->text.data;
    return SQF_OK;
}

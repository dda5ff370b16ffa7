/* Decoders. */
#include "tokenizer/decoder.h"

#include <string.h>

#include "tokenizer/bytelevel.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/settings.h"
#include "tokenizer/unicode.h"

/* The second spelling of a byte in the lists: "<0xA0>". */
enum { BYTE_TOKEN_SIZE = 6 };

/* What a step works on. */
typedef struct work {
    const sqf_texts *in;
    sqf_texts *out;
    sqf_matcher *matcher;
    bool raw;
} work;

struct sqf_decoder {
    sqf_status (*run)(const sqf_decoder *step, work *w, sqf_error *err);
    sqf_metaspace metaspace;
    sqf_regex *regex; /* owned */
    char *content;    /* owned: what stands in place of a match, or the character that is stripped */
    size_t content_size;
    size_t start, stop; /* how many characters are stripped at most */
};

void sqf_texts_clear(sqf_texts *texts)
{
    free(texts->bytes.data);
    free(texts->ends);
    *texts = (sqf_texts){0};
}

/* Ends the text whose bytes have been appended to `bytes`. */
static sqf_status end_text(sqf_texts *texts, sqf_error *err)
{
    if (texts->count == texts->capacity) {
        size_t capacity, bytes;
        if (!sqf_mul_size(&capacity, texts->capacity, 2) || !sqf_add_size(&capacity, capacity, 64) ||
            !sqf_mul_size(&bytes, capacity, sizeof *texts->ends)) {
            return sqf_fail(err, SQF_E_MEMORY, "decoder: too many tokens");
        }
        size_t *ends = realloc(texts->ends, bytes);
        if (!ends) {
            return sqf_fail(err, SQF_E_MEMORY, "decoder: out of memory, %zu bytes were asked for", bytes);
        }
        texts->ends = ends;
        texts->capacity = capacity;
    }
    texts->ends[texts->count++] = texts->bytes.size;
    return SQF_OK;
}

sqf_status sqf_texts_add(sqf_texts *texts, const char *text, size_t n, sqf_error *err)
{
    SQF_TRY(sqf_buffer_append(&texts->bytes, text, n, err));
    return end_text(texts, err);
}

static const char *text_at(const sqf_texts *texts, size_t i, size_t *n)
{
    const size_t start = i == 0 ? 0 : texts->ends[i - 1];
    *n = texts->ends[i] - start;
    return texts->bytes.data + start;
}

static sqf_status run_byte_level(const sqf_decoder *step, work *w, sqf_error *err)
{
    (void)step;
    sqf_buffer bytes = {0};
    sqf_status status = SQF_OK;
    for (size_t i = 0; i < w->in->count && status == SQF_OK; i++) {
        size_t n;
        const char *text = text_at(w->in, i, &n);
        status = sqf_bytelevel_decode(&bytes, text, n, err);
    }
    if (status == SQF_OK) {
        status = w->raw ? sqf_buffer_append(&w->out->bytes, bytes.data, bytes.size, err)
                        : sqf_utf8_append_lossy(&w->out->bytes, bytes.data, bytes.size, err);
    }
    free(bytes.data);
    return status == SQF_OK ? end_text(w->out, err) : status;
}

/* A digit as Rust's from_str_radix(16) reads it. */
static int hexadecimal(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* "<0xA0>"; a sign in place of the first digit ("<0x+5>") counts as the library's number parser has it. */
static bool byte_of_token(const char *text, size_t n, uint8_t *byte)
{
    if (n != BYTE_TOKEN_SIZE || memcmp(text, "<0x", 3) != 0 || text[5] != '>') {
        return false;
    }
    const int high = text[3] == '+' ? 0 : hexadecimal(text[3]), low = hexadecimal(text[4]);
    *byte = (uint8_t)(high * 16 + low);
    return high >= 0 && low >= 0;
}

/* A run of byte tokens is one text if it is UTF-8, else one U+FFFD a byte. */
static sqf_status end_run(work *w, sqf_buffer *run, sqf_error *err)
{
    const size_t n = run->size;
    run->size = 0;
    if (n == 0) {
        return SQF_OK;
    }
    if (w->raw || sqf_utf8_is_valid(run->data, n)) {
        return sqf_texts_add(w->out, run->data, n, err);
    }
    for (size_t i = 0; i < n; i++) {
        SQF_TRY(sqf_texts_add(w->out, "\xef\xbf\xbd", 3, err));
    }
    return SQF_OK;
}

static sqf_status add_byte_fallback(work *w, sqf_buffer *run, sqf_error *err)
{
    for (size_t i = 0; i < w->in->count; i++) {
        size_t n;
        uint8_t byte;
        const char *text = text_at(w->in, i, &n);
        if (byte_of_token(text, n, &byte)) {
            SQF_TRY(sqf_buffer_append(run, &byte, 1, err));
        } else {
            SQF_TRY(end_run(w, run, err));
            SQF_TRY(sqf_texts_add(w->out, text, n, err));
        }
    }
    return end_run(w, run, err);
}

static sqf_status run_byte_fallback(const sqf_decoder *step, work *w, sqf_error *err)
{
    sqf_buffer run = {0};
    (void)step;
    const sqf_status status = add_byte_fallback(w, &run, err);
    free(run.data);
    return status;
}

static sqf_status run_fuse(const sqf_decoder *step, work *w, sqf_error *err)
{
    (void)step;
    return sqf_texts_add(w->out, w->in->bytes.data, w->in->bytes.size, err);
}

static sqf_status run_replace(const sqf_decoder *step, work *w, sqf_error *err)
{
    for (size_t i = 0; i < w->in->count; i++) {
        size_t n;
        const char *text = text_at(w->in, i, &n);
        if (w->raw && !sqf_utf8_is_valid(text, n)) { /* a pattern is about characters */
            SQF_TRY(sqf_texts_add(w->out, text, n, err));
            continue;
        }
        SQF_TRY(sqf_regex_match(step->regex, text, n, w->matcher, err));
        for (size_t j = 0; j < w->matcher->count; j++) {
            const sqf_span *span = &w->matcher->spans[j];
            SQF_TRY(span->match ? sqf_buffer_append(&w->out->bytes, step->content, step->content_size, err)
                                : sqf_buffer_append(&w->out->bytes, text + span->start, span->end - span->start, err));
        }
        SQF_TRY(end_text(w->out, err));
    }
    return SQF_OK;
}

static sqf_status run_strip(const sqf_decoder *step, work *w, sqf_error *err)
{
    const size_t size = step->content_size;
    for (size_t i = 0; i < w->in->count; i++) {
        size_t n;
        const char *text = text_at(w->in, i, &n);
        for (size_t k = 0; k < step->start && n >= size && memcmp(text, step->content, size) == 0; k++) {
            text += size;
            n -= size;
        }
        for (size_t k = 0; k < step->stop && n >= size && memcmp(text + n - size, step->content, size) == 0; k++) {
            n -= size;
        }
        SQF_TRY(sqf_texts_add(w->out, text, n, err));
    }
    return SQF_OK;
}

static sqf_status run_metaspace(const sqf_decoder *step, work *w, sqf_error *err)
{
    const sqf_metaspace *m = &step->metaspace;
    for (size_t i = 0; i < w->in->count; i++) {
        size_t n;
        const char *text = text_at(w->in, i, &n);
        for (size_t at = 0; at < n;) {
            if (n - at < m->size || memcmp(text + at, m->replacement, m->size) != 0) {
                SQF_TRY(sqf_buffer_append(&w->out->bytes, text + at, 1, err));
                at++;
                continue;
            }
            if (i > 0 || m->prepend == SQF_PREPEND_NEVER) {
                SQF_TRY(sqf_buffer_append(&w->out->bytes, " ", 1, err));
            }
            at += m->size;
        }
        SQF_TRY(end_text(w->out, err));
    }
    return SQF_OK;
}

static sqf_status load_replace(sqf_decoder *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", "pattern", "content", NULL};
    const char *content;
    step->run = run_replace;
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    SQF_TRY(sqf_settings_string(json, "content", where, &content, err));
    step->content_size = strlen(content);
    SQF_TRY(sqf_copy_text(&step->content, content, step->content_size, err));
    return sqf_settings_pattern(json, where, &step->regex, err);
}

static sqf_status load_strip(sqf_decoder *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", "content", "start", "stop", NULL};
    const char *content;
    step->run = run_strip;
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    SQF_TRY(sqf_settings_string(json, "content", where, &content, err));
    step->content_size = strlen(content);
    if (step->content_size == 0 || step->content_size != sqf_utf8_length(content)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: content: expected one character, found \"%.16s\"", where, content);
    }
    SQF_TRY(sqf_copy_text(&step->content, content, step->content_size, err));
    SQF_TRY(sqf_json_size(json, "start", 0, UINT32_MAX, where, &step->start, err));
    return sqf_json_size(json, "stop", 0, UINT32_MAX, where, &step->stop, err);
}

static sqf_status load_byte_level(sqf_decoder *step, const json_t *json, const char *where, sqf_error *err)
{
    /* of the pre-tokenizer of the same name; without a meaning here */
    static const char *const KNOWN[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    step->run = run_byte_level;
    return sqf_settings_known(json, KNOWN, where, err);
}

static sqf_status load_byte_fallback(sqf_decoder *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", NULL};
    step->run = run_byte_fallback;
    return sqf_settings_known(json, KNOWN, where, err);
}

static sqf_status load_fuse(sqf_decoder *step, const json_t *json, const char *where, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", NULL};
    step->run = run_fuse;
    return sqf_settings_known(json, KNOWN, where, err);
}

static sqf_status load_metaspace(sqf_decoder *step, const json_t *json, const char *where, sqf_error *err)
{
    step->run = run_metaspace;
    return sqf_metaspace_load(json, where, &step->metaspace, err);
}

static sqf_status load_step(void *user, const json_t *json, const char *type, const char *where, sqf_error *err)
{
    static const struct {
        const char *type;
        sqf_status (*load)(sqf_decoder *step, const json_t *json, const char *where, sqf_error *err);
    } KINDS[] = {{"ByteLevel", load_byte_level},
                 {"ByteFallback", load_byte_fallback},
                 {"Fuse", load_fuse},
                 {"Replace", load_replace},
                 {"Strip", load_strip},
                 {"Metaspace", load_metaspace}};
    sqf_decoders *list = user;
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        if (strcmp(KINDS[i].type, type) == 0) {
            return KINDS[i].load(&list->steps[list->count++], json, where, err);
        }
    }
    return sqf_fail(err, SQF_E_SUPPORT, "%s: type \"%s\" is not supported", where, type);
}

sqf_status sqf_decoders_load(const json_t *json, sqf_decoders *out, sqf_error *err)
{
    *out = (sqf_decoders){.present = json && !json_is_null(json)};
    SQF_TRY(SQF_ALLOC(&out->steps, SQF_PARTS_MAX, "decoder", err));
    return sqf_settings_walk(json, "decoders", "tokenizer.json: decoder", load_step, out, err);
}

void sqf_decoders_clear(sqf_decoders *decoders)
{
    for (size_t i = 0; i < decoders->count; i++) {
        sqf_regex_destroy(decoders->steps[i].regex);
        free(decoders->steps[i].content);
    }
    free(decoders->steps);
    *decoders = (sqf_decoders){0};
}

static sqf_status join_by_spaces(const sqf_texts *tokens, sqf_buffer *out, sqf_error *err)
{
    for (size_t i = 0; i < tokens->count; i++) {
        size_t n;
        const char *text = text_at(tokens, i, &n);
        SQF_TRY(sqf_buffer_append(out, " ", i > 0, err));
        SQF_TRY(sqf_buffer_append(out, text, n, err));
    }
    return SQF_OK;
}

sqf_status sqf_decoders_run(const sqf_decoders *decoders, sqf_texts *tokens, bool raw, sqf_buffer *out, sqf_error *err)
{
    sqf_matcher matcher = {0};
    sqf_status status = SQF_OK;
    for (size_t i = 0; i < decoders->count && status == SQF_OK; i++) {
        const sqf_decoder *step = &decoders->steps[i];
        sqf_texts result = {0};
        work w = {.in = tokens, .out = &result, .matcher = &matcher, .raw = raw};
        status = sqf_buffer_reserve(&result.bytes, tokens->bytes.size, err);
        if (status == SQF_OK) {
            status = step->run(step, &w, err);
        }
        sqf_texts_clear(tokens);
        *tokens = result;
    }
    sqf_matcher_clear(&matcher);
    if (status != SQF_OK) {
        return status;
    }
    return decoders->present ? sqf_buffer_append(out, tokens->bytes.data, tokens->bytes.size, err)
                             : join_by_spaces(tokens, out, err);
}

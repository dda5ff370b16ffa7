/* Encoding and decoding. */
#include <string.h>

#include "tokenizer/internal.h"
#include "tokenizer/unicode.h"

enum { CACHE_SLOTS = 4096, CACHED_BYTES = 48 };

void sqf_ids_clear(sqf_ids *ids)
{
    if (ids) {
        free(ids->data);
        *ids = (sqf_ids){0};
    }
}

void sqf_tokenizer_destroy(sqf_tokenizer *tokenizer)
{
    if (!tokenizer) {
        return;
    }
    for (size_t i = 0; tokenizer->decoded && i < tokenizer->vocabulary.size; i++) {
        free(tokenizer->decoded[i]);
    }
    free(tokenizer->decoded);
    sqf_vocabulary_clear(&tokenizer->vocabulary);
    sqf_bpe_clear(&tokenizer->bpe);
    sqf_normalizers_clear(&tokenizer->normalizers);
    sqf_pretokenizers_clear(&tokenizer->pretokenizers);
    sqf_decoders_clear(&tokenizer->decoders);
    sqf_added_set_destroy(tokenizer->raw_added);
    sqf_added_set_destroy(tokenizer->normalized_added);
    sqf_ids_clear(&tokenizer->template_ids);
    free(tokenizer);
}

/* A piece that was encoded before in the same call, and where its ids are. */
typedef struct cached_piece {
    size_t start, size; /* bytes of the text; size 0 = free */
    size_t first, count;
} cached_piece;

/* What one call of encode works with: nothing is kept in the tokenizer, which threads share. */
typedef struct encoder {
    const sqf_tokenizer *tokenizer;
    sqf_pieces pieces;
    sqf_matcher matcher;
    sqf_bpe_scratch scratch;
    cached_piece *cache; /* [CACHE_SLOTS] */
    sqf_ids ids;
} encoder;

static void encoder_clear(encoder *e)
{
    sqf_pieces_clear(&e->pieces);
    sqf_matcher_clear(&e->matcher);
    sqf_bpe_scratch_clear(&e->scratch);
    free(e->cache);
    sqf_ids_clear(&e->ids);
}

/* The whole text as one piece of valid UTF-8. */
static sqf_status take_text(encoder *e, const char *bytes, size_t n, sqf_error *err)
{
    SQF_TRY(sqf_buffer_reserve(&e->pieces.text, n, err));
    SQF_TRY(sqf_utf8_append_lossy(&e->pieces.text, bytes, n, err));
    const size_t size = e->pieces.text.size;
    const size_t first = size > 0 ? sqf_utf8_length(e->pieces.text.data) : 0;
    return sqf_pieces_add(&e->pieces, (sqf_piece){.end = size, .origin = first, .id = SQF_NO_TOKEN}, err);
}

/* The same words come again and again in a text: their ids are copied. */
static sqf_status encode_piece(encoder *e, const sqf_piece *piece, sqf_error *err)
{
    const char *text = e->pieces.text.data + piece->start;
    const size_t n = piece->end - piece->start;
    if (n > CACHED_BYTES) {
        return sqf_bpe_encode(&e->tokenizer->bpe, text, n, &e->scratch, &e->ids, err);
    }
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3u;
    }
    cached_piece *cached = &e->cache[(hash ^ hash >> 32) % CACHE_SLOTS];
    if (cached->size == n && memcmp(e->pieces.text.data + cached->start, text, n) == 0) {
        for (size_t i = 0; i < cached->count; i++) {
            SQF_TRY(sqf_ids_append(&e->ids, e->ids.data[cached->first + i], err));
        }
        return SQF_OK;
    }
    const size_t first = e->ids.count;
    SQF_TRY(sqf_bpe_encode(&e->tokenizer->bpe, text, n, &e->scratch, &e->ids, err));
    *cached = (cached_piece){.start = piece->start, .size = n, .first = first, .count = e->ids.count - first};
    return SQF_OK;
}

static sqf_status encode_text(encoder *e, const char *bytes, size_t n, sqf_error *err)
{
    const sqf_tokenizer *t = e->tokenizer;
    SQF_TRY(take_text(e, bytes, n, err));
    SQF_TRY(sqf_added_set_split(t->raw_added, &e->pieces, &e->matcher, err));
    SQF_TRY(sqf_normalizers_run(&t->normalizers, &e->pieces, &e->matcher, err));
    SQF_TRY(sqf_added_set_split(t->normalized_added, &e->pieces, &e->matcher, err));
    SQF_TRY(sqf_pretokenizers_run(&t->pretokenizers, &e->pieces, &e->matcher, err));
    SQF_TRY(SQF_ALLOC(&e->cache, CACHE_SLOTS, "tokenizer", err));
    for (size_t i = 0; i < e->pieces.count; i++) {
        const sqf_piece *piece = &e->pieces.data[i];
        SQF_TRY(piece->id == SQF_NO_TOKEN ? encode_piece(e, piece, err) : sqf_ids_append(&e->ids, piece->id, err));
    }
    return SQF_OK;
}

/* Appends the ids of the text, or the template with them in their place. */
static sqf_status append_result(const sqf_tokenizer *tokenizer, const sqf_ids *text, bool special, sqf_ids *ids,
                                sqf_error *err)
{
    static const uint32_t TEXT_ALONE[1] = {SQF_TEMPLATE_TEXT};
    const sqf_ids *template_ids = &tokenizer->template_ids;
    const size_t count = template_ids->count > 0 ? template_ids->count : 1;
    const uint32_t *items = template_ids->count > 0 ? template_ids->data : TEXT_ALONE;
    for (size_t i = 0; i < count; i++) {
        if (items[i] != SQF_TEMPLATE_TEXT) {
            SQF_TRY(special ? sqf_ids_append(ids, items[i], err) : SQF_OK);
            continue;
        }
        for (size_t j = 0; j < text->count; j++) {
            SQF_TRY(sqf_ids_append(ids, text->data[j], err));
        }
    }
    return SQF_OK;
}

sqf_status sqf_tokenizer_encode(const sqf_tokenizer *tokenizer, const char *bytes, size_t n, bool special, sqf_ids *ids,
                                sqf_error *err)
{
    encoder e = {.tokenizer = tokenizer};
    const size_t before = ids->count;
    sqf_status status = encode_text(&e, bytes, n, err);
    if (status == SQF_OK) {
        status = append_result(tokenizer, &e.ids, special, ids, err);
    }
    if (status != SQF_OK) {
        ids->count = before;
    }
    encoder_clear(&e);
    return status;
}

static sqf_status collect_tokens(const sqf_tokenizer *tokenizer, const uint32_t *ids, size_t count, bool skip_special,
                                 sqf_texts *texts, sqf_error *err)
{
    const sqf_vocabulary *v = &tokenizer->vocabulary;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] >= v->size || !v->tokens[ids[i]].present || (skip_special && v->tokens[ids[i]].special)) {
            continue;
        }
        const char *decoded = tokenizer->decoded ? tokenizer->decoded[ids[i]] : NULL;
        SQF_TRY(decoded ? sqf_texts_add(texts, decoded, strlen(decoded), err)
                        : sqf_texts_add(texts, sqf_vocabulary_text(v, ids[i]), v->tokens[ids[i]].length, err));
    }
    return SQF_OK;
}

sqf_status sqf_tokenizer_decode_into(const sqf_tokenizer *tokenizer, const uint32_t *ids, size_t count,
                                     bool skip_special, bool raw, sqf_buffer *out, sqf_error *err)
{
    sqf_texts texts = {0};
    sqf_status status = sqf_buffer_append(&texts.bytes, "", 0, err);
    if (status == SQF_OK) {
        status = collect_tokens(tokenizer, ids, count, skip_special, &texts, err);
    }
    if (status == SQF_OK) {
        status = sqf_decoders_run(&tokenizer->decoders, &texts, raw, out, err);
    }
    sqf_texts_clear(&texts);
    return status;
}

sqf_status sqf_tokenizer_decode(const sqf_tokenizer *tokenizer, const uint32_t *ids, size_t count, bool skip_special,
                                char **bytes, size_t *n, sqf_error *err)
{
    sqf_buffer text = {0};
    *bytes = NULL;
    *n = 0;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] >= tokenizer->vocabulary.size) {
            return sqf_fail(err, SQF_E_VALUE, "ids[%zu]: expected an id below %zu, found %u", i,
                            tokenizer->vocabulary.size, (unsigned)ids[i]);
        }
    }
    sqf_status status = sqf_buffer_append(&text, "", 0, err);
    if (status == SQF_OK) {
        status = sqf_tokenizer_decode_into(tokenizer, ids, count, skip_special, false, &text, err);
    }
    if (status != SQF_OK) {
        free(text.data);
        return status;
    }
    *bytes = text.data;
    *n = text.size;
    return SQF_OK;
}

size_t sqf_tokenizer_vocabulary_size(const sqf_tokenizer *tokenizer)
{
    return tokenizer->vocabulary.size;
}

const char *sqf_tokenizer_token(const sqf_tokenizer *tokenizer, uint32_t id)
{
    const sqf_vocabulary *v = &tokenizer->vocabulary;
    return id < v->size && v->tokens[id].present ? sqf_vocabulary_text(v, id) : NULL;
}

bool sqf_tokenizer_find(const sqf_tokenizer *tokenizer, const char *token, uint32_t *id)
{
    uint32_t found;
    if (!sqf_vocabulary_find(&tokenizer->vocabulary, token, strlen(token), &found)) {
        return false;
    }
    *id = found;
    return true;
}

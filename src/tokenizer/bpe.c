/* Byte pair encoding. */
#include "tokenizer/bpe.h"

#include <stdio.h>
#include <string.h>

#include "tokenizer/settings.h"
#include "tokenizer/unicode.h"

static const char *const WHERE = "tokenizer.json: model";

enum { NONE = -1 };

/* A symbol of the word, linked to its neighbours; removed ones stay in the array. */
typedef struct sqf_symbol {
    uint32_t id;
    int32_t previous, next;
    bool removed;
} sqf_symbol;

/* A merge that was possible when it was pushed. */
typedef struct sqf_candidate {
    uint32_t rank, position, into;
} sqf_candidate;

void sqf_bpe_clear(sqf_bpe *bpe)
{
    free(bpe->merges);
    free(bpe->prefix);
    free(bpe->suffix);
    *bpe = (sqf_bpe){0};
}

void sqf_bpe_scratch_clear(sqf_bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    free(scratch->spelled.data);
    *scratch = (sqf_bpe_scratch){0};
}

/* Makes room for one element more in an array that doubles. */
static sqf_status grow(void **data, size_t *capacity, size_t count, size_t size, sqf_error *err)
{
    if (count < *capacity) {
        return SQF_OK;
    }
    size_t wanted, bytes;
    if (!sqf_mul_size(&wanted, *capacity, 2) || !sqf_add_size(&wanted, wanted, 64) ||
        !sqf_mul_size(&bytes, wanted, size)) {
        return sqf_fail(err, SQF_E_MEMORY, "tokenizer: a text of more than %zu tokens is too long", count);
    }
    void *grown = realloc(*data, bytes);
    if (!grown) {
        return sqf_fail(err, SQF_E_MEMORY, "tokenizer: out of memory, %zu bytes were asked for", bytes);
    }
    *data = grown;
    *capacity = wanted;
    return SQF_OK;
}

sqf_status sqf_ids_append(sqf_ids *ids, uint32_t id, sqf_error *err)
{
    SQF_TRY(grow((void **)&ids->data, &ids->capacity, ids->count, sizeof *ids->data, err));
    ids->data[ids->count++] = id;
    return SQF_OK;
}

static size_t merge_slot(const sqf_bpe *bpe, uint64_t pair)
{
    uint64_t hash = pair * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
    size_t slot = (size_t)hash & bpe->merge_mask;
    while (bpe->merges[slot].pair != SQF_NO_PAIR && bpe->merges[slot].pair != pair) {
        slot = (slot + 1) & bpe->merge_mask;
    }
    return slot;
}

/* The merge of two neighbours, or NULL. */
static const sqf_merge *find_merge(const sqf_bpe *bpe, uint32_t left, uint32_t right)
{
    const sqf_merge *merge = &bpe->merges[merge_slot(bpe, (uint64_t)left << 32 | right)];
    return merge->pair == SQF_NO_PAIR ? NULL : merge;
}

/* -- Encoding -- */

static bool before(const sqf_candidate *a, const sqf_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static sqf_status push_candidate(const sqf_bpe *bpe, sqf_bpe_scratch *s, int32_t position, sqf_error *err)
{
    const sqf_symbol *left = &s->symbols[position];
    if (left->next == NONE) {
        return SQF_OK;
    }
    const sqf_merge *merge = find_merge(bpe, left->id, s->symbols[left->next].id);
    if (!merge) {
        return SQF_OK;
    }
    SQF_TRY(grow((void **)&s->heap, &s->heap_capacity, s->heap_count, sizeof *s->heap, err));
    const sqf_candidate candidate = {.rank = merge->rank, .position = (uint32_t)position, .into = merge->into};
    size_t at = s->heap_count++;
    while (at > 0 && before(&candidate, &s->heap[(at - 1) / 2])) {
        s->heap[at] = s->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    s->heap[at] = candidate;
    return SQF_OK;
}

static sqf_candidate pop_candidate(sqf_bpe_scratch *s)
{
    const sqf_candidate top = s->heap[0];
    const sqf_candidate last = s->heap[--s->heap_count];
    size_t at = 0;
    for (size_t child = 1; child < s->heap_count; child = 2 * at + 1) {
        if (child + 1 < s->heap_count && before(&s->heap[child + 1], &s->heap[child])) {
            child++;
        }
        if (!before(&s->heap[child], &last)) {
            break;
        }
        s->heap[at] = s->heap[child];
        at = child;
    }
    s->heap[at] = last;
    return top;
}

/* Merges until no pair is left that may. */
static sqf_status merge_all(const sqf_bpe *bpe, sqf_bpe_scratch *s, sqf_error *err)
{
    s->heap_count = 0;
    for (size_t i = 0; i < s->symbol_count; i++) {
        SQF_TRY(push_candidate(bpe, s, (int32_t)i, err));
    }
    while (s->heap_count > 0) {
        const sqf_candidate top = pop_candidate(s);
        sqf_symbol *left = &s->symbols[top.position];
        if (left->removed || left->next == NONE) {
            continue;
        }
        sqf_symbol *right = &s->symbols[left->next];
        const sqf_merge *merge = find_merge(bpe, left->id, right->id);
        if (!merge || merge->into != top.into) { /* the neighbours have changed since it was pushed */
            continue;
        }
        left->id = top.into;
        left->next = right->next;
        right->removed = true;
        if (left->next != NONE) {
            s->symbols[left->next].previous = (int32_t)top.position;
        }
        if (left->previous != NONE) {
            SQF_TRY(push_candidate(bpe, s, left->previous, err));
        }
        SQF_TRY(push_candidate(bpe, s, (int32_t)top.position, err));
    }
    return SQF_OK;
}

static sqf_status add_symbol(sqf_bpe_scratch *s, uint32_t id, sqf_error *err)
{
    if (s->symbol_count >= INT32_MAX) {
        return sqf_fail(err, SQF_E_VALUE, "tokenizer: a piece of text has more than %d characters", INT32_MAX);
    }
    SQF_TRY(grow((void **)&s->symbols, &s->symbol_capacity, s->symbol_count, sizeof *s->symbols, err));
    const int32_t position = (int32_t)s->symbol_count;
    if (position > 0) {
        s->symbols[position - 1].next = position;
    }
    s->symbols[s->symbol_count++] = (sqf_symbol){.id = id, .previous = position - 1, .next = NONE};
    return SQF_OK;
}

/* True if every byte of the text has a token of its own. */
static bool has_bytes(const sqf_bpe *bpe, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bpe->bytes[(uint8_t)text[i]] == SQF_NO_ID) {
            return false;
        }
    }
    return n > 0;
}

/* A character as the vocabulary spells it: with the prefix unless it is the first, the suffix if it is the last. */
static sqf_status spell(const sqf_bpe *bpe, sqf_bpe_scratch *s, const char **text, size_t *n, bool first, bool last,
                        sqf_error *err)
{
    const bool prefix = bpe->prefix_size > 0 && !first, suffix = bpe->suffix_size > 0 && last;
    if (!prefix && !suffix) {
        return SQF_OK;
    }
    s->spelled.size = 0;
    SQF_TRY(sqf_buffer_append(&s->spelled, bpe->prefix, prefix ? bpe->prefix_size : 0, err));
    SQF_TRY(sqf_buffer_append(&s->spelled, *text, *n, err));
    SQF_TRY(sqf_buffer_append(&s->spelled, bpe->suffix, suffix ? bpe->suffix_size : 0, err));
    *text = s->spelled.data;
    *n = s->spelled.size;
    return SQF_OK;
}

/* One character to symbols. *unknown: an unknown token is pending, so that following ones can be fused with it. */
static sqf_status add_character(const sqf_bpe *bpe, sqf_bpe_scratch *s, const char *text, size_t n, bool *unknown,
                                sqf_error *err)
{
    uint32_t id;
    if (sqf_vocabulary_find_model(bpe->vocabulary, text, n, &id)) {
        if (*unknown) {
            SQF_TRY(add_symbol(s, bpe->unknown, err));
        }
        *unknown = false;
        return add_symbol(s, id, err);
    }
    if (bpe->byte_fallback && has_bytes(bpe, text, n)) {
        /* a pending unknown token stays pending, as in the library that writes these files */
        for (size_t i = 0; i < n; i++) {
            SQF_TRY(add_symbol(s, bpe->bytes[(uint8_t)text[i]], err));
        }
        return SQF_OK;
    }
    if (bpe->unknown_missing) {
        return sqf_fail(err, SQF_E_VALUE, "tokenizer: \"%.*s\" has no token, and unk_token is not in the vocabulary",
                        (int)(n < 64 ? n : 64), text);
    }
    if (bpe->unknown == SQF_NO_ID) {
        return SQF_OK;
    }
    if (*unknown && !bpe->fuse_unknown) {
        SQF_TRY(add_symbol(s, bpe->unknown, err));
    }
    *unknown = true;
    return SQF_OK;
}

static sqf_status add_characters(const sqf_bpe *bpe, sqf_bpe_scratch *s, const char *text, size_t n, sqf_error *err)
{
    bool unknown = false;
    s->symbol_count = 0;
    for (size_t at = 0; at < n;) {
        size_t length = sqf_utf8_length(text + at);
        const char *spelled = text + at;
        const bool first = at == 0;
        at += length;
        SQF_TRY(spell(bpe, s, &spelled, &length, first, at == n, err));
        SQF_TRY(add_character(bpe, s, spelled, length, &unknown, err));
    }
    return unknown ? add_symbol(s, bpe->unknown, err) : SQF_OK;
}

sqf_status sqf_bpe_encode(const sqf_bpe *bpe, const char *text, size_t n, sqf_bpe_scratch *s, sqf_ids *ids,
                          sqf_error *err)
{
    uint32_t id;
    if (bpe->ignore_merges && sqf_vocabulary_find_model(bpe->vocabulary, text, n, &id)) {
        return sqf_ids_append(ids, id, err);
    }
    SQF_TRY(add_characters(bpe, s, text, n, err));
    SQF_TRY(merge_all(bpe, s, err));
    for (size_t i = 0; i < s->symbol_count; i++) {
        if (!s->symbols[i].removed) {
            SQF_TRY(sqf_ids_append(ids, s->symbols[i].id, err));
        }
    }
    return SQF_OK;
}

/* -- Loading -- */

/* A merge as the file writes it: "left right" or ["left", "right"]. */
static bool read_pair(const json_t *json, const char **left, size_t *left_size, const char **right, size_t *right_size)
{
    if (json_is_string(json)) {
        const char *text = json_string_value(json);
        const size_t n = json_string_length(json);
        const char *space = memchr(text, ' ', n);
        if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - text))) {
            return false;
        }
        *left = text;
        *left_size = (size_t)(space - text);
        *right = space + 1;
        *right_size = n - *left_size - 1;
        return true;
    }
    const json_t *a = json_array_get(json, 0), *b = json_array_get(json, 1);
    if (json_array_size(json) != 2 || !json_is_string(a) || !json_is_string(b)) {
        return false;
    }
    *left = json_string_value(a);
    *left_size = json_string_length(a);
    *right = json_string_value(b);
    *right_size = json_string_length(b);
    return true;
}

static sqf_status find_part(const sqf_bpe *bpe, const char *text, size_t n, size_t rank, uint32_t *id, sqf_error *err)
{
    return sqf_vocabulary_find_model(bpe->vocabulary, text, n, id)
               ? SQF_OK
               : sqf_fail(err, SQF_E_FORMAT, "%s: merges[%zu]: token \"%.64s\" is not in the vocabulary", WHERE, rank,
                          text);
}

static sqf_status load_merge(sqf_bpe *bpe, const json_t *json, size_t rank, sqf_buffer *joined, sqf_error *err)
{
    const char *left, *right;
    size_t left_size, right_size;
    uint32_t left_id, right_id, into;
    if (!read_pair(json, &left, &left_size, &right, &right_size)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: merges[%zu]: expected \"left right\" or [\"left\", \"right\"]", WHERE,
                        rank);
    }
    joined->size = 0;
    SQF_TRY(sqf_buffer_append(joined, left, left_size, err));
    SQF_TRY(find_part(bpe, joined->data, left_size, rank, &left_id, err));
    SQF_TRY(find_part(bpe, right, right_size, rank, &right_id, err));
    const size_t cut = bpe->prefix_size; /* the right part loses its prefix when it is joined */
    if (right_size < cut) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: merges[%zu]: \"%.64s\" is shorter than the prefix \"%.16s\"", WHERE,
                        rank, right, bpe->prefix);
    }
    SQF_TRY(sqf_buffer_append(joined, right + cut, right_size - cut, err));
    SQF_TRY(find_part(bpe, joined->data, joined->size, rank, &into, err));
    const uint64_t pair = (uint64_t)left_id << 32 | right_id;
    bpe->merges[merge_slot(bpe, pair)] = (sqf_merge){.pair = pair, .rank = (uint32_t)rank, .into = into};
    return SQF_OK;
}

static sqf_status load_merges(sqf_bpe *bpe, const json_t *json, sqf_error *err)
{
    json_t *merges, *merge;
    size_t i, slots = 16, rank = 0;
    sqf_buffer joined = {0};
    sqf_status status = SQF_OK;
    SQF_TRY(sqf_json_member(json, "merges", JSON_ARRAY, WHERE, &merges, err));
    while (slots / 2 < json_array_size(merges)) {
        slots *= 2;
    }
    bpe->merge_mask = slots - 1;
    SQF_TRY(SQF_ALLOC(&bpe->merges, slots, "merges", err));
    for (i = 0; i < slots; i++) {
        bpe->merges[i].pair = SQF_NO_PAIR;
    }
    json_array_foreach(merges, i, merge)
    {
        /* a version line, as the older merges.txt begins with */
        if (json_is_string(merge) && strncmp(json_string_value(merge), "#version", 8) == 0) {
            continue;
        }
        status = load_merge(bpe, merge, rank++, &joined, err);
        if (status != SQF_OK) {
            break;
        }
    }
    free(joined.data);
    return status;
}

static void find_bytes(sqf_bpe *bpe)
{
    for (unsigned i = 0; i < 256; i++) {
        char text[8];
        uint32_t id;
        snprintf(text, sizeof text, "<0x%02X>", i);
        bpe->bytes[i] = sqf_vocabulary_find_model(bpe->vocabulary, text, 6, &id) ? id : SQF_NO_ID;
    }
}

static sqf_status load_affix(const json_t *json, const char *key, char **out, size_t *size, sqf_error *err)
{
    const char *text = "";
    SQF_TRY(sqf_json_string_find(json, key, WHERE, &text, err));
    *size = strlen(text);
    return sqf_copy_text(out, text, *size, err);
}

static sqf_status load_options(sqf_bpe *bpe, const json_t *json, sqf_error *err)
{
    double dropout = 0;
    const char *unknown = NULL;
    SQF_TRY(sqf_json_real_find(json, "dropout", 0, 1, WHERE, &dropout, err));
    if (dropout > 0) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: dropout: expected null or 0, found %g", WHERE, dropout);
    }
    SQF_TRY(sqf_json_bool_find(json, "fuse_unk", WHERE, &bpe->fuse_unknown, err));
    SQF_TRY(sqf_json_bool_find(json, "byte_fallback", WHERE, &bpe->byte_fallback, err));
    SQF_TRY(sqf_json_bool_find(json, "ignore_merges", WHERE, &bpe->ignore_merges, err));
    SQF_TRY(load_affix(json, "continuing_subword_prefix", &bpe->prefix, &bpe->prefix_size, err));
    SQF_TRY(load_affix(json, "end_of_word_suffix", &bpe->suffix, &bpe->suffix_size, err));
    SQF_TRY(sqf_json_string_find(json, "unk_token", WHERE, &unknown, err));
    if (unknown && !sqf_vocabulary_find_model(bpe->vocabulary, unknown, strlen(unknown), &bpe->unknown)) {
        bpe->unknown = SQF_NO_ID;
        bpe->unknown_missing = true;
    }
    return SQF_OK;
}

sqf_status sqf_bpe_load(const json_t *json, const sqf_vocabulary *vocabulary, sqf_bpe *out, sqf_error *err)
{
    static const char *const KNOWN[] = {"type",
                                        "dropout",
                                        "unk_token",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "continuing_subword_prefix",
                                        "ignore_merges",
                                        "vocab",
                                        "end_of_word_suffix",
                                        "merges",
                                        NULL};
    *out = (sqf_bpe){.vocabulary = vocabulary, .unknown = SQF_NO_ID};
    SQF_TRY(sqf_settings_known(json, KNOWN, WHERE, err));
    SQF_TRY(load_options(out, json, err));
    find_bytes(out);
    return load_merges(out, json, err);
}

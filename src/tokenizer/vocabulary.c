/* The tokens by text and by id. */
#include "tokenizer/vocabulary.h"

#include <string.h>
#include <xxhash.h>

sqf_status sqf_vocabulary_create(sqf_vocabulary *out, size_t size, size_t count, size_t bytes, sqf_error *err)
{
    size_t slots = 16;
    *out = (sqf_vocabulary){.size = size};
    while (slots / 2 < count) { /* at most half full; count is bounded by the file's size */
        slots *= 2;
    }
    out->slot_mask = slots - 1;
    SQF_TRY(SQF_ALLOC(&out->tokens, size, "vocabulary", err));
    SQF_TRY(SQF_ALLOC(&out->slots, slots, "vocabulary", err));
    return sqf_buffer_reserve(&out->texts, bytes, err);
}

void sqf_vocabulary_clear(sqf_vocabulary *vocabulary)
{
    free(vocabulary->texts.data);
    free(vocabulary->tokens);
    free(vocabulary->slots);
    *vocabulary = (sqf_vocabulary){0};
}

/* The slot of a text, or the free one where it would be; *tag is its hash's. */
static size_t find_slot(const sqf_vocabulary *v, const char *text, size_t n, uint32_t *tag)
{
    const uint64_t hash = XXH3_64bits(text, n);
    size_t slot = (size_t)hash & v->slot_mask;
    *tag = (uint32_t)(hash >> 32);
    while (v->slots[slot].entry != 0) {
        const sqf_token *token = &v->tokens[v->slots[slot].entry - 1];
        if (v->slots[slot].tag == *tag && token->length == n && memcmp(v->texts.data + token->offset, text, n) == 0) {
            break;
        }
        slot = (slot + 1) & v->slot_mask;
    }
    return slot;
}

sqf_status sqf_vocabulary_add(sqf_vocabulary *v, const char *text, size_t n, uint32_t id, bool model, sqf_error *err)
{
    sqf_token *token = &v->tokens[id];
    if (token->present) {
        return sqf_fail(err, SQF_E_FORMAT, "tokenizer.json: tokens \"%.64s\" and \"%.64s\" have the same id %u",
                        v->texts.data + token->offset, text, (unsigned)id);
    }
    uint32_t tag;
    const size_t slot = find_slot(v, text, n, &tag);
    if (v->slots[slot].entry != 0) {
        return sqf_fail(err, SQF_E_FORMAT, "tokenizer.json: token \"%.64s\" has two ids, %u and %u", text,
                        (unsigned)(v->slots[slot].entry - 1), (unsigned)id);
    }
    *token = (sqf_token){.offset = v->texts.size, .length = (uint32_t)n, .present = true, .model = model};
    SQF_TRY(sqf_buffer_append(&v->texts, text, n, err));
    SQF_TRY(sqf_buffer_append(&v->texts, "", 1, err));
    v->slots[slot] = (sqf_vocabulary_slot){.entry = id + 1, .tag = tag};
    return SQF_OK;
}

bool sqf_vocabulary_find(const sqf_vocabulary *v, const char *text, size_t n, uint32_t *id)
{
    uint32_t tag;
    const uint32_t entry = v->slots[find_slot(v, text, n, &tag)].entry;
    *id = entry - 1;
    return entry != 0;
}

bool sqf_vocabulary_find_model(const sqf_vocabulary *v, const char *text, size_t n, uint32_t *id)
{
    return sqf_vocabulary_find(v, text, n, id) && v->tokens[*id].model;
}

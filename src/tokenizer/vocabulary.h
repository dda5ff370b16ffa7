/* The tokens by text and by id: the model's own and the added ones. */
#ifndef SQF_TOKENIZER_VOCABULARY_H
#define SQF_TOKENIZER_VOCABULARY_H

#include "base/memory.h"

typedef struct sqf_token {
    size_t offset;   /* of its text in `texts`, NUL-terminated there */
    uint32_t length; /* bytes */
    bool present;    /* false: a hole in the numbering */
    bool model;      /* known to the model itself, not only an added token */
    bool special;
} sqf_token;

typedef struct sqf_vocabulary_slot {
    uint32_t entry; /* an id plus one, 0 = free */
    uint32_t tag;   /* of the text's hash: most texts that differ are told apart without being looked at */
} sqf_vocabulary_slot;

typedef struct sqf_vocabulary {
    sqf_buffer texts;
    sqf_token *tokens;          /* [size], by id */
    size_t size;                /* the largest id plus one */
    sqf_vocabulary_slot *slots; /* hash table */
    size_t slot_mask;
} sqf_vocabulary;

/* Room for `size` ids and `count` tokens of `bytes` bytes together. */
sqf_status sqf_vocabulary_create(sqf_vocabulary *out, size_t size, size_t count, size_t bytes, sqf_error *err);
void sqf_vocabulary_clear(sqf_vocabulary *vocabulary);

/* Adds a token within the room that create made. SQF_E_FORMAT if the id or the text is taken. */
sqf_status sqf_vocabulary_add(sqf_vocabulary *vocabulary, const char *text, size_t n, uint32_t id, bool model,
                              sqf_error *err);

/* The id of a text, or false. */
bool sqf_vocabulary_find(const sqf_vocabulary *vocabulary, const char *text, size_t n, uint32_t *id);

/* The same among the model's own tokens alone. */
bool sqf_vocabulary_find_model(const sqf_vocabulary *vocabulary, const char *text, size_t n, uint32_t *id);

/* The text of an id that is present. */
static inline const char *sqf_vocabulary_text(const sqf_vocabulary *vocabulary, uint32_t id)
{
    return vocabulary->texts.data + vocabulary->tokens[id].offset;
}

#endif

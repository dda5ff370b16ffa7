/* Byte pair encoding: a piece of text to ids by its merges, in the order of their ranks. */
#ifndef SQF_TOKENIZER_BPE_H
#define SQF_TOKENIZER_BPE_H

#include <sqf/tokenizer.h>

#include "base/json.h"
#include "tokenizer/vocabulary.h"

typedef struct sqf_merge {
    uint64_t pair;       /* left id << 32 | right id; SQF_NO_PAIR = free */
    uint32_t rank, into; /* lower ranks go first */
} sqf_merge;

#define SQF_NO_PAIR UINT64_MAX

typedef struct sqf_bpe {
    const sqf_vocabulary *vocabulary; /* borrowed */
    sqf_merge *merges;                /* hash table */
    size_t merge_mask;
    uint32_t unknown;     /* SQF_NO_ID = none */
    bool unknown_missing; /* unk_token is named but not in the vocabulary: an error once it is needed */
    uint32_t bytes[256];  /* ids of "<0x00>" to "<0xFF>", SQF_NO_ID where missing */
    bool fuse_unknown, byte_fallback, ignore_merges;
    char *prefix, *suffix; /* continuing_subword_prefix, end_of_word_suffix; owned, "" = none */
    size_t prefix_size, suffix_size;
} sqf_bpe;

#define SQF_NO_ID UINT32_MAX

/* Reads the member "model" without its vocabulary, which `vocabulary` holds already. Clear in every case. */
sqf_status sqf_bpe_load(const json_t *json, const sqf_vocabulary *vocabulary, sqf_bpe *out, sqf_error *err);
void sqf_bpe_clear(sqf_bpe *bpe);

/* What one thread needs to encode: grows with the longest piece. Zero-initialise; sqf_bpe_scratch_clear. */
typedef struct sqf_bpe_scratch {
    struct sqf_symbol *symbols;
    struct sqf_candidate *heap;
    size_t symbol_count, symbol_capacity, heap_count, heap_capacity;
    sqf_buffer spelled; /* a character with prefix or suffix */
} sqf_bpe_scratch;

void sqf_bpe_scratch_clear(sqf_bpe_scratch *scratch);

/* Appends the ids of n > 0 bytes of valid UTF-8. O(n log n). A character without a token becomes the unknown token,
 * or nothing if the model names none (as in the library that writes these files); SQF_E_VALUE if the one that it
 * names does not exist. */
sqf_status sqf_bpe_encode(const sqf_bpe *bpe, const char *text, size_t n, sqf_bpe_scratch *scratch, sqf_ids *ids,
                          sqf_error *err);

/* Appends one id. */
sqf_status sqf_ids_append(sqf_ids *ids, uint32_t id, sqf_error *err);

#endif

/* Pre-tokenizers: where a text is cut before the model sees it. */
#ifndef SQF_TOKENIZER_PRETOKENIZER_H
#define SQF_TOKENIZER_PRETOKENIZER_H

#include "base/json.h"
#include "tokenizer/pieces.h"

typedef struct sqf_pretokenizer sqf_pretokenizer;

/* A list of steps: sequences are flattened. */
typedef struct sqf_pretokenizers {
    sqf_pretokenizer *steps;
    size_t count;
} sqf_pretokenizers;

/* Reads the member "pre_tokenizer" (NULL: none). `out` is left consistent on failure: clear it in every case. */
sqf_status sqf_pretokenizers_load(const json_t *json, sqf_pretokenizers *out, sqf_error *err);
void sqf_pretokenizers_clear(sqf_pretokenizers *pretokenizers);

/* Runs all steps on all pieces. */
sqf_status sqf_pretokenizers_run(const sqf_pretokenizers *pretokenizers, sqf_pieces *pieces, sqf_matcher *matcher,
                                 sqf_error *err);

/* How a Metaspace marks the begin of a text. */
typedef enum sqf_prepend { SQF_PREPEND_ALWAYS, SQF_PREPEND_FIRST, SQF_PREPEND_NEVER } sqf_prepend;

/* The settings of a Metaspace, which pre-tokenizer and decoder share. */
typedef struct sqf_metaspace {
    char replacement[5]; /* one character, NUL-terminated */
    size_t size;         /* its bytes */
    sqf_prepend prepend;
    bool split;
} sqf_metaspace;

sqf_status sqf_metaspace_load(const json_t *json, const char *where, sqf_metaspace *out, sqf_error *err);

#endif

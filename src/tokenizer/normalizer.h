/* Normalizers: what is done to a text before it is cut. */
#ifndef SQF_TOKENIZER_NORMALIZER_H
#define SQF_TOKENIZER_NORMALIZER_H

#include "base/json.h"
#include "tokenizer/pieces.h"

typedef struct sqf_normalizer sqf_normalizer;

/* A list of steps: sequences are flattened. */
typedef struct sqf_normalizers {
    sqf_normalizer *steps;
    size_t count;
} sqf_normalizers;

/* Reads the member "normalizer" (NULL: none). `out` is left consistent on failure: clear it in every case. */
sqf_status sqf_normalizers_load(const json_t *json, sqf_normalizers *out, sqf_error *err);
void sqf_normalizers_clear(sqf_normalizers *normalizers);

/* Normalizes the text of each piece on its own. */
sqf_status sqf_normalizers_run(const sqf_normalizers *normalizers, sqf_pieces *pieces, sqf_matcher *matcher,
                               sqf_error *err);

/* Normalizes one text of its own, appended to `out`. */
sqf_status sqf_normalizers_text(const sqf_normalizers *normalizers, const char *text, size_t n, sqf_buffer *out,
                                sqf_error *err);

#endif

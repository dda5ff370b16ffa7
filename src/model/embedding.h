/* The embedding: rows of a [vocabulary, hidden] matrix, looked up by token id. Floats in the mapping, or a quantized
 * matrix whose rows are dequantized when they are asked for. */
#ifndef SQF_MODEL_EMBEDDING_H
#define SQF_MODEL_EMBEDDING_H

#include "model/checkpoint.h"

/* Immutable once loaded. */
typedef struct sqf_embedding {
    const sqf_tensor *tensor; /* unquantized: in the mapping; else NULL */
    sqf_stored_linear stored; /* quantized: borrows the mapping */
    size_t columns;
} sqf_embedding;

/* Loads and checks it whole: hash, values, codes. Release with sqf_embedding_clear, also after a failure. */
sqf_status sqf_embedding_load(const sqf_checkpoint *checkpoint, sqf_context *context, sqf_embedding *out,
                              sqf_error *err);
void sqf_embedding_clear(sqf_embedding *embedding);

/* Scratch of look-ups, one row for each thread of a context; made by sqf_lookup_prepare, or the first look-up that
 * needs it. Zero-initialise. */
typedef struct sqf_lookup {
    sqf_row *rows;
    size_t count;
} sqf_lookup;
sqf_status sqf_lookup_prepare(sqf_context *context, const sqf_embedding *embedding, sqf_lookup *lookup, sqf_error *err);
void sqf_lookup_clear(sqf_lookup *lookup);

/* x [count, hidden] = the rows of `ids`, all below the vocabulary. One caller at a time on a scratch, which belongs to
 * one embedding and one context. SQF_E_MEMORY where the scratch was not prepared. */
sqf_status sqf_embedding_rows(sqf_context *context, const sqf_embedding *embedding, sqf_lookup *lookup,
                              const uint32_t *ids, size_t count, float *x, sqf_error *err);

#endif

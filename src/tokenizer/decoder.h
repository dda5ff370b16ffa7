/* Decoders: tokens back to text. */
#ifndef SQF_TOKENIZER_DECODER_H
#define SQF_TOKENIZER_DECODER_H

#include "base/json.h"
#include "tokenizer/regex/regex.h"

/* A list of texts in one buffer. Zero-initialise; sqf_texts_clear. */
typedef struct sqf_texts {
    sqf_buffer bytes;
    size_t *ends; /* of each text in `bytes` */
    size_t count, capacity;
} sqf_texts;

void sqf_texts_clear(sqf_texts *texts);

/* Appends a text. */
sqf_status sqf_texts_add(sqf_texts *texts, const char *text, size_t n, sqf_error *err);

typedef struct sqf_decoder sqf_decoder;

/* A list of steps: sequences are flattened. */
typedef struct sqf_decoders {
    sqf_decoder *steps;
    size_t count;
    bool present; /* false: the tokens are joined by spaces */
} sqf_decoders;

/* Reads the member "decoder" (NULL: none). `out` is left consistent on failure: clear it in every case. */
sqf_status sqf_decoders_load(const json_t *json, sqf_decoders *out, sqf_error *err);
void sqf_decoders_clear(sqf_decoders *decoders);

/* Appends the text of `tokens`, which is used up.
 * raw: bytes that are not UTF-8 are left as they are, for a stream that may still complete them. */
sqf_status sqf_decoders_run(const sqf_decoders *decoders, sqf_texts *tokens, bool raw, sqf_buffer *out, sqf_error *err);

#endif

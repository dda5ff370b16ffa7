/* Texts to token ids by the rules of lm-eval. */
#ifndef SQF_TASKS_ENCODE_H
#define SQF_TASKS_ENCODE_H

#include <sqf/tokenizer.h>

#include "base/memory.h"

/* What goes into the model to score one continuation: after input[count - targets.count + i] comes targets[i]. */
typedef struct sqf_encoded {
    sqf_ids input;   /* context and continuation without its last token, cut at the left to the positions */
    sqf_ids targets; /* the continuation, at least one, at most as many as input has */
    bool truncated;
} sqf_encoded;

void sqf_encoded_clear(sqf_encoded *encoded);

/* Encodes a pair. White space at the end of the context goes to the continuation; both are encoded together with the
 * special tokens of the tokenizer, and what is longer than the context alone is the continuation. A context without
 * anything else is the token `prefix`.
 * SQF_E_VALUE: nothing is left for the continuation; it is longer than `positions`; `where` begins the message. */
sqf_status sqf_encode_pair(const sqf_tokenizer *tokenizer, uint32_t prefix, const char *context,
                           const char *continuation, size_t positions, const char *where, sqf_encoded *out,
                           sqf_error *err);

/* The token that stands for an empty context: bos_token of tokenizer_config.json, else its eos_token, else
 * `otherwise`. A file that cannot be read counts as absent, like everything in it that is not a known token. */
uint32_t sqf_prefix_id(const sqf_tokenizer *tokenizer, const char *model_directory, uint32_t otherwise);

/* How many ids two lists have in common at the beginning. */
size_t sqf_common_prefix(const uint32_t *a, size_t a_count, const uint32_t *b, size_t b_count);

#endif

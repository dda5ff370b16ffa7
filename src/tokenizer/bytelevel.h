/* The byte-level alphabet: each byte written as one printable character (GPT-2's table). */
#ifndef SQF_TOKENIZER_BYTELEVEL_H
#define SQF_TOKENIZER_BYTELEVEL_H

#include "tokenizer/pieces.h"

/* A transform (sqf_transform_fn; `user` is not used): bytes to their characters. */
sqf_status sqf_bytelevel_encode(const void *user, const char *text, size_t n, size_t *origin, sqf_matcher *matcher,
                                sqf_buffer *out, sqf_error *err);

/* Appends the bytes of a token; a token with a character outside of the alphabet is taken as it stands. */
sqf_status sqf_bytelevel_decode(sqf_buffer *out, const char *token, size_t n, sqf_error *err);

#endif

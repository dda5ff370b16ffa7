/* Random damage to the bytes of a file. */
#ifndef SQF_TESTS_HOSTILE_MUTATION_H
#define SQF_TESTS_HOSTILE_MUTATION_H

#include "base/memory.h"
#include "base/random.h"

/* What a file is decides which damage makes sense beside that of its plain bytes. */
typedef enum mutation_kind { MUTATE_BYTES, MUTATE_JSON, MUTATE_SAFETENSORS } mutation_kind;

/* Makes *out (freed by the caller) a damaged copy of bytes[n]. The same random state makes the same damage. */
void mutate(mutation_kind kind, const uint8_t *bytes, size_t n, sqf_random *random, sqf_buffer *out);

#endif

/* Content hashes: XXH3 with 128 bits, as 32 lower-case hexadecimal digits. */
#ifndef SQF_BASE_HASH_H
#define SQF_BASE_HASH_H

#include <stddef.h>

enum { SQF_HASH_TEXT = 33 };

/* Writes 32 digits and a NUL. */
void sqf_hash_bytes(const void *bytes, size_t n, char text[SQF_HASH_TEXT]);

#endif

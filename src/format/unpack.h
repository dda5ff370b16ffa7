/* Packed codes of a stored row as one byte each: what checking and repacking read, 16 codes at a time. The inverse of
 * sqf_codes_pack (docs/format.md section 7, packed rows). */
#ifndef SQF_FORMAT_UNPACK_H
#define SQF_FORMAT_UNPACK_H

#include <stddef.h>
#include <stdint.h>

/* n codes of `bits` (1..8) bits from the first ceil(n * bits / 8) bytes of `packed`, which must start a byte. */
void sqf_codes_unpack(const uint8_t *packed, size_t n, unsigned bits, uint8_t *codes);

/* How many of n bytes are `code`. */
size_t sqf_codes_count(const uint8_t *codes, size_t n, uint8_t code);

#endif

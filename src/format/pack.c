/* Rows of codes, one a byte, into packed rows: eight codes at a time inside one 64-bit word, which costs about one
 * instruction a code at any width and needs no vector instructions. */
#include "format/matrix.h"

#include <string.h>

/* Eight codes, the first in the lowest byte, moved together: neighbours first, then pairs, then fours. */
static uint64_t join_codes(uint64_t x, unsigned bits)
{
    const uint64_t bytes = 0x00ff00ff00ff00ffu, pairs = 0x0000ffff0000ffffu, fours = 0x00000000ffffffffu;
    x = (x & bytes) | (x & ~bytes) >> (8 - bits);
    x = (x & pairs) | (x & ~pairs) >> (16 - 2 * bits);
    return (x & fours) | (x & ~fours) >> (32 - 4 * bits);
}

static uint64_t load_codes(const uint8_t *codes, size_t n)
{
    uint64_t x = 0;
    for (size_t i = 0; i < n; i++) {
        x |= (uint64_t)codes[i] << 8 * i;
    }
    return x;
}

static void store_bytes(uint64_t x, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(x >> 8 * i);
    }
}

/* `bits` is a constant where this is inlined, so that shifts and copies are. */
static inline __attribute__((always_inline)) void pack(const uint8_t *codes, size_t n, unsigned bits, uint8_t *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8, out += bits) {
        store_bytes(join_codes(load_codes(codes + i, 8), bits), bits, out);
    }
    if (i < n) {
        store_bytes(join_codes(load_codes(codes + i, n - i), bits), ((n - i) * bits + 7) / 8, out);
    }
}

/* The most common width, in a loop that compilers turn into vectors. */
static void pack_nibbles(const uint8_t *restrict codes, size_t n, uint8_t *restrict out)
{
    for (size_t i = 0; i < n / 2; i++) {
        out[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
    }
    if (n % 2 != 0) {
        out[n / 2] = codes[n - 1];
    }
}

void sqf_codes_pack(const uint8_t *codes, size_t n, unsigned bits, uint8_t *out)
{
    switch (bits) {
    case 1: pack(codes, n, 1, out); return;
    case 2: pack(codes, n, 2, out); return;
    case 3: pack(codes, n, 3, out); return;
    case 4: pack_nibbles(codes, n, out); return;
    case 5: pack(codes, n, 5, out); return;
    case 6: pack(codes, n, 6, out); return;
    case 7: pack(codes, n, 7, out); return;
    default: memcpy(out, codes, n); return;
    }
}

/* Unpacking of codes and counting among them, in vectors of 16 bytes: what every x86-64 and every 64-bit Arm has, so
 * that loading needs no instruction set of its own. Loading is bound by memory with these already. */
#include "format/unpack.h"

#include <string.h>

enum { WIDTH = 16 };

typedef uint8_t bytes16 __attribute__((vector_size(WIDTH)));

static bytes16 load(const uint8_t *from)
{
    bytes16 v;
    memcpy(&v, from, sizeof v);
    return v;
}

static void store(uint8_t *to, bytes16 v)
{
    memcpy(to, &v, sizeof v);
}

/* a0 b0 a1 b1 ...: 16 of each become 32 bytes. */
static void store_interleaved(uint8_t *to, bytes16 a, bytes16 b)
{
    store(to, __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    store(to + WIDTH, __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
}

/* All of these return how many codes they unpacked: whole vectors alone. */
static size_t unpack4(const uint8_t *packed, size_t n, uint8_t *codes)
{
    size_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        const bytes16 v = load(packed + i / 2);
        store_interleaved(codes + i, v & 15, v >> 4);
    }
    return i;
}

/* Interleaved twice: the codes 0, 2, ... of each byte with 1, 3, ... of it, then both in turn. */
static size_t unpack2(const uint8_t *packed, size_t n, uint8_t *codes)
{
    uint8_t pairs[4 * WIDTH];
    size_t i = 0;
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH) {
        const bytes16 v = load(packed + i / 4);
        store_interleaved(pairs, v & 15, v >> 4);
        for (size_t half = 0; half < 2; half++) {
            const bytes16 pair = load(pairs + half * WIDTH);
            store_interleaved(codes + i + 2 * half * WIDTH, pair & 3, pair >> 2);
        }
    }
    return i;
}

/* Eight codes from `bits` bytes. A load of 8 bytes must stay inside the row. */
static size_t unpack_eights(const uint8_t *packed, size_t n, unsigned bits, uint8_t *codes)
{
    const uint64_t mask = (1u << bits) - 1u;
    const size_t bytes = n * bits / 8;
    size_t i = 0;
    for (; i + 8 <= n && i / 8 * bits + 8 <= bytes; i += 8) {
        uint64_t held = 0;
        for (unsigned b = 0; b < 8; b++) {
            held |= (uint64_t)packed[i / 8 * bits + b] << 8 * b;
        }
        for (unsigned j = 0; j < 8; j++) {
            codes[i + j] = (uint8_t)(held >> bits * j & mask);
        }
    }
    return i;
}

void sqf_codes_unpack(const uint8_t *packed, size_t n, unsigned bits, uint8_t *codes)
{
    if (bits == 8) {
        memcpy(codes, packed, n);
        return;
    }
    const size_t done = bits == 4   ? unpack4(packed, n, codes)
                        : bits == 2 ? unpack2(packed, n, codes)
                                    : unpack_eights(packed, n, bits, codes);
    /* Whole vectors and eights end with a byte, so the rest begins one. */
    unsigned held = 0, count = 0;
    const uint8_t *next = packed + done * bits / 8;
    for (size_t i = done; i < n; i++) {
        if (count < bits) {
            held |= (unsigned)*next++ << count;
            count += 8;
        }
        codes[i] = (uint8_t)(held & ((1u << bits) - 1u));
        held >>= bits;
        count -= bits;
    }
}

size_t sqf_codes_count(const uint8_t *codes, size_t n, uint8_t code)
{
    size_t count = 0, i = 0;
    while (i + WIDTH <= n) {
        /* A lane counts to 255 at most before the lanes are added up. */
        const size_t rest = (n - i) / WIDTH, vectors = rest < 255 ? rest : 255;
        bytes16 lanes = {0};
        for (size_t v = 0; v < vectors; v++, i += WIDTH) {
            lanes -= (bytes16)(load(codes + i) == code);
        }
        uint64_t halves[2];
        memcpy(halves, &lanes, sizeof halves);
        for (int h = 0; h < 2; h++) {
            const uint64_t even = halves[h] & 0x00ff00ff00ff00ffu, odd = halves[h] >> 8 & 0x00ff00ff00ff00ffu;
            count += (even + odd) * 0x0001000100010001u >> 48;
        }
    }
    for (; i < n; i++) {
        count += codes[i] == code;
    }
    return count;
}

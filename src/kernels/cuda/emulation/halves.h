/* Emulation of CUDA on the host: arithmetic of pairs of 16-bit floats in a register, logic of three operands. */
#ifndef SQF_KERNELS_CUDA_EMULATION_HALVES_H
#define SQF_KERNELS_CUDA_EMULATION_HALVES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* The value of an fp16, exactly: the fields lie in a float alike, but for the bias of the exponent, which a product
 * moves, denormals included. */
static inline double emulated_fp16_value(uint32_t bits)
{
    const uint32_t magnitude = bits & 0x7fff,
                   word = magnitude >= 0x7c00 ? 0x7f800000u | magnitude << 13 : magnitude << 13;
    float x;
    memcpy(&x, &word, sizeof x);
    x *= magnitude >= 0x7c00 ? 1.0f : 0x1p112f;
    return bits & 0x8000 ? -x : x;
}

static inline double emulated_bf16_value(uint32_t bits)
{
    const uint32_t word = bits << 16;
    float x;
    memcpy(&x, &word, sizeof x);
    return x;
}

/* The nearest float of 1 + `fraction` bits, smallest normal exponent `lowest`, ties to even; infinity beyond `largest`.
 * The sum with 1.5 * 2^52 units of the last place rounds. */
static inline double emulated_round(double x, int fraction, int lowest, double largest)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff) - 1023;
    if (exponent == 1024) {
        return x; /* infinite or not a number */
    }
    if (exponent > 128) {
        return copysign(INFINITY, x); /* beyond every type; and `start` stays finite */
    }
    exponent = exponent < lowest ? lowest : exponent;
    const uint64_t start_bits = (uint64_t)(exponent - fraction + 52 + 1023) << 52 | 1ull << 51;
    double start;
    memcpy(&start, &start_bits, sizeof start);
    const double rounded = fabs(x) + start - start;
    return copysign(rounded > largest ? INFINITY : rounded, x);
}

static inline uint32_t emulated_fp16_bits(double x)
{
    const float y = (float)emulated_round(x, 10, -14, 65504.0);
    const float small = fabsf(y) * 0x1p-112f; /* exact, denormals included */
    uint32_t word;
    memcpy(&word, &small, sizeof word);
    const uint32_t sign = signbit(y) ? 0x8000 : 0;
    return y != y ? 0x7fff : sign | (fabsf(y) > 65504.0f ? 0x7c00 : word >> 13);
}

static inline uint32_t emulated_bf16_bits(double x)
{
    const float y = (float)emulated_round(x, 7, -126, 3.3895313892515355e38);
    uint32_t word;
    memcpy(&word, &y, sizeof word);
    return y != y ? 0x7fff : word >> 16;
}

static inline uint32_t fma_fp16x2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d = 0;
    for (int i = 0; i < 32; i += 16) {
        const double product = emulated_fp16_value(a >> i & 0xffff) * emulated_fp16_value(b >> i & 0xffff);
        d |= emulated_fp16_bits(product + emulated_fp16_value(c >> i & 0xffff)) << i;
    }
    return d;
}

static inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d = 0;
    for (int i = 0; i < 32; i += 16) {
        const double product = emulated_bf16_value(a >> i & 0xffff) * emulated_bf16_value(b >> i & 0xffff);
        d |= emulated_bf16_bits(product + emulated_bf16_value(c >> i & 0xffff)) << i;
    }
    return d;
}

static inline uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c)
{
    return (a & b) ^ c;
}

static inline uint32_t and_not_and(uint32_t a, uint32_t b, uint32_t c)
{
    return a & ~b & c;
}

static inline uint32_t permute_bytes(uint32_t x, uint32_t y, uint32_t selector)
{
    const uint64_t both = (uint64_t)y << 32 | x;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t choice = selector >> 4 * i & 15, byte = both >> 8 * (choice & 7) & 0xff;
        result |= (choice & 8 ? (byte & 0x80 ? 0xff : 0) : byte) << 8 * i;
    }
    return result;
}

#endif

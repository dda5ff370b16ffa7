/* Emulation of CUDA on the host: arithmetic of pairs of 16-bit floats in a register, logic of three operands.
 */
#ifndef SQF_KERNELS_CUDA_EMULATION_HALVES_H
#define SQF_KERNELS_CUDA_EMULATION_HALVES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* The value of an fp16, exactly. */
static inline double emulated_fp16_value(uint32_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                             : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                            : ldexp(fraction, -24);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static inline double emulated_bf16_value(uint32_t bits)
{
    const uint32_t word = bits << 16;
    float x;
    memcpy(&x, &word, sizeof x);
    return x;
}

/* The nearest float of 1 + `fraction` bits, smallest normal exponent `lowest`, ties to even. */
static inline double emulated_round(double x, int fraction, int lowest, double largest)
{
    if (x == 0 || x != x || x - x != 0) {
        return x;
    }
    int exponent;
    (void)frexp(x, &exponent);
    exponent = exponent - 1 < lowest ? lowest : exponent - 1;
    const double unit = ldexp(1.0, exponent - fraction), rounded = nearbyint(x / unit) * unit;
    return fabs(rounded) > largest ? copysign(INFINITY, x) : rounded;
}

static inline uint32_t emulated_fp16_bits(double x)
{
    const double y = emulated_round(x, 10, -14, 65504.0), magnitude = fabs(y);
    const uint32_t sign = signbit(y) ? 0x8000 : 0;
    if (y != y) {
        return 0x7fff;
    }
    if (magnitude > 65504.0) {
        return sign | 0x7c00;
    }
    if (magnitude < ldexp(1.0, -14)) {
        return sign | (uint32_t)ldexp(magnitude, 24);
    }
    int exponent;
    const double significand = frexp(magnitude, &exponent);
    return sign | (uint32_t)(exponent + 14) << 10 | ((uint32_t)ldexp(significand, 11) & 1023);
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

/* A small seeded generator (splitmix64, Steele, Lea and Flood 2014): the same numbers on every machine and with every
 * C library, which rand() does not promise. For sampling and shuffling, not for secrets. */
#ifndef SQF_BASE_RANDOM_H
#define SQF_BASE_RANDOM_H

#include <stdint.h>

typedef struct sqf_random {
    uint64_t state;
} sqf_random;

static inline uint64_t sqf_random_u64(sqf_random *random)
{
    uint64_t z = (random->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1) with 53 random bits. */
static inline double sqf_random_unit(sqf_random *random)
{
    return (double)(sqf_random_u64(random) >> 11) * 0x1p-53;
}

/* Uniform in 0..n-1; n > 0. The bias of the plain multiplication is below 2^-32 for n < 2^32. */
static inline uint64_t sqf_random_below(sqf_random *random, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)sqf_random_u64(random) * n) >> 64);
}

#endif

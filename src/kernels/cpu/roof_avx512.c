/* What the AVX-512 kernels can do at most: vpdpbusd and float32 multiply-adds. Runs only where sqf_kernels_find found
 * the level. */
#if SQF_ARCH_X86
#include "kernels/roof.h"

#include <immintrin.h>

enum { CHAINS = 16 };

/* So that no value is known to the compiler and no step is left out. */
#define OPAQUE(x) __asm__ volatile("" : "+v"(x))

static uint64_t dot_products(uint64_t steps)
{
    __m512i sums[CHAINS], x = _mm512_set1_epi8(1);
    OPAQUE(x);
#pragma GCC unroll 16
    for (int j = 0; j < CHAINS; j++) {
        sums[j] = x;
    }
    for (uint64_t i = 0; i < steps / CHAINS; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < CHAINS; j++) {
            sums[j] = _mm512_dpbusd_epi32(sums[j], x, x);
            OPAQUE(sums[j]);
        }
    }
    uint64_t result = 0;
#pragma GCC unroll 16
    for (int j = 0; j < CHAINS; j++) {
        result += (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(sums[j]));
    }
    return result;
}

static uint64_t fused(uint64_t steps)
{
    __m512 sums[CHAINS], x = _mm512_set1_ps(1.0f);
    OPAQUE(x);
#pragma GCC unroll 16
    for (int j = 0; j < CHAINS; j++) {
        sums[j] = x;
    }
    for (uint64_t i = 0; i < steps / CHAINS; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < CHAINS; j++) {
            sums[j] = _mm512_fmadd_ps(x, x, sums[j]);
            OPAQUE(sums[j]);
        }
    }
    uint64_t result = 0;
#pragma GCC unroll 16
    for (int j = 0; j < CHAINS; j++) {
        result += (uint64_t)_mm_cvtsi128_si64(_mm_castps_si128(_mm512_castps512_ps128(sums[j])));
    }
    return result;
}

const sqf_roof_loop sqf_roofs_avx512[] = {
    {"vpdpbusd zmm", true, 64, dot_products},
    {"vfmadd231ps zmm", false, 16, fused},
    {0},
};
#endif

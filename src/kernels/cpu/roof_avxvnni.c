/* What the AVX-VNNI kernels can do at most: vpdpbusd on the registers of AVX2. Runs only where sqf_kernels_find found
 * the level. */
#if SQF_ARCH_X86
#include "kernels/roof.h"

#include <immintrin.h>

enum { CHAINS = 8 };

/* So that no value is known to the compiler and no step is left out. */
#define OPAQUE(x) __asm__ volatile("" : "+x"(x))

static uint64_t dot_products(uint64_t steps)
{
    __m256i sums[CHAINS], x = _mm256_set1_epi8(1);
    OPAQUE(x);
#pragma GCC unroll 8
    for (int j = 0; j < CHAINS; j++) {
        sums[j] = x;
    }
    for (uint64_t i = 0; i < steps / CHAINS; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < CHAINS; j++) {
            sums[j] = _mm256_dpbusd_avx_epi32(sums[j], x, x);
            OPAQUE(sums[j]);
        }
    }
    uint64_t result = 0;
#pragma GCC unroll 8
    for (int j = 0; j < CHAINS; j++) {
        result += (uint64_t)_mm256_extract_epi64(sums[j], 0);
    }
    return result;
}

static uint64_t fused(uint64_t steps)
{
    __m256 sums[CHAINS], x = _mm256_set1_ps(1.0f);
    OPAQUE(x);
#pragma GCC unroll 8
    for (int j = 0; j < CHAINS; j++) {
        sums[j] = x;
    }
    for (uint64_t i = 0; i < steps / CHAINS; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < CHAINS; j++) {
            sums[j] = _mm256_fmadd_ps(x, x, sums[j]);
            OPAQUE(sums[j]);
        }
    }
    uint64_t result = 0;
#pragma GCC unroll 8
    for (int j = 0; j < CHAINS; j++) {
        result += (uint64_t)_mm256_extract_epi64(_mm256_castps_si256(sums[j]), 0);
    }
    return result;
}

const sqf_roof_loop sqf_roofs_avxvnni[] = {
    {"vpdpbusd ymm", true, 32, dot_products},
    {"vfmadd231ps ymm", false, 8, fused},
    {0},
};
#endif

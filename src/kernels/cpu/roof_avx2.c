/* What the AVX2 kernels can do at most: the two ways of adding byte products, and float32 multiply-adds. Runs only
 * where sqf_kernels_find found the level. */
#if SQF_ARCH_X86
#include "kernels/cpu/roof_loop.h"

#include <immintrin.h>

enum { CHAINS = 8 };

#define OPAQUE(x) __asm__ volatile("" : "+x"(x))

/* Pairs widened at once: vpmaddubsw, vpmaddwd and vpaddd for 32 products. */
ROOF_LOOP(widened, __m256i, x, __m256i, _mm256_set1_epi8(1),
          _mm256_add_epi32(sums[j], _mm256_madd_epi16(_mm256_maddubs_epi16(sums[j], x), _mm256_set1_epi16(1))))
ROOF_LOOP(fused, __m256, x, __m256, _mm256_set1_ps(1.0f), _mm256_fmadd_ps(x, x, sums[j]))

/* Pairs added in 16 bits, widened every eighth time: what bounded weights allow. */
static uint64_t widened_late(uint64_t steps)
{
    enum { GROUPS = 4, PAIRS = 8 };
    __m256i sums[GROUPS], x = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (int j = 0; j < GROUPS; j++) {
        sums[j] = x;
    }
    for (uint64_t i = 0; i < steps / (GROUPS * PAIRS); i++) {
        __m256i pairs[GROUPS];
#pragma GCC unroll 4
        for (int j = 0; j < GROUPS; j++) {
            pairs[j] = _mm256_maddubs_epi16(x, sums[j]);
        }
#pragma GCC unroll 7
        for (int p = 1; p < PAIRS; p++) {
#pragma GCC unroll 4
            for (int j = 0; j < GROUPS; j++) {
                __m256i codes = x;
                OPAQUE(codes); /* or the product would be taken out of the loop */
                pairs[j] = _mm256_add_epi16(pairs[j], _mm256_maddubs_epi16(x, codes));
                OPAQUE(pairs[j]);
            }
        }
#pragma GCC unroll 4
        for (int j = 0; j < GROUPS; j++) {
            sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(pairs[j], ones));
        }
    }
    uint64_t result = 0;
#pragma GCC unroll 4
    for (int j = 0; j < GROUPS; j++) {
        result += (uint64_t)_mm256_extract_epi64(sums[j], 0);
    }
    return result;
}

const sqf_roof_loop sqf_roofs_avx2[] = {
    {"vpmaddubsw + vpmaddwd + vpaddd", true, 32, widened},
    {"vpmaddubsw + vpaddw, widened every 8", true, 32, widened_late},
    {"vfmadd231ps ymm", false, 8, fused},
    {0},
};
#endif

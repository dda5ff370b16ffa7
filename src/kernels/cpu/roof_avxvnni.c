/* What the AVX-VNNI kernels can do at most: vpdpbusd on the registers of AVX2. Runs only where sqf_kernels_find found
 * the level. */
#if SQF_ARCH_X86
#include "kernels/cpu/roof_loop.h"

#include <immintrin.h>

enum { CHAINS = 8 };

#define OPAQUE(x) __asm__ volatile("" : "+x"(x))

ROOF_LOOP(dot_products, __m256i, x, __m256i, _mm256_set1_epi8(1), _mm256_dpbusd_avx_epi32(sums[j], x, x))
ROOF_LOOP(fused, __m256, x, __m256, _mm256_set1_ps(1.0f), _mm256_fmadd_ps(x, x, sums[j]))

const sqf_roof_loop sqf_roofs_avxvnni[] = {
    {"vpdpbusd ymm", true, 32, dot_products},
    {"vfmadd231ps ymm", false, 8, fused},
    {0},
};
#endif

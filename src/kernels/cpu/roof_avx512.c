/* What the AVX-512 kernels can do at most: vpdpbusd and float32 multiply-adds. Runs only where sqf_kernels_find found
 * the level. */
#if SQF_ARCH_X86
#include "kernels/cpu/roof_loop.h"

#include <immintrin.h>

enum { CHAINS = 16 };

#define OPAQUE(x) __asm__ volatile("" : "+v"(x))

ROOF_LOOP(dot_products, __m512i, x, __m512i, _mm512_set1_epi8(1), _mm512_dpbusd_epi32(sums[j], x, x))
ROOF_LOOP(fused, __m512, x, __m512, _mm512_set1_ps(1.0f), _mm512_fmadd_ps(x, x, sums[j]))

const sqf_roof_loop sqf_roofs_avx512[] = {
    {"vpdpbusd zmm", true, 64, dot_products},
    {"vfmadd231ps zmm", false, 16, fused},
    {0},
};
#endif

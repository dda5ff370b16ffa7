/* The multiply of the AVX-512 kernels. */
#ifndef SQF_KERNELS_CPU_PRODUCTS_AVX512_H
#define SQF_KERNELS_CPU_PRODUCTS_AVX512_H

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* sums + four products of a lane. Written as an instruction because gcc 12 copies the sums of the intrinsic from
 * register to register and spills them on the way. */
INLINE __m512i add_products(__m512i sums, __m512i weights, __m512i codes)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(codes));
    return sums;
}

#endif

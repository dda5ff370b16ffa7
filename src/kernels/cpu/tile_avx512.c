/* The integer tile for AVX-512 with VNNI. */
#if SQF_ARCH_X86
#include "kernels/kernels.h"

void sqf_kernels_add_avx512(sqf_kernels *kernels)
{
    sqf_vector_add_avx512(kernels);
}
#endif

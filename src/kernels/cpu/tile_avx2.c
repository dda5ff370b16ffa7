/* The integer tile for AVX2. */
#if SQF_ARCH_X86
#include "kernels/kernels.h"

void sqf_kernels_add_avx2(sqf_kernels *kernels)
{
    sqf_vector_add_avx2(kernels);
}
#endif

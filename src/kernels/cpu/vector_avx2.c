/* The vector kernels compiled for AVX2. */
#if SQF_ARCH_X86
#define VECTOR_SUFFIX avx2
#define LANES         8
#include "kernels/cpu/vector.h"
#endif

/* The vector kernels compiled for AVX-512. */
#if SQF_ARCH_X86
#define VECTOR_SUFFIX avx512
#define LANES         16
#include "kernels/cpu/vector.h"
#endif

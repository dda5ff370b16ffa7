/* The vector kernels compiled for the baseline instruction set. */
#define VECTOR_SUFFIX scalar
#define LANES         4
#include "kernels/cpu/vector.h"

/* The vector kernels compiled for the baseline instruction set. */
#define VECTOR_SUFFIX scalar
#include "kernels/cpu/vector.h"

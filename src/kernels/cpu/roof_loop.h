/* One loop of a roof: a step in independent chains of a vector type. The file that includes this defines CHAINS, at
 * most 16, and OPAQUE(x), which hides a value from the compiler so that no step is left out. `step` may use sums[j]
 * and the operand x. */
#include "kernels/roof.h"

#define ROOF_LOOP(name, sum_type, zero, operand_type, one, step)                                                       \
    static uint64_t name(uint64_t steps)                                                                               \
    {                                                                                                                  \
        sum_type sums[CHAINS];                                                                                         \
        operand_type x = one;                                                                                          \
        OPAQUE(x);                                                                                                     \
        _Pragma("GCC unroll 16") for (int j = 0; j < CHAINS; j++)                                                      \
        {                                                                                                              \
            sums[j] = zero;                                                                                            \
        }                                                                                                              \
        for (uint64_t i = 0; i < steps / CHAINS; i++) {                                                                \
            _Pragma("GCC unroll 16") for (int j = 0; j < CHAINS; j++)                                                  \
            {                                                                                                          \
                sums[j] = step;                                                                                        \
                OPAQUE(sums[j]);                                                                                       \
            }                                                                                                          \
        }                                                                                                              \
        uint64_t result = 0;                                                                                           \
        _Pragma("GCC unroll 16") for (int j = 0; j < CHAINS; j++)                                                      \
        {                                                                                                              \
            result += (uint64_t)sums[j][0];                                                                            \
        }                                                                                                              \
        return result;                                                                                                 \
    }

/* One loop of an Arm level: ROOF_STEP(sum, x) in sixteen chains of a vector type. Included by the files of the levels.
 */
#include "kernels/roof.h"

#include <arm_neon.h>

enum { CHAINS = 16 };

/* So that no value is known to the compiler and no step is left out. */
#define OPAQUE(x) __asm__ volatile("" : "+w"(x))

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

ROOF_LOOP(fused, float32x4_t, vdupq_n_f32(0), float32x4_t, vdupq_n_f32(1), vfmaq_f32(sums[j], x, x))

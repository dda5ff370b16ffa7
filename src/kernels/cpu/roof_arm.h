/* What the loops of the Arm levels have in common, and the one that all of them have. Included by the files of the
 * levels. */
#include "kernels/cpu/roof_loop.h"

#include <arm_neon.h>

enum { CHAINS = 16 };

#define OPAQUE(x) __asm__ volatile("" : "+w"(x))

ROOF_LOOP(fused, float32x4_t, vdupq_n_f32(0), float32x4_t, vdupq_n_f32(1), vfmaq_f32(sums[j], x, x))

/* What the kernels for dot products of bytes can do at most. */
#if SQF_ARCH_ARM
#include "kernels/cpu/roof_arm.h"

ROOF_LOOP(dot_products, int32x4_t, vdupq_n_s32(0), int8x16_t, vdupq_n_s8(1), vdotq_s32(sums[j], x, x))

const sqf_roof_loop sqf_roofs_dotprod[] = {
    {"sdot 4s", true, 16, dot_products},
    {"fmla 4s", false, 4, fused},
    {0},
};
#endif

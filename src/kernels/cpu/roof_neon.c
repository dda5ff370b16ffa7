/* What the NEON kernels can do at most: products of bytes in 16 bits, added to 32. */
#if SQF_ARCH_ARM
#include "kernels/cpu/roof_arm.h"

ROOF_LOOP(widened, int32x4_t, vdupq_n_s32(0), int8x8_t, vdup_n_s8(1), vpadalq_s16(sums[j], vmull_s8(x, x)))

const sqf_roof_loop sqf_roofs_neon[] = {
    {"smull + sadalp", true, 8, widened},
    {"fmla 4s", false, 4, fused},
    {0},
};
#endif

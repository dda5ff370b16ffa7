/* What the kernels for products of byte matrices can do at most. */
#if SQF_ARCH_ARM
#include "kernels/cpu/roof_arm.h"

ROOF_LOOP(matrix_products, int32x4_t, vdupq_n_s32(0), int8x16_t, vdupq_n_s8(1), vmmlaq_s32(sums[j], x, x))

const sqf_roof_loop sqf_roofs_i8mm[] = {
    {"smmla 4s", true, 32, matrix_products},
    {"fmla 4s", false, 4, fused},
    {0},
};
#endif

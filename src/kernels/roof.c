/* Which roofs belong to which kernel level, and those of the portable level: whatever the compiler makes of plain C. */
#include "kernels/roof.h"

#include <string.h>

enum { CHAINS = SQF_ROOF_STEPS };

static uint64_t float_loop(uint64_t steps)
{
    float sums[CHAINS] = {0};
    volatile float start = 1.0f; /* not known to the compiler */
    const float factor = start;
    for (uint64_t i = 0; i < steps / CHAINS; i++) {
        for (size_t j = 0; j < CHAINS; j++) {
            sums[j] = sums[j] * factor + factor;
        }
    }
    float sum = 0;
    for (size_t j = 0; j < CHAINS; j++) {
        sum += sums[j];
    }
    return (uint64_t)sum;
}

const sqf_roof_loop sqf_roofs_scalar[] = {
    {"multiply and add", false, 1, float_loop},
    {0},
};

const sqf_roof_loop *sqf_roof_loops(const char *level)
{
#if SQF_ARCH_X86
    if (strncmp(level, "avx512", strlen("avx512")) == 0) {
        return sqf_roofs_avx512;
    }
    if (strncmp(level, "avx", strlen("avx")) == 0) {
        return sqf_roofs_avx2;
    }
#endif
    (void)level;
    return sqf_roofs_scalar;
}

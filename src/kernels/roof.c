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
    static const struct {
        const char *level;
        const sqf_roof_loop *loops;
    } levels[] = {
        {"scalar", sqf_roofs_scalar},
#if SQF_ARCH_X86
        {"avx2", sqf_roofs_avx2},
        {"avxvnni", sqf_roofs_avxvnni},
        {"avx512vnni", sqf_roofs_avx512},
#elif SQF_ARCH_ARM
        {"neon", sqf_roofs_neon},
        {"dotprod", sqf_roofs_dotprod},
        {"i8mm", sqf_roofs_i8mm},
#endif
    };
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (strcmp(levels[i].level, level) == 0) {
            return levels[i].loops;
        }
    }
    return sqf_roofs_scalar;
}

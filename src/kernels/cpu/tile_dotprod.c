/* The integer tile for Arm processors with dot products of bytes (FEAT_DotProd). */
#if SQF_ARCH_ARM
#include "kernels/cpu/tile_dot.h"

INLINE void tile_form(const sqf_tile_job *job, sqf_form form)
{
    dot_form(job, form);
}

#include "kernels/cpu/tile_forms.h"

void sqf_kernels_add_dotprod(sqf_kernels *kernels)
{
    kernels->tile = tile;
}
#endif

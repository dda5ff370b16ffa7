/* The machine instructions of consumer Blackwell (sm_120a) that kernels here use. On the host the emulation computes
 * what the PTX manual says. */
#ifndef SQF_KERNELS_CUDA_INSTRUCTIONS_BLACKWELL_H
#define SQF_KERNELS_CUDA_INSTRUCTIONS_BLACKWELL_H

#include "kernels/cuda/instructions.h"

#ifndef __CUDACC__
#include "kernels/cuda/emulation/instructions_blackwell.h"
#else

/* c += A B, A [16, 64] and B [64, 8] of e2m1 in the places of mma_s4's nibbles. Every 32 columns of both have a scale,
 * a power of two: all of them 1 (127 of ue8m0). Elsewhere than on sm_120a it is not there. */
CUDA_DEVICE void mma_fp4(float c[4], const uint32_t a[4], const uint32_t b[2])
{
#if defined(__CUDA_ARCH_FEAT_SM120_ALL)
    asm volatile("mma.sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3},%10,{0,0},%10,{0,0};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(0x7f7f7f7f));
#else
    (void)c, (void)a, (void)b;
    __trap();
#endif
}

#endif /* __CUDACC__ */

#endif

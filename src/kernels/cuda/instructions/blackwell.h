/* The machine instructions of consumer Blackwell (sm_120a) that kernels here use. On the host the emulation computes
 * what the PTX manual says. */
#ifndef SQF_KERNELS_CUDA_INSTRUCTIONS_BLACKWELL_H
#define SQF_KERNELS_CUDA_INSTRUCTIONS_BLACKWELL_H

#include "kernels/cuda/instructions/common.h"
#include "kernels/cuda/linear/layout.h"

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

#if defined(__CUDA_ARCH_FEAT_SM100_ALL) || !defined(__CUDA_ARCH__)

/* All of the tensor memory for the block; its address goes to `shared`. One warp takes it and gives it back. */
CUDA_DEVICE void tensor_allocate(uint32_t *shared)
{
    asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], 512;" ::"r"(shared_address(shared))
                 : "memory");
    asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" ::: "memory");
}

CUDA_DEVICE void tensor_release(uint32_t address)
{
    asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, 512;" ::"r"(address) : "memory");
}

/* Before and behind barriers that order instructions on tensor memory of several threads. */
CUDA_DEVICE void tensor_fence_before(void)
{
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
}

CUDA_DEVICE void tensor_fence_after(void)
{
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
}

/* Four columns of the warp's lanes become `value`. */
CUDA_DEVICE void tensor_fill(uint32_t address, uint32_t value)
{
    asm volatile("tcgen05.st.sync.aligned.32x32b.x4.b32 [%0], {%1,%1,%1,%1};" ::"r"(address), "r"(value) : "memory");
    asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory");
}

/* 16 columns of the lane. */
CUDA_DEVICE void tensor_load(uint32_t r[16], uint32_t address)
{
    asm volatile(
        "tcgen05.ld.sync.aligned.32x32b.x16.b32 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, [%16];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]), "=r"(r[4]), "=r"(r[5]), "=r"(r[6]), "=r"(r[7]), "=r"(r[8]),
          "=r"(r[9]), "=r"(r[10]), "=r"(r[11]), "=r"(r[12]), "=r"(r[13]), "=r"(r[14]), "=r"(r[15])
        : "r"(address));
    asm volatile("tcgen05.wait::ld.sync.aligned;"
                 : "+r"(r[0]), "+r"(r[1]), "+r"(r[2]), "+r"(r[3]), "+r"(r[4]), "+r"(r[5]), "+r"(r[6]), "+r"(r[7]),
                   "+r"(r[8]), "+r"(r[9]), "+r"(r[10]), "+r"(r[11]), "+r"(r[12]), "+r"(r[13]), "+r"(r[14]), "+r"(r[15])
                 :
                 : "memory");
}

/* Of e2m1, depth 64, 32 bytes a row; `ones`: columns that hold bytes 127, the scales of 1. */
CUDA_DEVICE void tensor_product_fp4(uint32_t d, uint64_t a, uint64_t b, uint32_t shape, uint32_t ones, int accumulate)
{
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.ne.b32 accumulate, %5, 0;\n"
                 "tcgen05.mma.cta_group::1.kind::mxf4.block_scale.scale_vec::2X [%0], %1, %2, %3, [%4], [%4], "
                 "accumulate;\n"
                 "}" ::"r"(d),
                 "l"(a), "l"(b), "r"(shape), "r"(ones), "r"(accumulate)
                 : "memory");
}

/* Of e4m3, depth 32, 32 bytes a row. */
CUDA_DEVICE void tensor_product_fp8(uint32_t d, uint64_t a, uint64_t b, uint32_t shape, int accumulate)
{
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.ne.b32 accumulate, %4, 0;\n"
                 "tcgen05.mma.cta_group::1.kind::f8f6f4 [%0], %1, %2, %3, accumulate;\n"
                 "}" ::"r"(d),
                 "l"(a), "l"(b), "r"(shape), "r"(accumulate)
                 : "memory");
}

/* One arrival at the barrier when all products that the thread has issued are done. */
CUDA_DEVICE void tensor_commit(uint64_t *barrier)
{
    asm volatile(
        "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(shared_address(barrier))
        : "memory");
}

#endif

#endif /* __CUDACC__ */

/* Where A or B lies: rows of 64 or 128 bytes, eight of them an atom. Bits: 0-13 address / 16; 16-29 leading offset, not
 * used with these swizzles (1); 32-45 bytes from atom to atom / 16; 46-47 version 1; 61-63 the swizzle: 2 = rows of 128
 * bytes, 4 = of 64. */
CUDA_DEVICE uint64_t tensor_descriptor(uint32_t shared, unsigned row_bytes)
{
    return (uint64_t)((shared & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(row_bytes * 8 >> 4) << 32 |
           (uint64_t)1 << 46 | (uint64_t)(row_bytes == 64 ? 4 : 2) << 61;
}

/* What a product of 128 rows and `columns` columns is: e2m1 both with scales of ue8m0 (bits 7 and 10: the types, 23:
 * the scales'), or e4m3 both (0) into floats (bit 4). 17: columns / 8; 24: rows / 16. */
SQF_BOTH constexpr uint32_t tensor_shape_fp4(uint32_t columns)
{
    return 1u << 7 | 1u << 10 | columns / 8 << 17 | 1u << 23 | 128u / 16 << 24;
}

SQF_BOTH constexpr uint32_t tensor_shape_fp8(uint32_t columns)
{
    return 1u << 4 | columns / 8 << 17 | 128u / 16 << 24;
}

#endif

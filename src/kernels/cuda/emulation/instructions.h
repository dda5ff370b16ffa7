/* Emulation of CUDA on the host: the functions of kernels/cuda/instructions/common.h as the PTX manual describes the
 * instructions. */
#ifndef SQF_KERNELS_CUDA_EMULATION_INSTRUCTIONS_H
#define SQF_KERNELS_CUDA_EMULATION_INSTRUCTIONS_H

#include "kernels/cuda/emulation/block.h"
#include "kernels/cuda/emulation/halves.h"

/* What a lane hands over to a matrix instruction: d = c + A B. */
struct emulated_mma {
    const uint32_t *a, *b;
    const void *c;
    void *d;
};

/* The whole warp's products; mma.cpp. */
CUDA_EMULATION void emulated_mma_s4(void *const operands[EMULATED_WARP]);
CUDA_EMULATION void emulated_mma_s8(void *const operands[EMULATED_WARP]);
CUDA_EMULATION void emulated_mma_bf16(void *const operands[EMULATED_WARP]);
CUDA_EMULATION void emulated_mma_fp16(void *const operands[EMULATED_WARP]);
CUDA_EMULATION void emulated_mma_fp8(void *const operands[EMULATED_WARP]);

static inline void mma_s4(int32_t c[4], const uint32_t a[4], const uint32_t b[2])
{
    emulated_mma operand = {a, b, c, c};
    emulated_warp_meet("mma_s4", EMULATED_ALL, &operand, emulated_mma_s4);
}

static inline void mma_s8(int32_t c[4], const uint32_t a[4], const uint32_t b[2])
{
    emulated_mma operand = {a, b, c, c};
    emulated_warp_meet("mma_s8", EMULATED_ALL, &operand, emulated_mma_s8);
}

static inline void mma_s8_from(int32_t d[4], const uint32_t a[4], const uint32_t b[2], const int32_t c[4])
{
    emulated_mma operand = {a, b, c, d};
    emulated_warp_meet("mma_s8_from", EMULATED_ALL, &operand, emulated_mma_s8);
}

static inline void mma_s4_from(int32_t d[4], const uint32_t a[4], const uint32_t b[2], const int32_t c[4])
{
    emulated_mma operand = {a, b, c, d};
    emulated_warp_meet("mma_s4_from", EMULATED_ALL, &operand, emulated_mma_s4);
}

static inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    emulated_mma operand = {a, b, c, c};
    emulated_warp_meet("mma_bf16", EMULATED_ALL, &operand, emulated_mma_bf16);
}

static inline void mma_fp16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    emulated_mma operand = {a, b, c, c};
    emulated_warp_meet("mma_fp16", EMULATED_ALL, &operand, emulated_mma_fp16);
}

static inline void mma_bf16_first(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    const float zero[4] = {};
    emulated_mma operand = {a, b, zero, d};
    emulated_warp_meet("mma_bf16_first", EMULATED_ALL, &operand, emulated_mma_bf16);
}

static inline void mma_fp16_first(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    const float zero[4] = {};
    emulated_mma operand = {a, b, zero, d};
    emulated_warp_meet("mma_fp16_first", EMULATED_ALL, &operand, emulated_mma_fp16);
}

static inline void mma_fp8(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    emulated_mma operand = {a, b, c, c};
    emulated_warp_meet("mma_fp8", EMULATED_ALL, &operand, emulated_mma_fp8);
}

static inline void prefetch(const void *)
{
}

/* ---- ldmatrix ---- */

struct emulated_load {
    const void *row; /* the address that this lane gives */
    uint32_t *r;
};

template <int matrices> static inline void emulated_load_matrix(void *const operands[EMULATED_WARP])
{
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        const emulated_load *mine = (const emulated_load *)operands[lane];
        for (int m = 0; m < matrices; m++) {
            const emulated_load *from = (const emulated_load *)operands[8 * m + lane / 4];
            memcpy(&mine->r[m], (const uint8_t *)from->row + lane % 4 * 4, 4);
        }
    }
}

/* Lane receives elements (row 2t, column g) and (2t + 1, g) of 16 bits. */
template <int matrices> static inline void emulated_load_transposed(void *const operands[EMULATED_WARP])
{
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        const emulated_load *mine = (const emulated_load *)operands[lane];
        for (int m = 0; m < matrices; m++) {
            uint16_t pair[2];
            for (int i = 0; i < 2; i++) {
                const emulated_load *from = (const emulated_load *)operands[8 * m + lane % 4 * 2 + i];
                memcpy(&pair[i], (const uint8_t *)from->row + lane / 4 * 2, 2);
            }
            mine->r[m] = (uint32_t)pair[1] << 16 | pair[0];
        }
    }
}

static inline void emulated_load_meet(const char *what, const void *row, uint32_t *r,
                                      void (*compute)(void *const operands[EMULATED_WARP]))
{
    if ((uintptr_t)row % 16) {
        emulated_fail("%s of a row that is not aligned to 16", what);
    }
    emulated_load operand = {row, r};
    emulated_warp_meet(what, EMULATED_ALL, &operand, compute);
}

static inline void load_matrix_x4(uint32_t r[4], const void *shared)
{
    emulated_load_meet("load_matrix_x4", shared, r, emulated_load_matrix<4>);
}

/* Lanes 16 to 31 give addresses that are not read. */
static inline void load_matrix_x2(uint32_t r[2], const void *shared)
{
    emulated_load operand = {shared, r};
    if (emulated_lane() < 16 && (uintptr_t)shared % 16) {
        emulated_fail("load_matrix_x2 of a row that is not aligned to 16");
    }
    emulated_warp_meet("load_matrix_x2", EMULATED_ALL, &operand, emulated_load_matrix<2>);
}

static inline void load_matrix_x4_transposed(uint32_t r[4], const void *shared)
{
    emulated_load_meet("load_matrix_x4_transposed", shared, r, emulated_load_transposed<4>);
}

/* ---- copies ---- */

static inline void async_copy(void *shared, const void *global, bool valid)
{
    emulated_async_copy(shared, global, 16, valid);
}

static inline void await_previous_kernel(void)
{
}

static inline void release_next_kernel(void)
{
}

static inline void async_commit(void)
{
    emulated_async_commit();
}

template <int left> static inline void async_wait(void)
{
    emulated_async_wait(left);
}

static inline uint32_t opaque(uint32_t x)
{
    return x;
}

/* ---- barriers ---- */

static inline void named_barrier(int id, int threads)
{
    if (id < 0 || id > 15 || threads <= 0 || threads % 32) {
        emulated_fail("named_barrier %d of %d threads", id, threads);
    }
    emulated_barrier("named_barrier", id, threads, true, NULL, NULL);
}

static inline void transaction_init(uint64_t *barrier, unsigned arrivals)
{
    emulated_transaction_init(barrier, arrivals);
}

static inline void transaction_fence(void)
{
}

static inline void transaction_expect(uint64_t *barrier, unsigned bytes)
{
    emulated_transaction_arrive(barrier, bytes);
}

static inline void transaction_arrive(uint64_t *barrier)
{
    emulated_transaction_arrive(barrier, 0);
}

static inline void transaction_wait(uint64_t *barrier, unsigned parity)
{
    emulated_transaction_wait(barrier, parity);
}

static inline void bulk_copy(void *shared, const void *global, unsigned bytes, uint64_t *barrier)
{
    emulated_bulk_copy(shared, global, bytes, barrier);
}

static inline void fence_async_proxy(void)
{
}

#endif

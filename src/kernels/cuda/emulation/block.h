/* Emulation of CUDA on the host: how the threads of a block run and meet.
 *
 * Each thread is a fiber. It runs until it waits: for its warp (a warp-wide instruction), for a barrier, or for a
 * transaction barrier; then the next one that can run continues. The order is ascending, or what SQF_EMULATION_ORDER
 * says: "ascending", "descending" or "shuffled" (by SQF_EMULATION_SEED, a number; giving a seed alone means shuffled).
 * Blocks follow the same order. If nobody can run, the program ends with a line that says who waits where. */
#ifndef SQF_KERNELS_CUDA_EMULATION_BLOCK_H
#define SQF_KERNELS_CUDA_EMULATION_BLOCK_H

#include "kernels/cuda/emulation/types.h"

#define CUDA_EMULATION __attribute__((visibility("hidden")))

enum { EMULATED_WARP = 32 };
static const unsigned EMULATED_ALL = 0xffffffffu;

/* The lanes of `mask` meet; a lane that has left the kernel is an error. The last that arrives calls `compute` (NULL:
 * nothing) with what each lane handed over, NULL for lanes outside the mask. `what` is the instruction's name in
 * messages, and what tells meetings apart: one address for each. */
CUDA_EMULATION void emulated_warp_meet(const char *what, unsigned mask, void *operand,
                                       void (*compute)(void *const operands[EMULATED_WARP]));

/* `threads` threads of the block (0: all that have not left) meet at barrier `id`, 0..15. The last that arrives calls
 * `compute` with what each thread of the block handed over, NULL for those that are not here. */
CUDA_EMULATION void emulated_barrier(const char *what, int id, int threads, bool wait, void *operand,
                                     void (*compute)(void *const *operands, int block_threads));

/* The four warps of a warpgroup (threads 128 i to 128 i + 127) meet; otherwise as emulated_warp_meet.
 * Operands in the order of the threads. */
CUDA_EMULATION void emulated_group_meet(const char *what, void *operand, void (*compute)(void *const operands[128]));

/* The state of the running thread's place. */
CUDA_EMULATION int emulated_lane(void);
CUDA_EMULATION int emulated_thread(void); /* in the block */

/* Ends the program: "emulation: KERNEL: block (x, y, z), thread (x, y, z): ...". */
CUDA_EMULATION void emulated_fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* ---- copies that happen late ----
 * SQF_EMULATION_COPIES: "late" (the default): a copy happens when somebody waits for it, and for a bulk copy only when
 * all others wait as well; "early": at once; "shuffled": either, copy by copy. Late finds a wait that is missing, early
 * finds memory that is handed to a copy while somebody still reads it. */
CUDA_EMULATION void emulated_async_copy(void *to, const void *from, unsigned bytes, bool valid);
CUDA_EMULATION void emulated_async_commit(void);
CUDA_EMULATION void emulated_async_wait(unsigned left);

/* Transaction barriers: the emulated state in the 64 bits. */
CUDA_EMULATION void emulated_transaction_init(uint64_t *barrier, unsigned arrivals);
CUDA_EMULATION void emulated_transaction_arrive(uint64_t *barrier, unsigned expected_bytes);
CUDA_EMULATION void emulated_transaction_wait(uint64_t *barrier, unsigned parity);
CUDA_EMULATION bool emulated_transaction_test(const uint64_t *barrier, unsigned parity);
CUDA_EMULATION void emulated_bulk_copy(void *to, const void *from, unsigned bytes, uint64_t *barrier);

/* The block's dynamic shared memory and its size. */
CUDA_EMULATION uint8_t *emulated_shared(size_t *bytes);

/* Runs a kernel. `call` calls the kernel's function with the arguments in `closure`; `name` as in the source. */
CUDA_EMULATION void emulated_run(const char *name, dim3 grid, dim3 block, size_t shared, void (*call)(const void *),
                                 const void *closure);

/* ---- warp-wide functions of CUDA ---- */

/* What a lane hands over for a shuffle. */
struct emulated_shuffle {
    uint64_t value;
    uint64_t result;
    int source; /* lane */
};

static inline void emulated_shuffle_all(void *const operands[EMULATED_WARP])
{
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        emulated_shuffle *mine = (emulated_shuffle *)operands[lane];
        if (mine) {
            const emulated_shuffle *theirs = (const emulated_shuffle *)operands[mine->source];
            mine->result = theirs ? theirs->value : 0xdeadbeefdeadbeefu; /* undefined on a GPU */
        }
    }
}

template <typename T> static inline T emulated_shuffle_from(const char *what, unsigned mask, T value, int source)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles are of 4 or 8 bytes");
    emulated_shuffle operand = {0, 0, source};
    memcpy(&operand.value, &value, sizeof value);
    emulated_warp_meet(what, mask, &operand, emulated_shuffle_all);
    memcpy(&value, &operand.result, sizeof value);
    return value;
}

template <typename T> static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32)
{
    const int lane = emulated_lane();
    return emulated_shuffle_from("__shfl_sync", mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}

template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int distance, int width = 32)
{
    const int lane = emulated_lane(), source = lane ^ distance;
    return emulated_shuffle_from("__shfl_xor_sync", mask, value,
                                 source >= (lane & ~(width - 1)) + width ? lane : source & 31);
}

template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32)
{
    const int lane = emulated_lane(), source = lane - (int)distance;
    return emulated_shuffle_from("__shfl_up_sync", mask, value, source < (lane & ~(width - 1)) ? lane : source);
}

template <typename T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32)
{
    const int lane = emulated_lane(), source = lane + (int)distance;
    return emulated_shuffle_from("__shfl_down_sync", mask, value,
                                 source >= (lane & ~(width - 1)) + width ? lane : source);
}

/* A reduction of the lanes that are here: value in, result out. */
struct emulated_vote {
    uint64_t value;
    uint64_t result;
};

CUDA_EMULATION void emulated_ballot_all(void *const operands[EMULATED_WARP]);
CUDA_EMULATION void emulated_every_all(void *const operands[EMULATED_WARP]);
CUDA_EMULATION void emulated_match_all(void *const operands[EMULATED_WARP]);

static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    emulated_vote operand = {predicate != 0, 0};
    emulated_warp_meet("__ballot_sync", mask, &operand, emulated_ballot_all);
    return (unsigned)operand.result;
}

static inline int __any_sync(unsigned mask, int predicate)
{
    emulated_vote operand = {predicate != 0, 0};
    emulated_warp_meet("__any_sync", mask, &operand, emulated_ballot_all);
    return operand.result != 0;
}

static inline int __all_sync(unsigned mask, int predicate)
{
    emulated_vote operand = {predicate != 0, 0};
    emulated_warp_meet("__all_sync", mask, &operand, emulated_every_all);
    return operand.result != 0;
}

template <typename T> static inline unsigned __match_any_sync(unsigned mask, T value)
{
    emulated_vote operand = {0, 0};
    memcpy(&operand.value, &value, sizeof value);
    emulated_warp_meet("__match_any_sync", mask, &operand, emulated_match_all);
    return (unsigned)operand.result;
}

/* Integer reductions of sm_80 and later. `combine` is associative and commutative. */
template <typename T, T (*combine)(T, T)> static inline void emulated_reduce_all(void *const operands[EMULATED_WARP])
{
    bool first = true;
    T total = T();
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        if (operands[lane]) {
            const T value = *(const T *)operands[lane];
            total = first ? value : combine(total, value);
            first = false;
        }
    }
    for (int lane = 0; lane < EMULATED_WARP; lane++) {
        if (operands[lane]) {
            *(T *)operands[lane] = total;
        }
    }
}

template <typename T> static inline T emulated_sum(T a, T b)
{
    return (T)((unsigned)a + (unsigned)b);
}

template <typename T> static inline T emulated_smaller(T a, T b)
{
    return a < b ? a : b;
}

template <typename T> static inline T emulated_larger(T a, T b)
{
    return a > b ? a : b;
}

#define CUDA_REDUCTION(name, type, combine)                                                                            \
    static inline type name(unsigned mask, type value)                                                                 \
    {                                                                                                                  \
        emulated_warp_meet(#name, mask, &value, emulated_reduce_all<type, combine<type>>);                             \
        return value;                                                                                                  \
    }
CUDA_REDUCTION(__reduce_add_sync, int, emulated_sum)
CUDA_REDUCTION(__reduce_add_sync, unsigned, emulated_sum)
CUDA_REDUCTION(__reduce_min_sync, int, emulated_smaller)
CUDA_REDUCTION(__reduce_min_sync, unsigned, emulated_smaller)
CUDA_REDUCTION(__reduce_max_sync, int, emulated_larger)
CUDA_REDUCTION(__reduce_max_sync, unsigned, emulated_larger)

static inline void __syncwarp(unsigned mask = EMULATED_ALL)
{
    emulated_warp_meet("__syncwarp", mask, NULL, NULL);
}

static inline void __syncthreads(void)
{
    emulated_barrier("__syncthreads", 0, 0, true, NULL, NULL);
}

CUDA_EMULATION int __syncthreads_or(int predicate);
CUDA_EMULATION int __syncthreads_and(int predicate);
CUDA_EMULATION int __syncthreads_count(int predicate);

static inline void __trap(void)
{
    emulated_fail("__trap");
}

static inline void __nanosleep(unsigned)
{
}

#endif

/* Emulation of CUDA on the host: what the scheduler of a block knows of its threads. Internal to block.cpp and
 * copies.cpp. */
#ifndef SQF_KERNELS_CUDA_EMULATION_SCHEDULER_H
#define SQF_KERNELS_CUDA_EMULATION_SCHEDULER_H

#include <vector>

#include "kernels/cuda/emulation/block.h"
#include "kernels/cuda/emulation/switch.h"

namespace emulation
{

enum {
    MAX_THREADS = 1024,
    MAX_WARPS = MAX_THREADS / EMULATED_WARP,
    NAMED_BARRIERS = 16,
    BARRIERS = NAMED_BARRIERS + MAX_WARPS / 4, /* one more for each warpgroup */
    MEETINGS = 8,                              /* of different lanes of a warp at a time */
    COLOUR = 576,
#if EMULATION_ASAN
    SHARED_GUARD = 0, /* the sanitizer sees more */
#else
    SHARED_GUARD = 64,
#endif
    GUARD = 0xa5
};

enum order { ASCENDING, DESCENDING, SHUFFLED };
enum copies { LATE, EARLY, MIXED };

struct warp;

/* A copy that a thread started and that has not happened. */
struct copy {
    void *to;
    const void *from;
    unsigned bytes;
    bool valid;
    unsigned group;    /* cp.async */
    uint64_t *barrier; /* bulk copies */
};

struct fiber {
    context where;
    warp *in;
    int thread, lane;
    uint3 index;
    bool left;         /* the kernel */
    const char *waits; /* what for; NULL = it can run */
    unsigned mask;     /* of a warp-wide instruction */
    void *operand;     /* at a barrier */
    uint64_t *transaction;
    unsigned parity;
    unsigned groups; /* committed */
    std::vector<copy> copies;
};

struct meeting {
    const char *what; /* NULL = free */
    unsigned mask, arrived;
};

struct warp {
    fiber *lanes;
    unsigned alive, ready;
    void *operands[EMULATED_WARP];
    meeting meetings[MEETINGS];
    int turn; /* SHUFFLED: the lane that comes first */
};

struct barrier {
    const char *what;
    int arrived, expected;
    void (*compute)(void *const *, int);
};

/* What one thread of the host executes blocks with. */
struct processor {
    context scheduler;
    fiber fibers[MAX_THREADS];
    warp warps[MAX_WARPS];
    barrier barriers[BARRIERS];
    int threads, warp_count, alive;
    unsigned ready_warps;
    fiber *running;
    uint8_t *stacks;
    size_t stack_bytes;
    int stack_count;
    const char *kernel;
    void (*call)(const void *);
    const void *closure;
    uint8_t *shared; /* followed by SHARED_GUARD bytes of GUARD */
    size_t shared_bytes;
    std::vector<copy> bulk;
    enum order order;
    enum copies copy_time;
    uint64_t random;
};

/* Of the thread of the host; NULL before its first kernel. */
extern CUDA_EMULATION __thread processor *here;

/* The next random number of a run. */
CUDA_EMULATION uint32_t draw(processor *p);

/* `f` can run again; it waits for `what`, of the lanes of `mask` (0: not for its warp). */
CUDA_EMULATION void wake(processor *p, fiber *f);
CUDA_EMULATION void hold(processor *p, fiber *f, const char *what, unsigned mask);

/* Leaves `from` for the next fiber that can run, in its warp if possible unless `anew`; returns when it is its turn
 * again. */
CUDA_EMULATION void schedule(processor *p, fiber *from, bool anew);

/* Everybody waits: the bulk copies that somebody waits for happen now. False if there is none. */
CUDA_EMULATION bool deliver(processor *p);

} // namespace emulation

#endif

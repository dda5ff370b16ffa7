/* Emulation of CUDA on the host: the scheduler of a block's threads. */
#include "kernels/cuda/emulation/scheduler.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

__thread uint3 threadIdx;
__thread uint3 blockIdx;
__thread dim3 blockDim;
__thread dim3 gridDim;

using namespace emulation;

__thread processor *emulation::here;

uint32_t emulation::draw(processor *p)
{
    p->random ^= p->random << 13;
    p->random ^= p->random >> 7;
    p->random ^= p->random << 17;
    return (uint32_t)(p->random >> 32);
}

void emulation::wake(processor *p, fiber *f)
{
    f->waits = NULL;
    f->in->ready |= 1u << f->lane;
    p->ready_warps |= 1u << (f->in - p->warps);
}

void emulation::hold(processor *p, fiber *f, const char *what, unsigned mask)
{
    f->waits = what;
    f->mask = mask;
    f->in->ready &= ~(1u << f->lane);
    if (!f->in->ready) {
        p->ready_warps &= ~(1u << (f->in - p->warps));
    }
}

namespace
{

int first_of(const processor *p, unsigned set)
{
    return p->order == DESCENDING ? 31 - __builtin_clz(set) : __builtin_ctz(set);
}

fiber *next_in(processor *p, warp *w)
{
    if (p->order != SHUFFLED) {
        return &w->lanes[first_of(p, w->ready)];
    }
    const unsigned turned = w->turn ? w->ready >> w->turn | w->ready << (32 - w->turn) : w->ready;
    return &w->lanes[(__builtin_ctz(turned) + w->turn) & 31];
}

warp *next_warp(processor *p)
{
    if (p->order != SHUFFLED) {
        return &p->warps[first_of(p, p->ready_warps)];
    }
    unsigned set = p->ready_warps;
    for (unsigned skip = draw(p) % (unsigned)__builtin_popcount(set); skip > 0; skip--) {
        set &= set - 1;
    }
    return &p->warps[__builtin_ctz(set)];
}

void enter(processor *p, fiber *next)
{
    p->running = next;
    threadIdx = next->index;
}

/* ---- who waits where ---- */

bool same_state(const fiber *a, const fiber *b)
{
    return a->left == b->left && a->waits == b->waits && a->mask == b->mask;
}

void describe(const processor *p, char *text, size_t size)
{
    size_t used = 0;
    text[0] = 0;
    for (int begin = 0, end; begin < p->threads && used + 128 < size; begin = end) {
        const fiber *f = &p->fibers[begin];
        for (end = begin + 1; end < p->threads && same_state(f, &p->fibers[end]); end++) {
        }
        used += (size_t)snprintf(text + used, size - used, "%s%s %d", used ? "; " : "",
                                 end - begin > 1 ? "threads" : "thread", begin);
        if (end - begin > 1) {
            used += (size_t)snprintf(text + used, size - used, " to %d", end - 1);
        }
        if (f->left) {
            used += (size_t)snprintf(text + used, size - used, " left");
        } else if (f->mask) {
            used += (size_t)snprintf(text + used, size - used, " at %s of lanes %08x", f->waits, f->mask);
        } else {
            used += (size_t)snprintf(text + used, size - used, " at %s", f->waits ? f->waits : "work");
        }
    }
}

/* The kernel's name is the first argument of cuda_launch as written. */
int name_length(const char *name)
{
    int depth = 0, length = 0;
    for (; name[length] && (depth > 0 || name[length] != ','); length++) {
        depth += name[length] == '<' || name[length] == '(';
        depth -= name[length] == '>' || name[length] == ')';
    }
    return length;
}

__attribute__((noreturn)) void give_up(const processor *p, const char *text)
{
    fflush(NULL);
    fprintf(stderr, "emulation: %.*s: block (%u, %u, %u)", name_length(p->kernel), p->kernel, blockIdx.x, blockIdx.y,
            blockIdx.z);
    if (p->running) {
        fprintf(stderr, ", thread (%u, %u, %u)", threadIdx.x, threadIdx.y, threadIdx.z);
    }
    fprintf(stderr, ": %s\n", text);
    fflush(stderr);
    abort();
}

} // namespace

/* ---- turns ---- */

void emulation::schedule(processor *p, fiber *from, bool anew)
{
    warp *w = from->in;
    if (anew || !w->ready || (p->order == SHUFFLED && (draw(p) & 127) == 0)) {
        if (!p->ready_warps && (p->alive == 0 || !deliver(p))) {
            p->running = NULL;
            context_switch(&from->where, &p->scheduler, from->left);
            return;
        }
        w = next_warp(p);
    }
    fiber *next = next_in(p, w);
    enter(p, next);
    if (next != from) {
        context_switch(&from->where, &next->where, from->left);
    }
}

namespace
{

void release(processor *p, warp *w, unsigned lanes)
{
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        w->lanes[__builtin_ctz(rest)].waits = NULL;
    }
    w->ready |= lanes;
    p->ready_warps |= 1u << (w - p->warps);
    if (p->order == SHUFFLED) {
        w->turn = (int)(draw(p) & 31);
    }
}

/* A warp must not wait for a lane that left; a barrier of all threads no longer counts it. */
void leave(processor *p, fiber *f)
{
    warp *w = f->in;
    f->left = true;
    hold(p, f, NULL, 0);
    w->alive &= ~(1u << f->lane);
    p->alive--;
    for (int i = 0; i < MEETINGS; i++) {
        meeting *m = &w->meetings[i];
        if (m->what && m->mask >> f->lane & 1) {
            emulated_fail("left the kernel while other lanes of its warp wait for it at %s", m->what);
        }
    }
    barrier *all = &p->barriers[0];
    if (all->what && all->expected == 0 && all->arrived == p->alive && p->alive > 0) {
        all->arrived--; /* the last one arrives in its place */
        emulated_barrier(all->what, 0, 0, false, NULL, all->compute);
    }
}

void fiber_entry(void)
{
    processor *p = here;
    context_begin(&p->scheduler);
    p->call(p->closure);
    p = here;
    leave(p, p->running);
    schedule(p, p->running, false);
    abort();
}

/* ---- a block ---- */

void begin_fiber(processor *p, int i)
{
    fiber *f = &p->fibers[i];
    f->in = &p->warps[i / EMULATED_WARP];
    f->thread = i;
    f->lane = i % EMULATED_WARP;
    const unsigned place = (unsigned)i;
    f->index = {place % blockDim.x, place / blockDim.x % blockDim.y, place / blockDim.x / blockDim.y};
    f->left = false;
    f->waits = NULL;
    f->mask = 0;
    f->transaction = NULL;
    f->groups = 0;
    f->copies.clear();
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    context_make(&f->where, p->stacks + (size_t)i * p->stack_bytes + page, p->stack_bytes - page,
                 (size_t)(i % 64) * COLOUR % page, fiber_entry);
}

void run_block(processor *p)
{
    memset((void *)p->barriers, 0, sizeof p->barriers);
    p->bulk.clear();
    p->alive = p->threads;
    p->ready_warps = 0;
    /* What nobody wrote shall not look like a number. */
    memset(p->shared, 0xff, p->shared_bytes);
    memset(p->shared + p->shared_bytes, GUARD, SHARED_GUARD);
    for (int i = 0; i < p->warp_count; i++) {
        warp *w = &p->warps[i];
        const int lanes = p->threads - i * EMULATED_WARP;
        w->lanes = &p->fibers[i * EMULATED_WARP];
        w->alive = w->ready = lanes >= EMULATED_WARP ? EMULATED_ALL : (1u << lanes) - 1;
        memset((void *)w->meetings, 0, sizeof w->meetings);
        w->turn = p->order == SHUFFLED ? (int)(draw(p) & 31) : 0;
        p->ready_warps |= 1u << i;
    }
    for (int i = 0; i < p->threads; i++) {
        begin_fiber(p, i);
    }
    fiber *first = next_in(p, next_warp(p));
    enter(p, first);
    context_switch(&p->scheduler, &first->where, false);
    if (p->alive > 0) {
        char text[2048];
        describe(p, text, sizeof text);
        char line[2200];
        snprintf(line, sizeof line, "nobody can go on: %s", text);
        give_up(p, line);
    }
    if (!p->bulk.empty()) {
        give_up(p, "ended before a bulk copy that nobody waited for");
    }
    for (size_t i = 0; i < SHARED_GUARD; i++) {
        if (p->shared[p->shared_bytes + i] != GUARD) {
            give_up(p, "wrote beyond its shared memory");
        }
    }
}

/* Stacks with a page below each that nobody may touch. */
void reserve_stacks(processor *p, int count)
{
    if (count <= p->stack_count) {
        return;
    }
#if EMULATION_ASAN
    const size_t bytes = 256 * 1024;
#else
    const size_t bytes = 128 * 1024;
#endif
    if (p->stacks) {
        munmap(p->stacks, p->stack_bytes * (size_t)p->stack_count);
    }
    p->stack_bytes = bytes;
    p->stack_count = count;
    void *memory =
        mmap(NULL, bytes * (size_t)count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "emulation: no memory for the stacks of %d threads\n", count);
        abort();
    }
    p->stacks = (uint8_t *)memory;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < count; i++) {
        mprotect(p->stacks + (size_t)i * bytes, page, PROT_NONE);
    }
}

void read_settings(processor *p)
{
    const char *order = getenv("SQF_EMULATION_ORDER"), *seed = getenv("SQF_EMULATION_SEED");
    const char *copies = getenv("SQF_EMULATION_COPIES");
    p->order = order  ? (strcmp(order, "descending") == 0 ? DESCENDING
                         : strcmp(order, "shuffled") == 0 ? SHUFFLED
                                                          : ASCENDING)
               : seed ? SHUFFLED
                      : ASCENDING;
    p->copy_time = copies                 ? (strcmp(copies, "early") == 0      ? EARLY
                                             : strcmp(copies, "shuffled") == 0 ? MIXED
                                                                               : LATE)
                   : p->order == SHUFFLED ? MIXED
                                          : LATE;
    p->random = (seed ? strtoull(seed, NULL, 10) : 1) * 0x9e3779b97f4a7c15u + 0xd1b54a32d192ed03u;
    if (p->random == 0) {
        p->random = 1;
    }
}

/* The processor of the host's thread, which ends with it. */
struct keeper {
    processor *mine = NULL;
    ~keeper()
    {
        if (mine) {
            munmap(mine->stacks, mine->stack_bytes * (size_t)mine->stack_count);
            delete mine;
        }
    }
};
thread_local keeper kept;

processor *own_processor(void)
{
    if (!kept.mine) {
        kept.mine = new processor();
        here = kept.mine;
    }
    return kept.mine;
}

/* The i-th block in the order of the run. */
uint64_t block_at(const processor *p, uint64_t i, uint64_t count, uint64_t start)
{
    return p->order == DESCENDING ? count - 1 - i : p->order == SHUFFLED ? (i + start) % count : i;
}

} // namespace

void emulated_run(const char *name, dim3 grid, dim3 block, size_t shared, void (*call)(const void *),
                  const void *closure)
{
    processor *p = own_processor();
    read_settings(p);
    p->kernel = name;
    p->call = call;
    p->closure = closure;
    p->threads = (int)(block.x * block.y * block.z);
    p->warp_count = (p->threads + EMULATED_WARP - 1) / EMULATED_WARP;
    reserve_stacks(p, p->threads);
    void *memory = NULL;
    if (posix_memalign(&memory, 1024, shared + SHARED_GUARD + (shared == 0))) {
        give_up(p, "no memory for shared memory");
    }
    p->shared = (uint8_t *)memory;
    p->shared_bytes = shared;
    gridDim = grid;
    blockDim = block;
    const uint64_t count = (uint64_t)grid.x * grid.y * grid.z, start = draw(p) % count;
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t at = block_at(p, i, count, start);
        blockIdx = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y)};
        run_block(p);
    }
    free(memory);
    p->shared = NULL;
}

void emulated_fail(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    give_up(here, text);
}

int emulated_lane(void)
{
    return here->running->lane;
}

int emulated_thread(void)
{
    return here->running->thread;
}

uint8_t *emulated_shared(size_t *bytes)
{
    if (bytes) {
        *bytes = here->shared_bytes;
    }
    return here->shared;
}

void emulated_warp_meet(const char *what, unsigned mask, void *operand,
                        void (*compute)(void *const operands[EMULATED_WARP]))
{
    processor *p = here;
    fiber *f = p->running;
    warp *w = f->in;
    const unsigned bit = 1u << f->lane;
    if (!(mask & bit)) {
        emulated_fail("%s of lanes %08x by lane %d", what, mask, f->lane);
    }
    if (mask & ~w->alive) {
        emulated_fail("%s of lanes %08x, of which %08x are not there or have left the kernel", what, mask,
                      mask & ~w->alive);
    }
    meeting *m = NULL, *unused = NULL;
    for (int i = 0; i < MEETINGS && !m; i++) {
        meeting *candidate = &w->meetings[i];
        if (!candidate->what) {
            unused = unused ? unused : candidate;
        } else if (candidate->mask == mask && candidate->what == what) {
            m = candidate;
        }
    }
    if (!m) {
        m = unused;
        m->what = what;
        m->mask = mask;
        m->arrived = 0;
    }
    m->arrived |= bit;
    w->operands[f->lane] = operand;
    if (m->arrived != mask) {
        hold(p, f, what, mask);
        schedule(p, f, false);
        return;
    }
    m->what = NULL;
    if (compute && mask == EMULATED_ALL) {
        compute(w->operands);
    } else if (compute) {
        void *operands[EMULATED_WARP];
        for (int i = 0; i < EMULATED_WARP; i++) {
            operands[i] = mask >> i & 1 ? w->operands[i] : NULL;
        }
        compute(operands);
    }
    release(p, w, mask);
    schedule(p, f, false);
}

void emulated_barrier(const char *what, int id, int threads, bool wait, void *operand,
                      void (*compute)(void *const *operands, int block_threads))
{
    processor *p = here;
    fiber *f = p->running;
    barrier *b = &p->barriers[id];
    if (b->arrived == 0) {
        *b = {what, 0, threads, compute};
    } else if (b->expected != threads) {
        emulated_fail("%s %d of %d threads, which others entered for %d", what, id, threads, b->expected);
    }
    f->operand = operand;
    b->arrived++;
    if (b->arrived < (threads ? threads : p->alive)) {
        if (wait) {
            f->transaction = NULL;
            hold(p, f, b->what, 0);
            f->parity = (unsigned)id;
            schedule(p, f, false);
        }
        return;
    }
    *b = {};
    void *operands[MAX_THREADS];
    for (int i = 0; i < p->threads; i++) {
        fiber *other = &p->fibers[i];
        const bool waits = other->waits && !other->mask && !other->transaction && other->parity == (unsigned)id;
        operands[i] = waits || (other == f && wait) ? other->operand : NULL;
        if (waits) {
            wake(p, other);
        }
    }
    if (compute) {
        compute(operands, p->threads);
    }
    for (int i = 0; p->order == SHUFFLED && i < p->warp_count; i++) {
        p->warps[i].turn = (int)(draw(p) & 31);
    }
    if (wait) {
        schedule(p, f, true);
    }
}

void emulated_group_meet(const char *what, void *operand, void (*compute)(void *const operands[128]))
{
    /* The barrier calls back with the whole block; what belongs to the group follows from the running thread. */
    struct group {
        void *operand;
        void (*compute)(void *const operands[128]);
    } mine = {operand, compute};
    const auto call = [](void *const *operands, int) {
        const int first = here->running->thread / 128 * 128;
        void *unpacked[128];
        for (int i = 0; i < 128; i++) {
            unpacked[i] = ((group *)operands[first + i])->operand;
        }
        ((group *)operands[here->running->thread])->compute(unpacked);
    };
    const int thread = here->running->thread;
    if (thread / 128 * 128 + 128 > here->threads) {
        emulated_fail("%s in a warpgroup of less than 128 threads", what);
    }
    emulated_barrier(what, NAMED_BARRIERS + thread / 128, 128, true, compute ? &mine : NULL, compute ? +call : NULL);
}

/* Emulation of CUDA on the host: copies behind the threads' back, and the transaction barriers that count them. */
#include "kernels/cuda/emulation/scheduler.h"

using namespace emulation;

namespace
{

void perform(const copy *c)
{
    if (c->valid) {
        memcpy(c->to, c->from, c->bytes);
    } else {
        memset(c->to, 0, c->bytes);
    }
}

bool at_once(processor *p)
{
    return p->copy_time == EARLY || (p->copy_time == MIXED && (draw(p) & 1));
}

/* The state of a transaction barrier, and how many bytes the hardware's can count. */
constexpr int MAX_BYTES = (1 << 20) - 1;
struct transaction {
    uint32_t phase : 1;
    uint32_t arrivals : 15; /* of a phase */
    uint32_t pending : 16;  /* arrivals that are missing */
    int32_t bytes;          /* announced and not yet here */
};
static_assert(sizeof(transaction) == 8, "as a transaction barrier of the hardware");

transaction load(const uint64_t *barrier)
{
    transaction state;
    memcpy(&state, barrier, sizeof state);
    return state;
}

/* Stores the state, completing the phase if nothing is missing. */
void store(processor *p, uint64_t *barrier, transaction state)
{
    const bool complete = state.pending == 0 && state.bytes == 0;
    if (complete) {
        state.phase ^= 1;
        state.pending = state.arrivals;
    }
    memcpy(barrier, &state, sizeof state);
    for (int i = 0; complete && i < p->threads; i++) {
        fiber *f = &p->fibers[i];
        if (f->waits && f->transaction == barrier) {
            f->transaction = NULL;
            wake(p, f);
        }
    }
}

void arrive_bytes(processor *p, const copy *c)
{
    perform(c);
    transaction state = load(c->barrier);
    state.bytes -= (int32_t)c->bytes;
    if (state.bytes < -MAX_BYTES) {
        emulated_fail("a transaction barrier counts more bytes than %d that nobody announced", MAX_BYTES);
    }
    store(p, c->barrier, state);
}

} // namespace

bool emulation::deliver(processor *p)
{
    bool any = false;
    for (size_t i = 0; i < p->bulk.size();) {
        bool wanted = false;
        for (int t = 0; t < p->threads && !wanted; t++) {
            wanted = p->fibers[t].waits && p->fibers[t].transaction == p->bulk[i].barrier;
        }
        if (!wanted) {
            i++;
            continue;
        }
        const copy c = p->bulk[i];
        p->bulk.erase(p->bulk.begin() + (ptrdiff_t)i);
        arrive_bytes(p, &c);
        any = true;
    }
    return any;
}

void emulated_async_copy(void *to, const void *from, unsigned bytes, bool valid)
{
    processor *p = here;
    if ((uintptr_t)to % bytes || (valid && (uintptr_t)from % bytes)) {
        emulated_fail("an asynchronous copy of %u bytes from %p to %p is not aligned", bytes, from, to);
    }
    const copy c = {to, from, bytes, valid, p->running->groups, NULL};
    if (at_once(p)) {
        perform(&c);
    } else {
        p->running->copies.push_back(c);
    }
}

void emulated_async_commit(void)
{
    here->running->groups++;
}

void emulated_async_wait(unsigned left)
{
    fiber *f = here->running;
    size_t kept_copies = 0;
    for (size_t i = 0; i < f->copies.size(); i++) {
        const copy c = f->copies[i];
        if (c.group + left < f->groups) {
            perform(&c);
        } else {
            f->copies[kept_copies++] = c;
        }
    }
    f->copies.resize(kept_copies);
}

void emulated_transaction_init(uint64_t *barrier, unsigned arrivals)
{
    if ((uintptr_t)barrier % 8 || arrivals == 0 || arrivals > MAX_THREADS) {
        emulated_fail("a transaction barrier at %p for %u arrivals", (void *)barrier, arrivals);
    }
    transaction state = {};
    state.arrivals = arrivals & 0x7fff;
    state.pending = arrivals & 0xffff;
    memcpy(barrier, &state, sizeof state);
}

void emulated_transaction_arrive(uint64_t *barrier, unsigned expected_bytes)
{
    transaction state = load(barrier);
    if (state.pending == 0) {
        emulated_fail("more arrivals at a transaction barrier than the %u that it was made for",
                      (unsigned)state.arrivals);
    }
    state.bytes += (int32_t)expected_bytes;
    if (expected_bytes > (unsigned)MAX_BYTES || state.bytes > MAX_BYTES) {
        emulated_fail("a transaction barrier cannot count %u bytes more: %d at most", expected_bytes, MAX_BYTES);
    }
    state.pending--;
    store(here, barrier, state);
}

bool emulated_transaction_test(const uint64_t *barrier, unsigned parity)
{
    return load(barrier).phase != (parity & 1);
}

void emulated_transaction_wait(uint64_t *barrier, unsigned parity)
{
    processor *p = here;
    fiber *f = p->running;
    while (!emulated_transaction_test(barrier, parity)) {
        f->transaction = barrier;
        hold(p, f, parity & 1 ? "a transaction barrier, phase 1" : "a transaction barrier, phase 0", 0);
        schedule(p, f, false);
    }
}

void emulated_bulk_copy(void *to, const void *from, unsigned bytes, uint64_t *barrier)
{
    processor *p = here;
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16 || bytes % 16 || bytes == 0) {
        emulated_fail("a bulk copy of %u bytes from %p to %p is not aligned to 16", bytes, from, to);
    }
    const copy c = {to, from, bytes, true, 0, barrier};
    if (at_once(p)) {
        arrive_bytes(p, &c);
    } else {
        p->bulk.push_back(c);
    }
}

/* Emulation of CUDA on the host: stacks that take turns. Own instructions on x86-64, because one instruction of a warp
 * is 32 switches; ucontext elsewhere. The address sanitizer is told of every switch; the thread sanitizer cannot
 * follow. */
#ifndef SQF_KERNELS_CUDA_EMULATION_SWITCH_H
#define SQF_KERNELS_CUDA_EMULATION_SWITCH_H

#include <stddef.h>
#include <stdint.h>

#if defined(__has_feature)
#define EMULATION_ASAN __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define EMULATION_ASAN 1
#else
#define EMULATION_ASAN 0
#endif

#if EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct context {
#if defined(__x86_64__)
    void *stack; /* where the registers lie */
#else
    ucontext_t state;
#endif
    const void *bottom; /* of the stack */
    size_t bytes;
#if EMULATION_ASAN
    void *fake_stack;
#endif
};

#if defined(__x86_64__)
/* Keeps the stack's top in *from and continues at `to`. Inlined and left by a jump, so that the processor's record of
 * calls stays balanced: lanes of a warp wait in the same place, and then their returns are foreseen. */
static inline __attribute__((always_inline)) void exchange_stacks(void **from, void *to)
{
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n" /* what leaf functions may use */
                     "pushq %%rbp\n"
                     "leaq 1f(%%rip), %%rax\n"
                     "pushq %%rax\n"
                     "movq %%rsp, (%%rdi)\n"
                     "movq %%rsi, %%rsp\n"
                     "popq %%rax\n"
                     "jmp *%%rax\n"
                     "1:\n"
                     "popq %%rbp\n"
                     "leaq 128(%%rsp), %%rsp\n"
                     : "+D"(from), "+S"(to)
                     :
                     : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1",
                       "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                       "xmm13", "xmm14", "xmm15", "memory", "cc");
}
#endif

/* Makes a context that begins with entry(), which must never return, on the given stack. The lowest `colour` bytes of
 * the top stay free: stacks that begin at the same place of a page would share the same few sets of the cache. */
static inline void context_make(context *made, void *bottom, size_t bytes, size_t colour, void (*entry)(void))
{
    made->bottom = bottom;
    made->bytes = bytes;
#if EMULATION_ASAN
    made->fake_stack = NULL;
    /* Whoever was here before never returned, and left the marks of its frames. */
    __asan_unpoison_memory_region(bottom, bytes);
#endif
#if defined(__x86_64__)
    uintptr_t *top = (uintptr_t *)((((uintptr_t)bottom + bytes - colour) & ~(uintptr_t)63) - 64);
    *--top = 0; /* the caller of entry: none */
    *--top = (uintptr_t)entry;
    made->stack = top;
#else
    getcontext(&made->state);
    made->state.uc_stack.ss_sp = bottom;
    made->state.uc_stack.ss_size = bytes - colour;
    made->state.uc_link = NULL;
    makecontext(&made->state, entry, 0);
#endif
}

/* To be called first by entry(). The first context of all was entered from `scheduler`, whose stack is learnt so. */
static inline void context_begin(context *scheduler)
{
#if EMULATION_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &bytes);
    if (!scheduler->bottom) {
        scheduler->bottom = bottom;
        scheduler->bytes = bytes;
    }
#else
    (void)scheduler;
#endif
}

/* Leaves `from`, for good if `last`; returns when somebody switches back to it. */
static inline void context_switch(context *from, context *to, bool last)
{
#if EMULATION_ASAN
    __sanitizer_start_switch_fiber(last ? NULL : &from->fake_stack, to->bottom, to->bytes);
#else
    (void)last;
#endif
#if defined(__x86_64__)
    exchange_stacks(&from->stack, to->stack);
#else
    swapcontext(&from->state, &to->state);
#endif
#if EMULATION_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

#endif

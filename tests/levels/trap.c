/* A handler for SIGILL that computes vpdpbusd ymm, ymm, ymm in its VEX encoding (trap.h). The kernel hands the
 * registers over in the layout of XSAVE: the low halves of ymm at 160, the header at 512, the upper halves at 576. */
#define _GNU_SOURCE /* REG_RIP */

#include "trap.h"

#if SQF_ARCH_X86
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "kernels/dispatch.h"

enum { LOW_HALVES = 160, HEADER = 512, HIGH_HALVES = 576, HALF = 16, STATE_YMM = 1 << 2 };

static volatile sig_atomic_t computed;

/* Reads the 32 bytes of a register; the upper halves count as 0 where XSAVE says that all of them are. */
static void read_register(const uint8_t *area, unsigned i, uint8_t bytes[2 * HALF])
{
    uint64_t states;
    memcpy(&states, area + HEADER, sizeof states);
    memcpy(bytes, area + LOW_HALVES + HALF * i, HALF);
    memset(bytes + HALF, 0, HALF);
    if (states & STATE_YMM) {
        memcpy(bytes + HALF, area + HIGH_HALVES + HALF * i, HALF);
    }
}

static void write_register(uint8_t *area, unsigned i, const uint8_t bytes[2 * HALF])
{
    uint64_t states;
    memcpy(&states, area + HEADER, sizeof states);
    if (!(states & STATE_YMM)) {
        memset(area + HIGH_HALVES, 0, HALF * 16);
        states |= STATE_YMM;
        memcpy(area + HEADER, &states, sizeof states);
    }
    memcpy(area + LOW_HALVES + HALF * i, bytes, HALF);
    memcpy(area + HIGH_HALVES + HALF * i, bytes + HALF, HALF);
}

/* sums[i] += the four products of unsigned and signed bytes of lane i, wrapping. */
static void multiply(uint8_t sums[2 * HALF], const uint8_t weights[2 * HALF], const uint8_t codes[2 * HALF])
{
    for (unsigned lane = 0; lane < 2 * HALF; lane += 4) {
        uint32_t sum;
        memcpy(&sum, sums + lane, sizeof sum);
        for (unsigned i = lane; i < lane + 4; i++) {
            sum += (uint32_t)(weights[i] * (int8_t)codes[i]);
        }
        memcpy(sums + lane, &sum, sizeof sum);
    }
}

/* C4 [R X B 00010] [0 vvvv 1 01] 50 [11 reg rm], R, B and vvvv inverted; anything else is what it looks like. */
static void compute(int number, siginfo_t *info, void *user)
{
    (void)info;
    ucontext_t *context = user;
    greg_t *place = &context->uc_mcontext.gregs[REG_RIP];
    uint8_t code[5];
    memcpy(code, (const void *)*place, sizeof code);
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x87) != 5 || code[3] != 0x50 || code[4] < 0xc0) {
        signal(number, SIG_DFL); /* the instruction runs again, and ends the program */
        return;
    }
    const unsigned sums = (code[4] >> 3 & 7u) | (code[1] & 0x80 ? 0 : 8u);
    const unsigned second = (code[4] & 7u) | (code[1] & 0x20 ? 0 : 8u), first = (unsigned)(code[2] >> 3 ^ 15) & 15u;
    uint8_t *area = (uint8_t *)context->uc_mcontext.fpregs;
    uint8_t bytes[3][2 * HALF];
    read_register(area, sums, bytes[0]);
    read_register(area, first, bytes[1]);
    read_register(area, second, bytes[2]);
    multiply(bytes[0], bytes[1], bytes[2]);
    write_register(area, sums, bytes[0]);
    *place += (greg_t)sizeof code;
    computed = 1;
}

int trap_check(int (*check)(const sqf_kernels *kernels))
{
    const sqf_kernels *below = sqf_kernels_find("avx2");
    if (!below || sqf_kernels_find("avxvnni") || getenv("SQF_NO_TRAP")) {
        return 0;
    }
    struct sigaction before, handler = {.sa_sigaction = compute, .sa_flags = SA_SIGINFO};
    sigemptyset(&handler.sa_mask);
    if (sigaction(SIGILL, &handler, &before) != 0) {
        return 1;
    }
    sqf_kernels kernels = *below;
    kernels.name = "avxvnni (vpdpbusd computed by a trap)";
    sqf_kernels_add_avxvnni(&kernels);
    const int failures = check(&kernels);
    sigaction(SIGILL, &before, NULL);
    if (!computed) {
        puts("FAILED: no vpdpbusd was refused");
        return 1;
    }
    return failures;
}
#else
int trap_check(int (*check)(const sqf_kernels *kernels))
{
    (void)check;
    return 0;
}
#endif

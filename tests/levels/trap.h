/* Runs the AVX-VNNI level on a processor that has AVX2 alone. */
#ifndef SQF_TESTS_LEVELS_TRAP_H
#define SQF_TESTS_LEVELS_TRAP_H

#include "kernels/kernels.h"

/* Calls `check` with the table of AVX-VNNI while the processor's refusals of vpdpbusd (SIGILL) are answered by
 * computing it, register by register: what runs is the object file that ships, every other instruction natively.
 * Returns what `check` does, or one failure if no instruction was refused; 0 without doing anything where the
 * processor has the level itself, has no AVX2, or the program runs under an emulator (SQF_NO_TRAP set). */
int trap_check(int (*check)(const sqf_kernels *kernels));

#endif

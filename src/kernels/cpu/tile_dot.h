/* The integer tile by dot products of four bytes (sdot): 16 products an instruction, four codes of a token taken from a
 * lane, so that nothing is broadcast. For the levels dotprod and, where its matrix instruction does not serve, i8mm.
 * One panel and 4 tokens at a time: 16 sums, 4 codes and the weights that come by. Eight columns are 32 sdot, 8 loads
 * of weights and 4 of codes. */
#ifndef SQF_KERNELS_CPU_TILE_DOT_H
#define SQF_KERNELS_CPU_TILE_DOT_H

#include "kernels/cpu/tile_arm.h"

/* `tokens` (1, 2 or 4) is a constant at each call and the loops over it unroll. */
INLINE void dot_part(const sqf_tile_job *job, sqf_form form, size_t panel, size_t first_token, const int tokens)
{
    for (size_t g = 0; g < job->segment_count; g++) {
        const size_t steps = segment_steps(&job->segments[g]);
        const uint8_t *weights = segment_weights(job, form, panel, g);
        const int8_t *codes = segment_codes(job, first_token, g);
        int32x4_t sums[MOST_SUMS];
        start_sums(job, form, panel, first_token, g, tokens, sums);
        for (size_t step = 0; step < steps; step++) {
            int8x8_t a[MOST_TOKENS];
#pragma GCC unroll 4
            for (int t = 0; t < tokens; t++) {
                a[t] = vld1_s8(codes + (size_t)t * job->code_stride);
            }
#pragma GCC unroll 4
            for (int q = 0; q < QUARTERS; q++) {
                const int8x16_t w0 = load_weights(form, weights, 0, q), w1 = load_weights(form, weights, 1, q);
#pragma GCC unroll 4
                for (int t = 0; t < tokens; t++) {
                    int32x4_t *sum = &sums[QUARTERS * t + q];
                    *sum = vdotq_lane_s32(vdotq_lane_s32(*sum, w0, a[t], 0), w1, a[t], 1);
                }
            }
            weights += sqf_form_step_bytes(form);
            codes += SQF_SEGMENT_PAD;
        }
        finish_sums(job, panel, first_token, g, tokens, sums);
    }
}

INLINE void dot_form(const sqf_tile_job *job, sqf_form form)
{
    for (size_t panel = 0; panel < job->panels; panel++) {
        size_t m = 0;
        for (; m + 4 <= job->tokens; m += 4) {
            dot_part(job, form, panel, m, 4);
        }
        for (; m + 2 <= job->tokens; m += 2) {
            dot_part(job, form, panel, m, 2);
        }
        for (; m < job->tokens; m++) {
            dot_part(job, form, panel, m, 1);
        }
    }
}

#endif

/* The integer tile for any ARMv8 processor: products of bytes are added in 16 bits (smull, smlal: 8 products an
 * instruction) as long as they fit, then widened. A register holds 4 columns of 4 rows, so the products of a row are
 * four neighbours. One panel and 2 tokens at a time: 16 registers of 16-bit sums and 8 of 32 bits.
 *
 * w + 7 times a code: 14 * 127 = 1778, so 8 products and the pair that is added before they widen fit 16 bits (28448),
 * and 64 with codes from -16 to 15 (28672). Signed bytes: 2 * 127 * 127 = 32258, widened after every second. */
#if SQF_ARCH_ARM
#include <string.h>

#include "kernels/cpu/tile_arm.h"

enum { STEPS_WIDE = 4, STEPS_NARROW = 32 }; /* steps of two products a lane between widenings */

/* The four codes of a token four times: beside the four columns of four rows. */
INLINE int8x16_t broadcast_codes(const int8_t *codes)
{
    int32_t four;
    memcpy(&four, codes, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

/* Adds `steps` steps of unsigned weights to the sums; the results stay within 16 bits until the end. */
INLINE void add_unsigned(sqf_form form, const uint8_t *weights, const int8_t *codes, size_t code_stride, size_t steps,
                         const int tokens, int32x4_t *sums)
{
    int16x8_t low[8], high[8]; /* rows 0 and 1, 2 and 3 of a quarter */
#pragma GCC unroll 8
    for (int i = 0; i < QUARTERS * tokens; i++) {
        low[i] = high[i] = vdupq_n_s16(0);
    }
    for (size_t step = 0; step < steps; step++) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            int8x16_t a[2];
#pragma GCC unroll 2
            for (int t = 0; t < tokens; t++) {
                a[t] = broadcast_codes(codes + (size_t)t * code_stride + 4 * half);
            }
#pragma GCC unroll 4
            for (int q = 0; q < QUARTERS; q++) {
                const int8x16_t w = load_weights(form, weights, half, q);
#pragma GCC unroll 2
                for (int t = 0; t < tokens; t++) {
                    const int i = QUARTERS * t + q;
                    low[i] = vmlal_s8(low[i], vget_low_s8(w), vget_low_s8(a[t]));
                    high[i] = vmlal_high_s8(high[i], w, a[t]);
                }
            }
        }
        weights += sqf_form_step_bytes(form);
        codes += SQF_SEGMENT_PAD;
    }
#pragma GCC unroll 8
    for (int i = 0; i < QUARTERS * tokens; i++) {
        sums[i] = vpadalq_s16(sums[i], vpaddq_s16(low[i], high[i]));
    }
}

/* Steps of signed weights: two products fit a lane, so every step widens. */
INLINE void add_signed(const uint8_t *weights, const int8_t *codes, size_t code_stride, size_t steps, const int tokens,
                       int32x4_t *sums)
{
    int32x4_t low[8], high[8];
#pragma GCC unroll 8
    for (int i = 0; i < QUARTERS * tokens; i++) {
        low[i] = high[i] = vdupq_n_s32(0);
    }
    for (size_t step = 0; step < steps; step++) {
#pragma GCC unroll 4
        for (int q = 0; q < QUARTERS; q++) {
            const int8x16_t w0 = load_weights(SQF_FORM_BYTES, weights, 0, q);
            const int8x16_t w1 = load_weights(SQF_FORM_BYTES, weights, 1, q);
#pragma GCC unroll 2
            for (int t = 0; t < tokens; t++) {
                const int i = QUARTERS * t + q;
                const int8x16_t a0 = broadcast_codes(codes + (size_t)t * code_stride);
                const int8x16_t a1 = broadcast_codes(codes + (size_t)t * code_stride + 4);
                const int16x8_t first = vmull_s8(vget_low_s8(w0), vget_low_s8(a0));
                const int16x8_t second = vmull_high_s8(w0, a0);
                low[i] = vpadalq_s16(low[i], vmlal_s8(first, vget_low_s8(w1), vget_low_s8(a1)));
                high[i] = vpadalq_s16(high[i], vmlal_high_s8(second, w1, a1));
            }
        }
        weights += sqf_form_step_bytes(SQF_FORM_BYTES);
        codes += SQF_SEGMENT_PAD;
    }
#pragma GCC unroll 8
    for (int i = 0; i < QUARTERS * tokens; i++) {
        sums[i] = vaddq_s32(sums[i], vpaddq_s32(low[i], high[i]));
    }
}

/* One or two tokens of one panel, all segments; `tokens` is a constant at each call and the loops over it unroll. */
INLINE void tile_part(const sqf_tile_job *job, sqf_form form, size_t panel, size_t first_token, const int tokens)
{
    for (size_t g = 0; g < job->segment_count; g++) {
        const sqf_segment *segment = &job->segments[g];
        const size_t steps = segment_steps(segment);
        const uint8_t *weights = segment_weights(job, form, panel, g);
        const int8_t *codes = segment_codes(job, first_token, g);
        int32x4_t sums[8];
        start_sums(job, form, panel, first_token, g, tokens, sums);
        if (form == SQF_FORM_BYTES) {
            add_signed(weights, codes, job->code_stride, steps, tokens, sums);
        } else {
            const size_t most = segment->narrow >> job->act_plane & 1 ? STEPS_NARROW : STEPS_WIDE;
            for (size_t step = 0; step < steps; step += most) {
                add_unsigned(form, weights + step * sqf_form_step_bytes(form), codes + step * SQF_SEGMENT_PAD,
                             job->code_stride, steps - step < most ? steps - step : most, tokens, sums);
            }
        }
        finish_sums(job, panel, first_token, g, tokens, sums);
    }
}

INLINE void tile_form(const sqf_tile_job *job, sqf_form form)
{
    for (size_t panel = 0; panel < job->panels; panel++) {
        size_t m = 0;
        for (; m + 2 <= job->tokens; m += 2) {
            tile_part(job, form, panel, m, 2);
        }
        for (; m < job->tokens; m++) {
            tile_part(job, form, panel, m, 1);
        }
    }
}

#include "kernels/cpu/tile_forms.h"

void sqf_kernels_add_neon(sqf_kernels *kernels)
{
    kernels->tile = tile;
}
#endif

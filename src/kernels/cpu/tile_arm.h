/* What the tiles of all Arm levels share: a panel's 16 rows are four registers of four int32 lanes, sums[4 * token +
 * quarter]. Packed nibbles are multiplied as w + 7, as positive signed bytes, and the offset is taken out through the
 * sums of the activations; bytes are signed and need none. */
#ifndef SQF_KERNELS_CPU_TILE_ARM_H
#define SQF_KERNELS_CPU_TILE_ARM_H

#include <arm_neon.h>

#include "kernels/kernels.h"

#define INLINE static inline __attribute__((always_inline))

enum { QUARTERS = 4, MOST_TOKENS = 4, MOST_SUMS = QUARTERS * MOST_TOKENS };

/* The four columns of one half of a step of eight, of the four rows of one quarter. */
INLINE int8x16_t load_weights(sqf_form form, const uint8_t *step, int half, int quarter)
{
    if (form == SQF_FORM_NIBBLES) {
        const uint8x16_t pairs = vld1q_u8(step + 16 * quarter);
        return vreinterpretq_s8_u8(half ? vshrq_n_u8(pairs, 4) : vandq_u8(pairs, vdupq_n_u8(15)));
    }
    return vreinterpretq_s8_u8(vld1q_u8(step + 64 * half + 16 * quarter));
}

/* Sums of segment g start at minus the offset's share and minus the zero points'. */
INLINE void start_sums(const sqf_tile_job *job, sqf_form form, size_t panel, size_t first_token, size_t g,
                       const int tokens, int32x4_t *sums)
{
    const int32_t offset = form == SQF_FORM_BYTES ? 0 : SQF_NIBBLE_OFFSET;
    const size_t scalars = first_token * job->segment_stride + g;
#pragma GCC unroll 16
    for (int i = 0; i < QUARTERS * tokens; i++) {
        const int32_t sum = job->sums[scalars + (size_t)(i / QUARTERS) * job->segment_stride];
        sums[i] = vdupq_n_s32(-offset * sum);
    }
    if (job->zeros) {
        const int32_t *column_sums = job->column_sums + panel * job->panel_scales + g * SQF_PANEL_ROWS;
#pragma GCC unroll 16
        for (int i = 0; i < QUARTERS * tokens; i++) {
            const int32_t zero = job->zeros[scalars + (size_t)(i / QUARTERS) * job->segment_stride];
            sums[i] = vmlsq_n_s32(sums[i], vld1q_s32(column_sums + 4 * (i % QUARTERS)), zero);
        }
    }
}

/* out += (act_scale * scale) * (float)sum, in three roundings: contraction is off. */
INLINE void finish_sums(const sqf_tile_job *job, size_t panel, size_t first_token, size_t g, const int tokens,
                        const int32x4_t *sums)
{
    const float *scales = job->scales + panel * job->panel_scales + g * SQF_PANEL_ROWS;
    const float *act_scales = job->act_scales + first_token * job->segment_stride + g;
    float *out = job->out + first_token * SQF_BLOCK_ROWS + panel * SQF_PANEL_ROWS;
#pragma GCC unroll 16
    for (int i = 0; i < QUARTERS * tokens; i++) {
        const float act = act_scales[(size_t)(i / QUARTERS) * job->segment_stride];
        const float32x4_t scale = vmulq_n_f32(vld1q_f32(scales + 4 * (i % QUARTERS)), act);
        float *place = out + i / QUARTERS * SQF_BLOCK_ROWS + 4 * (i % QUARTERS);
        vst1q_f32(place, vaddq_f32(vld1q_f32(place), vmulq_f32(scale, vcvtq_f32_s32(sums[i]))));
    }
}

/* Weights and codes of one panel at segment g. */
INLINE const uint8_t *segment_weights(const sqf_tile_job *job, sqf_form form, size_t panel, size_t g)
{
    const size_t at = job->segments[g].offset - job->segments[0].offset;
    return job->weights + panel * job->panel_bytes + at / SQF_SEGMENT_PAD * sqf_form_step_bytes(form);
}

INLINE const int8_t *segment_codes(const sqf_tile_job *job, size_t first_token, size_t g)
{
    return job->codes + first_token * job->code_stride + (job->segments[g].offset - job->segments[0].offset);
}

/* Steps of eight columns; the last one reaches into the padding, where the codes are 0. */
INLINE size_t segment_steps(const sqf_segment *segment)
{
    return (segment->end - segment->begin + SQF_SEGMENT_PAD - 1) / SQF_SEGMENT_PAD;
}

#endif

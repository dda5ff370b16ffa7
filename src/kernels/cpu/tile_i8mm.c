/* The integer tile for Arm processors with products of byte matrices (FEAT_I8MM): smmla multiplies 2 rows x 8 columns
 * by 8 columns x 2 tokens, 32 products an instruction, twice as many as sdot.
 *
 * It wants the 8 columns of a row side by side. Expanded nibbles get that order for nothing, because they are
 * written here: byte [kp / 8][row][kp % 8]. Bytes come in the common order [kp / 4][row][kp % 4] and are put together
 * by one zip per operand, which leaves 16 of 24 instructions for products. Nibbles that are not expanded serve few
 * tokens, where memory is the limit: they take the dot product.
 *
 * One panel and 4 tokens at a time: 8 pairs of rows x 2 pairs of tokens are 16 sums, 2 codes and the weights that come
 * by. Eight columns are 16 smmla, 8 loads of weights and 4 of codes. */
#if SQF_ARCH_ARM
#include "kernels/cpu/tile_dot.h"

/* 64 bytes of nibbles become 128: the low ones are columns 0 to 3, the high ones 4 to 7; a store of two registers word
 * by word alternates between them. */
static void expand_nibbles(const uint8_t *packed, size_t steps, uint8_t *out)
{
    for (size_t i = 0; i < QUARTERS * steps; i++) {
        const uint8x16_t pairs = vld1q_u8(packed + 16 * i);
        const uint8x16x2_t halves = {{vandq_u8(pairs, vdupq_n_u8(15)), vshrq_n_u8(pairs, 4)}};
        const uint32x4x2_t words = {{vreinterpretq_u32_u8(halves.val[0]), vreinterpretq_u32_u8(halves.val[1])}};
        vst2q_u32((uint32_t *)(void *)(out + 32 * i), words);
    }
}

/* Eight columns of rows 4q, 4q + 1 and of 4q + 2, 4q + 3. */
INLINE void load_rows(sqf_form form, const uint8_t *step, int quarter, int8x16_t rows[2])
{
    if (form == SQF_FORM_UNSIGNED) {
        rows[0] = vreinterpretq_s8_u8(vld1q_u8(step + 32 * quarter));
        rows[1] = vreinterpretq_s8_u8(vld1q_u8(step + 32 * quarter + 16));
        return;
    }
    const int32x4_t low = vreinterpretq_s32_s8(load_weights(form, step, 0, quarter));
    const int32x4_t high = vreinterpretq_s32_s8(load_weights(form, step, 1, quarter));
    rows[0] = vreinterpretq_s8_s32(vzip1q_s32(low, high));
    rows[1] = vreinterpretq_s8_s32(vzip2q_s32(low, high));
}

/* sums[token][quarter] to and from sums of 2 rows x 2 tokens, as smmla has them: (r0 t0, r0 t1, r1 t0, r1 t1). */
INLINE void to_squares(const int32x4_t *sums, const int pairs, int32x4_t *squares)
{
#pragma GCC unroll 8
    for (int i = 0; i < QUARTERS * pairs; i++) {
        const int32x4_t *first = sums + i / QUARTERS * 2 * QUARTERS + i % QUARTERS;
        squares[2 * i] = vzip1q_s32(first[0], first[QUARTERS]);
        squares[2 * i + 1] = vzip2q_s32(first[0], first[QUARTERS]);
    }
}

INLINE void from_squares(const int32x4_t *squares, const int pairs, int32x4_t *sums)
{
#pragma GCC unroll 8
    for (int i = 0; i < QUARTERS * pairs; i++) {
        int32x4_t *first = sums + i / QUARTERS * 2 * QUARTERS + i % QUARTERS;
        first[0] = vuzp1q_s32(squares[2 * i], squares[2 * i + 1]);
        first[QUARTERS] = vuzp2q_s32(squares[2 * i], squares[2 * i + 1]);
    }
}

/* 1, 2 or 4 tokens of one panel; one token goes beside itself and half of the results are dropped. `tokens` is a
 * constant at each call and the loops over it unroll. */
INLINE void tile_part(const sqf_tile_job *job, sqf_form form, size_t panel, size_t first_token, const int tokens)
{
    const int pairs = (tokens + 1) / 2;
    for (size_t g = 0; g < job->segment_count; g++) {
        const size_t steps = segment_steps(&job->segments[g]);
        const uint8_t *weights = segment_weights(job, form, panel, g);
        const int8_t *codes = segment_codes(job, first_token, g);
        int32x4_t sums[MOST_SUMS], squares[MOST_SUMS];
        start_sums(job, form, panel, first_token, g, tokens, sums);
#pragma GCC unroll 4
        for (int q = 0; q < QUARTERS && tokens == 1; q++) {
            sums[QUARTERS + q] = sums[q];
        }
        to_squares(sums, pairs, squares);
        for (size_t step = 0; step < steps; step++) {
            int8x16_t a[2];
#pragma GCC unroll 2
            for (int p = 0; p < pairs; p++) {
                const int8_t *first = codes + (size_t)(2 * p) * job->code_stride;
                a[p] = vcombine_s8(vld1_s8(first), vld1_s8(tokens == 1 ? first : first + job->code_stride));
            }
#pragma GCC unroll 4
            for (int q = 0; q < QUARTERS; q++) {
                int8x16_t rows[2];
                load_rows(form, weights, q, rows);
#pragma GCC unroll 2
                for (int p = 0; p < pairs; p++) {
                    int32x4_t *square = &squares[2 * (QUARTERS * p + q)];
                    square[0] = vmmlaq_s32(square[0], rows[0], a[p]);
                    square[1] = vmmlaq_s32(square[1], rows[1], a[p]);
                }
            }
            weights += sqf_form_step_bytes(form);
            codes += SQF_SEGMENT_PAD;
        }
        from_squares(squares, pairs, sums);
        finish_sums(job, panel, first_token, g, tokens, sums);
    }
}

INLINE void tile_form(const sqf_tile_job *job, sqf_form form)
{
    if (form == SQF_FORM_NIBBLES) {
        dot_form(job, form);
        return;
    }
    for (size_t panel = 0; panel < job->panels; panel++) {
        size_t m = 0;
        for (; m + 4 <= job->tokens; m += 4) {
            tile_part(job, form, panel, m, 4);
        }
        for (; m + 2 <= job->tokens; m += 2) {
            tile_part(job, form, panel, m, 2);
        }
        for (; m < job->tokens; m++) {
            tile_part(job, form, panel, m, 1);
        }
    }
}

#include "kernels/cpu/tile_forms.h"

void sqf_kernels_add_i8mm(sqf_kernels *kernels)
{
    kernels->tile = tile;
    kernels->expand_nibbles = expand_nibbles;
}
#endif

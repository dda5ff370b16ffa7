/* The integer tile for AVX2: two registers hold 4 columns of the 16 rows of a panel, each int32 lane one output row.
 * One panel and up to 4 tokens at a time: 8 accumulators, which with the operands fit the 16 registers.
 *
 * Packed nibbles are multiplied as w + 7, unsigned, and the offset is taken out through the sums of the activations.
 * vpmaddubsw adds two products in 16 bits: 2 * 14 * 127 = 3556, so 8 results may be added before they must widen
 * (28448), and 64 with activation codes from -16 to 15 (28672).
 *
 * Bytes are signed: |w| times the code with the sign of w, 2 * 127 * 127 = 32258, widened at once. */
#if SQF_ARCH_X86
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

#define INLINE static inline __attribute__((always_inline))

/* Steps of 8 columns between widenings: each adds two results of vpmaddubsw to a lane, so 8 and 64 results. */
enum { STEPS_WIDE = 4, STEPS_NARROW = 32 }; /* steps of two vpmaddubsw between widenings */

/* Four codes of one token in every lane. */
INLINE __m256i broadcast_codes(const int8_t *codes)
{
    int32_t four;
    memcpy(&four, codes, sizeof four);
    return _mm256_set1_epi32(four);
}

/* Half 0 or 1 of a step of eight columns, rows 8 * side ..: 4 columns of 8 rows. */
INLINE __m256i load_weights(sqf_form form, const uint8_t *step, int half, int side)
{
    if (form == SQF_FORM_NIBBLES) {
        const __m256i pairs = _mm256_loadu_si256((const __m256i *)(const void *)(step + 32 * side));
        const __m256i wanted = half ? _mm256_srli_epi16(pairs, 4) : pairs;
        return _mm256_and_si256(wanted, _mm256_set1_epi8(15));
    }
    return _mm256_loadu_si256((const __m256i *)(const void *)(step + 64 * half + 32 * side));
}

/* part + two products of a lane in 16 bits. Written as instructions because gcc 12 reorders the additions of the
 * intrinsics, runs out of registers and keeps the sums in memory. */
INLINE __m256i add_pairs(__m256i part, __m256i weights, __m256i codes)
{
    __m256i pairs;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(part), "=&x"(pairs) : "x"(weights), "x"(codes));
    return part;
}

/* Adds `steps` steps of unsigned weights to the sums; the results stay within 16 bits until the end. */
INLINE void add_unsigned(sqf_form form, const uint8_t *weights, const int8_t *codes, size_t code_stride, size_t steps,
                         const int tokens, __m256i *sums)
{
    const size_t step_bytes = sqf_form_step_bytes(form);
    __m256i part[8];
#pragma GCC unroll 8
    for (int i = 0; i < 2 * tokens; i++) {
        part[i] = _mm256_setzero_si256();
    }
    /* base, 1 and 2 strides are addressing modes of x86; the third row gets a pointer, so that no register holds 3 *
     * stride */
    const int8_t *codes3 = codes + 3 * code_stride;
#pragma GCC unroll 4
    for (size_t step = 0; step < steps; step++) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const __m256i w0 = load_weights(form, weights, half, 0), w1 = load_weights(form, weights, half, 1);
#pragma GCC unroll 4
            for (int t = 0; t < tokens; t++) {
                const int8_t *place = t < 3 ? codes + (size_t)t * code_stride : codes3;
                const __m256i a = broadcast_codes(place + 4 * half);
                part[2 * t] = add_pairs(part[2 * t], w0, a);
                part[2 * t + 1] = add_pairs(part[2 * t + 1], w1, a);
            }
        }
        weights += step_bytes;
        codes += SQF_SEGMENT_PAD;
        codes3 += SQF_SEGMENT_PAD;
    }
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int i = 0; i < 2 * tokens; i++) {
        sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(part[i], ones));
    }
}

/* Steps of signed weights. vpmaddubsw wants one operand unsigned: the sign of the weight moves to the code (vpsignb),
 * which is safe because neither is ever -128. */
INLINE void add_signed(const uint8_t *weights, const int8_t *codes, size_t code_stride, size_t steps, const int tokens,
                       __m256i *sums)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int8_t *codes3 = codes + 3 * code_stride;
    for (size_t step = 0; step < steps; step++) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
#pragma GCC unroll 2
            for (int side = 0; side < 2; side++) {
                const __m256i w = load_weights(SQF_FORM_BYTES, weights, half, side);
                const __m256i size = _mm256_abs_epi8(w);
#pragma GCC unroll 4
                for (int t = 0; t < tokens; t++) {
                    const int8_t *place = t < 3 ? codes + (size_t)t * code_stride : codes3;
                    const __m256i a = _mm256_sign_epi8(broadcast_codes(place + 4 * half), w);
                    const __m256i pairs = _mm256_maddubs_epi16(size, a);
                    sums[2 * t + side] = _mm256_add_epi32(sums[2 * t + side], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        weights += 128;
        codes += SQF_SEGMENT_PAD;
        codes3 += SQF_SEGMENT_PAD;
    }
}

/* Integer sums of one segment: one panel, at most 4 tokens; sums[2 * token + side]. */
INLINE void sum_segment(const sqf_tile_job *job, sqf_form form, const sqf_segment *segment, const uint8_t *weights,
                        const int8_t *codes, const int tokens, __m256i *sums)
{
    const size_t steps = (segment->end - segment->begin + SQF_SEGMENT_PAD - 1) / SQF_SEGMENT_PAD;
    if (form == SQF_FORM_BYTES) {
        add_signed(weights, codes, job->code_stride, steps, tokens, sums);
        return;
    }
    const size_t most = segment->narrow >> job->act_plane & 1 ? STEPS_NARROW : STEPS_WIDE;
    size_t step = 0;
    for (; most == STEPS_WIDE && step + STEPS_WIDE <= steps; step += STEPS_WIDE) {
        add_unsigned(form, weights + step * sqf_form_step_bytes(form), codes + step * SQF_SEGMENT_PAD, job->code_stride,
                     STEPS_WIDE, tokens, sums);
    }
    for (; step < steps; step += most) {
        add_unsigned(form, weights + step * sqf_form_step_bytes(form), codes + step * SQF_SEGMENT_PAD, job->code_stride,
                     steps - step < most ? steps - step : most, tokens, sums);
    }
}

/* Up to 4 tokens of one panel, all segments. The sums start at minus the offset's share, so that nothing is to be
 * subtracted at the end; `tokens` is a constant at each call and the loops over it unroll. */
INLINE void tile_part(const sqf_tile_job *job, sqf_form form, size_t panel, size_t first_token, const int tokens)
{
    const size_t origin = job->segments[0].offset;
    for (size_t g = 0; g < job->segment_count; g++) {
        const sqf_segment *segment = &job->segments[g];
        const size_t at = segment->offset - origin, scalars = first_token * job->segment_stride + g;
        __m256i sums[8];
#pragma GCC unroll 8
        for (int i = 0; i < 2 * tokens; i++) {
            const int32_t sum = job->sums[scalars + (size_t)(i / 2) * job->segment_stride];
            sums[i] = form == SQF_FORM_BYTES ? _mm256_setzero_si256() : _mm256_set1_epi32(-SQF_NIBBLE_OFFSET * sum);
        }
        if (job->zeros) {
            const int32_t *column_sums = job->column_sums + panel * job->panel_scales + g * SQF_PANEL_ROWS;
#pragma GCC unroll 8
            for (int i = 0; i < 2 * tokens; i++) {
                const __m256i zero = _mm256_set1_epi32(job->zeros[scalars + (size_t)(i / 2) * job->segment_stride]);
                const __m256i of_rows = _mm256_loadu_si256((const __m256i *)(const void *)(column_sums + 8 * (i % 2)));
                sums[i] = _mm256_sub_epi32(sums[i], _mm256_mullo_epi32(zero, of_rows));
            }
        }
        sum_segment(job, form, segment,
                    job->weights + panel * job->panel_bytes + at / SQF_SEGMENT_PAD * sqf_form_step_bytes(form),
                    job->codes + first_token * job->code_stride + at, tokens, sums);
        const float *scales = job->scales + panel * job->panel_scales + g * SQF_PANEL_ROWS;
        float *out = job->out + first_token * SQF_BLOCK_ROWS + panel * SQF_PANEL_ROWS;
#pragma GCC unroll 8
        for (int i = 0; i < 2 * tokens; i++) {
            const __m256 act = _mm256_set1_ps(job->act_scales[scalars + (size_t)(i / 2) * job->segment_stride]);
            const __m256 scale = _mm256_mul_ps(act, _mm256_loadu_ps(scales + 8 * (i % 2)));
            float *place = out + i / 2 * SQF_BLOCK_ROWS + 8 * (i % 2);
            const __m256 term = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(sums[i]));
            _mm256_storeu_ps(place, _mm256_add_ps(_mm256_loadu_ps(place), term));
        }
    }
}

/* All panels and tokens, the widest tile first. */
INLINE void tile_form(const sqf_tile_job *job, sqf_form form)
{
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

void sqf_kernels_add_avx2(sqf_kernels *kernels)
{
    sqf_vector_add_avx2(kernels);
    kernels->tile = tile;
    sqf_split_add_avx2(kernels);
}
#endif

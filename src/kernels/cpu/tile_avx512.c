/* The integer tile for AVX-512 with VNNI: a register holds 4 columns of the 16 rows of a panel, each int32 lane one
 * output row. vpdpbusd multiplies unsigned by signed bytes, so weights are taken as w + offset and the offset is
 * taken out through the sums of the activations; its sums wrap, so the exact result survives the detour.
 *
 * Offsets: 7 for nibbles, 128 for bytes, whose sign bit is flipped on loading. 128 * |sum of codes| <= 128 * 127 *
 * 2^17 < 2^31, so the starting value itself is exact. */
#if SQF_ARCH_X86
#include <immintrin.h>

#include "kernels/cpu/products_avx512.h"
#include "kernels/kernels.h"

/* The addresses base + 0, 1 and 2 strides are addressing modes of x86. Spelled out, because gcc 12 keeps a pointer for
 * each, runs out of registers and parks them in vector registers inside the loop. `times` and `offset` (0, 4 or 64)
 * are constants, so that one of the nine instructions is left. */
#define LOAD_FROM(instruction, address, out, base, stride)                                                             \
    __asm__(instruction " " address ", %0" : "=v"(out) : "r"(base), "r"(stride), "m"(*(const char(*)[65536])(base)))
#define LOAD_BEHIND(instruction, offset, out, base, stride, times)                                                     \
    do {                                                                                                               \
        if ((times) == 0) {                                                                                            \
            LOAD_FROM(instruction, offset "(%1)", out, base, stride);                                                  \
        } else if ((times) == 1) {                                                                                     \
            LOAD_FROM(instruction, offset "(%1,%2)", out, base, stride);                                               \
        } else {                                                                                                       \
            LOAD_FROM(instruction, offset "(%1,%2,2)", out, base, stride);                                             \
        }                                                                                                              \
    } while (0)
#define LOAD_AT(instruction, out, base, stride, times, offset)                                                         \
    do {                                                                                                               \
        const void *const place_ = (base);                                                                             \
        if ((offset) == 0) {                                                                                           \
            LOAD_BEHIND(instruction, "0", out, place_, stride, times);                                                 \
        } else if ((offset) == 4) {                                                                                    \
            LOAD_BEHIND(instruction, "4", out, place_, stride, times);                                                 \
        } else {                                                                                                       \
            LOAD_BEHIND(instruction, "64", out, place_, stride, times);                                                \
        }                                                                                                              \
    } while (0)

/* Half 0 or 1 of a step of eight columns: 4 columns of 16 rows as unsigned bytes; `raw` is what memory holds. */
INLINE __m512i unsigned_weights(sqf_form form, __m512i raw, int half)
{
    if (form == SQF_FORM_NIBBLES) {
        return _mm512_and_si512(half ? _mm512_srli_epi16(raw, 4) : raw, _mm512_set1_epi8(15));
    }
    return form == SQF_FORM_BYTES ? _mm512_xor_si512(raw, _mm512_set1_epi8(-128)) : raw;
}

/* `panels` x `tokens` is at most 4 x 6: 24 sums, 4 weights, a broadcast and a mask fill 30 of 32 registers. */
INLINE void tile_part(const sqf_tile_job *job, sqf_form form, size_t first_panel, const int panels, size_t first_token,
                      const int tokens)
{
    const size_t step_bytes = sqf_form_step_bytes(form), weight_stride = job->panel_bytes;
    const size_t panel_scales = job->panel_scales, segment_stride = job->segment_stride;
    const size_t code_stride = job->code_stride, origin = job->segments[0].offset;
    const int32_t offset = form == SQF_FORM_BYTES ? 128 : SQF_NIBBLE_OFFSET;
    const uint8_t *first_weights = job->weights + first_panel * weight_stride;
    const int8_t *first_codes = job->codes + first_token * code_stride;
    for (size_t g = 0; g < job->segment_count; g++) {
        const sqf_segment *segment = &job->segments[g];
        const size_t at = segment->offset - origin, length = segment->end - segment->begin;
        const uint8_t *weights = first_weights + at / SQF_SEGMENT_PAD * step_bytes;
        const uint8_t *weights3 = weights + 3 * weight_stride;
        const int8_t *codes = first_codes + at, *codes3 = codes + 3 * code_stride;
        const size_t scalars = first_token * job->segment_stride + g;
        __m512i sums[24];
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++) {
            const int32_t sum = job->sums[scalars + (size_t)t * job->segment_stride];
#pragma GCC unroll 4
            for (int p = 0; p < panels; p++) {
                sums[p * tokens + t] = _mm512_set1_epi32(-offset * sum);
            }
        }
        if (job->zeros) {
            const int32_t *column_sums = job->column_sums + first_panel * job->panel_scales + g * SQF_PANEL_ROWS;
#pragma GCC unroll 4
            for (int p = 0; p < panels; p++) {
                const __m512i of_rows = _mm512_loadu_si512(column_sums + (size_t)p * job->panel_scales);
#pragma GCC unroll 6
                for (int t = 0; t < tokens; t++) {
                    const __m512i zero = _mm512_set1_epi32(job->zeros[scalars + (size_t)t * job->segment_stride]);
                    sums[p * tokens + t] = _mm512_sub_epi32(sums[p * tokens + t], _mm512_mullo_epi32(zero, of_rows));
                }
            }
        }
        /* whole steps, into the padding: the codes there are 0 */
        for (size_t k = 0; k < length; k += SQF_SEGMENT_PAD) {
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                __m512i w[4];
#pragma GCC unroll 4
                for (int p = 0; p < panels; p++) {
                    LOAD_AT("vmovdqu64", w[p], p < 3 ? weights : weights3, weight_stride, p % 3,
                            form == SQF_FORM_NIBBLES ? 0 : 64 * half);
                    w[p] = unsigned_weights(form, w[p], half);
                }
#pragma GCC unroll 6
                for (int t = 0; t < tokens; t++) {
                    __m512i a;
                    LOAD_AT("vpbroadcastd", a, t < 3 ? codes : codes3, code_stride, t % 3, 4 * half);
#pragma GCC unroll 4
                    for (int p = 0; p < panels; p++) {
                        sums[p * tokens + t] = add_products(sums[p * tokens + t], w[p], a);
                    }
                }
            }
            weights += step_bytes;
            weights3 += step_bytes;
            codes += SQF_SEGMENT_PAD;
            codes3 += SQF_SEGMENT_PAD;
        }
        const float *scales = job->scales + first_panel * panel_scales + g * SQF_PANEL_ROWS;
        const float *act_scales = job->act_scales + scalars;
        float *out = job->out + first_token * SQF_BLOCK_ROWS + first_panel * SQF_PANEL_ROWS;
        __m512 scale[4];
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) {
            scale[p] = _mm512_loadu_ps(scales + (size_t)p * panel_scales);
        }
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++) {
            const __m512 act = _mm512_set1_ps(*act_scales);
#pragma GCC unroll 4
            for (int p = 0; p < panels; p++) {
                float *place = out + p * SQF_PANEL_ROWS;
                const __m512 term =
                    _mm512_mul_ps(_mm512_mul_ps(act, scale[p]), _mm512_cvtepi32_ps(sums[p * tokens + t]));
                _mm512_storeu_ps(place, _mm512_add_ps(_mm512_loadu_ps(place), term));
            }
            act_scales += segment_stride;
            out += SQF_BLOCK_ROWS;
        }
    }
}

/* All tokens, for a fixed number of panels; the widest tile first. */
INLINE void tile_tokens(const sqf_tile_job *job, sqf_form form, size_t first_panel, const int panels)
{
    size_t m = 0;
    /* 8 tokens at the end are two fours, not a six and a two. */
    for (; m + 6 <= job->tokens && m + 8 != job->tokens; m += 6) {
        tile_part(job, form, first_panel, panels, m, 6);
    }
    for (; m + 4 <= job->tokens; m += 4) {
        tile_part(job, form, first_panel, panels, m, 4);
    }
    for (; m + 2 <= job->tokens; m += 2) {
        tile_part(job, form, first_panel, panels, m, 2);
    }
    for (; m < job->tokens; m++) {
        tile_part(job, form, first_panel, panels, m, 1);
    }
}

enum { ONE_STREAM_TOKENS = 2, ONE_STREAM_BYTES = 32768 };

/* Four panels share the broadcast codes of a token; fewer, at the end of a matrix, go one by one. So do short panels
 * with a token or two: what counts then is memory, and one stream through them all is faster than four that begin anew
 * every few pages. */
INLINE void tile_form(const sqf_tile_job *job, sqf_form form)
{
    const bool stream = job->tokens <= ONE_STREAM_TOKENS && job->panel_bytes <= ONE_STREAM_BYTES;
    if (job->panels == SQF_BLOCK_PANELS && !stream) {
        tile_tokens(job, form, 0, SQF_BLOCK_PANELS);
        return;
    }
    for (size_t p = 0; p < job->panels; p++) {
        tile_tokens(job, form, p, 1);
    }
}

#include "kernels/cpu/tile_forms.h"

void sqf_kernels_add_avx512(sqf_kernels *kernels)
{
    sqf_vector_add_avx512(kernels);
    kernels->tile = tile;
    kernels->direct_tokens = SIZE_MAX;
}
#endif

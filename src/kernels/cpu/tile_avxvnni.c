/* The integer tile for AVX-VNNI: vpdpbusd on the 16 registers of AVX2. Two registers hold 4 columns of the 16 rows of a
 * panel, each int32 lane one output row; one panel and up to 6 tokens at a time: 12 sums, 2 weights and a broadcast
 * fill 15 registers. Per 4 columns that is 12 vpdpbusd, 6 broadcasts and 2 loads.
 *
 * vpdpbusd multiplies unsigned by signed bytes and its sums wrap, so weights are taken as w + offset and the offset is
 * taken out through the sums of the activations, as in tile_avx512.c: 7 for nibbles, 128 for bytes.
 *
 * The instruction is written with the prefix {vex}: without it an assembler may choose the encoding of AVX-512. */
#if SQF_ARCH_X86
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

#define INLINE static inline __attribute__((always_inline))

/* Four codes of one token in every lane. */
INLINE __m256i broadcast_codes(const int8_t *codes)
{
    int32_t four;
    memcpy(&four, codes, sizeof four);
    return _mm256_set1_epi32(four);
}

/* sums + four products of a lane. Written as an instruction because gcc 12 copies the sums of the intrinsic from
 * register to register and spills them on the way. */
INLINE __m256i add_products(__m256i sums, __m256i weights, __m256i codes)
{
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(weights), "x"(codes));
    return sums;
}

/* Half 0 or 1 of a step of eight columns, rows 8 * side ..: 4 columns of 8 rows as unsigned bytes. */
INLINE __m256i load_weights(sqf_form form, const uint8_t *step, int half, int side)
{
    if (form == SQF_FORM_NIBBLES) {
        const __m256i pairs = _mm256_loadu_si256((const __m256i *)(const void *)(step + 32 * side));
        const __m256i wanted = half ? _mm256_srli_epi16(pairs, 4) : pairs;
        return _mm256_and_si256(wanted, _mm256_set1_epi8(15));
    }
    const __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)(step + 64 * half + 32 * side));
    return form == SQF_FORM_BYTES ? _mm256_xor_si256(bytes, _mm256_set1_epi8(-128)) : bytes;
}

/* Sums of one segment start at minus the offset's share and minus the zero points'; sums[2 * token + side]. */
INLINE void start_sums(const sqf_tile_job *job, sqf_form form, size_t panel, size_t first_token, size_t g,
                       const int tokens, __m256i *sums)
{
    const int32_t offset = form == SQF_FORM_BYTES ? 128 : SQF_NIBBLE_OFFSET;
    const size_t scalars = first_token * job->segment_stride + g;
#pragma GCC unroll 12
    for (int i = 0; i < 2 * tokens; i++) {
        sums[i] = _mm256_set1_epi32(-offset * job->sums[scalars + (size_t)(i / 2) * job->segment_stride]);
    }
    if (job->zeros) {
        const int32_t *column_sums = job->column_sums + panel * job->panel_scales + g * SQF_PANEL_ROWS;
#pragma GCC unroll 12
        for (int i = 0; i < 2 * tokens; i++) {
            const __m256i zero = _mm256_set1_epi32(job->zeros[scalars + (size_t)(i / 2) * job->segment_stride]);
            const __m256i of_rows = _mm256_loadu_si256((const __m256i *)(const void *)(column_sums + 8 * (i % 2)));
            sums[i] = _mm256_sub_epi32(sums[i], _mm256_mullo_epi32(zero, of_rows));
        }
    }
}

/* A pointer to token t at a constant distance: base, 1 and 2 strides are addressing modes of x86, and tokens 3 to 5
 * get a pointer of their own, so that no register holds a multiple of the distance. */
#define AT(base, third, stride, t) ((t) < 3 ? (base) + (size_t)(t) * (stride) : (third) + (size_t)((t)-3) * (stride))

/* `tokens` is a constant at each call and the loops over it unroll. */
INLINE void tile_part(const sqf_tile_job *job, sqf_form form, size_t panel, size_t first_token, const int tokens)
{
    const size_t step_bytes = sqf_form_step_bytes(form), code_stride = job->code_stride;
    const size_t origin = job->segments[0].offset;
    for (size_t g = 0; g < job->segment_count; g++) {
        const sqf_segment *segment = &job->segments[g];
        const size_t at = segment->offset - origin, length = segment->end - segment->begin;
        const uint8_t *weights = job->weights + panel * job->panel_bytes + at / SQF_SEGMENT_PAD * step_bytes;
        const int8_t *codes = job->codes + first_token * code_stride + at, *codes3 = codes + 3 * code_stride;
        __m256i sums[12];
        start_sums(job, form, panel, first_token, g, tokens, sums);
        /* whole steps, into the padding: the codes there are 0 */
        for (size_t k = 0; k < length; k += SQF_SEGMENT_PAD) {
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const __m256i w0 = load_weights(form, weights, half, 0), w1 = load_weights(form, weights, half, 1);
#pragma GCC unroll 6
                for (int t = 0; t < tokens; t++) {
                    const __m256i a = broadcast_codes(AT(codes, codes3, code_stride, t) + 4 * half);
                    sums[2 * t] = add_products(sums[2 * t], w0, a);
                    sums[2 * t + 1] = add_products(sums[2 * t + 1], w1, a);
                }
            }
            weights += step_bytes;
            codes += SQF_SEGMENT_PAD;
            codes3 += SQF_SEGMENT_PAD;
        }
        const float *scales = job->scales + panel * job->panel_scales + g * SQF_PANEL_ROWS;
        const float *act_scales = job->act_scales + first_token * job->segment_stride + g;
        float *out = job->out + first_token * SQF_BLOCK_ROWS + panel * SQF_PANEL_ROWS;
#pragma GCC unroll 12
        for (int i = 0; i < 2 * tokens; i++) {
            const __m256 act = _mm256_set1_ps(act_scales[(size_t)(i / 2) * job->segment_stride]);
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
        for (; m + 6 <= job->tokens; m += 6) {
            tile_part(job, form, panel, m, 6);
        }
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

void sqf_kernels_add_avxvnni(sqf_kernels *kernels)
{
    kernels->tile = tile;
}
#endif

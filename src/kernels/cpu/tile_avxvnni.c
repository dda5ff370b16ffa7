/* The integer tile for AVX-VNNI: vpdpbusd on the 16 registers of AVX2. Two registers hold 4 columns of the 16 rows of a
 * panel, each int32 lane one output row; one panel and up to 6 tokens at a time: 12 sums, 2 weights, a broadcast and a
 * constant are the 16 registers. Per 4 columns that is 12 vpdpbusd, 6 broadcasts and 2 loads. One or two tokens take
 * four or two panels at a time, so that enough sums wait for each other's latency.
 *
 * vpdpbusd multiplies unsigned by signed bytes and its sums wrap, so weights are taken as w + offset and the offset is
 * taken out through the sums of the activations, as in tile_avx512.c: 7 for nibbles, 128 for bytes. */
#if SQF_ARCH_X86
#include <immintrin.h>

#include "kernels/kernels.h"

#define INLINE static inline __attribute__((always_inline))

/* The four codes that a broadcast reads. */
typedef struct four_codes {
    int8_t codes[4];
} four_codes;

/* Both registers of a panel's sums + four products of a lane with the same token. Written as instructions, because gcc
 * 12 copies the sums of the intrinsic from register to register, and pulls broadcasts ahead until sums are spilled.
 * {vex}: without it an assembler may choose the encoding of AVX-512. */
INLINE void add_products(__m256i sums[2], __m256i w0, __m256i w1, const int8_t *codes)
{
    const four_codes *four = (const four_codes *)(const void *)codes;
    __m256i a;
    __asm__("vpbroadcastd %5, %2\n\t"
            "%{vex%} vpdpbusd %2, %3, %0\n\t"
            "%{vex%} vpdpbusd %2, %4, %1"
            : "+x"(sums[0]), "+x"(sums[1]), "=&x"(a)
            : "x"(w0), "x"(w1), "m"(*four));
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

/* out += (act_scale * scale) * (float)sum, in three roundings. */
INLINE void finish_sums(const sqf_tile_job *job, size_t panel, size_t first_token, size_t g, const int tokens,
                        const __m256i *sums)
{
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

/* A token or panel at a constant distance: base, 1 and 2 strides are addressing modes of x86, and numbers 3 to 5 get a
 * pointer of their own, so that no register holds a multiple of the distance. */
#define AT(base, third, stride, i) ((i) < 3 ? (base) + (size_t)(i) * (stride) : (third) + (size_t)((i)-3) * (stride))

/* `panels` * `tokens` <= 6; both are constants at each call and the loops over them unroll. */
INLINE void tile_part(const sqf_tile_job *job, sqf_form form, size_t first_panel, const int panels, size_t first_token,
                      const int tokens)
{
    const size_t step_bytes = sqf_form_step_bytes(form), weight_stride = job->panel_bytes;
    const size_t code_stride = job->code_stride, origin = job->segments[0].offset;
    for (size_t g = 0; g < job->segment_count; g++) {
        const sqf_segment *segment = &job->segments[g];
        const size_t at = segment->offset - origin, length = segment->end - segment->begin;
        const uint8_t *weights = job->weights + first_panel * weight_stride + at / SQF_SEGMENT_PAD * step_bytes;
        const uint8_t *weights3 = weights + 3 * weight_stride;
        const int8_t *codes = job->codes + first_token * code_stride + at, *codes3 = codes + 3 * code_stride;
        __m256i sums[12];
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) {
            start_sums(job, form, first_panel + (size_t)p, first_token, g, tokens, sums + 2 * tokens * p);
        }
        /* whole steps, into the padding: the codes there are 0 */
        for (size_t k = 0; k < length; k += SQF_SEGMENT_PAD) {
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
#pragma GCC unroll 4
                for (int p = 0; p < panels; p++) {
                    const uint8_t *step = AT(weights, weights3, weight_stride, p);
                    const __m256i w0 = load_weights(form, step, half, 0), w1 = load_weights(form, step, half, 1);
#pragma GCC unroll 6
                    for (int t = 0; t < tokens; t++) {
                        add_products(sums + 2 * (tokens * p + t), w0, w1, AT(codes, codes3, code_stride, t) + 4 * half);
                    }
                }
            }
            weights += step_bytes;
            weights3 += step_bytes;
            codes += SQF_SEGMENT_PAD;
            codes3 += SQF_SEGMENT_PAD;
        }
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) {
            finish_sums(job, first_panel + (size_t)p, first_token, g, tokens, sums + 2 * tokens * p);
        }
    }
}

/* All panels for one or two tokens, as many at once as there are. */
INLINE void tile_few(const sqf_tile_job *job, sqf_form form, size_t first_token, const int tokens)
{
    const int most = tokens == 1 ? 4 : 2;
    size_t panel = 0;
    for (; panel + (size_t)most <= job->panels; panel += (size_t)most) {
        tile_part(job, form, panel, most, first_token, tokens);
    }
    for (; panel < job->panels; panel++) {
        tile_part(job, form, panel, 1, first_token, tokens);
    }
}

/* The widest tile first. */
INLINE void tile_form(const sqf_tile_job *job, sqf_form form)
{
    size_t rest = 0; /* the tokens before were taken by wide tiles */
    for (size_t panel = 0; panel < job->panels; panel++) {
        size_t m = 0;
        for (; m + 6 <= job->tokens; m += 6) {
            tile_part(job, form, panel, 1, m, 6);
        }
        for (; m + 4 <= job->tokens; m += 4) {
            tile_part(job, form, panel, 1, m, 4);
        }
        rest = m;
    }
    for (; rest + 2 <= job->tokens; rest += 2) {
        tile_few(job, form, rest, 2);
    }
    for (; rest < job->tokens; rest++) {
        tile_few(job, form, rest, 1);
    }
}

#include "kernels/cpu/tile_forms.h"

void sqf_kernels_add_avxvnni(sqf_kernels *kernels)
{
    kernels->tile = tile;
}
#endif

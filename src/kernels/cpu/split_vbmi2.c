/* Products with SPLIT weights for AVX-512 with VNNI, VBMI and VBMI2. vpexpandb puts the upper nibbles of the list to
 * the places that a mask has for them; everything else is nibbles as in the tile of tile_avx512.c.
 *
 * Of 64 weights (half a step): 1.5 instructions unpack the low nibbles, vpexpandb, a shift and a vpternlogd make the
 * bytes of the high elements, two masked ones set absent elements to what stands for 0 (7, 128), two vpdpbusd multiply;
 * a mask is loaded and its bits are counted. */
#if SQF_ARCH_X86
#include <immintrin.h>

#include "kernels/split.h"

#define INLINE static inline __attribute__((always_inline))

/* Reading the list: the next element, where the upper halves end, and how far its nibble must be shifted up. */
typedef struct list_reader {
    const uint8_t *at, *end;
    size_t half;
    __m128i shift;
} list_reader;

INLINE list_reader list_begin(const sqf_split_shape *shape, const uint8_t *list, size_t position)
{
    list_reader reader = {list + position, list + shape->list_half, shape->list_half, _mm_setzero_si128()};
    return reader;
}

/* Once a step, which takes up to SPLIT_AHEAD elements: from the upper halves to the lower ones. */
INLINE void list_turn(list_reader *reader)
{
    if (__builtin_expect(reader->at >= reader->end, 0)) {
        reader->at -= reader->half;
        reader->end = (const uint8_t *)UINTPTR_MAX;
        reader->shift = _mm_cvtsi32_si128(4);
    }
}

/* The elements of half a step: nibbles and, where `mask` has a bit, the byte of a high element; elsewhere bytes without
 * a meaning. */
typedef struct half_step {
    __mmask64 mask;
    __m512i nibbles, bytes;
} half_step;

INLINE half_step next_half(list_reader *reader, const uint8_t *nibbles, const uint8_t *masks, int half)
{
    half_step out;
    const uint64_t mask = split_mask(masks, 0, half);
    const __m512i pairs = _mm512_loadu_si512(nibbles);
    out.mask = _cvtu64_mask64(mask);
    out.nibbles = _mm512_and_si512(half ? _mm512_srli_epi16(pairs, 4) : pairs, _mm512_set1_epi8(15));
    const __m512i upper = _mm512_maskz_expand_epi8(out.mask, _mm512_loadu_si512(reader->at));
    reader->at += __builtin_popcountll(mask);
    /* upper & 0xf0 | nibbles */
    out.bytes = _mm512_ternarylogic_epi32(_mm512_sll_epi16(upper, reader->shift), _mm512_set1_epi8((char)0xf0),
                                          out.nibbles, 0xea);
    return out;
}

INLINE __m512i add_products(__m512i sums, __m512i weights, __m512i codes)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(codes));
    return sums;
}

INLINE __m512i broadcast_codes(const int8_t *codes)
{
    int32_t four;
    memcpy(&four, codes, sizeof four);
    return _mm512_set1_epi32(four);
}

INLINE __m512 load_scales(const sqf_split_shape *shape, const uint8_t *scales)
{
    return shape->half ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)scales))
                       : _mm512_loadu_ps(scales);
}

INLINE __m512i load_shifts(const sqf_split_shape *shape, const uint8_t *header)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)split_shifts(shape, header)));
}

/* Integer sums of a segment to the outputs of up to 8 tokens; low[t], high[t]. */
INLINE void add_segment(const sqf_split_job *job, const uint8_t *header, size_t scalars, const int tokens,
                        const __m512i *low, const __m512i *high, float *out)
{
    const sqf_split_shape *shape = job->shape;
    const __m512i shifts = shape->tied ? load_shifts(shape, header) : _mm512_setzero_si512();
    const __m512 scale_low = load_scales(shape, header);
    /* 2^-shift by its exponent */
    const __m512i power = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(127), shifts), 23);
    const __m512 scale_high = shape->tied ? _mm512_mul_ps(scale_low, _mm512_castsi512_ps(power))
                                          : load_scales(shape, header + split_scale_bytes(shape));
    const uint8_t *sums = split_sums(shape, header);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        const size_t at = scalars + (size_t)t * job->segment_count;
        const __m512 act = _mm512_set1_ps(job->act_scales[at]);
        __m512i first = low[t], second = high[t];
        if (shape->tied) {
            second = _mm512_add_epi32(second, _mm512_sllv_epi32(first, shifts));
        }
        if (job->zeros) {
            const __m512i zero = _mm512_set1_epi32(job->zeros[at]);
            const __m512i of_low = _mm512_mullo_epi32(zero, _mm512_loadu_si512(sums));
            if (shape->tied) {
                second = _mm512_sub_epi32(second, of_low);
            } else {
                first = _mm512_sub_epi32(first, of_low);
                second = _mm512_sub_epi32(second, _mm512_mullo_epi32(zero, _mm512_loadu_si512(sums + 64)));
            }
        }
        float *place = out + t * SQF_BLOCK_ROWS;
        __m512 total = _mm512_loadu_ps(place);
        if (!shape->tied) {
            total = _mm512_add_ps(total, _mm512_mul_ps(_mm512_mul_ps(act, scale_low), _mm512_cvtepi32_ps(first)));
        }
        total = _mm512_add_ps(total, _mm512_mul_ps(_mm512_mul_ps(act, scale_high), _mm512_cvtepi32_ps(second)));
        _mm512_storeu_ps(place, total);
    }
}

/* One panel, all segments. One or two tokens have sums of their own for each half of a step: chains of vpdpbusd would
 * otherwise be waited for. */
INLINE void direct_part(const sqf_split_job *job, size_t p, size_t first_token, const int tokens)
{
    const sqf_split_shape *shape = job->shape;
    const uint8_t *panel = job->weights + p * job->panel_bytes;
    const int8_t *first_codes = job->codes + first_token * job->code_stride;
    float *out = job->out + first_token * SQF_BLOCK_ROWS + p * SQF_PANEL_ROWS;
    list_reader reader = list_begin(shape, panel + shape->list_offset, 0);
    const int chains = tokens <= 2 ? 2 : 1;
    for (size_t g = 0; g < job->segment_count; g++) {
        const sqf_segment *segment = &job->segments[g];
        const uint8_t *header = split_segment(shape, panel, g, segment);
        const size_t steps = split_steps(segment), scalars = first_token * job->segment_count + g;
        const uint8_t *nibbles = header + shape->header_bytes, *masks = nibbles + steps * SPLIT_NIBBLES;
        const int8_t *codes = first_codes + segment->offset;
        __m512i low[16], high[16];
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            const int32_t sum = job->sums[scalars + (size_t)t * job->segment_count];
            low[t] = _mm512_set1_epi32(-SQF_NIBBLE_OFFSET * sum);
            high[t] = _mm512_set1_epi32(-128 * sum);
            low[8 + t] = high[8 + t] = _mm512_setzero_si512();
        }
        for (size_t step = 0; step < steps; step++) {
            list_turn(&reader);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const half_step w = next_half(&reader, nibbles, masks, half);
                const __m512i offset = _mm512_set1_epi8(-128);
                const __m512i of_low = _mm512_mask_mov_epi8(w.nibbles, w.mask, _mm512_set1_epi8(SQF_NIBBLE_OFFSET));
                const __m512i of_high = _mm512_mask_add_epi8(offset, w.mask, w.bytes, offset);
                const int chain = chains == 2 && half ? 8 : 0;
#pragma GCC unroll 8
                for (int t = 0; t < tokens; t++) {
                    const __m512i a = broadcast_codes(codes + (size_t)t * job->code_stride + 4 * half);
                    low[chain + t] = add_products(low[chain + t], of_low, a);
                    high[chain + t] = add_products(high[chain + t], of_high, a);
                }
            }
            nibbles += SPLIT_NIBBLES;
            masks += 16;
            codes += SQF_SEGMENT_PAD;
        }
#pragma GCC unroll 8
        for (int t = 0; chains == 2 && t < tokens; t++) {
            low[t] = _mm512_add_epi32(low[t], low[8 + t]);
            high[t] = _mm512_add_epi32(high[t], high[8 + t]);
        }
        add_segment(job, header, scalars, tokens, low, high, out);
    }
}

static void direct_1(const sqf_split_job *job, size_t p, size_t first_token)
{
    direct_part(job, p, first_token, 1);
}

static void direct_2(const sqf_split_job *job, size_t p, size_t first_token)
{
    direct_part(job, p, first_token, 2);
}

static void direct_4(const sqf_split_job *job, size_t p, size_t first_token)
{
    direct_part(job, p, first_token, 4);
}

static void direct_8(const sqf_split_job *job, size_t p, size_t first_token)
{
    direct_part(job, p, first_token, 8);
}

static void split_tile(const sqf_split_job *job)
{
    for (size_t p = 0; p < job->panels; p++) {
        size_t m = 0;
        for (; m + 8 <= job->tokens; m += 8) {
            direct_8(job, p, m);
        }
        for (; m + 4 <= job->tokens; m += 4) {
            direct_4(job, p, m);
        }
        for (; m + 2 <= job->tokens; m += 2) {
            direct_2(job, p, m);
        }
        for (; m < job->tokens; m++) {
            direct_1(job, p, m);
        }
    }
}

/* ---- expansion for a tile ---- */

INLINE void expand(const sqf_split_shape *shape, const uint8_t *header, const uint8_t *list, size_t steps,
                   size_t *position, uint8_t *low, uint8_t *high, const bool tied)
{
    const uint8_t *nibbles = header + shape->header_bytes, *masks = nibbles + steps * SPLIT_NIBBLES;
    const __m512i shifts = tied ? load_shifts(shape, header) : _mm512_setzero_si512();
    /* w + 7 in a byte times 2^shift stays below 256, so words shift both of their bytes at once */
    const __m512i shifts_16 = _mm512_or_si512(shifts, _mm512_slli_epi32(shifts, 16));
    const __m512i offset = _mm512_sllv_epi16(_mm512_set1_epi8(SQF_NIBBLE_OFFSET), shifts_16);
    list_reader reader = list_begin(shape, list, *position);
    const uint8_t *begin = reader.at;
    for (size_t step = 0; step < steps; step++) {
        list_turn(&reader);
        __mmask64 mask[2];
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const half_step w = next_half(&reader, nibbles, masks, half);
            mask[half] = w.mask;
            const __m512i of_low =
                tied ? _mm512_sub_epi8(_mm512_sllv_epi16(w.nibbles, shifts_16), offset) : _mm512_setzero_si512();
            _mm512_storeu_si512(high + 64 * half, _mm512_mask_mov_epi8(of_low, w.mask, w.bytes));
        }
        if (!tied) {
            const __m512i absent =
                _mm512_or_si512(_mm512_maskz_set1_epi8(mask[0], 15), _mm512_maskz_set1_epi8(mask[1], (char)0xf0));
            /* absent ? 7 : nibble */
            _mm512_storeu_si512(
                low, _mm512_ternarylogic_epi32(absent, _mm512_set1_epi8(0x77), _mm512_loadu_si512(nibbles), 0xca));
            low += SPLIT_NIBBLES;
        }
        nibbles += SPLIT_NIBBLES;
        masks += 16;
        high += 128;
    }
    const bool turned = reader.end != list + shape->list_half;
    *position += (size_t)(reader.at - begin) + (turned ? shape->list_half : 0);
}

static void split_expand(const sqf_split_shape *shape, const uint8_t *header, const uint8_t *list, size_t steps,
                         size_t *position, uint8_t *low, uint8_t *high)
{
    if (shape->tied) {
        expand(shape, header, list, steps, position, low, high, true);
    } else {
        expand(shape, header, list, steps, position, low, high, false);
    }
}

void sqf_split_add_vbmi2(sqf_kernels *kernels)
{
    kernels->split_tile = split_tile;
    kernels->split_expand = split_expand;
}
#endif

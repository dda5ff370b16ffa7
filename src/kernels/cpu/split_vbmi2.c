/* Products with SPLIT weights for AVX-512 with VNNI, VBMI and VBMI2. vpexpandb puts the upper nibbles of the list to
 * the places that a mask has for them; everything else is nibbles as in the tile of tile_avx512.c.
 *
 * Of 64 weights (half a step): 1.5 instructions unpack the low nibbles, vpexpandb, a shift and a vpternlogd make the
 * bytes of the high elements, two masked ones set absent elements to what stands for 0 (7, 128), two vpdpbusd multiply;
 * a mask is loaded and its bits are counted. */
#if SQF_ARCH_X86
#include <immintrin.h>

#include "kernels/cpu/products_avx512.h"
#include "kernels/split.h"

enum {
    UPPER_BYTES = SPLIT_LIST_MAX + 2 * SPLIT_PIECE,
    LISTS = 4,       /* unpacked at a time, */
    LISTS_AHEAD = 2, /* so many blocks before their use */
    AHEAD = 3072,    /* bytes that are asked for before their use: vpexpandb holds up what would find out by itself */
    AHEAD_STEP = 104 /* of a step with its share of a list, about */
};

/* A list unpacked, a byte an element: its upper nibble, 0 below, plus `flip`. It is done a block ahead of its use: a
 * load that takes parts of two stores waits until they are in the cache. */
INLINE void unpack_list(const sqf_split_block *block, const uint8_t *nibbles, uint8_t flip, uint8_t *upper)
{
    const uint8_t *list = split_list(block, nibbles);
    const __m512i mask = _mm512_set1_epi8((char)0xf0), flips = _mm512_set1_epi8((char)flip);
    for (size_t at = 0; at < block->list_bytes; at += SPLIT_PIECE) {
        const size_t half = block->list_bytes - at < SPLIT_PIECE ? block->list_bytes - at : SPLIT_PIECE;
        const __m512i pairs = _mm512_loadu_si512(list + at);
        /* pairs & mask ^ flips */
        _mm512_storeu_si512(upper + 2 * at, _mm512_ternarylogic_epi32(pairs, mask, flips, 0x6a));
        _mm512_storeu_si512(upper + 2 * at + half,
                            _mm512_ternarylogic_epi32(_mm512_slli_epi16(pairs, 4), mask, flips, 0x6a));
    }
}

/* The elements of half a step: nibbles, and the upper nibbles of the high elements, which `mask` has. */
typedef struct half_step {
    __mmask64 mask;
    __m512i nibbles, upper;
} half_step;

/* `list` moves to the elements of the next half. */
INLINE half_step next_half(const uint8_t **list, const uint8_t *nibbles, const uint8_t *masks, int half)
{
    half_step out;
    const uint64_t mask = split_mask(masks, half);
    const __m512i pairs = _mm512_loadu_si512(nibbles);
    out.mask = _cvtu64_mask64(mask);
    out.nibbles = _mm512_and_si512(half ? _mm512_srli_epi16(pairs, 4) : pairs, _mm512_set1_epi8(15));
    out.upper = _mm512_maskz_expand_epi8(out.mask, _mm512_loadu_si512(*list));
    *list += __builtin_popcountll(mask);
    return out;
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

/* 16 rows: shifts in words, which bits of a byte a shifted nibble may have, and 7 * 2^shift in its bytes. */
typedef struct row_shifts {
    __m512i by, keep, offset;
} row_shifts;

INLINE row_shifts load_row_shifts(const sqf_split_shape *shape, const uint8_t *header)
{
    const __m512i shifts = load_shifts(shape, header);
    row_shifts out;
    out.by = _mm512_or_si512(shifts, _mm512_slli_epi32(shifts, 16));
    /* the lowest `shift` bits of every byte, where bits of its neighbour arrive */
    const __m512i lowest = _mm512_sub_epi16(_mm512_sllv_epi16(_mm512_set1_epi16(1), out.by), _mm512_set1_epi16(1));
    out.keep = _mm512_andnot_si512(_mm512_or_si512(lowest, _mm512_slli_epi16(lowest, 8)), _mm512_set1_epi8(-1));
    out.offset = _mm512_and_si512(_mm512_sllv_epi16(_mm512_set1_epi8(SQF_NIBBLE_OFFSET), out.by), out.keep);
    return out;
}

/* (nibble - 7) * 2^shift, plus what was taken from `offset`. */
INLINE __m512i shift_nibbles(__m512i nibbles, const row_shifts *shifts)
{
    return _mm512_sub_epi8(_mm512_and_si512(_mm512_sllv_epi16(nibbles, shifts->by), shifts->keep), shifts->offset);
}

/* Integer sums of a segment to the outputs of up to 8 tokens; low[t], high[t]; with tied scales high[t] alone. */
INLINE void add_segment(const sqf_split_job *job, const uint8_t *header, size_t scalars, const int tokens,
                        const bool tied, const __m512i *low, const __m512i *high, __m512 *totals)
{
    const sqf_split_shape *shape = job->shape;
    const __m512i shifts = tied ? load_shifts(shape, header) : _mm512_setzero_si512();
    const __m512 scale_low = load_scales(shape, header);
    /* 2^-shift by its exponent */
    const __m512i power = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(127), shifts), 23);
    const __m512 scale_high = tied ? _mm512_mul_ps(scale_low, _mm512_castsi512_ps(power))
                                   : load_scales(shape, header + split_scale_bytes(shape));
    const uint8_t *sums = split_sums(shape, header);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        const size_t at = scalars + (size_t)t * job->segment_count;
        const __m512 act = _mm512_set1_ps(job->act_scales[at]);
        __m512i first = low[t], second = high[t];
        if (job->zeros) {
            const __m512i zero = _mm512_set1_epi32(job->zeros[at]);
            const __m512i of_low = _mm512_mullo_epi32(zero, _mm512_loadu_si512(sums));
            if (tied) {
                second = _mm512_sub_epi32(second, of_low);
            } else {
                first = _mm512_sub_epi32(first, of_low);
                second = _mm512_sub_epi32(second, _mm512_mullo_epi32(zero, _mm512_loadu_si512(sums + 64)));
            }
        }
        __m512 total = totals[t];
        if (!tied) {
            total = _mm512_add_ps(total, _mm512_mul_ps(_mm512_mul_ps(act, scale_low), _mm512_cvtepi32_ps(first)));
        }
        total = _mm512_add_ps(total, _mm512_mul_ps(_mm512_mul_ps(act, scale_high), _mm512_cvtepi32_ps(second)));
        totals[t] = total;
    }
}

/* Up to 8 tokens times one block. Free scales have a sum of each part, tied ones one of both: the low elements times
 * 2^shift. One or two tokens have sums of their own for each half of a step: chains
 * of vpdpbusd would otherwise be waited for. */
INLINE void add_block(const sqf_split_job *job, const sqf_split_block *block, const uint8_t *nibbles,
                      const uint8_t *list, const int8_t *codes, const int tokens, const bool tied,
                      const row_shifts *shifts, __m512i *low, __m512i *high)
{
    const uint8_t *masks = split_masks(block, nibbles);
    const int8_t *codes3 = codes + 3 * job->code_stride, *codes6 = codes3 + 3 * job->code_stride;
    const uint8_t *ahead = nibbles + AHEAD;
    for (size_t step = 0; step < block->steps; step++) {
        _mm_prefetch((const char *)ahead, _MM_HINT_T0);
        _mm_prefetch((const char *)ahead + 64, _MM_HINT_T0);
        ahead += AHEAD_STEP;
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const half_step w = next_half(&list, nibbles, masks, half);
            __m512i of_low, of_high;
            /* an element of the other part stands for 0: 7, and 128, which the upper nibbles have in them */
            if (tied) {
                of_low = shift_nibbles(w.nibbles, shifts);
                of_high = _mm512_mask_add_epi8(of_low, w.mask, w.upper, w.nibbles);
            } else {
                of_low = _mm512_mask_mov_epi8(w.nibbles, w.mask, _mm512_set1_epi8(SQF_NIBBLE_OFFSET));
                of_high = _mm512_mask_add_epi8(_mm512_set1_epi8(-128), w.mask, w.upper, w.nibbles);
            }
            const int chain = tokens <= 2 && half ? 8 : 0;
#pragma GCC unroll 8
            for (int t = 0; t < tokens; t++) {
                const int8_t *row = t < 3 ? codes : t < 6 ? codes3 : codes6;
                const __m512i a = broadcast_codes(row + (size_t)(t % 3) * job->code_stride + 4 * half);
                if (!tied) {
                    low[chain + t] = add_products(low[chain + t], of_low, a);
                }
                high[chain + t] = add_products(high[chain + t], of_high, a);
            }
        }
        nibbles += SPLIT_NIBBLES;
        masks += SPLIT_MASKS;
        codes += SQF_SEGMENT_PAD;
        codes3 += SQF_SEGMENT_PAD;
        codes6 += SQF_SEGMENT_PAD;
    }
}

/* A panel for up to 8 tokens. */
INLINE void direct_part(const sqf_split_job *job, size_t p, size_t first_token, const int tokens, const bool tied)
{
    const sqf_split_shape *shape = job->shape;
    const sqf_split_block *blocks = shape->blocks;
    const uint8_t *panel = job->weights + p * job->panel_bytes;
    const int8_t *codes = job->codes + first_token * job->code_stride;
    float *out = job->out + first_token * SQF_BLOCK_ROWS + p * SQF_PANEL_ROWS;
    _Alignas(64) uint8_t upper[LISTS][UPPER_BYTES];
    __m512 totals[8];
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        totals[t] = _mm512_loadu_ps(out + t * SQF_BLOCK_ROWS);
    }
    for (size_t b = 0; b < LISTS_AHEAD && b < shape->block_count; b++) {
        unpack_list(&blocks[b], panel + blocks[b].offset, 128, upper[b % LISTS]);
    }
    for (size_t b = 0; b < shape->block_count;) {
        const size_t g = blocks[b].segment, scalars = first_token * job->segment_count + g;
        const uint8_t *header = panel + blocks[b].offset - shape->header_bytes;
        row_shifts shifts;
        if (tied) {
            /* the weights are to be 128 higher */
            shifts = load_row_shifts(shape, header);
            shifts.offset = _mm512_add_epi8(shifts.offset, _mm512_set1_epi8(-128));
        }
        __m512i low[16], high[16];
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            /* -7 and -128 times the sum of the codes */
            const __m512i sum = _mm512_set1_epi32(job->sums[scalars + (size_t)t * job->segment_count]);
            low[t] = _mm512_sub_epi32(sum, _mm512_slli_epi32(sum, 3));
            high[t] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sum, 7));
            low[8 + t] = high[8 + t] = _mm512_setzero_si512();
        }
        for (; b < shape->block_count && blocks[b].segment == g; b++) {
            const size_t next = b + LISTS_AHEAD;
            if (next < shape->block_count) {
                unpack_list(&blocks[next], panel + blocks[next].offset, 128, upper[next % LISTS]);
            }
            add_block(job, &blocks[b], panel + blocks[b].offset, upper[b % LISTS], codes, tokens, tied, &shifts, low,
                      high);
            codes += blocks[b].steps * (size_t)SQF_SEGMENT_PAD;
        }
#pragma GCC unroll 8
        for (int t = 0; tokens <= 2 && t < tokens; t++) {
            low[t] = _mm512_add_epi32(low[t], low[8 + t]);
            high[t] = _mm512_add_epi32(high[t], high[8 + t]);
        }
        add_segment(job, header, scalars, tokens, tied, low, high, totals);
    }
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        _mm512_storeu_ps(out + t * SQF_BLOCK_ROWS, totals[t]);
    }
}

/* Functions of their own, so that each gets registers for itself. */
#define DEFINE_DIRECT(tokens)                                                                                          \
    static void direct_##tokens(const sqf_split_job *job, size_t p, size_t first_token)                                \
    {                                                                                                                  \
        if (job->shape->tied) {                                                                                        \
            direct_part(job, p, first_token, tokens, true);                                                            \
        } else {                                                                                                       \
            direct_part(job, p, first_token, tokens, false);                                                           \
        }                                                                                                              \
    }

DEFINE_DIRECT(1)
DEFINE_DIRECT(2)
DEFINE_DIRECT(4)
DEFINE_DIRECT(8)

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

INLINE void expand(const sqf_split_shape *shape, const sqf_split_block *block, const uint8_t *header,
                   const uint8_t *nibbles, uint8_t *low, uint8_t *high, const bool tied)
{
    const uint8_t *masks = split_masks(block, nibbles);
    row_shifts shifts;
    if (tied) {
        shifts = load_row_shifts(shape, header);
    }
    _Alignas(64) uint8_t upper[UPPER_BYTES];
    const uint8_t *list = upper;
    const uint8_t *ahead = nibbles + AHEAD;
    unpack_list(block, nibbles, 0, upper);
    for (size_t step = 0; step < block->steps; step++) {
        __mmask64 mask[2];
        _mm_prefetch((const char *)ahead, _MM_HINT_T0);
        _mm_prefetch((const char *)ahead + 64, _MM_HINT_T0);
        ahead += AHEAD_STEP;
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const half_step w = next_half(&list, nibbles, masks, half);
            mask[half] = w.mask;
            const __m512i of_low = tied ? shift_nibbles(w.nibbles, &shifts) : _mm512_setzero_si512();
            _mm512_storeu_si512(high + 64 * half, _mm512_mask_add_epi8(of_low, w.mask, w.upper, w.nibbles));
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
        masks += SPLIT_MASKS;
        high += 128;
    }
}

static void split_expand(const sqf_split_shape *shape, const sqf_split_block *block, const uint8_t *header,
                         const uint8_t *nibbles, uint8_t *low, uint8_t *high)
{
    if (shape->tied) {
        expand(shape, block, header, nibbles, low, high, true);
    } else {
        expand(shape, block, header, nibbles, low, high, false);
    }
}

void sqf_split_add_vbmi2(sqf_kernels *kernels)
{
    kernels->split_tile = split_tile;
    kernels->split_expand = split_expand;
}
#endif

/* Expansion of SPLIT weights for AVX2: 16 bytes of a list are spread by vpshufb, whose indices are the running count of
 * mask bits. Of 32 weights: 3 instructions make bytes of the mask bits, 8 count them along 16 bytes, 2 turn counts into
 * indices, one spreads, three to five put nibbles beside. */
#if SQF_ARCH_X86
#include <immintrin.h>

#include "kernels/split.h"

#define INLINE static inline __attribute__((always_inline))

/* A list unpacked: the upper nibble of an element in the upper half of its byte, 0 below. */
enum {
    UPPER_BYTES = SPLIT_LIST_MAX + 2 * SPLIT_PIECE,
    AHEAD = 2048,    /* bytes that are asked for before their use: */
    AHEAD_STEP = 104 /* of a step with its share of a list, about */
};

INLINE __m256i load(const uint8_t *bytes)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)bytes);
}

INLINE void store(uint8_t *bytes, __m256i x)
{
    _mm256_storeu_si256((__m256i *)(void *)bytes, x);
}

/* Stores run beyond the half of a shorter piece, where the next store comes. */
INLINE void unpack_list(const sqf_split_block *block, const uint8_t *nibbles, uint8_t *upper)
{
    const uint8_t *list = split_list(block, nibbles);
    const __m256i mask = _mm256_set1_epi8((char)0xf0);
    for (size_t at = 0; at < block->list_bytes; at += SPLIT_PIECE) {
        const size_t half = block->list_bytes - at < SPLIT_PIECE ? block->list_bytes - at : SPLIT_PIECE;
        for (size_t i = 0; i < SPLIT_PIECE; i += 32) {
            store(upper + 2 * at + i, _mm256_and_si256(load(list + at + i), mask));
        }
        for (size_t i = 0; i < SPLIT_PIECE; i += 32) {
            store(upper + 2 * at + half + i, _mm256_and_si256(_mm256_slli_epi16(load(list + at + i), 4), mask));
        }
    }
}

/* 0xff where one of 32 bits is set. */
INLINE __m256i bytes_of_bits(uint32_t bits)
{
    const __m256i each = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int32_t)bits), each);
    return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
}

/* The elements of the list where `mask` is 0xff, in order, from two places for the two halves of a register. */
INLINE __m256i spread_list(const uint8_t *first, const uint8_t *second, __m256i mask)
{
    __m256i count = mask; /* minus the number of bits up to here */
    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 1));
    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 2));
    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 4));
    count = _mm256_add_epi8(count, _mm256_slli_si256(count, 8));
    /* -count - 1; 0xff, which gives 0, where the mask is 0 */
    const __m256i index = _mm256_xor_si256(_mm256_and_si256(count, mask), _mm256_set1_epi8(-1));
    const __m128i low = _mm_loadu_si128((const __m128i *)(const void *)first);
    const __m128i high = _mm_loadu_si128((const __m128i *)(const void *)second);
    return _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1), index);
}

/* 8 rows: shifts in double words, which bits of a byte a shifted nibble may have, and 7 * 2^shift in its bytes. */
typedef struct row_shifts {
    __m256i by, keep, offset;
} row_shifts;

INLINE row_shifts load_shifts(const uint8_t *shifts)
{
    row_shifts out;
    out.by = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)shifts));
    /* the lowest `shift` bits of every byte, where bits of its neighbour arrive */
    const __m256i lowest = _mm256_sub_epi32(_mm256_sllv_epi32(_mm256_set1_epi32(1), out.by), _mm256_set1_epi32(1));
    const __m256i lowest_2 = _mm256_or_si256(lowest, _mm256_slli_epi32(lowest, 16));
    const __m256i lowest_4 = _mm256_or_si256(lowest_2, _mm256_slli_epi32(lowest_2, 8));
    out.keep = _mm256_xor_si256(lowest_4, _mm256_set1_epi8(-1));
    out.offset = _mm256_and_si256(_mm256_sllv_epi32(_mm256_set1_epi8(SQF_NIBBLE_OFFSET), out.by), out.keep);
    return out;
}

INLINE void expand(const sqf_split_shape *shape, const sqf_split_block *block, const uint8_t *header,
                   const uint8_t *nibbles, uint8_t *low, uint8_t *high, const bool tied)
{
    _Alignas(64) uint8_t upper[UPPER_BYTES];
    const uint8_t *masks = split_masks(block, nibbles), *list = upper;
    row_shifts shifts[2];
    unpack_list(block, nibbles, upper);
    for (int side = 0; tied && side < 2; side++) {
        shifts[side] = load_shifts(split_shifts(shape, header) + 8 * side);
    }
    const uint8_t *ahead = nibbles + AHEAD;
    for (size_t step = 0; step < block->steps; step++) {
        __m256i packed[2];
        _mm_prefetch((const char *)ahead, _MM_HINT_T0);
        _mm_prefetch((const char *)ahead + 64, _MM_HINT_T0);
        ahead += AHEAD_STEP;
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const uint64_t bits = split_mask(masks, half);
#pragma GCC unroll 2
            for (int side = 0; side < 2; side++) {
                const uint32_t of_side = (uint32_t)(bits >> 32 * side);
                const __m256i mask = bytes_of_bits(of_side);
                const uint8_t *second = list + __builtin_popcount(of_side & 0xffff);
                const __m256i of_list = spread_list(list, second, mask);
                list += __builtin_popcount(of_side);
                const __m256i pairs = load(nibbles + 32 * side);
                const __m256i nibble =
                    _mm256_and_si256(half ? _mm256_srli_epi16(pairs, 4) : pairs, _mm256_set1_epi8(15));
                __m256i value = _mm256_or_si256(of_list, _mm256_and_si256(nibble, mask));
                if (tied) {
                    const row_shifts *s = &shifts[side];
                    const __m256i shifted = _mm256_and_si256(_mm256_sllv_epi32(nibble, s->by), s->keep);
                    value = _mm256_or_si256(value, _mm256_andnot_si256(mask, _mm256_sub_epi8(shifted, s->offset)));
                } else {
                    const __m256i code = _mm256_blendv_epi8(nibble, _mm256_set1_epi8(SQF_NIBBLE_OFFSET), mask);
                    packed[side] = half ? _mm256_or_si256(packed[side], _mm256_slli_epi16(code, 4)) : code;
                }
                store(high + 64 * half + 32 * side, value);
            }
        }
        if (!tied) {
            store(low, packed[0]);
            store(low + 32, packed[1]);
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

void sqf_split_add_avx2(sqf_kernels *kernels)
{
    kernels->split_expand = split_expand;
}
#endif

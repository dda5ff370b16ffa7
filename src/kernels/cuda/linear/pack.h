/* Packing of weights: from rows of codes, as sqf_cuda_linear_spec.fill writes them, to the tiles, scales and sums of
 * linear.h. The functions are shared by the kernel, the tests and whoever wants one weight back. */
#ifndef SQF_KERNELS_CUDA_PACK_H
#define SQF_KERNELS_CUDA_PACK_H

#include "kernels/cuda/linear/linear.h"

enum { CUDA_FLOAT_TILE = 4096, CUDA_SPLIT_MARK = 8 /* the nibble -8: the element stands in the high array */ };

/* Bytes of a tile. An FP32 tile is [16 rows][64 columns] floats in natural order. */
SQF_BOTH unsigned cuda_tile_bytes(sqf_cuda_form form)
{
    return form == SQF_CUDA_NIBBLES || form == SQF_CUDA_SPLIT || form == SQF_CUDA_FP4 ? (unsigned)CUDA_NIBBLE_TILE
           : form == SQF_CUDA_BYTES || form == SQF_CUDA_FP8                           ? (unsigned)CUDA_BYTE_TILE
           : form == SQF_CUDA_FP32                                                    ? (unsigned)CUDA_FLOAT_TILE
                                                                                      : (unsigned)CUDA_HALF_TILE;
}

/* Bytes of an element in sqf_cuda_rows.codes. */
SQF_BOTH unsigned cuda_code_bytes(sqf_cuda_form form)
{
    return form == SQF_CUDA_FP32 ? 4u : form == SQF_CUDA_BF16 || form == SQF_CUDA_FP16 ? 2u : 1u;
}

/* Which elements a 32-bit word of a tile holds: one row, `count` columns. Element i is column cuda_word_column(i). */
typedef struct cuda_word {
    unsigned row, first, half; /* first: column (nibbles, floats) or place (bytes, halves) of element 0; half: columns
                                  0..31 or 32..63, or the step of 32 columns */
    unsigned count;
} cuda_word;

SQF_BOTH cuda_word cuda_word_of(sqf_cuda_form form, unsigned word)
{
    const unsigned lane = word / 4 % 32, reg = word % 4, row = lane / 4 + 8 * (reg % 2), t = lane % 4;
    const unsigned block = word / 128;
    switch (cuda_tile_bytes(form)) {
    case CUDA_NIBBLE_TILE: return cuda_word{row, 8 * t, reg / 2, 8};
    case CUDA_BYTE_TILE: return cuda_word{row, 16 * (reg / 2) + 4 * t, block, 4};
    case CUDA_HALF_TILE: return cuda_word{row, 16 * (block % 2) + 8 * (reg / 2) + 2 * t, block / 2, 2};
    default: return cuda_word{word / 64, word % 32, word / 32 % 2, 1};
    }
}

/* Column 0..63 of element i of a word. */
SQF_BOTH unsigned cuda_word_column(sqf_cuda_form form, const cuda_word *word, unsigned i)
{
    const unsigned place = word->first + i;
    const unsigned bytes = cuda_tile_bytes(form);
    return 32 * word->half + (bytes == CUDA_BYTE_TILE   ? cuda_byte_column(place)
                              : bytes == CUDA_HALF_TILE ? cuda_half_column(place)
                                                        : place);
}

/* The segment of a unit, by bisection. */
SQF_BOTH uint32_t cuda_segment_of(const cuda_segment *segments, uint32_t count, uint32_t unit)
{
    uint32_t low = 0, high = count;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (segments[middle].unit <= unit) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The stored column at which a unit of a segment begins. */
SQF_BOTH uint32_t cuda_unit_begin(const cuda_segment *segment, uint32_t unit)
{
    return segment->begin + (unit - segment->unit) * CUDA_UNIT;
}

/* Some rows on their way into tiles; all pointers are reachable where the functions run. */
typedef struct cuda_pack_source {
    sqf_cuda_form form;  /* of the tiles; NIBBLES and BYTES of a SPLIT layer in two planes take `codes` alone */
    const void *codes;   /* [rows][columns] as sqf_cuda_rows */
    const int8_t *high;  /* SPLIT */
    const uint8_t *mask; /* SPLIT */
    const float *scales; /* [rows][segment_count] or NULL */
    uint32_t rows, columns, units, segment_count;
    const cuda_segment *segments;
    uint32_t unit_high; /* SPLIT: elements of a unit's row in the high array */
} cuda_pack_source;

/* Bits of one element; 0 beyond the rows and columns that there are. */
SQF_BOTH uint32_t cuda_source_bits(const cuda_pack_source *source, uint32_t row, uint32_t column, uint32_t end)
{
    if (row >= source->rows || column >= end) {
        return 0;
    }
    const size_t at = (size_t)row * source->columns + column;
    switch (cuda_code_bytes(source->form)) {
    case 4: return static_cast<const uint32_t *>(source->codes)[at];
    case 2: return static_cast<const uint16_t *>(source->codes)[at];
    default: break;
    }
    if (source->form == SQF_CUDA_SPLIT && source->mask[at]) {
        return CUDA_SPLIT_MARK;
    }
    const uint8_t code = static_cast<const uint8_t *>(source->codes)[at];
    return source->form == SQF_CUDA_FP4 ? cuda_e2m1((int8_t)code) : code;
}

/* Word `word` of tile `tile` (16 rows) of unit `unit`. */
SQF_BOTH uint32_t cuda_pack_word(const cuda_pack_source *source, uint32_t tile, uint32_t unit, unsigned word)
{
    const cuda_segment segment = source->segments[cuda_segment_of(source->segments, source->segment_count, unit)];
    const uint32_t begin = cuda_unit_begin(&segment, unit);
    const cuda_word where = cuda_word_of(source->form, word);
    const unsigned bits = 32 / where.count;
    uint32_t packed = 0;
    for (unsigned i = 0; i < where.count; i++) {
        const uint32_t column = begin + cuda_word_column(source->form, &where, i);
        const uint32_t element = cuda_source_bits(source, tile * CUDA_TILE_ROWS + where.row, column, segment.end);
        packed |= (bits == 32 ? element : element & ((1u << bits) - 1)) << (bits * i);
    }
    return packed;
}

/* Writes the high elements of one row of a unit, [unit_high], in ascending column; rows that lack are 0. */
SQF_BOTH void cuda_pack_high(const cuda_pack_source *source, uint32_t row, uint32_t unit, int8_t *out)
{
    const cuda_segment segment = source->segments[cuda_segment_of(source->segments, source->segment_count, unit)];
    const uint32_t begin = cuda_unit_begin(&segment, unit);
    uint32_t written = 0;
    for (unsigned i = 0; i < CUDA_UNIT && row < source->rows && begin + i < segment.end; i++) {
        const size_t at = (size_t)row * source->columns + begin + i;
        if (source->mask[at] && written < source->unit_high) {
            out[written++] = source->high[at];
        }
    }
    while (written < source->unit_high) {
        out[written++] = 0;
    }
}

/* Sum of the integer codes of a row over a segment: those of `codes`, or the high ones. */
SQF_BOTH int32_t cuda_pack_sum(const cuda_pack_source *source, uint32_t row, uint32_t segment, bool high)
{
    const int8_t *codes = high ? source->high : static_cast<const int8_t *>(source->codes);
    int32_t sum = 0;
    for (uint32_t k = source->segments[segment].begin; row < source->rows && k < source->segments[segment].end; k++) {
        sum += codes[(size_t)row * source->columns + k];
    }
    return sum;
}

/* Where a plane of weights goes, at the first tile of the rows of a source. NULL = not wanted. */
typedef struct cuda_pack_target {
    uint32_t *tiles;
    int8_t *high;
    float *scales;      /* [tiles][segment_count][16] */
    float *high_scales; /* from source_high_scales */
    int32_t *sums, *high_sums;
    const float *source_high_scales; /* [rows][segment_count] or NULL */
} cuda_pack_target;

/* Packs `tiles` tiles of 16 rows from a source in device memory. */
sqf_status cuda_pack(sqf_cuda_device *device, const cuda_pack_source *source, const cuda_pack_target *target,
                     uint32_t tiles, sqf_error *err);

#endif

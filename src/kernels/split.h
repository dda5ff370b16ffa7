/* The SPLIT form of weights: integers of two parts in one plane, in little more memory than the file takes. Every
 * element has a nibble and a mask bit; an element of the high part has four more bits, which stand in a list behind
 * them: 4 + 1 + 4 * share bits a weight, 6 with a quarter high, where two dense planes take 12.
 *
 * A panel is a sequence of segments, a segment a header and blocks of columns, whole banks where they fit. Banks have
 * the same number of high elements in every row, so all panels have the same shape and a product reads them from the
 * first byte to the last.
 *
 *    header   scales of the low part [16], then those of the high part [16], as fp16 or fp32; with tied scales the
 *             shifts [16] (a byte each) in place of the latter; with zero points sums of the low and of the high
 *             integers [16] each, with tied scales of both as one; padded to 64 bytes
 *    block    nibbles, masks, list
 *    nibbles  byte [kp / 8][row][kp % 4], low nibble: kp % 8 < 4; low elements w + 7, high ones w & 15; padding 7
 *    masks    bit  [kp / 4][row][kp % 4]: the element is high
 *    list     the upper nibbles w >> 4 of the high elements in the order of their mask bits, in pieces of up to 128:
 *             the first half of a piece in the upper halves of its bytes, the second half in the lower ones
 *
 * Rows that the matrix lacks have no high elements. */
#ifndef SQF_KERNELS_SPLIT_H
#define SQF_KERNELS_SPLIT_H

#include <string.h>

#include "format/type.h"
#include "kernels/kernels.h"

enum {
    SPLIT_NIBBLES = 64,                                   /* bytes of SQF_SEGMENT_PAD columns of a panel */
    SPLIT_MASKS = 16,                                     /* the same of the masks */
    SPLIT_PIECE = 64,                                     /* bytes of a whole piece of a list */
    SPLIT_BLOCK_COLUMNS = 1024,                           /* at most so many columns make a block */
    SPLIT_LIST_MAX = SPLIT_BLOCK_COLUMNS * SQF_PANEL_ROWS /* high elements of a block at most */
};

/* A block of the columns of one segment. */
typedef struct sqf_split_block {
    size_t offset;       /* of its nibbles from the panel's beginning */
    uint32_t segment;    /* of the layer */
    uint32_t steps;      /* of SQF_SEGMENT_PAD columns */
    uint32_t list_bytes; /* two elements a byte */
} sqf_split_block;

/* What all panels of a plane have in common. */
struct sqf_split_shape {
    bool tied;                     /* scale_low = scale_high * 2^shift: both parts make one sum */
    bool half;                     /* scales are fp16 */
    bool sums;                     /* column sums stand in the headers */
    size_t header_bytes;           /* of a segment */
    const sqf_split_block *blocks; /* ascending; a segment's header stands before the first of its blocks */
    size_t block_count;
};

/* Places in a header. */
static inline size_t split_scale_bytes(const sqf_split_shape *shape)
{
    return SQF_PANEL_ROWS * (shape->half ? sizeof(uint16_t) : sizeof(float));
}

static inline const uint8_t *split_shifts(const sqf_split_shape *shape, const uint8_t *header)
{
    return header + split_scale_bytes(shape);
}

static inline const uint8_t *split_sums(const sqf_split_shape *shape, const uint8_t *header)
{
    return header + split_scale_bytes(shape) + (shape->tied ? SQF_PANEL_ROWS : split_scale_bytes(shape));
}

/* Places in a block, from its nibbles on. */
static inline const uint8_t *split_masks(const sqf_split_block *block, const uint8_t *nibbles)
{
    return nibbles + block->steps * (size_t)SPLIT_NIBBLES;
}

static inline const uint8_t *split_list(const sqf_split_block *block, const uint8_t *nibbles)
{
    return nibbles + block->steps * (size_t)(SPLIT_NIBBLES + SPLIT_MASKS);
}

/* The mask of half 0 or 1 of a step, `masks` being the step's: bit 4 * row + column. */
static inline uint64_t split_mask(const uint8_t *masks, int half)
{
    uint64_t mask;
    memcpy(&mask, masks + (size_t)half * 8, sizeof mask);
    return mask;
}

#endif

/* The SPLIT form of weights: integers of two parts in one plane, in little more memory than the file takes. Every
 * element has a nibble and a mask bit; an element of the high part has four more bits, which stand in a list behind
 * them: 4 + 1 + 4 * share bits a weight, 6 with a quarter high, where two dense planes take 12.
 *
 * A panel is
 *
 *     segment 0: header, nibbles, masks; segment 1: ...; list
 *
 *    header   scales of the low part [16], then those of the high part [16], as fp16 or fp32; with tied scales the
 *             shifts [16] (a byte each) in place of the latter; with zero points sums of the low and of the high
 *             integers [16] each, with tied scales of both as one; padded to 64 bytes
 *    nibbles  byte [kp / 8][row][kp % 4], low nibble: kp % 8 < 4; low elements w + 7, high ones w & 15; padding 7
 *    masks    bit  [kp / 4][row][kp % 4]: the element is high
 *    list     the upper nibbles w >> 4 of the high elements in the order of their mask bits. Number i stands in the
 *             upper half of byte i for i < list_half, in the lower half of byte i - list_half beyond; the first
 *             SPLIT_AHEAD of the lower ones stand in upper halves behind the end too, so that a load of that many
 *             elements may begin anywhere.
 *
 * Rows that the matrix lacks have no high elements. All but the list stands at places that are the same in every
 * panel; the list is read from its beginning to its end, so a product keeps the place where it is (`position`). */
#ifndef SQF_KERNELS_SPLIT_H
#define SQF_KERNELS_SPLIT_H

#include <string.h>

#include "format/type.h"
#include "kernels/kernels.h"

enum {
    SPLIT_STEP_BYTES = 80, /* nibbles and masks of SQF_SEGMENT_PAD columns of a panel */
    SPLIT_NIBBLES = 64,    /* of these the nibbles; the masks of a segment stand behind all of its nibbles */
    SPLIT_AHEAD = 128      /* elements that a kernel may load beyond its position */
};

/* What all panels of a plane have in common. */
struct sqf_split_shape {
    bool tied;           /* scale_low = scale_high * 2^shift: both parts make one sum */
    bool half;           /* scales are fp16 */
    bool sums;           /* column sums stand in the headers */
    size_t header_bytes; /* of a segment */
    size_t list_offset;  /* from the panel's beginning */
    size_t list_half;    /* high elements whose upper nibbles stand in upper halves */
};

/* The header of segment number g of a layer; nibbles stand header_bytes behind it. */
static inline const uint8_t *split_segment(const sqf_split_shape *shape, const uint8_t *panel, size_t g,
                                           const sqf_segment *segment)
{
    return panel + g * shape->header_bytes + segment->offset / SQF_SEGMENT_PAD * SPLIT_STEP_BYTES;
}

static inline size_t split_steps(const sqf_segment *segment)
{
    return (segment->end - segment->begin + SQF_SEGMENT_PAD - 1) / SQF_SEGMENT_PAD;
}

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

/* The mask of half 0 or 1 of a step: bit 4 * row + column. */
static inline uint64_t split_mask(const uint8_t *masks, size_t step, int half)
{
    uint64_t mask;
    memcpy(&mask, masks + step * 16 + (size_t)half * 8, sizeof mask);
    return mask;
}

#endif

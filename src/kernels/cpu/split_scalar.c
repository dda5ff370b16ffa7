/* Expansion of SPLIT weights in plain C: what the other levels are checked against. */
#include "kernels/split.h"

/* Upper nibble of high element `i` of a list, as the number that it stands for: w >> 4. */
static int32_t upper(const uint8_t *list, size_t list_bytes, size_t i)
{
    const size_t piece = i / (2 * SPLIT_PIECE) * SPLIT_PIECE, at = i % (2 * SPLIT_PIECE);
    const size_t half = list_bytes - piece < SPLIT_PIECE ? list_bytes - piece : SPLIT_PIECE;
    const uint8_t byte = list[piece + at % half];
    return (int8_t)(uint8_t)(at < half ? byte & 0xf0 : byte << 4) / 16;
}

/* A block as integers of both parts, column by column, 0 in place of the other part's. */
typedef struct elements {
    const sqf_split_block *block;
    const uint8_t *nibbles;
    size_t position; /* in the list */
} elements;

/* The elements of one row of four columns; `step` and `half` ascending, then rows: the list is read in this order. */
static void next_four(elements *self, size_t step, int half, size_t row, int32_t low[4], int32_t high[4])
{
    const uint64_t mask = split_mask(split_masks(self->block, self->nibbles) + step * SPLIT_MASKS, half) >> 4 * row;
    const uint8_t *list = split_list(self->block, self->nibbles);
    for (size_t c = 0; c < 4; c++) {
        const uint8_t pair = self->nibbles[step * SPLIT_NIBBLES + row * 4 + c];
        const int32_t nibble = half ? pair >> 4 : pair & 15;
        const bool is_high = mask >> c & 1;
        low[c] = is_high ? 0 : nibble - SQF_NIBBLE_OFFSET;
        high[c] = is_high ? upper(list, self->block->list_bytes, self->position++) * 16 + nibble : 0;
    }
}

static void split_expand(const sqf_split_shape *shape, const sqf_split_block *block, const uint8_t *header,
                         const uint8_t *nibbles, uint8_t *low_plane, uint8_t *high_plane)
{
    elements self = {.block = block, .nibbles = nibbles};
    const uint8_t *shifts = split_shifts(shape, header);
    for (size_t step = 0; step < block->steps; step++) {
        for (int half = 0; half < 2; half++) {
            for (size_t row = 0; row < SQF_PANEL_ROWS; row++) {
                int32_t low[4], high[4];
                next_four(&self, step, half, row, low, high);
                for (size_t c = 0; c < 4; c++) {
                    const size_t at = row * 4 + c;
                    const int32_t value = shape->tied ? high[c] + low[c] * (1 << shifts[row]) : high[c];
                    high_plane[step * 128 + (size_t)half * 64 + at] = (uint8_t)(int8_t)value;
                    if (!shape->tied) {
                        uint8_t *pair = low_plane + step * SPLIT_NIBBLES + at;
                        const uint8_t code = (uint8_t)(low[c] + SQF_NIBBLE_OFFSET);
                        const unsigned both = half ? *pair | (unsigned)code << 4 : code;
                        *pair = (uint8_t)both;
                    }
                }
            }
        }
    }
}

void sqf_split_add_scalar(sqf_kernels *kernels)
{
    kernels->split_expand = split_expand;
}

/* Products with SPLIT weights in plain C: what the other levels are checked against. */
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

static float scale_at(const sqf_split_shape *shape, const uint8_t *scales, size_t row)
{
    if (shape->half) {
        uint16_t bits;
        memcpy(&bits, scales + row * sizeof bits, sizeof bits);
        return sqf_fp16_to_float(bits);
    }
    float scale;
    memcpy(&scale, scales + row * sizeof scale, sizeof scale);
    return scale;
}

/* Integer sums of a token: [part][row]. */
typedef struct part_sums {
    int32_t of[2][SQF_PANEL_ROWS];
} part_sums;

/* Adds a block for one token; the elements are read anew for each, which costs what a reference may. */
static void sum_block(elements self, const int8_t *codes, part_sums *sums)
{
    for (size_t step = 0; step < self.block->steps; step++) {
        for (int half = 0; half < 2; half++) {
            for (size_t row = 0; row < SQF_PANEL_ROWS; row++) {
                int32_t low[4], high[4];
                next_four(&self, step, half, row, low, high);
                for (size_t c = 0; c < 4; c++) {
                    const int32_t code = codes[step * SQF_SEGMENT_PAD + (size_t)half * 4 + c];
                    sums->of[0][row] += code * low[c];
                    sums->of[1][row] += code * high[c];
                }
            }
        }
    }
}

static void add_segment(const sqf_split_job *job, const uint8_t *header, part_sums sums, size_t token, size_t g,
                        float *out)
{
    const sqf_split_shape *shape = job->shape;
    const size_t at = token * job->segment_count + g;
    const uint8_t *shifts = split_shifts(shape, header);
    for (size_t row = 0; row < SQF_PANEL_ROWS; row++) {
        int32_t part[2] = {sums.of[0][row], sums.of[1][row]};
        float scale[2];
        scale[0] = scale_at(shape, header, row);
        if (shape->tied) {
            /* multiplied, because the sum may be negative */
            part[1] += part[0] * (1 << shifts[row]);
            scale[1] = scale[0] / (float)(1 << shifts[row]);
        } else {
            scale[1] = scale_at(shape, header + split_scale_bytes(shape), row);
        }
        for (int p = shape->tied; p < 2; p++) {
            if (job->zeros) {
                int32_t sum;
                const size_t which = shape->tied ? 0 : (size_t)p;
                memcpy(&sum, split_sums(shape, header) + (which * SQF_PANEL_ROWS + row) * sizeof sum, sizeof sum);
                part[p] -= job->zeros[at] * sum;
            }
            out[row] += (job->act_scales[at] * scale[p]) * (float)part[p];
        }
    }
}

static void split_tile(const sqf_split_job *job)
{
    const sqf_split_shape *shape = job->shape;
    for (size_t p = 0; p < job->panels; p++) {
        const uint8_t *panel = job->weights + p * job->panel_bytes;
        for (size_t m = 0; m < job->tokens; m++) {
            for (size_t b = 0; b < shape->block_count;) {
                const size_t g = shape->blocks[b].segment;
                const uint8_t *header = panel + shape->blocks[b].offset - shape->header_bytes;
                const int8_t *codes = job->codes + m * job->code_stride + job->segments[g].offset;
                part_sums sums = {0};
                for (; b < shape->block_count && shape->blocks[b].segment == g; b++) {
                    const sqf_split_block *block = &shape->blocks[b];
                    sum_block((elements){.block = block, .nibbles = panel + block->offset}, codes, &sums);
                    codes += block->steps * SQF_SEGMENT_PAD;
                }
                add_segment(job, header, sums, m, g, job->out + m * SQF_BLOCK_ROWS + p * SQF_PANEL_ROWS);
            }
        }
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
    kernels->split_tile = split_tile;
    kernels->split_expand = split_expand;
}

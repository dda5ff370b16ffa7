/* Products with SPLIT weights in plain C: what the other levels are checked against. */
#include "kernels/split.h"

/* Upper nibble of high element `i`, as the number that it stands for: w >> 4. */
static int32_t upper(const sqf_split_shape *shape, const uint8_t *list, size_t i)
{
    const uint8_t nibble = i < shape->list_half ? list[i] >> 4 : list[i - shape->list_half] & 15;
    return (int8_t)(uint8_t)(nibble << 4) / 16;
}

/* One panel's segment as integers of both parts, column by column, 0 in place of the other part's. */
typedef struct elements {
    const sqf_split_shape *shape;
    const uint8_t *nibbles, *masks, *list;
    size_t position;
} elements;

/* The elements of one row of four columns; `step` and `half` ascending, then rows: the list is read in this order. */
static void next_four(elements *self, size_t step, int half, size_t row, int32_t low[4], int32_t high[4])
{
    const uint64_t mask = split_mask(self->masks, step, half) >> 4 * row;
    for (size_t c = 0; c < 4; c++) {
        const uint8_t pair = self->nibbles[step * SPLIT_NIBBLES + row * 4 + c];
        const int32_t nibble = half ? pair >> 4 : pair & 15;
        const bool is_high = mask >> c & 1;
        low[c] = is_high ? 0 : nibble - SQF_NIBBLE_OFFSET;
        high[c] = is_high ? upper(self->shape, self->list, self->position++) * 16 + nibble : 0;
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

/* The sums of one segment for one token; the elements are read anew for each, which costs what a reference may. */
static part_sums sum_segment(elements *self, const int8_t *codes, size_t steps)
{
    part_sums sums = {0};
    for (size_t step = 0; step < steps; step++) {
        for (int half = 0; half < 2; half++) {
            for (size_t row = 0; row < SQF_PANEL_ROWS; row++) {
                int32_t low[4], high[4];
                next_four(self, step, half, row, low, high);
                for (size_t c = 0; c < 4; c++) {
                    const int32_t code = codes[step * SQF_SEGMENT_PAD + (size_t)half * 4 + c];
                    sums.of[0][row] += code * low[c];
                    sums.of[1][row] += code * high[c];
                }
            }
        }
    }
    return sums;
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
    for (size_t p = 0; p < job->panels; p++) {
        const uint8_t *panel = job->weights + p * job->panel_bytes;
        for (size_t m = 0; m < job->tokens; m++) {
            elements self = {.shape = job->shape, .list = panel + job->shape->list_offset};
            for (size_t g = 0; g < job->segment_count; g++) {
                const sqf_segment *segment = &job->segments[g];
                const uint8_t *header = split_segment(job->shape, panel, g, segment);
                const size_t steps = split_steps(segment);
                self.nibbles = header + job->shape->header_bytes;
                self.masks = self.nibbles + steps * SPLIT_NIBBLES;
                const part_sums sums = sum_segment(&self, job->codes + m * job->code_stride + segment->offset, steps);
                add_segment(job, header, sums, m, g, job->out + m * SQF_BLOCK_ROWS + p * SQF_PANEL_ROWS);
            }
        }
    }
}

static void split_expand(const sqf_split_shape *shape, const uint8_t *header, const uint8_t *list, size_t steps,
                         size_t *position, uint8_t *low_plane, uint8_t *high_plane)
{
    elements self = {.shape = shape, .nibbles = header + shape->header_bytes, .list = list, .position = *position};
    self.masks = self.nibbles + steps * SPLIT_NIBBLES;
    const uint8_t *shifts = split_shifts(shape, header);
    for (size_t step = 0; step < steps; step++) {
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
                        *pair = half ? (uint8_t)(*pair | code << 4) : code;
                    }
                }
            }
        }
    }
    *position = self.position;
}

void sqf_split_add_scalar(sqf_kernels *kernels)
{
    kernels->split_tile = split_tile;
    kernels->split_expand = split_expand;
}

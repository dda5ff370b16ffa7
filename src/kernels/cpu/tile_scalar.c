/* The integer tile in plain C: the specification that the other levels are checked against. One sum an output and
 * segment, written as kernels.h says it. It skips the padding, where the codes are 0; the others compute through it. */
#include "kernels/kernels.h"

/* Weight of row r at padded column k of a panel. */
static int32_t weight_at(sqf_form form, const uint8_t *panel, size_t k, size_t r)
{
    if (form == SQF_FORM_NIBBLES) {
        const uint8_t pair = panel[k / 8 * 64 + r * 4 + k % 4];
        return (k % 8 < 4 ? pair & 15 : pair >> 4) - SQF_NIBBLE_OFFSET;
    }
    const uint8_t byte = panel[k / 4 * 64 + r * 4 + k % 4];
    return form == SQF_FORM_UNSIGNED ? byte - SQF_NIBBLE_OFFSET : (int8_t)byte;
}

/* out[m][row] += (act_scale * scale) * (float)sum  for each segment, in ascending order */
static void tile(const sqf_tile_job *job)
{
    const size_t origin = job->segments[0].offset;
    for (size_t g = 0; g < job->segment_count; g++) {
        const sqf_segment *segment = &job->segments[g];
        const size_t begin = segment->offset - origin;
        const size_t end = begin + (segment->end - segment->begin);
        for (size_t row = 0; row < job->panels * SQF_PANEL_ROWS; row++) {
            const size_t panel = row / SQF_PANEL_ROWS;
            const uint8_t *weights = job->weights + panel * job->panel_bytes;
            const float scale = job->scales[panel * job->panel_scales + g * SQF_PANEL_ROWS + row % SQF_PANEL_ROWS];
            for (size_t m = 0; m < job->tokens; m++) {
                const int8_t *codes = job->codes + m * job->code_stride;
                int32_t sum = 0;
                for (size_t k = begin; k < end; k++) {
                    sum += codes[k] * weight_at(job->form, weights, k, row % SQF_PANEL_ROWS);
                }
                if (job->zeros) {
                    sum -= job->zeros[m * job->segment_stride + g] *
                           job->column_sums[panel * job->panel_scales + g * SQF_PANEL_ROWS + row % SQF_PANEL_ROWS];
                }
                const float act_scale = job->act_scales[m * job->segment_stride + g];
                job->out[m * SQF_BLOCK_ROWS + row] += (act_scale * scale) * (float)sum;
            }
        }
    }
}

void sqf_kernels_add_scalar(sqf_kernels *kernels)
{
    sqf_vector_add_scalar(kernels);
    kernels->tile = tile;
    kernels->direct_tokens = 8;
    sqf_split_add_scalar(kernels);
}

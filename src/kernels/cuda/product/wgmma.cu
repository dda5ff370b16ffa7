/* Products of many tokens on Hopper: which layers wgmma.h's kernels serve, and by which of them. */
#include "kernels/cuda/product/wgmma_call.h"

/* The sections of a product as the kernels see them. */
struct wgmma_sections {
    cuda_element low, high; /* the same without a second section */
    uint32_t low_units, low_segments, segment_count;
    uint32_t act_scale[2]; /* row of the plane's scales */
};

static struct wgmma_sections sections_of(const cuda_product *product)
{
    const cuda_input_layout *layout = &product->linear->layout;
    struct wgmma_sections s = {};
    s.segment_count = layout->segment_count;
    s.low_units = layout->low_units;
    while (s.low_segments < s.segment_count && layout->segments[s.low_segments].unit < s.low_units) {
        s.low_segments++;
    }
    s.low = product->plane ? layout->high_element : layout->low_element;
    s.high = layout->planes > 1 ? s.low : layout->high_element;
    if (s.low_units == 0) { /* all columns are high */
        s.low = s.high;
        s.low_units = layout->units;
        s.low_segments = s.segment_count;
    }
    if (s.low_units == layout->units) {
        s.high = s.low;
    }
    s.act_scale[0] = layout->segments[0].act_scale;
    s.act_scale[1] = layout->segments[s.segment_count - 1].act_scale;
    if (!product->weights->scales && s.low_segments == s.segment_count) {
        s.low_segments = s.segment_count = 1; /* no scales: no reason to stop in between */
    }
    return s;
}

/* Whether the kernels hold these elements with this form of weights. */
static bool forms(const struct wgmma_sections *s, sqf_cuda_form form)
{
    const bool pair = s->low != s->high;
    if (pair && s->high != CUDA_BF16) {
        return false;
    }
    switch (s->low) {
    case CUDA_BYTE: return form == SQF_CUDA_NIBBLES || form == SQF_CUDA_BYTES;
    case CUDA_FP8: return form == SQF_CUDA_NIBBLES || form == SQF_CUDA_FP8;
    case CUDA_BF16:
        return !pair &&
               (form == SQF_CUDA_NIBBLES || form == SQF_CUDA_BYTES || form == SQF_CUDA_FP8 || form == SQF_CUDA_BF16);
    default: return false;
    }
}

/* One scale of a token and section, no zero points, elements that are served. */
static bool has_meaning(const cuda_product *product, const struct wgmma_sections *s)
{
    const cuda_input_layout *layout = &product->linear->layout;
    if (layout->spec.zero != SQF_ACT_ZERO_NONE || layout->segment_count == 0 || layout->units == 0 ||
        !forms(s, product->weights->form)) {
        return false;
    }
    for (uint32_t i = 0; i < layout->segment_count; i++) {
        if (layout->segments[i].act_scale != s->act_scale[layout->segments[i].unit >= s->low_units]) {
            return false;
        }
    }
    return true;
}

/* One segment a section, and no two sections of integers: their sums cannot share registers. */
static bool can_be_direct(const struct wgmma_sections *s)
{
    return s->low_segments == 1 && (s->segment_count == 1 || (s->segment_count == 2 && s->low != s->high));
}

/* Segments of bytes end with a stage, two units, but for the last of a section. Dense weights have no groups. */
static bool can_be_grouped(const cuda_product *product, const struct wgmma_sections *s)
{
    const cuda_input_layout *layout = &product->linear->layout;
    for (uint32_t i = 0; i < s->segment_count && s->segment_count > 1; i++) {
        const bool last = i + 1 == s->low_segments || i + 1 == s->segment_count;
        const cuda_element element = i < s->low_segments ? s->low : s->high;
        if (element != CUDA_BF16 && !last && layout->segments[i].units % 2) {
            return false;
        }
    }
    return product->weights->form != SQF_CUDA_BF16;
}

static uint32_t blocks_of(const cuda_product *product, uint32_t tokens)
{
    return product->linear->padded_rows / WGMMA_ROWS * (uint32_t)((product->input->tokens + tokens - 1) / tokens);
}

/* The tiles of DIRECT kernels are twice as large: for fewer tiles than multiprocessors the others. */
static bool wants_grouped(const cuda_product *product, const struct wgmma_sections *s)
{
    const bool few = blocks_of(product, 256) < (uint32_t)product->device->info.multiprocessors;
    return !can_be_direct(s) || (few && can_be_grouped(product, s) && product->weights->scales);
}

/* A tile is 128 rows by 128 tokens and never split: with fewer of them than half the multiprocessors the kernels that
 * split the depth are ahead, and below 64 tokens more than half of a tile would be padding. */
static bool serves(const cuda_product *product)
{
    if (product->device->arch != 90 || product->input->tokens < 64 ||
        2 * blocks_of(product, 128) < (uint32_t)product->device->info.multiprocessors) {
        return false;
    }
    const struct wgmma_sections s = sections_of(product);
    return has_meaning(product, &s) && (can_be_direct(&s) || can_be_grouped(product, &s));
}

static size_t workspace(const cuda_product *)
{
    return 0;
}

static struct wgmma_job job_of(const cuda_product *product, const struct wgmma_sections *s, bool grouped)
{
    const struct sqf_cuda_linear *linear = product->linear;
    const sqf_cuda_input *input = product->input;
    const cuda_plane *plane = &input->planes[product->plane];
    struct wgmma_job job = {};
    job.tiles = product->weights->tiles;
    job.scales = product->weights->scales;
    job.segments = linear->layout.device_segments;
    job.act_scales[0] = plane->scales + s->act_scale[0] * input->token_stride;
    job.act_scales[1] = plane->scales + s->act_scale[1] * input->token_stride;
    job.bias = product->bias;
    job.y = product->y;
    job.rows = linear->rows;
    job.tokens = (uint32_t)input->tokens;
    job.row_blocks = linear->padded_rows / WGMMA_ROWS;
    job.token_blocks = grouped ? (job.tokens + 127) / 128 : (job.tokens + 255) / 256;
    job.units = linear->layout.units;
    job.low_units = s->low_units;
    job.segment_count = s->segment_count;
    job.low_segments = s->low_segments;
    job.store = product->store;
    return job;
}

sqf_status wgmma_run(const cuda_product *product, bool grouped, sqf_error *err)
{
    const struct wgmma_sections s = sections_of(product);
    if (!has_meaning(product, &s) || !(grouped ? can_be_grouped(product, &s) : can_be_direct(&s))) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: not for these kernels", product->linear->name);
    }
    const struct wgmma_job job = job_of(product, &s, grouped);
    const size_t stride = product->linear->layout.stride[product->plane];
    cuda_tensor_map tokens;
    SQF_TRY(tensor_map_rows(&tokens, product->input->planes[product->plane].codes, stride, product->input->token_stride,
                            stride, 2 * WGMMA_STEP, grouped ? 128 : 256, err));
    const unsigned tiles = job.row_blocks * job.token_blocks;
    const unsigned multiprocessors = (unsigned)product->device->info.multiprocessors;
    const wgmma_call call = {product->device->stream,
                             tiles < multiprocessors ? tiles : multiprocessors,
                             grouped,
                             product->weights->form,
                             &job,
                             &tokens};
    const cudaError_t error =
        s.low != s.high      ? (s.low == CUDA_BYTE ? wgmma_launch_bytes_halves(&call) : wgmma_launch_fp8_halves(&call))
        : s.low == CUDA_BYTE ? wgmma_launch_bytes(&call)
        : s.low == CUDA_FP8  ? wgmma_launch_fp8(&call)
                             : wgmma_launch_halves(&call);
    return cuda_check(error, product->linear->name, err);
}

static sqf_status run(const cuda_product *product, sqf_error *err)
{
    const struct wgmma_sections s = sections_of(product);
    return wgmma_run(product, wants_grouped(product, &s), err);
}

const cuda_family cuda_family_hopper = {"hopper", serves, run, workspace};

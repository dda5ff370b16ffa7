/* Products of FP4 and FP8 activations on data-center Blackwell: which layers blackwell.h's kernels serve. */
#include "kernels/cuda/product/blackwell.h"

/* FP4 in any number, for nothing else multiplies them here; FP8 where half a tile at least is filled. */
static bool serves(const cuda_product *product)
{
    const sqf_cuda_form form = product->weights->form;
    const cuda_input_layout *layout = &product->linear->layout;
    cuda_element low, high;
    cuda_product_elements(product, &low, &high);
    const bool four = low == CUDA_FP4 || high == CUDA_FP4, eight = low == CUDA_FP8 || high == CUDA_FP8;
    const bool known = (low == CUDA_FP4 || low == CUDA_FP8) && (high == CUDA_FP4 || high == CUDA_FP8);
    if (product->device->arch != 100 || !known || layout->spec.zero != SQF_ACT_ZERO_NONE || layout->units == 0) {
        return false;
    }
    return four ? form == SQF_CUDA_FP4
                : eight && product->input->tokens >= 64 && (form == SQF_CUDA_FP4 || form == SQF_CUDA_FP8);
}

static size_t workspace(const cuda_product *)
{
    return 0;
}

/* Whether the scales of the activations change within a section. */
static bool is_grouped(const cuda_input_layout *layout)
{
    for (uint32_t i = 1; i < layout->segment_count; i++) {
        const cuda_segment *segment = &layout->segments[i];
        if (segment->act_scale != layout->segments[i - 1].act_scale && segment->unit != layout->low_units) {
            return true;
        }
    }
    return false;
}

static sqf_status run(const cuda_product *product, sqf_error *err)
{
    const struct sqf_cuda_linear *linear = product->linear;
    const cuda_input_layout *layout = &linear->layout;
    const sqf_cuda_input *input = product->input;
    const cuda_plane *plane = &input->planes[product->plane];
    const size_t stride = layout->stride[product->plane];
    blackwell_job job = {};
    cuda_tensor_map fp4 = {}, fp8 = {};
    cuda_product_elements(product, &job.low, &job.high);
    job.tiles = product->weights->tiles;
    job.scales = product->weights->scales;
    job.act_scales = plane->scales;
    job.token_stride = input->token_stride;
    job.chunks = layout->device_chunks;
    job.chunk_count = layout->chunk_count;
    job.low_chunks = layout->low_chunks;
    job.units = layout->units;
    job.low_units = layout->low_units;
    job.segments = layout->segment_count;
    job.grouped = is_grouped(layout);
    job.rows = linear->rows;
    job.tokens = (uint32_t)input->tokens;
    job.y = product->y;
    job.bias = product->bias;
    job.store = product->store;
    SQF_TRY(tensor_map_rows(&fp4, plane->codes, stride, input->token_stride, stride, 64, BLACKWELL_TOKENS, err));
    SQF_TRY(tensor_map_rows(&fp8, plane->codes, stride, input->token_stride, stride, 128, BLACKWELL_TOKENS, err));
    const dim3 grid(linear->padded_rows / BLACKWELL_ROWS, (job.tokens + BLACKWELL_TOKENS - 1) / BLACKWELL_TOKENS);
    const auto kernel =
        product->weights->form == SQF_CUDA_FP4 ? blackwell_kernel<SQF_CUDA_FP4> : blackwell_kernel<SQF_CUDA_FP8>;
    return cuda_check(cuda_launch(product->device->stream, kernel, grid, dim3(BLACKWELL_THREADS),
                                  (size_t)BLACKWELL_SHARED, job, fp4, fp8),
                      linear->name, err);
}

const cuda_family cuda_family_blackwell = {"blackwell", serves, run, workspace};

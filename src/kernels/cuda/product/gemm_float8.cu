/* Products of FP8 and FP4 activations: which layers gemm_float8.h's kernels serve. */
#include "kernels/cuda/product/gemm_float8.h"

/* Any number of tokens, any groups. FP4 weights are served by nothing else; those beside bf16 alone too. */
static bool serves(const cuda_product *product)
{
    const sqf_cuda_form form = product->weights->form;
    const int arch = product->device->arch;
    cuda_element low, high;
    cuda_product_elements(product, &low, &high);
    if (arch < 89 || product->linear->layout.spec.zero != SQF_ACT_ZERO_NONE || product->linear->layout.units == 0) {
        return false;
    }
    const bool known = (low == CUDA_FP4 || low == CUDA_FP8 || low == CUDA_BF16) &&
                       (high == CUDA_FP4 || high == CUDA_FP8 || high == CUDA_BF16);
    const bool four = low == CUDA_FP4 || high == CUDA_FP4, eight = low == CUDA_FP8 || high == CUDA_FP8;
    if (!known || (four && (arch != 120 || form != SQF_CUDA_FP4))) {
        return false;
    }
    return form == SQF_CUDA_FP4 || (eight && (form == SQF_CUDA_FP8 || form == SQF_CUDA_NIBBLES));
}

static size_t workspace(const cuda_product *)
{
    return 0;
}

template <int TOKENS, sqf_cuda_form FORM> static cudaError_t launch(const cuda_product *product, const float8_job *job)
{
    const dim3 grid(product->linear->padded_rows / FLOAT8_ROWS, (job->tokens + TOKENS - 1) / TOKENS);
    return cuda_launch(product->device->stream, float8_kernel<TOKENS, FORM>, grid, dim3(FLOAT8_THREADS),
                       (size_t)FLOAT8_STAGES * TOKENS * FLOAT8_PITCH, *job);
}

template <sqf_cuda_form FORM> static cudaError_t launch_either(const cuda_product *product, const float8_job *job)
{
    return job->tokens <= 16 ? launch<16, FORM>(product, job) : launch<32, FORM>(product, job);
}

static sqf_status run(const cuda_product *product, sqf_error *err)
{
    const struct sqf_cuda_linear *linear = product->linear;
    const cuda_input_layout *layout = &linear->layout;
    const cuda_plane *plane = &product->input->planes[product->plane];
    float8_job job = {};
    cuda_product_elements(product, &job.low, &job.high);
    job.tiles = product->weights->tiles;
    job.scales = product->weights->scales;
    job.codes = plane->codes;
    job.stride = layout->stride[product->plane];
    job.act_scales = plane->scales;
    job.token_stride = product->input->token_stride;
    job.chunks = layout->device_chunks;
    job.chunk_count = layout->chunk_count;
    job.low_chunks = layout->low_chunks;
    job.units = layout->units;
    job.low_units = layout->low_units;
    job.segments = layout->segment_count;
    job.rows = linear->rows;
    job.tokens = (uint32_t)product->input->tokens;
    job.y = product->y;
    job.bias = product->bias;
    job.store = product->store;
    const cudaError_t error = product->weights->form == SQF_CUDA_FP4   ? launch_either<SQF_CUDA_FP4>(product, &job)
                              : product->weights->form == SQF_CUDA_FP8 ? launch_either<SQF_CUDA_FP8>(product, &job)
                                                                       : launch_either<SQF_CUDA_NIBBLES>(product, &job);
    return cuda_check(error, linear->name, err);
}

const cuda_family cuda_family_float8 = {"float8", serves, run, workspace};

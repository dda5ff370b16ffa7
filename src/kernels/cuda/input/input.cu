/* The input of linear layers on the device: a row goes through its steps (rows.h), is gathered or split by a mask,
 * scaled and rounded, all in one kernel, one block a token. Semantics: docs/format.md section 5; the same codes and
 * scales as kernels/quantize.c, bit for bit.
 *
 * The row stays in shared memory (in the workspace where it is too long for that). Threads work by octets: eight stored
 * columns of a unit, whose codes are whole words of every layout (layout.h). With one scale a token two passes over the
 * row are enough, and three barriers; masks, sections and groups take one or two more. */
#include "kernels/cuda/input/input_kernel.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/operations.h"

enum {
    FEW_TOKENS = 32,    /* so few tokens leave processors idle: as many threads for each as there is work for */
    MANY_THREADS = 256, /* threads of a block with more */
    FEW_BLOCKS = 3,     /* fewer blocks of so many threads leave a multiprocessor idle */
    PADDED_FEW = 16,    /* padding of an input of so few tokens or fewer: what decoding kernels read */
    BLOCKS_PER_PROCESSOR = 8
};

/* ---- back to floats ---- */

/* What dequantizing reads. */
typedef struct undo_job {
    const cuda_segment *segments;
    const int32_t *channels;
    uint32_t segment_count, columns, low_units, planes;
    cuda_element elements[2];
    size_t stride[2], token_stride;
    const uint8_t *codes[2];
    const float *scales[2];
    const int32_t *zeros[2];
    float *out;
} undo_job;

/* Grid: tokens, segments in y. */
__global__ void __launch_bounds__(128) dequantize_kernel(undo_job job)
{
    const size_t token = blockIdx.x;
    for (unsigned s = blockIdx.y; s < job.segment_count; s += gridDim.y) {
        const cuda_segment segment = job.segments[s];
        for (unsigned k = segment.begin + threadIdx.x; k < segment.end; k += blockDim.x) {
            float value = 0.0f;
#pragma unroll
            for (unsigned plane = 0; plane < CUDA_PLANES; plane++) {
                if (plane >= job.planes) {
                    break;
                }
                const unsigned unit = segment.unit + (k - segment.begin) / CUDA_UNIT;
                const cuda_element element = plane == 1 || unit >= job.low_units ? job.elements[1] : job.elements[0];
                const uint8_t *codes = job.codes[plane] + token * job.stride[plane] +
                                       cuda_unit_offset(job.elements[0], job.elements[1], plane, job.low_units, unit);
                const size_t at = segment.act_scale * job.token_stride + token;
                value += cuda_activation(codes, element, (k - segment.begin) % CUDA_UNIT, job.scales[plane][at],
                                         job.zeros[plane] ? job.zeros[plane][at] : 0);
            }
            job.out[token * job.columns + (job.channels ? (unsigned)job.channels[k] : k)] = value;
        }
    }
}

/* ---- host ---- */

sqf_status cuda_input_create(sqf_cuda_device *device, sqf_cuda_input **out, sqf_error *err)
{
    (void)device;
    *out = static_cast<sqf_cuda_input *>(calloc(1, sizeof **out));
    return *out ? SQF_OK : sqf_fail(err, SQF_E_MEMORY, "input: no memory for %zu bytes", sizeof **out);
}

void cuda_input_destroy(sqf_cuda_device *device, sqf_cuda_input *input)
{
    (void)device;
    if (input) {
        cudaFree(input->memory);
        free(input);
    }
}

/* Lays the planes out for input->tokens of input->layout; memory grows where it must. */
static sqf_status reserve(sqf_cuda_device *device, sqf_cuda_input *input, sqf_error *err)
{
    const cuda_input_layout *layout = input->layout;
    const size_t tokens = (input->tokens + CUDA_TOKEN_PAD - 1) / CUDA_TOKEN_PAD * CUDA_TOKEN_PAD;
    const size_t scales = layout->scale_count * tokens;
    const bool zeros = layout->spec.zero != SQF_ACT_ZERO_NONE;
    size_t codes_at[CUDA_PLANES], scales_at[CUDA_PLANES], total = 0;
    for (unsigned p = 0; p < layout->planes; p++) {
        codes_at[p] = total;
        total += (tokens * layout->stride[p] + 255) / 256 * 256;
        scales_at[p] = total;
        total += scales * (zeros ? 2 : 1) * sizeof(float);
    }
    if (total > input->memory_bytes) {
        if (device->capturing) {
            return sqf_fail(err, SQF_E_MEMORY,
                            "input of %zu tokens: %zu bytes needed while a graph is recorded, %zu "
                            "there",
                            input->tokens, total, input->memory_bytes);
        }
        cudaFree(input->memory);
        input->memory = NULL;
        input->memory_bytes = 0;
        CUDA_TRY(cudaMalloc(&input->memory, total), "memory for activations");
        input->memory_bytes = total;
    }
    uint8_t *base = static_cast<uint8_t *>(input->memory);
    input->token_stride = tokens;
    for (unsigned p = 0; p < CUDA_PLANES; p++) {
        input->planes[p] = cuda_plane{NULL, NULL, NULL};
        if (p < layout->planes) {
            float *first = reinterpret_cast<float *>(base + scales_at[p]);
            input->planes[p] =
                cuda_plane{base + codes_at[p], first, zeros ? reinterpret_cast<int32_t *>(first + scales) : NULL};
        }
    }
    return SQF_OK;
}

/* round-half-up(k * columns / bank), at least 1: sqf_bank_high */
static uint32_t high_of_bank(uint32_t bank, uint32_t k, uint32_t columns)
{
    const uint32_t high = (uint32_t)((2 * (uint64_t)k * columns + bank) / (2 * (uint64_t)bank));
    return k == 0 || columns == 0 ? 0 : high ? high : 1;
}

static row_steps steps_make(const float *x, const sqf_cuda_steps *steps, size_t columns)
{
    row_steps out = row_steps();
    out.x = x;
    out.columns = (uint32_t)columns;
    out.stride = (columns + 3) / 4 * 4;
    if (steps) {
        out.gate = steps->gate;
        out.gain = steps->gain;
        out.epsilon = steps->epsilon;
        out.factor = (uint32_t)steps->rotation_factor;
        out.block = (uint32_t)steps->rotation_block;
        out.matrix = steps->rotation_factor ? steps->rotation_matrix : NULL;
    }
    const uintptr_t places = (uintptr_t)x | (uintptr_t)out.gate | (uintptr_t)out.gain;
    out.vector = columns % 4 == 0 && places % 16 == 0;
    return out;
}

/* What a layer's layout asks for. */
static void job_quantizes(row_job *job, const cuda_input_layout *layout, const sqf_cuda_input *input)
{
    const sqf_act_spec *spec = &layout->spec;
    job->channels = layout->channels;
    job->column_norm = layout->column_norm;
    job->unit_list = layout->device_units;
    job->units = layout->units;
    job->low_units = layout->low_units;
    job->scale_rows = layout->scale_count;
    job->planes = layout->planes;
    for (unsigned p = 0; p < 2; p++) {
        job->parts[p] = quantizer_part_make(layout, p == 1);
        job->stride[p] = layout->stride[p];
        job->codes[p] = input->planes[p].codes;
        job->scales[p] = input->planes[p].scales;
        job->zeros[p] = input->planes[p].zeros;
    }
    job->scale = spec->scale;
    job->scale_type = spec->scale_type == SQF_TYPE_NONE ? SQF_TYPE_FP32 : spec->scale_type;
    if (layout->planes == 2) {
        job->bank = spec->bank < layout->columns ? spec->bank : layout->columns;
        job->bank_high = high_of_bank(spec->bank, spec->high_per_bank, job->bank);
        job->tail_high = high_of_bank(spec->bank, spec->high_per_bank, layout->columns % job->bank);
    }
    const bool sections = layout->low_units < layout->units;
    job->empty_row = -1;
    for (uint32_t row = 0; layout->scale_count == 2 && row < 2; row++) {
        bool empty = true;
        for (uint32_t i = 0; i < layout->segment_count; i++) {
            empty = empty && layout->segments[i].act_scale != row;
        }
        job->empty_row = empty ? (int32_t)row : job->empty_row;
    }
    job->one_scale = layout->planes == 1 && layout->scale_count == 1 && !sections && !job->parts[0].has_zero;
    const bool high = layout->planes == 2 || sections;
    job->ranges = !job->one_scale && (has_range(*job, job->parts[0]) || (high && has_range(*job, job->parts[1])));
    job->token_stride = input->token_stride;
}

/* Queues the kernel with the threads and the registers that the number of tokens asks for. */
static sqf_status launch(sqf_cuda_device *device, row_job *job, sqf_error *err)
{
    const size_t most = (size_t)device->info.multiprocessors * BLOCKS_PER_PROCESSOR;
    const unsigned blocks = (unsigned)(job->padded_tokens < most ? job->padded_tokens : most);
    const size_t row_bytes = job->steps.stride * sizeof(float);
    row_memory ignored;
    size_t shared = row_memory_place(*job, NULL, &ignored), needed = job->steps.matrix ? blocks * row_bytes : 0;
    const bool spills = shared > device->info.shared_bytes;
    SQF_TRY(cuda_workspace(device, needed + (spills ? blocks * row_bytes : 0), err));
    float *workspace = static_cast<float *>(device->workspace);
    job->steps.mixed = workspace;
    if (spills) {
        job->spill = workspace + needed / sizeof(float);
        shared = row_memory_place(*job, NULL, &ignored);
    }
    const unsigned octets = (job->steps.columns + OCTET - 1) / OCTET;
    const unsigned units = job->units * UNIT_OCTETS > octets ? job->units * UNIT_OCTETS : octets;
    /* long rows: few blocks share a multiprocessor's memory */
    const bool few = job->tokens <= FEW_TOKENS || FEW_BLOCKS * shared > device->info.shared_bytes;
    const bool dynamic = job->bank > 0;
    const unsigned wanted = (units + 31) / 32 * 32;
    const unsigned threads = !few ? (unsigned)MANY_THREADS : wanted < 1024 ? wanted : 1024;
    void (*const kernel)(row_job) =
        dynamic          ? few ? input_kernel<1024, false, true> : input_kernel<MANY_THREADS, false, true>
                 : !few ? input_kernel<MANY_THREADS, false, false>
        : wanted <= 1024 ? input_kernel<1024, true, false>
                         : input_kernel<1024, false, false>;
    return cuda_check(cuda_launch(device->stream, kernel, dim3(blocks), dim3(threads), shared, *job), "input", err);
}

sqf_status cuda_input_prepare(sqf_cuda_device *device, sqf_cuda_input *input, const sqf_cuda_linear *linear,
                              const float *x, const sqf_cuda_steps *steps, size_t tokens, sqf_error *err)
{
    input->layout = &linear->layout;
    input->tokens = tokens;
    SQF_TRY(reserve(device, input, err));
    if (tokens == 0) {
        return SQF_OK;
    }
    snprintf(device->fault_name, sizeof device->fault_name, "%s", linear->name);
    row_job job = row_job();
    job.steps = steps_make(x, steps, linear->layout.columns);
    job_quantizes(&job, &linear->layout, input);
    job.tokens = tokens;
    job.padded_tokens = tokens <= PADDED_FEW ? (size_t)PADDED_FEW : input->token_stride;
    job.fault = device->fault;
    return launch(device, &job, err);
}

sqf_status cuda_apply_steps(sqf_cuda_device *device, const float *x, const sqf_cuda_steps *steps, size_t tokens,
                            size_t columns, float *out, sqf_error *err)
{
    if (tokens == 0) {
        return SQF_OK;
    }
    row_job job = row_job();
    job.steps = steps_make(x, steps, columns);
    job.tokens = job.padded_tokens = tokens;
    job.out = out;
    return launch(device, &job, err);
}

sqf_status cuda_input_dequantize(sqf_cuda_device *device, const sqf_cuda_input *input, float *out, sqf_error *err)
{
    const cuda_input_layout *layout = input->layout;
    if (input->tokens == 0) {
        return SQF_OK;
    }
    undo_job job = undo_job();
    job.segments = layout->device_segments;
    job.channels = layout->channels;
    job.segment_count = layout->segment_count;
    job.columns = layout->columns;
    job.low_units = layout->low_units;
    job.planes = layout->planes;
    job.elements[0] = layout->low_element;
    job.elements[1] = layout->high_element;
    job.token_stride = input->token_stride;
    for (unsigned p = 0; p < layout->planes; p++) {
        job.stride[p] = layout->stride[p];
        job.codes[p] = input->planes[p].codes;
        job.scales[p] = input->planes[p].scales;
        job.zeros[p] = input->planes[p].zeros;
    }
    job.out = out;
    const unsigned y = layout->segment_count < 64 ? layout->segment_count : 64;
    return cuda_check(
        cuda_launch(device->stream, dequantize_kernel, dim3((unsigned)input->tokens, y), dim3(128), 0, job),
        "dequantize", err);
}

/* Products of few tokens: which of them these kernels serve, how they are cut, and the kernels of integers. */
#include "kernels/cuda/product/gemv_plan.h"

/* ---- what a product is made of ---- */

static bool is_integer_form(sqf_cuda_form form)
{
    return form == SQF_CUDA_NIBBLES || form == SQF_CUDA_BYTES || form == SQF_CUDA_SPLIT;
}

/* What both operands are widened to, exactly; false if nothing holds both. */
static bool choose_kind(const cuda_product *product, decode_kind *out)
{
    const sqf_cuda_form form = product->weights->form;
    bool integer = is_integer_form(form), bf16 = form == SQF_CUDA_BF16, fp16 = form == SQF_CUDA_FP16;
    cuda_element elements[2];
    cuda_product_elements(product, &elements[0], &elements[1]);
    for (cuda_element element : elements) {
        integer = integer && (element == CUDA_NIBBLE || element == CUDA_BYTE);
        bf16 = bf16 || element == CUDA_BF16;
        fp16 = fp16 || element == CUDA_FP16;
        if (element == CUDA_FP32) {
            return false;
        }
    }
    *out = integer ? DECODE_INTEGER : bf16 ? DECODE_BF16 : DECODE_FP16;
    return form != SQF_CUDA_FP32 && !(bf16 && fp16);
}

static bool has_zeros(const cuda_product *product)
{
    return product->linear->layout.spec.zero != SQF_ACT_ZERO_NONE;
}

/* True if scales change and sections begin at even units only. */
static bool is_paired(const cuda_input_layout *layout)
{
    for (uint32_t s = 0; s < layout->segment_count; s++) {
        if (layout->segments[s].unit % DECODE_PAIR) {
            return false;
        }
    }
    return layout->units % DECODE_PAIR == 0;
}

/* ---- the cut ---- */

uint32_t decode_form_tiles(sqf_cuda_form form)
{
    return form == SQF_CUDA_BF16 || form == SQF_CUDA_FP16 ? 1 : 2;
}

static uint32_t decode_form_quantum(sqf_cuda_form form)
{
    return form == SQF_CUDA_NIBBLES ? 4 : 2;
}

/* Into how many parts columns are cut: where rows give three quarters of the multiprocessors a block, none. Else as
 * many as let all blocks run at once, two on each. A warp has at least one quantum. */
static uint32_t choose_splits(uint32_t groups, uint32_t quanta, uint32_t warps, uint32_t multiprocessors)
{
    const uint32_t most = (quanta + warps - 1) / warps, splits = 2 * multiprocessors / groups;
    if (groups * 4 >= multiprocessors * 3) {
        return 1;
    }
    return min(min(splits, most), (uint32_t)DECODE_SPLITS_MAX);
}

bool decode_plan_make(const cuda_product *product, decode_plan *out)
{
    const cuda_input_layout *layout = &product->linear->layout;
    const size_t tokens = product->input->tokens;
    if (product->weights->form == SQF_CUDA_FP4 || !choose_kind(product, &out->kind) ||
        layout->units > DECODE_UNITS_MAX || (has_zeros(product) && out->kind != DECODE_INTEGER)) {
        return false;
    }
    out->general = has_zeros(product) || !is_paired(layout);
    /* Long lists of high elements leave shared memory for the activations of 8 tokens. */
    const bool few = tokens <= 8 || out->general || product->weights->unit_high > 32;
    out->blocks = few ? 1 : tokens <= 16 || !decode_is_wide(product->weights->form, out->kind) ? 2 : 4;
    /* Half the warps where shared memory holds 99 KiB, which goes with less bandwidth to be kept busy. */
    out->warps = product->device->info.shared_bytes >= 160 * 1024 ? DECODE_WARPS : DECODE_WARPS / 2;
    const uint32_t groups = product->linear->padded_rows / CUDA_TILE_ROWS / decode_form_tiles(product->weights->form);
    const uint32_t quantum = decode_form_quantum(product->weights->form);
    const uint32_t quanta = (layout->units + quantum - 1) / quantum;
    out->splits = choose_splits(groups, quanta, out->warps, (uint32_t)product->device->info.multiprocessors);
    /* Counters: groups of rows and tokens; the groups are at most twice as many, the chunks four. */
    if (out->splits > 1 && groups * 8 > CUDA_COUNTERS) {
        out->splits = 1;
    }
    return true;
}

size_t decode_plan_tokens(const cuda_product *product, const decode_plan *plan)
{
    /* Compact weights with zero points have no other kernel. */
    const bool alone = plan->kind == DECODE_INTEGER && product->weights->form == SQF_CUDA_SPLIT && has_zeros(product);
    return alone                                                ? SIZE_MAX
           : decode_is_wide(product->weights->form, plan->kind) ? (size_t)DECODE_TOKENS
                                                                : (size_t)DECODE_NARROW_TOKENS;
}

size_t decode_plan_workspace(const cuda_product *product, const decode_plan *plan)
{
    return plan->splits > 1 ? (size_t)plan->splits * DECODE_TOKENS * product->linear->padded_rows * sizeof(float) : 0;
}

/* True if segment s has act scale s * act_step + (high section) * act_high throughout. */
static bool is_act_rule(const cuda_input_layout *layout, uint32_t act_step, uint32_t act_high)
{
    for (uint32_t s = 0; s < layout->segment_count; s++) {
        const uint32_t high = layout->segments[s].unit < layout->low_units ? 0 : act_high;
        if (layout->segments[s].act_scale != s * act_step + high) {
            return false;
        }
    }
    return true;
}

/* How the kernel finds a unit's segment and act scale: by arithmetic, where segments are alike. */
static void describe_segments(const cuda_input_layout *layout, decode_arguments *out)
{
    const uint32_t count = layout->segment_count, last = layout->segments[count - 1].act_scale;
    out->segment_shift = count == 1 ? 31 : 0;
    while (out->segment_shift < 16 && (1u << out->segment_shift) < layout->segments[0].units) {
        out->segment_shift++;
    }
    out->act_step = is_act_rule(layout, 0, last) ? 0 : 1;
    out->act_high = out->act_step ? 0 : last;
    out->listed = !is_act_rule(layout, out->act_step, out->act_high) ||
                  (layout->segments[count - 1].units - 1) >> out->segment_shift > 0;
    for (uint32_t s = 1; s < count; s++) {
        out->listed = out->listed || layout->segments[s].unit != s << out->segment_shift;
    }
}

void decode_plan_arguments(const cuda_product *product, const decode_plan *plan, decode_arguments *out)
{
    const cuda_input_layout *layout = &product->linear->layout;
    const cuda_plane *plane = &product->input->planes[product->plane];
    const cuda_weights *weights = product->weights;
    cuda_element elements[2];
    cuda_product_elements(product, &elements[0], &elements[1]);
    *out = decode_arguments();
    out->tiles = weights->tiles;
    out->high = weights->high;
    out->scales = weights->scales;
    out->high_scales = weights->high_scales;
    out->codes = plane->codes;
    out->act_scales = plane->scales;
    out->zeros = has_zeros(product) ? plane->zeros : NULL;
    out->segments = layout->device_segments;
    out->y = product->y;
    out->bias = product->bias;
    out->partial = static_cast<float *>(product->device->workspace);
    out->counters = product->device->counters;
    out->stride = layout->stride[product->plane];
    out->token_stride = product->input->token_stride;
    out->rows = product->linear->rows;
    out->units = layout->units;
    out->segment_count = layout->segment_count;
    out->unit_high = weights->unit_high;
    out->low_units = layout->low_units;
    out->low_element = elements[0];
    out->high_element = elements[1];
    out->nibble_units = elements[0] != CUDA_NIBBLE ? 0 : elements[1] == CUDA_NIBBLE ? layout->units : layout->low_units;
    out->low_bytes = cuda_unit_bytes(elements[0]);
    out->high_bytes = cuda_unit_bytes(elements[1]);
    out->splits = plan->splits;
    out->store = product->store;
    describe_segments(layout, out);
}

/* ---- the family ---- */

static bool decode_serves(const cuda_product *product)
{
    decode_plan plan;
    return decode_plan_make(product, &plan) && product->input->tokens <= decode_plan_tokens(product, &plan);
}

static size_t decode_workspace(const cuda_product *product)
{
    decode_plan plan;
    return decode_plan_make(product, &plan) ? decode_plan_workspace(product, &plan) : 0;
}

sqf_status cuda_counters(sqf_cuda_device *device, sqf_error *err)
{
    if (device->counters) {
        return SQF_OK;
    }
    CUDA_TRY(cudaMalloc(&device->counters, CUDA_COUNTERS * sizeof(uint32_t)), "counters of products");
    return cuda_check(cudaMemsetAsync(device->counters, 0, CUDA_COUNTERS * sizeof(uint32_t), device->stream),
                      "counters of products", err);
}

static sqf_status decode_run(const cuda_product *product, sqf_error *err)
{
    decode_plan plan;
    decode_arguments arguments;
    if (!decode_plan_make(product, &plan)) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: no kernel for few tokens", product->linear->name);
    }
    if (plan.splits > 1) {
        SQF_TRY(cuda_counters(product->device, err));
    }
    decode_plan_arguments(product, &plan, &arguments);
    for (size_t begin = 0; begin < product->input->tokens; begin += DECODE_TOKENS) {
        const size_t left = product->input->tokens - begin;
        decode_arguments some = arguments;
        some.tokens = left < DECODE_TOKENS ? (uint32_t)left : (uint32_t)DECODE_TOKENS;
        some.codes += begin * some.stride;
        some.act_scales += begin;
        some.zeros = some.zeros ? some.zeros + begin : NULL;
        some.y += begin * some.rows;
        switch (plan.kind == DECODE_INTEGER ? product->weights->form : SQF_CUDA_FP32) {
        case SQF_CUDA_NIBBLES:
            SQF_TRY((decode_dispatch<SQF_CUDA_NIBBLES, DECODE_INTEGER>(product, &plan, &some, err)));
            break;
        case SQF_CUDA_BYTES:
            SQF_TRY((decode_dispatch<SQF_CUDA_BYTES, DECODE_INTEGER>(product, &plan, &some, err)));
            break;
        case SQF_CUDA_SPLIT:
            SQF_TRY((decode_dispatch<SQF_CUDA_SPLIT, DECODE_INTEGER>(product, &plan, &some, err)));
            break;
        default: SQF_TRY(decode_half(product, &plan, &some, err));
        }
    }
    return SQF_OK;
}

const cuda_family cuda_family_decode = {"decode", decode_serves, decode_run, decode_workspace};

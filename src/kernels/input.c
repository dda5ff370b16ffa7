/* How a quantized input lies in memory: segments, planes, and the buffers behind them. Filled by quantize.c.
 * Semantics: docs/format.md section 5.
 *
 * A prepared input holds planes of int8 codes, padded to the segments of kernels.h, with one scale and one sum of
 * codes a token and segment; and, where some of it is not made of integers, a copy as floats. There is one plane with
 * uniform activations and static masks (a column is either low or high), two with dynamic masks (a column is low for
 * one token and high for another; the other plane has 0 there).
 */
#include <string.h>

#include "base/memory.h"
#include "format/reference.h"
#include "kernels/layout.h"
#include "kernels/repack_split.h"

/* ---- layout ---- */

/* The next column after `at` where the scales of the weights or of the activations change, or a sum would overflow.
 * SQF_SEGMENT_MAX is a multiple of the padding, so a group that is cut by it wastes no columns. */
static size_t segment_end(const sqf_partition *weights, const input_layout *layout, size_t at)
{
    const sqf_partition *acts = &layout->scale_groups;
    const size_t most = layout->spec.zero != SQF_ACT_ZERO_NONE ? SQF_SEGMENT_MAX_ZERO : SQF_SEGMENT_MAX;
    size_t begin, end, act_end;
    sqf_partition_range(weights, sqf_partition_find(weights, at), &begin, &end);
    sqf_partition_range(acts, sqf_partition_find(acts, at), &begin, &act_end);
    end = act_end < end ? act_end : end;
    return end - at > most ? at + most : end;
}

/* Largest |code| of a type: codes are grid values times the multiplier, 12 for fp4. */
static float largest_code(sqf_type type)
{
    return sqf_type_max(type) * (float)sqf_type_multiplier(type);
}

/* True if kernels may add many products in 16 bits: int5 and everything below, and fp4. */
static bool is_narrow(sqf_type type)
{
    return sqf_type_is_integer(type) && largest_code(type) <= 15;
}

/* Bit p: the codes of plane p are narrow in the section of `column`. With static masks both parts share plane 0, and
 * which one it is depends on the section. */
static uint8_t narrow_planes(const input_layout *layout, size_t column)
{
    const sqf_act_spec *spec = &layout->spec;
    if (is_dynamic(spec)) {
        return (uint8_t)(is_narrow(spec->low) | is_narrow(spec->high) << HIGH);
    }
    return is_narrow(section_part(layout, column) == HIGH ? spec->high : spec->low);
}

/* Counted first, then filled, by the same cuts. Padding makes each segment begin at a multiple of 8 in codes and
 * weights, so that no kernel needs a tail loop over columns. */
static sqf_status build_segments(const sqf_partition *weights, input_layout *layout, sqf_error *err)
{
    size_t count = 0;
    for (size_t at = 0; at < layout->columns; at = segment_end(weights, layout, at)) {
        count++;
    }
    SQF_TRY(SQF_ALLOC(&layout->segments, count, "segments", err));
    size_t offset = 0;
    for (size_t at = 0; at < layout->columns;) {
        const size_t end = segment_end(weights, layout, at);
        layout->segments[layout->segment_count++] = (sqf_segment){
            .begin = at,
            .end = end,
            .offset = offset,
            .weight_group = sqf_partition_find(weights, at),
            .act_group = sqf_partition_find(&layout->scale_groups, at),
            .narrow = narrow_planes(layout, at),
        };
        offset += sqf_ceil_div(end - at, SQF_SEGMENT_PAD) * SQF_SEGMENT_PAD;
        at = end;
    }
    layout->padded = offset;
    return SQF_OK;
}

/* How many planes of codes there are, and whether some part of the input must stay in floating point. */
static void count_planes(input_layout *layout)
{
    const sqf_act_spec *spec = &layout->spec;
    const bool split = sqf_act_spec_is_split(spec);
    const bool low = sqf_type_is_integer(spec->low);
    const bool high = split && sqf_type_is_integer(spec->high);
    layout->planes = !low && !high ? 0 : is_dynamic(spec) ? PARTS : 1;
    layout->float_part = (!low && spec->low != SQF_TYPE_NONE) || (split && !high);
}

sqf_status input_layout_init(const sqf_linear_params *params, input_layout *out, sqf_error *err)
{
    const sqf_matrix *matrix = params->matrix;
    *out = (input_layout){.spec = params->activations, .columns = params->columns, .border = params->columns};
    const sqf_partition row = sqf_partition_make(params->columns, params->columns, 0);
    sqf_partition weights = row;
    if (matrix) {
        out->border = matrix->border;
        weights = matrix->groups;
    }
    /* Without groups of its own the partition is that of the weights; sqf_act_scale_groups is asked so that it says
     * so. */
    sqf_act_spec scales = params->activations;
    if (scales.scale != SQF_ACT_GROUP) {
        scales.group = 0; /* one scale a token cuts nothing */
    }
    out->scale_groups = sqf_act_scale_groups(&scales, &weights);
    count_planes(out);
    SQF_TRY(build_segments(&weights, out, err));
    if (matrix && matrix->channels && !params->input_in_stored_order) {
        SQF_TRY(SQF_ALLOC(&out->channels, params->columns, "channels", err));
        memcpy(out->channels, matrix->channels, params->columns * sizeof *out->channels);
    }
    if (params->static_scale) {
        out->has_static_scale = true;
        memcpy(out->static_scale, params->static_scale, sizeof out->static_scale);
    }
    if (params->static_zero) {
        memcpy(out->static_zero, params->static_zero, sizeof out->static_zero);
    }
    if (params->column_norm) {
        SQF_TRY(SQF_ALLOC(&out->column_norm, params->columns, "column norms", err));
        memcpy(out->column_norm, params->column_norm, params->columns * sizeof *out->column_norm);
    }
    return SQF_OK;
}

void input_layout_clear(input_layout *layout)
{
    free(layout->channels);
    free(layout->segments);
    free(layout->column_norm);
}

/* Equal arrays of n elements of `size` bytes; both NULL counts as equal. */
static bool same_array(const void *a, const void *b, size_t n, size_t size)
{
    return a == b || (a && b && memcmp(a, b, n * size) == 0);
}

/* Field by field: memcmp would compare padding. */
static bool same_spec(const sqf_act_spec *a, const sqf_act_spec *b)
{
    return a->low == b->low && a->high == b->high && a->bank == b->bank && a->high_per_bank == b->high_per_bank &&
           a->mask == b->mask && a->dynamic_weighted == b->dynamic_weighted && a->scale == b->scale &&
           a->group == b->group && a->clip == b->clip && a->high_clip == b->high_clip && a->zero == b->zero &&
           sqf_act_scale_type(a) == sqf_act_scale_type(b);
}

/* Groups of the weights cut segments too: layers with different groups cannot share codes, because sums and padding
 * differ, even where every code would be the same. */
static bool same_segments(const input_layout *a, const input_layout *b)
{
    if (a->segment_count != b->segment_count) {
        return false;
    }
    for (size_t i = 0; i < a->segment_count; i++) {
        if (a->segments[i].begin != b->segments[i].begin || a->segments[i].act_group != b->segments[i].act_group) {
            return false;
        }
    }
    return true;
}

/* What decides whether q, k and v read one prepared input. `values` is compared because the float copies exist only
 * where some layer needs them. */
bool input_layout_equal(const input_layout *a, const input_layout *b)
{
    if (a == b) {
        return true;
    }
    return same_spec(&a->spec, &b->spec) && a->columns == b->columns && a->border == b->border &&
           a->values == b->values && a->has_static_scale == b->has_static_scale &&
           memcmp(a->static_scale, b->static_scale, sizeof a->static_scale) == 0 &&
           memcmp(a->static_zero, b->static_zero, sizeof a->static_zero) == 0 && same_segments(a, b) &&
           same_array(a->channels, b->channels, a->columns, sizeof *a->channels) &&
           same_array(a->column_norm, b->column_norm, a->columns, sizeof *a->column_norm);
}

/* ---- memory ---- */

sqf_status sqf_input_create(sqf_input **out, sqf_error *err)
{
    return SQF_ALLOC(out, 1, "input", err);
}

void sqf_input_destroy(sqf_input *input)
{
    if (input) {
        free(input->memory);
        free(input->scratch);
        free(input);
    }
}

/* One part of a block of memory that is laid out first and allocated afterwards: a * b elements at *at, rounded to 64
 * bytes. False if the total does not fit. */
static bool place(size_t *total, size_t *at, size_t a, size_t b, size_t size)
{
    size_t bytes;
    if (!sqf_mul_size(&bytes, a, b) || !sqf_mul_size(&bytes, bytes, size) || !sqf_add_size(&bytes, bytes, 63)) {
        return false;
    }
    *at = *total;
    return sqf_add_size(total, *total, bytes & ~(size_t)63);
}

/* Memory that is at least `need` bytes long; its content is lost. Buffers only ever grow: a decode step after a
 * prefill allocates nothing. */
static sqf_status grow(void **memory, size_t *have, size_t need, const char *what, sqf_error *err)
{
    if (need <= *have) {
        return SQF_OK;
    }
    free(*memory);
    *memory = NULL;
    *have = 0;
    uint8_t *fresh;
    SQF_TRY(SQF_ALLOC(&fresh, need, what, err));
    *memory = fresh;
    *have = need;
    return SQF_OK;
}

/* Scratch of a thread: three rows (normed, gathered or split) and a quantized one while an input is prepared; a block's
 * sums and its weights, expanded or as floats, in the forward pass. The two never run at once, so they share it.
 * Expanded weights: integer_term adds segments until it has CHUNK_COLUMNS, so at most the longest segment goes beyond
 * that. */
static size_t scratch_need(const input_layout *layout)
{
    size_t longest = 0;
    for (size_t i = 0; i < layout->segment_count; i++) {
        const size_t length = layout->segments[i].end - layout->segments[i].begin;
        longest = length > longest ? length : longest;
    }
    const size_t chunk = sqf_ceil_div(longest, SQF_SEGMENT_PAD) * SQF_SEGMENT_PAD + CHUNK_COLUMNS;
    const size_t expanded = chunk * SQF_BLOCK_ROWS;
    const size_t floats = sizeof(float) * FLOAT_CHUNK * SQF_BLOCK_ROWS;
    const size_t split = layout->planes > 0 ? split_scratch_bytes(layout) : 0;
    const size_t plain = expanded > floats ? expanded : floats;
    const size_t forward = scratch_out_bytes() + (plain > split ? plain : split);
    const size_t prepare = 3 * scratch_row_bytes(layout) + layout->columns +
                           layout->segment_count * 2 * (sizeof(float) + sizeof(int32_t)) + 256;
    return ((forward > prepare ? forward : prepare) + 63) & ~(size_t)63;
}

/* Lays out all arrays of an input and points the planes at them. Floats need no copy where x itself will do: float
 * activations in their own order. */
sqf_status input_reserve(sqf_context *context, sqf_input *input, const float *x, sqf_error *err)
{
    const input_layout *layout = input->layout;
    const size_t tokens = input->tokens, segments = layout->segment_count;
    /* A stride that is a multiple of a page would put all tokens of a tile into one set of the L1 cache. */
    input->code_stride = ((layout->padded + 63) & ~(size_t)63) + 64;
    const bool copy =
        layout->float_part && (layout->planes > 0 || layout->channels || !sqf_act_spec_is_float(&layout->spec));
    size_t total = 0, codes[PARTS], scales[PARTS], sums[PARTS], zeros[PARTS], floats = 0, integers = 0;
    const bool has_zeros = layout->spec.zero != SQF_ACT_ZERO_NONE;
    bool fits = true;
    for (unsigned p = 0; p < layout->planes; p++) {
        fits = fits && place(&total, &codes[p], tokens, input->code_stride, 1) &&
               place(&total, &scales[p], tokens, segments, sizeof(float)) &&
               place(&total, &sums[p], tokens, segments, sizeof(int32_t)) &&
               place(&total, &zeros[p], has_zeros ? tokens : 0, segments, sizeof(int32_t));
    }
    fits = fits && (!copy || place(&total, &floats, tokens, layout->columns, sizeof(float)));
    fits = fits && (!layout->values || place(&total, &integers, tokens, layout->columns, sizeof(float)));
    if (!fits) {
        return sqf_fail(err, SQF_E_MEMORY, "activations of %zu tokens do not fit the address space", tokens);
    }
    SQF_TRY(grow(&input->memory, &input->memory_bytes, total, "activations", err));
    input->scratch_stride = scratch_need(layout);
    void *scratch = input->scratch;
    const size_t need = input->scratch_stride * sqf_pool_threads(context->pool);
    const sqf_status status = grow(&scratch, &input->scratch_bytes, need, "scratch of the threads", err);
    input->scratch = scratch;
    SQF_TRY(status);
    uint8_t *base = input->memory;
    for (unsigned p = 0; p < layout->planes; p++) {
        input->planes[p] =
            (code_plane){(int8_t *)(base + codes[p]), (float *)(void *)(base + scales[p]),
                         (int32_t *)(void *)(base + sums[p]), has_zeros ? (int32_t *)(void *)(base + zeros[p]) : NULL};
    }
    input->float_copy = copy ? (float *)(void *)(base + floats) : NULL;
    input->float_part = !layout->float_part ? NULL : copy ? input->float_copy : x;
    input->integer_part = layout->values ? (float *)(void *)(base + integers) : NULL;
    return SQF_OK;
}

void sqf_input_dequantize(const sqf_input *input, float *out)
{
    const input_layout *layout = input->layout;
    for (size_t token = 0; token < input->tokens; token++) {
        for (size_t g = 0; g < layout->segment_count; g++) {
            const sqf_segment *segment = &layout->segments[g];
            for (size_t k = segment->begin; k < segment->end; k++) {
                float value = input->float_part ? input->float_part[token * layout->columns + k] : 0.0f;
                for (unsigned p = 0; p < layout->planes; p++) {
                    const code_plane *plane = &input->planes[p];
                    const int8_t code = plane->codes[token * input->code_stride + segment->offset + k - segment->begin];
                    const size_t at = token * layout->segment_count + g;
                    value += (float)(code - (plane->zeros ? plane->zeros[at] : 0)) * plane->scales[at];
                }
                const size_t channel = layout->channels ? (size_t)layout->channels[k] : k;
                out[token * layout->columns + channel] = value;
            }
        }
    }
}

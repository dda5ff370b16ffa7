/* Activations quantized: normed, gathered or split, scaled and rounded, one token after the other, each while it is in
 * the nearest cache, once for all layers that read it (q, k and v; gate and up). Semantics: docs/format.md section 5.
 *
 * Two ways lead to the planes of input.c. quantize_planes is the fast one, for all that is made of integers: a section
 * of a static mask is a stretch of the row, and a dynamic mask makes two rows of one, each with 0 where the other has
 * its elements. Floats of 8 and 16 bits are quantized by the scalar reference and then sorted into planes. Both choose
 * the same codes and scales, bit for bit. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/memory.h"
#include "format/reference.h"
#include "format/zero_point.h"
#include "kernels/layout.h"

/* How the elements of a part are quantized. multiplier 0: they are no integers. */
typedef struct part_rules {
    sqf_type type;
    int multiplier;
    bool has_zero;
    float clip, lowest, largest; /* codes, before the zero point */
} part_rules;

/* Shared by the tasks of one sqf_input_prepare; a task is a token. */
typedef struct prepare_job {
    const sqf_kernels *kernels;
    part_rules rules[PARTS];
    sqf_type scale_type;
    sqf_input *input;
    const float *x;
    const sqf_input_steps *steps; /* NULL = none */
    atomic_size_t bad_token;      /* the first that holds a NaN or infinity */
} prepare_job;

static sqf_type part_type(const sqf_act_spec *spec, int part)
{
    return part == HIGH ? spec->high : spec->low;
}

/* The plane whose codes hold `part`. */
static unsigned part_plane(const input_layout *layout, int part)
{
    return layout->planes == PARTS ? (unsigned)part : 0;
}

static size_t padded_length(const sqf_segment *segment)
{
    return sqf_ceil_div(segment->end - segment->begin, SQF_SEGMENT_PAD) * SQF_SEGMENT_PAD;
}

/* ---- integers ---- */

/* One plane of one token. `row` holds its elements in stored order; of a dynamic mask those of one part, with 0 in the
 * others' places. */
typedef struct plane_row {
    const prepare_job *job;
    const input_layout *layout;
    const float *row;
    int only; /* the part of a dynamic mask; -1: what the section says */
} plane_row;

/* Where the range of one scale ends that begins with segment g: a group, or all columns of the part. Segments never
 * cross it. */
static size_t scale_range_end(const plane_row *self, size_t g)
{
    const input_layout *layout = self->layout;
    const sqf_segment *segments = layout->segments;
    if (layout->spec.scale == SQF_ACT_GROUP) {
        while (g + 1 < layout->segment_count && segments[g + 1].act_group == segments[g].act_group) {
            g++;
        }
        return segments[g].end;
    }
    const bool below = self->only < 0 && sqf_act_spec_is_split(&layout->spec) && segments[g].begin < layout->border;
    return below ? layout->border : layout->columns;
}

/* With scales in fp8: the unit of a part's scales, from its largest magnitude in the whole token. */
static float scale_unit(const plane_row *self, int part)
{
    const input_layout *layout = self->layout;
    const part_rules *rules = &self->job->rules[part];
    if (self->job->scale_type != SQF_TYPE_FP8) {
        return 1.0f;
    }
    const bool sections = self->only < 0 && sqf_act_spec_is_split(&layout->spec);
    const size_t begin = sections && part == HIGH ? layout->border : 0;
    const size_t end = sections && part == LOW ? layout->border : layout->columns;
    const float largest = self->job->kernels->absmax(self->row + begin, end - begin);
    return sqf_scale_unit(SQF_TYPE_FP8, rules->type, rules->clip * largest);
}

/* clip * absmax / qmax, from left to right as docs/format.md section 5 demands: the reference does the same, and the
 * last bit of a scale decides roundings. *zero is 0 without zero points. */
static float choose_scale(const plane_row *self, int part, size_t begin, size_t end, int32_t *zero)
{
    const input_layout *layout = self->layout;
    const prepare_job *job = self->job;
    const part_rules *rules = &job->rules[part];
    *zero = 0;
    if (layout->spec.scale == SQF_ACT_STATIC) {
        *zero = rules->has_zero ? layout->static_zero[part] : 0;
        return layout->static_scale[part];
    }
    if (rules->has_zero) {
        sqf_range range;
        job->kernels->range(self->row + begin, end - begin, &range.lowest, &range.largest);
        const float scale = sqf_zero_scale(rules->type, rules->clip, range);
        *zero = sqf_zero_point(rules->type, rules->clip, range, scale);
        return scale;
    }
    const float max = rules->clip * job->kernels->absmax(self->row + begin, end - begin);
    return job->scale_type == SQF_TYPE_FP32
               ? max / rules->largest
               : sqf_scale_for_max(job->scale_type, rules->type, max, scale_unit(self, part));
}

/* The codes of one segment; returns their sum. */
static int32_t quantize_segment(const plane_row *self, int part, const sqf_segment *segment, float scale, int32_t zero,
                                int8_t *codes)
{
    const sqf_kernels *kernels = self->job->kernels;
    const part_rules *rules = &self->job->rules[part];
    const float *x = self->row + segment->begin, shift = (float)zero;
    const size_t n = segment->end - segment->begin;
    if (rules->multiplier != 1) {
        const float normal = 1.0f, fraction = sqf_type_step(rules->type, normal);
        return kernels->quantize_grid(x, n, scale, rules->largest, normal, fraction, (float)rules->multiplier, codes);
    }
    return kernels->quantize(x, n, scale, rules->lowest - shift, rules->largest - shift, zero, codes);
}

/* All segments of a token in one plane. A scale of 0 (all zeros) gives codes 0 without a division by it, and so does a
 * part that is dropped. */
static void quantize_plane(const plane_row *self, size_t token, const code_plane *plane)
{
    const input_layout *layout = self->layout;
    int8_t *codes = plane->codes + token * self->job->input->code_stride;
    size_t range_end = 0;
    float scale = 0.0f;
    int32_t zero = 0;
    for (size_t g = 0; g < layout->segment_count; g++) {
        const sqf_segment *segment = &layout->segments[g];
        const int part = self->only >= 0 ? self->only : section_part(layout, segment->begin);
        const int multiplier = self->job->rules[part].multiplier;
        if (segment->begin >= range_end) {
            range_end = scale_range_end(self, g);
            scale = multiplier ? choose_scale(self, part, segment->begin, range_end, &zero) : 0.0f;
        }
        const size_t length = segment->end - segment->begin, padded = padded_length(segment);
        const size_t at = token * layout->segment_count + g;
        const bool used = scale > 0.0f;
        plane->scales[at] = used ? scale / (float)multiplier : 0.0f;
        plane->sums[at] = used ? quantize_segment(self, part, segment, scale, zero, codes + segment->offset) : 0;
        if (plane->zeros) {
            plane->zeros[at] = used ? zero : 0;
        }
        const size_t written = used ? length : 0;
        if (written < padded) {
            memset(codes + segment->offset + written, 0, padded - written);
        }
    }
}

/* The integers of a token as floats, for weights that are not integers. */
static void values_from_codes(const sqf_input *input, size_t token, float *out)
{
    const input_layout *layout = input->layout;
    for (unsigned p = 0; p < layout->planes; p++) {
        const code_plane *plane = &input->planes[p];
        for (size_t g = 0; g < layout->segment_count; g++) {
            const sqf_segment *segment = &layout->segments[g];
            const int8_t *codes = plane->codes + token * input->code_stride + segment->offset;
            const float scale = plane->scales[token * layout->segment_count + g];
            const int32_t zero = plane->zeros ? plane->zeros[token * layout->segment_count + g] : 0;
            for (size_t k = segment->begin; k < segment->end; k++) {
                const float value = (float)(codes[k - segment->begin] - zero) * scale;
                out[k] = p == 0 ? value : out[k] + value;
            }
        }
    }
}

/* Two rows of one: the part of each element is chosen bank by bank. */
static void split_row(const prepare_job *job, const float *x, float *low, float *high)
{
    const input_layout *layout = job->input->layout;
    const sqf_act_spec *spec = &layout->spec;
    const float *norm = spec->dynamic_weighted ? layout->column_norm : NULL;
    for (size_t begin = 0; begin < layout->columns; begin += spec->bank) {
        const size_t left = layout->columns - begin, n = left < spec->bank ? left : spec->bank;
        job->kernels->split_top(x + begin, norm ? norm + begin : NULL, n,
                                sqf_bank_high(spec->bank, spec->high_per_bank, n), low + begin, high + begin);
    }
}

static void gather(const float *x, const int32_t *channels, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = x[channels[i]];
    }
}

/* One token that is made of integers. scratch: two rows. */
static void quantize_planes(const prepare_job *job, size_t token, const float *x, uint8_t *scratch)
{
    const sqf_input *input = job->input;
    const input_layout *layout = input->layout;
    float *first = (float *)(void *)scratch, *second = (float *)(void *)(scratch + scratch_row_bytes(layout));
    if (is_dynamic(&layout->spec)) {
        split_row(job, x, first, second);
        quantize_plane(&(plane_row){job, layout, first, LOW}, token, &input->planes[LOW]);
        quantize_plane(&(plane_row){job, layout, second, HIGH}, token, &input->planes[HIGH]);
    } else {
        if (layout->channels) {
            gather(x, layout->channels, layout->columns, first);
            x = first;
        }
        quantize_plane(&(plane_row){job, layout, x, -1}, token, &input->planes[0]);
    }
    if (layout->values) {
        values_from_codes(input, token, input->integer_part + token * layout->columns);
    }
}

/* ---- floats of 8 and 16 bits, alone or beside integers ---- */

/* Sorts the elements of one quantized row into the planes, one segment. A part that is not made of integers leaves
 * its plane at the zeros that were put there. */
static void distribute(const sqf_input *input, size_t token, size_t g, const sqf_act_row *row)
{
    const input_layout *layout = input->layout;
    const sqf_segment *segment = &layout->segments[g];
    const float scale[PARTS] = {row->scale_low[segment->act_group], row->scale_high[segment->act_group]};
    const int32_t zeros[PARTS] = {row->zero_low ? row->zero_low[segment->act_group] : 0,
                                  row->zero_low ? row->zero_high[segment->act_group] : 0};
    for (int part = LOW; part <= HIGH; part++) {
        const sqf_type type = part_type(&layout->spec, part);
        const unsigned p = part_plane(layout, part);
        if (!sqf_type_is_integer(type) ||
            (!is_dynamic(&layout->spec) && section_part(layout, segment->begin) != part)) {
            continue;
        }
        const int multiplier = sqf_type_multiplier(type);
        int8_t *codes = input->planes[p].codes + token * input->code_stride + segment->offset;
        int32_t sum = 0;
        for (size_t k = segment->begin; k < segment->end; k++) {
            /* an element of the other part stands for 0; |code| <= 127: fp4's 6 * 2 is 12, int8 ends at 127 */
            const int code = (row->mask[k] == part ? (int)(row->value[k] * (float)multiplier) : 0) + zeros[part];
            codes[k - segment->begin] = (int8_t)code;
            sum += code;
        }
        const size_t at = token * layout->segment_count + g;
        input->planes[p].sums[at] = sum;
        input->planes[p].scales[at] = scale[part] / (float)multiplier;
        if (input->planes[p].zeros) {
            input->planes[p].zeros[at] = zeros[part];
        }
    }
}

/* The row's elements that are integers (or that are not) as floats, the others 0. The two calls with `integers` true
 * and false add up to the whole row. */
static void dequantize_part(const input_layout *layout, const sqf_act_row *row, bool integers, float *out)
{
    for (size_t g = 0; g < layout->segment_count; g++) {
        const sqf_segment *segment = &layout->segments[g];
        for (size_t k = segment->begin; k < segment->end; k++) {
            const int part = row->mask[k] ? HIGH : LOW;
            const sqf_type type = part_type(&layout->spec, part);
            const float *scales = part == HIGH ? row->scale_high : row->scale_low;
            const float value = row->value[k] * (sqf_type_has_scale(type) ? scales[segment->act_group] : 1.0f);
            out[k] = sqf_type_is_integer(type) == integers && type != SQF_TYPE_NONE ? value : 0.0f;
        }
    }
}

/* Quantized by the reference, then sorted into planes. */
static void quantize_general(const prepare_job *job, size_t token, const float *x, sqf_act_row *row)
{
    const sqf_input *input = job->input;
    const input_layout *layout = input->layout;
    sqf_act_quantize_row(&layout->spec, x, layout->columns, layout->channels, layout->border, &layout->scale_groups,
                         layout->has_static_scale ? layout->static_scale : NULL, layout->static_zero,
                         layout->column_norm, row);
    for (unsigned p = 0; p < layout->planes; p++) {
        const code_plane *plane = &input->planes[p];
        memset(plane->codes + token * input->code_stride, 0, layout->padded);
        memset(plane->sums + token * layout->segment_count, 0, layout->segment_count * sizeof *plane->sums);
        memset(plane->scales + token * layout->segment_count, 0, layout->segment_count * sizeof *plane->scales);
        if (plane->zeros) {
            memset(plane->zeros + token * layout->segment_count, 0, layout->segment_count * sizeof *plane->zeros);
        }
    }
    for (size_t g = 0; layout->planes > 0 && g < layout->segment_count; g++) {
        distribute(input, token, g, row);
    }
    if (layout->float_part) {
        dequantize_part(layout, row, false, input->float_copy + token * layout->columns);
    }
    if (layout->values) {
        dequantize_part(layout, row, true, input->integer_part + token * layout->columns);
    }
}

/* As quantize_general; scratch: a quantized row. */
static void quantize_floats(const prepare_job *job, size_t token, const float *x, uint8_t *scratch)
{
    const input_layout *layout = job->input->layout;
    const bool has_zeros = layout->spec.zero != SQF_ACT_ZERO_NONE;
    sqf_act_row row;
    row.value = (float *)(void *)scratch;
    row.scale_low = row.value + layout->columns;
    row.scale_high = row.scale_low + layout->segment_count;
    int32_t *zeros = (int32_t *)(void *)(row.scale_high + layout->segment_count);
    row.zero_low = has_zeros ? zeros : NULL;
    row.zero_high = has_zeros ? zeros + layout->segment_count : NULL;
    row.mask = (uint8_t *)(zeros + 2 * layout->segment_count);
    quantize_general(job, token, x, &row);
}

/* ---- tokens ---- */

/* Keeps the lowest: the message must not depend on which thread came first. */
static void note_bad_token(prepare_job *job, size_t token)
{
    size_t first = atomic_load(&job->bad_token);
    while (token < first && !atomic_compare_exchange_weak(&job->bad_token, &first, token)) {
    }
}

/* The row of a token after the steps, in scratch or where the layers will read it. scratch: two rows. */
static const float *step_row(const prepare_job *job, size_t token, uint8_t *scratch)
{
    const input_layout *layout = job->input->layout;
    const sqf_input_steps *steps = job->steps;
    const size_t n = layout->columns;
    const float *x = job->x + token * n;
    float *row = (float *)(void *)scratch;
    if (steps->rows && job->input->float_part == steps->rows) {
        row = steps->rows + token * n;
    }
    if (steps->gain) {
        const float mean = job->kernels->sum_squares(x, n) / (float)n;
        job->kernels->scale_gain(x, steps->gain, 1.0f / sqrtf(mean + steps->epsilon), n, row);
    } else if (row != x) {
        memcpy(row, x, n * sizeof *row);
    }
    if (steps->rotation) {
        sqf_rotation_row(job->kernels, steps->rotation, row, (float *)(void *)(scratch + scratch_row_bytes(layout)));
    }
    return row;
}

/* One token. absmax sees NaN and infinity as the largest of all, so one pass tells whether the row is finite. */
static void prepare_token(void *user, size_t token, unsigned thread)
{
    prepare_job *job = user;
    const sqf_input *input = job->input;
    const input_layout *layout = input->layout;
    const size_t columns = layout->columns;
    uint8_t *scratch = input->scratch + thread * input->scratch_stride;
    const float *x = job->steps ? step_row(job, token, scratch) : job->x + token * columns;
    if (!isfinite(job->kernels->absmax(x, columns))) {
        note_bad_token(job, token);
        return;
    }
    scratch += scratch_row_bytes(layout);
    if (sqf_act_spec_is_float(&layout->spec)) {
        if (layout->channels) {
            gather(x, layout->channels, columns, input->float_copy + token * columns);
        }
    } else if (layout->float_part) {
        quantize_floats(job, token, x, scratch);
    } else {
        quantize_planes(job, token, x, scratch);
    }
}

/* The message for a token that is not finite. A forward pass on half of an input is refused by sqf_linear_forward. */
static sqf_status refuse_token(const prepare_job *job, const char *name, size_t token, sqf_error *err)
{
    sqf_input *input = job->input;
    const size_t columns = input->layout->columns;
    /* Rows that are their own steps' input have been through the steps. */
    const bool done = !job->steps || (job->steps->rows == job->x && input->float_part == job->x);
    const float *x = done ? job->x + token * columns : step_row(job, token, input->scratch);
    size_t channel = 0;
    while (channel + 1 < columns && isfinite(x[channel])) {
        channel++;
    }
    input->layout = NULL;
    return sqf_fail(err, SQF_E_VALUE, "%s: input of token %zu, channel %zu is %f, expected a finite number", name,
                    token, channel, (double)x[channel]);
}

static part_rules make_rules(const sqf_act_spec *spec, int part)
{
    const sqf_type type = part_type(spec, part);
    const bool has_zero = sqf_act_has_zero(spec, part == HIGH);
    return (part_rules){.type = type,
                        .multiplier = sqf_type_multiplier(type),
                        .has_zero = has_zero,
                        .clip = sqf_act_part_clip(spec, part == HIGH),
                        .lowest = has_zero ? sqf_zero_lowest(type) : -sqf_type_max(type),
                        .largest = sqf_type_max(type)};
}

sqf_status input_prepare(sqf_context *context, sqf_input *input, const input_layout *layout, const char *name,
                         const float *x, const sqf_input_steps *steps, size_t tokens, sqf_error *err)
{
    input->layout = layout;
    input->tokens = tokens;
    SQF_TRY(input_reserve(context, input, steps ? steps->rows : x, err));
    prepare_job job = {.kernels = context->kernels,
                       .rules = {make_rules(&layout->spec, LOW), make_rules(&layout->spec, HIGH)},
                       .scale_type = sqf_act_scale_type(&layout->spec),
                       .input = input,
                       .x = x,
                       .steps = steps};
    atomic_init(&job.bad_token, SIZE_MAX);
    sqf_pool_run(context->pool, tokens, prepare_token, &job);
    const size_t token = atomic_load(&job.bad_token);
    return token == SIZE_MAX ? SQF_OK : refuse_token(&job, name, token, err);
}

/* Weights from their stored layout into the planes of kernels.h, once, when a layer is created. The stored layout is
 * made to be small and checkable, the planes to be multiplied: codes in the order in which kernels read them, masks
 * and sentinels gone (an element of the other part is a 0), scales as floats with the multipliers of fp4 taken out.
 *
 * Two planes of different types have a price in memory: int8 over int4 would take 12 bits a weight. Pairs of integers
 * go another way, repack_split.c. */
#include <string.h>

#include "base/memory.h"
#include "kernels/repack.h"
#include "kernels/repack_split.h"

/* Codes of int4, int3 and int2 fit packed nibbles; wider integers take bytes; the rest 16 bits (fp8 fits bf16). */
static sqf_form form_of(sqf_type type)
{
    if (!sqf_type_is_integer(type)) {
        return type == SQF_TYPE_FP16 ? SQF_FORM_FP16 : SQF_FORM_BF16;
    }
    const float largest = sqf_type_max(type) * (float)sqf_type_multiplier(type);
    return largest <= SQF_NIBBLE_OFFSET ? SQF_FORM_NIBBLES : SQF_FORM_BYTES;
}

bool weights_are_one_grid(const sqf_weight_spec *spec)
{
    return spec->scales == SQF_SCALES_TIED && sqf_type_is_integer(spec->low) && sqf_type_is_integer(spec->high) &&
           sqf_type_multiplier(spec->low) == 1 && sqf_type_multiplier(spec->high) == 1;
}

/* The general path, which goes by floats: any type. */
typedef struct float_job {
    const repack_job *repack;
    sqf_row *rows; /* [threads] scratch */
} float_job;

/* Puts the value of column kp (padded) of row r into a panel. */
static void put(const weight_plane *plane, uint8_t *panel, size_t kp, size_t r, float value)
{
    switch (plane->form) {
    case SQF_FORM_NIBBLES: {
        const unsigned code = (unsigned)((int)value + SQF_NIBBLE_OFFSET);
        uint8_t *pair = panel + kp / 8 * 64 + r * 4 + kp % 4;
        *pair = (uint8_t)(kp % 8 < 4 ? (*pair & 0xf0u) | code : (*pair & 0x0fu) | code << 4);
        break;
    }
    case SQF_FORM_BF16:
    case SQF_FORM_FP16: {
        const uint16_t bits = plane->form == SQF_FORM_FP16 ? sqf_fp16_from_float(value) : sqf_bf16_from_float(value);
        memcpy(panel + 2 * (kp * SQF_PANEL_ROWS + r), &bits, sizeof bits);
        break;
    }
    default: panel[kp / 4 * 64 + r * 4 + kp % 4] = (uint8_t)(int8_t)value;
    }
}

/* One row and segment of plane p. *scale receives what the products must be multiplied with; the multiplier was put
 * into the values, so it is taken out there. *sum, if wanted, receives the sum of the integers. */
static void repack_segment(const repack_job *job, size_t p, const sqf_row *row, const sqf_segment *segment,
                           uint8_t *panel, size_t r, float *scale, int32_t *sum)
{
    const weight_plane *plane = &job->planes[p];
    const float multiplier = sqf_type_is_integer(plane->type) ? (float)sqf_type_multiplier(plane->type) : 1.0f;
    const float raise = job->one_grid ? (float)(1u << row->shift[segment->weight_group]) : 1.0f;
    for (size_t k = segment->begin; k < segment->end; k++) {
        const bool high = row->mask[k] != 0;
        float value = row->value[k] * multiplier;
        if (job->one_grid) {
            value = high ? value : value * raise;
        } else if (high != job->is_high[p]) {
            value = 0.0f;
        }
        put(plane, panel, segment->offset + k - segment->begin, r, value);
        if (sum) {
            *sum += (int32_t)value;
        }
    }
    const float *scales = job->is_high[p] ? row->scale_high : row->scale_low;
    *scale = scales[segment->weight_group] / multiplier;
}

/* What an empty panel holds: nibbles of padding columns and missing rows are 7, the code of 0, because kernels compute
 * with them; all else is 0. */
static void clear_panel(const repack_job *job, const weight_plane *plane, size_t task)
{
    const uint8_t zeros = plane->form == SQF_FORM_NIBBLES ? SQF_NIBBLE_OFFSET << 4 | SQF_NIBBLE_OFFSET : 0;
    const size_t count = job->layout->segment_count * SQF_PANEL_ROWS;
    memset(plane->data + task * plane->panel_bytes, zeros, plane->panel_bytes);
    memset(plane->scales + task * count, 0, count * sizeof *plane->scales);
    if (plane->column_sums) {
        memset(plane->column_sums + task * count, 0, count * sizeof *plane->column_sums);
    }
}

/* Rows come through row_order where outputs are to be delivered in another order. */
static void repack_panel(void *user, size_t task, unsigned thread)
{
    const float_job *floats = user;
    const repack_job *job = floats->repack;
    const input_layout *layout = job->layout;
    sqf_row *row = &floats->rows[thread];
    for (size_t p = 0; p < job->plane_count; p++) {
        clear_panel(job, &job->planes[p], task);
    }
    for (size_t r = 0; r < SQF_PANEL_ROWS && task * SQF_PANEL_ROWS + r < job->params->rows; r++) {
        sqf_matrix_unpack_row(job->params->matrix, repack_source_row(job, task * SQF_PANEL_ROWS + r), row);
        for (size_t p = 0; p < job->plane_count; p++) {
            const weight_plane *plane = &job->planes[p];
            for (size_t g = 0; g < layout->segment_count; g++) {
                const size_t at = (task * layout->segment_count + g) * SQF_PANEL_ROWS + r;
                repack_segment(job, p, row, &layout->segments[g], plane->data + task * plane->panel_bytes, r,
                               &plane->scales[at], plane->column_sums ? &plane->column_sums[at] : NULL);
            }
        }
    }
}

/* Memory of a plane, in the arena if there is one; sizes are checked, because a plane may be larger than what the file
 * stored. Contents are arbitrary: whoever repacks writes all of it. */
static sqf_status plane_alloc(const sqf_linear_params *params, const input_layout *layout, sqf_type type,
                              weight_plane *out, sqf_error *err)
{
    const size_t panels = sqf_ceil_div(params->rows, SQF_PANEL_ROWS);
    size_t scales, bytes;
    *out = (weight_plane){.form = form_of(type), .type = type, .in_arena = params->arena != NULL};
    if (!sqf_mul_size(&out->panel_bytes, layout->padded / SQF_SEGMENT_PAD, sqf_form_step_bytes(out->form)) ||
        !sqf_mul_size(&bytes, panels, out->panel_bytes) ||
        !sqf_mul_size(&scales, panels * SQF_PANEL_ROWS * sizeof(float), layout->segment_count)) {
        return sqf_fail(err, SQF_E_SHAPE, "%s: the size of the repacked weights overflows", params->name);
    }
    SQF_TRY(sqf_arena_alloc(params->arena, (void **)&out->data, bytes, "repacked weights", err));
    if (layout->spec.zero != SQF_ACT_ZERO_NONE && sqf_type_is_integer(type)) {
        SQF_TRY(sqf_arena_alloc(params->arena, (void **)&out->column_sums, scales, "sums of weights", err));
    }
    return sqf_arena_alloc(params->arena, (void **)&out->scales, scales, "repacked scales", err);
}

/* Each thread has a row to unpack into. */
static sqf_status repack_floats(sqf_context *context, const repack_job *repack, sqf_error *err)
{
    const unsigned threads = sqf_pool_threads(context->pool);
    float_job job = {.repack = repack};
    SQF_TRY(SQF_ALLOC(&job.rows, threads, "rows", err));
    sqf_status status = SQF_OK;
    for (unsigned i = 0; status == SQF_OK && i < threads; i++) {
        status = sqf_row_create(repack->params->matrix, &job.rows[i], err);
    }
    if (status == SQF_OK) {
        sqf_pool_run(context->pool, sqf_ceil_div(repack->params->rows, SQF_PANEL_ROWS), repack_panel, &job);
    }
    for (unsigned i = 0; i < threads; i++) {
        sqf_row_clear(&job.rows[i]);
    }
    free(job.rows);
    return status;
}

sqf_status weight_planes_create(sqf_context *context, const sqf_linear_params *params, const input_layout *layout,
                                weight_plane planes[PARTS], size_t *count, sqf_error *err)
{
    const sqf_weight_spec *spec = &params->matrix->spec;
    const size_t high_count = params->matrix->high_count;
    repack_job job = {.params = params, .layout = layout, .planes = planes};
    job.one_grid = high_count > 0 && weights_are_one_grid(spec);
    *count = 0;
    if (split_form_serves(params, layout)) {
        *count = 1;
        return split_plane_create(context, params, layout, &planes[0], err);
    }
    if (!job.one_grid && spec->low != SQF_TYPE_NONE && high_count < params->columns) {
        job.is_high[*count] = false;
        (*count)++;
        SQF_TRY(plane_alloc(params, layout, spec->low, &planes[0], err));
    }
    if (high_count > 0) {
        job.is_high[*count] = true;
        (*count)++;
        SQF_TRY(plane_alloc(params, layout, spec->high, &planes[*count - 1], err));
    }
    job.plane_count = *count;
    if (job.plane_count == 0) {
        return SQF_OK;
    }
    return repack_integers_serve(&job) ? repack_integers(context, &job, err) : repack_floats(context, &job, err);
}

void weight_planes_clear(weight_plane *planes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!planes[i].in_arena) {
            free(planes[i].data);
            free(planes[i].scales);
            free(planes[i].column_sums);
        }
        free(planes[i].split_blocks);
    }
}

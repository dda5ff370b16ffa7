/* Linear layers on a device: how weights in their stored layout are handed to the backend. The segments are those of
 * the CPU's layers (kernels/layout.h), so that sums over them are the same integers; the backend packs codes for its
 * own kernels.
 *
 * A matrix is one product where one form holds it: uniform weights, integers of two parts (SPLIT), or such with tied
 * scales, whose low elements times 2^shift lie on the grid of the high ones. Else each part is a product of its own,
 * with zeros in the other's places. */
#include <string.h>

#include "kernels/layout.h"
#include "model/device_layer.h"

/* Which elements of a row a product takes. */
typedef enum taken { TAKE_DENSE, TAKE_LOW, TAKE_HIGH, TAKE_JOINED, TAKE_BOTH } taken;

/* One product of a layer, and the rows that are being asked for. */
typedef struct part {
    const sqf_linear_params *params;
    const input_layout *layout;
    sqf_context *context;
    taken take;
    sqf_cuda_form form;
    sqf_type type; /* of its elements; TAKE_BOTH: of the low ones */
    sqf_row *rows; /* [threads] scratch */
    size_t first, count;
    const sqf_cuda_rows *out;
} part;

enum { UNIT = 64, ROWS_OF_TASK = 8, NIBBLE_MOST = 7, MANY_TOKENS = 512 };

/* ---- forms ---- */

static float largest_code(sqf_type type)
{
    return sqf_type_max(type) * (float)sqf_type_multiplier(type);
}

/* FP8 holds e4m3 and the smaller e3m2, BF16 what is left: e5m2. */
static sqf_cuda_form form_of(sqf_type type)
{
    if (sqf_type_is_integer(type)) {
        return largest_code(type) <= NIBBLE_MOST ? SQF_CUDA_NIBBLES : SQF_CUDA_BYTES;
    }
    switch (type) {
    case SQF_TYPE_FP8:
    case SQF_TYPE_FP6_E3M2: return SQF_CUDA_FP8;
    case SQF_TYPE_FP16: return SQF_CUDA_FP16;
    case SQF_TYPE_FP32: return SQF_CUDA_FP32;
    default: return SQF_CUDA_BF16;
    }
}

/* The products of a layer, 0 of them where all weights are dropped. */
static size_t choose_parts(const sqf_linear_params *params, part parts[SQF_DEVICE_PARTS])
{
    const sqf_matrix *matrix = params->matrix;
    size_t count = 0;
    if (!matrix) {
        parts[0] = (part){.take = TAKE_DENSE, .form = form_of(params->dense_type), .type = params->dense_type};
        return 1;
    }
    const sqf_type low = matrix->spec.low, high = matrix->spec.high;
    const bool has_low = low != SQF_TYPE_NONE && matrix->high_count < matrix->columns;
    const bool has_high = matrix->high_count > 0;
    if (has_high && weights_are_one_grid(&matrix->spec)) {
        parts[0] = (part){.take = TAKE_JOINED, .form = form_of(high), .type = high};
        return 1;
    }
    if (has_low && has_high && form_of(low) == SQF_CUDA_NIBBLES && sqf_type_is_integer(high)) {
        parts[0] = (part){.take = TAKE_BOTH, .form = SQF_CUDA_SPLIT, .type = low};
        return 1;
    }
    if (has_low) {
        parts[count++] = (part){.take = TAKE_LOW, .form = form_of(low), .type = low};
    }
    if (has_high) {
        parts[count++] = (part){.take = TAKE_HIGH, .form = form_of(high), .type = high};
    }
    return count;
}

/* Activations that the products of FP4 take, which GPUs of capability 10.0 and 12.0 have instructions for: the latter
 * beside a high part of bfloat16 too. */
static bool fits_fp4(const sqf_device *device, const sqf_act_spec *spec)
{
    const sqf_type types[2] = {spec->low, spec->high};
    const int major = device->info.major;
    for (int i = 0; i < 2; i++) {
        const bool used = i == 0 || sqf_act_spec_is_split(spec);
        if (used && types[i] != SQF_TYPE_FP4 && types[i] != SQF_TYPE_FP8 && types[i] != SQF_TYPE_FP6_E3M2 &&
            (types[i] != SQF_TYPE_BF16 || major != 12)) {
            return false;
        }
    }
    return (major == 12 || major == 10) && device->info.minor == 0;
}

/* High elements of each 64 columns of every segment, where they are as many everywhere; else 0. */
static uint32_t unit_high(const sqf_matrix *matrix, const input_layout *layout)
{
    const uint32_t bank = matrix->spec.bank;
    if (bank == 0 || UNIT % bank != 0) {
        return 0;
    }
    for (size_t i = 0; i < layout->segment_count; i++) {
        const sqf_segment *segment = &layout->segments[i];
        size_t begin, end;
        sqf_partition_range(&matrix->banks, sqf_partition_find(&matrix->banks, segment->begin), &begin, &end);
        if ((segment->end - segment->begin) % UNIT != 0 || begin != segment->begin) {
            return 0;
        }
    }
    return UNIT / bank * matrix->spec.high_per_bank;
}

/* ---- rows ---- */

static int multiplier_of(sqf_type type)
{
    return sqf_type_is_integer(type) ? sqf_type_multiplier(type) : 1;
}

/* Grid values to the codes of a form. */
static void put_codes(sqf_cuda_form form, int multiplier, const float *values, size_t n, uint8_t *codes)
{
    switch (form) {
    case SQF_CUDA_FP8:
        for (size_t k = 0; k < n; k++) {
            codes[k] = (uint8_t)sqf_type_encode(SQF_TYPE_FP8, values[k]);
        }
        break;
    case SQF_CUDA_BF16:
    case SQF_CUDA_FP16:
        for (size_t k = 0; k < n; k++) {
            const uint16_t half =
                form == SQF_CUDA_FP16 ? sqf_fp16_from_float(values[k]) : sqf_bf16_from_float(values[k]);
            memcpy(codes + 2 * k, &half, sizeof half);
        }
        break;
    case SQF_CUDA_FP32: memcpy(codes, values, n * sizeof *values); break;
    default:
        for (size_t k = 0; k < n; k++) {
            codes[k] = (uint8_t)(int8_t)(values[k] * (float)multiplier);
        }
    }
}

static size_t code_bytes(sqf_cuda_form form)
{
    return form == SQF_CUDA_FP32 ? 4 : form == SQF_CUDA_BF16 || form == SQF_CUDA_FP16 ? 2 : 1;
}

/* Elements that this product does not take become 0; with tied scales low ones get the units of the high ones. */
static void take_values(const part *self, sqf_row *row)
{
    const sqf_matrix *matrix = self->params->matrix;
    if (self->take == TAKE_JOINED) {
        for (size_t g = 0; g < matrix->group_count; g++) {
            const float raise = (float)(1u << row->shift[g]);
            size_t begin, end;
            sqf_partition_range(&matrix->groups, g, &begin, &end);
            for (size_t k = begin; k < end; k++) {
                row->value[k] = row->mask[k] ? row->value[k] : row->value[k] * raise;
            }
        }
        return;
    }
    const uint8_t other = self->take == TAKE_HIGH ? 0 : 1;
    for (size_t k = 0; k < matrix->columns; k++) {
        row->value[k] = (row->mask[k] != 0) == (other != 0) ? 0.0f : row->value[k];
    }
}

/* What the codes of each segment are multiplied with. */
static void put_scales(const part *self, const float *scales, int multiplier, float *out)
{
    for (size_t g = 0; out && g < self->layout->segment_count; g++) {
        out[g] = scales[self->layout->segments[g].weight_group] / (float)multiplier;
    }
}

/* Row i of those that are asked for, of two parts together. */
static void fill_both(const part *self, const sqf_row *row, size_t i)
{
    const size_t columns = self->params->columns, segments = self->layout->segment_count;
    const sqf_cuda_rows *out = self->out;
    const int low = multiplier_of(self->type), high = multiplier_of(self->params->matrix->spec.high);
    int8_t *codes = (int8_t *)out->codes + i * columns, *upper = out->high + i * columns;
    for (size_t k = 0; k < columns; k++) {
        codes[k] = row->mask[k] ? 0 : (int8_t)(row->value[k] * (float)low);
        upper[k] = row->mask[k] ? (int8_t)(row->value[k] * (float)high) : 0;
    }
    memcpy(out->mask + i * columns, row->mask, columns);
    put_scales(self, row->scale_low, low, out->scales + i * segments);
    put_scales(self, row->scale_high, high, out->high_scales + i * segments);
}

static void fill_row(const part *self, size_t i, sqf_row *row)
{
    const sqf_linear_params *params = self->params;
    const size_t n = self->first + i, columns = params->columns, bytes = code_bytes(self->form);
    uint8_t *codes = (uint8_t *)self->out->codes + i * columns * bytes;
    if (self->take == TAKE_DENSE) {
        memcpy(codes, (const uint8_t *)params->dense + n * columns * bytes, columns * bytes);
        return;
    }
    sqf_matrix_unpack_row(params->matrix, params->row_order ? (size_t)params->row_order[n] : n, row);
    if (self->take == TAKE_BOTH) {
        fill_both(self, row, i);
        return;
    }
    const int multiplier = multiplier_of(self->type);
    take_values(self, row);
    put_codes(self->form, multiplier, row->value, columns, codes);
    put_scales(self, self->take == TAKE_LOW ? row->scale_low : row->scale_high, multiplier,
               self->out->scales ? self->out->scales + i * self->layout->segment_count : NULL);
}

static void fill_task(void *user, size_t task, unsigned thread)
{
    const part *self = user;
    for (size_t i = task * ROWS_OF_TASK; i < self->count && i < (task + 1) * ROWS_OF_TASK; i++) {
        fill_row(self, i, self->rows ? &self->rows[thread] : NULL);
    }
}

/* The backend's callback: rows in parallel on the context's threads. */
static sqf_status fill(void *user, size_t first, size_t count, const sqf_cuda_rows *rows, sqf_error *err)
{
    part *self = user;
    (void)err;
    self->first = first;
    self->count = count;
    self->out = rows;
    sqf_pool_run(self->context->pool, sqf_ceil_div(count, ROWS_OF_TASK), fill_task, self);
    return SQF_OK;
}

/* ---- layers ---- */

/* What stands behind the specifications of a layer's products while they are made. */
typedef struct source {
    input_layout layout;
    sqf_cuda_segment *segments;
    part parts[SQF_DEVICE_PARTS];
    size_t count;
    sqf_row *rows; /* [threads] */
    size_t row_count;
} source;

static void source_clear(source *from)
{
    input_layout_clear(&from->layout);
    free(from->segments);
    for (size_t i = 0; i < from->row_count; i++) {
        sqf_row_clear(&from->rows[i]);
    }
    free(from->rows);
}

static sqf_status source_init(sqf_context *context, const sqf_linear_params *params, source *out, sqf_error *err)
{
    *out = (source){0};
    SQF_TRY(input_layout_init(params, &out->layout, err));
    SQF_TRY(SQF_ALLOC(&out->segments, out->layout.segment_count, "segments", err));
    for (size_t i = 0; i < out->layout.segment_count; i++) {
        const sqf_segment *segment = &out->layout.segments[i];
        out->segments[i] = (sqf_cuda_segment){.begin = (uint32_t)segment->begin,
                                              .end = (uint32_t)segment->end,
                                              .act_group = (uint32_t)segment->act_group,
                                              .high = section_part(&out->layout, segment->begin) == HIGH};
    }
    out->count = choose_parts(params, out->parts);
    if (out->count == 1 && out->parts[0].type == SQF_TYPE_FP4 && out->parts[0].take != TAKE_BOTH &&
        fits_fp4(context->device, &params->activations)) {
        out->parts[0].form = SQF_CUDA_FP4;
    }
    for (size_t i = 0; i < out->count; i++) {
        out->parts[i].params = params;
        out->parts[i].layout = &out->layout;
        out->parts[i].context = context;
    }
    return SQF_OK;
}

/* Scratch for unpacking, one row for each thread. */
static sqf_status source_rows(sqf_context *context, const sqf_linear_params *params, source *from, sqf_error *err)
{
    const size_t threads = sqf_pool_threads(context->pool);
    if (!params->matrix) {
        return SQF_OK;
    }
    SQF_TRY(SQF_ALLOC(&from->rows, threads, "rows", err));
    for (; from->row_count < threads; from->row_count++) {
        SQF_TRY(sqf_row_create(params->matrix, &from->rows[from->row_count], err));
    }
    for (size_t i = 0; i < from->count; i++) {
        from->parts[i].rows = from->rows;
    }
    return SQF_OK;
}

/* The bias belongs to the first product. */
static sqf_cuda_linear_spec spec_of(source *from, size_t i)
{
    const sqf_linear_params *params = from->parts[i].params;
    const input_layout *layout = &from->layout;
    return (sqf_cuda_linear_spec){
        .name = params->name,
        .rows = params->rows,
        .columns = params->columns,
        .form = from->parts[i].form,
        .split_unit_high = from->parts[i].take == TAKE_BOTH ? unit_high(params->matrix, layout) : 0,
        .segments = from->segments,
        .segment_count = layout->segment_count,
        .activations = layout->spec,
        .channels = layout->channels,
        .border = layout->border,
        .static_scale = params->static_scale,
        .static_zero = params->static_zero,
        .column_norm = params->column_norm,
        .bias = i == 0 ? params->bias : NULL,
        .fill = fill,
        .user = &from->parts[i],
    };
}

sqf_status sqf_device_linear_plan(sqf_context *context, const sqf_linear_params *params, uint64_t *bytes,
                                  sqf_error *err)
{
    const sqf_device *device = context->device;
    source from;
    const sqf_status status = source_init(context, params, &from, err);
    *bytes = 0;
    for (size_t i = 0; status == SQF_OK && i < from.count; i++) {
        const sqf_cuda_linear_spec spec = spec_of(&from, i);
        *bytes += device->ops->linear_plan(device->cuda, &spec);
    }
    source_clear(&from);
    return status;
}

static sqf_status create_parts(sqf_context *context, source *from, sqf_device_linear *out, sqf_error *err)
{
    const sqf_device *device = context->device;
    for (; out->part_count < from->count; out->part_count++) {
        const sqf_cuda_linear_spec spec = spec_of(from, out->part_count);
        SQF_TRY(device->ops->linear_create(device->cuda, &spec, &out->parts[out->part_count], err));
    }
    return SQF_OK;
}

/* A layer without any weight left would be a matrix of zeros, which no scheme makes. */
/* A scheme that no fast kernel serves still computes; whoever waits for it should know why. Said once a device. */
static void report_slow(sqf_context *context, const sqf_linear_params *params, const sqf_device_linear *linear)
{
    sqf_device *device = context->device;
    for (size_t i = 0; i < linear->part_count && !device->slow; i++) {
        char kernels[SQF_CUDA_KERNELS];
        device->ops->linear_kernels(device->cuda, linear->parts[i], MANY_TOKENS, kernels);
        if (strstr(kernels, "simple")) {
            device->slow = true;
            sqf_log(context, SQF_LOG_WARNING,
                    "%s: %s has no kernel with tensor instructions for this scheme: its products are computed in "
                    "float32, slowly",
                    params->name, device->name);
        }
    }
}

sqf_status sqf_device_linear_create(sqf_context *context, const sqf_linear_params *params, sqf_device_linear *out,
                                    sqf_error *err)
{
    source from = {0};
    *out = (sqf_device_linear){.rows = params->rows, .columns = params->columns};
    SQF_TRY(sqf_linear_check(params, err));
    sqf_status status = source_init(context, params, &from, err);
    if (status == SQF_OK && from.count == 0) {
        status = sqf_fail(err, SQF_E_SUPPORT, "%s: no weights are left", params->name);
    }
    if (status == SQF_OK) {
        status = source_rows(context, params, &from, err);
    }
    if (status == SQF_OK) {
        out->per_token = sqf_linear_count_token(params);
        status = create_parts(context, &from, out, err);
    }
    source_clear(&from);
    if (status != SQF_OK) {
        sqf_device_linear_clear(context, out);
        return status;
    }
    report_slow(context, params, out);
    return SQF_OK;
}

void sqf_device_linear_clear(sqf_context *context, sqf_device_linear *linear)
{
    for (size_t i = 0; i < SQF_DEVICE_PARTS; i++) {
        if (linear->parts[i]) {
            context->device->ops->linear_destroy(context->device->cuda, linear->parts[i]);
        }
    }
    *linear = (sqf_device_linear){0};
}

/* Weights of two integer parts from their stored layout into the SPLIT form (split.h), without a detour over floats:
 * a row becomes bytes and a mask, sixteen rows become a panel. */
#include "kernels/repack_split.h"
#include "base/memory.h"
#include "format/plane.h"
#include "kernels/layout.h"
#include "kernels/split.h"

/* Rows of a panel, padded like the segments: of a low element its nibble, of a high one its two's complement. */
typedef struct panel_rows {
    uint8_t *value;                /* [SQF_PANEL_ROWS][padded] */
    uint8_t *mask;                 /* [SQF_PANEL_ROWS][padded] 1 = high */
    uint8_t *row_value, *row_mask; /* [columns] one row without padding */
    uint8_t *upper;                /* [SPLIT_LIST_MAX] bytes of high elements in the order of a list */
} panel_rows;

/* What the tasks share; a task is a panel. */
typedef struct split_repack {
    const sqf_linear_params *params;
    const input_layout *layout;
    const weight_plane *plane;
    panel_rows *rows; /* [threads] */
} split_repack;

static bool is_plain_integer(sqf_type type)
{
    return sqf_type_is_integer(type) && sqf_type_multiplier(type) == 1;
}

bool split_form_serves(const sqf_linear_params *params, const input_layout *layout)
{
    const sqf_matrix *matrix = params->matrix;
    const sqf_weight_spec *spec = &matrix->spec;
    if (layout->planes == 0 || layout->float_part || matrix->high_count == 0 || matrix->high_count >= matrix->columns ||
        !is_plain_integer(spec->low) || !is_plain_integer(spec->high) ||
        sqf_type_max(spec->low) > (float)SQF_NIBBLE_OFFSET) {
        return false;
    }
    /* Tied scales have one plane otherwise too, of 4 or 8 bits: 5 + 4 * share must be less. */
    return spec->scales != SQF_SCALES_TIED ||
           (sqf_type_max(spec->high) > (float)SQF_NIBBLE_OFFSET && matrix->high_count <= matrix->columns / 2);
}

/* ---- rows ---- */

static uint64_t load_eight(const uint8_t *bytes)
{
    uint64_t eight;
    memcpy(&eight, bytes, sizeof eight);
    return eight;
}

/* Bit i: byte i of eight, each 0 or 1. */
static unsigned gather_bits(uint64_t bytes)
{
    return (unsigned)(bytes * 0x0102040810204080u >> 56);
}

/* int4 with sentinels, two codes a byte: nearly every file. Loops without branches, which compilers turn into vectors.
 */
static void unpack_nibbles(const uint8_t *packed, size_t columns, uint8_t *value, uint8_t *mask)
{
    for (size_t i = 0; i < columns / 2; i++) {
        value[2 * i] = packed[i] & 15;
        value[2 * i + 1] = packed[i] >> 4;
    }
    if (columns % 2) {
        value[columns - 1] = packed[columns / 2] & 15;
    }
    for (size_t k = 0; k < columns; k++) {
        mask[k] = value[k] == 15;
    }
}

/* Any types and layouts: low codes, 0 at high elements, and the mask. */
static void unpack_codes(const sqf_matrix *matrix, size_t n, uint8_t *value, uint8_t *mask)
{
    const sqf_weight_spec *spec = &matrix->spec;
    const uint8_t *bits = spec->layout == SQF_LAYOUT_BITMASK ? matrix->mask + n * matrix->mask_row_bytes : NULL;
    const uint32_t sentinel = sqf_type_sentinel(spec->low);
    const unsigned low_bits = sqf_type_bits(spec->low);
    const uint8_t offset = (uint8_t)(SQF_NIBBLE_OFFSET - (int)sqf_type_max(spec->low));
    plane_reader low = {.bytes = matrix->low + n * matrix->low_row_bytes};
    for (size_t k = 0; k < matrix->columns; k++) {
        const bool marked = bits && (bits[k / 8] >> k % 8 & 1);
        const uint32_t code = marked ? 0 : plane_read(&low, low_bits);
        mask[k] = marked || (!bits && code == sentinel);
        value[k] = (uint8_t)(code + offset);
    }
}

/* The high elements of row n, in ascending order, to where the mask has them. */
static void insert_high(const sqf_matrix *matrix, size_t n, const uint8_t *mask, uint8_t *value)
{
    const sqf_type type = matrix->spec.high;
    const uint8_t *bytes = matrix->high + n * matrix->high_row_bytes;
    const unsigned bits = sqf_type_bits(type);
    const int largest = (int)sqf_type_max(type);
    plane_reader reader = {.bytes = bytes};
    size_t k = 0;
    for (; k + 8 <= matrix->columns; k += 8) {
        for (unsigned marks = gather_bits(load_eight(mask + k)); marks; marks &= marks - 1) {
            value[k + (size_t)__builtin_ctz(marks)] =
                type == SQF_TYPE_INT8 ? *bytes++ : (uint8_t)(int8_t)((int)plane_read(&reader, bits) - largest);
        }
    }
    for (; k < matrix->columns; k++) {
        if (mask[k]) {
            value[k] = type == SQF_TYPE_INT8 ? *bytes++ : (uint8_t)(int8_t)((int)plane_read(&reader, bits) - largest);
        }
    }
}

/* Row n of the stored matrix as row r of the panel. */
static void unpack_row(const split_repack *job, const panel_rows *rows, size_t n, size_t r)
{
    const sqf_matrix *matrix = job->params->matrix;
    const input_layout *layout = job->layout;
    if (matrix->spec.low == SQF_TYPE_INT4 && matrix->spec.layout == SQF_LAYOUT_VMASK) {
        unpack_nibbles(matrix->low + n * matrix->low_row_bytes, matrix->columns, rows->row_value, rows->row_mask);
    } else {
        unpack_codes(matrix, n, rows->row_value, rows->row_mask);
    }
    insert_high(matrix, n, rows->row_mask, rows->row_value);
    for (size_t g = 0; g < layout->segment_count; g++) {
        const sqf_segment *segment = &layout->segments[g];
        const size_t length = segment->end - segment->begin, at = r * layout->padded + segment->offset;
        memcpy(rows->value + at, rows->row_value + segment->begin, length);
        memcpy(rows->mask + at, rows->row_mask + segment->begin, length);
    }
}

/* ---- panels ---- */

/* Upper nibbles, one a byte, to a list: the first half of each piece above the second. */
static void put_list(const uint8_t *upper, size_t list_bytes, uint8_t *list)
{
    for (size_t at = 0; at < list_bytes; at += SPLIT_PIECE) {
        const size_t half = list_bytes - at < SPLIT_PIECE ? list_bytes - at : SPLIT_PIECE;
        for (size_t i = 0; i < half; i++) {
            list[at + i] = (uint8_t)((upper[2 * at + i] & 0xf0) | upper[2 * at + half + i] >> 4);
        }
    }
}

/* One step of 8 columns; returns the number of high elements so far. */
static size_t put_step(const panel_rows *rows, size_t padded, size_t kp, uint8_t *nibbles, uint8_t *masks,
                       size_t position)
{
    uint64_t half_masks[2] = {0, 0};
    for (size_t r = 0; r < SQF_PANEL_ROWS; r++) {
        const uint64_t eight = load_eight(rows->value + r * padded + kp) & 0x0f0f0f0f0f0f0f0fu;
        const uint32_t pairs = (uint32_t)(eight | eight >> 28);
        memcpy(nibbles + 4 * r, &pairs, sizeof pairs);
        const uint64_t marks = gather_bits(load_eight(rows->mask + r * padded + kp));
        half_masks[0] |= (marks & 15) << 4 * r;
        half_masks[1] |= (marks >> 4) << 4 * r;
    }
    memcpy(masks, half_masks, sizeof half_masks);
    for (size_t half = 0; half < 2; half++) {
        for (uint64_t left = half_masks[half]; left; left &= left - 1) {
            const size_t bit = (size_t)__builtin_ctzll(left);
            rows->upper[position++] = rows->value[bit / 4 * padded + kp + half * 4 + bit % 4];
        }
    }
    return position;
}

/* Scale number `at` of the stored matrix to place r of a header's array. */
static void put_scale(const sqf_split_shape *shape, const sqf_matrix *matrix, int part, size_t at, size_t r,
                      uint8_t *array)
{
    const uint8_t *scales = part == HIGH ? matrix->scale_high : matrix->scale_low;
    if (shape->half) {
        memcpy(array + r * sizeof(uint16_t), scales + at * sizeof(uint16_t), sizeof(uint16_t));
        return;
    }
    const float scale = matrix->scale_unit[part] * plane_get_scale(scales, at, matrix->spec.scale_type);
    memcpy(array + r * sizeof scale, &scale, sizeof scale);
}

/* Sums of row r's integers over a segment, for zero points. */
static void put_sums(const sqf_split_shape *shape, const panel_rows *rows, size_t padded, const sqf_segment *segment,
                     size_t r, uint8_t *header)
{
    const uint8_t *value = rows->value + r * padded + segment->offset,
                  *mask = rows->mask + r * padded + segment->offset;
    int32_t sums[PARTS] = {0, 0};
    for (size_t k = 0; k < segment->end - segment->begin; k++) {
        sums[LOW] += mask[k] ? 0 : value[k] - SQF_NIBBLE_OFFSET;
        sums[HIGH] += mask[k] ? (int8_t)value[k] : 0;
    }
    uint8_t *place = (uint8_t *)(uintptr_t)split_sums(shape, header) + r * sizeof(int32_t);
    if (shape->tied) {
        sums[LOW] = sums[LOW] * (1 << split_shifts(shape, header)[r]) + sums[HIGH];
    }
    memcpy(place, &sums[LOW], sizeof(int32_t));
    if (!shape->tied) {
        memcpy(place + SQF_PANEL_ROWS * sizeof(int32_t), &sums[HIGH], sizeof(int32_t));
    }
}

static void put_header(const split_repack *job, const panel_rows *rows, size_t n, size_t r, const sqf_segment *segment,
                       uint8_t *header)
{
    const sqf_matrix *matrix = job->params->matrix;
    const sqf_split_shape *shape = &job->plane->split;
    const size_t at = n * matrix->group_count + segment->weight_group;
    put_scale(shape, matrix, LOW, at, r, header);
    if (shape->tied) {
        header[split_scale_bytes(shape) + r] = matrix->shift[at];
    } else {
        put_scale(shape, matrix, HIGH, at, r, header + split_scale_bytes(shape));
    }
    if (shape->sums) {
        put_sums(shape, rows, job->layout->padded, segment, r, header);
    }
}

/* Rows come through row_order where outputs are to be delivered in another order. */
static void repack_panel(void *user, size_t task, unsigned thread)
{
    const split_repack *job = user;
    const sqf_linear_params *params = job->params;
    const input_layout *layout = job->layout;
    const sqf_split_shape *shape = &job->plane->split;
    const panel_rows *rows = &job->rows[thread];
    uint8_t *panel = job->plane->data + task * job->plane->panel_bytes;
    memset(rows->value, SQF_NIBBLE_OFFSET, SQF_PANEL_ROWS * layout->padded);
    memset(rows->mask, 0, SQF_PANEL_ROWS * layout->padded);
    const size_t left = params->rows - task * SQF_PANEL_ROWS, count = left < SQF_PANEL_ROWS ? left : SQF_PANEL_ROWS;
    size_t stored[SQF_PANEL_ROWS];
    for (size_t r = 0; r < count; r++) {
        const size_t n = task * SQF_PANEL_ROWS + r;
        stored[r] = params->row_order ? (size_t)params->row_order[n] : n;
        unpack_row(job, rows, stored[r], r);
    }
    size_t kp = 0;
    for (size_t b = 0; b < shape->block_count; b++) {
        const sqf_split_block *block = &shape->blocks[b];
        const sqf_segment *segment = &layout->segments[block->segment];
        uint8_t *nibbles = panel + block->offset;
        if (b == 0 || shape->blocks[b - 1].segment != block->segment) {
            memset(nibbles - shape->header_bytes, 0, shape->header_bytes);
            for (size_t r = 0; r < count; r++) {
                put_header(job, rows, stored[r], r, segment, nibbles - shape->header_bytes);
            }
        }
        uint8_t *masks = nibbles + block->steps * (size_t)SPLIT_NIBBLES;
        size_t position = 0;
        for (size_t step = 0; step < block->steps; step++, kp += SQF_SEGMENT_PAD) {
            position = put_step(rows, layout->padded, kp, nibbles + step * SPLIT_NIBBLES, masks + step * SPLIT_MASKS,
                                position);
        }
        memset(rows->upper + position, 0, 2 * (size_t)block->list_bytes - position);
        put_list(rows->upper, block->list_bytes, masks + block->steps * (size_t)SPLIT_MASKS);
    }
}

/* ---- planes ---- */

/* Columns of a block: whole banks where that is possible, because they have the same number of high elements in every
 * row. */
static size_t block_columns(const sqf_weight_spec *spec)
{
    const size_t least = 64, bank = spec->bank;
    const size_t columns = bank < least ? least / bank * bank : bank <= SPLIT_BLOCK_COLUMNS ? bank : least;
    return columns % SQF_SEGMENT_PAD == 0 ? columns : least;
}

/* High elements that columns begin .. end of a row may have at most; exact for whole banks. */
static size_t most_high(const sqf_matrix *matrix, size_t begin, size_t end)
{
    const sqf_weight_spec *spec = &matrix->spec;
    size_t count = 0;
    for (size_t at = begin; at < end;) {
        size_t bank_begin, bank_end;
        sqf_partition_range(&matrix->banks, sqf_partition_find(&matrix->banks, at), &bank_begin, &bank_end);
        const size_t stop = bank_end < end ? bank_end : end;
        const size_t high = sqf_bank_high(spec->bank, spec->high_per_bank, bank_end - bank_begin);
        count += high < stop - at ? high : stop - at;
        at = stop;
    }
    return count;
}

/* The next blocks of segment g behind `offset`, or only their number with blocks == NULL. False if a size overflows. */
static bool add_blocks(const sqf_matrix *matrix, const input_layout *layout, size_t g, const sqf_split_shape *shape,
                       sqf_split_block *blocks, size_t *count, size_t *offset)
{
    const sqf_segment *segment = &layout->segments[g];
    const size_t columns = block_columns(&matrix->spec);
    *offset += shape->header_bytes;
    for (size_t at = segment->begin; at < segment->end; at += columns, (*count)++) {
        const size_t end = segment->end - at < columns ? segment->end : at + columns;
        const size_t steps = sqf_ceil_div(end - at, SQF_SEGMENT_PAD);
        const size_t list = most_high(matrix, at, end) * SQF_PANEL_ROWS / 2;
        if (blocks) {
            blocks[*count] = (sqf_split_block){*offset, (uint32_t)g, (uint32_t)steps, (uint32_t)list};
        }
        if (!sqf_add_size(offset, *offset, steps * (SPLIT_NIBBLES + SPLIT_MASKS) + list)) {
            return false;
        }
    }
    return true;
}

/* The shape of all panels but for its blocks, whose number is returned, and the bytes of a panel. */
static bool make_shape(const sqf_matrix *matrix, const input_layout *layout, sqf_split_shape *shape,
                       sqf_split_block *blocks, size_t *panel_bytes)
{
    /* units of scales other than 1 go with fp8 scales alone */
    *shape = (sqf_split_shape){.tied = matrix->spec.scales == SQF_SCALES_TIED,
                               .half = matrix->spec.scale_type == SQF_TYPE_FP16,
                               .sums = layout->spec.zero != SQF_ACT_ZERO_NONE,
                               .blocks = blocks};
    const size_t sums = !shape->sums ? 0 : SQF_PANEL_ROWS * sizeof(int32_t) * (shape->tied ? 1 : 2);
    const size_t header = split_scale_bytes(shape) + (shape->tied ? SQF_PANEL_ROWS : split_scale_bytes(shape)) + sums;
    shape->header_bytes = (header + 63) & ~(size_t)63;
    *panel_bytes = 0;
    for (size_t g = 0; g < layout->segment_count; g++) {
        if (!add_blocks(matrix, layout, g, shape, blocks, &shape->block_count, panel_bytes)) {
            return false;
        }
    }
    return true;
}

static void rows_clear(panel_rows *rows)
{
    free(rows->value);
    free(rows->mask);
    free(rows->row_value);
    free(rows->row_mask);
    free(rows->upper);
}

static sqf_status rows_create(size_t padded, size_t columns, panel_rows *out, sqf_error *err)
{
    SQF_TRY(sqf_alloc_bytes((void **)&out->value, SQF_PANEL_ROWS, padded, "rows", err));
    SQF_TRY(sqf_alloc_bytes((void **)&out->mask, SQF_PANEL_ROWS, padded, "rows", err));
    SQF_TRY(SQF_ALLOC(&out->row_value, columns, "a row", err));
    SQF_TRY(SQF_ALLOC(&out->upper, SPLIT_LIST_MAX, "a list", err));
    return SQF_ALLOC(&out->row_mask, columns, "a row", err);
}

sqf_status split_plane_create(sqf_context *context, const sqf_linear_params *params, const input_layout *layout,
                              weight_plane *out, sqf_error *err)
{
    const size_t panels = sqf_ceil_div(params->rows, SQF_PANEL_ROWS);
    *out = (weight_plane){.form = SQF_FORM_SPLIT, .type = params->matrix->spec.high, .in_arena = params->arena != NULL};
    size_t bytes;
    if (!make_shape(params->matrix, layout, &out->split, NULL, &out->panel_bytes) ||
        !sqf_mul_size(&bytes, panels, out->panel_bytes) || !sqf_add_size(&bytes, bytes, SPLIT_PIECE)) {
        return sqf_fail(err, SQF_E_SHAPE, "%s: the size of the repacked weights overflows", params->name);
    }
    SQF_TRY(SQF_ALLOC(&out->split_blocks, out->split.block_count, "blocks of columns", err));
    make_shape(params->matrix, layout, &out->split, out->split_blocks, &out->panel_bytes);
    /* kernels load a list by whole pieces */
    SQF_TRY(sqf_arena_alloc(params->arena, (void **)&out->data, bytes, "repacked weights", err));
    split_repack job = {.params = params, .layout = layout, .plane = out};
    const unsigned threads = sqf_pool_threads(context->pool);
    SQF_TRY(SQF_ALLOC(&job.rows, threads, "rows", err));
    sqf_status status = SQF_OK;
    for (unsigned i = 0; status == SQF_OK && i < threads; i++) {
        status = rows_create(layout->padded, params->columns, &job.rows[i], err);
    }
    if (status == SQF_OK) {
        sqf_pool_run(context->pool, panels, repack_panel, &job);
    }
    for (unsigned i = 0; i < threads; i++) {
        rows_clear(&job.rows[i]);
    }
    free(job.rows);
    return status;
}

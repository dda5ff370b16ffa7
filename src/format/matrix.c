/* The stored layout of a quantized matrix: shapes, packing, unpacking. Spec: docs/format.md section 7.
 *
 * One description serves everybody: sqf_matrix_parts lists the arrays with their shapes, and writers, readers,
 * allocation and counting all go by that list. Packing and unpacking go row by row, so that rows can be spread over
 * threads and nobody ever holds a whole matrix in plain form.
 *
 * All integers and floats of more than one byte are little-endian, on every machine. Nothing here checks stored
 * bytes: that is matrix_check.c, and it must come before unpacking. */
#include "format/matrix.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "format/plane.h"

/* True if a bit a column says which elements are high. */
static bool has_mask(const sqf_weight_spec *spec)
{
    return spec->high != SQF_TYPE_NONE && spec->layout == SQF_LAYOUT_BITMASK;
}

/* True if the low plane has a code for every column, sentinels at the high ones. */
static bool has_sentinels(const sqf_weight_spec *spec)
{
    return spec->high != SQF_TYPE_NONE && spec->layout == SQF_LAYOUT_VMASK;
}

/* True if the high scale is not stored but follows from the low one and a shift. */
static bool is_tied(const sqf_weight_spec *spec)
{
    return spec->high != SQF_TYPE_NONE && spec->scales == SQF_SCALES_TIED;
}

/* Bytes of a row of n elements, packed or whole; false if their bits do not fit a size. The number of bits must fit
 * too: the padding check forms it again. */
static bool row_bytes(sqf_type type, size_t n, size_t *out)
{
    size_t bits;
    if (!sqf_mul_size(&bits, n, sqf_type_bits(type))) {
        return false;
    }
    *out = sqf_ceil_div(bits, 8);
    return true;
}

/* Counts and bytes of a row, which follow from specification and shape alone and are the same in every row
 * (docs/format.md section 2, tails). False if anything that the library will ever multiply out does not fit a size:
 * after this, sizes of this matrix are plain arithmetic. */
static bool derive_sizes(sqf_matrix *m)
{
    const sqf_weight_spec *spec = &m->spec;
    m->high_count = spec->high == SQF_TYPE_NONE ? 0 : sqf_partition_high(&m->banks, spec->bank, spec->high_per_bank);
    m->low_count = spec->low == SQF_TYPE_NONE ? 0 : has_mask(spec) ? m->columns - m->high_count : m->columns;
    m->mask_row_bytes = has_mask(spec) ? sqf_ceil_div(m->columns, 8) : 0;
    if (!row_bytes(spec->low, m->low_count, &m->low_row_bytes) ||
        !row_bytes(spec->high, m->high_count, &m->high_row_bytes)) {
        return false;
    }
    /* Every array must have a size, and so must a copy of the whole matrix as floats with room to spare. */
    sqf_matrix_part parts[SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(m, parts);
    size_t total = 0, bytes;
    for (size_t i = 0; i < count; i++) {
        if (!sqf_mul_size(&bytes, m->rows, parts[i].row_bytes) || !sqf_add_size(&total, total, bytes)) {
            return false;
        }
    }
    return sqf_mul_size(&bytes, m->columns, 4 * sizeof(float)) && sqf_mul_size(&bytes, m->rows, bytes);
}

sqf_status sqf_matrix_shape(const sqf_weight_spec *spec, size_t rows, size_t columns, size_t border, sqf_matrix *out,
                            sqf_error *err)
{
    const sqf_scheme scheme = {.weights = *spec, .activations = {.low = SQF_TYPE_FP32}};
    SQF_TRY(sqf_scheme_check(&scheme, err));
    if (sqf_weight_spec_is_dense(spec)) {
        return sqf_fail(err, SQF_E_ARG, "weights: low=%s is unquantized: expected a quantized type",
                        sqf_type_name(spec->low));
    }
    if (border > columns) {
        return sqf_fail(err, SQF_E_ARG, "border %zu: expected 0..%zu, the columns", border, columns);
    }
    sqf_matrix m = {.spec = *spec, .rows = rows, .columns = columns, .border = border, .scale_unit = {1.0f, 1.0f}};
    /* Uniform weights have no banks of their own; one bank a group keeps the partition valid for whoever walks it. */
    m.groups = sqf_partition_make(columns, border, spec->group);
    m.banks = spec->high == SQF_TYPE_NONE ? m.groups : sqf_partition_make(columns, border, spec->bank);
    m.group_count = sqf_partition_count(&m.groups);
    if (!derive_sizes(&m)) {
        return sqf_fail(err, SQF_E_SHAPE, "matrix [%zu, %zu]: its size in bytes does not fit this machine", rows,
                        columns);
    }
    *out = m;
    return SQF_OK;
}

/* Which arrays there are, by specification (docs/format.md section 7):
 *
 *                           sq_low  sq_high  sq_scale_low  sq_scale_high  sq_shift  sq_mask
 *     uniform               yes              yes
 *     vmask, free scales    yes     yes      yes           if scaled
 *     vmask, tied           yes     yes      yes                          yes
 *     bitmask               as vmask, and in addition                                 yes
 *     N:M (low = none)              yes                    if scaled                yes
 *
 * Never by k: with k = 0 the high plane is there, with rows of 0 bytes. */
size_t sqf_matrix_parts(sqf_matrix *matrix, sqf_matrix_part parts[SQF_MATRIX_PARTS])
{
    const sqf_weight_spec *spec = &matrix->spec;
    const size_t high_bytes = sqf_type_storage_bytes(spec->high);
    const size_t scale_bytes = matrix->group_count * sqf_type_storage_bytes(spec->scale_type);
    const char *scale_dtype = sqf_type_dtype(spec->scale_type);
    size_t n = 0;
    if (spec->low != SQF_TYPE_NONE) {
        parts[n++] = (sqf_matrix_part){"sq_low", "U8", matrix->low_row_bytes, matrix->low_row_bytes, &matrix->low};
    }
    if (spec->high != SQF_TYPE_NONE) {
        parts[n++] = (sqf_matrix_part){"sq_high", sqf_type_dtype(spec->high),
                                       high_bytes ? matrix->high_count : matrix->high_row_bytes, matrix->high_row_bytes,
                                       &matrix->high};
    }
    if (sqf_type_has_scale(spec->low)) {
        parts[n++] =
            (sqf_matrix_part){"sq_scale_low", scale_dtype, matrix->group_count, scale_bytes, &matrix->scale_low};
    }
    if (sqf_type_has_scale(spec->high) && !is_tied(spec)) {
        parts[n++] =
            (sqf_matrix_part){"sq_scale_high", scale_dtype, matrix->group_count, scale_bytes, &matrix->scale_high};
    }
    if (is_tied(spec)) {
        parts[n++] = (sqf_matrix_part){"sq_shift", "U8", matrix->group_count, matrix->group_count, &matrix->shift};
    }
    if (has_mask(spec)) {
        parts[n++] = (sqf_matrix_part){"sq_mask", "U8", matrix->mask_row_bytes, matrix->mask_row_bytes, &matrix->mask};
    }
    return n;
}

/* Arrays start at multiples of 64 bytes, so that kernels may load them aligned. */
static size_t aligned(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

sqf_status sqf_matrix_create(const sqf_weight_spec *spec, size_t rows, size_t columns, size_t border,
                             const int32_t *channels, sqf_matrix *out, sqf_error *err)
{
    sqf_matrix m;
    SQF_TRY(sqf_matrix_shape(spec, rows, columns, border, &m, err));
    sqf_matrix_part parts[SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(&m, parts);
    const size_t channel_bytes = channels ? columns * sizeof *channels : 0;
    /* One block for everything: one free, and no half-built matrix to undo. The sums cannot overflow: derive_sizes
     * added them up, and alignment adds at most 64 bytes to each of 7 terms. */
    size_t total = aligned(channel_bytes);
    for (size_t i = 0; i < count; i++) {
        total += aligned(rows * parts[i].row_bytes);
    }
    uint8_t *block;
    SQF_TRY(SQF_ALLOC(&block, total, "a quantized matrix", err));
    m.owned = block;
    for (size_t i = 0; i < count; i++) {
        *parts[i].data = block;
        block += aligned(rows * parts[i].row_bytes);
    }
    if (channels) {
        memcpy(block, channels, channel_bytes);
        m.channels = (const int32_t *)(const void *)block;
    }
    *out = m;
    return SQF_OK;
}

void sqf_matrix_clear(sqf_matrix *matrix)
{
    free(matrix->owned);
    *matrix = (sqf_matrix){0};
}

/* Five arrays in place of one block: a row is made once a thread, and sanitizers then watch the end of each. */
sqf_status sqf_row_create(const sqf_matrix *matrix, sqf_row *out, sqf_error *err)
{
    sqf_row row = {0};
    sqf_status status;
    SQF_TRY_GOTO(status, SQF_ALLOC(&row.mask, matrix->columns, "a row's mask", err), fail);
    SQF_TRY_GOTO(status, SQF_ALLOC(&row.value, matrix->columns, "a row's values", err), fail);
    SQF_TRY_GOTO(status, SQF_ALLOC(&row.scale_low, matrix->group_count, "a row's scales", err), fail);
    SQF_TRY_GOTO(status, SQF_ALLOC(&row.scale_high, matrix->group_count, "a row's scales", err), fail);
    SQF_TRY_GOTO(status, SQF_ALLOC(&row.shift, matrix->group_count, "a row's shifts", err), fail);
    *out = row;
    return SQF_OK;
fail:
    sqf_row_clear(&row);
    return status;
}

void sqf_row_clear(sqf_row *row)
{
    free(row->mask);
    free(row->value);
    free(row->scale_low);
    free(row->scale_high);
    free(row->shift);
    *row = (sqf_row){0};
}

/* Every bank has its exact count; a caller that breaks this would write a file that no reader accepts. */
static bool counts_are_right(const sqf_matrix *matrix, const uint8_t *mask)
{
    const size_t count = sqf_partition_count(&matrix->banks);
    for (size_t bank = 0; bank < count; bank++) {
        size_t begin, end, high = 0;
        sqf_partition_range(&matrix->banks, bank, &begin, &end);
        for (size_t j = begin; j < end; j++) {
            high += mask[j] != 0;
        }
        if (high != sqf_bank_high(matrix->spec.bank, matrix->spec.high_per_bank, end - begin)) {
            return false;
        }
    }
    return true;
}

/* The order of the columns is the order of both planes, so one pass with two cursors writes low and high codes; a
 * high element also leaves its sentinel or its mask bit. Values must be on their grids: encoding does not round. */
static void pack_elements(sqf_matrix *matrix, size_t n, const sqf_row *row)
{
    const sqf_weight_spec *spec = &matrix->spec;
    const bool split = spec->high != SQF_TYPE_NONE, sentinels = has_sentinels(spec);
    const uint32_t sentinel = sqf_type_sentinel(spec->low);
    const unsigned low_bits = sqf_type_bits(spec->low);
    uint8_t *mask = has_mask(spec) ? matrix->mask + n * matrix->mask_row_bytes : NULL;
    plane_writer low = {.bytes = matrix->low ? matrix->low + n * matrix->low_row_bytes : NULL};
    plane_writer high = {.bytes = split ? matrix->high + n * matrix->high_row_bytes : NULL};
    if (mask) {
        memset(mask, 0, matrix->mask_row_bytes);
    }
    for (size_t j = 0; j < matrix->columns; j++) {
        if (split && row->mask[j]) {
            plane_write(&high, plane_code(spec->high, row->value[j]), sqf_type_bits(spec->high));
            if (mask) {
                mask[j / 8] = (uint8_t)(mask[j / 8] | 1u << j % 8);
            }
            if (sentinels) {
                plane_write(&low, sentinel, low_bits);
            }
        } else if (low.bytes) {
            plane_write(&low, sqf_type_encode(spec->low, row->value[j]), low_bits);
        }
    }
    plane_finish(&low);
    plane_finish(&high);
}

/* Scales are stored as given: the algorithms have rounded them to their type before they chose codes by them. */
void sqf_matrix_pack_scales(sqf_matrix *matrix, size_t n, const float *low, const float *high, const uint8_t *shift)
{
    const sqf_type scale_type = matrix->spec.scale_type;
    for (size_t g = 0; g < matrix->group_count; g++) {
        const size_t at = n * matrix->group_count + g;
        if (matrix->scale_low) {
            plane_put_scale(matrix->scale_low, at, scale_type, low[g] / matrix->scale_unit[0]);
        }
        if (matrix->scale_high) {
            plane_put_scale(matrix->scale_high, at, scale_type, high[g] / matrix->scale_unit[1]);
        }
        if (matrix->shift) {
            matrix->shift[at] = shift[g];
        }
    }
}

void sqf_matrix_pack_row(sqf_matrix *matrix, size_t n, const sqf_row *row)
{
    assert(n < matrix->rows && (matrix->spec.high == SQF_TYPE_NONE || counts_are_right(matrix, row->mask)));
    /* only assertions call it */
    (void)counts_are_right;
    pack_elements(matrix, n, row);
    sqf_matrix_pack_scales(matrix, n, row->scale_low, row->scale_high, row->shift);
}

/* The inverse. In the vmask layout the low code itself says that an element is high; in the bitmask layout the mask
 * must be asked first, because a high element has no low code at all. */
static void unpack_elements(const sqf_matrix *matrix, size_t n, sqf_row *row)
{
    const sqf_weight_spec *spec = &matrix->spec;
    const bool sentinels = has_sentinels(spec);
    const uint32_t sentinel = sqf_type_sentinel(spec->low);
    const unsigned low_bits = sqf_type_bits(spec->low), high_bits = sqf_type_bits(spec->high);
    const uint8_t *mask = has_mask(spec) ? matrix->mask + n * matrix->mask_row_bytes : NULL;
    plane_reader low = {.bytes = matrix->low ? matrix->low + n * matrix->low_row_bytes : NULL};
    plane_reader high = {.bytes = matrix->high ? matrix->high + n * matrix->high_row_bytes : NULL};
    for (size_t j = 0; j < matrix->columns; j++) {
        bool is_high = mask && (mask[j / 8] >> j % 8 & 1);
        const uint32_t code = low.bytes && !is_high ? plane_read(&low, low_bits) : 0;
        is_high = is_high || (sentinels && code == sentinel);
        row->mask[j] = is_high;
        row->value[j] =
            is_high ? plane_value(spec->high, plane_read(&high, high_bits)) : sqf_type_decode(spec->low, code);
    }
}

/* n stored scales times their unit. fp16, which nearly every file has, without a call for each: its bits, moved to the
 * places of a float's, are the number times 2^-112; the product is exact, and subnormals need nothing of their own. No
 * NaN or infinity: the row was checked. */
static void get_scales(const uint8_t *from, size_t n, sqf_type type, float unit, float *out)
{
    if (type != SQF_TYPE_FP16) {
        for (size_t g = 0; g < n; g++) {
            out[g] = unit * plane_get_scale(from, g, type);
        }
        return;
    }
    for (size_t g = 0; g < n; g++) {
        const uint32_t bits = (uint32_t)from[2 * g] << 13 | (uint32_t)from[2 * g + 1] << 21;
        float x;
        memcpy(&x, &bits, sizeof x);
        out[g] = unit * (x * 0x1p112f);
    }
}

/* Parts without a stored scale have the factor 1 (fp16, bf16) or 0 (none), so that value * scale is the weight for
 * all. */
void sqf_matrix_unpack_scales(const sqf_matrix *matrix, size_t n, float *low, float *high, uint8_t *shift)
{
    const sqf_type type = matrix->spec.scale_type;
    const size_t groups = matrix->group_count, at = n * groups * sqf_type_storage_bytes(type);
    if (matrix->scale_low) {
        get_scales(matrix->scale_low + at, groups, type, matrix->scale_unit[0], low);
    }
    if (matrix->scale_high) {
        get_scales(matrix->scale_high + at, groups, type, matrix->scale_unit[1], high);
    }
    for (size_t g = 0; g < groups; g++) {
        low[g] = matrix->scale_low ? low[g] : 0.0f;
        shift[g] = matrix->shift ? matrix->shift[n * groups + g] : 0;
        /* 2^-n only moves the exponent, so the product is exact (but for fp32 scales near the smallest subnormal); n
         * <= 6. */
        high[g] = matrix->shift ? ldexpf(low[g], -shift[g]) : matrix->scale_high ? high[g] : matrix->high ? 1.0f : 0.0f;
    }
}

void sqf_matrix_unpack_row(const sqf_matrix *matrix, size_t n, sqf_row *row)
{
    unpack_elements(matrix, n, row);
    sqf_matrix_unpack_scales(matrix, n, row->scale_low, row->scale_high, row->shift);
}

void sqf_matrix_dequantize_row(const sqf_matrix *matrix, size_t n, sqf_row *row, float *out)
{
    sqf_matrix_unpack_row(matrix, n, row);
    for (size_t g = 0; g < matrix->group_count; g++) {
        size_t begin, end;
        sqf_partition_range(&matrix->groups, g, &begin, &end);
        for (size_t j = begin; j < end; j++) {
            const float scale = row->mask[j] ? row->scale_high[g] : row->scale_low[g];
            out[matrix->channels ? (size_t)matrix->channels[j] : j] = row->value[j] * scale;
        }
    }
}

size_t sqf_matrix_stored_bytes(const sqf_matrix *matrix)
{
    sqf_matrix copy = *matrix;
    sqf_matrix_part parts[SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(&copy, parts);
    size_t bytes = matrix->channels ? matrix->columns * sizeof *matrix->channels : 0;
    for (size_t i = 0; i < count; i++) {
        bytes += matrix->rows * parts[i].row_bytes;
    }
    return bytes;
}

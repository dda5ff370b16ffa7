/* What a reader must reject in a stored matrix and in a channel list: the numbered list of docs/format.md section 7.
 * The bytes may come from anybody, so nothing is assumed about them but the sizes, which the shape has fixed.
 *
 * Order matters: counts are checked before anything is read that depends on them. A wrong count shifts every later
 * high element, so a message about the first consequence would name the wrong place; and unpacking walks the high
 * plane by these counts, without looking at its end. */
#include "format/matrix.h"

#include <math.h>

#include "base/memory.h"
#include "format/plane.h"

/* The row at hand and what a message about it needs. */
typedef struct row_check {
    const sqf_matrix *matrix;
    size_t n;
    const char *name;
    sqf_error *err;
} row_check;

/* Bits of the last byte of a row of `bits` used bits must be 0 beyond them: reserved, not unused (section 1). */
static bool padding_is_zero(const uint8_t *row, size_t bits)
{
    return bits % 8 == 0 || row[bits / 8] >> bits % 8 == 0;
}

static sqf_status fail_padding(const row_check *check, const char *suffix)
{
    return sqf_fail(check->err, SQF_E_VALUE, "%s.%s: row %zu: padding bits are not 0", check->name, suffix, check->n);
}

/* A bank's number of high elements against k, or k' in a tail. `columns` is the bank's own length. */
static sqf_status check_count(const row_check *check, const char *suffix, size_t bank, size_t high, size_t columns)
{
    const size_t expected = sqf_bank_high(check->matrix->spec.bank, check->matrix->spec.high_per_bank, columns);
    if (high == expected) {
        return SQF_OK;
    }
    return sqf_fail(check->err, SQF_E_VALUE, "%s.%s: row %zu bank %zu: %zu high elements, expected %zu", check->name,
                    suffix, check->n, bank, high, expected);
}

/* The bitmask layout's counts. They also fix where each low and each high code belongs. */
static sqf_status check_mask(const row_check *check)
{
    const sqf_matrix *m = check->matrix;
    const uint8_t *mask = m->mask + check->n * m->mask_row_bytes;
    const size_t banks = sqf_partition_count(&m->banks);
    for (size_t bank = 0; bank < banks; bank++) {
        size_t begin, end, high = 0;
        sqf_partition_range(&m->banks, bank, &begin, &end);
        for (size_t j = begin; j < end; j++) {
            high += (uint32_t)mask[j / 8] >> j % 8 & 1u;
        }
        SQF_TRY(check_count(check, "sq_mask", bank, high, end - begin));
    }
    return padding_is_zero(mask, m->columns) ? SQF_OK : fail_padding(check, "sq_mask");
}

/* `element` counts codes of the plane, not columns: that is what can be found in the file. */
static sqf_status fail_code(const row_check *check, const char *suffix, size_t element, uint32_t code, sqf_type type)
{
    return sqf_fail(check->err, SQF_E_VALUE, "%s.%s: row %zu element %zu: code 0x%X is not a value of %s", check->name,
                    suffix, check->n, element, code, sqf_type_name(type));
}

/* The low plane, with sentinels (counted by bank) or without. */
static sqf_status check_low(const row_check *check)
{
    const sqf_matrix *m = check->matrix;
    const sqf_type type = m->spec.low;
    const unsigned bits = sqf_type_bits(type);
    const bool sentinels = m->spec.high != SQF_TYPE_NONE && m->spec.layout == SQF_LAYOUT_VMASK;
    const uint8_t *low = m->low + check->n * m->low_row_bytes;
    const size_t banks = sentinels ? sqf_partition_count(&m->banks) : 1;
    plane_reader reader = {.bytes = low};
    for (size_t bank = 0; bank < banks; bank++) {
        size_t begin = 0, end = m->low_count, high = 0;
        if (sentinels) {
            sqf_partition_range(&m->banks, bank, &begin, &end);
        }
        for (size_t j = begin; j < end; j++) {
            const uint32_t code = plane_read(&reader, bits);
            const bool is_sentinel = sentinels && code == sqf_type_sentinel(type);
            high += is_sentinel;
            if (!is_sentinel && !sqf_type_code_valid(type, code)) {
                return fail_code(check, "sq_low", j, code, type);
            }
        }
        if (sentinels) {
            SQF_TRY(check_count(check, "sq_low", bank, high, end - begin));
        }
    }
    return padding_is_zero(low, m->low_count * bits) ? SQF_OK : fail_padding(check, "sq_low");
}

/* Every code of the high plane. How many there are follows from the shape; where they belong was checked above. */
static sqf_status check_high(const row_check *check)
{
    const sqf_matrix *m = check->matrix;
    const sqf_type type = m->spec.high;
    const unsigned bits = sqf_type_bits(type);
    const uint8_t *high = m->high + check->n * m->high_row_bytes;
    plane_reader reader = {.bytes = high};
    for (size_t i = 0; i < m->high_count; i++) {
        const uint32_t code = plane_read(&reader, bits);
        if (!plane_code_valid(type, code)) {
            return fail_code(check, "sq_high", i, code, type);
        }
    }
    return padding_is_zero(high, m->high_count * bits) ? SQF_OK : fail_padding(check, "sq_high");
}

/* Both scales; a 0 is fine and stands for a part without elements, or with zeros alone. */
static sqf_status check_scales(const row_check *check, const char *suffix, const uint8_t *scales, float unit)
{
    const sqf_matrix *m = check->matrix;
    for (size_t g = 0; g < m->group_count; g++) {
        const float scale = unit * plane_get_scale(scales, check->n * m->group_count + g, m->spec.scale_type);
        /* signbit also catches -0: a writer has no reason for it, and a product with it would turn zeros negative. */
        if (!isfinite(scale) || signbit(scale)) {
            return sqf_fail(check->err, SQF_E_VALUE,
                            "%s.%s: row %zu group %zu: scale %g, expected a finite one of 0 or more", check->name,
                            suffix, check->n, g, (double)scale);
        }
    }
    return SQF_OK;
}

/* Above nmax, q_low * 2^n would leave the high type and the product its int32 bound (docs/format.md section 3). */
static sqf_status check_shifts(const row_check *check)
{
    const sqf_matrix *m = check->matrix;
    const int limit = sqf_shift_max(&m->spec);
    for (size_t g = 0; g < m->group_count; g++) {
        const int shift = m->shift[check->n * m->group_count + g];
        if (shift > limit) {
            return sqf_fail(check->err, SQF_E_VALUE, "%s.sq_shift: row %zu group %zu: shift %d, expected 0..%d",
                            check->name, check->n, g, shift, limit);
        }
    }
    return SQF_OK;
}

/* Masks, then codes, then scales: see the top of the file. */
sqf_status sqf_matrix_check_row(const sqf_matrix *matrix, size_t n, const char *name, sqf_error *err)
{
    const row_check check = {matrix, n, name, err};
    if (matrix->mask) {
        SQF_TRY(check_mask(&check));
    }
    if (matrix->low) {
        SQF_TRY(check_low(&check));
    }
    if (matrix->high) {
        SQF_TRY(check_high(&check));
    }
    if (matrix->scale_low) {
        SQF_TRY(check_scales(&check, "sq_scale_low", matrix->scale_low, matrix->scale_unit[0]));
    }
    if (matrix->scale_high) {
        SQF_TRY(check_scales(&check, "sq_scale_high", matrix->scale_high, matrix->scale_unit[1]));
    }
    return matrix->shift ? check_shifts(&check) : SQF_OK;
}

/* Range, repetition and order inside the two sections. `seen` [columns] is zero before; after success it says where a
 * channel stands: 1 low, 2 high. n channels in range without repetition are all channels, so nothing else is needed
 * for a permutation. */
static sqf_status check_permutation(const int32_t *channels, size_t columns, size_t border, uint8_t *seen,
                                    const char *name, sqf_error *err)
{
    for (size_t j = 0; j < columns; j++) {
        const int32_t channel = channels[j];
        if (channel < 0 || (size_t)channel >= columns) {
            return sqf_fail(err, SQF_E_VALUE, "%s: column %zu: channel %d, expected 0..%zu", name, j, (int)channel,
                            columns - 1);
        }
        if (seen[channel]) {
            return sqf_fail(err, SQF_E_VALUE, "%s: column %zu: channel %d appears twice", name, j, (int)channel);
        }
        if (j > 0 && j != border && channel < channels[j - 1]) {
            return sqf_fail(err, SQF_E_VALUE, "%s: column %zu: channel %d after %d, expected ascending order", name, j,
                            (int)channel, (int)channels[j - 1]);
        }
        seen[channel] = j < border ? 1 : 2;
    }
    return SQF_OK;
}

/* Banks of consecutive input channels have exactly k channels in the high section. */
static sqf_status check_quota(const uint8_t *section, size_t columns, const sqf_act_spec *spec, const char *name,
                              sqf_error *err)
{
    const sqf_partition banks = sqf_partition_make(columns, columns, spec->bank);
    const size_t count = sqf_partition_count(&banks);
    for (size_t bank = 0; bank < count; bank++) {
        size_t begin, end, high = 0;
        sqf_partition_range(&banks, bank, &begin, &end);
        for (size_t i = begin; i < end; i++) {
            high += section[i] == 2;
        }
        const size_t expected = sqf_bank_high(spec->bank, spec->high_per_bank, end - begin);
        if (high != expected) {
            return sqf_fail(err, SQF_E_VALUE, "%s: bank %zu: %zu high channels, expected %zu", name, bank, high,
                            expected);
        }
    }
    return SQF_OK;
}

/* The border first: everything after it depends on where the sections meet. */
sqf_status sqf_channels_check(const int32_t *channels, size_t columns, size_t border, const sqf_act_spec *activations,
                              const char *name, sqf_error *err)
{
    if (border != sqf_act_low_channels(activations, columns)) {
        return sqf_fail(err, SQF_E_SHAPE, "%s: %zu low channels, expected %zu", name, border,
                        sqf_act_low_channels(activations, columns));
    }
    uint8_t *section;
    SQF_TRY(SQF_ALLOC(&section, columns, "the sections of a channel list", err));
    sqf_status status = check_permutation(channels, columns, border, section, name, err);
    if (status == SQF_OK && border < columns) {
        status = check_quota(section, columns, activations, name, err);
    }
    free(section);
    return status;
}

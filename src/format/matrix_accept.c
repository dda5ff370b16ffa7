/* Whether rows of a stored matrix are fine, at the speed of memory: the checks of matrix_check.c without their
 * messages, many codes at a time. What is not fine, and what is of a rare type, goes through matrix_check.c, which says
 * what and where; so these functions may answer "not sure" and must never answer "fine" where matrix_check.c would not.
 */
#include <string.h>

#include "base/memory.h"
#include "format/matrix.h"
#include "format/plane.h"
#include "format/unpack.h"

/* Codes that are unpacked at a time, on the stack: a multiple of 8, so that each piece begins a byte. */
enum { PIECE = 4096 };

/* Types of which exactly one code is invalid, the sentinel (int8 in the high plane: -128). The others are rare. */
static bool has_one_invalid(sqf_type type)
{
    return type == SQF_TYPE_INT8 || (sqf_type_bits(type) < 8 && sqf_type_has_scale(type));
}

static bool padding_is_zero(const uint8_t *row, size_t bits)
{
    return bits % 8 == 0 || row[bits / 8] >> bits % 8 == 0;
}

/* True if one of the n nibbles (n even) is 15: all four bits of it are set. */
static bool has_full_nibble(const uint8_t *row, size_t n)
{
    const uint64_t lowest = 0x1111111111111111u;
    uint64_t found = 0;
    size_t i = 0;
    for (; i + 8 <= n / 2; i += 8) {
        uint64_t v;
        memcpy(&v, row + i, sizeof v);
        v &= v >> 1;
        found |= v & v >> 2 & lowest;
    }
    for (; i < n / 2; i++) {
        found |= (row[i] & 15u) == 15u || row[i] >> 4 == 15u;
    }
    return found != 0;
}

/* True if one of the n packed codes is `code`. */
static bool has_code(const uint8_t *row, size_t n, unsigned bits, uint8_t code)
{
    if (bits == 8) {
        return memchr(row, code, n) != NULL;
    }
    if (bits == 4 && code == 15 && n % 2 == 0) {
        return has_full_nibble(row, n);
    }
    uint8_t codes[PIECE];
    for (size_t begin = 0; begin < n; begin += PIECE) {
        const size_t count = n - begin < PIECE ? n - begin : PIECE;
        sqf_codes_unpack(row + begin / 8 * bits, count, bits, codes);
        if (memchr(codes, code, count)) {
            return true;
        }
    }
    return false;
}

/* How many of the nibbles begin..end of a row are 15; begin is even. Sixteen at a time: each full one leaves a 1 in its
 * place, and places are added up in wider and wider fields. An odd end counts the nibble behind it, which is padding.
 */
static size_t count_full_nibbles(const uint8_t *row, size_t begin, size_t end)
{
    const uint64_t lowest = 0x1111111111111111u, bytes = 0x0f0f0f0f0f0f0f0fu;
    size_t count = 0, i = begin / 2;
    const size_t stop = (end + 1) / 2;
    while (i + 8 <= stop) {
        uint64_t sum = 0; /* a place counts to 8 at most before the places are added up */
        for (int words = 0; words < 8 && i + 8 <= stop; words++, i += 8) {
            uint64_t v;
            memcpy(&v, row + i, sizeof v);
            v &= v >> 1;
            sum += v & v >> 2 & lowest;
        }
        count += ((sum & bytes) + (sum >> 4 & bytes)) * 0x0101010101010101u >> 56;
    }
    for (; i < stop; i++) {
        count += (size_t)((row[i] & 15u) == 15u) + (size_t)(row[i] >> 4 == 15u);
    }
    return count;
}

/* Walks the banks of a row: adds up high elements over stretches of columns, and compares where a bank ends. */
typedef struct bank_walk {
    const sqf_matrix *matrix;
    size_t begin, end; /* columns of the bank at hand; begin == columns behind the last */
    size_t expected, high;
    size_t whole_expected; /* of a bank of full length */
} bank_walk;

/* The bank that begins at column `begin`: banks restart at the border (format/partition.h). */
static void next_bank(bank_walk *walk, size_t begin)
{
    const sqf_weight_spec *spec = &walk->matrix->spec;
    const sqf_partition *banks = &walk->matrix->banks;
    const size_t section = begin < banks->border ? banks->border : banks->columns;
    const size_t length = banks->size > 0 && section - begin > banks->size ? banks->size : section - begin;
    walk->begin = begin;
    walk->end = begin + length;
    walk->high = 0;
    walk->expected =
        length == spec->bank ? walk->whole_expected : sqf_bank_high(spec->bank, spec->high_per_bank, length);
}

static bank_walk first_bank(const sqf_matrix *matrix)
{
    const sqf_weight_spec *spec = &matrix->spec;
    bank_walk walk = {.matrix = matrix};
    walk.whole_expected = sqf_bank_high(spec->bank, spec->high_per_bank, spec->bank);
    next_bank(&walk, 0);
    return walk;
}

/* `codes` are those of columns begin..end; false at the first bank with a wrong count. */
static bool walk_codes(bank_walk *walk, const uint8_t *codes, size_t begin, size_t end, uint8_t sentinel)
{
    for (size_t at = begin; at < end;) {
        const size_t stop = walk->end < end ? walk->end : end;
        walk->high += sqf_codes_count(codes + at - begin, stop - at, sentinel);
        at = stop;
        if (at == walk->end) {
            if (walk->high != walk->expected) {
                return false;
            }
            next_bank(walk, at);
        }
    }
    return true;
}

/* int4, and banks that begin bytes: nearly every file with sentinels. */
static bool full_nibbles_are_fine(const sqf_matrix *m, const uint8_t *row)
{
    for (bank_walk walk = first_bank(m); walk.begin < m->columns; next_bank(&walk, walk.end)) {
        if (count_full_nibbles(row, walk.begin, walk.end) != walk.expected) {
            return false;
        }
    }
    return true;
}

static bool sentinels_are_fine(const sqf_matrix *m, const uint8_t *row)
{
    if (m->spec.low == SQF_TYPE_INT4 && m->spec.bank % 2 == 0 && m->border % 2 == 0) {
        return full_nibbles_are_fine(m, row);
    }
    const unsigned bits = sqf_type_bits(m->spec.low);
    const uint8_t sentinel = (uint8_t)sqf_type_sentinel(m->spec.low);
    uint8_t codes[PIECE];
    bank_walk walk = first_bank(m);
    for (size_t begin = 0; begin < m->columns; begin += PIECE) {
        const size_t count = m->columns - begin < PIECE ? m->columns - begin : PIECE;
        sqf_codes_unpack(row + begin / 8 * bits, count, bits, codes);
        if (!walk_codes(&walk, codes, begin, begin + count, sentinel)) {
            return false;
        }
    }
    return true;
}

/* The same for the bits of a mask, which are unpacked as codes of one bit. */
static bool mask_is_fine(const sqf_matrix *m, const uint8_t *row)
{
    uint8_t codes[PIECE];
    bank_walk walk = first_bank(m);
    for (size_t begin = 0; begin < m->columns; begin += PIECE) {
        const size_t count = m->columns - begin < PIECE ? m->columns - begin : PIECE;
        sqf_codes_unpack(row + begin / 8, count, 1, codes);
        if (!walk_codes(&walk, codes, begin, begin + count, 1)) {
            return false;
        }
    }
    return padding_is_zero(row, m->columns);
}

static bool low_is_fine(const sqf_matrix *m, const uint8_t *row)
{
    const sqf_type type = m->spec.low;
    const unsigned bits = sqf_type_bits(type);
    const bool sentinels = m->spec.high != SQF_TYPE_NONE && m->spec.layout == SQF_LAYOUT_VMASK;
    return has_one_invalid(type) && padding_is_zero(row, m->low_count * bits) &&
           (sentinels ? sentinels_are_fine(m, row)
                      : !has_code(row, m->low_count, bits, (uint8_t)sqf_type_sentinel(type)));
}

static bool high_is_fine(const sqf_matrix *m, const uint8_t *row)
{
    const sqf_type type = m->spec.high;
    const unsigned bits = sqf_type_bits(type);
    const uint8_t invalid = type == SQF_TYPE_INT8 ? 0x80 : (uint8_t)sqf_type_sentinel(type);
    return has_one_invalid(type) && padding_is_zero(row, m->high_count * bits) &&
           !has_code(row, m->high_count, bits, invalid);
}

/* n scales whose bits, as unsigned numbers, are all below that of infinity are finite and not negative. */
static bool halves_are_below(const uint8_t *from, size_t n, uint16_t limit)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, from + 2 * i, sizeof bits);
        bad |= bits >= limit;
    }
    return !bad;
}

static bool scales_are_fine(const uint8_t *from, size_t n, sqf_type type)
{
    unsigned bad = 0;
    switch (type) {
    case SQF_TYPE_FP16: return halves_are_below(from, n, 0x7c00);
    case SQF_TYPE_BF16: return halves_are_below(from, n, 0x7f80);
    case SQF_TYPE_FP32:
        for (size_t i = 0; i < n; i++) {
            uint32_t bits;
            memcpy(&bits, from + 4 * i, sizeof bits);
            bad |= bits >= 0x7f800000u;
        }
        return !bad;
    case SQF_TYPE_E8M0: return !memchr(from, 0xff, n);
    default: return false; /* with a unit that they are multiplied with */
    }
}

static bool shifts_are_fine(const uint8_t *from, size_t n, int limit)
{
    uint8_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        largest = from[i] > largest ? from[i] : largest;
    }
    return largest <= limit;
}

static bool rows_are_fine(const sqf_matrix *m, size_t begin, size_t end)
{
    const size_t first = begin * m->group_count, count = (end - begin) * m->group_count;
    const size_t width = sqf_type_storage_bytes(m->spec.scale_type);
    if ((m->scale_low && !scales_are_fine(m->scale_low + first * width, count, m->spec.scale_type)) ||
        (m->scale_high && !scales_are_fine(m->scale_high + first * width, count, m->spec.scale_type)) ||
        (m->shift && !shifts_are_fine(m->shift + first, count, sqf_shift_max(&m->spec)))) {
        return false;
    }
    for (size_t n = begin; n < end; n++) {
        if ((m->mask && !mask_is_fine(m, m->mask + n * m->mask_row_bytes)) ||
            (m->low && !low_is_fine(m, m->low + n * m->low_row_bytes)) ||
            (m->high && !high_is_fine(m, m->high + n * m->high_row_bytes))) {
            return false;
        }
    }
    return true;
}

sqf_status sqf_matrix_check_rows(const sqf_matrix *matrix, size_t begin, size_t end, const char *name, sqf_error *err)
{
    if (rows_are_fine(matrix, begin, end)) {
        return SQF_OK;
    }
    for (size_t n = begin; n < end; n++) {
        SQF_TRY(sqf_matrix_check_row(matrix, n, name, err));
    }
    return SQF_OK;
}

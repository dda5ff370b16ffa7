/* UTF-8, character properties and normalization forms. */
#include "tokenizer/unicode.h"

#include <string.h>
#include <utf8proc.h>

enum { REPLACEMENT = 0xfffd, MAX_DECOMPOSITION = 32, LATIN_LIMIT = 0x300 };

/* The second byte of a sequence is restricted for some first bytes: no overlong forms, surrogates, or > U+10FFFF. */
static void second_byte_range(uint8_t first, uint8_t *low, uint8_t *high)
{
    *low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    *high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
}

sqf_utf8_state sqf_utf8_next(const char *bytes, size_t n, uint32_t *code_point, size_t *length)
{
    const uint8_t *b = (const uint8_t *)bytes;
    *length = 1;
    if (b[0] < 0x80) {
        *code_point = b[0];
        return SQF_UTF8_VALID;
    }
    if (b[0] < 0xc2 || b[0] > 0xf4) {
        return SQF_UTF8_INVALID;
    }
    const size_t size = b[0] < 0xe0 ? 2 : b[0] < 0xf0 ? 3 : 4;
    uint32_t value = b[0] & (0x7fu >> size);
    uint8_t low, high;
    second_byte_range(b[0], &low, &high);
    for (size_t i = 1; i < size; i++) {
        if (i == n) {
            *length = i;
            return SQF_UTF8_INCOMPLETE;
        }
        if (b[i] < low || b[i] > high) {
            *length = i;
            return SQF_UTF8_INVALID;
        }
        value = value << 6 | (b[i] & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    *code_point = value;
    *length = size;
    return SQF_UTF8_VALID;
}

size_t sqf_utf8_length(const char *text)
{
    const uint8_t first = (uint8_t)*text;
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

sqf_status sqf_utf8_append(sqf_buffer *out, uint32_t code_point, sqf_error *err)
{
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)code_point, bytes);
    return sqf_buffer_append(out, bytes, (size_t)n, err);
}

sqf_status sqf_utf8_append_lossy(sqf_buffer *out, const char *bytes, size_t n, sqf_error *err)
{
    size_t copied = 0, at = 0;
    if (n == 0) {
        return SQF_OK;
    }
    while (at < n) {
        uint32_t code_point;
        size_t length;
        if (sqf_utf8_next(bytes + at, n - at, &code_point, &length) != SQF_UTF8_VALID) {
            SQF_TRY(sqf_buffer_append(out, bytes + copied, at - copied, err));
            SQF_TRY(sqf_utf8_append(out, REPLACEMENT, err));
            copied = at + length;
        }
        at += length;
    }
    return sqf_buffer_append(out, bytes + copied, n - copied, err);
}

bool sqf_utf8_is_valid(const char *bytes, size_t n)
{
    for (size_t at = 0; at < n;) {
        uint32_t code_point;
        size_t length;
        if (sqf_utf8_next(bytes + at, n - at, &code_point, &length) != SQF_UTF8_VALID) {
            return false;
        }
        at += length;
    }
    return true;
}

bool sqf_is_whitespace(uint32_t c)
{
    if (c < 0x80) {
        return c == ' ' || (c >= '\t' && c <= '\r');
    }
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

bool sqf_is_numeric(uint32_t c)
{
    if (c < 0x80) {
        return c >= '0' && c <= '9';
    }
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

/* Punctuation of Unicode 9 and later: the table of the library that writes tokenizer files is older. */
static bool is_younger_punctuation(uint32_t c)
{
    static const uint32_t RANGES[][2] = {
        {0x61d, 0x61d},     {0x9fd, 0x9fd},     {0xa76, 0xa76},     {0xc77, 0xc77},     {0xc84, 0xc84},
        {0x1b7d, 0x1b7e},   {0x2e43, 0x2e4f},   {0x2e52, 0x2e5d},   {0x10ead, 0x10ead}, {0x10f55, 0x10f59},
        {0x10f86, 0x10f89}, {0x1144b, 0x1144f}, {0x1145a, 0x1145b}, {0x1145d, 0x1145d}, {0x11660, 0x1166c},
        {0x116b9, 0x116b9}, {0x1183b, 0x1183b}, {0x11944, 0x11946}, {0x119e2, 0x119e2}, {0x11a3f, 0x11a46},
        {0x11a9a, 0x11a9c}, {0x11a9e, 0x11aa2}, {0x11b00, 0x11b09}, {0x11c41, 0x11c45}, {0x11c70, 0x11c71},
        {0x11ef7, 0x11ef8}, {0x11f43, 0x11f4f}, {0x11fff, 0x11fff}, {0x12ff1, 0x12ff2}, {0x16e97, 0x16e9a},
        {0x16fe2, 0x16fe2}, {0x1e95e, 0x1e95f},
    };
    for (size_t i = 0; i < sizeof RANGES / sizeof *RANGES; i++) {
        if (c >= RANGES[i][0] && c <= RANGES[i][1]) {
            return true;
        }
    }
    return false;
}

bool sqf_is_punctuation(uint32_t c)
{
    if (c < 0x80) {
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    }
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO && !is_younger_punctuation(c);
}

/* Alphabetic characters that are neither letters, marks nor numbers: the circled and squared Latin letters. */
static bool is_enclosed_letter(uint32_t c)
{
    return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
           (c >= 0x1f170 && c <= 0x1f189);
}

bool sqf_is_word(uint32_t c)
{
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC ||
           c == 0x200c || c == 0x200d || is_enclosed_letter(c);
}

sqf_status sqf_append_lowercase(sqf_buffer *out, uint32_t c, sqf_error *err)
{
    if (c == 0x130) { /* the one character whose full lower case is two: i and a dot above */
        return sqf_buffer_append(out, "i\xcc\x87", 3, err);
    }
    return sqf_utf8_append(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c), err);
}

/* Code points and their canonical combining classes. */
typedef struct points {
    utf8proc_int32_t *data;
    size_t count, capacity;
} points;

static sqf_status points_reserve(points *list, size_t more, sqf_error *err)
{
    if (list->capacity - list->count >= more) {
        return SQF_OK;
    }
    size_t capacity, bytes;
    if (!sqf_mul_size(&capacity, list->capacity, 2) || !sqf_add_size(&capacity, capacity, more) ||
        !sqf_mul_size(&bytes, capacity, sizeof *list->data)) {
        return sqf_fail(err, SQF_E_MEMORY, "normalization: a text of %zu characters is too long", list->count);
    }
    utf8proc_int32_t *data = realloc(list->data, bytes);
    if (!data) {
        return sqf_fail(err, SQF_E_MEMORY, "normalization: out of memory, %zu bytes were asked for", bytes);
    }
    list->data = data;
    list->capacity = capacity;
    return SQF_OK;
}

/* Compatibility mappings of Unicode 10 and later: the tables of the library that writes tokenizer files are older. */
static bool is_younger_mapping(uint32_t c)
{
    return c == 0x32ff || (c >= 0xa7f2 && c <= 0xa7f4) || c == 0xab69 || (c >= 0x10781 && c <= 0x107ba) ||
           (c >= 0x1e030 && c <= 0x1e06d) || c == 0x1f16c || (c >= 0x1fbf0 && c <= 0x1fbf9);
}

static sqf_status decompose(points *list, const char *text, size_t n, utf8proc_option_t options, sqf_error *err)
{
    for (size_t at = 0; at < n;) {
        uint32_t code_point;
        size_t length;
        int boundary = 0;
        sqf_utf8_next(text + at, n - at, &code_point, &length);
        at += length;
        SQF_TRY(points_reserve(list, MAX_DECOMPOSITION, err));
        if ((options & UTF8PROC_COMPAT) && is_younger_mapping(code_point)) {
            list->data[list->count++] = (utf8proc_int32_t)code_point;
            continue;
        }
        const utf8proc_ssize_t written = utf8proc_decompose_char((utf8proc_int32_t)code_point, list->data + list->count,
                                                                 MAX_DECOMPOSITION, options, &boundary);
        if (written < 0 || written > MAX_DECOMPOSITION) {
            return sqf_fail(err, SQF_E_SUPPORT, "normalization: U+%04X has no decomposition", (unsigned)code_point);
        }
        list->count += (size_t)written;
    }
    return SQF_OK;
}

static unsigned combining_class(utf8proc_int32_t code_point)
{
    return code_point < LATIN_LIMIT ? 0 : (unsigned)utf8proc_get_property(code_point)->combining_class;
}

/* Stable counting sort of one run of marks: utf8proc's own ordering is quadratic in the length of the run. */
static void order_run(utf8proc_int32_t *run, size_t n, utf8proc_int32_t *scratch)
{
    size_t starts[257] = {0};
    for (size_t i = 0; i < n; i++) {
        starts[combining_class(run[i]) + 1]++;
    }
    for (size_t i = 1; i < 257; i++) {
        starts[i] += starts[i - 1];
    }
    for (size_t i = 0; i < n; i++) {
        scratch[starts[combining_class(run[i])]++] = run[i];
    }
    memcpy(run, scratch, n * sizeof *run);
}

static sqf_status order_marks(points *list, sqf_error *err)
{
    utf8proc_int32_t *scratch = NULL;
    for (size_t i = 0; i < list->count;) {
        size_t end = i;
        while (end < list->count && combining_class(list->data[end]) != 0) {
            end++;
        }
        if (end - i > 1) {
            if (!scratch) {
                SQF_TRY(SQF_ALLOC(&scratch, list->count, "normalization", err));
            }
            order_run(list->data + i, end - i, scratch);
        }
        i = end + 1;
    }
    free(scratch);
    return SQF_OK;
}

/* All characters below U+0300 are their own NFC. */
static bool is_plain(const char *text, size_t n, sqf_normal_form form)
{
    const uint8_t limit = form == SQF_NFC ? 0xcc : 0x80;
    for (size_t i = 0; i < n; i++) {
        if ((uint8_t)text[i] >= limit) {
            return false;
        }
    }
    return true;
}

sqf_status sqf_append_normal_form(sqf_buffer *out, const char *text, size_t n, sqf_normal_form form, sqf_error *err)
{
    if (is_plain(text, n, form)) {
        return sqf_buffer_append(out, text, n, err);
    }
    const bool composed = form == SQF_NFC || form == SQF_NFKC;
    const int compatible = form == SQF_NFKC || form == SQF_NFKD ? UTF8PROC_COMPAT : 0;
    const int options = UTF8PROC_STABLE | compatible;
    points list = {0};
    sqf_status status = decompose(&list, text, n, (utf8proc_option_t)(options | UTF8PROC_DECOMPOSE), err);
    if (status == SQF_OK) {
        status = order_marks(&list, err);
    }
    if (status == SQF_OK && composed) {
        list.count = (size_t)utf8proc_normalize_utf32(list.data, (utf8proc_ssize_t)list.count,
                                                      (utf8proc_option_t)(options | UTF8PROC_COMPOSE));
    }
    for (size_t i = 0; i < list.count && status == SQF_OK; i++) {
        status = sqf_utf8_append(out, (uint32_t)list.data[i], err);
    }
    free(list.data);
    return status;
}

size_t sqf_whitespace_end(const char *text, size_t n, size_t at)
{
    while (at < n) {
        uint32_t c = 0;
        size_t length;
        sqf_utf8_next(text + at, n - at, &c, &length);
        if (!sqf_is_whitespace(c)) {
            break;
        }
        at += length;
    }
    return at;
}

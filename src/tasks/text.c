/* Python's str methods on UTF-8, and HellaSwag's clean-up in their terms. */
#include "tasks/text.h"

#include <string.h>
#include <utf8proc.h>

#include "tokenizer/unicode.h"

/* str.isspace: Unicode's White_Space and the four separators of ASCII. */
static bool is_space(uint32_t c)
{
    return sqf_is_whitespace(c) || (c >= 0x1c && c <= 0x1f);
}

/* Start of the character that ends before byte n > 0 of valid UTF-8. */
static size_t character_before(const char *text, size_t n)
{
    do {
        n--;
    } while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80);
    return n;
}

size_t sqf_text_trimmed(const char *text, size_t n)
{
    while (n > 0) {
        const size_t start = character_before(text, n);
        uint32_t c = 0;
        size_t length;
        if (sqf_utf8_next(text + start, n - start, &c, &length) != SQF_UTF8_VALID || !is_space(c)) {
            break;
        }
        n = start;
    }
    return n;
}

sqf_slice sqf_text_strip(const char *text, size_t n)
{
    n = sqf_text_trimmed(text, n);
    size_t start = 0;
    while (start < n) {
        uint32_t c = 0;
        size_t length;
        if (sqf_utf8_next(text + start, n - start, &c, &length) != SQF_UTF8_VALID || !is_space(c)) {
            break;
        }
        start += length;
    }
    return (sqf_slice){text + start, n - start};
}

sqf_status sqf_text_lower(const char *text, size_t n, sqf_buffer *out, sqf_error *err)
{
    for (size_t i = 0, length; i < n; i += length) {
        uint32_t c;
        if (sqf_utf8_next(text + i, n - i, &c, &length) == SQF_UTF8_VALID) {
            SQF_TRY(sqf_append_lowercase(out, c, err));
        } else {
            SQF_TRY(sqf_buffer_append(out, text + i, length, err));
        }
    }
    return SQF_OK;
}

sqf_status sqf_text_capitalize(const char *text, size_t n, sqf_buffer *out, sqf_error *err)
{
    uint32_t c;
    size_t length;
    if (n == 0 || sqf_utf8_next(text, n, &c, &length) != SQF_UTF8_VALID) {
        return sqf_buffer_append(out, text, n, err);
    }
    SQF_TRY(sqf_utf8_append(out, (uint32_t)utf8proc_totitle((utf8proc_int32_t)c), err));
    return sqf_text_lower(text + length, n - length, out, err);
}

/* All of `from` replaced, left to right, as str.replace does. */
static sqf_status replace(const sqf_buffer *in, const char *from, const char *to, sqf_buffer *out, sqf_error *err)
{
    const char *at = in->data, *end = in->data + in->size;
    const size_t length = strlen(from);
    for (const char *found; (size_t)(end - at) >= length && (found = strstr(at, from)) != NULL; at = found + length) {
        SQF_TRY(sqf_buffer_append(out, at, (size_t)(found - at), err));
        SQF_TRY(sqf_buffer_append(out, to, strlen(to), err));
    }
    return sqf_buffer_append(out, at, (size_t)(end - at), err);
}

/* re.sub("\[.*?\]", ""): from a bracket to the first closing one on the same line. */
static sqf_status remove_brackets(const sqf_buffer *in, sqf_buffer *out, sqf_error *err)
{
    for (size_t i = 0; i < in->size;) {
        const size_t line = in->data[i] == '[' ? strcspn(in->data + i, "]\n") : 0;
        if (line > 0 && in->data[i + line] == ']') {
            i += line + 1;
        } else {
            SQF_TRY(sqf_buffer_append(out, in->data + i, 1, err));
            i++;
        }
    }
    return SQF_OK;
}

sqf_status sqf_text_clean_hellaswag(const char *text, size_t n, sqf_buffer *out, sqf_error *err)
{
    const sqf_slice stripped = sqf_text_strip(text, n);
    sqf_buffer plain = {0}, titles = {0}, brackets = {0};
    sqf_status status;
    SQF_TRY_GOTO(status, sqf_buffer_append(&plain, stripped.at, stripped.n, err), done);
    SQF_TRY_GOTO(status, replace(&plain, " [title]", ". ", &titles, err), done);
    SQF_TRY_GOTO(status, sqf_buffer_append(&brackets, "", 0, err), done);
    SQF_TRY_GOTO(status, remove_brackets(&titles, &brackets, err), done);
    status = replace(&brackets, "  ", " ", out, err);
done:
    free(plain.data);
    free(titles.data);
    free(brackets.data);
    return status;
}

size_t sqf_text_characters(const char *text, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    }
    return count;
}

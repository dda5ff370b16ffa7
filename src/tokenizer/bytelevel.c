/* The byte-level alphabet: printable bytes of Latin-1 stand for themselves, the other 68 for U+0100 and up. */
#include "tokenizer/bytelevel.h"

#include "tokenizer/unicode.h"

enum { FIRST_REPLACED = 0x100, REPLACED = 68 };

/* The bytes that are replaced, in order: 0-32, 127-160, 173. */
static uint8_t replaced_byte(uint32_t index)
{
    return (uint8_t)(index < 33 ? index : index < 67 ? 127 + index - 33 : 173);
}

static uint32_t character_of(uint8_t byte)
{
    if (byte <= 32) {
        return FIRST_REPLACED + byte;
    }
    if (byte >= 127 && byte <= 160) {
        return FIRST_REPLACED + 33u + byte - 127u;
    }
    return byte == 173 ? FIRST_REPLACED + 67u : byte;
}

/* The inverse; false for a character outside of the alphabet. */
static bool byte_of(uint32_t character, uint8_t *byte)
{
    if (character >= FIRST_REPLACED && character < FIRST_REPLACED + REPLACED) {
        *byte = replaced_byte(character - FIRST_REPLACED);
        return true;
    }
    *byte = (uint8_t)character;
    return character < FIRST_REPLACED && character_of(*byte) == character;
}

sqf_status sqf_bytelevel_encode(const void *user, const char *text, size_t n, size_t *origin, sqf_matcher *matcher,
                                sqf_buffer *out, sqf_error *err)
{
    const size_t begin = out->size, head = *origin;
    (void)user;
    (void)matcher;
    SQF_TRY(sqf_buffer_reserve(out, n, err));
    for (size_t i = 0; i < n; i++) {
        const uint32_t c = character_of((uint8_t)text[i]);
        const char bytes[2] = {(char)(0xc0 | c >> 6), (char)(0x80 | (c & 0x3f))};
        const char single = (char)c;
        SQF_TRY(c < 0x80 ? sqf_buffer_append(out, &single, 1, err) : sqf_buffer_append(out, bytes, 2, err));
        if (i + 1 == head) {
            *origin = out->size - begin;
        }
    }
    return SQF_OK;
}

sqf_status sqf_bytelevel_decode(sqf_buffer *out, const char *token, size_t n, sqf_error *err)
{
    const size_t begin = out->size;
    for (size_t at = 0; at < n;) {
        uint32_t c;
        size_t length;
        uint8_t byte;
        sqf_utf8_next(token + at, n - at, &c, &length);
        if (!byte_of(c, &byte)) {
            out->size = begin;
            return sqf_buffer_append(out, token, n, err);
        }
        SQF_TRY(sqf_buffer_append(out, &byte, 1, err));
        at += length;
    }
    return SQF_OK;
}

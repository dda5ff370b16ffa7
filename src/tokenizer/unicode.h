/* UTF-8, the few character properties a tokenizer asks for, and the normalization forms (data: utf8proc). */
#ifndef SQF_TOKENIZER_UNICODE_H
#define SQF_TOKENIZER_UNICODE_H

#include "base/memory.h"

typedef enum sqf_utf8_state {
    SQF_UTF8_VALID,     /* one whole character */
    SQF_UTF8_INVALID,   /* can never become a character, whatever follows */
    SQF_UTF8_INCOMPLETE /* the text ends inside a character that may still become whole */
} sqf_utf8_state;

/* Looks at the first character of n > 0 bytes. *length is the length of the character, or of the maximal subpart
 * that is invalid or incomplete (Unicode 15, section 3.9, "substitution of maximal subparts"). */
sqf_utf8_state sqf_utf8_next(const char *bytes, size_t n, uint32_t *code_point, size_t *length);

/* Length in bytes of the character that begins at `text` in valid UTF-8. */
size_t sqf_utf8_length(const char *text);

/* Appends one code point. */
sqf_status sqf_utf8_append(sqf_buffer *out, uint32_t code_point, sqf_error *err);

/* Appends n bytes, each maximal invalid subpart (an incomplete end included) replaced by U+FFFD. */
sqf_status sqf_utf8_append_lossy(sqf_buffer *out, const char *bytes, size_t n, sqf_error *err);

/* True if the n bytes are UTF-8. */
bool sqf_utf8_is_valid(const char *bytes, size_t n);

/* White_Space; general categories Nd, Nl, No; ASCII punctuation or general categories P*. */
bool sqf_is_whitespace(uint32_t code_point);
bool sqf_is_numeric(uint32_t code_point);
bool sqf_is_punctuation(uint32_t code_point);

/* A character of a word (Unicode Technical Standard 18, annex C): Alphabetic, M, Nd, Pc, Join_Control. */
bool sqf_is_word(uint32_t code_point);

/* The full lower-case mapping without context, appended. */
sqf_status sqf_append_lowercase(sqf_buffer *out, uint32_t code_point, sqf_error *err);

typedef enum sqf_normal_form { SQF_NFC, SQF_NFD, SQF_NFKC, SQF_NFKD } sqf_normal_form;

/* Appends the normal form of n bytes of valid UTF-8; O(n) also for long runs of combining marks. */
sqf_status sqf_append_normal_form(sqf_buffer *out, const char *text, size_t n, sqf_normal_form form, sqf_error *err);

/* Where the white space ends that begins at byte `at`; `at` itself where there is none. */
size_t sqf_whitespace_end(const char *text, size_t n, size_t at);

#endif

/* Text as Python's str methods treat it, because the reference implementations of the benchmarks are in Python. */
#ifndef SQF_TASKS_TEXT_H
#define SQF_TASKS_TEXT_H

#include "base/memory.h"

/* A part of a text. */
typedef struct sqf_slice {
    const char *at;
    size_t n;
} sqf_slice;

/* str.strip() and str.rstrip() of valid UTF-8. */
sqf_slice sqf_text_strip(const char *text, size_t n);
size_t sqf_text_trimmed(const char *text, size_t n);

/* str.capitalize(): the first character in title case, the others in lower case; appended. */
sqf_status sqf_text_capitalize(const char *text, size_t n, sqf_buffer *out, sqf_error *err);

/* str.lower(), character by character; appended. */
sqf_status sqf_text_lower(const char *text, size_t n, sqf_buffer *out, sqf_error *err);

/* HellaSwag's clean-up: stripped; " [title]" becomes ". "; what stands in brackets goes; two blanks become one.
 * Appended. */
sqf_status sqf_text_clean_hellaswag(const char *text, size_t n, sqf_buffer *out, sqf_error *err);

/* Code points of valid UTF-8. */
size_t sqf_text_characters(const char *text, size_t n);

#endif

/* Regular expressions of tokenizer files. They are written for Oniguruma; they are translated to PCRE2 here, each
 * construct to one of the same meaning, and refused by name where there is none. */
#ifndef SQF_TOKENIZER_REGEX_H
#define SQF_TOKENIZER_REGEX_H

#include "base/memory.h"

/* A compiled expression; immutable. */
typedef struct sqf_regex sqf_regex;

/* One part of a text: a match, or what lies between two. Offsets are bytes. */
typedef struct sqf_span {
    size_t start, end;
    bool match;
} sqf_span;

/* What one thread needs to match: reused from call to call. Zero-initialise; sqf_matcher_clear. */
typedef struct sqf_matcher {
    void *data, *context, *stack; /* PCRE2's */
    sqf_span *spans;              /* the last result: ascending, without gaps, covering the text */
    size_t count, capacity;
} sqf_matcher;

void sqf_matcher_clear(sqf_matcher *matcher);

/* Appends a span to the matcher's result. */
sqf_status sqf_matcher_add(sqf_matcher *matcher, size_t start, size_t end, bool match, sqf_error *err);

/* Compiles a pattern. literal: the bytes stand for themselves.
 * SQF_E_SUPPORT: a construct without translation; SQF_E_FORMAT: not an expression. `where` starts the message. */
sqf_status sqf_regex_compile(const char *pattern, bool literal, const char *where, sqf_regex **out, sqf_error *err);
void sqf_regex_destroy(sqf_regex *regex);

/* Covers the text (valid UTF-8) with spans: leftmost matches without overlap; an empty match directly behind the
 * last match does not count. The effort for each match is limited: SQF_E_VALUE beyond it. */
sqf_status sqf_regex_match(const sqf_regex *regex, const char *text, size_t n, sqf_matcher *matcher, sqf_error *err);

/* Oniguruma's syntax to PCRE2's; appended to `out`. Part of sqf_regex_compile, visible for its tests. */
sqf_status sqf_regex_translate(const char *pattern, const char *where, sqf_buffer *out, sqf_error *err);

#endif

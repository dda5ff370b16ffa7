/* Compiling and matching by PCRE2. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/regex/regex.h"

#include <pcre2.h>
#include <string.h>

#include "tokenizer/unicode.h"

enum {
    STACK_START = 32 << 10,
    STACK_MAX = 64 << 20,   /* bytes; reserved, not used, until an expression needs them */
    MATCH_LIMIT = 10000000, /* steps of one attempt to match */
    NESTING_LIMIT = 100
};

struct sqf_regex {
    pcre2_code *code;
};

void sqf_matcher_clear(sqf_matcher *matcher)
{
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_jit_stack_free(matcher->stack);
    free(matcher->spans);
    *matcher = (sqf_matcher){0};
}

static sqf_status matcher_prepare(sqf_matcher *matcher, sqf_error *err)
{
    matcher->count = 0;
    if (matcher->stack) {
        return SQF_OK;
    }
    sqf_matcher_clear(matcher);
    matcher->data = pcre2_match_data_create(1, NULL);
    matcher->context = pcre2_match_context_create(NULL);
    matcher->stack = pcre2_jit_stack_create(STACK_START, STACK_MAX, NULL);
    if (!matcher->data || !matcher->context || !matcher->stack) {
        sqf_matcher_clear(matcher);
        return sqf_fail(err, SQF_E_MEMORY, "regular expression: out of memory");
    }
    pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
    pcre2_set_match_limit(matcher->context, MATCH_LIMIT);
    return SQF_OK;
}

sqf_status sqf_matcher_add(sqf_matcher *matcher, size_t start, size_t end, bool match, sqf_error *err)
{
    if (matcher->count == matcher->capacity) {
        size_t capacity, bytes;
        if (!sqf_mul_size(&capacity, matcher->capacity, 2) || !sqf_add_size(&capacity, capacity, 64) ||
            !sqf_mul_size(&bytes, capacity, sizeof *matcher->spans)) {
            return sqf_fail(err, SQF_E_MEMORY, "regular expression: too many matches");
        }
        sqf_span *spans = realloc(matcher->spans, bytes);
        if (!spans) {
            return sqf_fail(err, SQF_E_MEMORY, "regular expression: out of memory, %zu bytes were asked for", bytes);
        }
        matcher->spans = spans;
        matcher->capacity = capacity;
    }
    matcher->spans[matcher->count++] = (sqf_span){.start = start, .end = end, .match = match};
    return SQF_OK;
}

static sqf_status compile(const char *pattern, size_t n, bool literal, const char *where, pcre2_code **code,
                          sqf_error *err)
{
    /* Oniguruma's ^ and $ are those of lines, and a line ends with LF alone. */
    const uint32_t options = PCRE2_UTF | PCRE2_NO_UTF_CHECK | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE);
    int number;
    PCRE2_SIZE offset;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) {
        return sqf_fail(err, SQF_E_MEMORY, "regular expression: out of memory");
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, NESTING_LIMIT * 4);
    *code = pcre2_compile((PCRE2_SPTR)pattern, n, options, &number, &offset, context);
    pcre2_compile_context_free(context);
    if (!*code) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(number, text, sizeof text);
        return sqf_fail(err, SQF_E_SUPPORT, "%s: regular expression is not supported: %s", where, (char *)text);
    }
    /* Where the machine has no just-in-time compiler the interpreter gives the same matches. */
    pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE);
    return SQF_OK;
}

sqf_status sqf_regex_compile(const char *pattern, bool literal, const char *where, sqf_regex **out, sqf_error *err)
{
    sqf_buffer translated = {0};
    sqf_regex *regex = NULL;
    *out = NULL;
    sqf_status status = literal ? sqf_buffer_append(&translated, pattern, strlen(pattern), err)
                                : sqf_regex_translate(pattern, where, &translated, err);
    if (status == SQF_OK) {
        status = SQF_ALLOC(&regex, 1, "regular expression", err);
    }
    if (status == SQF_OK) {
        status = compile(translated.data, translated.size, literal, where, &regex->code, err);
    }
    free(translated.data);
    if (status != SQF_OK) {
        sqf_regex_destroy(regex);
        return status;
    }
    *out = regex;
    return SQF_OK;
}

void sqf_regex_destroy(sqf_regex *regex)
{
    if (regex) {
        pcre2_code_free(regex->code);
        free(regex);
    }
}

static sqf_status fail_match(int code, sqf_error *err)
{
    PCRE2_UCHAR text[128];
    pcre2_get_error_message(code, text, sizeof text);
    return sqf_fail(err, code == PCRE2_ERROR_NOMEMORY ? SQF_E_MEMORY : SQF_E_VALUE,
                    "tokenizer: a regular expression cannot be matched on this text: %s", (char *)text);
}

sqf_status sqf_regex_match(const sqf_regex *regex, const char *text, size_t n, sqf_matcher *matcher, sqf_error *err)
{
    SQF_TRY(matcher_prepare(matcher, err));
    size_t covered = 0, from = 0;
    bool matched = false;
    while (from <= n && n > 0) {
        const int code =
            pcre2_match(regex->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, matcher->data, matcher->context);
        if (code == PCRE2_ERROR_NOMATCH) {
            break;
        }
        if (code < 0) {
            return fail_match(code, err);
        }
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(matcher->data);
        const size_t start = ends[0], end = ends[1];
        if (start == end && matched && end == covered) {
            from += from < n ? sqf_utf8_length(text + from) : 1;
            continue;
        }
        if (covered < start) {
            SQF_TRY(sqf_matcher_add(matcher, covered, start, false, err));
        }
        SQF_TRY(sqf_matcher_add(matcher, start, end, true, err));
        covered = from = end;
        matched = true;
    }
    return covered < n ? sqf_matcher_add(matcher, covered, n, false, err) : SQF_OK;
}

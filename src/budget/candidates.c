/* Reading a list of candidates: "w4a4, w4a-sq5 mask=l2|maxl2" is three of them. */
#include "budget/candidates.h"

#include <stdio.h>
#include <string.h>

enum { WORDS_MAX = 24 };

/* A word of a candidate: what stands before its alternatives ("mask=", or nothing for the scheme), and they. */
typedef struct word {
    const char *text;
    size_t prefix, length; /* of the text; alternatives begin behind the prefix */
} word;

void sqf_candidates_clear(sqf_candidates *candidates)
{
    for (size_t i = 0; i < candidates->count; i++) {
        free(candidates->text[i]);
    }
    *candidates = (sqf_candidates){0};
}

/* Cuts one candidate into words. */
static sqf_status cut_words(const char *text, size_t length, word words[WORDS_MAX], size_t *count, sqf_error *err)
{
    const char *const end = text + length;
    const int shown = length < 200 ? (int)length : 200;
    *count = 0;
    for (const char *at = text; at < end;) {
        const size_t blanks = strspn(at, " \t\r\n");
        at += blanks;
        size_t n = strcspn(at, " \t\r\n");
        n = n < (size_t)(end - at) ? n : (size_t)(end - at);
        if (at >= end || n == 0) {
            break;
        }
        const char *equals = memchr(at, '=', n);
        if (*count == WORDS_MAX || (*count > 0 && !equals)) {
            return sqf_fail(err, SQF_E_ARG, "candidate '%.*s': expected a scheme and words key=value, found '%.*s'",
                            shown, text, (int)(n < 80 ? n : 80), at);
        }
        words[*count] = (word){at, *count > 0 ? (size_t)(equals - at) + 1 : 0, n};
        (*count)++;
        at += n;
    }
    return *count > 0 ? SQF_OK : sqf_fail(err, SQF_E_ARG, "candidates: expected a scheme between commas, found none");
}

static sqf_status add(sqf_candidates *out, const sqf_buffer *text, sqf_error *err)
{
    for (size_t i = 0; i < out->count; i++) {
        if (strcmp(out->text[i], text->data) == 0) {
            return SQF_OK;
        }
    }
    if (out->count == SQF_CANDIDATES_MAX) {
        return sqf_fail(err, SQF_E_ARG, "candidates: expected at most %d, found more", SQF_CANDIDATES_MAX);
    }
    SQF_TRY(sqf_copy_text(&out->text[out->count], text->data, text->size, err));
    out->count++;
    return SQF_OK;
}

/* All combinations of the alternatives of words[at..]; `text` holds the words before. */
static sqf_status expand(const word *words, size_t count, size_t at, sqf_buffer *text, sqf_candidates *out,
                         sqf_error *err)
{
    if (at == count) {
        return add(out, text, err);
    }
    const word *w = &words[at];
    const char *const end = w->text + w->length;
    const size_t size = text->size;
    for (const char *begin = w->text + w->prefix; begin <= end;) {
        const char *bar = memchr(begin, '|', (size_t)(end - begin));
        const char *stop = bar ? bar : end;
        if (stop == begin) {
            return sqf_fail(err, SQF_E_ARG, "candidates: expected a value, found none in '%.*s'",
                            (int)(w->length < 80 ? w->length : 80), w->text);
        }
        if (size > 0) {
            SQF_TRY(sqf_buffer_append(text, " ", 1, err));
        }
        SQF_TRY(sqf_buffer_append(text, w->text, w->prefix, err));
        SQF_TRY(sqf_buffer_append(text, begin, (size_t)(stop - begin), err));
        SQF_TRY(expand(words, count, at + 1, text, out, err));
        text->size = size;
        text->data[size] = '\0';
        begin = stop + 1;
    }
    return SQF_OK;
}

static sqf_status read_candidate(const char *text, size_t length, sqf_candidates *out, sqf_error *err)
{
    word words[WORDS_MAX];
    size_t count;
    sqf_buffer buffer = {0};
    SQF_TRY(cut_words(text, length, words, &count, err));
    const sqf_status status = expand(words, count, 0, &buffer, out, err);
    free(buffer.data);
    return status;
}

sqf_status sqf_candidates_parse(const char *list, sqf_candidates *out, sqf_error *err)
{
    *out = (sqf_candidates){0};
    for (const char *at = list;;) {
        const size_t length = strcspn(at, ",");
        SQF_TRY(read_candidate(at, length, out, err));
        if (at[length] == '\0') {
            return SQF_OK;
        }
        at += length + 1;
    }
}

static sqf_status apply_words(const char *candidate, sqf_recipe *recipe, sqf_error *err)
{
    word words[WORDS_MAX];
    size_t count;
    SQF_TRY(cut_words(candidate, strlen(candidate), words, &count, err));
    for (size_t i = 0; i < count; i++) {
        char *key = NULL, *value = NULL;
        const word *w = &words[i];
        sqf_status status =
            i == 0 ? sqf_copy_text(&key, "scheme", 6, err) : sqf_copy_text(&key, w->text, w->prefix - 1, err);
        if (status == SQF_OK) {
            status = sqf_copy_text(&value, w->text + w->prefix, w->length - w->prefix, err);
        }
        if (status == SQF_OK) {
            status = sqf_recipe_override_set(recipe, key, value, err);
        }
        free(key);
        free(value);
        SQF_TRY(status);
    }
    return SQF_OK;
}

sqf_status sqf_candidate_apply(const char *candidate, const char *match, sqf_recipe *recipe, sqf_error *err)
{
    SQF_TRY(sqf_recipe_add_override(recipe, match, err));
    const sqf_status status = apply_words(candidate, recipe, err);
    if (status == SQF_OK) {
        return SQF_OK;
    }
    char where[160];
    snprintf(where, sizeof where, "candidate '%.120s'", candidate);
    return sqf_fail_within(err, status, where);
}

sqf_status sqf_recipe_copy(const sqf_recipe *recipe, sqf_recipe **out, sqf_error *err)
{
    char *text;
    *out = NULL;
    SQF_TRY(sqf_recipe_print(recipe, &text, err));
    const sqf_status status = sqf_recipe_parse(text, strlen(text), "recipe", out, err);
    free(text);
    return status;
}

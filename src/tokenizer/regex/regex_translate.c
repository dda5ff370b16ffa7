/* Oniguruma's regular expressions rewritten for PCRE2: one pass of recursive descent, text to text.
 *
 * The differences that matter: \s, \w, \d, \h and \b mean other sets of characters; classes may be nested and
 * intersected; (?m) is "dot matches all"; {n,m}+ repeats instead of being possessive; (?i) in the middle of a group
 * holds for all that follows, alternatives included. What has no translation is refused by name. */
#include <string.h>

#include "tokenizer/regex/regex.h"
#include "tokenizer/regex/regex_parser.h"
#include "tokenizer/regex/regex_sets.h"

enum { REPEAT_LIMIT = 65535, LENGTH_LIMIT = 16384 };

/* What an atom is, as far as a quantifier behind it asks. */
typedef enum atom_kind { ATOM_ANCHOR, ATOM_CHARACTER, ATOM_GROUP } atom_kind;

static sqf_status parse_alternatives(sqf_regex_parser *p);

static sqf_status insert(const sqf_regex_parser *p, sqf_buffer *out, size_t position, const char *text)
{
    const size_t n = strlen(text), tail = out->size - position;
    SQF_TRY(sqf_buffer_reserve(out, n, p->err));
    memmove(out->data + position + n, out->data + position, tail + 1);
    memcpy(out->data + position, text, n);
    out->size += n;
    return SQF_OK;
}

/* The options i and m; any other one is refused. Ends at ':' or ')'. */
static sqf_status read_options(sqf_regex_parser *p, char text[16])
{
    const char *start = p->at;
    size_t n = 0;
    for (; *p->at != ':' && *p->at != ')'; p->at++) {
        const char c = *p->at;
        if ((c != 'i' && c != 'm' && c != '-') || n == 8) {
            return sqf_regex_refuse_at(p, "a group or option", start - 2);
        }
        text[n++] = (char)(c == 'm' ? 's' : c);
    }
    text[n] = '\0';
    return SQF_OK;
}

/* Reads the body of a group that has been opened, and its end. */
static sqf_status parse_body(sqf_regex_parser *p)
{
    SQF_TRY(parse_alternatives(p));
    if (*p->at != ')') {
        return sqf_regex_refuse(p, "a group without an end");
    }
    p->at++;
    return sqf_regex_put(p, p->out, ")");
}

/* (?<name>...): the name is of no use without back references, which are refused. */
static sqf_status skip_name(sqf_regex_parser *p)
{
    const char *end = strchr(p->at, '>');
    if (!end || end == p->at) {
        return sqf_regex_refuse_at(p, "a group's name", p->at);
    }
    p->at = end + 1;
    return SQF_OK;
}

static sqf_status parse_special_group(sqf_regex_parser *p, atom_kind *kind)
{
    static const struct {
        const char *text;
        atom_kind kind;
    } OPENINGS[] = {{"?:", ATOM_GROUP},  {"?>", ATOM_GROUP},   {"?=", ATOM_ANCHOR},
                    {"?!", ATOM_ANCHOR}, {"?<=", ATOM_ANCHOR}, {"?<!", ATOM_ANCHOR}};
    char options[16];
    for (size_t i = 0; i < sizeof OPENINGS / sizeof *OPENINGS; i++) {
        const size_t n = strlen(OPENINGS[i].text);
        if (strncmp(p->at, OPENINGS[i].text, n) == 0) {
            p->at += n;
            *kind = OPENINGS[i].kind;
            SQF_TRY(sqf_buffer_print(p->out, p->err, "(%s", OPENINGS[i].text));
            return parse_body(p);
        }
    }
    if (p->at[1] == '<') {
        p->at += 2;
        SQF_TRY(skip_name(p));
        SQF_TRY(sqf_regex_put(p, p->out, "(?:"));
        return parse_body(p);
    }
    if (p->at[1] == '#') {
        const char *end = strchr(p->at, ')');
        *kind = ATOM_ANCHOR;
        p->at = end ? end + 1 : p->at + strlen(p->at);
        return end ? SQF_OK : sqf_regex_refuse(p, "a comment without an end");
    }
    p->at++;
    SQF_TRY(read_options(p, options));
    SQF_TRY(sqf_buffer_print(p->out, p->err, "(?%s:", options));
    if (*p->at++ == ':') {
        return parse_body(p);
    }
    /* (?i): a group up to the end of the enclosing one, whose closing parenthesis is not read here */
    *kind = ATOM_ANCHOR;
    SQF_TRY(parse_alternatives(p));
    return sqf_regex_put(p, p->out, ")");
}

static sqf_status parse_group(sqf_regex_parser *p, atom_kind *kind)
{
    *kind = ATOM_GROUP;
    p->at++;
    if (++p->depth > SQF_REGEX_DEPTH_LIMIT) {
        return sqf_regex_refuse(p, "it is nested too deeply");
    }
    if (*p->at == '*') {
        return sqf_regex_refuse_at(p, "a verb or callout", p->at - 1);
    }
    sqf_status status;
    if (*p->at == '?') {
        status = parse_special_group(p, kind);
    } else {
        status = sqf_regex_put(p, p->out, "(?:");
        if (status == SQF_OK) {
            status = parse_body(p);
        }
    }
    p->depth--;
    return status;
}

/* Escapes outside of a class that are neither a character nor a set. */
static sqf_status parse_special_escape(sqf_regex_parser *p, atom_kind *kind, bool *found)
{
    static const struct {
        char letter;
        atom_kind kind;
        const char *text;
    } ESCAPES[] = {
        {'A', ATOM_ANCHOR, "\\A"},       {'z', ATOM_ANCHOR, "\\z"},
        {'Z', ATOM_ANCHOR, "\\Z"},       {'N', ATOM_CHARACTER, "[^\\n]"},
        {'O', ATOM_CHARACTER, "(?s:.)"}, {'R', ATOM_GROUP, "(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])"},
    };
    for (size_t i = 0; i < sizeof ESCAPES / sizeof *ESCAPES; i++) {
        if (*p->at == ESCAPES[i].letter) {
            p->at++;
            *kind = ESCAPES[i].kind;
            *found = true;
            return sqf_regex_put(p, p->out, ESCAPES[i].text);
        }
    }
    *found = false;
    return SQF_OK;
}

/* \b and \B, by lookarounds on the characters of a word. */
static sqf_status put_word_boundary(sqf_regex_parser *p, bool negated)
{
    sqf_buffer word = {0};
    const char *second = negated ? "=" : "!", *third = negated ? "!" : "=";
    sqf_status status = sqf_regex_put_property(&word, "word", p->err);
    if (status == SQF_OK) {
        status = sqf_regex_put(p, &word, SQF_SET_WORD_EXTRA);
    }
    if (status == SQF_OK) {
        status = sqf_buffer_print(p->out, p->err, "(?:(?<=[%s])(?%s[%s])|(?<![%s])(?%s[%s]))", word.data, second,
                                  word.data, word.data, third, word.data);
    }
    free(word.data);
    return status;
}

/* \w outside of a class. */
static bool is_word_escape(char letter)
{
    return letter == 'w' || letter == 'W';
}

static sqf_status parse_escape(sqf_regex_parser *p, atom_kind *kind)
{
    bool found;
    sqf_regex_set s = {0};
    uint32_t c;
    const char letter = *++p->at;
    if (letter == 'b' || letter == 'B') {
        p->at++;
        *kind = ATOM_ANCHOR;
        return put_word_boundary(p, letter == 'B');
    }
    SQF_TRY(parse_special_escape(p, kind, &found));
    if (found) {
        return SQF_OK;
    }
    sqf_status status = sqf_regex_read_set_escape(p, &s, &found);
    if (status == SQF_OK && is_word_escape(letter)) {
        status = sqf_regex_put(p, &s.text, SQF_SET_WORD_EXTRA);
    }
    if (status == SQF_OK && found) {
        status = sqf_buffer_print(p->out, p->err, s.negated ? "[^%s]" : "[%s]", s.text.data);
    }
    free(s.text.data);
    if (status != SQF_OK || found) {
        return status;
    }
    SQF_TRY(sqf_regex_read_escaped_character(p, &c));
    return sqf_regex_put_character(p, p->out, c);
}

static sqf_status parse_atom(sqf_regex_parser *p, atom_kind *kind)
{
    const char c = *p->at;
    *kind = ATOM_CHARACTER;
    switch (c) {
    case '(': return parse_group(p, kind);
    case '[': return sqf_regex_parse_class(p, p->out);
    case '\\': return parse_escape(p, kind);
    case '.': p->at++; return sqf_regex_put(p, p->out, ".");
    case '^':
    case '$':
        *kind = ATOM_ANCHOR;
        p->at++;
        return sqf_buffer_append(p->out, &c, 1, p->err);
    case '*':
    case '+':
    case '?': return sqf_regex_refuse_at(p, "a quantifier without a target", p->at);
    default: break;
    }
    uint32_t character;
    SQF_TRY(sqf_regex_next_character(p, &character));
    return sqf_regex_put_character(p, p->out, character);
}

typedef struct quantifier {
    uint32_t least, most; /* most: UINT32_MAX = unbounded */
    bool interval, fixed;
} quantifier;

/* "{n}", "{n,}", "{,m}", "{n,m}"; anything else in braces is literal text. */
static sqf_status read_interval(sqf_regex_parser *p, quantifier *q, bool *found)
{
    const char *start = p->at++;
    const bool low = sqf_regex_read_number(p, 10, 6, &q->least);
    q->most = q->least;
    q->fixed = *p->at != ',';
    bool high = low;
    if (!q->fixed) {
        p->at++;
        high = sqf_regex_read_number(p, 10, 6, &q->most);
        q->most = high ? q->most : UINT32_MAX;
    }
    *found = (low || high) && *p->at == '}';
    if (!*found) {
        p->at = start;
        return SQF_OK;
    }
    p->at++;
    q->interval = true;
    if (q->least > q->most || q->least > REPEAT_LIMIT || (q->most > REPEAT_LIMIT && q->most != UINT32_MAX)) {
        return sqf_regex_refuse_at(p, "a repetition", start);
    }
    return SQF_OK;
}

static sqf_status read_quantifier(sqf_regex_parser *p, quantifier *q, bool *found)
{
    *q = (quantifier){.most = UINT32_MAX};
    *found = true;
    switch (*p->at) {
    case '*': break;
    case '+': q->least = 1; break;
    case '?': q->most = 1; break;
    case '{': return read_interval(p, q, found);
    default: *found = false; return SQF_OK;
    }
    p->at++;
    return SQF_OK;
}

static sqf_status put_quantifier(sqf_regex_parser *p, size_t atom, const quantifier *q)
{
    SQF_TRY(q->most == UINT32_MAX ? sqf_buffer_print(p->out, p->err, "{%u,}", q->least)
                                  : sqf_buffer_print(p->out, p->err, "{%u,%u}", q->least, q->most));
    if (*p->at == '?' && q->fixed) { /* {n}? is "n times or not at all" */
        p->at++;
        SQF_TRY(insert(p, p->out, atom, "(?:"));
        return sqf_regex_put(p, p->out, ")?");
    }
    if (*p->at == '?' || (*p->at == '+' && !q->interval)) {
        return sqf_buffer_append(p->out, p->at++, 1, p->err);
    }
    return SQF_OK;
}

/* An attempt that begins inside a run of the characters with which an alternative begins repeats the attempt one
 * character earlier, which failed. Letting the alternative begin at the start of the search or of a run only
 * makes a search linear where it was quadratic, e.g. \s+$ on many spaces before a letter. */
static sqf_status guard_run(sqf_regex_parser *p, size_t atom)
{
    sqf_buffer guard = {0};
    const size_t n = p->out->size - atom;
    sqf_status status = sqf_regex_put(p, &guard, "(?:\\G|(?<!");
    if (status == SQF_OK) {
        status = sqf_buffer_append(&guard, p->out->data + atom, n, p->err);
    }
    if (status == SQF_OK) {
        status = sqf_regex_put(p, &guard, "))");
    }
    if (status == SQF_OK) {
        status = insert(p, p->out, atom, guard.data);
    }
    free(guard.data);
    return status;
}

/* One atom with its quantifiers. `leading`: it begins an alternative of the whole expression. */
static sqf_status parse_piece(sqf_regex_parser *p, bool leading)
{
    size_t atom = p->out->size;
    atom_kind kind;
    quantifier q;
    bool found;
    SQF_TRY(parse_atom(p, &kind));
    for (bool first = true;; first = false) {
        const char *start = p->at;
        SQF_TRY(read_quantifier(p, &q, &found));
        if (!found) {
            return SQF_OK;
        }
        if (kind == ATOM_ANCHOR) {
            return sqf_regex_refuse_at(p, "a quantifier behind an assertion", start);
        }
        if (!first) {
            SQF_TRY(insert(p, p->out, atom, "(?:"));
            SQF_TRY(sqf_regex_put(p, p->out, ")"));
        } else if (leading && kind == ATOM_CHARACTER && q.most == UINT32_MAX) {
            const size_t before = p->out->size;
            SQF_TRY(guard_run(p, atom));
            atom += p->out->size - before;
        }
        SQF_TRY(put_quantifier(p, atom, &q));
    }
}

static sqf_status parse_alternatives(sqf_regex_parser *p)
{
    bool begin = true;
    while (*p->at != '\0' && *p->at != ')') {
        if (*p->at == '|') {
            p->at++;
            begin = true;
            SQF_TRY(sqf_regex_put(p, p->out, "|"));
            continue;
        }
        SQF_TRY(parse_piece(p, begin && p->depth == 0));
        begin = false;
    }
    return SQF_OK;
}

sqf_status sqf_regex_translate(const char *pattern, const char *where, sqf_buffer *out, sqf_error *err)
{
    sqf_regex_parser p = {.at = pattern, .where = where, .out = out, .err = err};
    const size_t n = strlen(pattern);
    if (n > LENGTH_LIMIT) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: regular expression: expected at most %d bytes, found %zu", where,
                        LENGTH_LIMIT, n);
    }
    SQF_TRY(sqf_regex_put(&p, out, ""));
    SQF_TRY(parse_alternatives(&p));
    return *p.at == ')' ? sqf_regex_refuse(&p, "a parenthesis too many") : SQF_OK;
}

/* Oniguruma's regular expressions rewritten for PCRE2: one pass of recursive descent, text to text.
 *
 * The differences that matter: \s, \w, \d, \h and \b mean other sets of characters; classes may be nested and
 * intersected; (?m) is "dot matches all"; {n,m}+ repeats instead of being possessive; (?i) in the middle of a group
 * holds for all that follows, alternatives included. What has no translation is refused by name. */
#include <string.h>

#include "tokenizer/regex.h"
#include "tokenizer/regex_sets.h"
#include "tokenizer/unicode.h"

/* PCRE2's own \s has U+180E in addition, so its \S lacks it. */
#define SET_NOT_SPACE "\\S\\x{180e}"
#define SET_NOT_HEX   "\\x{0}-\\x{2f}:-@G-`g-\\x{10ffff}"

enum { DEPTH_LIMIT = 100, REPEAT_LIMIT = 65535, LENGTH_LIMIT = 16384 };

typedef struct parser {
    const char *at; /* NUL-terminated */
    const char *where;
    sqf_buffer *out;
    sqf_error *err;
    unsigned depth;
} parser;

/* What an atom is, as far as a quantifier behind it asks. */
typedef enum atom_kind { ATOM_ANCHOR, ATOM_CHARACTER, ATOM_GROUP } atom_kind;

static sqf_status parse_alternatives(parser *p);
static sqf_status parse_class(parser *p, sqf_buffer *out);

static sqf_status refuse(const parser *p, const char *what)
{
    return sqf_fail(p->err, SQF_E_SUPPORT, "%s: regular expression is not supported: %s", p->where, what);
}

static sqf_status refuse_at(const parser *p, const char *what, const char *at)
{
    return sqf_fail(p->err, SQF_E_SUPPORT, "%s: regular expression is not supported: %s at \"%.12s\"", p->where, what,
                    at);
}

static sqf_status put(const parser *p, sqf_buffer *out, const char *text)
{
    return sqf_buffer_append(out, text, strlen(text), p->err);
}

static sqf_status insert(const parser *p, sqf_buffer *out, size_t position, const char *text)
{
    const size_t n = strlen(text), tail = out->size - position;
    SQF_TRY(sqf_buffer_reserve(out, n, p->err));
    memmove(out->data + position + n, out->data + position, tail + 1);
    memcpy(out->data + position, text, n);
    out->size += n;
    return SQF_OK;
}

static bool is_alphanumeric(uint32_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* One literal character, safe inside and outside of a class. */
static sqf_status put_character(const parser *p, sqf_buffer *out, uint32_t c)
{
    if (is_alphanumeric(c)) {
        const char letter = (char)c;
        return sqf_buffer_append(out, &letter, 1, p->err);
    }
    return sqf_buffer_print(out, p->err, "\\x{%x}", (unsigned)c);
}

static sqf_status next_character(parser *p, uint32_t *c)
{
    size_t length;
    if (*p->at == '\0') {
        return refuse(p, "it ends too early");
    }
    if (sqf_utf8_next(p->at, strlen(p->at), c, &length) != SQF_UTF8_VALID) {
        return refuse(p, "it is not UTF-8");
    }
    p->at += length;
    return SQF_OK;
}

/* Reads up to `most` digits of a base; false if there is none. */
static bool read_number(parser *p, unsigned base, unsigned most, uint32_t *value)
{
    unsigned count = 0;
    *value = 0;
    for (; count < most; count++, p->at++) {
        const char c = *p->at;
        const unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                               : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                               : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
                                                      : 99;
        if (digit >= base) {
            break;
        }
        *value = *value * base + digit;
    }
    return count > 0;
}

static sqf_status read_hexadecimal(parser *p, const char *start, uint32_t *c)
{
    if (p->at[-1] == 'u') {
        const char *digits = p->at;
        if (!read_number(p, 16, 4, c) || p->at - digits != 4) {
            return refuse_at(p, "\\u needs four digits", start);
        }
    } else if (*p->at == '{') {
        p->at++;
        if (!read_number(p, 16, 8, c) || *p->at != '}') {
            return refuse_at(p, "\\x{...} needs one number", start);
        }
        p->at++;
    } else if (!read_number(p, 16, 2, c) || *c >= 0x80) {
        return refuse_at(p, "\\x needs a number below 80", start);
    }
    if (*c > 0x10ffff || (*c >= 0xd800 && *c <= 0xdfff)) {
        return refuse_at(p, "a code point that does not exist", start);
    }
    return SQF_OK;
}

/* An escape that stands for one character; `p->at` is behind the backslash. */
static sqf_status read_escaped_character(parser *p, uint32_t *c)
{
    const char *start = p->at - 1;
    SQF_TRY(next_character(p, c));
    switch (*c) {
    case 'n': *c = '\n'; return SQF_OK;
    case 't': *c = '\t'; return SQF_OK;
    case 'r': *c = '\r'; return SQF_OK;
    case 'f': *c = '\f'; return SQF_OK;
    case 'v': *c = '\v'; return SQF_OK;
    case 'a': *c = '\a'; return SQF_OK;
    case 'e': *c = 0x1b; return SQF_OK;
    case 'x':
    case 'u': return read_hexadecimal(p, start, c);
    case '0':
        p->at--;
        read_number(p, 8, 3, c);
        return SQF_OK;
    default: return is_alphanumeric(*c) ? refuse_at(p, "escape", start) : SQF_OK;
    }
}

/* A set of characters: `set` is the inside of a class; negated means its complement. */
typedef struct set {
    sqf_buffer text;
    bool negated;
} set;

/* \p{Name}, \p{^Name}, \P{Name}; `p->at` is behind the letter. */
static sqf_status read_property(parser *p, set *out)
{
    char name[48];
    size_t n = 0;
    const char *start = p->at - 2;
    out->negated = p->at[-1] == 'P';
    if (*p->at++ != '{') {
        return refuse_at(p, "a property without braces", start);
    }
    if (*p->at == '^') {
        out->negated = !out->negated;
        p->at++;
    }
    for (; *p->at != '}'; p->at++) {
        const char c = *p->at;
        if (c == ' ' || c == '-' || c == '_') {
            continue;
        }
        if (!is_alphanumeric((unsigned char)c) || n + 1 == sizeof name) {
            return refuse_at(p, "a property", start);
        }
        name[n++] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    }
    p->at++;
    name[n] = '\0';
    return sqf_regex_put_property(&out->text, name, p->err);
}

/* An escape that stands for a set; *is_set = false if it does not, and nothing is read. `p->at` is behind the
 * backslash. */
static sqf_status read_set_escape(parser *p, set *out, bool *is_set)
{
    const char letter = *p->at;
    const char *name;
    *is_set = true;
    switch (letter) {
    case 'p':
    case 'P': p->at++; return read_property(p, out);
    case 'd':
    case 'D': name = "digit"; break;
    case 's':
    case 'S': name = "space"; break;
    case 'w':
    case 'W': name = "word"; break;
    case 'h':
    case 'H': name = "xdigit"; break;
    default: *is_set = false; return SQF_OK;
    }
    p->at++;
    out->negated = letter >= 'A' && letter <= 'Z';
    return sqf_regex_put_property(&out->text, name, p->err);
}

/* A union in the making: `simple` is the inside of a class, `others` are alternatives of one character each. */
typedef struct class_union {
    sqf_buffer simple, others;
} class_union;

static void union_clear(class_union *u)
{
    free(u->simple.data);
    free(u->others.data);
    *u = (class_union){0};
}

static sqf_status union_add_other(const parser *p, class_union *u, const char *text)
{
    SQF_TRY(put(p, &u->others, "|"));
    return put(p, &u->others, text);
}

/* Adds a set. A complement that has no spelling inside a class becomes an alternative of its own. */
static sqf_status union_add_set(const parser *p, class_union *u, const set *s)
{
    if (!s->negated) {
        return put(p, &u->simple, s->text.data);
    }
    if (strcmp(s->text.data, SQF_SET_SPACE) == 0) {
        return put(p, &u->simple, SET_NOT_SPACE);
    }
    if (strcmp(s->text.data, SQF_SET_HEX) == 0) {
        return put(p, &u->simple, SET_NOT_HEX);
    }
    SQF_TRY(put(p, &u->others, "|[^"));
    SQF_TRY(put(p, &u->others, s->text.data));
    return put(p, &u->others, "]");
}

/* Writes the union as an expression that matches one character. */
static sqf_status union_put(const parser *p, const class_union *u, sqf_buffer *out)
{
    if (u->others.size == 0) {
        return u->simple.size == 0 ? put(p, out, "(?!)") : sqf_buffer_print(out, p->err, "[%s]", u->simple.data);
    }
    SQF_TRY(put(p, out, "(?:"));
    if (u->simple.size == 0) {
        SQF_TRY(put(p, out, u->others.data + 1));
    } else {
        SQF_TRY(sqf_buffer_print(out, p->err, "[%s]%s", u->simple.data, u->others.data));
    }
    return put(p, out, ")");
}

/* [:name:] or [:^name:]; false if this is no bracket of that kind. */
static bool read_posix_name(parser *p, char name[16], bool *negated)
{
    const char *at = p->at + 2; /* behind "[:" */
    size_t n = 0;
    *negated = *at == '^';
    at += *negated;
    while (*at >= 'a' && *at <= 'z' && n + 1 < 16) {
        name[n++] = *at++;
    }
    name[n] = '\0';
    if (n == 0 || at[0] != ':' || at[1] != ']') {
        return false;
    }
    p->at = at + 2;
    return true;
}

static sqf_status read_posix(parser *p, class_union *u, bool *found)
{
    static const char *const NAMES[] = {"alnum", "alpha", "ascii", "blank", "cntrl", "digit",
                                        "lower", "punct", "space", "upper", "word",  "xdigit"};
    char name[16];
    set s = {0};
    const char *start = p->at;
    *found = start[1] == ':' && read_posix_name(p, name, &s.negated);
    if (!*found) {
        return SQF_OK;
    }
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        if (strcmp(NAMES[i], name) == 0) {
            sqf_status status = sqf_regex_put_property(&s.text, name, p->err);
            if (status == SQF_OK) {
                status = union_add_set(p, u, &s);
            }
            free(s.text.data);
            return status;
        }
    }
    return refuse_at(p, "a bracket name", start);
}

/* A character of a class and the range that may begin with it. */
static sqf_status read_range(parser *p, class_union *u)
{
    const char *start = p->at;
    uint32_t first, last;
    SQF_TRY(next_character(p, &first));
    if (first == '\\') {
        SQF_TRY(read_escaped_character(p, &first));
    }
    SQF_TRY(put_character(p, &u->simple, first));
    if (p->at[0] != '-' || p->at[1] == ']' || p->at[1] == '\0' || (p->at[1] == '&' && p->at[2] == '&')) {
        return SQF_OK;
    }
    p->at++;
    if (*p->at == '[') {
        return refuse_at(p, "a range that ends with a class", start);
    }
    SQF_TRY(next_character(p, &last));
    if (last == '\\') {
        if (*p->at != '\0' && strchr("dDsSwWhHpP", *p->at)) {
            return refuse_at(p, "a range that ends with a set", start);
        }
        SQF_TRY(read_escaped_character(p, &last));
    }
    if (last < first) {
        return refuse_at(p, "a range in falling order", start);
    }
    SQF_TRY(put(p, &u->simple, "-"));
    return put_character(p, &u->simple, last);
}

static sqf_status read_class_item(parser *p, class_union *u)
{
    if (*p->at == '[') {
        bool found;
        SQF_TRY(read_posix(p, u, &found));
        if (found) {
            return SQF_OK;
        }
        sqf_buffer inner = {0};
        sqf_status status = parse_class(p, &inner);
        if (status == SQF_OK) {
            status = union_add_other(p, u, inner.data);
        }
        free(inner.data);
        return status;
    }
    if (*p->at == '\\') {
        set s = {0};
        bool is_set;
        p->at++;
        sqf_status status = read_set_escape(p, &s, &is_set);
        if (status == SQF_OK && is_set) {
            status = union_add_set(p, u, &s);
        }
        free(s.text.data);
        if (status != SQF_OK || is_set) {
            return status;
        }
        p->at--;
    }
    return read_range(p, u);
}

/* The items up to the closing bracket or "&&". */
static sqf_status read_union(parser *p, class_union *u, bool first)
{
    bool begin = first;
    while (begin || *p->at != ']') {
        if (*p->at == '\0') {
            return refuse(p, "a class without an end");
        }
        if (p->at[0] == '&' && p->at[1] == '&') {
            return SQF_OK;
        }
        begin = false;
        SQF_TRY(read_class_item(p, u));
    }
    return SQF_OK;
}

/* The operands of "&&" become lookaheads, the last one takes the character. */
static sqf_status parse_operands(parser *p, sqf_buffer *out, class_union *u, bool negated)
{
    sqf_buffer expression = {0};
    size_t operands = 0;
    sqf_status status = SQF_OK;
    bool more = true;
    while (more && status == SQF_OK) {
        status = read_union(p, u, operands == 0);
        more = *p->at == '&';
        p->at += more ? 2 : 1;
        operands++;
        if (status == SQF_OK && !more && operands == 1 && u->others.size == 0 && u->simple.size > 0) {
            free(expression.data);
            return sqf_buffer_print(out, p->err, negated ? "[^%s]" : "[%s]", u->simple.data);
        }
        if (status == SQF_OK && more) {
            status = put(p, &expression, "(?=");
        }
        if (status == SQF_OK) {
            status = union_put(p, u, &expression);
        }
        if (status == SQF_OK && more) {
            status = put(p, &expression, ")");
        }
        union_clear(u);
    }
    if (status == SQF_OK) {
        status = sqf_buffer_print(out, p->err, negated ? "(?:(?!%s)(?s:.))" : "(?:%s)", expression.data);
    }
    free(expression.data);
    return status;
}

/* A class, from its opening bracket on: an expression that matches one character. */
static sqf_status parse_class(parser *p, sqf_buffer *out)
{
    class_union u = {0};
    if (++p->depth > DEPTH_LIMIT) {
        return refuse(p, "it is nested too deeply");
    }
    p->at++;
    const bool negated = *p->at == '^';
    p->at += negated;
    const sqf_status status = parse_operands(p, out, &u, negated);
    union_clear(&u);
    p->depth--;
    return status;
}

/* Onigurumas's options i and m; any other one is refused. Ends at ':' or ')'. */
static sqf_status read_options(parser *p, char text[16])
{
    const char *start = p->at;
    size_t n = 0;
    for (; *p->at != ':' && *p->at != ')'; p->at++) {
        const char c = *p->at;
        if ((c != 'i' && c != 'm' && c != '-') || n == 8) {
            return refuse_at(p, "a group or option", start - 2);
        }
        text[n++] = (char)(c == 'm' ? 's' : c);
    }
    text[n] = '\0';
    return SQF_OK;
}

/* Reads the body of a group that has been opened, and its end. */
static sqf_status parse_body(parser *p)
{
    SQF_TRY(parse_alternatives(p));
    if (*p->at != ')') {
        return refuse(p, "a group without an end");
    }
    p->at++;
    return put(p, p->out, ")");
}

/* (?<name>...): the name is of no use without back references, which are refused. */
static sqf_status skip_name(parser *p)
{
    const char *end = strchr(p->at, '>');
    if (!end || end == p->at) {
        return refuse_at(p, "a group's name", p->at);
    }
    p->at = end + 1;
    return SQF_OK;
}

static sqf_status parse_special_group(parser *p, atom_kind *kind)
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
        SQF_TRY(put(p, p->out, "(?:"));
        return parse_body(p);
    }
    if (p->at[1] == '#') {
        const char *end = strchr(p->at, ')');
        *kind = ATOM_ANCHOR;
        p->at = end ? end + 1 : p->at + strlen(p->at);
        return end ? SQF_OK : refuse(p, "a comment without an end");
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
    return put(p, p->out, ")");
}

static sqf_status parse_group(parser *p, atom_kind *kind)
{
    *kind = ATOM_GROUP;
    p->at++;
    if (++p->depth > DEPTH_LIMIT) {
        return refuse(p, "it is nested too deeply");
    }
    if (*p->at == '*') {
        return refuse_at(p, "a verb or callout", p->at - 1);
    }
    sqf_status status;
    if (*p->at == '?') {
        status = parse_special_group(p, kind);
    } else {
        status = put(p, p->out, "(?:");
        if (status == SQF_OK) {
            status = parse_body(p);
        }
    }
    p->depth--;
    return status;
}

/* Escapes outside of a class that are neither a character nor a set. */
static sqf_status parse_special_escape(parser *p, atom_kind *kind, bool *found)
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
            return put(p, p->out, ESCAPES[i].text);
        }
    }
    *found = false;
    return SQF_OK;
}

/* \b and \B, by lookarounds on the characters of a word. */
static sqf_status put_word_boundary(parser *p, bool negated)
{
    sqf_buffer word = {0};
    const char *second = negated ? "=" : "!", *third = negated ? "!" : "=";
    sqf_status status = sqf_regex_put_property(&word, "word", p->err);
    if (status == SQF_OK) {
        status = put(p, &word, SQF_SET_WORD_EXTRA);
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

static sqf_status parse_escape(parser *p, atom_kind *kind)
{
    bool found;
    set s = {0};
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
    sqf_status status = read_set_escape(p, &s, &found);
    if (status == SQF_OK && is_word_escape(letter)) {
        status = put(p, &s.text, SQF_SET_WORD_EXTRA);
    }
    if (status == SQF_OK && found) {
        status = sqf_buffer_print(p->out, p->err, s.negated ? "[^%s]" : "[%s]", s.text.data);
    }
    free(s.text.data);
    if (status != SQF_OK || found) {
        return status;
    }
    SQF_TRY(read_escaped_character(p, &c));
    return put_character(p, p->out, c);
}

static sqf_status parse_atom(parser *p, atom_kind *kind)
{
    const char c = *p->at;
    *kind = ATOM_CHARACTER;
    switch (c) {
    case '(': return parse_group(p, kind);
    case '[': return parse_class(p, p->out);
    case '\\': return parse_escape(p, kind);
    case '.': p->at++; return put(p, p->out, ".");
    case '^':
    case '$':
        *kind = ATOM_ANCHOR;
        p->at++;
        return sqf_buffer_append(p->out, &c, 1, p->err);
    case '*':
    case '+':
    case '?': return refuse_at(p, "a quantifier without a target", p->at);
    default: break;
    }
    uint32_t character;
    SQF_TRY(next_character(p, &character));
    return put_character(p, p->out, character);
}

typedef struct quantifier {
    uint32_t least, most; /* most: UINT32_MAX = unbounded */
    bool interval, fixed;
} quantifier;

/* "{n}", "{n,}", "{,m}", "{n,m}"; anything else in braces is literal text. */
static sqf_status read_interval(parser *p, quantifier *q, bool *found)
{
    const char *start = p->at++;
    const bool low = read_number(p, 10, 6, &q->least);
    q->most = q->least;
    q->fixed = *p->at != ',';
    bool high = low;
    if (!q->fixed) {
        p->at++;
        high = read_number(p, 10, 6, &q->most);
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
        return refuse_at(p, "a repetition", start);
    }
    return SQF_OK;
}

static sqf_status read_quantifier(parser *p, quantifier *q, bool *found)
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

static sqf_status put_quantifier(parser *p, size_t atom, const quantifier *q)
{
    SQF_TRY(q->most == UINT32_MAX ? sqf_buffer_print(p->out, p->err, "{%u,}", q->least)
                                  : sqf_buffer_print(p->out, p->err, "{%u,%u}", q->least, q->most));
    if (*p->at == '?' && q->fixed) { /* {n}? is "n times or not at all" */
        p->at++;
        SQF_TRY(insert(p, p->out, atom, "(?:"));
        return put(p, p->out, ")?");
    }
    if (*p->at == '?' || (*p->at == '+' && !q->interval)) {
        return sqf_buffer_append(p->out, p->at++, 1, p->err);
    }
    return SQF_OK;
}

/* An attempt that begins inside a run of the characters with which an alternative begins repeats the attempt one
 * character earlier, which failed. Letting the alternative begin at the start of the search or of a run only
 * makes a search linear where it was quadratic, e.g. \s+$ on many spaces before a letter. */
static sqf_status guard_run(parser *p, size_t atom)
{
    sqf_buffer guard = {0};
    const size_t n = p->out->size - atom;
    sqf_status status = put(p, &guard, "(?:\\G|(?<!");
    if (status == SQF_OK) {
        status = sqf_buffer_append(&guard, p->out->data + atom, n, p->err);
    }
    if (status == SQF_OK) {
        status = put(p, &guard, "))");
    }
    if (status == SQF_OK) {
        status = insert(p, p->out, atom, guard.data);
    }
    free(guard.data);
    return status;
}

/* One atom with its quantifiers. `leading`: it begins an alternative of the whole expression. */
static sqf_status parse_piece(parser *p, bool leading)
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
            return refuse_at(p, "a quantifier behind an assertion", start);
        }
        if (!first) {
            SQF_TRY(insert(p, p->out, atom, "(?:"));
            SQF_TRY(put(p, p->out, ")"));
        } else if (leading && kind == ATOM_CHARACTER && q.most == UINT32_MAX) {
            const size_t before = p->out->size;
            SQF_TRY(guard_run(p, atom));
            atom += p->out->size - before;
        }
        SQF_TRY(put_quantifier(p, atom, &q));
    }
}

static sqf_status parse_alternatives(parser *p)
{
    bool begin = true;
    while (*p->at != '\0' && *p->at != ')') {
        if (*p->at == '|') {
            p->at++;
            begin = true;
            SQF_TRY(put(p, p->out, "|"));
            continue;
        }
        SQF_TRY(parse_piece(p, begin && p->depth == 0));
        begin = false;
    }
    return SQF_OK;
}

sqf_status sqf_regex_translate(const char *pattern, const char *where, sqf_buffer *out, sqf_error *err)
{
    parser p = {.at = pattern, .where = where, .out = out, .err = err};
    const size_t n = strlen(pattern);
    if (n > LENGTH_LIMIT) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: regular expression: expected at most %d bytes, found %zu", where,
                        LENGTH_LIMIT, n);
    }
    SQF_TRY(put(&p, out, ""));
    SQF_TRY(parse_alternatives(&p));
    return *p.at == ')' ? refuse(&p, "a parenthesis too many") : SQF_OK;
}

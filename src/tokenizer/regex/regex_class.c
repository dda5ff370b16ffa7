/* Characters, escapes and classes of regular expressions. Oniguruma's classes may be nested and intersected, PCRE2's
 * not: what has no spelling as a class becomes alternatives and lookaheads of one character each. */
#include <string.h>

#include "tokenizer/regex/regex_parser.h"
#include "tokenizer/regex/regex_sets.h"
#include "tokenizer/unicode.h"

/* PCRE2's own \s has U+180E in addition, so its \S lacks it. */
#define SET_NOT_SPACE "\\S\\x{180e}"
#define SET_NOT_HEX   "\\x{0}-\\x{2f}:-@G-`g-\\x{10ffff}"

sqf_status sqf_regex_refuse(const sqf_regex_parser *p, const char *what)
{
    return sqf_fail(p->err, SQF_E_SUPPORT, "%s: regular expression is not supported: %s", p->where, what);
}

sqf_status sqf_regex_refuse_at(const sqf_regex_parser *p, const char *what, const char *at)
{
    return sqf_fail(p->err, SQF_E_SUPPORT, "%s: regular expression is not supported: %s at \"%.12s\"", p->where, what,
                    at);
}

sqf_status sqf_regex_put(const sqf_regex_parser *p, sqf_buffer *out, const char *text)
{
    return sqf_buffer_append(out, text, strlen(text), p->err);
}

static bool is_alphanumeric(uint32_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* One literal character, safe inside and outside of a class. */
sqf_status sqf_regex_put_character(const sqf_regex_parser *p, sqf_buffer *out, uint32_t c)
{
    if (is_alphanumeric(c)) {
        const char letter = (char)c;
        return sqf_buffer_append(out, &letter, 1, p->err);
    }
    return sqf_buffer_print(out, p->err, "\\x{%x}", (unsigned)c);
}

sqf_status sqf_regex_next_character(sqf_regex_parser *p, uint32_t *c)
{
    size_t length;
    if (*p->at == '\0') {
        return sqf_regex_refuse(p, "it ends too early");
    }
    if (sqf_utf8_next(p->at, strlen(p->at), c, &length) != SQF_UTF8_VALID) {
        return sqf_regex_refuse(p, "it is not UTF-8");
    }
    p->at += length;
    return SQF_OK;
}

/* Reads up to `most` digits of a base; false if there is none. */
bool sqf_regex_read_number(sqf_regex_parser *p, unsigned base, unsigned most, uint32_t *value)
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

static sqf_status read_hexadecimal(sqf_regex_parser *p, const char *start, uint32_t *c)
{
    if (p->at[-1] == 'u') {
        const char *digits = p->at;
        if (!sqf_regex_read_number(p, 16, 4, c) || p->at - digits != 4) {
            return sqf_regex_refuse_at(p, "\\u needs four digits", start);
        }
    } else if (*p->at == '{') {
        p->at++;
        if (!sqf_regex_read_number(p, 16, 8, c) || *p->at != '}') {
            return sqf_regex_refuse_at(p, "\\x{...} needs one number", start);
        }
        p->at++;
    } else if (!sqf_regex_read_number(p, 16, 2, c) || *c >= 0x80) {
        return sqf_regex_refuse_at(p, "\\x needs a number below 80", start);
    }
    if (*c > 0x10ffff || (*c >= 0xd800 && *c <= 0xdfff)) {
        return sqf_regex_refuse_at(p, "a code point that does not exist", start);
    }
    return SQF_OK;
}

/* An escape that stands for one character; `p->at` is behind the backslash. */
sqf_status sqf_regex_read_escaped_character(sqf_regex_parser *p, uint32_t *c)
{
    const char *start = p->at - 1;
    SQF_TRY(sqf_regex_next_character(p, c));
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
        sqf_regex_read_number(p, 8, 3, c);
        return SQF_OK;
    default: return is_alphanumeric(*c) ? sqf_regex_refuse_at(p, "escape", start) : SQF_OK;
    }
}

/* \p{Name}, \p{^Name}, \P{Name}; `p->at` is behind the letter. */
static sqf_status read_property(sqf_regex_parser *p, sqf_regex_set *out)
{
    char name[48];
    size_t n = 0;
    const char *start = p->at - 2;
    out->negated = p->at[-1] == 'P';
    if (*p->at++ != '{') {
        return sqf_regex_refuse_at(p, "a property without braces", start);
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
            return sqf_regex_refuse_at(p, "a property", start);
        }
        name[n++] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    }
    p->at++;
    name[n] = '\0';
    return sqf_regex_put_property(&out->text, name, p->err);
}

/* An escape that stands for a set; *is_set = false if it does not, and nothing is read. `p->at` is behind the
 * backslash. */
sqf_status sqf_regex_read_set_escape(sqf_regex_parser *p, sqf_regex_set *out, bool *is_set)
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

static sqf_status union_add_other(const sqf_regex_parser *p, class_union *u, const char *text)
{
    SQF_TRY(sqf_regex_put(p, &u->others, "|"));
    return sqf_regex_put(p, &u->others, text);
}

/* Adds a set. A complement that has no spelling inside a class becomes an alternative of its own. */
static sqf_status union_add_set(const sqf_regex_parser *p, class_union *u, const sqf_regex_set *s)
{
    if (!s->negated) {
        return sqf_regex_put(p, &u->simple, s->text.data);
    }
    if (strcmp(s->text.data, SQF_SET_SPACE) == 0) {
        return sqf_regex_put(p, &u->simple, SET_NOT_SPACE);
    }
    if (strcmp(s->text.data, SQF_SET_HEX) == 0) {
        return sqf_regex_put(p, &u->simple, SET_NOT_HEX);
    }
    SQF_TRY(sqf_regex_put(p, &u->others, "|[^"));
    SQF_TRY(sqf_regex_put(p, &u->others, s->text.data));
    return sqf_regex_put(p, &u->others, "]");
}

/* Writes the union as an expression that matches one character. */
static sqf_status union_put(const sqf_regex_parser *p, const class_union *u, sqf_buffer *out)
{
    if (u->others.size == 0) {
        return u->simple.size == 0 ? sqf_regex_put(p, out, "(?!)")
                                   : sqf_buffer_print(out, p->err, "[%s]", u->simple.data);
    }
    SQF_TRY(sqf_regex_put(p, out, "(?:"));
    if (u->simple.size == 0) {
        SQF_TRY(sqf_regex_put(p, out, u->others.data + 1));
    } else {
        SQF_TRY(sqf_buffer_print(out, p->err, "[%s]%s", u->simple.data, u->others.data));
    }
    return sqf_regex_put(p, out, ")");
}

/* [:name:] or [:^name:]; false if this is no bracket of that kind. */
static bool read_posix_name(sqf_regex_parser *p, char name[16], bool *negated)
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

static sqf_status read_posix(sqf_regex_parser *p, class_union *u, bool *found)
{
    static const char *const NAMES[] = {"alnum", "alpha", "ascii", "blank", "cntrl", "digit",
                                        "lower", "punct", "space", "upper", "word",  "xdigit"};
    char name[16];
    sqf_regex_set s = {0};
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
    return sqf_regex_refuse_at(p, "a bracket name", start);
}

/* A character of a class and the range that may begin with it. */
static sqf_status read_range(sqf_regex_parser *p, class_union *u)
{
    const char *start = p->at;
    uint32_t first, last;
    SQF_TRY(sqf_regex_next_character(p, &first));
    if (first == '\\') {
        SQF_TRY(sqf_regex_read_escaped_character(p, &first));
    }
    SQF_TRY(sqf_regex_put_character(p, &u->simple, first));
    if (p->at[0] != '-' || p->at[1] == ']' || p->at[1] == '\0' || (p->at[1] == '&' && p->at[2] == '&')) {
        return SQF_OK;
    }
    p->at++;
    if (*p->at == '[') {
        return sqf_regex_refuse_at(p, "a range that ends with a class", start);
    }
    SQF_TRY(sqf_regex_next_character(p, &last));
    if (last == '\\') {
        if (*p->at != '\0' && strchr("dDsSwWhHpP", *p->at)) {
            return sqf_regex_refuse_at(p, "a range that ends with a set", start);
        }
        SQF_TRY(sqf_regex_read_escaped_character(p, &last));
    }
    if (last < first) {
        return sqf_regex_refuse_at(p, "a range in falling order", start);
    }
    SQF_TRY(sqf_regex_put(p, &u->simple, "-"));
    return sqf_regex_put_character(p, &u->simple, last);
}

static sqf_status read_class_item(sqf_regex_parser *p, class_union *u)
{
    if (*p->at == '[') {
        bool found;
        SQF_TRY(read_posix(p, u, &found));
        if (found) {
            return SQF_OK;
        }
        sqf_buffer inner = {0};
        sqf_status status = sqf_regex_parse_class(p, &inner);
        if (status == SQF_OK) {
            status = union_add_other(p, u, inner.data);
        }
        free(inner.data);
        return status;
    }
    if (*p->at == '\\') {
        sqf_regex_set s = {0};
        bool is_set;
        p->at++;
        sqf_status status = sqf_regex_read_set_escape(p, &s, &is_set);
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
static sqf_status read_union(sqf_regex_parser *p, class_union *u, bool first)
{
    bool begin = first;
    while (begin || *p->at != ']') {
        if (*p->at == '\0') {
            return sqf_regex_refuse(p, "a class without an end");
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
static sqf_status parse_operands(sqf_regex_parser *p, sqf_buffer *out, class_union *u, bool negated)
{
    sqf_buffer expression = {0};
    size_t operands = 0;
    sqf_status status = SQF_OK;
    bool more = true;
    while (more && status == SQF_OK) {
        status = read_union(p, u, operands == 0);
        if (status != SQF_OK) {
            break;
        }
        more = *p->at == '&';
        p->at += more ? 2 : 1;
        operands++;
        if (status == SQF_OK && !more && operands == 1 && u->others.size == 0 && u->simple.size > 0) {
            free(expression.data);
            return sqf_buffer_print(out, p->err, negated ? "[^%s]" : "[%s]", u->simple.data);
        }
        if (status == SQF_OK && more) {
            status = sqf_regex_put(p, &expression, "(?=");
        }
        if (status == SQF_OK) {
            status = union_put(p, u, &expression);
        }
        if (status == SQF_OK && more) {
            status = sqf_regex_put(p, &expression, ")");
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
sqf_status sqf_regex_parse_class(sqf_regex_parser *p, sqf_buffer *out)
{
    class_union u = {0};
    if (++p->depth > SQF_REGEX_DEPTH_LIMIT) {
        return sqf_regex_refuse(p, "it is nested too deeply");
    }
    p->at++;
    const bool negated = *p->at == '^';
    p->at += negated;
    const sqf_status status = parse_operands(p, out, &u, negated);
    union_clear(&u);
    p->depth--;
    return status;
}

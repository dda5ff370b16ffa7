/* The inside of the translation of regular expressions: what the parser of classes shares with the rest. */
#ifndef SQF_TOKENIZER_REGEX_PARSER_H
#define SQF_TOKENIZER_REGEX_PARSER_H

#include "base/memory.h"

enum { SQF_REGEX_DEPTH_LIMIT = 100 };

typedef struct sqf_regex_parser {
    const char *at; /* NUL-terminated */
    const char *where;
    sqf_buffer *out;
    sqf_error *err;
    unsigned depth;
} sqf_regex_parser;

/* A set of characters: `text` is the inside of a class; negated means its complement. */
typedef struct sqf_regex_set {
    sqf_buffer text;
    bool negated;
} sqf_regex_set;

/* Fails with SQF_E_SUPPORT; the second names the place too. */
sqf_status sqf_regex_refuse(const sqf_regex_parser *p, const char *what);
sqf_status sqf_regex_refuse_at(const sqf_regex_parser *p, const char *what, const char *at);

/* Appends text as it stands, or one literal character, safe inside and outside of a class. */
sqf_status sqf_regex_put(const sqf_regex_parser *p, sqf_buffer *out, const char *text);
sqf_status sqf_regex_put_character(const sqf_regex_parser *p, sqf_buffer *out, uint32_t c);

/* Reads a character of the pattern. */
sqf_status sqf_regex_next_character(sqf_regex_parser *p, uint32_t *c);

/* Reads up to `most` digits of a base; false if there is none. */
bool sqf_regex_read_number(sqf_regex_parser *p, unsigned base, unsigned most, uint32_t *value);

/* An escape that stands for one character; `p->at` is behind the backslash. */
sqf_status sqf_regex_read_escaped_character(sqf_regex_parser *p, uint32_t *c);

/* An escape that stands for a set; *is_set = false if it does not, and nothing is read. `p->at` is behind the
 * backslash. */
sqf_status sqf_regex_read_set_escape(sqf_regex_parser *p, sqf_regex_set *out, bool *is_set);

/* A class, from its opening bracket on: appends an expression that matches one character. */
sqf_status sqf_regex_parse_class(sqf_regex_parser *p, sqf_buffer *out);

#endif

/* Sets of characters in regular expressions, as insides of PCRE2 classes. */
#ifndef SQF_TOKENIZER_REGEX_SETS_H
#define SQF_TOKENIZER_REGEX_SETS_H

#include "base/memory.h"

#define SQF_SET_SPACE "\\t-\\r \\x{85}\\p{Z}"
#define SQF_SET_HEX   "0-9A-Fa-f"
/* Outside of classes Oniguruma's \w has six characters more than inside: superscripts and fractions of Latin-1. */
#define SQF_SET_WORD_EXTRA "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

/* Appends the set of a property: `name` in lower case, without blanks, '-' and '_'. A name that is not known is taken
 * as a script's, which the compiler refuses if it is none. */
sqf_status sqf_regex_put_property(sqf_buffer *out, const char *name, sqf_error *err);

#endif

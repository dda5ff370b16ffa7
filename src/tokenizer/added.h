/* Added tokens: texts that become one token wherever they occur, before the model sees the rest. */
#ifndef SQF_TOKENIZER_ADDED_H
#define SQF_TOKENIZER_ADDED_H

#include "tokenizer/pieces.h"

typedef struct sqf_added_token {
    const char *text; /* what is searched: the content, or its normalized form */
    size_t size;
    uint32_t id;
    bool single_word, lstrip, rstrip;
} sqf_added_token;

/* Finds tokens of one set, leftmost first, the longest at each place, in linear time: an Aho-Corasick automaton of
 * the reversed texts, run from the end, knows at each byte the longest token that begins there. Immutable. */
typedef struct sqf_added_set sqf_added_set;

/* Builds the automaton for `count` > 0 tokens with texts that are not empty. SQF_E_FORMAT: two are equal. The texts
 * are borrowed for the call, the other members copied. */
sqf_status sqf_added_set_create(const sqf_added_token *tokens, size_t count, sqf_added_set **out, sqf_error *err);
void sqf_added_set_destroy(sqf_added_set *set);

/* Cuts the tokens of the set out of every piece of text; set NULL: nothing to find. */
sqf_status sqf_added_set_split(const sqf_added_set *set, sqf_pieces *pieces, sqf_matcher *matcher, sqf_error *err);

#endif

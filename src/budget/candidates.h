/* Settings to choose from, as text. */
#ifndef SQF_BUDGET_CANDIDATES_H
#define SQF_BUDGET_CANDIDATES_H

#include <sqf/quantize.h>

#include "base/memory.h"

enum { SQF_CANDIDATES_MAX = 256 };

/* Candidates with every `|` written out: a scheme and key=value words, single blanks between them, none twice. */
typedef struct sqf_candidates {
    size_t count;
    char *text[SQF_CANDIDATES_MAX]; /* owned */
} sqf_candidates;

/* Reads the list of sqf_budget_options.candidates. Release with sqf_candidates_clear, also after a failure. SQF_E_ARG:
 * an empty list or candidate, a word without '=', more than SQF_CANDIDATES_MAX. */
sqf_status sqf_candidates_parse(const char *list, sqf_candidates *out, sqf_error *err);
void sqf_candidates_clear(sqf_candidates *candidates);

/* Adds an override with a candidate's keys to a recipe. SQF_E_ARG names the candidate. */
sqf_status sqf_candidate_apply(const char *candidate, const char *match, sqf_recipe *recipe, sqf_error *err);

/* A recipe equal to another; the caller's. */
sqf_status sqf_recipe_copy(const sqf_recipe *recipe, sqf_recipe **out, sqf_error *err);

#endif

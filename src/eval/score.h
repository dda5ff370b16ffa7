/* The arithmetic of an evaluation: rows of logits to figures of a token, tokens to figures of a text. */
#ifndef SQF_EVAL_SCORE_H
#define SQF_EVAL_SCORE_H

#include <sqf/eval.h>

#include "base/thread.h"

/* Figures of each scored token, in the order of the text; the last three only with a reference (of one that was run
 * before, reference_nll alone). */
typedef struct sqf_token_scores {
    size_t count;
    double *nll;
    double *reference_nll;
    double *kl;
    uint8_t *same_top;
} sqf_token_scores;

/* Room for `room` tokens, known in advance; `compared`: also for the figures that need a reference. */
sqf_status sqf_token_scores_create(size_t room, bool compared, sqf_token_scores *out, sqf_error *err);
void sqf_token_scores_clear(sqf_token_scores *scores);

/* Appends the figures of `rows` rows of logits [rows, vocabulary]; next[row] is the token that came. reference: NULL or
 * logits of the same shape. Rows are scored in parallel. SQF_E_VALUE names the row (relative to the call) whose logits
 * hold a NaN or an infinity; nothing is appended then. */
sqf_status sqf_token_scores_add(sqf_token_scores *scores, sqf_pool *pool, const float *logits, const float *reference,
                                const uint32_t *next, size_t rows, size_t vocabulary, sqf_error *err);

/* Fills all figures of `result` that follow from the tokens (not counts, bytes, times). count >= 1; errors are 0 for a
 * single token. */
void sqf_token_scores_summarize(const sqf_token_scores *scores, sqf_eval_result *result);

#endif

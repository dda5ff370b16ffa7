/* One model at work on items: a session whose beginning is kept from input to input. */
#ifndef SQF_TASKS_SCORER_H
#define SQF_TASKS_SCORER_H

#include "eval/score.h"
#include "tasks/encode.h"
#include "tasks/items.h"

/* What a model said about one item. */
typedef struct sqf_answer {
    double *log_likelihoods; /* [options] sums of natural logarithms; NULL of a generated answer */
    size_t *tokens;          /* [options] of the continuations; NULL where nothing was computed */
    bool greedy;             /* of the first option: every token was the most probable one */
    char *generation;        /* UTF-8, cut at the first stop text; NULL of other kinds */
    bool truncated;
} sqf_answer;

void sqf_answer_clear(sqf_answer *answer);

/* Whether an id is the most probable one of a row of logits; of equal ones the lowest. */
static inline bool sqf_is_top(const float *row, size_t vocabulary, uint32_t id)
{
    for (size_t i = 0; i < vocabulary; i++) {
        if (row[i] > row[id] || (row[i] == row[id] && i < id)) {
            return false;
        }
    }
    return true;
}

typedef struct sqf_scorer {
    sqf_context *context;
    const sqf_model *model;
    const sqf_tokenizer *tokenizer;
    sqf_session *session;
    size_t vocabulary, positions;
    uint32_t prefix;  /* stands for an empty context */
    float *logits;    /* [SCORER_ROWS, vocabulary] */
    sqf_ids examples; /* what most inputs of the task begin with */
    size_t held;      /* tokens of `examples` that the session begins with */
    uint64_t tokens_run, tokens_reused;
} sqf_scorer;

sqf_status sqf_scorer_create(sqf_scorer *scorer, sqf_context *context, const sqf_model *model, sqf_kv_type kv,
                             const sqf_tokenizer *tokenizer, sqf_error *err);
void sqf_scorer_clear(sqf_scorer *scorer);

/* Tells what most inputs of the next items begin with; "" = nothing. */
sqf_status sqf_scorer_set_examples(sqf_scorer *scorer, const char *text, sqf_error *err);

/* Asks the model about items[index] with `examples` (text, may be "") in front of each context. max_new_tokens: of a
 * generated answer. answer: {0} before; to be cleared also after a failure. */
sqf_status sqf_scorer_ask(sqf_scorer *scorer, const sqf_task *task, size_t index, const char *examples,
                          size_t max_new_tokens, sqf_answer *answer, sqf_error *err);

#endif

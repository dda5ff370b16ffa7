/* From what a model said to what counts: choices, extracted answers, figures of an item. */
#ifndef SQF_TASKS_VERDICT_H
#define SQF_TASKS_VERDICT_H

#include "tasks/scorer.h"

/* What is made of one answer. */
typedef struct sqf_verdict {
    double value[SQF_METRIC_COUNT]; /* 1 or 0; of perplexity the negative log-likelihood; NaN where there is none */
    size_t chosen, chosen_norm, chosen_bytes; /* options; of choice and partial */
    char *strict, *flexible;                  /* extracted, or NULL where nothing was found; of generate */
} sqf_verdict;

void sqf_verdict_clear(sqf_verdict *verdict);

/* Judges an answer. SQF_E_VALUE: the effort for an expression exceeds its limits; SQF_E_MEMORY. {0} on failure. */
sqf_status sqf_verdict_make(const sqf_task *task, const sqf_item *item, const sqf_answer *answer, sqf_verdict *out,
                            sqf_error *err);

/* An answer as it is compared: without ',' and '$', without anything up to the last "#### ", without a full stop at
 * the end, in lower case. For free(). */
sqf_status sqf_answer_normalize(const char *text, char **out, sqf_error *err);

#endif

/* Benchmarks of a point: accuracies beside its perplexity. */
#ifndef SQF_CLI_SWEEP_BENCHMARKS_H
#define SQF_CLI_SWEEP_BENCHMARKS_H

#include <jansson.h>

#include <sqf/tasks.h>

/* Runs the benchmarks that the settings name, if any, and adds "tasks", a list with the figures of each, and "accuracy"
 * with "accuracy_error", the mean of their accuracies. reference may be NULL: then there are no differences. */
sqf_status add_benchmarks(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                          const sqf_tokenizer *tokenizer, const json_t *settings, json_t *figures, sqf_error *err);

#endif

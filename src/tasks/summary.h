/* Figures of a task from its items' verdicts. */
#ifndef SQF_TASKS_SUMMARY_H
#define SQF_TASKS_SUMMARY_H

#include <sqf/tasks.h>

#include "base/error.h"

/* model, reference [n][SQF_METRIC_COUNT]: values of verdicts; reference NULL = none. Fills figures and changes. */
sqf_status sqf_summarize(const double *model, const double *reference, size_t n, size_t resamples, uint64_t seed,
                         sqf_task_result *result, sqf_error *err);

#endif

/* What stands before measuring: places and their costs, held-out text, the key of the measurements. */
#ifndef SQF_BUDGET_PREPARE_H
#define SQF_BUDGET_PREPARE_H

#include "budget/budget.h"

/* Fills a zeroed task->budget but for measurements and choice. `options` is a copy of the caller's that receives
 * `tokens` where the held-out text is cut off the calibration text. */
sqf_status sqf_budget_prepare(sqf_budget_task *task, sqf_quantize_options *options, sqf_error *err);

#endif

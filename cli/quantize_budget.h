/* sqf quantize with a target: the options, and what is said of the choice. */
#ifndef SQF_CLI_QUANTIZE_BUDGET_H
#define SQF_CLI_QUANTIZE_BUDGET_H

#include <jansson.h>

#include <sqf/budget.h>

#include "option.h"

extern const cli_option budget_options[];
extern const size_t budget_option_count;

/* True if a target was given. */
bool budget_is_wanted(const cli_arguments *arguments);

/* EXIT_DONE or the code after a message; text is borrowed from the arguments. */
int budget_read(const cli_arguments *arguments, sqf_budget_options *out);

/* What was chosen and why, as a table. */
void budget_print(const sqf_budget *budget);

/* The same as a JSON object. */
json_t *budget_json(const sqf_budget *budget);

#endif

/* The parts of sqf eval that are not perplexity: benchmarks and agreement of generated text. */
#ifndef SQF_CLI_EVAL_TASKS_H
#define SQF_CLI_EVAL_TASKS_H

#include <sqf/tasks.h>

#include "output.h"

/* The models of an evaluation, opened. */
typedef struct eval_models {
    sqf_context *context;
    sqf_tokenizer *tokenizer;
    sqf_model *model, *reference;
} eval_models;

/* --tasks: runs the files and prints their figures; an exit code. */
int run_tasks(const cli_arguments *arguments, const eval_models *models);

/* --generation: an exit code. */
int run_agreement(const cli_arguments *arguments, const eval_models *models);

/* --list-tasks: an exit code. */
int print_task_list(const cli_arguments *arguments);

#endif

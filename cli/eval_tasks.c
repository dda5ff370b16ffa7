/* sqf eval --tasks, --list-tasks and --generation. What the figures mean stands in docs/evaluation.md. */
#include "eval_tasks.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

/* Task files that were named, and what became of them. */
typedef struct task_list {
    sqf_task **tasks;
    sqf_task_result *results;
    size_t count;
} task_list;

/* "acc": {value} and "acc_error": standard error, "acc_error_analytic". */
static void add_figure(json_t *object, const char *name, const sqf_task_figure *figure)
{
    char key[64];
    json_object_set_new(object, name, json_number(figure->value));
    snprintf(key, sizeof key, "%s_error", name);
    json_object_set_new(object, key, json_number(figure->error));
    snprintf(key, sizeof key, "%s_error_analytic", name);
    json_object_set_new(object, key, json_number(figure->analytic_error));
}

/* acc and acc_norm stand in every task (null where a kind has none), the others where they exist. */
static void add_figures(json_t *object, const sqf_task_figure *figures)
{
    for (int m = 0; m < SQF_METRIC_COUNT; m++) {
        if (m <= SQF_METRIC_ACC_NORM || !isnan(figures[m].value)) {
            add_figure(object, sqf_task_metric_name((sqf_task_metric)m), &figures[m]);
        }
    }
}

static json_t *changes_json(const sqf_task_result *result)
{
    json_t *object = json_object();
    for (int m = 0; m < SQF_METRIC_COUNT; m++) {
        const sqf_task_change *change = &result->change[m];
        if (isnan(change->difference)) {
            continue;
        }
        json_t *entry = json_object();
        json_object_set_new(entry, "difference", json_number(change->difference));
        json_object_set_new(entry, "error", json_number(change->error));
        if (m != SQF_METRIC_PERPLEXITY) {
            json_object_set_new(entry, "gained", json_count(change->gained));
            json_object_set_new(entry, "lost", json_count(change->lost));
        }
        json_object_set_new(entry, "test", json_string(m == SQF_METRIC_PERPLEXITY ? "bootstrap" : "mcnemar"));
        json_object_set_new(entry, "p_value", json_number(change->p_value));
        json_object_set_new(entry, "significant", json_boolean(change->significant));
        json_object_set_new(object, sqf_task_metric_name((sqf_task_metric)m), entry);
    }
    return object;
}

static json_t *task_json(const sqf_task *task, const sqf_task_result *result)
{
    const sqf_task_info info = sqf_task_info_get(task);
    json_t *object = json_object();
    json_object_set_new(object, "name", json_string_or_null(info.name));
    json_object_set_new(object, "definition", json_string_or_null(info.definition));
    json_object_set_new(object, "kind", json_string(sqf_task_kind_name(info.kind)));
    json_object_set_new(object, "path", json_string_or_null(info.path));
    json_object_set_new(object, "items", json_count(result->items));
    add_figures(object, result->model);
    json_object_set_new(object, "few_shot", json_count(result->few_shot));
    if (info.kind == SQF_TASK_GENERATE) {
        json_object_set_new(object, "max_new_tokens", json_count(result->max_new_tokens));
    }
    json_object_set_new(object, "truncated", json_count(result->truncated));
    json_object_set_new(object, "resumed", json_count(result->resumed));
    json_object_set_new(object, "tokens_run", json_count(result->tokens_run));
    json_object_set_new(object, "tokens_reused", json_count(result->tokens_reused));
    json_object_set_new(object, "seconds", json_number(result->seconds));
    if (result->compared) {
        json_t *reference = json_object();
        add_figures(reference, result->reference);
        json_object_set_new(object, "reference", reference);
        json_object_set_new(object, "changes", changes_json(result));
    }
    return object;
}

/* What both kinds of output of this file begin with. */
static json_t *models_json(const cli_arguments *arguments, const eval_models *models)
{
    json_t *object = json_object();
    json_object_set_new(object, "model", json_string_or_null(arguments->operands[0]));
    json_object_set_new(object, "scheme", json_string_or_null(sqf_model_info_get(models->model).scheme));
    json_object_set_new(object, "kv", json_string(arguments_text(arguments, "kv")));
    if (models->reference) {
        json_object_set_new(object, "reference", json_string_or_null(arguments_text(arguments, "reference")));
        json_object_set_new(object, "reference_scheme",
                            json_string_or_null(sqf_model_info_get(models->reference).scheme));
    }
    json_object_set_new(object, "seed", json_count(arguments_count(arguments, "seed")));
    json_object_set_new(object, "resamples", json_count(arguments_count(arguments, "resamples")));
    json_object_set_new(object, "threads", json_integer(sqf_context_threads(models->context)));
    json_object_set_new(object, "cpu_level", json_string(sqf_context_cpu(models->context)));
    json_object_set_new(object, "device", json_string_or_null(sqf_context_device(models->context)));
    return object;
}

static int print_tasks_json(const cli_arguments *arguments, const eval_models *models, const task_list *list)
{
    json_t *object = models_json(arguments, models), *tasks = json_array();
    for (size_t i = 0; i < list->count; i++) {
        json_array_append_new(tasks, task_json(list->tasks[i], &list->results[i]));
    }
    json_object_set_new(object, "tasks", tasks);
    return print_json(object);
}

/* "acc 28.00 % +- 4.49" or "perplexity 812.1 +- 40.2". */
static void print_figure(int metric, const sqf_task_figure *figure)
{
    const char *name = sqf_task_metric_name((sqf_task_metric)metric);
    if (metric == SQF_METRIC_PERPLEXITY) {
        printf("  %s %.4f +- %.4f", name, figure->value, figure->error);
    } else {
        printf("  %s %.2f %% +- %.2f", name, 100 * figure->value, 100 * figure->error);
    }
}

static void print_figures(const sqf_task_figure *figures)
{
    for (int m = 0; m < SQF_METRIC_COUNT; m++) {
        if (!isnan(figures[m].value)) {
            print_figure(m, &figures[m]);
        }
    }
    putchar('\n');
}

static void print_change(int metric, const sqf_task_change *change)
{
    const char *name = sqf_task_metric_name((sqf_task_metric)metric);
    if (metric == SQF_METRIC_PERPLEXITY) {
        printf("    %-12s %+.4f +- %.4f, p = %.3g (paired bootstrap): %s\n", name, change->difference, change->error,
               change->p_value, change->significant ? "significant" : "not significant");
        return;
    }
    printf("    %-12s %+.2f %% +- %.2f, %zu gained, %zu lost, p = %.3g (McNemar, exact): %s\n", name,
           100 * change->difference, 100 * change->error, change->gained, change->lost, change->p_value,
           change->significant ? "significant" : "not significant");
}

static void print_task(const sqf_task *task, const sqf_task_result *result)
{
    const sqf_task_info info = sqf_task_info_get(task);
    printf("%s: %zu item%s", info.name, result->items, result->items == 1 ? "" : "s");
    if (result->few_shot > 0) {
        printf(", %zu example%s", result->few_shot, result->few_shot == 1 ? "" : "s");
    }
    if (result->truncated > 0) {
        printf(", %zu cut to the model's positions", result->truncated);
    }
    if (result->resumed > 0) {
        printf(", %zu resumed", result->resumed);
    }
    printf("\n  %-10s", "model");
    print_figures(result->model);
    if (!result->compared) {
        return;
    }
    printf("  %-10s", "reference");
    print_figures(result->reference);
    for (int m = 0; m < SQF_METRIC_COUNT; m++) {
        if (!isnan(result->change[m].difference)) {
            print_change(m, &result->change[m]);
        }
    }
}

static void print_tasks(const cli_arguments *arguments, const eval_models *models, const task_list *list)
{
    progress_clear();
    printf("model          %s (%s)\n", arguments->operands[0], sqf_model_info_get(models->model).scheme);
    if (models->reference) {
        printf("reference      %s (%s)\n", arguments_text(arguments, "reference"),
               sqf_model_info_get(models->reference).scheme);
    }
    printf("bootstrap      %" PRIu64 " resamples, seed %" PRIu64 "\n", arguments_count(arguments, "resamples"),
           arguments_count(arguments, "seed"));
    for (size_t i = 0; i < list->count; i++) {
        print_task(list->tasks[i], &list->results[i]);
    }
}

/* Files behind --tasks, each time it is given, then the operands behind the model: what a shell makes of
 * `--tasks` and a pattern. */
static const char *task_path(const cli_arguments *arguments, size_t index)
{
    for (size_t i = 0; i < arguments->value_count; i++) {
        if (strcmp(arguments->values[i].option->name, "tasks") == 0 && index-- == 0) {
            return arguments->values[i].text;
        }
    }
    return index + 1 < arguments->operand_count ? arguments->operands[index + 1] : NULL;
}

static sqf_status load_tasks(const cli_arguments *arguments, task_list *list, sqf_error *err)
{
    for (const char *path; (path = task_path(arguments, list->count)) != NULL; list->count++) {
        const sqf_status status =
            sqf_task_load(path, arguments_text(arguments, "task-file"), &list->tasks[list->count], err);
        if (status != SQF_OK) {
            return status;
        }
    }
    return SQF_OK;
}

static sqf_tasks_options read_options(const cli_arguments *arguments)
{
    sqf_tasks_options options = sqf_tasks_options_default();
    options.limit = arguments_count(arguments, "limit");
    if (arguments_given(arguments, "few-shot")) {
        options.few_shot = arguments_count(arguments, "few-shot");
    }
    options.max_new_tokens = arguments_count(arguments, "max-new");
    options.resamples = arguments_count(arguments, "resamples");
    options.seed = arguments_count(arguments, "seed");
    options.resume = arguments_given(arguments, "resume");
    options.kv = (sqf_kv_type)arguments_choice(arguments, "kv");
    options.items = arguments_text(arguments, options.resume ? "resume" : "items");
    return options;
}

int run_tasks(const cli_arguments *arguments, const eval_models *models)
{
    const size_t room = arguments->value_count + arguments->operand_count;
    task_list list = {.tasks = calloc(room, sizeof *list.tasks), .results = calloc(room, sizeof *list.results)};
    sqf_error err = {0};
    int code = EXIT_DONE;
    if (!list.tasks || !list.results) {
        code = fail_input("out of memory");
    } else {
        const sqf_tasks_options options = read_options(arguments);
        sqf_status status = load_tasks(arguments, &list, &err);
        if (status == SQF_OK) {
            status = sqf_tasks_run(models->context, models->model, models->reference, models->tokenizer,
                                   (const sqf_task *const *)list.tasks, list.count, &options, list.results, &err);
        }
        if (status != SQF_OK) {
            code = fail_error(&err);
        } else if (arguments_given(arguments, "json")) {
            code = print_tasks_json(arguments, models, &list);
        } else {
            print_tasks(arguments, models, &list);
        }
    }
    for (size_t i = 0; i < list.count; i++) {
        sqf_task_destroy(list.tasks[i]);
    }
    free(list.tasks);
    free(list.results);
    return code;
}

int print_task_list(const cli_arguments *arguments)
{
    size_t count;
    const sqf_task_builtin *builtins = sqf_task_builtins(&count);
    if (!arguments_given(arguments, "json")) {
        for (size_t i = 0; i < count; i++) {
            printf("# %s; read by files %s.jsonl, %s-*.jsonl\n%s\n", builtins[i].summary, builtins[i].name,
                   builtins[i].name, builtins[i].definition);
        }
        return EXIT_DONE;
    }
    json_t *object = json_object(), *list = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *entry = json_object();
        json_object_set_new(entry, "name", json_string(builtins[i].name));
        json_object_set_new(entry, "summary", json_string(builtins[i].summary));
        json_object_set_new(entry, "definition", json_string(builtins[i].definition));
        json_array_append_new(list, entry);
    }
    json_object_set_new(object, "tasks", list);
    return print_json(object);
}

static json_t *agreement_json(const cli_arguments *arguments, const eval_models *models, const sqf_agreement *result)
{
    json_t *object = models_json(arguments, models), *lengths = json_array();
    json_object_set_new(object, "text", json_string_or_null(arguments_text(arguments, "text")));
    json_object_set_new(object, "prompts", json_count(result->prompts));
    json_object_set_new(object, "prompt_tokens", json_count(arguments_count(arguments, "prompt-tokens")));
    json_object_set_new(object, "new_tokens", json_count(arguments_count(arguments, "generation")));
    json_object_set_new(object, "first_divergence", json_number(result->first_divergence));
    json_object_set_new(object, "first_divergence_error", json_number(result->first_divergence_error));
    json_object_set_new(object, "divergence_rate", json_number(result->divergence_rate));
    json_object_set_new(object, "divergence_rate_error", json_number(result->divergence_rate_error));
    json_object_set_new(object, "teacher_top", json_number(result->teacher_top));
    json_object_set_new(object, "nll", json_number(result->model_nll));
    json_object_set_new(object, "reference_nll", json_number(result->reference_nll));
    json_object_set_new(object, "nll_difference", json_number(result->nll_difference));
    json_object_set_new(object, "nll_difference_error", json_number(result->nll_difference_error));
    for (size_t i = 0; i < result->lengths; i++) {
        json_t *entry = json_object();
        json_object_set_new(entry, "tokens", json_count(result->length[i]));
        json_object_set_new(entry, "equal", json_number(result->equal[i]));
        json_object_set_new(entry, "equal_error", json_number(result->equal_error[i]));
        json_array_append_new(lengths, entry);
    }
    json_object_set_new(object, "lengths", lengths);
    return object;
}

static void print_agreement(const cli_arguments *arguments, const eval_models *models, const sqf_agreement *result)
{
    progress_clear();
    printf("model          %s (%s)\n", arguments->operands[0], sqf_model_info_get(models->model).scheme);
    printf("reference      %s (%s)\n", arguments_text(arguments, "reference"),
           sqf_model_info_get(models->reference).scheme);
    printf("text           %s: %zu prompts of %" PRIu64 " tokens, %" PRIu64 " new ones each, greedy\n",
           arguments_text(arguments, "text"), result->prompts, arguments_count(arguments, "prompt-tokens"),
           arguments_count(arguments, "generation"));
    printf("equal until    token %.2f +- %.2f on average\n", result->first_divergence, result->first_divergence_error);
    printf("divergence     %.3f %% +- %.3f of the tokens after equal text\n", 100 * result->divergence_rate,
           100 * result->divergence_rate_error);
    printf("same top token %.2f %% along the reference's text\n", 100 * result->teacher_top);
    printf("reference's nll of the text %.4f, of its own %.4f, difference %+.4f +- %.4f\n", result->model_nll,
           result->reference_nll, result->nll_difference, result->nll_difference_error);
    for (size_t i = 0; i < result->lengths; i++) {
        printf("all %4zu equal %.2f %% +- %.2f of the prompts\n", result->length[i], 100 * result->equal[i],
               100 * result->equal_error[i]);
    }
}

int run_agreement(const cli_arguments *arguments, const eval_models *models)
{
    sqf_agreement_options options = sqf_agreement_options_default();
    options.prompt_tokens = arguments_count(arguments, "prompt-tokens");
    options.new_tokens = arguments_count(arguments, "generation");
    options.prompts = arguments_count(arguments, "prompts");
    options.kv = (sqf_kv_type)arguments_choice(arguments, "kv");
    options.resamples = arguments_count(arguments, "resamples");
    options.seed = arguments_count(arguments, "seed");
    sqf_agreement result;
    sqf_error err = {0};
    if (sqf_agreement_file(models->context, models->model, models->reference, models->tokenizer,
                           arguments_text(arguments, "text"), &options, &result, &err) != SQF_OK) {
        return fail_error(&err);
    }
    if (arguments_given(arguments, "json")) {
        return print_json(agreement_json(arguments, models, &result));
    }
    print_agreement(arguments, models, &result);
    return EXIT_DONE;
}

/* Benchmarks of a point. */
#include "benchmarks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../output.h"
#include "grid.h"

static void set_figure(json_t *object, const char *name, const char *suffix, double value)
{
    char key[64];
    snprintf(key, sizeof key, "%s%s", name, suffix);
    json_object_set_new(object, key, json_number(value));
}

/* The figures that a kind of task has; changes where there was a reference. */
static json_t *task_json(const sqf_task *task, const sqf_task_result *result)
{
    const sqf_task_info info = sqf_task_info_get(task);
    json_t *object = json_object();
    json_object_set_new(object, "name", json_string_or_null(info.name));
    json_object_set_new(object, "kind", json_string(sqf_task_kind_name(info.kind)));
    json_object_set_new(object, "items", json_count(result->items));
    for (int m = 0; m < SQF_METRIC_COUNT; m++) {
        const char *name = sqf_task_metric_name((sqf_task_metric)m);
        if (isfinite(result->model[m].value)) {
            set_figure(object, name, "", result->model[m].value);
            set_figure(object, name, "_error", result->model[m].error);
            if (result->compared) {
                set_figure(object, name, "_difference", result->change[m].difference);
                set_figure(object, name, "_difference_error", result->change[m].error);
            }
        }
    }
    return object;
}

/* Tasks are independent of each other: the error of their mean adds up in squares. */
static void add_results(const sqf_task *const *tasks, const sqf_task_result *results, size_t count, json_t *figures)
{
    json_t *list = json_array();
    double sum = 0, squares = 0;
    for (size_t i = 0; i < count; i++) {
        const sqf_task_figure *accuracy = &results[i].model[SQF_METRIC_ACC];
        json_array_append_new(list, task_json(tasks[i], &results[i]));
        sum += accuracy->value;
        squares += accuracy->error * accuracy->error;
    }
    json_object_set_new(figures, "tasks", list);
    json_object_set_new(figures, "accuracy", json_number(sum / (double)count));
    json_object_set_new(figures, "accuracy_error", json_number(sqrt(squares) / (double)count));
}

static sqf_status load_tasks(const json_t *paths, sqf_task **tasks, sqf_error *err)
{
    sqf_status status = SQF_OK;
    for (size_t i = 0; i < json_array_size(paths) && status == SQF_OK; i++) {
        status = sqf_task_load(json_string_value(json_array_get(paths, i)), NULL, &tasks[i], err);
    }
    return status;
}

sqf_status add_benchmarks(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                          const sqf_tokenizer *tokenizer, const json_t *settings, json_t *figures, sqf_error *err)
{
    const json_t *paths = json_object_get(settings, "tasks");
    const size_t count = json_array_size(paths);
    if (count == 0) {
        return SQF_OK;
    }
    sqf_tasks_options options = sqf_tasks_options_default();
    options.limit = settings_count(settings, "task_limit");
    sqf_task **tasks = calloc(count, sizeof *tasks);
    sqf_task_result *results = calloc(count, sizeof *results);
    sqf_status status = SQF_E_MEMORY;
    if (tasks && results) {
        status = load_tasks(paths, tasks, err);
    }
    if (status == SQF_OK) {
        const sqf_task *const *loaded = (const sqf_task *const *)tasks;
        status = sqf_tasks_run(context, model, reference, tokenizer, loaded, count, &options, results, err);
        if (status == SQF_OK) {
            add_results(loaded, results, count, figures);
        }
    }
    for (size_t i = 0; i < count && tasks; i++) {
        sqf_task_destroy(tasks[i]);
    }
    free(tasks);
    free(results);
    return status;
}

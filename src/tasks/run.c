/* Running tasks: each item is looked up, or computed with both models and written; then figures are made. */
#include <math.h>
#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "model/model.h"
#include "tasks/record.h"
#include "tasks/summary.h"

/* One call at work. */
typedef struct session {
    sqf_context *context;
    const sqf_tasks_options *options;
    sqf_scorer model, reference; /* reference.model NULL = none */
    sqf_task_run *runs;
    size_t run_count;
    sqf_record record;
    uint64_t done, total; /* items */
} session;

sqf_tasks_options sqf_tasks_options_default(void)
{
    return (sqf_tasks_options){.few_shot = SIZE_MAX, .resamples = 1000, .seed = 1234};
}

static void hash_more(char hash[SQF_HASH_TEXT], const void *bytes, size_t n)
{
    char parts[2 * SQF_HASH_TEXT];
    memcpy(parts, hash, SQF_HASH_TEXT);
    sqf_hash_bytes(bytes, n, parts + SQF_HASH_TEXT);
    sqf_hash_bytes(parts, sizeof parts, hash);
}

static sqf_status hash_file(const char *directory, const char *name, char hash[SQF_HASH_TEXT], sqf_error *err)
{
    char *path;
    sqf_mapping file = {0};
    SQF_TRY(sqf_path_join(&path, directory, name, err));
    const sqf_status status = sqf_mapping_open(path, &file, err);
    free(path);
    if (status == SQF_OK) {
        hash_more(hash, file.data, file.size);
        sqf_mapping_close(&file);
    }
    return status;
}

/* Configuration, tokenizer and tensors, by the tensors' recorded hashes where there are any: those were checked when
 * the model was opened. Without them all weights are read once more. */
static sqf_status hash_model(const sqf_model *model, char hash[SQF_HASH_TEXT], sqf_error *err)
{
    const char *directory = sqf_model_info_get(model).directory;
    const sqf_tensors *tensors = model->checkpoint.tensors;
    SQF_TRY(hash_file(directory, "config.json", hash, err));
    SQF_TRY(hash_file(directory, "tokenizer.json", hash, err));
    for (size_t i = 0; i < sqf_tensors_count(tensors); i++) {
        const sqf_tensor *tensor = sqf_tensors_at(tensors, i);
        hash_more(hash, tensor->name, strlen(tensor->name));
        if (tensor->hash) {
            hash_more(hash, tensor->hash, strlen(tensor->hash));
        } else {
            hash_more(hash, tensor->data, tensor->bytes);
        }
    }
    return SQF_OK;
}

/* Token ids of the one tokenizer go into both. */
static sqf_status check_vocabularies(const sqf_model *model, const sqf_model *reference, sqf_error *err)
{
    const sqf_model_info a = sqf_model_info_get(model), b = sqf_model_info_get(reference);
    if (a.vocabulary != b.vocabulary) {
        return sqf_fail(err, SQF_E_ARG, "%s: a vocabulary of %zu tokens, expected %zu as in %s", b.directory,
                        b.vocabulary, a.vocabulary, a.directory);
    }
    return SQF_OK;
}

static sqf_status check_options(const session *s, sqf_error *err)
{
    if (s->options->resamples < 2) {
        return sqf_fail(err, SQF_E_ARG, "bootstrap: expected at least 2 resamples, found %zu", s->options->resamples);
    }
    if (s->options->resume && !s->options->items) {
        return sqf_fail(err, SQF_E_ARG, "resume: expected an items file to go on with");
    }
    for (size_t i = 0; i < s->run_count; i++) {
        for (size_t j = i + 1; j < s->run_count; j++) {
            if (strcmp(s->runs[i].task->name, s->runs[j].task->name) == 0) {
                return sqf_fail(err, SQF_E_ARG, "%s: a task of the name %s for the second time", s->runs[j].task->path,
                                s->runs[j].task->name);
            }
        }
    }
    return SQF_OK;
}

static size_t few_shot_of(const session *s, const sqf_task *task)
{
    return s->options->few_shot == SIZE_MAX ? task->definition.few_shot : s->options->few_shot;
}

/* 0 of tasks that generate nothing. */
static size_t new_tokens_of(const session *s, const sqf_task *task)
{
    if (task->definition.kind != SQF_TASK_GENERATE) {
        return 0;
    }
    return s->options->max_new_tokens ? s->options->max_new_tokens : task->definition.max_new_tokens;
}

/* What is generated must have positions, and the prompt at least one. */
static sqf_status check_length(const session *s, const sqf_task *task, const sqf_model *model, sqf_error *err)
{
    const sqf_model_info info = sqf_model_info_get(model);
    const size_t wanted = new_tokens_of(s, task);
    if (wanted >= info.positions) {
        return sqf_fail(err, SQF_E_ARG, "%s: %zu new tokens, expected fewer than the %zu positions of %s", task->path,
                        wanted, info.positions, info.directory);
    }
    return SQF_OK;
}

static sqf_status open_run(const session *s, sqf_task_run *run, sqf_error *err)
{
    const sqf_task *task = run->task;
    const size_t settings[] = {few_shot_of(s, task), new_tokens_of(s, task)};
    run->count = s->options->limit > 0 && s->options->limit < task->count ? s->options->limit : task->count;
    memcpy(run->hash, task->hash, sizeof run->hash);
    hash_more(run->hash, settings, sizeof settings);
    SQF_TRY(check_length(s, task, s->model.model, err));
    if (s->reference.model) {
        SQF_TRY(check_length(s, task, s->reference.model, err));
    }
    return SQF_ALLOC(&run->outcomes, task->count, "outcomes", err);
}

static sqf_status open_record(session *s, sqf_error *err)
{
    s->record = (sqf_record){.path = s->options->items, .compared = s->reference.model != NULL};
    if (!s->options->items) {
        return SQF_OK;
    }
    SQF_TRY(hash_model(s->model.model, s->record.models, err));
    if (s->options->kv != SQF_KV_F32) {
        const char *kv = sqf_kv_type_name(s->options->kv);
        hash_more(s->record.models, kv, strlen(kv));
    }
    if (s->reference.model) {
        SQF_TRY(hash_model(s->reference.model, s->record.models, err));
    }
    return sqf_record_open(&s->record, s->options->resume, s->runs, s->run_count, err);
}

/* The scorer clears half of it on failure: both are cleared at the end in every case. */
static sqf_status open_session(session *s, const sqf_model *model, const sqf_model *reference,
                               const sqf_tokenizer *tokenizer, const sqf_task *const *tasks, sqf_error *err)
{
    SQF_TRY(sqf_scorer_create(&s->model, s->context, model, s->options->kv, tokenizer, err));
    if (reference) {
        SQF_TRY(check_vocabularies(model, reference, err));
        SQF_TRY(sqf_scorer_create(&s->reference, s->context, reference, SQF_KV_F32, tokenizer, err));
    }
    SQF_TRY(SQF_ALLOC(&s->runs, s->run_count, "tasks", err));
    for (size_t i = 0; i < s->run_count; i++) {
        s->runs[i].task = tasks[i];
    }
    SQF_TRY(check_options(s, err));
    for (size_t i = 0; i < s->run_count; i++) {
        SQF_TRY(open_run(s, &s->runs[i], err));
        s->total += s->runs[i].count;
    }
    return open_record(s, err);
}

static void close_session(session *s)
{
    for (size_t i = 0; s->runs && i < s->run_count; i++) {
        for (size_t j = 0; s->runs[i].outcomes && j < s->runs[i].task->count; j++) {
            sqf_answer_clear(&s->runs[i].outcomes[j].model);
            sqf_answer_clear(&s->runs[i].outcomes[j].reference);
        }
        free(s->runs[i].outcomes);
    }
    free(s->runs);
    sqf_scorer_clear(&s->model);
    sqf_scorer_clear(&s->reference);
}

/* Both models are asked with the same prompt. Problems are those of the item: its place is named. */
static sqf_status ask_models(session *s, sqf_task_run *run, size_t index, const char *examples, sqf_error *err)
{
    sqf_outcome *outcome = &run->outcomes[index];
    const size_t new_tokens = new_tokens_of(s, run->task);
    sqf_status status = sqf_scorer_ask(&s->model, run->task, index, examples, new_tokens, &outcome->model, err);
    if (status == SQF_OK && s->reference.model) {
        status = sqf_scorer_ask(&s->reference, run->task, index, examples, new_tokens, &outcome->reference, err);
    }
    if (status != SQF_OK) {
        char where[256];
        sqf_item_where(run->task, &run->task->items[index], where);
        return sqf_fail_within(err, status, where);
    }
    outcome->known = true;
    return SQF_OK;
}

static sqf_status compute_item(session *s, sqf_task_run *run, size_t index, sqf_error *err)
{
    sqf_buffer examples = {0};
    sqf_status status = sqf_task_examples(run->task, index, few_shot_of(s, run->task), &examples, err);
    if (status == SQF_OK) {
        status = ask_models(s, run, index, examples.data, err);
    }
    free(examples.data);
    return status == SQF_OK ? sqf_record_write(&s->record, run, index, err) : status;
}

/* The examples of the last item: those of all items that are not examples themselves. */
static sqf_status set_examples(session *s, const sqf_task_run *run, sqf_error *err)
{
    sqf_buffer examples = {0};
    sqf_status status = sqf_task_examples(run->task, run->task->count - 1, few_shot_of(s, run->task), &examples, err);
    if (status == SQF_OK) {
        status = sqf_scorer_set_examples(&s->model, examples.data, err);
    }
    if (status == SQF_OK && s->reference.model) {
        status = sqf_scorer_set_examples(&s->reference, examples.data, err);
    }
    free(examples.data);
    return status;
}

static sqf_status compute_task(session *s, sqf_task_run *run, sqf_error *err)
{
    SQF_TRY(set_examples(s, run, err));
    for (size_t i = 0; i < run->count; i++) {
        if (!run->outcomes[i].known) {
            SQF_TRY(compute_item(s, run, i, err));
        }
        s->done++;
        SQF_TRY(sqf_progress(s->context, "items", s->done, s->total, err));
    }
    return SQF_OK;
}

/* Values of all items of one model, for free(). */
static sqf_status judge(const sqf_task_run *run, bool reference, double **values, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(values, run->count * SQF_METRIC_COUNT, "verdicts", err));
    for (size_t i = 0; i < run->count; i++) {
        const sqf_outcome *outcome = &run->outcomes[i];
        sqf_verdict verdict;
        SQF_TRY(sqf_verdict_make(run->task, &run->task->items[i], reference ? &outcome->reference : &outcome->model,
                                 &verdict, err));
        memcpy(*values + i * SQF_METRIC_COUNT, verdict.value, sizeof verdict.value);
        sqf_verdict_clear(&verdict);
    }
    return SQF_OK;
}

static sqf_status summarize(const session *s, const sqf_task_run *run, sqf_task_result *result, sqf_error *err)
{
    double *model = NULL, *reference = NULL;
    sqf_status status = judge(run, false, &model, err);
    if (status == SQF_OK && s->reference.model) {
        status = judge(run, true, &reference, err);
    }
    if (status == SQF_OK) {
        status = sqf_summarize(model, reference, run->count, s->options->resamples, s->options->seed, result, err);
    }
    free(model);
    free(reference);
    return status;
}

static uint64_t tokens_run(const session *s)
{
    return s->model.tokens_run + s->reference.tokens_run;
}

static uint64_t tokens_reused(const session *s)
{
    return s->model.tokens_reused + s->reference.tokens_reused;
}

static sqf_status run_task(session *s, sqf_task_run *run, sqf_task_result *result, sqf_error *err)
{
    const uint64_t ran = tokens_run(s), reused = tokens_reused(s);
    const double start = sqf_clock_seconds();
    SQF_TRY(compute_task(s, run, err));
    *result = (sqf_task_result){.items = run->count,
                                .resumed = run->resumed,
                                .few_shot = few_shot_of(s, run->task),
                                .max_new_tokens = new_tokens_of(s, run->task),
                                .tokens_run = tokens_run(s) - ran,
                                .tokens_reused = tokens_reused(s) - reused,
                                .seconds = sqf_clock_seconds() - start,
                                .compared = s->reference.model != NULL};
    for (size_t i = 0; i < run->count; i++) {
        result->truncated += run->outcomes[i].model.truncated;
    }
    return summarize(s, run, result, err);
}

sqf_status sqf_tasks_run(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                         const sqf_tokenizer *tokenizer, const sqf_task *const *tasks, size_t count,
                         const sqf_tasks_options *options, sqf_task_result *results, sqf_error *err)
{
    session s = {.context = context, .options = options, .run_count = count};
    sqf_status status = open_session(&s, model, reference, tokenizer, tasks, err);
    for (size_t i = 0; status == SQF_OK && i < count; i++) {
        status = run_task(&s, &s.runs[i], &results[i], err);
    }
    const sqf_status closed = sqf_record_close(&s.record, status == SQF_OK ? err : NULL);
    close_session(&s);
    return status == SQF_OK ? closed : status;
}

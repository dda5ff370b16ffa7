/* Items files. A line is a whole answer: sums of log-likelihoods or a generated text, from which every figure can be
 * computed again. What is derived (choices, lengths) is written for readers and not read. */
#define _GNU_SOURCE
#include "tasks/record.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "tasks/text.h"

/* 10 million items of a few hundred bytes. */
static const size_t ITEMS_BYTES_MAX = (size_t)4 << 30;

/* jansson fails only for lack of memory; its results are gathered here. */
static void put(json_t *object, const char *key, json_t *value, bool *failed)
{
    *failed = json_object_set_new(object, key, value) != 0 || *failed;
}

static json_t *text_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

/* A list of numbers of the options. */
static json_t *list_of(size_t count, json_t *(*number)(const void *user, size_t option), const void *user, bool *failed)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        *failed = json_array_append_new(list, number(user, i)) != 0 || *failed;
    }
    return list;
}

static json_t *log_likelihood(const void *user, size_t option)
{
    return json_real(((const sqf_answer *)user)->log_likelihoods[option]);
}

static json_t *token_count(const void *user, size_t option)
{
    return json_integer((json_int_t)((const sqf_answer *)user)->tokens[option]);
}

static json_t *byte_count(const void *user, size_t option)
{
    return json_integer((json_int_t)strlen(sqf_item_continuation(user, option)));
}

static json_t *character_count(const void *user, size_t option)
{
    const char *text = sqf_item_continuation(user, option);
    return json_integer((json_int_t)sqf_text_characters(text, strlen(text)));
}

/* Members that say what one model answered. */
static sqf_status put_answer(json_t *object, const sqf_task *task, const sqf_item *item, const sqf_answer *answer,
                             bool *failed, sqf_error *err)
{
    sqf_verdict v;
    SQF_TRY(sqf_verdict_make(task, item, answer, &v, err));
    if (task->definition.kind == SQF_TASK_GENERATE) {
        put(object, "generation", text_or_null(answer->generation), failed);
        put(object, "strict", text_or_null(v.strict), failed);
        put(object, "flexible", text_or_null(v.flexible), failed);
        put(object, "correct", json_boolean(v.value[SQF_METRIC_ACC] > 0), failed);
        put(object, "correct_flexible", json_boolean(v.value[SQF_METRIC_FLEXIBLE] > 0), failed);
    } else {
        put(object, "log_likelihoods", list_of(sqf_item_options(item), log_likelihood, answer, failed), failed);
        put(object, "greedy", json_boolean(answer->greedy), failed);
        if (task->definition.kind != SQF_TASK_CLOZE) {
            put(object, "chosen", json_integer((json_int_t)v.chosen), failed);
            put(object, "chosen_norm", json_integer((json_int_t)v.chosen_norm), failed);
            put(object, "chosen_bytes", json_integer((json_int_t)v.chosen_bytes), failed);
        }
    }
    put(object, "truncated", json_boolean(answer->truncated), failed);
    sqf_verdict_clear(&v);
    return SQF_OK;
}

/* Members that do not depend on a model. */
static void put_item(json_t *object, const sqf_record *record, const sqf_task_run *run, size_t index, bool *failed)
{
    const sqf_item *item = &run->task->items[index];
    const size_t options = sqf_item_options(item);
    put(object, "task", json_string(run->task->name), failed);
    put(object, "item", json_integer((json_int_t)index), failed);
    put(object, "models", json_string(record->models), failed);
    put(object, "settings", json_string(run->hash), failed);
    if (run->task->definition.kind == SQF_TASK_GENERATE) {
        put(object, "gold", json_string(sqf_item_continuation(item, 0)), failed);
        return;
    }
    put(object, "gold", json_integer((json_int_t)item->gold), failed);
    put(object, "bytes", list_of(options, byte_count, item, failed), failed);
    put(object, "characters", list_of(options, character_count, item, failed), failed);
    put(object, "tokens", list_of(options, token_count, &run->outcomes[index].model, failed), failed);
}

static sqf_status make_line(const sqf_record *record, const sqf_task_run *run, size_t index, sqf_buffer *line,
                            sqf_error *err)
{
    const sqf_item *item = &run->task->items[index];
    const sqf_outcome *outcome = &run->outcomes[index];
    json_t *object = json_object(), *reference = record->compared ? json_object() : NULL;
    bool failed = false;
    put_item(object, record, run, index, &failed);
    sqf_status status = put_answer(object, run->task, item, &outcome->model, &failed, err);
    if (status == SQF_OK && record->compared) {
        status = put_answer(reference, run->task, item, &outcome->reference, &failed, err);
    }
    if (record->compared) {
        put(object, "reference", reference, &failed);
    }
    if (status == SQF_OK) {
        status = failed ? sqf_fail(err, SQF_E_MEMORY, "items: out of memory")
                        : sqf_json_append(object, JSON_COMPACT | JSON_REAL_PRECISION(17), line, err);
    }
    json_decref(object);
    return status == SQF_OK ? sqf_buffer_append(line, "\n", 1, err) : status;
}

static sqf_status fail_write(const sqf_record *record, sqf_error *err)
{
    const int number = errno;
    return sqf_fail(err, SQF_E_IO, "%s: cannot write: %s", record->path, strerror(number));
}

/* Flushed line by line: what a killed run leaves is whole but for its last line. */
sqf_status sqf_record_write(const sqf_record *record, const sqf_task_run *run, size_t index, sqf_error *err)
{
    sqf_buffer line = {0};
    if (!record->path) {
        return SQF_OK;
    }
    sqf_status status = make_line(record, run, index, &line, err);
    if (status == SQF_OK && (fwrite(line.data, 1, line.size, record->file) != line.size || fflush(record->file) != 0)) {
        status = fail_write(record, err);
    }
    free(line.data);
    return status;
}

static sqf_status read_sums(const json_t *object, size_t options, const char *where, sqf_answer *answer, sqf_error *err)
{
    json_t *list;
    SQF_TRY(sqf_json_member(object, "log_likelihoods", JSON_ARRAY, where, &list, err));
    SQF_TRY(sqf_json_bool_find(object, "greedy", where, &answer->greedy, err));
    if (json_array_size(list) != options) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: log_likelihoods: expected %zu, found %zu", where, options,
                        json_array_size(list));
    }
    SQF_TRY(SQF_ALLOC(&answer->log_likelihoods, options, "log-likelihoods", err));
    for (size_t i = 0; i < options; i++) {
        const json_t *number = json_array_get(list, i);
        answer->log_likelihoods[i] = json_number_value(number);
        if (!json_is_number(number) || !isfinite(answer->log_likelihoods[i])) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: log_likelihoods: place %zu: expected a number", where, i);
        }
    }
    return SQF_OK;
}

static sqf_status read_answer(const json_t *object, const sqf_task *task, const sqf_item *item, const char *where,
                              sqf_answer *answer, sqf_error *err)
{
    SQF_TRY(sqf_json_bool_find(object, "truncated", where, &answer->truncated, err));
    if (task->definition.kind != SQF_TASK_GENERATE) {
        return read_sums(object, sqf_item_options(item), where, answer, err);
    }
    const char *text = NULL;
    SQF_TRY(sqf_json_string_find(object, "generation", where, &text, err));
    if (!text) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: generation: expected a text, found nothing", where);
    }
    return sqf_copy_text(&answer->generation, text, strlen(text), err);
}

/* SQF_E_FORMAT with both hashes if the line is of something else. */
static sqf_status check_hash(const json_t *object, const char *key, const char *expected, const char *what,
                             const char *where, sqf_error *err)
{
    const char *found = "nothing";
    SQF_TRY(sqf_json_string_find(object, key, where, &found, err));
    if (strcmp(found, expected) != 0) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: computed with %s: %s %s, expected %s", where, what, key, found,
                        expected);
    }
    return SQF_OK;
}

static sqf_task_run *find_run(const json_t *object, sqf_task_run *runs, size_t count)
{
    const char *name = json_string_value(json_object_get(object, "task"));
    for (size_t i = 0; name && i < count; i++) {
        if (strcmp(runs[i].task->name, name) == 0) {
            return &runs[i];
        }
    }
    return NULL;
}

static sqf_status read_outcome(const sqf_record *record, const json_t *object, sqf_task_run *run, const char *where,
                               sqf_error *err)
{
    size_t index = 0;
    SQF_TRY(check_hash(object, "settings", run->hash, "another task or other settings", where, err));
    SQF_TRY(sqf_json_size(object, "item", 0, run->task->count - 1, where, &index, err));
    sqf_outcome *outcome = &run->outcomes[index];
    if (outcome->known) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: item %zu of %s for the second time", where, index, run->task->name);
    }
    const sqf_item *item = &run->task->items[index];
    SQF_TRY(read_answer(object, run->task, item, where, &outcome->model, err));
    if (record->compared) {
        json_t *reference;
        SQF_TRY(sqf_json_member(object, "reference", JSON_OBJECT, where, &reference, err));
        SQF_TRY(read_answer(reference, run->task, item, where, &outcome->reference, err));
    }
    outcome->known = true;
    run->resumed += index < run->count;
    return SQF_OK;
}

/* Items of tasks that are not run now stay in the file, if they are of the same models. */
static sqf_status read_line(const sqf_record *record, const char *line, size_t n, size_t number, sqf_task_run *runs,
                            size_t count, sqf_error *err)
{
    char where[256];
    json_t *object;
    snprintf(where, sizeof where, "%.200s: line %zu", record->path, number);
    SQF_TRY(sqf_json_parse(line, n, where, &object, err));
    sqf_status status = json_is_object(object)
                            ? check_hash(object, "models", record->models, "other models", where, err)
                            : sqf_fail(err, SQF_E_FORMAT, "%s: expected an object", where);
    sqf_task_run *run = status == SQF_OK ? find_run(object, runs, count) : NULL;
    if (run) {
        status = read_outcome(record, object, run, where, err);
    }
    json_decref(object);
    return status;
}

/* *end: bytes of whole lines. */
static sqf_status read_file(const sqf_record *record, sqf_task_run *runs, size_t count, size_t *end, sqf_error *err)
{
    sqf_buffer text = {0};
    SQF_TRY(sqf_file_read(record->path, ITEMS_BYTES_MAX, &text, err));
    sqf_status status = SQF_OK;
    *end = 0;
    for (size_t number = 1; status == SQF_OK; number++) {
        const char *line = text.data + *end;
        const char *stop = memchr(line, '\n', text.size - *end);
        if (!stop) {
            break;
        }
        status = read_line(record, line, (size_t)(stop - line), number, runs, count, err);
        *end += (size_t)(stop - line) + 1;
    }
    free(text.data);
    return status;
}

sqf_status sqf_record_open(sqf_record *record, bool resume, sqf_task_run *runs, size_t count, sqf_error *err)
{
    size_t end = 0;
    if (!record->path) {
        return SQF_OK;
    }
    const bool exists = sqf_path_exists(record->path);
    if (exists && !resume) {
        return sqf_fail(err, SQF_E_EXISTS, "%s: exists; expected a new file, or to resume it", record->path);
    }
    if (exists) {
        SQF_TRY(read_file(record, runs, count, &end, err));
    }
    record->file = fopen(record->path, exists ? "r+b" : "wxb");
    if (!record->file || ftruncate(fileno(record->file), (off_t)end) != 0 ||
        fseeko(record->file, (off_t)end, SEEK_SET) != 0) {
        return fail_write(record, err);
    }
    return SQF_OK;
}

sqf_status sqf_record_close(sqf_record *record, sqf_error *err)
{
    FILE *file = record->file;
    record->file = NULL;
    return file && fclose(file) != 0 ? fail_write(record, err) : SQF_OK;
}

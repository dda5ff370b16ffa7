/* Reading the items of a task: JSON lines through the templates of the definition.
 *
 * Texts with a NUL character are refused: they are kept as C strings. */
#include "tasks/items.h"

#include <string.h>

#include "base/file.h"
#include "tasks/text.h"

/* LINE_MAX_BYTES: longer than any item; OPTIONS_MAX: choices of an item. */
enum { LINE_MAX_BYTES = 16 << 20, OPTIONS_MAX = 1024, TASK_FILE_MAX = 1 << 20 };

static void item_clear(sqf_item *item)
{
    sqf_text_list_clear(&item->contexts);
    sqf_text_list_clear(&item->continuations);
}

void sqf_task_destroy(sqf_task *task)
{
    if (!task) {
        return;
    }
    for (size_t i = 0; i < task->count; i++) {
        item_clear(&task->items[i]);
    }
    free(task->items);
    free(task->path);
    free(task->name);
    sqf_definition_clear(&task->definition);
    free(task);
}

void sqf_item_where(const sqf_task *task, const sqf_item *item, char where[256])
{
    snprintf(where, 256, "%.200s: line %zu", task->path, item->line);
}

/* Adds a text, cleaned where the definition says so. */
static sqf_status add_text(const sqf_definition *d, const char *text, size_t n, const char *what, const char *where,
                           sqf_text_list *out, sqf_error *err)
{
    sqf_buffer clean = {0};
    if (memchr(text, '\0', n)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: the text holds a NUL character", where, what);
    }
    sqf_status status = sqf_buffer_append(&clean, "", 0, err);
    if (status == SQF_OK) {
        status = d->clean ? sqf_text_clean_hellaswag(text, n, &clean, err) : sqf_buffer_append(&clean, text, n, err);
    }
    if (status != SQF_OK) {
        free(clean.data);
        return status;
    }
    return sqf_text_list_add(out, clean.data, err);
}

static sqf_status add_rendered(const sqf_definition *d, const char *template, const json_t *object, const char *what,
                               const char *where, sqf_text_list *out, sqf_error *err)
{
    sqf_buffer text = {0};
    sqf_status status = sqf_buffer_append(&text, "", 0, err);
    if (status == SQF_OK) {
        status = sqf_template_render(template, object, where, &text, err);
    }
    if (status == SQF_OK) {
        status = add_text(d, text.data, text.size, what, where, out, err);
    }
    free(text.data);
    return status;
}

/* The texts of a list in the object. */
static sqf_status add_list(const sqf_definition *d, const char *member, const json_t *object, const char *where,
                           sqf_text_list *out, sqf_error *err)
{
    const json_t *list = sqf_json_path(object, member);
    if (!json_is_array(list)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected a list of texts, found %s", where, member,
                        list ? "something else" : "nothing");
    }
    if (json_array_size(list) > OPTIONS_MAX) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: found %zu texts, expected at most %d", where, member,
                        json_array_size(list), OPTIONS_MAX);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *text = json_array_get(list, i);
        if (!json_is_string(text)) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: %s: place %zu: expected a text, found something else", where,
                            member, i);
        }
        SQF_TRY(add_text(d, json_string_value(text), json_string_length(text), member, where, out, err));
    }
    return SQF_OK;
}

static sqf_status add_source(const sqf_definition *d, const sqf_text_source *source, const json_t *object,
                             const char *what, const char *where, sqf_text_list *out, sqf_error *err)
{
    if (source->member) {
        return add_list(d, source->member, object, where, out, err);
    }
    for (size_t i = 0; i < source->templates.count; i++) {
        SQF_TRY(add_rendered(d, source->templates.at[i], object, what, where, out, err));
    }
    return SQF_OK;
}

/* What stands at the path of the right choice, as text: 3, "3", "C", true. */
static sqf_status gold_text(const json_t *value, const char *path, const char *where, char text[64], sqf_error *err)
{
    if (json_is_integer(value)) {
        snprintf(text, 64, "%lld", (long long)json_integer_value(value));
    } else if (json_is_boolean(value)) {
        snprintf(text, 64, "%d", json_is_true(value));
    } else if (json_is_string(value) && json_string_length(value) < 64) {
        snprintf(text, 64, "%s", json_string_value(value));
    } else {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected the right choice, found %s", where, path,
                        value ? "something else" : "nothing");
    }
    return SQF_OK;
}

/* By its place among the labels. */
static sqf_status find_label(const sqf_definition *d, const json_t *object, const char *text, const char *where,
                             size_t *gold, sqf_error *err)
{
    const sqf_definition plain = {0};
    sqf_text_list labels = {0};
    sqf_status status = add_source(&plain, &d->gold_labels, object, "gold_labels", where, &labels, err);
    size_t found = 0;
    while (status == SQF_OK && found < labels.count && strcmp(labels.at[found], text) != 0) {
        found++;
    }
    if (status == SQF_OK && found == labels.count) {
        status = sqf_fail(err, SQF_E_FORMAT, "%s: %s: %s is none of the %zu labels", where, d->gold, text, found);
    }
    sqf_text_list_clear(&labels);
    *gold = found;
    return status;
}

static sqf_status find_gold(const sqf_definition *d, const json_t *object, const char *where, sqf_item *item,
                            sqf_error *err)
{
    char text[64];
    const size_t options = sqf_item_options(item);
    SQF_TRY(gold_text(sqf_json_path(object, d->gold), d->gold, where, text, err));
    if (d->gold_labels.member || d->gold_labels.templates.count > 0) {
        SQF_TRY(find_label(d, object, text, where, &item->gold, err));
    } else {
        const size_t digits = strspn(text, "0123456789");
        const bool number = digits > 0 && digits < 9 && text[digits] == '\0';
        const size_t value = number ? (size_t)strtoul(text, NULL, 10) : 0;
        item->gold = number && value >= d->gold_first ? value - d->gold_first : options;
    }
    if (item->gold >= options) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected one of the %zu choices (%zu to %zu), found %s", where,
                        d->gold, options, d->gold_first, d->gold_first + options - 1, text);
    }
    return SQF_OK;
}

/* At least two options to choose from, and no empty continuation: it would have no length to divide by. */
static sqf_status check_texts(const sqf_definition *d, const sqf_item *item, const char *where, sqf_error *err)
{
    const bool chooses = d->kind == SQF_TASK_CHOICE || d->kind == SQF_TASK_PARTIAL;
    if (chooses && sqf_item_options(item) < 2) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: expected at least two choices, found %zu", where,
                        item->contexts.count && item->continuations.count ? sqf_item_options(item) : (size_t)0);
    }
    for (size_t i = 0; i < item->continuations.count; i++) {
        if (*item->continuations.at[i] == '\0') {
            return sqf_fail(err, SQF_E_FORMAT, "%s: choice %zu is empty", where, i);
        }
    }
    return SQF_OK;
}

static sqf_status read_item(const sqf_definition *d, const json_t *object, const char *where, sqf_item *item,
                            sqf_error *err)
{
    const char *continuation = d->kind == SQF_TASK_GENERATE ? d->answer : d->continuation;
    if (!json_is_object(object)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: expected an object, found something else", where);
    }
    if (d->kind == SQF_TASK_PARTIAL) {
        SQF_TRY(add_source(d, &d->contexts, object, "contexts", where, &item->contexts, err));
    } else {
        SQF_TRY(add_rendered(d, d->context, object, "context", where, &item->contexts, err));
    }
    if (d->kind == SQF_TASK_CHOICE) {
        SQF_TRY(add_source(d, &d->choices, object, "choices", where, &item->continuations, err));
    } else {
        SQF_TRY(add_rendered(d, continuation, object, "continuation", where, &item->continuations, err));
    }
    SQF_TRY(check_texts(d, item, where, err));
    return d->gold ? find_gold(d, object, where, item, err) : SQF_OK;
}

static sqf_status reserve_item(sqf_task *task, sqf_error *err)
{
    if (task->count == task->capacity) {
        const size_t capacity = task->capacity ? 2 * task->capacity : 256;
        sqf_item *items = realloc(task->items, capacity * sizeof *items);
        if (!items) {
            return sqf_fail(err, SQF_E_MEMORY, "%s: out of memory", task->path);
        }
        task->items = items;
        task->capacity = capacity;
    }
    task->items[task->count] = (sqf_item){0};
    return SQF_OK;
}

/* One line of the file, which is not empty. */
static sqf_status read_line(sqf_task *task, const char *line, size_t n, size_t number, sqf_error *err)
{
    SQF_TRY(reserve_item(task, err));
    sqf_item *item = &task->items[task->count++]; /* counted at once, so that it is freed whatever happens */
    item->line = number;
    char where[256];
    sqf_item_where(task, item, where);
    if (n > LINE_MAX_BYTES) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %zu bytes in one line, expected at most %d", where, n, LINE_MAX_BYTES);
    }
    json_t *object;
    SQF_TRY(sqf_json_parse(line, n, where, &object, err));
    const sqf_status status = read_item(&task->definition, object, where, item, err);
    json_decref(object);
    return status;
}

static sqf_status read_lines(sqf_task *task, const char *text, size_t n, sqf_error *err)
{
    size_t number = 0;
    for (size_t at = 0; at < n;) {
        const char *end = memchr(text + at, '\n', n - at);
        const size_t length = end ? (size_t)(end - text) - at : n - at;
        number++;
        if (sqf_text_trimmed(text + at, length) > 0) {
            SQF_TRY(read_line(task, text + at, length, number, err));
        }
        at += length + 1;
    }
    if (task->count == 0) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: expected items, one JSON object a line, found none", task->path);
    }
    return SQF_OK;
}

/* "dir/copa.jsonl": "copa". */
static sqf_status set_names(sqf_task *task, const char *path, sqf_error *err)
{
    static const char ending[] = ".jsonl";
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t length = strlen(base);
    if (length > strlen(ending) && strcmp(base + length - strlen(ending), ending) == 0) {
        length -= strlen(ending);
    }
    SQF_TRY(sqf_copy_text(&task->path, path, strlen(path), err));
    return sqf_copy_text(&task->name, base, length, err);
}

/* Two hashes, of which a third is made: texts cannot flow into each other. */
static void hash_task(sqf_task *task, const sqf_task_text *text)
{
    char parts[2 * SQF_HASH_TEXT];
    sqf_hash_bytes(text->definition, text->definition_size, parts);
    sqf_hash_bytes(text->items, text->items_size, parts + SQF_HASH_TEXT);
    sqf_hash_bytes(parts, sizeof parts, task->hash);
}

sqf_status sqf_task_parse(const char *path, const sqf_task_text *text, sqf_task **out, sqf_error *err)
{
    *out = NULL;
    sqf_task *task;
    SQF_TRY(SQF_ALLOC(&task, 1, "a task", err));
    sqf_status status = set_names(task, path, err);
    if (status == SQF_OK) {
        status = sqf_definition_parse(text->definition, text->definition_size, text->name, &task->definition, err);
    }
    if (status == SQF_OK) {
        status = read_lines(task, text->items, text->items_size, err);
    }
    if (status != SQF_OK) {
        sqf_task_destroy(task);
        return status;
    }
    hash_task(task, text);
    *out = task;
    return SQF_OK;
}

/* The built-in definition for a path. */
static sqf_status find_builtin(const char *path, sqf_task_text *text, sqf_error *err)
{
    sqf_task names = {0};
    sqf_status status = set_names(&names, path, err);
    const sqf_task_builtin *builtin = status == SQF_OK ? sqf_builtin_find(names.name) : NULL;
    if (builtin) {
        text->name = builtin->name;
        text->definition = builtin->definition;
        text->definition_size = strlen(builtin->definition);
    } else if (status == SQF_OK) {
        status = sqf_fail(err, SQF_E_ARG,
                          "%s: no built-in task has a name that this file's begins with: expected a "
                          "task file for it, see sqf eval --list-tasks",
                          path);
    }
    free(names.path);
    free(names.name);
    return status;
}

sqf_status sqf_task_load(const char *path, const char *task_file, sqf_task **out, sqf_error *err)
{
    sqf_buffer definition = {0};
    sqf_mapping items = {0};
    sqf_task_text text = {.name = task_file};
    sqf_status status = SQF_OK;
    *out = NULL;
    if (task_file) {
        status = sqf_file_read(task_file, TASK_FILE_MAX, &definition, err);
        text.definition = definition.data;
        text.definition_size = definition.size;
    } else {
        status = find_builtin(path, &text, err);
    }
    if (status == SQF_OK) {
        status = sqf_mapping_open(path, &items, err);
    }
    if (status == SQF_OK) {
        text.items = (const char *)items.data;
        text.items_size = items.size;
        status = sqf_task_parse(path, &text, out, err);
    }
    sqf_mapping_close(&items);
    free(definition.data);
    return status;
}

sqf_task_info sqf_task_info_get(const sqf_task *task)
{
    return (sqf_task_info){.name = task->name,
                           .definition = task->definition.name,
                           .path = task->path,
                           .kind = task->definition.kind,
                           .items = task->count,
                           .few_shot = task->definition.few_shot,
                           .max_new_tokens = task->definition.max_new_tokens};
}

static bool texts_equal(const sqf_text_list *a, const sqf_text_list *b)
{
    if (a->count != b->count) {
        return false;
    }
    for (size_t i = 0; i < a->count; i++) {
        if (strcmp(a->at[i], b->at[i]) != 0) {
            return false;
        }
    }
    return true;
}

static bool items_equal(const sqf_item *a, const sqf_item *b)
{
    return a->gold == b->gold && texts_equal(&a->contexts, &b->contexts) &&
           texts_equal(&a->continuations, &b->continuations);
}

static sqf_status append_example(const sqf_definition *d, const sqf_item *item, sqf_buffer *out, sqf_error *err)
{
    const char *const parts[] = {sqf_item_context(item, item->gold), d->delimiter,
                                 sqf_item_continuation(item, item->gold), d->few_shot_delimiter};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        SQF_TRY(sqf_buffer_append(out, parts[i], strlen(parts[i]), err));
    }
    return SQF_OK;
}

sqf_status sqf_task_examples(const sqf_task *task, size_t index, size_t count, sqf_buffer *out, sqf_error *err)
{
    const sqf_definition *d = &task->definition;
    SQF_TRY(sqf_buffer_append(out, d->description, strlen(d->description), err));
    for (size_t i = 0, taken = 0; taken < count; i++) {
        if (i == task->count) {
            return sqf_fail(err, SQF_E_ARG, "%s: %zu examples were asked for, only %zu other items are there",
                            task->path, count, taken);
        }
        if (!items_equal(&task->items[i], &task->items[index])) {
            SQF_TRY(append_example(d, &task->items[i], out, err));
            taken++;
        }
    }
    return SQF_OK;
}

/* Task files: a flat map of YAML, by libyaml's events. Every key is a row of one table; what a kind of task needs is
 * checked at the end. */
#include "tasks/definition.h"

#include <stddef.h>
#include <string.h>

#include "base/yaml.h"

/* LIST_MAX: texts of one key, far more than any task has choices. */
enum { COUNT_MAX = 1 << 20, LIST_MAX = 1024 };

sqf_status sqf_text_list_add(sqf_text_list *texts, char *text, sqf_error *err)
{
    char **at = realloc(texts->at, (texts->count + 1) * sizeof *at);
    if (!at) {
        free(text);
        return sqf_fail(err, SQF_E_MEMORY, "texts: out of memory");
    }
    texts->at = at;
    texts->at[texts->count++] = text;
    return SQF_OK;
}

void sqf_text_list_clear(sqf_text_list *texts)
{
    for (size_t i = 0; i < texts->count; i++) {
        free(texts->at[i]);
    }
    free(texts->at);
    *texts = (sqf_text_list){0};
}

static void source_clear(sqf_text_source *source)
{
    free(source->member);
    sqf_text_list_clear(&source->templates);
}

void sqf_definition_clear(sqf_definition *d)
{
    char *const texts[] = {d->name,      d->context,     d->continuation,       d->answer, d->gold,    d->clean,
                           d->delimiter, d->description, d->few_shot_delimiter, d->strict, d->flexible};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        free(texts[i]);
    }
    source_clear(&d->contexts);
    source_clear(&d->choices);
    source_clear(&d->gold_labels);
    sqf_text_list_clear(&d->stop);
    sqf_regex_destroy(d->strict_regex);
    sqf_regex_destroy(d->flexible_regex);
    *d = (sqf_definition){0};
}

/* What may stand behind a key. */
typedef enum value_form {
    FORM_TEXT,   /* a scalar: char * */
    FORM_TEXTS,  /* a list of scalars: sqf_text_list */
    FORM_SOURCE, /* either: sqf_text_source */
    FORM_COUNT,  /* a whole number: size_t */
    FORM_KIND    /* a kind's name */
} value_form;

/* One key: its name, what may stand behind it, and where it goes. */
typedef struct definition_key {
    const char *name;
    value_form form;
    size_t offset;
} definition_key;

#define KEY(member, form)                                                                                              \
    {                                                                                                                  \
#member, form, offsetof(sqf_definition, member)                                                                \
    }
static const definition_key keys[] = {
    KEY(name, FORM_TEXT),
    KEY(kind, FORM_KIND),
    KEY(context, FORM_TEXT),
    KEY(contexts, FORM_SOURCE),
    KEY(choices, FORM_SOURCE),
    KEY(continuation, FORM_TEXT),
    KEY(answer, FORM_TEXT),
    KEY(gold, FORM_TEXT),
    KEY(gold_labels, FORM_SOURCE),
    KEY(gold_first, FORM_COUNT),
    KEY(clean, FORM_TEXT),
    KEY(delimiter, FORM_TEXT),
    KEY(description, FORM_TEXT),
    KEY(few_shot, FORM_COUNT),
    KEY(few_shot_delimiter, FORM_TEXT),
    KEY(stop, FORM_TEXTS),
    KEY(strict, FORM_TEXT),
    KEY(flexible, FORM_TEXT),
    KEY(max_new_tokens, FORM_COUNT),
};
enum { KEY_COUNT = sizeof keys / sizeof *keys };

/* A task file while it is read. */
typedef struct reader {
    sqf_yaml yaml;
    sqf_definition *definition;
    bool seen[KEY_COUNT];
} reader;

static sqf_status fail_at(const reader *r, sqf_error *err, const char *key, const char *problem)
{
    return sqf_fail(err, SQF_E_FORMAT, "%s: line %zu: %s%s%s", r->yaml.name, sqf_yaml_line(&r->yaml), key,
                    *key ? ": " : "", problem);
}

static sqf_status expect_event(reader *r, yaml_event_type_t type, const char *expected, sqf_error *err)
{
    SQF_TRY(sqf_yaml_next(&r->yaml, err));
    return r->yaml.event.type == type ? SQF_OK : fail_at(r, err, "", expected);
}

/* The current event is the start of the list. */
static sqf_status read_texts(reader *r, const char *key, sqf_text_list *out, sqf_error *err)
{
    for (;;) {
        char *text;
        SQF_TRY(sqf_yaml_next(&r->yaml, err));
        if (r->yaml.event.type == YAML_SEQUENCE_END_EVENT) {
            return out->count > 0 ? SQF_OK : fail_at(r, err, key, "expected at least one text in the list");
        }
        if (r->yaml.event.type != YAML_SCALAR_EVENT || out->count == LIST_MAX) {
            return fail_at(r, err, key, "expected a list of at most 1024 texts");
        }
        SQF_TRY(sqf_yaml_copy(&r->yaml, &text, err));
        SQF_TRY(sqf_text_list_add(out, text, err));
    }
}

static sqf_status read_count(const reader *r, const char *key, size_t *out, sqf_error *err)
{
    const char *text = sqf_yaml_text(&r->yaml);
    const size_t digits = strspn(text, "0123456789");
    const unsigned long long value =
        digits > 0 && digits < 9 && text[digits] == '\0' ? strtoull(text, NULL, 10) : COUNT_MAX + 1ull;
    if (value > COUNT_MAX) {
        return fail_at(r, err, key, "expected a whole number from 0 to 1048576");
    }
    *out = (size_t)value;
    return SQF_OK;
}

static sqf_status read_kind(const reader *r, const char *key, sqf_task_kind *out, sqf_error *err)
{
    for (int kind = SQF_TASK_CHOICE; kind <= SQF_TASK_GENERATE; kind++) {
        if (strcmp(sqf_yaml_text(&r->yaml), sqf_task_kind_name((sqf_task_kind)kind)) == 0) {
            *out = (sqf_task_kind)kind;
            return SQF_OK;
        }
    }
    return fail_at(r, err, key, "expected choice, partial, cloze or generate");
}

/* The event behind a key, whatever it is, into the definition. */
static sqf_status read_value(reader *r, const definition_key *key, sqf_error *err)
{
    void *member = (char *)r->definition + key->offset;
    SQF_TRY(sqf_yaml_next(&r->yaml, err));
    const bool list = r->yaml.event.type == YAML_SEQUENCE_START_EVENT;
    if (list && key->form == FORM_TEXTS) {
        return read_texts(r, key->name, member, err);
    }
    if (list && key->form == FORM_SOURCE) {
        return read_texts(r, key->name, &((sqf_text_source *)member)->templates, err);
    }
    if (r->yaml.event.type != YAML_SCALAR_EVENT || key->form == FORM_TEXTS) {
        return fail_at(r, err, key->name,
                       key->form == FORM_TEXTS    ? "expected a list of texts"
                       : key->form == FORM_SOURCE ? "expected a member's name or a list of texts"
                                                  : "expected one value");
    }
    switch (key->form) {
    case FORM_COUNT: return read_count(r, key->name, member, err);
    case FORM_KIND: return read_kind(r, key->name, member, err);
    case FORM_SOURCE: return sqf_yaml_copy(&r->yaml, &((sqf_text_source *)member)->member, err);
    default: return sqf_yaml_copy(&r->yaml, member, err);
    }
}

/* The current event is the key. */
static sqf_status read_key(reader *r, sqf_error *err)
{
    if (r->yaml.event.type != YAML_SCALAR_EVENT) {
        return fail_at(r, err, "", "expected a key");
    }
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (strcmp(sqf_yaml_text(&r->yaml), keys[i].name) == 0) {
            if (r->seen[i]) {
                return fail_at(r, err, keys[i].name, "given twice");
            }
            r->seen[i] = true;
            return read_value(r, &keys[i], err);
        }
    }
    char unknown[80];
    snprintf(unknown, sizeof unknown, "%.60s", sqf_yaml_text(&r->yaml));
    return fail_at(r, err, unknown, "no such key in a task file, see docs/evaluation.md");
}

static sqf_status read_document(reader *r, sqf_error *err)
{
    SQF_TRY(expect_event(r, YAML_STREAM_START_EVENT, "expected a stream", err));
    SQF_TRY(expect_event(r, YAML_DOCUMENT_START_EVENT, "expected a map, found nothing", err));
    SQF_TRY(expect_event(r, YAML_MAPPING_START_EVENT, "expected a map of keys", err));
    for (;;) {
        SQF_TRY(sqf_yaml_next(&r->yaml, err));
        if (r->yaml.event.type == YAML_MAPPING_END_EVENT) {
            break;
        }
        SQF_TRY(read_key(r, err));
    }
    SQF_TRY(expect_event(r, YAML_DOCUMENT_END_EVENT, "expected the end", err));
    return expect_event(r, YAML_STREAM_END_EVENT, "expected one document, found another", err);
}

static bool has_source(const sqf_text_source *source)
{
    return source->member || source->templates.count > 0;
}

/* Whether a key must, may or must not be there: a setting that means nothing is refused. */
static sqf_status need(const char *name, const char *key, bool there, bool needed, sqf_task_kind kind, sqf_error *err)
{
    if (there == needed) {
        return SQF_OK;
    }
    return sqf_fail(err, SQF_E_FORMAT, "%s: %s: %s for a task of kind %s", name, key,
                    needed ? "missing, needed" : "has no meaning", sqf_task_kind_name(kind));
}

static sqf_status check(const sqf_definition *d, const char *name, sqf_error *err)
{
    const sqf_task_kind k = d->kind;
    const bool choice = k == SQF_TASK_CHOICE, partial = k == SQF_TASK_PARTIAL, generate = k == SQF_TASK_GENERATE;
    SQF_TRY(need(name, "context", d->context != NULL, !partial, k, err));
    SQF_TRY(need(name, "contexts", has_source(&d->contexts), partial, k, err));
    SQF_TRY(need(name, "choices", has_source(&d->choices), choice, k, err));
    SQF_TRY(need(name, "continuation", d->continuation != NULL, partial || k == SQF_TASK_CLOZE, k, err));
    SQF_TRY(need(name, "gold", d->gold != NULL, choice || partial, k, err));
    SQF_TRY(need(name, "answer", d->answer != NULL, generate, k, err));
    SQF_TRY(need(name, "strict", d->strict != NULL, generate, k, err));
    SQF_TRY(need(name, "flexible", d->flexible != NULL, generate, k, err));
    SQF_TRY(need(name, "max_new_tokens", d->max_new_tokens > 0, generate, k, err));
    if (!generate) {
        SQF_TRY(need(name, "stop", d->stop.count > 0, false, k, err));
    }
    if (!choice && !partial) {
        SQF_TRY(need(name, "gold_labels", has_source(&d->gold_labels), false, k, err));
    }
    if (d->clean && strcmp(d->clean, "hellaswag") != 0) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: clean: expected hellaswag, found %s", name, d->clean);
    }
    for (size_t i = 0; i < d->stop.count; i++) {
        if (*d->stop.at[i] == '\0') {
            return sqf_fail(err, SQF_E_FORMAT, "%s: stop: expected texts, found an empty one", name);
        }
    }
    return SQF_OK;
}

static sqf_status set_default(char **text, const char *standard, sqf_error *err)
{
    return *text ? SQF_OK : sqf_copy_text(text, standard, strlen(standard), err);
}

/* Defaults, then what is made of the texts. */
static sqf_status finish(sqf_definition *d, const char *name, sqf_error *err)
{
    SQF_TRY(set_default(&d->name, "custom", err));
    SQF_TRY(set_default(&d->delimiter, " ", err));
    SQF_TRY(set_default(&d->few_shot_delimiter, "\n\n", err));
    SQF_TRY(set_default(&d->description, "", err));
    SQF_TRY(check(d, name, err));
    if (d->kind == SQF_TASK_GENERATE) {
        SQF_TRY(sqf_regex_compile(d->strict, false, "strict", &d->strict_regex, err));
        SQF_TRY(sqf_regex_compile(d->flexible, false, "flexible", &d->flexible_regex, err));
    }
    return SQF_OK;
}

sqf_status sqf_definition_parse(const char *bytes, size_t n, const char *name, sqf_definition *out, sqf_error *err)
{
    reader r = {.definition = out};
    *out = (sqf_definition){0};
    SQF_TRY(sqf_yaml_open(&r.yaml, bytes, n, name, " in a task file", err));
    sqf_status status = read_document(&r, err);
    sqf_yaml_close(&r.yaml);
    if (status == SQF_OK) {
        status = finish(out, name, err);
    }
    if (status != SQF_OK) {
        sqf_definition_clear(out);
    }
    return status;
}

/* Recipes as YAML, by libyaml's events: a fixed depth, no aliases, anchors or tags, every surprise named with its line.
 */
#include <string.h>

#include "base/file.h"
#include "base/yaml.h"
#include "ptq/recipe/recipe.h"

/* A recipe with an override for each module of a large model stays far below this. */
enum { RECIPE_BYTES_MAX = 1 << 20 };

typedef struct yaml_reader {
    sqf_yaml yaml;
    sqf_recipe *recipe;
    sqf_recipe_values base;
    bool has_overrides, has_ignores;
} yaml_reader;

/* Turns the error of a value into one of the file: "FILE: line 3: ...". */
static sqf_status fail_here(const yaml_reader *reader, sqf_error *err, sqf_status status)
{
    char prefix[256];
    snprintf(prefix, sizeof prefix, "%.200s: line %zu", reader->yaml.name, sqf_yaml_line(&reader->yaml));
    return sqf_fail_within(err, status == SQF_E_ARG ? SQF_E_FORMAT : status, prefix);
}

static const char *event_name(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT: return "a scalar";
    case YAML_SEQUENCE_START_EVENT: return "a list";
    case YAML_MAPPING_START_EVENT: return "a map";
    case YAML_SEQUENCE_END_EVENT: return "the end of a list";
    case YAML_MAPPING_END_EVENT: return "the end of a map";
    case YAML_ALIAS_EVENT: return "an alias";
    case YAML_DOCUMENT_START_EVENT: return "another document";
    default: return "the end";
    }
}

static sqf_status fail_event(const yaml_reader *reader, const char *expected, sqf_error *err)
{
    return sqf_fail(err, SQF_E_FORMAT, "%s: line %zu: expected %s, found %s", reader->yaml.name,
                    sqf_yaml_line(&reader->yaml), expected, event_name(&reader->yaml.event));
}

static sqf_status expect_event(yaml_reader *reader, yaml_event_type_t type, const char *expected, sqf_error *err)
{
    SQF_TRY(sqf_yaml_next(&reader->yaml, err));
    return reader->yaml.event.type == type ? SQF_OK : fail_event(reader, expected, err);
}

/* Reads the next scalar of a map; *end is true at the end of the map. The key is for free(). */
static sqf_status next_key(yaml_reader *reader, char **key, bool *end, sqf_error *err)
{
    *key = NULL;
    SQF_TRY(sqf_yaml_next(&reader->yaml, err));
    *end = reader->yaml.event.type == YAML_MAPPING_END_EVENT;
    if (*end) {
        return SQF_OK;
    }
    if (reader->yaml.event.type != YAML_SCALAR_EVENT) {
        return fail_event(reader, "a key", err);
    }
    return sqf_yaml_copy(&reader->yaml, key, err);
}

static sqf_status read_value(yaml_reader *reader, const char *key, sqf_recipe_values *values, sqf_error *err)
{
    char expected[96];
    snprintf(expected, sizeof expected, "a value of %.64s", key);
    SQF_TRY(expect_event(reader, YAML_SCALAR_EVENT, expected, err));
    const sqf_status status =
        sqf_recipe_values_add(values, key, sqf_yaml_text(&reader->yaml), sqf_yaml_line(&reader->yaml), err);
    return status == SQF_OK ? SQF_OK : fail_here(reader, err, status);
}

/* Adds an override to the recipe and moves the values into it. */
static sqf_status finish_override(yaml_reader *reader, const char *match, sqf_recipe_values *values, sqf_error *err)
{
    if (!match) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: line %zu: an override without match", reader->yaml.name,
                        sqf_yaml_line(&reader->yaml));
    }
    /* Checks the text of every value; a recipe without banks accepts every sparsity. */
    sqf_module_recipe scratch = {0};
    sqf_status status = sqf_recipe_values_apply(values, &scratch, err);
    if (status == SQF_OK) {
        status = sqf_recipe_add_override(reader->recipe, match, err);
    }
    if (status != SQF_OK) {
        char prefix[256];
        snprintf(prefix, sizeof prefix, "%.200s: override", reader->yaml.name);
        return sqf_fail_within(err, status == SQF_E_ARG ? SQF_E_FORMAT : status, prefix);
    }
    reader->recipe->overrides[reader->recipe->override_count - 1].values = *values;
    *values = (sqf_recipe_values){0};
    return SQF_OK;
}

static sqf_status read_override_key(yaml_reader *reader, const char *key, char **match, sqf_recipe_values *values,
                                    sqf_error *err)
{
    if (strcmp(key, "match") != 0) {
        return read_value(reader, key, values, err);
    }
    SQF_TRY(expect_event(reader, YAML_SCALAR_EVENT, "a regular expression", err));
    if (*match) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: line %zu: match: given twice", reader->yaml.name,
                        sqf_yaml_line(&reader->yaml));
    }
    return sqf_yaml_copy(&reader->yaml, match, err);
}

/* The current event is the start of the map. */
static sqf_status read_override(yaml_reader *reader, sqf_error *err)
{
    char *match = NULL;
    sqf_recipe_values values = {0};
    sqf_status status = SQF_OK;
    for (bool end = false; status == SQF_OK && !end;) {
        char *key;
        status = next_key(reader, &key, &end, err);
        if (status == SQF_OK && !end) {
            status = read_override_key(reader, key, &match, &values, err);
        }
        free(key);
    }
    if (status == SQF_OK) {
        status = finish_override(reader, match, &values, err);
    }
    sqf_recipe_values_clear(&values);
    free(match);
    return status;
}

static sqf_status read_overrides(yaml_reader *reader, sqf_error *err)
{
    SQF_TRY(expect_event(reader, YAML_SEQUENCE_START_EVENT, "overrides: a list of maps", err));
    for (;;) {
        SQF_TRY(sqf_yaml_next(&reader->yaml, err));
        if (reader->yaml.event.type == YAML_SEQUENCE_END_EVENT) {
            return SQF_OK;
        }
        if (reader->yaml.event.type != YAML_MAPPING_START_EVENT) {
            return fail_event(reader, "an override (a map)", err);
        }
        SQF_TRY(read_override(reader, err));
    }
}

static sqf_status read_ignores(yaml_reader *reader, sqf_error *err)
{
    SQF_TRY(expect_event(reader, YAML_SEQUENCE_START_EVENT, "ignore: a list of names", err));
    for (;;) {
        SQF_TRY(sqf_yaml_next(&reader->yaml, err));
        if (reader->yaml.event.type == YAML_SEQUENCE_END_EVENT) {
            return SQF_OK;
        }
        if (reader->yaml.event.type != YAML_SCALAR_EVENT) {
            return fail_event(reader, "the name of a module", err);
        }
        const sqf_status status = sqf_recipe_add_ignore(reader->recipe, sqf_yaml_text(&reader->yaml), err);
        if (status != SQF_OK) {
            return fail_here(reader, err, status);
        }
    }
}

static sqf_status read_key(yaml_reader *reader, const char *key, sqf_error *err)
{
    const bool overrides = strcmp(key, "overrides") == 0, ignores = strcmp(key, "ignore") == 0;
    if ((overrides && reader->has_overrides) || (ignores && reader->has_ignores)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: line %zu: %s: given twice", reader->yaml.name,
                        sqf_yaml_line(&reader->yaml), key);
    }
    if (overrides) {
        reader->has_overrides = true;
        return read_overrides(reader, err);
    }
    if (ignores) {
        reader->has_ignores = true;
        return read_ignores(reader, err);
    }
    return read_value(reader, key, &reader->base, err);
}

static sqf_status read_document(yaml_reader *reader, sqf_error *err)
{
    SQF_TRY(expect_event(reader, YAML_STREAM_START_EVENT, "a document", err));
    SQF_TRY(expect_event(reader, YAML_DOCUMENT_START_EVENT, "a document", err));
    SQF_TRY(expect_event(reader, YAML_MAPPING_START_EVENT, "a map of keys", err));
    for (bool end = false; !end;) {
        char *key;
        sqf_status status = next_key(reader, &key, &end, err);
        if (status == SQF_OK && !end) {
            status = read_key(reader, key, err);
        }
        free(key);
        SQF_TRY(status);
    }
    SQF_TRY(expect_event(reader, YAML_DOCUMENT_END_EVENT, "the end of the document", err));
    return expect_event(reader, YAML_STREAM_END_EVENT, "the end", err);
}

/* The key at index 0 is the scheme: without it there is no base to speak of. */
static sqf_status set_base(yaml_reader *reader, sqf_error *err)
{
    if (!reader->base.text[0]) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: scheme: expected the name of a scheme, found nothing",
                        reader->yaml.name);
    }
    reader->recipe->base = sqf_module_recipe_default(&(sqf_scheme){0});
    const sqf_status status = sqf_recipe_values_apply(&reader->base, &reader->recipe->base, err);
    return status == SQF_OK ? SQF_OK
                            : sqf_fail_within(err, status == SQF_E_ARG ? SQF_E_FORMAT : status, reader->yaml.name);
}

sqf_status sqf_recipe_parse(const char *yaml, size_t n, const char *name, sqf_recipe **out, sqf_error *err)
{
    *out = NULL;
    yaml_reader reader = {0};
    if (n > RECIPE_BYTES_MAX) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: expected at most %d bytes, found %zu", name, RECIPE_BYTES_MAX, n);
    }
    SQF_TRY(sqf_recipe_create(&(sqf_module_recipe){0}, &reader.recipe, err));
    sqf_status status = sqf_yaml_open(&reader.yaml, yaml, n, name, "", err);
    if (status != SQF_OK) {
        sqf_recipe_destroy(reader.recipe);
        return status;
    }
    yaml_parser_set_encoding(&reader.yaml.parser, YAML_UTF8_ENCODING);
    status = read_document(&reader, err);
    if (status == SQF_OK) {
        status = set_base(&reader, err);
    }
    sqf_yaml_close(&reader.yaml);
    sqf_recipe_values_clear(&reader.base);
    if (status != SQF_OK) {
        sqf_recipe_destroy(reader.recipe);
        return status;
    }
    *out = reader.recipe;
    return SQF_OK;
}

sqf_status sqf_recipe_load(const char *path, sqf_recipe **out, sqf_error *err)
{
    *out = NULL;
    sqf_buffer file;
    SQF_TRY(sqf_file_read(path, RECIPE_BYTES_MAX, &file, err));
    const sqf_status status = sqf_recipe_parse(file.data, file.size, path, out, err);
    free(file.data);
    return status;
}

/* Writing. `failed` collects the first refusal, so that the caller checks once. */
typedef struct yaml_writer {
    yaml_emitter_t emitter;
    sqf_buffer text;
    bool failed;
} yaml_writer;

static int append_text(void *user, unsigned char *bytes, size_t n)
{
    yaml_writer *writer = user;
    return sqf_buffer_append(&writer->text, bytes, n, NULL) == SQF_OK;
}

/* The emitter takes the event over. `made` is false where libyaml refused to make it: text that is not UTF-8. */
static void emit(yaml_writer *writer, yaml_event_t *event, int made)
{
    if (made && writer->failed) {
        yaml_event_delete(event);
        return;
    }
    if (!made || !yaml_emitter_emit(&writer->emitter, event)) {
        writer->failed = true;
    }
}

static void emit_scalar(yaml_writer *writer, const char *text, bool quoted)
{
    yaml_event_t event;
    const int made = yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text, (int)strlen(text), 1,
                                                  1, quoted ? YAML_SINGLE_QUOTED_SCALAR_STYLE : YAML_ANY_SCALAR_STYLE);
    emit(writer, &event, made);
}

static void emit_map(yaml_writer *writer, bool begin)
{
    yaml_event_t event;
    const int made = begin ? yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE)
                           : yaml_mapping_end_event_initialize(&event);
    emit(writer, &event, made);
}

static void emit_list(yaml_writer *writer, bool begin)
{
    yaml_event_t event;
    const int made = begin ? yaml_sequence_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_SEQUENCE_STYLE)
                           : yaml_sequence_end_event_initialize(&event);
    emit(writer, &event, made);
}

static void emit_base(yaml_writer *writer, const sqf_module_recipe *base)
{
    size_t count;
    const sqf_recipe_key *keys = sqf_recipe_key_list(&count);
    for (size_t i = 0; i < count; i++) {
        char text[SQF_RECIPE_VALUE];
        if (sqf_recipe_value_print(base, i, text)) {
            emit_scalar(writer, keys[i].name, false);
            emit_scalar(writer, text, false);
        }
    }
}

static void emit_override(yaml_writer *writer, const sqf_recipe_override *override)
{
    size_t count;
    const sqf_recipe_key *keys = sqf_recipe_key_list(&count);
    emit_map(writer, true);
    emit_scalar(writer, "match", false);
    emit_scalar(writer, override->match, true);
    for (size_t i = 0; i < count; i++) {
        if (override->values.text[i]) {
            emit_scalar(writer, keys[i].name, false);
            emit_scalar(writer, override->values.text[i], false);
        }
    }
    emit_map(writer, false);
}

static void emit_recipe(yaml_writer *writer, const sqf_recipe *recipe)
{
    emit_map(writer, true);
    emit_base(writer, &recipe->base);
    if (recipe->override_count > 0) {
        emit_scalar(writer, "overrides", false);
        emit_list(writer, true);
        for (size_t i = 0; i < recipe->override_count; i++) {
            emit_override(writer, &recipe->overrides[i]);
        }
        emit_list(writer, false);
    }
    if (recipe->ignore_count > 0) {
        emit_scalar(writer, "ignore", false);
        emit_list(writer, true);
        for (size_t i = 0; i < recipe->ignore_count; i++) {
            emit_scalar(writer, recipe->ignores[i].text, true);
        }
        emit_list(writer, false);
    }
    emit_map(writer, false);
}

static void emit_stream(yaml_writer *writer, const sqf_recipe *recipe)
{
    yaml_event_t event;
    emit(writer, &event, yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING));
    emit(writer, &event, yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1));
    emit_recipe(writer, recipe);
    emit(writer, &event, yaml_document_end_event_initialize(&event, 1));
    emit(writer, &event, yaml_stream_end_event_initialize(&event));
}

sqf_status sqf_recipe_print(const sqf_recipe *recipe, char **yaml, sqf_error *err)
{
    *yaml = NULL;
    yaml_writer writer = {0};
    if (!yaml_emitter_initialize(&writer.emitter)) {
        return sqf_fail(err, SQF_E_MEMORY, "recipe: out of memory");
    }
    yaml_emitter_set_output(&writer.emitter, append_text, &writer);
    yaml_emitter_set_width(&writer.emitter, -1);
    yaml_emitter_set_unicode(&writer.emitter, 1);
    emit_stream(&writer, recipe);
    yaml_emitter_delete(&writer.emitter);
    if (writer.failed) {
        free(writer.text.data);
        return sqf_fail(err, SQF_E_ARG, "recipe: a text is not UTF-8, or out of memory");
    }
    *yaml = writer.text.data;
    return SQF_OK;
}

/* Grid files as YAML, read as a whole document by libyaml: sections, settings and lists of choices, every surprise
 * named with its line. What the values mean is the business of grid.c and of the library. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "../output.h"
#include "grid.h"

enum { GRID_BYTES_MAX = 1 << 20 };

typedef struct reader {
    const char *path; /* NULL = the command line */
    yaml_document_t document;
    bool failed; /* a message was printed: the first one counts */
} reader;

static bool fail_at(reader *r, size_t line, const char *format, ...) SQF_PRINTF(3, 4);

static bool fail_at(reader *r, size_t line, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (r->path) {
        fail_input("%s: line %zu: %s", r->path, line, text);
    } else { /* a value of the command line */
        fail_usage("--set %s", text);
    }
    r->failed = true;
    return false;
}

static size_t line_of(const yaml_node_t *node)
{
    return node->start_mark.line + 1;
}

static yaml_node_t *node_at(reader *r, int index)
{
    return yaml_document_get_node(&r->document, index);
}

static const char *kind_name(const yaml_node_t *node)
{
    return node->type == YAML_SEQUENCE_NODE ? "a list" : node->type == YAML_MAPPING_NODE ? "a map" : "a scalar";
}

/* The text of a scalar; NULL after a message. */
static const char *scalar_of(reader *r, const yaml_node_t *node, const char *what)
{
    if (node->type != YAML_SCALAR_NODE) {
        fail_at(r, line_of(node), "%s: expected a scalar, found %s", what, kind_name(node));
        return NULL;
    }
    const char *text = (const char *)node->data.scalar.value;
    if (strlen(text) != node->data.scalar.length || !*text) {
        fail_at(r, line_of(node), "%s: %s", what, *text ? "found a NUL byte" : "the value is missing");
        return NULL;
    }
    return text;
}

/* A JSON number where the text is plainly a decimal one, so that tables sort by value; else the text. */
static json_t *typed_value(const char *text)
{
    const char *digits = text + (*text == '-');
    char *end;
    if (strspn(digits, "0123456789") == strlen(digits) && *digits && (digits[0] != '0' || !digits[1])) {
        errno = 0;
        const long long whole = strtoll(text, &end, 10);
        if (errno == 0) {
            return json_integer(whole);
        }
    } else if (strspn(digits, "0123456789.eE+-") == strlen(digits) && digits[0] >= '0' && digits[0] <= '9') {
        const double real = strtod(text, &end);
        if (*end == '\0') {
            return json_real(real);
        }
    }
    return json_text(text, strlen(text));
}

static json_t *switch_value(reader *r, const yaml_node_t *node, const char *key, const char *text)
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(text, words[i]) == 0) {
            return json_boolean(i % 2 == 1);
        }
    }
    fail_at(r, line_of(node), "%s: expected yes or no, found '%.60s'", key, text);
    return NULL;
}

static json_t *count_value(reader *r, const yaml_node_t *node, const grid_key *key, const char *text)
{
    json_t *value = strlen(text) < 19 ? typed_value(text) : NULL;
    if (json_is_integer(value) && json_integer_value(value) >= (json_int_t)key->least &&
        (uint64_t)json_integer_value(value) <= key->most) {
        return value;
    }
    json_decref(value);
    fail_at(r, line_of(node), "%s: expected a whole number from %" PRIu64 " to %" PRIu64 ", found '%.60s'", key->name,
            key->least, key->most, text);
    return NULL;
}

/* One scalar of a key; NULL after a message. */
static json_t *scalar_value(reader *r, const yaml_node_t *node, const grid_key *key)
{
    const char *text = scalar_of(r, node, key->name);
    if (!text) {
        return NULL;
    }
    switch (key->kind) {
    case GRID_COUNT: return count_value(r, node, key, text);
    case GRID_SWITCH: return switch_value(r, node, key->name, text);
    case GRID_RECIPE: return typed_value(text);
    default: return json_text(text, strlen(text));
    }
}

/* The key of a table; `known` is filled for one of the recipe's. False if there is none. */
static bool find_key(const char *name, grid_key *known)
{
    size_t count;
    const grid_key *own = grid_key_list(&count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(own[i].name, name) == 0) {
            *known = own[i];
            return true;
        }
    }
    const sqf_recipe_key *keys = sqf_recipe_key_list(&count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(keys[i].name, name) == 0) {
            *known = (grid_key){.name = keys[i].name, .kind = GRID_RECIPE};
            return true;
        }
    }
    return false;
}

/* A list of scalars, or a scalar alone, as an array. */
static json_t *scalar_list(reader *r, const yaml_node_t *node, const grid_key *key)
{
    json_t *list = json_array();
    if (node->type != YAML_SEQUENCE_NODE) {
        json_array_append_new(list, scalar_value(r, node, key));
    } else {
        for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top; item++) {
            json_array_append_new(list, r->failed ? NULL : scalar_value(r, node_at(r, *item), key));
        }
    }
    if (!r->failed && json_array_size(list) == 0) {
        fail_at(r, line_of(node), "%s: expected at least one value, found an empty list", key->name);
    }
    return list;
}

/* One override: a map of match and recipe keys, all of them texts. */
static json_t *override_value(reader *r, const yaml_node_t *node)
{
    if (node->type != YAML_MAPPING_NODE) {
        fail_at(r, line_of(node), "overrides: expected a map, found %s", kind_name(node));
        return NULL;
    }
    json_t *override = json_object();
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        const char *name = scalar_of(r, node_at(r, pair->key), "overrides");
        grid_key key = {.name = "match", .kind = GRID_TEXT};
        if (!name) {
            break;
        }
        if (strcmp(name, "match") != 0 && (!find_key(name, &key) || key.kind != GRID_RECIPE)) {
            fail_at(r, line_of(node_at(r, pair->key)), "overrides: unknown key '%.60s'", name);
            break;
        }
        json_object_set_new(override, key.name, scalar_value(r, node_at(r, pair->value), &key));
    }
    if (!r->failed && !json_object_get(override, "match")) {
        fail_at(r, line_of(node), "overrides: match is missing");
    }
    return override;
}

static json_t *override_list(reader *r, const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE) {
        fail_at(r, line_of(node), "overrides: expected a list of maps, found %s", kind_name(node));
        return NULL;
    }
    json_t *list = json_array();
    for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top; item++) {
        json_array_append_new(list, r->failed ? NULL : override_value(r, node_at(r, *item)));
    }
    return list;
}

/* The choices of a key: its scalars, or the one thing that a list of it is. */
static json_t *choices_of(reader *r, const yaml_node_t *node, const grid_key *key)
{
    if (key->kind != GRID_LIST && key->kind != GRID_OVERRIDES) {
        return scalar_list(r, node, key);
    }
    json_t *choices = json_array();
    json_array_append_new(choices, key->kind == GRID_LIST ? scalar_list(r, node, key) : override_list(r, node));
    return choices;
}

/* The axis of a key, made if there is none. NULL without memory. */
static grid_axis *find_axis(grid_axes *axes, const char *key, bool *made)
{
    *made = false;
    for (size_t i = 0; i < axes->count; i++) {
        if (strcmp(axes->items[i].key, key) == 0) {
            return &axes->items[i];
        }
    }
    grid_axis *larger = realloc(axes->items, (axes->count + 1) * sizeof *larger);
    if (!larger) {
        return NULL;
    }
    axes->items = larger;
    *made = true;
    larger[axes->count] = (grid_axis){.key = key};
    return &larger[axes->count++];
}

static bool add_axis(reader *r, grid_axes *axes, const yaml_node_t *key_node, const yaml_node_t *value)
{
    grid_key key;
    const char *name = scalar_of(r, key_node, "a key");
    if (!name) {
        return false;
    }
    if (!find_key(name, &key)) {
        return fail_at(r, line_of(key_node), "unknown key '%.60s', see docs/sweep.md", name);
    }
    bool made;
    grid_axis *axis = find_axis(axes, key.name, &made);
    if (!axis || !made) {
        return fail_at(r, line_of(key_node), axis ? "%s: given twice" : "%s: out of memory", key.name);
    }
    axis->line = line_of(key_node);
    axis->choices = choices_of(r, value, &key);
    return !r->failed;
}

static bool read_axes(reader *r, const yaml_node_t *node, grid_axes *axes, const char *what)
{
    if (node->type != YAML_MAPPING_NODE) {
        return fail_at(r, line_of(node), "%s: expected a map of settings, found %s", what, kind_name(node));
    }
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        if (!add_axis(r, axes, node_at(r, pair->key), node_at(r, pair->value))) {
            return false;
        }
    }
    return true;
}

/* The elements of `grids` or `points`: a list that is not empty. *first is its items; 0 after a message. */
static size_t list_of(reader *r, const yaml_node_t *node, const char *what, yaml_node_item_t **first)
{
    if (node->type != YAML_SEQUENCE_NODE || node->data.sequence.items.start == node->data.sequence.items.top) {
        fail_at(r, line_of(node), "%s: expected a list of maps, found %s", what,
                node->type == YAML_SEQUENCE_NODE ? "an empty list" : kind_name(node));
        return 0;
    }
    *first = node->data.sequence.items.start;
    return (size_t)(node->data.sequence.items.top - *first);
}

static bool read_points(reader *r, const yaml_node_t *node, grid_section *section)
{
    yaml_node_item_t *first = NULL;
    const size_t count = list_of(r, node, "points", &first);
    section->points = calloc(count + 1, sizeof *section->points);
    for (size_t i = 0; i < count && section->points && !r->failed; i++) {
        section->point_count++;
        read_axes(r, node_at(r, first[i]), &section->points[i], "points");
    }
    return !r->failed;
}

static bool read_words(reader *r, const yaml_node_t *node, const char *key, char **out)
{
    const char *text = scalar_of(r, node, key);
    free(*out);
    *out = text ? strdup(text) : NULL;
    return text != NULL;
}

/* A section: words about it, points, settings. `grids` is taken at the outer level alone. */
static bool read_section(reader *r, const yaml_node_t *node, grid_section *section, const yaml_node_t **grids)
{
    if (node->type != YAML_MAPPING_NODE) {
        return fail_at(r, line_of(node), "expected a map, found %s", kind_name(node));
    }
    section->line = line_of(node);
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key_node = node_at(r, pair->key), *value = node_at(r, pair->value);
        const char *key = scalar_of(r, key_node, "a key");
        if (!key) {
            return false;
        }
        char **words = strcmp(key, "name") == 0       ? &section->name
                       : strcmp(key, "title") == 0    ? &section->title
                       : strcmp(key, "question") == 0 ? &section->question
                                                      : NULL;
        bool fine;
        if (words) {
            fine = read_words(r, value, key, words);
        } else if (strcmp(key, "points") == 0 && !section->points) {
            fine = read_points(r, value, section);
        } else if (grids && !*grids && strcmp(key, "grids") == 0) {
            *grids = value;
            fine = true;
        } else {
            fine = add_axis(r, &section->axes, key_node, value);
        }
        if (!fine) {
            return false;
        }
    }
    return true;
}

/* A name for every section, none of them twice: results are told apart by it. */
static bool name_sections(reader *r, grid_file *file)
{
    for (size_t i = 0; i < file->count; i++) {
        grid_section *section = &file->sections[i];
        if (!section->name) {
            char name[32];
            snprintf(name, sizeof name, "grid %zu", i + 1);
            section->name = strdup(name);
        }
        for (size_t j = 0; j < i; j++) {
            if (section->name && strcmp(section->name, file->sections[j].name) == 0) {
                return fail_at(r, section->line, "the name '%.60s' is given twice", section->name);
            }
        }
    }
    return true;
}

/* The base section and those of `grids`; a file without grids is one section without settings of its own, as is a list
 * of points at the outer level. */
static bool read_sections(reader *r, grid_file *file)
{
    const yaml_node_t *root = yaml_document_get_root_node(&r->document), *grids = NULL;
    if (!root) {
        return fail_at(r, 1, "expected a map, found nothing");
    }
    if (!read_section(r, root, &file->base, &grids)) {
        return false;
    }
    yaml_node_item_t *first = NULL;
    const size_t listed = grids ? list_of(r, grids, "grids", &first) : 0;
    const bool own = !grids || file->base.points;
    file->sections = calloc(listed + 1, sizeof *file->sections);
    if (r->failed || !file->sections) {
        return false;
    }
    if (own) {
        grid_section *section = &file->sections[file->count++];
        section->line = file->base.line;
        section->points = file->base.points; /* moves */
        section->point_count = file->base.point_count;
        file->base.points = NULL;
        file->base.point_count = 0;
        section->name = strdup(file->base.name ? file->base.name : "points");
    }
    for (size_t i = 0; i < listed; i++) {
        if (!read_section(r, node_at(r, first[i]), &file->sections[file->count++], NULL)) {
            return false;
        }
    }
    return name_sections(r, file);
}

/* One document of at most GRID_BYTES_MAX bytes. */
static bool parse_file(reader *r, FILE *stream)
{
    static unsigned char bytes[GRID_BYTES_MAX];
    const size_t n = fread(bytes, 1, sizeof bytes, stream);
    if (ferror(stream) || n == sizeof bytes) {
        fail_input("%s: %s", r->path, n == sizeof bytes ? "larger than 1 MB" : "cannot be read");
        return false;
    }
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) {
        fail_input("%s: out of memory", r->path);
        return false;
    }
    yaml_parser_set_input_string(&parser, bytes, n);
    const bool fine = yaml_parser_load(&parser, &r->document) == 1;
    if (!fine) {
        fail_at(r, parser.problem_mark.line + 1, "not YAML: %s", parser.problem ? parser.problem : "out of memory");
    }
    yaml_parser_delete(&parser);
    return fine;
}

int grid_file_load(const char *path, grid_file *out)
{
    *out = (grid_file){.path = path};
    reader r = {.path = path};
    FILE *stream = fopen(path, "r");
    if (!stream) {
        return fail_input("%s: cannot open: %s", path, strerror(errno));
    }
    bool fine = parse_file(&r, stream);
    fclose(stream);
    if (fine) {
        fine = read_sections(&r, out);
        yaml_document_delete(&r.document);
    }
    if (!fine) {
        grid_file_clear(out);
        return EXIT_BAD;
    }
    return EXIT_DONE;
}

/* The value is what a scalar of the file would be; of a list of texts it is the one text. */
int grid_file_set(grid_file *file, const char *key, const char *value)
{
    grid_key known;
    bool made;
    if (!find_key(key, &known) || known.kind == GRID_OVERRIDES) {
        return fail_usage("--set %.60s: unknown key, see docs/sweep.md", key);
    }
    yaml_node_t node = {.type = YAML_SCALAR_NODE};
    node.data.scalar.value = (yaml_char_t *)value;
    node.data.scalar.length = strlen(value);
    reader r = {.path = NULL};
    json_t *choice = known.kind == GRID_LIST ? scalar_list(&r, &node, &known) : scalar_value(&r, &node, &known);
    grid_axis *axis = r.failed ? NULL : find_axis(&file->given, known.name, &made);
    if (!axis) {
        json_decref(choice);
        return r.failed ? EXIT_USAGE : fail_input("out of memory");
    }
    axis->choices = made ? json_array() : axis->choices;
    json_array_append_new(axis->choices, choice);
    return EXIT_DONE;
}

static void clear_axes(grid_axes *axes)
{
    for (size_t i = 0; i < axes->count; i++) {
        json_decref(axes->items[i].choices);
    }
    free(axes->items);
}

static void clear_section(grid_section *section)
{
    free(section->name);
    free(section->title);
    free(section->question);
    clear_axes(&section->axes);
    for (size_t i = 0; i < section->point_count; i++) {
        clear_axes(&section->points[i]);
    }
    free(section->points);
}

void grid_file_clear(grid_file *file)
{
    clear_section(&file->base);
    clear_axes(&file->given);
    for (size_t i = 0; i < file->count; i++) {
        clear_section(&file->sections[i]);
    }
    free(file->sections);
    *file = (grid_file){0};
}

/* From the sections of a grid file to points: settings are merged, choices crossed, recipes made. */
#include "grid.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../output.h"

/* More than anybody waits for: a slip in a file must not fill the memory. */
enum { POINTS_MAX = 100000, AXES_MAX = 128, VALUE_TEXT = 512, LABEL_TEXT = 512 };

const grid_key *grid_key_list(size_t *count)
{
    static const grid_key keys[] = {
        {"model", GRID_TEXT, 0, 0, NULL, "model directory to quantize; the reference of its own points"},
        {"calib", GRID_TEXT, 0, 0, NULL, "calibration text or .jsonl; none rounds without statistics"},
        {"samples", GRID_COUNT, 1, 1 << 20, "32", "calibration windows"},
        {"length", GRID_COUNT, 1, 1 << 24, "2048", "tokens of a calibration window"},
        {"calib_random", GRID_SWITCH, 0, 0, "no", "draw where windows start with the seed"},
        {"seed", GRID_COUNT, 0, INT64_MAX, "0", "of random windows, importances, masks and rotations"},
        {"text", GRID_LIST, 0, 0, NULL, "held-out texts to evaluate on; the first gives the figures of a point"},
        {"window", GRID_COUNT, 2, 1 << 24, "2048", "tokens of an evaluation window"},
        {"max_tokens", GRID_COUNT, 0, INT64_MAX, "0", "evaluate on so many tokens of each text; 0 = all"},
        {"kl", GRID_SWITCH, 0, 0, "yes", "run the reference beside each point, for KL divergence and same top tokens"},
        {"tasks", GRID_LIST, 0, 0, NULL, "item files of benchmarks; with kl against the reference, item by item"},
        {"task_limit", GRID_COUNT, 0, INT64_MAX, "0", "so many items of each benchmark; 0 = all"},
        {"ignore", GRID_LIST, 0, 0, NULL, "modules left alone: names, or re: and an expression"},
        {"overrides", GRID_OVERRIDES, 0, 0, NULL, "maps of match and recipe keys, as in a recipe file"},
    };
    *count = sizeof keys / sizeof *keys;
    return keys;
}

void grid_value_text(const json_t *value, char *text, size_t size)
{
    if (json_is_integer(value)) {
        snprintf(text, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        snprintf(text, size, "%.15g", json_real_value(value));
    } else if (json_is_boolean(value)) {
        snprintf(text, size, "%s", json_is_true(value) ? "yes" : "no");
    } else if (json_is_string(value)) {
        snprintf(text, size, "%s", json_string_value(value));
    } else { /* lists: as short as JSON goes */
        char *dump = json_dumps(value, JSON_COMPACT);
        snprintf(text, size, "%s", dump ? dump : "");
        free(dump);
    }
}

const char *settings_text(const json_t *settings, const char *key)
{
    return json_string_value(json_object_get(settings, key));
}

uint64_t settings_count(const json_t *settings, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(settings, key));
}

bool settings_switch(const json_t *settings, const char *key)
{
    return json_is_true(json_object_get(settings, key));
}

/* The settings of one list of points or of a section without one, borrowed; later ones take the place of earlier. */
typedef struct merged_axes {
    const grid_axis *items[AXES_MAX];
    bool varies[AXES_MAX]; /* worth a word in a label */
    size_t count;
} merged_axes;

static void merge(merged_axes *merged, const grid_axes *axes, bool varies)
{
    for (size_t i = 0; i < axes->count && merged->count < AXES_MAX; i++) {
        size_t place = 0;
        while (place < merged->count && strcmp(merged->items[place]->key, axes->items[i].key) != 0) {
            place++;
        }
        merged->items[place] = &axes->items[i];
        merged->varies[place] = varies || json_array_size(axes->items[i].choices) > 1;
        merged->count += place == merged->count;
    }
}

/* What is being expanded. */
typedef struct expansion {
    const grid_file *file;
    const grid_section *section;
    sweep_points *out;
} expansion;

static int fail_point(const expansion *e, const sweep_point *point, const char *text)
{
    return fail_input("%s: line %zu: %s: %s: %s", e->file->path, e->section->line, point->grid, point->label, text);
}

/* Keys take effect in the order of the library's table, whatever the order of the file. */
static sqf_status apply_keys(const json_t *settings, sqf_module_recipe *recipe, sqf_error *err)
{
    size_t count;
    const sqf_recipe_key *keys = sqf_recipe_key_list(&count);
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_object_get(settings, keys[i].name);
        char text[VALUE_TEXT];
        if (value && strcmp(keys[i].name, "scheme") != 0) {
            grid_value_text(value, text, sizeof text);
            const sqf_status status = sqf_module_recipe_set(recipe, keys[i].name, text, err);
            if (status != SQF_OK) {
                return status;
            }
        }
    }
    return sqf_scheme_check(&recipe->scheme, err);
}

static sqf_status add_override(sqf_recipe *recipe, json_t *override, sqf_error *err)
{
    const char *key;
    json_t *value;
    sqf_status status = sqf_recipe_add_override(recipe, settings_text(override, "match"), err);
    json_object_foreach(override, key, value)
    {
        char text[VALUE_TEXT];
        grid_value_text(value, text, sizeof text);
        if (status == SQF_OK && strcmp(key, "match") != 0) {
            status = sqf_recipe_override_set(recipe, key, text, err);
        }
    }
    return status;
}

static sqf_status add_lists(const json_t *settings, sqf_recipe *recipe, sqf_error *err)
{
    size_t i;
    json_t *item;
    sqf_status status = SQF_OK;
    json_array_foreach(json_object_get(settings, "overrides"), i, item)
    {
        status = status == SQF_OK ? add_override(recipe, item, err) : status;
    }
    json_array_foreach(json_object_get(settings, "ignore"), i, item)
    {
        status = status == SQF_OK ? sqf_recipe_add_ignore(recipe, json_string_value(item), err) : status;
    }
    return status;
}

static sqf_status make_recipe(const json_t *settings, sqf_recipe **out, sqf_error *err)
{
    char name[VALUE_TEXT];
    sqf_scheme scheme;
    grid_value_text(json_object_get(settings, "scheme"), name, sizeof name);
    sqf_status status = sqf_scheme_parse(name, &scheme, err);
    if (status != SQF_OK) {
        return status;
    }
    sqf_module_recipe base = sqf_module_recipe_default(&scheme);
    status = apply_keys(settings, &base, err);
    if (status == SQF_OK) {
        status = sqf_recipe_create(&base, out, err);
    }
    return status == SQF_OK ? add_lists(settings, *out, err) : status;
}

/* Keys without which nothing can be measured, and defaults of those that were not given. */
static int complete_settings(const expansion *e, sweep_point *point)
{
    static const char *const required[] = {"model", "scheme", "text", "calib"};
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        if (!json_object_get(point->settings, required[i])) {
            char text[64];
            snprintf(text, sizeof text, "%s is missing%s", required[i],
                     strcmp(required[i], "calib") == 0 ? ": a text file, or none" : "");
            return fail_point(e, point, text);
        }
    }
    size_t count;
    const grid_key *keys = grid_key_list(&count);
    for (size_t i = 0; i < count; i++) {
        if (keys[i].default_text && !json_object_get(point->settings, keys[i].name)) {
            json_object_set_new(point->settings, keys[i].name,
                                keys[i].kind == GRID_SWITCH ? json_boolean(strcmp(keys[i].default_text, "yes") == 0)
                                                            : json_integer(atoi(keys[i].default_text)));
        }
    }
    return EXIT_DONE;
}

/* "W4A8 bank=32 seed=1": the scheme, and what varies beside it. */
static char *make_label(const merged_axes *merged, const json_t *settings)
{
    char label[LABEL_TEXT] = "", text[VALUE_TEXT / 4];
    const json_t *scheme = json_object_get(settings, "scheme");
    if (scheme) {
        grid_value_text(scheme, label, sizeof label / 2);
    }
    for (size_t i = 0; i < merged->count; i++) {
        const grid_axis *axis = merged->items[i];
        const size_t used = strlen(label);
        if (merged->varies[i] && strcmp(axis->key, "scheme") != 0) {
            grid_value_text(json_object_get(settings, axis->key), text, sizeof text);
            snprintf(label + used, sizeof label - used, "%s%s=%s", used ? " " : "", axis->key, text);
        }
    }
    return strdup(label);
}

/* The point of one choice of every axis. */
static int add_point(const expansion *e, const merged_axes *merged, const size_t *choice)
{
    sweep_points *out = e->out;
    if (out->count == POINTS_MAX) {
        return fail_input("%s: more than %d points", e->file->path, POINTS_MAX);
    }
    if ((out->count & (out->count - 1)) == 0) { /* the capacity is the next power of two */
        sweep_point *larger = realloc(out->items, (out->count ? 2 * out->count : 1) * sizeof *larger);
        if (!larger) {
            return fail_input("%s: out of memory", e->file->path);
        }
        out->items = larger;
    }
    sweep_point *point = &out->items[out->count++];
    *point = (sweep_point){.section = e->section, .grid = e->section->name, .settings = json_object()};
    for (size_t i = 0; i < merged->count; i++) {
        json_object_set(point->settings, merged->items[i]->key, json_array_get(merged->items[i]->choices, choice[i]));
    }
    point->label = make_label(merged, point->settings);
    const int code = point->label ? complete_settings(e, point) : fail_input("out of memory");
    sqf_error err = {SQF_E_MEMORY, "out of memory"};
    if (code == EXIT_DONE && make_recipe(point->settings, &point->recipe, &err) != SQF_OK) {
        return fail_point(e, point, err.text);
    }
    return code;
}

/* Counts through all choices like an odometer: the last axis turns fastest. */
static int cross(const expansion *e, const merged_axes *merged)
{
    size_t choice[AXES_MAX] = {0};
    for (;;) {
        const int code = add_point(e, merged, choice);
        if (code != EXIT_DONE) {
            return code;
        }
        size_t place = merged->count;
        while (place > 0 && ++choice[place - 1] == json_array_size(merged->items[place - 1]->choices)) {
            choice[--place] = 0;
        }
        if (place == 0) {
            return EXIT_DONE;
        }
    }
}

static int expand_section(const expansion *e)
{
    const size_t lists = e->section->point_count ? e->section->point_count : 1;
    for (size_t i = 0; i < lists; i++) {
        merged_axes merged = {.count = 0};
        merge(&merged, &e->file->base.axes, false);
        merge(&merged, &e->section->axes, false);
        if (e->section->point_count) {
            merge(&merged, &e->section->points[i], true);
        }
        merge(&merged, &e->file->given, false);
        const int code = cross(e, &merged);
        if (code != EXIT_DONE) {
            return code;
        }
    }
    return EXIT_DONE;
}

int grid_expand(const grid_file *file, sweep_points *out)
{
    *out = (sweep_points){0};
    int code = EXIT_DONE;
    for (size_t i = 0; i < file->count && code == EXIT_DONE; i++) {
        const expansion e = {file, &file->sections[i], out};
        code = expand_section(&e);
    }
    return code;
}

void sweep_points_clear(sweep_points *points)
{
    for (size_t i = 0; i < points->count; i++) {
        free(points->items[i].label);
        json_decref(points->items[i].settings);
        sqf_recipe_destroy(points->items[i].recipe);
    }
    free(points->items);
    *points = (sweep_points){0};
}

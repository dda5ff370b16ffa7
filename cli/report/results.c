/* Results of sweeps: read, the last of each point kept, grouped over seeds; what varies within a grid. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../output.h"
#include "report.h"

enum { LABEL_TEXT = 512, VALUE_TEXT = 160 };

const metric_row metric_rows[METRIC_COUNT] = {
    [METRIC_LOSS] = {"ratio", "ratio_error", "loss_percent", "loss, %", 100, 3},
    [METRIC_PERPLEXITY] = {"perplexity", "difference_error", "perplexity", "perplexity", 1, 3},
    [METRIC_KL] = {"kl", "kl_error", "kl", "KL divergence", 1, 5},
    [METRIC_SAME_TOP] = {"same_top", NULL, "same_top_percent", "same top, %", 100, 2},
    [METRIC_ACCURACY] = {"accuracy", "accuracy_error", "accuracy_percent", "accuracy, %", 100, 2},
    [METRIC_STORED_BITS] = {"stored_bits", NULL, "stored_bits", "stored bits a weight", 1, 3},
    [METRIC_WEIGHTS_BITS] = {"weights_equivalent_bits", NULL, "weights_equivalent_bits", "equivalent bits, weights", 1,
                             2},
    [METRIC_ACTIVATIONS_BITS] = {"activations_equivalent_bits", NULL, "activations_equivalent_bits",
                                 "equivalent bits, activations", 1, 2},
    [METRIC_LOW_RATE] = {"low_rate_share", NULL, "low_rate_percent", "low rate, %", 100, 1},
    [METRIC_COST] = {"predicted_cost", NULL, "predicted_cost", "predicted cost", 1, 3},
    [METRIC_OUTPUT_ERROR] = {"mean_output_error", NULL, "mean_output_error", "output error", 1, 6},
    [METRIC_SECONDS] = {"seconds", NULL, "seconds", "seconds", 1, 1},
    [METRIC_MEMORY] = {"peak_memory_bytes", NULL, "peak_memory_mb", "memory, MB", 1e-6, 0},
};

static double member_of(const json_t *line, const char *key)
{
    const json_t *value = key ? json_object_get(line, key) : NULL;
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* What is shown of one result. A ratio is shown as a loss. */
static double value_of(const json_t *line, report_metric metric)
{
    const double value = member_of(line, metric_rows[metric].key);
    return metric_rows[metric].factor * (metric == METRIC_LOSS ? value - 1 : value);
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* Lines of one point have one key: title and name of the grid, and all settings. For free(). */
static char *key_of(const json_t *line, bool with_seed)
{
    json_t *settings = json_copy(json_object_get(line, "settings"));
    if (!with_seed) {
        json_object_del(settings, "seed");
    }
    json_t *key = json_object();
    json_object_set(key, "grid", json_object_get(line, "grid"));
    json_object_set(key, "title", json_object_get(line, "title"));
    json_object_set_new(key, "settings", settings);
    char *text = json_dumps(key, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(15));
    json_decref(key);
    return text;
}

/* What tables and plots rely on. */
static bool is_result(const json_t *line)
{
    return text_of(line, "grid") && text_of(line, "status") && json_is_object(json_object_get(line, "settings")) &&
           json_is_array(json_object_get(json_object_get(line, "settings"), "text"));
}

static int read_file(const char *path, json_t *points)
{
    FILE *file = fopen(path, "r");
    if (!file) {
        return fail_input("%s: cannot open: %s", path, strerror(errno));
    }
    char *text = NULL;
    size_t room = 0, number = 0;
    int code = EXIT_DONE;
    for (ssize_t n; code == EXIT_DONE && (n = getline(&text, &room, file)) > 0;) {
        number++;
        if (text[n - 1] != '\n') {
            fail_input("%s: the last line is torn and left out", path);
            break;
        }
        json_error_t error;
        json_t *line = json_loadb(text, (size_t)n, 0, &error);
        char *key = is_result(line) ? key_of(line, true) : NULL;
        if (key) {
            json_object_set(points, key, line);
        } else {
            code = fail_input("%s: line %zu: not a result of sqf sweep%s%s", path, number, line ? "" : ": ",
                              line ? "" : error.text);
        }
        free(key);
        json_decref(line);
    }
    if (code == EXIT_DONE && ferror(file)) {
        code = fail_input("%s: cannot read", path);
    }
    free(text);
    fclose(file);
    return code;
}

/* The grid of a line, made if it is the first of it. NULL without memory. */
static report_grid *grid_of(report *r, const json_t *line)
{
    const char *name = text_of(line, "grid"), *title = text_of(line, "title");
    for (size_t i = 0; i < r->grid_count; i++) {
        report_grid *grid = &r->grids[i];
        if (strcmp(grid->name, name) == 0 && strcmp(grid->title ? grid->title : "", title ? title : "") == 0) {
            return grid;
        }
    }
    report_grid *larger = realloc(r->grids, (r->grid_count + 1) * sizeof *larger);
    if (!larger) {
        return NULL;
    }
    r->grids = larger;
    larger[r->grid_count] = (report_grid){.name = name, .title = title, .question = text_of(line, "question")};
    return &larger[r->grid_count++];
}

/* Mean and error over the lines of a group. */
static void summarize(report_group *group, const json_t *members, report_metric metric)
{
    double sum = 0, squares = 0, text_sum = 0;
    size_t count = 0, i;
    json_t *line;
    json_array_foreach(members, i, line)
    {
        const double value = value_of(line, metric);
        sum += isfinite(value) ? value : 0;
        text_sum += metric_rows[metric].factor * member_of(line, metric_rows[metric].error_key);
        count += isfinite(value);
    }
    const double mean = count ? sum / (double)count : NAN;
    json_array_foreach(members, i, line)
    {
        const double off = value_of(line, metric) - mean;
        squares += isfinite(off) ? off * off : 0;
    }
    group->mean[metric] = mean;
    group->seed_error[metric] = count > 1 ? sqrt(squares / (double)(count - 1) / (double)count) : NAN;
    group->text_error[metric] = text_sum / (double)json_array_size(members);
}

static bool add_group(report *r, json_t *members)
{
    report_group *larger = realloc(r->groups, (r->group_count + 1) * sizeof *larger);
    if (!larger) {
        return false;
    }
    r->groups = larger;
    report_group *group = &larger[r->group_count++];
    *group = (report_group){.line = json_array_get(members, 0), .seeds = json_array_size(members)};
    group->settings = json_copy(json_object_get(group->line, "settings"));
    json_object_del(group->settings, "seed");
    for (int metric = 0; metric < METRIC_COUNT; metric++) {
        summarize(group, members, (report_metric)metric);
    }
    return true;
}

void group_setting(const report_group *group, const char *key, char *text, size_t size)
{
    const json_t *value = json_object_get(group->settings, key);
    if (json_is_array(value) && json_array_size(value) == 1 && json_is_string(json_array_get(value, 0))) {
        value = json_array_get(value, 0); /* a list of one text is that text */
    }
    text[0] = '\0';
    if (json_is_integer(value)) {
        snprintf(text, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        snprintf(text, size, "%.10g", json_real_value(value));
    } else if (json_is_boolean(value)) {
        snprintf(text, size, "%s", json_is_true(value) ? "yes" : "no");
    } else if (json_is_string(value)) {
        snprintf(text, size, "%s", json_string_value(value));
    } else if (value) {
        char *dump = json_dumps(value, JSON_COMPACT);
        snprintf(text, size, "%s", dump ? dump : "");
        free(dump);
    }
}

const char *group_model(const report_group *group)
{
    const char *model = text_of(group->settings, "model");
    return model ? model : "";
}

double group_error(const report_group *group, report_metric metric)
{
    return group->seeds > 1 ? group->seed_error[metric] : group->text_error[metric];
}

static bool has_axis(const report_grid *grid, const char *key)
{
    for (size_t i = 0; i < grid->axis_count; i++) {
        if (strcmp(grid->axes[i], key) == 0) {
            return true;
        }
    }
    return false;
}

/* Settings that are not the same in all groups of a grid; one that is not given everywhere is among them. */
static void find_axes(const report *r, report_grid *grid)
{
    for (size_t i = 0; i < grid->count; i++) {
        const char *key;
        json_t *value;
        json_object_foreach(r->groups[grid->first + i].settings, key, value)
        {
            bool varies = false;
            for (size_t j = 0; j < grid->count && !varies; j++) {
                varies = !json_equal(value, json_object_get(r->groups[grid->first + j].settings, key));
            }
            if (varies && !has_axis(grid, key) && grid->axis_count < REPORT_AXES_MAX) {
                grid->axes[grid->axis_count++] = key;
            }
        }
    }
}

/* "W4A8 bank=32": the scheme, and the settings that vary. Of paths the last part. */
static void label_group(const report_grid *grid, report_group *group)
{
    char label[LABEL_TEXT], text[VALUE_TEXT];
    group_setting(group, "scheme", label, sizeof label / 2);
    for (size_t i = 0; i < grid->axis_count; i++) {
        const char *key = grid->axes[i];
        const bool is_path = strcmp(key, "model") == 0 || strcmp(key, "calib") == 0;
        group_setting(group, key, text, sizeof text);
        const char *shown = is_path && strrchr(text, '/') ? strrchr(text, '/') + 1 : text;
        const size_t used = strlen(label);
        if (strcmp(key, "scheme") != 0 && text[0]) {
            snprintf(label + used, sizeof label - used, " %s=%s", key, shown);
        }
    }
    group->label = strdup(label);
}

/* All groups of one grid, in the order of their first points. */
static bool group_grid(report *r, report_grid *grid)
{
    json_t *groups = json_object(), *line, *members;
    size_t i;
    const char *key;
    bool fine = true;
    json_array_foreach(r->lines, i, line)
    {
        if (grid_of(r, line) != grid) {
            continue;
        }
        char *text = key_of(line, false);
        if (text && !json_object_get(groups, text)) {
            json_object_set_new(groups, text, json_array());
        }
        fine = fine && text && json_array_append(json_object_get(groups, text), line) == 0;
        free(text);
    }
    grid->first = r->group_count;
    json_object_foreach(groups, key, members)
    {
        fine = fine && add_group(r, members);
    }
    json_decref(groups);
    grid->count = r->group_count - grid->first;
    find_axes(r, grid);
    for (i = 0; i < grid->count; i++) {
        label_group(grid, &r->groups[grid->first + i]);
        fine = fine && r->groups[grid->first + i].label;
    }
    return fine;
}

bool groups_compare(const report_group *a, const report_group *b)
{
    static const char *const keys[] = {"model", "text", "window", "max_tokens"};
    bool same = true;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        same = same && json_equal(json_object_get(a->settings, keys[i]), json_object_get(b->settings, keys[i]));
    }
    return same;
}

/* A point is on the front if none that compares with it is at most as dear and loses less. */
static void find_front(report *r)
{
    for (size_t i = 0; i < r->group_count; i++) {
        report_group *group = &r->groups[i];
        group->on_front = isfinite(group->mean[METRIC_COST]) && isfinite(group->mean[METRIC_LOSS]);
        for (size_t j = 0; j < r->group_count && group->on_front; j++) {
            const report_group *other = &r->groups[j];
            const double cost = other->mean[METRIC_COST] - group->mean[METRIC_COST];
            const double loss = other->mean[METRIC_LOSS] - group->mean[METRIC_LOSS];
            group->on_front = !(cost <= 0 && loss <= 0 && (cost < 0 || loss < 0)) || !groups_compare(other, group);
        }
    }
}

int report_load(const char *const *paths, size_t count, report *out)
{
    *out = (report){.lines = json_array(), .failed = json_array()};
    json_t *points = json_object(), *line;
    const char *key;
    int code = EXIT_DONE;
    for (size_t i = 0; i < count && code == EXIT_DONE; i++) {
        code = read_file(paths[i], points);
    }
    bool fine = true;
    json_object_foreach(points, key, line)
    {
        const bool done = strcmp(text_of(line, "status"), "done") == 0;
        fine = fine && json_array_append(done ? out->lines : out->failed, line) == 0 && (!done || grid_of(out, line));
    }
    json_decref(points);
    for (size_t i = 0; i < out->grid_count && fine; i++) {
        fine = group_grid(out, &out->grids[i]);
    }
    if (code == EXIT_DONE && !fine) {
        code = fail_input("out of memory");
    }
    if (code == EXIT_DONE && out->group_count == 0) {
        code = fail_input("%s: expected results of points that are done, found none", paths[0]);
    }
    find_front(out);
    return code;
}

void report_clear(report *r)
{
    for (size_t i = 0; i < r->group_count; i++) {
        json_decref(r->groups[i].settings);
        free(r->groups[i].label);
    }
    free(r->groups);
    free(r->grids);
    json_decref(r->lines);
    json_decref(r->failed);
    *r = (report){0};
}

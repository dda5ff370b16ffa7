/* Results as CSV, a row a point and a row a group, and as markdown tables, one a grid. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../output.h"
#include "chart.h"

enum { VALUE_TEXT = 1024 };

static FILE *open_file(const char *directory, const char *name, char path[4096])
{
    snprintf(path, 4096, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    if (!file) {
        fail_input("%s: cannot create: %s", path, strerror(errno));
    }
    return file;
}

static int close_file(FILE *file, const char *path)
{
    const bool failed = ferror(file) != 0;
    return fclose(file) != 0 || failed ? fail_input("%s: cannot write", path) : EXIT_DONE;
}

/* Quoted as RFC 4180 says where the text needs it. */
static void print_csv_text(FILE *file, const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, file);
        return;
    }
    fputc('"', file);
    for (; *text; text++) {
        fputs(*text == '"' ? "\"\"" : (char[]){*text, 0}, file);
    }
    fputc('"', file);
}

static void print_csv_number(FILE *file, double value)
{
    fputc(',', file);
    if (isfinite(value)) {
        fprintf(file, "%.10g", value);
    }
}

/* Every setting that some group has, in the order of their first appearance. */
static json_t *all_settings(const report *r)
{
    json_t *keys = json_object(), *value;
    const char *key;
    for (size_t i = 0; i < r->group_count; i++) {
        json_object_foreach(r->groups[i].settings, key, value)
        {
            json_object_set_new(keys, key, json_true());
        }
    }
    return keys;
}

static void print_csv_settings(FILE *file, const report_group *group, json_t *keys)
{
    const char *key;
    json_t *value;
    json_object_foreach(keys, key, value)
    {
        char text[VALUE_TEXT];
        group_setting(group, key, text, sizeof text);
        fputc(',', file);
        print_csv_text(file, text);
    }
}

/* A new file with the columns that all rows begin with; NULL after a message. */
static FILE *open_csv(const char *directory, const char *name, const char *first, json_t *keys, char path[4096])
{
    const char *key;
    json_t *value;
    FILE *file = open_file(directory, name, path);
    if (!file) {
        return NULL;
    }
    fputs(first, file);
    json_object_foreach(keys, key, value)
    {
        fprintf(file, ",%s", key);
    }
    return file;
}

/* A member of a line; empty where it is no number. */
static void print_csv_member(FILE *file, const json_t *line, const char *key)
{
    const json_t *value = json_object_get(line, key);
    print_csv_number(file, json_is_number(value) ? json_number_value(value) : NAN);
}

static int write_groups(const report *r, json_t *keys, const char *directory)
{
    char path[4096];
    FILE *file = open_csv(directory, "groups.csv", "title,grid,label,seeds", keys, path);
    if (!file) {
        return EXIT_BAD;
    }
    for (int m = 0; m < METRIC_COUNT; m++) {
        const metric_row *row = &metric_rows[m];
        fprintf(file, ",%s,%s_error_over_seeds", row->column, row->column);
        if (row->error_key) {
            fprintf(file, ",%s_error_on_text", row->column);
        }
    }
    fputc('\n', file);
    for (size_t g = 0; g < r->grid_count; g++) {
        for (size_t i = r->grids[g].first; i < r->grids[g].first + r->grids[g].count; i++) {
            const report_group *group = &r->groups[i];
            print_csv_text(file, r->grids[g].title ? r->grids[g].title : "");
            fputc(',', file);
            print_csv_text(file, r->grids[g].name);
            fputc(',', file);
            print_csv_text(file, group->label);
            fprintf(file, ",%zu", group->seeds);
            print_csv_settings(file, group, keys);
            for (int m = 0; m < METRIC_COUNT; m++) {
                print_csv_number(file, group->mean[m]);
                print_csv_number(file, group->seed_error[m]);
                if (metric_rows[m].error_key) {
                    print_csv_number(file, group->text_error[m]);
                }
            }
            fputc('\n', file);
        }
    }
    return close_file(file, path);
}

/* Members of a line that a column is made of; what was asked stands in the columns before. */
static int write_points(const report *r, json_t *keys, const char *directory)
{
    char path[4096];
    FILE *file = open_csv(directory, "points.csv", "title,grid,id,version,seed", keys, path);
    if (!file) {
        return EXIT_BAD;
    }
    for (int m = 0; m < METRIC_COUNT; m++) {
        fprintf(file, ",%s", metric_rows[m].key);
        if (metric_rows[m].error_key) {
            fprintf(file, ",%s", metric_rows[m].error_key);
        }
    }
    fputc('\n', file);
    static const char *const words[] = {"title", "grid", "id", "version"};
    size_t index;
    json_t *line;
    json_array_foreach(r->lines, index, line)
    {
        const report_group whole = {.settings = json_object_get(line, "settings")};
        char seed[64];
        for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
            const char *text = json_string_value(json_object_get(line, words[i]));
            print_csv_text(file, text ? text : "");
            fputc(',', file);
        }
        group_setting(&whole, "seed", seed, sizeof seed);
        fputs(seed, file);
        print_csv_settings(file, &whole, keys);
        for (int m = 0; m < METRIC_COUNT; m++) {
            print_csv_member(file, line, metric_rows[m].key);
            if (metric_rows[m].error_key) {
                print_csv_member(file, line, metric_rows[m].error_key);
            }
        }
        fputc('\n', file);
    }
    return close_file(file, path);
}

/* A cell of a markdown table: bars would end it. */
static void print_markdown(FILE *file, const char *text)
{
    for (; *text; text++) {
        if (*text == '|') {
            fputc('\\', file);
        }
        fputc(*text, file);
    }
}

static int write_markdown(const report *r, const char *directory)
{
    static const report_metric columns[] = {METRIC_LOSS,        METRIC_PERPLEXITY,   METRIC_KL,
                                            METRIC_STORED_BITS, METRIC_WEIGHTS_BITS, METRIC_ACTIVATIONS_BITS,
                                            METRIC_LOW_RATE,    METRIC_COST};
    const size_t column_count = sizeof columns / sizeof *columns;
    char path[4096];
    FILE *file = open_file(directory, "tables.md", path);
    if (!file) {
        return EXIT_BAD;
    }
    for (size_t g = 0; g < r->grid_count; g++) {
        const report_grid *grid = &r->grids[g];
        fprintf(file, "%s## %s%s%s\n\n", g ? "\n" : "", grid->title ? grid->title : "", grid->title ? ": " : "",
                grid->name);
        if (grid->question) {
            fprintf(file, "%s\n\n", grid->question);
        }
        fprintf(file, "| settings | seeds |");
        for (size_t c = 0; c < column_count; c++) {
            fprintf(file, " %s |", metric_rows[columns[c]].heading);
        }
        fprintf(file, "\n|---|--:|");
        for (size_t c = 0; c < column_count; c++) {
            fprintf(file, "--:|");
        }
        fputc('\n', file);
        for (size_t i = grid->first; i < grid->first + grid->count; i++) {
            const report_group *group = &r->groups[i];
            fprintf(file, "| ");
            print_markdown(file, group->label);
            fprintf(file, " | %zu |", group->seeds);
            for (size_t c = 0; c < column_count; c++) {
                const report_metric m = columns[c];
                char text[64];
                format_figure(group->mean[m], m == METRIC_LOSS ? group_error(group, m) : NAN, metric_rows[m].digits,
                              text, sizeof text);
                fprintf(file, " %s |", text);
            }
            fputc('\n', file);
        }
    }
    return close_file(file, path);
}

int write_tables(const report *r, const char *directory)
{
    json_t *keys = all_settings(r);
    int code = write_groups(r, keys, directory);
    if (code == EXIT_DONE) {
        code = write_points(r, keys, directory);
    }
    if (code == EXIT_DONE) {
        code = write_markdown(r, directory);
    }
    json_decref(keys);
    return code;
}

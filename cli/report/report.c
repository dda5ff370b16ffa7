/* sqf report: files of results become tables, pictures and a page. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "../command.h"
#include "../output.h"
#include "report.h"

/* "bank,sparsity" in two; NULL where nothing was asked. */
static int split_axes(const cli_arguments *arguments, char text[128], const char **x, const char **y)
{
    const char *axes = arguments_text(arguments, "axes");
    *x = *y = NULL;
    if (!axes) {
        return EXIT_DONE;
    }
    snprintf(text, 128, "%s", axes);
    char *comma = strchr(text, ',');
    if (!comma || comma == text || !comma[1] || strchr(comma + 1, ',') || strlen(axes) > 127) {
        return fail_usage("--axes %.100s: expected two settings with a comma between them", axes);
    }
    *comma = '\0';
    *x = text;
    *y = comma + 1;
    return EXIT_DONE;
}

static int write_all(const report *r, const figures *list, const char *directory)
{
    if (mkdir(directory, 0777) != 0 && errno != EEXIST) {
        return fail_input("%s: cannot create: %s", directory, strerror(errno));
    }
    int code = write_tables(r, directory);
    if (code == EXIT_DONE) {
        code = write_pictures(list, directory);
    }
    return code == EXIT_DONE ? write_page(r, list, directory) : code;
}

static int print_summary(const cli_arguments *arguments, const report *r, const figures *list)
{
    const char *directory = arguments_text(arguments, "output");
    if (arguments_given(arguments, "json")) {
        json_t *object = json_object();
        json_object_set_new(object, "output", json_string_or_null(directory));
        json_object_set_new(object, "points", json_count(json_array_size(r->lines)));
        json_object_set_new(object, "groups", json_count(r->group_count));
        json_object_set_new(object, "grids", json_count(r->grid_count));
        json_object_set_new(object, "figures", json_count(list->count));
        json_object_set_new(object, "failed", json_count(json_array_size(r->failed)));
        return print_json(object);
    }
    if (!arguments_given(arguments, "quiet")) {
        printf("%s/index.html: %zu points, %zu groups, %zu grids, %zu figures, %zu failed\n", directory,
               json_array_size(r->lines), r->group_count, r->grid_count, list->count, json_array_size(r->failed));
    }
    return EXIT_DONE;
}

static int run_report(const cli_arguments *arguments)
{
    report r = {0};
    figures list = {0};
    char text[128];
    const char *x, *y;
    int code = split_axes(arguments, text, &x, &y);
    if (code == EXIT_DONE) {
        code = report_load(arguments->operands, arguments->operand_count, &r);
    }
    if (code == EXIT_DONE) {
        draw_fronts(&r, &list);
        draw_grids(&r, x, y, &list);
        code = write_all(&r, &list, arguments_text(arguments, "output"));
    }
    if (code == EXIT_DONE) {
        code = print_summary(arguments, &r, &list);
    }
    figures_clear(&list);
    report_clear(&r);
    return code;
}

const cli_command *report_command(void)
{
    static const cli_option options[] = {
        {.name = "output",
         .letter = 'o',
         .kind = OPTION_TEXT,
         .required = true,
         .value = "DIR",
         .text = "directory for index.html, points.csv, groups.csv, tables.md and the pictures; may exist"},
        {.name = "axes",
         .kind = OPTION_TEXT,
         .value = "X,Y",
         .text = "settings for heat maps and lines, such as bank,sparsity; without it those of bank and sparsity, else "
                 "the two that take most values"},
    };
    static const char *const examples[] = {"sqf report results.jsonl -o report/",
                                           "sqf report first.jsonl second.jsonl -o report/ --axes samples,mask", NULL};
    static const cli_command command = {
        .name = "report",
        .operands = "RESULTS...",
        .least_operands = 1,
        .most_operands = 256,
        .summary = "make tables, pictures and a page of the results of sweeps",
        .description =
            "Groups points that differ in nothing but the seed: figures are means over seeds, errors are standard "
            "errors over seeds, and on the text (of the paired difference, mean over seeds). Of a point that was "
            "measured several times the last result counts.\n\n"
            "Pictures (SVG): loss of perplexity against predicted cost, stored bits and equivalent bits, with the "
            "front of what nothing else beats; for each grid heat maps and lines over two settings, one for each "
            "value of the others, or a row a group where the grid is a list. index.html holds all of them and a table "
            "that sorts and filters; it needs no other file and no network. JSON members: output, points, groups, "
            "grids, figures, failed.",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .examples = examples,
        .run = run_report,
    };
    return &command;
}

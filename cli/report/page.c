/* The page: one file that needs nothing else. Pictures stand inline; the table is plain HTML that a script sorts and
 * filters, so that it reads without the script as well. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <sqf/context.h>

#include "../output.h"
#include "chart.h"

/* Columns of the page's table, in order. */
static const report_metric columns[] = {
    METRIC_LOSS,         METRIC_PERPLEXITY,       METRIC_KL,       METRIC_SAME_TOP, METRIC_ACCURACY, METRIC_STORED_BITS,
    METRIC_WEIGHTS_BITS, METRIC_ACTIVATIONS_BITS, METRIC_LOW_RATE, METRIC_COST,     METRIC_SECONDS};
enum { COLUMN_COUNT = sizeof columns / sizeof *columns };

static void print_element(FILE *file, const char *name, const char *text)
{
    if (text && *text) {
        fprintf(file, "<%s>", name);
        print_escaped(file, text);
        fprintf(file, "</%s>\n", name);
    }
}

static void print_figure(FILE *file, const figure *f)
{
    if (!f->svg) {
        return;
    }
    fprintf(file, "<figure id=\"%s\">\n%s\n<figcaption><strong>", f->name, f->svg);
    print_escaped(file, f->title ? f->title : "");
    fprintf(file, "</strong> ");
    print_escaped(file, f->caption ? f->caption : "");
    fprintf(file, "</figcaption>\n%s</figure>\n", f->list ? f->list : "");
}

static void print_figures(FILE *file, const figures *list, size_t grid)
{
    bool any = false;
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i].grid == grid) {
            fputs(any ? "" : "<div class=\"figures\">\n", file);
            any = true;
            print_figure(file, &list->items[i]);
        }
    }
    fputs(any ? "</div>\n" : "", file);
}

static void print_head(FILE *file)
{
    fprintf(file, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
                  "<meta name=\"color-scheme\" content=\"light dark\"/>\n<title>sqf report</title>\n"
                  "<link rel=\"icon\" href=\"data:,\"/>\n<style>\n");
    fprintf(file, "%s\n%s</style>\n</head>\n<body>\n", asset_page_css, asset_chart_css);
    fprintf(file, "<a class=\"skip\" href=\"#table\">Skip to the table</a>\n");
}

/* Settings that all groups of a grid share: labels leave them out. */
static void print_common(FILE *file, const report *r, const report_grid *grid)
{
    const report_group *first = &r->groups[grid->first];
    const char *key;
    json_t *value;
    fprintf(file, "<p class=\"quiet small\">In all:");
    json_object_foreach(first->settings, key, value)
    {
        bool varies = false;
        char text[1024];
        for (size_t i = 0; i < grid->axis_count; i++) {
            varies = varies || strcmp(grid->axes[i], key) == 0;
        }
        if (!varies) {
            group_setting(first, key, text, sizeof text);
            fprintf(file, " %s=", key);
            print_escaped(file, text);
        }
    }
    fprintf(file, "</p>\n");
}

/* What the report is of, in a sentence, and where to go. */
static void print_overview(FILE *file, const report *r)
{
    fprintf(file,
            "<header>\n<h1>sqf report</h1>\n<p>%zu points in %zu groups of %zu grid%s; sqf %s. Points that differ "
            "in the seed alone are one group: figures are means, errors are standard errors.</p>\n"
            "<button type=\"button\" id=\"theme\" hidden=\"hidden\">Dark or light</button>\n</header>\n",
            json_array_size(r->lines), r->group_count, r->grid_count, r->grid_count == 1 ? "" : "s", sqf_version());
    fprintf(file, "<nav aria-label=\"Contents\">\n<ul>\n<li><a href=\"#fronts\">Loss against cost</a></li>\n");
    for (size_t i = 0; i < r->grid_count; i++) {
        fprintf(file, "<li><a href=\"#grid-%zu\">", i);
        print_escaped(file, r->grids[i].name);
        fprintf(file, "</a></li>\n");
    }
    fprintf(file, "<li><a href=\"#table\">Table</a></li>\n</ul>\n</nav>\n<main>\n");
}

static void print_grids(FILE *file, const report *r, const figures *list)
{
    fprintf(file, "<section id=\"fronts\">\n<h2>Loss against cost</h2>\n");
    print_figures(file, list, SIZE_MAX);
    fprintf(file, "</section>\n");
    for (size_t i = 0; i < r->grid_count; i++) {
        const report_grid *grid = &r->grids[i];
        fprintf(file, "<section id=\"grid-%zu\">\n<h2>", i);
        if (grid->title) {
            print_escaped(file, grid->title);
            fprintf(file, ": ");
        }
        print_escaped(file, grid->name);
        fprintf(file, "</h2>\n");
        print_element(file, "p", grid->question);
        print_common(file, r, grid);
        print_figures(file, list, i);
        fprintf(file, "</section>\n");
    }
}

/* A heading that sorts. Without the script it is a button that does nothing, and so it is disabled until then. */
static void print_heading(FILE *file, const char *text, bool numeric)
{
    fprintf(file, "<th scope=\"col\"%s><button type=\"button\" disabled=\"disabled\">",
            numeric ? " class=\"number\" data-type=\"number\"" : " data-type=\"text\"");
    print_escaped(file, text);
    fprintf(file, "</button></th>\n");
}

static void print_number_cell(FILE *file, double value, int digits)
{
    if (isfinite(value)) {
        fprintf(file, "<td class=\"number\" data-value=\"%.10g\">%.*f</td>", value, digits, value);
    } else {
        fprintf(file, "<td class=\"number\"><span class=\"quiet\">-</span></td>");
    }
}

static void print_row(FILE *file, const report *r, size_t grid, size_t index)
{
    const report_group *group = &r->groups[index];
    fprintf(file, "<tr id=\"row-%zu\" data-front=\"%s\"><td>", index, group->on_front ? "yes" : "no");
    print_escaped(file, r->grids[grid].name);
    fprintf(file, "</td><th scope=\"row\">");
    print_escaped(file, group->label);
    fprintf(file, "</th><td class=\"number\" data-value=\"%zu\">%zu</td>", group->seeds, group->seeds);
    for (size_t c = 0; c < COLUMN_COUNT; c++) {
        const metric_row *row = &metric_rows[columns[c]];
        print_number_cell(file, group->mean[columns[c]], row->digits);
        if (columns[c] == METRIC_LOSS) {
            print_number_cell(file, group->seed_error[METRIC_LOSS], row->digits);
            print_number_cell(file, group->text_error[METRIC_LOSS], row->digits);
        }
    }
    fprintf(file, "<td>%s</td></tr>\n", group->on_front ? "yes" : "no");
}

static void print_filters(FILE *file, const report *r)
{
    fprintf(file, "<form id=\"filters\" hidden=\"hidden\">\n"
                  "<label>Words <input type=\"search\" id=\"words\" autocomplete=\"off\"/></label>\n"
                  "<label>Grid <select id=\"grid\"><option value=\"\">all</option>");
    for (size_t i = 0; i < r->grid_count; i++) {
        fprintf(file, "<option>");
        print_escaped(file, r->grids[i].name);
        fprintf(file, "</option>");
    }
    fprintf(file,
            "</select></label>\n<label>Loss at most, %% <input type=\"number\" id=\"loss\" step=\"any\"/></label>\n"
            "<label>Cost at most <input type=\"number\" id=\"cost\" step=\"any\"/></label>\n"
            "<label class=\"check\"><input type=\"checkbox\" id=\"front\"/> on the front alone</label>\n"
            "<button type=\"reset\">Show all</button>\n"
            "<output id=\"shown\" role=\"status\"></output>\n</form>\n");
}

static void print_table(FILE *file, const report *r)
{
    fprintf(file, "<section id=\"table\">\n<h2>All groups</h2>\n");
    print_filters(file, r);
    fprintf(file,
            "<div class=\"scroll\" role=\"region\" aria-label=\"Table of all groups\" tabindex=\"0\">\n"
            "<table id=\"groups\">\n<caption>Headings sort; the second press turns the order around. Front: no group "
            "of the same model and text has at most this predicted cost and loses less.</caption>\n<thead><tr>\n");
    print_heading(file, "grid", false);
    print_heading(file, "settings", false);
    print_heading(file, "seeds", true);
    for (size_t c = 0; c < COLUMN_COUNT; c++) {
        print_heading(file, metric_rows[columns[c]].heading, true);
        if (columns[c] == METRIC_LOSS) {
            print_heading(file, "\302\261 over seeds", true);
            print_heading(file, "\302\261 on the text", true);
        }
    }
    print_heading(file, "front", false);
    fprintf(file, "</tr></thead>\n<tbody>\n");
    for (size_t g = 0; g < r->grid_count; g++) {
        for (size_t i = 0; i < r->grids[g].count; i++) {
            print_row(file, r, g, r->grids[g].first + i);
        }
    }
    fprintf(file, "</tbody>\n</table>\n</div>\n</section>\n");
}

static void print_failures(FILE *file, const report *r)
{
    size_t i;
    json_t *line;
    if (json_array_size(r->failed) == 0) {
        return;
    }
    fprintf(file, "<section id=\"failed\">\n<h2>Points that failed</h2>\n<ul>\n");
    json_array_foreach(r->failed, i, line)
    {
        static const char *const parts[] = {"grid", "label", "error"};
        fprintf(file, "<li>");
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            const char *text = json_string_value(json_object_get(line, parts[p]));
            fputs(p ? ": " : "", file);
            print_escaped(file, text ? text : "");
        }
        fprintf(file, "</li>\n");
    }
    fprintf(file, "</ul>\n</section>\n");
}

int write_page(const report *r, const figures *list, const char *directory)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/index.html", directory);
    FILE *file = fopen(path, "w");
    if (!file) {
        return fail_input("%s: cannot create: %s", path, strerror(errno));
    }
    print_head(file);
    print_overview(file, r);
    print_grids(file, r, list);
    print_table(file, r);
    print_failures(file, r);
    fprintf(file, "</main>\n<script>\n//<![CDATA[\n%s\n//]]>\n</script>\n</body>\n</html>\n", asset_page_js);
    const bool failed = ferror(file) != 0;
    return fclose(file) != 0 || failed ? fail_input("%s: cannot write", path) : EXIT_DONE;
}

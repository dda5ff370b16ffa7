/* Pictures of one grid: loss over two settings as coloured cells and as lines, or over all its points as a row each. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"

enum { VALUES_MAX = 24, VALUE_TEXT = 96, FACETS_MAX = 24, FACET_TEXT = 256, ROWS_MAX = 60 };

/* Values of one setting in a grid, in order. */
typedef struct axis_values {
    const char *key; /* NULL = no axis: one empty value */
    char text[VALUES_MAX][VALUE_TEXT];
    size_t count;
    bool numeric;
} axis_values;

/* One picture: the groups of a grid that agree in all settings but two. */
typedef struct facet {
    const report *r;
    size_t grid;
    char name[FACET_TEXT]; /* "scheme=W4A8"; "" if it is the only one */
    axis_values x, y;
    const report_group *cells[VALUES_MAX][VALUES_MAX]; /* [y][x]; NULL = not measured */
    double least, most;                                /* losses of the whole grid */
} facet;

static int compare_numbers(const void *a, const void *b)
{
    const double x = strtod(a, NULL), y = strtod(b, NULL);
    return (x > y) - (x < y);
}

static size_t value_index(const axis_values *values, const char *text)
{
    size_t i = 0;
    while (i < values->count && strcmp(values->text[i], text) != 0) {
        i++;
    }
    return i;
}

/* What a setting takes in the groups of a grid; false if that is too much for a picture. */
static bool collect_values(const report *r, const report_grid *grid, const char *key, axis_values *out)
{
    *out = (axis_values){.key = key, .count = key ? 0 : 1, .numeric = true};
    for (size_t i = 0; i < grid->count && key; i++) {
        char text[VALUE_TEXT];
        group_setting(&r->groups[grid->first + i], key, text, sizeof text);
        if (value_index(out, text) < out->count) {
            continue;
        }
        if (out->count == VALUES_MAX) {
            return false;
        }
        out->numeric = out->numeric && json_is_number(json_object_get(r->groups[grid->first + i].settings, key));
        memcpy(out->text[out->count++], text, sizeof text);
    }
    if (out->numeric && key) {
        qsort(out->text, out->count, sizeof *out->text, compare_numbers);
    }
    return true;
}

static bool varies(const report_grid *grid, const char *key)
{
    for (size_t i = 0; i < grid->axis_count; i++) {
        if (strcmp(grid->axes[i], key) == 0) {
            return true;
        }
    }
    return false;
}

/* How much an axis deserves to be x: numbers before names, many values before few; models and schemes part pictures. */
static double axis_rank(const report *r, const report_grid *grid, const char *key)
{
    axis_values values;
    if (strcmp(key, "model") == 0 || !collect_values(r, grid, key, &values)) {
        return 0;
    }
    return (double)values.count + (values.numeric ? 100 : strcmp(key, "scheme") == 0 ? 0 : 50);
}

/* Bank and sparsity where both vary, else the two axes that deserve it most. *y NULL: there is one axis alone. */
static void find_pair(const report *r, const report_grid *grid, const char **x, const char **y)
{
    static const char *const pairs[][2] = {{"bank", "sparsity"}, {"act_bank", "act_sparsity"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (varies(grid, pairs[i][0]) && varies(grid, pairs[i][1])) {
            *x = pairs[i][0];
            *y = pairs[i][1];
            return;
        }
    }
    double first = 0, second = 0;
    *x = *y = NULL;
    for (size_t i = 0; i < grid->axis_count; i++) {
        const double rank = axis_rank(r, grid, grid->axes[i]);
        if (rank > first) {
            second = first;
            *y = *x;
            first = rank;
            *x = grid->axes[i];
        } else if (rank > second) {
            second = rank;
            *y = grid->axes[i];
        }
    }
}

/* The settings that part a grid into pictures. */
static void facet_name(const report_grid *grid, const report_group *group, const facet *f, char name[FACET_TEXT])
{
    name[0] = '\0';
    for (size_t i = 0; i < grid->axis_count; i++) {
        const char *key = grid->axes[i];
        char text[VALUE_TEXT];
        if (strcmp(key, f->x.key) == 0 || (f->y.key && strcmp(key, f->y.key) == 0)) {
            continue;
        }
        group_setting(group, key, text, sizeof text);
        const size_t used = strlen(name);
        if (strcmp(key, "scheme") == 0) {
            snprintf(name + used, FACET_TEXT - used, "%s%s", used ? " " : "", text);
        } else {
            snprintf(name + used, FACET_TEXT - used, "%s%s=%s", used ? " " : "", key, text[0] ? text : "default");
        }
    }
}

/* Puts the groups of one picture into their cells; the number of cells that are filled. */
static size_t fill_facet(facet *f)
{
    const report_grid *grid = &f->r->grids[f->grid];
    size_t filled = 0;
    memset(f->cells, 0, sizeof f->cells);
    for (size_t i = 0; i < grid->count; i++) {
        const report_group *group = &f->r->groups[grid->first + i];
        char name[FACET_TEXT], text[VALUE_TEXT];
        facet_name(grid, group, f, name);
        if (strcmp(name, f->name) != 0 || !isfinite(group->mean[METRIC_LOSS])) {
            continue;
        }
        group_setting(group, f->x.key, text, sizeof text);
        const size_t x = value_index(&f->x, text);
        text[0] = '\0';
        if (f->y.key) {
            group_setting(group, f->y.key, text, sizeof text);
        }
        const report_group **cell = &f->cells[f->y.key ? value_index(&f->y, text) : 0][x];
        filled += *cell == NULL;
        *cell = group;
    }
    return filled;
}

/* From little loss to much, viridis from its bright end; `dark` tells which text is read on it. */
static void cell_colour(double part, int rgb[3], bool *dark)
{
    static const int stops[][3] = {{253, 231, 37}, {94, 201, 98}, {33, 145, 140}, {59, 82, 139}, {68, 1, 84}};
    const double at = fmin(fmax(part, 0), 1) * 4;
    const int below = at >= 4 ? 3 : (int)at;
    for (int c = 0; c < 3; c++) {
        rgb[c] = (int)lround(stops[below][c] + (at - below) * (stops[below + 1][c] - stops[below][c]));
    }
    *dark = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 128;
}

static void draw_cell(FILE *svg, const facet *f, const report_group *group, double x, double y, double width)
{
    if (!group) {
        fprintf(svg, "<rect class=\"empty\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"42\"/>\n", x, y, width);
        return;
    }
    int rgb[3];
    bool dark;
    char loss[64], title[700];
    const double low = log(fmax(f->least, chart_loss_floor)), high = log(fmax(f->most, chart_loss_floor));
    const double value = group->mean[METRIC_LOSS];
    cell_colour(high > low ? (log(fmax(value, chart_loss_floor)) - low) / (high - low) : 0, rgb, &dark);
    format_figure(value, group_error(group, METRIC_LOSS), 3, loss, sizeof loss);
    snprintf(title, sizeof title, "%.400s: %s %%", group->label, loss);
    fprintf(svg, "<g><title>");
    print_escaped(svg, title);
    fprintf(svg, "</title><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"42\" fill=\"rgb(%d,%d,%d)\"/>", x, y,
            width, rgb[0], rgb[1], rgb[2]);
    fprintf(svg, "<text class=\"cell\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" fill=\"%s\">%.3g</text></g>\n",
            x + width / 2, y + 26, dark ? "#fff" : "#000", value);
}

/* Title and caption of a picture of this grid. */
static void end_picture(const facet *f, FILE *svg, const char *how, figures *out)
{
    const report_grid *grid = &f->r->grids[f->grid];
    size_t least = SIZE_MAX, most = 0;
    for (size_t i = 0; i < grid->count; i++) {
        const size_t seeds = f->r->groups[grid->first + i].seeds;
        least = seeds < least ? seeds : least;
        most = seeds > most ? seeds : most;
    }
    char seeds[64];
    snprintf(seeds, sizeof seeds, least == most ? "%zu seed%s" : "%zu seed%s and more", least, least == 1 ? "" : "s");
    const report_group *first = &f->r->groups[grid->first];
    figure_end(out, svg, format_text("%s%s%s", grid->name, f->name[0] ? ": " : "", f->name),
               format_text("Loss of perplexity in %% against the unquantized model, %s; mean over %s. Model: %s.", how,
                           seeds, group_model(first)),
               NULL);
}

static void draw_heat(const facet *f, figures *out)
{
    const double left = 110, cell = fmin(130, 560.0 / (double)f->x.count);
    const double width = left + cell * (double)f->x.count + 10, height = 20 + 44 * (double)f->y.count + 44;
    char name[128], description[400];
    snprintf(name, sizeof name, "heat-%.50s-%.50s", f->r->grids[f->grid].name, f->name);
    snprintf(description, sizeof description, "Heat map of the loss over %s and %s. %.200s", f->x.key, f->y.key,
             f->name);
    FILE *svg = figure_begin(out, name, f->grid, (int)fmax(width, 640), (int)height, description);
    if (!svg) {
        return;
    }
    for (size_t y = 0; y < f->y.count; y++) {
        const double top = 16 + 44 * (double)y;
        fprintf(svg, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">", left - 8, top + 26);
        print_escaped(svg, f->y.text[y][0] ? f->y.text[y] : "default");
        fprintf(svg, "</text>\n");
        for (size_t x = 0; x < f->x.count; x++) {
            draw_cell(svg, f, f->cells[y][x], left + cell * (double)x, top, cell - 2);
        }
    }
    const double bottom = 16 + 44 * (double)f->y.count;
    for (size_t x = 0; x < f->x.count; x++) {
        fprintf(svg, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">",
                left + cell * ((double)x + 0.5), bottom + 14);
        print_escaped(svg, f->x.text[x][0] ? f->x.text[x] : "default");
        fprintf(svg, "</text>\n");
    }
    fprintf(svg, "<text class=\"axis\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n",
            left + cell * (double)f->x.count / 2, bottom + 34, f->x.key);
    fprintf(svg, "<text class=\"axis\" transform=\"translate(14 %.1f) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
            bottom / 2 + 8, f->y.key);
    char how[256];
    snprintf(how, sizeof how, "bright is little; columns are %s, rows %s", f->x.key, f->y.key);
    end_picture(f, svg, how, out);
}

/* One series over the values of x, connected only where they are numbers. */
static void draw_series(FILE *svg, const facet *f, size_t y, const chart_scale *scale, double left, double step)
{
    if (f->x.numeric) {
        fprintf(svg, "<path class=\"series c%zu\" d=\"", y % CHART_COLOURS);
        const char *command = "M";
        for (size_t x = 0; x < f->x.count; x++) {
            if (f->cells[y][x]) {
                fprintf(svg, "%s%.1f %.1f", command, left + step * ((double)x + 0.5),
                        chart_place(scale, f->cells[y][x]->mean[METRIC_LOSS]));
                command = "L";
            }
        }
        fprintf(svg, "\"/>\n");
    }
    for (size_t x = 0; x < f->x.count; x++) {
        const report_group *group = f->cells[y][x];
        if (!group) {
            continue;
        }
        /* names of x stand apart: their series are moved beside each other, so that errors can be seen */
        const double shift = f->x.numeric ? 0 : ((double)y - 0.5 * (double)(f->y.count - 1)) * 9;
        const double place = left + step * ((double)x + 0.5) + shift;
        char loss[64], title[700];
        const double error = group_error(group, METRIC_LOSS);
        format_figure(group->mean[METRIC_LOSS], error, 3, loss, sizeof loss);
        snprintf(title, sizeof title, "%.400s: %s %%", group->label, loss);
        chart_error(svg, scale, false, place, group->mean[METRIC_LOSS], error, y);
        chart_mark(svg, place, chart_place(scale, group->mean[METRIC_LOSS]), y, title);
    }
}

static void draw_lines(const facet *f, figures *out)
{
    enum { WIDTH = 640, LEFT = 66, TOP = 14, PLOT = 260, RIGHT = 14 };
    const chart_scale scale = chart_loss_scale(f->least, f->most, TOP + PLOT, TOP);
    const double step = (WIDTH - LEFT - RIGHT) / (double)f->x.count;
    char names[VALUES_MAX][VALUE_TEXT + 64], name[128], description[400];
    const char *pointers[VALUES_MAX];
    for (size_t y = 0; y < f->y.count; y++) {
        snprintf(names[y], sizeof names[y], "%s %s", f->y.key ? f->y.key : "loss", f->y.text[y]);
        pointers[y] = names[y];
    }
    const int legend = (int)chart_legend(NULL, 0, 0, WIDTH - LEFT, pointers, f->y.count);
    snprintf(name, sizeof name, "lines-%.50s-%.50s", f->r->grids[f->grid].name, f->name);
    snprintf(description, sizeof description, "Loss over %s%s%s. %.200s", f->x.key, f->y.key ? " for each " : "",
             f->y.key ? f->y.key : "", f->name);
    FILE *svg = figure_begin(out, name, f->grid, WIDTH, TOP + PLOT + 48 + legend, description);
    if (!svg) {
        return;
    }
    chart_axis(svg, &scale, false, LEFT, WIDTH - RIGHT, "loss of perplexity, %");
    for (size_t x = 0; x < f->x.count; x++) {
        fprintf(svg, "<text class=\"tick\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">",
                LEFT + step * ((double)x + 0.5), TOP + PLOT + 16);
        print_escaped(svg, f->x.text[x][0] ? f->x.text[x] : "default");
        fprintf(svg, "</text>\n");
    }
    fprintf(svg, "<text class=\"axis\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
            LEFT + step * (double)f->x.count / 2, TOP + PLOT + 36, f->x.key);
    for (size_t y = 0; y < f->y.count; y++) {
        draw_series(svg, f, y, &scale, LEFT, step);
    }
    chart_legend(svg, LEFT, TOP + PLOT + 54, WIDTH - LEFT, pointers, f->y.count);
    end_picture(f, svg, "with standard errors (over seeds; on the text for one seed)", out);
}

/* A row for each group: for grids that are lists of rivals and not two axes. */
static void draw_rows(const facet *f, figures *out)
{
    const report_grid *grid = &f->r->grids[f->grid];
    const size_t count = grid->count < ROWS_MAX ? grid->count : ROWS_MAX;
    enum { WIDTH = 760, LEFT = 330, TOP = 10, RIGHT = 16, ROW = 20 };
    const double bottom = TOP + ROW * (double)count;
    const chart_scale scale = chart_loss_scale(f->least, f->most, LEFT, WIDTH - RIGHT);
    char name[128], description[300];
    snprintf(name, sizeof name, "rows-%.80s", grid->name);
    snprintf(description, sizeof description, "Loss of each point of %.200s", grid->name);
    FILE *svg = figure_begin(out, name, f->grid, WIDTH, (int)bottom + 46, description);
    if (!svg) {
        return;
    }
    chart_axis(svg, &scale, true, TOP, bottom, "loss of perplexity, %");
    for (size_t i = 0; i < count; i++) {
        const report_group *group = &f->r->groups[grid->first + i];
        const double y = TOP + ROW * ((double)i + 0.5), error = group_error(group, METRIC_LOSS);
        char shown[64], loss[64], title[700];
        snprintf(shown, sizeof shown, strlen(group->label) > 48 ? "%.46s..." : "%s", group->label);
        fprintf(svg, "<text class=\"tick\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT - 8, y + 4);
        print_escaped(svg, shown);
        fprintf(svg, "</text>\n");
        if (isfinite(group->mean[METRIC_LOSS])) {
            format_figure(group->mean[METRIC_LOSS], error, 3, loss, sizeof loss);
            snprintf(title, sizeof title, "%.400s: %s %%", group->label, loss);
            chart_error(svg, &scale, true, y, group->mean[METRIC_LOSS], error, 0);
            chart_mark(svg, chart_place(&scale, group->mean[METRIC_LOSS]), y, 0, title);
        }
    }
    end_picture(f, svg, "with standard errors (over seeds; on the text for one seed)", out);
}

static void find_range(facet *f)
{
    const report_grid *grid = &f->r->grids[f->grid];
    f->least = INFINITY;
    f->most = -INFINITY;
    for (size_t i = 0; i < grid->count; i++) {
        f->least = fmin(f->least, f->r->groups[grid->first + i].mean[METRIC_LOSS]);
        f->most = fmax(f->most, f->r->groups[grid->first + i].mean[METRIC_LOSS]);
    }
}

/* All pictures of a grid over two axes. False if it is not one: most cells would be empty. */
static bool draw_facets(facet *f, figures *out)
{
    const report_grid *grid = &f->r->grids[f->grid];
    char names[FACETS_MAX][FACET_TEXT];
    size_t count = 0;
    for (size_t i = 0; i < grid->count; i++) {
        char name[FACET_TEXT];
        size_t same = 0;
        facet_name(grid, &f->r->groups[grid->first + i], f, name);
        while (same < count && strcmp(names[same], name) != 0) {
            same++;
        }
        if (same == FACETS_MAX) {
            return false;
        }
        memcpy(names[same], name, sizeof name);
        count += same == count;
    }
    if (2 * grid->count < count * f->x.count * f->y.count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        memcpy(f->name, names[i], sizeof f->name);
        if (fill_facet(f) >= 2) {
            if (f->x.count > 1 && f->y.count > 1) {
                draw_heat(f, out);
            }
            draw_lines(f, out);
        }
    }
    return true;
}

void draw_grids(const report *r, const char *x, const char *y, figures *out)
{
    facet *f = calloc(1, sizeof *f);
    for (size_t i = 0; i < r->grid_count && f; i++) {
        const report_grid *grid = &r->grids[i];
        const char *x_key = x, *y_key = y;
        if (grid->count < 2) {
            continue;
        }
        if (!x || !varies(grid, x) || !varies(grid, y)) {
            find_pair(r, grid, &x_key, &y_key);
        }
        f->r = r;
        f->grid = i;
        find_range(f);
        if (!x_key || !collect_values(r, grid, x_key, &f->x) || !collect_values(r, grid, y_key, &f->y) ||
            !draw_facets(f, out)) {
            f->name[0] = '\0';
            draw_rows(f, out);
        }
    }
    free(f);
}

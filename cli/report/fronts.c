/* Pareto plots: what a point loses against what it costs, and the front of points that no other beats. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"

enum { WIDTH = 760, LEFT = 66, RIGHT = 16, TOP = 14, PLOT = 380, BELOW = 50 };

/* One plot: points whose losses compare, with a front of their own. */
typedef struct front_plot {
    const report *r;
    const report_group *first; /* the others compare with it */
    report_metric x;
    chart_scale x_scale, y_scale;
    size_t *front; /* groups on the front, from the cheapest on */
    size_t front_count;
} front_plot;

static bool belongs(const front_plot *p, const report_group *group)
{
    return groups_compare(group, p->first) && isfinite(group->mean[p->x]) && isfinite(group->mean[METRIC_LOSS]);
}

/* Scales that hold all points. False where all stand at one x: nothing is to be seen there. */
static bool choose_scales(front_plot *p)
{
    double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
    for (size_t i = 0; i < p->r->group_count; i++) {
        const report_group *group = &p->r->groups[i];
        if (belongs(p, group)) {
            x_low = fmin(x_low, group->mean[p->x]);
            x_high = fmax(x_high, group->mean[p->x]);
            y_low = fmin(y_low, group->mean[METRIC_LOSS]);
            y_high = fmax(y_high, group->mean[METRIC_LOSS]);
        }
    }
    /* costs that lie far apart would crowd the cheap ones, where the choice is */
    const bool logarithmic = p->x == METRIC_COST && x_low > 0 && x_high > 4 * x_low;
    const double margin = 0.05 * (x_high - x_low);
    p->x_scale = (chart_scale){x_low - margin, x_high + margin, false, LEFT, WIDTH - RIGHT};
    if (logarithmic) {
        p->x_scale = (chart_scale){x_low / 1.1, x_high * 1.1, true, LEFT, WIDTH - RIGHT};
    }
    p->y_scale = chart_loss_scale(y_low, y_high, TOP + PLOT, TOP);
    return x_high > x_low;
}

/* Cheapest first; of equal cost the one that loses least. Needs the plot: qsort passes none. */
static const front_plot *sorted_plot;

static int compare_points(const void *a, const void *b)
{
    const report_group *left = &sorted_plot->r->groups[*(const size_t *)a];
    const report_group *right = &sorted_plot->r->groups[*(const size_t *)b];
    const double x = left->mean[sorted_plot->x] - right->mean[sorted_plot->x];
    const double y = left->mean[METRIC_LOSS] - right->mean[METRIC_LOSS];
    return x < 0 ? -1 : x > 0 ? 1 : y < 0 ? -1 : y > 0;
}

/* Walks from the cheapest on: a point is on the front if it loses less than all before it. */
static bool find_front(front_plot *p)
{
    size_t *order = malloc((p->r->group_count + 1) * sizeof *order), count = 0;
    if (!order) {
        return false;
    }
    for (size_t i = 0; i < p->r->group_count; i++) {
        if (belongs(p, &p->r->groups[i])) {
            order[count++] = i;
        }
    }
    sorted_plot = p;
    qsort(order, count, sizeof *order, compare_points);
    double least = INFINITY;
    for (size_t i = 0; i < count; i++) {
        const double loss = p->r->groups[order[i]].mean[METRIC_LOSS];
        if (loss < least) {
            order[p->front_count++] = order[i];
            least = loss;
        }
    }
    p->front = order;
    return true;
}

/* Stairs: between two points of the front, nothing loses less than the cheaper one. */
static void draw_stairs(FILE *svg, const front_plot *p)
{
    fprintf(svg, "<path class=\"front\" d=\"");
    for (size_t i = 0; i < p->front_count; i++) {
        const report_group *group = &p->r->groups[p->front[i]];
        const double x = chart_place(&p->x_scale, group->mean[p->x]);
        const double y = chart_place(&p->y_scale, group->mean[METRIC_LOSS]);
        fprintf(svg, i ? "H%.1fV%.1f" : "M%.1f %.1f", x, y);
    }
    fprintf(svg, "H%d\"/>\n", WIDTH - RIGHT);
}

static void draw_points(FILE *svg, const front_plot *p)
{
    for (size_t i = 0; i < p->r->group_count; i++) {
        const report_group *group = &p->r->groups[i];
        if (!belongs(p, group)) {
            continue;
        }
        size_t grid = 0;
        while (grid + 1 < p->r->grid_count && i >= p->r->grids[grid + 1].first) {
            grid++;
        }
        char loss[64], cost[64], title[700];
        const double error = group_error(group, METRIC_LOSS);
        format_figure(group->mean[METRIC_LOSS], error, 3, loss, sizeof loss);
        format_figure(group->mean[p->x], NAN, 3, cost, sizeof cost);
        snprintf(title, sizeof title, "%.400s: %s %%, %s %s", group->label, loss, metric_rows[p->x].heading, cost);
        const double x = chart_place(&p->x_scale, group->mean[p->x]);
        chart_error(svg, &p->y_scale, false, x, group->mean[METRIC_LOSS], error, grid);
        chart_mark(svg, x, chart_place(&p->y_scale, group->mean[METRIC_LOSS]), grid, title);
    }
}

/* Numbers beside the front's points; the list below the picture says what they are. */
static void draw_numbers(FILE *svg, const front_plot *p)
{
    for (size_t i = 0; i < p->front_count; i++) {
        const report_group *group = &p->r->groups[p->front[i]];
        fprintf(svg, "<text class=\"number\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%zu</text>\n",
                chart_place(&p->x_scale, group->mean[p->x]) - 7,
                chart_place(&p->y_scale, group->mean[METRIC_LOSS]) + 13, i + 1);
    }
}

/* The front as a list with links to the rows of the table. */
static char *list_front(const front_plot *p)
{
    char *html = NULL;
    size_t n;
    FILE *file = open_memstream(&html, &n);
    if (!file) {
        return NULL;
    }
    fprintf(file, "<ol class=\"front-list\">");
    for (size_t i = 0; i < p->front_count; i++) {
        const report_group *group = &p->r->groups[p->front[i]];
        char loss[64];
        format_figure(group->mean[METRIC_LOSS], group_error(group, METRIC_LOSS), 3, loss, sizeof loss);
        fprintf(file, "<li><a href=\"#row-%zu\">", p->front[i]);
        print_escaped(file, group->label);
        fprintf(file, "</a> <span class=\"quiet\">%s %.3f, loss %s %%</span></li>", metric_rows[p->x].heading,
                group->mean[p->x], loss);
    }
    fprintf(file, "</ol>");
    fclose(file);
    return html;
}

static void draw_front(const front_plot *p, figures *out)
{
    const char *names[256];
    size_t count = p->r->grid_count < 256 ? p->r->grid_count : 256;
    for (size_t i = 0; i < count; i++) {
        names[i] = NULL;
        for (size_t j = 0; j < p->r->grids[i].count && !names[i]; j++) {
            names[i] = belongs(p, &p->r->groups[p->r->grids[i].first + j]) ? p->r->grids[i].name : NULL;
        }
    }
    const int legend = (int)chart_legend(NULL, 0, 0, WIDTH - LEFT, names, count);
    char name[128], description[300];
    snprintf(name, sizeof name, "front-%s", metric_rows[p->x].column);
    snprintf(description, sizeof description, "Loss of perplexity against %s; the list below names the front",
             metric_rows[p->x].heading);
    FILE *svg = figure_begin(out, name, SIZE_MAX, WIDTH, TOP + PLOT + BELOW + legend, description);
    if (!svg) {
        return;
    }
    chart_axis(svg, &p->x_scale, true, TOP, TOP + PLOT, metric_rows[p->x].heading);
    chart_axis(svg, &p->y_scale, false, LEFT, WIDTH - RIGHT, "loss of perplexity, %");
    draw_stairs(svg, p);
    draw_points(svg, p);
    draw_numbers(svg, p);
    chart_legend(svg, LEFT, TOP + PLOT + BELOW + 4, WIDTH - LEFT, names, count);
    char text[512];
    group_setting(p->first, "text", text, sizeof text);
    figure_end(out, svg, format_text("Loss against %s", metric_rows[p->x].heading),
               format_text("Loss of perplexity against the unquantized model, mean over seeds, with standard errors "
                           "(over seeds; of the paired difference on the text where there is one seed). Losses of "
                           "%.2f %% and less stand at the bottom. The line is the front: nothing left of it loses "
                           "less. Model: %s; text: %s.",
                           chart_loss_floor, group_model(p->first), text),
               list_front(p));
}

void draw_fronts(const report *r, figures *out)
{
    static const report_metric metrics[] = {METRIC_COST, METRIC_STORED_BITS, METRIC_WEIGHTS_BITS,
                                            METRIC_ACTIVATIONS_BITS};
    for (size_t i = 0; i < r->group_count; i++) {
        bool seen = false;
        for (size_t j = 0; j < i && !seen; j++) {
            seen = groups_compare(&r->groups[j], &r->groups[i]);
        }
        for (size_t m = 0; m < sizeof metrics / sizeof *metrics && !seen; m++) {
            front_plot p = {.r = r, .first = &r->groups[i], .x = metrics[m]};
            if (choose_scales(&p) && find_front(&p)) {
                draw_front(&p, out);
            }
            free(p.front);
        }
    }
}

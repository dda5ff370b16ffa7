/* Scatter plots of labelled points, by a gnuplot program on a pipe. gnuplot places no labels by itself: they are
 * moved apart here, in shares of the panel, before the program is written. The only part of the program that starts
 * another one; it is optional, and its absence costs the pictures alone. */
#define _POSIX_C_SOURCE 200809L
#include "plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

const char *const plot_families[] = {"not quantized", "uniform",    "SQ on activations",
                                     "SQ on weights", "N:M sparse", NULL};

/* Size of a label relative to a panel, measured on the pictures: labels must not cover each other. */
static const double label_height = 0.034, character_width = 0.0135, label_gap = 0.012;

/* The visible part of an axis; of y in log10. */
typedef struct range {
    double low, high;
} range;

/* All points with a margin; on the right of x 30 % more, where labels stand. */
static range range_of(const plot_panel *panel, bool of_y)
{
    range r = {INFINITY, -INFINITY};
    for (size_t i = 0; i < panel->count; i++) {
        const double value = of_y ? log10(panel->points[i].y) : panel->points[i].x;
        r.low = fmin(r.low, value);
        r.high = fmax(r.high, value);
    }
    const double margin = fmax(0.06 * (r.high - r.low), 1e-3);
    return (range){r.low - margin, r.high + margin + (of_y ? 0 : 0.30 * (r.high - r.low))};
}

/* A label stands right of its point; `place` is its middle, in shares of the panel. */
typedef struct label_place {
    double x, y, width;
} label_place;

/* Whether two boxes of a label's height overlap. */
static bool covers(const label_place *a, const label_place *b)
{
    return fabs(a->y - b->y) < label_height && a->x < b->x + b->width && b->x < a->x + a->width;
}

/* The middle of a point in shares of the panel, and a box around its symbol. */
static label_place symbol_of(const plot_point *point, range x, range y)
{
    const double half = 0.008;
    return (label_place){(point->x - x.low) / (x.high - x.low) - half, (log10(point->y) - y.low) / (y.high - y.low),
                         2 * half};
}

/* True if the label covers one placed before it, or the symbol of another point. */
static bool is_covering(const plot_panel *panel, size_t index, range x, range y, const label_place *places)
{
    for (size_t j = 0; j < panel->count; j++) {
        const label_place symbol = symbol_of(&panel->points[j], x, y);
        if ((j != index && covers(&places[index], &symbol)) || (j < index && covers(&places[index], &places[j]))) {
            return true;
        }
    }
    return false;
}

/* Moves each label up or down by the smallest step at which it covers nothing: 0, then half a height up, half down,
 * one up and so on. Labels that find no place after 80 steps stay where the last one put them. O(n^2) a step; n is a
 * few dozen. */
static void place_labels(const plot_panel *panel, range x, range y, label_place *places)
{
    for (size_t i = 0; i < panel->count; i++) {
        const plot_point *point = &panel->points[i];
        const double home = (log10(point->y) - y.low) / (y.high - y.low);
        places[i].x = (point->x - x.low) / (x.high - x.low) + label_gap;
        places[i].width = character_width * (double)strlen(point->label);
        for (int step = 0; step < 80; step++) {
            const double away = 0.5 * label_height * (double)((step + 1) / 2) * (step % 2 == 0 ? 1 : -1);
            places[i].y = fmin(fmax(home + away, 0.01), 0.99);
            if (!is_covering(panel, i, x, y, places)) {
                break;
            }
        }
    }
}

/* One panel: axes, labels with a thin line to their points, and one series a family. */
static void print_panel(FILE *gnuplot, const plot_panel *panel, const label_place *places, range x, range y,
                        bool legend)
{
    fprintf(gnuplot, "set xlabel \"%s\"\nset ylabel \"%s\"\nset xrange [%.9g:%.9g]\nset yrange [%.9g:%.9g]\n",
            panel->x_label, panel->y_label, x.low, x.high, pow(10, y.low), pow(10, y.high));
    fprintf(gnuplot, "unset label\nunset arrow\n");
    for (size_t i = 0; i < panel->count; i++) {
        fprintf(gnuplot, "set label \"%s\" at graph %.5f, graph %.5f left font ',9' noenhanced\n",
                panel->points[i].label, places[i].x, places[i].y);
        fprintf(gnuplot, "set arrow from %.9g, %.9g to graph %.5f, graph %.5f nohead lc rgb '#bbbbbb' lw 0.7\n",
                panel->points[i].x, panel->points[i].y, places[i].x, places[i].y);
    }
    fprintf(gnuplot, "set key %s\nplot ", legend ? "top right box opaque" : "off");
    static const char *const looks[] = {"pt 5 lc rgb '#444444'", "pt 7 lc rgb '#1f77b4'", "pt 9 lc rgb '#d62728'",
                                        "pt 11 lc rgb '#2ca02c'", "pt 13 lc rgb '#9467bd'"};
    for (int family = 0; plot_families[family]; family++) {
        fprintf(gnuplot, "%s'-' using 1:2 with points ps 1.1 %s title \"%s\"", family ? ", " : "", looks[family],
                plot_families[family]);
    }
    fprintf(gnuplot, "\n");
    for (int family = 0; plot_families[family]; family++) {
        fprintf(gnuplot, "NaN NaN\n"); /* a family without points keeps its place in the legend */
        for (size_t i = 0; i < panel->count; i++) {
            if (panel->points[i].family == family) {
                fprintf(gnuplot, "%.9g %.9g\n", panel->points[i].x, panel->points[i].y);
            }
        }
        fprintf(gnuplot, "e\n");
    }
}

/* A gnuplot string in single quotes: only the quote itself needs care. */
static void print_quoted(FILE *gnuplot, const char *text, const char *ending)
{
    fputc('\'', gnuplot);
    for (; *text; text++) {
        fputs(*text == '\'' ? "''" : (char[]){*text, 0}, gnuplot);
    }
    fprintf(gnuplot, "%s'", ending);
}

/* The whole picture in one output format (a gnuplot terminal). False if gnuplot is missing or says no. */
static bool draw(const char *path, const char *title, const char *terminal, const char *ending,
                 const plot_panel *panels, size_t count)
{
    FILE *gnuplot = popen("gnuplot 2>/dev/null", "w");
    if (!gnuplot) {
        return false;
    }
    fprintf(gnuplot, "set terminal %s\nset output ", terminal);
    print_quoted(gnuplot, path, ending);
    fprintf(gnuplot, "\nset multiplot layout 1,%zu title ", count);
    print_quoted(gnuplot, title, "");
    fprintf(gnuplot, " font ',14'\n");
    fprintf(gnuplot, "set logscale y\nset grid lc rgb '#e4e4e4'\nset border 3\nset tics nomirror\n");
    for (size_t i = 0; i < count; i++) {
        const range x = range_of(&panels[i], false), y = range_of(&panels[i], true);
        label_place *places = calloc(panels[i].count + 1, sizeof *places);
        if (places) {
            place_labels(&panels[i], x, y, places);
            print_panel(gnuplot, &panels[i], places, x, y, i + 1 == count);
        }
        free(places);
    }
    fprintf(gnuplot, "unset multiplot\n");
    const int status = pclose(gnuplot);
    return status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool plot_write(const char *path, const char *title, const plot_panel *panels, size_t count, const char **message)
{
    const bool drawn =
        draw(path, title, "svg size 1500,760 background '#ffffff' font 'sans,12'", ".svg", panels, count) &&
        draw(path, title, "pngcairo size 1500,760 font 'sans,11'", ".png", panels, count);
    *message = drawn ? NULL : "gnuplot is not installed or failed: the plots are left out";
    return drawn;
}

/* Scatter plots of labelled points, drawn by gnuplot as SVG and PNG. */
#ifndef SQF_CLI_PLOT_H
#define SQF_CLI_PLOT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct plot_point {
    char label[64];
    double x, y; /* finite, y > 0: the axis is logarithmic */
    int family;  /* index in plot_families: colour and shape */
} plot_point;

/* Names of the families for the legend; NULL ends. */
extern const char *const plot_families[];

/* One diagram: y against x, y logarithmic. */
typedef struct plot_panel {
    const char *x_label, *y_label;
    plot_point *points;
    size_t count;
} plot_panel;

/* Draws the panels side by side into PATH.svg and PATH.png. False with *message set where gnuplot is absent or failed.
 */
bool plot_write(const char *path, const char *title, const plot_panel *panels, size_t count, const char **message);

#endif

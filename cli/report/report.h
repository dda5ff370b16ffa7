/* What sqf report knows: results of sweeps, grouped over seeds, and the figures that are made of them. */
#ifndef SQF_CLI_REPORT_REPORT_H
#define SQF_CLI_REPORT_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* Columns of tables and axes of plots. */
typedef enum report_metric {
    METRIC_LOSS = 0, /* of perplexity against the model that was quantized, % */
    METRIC_PERPLEXITY,
    METRIC_KL,
    METRIC_SAME_TOP, /* % */
    METRIC_ACCURACY, /* mean over benchmarks, % */
    METRIC_STORED_BITS,
    METRIC_WEIGHTS_BITS,
    METRIC_ACTIVATIONS_BITS,
    METRIC_LOW_RATE, /* % */
    METRIC_COST,
    METRIC_OUTPUT_ERROR,
    METRIC_SECONDS,
    METRIC_MEMORY, /* MB */
    METRIC_COUNT
} report_metric;

typedef struct metric_row {
    const char *key;       /* member of a result; NULL = derived */
    const char *error_key; /* its standard error on one text; NULL = none */
    const char *column;    /* in CSV */
    const char *heading;   /* for people */
    double factor;         /* from the member to what is shown */
    int digits;            /* behind the point */
} metric_row;

extern const metric_row metric_rows[METRIC_COUNT];

/* Points that differ in nothing but the seed. NaN where a figure is missing. */
typedef struct report_group {
    json_t *line;     /* of the first of them; borrowed from the report */
    json_t *settings; /* without the seed */
    char *label;      /* the scheme, and what varies in the grid */
    size_t seeds;
    double mean[METRIC_COUNT];
    double seed_error[METRIC_COUNT]; /* standard error of the mean over seeds; NaN for one seed */
    double text_error[METRIC_COUNT]; /* standard error on the text, mean over seeds; NaN if there is none */
    bool on_front;                   /* of loss against predicted cost, among groups that compare */
} report_group;

enum { REPORT_AXES_MAX = 64 };

/* A section of a grid file: its groups stand together. */
typedef struct report_grid {
    const char *name, *title, *question; /* the last two may be NULL */
    size_t first, count;                 /* groups */
    const char *axes[REPORT_AXES_MAX];   /* settings that vary among them */
    size_t axis_count;
} report_grid;

typedef struct report {
    json_t *lines;  /* array: the last result of every point */
    json_t *failed; /* array: points whose last result is a failure */
    report_grid *grids;
    size_t grid_count;
    report_group *groups;
    size_t group_count;
} report;

/* Reads files of results, in this order; later lines of a point take the place of earlier ones. A torn last line is
 * left out with a message. EXIT_DONE or the code after a message. */
int report_load(const char *const *paths, size_t count, report *out);
void report_clear(report *r);

/* The error to draw: over seeds where there are several, else on the text; NaN if there is neither. */
double group_error(const report_group *group, report_metric metric);
/* A setting of a group as text; "" where it was not given. */
void group_setting(const report_group *group, const char *key, char *text, size_t size);
/* The model directory that a group was made from. */
const char *group_model(const report_group *group);
/* Whether the losses of two groups are of the same model on the same text, cut alike. */
bool groups_compare(const report_group *a, const report_group *b);

/* Picture by picture: each is a figure of the page and a file of its own. */
typedef struct figure {
    char name[96]; /* of the file, without ending */
    char *svg;     /* the picture as it stands in the page: one element */
    char *title;   /* heading */
    char *caption; /* what is shown, plain text */
    char *list;    /* HTML behind the caption; NULL = none */
    size_t grid;   /* of which grid; SIZE_MAX = of all */
} figure;

typedef struct figures {
    figure *items;
    size_t count;
} figures;

/* A new figure whose picture is to be written to *svg and ended by figure_end. NULL without memory. */
FILE *figure_begin(figures *list, const char *name, size_t grid, int width, int height, const char *description);
void figure_end(figures *list, FILE *svg, char *title, char *caption, char *html);
void figures_clear(figures *list);

/* Loss against cost and bits, with the front of what nothing else beats. */
void draw_fronts(const report *r, figures *out);
/* Loss over two axes of each grid that has them, as coloured cells and as lines. x, y: settings, or NULL to find them.
 */
void draw_grids(const report *r, const char *x, const char *y, figures *out);

/* DIRECTORY/points.csv, groups.csv and tables.md. */
int write_tables(const report *r, const char *directory);
/* DIRECTORY/index.html, and DIRECTORY/NAME.svg of each figure. */
int write_page(const report *r, const figures *list, const char *directory);
int write_pictures(const figures *list, const char *directory);

/* Bytes of cli/report/assets, put into the program when it is built. */
extern const char asset_chart_css[], asset_page_css[], asset_page_js[];

#endif

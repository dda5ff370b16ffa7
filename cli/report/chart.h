/* What pictures are drawn with: scales, ticks, frames, marks and legends, as SVG text. Lengths are SVG units. */
#ifndef SQF_CLI_REPORT_CHART_H
#define SQF_CLI_REPORT_CHART_H

#include <sqf/common.h>

#include "report.h"

/* From values to places. `from` stands at `low`; y scales have from > to. */
typedef struct chart_scale {
    double low, high; /* low < high; of a logarithmic scale > 0 */
    bool logarithmic;
    double from, to;
} chart_scale;

/* The place of a value; values outside stand at the border. */
double chart_place(const chart_scale *scale, double value);

/* A scale for losses in %: logarithmic. Losses below `floor`, the noise of a measurement, stand at the bottom. */
chart_scale chart_loss_scale(double least, double most, double from, double to);
extern const double chart_loss_floor;

/* Lines and numbers at round values, and the axis title. `across` = the scale is horizontal; the plot then reaches from
 * `start` to `end` in the other direction. */
void chart_axis(FILE *svg, const chart_scale *scale, bool across, double start, double end, const char *title);

/* A point of a series: colour and shape go by its index. title: what a pointer sees; may be NULL. */
void chart_mark(FILE *svg, double x, double y, size_t series, const char *title);
/* A line from a value less its error to one more. Nothing where the error is NaN. */
void chart_error(FILE *svg, const chart_scale *scale, bool across, double other, double value, double error,
                 size_t series);

/* Rows of marks with names, flowing in `width`; returns the height that they take. A series without a name is left out.
 * svg NULL only measures. */
double chart_legend(FILE *svg, double x, double y, double width, const char *const *names, size_t count);

/* Text with the characters escaped that XML and HTML give a meaning. */
void print_escaped(FILE *file, const char *text);

/* "+0.123", and with an error "+0.123 ± 0.045". */
void format_figure(double value, double error, int digits, char *text, size_t size);

/* printf into new memory; NULL without memory. */
char *format_text(const char *format, ...) SQF_PRINTF(1, 2);

enum { CHART_COLOURS = 8 };

#endif

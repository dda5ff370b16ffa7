/* SVG by hand: scales, axes, marks. Colours are classes that the style sheet gives a value for light and dark. */
#include "chart.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const double chart_loss_floor = 0.02;

/* Width of a character of the 12-unit font, on the safe side. */
static const double character_width = 7.6;

double chart_place(const chart_scale *scale, double value)
{
    const double v = scale->logarithmic ? log(fmax(value, 1e-300)) : value;
    const double low = scale->logarithmic ? log(scale->low) : scale->low;
    const double high = scale->logarithmic ? log(scale->high) : scale->high;
    const double part = fmin(fmax((v - low) / (high - low), 0), 1);
    return scale->from + part * (scale->to - scale->from);
}

chart_scale chart_loss_scale(double least, double most, double from, double to)
{
    const double low = fmax(least / 1.4, chart_loss_floor);
    return (chart_scale){low, fmax(most * 1.4, low * 10), true, from, to};
}

/* 1, 2 and 5 times powers of ten, at most about ten of them. */
static double round_step(double span)
{
    const double power = pow(10, floor(log10(span / 5)));
    const double part = span / 5 / power;
    return power * (part > 5 ? 10 : part > 2 ? 5 : part > 1 ? 2 : 1);
}

static void print_tick(FILE *svg, const chart_scale *scale, bool across, double start, double end, double value)
{
    const double place = chart_place(scale, value);
    char text[32];
    snprintf(text, sizeof text, "%.6g", value);
    if (across) {
        fprintf(svg, "<line class=\"rule\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", place, start, place,
                end);
        fprintf(svg, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", place, end + 16,
                text);
    } else {
        fprintf(svg, "<line class=\"rule\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", start, place, end,
                place);
        fprintf(svg, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", start - 6, place + 4,
                text);
    }
}

/* Powers of ten with 2 and 5 between them, or without where there are many powers. */
static void print_logarithmic_ticks(FILE *svg, const chart_scale *scale, bool across, double start, double end)
{
    const bool dense = scale->high / scale->low < 1e5;
    static const double parts[] = {1, 2, 5};
    for (double power = pow(10, floor(log10(scale->low))); power <= scale->high; power *= 10) {
        for (size_t i = 0; i < (dense ? 3 : 1); i++) {
            const double value = parts[i] * power;
            if (value >= scale->low * 0.999 && value <= scale->high * 1.001) {
                print_tick(svg, scale, across, start, end, value);
            }
        }
    }
}

void chart_axis(FILE *svg, const chart_scale *scale, bool across, double start, double end, const char *title)
{
    if (scale->logarithmic) {
        print_logarithmic_ticks(svg, scale, across, start, end);
    } else {
        const double step = round_step(scale->high - scale->low);
        for (double i = ceil(scale->low / step); i * step <= scale->high * (1 + 1e-9); i++) {
            print_tick(svg, scale, across, start, end, i * step);
        }
    }
    const double middle = (scale->from + scale->to) / 2;
    if (across) {
        fprintf(svg, "<text class=\"axis\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">", middle, end + 36);
    } else {
        fprintf(svg, "<text class=\"axis\" transform=\"translate(14 %.1f) rotate(-90)\" text-anchor=\"middle\">",
                middle);
    }
    print_escaped(svg, title);
    fprintf(svg, "</text>\n");
}

void chart_mark(FILE *svg, double x, double y, size_t series, const char *title)
{
    static const char *const shapes[] = {
        "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0",                 /* circle */
        "m-4 -4h8v8h-8z",                                               /* square */
        "m0 -5.2l5 8.7h-10z",                                           /* triangle */
        "m0 -5.6l5.6 5.6l-5.6 5.6l-5.6 -5.6z",                          /* diamond */
        "m0 5.2l5 -8.7h-10z",                                           /* triangle on its tip */
        "m-1.8 -5.4h3.6v3.6h3.6v3.6h-3.6v3.6h-3.6v-3.6h-3.6v-3.6h3.6z", /* plus */
    };
    const size_t shape = (series + series / CHART_COLOURS) % (sizeof shapes / sizeof *shapes);
    fprintf(svg, "<path class=\"mark c%zu\" d=\"M%.1f %.1f%s\">", series % CHART_COLOURS, x, y, shapes[shape]);
    if (title) {
        fprintf(svg, "<title>");
        print_escaped(svg, title);
        fprintf(svg, "</title>");
    }
    fprintf(svg, "</path>\n");
}

void chart_error(FILE *svg, const chart_scale *scale, bool across, double other, double value, double error,
                 size_t series)
{
    if (!isfinite(value) || !isfinite(error)) {
        return;
    }
    const double a = chart_place(scale, value - error), b = chart_place(scale, value + error);
    fprintf(svg, "<line class=\"error c%zu\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
            series % CHART_COLOURS, across ? a : other, across ? other : a, across ? b : other, across ? other : b);
}

double chart_legend(FILE *svg, double x, double y, double width, const char *const *names, size_t count)
{
    double at = 0, row = 0;
    for (size_t i = 0; i < count; i++) {
        if (!names[i]) {
            continue;
        }
        const double needed = 26 + character_width * (double)strlen(names[i]);
        if (at > 0 && at + needed > width) {
            at = 0;
            row++;
        }
        if (svg) {
            chart_mark(svg, x + at + 6, y + 18 * row, i, NULL);
            fprintf(svg, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\">", x + at + 15, y + 18 * row + 4);
            print_escaped(svg, names[i]);
            fprintf(svg, "</text>\n");
        }
        at += needed;
    }
    return 18 * (row + 1);
}

void print_escaped(FILE *file, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&': fputs("&amp;", file); break;
        case '<': fputs("&lt;", file); break;
        case '>': fputs("&gt;", file); break;
        case '"': fputs("&quot;", file); break;
        case '\'': fputs("&#39;", file); break;
        default: fputc((unsigned char)*text < 0x20 ? ' ' : *text, file); /* XML has no control characters */
        }
    }
}

void format_figure(double value, double error, int digits, char *text, size_t size)
{
    if (!isfinite(value)) {
        snprintf(text, size, "-");
    } else if (isfinite(error)) {
        snprintf(text, size, "%.*f \302\261 %.*f", digits, value, digits, error);
    } else {
        snprintf(text, size, "%.*f", digits, value);
    }
}

char *format_text(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length < 0 ? NULL : malloc((size_t)length + 1);
    if (text) {
        va_start(arguments, format);
        vsnprintf(text, (size_t)length + 1, format, arguments);
        va_end(arguments);
    }
    return text;
}

/* The rows of a survey as a table for people, as JSON, as CSV and as a picture. JSON is made once and CSV from it:
 * the two have the same columns under the same names. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "plot.h"
#include "survey.h"

double survey_low_rate(const survey_row *row)
{
    const sqf_product_counts *counts = &row->eval.model.products;
    const double all = (double)counts->floating + (double)counts->integer_high + (double)counts->integer_low;
    return all > 0 ? (double)counts->integer_low / all : 0;
}

void survey_print_heading(void)
{
    printf("%-22s %6s %6s %7s %8s %9s %17s %9s %7s %6s %6s %6s %8s %8s\n", "", "equiv.", "bits", "stored", "file",
           "perplex-", "change in %", "KL diver-", "same", "low", "cost", "quant.", "prefill", "decode");
    printf("%-22s %6s %6s %7s %8s %9s %17s %9s %7s %6s %6s %6s %8s %8s\n", "scheme", "wght", "act", "bits/w", "MB",
           "ity", "(std. error)", "gence", "top, %", "rate,%", "", "s", "tok/s", "tok/s");
}

void survey_print_row(const survey_row *row)
{
    const sqf_eval_result *eval = &row->eval;
    char change[32];
    snprintf(change, sizeof change, "%+.2f (%.2f)", 100 * (eval->ratio - 1), 100 * eval->ratio_error);
    printf("%-22s %6.4g %6.4g %7.3f %8.2f %9.3f %17s %9.5f %7.2f %6.1f %6.3f %6.1f %8.0f %8.0f\n", row->name,
           row->weights_equivalent_bits, row->activations_equivalent_bits, row->stored_bits,
           (double)row->quantize.file_bytes / 1e6, eval->model.perplexity, change, eval->kl, 100 * eval->same_top,
           100 * survey_low_rate(row), row->cost, row->quantize.seconds, row->prefill_tokens_per_s,
           row->decode_tokens_per_s);
    fflush(stdout);
}

json_t *survey_row_json(const survey_row *row)
{
    const sqf_eval_result *eval = &row->eval;
    const json_figure figures[] = {
        {"weights_equivalent_bits", row->weights_equivalent_bits},
        {"activations_equivalent_bits", row->activations_equivalent_bits},
        {"stored_bits_per_weight", row->stored_bits},
        {"file_bytes", (double)row->quantize.file_bytes},
        {"perplexity", eval->model.perplexity},
        {"reference_perplexity", eval->reference.perplexity},
        {"ratio", eval->ratio},
        {"ratio_error", eval->ratio_error},
        {"difference", eval->difference},
        {"difference_error", eval->difference_error},
        {"kl", eval->kl},
        {"kl_error", eval->kl_error},
        {"same_top", eval->same_top},
        {"low_rate_share", survey_low_rate(row)},
        {"cost", row->cost},
        {"scored_tokens", (double)eval->scored_tokens},
        {"quantization_seconds", row->quantize.seconds},
        {"prefill_tokens_per_s", row->prefill_tokens_per_s},
        {"decode_tokens_per_s", row->decode_tokens_per_s},
    };
    char text[SQF_SCHEME_TEXT];
    sqf_scheme_print(&row->scheme, SQF_SPELLING_LONG, text);
    json_t *object = json_object();
    json_object_set_new(object, "scheme", json_string(row->name));
    json_set_numbers(object, figures, sizeof figures / sizeof *figures);
    json_object_set_new(object, "long_name", json_string(text));
    return object;
}

/* Names of schemes hold commas and semicolons: texts stand in quotes. */
static void print_csv_value(FILE *file, const json_t *value)
{
    if (json_is_string(value)) {
        fprintf(file, "\"%s\"", json_string_value(value));
    } else if (json_is_number(value)) {
        fprintf(file, "%.10g", json_number_value(value));
    }
}

int survey_write_csv(const char *directory, const json_t *rows)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/table.csv", directory);
    FILE *file = fopen(path, "w");
    if (!file) {
        return fail_input("%s: cannot create: %s", path, strerror(errno));
    }
    size_t index;
    json_t *row, *value;
    const char *key;
    json_array_foreach(rows, index, row)
    {
        const char *between = "";
        if (index == 0) {
            json_object_foreach(row, key, value)
            {
                fprintf(file, "%s%s", between, key);
                between = ",";
            }
            fputc('\n', file);
        }
        between = "";
        json_object_foreach(row, key, value)
        {
            fputs(between, file);
            print_csv_value(file, value);
            between = ",";
        }
        fputc('\n', file);
    }
    const bool failed = ferror(file) != 0;
    return fclose(file) != 0 || failed ? fail_input("%s: cannot write", path) : EXIT_DONE;
}

/* The family decides a point's colour: the index in plot_families. */
static int family_of(const sqf_scheme *scheme)
{
    const sqf_weight_spec *weights = &scheme->weights;
    if (sqf_weight_spec_is_dense(weights)) {
        return 0;
    }
    if (weights->low == SQF_TYPE_NONE) {
        return 4;
    }
    if (weights->high_per_bank > 0) {
        return 3;
    }
    return sqf_act_spec_is_split(&scheme->activations) ? 2 : 1;
}

/* Two panels over the same losses: what a scheme costs in time, and what it costs in bytes. */
void survey_write_plots(const char *directory, const survey_row *rows, size_t count)
{
    /* losses below this, the noise of the measurement, stand at the bottom of the axis */
    const double floor_percent = 0.02;
    plot_point *points = calloc(2 * count + 1, sizeof *points);
    if (!points) {
        fail_input("the plots are left out: out of memory");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        plot_point *time = &points[i], *bits = &points[count + i];
        snprintf(time->label, sizeof time->label, "%.63s", rows[i].name);
        time->y = fmax(100 * (rows[i].eval.ratio - 1), floor_percent);
        time->family = family_of(&rows[i].scheme);
        *bits = *time;
        time->x = 1e3 / rows[i].prefill_tokens_per_s;
        bits->x = rows[i].stored_bits;
    }
    const char *const loss = "loss of perplexity, % (0.02 and less at the bottom)";
    const plot_panel panels[] = {{"prefill, milliseconds a token", loss, points, count},
                                 {"stored bits per weight of the linear layers", loss, points + count, count}};
    char path[4096];
    snprintf(path, sizeof path, "%s/plot", directory);
    const char *message;
    if (!plot_write(path, "What each scheme costs: accuracy against time and against size", panels, 2, &message)) {
        fail_input("%s", message);
    }
    free(points);
}

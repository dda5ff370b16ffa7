/* One row of a survey, and the forms in which the rows are given out. */
#ifndef SQF_CLI_SURVEY_H
#define SQF_CLI_SURVEY_H

#include <jansson.h>

#include <sqf/bench.h>
#include <sqf/eval.h>
#include <sqf/quantize.h>

typedef struct survey_row {
    char name[SQF_SCHEME_TEXT]; /* as printed: the short name */
    sqf_scheme scheme;
    sqf_quantize_summary quantize;
    double weights_equivalent_bits, activations_equivalent_bits, stored_bits; /* of the decoder's linear layers */
    double cost;                                                              /* predicted, of a product of theirs */
    sqf_eval_result eval;
    double prefill_tokens_per_s, decode_tokens_per_s; /* medians */
} survey_row;

/* Share of the decoder's integer and floating products that ran with both operands at 4 bits or fewer, as counted while
 * the text was evaluated. */
double survey_low_rate(const survey_row *row);

void survey_print_heading(void);
void survey_print_row(const survey_row *row);

/* All figures of a row under the names of the CSV's columns. */
json_t *survey_row_json(const survey_row *row);

/* DIRECTORY/table.csv from the rows of the JSON array, and plot.svg, plot.png. EXIT_DONE or EXIT_BAD after a message; a
 * missing gnuplot is only a message. */
int survey_write_csv(const char *directory, const json_t *rows);
void survey_write_plots(const char *directory, const survey_row *rows, size_t count);

#endif

/* What commands share: the context with its talk and progress, errors, JSON, and standard output that is checked. */
#ifndef SQF_CLI_OUTPUT_H
#define SQF_CLI_OUTPUT_H

#include <jansson.h>

#include <sqf/context.h>

#include "option.h"
#include "progress.h"

/* One line "sqf: ..." on standard error; the exit code that goes with it. */
int fail_usage(const char *format, ...) SQF_PRINTF(1, 2);
int fail_input(const char *format, ...) SQF_PRINTF(1, 2);
/* The library's sentence; EXIT_BAD, or 128 plus the signal if that is why the call was cancelled. */
int fail_error(const sqf_error *err);

/* A context as --threads, --device, --quiet and --verbose say. EXIT_DONE or the code after a message. */
int context_open(const cli_arguments *arguments, sqf_context **out);

/* False if models run on a GPU. */
bool context_is_cpu(const sqf_context *context);

/* JSON values that always exist: null for NaN and infinity, U+FFFD for bytes that are not UTF-8. */
json_t *json_number(double value);
json_t *json_count(uint64_t value);
json_t *json_text(const char *bytes, size_t n);
/* NULL gives null. */
json_t *json_string_or_null(const char *text);
/* Members that are numbers, from a table of keys and values. */
typedef struct json_figure {
    const char *key;
    double value;
} json_figure;
void json_set_numbers(json_t *object, const json_figure *figures, size_t count);
/* The operands of a scheme's products, for eval and bench. */
json_t *json_products(const sqf_product_counts *counts);

/* Prints the object with a line end and releases it. */
int print_json(json_t *object);

/* Flushes standard output; EXIT_BAD with a message if anything printed so far could not be written. */
int finish_output(void);

/* Where no level above the portable one runs, a line that says so: for what is printed about speed. */
void print_portable(void);

/* "7.3 MB": decimal units. */
void format_bytes(uint64_t bytes, char text[32]);

/* All bytes of standard input, NUL-terminated (not counted), for free(). */
int read_standard_input(char **bytes, size_t *n);

#endif

/* sqf bed layer: recipes measured on drawn layers, several draws each, so that every mean has its standard error. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bed.h"
#include "command.h"
#include "output.h"

/* What is tried where nothing is said. */
static const char *const standard_points[] = {"W8A8",
                                              "W4A8",
                                              "W4A4",
                                              "W4A(SQ6) quota=equal",
                                              "W4A(SQ5) quota=equal",
                                              "W4A(SQ4.5) quota=equal",
                                              "W4A4 smooth=off",
                                              "W4A(SQ6) quota=equal smooth=off"};

enum { POINT_KEYS = 64 };

/* Mean and standard error over seeds. */
typedef struct spread {
    double mean, error;
} spread;

/* A recipe to try, and what it does to each draw. */
typedef struct bed_point {
    const char *text;
    sqf_recipe *recipe;
    sqf_layer_errors *errors; /* [seeds] */
} bed_point;

/* All that is open while the command runs. */
typedef struct layer_bed {
    const cli_arguments *arguments;
    sqf_context *context;
    size_t seeds;
    bed_point *points;
    size_t count;
    json_t *rows;
} layer_bed;

/* ---- points ---- */

/* Words of a point, cut in place: the scheme, then key=value. False: too many, or a word without '='. */
static bool split_point(char *text, char **scheme, char *keys[POINT_KEYS], char *values[POINT_KEYS], size_t *count)
{
    char *rest = NULL;
    *count = 0;
    *scheme = strtok_r(text, " \t", &rest);
    for (char *word = strtok_r(NULL, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest)) {
        char *equals = strchr(word, '=');
        if (!equals || *count == POINT_KEYS) {
            return false;
        }
        *equals = '\0';
        keys[*count] = word;
        values[(*count)++] = equals + 1;
    }
    return *scheme != NULL;
}

/* Keys in the order of the library's list. SQF_E_ARG for one that it does not have. */
static sqf_status set_keys(sqf_module_recipe *recipe, char *const *keys, char *const *values, size_t count,
                           sqf_error *err)
{
    size_t known, used = 0;
    const sqf_recipe_key *list = sqf_recipe_key_list(&known);
    for (size_t i = 0; i < known; i++) {
        for (size_t k = 0; k < count; k++) {
            if (strcmp(list[i].name, keys[k]) == 0) {
                const sqf_status status = sqf_module_recipe_set(recipe, keys[k], values[k], err);
                if (status != SQF_OK) {
                    return status;
                }
                used++;
            }
        }
    }
    if (used < count) {
        /* the library has the sentence for a key that it does not know */
        for (size_t k = 0; k < count; k++) {
            sqf_module_recipe scratch = *recipe;
            const sqf_status status = sqf_module_recipe_set(&scratch, keys[k], values[k], err);
            if (status != SQF_OK) {
                return status;
            }
        }
    }
    return SQF_OK;
}

/* The recipe of a point such as "W4A(SQ5) mask=l2 smooth=off". */
static sqf_status parse_point(const char *point, sqf_recipe **out, sqf_error *err)
{
    char text[1024], *scheme, *keys[POINT_KEYS], *values[POINT_KEYS];
    size_t count;
    sqf_scheme parsed;
    snprintf(text, sizeof text, "%s", point);
    if (strlen(point) >= sizeof text || !split_point(text, &scheme, keys, values, &count)) {
        err->status = SQF_E_ARG;
        snprintf(err->text, sizeof err->text, "%.100s: expected a scheme, then key=value", point);
        return SQF_E_ARG;
    }
    sqf_status status = sqf_scheme_parse(scheme, &parsed, err);
    if (status != SQF_OK) {
        return status;
    }
    sqf_module_recipe recipe = sqf_module_recipe_default(&parsed);
    status = set_keys(&recipe, keys, values, count, err);
    return status == SQF_OK ? sqf_recipe_create(&recipe, out, err) : status;
}

/* ---- measuring ---- */

static spread spread_of(const bed_point *point, size_t seeds, size_t offset)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < seeds; i++) {
        sum += *(const double *)((const char *)&point->errors[i] + offset);
    }
    const double n = (double)seeds, mean = sum / n;
    for (size_t i = 0; i < seeds; i++) {
        const double off = *(const double *)((const char *)&point->errors[i] + offset) - mean;
        squares += off * off;
    }
    return (spread){mean, seeds > 1 ? sqrt(squares / (n - 1) / n) : (double)NAN};
}

#define SPREAD(bed, point, member) spread_of((point), (bed)->seeds, offsetof(sqf_layer_errors, member))

static void set_spread(json_t *object, const char *name, spread s)
{
    char error[64];
    snprintf(error, sizeof error, "%s_error", name);
    json_object_set_new(object, name, json_number(s.mean));
    json_object_set_new(object, error, json_number(s.error));
}

static void add_row(layer_bed *bed, const sqf_layer_bed_options *options, const bed_point *point)
{
    const sqf_layer_errors *first = &point->errors[0];
    json_t *row = json_object();
    json_object_set_new(row, "activations", json_string(sqf_bed_activation_names()[options->activations]));
    json_object_set_new(row, "weights", json_string(sqf_bed_weight_names()[options->weights]));
    json_object_set_new(row, "recipe", json_string_or_null(point->text));
    set_spread(row, "held_out", SPREAD(bed, point, held_out));
    set_spread(row, "median_token", SPREAD(bed, point, median_token));
    set_spread(row, "worst_token", SPREAD(bed, point, worst_token));
    set_spread(row, "calibration", SPREAD(bed, point, calibration));
    set_spread(row, "weights_alone", SPREAD(bed, point, weights_alone));
    set_spread(row, "weight_error", SPREAD(bed, point, weight_error));
    json_object_set_new(row, "stored_bits", json_number(first->stored_bits));
    json_object_set_new(row, "weights_equivalent_bits", json_number(first->weights_equivalent_bits));
    json_object_set_new(row, "activations_equivalent_bits", json_number(first->activations_equivalent_bits));
    json_object_set_new(row, "low_rate_share", json_number(first->low_rate_share));
    json_object_set_new(row, "cost", json_number(first->cost));
    json_array_append_new(bed->rows, row);
}

/* Errors in percent of the output's square. */
static void print_row(const layer_bed *bed, const bed_point *point)
{
    const spread held_out = SPREAD(bed, point, held_out), median = SPREAD(bed, point, median_token);
    const spread alone = SPREAD(bed, point, weights_alone);
    const sqf_layer_errors *first = &point->errors[0];
    progress_clear();
    printf("%-34s %9.4f %9.4f %9.4f %9.4f %9.4f %7.3f %6.1f %6.3f\n", point->text, 100 * held_out.mean,
           100 * held_out.error, 100 * median.mean, 100 * median.error, 100 * alone.mean, first->stored_bits,
           100 * first->low_rate_share, first->cost);
}

static void print_heading(const sqf_layer_bed_options *options)
{
    progress_clear();
    printf("%s activations, %s weights, %zu x %zu\n", sqf_bed_activation_names()[options->activations],
           sqf_bed_weight_names()[options->weights], options->rows, options->columns);
    printf("%-34s %9s %9s %9s %9s %9s %7s %6s %6s\n", "recipe", "error %", "+-", "median %", "+-", "weights %",
           "stored", "low %", "cost");
}

/* Every point on one draw. */
static sqf_status run_seed(layer_bed *bed, const sqf_layer_bed_options *options, size_t index, sqf_error *err)
{
    sqf_layer_bed_options drawn = *options;
    sqf_layer_data data;
    drawn.seed = options->seed + index;
    sqf_status status = sqf_bed_layer_draw(&drawn, &data, err);
    for (size_t i = 0; i < bed->count && status == SQF_OK; i++) {
        status = sqf_bed_layer_measure(bed->context, &data, bed->points[i].recipe, drawn.seed, NULL,
                                       &bed->points[i].errors[index], err);
    }
    sqf_bed_layer_clear(&data);
    return status;
}

/* Every draw of one kind of bed, then its table. */
static sqf_status run_bed_kind(layer_bed *bed, const sqf_layer_bed_options *options, sqf_error *err)
{
    const bool table = !arguments_given(bed->arguments, "json");
    for (size_t i = 0; i < bed->seeds; i++) {
        const sqf_status status = run_seed(bed, options, i, err);
        if (status != SQF_OK) {
            return status;
        }
    }
    if (table) {
        print_heading(options);
    }
    for (size_t i = 0; i < bed->count; i++) {
        add_row(bed, options, &bed->points[i]);
        if (table) {
            print_row(bed, &bed->points[i]);
        }
    }
    return SQF_OK;
}

/* The recipes of the command line, or the standard ones: all are read before the first is measured. */
static sqf_status read_points(layer_bed *bed, sqf_error *err)
{
    const bool given = bed->arguments->operand_count > 1;
    bed->count = given ? bed->arguments->operand_count - 1 : sizeof standard_points / sizeof *standard_points;
    bed->points = calloc(bed->count, sizeof *bed->points);
    for (size_t i = 0; bed->points && i < bed->count; i++) {
        bed_point *point = &bed->points[i];
        point->text = given ? bed->arguments->operands[1 + i] : standard_points[i];
        point->errors = calloc(bed->seeds, sizeof *point->errors);
        const sqf_status status = point->errors ? parse_point(point->text, &point->recipe, err) : SQF_E_MEMORY;
        if (status != SQF_OK) {
            return status;
        }
    }
    return bed->points ? SQF_OK : SQF_E_MEMORY;
}

/* Every kind of activations that --activations names, or all. */
static sqf_status run_beds(layer_bed *bed, sqf_error *err)
{
    const cli_arguments *a = bed->arguments;
    sqf_layer_bed_options options = sqf_layer_bed_options_default();
    options.rows = arguments_count(a, "rows");
    options.columns = arguments_count(a, "columns");
    options.calibration_tokens = options.held_out_tokens = arguments_count(a, "tokens");
    options.outlier_share = arguments_real(a, "outlier-share");
    options.massive_share = arguments_real(a, "massive-share");
    options.weights = (sqf_bed_weights)arguments_choice(a, "weights");
    options.seed = arguments_count(a, "seed");
    const bool all = !arguments_given(a, "activations");
    sqf_status status = SQF_OK;
    for (size_t i = 0; sqf_bed_activation_names()[i] && status == SQF_OK; i++) {
        options.activations = (sqf_bed_activations)i;
        if (all || arguments_choice(a, "activations") == i) {
            status = run_bed_kind(bed, &options, err);
        }
    }
    return status;
}

int run_layer_bed(const cli_arguments *arguments)
{
    layer_bed bed = {.arguments = arguments, .seeds = arguments_count(arguments, "seeds"), .rows = json_array()};
    sqf_error err = {SQF_E_MEMORY, "out of memory"};
    int code = context_open(arguments, &bed.context);
    if (code == EXIT_DONE && (read_points(&bed, &err) != SQF_OK || run_beds(&bed, &err) != SQF_OK)) {
        code = fail_error(&err);
    }
    if (code == EXIT_DONE && arguments_given(arguments, "json")) {
        json_t *object = json_object();
        json_object_set_new(object, "rows", json_count(arguments_count(arguments, "rows")));
        json_object_set_new(object, "columns", json_count(arguments_count(arguments, "columns")));
        json_object_set_new(object, "tokens", json_count(arguments_count(arguments, "tokens")));
        json_object_set_new(object, "seed", json_count(arguments_count(arguments, "seed")));
        json_object_set_new(object, "seeds", json_count(bed.seeds));
        json_object_set(object, "points", bed.rows);
        code = print_json(object);
    }
    for (size_t i = 0; bed.points && i < bed.count; i++) {
        sqf_recipe_destroy(bed.points[i].recipe);
        free(bed.points[i].errors);
    }
    free(bed.points);
    json_decref(bed.rows);
    sqf_context_destroy(bed.context);
    return code;
}

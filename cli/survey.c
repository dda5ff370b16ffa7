/* sqf survey: one model under many schemes: quantized, evaluated against the original, timed; one table. Each row
 * goes through files, as a user would do it: the model that is measured is the one that was written and read back.
 *
 * A row is printed as soon as it is there; table.json, table.csv and the pictures are written when all are. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <sqf/model.h>
#include <sqf/tokenizer.h>

#include "command.h"
#include "output.h"
#include "survey.h"

/* What stays the same from scheme to scheme. The original stays open: it is the reference of every evaluation. */
typedef struct survey {
    const cli_arguments *arguments;
    const char *model_directory, *directory;
    sqf_context *context;
    sqf_model *original;
    sqf_tokenizer *tokenizer;
    survey_row *rows;
    size_t count;
} survey;

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the values. Of times the median, because single disturbed runs happen on every machine. */
static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
}

/* With the default recipe of the scheme, as sqf quantize would do without flags. */
static sqf_status quantize_row(const survey *s, survey_row *row, const char *output, sqf_error *err)
{
    sqf_quantize_options options = sqf_quantize_options_default();
    options.calibration = arguments_text(s->arguments, "calib");
    options.samples = arguments_count(s->arguments, "calib-samples");
    options.length = arguments_count(s->arguments, "calib-length");
    options.seed = arguments_count(s->arguments, "seed");
    options.force = arguments_given(s->arguments, "force");
    const sqf_module_recipe base = sqf_module_recipe_default(&row->scheme);
    sqf_recipe *recipe;
    sqf_status status = sqf_recipe_create(&base, &recipe, err);
    if (status == SQF_OK) {
        status = sqf_quantize(s->context, s->model_directory, output, recipe, &options, &row->quantize, err);
        sqf_recipe_destroy(recipe);
    }
    return status;
}

/* Speeds of one model, on the tokens that the options say. */
static sqf_status time_row(const survey *s, const sqf_model *model, survey_row *row, sqf_error *err)
{
    sqf_bench_options options = sqf_bench_options_default();
    options.prefill = arguments_count(s->arguments, "prefill");
    options.decode = arguments_count(s->arguments, "decode");
    options.repetitions = arguments_count(s->arguments, "repetitions");
    sqf_bench_result result;
    const sqf_status status = sqf_bench_run(s->context, model, &options, &result, err);
    if (status == SQF_OK) {
        row->prefill_tokens_per_s = median(result.prefill_tokens_per_s, result.repetitions);
        row->decode_tokens_per_s = median(result.decode_tokens_per_s, result.repetitions);
        sqf_bench_result_clear(&result);
    }
    return status;
}

/* Everything about a model that was written: bits, distance from the original, speed. */
static sqf_status measure_row(const survey *s, survey_row *row, const char *output, sqf_error *err)
{
    sqf_model *model;
    sqf_status status = sqf_model_open(s->context, output, &model, err);
    if (status != SQF_OK) {
        return status;
    }
    const sqf_model_info info = sqf_model_info_get(model);
    row->weights_equivalent_bits = info.weights_equivalent_bits;
    row->activations_equivalent_bits = info.activations_equivalent_bits;
    row->stored_bits = info.bits_per_weight;
    row->cost = info.predicted_cost;
    sqf_eval_options options = sqf_eval_options_default();
    options.window = arguments_count(s->arguments, "window");
    options.max_tokens = arguments_count(s->arguments, "max-tokens");
    status = sqf_eval_file(s->context, model, s->original, s->tokenizer, arguments_text(s->arguments, "text"), &options,
                           &row->eval, err);
    if (status == SQF_OK) {
        status = time_row(s, model, row, err);
    }
    sqf_model_destroy(model);
    return status;
}

/* Quantizes under one scheme into a directory named after it, and measures that. */
static sqf_status run_row(const survey *s, survey_row *row, sqf_error *err)
{
    /* long forms make poor directory names: the number stands for them */
    char name[SQF_SCHEME_TEXT], output[4096];
    sqf_scheme_print(&row->scheme, SQF_SPELLING_SHELL, name);
    if (strpbrk(name, ",;=")) {
        snprintf(name, sizeof name, "scheme-%zu", (size_t)(row - s->rows) + 1);
    }
    snprintf(output, sizeof output, "%s/models/%.200s", s->directory, name);
    sqf_status status = quantize_row(s, row, output, err);
    if (status == SQF_OK) {
        status = measure_row(s, row, output, err);
    }
    return status;
}

/* The schemes given with --scheme, else the named ones. */
static sqf_status choose_schemes(survey *s, sqf_error *err)
{
    size_t listed;
    const sqf_scheme_entry *entries = sqf_scheme_list(&listed);
    size_t rival_count;
    const sqf_scheme_entry *rivals = sqf_scheme_rivals(&rival_count);
    const bool given = arguments_given(s->arguments, "scheme");
    const size_t room = given                                     ? s->arguments->value_count
                        : arguments_given(s->arguments, "rivals") ? listed + rival_count
                                                                  : listed;
    s->rows = calloc(room + 1, sizeof *s->rows);
    if (!s->rows) {
        return SQF_E_MEMORY;
    }
    for (size_t i = 0; i < room; i++) {
        const option_value *value = &s->arguments->values[given ? i : 0];
        if (given && strcmp(value->option->name, "scheme") != 0) {
            continue;
        }
        survey_row *row = &s->rows[s->count++];
        const sqf_status status = sqf_scheme_parse(given        ? value->text
                                                   : i < listed ? entries[i].name
                                                                : rivals[i - listed].name,
                                                   &row->scheme, err);
        if (status != SQF_OK) {
            return status;
        }
        sqf_scheme_print(&row->scheme, SQF_SPELLING_SHORT, row->name);
    }
    return SQF_OK;
}

static int make_directory(const char *path, bool may_exist)
{
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && may_exist)) {
        return EXIT_DONE;
    }
    return errno == EEXIST ? fail_input("%s: exists already; --force writes into it", path)
                           : fail_input("%s: cannot create: %s", path, strerror(errno));
}

/* All that can be wrong before the first row: schemes, model, tokenizer, output directory. */
static int prepare(survey *s)
{
    sqf_error err = {SQF_E_MEMORY, "out of memory"};
    char models[4096];
    sqf_status status = choose_schemes(s, &err);
    if (status == SQF_OK) {
        status = sqf_model_open(s->context, s->model_directory, &s->original, &err);
    }
    if (status == SQF_OK) {
        status = sqf_tokenizer_load(s->model_directory, &s->tokenizer, &err);
    }
    if (status != SQF_OK) {
        return fail_error(&err);
    }
    const bool force = arguments_given(s->arguments, "force");
    snprintf(models, sizeof models, "%s/models", s->directory);
    const int code = make_directory(s->directory, force);
    return code != EXIT_DONE ? code : make_directory(models, force);
}

static json_t *survey_json(const survey *s, json_t *rows)
{
    char cpu[SQF_BENCH_CPU];
    sqf_cpu_name(cpu);
    json_t *object = json_object();
    json_object_set_new(object, "model", json_string_or_null(s->model_directory));
    json_object_set_new(object, "text", json_string_or_null(arguments_text(s->arguments, "text")));
    json_object_set_new(object, "window", json_count(arguments_count(s->arguments, "window")));
    json_object_set_new(object, "calibration", json_string_or_null(arguments_text(s->arguments, "calib")));
    json_object_set_new(object, "calibration_samples", json_count(arguments_count(s->arguments, "calib-samples")));
    json_object_set_new(object, "calibration_length", json_count(arguments_count(s->arguments, "calib-length")));
    json_object_set_new(object, "cpu", json_string_or_null(cpu));
    json_object_set_new(object, "cpu_level", json_string(sqf_context_cpu(s->context)));
    json_object_set_new(object, "threads", json_count(sqf_context_threads(s->context)));
    json_object_set_new(object, "device", json_string_or_null(sqf_context_device(s->context)));
    json_object_set_new(object, "version", json_string(sqf_version()));
    json_object_set(object, "schemes", rows);
    return object;
}

/* The same rows as JSON, CSV and pictures. A missing gnuplot is no failure. */
static int write_results(const survey *s)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < s->count; i++) {
        json_array_append_new(rows, survey_row_json(&s->rows[i]));
    }
    json_t *object = survey_json(s, rows);
    char path[4096];
    snprintf(path, sizeof path, "%s/table.json", s->directory);
    int code = EXIT_DONE;
    if (json_dump_file(object, path, JSON_INDENT(2) | JSON_REAL_PRECISION(10)) != 0) {
        code = fail_input("%s: cannot write", path);
    }
    if (code == EXIT_DONE) {
        code = survey_write_csv(s->directory, rows);
    }
    json_decref(rows);
    survey_write_plots(s->directory, s->rows, s->count);
    if (code == EXIT_DONE && arguments_given(s->arguments, "json")) {
        return print_json(object);
    }
    json_decref(object);
    return code;
}

/* A row that fails ends the survey; the models that were made stay. */
static int run_rows(const survey *s)
{
    const bool table = !arguments_given(s->arguments, "json");
    sqf_error err = {SQF_E_ARG, ""};
    if (table) {
        survey_print_heading();
    }
    for (size_t i = 0; i < s->count; i++) {
        if (run_row(s, &s->rows[i], &err) != SQF_OK) {
            return fail_error(&err);
        }
        if (table) {
            progress_clear();
            survey_print_row(&s->rows[i]);
        }
    }
    return write_results(s);
}

static int run_survey(const cli_arguments *arguments)
{
    survey s = {.arguments = arguments,
                .model_directory = arguments->operands[0],
                .directory = arguments_text(arguments, "output")};
    int code = context_open(arguments, &s.context);
    if (code == EXIT_DONE) {
        code = prepare(&s);
    }
    if (code == EXIT_DONE) {
        code = run_rows(&s);
    }
    sqf_tokenizer_destroy(s.tokenizer);
    sqf_model_destroy(s.original);
    sqf_context_destroy(s.context);
    free(s.rows);
    return code;
}

const cli_command *survey_command(void)
{
    static const cli_option options[] = {
        {.name = "output",
         .letter = 'o',
         .kind = OPTION_TEXT,
         .required = true,
         .value = "DIR",
         .text = "directory for table.json, table.csv, plot.svg, plot.png and models/"},
        {.name = "calib", .kind = OPTION_TEXT, .required = true, .value = "FILE", .text = "calibration text"},
        {.name = "calib-samples",
         .kind = OPTION_COUNT,
         .standard = "32",
         .least = 1,
         .most = 1 << 20,
         .value = "N",
         .text = "calibration windows"},
        {.name = "calib-length",
         .kind = OPTION_COUNT,
         .standard = "2048",
         .least = 2,
         .most = 1 << 24,
         .value = "N",
         .text = "tokens of a calibration window"},
        {.name = "seed",
         .kind = OPTION_COUNT,
         .standard = "0",
         .most = UINT64_MAX,
         .value = "N",
         .text = "seed of random choices"},
        {.name = "text",
         .kind = OPTION_TEXT,
         .required = true,
         .value = "FILE",
         .text = "held-out text to evaluate on"},
        {.name = "window",
         .kind = OPTION_COUNT,
         .standard = "2048",
         .least = 2,
         .most = 1 << 24,
         .value = "N",
         .text = "tokens of an evaluation window"},
        {.name = "max-tokens",
         .kind = OPTION_COUNT,
         .standard = "0",
         .most = UINT64_MAX,
         .value = "N",
         .text = "evaluate on the first N tokens of the text only; 0 = all"},
        {.name = "scheme",
         .kind = OPTION_TEXT,
         .value = "SCHEME",
         .text = "a scheme to try; may be given several times; without it all that sqf schemes lists"},
        {.name = "rivals",
         .kind = OPTION_FLAG,
         .text = "with the schemes of other methods that sqf schemes --rivals lists"},
        {.name = "prefill",
         .kind = OPTION_COUNT,
         .standard = "512",
         .least = 1,
         .most = 1 << 24,
         .value = "N",
         .text = "tokens of the timed prefill"},
        {.name = "decode",
         .kind = OPTION_COUNT,
         .standard = "64",
         .least = 1,
         .most = 1 << 24,
         .value = "N",
         .text = "tokens of the timed decode"},
        {.name = "repetitions",
         .kind = OPTION_COUNT,
         .standard = "3",
         .least = 1,
         .most = 1000,
         .value = "N",
         .text = "how often each is timed; the median is given"},
        DEVICE_OPTION,
        {.name = "force", .kind = OPTION_FLAG, .text = "write into an existing directory"},
    };
    static const char *const examples[] = {
        "sqf survey model/ --calib calib.txt --text heldout.txt -o survey/",
        "sqf survey model/ --calib calib.txt --text heldout.txt -o survey/ --scheme W4A8 --scheme 'W4A(SQ6)'", NULL};
    static const cli_command command = {
        .name = "survey",
        .operands = "MODEL",
        .least_operands = 1,
        .most_operands = 1,
        .summary = "quantize a model under many schemes and compare them in one table",
        .description =
            "Quantizes MODEL under each scheme with its default recipe, evaluates the result on held-out text against "
            "MODEL through the integer kernels, times prefill and decode, and prints one row a scheme.\n\n"
            "The same figures are written as table.json and table.csv, with a picture of accuracy against time and "
            "against stored bits (plot.svg, plot.png; needs gnuplot). The quantized models stay under models/. Change "
            "is that of perplexity against MODEL with the standard error of the paired difference; low rate is the "
            "share of the linear layers' multiply-accumulates that ran with both operands at 4 bits or fewer; cost is "
            "the predicted one of a product in units of an 8-bit product, the scaling of sums included.",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .examples = examples,
        .run = run_survey,
    };
    return &command;
}

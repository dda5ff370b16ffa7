/* sqf bench: prefill and decode speed, in the manner of llama-bench, and what the machine could do at most. Opens the
 * model, lets the library time it (sqf/bench.h) and prints; speeds of several models in one table are sqf survey's
 * business. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqf/bench.h>

#include "command.h"
#include "output.h"

/* The values of an option that takes a list: "16,128,512". */
enum { LIST = 32, TOKENS_MOST = 1 << 24 };

typedef struct counts {
    size_t count, values[LIST];
} counts;

/* One line of the table: tokens run at once or one at a time, after those that are in the cache. */
typedef struct timed {
    const char *test; /* "prefill" or "decode" */
    size_t tokens, depth;
    double rates[LIST]; /* tokens a second, one a repetition */
    sqf_product_counts products;
} timed;

/* Everything that is printed. A list of each kind crossed with the depths gives the rows. */
typedef struct table {
    timed rows[2 * LIST * LIST];
    size_t count, repetitions;
    char cpu[SQF_BENCH_CPU];
    bool has_roofs;
    sqf_bench_roofs roofs;
} table;

/* Of the repetitions of a row. */
typedef struct summary {
    double mean, deviation, median, best; /* the deviation with n - 1; 0 for a single value */
} summary;

static int compare_numbers(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static summary summarize(const double *values, size_t count)
{
    double sum = 0, squares = 0, sorted[LIST];
    for (size_t i = 0; i < count; i++) {
        sum += values[i];
    }
    const double mean = sum / (double)count;
    for (size_t i = 0; i < count; i++) {
        squares += (values[i] - mean) * (values[i] - mean);
    }
    memcpy(sorted, values, count * sizeof *values);
    qsort(sorted, count, sizeof *sorted, compare_numbers);
    return (summary){mean, count > 1 ? sqrt(squares / (double)(count - 1)) : 0,
                     (sorted[(count - 1) / 2] + sorted[count / 2]) / 2, sorted[count - 1]};
}

/* What a row's median speed means for the machine. Shares are NAN without roofs. */
typedef struct work {
    double gmac_per_s, gb_per_s;      /* products of linear layers; weights read, for tokens run one at a time */
    double product_share, read_share; /* of the highest roof of the kind of products that most are; of reading */
} work;

static work work_of(const sqf_model_info *info, const table *t, const timed *row)
{
    const sqf_product_counts *p = &row->products;
    const double integer = (double)(p->integer_high + p->integer_low), real = (double)(p->dense + p->floating);
    const double rate = summarize(row->rates, t->repetitions).median;
    const bool one_at_a_time = strcmp(row->test, "decode") == 0;
    const double roof = integer > real ? sqf_bench_roofs_integer(&t->roofs) : t->roofs.float_gmac_per_s;
    work w = {.gmac_per_s = (integer + real) / (double)row->tokens * rate * 1e-9,
              .gb_per_s = one_at_a_time ? (double)info->read_bytes * rate * 1e-9 : NAN,
              .product_share = NAN,
              .read_share = NAN};
    if (t->has_roofs) {
        w.product_share = roof > 0 ? w.gmac_per_s / roof : NAN;
        w.read_share = w.gb_per_s / t->roofs.read_gb_per_s;
    }
    return w;
}

static json_t *roofs_json(const table *t)
{
    if (!t->has_roofs) {
        return json_null();
    }
    json_t *object = json_object(), *integer = json_array();
    json_object_set_new(object, "read_gb_per_s", json_number(t->roofs.read_gb_per_s));
    json_object_set_new(object, "float_gmac_per_s", json_number(t->roofs.float_gmac_per_s));
    for (size_t i = 0; i < t->roofs.integer_count; i++) {
        json_t *roof = json_object();
        json_object_set_new(roof, "name", json_string_or_null(t->roofs.integer[i].name));
        json_object_set_new(roof, "gmac_per_s", json_number(t->roofs.integer[i].gmac_per_s));
        json_array_append_new(integer, roof);
    }
    json_object_set_new(object, "integer", integer);
    return object;
}

/* Every repetition too, so that a reader can take another average. */
static json_t *row_json(const sqf_model_info *info, const table *t, const timed *row)
{
    const summary s = summarize(row->rates, t->repetitions);
    const work w = work_of(info, t, row);
    json_t *object = json_object(), *rates = json_array();
    for (size_t i = 0; i < t->repetitions; i++) {
        json_array_append_new(rates, json_number(row->rates[i]));
    }
    json_object_set_new(object, "test", json_string(row->test));
    json_object_set_new(object, "tokens", json_count(row->tokens));
    json_object_set_new(object, "depth", json_count(row->depth));
    json_object_set_new(object, "tokens_per_s", rates);
    const json_figure figures[] = {
        {"mean", s.mean},
        {"deviation", s.deviation},
        {"median", s.median},
        {"best", s.best},
        {"gmac_per_s", w.gmac_per_s},
        {"gb_per_s", w.gb_per_s},
        {"product_share", w.product_share},
        {"read_share", w.read_share},
    };
    json_set_numbers(object, figures, sizeof figures / sizeof *figures);
    json_object_set_new(object, "products", json_products(&row->products));
    return object;
}

static json_t *table_json(const sqf_context *context, const sqf_model *model, const table *t)
{
    const sqf_model_info info = sqf_model_info_get(model);
    json_t *object = json_object(), *rows = json_array();
    for (size_t i = 0; i < t->count; i++) {
        json_array_append_new(rows, row_json(&info, t, &t->rows[i]));
    }
    json_object_set_new(object, "model", json_string_or_null(info.directory));
    json_object_set_new(object, "architecture", json_string_or_null(info.architecture));
    json_object_set_new(object, "scheme", json_string_or_null(info.scheme));
    json_object_set_new(object, "parameters", json_count(info.parameters));
    json_object_set_new(object, "bits_per_weight", json_number(info.bits_per_weight));
    json_object_set_new(object, "weight_bytes", json_count(info.weight_bytes));
    json_object_set_new(object, "read_bytes", json_count(info.read_bytes));
    json_object_set_new(object, "repetitions", json_count(t->repetitions));
    json_object_set_new(object, "results", rows);
    json_object_set_new(object, "roofs", roofs_json(t));
    json_object_set_new(object, "cpu", json_string_or_null(t->cpu));
    json_object_set_new(object, "cpu_level", json_string(sqf_context_cpu(context)));
    json_object_set_new(object, "threads", json_integer(sqf_context_threads(context)));
    json_object_set_new(object, "version", json_string(sqf_version()));
    return object;
}

static void print_roofs(const sqf_bench_roofs *roofs)
{
    printf("roofs: read %.1f GB/s, float32 %.1f GMAC/s", roofs->read_gb_per_s, roofs->float_gmac_per_s);
    for (size_t i = 0; i < roofs->integer_count; i++) {
        printf(", %s %.0f GMAC/s", roofs->integer[i].name, roofs->integer[i].gmac_per_s);
    }
    putchar('\n');
}

/* A column of the table; "-" for what does not apply. */
static void print_cell(int width, int digits, double value, const char *unit)
{
    if (isfinite(value)) {
        printf("  %*.*f%s", width - (int)strlen(unit), digits, value, unit);
    } else {
        printf("  %*s", width, "-");
    }
}

static void print_row(const sqf_model_info *info, const table *t, const timed *row)
{
    const summary s = summarize(row->rates, t->repetitions);
    const work w = work_of(info, t, row);
    printf("%-8s %6zu tokens %6zu before  %10.2f +- %-8.2f", row->test, row->tokens, row->depth, s.mean, s.deviation);
    print_cell(10, 2, s.median, "");
    print_cell(10, 2, s.best, "");
    print_cell(8, 1, w.gmac_per_s, "");
    print_cell(8, 2, w.gb_per_s, "");
    if (t->has_roofs) {
        print_cell(8, 1, 100 * w.product_share, "%");
        print_cell(8, 1, 100 * w.read_share, "%");
    }
    putchar('\n');
}

static void print_table(const sqf_context *context, const sqf_model *model, const table *t)
{
    const sqf_model_info info = sqf_model_info_get(model);
    char bytes[32];
    format_bytes(info.weight_bytes, bytes);
    printf("%s: %s, %s, %.2f bits a weight\n", info.directory, info.scheme, bytes, info.bits_per_weight);
    printf("%s, kernels %s, %u thread%s, %zu repetition%s\n", t->cpu, sqf_context_cpu(context),
           sqf_context_threads(context), sqf_context_threads(context) == 1 ? "" : "s", t->repetitions,
           t->repetitions == 1 ? "" : "s");
    if (t->has_roofs) {
        print_roofs(&t->roofs);
    }
    printf("%-36s  %-22s  %10s  %10s  %8s  %8s%s\n", "", "  tokens/s, mean", "median", "best", "GMAC/s", "GB/s",
           t->has_roofs ? "   of roof  of read" : "");
    for (size_t i = 0; i < t->count; i++) {
        print_row(&info, t, &t->rows[i]);
    }
}

/* Takes the rates over. */
static void add_row(table *t, const char *test, size_t tokens, size_t depth, const double *rates,
                    const sqf_product_counts *products)
{
    if (rates) {
        timed *row = &t->rows[t->count++];
        *row = (timed){.test = test, .tokens = tokens, .depth = depth, .products = *products};
        memcpy(row->rates, rates, t->repetitions * sizeof *rates);
    }
}

/* Each depth is computed once for a prefill and a decode together. */
static sqf_status time_all(sqf_context *context, const sqf_model *model, const counts *prefill, const counts *decode,
                           const counts *depths, table *t, sqf_error *err)
{
    const size_t longer = prefill->count > decode->count ? prefill->count : decode->count;
    for (size_t d = 0; d < depths->count; d++) {
        for (size_t i = 0; i < longer; i++) {
            const sqf_bench_options options = {.prefill = i < prefill->count ? prefill->values[i] : 0,
                                               .decode = i < decode->count ? decode->values[i] : 0,
                                               .repetitions = t->repetitions,
                                               .depth = depths->values[d]};
            if (options.prefill == 0 && options.decode == 0) {
                continue;
            }
            sqf_bench_result result;
            const sqf_status status = sqf_bench_run(context, model, &options, &result, err);
            if (status != SQF_OK) {
                return status;
            }
            memcpy(t->cpu, result.cpu, sizeof t->cpu);
            add_row(t, "prefill", options.prefill, options.depth, result.prefill_tokens_per_s,
                    &result.prefill_products);
            add_row(t, "decode", options.decode, options.depth, result.decode_tokens_per_s, &result.decode_products);
            sqf_bench_result_clear(&result);
        }
    }
    return SQF_OK;
}

/* Whole numbers of 0 to TOKENS_MOST, separated by commas. EXIT_DONE or the code after a message. */
static int read_counts(const cli_arguments *arguments, const char *name, counts *out)
{
    const char *text = arguments_text(arguments, name);
    *out = (counts){0};
    for (const char *at = text;; at++) { /* over each comma */
        char *end;
        const unsigned long long value = strtoull(at, &end, 10);
        if (*at < '0' || *at > '9' || (*end != '\0' && *end != ',') || value > TOKENS_MOST || out->count == LIST) {
            return fail_usage("--%s %s: expected up to %d whole numbers from 0 to %d, separated by commas", name, text,
                              LIST, TOKENS_MOST);
        }
        out->values[out->count++] = (size_t)value;
        if (*end == '\0') {
            return EXIT_DONE;
        }
        at = end;
    }
}

static bool is_zero(const counts *list)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->values[i] > 0) {
            return false;
        }
    }
    return true;
}

/* The library is asked only after the command line is known to make sense: opening a model may take a while. */
static int run_bench(const cli_arguments *arguments)
{
    counts prefill, decode, depths;
    int code = read_counts(arguments, "prefill", &prefill);
    code = code == EXIT_DONE ? read_counts(arguments, "decode", &decode) : code;
    code = code == EXIT_DONE ? read_counts(arguments, "depth", &depths) : code;
    if (code != EXIT_DONE) {
        return code;
    }
    if (is_zero(&prefill) && is_zero(&decode)) {
        return fail_usage("--prefill 0 --decode 0: expected one of them above 0");
    }
    sqf_context *context;
    code = context_open(arguments, &context);
    if (code != EXIT_DONE) {
        return code;
    }
    static table t; /* large, and a command runs once */
    t.repetitions = arguments_count(arguments, "repetitions");
    t.has_roofs = arguments_given(arguments, "roofs");
    sqf_model *model = NULL;
    sqf_error err = {0};
    sqf_status status = sqf_model_open(context, arguments->operands[0], &model, &err);
    if (status == SQF_OK && t.has_roofs) {
        status = sqf_bench_roofs_measure(context, &t.roofs, &err);
    }
    if (status == SQF_OK) {
        status = time_all(context, model, &prefill, &decode, &depths, &t, &err);
    }
    progress_clear();
    if (status != SQF_OK) {
        code = fail_error(&err);
    } else if (arguments_given(arguments, "json")) {
        code = print_json(table_json(context, model, &t));
    } else {
        print_table(context, model, &t);
    }
    sqf_model_destroy(model);
    sqf_context_destroy(context);
    return code;
}

const cli_command *bench_command(void)
{
    static const cli_option options[] = {
        {.name = "prefill",
         .letter = 'p',
         .kind = OPTION_TEXT,
         .value = "N[,N...]",
         .standard = "512",
         .text = "tokens of the prompt, run at once; 0 leaves prefill out"},
        {.name = "decode",
         .letter = 'n',
         .kind = OPTION_TEXT,
         .value = "N[,N...]",
         .standard = "64",
         .text = "tokens run one at a time; 0 leaves decode out"},
        {.name = "depth",
         .letter = 'd',
         .kind = OPTION_TEXT,
         .value = "N[,N...]",
         .standard = "0",
         .text = "tokens in the cache before those that are timed; every length is timed at every depth"},
        {.name = "repetitions",
         .letter = 'r',
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "3",
         .least = 1,
         .most = LIST,
         .text = "times that each is run, after one run that is not counted"},
        {.name = "roofs",
         .kind = OPTION_FLAG,
         .text = "measure also what the threads together read from memory (through huge pages where the system grants "
                 "them) and how many products they make when they do nothing else, and print shares of that; takes two "
                 "seconds and 1 GiB"},
    };
    static const char *const examples[] = {"sqf bench models/demo", "sqf bench demo-sq6 -p 128 -n 32 -r 5 --json",
                                           "sqf bench demo-sq6 -p 16,128,512 -n 64 -d 0,1024 --roofs --threads 2",
                                           NULL};
    static const cli_command command = {
        .name = "bench",
        .operands = "MODEL",
        .least_operands = 1,
        .most_operands = 1,
        .summary = "time prefill and decode",
        .description =
            "Times the model on fixed synthetic tokens, in the manner of llama-bench: prefill runs a prompt at once, "
            "decode runs tokens one at a time. Each step computes the logits of its last token. Prints mean and "
            "standard deviation, median and best of the tokens a second; for the median the products of linear layers "
            "in 10^9 a second, for decode the weights read in 10^9 bytes a second, and with --roofs these as shares of "
            "the highest roof of the products that the scheme has and of the read rate. --json lists every "
            "repetition.\n\n"
            "JSON members: model, architecture, scheme, parameters, bits_per_weight (stored, of the decoder's linear "
            "layers), weight_bytes (stored), read_bytes (of the matrices that each decoded token reads, as the "
            "kernels hold them), repetitions, results (a list: test, tokens, depth, tokens_per_s (a list), mean, "
            "deviation, median, best, gmac_per_s, gb_per_s, product_share, read_share, products), roofs (null, or "
            "read_gb_per_s, float_gmac_per_s, integer: a list of name and gmac_per_s), cpu, cpu_level, threads, "
            "version.",
        .options = options,
        .option_count = sizeof options / sizeof options[0],
        .examples = examples,
        .run = run_bench,
    };
    return &command;
}

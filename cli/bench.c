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
    const char *test;     /* "prefill" or "decode" */
    size_t tokens, depth; /* of one sequence */
    size_t batch;         /* sequences */
    double rates[LIST];   /* tokens a second, one a repetition */
    sqf_product_counts products;
} timed;

/* Everything that is printed. */
typedef struct table {
    timed *rows; /* owned */
    size_t count, repetitions;
    sqf_kv_type kv;
    uint64_t cache_bytes; /* of one position of a sequence */
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
    double gmac_per_s;                /* products of linear layers */
    double gb_per_s;                  /* weights and cache read, for tokens run one at a time */
    double product_share, read_share; /* of the highest roof of the kind of products that most are; of reading */
} work;

/* Read for a token of a decode: the keys and values before it, on average. */
static double cache_bytes(const table *t, const timed *row)
{
    return (double)t->cache_bytes * ((double)row->depth + ((double)row->tokens + 1) / 2);
}

static work work_of(const sqf_model_info *info, const table *t, const timed *row)
{
    const sqf_product_counts *p = &row->products;
    const double integer = (double)(p->integer_high + p->integer_low), real = (double)(p->dense + p->floating);
    const double rate = summarize(row->rates, t->repetitions).median;
    const bool one_at_a_time = strcmp(row->test, "decode") == 0;
    const double roof = integer > real ? sqf_bench_roofs_integer(&t->roofs) : t->roofs.float_gmac_per_s;
    const double bytes = (double)info->read_bytes / (double)row->batch + cache_bytes(t, row);
    work w = {.gmac_per_s = (integer + real) / (double)(row->tokens * row->batch) * rate * 1e-9,
              .gb_per_s = one_at_a_time ? bytes * rate * 1e-9 : NAN,
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
    json_object_set_new(object, "batch", json_count(row->batch));
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
    json_object_set_new(object, "kv", json_string_or_null(sqf_kv_type_name(t->kv)));
    json_object_set_new(object, "cache_bytes", json_count(t->cache_bytes));
    json_object_set_new(object, "repetitions", json_count(t->repetitions));
    json_object_set_new(object, "results", rows);
    json_object_set_new(object, "roofs", roofs_json(t));
    json_object_set_new(object, "cpu", json_string_or_null(t->cpu));
    json_object_set_new(object, "cpu_level", json_string(sqf_context_cpu(context)));
    json_object_set_new(object, "threads", json_integer(sqf_context_threads(context)));
    json_object_set_new(object, "device", json_string_or_null(sqf_context_device(context)));
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
    printf("%-8s %6zu tokens x %-4zu %6zu before  %10.2f +- %-8.2f", row->test, row->tokens, row->batch, row->depth,
           s.mean, s.deviation);
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
    if (context_is_cpu(context)) {
        printf("%s, kernels %s, %u thread%s", t->cpu, sqf_context_cpu(context), sqf_context_threads(context),
               sqf_context_threads(context) == 1 ? "" : "s");
    } else {
        printf("%s", sqf_context_device(context));
    }
    printf(", KV cache %s, %zu repetition%s\n", sqf_kv_type_name(t->kv), t->repetitions,
           t->repetitions == 1 ? "" : "s");
    if (context_is_cpu(context)) {
        print_portable();
    }
    if (t->has_roofs) {
        print_roofs(&t->roofs);
    }
    printf("%-43s  %-22s  %10s  %10s  %8s  %8s%s\n", "", "  tokens/s, mean", "median", "best", "GMAC/s", "GB/s",
           t->has_roofs ? "   of roof  of read" : "");
    for (size_t i = 0; i < t->count; i++) {
        print_row(&info, t, &t->rows[i]);
    }
}

static void add_row(table *t, const timed *row, const double *rates)
{
    if (rates) {
        t->rows[t->count] = *row;
        memcpy(t->rows[t->count++].rates, rates, t->repetitions * sizeof *rates);
    }
}

/* The lists of the command line. */
typedef struct lists {
    counts prefill, decode, depth, batch;
} lists;

/* One call of the library: a prefill or a decode or, to compute the depth once for both, one of each. */
static sqf_status time_one(sqf_context *context, const sqf_model *model, const sqf_bench_options *options, table *t,
                           sqf_error *err)
{
    if (options->prefill == 0 && options->decode == 0) {
        return SQF_OK;
    }
    sqf_bench_result result;
    const sqf_status status = sqf_bench_run(context, model, options, &result, err);
    if (status != SQF_OK) {
        return status;
    }
    memcpy(t->cpu, result.cpu, sizeof t->cpu);
    t->cache_bytes = result.cache_bytes;
    const timed prefill = {"prefill", options->prefill, options->depth, 1, {0}, result.prefill_products};
    const timed decode = {"decode", options->decode, options->depth, options->batch, {0}, result.decode_products};
    add_row(t, &prefill, result.prefill_tokens_per_s);
    add_row(t, &decode, result.decode_tokens_per_s);
    sqf_bench_result_clear(&result);
    return SQF_OK;
}

/* Every prefill at every depth, every decode at every depth with every batch. */
static sqf_status time_all(sqf_context *context, const sqf_model *model, const lists *l, table *t, sqf_error *err)
{
    const size_t decodes = l->decode.count * l->batch.count;
    const size_t longer = l->prefill.count > decodes ? l->prefill.count : decodes;
    t->rows = calloc(2 * longer * l->depth.count, sizeof *t->rows);
    if (!t->rows) {
        snprintf(err->text, sizeof err->text, "bench: out of memory");
        return SQF_E_MEMORY;
    }
    for (size_t d = 0; d < l->depth.count; d++) {
        for (size_t i = 0; i < longer; i++) {
            const sqf_bench_options options = {
                .prefill = i < l->prefill.count ? l->prefill.values[i] : 0,
                .decode = i < decodes ? l->decode.values[i / l->batch.count] : 0,
                .repetitions = t->repetitions,
                .depth = l->depth.values[d],
                .batch = i < decodes ? l->batch.values[i % l->batch.count] : 1,
                .kv = t->kv,
            };
            const sqf_status status = time_one(context, model, &options, t, err);
            if (status != SQF_OK) {
                return status;
            }
        }
    }
    return SQF_OK;
}

/* Whole numbers of `least` to TOKENS_MOST, separated by commas. EXIT_DONE or the code after a message. */
static int read_counts(const cli_arguments *arguments, const char *name, size_t least, counts *out)
{
    const char *text = arguments_text(arguments, name);
    *out = (counts){0};
    for (const char *at = text;; at++) { /* over each comma */
        char *end;
        const unsigned long long value = strtoull(at, &end, 10);
        if (*at < '0' || *at > '9' || (*end != '\0' && *end != ',') || value < least || value > TOKENS_MOST ||
            out->count == LIST) {
            return fail_usage("--%s %s: expected up to %d whole numbers from %zu to %d, separated by commas", name,
                              text, LIST, least, TOKENS_MOST);
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

static int read_lists(const cli_arguments *arguments, lists *out)
{
    int code = read_counts(arguments, "prefill", 0, &out->prefill);
    code = code == EXIT_DONE ? read_counts(arguments, "decode", 0, &out->decode) : code;
    code = code == EXIT_DONE ? read_counts(arguments, "depth", 0, &out->depth) : code;
    code = code == EXIT_DONE ? read_counts(arguments, "batch", 1, &out->batch) : code;
    if (code == EXIT_DONE && is_zero(&out->prefill) && is_zero(&out->decode)) {
        code = fail_usage("--prefill 0 --decode 0: expected one of them above 0");
    }
    return code;
}

/* What memory is planned by: the largest of everything that is timed. */
static sqf_model_use use_of(const lists *l, sqf_kv_type kv)
{
    sqf_model_use use = {.kv = kv};
    size_t longest = 0, depth = 0;
    for (size_t i = 0; i < LIST; i++) {
        longest = i < l->prefill.count && l->prefill.values[i] > longest ? l->prefill.values[i] : longest;
        longest = i < l->decode.count && l->decode.values[i] > longest ? l->decode.values[i] : longest;
        depth = i < l->depth.count && l->depth.values[i] > depth ? l->depth.values[i] : depth;
        use.sessions = i < l->batch.count && l->batch.values[i] > use.sessions ? l->batch.values[i] : use.sessions;
    }
    use.positions = longest + depth;
    return use;
}

/* The library is asked only after the command line is known to make sense: opening a model may take a while. */
static int run_bench(const cli_arguments *arguments)
{
    lists l;
    int code = read_lists(arguments, &l);
    if (code != EXIT_DONE) {
        return code;
    }
    sqf_context *context;
    code = context_open(arguments, &context);
    if (code != EXIT_DONE) {
        return code;
    }
    table t = {.repetitions = arguments_count(arguments, "repetitions"),
               .kv = (sqf_kv_type)arguments_choice(arguments, "kv"),
               .has_roofs = arguments_given(arguments, "roofs")};
    if (t.has_roofs && !context_is_cpu(context)) {
        sqf_context_destroy(context);
        return fail_usage("--roofs: those of the CPU, expected without --device");
    }
    sqf_model *model = NULL;
    sqf_error err = {0};
    const sqf_model_use use = use_of(&l, t.kv);
    sqf_status status = sqf_model_open_for(context, arguments->operands[0], &use, &model, &err);
    if (status == SQF_OK && t.has_roofs) {
        status = sqf_bench_roofs_measure(context, &t.roofs, &err);
    }
    if (status == SQF_OK) {
        status = time_all(context, model, &l, &t, &err);
    }
    progress_clear();
    if (status != SQF_OK) {
        code = fail_error(&err);
    } else if (arguments_given(arguments, "json")) {
        code = print_json(table_json(context, model, &t));
    } else {
        print_table(context, model, &t);
    }
    free(t.rows);
    sqf_model_destroy(model);
    sqf_context_destroy(context);
    return code;
}

const cli_command *bench_command(void)
{
    static const char *const kv_types[] = {"f32", "f16", "int8", NULL}; /* in the order of sqf_kv_type */
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
        {.name = "batch",
         .letter = 'b',
         .kind = OPTION_TEXT,
         .value = "N[,N...]",
         .standard = "1",
         .text = "sequences that are decoded together, each with the depth and the tokens asked for"},
        {.name = "kv", .kind = OPTION_CHOICE, .standard = "f16", .choices = kv_types, .text = "type of the KV cache"},
        DEVICE_OPTION,
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
    static const char *const examples[] = {"sqf bench models/demo",
                                           "sqf bench demo-sq6 -p 128 -n 32 -r 5 --json",
                                           "sqf bench demo-sq6 -p 16,128,512 -d 0,1024 --roofs --threads 2",
                                           "sqf bench demo-sq6 -p 0 -n 32 -b 1,4,16 --kv int8",
                                           "sqf bench MODEL -p 512,2048 -b 1,16 --device cuda",
                                           NULL};
    static const cli_command command = {
        .name = "bench",
        .operands = "MODEL",
        .least_operands = 1,
        .most_operands = 1,
        .summary = "time prefill and decode",
        .description =
            "Times the model on fixed synthetic tokens, in the manner of llama-bench: prefill runs a prompt at once, "
            "decode runs tokens one at a time, of one sequence or of a batch (tokens x sequences). Each step computes "
            "the logits of its last token. Prints mean and "
            "standard deviation, median and best of the tokens a second; for the median the products of linear layers "
            "in 10^9 a second, for decode the weights and the cache read in 10^9 bytes a second, and with --roofs "
            "these as shares of "
            "the highest roof of the products that the scheme has and of the read rate. --json lists every "
            "repetition.\n\n"
            "JSON members: model, architecture, scheme, parameters, bits_per_weight (stored, of the decoder's linear "
            "layers), weight_bytes (stored), read_bytes (of the matrices that each decoded token reads, as the "
            "kernels hold them), kv, cache_bytes (of a position of a sequence), repetitions, results (a list: test, "
            "tokens, depth, batch, tokens_per_s (a list), mean, "
            "deviation, median, best, gmac_per_s, gb_per_s, product_share, read_share, products), roofs (null, or "
            "read_gb_per_s, float_gmac_per_s, integer: a list of name and gmac_per_s), cpu, cpu_level, threads, "
            "device, version.",
        .options = options,
        .option_count = sizeof options / sizeof options[0],
        .examples = examples,
        .run = run_bench,
    };
    return &command;
}

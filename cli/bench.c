/* sqf bench: prefill and decode speed, in the manner of llama-bench. Opens the model, lets the library time it
 * (sqf/bench.h) and prints; speeds of several models in one table are sqf survey's business. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include <sqf/bench.h>

#include "command.h"
#include "output.h"

/* Mean and standard deviation (with n - 1; 0 for a single value) of the repetitions. */
typedef struct summary {
    double mean, deviation;
} summary;

static summary summarize(const double *values, size_t count)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < count; i++) {
        sum += values[i];
    }
    const double mean = sum / (double)count;
    for (size_t i = 0; i < count; i++) {
        squares += (values[i] - mean) * (values[i] - mean);
    }
    return (summary){mean, count > 1 ? sqrt(squares / (double)(count - 1)) : 0};
}

/* Every repetition, so that a reader can take another average; empty for what was not timed. */
static json_t *rates_json(const double *rates, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; rates && i < count; i++) {
        json_array_append_new(array, json_number(rates[i]));
    }
    return array;
}

static json_t *result_json(const sqf_context *context, const sqf_model *model, const sqf_bench_options *options,
                           const sqf_bench_result *result)
{
    const sqf_model_info info = sqf_model_info_get(model);
    json_t *object = json_object();
    json_object_set_new(object, "model", json_string_or_null(info.directory));
    json_object_set_new(object, "architecture", json_string_or_null(info.architecture));
    json_object_set_new(object, "scheme", json_string_or_null(info.scheme));
    json_object_set_new(object, "parameters", json_count(info.parameters));
    json_object_set_new(object, "bits_per_weight", json_number(info.bits_per_weight));
    json_object_set_new(object, "weight_bytes", json_count(info.weight_bytes));
    json_object_set_new(object, "prefill", json_count(options->prefill));
    json_object_set_new(object, "decode", json_count(options->decode));
    json_object_set_new(object, "repetitions", json_count(result->repetitions));
    json_object_set_new(object, "prefill_tokens_per_s", rates_json(result->prefill_tokens_per_s, result->repetitions));
    json_object_set_new(object, "decode_tokens_per_s", rates_json(result->decode_tokens_per_s, result->repetitions));
    json_object_set_new(object, "prefill_products", json_products(&result->prefill_products));
    json_object_set_new(object, "decode_products", json_products(&result->decode_products));
    json_object_set_new(object, "cpu", json_string_or_null(result->cpu));
    json_object_set_new(object, "cpu_level", json_string(sqf_context_cpu(context)));
    json_object_set_new(object, "threads", json_integer(sqf_context_threads(context)));
    json_object_set_new(object, "version", json_string(sqf_version()));
    return object;
}

static void print_rates(const char *name, size_t tokens, const double *rates, size_t repetitions)
{
    if (rates) {
        const summary s = summarize(rates, repetitions);
        printf("%-8s %6zu tokens  %10.2f +- %.2f tokens/s\n", name, tokens, s.mean, s.deviation);
    }
}

static void print_result(const sqf_context *context, const sqf_model *model, const sqf_bench_options *options,
                         const sqf_bench_result *result)
{
    const sqf_model_info info = sqf_model_info_get(model);
    char bytes[32];
    format_bytes(info.weight_bytes, bytes);
    printf("%s: %s, %s, %.2f bits a weight\n", info.directory, info.scheme, bytes, info.bits_per_weight);
    printf("%s, kernels %s, %u thread%s, %zu repetitions\n", result->cpu, sqf_context_cpu(context),
           sqf_context_threads(context), sqf_context_threads(context) == 1 ? "" : "s", result->repetitions);
    print_rates("prefill", options->prefill, result->prefill_tokens_per_s, result->repetitions);
    print_rates("decode", options->decode, result->decode_tokens_per_s, result->repetitions);
}

/* The library is asked only after the command line is known to make sense: opening a model may take a while. */
static int run_bench(const cli_arguments *arguments)
{
    sqf_bench_options options = sqf_bench_options_default();
    options.prefill = arguments_count(arguments, "prefill");
    options.decode = arguments_count(arguments, "decode");
    options.repetitions = arguments_count(arguments, "repetitions");
    if (options.prefill == 0 && options.decode == 0) {
        return fail_usage("--prefill 0 --decode 0: expected one of them above 0");
    }
    sqf_context *context;
    int code = context_open(arguments, &context);
    if (code != EXIT_DONE) {
        return code;
    }
    sqf_model *model = NULL;
    sqf_bench_result result = {0};
    sqf_error err = {0};
    sqf_status status = sqf_model_open(context, arguments->operands[0], &model, &err);
    if (status == SQF_OK) {
        status = sqf_bench_run(context, model, &options, &result, &err);
    }
    progress_clear();
    if (status != SQF_OK) {
        code = fail_error(&err);
    } else if (arguments_given(arguments, "json")) {
        code = print_json(result_json(context, model, &options, &result));
    } else {
        print_result(context, model, &options, &result);
    }
    sqf_bench_result_clear(&result);
    sqf_model_destroy(model);
    sqf_context_destroy(context);
    return code;
}

const cli_command *bench_command(void)
{
    static const cli_option options[] = {
        {.name = "prefill",
         .letter = 'p',
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "512",
         .most = 1 << 24,
         .text = "tokens of the prompt, run at once; 0 leaves prefill out"},
        {.name = "decode",
         .letter = 'n',
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "64",
         .most = 1 << 24,
         .text = "tokens run one at a time after an empty prompt; 0 leaves decode out"},
        {.name = "repetitions",
         .letter = 'r',
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "3",
         .least = 1,
         .most = 10000,
         .text = "times that each is run, after one run that is not counted"},
    };
    static const char *const examples[] = {"sqf bench models/demo", "sqf bench demo-sq6 -p 128 -n 32 -r 5 --json",
                                           NULL};
    static const cli_command command = {
        .name = "bench",
        .operands = "MODEL",
        .least_operands = 1,
        .most_operands = 1,
        .summary = "time prefill and decode",
        .description =
            "Times the model on fixed synthetic tokens, in the manner of llama-bench: prefill runs a prompt at once, "
            "decode runs tokens one at a time from an empty cache. Prints mean and standard deviation in tokens a "
            "second; "
            "--json lists every repetition.\n\n"
            "JSON members: model, architecture, scheme, parameters, bits_per_weight (stored, of the decoder's linear "
            "layers), weight_bytes, prefill, decode, repetitions, prefill_tokens_per_s and decode_tokens_per_s "
            "(lists), "
            "prefill_products, decode_products, cpu, cpu_level, threads, version.",
        .options = options,
        .option_count = sizeof options / sizeof options[0],
        .examples = examples,
        .run = run_bench,
    };
    return &command;
}

/* sqf eval: perplexity of a model on a text, and its distance from a reference model. What the figures mean stands in
 * sqf/eval.h and, for users, in the description below. */
#include <inttypes.h>
#include <stdio.h>

#include <sqf/eval.h>

#include "command.h"
#include "output.h"

/* Everything that is open while the command runs. */
typedef struct evaluation {
    sqf_context *context;
    sqf_tokenizer *tokenizer;
    sqf_model *model, *reference;
    sqf_eval_options options;
    sqf_eval_result result;
} evaluation;

/* The same members for the model, at the outer level, and for the reference, in an object of its own. */
static void add_score(json_t *object, const sqf_eval_score *score)
{
    json_object_set_new(object, "perplexity", json_number(score->perplexity));
    json_object_set_new(object, "perplexity_error", json_number(score->perplexity_error));
    json_object_set_new(object, "nll", json_number(score->nll));
    json_object_set_new(object, "nll_sum", json_number(score->nll_sum));
    json_object_set_new(object, "seconds", json_number(score->seconds));
    json_object_set_new(object, "tokens_per_s", json_number(score->tokens_per_s));
    json_object_set_new(object, "products", json_products(&score->products));
}

/* Members that exist with a reference only. */
static void add_comparison(json_t *object, const evaluation *e, const cli_arguments *arguments)
{
    const sqf_eval_result *result = &e->result;
    json_object_set_new(object, "kl", json_number(result->kl));
    json_object_set_new(object, "kl_error", json_number(result->kl_error));
    json_object_set_new(object, "kl_max", json_number(result->kl_max));
    json_object_set_new(object, "same_top", json_number(result->same_top));
    json_object_set_new(object, "ratio", json_number(result->ratio));
    json_object_set_new(object, "ratio_error", json_number(result->ratio_error));
    json_object_set_new(object, "difference", json_number(result->difference));
    json_object_set_new(object, "difference_error", json_number(result->difference_error));
    json_t *reference = json_object();
    json_object_set_new(reference, "model", json_string_or_null(arguments_text(arguments, "reference")));
    json_object_set_new(reference, "scheme", json_string_or_null(sqf_model_info_get(e->reference).scheme));
    add_score(reference, &result->reference);
    json_object_set_new(object, "reference", reference);
}

static json_t *result_json(const evaluation *e, const cli_arguments *arguments)
{
    const sqf_eval_result *result = &e->result;
    json_t *object = json_object();
    json_object_set_new(object, "model", json_string_or_null(arguments->operands[0]));
    json_object_set_new(object, "scheme", json_string_or_null(sqf_model_info_get(e->model).scheme));
    json_object_set_new(object, "text", json_string_or_null(arguments_text(arguments, "text")));
    json_object_set_new(object, "windowing", json_string(arguments_text(arguments, "windowing")));
    json_object_set_new(object, "window", json_count(result->tokens / result->windows));
    json_object_set_new(object, "windows", json_count(result->windows));
    json_object_set_new(object, "tokens", json_count(result->tokens));
    json_object_set_new(object, "scored_tokens", json_count(result->scored_tokens));
    json_object_set_new(object, "scored_bytes", json_count(result->scored_bytes));
    add_score(object, &result->model);
    json_object_set_new(object, "perplexity_per_byte", json_number(result->perplexity_per_byte));
    json_object_set_new(object, "threads", json_integer(sqf_context_threads(e->context)));
    json_object_set_new(object, "cpu_level", json_string(sqf_context_cpu(e->context)));
    if (result->compared) {
        add_comparison(object, e, arguments);
    }
    return object;
}

/* A path that computed nothing is left out. */
static void print_share(const char *name, uint64_t count, uint64_t total)
{
    if (count > 0) {
        printf(" %s %.1f %%", name, 100.0 * (double)count / (double)total);
    }
}

static void print_products(const sqf_product_counts *counts)
{
    const uint64_t total =
        counts->dense + counts->floating + counts->integer_high + counts->integer_low + counts->dropped;
    printf("products      ");
    print_share("dense", counts->dense, total);
    print_share("float", counts->floating, total);
    print_share("integer", counts->integer_high, total);
    print_share("integer at the low rate", counts->integer_low, total);
    print_share("dropped", counts->dropped, total);
    putchar('\n');
}

static void print_result(const evaluation *e, const cli_arguments *arguments)
{
    const sqf_eval_result *result = &e->result;
    printf("model          %s (%s)\n", arguments->operands[0], sqf_model_info_get(e->model).scheme);
    printf("text           %s: %zu tokens in %zu window%s of %zu, %zu scored\n", arguments_text(arguments, "text"),
           result->tokens, result->windows, result->windows == 1 ? "" : "s", result->tokens / result->windows,
           result->scored_tokens);
    printf("perplexity     %.4f +- %.4f (nll %.6f, perplexity per byte %.4f)\n", result->model.perplexity,
           result->model.perplexity_error, result->model.nll, result->perplexity_per_byte);
    printf("speed          %.4g tokens/s, %.2f s\n", result->model.tokens_per_s, result->model.seconds);
    print_products(&result->model.products);
    if (!result->compared) {
        return;
    }
    printf("reference      %s (%s): perplexity %.4f +- %.4f\n", arguments_text(arguments, "reference"),
           sqf_model_info_get(e->reference).scheme, result->reference.perplexity, result->reference.perplexity_error);
    printf("ratio          %.5f +- %.5f\n", result->ratio, result->ratio_error);
    printf("difference     %.4f +- %.4f\n", result->difference, result->difference_error);
    printf("mean KL        %.6f +- %.6f (largest %.4f)\n", result->kl, result->kl_error, result->kl_max);
    printf("same top token %.2f %%\n", 100 * result->same_top);
}

/* The tokenizer first: it is read in no time, and without one there is nothing to evaluate. */
static sqf_status evaluate(evaluation *e, const cli_arguments *arguments, sqf_error *err)
{
    const char *reference = arguments_text(arguments, "reference");
    sqf_status status = sqf_tokenizer_load(arguments->operands[0], &e->tokenizer, err);
    if (status == SQF_OK) {
        status = sqf_model_open(e->context, arguments->operands[0], &e->model, err);
    }
    if (status == SQF_OK && reference) {
        status = sqf_model_open(e->context, reference, &e->reference, err);
    }
    if (status == SQF_OK) {
        status = sqf_eval_file(e->context, e->model, e->reference, e->tokenizer, arguments_text(arguments, "text"),
                               &e->options, &e->result, err);
    }
    return status;
}

static int run_eval(const cli_arguments *arguments)
{
    evaluation e = {.options = sqf_eval_options_default()};
    e.options.window = arguments_count(arguments, "window");
    e.options.max_tokens = arguments_count(arguments, "max-tokens");
    e.options.windowing = (sqf_windowing)arguments_choice(arguments, "windowing");
    e.options.special = arguments_given(arguments, "special");
    int code = context_open(arguments, &e.context);
    if (code != EXIT_DONE) {
        return code;
    }
    sqf_error err = {0};
    if (evaluate(&e, arguments, &err) != SQF_OK) {
        code = fail_error(&err);
    } else if (arguments_given(arguments, "json")) {
        code = print_json(result_json(&e, arguments));
    } else {
        progress_clear();
        print_result(&e, arguments);
    }
    sqf_model_destroy(e.reference);
    sqf_model_destroy(e.model);
    sqf_tokenizer_destroy(e.tokenizer);
    sqf_context_destroy(e.context);
    return code;
}

const cli_command *eval_command(void)
{
    /* in the order of sqf_windowing */
    static const char *const windowings[] = {"standard", "llama.cpp", NULL};
    static const cli_option options[] = {
        {.name = "text", .kind = OPTION_TEXT, .required = true, .value = "FILE", .text = "the text to score"},
        {.name = "window",
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "2048",
         .least = 3,
         .most = 1 << 24,
         .text = "tokens a window; at most the model's positions"},
        {.name = "max-tokens",
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "0",
         .most = SIZE_MAX,
         .text = "score only the first N tokens of the text; 0 means all"},
        {.name = "reference",
         .kind = OPTION_TEXT,
         .value = "MODEL",
         .text = "compare with this model, which has the same vocabulary; both run window by window"},
        {.name = "windowing",
         .kind = OPTION_CHOICE,
         .standard = "standard",
         .choices = windowings,
         .text = "which tokens are scored, see above"},
        {.name = "special",
         .text = "encode the text with the special tokens that the tokenizer prescribes; implied by llama.cpp"},
    };
    static const char *const examples[] = {
        "sqf eval models/demo --text models/demo/text/eval.txt --window 512",
        "sqf eval demo-sq6 --reference models/demo --text models/demo/text/eval.txt --window 512 --json", NULL};
    static const cli_command command = {
        .name = "eval",
        .operands = "MODEL",
        .least_operands = 1,
        .most_operands = 1,
        .summary = "measure perplexity, and the distance from a reference model",
        .description =
            "Encodes the text without special tokens and cuts it into consecutive windows that do not overlap; each "
            "runs "
            "alone from position 0. Windowing standard scores every token of a window from its second on. Windowing "
            "llama.cpp does as llama-perplexity: the text is encoded with special tokens, the token that this puts in "
            "front (BOS) replaces the first one of each window too, and tokens from N / 2 + 1 on are scored. The two "
            "figures cannot be compared with each other. An incomplete last window is left out; in the standard "
            "windowing a text shorter than one window is one window.\n\n"
            "Prints the perplexity exp(nll) with its standard error, nll being the mean negative natural "
            "log-probability "
            "of a scored token, and the perplexity per byte exp(nll_sum / bytes of the scored tokens). With a "
            "reference: "
            "the ratio and the difference of the two perplexities with standard errors of the paired difference, the "
            "mean KL divergence of the next token's distribution from the reference's, and the share of tokens where "
            "both models hold the same token most probable. The line of products tells by which path the "
            "multiply-accumulates of the linear layers were computed.\n\n"
            "JSON members: model, scheme, text, windowing, window, windows, tokens, scored_tokens, scored_bytes, "
            "perplexity, perplexity_error, nll, nll_sum, perplexity_per_byte, seconds, tokens_per_s, products, "
            "threads, "
            "cpu_level; with a reference also kl, kl_error, kl_max, same_top, ratio, ratio_error, difference, "
            "difference_error, reference.",
        .options = options,
        .option_count = sizeof options / sizeof options[0],
        .examples = examples,
        .run = run_eval,
    };
    return &command;
}

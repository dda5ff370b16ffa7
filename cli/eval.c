/* sqf eval: perplexity of a model on a text, and its distance from a reference model. What the figures mean stands in
 * sqf/eval.h and, for users, in the description below. */
#include <inttypes.h>
#include <stdio.h>

#include <sqf/eval.h>

#include "command.h"
#include "eval_tasks.h"

/* Everything that is open while the command runs. */
typedef struct evaluation {
    eval_models models;
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
    json_object_set_new(reference, "scheme", json_string_or_null(sqf_model_info_get(e->models.reference).scheme));
    add_score(reference, &result->reference);
    json_object_set_new(object, "reference", reference);
}

static json_t *result_json(const evaluation *e, const cli_arguments *arguments)
{
    const sqf_eval_result *result = &e->result;
    json_t *object = json_object();
    json_object_set_new(object, "model", json_string_or_null(arguments->operands[0]));
    json_object_set_new(object, "scheme", json_string_or_null(sqf_model_info_get(e->models.model).scheme));
    json_object_set_new(object, "text", json_string_or_null(arguments_text(arguments, "text")));
    json_object_set_new(object, "windowing", json_string(arguments_text(arguments, "windowing")));
    json_object_set_new(object, "kv", json_string(arguments_text(arguments, "kv")));
    json_object_set_new(object, "window", json_count(result->tokens / result->windows));
    json_object_set_new(object, "windows", json_count(result->windows));
    json_object_set_new(object, "tokens", json_count(result->tokens));
    json_object_set_new(object, "scored_tokens", json_count(result->scored_tokens));
    json_object_set_new(object, "scored_bytes", json_count(result->scored_bytes));
    add_score(object, &result->model);
    json_object_set_new(object, "perplexity_per_byte", json_number(result->perplexity_per_byte));
    json_object_set_new(object, "threads", json_integer(sqf_context_threads(e->models.context)));
    json_object_set_new(object, "cpu_level", json_string(sqf_context_cpu(e->models.context)));
    json_object_set_new(object, "device", json_string_or_null(sqf_context_device(e->models.context)));
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
    printf("model          %s (%s)\n", arguments->operands[0], sqf_model_info_get(e->models.model).scheme);
    if (!context_is_cpu(e->models.context)) {
        printf("device         %s\n", sqf_context_device(e->models.context));
    }
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
           sqf_model_info_get(e->models.reference).scheme, result->reference.perplexity,
           result->reference.perplexity_error);
    printf("ratio          %.5f +- %.5f\n", result->ratio, result->ratio_error);
    printf("difference     %.4f +- %.4f\n", result->difference, result->difference_error);
    printf("mean KL        %.6f +- %.6f (largest %.4f)\n", result->kl, result->kl_error, result->kl_max);
    printf("same top token %.2f %%\n", 100 * result->same_top);
}

/* The tokenizer first: it is read in no time, and without one there is nothing to evaluate. */
static sqf_status open_models(const cli_arguments *arguments, eval_models *models, sqf_error *err)
{
    const char *reference = arguments_text(arguments, "reference");
    const bool windows = arguments_given(arguments, "text") && !arguments_given(arguments, "generation");
    const sqf_model_use use = {.positions = windows ? arguments_count(arguments, "window") : 0,
                               .kv = (sqf_kv_type)arguments_choice(arguments, "kv")};
    const sqf_model_use use_of_reference = {.positions = use.positions};
    sqf_status status = sqf_tokenizer_load(arguments->operands[0], &models->tokenizer, err);
    if (status == SQF_OK) {
        status = sqf_model_open_for(models->context, arguments->operands[0], &use, &models->model, err);
    }
    if (status == SQF_OK && reference) {
        status = sqf_model_open_for(models->context, reference, &use_of_reference, &models->reference, err);
    }
    return status;
}

static int run_text(const cli_arguments *arguments, evaluation *e)
{
    sqf_error err = {0};
    e->options.window = arguments_count(arguments, "window");
    e->options.max_tokens = arguments_count(arguments, "max-tokens");
    e->options.windowing = (sqf_windowing)arguments_choice(arguments, "windowing");
    e->options.special = arguments_given(arguments, "special");
    e->options.kv = (sqf_kv_type)arguments_choice(arguments, "kv");
    if (sqf_eval_file(e->models.context, e->models.model, e->models.reference, e->models.tokenizer,
                      arguments_text(arguments, "text"), &e->options, &e->result, &err) != SQF_OK) {
        return fail_error(&err);
    }
    if (arguments_given(arguments, "json")) {
        return print_json(result_json(e, arguments));
    }
    progress_clear();
    print_result(e, arguments);
    return EXIT_DONE;
}

/* An option that belongs to another kind of evaluation is a mistake, not to be passed over. */
static int check_kind(const cli_arguments *arguments, bool tasks, bool generation)
{
    static const char *const of_tasks[] = {"task-file", "items", "resume", "limit", "few-shot", "max-new", NULL};
    static const char *const of_text[] = {"window", "max-tokens", "windowing", "special", NULL};
    const char *const *others[] = {tasks ? NULL : of_tasks, tasks || generation ? of_text : NULL};
    const bool text = arguments_given(arguments, "text");
    if (arguments->operand_count < 1) {
        return fail_usage("eval: expected MODEL, see sqf eval --help");
    }
    if (!tasks && arguments->operand_count > 1) {
        return fail_usage("%s: unexpected, usage: sqf eval MODEL [options]", arguments->operands[1]);
    }
    if (!tasks && !text) {
        return fail_usage("eval: --text is missing, see sqf eval --help");
    }
    if (tasks && text) {
        return fail_usage("--text: expected without --tasks, see sqf eval --help");
    }
    if (generation && (tasks || !arguments_given(arguments, "reference"))) {
        return fail_usage("--generation: expected with --text and --reference");
    }
    for (size_t kind = 0; kind < 2; kind++) {
        for (size_t i = 0; others[kind] && others[kind][i]; i++) {
            if (arguments_given(arguments, others[kind][i])) {
                return fail_usage("--%s: not an option of this kind of evaluation", others[kind][i]);
            }
        }
    }
    return EXIT_DONE;
}

static int run_eval(const cli_arguments *arguments)
{
    if (arguments_given(arguments, "list-tasks")) {
        return print_task_list(arguments);
    }
    const bool tasks = arguments_given(arguments, "tasks"), generation = arguments_given(arguments, "generation");
    evaluation e = {.options = sqf_eval_options_default()};
    int code = check_kind(arguments, tasks, generation);
    if (code != EXIT_DONE) {
        return code;
    }
    code = context_open(arguments, &e.models.context);
    if (code != EXIT_DONE) {
        return code;
    }
    sqf_error err = {0};
    if (open_models(arguments, &e.models, &err) != SQF_OK) {
        code = fail_error(&err);
    } else if (tasks) {
        code = run_tasks(arguments, &e.models);
    } else {
        code = generation ? run_agreement(arguments, &e.models) : run_text(arguments, &e);
    }
    sqf_model_destroy(e.models.reference);
    sqf_model_destroy(e.models.model);
    sqf_tokenizer_destroy(e.models.tokenizer);
    sqf_context_destroy(e.models.context);
    return code;
}

const cli_command *eval_command(void)
{
    /* in the order of sqf_windowing */
    static const char *const windowings[] = {"standard", "llama.cpp", NULL};
    static const char *const kv_types[] = {"f32", "f16", "int8", NULL}; /* in the order of sqf_kv_type */
    static const cli_option options[] = {
        {.name = "text", .kind = OPTION_TEXT, .value = "FILE", .text = "the text to score"},
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
        {.name = "kv",
         .kind = OPTION_CHOICE,
         .standard = "f32",
         .choices = kv_types,
         .text = "type of the model's KV cache; a reference keeps f32"},
        DEVICE_OPTION,
        {.name = "special",
         .text = "encode the text with the special tokens that the tokenizer prescribes; implied by llama.cpp"},
        {.name = "tasks",
         .kind = OPTION_TEXT,
         .value = "FILE",
         .text = "run the benchmark items of this file, one JSON object a line; may be given several times, and "
                 "operands behind MODEL are more such files"},
        {.name = "task-file",
         .kind = OPTION_TEXT,
         .value = "FILE",
         .text = "read the items by this task file (YAML), not by the built-in definition that their name says"},
        {.name = "list-tasks", .text = "print the built-in definitions as task files and end"},
        {.name = "items",
         .kind = OPTION_TEXT,
         .value = "FILE",
         .text = "write one JSON line an item to this new file, as soon as it is computed"},
        {.name = "resume",
         .kind = OPTION_TEXT,
         .value = "FILE",
         .text = "as --items, but the file may exist: items that are in it are not computed again; lines of other "
                 "models, items or settings are refused by their hash"},
        {.name = "limit",
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "0",
         .most = SIZE_MAX,
         .text = "only the first N items of each file; 0 means all"},
        {.name = "few-shot",
         .kind = OPTION_COUNT,
         .value = "K",
         .most = 1000,
         .text = "put the first K other items of the file with their answers in front of each; default: as the "
                 "definition says"},
        {.name = "max-new",
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "0",
         .most = 1 << 20,
         .text = "tokens of a generated answer at most; 0 means as the definition says"},
        {.name = "generation",
         .kind = OPTION_COUNT,
         .value = "N",
         .least = 1,
         .most = 1 << 20,
         .text = "let model and reference continue pieces of the text by N tokens greedily, and compare"},
        {.name = "prompt-tokens",
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "64",
         .least = 1,
         .most = 1 << 20,
         .text = "tokens of such a piece"},
        {.name = "prompts",
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "100",
         .most = SIZE_MAX,
         .text = "pieces at most, spread evenly over the text; 0 means as many as it has without overlap"},
        {.name = "resamples",
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "1000",
         .least = 2,
         .most = 1 << 24,
         .text = "resamples of the bootstrap that gives the errors of tasks and of --generation"},
        {.name = "seed",
         .kind = OPTION_COUNT,
         .value = "N",
         .standard = "1234",
         .most = SIZE_MAX,
         .text = "seed of that bootstrap"},
    };
    static const char *const examples[] = {
        "sqf eval models/demo --text models/demo/text/eval.txt --window 512",
        "sqf eval demo-sq6 --reference models/demo --text models/demo/text/eval.txt --window 512 --json",
        "sqf eval models/demo --reference models/demo --kv int8 --text models/demo/text/eval.txt --window 512",
        "sqf eval demo-sq6 --reference models/demo --tasks continuation-mcq.jsonl --items items.jsonl",
        "sqf eval demo-sq6 --reference models/demo --text models/demo/text/eval.txt --generation 64",
        "sqf eval MODEL --text heldout.txt --device cuda:1",
        NULL};
    static const cli_command command = {
        .name = "eval",
        .operands = "MODEL [TASKS...]",
        .least_operands = 0,
        .most_operands = SIZE_MAX,
        .summary = "measure perplexity, the distance from a reference model, and benchmarks",
        .description =
            "Encodes the text without special tokens and cuts it into consecutive windows that do not overlap; each "
            "runs alone from position 0. Windowing standard scores every token of a window from its second on. "
            "Windowing llama.cpp does as llama-perplexity: the text is encoded with special tokens, the token that "
            "this puts in front (BOS) replaces the first one of each window too, and tokens from N / 2 + 1 on are "
            "scored. The two figures cannot be compared with each other. An incomplete last window is left out; in "
            "the standard windowing a text shorter than one window is one window.\n\n"
            "Prints the perplexity exp(nll) with its standard error, nll being the mean negative natural "
            "log-probability of a scored token, and the perplexity per byte exp(nll_sum / bytes of the scored "
            "tokens). With a reference: the ratio and the difference of the two perplexities with standard errors of "
            "the paired difference, the mean KL divergence of the next token's distribution from the reference's, and "
            "the share of tokens where both models hold the same token most probable. The line of products tells by "
            "which path the multiply-accumulates of the linear layers were computed.\n\n"
            "With --tasks: benchmarks in JSON lines, by the rules of lm-eval (docs/evaluation.md). What a file holds "
            "is told by its name, which begins with that of a built-in definition (--list-tasks), or by --task-file. "
            "An input that is longer than the model's positions loses its beginning; the prompt of a generated answer "
            "is cut to the positions less --max-new, which must be fewer than the positions. Prints acc (the largest "
            "sum of log-probabilities; in LAMBADA: every token the most probable one; in GSM8K: the first number "
            "behind ####), acc_norm and acc_bytes (sums divided by a choice's characters and bytes), acc_flexible "
            "(GSM8K: the last number), perplexity (LAMBADA: of a last word), each with its standard error by "
            "bootstrap over items. With a reference: paired differences, items gained and lost, and whether they are "
            "significant (p < 0.05 by McNemar's exact test; of perplexity by paired bootstrap).\n\n"
            "With --generation N: both models continue pieces of the text greedily. Prints after how many tokens they "
            "differ, how often a token differs after equal text, the share of continuations that are equal to the "
            "end, and how probable the reference finds what the model wrote, beside its own text.\n\n"
            "JSON members: model, scheme, text, windowing, kv, window, windows, tokens, scored_tokens, scored_bytes, "
            "perplexity, perplexity_error, nll, nll_sum, perplexity_per_byte, seconds, tokens_per_s, products, "
            "threads, cpu_level, device; with a reference also kl, kl_error, kl_max, same_top, ratio, ratio_error, "
            "difference, difference_error, reference. With --tasks: model, scheme, kv, reference, reference_scheme, "
            "seed, "
            "resamples, threads, cpu_level, device and tasks, a list with name, definition, kind, path, items, acc, "
            "acc_error, acc_error_analytic, acc_norm (null where a kind has none) and the like, few_shot, truncated, "
            "resumed, tokens_run, tokens_reused, seconds; with a reference also reference and changes (of each figure "
            "difference, error, gained, lost, test, p_value, significant). With --generation: first_divergence, "
            "divergence_rate, teacher_top, nll, reference_nll, nll_difference, their errors, and lengths (tokens, "
            "equal, equal_error).",
        .options = options,
        .option_count = sizeof options / sizeof options[0],
        .examples = examples,
        .run = run_eval,
    };
    return &command;
}

/* sqf quantize: a checkpoint becomes an SQ-format model. The recipe's flags are the library's recipe keys, taken from
 * its list at run time: a key that the library learns is an option here, with its help, without a change to this
 * file.
 *
 * Mistakes in flags are usage errors and speak of the flag; mistakes in a recipe file are errors of that file. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqf/quantize.h>

#include "command.h"
#include "output.h"
#include "progress.h"
#include "quantize_budget.h"

enum { FLAGS_MAX = 96, FLAG_NAME = 32, FLAG_TEXT = 512 };

/* The key that a flag stands for; NULL if it is none of the recipe's. */
static const sqf_recipe_key *find_key(const char *flag)
{
    size_t count;
    const sqf_recipe_key *keys = sqf_recipe_key_list(&count);
    for (size_t i = 0; i < count; i++) {
        const size_t length = strlen(keys[i].name);
        bool same = strlen(flag) == length;
        for (size_t c = 0; same && c < length; c++) {
            same = flag[c] == (keys[i].name[c] == '_' ? '-' : keys[i].name[c]);
        }
        if (same) {
            return &keys[i];
        }
    }
    return NULL;
}

/* "bank: expected ..., found '65'" becomes "--bank 65: expected ..., found '65'". */
static int fail_flag(const char *flag, const char *value, const sqf_recipe_key *key, const sqf_error *err)
{
    const char *text = err->text;
    const size_t length = strlen(key->name);
    if (strncmp(text, key->name, length) == 0 && strncmp(text + length, ": ", 2) == 0) {
        text += length + 2;
    }
    return fail_usage("--%s %s: %s", flag, value, text);
}

/* Flags change the recipe in the order of the key list, whatever their order on the command line. */
static int apply_flags(const cli_arguments *arguments, sqf_module_recipe *recipe)
{
    size_t count;
    const sqf_recipe_key *keys = sqf_recipe_key_list(&count);
    sqf_error err = {0};
    for (size_t i = 0; i < count; i++) {
        for (size_t v = 0; v < arguments->value_count; v++) {
            const option_value *value = &arguments->values[v];
            if (find_key(value->option->name) == &keys[i] &&
                sqf_module_recipe_set(recipe, keys[i].name, value->text, &err) != SQF_OK) {
                return fail_flag(value->option->name, value->text, &keys[i], &err);
            }
        }
    }
    if (sqf_scheme_check(&recipe->scheme, &err) != SQF_OK) {
        return arguments_given(arguments, "recipe") ? fail_error(&err) : fail_usage("%s", err.text);
    }
    /* Rounding without statistics is worse than calibrating and must be somebody's decision, not a default. */
    if (!arguments_given(arguments, "calib") && !sqf_weight_spec_is_dense(&recipe->scheme.weights)) {
        return fail_usage("quantize: --calib is missing: a text file, or none to round without statistics");
    }
    return EXIT_DONE;
}

/* From --recipe, or the defaults of --scheme; then the flags. */
static int make_recipe(const cli_arguments *arguments, sqf_recipe **recipe)
{
    const char *path = arguments_text(arguments, "recipe"), *scheme_name = arguments_text(arguments, "scheme");
    sqf_error err = {0};
    if (path) {
        if (sqf_recipe_load(path, recipe, &err) != SQF_OK) {
            return fail_error(&err);
        }
    } else if (!scheme_name && !budget_is_wanted(arguments)) {
        return fail_usage("quantize: --scheme or --recipe is missing, see sqf quantize --help");
    } else {
        sqf_scheme scheme;
        scheme_name = scheme_name ? scheme_name : "W4A8"; /* a target: candidates say others */
        if (sqf_scheme_parse(scheme_name, &scheme, &err) != SQF_OK) {
            return fail_usage("--scheme %.100s: %s", scheme_name, err.text);
        }
        const sqf_module_recipe base = sqf_module_recipe_default(&scheme);
        if (sqf_recipe_create(&base, recipe, &err) != SQF_OK) {
            return fail_error(&err);
        }
    }
    for (size_t i = 0; i < arguments->value_count; i++) {
        const option_value *value = &arguments->values[i];
        if (strcmp(value->option->name, "ignore") == 0 && sqf_recipe_add_ignore(*recipe, value->text, &err) != SQF_OK) {
            return fail_usage("--ignore %.100s: %s", value->text, err.text);
        }
    }
    return apply_flags(arguments, sqf_recipe_base(*recipe));
}

/* Everything but the recipe. */
static sqf_quantize_options read_options(const cli_arguments *arguments)
{
    sqf_quantize_options options = sqf_quantize_options_default();
    const char *calibration = arguments_text(arguments, "calib");
    options.calibration = strcmp(calibration, "none") == 0 ? NULL : calibration;
    options.calibration_field = arguments_text(arguments, "calib-field");
    options.samples = arguments_count(arguments, "calib-samples");
    options.length = arguments_count(arguments, "calib-length");
    options.tokens = arguments_count(arguments, "calib-tokens");
    options.random_windows = arguments_given(arguments, "calib-random");
    options.special = arguments_given(arguments, "special");
    options.seed = arguments_count(arguments, "seed");
    options.shard_bytes = arguments_count(arguments, "shard-bytes");
    options.force = arguments_given(arguments, "force");
    return options;
}

/* Where the time went: by the clock, of all threads, and the work in the stage's own unit. */
static json_t *stages_json(const sqf_quantize_summary *summary)
{
    json_t *stages = json_object();
    for (int s = 0; s < SQF_STAGE_COUNT; s++) {
        const sqf_quantize_stage *stage = &summary->stages[s];
        json_object_set_new(stages, sqf_stage_name((sqf_stage)s),
                            json_pack("{s:o, s:o, s:o}", "seconds", json_number(stage->seconds), "cpu_seconds",
                                      json_number(stage->cpu_seconds), "work", json_number(stage->work)));
    }
    return stages;
}

/* Figures of the whole model; those of its tensors are in OUT/report.json. */
static json_t *summary_json(const cli_arguments *arguments, const sqf_context *context, sqf_recipe *recipe,
                            const sqf_quantize_summary *summary)
{
    const sqf_module_recipe *base = sqf_recipe_base(recipe);
    char scheme[SQF_SCHEME_TEXT];
    sqf_scheme_print(&base->scheme, SQF_SPELLING_SHORT, scheme);
    json_t *object = json_object();
    json_object_set_new(object, "model", json_string_or_null(arguments->operands[0]));
    json_object_set_new(object, "output", json_string_or_null(arguments_text(arguments, "output")));
    json_object_set_new(object, "scheme", json_string_or_null(scheme));
    json_object_set_new(object, "device", json_string_or_null(sqf_context_device(context)));
    json_object_set_new(object, "seconds", json_number(summary->seconds));
    json_object_set_new(object, "calibration_seconds", json_number(summary->calibration_seconds));
    json_object_set_new(object, "calibration_tokens", json_count(summary->calibration_tokens));
    json_object_set_new(object, "weights", json_count(summary->weights));
    json_object_set_new(object, "bits_per_weight", json_number(summary->bits_per_weight));
    json_object_set_new(object, "weights_equivalent_bits", json_number(summary->weights_equivalent_bits));
    json_object_set_new(object, "activations_equivalent_bits", json_number(summary->activations_equivalent_bits));
    json_object_set_new(object, "file_bytes", json_count(summary->file_bytes));
    json_object_set_new(object, "mean_output_error", json_number(summary->mean_output_error));
    json_object_set_new(object, "damped", json_integer(summary->damped));
    json_object_set_new(object, "stages", stages_json(summary));
    json_object_set_new(object, "vocabulary_weights", json_count(summary->vocabulary_weights));
    json_object_set_new(object, "vocabulary_bits_per_weight", json_number(summary->vocabulary_bits_per_weight));
    return object;
}

static void print_summary(const cli_arguments *arguments, const sqf_quantize_summary *summary)
{
    char bytes[32];
    format_bytes(summary->file_bytes, bytes);
    printf("%s: %s, ", arguments_text(arguments, "output"), bytes);
    if (summary->weights > 0) {
        printf("%.3f bits a weight stored (equivalent: weights %.4g, activations %.4g)", summary->bits_per_weight,
               summary->weights_equivalent_bits, summary->activations_equivalent_bits);
    } else {
        printf("nothing quantized");
    }
    if (summary->vocabulary_weights > 0) {
        printf("; output matrix and embedding %.3f", summary->vocabulary_bits_per_weight);
    }
    printf(", %.2f s\n", summary->seconds);
    if (isfinite(summary->mean_output_error)) {
        printf("calibrated on %" PRIu64 " tokens, mean relative output error %.4g\n", summary->calibration_tokens,
               summary->mean_output_error);
    }
}

/* What came of it, on standard output. `budget` is NULL without a target. */
static int print_result(const cli_arguments *arguments, const sqf_context *context, sqf_recipe *recipe,
                        const sqf_quantize_summary *summary, const sqf_budget *budget)
{
    if (arguments_given(arguments, "json")) {
        json_t *object = summary_json(arguments, context, recipe, summary);
        if (budget) {
            json_object_set_new(object, "budget", budget_json(budget));
        }
        return print_json(object);
    }
    if (!arguments_given(arguments, "quiet")) {
        if (budget) {
            budget_print(budget);
        }
        print_summary(arguments, summary);
    }
    return EXIT_DONE;
}

/* Runs the library and prints what came of it. The output directory is the library's to make and to remove. */
static int quantize(const cli_arguments *arguments, sqf_recipe *recipe)
{
    const char *model = arguments->operands[0], *output = arguments_text(arguments, "output");
    const bool target = budget_is_wanted(arguments);
    sqf_budget_options wishes;
    sqf_context *context;
    int code = target ? budget_read(arguments, &wishes) : EXIT_DONE;
    if (code == EXIT_DONE) {
        code = context_open(arguments, &context);
    }
    if (code != EXIT_DONE) {
        return code;
    }
    progress_follow(context);
    const sqf_quantize_options options = read_options(arguments);
    sqf_quantize_summary summary;
    sqf_budget *budget = NULL;
    sqf_error err = {0};
    const sqf_status status =
        target ? sqf_quantize_budget(context, model, output, recipe, &options, &wishes, &summary, &budget, &err)
               : sqf_quantize(context, model, output, recipe, &options, &summary, &err);
    progress_clear();
    code = status == SQF_OK ? print_result(arguments, context, recipe, &summary, budget) : fail_error(&err);
    sqf_budget_destroy(budget);
    progress_follow(NULL);
    sqf_context_destroy(context);
    return code;
}

static int run_quantize(const cli_arguments *arguments)
{
    sqf_recipe *recipe = NULL;
    int code = make_recipe(arguments, &recipe);
    if (code == EXIT_DONE) {
        code = quantize(arguments, recipe);
    }
    sqf_recipe_destroy(recipe);
    return code;
}

static const cli_option file_options[] = {
    {.name = "output",
     .letter = 'o',
     .kind = OPTION_TEXT,
     .required = true,
     .value = "OUT",
     .text = "directory to write; must not exist without --force"},
    {.name = "calib",
     .kind = OPTION_TEXT,
     .value = "FILE",
     .standard = "none",
     .text = "calibration text, or .jsonl; none rounds without statistics. Must be said unless nothing is quantized"},
    {.name = "calib-samples",
     .kind = OPTION_COUNT,
     .value = "N",
     .standard = "32",
     .least = 1,
     .most = 1 << 20,
     .text = "windows of calibration text, evenly spaced over it"},
    {.name = "calib-length",
     .kind = OPTION_COUNT,
     .value = "N",
     .standard = "2048",
     .least = 1,
     .most = 1 << 24,
     .text = "tokens a window; at most the model's positions"},
    {.name = "calib-field",
     .kind = OPTION_TEXT,
     .value = "NAME",
     .standard = "text",
     .text = "member of each line of a .jsonl file that holds the text"},
    {.name = "calib-tokens",
     .kind = OPTION_COUNT,
     .value = "N",
     .standard = "0",
     .most = SIZE_MAX,
     .text = "take windows from the first N tokens of the text alone; 0 means all"},
    {.name = "calib-random", .text = "draw where windows start with the seed in place of spacing them evenly"},
    {.name = "special", .text = "encode the calibration text with the special tokens that the tokenizer prescribes"},
    {.name = "seed",
     .kind = OPTION_COUNT,
     .value = "N",
     .standard = "0",
     .most = UINT64_MAX,
     .text = "for random windows, importances and masks"},
    {.name = "recipe",
     .kind = OPTION_TEXT,
     .value = "FILE",
     .text = "read the recipe from a YAML file; flags then change its base"},
    {.name = "ignore",
     .kind = OPTION_TEXT,
     .value = "NAME",
     .text = "leave this module alone: its full name, or re: and a regular expression that matches the whole name. May "
             "be given several times"},
    {.name = "shard-bytes",
     .kind = OPTION_COUNT,
     .value = "N",
     .standard = "5000000000",
     .least = 1,
     .most = SIZE_MAX,
     .text = "start a new file where the current one would pass this size"},
    DEVICE_OPTION,
    {.name = "force", .text = "replace an existing output; it stays in place until the new one is complete"},
};
enum { FILE_OPTIONS = sizeof file_options / sizeof file_options[0] };

/* A recipe key as an option. Names and texts of all keys stay in static memory. */
static cli_option key_option(const sqf_recipe_key *key, size_t index)
{
    static char names[FLAGS_MAX][FLAG_NAME], texts[FLAGS_MAX][FLAG_TEXT];
    snprintf(names[index], FLAG_NAME, "%s", key->name);
    for (char *c = names[index]; (c = strchr(c, '_')) != NULL;) {
        *c = '-';
    }
    snprintf(texts[index], FLAG_TEXT, "%s: %s", key->description, key->values);
    return (cli_option){.name = names[index],
                        .kind = OPTION_TEXT,
                        .value = index == 0 ? "SCHEME" : "VALUE",
                        .standard = key->default_value[0] != '\0' ? key->default_value : NULL,
                        .text = texts[index]};
}

/* The output, the scheme (the first key), where the text comes from, and the other keys. */
static size_t build_options(cli_option options[FLAGS_MAX])
{
    size_t key_count, count = 0;
    const sqf_recipe_key *keys = sqf_recipe_key_list(&key_count);
    options[count++] = file_options[0];
    options[count++] = key_option(&keys[0], 0);
    for (size_t i = 1; i < FILE_OPTIONS; i++) {
        options[count++] = file_options[i];
    }
    for (size_t i = 0; i < budget_option_count && count < FLAGS_MAX; i++) {
        options[count++] = budget_options[i];
    }
    for (size_t i = 1; i < key_count && count < FLAGS_MAX; i++) {
        options[count++] = key_option(&keys[i], i);
    }
    return count;
}

static const char description[] =
    "Reads a Hugging Face model directory, quantizes the linear layers of its decoder one layer at a time, and writes "
    "a model directory: config.json with quantization_config, safetensors with content hashes, the tokenizer's files, "
    "the recipe that was used (recipe.yaml) and report.json. The output appears whole or not at all.\n\n"
    "The scheme says what is quantized and how (sqf schemes lists the names); every other parameter has a default that "
    "a flag or a recipe file changes. A recipe file holds the same keys as the flags, with _ for -, further an ignore "
    "list, and overrides that later ones win, each with a regular expression that must match a module's whole name:\n\n"
    "    scheme: w4a-sq6\n"
    "    smooth: 0.6\n"
    "    ignore:\n"
    "      - model.layers.0.mlp.down_proj\n"
    "      - 're:.*\\.k_proj'\n"
    "    overrides:\n"
    "      - match: '.*\\.down_proj'\n"
    "        scheme: w8a8\n"
    "        clip: mse\n\n"
    "Norms and biases stay as they are, and so do output matrix and embedding unless --lm-head or --embedding says "
    "otherwise. Where a model ties the two, one quantized matrix serves both: either flag is enough, with --lm-head "
    "saying the activations too. Given both with other weights, or one of them off, the quantized model has two "
    "matrices. Without calibration text they are rounded to nearest; with it --compensate holds for the output matrix. "
    "An override that matches lm_head changes other parameters of it.\n\n"
    "With a target (--target-loss, --target-bits, --target-speed; several hold together) settings are chosen for "
    "every input of every layer: the loss that each of --candidates causes there alone is measured on held-out text, "
    "a choice is made that keeps the target, and the model is verified on that text before it is written; otherwise "
    "the best that can be reached is named. What was measured and chosen stands in OUT/budget.json, the choice in "
    "OUT/recipe.yaml as overrides; the latter makes the same model again with the same --calib options and "
    "--calib-tokens as text_tokens in OUT/report.json says. Flags of the recipe hold for all candidates that do not "
    "say otherwise.\n\n"
    "Calibration text is encoded without special tokens. From .jsonl the member --calib-field of every line is taken. "
    "JSON members: model, output, scheme, device, seconds, calibration_seconds, calibration_tokens, weights, "
    "bits_per_weight, "
    "weights_equivalent_bits, activations_equivalent_bits, file_bytes, mean_output_error, damped (factorizations that "
    "needed more damping), vocabulary_weights, vocabulary_bits_per_weight (of output matrix and embedding, which the "
    "other figures by weight leave out), stages (seconds, cpu_seconds and work of each, work in operations where it is "
    "matrix products), and with a target budget. The same by tensor stands in OUT/report.json.";

/* The only table that is built: the others are constant. */
const cli_command *quantize_command(void)
{
    static const char *const examples[] = {
        "sqf quantize models/demo -o demo-sq6 --scheme w4a-sq6 --calib models/demo/text/calib.txt --calib-length 512",
        "sqf quantize models/demo -o demo-w4 --scheme w4a16 --calib none",
        "sqf quantize MODEL -o OUT --scheme 'W(SQ5)A8' --importance gain --calib data.jsonl --calib-field text",
        "sqf quantize MODEL -o OUT --scheme w4a8 --lm-head w4a8 --calib none",
        "sqf quantize MODEL -o OUT --recipe recipe.yaml --calib calib.txt",
        "sqf quantize MODEL -o OUT --scheme w4a-sq6 --calib calib.txt --device cuda",
        "sqf quantize MODEL -o OUT --calib calib.txt --target-loss 1% --candidates 'w4a4, w4a-sq5|w4a-sq6 mask=l2, "
        "w4a8'",
        NULL};
    static cli_option options[FLAGS_MAX];
    static cli_command command = {
        .name = "quantize",
        .operands = "MODEL",
        .least_operands = 1,
        .most_operands = 1,
        .summary = "make an SQ-format model from a checkpoint",
        .description = description,
        .options = options,
        .examples = examples,
        .run = run_quantize,
    };
    if (command.option_count == 0) {
        command.option_count = build_options(options);
    }
    return &command;
}

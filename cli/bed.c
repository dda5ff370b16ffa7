/* sqf bed: models and layers whose properties are known because they were put there. `sqf bed outliers` writes a
 * checkpoint; `sqf bed layer` (bed_layer.c) measures recipes on drawn layers. */
#include "bed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "output.h"

/* "qkv,down" as a set of SQF_BED_*; 0 = not such a list. */
static unsigned parse_inputs(const char *text)
{
    static const char *const names[] = {"qkv", "o", "gate-up", "down"};
    unsigned inputs = 0;
    while (*text) {
        const size_t length = strcspn(text, ",");
        unsigned found = 0;
        for (unsigned i = 0; i < 4; i++) {
            if (strlen(names[i]) == length && strncmp(names[i], text, length) == 0) {
                found = 1u << i;
            }
        }
        if (!found) {
            return 0;
        }
        inputs |= found;
        text += length + (text[length] == ',' && text[length + 1] != '\0');
        if (*text == ',') {
            return 0;
        }
    }
    return inputs;
}

/* "0,2-5" as numbers, for free(); *count of them. NULL = not such a list. Numbers end at 1023, the most layers a model
 * has. */
static size_t *parse_layers(const char *text, size_t *count)
{
    enum { MOST = 1024 };
    size_t *layers = calloc(MOST, sizeof *layers);
    *count = 0;
    for (const char *at = text; layers;) {
        char *end;
        const unsigned long first = *at >= '0' && *at <= '9' ? strtoul(at, &end, 10) : MOST;
        unsigned long last = first;
        if (first < MOST && *end == '-') {
            at = end + 1;
            last = *at >= '0' && *at <= '9' ? strtoul(at, &end, 10) : MOST;
        }
        if (first >= MOST || last >= MOST || last < first || *count + (last - first) >= MOST) {
            break;
        }
        for (unsigned long i = first; i <= last; i++) {
            layers[(*count)++] = i;
        }
        if (*end == '\0') {
            return layers;
        }
        if (*end != ',') {
            break;
        }
        at = end + 1;
    }
    free(layers);
    return NULL;
}

static int print_outliers(const cli_arguments *arguments, const sqf_outlier_bed_options *options,
                          const sqf_outlier_bed_summary *summary)
{
    char bytes[32];
    if (!arguments_given(arguments, "json")) {
        format_bytes(summary->bytes, bytes);
        printf("%s: %zu outlier channels in %zu layers, factors up to %u; %" PRIu64 " of %" PRIu64
               " products rounded, %s\n",
               arguments->operands[2], summary->channels, summary->layers, options->factor, summary->inexact,
               summary->changed, bytes);
        return EXIT_DONE;
    }
    json_t *object = json_object();
    json_object_set_new(object, "model", json_string_or_null(arguments->operands[1]));
    json_object_set_new(object, "output", json_string_or_null(arguments->operands[2]));
    json_object_set_new(object, "layers", json_count(summary->layers));
    json_object_set_new(object, "channels", json_count(summary->channels));
    json_object_set_new(object, "factor", json_count(options->factor));
    json_object_set_new(object, "changed", json_count(summary->changed));
    json_object_set_new(object, "inexact", json_count(summary->inexact));
    json_object_set_new(object, "file_bytes", json_count(summary->bytes));
    return print_json(object);
}

static int run_outliers(const cli_arguments *arguments)
{
    sqf_context *context;
    sqf_outlier_bed_options options = sqf_outlier_bed_options_default();
    size_t *layers = NULL;
    if (arguments->operand_count != 3) {
        return fail_usage("bed outliers: expected MODEL and OUT, found %zu operands", arguments->operand_count - 1);
    }
    options.inputs = parse_inputs(arguments_text(arguments, "inputs"));
    if (options.inputs == 0) {
        return fail_usage("--inputs %.100s: expected some of qkv,o,gate-up,down", arguments_text(arguments, "inputs"));
    }
    options.channels = arguments_count(arguments, "channels");
    options.factor = (unsigned)arguments_count(arguments, "factor");
    options.seed = arguments_count(arguments, "seed");
    options.force = arguments_given(arguments, "force");
    if (arguments_given(arguments, "layers")) {
        layers = parse_layers(arguments_text(arguments, "layers"), &options.layer_count);
        if (!layers) {
            return fail_usage("--layers %.100s: expected numbers and ranges such as 0,2-5",
                              arguments_text(arguments, "layers"));
        }
        options.layers = layers;
    }
    int code = context_open(arguments, &context);
    if (code == EXIT_DONE) {
        sqf_outlier_bed_summary summary;
        sqf_error err = {0};
        const sqf_status status =
            sqf_bed_outliers(context, arguments->operands[1], arguments->operands[2], &options, &summary, &err);
        progress_clear();
        code = status == SQF_OK ? print_outliers(arguments, &options, &summary) : fail_error(&err);
    }
    free(layers);
    sqf_context_destroy(context);
    return code;
}

/* An option of the other kind would be ignored: its text begins with the kind that it is for. */
static const option_value *find_foreign(const cli_arguments *arguments, const char *other)
{
    for (size_t i = 0; i < arguments->value_count; i++) {
        if (strncmp(arguments->values[i].option->text, other, strlen(other)) == 0) {
            return &arguments->values[i];
        }
    }
    return NULL;
}

static int run_bed(const cli_arguments *arguments)
{
    const char *kind = arguments->operands[0];
    const bool outliers = strcmp(kind, "outliers") == 0;
    if (!outliers && strcmp(kind, "layer") != 0) {
        return fail_usage("bed %.100s: expected outliers or layer", kind);
    }
    const option_value *foreign = find_foreign(arguments, outliers ? "layer: " : "outliers: ");
    if (foreign) {
        return fail_usage("bed %s: --%s belongs to bed %s", kind, foreign->option->name,
                          outliers ? "layer" : "outliers");
    }
    return outliers ? run_outliers(arguments) : run_layer_bed(arguments);
}

const cli_command *bed_command(void)
{
    static const char *const activations[] = {"gaussian", "channels", "tokens", "heavy", "mixed", NULL};
    static const char *const weights[] = {"gaussian", "heavy", NULL};
    static const cli_option options[] = {
        {.name = "inputs",
         .kind = OPTION_TEXT,
         .standard = "qkv,o,gate-up,down",
         .value = "LIST",
         .text = "outliers: inputs that get outlier channels"},
        {.name = "layers",
         .kind = OPTION_TEXT,
         .value = "LIST",
         .text = "outliers: decoder layers to change, numbers and ranges such as 0,2-5; without it all"},
        {.name = "channels",
         .kind = OPTION_COUNT,
         .standard = "4",
         .least = 1,
         .most = 1 << 22,
         .value = "N",
         .text = "outliers: outlier channels of an input"},
        {.name = "factor",
         .kind = OPTION_COUNT,
         .standard = "64",
         .least = 16,
         .most = 1 << 16,
         .value = "F",
         .text = "outliers: the largest factor, a power of two; each channel draws one of F/8, F/4, F/2 and F"},
        {.name = "seed",
         .kind = OPTION_COUNT,
         .standard = "0",
         .most = UINT64_MAX,
         .value = "N",
         .text = "of what is drawn; of layer the first one"},
        {.name = "force", .kind = OPTION_FLAG, .text = "outliers: replace an existing output"},
        {.name = "activations",
         .kind = OPTION_CHOICE,
         .choices = activations,
         .text = "layer: what activations are drawn from; without it one after the other"},
        {.name = "weights",
         .kind = OPTION_CHOICE,
         .choices = weights,
         .standard = "gaussian",
         .text = "layer: what weights are drawn from"},
        {.name = "rows",
         .kind = OPTION_COUNT,
         .standard = "256",
         .least = 16,
         .most = 1 << 16,
         .value = "N",
         .text = "layer: output channels, a multiple of 8"},
        {.name = "columns",
         .kind = OPTION_COUNT,
         .standard = "1024",
         .least = 16,
         .most = 1 << 14,
         .value = "K",
         .text = "layer: input channels"},
        {.name = "tokens",
         .kind = OPTION_COUNT,
         .standard = "2048",
         .least = 256,
         .most = 1 << 20,
         .value = "N",
         .text = "layer: calibration tokens, and as many held out; a multiple of 256"},
        {.name = "outlier-share",
         .kind = OPTION_REAL,
         .standard = "0.005",
         .high = 0.5,
         .value = "PART",
         .text = "layer: outlier channels of all channels"},
        {.name = "massive-share",
         .kind = OPTION_REAL,
         .standard = "0.002",
         .high = 0.5,
         .value = "PART",
         .text = "layer: massive tokens of all tokens"},
        {.name = "seeds",
         .kind = OPTION_COUNT,
         .standard = "3",
         .least = 1,
         .most = 1000,
         .value = "N",
         .text = "layer: draws of each bed, for a mean with its standard error"},
    };
    static const char *const examples[] = {
        "sqf bed outliers models/demo demo-outliers",
        "sqf bed outliers models/demo bed --inputs qkv,gate-up --channels 6", "sqf bed layer",
        "sqf bed layer 'W4A(SQ5)' 'W4A(SQ5) mask=l2 smooth=off' --activations channels --seeds 5", NULL};
    static const cli_command command = {
        .name = "bed",
        .operands = "outliers|layer [MODEL OUT | RECIPE...]",
        .least_operands = 1,
        .most_operands = 1000,
        .summary = "make test beds: models with outlier channels, drawn layers",
        .description =
            "sqf bed outliers MODEL OUT writes a checkpoint that computes the same function as MODEL and has "
            "persistent outlier channels, as large language models have and small ones lack: what produces a channel "
            "of an input is multiplied by a power of two, the columns that read it are divided by the same. Of the "
            "inputs that norms make (qkv, gate-up) the same channels are chosen in every layer. Perplexity stays the "
            "same to the last digit; quantization to few bits without smoothing breaks down. OUT/bed.json tells the "
            "channels. JSON members: model, output, layers, channels, factor, changed, inexact, file_bytes.\n\n"
            "sqf bed layer [RECIPE...] draws a linear layer with calibration and held-out activations, quantizes it "
            "by each recipe and measures the relative squared error of its outputs on the held-out tokens, inputs "
            "quantized as the recipe says. A recipe is a scheme and keys of sqf quantize, in one word of the command "
            "line: 'W4A(SQ5) mask=l2 smooth=off'; without one some usual ones are tried. Activations: gaussian; "
            "channels (some channels are 20 to 100 times the median one in nearly all tokens); tokens (some tokens "
            "hold two values 1000 times the median); heavy (Student's t, 4 degrees of freedom); mixed (all of them). "
            "The table gives the mean error over the draws with its standard error, the same of the median token "
            "(which massive tokens do not hide), the error of the weights alone, stored bits, the share of products "
            "with both operands at 4 bits or fewer, and the predicted cost a product. JSON members: rows, columns, "
            "tokens, seed, seeds, points (activations, weights, recipe, held_out, median_token, worst_token, "
            "calibration, weights_alone and weight_error, each with NAME_error, stored_bits, weights_equivalent_bits, "
            "activations_equivalent_bits, low_rate_share, cost).\n\n"
            "What each bed shows, with measured tables: docs/beds.md.",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .examples = examples,
        .run = run_bed,
    };
    return &command;
}

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

static int run_bed(const cli_arguments *arguments)
{
    const char *kind = arguments->operands[0];
    if (strcmp(kind, "outliers") == 0) {
        return run_outliers(arguments);
    }
    return fail_usage("bed %.100s: expected outliers or layer", kind);
}

const cli_command *bed_command(void)
{
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
         .text = "chooses channels and factors; of layer the first of the seeds"},
        {.name = "force", .kind = OPTION_FLAG, .text = "outliers: replace an existing output"},
    };
    static const char *const examples[] = {"sqf bed outliers models/demo demo-outliers",
                                           "sqf bed outliers models/demo bed --inputs qkv,gate-up --channels 6", NULL};
    static const cli_command command = {
        .name = "bed",
        .operands = "outliers MODEL OUT",
        .least_operands = 1,
        .most_operands = 3,
        .summary = "make test beds: models with outlier channels",
        .description =
            "Writes a checkpoint that computes the same function as MODEL and has persistent outlier channels, as "
            "large language models have and small ones lack: what produces a channel of an input is multiplied by a "
            "power of two, the columns that read it are divided by the same. Of the inputs that norms make (qkv, "
            "gate-up) the same channels are chosen in every layer. Perplexity stays the same to the last digit; "
            "quantization to few bits without smoothing breaks down. OUT/bed.json tells the channels.\n\n"
            "JSON members: model, output, layers, channels, factor, changed, inexact, file_bytes.",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .examples = examples,
        .run = run_bed,
    };
    return &command;
}

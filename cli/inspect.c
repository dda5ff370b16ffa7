/* sqf inspect: what is in a model directory (from headers alone, so it is quick on any size), the distribution of one
 * module's codes (reads that module), and whether everything is whole (--check, reads all). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sqf/inspect.h>

#include "command.h"
#include "output.h"

/* "256x768"; empty for a scalar. */
static void format_shape(const sqf_inspect_entry *entry, char text[64])
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < entry->dimensions && used < 64; i++) {
        used += (size_t)snprintf(text + used, 64 - used, "%s%zu", i ? "x" : "", entry->shape[i]);
    }
}

/* One entry; the members that only quantized modules and linear layers have are left out for others. */
static json_t *entry_json(const sqf_inspect_entry *entry)
{
    json_t *object = json_object(), *shape = json_array();
    for (size_t i = 0; i < entry->dimensions; i++) {
        json_array_append_new(shape, json_count(entry->shape[i]));
    }
    json_object_set_new(object, "name", json_string_or_null(entry->name));
    json_object_set_new(object, "quantized", json_boolean(entry->quantized));
    json_object_set_new(object, entry->quantized ? "scheme" : "dtype", json_string_or_null(entry->dtype));
    json_object_set_new(object, "shape", shape);
    json_object_set_new(object, "bytes", json_count(entry->bytes));
    json_object_set_new(object, "bits_stored", json_number(entry->stored_bits));
    json_object_set_new(object, "bits_equivalent", json_number(entry->weights_equivalent_bits));
    if (entry->linear || entry->output) {
        json_object_set_new(object, "activation_bits_equivalent", json_number(entry->activations_equivalent_bits));
        json_object_set_new(object, "cost", json_number(entry->cost));
        json_object_set_new(object, "low_rate_share", json_number(entry->low_rate_share));
    }
    if (entry->quantized) {
        char text[SQF_SCHEME_TEXT];
        sqf_scheme_print(&entry->scheme, SQF_SPELLING_LONG, text);
        json_object_set_new(object, "long_scheme", json_string_or_null(text));
    }
    return object;
}

static void add_statistics(json_t *object, const sqf_inspect_statistics *s)
{
    json_object_set_new(object, "high", json_count(s->high));
    json_object_set_new(object, "high_share", json_number(s->high_share));
    json_object_set_new(object, "columns_never_high", json_count(s->columns_never_high));
    json_object_set_new(object, "columns_always_high", json_count(s->columns_always_high));
    json_object_set_new(object, "busiest_share", json_number(s->busiest_share));
    json_object_set_new(object, "low_zero_share", json_number(s->low_zero_share));
    json_object_set_new(object, "low_limit_share", json_number(s->low_limit_share));
    json_object_set_new(object, "scale_low", json_pack("[f,f]", (double)s->scale_low_min, (double)s->scale_low_max));
    json_object_set_new(object, "scale_high", json_pack("[f,f]", (double)s->scale_high_min, (double)s->scale_high_max));
    json_object_set_new(object, "channels_high", json_count(s->channels_high));
}

/* Lines without a meaning for the scheme are left out. */
static void print_statistics(const sqf_inspect_statistics *s)
{
    if (s->high > 0) {
        printf("  weights held high    %" PRIu64 " (%.2f %%)\n", s->high, 100 * s->high_share);
        printf("  input channels       %zu never high, %zu always high; the busiest tenth holds %.1f %%\n",
               s->columns_never_high, s->columns_always_high, 100 * s->busiest_share);
        printf("  high scales          %.4g to %.4g\n", (double)s->scale_high_min, (double)s->scale_high_max);
    }
    printf("  low weights          %.2f %% zero, %.2f %% at the ends of the grid\n", 100 * s->low_zero_share,
           100 * s->low_limit_share);
    printf("  low scales           %.4g to %.4g\n", (double)s->scale_low_min, (double)s->scale_low_max);
    if (s->channels_high > 0) {
        printf("  activation mask      %zu channels on the high path\n", s->channels_high);
    }
}

static void print_entry(const sqf_inspect_entry *entry)
{
    char shape[64], bytes[32];
    format_shape(entry, shape);
    format_bytes(entry->bytes, bytes);
    printf("%-46s %-12s %-14s %10s", entry->name, shape, entry->dtype, bytes);
    if (entry->quantized) {
        printf("  %.3f bits stored, %.4g equivalent", entry->stored_bits, entry->weights_equivalent_bits);
    }
    if (entry->quantized && (entry->linear || entry->output)) {
        printf(", low rate %.0f %%, cost %.3f", 100 * entry->low_rate_share, entry->cost);
    }
    putchar('\n');
}

static json_t *info_json(const sqf_model_info *info)
{
    json_t *object = json_object();
    json_object_set_new(object, "model", json_string_or_null(info->directory));
    json_object_set_new(object, "architecture", json_string_or_null(info->architecture));
    json_object_set_new(object, "scheme", json_string_or_null(info->scheme));
    json_object_set_new(object, "hidden", json_count(info->hidden));
    json_object_set_new(object, "intermediate", json_count(info->intermediate));
    json_object_set_new(object, "layers", json_count(info->layers));
    json_object_set_new(object, "heads", json_count(info->heads));
    json_object_set_new(object, "kv_heads", json_count(info->kv_heads));
    json_object_set_new(object, "head_dim", json_count(info->head_dim));
    json_object_set_new(object, "vocabulary", json_count(info->vocabulary));
    json_object_set_new(object, "positions", json_count(info->positions));
    json_object_set_new(object, "parameters", json_count(info->parameters));
    json_object_set_new(object, "quantized_weights", json_count(info->quantized_weights));
    json_object_set_new(object, "weight_bytes", json_count(info->weight_bytes));
    json_object_set_new(object, "bits_per_weight", json_number(info->bits_per_weight));
    json_object_set_new(object, "weights_equivalent_bits", json_number(info->weights_equivalent_bits));
    json_object_set_new(object, "activations_equivalent_bits", json_number(info->activations_equivalent_bits));
    json_object_set_new(object, "low_rate_share", json_number(sqf_cost_low_rate_share(&info->cost)));
    json_object_set_new(object, "cost", json_number(info->predicted_cost));
    json_object_set_new(object, "output_scheme", json_string_or_null(info->output_scheme));
    json_object_set_new(object, "embedding_scheme", json_string_or_null(info->embedding_scheme));
    json_object_set_new(object, "bits_per_parameter", json_number(info->bits_per_parameter));
    json_object_set_new(object, "token_bytes", json_count(info->token_bytes));
    json_object_set_new(object, "output_cost", json_number(sqf_cost_per_product(&info->output_cost, NULL)));
    json_object_set_new(object, "rotation",
                        json_pack("{s:s, s:s, s:s, s:o}", "residual", info->rotation, "values", info->rotation_values,
                                  "down", info->rotation_down, "operations", json_number(info->rotation_operations)));
    return object;
}

static void print_info(const sqf_model_info *info)
{
    char bytes[32], token_bytes[32];
    format_bytes(info->weight_bytes, bytes);
    format_bytes(info->token_bytes, token_bytes);
    printf("%s: %s, %s\n", info->directory, info->architecture, info->scheme);
    printf("  %zu layers, hidden %zu, intermediate %zu, %zu heads (%zu key/value) of %zu, vocabulary %zu, "
           "%zu positions\n",
           info->layers, info->hidden, info->intermediate, info->heads, info->kv_heads, info->head_dim,
           info->vocabulary, info->positions);
    printf("  %" PRIu64 " parameters, %" PRIu64 " quantized, %s\n", info->parameters, info->quantized_weights, bytes);
    printf("  linear layers: %.3f bits a weight stored; equivalent: weights %.4g, activations %.4g; %.1f %% of the "
           "products at the low rate; predicted cost %.3f of an 8-bit product\n",
           info->bits_per_weight, info->weights_equivalent_bits, info->activations_equivalent_bits,
           100 * sqf_cost_low_rate_share(&info->cost), info->predicted_cost);
    printf("  all tensors: %.3f bits a parameter; output matrix %s, embedding %s; a decoded token reads %s\n",
           info->bits_per_parameter, info->output_scheme, info->embedding_scheme, token_bytes);
    if (strcmp(info->rotation, "off") != 0 || strcmp(info->rotation_values, "off") != 0 ||
        strcmp(info->rotation_down, "off") != 0) {
        printf("  rotated: residual stream %s, values %s, input of down_proj %s (%.0f float operations a token)\n",
               info->rotation, info->rotation_values, info->rotation_down, info->rotation_operations);
    }
    putchar('\n');
}

/* One entry by the name of a module or tensor. */
static int inspect_one(const sqf_inspection *inspection, const cli_arguments *arguments)
{
    const sqf_inspect_entry *entry = sqf_inspection_find(inspection, arguments->operands[1]);
    if (!entry) {
        return fail_input("%s: tensor %s: expected a name that sqf inspect lists, found none", arguments->operands[0],
                          arguments->operands[1]);
    }
    sqf_inspect_statistics statistics;
    sqf_error err = {0};
    if (entry->quantized && sqf_inspection_statistics(inspection, entry, &statistics, &err) != SQF_OK) {
        return fail_error(&err);
    }
    if (arguments_given(arguments, "json")) {
        json_t *object = entry_json(entry);
        if (entry->quantized) {
            add_statistics(object, &statistics);
        }
        return print_json(object);
    }
    print_entry(entry);
    if (entry->quantized) {
        char text[SQF_SCHEME_TEXT];
        sqf_scheme_print(&entry->scheme, SQF_SPELLING_LONG, text);
        printf("  scheme               %s\n", text);
        print_statistics(&statistics);
    }
    return EXIT_DONE;
}

/* The model and all its entries. */
static int inspect_all(const sqf_inspection *inspection, const cli_arguments *arguments)
{
    const sqf_model_info info = sqf_inspection_info(inspection);
    const size_t count = sqf_inspection_count(inspection);
    if (!arguments_given(arguments, "json")) {
        print_info(&info);
        for (size_t i = 0; i < count; i++) {
            print_entry(sqf_inspection_at(inspection, i));
        }
        return EXIT_DONE;
    }
    json_t *object = info_json(&info), *tensors = json_array();
    for (size_t i = 0; i < count; i++) {
        json_array_append_new(tensors, entry_json(sqf_inspection_at(inspection, i)));
    }
    json_object_set_new(object, "tensors", tensors);
    return print_json(object);
}

/* Collects what a check finds. */
typedef struct findings {
    bool verbose;
    json_t *problems;
} findings;

/* The library's callback for each item. Problems go to standard error at once, so that they are seen while the rest
 * is still being read, and into the JSON. */
static void take_finding(void *user, const char *item, const sqf_error *problem)
{
    findings *f = user;
    if (!problem) {
        if (f->verbose) {
            progress_clear();
            fprintf(stderr, "%s: ok\n", item);
        }
        return;
    }
    fail_input("%s", problem->text);
    json_t *object = json_object();
    json_object_set_new(object, "item", json_string_or_null(item));
    json_object_set_new(object, "status", json_string(sqf_status_name(problem->status)));
    json_object_set_new(object, "text", json_string_or_null(problem->text));
    json_array_append_new(f->problems, object);
}

/* The exit code says whether the model is whole; 0 also means that the answer could be written. */
static int check(sqf_context *context, const cli_arguments *arguments)
{
    findings f = {.verbose = arguments_given(arguments, "verbose"), .problems = json_array()};
    sqf_check_summary summary = {0};
    sqf_error err = {0};
    const sqf_status status = sqf_check_model(context, arguments->operands[0], take_finding, &f, &summary, &err);
    progress_clear();
    int code = status == SQF_OK ? EXIT_DONE : EXIT_BAD;
    if (status != SQF_OK && summary.problems == 0) {
        code = fail_error(&err); /* the check itself could not go on */
    } else if (arguments_given(arguments, "json")) {
        json_t *object = json_object();
        json_object_set_new(object, "model", json_string_or_null(arguments->operands[0]));
        json_object_set_new(object, "ok", json_boolean(status == SQF_OK));
        json_object_set_new(object, "items", json_count(summary.items));
        json_object_set_new(object, "tensors", json_count(summary.tensors));
        json_object_set_new(object, "hashed", json_count(summary.hashed));
        json_object_set_new(object, "bytes", json_count(summary.bytes));
        json_object_set(object, "problems", f.problems);
        const int written = print_json(object);
        code = code == EXIT_DONE ? written : code;
    } else if (status == SQF_OK) {
        char bytes[32];
        format_bytes(summary.bytes, bytes);
        printf("%s: ok, %zu items, %zu tensors of %s, %zu with a recorded hash\n", arguments->operands[0],
               summary.items, summary.tensors, bytes, summary.hashed);
    }
    json_decref(f.problems);
    return code;
}

static int inspect(sqf_context *context, const cli_arguments *arguments)
{
    sqf_inspection *inspection;
    sqf_error err = {0};
    if (sqf_inspection_open(context, arguments->operands[0], &inspection, &err) != SQF_OK) {
        return fail_error(&err);
    }
    const int code =
        arguments->operand_count == 2 ? inspect_one(inspection, arguments) : inspect_all(inspection, arguments);
    sqf_inspection_close(inspection);
    return code;
}

static int run_inspect(const cli_arguments *arguments)
{
    if (arguments_given(arguments, "check") && arguments->operand_count == 2) {
        return fail_usage("inspect: --check looks at the whole model, found the tensor %.100s", arguments->operands[1]);
    }
    sqf_context *context;
    int code = context_open(arguments, &context);
    if (code == EXIT_DONE) {
        code = arguments_given(arguments, "check") ? check(context, arguments) : inspect(context, arguments);
        sqf_context_destroy(context);
    }
    return code;
}

const cli_command *inspect_command(void)
{
    static const cli_option options[] = {
        {.name = "check",
         .text = "read everything: hashes, codes, counts, scales, NaN, tokenizer; every problem is a line on standard "
                 "error and the exit code is 1"},
    };
    static const char *const examples[] = {"sqf inspect models/demo", "sqf inspect demo-sq6 --check",
                                           "sqf inspect demo-sq6 model.layers.0.mlp.down_proj --json", NULL};
    static const cli_command command = {
        .name = "inspect",
        .operands = "MODEL [TENSOR]",
        .least_operands = 1,
        .most_operands = 2,
        .summary = "show architecture, tensors, schemes, bits and masks; check a model",
        .description =
            "Prints the model's sizes and one line for each quantized module and each other tensor, with stored and "
            "equivalent bits. With TENSOR, the name of a module or tensor, prints its scheme in full and how its "
            "codes, scales and masks are distributed.\n\n"
            "JSON members: model, architecture, scheme, hidden, intermediate, layers, heads, kv_heads, head_dim, "
            "vocabulary, positions, parameters, quantized_weights, weight_bytes, bits_per_weight, "
            "weights_equivalent_bits, activations_equivalent_bits, low_rate_share, cost (these five of the decoder's "
            "linear layers), output_scheme, embedding_scheme, bits_per_parameter (all tensors), token_bytes (that a "
            "decoded token reads), output_cost (of the output matrix), rotation, tensors (name, quantized, scheme or "
            "dtype, "
            "shape, bytes, bits_stored, bits_equivalent, low_rate_share and cost of linear layers, ...). With TENSOR "
            "the object of that tensor, and of a quantized module also high, high_share, columns_never_high, "
            "columns_always_high, busiest_share, low_zero_share, low_limit_share, scale_low, scale_high, "
            "channels_high. With --check: model, ok, items, tensors, hashed, bytes, problems (item, status, text).",
        .options = options,
        .option_count = sizeof options / sizeof options[0],
        .examples = examples,
        .run = run_inspect,
    };
    return &command;
}

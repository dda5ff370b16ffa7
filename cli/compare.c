/* sqf compare: how the weights of two models differ. Text is printed tensor by tensor as the library finds it, JSON
 * is gathered and printed as one object at the end. */
#include <inttypes.h>
#include <stdio.h>

#include <sqf/inspect.h>

#include "command.h"
#include "output.h"

/* Where the tensors go. The array is made for text too and stays empty then. */
typedef struct listing {
    bool json;
    json_t *tensors;
} listing;

/* The library's callback: one tensor, printed at once or kept. */
static void take_entry(void *user, const sqf_compare_entry *entry)
{
    listing *list = user;
    if (!list->json) {
        progress_clear();
        printf("%-46s %6zux%-6zu error %-10.4g largest %-10.4g", entry->name, entry->rows, entry->columns,
               entry->relative_error, entry->largest_error);
        if (entry->codes_compared) {
            printf(" %" PRIu64 " codes and %" PRIu64 " scales differ", entry->differing_codes, entry->differing_scales);
        }
        printf("%s\n", entry->unfolded ? " (unfolded)" : "");
        return;
    }
    json_t *object = json_object();
    json_object_set_new(object, "name", json_string_or_null(entry->name));
    json_object_set_new(object, "rows", json_count(entry->rows));
    json_object_set_new(object, "columns", json_count(entry->columns));
    json_object_set_new(object, "relative_error", json_number(entry->relative_error));
    json_object_set_new(object, "largest_error", json_number(entry->largest_error));
    json_object_set_new(object, "unfolded", json_boolean(entry->unfolded));
    json_object_set_new(object, "differing_codes",
                        entry->codes_compared ? json_count(entry->differing_codes) : json_null());
    json_object_set_new(object, "differing_scales",
                        entry->codes_compared ? json_count(entry->differing_scales) : json_null());
    json_array_append_new(list->tensors, object);
}

static int print_summary_json(const cli_arguments *arguments, const listing *list, const sqf_compare_summary *summary)
{
    json_t *object = json_object();
    json_object_set_new(object, "a", json_string_or_null(arguments->operands[0]));
    json_object_set_new(object, "b", json_string_or_null(arguments->operands[1]));
    json_object_set_new(object, "identical", json_boolean(summary->identical == summary->tensors));
    json_object_set_new(object, "relative_error", json_number(summary->relative_error));
    json_object_set_new(object, "unfolded", json_boolean(summary->unfolded));
    json_object_set_new(object, "codes", json_count(summary->codes));
    json_object_set_new(object, "differing_codes", json_count(summary->differing_codes));
    json_object_set_new(object, "differing_scales", json_count(summary->differing_scales));
    json_object_set(object, "tensors", list->tensors);
    return print_json(object);
}

static void print_summary(const sqf_compare_summary *summary)
{
    printf("%zu of %zu tensors are identical; relative error over all %.4g\n", summary->identical, summary->tensors,
           summary->relative_error);
    if (summary->codes_compared > 0) {
        printf("%" PRIu64 " of %" PRIu64 " codes and %" PRIu64 " scales differ\n", summary->differing_codes,
               summary->codes, summary->differing_scales);
    }
    if (summary->unfolded) {
        printf("norms differ: smoothing was undone before comparing (unfolded)\n");
    }
}

static int run_compare(const cli_arguments *arguments)
{
    sqf_context *context;
    int code = context_open(arguments, &context);
    if (code != EXIT_DONE) {
        return code;
    }
    listing list = {.json = arguments_given(arguments, "json"), .tensors = json_array()};
    sqf_compare_summary summary;
    sqf_error err = {0};
    const sqf_status status =
        sqf_compare_models(context, arguments->operands[0], arguments->operands[1], take_entry, &list, &summary, &err);
    progress_clear();
    if (status != SQF_OK) {
        code = fail_error(&err);
    } else if (list.json) {
        code = print_summary_json(arguments, &list, &summary);
    } else {
        print_summary(&summary);
    }
    json_decref(list.tensors);
    sqf_context_destroy(context);
    return code;
}

const cli_command *compare_command(void)
{
    static const char *const examples[] = {"sqf compare models/demo demo-sq6",
                                           "sqf compare made-here made-there --json", NULL};
    static const cli_command command = {
        .name = "compare",
        .operands = "A B",
        .least_operands = 2,
        .most_operands = 2,
        .summary = "compare the weights of two models of one shape",
        .description =
            "Prints for each tensor the relative error ||A - B|| / ||A|| and the largest difference of an element, of "
            "dequantized weights where they are quantized. Of two matrices that are quantized alike it also counts "
            "the codes and scales that differ.\n\n"
            "SmoothQuant moves factors between a matrix and what stands before it without changing the model. Where "
            "the norms of a layer differ, this is undone for B before comparing: with the quotient of the norms for "
            "q, k, v, gate and up, and with the factor that fits best for each channel of v and up, which o and down "
            "share. What remains is the error of quantization.\n\n"
            "JSON members: a, b, identical, relative_error, unfolded, codes, differing_codes, differing_scales, "
            "tensors (name, rows, columns, relative_error, largest_error, unfolded, differing_codes, "
            "differing_scales; the last two are null where the two are not quantized alike).",
        .examples = examples,
        .run = run_compare,
    };
    return &command;
}

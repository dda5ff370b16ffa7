/* sqf schemes: what every name means, with bits. Needs no model and no context: names and their bits are arithmetic. */
#include <stdio.h>

#include <sqf/cost.h>
#include <sqf/format.h>

#include "command.h"
#include "output.h"

/* All that is known of a scheme without a model. */
static json_t *scheme_json(const char *name, const char *shell_name, const char *description, const sqf_scheme *scheme)
{
    const sqf_scheme_bits bits = sqf_scheme_bits_of(scheme);
    char text[SQF_SCHEME_TEXT];
    sqf_scheme_print(scheme, SQF_SPELLING_LONG, text);
    json_t *object = json_object();
    json_object_set_new(object, "name", json_string(name));
    json_object_set_new(object, "shell_name", json_string(shell_name));
    json_object_set_new(object, "description", json_string_or_null(description));
    json_object_set_new(object, "long_name", json_string(text));
    json_object_set_new(object, "weights_equivalent_bits", json_number(bits.weights_equivalent));
    json_object_set_new(object, "activations_equivalent_bits", json_number(bits.activations_equivalent));
    json_object_set_new(object, "weights_stored_bits", json_number(bits.weights_stored));
    json_object_set_new(object, "low_rate_share", json_number(bits.low_rate_share));
    json_object_set_new(object, "cost", json_number(sqf_scheme_cost(scheme, NULL)));
    return object;
}

/* The entries of the table, or the one scheme that was asked for. */
typedef struct listing {
    bool json, long_names;
    json_t *array;
} listing;

/* One scheme as a line or as a member of the JSON array. */
static void list_scheme(listing *list, const char *name, const char *shell_name, const char *description,
                        const sqf_scheme *scheme)
{
    if (list->json) {
        json_array_append_new(list->array, scheme_json(name, shell_name, description, scheme));
        return;
    }
    const sqf_scheme_bits bits = sqf_scheme_bits_of(scheme);
    printf("%-23s %-24s %8.4g %8.4g %8.4g %7.1f %% %7.3f  %s\n", name, shell_name, bits.weights_equivalent,
           bits.activations_equivalent, bits.weights_stored, 100 * bits.low_rate_share, sqf_scheme_cost(scheme, NULL),
           description);
    if (list->long_names) {
        char text[SQF_SCHEME_TEXT];
        sqf_scheme_print(scheme, SQF_SPELLING_LONG, text);
        printf("    %s\n", text);
    }
}

static void print_heading(const listing *list)
{
    if (!list->json) {
        printf("%-23s %-24s %8s %8s %8s %9s %7s  %s\n", "scheme", "in a shell", "weights", "acts", "stored", "low rate",
               "cost", "meaning");
    }
}

/* Any scheme in any spelling, with its other names. */
static sqf_status list_one(listing *list, const char *text, sqf_error *err)
{
    sqf_scheme scheme;
    char name[SQF_SCHEME_TEXT], shell_name[SQF_SCHEME_TEXT];
    const sqf_status status = sqf_scheme_parse(text, &scheme, err);
    if (status == SQF_OK) {
        sqf_scheme_print(&scheme, SQF_SPELLING_SHORT, name);
        sqf_scheme_print(&scheme, SQF_SPELLING_SHELL, shell_name);
        list->long_names = true;
        print_heading(list);
        list_scheme(list, name, shell_name, "", &scheme);
    }
    return status;
}

static sqf_status list_all(listing *list, bool rivals, sqf_error *err)
{
    size_t count;
    const sqf_scheme_entry *entries = rivals ? sqf_scheme_rivals(&count) : sqf_scheme_list(&count);
    print_heading(list);
    for (size_t i = 0; i < count; i++) {
        sqf_scheme scheme;
        const sqf_status status = sqf_scheme_parse(entries[i].name, &scheme, err);
        if (status != SQF_OK) {
            return status;
        }
        list_scheme(list, entries[i].name, entries[i].shell_name, entries[i].description, &scheme);
    }
    return SQF_OK;
}

static int run_schemes(const cli_arguments *arguments)
{
    listing list = {.json = arguments_given(arguments, "json"),
                    .long_names = arguments_given(arguments, "verbose"),
                    .array = json_array()};
    sqf_error err = {0};
    const sqf_status status = arguments->operand_count == 1
                                  ? list_one(&list, arguments->operands[0], &err)
                                  : list_all(&list, arguments_given(arguments, "rivals"), &err);
    int code = status == SQF_OK ? EXIT_DONE : fail_error(&err);
    if (code == EXIT_DONE && list.json) {
        json_t *object = json_object();
        json_object_set(object, "schemes", list.array);
        code = print_json(object);
    }
    json_decref(list.array);
    return code;
}

const cli_command *schemes_command(void)
{
    static const cli_option options[] = {
        {.name = "rivals", .kind = OPTION_FLAG, .text = "list schemes of other methods instead, see docs/rivals.md"},
    };
    static const char *const examples[] = {"sqf schemes", "sqf schemes 'W(64-(8/4)-0.9375)A8'", "sqf schemes --rivals",
                                           "sqf schemes --json", NULL};
    static const cli_command command = {
        .name = "schemes",
        .operands = "[SCHEME]",
        .most_operands = 1,
        .summary = "list the named schemes, or explain one",
        .description =
            "Prints what the names of schemes mean: equivalent bits of weights and activations (y = (1-s)*h + s*l), "
            "stored bits per weight (codes, masks and scales, for whole banks), the share of multiply-accumulates "
            "with both operands at 4 bits or fewer, and the predicted cost of one product in units of an 8-bit "
            "product, the scaling of sums included. With SCHEME, in any spelling that sqf quantize accepts, explains "
            "that one; -v adds the long form of each, which names every field.",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .examples = examples,
        .run = run_schemes,
    };
    return &command;
}

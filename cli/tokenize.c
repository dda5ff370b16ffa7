/* sqf tokenize: bytes to ids and back. Needs the tokenizer's files alone. Input is taken whole and as bytes: what is
 * not UTF-8 still has ids, and what comes back is what went in. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqf/tokenizer.h>

#include "command.h"
#include "output.h"

/* Ids on one line, as --decode reads them back. */
static int print_ids(const sqf_ids *ids, bool json)
{
    if (!json) {
        for (size_t i = 0; i < ids->count; i++) {
            printf("%s%" PRIu32, i ? " " : "", ids->data[i]);
        }
        putchar('\n');
        return EXIT_DONE;
    }
    json_t *array = json_array();
    for (size_t i = 0; i < ids->count; i++) {
        json_array_append_new(array, json_integer(ids->data[i]));
    }
    json_t *object = json_object();
    json_object_set_new(object, "count", json_count(ids->count));
    json_object_set_new(object, "ids", array);
    return print_json(object);
}

/* Bytes to ids. */
static int encode(const sqf_tokenizer *tokenizer, const char *bytes, size_t n, const cli_arguments *arguments)
{
    sqf_ids ids = {0};
    sqf_error err = {0};
    int code;
    if (sqf_tokenizer_encode(tokenizer, bytes, n, arguments_given(arguments, "special"), &ids, &err) == SQF_OK) {
        code = print_ids(&ids, arguments_given(arguments, "json"));
    } else {
        code = fail_error(&err);
    }
    sqf_ids_clear(&ids);
    return code;
}

/* Reads decimal numbers separated by white space into a new array. */
static int parse_ids(const char *bytes, size_t n, uint32_t **out, size_t *count)
{
    static const char blanks[] = " \t\r\n";
    uint32_t *ids = malloc((n / 2 + 1) * sizeof *ids);
    *count = 0;
    for (size_t i = 0; ids && i < n;) {
        if (memchr(blanks, bytes[i], sizeof blanks - 1)) {
            i++;
            continue;
        }
        const size_t start = i;
        uint64_t value = 0;
        while (i < n && bytes[i] >= '0' && bytes[i] <= '9' && value <= UINT32_MAX) {
            value = value * 10 + (uint64_t)(bytes[i++] - '0');
        }
        if (value > UINT32_MAX || (i < n && !memchr(blanks, bytes[i], sizeof blanks - 1))) {
            free(ids);
            return fail_input("standard input: byte %zu: expected ids separated by blanks", start);
        }
        ids[(*count)++] = (uint32_t)value;
    }
    *out = ids;
    return ids ? EXIT_DONE : fail_input("standard input: out of memory");
}

/* Without --json exactly the bytes, no line end added: the round trip is exact. */
static int print_text(const char *text, size_t n, bool json)
{
    if (!json) {
        fwrite(text, 1, n, stdout);
        return EXIT_DONE;
    }
    json_t *object = json_object();
    json_object_set_new(object, "text", json_text(text, n));
    return print_json(object);
}

/* Ids to bytes. */
static int decode(const sqf_tokenizer *tokenizer, const char *bytes, size_t n, const cli_arguments *arguments)
{
    uint32_t *ids = NULL;
    size_t count;
    int code = parse_ids(bytes, n, &ids, &count);
    if (code != EXIT_DONE) {
        return code;
    }
    char *text = NULL;
    size_t length;
    sqf_error err = {0};
    if (sqf_tokenizer_decode(tokenizer, ids, count, arguments_given(arguments, "special"), &text, &length, &err) ==
        SQF_OK) {
        code = print_text(text, length, arguments_given(arguments, "json"));
    } else {
        code = fail_error(&err);
    }
    free(text);
    free(ids);
    return code;
}

static int run_tokenize(const cli_arguments *arguments)
{
    sqf_tokenizer *tokenizer;
    sqf_error err = {0};
    if (sqf_tokenizer_load(arguments->operands[0], &tokenizer, &err) != SQF_OK) {
        return fail_error(&err);
    }
    char *bytes = NULL;
    size_t n;
    int code = read_standard_input(&bytes, &n);
    if (code == EXIT_DONE) {
        code = arguments_given(arguments, "decode") ? decode(tokenizer, bytes, n, arguments)
                                                    : encode(tokenizer, bytes, n, arguments);
    }
    free(bytes);
    sqf_tokenizer_destroy(tokenizer);
    return code;
}

const cli_command *tokenize_command(void)
{
    static const cli_option options[] = {
        {.name = "decode", .text = "read ids, print the bytes that they stand for and nothing else"},
        {.name = "special",
         .text =
             "put the special tokens around the text that the tokenizer prescribes; with --decode leave the special "
             "tokens out, so that the two undo each other"},
    };
    static const char *const examples[] = {"printf 'Hello, world!' | sqf tokenize models/demo",
                                           "echo 39 524 78 11 869 0 | sqf tokenize models/demo --decode", NULL};
    static const cli_command command = {
        .name = "tokenize",
        .operands = "MODEL",
        .least_operands = 1,
        .most_operands = 1,
        .summary = "turn text into token ids and back",
        .description =
            "Reads bytes from standard input to its end and prints their token ids, separated by blanks, on one line. "
            "A line end at the end of the input counts as text. Needs tokenizer.json (and tokenizer_config.json, "
            "where there is one) in the directory MODEL; no weights.",
        .options = options,
        .option_count = sizeof options / sizeof options[0],
        .examples = examples,
        .run = run_tokenize,
    };
    return &command;
}

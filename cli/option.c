/* Reading command lines by tables of options, in the manner of getopt_long: --name value, --name=value, -n value,
 * -n5, flags joined as -qv, -- ends options, a lone - is an operand. Options and operands may be mixed.
 *
 * Values are checked against their row while parsing, so a wrong one is reported before any work begins, with the
 * option's name, the value and what is expected. They are kept as text and converted when asked for. */
#include "option.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const cli_option common_options[] = {
    {.name = "json", .text = "print the result as one JSON object on standard output"},
    {.name = "threads",
     .kind = OPTION_COUNT,
     .value = "N",
     .standard = "0",
     .most = 1024,
     .text = "threads to compute with; 0 means one for each processor. Results do not depend on it"},
    {.name = "quiet", .letter = 'q', .text = "print errors and the result only, no talk and no progress"},
    {.name = "verbose", .letter = 'v', .text = "print more of what is being done"},
    {.name = "help", .letter = 'h', .text = "print this help"},
};
const size_t common_option_count = sizeof common_options / sizeof common_options[0];

/* By a name of `length` bytes that need not end there ("--name=value"). */
static const cli_option *find_in(const cli_option *options, size_t count, const char *name, size_t length)
{
    for (size_t i = 0; i < count; i++) {
        if (strlen(options[i].name) == length && memcmp(options[i].name, name, length) == 0) {
            return &options[i];
        }
    }
    return NULL;
}

/* A command's own options come before the common ones. */
static const cli_option *find_name(const cli_command *command, const char *name, size_t length)
{
    const cli_option *found = find_in(command->options, command->option_count, name, length);
    return found ? found : find_in(common_options, common_option_count, name, length);
}

/* As find_name, for the short spelling. */
static const cli_option *find_letter(const cli_command *command, char letter)
{
    const struct {
        const cli_option *options;
        size_t count;
    } tables[] = {{command->options, command->option_count}, {common_options, common_option_count}};
    for (size_t t = 0; t < 2; t++) {
        for (size_t i = 0; i < tables[t].count; i++) {
            if (tables[t].options[i].letter == letter) {
                return &tables[t].options[i];
            }
        }
    }
    return NULL;
}

/* Decimal digits alone: no sign, no blank, no other base. */
static bool parse_count(const char *text, uint64_t *out)
{
    if (*text == '\0' || text[strspn(text, "0123456789")] != '\0') {
        return false;
    }
    errno = 0;
    *out = strtoull(text, NULL, 10);
    return errno == 0;
}

/* A decimal number: no hexadecimal, no "inf" or "nan", no blanks; strtod would take them all. */
static bool parse_real(const char *text, double *out)
{
    if (*text == '\0' || text[strspn(text, "0123456789.eE+-")] != '\0') {
        return false;
    }
    char *end;
    *out = strtod(text, &end);
    return *end == '\0' && isfinite(*out);
}

/* Choices are spelled exactly: no abbreviations that a later choice could make ambiguous. */
static bool find_choice(const cli_option *option, const char *text, size_t *index)
{
    for (size_t i = 0; option->choices[i]; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            *index = i;
            return true;
        }
    }
    return false;
}

/* Appends to a text of limited size; what does not fit is cut. */
static void append(char *text, size_t size, const char *more)
{
    const size_t used = strlen(text);
    if (used + 1 < size) {
        snprintf(text + used, size - used, "%s", more);
    }
}

/* The ranges of the table in words; the same text in messages and in help. */
void option_expected(const cli_option *option, char *text, size_t size)
{
    switch (option->kind) {
    case OPTION_COUNT:
        if (option->most == UINT64_MAX) {
            snprintf(text, size, "a whole number from %" PRIu64, option->least);
        } else {
            snprintf(text, size, "a whole number from %" PRIu64 " to %" PRIu64, option->least, option->most);
        }
        break;
    case OPTION_REAL: snprintf(text, size, "a number from %g to %g", option->low, option->high); break;
    case OPTION_CHOICE:
        snprintf(text, size, "one of ");
        for (size_t i = 0; option->choices[i]; i++) {
            append(text, size, i ? ", " : "");
            append(text, size, option->choices[i]);
        }
        break;
    default: snprintf(text, size, "%s", option->value ? option->value : "no value"); break;
    }
}

/* Whether the value means something for this row of the table. */
static bool value_valid(const cli_option *option, const char *text)
{
    uint64_t count;
    double real;
    size_t index;
    switch (option->kind) {
    case OPTION_COUNT: return parse_count(text, &count) && count >= option->least && count <= option->most;
    case OPTION_REAL: return parse_real(text, &real) && real >= option->low && real <= option->high;
    case OPTION_CHOICE: return find_choice(option, text, &index);
    default: return true;
    }
}

/* Found first, then expected, then the default, if there is one: "--bank 65: expected a number from ... (default
 * 64)". */
bool option_check(const cli_option *option, const char *text, char message[USAGE_TEXT])
{
    if (value_valid(option, text)) {
        return true;
    }
    char expected[USAGE_TEXT / 2];
    option_expected(option, expected, sizeof expected);
    snprintf(message, USAGE_TEXT, "--%s %.100s: expected %s%s%s%s", option->name, text, expected,
             option->standard ? " (default " : "", option->standard ? option->standard : "",
             option->standard ? ")" : "");
    return false;
}

/* Adds a value that was checked; text is NULL for a flag. The arrays have room for one entry a character. */
static bool take_value(cli_arguments *out, const cli_option *option, const char *text, char *message)
{
    if (option->kind != OPTION_FLAG && !option_check(option, text, message)) {
        return false;
    }
    out->values[out->value_count++] = (option_value){option, text};
    return true;
}

static bool fail_unknown(const cli_command *command, const char *word, int length, char *message)
{
    snprintf(message, USAGE_TEXT, "%.*s: unknown option, see sqf %s --help", length > 100 ? 100 : length, word,
             command->name);
    return false;
}

/* "--name value", "--name=value". *next counts the words that were used up. */
static bool take_long(const cli_command *command, int count, char **argv, int *next, cli_arguments *out, char *message)
{
    const char *word = argv[*next];
    const size_t length = strcspn(word + 2, "=");
    const cli_option *option = find_name(command, word + 2, length);
    if (!option) {
        return fail_unknown(command, word, (int)length + 2, message);
    }
    const char *text = word[2 + length] == '=' ? word + 3 + length : NULL;
    *next += 1;
    if (option->kind == OPTION_FLAG) {
        if (text) {
            snprintf(message, USAGE_TEXT, "--%s: takes no value, found '%.100s'", option->name, text);
            return false;
        }
    } else if (!text) {
        if (*next == count) {
            snprintf(message, USAGE_TEXT, "--%s: expected a value (%s)", option->name,
                     option->value ? option->value : "see --help");
            return false;
        }
        text = argv[(*next)++];
    }
    return take_value(out, option, text, message);
}

/* "-qv", "-n 4", "-n4". */
static bool take_short(const cli_command *command, int count, char **argv, int *next, cli_arguments *out, char *message)
{
    const char *word = argv[(*next)++];
    for (const char *letter = word + 1; *letter; letter++) {
        const cli_option *option = find_letter(command, *letter);
        if (!option) {
            return fail_unknown(command, word, (int)strlen(word), message);
        }
        const char *text = NULL;
        if (option->kind != OPTION_FLAG) {
            if (letter[1] != '\0') {
                text = letter + 1;
            } else if (*next < count) {
                text = argv[(*next)++];
            } else {
                snprintf(message, USAGE_TEXT, "-%c: expected a value (%s)", *letter, option->value);
                return false;
            }
        }
        if (!take_value(out, option, text, message)) {
            return false;
        }
        if (text) {
            break;
        }
    }
    return true;
}

/* What can only be said at the end of the line: operands, and options that must be there. */
static bool check_complete(const cli_arguments *arguments, char *message)
{
    const cli_command *command = arguments->command;
    if (arguments->operand_count > command->most_operands) {
        snprintf(message, USAGE_TEXT, "%.100s: unexpected, usage: sqf %s%s%s [options]",
                 arguments->operands[command->most_operands], command->name, *command->operands ? " " : "",
                 command->operands);
        return false;
    }
    if (arguments->operand_count < command->least_operands) {
        snprintf(message, USAGE_TEXT, "%s: expected %s, see sqf %s --help", command->name, command->operands,
                 command->name);
        return false;
    }
    for (size_t i = 0; i < command->option_count; i++) {
        if (command->options[i].required && !arguments_given(arguments, command->options[i].name)) {
            snprintf(message, USAGE_TEXT, "%s: --%s is missing, see sqf %s --help", command->name,
                     command->options[i].name, command->name);
            return false;
        }
    }
    return true;
}

/* Help wins over every mistake on the same line, so that it can be asked for at any point. */
static bool asks_for_help(const cli_command *command, int count, char **argv)
{
    for (int i = 0; i < count && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
        /* the word after an option with a value is that value, even where it looks like an option */
        const cli_option *option = NULL;
        if (strncmp(argv[i], "--", 2) == 0) {
            option = find_name(command, argv[i] + 2, strlen(argv[i] + 2));
        } else if (argv[i][0] == '-' && argv[i][1] != '\0' && argv[i][2] == '\0') {
            option = find_letter(command, argv[i][1]);
        }
        i += option && option->kind != OPTION_FLAG;
    }
    return false;
}

bool arguments_parse(const cli_command *command, int count, char **argv, cli_arguments *out, char message[USAGE_TEXT])
{
    *out = (cli_arguments){.command = command};
    size_t room = 1;
    for (int i = 0; i < count; i++) {
        room += strlen(argv[i]) + 1; /* "-qv" is several values in one word */
    }
    out->values = calloc(room, sizeof *out->values);
    out->operands = calloc(room, sizeof *out->operands);
    if (!out->values || !out->operands) {
        snprintf(message, USAGE_TEXT, "out of memory");
        return false;
    }
    /* before anything is checked */
    if (asks_for_help(command, count, argv)) {
        out->help = true;
        return true;
    }
    bool options_ended = false;
    for (int next = 0; next < count;) {
        const char *word = argv[next];
        bool fine = true;
        if (options_ended || word[0] != '-' || word[1] == '\0') {
            out->operands[out->operand_count++] = word;
            next++;
        } else if (strcmp(word, "--") == 0) {
            options_ended = true;
            next++;
        } else if (word[1] == '-') {
            fine = take_long(command, count, argv, &next, out, message);
        } else {
            fine = take_short(command, count, argv, &next, out, message);
        }
        if (!fine) {
            return false;
        }
    }
    return check_complete(out, message);
}

void arguments_clear(cli_arguments *arguments)
{
    free(arguments->values);
    free(arguments->operands);
    *arguments = (cli_arguments){0};
}

/* The last occurrence counts. */
static const option_value *find_value(const cli_arguments *arguments, const char *name)
{
    for (size_t i = arguments->value_count; i-- > 0;) {
        if (strcmp(arguments->values[i].option->name, name) == 0) {
            return &arguments->values[i];
        }
    }
    return NULL;
}

bool arguments_given(const cli_arguments *arguments, const char *name)
{
    return find_value(arguments, name) != NULL;
}

/* Options of the common table are found under any command. */
const char *arguments_text(const cli_arguments *arguments, const char *name)
{
    const option_value *value = find_value(arguments, name);
    if (value) {
        return value->text;
    }
    const cli_option *option = find_name(arguments->command, name, strlen(name));
    return option ? option->standard : NULL;
}

/* Conversions cannot fail: given values were checked while parsing, defaults are the tables' own. */
uint64_t arguments_count(const cli_arguments *arguments, const char *name)
{
    const char *text = arguments_text(arguments, name);
    return text ? strtoull(text, NULL, 10) : 0;
}

double arguments_real(const cli_arguments *arguments, const char *name)
{
    const char *text = arguments_text(arguments, name);
    return text ? strtod(text, NULL) : 0;
}

/* The first choice stands in where nothing was given and nothing is the default. */
size_t arguments_choice(const cli_arguments *arguments, const char *name)
{
    const char *text = arguments_text(arguments, name);
    const cli_option *option = find_name(arguments->command, name, strlen(name));
    size_t index = 0;
    if (text && option) {
        find_choice(option, text, &index);
    }
    return index;
}

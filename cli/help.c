/* sqf help: the option tables as text for the terminal, wrapped to a fixed width, because help is also read through
 * pipes and pagers. The manual in its other forms is manual.c. */
#include <inttypes.h>
#include <string.h>

#include "command.h"
#include "output.h"

enum { HELP_WIDTH = 100, OPTION_COLUMN = 28 }; /* in characters */

/* Breaks a paragraph at blanks. The first line begins at `column`, the others are indented by `indent`. */
static void print_wrapped(FILE *file, const char *text, size_t length, int column, int indent)
{
    const char *end = text + length;
    bool first_word = true;
    while (text < end) {
        const char *blank = memchr(text, ' ', (size_t)(end - text));
        const int word = (int)((blank ? blank : end) - text);
        if (!first_word && column + 1 + word > HELP_WIDTH) {
            fprintf(file, "\n%*s", indent, "");
            column = indent;
            first_word = true;
        }
        fprintf(file, "%s%.*s", first_word ? "" : " ", word, text);
        column += word + !first_word;
        first_word = false;
        text += word + (blank ? 1 : 0);
        text = blank ? text : end;
    }
    fputc('\n', file);
}

/* Paragraphs separated by empty lines; one that begins with a blank is printed as it is. */
static void print_paragraphs(FILE *file, const char *text)
{
    while (*text) {
        const char *next = strstr(text, "\n\n");
        const size_t length = next ? (size_t)(next - text) : strlen(text);
        if (*text == ' ') {
            fprintf(file, "%.*s\n", (int)length, text);
        } else {
            print_wrapped(file, text, length, 0, 0);
        }
        if (!next) {
            break;
        }
        fputc('\n', file);
        text = next + 2;
    }
}

/* A spelling too long for its column gets a line of its own. */
static void print_options(FILE *file, const char *title, const cli_option *options, size_t count)
{
    fprintf(file, "\n%s:\n", title);
    for (size_t i = 0; i < count; i++) {
        char spelling[SPELLING_TEXT], sentence[SENTENCE_TEXT];
        option_spelling(&options[i], spelling, sizeof spelling);
        option_sentence(&options[i], sentence, sizeof sentence);
        int column = fprintf(file, "  %s", spelling);
        if (column + 2 > OPTION_COLUMN) {
            fputc('\n', file);
            column = 0;
        }
        fprintf(file, "%*s", OPTION_COLUMN - column, "");
        print_wrapped(file, sentence, strlen(sentence), OPTION_COLUMN, OPTION_COLUMN);
    }
}

void help_print_command(FILE *file, const cli_command *command)
{
    fprintf(file, "usage: sqf %s%s%s [options]\n\n", command->name, *command->operands ? " " : "", command->operands);
    print_paragraphs(file, command->description);
    if (command->option_count) {
        print_options(file, "options", command->options, command->option_count);
    }
    print_options(file, "common options", common_options, common_option_count);
    fputs("\nexamples:\n", file);
    for (size_t i = 0; command->examples[i]; i++) {
        fprintf(file, "  %s\n", command->examples[i]);
    }
}

void help_print_overview(FILE *file)
{
    fprintf(file, "sqf: %s\n\nusage: sqf COMMAND [operands] [options]\n\ncommands:\n", program_summary);
    for (size_t i = 0; commands[i]; i++) {
        const cli_command *command = commands[i]();
        fprintf(file, "  %-10s  %s\n", command->name, command->summary);
    }
    fputs("\nsqf COMMAND --help describes a command and its options.\n\n", file);
    print_paragraphs(file, program_notes);
}

/* Without an operand the overview; the other forms of the manual are options of this command. */
static int run_help(const cli_arguments *arguments)
{
    if (arguments_given(arguments, "markdown")) {
        manual_print_markdown(stdout);
        return EXIT_DONE;
    }
    if (arguments_given(arguments, "man")) {
        return manual_write_pages(arguments_text(arguments, "man"));
    }
    if (arguments->operand_count == 0) {
        help_print_overview(stdout);
        return EXIT_DONE;
    }
    const cli_command *command = command_find(arguments->operands[0]);
    if (!command) {
        return fail_usage("%.100s: unknown command, see sqf help", arguments->operands[0]);
    }
    help_print_command(stdout, command);
    return EXIT_DONE;
}

const cli_command *help_command(void)
{
    static const cli_option options[] = {
        {.name = "markdown", .text = "print the whole manual as markdown (docs/cli.md)"},
        {.name = "man",
         .kind = OPTION_TEXT,
         .value = "DIR",
         .text = "write the manual as man pages sqf.1, sqf-COMMAND.1 into this directory"},
    };
    static const char *const examples[] = {"sqf help quantize", "sqf help --man build/man1", NULL};
    static const cli_command command = {
        .name = "help",
        .operands = "[COMMAND]",
        .most_operands = 1,
        .summary = "print help",
        .description = "Prints what the program or one of its commands does, or writes the manual in other forms. "
                       "All forms are made from the same tables that read the command line.",
        .options = options,
        .option_count = sizeof options / sizeof options[0],
        .examples = examples,
        .run = run_help,
    };
    return &command;
}

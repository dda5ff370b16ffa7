/* The manual from the option tables: markdown for docs/cli.md and troff for the man pages. Both are written by the
 * same functions with another `form`; a test compares docs/cli.md with what this prints, so the page in the
 * repository cannot fall behind the program. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <sqf/context.h>

#include "command.h"
#include "output.h"

/* One form of the manual: how text is escaped and what stands around headings, options and literal blocks. */
typedef struct form {
    const char *special;      /* characters that are escaped */
    const char *escape;       /* what is put before them */
    const char *paragraph;    /* before a paragraph */
    const char *option_begin; /* before an option's spelling */
    const char *option_end;   /* between the spelling and its text */
    const char *option_done;  /* after the text */
    const char *code_begin, *code_end;
} form;

static const form markdown = {
    .special = "*_<>|",
    .escape = "\\",
    .paragraph = "\n",
    .option_begin = "- `",
    .option_end = "`: ",
    .option_done = "\n",
    .code_begin = "\n```\n",
    .code_end = "```\n",
};

/* A hyphen is written \- so that options can be searched and copied. */
static const form troff = {
    .special = "-\\",
    .escape = "\\",
    .paragraph = ".PP\n",
    .option_begin = ".TP\n\\fB",
    .option_end = "\\fR\n",
    .option_done = "\n",
    .code_begin = ".PP\n.nf\n",
    .code_end = ".fi\n",
};

static void print_escaped(FILE *file, const form *f, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (strchr(f->special, text[i])) {
            fputs(f->escape, file);
        }
        fputc(text[i], file);
    }
}

/* Literal text: markdown needs no escapes there. */
static void print_code(FILE *file, const form *f, const char *text, size_t length)
{
    if (f == &markdown) {
        fwrite(text, 1, length, file);
    } else {
        print_escaped(file, f, text, length);
    }
}

/* Paragraphs separated by empty lines; one that begins with a blank is literal text. */
static void print_paragraphs(FILE *file, const form *f, const char *text)
{
    while (*text) {
        const char *next = strstr(text, "\n\n");
        const size_t length = next ? (size_t)(next - text) : strlen(text);
        if (*text == ' ') {
            fputs(f->code_begin, file);
            print_code(file, f, text, length);
            fprintf(file, "\n%s", f->code_end);
        } else {
            fputs(f->paragraph, file);
            print_escaped(file, f, text, length);
            fputc('\n', file);
        }
        if (!next) {
            break;
        }
        text = next + 2;
    }
}

/* One entry an option: spelling, then text. */
static void print_options(FILE *file, const form *f, const cli_option *options, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char spelling[SPELLING_TEXT], sentence[SENTENCE_TEXT];
        option_spelling(&options[i], spelling, sizeof spelling);
        option_sentence(&options[i], sentence, sizeof sentence);
        fputs(f->option_begin, file);
        print_code(file, f, spelling, strlen(spelling));
        fputs(f->option_end, file);
        print_escaped(file, f, sentence, strlen(sentence));
        fputs(f->option_done, file);
    }
}

/* As one literal block. */
static void print_examples(FILE *file, const form *f, const cli_command *command)
{
    fputs(f->code_begin, file);
    for (size_t i = 0; command->examples[i]; i++) {
        print_code(file, f, command->examples[i], strlen(command->examples[i]));
        fputc('\n', file);
    }
    fputs(f->code_end, file);
}

void manual_print_markdown(FILE *file)
{
    fprintf(file,
            "# sqf: %s\n\nThis page is made by `sqf help --markdown` from the tables that read the command line.\n",
            program_summary);
    print_paragraphs(file, &markdown, program_notes);
    fputs("\n## Options of every command\n\n", file);
    print_options(file, &markdown, common_options, common_option_count);
    for (size_t i = 0; commands[i]; i++) {
        const cli_command *command = commands[i]();
        fprintf(file, "\n## sqf %s\n\n`sqf %s%s%s [options]`: %s.\n", command->name, command->name,
                *command->operands ? " " : "", command->operands, command->summary);
        print_paragraphs(file, &markdown, command->description);
        if (command->option_count) {
            fputs("\nOptions:\n\n", file);
            print_options(file, &markdown, command->options, command->option_count);
        }
        fputs("\nExamples:\n", file);
        print_examples(file, &markdown, command);
    }
}

/* No date: the pages of a version are the same bytes whenever they are made. */
static void print_page_head(FILE *file, const char *name, const char *summary)
{
    fprintf(file, ".TH \"%s\" 1 \"\" \"sqformat %s\"\n.SH NAME\n%s \\- %s\n.SH SYNOPSIS\n", name, sqf_version(), name,
            summary);
}

/* sqf.1; the signature is that of write_page's callback. */
static void print_program_page(FILE *file, const void *unused)
{
    (void)unused;
    print_page_head(file, "sqf", program_summary);
    fputs("\\fBsqf\\fR COMMAND [operands] [options]\n.SH COMMANDS\n", file);
    for (size_t i = 0; commands[i]; i++) {
        const cli_command *command = commands[i]();
        fprintf(file, ".TP\n\\fBsqf\\-%s\\fR(1)\n%s\n", command->name, command->summary);
    }
    fputs(".SH OPTIONS OF EVERY COMMAND\n", file);
    print_options(file, &troff, common_options, common_option_count);
    fputs(".SH NOTES\n", file);
    print_paragraphs(file, &troff, program_notes);
}

/* sqf-COMMAND.1, with the options of every command repeated: a man page is read alone. */
static void print_command_page(FILE *file, const void *user)
{
    const cli_command *command = user;
    char name[64];
    snprintf(name, sizeof name, "sqf-%s", command->name);
    print_page_head(file, name, command->summary);
    fprintf(file, "\\fBsqf %s\\fR %s [options]\n.SH DESCRIPTION\n", command->name, command->operands);
    print_paragraphs(file, &troff, command->description);
    fputs(".SH OPTIONS\n", file);
    print_options(file, &troff, command->options, command->option_count);
    print_options(file, &troff, common_options, common_option_count);
    fputs(".SH EXAMPLES\n", file);
    print_examples(file, &troff, command);
    fputs(".SH SEE ALSO\n\\fBsqf\\fR(1)\n", file);
}

/* One page, every write checked. */
static int write_page(const char *directory, const char *name, void (*print)(FILE *, const void *), const void *user)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s.1", directory, name) >= (int)sizeof path) {
        return fail_input("%s: the name is too long", directory);
    }
    FILE *file = fopen(path, "w");
    if (!file) {
        return fail_input("%s: cannot write: %s", path, strerror(errno));
    }
    print(file, user);
    const bool broken = ferror(file) != 0;
    if (fclose(file) != 0 || broken) {
        return fail_input("%s: cannot write: %s", path, strerror(errno));
    }
    return EXIT_DONE;
}

int manual_write_pages(const char *directory)
{
    if (mkdir(directory, 0777) != 0 && errno != EEXIST) {
        return fail_input("%s: cannot make the directory: %s", directory, strerror(errno));
    }
    int code = write_page(directory, "sqf", print_program_page, NULL);
    for (size_t i = 0; code == EXIT_DONE && commands[i]; i++) {
        char name[64];
        snprintf(name, sizeof name, "sqf-%s", commands[i]()->name);
        code = write_page(directory, name, print_command_page, commands[i]());
    }
    return code;
}

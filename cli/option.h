/* Command lines read by tables: one row an option. Help, docs/cli.md and the man pages are made from the same rows,
 * so none of them can say something else than what is read. */
#ifndef SQF_CLI_OPTION_H
#define SQF_CLI_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit codes of the program. A signal that ends it gives 128 plus its number. */
enum { EXIT_DONE = 0, EXIT_BAD = 1, EXIT_USAGE = 2 };

/* What an option's value may be. */
typedef enum option_kind {
    OPTION_FLAG = 0, /* takes no value */
    OPTION_TEXT,     /* any text */
    OPTION_COUNT,    /* a whole number in least..most */
    OPTION_REAL,     /* a finite number in low..high */
    OPTION_CHOICE    /* one of `choices` */
} option_kind;

/* One option: all that parsing and help know of it. Static tables; strings are never freed. */
typedef struct cli_option {
    const char *name; /* without the dashes */
    char letter;      /* 0 = no short spelling */
    option_kind kind;
    bool required;
    const char *value;          /* how help writes the value: "FILE"; a choice needs none */
    const char *standard;       /* the default, parsed like a given value; NULL = none */
    uint64_t least, most;       /* OPTION_COUNT */
    double low, high;           /* OPTION_REAL */
    const char *const *choices; /* OPTION_CHOICE, NULL-terminated */
    const char *text;           /* what help says, one paragraph without a final full stop */
} cli_option;

struct cli_arguments;

/* One subcommand. */
typedef struct cli_command {
    const char *name;
    const char *operands; /* "MODEL [TENSOR]" */
    size_t least_operands, most_operands;
    const char *summary;     /* one line, no full stop */
    const char *description; /* paragraphs, separated by "\n\n" */
    const cli_option *options;
    size_t option_count;
    const char *const *examples; /* NULL-terminated */
    int (*run)(const struct cli_arguments *arguments);
} cli_command;

/* Options that every command has: help, json, threads, quiet, verbose. */
extern const cli_option common_options[];
extern const size_t common_option_count;

/* A value as the command line gave it. Borrowed from argv. */
typedef struct option_value {
    const cli_option *option;
    const char *text; /* NULL for a flag */
} option_value;

/* A command line that was read. Strings are borrowed from argv and the tables. */
typedef struct cli_arguments {
    const cli_command *command;
    option_value *values; /* in the order given; free() */
    size_t value_count;
    const char **operands; /* free() */
    size_t operand_count;
    bool help; /* --help was given: nothing else was checked */
} cli_arguments;

/* Room for the sentence of a usage error. */
enum { USAGE_TEXT = 512 };

/* Reads argv[0..count-1], the words after the command's name. false: `message` says what is wrong with which option. */
bool arguments_parse(const cli_command *command, int count, char **argv, cli_arguments *out, char message[USAGE_TEXT]);
void arguments_clear(cli_arguments *arguments);

/* The value of the last occurrence, else the default, else NULL. The option must be in the command's table. */
const char *arguments_text(const cli_arguments *arguments, const char *name);
/* True if the option was given. */
bool arguments_given(const cli_arguments *arguments, const char *name);
/* Values of options that were checked while parsing; the option must have a default or have been given. */
uint64_t arguments_count(const cli_arguments *arguments, const char *name);
double arguments_real(const cli_arguments *arguments, const char *name);
/* Index in the option's choices. */
size_t arguments_choice(const cli_arguments *arguments, const char *name);

/* Checks one value against its row; false: *message is "--bank 65: expected ...". */
bool option_check(const cli_option *option, const char *text, char message[USAGE_TEXT]);

/* Writes what is expected of the option's value: "a whole number from 1 to 64". */
void option_expected(const cli_option *option, char *text, size_t size);

#endif

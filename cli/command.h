/* The subcommands: one file each, which builds its table row on first use. A file has the same parts everywhere:
 * figures as JSON, figures as text, run_NAME (open what is needed, call the library, print, close), and NAME_command
 * with the table row, from which parsing, help, manual and man pages are made.
 *
 * The program uses the public headers alone: what it can do, every user of the library can. */
#ifndef SQF_CLI_COMMAND_H
#define SQF_CLI_COMMAND_H

#include <stdio.h>

#include "option.h"

const cli_command *quantize_command(void);
const cli_command *eval_command(void);
const cli_command *run_command(void);
const cli_command *tokenize_command(void);
const cli_command *inspect_command(void);
const cli_command *compare_command(void);
const cli_command *survey_command(void);
const cli_command *sweep_command(void);
const cli_command *report_command(void);
const cli_command *bed_command(void);
const cli_command *diagnose_command(void);
const cli_command *schemes_command(void);
const cli_command *bench_command(void);
const cli_command *version_command(void);
const cli_command *help_command(void);

/* The row of commands whose models may run on a GPU; the others run on the CPU whatever SQF_DEVICE says. */
#define DEVICE_OPTION                                                                                                  \
    {                                                                                                                  \
        .name = "device", .kind = OPTION_TEXT, .value = "DEVICE",                                                      \
        .text = "where the model runs: cpu, cuda (the first GPU) or cuda:N; without it as SQF_DEVICE says, else cpu"   \
    }

/* All of them in the order of the help (command.c); NULL-terminated. */
typedef const cli_command *(*command_fn)(void);
extern const command_fn commands[];

/* NULL if there is none of this name. */
const cli_command *command_find(const char *name);

/* What `sqf help` and `sqf help COMMAND` print. */
void help_print_overview(FILE *file);
void help_print_command(FILE *file, const cli_command *command);

/* The same as one markdown page, and as man pages sqf.1, sqf-COMMAND.1 in a directory (made if absent). */
void manual_print_markdown(FILE *file);
int manual_write_pages(const char *directory);

/* What help, markdown and man pages share (help_text.c). */
extern const char program_summary[];
extern const char program_notes[]; /* paragraphs on exit codes and streams, separated by "\n\n" */

/* Room for the two texts below. Both are cut where it ends; the longest of our tables is far shorter. */
enum { SPELLING_TEXT = 256, SENTENCE_TEXT = 2048 };

/* "--low TYPE", "-o, --output DIR": the spelling of an option in every form of help. */
void option_spelling(const cli_option *option, char *text, size_t size);
/* The option's text, what is expected and the default, as one sentence or two. */
void option_sentence(const cli_option *option, char *text, size_t size);

#endif

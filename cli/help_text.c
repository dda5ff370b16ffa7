/* What every form of help says in the same words: the program in a sentence, its notes, and an option's spelling and
 * text made from its table row. help.c sets it for the terminal, manual.c as markdown and man pages. */
#include <stdio.h>
#include <string.h>

#include "command.h"

const char program_summary[] = "make, measure and run models in SQ-format";
const char program_notes[] =
    "Results go to standard output, everything else to standard error. With --json a command prints one JSON object; "
    "numbers that do not exist are null.\n\n"
    "Exit codes: 0 done; 1 the input is bad or a check said no; 2 the command line is wrong; "
    "130 interrupted (128 plus the number of the signal). A command that fails leaves no file behind.\n\n"
    "Environment variables: SQF_CPU chooses the level of the kernels (see sqf version), SQF_DEVICE where models run if "
    "--device does not say it, SQF_CUDA_LIBRARY the file of the CUDA backend; SQF_CUDA_GRAPHS=0 queues each step of "
    "decoding on a GPU anew in place of replaying a recorded one.";

void option_spelling(const cli_option *option, char *text, size_t size)
{
    char letter[8] = "";
    if (option->letter) {
        snprintf(letter, sizeof letter, "-%c, ", option->letter);
    }
    char choices[SPELLING_TEXT / 2] = "";
    for (size_t i = 0; option->kind == OPTION_CHOICE && option->choices[i]; i++) {
        const size_t used = strlen(choices);
        snprintf(choices + used, sizeof choices - used, "%s%s", i ? "|" : "", option->choices[i]);
    }
    const char *value = option->kind == OPTION_CHOICE ? choices : option->value;
    snprintf(text, size, "%s--%s%s%s", letter, option->name, option->kind == OPTION_FLAG ? "" : " ",
             option->kind == OPTION_FLAG ? "" : value);
}

void option_sentence(const cli_option *option, char *text, size_t size)
{
    char expected[SENTENCE_TEXT / 4] = "";
    if (option->kind == OPTION_COUNT || option->kind == OPTION_REAL) {
        char range[SENTENCE_TEXT / 4 - 2];
        option_expected(option, range, sizeof range);
        snprintf(expected, sizeof expected, "; %s", range);
    }
    snprintf(text, size, "%s%s%s%s%s", option->text, expected, option->required ? " (required)" : "",
             option->standard ? "; default " : "", option->standard ? option->standard : "");
}

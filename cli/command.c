/* The table of subcommands: the one list that the program, its help and its manual go by. */
#include "command.h"

#include <string.h>

const command_fn commands[] = {
    quantize_command, eval_command,   run_command, tokenize_command, inspect_command, compare_command, survey_command,
    sweep_command,    report_command, bed_command, diagnose_command, schemes_command, bench_command,   version_command,
    help_command,     NULL,
};

const cli_command *command_find(const char *name)
{
    for (size_t i = 0; commands[i]; i++) {
        if (strcmp(commands[i]()->name, name) == 0) {
            return commands[i]();
        }
    }
    return NULL;
}

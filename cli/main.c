/* sqf: finds the subcommand, reads its options, runs it. Data on standard output, talk on standard error.
 *
 * Every way out leads through the end of main: only there is known whether what was printed could be written. */
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "command.h"
#include "output.h"

/* Words that stand for a command where one is expected. */
static const char *command_name(const char *word)
{
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        return "help";
    }
    return strcmp(word, "--version") == 0 ? "version" : word;
}

/* --help of a command is not its business: the table row says it all. */
static int run_parsed(const cli_command *command, const cli_arguments *arguments)
{
    if (arguments->help) {
        help_print_command(stdout, command);
        return EXIT_DONE;
    }
    return command->run(arguments);
}

/* glibc raises the size from which it maps memory to that of the largest block freed so far, and its aligned_alloc does
 * not find freed blocks of just the size it wants: the heap of a run over many layers would grow by some blocks a
 * layer. With a fixed size every large block goes back to the system when it is freed. */
static void keep_heap_small(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 256 * 1024);
#endif
}

int main(int count, char **argv)
{
    keep_heap_small();
    signals_install();
    if (count < 2) {
        help_print_overview(stderr);
        return EXIT_USAGE;
    }
    const cli_command *command = command_find(command_name(argv[1]));
    if (!command) {
        return fail_usage("%.100s: unknown command, see sqf help", argv[1]);
    }
    cli_arguments arguments;
    char message[USAGE_TEXT];
    int code;
    if (arguments_parse(command, count - 2, argv + 2, &arguments, message)) {
        code = run_parsed(command, &arguments);
    } else {
        code = fail_usage("%s", message);
    }
    arguments_clear(&arguments);
    progress_clear();
    /* a command that failed has said why, in one line */
    return code == EXIT_DONE ? finish_output() : code;
}

/* sqf version: what was built and what it runs on: all that a report about speed or a wrong result should say first. */
#include <stdio.h>
#include <string.h>

#include <sqf/context.h>

#include "command.h"
#include "output.h"

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown compiler"
#endif

static json_t *version_json(const sqf_context *context)
{
    json_t *object = json_object();
    json_object_set_new(object, "version", json_string(sqf_version()));
    json_object_set_new(object, "compiler", json_string(COMPILER));
    json_object_set_new(object, "cpu_level", json_string(sqf_context_cpu(context)));
    json_t *levels = json_array();
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        json_array_append_new(levels, json_string(*level));
    }
    json_object_set_new(object, "cpu_levels", levels);
    json_object_set_new(object, "blas", json_text(sqf_blas_description(), strlen(sqf_blas_description())));
    json_object_set_new(object, "threads", json_integer(sqf_context_threads(context)));
    return object;
}

static void print_version(const sqf_context *context)
{
    printf("sqf %s\n", sqf_version());
    printf("compiler   %s\n", COMPILER);
    printf("cpu level  %s (this machine runs:", sqf_context_cpu(context));
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        printf(" %s", *level);
    }
    puts(")");
    print_portable();
    printf("blas       %s\nthreads    %u\n", sqf_blas_description(), sqf_context_threads(context));
}

/* Opens a context, because only that knows the level in use and the threads. */
static int run_version(const cli_arguments *arguments)
{
    sqf_context *context;
    int code = context_open(arguments, &context);
    if (code != EXIT_DONE) {
        return code;
    }
    if (arguments_given(arguments, "json")) {
        code = print_json(version_json(context));
    } else {
        print_version(context);
    }
    sqf_context_destroy(context);
    return code;
}

const cli_command *version_command(void)
{
    static const char *const examples[] = {"sqf version", "SQF_CPU=scalar sqf version --json", NULL};
    static const cli_command command = {
        .name = "version",
        .operands = "",
        .summary = "print version, compiler, CPU level, BLAS and threads",
        .description = "Prints the version, the compiler, the level of the kernels in use and those that this machine "
                       "can run (SQF_CPU chooses another one), the BLAS and the number of threads.",
        .examples = examples,
        .run = run_version,
    };
    return &command;
}

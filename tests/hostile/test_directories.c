/* Every damaged directory of the table through the program: exit code 1, one line on standard error that names what is
 * wrong, nothing on standard output, nothing left on disk, little time and memory.
 * usage: test_directories SQF SOURCE PART PARTS [NAME]   cases PART, PART + PARTS, ... or the one of that name */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "damage.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* Bounds that are far above what the demo model needs (some 60 MB, 0.05 s), and far below what a lying size asks for.
 */
enum {
    SECONDS_MAX = SANITIZED ? 120 : 20,
    MEGABYTES_MAX = 400,
    ADDRESSES_GB = 4,
    ARGUMENTS = 24,
    OUTPUT_ROOM = 1 << 16
};

static const char *program;
static char model[512], text[512];
static const char *const bases[BASE_COUNT] = {model, "weights", "activations", "tied"};
static unsigned runs, failures, skipped;

/* What a run of the program came to. */
typedef struct outcome {
    int status; /* as waitpid gives it */
    long kilobytes;
    char out[OUTPUT_ROOM], err[OUTPUT_ROOM];
} outcome;

static void read_text(const char *path, char bytes[OUTPUT_ROOM])
{
    FILE *file = fopen(path, "rb");
    const size_t n = file ? fread(bytes, 1, OUTPUT_ROOM - 1, file) : 0;
    bytes[n] = '\0';
    if (file) {
        fclose(file);
    }
}

static void redirect(const char *path, int flags, int to)
{
    const int fd = open(path, flags, 0666);
    if (fd < 0 || dup2(fd, to) < 0) {
        _exit(126);
    }
    close(fd);
}

/* words: what follows the program's name, NULL-terminated */
static void become_program(const char *const words[])
{
    char *arguments[ARGUMENTS + 2] = {(char *)(uintptr_t)program};
    for (size_t i = 0; i < ARGUMENTS && words[i]; i++) {
        arguments[i + 1] = (char *)(uintptr_t)words[i];
    }
    const struct rlimit none = {0, 0}, addresses = {(rlim_t)ADDRESSES_GB << 30, (rlim_t)ADDRESSES_GB << 30};
    setrlimit(RLIMIT_CORE, &none);
    if (!SANITIZED) { /* a sanitizer reserves terabytes */
        setrlimit(RLIMIT_AS, &addresses);
    }
    alarm(SECONDS_MAX); /* outlives exec: a run that hangs is killed */
    redirect("/dev/null", O_RDONLY, STDIN_FILENO);
    redirect("out", O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
    redirect("err", O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
    execv(program, arguments);
    _exit(127);
}

static void run_program(const char *const words[], outcome *result)
{
    struct rusage usage = {0};
    const pid_t child = fork();
    if (child == 0) {
        become_program(words);
    }
    while (wait4(child, &result->status, 0, &usage) < 0 && errno == EINTR) {
    }
    result->kilobytes = usage.ru_maxrss;
    read_text("out", result->out);
    read_text("err", result->err);
    runs++;
}

static void complain(const damage_case *item, char command, const char *what, const outcome *result)
{
    failures++;
    printf("FAILED: %s %c: %s; %s %d, standard output '%.200s', standard error '%.600s'\n", item->name, command, what,
           WIFEXITED(result->status) ? "exit code" : "signal",
           WIFEXITED(result->status) ? WEXITSTATUS(result->status) : WTERMSIG(result->status), result->out,
           result->err);
}

/* Lines of printable text that begin with "sqf: "; 0 if there is any other. */
static unsigned count_lines(const char *err)
{
    unsigned lines = 0;
    for (const char *line = err, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        if (!end || strncmp(line, "sqf: ", 5) != 0) {
            return 0;
        }
        for (const char *c = line; c < end; c++) {
            if ((unsigned char)*c < 0x20 || *c == 0x7f) {
                return 0;
            }
        }
        lines++;
    }
    return lines;
}

static int is_leftover(const struct dirent *entry)
{
    return strncmp(entry->d_name, "result", 6) == 0;
}

static bool left_something(void)
{
    struct dirent **entries;
    const int count = scandir(".", &entries, is_leftover, NULL);
    for (int i = 0; i < count; i++) {
        free(entries[i]);
    }
    if (count > 0) {
        free(entries);
    }
    return count != 0;
}

static void check(const damage_case *item, char command, const outcome *result)
{
    const unsigned lines = count_lines(result->err);
    if (!WIFEXITED(result->status) || WEXITSTATUS(result->status) != 1) {
        complain(item, command, "expected exit code 1", result);
    } else if (result->out[0] != '\0' && command != 'c') { /* compare prints tensor by tensor */
        complain(item, command, "expected nothing on standard output", result);
    } else if (command == 'i' ? lines < 1 : lines != 1) { /* inspect --check gives a line for each problem */
        complain(item, command, "expected one line that begins with 'sqf: ' on standard error", result);
    } else if (!strstr(result->err, item->message)) {
        complain(item, command, item->message, result);
    } else if (strncmp(result->err, "sqf: case", 9) != 0 && strcmp(item->name, "huge-norm") != 0) {
        complain(item, command, "expected the name of the file", result);
    } else if (left_something()) {
        complain(item, command, "something is left", result);
    } else if (!SANITIZED && result->kilobytes > MEGABYTES_MAX * 1024L) {
        complain(item, command, "too much memory", result);
    }
}

/* The command line of a letter of damage_case.commands. */
static void run_command(const char *good, char command, outcome *result)
{
    const struct {
        char letter;
        const char *words[ARGUMENTS + 1];
    } table[] = {
        {'e', {"eval", "case", "--text", text, "--window", "16", "--max-tokens", "32", "-q"}},
        {'r', {"run", "case", "-p", "Once upon a time", "-n", "4", "-q"}},
        {'l', {"inspect", "case", "-q"}},
        {'i', {"inspect", "case", "--check", "-q"}},
        {'q', {"quantize", "case", "-o", "result", "--scheme", "W8A16", "--calib", "none", "-q"}},
        {'c', {"compare", good, "case", "-q"}},
        {'b', {"bench", "case", "--prefill", "4", "--decode", "2", "--repetitions", "1", "-q"}},
        {'t', {"tokenize", "case", "-q"}},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].letter == command) {
            run_program(table[i].words, result);
            return;
        }
    }
    printf("%c: no such command\n", command);
    exit(2);
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void run_case(const damage_case *item)
{
    static outcome result;
    const char *why;
    if (item->action == ACTION_UNREADABLE && geteuid() == 0) {
        printf("skipped: %s: root may read everything\n", item->name);
        skipped++;
        return;
    }
    char good[1024], here[512];
    if (!getcwd(here, sizeof here)) {
        exit(2);
    }
    snprintf(good, sizeof good, "%s%s%s", item->base == BASE_ORIGINAL ? "" : here,
             item->base == BASE_ORIGINAL ? "" : "/", bases[item->base]);
    if (damage_make(item, good, "case", &why)) {
        for (const char *command = item->commands; *command; command++) {
            run_command(good, *command, &result);
            check(item, *command, &result);
        }
    } else {
        printf("FAILED: %s: %s\n", item->name, why);
        failures++;
    }
    remove_tree("case");
    remove_tree("result"); /* of a command that should have failed: the next case must not meet it */
}

static void make_base(const char *name, const char *scheme, const char *calibration, const char *more,
                      const char *value)
{
    static outcome result;
    const char *const words[] = {
        "quantize",       model, "-o", name, "--scheme", scheme, "--calib", calibration, "--calib-samples", "2",
        "--calib-length", "64",  "-q", more, value,      NULL};
    run_program(words, &result);
    if (!WIFEXITED(result.status) || WEXITSTATUS(result.status) != 0) {
        printf("%s: %s\n", name, result.err);
        exit(2);
    }
}

/* The base directories must be good, or every refusal would be worthless. */
static void check_bases(const char *commands)
{
    static outcome result;
    for (size_t base = 0; base < BASE_COUNT; base++) {
        if (symlink(bases[base], "case") != 0) {
            exit(2);
        }
        for (const char *command = commands; *command; command++) {
            run_command(bases[base], *command, &result);
            if (!WIFEXITED(result.status) || WEXITSTATUS(result.status) != 0) {
                printf("FAILED: the undamaged %s %c: %s\n", bases[base], *command, result.err);
                failures++;
            }
        }
        unlink("case");
    }
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: %s SQF SOURCE PART PARTS [NAME]\n", argv[0]);
        return 2;
    }
    program = argv[1];
    const size_t part = strtoul(argv[3], NULL, 10), parts = strtoul(argv[4], NULL, 10);
    snprintf(model, sizeof model, "%s/models/demo", argv[2]);
    snprintf(text, sizeof text, "%s/models/demo/text/eval.txt", argv[2]);
    char calibration[600], scratch[] = "/tmp/sqf-hostile-XXXXXX";
    snprintf(calibration, sizeof calibration, "%s/text/calib.txt", model);
    if (!mkdtemp(scratch) || chdir(scratch) != 0) {
        return 2;
    }
    make_base("weights", "W(SQ5)A8", "none", "--layout", "vmask");
    make_base("activations", "W4A(SQ6)", calibration, "--act-scale", "static");
    make_base("tied", "W(SQ6)A8,layout=bitmask,scales=tied", "none", "--shard-bytes", "1500000");
    check_bases("erlicbt");
    for (size_t i = part; i < damage_case_count; i += parts) {
        if (argc < 6 || strcmp(argv[5], damage_cases[i].name) == 0) {
            run_case(&damage_cases[i]);
        }
    }
    remove_tree(scratch);
    printf("%zu cases in all, this part: %u runs, %u failures, %u skipped\n", damage_case_count, runs, failures,
           skipped);
    return failures > 0;
}

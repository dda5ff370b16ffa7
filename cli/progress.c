/* Talk and progress on standard error, and the signals that cancel. The display is one for the program: there is one
 * terminal. Nothing is printed from a signal handler; the handler leaves a number, and the next progress callback of
 * the library carries it as a refusal, so that every interrupted command ends by the way of an ordinary error. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "progress.h"

/* Short work shows no progress; a log file gets a line now and then, a terminal one line that is rewritten. */
static const double progress_delay = 2, log_interval = 10;

/* What is on the terminal, and since when the current kind of work runs. */
static struct {
    bool quiet, terminal, line_shown;
    char what[64];
    double started, printed;
    sqf_log_level level;
    const sqf_context *context; /* of the work, which may know better what is left; NULL = none */
} display;

static volatile sig_atomic_t received;

/* Nothing but this may happen in a signal handler. */
static void remember(int number)
{
    received = number;
}

void signals_install(void)
{
    /* no SA_RESTART: a blocked read must return; SA_RESETHAND: the second signal kills */
    struct sigaction action = {.sa_handler = remember, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    /* a closed pipe is seen as a failed write, so that output files are cleaned up */
    signal(SIGPIPE, SIG_IGN);
}

int signals_received(void)
{
    return received;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void progress_clear(void)
{
    if (display.line_shown) {
        fputs("\r\033[K", stderr);
        display.line_shown = false;
    }
}

static void format_duration(double seconds, char text[32])
{
    const uint64_t whole = (uint64_t)(seconds + 0.5);
    if (whole >= 3600) {
        snprintf(text, 32, "%" PRIu64 " h %02" PRIu64 " min", whole / 3600, whole / 60 % 60);
    } else if (whole >= 60) {
        snprintf(text, 32, "%" PRIu64 " min %02" PRIu64 " s", whole / 60, whole % 60);
    } else {
        snprintf(text, 32, "%" PRIu64 " s", whole);
    }
}

/* "tokens 512 of 2048 (25 %), 1024/s, 2 s left" */
static void print_progress(const char *what, uint64_t done, uint64_t total, double elapsed)
{
    const double rate = (double)done / elapsed;
    char left[32] = "?";
    const double known = sqf_context_time_left(display.context);
    if (known >= 0.0 || done > 0) {
        format_duration(known >= 0.0 ? known : (double)(total - done) / rate, left);
    }
    fprintf(stderr, "%s%s %" PRIu64 " of %" PRIu64 " (%.0f %%), %.*f/s, %s left%s", display.terminal ? "\r" : "", what,
            done, total, 100.0 * (double)done / (double)total, rate < 10 ? 2 : 0, rate, left,
            display.terminal ? "\033[K" : "\n");
    display.line_shown = display.terminal;
}

/* The library's callback. Rate and time left are those of the current kind of work (layers, tokens, ...). */
static bool show_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user;
    if (received) {
        return false;
    }
    if (display.quiet || total == 0 || done > total) {
        return true;
    }
    const double time = now();
    if (strcmp(display.what, what) != 0 || done == 0) {
        snprintf(display.what, sizeof display.what, "%s", what);
        display.started = display.printed = time;
    }
    const double elapsed = time - display.started;
    if (elapsed < progress_delay || (!display.terminal && time - display.printed < log_interval)) {
        return true;
    }
    display.printed = time;
    if (done == total) {
        progress_clear();
    } else {
        print_progress(what, done, total, elapsed);
    }
    return true;
}

void progress_show(const char *what, uint64_t done, uint64_t total)
{
    show_progress(NULL, what, done, total);
}

/* The library's callback for talk. */
static void show_line(void *user, sqf_log_level level, const char *line)
{
    (void)user;
    if (!display.quiet && level <= display.level) {
        progress_clear();
        fprintf(stderr, "%s%s\n", level == SQF_LOG_WARNING ? "sqf: warning: " : "", line);
    }
}

void progress_follow(const sqf_context *context)
{
    display.context = context;
}

void progress_begin(bool quiet, bool verbose, sqf_context_options *options)
{
    display.quiet = quiet;
    display.terminal = isatty(STDERR_FILENO);
    display.level = verbose ? SQF_LOG_DEBUG : SQF_LOG_INFO;
    options->log = show_line;
    options->progress = show_progress;
}

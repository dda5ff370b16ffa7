/* What the user sees while a command works, and how the user stops it. */
#ifndef SQF_CLI_PROGRESS_H
#define SQF_CLI_PROGRESS_H

#include <sqf/context.h>

/* SIGINT, SIGTERM and SIGHUP ask to stop: library calls are cancelled by the progress callback. A second one kills. */
void signals_install(void);
/* The signal that came, or 0. */
int signals_received(void);

/* Puts the callbacks for talk and progress into the options of a context. quiet: warnings alone. */
void progress_begin(bool quiet, bool verbose, sqf_context_options *options);
/* Time left is what this context tells, where it can; NULL = none. It must be there until the next call. */
void progress_follow(const sqf_context *context);
/* Shows progress of the program's own work, as the library's is shown. */
void progress_show(const char *what, uint64_t done, uint64_t total);
/* Takes the progress line off the terminal: to be called before anything is printed. */
void progress_clear(void);

#endif

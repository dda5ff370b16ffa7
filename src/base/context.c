/* Talk and progress: how the library says something without ever printing. Both go through the callbacks that the
 * caller put into the context, and both are called from the caller's thread alone, so a callback needs no lock.
 * Creation and destruction of a context stand in kernels/context.c, which knows the kernel tables; this folder may
 * not. */
#include "base/context.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/file.h"

void sqf_log(sqf_context *context, sqf_log_level level, const char *format, ...)
{
    if (!context || !context->options.log) {
        return;
    }
    /* A longer line is cut, not refused: talk must never make a computation fail. */
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    context->options.log(context->options.log_user, level, line);
}

double sqf_context_time_left(const sqf_context *context)
{
    return context ? context->time_left : -1.0;
}

sqf_status sqf_progress(sqf_context *context, const char *what, uint64_t done, uint64_t total, sqf_error *err)
{
    if (!context || !context->options.progress) {
        return SQF_OK;
    }
    const double now = sqf_clock_seconds();
    /* The last call always passes, so that a progress bar ends at 100 % however fast the end came. */
    if (done < total && now - context->last_progress < 0.1) {
        return SQF_OK;
    }
    context->last_progress = now;
    if (!context->options.progress(context->options.progress_user, what, done, total)) {
        return sqf_fail(err, SQF_E_CANCELLED, "cancelled at %llu of %llu %s", (unsigned long long)done,
                        (unsigned long long)total, what);
    }
    return SQF_OK;
}

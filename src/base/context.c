#include "base/context.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/file.h"

void sqf_log(sqf_context *context, sqf_log_level level, const char *format, ...)
{
    if (!context || !context->options.log) {
        return;
    }
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    context->options.log(context->options.log_user, level, line);
}

sqf_status sqf_progress(sqf_context *context, const char *what, uint64_t done, uint64_t total, sqf_error *err)
{
    if (!context || !context->options.progress) {
        return SQF_OK;
    }
    const double now = sqf_clock_seconds();
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

/* The inside of a context: what every computation of the library runs on. Created in kernels/context.c, which knows
 * the kernel tables; here, at the bottom of the library, their type stays incomplete, so that base depends on
 * nothing.
 *
 * A context serves one calling thread at a time and has no lock of its own: the pool's workers never touch its
 * fields. */
#ifndef SQF_BASE_CONTEXT_H
#define SQF_BASE_CONTEXT_H

#include <sqf/context.h>

#include "base/error.h"
#include "base/thread.h"

struct sqf_kernels;
struct sqf_device;

/* One per caller. All pointers but `pool` and `device` are borrowed or static; options.cpu is replaced by the kernels'
 * own name, options.device by NULL. */
struct sqf_context {
    sqf_pool *pool;
    const struct sqf_kernels *kernels;
    struct sqf_device *device; /* owned; NULL = the CPU computes everything */
    sqf_context_options options;
    sqf_product_counts products;
    double last_progress; /* sqf_clock_seconds() of the last callback */
    double time_left;     /* seconds of the call at work; negative = unknown */
};

/* One line of talk through the context's callback, if it has one. */
void sqf_log(sqf_context *context, sqf_log_level level, const char *format, ...) SQF_PRINTF(3, 4);

/* Reports progress, at most ten times a second and always at the end; SQF_E_CANCELLED if the callback says stop. */
sqf_status sqf_progress(sqf_context *context, const char *what, uint64_t done, uint64_t total, sqf_error *err);

#endif

/* Failing with a sentence. */
#ifndef SQF_BASE_ERROR_H
#define SQF_BASE_ERROR_H

#include <sqf/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes `status` and the formatted line into err (NULL is fine) and returns status, so that a failure is one
 * statement: return sqf_fail(err, SQF_E_SHAPE, "%s: ...", name). Control characters of names that come from
 * files are replaced by '?', so that a message stays one harmless line. */
sqf_status sqf_fail(sqf_error *err, sqf_status status, const char *format, ...) SQF_PRINTF(3, 4);

/* Puts "prefix: " before the text of an error that is passed on. */
sqf_status sqf_fail_within(sqf_error *err, sqf_status status, const char *prefix);

#ifdef __cplusplus
}
#endif

/* Leaves the calling function with the status of a failed call. */
#define SQF_TRY(call)                                                                                                  \
    do {                                                                                                               \
        const sqf_status sqf_try_ = (call);                                                                            \
        if (sqf_try_ != SQF_OK) {                                                                                      \
            return sqf_try_;                                                                                           \
        }                                                                                                              \
    } while (0)

/* The same where there is something to release: sets `status` and goes to `label`. */
#define SQF_TRY_GOTO(status, call, label)                                                                              \
    do {                                                                                                               \
        (status) = (call);                                                                                             \
        if ((status) != SQF_OK) {                                                                                      \
            goto label;                                                                                                \
        }                                                                                                              \
    } while (0)

#endif

/** @file status.h
 *  Errors are values: a code for programs and a sentence for people. */
#ifndef SQF_STATUS_H
#define SQF_STATUS_H

#include <sqf/common.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What a call came to. Part of the interface: values are added, never renumbered. */
typedef enum sqf_status {
    SQF_OK = 0,
    SQF_E_ARG = 10,      /**< the caller broke a documented precondition */
    SQF_E_MEMORY = 20,   /**< an allocation failed */
    SQF_E_IO = 30,       /**< the operating system refused to read or write */
    SQF_E_EXISTS = 31,   /**< the output exists and replacing it was not allowed */
    SQF_E_FORMAT = 40,   /**< the bytes are not a valid file */
    SQF_E_SHAPE = 41,    /**< a tensor's shape is not what the model's configuration says */
    SQF_E_VALUE = 42,    /**< NaN, infinity, or a code out of range */
    SQF_E_HASH = 43,     /**< the content does not match its recorded hash */
    SQF_E_SUPPORT = 50,  /**< valid, but this build or machine cannot do it */
    SQF_E_CANCELLED = 70 /**< a progress callback asked to stop */
} sqf_status;

/** Room for the sentence of an error, the terminating NUL included. */
#define SQF_ERROR_TEXT 512

/** The reason of a failure. The caller lends one to a call; NULL is allowed where only the code matters.
 *  `text` is one line: what, where, expected, found. Written only when the call fails. */
typedef struct sqf_error {
    sqf_status status;
    char text[SQF_ERROR_TEXT];
} sqf_error;

/** The name of a status, e.g. "SQF_E_SHAPE"; "unknown status" for other values.
 *  A static string. Safe from any thread. */
SQF_API const char *sqf_status_name(sqf_status status);

#ifdef __cplusplus
}
#endif
#endif

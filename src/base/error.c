/* Failing with a sentence. A message is formatted once, where the failure is noticed and every number is at hand;
 * layers above put a name in front (sqf_fail_within) and pass the status on, they do not translate it. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Names of tensors, tokens and files come from other people's files: an escape sequence in one must not reach a
 * terminal, and a line end must not turn one message into two. Bytes from 0x80 on stay, they may be UTF-8. */
static void make_harmless(char *text)
{
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            *c = '?';
        }
    }
}

sqf_status sqf_fail(sqf_error *err, sqf_status status, const char *format, ...)
{
    if (!err) {
        return status;
    }
    err->status = status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->text, sizeof err->text, format, arguments);
    va_end(arguments);
    make_harmless(err->text);
    return status;
}

sqf_status sqf_fail_within(sqf_error *err, sqf_status status, const char *prefix)
{
    if (!err) {
        return status;
    }
    /* A copy, because source and target of the formatting would overlap. */
    char inner[SQF_ERROR_TEXT];
    memcpy(inner, err->text, sizeof inner);
    inner[sizeof inner - 1] = '\0';
    return sqf_fail(err, status, "%s: %s", prefix, inner);
}

const char *sqf_status_name(sqf_status status)
{
    /* No default: the compiler then names a status that was added to the header and forgotten here. */
    switch (status) {
    case SQF_OK: return "SQF_OK";
    case SQF_E_ARG: return "SQF_E_ARG";
    case SQF_E_MEMORY: return "SQF_E_MEMORY";
    case SQF_E_IO: return "SQF_E_IO";
    case SQF_E_EXISTS: return "SQF_E_EXISTS";
    case SQF_E_FORMAT: return "SQF_E_FORMAT";
    case SQF_E_SHAPE: return "SQF_E_SHAPE";
    case SQF_E_VALUE: return "SQF_E_VALUE";
    case SQF_E_HASH: return "SQF_E_HASH";
    case SQF_E_SUPPORT: return "SQF_E_SUPPORT";
    case SQF_E_CANCELLED: return "SQF_E_CANCELLED";
    }
    return "unknown status";
}

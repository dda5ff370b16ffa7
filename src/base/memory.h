/* Memory and sizes. Every size that comes from a file goes through the checked arithmetic. */
#ifndef SQF_BASE_MEMORY_H
#define SQF_BASE_MEMORY_H

#include <stdlib.h>

#include "base/error.h"

/* *out = a * b; false (and *out untouched) if that does not fit. */
static inline bool sqf_mul_size(size_t *out, size_t a, size_t b)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) {
        return false;
    }
    *out = product;
    return true;
}

/* The same for a + b. */
static inline bool sqf_add_size(size_t *out, size_t a, size_t b)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) {
        return false;
    }
    *out = sum;
    return true;
}

/* a / b rounded up; b > 0. */
static inline size_t sqf_ceil_div(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

enum { SQF_HUGE_PAGE = 1 << 21, SQF_HUGE_BLOCK = 2 * SQF_HUGE_PAGE };

/* count * size zeroed bytes aligned to 64, for free(); a count of 0 gives a valid pointer. Blocks of SQF_HUGE_BLOCK
 * bytes and more begin at a huge page and ask for such pages; where the system has none they are ordinary memory.
 * *out is NULL on failure (SQF_E_MEMORY, the message names `what`). */
sqf_status sqf_alloc_bytes(void **out, size_t count, size_t size, const char *what, sqf_error *err);

/* The same with arbitrary contents, for memory that is written whole before it is read: nothing is spent on zeroing it,
 * and its pages are brought in by the threads that write them. */
sqf_status sqf_alloc_unset(void **out, size_t count, size_t size, const char *what, sqf_error *err);

/* Typed front: SQF_ALLOC(&pointer, count, "what", err). */
#define SQF_ALLOC(pointer, count, what, err)                                                                           \
    sqf_alloc_bytes((void **)(pointer), (count), sizeof **(pointer), (what), (err))

/* A NUL-terminated copy of n bytes, for free(). */
sqf_status sqf_copy_text(char **out, const char *text, size_t n, sqf_error *err);

/* A formatted string, for free(). */
sqf_status sqf_format_text(char **out, sqf_error *err, const char *format, ...) SQF_PRINTF(3, 4);

/* A byte buffer that grows by doubling. Zero-initialise; free(data). data is NULL until something was reserved, and
 * NUL-terminated from the first append or print on; a failed call leaves it as it was. */
typedef struct sqf_buffer {
    char *data;
    size_t size, capacity;
} sqf_buffer;

/* Appends n bytes and keeps a NUL (not counted) behind them. */
sqf_status sqf_buffer_append(sqf_buffer *buffer, const void *bytes, size_t n, sqf_error *err);

/* Makes room for `more` bytes beyond size (and a NUL). */
sqf_status sqf_buffer_reserve(sqf_buffer *buffer, size_t more, sqf_error *err);

/* Appends formatted text, of any length. */
sqf_status sqf_buffer_print(sqf_buffer *buffer, sqf_error *err, const char *format, ...) SQF_PRINTF(3, 4);

#endif

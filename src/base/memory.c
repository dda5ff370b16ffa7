/* Allocation, strings and the growing byte buffer. What scales with a file is allocated here: sizes are multiplied with
 * a check, SQF_ALLOC's memory comes zeroed and aligned for vectors, and a failure names what it was for. */
#define _DEFAULT_SOURCE /* madvise */
#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* A cache line, and a register of AVX-512. */
enum { ALIGNMENT = 64 };

/* Huge pages: a walk over hundreds of megabytes of weights misses the TLB 512 times less often, and a page fault brings
 * 2 MiB in place of 4 KiB. Only asked for: where the system refuses (its setting is "never", no free page of that
 * size), the block is ordinary memory, and nothing else changes. */
static void *alloc_block(size_t bytes)
{
    if (bytes < SQF_HUGE_BLOCK || bytes > SIZE_MAX - SQF_HUGE_PAGE) {
        return aligned_alloc(ALIGNMENT, bytes);
    }
    void *memory = aligned_alloc(SQF_HUGE_PAGE, sqf_ceil_div(bytes, SQF_HUGE_PAGE) * SQF_HUGE_PAGE);
#ifdef MADV_HUGEPAGE
    if (memory) {
        (void)madvise(memory, bytes, MADV_HUGEPAGE);
    }
#endif
    return memory;
}

sqf_status sqf_alloc_unset(void **out, size_t count, size_t size, const char *what, sqf_error *err)
{
    size_t bytes;
    *out = NULL;
    if (!sqf_mul_size(&bytes, count, size) || !sqf_add_size(&bytes, bytes, ALIGNMENT)) {
        return sqf_fail(err, SQF_E_MEMORY, "%s: %zu elements of %zu bytes are too many", what, count, size);
    }
    /* aligned_alloc wants a multiple of the alignment. ALIGNMENT was added above and the result is rounded down:
     * never 0, so a count of 0 gives a pointer too, and at least as long as asked for. */
    bytes = bytes / ALIGNMENT * ALIGNMENT;
    *out = alloc_block(bytes);
    return *out ? SQF_OK : sqf_fail(err, SQF_E_MEMORY, "%s: out of memory, %zu bytes were asked for", what, bytes);
}

/* Zeroed, because padding behind rows and the last panel of a matrix are read by kernels and must be neutral; the
 * cost is small beside filling the memory afterwards. */
sqf_status sqf_alloc_bytes(void **out, size_t count, size_t size, const char *what, sqf_error *err)
{
    SQF_TRY(sqf_alloc_unset(out, count, size, what, err));
    memset(*out, 0, (count * size + ALIGNMENT) / ALIGNMENT * ALIGNMENT);
    return SQF_OK;
}

sqf_status sqf_copy_text(char **out, const char *text, size_t n, sqf_error *err)
{
    size_t room;
    *out = NULL;
    if (!sqf_add_size(&room, n, 1)) {
        return sqf_fail(err, SQF_E_MEMORY, "a text of %zu bytes is too long", n);
    }
    SQF_TRY(SQF_ALLOC(out, room, "text", err));
    if (n > 0) {
        memcpy(*out, text, n);
    }
    return SQF_OK;
}

/* `need` includes the NUL, so that append and print never have to ask again. */
sqf_status sqf_buffer_reserve(sqf_buffer *buffer, size_t more, sqf_error *err)
{
    size_t need;
    if (!sqf_add_size(&need, buffer->size, more) || !sqf_add_size(&need, need, 1)) {
        return sqf_fail(err, SQF_E_MEMORY, "a buffer of more than %zu bytes is too long", buffer->size);
    }
    if (need <= buffer->capacity) {
        return SQF_OK;
    }
    size_t capacity = buffer->capacity < 128 ? 128 : buffer->capacity;
    while (capacity < need) {
        /* Doubling makes n appends cost O(n) copies in all. */
        capacity = capacity > SIZE_MAX / 2 ? need : capacity * 2;
    }
    char *data = realloc(buffer->data, capacity);
    if (!data) {
        return sqf_fail(err, SQF_E_MEMORY, "out of memory, %zu bytes were asked for", capacity);
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return SQF_OK;
}

sqf_status sqf_buffer_append(sqf_buffer *buffer, const void *bytes, size_t n, sqf_error *err)
{
    SQF_TRY(sqf_buffer_reserve(buffer, n, err));
    if (n > 0) {
        memcpy(buffer->data + buffer->size, bytes, n);
    }
    buffer->size += n;
    buffer->data[buffer->size] = '\0';
    return SQF_OK;
}

/* Formats twice: first for the length, then into a place that is long enough. */
static sqf_status print_into(sqf_buffer *buffer, sqf_error *err, const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    const int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length < 0) {
        return sqf_fail(err, SQF_E_ARG, "a text could not be formatted");
    }
    SQF_TRY(sqf_buffer_reserve(buffer, (size_t)length, err));
    vsnprintf(buffer->data + buffer->size, (size_t)length + 1, format, arguments);
    buffer->size += (size_t)length;
    return SQF_OK;
}

sqf_status sqf_buffer_print(sqf_buffer *buffer, sqf_error *err, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const sqf_status status = print_into(buffer, err, format, arguments);
    va_end(arguments);
    return status;
}

/* A buffer whose memory is given away: *out is NULL if nothing could be reserved. */
sqf_status sqf_format_text(char **out, sqf_error *err, const char *format, ...)
{
    sqf_buffer buffer = {0};
    va_list arguments;
    va_start(arguments, format);
    const sqf_status status = print_into(&buffer, err, format, arguments);
    va_end(arguments);
    *out = buffer.data;
    return status;
}

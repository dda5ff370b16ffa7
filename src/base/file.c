/* Reading, mapping and writing of single files. Output that must appear whole or not at all is in output.c.
 *
 * Everything read is first shown to be a regular file. A model directory may come from anywhere: a pipe would block
 * for ever, a device may have no end, and a directory gives only an obscure error later. */
#define _GNU_SOURCE
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

sqf_status sqf_path_join(char **out, const char *directory, const char *name, sqf_error *err)
{
    const size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] == '/' ? "" : "/";
    return sqf_format_text(out, err, "%s%s%s", directory, slash, name);
}

bool sqf_path_exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

/* errno is read before anything else can change it. */
static sqf_status fail_errno(sqf_error *err, const char *path, const char *action)
{
    const int number = errno;
    return sqf_fail(err, SQF_E_IO, "%s: %s: %s", path, action, strerror(number));
}

/* Opens a regular file and tells its size; directories, devices and pipes are refused by name. O_NONBLOCK: without
 * it, opening a pipe that nobody writes to never returns. On regular files it has no effect. */
static sqf_status open_regular(const char *path, int *descriptor, size_t *size, sqf_error *err)
{
    struct stat info;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return fail_errno(err, path, "cannot open");
    }
    sqf_status status = SQF_OK;
    if (fstat(fd, &info) != 0) {
        status = fail_errno(err, path, "cannot read its size");
    } else if (!S_ISREG(info.st_mode)) {
        status = sqf_fail(err, SQF_E_IO, "%s: expected a file, found %s", path,
                          S_ISDIR(info.st_mode) ? "a directory" : "something else");
    }
    if (status != SQF_OK) {
        close(fd);
        return status;
    }
    *descriptor = fd;
    *size = (size_t)info.st_size;
    return SQF_OK;
}

/* Reads exactly `size` bytes, the size that fstat gave. A file that grows meanwhile is cut there, one that shrinks is
 * an error: half a JSON file may well be valid JSON. */
static sqf_status read_all(int fd, const char *path, size_t size, sqf_buffer *out, sqf_error *err)
{
    SQF_TRY(sqf_buffer_reserve(out, size, err));
    while (out->size < size) {
        const ssize_t got = read(fd, out->data + out->size, size - out->size);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail_errno(err, path, "cannot read");
        }
        if (got == 0) {
            return sqf_fail(err, SQF_E_IO, "%s: shrank while it was read, expected %zu bytes, found %zu", path, size,
                            out->size);
        }
        out->size += (size_t)got;
    }
    out->data[out->size] = '\0';
    return SQF_OK;
}

sqf_status sqf_file_read(const char *path, size_t limit, sqf_buffer *out, sqf_error *err)
{
    int fd = -1;
    size_t size = 0;
    *out = (sqf_buffer){0};
    SQF_TRY(open_regular(path, &fd, &size, err));
    sqf_status status;
    if (size > limit) {
        status = sqf_fail(err, SQF_E_FORMAT, "%s: expected at most %zu bytes, found %zu", path, limit, size);
    } else {
        status = read_all(fd, path, size, out, err);
    }
    close(fd);
    if (status != SQF_OK) {
        free(out->data);
        *out = (sqf_buffer){0};
    }
    return status;
}

/* The descriptor is closed at once: a mapping lives without it. */
sqf_status sqf_mapping_open(const char *path, sqf_mapping *out, sqf_error *err)
{
    /* mmap refuses a length of 0, and callers should not have to ask for NULL. */
    static const uint8_t nothing[1];
    int fd = -1;
    size_t size = 0;
    *out = (sqf_mapping){.data = nothing};
    SQF_TRY(open_regular(path, &fd, &size, err));
    sqf_status status = SQF_OK;
    if (size > 0) {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            status = fail_errno(err, path, "cannot map");
        } else {
            *out = (sqf_mapping){.data = data, .size = size};
        }
    }
    close(fd);
    return status;
}

void sqf_mapping_close(sqf_mapping *mapping)
{
    if (mapping->size > 0) {
        munmap((void *)(uintptr_t)mapping->data, mapping->size);
    }
    *mapping = (sqf_mapping){0};
}

void sqf_mapping_expect(const void *begin, size_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)begin / page * page;
    if (n > 0) {
        madvise((void *)first, (uintptr_t)begin + n - first, MADV_WILLNEED);
    }
}

void sqf_mapping_forget(const void *begin, size_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = ((uintptr_t)begin + page - 1) / page * page, end = ((uintptr_t)begin + n) / page * page;
    if (first < end) {
        madvise((void *)first, end - first, MADV_DONTNEED);
    }
}

/* fflush before fsync: the second knows nothing of the first's buffer. fclose is checked too, because a write that
 * was put off may fail as late as there. */
sqf_status sqf_file_write(const char *path, const void *bytes, size_t n, sqf_error *err)
{
    FILE *file = fopen(path, "wbe");
    if (!file) {
        return fail_errno(err, path, "cannot create");
    }
    const bool written = fwrite(bytes, 1, n, file) == n && fflush(file) == 0 && fsync(fileno(file)) == 0;
    const sqf_status status = written ? SQF_OK : fail_errno(err, path, "cannot write");
    if (fclose(file) != 0 && status == SQF_OK) {
        return fail_errno(err, path, "cannot write");
    }
    return status;
}

sqf_status sqf_file_copy(const char *from, const char *to, sqf_error *err)
{
    sqf_mapping source;
    SQF_TRY(sqf_mapping_open(from, &source, err));
    const sqf_status status = sqf_file_write(to, source.data, source.size, err);
    sqf_mapping_close(&source);
    return status;
}

double sqf_clock_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Temporary directories and safetensors files made by hand. */
#ifndef SQF_TESTS_IO_DIRECTORY_H
#define SQF_TESTS_IO_DIRECTORY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/safetensors.h"

static inline void must(sqf_status status, const sqf_error *err)
{
    if (status != SQF_OK) {
        fail_msg("%s", err->text);
    }
}

static inline void make_directory(char path[64])
{
    strcpy(path, "/tmp/sqf-io-XXXXXX");
    assert_non_null(mkdtemp(path));
}

static inline void remove_directory(const char *path)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
}

static inline void write_file(const char *directory, const char *name, const void *bytes, size_t n)
{
    sqf_error err = {0};
    char *path;
    must(sqf_path_join(&path, directory, name, &err), &err);
    must(sqf_file_write(path, bytes, n, &err), &err);
    free(path);
}

/* A file of a header and `data_bytes` bytes 0, 1, 2, ... */
static inline void write_tensors(const char *directory, const char *name, const char *header, size_t data_bytes)
{
    const size_t length = strlen(header), n = 8 + length + data_bytes;
    uint8_t *bytes = malloc(n);
    for (unsigned i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)((uint64_t)length >> (8 * i));
    }
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) {
        bytes[8 + length + i] = (uint8_t)i;
    }
    write_file(directory, name, bytes, n);
    free(bytes);
}

#endif

/* Runs a fuzz target over stored inputs without a fuzzing engine, so that targets cannot rot and every input that once
 * crashed stays a test: program FILE-OR-DIRECTORY... */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned runs;

static void run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    const long size = ftell(file);
    rewind(file);
    /* exact size: a sanitizer sees one byte too far */
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
    if (!data || fread(data, 1, (size_t)size, file) != (size_t)size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    runs++;
}

static void run_path(const char *path)
{
    DIR *directory = opendir(path);
    if (!directory) {
        run_file(path);
        return;
    }
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] != '.') {
            char *inner;
            if (asprintf(&inner, "%s/%s", path, entry->d_name) < 0) {
                exit(1);
            }
            run_path(inner);
            free(inner);
        }
    }
    closedir(directory);
}

int main(int argc, char **argv)
{
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) {
        run_path(argv[i]);
    }
    printf("%u inputs\n", runs);
    return 0;
}

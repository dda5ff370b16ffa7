/* Says what a GGUF file holds: weights, bytes of tensors and their types, one "key value" a line, so that programs can
 * be compared at equal bytes. With --list also every tensor: name, type number, offset in the file, sizes, the fastest
 * dimension first. For files of one's own: what is read is checked against the end of the file, no more.
 *
 * Usage: bench_gguf-info FILE [--list] */
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIMENSIONS = 4, TEXT = 256, STRING = 8, ARRAY = 9, TYPES = 256 };

typedef struct tensor {
    char name[TEXT];
    uint32_t dimensions, type;
    uint64_t size[DIMENSIONS], offset;
} tensor;

static FILE *file;
static const char *path;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "gguf-info: %s: ", path);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void get(void *bytes, size_t n)
{
    if (fread(bytes, 1, n, file) != n) {
        fail("the file ends inside its header");
    }
}

static uint32_t get_u32(void)
{
    uint32_t value;
    get(&value, sizeof value);
    return value;
}

static uint64_t get_u64(void)
{
    uint64_t value;
    get(&value, sizeof value);
    return value;
}

static void skip(uint64_t n)
{
    char byte;
    for (uint64_t i = 0; i < n; i++) {
        get(&byte, 1);
    }
}

/* The beginning of a string, cut where the room ends. */
static void get_string(char text[TEXT])
{
    const uint64_t length = get_u64();
    const size_t kept = length < TEXT ? (size_t)length : TEXT - 1;
    get(text, kept);
    text[kept] = '\0';
    skip(length - kept);
}

/* Passes over a value and returns it if it is a 32-bit number. Type numbers are those of GGUF. */
static uint32_t get_value(uint32_t type)
{
    static const unsigned bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    char text[TEXT];
    if (type == STRING) {
        get_string(text);
    } else if (type == ARRAY) {
        const uint32_t element = get_u32();
        if (element == ARRAY) {
            fail("an array of arrays");
        }
        for (uint64_t left = get_u64(); left > 0; left--) {
            get_value(element);
        }
    } else if (type >= sizeof bytes / sizeof *bytes) {
        fail("value type %" PRIu32 " is not known", type);
    } else if (bytes[type] == 4) {
        return get_u32();
    } else {
        skip(bytes[type]);
    }
    return 0;
}

static tensor get_tensor(void)
{
    tensor t = {.size = {1, 1, 1, 1}};
    get_string(t.name);
    t.dimensions = get_u32();
    if (t.dimensions == 0 || t.dimensions > DIMENSIONS) {
        fail("%s: %" PRIu32 " dimensions", t.name, t.dimensions);
    }
    for (uint32_t d = 0; d < t.dimensions; d++) {
        t.size[d] = get_u64();
    }
    t.type = get_u32();
    t.offset = get_u64();
    return t;
}

int main(int argc, char **argv)
{
    const bool list = argc == 3 && strcmp(argv[2], "--list") == 0;
    if (argc != 2 && !list) {
        fputs("usage: gguf-info FILE [--list]\n", stderr);
        return 2;
    }
    path = argv[1];
    file = fopen(path, "rb");
    if (!file) {
        fail("cannot be opened");
    }
    char magic[4];
    get(magic, sizeof magic);
    const uint32_t version = get_u32();
    if (memcmp(magic, "GGUF", 4) != 0 || version < 2 || version > 3) {
        fail("expected GGUF of version 2 or 3");
    }
    const uint64_t tensors = get_u64(), members = get_u64();
    uint64_t alignment = 32, weights = 0, of_type[TYPES] = {0};
    for (uint64_t i = 0; i < members; i++) {
        char key[TEXT];
        get_string(key);
        const uint32_t value = get_value(get_u32());
        alignment = strcmp(key, "general.alignment") == 0 && value > 0 ? value : alignment;
    }
    const long infos = ftell(file);
    for (uint64_t i = 0; i < tensors; i++) {
        const tensor t = get_tensor();
        const uint64_t count = t.size[0] * t.size[1] * t.size[2] * t.size[3];
        weights += count;
        of_type[t.type < TYPES ? t.type : TYPES - 1] += count;
    }
    const uint64_t begin = ((uint64_t)ftell(file) + alignment - 1) / alignment * alignment;
    if (list && fseek(file, infos, SEEK_SET) == 0) {
        for (uint64_t i = 0; i < tensors; i++) {
            const tensor t = get_tensor();
            printf("tensor %s %" PRIu32 " %" PRIu64, t.name, t.type, begin + t.offset);
            for (uint32_t d = 0; d < t.dimensions; d++) {
                printf(" %" PRIu64, t.size[d]);
            }
            putchar('\n');
        }
    }
    if (fseek(file, 0, SEEK_END) != 0 || (uint64_t)ftell(file) < begin) {
        fail("the file ends before its tensors");
    }
    /* what stands behind the header, padding between tensors included */
    printf("tensors %" PRIu64 "\nweights %" PRIu64 "\ntensor_bytes %" PRIu64 "\n", tensors, weights,
           (uint64_t)ftell(file) - begin);
    for (size_t i = 0; i < TYPES; i++) {
        if (of_type[i] > 0) {
            printf("weights_of_type_%zu %" PRIu64 "\n", i, of_type[i]);
        }
    }
    fclose(file);
    return 0;
}

/* Makes damaged copies of model directories. */
#include "damage.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"

enum { PATH_ROOM = 512, FILE_LIMIT = 1 << 26 };

/* ---- bytes ---- */

static size_t find(const sqf_buffer *bytes, size_t begin, size_t end, const char *text)
{
    const size_t n = strlen(text);
    for (size_t i = begin; i + n <= end; i++) {
        if (memcmp(bytes->data + i, text, n) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

/* bytes[at .. at + gone - 1] become text[n]. */
static bool put(sqf_buffer *bytes, size_t at, size_t gone, const char *text, size_t n)
{
    sqf_buffer made = {0};
    const bool done = sqf_buffer_append(&made, bytes->data, at, NULL) == SQF_OK &&
                      sqf_buffer_append(&made, text, n, NULL) == SQF_OK &&
                      sqf_buffer_append(&made, bytes->data + at + gone, bytes->size - at - gone, NULL) == SQF_OK;
    free(bytes->data);
    *bytes = made;
    return done;
}

/* `text` repeated, for free(). */
static char *repeated(const char *text, size_t count)
{
    const size_t n = strlen(text);
    char *made = malloc(n * count + 1);
    for (size_t i = 0; made && i < count; i++) {
        memcpy(made + i * n, text, n);
    }
    if (made) {
        made[n * count] = '\0';
    }
    return made;
}

static bool replace(sqf_buffer *bytes, size_t begin, size_t end, const char *from, const char *to)
{
    const size_t at = find(bytes, begin, end, from);
    return at != SIZE_MAX && put(bytes, at, strlen(from), to, strlen(to));
}

static bool nest(sqf_buffer *bytes, size_t begin, size_t end, const char *from, size_t depth)
{
    char *opening = repeated("[", depth), *closing = repeated("]", depth);
    const size_t at = find(bytes, begin, end, from);
    const bool done =
        at != SIZE_MAX && put(bytes, at, strlen(from), opening, depth) && put(bytes, at + depth, 0, closing, depth);
    free(opening);
    free(closing);
    return done;
}

static bool repeat_content(sqf_buffer *bytes, const char *text, size_t count)
{
    char *made = repeated(text, count);
    const bool done = made && put(bytes, 0, bytes->size, made, strlen(made));
    free(made);
    return done;
}

/* ---- safetensors ---- */

static uint64_t header_length(const sqf_buffer *bytes)
{
    uint64_t length = 0;
    for (unsigned i = 0; i < 8; i++) {
        length |= (uint64_t)(uint8_t)bytes->data[i] << (8 * i);
    }
    return length;
}

static void set_length(sqf_buffer *bytes, uint64_t length)
{
    for (unsigned i = 0; i < 8; i++) {
        bytes->data[i] = (char)(length >> (8 * i));
    }
}

static bool edit_header(sqf_buffer *bytes, const damage_case *item)
{
    const size_t length = header_length(bytes), before = bytes->size;
    bool done = false;
    switch (item->action) {
    case ACTION_HEADER: done = put(bytes, 8, length, item->from, strlen(item->from)); break;
    case ACTION_HEADER_EDIT: done = replace(bytes, 8, 8 + length, item->from, item->to); break;
    case ACTION_HEADER_NEST: done = nest(bytes, 8, 8 + length, item->from, (size_t)item->number); break;
    case ACTION_HEADER_CUT: done = put(bytes, 8 + length - (size_t)item->number, (size_t)item->number, "", 0); break;
    default: break;
    }
    if (done) {
        set_length(bytes, length + bytes->size - before);
    }
    return done;
}

/* Where a tensor's data begins in the file; SIZE_MAX if there is no such tensor. */
static size_t tensor_begin(const sqf_buffer *bytes, const char *name)
{
    const size_t length = header_length(bytes);
    json_t *header = json_loadb(bytes->data + 8, length, 0, NULL);
    const json_t *offset = json_array_get(json_object_get(json_object_get(header, name), "data_offsets"), 0);
    const size_t begin = offset ? 8 + length + (size_t)json_integer_value(offset) : SIZE_MAX;
    json_decref(header);
    return begin;
}

static void forget_hashes(sqf_buffer *bytes)
{
    const size_t end = 8 + header_length(bytes);
    for (size_t at = 8; (at = find(bytes, at, end, "\"hash.")) != SIZE_MAX;) {
        bytes->data[at + 1] = 'x'; /* "xash.": a member that means nothing */
    }
}

static bool edit_data(sqf_buffer *bytes, const damage_case *item)
{
    const size_t begin = tensor_begin(bytes, item->from);
    if (begin == SIZE_MAX) {
        return false;
    }
    for (size_t i = 0; item->to[2 * i] != '\0'; i++) {
        const char digits[] = {item->to[2 * i], item->to[2 * i + 1], '\0'};
        bytes->data[begin + (size_t)item->number + i] = (char)strtoul(digits, NULL, 16);
    }
    if (item->action == ACTION_DATA_UNHASHED) {
        forget_hashes(bytes);
    }
    return true;
}

/* ---- one file ---- */

static bool cut_file(sqf_buffer *bytes, long long number)
{
    const size_t kept = number < 0 ? bytes->size - (size_t)-number : (size_t)number;
    const bool done = kept < bytes->size;
    bytes->size = kept;
    return done;
}

static bool append_zeros(sqf_buffer *bytes, size_t count)
{
    if (sqf_buffer_reserve(bytes, count, NULL) != SQF_OK) {
        return false;
    }
    memset(bytes->data + bytes->size, 0, count);
    bytes->size += count;
    return true;
}

static bool set_first_byte(sqf_buffer *bytes, const char *from, long long value)
{
    const size_t at = find(bytes, 0, bytes->size, from);
    if (at == SIZE_MAX) {
        return false;
    }
    bytes->data[at] = (char)value;
    return true;
}

/* Changes the bytes of a file; false if the case does not fit them. */
static bool edit(sqf_buffer *bytes, const damage_case *item)
{
    switch (item->action) {
    case ACTION_EMPTY: bytes->size = 0; return true;
    case ACTION_CUT: return cut_file(bytes, item->number);
    case ACTION_APPEND: return append_zeros(bytes, (size_t)item->number);
    case ACTION_CONTENT: return put(bytes, 0, bytes->size, item->from, strlen(item->from));
    case ACTION_BYTES: return repeat_content(bytes, item->from, (size_t)item->number);
    case ACTION_REPLACE: return replace(bytes, 0, bytes->size, item->from, item->to);
    case ACTION_NEST: return nest(bytes, 0, bytes->size, item->from, (size_t)item->number);
    case ACTION_FIRST_BYTE: return set_first_byte(bytes, item->from, item->number);
    case ACTION_LENGTH: set_length(bytes, (uint64_t)item->number); return true;
    case ACTION_DATA:
    case ACTION_DATA_UNHASHED: return edit_data(bytes, item);
    default: return edit_header(bytes, item);
    }
}

static bool write_bytes(const char *path, const sqf_buffer *bytes)
{
    FILE *file = fopen(path, "wb");
    const bool written = file && fwrite(bytes->data, 1, bytes->size, file) == bytes->size;
    return file && fclose(file) == 0 && written;
}

static bool write_edited(const damage_case *item, const char *from, const char *to, const char **why)
{
    sqf_buffer bytes;
    if (sqf_file_read(from, FILE_LIMIT, &bytes, NULL) != SQF_OK) {
        *why = "the good file cannot be read";
        return false;
    }
    bool done = edit(&bytes, item);
    *why = "the damage does not fit the file";
    if (done && !write_bytes(to, &bytes)) {
        *why = "the damaged file cannot be written";
        done = false;
    }
    free(bytes.data);
    return done;
}

static bool damage_file(const damage_case *item, const char *from, const char *to, const char **why)
{
    *why = "the file system refused";
    switch (item->action) {
    case ACTION_REMOVE: return true;
    case ACTION_DIRECTORY: return mkdir(to, 0777) == 0;
    case ACTION_PIPE: return mkfifo(to, 0666) == 0;
    case ACTION_DANGLING: return symlink("nowhere", to) == 0;
    case ACTION_LOOP: return symlink(strrchr(to, '/') + 1, to) == 0;
    case ACTION_UNREADABLE: {
        char none[1] = "";
        const sqf_buffer nothing = {.data = none};
        return write_bytes(to, &nothing) && chmod(to, 0) == 0;
    }
    default: return write_edited(item, from, to, why);
    }
}

static bool link_others(const damage_case *item, const char *from, const char *to)
{
    DIR *directory = opendir(from);
    bool done = directory != NULL;
    for (const struct dirent *entry; done && (entry = readdir(directory)) != NULL;) {
        char old[PATH_ROOM], new[PATH_ROOM];
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, item->file) == 0) {
            continue;
        }
        done = snprintf(old, sizeof old, "%s/%s", from, entry->d_name) < PATH_ROOM &&
               snprintf(new, sizeof new, "%s/%s", to, entry->d_name) < PATH_ROOM && symlink(old, new) == 0;
    }
    if (directory) {
        closedir(directory);
    }
    return done;
}

bool damage_make(const damage_case *item, const char *from, const char *to, const char **why)
{
    char good[PATH_ROOM], bad[PATH_ROOM];
    snprintf(good, sizeof good, "%s/%s", from, item->file);
    snprintf(bad, sizeof bad, "%s/%s", to, item->file);
    *why = "the directory cannot be made";
    return mkdir(to, 0777) == 0 && link_others(item, from, to) && damage_file(item, good, bad, why);
}

/* The results file: read on start, appended line by line. A line counts once its line end is there. */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../output.h"

/* Another sweep on the same file would measure the same points again. The lock goes with the process. */
static int lock_file(const store *s)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fileno(s->file), F_SETLK, &lock) == 0) {
        return EXIT_DONE;
    }
    return fail_input("%s: another sweep is writing to it", s->path);
}

static bool is_done(const json_t *line)
{
    const char *status = json_string_value(json_object_get(line, "status"));
    return status && strcmp(status, "done") == 0;
}

/* One line with its end. What is not a result of a sweep is refused: it may be somebody's other file. */
static int read_line(store *s, const char *text, size_t n, size_t number)
{
    json_error_t error;
    json_t *line = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_string(json_object_get(line, "id")) || !json_is_string(json_object_get(line, "grid"))) {
        fail_input("%s: line %zu: not a result of sqf sweep%s%s", s->path, number, line ? "" : ": ",
                   line ? "" : error.text);
        json_decref(line);
        return EXIT_BAD;
    }
    if (is_done(line)) {
        json_array_append(s->lines, line);
    }
    json_decref(line);
    return EXIT_DONE;
}

/* A sweep that was killed while it wrote leaves a part of a line: the point is measured again. */
static int cut_torn_line(store *s, long whole)
{
    fail_input("%s: the last line was torn; it is dropped and measured again", s->path);
    if (fflush(s->file) != 0 || ftruncate(fileno(s->file), whole) != 0) {
        return fail_input("%s: cannot cut off the torn line: %s", s->path, strerror(errno));
    }
    return EXIT_DONE;
}

static int read_lines(store *s)
{
    char *text = NULL;
    size_t room = 0, number = 0;
    long whole = 0;
    int code = EXIT_DONE;
    for (ssize_t n; code == EXIT_DONE && (n = getline(&text, &room, s->file)) > 0;) {
        if (text[n - 1] != '\n') {
            code = s->look ? EXIT_DONE : cut_torn_line(s, whole);
            break;
        }
        code = read_line(s, text, (size_t)n, ++number);
        whole += n;
    }
    free(text);
    if (code == EXIT_DONE && ferror(s->file)) {
        code = fail_input("%s: cannot read", s->path);
    }
    return code == EXIT_DONE && fseek(s->file, 0, SEEK_END) != 0 ? fail_input("%s: cannot be appended to", s->path)
                                                                 : code;
}

int store_open(const char *path, bool look, store *out)
{
    *out = (store){.path = path, .look = look, .lines = json_array()};
    out->file = fopen(path, look ? "r" : "a+");
    if (!out->file && look && errno == ENOENT) {
        return EXIT_DONE;
    }
    if (!out->file) {
        return fail_input("%s: cannot open: %s", path, strerror(errno));
    }
    rewind(out->file);
    const int code = look ? EXIT_DONE : lock_file(out);
    return code == EXIT_DONE ? read_lines(out) : code;
}

void store_close(store *s)
{
    if (s->file) {
        fclose(s->file);
    }
    json_decref(s->lines);
    *s = (store){0};
}

json_t *store_find(const store *s, const char *id, const char *grid)
{
    size_t i;
    json_t *line;
    json_array_foreach(s->lines, i, line)
    {
        if (strcmp(json_string_value(json_object_get(line, "id")), id) == 0 &&
            (!grid || strcmp(json_string_value(json_object_get(line, "grid")), grid) == 0)) {
            return line;
        }
    }
    return NULL;
}

int store_append(store *s, json_t *line)
{
    char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(15));
    const bool written = text && fprintf(s->file, "%s\n", text) > 0 && fflush(s->file) == 0;
    free(text);
    if (written && is_done(line)) {
        json_array_append(s->lines, line);
    }
    json_decref(line);
    return written ? EXIT_DONE : fail_input("%s: cannot write: %s", s->path, strerror(errno));
}

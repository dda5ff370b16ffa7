/* What makes two points the same: hashes of settings and of the contents that they name. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "../output.h"
#include "store.h"

struct content_hash {
    char *path;
    char text[ID_TEXT];
};

static void print_hash(XXH128_hash_t hash, char text[ID_TEXT])
{
    snprintf(text, ID_TEXT, "%016llx%016llx", (unsigned long long)hash.high64, (unsigned long long)hash.low64);
}

/* Adds a file's name and bytes. */
static int add_file(XXH3_state_t *state, const char *path, const char *name)
{
    static unsigned char block[1 << 16];
    FILE *file = fopen(path, "rb");
    if (!file) {
        return fail_input("%s: cannot open: %s", path, strerror(errno));
    }
    XXH3_128bits_update(state, name, strlen(name) + 1);
    for (size_t n; (n = fread(block, 1, sizeof block, file)) > 0;) {
        XXH3_128bits_update(state, block, n);
    }
    const bool failed = ferror(file) != 0;
    fclose(file);
    return failed ? fail_input("%s: cannot read", path) : EXIT_DONE;
}

static bool ends_with(const char *name, const char *ending)
{
    const size_t n = strlen(name), m = strlen(ending);
    return n >= m && strcmp(name + n - m, ending) == 0;
}

/* What the library reads of a model; a report of how it was made holds times and is none of it. */
static int is_content(const struct dirent *entry)
{
    return (ends_with(entry->d_name, ".safetensors") || ends_with(entry->d_name, ".json")) &&
           strcmp(entry->d_name, "report.json") != 0;
}

static int add_directory(XXH3_state_t *state, const char *path)
{
    struct dirent **entries;
    const int count = scandir(path, &entries, is_content, alphasort);
    if (count < 0) {
        return fail_input("%s: cannot read: %s", path, strerror(errno));
    }
    int code = EXIT_DONE;
    for (int i = 0; i < count; i++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, entries[i]->d_name);
        code = code == EXIT_DONE ? add_file(state, name, entries[i]->d_name) : code;
        free(entries[i]);
    }
    free(entries);
    return code;
}

static int hash_content(const char *path, char text[ID_TEXT])
{
    struct stat status;
    if (stat(path, &status) != 0) {
        return fail_input("%s: cannot open: %s", path, strerror(errno));
    }
    XXH3_state_t *state = XXH3_createState();
    if (!state) {
        return fail_input("out of memory");
    }
    XXH3_128bits_reset(state);
    const int code = S_ISDIR(status.st_mode) ? add_directory(state, path) : add_file(state, path, "");
    print_hash(XXH3_128bits_digest(state), text);
    XXH3_freeState(state);
    return code;
}

int content_hash_find(content_hashes *hashes, const char *path, char text[ID_TEXT])
{
    for (size_t i = 0; i < hashes->count; i++) {
        if (strcmp(hashes->items[i].path, path) == 0) {
            memcpy(text, hashes->items[i].text, ID_TEXT);
            return EXIT_DONE;
        }
    }
    const int code = hash_content(path, text);
    struct content_hash *larger =
        code == EXIT_DONE ? realloc(hashes->items, (hashes->count + 1) * sizeof *larger) : NULL;
    if (larger) { /* without memory it is read again: slow, not wrong */
        hashes->items = larger;
        larger[hashes->count].path = strdup(path);
        memcpy(larger[hashes->count].text, text, ID_TEXT);
        hashes->count += larger[hashes->count].path != NULL;
    }
    return code;
}

void content_hashes_clear(content_hashes *hashes)
{
    for (size_t i = 0; i < hashes->count; i++) {
        free(hashes->items[i].path);
    }
    free(hashes->items);
    *hashes = (content_hashes){0};
}

/* A path's content, or for a list of paths that of each. "none" is no file. */
static json_t *contents_of(const json_t *value, content_hashes *hashes, int *code)
{
    if (json_is_array(value)) {
        json_t *list = json_array();
        for (size_t i = 0; i < json_array_size(value) && *code == EXIT_DONE; i++) {
            json_array_append_new(list, contents_of(json_array_get(value, i), hashes, code));
        }
        return list;
    }
    char text[ID_TEXT] = "";
    if (strcmp(json_string_value(value), "none") != 0) {
        *code = content_hash_find(hashes, json_string_value(value), text);
    }
    return json_string(text);
}

int point_identify(const sweep_point *point, content_hashes *hashes, char id[ID_TEXT])
{
    static const char *const paths[] = {"model", "calib", "text", "tasks"};
    json_t *identity = json_copy(point->settings);
    int code = EXIT_DONE;
    for (size_t i = 0; i < sizeof paths / sizeof *paths && code == EXIT_DONE; i++) {
        const json_t *value = json_object_get(identity, paths[i]);
        if (value) {
            json_object_set_new(identity, paths[i], contents_of(value, hashes, &code));
        }
    }
    char *recipe = NULL;
    sqf_error err = {0};
    if (code == EXIT_DONE && sqf_recipe_print(point->recipe, &recipe, &err) != SQF_OK) {
        code = fail_error(&err);
    }
    json_object_set_new(identity, "recipe", json_string_or_null(recipe));
    json_object_set_new(identity, "version", json_string(sqf_version()));
    char *text = json_dumps(identity, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    if (text) {
        print_hash(XXH3_128bits(text, strlen(text)), id);
    } else if (code == EXIT_DONE) {
        code = fail_input("out of memory");
    }
    free(text);
    free(recipe);
    json_decref(identity);
    return code;
}

/* Templates: text with members of an item's object in braces, "{ctx_a} {ctx_b|capitalize}"; {{ and }} are braces. */
#include <string.h>

#include "tasks/definition.h"
#include "tasks/text.h"

/* Longest path in a template. */
enum { PATH_TEXT = 128 };

/* One step of a path: a member of an object or a place of a list. */
static const json_t *step(const json_t *value, const char *name)
{
    if (json_is_object(value)) {
        return json_object_get(value, name);
    }
    if (!json_is_array(value) || *name == '\0' || strlen(name) > 6 || name[strspn(name, "0123456789")] != '\0') {
        return NULL;
    }
    return json_array_get(value, (size_t)strtoul(name, NULL, 10));
}

const json_t *sqf_json_path(const json_t *object, const char *path)
{
    char name[PATH_TEXT];
    const json_t *value = object;
    for (;;) {
        const size_t length = strcspn(path, ".");
        if (length >= sizeof name) {
            return NULL;
        }
        memcpy(name, path, length);
        name[length] = '\0';
        value = step(value, name);
        if (!value || path[length] == '\0') {
            return value;
        }
        path += length + 1;
    }
}

/* Strings as they are; whole numbers too, because "4" and 4 both occur. */
static sqf_status append_value(const json_t *value, const char *filter, sqf_buffer *out, sqf_error *err)
{
    if (json_is_integer(value)) {
        return sqf_buffer_print(out, err, "%lld", (long long)json_integer_value(value));
    }
    const char *text = json_string_value(value);
    const size_t n = json_string_length(value);
    if (strcmp(filter, "capitalize") == 0) {
        return sqf_text_capitalize(text, n, out, err);
    }
    if (strcmp(filter, "lower") == 0) {
        return sqf_text_lower(text, n, out, err);
    }
    const sqf_slice slice = strcmp(filter, "strip") == 0 ? sqf_text_strip(text, n) : (sqf_slice){text, n};
    return sqf_buffer_append(out, slice.at, slice.n, err);
}

static bool filter_known(const char *filter)
{
    static const char *const filters[] = {"", "strip", "capitalize", "lower"};
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        if (strcmp(filter, filters[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* What stands between two braces: "path" or "path|filter". */
static sqf_status append_member(char *inside, const json_t *object, const char *where, sqf_buffer *out, sqf_error *err)
{
    char *bar = strchr(inside, '|');
    const char *filter = bar ? bar + 1 : "";
    if (bar) {
        *bar = '\0';
    }
    if (!filter_known(filter)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: {%s|%s}: expected strip, capitalize or lower", where, inside, filter);
    }
    const json_t *value = sqf_json_path(object, inside);
    if (!json_is_string(value) && !json_is_integer(value)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected a text, found %s", where, inside,
                        value ? "something else" : "nothing");
    }
    return append_value(value, filter, out, err);
}

sqf_status sqf_template_render(const char *text, const json_t *object, const char *where, sqf_buffer *out,
                               sqf_error *err)
{
    while (*text) {
        const size_t plain = strcspn(text, "{}");
        SQF_TRY(sqf_buffer_append(out, text, plain, err));
        text += plain;
        if (*text == '\0') {
            break;
        }
        if (text[0] == text[1]) {
            SQF_TRY(sqf_buffer_append(out, text, 1, err));
            text += 2;
            continue;
        }
        const size_t length = strcspn(text + 1, "{}");
        char inside[PATH_TEXT];
        if (text[0] != '{' || text[1 + length] != '}' || length == 0 || length >= sizeof inside) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: template: a brace without its partner in '%.60s'", where, text);
        }
        memcpy(inside, text + 1, length);
        inside[length] = '\0';
        SQF_TRY(append_member(inside, object, where, out, err));
        text += length + 2;
    }
    return SQF_OK;
}

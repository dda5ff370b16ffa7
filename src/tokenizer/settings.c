/* Reading the parts of a tokenizer.json. */
#include "tokenizer/settings.h"

#include <string.h>

enum { DEPTH_LIMIT = 16 };

sqf_status sqf_settings_known(const json_t *object, const char *const *known, const char *where, sqf_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0) {
            i++;
        }
        if (!known[i]) {
            return sqf_fail(err, SQF_E_SUPPORT, "%s: member \"%s\" is not known", where, key);
        }
    }
    return SQF_OK;
}

sqf_status sqf_settings_type(const json_t *object, const char *where, const char **type, sqf_error *err)
{
    if (!json_is_object(object)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: expected an object or null", where);
    }
    return sqf_settings_string(object, "type", where, type, err);
}

sqf_status sqf_settings_string(const json_t *object, const char *key, const char *where, const char **out,
                               sqf_error *err)
{
    *out = NULL;
    SQF_TRY(sqf_json_string_find(object, key, where, out, err));
    return *out ? SQF_OK : sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected a string, found nothing", where, key);
}

sqf_status sqf_settings_bool(const json_t *object, const char *key, const char *where, bool *out, sqf_error *err)
{
    const json_t *member = json_object_get(object, key);
    if (!member || json_is_null(member)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected true or false, found nothing", where, key);
    }
    return sqf_json_bool_find(object, key, where, out, err);
}

sqf_status sqf_settings_pattern(const json_t *object, const char *where, sqf_regex **out, sqf_error *err)
{
    json_t *pattern;
    SQF_TRY(sqf_json_member(object, "pattern", JSON_OBJECT, where, &pattern, err));
    const bool literal = json_object_get(pattern, "String") != NULL;
    const char *text;
    if (json_object_size(pattern) != 1) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: pattern: expected one member, \"String\" or \"Regex\", found %zu",
                        where, json_object_size(pattern));
    }
    SQF_TRY(sqf_settings_string(pattern, literal ? "String" : "Regex", where, &text, err));
    return sqf_regex_compile(text, literal, where, out, err);
}

sqf_status sqf_settings_behavior(const char *name, const char *where, sqf_behavior *out, sqf_error *err)
{
    static const char *const NAMES[] = {[SQF_REMOVED] = "Removed",
                                        [SQF_ISOLATED] = "Isolated",
                                        [SQF_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [SQF_MERGED_WITH_NEXT] = "MergedWithNext",
                                        [SQF_CONTIGUOUS] = "Contiguous"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        if (strcmp(NAMES[i], name) == 0) {
            *out = (sqf_behavior)i;
            return SQF_OK;
        }
    }
    return sqf_fail(err, SQF_E_SUPPORT, "%s: behavior \"%s\" is not known", where, name);
}

typedef struct walk {
    const char *list, *where;
    sqf_step_fn step;
    void *user;
    size_t steps;
} walk;

static sqf_status walk_part(walk *w, const json_t *json, unsigned depth, sqf_error *err)
{
    const char *type;
    const char *known[] = {"type", w->list, NULL};
    SQF_TRY(sqf_settings_type(json, w->where, &type, err));
    if (strcmp(type, "Sequence") != 0) {
        if (++w->steps > SQF_PARTS_MAX) {
            return sqf_fail(err, SQF_E_SUPPORT, "%s: expected at most %d steps, found more", w->where, SQF_PARTS_MAX);
        }
        return w->step(w->user, json, type, w->where, err);
    }
    if (depth == DEPTH_LIMIT) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: sequences are nested more than %d deep", w->where, DEPTH_LIMIT);
    }
    json_t *members, *member;
    size_t i;
    SQF_TRY(sqf_settings_known(json, known, w->where, err));
    SQF_TRY(sqf_json_member(json, w->list, JSON_ARRAY, w->where, &members, err));
    json_array_foreach(members, i, member)
    {
        SQF_TRY(walk_part(w, member, depth + 1, err));
    }
    return SQF_OK;
}

sqf_status sqf_settings_walk(const json_t *json, const char *list, const char *where, sqf_step_fn step, void *user,
                             sqf_error *err)
{
    walk w = {.list = list, .where = where, .step = step, .user = user};
    return !json || json_is_null(json) ? SQF_OK : walk_part(&w, json, 0, err);
}

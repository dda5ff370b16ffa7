/* JSON through jansson, with getters that turn a missing or wrong member into a sentence. All configuration files of
 * a model pass through here, so the checks on them are the same everywhere: type, range, and null taken as absent
 * (Hugging Face writes null for "not set"). */
#include "base/json.h"

#include <math.h>
#include <string.h>

#include "base/file.h"

/* jansson itself checks UTF-8 and refuses text behind the value. NUL in string values is let in here and refused by
 * the getters where a C string is wanted, because they can name the member. */
sqf_status sqf_json_parse(const char *bytes, size_t n, const char *name, json_t **out, sqf_error *err)
{
    json_error_t problem;
    *out = json_loadb(bytes, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
    if (!*out) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: not valid JSON: line %d column %d: %s", name, problem.line,
                        problem.column, problem.text);
    }
    return SQF_OK;
}

sqf_status sqf_json_load(const char *path, size_t limit, json_t **out, sqf_error *err)
{
    sqf_buffer text = {0};
    *out = NULL;
    sqf_status status = sqf_file_read(path, limit, &text, err);
    if (status == SQF_OK) {
        status = sqf_json_parse(text.data, text.size, path, out, err);
    }
    free(text.data);
    return status;
}

/* As in messages: "expected a string, found an array". */
static const char *type_name(json_type type)
{
    switch (type) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "a whole number";
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    case JSON_NULL: return "null";
    }
    return "a value";
}

/* The one place where null and absence become the same. */
sqf_status sqf_json_member_find(const json_t *object, const char *key, json_type type, const char *where, json_t **out,
                                sqf_error *err)
{
    json_t *member = json_object_get(object, key);
    *out = NULL;
    if (!member || json_is_null(member)) {
        return SQF_OK;
    }
    if (json_typeof(member) != type) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected %s, found %s", where, key, type_name(type),
                        type_name(json_typeof(member)));
    }
    *out = member;
    return SQF_OK;
}

sqf_status sqf_json_member(const json_t *object, const char *key, json_type type, const char *where, json_t **out,
                           sqf_error *err)
{
    SQF_TRY(sqf_json_member_find(object, key, type, where, out, err));
    if (!*out) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected %s, found nothing", where, key, type_name(type));
    }
    return SQF_OK;
}

/* Integers count as numbers: a file may say 1 where 1.0 is meant. */
sqf_status sqf_json_real_find(const json_t *object, const char *key, double min, double max, const char *where,
                              double *out, sqf_error *err)
{
    const json_t *member = json_object_get(object, key);
    if (!member || json_is_null(member)) {
        return SQF_OK;
    }
    if (!json_is_number(member)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected a number, found %s", where, key,
                        type_name(json_typeof(member)));
    }
    const double value = json_number_value(member);
    /* So written that a NaN would fail too. */
    if (!(value >= min && value <= max)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected %g to %g, found %g", where, key, min, max, value);
    }
    *out = value;
    return SQF_OK;
}

/* By way of a double, because some writers put 1e5 or 10000.0 where a whole number is meant. */
sqf_status sqf_json_size_find(const json_t *object, const char *key, size_t min, size_t max, const char *where,
                              size_t *out, sqf_error *err)
{
    double value = NAN;
    /* Beyond 2^53 a double no longer holds every whole number; no size that we read comes near it. */
    SQF_TRY(sqf_json_real_find(object, key, -0x1p53, 0x1p53, where, &value, err));
    if (isnan(value)) {
        return SQF_OK;
    }
    if (value != floor(value) || value < (double)min || value > (double)max) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected a whole number from %zu to %zu, found %.17g", where, key,
                        min, max, value);
    }
    *out = (size_t)value;
    return SQF_OK;
}

sqf_status sqf_json_size(const json_t *object, const char *key, size_t min, size_t max, const char *where, size_t *out,
                         sqf_error *err)
{
    const json_t *member = json_object_get(object, key);
    if (!member || json_is_null(member)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected a whole number from %zu to %zu, found nothing", where, key,
                        min, max);
    }
    return sqf_json_size_find(object, key, min, max, where, out, err);
}

sqf_status sqf_json_bool_find(const json_t *object, const char *key, const char *where, bool *out, sqf_error *err)
{
    const json_t *member = json_object_get(object, key);
    if (!member || json_is_null(member)) {
        return SQF_OK;
    }
    if (!json_is_boolean(member)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected true or false, found %s", where, key,
                        type_name(json_typeof(member)));
    }
    *out = json_is_true(member);
    return SQF_OK;
}

sqf_status sqf_json_string_find(const json_t *object, const char *key, const char *where, const char **out,
                                sqf_error *err)
{
    json_t *member;
    SQF_TRY(sqf_json_member_find(object, key, JSON_STRING, where, &member, err));
    if (!member) {
        return SQF_OK;
    }
    /* JSON may hold \u0000, C strings may not: compared as C strings, two different names would be equal. */
    if (strlen(json_string_value(member)) != json_string_length(member)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s: the string holds a NUL character", where, key);
    }
    *out = json_string_value(member);
    return SQF_OK;
}

typedef struct dump {
    sqf_buffer *out;
    bool failed;
} dump;

/* Once a piece could not be kept no later one may be: jansson does not look at what became of an object's keys. */
static int dump_piece(const char *bytes, size_t n, void *user)
{
    dump *d = user;
    d->failed = d->failed || sqf_buffer_append(d->out, bytes, n, NULL) != SQF_OK;
    return d->failed ? -1 : 0;
}

sqf_status sqf_json_append(const json_t *value, size_t flags, sqf_buffer *out, sqf_error *err)
{
    dump d = {.out = out};
    if (json_dump_callback(value, dump_piece, &d, flags) != 0 || d.failed) {
        return sqf_fail(err, SQF_E_MEMORY, "JSON could not be written");
    }
    return SQF_OK;
}

/* 17 digits bring every double back. */
sqf_status sqf_json_print(const json_t *value, char **out, sqf_error *err)
{
    sqf_buffer text = {0};
    *out = NULL;
    sqf_status status = sqf_json_append(value, JSON_INDENT(2) | JSON_REAL_PRECISION(17) | JSON_ENCODE_ANY, &text, err);
    if (status == SQF_OK) {
        status = sqf_buffer_append(&text, "\n", 1, err);
    }
    if (status != SQF_OK) {
        free(text.data);
        return status;
    }
    *out = text.data;
    return SQF_OK;
}

/* JSON, by jansson: strict (duplicate keys, bad UTF-8 and trailing text are errors), depth bounded.
 * The getters name the file (or object) and the member in their messages: "config.json: hidden_size: ...". */
#ifndef SQF_BASE_JSON_H
#define SQF_BASE_JSON_H

#include <jansson.h>

#include "base/memory.h"

/* `name` is used in messages. *out is to be released with json_decref; NULL on failure. */
sqf_status sqf_json_parse(const char *bytes, size_t n, const char *name, json_t **out, sqf_error *err);

/* Reads and parses a file of at most `limit` bytes. */
sqf_status sqf_json_load(const char *path, size_t limit, json_t **out, sqf_error *err);

/* Member `key` of an object, or SQF_E_FORMAT if it is absent or of another type. Borrowed.
 * A member that is null counts as absent. */
sqf_status sqf_json_member(const json_t *object, const char *key, json_type type, const char *where, json_t **out,
                           sqf_error *err);

/* The same where absence is fine: *out = NULL then. */
sqf_status sqf_json_member_find(const json_t *object, const char *key, json_type type, const char *where, json_t **out,
                                sqf_error *err);

/* Whole number in min..max. A real with a whole value (1e5, 10000.0) is accepted. */
sqf_status sqf_json_size(const json_t *object, const char *key, size_t min, size_t max, const char *where, size_t *out,
                         sqf_error *err);
/* Absent: *out keeps its value, the default. */
sqf_status sqf_json_size_find(const json_t *object, const char *key, size_t min, size_t max, const char *where,
                              size_t *out, sqf_error *err);
/* Finite number in min..max; absent: *out keeps its value. */
sqf_status sqf_json_real_find(const json_t *object, const char *key, double min, double max, const char *where,
                              double *out, sqf_error *err);
/* true or false; absent: *out keeps its value. */
sqf_status sqf_json_bool_find(const json_t *object, const char *key, const char *where, bool *out, sqf_error *err);
/* Borrowed NUL-terminated string; one with a NUL inside is refused; absent: *out keeps its value. */
sqf_status sqf_json_string_find(const json_t *object, const char *key, const char *where, const char **out,
                                sqf_error *err);

/* Appends the text of a value, with flags of jansson's json_dumps, which must not be used: where memory fails it may
 * leave a key out and go on. SQF_E_MEMORY; what was appended before stays. */
sqf_status sqf_json_append(const json_t *value, size_t flags, sqf_buffer *out, sqf_error *err);

/* Serialises with two spaces of indentation and a final line end; member order is kept; floats with 17 digits or
 * fewer. For free(). */
sqf_status sqf_json_print(const json_t *value, char **out, sqf_error *err);

#endif

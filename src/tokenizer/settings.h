/* Reading the parts of a tokenizer.json: each member must be known, each part has a "type". */
#ifndef SQF_TOKENIZER_SETTINGS_H
#define SQF_TOKENIZER_SETTINGS_H

#include "base/json.h"
#include "tokenizer/pieces.h"

enum { SQF_PARTS_MAX = 64 }; /* steps of one sequence, nested ones included */

/* Fails with SQF_E_SUPPORT if the object has a member that is not in `known` (NULL-terminated). */
sqf_status sqf_settings_known(const json_t *object, const char *const *known, const char *where, sqf_error *err);

/* The string member "type". */
sqf_status sqf_settings_type(const json_t *object, const char *where, const char **type, sqf_error *err);

/* A string member that must be there. */
sqf_status sqf_settings_string(const json_t *object, const char *key, const char *where, const char **out,
                               sqf_error *err);

/* A true-or-false member that must be there. */
sqf_status sqf_settings_bool(const json_t *object, const char *key, const char *where, bool *out, sqf_error *err);

/* The member "pattern": {"String": ...} or {"Regex": ...}. */
sqf_status sqf_settings_pattern(const json_t *object, const char *where, sqf_regex **out, sqf_error *err);

/* The name of a behaviour. */
sqf_status sqf_settings_behavior(const char *name, const char *where, sqf_behavior *out, sqf_error *err);

/* Reads one step of a part. */
typedef sqf_status (*sqf_step_fn)(void *user, const json_t *json, const char *type, const char *where, sqf_error *err);

/* Walks a part (NULL or null: nothing) and, if its type is "Sequence", the members of its array `list`, in order and
 * to any depth up to a limit. `where` names the part in messages. */
sqf_status sqf_settings_walk(const json_t *json, const char *list, const char *where, sqf_step_fn step, void *user,
                             sqf_error *err);

#endif

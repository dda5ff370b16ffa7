/* The inside of a recipe, for its three files (keys, rules, YAML) and for the plan that the pipeline follows. */
#ifndef SQF_PTQ_RECIPE_H
#define SQF_PTQ_RECIPE_H

#include <sqf/quantize.h>

#include "base/error.h"

enum { SQF_RECIPE_KEY_MAX = 40 };

/* Keys with their values as text, by position in sqf_recipe_key_list; NULL = not given. Owned. */
typedef struct sqf_recipe_values {
    char *text[SQF_RECIPE_KEY_MAX];
    size_t line[SQF_RECIPE_KEY_MAX]; /* of the file, for messages; 0 = not from a file */
} sqf_recipe_values;

void sqf_recipe_values_clear(sqf_recipe_values *values);
/* SQF_E_ARG: an unknown key, or one that has a value already. */
sqf_status sqf_recipe_values_add(sqf_recipe_values *values, const char *key, const char *text, size_t line,
                                 sqf_error *err);
/* Sets the keys in the order of the list. Messages begin with the line, if there is one. */
sqf_status sqf_recipe_values_apply(const sqf_recipe_values *values, sqf_module_recipe *recipe, sqf_error *err);

/* Room for a value that sqf_recipe_value_print writes. */
enum { SQF_RECIPE_VALUE = SQF_SCHEME_TEXT };
/* Writes the value of the key at `index` so that setting it gives the same field; false for keys that change a part of
 * the scheme, because the long form of `scheme` covers them, and for keys that the first recipes lack at their default.
 */
bool sqf_recipe_value_print(const sqf_module_recipe *recipe, size_t index, char text[SQF_RECIPE_VALUE]);

/* A regular expression (PCRE2) that matches whole names. */
typedef struct sqf_pattern sqf_pattern;

typedef struct sqf_recipe_override {
    char *match;
    sqf_pattern *pattern;
    sqf_recipe_values values;
} sqf_recipe_override;

typedef struct sqf_recipe_ignore {
    char *text;           /* as given: a name, or "re:..." */
    sqf_pattern *pattern; /* NULL for a name */
} sqf_recipe_ignore;

struct sqf_recipe {
    sqf_module_recipe base;
    sqf_recipe_override *overrides;
    sqf_recipe_ignore *ignores;
    size_t override_count, ignore_count;
};

/* True for the output matrix and the embedding, whose schemes are keys of the base recipe. */
bool sqf_recipe_is_vocabulary(const char *module);

/* Whether an entry applies to a module. SQF_E_ARG if the expression takes too long (PCRE2's match limit). */
sqf_status sqf_recipe_override_matches(const sqf_recipe_override *override, const char *module, bool *matches,
                                       sqf_error *err);
sqf_status sqf_recipe_ignore_matches(const sqf_recipe_ignore *ignore, const char *module, bool *matches,
                                     sqf_error *err);

#endif

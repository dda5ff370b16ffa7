/* What a task file says: which members of an item's object mean what, and how its texts are put together. Built-in
 * definitions are task files too, so that there is one reader and every built-in can be copied and changed. */
#ifndef SQF_TASKS_DEFINITION_H
#define SQF_TASKS_DEFINITION_H

#include <sqf/tasks.h>

#include "base/json.h"
#include "tokenizer/regex/regex.h"

/* A list of texts, owned. */
typedef struct sqf_text_list {
    char **at;
    size_t count;
} sqf_text_list;

/* Takes `text` over, also on failure. */
sqf_status sqf_text_list_add(sqf_text_list *texts, char *text, sqf_error *err);
void sqf_text_list_clear(sqf_text_list *texts);

/* Several texts of an item: the strings of a member that is a list, or a template each. */
typedef struct sqf_text_source {
    char *member; /* path, or NULL */
    sqf_text_list templates;
} sqf_text_source;

/* Owned; NULL and zero where the file says nothing. Templates: sqf_template_render. */
typedef struct sqf_definition {
    char *name;
    sqf_task_kind kind;
    char *context;                     /* template; not of partial */
    sqf_text_source contexts, choices; /* of partial; of choice */
    char *continuation;                /* template; of partial and cloze */
    char *answer;                      /* template; of generate: the right text, also for examples */
    char *gold;                        /* path of the right choice */
    sqf_text_source gold_labels;       /* what stands there instead of a number; {0} = a number */
    size_t gold_first;                 /* number of the first choice, where it is a number */
    char *clean;                       /* "hellaswag" or NULL */
    char *delimiter;                   /* between context and continuation */
    char *description;                 /* in front of everything */
    size_t few_shot;
    char *few_shot_delimiter; /* behind each example */
    sqf_text_list stop;       /* texts that end a generated answer */
    char *strict, *flexible;  /* expressions: the first match, the last match */
    sqf_regex *strict_regex, *flexible_regex;
    size_t max_new_tokens;
} sqf_definition;

/* Reads a task file's text; `name` is used in messages. {0} after a failure. */
sqf_status sqf_definition_parse(const char *bytes, size_t n, const char *name, sqf_definition *out, sqf_error *err);
void sqf_definition_clear(sqf_definition *definition);

/* The built-in definition for a file of this name (without folder and ending): the longest whose name it begins with;
 * NULL if there is none. Case does not matter, '_' is '-'. */
const sqf_task_builtin *sqf_builtin_find(const char *name);

/* Appends a template with the members of `object` put in. `where` begins messages. */
sqf_status sqf_template_render(const char *text, const json_t *object, const char *where, sqf_buffer *out,
                               sqf_error *err);

/* The value at a path like "choices.text" or "options.0"; NULL if there is none. Borrowed. */
const json_t *sqf_json_path(const json_t *object, const char *path);

#endif

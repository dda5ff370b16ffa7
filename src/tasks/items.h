/* The items of a task: texts ready to be encoded. */
#ifndef SQF_TASKS_ITEMS_H
#define SQF_TASKS_ITEMS_H

#include "base/hash.h"
#include "tasks/definition.h"

/* One item. Options are what is scored: each choice, each context of a partial task, the one of a cloze.
 *
 *     kind      contexts  continuations
 *     choice    1         options
 *     partial   options   1
 *     cloze     1         1
 *     generate  1         1 (the right answer, for examples and for the comparison) */
typedef struct sqf_item {
    sqf_text_list contexts, continuations;
    size_t gold; /* the right option */
    size_t line; /* in the file, from 1 */
} sqf_item;

struct sqf_task {
    sqf_definition definition;
    char *path, *name;
    sqf_item *items;
    size_t count, capacity;
    char hash[SQF_HASH_TEXT]; /* of the definition's text and of the items' */
};

/* What a task is read from; borrowed. */
typedef struct sqf_task_text {
    const char *name; /* of the definition, for messages */
    const char *definition, *items;
    size_t definition_size, items_size;
} sqf_task_text;

/* sqf_task_load on texts; `path` gives the name. */
sqf_status sqf_task_parse(const char *path, const sqf_task_text *text, sqf_task **out, sqf_error *err);

static inline size_t sqf_item_options(const sqf_item *item)
{
    return item->contexts.count > item->continuations.count ? item->contexts.count : item->continuations.count;
}

/* The texts of one option. */
static inline const char *sqf_item_context(const sqf_item *item, size_t option)
{
    return item->contexts.at[item->contexts.count > 1 ? option : 0];
}
static inline const char *sqf_item_continuation(const sqf_item *item, size_t option)
{
    return item->continuations.at[item->continuations.count > 1 ? option : 0];
}

/* "FILE: line 12" for messages. */
void sqf_item_where(const sqf_task *task, const sqf_item *item, char where[256]);

/* Appends the first `count` items that are not equal to items[index], each with its right answer, in front of which
 * stands the description. SQF_E_ARG if there are not so many. */
sqf_status sqf_task_examples(const sqf_task *task, size_t index, size_t count, sqf_buffer *out, sqf_error *err);

#endif

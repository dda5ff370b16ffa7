/* Any bytes, a task file up to the first NUL and items behind it, give either an error with a message, or items whose
 * right option is one of them and whose examples can be put together. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tasks/items.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "fuzz_task: %s\n", what);
        abort();
    }
}

static void check_task(const sqf_task *task)
{
    sqf_buffer examples = {0};
    require(task->count > 0, "there are items");
    for (size_t i = 0; i < task->count; i++) {
        const sqf_item *item = &task->items[i];
        require(item->gold < sqf_item_options(item), "the right option exists");
        for (size_t option = 0; option < sqf_item_options(item); option++) {
            require(sqf_item_context(item, option) && *sqf_item_continuation(item, option), "texts are there");
        }
    }
    if (task->count > 1) {
        sqf_error err = {0};
        const sqf_status status = sqf_task_examples(task, 0, 1, &examples, &err);
        require(status == SQF_OK || err.text[0] != '\0', "no silent failure");
    }
    free(examples.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *exact = malloc(size ? size : 1); /* an overread by one byte is seen */
    sqf_task *task;
    sqf_error err = {0};
    if (!exact) {
        return 0;
    }
    memcpy(exact, data, size);
    const char *end = memchr(exact, '\0', size);
    const size_t definition = end ? (size_t)(end - exact) : size, behind = end ? definition + 1 : size;
    const sqf_task_text text = {.name = "fuzz",
                                .definition = exact,
                                .definition_size = definition,
                                .items = exact + behind,
                                .items_size = size - behind};
    if (sqf_task_parse("items.jsonl", &text, &task, &err) == SQF_OK) {
        check_task(task);
        sqf_task_destroy(task);
    } else {
        require(!task && err.text[0] != '\0' && !strchr(err.text, '\n'), "no silent failure");
    }
    free(exact);
    return 0;
}

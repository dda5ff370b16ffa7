/* Items beside this file, scored by the demo model: log-likelihoods within 1e-3 of those that transformers gives by the
 * rules of lm-eval (data/make_reference.py), the same greedy verdicts, the same generated text. */
#include "tasks/demo.h"

#include <math.h>

#include "base/file.h"
#include "base/json.h"

/* Lines of an items file as a list of objects. */
static json_t *read_lines(const char *path)
{
    sqf_error err;
    sqf_buffer text = {0};
    json_t *list = json_array();
    assert_ok(sqf_file_read(path, 1 << 24, &text, &err), &err);
    for (char *line = text.data, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        json_t *object;
        assert_ok(sqf_json_parse(line, (size_t)(end - line), path, &object, &err), &err);
        json_array_append_new(list, object);
    }
    free(text.data);
    return list;
}

static void compare_item(const char *name, size_t index, const json_t *ours, const json_t *reference)
{
    const json_t *sums = json_object_get(reference, "log_likelihoods");
    const json_t *found = json_object_get(ours, "log_likelihoods");
    if (!sums) {
        assert_string_equal(json_string_value(json_object_get(ours, "generation")),
                            json_string_value(json_object_get(reference, "generation")));
        return;
    }
    assert_int_equal(json_array_size(found), json_array_size(sums));
    for (size_t i = 0; i < json_array_size(sums); i++) {
        const double a = json_number_value(json_array_get(found, i)), b = json_number_value(json_array_get(sums, i));
        if (!(fabs(a - b) < 1e-3)) {
            fail_msg("%s: item %zu: choice %zu: log-likelihood %.9g, transformers %.9g", name, index, i, a, b);
        }
    }
    assert_int_equal(json_is_true(json_object_get(ours, "greedy")), json_is_true(json_object_get(reference, "greedy")));
}

static void compare_task(const demo *d, const json_t *reference, const char *items)
{
    sqf_error err;
    sqf_task *task;
    sqf_task_result result;
    char path[256];
    const char *name = json_string_value(json_object_get(reference, "name"));
    sqf_tasks_options options = sqf_tasks_options_default();
    options.few_shot = (size_t)json_integer_value(json_object_get(reference, "few_shot"));
    options.max_new_tokens = 48;
    options.items = items;
    snprintf(path, sizeof path, DATA "/%s.jsonl", name);
    assert_ok(sqf_task_load(path, NULL, &task, &err), &err);
    assert_ok(sqf_tasks_run(d->context, d->model, NULL, d->tokenizer, (const sqf_task *const *)&task, 1, &options,
                            &result, &err),
              &err);
    sqf_task_destroy(task);
    const json_t *rows = json_object_get(reference, "items");
    json_t *lines = read_lines(items);
    assert_int_equal(json_array_size(lines), json_array_size(rows));
    assert_int_equal(result.items, json_array_size(rows));
    for (size_t i = 0; i < json_array_size(rows); i++) {
        compare_item(name, i, json_array_get(lines, i), json_array_get(rows, i));
    }
    json_decref(lines);
}

static void test_items_agree_with_transformers(void **state)
{
    const demo *d = *state;
    sqf_error err;
    json_t *reference;
    char items[128];
    assert_ok(sqf_json_load(DATA "/reference.json", 1 << 20, &reference, &err), &err);
    const json_t *tasks = json_object_get(reference, "tasks");
    assert_int_equal(json_array_size(tasks), 9);
    for (size_t i = 0; i < json_array_size(tasks); i++) {
        snprintf(items, sizeof items, "%s/items-%zu.jsonl", d->scratch, i);
        compare_task(d, json_array_get(tasks, i), items);
    }
    json_decref(reference);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_items_agree_with_transformers)};
    return cmocka_run_group_tests(tests, demo_open, demo_close);
}

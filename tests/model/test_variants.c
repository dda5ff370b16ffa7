/* Every decoder family and option, on tiny random models of awkward sizes, against Hugging Face transformers: see
 * data/make_variants.py. */
#include "tiny.h"

static void check_rows(const json_t *rows, const float *logits, size_t vocabulary, const char *name)
{
    const char *row;
    const json_t *values;
    double worst = 0;
    json_object_foreach((json_t *)(uintptr_t)rows, row, values)
    {
        const float *ours = logits + (size_t)atoi(row) * vocabulary;
        assert_int_equal(json_array_size(values), vocabulary);
        for (size_t i = 0; i < vocabulary; i++) {
            worst = fmax(worst, fabs((double)ours[i] - json_number_value(json_array_get(values, i))));
        }
    }
    print_message("%s: largest deviation %.2g\n", name, worst);
    assert_true(worst < 1e-4);
}

static void check_case(sqf_context *context, const json_t *item)
{
    tiny t;
    fixture f = {.context = context};
    sqf_error err = {0};
    sqf_session *session;
    size_t count;
    uint32_t *ids = read_ids(json_object_get(item, "ids"), &count);
    tiny_create(&t, json_object_get(item, "config"), tiny_dtype(json_string_value(json_object_get(item, "dtype"))),
                (size_t)json_integer_value(json_object_get(item, "shard_limit")));
    must(sqf_model_open(context, t.path, &f.model, &err), &err);
    f.vocabulary = sqf_model_info_get(f.model).vocabulary;
    float *logits = run(&f, ids, count, &session);
    check_rows(json_object_get(item, "logits"), logits, f.vocabulary, json_string_value(json_object_get(item, "name")));
    sqf_session_destroy(session);
    sqf_model_destroy(f.model);
    tiny_remove(&t);
    free(logits);
    free(ids);
}

static void test_variants_match_transformers(void **state)
{
    sqf_error err = {0};
    sqf_context *context;
    json_t *file, *item;
    size_t i;
    (void)state;
    must(sqf_json_load(SQF_SOURCE_DIR "/tests/model/data/variants.json", 1 << 24, &file, &err), &err);
    must(sqf_context_create(NULL, &context, &err), &err);
    assert_true(json_array_size(json_object_get(file, "cases")) >= 9);
    json_array_foreach(json_object_get(file, "cases"), i, item)
    {
        check_case(context, item);
    }
    sqf_context_destroy(context);
    json_decref(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants_match_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

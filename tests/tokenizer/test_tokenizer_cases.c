/* The cases in tests/data/tokenizers, made with the reference library by make.py there, and the models' own. */
#include "tokenizer_helpers.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

static json_t *load_json(const char *directory, const char *name)
{
    char path[1024];
    json_t *json;
    sqf_error err = {0};
    snprintf(path, sizeof path, "%s%s", directory, name);
    if (sqf_json_load(path, (size_t)1 << 30, &json, &err) != SQF_OK) {
        fail_msg("%s", err.text);
    }
    return json;
}

static sqf_tokenizer *load_tokenizer(const char *name)
{
    char path[1024];
    sqf_buffer bytes;
    sqf_tokenizer *tokenizer = NULL; /* clang does not know that fail_msg does not return */
    sqf_error err = {0};
    snprintf(path, sizeof path, "%s%s.tokenizer.json", DATA_DIRECTORY, name);
    if (sqf_file_read(path, (size_t)1 << 30, &bytes, &err) != SQF_OK ||
        sqf_tokenizer_parse(bytes.data, bytes.size, NULL, 0, &tokenizer, &err) != SQF_OK) {
        fail_msg("%s", err.text);
    }
    free(bytes.data);
    return tokenizer;
}

static sqf_ids ids_of(const json_t *json)
{
    sqf_ids ids = {0};
    json_t *id;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)json, i, id)
    {
        assert_int_equal(sqf_ids_append(&ids, (uint32_t)json_integer_value(id), NULL), SQF_OK);
    }
    return ids;
}

static void expect_text(const sqf_tokenizer *tokenizer, const sqf_ids *ids, bool skip, const json_t *expected,
                        const char *name)
{
    char *text;
    size_t n;
    assert_int_equal(sqf_tokenizer_decode(tokenizer, ids->data, ids->count, skip, &text, &n, NULL), SQF_OK);
    if (n != json_string_length(expected) || memcmp(text, json_string_value(expected), n) != 0) {
        fail_msg("%s: decoded \"%s\", expected \"%s\"", name, text, json_string_value(expected));
    }
    free(text);
}

/* One case of the list: see make.py. */
static void check_case(const sqf_tokenizer *tokenizer, const json_t *texts, const json_t *entry, const char *name)
{
    const json_t *text = json_array_get(texts, (size_t)json_integer_value(json_array_get(entry, 0)));
    const json_t *special = json_array_get(entry, 2), *decoded = json_array_get(entry, 3),
                 *skipped = json_array_get(entry, 4);
    const char *bytes = json_string_value(text);
    const size_t n = json_string_length(text);
    sqf_ids plain = ids_of(json_array_get(entry, 1));
    sqf_ids around = ids_of(json_is_null(special) ? json_array_get(entry, 1) : special);
    decoded = json_is_null(decoded) ? text : decoded;
    skipped = json_is_null(skipped) ? decoded : skipped;
    expect_ids(tokenizer, bytes, n, false, plain.data, plain.count);
    expect_ids(tokenizer, bytes, n, true, around.data, around.count);
    expect_text(tokenizer, &around, false, decoded, name);
    expect_text(tokenizer, &around, true, skipped, name);
    sqf_ids_clear(&plain);
    sqf_ids_clear(&around);
}

static size_t check_tokenizer(const char *name, const json_t *texts)
{
    char cases_name[300];
    snprintf(cases_name, sizeof cases_name, "%.256s.cases.json", name);
    sqf_tokenizer *tokenizer = load_tokenizer(name);
    json_t *cases = load_json(DATA_DIRECTORY, cases_name), *entry;
    size_t i;
    json_array_foreach(cases, i, entry)
    {
        check_case(tokenizer, texts, entry, name);
    }
    const size_t count = json_array_size(cases);
    json_decref(cases);
    sqf_tokenizer_destroy(tokenizer);
    return count;
}

static void every_shape_gives_the_ids_and_texts_of_the_reference(void **state)
{
    (void)state;
    static const char SUFFIX[] = ".tokenizer.json";
    json_t *texts = load_json(DATA_DIRECTORY, "texts.json");
    DIR *directory = opendir(DATA_DIRECTORY);
    size_t cases = 0, shapes = 0;
    assert_non_null(directory);
    for (const struct dirent *entry = readdir(directory); entry; entry = readdir(directory)) {
        const size_t n = strlen(entry->d_name), cut = sizeof SUFFIX - 1;
        if (n > cut && strcmp(entry->d_name + n - cut, SUFFIX) == 0) {
            char name[256];
            snprintf(name, sizeof name, "%.*s", (int)(n - cut), entry->d_name);
            cases += check_tokenizer(name, texts);
            shapes++;
        }
    }
    closedir(directory);
    json_decref(texts);
    print_message("%zu tokenizers, %zu cases\n", shapes, cases);
    assert_true(shapes >= 25);
    assert_true(cases >= 4000);
}

static void the_demo_model_encodes_as_its_reference_says(void **state)
{
    (void)state;
    static const char DIRECTORY[] = SQF_SOURCE_DIR "/models/demo/";
    sqf_tokenizer *tokenizer;
    sqf_error err = {0};
    if (sqf_tokenizer_load(DIRECTORY, &tokenizer, &err) != SQF_OK) {
        fail_msg("%s", err.text);
    }
    json_t *reference = load_json(DIRECTORY, "tokenizer_reference.json"), *items = json_object_get(reference, "items"),
           *item;
    size_t i;
    assert_int_equal(sqf_tokenizer_vocabulary_size(tokenizer), 2048);
    assert_true(json_array_size(items) > 0);
    json_array_foreach(items, i, item)
    {
        const json_t *text = json_object_get(item, "text");
        sqf_ids ids = ids_of(json_object_get(item, "ids"));
        expect_ids(tokenizer, json_string_value(text), json_string_length(text), false, ids.data, ids.count);
        expect_text(tokenizer, &ids, false, text, "demo");
        sqf_ids_clear(&ids);
    }
    json_decref(reference);
    sqf_tokenizer_destroy(tokenizer);
}

static void a_sentencepiece_model_encodes_as_its_reference_says(void **state)
{
    (void)state;
    static const char DIRECTORY[] = SQF_SOURCE_DIR "/../shared/models/stories260k/";
    sqf_tokenizer *tokenizer;
    if (!sqf_path_exists(DIRECTORY)) {
        skip();
    }
    assert_int_equal(sqf_tokenizer_load(DIRECTORY, &tokenizer, NULL), SQF_OK);
    json_t *reference = load_json(DIRECTORY, "reference.json");
    const json_t *prompt = json_object_get(reference, "prompt");
    sqf_ids ids = ids_of(json_object_get(reference, "prompt_ids_with_bos"));
    expect_ids(tokenizer, json_string_value(prompt), json_string_length(prompt), true, ids.data, ids.count);
    expect_text(tokenizer, &ids, true, prompt, "stories260k");
    sqf_ids_clear(&ids);
    json_decref(reference);
    sqf_tokenizer_destroy(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_gives_the_ids_and_texts_of_the_reference),
        cmocka_unit_test(the_demo_model_encodes_as_its_reference_says),
        cmocka_unit_test(a_sentencepiece_model_encodes_as_its_reference_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

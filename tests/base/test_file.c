/* Files, outputs that appear whole or not at all, hashes, JSON getters. */
#include "check.h"

#include "base/context.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"

static char scratch[64];

static int enter(void **state)
{
    (void)state;
    make_scratch(scratch);
    return chdir(scratch);
}

static int leave(void **state)
{
    (void)state;
    remove_scratch(scratch);
    return chdir("/");
}

static size_t count_entries(void)
{
    FILE *list = popen("ls -A | wc -l", "r");
    size_t entries = 999;
    assert_int_equal(fscanf(list, "%zu", &entries), 1);
    pclose(list);
    return entries;
}

static void test_read_gives_the_bytes_and_names_what_is_wrong(void **state)
{
    (void)state;
    sqf_error err;
    sqf_buffer text;
    assert_ok(sqf_file_write("file", "a\0b", 3, &err), &err);
    assert_ok(sqf_file_read("file", 3, &text, &err), &err);
    assert_int_equal(text.size, 3);
    assert_memory_equal(text.data, "a\0b", 4);
    free(text.data);
    assert_fails(sqf_file_read("file", 2, &text, &err), SQF_E_FORMAT, &err, "file: expected at most 2 bytes, found 3");
    assert_fails(sqf_file_read("missing", 9, &text, &err), SQF_E_IO, &err, "missing: cannot open");
    assert_fails(sqf_file_read(".", 9, &text, &err), SQF_E_IO, &err, "found a directory");
    assert_fails(sqf_file_read("/dev/null", 9, &text, &err), SQF_E_IO, &err, "found something else");
    assert_int_equal(mkfifo("pipe", 0600), 0);
    assert_fails(sqf_file_read("pipe", 9, &text, &err), SQF_E_IO, &err, "pipe");
}

static void test_mapping_of_full_and_empty_files(void **state)
{
    (void)state;
    sqf_error err;
    sqf_mapping mapping;
    assert_ok(sqf_file_write("file", "abc", 3, &err), &err);
    assert_ok(sqf_mapping_open("file", &mapping, &err), &err);
    assert_int_equal(mapping.size, 3);
    assert_memory_equal(mapping.data, "abc", 3);
    sqf_mapping_close(&mapping);
    assert_ok(sqf_file_write("file", "", 0, &err), &err);
    assert_ok(sqf_mapping_open("file", &mapping, &err), &err);
    assert_int_equal(mapping.size, 0);
    assert_non_null(mapping.data);
    sqf_mapping_close(&mapping);
    assert_fails(sqf_mapping_open("none", &mapping, &err), SQF_E_IO, &err, "none");
}

static void test_forgotten_pages_come_back(void **state)
{
    (void)state;
    enum { SIZE = 100000 };
    sqf_error err;
    sqf_mapping mapping;
    char *bytes = malloc(SIZE);
    memset(bytes, 'x', SIZE);
    assert_ok(sqf_file_write("file", bytes, SIZE, &err), &err);
    assert_ok(sqf_mapping_open("file", &mapping, &err), &err);
    assert_memory_equal(mapping.data, bytes, SIZE);
    sqf_mapping_expect(mapping.data + 5, SIZE - 5);
    sqf_mapping_expect(mapping.data + SIZE, 0); /* nothing at the end: nothing happens */
    sqf_mapping_forget(mapping.data + 5, SIZE - 5);
    sqf_mapping_forget(mapping.data + 1, 10); /* no whole page: nothing happens */
    assert_memory_equal(mapping.data, bytes, SIZE);
    sqf_mapping_close(&mapping);
    free(bytes);
}

static void test_copy_and_write_errors(void **state)
{
    (void)state;
    sqf_error err;
    sqf_buffer text;
    assert_ok(sqf_file_write("from", "data", 4, &err), &err);
    assert_ok(sqf_file_copy("from", "to", &err), &err);
    assert_ok(sqf_file_read("to", 10, &text, &err), &err);
    assert_string_equal(text.data, "data");
    free(text.data);
    assert_fails(sqf_file_copy("from", "no/such/dir", &err), SQF_E_IO, &err, "no/such/dir: cannot create");
    assert_fails(sqf_file_write("/dev/full", "x", 1, &err), SQF_E_IO, &err, "/dev/full: cannot write");
}

static void write_inside(const sqf_output *output, const char *name, const char *text)
{
    sqf_error err;
    char *path;
    assert_ok(sqf_path_join(&path, sqf_output_path(output), name, &err), &err);
    assert_ok(sqf_file_write(path, text, strlen(text), &err), &err);
    free(path);
}

static void test_output_directory_appears_whole(void **state)
{
    (void)state;
    sqf_error err;
    sqf_output *output;
    sqf_buffer text;
    assert_ok(sqf_output_begin("out/", true, false, &output, &err), &err);
    write_inside(output, "a", "one");
    assert_false(sqf_path_exists("out"));
    assert_ok(sqf_output_commit(output, &err), &err);
    assert_ok(sqf_file_read("out/a", 10, &text, &err), &err);
    assert_string_equal(text.data, "one");
    free(text.data);
    assert_int_equal(count_entries(), 1);
}

static void test_output_that_exists_needs_force_and_is_replaced_whole(void **state)
{
    (void)state;
    sqf_error err;
    sqf_output *output;
    sqf_buffer text;
    assert_int_equal(mkdir("out", 0777), 0);
    assert_ok(sqf_file_write("out/old", "old", 3, &err), &err);
    assert_fails(sqf_output_begin("out", true, false, &output, &err), SQF_E_EXISTS, &err, "out: exists already");
    assert_null(output);
    assert_ok(sqf_output_begin("out", true, true, &output, &err), &err);
    write_inside(output, "new", "new");
    assert_ok(sqf_output_commit(output, &err), &err);
    assert_false(sqf_path_exists("out/old"));
    assert_ok(sqf_file_read("out/new", 10, &text, &err), &err);
    free(text.data);
    assert_int_equal(count_entries(), 1);
}

static void test_aborted_output_leaves_nothing(void **state)
{
    (void)state;
    sqf_error err;
    sqf_output *output;
    assert_ok(sqf_output_begin("out", true, false, &output, &err), &err);
    write_inside(output, "a", "one");
    char inner[128];
    snprintf(inner, sizeof inner, "%s/inner", sqf_output_path(output));
    assert_int_equal(mkdir(inner, 0777), 0);
    assert_int_equal(symlink("/etc", "link"), 0);
    sqf_output_abort(output);
    assert_int_equal(unlink("link"), 0);
    assert_int_equal(count_entries(), 0);
    sqf_output_abort(NULL);
    assert_fails(sqf_output_begin("no/such/out", true, false, &output, &err), SQF_E_IO, &err, "no/such/out");
    assert_fails(sqf_output_begin("", true, false, &output, &err), SQF_E_ARG, &err, "empty");
}

static void test_output_that_appears_meanwhile_is_not_overwritten(void **state)
{
    (void)state;
    sqf_error err;
    sqf_output *output;
    assert_ok(sqf_output_begin("file", false, false, &output, &err), &err);
    assert_ok(sqf_file_write("file", "other", 5, &err), &err);
    assert_fails(sqf_output_commit(output, &err), SQF_E_EXISTS, &err, "file: exists already");
    assert_int_equal(count_entries(), 1);
}

static void test_hash_of_known_bytes(void **state)
{
    (void)state;
    char text[SQF_HASH_TEXT];
    sqf_hash_bytes("", 0, text);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f"); /* XXH3-128 of nothing, seed 0 */
    sqf_hash_bytes("a", 1, text);
    assert_string_not_equal(text, "99aa06d3014798d86001c324468d497f");
}

static json_t *parse(const char *text)
{
    sqf_error err;
    json_t *value;
    assert_ok(sqf_json_parse(text, strlen(text), "test.json", &value, &err), &err);
    return value;
}

static void test_json_refuses_what_is_not_json(void **state)
{
    (void)state;
    sqf_error err;
    json_t *value;
    const char *const bad[] = {"", "{", "{\"a\":1,\"a\":2}", "[1] x", "{\"a\":\"\xff\"}", "[1e999]", "nul"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_fails(sqf_json_parse(bad[i], strlen(bad[i]), "test.json", &value, &err), SQF_E_FORMAT, &err,
                     "test.json: not valid JSON: line 1");
        assert_null(value);
    }
    enum { DEPTH = 200000 };
    char *nested = malloc(DEPTH);
    memset(nested, '[', DEPTH);
    assert_fails(sqf_json_parse(nested, DEPTH, "deep.json", &value, &err), SQF_E_FORMAT, &err, "deep.json");
    free(nested);
}

static void test_json_getters_name_member_expected_and_found(void **state)
{
    (void)state;
    sqf_error err;
    json_t *object =
        parse("{\"n\":5,\"r\":1.5,\"s\":\"x\",\"b\":true,\"z\":null,\"e\":1e5,\"o\":{},\"nul\":\"a\\u0000b\"}");
    size_t n = 0;
    double r = 9;
    bool b = false;
    const char *s = "default";
    json_t *member;
    assert_ok(sqf_json_size(object, "n", 1, 10, "f", &n, &err), &err);
    assert_int_equal(n, 5);
    assert_ok(sqf_json_size(object, "e", 1, 1000000, "f", &n, &err), &err);
    assert_int_equal(n, 100000);
    assert_fails(sqf_json_size(object, "n", 6, 10, "f", &n, &err), SQF_E_FORMAT, &err,
                 "f: n: expected a whole number from 6 to 10, found 5");
    assert_fails(sqf_json_size(object, "r", 0, 10, "f", &n, &err), SQF_E_FORMAT, &err, "found 1.5");
    assert_fails(sqf_json_size(object, "none", 0, 10, "f", &n, &err), SQF_E_FORMAT, &err, "found nothing");
    assert_fails(sqf_json_size(object, "z", 0, 10, "f", &n, &err), SQF_E_FORMAT, &err, "found nothing");
    assert_ok(sqf_json_size_find(object, "none", 0, 10, "f", &n, &err), &err);
    assert_int_equal(n, 100000);
    assert_ok(sqf_json_real_find(object, "r", 0, 2, "f", &r, &err), &err);
    assert_true(r == 1.5);
    assert_fails(sqf_json_real_find(object, "s", 0, 2, "f", &r, &err), SQF_E_FORMAT, &err, "found a string");
    assert_fails(sqf_json_real_find(object, "r", 2, 3, "f", &r, &err), SQF_E_FORMAT, &err, "expected 2 to 3");
    assert_ok(sqf_json_bool_find(object, "b", "f", &b, &err), &err);
    assert_true(b);
    assert_fails(sqf_json_bool_find(object, "n", "f", &b, &err), SQF_E_FORMAT, &err, "expected true or false");
    assert_ok(sqf_json_string_find(object, "z", "f", &s, &err), &err);
    assert_string_equal(s, "default");
    assert_fails(sqf_json_string_find(object, "nul", "f", &s, &err), SQF_E_FORMAT, &err, "NUL");
    assert_fails(sqf_json_string_find(object, "n", "f", &s, &err), SQF_E_FORMAT, &err, "expected a string");
    assert_fails(sqf_json_member(object, "none", JSON_OBJECT, "f", &member, &err), SQF_E_FORMAT, &err, "an object");
    assert_ok(sqf_json_member(object, "o", JSON_OBJECT, "f", &member, &err), &err);
    char *text;
    assert_ok(sqf_json_print(member, &text, &err), &err);
    assert_string_equal(text, "{}\n");
    free(text);
    json_decref(object);
}

static bool stop_at_two(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what, (void)total;
    ++*(int *)user;
    return done < 2;
}

static void test_progress_can_cancel(void **state)
{
    (void)state;
    sqf_error err;
    int calls = 0;
    sqf_context context = {.options = {.progress = stop_at_two, .progress_user = &calls}};
    assert_ok(sqf_progress(&context, "things", 1, 2, &err), &err);
    assert_fails(sqf_progress(&context, "things", 2, 2, &err), SQF_E_CANCELLED, &err, "cancelled at 2 of 2 things");
    assert_int_equal(calls, 2);
    assert_ok(sqf_progress(NULL, "things", 2, 2, &err), &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_read_gives_the_bytes_and_names_what_is_wrong, enter, leave),
        cmocka_unit_test_setup_teardown(test_mapping_of_full_and_empty_files, enter, leave),
        cmocka_unit_test_setup_teardown(test_forgotten_pages_come_back, enter, leave),
        cmocka_unit_test_setup_teardown(test_copy_and_write_errors, enter, leave),
        cmocka_unit_test_setup_teardown(test_output_directory_appears_whole, enter, leave),
        cmocka_unit_test_setup_teardown(test_output_that_exists_needs_force_and_is_replaced_whole, enter, leave),
        cmocka_unit_test_setup_teardown(test_aborted_output_leaves_nothing, enter, leave),
        cmocka_unit_test_setup_teardown(test_output_that_appears_meanwhile_is_not_overwritten, enter, leave),
        cmocka_unit_test(test_hash_of_known_bytes),
        cmocka_unit_test(test_json_refuses_what_is_not_json),
        cmocka_unit_test(test_json_getters_name_member_expected_and_found),
        cmocka_unit_test(test_progress_can_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The worked examples of docs/format.md section 11: rows that every reader must accept and write back byte for byte,
 * and rows that every reader must refuse, with the sentence that this one says. */
#include "base/json.h"
#include "check.h"
#include "format/matrix.h"

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    assert_non_null(text);
    return text;
}

/* "A0 7F" to bytes; exactly n of them. */
static void read_hex(const char *text, uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(text + 3 * i, "%2x", &byte), 1);
        bytes[i] = (uint8_t)byte;
    }
    assert_int_equal(strlen(text), n ? 3 * n - 1 : 0);
}

/* A matrix of one row with the example's tensors, which must be those of the scheme and no others. */
static void read_matrix(const json_t *example, sqf_matrix *m)
{
    sqf_error err;
    sqf_scheme scheme;
    assert_ok(sqf_scheme_parse(text_of(example, "scheme"), &scheme, &err), &err);
    const size_t columns = (size_t)json_integer_value(json_object_get(example, "columns"));
    const json_t *border = json_object_get(example, "border");
    assert_ok(sqf_matrix_create(&scheme.weights, 1, columns, border ? (size_t)json_integer_value(border) : columns,
                                NULL, m, &err),
              &err);
    const json_t *tensors = json_object_get(example, "tensors");
    sqf_matrix_part parts[SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(m, parts);
    assert_int_equal(json_object_size(tensors), count);
    for (size_t i = 0; i < count; i++) {
        read_hex(text_of(tensors, parts[i].suffix), *parts[i].data, parts[i].row_bytes);
    }
}

static json_t *load(const char *name)
{
    sqf_error err;
    char path[512];
    json_t *examples;
    snprintf(path, sizeof path, "%s/tests/golden/%s", SQF_SOURCE_DIR, name);
    assert_ok(sqf_json_load(path, 1 << 20, &examples, &err), &err);
    assert_true(json_is_array(examples) && json_array_size(examples) > 10);
    return examples;
}

static void check_numbers(const json_t *list, const float *found, size_t n)
{
    for (size_t i = 0; list && i < n; i++) {
        assert_true((float)json_number_value(json_array_get(list, i)) == found[i]);
    }
    assert_true(!list || json_array_size(list) == n);
}

static void check_good(const json_t *example)
{
    sqf_error err;
    sqf_matrix m, copy;
    sqf_row row;
    print_message("  %s\n", text_of(example, "about"));
    read_matrix(example, &m);
    read_matrix(example, &copy);
    assert_ok(sqf_row_create(&m, &row, &err), &err);
    assert_ok(sqf_matrix_check_row(&m, 0, "P", &err), &err);
    sqf_matrix_unpack_row(&m, 0, &row);
    const char *mask = text_of(example, "mask");
    for (size_t j = 0; j < m.columns; j++) {
        assert_int_equal(row.mask[j], mask[j] == '1');
    }
    check_numbers(json_object_get(example, "values"), row.value, m.columns);
    check_numbers(json_object_get(example, "scale_low"), row.scale_low, m.group_count);
    check_numbers(json_object_get(example, "scale_high"), row.scale_high, m.group_count);

    sqf_matrix_part parts[SQF_MATRIX_PARTS], original[SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(&m, parts);
    sqf_matrix_parts(&copy, original);
    for (size_t i = 0; i < count; i++) {
        memset(*parts[i].data, 0xee, parts[i].row_bytes);
    }
    sqf_matrix_pack_row(&m, 0, &row);
    for (size_t i = 0; i < count; i++) {
        assert_memory_equal(*parts[i].data, *original[i].data, parts[i].row_bytes);
    }
    sqf_row_clear(&row);
    sqf_matrix_clear(&m);
    sqf_matrix_clear(&copy);
}

static void test_good_rows_read_as_documented_and_are_written_byte_for_byte(void **state)
{
    (void)state;
    json_t *examples = load("rows-good.json");
    size_t i;
    json_t *example;
    json_array_foreach(examples, i, example)
    {
        check_good(example);
    }
    json_decref(examples);
}

static void test_bad_rows_are_refused_with_the_documented_sentence(void **state)
{
    (void)state;
    json_t *examples = load("rows-bad.json");
    size_t i;
    json_t *example;
    json_array_foreach(examples, i, example)
    {
        sqf_error err = {0};
        sqf_matrix m;
        print_message("  %s\n", text_of(example, "about"));
        read_matrix(example, &m);
        assert_int_equal(sqf_matrix_check_row(&m, 0, "P", &err), SQF_E_VALUE);
        assert_string_equal(err.text, text_of(example, "error"));
        sqf_matrix_clear(&m);
    }
    json_decref(examples);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_rows_read_as_documented_and_are_written_byte_for_byte),
        cmocka_unit_test(test_bad_rows_are_refused_with_the_documented_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Damaged and hostile files: each is refused with a status and a line that says what is wrong. */
#include "directory.h"

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

/* A header, the bytes of data behind it, and what must be said. */
typedef struct header_case {
    const char *header;
    size_t data_bytes;
    const char *message;
} header_case;

static const header_case headers[] = {
    {"", 8, "expected a JSON object that begins with {"},
    {"[]", 0, "expected a JSON object that begins with {"},
    {" {}", 0, "expected a JSON object that begins with {"},
    {"{", 8, "header: expected a JSON object"},
    {"{" A, 8, "not valid JSON"},
    {"{" A "}}", 8, "not valid JSON"},
    {"{" A "," A "}", 8, "duplicate object key"},
    {"{\"a\xff\":1}", 8, "not valid JSON"},
    {"{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "not valid JSON"},
    {"{\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "name: expected 1 to 512 bytes"},
    {"{\"a\\nb\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "control character"},
    {"{\"a\":7}", 8, "tensor a: expected an object"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "tensor a: expected an object"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"more\":1}}", 8, "tensor a: expected an object"},
    {"{\"a\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "dtype: expected one of the format, found F31"},
    {"{\"a\":{\"dtype\":32,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype: expected one of the format, found none"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, "shape: expected an array"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,2],\"data_offsets\":[0,8]}}", 8,
     "shape: expected an array of at most 4"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "shape: expected whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, "shape: expected whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}", 8, "shape: expected whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", 8, "beyond 64 bits"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4, "beyond 64 bits"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}}", 8, "not valid JSON"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "data_offsets: expected two whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8,
     "data_offsets: expected two whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8,
     "data_offsets: expected two whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "an ascending pair up to 8, found 8 and 0"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,16]}}", 8,
     "an ascending pair up to 8, found 0 and 16"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8,
     "expected 12 bytes for its dtype and shape, found 8"},
    {"{\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "expected 4 bytes for its dtype and shape, found 8"},
    {"{" A "}", 12, "expected 8 bytes of data after the header, found 12"},
    {"{" A "}", 4, "an ascending pair up to 4"},
    {"{}", 4, "expected 0 bytes of data after the header, found 4"},
    {"{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[6,10]}}", 10, "tensor b: overlaps another tensor"},
    {"{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", 8, "overlaps another tensor"},
    {"{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[12,16]}}", 16, "tensor b: a hole before it"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}", 8, "tensor a: a hole before it"},
    {"{\"__metadata__\":[]," A "}", 8, "__metadata__: expected an object"},
    {"{\"__metadata__\":{\"k\":1}," A "}", 8, "__metadata__: k: expected a string"},
    {"{\"__metadata__\":{\"hash.b\":\"xxh3-128:0\"}," A "}", 8, "hash.b: there is no such tensor"},
};

/* Opens a directory that must be refused. */
static void expect_refusal(const char *directory, sqf_status status, const char *message)
{
    sqf_error err = {0};
    sqf_tensors *tensors;
    const sqf_status found = sqf_tensors_open(directory, &tensors, &err);
    if (found != status || !strstr(err.text, message)) {
        fail_msg("expected \"%s\", found status %d: \"%s\"", message, (int)found, err.text);
    }
    assert_null(tensors);
    assert_null(strchr(err.text, '\n'));
}

static void test_bad_headers_are_refused(void **state)
{
    char directory[64];
    (void)state;
    make_directory(directory);
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        write_tensors(directory, "model.safetensors", headers[i].header, headers[i].data_bytes);
        expect_refusal(directory, SQF_E_FORMAT, headers[i].message);
    }
    remove_directory(directory);
}

/* The same header without a fault is read: the table above does not pass by accident. */
static void test_good_header_is_read(void **state)
{
    char directory[64];
    sqf_error err = {0};
    sqf_tensors *tensors;
    (void)state;
    make_directory(directory);
    write_tensors(directory, "model.safetensors",
                  "{\"__metadata__\":{\"format\":\"pt\"}," A
                  ",\"empty\":{\"dtype\":\"I64\",\"shape\":[0,3],\"data_offsets\":[8,8]},"
                  "\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[8,9]}}   ",
                  9);
    must(sqf_tensors_open(directory, &tensors, &err), &err);
    assert_int_equal(sqf_tensors_count(tensors), 3);
    assert_string_equal(sqf_tensors_at(tensors, 0)->name, "a");
    assert_int_equal(sqf_tensors_find(tensors, "b")->data[0], 8);
    assert_int_equal(sqf_tensors_find(tensors, "empty")->dtype, SQF_DTYPE_OTHER);
    assert_null(sqf_tensors_find(tensors, "c"));
    sqf_tensors_close(tensors);
    remove_directory(directory);
}

static void test_deep_header_is_an_error_not_a_crash(void **state)
{
    enum { DEPTH = 200000 };
    char directory[64], *header = malloc(2 * DEPTH + 16);
    (void)state;
    make_directory(directory);
    strcpy(header, "{\"a\":");
    memset(header + 5, '[', DEPTH);
    memset(header + 5 + DEPTH, ']', DEPTH);
    strcpy(header + 5 + 2 * DEPTH, "}");
    write_tensors(directory, "model.safetensors", header, 0);
    expect_refusal(directory, SQF_E_FORMAT, "maximum parsing depth reached");
    header[5 + 2047] = '\0'; /* deep, not too deep, and cut */
    write_tensors(directory, "model.safetensors", header, 0);
    expect_refusal(directory, SQF_E_FORMAT, "not valid JSON");
    free(header);
    remove_directory(directory);
}

static void test_bad_lengths_are_refused(void **state)
{
    char directory[64];
    uint8_t bytes[16] = {0};
    (void)state;
    make_directory(directory);
    expect_refusal(directory, SQF_E_IO, "model.safetensors: cannot open");
    write_file(directory, "model.safetensors", bytes, 0);
    expect_refusal(directory, SQF_E_FORMAT, "expected at least 8 bytes, found 0");
    write_file(directory, "model.safetensors", bytes, 7);
    expect_refusal(directory, SQF_E_FORMAT, "expected at least 8 bytes, found 7");
    write_file(directory, "model.safetensors", bytes, 16);
    expect_refusal(directory, SQF_E_FORMAT, "begins with {");
    memset(bytes, 0xff, 8);
    write_file(directory, "model.safetensors", bytes, 16);
    expect_refusal(directory, SQF_E_FORMAT, "header length: expected at most 8, found 18446744073709551615");
    remove_directory(directory);
}

static void test_every_cut_of_a_file_is_refused(void **state)
{
    char directory[64];
    sqf_error err = {0};
    sqf_buffer whole;
    char path[96];
    (void)state;
    make_directory(directory);
    write_tensors(directory, "model.safetensors", "{" A "}", 8);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    must(sqf_file_read(path, 4096, &whole, &err), &err);
    for (size_t n = 0; n < whole.size; n++) {
        sqf_tensors *tensors;
        write_file(directory, "model.safetensors", whole.data, n);
        assert_int_equal(sqf_tensors_open(directory, &tensors, &err), SQF_E_FORMAT);
        assert_true(err.text[0] != '\0');
    }
    free(whole.data);
    remove_directory(directory);
}

/* An index beside two shards: one holds a, the other b. */
typedef struct index_case {
    const char *index;
    sqf_status status;
    const char *message;
} index_case;

static const index_case indices[] = {
    {"[]", SQF_E_FORMAT, "expected a JSON object"},
    {"{", SQF_E_FORMAT, "not valid JSON"},
    {"{}", SQF_E_FORMAT, "weight_map: expected an object, found nothing"},
    {"{\"weight_map\":[]}", SQF_E_FORMAT, "weight_map: expected an object, found an array"},
    {"{\"weight_map\":{\"a\":1}}", SQF_E_FORMAT, "expected the name of a .safetensors file"},
    {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", SQF_E_FORMAT, "found ../x.safetensors"},
    {"{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", SQF_E_FORMAT, "expected the name of a .safetensors file"},
    {"{\"weight_map\":{\"a\":\".safetensors\"}}", SQF_E_FORMAT, "expected the name of a .safetensors file"},
    {"{\"weight_map\":{\"a\":\"one.bin\"}}", SQF_E_FORMAT, "found one.bin"},
    {"{\"weight_map\":{\"a\":\"one\\u0000.safetensors\"}}", SQF_E_FORMAT, "expected the name of a .safetensors file"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"three.safetensors\"}}", SQF_E_IO,
     "three.safetensors: cannot open"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}", SQF_E_FORMAT,
     "b: expected it in one.safetensors, found it nowhere"},
    {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}", SQF_E_FORMAT,
     "found it in another file"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\",\"c\":\"two.safetensors\"}}", SQF_E_FORMAT,
     "c: expected it in two.safetensors, found it nowhere"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\",\"d\":\"dup.safetensors\"}}", SQF_E_FORMAT,
     "it is also in"},
    {"{\"weight_map\":{\"b\":\"both.safetensors\"}}", SQF_E_FORMAT, "tensor x: it is not in the weight_map"},
};

static void test_bad_indices_are_refused(void **state)
{
    char directory[64];
    (void)state;
    make_directory(directory);
    write_tensors(directory, "one.safetensors", "{" A "}", 8);
    write_tensors(directory, "dup.safetensors", "{" A "}", 8);
    write_tensors(directory, "two.safetensors", "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    write_tensors(directory, "both.safetensors",
                  "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                  "\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                  2);
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++) {
        write_file(directory, "model.safetensors.index.json", indices[i].index, strlen(indices[i].index));
        expect_refusal(directory, indices[i].status, indices[i].message);
    }
    remove_directory(directory);
}

/* Hugging Face's cache holds links to files elsewhere. */
static void test_links_to_files_are_followed(void **state)
{
    char directory[64], from[96];
    sqf_error err = {0};
    sqf_tensors *tensors;
    (void)state;
    make_directory(directory);
    write_tensors(directory, "blob", "{" A "}", 8);
    snprintf(from, sizeof from, "%s/model.safetensors", directory);
    assert_int_equal(symlink("blob", from), 0);
    must(sqf_tensors_open(directory, &tensors, &err), &err);
    assert_int_equal(sqf_tensors_count(tensors), 1);
    sqf_tensors_close(tensors);
    assert_int_equal(unlink(from), 0);
    assert_int_equal(symlink("nowhere", from), 0);
    expect_refusal(directory, SQF_E_IO, "cannot open");
    remove_directory(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_headers_are_refused),
        cmocka_unit_test(test_good_header_is_read),
        cmocka_unit_test(test_deep_header_is_an_error_not_a_crash),
        cmocka_unit_test(test_bad_lengths_are_refused),
        cmocka_unit_test(test_every_cut_of_a_file_is_refused),
        cmocka_unit_test(test_bad_indices_are_refused),
        cmocka_unit_test(test_links_to_files_are_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

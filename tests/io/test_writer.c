/* What the writer writes, the reader reads back; names, hashes, alignment, shards. */
#include "directory.h"

#include <signal.h>
#include <sys/resource.h>

#include "base/random.h"

/* A tensor of every dtype, with sizes that would leave the next one unaligned. */
static const struct {
    const char *name;
    sqf_dtype dtype;
    size_t dimensions, shape[SQF_TENSOR_DIMENSIONS];
} samples[] = {
    {"codes", SQF_DTYPE_U8, 2, {3, 5}},
    {"x.scale", SQF_DTYPE_F16, 2, {3, 1}},
    {"high", SQF_DTYPE_I8, 2, {3, 7}},
    {"float", SQF_DTYPE_F32, 1, {4}},
    {"channels", SQF_DTYPE_I32, 1, {5}},
    {"eight", SQF_DTYPE_F8_E4M3, 3, {1, 1, 3}},
    {"brain \"quoted\"", SQF_DTYPE_BF16, 4, {1, 2, 1, 3}},
    {"none", SQF_DTYPE_U8, 2, {3, 0}},
};
enum { SAMPLES = sizeof samples / sizeof *samples };

static size_t sample_bytes(size_t i)
{
    size_t n = sqf_dtype_bytes(samples[i].dtype);
    for (size_t d = 0; d < samples[i].dimensions; d++) {
        n *= samples[i].shape[d];
    }
    return n;
}

static void fill(size_t i, uint8_t *bytes)
{
    sqf_random random = {.state = i};
    for (size_t n = 0; n < sample_bytes(i); n++) {
        bytes[n] = (uint8_t)sqf_random_u64(&random);
    }
}

static size_t write_samples(const char *directory, size_t shard_limit)
{
    sqf_error err = {0};
    sqf_tensor_writer *writer;
    uint8_t bytes[256];
    must(sqf_tensor_writer_create(directory, shard_limit, &writer, &err), &err);
    for (size_t i = 0; i < SAMPLES; i++) {
        fill(i, bytes);
        must(sqf_tensor_writer_add(writer, samples[i].name, samples[i].dtype, samples[i].dimensions, samples[i].shape,
                                   bytes, &err),
             &err);
    }
    must(sqf_tensor_writer_finish(writer, &err), &err);
    const size_t size = sqf_tensor_writer_bytes(writer);
    sqf_tensor_writer_destroy(writer);
    return size;
}

static void check_samples(const sqf_tensors *tensors)
{
    sqf_error err = {0};
    uint8_t bytes[256];
    assert_int_equal(sqf_tensors_count(tensors), SAMPLES);
    for (size_t i = 0; i < SAMPLES; i++) {
        const sqf_tensor *tensor;
        must(sqf_tensors_get_shaped(tensors, samples[i].name, samples[i].dimensions, samples[i].shape, &tensor, &err),
             &err);
        fill(i, bytes);
        assert_int_equal(tensor->dtype, samples[i].dtype);
        assert_int_equal(tensor->bytes, sample_bytes(i));
        assert_memory_equal(tensor->data, bytes, tensor->bytes);
        assert_int_equal((uintptr_t)tensor->data % sqf_dtype_bytes(tensor->dtype), 0);
        assert_non_null(tensor->hash);
        assert_int_equal(strncmp(tensor->hash, "xxh3-128:", 9), 0);
        must(sqf_tensor_verify(tensor, &err), &err);
    }
}

static size_t file_size(const char *directory, const char *name)
{
    sqf_error err = {0};
    sqf_mapping mapping;
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    must(sqf_mapping_open(path, &mapping, &err), &err);
    const size_t size = mapping.size;
    sqf_mapping_close(&mapping);
    return size;
}

static void test_one_file_round_trip(void **state)
{
    char directory[64], command[128];
    sqf_error err = {0};
    sqf_tensors *tensors;
    (void)state;
    make_directory(directory);
    const size_t size = write_samples(directory, 0);
    assert_int_equal(size, file_size(directory, "model.safetensors"));
    must(sqf_tensors_open(directory, &tensors, &err), &err);
    check_samples(tensors);
    const sqf_tensor *first = sqf_tensors_find(tensors, "float");
    assert_int_equal((uintptr_t)first->data % 64, 0); /* the widest dtype leads, at the padded begin of the data */
    sqf_tensors_close(tensors);
    snprintf(command, sizeof command, "test \"$(ls -A '%s')\" = model.safetensors", directory);
    assert_int_equal(system(command), 0); /* nothing temporary is left */
    remove_directory(directory);
}

static void test_shards_round_trip(void **state)
{
    char directory[64], again[64], command[256];
    sqf_error err = {0};
    sqf_tensors *tensors;
    (void)state;
    make_directory(directory);
    const size_t size = write_samples(directory, 24);
    must(sqf_tensors_open(directory, &tensors, &err), &err);
    check_samples(tensors);
    assert_non_null(strstr(sqf_tensors_find(tensors, "codes")->file, "model-00001-of-00005.safetensors"));
    assert_non_null(strstr(sqf_tensors_find(tensors, "x.scale")->file, "model-00001-of-00005.safetensors"));
    assert_non_null(strstr(sqf_tensors_find(tensors, "high")->file, "model-00002-of-00005.safetensors"));
    sqf_tensors_close(tensors);
    size_t sum = file_size(directory, "model.safetensors.index.json");
    for (int i = 1; i <= 5; i++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-00005.safetensors", i);
        sum += file_size(directory, name);
    }
    assert_int_equal(size, sum);
    make_directory(again);
    write_samples(again, 24);
    snprintf(command, sizeof command, "diff -r '%s' '%s'", directory, again);
    assert_int_equal(system(command), 0); /* the same bytes every time */
    remove_directory(directory);
    remove_directory(again);
}

static void test_empty_model_is_a_file(void **state)
{
    char directory[64];
    sqf_error err = {0};
    sqf_tensor_writer *writer;
    sqf_tensors *tensors;
    (void)state;
    make_directory(directory);
    must(sqf_tensor_writer_create(directory, 0, &writer, &err), &err);
    must(sqf_tensor_writer_finish(writer, &err), &err);
    sqf_tensor_writer_destroy(writer);
    must(sqf_tensors_open(directory, &tensors, &err), &err);
    assert_int_equal(sqf_tensors_count(tensors), 0);
    assert_null(sqf_tensors_find(tensors, "a"));
    sqf_tensors_close(tensors);
    remove_directory(directory);
}

static void test_flipped_bit_fails_its_hash(void **state)
{
    char directory[64], path[96];
    sqf_error err = {0};
    sqf_tensors *tensors;
    (void)state;
    make_directory(directory);
    write_samples(directory, 0);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, -1, SEEK_END);
    const int last = fgetc(file);
    fseek(file, -1, SEEK_END);
    fputc(last ^ 4, file);
    fclose(file);
    must(sqf_tensors_open(directory, &tensors, &err), &err);
    size_t failed = 0;
    for (size_t i = 0; i < SAMPLES; i++) {
        if (sqf_tensor_verify(sqf_tensors_at(tensors, i), &err) == SQF_E_HASH) {
            assert_non_null(strstr(err.text, "content hash: expected"));
            failed++;
        }
    }
    assert_int_equal(failed, 1);
    const sqf_tensor other = {.name = "n", .file = "f", .hash = "md5:0"};
    assert_int_equal(sqf_tensor_verify(&other, &err), SQF_E_SUPPORT);
    const sqf_tensor unhashed = {.name = "n", .file = "f"};
    assert_int_equal(sqf_tensor_verify(&unhashed, &err), SQF_OK);
    sqf_tensors_close(tensors);
    remove_directory(directory);
}

static void test_writer_refuses_what_it_cannot_write(void **state)
{
    char directory[64];
    sqf_error err = {0};
    sqf_tensor_writer *writer;
    const size_t shape[] = {1}, huge[] = {SIZE_MAX / 2, 4};
    (void)state;
    make_directory(directory);
    must(sqf_tensor_writer_create(directory, 0, &writer, &err), &err);
    must(sqf_tensor_writer_add(writer, "a", SQF_DTYPE_U8, 1, shape, "x", &err), &err);
    assert_int_equal(sqf_tensor_writer_add(writer, "a", SQF_DTYPE_U8, 1, shape, "x", &err), SQF_E_ARG);
    assert_int_equal(sqf_tensor_writer_add(writer, "__metadata__", SQF_DTYPE_U8, 1, shape, "x", &err), SQF_E_ARG);
    assert_int_equal(sqf_tensor_writer_add(writer, "", SQF_DTYPE_U8, 1, shape, "x", &err), SQF_E_ARG);
    assert_int_equal(sqf_tensor_writer_add(writer, "b", SQF_DTYPE_OTHER, 1, shape, "x", &err), SQF_E_ARG);
    assert_int_equal(sqf_tensor_writer_add(writer, "b", SQF_DTYPE_U8, 2, huge, "x", &err), SQF_E_ARG);
    sqf_tensor_writer_destroy(writer);
    must(sqf_tensor_writer_create("/nowhere/at/all", 0, &writer, &err), &err);
    assert_int_equal(sqf_tensor_writer_add(writer, "a", SQF_DTYPE_U8, 1, shape, "x", &err), SQF_E_IO);
    assert_non_null(strstr(err.text, "/nowhere/at/all/.body.tmp: cannot create: No such file"));
    sqf_tensor_writer_destroy(writer);
    remove_directory(directory);
}

/* A limit on the size of files stands in for a full disk: the write fails in the same place. */
static void test_full_disk_is_one_line_and_leaves_nothing(void **state)
{
    enum { BYTES = 1 << 16 };
    char directory[64], command[128];
    sqf_error err = {0};
    sqf_tensor_writer *writer;
    struct rlimit before, small;
    uint8_t *bytes = calloc(BYTES, 1);
    const size_t shape[] = {BYTES};
    (void)state;
    make_directory(directory);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = BYTES / 2;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    must(sqf_tensor_writer_create(directory, 0, &writer, &err), &err);
    const sqf_status status = sqf_tensor_writer_add(writer, "a", SQF_DTYPE_U8, 1, shape, bytes, &err);
    sqf_tensor_writer_destroy(writer);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, SQF_E_IO);
    assert_non_null(strstr(err.text, "cannot write: File too large"));
    snprintf(command, sizeof command, "test -z \"$(ls -A '%s')\"", directory);
    assert_int_equal(system(command), 0);
    free(bytes);
    remove_directory(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_file_round_trip),
        cmocka_unit_test(test_shards_round_trip),
        cmocka_unit_test(test_empty_model_is_a_file),
        cmocka_unit_test(test_flipped_bit_fails_its_hash),
        cmocka_unit_test(test_writer_refuses_what_it_cannot_write),
        cmocka_unit_test(test_full_disk_is_one_line_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

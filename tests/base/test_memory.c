/* Errors, checked sizes, buffers. */
#include "check.h"

#include "base/arena.h"

static void test_fail_keeps_a_message_on_one_harmless_line(void **state)
{
    (void)state;
    sqf_error err;
    assert_int_equal(sqf_fail(&err, SQF_E_SHAPE, "tensor %s: %d", "a\n\x1b[31mb", 3), SQF_E_SHAPE);
    assert_string_equal(err.text, "tensor a??[31mb: 3");
    assert_int_equal(err.status, SQF_E_SHAPE);
    assert_int_equal(sqf_fail(NULL, SQF_E_IO, "nobody listens"), SQF_E_IO);
}

static void test_fail_cuts_long_messages(void **state)
{
    (void)state;
    sqf_error err;
    char name[2 * SQF_ERROR_TEXT];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    sqf_fail(&err, SQF_E_ARG, "%s", name);
    assert_int_equal(strlen(err.text), SQF_ERROR_TEXT - 1);
    sqf_fail_within(&err, SQF_E_ARG, "prefix");
    assert_memory_equal(err.text, "prefix: xxx", 11);
    assert_int_equal(strlen(err.text), SQF_ERROR_TEXT - 1);
}

static void test_every_status_has_a_name(void **state)
{
    (void)state;
    const sqf_status all[] = {SQF_OK,      SQF_E_ARG,   SQF_E_MEMORY, SQF_E_IO,      SQF_E_EXISTS,   SQF_E_FORMAT,
                              SQF_E_SHAPE, SQF_E_VALUE, SQF_E_HASH,   SQF_E_SUPPORT, SQF_E_CANCELLED};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        assert_string_not_equal(sqf_status_name(all[i]), "unknown status");
    }
    assert_string_equal(sqf_status_name((sqf_status)1), "unknown status");
}

static void test_sizes_do_not_wrap(void **state)
{
    (void)state;
    size_t size = 7;
    assert_false(sqf_mul_size(&size, SIZE_MAX / 2 + 1, 2));
    assert_false(sqf_add_size(&size, SIZE_MAX, 1));
    assert_int_equal(size, 7);
    assert_true(sqf_mul_size(&size, 6, 7));
    assert_int_equal(size, 42);
    assert_int_equal(sqf_ceil_div(7, 3), 3);
    assert_int_equal(sqf_ceil_div(6, 3), 2);
    assert_int_equal(sqf_ceil_div(SIZE_MAX, 2), SIZE_MAX / 2 + 1);
}

static void test_alloc_is_zeroed_aligned_and_checked(void **state)
{
    (void)state;
    sqf_error err;
    double *values;
    assert_ok(SQF_ALLOC(&values, 1000, "values", &err), &err);
    assert_int_equal((uintptr_t)values % 64, 0);
    for (size_t i = 0; i < 1000; i++) {
        assert_true(values[i] == 0.0);
    }
    free(values);
    assert_fails(SQF_ALLOC(&values, SIZE_MAX / 4, "values", &err), SQF_E_MEMORY, &err, "values");
    assert_null(values);
    assert_ok(SQF_ALLOC(&values, 0, "nothing", &err), &err);
    assert_non_null(values);
    free(values);
}

static void test_large_blocks_begin_at_huge_pages(void **state)
{
    (void)state;
    sqf_error err;
    uint8_t *bytes;
    const size_t sizes[] = {SQF_HUGE_BLOCK - 65, SQF_HUGE_BLOCK, 3 * (size_t)SQF_HUGE_PAGE + 777};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_ok(SQF_ALLOC(&bytes, sizes[i], "block", &err), &err);
        assert_int_equal((uintptr_t)bytes % (sizes[i] < SQF_HUGE_BLOCK ? 64 : SQF_HUGE_PAGE), 0);
        assert_int_equal(bytes[0] | bytes[sizes[i] - 1], 0);
        memset(bytes, 1, sizes[i]);
        free(bytes);
        assert_ok(SQF_ALLOC(&bytes, sizes[i], "block", &err), &err); /* perhaps the same memory, zeroed again */
        size_t sum = 0;
        for (size_t k = 0; k < sizes[i]; k++) {
            sum += bytes[k];
        }
        assert_int_equal(sum, 0);
        free(bytes);
    }
    assert_fails(sqf_alloc_unset((void **)&bytes, SIZE_MAX, 1, "unset", &err), SQF_E_MEMORY, &err, "unset");
    assert_null(bytes);
}

/* Blocks of an arena: aligned, apart from each other, larger than a chunk too; without an arena they are free()'s. */
static void test_arena_blocks_are_aligned_and_apart(void **state)
{
    (void)state;
    enum { BLOCKS = 200 };
    sqf_error err;
    sqf_arena *arena;
    uint8_t *block[BLOCKS];
    size_t size[BLOCKS];
    for (size_t expected = 0; expected <= 100000; expected += 50000) {
        assert_ok(sqf_arena_create(expected, &arena, &err), &err);
        for (size_t i = 0; i < BLOCKS; i++) {
            size[i] = i * 37 % 1001 * (i % 50 == 49 ? 200 : 1);
            assert_ok(sqf_arena_alloc(arena, (void **)&block[i], size[i], "block", &err), &err);
            assert_int_equal((uintptr_t)block[i] % 64, 0);
            memset(block[i], (int)(i % 251), size[i]);
        }
        for (size_t i = 0; i < BLOCKS; i++) {
            for (size_t k = 0; k < size[i]; k++) {
                assert_int_equal(block[i][k], i % 251);
            }
        }
        assert_fails(sqf_arena_alloc(arena, (void **)&block[0], SIZE_MAX, "too large", &err), SQF_E_MEMORY, &err,
                     "too large");
        assert_null(block[0]);
        sqf_arena_destroy(arena);
    }
    sqf_arena_destroy(NULL);
    assert_ok(sqf_arena_alloc(NULL, (void **)&block[0], 100, "block", &err), &err);
    free(block[0]);
}

static void test_buffer_grows_and_stays_terminated(void **state)
{
    (void)state;
    sqf_error err;
    sqf_buffer buffer = {0};
    for (int i = 0; i < 1000; i++) {
        assert_ok(sqf_buffer_print(&buffer, &err, "%d,", i % 10), &err);
        assert_int_equal(strlen(buffer.data), buffer.size);
    }
    assert_int_equal(buffer.size, 2000);
    assert_ok(sqf_buffer_append(&buffer, "\0x", 2, &err), &err);
    assert_int_equal(buffer.size, 2002);
    assert_int_equal(buffer.data[2002], '\0');
    assert_fails(sqf_buffer_reserve(&buffer, SIZE_MAX - 100, &err), SQF_E_MEMORY, &err, "too long");
    free(buffer.data);
    char *text;
    assert_ok(sqf_format_text(&text, &err, "%s-%d", "a", 1), &err);
    assert_string_equal(text, "a-1");
    free(text);
    assert_ok(sqf_copy_text(&text, "abc", 2, &err), &err);
    assert_string_equal(text, "ab");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_keeps_a_message_on_one_harmless_line),
        cmocka_unit_test(test_fail_cuts_long_messages),
        cmocka_unit_test(test_every_status_has_a_name),
        cmocka_unit_test(test_sizes_do_not_wrap),
        cmocka_unit_test(test_alloc_is_zeroed_aligned_and_checked),
        cmocka_unit_test(test_large_blocks_begin_at_huge_pages),
        cmocka_unit_test(test_arena_blocks_are_aligned_and_apart),
        cmocka_unit_test(test_buffer_grows_and_stays_terminated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Fast unpacking and checking against the code by code ones: the same codes, the same verdicts, the same messages. */
#include "base/error.h"
#include "format/plane.h"
#include "format/unpack.h"
#include "random_matrix.h"

static void test_codes_unpack_as_they_are_read_one_by_one(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 11)};
    for (unsigned bits = 1; bits <= 8; bits++) {
        for (size_t n = 0; n < 300; n++) {
            const size_t bytes = (n * bits + 7) / 8;
            uint8_t *packed = malloc(bytes + 1), *codes = malloc(n + 1); /* one more: a guard, or a size of 0 */
            uint8_t *packed_end = malloc(bytes ? bytes : 1);             /* exact, for sanitizers */
            for (size_t i = 0; i < bytes; i++) {
                packed_end[i] = packed[i] = (uint8_t)sqf_random_below(&random, 256);
            }
            codes[n] = 0x5a;
            sqf_codes_unpack(packed_end, n, bits, codes);
            plane_reader reader = {.bytes = packed};
            size_t count = 0;
            for (size_t i = 0; i < n; i++) {
                assert_int_equal(codes[i], plane_read(&reader, bits));
                count += codes[i] == codes[0];
            }
            assert_int_equal(codes[n], 0x5a);
            assert_int_equal(sqf_codes_count(codes, n, codes[0]), n > 0 ? count : 0);
            free(packed);
            free(packed_end);
            free(codes);
        }
    }
    static uint8_t many[10000];
    memset(many, 7, sizeof many);
    assert_int_equal(sqf_codes_count(many, sizeof many, 7), sizeof many);
    assert_int_equal(sqf_codes_count(many + 1, sizeof many - 2, 8), 0);
}

/* What the slow check says of the rows, one by one. */
static sqf_status check_slowly(const sqf_matrix *matrix, size_t begin, size_t end, sqf_error *err)
{
    for (size_t n = begin; n < end; n++) {
        SQF_TRY(sqf_matrix_check_row(matrix, n, "m", err));
    }
    return SQF_OK;
}

/* Some bits of one of the arrays change. */
static void damage(sqf_random *random, sqf_matrix *matrix)
{
    sqf_matrix_part parts[SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(matrix, parts);
    const sqf_matrix_part *part = &parts[sqf_random_below(random, count)];
    const size_t bytes = matrix->rows * part->row_bytes;
    if (bytes > 0) {
        uint8_t *at = *part->data + sqf_random_below(random, bytes);
        if (sqf_random_below(random, 4) == 0 && at + 1 < *part->data + bytes) { /* infinity, if it is a scale */
            const uint16_t bits = sqf_random_below(random, 2) ? 0x7c00 : 0x7f80;
            memcpy(at, &bits, sizeof bits);
            return;
        }
        const unsigned value = sqf_random_below(random, 2) ? *at ^ 1u << sqf_random_below(random, 8)
                                                           : 0xffu << sqf_random_below(random, 9);
        *at = (uint8_t)value;
    }
}

/* A third of the time int4 below int8 with sentinels, as most files have it. */
static sqf_weight_spec draw_spec(sqf_random *random)
{
    sqf_weight_spec spec = random_weights(random, sqf_random_below(random, 2) ? 16 : 100);
    if (sqf_random_below(random, 3) == 0) {
        spec = (sqf_weight_spec){.low = SQF_TYPE_INT4,
                                 .high = SQF_TYPE_INT8,
                                 .bank = (uint32_t)random_between(random, 1, sqf_random_below(random, 2) ? 70 : 1500),
                                 .scale_type = SQF_TYPE_FP16,
                                 .scales = (sqf_scales)sqf_random_below(random, 2)};
        spec.high_per_bank = sqf_random_below(random, 4) ? (uint32_t)random_between(random, 0, spec.bank) : spec.bank;
        spec.group = spec.bank * (uint32_t)sqf_random_below(random, 3);
    }
    return spec;
}

static void test_rows_are_judged_as_they_are_one_by_one(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 11)};
    size_t fine = 0, broken = 0;
    for (int trial = 0; trial < 3000; trial++) {
        sqf_error err = {0}, expected = {0};
        const sqf_weight_spec spec = draw_spec(&random);
        const size_t rows = random_between(&random, 1, 6),
                     columns = random_between(&random, 1, trial % 50 ? 200 : 9000);
        sqf_matrix matrix;
        sqf_row row;
        assert_ok(sqf_matrix_create(&spec, rows, columns, random_between(&random, 0, columns), NULL, &matrix, &err),
                  &err);
        assert_ok(sqf_row_create(&matrix, &row, &err), &err);
        for (size_t n = 0; n < rows; n++) {
            random_row(&random, &matrix, &row);
            sqf_matrix_pack_row(&matrix, n, &row);
        }
        for (int step = 0; step < 4; step++) {
            const size_t begin = sqf_random_below(&random, rows), end = random_between(&random, begin, rows);
            expected.text[0] = err.text[0] = '\0';
            const sqf_status slow = check_slowly(&matrix, begin, end, &expected);
            assert_int_equal(sqf_matrix_check_rows(&matrix, begin, end, "m", &err), slow);
            assert_string_equal(err.text, expected.text);
            fine += slow == SQF_OK;
            broken += slow != SQF_OK;
            damage(&random, &matrix);
        }
        sqf_row_clear(&row);
        sqf_matrix_clear(&matrix);
    }
    assert_true(fine > 1000 && broken > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes_unpack_as_they_are_read_one_by_one),
        cmocka_unit_test(test_rows_are_judged_as_they_are_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

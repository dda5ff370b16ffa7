/* Groups, banks, the tail rule and the choice of the largest scores. */
#include "base/random.h"
#include "check.h"
#include "format/partition.h"

static void test_ranges_cover_the_columns_and_never_straddle_the_border(void **state)
{
    (void)state;
    for (size_t columns = 0; columns < 40; columns++) {
        for (size_t border = 0; border <= columns; border++) {
            for (size_t size = 0; size < 20; size++) {
                const sqf_partition p = sqf_partition_make(columns, border, size);
                const size_t count = sqf_partition_count(&p);
                size_t at = 0;
                for (size_t g = 0; g < count; g++) {
                    size_t begin, end;
                    sqf_partition_range(&p, g, &begin, &end);
                    assert_int_equal(begin, at);
                    assert_true(end > begin && (size == 0 || end - begin <= size));
                    assert_true(end <= border || begin >= border);
                    assert_true(size == 0 || end - begin == size || end == border || end == columns);
                    assert_int_equal(sqf_partition_find(&p, begin), g);
                    assert_int_equal(sqf_partition_find(&p, end - 1), g);
                    at = end;
                }
                assert_int_equal(at, columns);
                assert_true(size != 0 || count == (size_t)(border > 0) + (columns > border));
            }
        }
    }
}

static void test_tail_banks_round_half_up_and_keep_at_least_one(void **state)
{
    (void)state;
    for (size_t bank = 1; bank <= 24; bank++) {
        for (size_t k = 0; k <= bank; k++) {
            for (size_t columns = 0; columns <= bank; columns++) {
                size_t expected = 0; /* the largest whole number that is not above k*columns/bank + 1/2 */
                while (2 * bank * (expected + 1) <= 2 * k * columns + bank) {
                    expected++;
                }
                expected = k == 0 || columns == 0 ? 0 : expected == 0 ? 1 : expected;
                assert_int_equal(sqf_bank_high(bank, k, columns), expected);
                assert_true(expected <= columns);
            }
            assert_int_equal(sqf_bank_high(bank, k, bank), k);
        }
    }
}

static void test_high_counts_are_sums_over_banks(void **state)
{
    (void)state;
    for (size_t columns = 0; columns < 50; columns += 3) {
        for (size_t border = 0; border <= columns; border += 5) {
            const sqf_partition p = sqf_partition_make(columns, border, 8);
            size_t sum = 0;
            for (size_t g = 0; g < sqf_partition_count(&p); g++) {
                size_t begin, end;
                sqf_partition_range(&p, g, &begin, &end);
                sum += sqf_bank_high(8, 3, end - begin);
            }
            assert_int_equal(sqf_partition_high(&p, 8, 3), sum);
        }
    }
}

static void test_static_masks_fix_the_border(void **state)
{
    (void)state;
    sqf_act_spec spec = {.low = SQF_TYPE_INT4, .high = SQF_TYPE_INT8, .bank = 16, .high_per_bank = 4};
    assert_int_equal(sqf_act_low_channels(&spec, 64), 48);
    assert_int_equal(sqf_act_low_channels(&spec, 66), 49); /* the tail of 2 keeps 1, not 0.5 */
    spec.mask = SQF_MASK_DYNAMIC;
    assert_int_equal(sqf_act_low_channels(&spec, 64), 64);
    spec = (sqf_act_spec){.low = SQF_TYPE_INT8};
    assert_int_equal(sqf_act_low_channels(&spec, 64), 64);
}

/* The definition: an element is chosen if fewer than k others come before it. */
static void check_selection(const float *score, size_t n, size_t k)
{
    uint8_t mask[512];
    sqf_select_top(score, n, k, mask);
    for (size_t i = 0; i < n; i++) {
        size_t before = 0;
        for (size_t j = 0; j < n; j++) {
            before += score[j] > score[i] || (score[j] == score[i] && j < i);
        }
        assert_int_equal(mask[i], before < k);
    }
}

static void test_selection_takes_the_largest_and_ties_go_to_the_lower_index(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 3)};
    for (int round = 0; round < 2000; round++) {
        float score[300];
        const size_t n = 1 + (size_t)sqf_random_below(&random, round % 10 ? 40 : 300);
        const uint64_t levels = round % 3 ? 4 : 1u << 30; /* few levels: many ties */
        for (size_t i = 0; i < n; i++) {
            score[i] = ((float)sqf_random_below(&random, levels) - (float)(levels / 2)) * 0.37f;
            score[i] = score[i] == 0.0f && sqf_random_below(&random, 2) ? -0.0f : score[i];
        }
        check_selection(score, n, (size_t)sqf_random_below(&random, n + 1));
        check_selection(score, n, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges_cover_the_columns_and_never_straddle_the_border),
        cmocka_unit_test(test_tail_banks_round_half_up_and_keep_at_least_one),
        cmocka_unit_test(test_high_counts_are_sums_over_banks),
        cmocka_unit_test(test_static_masks_fix_the_border),
        cmocka_unit_test(test_selection_takes_the_largest_and_ties_go_to_the_lower_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

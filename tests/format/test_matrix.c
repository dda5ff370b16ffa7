/* The stored layout: rows survive packing, damaged rows are refused with the right sentence. */
#include <math.h>

#include "random_matrix.h"

static const sqf_weight_spec w_sq5 = {.low = SQF_TYPE_INT4,
                                      .high = SQF_TYPE_INT8,
                                      .bank = 64,
                                      .high_per_bank = 16,
                                      .group = 64,
                                      .scale_type = SQF_TYPE_FP16};

static void assert_rows_equal(const sqf_matrix *m, const sqf_row *a, const sqf_row *b)
{
    const size_t columns = m->columns, groups = m->group_count;
    assert_memory_equal(a->mask, b->mask, columns);
    for (size_t j = 0; j < columns; j++) {
        assert_true(a->value[j] == b->value[j]);
    }
    assert_memory_equal(a->scale_low, b->scale_low, groups * sizeof(float));
    assert_memory_equal(a->scale_high, b->scale_high, groups * sizeof(float));
    assert_memory_equal(a->shift, b->shift, groups);
}

static void check_round_trip(sqf_random *random, const sqf_weight_spec *spec, size_t rows, size_t columns,
                             size_t border)
{
    sqf_error err;
    sqf_matrix m;
    sqf_row in, out;
    assert_ok(sqf_matrix_create(spec, rows, columns, border, NULL, &m, &err), &err);
    assert_ok(sqf_row_create(&m, &in, &err), &err);
    assert_ok(sqf_row_create(&m, &out, &err), &err);
    const uint64_t start = random->state;
    for (size_t n = 0; n < rows; n++) {
        random_row(random, &m, &in);
        sqf_matrix_pack_row(&m, n, &in);
    }
    random->state = start; /* the same rows again: packing one must not have touched another */
    for (size_t n = 0; n < rows; n++) {
        random_row(random, &m, &in);
        assert_ok(sqf_matrix_check_row(&m, n, "w", &err), &err);
        sqf_matrix_unpack_row(&m, n, &out);
        assert_rows_equal(&m, &in, &out);
    }
    sqf_row_clear(&in);
    sqf_row_clear(&out);
    sqf_matrix_clear(&m);
}

static void test_rows_survive_packing_for_every_type_layout_k_and_shape(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 4)};
    for (int i = 0; i < 6000; i++) {
        const sqf_weight_spec spec = random_weights(&random, i % 4 ? 20 : 80);
        const size_t columns = random_between(&random, 0, i % 4 ? 70 : 300);
        check_round_trip(&random, &spec, random_between(&random, 1, 4), columns, random_between(&random, 0, columns));
    }
}

static void test_every_pair_of_types_works_with_no_and_with_all_elements_high(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 5)};
    size_t pairs = 0;
    for (int low = 0; low < SQF_TYPE_COUNT; low++) {
        for (int high = 1; high < SQF_TYPE_COUNT; high++) {
            for (int variant = 0; variant < 8; variant++) {
                const sqf_weight_spec spec = {.low = (sqf_type)low,
                                              .high = (sqf_type)high,
                                              .bank = 12,
                                              .high_per_bank = variant & 1 ? 12 : 0,
                                              .group = 12,
                                              .scale_type = SQF_TYPE_BF16,
                                              .scales = variant & 2 ? SQF_SCALES_TIED : SQF_SCALES_FREE,
                                              .layout = variant & 4 ? SQF_LAYOUT_BITMASK : SQF_LAYOUT_VMASK};
                sqf_matrix ignored;
                if (sqf_matrix_shape(&spec, 1, 1, 1, &ignored, NULL) == SQF_OK) {
                    pairs++;
                    check_round_trip(&random, &spec, 2, 41, 17);
                }
            }
        }
    }
    assert_in_range(pairs, 150, 1000);
}

static void test_parts_have_the_documented_shapes(void **state)
{
    (void)state;
    sqf_error err;
    sqf_matrix m;
    sqf_matrix_part parts[SQF_MATRIX_PARTS];
    assert_ok(sqf_matrix_shape(&w_sq5, 10, 130, 130, &m, &err), &err);
    assert_int_equal(sqf_matrix_parts(&m, parts), 4);
    assert_int_equal(m.high_count, 33); /* 16 + 16 + at least one of the tail of 2 */
    assert_string_equal(parts[0].suffix, "sq_low");
    assert_int_equal(parts[0].columns, 65);
    assert_string_equal(parts[1].dtype, "I8");
    assert_int_equal(parts[1].columns, 33);
    assert_string_equal(parts[2].dtype, "F16");
    assert_int_equal(parts[2].columns, 3);
    assert_int_equal(parts[3].row_bytes, 6);
    assert_int_equal(sqf_matrix_stored_bytes(&m), 10 * (65 + 33 + 6 + 6));

    sqf_weight_spec spec = w_sq5;
    spec.layout = SQF_LAYOUT_BITMASK;
    spec.scales = SQF_SCALES_TIED;
    spec.scale_type = SQF_TYPE_FP32;
    assert_ok(sqf_matrix_shape(&spec, 10, 130, 130, &m, &err), &err);
    assert_int_equal(sqf_matrix_parts(&m, parts), 5);
    assert_int_equal(parts[0].columns, 49); /* 97 low elements of 4 bits */
    assert_string_equal(parts[3].suffix, "sq_shift");
    assert_string_equal(parts[4].suffix, "sq_mask");
    assert_int_equal(sqf_matrix_stored_bytes(&m), 10 * (49 + 33 + 12 + 3 + 17));
}

static void test_high_elements_narrower_than_a_byte_are_packed(void **state)
{
    (void)state;
    sqf_error err;
    sqf_matrix m;
    sqf_matrix_part parts[SQF_MATRIX_PARTS];
    sqf_weight_spec spec = w_sq5;
    spec.low = SQF_TYPE_INT2;
    spec.high = SQF_TYPE_INT4;
    assert_ok(sqf_matrix_shape(&spec, 1, 128, 128, &m, &err), &err);
    sqf_matrix_parts(&m, parts);
    assert_string_equal(parts[1].dtype, "U8");
    assert_int_equal(parts[1].columns, 16);
    /* 64-(4/2)-0.75 takes 3.5 bits a weight, scales included. */
    assert_int_equal(8 * sqf_matrix_stored_bytes(&m), 128 * 7 / 2);
}

static void test_stored_bytes_agree_with_the_scheme_bits(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 6)};
    for (int i = 0; i < 2000; i++) {
        sqf_error err;
        sqf_matrix m;
        const sqf_weight_spec spec = random_weights(&random, 32);
        /* Whole banks and groups, and rows that fill their bytes. */
        const size_t columns = (size_t)(spec.group > spec.bank ? spec.group : spec.bank) * 8;
        const sqf_scheme scheme = {.weights = spec, .activations = {.low = SQF_TYPE_FP32}};
        assert_ok(sqf_matrix_shape(&spec, 3, columns, columns, &m, &err), &err);
        double row_scales = 0;
        if (spec.group == 0) { /* one scale a row, which the bits of a scheme count as nothing */
            sqf_matrix_part parts[SQF_MATRIX_PARTS];
            const size_t count = sqf_matrix_parts(&m, parts);
            for (size_t p = 0; p < count; p++) {
                row_scales += strstr(parts[p].suffix, "scale") || strstr(parts[p].suffix, "shift")
                                  ? 8.0 * (double)parts[p].row_bytes
                                  : 0;
            }
        }
        const double bits = 8.0 * (double)sqf_matrix_stored_bytes(&m) / 3 - row_scales;
        assert_true(fabs(bits - sqf_scheme_bits_of(&scheme).weights_stored * (double)columns) < 1e-6);
    }
}

/* docs/format.md section 11: one row with scales of one byte. */
static void test_block_formats_have_the_documented_bytes(void **state)
{
    (void)state;
    static const float x[4] = {5.5f, -0.3f, 2.1f, 0.9f};
    static const sqf_type scale_types[2] = {SQF_TYPE_E8M0, SQF_TYPE_FP8};
    static const uint8_t low[2] = {0x97, 0x24}, codes[2] = {0x7f, 0x6b};
    for (int i = 0; i < 2; i++) {
        const sqf_weight_spec spec = {.low = SQF_TYPE_FP4, .bank = 4, .group = 4, .scale_type = scale_types[i]};
        sqf_error err;
        sqf_matrix m;
        sqf_row row;
        float back[4];
        assert_ok(sqf_matrix_create(&spec, 1, 4, 4, NULL, &m, &err), &err);
        assert_ok(sqf_row_create(&m, &row, &err), &err);
        m.scale_unit[0] = i ? 0.01f : 1.0f;
        row.scale_low[0] = sqf_group_scales_choose_in(&spec, m.scale_unit, x, NULL, NULL, 4, false).low;
        for (int j = 0; j < 4; j++) {
            row.value[j] = sqf_type_round(SQF_TYPE_FP4, x[j], row.scale_low[0]);
        }
        sqf_matrix_pack_row(&m, 0, &row);
        assert_memory_equal(m.low, low, 2);
        assert_int_equal(m.scale_low[0], codes[i]);
        assert_ok(sqf_matrix_check_row(&m, 0, "P", &err), &err);
        sqf_matrix_dequantize_row(&m, 0, &row, back);
        const float scale = i ? 0.01f * 88.0f : 1.0f;
        assert_true(back[0] == 6.0f * scale && back[1] == -0.5f * scale && back[2] == 2.0f * scale);
        sqf_row_clear(&row);
        sqf_matrix_clear(&m);
    }
}

static void test_impossible_shapes_are_refused(void **state)
{
    (void)state;
    sqf_error err;
    sqf_matrix m;
    assert_fails(sqf_matrix_shape(&w_sq5, 1, 8, 9, &m, &err), SQF_E_ARG, &err, "border 9: expected 0..8");
    assert_fails(sqf_matrix_shape(&w_sq5, SIZE_MAX / 8, 64, 64, &m, &err), SQF_E_SHAPE, &err, "does not fit");
    assert_fails(sqf_matrix_shape(&w_sq5, 1, SIZE_MAX / 2, 64, &m, &err), SQF_E_SHAPE, &err, "does not fit");
    const sqf_weight_spec dense = {.low = SQF_TYPE_BF16};
    assert_fails(sqf_matrix_shape(&dense, 1, 8, 8, &m, &err), SQF_E_ARG, &err, "low=bf16 is unquantized");
}

/* A valid packed row to be damaged. */
typedef struct damage {
    sqf_matrix m;
    sqf_row row;
    sqf_error err;
} damage;

static void begin_damage(damage *d, sqf_weight_spec spec, size_t columns)
{
    sqf_random random = {7};
    assert_ok(sqf_matrix_create(&spec, 3, columns, columns, NULL, &d->m, &d->err), &d->err);
    assert_ok(sqf_row_create(&d->m, &d->row, &d->err), &d->err);
    for (size_t n = 0; n < 3; n++) {
        random_row(&random, &d->m, &d->row);
        sqf_matrix_pack_row(&d->m, n, &d->row);
    }
}

static void end_damage(damage *d, const char *message)
{
    assert_ok(sqf_matrix_check_row(&d->m, 1, "a.w", &d->err), &d->err);
    assert_fails(sqf_matrix_check_row(&d->m, 2, "a.w", &d->err), SQF_E_VALUE, &d->err, message);
    sqf_row_clear(&d->row);
    sqf_matrix_clear(&d->m);
}

static void test_wrong_sentinel_counts_are_refused(void **state)
{
    (void)state;
    damage d;
    begin_damage(&d, w_sq5, 128);
    sqf_matrix_unpack_row(&d.m, 2, &d.row);
    size_t j = 64;
    while (d.row.mask[j]) {
        j++;
    }
    uint8_t *byte = d.m.low + 2 * d.m.low_row_bytes + j / 2;
    *byte = (uint8_t)(*byte | 15u << j % 2 * 4);
    end_damage(&d, "a.w.sq_low: row 2 bank 1: 17 high elements, expected 16");
}

static void test_wrong_mask_counts_are_refused(void **state)
{
    (void)state;
    damage d;
    sqf_weight_spec spec = w_sq5;
    spec.layout = SQF_LAYOUT_BITMASK;
    begin_damage(&d, spec, 100);
    memset(d.m.mask + 2 * d.m.mask_row_bytes, 0, 8);
    end_damage(&d, "a.w.sq_mask: row 2 bank 0: 0 high elements, expected 16");
}

static void test_padding_bits_are_refused(void **state)
{
    (void)state;
    damage d;
    begin_damage(&d, w_sq5, 65);
    d.m.low[3 * d.m.low_row_bytes - 1] |= 0x10;
    end_damage(&d, "a.w.sq_low: row 2: padding bits are not 0");

    sqf_weight_spec spec = w_sq5;
    spec.layout = SQF_LAYOUT_BITMASK;
    begin_damage(&d, spec, 65);
    d.m.mask[3 * d.m.mask_row_bytes - 1] |= 0x80;
    end_damage(&d, "a.w.sq_mask: row 2: padding bits are not 0");

    spec.high = SQF_TYPE_INT5;
    begin_damage(&d, spec, 65);
    d.m.high[3 * d.m.high_row_bytes - 1] |= 0x80;
    end_damage(&d, "a.w.sq_high: row 2: padding bits are not 0");
}

static void test_codes_without_a_value_are_refused(void **state)
{
    (void)state;
    damage d;
    begin_damage(&d, w_sq5, 64);
    d.m.high[2 * d.m.high_row_bytes + 3] = 0x80;
    end_damage(&d, "a.w.sq_high: row 2 element 3: code 0x80 is not a value of int8");

    sqf_weight_spec spec = w_sq5;
    spec.high = SQF_TYPE_FP16;
    begin_damage(&d, spec, 64);
    d.m.high[2 * d.m.high_row_bytes + 1] = 0x7c;
    end_damage(&d, "a.w.sq_high: row 2 element 0: code 0x7C");

    spec = (sqf_weight_spec){.low = SQF_TYPE_INT4, .group = 32, .scale_type = SQF_TYPE_FP16};
    begin_damage(&d, spec, 64); /* uniform: the sentinel's code has no meaning */
    d.m.low[2 * d.m.low_row_bytes] |= 0xf0;
    end_damage(&d, "a.w.sq_low: row 2 element 1: code 0xF is not a value of int4");
}

static void test_scales_and_shifts_out_of_range_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint8_t bytes[2];
        const char *message;
    } bad[] = {
        {{0x00, 0x7c}, "scale inf"}, {{0x00, 0x7e}, "scale nan"}, {{0x00, 0xbc}, "scale -1"}, {{0, 0x80}, "scale -0"}};
    damage d;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char message[80];
        begin_damage(&d, w_sq5, 128);
        memcpy(d.m.scale_low + 2 * (2 * 2 + 1), bad[i].bytes, 2);
        snprintf(message, sizeof message, "a.w.sq_scale_low: row 2 group 1: %s", bad[i].message);
        end_damage(&d, message);
        begin_damage(&d, w_sq5, 128);
        memcpy(d.m.scale_high + 2 * (2 * 2), bad[i].bytes, 2);
        end_damage(&d, "a.w.sq_scale_high: row 2 group 0");
    }
    sqf_weight_spec spec = w_sq5;
    spec.scales = SQF_SCALES_TIED;
    begin_damage(&d, spec, 128);
    d.m.shift[2 * 2 + 1] = 5;
    end_damage(&d, "a.w.sq_shift: row 2 group 1: shift 5, expected 0..4");
}

static void test_channel_lists_are_checked(void **state)
{
    (void)state;
    sqf_error err;
    const sqf_act_spec spec = {.low = SQF_TYPE_INT4, .high = SQF_TYPE_INT8, .bank = 4, .high_per_bank = 1};
    static const struct {
        int32_t channels[8];
        const char *message;
    } bad[] = {
        {{0, 1, 2, 4, 5, 6, 3, 8}, "c: column 7: channel 8, expected 0..7"},
        {{0, 1, 2, 4, 5, -1, 3, 7}, "c: column 5: channel -1, expected 0..7"},
        {{0, 1, 2, 4, 5, 6, 3, 6}, "c: column 7: channel 6 appears twice"},
        {{0, 2, 1, 4, 5, 6, 3, 7}, "c: column 2: channel 1 after 2, expected ascending order"},
        {{0, 1, 2, 4, 5, 6, 7, 3}, "c: column 7: channel 3 after 7, expected ascending order"},
        {{0, 1, 4, 5, 6, 7, 2, 3}, "c: bank 0: 2 high channels, expected 1"},
    };
    const int32_t good[8] = {0, 1, 2, 4, 5, 6, 3, 7};
    assert_ok(sqf_channels_check(good, 8, 6, &spec, "c", &err), &err);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_fails(sqf_channels_check(bad[i].channels, 8, 6, &spec, "c", &err), SQF_E_VALUE, &err, bad[i].message);
    }
    assert_fails(sqf_channels_check(good, 8, 5, &spec, "c", &err), SQF_E_SHAPE, &err, "5 low channels, expected 6");
}

static void test_dequantizing_undoes_the_channel_order(void **state)
{
    (void)state;
    sqf_error err;
    sqf_matrix m;
    sqf_row row;
    const sqf_weight_spec spec = {.low = SQF_TYPE_INT8, .group = 2, .scale_type = SQF_TYPE_FP32};
    const int32_t channels[5] = {1, 3, 4, 0, 2};
    assert_ok(sqf_matrix_create(&spec, 1, 5, 3, channels, &m, &err), &err);
    assert_ok(sqf_row_create(&m, &row, &err), &err);
    assert_int_equal(m.group_count, 3); /* columns 0-1, 2, 3-4: a group ends at the border */
    for (size_t j = 0; j < 5; j++) {
        row.value[j] = (float)(10 + channels[j]);
    }
    row.scale_low[0] = 1.0f;
    row.scale_low[1] = 2.0f;
    row.scale_low[2] = 0.5f;
    sqf_matrix_pack_row(&m, 0, &row);
    float out[5];
    sqf_matrix_dequantize_row(&m, 0, &row, out);
    const float expected[5] = {5.0f, 11.0f, 6.0f, 13.0f, 28.0f};
    assert_memory_equal(out, expected, sizeof out);
    assert_int_equal(sqf_matrix_stored_bytes(&m), 5 + 3 * 4 + 5 * 4);
    sqf_row_clear(&row);
    sqf_matrix_clear(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_survive_packing_for_every_type_layout_k_and_shape),
        cmocka_unit_test(test_every_pair_of_types_works_with_no_and_with_all_elements_high),
        cmocka_unit_test(test_parts_have_the_documented_shapes),
        cmocka_unit_test(test_high_elements_narrower_than_a_byte_are_packed),
        cmocka_unit_test(test_stored_bytes_agree_with_the_scheme_bits),
        cmocka_unit_test(test_block_formats_have_the_documented_bytes),
        cmocka_unit_test(test_impossible_shapes_are_refused),
        cmocka_unit_test(test_wrong_sentinel_counts_are_refused),
        cmocka_unit_test(test_wrong_mask_counts_are_refused),
        cmocka_unit_test(test_padding_bits_are_refused),
        cmocka_unit_test(test_codes_without_a_value_are_refused),
        cmocka_unit_test(test_scales_and_shifts_out_of_range_are_refused),
        cmocka_unit_test(test_channel_lists_are_checked),
        cmocka_unit_test(test_dequantizing_undoes_the_channel_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

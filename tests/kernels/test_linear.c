/* Linear layers against the scalar reference, at every level that this machine has. */
#include "trial.h"

/* y of the library, and the input with its quantization undone. */
static void compute(const trial *t, const char *level, unsigned threads, float *y, float *undone,
                    sqf_product_counts *counts)
{
    sqf_error err;
    sqf_context *context;
    const sqf_context_options options = {.threads = threads, .cpu = level};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    const sqf_linear_params params = {.name = "layer",
                                      .rows = t->rows,
                                      .columns = t->columns,
                                      .bias = t->bias,
                                      .row_order = t->row_order,
                                      .matrix = &t->matrix,
                                      .activations = t->scheme.activations,
                                      .static_scale = t->static_scale,
                                      .static_zero = t->static_zero,
                                      .column_norm = t->column_norm};
    sqf_linear *linear;
    sqf_input *input;
    assert_ok(sqf_linear_create(context, &params, &linear, &err), &err);
    assert_ok(sqf_input_create(&input, &err), &err);
    assert_ok(sqf_input_prepare(context, input, linear, t->x, t->tokens, &err), &err);
    assert_ok(sqf_linear_forward(context, linear, input, y, &err), &err);
    sqf_input_dequantize(input, undone);
    *counts = sqf_context_products(context);
    sqf_input_destroy(input);
    sqf_linear_destroy(linear);
    sqf_context_destroy(context);
}
static void check_counts(const trial *t, const sqf_product_counts *counts)
{
    const uint64_t total = counts->floating + counts->integer_high + counts->integer_low + counts->dropped;
    assert_int_equal(total, t->tokens * t->rows * t->columns);
    assert_int_equal(counts->dense, 0);
    const sqf_weight_spec *w = &t->scheme.weights;
    const sqf_act_spec *a = &t->scheme.activations;
    const bool floats = !sqf_type_is_integer(a->low) || (a->high != SQF_TYPE_NONE && !sqf_type_is_integer(a->high)) ||
                        (w->low != SQF_TYPE_NONE && !sqf_type_is_integer(w->low)) ||
                        (w->high != SQF_TYPE_NONE && !sqf_type_is_integer(w->high));
    if (!floats) {
        assert_int_equal(counts->floating, 0);
    }
}

static void check_trial(const trial *t)
{
    const size_t outputs = t->tokens * t->rows, inputs = t->tokens * t->columns;
    double *want = malloc(outputs * sizeof *want), *magnitude = malloc(outputs * sizeof *magnitude);
    float *y = malloc(outputs * sizeof *y), *first = malloc(outputs * sizeof *first);
    float *undone = malloc(inputs * sizeof *undone), *want_undone = malloc(inputs * sizeof *want_undone);
    sqf_product_counts counts;
    refer(t, want, magnitude, want_undone);
    const char *const *levels = sqf_cpu_levels();
    for (size_t i = 0; levels[i]; i++) {
        for (unsigned threads = 1; threads <= 3; threads++) {
            compute(t, levels[i], threads, y, undone, &counts);
            check_counts(t, &counts);
            if (!close_enough(t, y, want, magnitude, 1e-5)) {
                describe(t, levels[i], threads);
                fail();
            }
            for (size_t k = 0; k < inputs; k++) {
                if (!(fabsf(undone[k] - want_undone[k]) <= 1e-44f)) {
                    describe(t, levels[i], threads);
                    fail_msg("input %zu is %.9g, expected %.9g", k, (double)undone[k], (double)want_undone[k]);
                }
            }
            if (i == 0 && threads == 1) {
                memcpy(first, y, outputs * sizeof *y);
            } else if (memcmp(first, y, outputs * sizeof *y) != 0) {
                describe(t, levels[i], threads);
                fail_msg("bytes differ from those of %s with one thread", levels[0]);
            }
        }
    }
    free(want);
    free(magnitude);
    free(y);
    free(first);
    free(undone);
    free(want_undone);
}

/* A trial of given schemes on a shape, with random contents. */
static void check_scheme(sqf_random *random, const char *name, size_t rows, size_t columns, size_t tokens)
{
    sqf_error err;
    trial t = {0};
    assert_ok(sqf_scheme_parse(name, &t.scheme, &err), &err);
    fill_trial(random, &t, rows, columns, tokens);
    check_trial(&t);
    free_trial(&t);
}

/* Scales of activations per group of 32 to 256 channels, in sections whose lengths they do not divide, over groups of
 * the weights that are shorter, longer, and rows; for either part of static and dynamic masks. */
static void groups_of_activations_agree_with_the_reference(void **state)
{
    (void)state;
    static const char *const operands[] = {"W4A4",
                                           "W4A8",
                                           "W4A(SQ5)",
                                           "W4A(SQ6)",
                                           "W4A(SQ5);mask=dynamic",
                                           "W(SQ5)A(SQ6)",
                                           "W4A4;zero=point",
                                           "W4A5;zero=point",
                                           "W8A8;zero=point",
                                           "W4A(SQ5);zero=point",
                                           "W4A(SQ6);zero=low",
                                           "W(SQ5)A(SQ5);mask=dynamic,zero=point"};
    static const char *const weights[] = {"", ",group=64", ",group=256", ",group=row"};
    sqf_random random = {test_seed("groups", 4)};
    for (size_t o = 0; o < COUNT(operands); o++) {
        for (size_t w = 0; w < COUNT(weights); w++) {
            for (unsigned group = 32; group <= 256; group *= 2) {
                char name[SQF_SCHEME_TEXT];
                const size_t end = strcspn(operands[o], ";");
                snprintf(name, sizeof name, "%.*s%s;%s%sscale=group,group=%u", (int)end, operands[o], weights[w],
                         operands[o][end] ? operands[o] + end + 1 : "", operands[o][end] ? "," : "", group);
                const size_t tokens = 1 + sqf_random_below(&random, 9);
                check_scheme(&random, name, 1 + sqf_random_below(&random, 70), 300 + sqf_random_below(&random, 700),
                             tokens);
            }
        }
    }
}

/* Weights of two integer parts in the form of their own: every pair of types that fits, both kinds of scales, banks
 * that blocks hold whole and banks that they cut, shares from nearly none to nearly all, zero points, both kinds of
 * masks. */
static void split_weights_agree_with_the_reference(void **state)
{
    (void)state;
    static const char *const types[] = {"8/4", "8/3", "8/2", "6/4", "5/3", "4/2"};
    static const char *const shares[] = {"0.96875", "0.75", "0.5", "0.25"};
    static const char *const fields[] = {"",
                                         ",scales=tied",
                                         ",group=row",
                                         ",scales=tied,group=row",
                                         ",group=8",
                                         ",scales=tied,scale_type=fp32",
                                         ",layout=bitmask",
                                         ",scale_type=bf16"};
    static const char *const acts[] = {
        "A8", "A4", "A8%s;zero=point", "A(SQ5)", "A(SQ5)%s;mask=dynamic", "A8%s;scale=group,group=16"};
    static const unsigned banks[] = {8, 32, 40, 64, 96, 128, 512, 2048};
    sqf_random random = {test_seed("split", 11)};
    for (size_t done = 0; done < 160;) {
        char operand[64], name[SQF_SCHEME_TEXT];
        sqf_error err;
        trial t = {0};
        const unsigned bank = banks[sqf_random_below(&random, COUNT(banks))];
        const char *act = acts[sqf_random_below(&random, COUNT(acts))];
        const char *field = fields[sqf_random_below(&random, COUNT(fields))];
        const size_t mark = strcspn(act, "%");
        snprintf(operand, sizeof operand, "W(%u-(%s)-%s)", bank, types[sqf_random_below(&random, COUNT(types))],
                 bank < 32 ? "0.75" : shares[sqf_random_below(&random, COUNT(shares))]);
        snprintf(name, sizeof name, "%s%.*s%s%s", operand, (int)mark, act, field, act[mark] ? act + mark + 2 : "");
        if (sqf_scheme_parse(name, &t.scheme, &err) != SQF_OK) {
            continue; /* groups that do not nest */
        }
        done++;
        const size_t rows = 1 + sqf_random_below(&random, 70);
        const size_t columns = 1 + sqf_random_below(&random, sqf_random_below(&random, 3) ? 400 : 2500);
        fill_trial(&random, &t, rows, columns, 1 + sqf_random_below(&random, sqf_random_below(&random, 4) ? 9 : 60));
        check_trial(&t);
        free_trial(&t);
    }
}

static void every_scheme_agrees_with_the_reference(void **state)
{
    (void)state;
    const char *rounds = getenv("SQF_TEST_ROUNDS");
    const long wanted = rounds ? atol(rounds) : 150;
    sqf_random random = {test_seed("linear", 20240717)};
    for (long done = 0; done < wanted;) {
        trial t;
        if (make_trial(&random, &t)) {
            check_trial(&t);
            free_trial(&t);
            done++;
        }
    }
}

static float element(sqf_type type, const uint8_t *bytes, size_t i)
{
    if (type == SQF_TYPE_FP32) {
        float x;
        memcpy(&x, bytes + 4 * i, sizeof x);
        return x;
    }
    uint16_t half;
    memcpy(&half, bytes + 2 * i, sizeof half);
    return type == SQF_TYPE_BF16 ? sqf_bf16_to_float(half) : sqf_fp16_to_float(half);
}

/* One dense product at every level; the weights lie at an odd address as a mapped file may hold them. */
static void check_dense(sqf_random *random, sqf_type type)
{
    sqf_error err;
    const size_t rows = 1 + sqf_random_below(random, 150), columns = 1 + sqf_random_below(random, 1300);
    const size_t tokens = 1 + sqf_random_below(random, sqf_random_below(random, 2) ? 5 : 150);
    const size_t size = sqf_type_storage_bytes(type);
    uint8_t *block = malloc(rows * columns * size + 1), *weights = block + 1;
    float *x = malloc(tokens * columns * sizeof *x), *y = malloc(tokens * rows * sizeof *y);
    for (size_t i = 0; i < rows * columns; i++) {
        const float value = random_float(random);
        const uint16_t half = type == SQF_TYPE_BF16 ? sqf_bf16_from_float(value) : sqf_fp16_from_float(value);
        memcpy(weights + size * i, type == SQF_TYPE_FP32 ? (const void *)&value : &half, size);
    }
    for (size_t i = 0; i < tokens * columns; i++) {
        x[i] = random_float(random);
    }
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        const sqf_context_options options = {.threads = 2, .cpu = *level};
        sqf_context *context;
        sqf_linear *linear;
        sqf_input *input;
        assert_ok(sqf_context_create(&options, &context, &err), &err);
        const sqf_linear_params params = {.name = "dense",
                                          .rows = rows,
                                          .columns = columns,
                                          .dense = weights,
                                          .dense_type = type,
                                          .activations = {.low = SQF_TYPE_FP32, .clip = 1.0f}};
        assert_ok(sqf_linear_create(context, &params, &linear, &err), &err);
        assert_ok(sqf_input_create(&input, &err), &err);
        assert_ok(sqf_input_prepare(context, input, linear, x, tokens, &err), &err);
        assert_ok(sqf_linear_forward(context, linear, input, y, &err), &err);
        assert_int_equal(sqf_context_products(context).dense, tokens * rows * columns);
        for (size_t m = 0; m < tokens; m++) {
            for (size_t n = 0; n < rows; n++) {
                double want = 0.0, magnitude = 0.0;
                for (size_t k = 0; k < columns; k++) {
                    const double term = (double)element(type, weights, n * columns + k) * (double)x[m * columns + k];
                    want += term;
                    magnitude += fabs(term);
                }
                assert_true(fabs((double)y[m * rows + n] - want) <= 1e-5 * magnitude);
            }
        }
        sqf_input_destroy(input);
        sqf_linear_destroy(linear);
        sqf_context_destroy(context);
    }
    free(block);
    free(x);
    free(y);
}

static void dense_products_agree_with_double(void **state)
{
    (void)state;
    sqf_random random = {test_seed("dense", 5)};
    for (int i = 0; i < 6; i++) {
        check_dense(&random, SQF_TYPE_BF16);
        check_dense(&random, SQF_TYPE_FP16);
        check_dense(&random, SQF_TYPE_FP32);
    }
}

static void one_input_serves_layers_that_read_it_alike(void **state)
{
    (void)state;
    sqf_error err;
    sqf_context *context;
    assert_ok(sqf_context_create(NULL, &context, &err), &err);
    sqf_scheme scheme;
    assert_ok(sqf_scheme_parse("W4A8", &scheme, &err), &err);
    sqf_matrix a, b, c;
    assert_ok(sqf_matrix_create(&scheme.weights, 5, 300, 300, NULL, &a, &err), &err);
    assert_ok(sqf_matrix_create(&scheme.weights, 7, 300, 300, NULL, &b, &err), &err);
    scheme.weights.group = 64;
    scheme.weights.bank = 64;
    assert_ok(sqf_matrix_create(&scheme.weights, 7, 300, 300, NULL, &c, &err), &err);
    sqf_linear *layers[3];
    const sqf_matrix *matrices[3] = {&a, &b, &c};
    for (int i = 0; i < 3; i++) {
        const sqf_linear_params params = {.name = "layer",
                                          .rows = matrices[i]->rows,
                                          .columns = 300,
                                          .matrix = matrices[i],
                                          .activations = scheme.activations};
        assert_ok(sqf_linear_create(context, &params, &layers[i], &err), &err);
    }
    assert_true(sqf_linear_same_input(layers[0], layers[1]));
    assert_false(sqf_linear_same_input(layers[0], layers[2]));
    float x[300] = {1.0f}, y[7];
    sqf_input *input;
    assert_ok(sqf_input_create(&input, &err), &err);
    assert_ok(sqf_input_prepare(context, input, layers[0], x, 1, &err), &err);
    assert_ok(sqf_linear_forward(context, layers[1], input, y, &err), &err);
    assert_fails(sqf_linear_forward(context, layers[2], input, y, &err), SQF_E_ARG, &err, "not prepared for this");
    x[17] = NAN;
    assert_fails(sqf_input_prepare(context, input, layers[0], x, 1, &err), SQF_E_VALUE, &err, "token 0, channel 17");
    x[17] = -INFINITY;
    assert_fails(sqf_input_prepare(context, input, layers[0], x, 1, &err), SQF_E_VALUE, &err, "channel 17");
    assert_fails(sqf_linear_forward(context, layers[0], input, y, &err), SQF_E_ARG, &err, "not prepared");
    sqf_input_destroy(input);
    for (int i = 0; i < 3; i++) {
        sqf_linear_destroy(layers[i]);
    }
    sqf_matrix_clear(&a);
    sqf_matrix_clear(&b);
    sqf_matrix_clear(&c);
    sqf_context_destroy(context);
}

/* Sums of 140000 products of 127 * 127 do not fit int32: the row must be cut. With a zero point each code stands for
 * twice as much. */
static void check_long_row(sqf_act_zero zero)
{
    sqf_error err;
    enum { ROWS = 2, COLUMNS = 140000 };
    const sqf_weight_spec spec = {.low = SQF_TYPE_INT8, .bank = 64, .scale_type = SQF_TYPE_FP32};
    sqf_matrix matrix;
    sqf_row row;
    assert_ok(sqf_matrix_create(&spec, ROWS, COLUMNS, COLUMNS, NULL, &matrix, &err), &err);
    assert_ok(sqf_row_create(&matrix, &row, &err), &err);
    float *x = malloc(COLUMNS * sizeof *x), y[ROWS];
    for (size_t n = 0; n < ROWS; n++) {
        for (size_t k = 0; k < COLUMNS; k++) {
            row.value[k] = n == 0 ? 127.0f : -127.0f;
            x[k] = 127.0f;
        }
        row.scale_low[0] = 1.0f;
        sqf_matrix_pack_row(&matrix, n, &row);
    }
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        const sqf_context_options options = {.threads = 1, .cpu = *level};
        const sqf_linear_params params = {.name = "long",
                                          .rows = ROWS,
                                          .columns = COLUMNS,
                                          .matrix = &matrix,
                                          .activations = {.low = SQF_TYPE_INT8, .clip = 1.0f, .zero = zero}};
        sqf_context *context;
        sqf_linear *linear;
        sqf_input *input;
        assert_ok(sqf_context_create(&options, &context, &err), &err);
        assert_ok(sqf_linear_create(context, &params, &linear, &err), &err);
        assert_ok(sqf_input_create(&input, &err), &err);
        assert_ok(sqf_input_prepare(context, input, linear, x, 1, &err), &err);
        assert_ok(sqf_linear_forward(context, linear, input, y, &err), &err);
        const double want = 127.0 * 127.0 * COLUMNS;
        assert_true(fabs((double)y[0] - want) <= 1e-6 * want && fabs((double)y[1] + want) <= 1e-6 * want);
        sqf_input_destroy(input);
        sqf_linear_destroy(linear);
        sqf_context_destroy(context);
    }
    free(x);
    sqf_row_clear(&row);
    sqf_matrix_clear(&matrix);
}

static void a_row_too_long_for_int32_sums_is_cut(void **state)
{
    (void)state;
    check_long_row(SQF_ACT_ZERO_NONE);
    check_long_row(SQF_ACT_ZERO_POINT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_scheme_agrees_with_the_reference),
        cmocka_unit_test(groups_of_activations_agree_with_the_reference),
        cmocka_unit_test(split_weights_agree_with_the_reference),
        cmocka_unit_test(dense_products_agree_with_double),
        cmocka_unit_test(a_row_too_long_for_int32_sums_is_cut),
        cmocka_unit_test(one_input_serves_layers_that_read_it_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

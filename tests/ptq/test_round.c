/* Rounding straight from stored elements against the walk through the columns: every byte and both sums of squares, at
 * every level of the processor. */
#include <math.h>

#include "../format/random_matrix.h"
#include "base/memory.h"
#include "kernels/dispatch.h"
#include "ptq/algorithm.h"

static sqf_context *context;

/* What the checkpoint holds: kinds of values that rounding, masks and scales may stumble over. */
static float draw_weight(sqf_random *random, int kind)
{
    const float x = (float)(2.0 * sqf_random_unit(random) - 1.0);
    switch (kind) {
    case 0: return x;
    case 1: return (float)((int)sqf_random_below(random, 9) - 4) * 0.25f; /* ties of magnitudes and of roundings */
    case 2: return sqf_random_below(random, 3) ? 0.0f : x * 0x1p-20f;     /* whole groups of zeros */
    case 3: return ldexpf(x, -140 + (int)sqf_random_below(random, 20));   /* subnormals */
    case 4: return ldexpf(x, (int)sqf_random_below(random, 12));          /* outliers */
    default: return sqf_random_below(random, 2) ? -0.0f : ldexpf(x, 90);  /* beyond fp16 scales */
    }
}

/* The same weights as a checkpoint of `type` would have them, and as floats. Off by one byte on purpose. */
static void *draw_stored(sqf_random *random, sqf_type type, size_t n, float **floats)
{
    const size_t size = sqf_type_storage_bytes(type);
    const int kind = (int)sqf_random_below(random, type == SQF_TYPE_FP16 ? 5 : 6);
    uint8_t *stored = NULL;
    assert_ok(SQF_ALLOC(&stored, n * size + 1, "test", NULL), &(sqf_error){0});
    assert_ok(SQF_ALLOC(floats, n, "test", NULL), &(sqf_error){0});
    for (size_t i = 0; i < n; i++) {
        const float x = draw_weight(random, kind);
        const uint16_t half = type == SQF_TYPE_FP16 ? sqf_fp16_from_float(x) : sqf_bf16_from_float(x);
        (*floats)[i] = type == SQF_TYPE_FP32   ? x
                       : type == SQF_TYPE_FP16 ? sqf_fp16_to_float(half)
                                               : sqf_bf16_to_float(half);
        memcpy(stored + 1 + i * size, type == SQF_TYPE_FP32 ? (const void *)&x : (const void *)&half, size);
    }
    return stored;
}

static void assert_same(sqf_matrix *a, sqf_matrix *b)
{
    sqf_matrix_part parts[2][SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(a, parts[0]);
    assert_int_equal(count, sqf_matrix_parts(b, parts[1]));
    for (size_t i = 0; i < count; i++) {
        if (memcmp(*parts[0][i].data, *parts[1][i].data, a->rows * parts[0][i].row_bytes) != 0) {
            fail_msg("%s differs", parts[0][i].suffix);
        }
    }
    assert_memory_equal(a->scale_unit, b->scale_unit, sizeof a->scale_unit);
}

/* One random matrix by both ways at all levels. */
static void compare_one(sqf_random *random, const sqf_weight_spec *spec, size_t rows, size_t columns)
{
    static const sqf_type types[] = {SQF_TYPE_BF16, SQF_TYPE_FP16, SQF_TYPE_FP32};
    const sqf_type type = types[sqf_random_below(random, 3)];
    sqf_matrix_job job = {.name = "m",
                          .spec = *spec,
                          .rows = rows,
                          .columns = columns,
                          .border = random_between(random, 0, columns),
                          .importance = SQF_IMPORTANCE_OBS,
                          .prune = SQF_PRUNE_MAGNITUDE,
                          .compensate = SQF_COMPENSATE_NONE};
    float *floats;
    void *stored = draw_stored(random, type, rows * columns, &floats);
    sqf_matrix expected, found;
    sqf_matrix_result errors[2];
    sqf_error err = {0};
    job.weights = floats;
    assert_ok(sqf_matrix_quantize(context, &job, &expected, &errors[0], &err), &err);
    const sqf_kernels *best = context->kernels;
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        context->kernels = sqf_kernels_find(*level);
        for (int from_floats = 0; from_floats < 2; from_floats++) {
            job.weights = from_floats ? floats : NULL;
            job.stored = (const uint8_t *)stored + 1;
            job.stored_type = type;
            assert_ok(sqf_matrix_round(context, &job, &found, &errors[1], &err), &err);
            assert_same(&found, &expected);
            assert_memory_equal(&errors[1].weight_error, &errors[0].weight_error, sizeof(double));
            assert_true(isnan(errors[1].output_error));
            sqf_matrix_clear(&found);
        }
    }
    context->kernels = best;
    sqf_matrix_clear(&expected);
    free(stored);
    free(floats);
}

static void test_rounding_gives_the_bytes_of_the_walk(void **state)
{
    (void)state;
    sqf_random random = {test_seed("round", 17)};
    size_t compared = 0;
    while (compared < 400) {
        const sqf_weight_spec spec = random_weights(&random, 70);
        if (sqf_matrix_rounds(&spec, SQF_IMPORTANCE_OBS, SQF_PRUNE_MAGNITUDE, SQF_CLIP_ABSMAX)) {
            compare_one(&random, &spec, random_between(&random, 1, 5), random_between(&random, 1, 300));
            compared++;
        }
    }
}

/* Named schemes over several blocks of rows and odd tails. */
static void test_named_schemes_and_many_rows_agree(void **state)
{
    (void)state;
    static const char *const names[] = {"W4A16",
                                        "W8A16",
                                        "W3A16",
                                        "W2A16",
                                        "W(SQ5)A16",
                                        "W(SQ6)A16",
                                        "W4A16,group=32",
                                        "W4A16,group=row",
                                        "W4A16,scale_type=fp8",
                                        "W(SQ6)A16,scales=tied",
                                        "low=fp4,group=32"};
    sqf_random random = {test_seed("round", 18)};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        sqf_scheme scheme;
        sqf_error err = {0};
        assert_ok(sqf_scheme_parse(names[i], &scheme, &err), &err);
        compare_one(&random, &scheme.weights, 300, 64 * random_between(&random, 1, 5));
        compare_one(&random, &scheme.weights, 129, random_between(&random, 129, 400));
    }
}

static void test_weights_that_are_no_numbers_are_named(void **state)
{
    (void)state;
    enum { ROWS = 200, COLUMNS = 70 };
    static const char *const names[] = {"W4A16", "W(SQ6)A16", "W4A16,scale_type=fp8"};
    static float weights[ROWS * COLUMNS];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        sqf_scheme scheme;
        sqf_error err = {0};
        sqf_matrix matrix;
        assert_ok(sqf_scheme_parse(names[i], &scheme, &err), &err);
        const sqf_matrix_job job = {.name = "m",
                                    .spec = scheme.weights,
                                    .weights = weights,
                                    .compensate = SQF_COMPENSATE_NONE,
                                    .rows = ROWS,
                                    .columns = COLUMNS,
                                    .border = COLUMNS};
        weights[150 * COLUMNS + 66] = NAN;
        weights[150 * COLUMNS + 67] = INFINITY;
        assert_fails(sqf_matrix_round(context, &job, &matrix, NULL, &err), SQF_E_VALUE, &err, "m: row 150 column 66");
        weights[150 * COLUMNS + 66] = 0.0f;
        assert_fails(sqf_matrix_round(context, &job, &matrix, NULL, &err), SQF_E_VALUE, &err, "column 67: found inf");
        weights[150 * COLUMNS + 67] = 0.0f;
    }
}

static void test_what_needs_more_than_rounding_is_refused(void **state)
{
    (void)state;
    sqf_scheme scheme;
    sqf_error err = {0};
    sqf_matrix matrix;
    const float weights[4] = {0};
    assert_ok(sqf_scheme_parse("W(SQ6)A16", &scheme, &err), &err);
    sqf_matrix_job job = {
        .name = "m", .spec = scheme.weights, .weights = weights, .rows = 1, .columns = 4, .border = 4};
    job.compensate = SQF_COMPENSATE_NONE;
    job.clip = SQF_CLIP_MSE;
    assert_fails(sqf_matrix_round(context, &job, &matrix, NULL, &err), SQF_E_ARG, &err, "more is asked for");
    job.clip = SQF_CLIP_ABSMAX;
    job.importance = SQF_IMPORTANCE_GAIN;
    assert_fails(sqf_matrix_round(context, &job, &matrix, NULL, &err), SQF_E_ARG, &err, "more is asked for");
    job.importance = SQF_IMPORTANCE_OBS;
    job.compensate = SQF_COMPENSATE_GPTQ;
    assert_fails(sqf_matrix_round(context, &job, &matrix, NULL, &err), SQF_E_ARG, &err, "more is asked for");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounding_gives_the_bytes_of_the_walk),
        cmocka_unit_test(test_named_schemes_and_many_rows_agree),
        cmocka_unit_test(test_weights_that_are_no_numbers_are_named),
        cmocka_unit_test(test_what_needs_more_than_rounding_is_refused),
    };
    sqf_error err = {0};
    if (sqf_context_create(NULL, &context, &err) != SQF_OK) {
        return 1;
    }
    const int result = cmocka_run_group_tests(tests, NULL, NULL);
    sqf_context_destroy(context);
    return result;
}

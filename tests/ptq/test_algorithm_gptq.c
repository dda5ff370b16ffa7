/* Algorithm 1 against its literal form, its order of errors, its independence of threads, its refusals. */
#include "gptq_variants.h"
#include "literal_gptq.h"

/* Rows of our matrix whose values or masks are not the literal algorithm's. */
static size_t count_differing_rows(const layer *l, const sqf_matrix_job *job, const sqf_matrix *matrix)
{
    const size_t n = l->columns;
    double *inverse = literal_inverse(l->statistics.hessian, n, job->channels, 0.01);
    double *upper = make_array(n * n, sizeof *upper);
    memcpy(upper, inverse, n * n * sizeof *upper);
    literal_cholesky_upper(upper, n);
    literal_row row = {.job = job, .shape = matrix, .inverse = inverse, .upper = upper};
    row.diagonal = job->factor->hessian_diagonal;
    row.w = make_array(n, sizeof *row.w);
    row.score = make_array(n, sizeof *row.score);
    row.x = make_floats(n);
    sqf_row ours;
    sqf_error err = {0};
    assert_ok(sqf_row_create(matrix, &row.out, &err), &err);
    assert_ok(sqf_row_create(matrix, &ours, &err), &err);
    size_t differing = 0;
    for (size_t i = 0; i < l->rows; i++) {
        for (size_t j = 0; j < n; j++) {
            row.w[j] = (double)l->weights[i * n + (job->channels ? (size_t)job->channels[j] : j)];
        }
        literal_quantize(&row);
        assert_ok(sqf_matrix_check_row(matrix, i, "layer", &err), &err);
        sqf_matrix_unpack_row(matrix, i, &ours);
        bool same = true;
        for (size_t j = 0; j < n; j++) {
            same = same && ours.mask[j] == row.out.mask[j] && ours.value[j] == row.out.value[j];
        }
        for (size_t g = 0; g < matrix->group_count; g++) {
            same = same && fabsf(ours.scale_low[g] - row.out.scale_low[g]) <= 1e-3f * row.out.scale_low[g];
            same = same && fabsf(ours.scale_high[g] - row.out.scale_high[g]) <= 1e-3f * row.out.scale_high[g];
        }
        differing += !same;
    }
    sqf_row_clear(&ours);
    sqf_row_clear(&row.out);
    free(row.w);
    free(row.score);
    free(row.x);
    free(inverse);
    free(upper);
    return differing;
}

/* Float rounding may carry a weight, a scale or a score over an edge; the rest of that row then differs. Few rows may.
 */
static void test_every_variant_equals_the_literal_algorithm(void **state)
{
    (void)state;
    sqf_random random = {test_seed("variants", 7)};
    size_t differing = 0, total = 0;
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        layer l = make_layer(&random, ROWS, variants[v].columns, variants[v].border);
        sqf_matrix_job job = make_job(&l, variants[v].weights);
        job.importance = variants[v].importance;
        job.prune = variants[v].prune;
        job.compensate = variants[v].compensate;
        job.clip = variants[v].clip;
        sqf_factor factor;
        sqf_matrix matrix;
        sqf_error err = {0};
        assert_ok(
            sqf_factor_create(context, "layer", l.statistics.hessian, l.columns, job.channels, 0.01, &factor, &err),
            &err);
        job.factor = &factor;
        assert_ok(sqf_matrix_quantize(context, &job, &matrix, NULL, &err), &err);
        const size_t rows = count_differing_rows(&l, &job, &matrix);
        print_message("%3zu of %d rows differ: %s, %zu columns, border %zu\n", rows, ROWS, variants[v].weights,
                      l.columns, l.border);
        if (rows > ROWS / 5) {
            fail_msg("%s: %zu of %d rows differ", variants[v].weights, rows, ROWS);
        }
        differing += rows;
        total += ROWS;
        sqf_matrix_clear(&matrix);
        sqf_factor_clear(&factor);
        free_layer(&l);
    }
    print_message("%zu of %zu rows differ\n", differing, total);
    assert_true(differing * 33 < total);
}

static sqf_matrix_result quantize(const sqf_matrix_job *job, sqf_matrix *matrix)
{
    sqf_matrix_result result;
    sqf_error err = {0};
    assert_ok(sqf_matrix_quantize(context, job, matrix, &result, &err), &err);
    return result;
}

static sqf_matrix_result quantize_and_drop(const sqf_matrix_job *job)
{
    sqf_matrix matrix;
    const sqf_matrix_result result = quantize(job, &matrix);
    sqf_matrix_clear(&matrix);
    return result;
}

static sqf_factor make_factor(const layer *l, const int32_t *channels)
{
    sqf_factor factor;
    sqf_error err = {0};
    assert_ok(sqf_factor_create(context, "layer", l->statistics.hessian, l->columns, channels, 0.01, &factor, &err),
              &err);
    return factor;
}

static void test_compensation_and_importance_lower_the_output_error(void **state)
{
    (void)state;
    sqf_random random = {test_seed("errors", 11)};
    layer l = make_layer(&random, 100, 512, 512);
    sqf_factor factor = make_factor(&l, NULL);
    sqf_matrix_job job = make_job(&l, "low=int4,group=128");
    job.factor = &factor;
    const sqf_matrix_result gptq = quantize_and_drop(&job);
    job.compensate = SQF_COMPENSATE_NONE;
    const sqf_matrix_result rtn = quantize_and_drop(&job);
    assert_true(gptq.output_error < 0.7 * rtn.output_error);
    assert_true(gptq.weight_error > rtn.weight_error); /* what the outputs gain is paid for in the weights */

    job = make_job(&l, "low=int4,high=int8,bank=64,high_per_bank=8");
    job.factor = &factor;
    const double obs = quantize_and_drop(&job).output_error;
    job.importance = SQF_IMPORTANCE_RANDOM;
    assert_true(obs < 0.7 * quantize_and_drop(&job).output_error);

    job = make_job(&l, "low=none,high=int8,bank=4,high_per_bank=2,group=128");
    job.factor = &factor;
    const double sparsegpt = quantize_and_drop(&job).output_error;
    job.compensate = SQF_COMPENSATE_NONE;
    job.prune = SQF_PRUNE_WANDA;
    const double wanda = quantize_and_drop(&job).output_error;
    job.prune = SQF_PRUNE_MAGNITUDE;
    const double magnitude = quantize_and_drop(&job).output_error;
    assert_true(sparsegpt < 0.7 * wanda);
    assert_true(wanda < magnitude);
    sqf_factor_clear(&factor);
    free_layer(&l);
}

/* The errors as the definition says, from the dequantized matrix, in double. */
static sqf_matrix_result literal_errors(const layer *l, const sqf_matrix *matrix)
{
    const size_t n = l->columns;
    double weight = 0.0, weight_error = 0.0, output = 0.0, output_error = 0.0;
    float *back = make_floats(n);
    sqf_row row;
    sqf_error err = {0};
    assert_ok(sqf_row_create(matrix, &row, &err), &err);
    for (size_t i = 0; i < l->rows; i++) {
        const float *w = l->weights + i * n;
        sqf_matrix_dequantize_row(matrix, i, &row, back);
        for (size_t a = 0; a < n; a++) {
            const double da = (double)w[a] - (double)back[a];
            weight += (double)w[a] * (double)w[a];
            weight_error += da * da;
            for (size_t b = 0; b < n; b++) {
                const double h = (double)l->statistics.hessian[a * n + b];
                output += (double)w[a] * h * (double)w[b];
                output_error += da * h * ((double)w[b] - (double)back[b]);
            }
        }
    }
    sqf_row_clear(&row);
    free(back);
    return (sqf_matrix_result){.weight_error = weight_error / weight, .output_error = output_error / output};
}

static void test_reported_errors_are_those_of_the_stored_matrix(void **state)
{
    (void)state;
    sqf_random random = {test_seed("measured", 13)};
    layer l = make_layer(&random, 140, 600, 250);
    sqf_factor factor = make_factor(&l, l.channels);
    sqf_matrix_job job = make_job(&l, "low=int4,high=int8,bank=64,high_per_bank=8,scales=tied");
    job.factor = &factor;
    sqf_matrix matrix;
    const sqf_matrix_result found = quantize(&job, &matrix), expected = literal_errors(&l, &matrix);
    assert_true(fabs(found.weight_error / expected.weight_error - 1.0) < 1e-5);
    assert_true(fabs(found.output_error / expected.output_error - 1.0) < 1e-3);
    sqf_matrix_clear(&matrix);
    job.hessian = NULL;
    assert_true(isnan(quantize_and_drop(&job).output_error));
    sqf_factor_clear(&factor);
    free_layer(&l);
}

static void assert_same_bytes(sqf_matrix *a, sqf_matrix *b)
{
    sqf_matrix_part parts[SQF_MATRIX_PARTS], others[SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(a, parts);
    assert_int_equal(sqf_matrix_parts(b, others), count);
    for (size_t i = 0; i < count; i++) {
        assert_memory_equal(*parts[i].data, *others[i].data, a->rows * parts[i].row_bytes);
    }
}

/* Statistics, factor and matrix made with 1, 2 and 3 threads. */
static void test_bytes_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    static const char *const specs[] = {"low=int4,group=48", "low=int4,high=int8,bank=64,high_per_bank=16",
                                        "low=none,high=int8,bank=4,high_per_bank=2,group=128"};
    sqf_random random = {test_seed("threads", 17)};
    const size_t columns = 900;
    float *x = make_inputs(&random, 1000, columns), *weights = make_weights(&random, 500, columns);
    for (size_t s = 0; s < 3; s++) {
        sqf_matrix first = {0};
        sqf_matrix_result first_result = {0};
        for (unsigned threads = 1; threads <= 3; threads++) {
            sqf_context *own = make_context(threads);
            layer l = {.rows = 500, .columns = columns, .border = columns, .weights = weights};
            l.statistics = make_statistics(own, x, 1000, columns);
            sqf_factor factor;
            sqf_matrix matrix;
            sqf_matrix_result result;
            sqf_error err = {0};
            assert_ok(sqf_factor_create(own, "layer", l.statistics.hessian, columns, NULL, 0.01, &factor, &err), &err);
            sqf_matrix_job job = make_job(&l, specs[s]);
            job.factor = &factor;
            job.importance = s == 1 ? SQF_IMPORTANCE_RANDOM : SQF_IMPORTANCE_OBS;
            assert_ok(sqf_matrix_quantize(own, &job, &matrix, &result, &err), &err);
            if (threads == 1) {
                first = matrix;
                first_result = result;
            } else {
                assert_same_bytes(&first, &matrix);
                assert_memory_equal(&first_result, &result, sizeof result);
                sqf_matrix_clear(&matrix);
            }
            sqf_factor_clear(&factor);
            sqf_statistics_clear(&l.statistics);
            sqf_context_destroy(own);
        }
        sqf_matrix_clear(&first);
    }
    free(x);
    free(weights);
}

static bool masks_equal(const layer *l, uint64_t seed, const char *name, uint64_t other_seed, const char *other_name)
{
    sqf_matrix_job job = make_job(l, "low=int4,high=int8,bank=64,high_per_bank=16,layout=bitmask");
    job.compensate = SQF_COMPENSATE_NONE;
    job.importance = SQF_IMPORTANCE_RANDOM;
    sqf_matrix a, b;
    job.seed = seed;
    job.name = name;
    quantize(&job, &a);
    job.seed = other_seed;
    job.name = other_name;
    quantize(&job, &b);
    const bool equal = memcmp(a.mask, b.mask, a.rows * a.mask_row_bytes) == 0;
    const bool rows_equal = memcmp(a.mask, a.mask + a.mask_row_bytes, a.mask_row_bytes) == 0;
    assert_false(rows_equal);
    sqf_matrix_clear(&a);
    sqf_matrix_clear(&b);
    return equal;
}

static void test_random_masks_follow_seed_name_and_row(void **state)
{
    (void)state;
    sqf_random random = {test_seed("random", 19)};
    layer l = make_layer(&random, 20, 256, 256);
    assert_true(masks_equal(&l, 1, "a.q_proj", 1, "a.q_proj"));
    assert_false(masks_equal(&l, 1, "a.q_proj", 2, "a.q_proj"));
    assert_false(masks_equal(&l, 1, "a.q_proj", 1, "a.k_proj"));
    free_layer(&l);
}

static void test_weights_of_dead_channels_become_zero(void **state)
{
    (void)state;
    sqf_random random = {test_seed("dead", 23)};
    const size_t columns = 200, dead = 77;
    float *x = make_inputs(&random, TOKENS, columns);
    for (size_t t = 0; t < TOKENS; t++) {
        x[t * columns + dead] = 0.0f;
    }
    layer l = {.rows = 30, .columns = columns, .border = columns, .weights = make_weights(&random, 30, columns)};
    l.statistics = make_statistics(context, x, TOKENS, columns);
    for (size_t i = 0; i < l.rows; i++) {
        l.weights[i * columns + dead] = 100.0f; /* would spoil the scale of its group */
    }
    sqf_factor factor = make_factor(&l, NULL);
    sqf_matrix_job job = make_job(&l, "low=int4,group=128");
    job.factor = &factor;
    sqf_matrix matrix;
    assert_true(quantize(&job, &matrix).output_error < 0.05);
    float *back = make_floats(columns);
    sqf_row row;
    sqf_error err = {0};
    assert_ok(sqf_row_create(&matrix, &row, &err), &err);
    for (size_t i = 0; i < l.rows; i++) {
        sqf_matrix_dequantize_row(&matrix, i, &row, back);
        assert_true(back[dead] == 0.0f);
    }
    sqf_row_clear(&row);
    sqf_matrix_clear(&matrix);
    sqf_factor_clear(&factor);
    free(back);
    free(x);
    free_layer(&l);
}

static void test_values_that_are_no_numbers_are_named(void **state)
{
    (void)state;
    sqf_random random = {test_seed("nan", 29)};
    layer l = make_layer(&random, 300, 64, 64);
    sqf_matrix_job job = make_job(&l, "low=int4,group=32");
    job.compensate = SQF_COMPENSATE_NONE;
    sqf_matrix matrix;
    sqf_error err;
    l.weights[290 * 64 + 3] = INFINITY;
    assert_fails(sqf_matrix_quantize(context, &job, &matrix, NULL, &err), SQF_E_VALUE, &err,
                 "layer: row 290 column 3: ");
    l.weights[7 * 64 + 63] = NAN;
    assert_fails(sqf_matrix_quantize(context, &job, &matrix, NULL, &err), SQF_E_VALUE, &err,
                 "layer: row 7 column 63: found nan");
    assert_null(matrix.owned);
    free_layer(&l);
}

/* A factor whose rows are huge, as no Hessian has them: what propagates is beyond the range of floats. */
static void test_compensation_that_overflows_is_an_error(void **state)
{
    (void)state;
    sqf_random random = {test_seed("overflow", 37)};
    layer l = make_layer(&random, 200, 64, 64);
    sqf_factor factor = make_factor(&l, NULL);
    for (size_t i = 0; i < 64; i++) {
        for (size_t j = i + 1; j < 64; j++) {
            factor.upper[i * 64 + j] = 1e30f;
        }
    }
    sqf_matrix_job job = make_job(&l, "low=int4,group=32");
    job.factor = &factor;
    sqf_matrix matrix;
    sqf_error err;
    assert_fails(sqf_matrix_quantize(context, &job, &matrix, NULL, &err), SQF_E_VALUE, &err,
                 "layer: rows from 0: the compensated weights overflow");
    assert_null(matrix.owned);
    sqf_factor_clear(&factor);

    /* an infinity without any NaN, in the last column */
    factor = make_factor(&l, NULL);
    factor.upper[64 * 64 - 1] = 1e-44f;
    assert_fails(sqf_matrix_quantize(context, &job, &matrix, NULL, &err), SQF_E_VALUE, &err, "overflow");
    sqf_factor_clear(&factor);
    free_layer(&l);
}

static void test_jobs_that_lack_calibration_are_refused_or_fall_back(void **state)
{
    (void)state;
    sqf_random random = {test_seed("uncalibrated", 31)};
    layer l = make_layer(&random, 10, 64, 64);
    sqf_matrix matrix;
    sqf_error err;
    sqf_matrix_job job = make_job(&l, "low=int4,group=32");
    assert_fails(sqf_matrix_quantize(context, &job, &matrix, NULL, &err), SQF_E_ARG, &err,
                 "layer: compensate=gptq without calibration");
    job = make_job(&l, "low=none,high=int8,bank=4,high_per_bank=2,group=32");
    job.compensate = SQF_COMPENSATE_NONE;
    job.prune = SQF_PRUNE_WANDA;
    job.input_norm = NULL;
    assert_fails(sqf_matrix_quantize(context, &job, &matrix, NULL, &err), SQF_E_ARG, &err, "prune=wanda");

    /* obs without a Hessian ranks by magnitude */
    job = make_job(&l, "low=int4,high=int8,bank=32,high_per_bank=8");
    job.compensate = SQF_COMPENSATE_NONE;
    sqf_matrix by_magnitude;
    quantize(&job, &matrix);
    job.importance = SQF_IMPORTANCE_MAGNITUDE;
    quantize(&job, &by_magnitude);
    assert_same_bytes(&matrix, &by_magnitude);
    sqf_matrix_clear(&matrix);
    sqf_matrix_clear(&by_magnitude);

    sqf_factor factor = make_factor(&l, NULL);
    factor.channels = 63;
    job.factor = &factor;
    assert_fails(sqf_matrix_quantize(context, &job, &matrix, NULL, &err), SQF_E_SHAPE, &err, "63 channels");
    sqf_factor_clear(&factor);
    free_layer(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_variant_equals_the_literal_algorithm),
        cmocka_unit_test(test_compensation_and_importance_lower_the_output_error),
        cmocka_unit_test(test_reported_errors_are_those_of_the_stored_matrix),
        cmocka_unit_test(test_bytes_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(test_random_masks_follow_seed_name_and_row),
        cmocka_unit_test(test_weights_of_dead_channels_become_zero),
        cmocka_unit_test(test_values_that_are_no_numbers_are_named),
        cmocka_unit_test(test_compensation_that_overflows_is_an_error),
        cmocka_unit_test(test_jobs_that_lack_calibration_are_refused_or_fall_back),
    };
    context = make_context(2);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sqf_context_destroy(context);
    return failed;
}

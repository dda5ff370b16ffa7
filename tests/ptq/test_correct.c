/* Weights that make up for errors of their input: the solution against its own equation in float64, and what it does
 * for a model whose activations are coarse. */
#include "algorithm_data.h"
#include "ptq/correct/correct.h"
#include "small.h"

enum { ROWS = 37, COLUMNS = 150, TOKENS = 700 };

/* What a layer should have read, and what it reads: a coarse rounding of it. */
typedef struct pair {
    float *wanted, *quantized;
} pair;

static pair make_pair(sqf_random *random)
{
    const pair p = {make_inputs(random, TOKENS, COLUMNS), make_floats((size_t)TOKENS * COLUMNS)};
    for (size_t i = 0; i < (size_t)TOKENS * COLUMNS; i++) {
        p.quantized[i] = 0.5f * roundf(p.wanted[i] / 0.5f + 0.2f);
    }
    return p;
}

/* (2/T) sum a b^T of channels i and j. */
static double moment(const float *a, const float *b, size_t i, size_t j)
{
    double sum = 0.0;
    for (size_t t = 0; t < TOKENS; t++) {
        sum += (double)a[t * COLUMNS + i] * (double)b[t * COLUMNS + j];
    }
    return 2.0 * sum / TOKENS;
}

/* Corrected weights for both halves of the tokens added one after the other. */
static float *correct(sqf_context *context, const pair *p, const float *weights, const int32_t *channels,
                      double damping)
{
    sqf_error err = {0};
    sqf_correction correction;
    sqf_factor factor;
    float *corrected = make_floats((size_t)ROWS * COLUMNS);
    memcpy(corrected, weights, (size_t)ROWS * COLUMNS * sizeof *corrected);
    assert_ok(sqf_correction_create(COLUMNS, &correction, &err), &err);
    const size_t half = TOKENS / 2 * COLUMNS;
    assert_ok(sqf_correction_add(context, &correction, p->wanted, p->quantized, TOKENS / 2, &err), &err);
    assert_ok(
        sqf_correction_add(context, &correction, p->wanted + half, p->quantized + half, TOKENS - TOKENS / 2, &err),
        &err);
    sqf_correction_finish(context, &correction);
    assert_ok(
        sqf_factor_create(context, "layer", correction.quantized.hessian, COLUMNS, channels, damping, &factor, &err),
        &err);
    assert_ok(sqf_correction_solve(context, &correction, &factor, channels, &err), &err);
    assert_ok(sqf_correction_apply(context, &correction, corrected, ROWS, &err), &err);
    sqf_factor_clear(&factor);
    sqf_correction_clear(&correction);
    return corrected;
}

/* The least of sum ||W x* - W' q||^2 + lambda ||W' - W||^2 fulfils W' (H + lambda I) = W (C + lambda I). */
static void check_equation(const pair *p, const float *weights, const float *corrected, double damping)
{
    double *h = make_array((size_t)COLUMNS * COLUMNS, sizeof *h), *c = make_array((size_t)COLUMNS * COLUMNS, sizeof *c);
    double mean = 0.0;
    for (size_t i = 0; i < COLUMNS; i++) {
        for (size_t j = 0; j < COLUMNS; j++) {
            h[i * COLUMNS + j] = moment(p->quantized, p->quantized, i, j);
            c[i * COLUMNS + j] = moment(p->wanted, p->quantized, i, j);
        }
        mean += h[i * COLUMNS + i] / COLUMNS;
    }
    for (size_t n = 0; n < ROWS; n++) {
        for (size_t j = 0; j < COLUMNS; j++) {
            double left = damping * mean * (double)corrected[n * COLUMNS + j];
            double right = damping * mean * (double)weights[n * COLUMNS + j], size = 0.0;
            for (size_t i = 0; i < COLUMNS; i++) {
                left += (double)corrected[n * COLUMNS + i] * h[i * COLUMNS + j];
                right += (double)weights[n * COLUMNS + i] * c[i * COLUMNS + j];
                size += fabs((double)weights[n * COLUMNS + i] * h[i * COLUMNS + j]);
            }
            assert_true(fabs(left - right) <= 1e-4 * size);
        }
    }
    free(h);
    free(c);
}

static void test_corrected_weights_solve_their_equation(void **state)
{
    (void)state;
    sqf_random random = {.state = 31};
    const pair p = make_pair(&random);
    float *weights = make_weights(&random, ROWS, COLUMNS);
    int32_t channels[COLUMNS];
    for (int j = 0; j < COLUMNS; j++) {
        channels[j] = (j * 7) % COLUMNS;
    }
    float *first = NULL;
    for (unsigned threads = 1; threads <= 3; threads++) {
        sqf_context *context = make_context(threads);
        float *corrected = correct(context, &p, weights, channels, 0.02);
        check_equation(&p, weights, corrected, 0.02);
        if (first) {
            assert_memory_equal(first, corrected, (size_t)ROWS * COLUMNS * sizeof *first);
            free(corrected);
        } else {
            first = corrected;
        }
        sqf_context_destroy(context);
    }
    free(first);
    free(weights);
    free(p.wanted);
    free(p.quantized);
}

/* An input that is read as it should be asks for no other weights. */
static void test_exact_inputs_change_nothing(void **state)
{
    (void)state;
    sqf_random random = {.state = 32};
    pair p = make_pair(&random);
    memcpy(p.quantized, p.wanted, (size_t)TOKENS * COLUMNS * sizeof *p.quantized);
    float *weights = make_weights(&random, ROWS, COLUMNS);
    sqf_context *context = make_context(2);
    float *corrected = correct(context, &p, weights, NULL, 0.01);
    for (size_t i = 0; i < (size_t)ROWS * COLUMNS; i++) {
        assert_true(fabsf(corrected[i] - weights[i]) <= 1e-3f);
    }
    free(corrected);
    free(weights);
    free(p.wanted);
    free(p.quantized);
    sqf_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_corrected_weights_solve_their_equation),
        cmocka_unit_test(test_exact_inputs_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Layer beds: what is drawn has the statistics it says, and what is measured is what a literal computation gives. */
#include "check.h"

#include <math.h>

#include <sqf/bed.h>

enum { ROWS = 16, COLUMNS = 64, TOKENS = 256 };

static sqf_context *make_context(void)
{
    sqf_context *context;
    sqf_error err = {0};
    sqf_context_options options = sqf_context_options_default();
    options.threads = 2;
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    return context;
}

static sqf_layer_bed_options small_options(sqf_bed_activations activations)
{
    sqf_layer_bed_options options = sqf_layer_bed_options_default();
    options.rows = ROWS;
    options.columns = COLUMNS;
    options.calibration_tokens = options.held_out_tokens = TOKENS;
    options.activations = activations;
    options.outlier_share = 0.03;
    options.massive_share = 0.01;
    return options;
}

static sqf_status measure(sqf_context *context, const sqf_layer_data *data, const char *yaml, sqf_layer_errors *errors,
                          sqf_error *err)
{
    sqf_recipe *recipe;
    assert_ok(sqf_recipe_parse(yaml, strlen(yaml), "recipe", &recipe, err), err);
    const sqf_status status = sqf_bed_layer_measure(context, data, recipe, 0, NULL, errors, err);
    sqf_recipe_destroy(recipe);
    return status;
}

/* n numbers rounded to `limit` steps on either side, by their largest magnitude. */
static void round_all(const float *x, size_t n, float limit, float *out)
{
    float largest = 0.0f;
    for (size_t i = 0; i < n; i++) {
        largest = fmaxf(largest, fabsf(x[i]));
    }
    const float scale = largest / limit;
    for (size_t i = 0; i < n; i++) {
        out[i] = scale > 0.0f ? rintf(x[i] / scale) * scale : 0.0f;
    }
}

/* ||Y - Y'||^2 / ||Y||^2 of rounding weights row by row and inputs token by token, in doubles. */
static double literal_error(const sqf_layer_data *d, float weight_limit, float act_limit)
{
    static float w[ROWS * COLUMNS], x[COLUMNS];
    double error = 0, square = 0;
    for (size_t n = 0; n < ROWS; n++) {
        round_all(d->weights + n * COLUMNS, COLUMNS, weight_limit, w + n * COLUMNS);
    }
    for (size_t t = 0; t < TOKENS; t++) {
        const float *token = d->held_out + t * COLUMNS;
        round_all(token, COLUMNS, act_limit, x);
        for (size_t n = 0; n < ROWS; n++) {
            double exact = 0, found = 0;
            for (size_t k = 0; k < COLUMNS; k++) {
                exact += (double)token[k] * (double)d->weights[n * COLUMNS + k];
                found += (double)x[k] * (double)w[n * COLUMNS + k];
            }
            error += (found - exact) * (found - exact);
            square += exact * exact;
        }
    }
    return error / square;
}

static void test_held_out_error_is_that_of_a_literal_computation(void **state)
{
    sqf_context *context = make_context();
    (void)state;
    for (int kind = SQF_BED_GAUSSIAN; kind <= SQF_BED_MIXED; kind++) {
        const sqf_layer_bed_options options = small_options((sqf_bed_activations)kind);
        sqf_layer_data data;
        sqf_layer_errors errors;
        sqf_error err = {0};
        assert_ok(sqf_bed_layer_draw(&options, &data, &err), &err);
        assert_ok(measure(context, &data,
                          "scheme: W8A8\nbank_weights: row\nscale_type: fp32\nsmooth: off\ncompensate: none\n", &errors,
                          &err),
                  &err);
        const double literal = literal_error(&data, 127.0f, 127.0f);
        if (fabs(errors.held_out / literal - 1) > 0.02) {
            fail_msg("kind %d: held-out error %g, literally %g", kind, errors.held_out, literal);
        }
        sqf_bed_layer_clear(&data);
    }
    sqf_context_destroy(context);
}

static void test_nothing_quantized_is_no_error(void **state)
{
    sqf_context *context = make_context();
    const sqf_layer_bed_options options = small_options(SQF_BED_MIXED);
    sqf_layer_data data;
    sqf_layer_errors errors;
    sqf_error err = {0};
    (void)state;
    assert_ok(sqf_bed_layer_draw(&options, &data, &err), &err);
    assert_ok(measure(context, &data, "scheme: low=fp32\n", &errors, &err), &err);
    assert_true(errors.held_out < 1e-11 && errors.worst_token < 1e-11);
    /* the quantizer's own figure, through the Hessian, and ours through the kernels are of the same thing */
    assert_ok(measure(context, &data, "scheme: W4A16\nsmooth: off\n", &errors, &err), &err);
    assert_true(fabs(errors.calibration / errors.weights_alone - 1) < 1e-3);
    sqf_bed_layer_clear(&data);
    sqf_context_destroy(context);
}

static void test_outlier_channels_need_smoothing_a_mask_or_groups(void **state)
{
    static const char *const cures[] = {"scheme: W4A4\nsmooth: 0.5\n", "scheme: W4A(SQ6)\nsmooth: off\nmask: max\n",
                                        "scheme: W4A4\nsmooth: off\nact_scale: group\nact_group: 8\n"};
    sqf_context *context = make_context();
    const sqf_layer_bed_options options = small_options(SQF_BED_CHANNELS);
    sqf_layer_data data;
    sqf_layer_errors plain, errors;
    sqf_error err = {0};
    (void)state;
    assert_ok(sqf_bed_layer_draw(&options, &data, &err), &err);
    assert_ok(measure(context, &data, "scheme: W4A4\nsmooth: off\n", &plain, &err), &err);
    for (size_t i = 0; i < sizeof cures / sizeof *cures; i++) {
        assert_ok(measure(context, &data, cures[i], &errors, &err), &err);
        if (errors.median_token > 0.7 * plain.median_token) {
            fail_msg("%s: median token %g, without it %g", cures[i], errors.median_token, plain.median_token);
        }
    }
    assert_true(errors.low_rate_share == 1 && errors.stored_bits > 4 && errors.activations_equivalent_bits == 4);
    sqf_bed_layer_clear(&data);
    sqf_context_destroy(context);
}

/* rms of each channel of the held-out tokens, ascending. */
static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void sorted_rms(const sqf_layer_data *d, float rms[COLUMNS])
{
    for (size_t k = 0; k < COLUMNS; k++) {
        double sum = 0;
        for (size_t t = 0; t < TOKENS; t++) {
            sum += pow((double)d->held_out[t * COLUMNS + k], 2);
        }
        rms[k] = (float)sqrt(sum / TOKENS);
    }
    qsort(rms, COLUMNS, sizeof *rms, compare_floats);
}

static void test_drawn_activations_have_the_statistics_that_they_promise(void **state)
{
    sqf_layer_bed_options options = small_options(SQF_BED_CHANNELS);
    sqf_layer_data data, other;
    sqf_error err = {0};
    float rms[COLUMNS];
    (void)state;
    assert_ok(sqf_bed_layer_draw(&options, &data, &err), &err);
    sorted_rms(&data, rms);
    assert_true(rms[COLUMNS / 2] > 0.7f && rms[COLUMNS / 2] < 1.4f);
    assert_true(rms[COLUMNS - 2] > 19.0f && rms[COLUMNS - 1] < 110.0f && rms[COLUMNS - 3] < 6.0f);
    assert_memory_not_equal(data.calibration, data.held_out, TOKENS * COLUMNS * sizeof(float));
    assert_ok(sqf_bed_layer_draw(&options, &other, &err), &err);
    assert_memory_equal(data.held_out, other.held_out, TOKENS * COLUMNS * sizeof(float));
    sqf_bed_layer_clear(&other);
    sqf_bed_layer_clear(&data);
    options = small_options(SQF_BED_TOKENS);
    assert_ok(sqf_bed_layer_draw(&options, &data, &err), &err);
    size_t massive = 0;
    for (size_t t = 0; t < TOKENS; t++) {
        float largest = 0;
        for (size_t k = 0; k < COLUMNS; k++) {
            largest = fmaxf(largest, fabsf(data.held_out[t * COLUMNS + k]));
        }
        massive += largest > 500.0f;
    }
    assert_int_equal(massive, 3); /* 0.01 of 256, rounded up */
    sqf_bed_layer_clear(&data);
}

static void test_wrong_shapes_and_numbers_are_refused(void **state)
{
    sqf_context *context = make_context();
    sqf_layer_bed_options options = small_options(SQF_BED_GAUSSIAN);
    sqf_layer_data data;
    sqf_layer_errors errors;
    sqf_error err;
    (void)state;
    options.rows = 20;
    assert_fails(sqf_bed_layer_draw(&options, &data, &err), SQF_E_ARG, &err, "rows: expected a multiple of 8");
    options = small_options(SQF_BED_GAUSSIAN);
    options.held_out_tokens = 100;
    assert_fails(sqf_bed_layer_draw(&options, &data, &err), SQF_E_ARG, &err, "held-out tokens: expected a multiple");
    options = small_options(SQF_BED_GAUSSIAN);
    options.outlier_share = 0.6;
    assert_fails(sqf_bed_layer_draw(&options, &data, &err), SQF_E_ARG, &err, "expected 0 to 0.5, found 0.6");
    options = small_options(SQF_BED_GAUSSIAN);
    assert_ok(sqf_bed_layer_draw(&options, &data, &err), &err);
    data.held_out[5 * COLUMNS] = NAN;
    assert_fails(measure(context, &data, "scheme: W4A4\n", &errors, &err), SQF_E_VALUE, &err, "held-out token 5");
    sqf_bed_layer_clear(&data);
    sqf_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_held_out_error_is_that_of_a_literal_computation),
        cmocka_unit_test(test_nothing_quantized_is_no_error),
        cmocka_unit_test(test_outlier_channels_need_smoothing_a_mask_or_groups),
        cmocka_unit_test(test_drawn_activations_have_the_statistics_that_they_promise),
        cmocka_unit_test(test_wrong_shapes_and_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

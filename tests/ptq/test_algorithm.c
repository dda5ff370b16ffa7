/* Statistics, smoothing factors, activation masks, the factor of the Hessian: each against its definition. */
#include "literal_gptq.h"

static sqf_context *context;

static bool close_to(double found, double expected, double tolerance)
{
    return fabs(found - expected) <= tolerance * (1e-30 + fabs(expected));
}

/* Both tile sizes, with and without a tail tile. */
static void test_statistics_are_the_sums_over_all_tokens(void **state)
{
    (void)state;
    static const size_t widths[] = {1, 128, 300, 2050};
    sqf_random random = {test_seed("statistics", 3)};
    for (size_t w = 0; w < 4; w++) {
        const size_t n = widths[w], tokens = 90;
        float *x = make_inputs(&random, tokens, n);
        sqf_statistics s;
        sqf_error err = {0};
        assert_ok(sqf_statistics_create(n, true, &s, &err), &err);
        assert_ok(sqf_statistics_add(context, &s, x, 50, &err), &err);
        assert_ok(sqf_statistics_add(context, &s, x + 50 * n, 40, &err), &err);
        sqf_statistics_finish(context, &s);
        assert_int_equal(s.tokens, tokens);
        for (size_t i = 0; i < n; i += 1 + n / 67) {
            double sum = 0.0, sum_abs = 0.0, largest = 0.0;
            for (size_t t = 0; t < tokens; t++) {
                const double value = (double)x[t * n + i];
                sum += value;
                sum_abs += fabs(value);
                largest = fmax(largest, fabs(value));
            }
            assert_true(close_to(s.sum[i], sum, 1e-9) && close_to(s.sum_abs[i], sum_abs, 1e-12));
            assert_true((double)s.max_abs[i] == largest);
            for (size_t j = 0; j < n; j += 1 + n / 71) {
                double product = 0.0, scale = 0.0;
                for (size_t t = 0; t < tokens; t++) {
                    product += (double)x[t * n + i] * (double)x[t * n + j];
                    scale += fabs((double)x[t * n + i] * (double)x[t * n + j]);
                }
                assert_true(fabs((double)s.hessian[i * n + j] - 2.0 * product / (double)tokens) <=
                            2e-6 * scale / (double)tokens);
                assert_true(s.hessian[i * n + j] == s.hessian[j * n + i]);
            }
            assert_true(close_to(s.sum_square[i], (double)s.hessian[i * n + i] * (double)tokens / 2.0, 1e-5));
        }
        sqf_statistics_clear(&s);
        free(x);
    }
}

static void test_activations_that_are_no_numbers_are_named(void **state)
{
    (void)state;
    float x[6] = {1.0f, 2.0f, 3.0f, 4.0f, INFINITY, 6.0f};
    sqf_statistics s;
    sqf_error err = {0};
    assert_ok(sqf_statistics_create(3, false, &s, &err), &err);
    assert_null(s.hessian);
    assert_fails(sqf_statistics_add(context, &s, x, 2, &err), SQF_E_VALUE, &err, "activation channel 1");
    sqf_statistics_clear(&s);
    assert_ok(sqf_statistics_create(3, true, &s, &err), &err);
    x[4] = 0.0f;
    x[2] = NAN;
    assert_fails(sqf_statistics_add(context, &s, x, 2, &err), SQF_E_VALUE, &err, "activation channel 2");
    sqf_statistics_clear(&s);
    assert_fails(sqf_statistics_create(SIZE_MAX / 2, true, &s, &err), SQF_E_SHAPE, &err, "Hessian of");
}

/* Smoothing statistics equals statistics of smoothed inputs. */
static void test_smoothed_statistics_are_those_of_smoothed_inputs(void **state)
{
    (void)state;
    enum { N = 300, TOKENS = 60 };
    sqf_random random = {test_seed("smooth", 4)};
    float *x = make_inputs(&random, TOKENS, N), factors[N];
    sqf_statistics s = make_statistics(context, x, TOKENS, N);
    for (size_t j = 0; j < N; j++) {
        factors[j] = 0.5f + 3.0f * (float)sqf_random_unit(&random);
    }
    for (size_t i = 0; i < (size_t)N * TOKENS; i++) {
        x[i] /= factors[i % N];
    }
    sqf_statistics_smooth(context, &s, factors);
    sqf_statistics expected = make_statistics(context, x, TOKENS, N);
    for (size_t i = 0; i < N; i++) {
        assert_true(close_to((double)s.max_abs[i], (double)expected.max_abs[i], 1e-6));
        assert_true(close_to(s.sum_abs[i], expected.sum_abs[i], 1e-6));
        assert_true(fabs(s.sum[i] - expected.sum[i]) < 1e-5 * expected.sum_abs[i]);
        assert_true(close_to(s.sum_square[i], expected.sum_square[i], 1e-6));
        for (size_t j = 0; j < N; j++) {
            const double size = sqrt((double)expected.hessian[i * N + i] * (double)expected.hessian[j * N + j]);
            assert_true(fabs((double)s.hessian[i * N + j] - (double)expected.hessian[i * N + j]) < 2e-5 * size);
            assert_true(s.hessian[i * N + j] == s.hessian[j * N + i]);
        }
    }
    sqf_statistics_clear(&s);
    sqf_statistics_clear(&expected);
    free(x);
}

/* Statistics without a Hessian and of few channels, to be filled by hand. */
static sqf_statistics hand_statistics(size_t channels, const float *max_abs)
{
    sqf_statistics s;
    sqf_error err = {0};
    assert_ok(sqf_statistics_create(channels, false, &s, &err), &err);
    s.tokens = 4;
    memcpy(s.max_abs, max_abs, channels * sizeof *max_abs);
    return s;
}

static void test_smooth_factors_balance_activations_and_all_weights_that_read_them(void **state)
{
    (void)state;
    static const float largest[6] = {16.0f, 4.0f, 0.0f, 1.0f, 1e20f, 2.0f};
    static const float q[2 * 6] = {1.0f, -0.5f, 1.0f, 0.0f, 1e-20f, 0.25f, -4.0f, 0.25f, 1.0f, 0.0f, 0.0f, 0.0f};
    static const float k[1 * 6] = {0.5f, 1.0f, 2.0f, 0.0f, 0.0f, -8.0f};
    const float *weights[] = {q, k};
    const size_t rows[] = {2, 1};
    /* alpha 0.5: sqrt(16 / 4), sqrt(4 / 1), dead, no weight, clamped, sqrt(2 / 8) */
    static const float expected[6] = {2.0f, 2.0f, 1.0f, 1.0f, 1e5f, 0.5f};
    sqf_statistics s = hand_statistics(6, largest);
    float factors[6];
    sqf_error err = {0};
    assert_ok(sqf_smooth_factors(&s, weights, rows, 2, 0.5f, factors, &err), &err);
    for (size_t j = 0; j < 6; j++) {
        assert_true(close_to((double)factors[j], (double)expected[j], 1e-6));
    }
    assert_ok(sqf_smooth_factors(&s, weights, rows, 2, 1.0f, factors, &err), &err);
    assert_true(close_to((double)factors[0], 16.0, 1e-6));
    sqf_statistics_clear(&s);
}

/* Each score puts another channel of the first bank on top. */
static void test_each_mask_score_ranks_by_its_own_definition(void **state)
{
    (void)state;
    static const float largest[8] = {9.0f, 1.0f, 2.0f, 4.0f, 1.0f, 1.0f, 1.0f, 1.0f};
    static const double sum_abs[8] = {4.0, 4.0, 9.0, 4.0, 4.0, 4.0, 4.0, 4.0};
    static const double sum_square[8] = {81.0, 4.0, 4.0, 16.0, 4.0, 4.0, 4.0, 4.0};
    static const float a[2 * 8] = {0.1f, 3.0f, -2.0f, 2.1f,  1.0f, 1.0f, 1.0f, 1.0f,
                                   0.1f, 3.0f, 1.5f,  -2.1f, 1.0f, 1.0f, 1.0f, 2.0f};
    static const float b[1 * 8] = {0.1f, -0.5f, -0.1f, 3.0f, 1.0f, 1.0f, 1.0f, 1.0f};
    const float *weights[] = {a, b};
    const size_t rows[] = {2, 1};
    static const struct {
        sqf_mask_score score;
        int32_t first, second;
    } cases[] = {
        /* mean 1, 1, 2.25, 1 times the column sums' 0.3, 5.5, 0.6, 3.0 */
        {SQF_MASK_SCORE_PAPER, 1, 7},
        /* the same means times 0.3, 6.5, 3.6, 7.2 */
        {SQF_MASK_SCORE_L1, 2, 7},
        /* squared: 20.25, 1, 1, 4 times 0.03, 18.25, 6.26, 17.82 */
        {SQF_MASK_SCORE_L2, 3, 7},
        {SQF_MASK_SCORE_MAX, 0, 4},
        /* squared: 81, 1, 4, 16 times the same */
        {SQF_MASK_SCORE_MAXL2, 3, 7},
    };
    const sqf_act_spec spec = {
        .low = SQF_TYPE_INT4, .high = SQF_TYPE_INT8, .bank = 4, .high_per_bank = 1, .clip = 1.0f};
    sqf_statistics s = hand_statistics(8, largest);
    memcpy(s.sum_abs, sum_abs, sizeof sum_abs);
    memcpy(s.sum_square, sum_square, sizeof sum_square);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t channels[8];
        size_t border;
        sqf_error err = {0};
        assert_ok(sqf_activation_mask(&s, &spec, cases[i].score, weights, rows, 2, 0, channels, &border, &err), &err);
        assert_int_equal(border, 6);
        assert_ok(sqf_channels_check(channels, 8, border, &spec, "mask", &err), &err);
        assert_int_equal(channels[6], cases[i].first);
        assert_int_equal(channels[7], cases[i].second);
    }
    sqf_statistics_clear(&s);
}

static void test_random_masks_follow_the_seed_and_keep_the_count_of_a_tail(void **state)
{
    (void)state;
    enum { N = 1000 };
    const sqf_act_spec spec = {
        .low = SQF_TYPE_INT4, .high = SQF_TYPE_INT8, .bank = 16, .high_per_bank = 4, .clip = 1.0f};
    static const float largest[N];
    sqf_statistics s = hand_statistics(N, largest);
    int32_t first[N], again[N], other[N];
    size_t border;
    sqf_error err = {0};
    const sqf_mask_score score = SQF_MASK_SCORE_RANDOM;
    assert_ok(sqf_activation_mask(&s, &spec, score, NULL, NULL, 0, 5, first, &border, &err), &err);
    assert_int_equal(border, sqf_act_low_channels(&spec, N));
    assert_ok(sqf_channels_check(first, N, border, &spec, "mask", &err), &err);
    assert_ok(sqf_activation_mask(&s, &spec, score, NULL, NULL, 0, 5, again, &border, &err), &err);
    assert_ok(sqf_activation_mask(&s, &spec, score, NULL, NULL, 0, 6, other, &border, &err), &err);
    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, other, sizeof first);
    sqf_statistics_clear(&s);
}

static void test_mask_scores_that_are_no_numbers_are_refused(void **state)
{
    (void)state;
    const sqf_act_spec spec = {
        .low = SQF_TYPE_INT4, .high = SQF_TYPE_INT8, .bank = 2, .high_per_bank = 1, .clip = 1.0f};
    static const float largest[2] = {1.0f, 1.0f};
    const float w[2] = {1.0f, NAN};
    const float *weights[] = {w};
    const size_t rows[] = {1};
    sqf_statistics s = hand_statistics(2, largest);
    int32_t channels[2];
    size_t border;
    sqf_error err;
    assert_fails(sqf_activation_mask(&s, &spec, SQF_MASK_SCORE_L2, weights, rows, 1, 0, channels, &border, &err),
                 SQF_E_VALUE, &err, "channel 1");
    sqf_statistics_clear(&s);
}

/* Reversed order as the permutation: nothing of it may be taken for the natural one. */
static int32_t *reversed_channels(size_t n)
{
    int32_t *channels = make_array(n, sizeof *channels);
    for (size_t j = 0; j < n; j++) {
        channels[j] = (int32_t)(n - 1 - j);
    }
    return channels;
}

static void check_factor(size_t n, bool permuted, sqf_random *random)
{
    float *x = make_inputs(random, 400, n);
    sqf_statistics s = make_statistics(context, x, 400, n);
    int32_t *channels = permuted ? reversed_channels(n) : NULL;
    sqf_factor f;
    sqf_error err = {0};
    assert_ok(sqf_factor_create(context, "input", s.hessian, n, channels, 0.01, &f, &err), &err);
    assert_true(f.damping == 0.01 && f.retries == 0);
    double *u = literal_inverse(s.hessian, n, channels, 0.01);
    for (size_t j = 0; j < n; j++) {
        assert_true(close_to((double)f.inverse_diagonal[j], u[j * n + j], 1e-3));
        const size_t from = channels ? (size_t)channels[j] : j;
        assert_true(f.hessian_diagonal[j] == s.hessian[from * n + from] && f.dead[j] == 0);
    }
    literal_cholesky_upper(u, n);
    double largest = 0.0, deviation = 0.0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            assert_true(j >= i || f.upper[i * n + j] == 0.0f);
            largest = fmax(largest, fabs(u[i * n + j]));
            deviation = fmax(deviation, fabs((double)f.upper[i * n + j] - u[i * n + j]));
        }
    }
    assert_true(deviation < 1e-4 * largest);
    free(u);
    free(channels);
    free(x);
    sqf_factor_clear(&f);
    sqf_statistics_clear(&s);
}

/* One tile, exactly one, several with a tail. */
static void test_the_factor_is_the_upper_cholesky_factor_of_the_inverse(void **state)
{
    (void)state;
    sqf_random random = {test_seed("factor", 6)};
    static const size_t sizes[] = {1, 5, 256, 257, 700};
    for (size_t i = 0; i < 5; i++) {
        check_factor(sizes[i], false, &random);
        check_factor(sizes[i], true, &random);
    }
}

/* What the log said last. */
static char logged[256];
static unsigned warnings;

static void keep_log(void *user, sqf_log_level level, const char *line)
{
    (void)user;
    if (level == SQF_LOG_WARNING) {
        warnings++;
        snprintf(logged, sizeof logged, "%s", line);
    }
}

/* v v^T minus a little: one eigenvalue is -0.05 * mean(diag), which damping 0.1 covers and 0.01 does not. */
static void test_an_indefinite_hessian_raises_the_damping_and_says_so(void **state)
{
    (void)state;
    enum { N = 40 };
    float h[N * N];
    for (size_t i = 0; i < N * N; i++) {
        h[i] = i % (N + 1) == 0 ? 1.0f : 0.0f;
    }
    h[1] = h[N] = 1.05f; /* eigenvalues 2.05 and -0.05 */
    sqf_context_options options = sqf_context_options_default();
    options.log = keep_log;
    options.threads = 2;
    sqf_context *own;
    sqf_factor f;
    sqf_error err = {0};
    assert_ok(sqf_context_create(&options, &own, &err), &err);
    assert_ok(sqf_factor_create(own, "layers.3.down", h, N, NULL, 0.01, &f, &err), &err);
    assert_int_equal(f.retries, 1);
    assert_int_equal(warnings, 1);
    assert_true(close_to(f.damping, 0.1, 1e-9));
    assert_non_null(strstr(logged, "layers.3.down"));
    assert_non_null(strstr(logged, "0.1"));
    sqf_factor_clear(&f);
    assert_ok(sqf_factor_create(own, "undamped", h, N, NULL, 0.0, &f, &err), &err);
    assert_int_equal(f.retries, 2);
    sqf_factor_clear(&f);

    h[1] = h[N] = 100.0f; /* beyond the last retry, damping 10 */
    assert_fails(sqf_factor_create(own, "layers.3.down", h, N, NULL, 0.01, &f, &err), SQF_E_VALUE, &err,
                 "layers.3.down: Hessian of 40 channels is not positive definite");
    assert_null(f.upper);
    h[1] = h[N] = NAN;
    assert_fails(sqf_factor_create(own, "layers.3.down", h, N, NULL, 0.01, &f, &err), SQF_E_VALUE, &err,
                 "not positive definite");
    h[2 * N + 2] = NAN;
    assert_fails(sqf_factor_create(own, "layers.3.down", h, N, NULL, 0.01, &f, &err), SQF_E_VALUE, &err,
                 "layers.3.down: Hessian diagonal of channel 2 is nan");
    h[2 * N + 2] = -1.0f;
    assert_fails(sqf_factor_create(own, "layers.3.down", h, N, NULL, 0.01, &f, &err), SQF_E_VALUE, &err, "channel 2");
    sqf_context_destroy(own);
}

static void test_dead_channels_are_marked_in_stored_order(void **state)
{
    (void)state;
    enum { N = 30, TOKENS = 90 };
    sqf_random random = {test_seed("dead", 8)};
    float *x = make_inputs(&random, TOKENS, N);
    for (size_t t = 0; t < TOKENS; t++) {
        x[t * N + 4] = 0.0f;
    }
    sqf_statistics s = make_statistics(context, x, TOKENS, N);
    int32_t *channels = reversed_channels(N);
    sqf_factor f;
    sqf_error err = {0};
    assert_ok(sqf_factor_create(context, "input", s.hessian, N, channels, 0.01, &f, &err), &err);
    for (size_t j = 0; j < N; j++) {
        assert_int_equal(f.dead[j], channels[j] == 4);
    }
    sqf_factor_clear(&f);

    /* all dead: the identity */
    memset(s.hessian, 0, sizeof(float) * N * N);
    assert_ok(sqf_factor_create(context, "input", s.hessian, N, NULL, 0.01, &f, &err), &err);
    for (size_t j = 0; j < N; j++) {
        assert_true(f.dead[j] == 1 && f.upper[j * N + j] == 1.0f && f.inverse_diagonal[j] == 1.0f);
    }
    sqf_factor_clear(&f);
    sqf_statistics_clear(&s);
    free(channels);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statistics_are_the_sums_over_all_tokens),
        cmocka_unit_test(test_activations_that_are_no_numbers_are_named),
        cmocka_unit_test(test_smoothed_statistics_are_those_of_smoothed_inputs),
        cmocka_unit_test(test_smooth_factors_balance_activations_and_all_weights_that_read_them),
        cmocka_unit_test(test_each_mask_score_ranks_by_its_own_definition),
        cmocka_unit_test(test_random_masks_follow_the_seed_and_keep_the_count_of_a_tail),
        cmocka_unit_test(test_mask_scores_that_are_no_numbers_are_refused),
        cmocka_unit_test(test_the_factor_is_the_upper_cholesky_factor_of_the_inverse),
        cmocka_unit_test(test_an_indefinite_hessian_raises_the_damping_and_says_so),
        cmocka_unit_test(test_dead_channels_are_marked_in_stored_order),
    };
    context = make_context(2);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sqf_context_destroy(context);
    return failed;
}

/* Rotations: orthogonal matrices of every size, models that compute the same function in another basis, and stored
 * rotations that a reader must refuse. */
#include "model/edit.h"
#include "small.h"

#include "ptq/rotation/basis.h"
#include "ptq/rotation/learn.h"
#include "ptq/rotation/orthogonal.h"

/* ---- matrices ---- */

/* Largest deviation of Q^T Q from the unit matrix. */
static double deviation(const double *q, size_t n)
{
    double worst = 0.0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = i == j ? -1.0 : 0.0;
            for (size_t k = 0; k < n; k++) {
                sum += q[k * n + i] * q[k * n + j];
            }
            worst = fmax(worst, fabs(sum));
        }
    }
    return worst;
}

static void hadamard_and_random_matrices_are_orthogonal(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 7, 20, 28, 36, 40, 96, 172, 256, 768};
    sqf_error err;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const size_t n = sizes[i];
        double *q = calloc(n * n, sizeof *q);
        must(sqf_hadamard_fill(n, 3, true, q, &err), &err);
        assert_true(deviation(q, n) < 1e-12);
        must(sqf_orthogonal_random(n, 3, q, &err), &err);
        assert_true(deviation(q, n) < 1e-12);
        free(q);
    }
}

static void factors_are_hadamard_matrices_where_paley_has_one(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{256, 1},    {768, 12}, {96, 12}, {172, 43},   {7, 7},
                                      {14336, 28}, {20, 20},  {36, 36}, {11008, 43}, {1, 1}};
    sqf_error err;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const size_t factor = sizes[i][1];
        assert_int_equal(sqf_hadamard_factor(sizes[i][0]), factor);
        double *m = calloc(factor * factor, sizeof *m), worst = 0.0;
        must(sqf_hadamard_factor_fill(factor, 1, m, &err), &err);
        for (size_t k = 0; k < factor * factor; k++) {
            worst = fmax(worst, fabs(fabs(m[k]) * sqrt((double)factor) - 1.0));
        }
        assert_true(deviation(m, factor) < 1e-12);
        assert_true(worst < 1e-12 || factor == 43 || factor == 7); /* all elements alike, where a matrix is known */
        free(m);
    }
}

/* ---- bases ---- */

static sqf_act_spec activations_of(const char *name)
{
    sqf_error err;
    sqf_scheme scheme;
    must(sqf_scheme_parse(name, &scheme, &err), &err);
    return scheme.activations;
}

static void principal_components_fill_the_quota_of_every_bank(void **state)
{
    (void)state;
    enum { N = 40 }; /* banks of 16, 16 and 8 with 4, 4 and 2 high channels */
    const sqf_act_spec act = activations_of("W4A(SQ5)");
    sqf_error err;
    int32_t order[N];
    float covariance[N * N] = {0};
    double q[N * N];
    assert_int_equal(sqf_basis_places(&act, N, order), 30);
    assert_int_equal(order[30], 12);
    assert_int_equal(order[39], 39);
    for (size_t i = 0; i < N; i++) {
        covariance[i * N + i] = i % 4 == 1 ? 100.0f : 1.0f; /* ten large channels */
    }
    must(sqf_basis_principal(&act, N, covariance, 9, q, &err), &err);
    assert_true(deviation(q, N) < 1e-12);
    for (size_t k = 0; k < N; k++) {
        double variance = 0.0;
        for (size_t i = 0; i < N; i++) {
            variance += q[i * N + (size_t)order[k]] * q[i * N + (size_t)order[k]] * (double)covariance[i * N + i];
        }
        assert_true(fabs(variance - (k < 30 ? 1.0 : 100.0)) < 1e-3);
    }
}

/* Samples with a few channels that are always large: any rotation that mixes them makes the error smaller. */
static void learning_lowers_the_error_and_stays_orthogonal(void **state)
{
    (void)state;
    enum { N = 24, INPUTS = 2, TOKENS = 40 };
    const sqf_act_spec act = activations_of("W4A4");
    sqf_error err;
    sqf_random random = {test_seed("learn", 5)};
    sqf_context *contexts[2];
    double q[2][N * N] = {{0}}, weight[INPUTS] = {1.0, 0.5};
    sqf_learning learning[2];
    sqf_stream_sample sample = {.inputs = INPUTS, .tokens = TOKENS, .weight = weight};
    sample.statistics.channels = N;
    sample.values = calloc(SQF_STREAM_BATCHES * INPUTS * TOKENS * N, sizeof *sample.values);
    for (size_t i = 0; i < SQF_STREAM_BATCHES * INPUTS * TOKENS * N; i++) {
        sample.values[i] = (float)((sqf_random_unit(&random) - 0.5) * (i % N < 3 ? 30.0 : 1.0));
    }
    for (unsigned i = 0; i < 2; i++) {
        const sqf_context_options options = {.threads = 1 + 2 * i};
        must(sqf_context_create(&options, &contexts[i], &err), &err);
        for (size_t k = 0; k < N; k++) {
            q[i][k * N + k] = 1.0;
        }
        must(sqf_basis_learn(contexts[i], &act, &sample, q[i], &learning[i], &err), &err);
        sqf_context_destroy(contexts[i]);
    }
    print_message("error of the inputs %g, learned %g\n", learning[0].before, learning[0].after);
    assert_true(learning[0].after < 0.5 * learning[0].before);
    assert_true(deviation(q[0], N) < 1e-12);
    assert_memory_equal(q[0], q[1], sizeof q[0]); /* whatever the number of threads */
    const sqf_act_spec floating = activations_of("W4A16");
    assert_int_equal(sqf_basis_learn(NULL, &floating, &sample, q[0], &learning[0], &err), SQF_E_ARG);
    free(sample.values);
}

/* ---- the same function in another basis ---- */

static void check_function(const small *s, const char *what, const char *yaml, double bound)
{
    small_must_quantize(s, yaml);
    const double error = small_error(s);
    print_message("%s, %s: %.2g\n", what, yaml, error);
    assert_true(error < bound);
}

static void check_model(const char *architecture, const char *type, bool tied, bool attention_bias, bool mlp_bias)
{
    static const char *const bases[] = {"hadamard", "random", "pca"};
    small s;
    json_t *config = small_config(architecture, type, tied);
    if (attention_bias) {
        json_object_set_new(config, "attention_bias", json_true());
    }
    if (mlp_bias) {
        json_object_set_new(config, "mlp_bias", json_true());
    }
    small_create_from(&s, config, SQF_DTYPE_BF16);
    json_decref(config);
    for (size_t i = 0; i < 3; i++) {
        char yaml[160];
        snprintf(yaml, sizeof yaml, "scheme: FP32\nrotate: %s\nrotate_values: %s\nrotate_down: %s\n", bases[i],
                 bases[(i + 1) % 3], bases[(i + 2) % 3]);
        check_function(&s, architecture, yaml, 2e-5);
    }
    check_function(&s, architecture, "scheme: W8A8\nrotate: learned\nrotate_down: random\n", 0.15);
    check_function(&s, architecture, "scheme: FP32\nrotate_values: random\n", 2e-5);
    check_function(&s, architecture, "scheme: FP32\nrotate_down: hadamard\n", 2e-5);
    check_function(&s, architecture, "scheme: FP32\nrotate: random\nrotate_down: blocks\n", 2e-5);
    check_function(&s, architecture, "scheme: BF16\nrotate: hadamard\n", 0.02);
    small_remove(&s);
}

static void unquantized_models_compute_the_same_in_any_basis(void **state)
{
    (void)state;
    check_model("LlamaForCausalLM", "llama", true, false, false);
    check_model("LlamaForCausalLM", "llama", false, true, true);
    check_model("Qwen2ForCausalLM", "qwen2", true, false, false);
    check_model("Qwen3ForCausalLM", "qwen3", false, true, false);
    check_model("MistralForCausalLM", "mistral", false, false, false);
}

static void modules_left_alone_are_turned_too(void **state)
{
    (void)state;
    small s;
    small_llama(&s);
    /* the embedding and the output matrix are stored as half floats */
    check_function(&s, "ignored", "scheme: W8A8\nrotate: hadamard\nignore:\n  - \"re:.*\"\n", 2e-3);
    small_remove(&s);
}

/* A static mask reorders down_proj's columns, which gate and up cannot do for a rotated input. */
static void masks_and_rotations_go_together(void **state)
{
    (void)state;
    small s;
    small_llama(&s);
    check_function(&s, "masked", "scheme: W8A(SQ6)\nact_low: int8\nrotate: pca\nrotate_down: pca\nmask: l2\n", 0.1);
    check_function(&s, "smoothed", "scheme: W8A8\nrotate: hadamard\nrotate_down: 'off'\nsmooth: 0.5\n", 0.15);
    small_remove(&s);
}

static void bytes_do_not_depend_on_threads(void **state)
{
    (void)state;
    small s;
    char other[160], command[400];
    small_llama(&s);
    small_must_quantize(&s, "scheme: W4A(SQ5)\nrotate: learned\nrotate_down: pca\nrotate_values: pca\n");
    snprintf(other, sizeof other, "%s-one", s.output);
    snprintf(command, sizeof command, "mv '%s' '%s'", s.output, other);
    assert_int_equal(system(command), 0);
    small_context(&s, 3);
    small_must_quantize(&s, "scheme: W4A(SQ5)\nrotate: learned\nrotate_down: pca\nrotate_values: pca\n");
    snprintf(command, sizeof command, "cmp '%s/model.safetensors' '%s/model.safetensors'", s.output, other);
    assert_int_equal(system(command), 0);
    small_remove(&s);
}

/* ---- refusals ---- */

static void expect_refused(const small *s, const char *yaml, bool calibrated, const char *message)
{
    sqf_error err = {0};
    sqf_quantize_options options = small_options(s);
    if (!calibrated) {
        options.calibration = NULL;
    }
    assert_int_equal(small_quantize(s, yaml, &options, NULL, &err), SQF_E_ARG);
    assert_non_null(strstr(err.text, message));
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    small s;
    small_llama(&s);
    expect_refused(&s, "scheme: W4A8\nrotate: pca\n", false, "needs calibration text");
    expect_refused(&s, "scheme: W4A8\nrotate_values: pca\n", false, "needs calibration text");
    expect_refused(&s, "scheme: W4A16\nrotate: learned\n", true, "expected activations of integers");
    expect_refused(&s, "scheme: W4A8\nrotate: hadamard\nsmooth: 0.5\n", true, "behind rotate_down");
    expect_refused(&s, "scheme: W4A8\noverrides:\n  - match: \".*down_proj\"\n    rotate: random\n", true,
                   "in the base recipe alone");
    small_remove(&s);
}

/* Replaces text in config.json and expects the model to be refused with a message. */
static void expect_bad_config(const small *s, const char *from, const char *to, const char *message)
{
    sqf_error err = {0};
    sqf_model *model;
    char command[700];
    snprintf(command, sizeof command, "cp '%s/config.json' '%s/kept' && sed -i 's/%s/%s/' '%s/config.json'", s->output,
             s->scratch, from, to, s->output);
    assert_int_equal(system(command), 0);
    assert_int_not_equal(sqf_model_open(s->context, s->output, &model, &err), SQF_OK);
    if (!strstr(err.text, message)) {
        fail_msg("expected '%s' in: %s", message, err.text);
    }
    snprintf(command, sizeof command, "cp '%s/kept' '%s/config.json'", s->scratch, s->output);
    assert_int_equal(system(command), 0);
}

static void hostile_configurations_are_refused(void **state)
{
    (void)state;
    small s;
    small_llama(&s);
    small_must_quantize(&s, "scheme: W4A8\nrotate: hadamard\n"); /* 76 = 2 (37 + 1): Paley has it whole */
    expect_bad_config(&s, "\"down_factor\": [0-9]*", "\"down_factor\": 5", "down_factor: expected a divisor of 76");
    expect_bad_config(&s, "\"down_factor\": [0-9]*", "\"down_factor\": 4194304", "expected a divisor of 76");
    expect_bad_config(&s, "\"down_factor\": [0-9]*", "\"down_factor\": 0", "down_factor");
    expect_bad_config(&s, "\"down_factor\": [0-9]*", "\"down_factor\": 19", "down_rotation");
    expect_bad_config(&s, "\"down\": \"hadamard\"", "\"down\": \"off\"", "expected none where down is off");
    expect_bad_config(&s, "\"down\": \"hadamard\"", "\"down\": 3", "down");
    expect_bad_config(&s, "\"values\": \"hadamard\"", "\"keys\": \"hadamard\"", "keys: an unknown member");
    expect_bad_config(&s, "\"rotation\": {", "\"rotatiom\": {", "rotatiom: an unknown member");
    small_remove(&s);
}

/* A tensor with a good hash that is no rotation. */
static void a_stored_factor_that_is_not_orthogonal_is_refused(void **state)
{
    (void)state;
    static const float factors[] = {0.5f, 0.0f, 3.0f};
    small s;
    sqf_error err = {0};
    sqf_model *model;
    char copy[64];
    small_create(&s, "LlamaForCausalLM", "llama", false, SQF_DTYPE_F32);
    small_must_quantize(&s, "scheme: FP32\nrotate: hadamard\n");
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        copy_scaled(s.output, copy, "model.layers.1.mlp.down_rotation", factors[i]);
        assert_int_equal(sqf_model_open(s.context, copy, &model, &err), SQF_E_VALUE);
        assert_non_null(strstr(err.text, "model.layers.1.mlp.down_rotation: row 0: expected a row of length 1"));
        remove_copy(copy);
    }
    copy_scaled(s.output, copy, "model.layers.1.mlp.down_rotation", NAN);
    assert_int_equal(sqf_model_open(s.context, copy, &model, &err), SQF_E_VALUE);
    assert_non_null(strstr(err.text, "expected a finite number"));
    remove_copy(copy);
    small_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hadamard_and_random_matrices_are_orthogonal),
        cmocka_unit_test(factors_are_hadamard_matrices_where_paley_has_one),
        cmocka_unit_test(principal_components_fill_the_quota_of_every_bank),
        cmocka_unit_test(learning_lowers_the_error_and_stays_orthogonal),
        cmocka_unit_test(unquantized_models_compute_the_same_in_any_basis),
        cmocka_unit_test(modules_left_alone_are_turned_too),
        cmocka_unit_test(masks_and_rotations_go_together),
        cmocka_unit_test(bytes_do_not_depend_on_threads),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(hostile_configurations_are_refused),
        cmocka_unit_test(a_stored_factor_that_is_not_orthogonal_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

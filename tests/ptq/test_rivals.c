/* Schemes and recipes of other methods: all of them run, outliers and block formats are stored as their names say, and
 * AWQ's search finds what trying out gives. */
#include <dirent.h>

#include "model/checkpoint.h"
#include "ptq/algorithm_data.h"
#include "ptq/small.h"
#include "ptq/smooth/awq.h"

static void test_every_rival_scheme_runs(void **state)
{
    (void)state;
    small s;
    size_t count;
    const sqf_scheme_entry *entries = sqf_scheme_rivals(&count);
    small_llama(&s);
    for (size_t i = 0; i < count; i++) {
        char yaml[SQF_SCHEME_TEXT + 16];
        snprintf(yaml, sizeof yaml, "scheme: '%s'\n", entries[i].name);
        small_must_quantize(&s, yaml);
        const double error = small_error(&s);
        print_message("%-56s %.4f\n", entries[i].name, error);
        assert_true(error < 1.6);
    }
    small_remove(&s);
}

/* The files in recipes/rivals. */
static void test_every_rival_recipe_runs(void **state)
{
    (void)state;
    small s;
    size_t count = 0;
    static const char directory[] = SQF_SOURCE_DIR "/recipes/rivals";
    DIR *files = opendir(directory);
    assert_non_null(files);
    small_llama(&s);
    for (const struct dirent *file; (file = readdir(files));) {
        char path[512];
        sqf_error err;
        sqf_recipe *recipe;
        const sqf_quantize_options options = small_options(&s);
        if (file->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof path, "%s/%s", directory, file->d_name);
        assert_ok(sqf_recipe_load(path, &recipe, &err), &err);
        assert_ok(sqf_quantize(s.context, s.model.path, s.output, recipe, &options, NULL, &err), &err);
        sqf_recipe_destroy(recipe);
        const double error = small_error(&s);
        print_message("%-56s %.4f\n", file->d_name, error);
        assert_true(error < 1.6);
        count++;
    }
    closedir(files);
    small_remove(&s);
    assert_true(count >= 10);
}

/* A stored module of s->output. */
static void load_module(const small *s, const char *module, size_t rows, size_t columns, sqf_checkpoint *checkpoint,
                        sqf_stored_linear *linear)
{
    sqf_error err;
    assert_ok(sqf_checkpoint_open(s->output, checkpoint, &err), &err);
    assert_ok(sqf_checkpoint_linear(checkpoint, s->context, module, rows, columns, linear, &err), &err);
}

static void test_outliers_have_the_whole_row_as_their_bank(void **state)
{
    (void)state;
    small s;
    small_llama(&s);
    small_must_quantize(&s, "scheme: 'W4A(SQ6)'\nact_outliers: 5\nmask: max\n");
    static const struct {
        const char *module;
        size_t rows, columns;
    } modules[] = {{"model.layers.1.self_attn.q_proj", 40, 40}, {"model.layers.2.mlp.down_proj", 40, 76}};
    for (size_t i = 0; i < 2; i++) {
        sqf_checkpoint checkpoint;
        sqf_stored_linear linear;
        load_module(&s, modules[i].module, modules[i].rows, modules[i].columns, &checkpoint, &linear);
        assert_int_equal(linear.scheme.activations.bank, modules[i].columns);
        assert_int_equal(linear.scheme.activations.high_per_bank, 5);
        assert_int_equal(linear.matrix.border, modules[i].columns - 5);
        sqf_stored_linear_clear(&linear);
        sqf_checkpoint_close(&checkpoint);
    }
    small_must_quantize(&s, "scheme: 'W4A(SQ6)'\nact_bank: row\nact_sparsity: 3/4\nmask: max\n");
    sqf_checkpoint checkpoint;
    sqf_stored_linear linear;
    load_module(&s, modules[1].module, 40, 76, &checkpoint, &linear);
    assert_int_equal(linear.matrix.border, 76 - 19);
    sqf_stored_linear_clear(&linear);
    sqf_checkpoint_close(&checkpoint);
    sqf_error err;
    const sqf_quantize_options options = small_options(&s);
    assert_fails(small_quantize(&s, "scheme: W4A8\nact_outliers: 5\n", &options, NULL, &err), SQF_E_ARG, &err,
                 "act_outliers: expected activations with a high type");
    small_remove(&s);
}

/* The unit of a matrix of fp8 scales: its largest weight sits at 6 * 448 units. */
static void test_nvfp4_scales_are_multiples_of_a_unit(void **state)
{
    (void)state;
    small s;
    small_llama(&s);
    small_must_quantize(&s, "scheme: NVFP4\nsmooth: 'off'\ncompensate: none\n");
    sqf_error err;
    sqf_checkpoint original, checkpoint;
    sqf_stored_linear linear;
    sqf_row row;
    float *weights, largest = 0.0f, largest_scale = 0.0f;
    load_module(&s, "model.layers.0.mlp.up_proj", 76, 40, &checkpoint, &linear);
    assert_ok(sqf_checkpoint_open(s.model.path, &original, &err), &err);
    assert_ok(sqf_checkpoint_floats(&original, "model.layers.0.mlp.up_proj.weight", 76, 40, &weights, &err), &err);
    for (size_t i = 0; i < (size_t)76 * 40; i++) {
        largest = fmaxf(largest, fabsf(weights[i]));
    }
    const float unit = linear.matrix.scale_unit[0];
    assert_true(fabsf(unit * 6.0f * 448.0f - largest) < 1e-5f * largest);
    assert_ok(sqf_row_create(&linear.matrix, &row, &err), &err);
    for (size_t n = 0; n < 76; n++) {
        sqf_matrix_unpack_row(&linear.matrix, n, &row);
        for (size_t g = 0; g < linear.matrix.group_count; g++) {
            const float multiple = row.scale_low[g] / unit;
            assert_true(fabsf(multiple - sqf_type_round(SQF_TYPE_FP8, multiple, 1.0f)) <= 1e-6f * multiple);
            largest_scale = fmaxf(largest_scale, multiple);
        }
    }
    assert_true(fabsf(largest_scale - 448.0f) < 1e-3f);
    sqf_row_clear(&row);
    free(weights);
    sqf_stored_linear_clear(&linear);
    sqf_checkpoint_close(&original);
    sqf_checkpoint_close(&checkpoint);
    small_remove(&s);
}

enum { TOKENS = 200, CHANNELS = 96, ROWS = 64 };

/* The sum over tokens of ||x W^T - (x / t) Q(W t)^T||^2 over that of ||x W^T||^2, from the tokens themselves. */
static double measured_error(sqf_context *context, const sqf_module_recipe *recipe, const float *x, const float *w,
                             const float *t)
{
    sqf_error err;
    float *scaled = make_floats(ROWS * CHANNELS), *row_values = make_floats(CHANNELS);
    for (size_t i = 0; i < (size_t)ROWS * CHANNELS; i++) {
        scaled[i] = w[i] * t[i % CHANNELS];
    }
    const sqf_matrix_job job = {.name = "trial",
                                .spec = recipe->scheme.weights,
                                .weights = scaled,
                                .rows = ROWS,
                                .columns = CHANNELS,
                                .border = CHANNELS,
                                .compensate = SQF_COMPENSATE_NONE,
                                .clip = recipe->clip};
    sqf_matrix m;
    sqf_row row;
    assert_ok(sqf_matrix_quantize(context, &job, &m, NULL, &err), &err);
    assert_ok(sqf_row_create(&m, &row, &err), &err);
    double error = 0.0, energy = 0.0;
    for (size_t n = 0; n < ROWS; n++) {
        sqf_matrix_dequantize_row(&m, n, &row, row_values);
        for (size_t i = 0; i < TOKENS; i++) {
            double y = 0.0, d = 0.0;
            for (size_t j = 0; j < CHANNELS; j++) {
                const double value = (double)x[i * CHANNELS + j];
                y += value * (double)w[n * CHANNELS + j];
                d += value * ((double)w[n * CHANNELS + j] - (double)row_values[j] / (double)t[j]);
            }
            error += d * d;
            energy += y * y;
        }
    }
    sqf_row_clear(&row);
    sqf_matrix_clear(&m);
    free(scaled);
    free(row_values);
    return error / energy;
}

/* mean|x_j|^alpha with the smallest times the largest 1. */
static void literal_factors(const float *x, double alpha, float *t)
{
    double least = INFINITY, most = 0.0;
    for (size_t j = 0; j < CHANNELS; j++) {
        double sum = 0.0;
        for (size_t i = 0; i < TOKENS; i++) {
            sum += fabs((double)x[i * CHANNELS + j]);
        }
        t[j] = (float)pow(sum / TOKENS, alpha);
        least = fmin(least, (double)t[j]);
        most = fmax(most, (double)t[j]);
    }
    for (size_t j = 0; j < CHANNELS; j++) {
        t[j] = (float)((double)t[j] / sqrt(least * most));
    }
}

/* One channel in 12 is 30 times as large as the others: what AWQ is for. */
static void test_awq_finds_the_exponent_that_trying_out_finds(void **state)
{
    (void)state;
    sqf_random random = {test_seed(__func__, 21)};
    sqf_context *context = make_context(2);
    float *x = make_inputs(&random, TOKENS, CHANNELS), *w = make_weights(&random, ROWS, CHANNELS);
    for (size_t i = 0; i < (size_t)TOKENS * CHANNELS; i++) {
        x[i] *= i % CHANNELS % 12 == 5 ? 30.0f : 1.0f;
    }
    sqf_statistics statistics = make_statistics(context, x, TOKENS, CHANNELS);
    sqf_scheme scheme;
    sqf_error err;
    assert_ok(sqf_scheme_parse("W3A16,group=32", &scheme, &err), &err);
    const sqf_module_recipe recipe = sqf_module_recipe_default(&scheme), *const recipes[] = {&recipe, NULL};
    const float *const weights[] = {w, w};
    const size_t rows[] = {ROWS, ROWS};
    const awq_search search = {&statistics, weights, rows, recipes, 2};
    float factors[CHANNELS], t[CHANNELS], alpha, best_alpha = 0.0f;
    assert_ok(awq_factors(context, &search, NULL, NULL, factors, &alpha, &err), &err);
    double best = INFINITY, plain = 0.0;
    for (int step = 0; step < 20; step++) {
        literal_factors(x, step / 20.0, t);
        const double error = measured_error(context, &recipe, x, w, t);
        plain = step == 0 ? error : plain;
        best_alpha = error < best ? (float)step / 20.0f : best_alpha;
        best = fmin(best, error);
    }
    const double found = measured_error(context, &recipe, x, w, factors);
    print_message("alpha %.2f (tried out: %.2f), error %.3g, without %.3g\n", (double)alpha, (double)best_alpha, found,
                  plain);
    assert_true(alpha > 0.0f && found < 0.5 * plain);
    assert_true(found < 1.001 * best);
    sqf_statistics_clear(&statistics);
    sqf_context_destroy(context);
    free(x);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_rival_scheme_runs),
        cmocka_unit_test(test_every_rival_recipe_runs),
        cmocka_unit_test(test_outliers_have_the_whole_row_as_their_bank),
        cmocka_unit_test(test_nvfp4_scales_are_multiples_of_a_unit),
        cmocka_unit_test(test_awq_finds_the_exponent_that_trying_out_finds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

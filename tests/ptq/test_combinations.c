/* Every named scheme under every choice that a recipe has: what is stored is valid, and the errors that quantization
 * reports are those of the stored weights. */
#include "algorithm_data.h"
#include "small.h"

/* ---- one matrix: weights x importance, prune, clip, compensation, order of channels ---- */

enum { ROWS = 9, COLUMNS = 160, TOKENS = 400 };

typedef struct data {
    sqf_context *contexts[2]; /* one thread, three threads */
    float *weights, *norm;
    sqf_statistics statistics;
    int32_t channels[COLUMNS];
    sqf_factor factors[2]; /* channels as they come, reordered */
} data;

static void make_data(data *d)
{
    sqf_error err;
    sqf_random random = {.state = 21};
    d->contexts[0] = make_context(1);
    d->contexts[1] = make_context(3);
    d->weights = make_weights(&random, ROWS, COLUMNS);
    float *x = make_inputs(&random, TOKENS, COLUMNS);
    d->statistics = make_statistics(d->contexts[0], x, TOKENS, COLUMNS);
    free(x);
    d->norm = make_floats(COLUMNS);
    for (size_t j = 0; j < COLUMNS; j++) {
        d->norm[j] = (float)sqrt(d->statistics.sum_square[j]);
        d->channels[j] = (int32_t)(j < COLUMNS / 2 ? 2 * j : 2 * (j - COLUMNS / 2) + 1); /* even ones, odd ones */
    }
    for (size_t i = 0; i < 2; i++) {
        assert_ok(sqf_factor_create(d->contexts[0], "layer", d->statistics.hessian, COLUMNS,
                                    i == 0 ? NULL : d->channels, 0.01, &d->factors[i], &err),
                  &err);
    }
}

static void free_data(data *d)
{
    free(d->weights);
    free(d->norm);
    sqf_statistics_clear(&d->statistics);
    for (size_t i = 0; i < 2; i++) {
        sqf_factor_clear(&d->factors[i]);
        sqf_context_destroy(d->contexts[i]);
    }
}

static double quadratic(const float *difference, const float *hessian)
{
    double sum = 0.0;
    for (size_t i = 0; i < COLUMNS; i++) {
        for (size_t j = 0; j < COLUMNS; j++) {
            sum += (double)difference[i] * (double)hessian[i * COLUMNS + j] * (double)difference[j];
        }
    }
    return sum;
}

/* The two errors from the stored matrix alone; every row must pass the reader's check. */
static sqf_matrix_result measure(const data *d, const sqf_matrix *matrix)
{
    sqf_error err;
    sqf_row row;
    float stored[COLUMNS];
    double weight = 0, weight_error = 0, output = 0, output_error = 0;
    assert_ok(sqf_row_create(matrix, &row, &err), &err);
    for (size_t n = 0; n < ROWS; n++) {
        const float *original = d->weights + n * COLUMNS;
        assert_ok(sqf_matrix_check_row(matrix, n, "layer", &err), &err);
        sqf_matrix_dequantize_row(matrix, n, &row, stored);
        for (size_t j = 0; j < COLUMNS; j++) {
            stored[j] = original[j] - stored[j];
            weight += (double)original[j] * (double)original[j];
            weight_error += (double)stored[j] * (double)stored[j];
        }
        output += quadratic(original, d->statistics.hessian);
        output_error += quadratic(stored, d->statistics.hessian);
    }
    sqf_row_clear(&row);
    return (sqf_matrix_result){.weight_error = weight_error / weight, .output_error = output_error / output};
}

static void expect_same_parts(const sqf_matrix *a, const sqf_matrix *b)
{
    sqf_matrix_part left[SQF_MATRIX_PARTS], right[SQF_MATRIX_PARTS];
    sqf_matrix first = *a, second = *b;
    const size_t count = sqf_matrix_parts(&first, left);
    assert_int_equal(sqf_matrix_parts(&second, right), count);
    for (size_t i = 0; i < count; i++) {
        assert_memory_equal(*left[i].data, *right[i].data, ROWS * left[i].row_bytes);
    }
}

static void describe_job(const sqf_matrix_job *job)
{
    char text[SQF_SCHEME_TEXT];
    const sqf_scheme scheme = {.weights = job->spec, .activations = {.low = SQF_TYPE_FP32, .clip = 1}};
    sqf_scheme_print(&scheme, SQF_SPELLING_LONG, text);
    print_message("%s importance %d prune %d clip %d compensate %d border %zu\n", text, (int)job->importance,
                  (int)job->prune, (int)job->clip, (int)job->compensate, job->border);
}

static bool agree(double a, double b)
{
    return fabs(a - b) <= 1e-4 * b + 1e-9;
}

static void check_job(const data *d, const sqf_matrix_job *job)
{
    sqf_error err;
    sqf_matrix matrices[2];
    sqf_matrix_result results[2];
    for (size_t i = 0; i < 2; i++) {
        assert_ok(sqf_matrix_quantize(d->contexts[i], job, &matrices[i], &results[i], &err), &err);
    }
    expect_same_parts(&matrices[0], &matrices[1]);
    const sqf_matrix_result want = measure(d, &matrices[0]);
    if (!agree(results[0].weight_error, want.weight_error) || !agree(results[0].output_error, want.output_error) ||
        !(want.output_error < 1.0)) {
        describe_job(job);
        fail_msg("weight error %g, stored %g; output error %g, stored %g", results[0].weight_error, want.weight_error,
                 results[0].output_error, want.output_error);
    }
    sqf_matrix_clear(&matrices[0]);
    sqf_matrix_clear(&matrices[1]);
}

/* All orders, compensations and clips of one specification with one way to rank elements. */
static void check_ranking(const data *d, const sqf_weight_spec *spec, sqf_importance importance, sqf_prune prune)
{
    for (unsigned choice = 0; choice < 8; choice++) {
        const bool reordered = choice & 4;
        const sqf_matrix_job job = {.name = "layer",
                                    .spec = *spec,
                                    .weights = d->weights,
                                    .rows = ROWS,
                                    .columns = COLUMNS,
                                    .border = reordered ? COLUMNS / 2 : COLUMNS,
                                    .channels = reordered ? d->channels : NULL,
                                    .factor = &d->factors[reordered],
                                    .input_norm = d->norm,
                                    .hessian = d->statistics.hessian,
                                    .importance = importance,
                                    .prune = prune,
                                    .clip = choice & 1 ? SQF_CLIP_MSE : SQF_CLIP_ABSMAX,
                                    .compensate = choice & 2 ? SQF_COMPENSATE_NONE : SQF_COMPENSATE_GPTQ,
                                    .seed = 5};
        check_job(d, &job);
    }
}

static void check_spec(const data *d, const sqf_weight_spec *spec)
{
    if (spec->low == SQF_TYPE_NONE) {
        for (int prune = SQF_PRUNE_SPARSEGPT; prune <= SQF_PRUNE_MAGNITUDE; prune++) {
            check_ranking(d, spec, SQF_IMPORTANCE_OBS, (sqf_prune)prune);
        }
        return;
    }
    const int last = spec->high == SQF_TYPE_NONE ? SQF_IMPORTANCE_OBS : SQF_IMPORTANCE_RANDOM;
    for (int importance = SQF_IMPORTANCE_OBS; importance <= last; importance++) {
        check_ranking(d, spec, (sqf_importance)importance, SQF_PRUNE_SPARSEGPT);
    }
}

static void test_reported_errors_are_those_of_the_stored_weights(void **state)
{
    (void)state;
    data d;
    size_t count, checked = 0;
    const sqf_scheme_entry *entries = sqf_scheme_list(&count);
    make_data(&d);
    for (size_t i = 0; i < count; i++) {
        sqf_error err;
        sqf_scheme scheme;
        assert_ok(sqf_scheme_parse(entries[i].name, &scheme, &err), &err);
        for (unsigned choice = 0; choice < 4 && !sqf_weight_spec_is_dense(&scheme.weights); choice++) {
            sqf_scheme other = scheme;
            if (choice & 1) {
                other.weights.scales = SQF_SCALES_TIED;
            }
            if (choice & 2) {
                other.weights.group = 0;
                other.weights.layout = SQF_LAYOUT_BITMASK;
            }
            if (sqf_scheme_check(&other, &err) == SQF_OK && (choice == 0 || scheme.weights.high != SQF_TYPE_NONE)) {
                check_spec(&d, &other.weights);
                checked++;
            }
        }
    }
    print_message("%zu specifications of weights\n", checked);
    assert_true(checked >= count);
    free_data(&d);
}

/* ---- the pipeline: schemes x scales and masks of the activations ---- */

/* Changes a scheme to the kind of scales, mask and zero points; false if that has no meaning for it. */
static bool change_activations(sqf_scheme *scheme, sqf_act_scale scale, bool dynamic, bool zero)
{
    sqf_error err;
    sqf_act_spec *act = &scheme->activations;
    if (sqf_act_spec_is_float(act) || (dynamic && !sqf_act_spec_is_split(act))) {
        return false;
    }
    if (dynamic && scale == SQF_ACT_STATIC) {
        return false; /* refused: test_refusals.c */
    }
    act->scale = scale;
    act->mask = dynamic ? SQF_MASK_DYNAMIC : SQF_MASK_STATIC;
    act->zero = zero ? SQF_ACT_ZERO_POINT : SQF_ACT_ZERO_NONE;
    return sqf_scheme_check(scheme, &err) == SQF_OK;
}

static double quantized_error(const small *s, const sqf_scheme *scheme)
{
    sqf_error err;
    sqf_recipe *recipe;
    const sqf_module_recipe base = sqf_module_recipe_default(scheme);
    const sqf_quantize_options options = small_options(s);
    assert_ok(sqf_recipe_create(&base, &recipe, &err), &err);
    assert_ok(sqf_quantize(s->context, s->model.path, s->output, recipe, &options, NULL, &err), &err);
    sqf_recipe_destroy(recipe);
    return small_error(s);
}

/* Eight bits lose little whatever the scales are, but static ones clamp what calibration has not seen, on either side;
 * what has less bits is bounded by what nothing in common would give. */
static double allowed_error(const sqf_scheme *scheme)
{
    const sqf_weight_spec *w = &scheme->weights;
    const bool fine = w->low == SQF_TYPE_INT8 && scheme->activations.low == SQF_TYPE_INT8;
    return fine ? (scheme->activations.scale == SQF_ACT_STATIC ? 0.2 : 0.15) : 1.6;
}

static void test_every_scheme_runs_with_every_kind_of_activation_scale_and_mask(void **state)
{
    (void)state;
    small s;
    size_t count, runs = 0;
    const sqf_scheme_entry *entries = sqf_scheme_list(&count);
    small_llama(&s);
    for (size_t i = 0; i < count; i++) {
        for (unsigned choice = 0; choice < 12; choice++) {
            sqf_error err;
            sqf_scheme scheme;
            assert_ok(sqf_scheme_parse(entries[i].name, &scheme, &err), &err);
            if (!change_activations(&scheme, (sqf_act_scale)(choice % 3), choice / 3 % 2 == 1, choice >= 6)) {
                continue;
            }
            const double error = quantized_error(&s, &scheme);
            if (!(error < allowed_error(&scheme))) {
                fail_msg("%s, scales %u, dynamic %u, zero points %u: error of the logits %g", entries[i].name,
                         choice % 3, choice / 3 % 2, choice / 6, error);
            }
            runs++;
        }
    }
    print_message("%zu models\n", runs);
    assert_true(runs >= 120);
    small_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reported_errors_are_those_of_the_stored_weights),
        cmocka_unit_test(test_every_scheme_runs_with_every_kind_of_activation_scale_and_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

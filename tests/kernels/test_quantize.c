/* How inputs are quantized by vectors: rounding at the halves of the grid, the choice of dynamic masks with ties, and
 * norms, gates and residuals on the way, each against the plain order of operations, bit for bit at every level. */
#include "check.h"

#include <math.h>

#include "base/random.h"
#include "format/matrix.h"
#include "kernels/dispatch.h"
#include "kernels/linear.h"
#include "kernels/ops.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const sqf_kernels *kernels_of(const char *level)
{
    return sqf_kernels_find(level);
}

/* x / scale near a half: the half itself times the scale, rounded, and its neighbours. */
static float near_half(sqf_random *random, float scale)
{
    const float half = (float)((int)sqf_random_below(random, 300) - 150) + 0.5f;
    float x = half * scale;
    for (uint64_t steps = sqf_random_below(random, 4); steps > 0; steps--) {
        x = nextafterf(x, sqf_random_below(random, 2) ? INFINITY : -INFINITY);
    }
    return x;
}

/* The definition: divide, clamp, round half to even. */
static int32_t plain_quantize(const float *x, size_t n, float scale, float lowest, float largest, int32_t zero,
                              int8_t *codes)
{
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        float q = x[i] / scale;
        q = q > largest ? largest : q < lowest ? lowest : q;
        const int32_t code = (int32_t)((q + 12582912.0f) - 12582912.0f) + zero;
        codes[i] = (int8_t)code;
        sum += code;
    }
    return sum;
}

static void codes_round_as_a_division_does(void **state)
{
    (void)state;
    sqf_random random = {test_seed("halves", 11)};
    static const float scales[] = {1.0f, 0.1f, 3.7e-3f, 1e-30f, 3e-39f, 1e30f, 1.0f / 3.0f, 1e-44f};
    for (int round = 0; round < 3000; round++) {
        float x[70];
        int8_t want[70], codes[71];
        const size_t n = 1 + sqf_random_below(&random, COUNT(x));
        const float unit = (float)(1.0 + sqf_random_unit(&random));
        const float scale = scales[sqf_random_below(&random, COUNT(scales))] * unit;
        const int32_t zero = (int32_t)sqf_random_below(&random, 3) * 60 - 60;
        for (size_t i = 0; i < n; i++) {
            x[i] = sqf_random_below(&random, 4) ? near_half(&random, scale)
                                                : (float)(sqf_random_unit(&random) * 400.0 - 200.0) * scale;
            x[i] = isfinite(x[i]) ? x[i] : 0.0f;
        }
        const int32_t sum = plain_quantize(x, n, scale, -127.0f - (float)zero, 127.0f - (float)zero, zero, want);
        for (const char *const *level = sqf_cpu_levels(); *level; level++) {
            codes[n] = 99;
            const int32_t found =
                kernels_of(*level)->quantize(x, n, scale, -127.0f - (float)zero, 127.0f - (float)zero, zero, codes);
            assert_memory_equal(codes, want, n);
            assert_int_equal(found, sum);
            assert_int_equal(codes[n], 99);
        }
    }
}

/* Scores of few distinct values tie often; some rounds have none. */
static void dynamic_masks_take_the_largest_and_the_first_of_equals(void **state)
{
    (void)state;
    sqf_random random = {test_seed("top", 12)};
    for (int round = 0; round < 3000; round++) {
        float x[140], weight[140], score[140], low[141], high[141];
        uint8_t mask[140];
        const size_t n = 1 + sqf_random_below(&random, COUNT(x)), count = sqf_random_below(&random, n + 1);
        const size_t distinct = sqf_random_below(&random, 3) ? 1 + sqf_random_below(&random, 20) : 0;
        const bool weighted = sqf_random_below(&random, 2);
        for (size_t i = 0; i < n; i++) {
            x[i] = distinct ? (float)sqf_random_below(&random, distinct) : (float)sqf_random_unit(&random);
            x[i] = sqf_random_below(&random, 2) ? x[i] : -x[i];
            weight[i] = (float)(1 + sqf_random_below(&random, 3));
            score[i] = fabsf(x[i]) * (weighted ? weight[i] : 1.0f);
        }
        sqf_select_top(score, n, count, mask);
        for (const char *const *level = sqf_cpu_levels(); *level; level++) {
            low[n] = high[n] = 99.0f;
            kernels_of(*level)->split_top(x, weighted ? weight : NULL, n, count, low, high);
            for (size_t i = 0; i < n; i++) {
                assert_true(low[i] == (mask[i] ? 0.0f : x[i]));
                assert_true(high[i] == (mask[i] ? x[i] : 0.0f));
            }
            assert_true(low[n] == 99.0f && high[n] == 99.0f);
        }
    }
}

/* Two layers over one input, at random for a scheme. */
typedef struct pair {
    sqf_context *context;
    sqf_linear *linear[2];
    size_t rows, columns, tokens;
    float *x, *gain;
    sqf_rotation rotation; /* factor 0 in half of the trials */
} pair;

static sqf_linear *random_linear(sqf_random *random, sqf_context *context, const sqf_scheme *scheme, size_t rows,
                                 size_t columns, const int32_t *channels)
{
    sqf_error err;
    sqf_matrix matrix;
    sqf_row row;
    sqf_linear *linear;
    const sqf_act_spec *act = &scheme->activations;
    const size_t border = channels ? sqf_act_low_channels(act, columns) : columns;
    float *bias = malloc(rows * sizeof *bias);
    assert_ok(sqf_matrix_create(&scheme->weights, rows, columns, border, channels, &matrix, &err), &err);
    assert_ok(sqf_row_create(&matrix, &row, &err), &err);
    for (size_t n = 0; n < rows; n++) {
        bias[n] = (float)sqf_random_unit(random);
        for (size_t k = 0; k < columns; k++) {
            row.mask[k] = 0;
            row.value[k] = sqf_type_round(scheme->weights.low, (float)sqf_random_unit(random) * 14.0f - 7.0f, 1.0f);
        }
        for (size_t g = 0; g < matrix.group_count; g++) {
            row.scale_low[g] = 0.01f + (float)sqf_random_unit(random);
            row.scale_high[g] = 1.0f;
        }
        sqf_matrix_pack_row(&matrix, n, &row);
    }
    static const float static_scale[2] = {0.05f, 0.25f};
    const sqf_linear_params params = {.name = "layer",
                                      .rows = rows,
                                      .columns = columns,
                                      .bias = bias,
                                      .matrix = &matrix,
                                      .activations = *act,
                                      .static_scale = static_scale};
    assert_ok(sqf_linear_create(context, &params, &linear, &err), &err);
    sqf_row_clear(&row);
    sqf_matrix_clear(&matrix);
    free(bias);
    return linear;
}

/* Blocks of the largest power of two that divides the columns, mixed by a matrix or not. */
static void random_rotation(sqf_random *random, pair *p)
{
    sqf_error err;
    size_t factor = p->columns;
    p->rotation = (sqf_rotation){0};
    if (sqf_random_below(random, 2)) {
        return;
    }
    while (factor % 2 == 0) {
        factor /= 2;
    }
    float *matrix = malloc(factor * factor * sizeof *matrix);
    for (size_t i = 0; i < factor * factor; i++) {
        matrix[i] = (float)(sqf_random_unit(random) - 0.5);
    }
    assert_ok(sqf_rotation_create(p->columns, factor, sqf_random_below(random, 2) ? matrix : NULL, &p->rotation, &err),
              &err);
    free(matrix);
}

static void make_pair(sqf_random *random, const char *name, const char *level, pair *p)
{
    sqf_error err;
    sqf_scheme scheme;
    assert_ok(sqf_scheme_parse(name, &scheme, &err), &err);
    const sqf_act_spec *act = &scheme.activations;
    const sqf_context_options options = {.threads = 1 + (unsigned)sqf_random_below(random, 3), .cpu = level};
    assert_ok(sqf_context_create(&options, &p->context, &err), &err);
    p->rows = 1 + sqf_random_below(random, 150);
    p->columns = 1 + sqf_random_below(random, 500);
    p->tokens = 1 + sqf_random_below(random, sqf_random_below(random, 2) ? 4 : 140);
    int32_t *channels = NULL;
    if (sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC) {
        const size_t border = sqf_act_low_channels(act, p->columns);
        channels = malloc(p->columns * sizeof *channels);
        for (size_t k = 0; k < p->columns; k++) {
            channels[k] = (int32_t)((k + p->columns - border) % p->columns); /* the last are low */
        }
    }
    for (int i = 0; i < 2; i++) {
        p->linear[i] = random_linear(random, p->context, &scheme, p->rows, p->columns, channels);
    }
    free(channels);
    random_rotation(random, p);
    p->x = malloc(p->tokens * p->columns * sizeof *p->x);
    p->gain = malloc(p->columns * sizeof *p->gain);
    for (size_t i = 0; i < p->tokens * p->columns; i++) {
        p->x[i] = (float)(sqf_random_unit(random) - 0.4);
    }
    for (size_t k = 0; k < p->columns; k++) {
        p->gain[k] = (float)(0.5 + sqf_random_unit(random));
    }
}

static void free_pair(pair *p)
{
    sqf_linear_destroy(p->linear[0]);
    sqf_linear_destroy(p->linear[1]);
    sqf_context_destroy(p->context);
    sqf_rotation_clear(&p->rotation);
    free(p->x);
    free(p->gain);
}

static const char *const schemes[] = {"W4A8",
                                      "W4A4",
                                      "W4A16",
                                      "W4A8;scale_type=bf16",
                                      "W4A8;scale_type=fp16,scale=group,group=32",
                                      "W4A8;scale_type=e8m0",
                                      "W4A8;scale_type=fp8,scale=group,group=64",
                                      "W4A8;zero=point",
                                      "W4A8;scale=static",
                                      "W4A(SQ6)",
                                      "W4A(SQ5);scale=group,group=64",
                                      "W4A(SQ5);scale_type=fp8",
                                      "W4A(SQ6);mask=dynamic",
                                      "W4A(SQ5);mask=dynamic,scale_type=bf16",
                                      "W4A4;low=fp4,scale=group,group=32,scale_type=e8m0",
                                      "W4A8;low=fp8"};

/* Norm, products, gate and residual one after the other, each by its own function. */
static void plain_order(const pair *p, float *gated, float *added)
{
    sqf_error err;
    sqf_input *input;
    const size_t outputs = p->tokens * p->rows;
    float *normed = malloc(p->tokens * p->columns * sizeof *normed), *gate = malloc(outputs * sizeof *gate);
    assert_ok(sqf_input_create(&input, &err), &err);
    sqf_rmsnorm(p->context, p->x, p->gain, 1e-5f, p->tokens, p->columns, normed);
    if (p->rotation.factor > 0) {
        assert_ok(sqf_rotation_apply(p->context, &p->rotation, normed, p->tokens, &err), &err);
    }
    assert_ok(sqf_input_prepare(p->context, input, p->linear[0], normed, p->tokens, &err), &err);
    assert_ok(sqf_linear_forward(p->context, p->linear[0], input, gate, &err), &err);
    assert_ok(sqf_linear_forward(p->context, p->linear[1], input, gated, &err), &err);
    sqf_add(p->context, added, gated, outputs);
    sqf_silu_mul(p->context, gate, gated, outputs, gated);
    sqf_input_destroy(input);
    free(normed);
    free(gate);
}

static void fused_order(const pair *p, float *gated, float *added)
{
    sqf_error err;
    sqf_input *input;
    float *rows = malloc(p->tokens * p->columns * sizeof *rows);
    const sqf_input_steps steps = {
        .gain = p->gain, .epsilon = 1e-5f, .rotation = p->rotation.factor > 0 ? &p->rotation : NULL, .rows = rows};
    const sqf_linear_job jobs[] = {{.linear = p->linear[1], .y = added, .store = SQF_STORE_ADD},
                                   {.linear = p->linear[1], .y = gated, .gate = p->linear[0]}};
    assert_ok(sqf_input_create(&input, &err), &err);
    assert_ok(sqf_input_prepare_steps(p->context, input, p->linear[0], p->x, &steps, p->tokens, &err), &err);
    assert_ok(sqf_linear_forward_jobs(p->context, jobs, 2, input, &err), &err);
    sqf_input_destroy(input);
    free(rows);
}

static void fused_steps_give_the_bits_of_single_ones(void **state)
{
    (void)state;
    sqf_random random = {test_seed("fused", 13)};
    for (size_t round = 0; round < 3 * COUNT(schemes); round++) {
        for (const char *const *level = sqf_cpu_levels(); *level; level++) {
            pair p;
            make_pair(&random, schemes[round % COUNT(schemes)], *level, &p);
            const size_t outputs = p.tokens * p.rows;
            float *y[4];
            for (int i = 0; i < 4; i++) {
                y[i] = malloc(outputs * sizeof **y);
                for (size_t k = 0; k < outputs; k++) {
                    y[i][k] = (float)k; /* what is added to */
                }
            }
            plain_order(&p, y[0], y[1]);
            fused_order(&p, y[2], y[3]);
            if (memcmp(y[0], y[2], outputs * sizeof **y) != 0 || memcmp(y[1], y[3], outputs * sizeof **y) != 0) {
                fail_msg("%s at %s: M=%zu N=%zu K=%zu differs", schemes[round % COUNT(schemes)], *level, p.tokens,
                         p.rows, p.columns);
            }
            for (int i = 0; i < 4; i++) {
                free(y[i]);
            }
            free_pair(&p);
        }
    }
}

static void a_normed_input_that_is_not_finite_is_named(void **state)
{
    (void)state;
    sqf_error err;
    sqf_random random = {14};
    sqf_input *input;
    pair p;
    make_pair(&random, "W4A8", NULL, &p);
    assert_ok(sqf_input_create(&input, &err), &err);
    const sqf_input_steps steps = {.gain = p.gain, .epsilon = 1e-5f};
    p.x[(p.tokens - 1) * p.columns] = NAN;
    char part[64];
    snprintf(part, sizeof part, "token %zu, channel 0", p.tokens - 1);
    assert_fails(sqf_input_prepare_steps(p.context, input, p.linear[0], p.x, &steps, p.tokens, &err), SQF_E_VALUE, &err,
                 part);
    float y[1];
    const sqf_linear_job jobs[SQF_LINEAR_JOBS + 1] = {{.linear = p.linear[0], .y = y}};
    assert_fails(sqf_linear_forward_jobs(p.context, jobs, 1, input, &err), SQF_E_ARG, &err, "not prepared");
    assert_fails(sqf_linear_forward_jobs(p.context, jobs, SQF_LINEAR_JOBS + 1, input, &err), SQF_E_ARG, &err,
                 "products at once");
    assert_fails(sqf_linear_forward_jobs(p.context, jobs, 0, input, &err), SQF_E_ARG, &err, "products at once");
    sqf_input_destroy(input);
    free_pair(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_round_as_a_division_does),
        cmocka_unit_test(dynamic_masks_take_the_largest_and_the_first_of_equals),
        cmocka_unit_test(fused_steps_give_the_bits_of_single_ones),
        cmocka_unit_test(a_normed_input_that_is_not_finite_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

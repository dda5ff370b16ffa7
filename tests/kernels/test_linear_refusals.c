/* What a linear layer cannot be made of is refused, with the layer and the reason named. */
#include "check.h"

#include "format/matrix.h"
#include "kernels/linear.h"

enum { ROWS = 3, COLUMNS = 32 };

typedef struct fixture {
    sqf_context *context;
    sqf_matrix plain, masked; /* as they come; with a static mask's order of channels */
    float dense[ROWS * COLUMNS];
} fixture;

static int set_up(void **state)
{
    static fixture f;
    sqf_error err;
    const sqf_weight_spec spec = {.low = SQF_TYPE_INT4, .group = 16, .bank = 16, .scale_type = SQF_TYPE_FP32};
    int32_t channels[COLUMNS];
    for (int32_t k = 0; k < COLUMNS; k++) {
        channels[k] = k;
    }
    assert_ok(sqf_context_create(NULL, &f.context, &err), &err);
    assert_ok(sqf_matrix_create(&spec, ROWS, COLUMNS, COLUMNS, NULL, &f.plain, &err), &err);
    assert_ok(sqf_matrix_create(&spec, ROWS, COLUMNS, COLUMNS / 2, channels, &f.masked, &err), &err);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    sqf_matrix_clear(&f->plain);
    sqf_matrix_clear(&f->masked);
    sqf_context_destroy(f->context);
    return 0;
}

static sqf_linear_params params_of(const sqf_matrix *matrix, const char *activations)
{
    sqf_error err;
    sqf_scheme scheme;
    char name[128];
    snprintf(name, sizeof name, "low=int4;%s", activations);
    assert_ok(sqf_scheme_parse(name, &scheme, &err), &err);
    return (sqf_linear_params){
        .name = "layer", .rows = ROWS, .columns = COLUMNS, .matrix = matrix, .activations = scheme.activations};
}

static sqf_linear_params dense_params(const fixture *f)
{
    sqf_linear_params params = params_of(NULL, "low=fp32");
    params.dense = f->dense;
    params.dense_type = SQF_TYPE_FP32;
    return params;
}

static void expect_refusal(const fixture *f, const sqf_linear_params *params, const char *reason)
{
    sqf_error err;
    sqf_linear *linear = (sqf_linear *)&err;
    assert_fails(sqf_linear_create(f->context, params, &linear, &err), SQF_E_ARG, &err, reason);
    assert_null(linear);
    assert_memory_equal(err.text, "layer: ", 7);
}

static void expect_success(const fixture *f, const sqf_linear_params *params)
{
    sqf_error err;
    sqf_linear *linear;
    assert_ok(sqf_linear_create(f->context, params, &linear, &err), &err);
    sqf_linear_destroy(linear);
}

static void weights_are_either_dense_or_quantized(void **state)
{
    const fixture *f = *state;
    sqf_linear_params params = dense_params(f);
    expect_success(f, &params);
    params.matrix = &f->plain;
    expect_refusal(f, &params, "either dense or quantized");
    params.matrix = NULL;
    params.dense = NULL;
    expect_refusal(f, &params, "either dense or quantized");
}

static void dense_weights_are_floats_and_so_is_their_input(void **state)
{
    const fixture *f = *state;
    static const int32_t order[ROWS] = {0, 1, 2};
    sqf_linear_params params = dense_params(f);
    params.dense_type = SQF_TYPE_INT8;
    expect_refusal(f, &params, "fp32, bf16 or fp16");
    params = dense_params(f);
    params.activations.low = SQF_TYPE_INT8;
    expect_refusal(f, &params, "float activations");
    params = dense_params(f);
    params.row_order = order;
    expect_refusal(f, &params, "rows as they come");
}

static void the_shape_must_be_that_of_the_weights(void **state)
{
    const fixture *f = *state;
    sqf_linear_params params = params_of(&f->plain, "low=int8");
    expect_success(f, &params);
    params.rows++;
    expect_refusal(f, &params, "weights [3, 32], expected [4, 32]");
    params.rows--;
    params.columns--;
    expect_refusal(f, &params, "weights [3, 32], expected [3, 31]");
}

static void what_the_activations_need_must_be_there(void **state)
{
    const fixture *f = *state;
    static const float scale[] = {0.5f, 0.5f}, norm[COLUMNS];
    sqf_linear_params params = params_of(&f->plain, "low=int8,scale=static");
    expect_refusal(f, &params, "static activation scales are missing");
    params.static_scale = scale;
    expect_success(f, &params);

    params = params_of(&f->plain, "low=int4,high=int8,bank=16,high_per_bank=8,mask=dynamic_weighted");
    expect_refusal(f, &params, "column norms for the dynamic mask are missing");
    params.column_norm = norm;
    expect_success(f, &params);
    params.matrix = &f->masked;
    expect_refusal(f, &params, "a dynamic mask does not go with reordered columns");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_either_dense_or_quantized),
        cmocka_unit_test(dense_weights_are_floats_and_so_is_their_input),
        cmocka_unit_test(the_shape_must_be_that_of_the_weights),
        cmocka_unit_test(what_the_activations_need_must_be_there),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

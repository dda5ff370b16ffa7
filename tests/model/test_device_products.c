/* Linear layers on a device against the scalar reference: random weights, inputs and schemes of every kind, the same
 * trials that test the CPU's kernels. The device is SQF_DEVICE, "cuda" unless it is set; ctest lends the emulation
 * (SQF_CUDA_LIBRARY). On a GPU SQF_TEST_ROUNDS and SQF_TEST_TOKENS make it larger: bench/cuda/run does. */
#include "trial.h"

#include "model/device_layer.h"

/* What a result may be off by, of the sum of |terms|, a term being one element's product. Float activations are rounded
 * for the tensor cores: to 11 bits (FP16, scaled by a power of two for each token), or to 8 beside weights in BF16. The
 * tensor cores of 8.9 and 9.0 keep some 13 bits of a sum of FP8 products, which the emulation does not imitate. All
 * else is exact integers and sums in float32. */
static double allowed_share(const sqf_context *context, const sqf_scheme *scheme)
{
    const sqf_weight_spec *w = &scheme->weights;
    const sqf_act_spec *a = &scheme->activations;
    if (!sqf_act_spec_is_float(a)) {
        const bool fp8 = a->low == SQF_TYPE_FP8 || a->high == SQF_TYPE_FP8;
        return fp8 && !context->device->info.emulated ? 5e-4 : 1e-5;
    }
    return w->low == SQF_TYPE_BF16 || w->high == SQF_TYPE_BF16 ? 0x1p-8 : 0x1p-11;
}

/* The sums of |terms| from the weights and the input with quantization undone, over those of the reference, which count
 * a group's sum as one term. With zero points the codes' products and what the zero points take off are terms of their
 * own: a zero point stands for no more than the largest element, a static one (-2..1, fill_trial) for 0.5. */
static void sum_elements(const trial *t, const float *undone, double *magnitude)
{
    sqf_error err;
    sqf_row row;
    const bool zeros = t->scheme.activations.zero != SQF_ACT_ZERO_NONE;
    float *weights = malloc(t->columns * sizeof *weights);
    assert_ok(sqf_row_create(&t->matrix, &row, &err), &err);
    for (size_t n = 0; n < t->rows; n++) {
        sqf_matrix_dequantize_row(&t->matrix, n, &row, weights);
        for (size_t m = 0; m < t->tokens; m++) {
            double sum = 0, most = zeros && t->scheme.activations.scale == SQF_ACT_STATIC ? 0.5 : 0;
            for (size_t k = 0; zeros && k < t->columns; k++) {
                most = fmax(most, fabs((double)undone[m * t->columns + k]));
            }
            for (size_t k = 0; k < t->columns; k++) {
                sum += fabs((double)weights[k]) * (fabs((double)undone[m * t->columns + k]) + most);
            }
            magnitude[m * t->rows + n] = sum;
        }
    }
    free(weights);
    sqf_row_clear(&row);
}

static size_t number_from(const char *variable, size_t standard)
{
    const char *text = getenv(variable);
    return text && *text ? strtoul(text, NULL, 10) : standard;
}

static sqf_context *open_device(void)
{
    sqf_error err;
    sqf_context *context;
    const char *device = getenv("SQF_DEVICE");
    const sqf_context_options options = {.threads = 1, .device = device ? device : "cuda"};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    return context;
}

/* The device's product of a trial, and the input with quantization undone by its first part. */
static void compute(sqf_context *context, const trial *t, float *y, float *undone)
{
    sqf_error err;
    const sqf_device *device = context->device;
    const sqf_linear_params params = {.name = "layer",
                                      .rows = t->rows,
                                      .columns = t->columns,
                                      .bias = t->bias,
                                      .row_order = t->row_order,
                                      .matrix = &t->matrix,
                                      .activations = t->scheme.activations,
                                      .static_scale = t->static_scale,
                                      .static_zero = t->static_zero,
                                      .column_norm = t->column_norm};
    sqf_device_linear linear = {0};
    sqf_cuda_input *input;
    float *x_device, *y_device, *undone_device;
    const size_t inputs = t->tokens * t->columns, outputs = t->tokens * t->rows;
    assert_ok(sqf_device_linear_create(context, &params, &linear, &err), &err);
    assert_ok(SQF_DEVICE_ALLOC(device, &y_device, outputs, "y", &err), &err);
    assert_ok(SQF_DEVICE_ALLOC(device, &undone_device, inputs, "x", &err), &err);
    assert_ok(sqf_device_place(device, (void **)&x_device, t->x, inputs, sizeof *t->x, "x", &err), &err);
    assert_ok(device->ops->input_create(device->cuda, &input, &err), &err);
    for (size_t p = linear.part_count; p-- > 0;) { /* the first part's input is the one that is looked at */
        const sqf_cuda_store store = p + 1 == linear.part_count ? SQF_CUDA_SET : SQF_CUDA_ADD;
        assert_ok(device->ops->input_prepare(device->cuda, input, linear.parts[p], x_device, NULL, t->tokens, &err),
                  &err);
        assert_ok(device->ops->linear_forward(device->cuda, linear.parts[p], input, y_device, store, &err), &err);
    }
    assert_ok(device->ops->input_dequantize(device->cuda, input, undone_device, &err), &err);
    assert_ok(device->ops->download(device->cuda, y, y_device, outputs * sizeof *y, &err), &err);
    assert_ok(device->ops->download(device->cuda, undone, undone_device, inputs * sizeof *undone, &err), &err);
    assert_ok(device->ops->finish(device->cuda, &err), &err);
    device->ops->input_destroy(device->cuda, input);
    sqf_device_release(device, x_device);
    sqf_device_release(device, y_device);
    sqf_device_release(device, undone_device);
    sqf_device_linear_clear(context, &linear);
}

/* Quantized inputs are the reference's, bit for bit but for the sign of a zero; floats are rounded. */
static void check_input(const trial *t, const float *undone, const float *want)
{
    const double share = sqf_act_spec_is_float(&t->scheme.activations) ? 0x1p-8 : 0;
    for (size_t k = 0; k < t->tokens * t->columns; k++) {
        if (!(fabs((double)undone[k] - (double)want[k]) <= share * fabs((double)want[k]) + 1e-44)) {
            describe(t, "device", 1);
            fail_msg("input %zu is %.9g, expected %.9g", k, (double)undone[k], (double)want[k]);
        }
    }
}

static void check_on_device(sqf_context *context, const trial *t)
{
    const size_t outputs = t->tokens * t->rows, inputs = t->tokens * t->columns;
    double *want = malloc(outputs * sizeof *want), *magnitude = malloc(outputs * sizeof *magnitude);
    float *y = malloc(outputs * sizeof *y), *undone = malloc(inputs * sizeof *undone);
    float *want_undone = malloc(inputs * sizeof *want_undone);
    refer(t, want, magnitude, want_undone);
    sum_elements(t, want_undone, magnitude);
    compute(context, t, y, undone);
    if (!close_enough(t, y, want, magnitude, allowed_share(context, &t->scheme))) {
        describe(t, "device", 1);
        fail();
    }
    check_input(t, undone, want_undone);
    free(want);
    free(magnitude);
    free(y);
    free(undone);
    free(want_undone);
}

/* Every named scheme, and the pairs of a low part with one of twice its width, at few tokens and at many. */
static void named_schemes_agree_with_the_reference(void **state)
{
    (void)state;
    static const char *const more[] = {"W4A(16-(bf16/8)-0.75)",
                                       "W8A(16-(bf16/8)-0.75)",
                                       "W(SQ5)A8,scales=tied",
                                       "W(SQ5)A(SQ6),scales=tied",
                                       "W4A8;scale=group,group=32",
                                       "W4A8;zero=point",
                                       "W4A(SQ6);mask=dynamic",
                                       "low=fp8,group=128;low=fp8,high=bf16,bank=16,high_per_bank=4",
                                       "low=fp4,group=128;low=fp4,high=fp8,bank=16,high_per_bank=4",
                                       "low=int4,group=64;low=int8,high=fp16,bank=32,high_per_bank=1"};
    const size_t most = number_from("SQF_TEST_TOKENS", 40), columns = 192, rows = 80;
    sqf_random random = {test_seed("device schemes", 31)};
    sqf_context *context = open_device();
    size_t count;
    const sqf_scheme_entry *list = sqf_scheme_list(&count);
    for (size_t i = 0; i < count + COUNT(more); i++) {
        sqf_error err;
        trial t = {0};
        assert_ok(sqf_scheme_parse(i < count ? list[i].name : more[i - count], &t.scheme, &err), &err);
        if (sqf_weight_spec_is_dense(&t.scheme.weights)) {
            continue;
        }
        const size_t tokens[] = {1, 1 + sqf_random_below(&random, 16), most};
        for (size_t k = 0; k < COUNT(tokens); k++) {
            sqf_scheme scheme = t.scheme;
            t = (trial){.scheme = scheme};
            fill_trial(&random, &t, rows, columns, tokens[k]);
            check_on_device(context, &t);
            free_trial(&t);
        }
    }
    sqf_context_destroy(context);
}

static void random_schemes_agree_with_the_reference(void **state)
{
    (void)state;
    const size_t wanted = number_from("SQF_TEST_ROUNDS", 60), most = number_from("SQF_TEST_TOKENS", 0);
    sqf_random random = {test_seed("device", 20241121)};
    sqf_context *context = open_device();
    for (size_t done = 0; done < wanted;) {
        trial t;
        if (!make_trial(&random, &t)) {
            continue;
        }
        if (t.scheme.weights.low == SQF_TYPE_NONE && t.matrix.high_count == 0) { /* which a device refuses */
            free_trial(&t);
            continue;
        }
        if (most > 0) { /* up to the tokens of a long prefill, evenly over their logarithm */
            const sqf_scheme scheme = t.scheme;
            const size_t rows = t.rows, columns = t.columns;
            const double power = sqf_random_unit(&random) * log2((double)most);
            free_trial(&t);
            t = (trial){.scheme = scheme};
            fill_trial(&random, &t, rows, columns, (size_t)exp2(power));
        }
        check_on_device(context, &t);
        free_trial(&t);
        done++;
    }
    sqf_context_destroy(context);
}

int main(void)
{
    if (!getenv("SQF_CUDA_LIBRARY") && !getenv("SQF_DEVICE")) {
        return 77; /* neither the emulation nor a GPU */
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(named_schemes_agree_with_the_reference),
        cmocka_unit_test(random_schemes_agree_with_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

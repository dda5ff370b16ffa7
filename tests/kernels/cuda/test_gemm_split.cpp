/* Products of compact SPLIT weights with many tokens, executed on the host, against exact sums: shares of high
 * elements, segments of whole and of half chunks, columns in parts, all orders of threads and copies. */
#include "trials.hpp"

static sqf_cuda_device *device;
static uint64_t seed;

static int open_device(void **)
{
    sqf_error err;
    require(cuda_open(0, &device, &err), &err);
    return 0;
}

static int close_device(void **)
{
    cuda_close(device);
    return 0;
}

static trial_layer make(size_t rows, size_t columns, uint32_t unit_high, size_t group, bool grouped)
{
    trial_layer layer;
    layer.name = "split";
    layer.form = SQF_CUDA_SPLIT;
    layer.rows = rows;
    layer.columns = columns;
    layer.unit_high = unit_high;
    layer.activations.low = SQF_TYPE_INT8;
    layer.activations.bank = 64;
    layer.activations.clip = 1.0f;
    layer.activations.scale = grouped ? SQF_ACT_GROUP : SQF_ACT_TOKEN;
    layer.activations.group = grouped ? (uint32_t)group : 0;
    layer.biased = rows % 2;
    trial_segments(&layer, group, grouped);
    return layer;
}

static void check_product(trial_layer layer, size_t tokens, sqf_cuda_store store)
{
    sqf_random random = {seed + layer.rows * 31 + layer.columns + tokens};
    trial_input input;
    std::vector<double> expected, magnitude;
    sqf_error err;
    trial_create(device, &random, &layer);
    trial_prepare(&random, layer, 0, tokens, &input);
    trial_expect(layer, input, 0, &expected, &magnitude);
    std::vector<float> before(tokens * layer.rows);
    for (float &b : before) {
        b = (float)sqf_random_unit(&random) - 0.5f;
    }
    device_vector<float> y(before);
    const cuda_product product = {device, layer.linear, &layer.linear->weights, &input.input,
                                  0,      y.data,       layer.linear->bias,     store};
    assert_true(cuda_family_split.serves(&product));
    require(cuda_workspace(device, cuda_family_split.workspace(&product), &err), &err);
    require(cuda_family_split.run(&product, &err), &err);
    require(cuda_finish(device, &err), &err);
    for (size_t i = 0; i < tokens * layer.rows; i++) {
        const double p = expected[i], b = before[i];
        const double want = store == SQF_CUDA_SET ? p : store == SQF_CUDA_ADD ? p + b : p / (1 + exp(-p)) * b;
        const double bound = 1e-5 * (magnitude[i] + fabs(b)) * (store == SQF_CUDA_GATE ? fabs(b) : 1);
        if (!(fabs(y.data[i] - want) <= bound)) {
            fail_msg("%zu x %zu, %u of 64 high, %zu tokens: token %zu row %zu: expected %.9g, found %.9g (bound %g)",
                     layer.rows, layer.columns, layer.unit_high, tokens, i / layer.rows, i % layer.rows, want,
                     (double)y.data[i], bound);
        }
    }
    cuda_linear_destroy(device, layer.linear);
}

static void test_shapes(void **)
{
    check_product(make(1, 64, 16, 128, false), 1, SQF_CUDA_SET);
    check_product(make(17, 192, 16, 128, false), 33, SQF_CUDA_ADD);
    check_product(make(130, 256, 16, 128, false), 65, SQF_CUDA_SET);
    check_product(make(129, 640, 8, 128, true), 40, SQF_CUDA_GATE);
    check_product(make(40, 448, 16, 64, true), 70, SQF_CUDA_SET);
    check_product(make(40, 576, 32, 192, true), 130, SQF_CUDA_SET);
    check_product(make(33, 512, 4, 1024, false), 129, SQF_CUDA_GATE);
}

/* Few blocks of many columns: the columns are cut. */
static void test_parts(void **)
{
    check_product(make(20, 2048, 16, 128, false), 16, SQF_CUDA_SET);
    check_product(make(21, 4096, 8, 128, true), 66, SQF_CUDA_ADD);
    check_product(make(21, 4096, 8, 128, false), 10, SQF_CUDA_GATE);
}

static void test_shares(void **)
{
    for (const uint32_t unit_high : {4u, 20u, 44u, 60u}) {
        check_product(make(33, 320, unit_high, 128, false), 20, SQF_CUDA_SET);
    }
}

static void test_orders(void **)
{
    in_all_orders([]() {
        for (const char *copies : {"late", "early", "shuffled"}) {
            choose_copies(copies);
            check_product(make(50, 832, 16, 128, true), 9, SQF_CUDA_SET);
            check_product(make(20, 2048, 16, 128, false), 3, SQF_CUDA_SET);
        }
    });
}

/* What the kernel has no words for is left to others. */
static void test_refusals(void **)
{
    for (const bool zero : {false, true}) {
        trial_layer layer = make(5, 128, 16, 128, false);
        layer.activations.zero = zero ? SQF_ACT_ZERO_POINT : SQF_ACT_ZERO_NONE;
        layer.activations.low = zero ? SQF_TYPE_INT8 : SQF_TYPE_FP32;
        sqf_random random = {seed};
        trial_input input;
        trial_create(device, &random, &layer);
        trial_prepare(&random, layer, 0, 40, &input);
        const cuda_product product = {device, layer.linear, &layer.linear->weights, &input.input, 0, NULL,
                                      NULL,   SQF_CUDA_SET};
        assert_false(cuda_family_split.serves(&product));
        cuda_linear_destroy(device, layer.linear);
    }
}

int main(void)
{
    seed = test_seed("gemm_split", 5);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_parts),
                                       cmocka_unit_test(test_shares), cmocka_unit_test(test_orders),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, open_device, close_device);
}

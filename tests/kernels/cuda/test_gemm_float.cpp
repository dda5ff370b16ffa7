/* Products in 16 bits and in float32, executed on the host: all forms of weights with all elements of activations
 * against sums in double, in blocks of 64 and 128 tokens, whole and in parts; and the way from x through an input to y.
 * Sums are float32 in any order: a result may be off by 4e-6 of the sum of the magnitudes of its terms. */
#include "trials.hpp"

extern "C" {
#include <cmocka.h>
}

static const double SHARE = 4e-6;

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

static trial_layer layer_of(sqf_cuda_form form, sqf_type low, size_t rows, size_t columns, size_t group)
{
    trial_layer layer;
    layer.form = form;
    layer.rows = rows;
    layer.columns = columns;
    layer.activations.low = low;
    layer.activations.clip = 1.0f;
    layer.unit_high = form == SQF_CUDA_SPLIT ? 16 : 0;
    layer.biased = rows % 2;
    trial_segments(&layer, group, false);
    return layer;
}

/* What store makes of a product. */
static double stored(sqf_cuda_store store, double p, double before)
{
    return store == SQF_CUDA_SET ? p : store == SQF_CUDA_ADD ? before + p : before * p / (1.0 + exp(-p));
}

static void check_product(const cuda_family *family, trial_layer *layer, unsigned plane, size_t tokens,
                          sqf_cuda_store store, sqf_random *random)
{
    sqf_error err;
    trial_create(device, random, layer);
    trial_input input;
    trial_prepare(random, *layer, plane, tokens, &input);
    std::vector<double> want, magnitude;
    trial_expect(*layer, input, plane, &want, &magnitude);
    std::vector<float> y(tokens * layer->rows), before;
    for (float &value : y) {
        value = (float)sqf_random_unit(random);
    }
    before = y;
    const cuda_product product = {device, layer->linear, &layer->linear->weights, &input.input,
                                  plane,  y.data(),      layer->linear->bias,     store};
    assert_true(family->serves(&product));
    require(family->run(&product, &err), &err);
    require(cuda_finish(device, &err), &err);
    for (size_t i = 0; i < y.size(); i++) {
        const double expected = stored(store, want[i], before[i]);
        const double allowed = SHARE * (magnitude[i] + fabs((double)before[i])) * (store == SQF_CUDA_GATE ? 4.0 : 1.0);
        if (!(fabs(y[i] - expected) <= allowed)) {
            fail_msg("%s: form %d, activations %d, plane %u, M=%zu N=%zu K=%zu store %d: token %zu row %zu: %.9g, "
                     "expected %.9g +- %.2g",
                     family->name, (int)layer->form, (int)layer->activations.low, plane, tokens, layer->rows,
                     layer->columns, (int)store, i / layer->rows, i % layer->rows, (double)y[i], expected, allowed);
        }
    }
    cuda_linear_destroy(device, layer->linear);
}

/* Every form that the family serves, at sizes that fill nothing evenly. */
static void test_half_forms(void **)
{
    sqf_random random = {seed};
    static const struct {
        sqf_cuda_form form;
        sqf_type type;
        bool dense;
    } kinds[] = {{SQF_CUDA_NIBBLES, SQF_TYPE_FP32, false}, {SQF_CUDA_BYTES, SQF_TYPE_FP32, false},
                 {SQF_CUDA_SPLIT, SQF_TYPE_FP32, false},   {SQF_CUDA_FP8, SQF_TYPE_FP32, false},
                 {SQF_CUDA_FP8, SQF_TYPE_BF16, false},     {SQF_CUDA_BF16, SQF_TYPE_FP32, false},
                 {SQF_CUDA_BF16, SQF_TYPE_FP32, true},     {SQF_CUDA_FP16, SQF_TYPE_FP32, false},
                 {SQF_CUDA_FP16, SQF_TYPE_FP32, true}};
    for (const auto &kind : kinds) {
        for (size_t tokens : {1, 23, 70}) {
            const bool split = kind.form == SQF_CUDA_SPLIT;
            trial_layer layer = layer_of(kind.form, kind.type, 45, split ? 192 : 200, split ? 128 : 96);
            layer.dense = kind.dense;
            check_product(&cuda_family_half, &layer, 0, tokens, SQF_CUDA_SET, &random);
        }
    }
}

/* Numbers of tokens and rows about the edges of blocks and tiles. */
static void test_half_edges(void **)
{
    sqf_random random = {seed + 1};
    for (size_t tokens : {2, 7, 8, 9, 16, 17, 63, 64, 65, 127, 128, 129, 300}) {
        trial_layer layer = layer_of(tokens % 2 ? SQF_CUDA_NIBBLES : SQF_CUDA_FP16, SQF_TYPE_FP32, 17, 128, 64);
        layer.dense = tokens % 2 == 0;
        check_product(&cuda_family_half, &layer, 0, tokens, SQF_CUDA_SET, &random);
    }
    for (size_t rows : {1, 15, 16, 127, 128, 129, 260}) {
        trial_layer layer = layer_of(SQF_CUDA_NIBBLES, SQF_TYPE_FP32, rows, 65, 65);
        check_product(&cuda_family_half, &layer, 0, 5, SQF_CUDA_SET, &random);
    }
    for (size_t columns : {1, 63, 64, 129, 191, 577}) {
        trial_layer layer = layer_of(SQF_CUDA_BYTES, SQF_TYPE_FP32, 33, columns, 100);
        check_product(&cuda_family_half, &layer, 0, 9, SQF_CUDA_SET, &random);
    }
}

/* Stores, with sums that are whole and in parts. */
static void test_half_stores(void **)
{
    sqf_random random = {seed + 2};
    const int processors = device->info.multiprocessors;
    for (sqf_cuda_store store : {SQF_CUDA_SET, SQF_CUDA_ADD, SQF_CUDA_GATE}) {
        for (int count : {1, 132}) {
            device->info.multiprocessors = count;
            for (sqf_cuda_form form : {SQF_CUDA_NIBBLES, SQF_CUDA_SPLIT, SQF_CUDA_BF16}) {
                trial_layer layer = layer_of(form, SQF_TYPE_FP32, 131, 1280, 128);
                layer.dense = form == SQF_CUDA_BF16;
                check_product(&cuda_family_half, &layer, 0, 20, store, &random);
            }
        }
    }
    trial_layer layer = layer_of(SQF_CUDA_SPLIT, SQF_TYPE_FP32, 19, 64, 64);
    check_product(&cuda_family_half, &layer, 0, 530, SQF_CUDA_GATE, &random);
    device->info.multiprocessors = processors;
}

/* The high plane of a dynamic mask in 16 bits. */
static void test_half_planes(void **)
{
    sqf_random random = {seed + 3};
    for (sqf_type high : {SQF_TYPE_FP16, SQF_TYPE_BF16}) {
        trial_layer layer =
            layer_of(high == SQF_TYPE_FP16 ? SQF_CUDA_NIBBLES : SQF_CUDA_FP8, SQF_TYPE_INT8, 30, 192, 64);
        layer.activations.high = high;
        layer.activations.bank = 16;
        layer.activations.high_per_bank = 4;
        layer.activations.mask = SQF_MASK_DYNAMIC;
        check_product(&cuda_family_half, &layer, 1, 20, SQF_CUDA_SET, &random);
    }
}

/* All forms with all elements. */
static void test_simple_forms(void **)
{
    sqf_random random = {seed + 4};
    for (sqf_cuda_form form :
         {SQF_CUDA_NIBBLES, SQF_CUDA_BYTES, SQF_CUDA_SPLIT, SQF_CUDA_FP8, SQF_CUDA_BF16, SQF_CUDA_FP16}) {
        for (sqf_type type :
             {SQF_TYPE_INT4, SQF_TYPE_INT8, SQF_TYPE_FP8, SQF_TYPE_FP16, SQF_TYPE_BF16, SQF_TYPE_FP8_E5M2}) {
            const bool split = form == SQF_CUDA_SPLIT;
            trial_layer layer = layer_of(form, type, 37, split ? 192 : 170, 64);
            layer.activations.zero = type == SQF_TYPE_INT8 ? SQF_ACT_ZERO_POINT : SQF_ACT_ZERO_NONE;
            layer.activations.scale = form == SQF_CUDA_BYTES ? SQF_ACT_GROUP : SQF_ACT_TOKEN;
            trial_segments(&layer, 64, form == SQF_CUDA_BYTES);
            check_product(&cuda_family_simple, &layer, 0, form == SQF_CUDA_NIBBLES ? 40 : 5, SQF_CUDA_SET, &random);
        }
    }
}

static void test_simple_stores(void **)
{
    sqf_random random = {seed + 5};
    for (sqf_cuda_store store : {SQF_CUDA_ADD, SQF_CUDA_GATE}) {
        trial_layer layer = layer_of(SQF_CUDA_BYTES, SQF_TYPE_INT8, 67, 70, 70);
        check_product(&cuda_family_simple, &layer, 0, 33, store, &random);
    }
    trial_layer layer = layer_of(SQF_CUDA_NIBBLES, SQF_TYPE_INT8, 20, 192, 64);
    layer.border = 128;
    layer.activations.high = SQF_TYPE_FP16;
    layer.activations.bank = 16;
    layer.activations.high_per_bank = 4;
    trial_segments(&layer, 64, false);
    check_product(&cuda_family_simple, &layer, 0, 3, SQF_CUDA_SET, &random);
}

/* ---- from x to y ---- */

struct float_matrix {
    size_t columns;
    std::vector<float> weights, bias;
};

static sqf_status fill_floats(void *user, size_t first, size_t count, const sqf_cuda_rows *rows, sqf_error *)
{
    const float_matrix *m = (const float_matrix *)user;
    memcpy(rows->codes, m->weights.data() + first * m->columns, count * m->columns * sizeof(float));
    return SQF_OK;
}

static void fill_random(std::vector<float> *out, sqf_random *random)
{
    for (float &value : *out) {
        value = (float)sqf_random_unit(random) - 0.5f;
    }
}

static sqf_cuda_linear *make_float_layer(float_matrix *m, size_t rows)
{
    sqf_error err;
    const sqf_cuda_segment segment = {0, (uint32_t)m->columns, 0, 0};
    sqf_cuda_linear_spec spec = {};
    spec.name = "dense";
    spec.rows = rows;
    spec.columns = spec.border = m->columns;
    spec.form = SQF_CUDA_FP32;
    spec.segments = &segment;
    spec.segment_count = 1;
    spec.activations.low = SQF_TYPE_FP32;
    spec.activations.clip = 1.0f;
    spec.bias = m->bias.empty() ? NULL : m->bias.data();
    spec.fill = fill_floats;
    spec.user = m;
    sqf_cuda_linear *linear;
    require(cuda_linear_create(device, &spec, &linear, &err), &err);
    return linear;
}

/* Dense float32 weights: activations stay what they are. */
static void check_float32(size_t rows, size_t columns, size_t tokens, bool bias, sqf_cuda_store store,
                          sqf_random *random)
{
    sqf_error err;
    float_matrix m = {columns, std::vector<float>(rows * columns), std::vector<float>(bias ? rows : 0)};
    std::vector<float> x(tokens * columns), y(tokens * rows);
    fill_random(&m.weights, random);
    fill_random(&m.bias, random);
    fill_random(&x, random);
    fill_random(&y, random);
    const std::vector<float> before = y;
    sqf_cuda_linear *linear = make_float_layer(&m, rows);
    sqf_cuda_input *input;
    require(cuda_input_create(device, &input, &err), &err);
    require(cuda_input_prepare(device, input, linear, x.data(), NULL, tokens, &err), &err);
    require(cuda_linear_forward(device, linear, input, y.data(), store, &err), &err);
    require(cuda_finish(device, &err), &err);
    for (size_t i = 0; i < y.size(); i++) {
        double sum = bias ? (double)m.bias[i % rows] : 0.0, magnitude = fabs(sum);
        for (size_t k = 0; k < columns; k++) {
            const double term = (double)x[i / rows * columns + k] * (double)m.weights[i % rows * columns + k];
            sum += term;
            magnitude += fabs(term);
        }
        assert_true(fabs(y[i] - stored(store, sum, before[i])) <= SHARE * (magnitude + fabs((double)before[i])));
    }
    cuda_input_destroy(device, input);
    cuda_linear_destroy(device, linear);
}

/* Few tokens in the kernel for everything, many through cuBLAS, rows in blocks. */
static void test_float32(void **)
{
    sqf_random random = {seed + 6};
    check_float32(9, 203, 21, false, SQF_CUDA_SET, &random);
    check_float32(9, 203, 257, false, SQF_CUDA_SET, &random);
    check_float32(33, 130, 260, true, SQF_CUDA_ADD, &random);
    check_float32(2065, 40, 257, true, SQF_CUDA_GATE, &random);
}

/* x in float, halves on the device: the rounding of x adds 2^-11 of each term, and of the largest magnitude of a token
 * 2^-28 for what is too small. */
static void check_weight_only(sqf_cuda_form form, size_t tokens, float size, sqf_random *random)
{
    sqf_error err;
    trial_layer layer = layer_of(form, SQF_TYPE_FP32, 21, 192, 64);
    trial_create(device, random, &layer);
    std::vector<float> x(tokens * layer.columns), y(tokens * layer.rows);
    for (float &v : x) {
        v = size * (float)(sqf_random_unit(random) - 0.5) * (sqf_random_below(random, 20) ? 1.0f : 1000.0f);
    }
    sqf_cuda_input *input;
    require(cuda_input_create(device, &input, &err), &err);
    require(cuda_input_prepare(device, input, layer.linear, x.data(), NULL, tokens, &err), &err);
    require(cuda_linear_forward(device, layer.linear, input, y.data(), SQF_CUDA_SET, &err), &err);
    require(cuda_finish(device, &err), &err);
    trial_input exact;
    exact.input.tokens = tokens;
    exact.input.token_stride = tokens;
    exact.scales.assign(tokens, 1.0f);
    exact.values.assign(x.begin(), x.end());
    std::vector<double> want, magnitude;
    trial_expect(layer, exact, 0, &want, &magnitude);
    for (size_t i = 0; i < y.size(); i++) {
        if (!(fabs(y[i] - want[i]) <= (0x1p-11 + SHARE) * magnitude[i])) {
            fail_msg("form %d, M=%zu, x of %g: %.9g, expected %.9g", (int)form, tokens, (double)size, (double)y[i],
                     want[i]);
        }
    }
    cuda_input_destroy(device, input);
    cuda_linear_destroy(device, layer.linear);
}

static void test_weight_only(void **)
{
    sqf_random random = {seed + 7};
    for (sqf_cuda_form form : {SQF_CUDA_NIBBLES, SQF_CUDA_BYTES, SQF_CUDA_SPLIT, SQF_CUDA_FP8}) {
        for (float size : {1.0f, 1e-20f, 1e20f}) {
            check_weight_only(form, 3, size, &random);
            check_weight_only(form, 40, size, &random);
        }
    }
}

static void test_orders(void **)
{
    in_all_orders([] {
        sqf_random random = {seed + 8};
        trial_layer layer = layer_of(SQF_CUDA_NIBBLES, SQF_TYPE_FP32, 130, 450, 64);
        check_product(&cuda_family_half, &layer, 0, 66, SQF_CUDA_SET, &random);
        trial_layer dense = layer_of(SQF_CUDA_BF16, SQF_TYPE_FP32, 20, 300, 300);
        dense.dense = true;
        check_product(&cuda_family_half, &dense, 0, 70, SQF_CUDA_SET, &random);
        trial_layer simple = layer_of(SQF_CUDA_FP8, SQF_TYPE_INT8, 20, 130, 64);
        check_product(&cuda_family_simple, &simple, 0, 5, SQF_CUDA_SET, &random);
    });
    for (const char *when : {"early", "shuffled"}) {
        choose_copies(when);
        sqf_random random = {seed + 9};
        trial_layer layer = layer_of(SQF_CUDA_BYTES, SQF_TYPE_FP32, 50, 600, 128);
        check_product(&cuda_family_half, &layer, 0, 30, SQF_CUDA_SET, &random);
    }
    choose_default();
}

int main(void)
{
    seed = test_seed("gemm_float", 31);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_forms),  cmocka_unit_test(test_half_edges),   cmocka_unit_test(test_half_stores),
        cmocka_unit_test(test_half_planes), cmocka_unit_test(test_simple_forms), cmocka_unit_test(test_simple_stores),
        cmocka_unit_test(test_float32),     cmocka_unit_test(test_weight_only),  cmocka_unit_test(test_orders),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}

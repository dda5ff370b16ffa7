/* Layers on the device as a whole: what they take of memory, which inputs they share, and products that are several:
 * dynamic masks, split weights in two planes, gates. */
#include "products.hpp"

extern "C" {
#include <cmocka.h>
}

static sqf_cuda_device *device;

static int open_device(void **)
{
    sqf_error err;
    assert_ok(cuda_open(0, &device, &err), &err);
    return 0;
}

static int close_device(void **)
{
    cuda_close(device);
    return 0;
}

static product_case plain_case(const char *name)
{
    product_case what = product_case();
    what.name = name;
    what.form = SQF_CUDA_NIBBLES;
    what.low = SQF_TYPE_INT8;
    what.high = SQF_TYPE_NONE;
    what.mask = SQF_MASK_STATIC;
    what.rows = 50;
    what.columns = what.border = 320;
    what.group = 64;
    what.tokens = 19;
    what.bias = true;
    return what;
}

/* The layer's whole product; what cuda_linear_forward adds up of parts. */
static void check_forward(const product_case &what, uint32_t unit_high, bool two_planes, uint64_t seed)
{
    sqf_random random = {seed};
    sqf_error err;
    product_layer layer(what, &random, unit_high);
    sqf_cuda_linear *linear;
    assert_ok(cuda_linear_create(device, &layer.spec, &linear, &err), &err);
    assert_true(linear->two_planes == two_planes);
    product_input given(layer, linear, &random);
    std::vector<float> y(what.tokens * what.rows);
    for (float &value : y) {
        value = (float)random_code(&random, 64);
    }
    const std::vector<float> before = y;
    std::vector<double> sums(y.size()), terms(y.size());
    for (unsigned p = 0; p < linear->layout.planes; p++) {
        reference_product(layer, given, p, &sums, &terms);
    }
    assert_ok(cuda_linear_forward(device, linear, &given.input, y.data(), what.store, &err), &err);
    assert_ok(cuda_finish(device, &err), &err);
    for (size_t i = 0; i < y.size(); i++) {
        const double p = sums[i] + (what.bias ? layer.bias[i % what.rows] : 0.0);
        const double expected = what.store == SQF_CUDA_SET   ? p
                                : what.store == SQF_CUDA_ADD ? before[i] + p
                                                             : before[i] * p / (1.0 + exp(-p));
        const double factor = what.store == SQF_CUDA_GATE ? fabs(before[i]) + 1.0 : 1.0;
        if (!(fabs(y[i] - expected) <= 2e-6 * factor * (terms[i] + fabs(p) + fabs(before[i]) + 1.0))) {
            fail_msg("%s: token %zu, row %zu: %.9g, expected %.9g", what.name, i / what.rows, i % what.rows,
                     (double)y[i], expected);
        }
    }
    cuda_linear_destroy(device, linear);
}

static void test_several_products(void **)
{
    uint64_t seed = 1;
    for (sqf_cuda_store store : {SQF_CUDA_SET, SQF_CUDA_ADD, SQF_CUDA_GATE}) {
        for (size_t tokens : {3, 40}) {
            product_case what = plain_case("split weights");
            what.form = SQF_CUDA_SPLIT;
            what.store = store;
            what.tokens = tokens;
            check_forward(what, 0, true, seed++); /* any number of high elements: two planes */
            check_forward(what, 6, true, seed++); /* no whole words */
            check_forward(what, 16, false, seed++);
            what.zero = true;
            check_forward(what, 0, true, seed++);
            check_forward(what, 16, false, seed++);
            what = plain_case("dynamic mask");
            what.high = SQF_TYPE_INT8;
            what.low = SQF_TYPE_INT4;
            what.mask = SQF_MASK_DYNAMIC;
            what.store = store;
            what.tokens = tokens;
            check_forward(what, 0, false, seed++);
            what.form = SQF_CUDA_SPLIT; /* four products */
            check_forward(what, 0, true, seed++);
        }
    }
}

/* A dropped low part of a dynamic mask costs no product: what its plane holds is not read. */
static void test_dropped_part(void **)
{
    sqf_random random = {9};
    sqf_error err;
    product_case what = plain_case("dropped");
    what.low = SQF_TYPE_NONE;
    what.high = SQF_TYPE_INT8;
    what.mask = SQF_MASK_DYNAMIC;
    what.exact = true;
    product_layer layer(what, &random);
    sqf_cuda_linear *linear;
    assert_ok(cuda_linear_create(device, &layer.spec, &linear, &err), &err);
    product_input given(layer, linear, &random);
    given.input.planes[0].codes = NULL;
    std::vector<float> y(what.tokens * what.rows);
    std::vector<double> sums(y.size()), terms(y.size());
    reference_product(layer, given, 1, &sums, &terms);
    assert_ok(cuda_linear_forward(device, linear, &given.input, y.data(), SQF_CUDA_SET, &err), &err);
    assert_ok(cuda_finish(device, &err), &err);
    for (size_t i = 0; i < y.size(); i++) {
        assert_true(y[i] == (float)(sums[i] + layer.bias[i % what.rows]));
    }
    cuda_linear_destroy(device, linear);
}

/* The plan is what creation takes, in every form; the bytes of a product are no more. */
static void test_plan(void **)
{
    for (sqf_cuda_form form : {SQF_CUDA_NIBBLES, SQF_CUDA_BYTES, SQF_CUDA_SPLIT}) {
        sqf_random random = {11};
        sqf_error err;
        product_case what = plain_case("plan");
        what.form = form;
        what.zero = true;
        product_layer layer(what, &random, form == SQF_CUDA_SPLIT ? 16 : 0);
        const size_t plan = cuda_linear_plan(device, &layer.spec);
        sqf_cuda_linear *linear; /* once for the workspace, then measured */
        assert_ok(cuda_linear_create(device, &layer.spec, &linear, &err), &err);
        cuda_linear_destroy(device, linear);
        size_t before = 0, after = 0, total;
        assert_int_equal(cudaMemGetInfo(&before, &total), cudaSuccess);
        assert_ok(cuda_linear_create(device, &layer.spec, &linear, &err), &err);
        assert_int_equal(cudaMemGetInfo(&after, &total), cudaSuccess);
        assert_int_equal(before - after, plan);
        assert_true(cuda_linear_bytes(linear) <= plan);
        const size_t tiles = (128 / 16) * 5 * cuda_tile_bytes(form);
        assert_true(cuda_linear_bytes(linear) >= tiles && plan < 2 * tiles + 65536);
        cuda_linear_destroy(device, linear);
    }
}

static bool shares(const product_case &a, const product_case &b)
{
    sqf_random random = {12};
    sqf_error err;
    product_layer first(a, &random), second(b, &random);
    sqf_cuda_linear *one, *other;
    assert_ok(cuda_linear_create(device, &first.spec, &one, &err), &err);
    assert_ok(cuda_linear_create(device, &second.spec, &other, &err), &err);
    const bool same = cuda_linear_same_input(one, other);
    assert_true(same == cuda_linear_same_input(other, one));
    cuda_linear_destroy(device, one);
    cuda_linear_destroy(device, other);
    return same;
}

static void test_same_input(void **)
{
    const product_case what = plain_case("shared");
    product_case other = what;
    other.rows = 7; /* nothing that the input sees */
    other.bias = false;
    other.form = SQF_CUDA_BYTES;
    assert_true(shares(what, other));
    other = what;
    other.group = 128; /* other segments */
    assert_false(shares(what, other));
    other = what;
    other.low = SQF_TYPE_INT4;
    assert_false(shares(what, other));
    other = what;
    other.act_group = 64;
    assert_false(shares(what, other));
    other = what;
    other.zero = true;
    assert_false(shares(what, other));
    other = what;
    other.columns = other.border = 256;
    assert_false(shares(what, other));
    product_case nibbles = what, bytes = what; /* nibbles of activations need nibbles of weights */
    nibbles.low = bytes.low = SQF_TYPE_INT4;
    bytes.form = SQF_CUDA_BYTES;
    assert_true(shares(nibbles, bytes) == !device->info.native_int4);
}

/* What fill reports ends the creation, and nothing is left. */
static sqf_status refuse(void *, size_t first, size_t, const sqf_cuda_rows *, sqf_error *err)
{
    return sqf_fail(err, SQF_E_VALUE, "row %zu is bad", first);
}

static void test_refusals(void **)
{
    sqf_random random = {13};
    sqf_error err;
    product_layer layer(plain_case("refused"), &random);
    sqf_cuda_linear *linear;
    layer.spec.fill = refuse;
    assert_fails(cuda_linear_create(device, &layer.spec, &linear, &err), SQF_E_VALUE, &err, "row 0 is bad");
    assert_null(linear);
    layer.spec.rows = 0;
    assert_fails(cuda_linear_create(device, &layer.spec, &linear, &err), SQF_E_ARG, &err, "refused");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_several_products), cmocka_unit_test(test_dropped_part),
                                       cmocka_unit_test(test_plan), cmocka_unit_test(test_same_input),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, open_device, close_device);
}

/* The dual-path product by mma.sync, executed on the host: every path and block of tokens against exact sums. */
#include "products.hpp"

extern "C" {
#include <cmocka.h>
}

struct fixture {
    sqf_cuda_device *device;
};

static sqf_cuda_device *open_arch(const char *arch)
{
    sqf_cuda_device *device;
    sqf_error err;
    setenv("SQF_EMULATION_ARCH", arch, 1);
    assert_ok(cuda_open(0, &device, &err), &err);
    unsetenv("SQF_EMULATION_ARCH");
    return device;
}

/* Runs the family on every plane and compares with the reference. */
static void check_product(sqf_cuda_device *device, const product_case &what, sqf_random *random)
{
    sqf_error err;
    product_layer layer(what, random);
    sqf_cuda_linear *linear;
    assert_ok(cuda_linear_create(device, &layer.spec, &linear, &err), &err);
    product_input given(layer, linear, random);
    std::vector<float> y(what.tokens * what.rows);
    for (float &value : y) {
        value = (float)random_code(random, 64);
    }
    const std::vector<float> before = y;
    std::vector<double> sums(y.size()), terms(y.size());
    for (unsigned p = 0; p < linear->layout.planes; p++) {
        const cuda_product product = {device,
                                      linear,
                                      &linear->weights,
                                      &given.input,
                                      p,
                                      y.data(),
                                      p == 0 ? linear->bias : NULL,
                                      p == 0 ? what.store : SQF_CUDA_ADD};
        assert_true(cuda_family_integer.serves(&product));
        assert_ok(cuda_family_integer.run(&product, &err), &err);
        reference_product(layer, given, p, &sums, &terms);
    }
    assert_ok(cuda_finish(device, &err), &err);
    for (size_t i = 0; i < y.size(); i++) {
        double expected = sums[i] + (what.bias ? layer.bias[i % what.rows] : 0.0);
        double allowed = what.exact ? 0.0 : 1e-6 * (terms[i] + fabs(expected) + fabs(before[i]));
        if (what.store == SQF_CUDA_ADD) {
            expected += before[i];
        } else if (what.store == SQF_CUDA_GATE) {
            expected = expected / (1.0 + exp(-expected)) * before[i];
            allowed = 1e-6 * (terms[i] + 1.0) * (fabs(before[i]) + 1.0);
        }
        if (!(fabs(y[i] - expected) <= allowed)) {
            fail_msg("%s: token %zu, row %zu: %.9g, expected %.9g", what.name, i / what.rows, i % what.rows,
                     (double)y[i], expected);
        }
    }
    cuda_linear_destroy(device, linear);
}

static product_case base_case(const char *name)
{
    product_case what = product_case();
    what.name = name;
    what.form = SQF_CUDA_NIBBLES;
    what.low = SQF_TYPE_INT8;
    what.high = SQF_TYPE_NONE;
    what.mask = SQF_MASK_STATIC;
    what.rows = 40;
    what.columns = what.border = 320;
    what.group = 128;
    what.tokens = 17;
    what.exact = true;
    return what;
}

static product_case split_case(const char *name, sqf_type low, sqf_type high)
{
    product_case what = base_case(name);
    what.low = low;
    what.high = high;
    what.border = 192;
    return what;
}

/* The schemes, at sizes that fill nothing evenly. */
static std::vector<product_case> schemes(void)
{
    std::vector<product_case> all = {split_case("W4A(SQ6)", SQF_TYPE_INT4, SQF_TYPE_INT8),
                                     base_case("W4A8"),
                                     split_case("W4A bf16", SQF_TYPE_INT4, SQF_TYPE_BF16),
                                     base_case("W8A8"),
                                     split_case("W4A8 bf16", SQF_TYPE_INT8, SQF_TYPE_BF16),
                                     base_case("W4A4"),
                                     split_case("W8A(SQ)", SQF_TYPE_INT4, SQF_TYPE_INT8),
                                     base_case("W8A4"),
                                     split_case("W8A8 bf16", SQF_TYPE_INT8, SQF_TYPE_BF16),
                                     split_case("groups", SQF_TYPE_INT4, SQF_TYPE_INT8),
                                     split_case("zeros", SQF_TYPE_INT4, SQF_TYPE_INT8),
                                     base_case("W4A8 groups, zeros"),
                                     split_case("dynamic", SQF_TYPE_INT4, SQF_TYPE_INT8),
                                     split_case("dynamic bf16", SQF_TYPE_INT4, SQF_TYPE_BF16),
                                     base_case("rows"),
                                     base_case("odd columns")};
    all[3].form = all[6].form = all[7].form = all[8].form = SQF_CUDA_BYTES;
    all[5].low = all[7].low = SQF_TYPE_INT4;
    all[9].act_group = 64;
    all[10].zero = true;
    all[11].zero = true;
    all[11].act_group = 128;
    all[12].mask = all[13].mask = SQF_MASK_DYNAMIC;
    all[12].border = all[13].border = 320;
    all[14].group = 0;
    all[15].columns = all[15].border = 197;
    all[15].group = 50;
    return all;
}

static void check_schemes(const char *arch, const std::vector<size_t> &tokens, uint64_t seed)
{
    sqf_cuda_device *device = open_arch(arch);
    sqf_random random = {seed};
    for (size_t count : tokens) {
        for (product_case what : schemes()) {
            what.tokens = count;
            check_product(device, what, &random);
        }
    }
    cuda_close(device);
}

/* With INT4 instructions, then without: all integers are bytes. */
static void test_schemes(void **)
{
    check_schemes("80", {1, 33}, 5);
    check_schemes("90", {17}, 6);
}

/* Every number of tokens about the edges of blocks; rows about those of tiles and of blocks. */
static void test_edges(void **)
{
    sqf_cuda_device *device = open_arch("80");
    sqf_random random = {7};
    for (size_t tokens : {2, 7, 8, 9, 16, 31, 32, 63, 64, 65}) {
        product_case what = split_case("tokens", SQF_TYPE_INT4, SQF_TYPE_INT8);
        what.tokens = tokens;
        what.columns = 192;
        what.border = 128;
        check_product(device, what, &random);
    }
    for (size_t rows : {1, 15, 16, 17, 127, 128, 129, 260}) {
        product_case what = base_case("rows");
        what.rows = rows;
        what.tokens = 5;
        what.columns = what.border = 130;
        check_product(device, what, &random);
    }
    product_case what = base_case("many rows"); /* more bands than are taken together */
    what.rows = 16 * 128 + 5;
    what.tokens = 35;
    what.columns = what.border = 64;
    check_product(device, what, &random);
    cuda_close(device);
}

/* Stores, with bias, rounding scales, and whole and split sums. */
static void test_stores(void **)
{
    sqf_cuda_device *device = open_arch("80");
    sqf_random random = {8};
    for (sqf_cuda_store store : {SQF_CUDA_SET, SQF_CUDA_ADD, SQF_CUDA_GATE}) {
        for (size_t columns : {256, 1280}) {
            for (int processors : {1, 132}) {
                product_case what = split_case("stores", SQF_TYPE_INT4, SQF_TYPE_INT8);
                device->info.multiprocessors = processors;
                what.columns = columns;
                what.border = columns * 3 / 4;
                what.bias = true;
                what.store = store;
                what.exact = false;
                what.tokens = 20;
                check_product(device, what, &random);
            }
        }
    }
    cuda_close(device);
}

/* Blocks of 128 tokens, which only run where there are enough of them: a device of one multiprocessor. */
static void test_wide(void **)
{
    sqf_cuda_device *device = open_arch("80");
    sqf_random random = {9};
    device->info.multiprocessors = 1;
    for (product_case what : schemes()) {
        what.tokens = 120;
        check_product(device, what, &random);
    }
    product_case what = split_case("many blocks", SQF_TYPE_INT4, SQF_TYPE_INT8);
    what.rows = 270;
    what.tokens = 300;
    check_product(device, what, &random);
    cuda_close(device);
}

/* The fibers in any order, copies early and late. */
static void test_orders(void **)
{
    sqf_cuda_device *device = open_arch("80");
    for (const char *copies : {"late", "early", "shuffled"}) {
        for (const char *order : emulated_orders) {
            choose_order(order, 3);
            choose_copies(copies);
            sqf_random random = {10};
            product_case what = split_case("order", SQF_TYPE_INT4, SQF_TYPE_INT8);
            what.columns = 640;
            what.border = 384;
            what.act_group = 128;
            what.zero = true;
            check_product(device, what, &random);
        }
    }
    choose_default();
    cuda_close(device);
}

/* A dozen shapes and schemes by lot. */
static void test_random(void **)
{
    sqf_cuda_device *device = open_arch("80");
    for (uint64_t seed = 1; seed <= 12; seed++) {
        sqf_random random = {seed};
        const std::vector<product_case> all = schemes();
        product_case what = all[sqf_random_u64(&random) % all.size()];
        what.rows = 1 + sqf_random_u64(&random) % 150;
        what.columns = 64 + sqf_random_u64(&random) % 700;
        what.border = what.high == SQF_TYPE_NONE || what.mask == SQF_MASK_DYNAMIC
                          ? what.columns
                          : 1 + sqf_random_u64(&random) % (what.columns - 1);
        what.tokens = 1 + sqf_random_u64(&random) % 70;
        device->info.multiprocessors = 1 + (int)(sqf_random_u64(&random) % 100);
        print_message("seed %d: %s [%zu, %zu], %zu tokens\n", (int)seed, what.name, what.rows, what.columns,
                      what.tokens);
        check_product(device, what, &random);
    }
    cuda_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_schemes), cmocka_unit_test(test_edges),
                                       cmocka_unit_test(test_stores),  cmocka_unit_test(test_wide),
                                       cmocka_unit_test(test_orders),  cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

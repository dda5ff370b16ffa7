/* Products in tensor memory, executed on the host, against sums over the very codes that the kernels read. */
#include "float_layer.hpp"

static int open_device(void **)
{
    return open_architecture("100");
}

static void run_blackwell(const layer_case &c, uint64_t seed)
{
    run_case(c, seed, [&](const cuda_product *product, sqf_error *err) {
        assert_true(cuda_family_blackwell.serves(product));
        assert_int_equal(cuda_family_blackwell.workspace(product), 0);
        return cuda_family_blackwell.run(product, err);
    });
}

#define FP4 SQF_TYPE_FP4
#define FP8 SQF_TYPE_FP8
static const layer_case cases[] = {
    {"FP4", SQF_CUDA_FP4, FP4, NONE, 131, 1800, 1800, 128, 130, false, true, SQF_CUDA_SET, false},
    {"FP4 tail", SQF_CUDA_FP4, FP4, NONE, 40, 475, 475, 64, 9, false, false, SQF_CUDA_ADD, false},
    {"FP4 rows", SQF_CUDA_FP4, FP4, NONE, 40, 475, 475, 0, 1, false, false, SQF_CUDA_GATE, false},
    {"FP4 FP8", SQF_CUDA_FP4, FP4, FP8, 130, 900, 450, 128, 70, false, true, SQF_CUDA_SET, false},
    {"FP4 FP8 groups", SQF_CUDA_FP4, FP4, FP8, 64, 700, 330, 32, 17, false, false, SQF_CUDA_SET, true},
    {"FP8 of FP4", SQF_CUDA_FP4, FP8, NONE, 64, 333, 333, 128, 65, false, false, SQF_CUDA_SET, false},
    {"FP8", SQF_CUDA_FP8, FP8, NONE, 129, 640, 640, 128, 128, false, true, SQF_CUDA_SET, false},
    {"FP8 groups", SQF_CUDA_FP8, FP8, NONE, 64, 700, 700, 96, 64, false, false, SQF_CUDA_SET, true},
};

static void test_all_schemes(void **)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run_blackwell(cases[i], 500 + i);
    }
}

static void test_orders(void **)
{
    layer_case c = cases[3];
    c.tokens = 20;
    in_all_orders([&]() { run_blackwell(c, 5); });
    choose_copies("early");
    run_blackwell(c, 6);
    choose_default();
}

/* FP4 for one generation of GPUs alone, FP8 for many tokens. */
static void test_served(void **)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run_case(cases[i], 9, [&](const cuda_product *product, sqf_error *err) {
            device->arch = 120;
            assert_false(cuda_family_blackwell.serves(product));
            device->arch = 100;
            sqf_cuda_input few = *product->input;
            cuda_product other = *product;
            few.tokens = 63;
            other.input = &few;
            assert_int_equal(cuda_family_blackwell.serves(&other), cases[i].low == FP4);
            return cuda_family_blackwell.run(product, err);
        });
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_schemes),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_served),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}

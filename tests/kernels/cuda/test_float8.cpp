/* Products of FP8 and FP4 activations, executed on the host, against sums over the very codes that the kernels read. */
#include "float_layer.hpp"

static int open_device(void **)
{
    return open_architecture("120");
}

static void run_float8(const layer_case &c, uint64_t seed)
{
    run_case(c, seed, [&](const cuda_product *product, sqf_error *err) {
        assert_true(cuda_family_float8.serves(product));
        assert_int_equal(cuda_family_float8.workspace(product), 0);
        return cuda_family_float8.run(product, err);
    });
}

#define FP4  SQF_TYPE_FP4
#define FP8  SQF_TYPE_FP8
#define BF16 SQF_TYPE_BF16
static const layer_case cases[] = {
    {"FP4", SQF_CUDA_FP4, FP4, NONE, 131, 768, 768, 128, 65, false, true, SQF_CUDA_SET, false},
    {"FP4 tail", SQF_CUDA_FP4, FP4, NONE, 40, 475, 475, 64, 9, false, false, SQF_CUDA_ADD, false},
    {"FP4 rows", SQF_CUDA_FP4, FP4, NONE, 40, 475, 475, 0, 1, false, false, SQF_CUDA_GATE, false},
    {"FP4 FP8", SQF_CUDA_FP4, FP4, FP8, 130, 900, 450, 128, 70, false, true, SQF_CUDA_SET, false},
    {"FP4 FP8 groups", SQF_CUDA_FP4, FP4, FP8, 64, 700, 330, 32, 17, false, false, SQF_CUDA_SET, true},
    {"FP4 BF16", SQF_CUDA_FP4, FP4, BF16, 64, 700, 330, 128, 17, false, false, SQF_CUDA_SET, false},
    {"FP8 of FP4", SQF_CUDA_FP4, FP8, NONE, 64, 333, 333, 128, 33, false, false, SQF_CUDA_SET, false},
    {"BF16 of FP4", SQF_CUDA_FP4, BF16, NONE, 64, 333, 333, 128, 33, false, false, SQF_CUDA_SET, false},
    {"FP8", SQF_CUDA_FP8, FP8, NONE, 129, 640, 640, 128, 128, false, true, SQF_CUDA_SET, false},
    {"FP8 BF16", SQF_CUDA_FP8, FP8, BF16, 64, 700, 330, 128, 65, false, false, SQF_CUDA_SET, false},
    {"FP8 groups", SQF_CUDA_FP8, FP8, NONE, 64, 700, 700, 96, 7, false, false, SQF_CUDA_SET, true},
    {"W4 FP8", SQF_CUDA_NIBBLES, FP8, NONE, 64, 700, 700, 128, 16, false, false, SQF_CUDA_SET, false},
    {"W4 FP8 BF16", SQF_CUDA_NIBBLES, FP8, BF16, 64, 700, 330, 128, 65, false, false, SQF_CUDA_ADD, false},
};

static void test_all_schemes(void **)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run_float8(cases[i], 300 + i);
    }
}

static void test_orders(void **)
{
    in_all_orders([&]() { run_float8(cases[3], 5); });
    choose_copies("early");
    run_float8(cases[3], 6);
    choose_default();
}

/* FP4 is for one generation, FP8 for those from 8.9 on. */
static void test_served(void **)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run_case(cases[i], 9, [&](const cuda_product *product, sqf_error *err) {
            const int arch = device->arch;
            device->arch = 80;
            assert_false(cuda_family_float8.serves(product));
            device->arch = 89;
            assert_int_equal(cuda_family_float8.serves(product), cases[i].low != FP4);
            device->arch = arch;
            return cuda_family_float8.run(product, err);
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

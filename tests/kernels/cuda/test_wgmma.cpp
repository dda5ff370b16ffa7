/* Hopper's products of many tokens, executed on the host, against sums over the very codes that the kernels read: all
 * pairs of elements and forms, grouped and direct kernels, odd shapes, tails of segments, every order of threads. */
#include "float_layer.hpp"

#include "kernels/cuda/product/wgmma_call.h"

static int open_device(void **)
{
    return open_architecture("90");
}

/* By the kernels that the case names. */
static void run_wgmma(const layer_case &c, uint64_t seed)
{
    run_case(c, seed, [&](const cuda_product *product, sqf_error *err) { return wgmma_run(product, c.grouped, err); });
}

static const layer_case cases[] = {
    {"W4A8 groups", SQF_CUDA_NIBBLES, SQF_TYPE_INT8, NONE, 131, 768, 768, 128, 65, true, true, SQF_CUDA_SET, false},
    {"W4A8 tail", SQF_CUDA_NIBBLES, SQF_TYPE_INT8, NONE, 64, 475, 475, 128, 64, true, false, SQF_CUDA_ADD, false},
    {"W4A8 long groups", SQF_CUDA_NIBBLES, SQF_TYPE_INT8, NONE, 100, 900, 900, 256, 128, true, false, SQF_CUDA_GATE,
     false},
    {"W4A8 rows", SQF_CUDA_NIBBLES, SQF_TYPE_INT8, NONE, 129, 700, 700, 0, 300, false, true, SQF_CUDA_SET, false},
    {"W8A8 groups", SQF_CUDA_BYTES, SQF_TYPE_INT8, NONE, 130, 640, 640, 128, 200, true, false, SQF_CUDA_SET, false},
    {"W8A8 rows", SQF_CUDA_BYTES, SQF_TYPE_INT8, NONE, 65, 450, 450, 0, 65, false, false, SQF_CUDA_GATE, false},
    {"FP8 groups", SQF_CUDA_FP8, SQF_TYPE_FP8, NONE, 70, 576, 576, 128, 70, true, false, SQF_CUDA_SET, false},
    {"FP8 rows", SQF_CUDA_FP8, SQF_TYPE_FP8, NONE, 33, 320, 320, 0, 257, false, true, SQF_CUDA_ADD, false},
    {"W4 FP8 groups", SQF_CUDA_NIBBLES, SQF_TYPE_FP8, NONE, 70, 576, 576, 128, 70, true, false, SQF_CUDA_SET, false},
    {"W4 FP8 rows", SQF_CUDA_NIBBLES, SQF_TYPE_FP8, NONE, 70, 130, 130, 0, 70, false, false, SQF_CUDA_SET, false},
    {"W4 BF16 groups", SQF_CUDA_NIBBLES, SQF_TYPE_BF16, NONE, 70, 300, 300, 128, 70, true, false, SQF_CUDA_SET, false},
    {"W4 BF16 rows", SQF_CUDA_NIBBLES, SQF_TYPE_BF16, NONE, 70, 300, 300, 0, 70, false, false, SQF_CUDA_SET, false},
    {"W8 BF16 groups", SQF_CUDA_BYTES, SQF_TYPE_BF16, NONE, 70, 300, 300, 64, 70, true, false, SQF_CUDA_SET, false},
    {"W8 BF16 rows", SQF_CUDA_BYTES, SQF_TYPE_BF16, NONE, 70, 300, 300, 0, 70, false, false, SQF_CUDA_SET, false},
    {"FP8 BF16 groups", SQF_CUDA_FP8, SQF_TYPE_BF16, NONE, 70, 300, 300, 64, 70, true, false, SQF_CUDA_SET, false},
    {"FP8 BF16 rows", SQF_CUDA_FP8, SQF_TYPE_BF16, NONE, 70, 300, 300, 0, 70, false, false, SQF_CUDA_SET, false},
    {"BF16", SQF_CUDA_BF16, SQF_TYPE_FP32, NONE, 131, 333, 333, 0, 300, false, true, SQF_CUDA_SET, false},
    {"two of bytes", SQF_CUDA_NIBBLES, SQF_TYPE_INT6, SQF_TYPE_INT8, 90, 500, 250, 128, 100, true, true, SQF_CUDA_SET,
     false},
    {"INT8 BF16 groups", SQF_CUDA_NIBBLES, SQF_TYPE_INT8, SQF_TYPE_BF16, 131, 900, 450, 128, 65, true, true,
     SQF_CUDA_SET, false},
    {"INT8 BF16 rows", SQF_CUDA_NIBBLES, SQF_TYPE_INT8, SQF_TYPE_BF16, 131, 900, 600, 0, 300, false, true, SQF_CUDA_ADD,
     false},
    {"W8 INT8 BF16 groups", SQF_CUDA_BYTES, SQF_TYPE_INT8, SQF_TYPE_BF16, 40, 700, 400, 128, 65, true, false,
     SQF_CUDA_SET, false},
    {"W8 INT8 BF16 rows", SQF_CUDA_BYTES, SQF_TYPE_INT8, SQF_TYPE_BF16, 40, 700, 400, 0, 65, false, false,
     SQF_CUDA_GATE, false},
    {"FP8 and BF16 groups", SQF_CUDA_FP8, SQF_TYPE_FP8, SQF_TYPE_BF16, 40, 700, 330, 128, 65, true, false, SQF_CUDA_SET,
     false},
    {"FP8 and BF16 rows", SQF_CUDA_FP8, SQF_TYPE_FP8, SQF_TYPE_BF16, 40, 700, 330, 0, 65, false, false, SQF_CUDA_SET,
     false},
    {"W4 FP8 and BF16 groups", SQF_CUDA_NIBBLES, SQF_TYPE_FP8, SQF_TYPE_BF16, 40, 700, 330, 128, 65, true, false,
     SQF_CUDA_SET, false},
    {"W4 FP8 and BF16 rows", SQF_CUDA_NIBBLES, SQF_TYPE_FP8, SQF_TYPE_BF16, 40, 700, 330, 0, 65, false, false,
     SQF_CUDA_SET, false},
};

static void test_all_schemes(void **)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run_wgmma(cases[i], 100 + i);
    }
}

/* One grouped and one direct pair, in every order, with copies early and late. */
static void test_orders(void **)
{
    layer_case grouped = {"orders", SQF_CUDA_NIBBLES, SQF_TYPE_INT8, SQF_TYPE_BF16, 130, 1500, 1100, 128, 140, true,
                          false,    SQF_CUDA_SET,     false};
    in_all_orders([&]() { run_wgmma(grouped, 7); });
    choose_copies("early");
    run_wgmma(grouped, 8);
    choose_default();
    grouped.grouped = false;
    grouped.group = 0;
    in_all_orders([&]() { run_wgmma(grouped, 9); });
}

/* Who is served: not few tokens, not zero points, not groups of the activations, not other devices. */
static void test_served(void **)
{
    layer l = {};
    l.c = cases[0];
    l.c.tokens = 64;
    l.random.state = 1;
    make_layer(&l);
    const cuda_product product = {device, l.linear, &l.linear->weights, l.input, 0, NULL, NULL, SQF_CUDA_SET};
    const int multiprocessors = device->info.multiprocessors, arch = device->arch;
    device->info.multiprocessors = 4;
    assert_true(cuda_family_hopper.serves(&product));
    device->info.multiprocessors = 132;
    assert_false(cuda_family_hopper.serves(&product));
    device->info.multiprocessors = 4;
    device->arch = 100;
    assert_false(cuda_family_hopper.serves(&product));
    device->arch = arch;
    l.input->tokens = 63;
    assert_false(cuda_family_hopper.serves(&product));
    l.input->tokens = 64;
    l.linear->layout.spec.zero = SQF_ACT_ZERO_POINT;
    assert_false(cuda_family_hopper.serves(&product));
    l.linear->layout.spec.zero = SQF_ACT_ZERO_NONE;
    l.linear->layout.segments[1].act_scale = 1;
    assert_false(cuda_family_hopper.serves(&product));
    l.linear->layout.segments[1].act_scale = 0;
    l.linear->layout.segments[1].units = 1;
    assert_false(cuda_family_hopper.serves(&product));
    device->info.multiprocessors = multiprocessors;
    cuda_input_destroy(device, l.input);
    cuda_linear_destroy(device, l.linear);
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

/* Products of few tokens, executed on the host: every form of weights with every kind of activations against exact
 * sums, whatever the order of threads and copies; results of a token that do not depend on the others; and the
 * unpacking of SPLIT weights for all masks. */
#include "trials.hpp"

#include "kernels/cuda/linear/widen.h"

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

/* y = the product with the first `tokens` of an input. */
static std::vector<float> multiply(const trial_layer &layer, const trial_input &input, unsigned plane, size_t tokens,
                                   sqf_cuda_store store, const std::vector<float> &before)
{
    sqf_cuda_input some = input.input;
    sqf_error err;
    some.tokens = tokens;
    device_vector<float> y(before);
    const cuda_product product = {device, layer.linear, &layer.linear->weights, &some,
                                  plane,  y.data,       layer.linear->bias,     store};
    require(cuda_workspace(device, cuda_family_decode.workspace(&product), &err), &err);
    require(cuda_family_decode.run(&product, &err), &err);
    require(cuda_finish(device, &err), &err);
    std::vector<float> out = y.host();
    out.resize(tokens * layer.rows);
    return out;
}

static double stored(sqf_cuda_store store, double p, float before)
{
    return store == SQF_CUDA_SET ? p : store == SQF_CUDA_ADD ? p + before : p / (1 + exp(-p)) * before;
}

static void compare(const trial_layer &layer, const std::vector<float> &y, const std::vector<double> &expected,
                    const std::vector<double> &magnitude, sqf_cuda_store store, const std::vector<float> &before,
                    size_t tokens)
{
    for (size_t i = 0; i < tokens * layer.rows; i++) {
        const double want = stored(store, expected[i], before[i]);
        const double bound = 1e-5 * (magnitude[i] + fabs(before[i])) * (store == SQF_CUDA_GATE ? fabs(before[i]) : 1);
        if (!(fabs(y[i] - want) <= bound)) {
            fail_msg("%s, %zu x %zu, %zu tokens: token %zu row %zu: expected %.9g, found %.9g (bound %g)", layer.name,
                     layer.rows, layer.columns, tokens, i / layer.rows, i % layer.rows, want, (double)y[i], bound);
        }
    }
}

/* One layer with all its tokens: each number of tokens in turn, each way to store. */
static void check_layer(trial_layer layer, unsigned plane, const std::vector<size_t> &token_counts)
{
    sqf_random random = {seed + layer.rows * 31 + layer.columns};
    trial_create(device, &random, &layer);
    trial_input input;
    const size_t most = *std::max_element(token_counts.begin(), token_counts.end());
    trial_prepare(&random, layer, plane, most, &input);
    std::vector<double> expected, magnitude;
    trial_expect(layer, input, plane, &expected, &magnitude);
    std::vector<float> before(most * layer.rows);
    for (float &b : before) {
        b = (float)sqf_random_unit(&random) - 0.5f;
    }
    std::vector<float> all;
    const sqf_cuda_store stores[] = {SQF_CUDA_SET, SQF_CUDA_ADD, SQF_CUDA_GATE};
    for (size_t i = 0; i < token_counts.size(); i++) {
        const sqf_cuda_store store = stores[i % 3];
        const std::vector<float> y = multiply(layer, input, plane, token_counts[i], store, before);
        compare(layer, y, expected, magnitude, store, before, token_counts[i]);
        if (store == SQF_CUDA_SET) {
            const size_t shared = std::min(all.size(), y.size());
            if (shared && memcmp(all.data(), y.data(), shared * sizeof(float)) != 0) {
                fail_msg("%s, %zu x %zu: results with %zu tokens are not those with fewer", layer.name, layer.rows,
                         layer.columns, token_counts[i]);
            }
            all = y.size() > all.size() ? y : all;
        }
    }
    cuda_linear_destroy(device, layer.linear);
}

static sqf_act_spec integers(sqf_type low, sqf_act_scale scale)
{
    sqf_act_spec spec = {};
    spec.low = low;
    spec.bank = 64;
    spec.scale = scale;
    spec.group = scale == SQF_ACT_GROUP ? 128 : 0;
    spec.clip = 1.0f;
    return spec;
}

static sqf_act_spec sections(sqf_type low, sqf_type high)
{
    sqf_act_spec spec = integers(low, SQF_ACT_TOKEN);
    spec.high = high;
    spec.high_per_bank = 16;
    spec.mask = SQF_MASK_STATIC;
    return spec;
}

static trial_layer make(const char *name, sqf_cuda_form form, size_t rows, size_t columns, sqf_act_spec activations)
{
    trial_layer layer;
    layer.name = name;
    layer.form = form;
    layer.rows = rows;
    layer.columns = columns;
    layer.activations = activations;
    layer.unit_high = form == SQF_CUDA_SPLIT ? 16 : 0;
    layer.biased = rows % 2;
    trial_segments(&layer, 128, activations.scale == SQF_ACT_GROUP);
    return layer;
}

struct shape {
    size_t rows, columns;
};

static const shape shapes[] = {{1, 64}, {17, 65}, {130, 200}, {17, 1000}, {260, 256}, {40, 2048}};

static const std::vector<size_t> every_count = {1, 2, 3, 7, 8, 9, 15, 16, 17, 40}, few_counts = {1, 5, 9, 33};

/* All shapes with one form and kind; SPLIT takes whole units alone. */
static void check_form(const char *name, sqf_cuda_form form, sqf_act_spec activations)
{
    for (const shape &size : shapes) {
        if (form != SQF_CUDA_SPLIT || size.columns % 64 == 0) {
            check_layer(make(name, form, size.rows, size.columns, activations), 0,
                        size.rows * size.columns < 5000 ? every_count : few_counts);
        }
    }
}

static void test_integers(void **)
{
    const sqf_act_spec bytes = integers(SQF_TYPE_INT8, SQF_ACT_TOKEN);
    check_form("nibbles by bytes", SQF_CUDA_NIBBLES, bytes);
    check_form("nibbles by nibbles", SQF_CUDA_NIBBLES, integers(SQF_TYPE_INT4, SQF_ACT_TOKEN));
    check_form("bytes by bytes", SQF_CUDA_BYTES, bytes);
    check_form("split by bytes", SQF_CUDA_SPLIT, bytes);
    check_form("nibbles by groups of bytes", SQF_CUDA_NIBBLES, integers(SQF_TYPE_INT8, SQF_ACT_GROUP));
    check_form("split by groups of bytes", SQF_CUDA_SPLIT, integers(SQF_TYPE_INT8, SQF_ACT_GROUP));
}

static void test_halves(void **)
{
    const sqf_act_spec none = integers(SQF_TYPE_FP32, SQF_ACT_TOKEN);
    check_form("nibbles by halves", SQF_CUDA_NIBBLES, none);
    check_form("bytes by halves", SQF_CUDA_BYTES, none);
    check_form("split by halves", SQF_CUDA_SPLIT, none);
    check_form("fp8 by halves", SQF_CUDA_FP8, none);
    check_form("bf16", SQF_CUDA_BF16, none);
    check_form("fp16", SQF_CUDA_FP16, none);
    check_form("fp8 by fp8", SQF_CUDA_FP8, integers(SQF_TYPE_FP8, SQF_ACT_TOKEN));
    check_form("fp8 by bytes", SQF_CUDA_FP8, integers(SQF_TYPE_INT8, SQF_ACT_TOKEN));
    check_form("bytes by fp8", SQF_CUDA_BYTES, integers(SQF_TYPE_FP8, SQF_ACT_TOKEN));
}

/* Static masks: two sections of other elements; the border on an even unit, and on an odd one. */
static void test_sections(void **)
{
    const struct {
        const char *name;
        sqf_cuda_form form;
        sqf_type low, high;
    } cases[] = {{"nibbles, sections of nibbles and bytes", SQF_CUDA_NIBBLES, SQF_TYPE_INT4, SQF_TYPE_INT8},
                 {"bytes, sections of bytes", SQF_CUDA_BYTES, SQF_TYPE_INT4, SQF_TYPE_INT8},
                 {"nibbles, sections of bytes and bf16", SQF_CUDA_NIBBLES, SQF_TYPE_INT8, SQF_TYPE_BF16},
                 {"nibbles, sections of nibbles and bf16", SQF_CUDA_NIBBLES, SQF_TYPE_INT4, SQF_TYPE_BF16},
                 {"fp8, sections of fp8 and bf16", SQF_CUDA_FP8, SQF_TYPE_FP8, SQF_TYPE_BF16},
                 {"bytes, sections of bytes and bf16", SQF_CUDA_BYTES, SQF_TYPE_INT8, SQF_TYPE_BF16},
                 {"split, sections of bytes and fp16", SQF_CUDA_SPLIT, SQF_TYPE_INT8, SQF_TYPE_FP16},
                 {"split, sections of bytes and bf16", SQF_CUDA_SPLIT, SQF_TYPE_INT8, SQF_TYPE_BF16},
                 {"split, sections of bytes", SQF_CUDA_SPLIT, SQF_TYPE_INT4, SQF_TYPE_INT8}};
    for (const auto &c : cases) {
        for (const size_t border : {384, 576}) {
            trial_layer layer = make(c.name, c.form, 33, 1024, sections(c.low, c.high));
            layer.border = border;
            trial_segments(&layer, 128, false);
            check_layer(layer, 0, few_counts);
        }
    }
}

/* Dynamic masks: the high plane of an input. */
static void test_planes(void **)
{
    for (unsigned plane = 0; plane < 2; plane++) {
        sqf_act_spec spec = sections(SQF_TYPE_INT4, SQF_TYPE_INT8);
        spec.mask = SQF_MASK_DYNAMIC;
        check_layer(make("nibbles, a plane of two", SQF_CUDA_NIBBLES, 50, 640, spec), plane, few_counts);
        check_layer(make("split, a plane of two", SQF_CUDA_SPLIT, 50, 640, spec), plane, few_counts);
    }
}

static void test_zero_points(void **)
{
    for (const sqf_cuda_form form : {SQF_CUDA_NIBBLES, SQF_CUDA_BYTES, SQF_CUDA_SPLIT}) {
        sqf_act_spec spec = integers(SQF_TYPE_INT8, SQF_ACT_TOKEN);
        spec.zero = SQF_ACT_ZERO_POINT;
        check_layer(make("zero points", form, 50, 704, spec), 0, {1, 8, 3, 40});
        spec.scale = SQF_ACT_GROUP;
        check_layer(make("zero points of groups", form, 20, 640, spec), 0, {1, 8, 3, 12});
    }
    sqf_act_spec spec = integers(SQF_TYPE_INT4, SQF_ACT_TOKEN);
    spec.zero = SQF_ACT_ZERO_POINT;
    check_layer(make("zero points of nibbles", SQF_CUDA_NIBBLES, 50, 700, spec), 0, {1, 8, 3, 9});
}

/* Segments of other lengths: one for all, one unit, three units, and no rule at all. */
static void test_segments(void **)
{
    for (const size_t group : {32, 64, 100, 192, 256, 4096}) {
        trial_layer layer = make("segments", SQF_CUDA_NIBBLES, 40, 900,
                                 integers(SQF_TYPE_INT8, group % 3 ? SQF_ACT_TOKEN : SQF_ACT_GROUP));
        trial_segments(&layer, group, group % 3 == 0);
        check_layer(layer, 0, few_counts);
        layer.form = SQF_CUDA_BF16;
        layer.dense = group == 4096;
        layer.activations = integers(SQF_TYPE_FP32, SQF_ACT_TOKEN);
        if (layer.dense) {
            trial_segments(&layer, group, false);
            check_layer(layer, 0, few_counts);
        }
    }
    trial_layer layer =
        make("segments without a rule", SQF_CUDA_BYTES, 40, 900, integers(SQF_TYPE_INT8, SQF_ACT_GROUP));
    layer.segments = {{0, 128, 0, 0}, {128, 256, 0, 0}, {256, 700, 1, 0}, {700, 900, 2, 0}};
    check_layer(layer, 0, few_counts);
    layer.activations = integers(SQF_TYPE_FP32, SQF_ACT_TOKEN);
    layer.segments = {{0, 128, 0, 0}, {128, 192, 0, 0}, {192, 700, 0, 0}, {700, 900, 0, 0}};
    check_layer(layer, 0, few_counts);
}

/* Shares of high elements from few to many. */
static void test_shares(void **)
{
    for (const uint32_t unit_high : {4u, 8u, 20u, 32u, 64u}) {
        trial_layer layer = make("shares", SQF_CUDA_SPLIT, 33, 448, integers(SQF_TYPE_INT8, SQF_ACT_TOKEN));
        layer.unit_high = unit_high;
        check_layer(layer, 0, few_counts);
        layer.activations = integers(SQF_TYPE_FP32, SQF_ACT_TOKEN);
        check_layer(layer, 0, {1, 9});
    }
}

/* Rows for few multiprocessors: columns are cut, and the block that comes last adds. */
static void test_splits(void **)
{
    const int multiprocessors = device->info.multiprocessors;
    for (const int many : {10, 100}) {
        device->info.multiprocessors = many;
        in_all_orders([]() {
            check_layer(make("splits", SQF_CUDA_NIBBLES, 20, 8000, integers(SQF_TYPE_INT8, SQF_ACT_TOKEN)), 0, {1, 9});
        });
        check_layer(make("splits", SQF_CUDA_SPLIT, 21, 4096, integers(SQF_TYPE_INT8, SQF_ACT_GROUP)), 0, few_counts);
        check_layer(make("splits", SQF_CUDA_BF16, 20, 4000, integers(SQF_TYPE_FP32, SQF_ACT_TOKEN)), 0, {1, 9, 16});
    }
    device->info.multiprocessors = multiprocessors;
}

/* The same bits in every order of threads and copies. */
static void test_orders(void **)
{
    in_all_orders([]() {
        for (const char *copies : {"late", "early", "shuffled"}) {
            choose_copies(copies);
            check_layer(make("orders", SQF_CUDA_SPLIT, 40, 1216, integers(SQF_TYPE_INT8, SQF_ACT_TOKEN)), 0, {1, 9});
            check_layer(make("orders", SQF_CUDA_NIBBLES, 70, 1600, integers(SQF_TYPE_INT4, SQF_ACT_GROUP)), 0, {3});
        }
    });
}

/* ---- unpacking ---- */

/* One tile: masks by rows, 64 bits each. */
static void unpack_kernel(const uint32_t *tile, const uint8_t *list, uint32_t unit_high, int8_t *low, int8_t *high)
{
    const uint32_t lane = threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t marks[4], bytes[4][2];
    for (int i = 0; i < 4; i++) {
        marks[i] = split_marks(tile[lane * 4 + i]);
    }
    const uint32_t ranks = split_ranks(marks);
    uint32_t lists[4][2];
    const uint8_t *row = list + g * unit_high, *row8 = row + 8 * unit_high;
    split_fetch<0>(row, ranks, &lists[0][0], &lists[0][1]);
    split_fetch<1>(row8, ranks, &lists[1][0], &lists[1][1]);
    split_fetch<2>(row, ranks, &lists[2][0], &lists[2][1]);
    split_fetch<3>(row8, ranks, &lists[3][0], &lists[3][1]);
    for (int i = 0; i < 4; i++) {
        split_expand(marks[i], lists[i][0], lists[i][1], bytes[i]);
        const uint32_t nibbles = tile[lane * 4 + i] ^ marks[i], even = widen_even(nibbles), odd = widen_odd(nibbles);
        for (unsigned k = 0; k < 8; k++) {
            const size_t at = (g + i % 2 * 8) * 64 + i / 2 * 32 + 8 * t + k;
            high[at] = (int8_t)(bytes[i][k / 4] >> 8 * (k % 4));
            low[at] = (int8_t)((k % 2 ? odd : even) >> 8 * (k / 2));
        }
    }
}

static void check_unpacking(sqf_random *random, const uint64_t masks[16], uint32_t unit_high)
{
    std::vector<int8_t> low(1024), high(1024), found_low(1024), found_high(1024);
    std::vector<uint8_t> list(16 * unit_high + 16, 0x55);
    std::vector<uint32_t> tile(128, 0);
    for (unsigned row = 0; row < 16; row++) {
        uint32_t count = 0;
        for (unsigned k = 0; k < 64; k++) {
            unsigned upper;
            const size_t byte = cuda_nibble_offset(row, k, &upper);
            const bool marked = masks[row] >> k & 1;
            low[row * 64 + k] = marked ? 0 : (int8_t)(16 * trial_integer(random, -7, 7));
            high[row * 64 + k] = marked ? (int8_t)trial_integer(random, -127, 127) : 0;
            ((uint8_t *)tile.data())[byte] |= (uint8_t)((marked ? 8 : (low[row * 64 + k] / 16) & 15) << 4 * (int)upper);
            if (marked) {
                list[row * unit_high + count++] = (uint8_t)high[row * 64 + k];
            }
        }
    }
    must_launch(cuda_launch(device->stream, unpack_kernel, dim3(1), dim3(32), 0, tile.data(), list.data(), unit_high,
                            found_low.data(), found_high.data()));
    assert_memory_equal(low.data(), found_low.data(), 1024);
    assert_memory_equal(high.data(), found_high.data(), 1024);
}

static void test_unpacking(void **)
{
    sqf_random random = {seed};
    for (uint32_t unit_high = 4; unit_high <= 64; unit_high += 4) {
        for (int trial = 0; trial < 40; trial++) {
            uint64_t masks[16] = {};
            for (unsigned row = 0; row < 16; row++) {
                /* Scattered, at either end, and all together in one place. */
                for (uint32_t left = unit_high; left > 0;) {
                    const unsigned first = (unsigned)sqf_random_below(&random, 65 - unit_high);
                    const unsigned k = trial % 4 == 0   ? 64 - left
                                       : trial % 4 == 1 ? left - 1
                                       : trial % 4 == 2 ? (unsigned)sqf_random_below(&random, 64)
                                                        : first + (unsigned)sqf_random_below(&random, unit_high);
                    left -= !(masks[row] >> k & 1);
                    masks[row] |= (uint64_t)1 << k;
                }
            }
            check_unpacking(&random, masks, unit_high);
        }
    }
}

/* All 256 marks of a register of eight columns, and all values of a register of nibbles in each place. */
static void test_registers(void **)
{
    for (uint32_t mask = 0; mask < 256; mask++) {
        uint32_t marks = 0, rank = 0, natural[2];
        for (int k = 0; k < 8; k++) {
            marks |= (mask >> k & 1) << (4 * k + 3);
        }
        assert_int_equal(split_marks(marks | (0x77777777u & ~(marks >> 1 | marks >> 2 | marks >> 3))), marks);
        split_expand(marks, 0x04030201u, 0x08070605u, natural);
        for (int k = 0; k < 8; k++) {
            rank += mask >> k & 1;
            assert_int_equal(natural[k / 4] >> 8 * (k % 4) & 0xff, mask >> k & 1 ? rank : 0);
        }
    }
    for (int place = 0; place < 8; place++) {
        for (uint32_t code = 0; code < 16; code++) {
            const uint32_t others = 0x31f80c57u & ~(15u << 4 * place), word = others | code << 4 * place;
            const int value = code < 8 ? (int)code : (int)code - 16;
            const uint32_t fp16[4] = {widen_nibble_fp16<0>(word), widen_nibble_fp16<1>(word),
                                      widen_nibble_fp16<2>(word), widen_nibble_fp16<3>(word)};
            const uint32_t bf16[4] = {widen_nibble_bf16<0>(word), widen_nibble_bf16<1>(word),
                                      widen_nibble_bf16<2>(word), widen_nibble_bf16<3>(word)};
            assert_true(emulated_fp16_value(fp16[place % 4] >> 16 * (place / 4) & 0xffff) == value);
            assert_true(emulated_bf16_value(bf16[place % 4] >> 16 * (place / 4) & 0xffff) == value);
            assert_int_equal((int8_t)((place % 2 ? widen_odd(word) : widen_even(word)) >> place / 2 * 8), 16 * value);
            assert_true((split_marks(word) >> (4 * place + 3) & 1) == (code == 8));
        }
    }
}

static void test_bytes(void **)
{
    for (int place = 0; place < 4; place++) {
        for (uint32_t code = 0; code < 256; code++) {
            const uint32_t word = (0x31f80c57u & ~(255u << 8 * place)) | code << 8 * place, shift = 16 * (place / 2);
            const bool odd = place % 2;
            const uint32_t fp16 = odd ? widen_byte_fp16<1>(word) : widen_byte_fp16<0>(word);
            const uint32_t bf16 = odd ? widen_byte_bf16<1>(word) : widen_byte_bf16<0>(word);
            assert_true(emulated_fp16_value(fp16 >> shift & 0xffff) == (int8_t)code);
            assert_true(emulated_bf16_value(bf16 >> shift & 0xffff) == (int8_t)code);
            if ((code & 0x7f) != 0x7f) {
                const uint32_t small = odd ? widen_fp8_fp16<1>(word) : widen_fp8_fp16<0>(word);
                const uint32_t whole = odd ? widen_fp8_bf16<1>(word) : widen_fp8_bf16<0>(word);
                assert_true(emulated_fp16_value(small >> shift & 0xffff) == fp8_value(code) / 256);
                assert_true(emulated_bf16_value(whole >> shift & 0xffff) == fp8_value(code));
            }
        }
    }
}

int main(void)
{
    seed = test_seed("gemv", 77);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registers),   cmocka_unit_test(test_bytes),  cmocka_unit_test(test_unpacking),
        cmocka_unit_test(test_integers),    cmocka_unit_test(test_halves), cmocka_unit_test(test_sections),
        cmocka_unit_test(test_planes),      cmocka_unit_test(test_shares), cmocka_unit_test(test_segments),
        cmocka_unit_test(test_zero_points), cmocka_unit_test(test_splits), cmocka_unit_test(test_orders)};
    return cmocka_run_group_tests(tests, open_device, close_device);
}

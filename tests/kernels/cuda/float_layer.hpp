/* A layer with random weights and an input of it in emulated device memory, and what its product must be: sums in
 * double precision over the very codes that the kernels read. */
#ifndef SQF_TESTS_KERNELS_CUDA_FLOAT_LAYER_HPP
#define SQF_TESTS_KERNELS_CUDA_FLOAT_LAYER_HPP

#include <math.h>

#include <vector>

#include "emulated.hpp"

extern "C" {
#include "format/type.h"
}

#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/operations.h"

static sqf_cuda_device *device;

/* For group fixtures: the device of these tests, as a GPU of the architecture, and its end. */
static int open_architecture(const char *architecture)
{
    sqf_error err;
    setenv("SQF_EMULATION_ARCH", architecture, 1);
    assert_ok(cuda_open(0, &device, &err), &err);
    return 0;
}

static int close_device(void **)
{
    cuda_close(device);
    unsetenv("SQF_EMULATION_ARCH");
    return 0;
}

/* A layer of random weights. */
struct layer_case {
    const char *name;
    sqf_cuda_form form;
    sqf_type low, high;                          /* of the activations; high NONE: one section */
    size_t rows, columns, border, group, tokens; /* group 0: the whole section */
    bool grouped, bias;                          /* grouped: the kernel of that name, where there is one */
    sqf_cuda_store store;
    bool act_groups; /* a scale of the activations for each segment */
};

struct layer {
    layer_case c;
    std::vector<sqf_cuda_segment> segments;
    std::vector<double> weights; /* [rows][columns] */
    std::vector<float> scales;   /* [rows][segments] */
    std::vector<float> bias;
    sqf_random random;
    sqf_cuda_linear *linear;
    sqf_cuda_input *input;
};

static inline unsigned code_bytes(sqf_cuda_form form)
{
    return form == SQF_CUDA_BF16 ? 2 : 1;
}

static inline void put_weight(layer *l, size_t i, uint8_t *to)
{
    const uint64_t draw = sqf_random_u64(&l->random);
    if (l->c.form == SQF_CUDA_BF16) {
        const uint16_t half = sqf_bf16_from_float((float)((int)(draw % 2001) - 1000) * 0.01f);
        memcpy(to, &half, 2);
        l->weights[i] = sqf_bf16_to_float(half);
    } else if (l->c.form == SQF_CUDA_FP8) {
        *to = (uint8_t)(draw % 255 % 128 == 127 ? 3 : draw % 255);
        l->weights[i] = sqf_type_decode(SQF_TYPE_FP8, *to);
    } else if (l->c.form == SQF_CUDA_FP4) {
        static const int grid[8] = {0, 1, 2, 3, 4, 6, 8, 12};
        const int code = draw & 8 ? -grid[draw & 7] : grid[draw & 7];
        *to = (uint8_t)code;
        l->weights[i] = code;
    } else {
        const int largest = l->c.form == SQF_CUDA_NIBBLES ? 7 : 127;
        const int code = (int)(draw % (unsigned)(2 * largest + 1)) - largest;
        *to = (uint8_t)code;
        l->weights[i] = code;
    }
}

static inline sqf_status fill(void *user, size_t first, size_t count, const sqf_cuda_rows *rows, sqf_error *)
{
    layer *l = (layer *)user;
    for (size_t i = 0; i < count * l->c.columns; i++) {
        put_weight(l, first * l->c.columns + i, (uint8_t *)rows->codes + i * code_bytes(l->c.form));
    }
    const size_t segments = l->segments.size();
    for (size_t i = 0; rows->scales && i < count * segments; i++) {
        const float scale = i % 37 == 5 ? 0.0f : 0.001f * (float)(1 + sqf_random_u64(&l->random) % 1000);
        l->scales[first * segments + i] = l->c.form == SQF_CUDA_BF16 ? 1.0f : scale;
        rows->scales[i] = l->scales[first * segments + i];
        for (size_t k = l->segments[i % segments].begin; scale == 0.0f && k < l->segments[i % segments].end; k++) {
            const size_t at = i / segments * l->c.columns + k;
            memset((uint8_t *)rows->codes + at * code_bytes(l->c.form), 0, code_bytes(l->c.form));
            l->weights[first * l->c.columns + at] = 0;
        }
    }
    return SQF_OK;
}

static inline void make_segments(layer *l)
{
    for (size_t at = 0; at < l->c.columns;) {
        const bool high = at >= l->c.border;
        const size_t stop = high ? l->c.columns : l->c.border;
        const size_t end = l->c.group && at + l->c.group < stop ? at + l->c.group : stop;
        l->segments.push_back(
            sqf_cuda_segment{(uint32_t)at, (uint32_t)end, l->c.act_groups ? (uint32_t)l->segments.size() : 0, high});
        at = end;
    }
}

static inline void make_layer(layer *l)
{
    sqf_error err;
    make_segments(l);
    l->weights.resize(l->c.rows * l->c.columns);
    l->scales.assign(l->c.rows * l->segments.size(), 1.0f);
    for (size_t i = 0; l->c.bias && i < l->c.rows; i++) {
        l->bias.push_back((float)i * 0.25f - 3.0f);
    }
    sqf_cuda_linear_spec spec = {};
    spec.name = l->c.name;
    spec.rows = l->c.rows;
    spec.columns = l->c.columns;
    spec.form = l->c.form;
    spec.segments = l->segments.data();
    spec.segment_count = l->segments.size();
    spec.activations.low = l->c.low;
    spec.activations.high = l->c.high;
    spec.activations.clip = 1.0f;
    spec.activations.scale_type = SQF_TYPE_FP32;
    spec.activations.scale = l->c.act_groups ? SQF_ACT_GROUP : SQF_ACT_TOKEN;
    if (l->c.high != SQF_TYPE_NONE) {
        spec.activations.bank = 16;
        spec.activations.high_per_bank = 8;
        spec.activations.mask = SQF_MASK_STATIC;
    }
    spec.border = l->c.border;
    spec.bias = l->c.bias ? l->bias.data() : NULL;
    spec.fill = fill;
    spec.user = l;
    assert_ok(cuda_linear_create(device, &spec, &l->linear, &err), &err);
    std::vector<float> x(l->c.tokens * l->c.columns);
    for (size_t i = 0; i < x.size(); i++) {
        x[i] = (float)((int)(sqf_random_u64(&l->random) % 4001) - 2000) * 0.001f;
        if (i / l->c.columns == 3) {
            x[i] = 0.0f; /* a token without a scale */
        }
    }
    void *device_x;
    assert_ok(cuda_allocate(device, x.size() * sizeof(float), &device_x, &err), &err);
    assert_ok(cuda_upload(device, device_x, x.data(), x.size() * sizeof(float), &err), &err);
    assert_ok(cuda_input_create(device, &l->input, &err), &err);
    assert_ok(cuda_input_prepare(device, l->input, l->linear, (const float *)device_x, NULL, l->c.tokens, &err), &err);
    cuda_release(device, device_x);
}

/* Element `column` of a segment of the token's codes. */
static inline double activation(const layer *l, size_t token, const cuda_segment *segment, size_t column)
{
    const cuda_input_layout *layout = &l->linear->layout;
    const unsigned unit = segment->unit + (unsigned)(column / 64), in = column % 64;
    const cuda_element element = segment->high ? layout->high_element : layout->low_element;
    const unsigned low = layout->low_units * cuda_unit_bytes(layout->low_element);
    const uint8_t *row = l->input->planes[0].codes + token * layout->stride[0];
    row +=
        segment->high ? low + (unit - layout->low_units) * cuda_unit_bytes(element) : unit * cuda_unit_bytes(element);
    if (element == CUDA_BF16) {
        uint16_t half;
        memcpy(&half, row + 2 * cuda_half_unit_place(in), 2);
        return sqf_bf16_to_float(half);
    }
    if (element == CUDA_FP4) {
        return cuda_e2m1_twice((uint32_t)row[in / 2] >> in % 2 * 4);
    }
    const uint8_t code = row[cuda_byte_unit_place(in)];
    return element == CUDA_FP8 ? (double)sqf_type_decode(SQF_TYPE_FP8, code) : (double)(int8_t)code;
}

static inline double act_scale(const layer *l, size_t token, const cuda_segment *segment)
{
    const cuda_input_layout *layout = &l->linear->layout;
    const cuda_element element = segment->high ? layout->high_element : layout->low_element;
    return element == CUDA_BF16 ? 1.0 : l->input->planes[0].scales[segment->act_scale * l->input->token_stride + token];
}

/* Compares y for all tokens and rows; every third row is enough of large ones. */
static inline void check(const layer *l, const std::vector<float> &before, const float *y)
{
    const cuda_input_layout *layout = &l->linear->layout;
    std::vector<double> x(l->c.columns);
    for (size_t token = 0; token < l->c.tokens; token++) {
        for (uint32_t s = 0; s < layout->segment_count; s++) {
            const cuda_segment *segment = &layout->segments[s];
            for (size_t k = segment->begin; k < segment->end; k++) {
                x[k] = activation(l, token, segment, k - segment->begin) * act_scale(l, token, segment);
            }
        }
        for (size_t row = token % 3; row < l->c.rows; row += 3) {
            double sum = l->c.bias ? l->bias[row] : 0, magnitude = fabs(sum);
            for (size_t s = 0; s < l->segments.size(); s++) {
                for (size_t k = l->segments[s].begin; k < l->segments[s].end; k++) {
                    const double term =
                        x[k] * l->weights[row * l->c.columns + k] * l->scales[row * l->segments.size() + s];
                    sum += term;
                    magnitude += fabs(term);
                }
            }
            const size_t at = token * l->c.rows + row;
            double want = sum, room = 2e-6 * magnitude + 1e-30;
            if (l->c.store == SQF_CUDA_ADD) {
                want += before[at];
                room += 2e-7 * fabs(before[at]);
            } else if (l->c.store == SQF_CUDA_GATE) {
                want = sum / (1 + exp(-sum)) * before[at];
                room = (room + 2e-6 * fabs(sum)) * 1.2 * fabs(before[at]);
            }
            if (!(fabs(y[at] - want) <= room)) {
                fail_msg("%s: token %zu, row %zu: %.9g, expected %.9g, room %.3g", l->c.name, token, row, (double)y[at],
                         want, room);
            }
        }
    }
}

/* Runs the product by `run` and checks it, and that nothing beyond y was written. */
template <typename Run> static inline void run_case(const layer_case &c, uint64_t seed, Run run)
{
    sqf_error err;
    layer l = {};
    l.c = c;
    l.random.state = seed;
    make_layer(&l);
    void *memory;
    std::vector<float> before(c.tokens * c.rows + 16, 777.0f), y(before.size());
    for (size_t i = 0; i < c.tokens * c.rows; i++) {
        before[i] = (float)(i % 19) - 9.0f;
    }
    assert_ok(cuda_allocate(device, before.size() * sizeof(float), &memory, &err), &err);
    assert_ok(cuda_upload(device, memory, before.data(), before.size() * sizeof(float), &err), &err);
    const cuda_product product = {device, l.linear,        &l.linear->weights, l.input,
                                  0,      (float *)memory, l.linear->bias,     c.store};
    assert_ok(run(&product, &err), &err);
    assert_ok(cuda_download(device, y.data(), memory, y.size() * sizeof(float), &err), &err);
    check(&l, before, y.data());
    for (size_t i = c.tokens * c.rows; i < y.size(); i++) {
        assert_true(y[i] == 777.0f);
    }
    cuda_release(device, memory);
    cuda_input_destroy(device, l.input);
    cuda_linear_destroy(device, l.linear);
}

#define NONE SQF_TYPE_NONE

#endif

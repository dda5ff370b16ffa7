/* Random layers of every form with inputs of every kind of element, written code by code, and what their products must
 * be: for the tests of products of few tokens. */
#ifndef SQF_TESTS_KERNELS_CUDA_TRIALS_HPP
#define SQF_TESTS_KERNELS_CUDA_TRIALS_HPP

#include <math.h>

#include <algorithm>
#include <vector>

#include "emulated.hpp"

#include "kernels/cuda/emulation/halves.h"
#include "kernels/cuda/operations.h"

static inline void require(sqf_status status, const sqf_error *err)
{
    if (status != SQF_OK) {
        fail_msg("%s", err->text);
    }
}

/* A layer: what the device gets and the numbers it stands for. */
struct trial_layer {
    const char *name = "trial";
    sqf_cuda_form form = SQF_CUDA_NIBBLES;
    size_t rows = 1, columns = 64;
    sqf_act_spec activations = {};
    std::vector<sqf_cuda_segment> segments;
    uint32_t unit_high = 0; /* SPLIT */
    size_t border = 0;      /* columns of the low section; 0 without a static mask */
    bool dense = false;     /* no scales */
    bool biased = false;
    /* by trial_create */
    std::vector<uint16_t> codes; /* [rows][columns] */
    std::vector<int8_t> high;
    std::vector<uint8_t> mask;
    std::vector<float> scales, high_scales, bias;
    sqf_cuda_linear *linear = NULL;
};

static inline float trial_scale(sqf_random *random)
{
    return 0.01f + (float)sqf_random_unit(random) * 0.1f;
}

static inline int32_t trial_integer(sqf_random *random, int32_t lowest, int32_t largest)
{
    return lowest + (int32_t)sqf_random_below(random, (uint64_t)(largest - lowest + 1));
}

/* Bits of a finite e4m3. */
static inline uint32_t trial_fp8(sqf_random *random)
{
    const uint32_t bits = (uint32_t)sqf_random_below(random, 256);
    return (bits & 0x7f) == 0x7f ? bits ^ 1 : bits;
}

static inline double fp8_value(uint32_t bits)
{
    const int exponent = bits >> 3 & 15, fraction = bits & 7;
    const double magnitude = exponent ? ldexp(8 + fraction, exponent - 10) : ldexp(fraction, -9);
    return bits & 0x80 ? -magnitude : magnitude;
}

/* A random code of weights; integers in 16 bits. */
static inline uint16_t trial_code(sqf_random *random, sqf_cuda_form form)
{
    switch (form) {
    case SQF_CUDA_NIBBLES:
    case SQF_CUDA_SPLIT: return (uint16_t)trial_integer(random, -7, 7);
    case SQF_CUDA_BYTES: return (uint16_t)trial_integer(random, -127, 127);
    case SQF_CUDA_FP8: return (uint16_t)trial_fp8(random);
    case SQF_CUDA_BF16: return (uint16_t)emulated_bf16_bits(sqf_random_unit(random) * 2 - 1);
    default: return (uint16_t)emulated_fp16_bits(sqf_random_unit(random) * 2 - 1);
    }
}

static inline double weight_value(sqf_cuda_form form, uint16_t code)
{
    switch (form) {
    case SQF_CUDA_FP8: return fp8_value(code);
    case SQF_CUDA_BF16: return emulated_bf16_value(code);
    case SQF_CUDA_FP16: return emulated_fp16_value(code);
    default: return (int16_t)code;
    }
}

static inline sqf_status trial_fill(void *user, size_t first, size_t count, const sqf_cuda_rows *out, sqf_error *)
{
    const trial_layer *layer = (const trial_layer *)user;
    const bool wide = layer->form == SQF_CUDA_BF16 || layer->form == SQF_CUDA_FP16;
    const size_t at = first * layer->columns, scale_at = first * layer->segments.size();
    for (size_t i = 0; i < count * layer->columns; i++) {
        if (wide) {
            ((uint16_t *)out->codes)[i] = layer->codes[at + i];
        } else {
            ((uint8_t *)out->codes)[i] = (uint8_t)layer->codes[at + i];
        }
        if (layer->form == SQF_CUDA_SPLIT) {
            out->high[i] = layer->high[at + i];
            out->mask[i] = layer->mask[at + i];
        }
    }
    for (size_t i = 0; i < count * layer->segments.size(); i++) {
        if (out->scales) {
            out->scales[i] = layer->scales[scale_at + i];
        }
        if (out->high_scales) {
            out->high_scales[i] = layer->high_scales[scale_at + i];
        }
    }
    return SQF_OK;
}

/* unit_high marks in each 64 columns of a row. */
static inline void trial_masks(sqf_random *random, trial_layer *layer)
{
    layer->mask.assign(layer->rows * layer->columns, 0);
    layer->high.assign(layer->rows * layer->columns, 0);
    for (size_t unit = 0; unit < layer->rows * layer->columns / 64; unit++) {
        for (uint32_t left = layer->unit_high; left > 0;) {
            const size_t at = unit * 64 + sqf_random_below(random, 64);
            if (!layer->mask[at]) {
                layer->mask[at] = 1;
                layer->high[at] = (int8_t)trial_integer(random, -127, 127);
                layer->codes[at] = 0;
                left--;
            }
        }
    }
}

static inline void trial_numbers(sqf_random *random, trial_layer *layer)
{
    layer->codes.resize(layer->rows * layer->columns);
    for (uint16_t &code : layer->codes) {
        code = trial_code(random, layer->form);
    }
    if (layer->form == SQF_CUDA_SPLIT) {
        trial_masks(random, layer);
    }
    layer->scales.resize(layer->rows * layer->segments.size());
    layer->high_scales.resize(layer->scales.size());
    for (size_t i = 0; i < layer->scales.size(); i++) {
        layer->scales[i] = layer->dense ? 1.0f : trial_scale(random);
        layer->high_scales[i] = trial_scale(random);
    }
    layer->bias.assign(layer->rows, 0.0f);
    for (float &b : layer->bias) {
        b = layer->biased ? (float)sqf_random_unit(random) : 0.0f;
    }
}

static inline void trial_create(sqf_cuda_device *device, sqf_random *random, trial_layer *layer)
{
    const float static_scale[2] = {0.1f, 0.2f};
    const int32_t static_zero[2] = {3, 0};
    trial_numbers(random, layer);
    sqf_cuda_linear_spec spec = {};
    spec.name = layer->name;
    spec.rows = layer->rows;
    spec.columns = layer->columns;
    spec.form = layer->form;
    spec.has_scales = !layer->dense;
    spec.split_unit_high = layer->unit_high;
    spec.segments = layer->segments.data();
    spec.segment_count = layer->segments.size();
    spec.activations = layer->activations;
    spec.border = layer->border ? layer->border : layer->columns;
    spec.static_scale = static_scale;
    spec.static_zero = static_zero;
    spec.bias = layer->biased ? layer->bias.data() : NULL;
    spec.fill = trial_fill;
    spec.user = layer;
    sqf_error err;
    require(cuda_linear_create(device, &spec, &layer->linear, &err), &err);
}

/* A quantized input of a layer: one plane of codes. */
struct trial_input {
    sqf_cuda_input input = {};
    std::vector<uint8_t> codes;
    std::vector<float> scales;
    std::vector<int32_t> zeros;
    std::vector<double> values; /* [tokens][columns] code less its zero point */
};

/* Writes a random code of `element` to where column `column` of a unit stands; returns its value. */
static inline double trial_write(sqf_random *random, cuda_element element, uint8_t *unit, unsigned column)
{
    if (element == CUDA_NIBBLE) {
        const int32_t code = trial_integer(random, -8, 7);
        unit[column / 2] = (uint8_t)(unit[column / 2] | (code & 15) << 4 * (column % 2));
        return code;
    }
    if (element == CUDA_BYTE || element == CUDA_FP8) {
        const uint32_t bits = element == CUDA_BYTE ? (uint8_t)trial_integer(random, -128, 127) : trial_fp8(random);
        unit[cuda_byte_unit_place(column)] = (uint8_t)bits;
        return element == CUDA_BYTE ? (int8_t)bits : fp8_value(bits);
    }
    const double x = sqf_random_unit(random) * 2 - 1;
    const uint32_t bits = element == CUDA_BF16 ? emulated_bf16_bits(x) : emulated_fp16_bits(x);
    ((uint16_t *)(void *)unit)[cuda_half_unit_place(column)] = (uint16_t)bits;
    return element == CUDA_BF16 ? emulated_bf16_value(bits) : emulated_fp16_value(bits);
}

static inline cuda_element trial_element(const cuda_input_layout *layout, unsigned plane, uint32_t unit)
{
    const bool high = layout->planes > 1 ? plane == 1 : unit >= layout->low_units;
    return high ? layout->high_element : layout->low_element;
}

static inline void trial_scales(sqf_random *random, const cuda_input_layout *layout, size_t tokens, trial_input *out)
{
    const bool zero = layout->spec.zero != SQF_ACT_ZERO_NONE;
    out->scales.assign(layout->scale_count * out->input.token_stride, 0.0f);
    out->zeros.assign(layout->scale_count * out->input.token_stride, 0);
    for (size_t g = 0; g < layout->scale_count; g++) {
        for (size_t m = 0; m < tokens; m++) {
            out->scales[g * out->input.token_stride + m] = trial_scale(random);
            out->zeros[g * out->input.token_stride + m] = zero ? trial_integer(random, -100, 100) : 0;
        }
    }
}

static inline void trial_prepare(sqf_random *random, const trial_layer &layer, unsigned plane, size_t tokens,
                                 trial_input *out)
{
    const cuda_input_layout *layout = &layer.linear->layout;
    const size_t padded = (tokens + CUDA_TOKEN_PAD - 1) / CUDA_TOKEN_PAD * CUDA_TOKEN_PAD;
    out->input.layout = layout;
    out->input.tokens = tokens;
    out->input.token_stride = padded;
    out->codes.assign(padded * layout->stride[plane] + 16, 0);
    out->values.assign(tokens * layer.columns, 0.0);
    trial_scales(random, layout, tokens, out);
    uint8_t *codes = out->codes.data() + (16 - (uintptr_t)out->codes.data() % 16) % 16;
    for (size_t m = 0; m < tokens; m++) {
        uint8_t *at = codes + m * layout->stride[plane];
        for (uint32_t s = 0; s < layout->segment_count; s++) {
            const cuda_segment *segment = &layout->segments[s];
            const cuda_element element = trial_element(layout, plane, segment->unit);
            const int32_t zero = out->zeros[segment->act_scale * padded + m];
            for (uint32_t k = segment->begin; k < segment->end; k++) {
                const uint32_t column = k - segment->begin;
                uint8_t *unit = at + column / 64 * cuda_unit_bytes(element);
                out->values[m * layer.columns + k] = trial_write(random, element, unit, column % 64) - zero;
            }
            at += segment->units * (size_t)cuda_unit_bytes(element);
        }
    }
    out->input.planes[plane].codes = codes;
    out->input.planes[plane].scales = out->scales.data();
    out->input.planes[plane].zeros = layout->spec.zero != SQF_ACT_ZERO_NONE ? out->zeros.data() : NULL;
}

/* One element of y, and the sum of the magnitudes of what is added. */
static inline double trial_expect_one(const trial_layer &layer, const trial_input &input, unsigned plane, size_t m,
                                      size_t n, double *magnitude)
{
    const cuda_input_layout *layout = &layer.linear->layout;
    double sum = layer.bias[n];
    *magnitude = fabs(sum);
    for (uint32_t s = 0; s < layout->segment_count; s++) {
        const cuda_segment *segment = &layout->segments[s];
        const bool one = trial_element(layout, plane, segment->unit) == CUDA_BF16;
        const double act = one ? 1.0 : input.scales[segment->act_scale * input.input.token_stride + m];
        const double low = act * layer.scales[n * layout->segment_count + s];
        const double high = act * layer.high_scales[n * layout->segment_count + s];
        for (uint32_t k = segment->begin; k < segment->end; k++) {
            const size_t at = n * layer.columns + k;
            const bool marked = layer.form == SQF_CUDA_SPLIT && layer.mask[at];
            const double weight = marked ? high * layer.high[at] : low * weight_value(layer.form, layer.codes[at]);
            const double term = weight * input.values[m * layer.columns + k];
            sum += term;
            *magnitude += fabs(term);
        }
    }
    return sum;
}

/* [tokens][rows] each. */
static inline void trial_expect(const trial_layer &layer, const trial_input &input, unsigned plane,
                                std::vector<double> *y, std::vector<double> *magnitude)
{
    y->resize(input.input.tokens * layer.rows);
    magnitude->resize(y->size());
    for (size_t i = 0; i < y->size(); i++) {
        (*y)[i] = trial_expect_one(layer, input, plane, i / layer.rows, i % layer.rows, &(*magnitude)[i]);
    }
}

/* Segments of `group` columns each, cut at the border. act_groups: of the activations as well. */
static inline void trial_segments(trial_layer *layer, size_t group, bool act_groups)
{
    layer->segments.clear();
    const size_t border = layer->border ? layer->border : layer->columns;
    for (size_t begin = 0; begin < layer->columns;) {
        size_t end = std::min(begin + group, layer->columns);
        end = begin < border ? std::min(end, border) : end;
        const uint32_t index = (uint32_t)layer->segments.size();
        layer->segments.push_back(
            sqf_cuda_segment{(uint32_t)begin, (uint32_t)end, act_groups ? index : 0, begin >= border});
        begin = end;
    }
}

#endif

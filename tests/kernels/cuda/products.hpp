/* Random layers with inputs that are made by hand, and their exact products: what tests of one family of kernels
 * compare with. Codes and scales are known here, so that nothing but the product is in question. */
#ifndef SQF_TESTS_KERNELS_CUDA_PRODUCTS_HPP
#define SQF_TESTS_KERNELS_CUDA_PRODUCTS_HPP

#include <math.h>

#include "emulated.hpp"

#include "kernels/cuda/linear/pack.h"
#include "kernels/cuda/operations.h"

/* What a layer is made of. Groups of 0 columns: the whole section. */
struct product_case {
    const char *name;
    sqf_cuda_form form;
    sqf_type low, high; /* of the activations; high NONE = uniform */
    sqf_mask_mode mask;
    size_t rows, columns, border; /* border: of a static mask */
    size_t group;                 /* of weights */
    size_t act_group;             /* 0 = one scale a token; a multiple of `group` or a divisor */
    bool zero;
    size_t tokens;
    bool bias;
    sqf_cuda_store store;
    bool exact; /* scales are powers of two, so that the sums of the kernel have no rounding */
};

static inline float power_of_two(sqf_random *random, int lowest, int count)
{
    return ldexpf(1.0f, lowest + (int)(sqf_random_u64(random) % (unsigned)count));
}

static inline int random_code(sqf_random *random, int limit)
{
    return (int)(sqf_random_u64(random) % (unsigned)(2 * limit + 1)) - limit;
}

/* The upper half of a float: exact bfloat16. */
static inline float random_bf16(sqf_random *random)
{
    return (float)random_code(random, 127) / 16.0f;
}

struct product_layer {
    product_case what;
    std::vector<sqf_cuda_segment> segments;
    std::vector<int> weights, high;         /* [rows][columns]; high: of SPLIT, 0 elsewhere */
    std::vector<uint8_t> mask;              /* SPLIT */
    std::vector<float> scales, high_scales; /* [rows][segments] */
    std::vector<float> bias;
    sqf_cuda_linear_spec spec;
    uint32_t unit_high = 0;

    product_layer(const product_case &given, sqf_random *random, uint32_t high_of_unit = 0)
        : what(given), unit_high(high_of_unit)
    {
        make_segments();
        const int limit = what.form == SQF_CUDA_BYTES ? 127 : 7;
        weights.resize(what.rows * what.columns);
        for (int &w : weights) {
            w = random_code(random, limit);
        }
        make_split(random);
        scales.resize(what.rows * segments.size());
        high_scales.resize(scales.size());
        for (size_t i = 0; i < scales.size(); i++) {
            scales[i] = what.exact ? power_of_two(random, -2, 3) : (float)(1 + sqf_random_u64(random) % 1000) / 512.0f;
            high_scales[i] = what.exact ? power_of_two(random, -2, 3) : scales[i] / 9.0f;
        }
        bias.resize(what.rows);
        for (float &b : bias) {
            b = (float)random_code(random, 100) / 4.0f;
        }
        make_spec();
    }

    product_layer(const product_layer &) = delete;

    void make_segments()
    {
        const size_t sections[] = {0, what.border, what.columns};
        const bool split = what.high != SQF_TYPE_NONE && what.mask == SQF_MASK_STATIC;
        const size_t act = what.act_group ? what.act_group : what.columns;
        uint32_t act_groups = 0;
        for (int s = split ? 0 : 1; s < 2; s++) {
            const size_t first = split ? sections[s] : 0, last = sections[s + 1];
            const size_t group = what.group ? what.group : what.columns;
            for (size_t at = first; at < last;) {
                const size_t weight_end = first + ((at - first) / group + 1) * group;
                const size_t act_end = first + ((at - first) / act + 1) * act;
                size_t end = weight_end < act_end ? weight_end : act_end;
                end = end < last ? end : last;
                segments.push_back({(uint32_t)at, (uint32_t)end, act_groups, (uint32_t)(split && s == 1)});
                act_groups += end == act_end || end == last;
                at = end;
            }
        }
    }

    /* unit_high elements of each 64 columns of a segment are high; the rest of a matrix by lot. */
    void make_split(sqf_random *random)
    {
        high.assign(weights.size(), 0);
        mask.assign(weights.size(), 0);
        if (what.form != SQF_CUDA_SPLIT) {
            return;
        }
        for (size_t r = 0; r < what.rows; r++) {
            for (size_t begin = 0; begin < what.columns; begin += CUDA_UNIT) {
                const size_t end = begin + CUDA_UNIT < what.columns ? begin + CUDA_UNIT : what.columns;
                size_t wanted = unit_high ? unit_high : sqf_random_u64(random) % (end - begin + 1);
                for (size_t k = begin; k < end; k++) {
                    if (sqf_random_u64(random) % (end - k) < wanted) {
                        const size_t at = r * what.columns + k;
                        mask[at] = 1;
                        high[at] = random_code(random, 127);
                        weights[at] = 0;
                        wanted--;
                    }
                }
            }
        }
    }

    void make_spec()
    {
        spec = sqf_cuda_linear_spec();
        spec.name = what.name;
        spec.rows = what.rows;
        spec.columns = what.columns;
        spec.form = what.form;
        spec.split_unit_high = unit_high;
        spec.segments = segments.data();
        spec.segment_count = segments.size();
        spec.border = what.high != SQF_TYPE_NONE && what.mask == SQF_MASK_STATIC ? what.border : what.columns;
        spec.bias = what.bias ? bias.data() : NULL;
        spec.fill = fill;
        spec.user = this;
        sqf_act_spec *act = &spec.activations;
        act->low = what.low;
        act->high = what.high;
        act->bank = 64;
        act->high_per_bank = what.high == SQF_TYPE_NONE ? 0 : 16;
        act->mask = what.mask;
        act->scale = what.act_group ? SQF_ACT_GROUP : SQF_ACT_TOKEN;
        act->clip = 1.0f;
        act->zero = what.zero ? SQF_ACT_ZERO_POINT : SQF_ACT_ZERO_NONE;
    }

    static sqf_status fill(void *user, size_t first, size_t count, const sqf_cuda_rows *rows, sqf_error *)
    {
        const product_layer *self = (const product_layer *)user;
        const size_t columns = self->what.columns, segments = self->segments.size();
        int8_t *codes = (int8_t *)rows->codes;
        for (size_t i = 0; i < count * columns; i++) {
            codes[i] = (int8_t)self->weights[first * columns + i];
            if (rows->mask) {
                rows->high[i] = (int8_t)self->high[first * columns + i];
                rows->mask[i] = self->mask[first * columns + i];
            }
        }
        memcpy(rows->scales, &self->scales[first * segments], count * segments * sizeof(float));
        if (rows->high_scales) {
            memcpy(rows->high_scales, &self->high_scales[first * segments], count * segments * sizeof(float));
        }
        return SQF_OK;
    }
};

/* An input of a layer. */
struct product_input {
    sqf_cuda_input input;
    std::vector<float> values[CUDA_PLANES]; /* [tokens][columns] codes as numbers */
    std::vector<std::vector<uint8_t>> codes;
    std::vector<std::vector<float>> scales;
    std::vector<std::vector<int32_t>> zeros;

    product_input(const product_layer &layer, const sqf_cuda_linear *linear, sqf_random *random)
        : input(), codes(CUDA_PLANES), scales(CUDA_PLANES), zeros(CUDA_PLANES)
    {
        const cuda_input_layout *layout = &linear->layout;
        input.layout = layout;
        input.tokens = layer.what.tokens;
        input.token_stride = (input.tokens + CUDA_TOKEN_PAD - 1) / CUDA_TOKEN_PAD * CUDA_TOKEN_PAD;
        for (unsigned p = 0; p < layout->planes; p++) {
            codes[p].assign(input.token_stride * layout->stride[p] + 16, 0);
            scales[p].assign(layout->scale_count * input.token_stride + 4, 0.0f);
            zeros[p].assign(layout->scale_count * input.token_stride + 4, 0);
            uint8_t *base = codes[p].data();
            input.planes[p].codes = base + (16 - (uintptr_t)base % 16) % 16;
            input.planes[p].scales = align(scales[p]);
            input.planes[p].zeros = layer.what.zero ? align(zeros[p]) : NULL;
            make_scales(layer, p, random);
            make_codes(layer, p, random);
        }
    }

    product_input(const product_input &) = delete;

    template <typename T> static T *align(std::vector<T> &from)
    {
        return from.data() + (16 - (uintptr_t)from.data() % 16) % 16 / sizeof(T);
    }

    void make_scales(const product_layer &layer, unsigned p, sqf_random *random)
    {
        const cuda_plane *plane = &input.planes[p];
        for (size_t g = 0; g < input.layout->scale_count; g++) {
            for (size_t m = 0; m < input.tokens; m++) {
                const size_t at = g * input.token_stride + m;
                plane->scales[at] = layer.what.exact ? power_of_two(random, -2, 3)
                                                     : (float)(1 + sqf_random_u64(random) % 1000) / 256.0f;
                if (plane->zeros) {
                    plane->zeros[at] = random_code(random, layer.what.low == SQF_TYPE_INT4 ? 7 : 127);
                }
            }
        }
    }

    /* Where a column stands in a token's codes, in bytes; nibbles: which half. */
    static size_t place_of(const cuda_input_layout *layout, unsigned p, const cuda_segment *segment, uint32_t column,
                           cuda_element *element, unsigned *upper)
    {
        const uint32_t unit = segment->unit + (column - segment->begin) / CUDA_UNIT;
        const unsigned in = (column - segment->begin) % CUDA_UNIT;
        const bool second = p > 0 || (layout->planes == 1 && unit >= layout->low_units);
        *element = second ? layout->high_element : layout->low_element;
        const size_t base = p == 0 && second ? (size_t)layout->low_units * cuda_unit_bytes(layout->low_element) +
                                                   (size_t)(unit - layout->low_units) * cuda_unit_bytes(*element)
                                             : (size_t)unit * cuda_unit_bytes(*element);
        *upper = in % 2;
        return base + (*element == CUDA_NIBBLE ? in / 2
                       : *element == CUDA_BYTE ? cuda_byte_unit_place(in)
                                               : 2 * cuda_half_unit_place(in));
    }

    void make_codes(const product_layer &layer, unsigned p, sqf_random *random)
    {
        const cuda_input_layout *layout = input.layout;
        values[p].assign(input.tokens * layer.what.columns, 0.0f);
        for (size_t m = 0; m < input.tokens; m++) {
            for (uint32_t s = 0; s < layout->segment_count; s++) {
                const cuda_segment *segment = &layout->segments[s];
                for (uint32_t k = segment->begin; k < segment->end; k++) {
                    cuda_element element;
                    unsigned upper;
                    uint8_t *to = input.planes[p].codes + m * layout->stride[p] +
                                  place_of(layout, p, segment, k, &element, &upper);
                    const sqf_type type = p > 0 || segment->high ? layer.what.high : layer.what.low;
                    const int code = random_code(random, type == SQF_TYPE_INT4 ? 7 : 127);
                    float value = (float)code;
                    if (element == CUDA_NIBBLE) {
                        *to = (uint8_t)(upper ? (*to & 15) | (code & 15) << 4 : (*to & 0xf0) | (code & 15));
                    } else if (element == CUDA_BYTE) {
                        *to = (uint8_t)code;
                    } else {
                        value = random_bf16(random);
                        uint32_t bits;
                        memcpy(&bits, &value, sizeof bits);
                        to[0] = (uint8_t)(bits >> 16);
                        to[1] = (uint8_t)(bits >> 24);
                    }
                    values[p][m * layer.what.columns + k] = value;
                }
            }
        }
    }
};

/* The product of plane p in double, and the sum of the magnitudes of its terms: [tokens][rows] each, added to. */
static inline void reference_product(const product_layer &layer, const product_input &given, unsigned p,
                                     std::vector<double> *sums, std::vector<double> *terms)
{
    const sqf_cuda_input *input = &given.input;
    const cuda_input_layout *layout = input->layout;
    const size_t rows = layer.what.rows, columns = layer.what.columns, segments = layer.segments.size();
    for (size_t m = 0; m < input->tokens; m++) {
        for (uint32_t s = 0; s < segments; s++) {
            const cuda_segment *segment = &layout->segments[s];
            const bool half = p > 0 || segment->high ? layout->high_element > CUDA_FP8 : layout->low_element > CUDA_FP8;
            const size_t at = segment->act_scale * input->token_stride + m;
            const double scale = half ? 1.0 : input->planes[p].scales[at];
            const double zero = half || !input->planes[p].zeros ? 0.0 : input->planes[p].zeros[at];
            for (size_t r = 0; r < rows; r++) {
                double sum[2] = {0.0, 0.0}, magnitude[2] = {0.0, 0.0};
                for (uint32_t k = segment->begin; k < segment->end; k++) {
                    const double x = given.values[p][m * columns + k] - zero;
                    const double w[2] = {(double)layer.weights[r * columns + k], (double)layer.high[r * columns + k]};
                    for (int part = 0; part < 2; part++) {
                        sum[part] += x * w[part];
                        magnitude[part] += fabs(x * w[part]);
                    }
                }
                const double low = scale * layer.scales[r * segments + s];
                const double high = scale * layer.high_scales[r * segments + s];
                (*sums)[m * rows + r] += sum[0] * low + sum[1] * high;
                (*terms)[m * rows + r] += magnitude[0] * low + magnitude[1] * high;
            }
        }
    }
}

#endif

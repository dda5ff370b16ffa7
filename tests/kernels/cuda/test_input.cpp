/* Inputs prepared by the device's kernels, against the host's own functions, byte by byte: codes in their places, zeros
 * in the padding, scales, zero points; steps; what is not finite. */
#include <math.h>

#include "emulated.hpp"

extern "C" {
#include <cmocka.h>

#include "base/context.h"
#include "format/reference.h"
#include "kernels/kernels.h"
#include "kernels/rotation.h"
}

#include "kernels/cuda/linear/pack.h"
#include "kernels/cuda/operations.h"

static void require(sqf_status status, const sqf_error *err)
{
    if (status != SQF_OK) {
        fail_msg("%s", err->text);
    }
}

/* One input of a layer. */
struct input_case {
    sqf_act_spec spec;
    sqf_cuda_form form;
    size_t columns, border, tokens, weight_group;
    std::vector<int32_t> channels;
    std::vector<float> norm;
    float static_scale[2];
    int32_t static_zero[2];
    std::vector<float> x;
};

static sqf_cuda_device *device;

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

static sqf_status fill_zeros(void *user, size_t first, size_t count, const sqf_cuda_rows *rows, sqf_error *)
{
    const sqf_cuda_linear_spec *spec = *(const sqf_cuda_linear_spec *const *)user;
    (void)first;
    const size_t bytes = cuda_code_bytes(spec->form);
    memset(rows->codes, 0, count * spec->columns * bytes);
    for (size_t i = 0; rows->scales && i < count * spec->segment_count; i++) {
        rows->scales[i] = 1.0f;
    }
    return SQF_OK;
}

static bool is_static_split(const sqf_act_spec *spec)
{
    return sqf_act_spec_is_split(spec) && spec->mask == SQF_MASK_STATIC;
}

static bool is_dynamic_split(const sqf_act_spec *spec)
{
    return sqf_act_spec_is_split(spec) && spec->mask == SQF_MASK_DYNAMIC;
}

static std::vector<sqf_cuda_segment> segments_of(const input_case &c, const sqf_partition &acts)
{
    const sqf_partition weights = sqf_partition_make(c.columns, c.border, c.weight_group);
    std::vector<sqf_cuda_segment> out;
    for (size_t at = 0; at < c.columns;) {
        size_t begin, end, act_end;
        sqf_partition_range(&weights, sqf_partition_find(&weights, at), &begin, &end);
        const size_t act_group = sqf_partition_find(&acts, at);
        sqf_partition_range(&acts, act_group, &begin, &act_end);
        end = act_end < end ? act_end : end;
        out.push_back(sqf_cuda_segment{(uint32_t)at, (uint32_t)end,
                                       c.spec.scale == SQF_ACT_GROUP ? (uint32_t)act_group : 0,
                                       is_static_split(&c.spec) && at >= c.border});
        at = end;
    }
    return out;
}

static sqf_partition act_groups(const input_case &c)
{
    const sqf_partition weights = sqf_partition_make(c.columns, c.border, c.weight_group);
    return sqf_act_scale_groups(&c.spec, &weights);
}

static sqf_cuda_linear *make_layer(const input_case &c)
{
    const std::vector<sqf_cuda_segment> segments = segments_of(c, act_groups(c));
    sqf_cuda_linear_spec spec = {};
    const sqf_cuda_linear_spec *self = &spec;
    spec.name = "layer";
    spec.rows = 3;
    spec.columns = c.columns;
    spec.form = c.form;
    spec.segments = segments.data();
    spec.segment_count = segments.size();
    spec.activations = c.spec;
    spec.channels = c.channels.empty() ? NULL : c.channels.data();
    spec.border = c.border;
    spec.static_scale = c.static_scale;
    spec.static_zero = c.static_zero;
    spec.column_norm = c.norm.data();
    spec.fill = fill_zeros;
    spec.user = &self;
    sqf_cuda_linear *layer;
    sqf_error err;
    require(cuda_linear_create(device, &spec, &layer, &err), &err);
    return layer;
}

/* The host's quantized row. */
struct host_row {
    std::vector<uint8_t> mask;
    std::vector<float> value, scale[2];
    std::vector<int32_t> zero[2];
};

static host_row quantize_on_host(const input_case &c, const float *x)
{
    const sqf_partition groups = act_groups(c);
    const size_t count = sqf_partition_count(&groups);
    host_row out;
    out.mask.resize(c.columns);
    out.value.resize(c.columns);
    for (int p = 0; p < 2; p++) {
        out.scale[p].resize(count);
        out.zero[p].resize(count);
    }
    const bool zeros = c.spec.zero != SQF_ACT_ZERO_NONE;
    sqf_act_row row = {};
    row.mask = out.mask.data();
    row.value = out.value.data();
    row.scale_low = out.scale[0].data();
    row.scale_high = out.scale[1].data();
    row.zero_low = zeros ? out.zero[0].data() : NULL;
    row.zero_high = zeros ? out.zero[1].data() : NULL;
    sqf_act_quantize_row(&c.spec, x, c.columns, c.channels.empty() ? NULL : c.channels.data(), c.border, &groups,
                         c.static_scale, c.static_zero, c.norm.data(), &row);
    return out;
}

static float half_scale(const input_case &c, const float *x)
{
    float peak = 0.0f;
    for (size_t k = 0; k < c.columns; k++) {
        peak = fmaxf(peak, fabsf(x[k]));
    }
    const int exponent = peak > 0.0f ? ilogbf(peak) - 14 : 0;
    return ldexpf(1.0f, exponent < -112 ? -112 : exponent);
}

/* Puts one code where layout.h says. */
static void put_code(uint8_t *unit, cuda_element element, unsigned column, uint32_t code)
{
    switch (element) {
    case CUDA_NIBBLE:
    case CUDA_FP4: unit[column / 2] |= (uint8_t)((code & 15) << 4 * (column % 2)); break;
    case CUDA_BYTE:
    case CUDA_FP8: unit[cuda_byte_unit_place(column)] = (uint8_t)code; break;
    case CUDA_BF16:
    case CUDA_FP16: {
        const uint16_t half = (uint16_t)code;
        memcpy(unit + 2 * cuda_half_unit_place(column), &half, 2);
        break;
    }
    default: memcpy(unit + 4 * column, &code, 4);
    }
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

/* The code of a grid value in an element. */
static uint32_t code_of(const input_case &c, sqf_type type, cuda_element element, float value, int32_t zero,
                        float scale)
{
    const int multiplier = sqf_type_multiplier(type);
    if (element == CUDA_NIBBLE || element == CUDA_BYTE) {
        return (uint32_t)((int)(value * (float)multiplier) + zero);
    }
    if (element == CUDA_FP4) {
        return cuda_e2m1((int)(value * 2.0f));
    }
    if (sqf_act_spec_is_float(&c.spec) && element == CUDA_FP16) {
        return sqf_fp16_from_float(value / scale);
    }
    switch (element) {
    case CUDA_FP8: return sqf_type_encode(SQF_TYPE_FP8, value);
    case CUDA_FP16: return sqf_fp16_from_float(value);
    case CUDA_BF16: return sqf_bf16_from_float(value);
    default: return bits_of(value);
    }
}

/* Everything that a token's planes must hold. */
struct expected_token {
    std::vector<uint8_t> codes[2];
    std::vector<float> scales[2];
    std::vector<int32_t> zeros[2];
};

static expected_token expect(const input_case &c, const cuda_input_layout *layout, const float *x)
{
    const host_row row = quantize_on_host(c, x);
    const bool dynamic = is_dynamic_split(&c.spec);
    expected_token out;
    for (unsigned p = 0; p < layout->planes; p++) {
        out.codes[p].resize(layout->stride[p]);
        out.scales[p].resize(layout->scale_count);
        out.zeros[p].resize(layout->scale_count);
    }
    for (uint32_t s = 0; s < layout->segment_count; s++) {
        const cuda_segment &segment = layout->segments[s];
        const sqf_partition groups = act_groups(c);
        const size_t g = sqf_partition_find(&groups, segment.begin);
        for (unsigned plane = 0; plane < layout->planes; plane++) {
            const unsigned part = dynamic ? plane : segment.high;
            const sqf_type type = part ? c.spec.high : c.spec.low;
            const cuda_element element = part ? layout->high_element : layout->low_element;
            const int multiplier = sqf_type_multiplier(type);
            float scale = row.scale[part][g];
            if (sqf_act_spec_is_float(&c.spec)) {
                scale = element == CUDA_FP16 ? half_scale(c, x) : 1.0f;
            }
            const bool used = scale > 0.0f;
            const int32_t zero = used ? row.zero[part][g] : 0;
            const bool plain = element == CUDA_BF16 || element == CUDA_FP32;
            out.scales[plane][segment.act_scale] = !used        ? 0.0f
                                                   : plain      ? 1.0f
                                                   : multiplier ? scale / (float)multiplier
                                                                : scale;
            out.zeros[plane][segment.act_scale] = zero;
            for (uint32_t k = segment.begin; used && k < segment.end; k++) {
                const uint32_t unit = segment.unit + (k - segment.begin) / CUDA_UNIT;
                const size_t low = plane == 1 ? 0 : unit < layout->low_units ? unit : layout->low_units;
                const size_t offset =
                    low * cuda_unit_bytes(layout->low_element) + (unit - low) * cuda_unit_bytes(layout->high_element);
                const float value = row.mask[k] == part ? row.value[k] : 0.0f;
                put_code(out.codes[plane].data() + offset, element, (k - segment.begin) % CUDA_UNIT,
                         code_of(c, type, element, value, zero, scale));
            }
        }
    }
    return out;
}

static std::string describe(const input_case &c)
{
    char text[SQF_SCHEME_TEXT], line[SQF_SCHEME_TEXT + 200];
    sqf_scheme scheme = {};
    scheme.weights.low = SQF_TYPE_INT4;
    scheme.weights.scale_type = SQF_TYPE_FP32;
    scheme.activations = c.spec;
    sqf_scheme_print(&scheme, SQF_SPELLING_LONG, text);
    snprintf(line, sizeof line, "K=%zu border=%zu M=%zu group=%zu form=%d %s", c.columns, c.border, c.tokens,
             c.weight_group, (int)c.form, text);
    return line;
}

static void check_planes(const input_case &c, const cuda_input_layout *layout, const sqf_cuda_input *input,
                         const float *x)
{
    const size_t padded = c.tokens <= 16 ? 16 : input->token_stride;
    for (size_t m = 0; m < padded; m++) {
        expected_token want;
        if (m < c.tokens) {
            want = expect(c, layout, x + m * c.columns);
        }
        for (unsigned p = 0; p < layout->planes; p++) {
            want.codes[p].resize(layout->stride[p]);
            const cuda_plane *plane = &input->planes[p];
            const uint8_t *codes = plane->codes + m * layout->stride[p];
            for (size_t i = 0; i < layout->stride[p]; i++) {
                if (codes[i] != want.codes[p][i]) {
                    fail_msg("%s: token %zu plane %u byte %zu: %02x, expected %02x", describe(c).c_str(), m, p, i,
                             codes[i], want.codes[p][i]);
                }
            }
            for (uint32_t r = 0; r < layout->scale_count; r++) {
                const float scale = m < c.tokens ? want.scales[p][r] : 0.0f;
                const float found = plane->scales[r * input->token_stride + m];
                if (bits_of(scale) != bits_of(found)) {
                    fail_msg("%s: token %zu plane %u scale %u: %.9g, expected %.9g", describe(c).c_str(), m, p, r,
                             (double)found, (double)scale);
                }
                if (plane->zeros) {
                    const int32_t zero = m < c.tokens ? want.zeros[p][r] : 0;
                    assert_int_equal(plane->zeros[r * input->token_stride + m], zero);
                }
            }
        }
    }
}

/* The value behind every code, in the order of x. */
static void check_dequantized(const input_case &c, const cuda_input_layout *layout, const sqf_cuda_input *input,
                              const float *x)
{
    sqf_error err;
    std::vector<float> out(c.tokens * c.columns);
    require(cuda_input_dequantize(device, input, out.data(), &err), &err);
    for (size_t m = 0; m < c.tokens; m++) {
        const host_row row = quantize_on_host(c, x + m * c.columns);
        const sqf_partition groups = act_groups(c);
        for (size_t k = 0; k < c.columns; k++) {
            const size_t g = sqf_partition_find(&groups, k);
            const int part = row.mask[k];
            const sqf_type type = part ? c.spec.high : c.spec.low;
            const int multiplier = sqf_type_multiplier(type) ? sqf_type_multiplier(type) : 1;
            const float unit = sqf_act_spec_is_float(&c.spec) ? 1.0f : row.scale[part][g] / (float)multiplier;
            const float value = row.value[k] * (float)multiplier * unit;
            const float found = out[m * c.columns + (c.channels.empty() ? k : (size_t)c.channels[k])];
            const bool rounded = sqf_act_spec_is_float(&c.spec) && layout->low_element != CUDA_FP32;
            const float slack = rounded ? fabsf(value) * 0x1p-8f + half_scale(c, x + m * c.columns) * 0x1p-24f : 0.0f;
            if (!(fabsf(value - found) <= slack)) {
                fail_msg("%s: token %zu column %zu: %.9g, expected %.9g", describe(c).c_str(), m, k, (double)found,
                         (double)value);
            }
        }
    }
}

static void check_case(const input_case &c)
{
    sqf_error err;
    sqf_cuda_linear *layer = make_layer(c);
    sqf_cuda_input *input;
    require(cuda_input_create(device, &input, &err), &err);
    require(cuda_input_prepare(device, input, layer, c.x.data(), NULL, c.tokens, &err), &err);
    require(cuda_finish(device, &err), &err);
    check_planes(c, &layer->layout, input, c.x.data());
    check_dequantized(c, &layer->layout, input, c.x.data());
    cuda_input_destroy(device, input);
    cuda_linear_destroy(device, layer);
}

/* ---- cases ---- */

static float random_float(sqf_random *random)
{
    return (float)(sqf_random_unit(random) + sqf_random_unit(random) + sqf_random_unit(random) - 1.5);
}

static void random_rest(sqf_random *random, input_case *c)
{
    const uint64_t kind = sqf_random_below(random, 9);
    c->border = c->columns;
    if (is_static_split(&c->spec)) {
        c->border = sqf_act_low_channels(&c->spec, c->columns);
        c->channels.resize(c->columns);
        for (size_t k = 0; k < c->columns; k++) {
            c->channels[k] = (int32_t)k;
        }
        for (size_t k = c->columns; k > 1; k--) {
            std::swap(c->channels[k - 1], c->channels[sqf_random_below(random, k)]);
        }
    }
    c->x.resize(c->tokens * c->columns);
    for (float &x : c->x) {
        const float value = random_float(random) * (sqf_random_below(random, 50) ? 1.0f : 30.0f);
        x = kind == 0   ? (sqf_random_below(random, 2) ? 3.0f : -3.0f)
            : kind == 1 ? (sqf_random_below(random, 3) ? 0.0f : value)
            : kind == 2 ? value * 1e-30f
            : kind == 3 ? fabsf(value)
            : kind == 4 ? value * 1e30f
            : kind == 5 ? 0.0f
                        : value;
    }
    c->norm.resize(c->columns);
    for (float &norm : c->norm) {
        norm = fabsf(random_float(random));
    }
    c->static_scale[0] = 0.05f;
    c->static_scale[1] = 0.25f;
    c->static_zero[0] = (int32_t)sqf_random_below(random, 4) - 2;
    c->static_zero[1] = (int32_t)sqf_random_below(random, 4) - 2;
}

static void check_named(const sqf_scheme_entry *entries, size_t count, sqf_random *random)
{
    for (size_t i = 0; i < count; i++) {
        sqf_error err;
        sqf_scheme scheme;
        require(sqf_scheme_parse(entries[i].name, &scheme, &err), &err);
        static const size_t shapes[][2] = {{1, 300}, {3, 512}, {33, 130}};
        for (const size_t *shape : shapes) {
            input_case c = {};
            c.spec = scheme.activations;
            c.form = SQF_CUDA_NIBBLES;
            c.weight_group = sqf_weight_spec_is_dense(&scheme.weights) ? 0 : scheme.weights.group;
            c.tokens = shape[0];
            c.columns = shape[1];
            random_rest(random, &c);
            check_case(c);
        }
    }
}

static void test_named_schemes(void **)
{
    sqf_random random = sqf_random{11};
    size_t count;
    const sqf_scheme_entry *entries = sqf_scheme_list(&count);
    check_named(entries, count, &random);
    entries = sqf_scheme_rivals(&count);
    check_named(entries, count, &random);
}

/* False if the drawn specification has no meaning. */
static bool random_spec(sqf_random *random, sqf_act_spec *spec, uint32_t weight_group)
{
    static const sqf_type types[] = {SQF_TYPE_INT2, SQF_TYPE_INT3,     SQF_TYPE_INT4,     SQF_TYPE_INT5,
                                     SQF_TYPE_INT6, SQF_TYPE_INT8,     SQF_TYPE_FP4,      SQF_TYPE_FP6,
                                     SQF_TYPE_FP8,  SQF_TYPE_FP8_E5M2, SQF_TYPE_FP6_E3M2, SQF_TYPE_NONE};
    static const sqf_type high_types[] = {SQF_TYPE_INT8, SQF_TYPE_INT6,     SQF_TYPE_FP8,      SQF_TYPE_FP16,
                                          SQF_TYPE_BF16, SQF_TYPE_FP8_E5M2, SQF_TYPE_FP6_E3M2, SQF_TYPE_INT4};
    static const uint32_t banks[] = {1, 4, 7, 16, 32, 33, 64, 100, 1000};
    static const sqf_type scale_types[] = {SQF_TYPE_BF16, SQF_TYPE_FP16, SQF_TYPE_E8M0, SQF_TYPE_FP8};
    *spec = sqf_act_spec();
    spec->clip = sqf_random_below(random, 4) ? 1.0f : 0.875f;
    spec->low = sqf_random_below(random, 12) ? types[sqf_random_below(random, 12)] : SQF_TYPE_FP32;
    spec->scale = spec->low == SQF_TYPE_FP32 ? SQF_ACT_TOKEN : (sqf_act_scale)sqf_random_below(random, 3);
    if (spec->scale == SQF_ACT_GROUP) {
        spec->group = sqf_random_below(random, 2) ? weight_group * 2 : weight_group ? weight_group / 2 : 24;
    }
    if (spec->low != SQF_TYPE_FP32 && sqf_random_below(random, 3)) {
        spec->high = high_types[sqf_random_below(random, 8)];
        spec->high_clip = sqf_random_below(random, 3) ? 0.0f : 0.9375f;
        spec->bank = banks[sqf_random_below(random, 9)];
        spec->high_per_bank = (uint32_t)sqf_random_below(random, spec->bank + 1);
        spec->mask = (sqf_mask_mode)sqf_random_below(random, 2);
        spec->dynamic_weighted = sqf_random_below(random, 2);
    }
    if (sqf_random_below(random, 3) == 0) {
        spec->scale_type = scale_types[sqf_random_below(random, 4)];
    } else {
        spec->zero = (sqf_act_zero)sqf_random_below(random, 3);
    }
    sqf_scheme scheme = {};
    scheme.weights.low = SQF_TYPE_INT4;
    scheme.weights.group = weight_group;
    scheme.weights.scale_type = SQF_TYPE_FP32;
    scheme.activations = *spec;
    sqf_error err;
    return sqf_scheme_check(&scheme, &err) == SQF_OK;
}

static void test_random_schemes(void **)
{
    const char *runs = getenv("SQF_TEST_RUNS");
    sqf_random random = {test_seed("input", 5)};
    static const uint32_t groups[] = {0, 16, 32, 48, 128, 200};
    static const sqf_cuda_form forms[] = {SQF_CUDA_NIBBLES, SQF_CUDA_BYTES, SQF_CUDA_BF16, SQF_CUDA_FP32, SQF_CUDA_FP4};
    for (int run = runs ? atoi(runs) : 250; run > 0;) {
        input_case c = {};
        c.weight_group = groups[sqf_random_below(&random, 6)];
        if (!random_spec(&random, &c.spec, (uint32_t)c.weight_group)) {
            continue;
        }
        c.form = forms[sqf_random_below(&random, 5)];
        c.columns = 1 + sqf_random_below(&random, sqf_random_below(&random, 8) ? 300 : 3000);
        c.tokens = 1 + sqf_random_below(&random, sqf_random_below(&random, 8) ? 4 : 40);
        random_rest(&random, &c);
        check_case(c);
        run--;
    }
}

/* Rows so long that a thread has several octets, and, with little shared memory, that the row is in the workspace. */
static void test_long_rows(void **)
{
    sqf_random random = sqf_random{3};
    const size_t shared = device->info.shared_bytes;
    for (int kind = 0; kind < 6; kind++) {
        input_case c = {};
        c.spec.clip = 1.0f;
        c.spec.low = SQF_TYPE_INT8;
        c.spec.scale = kind % 2 ? SQF_ACT_GROUP : SQF_ACT_TOKEN;
        if (kind >= 4) {
            c.spec.low = SQF_TYPE_INT4;
            c.spec.high = SQF_TYPE_INT8;
            c.spec.bank = 16;
            c.spec.high_per_bank = 4;
        }
        device->info.shared_bytes = kind >= 2 ? 48 * 1024 : shared;
        c.weight_group = 128;
        c.columns = kind < 2 ? 28672 : 14336;
        c.tokens = 2;
        random_rest(&random, &c);
        check_case(c);
    }
    device->info.shared_bytes = shared;
}

/* ---- steps ---- */

/* The steps by the host's kernels. */
static std::vector<float> host_steps(const sqf_context *context, const input_case &c, const sqf_cuda_steps &steps,
                                     const sqf_rotation *rotation)
{
    const sqf_kernels *kernels = context->kernels;
    std::vector<float> out(c.x), scratch(c.columns);
    for (size_t m = 0; m < c.tokens; m++) {
        float *row = out.data() + m * c.columns;
        if (steps.gate) {
            kernels->silu_mul(steps.gate + m * c.columns, row, c.columns, row);
        }
        if (steps.gain) {
            const float mean = kernels->sum_squares(row, c.columns) / (float)c.columns;
            kernels->scale_gain(row, steps.gain, 1.0f / sqrtf(mean + steps.epsilon), c.columns, row);
        }
        if (rotation->factor) {
            sqf_rotation_row(kernels, rotation, row, scratch.data());
        }
    }
    return out;
}

static void check_steps(const sqf_context *context, sqf_random *random, size_t tokens, size_t factor, size_t block,
                        bool matrix, bool gate, bool gain)
{
    sqf_error err;
    input_case c = {};
    c.spec.low = SQF_TYPE_INT8;
    c.spec.clip = 1.0f;
    c.weight_group = 64;
    c.tokens = tokens;
    c.columns = factor * block;
    random_rest(random, &c);
    for (float &x : c.x) {
        x = random_float(random);
    }
    std::vector<float> gates(c.x.size()), gains(c.columns), mixing(factor * factor);
    for (float &x : gates) {
        x = random_float(random) * (sqf_random_below(random, 20) ? 3.0f : 100.0f);
    }
    for (float &x : gains) {
        x = random_float(random);
    }
    for (float &x : mixing) {
        x = random_float(random);
    }
    sqf_rotation rotation;
    require(sqf_rotation_create(c.columns, factor, matrix ? mixing.data() : NULL, &rotation, &err), &err);
    sqf_cuda_steps steps = {};
    steps.gate = gate ? gates.data() : NULL;
    steps.gain = gain ? gains.data() : NULL;
    steps.epsilon = 1e-5f;
    steps.rotation_factor = rotation.factor;
    steps.rotation_block = rotation.block;
    steps.rotation_matrix = rotation.matrix;
    const std::vector<float> want = host_steps(context, c, steps, &rotation);
    std::vector<float> found(want.size());
    require(cuda_apply_steps(device, c.x.data(), &steps, tokens, c.columns, found.data(), &err), &err);
    for (size_t i = 0; i < want.size(); i++) {
        if (bits_of(want[i]) != bits_of(found[i])) {
            fail_msg("factor %zu block %zu matrix %d gate %d gain %d: element %zu: %.9g, expected %.9g", factor, block,
                     matrix, gate, gain, i, (double)found[i], (double)want[i]);
        }
    }
    sqf_cuda_linear *layer = make_layer(c);
    sqf_cuda_input *input;
    require(cuda_input_create(device, &input, &err), &err);
    require(cuda_input_prepare(device, input, layer, c.x.data(), &steps, tokens, &err), &err);
    check_planes(c, &layer->layout, input, want.data());
    cuda_input_destroy(device, input);
    cuda_linear_destroy(device, layer);
    sqf_rotation_clear(&rotation);
}

static void test_steps(void **)
{
    sqf_error err;
    sqf_context *context;
    sqf_context_options options = sqf_context_options_default();
    options.threads = 1;
    options.device = "cpu";
    require(sqf_context_create(&options, &context, &err), &err);
    sqf_random random = sqf_random{21};
    static const size_t rotations[][3] = {{1, 64, 0},   {1, 2, 0},    {1, 1024, 0}, {3, 16, 1}, {12, 32, 1},
                                          {28, 128, 1}, {9, 64, 0},   {7, 256, 1},  {5, 1, 1},  {130, 1, 1},
                                          {43, 4, 1},   {1, 2048, 1}, {3, 4096, 0}, {1, 512, 0}};
    for (const size_t *r : rotations) {
        for (int kind = 0; kind < 4; kind++) {
            check_steps(context, &random, kind == 3 ? 35 : 2, r[0], r[1], r[2], kind % 2, kind / 2);
        }
    }
    sqf_context_destroy(context);
}

/* ---- what is not finite ---- */

static void test_faults(void **)
{
    sqf_random random = sqf_random{8};
    input_case c = {};
    c.spec.low = SQF_TYPE_INT4;
    c.spec.high = SQF_TYPE_INT8;
    c.spec.bank = 16;
    c.spec.high_per_bank = 8;
    c.spec.clip = 1.0f;
    c.weight_group = 64;
    c.columns = 96;
    c.tokens = 40;
    random_rest(&random, &c);
    c.x[17 * 96 + 70] = NAN;
    c.x[17 * 96 + 33] = INFINITY;
    c.x[30 * 96 + 2] = -INFINITY;
    sqf_cuda_linear *layer = make_layer(c);
    sqf_cuda_input *input;
    sqf_error err;
    require(cuda_input_create(device, &input, &err), &err);
    require(cuda_input_prepare(device, input, layer, c.x.data(), NULL, c.tokens, &err), &err);
    assert_int_equal(cuda_finish(device, &err), SQF_E_VALUE);
    print_message("%s\n", err.text);
    assert_non_null(strstr(err.text, "layer: "));
    assert_non_null(strstr(err.text, "token 17, channel 33"));
    require(cuda_finish(device, &err), &err);
    require(cuda_input_prepare(device, input, layer, c.x.data() + 18 * 96, NULL, 12, &err), &err);
    require(cuda_finish(device, &err), &err);
    cuda_input_destroy(device, input);
    cuda_linear_destroy(device, layer);
}

/* Threads in any order: each kind of input once. */
static void test_orders(void **)
{
    in_all_orders([] {
        sqf_random random = {13};
        for (const char *name : {"W4A8", "W4A(SQ6)", "MXFP4", "NVFP4", "W4A16", "W4A(SQ6);mask=dynamic"}) {
            sqf_error err;
            sqf_scheme scheme;
            require(sqf_scheme_parse(name, &scheme, &err), &err);
            input_case c = {};
            c.spec = scheme.activations;
            c.form = SQF_CUDA_NIBBLES;
            c.weight_group = scheme.weights.group;
            c.tokens = 35;
            c.columns = 300;
            random_rest(&random, &c);
            check_case(c);
        }
    });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_named_schemes), cmocka_unit_test(test_random_schemes), cmocka_unit_test(test_long_rows),
        cmocka_unit_test(test_steps),         cmocka_unit_test(test_faults),         cmocka_unit_test(test_orders),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}

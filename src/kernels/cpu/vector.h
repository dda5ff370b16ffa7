/* The vector kernels in portable vector C: compiled once for each instruction set with VECTOR_SUFFIX defined.
 * Sixteen lanes everywhere, whatever the registers are, and no contraction: every level rounds alike. */
#include <string.h>

#include "kernels/kernels.h"

#define LANES  16
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef int8_t vb __attribute__((vector_size(LANES)));

#define BITS(x) ((vi)(x))
/* mask lanes are all ones or zero */
#define SELECT(mask, yes, no) ((vf)((BITS(yes) & (mask)) | (BITS(no) & ~(mask))))

INLINE vf load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The n < 16 floats at p, the other lanes 0. */
INLINE vf load_part(const float *p, size_t n)
{
    vf v = {0};
    memcpy(&v, p, n * sizeof *p);
    return v;
}

INLINE void store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vf splat(float x)
{
    return (vf){0} + x;
}

INLINE float lane_sum(vf v)
{
    float lanes[LANES];
    store(lanes, v);
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            lanes[i] += lanes[i + half];
        }
    }
    return lanes[0];
}

INLINE vf absolute(vf x)
{
    return (vf)(BITS(x) & 0x7fffffff);
}

/* e^x, relative error about 1e-7; 0 below -87 (the results would be subnormal), largest finite power above 88. */
INLINE vf exponential(vf x)
{
    const vi vanishes = x < -87.0f;
    x = SELECT(x > 88.0f, splat(88.0f), x);
    x = SELECT(vanishes, splat(-87.0f), x);
    /* x = n ln 2 + r; adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits. ln 2 in two parts. */
    const vf shifted = x * 1.44269504088896341f + 12582912.0f;
    const vf n = shifted - 12582912.0f;
    const vf r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const vi power = (BITS(shifted) - 0x4b400000 + 127) << 23;
    return (vf)(BITS(p * (vf)power) & ~vanishes);
}

/* bf16 and fp16 in the low halves of 32-bit lanes to float. */
INLINE vf bf16_lanes(vu bits)
{
    return (vf)(bits << 16);
}

INLINE vf fp16_lanes(vu bits)
{
    const vu magnitude = (bits & 0x7fff) << 13;
    /* exponent bias 15 to 127 by a product, which also makes subnormals right */
    const vf scaled = (vf)magnitude * 0x1p112f;
    const vu special = (vu)(vi)(magnitude >= (0x7c00u << 13)) & (0xffu << 23);
    return (vf)((vu)scaled | special | ((bits & 0x8000) << 16));
}

INLINE vu load_halves(const uint8_t *p)
{
    vh v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, vu);
}

INLINE vu load_halves_part(const uint8_t *p, size_t n)
{
    vh v = {0};
    memcpy(&v, p, 2 * n);
    return __builtin_convertvector(v, vu);
}

static void expand_nibbles(const uint8_t *packed, size_t steps, uint8_t *out)
{
    for (size_t i = 0; i < steps; i++) {
        vu v;
        memcpy(&v, packed + 64 * i, sizeof v);
        const vu low = v & 0x0f0f0f0fu;
        const vu high = (v >> 4) & 0x0f0f0f0fu;
        memcpy(out + 128 * i, &low, sizeof low);
        memcpy(out + 128 * i + 64, &high, sizeof high);
    }
}

static float absmax(const float *x, size_t n)
{
    /* As integers, absolute floats keep their order and NaN and infinity come out on top. */
    vi largest = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vi v = BITS(absolute(load(x + i)));
        const vi more = v > largest;
        largest = (v & more) | (largest & ~more);
    }
    if (i < n) {
        const vi v = BITS(absolute(load_part(x + i, n - i)));
        const vi more = v > largest;
        largest = (v & more) | (largest & ~more);
    }
    int32_t best = 0;
    for (int lane = 0; lane < LANES; lane++) {
        best = largest[lane] > best ? largest[lane] : best;
    }
    float result;
    memcpy(&result, &best, sizeof result);
    return result;
}

INLINE vi quantize_lanes(vf x, float scale, float limit)
{
    vf q = x / scale;
    q = SELECT(q > limit, splat(limit), q);
    q = SELECT(q < -limit, splat(-limit), q);
    q = (q + 12582912.0f) - 12582912.0f; /* round half even: |q| < 2^22 */
    return __builtin_convertvector(q, vi);
}

static int32_t quantize(const float *x, size_t n, float scale, float limit, int8_t *codes)
{
    vi sum = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vi q = quantize_lanes(load(x + i), scale, limit);
        const vb narrow = __builtin_convertvector(q, vb);
        memcpy(codes + i, &narrow, sizeof narrow);
        sum += q;
    }
    if (i < n) {
        const vi q = quantize_lanes(load_part(x + i, n - i), scale, limit);
        const vb narrow = __builtin_convertvector(q, vb);
        memcpy(codes + i, &narrow, n - i);
        sum += q;
    }
    int32_t total = 0;
    for (int lane = 0; lane < LANES; lane++) {
        total += sum[lane];
    }
    return total;
}

/* n stored elements from p + bytes * i as floats: 16, and fewer. */
INLINE vf wide_fp32(const uint8_t *p, size_t i)
{
    vf v;
    memcpy(&v, p + 4 * i, sizeof v);
    return v;
}

INLINE vf part_fp32(const uint8_t *p, size_t i, size_t n)
{
    vf v = {0};
    memcpy(&v, p + 4 * i, 4 * n);
    return v;
}

#define DEFINE_LOADS(name)                                                                                             \
    INLINE vf wide_##name(const uint8_t *p, size_t i)                                                                  \
    {                                                                                                                  \
        return name##_lanes(load_halves(p + 2 * i));                                                                   \
    }                                                                                                                  \
    INLINE vf part_##name(const uint8_t *p, size_t i, size_t n)                                                        \
    {                                                                                                                  \
        return name##_lanes(load_halves_part(p + 2 * i, n));                                                           \
    }

DEFINE_LOADS(bf16)
DEFINE_LOADS(fp16)

/* A dot product with four accumulators of 16 lanes. */
#define DEFINE_DOT(name)                                                                                               \
    static float dot_##name(const void *weights, const float *x, size_t n)                                             \
    {                                                                                                                  \
        const uint8_t *w = weights;                                                                                    \
        vf a = {0}, b = {0}, c = {0}, d = {0};                                                                         \
        size_t i = 0;                                                                                                  \
        for (; i + 4 * LANES <= n; i += 4 * LANES) {                                                                   \
            a += wide_##name(w, i) * load(x + i);                                                                      \
            b += wide_##name(w, i + LANES) * load(x + i + LANES);                                                      \
            c += wide_##name(w, i + 2 * LANES) * load(x + i + 2 * LANES);                                              \
            d += wide_##name(w, i + 3 * LANES) * load(x + i + 3 * LANES);                                              \
        }                                                                                                              \
        for (; i + LANES <= n; i += LANES) {                                                                           \
            a += wide_##name(w, i) * load(x + i);                                                                      \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            b += part_##name(w, i, n - i) * load_part(x + i, n - i);                                                   \
        }                                                                                                              \
        return lane_sum((a + b) + (c + d));                                                                            \
    }

DEFINE_DOT(fp32)
DEFINE_DOT(bf16)
DEFINE_DOT(fp16)

#define DEFINE_FROM(name)                                                                                              \
    static void from_##name(const void *from, size_t n, float *y)                                                      \
    {                                                                                                                  \
        const uint8_t *p = from;                                                                                       \
        size_t i = 0;                                                                                                  \
        for (; i + LANES <= n; i += LANES) {                                                                           \
            store(y + i, wide_##name(p, i));                                                                           \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            const vf v = part_##name(p, i, n - i);                                                                     \
            memcpy(y + i, &v, (n - i) * sizeof *y);                                                                    \
        }                                                                                                              \
    }

DEFINE_FROM(bf16)
DEFINE_FROM(fp16)

/* Column k (0..7) of eight columns of a panel, as 16 floats, one a row. */
INLINE vf panel_column(sqf_form form, const uint8_t *step, unsigned k)
{
    if (form == SQF_FORM_BF16) {
        return bf16_lanes(load_halves(step + 2 * LANES * k));
    }
    if (form == SQF_FORM_FP16) {
        return fp16_lanes(load_halves(step + 2 * LANES * k));
    }
    vu v;
    if (form == SQF_FORM_NIBBLES) {
        memcpy(&v, step, sizeof v);
        v = (v >> (8 * (k % 4) + (k < 4 ? 0 : 4))) & 15;
        return __builtin_convertvector((vi)v - SQF_NIBBLE_OFFSET, vf);
    }
    memcpy(&v, step + (k < 4 ? 0 : 64), sizeof v);
    return __builtin_convertvector((vi)(v << (24 - 8 * (k % 4))) >> 24, vf);
}

INLINE void panel_dot_form(sqf_form form, const uint8_t *weights, size_t columns, const float *x, const float *scales,
                           float *out)
{
    const size_t step_bytes = sqf_form_step_bytes(form);
    vf a = {0}, b = {0}; /* even and odd columns: two chains of additions */
    size_t k = 0;
    for (; k + SQF_SEGMENT_PAD <= columns; k += SQF_SEGMENT_PAD) {
        const uint8_t *step = weights + k / SQF_SEGMENT_PAD * step_bytes;
        for (unsigned i = 0; i < SQF_SEGMENT_PAD; i += 2) {
            a += panel_column(form, step, i) * x[k + i];
            b += panel_column(form, step, i + 1) * x[k + i + 1];
        }
    }
    for (unsigned i = 0; k + i < columns; i++) {
        a += panel_column(form, weights + k / SQF_SEGMENT_PAD * step_bytes, i) * x[k + i];
    }
    store(out, load(out) + load(scales) * (a + b));
}

static void panel_dot(sqf_form form, const uint8_t *weights, size_t columns, const float *x, const float *scales,
                      float *out)
{
    switch (form) {
    case SQF_FORM_NIBBLES: panel_dot_form(SQF_FORM_NIBBLES, weights, columns, x, scales, out); break;
    case SQF_FORM_BF16: panel_dot_form(SQF_FORM_BF16, weights, columns, x, scales, out); break;
    case SQF_FORM_FP16: panel_dot_form(SQF_FORM_FP16, weights, columns, x, scales, out); break;
    default: panel_dot_form(SQF_FORM_BYTES, weights, columns, x, scales, out); break;
    }
}

INLINE void panel_dequantize_form(sqf_form form, const uint8_t *weights, size_t columns, const float *scales, bool add,
                                  float *tile)
{
    const size_t step_bytes = sqf_form_step_bytes(form);
    const vf scale = load(scales);
    for (size_t k = 0; k < columns; k += SQF_SEGMENT_PAD) {
        const uint8_t *step = weights + k / SQF_SEGMENT_PAD * step_bytes;
        const size_t count = columns - k < SQF_SEGMENT_PAD ? columns - k : SQF_SEGMENT_PAD;
        for (unsigned i = 0; i < count; i++) {
            float *place = tile + (k + i) * SQF_BLOCK_ROWS;
            const vf w = panel_column(form, step, i) * scale;
            store(place, add ? load(place) + w : w);
        }
    }
}

static void panel_dequantize(sqf_form form, const uint8_t *weights, size_t columns, const float *scales, bool add,
                             float *tile)
{
    switch (form) {
    case SQF_FORM_NIBBLES: panel_dequantize_form(SQF_FORM_NIBBLES, weights, columns, scales, add, tile); break;
    case SQF_FORM_BF16: panel_dequantize_form(SQF_FORM_BF16, weights, columns, scales, add, tile); break;
    case SQF_FORM_FP16: panel_dequantize_form(SQF_FORM_FP16, weights, columns, scales, add, tile); break;
    default: panel_dequantize_form(SQF_FORM_BYTES, weights, columns, scales, add, tile); break;
    }
}

static float sum_squares(const float *x, size_t n)
{
    return dot_fp32(x, x, n);
}

/* Applies an expression of lanes a, b to arrays x, y: y[i] = expression. */
#define DEFINE_MAP(name, parameters, x, y, out, expression)                                                            \
    static void name parameters                                                                                        \
    {                                                                                                                  \
        size_t i = 0;                                                                                                  \
        for (; i + LANES <= n; i += LANES) {                                                                           \
            const vf a = load((x) + i), b = load((y) + i);                                                             \
            store((out) + i, expression);                                                                              \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            const vf a = load_part((x) + i, n - i), b = load_part((y) + i, n - i);                                     \
            const vf v = expression;                                                                                   \
            memcpy((out) + i, &v, (n - i) * sizeof *(out));                                                            \
        }                                                                                                              \
    }

DEFINE_MAP(scale_gain, (const float *x, const float *gain, float factor, size_t n, float *y), x, gain, y,
           (a * factor) * b)
DEFINE_MAP(silu_mul, (const float *gate, const float *up, size_t n, float *y), gate, up, y,
           (a / (exponential(-a) + 1.0f)) * b)
DEFINE_MAP(add, (float *x, const float *y, size_t n), x, y, x, a + b)
DEFINE_MAP(axpy, (float *y, float factor, const float *x, size_t n), x, y, y, b + a * factor)

static void scale(float *x, float factor, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        store(x + i, load(x + i) * factor);
    }
    for (; i < n; i++) {
        x[i] *= factor;
    }
}

static void rotate(float *x, const float *cosine, const float *sine, size_t half)
{
    float *second = x + half;
    size_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        const vf a = load(x + i), b = load(second + i), c = load(cosine + i), s = load(sine + i);
        store(x + i, a * c - b * s);
        store(second + i, b * c + a * s);
    }
    for (; i < half; i++) {
        const float a = x[i], b = second[i];
        x[i] = a * cosine[i] - b * sine[i];
        second[i] = b * cosine[i] + a * sine[i];
    }
}

static float maximum(const float *x, size_t n)
{
    vf largest = splat(x[0]);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vf v = load(x + i);
        largest = SELECT(v > largest, v, largest);
    }
    float best = largest[0];
    for (int lane = 1; lane < LANES; lane++) {
        best = largest[lane] > best ? largest[lane] : best;
    }
    for (; i < n; i++) {
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

static float exp_sum(float *x, float shift, size_t n)
{
    vf sum = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vf v = exponential(load(x + i) - shift);
        store(x + i, v);
        sum += v;
    }
    if (i < n) {
        vf v = exponential(load_part(x + i, n - i) - shift);
        memcpy(x + i, &v, (n - i) * sizeof *x);
        sum += load_part(x + i, n - i);
    }
    return lane_sum(sum);
}

#define JOIN_AGAIN(a, b) a##b
#define JOIN(a, b)       JOIN_AGAIN(a, b)

void JOIN(sqf_vector_add_, VECTOR_SUFFIX)(sqf_kernels *kernels)
{
    kernels->expand_nibbles = expand_nibbles;
    kernels->absmax = absmax;
    kernels->quantize = quantize;
    kernels->dot_fp32 = dot_fp32;
    kernels->dot_bf16 = dot_bf16;
    kernels->dot_fp16 = dot_fp16;
    kernels->from_bf16 = from_bf16;
    kernels->from_fp16 = from_fp16;
    kernels->panel_dot = panel_dot;
    kernels->panel_dequantize = panel_dequantize;
    kernels->sum_squares = sum_squares;
    kernels->scale_gain = scale_gain;
    kernels->silu_mul = silu_mul;
    kernels->add = add;
    kernels->scale = scale;
    kernels->axpy = axpy;
    kernels->rotate = rotate;
    kernels->maximum = maximum;
    kernels->exp_sum = exp_sum;
}

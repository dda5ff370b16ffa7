/* Rounding of weights to a grid and the choice of the largest of a bank, in the portable vector C of vector.h, which
 * includes this file. Every function computes what its scalar counterpart in src/format does, bit for bit: comparisons
 * and single roundings have no order that a vector could change, and the one sum has a prescribed one. */
#ifndef SQF_KERNELS_CPU_ROUND_H
#define SQF_KERNELS_CPU_ROUND_H

#include "format/type.h"

/* LANES bytes of 0 and 1 as lanes of 0 and all ones. */
INLINE vi widen_mask(const uint8_t *mask, size_t n)
{
    vb narrow = {0};
    memcpy(&narrow, mask, n);
    return -__builtin_convertvector(narrow, vi);
}

/* The bits of |x|: in the order of the magnitudes, and positive as integers. Lanes beyond n are 0. */
INLINE vi magnitude_keys(const float *x, size_t n)
{
    return n >= LANES ? BITS(absolute(load(x))) : BITS(absolute(load_part(x, n)));
}

INLINE vi larger(vi a, vi b)
{
    const vi more = a > b;
    return (a & more) | (b & ~more);
}

INLINE float largest_lane(vi keys)
{
    int32_t best = 0;
    for (int lane = 0; lane < LANES; lane++) {
        best = keys[lane] > best ? keys[lane] : best;
    }
    float result;
    memcpy(&result, &best, sizeof result);
    return result;
}

static void part_maxima(const float *x, const uint8_t *mask, size_t n, float *low, float *high)
{
    vi outside = {0}, inside = {0};
    for (size_t i = 0; i < n; i += LANES) {
        const size_t count = n - i < LANES ? n - i : LANES;
        const vi keys = magnitude_keys(x + i, count);
        const vi chosen = widen_mask(mask + i, count);
        inside = larger(inside, keys & chosen);
        outside = larger(outside, keys & ~chosen);
    }
    *low = largest_lane(outside);
    *high = largest_lane(inside);
}

/* How many lanes have keys >= the threshold; lanes beyond n have the key 0 and thresholds are larger. */
INLINE size_t reaching(vi keys, vi threshold)
{
#if LANES == 16 && defined(__AVX512F__)
    return (size_t)__builtin_popcount(_mm512_cmpge_epi32_mask((__m512i)keys, (__m512i)threshold));
#elif LANES == 8 && defined(__AVX2__)
    /* bit by bit of the sign: a comparison that fails leaves none */
    return (size_t)__builtin_popcount((unsigned)_mm256_movemask_ps((__m256)(keys >= threshold)));
#else
    const vi hits = keys >= threshold;
    int32_t count = 0;
    for (int lane = 0; lane < LANES; lane++) {
        count -= hits[lane];
    }
    return (size_t)count;
#endif
}

INLINE size_t count_reaching(const float *x, size_t n, int32_t threshold)
{
    const vi least = (vi){0} + threshold;
    size_t count = 0, i = 0;
    for (; i + LANES <= n; i += LANES) {
        count += reaching(magnitude_keys(x + i, LANES), least);
    }
    return i < n ? count + reaching(magnitude_keys(x + i, n - i), least) : count;
}

/* The same for `vectors` whole vectors of keys that stay in registers. */
INLINE size_t count_held(const vi *keys, size_t vectors, int32_t threshold)
{
    const vi least = (vi){0} + threshold;
    size_t count = 0;
    UNROLL for (size_t v = 0; v < vectors; v++)
    {
        count += reaching(keys[v], least);
    }
    return count;
}

/* The largest threshold that at least k keys reach, found bit by bit from the top; *count = how many reach it. A
 * threshold that exactly k keys reach is as good, and ends the search: mostly after a few bits. `any` has the bits
 * that are set in some key. `bank` is a constant where this is inlined, or 0. */
INLINE int32_t find_threshold(const float *x, size_t n, size_t bank, size_t k, uint32_t any, const vi *keys,
                              size_t *count)
{
    int32_t threshold = 0;
    *count = n;
    for (uint32_t left = any; left != 0 && *count != k;) {
        const uint32_t bit = 1u << (31 - __builtin_clz(left));
        const int32_t trial = threshold | (int32_t)bit;
        const size_t reached = bank ? count_held(keys, bank / LANES, trial) : count_reaching(x, n, trial);
        threshold = reached >= k ? trial : threshold;
        *count = reached >= k ? reached : *count;
        left &= bit - 1;
    }
    return threshold;
}

/* More keys reach the threshold than are wanted: those equal to it are too many, the first of them are taken. */
static void mark_ties(const float *x, size_t n, size_t surplus, int32_t threshold, uint8_t *mask)
{
    for (size_t i = n; i-- > 0 && surplus > 0;) {
        int32_t key;
        memcpy(&key, x + i, sizeof key);
        if ((key & 0x7fffffff) == threshold) {
            mask[i] = 0;
            surplus--;
        }
    }
}

INLINE void select_bank(const float *x, size_t n, size_t bank, size_t k, uint8_t *mask)
{
    vi keys[64 / LANES] = {{0}}, all = {0};
    for (size_t i = 0; i < n; i += LANES) {
        const vi key = magnitude_keys(x + i, n - i);
        all |= key;
        if (bank) {
            keys[i / LANES] = key;
        }
    }
    uint32_t any = 0;
    for (int lane = 0; lane < LANES; lane++) {
        any |= (uint32_t)all[lane];
    }
    size_t count;
    const int32_t threshold = find_threshold(x, n, bank, k, any, keys, &count);
    for (size_t i = 0; i < n; i += LANES) {
        const vi chosen = magnitude_keys(x + i, n - i) >= (vi){0} + threshold;
        const vb narrow = __builtin_convertvector(chosen & 1, vb);
        memcpy(mask + i, &narrow, n - i < LANES ? n - i : LANES);
    }
    if (count > k) {
        mark_ties(x, n, count - k, threshold, mask);
    }
}

static void select_magnitudes(const float *x, size_t n, size_t k, uint8_t *mask)
{
    if (k == 0) {
        memset(mask, 0, n);
    } else if (n == 64) {
        select_bank(x, 64, 64, k, mask);
    } else if (n == 32) {
        select_bank(x, 32, 32, k, mask);
    } else {
        select_bank(x, n, 0, k, mask);
    }
}

/* A small float's shape; exponent bits 0 for the integers. */
typedef struct grid {
    sqf_type type;
    int exponent_bits, fraction, bias;
    int32_t offset; /* integers: code - value */
} grid;

/* sqf_type_step, lane by lane. */
INLINE vf grid_step(grid g, vf q)
{
    const vf power = (vf)(BITS(q) & 0x7f800000);
    const float least = g.bias > 0 ? 1.0f / (float)(1 << (g.bias - 1)) : 1.0f;
    return SELECT(power < least, splat(least), power) * (1.0f / (float)(1 << g.fraction));
}

/* The code of a value on a small float's grid: its bits moved to the narrow fields, or below the smallest normal
 * number the multiple of the smallest step. */
INLINE vi small_float_codes(grid g, vf value)
{
    const float least = 1.0f / (float)(1 << (g.bias - 1));
    const vi magnitude = BITS(absolute(value));
    const vi normal = (magnitude >> (23 - g.fraction)) - ((127 - g.bias) << g.fraction);
    const vi subnormal = __builtin_convertvector((vf)magnitude * (float)(1 << (g.bias - 1 + g.fraction)), vi);
    const vi below = (vf)magnitude < least;
    const vi sign = (value < 0.0f) & (1 << (g.exponent_bits + g.fraction));
    return ((subnormal & below) | (normal & ~below)) | sign;
}

/* One vector: codes and differences of the lanes whose mask is all ones. */
INLINE void round_lanes(grid g, float scale, float limit, const float *x, size_t n, const uint8_t *mask, uint8_t *codes,
                        float *difference)
{
    const vf from = n < LANES ? load_part(x, n) : load(x);
    vf q = from / scale;
    q = SELECT(q > limit, splat(limit), q);
    q = SELECT(q < -limit, splat(-limit), q);
    const vf shift = g.exponent_bits ? 0x1.8p23f * grid_step(g, q) : splat(0x1.8p23f);
    const vf value = (q + shift) - shift;
    const vi code = g.exponent_bits ? small_float_codes(g, value) : __builtin_convertvector(value, vi) + g.offset;
    const vb narrow = __builtin_convertvector(code, vb);
    const float factor = __builtin_isinf(scale) ? 0.0f : scale;
    vf off = from - value * factor;
    memcpy(codes, &narrow, n < LANES ? n : LANES);
    if (mask) {
        const vi chosen = widen_mask(mask, n < LANES ? n : LANES);
        off = SELECT(chosen, off, n < LANES ? load_part(difference, n) : load(difference));
    }
    memcpy(difference, &off, (n < LANES ? n : LANES) * sizeof *difference);
}

INLINE void round_grid(grid g, const float *x, size_t n, float scale, const uint8_t *mask, uint8_t *codes,
                       float *difference)
{
    /* a part without scale rounds to 0 */
    const float divisor = scale > 0.0f ? scale : __builtin_inff(), limit = sqf_type_limits[g.type];
    size_t i = 0;
    if (mask) {
        for (; i + LANES <= n; i += LANES) {
            round_lanes(g, divisor, limit, x + i, LANES, mask + i, codes + i, difference + i);
        }
    } else {
        for (; i + LANES <= n; i += LANES) {
            round_lanes(g, divisor, limit, x + i, LANES, NULL, codes + i, difference + i);
        }
    }
    if (i < n) {
        round_lanes(g, divisor, limit, x + i, n - i, mask ? mask + i : NULL, codes + i, difference + i);
    }
}

static void round_codes(sqf_type type, const float *x, size_t n, float scale, int32_t offset, const uint8_t *mask,
                        uint8_t *codes, float *difference)
{
    switch (type) {
    case SQF_TYPE_FP4: round_grid((grid){SQF_TYPE_FP4, 2, 1, 1, 0}, x, n, scale, mask, codes, difference); return;
    case SQF_TYPE_FP6: round_grid((grid){SQF_TYPE_FP6, 2, 3, 1, 0}, x, n, scale, mask, codes, difference); return;
    case SQF_TYPE_FP6_E3M2:
        round_grid((grid){SQF_TYPE_FP6_E3M2, 3, 2, 3, 0}, x, n, scale, mask, codes, difference);
        return;
    case SQF_TYPE_FP8: round_grid((grid){SQF_TYPE_FP8, 4, 3, 7, 0}, x, n, scale, mask, codes, difference); return;
    case SQF_TYPE_FP8_E5M2:
        round_grid((grid){SQF_TYPE_FP8_E5M2, 5, 2, 15, 0}, x, n, scale, mask, codes, difference);
        return;
    default: round_grid((grid){type, 0, 0, 0, offset}, x, n, scale, mask, codes, difference); return;
    }
}

/* Doubles of one register, and as many floats. */
#define DOUBLES (LANES / 2)
typedef double vd __attribute__((vector_size(4 * LANES)));
typedef float vhalf __attribute__((vector_size(2 * LANES)));

INLINE void add_squares(vd *part, const float *x)
{
    UNROLL for (int v = 0; v < 8 / DOUBLES; v++)
    {
        vhalf f;
        memcpy(&f, x + v * DOUBLES, sizeof f);
        const vd d = __builtin_convertvector(f, vd);
        part[v] += d * d;
    }
}

/* Adds the parts to a running sum in ascending order. */
INLINE double drain(const vd *part, double sum)
{
    for (int p = 0; p < 8; p++) {
        sum += part[p / DOUBLES][p % DOUBLES];
    }
    return sum;
}

static void square_sums(const float *x, const float *y, size_t n, double *x_sum, double *y_sum)
{
    vd x_part[8 / DOUBLES] = {{0}}, y_part[8 / DOUBLES] = {{0}};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        add_squares(x_part, x + i);
        add_squares(y_part, y + i);
    }
    for (; i < n; i++) {
        x_part[0][0] += (double)x[i] * (double)x[i];
        y_part[0][0] += (double)y[i] * (double)y[i];
    }
    *x_sum = drain(x_part, *x_sum);
    *y_sum = drain(y_part, *y_sum);
}

#endif

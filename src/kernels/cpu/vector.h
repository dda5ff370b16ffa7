/* The vector kernels in portable vector C (gcc and clang's vector extensions): compiled once for each instruction
 * set, with VECTOR_SUFFIX and LANES (the floats of its registers) defined. One source for all levels, so they cannot
 * differ by intention.
 *
 * No contraction, and sums always as 64 partial sums, element i into partial i % 64, that are folded in halves: every
 * level rounds alike, because 4, 8 and 16 lanes all divide 64. Where a sum runs over tokens or keys (weighted_sum)
 * each element keeps its own ascending order.
 *
 * Tails are loaded as zeros and stored by their length, never read or written beyond n. */
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "kernels/kernels.h"

#define PARTIALS     64
#define ACCUMULATORS (PARTIALS / LANES)
#define ROW_VECTORS  (SQF_PANEL_ROWS / LANES) /* vectors that hold one column of a panel */
#define INLINE       static inline __attribute__((always_inline))
#define UNROLL       _Pragma("GCC unroll 16")

/* The vectors of this level: floats, their bits, half floats, bytes; LANES elements each. */
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef int8_t vb __attribute__((vector_size(LANES)));

#define BITS(x) ((vi)(x))
/* mask lanes are all ones or zero */
#define SELECT(mask, yes, no) ((vf)((BITS(yes) & (mask)) | (BITS(no) & ~(mask))))

/* limit < x ? limit : x and limit > x ? limit : x, by the instruction that means just this: NaN passes through. */
INLINE vf at_most(vf limit, vf x)
{
#if LANES == 16 && defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)limit, (__m512)x);
#elif LANES == 8 && defined(__AVX2__)
    return (vf)_mm256_min_ps((__m256)limit, (__m256)x);
#else
    return SELECT(limit < x, limit, x);
#endif
}

INLINE vf at_least(vf limit, vf x)
{
#if LANES == 16 && defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)limit, (__m512)x);
#elif LANES == 8 && defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)limit, (__m256)x);
#else
    return SELECT(limit > x, limit, x);
#endif
}

/* The larger integer of each lane. */
INLINE vi larger_of(vi a, vi b)
{
#if LANES == 16 && defined(__AVX512F__)
    return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif LANES == 8 && defined(__AVX2__)
    return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    const vi more = a > b;
    return (a & more) | (b & ~more);
#endif
}

/* The sum of all lanes, and the largest. */
INLINE int32_t sum_lanes(vi v)
{
#if LANES == 16 && defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t total = 0;
    for (int lane = 0; lane < LANES; lane++) {
        total += v[lane];
    }
    return total;
#endif
}

INLINE int32_t largest_of_lanes(vi v)
{
#if LANES == 16 && defined(__AVX512F__)
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t best = v[0];
    for (int lane = 1; lane < LANES; lane++) {
        best = v[lane] > best ? v[lane] : best;
    }
    return best;
#endif
}

INLINE vf load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The n < LANES floats at p, the other lanes 0. */
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

/* The sum of 64 partial sums, folded in halves whatever the width of the vectors: 64 to 32 to 16 and so on, first
 * across vectors and then across lanes, which is the same tree for every width. */
INLINE float fold(vf *partial)
{
    UNROLL for (int half = ACCUMULATORS / 2; half > 0; half /= 2)
    {
        UNROLL for (int j = 0; j < half; j++)
        {
            partial[j] += partial[j + half];
        }
    }
    float lanes[LANES];
    store(lanes, partial[0]);
    UNROLL for (int half = LANES / 2; half > 0; half /= 2)
    {
        UNROLL for (int i = 0; i < half; i++)
        {
            lanes[i] += lanes[i + half];
        }
    }
    return lanes[0];
}

/* The sign bit off; NaN stays one. */
INLINE vf absolute(vf x)
{
    return (vf)(BITS(x) & 0x7fffffff);
}

/* e^x, relative error about 1e-7; 0 below -87 (the results would be subnormal), largest finite power above 88. The
 * polynomial and the split of ln 2 are those of Cephes' expf (Moshier): on |r| <= ln 2 / 2. */
INLINE vf exponential(vf x)
{
    const vi vanishes = x < -87.0f;
    x = at_least(splat(-87.0f), at_most(splat(88.0f), x));
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

/* LANES elements of 16 bits, widened to lanes of 32; the part form leaves the others 0. */
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

/* 64 bytes are 8 columns of 16 rows; low nibbles are the first four columns, so the two halves come out in order. */
static void expand_nibbles(const uint8_t *packed, size_t steps, uint8_t *out)
{
    for (size_t i = 0; i < steps; i++) {
        UNROLL for (size_t at = 0; at < 64; at += sizeof(vu))
        {
            vu v;
            memcpy(&v, packed + 64 * i + at, sizeof v);
            const vu low = v & 0x0f0f0f0fu;
            const vu high = (v >> 4) & 0x0f0f0f0fu;
            memcpy(out + 128 * i + at, &low, sizeof low);
            memcpy(out + 128 * i + 64 + at, &high, sizeof high);
        }
    }
}

static float absmax(const float *x, size_t n)
{
    /* As integers, absolute floats keep their order and NaN and infinity come out on top. */
    vi most[4] = {{0}};
    size_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        UNROLL for (int j = 0; j < 4; j++)
        {
            most[j] = larger_of(BITS(absolute(load(x + i + j * LANES))), most[j]);
        }
    }
    for (; i < n; i += LANES) {
        const vf v = i + LANES <= n ? load(x + i) : load_part(x + i, n - i);
        most[0] = larger_of(BITS(absolute(v)), most[0]);
    }
    const vi largest = larger_of(larger_of(most[0], most[1]), larger_of(most[2], most[3]));
    const int32_t best = largest_of_lanes(largest);
    float result;
    memcpy(&result, &best, sizeof result);
    return result;
}

/* Both ends of the values and 0, which every lane starts with. */
static void range(const float *x, size_t n, float *lowest, float *largest)
{
    vf low = {0}, high = {0};
    for (size_t i = 0; i < n; i += LANES) {
        const vf v = i + LANES <= n ? load(x + i) : load_part(x + i, n - i);
        low = at_most(v, low);
        high = at_least(v, high);
    }
    *lowest = *largest = 0.0f;
    for (int lane = 0; lane < LANES; lane++) {
        *lowest = low[lane] < *lowest ? low[lane] : *lowest;
        *largest = high[lane] > *largest ? high[lane] : *largest;
    }
}

/* Bit i: lane i of v is at least `least`. Absolute floats keep their order as integers. */
INLINE unsigned lanes_at_least(vi v, int32_t least)
{
#if LANES == 16 && defined(__AVX512F__)
    return _mm512_cmpge_epi32_mask((__m512i)v, _mm512_set1_epi32(least));
#elif LANES == 8 && defined(__AVX2__)
    return (unsigned)_mm256_movemask_ps((__m256)(v >= least));
#elif LANES == 4 && defined(__SSE2__)
    return (unsigned)_mm_movemask_ps((__m128)(v >= least));
#else
    unsigned bits = 0;
    for (int lane = 0; lane < LANES; lane++) {
        bits |= (unsigned)(v[lane] >= least) << lane;
    }
    return bits;
#endif
}

INLINE vf clamp_lanes(vf q, float lowest, float largest)
{
    return at_least(splat(lowest), at_most(splat(largest), q));
}

/* How a quotient is rounded: by a product with the reciprocal where this must give the same integer.
 *
 * The product is off by at most three roundings, 3 * 2^-24 of at most 256 (after clamping), less than 2^-14. Where it
 * lies further than 2^-12 from every half, the quotient lies on the same side of it; where it does not (one lane of
 * 2048 in the mean), the vector is divided. Reciprocals that are not normal numbers never serve. */
typedef struct quotient {
    float scale, inverse;
    int32_t doubt; /* bits of the distance from a whole number from which on it divides; 0 = always */
} quotient;

INLINE quotient make_quotient(float scale)
{
    const bool normal = scale >= 0x1p-120f && scale <= 0x1p120f;
    return (quotient){scale, normal ? 1.0f / scale : 0.0f, normal ? 0x3eff8000 /* 0.5 - 2^-12 */ : 0};
}

/* n vectors of 1 or 4 at x as integers nearest to x / scale, half to even, and clamped: the rounding of
 * sqf_round_to_step, |q| < 2^22. The integers are the low bits of what is rounded by adding 1.5 * 2^23. */
INLINE void quantize_lanes(const vf *x, int n, quotient by, float lowest, float largest, int32_t zero, vi *out)
{
    unsigned doubtful = 0;
    vf rounded[4];
    UNROLL for (int j = 0; j < n; j++)
    {
        const vf q = clamp_lanes(x[j] * by.inverse, lowest, largest);
        rounded[j] = q + 12582912.0f;
        doubtful |= lanes_at_least(BITS(absolute(q - (rounded[j] - 12582912.0f))), by.doubt);
    }
    if (__builtin_expect(doubtful != 0, 0)) {
        UNROLL for (int j = 0; j < n; j++)
        {
            rounded[j] = clamp_lanes(x[j] / by.scale, lowest, largest) + 12582912.0f;
        }
    }
    UNROLL for (int j = 0; j < n; j++)
    {
        out[j] = BITS(rounded[j]) - (0x4b400000 - zero);
    }
}

/* Four vectors of integers that fit bytes. */
INLINE void store_bytes(int8_t *to, const vi *v)
{
#if LANES == 8 && defined(__AVX2__)
    const __m256i halves[2] = {_mm256_packs_epi32((__m256i)v[0], (__m256i)v[1]),
                               _mm256_packs_epi32((__m256i)v[2], (__m256i)v[3])};
    /* packing goes by halves of the register: the pieces of 4 bytes are put in order at the end */
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(halves[0], halves[1]),
                                                      _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    memcpy(to, &bytes, sizeof bytes);
#else
    UNROLL for (int j = 0; j < 4; j++)
    {
        const vb narrow = __builtin_convertvector(v[j], vb);
        memcpy(to + j * LANES, &narrow, sizeof narrow);
    }
#endif
}

/* The sum of at most 2^17 codes (a segment) fits an int32 many times over. */
static int32_t quantize(const float *x, size_t n, float scale, float lowest, float largest, int32_t zero, int8_t *codes)
{
    const quotient by = make_quotient(scale);
    vi sum = {0};
    size_t i = 0;
    int32_t total = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        const vf v[4] = {load(x + i), load(x + i + LANES), load(x + i + 2 * LANES), load(x + i + 3 * LANES)};
        vi q[4];
        quantize_lanes(v, 4, by, lowest, largest, zero, q);
        store_bytes(codes + i, q);
        sum += (q[0] + q[1]) + (q[2] + q[3]);
    }
    for (; i < n; i += LANES) {
        const size_t left = n - i < LANES ? n - i : LANES;
        const vf v = left == LANES ? load(x + i) : load_part(x + i, left);
        vi q;
        quantize_lanes(&v, 1, by, lowest, largest, zero, &q);
        const vb narrow = __builtin_convertvector(q, vb);
        memcpy(codes + i, &narrow, left);
        sum += q;
        total -= zero * (int32_t)(LANES - left); /* lanes beyond the end hold the code of 0 */
    }
    return total + sum_lanes(sum);
}

/* The rounding of sqf_type_round on a grid whose steps grow with the powers of two. */
static int32_t quantize_grid(const float *x, size_t n, float scale, float largest, float smallest_normal,
                             float fraction, float multiplier, int8_t *codes)
{
    vi sum = {0};
    for (size_t i = 0; i < n; i += LANES) {
        const size_t left = n - i;
        const vf v = left >= LANES ? load(x + i) : load_part(x + i, left);
        const vf q = clamp_lanes(v / scale, -largest, largest);
        const vf power = (vf)(BITS(q) & 0x7f800000);
        const vf step = at_least(splat(smallest_normal), power) * fraction;
        const vf shift = step * 12582912.0f;
        const vi code = __builtin_convertvector(((q + shift) - shift) * multiplier, vi);
        const vb narrow = __builtin_convertvector(code, vb);
        memcpy(codes + i, &narrow, left < LANES ? left : LANES);
        sum += code;
    }
    return sum_lanes(sum);
}

/* How many of n scores, floats >= 0 as integers, are at least `least` (> 0). */
INLINE size_t count_at_least(const float *scores, size_t n, int32_t least)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i += LANES) {
        const vf v = n - i >= LANES ? load(scores + i) : load_part(scores + i, n - i);
        count += (size_t)__builtin_popcount(lanes_at_least(BITS(v), least));
    }
    return count;
}

/* The threshold of the `count` largest scores (0 < count < n) by halving: at least `count` are >= low, fewer are
 * >= high. Returns low, and how many that are equal to it belong to the largest: n if all do. */
INLINE int32_t top_threshold(const float *scores, size_t n, size_t count, int32_t low, int32_t high, size_t *ties)
{
    *ties = n;
    while (high - low > 1) {
        const int32_t middle = low + (high - low) / 2;
        const size_t above = count_at_least(scores, n, middle);
        if (above == count) {
            return middle;
        }
        low = above > count ? middle : low;
        high = above > count ? high : middle;
    }
    *ties = count - count_at_least(scores, n, high);
    return low;
}

/* |x| * weight goes to `out`; its smallest and its largest, as integers. */
INLINE void score_lanes(const float *x, const float *weight, size_t n, float *out, int32_t *low, int32_t *high)
{
    *low = INT32_MAX;
    *high = 0;
    for (size_t i = 0; i < n; i++) {
        /* |x| * 1 is |x| */
        const float score = __builtin_fabsf(x[i]) * (weight ? weight[i] : 1.0f);
        int32_t bits;
        memcpy(&bits, &score, sizeof bits);
        *low = bits < *low ? bits : *low;
        *high = bits > *high ? bits : *high;
        out[i] = score;
    }
}

/* ranks + 1 where key > bound. */
INLINE vi count_above(vi ranks, vi bounds, int32_t key)
{
#if LANES == 16 && defined(__AVX512F__)
    const __mmask16 above = _mm512_cmplt_epi32_mask((__m512i)bounds, _mm512_set1_epi32(key));
    return (vi)_mm512_mask_add_epi32((__m512i)ranks, above, (__m512i)ranks, _mm512_set1_epi32(1));
#else
    return ranks - (vi)(bounds < key);
#endif
}

/* split_top of n <= vectors * LANES elements without a branch that depends on them: the rank of an element is the
 * number of scores above it, or equal to it and before it. For integers a >= b is a > b - 1: bounds begin as scores
 * less 1 and are set right as the loop passes them. `vectors` is a constant at each call. */
INLINE void split_ranked(const float *x, const float *weight, size_t n, int vectors, size_t count, float *low,
                         float *high)
{
    static const int32_t one_hot[2 * LANES] = {[LANES] = 1};
    int32_t keys[2 * 16];
    vi bounds[16 / 4], ranks[16 / 4];
    UNROLL for (int v = 0; v < vectors; v++)
    {
        const size_t at = (size_t)v * LANES, left = n > at ? n - at : 0;
        vf score = absolute(left >= LANES ? load(x + at) : load_part(x + at, left));
        if (weight) {
            score *= left >= LANES ? load(weight + at) : load_part(weight + at, left);
        }
        memcpy(keys + at, &score, sizeof score);
        bounds[v] = BITS(score) - 1;
        ranks[v] = (vi){0};
    }
    /* lanes beyond n score 0 behind all others: they are above none of them */
    UNROLL for (int block = 0; block < vectors; block++)
    {
        UNROLL for (int j = 0; j < LANES; j++)
        {
            vi own;
            memcpy(&own, one_hot + LANES - j, sizeof own);
            bounds[block] += own;
            UNROLL for (int v = 0; v < vectors; v++)
            {
                ranks[v] = count_above(ranks[v], bounds[v], keys[block * LANES + j]);
            }
        }
    }
    UNROLL for (int v = 0; v < vectors; v++)
    {
        const size_t at = (size_t)v * LANES, left = n > at ? n - at : 0, length = left < LANES ? left : LANES;
        const vi chosen = ranks[v] < (int32_t)count;
        const vf value = left >= LANES ? load(x + at) : load_part(x + at, left);
        const vf parts[2] = {(vf)(BITS(value) & ~chosen), (vf)(BITS(value) & chosen)};
        memcpy(low + at, &parts[0], length * sizeof *low);
        memcpy(high + at, &parts[1], length * sizeof *high);
    }
}

static void split_top(const float *x, const float *weight, size_t n, size_t count, float *low, float *high)
{
    if (n <= 16) {
        split_ranked(x, weight, n, 16 / LANES, count, low, high);
        return;
    }
    if (LANES == 16 && n <= 32) {
        split_ranked(x, weight, n, 2, count, low, high);
        return;
    }
    if (count == 0 || count >= n) {
        memcpy(count ? high : low, x, n * sizeof *x);
        memset(count ? low : high, 0, n * sizeof *x);
        return;
    }
    int32_t least, most;
    size_t ties;
    score_lanes(x, weight, n, high, &least, &most);
    least = top_threshold(high, n, count, least, most + 1, &ties);
    size_t i = 0;
    for (; ties == n && i + LANES <= n; i += LANES) {
        const vf v = load(x + i);
        const vi chosen = BITS(load(high + i)) >= least;
        store(low + i, (vf)(BITS(v) & ~chosen));
        store(high + i, (vf)(BITS(v) & chosen));
    }
    for (; i < n; i++) {
        int32_t bits;
        memcpy(&bits, high + i, sizeof bits);
        const bool tie = bits == least && ties > 0;
        ties -= tie; /* the lower index first */
        const bool chosen = bits > least || tie;
        low[i] = chosen ? 0.0f : x[i];
        high[i] = chosen ? x[i] : 0.0f;
    }
}

/* n stored elements from p + bytes * i as floats: LANES, and fewer. */
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

/* partial sums of a dot product */
#define DEFINE_DOT(name)                                                                                               \
    INLINE float dot_inline_##name(const uint8_t *w, const float *x, size_t n)                                         \
    {                                                                                                                  \
        vf partial[ACCUMULATORS] = {{0}};                                                                              \
        size_t i = 0;                                                                                                  \
        for (; i + PARTIALS <= n; i += PARTIALS) {                                                                     \
            UNROLL for (int j = 0; j < ACCUMULATORS; j++)                                                              \
            {                                                                                                          \
                const size_t at = i + (size_t)(j * LANES);                                                             \
                partial[j] += wide_##name(w, at) * load(x + at);                                                       \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL for (int j = 0; j < ACCUMULATORS; j++)                                                                  \
        {                                                                                                              \
            const size_t at = i + (size_t)(j * LANES);                                                                 \
            if (at + LANES <= n) {                                                                                     \
                partial[j] += wide_##name(w, at) * load(x + at);                                                       \
            } else if (at < n) {                                                                                       \
                partial[j] += part_##name(w, at, n - at) * load_part(x + at, n - at);                                  \
            }                                                                                                          \
        }                                                                                                              \
        return fold(partial);                                                                                          \
    }                                                                                                                  \
                                                                                                                       \
    static float dot_##name(const void *weights, const float *x, size_t n)                                             \
    {                                                                                                                  \
        return dot_inline_##name(weights, x, n);                                                                       \
    }

DEFINE_DOT(fp32)
DEFINE_DOT(bf16)
DEFINE_DOT(fp16)

/* Scores of one query: rows are keys, each a dot product in the prescribed order. */
static void dots(const float *w, size_t stride, size_t count, const float *x, size_t n, float *out)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = dot_inline_fp32((const uint8_t *)(const void *)(w + i * stride), x, n);
    }
}

/* One vector of y at a time stays in registers while all rows pass by; rows in ascending order for each element. */
static void weighted_sum(const float *weights, const float *x, size_t stride, size_t count, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        vf sums[4];
        UNROLL for (int j = 0; j < 4; j++)
        {
            sums[j] = load(y + i + j * LANES);
        }
        for (size_t r = 0; r < count; r++) {
            UNROLL for (int j = 0; j < 4; j++)
            {
                sums[j] += load(x + r * stride + i + j * LANES) * weights[r];
            }
        }
        UNROLL for (int j = 0; j < 4; j++)
        {
            store(y + i + j * LANES, sums[j]);
        }
    }
    for (; i < n; i++) {
        for (size_t r = 0; r < count; r++) {
            y[i] += x[r * stride + i] * weights[r];
        }
    }
}

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

/* Rows from LANES * v of column k (0..7) of eight columns of a panel, as floats. */
INLINE vf panel_column(sqf_form form, const uint8_t *step, unsigned k, unsigned v)
{
    if (form == SQF_FORM_BF16 || form == SQF_FORM_FP16) {
        const vu halves = load_halves(step + 2 * (SQF_PANEL_ROWS * k + LANES * v));
        return form == SQF_FORM_BF16 ? bf16_lanes(halves) : fp16_lanes(halves);
    }
    vu four; /* columns in the bytes of a lane */
    if (form == SQF_FORM_NIBBLES) {
        memcpy(&four, step + sizeof four * v, sizeof four);
        four >>= 8 * (k % 4) + (k < 4 ? 0 : 4);
#if defined(__AVX512F__)
        /* One look-up that ignores the upper bits, in place of mask, difference and conversion. */
        const vf values = {-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8};
        return (vf)_mm512_permutexvar_ps((__m512i)four, (__m512)values);
#else
        return __builtin_convertvector((vi)(four & 15) - SQF_NIBBLE_OFFSET, vf);
#endif
    }
    memcpy(&four, step + (k < 4 ? 0 : 64) + sizeof four * v, sizeof four);
    return __builtin_convertvector((vi)(four << (24 - 8 * (k % 4))) >> 24, vf);
}

/* Rows are lanes: every row keeps sums of its own and nothing is folded at the end. The float path for few tokens. */
INLINE void panel_dot_form(sqf_form form, const uint8_t *weights, size_t columns, const float *x, const float *scales,
                           float *out)
{
    const size_t step_bytes = sqf_form_step_bytes(form);
    vf a[ROW_VECTORS] = {{0}}, b[ROW_VECTORS] = {{0}}; /* even and odd columns: two chains of additions */
    size_t k = 0;
    for (; k + SQF_SEGMENT_PAD <= columns; k += SQF_SEGMENT_PAD) {
        const uint8_t *step = weights + k / SQF_SEGMENT_PAD * step_bytes;
        UNROLL for (unsigned i = 0; i < SQF_SEGMENT_PAD; i += 2)
        {
            UNROLL for (unsigned v = 0; v < ROW_VECTORS; v++)
            {
                a[v] += panel_column(form, step, i, v) * x[k + i];
                b[v] += panel_column(form, step, i + 1, v) * x[k + i + 1];
            }
        }
    }
    for (unsigned i = 0; k + i < columns; i++) {
        UNROLL for (unsigned v = 0; v < ROW_VECTORS; v++)
        {
            a[v] += panel_column(form, weights + k / SQF_SEGMENT_PAD * step_bytes, i, v) * x[k + i];
        }
    }
    UNROLL for (unsigned v = 0; v < ROW_VECTORS; v++)
    {
        store(out + LANES * v, load(out + LANES * v) + load(scales + LANES * v) * (a[v] + b[v]));
    }
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

/* `form` is a constant at each call below: one loop is compiled for each. */
INLINE void panel_dequantize_form(sqf_form form, const uint8_t *weights, size_t columns, const float *scales, bool add,
                                  float *tile)
{
    const size_t step_bytes = sqf_form_step_bytes(form);
    for (size_t k = 0; k < columns; k += SQF_SEGMENT_PAD) {
        const uint8_t *step = weights + k / SQF_SEGMENT_PAD * step_bytes;
        const size_t count = columns - k < SQF_SEGMENT_PAD ? columns - k : SQF_SEGMENT_PAD;
        for (unsigned i = 0; i < count; i++) {
            UNROLL for (unsigned v = 0; v < ROW_VECTORS; v++)
            {
                float *place = tile + (k + i) * SQF_BLOCK_ROWS + LANES * v;
                const vf w = panel_column(form, step, i, v) * load(scales + LANES * v);
                store(place, add ? load(place) + w : w);
            }
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

/* As a dot product of x with itself, so that norms share its order. */
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

/* Products need no prescribed order: the tail may be plain C. */
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

/* Butterflies of neighbours at distances below the vector's width, in its lanes. */
INLINE vf hadamard_lanes(vf v)
{
    float lanes[LANES];
    store(lanes, v);
    UNROLL for (size_t half = 1; half < LANES; half *= 2)
    {
        UNROLL for (size_t i = 0; i < LANES; i++)
        {
            if ((i & half) == 0) {
                const float a = lanes[i], b = lanes[i + half];
                lanes[i] = a + b;
                lanes[i + half] = a - b;
            }
        }
    }
    return load(lanes);
}

/* The fast transform: log2(n) rounds of sums and differences, at distances 1, 2, 4 and so on, so that every level adds
 * the same pairs. */
static void hadamard(float *x, size_t n)
{
    size_t half = 1;
    if (n >= LANES) {
        for (size_t i = 0; i < n; i += LANES) {
            store(x + i, hadamard_lanes(load(x + i)));
        }
        half = LANES;
    }
    for (; half < n; half *= 2) {
        for (size_t i = 0; i < n; i += 2 * half) {
            size_t j = i;
            for (; j + LANES <= i + half; j += LANES) {
                const vf a = load(x + j), b = load(x + j + half);
                store(x + j, a + b);
                store(x + j + half, a - b);
            }
            for (; j < i + half; j++) {
                const float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
        }
    }
}

/* A head's halves are the two coordinates of its rotations: pair i is (x[i], x[i + half]), as in Hugging Face's
 * models. */
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

/* Of finite numbers; order does not matter, so lanes need no prescribed fold. */
static float maximum(const float *x, size_t n)
{
    vf largest = splat(x[0]);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vf v = load(x + i);
        largest = at_least(v, largest);
    }
    float best = x[0];
    for (int lane = 0; lane < LANES; lane++) {
        best = largest[lane] > best ? largest[lane] : best;
    }
    for (; i < n; i++) {
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

/* The 64 partial sums of a dot product, without the product. */
static float sum(const float *x, size_t n)
{
    vf partial[ACCUMULATORS] = {{0}};
    for (size_t i = 0; i < n; i += PARTIALS) {
        UNROLL for (int j = 0; j < ACCUMULATORS; j++)
        {
            const size_t at = i + (size_t)(j * LANES);
            if (at + LANES <= n) {
                partial[j] += load(x + at);
            } else if (at < n) {
                partial[j] += load_part(x + at, n - at);
            }
        }
    }
    return fold(partial);
}

/* The values are stored and then summed by `sum`, so that the sum has the prescribed order. */
static float exp_sum(float *x, float shift, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        store(x + i, exponential(load(x + i) - shift));
    }
    if (i < n) {
        const vf v = exponential(load_part(x + i, n - i) - shift);
        memcpy(x + i, &v, (n - i) * sizeof *x);
    }
    return sum(x, n);
}

#include "kernels/cpu/attention.h"
#include "kernels/cpu/round.h"

/* expanded twice, so that VECTOR_SUFFIX is replaced before it is joined */
#define JOIN_AGAIN(a, b) a##b
#define JOIN(a, b)       JOIN_AGAIN(a, b)

void JOIN(sqf_vector_add_, VECTOR_SUFFIX)(sqf_kernels *kernels)
{
    kernels->expand_nibbles = expand_nibbles;
    kernels->absmax = absmax;
    kernels->quantize = quantize;
    kernels->quantize_grid = quantize_grid;
    kernels->split_top = split_top;
    kernels->range = range;
    kernels->part_maxima = part_maxima;
    kernels->select_magnitudes = select_magnitudes;
    kernels->round_codes = round_codes;
    kernels->square_sums = square_sums;
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
    kernels->dots = dots;
    kernels->weighted_sum = weighted_sum;
    kernels->hadamard = hadamard;
    kernels->rotate = rotate;
    kernels->maximum = maximum;
    kernels->exp_sum = exp_sum;
    kernels->cached_floats = cached_floats;
    kernels->to_halves = to_halves;
    kernels->scores = scores;
    kernels->softmax = softmax;
    kernels->weigh_values = weigh_values;
}

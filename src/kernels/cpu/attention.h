/* The vector kernels of attention; part of vector.h, whose vectors and helpers they use.
 *
 * Every product is an explicit fused multiply-add, and every sum runs over one index in ascending order in a lane of
 * its own: scores over the head's dimensions (keys lie 16 side by side), outputs over the keys (values lie in rows).
 * How many rows and vectors a register tile has is then the level's own choice: all levels give the same bits. */

#include "format/type.h"

/* Vectors of keys or values in a register tile: with six rows, what the registers of the level hold. */
#if LANES == 8
#define SCORE_VECTORS 2
#else
#define SCORE_VECTORS 4
#endif

#if !defined(__FMA__) && !defined(__FP_FAST_FMAF)
typedef double wide_double __attribute__((vector_size(8 * LANES)));
typedef int64_t wide_bits __attribute__((vector_size(8 * LANES)));

/* The same bits without the instruction. Products of floats are exact in double; what the sum loses is found exactly
 * (Knuth's two-sum), and an inexact sum is moved to its odd neighbour (Boldo and Melquiond 2008), so that rounding it
 * again, to float, rounds the exact value. */
INLINE vf fused_in_double(vf a, vf b, vf c)
{
    const wide_double product = __builtin_convertvector(a, wide_double) * __builtin_convertvector(b, wide_double);
    const wide_double addend = __builtin_convertvector(c, wide_double), sum = product + addend;
    const wide_double part = sum - product, lost = (product - (sum - part)) + (addend - part);
    const wide_bits inexact =
        (wide_bits)(lost > 0) | (wide_bits)(lost < 0); /* not NaN, which is what infinities lose */
    const wide_bits even = ((wide_bits)sum & 1) - 1;
    const wide_bits away = ((wide_bits)lost ^ (wide_bits)sum) >= 0; /* away from zero the bits grow */
    return __builtin_convertvector((wide_double)((wide_bits)sum + (((away & 1) | ~away) & inexact & even)), vf);
}
#endif

/* a * b + c, rounded once. */
INLINE vf fused(vf a, vf b, vf c)
{
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FP_FAST_FMAF)
    vf sum;
    UNROLL for (int lane = 0; lane < LANES; lane++)
    {
        sum[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
    }
    return sum;
#else
    return fused_in_double(a, b, c);
#endif
}

/* x in all lanes (splat adds it to 0, which costs an addition where it is not hoisted). */
INLINE vf spread(float x)
{
#if defined(__AVX512F__)
    return (vf)_mm512_set1_ps(x);
#elif defined(__AVX2__)
    return (vf)_mm256_set1_ps(x);
#else
    return splat(x);
#endif
}

/* The greater of a and b; b if one of them is NaN. */
INLINE vf higher(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return SELECT(a > b, a, b);
#endif
}

/* LANES stored elements as floats. All are exact. */
INLINE vf cached(sqf_kv_type type, const uint8_t *from, size_t at)
{
    if (type == SQF_KV_F32) {
        return wide_fp32(from, at);
    }
    if (type == SQF_KV_F16) {
#if defined(__AVX512F__)
        return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(from + 2 * at)));
#elif defined(__F16C__)
        return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(from + 2 * at)));
#else
        return wide_fp16(from, at);
#endif
    }
#if defined(__AVX512F__)
    const __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)(from + at));
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
#elif defined(__AVX2__)
    const __m128i codes = _mm_loadl_epi64((const __m128i *)(const void *)(from + at));
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
#else
    vb codes;
    memcpy(&codes, from + at, sizeof codes);
    return __builtin_convertvector(codes, vf);
#endif
}

static void cached_floats(sqf_kv_type type, const void *from, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += LANES) {
        store(out + i, type == SQF_KV_F16 ? cached(SQF_KV_F16, from, i) : cached(SQF_KV_INT8, from, i));
    }
}

/* Beyond 65504 there is only infinity: finite numbers stay below. */
static void to_halves(const float *x, size_t n, uint16_t *out)
{
    size_t i = 0;
#if defined(__AVX512F__) || defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
        const __m256 limit = _mm256_set1_ps(65504.0f);
        /* the second operand is what a comparison with NaN gives */
        const __m256 v =
            _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), limit), _mm256_min_ps(limit, _mm256_loadu_ps(x + i)));
        const __m256i quiet = _mm256_set1_epi32(0x7fc00000);
        const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
        const __m128i halves = _mm256_cvtps_ph(_mm256_blendv_ps(v, (__m256)quiet, nan), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(out + i), halves);
    }
#endif
    for (; i < n; i++) {
        const float v = x[i] > 65504.0f ? 65504.0f : x[i] < -65504.0f ? -65504.0f : x[i];
        out[i] = v != v ? 0x7e00u : sqf_fp16_from_float(v);
    }
}

/* ---- scores ---- */

/* ROWS queries, `vectors` vectors of keys from the panel at `keys` on. */
INLINE void score_tile(sqf_kv_type type, int rows, int vectors, const sqf_score_job *job, const uint8_t *keys,
                       const uint8_t *ahead, const float *scales, float *out)
{
    const size_t panel = job->dim * SQF_KV_PANEL;
    vf sum[SQF_ATTENTION_ROWS][SCORE_VECTORS];
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int v = 0; v < vectors; v++)
        {
            sum[r][v] = splat(0.0f);
        }
    }
    const float *query = job->query;
    for (size_t at = 0; at < panel; at += SQF_KV_PANEL, query += SQF_ATTENTION_ROWS) {
        vf key[SCORE_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++)
        {
            const size_t lane = (size_t)v * LANES;
            const size_t place = lane / SQF_KV_PANEL * panel + at + lane % SQF_KV_PANEL;
            key[v] = cached(type, keys, place);
            if (lane % SQF_KV_PANEL == 0) {
                __builtin_prefetch(ahead + place * sqf_kv_element(type), 0, 2);
            }
        }
        UNROLL for (int r = 0; r < rows; r++)
        {
            const vf q = spread(query[r]);
            UNROLL for (int v = 0; v < vectors; v++)
            {
                sum[r][v] = fused(q, key[v], sum[r][v]);
            }
        }
    }
    UNROLL for (int v = 0; v < vectors; v++)
    {
        UNROLL for (int r = 0; r < rows; r++)
        {
            store(out + r * SQF_SCORE_STRIDE + v * LANES, scales ? sum[r][v] * load(scales + v * LANES) : sum[r][v]);
        }
    }
}

/* All panels: wide register tiles, then panel by panel. */
INLINE void score_rows(sqf_kv_type type, int rows, const sqf_score_job *job)
{
    const size_t element = sqf_kv_element(type), panel = job->dim * SQF_KV_PANEL * element;
    const size_t wide = SCORE_VECTORS * LANES > SQF_KV_PANEL ? SCORE_VECTORS * LANES / SQF_KV_PANEL : 1;
    const uint8_t *keys = job->keys, *ahead = job->ahead;
    size_t p = 0;
    for (; p + wide <= job->panels; p += wide) {
        score_tile(type, rows, SCORE_VECTORS, job, keys + p * panel, ahead + p * panel,
                   job->scales ? job->scales + p * SQF_KV_PANEL : NULL, job->out + p * SQF_KV_PANEL);
    }
    for (; p < job->panels; p++) {
        score_tile(type, rows, SQF_KV_PANEL / LANES, job, keys + p * panel, ahead + p * panel,
                   job->scales ? job->scales + p * SQF_KV_PANEL : NULL, job->out + p * SQF_KV_PANEL);
    }
}

/* ---- softmax ---- */

/* 2^x for x <= 0, relative error about 1e-7; exactly 0 below -126 and exactly 1 at 0. NaN stays NaN. The polynomial is
 * a minimax fit of 2^r on |r| <= 1/2 with a constant term of 1 (relative error below 1e-8). */
INLINE vf power_of_two(vf x)
{
    /* 1.0f less 127 in the exponent is 0 */
#if defined(__AVX512F__)
    const __mmask16 below = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_LT_OQ);
    x = (vf)_mm512_mask_mov_ps((__m512)x, below, _mm512_set1_ps(-127.0f));
#elif defined(__AVX2__)
    const __m256 below = _mm256_cmp_ps((__m256)x, _mm256_set1_ps(-126.0f), _CMP_LT_OQ);
    x = (vf)_mm256_blendv_ps((__m256)x, _mm256_set1_ps(-127.0f), below);
#else
    x = SELECT(x < -126.0f, splat(-127.0f), x);
#endif
    const vf shifted = x + 12582912.0f; /* rounds; the whole number is in the low bits */
    const vf r = x - (shifted - 12582912.0f);
    vf p = fused(r, splat(1.53533619e-4f), splat(1.33988744e-3f));
    p = fused(p, r, splat(9.61843736e-3f));
    p = fused(p, r, splat(5.55033247e-2f));
    p = fused(p, r, splat(2.40226479e-1f));
    p = fused(p, r, splat(6.93147203e-1f));
    p = fused(p, r, splat(1.0f));
    return (vf)(BITS(p) + (BITS(shifted) << 23));
}

INLINE float highest_lane(vf x)
{
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float lanes[LANES];
    store(lanes, x);
    UNROLL for (int half = LANES / 2; half > 0; half /= 2)
    {
        UNROLL for (int i = 0; i < half; i++)
        {
            lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
        }
    }
    return lanes[0];
#endif
}

/* Scores become weights 2^(score - largest), and weights times value scales; the total is of the weights alone. */
static float softmax(float *scores, size_t n, const float *value_scales, float *largest, float *total)
{
    enum { VECTORS = SQF_KV_PANEL / LANES };
    vf top[VECTORS], sum[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++)
    {
        top[v] = splat(*largest);
        sum[v] = splat(0.0f);
    }
    for (size_t i = 0; i < n; i += SQF_KV_PANEL) {
        UNROLL for (int v = 0; v < VECTORS; v++)
        {
            top[v] = higher(load(scores + i + v * LANES), top[v]);
        }
    }
    UNROLL for (int v = 1; v < VECTORS; v++)
    {
        top[0] = higher(top[v], top[0]);
    }
    const float now = highest_lane(top[0]);
    const vf shrink = *largest == now ? splat(1.0f) : power_of_two(splat(*largest - now));
    for (size_t i = 0; i < n; i += SQF_KV_PANEL) {
        UNROLL for (int v = 0; v < VECTORS; v++)
        {
            const size_t at = i + (size_t)(v * LANES);
            const vf weight = power_of_two(load(scores + at) - spread(now));
            sum[v] += weight;
            store(scores + at, value_scales ? weight * load(value_scales + at) : weight);
        }
    }
    UNROLL for (int v = 0; v < VECTORS; v++)
    {
        store(total + v * LANES, fused(load(total + v * LANES), shrink, sum[v]));
    }
    *largest = now;
    return shrink[0];
}

/* ---- weighted values ---- */

INLINE void value_tile(sqf_kv_type type, int rows, int vectors, const sqf_value_job *job, size_t column)
{
    vf sum[SQF_ATTENTION_ROWS][SCORE_VECTORS];
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int v = 0; v < vectors; v++)
        {
            sum[r][v] =
                load(job->sums + (size_t)r * job->width + column + (size_t)(v * LANES)) * spread(job->shrink[r]);
        }
    }
    const uint8_t *ahead = job->ahead;
    size_t at = column;
    for (size_t i = 0; i < job->count; i++, at += job->width) {
        vf value[SCORE_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++)
        {
            value[v] = cached(type, job->values, at + (size_t)(v * LANES));
            if (v % (SQF_KV_PANEL / LANES) == 0) {
                __builtin_prefetch(ahead + (at + (size_t)(v * LANES)) * sqf_kv_element(type), 0, 2);
            }
        }
        UNROLL for (int r = 0; r < rows; r++)
        {
            const vf weight = spread(job->weights[(size_t)r * SQF_SCORE_STRIDE + i]);
            UNROLL for (int v = 0; v < vectors; v++)
            {
                sum[r][v] = fused(weight, value[v], sum[r][v]);
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int v = 0; v < vectors; v++)
        {
            store(job->sums + (size_t)r * job->width + column + (size_t)(v * LANES), sum[r][v]);
        }
    }
}

INLINE void value_rows(sqf_kv_type type, int rows, const sqf_value_job *job)
{
    size_t column = 0;
    for (; column + SCORE_VECTORS * LANES <= job->width; column += SCORE_VECTORS * LANES) {
        value_tile(type, rows, SCORE_VECTORS, job, column);
    }
    for (; column < job->width; column += SQF_KV_PANEL) {
        value_tile(type, rows, SQF_KV_PANEL / LANES, job, column);
    }
}

/* A loop is compiled for each number of rows and each type. */
#define FOR_ROWS(function, type, job)                                                                                  \
    switch ((job)->rows) {                                                                                             \
    case 1: function(type, 1, job); break;                                                                             \
    case 2: function(type, 2, job); break;                                                                             \
    case 3: function(type, 3, job); break;                                                                             \
    case 4: function(type, 4, job); break;                                                                             \
    case 5: function(type, 5, job); break;                                                                             \
    default: function(type, SQF_ATTENTION_ROWS, job); break;                                                           \
    }

#define DEFINE_BY_TYPE(name, function, job_type)                                                                       \
    static void name(sqf_kv_type type, const job_type *job)                                                            \
    {                                                                                                                  \
        switch (type) {                                                                                                \
        case SQF_KV_F32: FOR_ROWS(function, SQF_KV_F32, job) break;                                                    \
        case SQF_KV_F16: FOR_ROWS(function, SQF_KV_F16, job) break;                                                    \
        default: FOR_ROWS(function, SQF_KV_INT8, job) break;                                                           \
        }                                                                                                              \
    }

DEFINE_BY_TYPE(scores, score_rows, sqf_score_job)
DEFINE_BY_TYPE(weigh_values, value_rows, sqf_value_job)

/* Attention within a warp: some rows of queries against a tile of keys and values in shared memory, by matrix
 * instructions, with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022). Prefill and decode share it.
 *
 * Rows are queries times heads of a group. With g = lane / 4, t = lane % 4 a lane holds rows g and g + 8 of each tile
 * of 16 rows; scores and weights have columns 2t, 2t + 1 of every 8 keys, which is the place of the A operand of the
 * product with the values too: weights never leave their registers.
 *
 *   F16   mma of fp16. A row of queries is divided by a power of two so that its largest element is in 1..2, which
 *         keeps any finite query within fp16; the power comes back with the scale. Weights are times 2^15: with the
 *         sum in float32, those down to 2^-29 of the largest are rounded as normal numbers. Queries and weights are
 *         fp16 in `parts` parts: one, and what rounding to 11 bits costs shows (5e-4 of a head's size in the mean for
 *         scores of size 1, 1e-3 for those of size 8), or two, and 22 bits are as good as float32 (1e-6) for twice the
 *         matrix instructions. Decode has two, because its time is that of reading the cache; prefill has one.
 *   INT8  codes become fp16 exactly. Scales of keys are factors of the scores, those of values of the weights, divided
 *         by a power of two (`unit`) that bounds those seen so far.
 *   F32   tf32 in three products, (a + b)(c + d) without b d, a and c the upper 11 bits: relative error about 2^-21.
 */
#ifndef SQF_KERNELS_CUDA_ATTENTION_CORE_H
#define SQF_KERNELS_CUDA_ATTENTION_CORE_H

#include "kernels/cuda/decoder/attention_tile.h"

/* Upper 11 bits of a float, and the rest. */
CUDA_DEVICE void split_float(uint32_t x, uint32_t *high, uint32_t *low)
{
    *high = x & 0xffffe000u;
    *low = __float_as_uint(__uint_as_float(x) - __uint_as_float(*high));
}

/* Two floats as fp16, and what is left of them. */
CUDA_DEVICE void split_pair(float a, float b, uint32_t *high, uint32_t *low)
{
    *high = pack_halves(a, b);
    *low = pack_halves(a - half_to_float((uint16_t)*high), b - half_to_float((uint16_t)(*high >> 16)));
}

/* Two of the four codes (int8, their sign bits inverted) as fp16: bytes `first` and `second` become 1024 + code + 128.
 */
template <int first, int second> CUDA_DEVICE uint32_t halves_of_codes(uint32_t inverted)
{
    return subtract_halves(__byte_perm(inverted, 0x64646464u, 0x4040u | first | second << 8), 0x64806480u);
}

/* The rows of one warp: `tiles` tiles of 16. Invariant after each tile of keys: sums and totals are those of all keys
 * seen so far with the weights 2^(score - largest), times what the type adds (see above). */
template <sqf_kv_type type, int dim, int tiles, int parts> struct attention_rows {
    static constexpr int depth = type == SQF_KV_F32 ? 8 : 16; /* of a matrix instruction */
    static constexpr int steps = dim / depth;
    static constexpr bool kept =
        dim <= (type == SQF_KV_F32 ? 96 : 128); /* queries in registers, else in shared memory */
    static constexpr int operands = steps * parts;
    static constexpr int query_bytes = kept ? 0 : tiles * operands * 512; /* [tiles][steps][parts][lanes][16] */

    uint32_t query[kept ? tiles : 1][kept ? operands : 1][4];
    const uint4 *query_shared;
    float sum[tiles][dim / 8][4];
    float factor[tiles][2], largest[tiles][2], total[tiles][2];
    float unit; /* INT8: values' scales are divided by it */

    __device__ __forceinline__ void operand(int m, int index, int lane, uint32_t a[4]) const
    {
        if (kept) {
            CUDA_UNROLL
            for (int i = 0; i < 4; i++) {
                a[i] = query[kept ? m : 0][kept ? index : 0][i];
            }
        } else {
            const uint4 v = query_shared[(m * operands + index) * 32 + lane];
            a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
        }
    }
};

/* A power of two, the inverse of that at or below x > 0; and that power. */
CUDA_DEVICE float power_below(float x, float *inverse)
{
    uint32_t exponent = __float_as_uint(x) >> 23 & 255u;
    exponent = exponent < 27 ? 127 : exponent > 226 ? 226 : exponent; /* nothing there, or no finite inverse */
    *inverse = __uint_as_float((254u - exponent) << 23);
    return __uint_as_float(exponent << 23);
}

/* Queries of the rows g and g + 8 of tile m, [head_dim] each in global memory, as operands. `shared`: query_bytes,
 * written if `writes` (warps of the same rows share them, and meet before they read). factor: of the scores, log2(e)
 * included. */
template <sqf_kv_type type, int dim, int tiles, int parts>
CUDA_DEVICE void attention_begin(attention_rows<type, dim, tiles, parts> &rows, int m, const float *const from[2],
                                 int head_dim, float factor, uint4 *shared, bool writes, int lane)
{
    typedef attention_rows<type, dim, tiles, parts> shape;
    const int t = lane % 4;
    float scale[2] = {1.0f, 1.0f};
    rows.query_shared = shared;
    CUDA_UNROLL
    for (int h = 0; h < 2; h++) {
        if (type != SQF_KV_F32) {
            float most = 0.0f, power;
            for (int d = 4 * t; d < head_dim; d += 16) {
                const float4 v = *(const float4 *)(from[h] + d);
                most = fmaxf(fmaxf(most, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
            }
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            power = power_below(most, &scale[h]);
            rows.factor[m][h] = factor * power;
        } else {
            rows.factor[m][h] = factor;
        }
        rows.largest[m][h] = -1e30f; /* below every score, and finite: differences from it are no NaN */
        rows.total[m][h] = 0.0f;
    }
    rows.unit = __uint_as_float(27u << 23);
    CUDA_UNROLL
    for (int n = 0; n < dim / 8; n++) {
        rows.sum[m][n][0] = rows.sum[m][n][1] = rows.sum[m][n][2] = rows.sum[m][n][3] = 0.0f;
    }
    CUDA_UNROLL
    for (int chunk = 0; chunk < dim / 16; chunk++) {
        float x[2][4];
        CUDA_UNROLL
        for (int h = 0; h < 2; h++) {
            /* fp16 keys come from ldmatrix in the order of the instruction, the others four neighbours a lane */
            const int first = 16 * chunk + (type == SQF_KV_F16 ? 2 * t : 4 * t);
            const int second = first + (type == SQF_KV_F16 ? 8 : 2);
            const float2 none = make_float2(0.0f, 0.0f);
            const float2 a = first < head_dim ? *(const float2 *)(from[h] + first) : none;
            const float2 b = second < head_dim ? *(const float2 *)(from[h] + second) : none;
            x[h][0] = a.x * scale[h], x[h][1] = a.y * scale[h], x[h][2] = b.x * scale[h], x[h][3] = b.y * scale[h];
        }
        uint32_t a[2][4];
        CUDA_UNROLL
        for (int i = 0; i < 4; i++) {
            if (type == SQF_KV_F32) {
                a[0][i] = __float_as_uint(x[i % 2][i / 2]);
                a[1][i] = __float_as_uint(x[i % 2][2 + i / 2]);
            } else {
                split_pair(x[i % 2][i / 2 * 2], x[i % 2][i / 2 * 2 + 1], &a[0][i], &a[1][i]);
            }
        }
        constexpr int count = 16 / shape::depth * parts;
        CUDA_UNROLL
        for (int s = 0; s < count; s++) {
            const int index = chunk * count + s;
            if (shape::kept) {
                CUDA_UNROLL
                for (int i = 0; i < 4; i++) {
                    rows.query[shape::kept ? m : 0][shape::kept ? index : 0][i] = a[s][i];
                }
            } else if (writes) {
                shared[(m * shape::operands + index) * 32 + lane] = make_uint4(a[s][0], a[s][1], a[s][2], a[s][3]);
            }
        }
    }
}

/* ---- scores ---- */

template <int dim, int keys, int tiles, int parts>
CUDA_DEVICE void scores_f16(const attention_rows<SQF_KV_F16, dim, tiles, parts> &rows, const uint8_t *tile,
                            float s[tiles][keys / 8][4], int lane)
{
    const uint8_t *from =
        tile + (lane / 16 * 8 + lane % 8) * attention_tile<SQF_KV_F16, dim, keys>::key_stride + lane / 8 % 2 * 16;
    CUDA_UNROLL
    for (int step = 0; step < dim / 16; step++) {
        uint32_t a[tiles * parts][4]; /* the small parts last, and added first */
        CUDA_UNROLL
        for (int i = 0; i < tiles * parts; i++) {
            rows.operand(i % tiles, step * parts + i / tiles, lane, a[i]);
        }
        CUDA_UNROLL
        for (int n = 0; n < keys / 8; n += 2) {
            uint32_t b[4];
            load_matrix_x4(b, from + n * 8 * attention_tile<SQF_KV_F16, dim, keys>::key_stride + step * 32);
            CUDA_UNROLL
            for (int i = tiles * parts - 1; i >= 0; i--) {
                mma_fp16(s[i % tiles][n], a[i], b);
                mma_fp16(s[i % tiles][n + 1], a[i], b + 2);
            }
        }
    }
}

/* A register of ldmatrix holds four codes of one key: elements 4t..4t+3 of 16. */
template <int dim, int keys, int tiles, int parts>
CUDA_DEVICE void scores_int8(const attention_rows<SQF_KV_INT8, dim, tiles, parts> &rows, const uint8_t *tile,
                             float s[tiles][keys / 8][4], int lane)
{
    typedef attention_tile<SQF_KV_INT8, dim, keys> shape;
    CUDA_UNROLL
    for (int step = 0; step < dim / 16; step++) {
        uint32_t a[tiles * parts][4]; /* the small parts last, and added first */
        CUDA_UNROLL
        for (int i = 0; i < tiles * parts; i++) {
            rows.operand(i % tiles, step * parts + i / tiles, lane, a[i]);
        }
        CUDA_UNROLL
        for (int n = 0; n < keys / 8; n += 4) {
            uint32_t codes[4];
            load_matrix_x4(codes, tile + (n * 8 + lane) * shape::key_stride + step * 16);
            CUDA_UNROLL
            for (int i = 0; i < 4; i++) {
                const uint32_t inverted = codes[i] ^ 0x80808080u;
                const uint32_t b[2] = {halves_of_codes<0, 1>(inverted), halves_of_codes<2, 3>(inverted)};
                CUDA_UNROLL
                for (int j = tiles * parts - 1; j >= 0; j--) {
                    mma_fp16(s[j % tiles][n + i], a[j], b);
                }
            }
        }
    }
    const float *scales = (const float *)(tile + shape::scales);
    CUDA_UNROLL
    for (int n = 0; n < keys / 8; n++) {
        const float2 scale = *(const float2 *)(scales + n * 8 + lane % 4 * 2);
        CUDA_UNROLL
        for (int m = 0; m < tiles; m++) {
            s[m][n][0] *= scale.x, s[m][n][1] *= scale.y, s[m][n][2] *= scale.x, s[m][n][3] *= scale.y;
        }
    }
}

/* Three products; the small ones first. */
CUDA_DEVICE void mma_split(float c[4], const uint32_t high[4], const uint32_t low[4], uint32_t b0, uint32_t b1)
{
    uint32_t b_high[2], b_low[2];
    split_float(b0, &b_high[0], &b_low[0]);
    split_float(b1, &b_high[1], &b_low[1]);
    mma_tf32(c, low, b_high);
    mma_tf32(c, high, b_low);
    mma_tf32(c, high, b_high);
}

/* A 16-byte load gives a lane elements 4t..4t+3 of 16, two steps of depth 8. */
template <int dim, int keys, int tiles, int parts>
CUDA_DEVICE void scores_f32(const attention_rows<SQF_KV_F32, dim, tiles, parts> &rows, const uint8_t *tile,
                            float s[tiles][keys / 8][4], int lane)
{
    const uint8_t *from = tile + lane / 4 * attention_tile<SQF_KV_F32, dim, keys>::key_stride + lane % 4 * 16;
    CUDA_UNROLL
    for (int chunk = 0; chunk < dim / 16; chunk++) {
        uint32_t high[tiles][2][4], low[tiles][2][4];
        CUDA_UNROLL
        for (int i = 0; i < 2 * tiles; i++) {
            uint32_t a[4];
            rows.operand(i / 2, 2 * chunk + i % 2, lane, a);
            CUDA_UNROLL
            for (int j = 0; j < 4; j++) {
                split_float(a[j], &high[i / 2][i % 2][j], &low[i / 2][i % 2][j]);
            }
        }
        CUDA_UNROLL
        for (int n = 0; n < keys / 8; n++) {
            const uint4 b =
                *(const uint4 *)(from + n * 8 * attention_tile<SQF_KV_F32, dim, keys>::key_stride + chunk * 64);
            CUDA_UNROLL
            for (int m = 0; m < tiles; m++) {
                mma_split(s[m][n], high[m][0], low[m][0], b.x, b.y);
                mma_split(s[m][n], high[m][1], low[m][1], b.z, b.w);
            }
        }
    }
}

/* ---- softmax ---- */

/* Scores of positions that a row does not see become -infinity. `begin`: position of the tile's first key. */
template <int keys>
CUDA_DEVICE void attention_hide(float s[keys / 8][4], const attention_span span[2], int begin, int lane)
{
    CUDA_UNROLL
    for (int n = 0; n < keys / 8; n++) {
        CUDA_UNROLL
        for (int i = 0; i < 4; i++) {
            const int position = begin + n * 8 + lane % 4 * 2 + i % 2;
            const attention_span seen = span[i / 2];
            s[n][i] = position < seen.first || position > seen.last ? -INFINITY : s[n][i];
        }
    }
}

/* Scores of the tile m become weights; shrink: what the sums so far are multiplied with. */
template <sqf_kv_type type, int dim, int tiles, int parts, int keys>
CUDA_DEVICE void attention_weigh(attention_rows<type, dim, tiles, parts> &rows, int m, float s[keys / 8][4],
                                 float shrink[2])
{
    CUDA_UNROLL
    for (int h = 0; h < 2; h++) {
        float top = -INFINITY;
        CUDA_UNROLL
        for (int n = 0; n < keys / 8; n++) {
            top = fmaxf(top, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        const float factor = rows.factor[m][h], now = fmaxf(rows.largest[m][h], top * factor);
        const float base = type == SQF_KV_F32 ? now : now - 15.0f;
        shrink[h] = power_of_two(rows.largest[m][h] - now);
        rows.largest[m][h] = now;
        float total = 0.0f;
        CUDA_UNROLL
        for (int n = 0; n < keys / 8; n++) {
            CUDA_UNROLL
            for (int i = 0; i < 2; i++) {
                const float weight = power_of_two(fmaf(s[n][2 * h + i], factor, -base));
                s[n][2 * h + i] = weight;
                total += weight;
            }
        }
        rows.total[m][h] = fmaf(rows.total[m][h], shrink[h], total);
    }
}

/* INT8: raises the unit to above all scales of the tile's values; what the sums are multiplied with for it, and the
 * inverse of the unit. */
template <int dim, int keys, int tiles, int parts>
CUDA_DEVICE float raise_unit(attention_rows<SQF_KV_INT8, dim, tiles, parts> &rows, const float *scales, float *inverse,
                             int lane)
{
    float most = 0.0f;
    CUDA_UNROLL
    for (int i = 0; i < keys / 32; i++) {
        most = fmaxf(most, scales[lane + 32 * i]);
    }
    most = warp_maximum(most);
    const float before = rows.unit;
    if (most >= before) {
        const uint32_t exponent = (__float_as_uint(most) >> 23) + 1;
        rows.unit = __uint_as_float((exponent > 226 ? 226 : exponent) << 23);
    }
    *inverse = __uint_as_float((254u - (__float_as_uint(rows.unit) >> 23)) << 23);
    return before * *inverse;
}

/* ---- weighted values ---- */

template <int dim, int keys, int tiles, int parts>
CUDA_DEVICE void values_f16(attention_rows<SQF_KV_F16, dim, tiles, parts> &rows, const uint8_t *values,
                            float s[tiles][keys / 8][4], int lane)
{
    const uint8_t *from = values + lane % 16 * attention_tile<SQF_KV_F16, dim, keys>::value_stride + lane / 16 * 16;
    CUDA_UNROLL
    for (int step = 0; step < keys / 16; step++) {
        uint32_t a[tiles * parts][4];
        CUDA_UNROLL
        for (int i = 0; i < 4 * tiles; i++) {
            const float *weights = s[i / 4][2 * step + i % 4 / 2] + i % 2 * 2;
            if (parts == 2) {
                split_pair(weights[0], weights[1], &a[i / 4][i % 4], &a[(parts - 1) * tiles + i / 4][i % 4]);
            } else {
                a[i / 4][i % 4] = pack_halves(weights[0], weights[1]);
            }
        }
        CUDA_UNROLL
        for (int n = 0; n < dim / 8; n += 2) {
            uint32_t b[4];
            load_matrix_x4_transposed(b,
                                      from + step * 16 * attention_tile<SQF_KV_F16, dim, keys>::value_stride + n * 16);
            CUDA_UNROLL
            for (int i = tiles * parts - 1; i >= 0; i--) {
                mma_fp16(rows.sum[i % tiles][n], a[i], b);
                mma_fp16(rows.sum[i % tiles][n + 1], a[i], b + 2);
            }
        }
    }
}

/* A register of the transposing ldmatrix holds elements 2g, 2g + 1 of keys 2t and 2t + 1: of every 16 elements of a
 * head the even ones are columns of one matrix instruction, the odd ones of another. */
template <int dim, int keys, int tiles, int parts>
CUDA_DEVICE void values_int8(attention_rows<SQF_KV_INT8, dim, tiles, parts> &rows, const uint8_t *values,
                             float s[tiles][keys / 8][4], int lane)
{
    const uint8_t *from = values + lane % 16 * attention_tile<SQF_KV_INT8, dim, keys>::value_stride + lane / 16 * 16;
    CUDA_UNROLL
    for (int step = 0; step < keys / 16; step++) {
        uint32_t a[tiles * parts][4];
        CUDA_UNROLL
        for (int i = 0; i < 4 * tiles; i++) {
            const float *weights = s[i / 4][2 * step + i % 4 / 2] + i % 2 * 2;
            if (parts == 2) {
                split_pair(weights[0], weights[1], &a[i / 4][i % 4], &a[(parts - 1) * tiles + i / 4][i % 4]);
            } else {
                a[i / 4][i % 4] = pack_halves(weights[0], weights[1]);
            }
        }
        CUDA_UNROLL
        for (int n = 0; n < dim / 16; n += 2) {
            uint32_t codes[4];
            load_matrix_x4_transposed(codes,
                                      from + step * 16 * attention_tile<SQF_KV_INT8, dim, keys>::value_stride + n * 16);
            CUDA_UNROLL
            for (int i = 0; i < 2; i++) {
                const uint32_t low = codes[2 * i] ^ 0x80808080u, high = codes[2 * i + 1] ^ 0x80808080u;
                const uint32_t even[2] = {halves_of_codes<0, 2>(low), halves_of_codes<0, 2>(high)};
                const uint32_t odd[2] = {halves_of_codes<1, 3>(low), halves_of_codes<1, 3>(high)};
                CUDA_UNROLL
                for (int j = tiles * parts - 1; j >= 0; j--) {
                    mma_fp16(rows.sum[j % tiles][2 * (n + i)], a[j], even);
                    mma_fp16(rows.sum[j % tiles][2 * (n + i) + 1], a[j], odd);
                }
            }
        }
    }
}

/* The depth is a sum: keys 2t and 2t + 1, which a lane's weights belong to, stand at t and t + 4 of it. */
template <int dim, int keys, int tiles, int parts>
CUDA_DEVICE void values_f32(attention_rows<SQF_KV_F32, dim, tiles, parts> &rows, const uint8_t *values,
                            float s[tiles][keys / 8][4], int lane)
{
    constexpr int stride = attention_tile<SQF_KV_F32, dim, keys>::value_stride;
    const uint8_t *from = values + lane % 4 * 2 * stride + lane / 4 * 4;
    CUDA_UNROLL
    for (int step = 0; step < keys / 8; step++) {
        uint32_t high[tiles][4], low[tiles][4];
        CUDA_UNROLL
        for (int i = 0; i < 4 * tiles; i++) {
            const int m = i / 4, j = i % 4;
            split_float(__float_as_uint(s[m][step][j % 2 * 2 + j / 2]), &high[m][j], &low[m][j]);
        }
        CUDA_UNROLL
        for (int n = 0; n < dim / 8; n++) {
            const uint32_t b0 = *(const uint32_t *)(from + step * 8 * stride + n * 32);
            const uint32_t b1 = *(const uint32_t *)(from + step * 8 * stride + stride + n * 32);
            CUDA_UNROLL
            for (int m = 0; m < tiles; m++) {
                mma_split(rows.sum[m][n], high[m], low[m], b0, b1);
            }
        }
    }
}

/* ---- a tile ---- */

/* All rows of the warp over one tile of keys at position `begin`. hidden: some of them are not seen by some row. */
template <sqf_kv_type type, int dim, int keys, int tiles, int parts>
CUDA_DEVICE void attention_step(attention_rows<type, dim, tiles, parts> &rows, const uint8_t *tile,
                                const attention_span span[tiles][2], int begin, bool hidden, int lane)
{
    typedef attention_tile<type, dim, keys> shape;
    float s[tiles][keys / 8][4], shrink[tiles][2];
    CUDA_UNROLL
    for (int i = 0; i < tiles * (keys / 8) * 4; i++) {
        s[i / (keys / 2)][i / 4 % (keys / 8)][i % 4] = 0.0f;
    }
    if constexpr (type == SQF_KV_F16) {
        scores_f16<dim, keys, tiles, parts>(rows, tile, s, lane);
    } else if constexpr (type == SQF_KV_INT8) {
        scores_int8<dim, keys, tiles, parts>(rows, tile, s, lane);
    } else {
        scores_f32<dim, keys, tiles, parts>(rows, tile, s, lane);
    }
    bool change = false;
    CUDA_UNROLL
    for (int m = 0; m < tiles; m++) {
        if (hidden) {
            attention_hide<keys>(s[m], span[m], begin, lane);
        }
        attention_weigh<type, dim, tiles, parts, keys>(rows, m, s[m], shrink[m]);
    }
    if constexpr (type == SQF_KV_INT8) {
        const float *scales = (const float *)(tile + shape::scales) + keys;
        float inverse;
        const float raised = raise_unit<dim, keys, tiles, parts>(rows, scales, &inverse, lane);
        CUDA_UNROLL
        for (int m = 0; m < tiles; m++) {
            shrink[m][0] *= raised, shrink[m][1] *= raised;
            CUDA_UNROLL
            for (int n = 0; n < keys / 8; n++) {
                const float2 scale = *(const float2 *)(scales + n * 8 + lane % 4 * 2);
                s[m][n][0] *= scale.x * inverse, s[m][n][1] *= scale.y * inverse;
                s[m][n][2] *= scale.x * inverse, s[m][n][3] *= scale.y * inverse;
            }
        }
    }
    CUDA_UNROLL
    for (int i = 0; i < 2 * tiles; i++) {
        change = change || shrink[i / 2][i % 2] != 1.0f;
    }
    if (__any_sync(0xffffffffu, change)) { /* rare once the largest scores have passed */
        CUDA_UNROLL
        for (int i = 0; i < tiles * (dim / 8) * 4; i++) {
            const int m = i / (dim / 2);
            rows.sum[m][i / 4 % (dim / 8)][i % 4] *= shrink[m][i % 4 / 2];
        }
    }
    if constexpr (type == SQF_KV_F16) {
        values_f16<dim, keys, tiles, parts>(rows, tile + shape::values, s, lane);
    } else if constexpr (type == SQF_KV_INT8) {
        values_int8<dim, keys, tiles, parts>(rows, tile + shape::values, s, lane);
    } else {
        values_f32<dim, keys, tiles, parts>(rows, tile + shape::values, s, lane);
    }
}

/* Totals of whole rows, in every lane that holds a part. */
template <sqf_kv_type type, int dim, int tiles, int parts>
CUDA_DEVICE void attention_total(attention_rows<type, dim, tiles, parts> &rows)
{
    CUDA_UNROLL
    for (int i = 0; i < 2 * tiles; i++) {
        float total = rows.total[i / 2][i % 2];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        rows.total[i / 2][i % 2] = total;
    }
}

/* Sums of row g + 8h of tile m, times `factor`, to the head's elements at `to`. */
template <sqf_kv_type type, int dim, int tiles, int parts>
CUDA_DEVICE void attention_store(const attention_rows<type, dim, tiles, parts> &rows, int m, int h, float factor,
                                 float *to, int head_dim, int lane)
{
    const int t = lane % 4;
    CUDA_UNROLL
    for (int n = 0; n < dim / 8; n += 2) {
        const float *a = rows.sum[m][n] + 2 * h, *b = rows.sum[m][n + 1] + 2 * h;
        if (type == SQF_KV_INT8) {
            if (n * 8 + 4 * t < head_dim) {
                *(float4 *)(to + n * 8 + 4 * t) =
                    make_float4(a[0] * factor, b[0] * factor, a[1] * factor, b[1] * factor);
            }
        } else {
            if (n * 8 + 2 * t < head_dim) {
                *(float2 *)(to + n * 8 + 2 * t) = make_float2(a[0] * factor, a[1] * factor);
            }
            if (n * 8 + 8 + 2 * t < head_dim) {
                *(float2 *)(to + n * 8 + 8 + 2 * t) = make_float2(b[0] * factor, b[1] * factor);
            }
        }
    }
}

#endif

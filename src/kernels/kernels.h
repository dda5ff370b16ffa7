/* The table of CPU kernels: one struct of functions, filled with the scalar ones and overlaid by each instruction
 * set. The layouts that the functions share are described here. Nothing outside src/kernels knows what a CPU can do.
 *
 * Every level computes the same thing in the same order without contraction, so that all agree bit for bit: integer
 * sums are exact in any order, float sums have a prescribed one (cpu/vector.h), and a * b + c is always two
 * roundings. What these kernels compute is therefore the same on every machine (BLAS, which serves products of many
 * tokens in float, promises less), and a test can compare levels with memcmp. */
#ifndef SQF_KERNELS_KERNELS_H
#define SQF_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sqf/model.h>

#include <sqf/format.h>

enum {
    SQF_PANEL_ROWS = 16,  /* rows of a panel: one vector lane a row */
    SQF_BLOCK_PANELS = 4, /* panels of a block: what one task and one tile cover */
    SQF_BLOCK_ROWS = SQF_PANEL_ROWS * SQF_BLOCK_PANELS,
    SQF_SEGMENT_PAD = 8,            /* padded length of a segment is a multiple of this */
    SQF_SEGMENT_MAX = 1 << 17,      /* 2^17 * 127 * 127 < 2^31: an integer sum over a segment cannot overflow */
    SQF_SEGMENT_MAX_ZERO = 1 << 16, /* with zero points: 2^16 * (127 + 127) * 127 < 2^31 */
    SQF_NIBBLE_OFFSET = 7           /* packed nibbles hold w + 7: 0..14 */
};

/* A stretch of stored columns over which the scales of both operands are constant. Segments lie in memory one behind
 * the other, each padded with zeros, in weights and activations alike. */
typedef struct sqf_segment {
    size_t begin, end;   /* stored columns */
    size_t offset;       /* padded position of `begin`; a multiple of SQF_SEGMENT_PAD */
    size_t weight_group; /* scales of the weights */
    size_t act_group;    /* scales of the activations; not used with one scale a token */
    uint8_t narrow;      /* bit p: codes from -16 to 15 in plane p of the activations: many products fit 16 bits */
} sqf_segment;

/* How a plane of weights lies in memory. A plane is cut into panels of 16 rows; kp is a padded column. Four columns
 * of a row lie side by side, because byte products (vpmaddubsw with vpmaddwd, vpdpbusd) end as sums of four
 * neighbours in a 32-bit lane; the 16 rows of a panel are the lanes of one AVX-512 register or two of AVX2.
 *
 *    NIBBLES   byte  [kp / 8][row][kp % 4], low nibble: kp % 8 < 4; w + 7 (padding too: the activations are 0 there)
 *    UNSIGNED  byte  [kp / 4][row][kp % 4], w + 7: nibbles expanded for a tile. A level whose expand_nibbles and tile
 *              agree on another order of the 128 bytes may use that: nothing else reads this form
 *    BYTES     int8  [kp / 4][row][kp % 4]
 *    BF16/FP16 16 bits [kp][row]
 *    SPLIT     integers of two parts: kernels/split.h */
typedef enum sqf_form {
    SQF_FORM_NIBBLES,
    SQF_FORM_UNSIGNED,
    SQF_FORM_BYTES,
    SQF_FORM_BF16,
    SQF_FORM_FP16,
    SQF_FORM_SPLIT
} sqf_form;

/* Bytes of SQF_SEGMENT_PAD columns of one panel. */
static inline size_t sqf_form_step_bytes(sqf_form form)
{
    return form == SQF_FORM_NIBBLES ? 64 : form == SQF_FORM_UNSIGNED || form == SQF_FORM_BYTES ? 128 : 256;
}

/* The primitive of every integer product: some panels of weights, some tokens, some segments:
 * out[m][r] += (act_scales[m][g] * scales[r][g]) * (float)I[m][r][g] for g ascending, I = sum of code * weight,
 * exact in int32.
 * Weights that are stored with an offset are corrected through the activations' sums: sum a (w + 7) - 7 sum a = sum a
 * w. Zero points are corrected through the weights' sums: I = sum (a - z) w = sum a w - z sum w. The parentheses and
 * the order of g are part of the contract. */
typedef struct sqf_tile_job {
    sqf_form form;          /* NIBBLES, UNSIGNED or BYTES */
    const uint8_t *weights; /* first panel, at the first segment */
    size_t panel_bytes;     /* from one panel to the next */
    size_t panels;          /* 1..SQF_BLOCK_PANELS */
    const float *scales;    /* [panel][segment][16], at the first segment */
    size_t panel_scales;    /* floats from one panel to the next */
    unsigned act_plane;     /* which bit of `narrow` holds */
    const int8_t *codes;    /* [tokens][code_stride], at the first segment's offset */
    size_t code_stride;
    const int32_t *sums;        /* [tokens][segment_stride], at the first segment: sums of the codes */
    const float *act_scales;    /* [tokens][segment_stride] */
    const int32_t *zeros;       /* [tokens][segment_stride] zero points of the codes, or NULL */
    const int32_t *column_sums; /* as scales: sums of the weights over a segment; with zeros */
    size_t segment_stride;
    const sqf_segment *segments;
    size_t segment_count;
    size_t tokens;
    float *out; /* [tokens][SQF_BLOCK_ROWS] */
} sqf_tile_job;

/* The product of SPLIT weights with a few tokens, all segments of the layer:
 * out[m][r] += (act_scales[m][g] * scale_low[r][g]) * (float)I_low[m][r][g], then the same with scale_high and I_high,
 * for g ascending; with tied scales the one term with scale_high and (I_low << shift) + I_high. Zero points as in
 * sqf_tile_job. */
typedef struct sqf_split_shape sqf_split_shape;
typedef struct sqf_split_block sqf_split_block;
typedef struct sqf_split_job {
    const sqf_split_shape *shape;
    const uint8_t *weights; /* first panel */
    size_t panel_bytes;
    size_t panels;
    const sqf_segment *segments; /* all of the layer, and so the arrays below */
    size_t segment_count;
    const int8_t *codes; /* [tokens][code_stride] */
    size_t code_stride;
    const int32_t *sums;     /* [tokens][segment_count] */
    const float *act_scales; /* [tokens][segment_count] */
    const int32_t *zeros;    /* [tokens][segment_count] or NULL */
    size_t tokens;
    float *out; /* [tokens][SQF_BLOCK_ROWS] */
} sqf_split_job;

/* Attention. Keys of 16 positions lie side by side, values in rows (attention.h); queries are packed
 * [dim][SQF_ATTENTION_ROWS], so that a register tile reads them one behind the other. Sums are fused multiply-adds in
 * ascending order of the dimension (scores) and of the position (values). */
enum {
    SQF_KV_PANEL = 16,      /* positions whose keys lie side by side; capacities are multiples of it */
    SQF_ATTENTION_ROWS = 6, /* queries that one call takes at most */
    SQF_SCORE_STRIDE = 256  /* floats from one query's scores to the next: the most positions of one call */
};

/* Bytes of one stored element. */
static inline size_t sqf_kv_element(sqf_kv_type type)
{
    return type == SQF_KV_F32 ? 4 : type == SQF_KV_F16 ? 2 : 1;
}

/* out[r][i] = key i . query r, i < 16 * panels; times scales[i] if not NULL. */
typedef struct sqf_score_job {
    const float *query; /* [dim][SQF_ATTENTION_ROWS] */
    int rows;           /* 1..SQF_ATTENTION_ROWS */
    size_t dim;
    const void *keys;  /* [panels][dim][16] */
    const void *ahead; /* as many bytes to be fetched from memory meanwhile; `keys` if there is nothing */
    const float *scales;
    size_t panels;
    float *out; /* [rows][SQF_SCORE_STRIDE] */
} sqf_score_job;

/* sums[r] = sums[r] * shrink[r] + sum over i < count of weights[r][i] * values[i]. */
typedef struct sqf_value_job {
    const float *weights; /* [rows][SQF_SCORE_STRIDE] */
    const float *shrink;  /* [rows] */
    int rows;
    size_t width;       /* a multiple of 16 */
    const void *values; /* [count][width] */
    const void *ahead;  /* as with scores */
    size_t count;
    float *sums; /* [rows][width] */
} sqf_value_job;

/* One level. No function allocates, fails or keeps anything; all are safe from any thread. Arrays need no alignment
 * beyond that of their elements, and are read and written within their n elements exactly. */
typedef struct sqf_kernels {
    const char *name;

    void (*tile)(const sqf_tile_job *job);
    /* Products of more tokens expand nibbles before the tile reads them: where unpacking them anew for a few tokens
     * each time costs more than the way through the cache. */
    size_t direct_tokens;
    /* NIBBLES to UNSIGNED: 64 bytes become 128, `steps` times. */
    void (*expand_nibbles)(const uint8_t *packed, size_t steps, uint8_t *out);

    /* NULL at levels that expand SPLIT weights for few tokens too. */
    void (*split_tile)(const sqf_split_job *job);
    /* A block of a SPLIT panel. Tied scales: one plane, low elements times 2^shift, BYTES, in `high`. Else NIBBLES in
     * `low` and BYTES in `high`, an element of the other part 0. */
    void (*split_expand)(const sqf_split_shape *shape, const sqf_split_block *block, const uint8_t *header,
                         const uint8_t *nibbles, uint8_t *low, uint8_t *high);

    /* Largest |x|; NaN or infinity if there is one. 0 for n == 0. */
    float (*absmax)(const float *x, size_t n);
    /* codes[i] = round half even (x[i] / scale), clamped to lowest..largest, + zero; returns their sum. scale > 0. */
    int32_t (*quantize)(const float *x, size_t n, float scale, float lowest, float largest, int32_t zero,
                        int8_t *codes);
    /* The same on the grid of a small float (fp4, fp6): codes are grid values times `multiplier`. The distance of
     * neighbours at q is fraction times the power of two at or below |q|, at least fraction * smallest_normal. */
    int32_t (*quantize_grid)(const float *x, size_t n, float scale, float largest, float smallest_normal,
                             float fraction, float multiplier, int8_t *codes);
    /* Dynamic masks: the `count` elements of largest |x| * weight (weight may be NULL = 1; ties: the lower index) go to
     * high, the others to low, each with 0 in the other's places. */
    void (*split_top)(const float *x, const float *weight, size_t n, size_t count, float *low, float *high);
    /* The smallest of 0 and x, and the largest. No NaN. */
    void (*range)(const float *x, size_t n, float *lowest, float *largest);

    /* Rounding of weights (src/ptq/round). Largest |x| where mask is 0 and where it is 1; 0 where there is none. */
    void (*part_maxima)(const float *x, const uint8_t *mask, size_t n, float *low, float *high);
    /* sqf_select_top of |x|. */
    void (*select_magnitudes)(const float *x, size_t n, size_t k, uint8_t *mask);
    /* Where mask (NULL = everywhere) is 1: value = sqf_type_round(type, x, scale), difference = x - value * scale;
     * elsewhere difference stays as it is. codes: value + offset for integers, else sqf_type_encode; all n are written.
     * Types with a scale. */
    void (*round_codes)(sqf_type type, const float *x, size_t n, float scale, int32_t offset, const uint8_t *mask,
                        uint8_t *codes, float *difference);
    /* Adds the sums of squares, in double: element i into partial i % 8, the rest beyond whole eights into partial 0,
     * then the partials in ascending order to the running sum. */
    void (*square_sums)(const float *x, const float *y, size_t n, double *x_sum, double *y_sum);

    /* Stored elements need no alignment. */
    float (*dot_fp32)(const void *w, const float *x, size_t n);
    float (*dot_bf16)(const void *w, const float *x, size_t n);
    float (*dot_fp16)(const void *w, const float *x, size_t n);
    void (*from_bf16)(const void *from, size_t n, float *y);
    void (*from_fp16)(const void *from, size_t n, float *y);

    /* One panel, `columns` columns from a segment's begin + a multiple of SQF_SEGMENT_PAD, times scales[16]:
     * out[r] += scales[r] * sum_k w[r][k] * x[k]. */
    void (*panel_dot)(sqf_form form, const uint8_t *weights, size_t columns, const float *x, const float *scales,
                      float *out);
    /* The same columns as floats: tile[k * SQF_BLOCK_ROWS + r] (+)= w[r][k] * scales[r]. */
    void (*panel_dequantize)(sqf_form form, const uint8_t *weights, size_t columns, const float *scales, bool add,
                             float *tile);

    float (*sum_squares)(const float *x, size_t n);
    void (*scale_gain)(const float *x, const float *gain, float factor, size_t n, float *y); /* y = x * factor * gain */
    void (*silu_mul)(const float *gate, const float *up, size_t n, float *y);
    void (*add)(float *x, const float *y, size_t n);
    void (*scale)(float *x, float factor, size_t n);
    /* out[i] = row i of w . x, and y += sum of weights[r] * row r of x; rows of n floats, `stride` apart. */
    void (*dots)(const float *w, size_t stride, size_t count, const float *x, size_t n, float *out);
    void (*weighted_sum)(const float *weights, const float *x, size_t stride, size_t count, size_t n, float *y);
    void (*hadamard)(float *x, size_t n); /* x H in place, H Sylvester's matrix of +1 and -1; n a power of two */
    void (*rotate)(float *x, const float *cosine, const float *sine, size_t half); /* rotary embedding of one head */
    float (*maximum)(const float *x, size_t n);                                    /* n >= 1 */
    /* n stored elements of F16 or INT8 as floats, n a multiple of 16; and floats as fp16, limited to +-65504. */
    void (*cached_floats)(sqf_kv_type type, const void *from, size_t n, float *out);
    void (*to_halves)(const float *x, size_t n, uint16_t *out);
    void (*scores)(sqf_kv_type type, const sqf_score_job *job);
    /* One query's n scores (a multiple of 16; -infinity: not seen) become 2^(score - largest) in place, times
     * value_scales if not NULL. *largest, finite, rises to the largest score; total [16] partial sums of the weights,
     * element i in i % 16, are added to after a product with the result: 2^(old largest - new one). */
    float (*softmax)(float *scores, size_t n, const float *value_scales, float *largest, float *total);
    void (*weigh_values)(sqf_kv_type type, const sqf_value_job *job);
    /* x = exp(x - shift) in place, about 1e-7 relative, 0 below -87; returns the sum. */
    float (*exp_sum)(float *x, float shift, size_t n);
} sqf_kernels;

/* Put a level's functions over those of a table. The vector levels may only be called where sqf_kernels_find found
 * them. */
void sqf_kernels_add_scalar(sqf_kernels *kernels);
void sqf_kernels_add_avx2(sqf_kernels *kernels);
void sqf_kernels_add_avxvnni(sqf_kernels *kernels);
void sqf_kernels_add_avx512(sqf_kernels *kernels);
void sqf_kernels_add_neon(sqf_kernels *kernels);
void sqf_kernels_add_dotprod(sqf_kernels *kernels);
void sqf_kernels_add_i8mm(sqf_kernels *kernels);

/* The functions for SPLIT weights of a level; the last one where the CPU has VBMI and VBMI2 too. */
void sqf_split_add_scalar(sqf_kernels *kernels);
void sqf_split_add_avx2(sqf_kernels *kernels);
void sqf_split_add_vbmi2(sqf_kernels *kernels);

/* The vector functions of each level; called by those above. On Arm the baseline has NEON, so that the scalar ones
 * are compiled to it and no level adds others. */
void sqf_vector_add_scalar(sqf_kernels *kernels);
void sqf_vector_add_avx2(sqf_kernels *kernels);
void sqf_vector_add_avx512(sqf_kernels *kernels);

#endif

/* Products of few tokens: bound by the bytes of the weights. The kernel of gemv.cu and gemv_half.cu, and what both
 * share on the host.
 *
 * A warp streams tiles of weights through its own piece of shared memory, 16 bytes a lane and copy: 4 KiB a step, some
 * row tiles side by side for some units (2 KiB of SPLIT). While a step is multiplied the next one is on its way, with
 * everything else that it needs: activations of all tokens, scales of both operands, the high elements of SPLIT. Two
 * blocks of 8 warps on a multiprocessor keep 64 KiB in flight, whatever the registers are used for; a lane reads back
 * what it copied itself, so that warps never wait for one another before the end.
 *
 * Weights are the A operand as they lie in memory, tokens the eight columns of the B operand, so that 1 token costs the
 * instructions of 8; memory is what counts. The columns of a layer are dealt out to the 8 warps of a block and, where
 * there are too few rows for all multiprocessors, to several blocks. Partial sums are added in a fixed order, through
 * shared memory and through the workspace: the block that comes last adds. The cut depends on the layer and the device
 * and not on the tokens, so that a token's result is the same bits in whatever company of up to 32 it is computed. */
#ifndef SQF_KERNELS_CUDA_GEMV_H
#define SQF_KERNELS_CUDA_GEMV_H

#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/linear/store.h"
#include "kernels/cuda/linear/widen.h"

enum {
    DECODE_WARPS = 8, /* of a block at most */
    DECODE_THREADS = 32 * DECODE_WARPS,
    DECODE_PAIR = 2,          /* units between two scalings, where segments allow */
    DECODE_UNITS_MAX = 4096,  /* of a layer: what the table of segments has room for */
    DECODE_SPLITS_MAX = 16,   /* blocks that share rows */
    DECODE_TOKENS = 32,       /* tokens that these kernels are the ones to take for, */
    DECODE_NARROW_TOKENS = 16 /* and where a tile costs many instructions: decode_is_wide */
};

/* What is multiplied: bytes, or what both operands are widened to. */
typedef enum decode_kind { DECODE_INTEGER, DECODE_FP16, DECODE_BF16 } decode_kind;

/* Whether more than 16 tokens are served. An H100's memory brings 512 bytes in the time of 140 instructions of a
 * multiprocessor. A tile of so many bytes takes 49 with 8 tokens, 70 with 16 and 108 with 32; with 64 it would be bound
 * by instructions, and the matrix kernels, whose warps share activations and weights, take over. SPLIT (768 bytes with
 * a quarter high: 212) takes 184 and 242, gemm_split.cu 340 for 64; widening to floats 90 and more. */
SQF_BOTH constexpr bool decode_is_wide(sqf_cuda_form form, decode_kind kind)
{
    return kind == DECODE_INTEGER && form != SQF_CUDA_SPLIT;
}

typedef struct decode_arguments {
    const uint8_t *tiles, *high;
    const float *scales, *high_scales; /* NULL: 1 */
    const uint8_t *codes;
    const float *act_scales;
    const int32_t *zeros; /* or NULL */
    const cuda_segment *segments;
    float *y;
    const float *bias;
    float *partial;     /* [group of rows and tokens][split][token][row of the group] */
    uint32_t *counters; /* [group of rows and tokens], 0 */
    size_t stride, token_stride;
    uint32_t rows, units, segment_count, unit_high, tokens;
    uint32_t low_units, low_bytes, high_bytes; /* sections of a token's codes: units, bytes of a unit */
    cuda_element low_element, high_element;
    uint32_t nibble_units; /* leading units that are nibbles */
    /* Segments of 2^segment_shift units each: segment s has act scale s * act_step + (its section) * act_high. Else
     * (`listed`) each block makes itself a table. */
    uint32_t segment_shift, act_step, act_high;
    bool listed;
    uint32_t splits;
    sqf_cuda_store store;
} decode_arguments;

/* Sizes of a kernel. general: segments may begin at any unit, and zero points are heeded. */
template <int form_, int kind_, int blocks_, bool general_> struct decode_shape {
    enum {
        form = form_,
        kind = kind_,
        blocks = blocks_, /* of 8 tokens */
        tokens = 8 * blocks_,
        integer = kind_ == DECODE_INTEGER,
        split = form_ == SQF_CUDA_SPLIT,
        parts = split ? 2 : 1,
        quantum =
            form_ == SQF_CUDA_NIBBLES ? 4 : 2, /* units: columns are dealt out by so many, in all kernels of a form */
        units = integer && blocks_ == 1 ? (int)quantum : 2, /* of a step */
        per_flush = general_ ? 1 : (int)DECODE_PAIR,
        flushes = units / per_flush, /* a step */
        loads = form_ == SQF_CUDA_NIBBLES || form_ == SQF_CUDA_SPLIT ? 1
                : form_ == SQF_CUDA_BYTES || form_ == SQF_CUDA_FP8   ? 2
                                                                     : 4,
        few_tiles = loads == 4 ? 1 : 2,                                    /* with few tokens */
        shrink = blocks_ > 2 && form_ != SQF_CUDA_NIBBLES &&few_tiles > 1, /* room for the sums of more tokens */
        tiles = few_tiles / (shrink ? 2 : 1),
        rows = tiles * CUDA_TILE_ROWS,
        tile_bytes = 512 * loads,
        unit_row = integer ? CUDA_BYTE_UNIT : CUDA_HALF_UNIT, /* bytes of a token's unit in shared memory at most */
        token_row = units * unit_row + 16,                    /* 16: eight rows lie in eight different banks */
        fragments = unit_row / 16,                            /* registers of a unit and 8 tokens as the B operand */
        /* A warp's stage: tiles; pieces of 16 bytes that lane i copies (scales of the weights and, from lane 8 on, of
           the high part; from 16 on those of the activations, from 24 on zero points), activations, high elements. */
        scale_lanes = rows / 4,
        high_lane = 8,
        act_lane = 16,
        zero_lane = 24,
        code_lanes = tokens / 4,
        scale_bytes = 512,
        step_bytes = tiles * units * 512 * loads,
        scales_at = step_bytes,
        codes_at = scales_at + flushes * scale_bytes,
        sum_stride = rows + 4 /* of partial sums: lanes t lie 8 banks apart */
    };
    static const bool general = general_;
};

/* Bytes of a warp's stage. */
template <class S> SQF_BOTH uint32_t decode_stage_bytes(uint32_t tokens, uint32_t unit_high)
{
    const uint32_t high = S::split ? S::tiles * S::units * CUDA_TILE_ROWS * unit_high + 16 : 0;
    return S::codes_at + tokens * S::token_row + high;
}

/* The whole block's; partial sums take the place of the stages at the end. */
template <class S> SQF_BOTH uint32_t decode_shared_bytes(uint32_t warps, uint32_t tokens, uint32_t unit_high)
{
    const uint32_t stages = warps * 2 * decode_stage_bytes<S>(tokens, unit_high);
    const uint32_t sums = warps * S::tokens * S::sum_stride * 4;
    return stages > sums ? stages : sums;
}

/* ---- where a thread stands ---- */

template <class S> struct decode_place {
    uint32_t lane, warp;
    uint32_t token, tokens;     /* first of the block, how many */
    uint32_t tile;              /* first row tile */
    uint32_t first, begin, end; /* steps: first of the block; the warp's */
    uint32_t row_of[S::blocks]; /* offset of the row that this lane names to ldmatrix */
    const uint32_t *table;      /* `listed`: of each unit from the block's first: segment, act scale << 16 */
    uint8_t *stages;            /* the warp's two */
    uint32_t stage_bytes;
    const uint8_t *tile_from;  /* this lane's 16 bytes of the first tile of the next step to be copied */
    size_t tile_stride;        /* to the next row tile */
    const uint8_t *high_from;  /* SPLIT: high elements of the first tile of the next step, */
    size_t high_stride;        /* to those of the next row tile */
    const uint8_t *scale_from; /* what this lane copies of scales and zero points: those of segment or act scale 0; */
    uint32_t scale_stride;     /* bytes to those of the next; */
    uint8_t scale_kind;        /* 0 nothing, 1 by segment, 2 by act scale */
    const uint8_t *codes_from; /* the lane's piece of the activations of unit 0 and the lane's first token */
};

struct decode_scale_at {
    uint32_t segment, act;
};

template <class S>
CUDA_DEVICE decode_scale_at decode_scales(const decode_arguments &p, const decode_place<S> &place, uint32_t unit)
{
    if (p.listed) {
        const uint32_t entry = place.table[unit - place.first * S::units];
        return {entry & 0xffff, entry >> 16};
    }
    const uint32_t segment = unit >> p.segment_shift;
    return {segment, segment * p.act_step + (unit < p.low_units ? 0 : p.act_high)};
}

/* The table of the block's units, by all threads; eight take a segment. */
CUDA_DEVICE void decode_list(const decode_arguments &p, uint32_t first, uint32_t end, uint32_t *table)
{
    for (uint32_t i = threadIdx.x / 8; i < p.segment_count; i += blockDim.x / 8) {
        const cuda_segment segment = p.segments[i];
        for (uint32_t u = threadIdx.x % 8; u < segment.units; u += 8) {
            const uint32_t unit = segment.unit + u;
            if (unit >= first && unit < end) {
                table[unit - first] = i | segment.act_scale << 16;
            }
        }
    }
    __syncthreads();
}

/* Units of a step: the last one may have fewer, by whole scalings. */
template <class S> CUDA_DEVICE uint32_t decode_units(const decode_arguments &p, uint32_t step)
{
    return S::units == S::per_flush ? (uint32_t)S::units : min(p.units - step * S::units, (uint32_t)S::units);
}

/* How a unit of activations is held. */
template <class S> CUDA_DEVICE cuda_element decode_element(const decode_arguments &p, uint32_t unit)
{
    return S::integer           ? unit < p.nibble_units ? CUDA_NIBBLE : CUDA_BYTE
           : unit < p.low_units ? p.low_element
                                : p.high_element;
}

/* ---- what comes through shared memory ---- */

/* Which scales a lane copies. */
template <class S> CUDA_DEVICE void decode_place_scales(const decode_arguments &p, decode_place<S> *place)
{
    const uint32_t lane = place->lane, of_high = S::split && lane >= S::high_lane ? (uint32_t)S::high_lane : 0;
    place->scale_kind = 0;
    place->scale_from = (const uint8_t *)p.act_scales;
    place->scale_stride = 0;
    if (lane < S::act_lane && lane - of_high < S::scale_lanes && p.scales) {
        const uint32_t i = lane - of_high;
        const size_t at = (size_t)(place->tile + i / 4) * p.segment_count * CUDA_TILE_ROWS + i % 4 * 4;
        place->scale_kind = 1;
        place->scale_from = (const uint8_t *)((of_high ? p.high_scales : p.scales) + at);
        place->scale_stride = CUDA_TILE_ROWS * 4;
    } else if (lane >= S::act_lane && lane % S::high_lane < S::code_lanes && (lane < S::zero_lane || p.zeros)) {
        const uint32_t at = (place->token + lane % S::high_lane * 4) * 4;
        const uint8_t *from = (const uint8_t *)p.act_scales;
        place->scale_kind = 2;
        place->scale_from = (lane < S::zero_lane ? from : (const uint8_t *)p.zeros) + at;
        place->scale_stride = (uint32_t)p.token_stride * 4;
    }
}

/* Activations of a step: pieces of 16 bytes, dealt out to the lanes; a lane copies the same piece of a few tokens. */
template <class S>
CUDA_DEVICE void decode_stage_codes(const decode_arguments &p, const decode_place<S> &place, uint32_t step,
                                    uint8_t *stage)
{
    const uint32_t pieces = S::unit_row / 16, token_pieces = S::units * pieces;
    const uint32_t piece = place.lane % pieces, unit = step * S::units + place.lane / pieces % S::units;
    const bool low = unit < p.low_units;
    const uint32_t bytes = low ? p.low_bytes : p.high_bytes;
    if (piece * 16 < bytes && (S::units == S::per_flush || unit < p.units)) {
        const uint32_t at = (low ? 0 : p.low_units * (p.low_bytes - p.high_bytes)) + unit * bytes; /* modulo 2^32 */
        const uint8_t *from = place.codes_from + at;
        uint8_t *to = stage + S::codes_at + place.lane / token_pieces * S::token_row +
                      place.lane / pieces % S::units * S::unit_row + piece * 16;
#pragma unroll 1
        for (uint32_t token = place.lane / token_pieces; token < place.tokens; token += 32 / token_pieces) {
            async_copy(to, from, true);
            from += 32 / token_pieces * p.stride;
            to += 32 / token_pieces * S::token_row;
        }
    }
}

/* Scales of both operands, zero points. */
template <class S>
CUDA_DEVICE void decode_stage_scales(const decode_arguments &p, const decode_place<S> &place, uint32_t step,
                                     uint8_t *stage)
{
#pragma unroll
    for (uint32_t f = 0; f < S::flushes; f++) {
        const uint32_t unit = step * S::units + f * S::per_flush;
        const decode_scale_at at = decode_scales(p, place, S::flushes == 1 || unit < p.units ? unit : p.units - 1);
        if (place.scale_kind) {
            async_copy(stage + S::scales_at + f * S::scale_bytes + place.lane * 16,
                       place.scale_from + (size_t)(place.scale_kind == 1 ? at.segment : at.act) * place.scale_stride,
                       true);
        }
    }
}

/* High elements of SPLIT: the units of a row tile lie together. */
template <class S>
CUDA_DEVICE void decode_stage_high(const decode_arguments &p, decode_place<S> *place, uint32_t step, uint8_t *stage)
{
    const uint32_t pieces = p.unit_high; /* of a unit: 16 rows of unit_high bytes */
    const uint32_t wanted = decode_units<S>(p, step) * pieces;
    uint8_t *to = stage + S::codes_at + place->tokens * S::token_row;
#pragma unroll 1
    for (uint32_t i = place->lane; i < wanted; i += 32) {
#pragma unroll
        for (int r = 0; r < S::tiles; r++) {
            async_copy(to + (r * S::units * pieces + i) * 16, place->high_from + r * place->high_stride + i * 16, true);
        }
    }
    place->high_from += S::units * CUDA_TILE_ROWS * p.unit_high;
}

/* Tiles of a step; steps follow one another. */
template <class S>
CUDA_DEVICE void decode_stage_tiles(const decode_arguments &p, decode_place<S> *place, uint32_t step, uint8_t *stage)
{
    const uint32_t units = decode_units<S>(p, step);
    const uint8_t *from = place->tile_from;
    uint8_t *to = stage + place->lane * 16;
#pragma unroll
    for (int r = 0; r < S::tiles; r++) {
#pragma unroll
        for (int i = 0; i < S::units * S::loads; i++) {
            if (i < S::per_flush * S::loads || i < (int)units * S::loads) {
                async_copy(to + (r * S::units * S::loads + i) * 512, from + i * 512, true);
            }
        }
        from += place->tile_stride;
    }
    place->tile_from += S::units * S::tile_bytes;
}

/* What a step needs besides its tiles. */
template <class S>
CUDA_DEVICE void decode_stage_rest(const decode_arguments &p, decode_place<S> *place, uint32_t step, uint8_t *stage)
{
    decode_stage_scales(p, *place, step, stage);
    decode_stage_codes(p, *place, step, stage);
    if (S::split) {
        decode_stage_high(p, place, step, stage);
    }
}

/* ---- operands ---- */

/* Registers of a unit and 8 tokens, as ldmatrix brings them, to what is multiplied. */
template <class S> CUDA_DEVICE void decode_widen_codes(cuda_element element, uint32_t b[S::fragments])
{
    const uint32_t w[4] = {b[0], b[1], b[2], b[3]};
    if (S::integer) {
        if (element == CUDA_NIBBLE) {
            b[0] = widen_even(w[0]);
            b[1] = widen_odd(w[0]);
            b[2] = widen_even(w[1]);
            b[3] = widen_odd(w[1]);
        }
        return;
    }
    const bool bf16 = S::kind == DECODE_BF16;
    if (element == CUDA_NIBBLE) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            b[4 * half] = bf16 ? widen_nibble_bf16<0>(w[half]) : widen_nibble_fp16<0>(w[half]);
            b[4 * half + 1] = bf16 ? widen_nibble_bf16<1>(w[half]) : widen_nibble_fp16<1>(w[half]);
            b[4 * half + 2] = bf16 ? widen_nibble_bf16<2>(w[half]) : widen_nibble_fp16<2>(w[half]);
            b[4 * half + 3] = bf16 ? widen_nibble_bf16<3>(w[half]) : widen_nibble_fp16<3>(w[half]);
        }
    } else if (element == CUDA_BYTE) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            b[i / 2 * 4 + i % 2] = bf16 ? widen_byte_bf16<0>(w[i]) : widen_byte_fp16<0>(w[i]);
            b[i / 2 * 4 + i % 2 + 2] = bf16 ? widen_byte_bf16<1>(w[i]) : widen_byte_fp16<1>(w[i]);
        }
    } else if (element == CUDA_FP8) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            b[i / 2 * 4 + i % 2] = bf16 ? widen_fp8_bf16<0>(w[i]) : widen_fp8_fp16<0>(w[i]);
            b[i / 2 * 4 + i % 2 + 2] = bf16 ? widen_fp8_bf16<1>(w[i]) : widen_fp8_fp16<1>(w[i]);
        }
    }
}

/* What undoes the gain of widened activations, and what stands for the scale of those that have none. */
template <class S> CUDA_DEVICE float decode_code_gain(cuda_element element)
{
    return element == CUDA_NIBBLE && S::integer                 ? 1.0f / WIDEN_NIBBLE_GAIN
           : element == CUDA_FP8 && S::kind == (int)DECODE_FP16 ? 1.0f / WIDEN_FP8_GAIN
                                                                : 1.0f;
}

/* The B operand of unit u of a step and tokens 8n to 8n + 7. */
template <class S>
CUDA_DEVICE void decode_codes(const decode_arguments &p, const decode_place<S> &place, uint32_t step, int u, int n,
                              const uint8_t *stage, uint32_t b[S::fragments])
{
#pragma unroll
    for (int i = 0; i < S::fragments; i += 4) {
        load_matrix_x4(&b[i], stage + place.row_of[n] + u * S::unit_row + i * 16);
    }
    decode_widen_codes<S>(decode_element<S>(p, step * S::units + u), b);
}

/* ---- sums ---- */

/* Scales of a tile's two rows (g, g + 8), and of the tokens that a lane has sums of. */
template <class S> struct decode_factors {
    float act[S::flushes][S::blocks][2];
    int32_t zero[S::flushes][S::blocks][2]; /* general */
};

/* What undoes the gain of widened weights; of SPLIT the low ones. */
template <class S> CUDA_DEVICE float decode_weight_gain(void)
{
    return S::integer && S::form != SQF_CUDA_BYTES                  ? 1.0f / WIDEN_NIBBLE_GAIN
           : S::form == SQF_CUDA_FP8 && S::kind == (int)DECODE_FP16 ? 1.0f / WIDEN_FP8_GAIN
                                                                    : 1.0f;
}

template <class S>
CUDA_DEVICE void decode_read_factors(const decode_arguments &p, const decode_place<S> &place, uint32_t step,
                                     const uint8_t *stage, decode_factors<S> *out)
{
    const uint32_t t = place.lane % 4;
#pragma unroll
    for (int f = 0; f < S::flushes; f++) {
        const cuda_element element = decode_element<S>(p, step * S::units + f * S::per_flush);
        const bool there = f == 0 || f * S::per_flush < (int)decode_units<S>(p, step);
        const float gain = there ? decode_code_gain<S>(element) * decode_weight_gain<S>() : 0.0f;
#pragma unroll
        for (int n = 0; n < S::blocks; n++) {
            const uint32_t at = f * S::scale_bytes + (n * 8 + 2 * t) * 4;
            const float2 act = *(const float2 *)(stage + S::scales_at + S::act_lane * 16 + at);
            const bool one = !S::integer && element == CUDA_BF16;
            out->act[f][n][0] = (one ? 1.0f : act.x) * gain;
            out->act[f][n][1] = (one ? 1.0f : act.y) * gain;
            if (S::general && S::integer) {
                const int2 zero = *(const int2 *)(stage + S::scales_at + S::zero_lane * 16 + at);
                const int32_t times = element == CUDA_NIBBLE ? (int32_t)WIDEN_NIBBLE_GAIN : 1;
                out->zero[f][n][0] = p.zeros ? zero.x * times : 0;
                out->zero[f][n][1] = p.zeros ? zero.y * times : 0;
            }
        }
    }
}

/* Sums of one part of a tile over the columns between two scalings: integers that started as WIDEN_SUM_START, or
 * floats; and those of the weights alone, for zero points. */
template <class S> struct decode_sums {
    int32_t whole[S::blocks][4], weights[4];
    float product[S::blocks][4];
};

/* Registers of A operands of a unit: two of bytes or four of halves. */
template <class S> struct decode_operand {
    enum { count = S::integer ? 2 : 4 };
};

/* Adds a unit. begins: its products are the first. */
template <class S>
CUDA_DEVICE void decode_multiply(const uint32_t a[decode_operand<S>::count][4], const uint32_t b[S::fragments],
                                 bool begins, int n, decode_sums<S> *sums)
{
    const int32_t start[4] = {WIDEN_SUM_START, WIDEN_SUM_START, WIDEN_SUM_START, WIDEN_SUM_START};
    if (!S::integer && begins) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sums->product[n][i] = 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < decode_operand<S>::count; i++) {
        if (S::kind == (int)DECODE_FP16) {
            mma_fp16(sums->product[n], a[i], &b[2 * i]);
        } else if (S::kind == (int)DECODE_BF16) {
            mma_bf16(sums->product[n], a[i], &b[2 * i]);
        } else if (begins && i == 0) {
            mma_s8_from(sums->whole[n], a[i], &b[2 * i], start);
        } else {
            mma_s8(sums->whole[n], a[i], &b[2 * i]);
        }
    }
}

/* Sums of the rows' weights in a unit. */
template <class S> CUDA_DEVICE void decode_weigh(const uint32_t a[decode_operand<S>::count][4], decode_sums<S> *sums)
{
    const uint32_t ones[2] = {0x01010101u, 0x01010101u};
    const int32_t start[4] = {0, 0, 0, 0};
    mma_s8_from(sums->weights, a[0], ones, start);
    mma_s8(sums->weights, a[1], ones);
}

/* Scaled and added to the rows' sums. */
template <class S>
CUDA_DEVICE void decode_scale(const decode_sums<S> &sums, const float scale[2], const decode_factors<S> &factors, int f,
                              float sum[S::blocks][4])
{
#pragma unroll
    for (int n = 0; n < S::blocks; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float product = sums.product[n][i];
            if (S::integer) {
                product = widen_sum(S::general ? sums.whole[n][i] - factors.zero[f][n][i % 2] * sums.weights[i]
                                               : sums.whole[n][i]);
            }
            sum[n][i] = fmaf(factors.act[f][n][i % 2] * scale[i / 2], product, sum[n][i]);
        }
    }
}

/* A operands of a unit of 16-bit floats, from weights of every form; part 1 of SPLIT is handed over as bytes. */
template <class S> CUDA_DEVICE void decode_half_nibbles(const uint32_t w[4], uint32_t a[4][4])
{
    const bool bf16 = S::kind == DECODE_BF16;
#pragma unroll
    for (int i = 0; i < 4; i++) { /* w[i]: row g + 8 (i % 2), half i / 2 */
        uint32_t(*to)[4] = a + i / 2 * 2;
        to[0][i % 2] = bf16 ? widen_nibble_bf16<0>(w[i]) : widen_nibble_fp16<0>(w[i]);
        to[0][i % 2 + 2] = bf16 ? widen_nibble_bf16<1>(w[i]) : widen_nibble_fp16<1>(w[i]);
        to[1][i % 2] = bf16 ? widen_nibble_bf16<2>(w[i]) : widen_nibble_fp16<2>(w[i]);
        to[1][i % 2 + 2] = bf16 ? widen_nibble_bf16<3>(w[i]) : widen_nibble_fp16<3>(w[i]);
    }
}

/* w: a0..a3 of bytes of a half unit. */
template <class S, bool fp8> CUDA_DEVICE void decode_half_bytes(const uint32_t w[4], uint32_t a[2][4])
{
    const bool bf16 = S::kind == DECODE_BF16;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (fp8) {
            a[0][i] = bf16 ? widen_fp8_bf16<0>(w[i]) : widen_fp8_fp16<0>(w[i]);
            a[1][i] = bf16 ? widen_fp8_bf16<1>(w[i]) : widen_fp8_fp16<1>(w[i]);
        } else {
            a[0][i] = bf16 ? widen_byte_bf16<0>(w[i]) : widen_byte_fp16<0>(w[i]);
            a[1][i] = bf16 ? widen_byte_bf16<1>(w[i]) : widen_byte_fp16<1>(w[i]);
        }
    }
}

CUDA_DEVICE void decode_words(const uint4 &from, uint32_t to[4])
{
    to[0] = from.x;
    to[1] = from.y;
    to[2] = from.z;
    to[3] = from.w;
}

template <class S> CUDA_DEVICE void decode_widen(const uint4 *part, uint32_t a[decode_operand<S>::count][4])
{
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < S::loads; i++) {
        decode_words(part[i * 32], w);
        if (S::form == SQF_CUDA_NIBBLES && S::integer) {
            widen_nibbles(w[0], w[1], a[0]);
            widen_nibbles(w[2], w[3], a[1]);
        } else if (S::form == SQF_CUDA_NIBBLES) {
            decode_half_nibbles<S>(w, a);
        } else if (S::form == SQF_CUDA_BYTES && !S::integer) {
            decode_half_bytes<S, false>(w, a + 2 * i);
        } else if (S::form == SQF_CUDA_FP8) {
            decode_half_bytes<S, true>(w, a + 2 * i);
        } else {
            decode_words(part[i * 32], a[i]);
        }
    }
}

/* SPLIT: the low operands of a unit, and the high ones. With bytes the latter stand in natural order of columns. */
template <class S>
CUDA_DEVICE void decode_split(const uint4 &part, const uint8_t *high, uint32_t unit_high, uint32_t lane,
                              uint32_t low[decode_operand<S>::count][4], uint32_t upper[decode_operand<S>::count][4])
{
    uint32_t w[4], marks[4], bytes[2][4];
    decode_words(part, w);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        marks[i] = split_marks(w[i]);
        w[i] ^= marks[i];
    }
    const uint32_t ranks = split_ranks(marks);
    const uint8_t *row = high + lane / 4 * unit_high, *row8 = row + 8 * unit_high;
    uint32_t list[4][2];
    split_fetch<0>(row, ranks, &list[0][0], &list[0][1]);
    split_fetch<1>(row8, ranks, &list[1][0], &list[1][1]);
    split_fetch<2>(row, ranks, &list[2][0], &list[2][1]);
    split_fetch<3>(row8, ranks, &list[3][0], &list[3][1]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t natural[2];
        split_expand(marks[i], list[i][0], list[i][1], natural);
        bytes[i / 2][i % 2] = S::integer ? natural[0] : __byte_perm(natural[0], natural[1], 0x6420);
        bytes[i / 2][i % 2 + 2] = S::integer ? natural[1] : __byte_perm(natural[0], natural[1], 0x7531);
    }
    if (S::integer) {
        widen_nibbles(w[0], w[1], low[0]);
        widen_nibbles(w[2], w[3], low[1]);
    } else {
        decode_half_nibbles<S>(w, low);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (S::integer) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                upper[half][i] = bytes[half][i];
            }
        } else {
            decode_half_bytes<S, false>(bytes[half], upper + 2 * half);
        }
    }
}

/* Activations for operands in natural order. */
template <class S> CUDA_DEVICE void decode_natural(const uint32_t b[S::fragments], uint32_t natural[S::fragments])
{
#pragma unroll
    for (int i = 0; i < S::fragments; i += 2) {
        natural[i] = b[i];
        natural[i + 1] = b[i + 1];
        if (S::integer) {
            split_natural_activations(b[i], b[i + 1], &natural[i]);
        }
    }
}

/* ---- the loop ---- */

/* Scales of a tile's rows g and g + 8; those of a high part without the gain of the low one. */
template <class S>
CUDA_DEVICE void decode_tile_scales(const decode_arguments &p, const decode_place<S> &place, const uint8_t *stage,
                                    int r, int part, int f, float scale[2])
{
    const bool scaled = S::loads < 4 || p.scales;
    const float *from = (const float *)(stage + S::scales_at + f * S::scale_bytes + part * S::high_lane * 16) +
                        r * CUDA_TILE_ROWS + place.lane / 4;
    const float gain = part ? 1.0f / decode_weight_gain<S>() : 1.0f;
    scale[0] = scaled ? from[0] * gain : 1.0f;
    scale[1] = scaled ? from[8] * gain : 1.0f;
}

/* What a step has in registers. B operands of many tokens are read anew for each tile. */
template <class S> struct decode_held {
    enum { again = S::blocks * S::units * S::fragments > 32 || (S::split && S::blocks > 1) };
    uint32_t b[S::units][again ? 1 : S::blocks][S::fragments];
    decode_factors<S> factors;
};

/* One unit of one tile. */
template <class S>
CUDA_DEVICE void decode_unit(const decode_arguments &p, const decode_place<S> &place, uint32_t step, int u, int r,
                             const uint8_t *stage, decode_held<S> *held, decode_sums<S> sums[S::parts])
{
    uint32_t a[S::parts][decode_operand<S>::count][4], natural[S::fragments];
    const uint4 *part = (const uint4 *)(stage + (r * S::units + u) * S::tile_bytes) + place.lane;
    if (S::split) {
        const uint8_t *high =
            stage + S::codes_at + place.tokens * S::token_row + (r * S::units + u) * CUDA_TILE_ROWS * p.unit_high;
        decode_split<S>(*part, high, p.unit_high, place.lane, a[0], a[S::parts - 1]);
    } else {
        decode_widen<S>(part, a[0]);
    }
    if (S::general && S::integer) {
#pragma unroll
        for (int part = 0; part < S::parts; part++) {
            decode_weigh<S>(a[part], &sums[part]);
        }
    }
#pragma unroll
    for (int n = 0; n < S::blocks; n++) {
        uint32_t *b = held->b[u][held->again ? 0 : n];
        if (held->again) {
            decode_codes(p, place, step, u, n, stage, b);
        }
        decode_multiply<S>(a[0], b, u % S::per_flush == 0, n, &sums[0]);
        if (S::split) {
            decode_natural<S>(b, natural);
            decode_multiply<S>(a[S::parts - 1], natural, u % S::per_flush == 0, n, &sums[S::parts - 1]);
        }
    }
}

/* One step: all its tiles. */
template <class S>
CUDA_DEVICE void decode_step(const decode_arguments &p, const decode_place<S> &place, uint32_t step,
                             const uint8_t *stage, float sum[S::tiles][S::blocks][4])
{
    const int units = (int)decode_units<S>(p, step);
    decode_held<S> held;
    decode_read_factors(p, place, step, stage, &held.factors);
#pragma unroll
    for (int i = 0; !held.again && i < S::units * S::blocks; i++) {
        decode_codes(p, place, step, i / S::blocks, i % S::blocks, stage, held.b[i / S::blocks][i % S::blocks]);
    }
#pragma unroll
    for (int r = 0; r < S::tiles; r++) {
        decode_sums<S> sums[S::parts];
#pragma unroll
        for (int u = 0; u < S::units; u++) {
            if (!S::integer && u >= S::per_flush && u >= units) {
                break; /* sums of integers are finite, whatever they are of: their factors are 0 */
            }
            decode_unit(p, place, step, u, r, stage, &held, sums);
            if ((u + 1) % S::per_flush) {
                continue;
            }
#pragma unroll
            for (int part = 0; part < S::parts; part++) {
                float scale[2];
                const int f = u / S::per_flush;
                decode_tile_scales(p, place, stage, r, part, f, scale);
                decode_scale<S>(sums[part], scale, held.factors, f, sum[r]);
            }
        }
    }
}

/* ---- the end ---- */

/* The warps' sums of each element in ascending order of columns; then the blocks', by the one that comes last. */
template <class S>
CUDA_DEVICE void decode_finish(const decode_arguments &p, const decode_place<S> &place, float *shared,
                               const float sum[S::tiles][S::blocks][4])
{
    __shared__ uint32_t arrived;
    const uint32_t g = place.lane / 4, t = place.lane % 4, group = blockIdx.y * gridDim.x + blockIdx.x;
    __syncthreads();
#pragma unroll
    for (int r = 0; r < S::tiles; r++) {
#pragma unroll
        for (int n = 0; n < S::blocks; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t token = n * 8 + 2 * t + i % 2, row = r * CUDA_TILE_ROWS + g + i / 2 * 8;
                if (token < place.tokens) {
                    shared[(place.warp * S::tokens + token) * S::sum_stride + row] = sum[r][n][i];
                }
            }
        }
    }
    __syncthreads();
    const size_t elements = S::tokens * S::rows;
    float *partial = p.partial + (size_t)group * p.splits * elements;
    for (uint32_t i = threadIdx.x; i < place.tokens * S::rows; i += blockDim.x) {
        const uint32_t at = i / S::rows * S::sum_stride + i % S::rows;
        float total = 0.0f;
        for (uint32_t w = 0; w < blockDim.x / 32; w++) {
            total += shared[w * S::tokens * S::sum_stride + at];
        }
        if (p.splits > 1) {
            partial[blockIdx.z * elements + i] = total;
        } else {
            shared[at] = total;
        }
    }
    if (p.splits > 1) {
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            arrived = atomicAdd(&p.counters[group], 1u);
        }
        __syncthreads();
        if (arrived + 1 != p.splits) {
            return;
        }
        __threadfence();
        if (threadIdx.x == 0) {
            p.counters[group] = 0;
        }
    }
    for (uint32_t i = threadIdx.x; i < place.tokens * S::rows; i += blockDim.x) {
        const uint32_t token = i / S::rows, row = place.tile * CUDA_TILE_ROWS + i % S::rows;
        float total = p.splits > 1 ? 0.0f : shared[token * S::sum_stride + i % S::rows];
        for (uint32_t s = 0; p.splits > 1 && s < p.splits; s++) {
            total += __ldcg(partial + s * elements + i);
        }
        if (row < p.rows) {
            store_product(p.y + (size_t)(place.token + token) * p.rows + row, total + (p.bias ? p.bias[row] : 0.0f),
                          p.store);
        }
    }
}

/* Grid: chunks of tokens, groups of rows, splits of the columns. */
template <class S> __global__ void __launch_bounds__(DECODE_THREADS, 2) decode_kernel(const decode_arguments p)
{
    CUDA_SHARED(shared);
    decode_place<S> place = {};
    place.lane = threadIdx.x % 32;
    place.warp = threadIdx.x / 32;
    place.token = blockIdx.x * S::tokens;
    place.tokens = min(p.tokens - place.token, (uint32_t)S::tokens);
    place.tile = blockIdx.y * S::tiles;
    const uint32_t quanta = (p.units + S::quantum - 1) / S::quantum, warps = blockDim.x / 32;
    const uint32_t first = quanta * blockIdx.z / p.splits, count = quanta * (blockIdx.z + 1) / p.splits - first;
    const uint32_t steps = S::quantum / S::units, all = (p.units + S::units - 1) / S::units;
    place.first = first * steps;
    place.begin = (first + count * place.warp / warps) * steps;
    place.end = min((first + count * (place.warp + 1) / warps) * steps, all);
    place.stage_bytes = decode_stage_bytes<S>(place.tokens, p.unit_high);
    place.stages = shared + place.warp * 2 * place.stage_bytes;
#pragma unroll
    for (int n = 0; n < S::blocks; n++) {
        /* Columns of B beyond the tokens: any row will do, nobody reads their sums. */
        const uint32_t row = min(n * 8 + place.lane % 8, place.tokens - 1);
        place.row_of[n] = S::codes_at + row * S::token_row + place.lane / 8 * 16;
    }

    const uint32_t pieces = S::unit_row / 16;
    place.codes_from =
        p.codes + (size_t)(place.token + place.lane / (S::units * pieces)) * p.stride + place.lane % pieces * 16;
    place.tile_stride = (size_t)p.units * S::tile_bytes;
    place.tile_from =
        p.tiles + place.tile * place.tile_stride + (size_t)place.begin * S::units * S::tile_bytes + place.lane * 16;
    place.high_stride = (size_t)p.units * CUDA_TILE_ROWS * p.unit_high;
    place.high_from =
        p.high + place.tile * place.high_stride + (size_t)place.begin * S::units * CUDA_TILE_ROWS * p.unit_high;
    decode_place_scales(p, &place);

    float sum[S::tiles][S::blocks][4] = {};
    release_next_kernel();
    for (uint32_t step = place.begin; step < place.end && step < place.begin + 2; step++) {
        decode_stage_tiles(p, &place, step, place.stages + (step - place.begin) * place.stage_bytes);
    }
    await_previous_kernel();
    uint32_t *table = (uint32_t *)(shared + decode_shared_bytes<S>(blockDim.x / 32, place.tokens, p.unit_high));
    place.table = table;
    if (p.listed) {
        decode_list(p, first * S::quantum, min((first + count) * S::quantum, p.units), table);
    }
    if (place.begin < place.end) {
        decode_stage_rest(p, &place, place.begin, place.stages);
    }
    async_commit();
    for (uint32_t step = place.begin; step < place.end; step++) {
        const uint32_t odd = (step - place.begin) & 1;
        if (step + 1 < place.end) {
            uint8_t *next = place.stages + (odd ^ 1) * place.stage_bytes;
            if (step > place.begin) {
                decode_stage_tiles(p, &place, step + 1, next);
            }
            decode_stage_rest(p, &place, step + 1, next);
        }
        async_commit();
        async_wait<1>();
        __syncwarp();
        decode_step(p, place, step, place.stages + odd * place.stage_bytes, sum);
        __syncwarp();
    }
    decode_finish(p, place, (float *)shared, sum);
}

#endif

/* The product of many tokens on Hopper: weights widened in registers are the A operand of a warpgroup's product, tokens
 * in shared memory the B operand. wgmma.cu chooses among the kernels that this template gives.
 *
 * A block is three warpgroups. One warp of the first copies: per stage 128 bytes of each of its tokens by a tensor map,
 * which swizzles them as products want them, and the tiles of 128 rows by plain bulk copies, for they lie in device
 * memory as the lanes hold them. The other two warpgroups compute 64 rows each. Blocks are persistent: the copies of
 * the next tile run while the results of the last are stored.
 *
 * A step is 64 bytes of each token (64 columns of bytes, 32 of halves): two instructions, eight registers of A. A stage
 * is two steps and the unit of work: its four products are issued as one group, the next stage's weights are read from
 * shared memory meanwhile, and all products are waited for before they are widened into the registers of A. So each
 * warpgroup leaves the tensor cores alone for the widening and the issue of a stage; the other one's stage, as long
 * again, runs then. (Two groups of a warpgroup under way, one behind the other around the loop, would be closer still;
 * the assembler does not follow that and serializes.) A stage takes 2 N tensor cycles of a warpgroup (N / 2 an
 * instruction), 4 N of the block.
 *
 * GROUPED (N = 128): products go to two sets of registers in turn, one a segment; while a segment's run, the last one's
 * are scaled and added to the sums. Registers: 64 sums + 2 x 64 + 16 of A + up to 8 of weights to come.
 * DIRECT (N = 256): one segment a section, all sums in the products' registers: 128 + 16 of A. A second section of
 * halves goes on in the same registers, after they have been made floats in units of the second section's scale.
 *
 * What a stage of the block costs (4096 products of bytes a cycle, 2048 of bf16):
 *                       tensor cycles   bytes copied in        bytes a cycle   shared memory reads a cycle
 *     GROUPED  bytes    512             16 K + 8 K (W4)        48              64 of B, 16 of A
 *              halves   512             16 K + 4 K (W4)        40              64, 8
 *     DIRECT   bytes    1024            32 K + 8 K (W4)        40              64, 8
 *              halves   1024            32 K + 4 K (W4)        36              64, 4
 * of the 128 bytes a cycle that shared memory moves; the copies come from the L2 cache, which tiles that run together
 * share (wgmma_tile). A segment of 128 columns takes 256 tensor cycles of a warpgroup and, counted in the machine code,
 * about 210 issue slots of each warp with integers from nibbles (64 conversions, 64 additions, 24 of widening, the rest
 * copies' barriers, addresses, scales), 120 with FP8: two warps share a scheduler and 512 cycles. What is lost per tile
 * is its end, about 1500 cycles of scaling and storing while nothing is multiplied, of 20480 for 4096 columns of which
 * a quarter is bf16. */
#ifndef SQF_KERNELS_CUDA_WGMMA_H
#define SQF_KERNELS_CUDA_WGMMA_H

#include "kernels/cuda/linear/widen.h"
#include "kernels/cuda/product/wgmma_call.h"

enum {
    WGMMA_THREADS = 384,
    WGMMA_SHARED = 227 * 1024 /* of a block at most */
};

/* What the template's parameters give. */
template <int N, cuda_element LOW, cuda_element HIGH, sqf_cuda_form FORM> struct wgmma_shape {
    static constexpr bool BYTES = LOW != CUDA_BF16; /* has stages of two units */
    static constexpr int TILE = FORM == SQF_CUDA_NIBBLES ? CUDA_NIBBLE_TILE
                                : FORM == SQF_CUDA_BF16  ? CUDA_HALF_TILE
                                                         : CUDA_BYTE_TILE;
    static constexpr int WEIGHTS = (BYTES ? 2 : 1) * TILE; /* bytes of 16 rows in a stage */
    static constexpr int TOKENS = N * 2 * WGMMA_STEP;      /* bytes of the tokens in a stage */
    static constexpr int STAGE = TOKENS + WGMMA_ROWS / CUDA_TILE_ROWS * WEIGHTS;
    static constexpr int FIT = (WGMMA_SHARED - 1024) / STAGE;
    static constexpr int STAGES = FIT < 8 ? FIT : 8;
    static constexpr int SHARED = STAGES * STAGE + 2 * STAGES * 8;
};

/* ---- weights: from shared memory to the A operand of a step ---- */

/* What a sum of widened products is times the sum of the stored ones' products, inverted. */
template <cuda_element E, sqf_cuda_form FORM> CUDA_DEVICE constexpr float wgmma_gain(void)
{
    return FORM != SQF_CUDA_NIBBLES ? 1.0f
           : E == CUDA_BYTE         ? 1.0f / WIDEN_NIBBLE_GAIN
           : E == CUDA_FP8          ? WIDEN_NIBBLE_FP8_LOSS
                                    : 1.0f;
}

CUDA_DEVICE void wgmma_load4(uint32_t *to, const uint8_t *shared)
{
    const uint4 v = *reinterpret_cast<const uint4 *>(shared);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

/* What of a stage's weights is read ahead: as many registers as widening makes 16 of, or none where nothing is widened
 * and the room is lacking. */
template <cuda_element E, sqf_cuda_form FORM> CUDA_DEVICE constexpr int wgmma_ahead(void)
{
    return FORM == SQF_CUDA_NIBBLES ? (E == CUDA_BF16 ? 4 : 8) : E == CUDA_BF16 && FORM != SQF_CUDA_BF16 ? 8 : 0;
}

/* `weights`: the warp's rows in the stage. */
template <cuda_element E, sqf_cuda_form FORM> CUDA_DEVICE void wgmma_load_ahead(uint32_t *ahead, const uint8_t *weights)
{
#pragma unroll
    for (int i = 0; i < wgmma_ahead<E, FORM>() / 4; i++) {
        wgmma_load4(ahead + 4 * i, weights + i * 512 + threadIdx.x % 32 * 16);
    }
}

/* A of a stage; of its second step zeros where there is none. */
template <cuda_element E, sqf_cuda_form FORM>
CUDA_DEVICE void wgmma_widen(uint32_t a[16], const uint32_t *ahead, const uint8_t *weights, bool whole)
{
    if constexpr (E == CUDA_BF16 && FORM == SQF_CUDA_NIBBLES) {
#pragma unroll
        for (int i = 0; i < 4; i++) { /* rows g, g + 8 of columns 0..31, then of 32..63 */
            uint32_t *const to = a + i / 2 * 8 + i % 2;
            to[0] = widen_nibble_bf16<0>(ahead[i]), to[2] = widen_nibble_bf16<1>(ahead[i]);
            to[4] = widen_nibble_bf16<2>(ahead[i]), to[6] = widen_nibble_bf16<3>(ahead[i]);
        }
    } else if constexpr (E == CUDA_BF16 && FORM != SQF_CUDA_BF16) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            uint32_t *const to = a + i / 4 * 8 + i % 4;
            to[0] = FORM == SQF_CUDA_FP8 ? widen_fp8_bf16<0>(ahead[i]) : widen_byte_bf16<0>(ahead[i]);
            to[4] = FORM == SQF_CUDA_FP8 ? widen_fp8_bf16<1>(ahead[i]) : widen_byte_bf16<1>(ahead[i]);
        }
    } else if constexpr (FORM == SQF_CUDA_NIBBLES) {
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
            const uint32_t row = i < 4 || whole ? ahead[i] : 0, row8 = i < 4 || whole ? ahead[i + 1] : 0;
            if constexpr (E == CUDA_BYTE) {
                widen_nibbles(row, row8, a + 2 * i);
            } else {
                a[2 * i] = widen_nibbles_fp8(row & 0x0f0f0f0fu);
                a[2 * i + 1] = widen_nibbles_fp8(row8 & 0x0f0f0f0fu);
                a[2 * i + 2] = widen_nibbles_fp8(row >> 4 & 0x0f0f0f0fu);
                a[2 * i + 3] = widen_nibbles_fp8(row8 >> 4 & 0x0f0f0f0fu);
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < 16; i += 4) {
            wgmma_load4(a + i, weights + i * 128 + threadIdx.x % 32 * 16);
        }
#pragma unroll
        for (int i = 8; E != CUDA_BF16 && i < 16; i++) {
            a[i] = whole ? a[i] : 0;
        }
    }
}

/* ---- products ---- */

template <int N, cuda_element E> CUDA_DEVICE void wgmma_one(uint32_t *d, const uint32_t *a, uint64_t b, int accumulate)
{
    if constexpr (N == 128) {
        E == CUDA_BYTE  ? wgmma_s8_128(d, a, b, accumulate)
        : E == CUDA_FP8 ? wgmma_fp8_128(d, a, b, accumulate)
                        : wgmma_bf16_128(d, a, b, accumulate);
    } else {
        E == CUDA_BYTE  ? wgmma_s8_256(d, a, b, accumulate)
        : E == CUDA_FP8 ? wgmma_fp8_256(d, a, b, accumulate)
                        : wgmma_bf16_256(d, a, b, accumulate);
    }
}

/* The four instructions of a stage as one group. Where there is no second step, A is zero there and meets the tokens of
 * the first: what lies behind them may be no number. */
template <int N, cuda_element E>
CUDA_DEVICE void wgmma_products(uint32_t *d, uint32_t *a, uint64_t tokens, int accumulate, bool whole)
{
    const uint64_t second = tokens + (whole ? WGMMA_STEP >> 4 : 0);
    registers_hold<16>(a); /* written before the fence */
    wgmma_fence();
    wgmma_one<N, E>(d, a, tokens, accumulate);
    wgmma_one<N, E>(d, a + 4, tokens + (32 >> 4), 1);
    wgmma_one<N, E>(d, a + 8, second, 1);
    wgmma_one<N, E>(d, a + 12, second + (32 >> 4), 1);
    wgmma_commit();
}

/* A sum as a float. */
template <cuda_element E> CUDA_DEVICE float wgmma_value(uint32_t d)
{
    return E == CUDA_BYTE ? (float)(int32_t)d : __uint_as_float(d);
}

/* sums += scale * products; scale[0] of row g, scale[1] of row g + 8. */
template <cuda_element E> CUDA_DEVICE void wgmma_add(uint32_t *sums, const uint32_t *products, const float scale[2])
{
#pragma unroll
    for (int i = 0; i < 64; i++) {
        sums[i] = __float_as_uint(fmaf(scale[i / 2 % 2], wgmma_value<E>(products[i]), __uint_as_float(sums[i])));
    }
}

/* ---- the ring of stages ---- */

struct wgmma_ring {
    uint8_t *stages;
    uint64_t *full, *empty;
    unsigned index, phase;
};

template <typename SHAPE> CUDA_DEVICE void wgmma_advance(wgmma_ring *ring)
{
    if (++ring->index == SHAPE::STAGES) {
        ring->index = 0;
        ring->phase ^= 1;
    }
}

/* The stages of a section of `steps` steps from unit `unit` on. One warp. */
template <int N, typename SHAPE, cuda_element E>
CUDA_DEVICE void wgmma_produce(const wgmma_job *job, const cuda_tensor_map *tokens, wgmma_ring *ring, unsigned unit,
                               unsigned units, int byte, unsigned row_block, unsigned token_block)
{
    const unsigned lane = threadIdx.x % 32, most = E == CUDA_BF16 ? 1 : 2;
    const uint8_t *weights =
        job->tiles + ((size_t)(row_block * 8 + lane % 8) * job->units + unit) * (unsigned)SHAPE::TILE;
    for (unsigned done = 0; done < units; done += most) {
        const unsigned bytes = (units - done < most ? units - done : most) * (unsigned)SHAPE::TILE;
        uint8_t *const stage = ring->stages + ring->index * (unsigned)SHAPE::STAGE;
        uint64_t *const full = &ring->full[ring->index];
        transaction_wait(&ring->empty[ring->index], ring->phase ^ 1);
        if (lane == 0) {
            transaction_expect(full, SHAPE::TOKENS + 8 * bytes);
        }
        __syncwarp();
        if (lane < 8) {
            bulk_copy(stage + SHAPE::TOKENS + lane * (unsigned)SHAPE::WEIGHTS, weights, bytes, full);
        } else if (lane == 8) {
            tensor_copy(stage, tokens, byte, (int)(token_block * N), full);
        }
        weights += bytes;
        byte += 2 * WGMMA_STEP;
        wgmma_advance<SHAPE>(ring);
    }
}

/* Waits for a stage and gives its warp's weights and the descriptor of its tokens. */
template <typename SHAPE> CUDA_DEVICE const uint8_t *wgmma_acquire(const wgmma_ring *ring, uint64_t *tokens)
{
    const uint8_t *const stage = ring->stages + ring->index * (unsigned)SHAPE::STAGE;
    transaction_wait(&ring->full[ring->index], ring->phase);
    *tokens = wgmma_descriptor(shared_address(stage));
    return stage + SHAPE::TOKENS + (threadIdx.x / 32 - 4) * (unsigned)SHAPE::WEIGHTS;
}

/* Stage `index` is free; called behind the wait for its products. */
CUDA_DEVICE void wgmma_release(const wgmma_ring *ring, unsigned index)
{
    if (threadIdx.x % 32 == 0) {
        transaction_arrive(&ring->empty[index]);
    }
}

/* ---- a warpgroup's section ---- */

/* Where a warpgroup stands: the stage that is ready, and what was read of it. */
struct wgmma_cursor {
    wgmma_ring *ring;
    const uint8_t *weights;
    uint64_t tokens;
    uint32_t ahead[8];
};

template <typename SHAPE, cuda_element E, sqf_cuda_form FORM> CUDA_DEVICE void wgmma_enter(wgmma_cursor *at)
{
    at->weights = wgmma_acquire<SHAPE>(at->ring, &at->tokens);
    wgmma_load_ahead<E, FORM>(at->ahead, at->weights);
}

/* One stage into `set`. PIECES: meanwhile `products` of the last segment go into the sums. `whole`: the stage has two
 * steps. `more`: another stage of the section follows. */
template <int N, typename SHAPE, cuda_element E, sqf_cuda_form FORM, bool PIECES>
CUDA_DEVICE void wgmma_stage(wgmma_cursor *at, uint32_t *set, int accumulate, bool whole, bool more, uint32_t *sums,
                             uint32_t *products, const float *scale)
{
    uint32_t a[16];
    const unsigned index = at->ring->index;
    wgmma_widen<E, FORM>(a, at->ahead, at->weights, whole);
    wgmma_products<N, E>(set, a, at->tokens, accumulate, whole);
    wgmma_advance<SHAPE>(at->ring);
    if (more) {
        wgmma_enter<SHAPE, E, FORM>(at);
    }
    if constexpr (PIECES) {
        registers_hold<N / 2>(products); /* not between the products */
        wgmma_add<E>(sums, products, scale);
    }
    wgmma_wait<0>();
    registers_hold<N / 2>(set);
    registers_hold<16>(a);
    wgmma_release(at->ring, index);
}

/* What a thread reads of a segment ahead of time. */
struct wgmma_segment {
    unsigned steps;
    float scale[2];
};

template <cuda_element E, sqf_cuda_form FORM>
CUDA_DEVICE void wgmma_read_segment(const wgmma_job *job, const float *scales, unsigned s, unsigned end,
                                    wgmma_segment *out)
{
    if (s < end) {
        out->steps = job->segments[s].units * (E == CUDA_BF16 ? 2 : 1);
        out->scale[0] = scales ? scales[s * 16] * wgmma_gain<E, FORM>() : 1.0f;
        out->scale[1] = scales ? scales[s * 16 + 8] * wgmma_gain<E, FORM>() : 1.0f;
    }
}

/* A segment of a section into `set`, while that of `last` goes from `products` into the sums. */
template <typename SHAPE, cuda_element E, sqf_cuda_form FORM>
CUDA_DEVICE void wgmma_grouped_segment(wgmma_cursor *at, unsigned steps, bool final, uint32_t *set, uint32_t *sums,
                                       uint32_t *products, const float *scale)
{
    wgmma_stage<128, SHAPE, E, FORM, true>(at, set, 0, steps > 1, !final || steps > 2, sums, products, scale);
    for (unsigned done = 2; done < steps; done += 2) {
        wgmma_stage<128, SHAPE, E, FORM, false>(at, set, 1, steps > done + 1, !final || steps > done + 2, sums,
                                                products, scale);
    }
}

/* All segments first .. end - 1 of a section; all but the last of whole stages. */
template <typename SHAPE, cuda_element E, sqf_cuda_form FORM>
CUDA_DEVICE void wgmma_grouped_section(const wgmma_job *job, const float *scales, wgmma_ring *ring, unsigned first,
                                       unsigned end, uint32_t *sums)
{
    uint32_t set0[64], set1[64];
    wgmma_segment segment, next = {0, {0.0f, 0.0f}};
    wgmma_cursor at;
    float scale[2] = {0.0f, 0.0f};
    wgmma_read_segment<E, FORM>(job, scales, first, end, &next);
    at.ring = ring;
    wgmma_enter<SHAPE, E, FORM>(&at);
#pragma unroll
    for (int i = 0; i < 64; i++) {
        set1[i] = 0;
    }
    for (unsigned s = first; s < end; s += 2) {
        segment = next;
        wgmma_read_segment<E, FORM>(job, scales, s + 1, end, &next);
        wgmma_grouped_segment<SHAPE, E, FORM>(&at, segment.steps, s + 1 == end, set0, sums, set1, scale);
        scale[0] = segment.scale[0], scale[1] = segment.scale[1];
        if (s + 1 == end) {
            wgmma_add<E>(sums, set0, scale);
            return;
        }
        segment = next;
        wgmma_read_segment<E, FORM>(job, scales, s + 2, end, &next);
        wgmma_grouped_segment<SHAPE, E, FORM>(&at, segment.steps, s + 2 == end, set1, sums, set0, scale);
        scale[0] = segment.scale[0], scale[1] = segment.scale[1];
    }
    wgmma_add<E>(sums, set1, scale);
}

/* A section of one segment into d. */
template <int N, typename SHAPE, cuda_element E, sqf_cuda_form FORM>
CUDA_DEVICE void wgmma_direct_section(wgmma_ring *ring, unsigned steps, int accumulate, uint32_t *d)
{
    wgmma_cursor at;
    at.ring = ring;
    wgmma_enter<SHAPE, E, FORM>(&at);
    for (unsigned done = 0; done < steps; done += 2) {
        wgmma_stage<N, SHAPE, E, FORM, false>(&at, d, accumulate | (done > 0), steps > done + 1, steps > done + 2, d, d,
                                              NULL);
    }
}

/* ---- results ---- */

/* What a token's sums of a section are times too small; 1 where all its codes are 0. Beyond the tokens that of the
 * first. Halves have no scale. */
template <cuda_element E> CUDA_DEVICE float wgmma_token_scale(const wgmma_job *job, int section, unsigned token)
{
    if constexpr (E == CUDA_BF16) {
        return 1.0f;
    } else {
        const float *const scales = section ? job->act_scales[1] : job->act_scales[0];
        const float scale = scales[token < job->tokens ? token : 0];
        return scale == 0.0f ? 1.0f : scale;
    }
}

/* Between two sections: d becomes a float, times `rows` and the tokens' scale of section 0 / that of section 1. The
 * latter quotient is the approximate one: its error of 2^-22 is far below that of a sum, and a true one is a call. */
template <int N, bool INTEGERS, cuda_element LAST, cuda_element NEXT>
CUDA_DEVICE void wgmma_border(const wgmma_job *job, uint32_t token, const float rows[2], uint32_t *d)
{
    registers_hold<1>(&token); /* or the compiler computes addresses before the products and keeps them */
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const unsigned at = token + (unsigned)(8 * j + i);
            float scale = wgmma_token_scale<LAST>(job, 0, at);
            if constexpr (NEXT != CUDA_BF16) {
                scale = __fdividef(scale, wgmma_token_scale<NEXT>(job, 1, at));
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                if constexpr (INTEGERS) {
                    rescale_integer(&d[4 * j + 2 * r + i], rows[r] * scale);
                } else {
                    rescale_float(&d[4 * j + 2 * r + i], rows[r] * scale);
                }
            }
        }
    }
}

/* y = (or +=) value(d) * rows * the tokens' scale + bias; with GATE y = silu(that) * y. `row`, `token`: the thread's
 * first. ELEMENT: of the section whose scale remains. */
template <int N, bool INTEGERS, cuda_element ELEMENT, bool GATE>
CUDA_DEVICE void wgmma_store_as(const wgmma_job *job, int section, unsigned row, uint32_t token, const float rows[2],
                                uint32_t *d)
{
    registers_hold<1>(&token);
    const bool inside[2] = {row < job->rows, row + 8 < job->rows}, add = job->store != SQF_CUDA_SET;
    const float bias[2] = {job->bias && inside[0] ? job->bias[row] : 0.0f,
                           job->bias && inside[1] ? job->bias[row + 8] : 0.0f};
    float *y = job->y + (size_t)token * job->rows + row;
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        registers_hold<4>(d + 4 * j); /* one after the other: all loads at once would want as many registers */
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const unsigned at = token + (unsigned)(8 * j + i);
            const float scale = wgmma_token_scale<ELEMENT>(job, section, at);
            float *const here = y + (i ? job->rows : 0);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const bool exists = inside[r] && at < job->tokens;
                const float old = exists && add ? here[8 * r] : 0.0f;
                const uint32_t sum = d[4 * j + 2 * r + i];
                const float value = INTEGERS ? (float)(int32_t)sum : __uint_as_float(sum);
                const float product = value * rows[r] * scale + bias[r];
                if (exists) {
                    here[8 * r] = GATE ? __fdividef(product, 1.0f + expf(-product)) * old : old + product;
                }
            }
        }
        y += (size_t)8 * job->rows;
    }
}

template <int N, bool INTEGERS, cuda_element ELEMENT>
CUDA_DEVICE void wgmma_store(const wgmma_job *job, int section, unsigned row, unsigned token, const float rows[2],
                             uint32_t *d)
{
    if (job->store == SQF_CUDA_GATE) {
        wgmma_store_as<N, INTEGERS, ELEMENT, true>(job, section, row, token, rows, d);
    } else {
        wgmma_store_as<N, INTEGERS, ELEMENT, false>(job, section, row, token, rows, d);
    }
}

/* ---- the kernel ---- */

/* Which tile comes `i`-th: bands of 8 row blocks, token by token, so that those that run together share rows and
 * tokens in the L2 cache. */
CUDA_DEVICE void wgmma_tile(const wgmma_job *job, unsigned i, unsigned *row_block, unsigned *token_block)
{
    const unsigned band = i / (8 * job->token_blocks), in = i - band * 8 * job->token_blocks;
    const unsigned left = job->row_blocks - band * 8, width = left < 8 ? left : 8;
    *row_block = band * 8 + in % width;
    *token_block = in / width;
}

/* Scale of a section's only segment for rows g and g + 8; 1 where all its codes are 0. */
template <cuda_element E, sqf_cuda_form FORM>
CUDA_DEVICE void wgmma_row_scales(const float *scales, unsigned segment, float out[2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        out[i] = scales ? scales[segment * 16 + 8 * i] : 1.0f;
        out[i] = (out[i] == 0.0f ? 1.0f : out[i]) * wgmma_gain<E, FORM>();
    }
}

/* Sums of a tile, GROUPED. */
template <typename SHAPE, cuda_element LOW, cuda_element HIGH, sqf_cuda_form FORM>
CUDA_DEVICE void wgmma_grouped_tile(const wgmma_job *job, wgmma_ring *ring, const float *scales, unsigned row,
                                    unsigned token)
{
    uint32_t sums[64];
    const bool two = job->low_segments < job->segment_count;
    const float one[2] = {1.0f, 1.0f};
#pragma unroll
    for (int i = 0; i < 64; i++) {
        sums[i] = 0;
    }
    wgmma_grouped_section<SHAPE, LOW, FORM>(job, scales, ring, 0, job->low_segments, sums);
    if (HIGH != LOW || two) {
        wgmma_border<128, false, LOW, HIGH>(job, token, one, sums);
        wgmma_grouped_section<SHAPE, HIGH, FORM>(job, scales, ring, job->low_segments, job->segment_count, sums);
    }
    wgmma_store<128, false, HIGH>(job, HIGH != LOW || two, row, token, one, sums);
}

/* The same, DIRECT: one section, or a second one of halves. */
template <typename SHAPE, cuda_element LOW, cuda_element HIGH, sqf_cuda_form FORM>
CUDA_DEVICE void wgmma_direct_tile(const wgmma_job *job, wgmma_ring *ring, const float *scales, unsigned row,
                                   unsigned token)
{
    uint32_t d[128];
    float low[2];
    wgmma_row_scales<LOW, FORM>(scales, 0, low);
    wgmma_direct_section<256, SHAPE, LOW, FORM>(ring, job->low_units * (LOW == CUDA_BF16 ? 2 : 1), 0, d);
    if constexpr (HIGH != LOW) {
        float high[2];
        wgmma_row_scales<HIGH, FORM>(scales, 1, high);
        const float ratio[2] = {low[0] / high[0], low[1] / high[1]};
        wgmma_border<256, LOW == CUDA_BYTE, LOW, HIGH>(job, token, ratio, d);
        wgmma_direct_section<256, SHAPE, HIGH, FORM>(ring, (job->units - job->low_units) * 2, 1, d);
        wgmma_store<256, false, HIGH>(job, 1, row, token, high, d);
    } else {
        wgmma_store<256, LOW == CUDA_BYTE, LOW>(job, 0, row, token, low, d);
    }
}

template <bool GROUPED, cuda_element LOW, cuda_element HIGH, sqf_cuda_form FORM>
__global__ void __launch_bounds__(WGMMA_THREADS, 1)
    wgmma_kernel(const wgmma_job job, const __grid_constant__ cuda_tensor_map tokens)
{
    constexpr int N = GROUPED ? 128 : 256;
    typedef wgmma_shape<N, LOW, HIGH, FORM> SHAPE;
    CUDA_SHARED(shared);
    uint64_t *const barriers = reinterpret_cast<uint64_t *>(shared + SHAPE::STAGES * SHAPE::STAGE);
    wgmma_ring ring = {shared, barriers, barriers + SHAPE::STAGES, 0, 0};
    if (threadIdx.x == 0) {
        for (int i = 0; i < SHAPE::STAGES; i++) {
            transaction_init(&ring.full[i], 1);
            transaction_init(&ring.empty[i], 8);
        }
        transaction_fence();
        tensor_map_prefetch(&tokens);
    }
    __syncthreads();
    const unsigned tiles = job.row_blocks * job.token_blocks, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned row_block, token_block;
    if (warp < 4) {
        registers_decrease<24>();
        for (unsigned i = blockIdx.x; warp == 0 && i < tiles; i += gridDim.x) {
            wgmma_tile(&job, i, &row_block, &token_block);
            wgmma_produce<N, SHAPE, LOW>(&job, &tokens, &ring, 0, job.low_units, 0, row_block, token_block);
            wgmma_produce<N, SHAPE, HIGH>(&job, &tokens, &ring, job.low_units, job.units - job.low_units,
                                          (int)job.low_units * (LOW == CUDA_BF16 ? 128 : 64), row_block, token_block);
        }
    } else {
        registers_increase<240>();
        for (unsigned i = blockIdx.x; i < tiles; i += gridDim.x) {
            wgmma_tile(&job, i, &row_block, &token_block);
            const unsigned tile = row_block * 8 + warp - 4, row = tile * 16 + lane / 4;
            const unsigned token = token_block * N + lane % 4 * 2;
            const float *const scales =
                job.scales ? job.scales + (size_t)tile * job.segment_count * 16 + lane / 4 : NULL;
            if constexpr (GROUPED) {
                wgmma_grouped_tile<SHAPE, LOW, HIGH, FORM>(&job, &ring, scales, row, token);
            } else {
                wgmma_direct_tile<SHAPE, LOW, HIGH, FORM>(&job, &ring, scales, row, token);
            }
        }
    }
}

/* ---- for the host ---- */

template <bool GROUPED, cuda_element LOW, cuda_element HIGH, sqf_cuda_form FORM>
static inline cudaError_t wgmma_launch(const wgmma_call *call)
{
    typedef wgmma_shape<GROUPED ? 128 : 256, LOW, HIGH, FORM> SHAPE;
    return cuda_launch(call->stream, wgmma_kernel<GROUPED, LOW, HIGH, FORM>, dim3(call->blocks), dim3(WGMMA_THREADS),
                       SHAPE::SHARED, *call->job, *call->tokens);
}

template <cuda_element LOW, cuda_element HIGH, sqf_cuda_form FORM>
static inline cudaError_t wgmma_launch_either(const wgmma_call *call)
{
    return call->grouped ? wgmma_launch<true, LOW, HIGH, FORM>(call) : wgmma_launch<false, LOW, HIGH, FORM>(call);
}

#endif

/* The kernel that prepares inputs, behind the choice of masks (input_row.h): octets are loaded, ranges found, scales
 * chosen and codes stored. What it does as a whole says input.cu. */
#ifndef SQF_KERNELS_CUDA_INPUT_KERNEL_H
#define SQF_KERNELS_CUDA_INPUT_KERNEL_H

#include "kernels/cuda/input/input.h"
#include "kernels/cuda/input/input_row.h"

enum { OCTET = 8, UNIT_OCTETS = CUDA_UNIT / OCTET };

/* ---- octets ---- */

/* The values of an octet, 0 beyond the unit's columns. */
CUDA_DEVICE void load_octet(const row_job &job, const float *row, const cuda_unit &unit, unsigned octet, float v[OCTET])
{
    const unsigned first = octet * OCTET, columns = unit_columns(unit), column = unit.begin + first;
    if (!job.channels && first + OCTET <= columns && column % 4 == 0) {
        const float4 a = *reinterpret_cast<const float4 *>(row + column);
        const float4 b = *reinterpret_cast<const float4 *>(row + column + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        return;
    }
#pragma unroll
    for (unsigned j = 0; j < OCTET; j++) {
        v[j] = first + j >= columns ? 0.0f : row[job.channels ? (unsigned)job.channels[column + j] : column + j];
    }
}

/* Bit j: column j of the octet is high. */
CUDA_DEVICE uint32_t octet_mask(const uint32_t *mask, const cuda_unit &unit, unsigned octet)
{
    const unsigned column = unit.begin + octet * OCTET;
    return octet * OCTET < unit_columns(unit)
               ? __funnelshift_r(mask[column / 32], mask[column / 32 + 1], column % 32) & 0xffu
               : 0;
}

/* Those of a part of a dynamic mask, 0 in the others' places. */
CUDA_DEVICE void select_octet(const float v[OCTET], uint32_t high, unsigned part, float out[OCTET])
{
#pragma unroll
    for (unsigned j = 0; j < OCTET; j++) {
        out[j] = (high >> j & 1u) == part ? v[j] : 0.0f;
    }
}

/* ---- ranges and scales ---- */

SQF_BOTH bool has_range(const row_job &job, const quantizer_part &part)
{
    return (grid_has_scale(part.grid) && job.scale != SQF_ACT_STATIC) ||
           (part.grid.type == SQF_TYPE_FP32 && part.element == CUDA_FP16);
}

/* Adds what the lanes found to the ranges. Neighbouring lanes that share a range are joined first; `key`s ascend. */
CUDA_DEVICE void add_ranges(row_range *ranges, unsigned key, uint32_t above, uint32_t below, bool both, bool one)
{
    const unsigned lane = threadIdx.x % 32;
    if (one) {
        above = __reduce_max_sync(0xffffffffu, above);
        below = both ? __reduce_max_sync(0xffffffffu, below) : 0;
    }
    for (int distance = 1; !one && distance < 32; distance *= 2) {
        const unsigned other = __shfl_down_sync(0xffffffffu, key, (unsigned)distance);
        const uint32_t up = __shfl_down_sync(0xffffffffu, above, (unsigned)distance);
        const uint32_t down = both ? __shfl_down_sync(0xffffffffu, below, (unsigned)distance) : 0;
        if (lane + distance < 32 && other == key) {
            above = larger_bits(above, up);
            below = larger_bits(below, down);
        }
    }
    const unsigned before = __shfl_up_sync(0xffffffffu, key, 1u);
    if (lane == 0 || (!one && before != key)) {
        atomicMax(&ranges[key].above, above);
        if (both) {
            atomicMax(&ranges[key].below, below);
        }
    }
}

/* The ranges of one part among the octets of this thread's warp. */
CUDA_DEVICE void octet_range(const row_job &job, const row_memory &memory, unsigned plane, unsigned part,
                             unsigned scale_row, const float v[OCTET])
{
    const bool both = job.parts[part].has_zero;
    uint32_t above = 0, below = 0;
#pragma unroll
    for (unsigned j = 0; j < OCTET; j++) {
        const uint32_t bits = magnitude_bits(v[j]);
        if (both && v[j] < 0.0f) {
            below = larger_bits(below, bits);
        } else {
            above = larger_bits(above, bits);
        }
    }
    /* With sections `both` differs between lanes: all take the longer way. */
    const bool any = job.parts[0].has_zero || job.parts[1].has_zero;
    add_ranges(memory.ranges + plane * job.scale_rows, scale_row, above, below, any, job.scale_rows == 1);
    if (job.scale_type == SQF_TYPE_FP8) {
        for (unsigned p = 0; p < 2; p++) {
            const uint32_t top = __reduce_max_sync(0xffffffffu, p == part ? above : 0u);
            if (threadIdx.x % 32 == 0) {
                atomicMax(&memory.part_top[p], top);
            }
        }
    }
}

/* The scale S of a part for a range, and its zero point. */
CUDA_DEVICE float choose_scale(const row_job &job, unsigned p, const row_range &range, uint32_t part_top, int32_t *zero)
{
    const quantizer_part &part = job.parts[p];
    const float above = __uint_as_float(range.above);
    *zero = 0;
    if (!grid_has_scale(part.grid)) {
        const bool half = part.grid.type == SQF_TYPE_FP32 && part.element == CUDA_FP16;
        return part.grid.type == SQF_TYPE_NONE ? 0.0f : half ? quantizer_half_scale(above) : 1.0f;
    }
    if (job.scale == SQF_ACT_STATIC) {
        *zero = part.static_zero;
        return part.static_scale;
    }
    if (part.has_zero) {
        return quantizer_zero_scale(part, __uint_as_float(range.below), above, zero);
    }
    const float unit = quantizer_unit(job.scale_type, part, __uint_as_float(part_top));
    return grid_scale_for_max(job.scale_type, part.grid, part.clip * above, unit);
}

/* What a code is multiplied with to give the value. */
CUDA_DEVICE float stored_scale(const quantizer_part &part, float scale)
{
    if (part.element == CUDA_BF16 || part.element == CUDA_FP32) {
        return 1.0f;
    }
    return part.multiplier > 1 && scale > 0.0f ? scale / (float)part.multiplier : scale;
}

CUDA_DEVICE void store_scale(const row_job &job, unsigned plane, const quantizer_part &part, unsigned scale_row,
                             size_t token, float scale, int32_t zero)
{
    const size_t at = scale_row * job.token_stride + token;
    job.scales[plane][at] = scale > 0.0f ? stored_scale(part, scale) : 0.0f;
    if (job.zeros[plane]) {
        job.zeros[plane][at] = scale > 0.0f ? zero : 0;
    }
}

/* Ranges become scales: the first unit of a range does it. */
CUDA_DEVICE void make_scales(const row_job &job, const row_memory &memory, size_t token)
{
    if (job.empty_row >= 0 && threadIdx.x == 0) {
        store_scale(job, 0, job.parts[0], (unsigned)job.empty_row, token, 0.0f, 0);
    }
    for (unsigned i = threadIdx.x; i < job.planes * job.units; i += blockDim.x) {
        const unsigned plane = i / job.units, u = i % job.units, row = unit_scale(memory.units[u]);
        if (u > 0 && unit_scale(memory.units[u - 1]) == row) {
            continue;
        }
        const unsigned part = job.planes == 2 ? plane : unit_part(memory.units[u]);
        row_range *range = &memory.ranges[plane * job.scale_rows + row];
        int32_t zero;
        const float scale = choose_scale(job, part, *range, memory.part_top[part], &zero);
        store_scale(job, plane, job.parts[part], row, token, scale, zero);
        *range = row_range{__float_as_uint(scale), (uint32_t)zero};
    }
}

/* ---- codes ---- */

/* Eight bytes: the even columns, then 16 bytes further the odd ones. */
CUDA_DEVICE void store_bytes(uint8_t *unit, unsigned octet, const uint32_t code[OCTET])
{
    uint32_t *to = reinterpret_cast<uint32_t *>(unit + octet / 4 * 32 + octet % 4 * 4);
    to[0] = (code[0] & 0xffu) | (code[2] & 0xffu) << 8 | (code[4] & 0xffu) << 16 | code[6] << 24;
    to[4] = (code[1] & 0xffu) | (code[3] & 0xffu) << 8 | (code[5] & 0xffu) << 16 | code[7] << 24;
}

CUDA_DEVICE void store_halves(uint8_t *unit, unsigned octet, const uint32_t code[OCTET])
{
    uint32_t *to = reinterpret_cast<uint32_t *>(unit + octet / 4 * 64 + octet % 4 * 4);
    to[0] = code[0] | code[4] << 16;
    to[4] = code[1] | code[5] << 16;
    to[8] = code[2] | code[6] << 16;
    to[12] = code[3] | code[7] << 16;
}

CUDA_DEVICE void store_nibbles(uint8_t *unit, unsigned octet, const uint32_t code[OCTET])
{
    uint32_t word = 0;
#pragma unroll
    for (unsigned j = 0; j < OCTET; j++) {
        word |= (code[j] & 15u) << 4 * j;
    }
    reinterpret_cast<uint32_t *>(unit)[octet] = word;
}

/* One value as the element's bits. `inverse` is 1 / scale where halves hold floats of the token. */
CUDA_DEVICE uint32_t element_code(const quantizer_part &part, const quotient &by, int32_t zero, float x)
{
    if (part.multiplier == 1 && part.element <= CUDA_BYTE) {
        return quantizer_whole<false>(part, by, zero, x);
    }
    const float value = quantizer_value(part, by, zero, x);
    switch (part.element) {
    case CUDA_NIBBLE:
    case CUDA_BYTE: return __float_as_uint(value + (float)zero + QUANTIZER_ROUND);
    case CUDA_FP4: return cuda_e2m1((int)value);
    case CUDA_FP8: return quantizer_e4m3(value);
    case CUDA_FP16: return grid_to_fp16(part.grid.type == SQF_TYPE_FP32 ? value * by.inverse : value + (float)zero);
    default: {
        const float multiplier = part.multiplier > 1 ? (float)part.multiplier : 1.0f;
        const float plain = grid_has_scale(part.grid) ? value * (by.scale / multiplier) : value;
        return part.element == CUDA_BF16 ? quantizer_bf16(plain) : __float_as_uint(plain);
    }
    }
}

/* The codes of one octet, `columns` of them real. */
CUDA_DEVICE void store_octet(const quantizer_part &part, uint8_t *unit, unsigned octet, unsigned columns, float scale,
                             int32_t zero, uint32_t peak, const float v[OCTET])
{
    const quotient by = quotient_make(scale, peak);
    uint32_t code[OCTET];
    const bool plain = part.multiplier == 1 && part.element <= CUDA_BYTE;
    if (plain && scale > 0.0f && !by.divide && columns >= OCTET) { /* nearly all of them */
#pragma unroll
        for (unsigned j = 0; j < OCTET; j++) {
            code[j] = quantizer_whole<true>(part, by, zero, v[j]);
        }
    } else {
#pragma unroll
        for (unsigned j = 0; j < OCTET; j++) {
            const bool used = scale > 0.0f && j < columns;
            code[j] = used ? element_code(part, by, zero, v[j]) : 0;
        }
    }
    switch (part.element) {
    case CUDA_NIBBLE:
    case CUDA_FP4: store_nibbles(unit, octet, code); break;
    case CUDA_BYTE:
    case CUDA_FP8: store_bytes(unit, octet, code); break;
    case CUDA_BF16:
    case CUDA_FP16: store_halves(unit, octet, code); break;
    default:
#pragma unroll
        for (unsigned j = 0; j < OCTET; j++) {
            reinterpret_cast<uint32_t *>(unit)[octet * OCTET + j] = code[j];
        }
    }
}

/* ---- the kernel ---- */

/* Codes and scales of a token that is only padding. */
CUDA_DEVICE void clear_token(const row_job &job, size_t token)
{
    for (unsigned plane = 0; plane < job.planes; plane++) {
        uint4 *codes = reinterpret_cast<uint4 *>(job.codes[plane] + token * job.stride[plane]);
        for (size_t i = threadIdx.x; i < job.stride[plane] / sizeof(uint4); i += blockDim.x) {
            codes[i] = uint4{0, 0, 0, 0};
        }
        for (unsigned i = threadIdx.x; i < job.scale_rows; i += blockDim.x) {
            job.scales[plane][i * job.token_stride + token] = 0.0f;
            if (job.zeros[plane]) {
                job.zeros[plane][i * job.token_stride + token] = 0;
            }
        }
    }
}

/* Notes the first column that is not finite; the lowest token and channel win. */
CUDA_DEVICE void report_fault(const row_job &job, const float *row, size_t token)
{
    for (unsigned i = threadIdx.x; i < job.steps.columns; i += blockDim.x) {
        if (magnitude_bits(row[i]) >= QUANTIZER_INFINITY) {
            atomicMin(&job.fault->key, (unsigned long long)token << 32 | i);
            return;
        }
    }
}

/* The first pass: ranges of all scales. Octets go round by round over the threads. held: there is one round, and its
 * octets stay in registers for the second pass. */
template <bool held, bool dynamic>
CUDA_DEVICE void find_ranges(const row_job &job, const row_memory &memory, const float *row, unsigned rounds,
                             float v[OCTET])
{
    const unsigned octets = job.units * UNIT_OCTETS;
    for (unsigned i = 0; i < (held ? 1 : rounds); i++) {
        const unsigned at = i * blockDim.x + threadIdx.x, last = at < octets ? at : octets - 1;
        const cuda_unit unit = memory.units[last / UNIT_OCTETS];
        load_octet(job, row, unit, last % UNIT_OCTETS, v);
        if (!dynamic) {
            octet_range(job, memory, 0, unit_part(unit), unit_scale(unit), v);
            continue;
        }
        const uint32_t high = octet_mask(memory.mask, unit, last % UNIT_OCTETS);
        for (unsigned part = 0; part < 2; part++) {
            float chosen[OCTET];
            select_octet(v, high, part, chosen);
            octet_range(job, memory, part, part, unit_scale(unit), chosen);
        }
    }
}

/* The second pass: the codes of an octet in all planes. */
template <bool dynamic>
CUDA_DEVICE void quantize_octet(const row_job &job, const row_memory &memory, size_t token, unsigned at,
                                const row_range *one, uint32_t peak, const float v[OCTET])
{
    const unsigned u = at / UNIT_OCTETS, octet = at % UNIT_OCTETS, first = octet * OCTET;
    const cuda_unit unit = memory.units[u];
    const unsigned columns = unit_columns(unit) > first ? unit_columns(unit) - first : 0;
    const uint32_t high = dynamic ? octet_mask(memory.mask, unit, octet) : 0;
    for (unsigned plane = 0; plane < (dynamic ? 2 : 1); plane++) {
        const unsigned p = dynamic ? plane : unit_part(unit);
        const row_range scale = one ? *one : memory.ranges[plane * job.scale_rows + unit_scale(unit)];
        uint8_t *to = job.codes[plane] + token * job.stride[plane] +
                      cuda_unit_offset(job.parts[0].element, job.parts[1].element, plane, job.low_units, u);
        const float factor = __uint_as_float(scale.above);
        if (dynamic) {
            float chosen[OCTET];
            select_octet(v, high, p, chosen);
            store_octet(job.parts[p], to, octet, columns, factor, (int32_t)scale.below, peak, chosen);
        } else {
            store_octet(job.parts[p], to, octet, columns, factor, (int32_t)scale.below, peak, v);
        }
    }
}

/* Zeros from the last unit to the end of a token's codes. */
CUDA_DEVICE void clear_rest(const row_job &job, size_t token)
{
    for (unsigned plane = 0; plane < job.planes; plane++) {
        const size_t used =
            cuda_unit_offset(job.parts[0].element, job.parts[1].element, plane, job.low_units, job.units);
        uint8_t *codes = job.codes[plane] + token * job.stride[plane];
        for (size_t i = used + threadIdx.x * sizeof(uint32_t); i < job.stride[plane];
             i += blockDim.x * sizeof(uint32_t)) {
            *reinterpret_cast<uint32_t *>(codes + i) = 0;
        }
    }
}

/* A row that stands complete in memory. */
template <bool held, bool dynamic>
CUDA_DEVICE void quantize_row(const row_job &job, const row_memory &memory, const float *row, size_t token,
                              uint32_t peak)
{
    const unsigned octets = job.units * UNIT_OCTETS, rounds = (octets + blockDim.x - 1) / blockDim.x;
    float v[OCTET];
    if (dynamic) {
        choose_mask(job, row, memory.mask);
        __syncthreads();
    }
    if (job.ranges) {
        find_ranges<held, dynamic>(job, memory, row, rounds, v);
        __syncthreads();
    }
    row_range one = {0, 0};
    if (job.one_scale) {
        int32_t zero;
        const float scale = choose_scale(job, 0, row_range{peak, 0}, peak, &zero);
        one = row_range{__float_as_uint(scale), (uint32_t)zero};
        if (threadIdx.x == 0) {
            store_scale(job, 0, job.parts[0], 0, token, scale, zero);
        }
    } else {
        make_scales(job, memory, token);
        __syncthreads();
    }
    for (unsigned i = 0; i < (held ? 1 : rounds); i++) {
        const unsigned at = i * blockDim.x + threadIdx.x;
        if (at < octets) {
            if (!held || !job.ranges) {
                load_octet(job, row, memory.units[at / UNIT_OCTETS], at % UNIT_OCTETS, v);
            }
            quantize_octet<dynamic>(job, memory, token, at, job.one_scale ? &one : NULL, peak, v);
        }
    }
}

template <int threads, bool held, bool dynamic>
__global__ void __launch_bounds__(threads, 1024 / threads) input_kernel(row_job job)
{
    release_next_kernel(); /* a product may ask for its weights meanwhile */
    CUDA_SHARED(shared);
    row_memory memory;
    row_memory_place(job, shared, &memory);
    float *room = job.spill ? job.spill + (size_t)blockIdx.x * job.steps.stride : memory.row;
    fetch_lists(job, memory.units);
    for (size_t token = blockIdx.x; token < job.padded_tokens; token += gridDim.x) {
        if (token >= job.tokens) {
            clear_token(job, token);
            continue;
        }
        for (unsigned i = threadIdx.x; i < job.planes * job.scale_rows; i += blockDim.x) {
            memory.ranges[i] = row_range{0, 0};
        }
        for (unsigned i = threadIdx.x; i < mask_words(job); i += blockDim.x) {
            memory.mask[i] = 0;
        }
        if (threadIdx.x < 2) {
            memory.part_top[threadIdx.x] = 0;
        }
        uint32_t peak;
        const float *row = row_prepare(job.steps, token, room, memory.control, &peak);
        if (job.out) {
            for (unsigned i = threadIdx.x; i < job.steps.columns; i += blockDim.x) {
                job.out[token * job.steps.columns + i] = row[i];
            }
        } else {
            if (peak >= QUANTIZER_INFINITY) {
                report_fault(job, row, token);
            }
            quantize_row<held, dynamic>(job, memory, row, token, peak);
            clear_rest(job, token);
        }
        __syncthreads();
    }
}

#endif

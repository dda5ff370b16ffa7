/* What the kernel that prepares inputs works on (input.cu): the job, the block's shared memory, and the choice of
 * dynamic masks. */
#ifndef SQF_KERNELS_CUDA_INPUT_ROW_H
#define SQF_KERNELS_CUDA_INPUT_ROW_H

#include "kernels/cuda/input/rows.h"

/* Largest magnitudes above and below 0 (without a zero point: of both, in `above`); then the scale and the zero point
 * that follow from them. */
typedef struct row_range {
    uint32_t above, below;
} row_range;

/* Everything that the kernel reads. */
typedef struct row_job {
    row_steps steps;
    const int32_t *channels;
    const float *column_norm;
    const cuda_unit *unit_list;
    uint32_t units, low_units, scale_rows, planes;
    quantizer_part parts[2];
    sqf_act_scale scale;
    sqf_type scale_type;
    uint32_t bank, bank_high, tail_high; /* dynamic masks; bank 0 = none */
    bool one_scale;                      /* the row's largest magnitude decides the only scale */
    bool ranges;                         /* ranges must be found first */
    int32_t empty_row;                   /* row of scales of a section without columns, or -1 */
    size_t tokens, padded_tokens, token_stride;
    size_t stride[2];
    uint8_t *codes[2];
    float *scales[2];
    int32_t *zeros[2];
    float *spill; /* [blocks][stride] rows that do not fit shared memory, or NULL */
    float *out;   /* [tokens][columns] the row after its steps and nothing else, or NULL */
    cuda_fault *fault;
} row_job;

/* The block's shared memory; pointers as functions of the job. */
typedef struct row_memory {
    row_control *control;
    cuda_unit *units;
    row_range *ranges;  /* [planes][scale_rows] */
    uint32_t *part_top; /* [2] largest magnitude of a part in the token */
    uint32_t *mask;     /* one bit a column and one word more */
    float *row;
} row_memory;

SQF_BOTH uint32_t mask_words(const row_job &job)
{
    return job.bank ? (job.steps.columns + 31) / 32 + 1 : 0;
}

SQF_BOTH size_t to_16(size_t bytes)
{
    return (bytes + 15) / 16 * 16;
}

SQF_BOTH uint8_t *row_place(uint8_t *base, size_t used)
{
    return base ? base + used : NULL;
}

/* Lays the parts out from `base` (NULL: counts only); returns the bytes of all. */
SQF_BOTH size_t row_memory_place(const row_job &job, uint8_t *base, row_memory *out)
{
    size_t used = 0;
    out->control = (row_control *)row_place(base, used);
    used += to_16(sizeof(row_control));
    out->units = (cuda_unit *)row_place(base, used);
    used += to_16(job.units * sizeof(cuda_unit));
    out->ranges = (row_range *)row_place(base, used);
    used += to_16(job.planes * job.scale_rows * sizeof(row_range));
    out->part_top = (uint32_t *)row_place(base, used);
    used += 16;
    out->mask = (uint32_t *)row_place(base, used);
    used += to_16(mask_words(job) * sizeof(uint32_t));
    out->row = (float *)row_place(base, used);
    used += job.spill ? 0 : to_16(job.steps.columns * sizeof(float));
    return used;
}

CUDA_DEVICE unsigned unit_columns(const cuda_unit &unit)
{
    return unit.packed & 127u;
}

CUDA_DEVICE unsigned unit_part(const cuda_unit &unit)
{
    return unit.packed >> 7 & 1u;
}

CUDA_DEVICE unsigned unit_scale(const cuda_unit &unit)
{
    return unit.packed >> 8;
}

/* Starts to fetch what the kernel reads later: the units go to shared memory, and lists of the columns nearer. */
CUDA_DEVICE void fetch_lists(const row_job &job, cuda_unit *units)
{
    enum { LINE = 32 /* elements */ };
    for (unsigned u = 2 * threadIdx.x; u < job.units; u += 2 * blockDim.x) {
        async_copy(units + u, job.unit_list + u, true);
    }
    async_commit();
    const void *const lists[] = {job.steps.gain, job.channels, job.column_norm};
#pragma unroll
    for (int i = 0; i < 3; i++) {
        for (unsigned k = LINE * threadIdx.x; lists[i] && k < job.steps.columns; k += LINE * blockDim.x) {
            prefetch((const float *)lists[i] + k);
        }
    }
}

/* ---- dynamic masks ---- */

/* Sets bits of the mask from any column on. */
CUDA_DEVICE void mask_or(uint32_t *mask, unsigned column, uint32_t bits)
{
    const unsigned shift = column % 32;
    if (bits << shift) {
        atomicOr(&mask[column / 32], bits << shift);
    }
    if (shift && bits >> (32 - shift)) {
        atomicOr(&mask[column / 32 + 1], bits >> (32 - shift));
    }
}

/* What the columns of a bank are ranked by: |x| * norm as ordered integers. */
CUDA_DEVICE uint32_t mask_key(const row_job &job, const float *row, unsigned column)
{
    const float magnitude = __uint_as_float(magnitude_bits(row[column]));
    return __float_as_uint(job.column_norm ? magnitude * job.column_norm[column] : magnitude);
}

CUDA_DEVICE unsigned bank_high(const row_job &job, unsigned columns)
{
    return columns == job.bank ? job.bank_high : job.tail_high;
}

/* Banks of up to 32 columns, one column a lane: an element's rank is the number of keys above it, or equal to it and
 * before it. Lanes beyond the row have the key 0 behind all others. */
CUDA_DEVICE void mask_small_banks(const row_job &job, const float *row, uint32_t *mask)
{
    const unsigned lane = threadIdx.x % 32, columns = job.steps.columns;
    const unsigned width = 32 % job.bank == 0 ? job.bank : 32, step = width == 32 ? job.bank : 32;
    for (unsigned at = threadIdx.x / 32 * step; at < columns; at += blockDim.x / 32 * step) {
        const unsigned column = at + lane, inside = lane % width;
        const unsigned first = column - inside, left = first < columns ? columns - first : 0;
        const unsigned count = left < job.bank ? left : job.bank;
        const uint32_t key = inside < count ? mask_key(job, row, column) : 0;
        unsigned rank = 0;
        for (unsigned i = 0; i < job.bank; i++) {
            const uint32_t other = __shfl_sync(0xffffffffu, key, (int)i, (int)width);
            rank += other > key || (other == key && i < inside);
        }
        const uint32_t chosen = __ballot_sync(0xffffffffu, inside < count && rank < bank_high(job, count));
        if (lane == 0) {
            mask_or(mask, at, chosen);
        }
    }
}

/* How many of a bank's keys reach a threshold; all lanes. */
CUDA_DEVICE unsigned count_reaching(const row_job &job, const float *row, unsigned begin, unsigned count,
                                    uint32_t threshold)
{
    unsigned reached = 0;
    for (unsigned i = threadIdx.x % 32; i < count; i += 32) {
        reached += mask_key(job, row, begin + i) >= threshold;
    }
    return __reduce_add_sync(0xffffffffu, reached);
}

/* A longer bank, by one warp: the largest threshold that enough keys reach, bit by bit, then the first of those that
 * are equal to it. */
CUDA_DEVICE void mask_long_bank(const row_job &job, const float *row, unsigned begin, unsigned count, uint32_t *mask)
{
    const unsigned lane = threadIdx.x % 32, wanted = bank_high(job, count);
    uint32_t threshold = 0;
    unsigned reached = count;
    for (int bit = 30; bit >= 0 && reached != wanted; bit--) {
        const uint32_t trial = threshold | 1u << bit;
        const unsigned enough = count_reaching(job, row, begin, count, trial);
        threshold = enough >= wanted ? trial : threshold;
        reached = enough >= wanted ? enough : reached;
    }
    /* all that reach it if they are as many as wanted; else those above it, and the first of its equals */
    unsigned ties = reached == wanted ? count : wanted - count_reaching(job, row, begin, count, threshold + 1);
    for (unsigned i = 0; i < count; i += 32) {
        const bool inside = i + lane < count;
        const uint32_t key = inside ? mask_key(job, row, begin + i + lane) : 0;
        const uint32_t equal = __ballot_sync(0xffffffffu, inside && key == threshold);
        const bool first = (unsigned)__popc(equal & ((1u << lane) - 1u)) < ties;
        const uint32_t chosen = __ballot_sync(0xffffffffu, inside && (key > threshold || (key == threshold && first)));
        ties -= ties < (unsigned)__popc(equal) ? ties : (unsigned)__popc(equal);
        if (lane == 0) {
            mask_or(mask, begin + i, chosen);
        }
    }
}

CUDA_DEVICE void choose_mask(const row_job &job, const float *row, uint32_t *mask)
{
    if (job.bank <= 32) {
        mask_small_banks(job, row, mask);
        return;
    }
    const unsigned columns = job.steps.columns;
    for (unsigned begin = threadIdx.x / 32 * job.bank; begin < columns; begin += blockDim.x / 32 * job.bank) {
        mask_long_bank(job, row, begin, columns - begin < job.bank ? columns - begin : job.bank, mask);
    }
}

#endif

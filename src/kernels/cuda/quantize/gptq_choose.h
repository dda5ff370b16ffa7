/* What is chosen for a range of one row by the warp that owns it: scales (format/scales.c) and masks
 * (ptq/importance.c), with the bits that the CPU gives them.
 *
 * Masks are ranks: an element is high if fewer than k of its bank come before it (larger score, or the same one and a
 * lower column), which is what sqf_select_top chooses. The search of clip = mse gives each lane factors of its own and
 * adds the errors of the elements in their order, in double, as the CPU does. */
#ifndef SQF_KERNELS_CUDA_GPTQ_CHOOSE_H
#define SQF_KERNELS_CUDA_GPTQ_CHOOSE_H

#include "kernels/cuda/input/grid.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.h"

enum {
    LANES = 32,
    SEARCH_STEPS = 51, /* factors of the search, and those with powers of two */
    POWER_STEPS = 3
};

static const unsigned EVERY_LANE = 0xffffffffu;

/* What the kernels know of a job. */
typedef struct gptq_view {
    float *weights, *values;
    const float *upper, *score_factor, *search_weight;
    const uint32_t *group;
    const uint8_t *enters;
    uint8_t *mask, *shift;
    float *scale_low, *scale_high;
    unsigned long long *overflow; /* the first row that did */
    uint64_t random_key, first_row;
    uint32_t rows, columns, groups, border;
    uint32_t bank, high_per_bank, group_size; /* sizes never 0 */
    cuda_grid low, high;
    sqf_type scale_type;
    float unit[2];
    int shift_max;
    bool split, prune, masks_first, tied, search, gain, random;
} gptq_view;

/* The scales of a group, the same in all lanes. */
typedef struct group_scales {
    float low, high;
    int shift;
} group_scales;

/* Which elements of a range belong to the high part. */
typedef enum part_of { PART_LOW, PART_HIGH, PART_MASK } part_of;

/* A range of one row: elements, their masks. All lanes of the warp see the same. */
typedef struct row_range {
    const float *x;
    uint8_t *mask;
    uint32_t *keys; /* scratch, as long as the range */
    uint32_t begin, n;
} row_range;

static __device__ __forceinline__ unsigned lane_index(void)
{
    return threadIdx.x % LANES;
}

static __device__ __forceinline__ bool is_high(const row_range &range, part_of part, unsigned i)
{
    return part == PART_MASK ? range.mask[i] != 0 : part == PART_HIGH;
}

/* ---- scales ---- */

/* Largest magnitude of a part; 0 if it has no elements. */
static __device__ float part_max(const row_range &range, part_of part, bool high)
{
    float max = 0.0f;
    for (unsigned i = lane_index(); i < range.n; i += LANES) {
        const float magnitude = fabsf(range.x[i]);
        max = is_high(range, part, i) == high && magnitude > max ? magnitude : max;
    }
    return grid_float(__reduce_max_sync(EVERY_LANE, grid_bits(max))); /* not negative: ordered as their bits */
}

/* Squared error of a part under a scale; of each lane's own scale. */
static __device__ double part_error(const gptq_view &view, const row_range &range, part_of part, bool high,
                                    const cuda_grid &grid, float scale)
{
    double sum = 0.0;
#pragma unroll 1
    for (unsigned i = 0; i < range.n; i++) {
        if (is_high(range, part, i) == high) {
            const double d = (double)range.x[i] - (double)grid_round(grid, range.x[i], scale) * (double)scale;
            const double weight = view.search_weight ? (double)view.search_weight[range.begin + i] : 1.0;
            sum += weight * d * d;
        }
    }
    return sum;
}

/* The step with the least error, the first of equal ones; -1 where no lane has one. */
static __device__ int least_step(double error, int step)
{
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        const double other = __shfl_xor_sync(EVERY_LANE, error, distance);
        const int other_step = __shfl_xor_sync(EVERY_LANE, step, distance);
        const bool better = other_step >= 0 && (step < 0 || other < error || (other == error && other_step < step));
        error = better ? other : error;
        step = better ? other_step : step;
    }
    return step;
}

static __device__ __forceinline__ float search_factor(const gptq_view &view, int step)
{
    return view.scale_type == SQF_TYPE_E8M0 ? (step == 0   ? 2.0f
                                               : step == 1 ? 1.0f
                                                           : 0.5f)
                                            : (float)(100 - step) / 100.0f;
}

static __device__ float free_scale(const gptq_view &view, const row_range &range, part_of part, bool high)
{
    const cuda_grid grid = high ? view.high : view.low;
    const float unit = view.unit[high];
    if (!grid_has_scale(grid)) {
        return grid.type == SQF_TYPE_NONE ? 0.0f : 1.0f;
    }
    const float max = part_max(range, part, high);
    const float plain = grid_scale_for_max(view.scale_type, grid, max, unit);
    if (!view.search || max == 0.0f) {
        return plain;
    }
    const int steps = view.scale_type == SQF_TYPE_E8M0 ? POWER_STEPS : SEARCH_STEPS;
    double least = 0.0;
    int best = -1;
    for (int step = (int)lane_index(); step < steps; step += LANES) {
        const float scale = grid_scale_for_max(view.scale_type, grid, max * search_factor(view, step), unit);
        const double error = part_error(view, range, part, high, grid, scale);
        if (error < (best < 0 ? (double)grid_divisor(0.0f) : least)) {
            least = error;
            best = step;
        }
    }
    best = least_step(least, best);
    return best < 0 ? plain : grid_scale_for_max(view.scale_type, grid, max * search_factor(view, best), unit);
}

static __device__ group_scales tied_scales(const gptq_view &view, float low_max, float high_max)
{
    const float most = view.high.limit;
    group_scales out = {grid_scale_round(view.scale_type, low_max / view.low.limit), 0.0f, 0};
    if (out.low < high_max / most) {
        out.low = grid_scale_round(view.scale_type, high_max / most);
    }
    const int limit = out.low > 0.0f ? view.shift_max : 0;
    double reach = (double)most * (double)out.low * 0.5;
    while (out.shift < limit && reach >= (double)high_max) {
        out.shift++;
        reach *= 0.5;
    }
    out.high = out.low * grid_power(-out.shift);
    return out;
}

static __device__ group_scales tied_search(const gptq_view &view, const row_range &range, part_of part)
{
    const float low_max = part_max(range, part, false), high_max = part_max(range, part, true);
    const group_scales plain = tied_scales(view, low_max, high_max);
    if (!view.search) {
        return plain;
    }
    double least = 0.0;
    int best = -1;
    for (int step = (int)lane_index(); step < SEARCH_STEPS; step += LANES) {
        const group_scales scales = tied_scales(view, low_max * (float)(100 - step) / 100.0f, high_max);
        const double error = part_error(view, range, part, false, view.low, scales.low) +
                             part_error(view, range, part, true, view.high, scales.high);
        if (error < (best < 0 ? (double)grid_divisor(0.0f) : least)) {
            least = error;
            best = step;
        }
    }
    best = least_step(least, best);
    return best < 0 ? plain : tied_scales(view, low_max * (float)(100 - best) / 100.0f, high_max);
}

static __device__ group_scales choose_scales(const gptq_view &view, const row_range &range, part_of part)
{
    if (view.tied) {
        return tied_search(view, range, part);
    }
    const float low = free_scale(view, range, part, false);
    return group_scales{low, free_scale(view, range, part, true), 0};
}

/* ---- masks ---- */

/* Unsigned keys in the order of the floats; both zeros tie. */
static __device__ __forceinline__ uint32_t ordered_key(float score)
{
    const uint32_t bits = grid_bits(score + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* splitmix64, base/random.h */
static __device__ uint64_t random_step(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static __device__ float random_score(const gptq_view &view, uint32_t row, uint32_t column)
{
    uint64_t seeded = view.random_key ^ (view.first_row + row) * 0xd1b54a32d192ed03u;
    uint64_t state = random_step(&seeded) + column * 0x9e3779b97f4a7c15u;
    return (float)((double)(random_step(&state) >> 11) * 0x1p-53);
}

/* The mask of each bank of a range that begins with one, from the keys. */
static __device__ void select_banks(const gptq_view &view, const row_range &range)
{
    __syncwarp();
    for (unsigned begin = 0; begin < range.n; begin += view.bank) {
        const unsigned left = range.n - begin, width = left < view.bank ? left : view.bank;
        const uint64_t twice = 2 * (uint64_t)view.high_per_bank * width + view.bank;
        unsigned high = (unsigned)(twice / (2 * (uint64_t)view.bank)); /* sqf_bank_high */
        high = view.high_per_bank == 0 ? 0 : high ? high : 1;
        const uint32_t *keys = range.keys + begin;
        for (unsigned i = lane_index(); i < width; i += LANES) {
            const uint32_t key = keys[i];
            unsigned rank = 0;
            for (unsigned j = 0; j < width; j++) {
                rank += keys[j] > key || (keys[j] == key && j < i);
            }
            range.mask[begin + i] = rank < high;
        }
    }
    __syncwarp();
}

static __device__ __forceinline__ float squared_error(const cuda_grid &grid, float x, float scale)
{
    const float d = x - grid_round(grid, x, scale) * scale;
    return d * d;
}

static __device__ void enter_banks(const gptq_view &view, const row_range &range, uint32_t row)
{
    for (unsigned i = lane_index(); i < range.n; i += LANES) {
        range.keys[i] =
            ordered_key(view.random && !view.prune ? random_score(view, row, range.begin + i)
                                                   : fabsf(range.x[i]) * view.score_factor[range.begin + i]);
    }
    select_banks(view, range);
    if (!view.gain || view.prune) {
        return;
    }
    const group_scales scales = choose_scales(view, range, PART_MASK);
    for (unsigned i = lane_index(); i < range.n; i += LANES) {
        const float factor = view.score_factor[range.begin + i];
        const float saved =
            squared_error(view.low, range.x[i], scales.low) - squared_error(view.high, range.x[i], scales.high);
        range.keys[i] = ordered_key(saved * factor * factor);
    }
    select_banks(view, range);
}

/* On entering a range, as gptq_enter: masks of its banks where they are chosen now, and of a group its scales, which
 * go to memory too. */
static __device__ void enter_range(const gptq_view &view, const row_range &range, uint32_t row, bool group,
                                   group_scales &scales)
{
    if (!group || (view.split && !view.masks_first)) {
        enter_banks(view, range, row);
    }
    if (!group) {
        return;
    }
    /* where weights will be dropped, the scale covers them too */
    scales = choose_scales(view, range, view.prune ? PART_HIGH : view.split ? PART_MASK : PART_LOW);
    if (lane_index() == 0) {
        const size_t at = (size_t)row * view.groups + view.group[range.begin];
        view.scale_low[at] = scales.low;
        view.scale_high[at] = scales.high;
        view.shift[at] = (uint8_t)scales.shift;
    }
}

#endif

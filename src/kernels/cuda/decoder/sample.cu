/* Drawing tokens from logits on the device: the definition of model/sampler.c (all tokens sorted by logit, ties by id;
 * top_k, then top_p, then min_p cut the tail; the point of a uniform number in what is left) without sorting them.
 *
 * Weights are integers, exp((logit - largest) / temperature) times a power of two by which the sum of all still fits 62
 * bits: sums are exact and need no order, so that atomic additions are deterministic. An error of 2^-44 of the largest
 * weight at 2^18 tokens is what decides otherwise than the CPU's sums in double can: once in some 10^11 draws.
 *
 * Every cut and the draw itself ask for one element: the first, in sorted order, up to which the counts or the weights
 * reach a target. Tokens are counted into bins by their distance from the largest (a bin's tokens are neighbours in the
 * order); the bin that reaches the target is looked into again, until what is left fits a list in shared memory, which
 * is sorted. Where all tokens up to that bin fit it, as nearly always, the cuts that follow need the list alone: two
 * passes over the logits. */
#include "kernels/cuda/decoder/decoder.h"
#include "kernels/cuda/instructions/common.h"

enum {
    SAMPLE_THREADS = 256, /* of the kernels over chunks */
    SAMPLE_CHUNK = 2048,  /* logits of a block */
    DRAW_THREADS = 512,
    DRAW_BINS = 1024, /* two a thread */
    DRAW_LIST = 1024
};

/* Reaches of the first bins in units of temperature, or in logits where tokens are counted: what matters. */
static const double WEIGHT_REACH = 32.0, LOGIT_REACH = 64.0;

/* What a chunk's block found. */
typedef struct chunk_result {
    double largest, least;
    uint32_t id;  /* the lowest of the largest */
    uint32_t bad; /* 1: a NaN or an infinity is there */
} chunk_result;

/* Passed by value. */
typedef struct sample_job {
    const float *logits;
    const uint8_t *seen; /* or NULL */
    const double *uniform;
    uint32_t *ids;
    chunk_result *chunks; /* [sequences][chunk_count] */
    uint64_t *weights;    /* [sequences][vocabulary] */
    uint32_t vocabulary, chunk_count, top_k;
    double penalty, temperature, top_p, min_p;
    double weight_one; /* the weight of the largest logit, a power of two */
} sample_job;

/* The logit after the penalty: pushed down whatever its sign. */
static __device__ __forceinline__ double value_of(const sample_job &job, size_t at)
{
    const double value = (double)job.logits[at];
    if (!job.seen || !job.seen[at]) {
        return value;
    }
    return value > 0 ? value / job.penalty : value * job.penalty;
}

/* ---- chunks ---- */

static __device__ __forceinline__ void join_chunks(chunk_result *a, const chunk_result &b)
{
    if (b.largest > a->largest || (b.largest == a->largest && b.id < a->id)) {
        a->largest = b.largest;
        a->id = b.id;
    }
    a->least = b.least < a->least ? b.least : a->least;
    a->bad |= b.bad;
}

/* Of all threads of a block, in every thread. */
static __device__ __forceinline__ chunk_result join_block(chunk_result mine, chunk_result *scratch)
{
    for (int distance = 16; distance > 0; distance /= 2) {
        chunk_result other;
        other.largest = __shfl_xor_sync(0xffffffffu, mine.largest, distance);
        other.least = __shfl_xor_sync(0xffffffffu, mine.least, distance);
        other.id = __shfl_xor_sync(0xffffffffu, mine.id, distance);
        other.bad = __shfl_xor_sync(0xffffffffu, mine.bad, distance);
        join_chunks(&mine, other);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        scratch[threadIdx.x / 32] = mine;
    }
    __syncthreads();
    for (unsigned w = 0; w < blockDim.x / 32; w++) {
        join_chunks(&mine, scratch[w]);
    }
    return mine;
}

static __device__ __forceinline__ chunk_result no_chunk(void)
{
    return chunk_result{-INFINITY, INFINITY, UINT32_MAX, 0};
}

/* All chunks of a sequence, in every thread. */
static __device__ __forceinline__ chunk_result all_chunks(const sample_job &job, unsigned sequence,
                                                          chunk_result *scratch)
{
    chunk_result mine = no_chunk();
    for (uint32_t i = threadIdx.x; i < job.chunk_count; i += blockDim.x) {
        join_chunks(&mine, job.chunks[(size_t)sequence * job.chunk_count + i]);
    }
    return join_block(mine, scratch);
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_chunks(sample_job job)
{
    __shared__ chunk_result scratch[SAMPLE_THREADS / 32];
    const size_t row = (size_t)blockIdx.y * job.vocabulary;
    const uint32_t begin = blockIdx.x * SAMPLE_CHUNK;
    chunk_result mine = no_chunk();
    for (uint32_t i = begin + threadIdx.x; i < begin + SAMPLE_CHUNK && i < job.vocabulary; i += SAMPLE_THREADS) {
        const bool bad = (__float_as_uint(job.logits[row + i]) & 0x7f800000u) == 0x7f800000u;
        const double value = value_of(job, row + i);
        join_chunks(&mine, chunk_result{value, value, i, bad});
    }
    mine = join_block(mine, scratch);
    if (threadIdx.x == 0) {
        job.chunks[(size_t)blockIdx.y * job.chunk_count + blockIdx.x] = mine;
    }
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_greedy(sample_job job)
{
    __shared__ chunk_result scratch[SAMPLE_THREADS / 32];
    const chunk_result all = all_chunks(job, blockIdx.x, scratch);
    if (threadIdx.x == 0) {
        job.ids[blockIdx.x] = all.bad ? UINT32_MAX : all.id;
    }
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_weights(sample_job job)
{
    __shared__ chunk_result scratch[SAMPLE_THREADS / 32];
    const size_t row = (size_t)blockIdx.y * job.vocabulary;
    const uint32_t begin = blockIdx.x * SAMPLE_CHUNK;
    const chunk_result all = all_chunks(job, blockIdx.y, scratch);
    if (all.bad) {
        return;
    }
    for (uint32_t i = begin + threadIdx.x; i < begin + SAMPLE_CHUNK && i < job.vocabulary; i += SAMPLE_THREADS) {
        const double weight = exp((value_of(job, row + i) - all.largest) / job.temperature);
        job.weights[row + i] = (uint64_t)(weight * job.weight_one + 0.5);
    }
}

/* ---- drawing ---- */

/* What is counted on the way to the target. */
typedef enum draw_measure { DRAW_COUNT, DRAW_WEIGHT } draw_measure;

/* A block's state. Tokens still in the draw: before the bound in sorted order or on it, of a weight of at least
 * `least_weight`. */
typedef struct draw_state {
    double bound_value;
    uint32_t bound_id;
    uint64_t least_weight;
    bool listed; /* the list begins with the first token of all and holds all that are in the draw */

    uint64_t bins[DRAW_BINS];
    uint32_t counts[DRAW_BINS];
    double values[DRAW_LIST];
    uint64_t weights[DRAW_LIST];
    uint32_t ids[DRAW_LIST];
    uint32_t list_count;

    uint64_t warp_sums[DRAW_THREADS / 32];
    chunk_result scratch[DRAW_THREADS / 32];
    uint32_t found; /* index of what scan_pairs looked for */
    uint64_t before;
} draw_state;

/* A token of the vocabulary as the draw sees it. */
typedef struct draw_token {
    double value;
    uint64_t weight;
    bool in; /* the draw */
} draw_token;

static __device__ __forceinline__ draw_token token_of(const sample_job &job, const draw_state *state, uint32_t id)
{
    const size_t at = (size_t)blockIdx.x * job.vocabulary + id;
    draw_token token = {value_of(job, at), job.weights[at], false};
    token.in = (token.value > state->bound_value || (token.value == state->bound_value && id <= state->bound_id)) &&
               token.weight >= state->least_weight;
    return token;
}

/* Inclusive sums of a block's pairs: thread i has elements 2i and 2i + 1. Returns the sum before the thread's own;
 * *total: of all. */
static __device__ __forceinline__ uint64_t scan_block(uint64_t mine, uint64_t *total, uint64_t *warp_sums)
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned long long sum = mine;
    for (unsigned distance = 1; distance < 32; distance *= 2) {
        const unsigned long long other = __shfl_up_sync(0xffffffffu, sum, distance);
        sum += lane >= distance ? other : 0;
    }
    __syncthreads();
    if (lane == 31) {
        warp_sums[warp] = sum;
    }
    __syncthreads();
    uint64_t before = sum - mine;
    *total = 0;
    for (unsigned w = 0; w < DRAW_THREADS / 32; w++) {
        before += w < warp ? warp_sums[w] : 0;
        *total += warp_sums[w];
    }
    return before;
}

/* The sum of all elements (a multiple of 2 per thread: DRAW_BINS). */
static __device__ __forceinline__ uint64_t sum_pairs(draw_state *state, const uint64_t *from)
{
    uint64_t total;
    scan_block(from[2 * threadIdx.x] + from[2 * threadIdx.x + 1], &total, state->warp_sums);
    return total;
}

/* The first element at which before + the sum up to it reaches the target: state->found, and state->before grows to the
 * sum before that element. There is one. */
static __device__ __forceinline__ void find_pairs(draw_state *state, const uint64_t *from, uint64_t target)
{
    const uint64_t a = from[2 * threadIdx.x], b = from[2 * threadIdx.x + 1];
    uint64_t total;
    uint64_t sum = state->before + scan_block(a + b, &total, state->warp_sums);
    __syncthreads(); /* everybody has read state->before */
    for (unsigned i = 0; i < 2; i++) {
        const uint64_t next = sum + (i ? b : a);
        if (sum < target && next >= target) {
            state->found = 2 * threadIdx.x + i;
            state->before = sum;
        }
        sum = next;
    }
    __syncthreads();
}

/* Where a value is among the bins of the values hi, hi - 1 / scale, .. */
static __device__ __forceinline__ uint32_t bin_of(double value, double high, double scale)
{
    const double bin = (high - value) * scale;
    return bin < DRAW_BINS - 1 ? (uint32_t)bin : DRAW_BINS - 1;
}

static __device__ __forceinline__ void fill_bins(const sample_job &job, draw_state *state, draw_measure measure,
                                                 double low, double high, double scale)
{
    for (unsigned i = threadIdx.x; i < DRAW_BINS; i += DRAW_THREADS) {
        state->bins[i] = state->counts[i] = 0;
    }
    __syncthreads();
    for (uint32_t id = threadIdx.x; id < job.vocabulary; id += DRAW_THREADS) {
        const draw_token token = token_of(job, state, id);
        if (token.in && token.value <= high && token.value >= low) {
            const uint32_t bin = bin_of(token.value, high, scale);
            atomicAdd((unsigned long long *)&state->bins[bin], measure == DRAW_COUNT ? 1ull : token.weight);
            atomicAdd(&state->counts[bin], 1u);
        }
    }
    __syncthreads();
}

/* Puts the tokens of bins first..last into the list: they fit. */
static __device__ __forceinline__ void gather_list(const sample_job &job, draw_state *state, uint32_t first,
                                                   uint32_t last, double low, double high, double scale)
{
    __syncthreads();
    for (unsigned i = threadIdx.x; i < DRAW_LIST; i += DRAW_THREADS) {
        state->values[i] = -INFINITY;
        state->weights[i] = 0;
        state->ids[i] = UINT32_MAX;
    }
    if (threadIdx.x == 0) {
        state->list_count = 0;
    }
    __syncthreads();
    for (uint32_t id = threadIdx.x; id < job.vocabulary; id += DRAW_THREADS) {
        const draw_token token = token_of(job, state, id);
        if (token.in && token.value <= high && token.value >= low) {
            const uint32_t bin = bin_of(token.value, high, scale);
            if (bin >= first && bin <= last) {
                const uint32_t at = atomicAdd(&state->list_count, 1u);
                state->values[at] = token.value;
                state->weights[at] = token.weight;
                state->ids[at] = id;
            }
        }
    }
    __syncthreads();
}

/* Largest value first, lower id on ties: bitonic, over a power of two of elements. */
static __device__ __forceinline__ void sort_list(draw_state *state)
{
    unsigned size = 2;
    while (size < state->list_count) {
        size *= 2;
    }
    for (unsigned run = 2; run <= size; run *= 2) {
        for (unsigned distance = run / 2; distance > 0; distance /= 2) {
            for (unsigned i = threadIdx.x; i < size / 2; i += DRAW_THREADS) {
                const unsigned a = i / distance * 2 * distance + i % distance, b = a + distance;
                const double x = state->values[a], y = state->values[b];
                const uint32_t x_id = state->ids[a], y_id = state->ids[b];
                const bool descending = a / run % 2 == 0;
                if ((y > x || (y == x && y_id < x_id)) == descending && x_id != y_id) {
                    const uint64_t weight = state->weights[a];
                    state->values[a] = y, state->values[b] = x;
                    state->ids[a] = y_id, state->ids[b] = x_id;
                    state->weights[a] = state->weights[b], state->weights[b] = weight;
                }
            }
            __syncthreads();
        }
    }
}

/* Measures of the listed tokens that are in the draw, to the bins. */
static __device__ __forceinline__ void measure_list(draw_state *state, draw_measure measure)
{
    for (unsigned i = threadIdx.x; i < DRAW_LIST; i += DRAW_THREADS) {
        const double value = state->values[i];
        const bool in =
            i < state->list_count && state->weights[i] >= state->least_weight &&
            (value > state->bound_value || (value == state->bound_value && state->ids[i] <= state->bound_id));
        state->bins[i] = !in ? 0 : measure == DRAW_COUNT ? 1 : state->weights[i];
    }
    __syncthreads();
}

/* The bound becomes the listed token at which the target is reached. */
static __device__ __forceinline__ void bound_in_list(draw_state *state, draw_measure measure, uint64_t target)
{
    measure_list(state, measure);
    find_pairs(state, state->bins, target);
    if (threadIdx.x == 0) {
        state->bound_value = state->values[state->found];
        state->bound_id = state->ids[state->found];
    }
    __syncthreads();
}

/* The bound becomes the rank-th token (from 1) by id among those of one value, of which there are many. */
static __device__ __forceinline__ void bound_in_ties(const sample_job &job, draw_state *state, double value,
                                                     uint64_t rank)
{
    uint64_t before = 0, total;
    for (uint32_t begin = 0; begin < job.vocabulary && before < rank; begin += DRAW_THREADS) {
        const uint32_t id = begin + threadIdx.x;
        bool tied = false;
        if (id < job.vocabulary) {
            const draw_token token = token_of(job, state, id);
            tied = token.in && token.value == value;
        }
        const uint64_t own = before + scan_block(tied, &total, state->warp_sums);
        if (tied && own + 1 == rank) {
            state->found = id;
        }
        before += total;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        state->bound_value = value;
        state->bound_id = state->found;
    }
    __syncthreads();
}

/* The ends of the values in a bin. */
static __device__ __forceinline__ chunk_result ends_of_bin(const sample_job &job, draw_state *state, uint32_t bin,
                                                           double low, double high, double scale)
{
    chunk_result mine = no_chunk();
    for (uint32_t id = threadIdx.x; id < job.vocabulary; id += DRAW_THREADS) {
        const draw_token token = token_of(job, state, id);
        if (token.in && token.value <= high && token.value >= low && bin_of(token.value, high, scale) == bin) {
            join_chunks(&mine, chunk_result{token.value, token.value, id, 0});
        }
    }
    return join_block(mine, state->scratch);
}

/* What `target_of` makes of the sum of all in the draw. */
typedef struct draw_target {
    draw_measure measure;
    uint64_t count; /* DRAW_COUNT */
    double share;   /* DRAW_WEIGHT: of the sum */
    bool beyond;    /* the sum must exceed the share, not only reach it */
} draw_target;

static __device__ __forceinline__ uint64_t target_of(const draw_target &want, uint64_t sum)
{
    if (want.measure == DRAW_COUNT) {
        return want.count < sum ? want.count : sum;
    }
    const double point = want.share * (double)sum;
    uint64_t target = (uint64_t)point;
    target += want.beyond || (double)target < point;
    return target < 1 ? 1 : target < sum ? target : sum;
}

/* Moves the bound to the first token at which the target is reached. high, low: the largest and the least logit. */
static __device__ __forceinline__ void draw_cut(const sample_job &job, draw_state *state, const draw_target &want,
                                                double high, double low)
{
    double reach = want.measure == DRAW_COUNT ? LOGIT_REACH : WEIGHT_REACH * job.temperature;
    uint64_t target = 0;
    if (threadIdx.x == 0) {
        state->before = 0;
    }
    __syncthreads();
    if (state->listed) {
        measure_list(state, want.measure);
        target = target_of(want, sum_pairs(state, state->bins));
        bound_in_list(state, want.measure, target);
        return;
    }
    for (bool first = true;; first = false) {
        const double span = high - low < reach ? high - low : reach;
        const double scale = span > 0 ? DRAW_BINS / span : 0;
        fill_bins(job, state, want.measure, low, high, scale);
        if (first) {
            target = target_of(want, sum_pairs(state, state->bins));
        }
        find_pairs(state, state->bins, target);
        const uint32_t bin = state->found;
        uint64_t count;
        const unsigned a = 2 * threadIdx.x;
        scan_block((a <= bin ? state->counts[a] : 0) + (a + 1 <= bin ? state->counts[a + 1] : 0), &count,
                   state->warp_sums);
        if (first && count <= DRAW_LIST) { /* all up to the target */
            gather_list(job, state, 0, bin, low, high, scale);
            sort_list(state);
            if (threadIdx.x == 0) {
                state->before = 0;
                state->listed = true;
            }
            __syncthreads();
            bound_in_list(state, want.measure, target);
            return;
        }
        if (state->counts[bin] <= DRAW_LIST) {
            gather_list(job, state, bin, bin, low, high, scale);
            sort_list(state);
            bound_in_list(state, want.measure, target);
            return;
        }
        const chunk_result ends = ends_of_bin(job, state, bin, low, high, scale);
        if (ends.largest == ends.least) {
            const uint64_t each =
                want.measure == DRAW_COUNT ? 1 : job.weights[(size_t)blockIdx.x * job.vocabulary + ends.id];
            bound_in_ties(job, state, ends.largest, (target - state->before + each - 1) / each);
            return;
        }
        high = ends.largest;
        low = ends.least;
        reach = INFINITY;
    }
}

static __global__ void __launch_bounds__(DRAW_THREADS, 1) sample_draw(sample_job job)
{
    CUDA_SHARED(shared);
    draw_state *state = (draw_state *)shared;
    const chunk_result all = all_chunks(job, blockIdx.x, state->scratch);
    if (all.bad) {
        if (threadIdx.x == 0) {
            job.ids[blockIdx.x] = UINT32_MAX;
        }
        return;
    }
    if (threadIdx.x == 0) {
        state->bound_value = -INFINITY;
        state->bound_id = UINT32_MAX;
        state->least_weight = 0;
        state->listed = false;
    }
    __syncthreads();
    if (job.top_k > 0 && job.top_k < job.vocabulary) {
        const draw_target want = {DRAW_COUNT, job.top_k, 0, false};
        draw_cut(job, state, want, all.largest, all.least);
    }
    if (job.top_p > 0 && job.top_p < 1) {
        const draw_target want = {DRAW_WEIGHT, 0, job.top_p, false};
        draw_cut(job, state, want, all.largest, all.least);
    }
    if (threadIdx.x == 0) { /* the largest weight is 1: no cut removes it */
        const double least = job.min_p * job.weight_one;
        const uint64_t whole = (uint64_t)least;
        state->least_weight = whole + ((double)whole < least);
    }
    __syncthreads();
    const draw_target want = {DRAW_WEIGHT, 0, job.uniform[blockIdx.x], true};
    draw_cut(job, state, want, all.largest, all.least);
    if (threadIdx.x == 0) {
        job.ids[blockIdx.x] = state->bound_id;
    }
}

/* ---- the host's side ---- */

static sqf_status check_sample(const sqf_cuda_sample *sample, sqf_error *err)
{
    if (sample->vocabulary == 0 || sample->vocabulary > 1u << 30 || sample->sequences > 65535) {
        return sqf_fail(err, SQF_E_ARG,
                        "sampling: %zu sequences of %zu logits, expected 1 to 2^30 logits of at most "
                        "65535 sequences",
                        sample->sequences, sample->vocabulary);
    }
    return SQF_OK;
}

/* The job without memory of its own. */
static sample_job make_job(const sqf_cuda_sample *sample)
{
    const sqf_sampling *s = &sample->sampling;
    const bool penalized = s->repetition_penalty != 0 && s->repetition_penalty != 1;
    sample_job job = {};
    job.logits = sample->logits;
    job.seen = penalized ? sample->seen : NULL;
    job.uniform = sample->uniform;
    job.ids = sample->ids;
    job.vocabulary = (uint32_t)sample->vocabulary;
    job.chunk_count = (uint32_t)((sample->vocabulary + SAMPLE_CHUNK - 1) / SAMPLE_CHUNK);
    job.top_k = s->top_k;
    job.penalty = (double)s->repetition_penalty;
    job.temperature = (double)s->temperature;
    job.top_p = (double)s->top_p;
    job.min_p = (double)s->min_p;
    job.weight_one = 1.0;
    while (job.weight_one < 0x1p52 && job.weight_one * 2.0 * (double)sample->vocabulary <= 0x1p62) {
        job.weight_one *= 2.0;
    }
    return job;
}

sqf_status cuda_sample(sqf_cuda_device *device, const sqf_cuda_sample *sample, sqf_error *err)
{
    SQF_TRY(check_sample(sample, err));
    sample_job job = make_job(sample);
    const bool greedy = sample->sampling.temperature == 0;
    const size_t chunks = sample->sequences * job.chunk_count;
    const size_t weights = greedy ? 0 : sample->sequences * sample->vocabulary * sizeof(uint64_t);
    if (sample->sequences == 0) {
        return SQF_OK;
    }
    SQF_TRY(cuda_workspace(device, weights + chunks * sizeof(chunk_result), err));
    job.weights = (uint64_t *)device->workspace;
    job.chunks = (chunk_result *)((uint8_t *)device->workspace + weights);
    const dim3 grid(job.chunk_count, (unsigned)sample->sequences), one((unsigned)sample->sequences);
    CUDA_TRY(cuda_launch(device->stream, sample_chunks, grid, dim3(SAMPLE_THREADS), 0, job), "sampling: largest");
    if (greedy) {
        CUDA_TRY(cuda_launch(device->stream, sample_greedy, one, dim3(SAMPLE_THREADS), 0, job), "sampling: greedy");
        return SQF_OK;
    }
    CUDA_TRY(cuda_launch(device->stream, sample_weights, grid, dim3(SAMPLE_THREADS), 0, job), "sampling: weights");
    CUDA_TRY(cuda_launch(device->stream, sample_draw, one, dim3(DRAW_THREADS), sizeof(draw_state), job),
             "sampling: draw");
    return SQF_OK;
}

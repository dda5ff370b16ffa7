/* What the kernels of attention share: their arguments, and which positions a row sees. Internal to the backend. */
#ifndef SQF_KERNELS_CUDA_ATTENTION_H
#define SQF_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/device.h"

#ifdef __CUDACC__
#define ATTENTION_DEVICE static __device__ __forceinline__
#else
#define ATTENTION_DEVICE static inline
#endif

enum {
    ATTENTION_STRETCH = 256,     /* positions of a block that decodes: fixed, so that results depend on nothing else */
    ATTENTION_DECODE_TOKENS = 8, /* up to so many tokens of a sequence are decoded, more are a prompt */
    ATTENTION_LARGEST_DIM = 256  /* of the matrix kernels */
};

/* Passed by value. */
typedef struct attention_job {
    const float *query;
    float *out;
    const sqf_cuda_kv *kv;
    const int32_t *position, *begin;
    int heads, kv_heads, group, head_dim, window, capacity;
    float factor; /* of the scores: scale * log2(e), weights are powers of two */
    /* Decode with several stretches: parts of a row, [sequences][kv_heads][slots][splits], and sums of `dim` each. */
    float *part_largest, *part_totals, *part_sums;
    int slots, splits;
} attention_job;

/* Sizes of a launch. rows: most of a sequence's key head, tokens * group. splits: stretches; 0 = prefill. */
typedef struct attention_grid {
    unsigned rows, sequences, splits;
} attention_grid;

/* Elements of the matrix kernel for a head. */
static inline int attention_dim(int head_dim)
{
    return head_dim <= 64 ? 64 : head_dim <= 96 ? 96 : head_dim <= 128 ? 128 : ATTENTION_LARGEST_DIM;
}

/* Positions that a token sees: first..last. */
typedef struct attention_span {
    int first, last;
} attention_span;

ATTENTION_DEVICE attention_span span_of(const attention_job &job, int token)
{
    const int last = job.position[token];
    return attention_span{job.window > 0 && last >= job.window ? last - job.window + 1 : 0, last};
}

/* The tokens of a sequence. Row r is head r % group of token begin + r / group. */
typedef struct sequence_rows {
    int begin, rows;
} sequence_rows;

ATTENTION_DEVICE sequence_rows rows_of_sequence(const attention_job &job, int sequence)
{
    const int begin = job.begin[sequence];
    return sequence_rows{begin, (job.begin[sequence + 1] - begin) * job.group};
}

ATTENTION_DEVICE float *output_of(const attention_job &job, const sequence_rows &sequence, int head, int row)
{
    const size_t token = (size_t)(sequence.begin + row / job.group);
    return job.out + (token * (size_t)job.heads + (size_t)(head * job.group + row % job.group)) * (size_t)job.head_dim;
}

/* First part of a row. */
ATTENTION_DEVICE size_t part_of(const attention_job &job, int sequence, int head, int row)
{
    const size_t slot = ((size_t)sequence * (size_t)job.kv_heads + (size_t)head) * (size_t)job.slots + (size_t)row;
    return slot * (size_t)job.splits;
}

cudaError_t attention_f32(cudaStream_t stream, const attention_job &job, const attention_grid &grid);
cudaError_t attention_f16(cudaStream_t stream, const attention_job &job, const attention_grid &grid);
cudaError_t attention_int8(cudaStream_t stream, const attention_job &job, const attention_grid &grid);

#endif

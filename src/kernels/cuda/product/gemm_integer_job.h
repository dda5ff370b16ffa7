/* What the kernels of gemm_integer.h are asked for, and how a grid's blocks divide it. */
#ifndef SQF_KERNELS_CUDA_GEMM_INTEGER_JOB_H
#define SQF_KERNELS_CUDA_GEMM_INTEGER_JOB_H

#include "kernels/cuda/linear/linear.h"

enum {
    INTEGER_THREADS = 128,
    INTEGER_ROWS = 128,  /* of a block */
    INTEGER_STAGES = 3,  /* of shared memory */
    INTEGER_BANDS = 16,  /* of INTEGER_ROWS rows that are taken together */
    INTEGER_PITCH = 128, /* bytes of a token in a stage; two units of nibbles take half */
    INTEGER_FLUSH = 36   /* floats from token to token where sums change places: 8 t + g are all banks */
};

/* The instruction of a section. */
typedef enum integer_path { PATH_INT4, PATH_INT8, PATH_BF16, PATH_NONE } integer_path;

/* Blocks that share a multiprocessor: its 64 Ki registers are what counts. */
SQF_BOTH constexpr int integer_blocks(int tokens, sqf_cuda_form form, bool scaled)
{
    const int fewer = form == SQF_CUDA_BYTES || scaled;
    return tokens == 128 ? 2 : tokens == 64 ? 3 - fewer : 4 - fewer;
}

/* One product as the kernel sees it. */
typedef struct integer_job {
    const uint8_t *tiles;
    const float *scales;
    const int32_t *sums; /* NULL without zero points */
    const uint8_t *codes;
    size_t stride, step_stride; /* bytes from token to token, and to the sixteenth from here */
    const float *act_scales;
    const int32_t *act_zeros; /* NULL without zero points */
    size_t token_stride;
    const cuda_chunk *chunks;
    uint32_t chunk_count, low_chunks;
    uint32_t units, low_units, segments;
    uint32_t rows, tokens;
    uint32_t split_bits, share; /* 2^split_bits parts of `share` chunks */
    bool grouped;               /* the activations' scales change from segment to segment */
    uint32_t high_scale;        /* else: the row of the high section's scales; the low one's is 0 */
    float *y;
    const float *bias;
    sqf_cuda_store store;
    float *partial; /* [parts][tokens][rows] in place of y if there are several */
} integer_job;

/* Bytes of a stage, and of all shared memory: stages, then the scales and zero points of a token's two sections. */
SQF_BOTH size_t integer_stage_bytes(unsigned tokens, bool grouped, bool zero)
{
    return tokens * (INTEGER_PITCH + (grouped ? zero ? 8u : 4u : 0u));
}

SQF_BOTH size_t integer_shared_bytes(unsigned tokens, bool grouped, bool zero)
{
    return INTEGER_STAGES * integer_stage_bytes(tokens, grouped, zero) + (grouped ? 0 : tokens * (zero ? 16u : 8u));
}

/* The block's place and its shared memory. */
typedef struct integer_block {
    uint32_t first_row, first_token;
    uint32_t split, begin, end; /* part, and its chunks */
    uint8_t *shared;
    size_t stage_bytes;
} integer_block;

/* Sixteen bands of rows are taken together, so that the blocks that run at once share weights and tokens in the L2
 * cache: x is the band, y the block of tokens, z sixteen bands times the parts of a split product. Places beyond the
 * last band stay empty. It costs little to compute, so that it need not be kept. */
SQF_BOTH integer_block integer_place(const integer_job &job, const uint3 &index, unsigned tokens, uint8_t *shared)
{
    const uint32_t split = index.z & ((1u << job.split_bits) - 1);
    const uint32_t begin = split * job.share, end = begin + job.share;
    return integer_block{((index.z >> job.split_bits) * INTEGER_BANDS + index.x) * INTEGER_ROWS,
                         index.y * tokens,
                         split,
                         begin,
                         end < job.chunk_count ? end : job.chunk_count,
                         shared,
                         integer_stage_bytes(tokens, job.grouped, job.act_zeros != NULL)};
}

#endif

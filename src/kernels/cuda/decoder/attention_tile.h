/* A tile of keys and values on its way to shared memory.
 *
 * Rows of keys and values in shared memory are some 16-byte chunks longer than their elements, so that the eight rows
 * that one phase of a load reads lie in different banks: an odd number of chunks for ldmatrix and for values of F32, a
 * multiple of 4 that is none of 8 for 16-byte loads of F32 keys. */
#ifndef SQF_KERNELS_CUDA_ATTENTION_TILE_H
#define SQF_KERNELS_CUDA_ATTENTION_TILE_H

#include "kernels/cuda/decoder/attention.h"
#include "kernels/cuda/instructions/attention.h"

#ifdef __CUDACC__
#define CUDA_UNROLL      _Pragma("unroll")
#define CUDA_UNROLL_FOUR _Pragma("unroll 4")
#else
#define CUDA_UNROLL
#define CUDA_UNROLL_FOUR
#endif

/* Where keys and values of one head lie in global memory. */
typedef struct attention_source {
    const uint8_t *key, *value;
    const float *key_scales, *value_scales; /* INT8 */
    int row_bytes;                          /* of one position */
} attention_source;

/* Bytes of a tile of `keys` positions, heads of up to `dim` elements (a multiple of 32). */
template <sqf_kv_type type, int dim, int keys> struct attention_tile {
    static constexpr int element = type == SQF_KV_F32 ? 4 : type == SQF_KV_F16 ? 2 : 1;
    static constexpr int chunks = dim * element / 16;
    static constexpr int key_stride = (chunks + (type == SQF_KV_F32 ? 4 : 1)) * 16;
    static constexpr int value_stride = (chunks + 1) * 16;
    static constexpr int values = keys * key_stride;
    static constexpr int scales = values + keys * value_stride; /* [2][keys] floats */
    static constexpr int bytes = scales + (type == SQF_KV_INT8 ? 2 * keys * 4 : 0);

    static_assert(dim % 32 == 0 && keys % (type == SQF_KV_INT8  ? 32
                                           : type == SQF_KV_F16 ? 16
                                                                : 8) ==
                                       0,
                  "a whole tile");
};

/* Starts the copies of positions begin .. begin + keys - 1 by `threads` threads; from `end` on there are zeros, and
 * beyond the head's own elements. */
template <sqf_kv_type type, int dim, int keys, int threads>
CUDA_DEVICE void attention_copy(uint8_t *to, const attention_source &from, int begin, int end, int thread)
{
    typedef attention_tile<type, dim, keys> tile;
    constexpr int chunks = tile::chunks, rows = threads / chunks;
    if constexpr (threads % chunks == 0 && keys % rows == 0) { /* a thread keeps its place in the rows */
        const int first = thread / chunks, at = thread % chunks * 16;
        const size_t step = (size_t)(rows * from.row_bytes);
        size_t offset = (size_t)(begin + first) * (size_t)from.row_bytes + (size_t)at;
        CUDA_UNROLL
        for (int row = 0; row < keys; row += rows) {
            const bool valid = begin + first + row < end && at < from.row_bytes;
            const size_t place = valid ? offset : 0;
            async_copy(to + (first + row) * tile::key_stride + at, from.key + place, valid);
            async_copy(to + tile::values + (first + row) * tile::value_stride + at, from.value + place, valid);
            offset += step;
        }
    } else {
        CUDA_UNROLL_FOUR
        for (int i = thread; i < keys * chunks; i += threads) {
            const int row = i / chunks, at = i % chunks * 16;
            const bool valid = begin + row < end && at < from.row_bytes;
            const size_t offset = valid ? (size_t)(begin + row) * (size_t)from.row_bytes + (size_t)at : 0;
            async_copy(to + row * tile::key_stride + at, from.key + offset, valid);
            async_copy(to + tile::values + row * tile::value_stride + at, from.value + offset, valid);
        }
    }
    if (type == SQF_KV_INT8) {
        for (int i = thread; i < 2 * keys; i += threads) {
            const int row = i % keys;
            const bool valid = begin + row < end;
            const float *scales = i < keys ? from.key_scales : from.value_scales;
            async_copy_word(to + tile::scales + 4 * i, scales + (valid ? begin + row : 0), valid);
        }
    }
}

#endif

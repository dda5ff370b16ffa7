/* Rows of the embedding as floats. */
#include "kernels/cuda/decoder/decoder.h"
#include "kernels/cuda/instructions/attention.h"

enum { EMBED_THREADS = 256 };

/* A block has one token. 16-bit types are read in pairs where rows are of an even length. */
static __global__ void __launch_bounds__(EMBED_THREADS)
    embed_rows(const void *table, sqf_type dtype, const uint32_t *ids, int columns, float *x)
{
    const size_t token = blockIdx.x, row = (size_t)ids[token] * (size_t)columns;
    float *to = x + token * (size_t)columns;
    if (dtype == SQF_TYPE_FP32) {
        for (int i = (int)threadIdx.x; i < columns; i += EMBED_THREADS) {
            to[i] = ((const float *)table)[row + (size_t)i];
        }
        return;
    }
    const uint16_t *from = (const uint16_t *)table + row;
    const int paired = columns % 2 == 0 ? columns : 0;
    for (int i = 2 * (int)threadIdx.x; i < paired; i += 2 * EMBED_THREADS) {
        const uint32_t pair = *(const uint32_t *)(from + i);
        const bool bf16 = dtype == SQF_TYPE_BF16;
        *(float2 *)(to + i) =
            make_float2(bf16 ? __uint_as_float(pair << 16) : half_to_float((uint16_t)pair),
                        bf16 ? __uint_as_float(pair & 0xffff0000u) : half_to_float((uint16_t)(pair >> 16)));
    }
    for (int i = paired + (int)threadIdx.x; i < columns; i += EMBED_THREADS) {
        to[i] = dtype == SQF_TYPE_BF16 ? __uint_as_float((uint32_t)from[i] << 16) : half_to_float(from[i]);
    }
}

sqf_status cuda_embed(sqf_cuda_device *device, const void *table, sqf_type dtype, const sqf_cuda_batch *batch,
                      size_t columns, float *x, sqf_error *err)
{
    if (dtype != SQF_TYPE_BF16 && dtype != SQF_TYPE_FP16 && dtype != SQF_TYPE_FP32) {
        return sqf_fail(err, SQF_E_SUPPORT, "embedding: expected bf16, fp16 or fp32");
    }
    if (batch->tokens == 0) {
        return SQF_OK;
    }
    CUDA_TRY(cuda_launch(device->stream, embed_rows, dim3((unsigned)batch->tokens), dim3(EMBED_THREADS), 0, table,
                         dtype, batch->ids, (int)columns, x),
             "embedding");
    return SQF_OK;
}

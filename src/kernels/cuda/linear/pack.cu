/* Packing of weights on the device. */
#include "kernels/cuda/linear/pack.h"

/* One word of the tiles a thread: [tiles][units][words]. */
static __global__ void pack_tiles_kernel(cuda_pack_source source, uint32_t tiles, uint32_t *out)
{
    const unsigned words = cuda_tile_bytes(source.form) / 4;
    const size_t count = (size_t)tiles * source.units * words, step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        const size_t tile_unit = i / words;
        out[i] = cuda_pack_word(&source, (uint32_t)(tile_unit / source.units), (uint32_t)(tile_unit % source.units),
                                (unsigned)(i % words));
    }
}

/* The high elements of one row of one unit a thread: [tiles][units][16][unit_high]. */
static __global__ void pack_high_kernel(cuda_pack_source source, uint32_t tiles, int8_t *out)
{
    const size_t count = (size_t)tiles * source.units * CUDA_TILE_ROWS, step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        const size_t tile_unit = i / CUDA_TILE_ROWS;
        const uint32_t row = (uint32_t)(tile_unit / source.units * CUDA_TILE_ROWS + i % CUDA_TILE_ROWS);
        cuda_pack_high(&source, row, (uint32_t)(tile_unit % source.units), out + i * source.unit_high);
    }
}

/* Scales and sums of one row of one segment a thread: [tiles][segments][16]. */
static __global__ void pack_scales_kernel(cuda_pack_source source, cuda_pack_target target, uint32_t tiles)
{
    const size_t count = (size_t)tiles * source.segment_count * CUDA_TILE_ROWS, step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        const size_t tile_segment = i / CUDA_TILE_ROWS;
        const uint32_t segment = (uint32_t)(tile_segment % source.segment_count);
        const uint32_t row = (uint32_t)(tile_segment / source.segment_count * CUDA_TILE_ROWS + i % CUDA_TILE_ROWS);
        const size_t from = (size_t)row * source.segment_count + segment;
        if (target.scales) {
            target.scales[i] = row < source.rows ? source.scales[from] : 0.0f;
        }
        if (target.high_scales) {
            target.high_scales[i] = row < source.rows ? target.source_high_scales[from] : 0.0f;
        }
        if (target.sums) {
            target.sums[i] = cuda_pack_sum(&source, row, segment, false);
        }
        if (target.high_sums) {
            target.high_sums[i] = cuda_pack_sum(&source, row, segment, true);
        }
    }
}

/* Blocks of 256 threads for `count` elements. */
static dim3 blocks_for(size_t count)
{
    const size_t blocks = (count + 255) / 256;
    return dim3((unsigned)(blocks < 1 ? 1 : blocks > 65536 ? 65536 : blocks));
}

sqf_status cuda_pack(sqf_cuda_device *device, const cuda_pack_source *source, const cuda_pack_target *target,
                     uint32_t tiles, sqf_error *err)
{
    const size_t units = (size_t)tiles * source->units;
    if (target->tiles) {
        CUDA_TRY(cuda_launch(device->stream, pack_tiles_kernel, blocks_for(units * cuda_tile_bytes(source->form) / 4),
                             dim3(256), 0, *source, tiles, target->tiles),
                 "packing weights");
    }
    if (target->high) {
        CUDA_TRY(cuda_launch(device->stream, pack_high_kernel, blocks_for(units * CUDA_TILE_ROWS), dim3(256), 0,
                             *source, tiles, target->high),
                 "packing high weights");
    }
    if (target->scales || target->high_scales || target->sums || target->high_sums) {
        const size_t count = (size_t)tiles * source->segment_count * CUDA_TILE_ROWS;
        CUDA_TRY(
            cuda_launch(device->stream, pack_scales_kernel, blocks_for(count), dim3(256), 0, *source, *target, tiles),
            "packing scales");
    }
    return SQF_OK;
}

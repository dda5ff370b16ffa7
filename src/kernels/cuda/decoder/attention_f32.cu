/* Attention over caches of F32. */
#include "kernels/cuda/decoder/attention_kernels.h"

cudaError_t attention_f32(cudaStream_t stream, const attention_job &job, const attention_grid &grid)
{
    return launch_attention_of<SQF_KV_F32>(stream, job, grid);
}

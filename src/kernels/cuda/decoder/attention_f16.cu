/* Attention over caches of F16. */
#include "kernels/cuda/decoder/attention_kernels.h"

cudaError_t attention_f16(cudaStream_t stream, const attention_job &job, const attention_grid &grid)
{
    return launch_attention_of<SQF_KV_F16>(stream, job, grid);
}

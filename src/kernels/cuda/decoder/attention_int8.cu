/* Attention over caches of INT8. */
#include "kernels/cuda/decoder/attention_kernels.h"

cudaError_t attention_int8(cudaStream_t stream, const attention_job &job, const attention_grid &grid)
{
    return launch_attention_of<SQF_KV_INT8>(stream, job, grid);
}

/* Products of many tokens on Hopper: a low section of signed bytes, a high one of bf16. */
#include "kernels/cuda/product/wgmma.h"

cudaError_t wgmma_launch_bytes_halves(const wgmma_call *call)
{
    if (call->form == SQF_CUDA_NIBBLES) {
        return wgmma_launch_either<CUDA_BYTE, CUDA_BF16, SQF_CUDA_NIBBLES>(call);
    }
    return wgmma_launch_either<CUDA_BYTE, CUDA_BF16, SQF_CUDA_BYTES>(call);
}

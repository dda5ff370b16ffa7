/* Products of many tokens on Hopper: activations of e4m3. */
#include "kernels/cuda/product/wgmma.h"

cudaError_t wgmma_launch_fp8(const wgmma_call *call)
{
    if (call->form == SQF_CUDA_NIBBLES) {
        return wgmma_launch_either<CUDA_FP8, CUDA_FP8, SQF_CUDA_NIBBLES>(call);
    }
    return wgmma_launch_either<CUDA_FP8, CUDA_FP8, SQF_CUDA_FP8>(call);
}

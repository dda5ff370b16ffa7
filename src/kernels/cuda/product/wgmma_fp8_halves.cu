/* Products of many tokens on Hopper: a low section of e4m3, a high one of bf16. */
#include "kernels/cuda/product/wgmma.h"

cudaError_t wgmma_launch_fp8_halves(const wgmma_call *call)
{
    if (call->form == SQF_CUDA_NIBBLES) {
        return wgmma_launch_either<CUDA_FP8, CUDA_BF16, SQF_CUDA_NIBBLES>(call);
    }
    return wgmma_launch_either<CUDA_FP8, CUDA_BF16, SQF_CUDA_FP8>(call);
}

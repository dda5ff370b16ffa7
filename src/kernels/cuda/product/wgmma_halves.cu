/* Products of many tokens on Hopper: activations of bf16. */
#include "kernels/cuda/product/wgmma.h"

cudaError_t wgmma_launch_halves(const wgmma_call *call)
{
    if (call->form == SQF_CUDA_NIBBLES) {
        return wgmma_launch_either<CUDA_BF16, CUDA_BF16, SQF_CUDA_NIBBLES>(call);
    }
    if (call->form == SQF_CUDA_BYTES) {
        return wgmma_launch_either<CUDA_BF16, CUDA_BF16, SQF_CUDA_BYTES>(call);
    }
    if (call->form == SQF_CUDA_FP8) {
        return wgmma_launch_either<CUDA_BF16, CUDA_BF16, SQF_CUDA_FP8>(call);
    }
    return wgmma_launch<false, CUDA_BF16, CUDA_BF16, SQF_CUDA_BF16>(call);
}

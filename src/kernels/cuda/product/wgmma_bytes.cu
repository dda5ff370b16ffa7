/* Products of many tokens on Hopper: activations of signed bytes. */
#include "kernels/cuda/product/wgmma.h"

cudaError_t wgmma_launch_bytes(const wgmma_call *call)
{
    if (call->form == SQF_CUDA_NIBBLES) {
        return wgmma_launch_either<CUDA_BYTE, CUDA_BYTE, SQF_CUDA_NIBBLES>(call);
    }
    return wgmma_launch_either<CUDA_BYTE, CUDA_BYTE, SQF_CUDA_BYTES>(call);
}

/* Where CUDA comes from: the toolkit under nvcc, the emulation on the host (emulation/) under a C++ compiler. The same
 * sources compile both ways: kernels use instructions.h in place of inline assembly, cuda_launch in place of <<<>>>,
 * and CUDA_SHARED in place of extern __shared__. */
#ifndef SQF_KERNELS_CUDA_RUNTIME_H
#define SQF_KERNELS_CUDA_RUNTIME_H

#ifdef __CUDACC__

#include <cuda_runtime.h>
#include <stdint.h>

/* The block's dynamic shared memory, 1024-byte aligned. */
#define CUDA_SHARED(name) extern __shared__ __align__(1024) uint8_t name[]

/* Queues a kernel. Above 48 KB the limit of the kernel's dynamic shared memory is raised first. */
template <typename... Parameters, typename... Arguments>
cudaError_t cuda_launch(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                        Arguments &&...arguments)
{
    if (shared > 48 * 1024) {
        const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                                       cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (error != cudaSuccess) {
            return error;
        }
    }
    kernel<<<grid, block, shared, stream>>>(static_cast<Parameters>(arguments)...);
    return cudaGetLastError();
}

#else
#include "kernels/cuda/emulation/runtime.h"
#endif

#endif

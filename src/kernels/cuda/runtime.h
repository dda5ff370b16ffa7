/* Where CUDA comes from: the toolkit under nvcc, the emulation on the host (emulation/) under a C++ compiler. The same
 * sources compile both ways: kernels use instructions/ in place of inline assembly, cuda_launch in place of <<<>>>,
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

/* The same; if `early`, which takes a 9.0 or later, its blocks may start while the kernel before is still running, up
 * to where they call await_previous_kernel. Every thread of such a kernel calls that before it reads what other kernels
 * write, or writes anything. */
template <typename... Parameters, typename... Arguments>
cudaError_t cuda_launch_early(bool early, cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                              size_t shared, Arguments &&...arguments)
{
    if (!early) {
        return cuda_launch(stream, kernel, grid, block, shared, arguments...);
    }
    if (shared > 48 * 1024) {
        const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                                       cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (error != cudaSuccess) {
            return error;
        }
    }
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

#else
#include "kernels/cuda/emulation/runtime.h"
#endif

#endif

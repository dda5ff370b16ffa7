/* Emulation of CUDA on the host: what kernels/cuda/runtime.h stands for under a C++ compiler. docs/cuda-emulation.md
 * says what it shows and what it cannot. */
#ifndef SQF_KERNELS_CUDA_EMULATION_RUNTIME_H
#define SQF_KERNELS_CUDA_EMULATION_RUNTIME_H

#include <tuple>
#include <utility>

#include "kernels/cuda/emulation/api.h"
#include "kernels/cuda/emulation/block.h"
#include "kernels/cuda/emulation/intrinsics.h"
#include "kernels/cuda/emulation/types.h"

#define CUDA_SHARED(name) uint8_t *const name = emulated_shared(NULL)

/* The source text of the kernel stands in messages. */
#define cuda_launch(stream, ...) emulated_launch(#__VA_ARGS__, stream, __VA_ARGS__)

/* Kernels run one after the other here. */
#define cuda_launch_early(early, stream, ...) ((void)(early), cuda_launch(stream, __VA_ARGS__))

template <typename... Parameters> struct emulated_call {
    void (*kernel)(Parameters...);
    std::tuple<std::decay_t<Parameters>...> arguments;

    static void run(const void *closure)
    {
        const emulated_call *call = (const emulated_call *)closure;
        std::apply(call->kernel, call->arguments);
    }
};

template <typename... Parameters, typename... Arguments>
cudaError_t emulated_launch(const char *name, cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                            size_t shared, Arguments &&...arguments)
{
    static_assert((sizeof(Parameters) + ... + 0) <= 4096, "what a launch can hand over");
    const cudaError_t error = emulated_check_launch(grid, block, shared);
    if (error != cudaSuccess) {
        return error;
    }
    const emulated_call<Parameters...> call = {kernel, {static_cast<Parameters>(arguments)...}};
    return emulated_enqueue(stream, [=]() { emulated_run(name, grid, block, shared, call.run, &call); });
}

#endif

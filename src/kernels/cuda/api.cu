/* The table of operations. */
#include "kernels/cuda/operations.h"

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)
#ifdef __CUDACC__
#define DESCRIPTION "CUDA " TEXT(__CUDACC_VER_MAJOR__) "." TEXT(__CUDACC_VER_MINOR__)
#else
#define DESCRIPTION "emulation on the host"
#endif

/* An operation with its device made the calling thread's current one: threads begin with the first, and memory and
 * launches belong to the current one. A failure shows in what follows. */
template <auto operation> struct on_device;
template <typename Result, typename... Parameters, Result (*operation)(sqf_cuda_device *, Parameters...)>
struct on_device<operation> {
    static Result call(sqf_cuda_device *device, Parameters... parameters)
    {
        if (device) {
            (void)cudaSetDevice(device->index);
        }
        return operation(device, parameters...);
    }
};

/* In the order of ops.h: C++17 knows no designated initializers. */
static const sqf_cuda_ops operations = {
    SQF_CUDA_OPS_VERSION,
    DESCRIPTION,
    cuda_count,
    cuda_open,
    on_device<cuda_close>::call,
    on_device<cuda_info>::call,
    on_device<cuda_allocate>::call,
    on_device<cuda_release>::call,
    on_device<cuda_upload>::call,
    on_device<cuda_download>::call,
    on_device<cuda_copy>::call,
    on_device<cuda_clear>::call,
    on_device<cuda_finish>::call,
    on_device<cuda_graph_begin>::call,
    on_device<cuda_graph_end>::call,
    on_device<cuda_graph_run>::call,
    on_device<cuda_graph_destroy>::call,
    on_device<cuda_linear_plan>::call,
    on_device<cuda_linear_create>::call,
    on_device<cuda_linear_destroy>::call,
    cuda_linear_bytes,
    cuda_linear_same_input,
    cuda_linear_kernels,
    on_device<cuda_input_create>::call,
    on_device<cuda_input_destroy>::call,
    on_device<cuda_input_prepare>::call,
    on_device<cuda_input_dequantize>::call,
    on_device<cuda_linear_forward>::call,
    on_device<cuda_apply_steps>::call,
    on_device<cuda_embed>::call,
    on_device<cuda_rope_store>::call,
    on_device<cuda_attention>::call,
    on_device<cuda_sample>::call,
    on_device<cuda_hessian_add>::call,
    on_device<cuda_channels_add>::call,
    on_device<cuda_factor>::call,
    on_device<cuda_gptq>::call,
    on_device<cuda_mark>::call,
    on_device<cuda_elapsed>::call,
};

extern "C" __attribute__((visibility("default"))) const sqf_cuda_ops *sqf_cuda_operations(void)
{
    return &operations;
}

/* The table of operations. */
#include "kernels/cuda/operations.h"

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)
#ifdef __CUDACC__
#define DESCRIPTION "CUDA " TEXT(__CUDACC_VER_MAJOR__) "." TEXT(__CUDACC_VER_MINOR__)
#else
#define DESCRIPTION "emulation on the host"
#endif

/* In the order of ops.h: C++17 knows no designated initializers. */
static const sqf_cuda_ops operations = {
    SQF_CUDA_OPS_VERSION,
    DESCRIPTION,
    cuda_count,
    cuda_open,
    cuda_close,
    cuda_info,
    cuda_allocate,
    cuda_release,
    cuda_upload,
    cuda_download,
    cuda_copy,
    cuda_clear,
    cuda_finish,
    cuda_graph_begin,
    cuda_graph_end,
    cuda_graph_run,
    cuda_graph_destroy,
    cuda_linear_plan,
    cuda_linear_create,
    cuda_linear_destroy,
    cuda_linear_bytes,
    cuda_linear_same_input,
    cuda_input_create,
    cuda_input_destroy,
    cuda_input_prepare,
    cuda_input_dequantize,
    cuda_linear_forward,
    cuda_apply_steps,
    cuda_embed,
    cuda_rope_store,
    cuda_attention,
    cuda_sample,
    cuda_hessian_add,
    cuda_channels_add,
    cuda_factor,
    cuda_gptq,
    cuda_mark,
    cuda_elapsed,
};

extern "C" __attribute__((visibility("default"))) const sqf_cuda_ops *sqf_cuda_operations(void)
{
    return &operations;
}

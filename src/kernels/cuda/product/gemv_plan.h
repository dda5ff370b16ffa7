/* How a product of few tokens is cut and launched: shared by gemv.cu and gemv_half.cu. */
#ifndef SQF_KERNELS_CUDA_GEMV_PLAN_H
#define SQF_KERNELS_CUDA_GEMV_PLAN_H

#include "kernels/cuda/product/gemv.h"

typedef struct decode_plan {
    decode_kind kind;
    bool general;
    uint32_t blocks; /* of 8 tokens in a block of threads */
    uint32_t splits;
    uint32_t warps; /* of a block */
} decode_plan;

/* False if the kernels have no words for the product, whatever the tokens. */
bool decode_plan_make(const cuda_product *product, decode_plan *out);

/* Tokens up to which these kernels are the ones to take. */
size_t decode_plan_tokens(const cuda_product *product, const decode_plan *plan);

size_t decode_plan_workspace(const cuda_product *product, const decode_plan *plan);

/* Everything but tokens and what depends on them. */
void decode_plan_arguments(const cuda_product *product, const decode_plan *plan, decode_arguments *out);

/* Row tiles of a block that computes at most 16 tokens, which is what the cut of the columns is made for. */
uint32_t decode_form_tiles(sqf_cuda_form form);

/* Launches the kernel of a shape for arguments->tokens tokens. */
template <class S>
sqf_status decode_launch(const cuda_product *product, const decode_plan *plan, const decode_arguments *arguments,
                         sqf_error *err)
{
    const uint32_t tokens = arguments->tokens < (uint32_t)S::tokens ? arguments->tokens : (uint32_t)S::tokens;
    const size_t table = arguments->listed ? arguments->units * sizeof(uint32_t) : 0;
    const dim3 grid((arguments->tokens + S::tokens - 1) / S::tokens, product->linear->padded_rows / S::rows,
                    arguments->splits);
    CUDA_TRY(cudaFuncSetAttribute(reinterpret_cast<const void *>(decode_kernel<S>),
                                  cudaFuncAttributePreferredSharedMemoryCarveout, 100),
             "shared memory of a product");
    return cuda_check(cuda_launch_early(product->device->arch >= 90, product->device->stream, decode_kernel<S>, grid,
                                        dim3(32 * plan->warps),
                                        decode_shared_bytes<S>(plan->warps, tokens, arguments->unit_high) + table,
                                        *arguments),
                      "product of few tokens", err);
}

/* Chooses by tokens and by how segments lie. Many tokens take shared memory that not every device has. */
template <int form, int kind>
sqf_status decode_dispatch(const cuda_product *product, const decode_plan *plan, const decode_arguments *arguments,
                           sqf_error *err)
{
    if (plan->general) {
        return decode_launch<decode_shape<form, kind, 1, true>>(product, plan, arguments, err);
    }
    if (plan->blocks == 1) {
        return decode_launch<decode_shape<form, kind, 1, false>>(product, plan, arguments, err);
    }
    constexpr int most = decode_is_wide((sqf_cuda_form)form, (decode_kind)kind) ? 4 : 2;
    return plan->blocks == 2 ? decode_launch<decode_shape<form, kind, 2, false>>(product, plan, arguments, err)
                             : decode_launch<decode_shape<form, kind, most, false>>(product, plan, arguments, err);
}

/* gemv_half.cu */
sqf_status decode_half(const cuda_product *product, const decode_plan *plan, const decode_arguments *arguments,
                       sqf_error *err);

#endif

/* Products of few tokens in 16-bit floats: unquantized activations, or sections and parts that are not integers. */
#include "kernels/cuda/product/gemv_plan.h"

template <int kind>
static sqf_status dispatch_form(const cuda_product *product, const decode_plan *plan, const decode_arguments *arguments,
                                sqf_error *err)
{
    const int dense = kind == DECODE_BF16 ? SQF_CUDA_BF16 : SQF_CUDA_FP16;
    switch (product->weights->form) {
    case SQF_CUDA_NIBBLES: return decode_dispatch<SQF_CUDA_NIBBLES, kind>(product, plan, arguments, err);
    case SQF_CUDA_BYTES: return decode_dispatch<SQF_CUDA_BYTES, kind>(product, plan, arguments, err);
    case SQF_CUDA_SPLIT: return decode_dispatch<SQF_CUDA_SPLIT, kind>(product, plan, arguments, err);
    case SQF_CUDA_FP8: return decode_dispatch<SQF_CUDA_FP8, kind>(product, plan, arguments, err);
    default: return decode_dispatch<dense, kind>(product, plan, arguments, err);
    }
}

sqf_status decode_half(const cuda_product *product, const decode_plan *plan, const decode_arguments *arguments,
                       sqf_error *err)
{
    return plan->kind == DECODE_BF16 ? dispatch_form<DECODE_BF16>(product, plan, arguments, err)
                                     : dispatch_form<DECODE_FP16>(product, plan, arguments, err);
}

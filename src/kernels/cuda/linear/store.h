/* What becomes of a product, alike in all kernels, and sums over the parts of a split product. */
#ifndef SQF_KERNELS_CUDA_STORE_H
#define SQF_KERNELS_CUDA_STORE_H

#include "kernels/cuda/instructions/common.h"
#include "kernels/cuda/ops.h"

/* One element of y for a finished product p, bias included. */
CUDA_DEVICE void store_product(float *y, float p, sqf_cuda_store store)
{
    if (store == SQF_CUDA_SET) {
        *y = p;
    } else if (store == SQF_CUDA_ADD) {
        *y += p;
    } else {
        *y *= p / (1.0f + expf(-p));
    }
}

#endif

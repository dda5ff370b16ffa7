/* How a product of many tokens on Hopper is handed to wgmma.h's kernels. */
#ifndef SQF_KERNELS_CUDA_WGMMA_CALL_H
#define SQF_KERNELS_CUDA_WGMMA_CALL_H

#include "kernels/cuda/instructions/hopper.h"
#include "kernels/cuda/linear/linear.h"

enum {
    WGMMA_ROWS = 128, /* of a block */
    WGMMA_STEP = 64   /* bytes of a token */
};

/* What a kernel gets. */
struct wgmma_job {
    const uint8_t *tiles;
    const float *scales;          /* [row tiles][segments][16], or NULL: 1 */
    const cuda_segment *segments; /* [segment_count], of section 0, then of section 1 */
    const float *act_scales[2];   /* of a section, [tokens]; not read for halves */
    const float *bias;            /* [rows] or NULL */
    float *y;                     /* [tokens][rows] */
    uint32_t rows, tokens;
    uint32_t row_blocks, token_blocks;
    uint32_t units, low_units;
    uint32_t segment_count, low_segments;
    sqf_cuda_store store;
};

/* A product as wgmma.cu hands it to the files that hold the kernels. */
struct wgmma_call {
    cudaStream_t stream;
    unsigned blocks;
    bool grouped;
    sqf_cuda_form form;
    const wgmma_job *job;
    const cuda_tensor_map *tokens;
};

/* By the elements of the two sections; the form is one that wgmma.cu found among the kernels. */
cudaError_t wgmma_launch_bytes(const wgmma_call *call);
cudaError_t wgmma_launch_fp8(const wgmma_call *call);
cudaError_t wgmma_launch_halves(const wgmma_call *call);
cudaError_t wgmma_launch_bytes_halves(const wgmma_call *call);
cudaError_t wgmma_launch_fp8_halves(const wgmma_call *call);

/* A product by GROUPED or DIRECT kernels. SQF_E_SUPPORT if these do not serve it. */
sqf_status wgmma_run(const cuda_product *product, bool grouped, sqf_error *err);

#endif

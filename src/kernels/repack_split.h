/* Repacking into the SPLIT form (split.h) and products with it; for repack.c and linear.c. */
#ifndef SQF_KERNELS_REPACK_SPLIT_H
#define SQF_KERNELS_REPACK_SPLIT_H

#include "kernels/layout.h"

/* True if both parts of the weights are integers that fit the form, it takes less memory than planes of bytes and
 * nibbles, and all of the input is made of integers. */
bool split_form_serves(const sqf_linear_params *params, const input_layout *layout);

/* The whole matrix as one plane, on the context's threads; weight_planes_clear releases what there is, also after a
 * failure. */
sqf_status split_plane_create(sqf_context *context, const sqf_linear_params *params, const input_layout *layout,
                              weight_plane *out, sqf_error *err);

/* Adds the products of one integer plane of activations with some panels: tokens first_token .., out [tokens]
 * [SQF_BLOCK_ROWS] from the first panel on; `tile` is the thread's scratch of split_scratch_bytes. */
typedef struct split_product {
    const sqf_kernels *kernels;
    const sqf_input *input;
    const weight_plane *plane;
    unsigned act_plane;
    size_t first_panel, panels; /* panels: 1..SQF_BLOCK_PANELS */
    size_t first_token, tokens;
    float *out;
    uint8_t *tile;
} split_product;
void split_product_add(const split_product *self);

/* Scratch of a thread for the expanded weights of a block. */
size_t split_scratch_bytes(const input_layout *layout);

#endif

/* Where 16-byte pieces of a token's activations stand in shared memory so that neither the copies that write them nor
 * the ldmatrix that reads them meet a bank twice: tests/kernels/cuda asks for every access. */
#ifndef SQF_KERNELS_CUDA_SWIZZLE_H
#define SQF_KERNELS_CUDA_SWIZZLE_H

#include "kernels/cuda/linear/layout.h"

/* Rows of 128 bytes: eight rows of one piece, which a phase of ldmatrix reads, lie in eight different pieces. */
SQF_BOTH unsigned swizzle_wide(unsigned row, unsigned piece)
{
    return row * 128 + (piece ^ (row & 7)) * 16;
}

#endif

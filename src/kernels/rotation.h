/* A rotation of the channels of an input at run time: x' = x (M (x) H), M a dense orthogonal factor [K, K], H
 * Sylvester's Hadamard matrix of the power of two n, elements +1 and -1, channels = K n. K = 1 is a plain Hadamard
 * transform, n = 1 a dense matrix; without M (the unit matrix) each of K blocks is transformed alone. The result is
 * sqrt(n) times as long as x: the weights that read it are divided by that, which costs nothing. docs/format.md section
 * 8 */
#ifndef SQF_KERNELS_ROTATION_H
#define SQF_KERNELS_ROTATION_H

#include "base/context.h"
#include "base/memory.h"
#include "kernels/kernels.h"

typedef struct sqf_rotation {
    size_t factor, block; /* K, n; factor 0 = no rotation */
    float *matrix;        /* [K, K] the transpose of M: row j makes output j; owned; NULL = the unit matrix */
} sqf_rotation;

/* matrix [K, K] is M (row i: input i), copied, or NULL. SQF_E_ARG if K does not divide `channels` into a power of two.
 */
sqf_status sqf_rotation_create(size_t channels, size_t factor, const float *matrix, sqf_rotation *out, sqf_error *err);
void sqf_rotation_clear(sqf_rotation *rotation);

/* True if K leaves a power of two. */
bool sqf_rotation_fits(size_t channels, size_t factor);

/* Rows of x [rows, K n] in place, in parallel; the same bits on every level and with any number of threads. Floating
 * point only: finite values of ordinary size stay finite, others are for who reads them to refuse. */
sqf_status sqf_rotation_apply(sqf_context *context, const sqf_rotation *rotation, float *x, size_t rows,
                              sqf_error *err);

/* One row x [K n] in place; scratch: as long. */
void sqf_rotation_row(const sqf_kernels *kernels, const sqf_rotation *rotation, float *x, float *scratch);

#endif

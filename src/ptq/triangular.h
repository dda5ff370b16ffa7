/* Factorization of large symmetric matrices, cut into fixed tiles whose steps run in parallel. */
#ifndef SQF_PTQ_TRIANGULAR_H
#define SQF_PTQ_TRIANGULAR_H

#include <stdbool.h>

#include "base/thread.h"

/* a [n, n] row-major, symmetric, upper triangle read and overwritten by the upper triangular R with R R^T = a: the
 * Cholesky factor of the matrix with rows and columns in reversed order, itself reversed. What is below the diagonal is
 * left alone. Returns false if a is not positive definite (or holds a NaN); the triangle is undefined then.
 * n^3/3 operations, results independent of the number of threads. */
bool sqf_cholesky_reversed(sqf_pool *pool, float *a, size_t n);

/* The upper triangle of a [n, n] becomes its inverse, in place. Diagonal elements are not 0. n^3/3 operations. */
void sqf_upper_invert(sqf_pool *pool, float *a, size_t n);

#endif

/* Weights that compensate errors of their input. docs/algorithms.md, "Errors of the input"
 *
 * GPTQ takes a layer's input as given and spreads the rounding errors of weights alone. But the layer will read q(x),
 * the input after its own quantization and after the errors of all layers before, where it should have read x*. The
 * weights that serve best, min over W' of sum ||W x* - W' q(x)||^2, are W + W (C - H) H^-1 with
 * H = (2/T) sum q(x) q(x)^T and C = (2/T) sum x* q(x)^T; GPTQ then rounds those with H as its Hessian. */
#ifndef SQF_PTQ_CORRECT_H
#define SQF_PTQ_CORRECT_H

#include "ptq/algorithm.h"

/* The two moments of one input of K channels, in the original channel order. */
typedef struct sqf_correction {
    sqf_statistics quantized; /* of q(x); its Hessian is H */
    float *cross;             /* [K, K] sum of x* q(x)^T while adding; C after finish, C (C - H) H^-1 after solve */
} sqf_correction;

sqf_status sqf_correction_create(size_t channels, sqf_correction *out, sqf_error *err);
void sqf_correction_clear(sqf_correction *correction);
/* wanted = x*, quantized = q(x), both [tokens, K]. */
sqf_status sqf_correction_add(sqf_context *context, sqf_correction *correction, const float *wanted,
                              const float *quantized, size_t tokens, sqf_error *err);
void sqf_correction_finish(sqf_context *context, sqf_correction *correction);

/* cross becomes (C - H) (H + lambda I)^-1. `factor` is that of correction->quantized.hessian in the stored order that
 * `channels` (NULL = original) gives. Once. SQF_E_MEMORY. */
sqf_status sqf_correction_solve(sqf_context *context, sqf_correction *correction, const sqf_factor *factor,
                                const int32_t *channels, sqf_error *err);

/* After solve: weights [rows, K] += weights * cross. */
sqf_status sqf_correction_apply(sqf_context *context, const sqf_correction *correction, float *weights, size_t rows,
                                sqf_error *err);

#endif

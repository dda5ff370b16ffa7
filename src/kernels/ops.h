/* The rest of the forward pass in float32. Every operation is deterministic and independent of the number of threads.
 */
#ifndef SQF_KERNELS_OPS_H
#define SQF_KERNELS_OPS_H

#include <sqf/format.h>

#include "base/context.h"

/* y[r, i] = gain[i] * x[r, i] / sqrt(mean_i(x^2) + epsilon), rows in parallel; y may be x. */
void sqf_rmsnorm(sqf_context *context, const float *x, const float *gain, float epsilon, size_t rows, size_t n,
                 float *y);

/* Rotary embedding in Hugging Face's order (halves of a head, not neighbours), in place.
 * x [tokens, heads, head_dim]; cosine, sine [tokens, head_dim / 2]. */
void sqf_rope_apply(sqf_context *context, float *x, const float *cosine, const float *sine, size_t tokens, size_t heads,
                    size_t head_dim);

/* y = silu(gate) * up over n elements; y may be gate. */
void sqf_silu_mul(sqf_context *context, const float *gate, const float *up, size_t n, float *y);

/* x += y over n elements. */
void sqf_add(sqf_context *context, float *x, const float *y, size_t n);

/* y[i] = float of n stored elements of type FP32, BF16 or FP16. `from` needs no alignment. */
void sqf_to_float(sqf_type type, const void *from, size_t n, float *y);

/* Log-probability of `target` and, if not NULL, log-probabilities of all n: float32 in, float64 inside. */
double sqf_log_softmax(const float *logits, size_t n, size_t target, double *all);

/* The factor that makes factor * b closest to a: (a . b) / (b . b), in float64. 1 where b is zero or points the other
 * way: a smoothing factor is positive, and anything else is an error to be shown, not to be fitted away. */
float sqf_fitted_factor(const float *a, const float *b, size_t n);

#endif

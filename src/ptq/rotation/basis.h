/* Bases of one input: columns of an orthogonal matrix [n, n] are its channels in terms of the old ones. */
#ifndef SQF_PTQ_ROTATION_BASIS_H
#define SQF_PTQ_ROTATION_BASIS_H

#include <sqf/quantize.h>

#include "base/error.h"

/* Hadamard with random signs, or random. */
sqf_status sqf_basis_fill(sqf_rotate_part kind, size_t n, uint64_t seed, double *out, sqf_error *err);

/* Principal components: of covariance [n, n] (symmetric, any scale) the components with the largest variance fill the
 * channels that a static mask of this shape can hold high, the last ones of each bank, and the others the low ones;
 * each part is mixed by a random rotation, so that its channels are alike. Without a high part that leaves a random
 * basis. ResQ (arXiv 2412.14363) holds the components high in one block; here they are spread over the banks' quotas.
 */
sqf_status sqf_basis_principal(const sqf_act_spec *act, size_t n, const float *covariance, uint64_t seed, double *out,
                               sqf_error *err);

/* order [n]: the channels that the banks can hold low, ascending, then those that they can hold high; returns how many
 * are low: n where the activations are not split. */
size_t sqf_basis_places(const sqf_act_spec *act, size_t n, int32_t *order);

#endif

/* The rotation between the residual streams of two models, from their embeddings. */
#ifndef SQF_DIAGNOSE_BASIS_H
#define SQF_DIAGNOSE_BASIS_H

#include "model/model.h"

/* *out [hidden, hidden] with E_quantized = E_original * basis in the least squares sense, for free(); NULL where it
 * cannot be found: fewer tokens than channels, dependent channels, or no orthogonal matrix to 1 %. */
sqf_status sqf_basis_between(const sqf_model *original, const sqf_model *quantized, float **out, sqf_error *err);

#endif

/* A basis of the residual stream learned from calibration text. */
#ifndef SQF_PTQ_ROTATION_LEARN_H
#define SQF_PTQ_ROTATION_LEARN_H

#include "ptq/rotation/collect.h"

/* What is minimised: over all samples the squared error that the scheme's activations would make of the input in this
 * basis (for a static mask with the channels of sqf_basis_places high), each input weighted by how much of its outputs
 * such an error is. SpinQuant (arXiv 2405.16406) minimises the loss of the whole quantized network by backpropagation;
 * this objective is local to the inputs, sees no weights' errors and no interplay of layers, and needs no gradients
 * through the model. */
typedef struct sqf_learning {
    unsigned steps;
    double before, after; /* the objective on the batch that is not learned from */
} sqf_learning;

/* Gradient steps on the manifold of orthogonal matrices from basis [hidden, hidden], which receives the best found.
 * Rounding counts as the identity (straight through), so that an error grows with its scale alone; the maximum that
 * makes the scale is smoothed. SQF_E_ARG if the activations are not integers. */
sqf_status sqf_basis_learn(sqf_context *context, const sqf_act_spec *act, const sqf_stream_sample *sample,
                           double *basis, sqf_learning *learning, sqf_error *err);

#endif

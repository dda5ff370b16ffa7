/* The parts of a sampler that drawing on a device needs: the host draws the random numbers, the device the tokens, so
 * that a seed gives the same text on both where the logits agree. */
#ifndef SQF_MODEL_SAMPLER_H
#define SQF_MODEL_SAMPLER_H

#include <sqf/model.h>

/* The next uniform number in [0, 1): the one that sqf_sampler_draw would use. Greedy drawing uses none. */
double sqf_sampler_unit(sqf_sampler *sampler);

/* What it was created with. */
const sqf_sampling *sqf_sampler_sampling(const sqf_sampler *sampler);

/* [vocabulary] which tokens were accepted, one byte each (1 = seen); valid as long as the sampler. */
const bool *sqf_sampler_seen(const sqf_sampler *sampler);

#endif

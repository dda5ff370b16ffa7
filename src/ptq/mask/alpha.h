/* Smoothing's alpha, searched for one input. */
#ifndef SQF_PTQ_MASK_ALPHA_H
#define SQF_PTQ_MASK_ALPHA_H

#include "model/modules.h"
#include "ptq/mask/mask.h"

/* An input before smoothing and the quantized matrices that read it. */
typedef struct sqf_alpha_search {
    const sqf_statistics *statistics; /* finished, with a Hessian; with sampled tokens, or the weights alone decide */
    const float *const *weights;
    const size_t *rows;
    const sqf_module_recipe *const *recipes; /* [count] */
    size_t count;
    bool clip;                                       /* clipping ratios will be searched */
    void (*share)(const void *user, float *factors); /* changes factors where fewer can be folded; NULL = not */
    const void *user;
} sqf_alpha_search;

/* The alpha among 0.2, 0.3 .. 0.9 with the least sum of two relative output errors: of the activations on the sampled
 * tokens, with the mask by norms, and of the weights rounded to nearest. factors [channels] are those of
 * sqf_smooth_factors. Ties go to the smaller alpha. Memory: one more copy of the weights and of the statistics. */
sqf_status sqf_alpha_find(sqf_context *context, const sqf_alpha_search *search, float *factors, float *alpha,
                          sqf_error *err);

#endif

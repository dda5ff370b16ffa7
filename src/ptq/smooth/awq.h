/* Smoothing factors searched for the weights' sake, as in AWQ (arXiv 2306.00978). docs/algorithms.md */
#ifndef SQF_PTQ_SMOOTH_AWQ_H
#define SQF_PTQ_SMOOTH_AWQ_H

#include "ptq/algorithm.h"

/* What reads one input, and how it will be quantized. */
typedef struct awq_search {
    const sqf_statistics *statistics; /* of the input before smoothing, finished, with a Hessian */
    const float *const *weights;      /* [count] [rows, channels] */
    const size_t *rows;
    const sqf_module_recipe *const *recipes; /* [count] the scheme's weights, `clip` and `importance` are used */
    size_t count;
} awq_search;

/* Factors t_j = mean|x_j|^alpha, scaled so that the smallest times the largest is 1, for the alpha among 0, 0.05 ..
 * 0.95 with the least output error of weights rounded to nearest: the sum over the matrices of the relative error on
 * the calibration inputs, tr((W - W') H (W - W')^T) / tr(W H W^T). share (may be NULL) changes factors before each
 * trial, where what produces the input allows fewer of them. Matrices that stay dense are passed with a recipe of NULL
 * and do not count. factors [channels]; *alpha receives the exponent. Ties go to the smaller one. */
sqf_status awq_factors(sqf_context *context, const awq_search *search, void (*share)(const void *user, float *factors),
                       const void *user, float *factors, float *alpha, sqf_error *err);

#endif

/* The algorithms of post-training quantization on one matrix and the statistics of one input.
 * Steps are separate and each can be tested alone; the pipeline strings them together. Source: docs/algorithms.md;
 * docs/format.md sections 4 and 5. All results are independent of the number of threads. */
#ifndef SQF_PTQ_ALGORITHM_H
#define SQF_PTQ_ALGORITHM_H

#include <sqf/quantize.h>

#include "base/context.h"
#include "format/matrix.h"

/* What calibration knows about one input of K channels. */
typedef struct sqf_statistics {
    size_t channels;
    uint64_t tokens;
    float *hessian;  /* [K, K] sum of x x^T while adding; (2/T) sum x x^T, symmetric and full, after finish; or NULL */
    float *max_abs;  /* [K] max |x_j| */
    float *lowest;   /* [K] min x_j, at most 0 */
    float *largest;  /* [K] max x_j, at least 0 */
    double *sum_abs; /* [K] */
    double *sum;     /* [K] */
    double *sum_square; /* [K] */
    float *sample;      /* [sample_tokens, K] tokens that were kept, evenly spaced; NULL unless asked for */
    size_t sample_tokens, sample_room;
    uint64_t sample_span; /* tokens over which they are spread */
} sqf_statistics;

sqf_status sqf_statistics_create(size_t channels, bool hessian, sqf_statistics *out, sqf_error *err);
void sqf_statistics_clear(sqf_statistics *statistics);
/* Before the first token: keep `room` of the `span` tokens to come, evenly spaced, or all if there are fewer. They take
 * room * K floats and are smoothed with the rest. */
sqf_status sqf_statistics_keep(sqf_statistics *statistics, size_t room, uint64_t span, sqf_error *err);
/* A copy, created. */
sqf_status sqf_statistics_copy(const sqf_statistics *from, sqf_statistics *to, sqf_error *err);
/* x [tokens, K]. BLAS on fixed tiles, tiles in parallel. */
sqf_status sqf_statistics_add(sqf_context *context, sqf_statistics *statistics, const float *x, size_t tokens,
                              sqf_error *err);
void sqf_statistics_finish(sqf_context *context, sqf_statistics *statistics);
/* For whoever adds up elsewhere: whether the token at this place of all tokens goes into the sample, and SQF_E_VALUE
 * for a channel whose sum of squares is not finite. */
bool sqf_statistics_keeps(const sqf_statistics *statistics, uint64_t place);
sqf_status sqf_statistics_check(const double *sum_square, size_t channels, sqf_error *err);
/* After finish: the statistics of x / t for smoothing factors t [K]. */
void sqf_statistics_smooth(sqf_context *context, sqf_statistics *statistics, const float *factors);

/* SmoothQuant factors of one input: t_j = max|A_j|^alpha / max_n|W_nj|^(1-alpha) over all matrices that read it;
 * weights [count] matrices of rows [count] x K. A channel whose activation or weight maximum is 0 gets 1; t is kept
 * within 1e-5 .. 1e5. */
sqf_status sqf_smooth_factors(const sqf_statistics *statistics, const float *const *weights, const size_t *rows,
                              size_t count, float alpha, float *factors, sqf_error *err);

/* Static activation mask of one input from smoothed statistics and smoothed weights (stacked, as above):
 * channels [K] = stored order (low channels ascending, then high channels ascending), *border = number of low ones. */
sqf_status sqf_activation_mask(const sqf_statistics *statistics, const sqf_act_spec *spec, sqf_mask_score score,
                               const float *const *weights, const size_t *rows, size_t count, uint64_t seed,
                               int32_t *channels, size_t *border, sqf_error *err);

/* The factor of a damped Hessian: U upper triangular with U^T U = (H + lambda I)^-1. */
typedef struct sqf_factor {
    size_t channels;
    float *upper;            /* [K, K] row-major, zero below the diagonal */
    float *inverse_diagonal; /* [K] diag of (H + lambda I)^-1 */
    float *hessian_diagonal; /* [K] diag of H before damping */
    uint8_t *dead;           /* [K] 1 = the channel was never active; its weights become 0 */
    double damping;          /* the fraction of mean(diag H) that was used; larger than asked if Cholesky failed */
    unsigned retries;
    uint64_t resident; /* which of an engine's factors this is, where it keeps a copy; 0 = none */
} sqf_factor;

/* Who inverts: a [n, n] row-major, upper triangle read, becomes U with U^T U = a^-1, zero below the diagonal. *positive
 * = false where a is not positive definite. */
typedef struct sqf_factor_solver {
    sqf_status (*solve)(void *user, float *a, size_t n, bool *positive, sqf_error *err);
    void *user;
} sqf_factor_solver;

/* hessian [K, K] full symmetric in the ORIGINAL order (not changed); channels [K] or NULL permutes it (stored order).
 * lambda = damping * mean(diag H) over all K channels; a dead channel (diagonal 0) gets the diagonal 1 + lambda.
 * One Cholesky in reversed order and one triangular inverse; blocked, tiles in parallel. Where that fails it raises the
 * damping tenfold (0 becomes 0.01) up to three times and logs each as a warning; then SQF_E_VALUE naming `name`. */
sqf_status sqf_factor_create(sqf_context *context, const char *name, const float *hessian, size_t channel_count,
                             const int32_t *channels, double damping, sqf_factor *out, sqf_error *err);
/* The same with another solver. */
sqf_status sqf_factor_create_by(sqf_context *context, const sqf_factor_solver *solver, const char *name,
                                const float *hessian, size_t channel_count, const int32_t *channels, double damping,
                                sqf_factor *out, sqf_error *err);
void sqf_factor_clear(sqf_factor *factor);

typedef struct sqf_matrix_job {
    const char *name; /* for messages */
    sqf_weight_spec spec;
    const float *weights; /* [rows, columns] original channel order, smoothed; not changed */
    const void *stored; /* sqf_matrix_round, where weights is NULL: the same as a checkpoint has them, any alignment */
    sqf_type stored_type; /* of `stored`: bf16, fp16 or fp32 */
    size_t rows, columns, border;
    const int32_t *channels;  /* stored order, or NULL */
    const sqf_factor *factor; /* stored order; NULL = no calibration (then compensate must be NONE) */
    const float *input_norm;  /* [columns] ||x_j||_2, original order, for Wanda; may be NULL otherwise */
    const float *hessian;     /* [columns, columns] original order, to measure the output error; may be NULL */
    sqf_importance importance;
    sqf_prune prune;
    sqf_compensate compensate;
    sqf_clip clip;
    uint64_t seed; /* random importance; results depend on (seed, name, row), not on threads */
    /* Where the weights are some rows of a larger matrix, so that its parts together are what it would be whole: */
    size_t first_row; /* of these in it */
    float largest;    /* magnitude in it, for the units of fp8 scales; 0 = that of these weights */
} sqf_matrix_job;

typedef struct sqf_matrix_result {
    double weight_error;                 /* ||W - W'||^2 / ||W||^2 */
    double output_error;                 /* tr((W-W') H (W-W')^T) / tr(W H W^T); NaN without a Hessian */
    double weight_square, output_square; /* what the two are relative to; 0 = not measured */
} sqf_matrix_result;

/* Algorithm 1 (and GPTQ, RTN, SparseGPT, Wanda as its special cases): quantizes a matrix into stored form. `out` is
 * created, and empty after a failure; result may be NULL. Blocks of rows in parallel, each thread with a workspace of
 * about 1.2 kB a column. Choices that the specification leaves open:
 *  - with a low type, masks of all banks of a group and its scales are chosen on entering the group; with low = none
 * its scale on entering the group, from all of its weights, and each mask on entering the bank. All from weights that
 *    carry the errors of every column before;
 *  - `gain` ranks with the scales that the masks by `obs` would give the group;
 *  - without a factor `obs`, `hinv` and `sparsegpt` rank by magnitude, `gain` by the error saved alone;
 *  - the search of clip = mse weights errors with diag(H), without a factor all alike.
 * SQF_E_VALUE: NaN or infinity in weights (tensor, row and column are named), or compensated weights that overflow;
 * SQF_E_ARG: GPTQ without a factor, Wanda without norms; SQF_E_SHAPE: a factor of another width. */
sqf_status sqf_matrix_quantize(sqf_context *context, const sqf_matrix_job *job, sqf_matrix *out,
                               sqf_matrix_result *result, sqf_error *err);

/* True if sqf_matrix_round can do what is asked: nothing in it needs calibration or a search. */
bool sqf_matrix_rounds(const sqf_weight_spec *spec, sqf_importance importance, sqf_prune prune, sqf_clip clip);

/* Rounding to nearest without calibration at the speed of memory: what sqf_matrix_quantize makes of the same weights,
 * bit for bit, from floats or straight from a checkpoint's elements. Blocks of rows in parallel; beside the result each
 * thread holds one row (19 bytes a column). The job must have no factor, Hessian, channel list or compensation.
 * SQF_E_ARG where it has, or where sqf_matrix_rounds says no; SQF_E_VALUE as sqf_matrix_quantize. */
sqf_status sqf_matrix_round(sqf_context *context, const sqf_matrix_job *job, sqf_matrix *out, sqf_matrix_result *result,
                            sqf_error *err);

/* The output error that a search of smoothing factors goes by: the matrix rounded to nearest with the recipe's scheme
 * and `clip`, pruned by magnitude. `job` says weights, shape, border, channels, Hessian and importance; its name,
 * spec, prune, compensate and clip are filled in here. */
sqf_status sqf_matrix_trial_error(sqf_context *context, sqf_matrix_job job, const sqf_module_recipe *recipe,
                                  double *error, sqf_error *err);

#endif

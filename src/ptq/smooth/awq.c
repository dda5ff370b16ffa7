/* The search of AWQ: a few exponents, each tried by rounding the scaled weights and measuring the output error on the
 * calibration statistics. No inputs are kept: with H the error of a linear layer is exact without them. */
#include "ptq/smooth/awq.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

enum { ALPHA_STEPS = 20 };

/* Factors beyond these bounds would push half floats of a folded norm out of range. */
static const double factor_min = 1e-4, factor_max = 1e4;

/* Memory of the search. */
typedef struct awq_work {
    float *weights; /* [most rows, channels] scaled */
    float *hessian; /* [channels, channels] of the scaled input */
    float *trial;   /* [channels] factors */
} awq_work;

static void trial_factors(const sqf_statistics *statistics, double alpha, float *factors)
{
    const size_t n = statistics->channels;
    const double tokens = statistics->tokens ? (double)statistics->tokens : 1.0;
    double least = INFINITY, most = 0.0;
    for (size_t j = 0; j < n; j++) {
        const double mean = statistics->sum_abs[j] / tokens;
        const double t = mean > 0.0 ? fmin(fmax(pow(mean, alpha), factor_min), factor_max) : 1.0;
        least = fmin(least, t);
        most = fmax(most, t);
        factors[j] = (float)t;
    }
    for (size_t j = 0; j < n; j++) {
        factors[j] = (float)((double)factors[j] / sqrt(least * most));
    }
}

static void scale_inputs(const sqf_statistics *statistics, const float *factors, float *hessian)
{
    const size_t n = statistics->channels;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            hessian[i * n + j] = statistics->hessian[i * n + j] / factors[i] / factors[j];
        }
    }
}

static void scale_columns(const float *weights, size_t rows, size_t columns, const float *factors, float *out)
{
    for (size_t n = 0; n < rows; n++) {
        for (size_t j = 0; j < columns; j++) {
            out[n * columns + j] = weights[n * columns + j] * factors[j];
        }
    }
}

/* The relative output error of one matrix under the factors, rounded to nearest. Pruning looks at magnitudes. */
static sqf_status matrix_error(sqf_context *context, const awq_search *search, size_t i, const awq_work *work,
                               const float *factors, double *error, sqf_error *err)
{
    const size_t columns = search->statistics->channels;
    scale_columns(search->weights[i], search->rows[i], columns, factors, work->weights);
    const sqf_matrix_job job = {.weights = work->weights,
                                .rows = search->rows[i],
                                .columns = columns,
                                .border = columns,
                                .hessian = work->hessian,
                                .importance = search->recipes[i]->importance};
    return sqf_matrix_trial_error(context, job, search->recipes[i], error, err);
}

static sqf_status trial_error(sqf_context *context, const awq_search *search, const awq_work *work, double *sum,
                              sqf_error *err)
{
    scale_inputs(search->statistics, work->trial, work->hessian);
    *sum = 0.0;
    for (size_t i = 0; i < search->count; i++) {
        double error = 0.0;
        if (search->recipes[i]) {
            SQF_TRY(matrix_error(context, search, i, work, work->trial, &error, err));
        }
        *sum += error;
    }
    return SQF_OK;
}

static void work_clear(awq_work *work)
{
    free(work->weights);
    free(work->hessian);
    free(work->trial);
}

static sqf_status work_create(const awq_search *search, awq_work *work, sqf_error *err)
{
    const size_t n = search->statistics->channels;
    size_t most = 0;
    for (size_t i = 0; i < search->count; i++) {
        most = search->rows[i] > most ? search->rows[i] : most;
    }
    /* these products exist in memory already */
    SQF_TRY(SQF_ALLOC(&work->weights, most * n, "scaled weights", err));
    SQF_TRY(SQF_ALLOC(&work->hessian, n * n, "a scaled Hessian", err));
    return SQF_ALLOC(&work->trial, n, "smoothing factors", err);
}

sqf_status awq_factors(sqf_context *context, const awq_search *search, void (*share)(const void *user, float *factors),
                       const void *user, float *factors, float *alpha, sqf_error *err)
{
    const size_t n = search->statistics->channels;
    awq_work work = {0};
    sqf_status status = work_create(search, &work, err);
    double least = INFINITY;
    for (int step = 0; status == SQF_OK && step < ALPHA_STEPS; step++) {
        double error;
        trial_factors(search->statistics, (double)step / ALPHA_STEPS, work.trial);
        if (share) {
            share(user, work.trial);
        }
        status = trial_error(context, search, &work, &error, err);
        if (status == SQF_OK && (step == 0 || error < least)) {
            least = error;
            *alpha = (float)step / ALPHA_STEPS;
            memcpy(factors, work.trial, n * sizeof *factors);
        }
    }
    work_clear(&work);
    return status;
}

/* Smoothing's alpha by the output error that the activations and the weights make together. docs/algorithms.md */
#include "ptq/mask/alpha.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* Alphas are tried from FIRST to LAST in tenths. */
enum { FIRST = 2, LAST = 9 };

/* The input and its readers under one alpha. */
typedef struct trial {
    float *factors; /* [channels] */
    float *weights[SQF_LINEAR_COUNT];
    sqf_statistics statistics;
    int32_t *order;
} trial;

static void trial_clear(trial *t)
{
    free(t->factors);
    free(t->order);
    for (size_t i = 0; i < SQF_LINEAR_COUNT; i++) {
        free(t->weights[i]);
    }
    sqf_statistics_clear(&t->statistics);
}

static sqf_status trial_create(const sqf_alpha_search *search, trial *t, sqf_error *err)
{
    const size_t n = search->statistics->channels;
    *t = (trial){0};
    SQF_TRY(SQF_ALLOC(&t->factors, n, "smoothing factors", err));
    SQF_TRY(SQF_ALLOC(&t->order, n, "channels", err));
    for (size_t i = 0; i < search->count; i++) {
        SQF_TRY(SQF_ALLOC(&t->weights[i], search->rows[i] * n, "scaled weights", err)); /* as large as the originals */
    }
    return SQF_OK;
}

static sqf_status trial_smooth(sqf_context *context, const sqf_alpha_search *search, float alpha, trial *t,
                               sqf_error *err)
{
    const size_t n = search->statistics->channels;
    SQF_TRY(
        sqf_smooth_factors(search->statistics, search->weights, search->rows, search->count, alpha, t->factors, err));
    if (search->share) {
        search->share(search->user, t->factors);
    }
    for (size_t m = 0; m < search->count; m++) {
        for (size_t i = 0; i < search->rows[m] * n; i++) {
            t->weights[m][i] = search->weights[m][i] * t->factors[i % n];
        }
    }
    sqf_statistics_clear(&t->statistics);
    SQF_TRY(sqf_statistics_copy(search->statistics, &t->statistics, err));
    sqf_statistics_smooth(context, &t->statistics, t->factors);
    return SQF_OK;
}

/* Relative error of the outputs by the activations, with the mask by norms and searched clipping ratios. */
static sqf_status activation_error(sqf_context *context, const sqf_alpha_search *search, trial *t, size_t *border,
                                   double *error, sqf_error *err)
{
    const sqf_module_recipe *recipe = search->recipes[0];
    sqf_act_spec act = recipe->scheme.activations;
    sqf_output_error measure;
    const bool masked = sqf_act_spec_is_split(&act) && act.mask == SQF_MASK_STATIC;
    const sqf_mask_input input = {.context = context,
                                  .statistics = &t->statistics,
                                  .weights = (const float *const *)t->weights,
                                  .rows = search->rows,
                                  .count = search->count,
                                  .weight_group = recipe->scheme.weights.group};
    const sqf_mask_wishes wishes = {.score = SQF_MASK_SCORE_L2, .search_clip = search->clip};
    *border = t->statistics.channels;
    *error = 0.0;
    if (sqf_act_spec_is_float(&act) || act.mask == SQF_MASK_DYNAMIC || t->statistics.sample_tokens == 0 ||
        (act.scale == SQF_ACT_STATIC && act.zero != SQF_ACT_ZERO_NONE)) {
        return SQF_OK; /* not measured: the weights decide */
    }
    SQF_TRY(sqf_mask_choose(&input, &wishes, &act, t->order, border, err));
    SQF_TRY(sqf_output_error_create(&input, SQF_MASK_SAMPLE, &measure, err));
    const sqf_status status = sqf_output_error_measure(&measure, &act, masked ? t->order : NULL, *border, error, err);
    sqf_output_error_clear(&measure);
    return status;
}

/* Mean relative error of the outputs by weights rounded to nearest. */
static sqf_status weight_error(sqf_context *context, const sqf_alpha_search *search, const trial *t, size_t border,
                               double *error, sqf_error *err)
{
    *error = 0.0;
    for (size_t i = 0; i < search->count; i++) {
        const sqf_matrix_job job = {.weights = t->weights[i],
                                    .rows = search->rows[i],
                                    .columns = t->statistics.channels,
                                    .border = border,
                                    .channels = border < t->statistics.channels ? t->order : NULL,
                                    .hessian = t->statistics.hessian,
                                    .importance = SQF_IMPORTANCE_MAGNITUDE};
        double one;
        SQF_TRY(sqf_matrix_trial_error(context, job, search->recipes[i], &one, err));
        *error += one / (double)search->count;
    }
    return SQF_OK;
}

sqf_status sqf_alpha_find(sqf_context *context, const sqf_alpha_search *search, float *factors, float *alpha,
                          sqf_error *err)
{
    trial t;
    double least = INFINITY;
    sqf_status status = trial_create(search, &t, err);
    for (int step = FIRST; step <= LAST && status == SQF_OK; step++) {
        double activations = 0.0, weights = 0.0;
        size_t border = 0;
        status = trial_smooth(context, search, (float)step / 10, &t, err);
        status = status == SQF_OK ? activation_error(context, search, &t, &border, &activations, err) : status;
        status = status == SQF_OK ? weight_error(context, search, &t, border, &weights, err) : status;
        if (status == SQF_OK && activations + weights < least) {
            least = activations + weights;
            *alpha = (float)step / 10;
            memcpy(factors, t.factors, search->statistics->channels * sizeof *factors);
        }
    }
    trial_clear(&t);
    return status;
}

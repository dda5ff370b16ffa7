/* SmoothQuant: how much of each channel's range moves from the activations into the weights. */
#include <math.h>

#include "base/memory.h"
#include "ptq/algorithm.h"

/* Factors beyond these bounds would push half floats of a folded norm out of range. */
static const double factor_min = 1e-5, factor_max = 1e5;

/* largest[j] = max over all matrices and rows of |W_nj| */
static void column_maxima(const float *const *weights, const size_t *rows, size_t count, size_t channels,
                          float *largest)
{
    for (size_t m = 0; m < count; m++) {
        for (size_t n = 0; n < rows[m]; n++) {
            const float *row = weights[m] + n * channels;
            for (size_t j = 0; j < channels; j++) {
                const float magnitude = fabsf(row[j]);
                largest[j] = magnitude > largest[j] ? magnitude : largest[j];
            }
        }
    }
}

static float factor_of(float activation, float weight, float alpha)
{
    if (!(activation > 0.0f) || !(weight > 0.0f)) {
        return 1.0f;
    }
    const double t = pow((double)activation, (double)alpha) / pow((double)weight, 1.0 - (double)alpha);
    return (float)fmin(fmax(t, factor_min), factor_max);
}

sqf_status sqf_smooth_factors(const sqf_statistics *statistics, const float *const *weights, const size_t *rows,
                              size_t count, float alpha, float *factors, sqf_error *err)
{
    float *largest;
    SQF_TRY(SQF_ALLOC(&largest, statistics->channels, "column maxima", err));
    column_maxima(weights, rows, count, statistics->channels, largest);
    for (size_t j = 0; j < statistics->channels; j++) {
        factors[j] = factor_of(statistics->max_abs[j], largest[j], alpha);
    }
    free(largest);
    return SQF_OK;
}

/* Bootstrap over items, and McNemar's exact test. */
#include "tasks/statistics.h"

#include <math.h>

#include "base/random.h"

sqf_status sqf_bootstrap_means(const double *values, size_t n, size_t columns, size_t resamples, uint64_t seed,
                               double **means, sqf_error *err)
{
    size_t room;
    *means = NULL;
    if (!sqf_mul_size(&room, columns, resamples)) {
        return sqf_fail(err, SQF_E_MEMORY, "bootstrap: %zu resamples are too many", resamples);
    }
    SQF_TRY(SQF_ALLOC(means, room, "bootstrap", err));
    sqf_random random = {.state = seed};
    for (size_t r = 0; r < resamples; r++) {
        double *mean = *means + r * columns;
        for (size_t i = 0; i < n; i++) {
            const double *item = values + sqf_random_below(&random, n) * columns;
            for (size_t c = 0; c < columns; c++) {
                mean[c] += item[c];
            }
        }
        for (size_t c = 0; c < columns; c++) {
            mean[c] /= (double)n;
        }
    }
    return SQF_OK;
}

double sqf_deviation(const double *x, size_t n, size_t stride)
{
    if (n < 2) {
        return 0;
    }
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i * stride];
    }
    const double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) {
        squares += (x[i * stride] - mean) * (x[i * stride] - mean);
    }
    return sqrt(squares / (double)(n - 1));
}

/* Twice the smaller tail of the binomial distribution with p = 1/2, term by term in logarithms. */
double sqf_mcnemar(size_t gained, size_t lost)
{
    const double n = (double)(gained + lost);
    const size_t least = gained < lost ? gained : lost;
    double tail = 0;
    for (size_t k = 0; k <= least; k++) {
        tail += exp(lgamma(n + 1) - lgamma((double)k + 1) - lgamma(n - (double)k + 1) - n * log(2));
    }
    return 2 * tail < 1 ? 2 * tail : 1;
}

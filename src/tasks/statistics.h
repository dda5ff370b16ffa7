/* Errors of means over items, and whether two models differ. */
#ifndef SQF_TASKS_STATISTICS_H
#define SQF_TASKS_STATISTICS_H

#include "base/memory.h"

/* Means of resampled items: means[r * columns + c] is the mean of column c in resample r. All columns of a resample
 * are of the same items, so that differences of columns are paired. values [n, columns]; n >= 1. */
sqf_status sqf_bootstrap_means(const double *values, size_t n, size_t columns, size_t resamples, uint64_t seed,
                               double **means, sqf_error *err);

/* Standard deviation with n - 1 of every `stride`-th number; 0 if n < 2. */
double sqf_deviation(const double *x, size_t n, size_t stride);

/* McNemar's exact test: how probable is it that `gained` of gained + lost coins, or something as uneven, fall on one
 * side? Two-sided; 1 if there are none. */
double sqf_mcnemar(size_t gained, size_t lost);

#endif

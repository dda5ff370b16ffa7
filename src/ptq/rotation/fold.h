/* Products of weights with rotations, in blocks on all threads. */
#ifndef SQF_PTQ_ROTATION_FOLD_H
#define SQF_PTQ_ROTATION_FOLD_H

#include <stddef.h>

#include "base/context.h"
#include "base/error.h"

/* weights [rows, n] <- weights diag(gain) basis, in place; gain [n] or NULL. */
sqf_status sqf_fold_columns(sqf_context *context, float *weights, size_t rows, size_t n, const float *gain,
                            const float *basis, sqf_error *err);

/* *weights [n, columns] <- basis^T weights; the array is replaced. bias [n] <- bias basis, or NULL. */
sqf_status sqf_fold_rows(sqf_context *context, float **weights, size_t n, size_t columns, float *bias,
                         const float *basis, sqf_error *err);

/* The same for `heads` blocks of `width` channels, each with a basis of its own: bases [heads / shared, width, width],
 * head h turned by basis h / shared. */
sqf_status sqf_fold_head_columns(sqf_context *context, float *weights, size_t rows, size_t heads, size_t shared,
                                 size_t width, const float *bases, sqf_error *err);
sqf_status sqf_fold_head_rows(sqf_context *context, float **weights, size_t columns, size_t heads, size_t width,
                              float *bias, const float *bases, sqf_error *err);

#endif

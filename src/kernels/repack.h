/* Repacking of weights: what the general path (repack.c) and the one for integers (repack_integer.c) share. */
#ifndef SQF_KERNELS_REPACK_H
#define SQF_KERNELS_REPACK_H

#include "kernels/layout.h"

/* What the tasks of a matrix share; a task is a panel. */
typedef struct repack_job {
    const sqf_linear_params *params;
    const input_layout *layout;
    weight_plane *planes; /* with memory of arbitrary contents; every byte is written */
    size_t plane_count;
    bool one_grid;       /* both parts make one plane: low * 2^shift has the units of the high part */
    bool is_high[PARTS]; /* which part a plane holds */
} repack_job;

/* Row of the stored matrix that output n is. */
static inline size_t repack_source_row(const repack_job *job, size_t n)
{
    return job->params->row_order ? (size_t)job->params->row_order[n] : n;
}

/* True if all planes are nibbles or bytes: then integers can go from their codes to the planes without a detour over
 * floats. The result is the same, bit for bit. */
bool repack_integers_serve(const repack_job *job);

/* Fills the planes on the context's threads. SQF_E_MEMORY. */
sqf_status repack_integers(sqf_context *context, const repack_job *job, sqf_error *err);

#endif

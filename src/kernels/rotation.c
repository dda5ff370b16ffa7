/* Rotations of inputs at run time. A row is K blocks of n channels: each block goes through the fast Hadamard
 * transform, then the blocks are mixed by the factor; both are the kernels' own, so that all levels agree bit for bit.
 */
#include "kernels/rotation.h"

#include <string.h>

#include "kernels/kernels.h"

enum { TASK_ELEMENTS = 1 << 14 };

bool sqf_rotation_fits(size_t channels, size_t factor)
{
    if (factor == 0 || channels % factor != 0) {
        return false;
    }
    const size_t block = channels / factor;
    return (block & (block - 1)) == 0;
}

sqf_status sqf_rotation_create(size_t channels, size_t factor, const float *matrix, sqf_rotation *out, sqf_error *err)
{
    size_t elements;
    *out = (sqf_rotation){0};
    if (!sqf_rotation_fits(channels, factor) || !sqf_mul_size(&elements, factor, factor)) {
        return sqf_fail(err, SQF_E_ARG, "rotation of %zu channels: factor %zu does not leave a power of two", channels,
                        factor);
    }
    if (matrix) {
        SQF_TRY(SQF_ALLOC(&out->matrix, elements, "rotation", err));
    }
    for (size_t i = 0; matrix && i < factor; i++) {
        for (size_t j = 0; j < factor; j++) {
            out->matrix[j * factor + i] = matrix[i * factor + j];
        }
    }
    out->factor = factor;
    out->block = channels / factor;
    return SQF_OK;
}

void sqf_rotation_clear(sqf_rotation *rotation)
{
    free(rotation->matrix);
    *rotation = (sqf_rotation){0};
}

typedef struct apply_job {
    const sqf_kernels *kernels;
    const sqf_rotation *rotation;
    float *x, *scratch; /* scratch: one row a thread */
    size_t rows, rows_per_task;
} apply_job;

/* out = the blocks of x mixed. With n = 1 a block is one number and the mix a product of matrix and vector. */
static void mix(const sqf_kernels *kernels, const sqf_rotation *rotation, const float *x, float *out)
{
    const size_t factor = rotation->factor, block = rotation->block;
    if (block == 1) {
        kernels->dots(rotation->matrix, factor, factor, x, factor, out);
        return;
    }
    memset(out, 0, factor * block * sizeof *out);
    for (size_t j = 0; j < factor; j++) {
        kernels->weighted_sum(rotation->matrix + j * factor, x, block, factor, block, out + j * block);
    }
}

void sqf_rotation_row(const sqf_kernels *kernels, const sqf_rotation *rotation, float *x, float *scratch)
{
    const size_t channels = rotation->factor * rotation->block;
    for (size_t i = 0; i < rotation->factor && rotation->block > 1; i++) {
        kernels->hadamard(x + i * rotation->block, rotation->block);
    }
    if (rotation->matrix) {
        mix(kernels, rotation, x, scratch);
        memcpy(x, scratch, channels * sizeof *x);
    }
}

static void apply_task(void *user, size_t task, unsigned thread)
{
    const apply_job *job = user;
    const size_t channels = job->rotation->factor * job->rotation->block, first = task * job->rows_per_task;
    for (size_t r = first; r < job->rows && r < first + job->rows_per_task; r++) {
        sqf_rotation_row(job->kernels, job->rotation, job->x + r * channels, job->scratch + thread * channels);
    }
}

sqf_status sqf_rotation_apply(sqf_context *context, const sqf_rotation *rotation, float *x, size_t rows, sqf_error *err)
{
    const size_t channels = rotation->factor * rotation->block;
    apply_job job = {.kernels = context->kernels, .rotation = rotation, .x = x, .rows = rows};
    size_t floats;
    if (!sqf_mul_size(&floats, channels, sqf_pool_threads(context->pool))) {
        return sqf_fail(err, SQF_E_MEMORY, "rotation of %zu channels: its size does not fit this machine", channels);
    }
    SQF_TRY(SQF_ALLOC(&job.scratch, floats, "scratch of the threads", err));
    job.rows_per_task = channels >= TASK_ELEMENTS ? 1 : TASK_ELEMENTS / channels;
    sqf_pool_run(context->pool, sqf_ceil_div(rows, job.rows_per_task), apply_task, &job);
    free(job.scratch);
    return SQF_OK;
}

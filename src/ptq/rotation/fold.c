/* Products of weights with rotations. Cut into blocks of rows by the shapes alone; each block is one product of BLAS on
 * one thread. */
#include "ptq/rotation/fold.h"

#include <string.h>

#include <cblas.h>

#include "base/memory.h"

enum { BLOCK_ROWS = 64 };

typedef struct fold_job {
    const float *from;
    float *to;
    size_t rows, columns; /* of the whole matrix */
    size_t heads, shared, width;
    const float *gain, *basis;
    float *scratch; /* [threads, BLOCK_ROWS, columns] */
} fold_job;

static size_t block_rows(size_t rows, size_t task)
{
    const size_t left = rows - task * BLOCK_ROWS;
    return left < BLOCK_ROWS ? left : BLOCK_ROWS;
}

/* A block of rows, copied (times the gains), times each head's basis. */
static void columns_task(void *user, size_t task, unsigned thread)
{
    const fold_job *job = user;
    const size_t n = job->columns, rows = block_rows(job->rows, task), width = job->width;
    float *block = job->scratch + thread * BLOCK_ROWS * n, *to = job->to + task * BLOCK_ROWS * n;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < n; j++) {
            block[i * n + j] = to[i * n + j] * (job->gain ? job->gain[j] : 1.0f);
        }
    }
    for (size_t h = 0; h < job->heads; h++) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)width, (int)width, 1.0f,
                    block + h * width, (int)n, job->basis + h / job->shared * width * width, (int)width, 0.0f,
                    to + h * width, (int)n);
    }
}

static sqf_status fold_columns(sqf_context *context, fold_job job, sqf_error *err)
{
    size_t floats;
    if (!sqf_mul_size(&floats, job.columns, BLOCK_ROWS * (size_t)sqf_pool_threads(context->pool))) {
        return sqf_fail(err, SQF_E_MEMORY, "rotation: %zu channels are too many", job.columns);
    }
    SQF_TRY(SQF_ALLOC(&job.scratch, floats, "scratch of the threads", err));
    sqf_pool_run(context->pool, sqf_ceil_div(job.rows, BLOCK_ROWS), columns_task, &job);
    free(job.scratch);
    return SQF_OK;
}

sqf_status sqf_fold_columns(sqf_context *context, float *weights, size_t rows, size_t n, const float *gain,
                            const float *basis, sqf_error *err)
{
    const fold_job job = {
        .to = weights, .rows = rows, .columns = n, .heads = 1, .shared = 1, .width = n, .gain = gain, .basis = basis};
    return fold_columns(context, job, err);
}

sqf_status sqf_fold_head_columns(sqf_context *context, float *weights, size_t rows, size_t heads, size_t shared,
                                 size_t width, const float *bases, sqf_error *err)
{
    const fold_job job = {.to = weights,
                          .rows = rows,
                          .columns = heads * width,
                          .heads = heads,
                          .shared = shared,
                          .width = width,
                          .basis = bases};
    return fold_columns(context, job, err);
}

/* A block of rows of one head's part of basis^T weights. */
static void rows_task(void *user, size_t task, unsigned thread)
{
    const fold_job *job = user;
    const size_t width = job->width, blocks = sqf_ceil_div(width, BLOCK_ROWS);
    const size_t head = task / blocks, first = task % blocks * BLOCK_ROWS;
    const float *basis = job->basis + head * width * width + first, *from = job->from + head * width * job->columns;
    (void)thread;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)block_rows(width, task % blocks), (int)job->columns,
                (int)width, 1.0f, basis, (int)width, from, (int)job->columns, 0.0f,
                job->to + (head * width + first) * job->columns, (int)job->columns);
}

/* bias <- bias basis for one head. */
static void turn_vector(float *bias, size_t width, const float *basis, float *scratch)
{
    cblas_sgemv(CblasRowMajor, CblasTrans, (int)width, (int)width, 1.0f, basis, (int)width, bias, 1, 0.0f, scratch, 1);
    memcpy(bias, scratch, width * sizeof *bias);
}

sqf_status sqf_fold_head_rows(sqf_context *context, float **weights, size_t columns, size_t heads, size_t width,
                              float *bias, const float *bases, sqf_error *err)
{
    fold_job job = {.from = *weights, .columns = columns, .heads = heads, .width = width, .basis = bases};
    SQF_TRY(SQF_ALLOC(&job.to, heads * width * columns, "rotated weights", err));
    sqf_pool_run(context->pool, heads * sqf_ceil_div(width, BLOCK_ROWS), rows_task, &job);
    if (bias) {
        float *scratch;
        const sqf_status status = SQF_ALLOC(&scratch, width, "rotated bias", err);
        for (size_t h = 0; h < heads && status == SQF_OK; h++) {
            turn_vector(bias + h * width, width, bases + h * width * width, scratch);
        }
        free(scratch);
        if (status != SQF_OK) {
            free(job.to);
            return status;
        }
    }
    free(*weights);
    *weights = job.to;
    return SQF_OK;
}

sqf_status sqf_fold_rows(sqf_context *context, float **weights, size_t n, size_t columns, float *bias,
                         const float *basis, sqf_error *err)
{
    return sqf_fold_head_rows(context, weights, columns, 1, n, bias, basis, err);
}

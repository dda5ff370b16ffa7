/* The moments of an input and its quantized form, and the weights that follow from them. All products are cut into
 * strips whose size follows from the shapes alone, so that results do not depend on the number of threads. */
#include <string.h>

#include <cblas.h>

#include "base/memory.h"
#include "ptq/correct/correct.h"

enum { STRIP = 128 };

typedef struct strip_work {
    sqf_correction *correction;
    const float *wanted, *quantized;
    size_t tokens;
    const sqf_factor *factor;
    const int32_t *channels;
    float *scratch; /* [threads, STRIP, K] */
    float *weights;
    size_t rows;
} strip_work;

static size_t strip_end(size_t task, size_t n)
{
    return (task + 1) * STRIP < n ? (task + 1) * STRIP : n;
}

sqf_status sqf_correction_create(size_t channels, sqf_correction *out, sqf_error *err)
{
    *out = (sqf_correction){0};
    SQF_TRY(sqf_statistics_create(channels, true, &out->quantized, err)); /* K * K has a size */
    const sqf_status status = SQF_ALLOC(&out->cross, channels * channels, "moments of an input", err);
    if (status != SQF_OK) {
        sqf_correction_clear(out);
    }
    return status;
}

void sqf_correction_clear(sqf_correction *correction)
{
    sqf_statistics_clear(&correction->quantized);
    free(correction->cross);
    *correction = (sqf_correction){0};
}

static void add_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const strip_work *work = user;
    const size_t n = work->correction->quantized.channels, begin = task * STRIP;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)(strip_end(task, n) - begin), (int)n, (int)work->tokens,
                1.0f, work->wanted + begin, (int)n, work->quantized, (int)n, 1.0f, work->correction->cross + begin * n,
                (int)n);
}

sqf_status sqf_correction_add(sqf_context *context, sqf_correction *correction, const float *wanted,
                              const float *quantized, size_t tokens, sqf_error *err)
{
    SQF_TRY(sqf_statistics_add(context, &correction->quantized, quantized, tokens, err));
    strip_work work = {.correction = correction, .wanted = wanted, .quantized = quantized, .tokens = tokens};
    sqf_pool_run(context->pool, sqf_ceil_div(correction->quantized.channels, STRIP), add_task, &work);
    return SQF_OK;
}

void sqf_correction_finish(sqf_context *context, sqf_correction *correction)
{
    const size_t n = correction->quantized.channels;
    if (correction->quantized.tokens == 0) {
        return;
    }
    sqf_statistics_finish(context, &correction->quantized);
    const float scale = (float)(2.0 / (double)correction->quantized.tokens);
    for (size_t i = 0; i < n * n; i++) {
        correction->cross[i] *= scale;
    }
}

/* Rows of (C - H) U^T U: the factor's U^T U is the inverse, in stored order. */
static void solve_task(void *user, size_t task, unsigned thread)
{
    const strip_work *work = user;
    const size_t n = work->correction->quantized.channels, begin = task * STRIP, end = strip_end(task, n);
    float *scratch = work->scratch + (size_t)thread * STRIP * n;
    for (size_t i = begin; i < end; i++) {
        const float *cross = work->correction->cross + i * n, *hessian = work->correction->quantized.hessian + i * n;
        for (size_t j = 0; j < n; j++) {
            const size_t channel = work->channels ? (size_t)work->channels[j] : j;
            scratch[(i - begin) * n + j] = cross[channel] - hessian[channel];
        }
    }
    const CBLAS_TRANSPOSE order[2] = {CblasTrans, CblasNoTrans};
    for (int step = 0; step < 2; step++) {
        cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, order[step], CblasNonUnit, (int)(end - begin), (int)n, 1.0f,
                    work->factor->upper, (int)n, scratch, (int)n);
    }
    for (size_t i = begin; i < end; i++) {
        for (size_t j = 0; j < n; j++) {
            const size_t channel = work->channels ? (size_t)work->channels[j] : j;
            work->correction->cross[i * n + channel] = scratch[(i - begin) * n + j];
        }
    }
}

static sqf_status run_with_scratch(sqf_context *context, strip_work *work, size_t rows,
                                   void (*task)(void *, size_t, unsigned), sqf_error *err)
{
    const size_t n = work->correction->quantized.channels, threads = sqf_pool_threads(context->pool);
    SQF_TRY(SQF_ALLOC(&work->scratch, threads * STRIP * n, "corrected weights", err));
    sqf_pool_run(context->pool, sqf_ceil_div(rows, STRIP), task, work);
    free(work->scratch);
    return SQF_OK;
}

sqf_status sqf_correction_solve(sqf_context *context, sqf_correction *correction, const sqf_factor *factor,
                                const int32_t *channels, sqf_error *err)
{
    strip_work work = {.correction = correction, .factor = factor, .channels = channels};
    return run_with_scratch(context, &work, correction->quantized.channels, solve_task, err);
}

static void apply_task(void *user, size_t task, unsigned thread)
{
    const strip_work *work = user;
    const size_t n = work->correction->quantized.channels, begin = task * STRIP;
    const size_t rows = strip_end(task, work->rows) - begin;
    float *scratch = work->scratch + (size_t)thread * STRIP * n, *weights = work->weights + begin * n;
    memcpy(scratch, weights, rows * n * sizeof *scratch);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)n, (int)n, 1.0f, scratch, (int)n,
                work->correction->cross, (int)n, 1.0f, weights, (int)n);
}

sqf_status sqf_correction_apply(sqf_context *context, const sqf_correction *correction, float *weights, size_t rows,
                                sqf_error *err)
{
    strip_work work = {.correction = (sqf_correction *)correction, .weights = weights, .rows = rows};
    return run_with_scratch(context, &work, rows, apply_task, err);
}

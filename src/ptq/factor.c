/* The factor that error propagation needs: U with U^T U = (H + lambda I)^-1, in stored channel order.
 * With H + lambda I = R R^T, R upper triangular, the inverse is R^-T R^-1, so U = R^-1: no explicit inverse. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ptq/algorithm.h"
#include "ptq/triangular.h"

enum { RETRIES = 3, STRIP = 256 };

/* What the damping becomes after a failure: ten times as much, or this where it was 0. */
static const double damping_default = 0.01;

typedef struct factor_work {
    const float *hessian;
    const int32_t *channels;
    const sqf_factor_solver *solver;
    sqf_factor *factor;
    float lambda;
} factor_work;

static size_t source_channel(const int32_t *channels, size_t j)
{
    return channels ? (size_t)channels[j] : j;
}

/* Copies a strip of rows of the upper triangle of the permuted, damped Hessian. */
static void fill_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const factor_work *work = user;
    sqf_factor *f = work->factor;
    const size_t n = f->channels;
    const size_t end = (task + 1) * STRIP < n ? (task + 1) * STRIP : n;
    for (size_t i = task * STRIP; i < end; i++) {
        const float *from = work->hessian + source_channel(work->channels, i) * n;
        float *to = f->upper + i * n;
        for (size_t j = i; j < n; j++) {
            to[j] = from[source_channel(work->channels, j)];
        }
        to[i] = (f->dead[i] ? 1.0f : to[i]) + work->lambda;
    }
}

/* diag(U^T U): the squared lengths of U's columns. */
static void diagonal_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    sqf_factor *f = ((const factor_work *)user)->factor;
    const size_t n = f->channels, begin = task * STRIP;
    const size_t end = begin + STRIP < n ? begin + STRIP : n;
    double sum[STRIP] = {0};
    for (size_t i = 0; i < end; i++) {
        for (size_t j = begin < i ? i : begin; j < end; j++) {
            const double u = (double)f->upper[i * n + j];
            sum[j - begin] += u * u;
        }
    }
    for (size_t j = begin; j < end; j++) {
        f->inverse_diagonal[j] = (float)sum[j - begin];
    }
}

/* Reads the diagonal of H, marks dead channels, *mean = mean(diag H). */
static sqf_status read_diagonal(const char *name, const factor_work *work, double *mean, sqf_error *err)
{
    sqf_factor *f = work->factor;
    double sum = 0.0;
    for (size_t j = 0; j < f->channels; j++) {
        const size_t channel = source_channel(work->channels, j);
        const float h = work->hessian[channel * f->channels + channel];
        if (!isfinite(h) || h < 0.0f) {
            return sqf_fail(err, SQF_E_VALUE, "%s: Hessian diagonal of channel %zu is %g, expected 0 or more", name,
                            channel, (double)h);
        }
        f->hessian_diagonal[j] = h;
        f->dead[j] = h == 0.0f;
        sum += (double)h;
    }
    *mean = f->channels ? sum / (double)f->channels : 0.0;
    return SQF_OK;
}

/* The CPU's solver. */
static sqf_status solve_on_cpu(void *user, float *a, size_t n, bool *positive, sqf_error *err)
{
    sqf_context *context = user;
    (void)err;
    *positive = sqf_cholesky_reversed(context->pool, a, n);
    if (*positive) {
        sqf_upper_invert(context->pool, a, n);
    }
    return SQF_OK;
}

/* One attempt with a given lambda. */
static sqf_status factorize(sqf_context *context, factor_work *work, bool *done, sqf_error *err)
{
    sqf_factor *f = work->factor;
    const size_t strips = sqf_ceil_div(f->channels, STRIP);
    sqf_pool_run(context->pool, strips, fill_task, work);
    SQF_TRY(work->solver->solve(work->solver->user, f->upper, f->channels, done, err));
    if (!*done) {
        return SQF_OK;
    }
    sqf_pool_run(context->pool, strips, diagonal_task, work);
    for (size_t j = 0; j < f->channels; j++) {
        /* a column's squared length is finite only if all of the column is */
        if (!isfinite(f->inverse_diagonal[j]) || !(f->upper[j * f->channels + j] > 0.0f)) {
            *done = false;
        }
    }
    return SQF_OK;
}

static sqf_status factorize_damped(sqf_context *context, const char *name, factor_work *work, double mean,
                                   sqf_error *err)
{
    sqf_factor *f = work->factor;
    for (;;) {
        bool done;
        work->lambda = (float)(f->damping * mean);
        SQF_TRY(factorize(context, work, &done, err));
        if (done) {
            return SQF_OK;
        }
        if (f->retries == RETRIES) {
            return sqf_fail(err, SQF_E_VALUE,
                            "%s: Hessian of %zu channels is not positive definite, not even with damping %g", name,
                            f->channels, f->damping);
        }
        f->retries++;
        f->damping = f->damping > 0.0 ? 10.0 * f->damping : damping_default;
        sqf_log(context, SQF_LOG_WARNING, "%s: Hessian is not positive definite, damping raised to %g", name,
                f->damping);
    }
}

sqf_status sqf_factor_create(sqf_context *context, const char *name, const float *hessian, size_t channel_count,
                             const int32_t *channels, double damping, sqf_factor *out, sqf_error *err)
{
    const sqf_factor_solver cpu = {.solve = solve_on_cpu, .user = context};
    return sqf_factor_create_by(context, &cpu, name, hessian, channel_count, channels, damping, out, err);
}

sqf_status sqf_factor_create_by(sqf_context *context, const sqf_factor_solver *solver, const char *name,
                                const float *hessian, size_t channel_count, const int32_t *channels, double damping,
                                sqf_factor *out, sqf_error *err)
{
    *out = (sqf_factor){.channels = channel_count, .damping = damping};
    factor_work work = {.hessian = hessian, .channels = channels, .solver = solver, .factor = out};
    size_t square;
    if (!sqf_mul_size(&square, channel_count, channel_count)) {
        return sqf_fail(err, SQF_E_SHAPE, "%s: Hessian of %zu channels does not fit this machine", name, channel_count);
    }
    sqf_status status;
    double mean = 0.0;
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->inverse_diagonal, channel_count, "inverse diagonal", err), failed);
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->hessian_diagonal, channel_count, "Hessian diagonal", err), failed);
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->dead, channel_count, "dead channels", err), failed);
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->upper, square, "factor of the Hessian", err), failed);
    SQF_TRY_GOTO(status, read_diagonal(name, &work, &mean, err), failed);
    SQF_TRY_GOTO(status, factorize_damped(context, name, &work, mean, err), failed);
    return SQF_OK;
failed:
    sqf_factor_clear(out);
    return status;
}

void sqf_factor_clear(sqf_factor *factor)
{
    free(factor->upper);
    free(factor->inverse_diagonal);
    free(factor->hessian_diagonal);
    free(factor->dead);
    *factor = (sqf_factor){0};
}

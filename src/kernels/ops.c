/* The forward pass outside of the linear layers: each operation cut into tasks by its shape alone, never by the
 * number of threads, and computed by the level's vector kernels. */
#include "kernels/ops.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/dispatch.h"

enum { ELEMENT_BLOCK = 1 << 14 }; /* elements of a task where every element stands alone */

/* ---- elementwise ---- */

/* Arguments of a task over rows; likewise below. */
typedef struct rows_job {
    const sqf_kernels *kernels;
    const float *x, *gain;
    float *y;
    float epsilon;
    size_t rows, n, rows_per_task;
} rows_job;

/* Rows are short (a hidden state): one row is one sum in the kernels' prescribed order. */
static void rmsnorm_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const rows_job *job = user;
    const size_t begin = task * job->rows_per_task;
    const size_t end = begin + job->rows_per_task < job->rows ? begin + job->rows_per_task : job->rows;
    for (size_t r = begin; r < end; r++) {
        const float *x = job->x + r * job->n;
        const float mean = job->kernels->sum_squares(x, job->n) / (float)job->n;
        job->kernels->scale_gain(x, job->gain, 1.0f / sqrtf(mean + job->epsilon), job->n, job->y + r * job->n);
    }
}

/* Rows that together have some ELEMENT_BLOCK elements. */
static size_t rows_in_task(size_t n)
{
    return n >= ELEMENT_BLOCK || n == 0 ? 1 : ELEMENT_BLOCK / n;
}

void sqf_rmsnorm(sqf_context *context, const float *x, const float *gain, float epsilon, size_t rows, size_t n,
                 float *y)
{
    rows_job job = {context->kernels, x, gain, y, epsilon, rows, n, rows_in_task(n)};
    sqf_pool_run(context->pool, sqf_ceil_div(rows, job.rows_per_task), rmsnorm_task, &job);
}

typedef struct rope_job {
    const sqf_kernels *kernels;
    float *x;
    const float *cosine, *sine;
    size_t tokens, heads, head_dim, tokens_per_task;
} rope_job;

/* Whole tokens: all heads of a token share its angles. */
static void rope_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const rope_job *job = user;
    const size_t half = job->head_dim / 2, begin = task * job->tokens_per_task;
    const size_t end = begin + job->tokens_per_task < job->tokens ? begin + job->tokens_per_task : job->tokens;
    for (size_t t = begin; t < end; t++) {
        for (size_t h = 0; h < job->heads; h++) {
            job->kernels->rotate(job->x + (t * job->heads + h) * job->head_dim, job->cosine + t * half,
                                 job->sine + t * half, half);
        }
    }
}

void sqf_rope_apply(sqf_context *context, float *x, const float *cosine, const float *sine, size_t tokens, size_t heads,
                    size_t head_dim)
{
    rope_job job = {context->kernels, x, cosine, sine, tokens, heads, head_dim, rows_in_task(heads * head_dim)};
    sqf_pool_run(context->pool, sqf_ceil_div(tokens, job.tokens_per_task), rope_task, &job);
}

typedef struct elements_job {
    const sqf_kernels *kernels;
    const float *a, *b;
    float *y;
    size_t n;
} elements_job;

/* Elements of this task's block: ELEMENT_BLOCK, fewer in the last. */
static size_t block_length(size_t n, size_t task)
{
    const size_t left = n - task * ELEMENT_BLOCK;
    return left < ELEMENT_BLOCK ? left : ELEMENT_BLOCK;
}

static void silu_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const elements_job *job = user;
    const size_t at = task * ELEMENT_BLOCK;
    job->kernels->silu_mul(job->a + at, job->b + at, block_length(job->n, task), job->y + at);
}

void sqf_silu_mul(sqf_context *context, const float *gate, const float *up, size_t n, float *y)
{
    elements_job job = {context->kernels, gate, up, y, n};
    sqf_pool_run(context->pool, sqf_ceil_div(n, ELEMENT_BLOCK), silu_task, &job);
}

static void add_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const elements_job *job = user;
    const size_t at = task * ELEMENT_BLOCK;
    job->kernels->add(job->y + at, job->b + at, block_length(job->n, task));
}

void sqf_add(sqf_context *context, float *x, const float *y, size_t n)
{
    elements_job job = {context->kernels, NULL, y, x, n};
    sqf_pool_run(context->pool, sqf_ceil_div(n, ELEMENT_BLOCK), add_task, &job);
}

/* ---- conversion and logits ---- */

void sqf_to_float(sqf_type type, const void *from, size_t n, float *y)
{
    /* There is no context here, and none is needed: exact conversions are the same at every level. */
    if (type == SQF_TYPE_FP32) {
        memcpy(y, from, n * sizeof *y);
        return;
    }
    const sqf_kernels *kernels = sqf_kernels_find(NULL);
    if (type == SQF_TYPE_BF16) {
        kernels->from_bf16(from, n, y);
    } else {
        kernels->from_fp16(from, n, y);
    }
}

/* log p = x - (largest + log sum exp(x - largest)), in double and in order of the ids. */
double sqf_log_softmax(const float *logits, size_t n, size_t target, double *all)
{
    double largest = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        largest = (double)logits[i] > largest ? (double)logits[i] : largest; /* fmax breaks gcc 12 on Arm */
    }
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += exp((double)logits[i] - largest);
    }
    const double shift = largest + log(sum);
    for (size_t i = 0; all && i < n; i++) {
        all[i] = (double)logits[i] - shift;
    }
    return (double)logits[target] - shift;
}

float sqf_fitted_factor(const float *a, const float *b, size_t n)
{
    double product = 0.0, square = 0.0;
    for (size_t i = 0; i < n; i++) {
        product += (double)a[i] * (double)b[i];
        square += (double)b[i] * (double)b[i];
    }
    return square > 0.0 && product > 0.0 ? (float)(product / square) : 1.0f;
}

/* A learned basis: momentum on the tangent space, retraction by QR. */
#include "ptq/rotation/learn.h"

#include <math.h>
#include <string.h>

#include <cblas.h>

#include "format/type.h"
#include "ptq/rotation/basis.h"
#include "ptq/rotation/orthogonal.h"

enum { STEPS = 200, JUDGED = 10, BLOCK = 64, SMOOTH_POWER = 12 }; /* judged every so many steps */
#define STEP     0.02 /* angle of the first step, root of the mean square over planes times sqrt(n) */
#define MOMENTUM 0.9

/* A stretch of channels, in the order of the places, that shares a scale. */
typedef struct range {
    size_t begin, end;
    double largest; /* of the type's codes */
} range;

typedef struct learner {
    const sqf_act_spec *act;
    const sqf_stream_sample *sample;
    size_t n, tokens; /* tokens of all inputs together, in one batch */
    size_t batch;     /* at work */
    int32_t *order;
    range *ranges;
    size_t range_count;
    float *basis;    /* [n, n] at work */
    float *turned;   /* [tokens, n] inputs in the basis; then the objective's derivative by them */
    float *gradient; /* [n, n] by the basis */
    double *errors;  /* [tokens] */
    double *momentum, *step, *best;
} learner;

static void learner_clear(learner *l)
{
    free(l->order);
    free(l->ranges);
    free(l->basis);
    free(l->turned);
    free(l->gradient);
    free(l->errors);
    free(l->momentum);
    free(l->step);
    free(l->best);
}

/* Groups as act_scale group makes them; else one range a part. */
static void add_ranges(learner *l, size_t begin, size_t end, sqf_type type)
{
    const size_t group = l->act->scale == SQF_ACT_GROUP && l->act->group > 0 ? l->act->group : l->n;
    for (size_t at = begin; at < end; at += group) {
        const size_t stop = end - at < group ? end : at + group;
        l->ranges[l->range_count++] = (range){at, stop, (double)sqf_type_max(type)};
    }
}

static sqf_status learner_init(learner *l, sqf_error *err)
{
    const size_t square = l->n * l->n;
    SQF_TRY(SQF_ALLOC(&l->order, l->n, "channels", err));
    SQF_TRY(SQF_ALLOC(&l->ranges, l->n + 2, "channels", err));
    SQF_TRY(SQF_ALLOC(&l->basis, square, "basis", err));
    SQF_TRY(SQF_ALLOC(&l->turned, l->tokens * l->n, "rotated samples", err));
    SQF_TRY(SQF_ALLOC(&l->gradient, square, "gradient", err));
    SQF_TRY(SQF_ALLOC(&l->errors, l->tokens, "errors", err));
    SQF_TRY(SQF_ALLOC(&l->momentum, square, "momentum", err));
    SQF_TRY(SQF_ALLOC(&l->step, square, "step", err));
    SQF_TRY(SQF_ALLOC(&l->best, square, "basis", err));
    const size_t low = sqf_basis_places(l->act, l->n, l->order);
    add_ranges(l, 0, low, l->act->low);
    add_ranges(l, low, l->n, l->act->high);
    return SQF_OK;
}

/* The error of one range of one token, and in place of the values their derivatives.
 *
 * error = sum (s round(x / s) - x)^2 with s = max |x| / largest. With rounding as the identity only s has a derivative:
 * d error / d s = 2 error / s. The maximum's own is spread by a p-norm over the values near it. */
static double differentiate(float *values, const int32_t *order, const range *r, double weight)
{
    double most = 0.0, error = 0.0, norm = 0.0;
    for (size_t k = r->begin; k < r->end; k++) {
        most = fmax(most, fabs((double)values[order[k]]));
    }
    if (most == 0.0) {
        return 0.0;
    }
    const double scale = most / r->largest;
    for (size_t k = r->begin; k < r->end; k++) {
        const double x = (double)values[order[k]], difference = scale * nearbyint(x / scale) - x;
        error += difference * difference;
        norm += pow(fabs(x) / most, SMOOTH_POWER);
    }
    for (size_t k = r->begin; k < r->end; k++) {
        const double x = (double)values[order[k]], share = pow(fabs(x) / most, SMOOTH_POWER - 1) / norm;
        values[order[k]] = (float)(weight * 2.0 * error / most * (x < 0 ? -share : share));
    }
    return weight * error;
}

static void token_task(void *user, size_t task, unsigned thread)
{
    const learner *l = user;
    const size_t first = task * BLOCK, left = l->tokens - first, count = left < BLOCK ? left : BLOCK;
    float *turned = l->turned + first * l->n;
    const float *values = l->sample->values + (l->batch * l->tokens + first) * l->n;
    (void)thread;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)l->n, (int)l->n, 1.0f, values, (int)l->n,
                l->basis, (int)l->n, 0.0f, turned, (int)l->n);
    for (size_t t = 0; t < count; t++) {
        const double weight = l->sample->weight[(first + t) / l->sample->tokens] / (double)l->tokens;
        double sum = 0.0;
        for (size_t i = 0; i < l->range_count; i++) {
            sum += differentiate(turned + t * l->n, l->order, &l->ranges[i], weight);
        }
        l->errors[first + t] = sum;
    }
}

/* Rows of x^T times the derivatives. */
static void gradient_task(void *user, size_t task, unsigned thread)
{
    const learner *l = user;
    const size_t first = task * BLOCK, left = l->n - first;
    (void)thread;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)(left < BLOCK ? left : BLOCK), (int)l->n, (int)l->tokens,
                1.0f, l->sample->values + l->batch * l->tokens * l->n + first, (int)l->n, l->turned, (int)l->n, 0.0f,
                l->gradient + first * l->n, (int)l->n);
}

static double evaluate(sqf_context *context, learner *l, size_t batch, const double *basis)
{
    double sum = 0.0;
    l->batch = batch;
    for (size_t i = 0; i < l->n * l->n; i++) {
        l->basis[i] = (float)basis[i];
    }
    sqf_pool_run(context->pool, sqf_ceil_div(l->tokens, BLOCK), token_task, l);
    for (size_t t = 0; t < l->tokens; t++) {
        sum += l->errors[t];
    }
    return sum;
}

/* basis <- qf(basis (I - angle A / |A|)), A the momentum of the skew parts of basis^T gradient: a step along the
 * manifold whose length is in radians, whatever the scale of the objective. */
static sqf_status take_step(sqf_context *context, learner *l, double *basis, double angle, sqf_error *err)
{
    const size_t n = l->n;
    double norm = 0.0;
    sqf_pool_run(context->pool, sqf_ceil_div(n, BLOCK), gradient_task, l);
    for (size_t i = 0; i < n * n; i++) {
        l->step[i] = (double)l->gradient[i];
    }
    double *product;
    SQF_TRY(SQF_ALLOC(&product, n * n, "gradient", err));
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)n, (int)n, (int)n, 1.0, basis, (int)n, l->step, (int)n,
                0.0, product, (int)n);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            const double skew = 0.5 * (product[i * n + j] - product[j * n + i]);
            double *momentum = &l->momentum[i * n + j];
            *momentum = MOMENTUM * *momentum + skew;
            norm += *momentum * *momentum;
        }
    }
    const double factor = norm > 0.0 ? angle * sqrt((double)n / norm) : 0.0;
    memcpy(l->step, basis, n * n * sizeof *basis);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)n, (int)n, -factor, l->step, (int)n,
                l->momentum, (int)n, 1.0, basis, (int)n);
    free(product);
    return sqf_orthogonalize(n, basis, err);
}

static sqf_status learn(sqf_context *context, learner *l, double *basis, sqf_learning *learning, sqf_error *err)
{
    const size_t bytes = l->n * l->n * sizeof *basis, judge = SQF_STREAM_BATCHES - 1;
    learning->before = learning->after = evaluate(context, l, judge, basis);
    memcpy(l->best, basis, bytes);
    for (unsigned i = 0; i < STEPS; i++) {
        const double angle = STEP * (1.0 - (double)i / STEPS);
        evaluate(context, l, i % judge, basis);
        SQF_TRY(take_step(context, l, basis, angle, err));
        if ((i + 1) % JUDGED != 0) {
            continue;
        }
        const double error = evaluate(context, l, judge, basis);
        if (error < learning->after) {
            learning->after = error;
            memcpy(l->best, basis, bytes);
        }
    }
    memcpy(basis, l->best, bytes);
    learning->steps = STEPS;
    return SQF_OK;
}

sqf_status sqf_basis_learn(sqf_context *context, const sqf_act_spec *act, const sqf_stream_sample *sample,
                           double *basis, sqf_learning *learning, sqf_error *err)
{
    learner l = {.act = act, .sample = sample, .n = sample->statistics.channels};
    *learning = (sqf_learning){0};
    if (!sqf_type_is_integer(act->low) || (sqf_act_spec_is_split(act) && !sqf_type_is_integer(act->high))) {
        return sqf_fail(err, SQF_E_ARG,
                        "rotate learned: expected activations of integers, whose rounding error it "
                        "makes small");
    }
    l.tokens = sample->inputs * sample->tokens;
    sqf_status status = learner_init(&l, err);
    if (status == SQF_OK) {
        status = learn(context, &l, basis, learning, err);
    }
    learner_clear(&l);
    return status;
}

/* The heavy steps of a quantization on a device: passes, statistics, factors. Streams of activations, weights and all
 * that other steps look at stay in the host's memory; a window goes up, what statistics there are of a layer comes
 * down when its last window has passed. */
#include "ptq/engine.h"

#include <math.h>
#include <string.h>

#include "model/device_layer.h"
#include "ptq/pipeline.h"

/* A layer of the host, on the device. Dense weights are sent when a pass begins, because smoothing changes them. */
typedef struct twin {
    const sqf_layer *of; /* NULL = free */
    sqf_device_layer layer;
    sqf_linear_params dense[SQF_LINEAR_COUNT]; /* dense.dense NULL = none waits; name and bias are copies */
} twin;

/* The layer at work and the original one beside it. */
enum { TWINS = 2 };

/* Sums over one input's activations. */
typedef struct input_sums {
    float *hessian, *extremes; /* [n, n], [3, n] */
    double *sums;              /* [3, n] */
} input_sums;

typedef struct sqf_engine_state {
    const sqf_device *device;
    sqf_device_work *work;
    sqf_device_cache cache;
    twin twins[TWINS];
    float *x; /* a window, device memory */
    input_sums inputs[SQF_INPUT_COUNT];
    double *squares; /* [squares_room] of the host */
    float *tapped;   /* [tapped_room] an input for taps, of the host */
    size_t squares_room, tapped_room;
    float *upper;   /* the factor that was made last */
    uint64_t which; /* its sqf_factor.resident */
} state;

/* ---- memory ---- */

static void free_sums(const state *s, input_sums *sums)
{
    sqf_device_release(s->device, sums->hessian);
    sqf_device_release(s->device, sums->extremes);
    sqf_device_release(s->device, sums->sums);
    *sums = (input_sums){0};
}

static void free_twin(sqf_context *context, twin *t)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        free((void *)t->dense[kind].name);
        free((void *)t->dense[kind].bias);
    }
    sqf_device_layer_clear(context, &t->layer);
    *t = (twin){0};
}

static void close_device(sqf_pipeline *pipeline)
{
    state *s = pipeline->device;
    if (!s) {
        return;
    }
    for (size_t i = 0; i < TWINS; i++) {
        free_twin(pipeline->context, &s->twins[i]);
    }
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        free_sums(s, &s->inputs[input]);
    }
    sqf_device_cache_clear(pipeline->context, &s->cache);
    sqf_device_work_destroy(s->work);
    sqf_device_release(s->device, s->x);
    sqf_device_release(s->device, s->upper);
    free(s->squares);
    free(s->tapped);
    free(s);
    pipeline->device = NULL;
}

/* What the largest moment takes: the layer in float32 (twice beside the original one), and either the sums over its
 * inputs or the rounding of its largest matrix. */
static sqf_status check_memory(const sqf_pipeline *pipeline, sqf_error *err)
{
    /* of a weight that is rounded: original, compensated, grid value, mask */
    const uint64_t weight_bytes = 13, blas_rows = 2048;
    const sqf_config *config = &pipeline->checkpoint.config;
    const uint64_t length = pipeline->calibration.length, copies = pipeline->plan.follows_model ? 2 : 1;
    uint64_t sums = 0, largest = 0, widest = config->hidden, seen = 0;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        size_t rows, columns;
        sqf_linear_shape(config, (sqf_linear_kind)kind, &rows, &columns);
        const uint64_t square = (uint64_t)columns * columns * sizeof(float);
        const uint64_t rounding = 2 * square + (uint64_t)rows * columns * weight_bytes;
        const uint64_t bit = 1u << sqf_linear_input((sqf_linear_kind)kind);
        sums += seen & bit ? 0 : square;
        seen |= bit;
        largest = rounding > largest ? rounding : largest;
        widest = columns > widest ? columns : widest;
    }
    /* the window itself, and cuBLAS's rows of weights and products (gemm_dense.cu) */
    const uint64_t buffers = sqf_device_work_bytes(config, length) +
                             sizeof(float) * (length * config->hidden + blas_rows * (widest + length));
    const sqf_device_plan plan = {.weights = copies * sizeof(float) * (uint64_t)sqf_layer_weights(config),
                                  .cache = sqf_device_cache_bytes(config, 1, length, SQF_KV_F32),
                                  .buffers = buffers + (sums > largest ? sums : largest)};
    return sqf_device_plan_check(pipeline->context->device, &plan, err);
}

static sqf_status open_device(sqf_pipeline *pipeline, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const size_t length = pipeline->calibration.length;
    SQF_TRY(check_memory(pipeline, err));
    SQF_TRY(SQF_ALLOC(&pipeline->device, 1, "what a device holds", err));
    state *s = pipeline->device;
    s->device = pipeline->context->device;
    sqf_log(pipeline->context, SQF_LOG_INFO, "%s: calibration, factors and rounding; the rest on the CPU",
            s->device->description);
    SQF_TRY(sqf_device_work_create(pipeline->context, config, &s->work, err));
    SQF_TRY(sqf_device_cache_create(pipeline->context, config, 1, length, SQF_KV_F32, &s->cache, err));
    return SQF_DEVICE_ALLOC(s->device, &s->x, length * config->hidden, "a calibration window", err);
}

/* Room for n floats, or doubles, of the host. */
static sqf_status reserve(void *buffer, size_t *room, size_t n, size_t size, const char *what, sqf_error *err)
{
    void **const memory = buffer;
    if (n <= *room) {
        return SQF_OK;
    }
    free(*memory);
    *memory = NULL;
    *room = 0;
    SQF_TRY(sqf_alloc_unset(memory, n, size, what, err));
    *room = n;
    return SQF_OK;
}

/* ---- layers ---- */

static twin *find_twin(state *s, const sqf_layer *layer)
{
    for (size_t i = 0; i < TWINS; i++) {
        if (s->twins[i].of == layer) {
            return &s->twins[i];
        }
    }
    return NULL;
}

static void drop_linear(sqf_context *context, twin *t, sqf_linear_kind kind)
{
    free((void *)t->dense[kind].name);
    free((void *)t->dense[kind].bias);
    t->dense[kind] = (sqf_linear_params){0};
    sqf_device_linear_clear(context, &t->layer.linear[kind]);
}

/* Keeps what a dense layer is made of until a pass begins. */
static sqf_status keep_dense(twin *t, sqf_linear_kind kind, const sqf_linear_params *params, sqf_error *err)
{
    char *name;
    float *bias = NULL;
    SQF_TRY(sqf_copy_text(&name, params->name, strlen(params->name), err));
    t->dense[kind] = *params;
    t->dense[kind].name = name;
    t->dense[kind].bias = NULL;
    if (params->bias) {
        SQF_TRY(SQF_ALLOC(&bias, params->rows, "bias", err));
        memcpy(bias, params->bias, params->rows * sizeof *bias);
        t->dense[kind].bias = bias;
    }
    return SQF_OK;
}

static sqf_status make_linear(sqf_pipeline *pipeline, sqf_layer *layer, sqf_linear_kind kind,
                              const sqf_linear_params *params, sqf_error *err)
{
    state *s = pipeline->device;
    twin *t = find_twin(s, layer);
    t = t ? t : find_twin(s, NULL);
    if (!t) {
        return sqf_fail(err, SQF_E_ARG, "%s: more layers at once than a device holds", params->name);
    }
    t->of = layer;
    drop_linear(pipeline->context, t, kind);
    return params->dense ? keep_dense(t, kind, params, err)
                         : sqf_device_linear_create(pipeline->context, params, &t->layer.linear[kind], err);
}

static void drop(sqf_pipeline *pipeline, sqf_layer *layer, sqf_linear_kind kind)
{
    twin *t = pipeline->device ? find_twin(pipeline->device, layer) : NULL;
    if (t) {
        drop_linear(pipeline->context, t, kind);
    }
}

static void forget(sqf_pipeline *pipeline, const sqf_layer *layer)
{
    twin *t = pipeline->device ? find_twin(pipeline->device, layer) : NULL;
    if (t) {
        free_twin(pipeline->context, t);
    }
}

static sqf_status begin(sqf_pipeline *pipeline, const sqf_layer *layer, sqf_error *err)
{
    twin *t = find_twin(pipeline->device, layer);
    if (!t) {
        return sqf_fail(err, SQF_E_ARG, "layer %zu is not on the device", layer->index);
    }
    sqf_device_layer fresh;
    const sqf_status status =
        sqf_device_layer_init(pipeline->context, &pipeline->checkpoint.config, layer, &fresh, err);
    memcpy(fresh.linear, t->layer.linear, sizeof fresh.linear);
    memset(t->layer.linear, 0, sizeof t->layer.linear);
    sqf_device_layer_clear(pipeline->context, &t->layer);
    t->layer = fresh;
    SQF_TRY(status);
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (t->dense[kind].dense) {
            sqf_device_linear_clear(pipeline->context, &t->layer.linear[kind]);
            SQF_TRY(sqf_device_linear_create(pipeline->context, &t->dense[kind], &t->layer.linear[kind], err));
        }
    }
    return SQF_OK;
}

/* ---- passes ---- */

/* Sends a window through a layer; what becomes of it stays in s->x. */
static sqf_status pass_window(sqf_pipeline *pipeline, const sqf_layer *layer, const float *x, const sqf_device_tap *tap,
                              sqf_error *err)
{
    state *s = pipeline->device;
    const size_t length = pipeline->calibration.length;
    const sqf_device_sequence sequence = {.tokens = length, .cache = &s->cache};
    const sqf_cuda_ops *ops = s->device->ops;
    SQF_TRY(ops->upload(s->device->cuda, s->x, x, length * pipeline->checkpoint.config.hidden * sizeof *x, err));
    SQF_TRY(sqf_device_work_set(s->work, &sequence, 1, 0, err));
    SQF_TRY(sqf_device_layer_forward(s->work, &find_twin(s, layer)->layer, 0, s->x, tap, err));
    return ops->finish(s->device->cuda, err);
}

/* A tap of the host behind one of the device. */
typedef struct host_tap {
    state *state;
    const sqf_layer_tap *tap;
} host_tap;

static sqf_status show_input(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                             sqf_error *err)
{
    const host_tap *show = user;
    state *s = show->state;
    const size_t floats = tokens * channels;
    SQF_TRY(reserve(&s->tapped, &s->tapped_room, floats, sizeof *x, "an input of a layer", err));
    SQF_TRY(s->device->ops->download(s->device->cuda, s->tapped, x, floats * sizeof *x, err));
    return show->tap->input(show->tap->user, kind, s->tapped, tokens, channels, err);
}

static sqf_status run(sqf_pipeline *pipeline, const sqf_layer *layer, float *x, const sqf_layer_tap *tap,
                      sqf_error *err)
{
    state *s = pipeline->device;
    host_tap show = {.state = s, .tap = tap};
    const sqf_device_tap through = {
        .input = show_input, .user = &show, .stops = tap && tap->stops, .last = tap ? tap->last : SQF_INPUT_QKV};
    SQF_TRY(pass_window(pipeline, layer, x, tap ? &through : NULL, err));
    if (tap && tap->stops) {
        return SQF_OK;
    }
    return s->device->ops->download(s->device->cuda, x, s->x,
                                    pipeline->calibration.length * pipeline->checkpoint.config.hidden * sizeof *x, err);
}

/* ---- statistics ---- */

typedef struct collection {
    sqf_pipeline *pipeline;
    sqf_layer_work *work;
} collection;

static sqf_status need_sums(state *s, input_sums *sums, size_t n, sqf_error *err)
{
    const sqf_cuda_ops *ops = s->device->ops;
    if (sums->sums) {
        return SQF_OK;
    }
    SQF_TRY(SQF_DEVICE_ALLOC(s->device, &sums->hessian, n * n, "Hessian", err));
    SQF_TRY(SQF_DEVICE_ALLOC(s->device, &sums->extremes, 3 * n, "channel statistics", err));
    SQF_TRY(ops->clear(s->device->cuda, sums->hessian, n * n * sizeof *sums->hessian, err));
    SQF_TRY(ops->clear(s->device->cuda, sums->extremes, 3 * n * sizeof *sums->extremes, err));
    SQF_TRY(SQF_DEVICE_ALLOC(s->device, &sums->sums, 3 * n, "channel statistics", err));
    return ops->clear(s->device->cuda, sums->sums, 3 * n * sizeof *sums->sums, err);
}

/* Tokens that the sample wants come down one by one: they are few. */
static sqf_status keep_tokens(const state *s, sqf_statistics *statistics, const float *x, size_t tokens, sqf_error *err)
{
    const size_t n = statistics->channels;
    for (size_t t = 0; t < tokens; t++) {
        if (sqf_statistics_keeps(statistics, statistics->tokens + t)) {
            SQF_TRY(s->device->ops->download(s->device->cuda, statistics->sample + statistics->sample_tokens++ * n,
                                             x + t * n, n * sizeof *x, err));
        }
    }
    statistics->tokens += tokens;
    return SQF_OK;
}

static sqf_status add_input(const collection *c, sqf_input_kind kind, const float *x, size_t tokens, size_t n,
                            sqf_error *err)
{
    state *s = c->pipeline->device;
    input_sums *sums = &s->inputs[kind];
    const sqf_cuda_ops *ops = s->device->ops;
    SQF_TRY(need_sums(s, sums, n, err));
    SQF_TRY(ops->hessian_add(s->device->cuda, x, tokens, n, 1.0f, sums->hessian, err));
    SQF_TRY(ops->channels_add(s->device->cuda, x, tokens, n, sums->extremes, sums->sums, err));
    SQF_TRY(keep_tokens(s, &c->work->statistics[kind], x, tokens, err));
    SQF_TRY(reserve(&s->squares, &s->squares_room, n, sizeof *s->squares, "channel statistics", err));
    SQF_TRY(ops->download(s->device->cuda, s->squares, sums->sums + 2 * n, n * sizeof *s->squares, err));
    return sqf_statistics_check(s->squares, n, err);
}

/* Waiting at both ends makes the times of the stages what they are called. */
static sqf_status collect_input(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                                sqf_error *err)
{
    const collection *c = user;
    const sqf_device *device = c->pipeline->device->device;
    SQF_TRY(device->ops->finish(device->cuda, err));
    sqf_stages_begin(&c->pipeline->stages, SQF_STAGE_HESSIAN);
    const sqf_status status = add_input(c, kind, x, tokens, channels, err);
    sqf_stages_end(&c->pipeline->stages, sqf_hessian_operations(channels, tokens));
    return status == SQF_OK ? SQF_OK : sqf_engine_fail_input(c->work, kind, status, err);
}

static sqf_status collect(sqf_pipeline *pipeline, sqf_layer_work *work, const float *x, sqf_error *err)
{
    collection c = {.pipeline = pipeline, .work = work};
    const sqf_device_tap tap = {.input = collect_input, .user = &c};
    return pass_window(pipeline, &work->layer, x, &tap, err);
}

/* Sums of one input to where the CPU would have put them. */
static sqf_status fetch(const state *s, const input_sums *sums, sqf_statistics *to, sqf_error *err)
{
    const size_t n = to->channels;
    const sqf_cuda_ops *ops = s->device->ops;
    float *const floats[] = {to->max_abs, to->lowest, to->largest};
    double *const doubles[] = {to->sum_abs, to->sum, to->sum_square};
    for (size_t i = 0; i < 3; i++) {
        SQF_TRY(ops->download(s->device->cuda, floats[i], sums->extremes + i * n, n * sizeof **floats, err));
        SQF_TRY(ops->download(s->device->cuda, doubles[i], sums->sums + i * n, n * sizeof **doubles, err));
    }
    return ops->download(s->device->cuda, to->hessian, sums->hessian, n * n * sizeof *to->hessian, err);
}

static sqf_status collected(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    state *s = pipeline->device;
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        SQF_TRY(fetch(s, &s->inputs[input], &work->statistics[input], err));
        free_sums(s, &s->inputs[input]);
        sqf_statistics_finish(pipeline->context, &work->statistics[input]);
    }
    return SQF_OK;
}

/* ---- factors and rounding ---- */

static sqf_status solve(void *user, float *a, size_t n, bool *positive, sqf_error *err)
{
    state *s = user;
    const sqf_cuda_ops *ops = s->device->ops;
    const size_t bytes = n * n * sizeof *a; /* the host has as many */
    s->which++;
    sqf_device_release(s->device, s->upper);
    s->upper = NULL;
    SQF_TRY(SQF_DEVICE_ALLOC(s->device, &s->upper, n * n, "factor of the Hessian", err));
    SQF_TRY(ops->upload(s->device->cuda, s->upper, a, bytes, err));
    SQF_TRY(ops->factor(s->device->cuda, s->upper, n, positive, err));
    return *positive ? ops->download(s->device->cuda, a, s->upper, bytes, err) : SQF_OK;
}

static sqf_status factor(sqf_pipeline *pipeline, const char *name, const float *hessian, size_t channel_count,
                         const int32_t *channels, double damping, sqf_factor *out, sqf_error *err)
{
    state *s = pipeline->device;
    const sqf_factor_solver solver = {.solve = solve, .user = s};
    SQF_TRY(
        sqf_factor_create_by(pipeline->context, &solver, name, hessian, channel_count, channels, damping, out, err));
    out->resident = s->which;
    return SQF_OK;
}

static sqf_status quantize(sqf_pipeline *pipeline, const sqf_matrix_job *job, sqf_matrix *out,
                           sqf_matrix_result *result, sqf_error *err)
{
    const state *s = pipeline->device;
    const bool resident = s && job->factor && job->factor->resident == s->which;
    return sqf_device_quantize(pipeline->context, job, resident ? s->upper : NULL, out, result, err);
}

const sqf_engine sqf_engine_device = {
    .open = open_device,
    .close = close_device,
    .linear = make_linear,
    .drop = drop,
    .forget = forget,
    .begin = begin,
    .run = run,
    .collect = collect,
    .collected = collected,
    .factor = factor,
    .quantize = quantize,
};

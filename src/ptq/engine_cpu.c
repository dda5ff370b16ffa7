/* The heavy steps of a quantization on the CPU. */
#include "ptq/engine.h"

#include <stdio.h>
#include <string.h>

#include "ptq/pipeline.h"

static sqf_status open_cpu(sqf_pipeline *pipeline, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    SQF_TRY(sqf_kv_cache_create_layer(config, pipeline->calibration.length, &pipeline->cache, err));
    return sqf_workspace_create(config, &pipeline->workspace, err);
}

static void close_cpu(sqf_pipeline *pipeline)
{
    sqf_workspace_destroy(pipeline->workspace);
    sqf_kv_cache_destroy(pipeline->cache);
    pipeline->workspace = NULL;
    pipeline->cache = NULL;
}

static void drop(sqf_pipeline *pipeline, sqf_layer *layer, sqf_linear_kind kind)
{
    (void)pipeline;
    sqf_linear_destroy(layer->linear[kind]);
    layer->linear[kind] = NULL;
}

static sqf_status make_linear(sqf_pipeline *pipeline, sqf_layer *layer, sqf_linear_kind kind,
                              const sqf_linear_params *params, sqf_error *err)
{
    drop(pipeline, layer, kind);
    return sqf_linear_create(pipeline->context, params, &layer->linear[kind], err);
}

static void forget(sqf_pipeline *pipeline, const sqf_layer *layer)
{
    (void)pipeline, (void)layer; /* sqf_layer_clear frees its linear layers */
}

static sqf_status begin(sqf_pipeline *pipeline, const sqf_layer *layer, sqf_error *err)
{
    (void)pipeline, (void)layer, (void)err; /* weights are borrowed, norms are where they were */
    return SQF_OK;
}

static sqf_status run(sqf_pipeline *pipeline, const sqf_layer *layer, float *x, const sqf_layer_tap *tap,
                      sqf_error *err)
{
    return sqf_layer_forward(pipeline->context, &pipeline->checkpoint.config, layer, x, pipeline->calibration.length, 0,
                             sqf_kv_cache_layer(pipeline->cache, 0), tap, pipeline->workspace, err);
}

typedef struct collection {
    sqf_pipeline *pipeline;
    sqf_layer_work *work;
} collection;

static sqf_status collect_input(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                                sqf_error *err)
{
    const collection *c = user;
    sqf_stages_begin(&c->pipeline->stages, SQF_STAGE_HESSIAN);
    const sqf_status status = sqf_statistics_add(c->pipeline->context, &c->work->statistics[kind], x, tokens, err);
    sqf_stages_end(&c->pipeline->stages, sqf_hessian_operations(channels, tokens));
    return status == SQF_OK ? SQF_OK : sqf_engine_fail_input(c->work, kind, status, err);
}

sqf_status sqf_engine_fail_input(const sqf_layer_work *work, sqf_input_kind kind, sqf_status status, sqf_error *err)
{
    static const char *const readers[SQF_INPUT_COUNT] = {"self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj",
                                                         "mlp.down_proj"};
    char where[SQF_MODULE_NAME];
    snprintf(where, sizeof where, "input of model.layers.%zu.%s", work->index, readers[kind]);
    return sqf_fail_within(err, status, where);
}

static sqf_status collect(sqf_pipeline *pipeline, sqf_layer_work *work, const float *x, sqf_error *err)
{
    collection c = {.pipeline = pipeline, .work = work};
    const sqf_layer_tap tap = {.input = collect_input, .user = &c};
    const size_t floats = pipeline->calibration.length * pipeline->checkpoint.config.hidden;
    memcpy(pipeline->window, x, floats * sizeof *x);
    return run(pipeline, &work->layer, pipeline->window, &tap, err);
}

static sqf_status collected(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    (void)err;
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        sqf_statistics_finish(pipeline->context, &work->statistics[input]);
    }
    return SQF_OK;
}

static sqf_status factor(sqf_pipeline *pipeline, const char *name, const float *hessian, size_t channel_count,
                         const int32_t *channels, double damping, sqf_factor *out, sqf_error *err)
{
    return sqf_factor_create(pipeline->context, name, hessian, channel_count, channels, damping, out, err);
}

static sqf_status quantize(sqf_pipeline *pipeline, const sqf_matrix_job *job, sqf_matrix *out,
                           sqf_matrix_result *result, sqf_error *err)
{
    return sqf_matrix_quantize(pipeline->context, job, out, result, err);
}

const sqf_engine sqf_engine_cpu = {
    .open = open_cpu,
    .close = close_cpu,
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

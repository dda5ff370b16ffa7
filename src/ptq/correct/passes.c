/* The original layer beside the one at work, and the passes that compare their inputs. */
#include "ptq/correct/passes.h"

#include <string.h>

/* With 2.7 tokens a channel the demo model's W4A4 got worse, with 13 better. */
enum { TOKENS_A_CHANNEL = 8 };

static sqf_status copy_floats(const float *from, size_t n, float **out, sqf_error *err)
{
    if (from) {
        SQF_TRY(SQF_ALLOC(out, n, "a copy of the layer", err));
        memcpy(*out, from, n * sizeof **out);
    }
    return SQF_OK;
}

static sqf_status copy_linear(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_linear_kind kind, sqf_error *err)
{
    sqf_layer *reference = &work->reference;
    char module[SQF_MODULE_NAME];
    float *weights = NULL;
    sqf_linear_params params = {
        .name = module, .bias = work->bias[kind], .dense_type = SQF_TYPE_FP32, .activations = sqf_float_activations};
    sqf_linear_name(work->index, kind, module);
    sqf_linear_shape(&pipeline->checkpoint.config, kind, &params.rows, &params.columns);
    SQF_TRY(copy_floats(work->weights[kind], params.rows * params.columns, &weights, err));
    reference->owned[kind] = weights;
    params.dense = weights;
    return pipeline->engine->linear(pipeline, reference, kind, &params, err);
}

sqf_status sqf_layer_work_keep_reference(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const sqf_layer *layer = &work->layer;
    sqf_layer *reference = &work->reference;
    reference->index = work->index;
    reference->down_rotation = layer->down_rotation; /* borrowed: both live as long as the work */
    SQF_TRY(copy_floats(layer->attention_norm, config->hidden, &reference->attention_norm, err));
    SQF_TRY(copy_floats(layer->mlp_norm, config->hidden, &reference->mlp_norm, err));
    SQF_TRY(copy_floats(layer->query_norm, config->head_dim, &reference->query_norm, err));
    SQF_TRY(copy_floats(layer->key_norm, config->head_dim, &reference->key_norm, err));
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        SQF_TRY(copy_linear(pipeline, work, (sqf_linear_kind)kind, err));
    }
    return SQF_OK;
}

sqf_status sqf_layer_work_run_reference(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    return sqf_pipeline_run_windows(pipeline, &work->reference, pipeline->original, NULL, err);
}

/* What one window shows of one input. */
typedef struct comparison {
    sqf_pipeline *pipeline;
    sqf_input_kind input;
    const sqf_linear *probe;
    const float *factors;      /* smoothing of the input, which the copy of the layer does not know; NULL = none */
    float *wanted, *quantized; /* [length, K] */
    sqf_input *prepared;
    bool reference; /* the pass at hand is that of the original layer */
    sqf_correction *out;
} comparison;

static void keep_wanted(comparison *c, const float *x, size_t tokens, size_t channels)
{
    memcpy(c->wanted, x, tokens * channels * sizeof *x);
    for (size_t i = 0; c->factors && i < tokens * channels; i++) {
        c->wanted[i] /= c->factors[i % channels];
    }
}

static sqf_status compare_input(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                                sqf_error *err)
{
    comparison *c = user;
    if (kind != c->input) {
        return SQF_OK;
    }
    if (c->reference) {
        keep_wanted(c, x, tokens, channels);
        return SQF_OK;
    }
    const float *quantized = x;
    if (c->probe) {
        SQF_TRY(sqf_input_prepare(c->pipeline->context, c->prepared, c->probe, x, tokens, err));
        sqf_input_dequantize(c->prepared, c->quantized);
        quantized = c->quantized;
    }
    const float *wanted = c->wanted ? c->wanted : x;
    return sqf_correction_add(c->pipeline->context, c->out, wanted, quantized, tokens, err);
}

static sqf_status compare_window(comparison *c, sqf_layer_work *work, size_t window, sqf_error *err)
{
    sqf_pipeline *pipeline = c->pipeline;
    const sqf_layer_tap tap = {.input = compare_input, .user = c, .stops = true, .last = c->input};
    if (c->wanted) {
        c->reference = true;
        SQF_TRY(sqf_pipeline_run_window(pipeline, &work->reference, pipeline->original, window, &tap, err));
    }
    c->reference = false;
    return sqf_pipeline_run_window(pipeline, &work->layer, pipeline->hidden, window, &tap, err);
}

static sqf_status compare_windows(comparison *c, sqf_layer_work *work, sqf_error *err)
{
    sqf_pipeline *pipeline = c->pipeline;
    const size_t channels = c->out->quantized.channels, floats = pipeline->calibration.length * channels;
    if (work->reference.attention_norm) {
        SQF_TRY(SQF_ALLOC(&c->wanted, floats, "inputs of a layer", err));
    }
    SQF_TRY(SQF_ALLOC(&c->quantized, floats, "inputs of a layer", err));
    SQF_TRY(sqf_input_create(&c->prepared, err));
    SQF_TRY(c->wanted ? pipeline->engine->begin(pipeline, &work->reference, err) : SQF_OK);
    SQF_TRY(pipeline->engine->begin(pipeline, &work->layer, err));
    for (size_t w = 0; w < pipeline->calibration.windows; w++) {
        SQF_TRY(compare_window(c, work, w, err));
        SQF_TRY(sqf_pipeline_advance(pipeline, err));
    }
    sqf_correction_finish(pipeline->context, c->out);
    return SQF_OK;
}

sqf_status sqf_layer_work_correct(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input,
                                  const sqf_linear *probe, sqf_correction *out, sqf_error *err)
{
    comparison c = {.pipeline = pipeline, .input = input, .probe = probe, .factors = work->factors[input], .out = out};
    const size_t channels = work->statistics[input].channels;
    const size_t tokens = pipeline->calibration.windows * pipeline->calibration.length;
    if (work->index == 0 && work->reference.attention_norm && tokens / TOKENS_A_CHANNEL < channels) {
        sqf_log(
            pipeline->context, SQF_LOG_WARNING,
            "compensate gptq-model: %zu calibration tokens for an input of %zu channels fit their noise, expected %zu "
            "or more",
            tokens, channels, TOKENS_A_CHANNEL * channels);
    }
    SQF_TRY(sqf_correction_create(channels, out, err));
    const sqf_status status = compare_windows(&c, work, err);
    sqf_input_destroy(c.prepared);
    free(c.wanted);
    free(c.quantized);
    return status;
}

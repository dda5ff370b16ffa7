/* A pass of the calibration text through the original model. */
#include "ptq/rotation/collect.h"

#include <math.h>
#include <string.h>

void sqf_stream_clear(sqf_stream_sample *sample)
{
    sqf_statistics_clear(&sample->statistics);
    free(sample->values);
    free(sample->weight);
    *sample = (sqf_stream_sample){0};
}

typedef struct collection {
    sqf_pipeline *pipeline;
    const sqf_layer_work *work;
    sqf_stream_sample *out;
    size_t window; /* at work */
} collection;

/* Tokens are taken at even distances over all windows, and dealt out to the batches. */
static void keep_tokens(const collection *c, size_t input, const float *x, size_t length, size_t hidden)
{
    const size_t all = length * c->pipeline->calibration.windows, kept = c->out->tokens * SQF_STREAM_BATCHES;
    for (size_t i = 0; i < kept; i++) {
        const size_t token = i * all / kept, batch = i % SQF_STREAM_BATCHES, slot = i / SQF_STREAM_BATCHES;
        float *to = c->out->values + ((batch * c->out->inputs + input) * c->out->tokens + slot) * hidden;
        if (token / length == c->window) {
            memcpy(to, x + token % length * hidden, hidden * sizeof *to);
        }
    }
}

static sqf_status collect_input(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                                sqf_error *err)
{
    const collection *c = user;
    if (kind != SQF_INPUT_QKV && kind != SQF_INPUT_GATE_UP) {
        return SQF_OK;
    }
    if (c->out->values) {
        keep_tokens(c, 2 * c->work->index + (kind == SQF_INPUT_GATE_UP), x, tokens, channels);
    }
    return sqf_statistics_add(c->pipeline->context, &c->out->statistics, x, tokens, err);
}

/* Gains go into the weights that read the norm, which so comes out without them. */
static void fold_gains(const sqf_config *config, sqf_layer_work *work)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        const sqf_input_kind input = sqf_linear_input((sqf_linear_kind)kind);
        const float *gain = input == SQF_INPUT_QKV ? work->layer.attention_norm : work->layer.mlp_norm;
        size_t rows, columns;
        if (input != SQF_INPUT_QKV && input != SQF_INPUT_GATE_UP) {
            continue;
        }
        sqf_linear_shape(config, (sqf_linear_kind)kind, &rows, &columns);
        for (size_t i = 0; i < rows * columns; i++) {
            work->weights[kind][i] *= gain[i % columns];
        }
    }
    for (size_t j = 0; j < config->hidden; j++) {
        work->layer.attention_norm[j] = work->layer.mlp_norm[j] = 1.0f;
    }
}

/* ||W||^2 / n over the mean of ||W x||^2, for the modules that read one input. */
static double input_weight(const sqf_config *config, const sqf_layer_work *work, sqf_input_kind input, const float *x,
                           size_t tokens)
{
    double squares = 0.0, outputs = 0.0;
    size_t columns = config->hidden;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        size_t rows;
        if (sqf_linear_input((sqf_linear_kind)kind) != input) {
            continue;
        }
        sqf_linear_shape(config, (sqf_linear_kind)kind, &rows, &columns);
        for (size_t n = 0; n < rows; n++) {
            const float *row = work->weights[kind] + n * columns;
            for (size_t j = 0; j < columns; j++) {
                squares += (double)row[j] * (double)row[j];
            }
            for (size_t t = 0; t < tokens; t += 8) { /* an eighth of the tokens tells the size well enough */
                double sum = 0.0;
                for (size_t j = 0; j < columns; j++) {
                    sum += (double)row[j] * (double)x[t * columns + j];
                }
                outputs += sum * sum;
            }
        }
    }
    outputs /= (double)((tokens + 7) / 8);
    return outputs > 0.0 ? squares / outputs : 0.0;
}

static sqf_status pass_layer(sqf_pipeline *pipeline, sqf_layer_work *work, float *stream, sqf_stream_sample *out,
                             sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const size_t length = pipeline->calibration.length, hidden = config->hidden;
    collection c = {.pipeline = pipeline, .work = work, .out = out};
    const sqf_layer_tap tap = {.input = collect_input, .user = &c};
    SQF_TRY(sqf_layer_work_load(pipeline, work, err));
    fold_gains(config, work);
    SQF_TRY(sqf_layer_work_linears(pipeline, work, err));
    SQF_TRY(pipeline->engine->begin(pipeline, &work->layer, err));
    for (; c.window < pipeline->calibration.windows; c.window++) {
        SQF_TRY(pipeline->engine->run(pipeline, &work->layer, stream + c.window * length * hidden, &tap, err));
        SQF_TRY(sqf_pipeline_advance(pipeline, err));
    }
    for (size_t i = 0; i < 2 && out->values; i++) {
        const size_t input = 2 * work->index + i;
        out->weight[input] = input_weight(config, work, i == 0 ? SQF_INPUT_QKV : SQF_INPUT_GATE_UP,
                                          out->values + input * out->tokens * hidden, out->tokens);
    }
    return SQF_OK;
}

static sqf_status pass_layers(sqf_pipeline *pipeline, float *stream, sqf_stream_sample *out, sqf_error *err)
{
    for (size_t i = 0; i < pipeline->plan.layers; i++) {
        sqf_layer_work work = {.index = i, .plan = &pipeline->plan.layer[i], .forward = true};
        const sqf_status status = pass_layer(pipeline, &work, stream, out, err);
        sqf_layer_work_end(pipeline, &work);
        SQF_TRY(status);
    }
    sqf_statistics_finish(pipeline->context, &out->statistics);
    return SQF_OK;
}

static sqf_status create_sample(const sqf_pipeline *pipeline, bool samples, sqf_stream_sample *out, sqf_error *err)
{
    const size_t hidden = pipeline->checkpoint.config.hidden;
    const size_t all = pipeline->calibration.windows * pipeline->calibration.length;
    const size_t share = sqf_ceil_div(all, SQF_STREAM_BATCHES);
    *out = (sqf_stream_sample){.inputs = 2 * pipeline->plan.layers,
                               .tokens = share < SQF_STREAM_SAMPLES ? share : SQF_STREAM_SAMPLES};
    SQF_TRY(sqf_statistics_create(hidden, true, &out->statistics, err));
    if (!samples) {
        return SQF_OK;
    }
    SQF_TRY(SQF_ALLOC(&out->values, SQF_STREAM_BATCHES * out->inputs * out->tokens * hidden,
                      "samples of the residual stream", err));
    return SQF_ALLOC(&out->weight, out->inputs, "samples of the residual stream", err);
}

sqf_status sqf_stream_collect(sqf_pipeline *pipeline, bool samples, sqf_stream_sample *out, sqf_error *err)
{
    const size_t floats =
        pipeline->calibration.windows * pipeline->calibration.length * pipeline->checkpoint.config.hidden;
    float *stream = NULL;
    sqf_status status;
    SQF_TRY_GOTO(status, create_sample(pipeline, samples, out, err), failed);
    SQF_TRY_GOTO(status, SQF_ALLOC(&stream, floats, "calibration activations", err), failed);
    memcpy(stream, pipeline->hidden, floats * sizeof *stream);
    SQF_TRY_GOTO(status, pass_layers(pipeline, stream, out, err), failed);
    free(stream);
    return SQF_OK;
failed:
    free(stream);
    sqf_stream_clear(out);
    return status;
}

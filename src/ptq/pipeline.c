/* From a checkpoint to a quantized model: the recipe is checked, then layer by layer load, collect, smooth, quantize,
 * write, run, free. Memory: the calibration activations and one layer. docs/format.md section 10, docs/algorithms.md */
#include "ptq/mask/layer.h"

#include <math.h>
#include <string.h>

#include "kernels/ops.h"
#include "ptq/correct/passes.h"
#include "ptq/rotation/rotation.h"
#include "ptq/vocabulary.h"

sqf_quantize_options sqf_quantize_options_default(void)
{
    return (sqf_quantize_options){.samples = 32, .length = 2048, .shard_bytes = 5000000000u};
}

static sqf_status report_progress(sqf_pipeline *pipeline, sqf_error *err)
{
    const char *what = pipeline->plan.passes > 0 ? "windows" : "layers";
    pipeline->context->time_left = sqf_stages_left(&pipeline->stages);
    return sqf_progress(pipeline->context, what, pipeline->done, pipeline->total, err);
}

/* ---- passes of the calibration text ---- */

sqf_status sqf_pipeline_advance(sqf_pipeline *pipeline, sqf_error *err)
{
    pipeline->done++;
    return report_progress(pipeline, err);
}

sqf_status sqf_pipeline_run_window(sqf_pipeline *pipeline, const sqf_layer *layer, float *stream, size_t window,
                                   const sqf_layer_tap *tap, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const size_t length = pipeline->calibration.length, floats = length * config->hidden;
    float *x = stream + window * floats;
    if (tap) {
        x = memcpy(pipeline->window, x, floats * sizeof *x);
    }
    sqf_stages_begin(&pipeline->stages, tap ? SQF_STAGE_FORWARD : SQF_STAGE_REFORWARD);
    const sqf_status status = pipeline->engine->run(pipeline, layer, x, tap, err);
    sqf_stages_end(&pipeline->stages, sqf_forward_operations(config, length));
    return status;
}

sqf_status sqf_pipeline_run_windows(sqf_pipeline *pipeline, const sqf_layer *layer, float *stream,
                                    const sqf_layer_tap *tap, sqf_error *err)
{
    SQF_TRY(pipeline->engine->begin(pipeline, layer, err));
    for (size_t w = 0; w < pipeline->calibration.windows; w++) {
        SQF_TRY(sqf_pipeline_run_window(pipeline, layer, stream, w, tap, err));
        SQF_TRY(sqf_pipeline_advance(pipeline, err));
    }
    return SQF_OK;
}

static size_t input_channels(const sqf_config *config, sqf_input_kind input)
{
    size_t rows, columns = 0;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (sqf_linear_input((sqf_linear_kind)kind) == input) {
            sqf_linear_shape(config, (sqf_linear_kind)kind, &rows, &columns);
        }
    }
    return columns;
}

/* The original layer shows its inputs to the statistics. */
static sqf_status collect_windows(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const size_t length = pipeline->calibration.length;
    SQF_TRY(pipeline->engine->begin(pipeline, &work->layer, err));
    for (size_t w = 0; w < pipeline->calibration.windows; w++) {
        sqf_stages_begin(&pipeline->stages, SQF_STAGE_FORWARD);
        SQF_TRY(pipeline->engine->collect(pipeline, work, pipeline->hidden + w * length * config->hidden, err));
        sqf_stages_end(&pipeline->stages, sqf_forward_operations(config, length));
        SQF_TRY(sqf_pipeline_advance(pipeline, err));
    }
    return SQF_OK;
}

/* Statistics of the four inputs from one pass through the original layer. */
static sqf_status collect_statistics(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    const double start = sqf_clock_seconds();
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        const size_t channels = input_channels(&pipeline->checkpoint.config, (sqf_input_kind)input);
        SQF_TRY(sqf_statistics_create(channels, true, &work->statistics[input], err));
        SQF_TRY(sqf_layer_work_keep_sample(pipeline, work, (sqf_input_kind)input, err));
    }
    SQF_TRY(collect_windows(pipeline, work, err));
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_HESSIAN);
    SQF_TRY(pipeline->engine->collected(pipeline, work, err));
    sqf_stages_end(&pipeline->stages, 0.0);
    pipeline->report.calibration_seconds += sqf_clock_seconds() - start;
    return SQF_OK;
}

/* ---- one layer ---- */

static void log_layer(const sqf_pipeline *pipeline, const sqf_layer_work *work, double seconds)
{
    const double mean = work->output_error / (double)work->matrices;
    if (work->matrices == 0) {
        sqf_log(pipeline->context, SQF_LOG_INFO, "layer %zu of %zu: left dense, %.2f s", work->index + 1,
                pipeline->plan.layers, seconds);
    } else if (work->forward) {
        sqf_log(pipeline->context, SQF_LOG_INFO,
                "layer %zu of %zu: %zu matrices, output error mean %.3g largest %.3g, %.2f s", work->index + 1,
                pipeline->plan.layers, work->matrices, mean, work->worst_error, seconds);
    } else {
        sqf_log(pipeline->context, SQF_LOG_INFO, "layer %zu of %zu: %zu matrices rounded without calibration, %.2f s",
                work->index + 1, pipeline->plan.layers, work->matrices, seconds);
    }
}

/* The visitor may do with the layer what it likes but change it; the windows go on through the original. */
static sqf_status measure_layer(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    const sqf_calibration *calibration = &pipeline->calibration;
    SQF_TRY(pipeline->visitor->layer(pipeline->visitor->user, pipeline, work, err));
    if (!work->feeds) {
        return SQF_OK;
    }
    SQF_TRY(sqf_pipeline_run_windows(pipeline, &work->layer, pipeline->hidden, NULL, err));
    if (pipeline->original) {
        const size_t floats = calibration->windows * calibration->length * pipeline->checkpoint.config.hidden;
        memcpy(pipeline->original, pipeline->hidden, floats * sizeof *pipeline->original);
    }
    return SQF_OK;
}

static sqf_status report_inputs(sqf_pipeline *pipeline, const sqf_layer_work *work, sqf_error *err)
{
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        SQF_TRY(
            sqf_report_add_input(&pipeline->report, work->index, (sqf_input_kind)input, &work->statistics[input], err));
    }
    return SQF_OK;
}

static sqf_status work_on_layer(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    const double weights = sqf_layer_weights(&pipeline->checkpoint.config);
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_LOAD);
    SQF_TRY(sqf_layer_work_load(pipeline, work, err));
    sqf_stages_end(&pipeline->stages, weights);
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_ROTATE);
    SQF_TRY(sqf_layer_work_rotate(pipeline, work, err));
    sqf_stages_end(&pipeline->stages, weights);
    if (work->forward) {
        SQF_TRY(sqf_layer_work_linears(pipeline, work, err));
    }
    if (work->forward && pipeline->original) {
        SQF_TRY(sqf_layer_work_keep_reference(pipeline, work, err));
    }
    if (work->forward && work->plan->quantized) {
        SQF_TRY(collect_statistics(pipeline, work, err));
    }
    if (pipeline->measuring) {
        return measure_layer(pipeline, work, err);
    }
    if (work->forward && work->plan->quantized) {
        sqf_stages_begin(&pipeline->stages, SQF_STAGE_SMOOTH);
        SQF_TRY(sqf_layer_work_smooth(pipeline, work, err));
        SQF_TRY(report_inputs(pipeline, work, err));
        sqf_stages_end(&pipeline->stages, weights);
        sqf_stages_begin(&pipeline->stages, SQF_STAGE_MASK);
        SQF_TRY(sqf_layer_work_allot(pipeline, work, err));
        sqf_stages_end(&pipeline->stages, 0.0);
    }
    SQF_TRY(sqf_layer_work_write_norms(pipeline, work, err));
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        SQF_TRY(sqf_layer_work_quantize(pipeline, work, (sqf_input_kind)input, err));
        SQF_TRY(report_progress(pipeline, err));
    }
    if (work->feeds && pipeline->original) {
        SQF_TRY(sqf_layer_work_run_reference(pipeline, work, err));
    }
    return work->feeds ? sqf_pipeline_run_windows(pipeline, &work->layer, pipeline->hidden, NULL, err) : SQF_OK;
}

/* The layer's tensors will not be read again. */
static void forget_tensors(const sqf_pipeline *pipeline, size_t index)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
        sqf_linear_name(index, (sqf_linear_kind)kind, module);
        sqf_tensor_name(module, "weight", name);
        const sqf_tensor *tensor = sqf_tensors_find(pipeline->checkpoint.tensors, name);
        if (tensor) {
            sqf_mapping_forget(tensor->data, tensor->bytes);
        }
    }
}

/* What is left after a layer, for those who look on and for report.json, where it can be checked afterwards. */
static sqf_status note_progress(sqf_pipeline *pipeline, size_t index, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const bool calibrated = index < pipeline->plan.passes;
    sqf_stages_count(&pipeline->stages, SQF_STAGE_OTHER, 1.0);
    sqf_stages_count(&pipeline->stages, SQF_STAGE_MASK, calibrated ? sqf_layer_weights(config) : 0.0);
    const double elapsed = sqf_clock_seconds() - pipeline->started, left = sqf_stages_left(&pipeline->stages);
    sqf_log(pipeline->context, SQF_LOG_DEBUG, "layer %zu of %zu: after %.1f s, %.1f s left", index + 1,
            pipeline->plan.layers, elapsed, left);
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_OTHER); /* the clocks stand at the last change of stage */
    sqf_stages_end(&pipeline->stages, 0.0);
    return sqf_report_add_progress(&pipeline->report, index, &pipeline->stages, elapsed, err);
}

static sqf_status quantize_layer(sqf_pipeline *pipeline, size_t index, sqf_error *err)
{
    const double start = sqf_clock_seconds();
    sqf_layer_work work = {.index = index,
                           .plan = &pipeline->plan.layer[index],
                           .forward = index < pipeline->plan.passes,
                           .feeds = sqf_plan_feeds(&pipeline->plan, index)};
    work.chained = work.feeds || (work.forward && work.plan->corrects);
    sqf_status status = work_on_layer(pipeline, &work, err);
    if (status == SQF_OK) {
        log_layer(pipeline, &work, sqf_clock_seconds() - start);
        status = note_progress(pipeline, index, err);
    }
    sqf_layer_work_end(pipeline, &work);
    forget_tensors(pipeline, index);
    return status;
}

/* ---- the whole model ---- */

/* Rows of the embedding for all tokens of the calibration windows. */
static sqf_status embed_windows(sqf_pipeline *pipeline, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const sqf_calibration *calibration = &pipeline->calibration;
    const size_t tokens = calibration->windows * calibration->length; /* checked when the windows were cut */
    const sqf_tensor *embedding;
    size_t floats;
    if (!sqf_mul_size(&floats, tokens, config->hidden)) {
        return sqf_fail(err, SQF_E_ARG, "calibration: %zu tokens of %zu channels are too many", tokens, config->hidden);
    }
    SQF_TRY(sqf_checkpoint_dense(&pipeline->checkpoint, pipeline->context, "model.embed_tokens.weight",
                                 config->vocabulary, config->hidden, &embedding, err));
    SQF_TRY(SQF_ALLOC(&pipeline->hidden, floats, "calibration activations", err));
    const size_t row_bytes = config->hidden * sqf_dtype_bytes(embedding->dtype);
    for (size_t t = 0; t < tokens; t++) {
        sqf_to_float(sqf_dtype_type(embedding->dtype), embedding->data + calibration->ids[t] * row_bytes,
                     config->hidden, pipeline->hidden + t * config->hidden);
    }
    return SQF_OK;
}

static sqf_status prepare_calibration(sqf_pipeline *pipeline, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const sqf_calibration *calibration = &pipeline->calibration;
    SQF_TRY(
        sqf_calibration_load(pipeline->checkpoint.directory, config, pipeline->options, &pipeline->calibration, err));
    sqf_log(pipeline->context, SQF_LOG_INFO, "calibration: %zu windows of %zu tokens from a text of %zu",
            calibration->windows, calibration->length, calibration->tokens);
    SQF_TRY(embed_windows(pipeline, err));
    const size_t length = calibration->length;
    if (pipeline->plan.follows_model) {
        const size_t floats = calibration->windows * length * config->hidden;
        SQF_TRY(SQF_ALLOC(&pipeline->original, floats, "calibration activations", err));
        memcpy(pipeline->original, pipeline->hidden, floats * sizeof *pipeline->original);
    }
    SQF_TRY(SQF_ALLOC(&pipeline->window, length * config->hidden, "a calibration window", err));
    SQF_TRY(pipeline->engine->open(pipeline, err));
    pipeline->report.calibration_tokens = calibration->windows * length;
    return SQF_OK;
}

static void count_work(sqf_pipeline *pipeline)
{
    const sqf_plan *plan = &pipeline->plan;
    if (plan->passes == 0) {
        pipeline->total = plan->layers;
        return;
    }
    pipeline->total += sqf_rotation_passes(plan) * pipeline->calibration.windows;
    for (size_t i = 0; i < plan->passes; i++) {
        const bool feeds = sqf_plan_feeds(plan, i);
        size_t passes = (size_t)plan->layer[i].quantized + feeds + (feeds && plan->follows_model);
        for (int input = 0; input < SQF_INPUT_COUNT; input++) {
            passes += sqf_layer_plan_corrects(&plan->layer[i], (sqf_input_kind)input);
        }
        pipeline->total += passes * pipeline->calibration.windows;
    }
    pipeline->total += plan->feeds_output ? pipeline->calibration.windows : 0;
}

static sqf_status quantize_layers(sqf_pipeline *pipeline, sqf_error *err)
{
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_VOCABULARY);
    SQF_TRY(sqf_vocabulary_write_embedding(pipeline, err));
    sqf_stages_end(&pipeline->stages, 0.0);
    for (size_t i = 0; i < pipeline->plan.layers; i++) {
        SQF_TRY(quantize_layer(pipeline, i, err));
        pipeline->done += pipeline->plan.passes == 0;
        SQF_TRY(report_progress(pipeline, err));
    }
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_VOCABULARY);
    SQF_TRY(sqf_vocabulary_write_output(pipeline, err));
    sqf_stages_end(&pipeline->stages, sqf_vocabulary_operations(pipeline));
    return SQF_OK;
}

static sqf_status finish(sqf_pipeline *pipeline, const sqf_recipe *recipe, double start, sqf_quantize_summary *summary,
                         sqf_error *err)
{
    uint64_t bytes;
    char *report;
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_FINISH);
    SQF_TRY(sqf_model_output_seal(&pipeline->output, &bytes, err));
    sqf_stages_end(&pipeline->stages, (double)pipeline->plan.layers * sqf_layer_weights(&pipeline->checkpoint.config));
    SQF_TRY(sqf_model_output_describe(&pipeline->output, &pipeline->plan, recipe, err));
    if (pipeline->visitor && pipeline->visitor->written) {
        SQF_TRY(pipeline->visitor->written(pipeline->visitor->user, sqf_output_path(pipeline->output.output),
                                           &pipeline->report.budget, err));
    }
    *summary = sqf_report_summary(&pipeline->report, sqf_clock_seconds() - start, bytes);
    memcpy(summary->stages, pipeline->stages.stage, sizeof summary->stages);
    SQF_TRY(sqf_report_print(&pipeline->report, summary, &recipe->base, pipeline->options,
                             pipeline->plan.passes > 0 ? &pipeline->calibration : NULL, &report, err));
    const sqf_status status = sqf_model_output_commit(&pipeline->output, "report.json", report, err);
    free(report);
    return status;
}

/* The checkpoint, and what is done with each of its modules. */
static sqf_status open_original(sqf_pipeline *pipeline, const char *directory, const sqf_recipe *recipe, sqf_error *err)
{
    const bool calibrated = pipeline->options->calibration || pipeline->options->calibration_ids;
    SQF_TRY(sqf_checkpoint_open(directory, &pipeline->checkpoint, err));
    if (pipeline->checkpoint.schemes) {
        return sqf_fail(err, SQF_E_ARG, "%s: is quantized already, expected an original checkpoint", directory);
    }
    return sqf_plan_create(&pipeline->checkpoint.config, recipe, calibrated, &pipeline->plan, err);
}

static sqf_status run(sqf_pipeline *pipeline, const char *model_directory, const char *output_directory,
                      const sqf_recipe *recipe, sqf_quantize_summary *summary, sqf_error *err)
{
    const double start = pipeline->started = sqf_clock_seconds();
    const sqf_quantize_options *options = pipeline->options;
    sqf_stages_start(&pipeline->stages, NULL, NULL);
    SQF_TRY(open_original(pipeline, model_directory, recipe, err));
    SQF_TRY(sqf_model_output_begin(pipeline->context, &pipeline->checkpoint, output_directory, options,
                                   &pipeline->output, err));
    if (pipeline->plan.unsmoothed > 0) { /* said no earlier than the work begins: a refusal is one line */
        sqf_log(pipeline->context, SQF_LOG_WARNING,
                "%zu inputs are not smoothed: a module that reads or makes them is left unquantized",
                pipeline->plan.unsmoothed);
    }
    if (pipeline->plan.passes > 0) {
        SQF_TRY(prepare_calibration(pipeline, err));
    }
    count_work(pipeline);
    sqf_pipeline_expect(pipeline);
    SQF_TRY(sqf_rotation_prepare(pipeline, err));
    SQF_TRY(quantize_layers(pipeline, err));
    return finish(pipeline, recipe, start, summary, err);
}

/* The same passes without an output. */
static sqf_status measure(sqf_pipeline *pipeline, const char *model_directory, const sqf_recipe *recipe,
                          bool follow_model, sqf_error *err)
{
    SQF_TRY(open_original(pipeline, model_directory, recipe, err));
    pipeline->plan.follows_model = pipeline->plan.follows_model || follow_model;
    pipeline->plan.feeds_output = false; /* layers alone are measured */
    pipeline->output = (sqf_model_output){.context = pipeline->context, .checkpoint = &pipeline->checkpoint};
    SQF_TRY(prepare_calibration(pipeline, err));
    count_work(pipeline);
    sqf_pipeline_expect(pipeline);
    SQF_TRY(sqf_rotation_prepare(pipeline, err));
    for (size_t i = 0; i < pipeline->plan.passes; i++) {
        SQF_TRY(quantize_layer(pipeline, i, err));
    }
    return SQF_OK;
}

static void pipeline_clear(sqf_pipeline *pipeline)
{
    pipeline->context->time_left = -1.0;
    sqf_model_output_abort(&pipeline->output);
    pipeline->engine->close(pipeline);
    free(pipeline->hidden);
    free(pipeline->original);
    free(pipeline->basis);
    free(pipeline->window);
    sqf_report_clear(&pipeline->report);
    sqf_calibration_clear(&pipeline->calibration);
    sqf_plan_clear(&pipeline->plan);
    sqf_checkpoint_close(&pipeline->checkpoint);
}

sqf_status sqf_pipeline_measure(sqf_context *context, const char *model_directory, const sqf_recipe *recipe,
                                const sqf_quantize_options *options, bool follow_model,
                                const sqf_pipeline_visitor *visitor, sqf_error *err)
{
    /* visitors compute with the layers themselves, on the CPU */
    sqf_pipeline pipeline = {
        .context = context, .options = options, .visitor = visitor, .measuring = true, .engine = &sqf_engine_cpu};
    const sqf_status status = measure(&pipeline, model_directory, recipe, follow_model, err);
    pipeline_clear(&pipeline);
    return status;
}

sqf_status sqf_pipeline_quantize(sqf_context *context, const char *model_directory, const char *output_directory,
                                 const sqf_recipe *recipe, const sqf_quantize_options *options,
                                 const sqf_pipeline_visitor *visitor, sqf_quantize_summary *summary, sqf_error *err)
{
    sqf_pipeline pipeline = {.context = context,
                             .options = options,
                             .visitor = visitor,
                             .engine = context->device ? &sqf_engine_device : &sqf_engine_cpu};
    sqf_quantize_summary result;
    const sqf_status status = run(&pipeline, model_directory, output_directory, recipe, &result, err);
    pipeline_clear(&pipeline);
    if (status == SQF_OK && summary) {
        *summary = result;
    }
    return status;
}

sqf_status sqf_quantize(sqf_context *context, const char *model_directory, const char *output_directory,
                        const sqf_recipe *recipe, const sqf_quantize_options *options, sqf_quantize_summary *summary,
                        sqf_error *err)
{
    return sqf_pipeline_quantize(context, model_directory, output_directory, recipe, options, NULL, summary, err);
}

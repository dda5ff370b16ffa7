/* How much work a quantization is, stage by stage: what the time left is computed from. Operations are counted as BLAS
 * counts them, 2 a multiply-accumulate. */
#include "ptq/pipeline.h"

#include "ptq/rotation/rotation.h"

/* What a weight costs where it is only rounded, in operations. */
static const double round_cost = 50.0;

double sqf_forward_operations(const sqf_config *config, size_t tokens)
{
    /* scores and weighted values, of half of all pairs */
    const double attention = 2.0 * (double)tokens * (double)(config->heads * config->head_dim);
    return 2.0 * (double)tokens * sqf_layer_weights(config) + (double)tokens * attention;
}

double sqf_linear_weights(const sqf_config *config, sqf_linear_kind kind)
{
    size_t rows, columns;
    sqf_linear_shape(config, kind, &rows, &columns);
    return (double)rows * (double)columns;
}

/* H += x^T x, one triangle. */
double sqf_hessian_operations(size_t channels, size_t tokens)
{
    return (double)channels * (double)channels * (double)tokens;
}

/* Cholesky and the inverse of a triangle. */
double sqf_factor_operations(size_t channels)
{
    const double n = (double)channels;
    return n * n * n * (2.0 / 3.0);
}

/* Propagated errors, and tr(D H D^T) of the weights and of what rounding changed. */
double sqf_quantize_operations(size_t rows, size_t columns, bool calibrated)
{
    const double weights = (double)rows * (double)columns;
    return calibrated ? weights * 3.0 * (double)columns : weights * round_cost;
}

/* What one input of a layer is worth: its statistics, its factor, the modules that read it. */
static void expect_input(sqf_pipeline *pipeline, size_t index, sqf_input_kind input)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const sqf_layer_plan *plan = &pipeline->plan.layer[index];
    const bool calibrated = index < pipeline->plan.passes;
    const size_t tokens = pipeline->calibration.windows * pipeline->calibration.length;
    size_t columns = 0, quantized = 0;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        size_t rows;
        if (sqf_linear_input((sqf_linear_kind)kind) != input) {
            continue;
        }
        sqf_linear_shape(config, (sqf_linear_kind)kind, &rows, &columns);
        if (plan->module[kind].quantized) {
            quantized++;
            sqf_stages_expect(&pipeline->stages, SQF_STAGE_QUANTIZE,
                              sqf_quantize_operations(rows, columns, calibrated));
        }
    }
    if (calibrated && plan->quantized) {
        sqf_stages_expect(&pipeline->stages, SQF_STAGE_HESSIAN, sqf_hessian_operations(columns, tokens));
    }
    if (calibrated && quantized > 0) {
        const bool corrects = sqf_layer_plan_corrects(plan, input);
        sqf_stages_expect(&pipeline->stages, SQF_STAGE_FACTOR, sqf_factor_operations(columns));
        sqf_stages_expect(&pipeline->stages, SQF_STAGE_CORRECT,
                          corrects ? sqf_hessian_operations(columns, tokens) : 0.0);
    }
}

/* Passes of text: a layer that is quantized shows its inputs once, one that feeds others runs once more. */
static void expect_passes(sqf_pipeline *pipeline, size_t index)
{
    const sqf_plan *plan = &pipeline->plan;
    const bool feeds = sqf_plan_feeds(plan, index);
    const double pass = (double)pipeline->calibration.windows *
                        sqf_forward_operations(&pipeline->checkpoint.config, pipeline->calibration.length);
    double looks = plan->layer[index].quantized ? 1.0 : 0.0;
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        looks +=
            sqf_layer_plan_corrects(&plan->layer[index], (sqf_input_kind)input) ? plan->follows_model ? 2.0 : 1.0 : 0.0;
    }
    sqf_stages_expect(&pipeline->stages, SQF_STAGE_FORWARD, looks * pass);
    sqf_stages_expect(&pipeline->stages, SQF_STAGE_REFORWARD, (feeds ? plan->follows_model ? 2.0 : 1.0 : 0.0) * pass);
}

double sqf_layer_weights(const sqf_config *config)
{
    double weights = 0.0;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        weights += sqf_linear_weights(config, (sqf_linear_kind)kind);
    }
    return weights;
}

double sqf_vocabulary_operations(const sqf_pipeline *pipeline)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    if (!pipeline->plan.vocabulary.output.quantized && config->tied) {
        return 0.0; /* the embedding serves both and has been written */
    }
    return sqf_quantize_operations(config->vocabulary, config->hidden, pipeline->plan.feeds_output);
}

void sqf_pipeline_expect(sqf_pipeline *pipeline)
{
    static const sqf_stage each_weight[] = {SQF_STAGE_LOAD,  SQF_STAGE_ROTATE,  SQF_STAGE_SMOOTH, SQF_STAGE_MASK,
                                            SQF_STAGE_WRITE, SQF_STAGE_PREPARE, SQF_STAGE_FINISH};
    const sqf_plan *plan = &pipeline->plan;
    const double weights = sqf_layer_weights(&pipeline->checkpoint.config);
    for (size_t i = 0; i < plan->layers; i++) {
        for (size_t s = 0; s < sizeof each_weight / sizeof *each_weight; s++) {
            const bool calibrated_only = each_weight[s] == SQF_STAGE_SMOOTH || each_weight[s] == SQF_STAGE_MASK ||
                                         each_weight[s] == SQF_STAGE_PREPARE;
            sqf_stages_expect(&pipeline->stages, each_weight[s], calibrated_only && i >= plan->passes ? 0.0 : weights);
        }
        for (int input = 0; input < SQF_INPUT_COUNT; input++) {
            expect_input(pipeline, i, (sqf_input_kind)input);
        }
        if (i < plan->passes) {
            expect_passes(pipeline, i);
        }
        sqf_stages_expect(&pipeline->stages, SQF_STAGE_OTHER, 1.0);
    }
    const double rotation = (double)(sqf_rotation_passes(plan) * pipeline->calibration.windows);
    sqf_stages_expect(
        &pipeline->stages, SQF_STAGE_FORWARD,
        rotation > 0.0 ? rotation * sqf_forward_operations(&pipeline->checkpoint.config, pipeline->calibration.length)
                       : 0.0);
    sqf_stages_expect(&pipeline->stages, SQF_STAGE_VOCABULARY, sqf_vocabulary_operations(pipeline));
}

/* SmoothQuant inside one decoder layer: inputs are divided by factors, the weights that read them are multiplied, and
 * the division is folded into what produces the input, so that nothing is paid at run time. docs/format.md section 4 */
#include <string.h>

#include "ptq/mask/alpha.h"
#include "ptq/mask/layer.h"
#include "ptq/pipeline.h"
#include "ptq/smooth/awq.h"

enum { SCALE_ROWS = 64 };

/* A matrix whose columns are multiplied, or whose rows are divided. */
typedef struct scaling {
    float *weights; /* [rows, columns] */
    size_t rows, columns;
    const float *factors; /* [columns], or [rows] */
    bool divide_rows;
} scaling;

static void scale_task(void *user, size_t task, unsigned thread)
{
    const scaling *job = user;
    const size_t first = task * SCALE_ROWS;
    (void)thread;
    for (size_t n = first; n < job->rows && n < first + SCALE_ROWS; n++) {
        float *row = job->weights + n * job->columns;
        for (size_t j = 0; j < job->columns; j++) {
            row[j] = job->divide_rows ? row[j] / job->factors[n] : row[j] * job->factors[j];
        }
    }
}

static void scale(sqf_context *context, scaling job)
{
    sqf_pool_run(context->pool, sqf_ceil_div(job.rows, SCALE_ROWS), scale_task, &job);
}

static void divide(float *values, const float *factors, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        values[i] /= factors[i];
    }
}

/* Query heads that share a key head read the same rows of v_proj: their factors become the largest among them. */
static void share_among_heads(const sqf_config *config, float *factors)
{
    const size_t shared = config->heads / config->kv_heads, width = config->head_dim;
    for (size_t group = 0; group < config->kv_heads; group++) {
        float *heads = factors + group * shared * width;
        for (size_t d = 0; d < width; d++) {
            float largest = 0.0f;
            for (size_t h = 0; h < shared; h++) {
                largest = heads[h * width + d] > largest ? heads[h * width + d] : largest;
            }
            for (size_t h = 0; h < shared; h++) {
                heads[h * width + d] = largest;
            }
        }
    }
}

static void share_o_factors(const void *user, float *factors)
{
    share_among_heads(user, factors);
}

static sqf_status find_factors(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const float *weights[SQF_LINEAR_COUNT];
    const sqf_module_recipe *recipes[SQF_LINEAR_COUNT];
    size_t rows[SQF_LINEAR_COUNT], columns = 0, count = 0;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (sqf_linear_input((sqf_linear_kind)kind) == input) {
            const sqf_module_plan *module = &work->plan->module[kind];
            sqf_linear_shape(config, (sqf_linear_kind)kind, &rows[count], &columns);
            recipes[count] = module->quantized ? &module->recipe : NULL;
            weights[count++] = work->weights[kind];
        }
    }
    SQF_TRY(SQF_ALLOC(&work->factors[input], columns, "smoothing factors", err));
    work->alpha[input] = work->plan->alpha[input];
    if (work->alpha[input] == SQF_SMOOTH_AWQ) {
        const awq_search search = {&work->statistics[input], weights, rows, recipes, count};
        return awq_factors(pipeline->context, &search, input == SQF_INPUT_O ? share_o_factors : NULL, config,
                           work->factors[input], &work->alpha[input], err);
    }
    if (work->alpha[input] == SQF_SMOOTH_SEARCH) { /* every reader is quantized, or the input would not be smoothed */
        const sqf_alpha_search search = {.statistics = &work->statistics[input],
                                         .weights = weights,
                                         .rows = rows,
                                         .recipes = recipes,
                                         .count = count,
                                         .clip = sqf_clip_wanted(recipes[0]),
                                         .share = input == SQF_INPUT_O ? share_o_factors : NULL,
                                         .user = config};
        return sqf_alpha_find(pipeline->context, &search, work->factors[input], &work->alpha[input], err);
    }
    SQF_TRY(sqf_smooth_factors(&work->statistics[input], weights, rows, count, work->plan->alpha[input],
                               work->factors[input], err));
    if (input == SQF_INPUT_O) {
        share_among_heads(config, work->factors[input]);
    }
    return SQF_OK;
}

/* Divides the rows and the bias of the module that produces an input. */
static void fold_rows(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_linear_kind kind, const float *factors)
{
    size_t rows, columns;
    sqf_linear_shape(&pipeline->checkpoint.config, kind, &rows, &columns);
    scale(pipeline->context, (scaling){work->weights[kind], rows, columns, factors, true});
    if (work->bias[kind]) {
        divide(work->bias[kind], factors, rows);
    }
}

/* v_proj has one row for all query heads of a group: the factors of the group's first head. */
static sqf_status fold_value_rows(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const size_t shared = config->heads / config->kv_heads, width = config->head_dim;
    float *factors;
    SQF_TRY(SQF_ALLOC(&factors, config->kv_heads * width, "smoothing factors", err));
    for (size_t group = 0; group < config->kv_heads; group++) {
        memcpy(factors + group * width, work->factors[SQF_INPUT_O] + group * shared * width, width * sizeof *factors);
    }
    fold_rows(pipeline, work, SQF_LINEAR_V, factors);
    free(factors);
    return SQF_OK;
}

static sqf_status fold_producer(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input, sqf_error *err)
{
    const size_t hidden = pipeline->checkpoint.config.hidden;
    switch (input) {
    case SQF_INPUT_QKV: divide(work->layer.attention_norm, work->factors[input], hidden); return SQF_OK;
    case SQF_INPUT_O: return fold_value_rows(pipeline, work, err);
    case SQF_INPUT_GATE_UP: divide(work->layer.mlp_norm, work->factors[input], hidden); return SQF_OK;
    default: fold_rows(pipeline, work, SQF_LINEAR_UP, work->factors[input]); return SQF_OK;
    }
}

static sqf_status apply_factors(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input, sqf_error *err)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (sqf_linear_input((sqf_linear_kind)kind) == input) {
            size_t rows, columns;
            sqf_linear_shape(&pipeline->checkpoint.config, (sqf_linear_kind)kind, &rows, &columns);
            scale(pipeline->context, (scaling){work->weights[kind], rows, columns, work->factors[input], false});
        }
    }
    sqf_statistics_smooth(pipeline->context, &work->statistics[input], work->factors[input]);
    return fold_producer(pipeline, work, input, err);
}

sqf_status sqf_layer_work_smooth(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    /* All factors come from the original weights; folding one changes rows that another one has looked at. */
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        if (work->plan->alpha[input] >= 0.0f) {
            SQF_TRY(find_factors(pipeline, work, (sqf_input_kind)input, err));
        }
    }
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        if (work->factors[input]) {
            SQF_TRY(apply_factors(pipeline, work, (sqf_input_kind)input, err));
        }
    }
    return SQF_OK;
}

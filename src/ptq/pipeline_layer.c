/* One decoder layer at work: loading it in float32, and quantizing the modules that share an input. */
#include <math.h>
#include <string.h>

#include "format/zero_point.h"
#include "ptq/correct/passes.h"
#include "ptq/mask/layer.h"

const sqf_act_spec sqf_float_activations = {.low = SQF_TYPE_FP32, .bank = 1, .clip = 1.0f};

/* ---- loading ---- */

void sqf_layer_work_clear(sqf_layer_work *work)
{
    sqf_layer_clear(&work->layer);
    work->reference.down_rotation = (sqf_rotation){0}; /* borrowed from the layer */
    sqf_layer_clear(&work->reference);
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        free(work->weights[kind]);
        free(work->bias[kind]);
    }
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        sqf_statistics_clear(&work->statistics[input]);
        free(work->factors[input]);
    }
    *work = (sqf_layer_work){0};
}

void sqf_layer_work_end(sqf_pipeline *pipeline, sqf_layer_work *work)
{
    pipeline->engine->forget(pipeline, &work->layer);
    pipeline->engine->forget(pipeline, &work->reference);
    sqf_layer_work_clear(work);
}

static void norm_name(size_t layer, const char *norm, char name[SQF_MODULE_NAME])
{
    snprintf(name, SQF_MODULE_NAME, "model.layers.%zu.%s.weight", layer, norm);
}

static sqf_status load_norm(const sqf_pipeline *pipeline, size_t layer, const char *norm, size_t n, float **out,
                            sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    norm_name(layer, norm, name);
    return sqf_checkpoint_floats(&pipeline->checkpoint, name, n, 0, out, err);
}

static sqf_status load_norms(const sqf_pipeline *pipeline, size_t index, sqf_layer *layer, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    SQF_TRY(load_norm(pipeline, index, "input_layernorm", config->hidden, &layer->attention_norm, err));
    SQF_TRY(load_norm(pipeline, index, "post_attention_layernorm", config->hidden, &layer->mlp_norm, err));
    if (!config->architecture->query_key_norm) {
        return SQF_OK;
    }
    SQF_TRY(load_norm(pipeline, index, "self_attn.q_norm", config->head_dim, &layer->query_norm, err));
    return load_norm(pipeline, index, "self_attn.k_norm", config->head_dim, &layer->key_norm, err);
}

/* The name of a module's tensor: "model.layers.3.mlp.down_proj.weight". */
static void tensor_name(size_t layer, sqf_linear_kind kind, const char *suffix, char name[SQF_MODULE_NAME])
{
    char module[SQF_MODULE_NAME];
    sqf_linear_name(layer, kind, module);
    sqf_tensor_name(module, suffix, name);
}

/* True if the module is rounded straight from the checkpoint's elements: nothing looks at its weights before. */
static bool rounds_directly(const sqf_pipeline *pipeline, const sqf_layer_work *work, sqf_linear_kind kind)
{
    const sqf_module_plan *plan = &work->plan->module[kind];
    const sqf_module_recipe *recipe = &plan->recipe;
    const sqf_act_spec *act = &recipe->scheme.activations;
    const bool reordered = sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC;
    return !work->forward && plan->quantized && !reordered &&
           !sqf_rotation_changes_weights(&pipeline->plan.rotation, kind) &&
           sqf_matrix_rounds(&recipe->scheme.weights, recipe->importance, recipe->prune, recipe->clip);
}

static sqf_status load_linear(const sqf_pipeline *pipeline, sqf_layer_work *work, sqf_linear_kind kind, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    char name[SQF_MODULE_NAME];
    size_t rows, columns;
    if (!work->forward && !work->plan->module[kind].quantized &&
        !sqf_rotation_changes_weights(&pipeline->plan.rotation, kind)) {
        return SQF_OK; /* copied without being looked at */
    }
    sqf_linear_shape(config, kind, &rows, &columns);
    tensor_name(work->index, kind, "weight", name);
    if (!rounds_directly(pipeline, work, kind)) {
        SQF_TRY(sqf_checkpoint_floats(&pipeline->checkpoint, name, rows, columns, &work->weights[kind], err));
    }
    if (!sqf_linear_has_bias(config, kind)) {
        return SQF_OK;
    }
    tensor_name(work->index, kind, "bias", name);
    return sqf_checkpoint_floats(&pipeline->checkpoint, name, rows, 0, &work->bias[kind], err);
}

sqf_status sqf_layer_work_load(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    work->layer.index = work->index;
    SQF_TRY(load_norms(pipeline, work->index, &work->layer, err));
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        SQF_TRY(load_linear(pipeline, work, (sqf_linear_kind)kind, err));
    }
    return SQF_OK;
}

/* Puts a layer of dense weights in the place of `kind`; they are borrowed. */
static sqf_status make_dense(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_linear_kind kind, const void *weights,
                             sqf_type type, sqf_error *err)
{
    char module[SQF_MODULE_NAME];
    sqf_linear_params params = {.name = module,
                                .bias = work->bias[kind],
                                .dense = weights,
                                .dense_type = type,
                                .activations = sqf_float_activations};
    sqf_linear_name(work->index, kind, module);
    sqf_linear_shape(&pipeline->checkpoint.config, kind, &params.rows, &params.columns);
    return pipeline->engine->linear(pipeline, &work->layer, kind, &params, err);
}

sqf_status sqf_layer_work_linears(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        SQF_TRY(make_dense(pipeline, work, (sqf_linear_kind)kind, work->weights[kind], SQF_TYPE_FP32, err));
    }
    return SQF_OK;
}

/* ---- writing what stays dense ---- */

static sqf_status write_norm(sqf_pipeline *pipeline, size_t layer, const char *norm, size_t n, const float *folded,
                             sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    norm_name(layer, norm, name);
    return folded ? sqf_model_output_values(&pipeline->output, name, SQF_DTYPE_F32, n, 0, folded, err)
                  : sqf_model_output_copy(&pipeline->output, name, n, 0, err);
}

sqf_status sqf_layer_work_write_norms(sqf_pipeline *pipeline, const sqf_layer_work *work, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const bool turned = pipeline->basis != NULL;
    const float *attention = turned || work->factors[SQF_INPUT_QKV] ? work->layer.attention_norm : NULL;
    const float *mlp = turned || work->factors[SQF_INPUT_GATE_UP] ? work->layer.mlp_norm : NULL;
    SQF_TRY(write_norm(pipeline, work->index, "input_layernorm", config->hidden, attention, err));
    SQF_TRY(write_norm(pipeline, work->index, "post_attention_layernorm", config->hidden, mlp, err));
    if (!config->architecture->query_key_norm) {
        return SQF_OK;
    }
    SQF_TRY(write_norm(pipeline, work->index, "self_attn.q_norm", config->head_dim, NULL, err));
    return write_norm(pipeline, work->index, "self_attn.k_norm", config->head_dim, NULL, err);
}

/* A bias whose module produces a smoothed input was divided, one that goes into a rotated stream turned: it is written
 * in float32. */
static sqf_status write_bias(sqf_pipeline *pipeline, const sqf_layer_work *work, sqf_linear_kind kind, sqf_error *err)
{
    const bool folded = (kind == SQF_LINEAR_V && work->factors[SQF_INPUT_O]) ||
                        (kind == SQF_LINEAR_UP && work->factors[SQF_INPUT_DOWN]) ||
                        sqf_rotation_changes_bias(&pipeline->plan.rotation, kind);
    char name[SQF_MODULE_NAME];
    size_t rows, columns;
    if (!sqf_linear_has_bias(&pipeline->checkpoint.config, kind)) {
        return SQF_OK;
    }
    sqf_linear_shape(&pipeline->checkpoint.config, kind, &rows, &columns);
    tensor_name(work->index, kind, "bias", name);
    return folded ? sqf_model_output_values(&pipeline->output, name, SQF_DTYPE_F32, rows, 0, work->bias[kind], err)
                  : sqf_model_output_copy(&pipeline->output, name, rows, 0, err);
}

static sqf_dtype dense_dtype(sqf_type type)
{
    return type == SQF_TYPE_BF16 ? SQF_DTYPE_BF16 : type == SQF_TYPE_FP16 ? SQF_DTYPE_F16 : SQF_DTYPE_F32;
}

/* n floats as `type` in a buffer for free(). SQF_E_VALUE if one becomes infinite. */
static sqf_status convert_floats(const char *name, const float *values, size_t n, sqf_type type, void **out,
                                 sqf_error *err)
{
    SQF_TRY(sqf_alloc_bytes(out, n, sqf_type_storage_bytes(type), name, err));
    for (size_t i = 0; i < n; i++) {
        const uint16_t half = type == SQF_TYPE_FP16 ? sqf_fp16_from_float(values[i]) : sqf_bf16_from_float(values[i]);
        if (type == SQF_TYPE_FP32) {
            ((float *)*out)[i] = values[i];
        } else if (isinf(type == SQF_TYPE_FP16 ? sqf_fp16_to_float(half) : sqf_bf16_to_float(half))) {
            return sqf_fail(err, SQF_E_VALUE, "%s: element %zu: %g does not fit %s", name, i, (double)values[i],
                            sqf_type_name(type));
        } else {
            ((uint16_t *)*out)[i] = half;
        }
    }
    return SQF_OK;
}

/* A dense scheme of another type than the checkpoint's: the weights are converted, and run converted. */
static sqf_status write_converted(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_linear_kind kind, const char *name,
                                  sqf_type type, sqf_error *err)
{
    size_t rows, columns;
    sqf_linear_shape(&pipeline->checkpoint.config, kind, &rows, &columns);
    if (!work->weights[kind]) {
        SQF_TRY(sqf_checkpoint_floats(&pipeline->checkpoint, name, rows, columns, &work->weights[kind], err));
    }
    void **converted = &work->layer.owned[kind];
    SQF_TRY(convert_floats(name, work->weights[kind], rows * columns, type, converted, err));
    SQF_TRY(sqf_model_output_values(&pipeline->output, name, dense_dtype(type), rows, columns, *converted, err));
    return work->chained ? make_dense(pipeline, work, kind, *converted, type, err) : SQF_OK;
}

static sqf_status write_dense(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_linear_kind kind, sqf_error *err)
{
    const sqf_module_plan *plan = &work->plan->module[kind];
    const bool turned = sqf_rotation_changes_weights(&pipeline->plan.rotation, kind);
    /* a module that is left alone computes what it did, to float rounding, also in another basis */
    const sqf_type type = turned && plan->ignored ? SQF_TYPE_FP32 : plan->recipe.scheme.weights.low;
    char name[SQF_MODULE_NAME];
    size_t rows, columns;
    tensor_name(work->index, kind, "weight", name);
    sqf_linear_shape(&pipeline->checkpoint.config, kind, &rows, &columns);
    const sqf_tensor *tensor = sqf_tensors_find(pipeline->checkpoint.tensors, name);
    if (!turned && (plan->ignored || (tensor && sqf_dtype_type(tensor->dtype) == type))) {
        SQF_TRY(sqf_model_output_copy(&pipeline->output, name, rows, columns, err));
    } else {
        SQF_TRY(write_converted(pipeline, work, kind, name, type, err));
    }
    return write_bias(pipeline, work, kind, err);
}

/* ---- quantizing ---- */

/* The quantized modules that read one input, and what they share. */
typedef struct input_group {
    sqf_input_kind input;
    sqf_linear_kind member[SQF_LINEAR_COUNT];
    size_t count;
    const float *weights[SQF_LINEAR_COUNT];
    size_t rows[SQF_LINEAR_COUNT], columns;
    const sqf_statistics *statistics; /* NULL = no calibration */
    int32_t *channels;                /* stored order; NULL = as they come */
    size_t border;
    float *input_norm;         /* [columns] ||x_j||; NULL without statistics */
    sqf_correction correction; /* members that compensate errors of the input */
    bool solved;
    sqf_factor factor;
    double factor_damping; /* that `factor` was asked for; negative = there is none yet */
    bool factor_corrected; /* it is that of the quantized input */
    float static_scale[2];
    int32_t static_zero[2];
    float *column_norm; /* [columns], weighted dynamic masks */
    sqf_matrix matrix[SQF_LINEAR_COUNT];
    sqf_report_entry entry[SQF_LINEAR_COUNT];
} input_group;

static void group_clear(input_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        sqf_matrix_clear(&group->matrix[i]);
    }
    sqf_correction_clear(&group->correction);
    sqf_factor_clear(&group->factor);
    free(group->channels);
    free(group->input_norm);
    free(group->column_norm);
}

static const sqf_module_recipe *group_recipe(const sqf_layer_work *work, const input_group *group, size_t i)
{
    return &work->plan->module[group->member[i]].recipe;
}

static void group_init(const sqf_pipeline *pipeline, const sqf_layer_work *work, sqf_input_kind input,
                       input_group *group)
{
    *group = (input_group){.input = input, .factor_damping = -1.0};
    group->statistics = work->forward ? &work->statistics[input] : NULL;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (sqf_linear_input((sqf_linear_kind)kind) == input && work->plan->module[kind].quantized) {
            sqf_linear_shape(&pipeline->checkpoint.config, (sqf_linear_kind)kind, &group->rows[group->count],
                             &group->columns);
            group->weights[group->count] = work->weights[kind];
            group->member[group->count++] = (sqf_linear_kind)kind;
        }
    }
    group->border = group->columns;
}

static sqf_status find_input_norm(input_group *group, sqf_error *err)
{
    if (!group->statistics) {
        return SQF_OK;
    }
    SQF_TRY(SQF_ALLOC(&group->input_norm, group->columns, "input norms", err));
    for (size_t j = 0; j < group->columns; j++) {
        group->input_norm[j] = (float)sqrt(group->statistics->sum_square[j]);
    }
    return SQF_OK;
}

/* Scales of the low and the high part: clip * the largest calibrated magnitude among their channels / the type's
 * largest; with zero points from the calibrated ends of the part's values. */
void sqf_static_scale_find(const sqf_act_spec *act, const sqf_statistics *statistics, const int32_t *channels,
                           size_t border, float scale[2], int32_t zero[2])
{
    const sqf_type types[2] = {act->low, act->high};
    for (int part = 0; part < 2; part++) {
        const size_t begin = part == 0 ? 0 : border, end = part == 0 ? border : statistics->channels;
        const float most = sqf_type_max(types[part]);
        float largest = 0.0f;
        sqf_range range = {0.0f, 0.0f};
        for (size_t j = begin; j < end; j++) {
            const size_t channel = channels ? (size_t)channels[j] : j;
            largest = fmaxf(largest, statistics->max_abs[channel]);
            sqf_range_add(&range, statistics->lowest[channel]);
            sqf_range_add(&range, statistics->largest[channel]);
        }
        scale[part] = most > 0.0f ? sqf_act_part_clip(act, part == 1) * largest / most : 0.0f;
        if (sqf_act_has_zero(act, part == 1)) {
            scale[part] = sqf_zero_scale(types[part], sqf_act_part_clip(act, part == 1), range);
            zero[part] = sqf_zero_point(types[part], sqf_act_part_clip(act, part == 1), range, scale[part]);
        }
    }
}

sqf_status sqf_matrix_add_squares(const sqf_matrix *matrix, float *values, double *sums, sqf_error *err)
{
    sqf_row row;
    SQF_TRY(sqf_row_create(matrix, &row, err));
    for (size_t n = 0; n < matrix->rows; n++) {
        sqf_matrix_dequantize_row(matrix, n, &row, values);
        for (size_t j = 0; j < matrix->columns; j++) {
            sums[j] += (double)values[j] * (double)values[j];
        }
    }
    sqf_row_clear(&row);
    return SQF_OK;
}

/* Column norms from sums of squares, which it frees. */
static void finish_norms(double *sums, input_group *group)
{
    for (size_t j = 0; j < group->columns; j++) {
        group->column_norm[j] = (float)sqrt(sums[j]);
    }
    free(sums);
}

/* ||W_:,j||_2 of the members' dequantized weights, stacked. */
static sqf_status find_column_norm(input_group *group, sqf_error *err)
{
    double *sums = NULL;
    SQF_TRY(SQF_ALLOC(&group->column_norm, group->columns, "column norms", err));
    SQF_TRY(SQF_ALLOC(&sums, group->columns, "column norms", err));
    sqf_status status = SQF_OK;
    for (size_t i = 0; i < group->count && status == SQF_OK; i++) {
        status = sqf_matrix_add_squares(&group->matrix[i], group->column_norm, sums,
                                        err); /* scratch until the sums are known */
    }
    finish_norms(sums, group);
    return status;
}

/* The Hessian that a member's rounding errors are weighed with; NULL without calibration. */
static const float *member_hessian(const input_group *group, bool corrected)
{
    if (corrected) {
        return group->correction.quantized.hessian;
    }
    return group->statistics ? group->statistics->hessian : NULL;
}

/* The factor for a damping; kept for the next member with the same. */
static sqf_status need_factor(sqf_pipeline *pipeline, input_group *group, const char *name, double damping,
                              bool corrected, sqf_error *err)
{
    if (!group->statistics || (group->factor_damping == damping && group->factor_corrected == corrected)) {
        return SQF_OK;
    }
    sqf_factor_clear(&group->factor);
    group->factor_damping = -1.0;
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_FACTOR);
    SQF_TRY(pipeline->engine->factor(pipeline, name, member_hessian(group, corrected), group->columns, group->channels,
                                     damping, &group->factor, err));
    sqf_stages_end(&pipeline->stages, sqf_factor_operations(group->columns));
    group->factor_damping = damping;
    group->factor_corrected = corrected;
    pipeline->report.damped += group->factor.retries > 0;
    return SQF_OK;
}

/* The member's weights become those that serve its quantized input best. */
static sqf_status correct_weights(sqf_pipeline *pipeline, sqf_layer_work *work, input_group *group,
                                  sqf_linear_kind kind, sqf_error *err)
{
    size_t rows, columns;
    sqf_linear_shape(&pipeline->checkpoint.config, kind, &rows, &columns);
    if (!group->solved) {
        SQF_TRY(sqf_correction_solve(pipeline->context, &group->correction, &group->factor, group->channels, err));
        group->solved = true;
    }
    return sqf_correction_apply(pipeline->context, &group->correction, work->weights[kind], rows, err);
}

/* Rounds a module of the layer whose weights were not loaded (rounds_directly). */
static sqf_status round_stored(sqf_pipeline *pipeline, sqf_matrix_job *job, sqf_matrix *matrix,
                               sqf_matrix_result *result, sqf_error *err)
{
    char tensor_of[SQF_MODULE_NAME];
    const sqf_tensor *tensor;
    sqf_tensor_name(job->name, "weight", tensor_of);
    SQF_TRY(sqf_checkpoint_find_dense(&pipeline->checkpoint, tensor_of, job->rows, job->columns, &tensor, err));
    SQF_TRY(sqf_tensor_verify(tensor, err));
    job->stored = tensor->data;
    job->stored_type = sqf_dtype_type(tensor->dtype);
    const sqf_status status = sqf_matrix_round(pipeline->context, job, matrix, result, err);
    /* rounding looks at every weight anyway; the checkpoint's own check then only says which one of which file */
    return status != SQF_E_VALUE ? status
                                 : sqf_checkpoint_dense(&pipeline->checkpoint, pipeline->context, tensor_of, job->rows,
                                                        job->columns, &tensor, err);
}

static sqf_status quantize_member(sqf_pipeline *pipeline, sqf_layer_work *work, input_group *group, size_t i,
                                  sqf_error *err)
{
    const double start = sqf_clock_seconds();
    const sqf_module_recipe *recipe = group_recipe(work, group, i);
    char name[SQF_MODULE_NAME];
    sqf_linear_name(work->index, group->member[i], name);
    const bool corrected = group->statistics && sqf_module_corrects(&work->plan->module[group->member[i]]);
    SQF_TRY(need_factor(pipeline, group, name, recipe->damping, corrected, err));
    if (corrected) {
        sqf_stages_begin(&pipeline->stages, SQF_STAGE_CORRECT);
        SQF_TRY(correct_weights(pipeline, work, group, group->member[i], err));
        sqf_stages_end(&pipeline->stages, 0.0);
    }
    sqf_matrix_job job = {
        .name = name,
        .spec = recipe->scheme.weights,
        .weights = group->weights[i],
        .rows = group->rows[i],
        .columns = group->columns,
        .border = group->border,
        .channels = group->channels,
        .factor = group->statistics ? &group->factor : NULL,
        .input_norm = group->input_norm,
        .hessian = member_hessian(group, corrected),
        .importance = recipe->importance,
        .prune = recipe->prune,
        .compensate = group->statistics ? recipe->compensate : SQF_COMPENSATE_NONE,
        .clip = recipe->clip,
        .seed = pipeline->options->seed,
    };
    sqf_report_entry *entry = &group->entry[i];
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_QUANTIZE);
    SQF_TRY(job.weights ? pipeline->engine->quantize(pipeline, &job, &group->matrix[i], &entry->result, err)
                        : round_stored(pipeline, &job, &group->matrix[i], &entry->result, err));
    sqf_stages_end(&pipeline->stages,
                   sqf_quantize_operations(group->rows[i], group->columns, group->statistics != NULL));
    entry->recipe = recipe;
    entry->alpha = work->factors[group->input] ? work->alpha[group->input] : work->plan->alpha[group->input];
    entry->rows = group->rows[i];
    entry->columns = group->columns;
    entry->damping = group->statistics ? group->factor.damping : (double)NAN;
    entry->tokens = group->statistics ? group->statistics->tokens : 0;
    entry->seconds = sqf_clock_seconds() - start;
    return SQF_OK;
}

static bool is_weighted(const sqf_act_spec *act)
{
    return sqf_act_spec_is_split(act) && act->mask == SQF_MASK_DYNAMIC && act->dynamic_weighted;
}

/* What the scheme's activations ask for beside the matrices. */
static sqf_status find_extras(const sqf_layer_work *work, input_group *group, sqf_error *err)
{
    const sqf_act_spec *act = &group_recipe(work, group, 0)->scheme.activations;
    return is_weighted(act) ? find_column_norm(group, err) : SQF_OK;
}

/* Puts the quantized module in the place of the original one. */
static sqf_status make_quantized(sqf_pipeline *pipeline, sqf_layer_work *work, const input_group *group, size_t i,
                                 sqf_error *err)
{
    const sqf_linear_kind kind = group->member[i];
    char name[SQF_MODULE_NAME];
    sqf_linear_name(work->index, kind, name);
    const sqf_linear_params params = {.name = name,
                                      .rows = group->rows[i],
                                      .columns = group->columns,
                                      .bias = work->bias[kind],
                                      .matrix = &group->matrix[i],
                                      .activations = group_recipe(work, group, i)->scheme.activations,
                                      .static_scale = group->static_scale,
                                      .static_zero = group->static_zero,
                                      .column_norm = group->column_norm};
    return pipeline->engine->linear(pipeline, &work->layer, kind, &params, err);
}

static sqf_status finish_member(sqf_pipeline *pipeline, sqf_layer_work *work, input_group *group, size_t i,
                                sqf_error *err)
{
    const sqf_linear_kind kind = group->member[i];
    sqf_report_entry *entry = &group->entry[i];
    char name[SQF_MODULE_NAME];
    sqf_linear_name(work->index, kind, name);
    entry->name = name;
    const sqf_stored_linear stored = {.scheme = entry->recipe->scheme,
                                      .matrix = group->matrix[i],
                                      .static_scale = group->static_scale,
                                      .static_zero = group->static_zero,
                                      .column_norm = group->column_norm};
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_WRITE);
    SQF_TRY(sqf_model_output_linear(&pipeline->output, name, &stored, &entry->bytes, err));
    SQF_TRY(write_bias(pipeline, work, kind, err));
    sqf_stages_end(&pipeline->stages, sqf_linear_weights(&pipeline->checkpoint.config, kind));
    SQF_TRY(sqf_report_add(&pipeline->report, entry, err));
    work->output_error += entry->result.output_error;
    work->worst_error = fmax(work->worst_error, entry->result.output_error);
    work->matrices++;
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_PREPARE);
    SQF_TRY(work->chained ? make_quantized(pipeline, work, group, i, err) : SQF_OK);
    sqf_stages_end(&pipeline->stages, sqf_linear_weights(&pipeline->checkpoint.config, kind));
    return SQF_OK;
}

/* A layer of a few rows that quantizes its input as the members will. */
static sqf_status make_probe(sqf_pipeline *pipeline, const sqf_layer_work *work, input_group *group, sqf_linear **out,
                             sqf_error *err)
{
    const sqf_module_recipe *recipe = group_recipe(work, group, 0);
    const sqf_matrix_job job = {.name = "probe",
                                .spec = recipe->scheme.weights,
                                .weights = group->weights[0],
                                .rows = 1,
                                .columns = group->columns,
                                .border = group->border,
                                .channels = group->channels,
                                .importance = SQF_IMPORTANCE_MAGNITUDE,
                                .prune = SQF_PRUNE_MAGNITUDE,
                                .compensate = SQF_COMPENSATE_NONE};
    sqf_matrix matrix;
    SQF_TRY(sqf_matrix_quantize(pipeline->context, &job, &matrix, NULL, err));
    const sqf_linear_params params = {.name = job.name,
                                      .rows = 1,
                                      .columns = group->columns,
                                      .matrix = &matrix,
                                      .activations = recipe->scheme.activations,
                                      .static_scale = group->static_scale,
                                      .static_zero = group->static_zero,
                                      .column_norm = group->column_norm};
    const sqf_status status = sqf_linear_create(pipeline->context, &params, out, err);
    sqf_matrix_clear(&matrix);
    return status;
}

/* ||W_:,j||_2 of the members' weights before they are quantized: what a weighted dynamic mask will rank by, nearly. */
static sqf_status estimate_column_norm(input_group *group, sqf_error *err)
{
    double *sums = NULL;
    SQF_TRY(SQF_ALLOC(&group->column_norm, group->columns, "column norms", err));
    SQF_TRY(SQF_ALLOC(&sums, group->columns, "column norms", err));
    for (size_t i = 0; i < group->count; i++) {
        for (size_t at = 0; at < group->rows[i] * group->columns; at++) {
            const double value = (double)group->weights[i][at];
            sums[at % group->columns] += value * value;
        }
    }
    finish_norms(sums, group);
    return SQF_OK;
}

/* One more pass of the windows: the input as it should be beside the input as the members will read it. */
static sqf_status compare_inputs(sqf_pipeline *pipeline, sqf_layer_work *work, input_group *group, sqf_error *err)
{
    const sqf_act_spec *act = &group_recipe(work, group, 0)->scheme.activations;
    sqf_linear *probe = NULL;
    sqf_status status = SQF_OK;
    if (is_weighted(act)) {
        status = estimate_column_norm(group, err);
    }
    if (status == SQF_OK && !sqf_act_spec_is_float(act)) {
        status = make_probe(pipeline, work, group, &probe, err);
    }
    if (status == SQF_OK) {
        status = sqf_layer_work_correct(pipeline, work, group->input, probe, &group->correction, err);
    }
    sqf_linear_destroy(probe);
    free(group->column_norm);
    group->column_norm = NULL;
    return status;
}

/* The original layer borrows the weights: it goes first. */
static void drop_original(sqf_pipeline *pipeline, sqf_layer_work *work, const input_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        pipeline->engine->drop(pipeline, &work->layer, group->member[i]);
    }
}

static void drop_weights(sqf_layer_work *work, const input_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        free(work->weights[group->member[i]]);
        work->weights[group->member[i]] = NULL;
    }
    sqf_statistics_clear(&work->statistics[group->input]);
}

static sqf_status quantize_group(sqf_pipeline *pipeline, sqf_layer_work *work, input_group *group, sqf_error *err)
{
    if (group->count == 0) {
        return SQF_OK;
    }
    const sqf_act_spec *act = &group_recipe(work, group, 0)->scheme.activations;
    sqf_stages_begin(&pipeline->stages, SQF_STAGE_MASK);
    SQF_TRY(sqf_layer_work_mask(pipeline, work, group->input, &group->channels, &group->border, err));
    sqf_stages_end(&pipeline->stages, 0.0);
    if (!sqf_act_spec_is_float(act) && act->scale == SQF_ACT_STATIC) {
        sqf_static_scale_find(act, group->statistics, group->channels, group->border, group->static_scale,
                              group->static_zero);
    }
    if (group->statistics && sqf_layer_plan_corrects(work->plan, group->input)) {
        sqf_stages_begin(&pipeline->stages, SQF_STAGE_CORRECT);
        SQF_TRY(compare_inputs(pipeline, work, group, err));
        sqf_stages_end(&pipeline->stages, sqf_hessian_operations(group->columns, pipeline->calibration.windows *
                                                                                     pipeline->calibration.length));
    }
    drop_original(pipeline, work, group);
    SQF_TRY(find_input_norm(group, err));
    for (size_t i = 0; i < group->count; i++) {
        SQF_TRY(quantize_member(pipeline, work, group, i, err));
    }
    SQF_TRY(find_extras(work, group, err));
    drop_weights(work, group);
    for (size_t i = 0; i < group->count; i++) {
        SQF_TRY(finish_member(pipeline, work, group, i, err));
    }
    return SQF_OK;
}

sqf_status sqf_layer_work_quantize(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input, sqf_error *err)
{
    input_group group;
    group_init(pipeline, work, input, &group);
    const sqf_status status = quantize_group(pipeline, work, &group, err);
    group_clear(&group);
    SQF_TRY(status);
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (sqf_linear_input((sqf_linear_kind)kind) == input && !work->plan->module[kind].quantized) {
            sqf_stages_begin(&pipeline->stages, SQF_STAGE_WRITE);
            SQF_TRY(write_dense(pipeline, work, (sqf_linear_kind)kind, err));
            sqf_stages_end(&pipeline->stages, sqf_linear_weights(&pipeline->checkpoint.config, (sqf_linear_kind)kind));
        }
    }
    return SQF_OK;
}

/* Rotations inside one decoder layer. */
#include <string.h>

#include "ptq/rotation/basis.h"
#include "ptq/rotation/fold.h"
#include "ptq/rotation/orthogonal.h"
#include "ptq/rotation/rotation.h"

/* ---- the basis of the stream ---- */

static sqf_status fold_reader(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_linear_kind kind, sqf_error *err)
{
    const sqf_layer *layer = &work->layer;
    const bool attention = sqf_linear_input(kind) == SQF_INPUT_QKV;
    size_t rows, columns;
    sqf_linear_shape(&pipeline->checkpoint.config, kind, &rows, &columns);
    return sqf_fold_columns(pipeline->context, work->weights[kind], rows, columns,
                            attention ? layer->attention_norm : layer->mlp_norm, pipeline->basis, err);
}

static sqf_status fold_writer(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_linear_kind kind, sqf_error *err)
{
    size_t rows, columns;
    sqf_linear_shape(&pipeline->checkpoint.config, kind, &rows, &columns);
    return sqf_fold_rows(pipeline->context, &work->weights[kind], rows, columns, work->bias[kind], pipeline->basis,
                         err);
}

static void fill_ones(float *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        values[i] = 1.0f;
    }
}

/* The readers take the gains with them: a rotation does not commute with gains, but it does with the norm itself,
 * which only asks for the length of the vector. */
static sqf_status turn_stream(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    const size_t hidden = pipeline->checkpoint.config.hidden;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        const bool writes = kind == SQF_LINEAR_O || kind == SQF_LINEAR_DOWN;
        SQF_TRY((writes ? fold_writer : fold_reader)(pipeline, work, (sqf_linear_kind)kind, err));
    }
    fill_ones(work->layer.attention_norm, hidden);
    fill_ones(work->layer.mlp_norm, hidden);
    return SQF_OK;
}

/* ---- what a layer's own bases are made of ---- */

typedef struct collection {
    sqf_pipeline *pipeline;
    sqf_statistics statistics[SQF_INPUT_COUNT]; /* of O and DOWN, where wanted */
} collection;

static sqf_status collect_input(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                                sqf_error *err)
{
    collection *c = user;
    (void)channels;
    return c->statistics[kind].hessian ? sqf_statistics_add(c->pipeline->context, &c->statistics[kind], x, tokens, err)
                                       : SQF_OK;
}

static sqf_status run_collection(sqf_pipeline *pipeline, sqf_layer_work *work, collection *c, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const sqf_layer_tap tap = {.input = collect_input, .user = c};
    if (pipeline->plan.rotation.values == SQF_ROTATE_PART_PCA) {
        SQF_TRY(sqf_statistics_create(config->heads * config->head_dim, true, &c->statistics[SQF_INPUT_O], err));
    }
    if (pipeline->plan.rotation.down == SQF_ROTATE_PART_PCA) {
        SQF_TRY(sqf_statistics_create(config->intermediate, true, &c->statistics[SQF_INPUT_DOWN], err));
    }
    SQF_TRY(sqf_layer_work_linears(pipeline, work, err));
    SQF_TRY(sqf_pipeline_run_windows(pipeline, &work->layer, pipeline->hidden, &tap, err));
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) { /* they borrow weights that are about to move */
        pipeline->engine->drop(pipeline, &work->layer, (sqf_linear_kind)kind);
    }
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        sqf_statistics_finish(pipeline->context, &c->statistics[input]);
    }
    return SQF_OK;
}

/* A seed of its own for each layer and use. */
static uint64_t layer_seed(const sqf_pipeline *pipeline, const sqf_layer_work *work, uint64_t use)
{
    return pipeline->options->seed * 0x9e3779b97f4a7c15u + 0xd1b54a32d192ed03u * (1 + work->index * 1024 + use);
}

static void to_floats(const double *from, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = (float)from[i];
    }
}

static const sqf_act_spec *activations(const sqf_layer_work *work, sqf_linear_kind kind)
{
    return &work->plan->module[kind].recipe.scheme.activations;
}

/* ---- values ---- */

/* Sum of the covariances of the query heads that share a key head: they read the same values. */
static void pool_heads(const sqf_config *config, const float *hessian, size_t group, float *out)
{
    const size_t shared = config->heads / config->kv_heads, width = config->head_dim, all = config->heads * width;
    memset(out, 0, width * width * sizeof *out);
    for (size_t h = group * shared; h < (group + 1) * shared; h++) {
        for (size_t i = 0; i < width; i++) {
            for (size_t j = 0; j < width; j++) {
                out[i * width + j] += hessian[(h * width + i) * all + h * width + j];
            }
        }
    }
}

static sqf_status fill_head(sqf_pipeline *pipeline, const sqf_layer_work *work, const float *hessian, size_t group,
                            float *covariance, double *basis, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const uint64_t seed = layer_seed(pipeline, work, 16 + group);
    const sqf_rotate_part kind = pipeline->plan.rotation.values;
    if (kind != SQF_ROTATE_PART_PCA) {
        return sqf_basis_fill(kind, config->head_dim, seed, basis, err);
    }
    pool_heads(config, hessian, group, covariance);
    return sqf_basis_principal(activations(work, SQF_LINEAR_O), config->head_dim, covariance, seed, basis, err);
}

static sqf_status fill_heads(sqf_pipeline *pipeline, const sqf_layer_work *work, const float *hessian, float *bases,
                             sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const size_t square = config->head_dim * config->head_dim;
    float *covariance;
    double *basis = NULL;
    SQF_TRY(SQF_ALLOC(&covariance, square, "covariance of a head", err));
    sqf_status status = SQF_ALLOC(&basis, square, "basis of a head", err);
    for (size_t group = 0; group < config->kv_heads && status == SQF_OK; group++) {
        status = fill_head(pipeline, work, hessian, group, covariance, basis, err);
        to_floats(basis, square, bases + group * square);
    }
    free(covariance);
    free(basis);
    return status;
}

/* Attention mixes tokens, not channels, so a basis of a head's values passes through it to o_proj. */
static sqf_status turn_values(sqf_pipeline *pipeline, sqf_layer_work *work, const float *hessian, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const size_t width = config->head_dim, shared = config->heads / config->kv_heads;
    float *bases;
    SQF_TRY(SQF_ALLOC(&bases, config->kv_heads * width * width, "bases of the values", err));
    sqf_status status = fill_heads(pipeline, work, hessian, bases, err);
    if (status == SQF_OK) {
        status = sqf_fold_head_rows(pipeline->context, &work->weights[SQF_LINEAR_V], config->hidden, config->kv_heads,
                                    width, work->bias[SQF_LINEAR_V], bases, err);
    }
    if (status == SQF_OK) {
        status = sqf_fold_head_columns(pipeline->context, work->weights[SQF_LINEAR_O], config->hidden, config->heads,
                                       shared, width, bases, err);
    }
    free(bases);
    return status;
}

/* ---- down_proj's input ---- */

static sqf_status fill_factor(sqf_pipeline *pipeline, const sqf_layer_work *work, const float *hessian, size_t factor,
                              double *out, sqf_error *err)
{
    const uint64_t seed = layer_seed(pipeline, work, 0);
    switch (pipeline->plan.rotation.down) {
    case SQF_ROTATE_PART_HADAMARD: return sqf_hadamard_factor_fill(factor, seed, out, err);
    case SQF_ROTATE_PART_RANDOM: return sqf_orthogonal_random(factor, seed, out, err);
    default: return sqf_basis_principal(activations(work, SQF_LINEAR_DOWN), factor, hessian, seed, out, err);
    }
}

/* Makes and writes the dense factor. */
static sqf_status make_factor(sqf_pipeline *pipeline, const sqf_layer_work *work, const float *hessian, size_t factor,
                              float *matrix, sqf_error *err)
{
    char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
    double *exact;
    SQF_TRY(SQF_ALLOC(&exact, factor * factor, "rotation", err));
    const sqf_status status = fill_factor(pipeline, work, hessian, factor, exact, err);
    to_floats(exact, factor * factor, matrix);
    free(exact);
    SQF_TRY(status);
    sqf_mlp_name(work->index, module);
    sqf_tensor_name(module, SQF_PART_DOWN_ROTATION, name);
    return sqf_model_output_values(&pipeline->output, name, SQF_DTYPE_F32, factor, factor, matrix, err);
}

static sqf_status create_rotation(sqf_pipeline *pipeline, sqf_layer_work *work, const float *hessian, sqf_error *err)
{
    const size_t channels = pipeline->checkpoint.config.intermediate;
    const size_t factor = sqf_rotation_down_factor(&pipeline->plan.rotation, channels);
    float *matrix;
    if (factor == 1 || pipeline->plan.rotation.down == SQF_ROTATE_PART_BLOCKS) {
        return sqf_rotation_create(channels, factor, NULL, &work->layer.down_rotation, err);
    }
    SQF_TRY(SQF_ALLOC(&matrix, factor * factor, "rotation", err));
    sqf_status status = make_factor(pipeline, work, hessian, factor, matrix, err);
    if (status == SQF_OK) {
        status = sqf_rotation_create(channels, factor, matrix, &work->layer.down_rotation, err);
    }
    free(matrix);
    return status;
}

/* down_proj's columns go through the very transform that its input meets at run time, over n: x H (w H)^T = n x w^T. */
static sqf_status turn_down(sqf_pipeline *pipeline, sqf_layer_work *work, const float *hessian, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    float *weights = work->weights[SQF_LINEAR_DOWN];
    SQF_TRY(create_rotation(pipeline, work, hessian, err));
    SQF_TRY(sqf_rotation_apply(pipeline->context, &work->layer.down_rotation, weights, config->hidden, err));
    const float scale = 1.0f / (float)work->layer.down_rotation.block;
    for (size_t i = 0; i < config->hidden * config->intermediate; i++) {
        weights[i] *= scale; /* a power of two: exact */
    }
    return SQF_OK;
}

static sqf_status turn_parts(sqf_pipeline *pipeline, sqf_layer_work *work, collection *c, sqf_error *err)
{
    const sqf_rotation_choice *choice = &pipeline->plan.rotation;
    if (choice->values == SQF_ROTATE_PART_PCA || choice->down == SQF_ROTATE_PART_PCA) {
        SQF_TRY(run_collection(pipeline, work, c, err));
    }
    if (choice->values != SQF_ROTATE_PART_OFF) {
        SQF_TRY(turn_values(pipeline, work, c->statistics[SQF_INPUT_O].hessian, err));
    }
    return choice->down != SQF_ROTATE_PART_OFF ? turn_down(pipeline, work, c->statistics[SQF_INPUT_DOWN].hessian, err)
                                               : SQF_OK;
}

sqf_status sqf_layer_work_rotate(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    collection c = {.pipeline = pipeline};
    if (pipeline->plan.rotation.residual != SQF_ROTATE_OFF) {
        SQF_TRY(turn_stream(pipeline, work, err));
    }
    const sqf_status status = turn_parts(pipeline, work, &c, err);
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        sqf_statistics_clear(&c.statistics[input]);
    }
    return status;
}

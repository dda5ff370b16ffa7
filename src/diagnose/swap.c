/* Float layers in a quantized model's frame. Smoothing multiplied columns by t and divided what produces them: for the
 * inputs of norms t is the quotient of the two norms; for o and down it sits in the rows of v and up, where
 * quantization stands over it, and is fitted. */
#include "diagnose/swap.h"

#include <math.h>
#include <string.h>

#include "kernels/ops.h"
#include "kernels/rotation.h"
#include "ptq/rotation/fold.h"

static const sqf_act_spec float_activations = {.low = SQF_TYPE_FP32, .bank = 1, .clip = 1.0f};

/* What making one layer needs at every step. */
typedef struct maker {
    sqf_context *context;
    const sqf_model *original, *quantized;
    const sqf_layer *from, *into; /* the original's and the quantized model's layer */
    size_t index;
    const float *basis; /* of the stream, or NULL */
    sqf_float_layer *out;
} maker;

static void module_shape(const maker *m, sqf_linear_kind kind, char name[SQF_MODULE_NAME], size_t *rows,
                         size_t *columns)
{
    sqf_linear_name(m->index, kind, name);
    sqf_linear_shape(&m->original->checkpoint.config, kind, rows, columns);
}

static sqf_status load_weights(maker *m, sqf_linear_kind kind, sqf_error *err)
{
    char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
    size_t rows, columns;
    module_shape(m, kind, module, &rows, &columns);
    sqf_tensor_name(module, "weight", name);
    return sqf_checkpoint_floats(&m->original->checkpoint, name, rows, columns, &m->out->weights[kind], err);
}

/* Columns of the modules that read a norm: W diag(gain before) (basis) / (gain after). */
static sqf_status follow_norm(maker *m, sqf_input_kind input, sqf_error *err)
{
    const float *before = input == SQF_INPUT_QKV ? m->from->attention_norm : m->from->mlp_norm;
    const float *after = input == SQF_INPUT_QKV ? m->into->attention_norm : m->into->mlp_norm;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        char name[SQF_MODULE_NAME];
        size_t rows, columns;
        float *weights = m->out->weights[kind];
        if (sqf_linear_input((sqf_linear_kind)kind) != input) {
            continue;
        }
        module_shape(m, (sqf_linear_kind)kind, name, &rows, &columns);
        if (m->basis) {
            SQF_TRY(sqf_fold_columns(m->context, weights, rows, columns, before, m->basis, err));
        }
        for (size_t i = 0; i < rows * columns; i++) {
            const size_t k = i % columns;
            weights[i] *= after[k] != 0.0f ? (m->basis ? 1.0f : before[k]) / after[k] : 1.0f;
        }
    }
    return SQF_OK;
}

/* Rows of the modules that write the stream. */
static sqf_status follow_stream(maker *m, sqf_error *err)
{
    static const sqf_linear_kind writers[] = {SQF_LINEAR_O, SQF_LINEAR_DOWN};
    for (size_t i = 0; m->basis && i < 2; i++) {
        char name[SQF_MODULE_NAME];
        size_t rows, columns;
        module_shape(m, writers[i], name, &rows, &columns);
        SQF_TRY(sqf_fold_rows(m->context, &m->out->weights[writers[i]], rows, columns, NULL, m->basis, err));
    }
    return SQF_OK;
}

/* Rows of a producer (v or up) scaled as the stored ones are; factors [rows] receives by how much. */
static sqf_status follow_rows(maker *m, sqf_linear_kind kind, float *factors, sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    size_t rows, columns;
    sqf_stored_linear stored;
    sqf_row row = {0};
    float *values = NULL;
    module_shape(m, kind, name, &rows, &columns);
    sqf_status status = sqf_checkpoint_linear(&m->quantized->checkpoint, m->context, name, rows, columns, &stored, err);
    SQF_TRY_GOTO(status, status, done);
    SQF_TRY_GOTO(status, sqf_row_create(&stored.matrix, &row, err), done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&values, columns, "a row", err), done);
    for (size_t n = 0; n < rows; n++) {
        float *weights = m->out->weights[kind] + n * columns;
        sqf_matrix_dequantize_row(&stored.matrix, n, &row, values);
        factors[n] = sqf_fitted_factor(values, weights, columns);
        for (size_t k = 0; k < columns; k++) {
            weights[k] *= factors[n];
        }
    }
done:
    sqf_row_clear(&row);
    sqf_stored_linear_clear(&stored);
    free(values);
    return status;
}

/* Columns of the reader divided by what its producer's rows were multiplied with; query heads of a group share rows. */
static void divide_columns(maker *m, sqf_linear_kind reader, const float *factors)
{
    const sqf_config *config = &m->original->checkpoint.config;
    const size_t width = config->head_dim, shared = config->heads / config->kv_heads;
    char name[SQF_MODULE_NAME];
    size_t rows, columns;
    module_shape(m, reader, name, &rows, &columns);
    for (size_t i = 0; i < rows * columns; i++) {
        const size_t k = i % columns;
        m->out->weights[reader][i] /= factors[reader == SQF_LINEAR_O ? k / width / shared * width + k % width : k];
    }
}

static sqf_status follow_producer(maker *m, sqf_linear_kind producer, sqf_linear_kind reader, sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    size_t rows, columns;
    float *factors;
    module_shape(m, producer, name, &rows, &columns);
    const sqf_scheme scheme = sqf_module_schemes_get(m->quantized->checkpoint.schemes, name);
    if (sqf_weight_spec_is_dense(&scheme.weights)) {
        return SQF_OK; /* what is left dense is left as it was */
    }
    SQF_TRY(SQF_ALLOC(&factors, rows, "smoothing factors", err));
    const sqf_status status = follow_rows(m, producer, factors, err);
    if (status == SQF_OK) {
        divide_columns(m, reader, factors);
    }
    free(factors);
    return status;
}

/* rows n of `values` [rows, columns] become rows order[n]. */
static sqf_status order_rows(float **values, const int32_t *order, size_t rows, size_t columns, sqf_error *err)
{
    float *ordered;
    SQF_TRY(SQF_ALLOC(&ordered, rows * columns, "weights", err));
    for (size_t n = 0; n < rows; n++) {
        memcpy(ordered + n * columns, *values + (size_t)order[n] * columns, columns * sizeof *ordered);
    }
    free(*values);
    *values = ordered;
    return SQF_OK;
}

static sqf_status order_columns(float *values, const int32_t *order, size_t rows, size_t columns, sqf_error *err)
{
    float *row;
    SQF_TRY(SQF_ALLOC(&row, columns, "a row", err));
    for (size_t n = 0; n < rows; n++) {
        memcpy(row, values + n * columns, columns * sizeof *row);
        for (size_t k = 0; k < columns; k++) {
            values[n * columns + k] = row[order[k]];
        }
    }
    free(row);
    return SQF_OK;
}

/* The order in which gate and up deliver and down reads, and down's rotation. */
static sqf_status follow_order(maker *m, sqf_error *err)
{
    const sqf_config *config = &m->original->checkpoint.config;
    const int32_t *order = m->into->down_order;
    const sqf_rotation *rotation = &m->into->down_rotation;
    if (rotation->factor > 0) {
        /* y = W x = (W Q) (Q^T x): rows of W turn as activations do, whose rotation makes them sqrt(block) longer */
        float *weights = m->out->weights[SQF_LINEAR_DOWN];
        SQF_TRY(sqf_rotation_apply(m->context, rotation, weights, config->hidden, err));
        for (size_t i = 0; i < config->hidden * config->intermediate; i++) {
            weights[i] /= (float)rotation->block;
        }
    }
    if (!order) {
        return SQF_OK;
    }
    SQF_TRY(order_rows(&m->out->weights[SQF_LINEAR_GATE], order, config->intermediate, config->hidden, err));
    SQF_TRY(order_rows(&m->out->weights[SQF_LINEAR_UP], order, config->intermediate, config->hidden, err));
    return order_columns(m->out->weights[SQF_LINEAR_DOWN], order, config->hidden, config->intermediate, err);
}

/* A model's bias of a module in the order `order` (NULL = its own); NULL if it has none. */
static sqf_status load_bias(const sqf_model *model, size_t index, sqf_linear_kind kind, const int32_t *order,
                            float **out, sqf_error *err)
{
    char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
    size_t rows, columns;
    *out = NULL;
    if (!sqf_linear_has_bias(&model->checkpoint.config, kind)) {
        return SQF_OK;
    }
    sqf_linear_name(index, kind, module);
    sqf_linear_shape(&model->checkpoint.config, kind, &rows, &columns);
    sqf_tensor_name(module, "bias", name);
    SQF_TRY(sqf_checkpoint_floats(&model->checkpoint, name, rows, 0, out, err));
    return order ? order_rows(out, order, rows, 1, err) : SQF_OK;
}

/* The order in which a module delivers its outputs where down_proj's was folded into it. */
static const int32_t *output_order(const sqf_layer *layer, sqf_linear_kind kind)
{
    return sqf_linear_input(kind) == SQF_INPUT_GATE_UP ? layer->down_order : NULL;
}

/* v in float is not rotated (o goes with it), so its bias must not be either. */
static bool original_bias(const maker *m, sqf_linear_kind kind)
{
    const sqf_rotation_spec rotation = sqf_module_schemes_rotation(m->quantized->checkpoint.schemes);
    return kind == SQF_LINEAR_V && strcmp(rotation.values, "off") != 0;
}

static sqf_status make_linear(maker *m, sqf_linear_kind kind, sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    float *bias;
    sqf_linear_params params = {
        .name = name, .dense = m->out->weights[kind], .dense_type = SQF_TYPE_FP32, .activations = float_activations};
    module_shape(m, kind, name, &params.rows, &params.columns);
    sqf_status status = load_bias(original_bias(m, kind) ? m->original : m->quantized, m->index, kind,
                                  output_order(m->into, kind), &bias, err);
    if (status == SQF_OK) {
        params.bias = bias;
        status = sqf_linear_create(m->context, &params, &m->out->linear[kind], err);
    }
    free(bias);
    return status;
}

static sqf_status make_layer(maker *m, const bool smoothed[SQF_INPUT_COUNT], sqf_error *err)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        SQF_TRY(load_weights(m, (sqf_linear_kind)kind, err));
    }
    SQF_TRY(follow_norm(m, SQF_INPUT_QKV, err));
    SQF_TRY(follow_norm(m, SQF_INPUT_GATE_UP, err));
    SQF_TRY(follow_stream(m, err));
    if (smoothed[SQF_INPUT_O]) {
        SQF_TRY(follow_producer(m, SQF_LINEAR_V, SQF_LINEAR_O, err));
    }
    if (smoothed[SQF_INPUT_DOWN]) {
        SQF_TRY(follow_producer(m, SQF_LINEAR_UP, SQF_LINEAR_DOWN, err));
    }
    SQF_TRY(follow_order(m, err));
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        SQF_TRY(make_linear(m, (sqf_linear_kind)kind, err));
    }
    return SQF_OK;
}

sqf_status sqf_float_layer_create(sqf_context *context, const sqf_model *original, const sqf_model *quantized,
                                  size_t index, const bool smoothed[SQF_INPUT_COUNT], const float *basis,
                                  sqf_float_layer *out, sqf_error *err)
{
    maker m = {.context = context,
               .original = original,
               .quantized = quantized,
               .from = &original->layers[index],
               .into = &quantized->layers[index],
               .index = index,
               .basis = basis,
               .out = out};
    *out = (sqf_float_layer){0};
    return make_layer(&m, smoothed, err);
}

void sqf_float_layer_clear(sqf_float_layer *layer)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        sqf_linear_destroy(layer->linear[kind]);
        free(layer->weights[kind]);
    }
    *layer = (sqf_float_layer){0};
}

sqf_status sqf_weights_alone_create(sqf_context *context, const sqf_model *quantized, size_t index,
                                    sqf_linear_kind kind, sqf_linear **out, sqf_error *err)
{
    const sqf_layer *layer = &quantized->layers[index];
    char name[SQF_MODULE_NAME];
    sqf_stored_linear stored;
    float *bias = NULL;
    sqf_linear_params params = {.name = name, .activations = float_activations};
    *out = NULL;
    sqf_linear_name(index, kind, name);
    sqf_linear_shape(&quantized->checkpoint.config, kind, &params.rows, &params.columns);
    sqf_status status = sqf_checkpoint_linear(&quantized->checkpoint, quantized->context, name, params.rows,
                                              params.columns, &stored, err);
    if (status == SQF_OK) {
        status = load_bias(quantized, index, kind, output_order(layer, kind), &bias, err);
    }
    if (status == SQF_OK) {
        params.matrix = &stored.matrix;
        params.bias = bias;
        params.row_order = output_order(layer, kind);
        params.input_in_stored_order = layer->down_order && kind == SQF_LINEAR_DOWN;
        status = sqf_linear_create(context, &params, out, err);
    }
    sqf_stored_linear_clear(&stored);
    free(bias);
    return status;
}

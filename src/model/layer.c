/* Loading one decoder layer: from stored tensors to linear layers that compute.
 *
 * All seven modules are read before the first is built, because one decision needs them together: down_proj's input
 * is the product of gate and up, so where down_proj stores its columns in another order, gate and up can deliver
 * their rows in that order and no gather is left at run time. The inputs of the other modules come from norms and
 * attention, whose order is not ours to change, and are gathered while they are quantized.
 *
 * The stored form lives only while its layer is built; afterwards the kernels' own planes are all there is. */
#include "model/layer.h"

#include <string.h>

/* A linear layer as it is stored, before it is repacked. Cleared in sqf_layer_load, also after a failure. */
typedef struct source {
    char name[SQF_MODULE_NAME];
    size_t rows, columns;
    bool quantized;
    sqf_stored_linear stored; /* quantized ones */
    float *bias;
} source;

/* What loading a layer needs at every step. */
typedef struct loader {
    const sqf_checkpoint *checkpoint;
    sqf_context *context;
    const sqf_layer_sink *sink;
    sqf_layer *layer;
    source sources[SQF_LINEAR_COUNT];
} loader;

/* Reads, verifies and checks one module, but for dense weights: those are checked where they are taken over. */
static sqf_status read_source(loader *load, sqf_linear_kind kind, sqf_error *err)
{
    const sqf_config *config = &load->checkpoint->config;
    source *from = &load->sources[kind];
    char name[SQF_MODULE_NAME];
    sqf_linear_name(load->layer->index, kind, from->name);
    sqf_linear_shape(config, kind, &from->rows, &from->columns);
    const sqf_scheme scheme = sqf_module_schemes_get(load->checkpoint->schemes, from->name);
    from->quantized = !sqf_weight_spec_is_dense(&scheme.weights);
    if (from->quantized) {
        SQF_TRY(sqf_checkpoint_linear(load->checkpoint, load->context, from->name, from->rows, from->columns,
                                      &from->stored, err));
    }
    if (!sqf_linear_has_bias(config, kind)) {
        return SQF_OK;
    }
    sqf_tensor_name(from->name, "bias", name);
    return sqf_checkpoint_floats(load->checkpoint, name, from->rows, 0, &from->bias, err);
}

/* True if gate and up can deliver their outputs in the order in which down_proj stores its columns: then no gather is
 * left at run time. Dense rows stay where they are in the file, so both must be quantized. A rotation between them
 * mixes the channels: its input has the original order, and the gather is done while its output is quantized. */
static bool can_fold(const loader *load)
{
    return load->layer->down_rotation.factor == 0 && load->sources[SQF_LINEAR_DOWN].stored.matrix.channels &&
           load->sources[SQF_LINEAR_GATE].quantized && load->sources[SQF_LINEAR_UP].quantized;
}

/* Keeps a copy of down_proj's order: taps that see its input need it (sqf_layer_forward). */
static sqf_status fold_order(loader *load, sqf_error *err)
{
    const source *down = &load->sources[SQF_LINEAR_DOWN];
    SQF_TRY(SQF_ALLOC(&load->layer->down_order, down->columns, "down_proj's order", err));
    memcpy(load->layer->down_order, down->stored.matrix.channels, down->columns * sizeof *load->layer->down_order);
    return SQF_OK;
}

/* bias[n] becomes that of output n. */
static sqf_status order_bias(source *from, const int32_t *order, sqf_error *err)
{
    float *ordered;
    SQF_TRY(SQF_ALLOC(&ordered, from->rows, "bias", err));
    for (size_t n = 0; n < from->rows; n++) {
        ordered[n] = from->bias[order[n]];
    }
    free(from->bias);
    from->bias = ordered;
    return SQF_OK;
}

/* row_order for gate and up, input_in_stored_order for down: the two ends of the fold. */
static sqf_status create_quantized(loader *load, sqf_linear_kind kind, sqf_error *err)
{
    source *from = &load->sources[kind];
    const bool ordered = sqf_linear_input(kind) == SQF_INPUT_GATE_UP && load->layer->down_order;
    if (ordered && from->bias) {
        SQF_TRY(order_bias(from, load->layer->down_order, err));
    }
    const sqf_linear_params params = {.name = from->name,
                                      .rows = from->rows,
                                      .columns = from->columns,
                                      .bias = from->bias,
                                      .row_order = ordered ? load->layer->down_order : NULL,
                                      .matrix = &from->stored.matrix,
                                      .activations = from->stored.scheme.activations,
                                      .static_scale = from->stored.static_scale,
                                      .static_zero = from->stored.static_zero,
                                      .column_norm = from->stored.column_norm,
                                      .input_in_stored_order = kind == SQF_LINEAR_DOWN && load->layer->down_order};
    return load->sink->linear(load->sink->user, kind, &params, NULL, err);
}

static sqf_status create_linear(loader *load, sqf_linear_kind kind, sqf_error *err)
{
    const source *from = &load->sources[kind];
    const sqf_tensor *tensor;
    char name[SQF_MODULE_NAME];
    if (from->quantized) {
        return create_quantized(load, kind, err);
    }
    sqf_tensor_name(from->name, "weight", name);
    SQF_TRY(sqf_checkpoint_dense(load->checkpoint, load->context, name, from->rows, from->columns, &tensor, err));
    const sqf_linear_params params = sqf_dense_params(tensor, from->bias);
    return load->sink->linear(load->sink->user, kind, &params, tensor, err);
}

static sqf_status load_norm(const loader *load, const char *norm, size_t n, float **out, sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    snprintf(name, sizeof name, "model.layers.%zu.%s.weight", load->layer->index, norm);
    return sqf_checkpoint_floats(load->checkpoint, name, n, 0, out, err);
}

static sqf_status load_norms(const loader *load, sqf_error *err)
{
    const sqf_config *config = &load->checkpoint->config;
    sqf_layer *layer = load->layer;
    SQF_TRY(load_norm(load, "input_layernorm", config->hidden, &layer->attention_norm, err));
    SQF_TRY(load_norm(load, "post_attention_layernorm", config->hidden, &layer->mlp_norm, err));
    if (config->architecture->query_key_norm) {
        SQF_TRY(load_norm(load, "self_attn.q_norm", config->head_dim, &layer->query_norm, err));
        SQF_TRY(load_norm(load, "self_attn.k_norm", config->head_dim, &layer->key_norm, err));
    }
    return SQF_OK;
}

/* Order matters: the fold must be known before gate and up are built. */
static sqf_status load_all(loader *load, sqf_error *err)
{
    SQF_TRY(load_norms(load, err));
    SQF_TRY(sqf_checkpoint_rotation(load->checkpoint, load->layer->index, &load->layer->down_rotation, err));
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        SQF_TRY(read_source(load, (sqf_linear_kind)kind, err));
    }
    if (can_fold(load)) {
        SQF_TRY(fold_order(load, err));
    }
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        SQF_TRY(create_linear(load, (sqf_linear_kind)kind, err));
    }
    return SQF_OK;
}

sqf_status sqf_layer_read(const sqf_checkpoint *checkpoint, sqf_context *context, size_t index,
                          const sqf_layer_sink *sink, sqf_layer *out, sqf_error *err)
{
    loader load = {.checkpoint = checkpoint, .context = context, .sink = sink, .layer = out};
    *out = (sqf_layer){.index = index};
    const sqf_status status = load_all(&load, err);
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        sqf_stored_linear_clear(&load.sources[kind].stored);
        free(load.sources[kind].bias);
    }
    if (status != SQF_OK) {
        sqf_layer_clear(out);
    }
    return status;
}

/* A layer of the CPU while it is built. */
typedef struct host_layer {
    sqf_context *context;
    sqf_arena *arena;
    sqf_layer *layer;
} host_layer;

static sqf_status take_linear(void *user, sqf_linear_kind kind, const sqf_linear_params *params,
                              const sqf_tensor *dense, sqf_error *err)
{
    const host_layer *host = user;
    if (dense) {
        return sqf_dense_linear_of(host->context, dense, params->bias, &host->layer->linear[kind],
                                   &host->layer->owned[kind], err);
    }
    sqf_linear_params repacked = *params;
    repacked.arena = host->arena;
    return sqf_linear_create(host->context, &repacked, &host->layer->linear[kind], err);
}

sqf_status sqf_layer_load(const sqf_checkpoint *checkpoint, sqf_context *context, size_t index, sqf_arena *arena,
                          sqf_layer *out, sqf_error *err)
{
    host_layer host = {context, arena, out};
    return sqf_layer_read(checkpoint, context, index, &(sqf_layer_sink){take_linear, &host}, out, err);
}

void sqf_layer_clear(sqf_layer *layer)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        sqf_linear_destroy(layer->linear[kind]);
        free(layer->owned[kind]);
    }
    free(layer->attention_norm);
    free(layer->mlp_norm);
    free(layer->query_norm);
    free(layer->key_norm);
    free(layer->down_order);
    sqf_rotation_clear(&layer->down_rotation);
    *layer = (sqf_layer){0};
}

/* A model directory that computes: loading all layers, and the facts about it. Facts (sqf_model_count) need headers
 * alone and are shared with the inspection, which loads nothing. */
#include "model/model.h"

#include <string.h>

#include "base/file.h"

void sqf_model_destroy(sqf_model *model)
{
    if (!model) {
        return;
    }
    model->backend->clear(model);
    sqf_embedding_clear(&model->embedding);
    free(model->norm);
    free(model->end_ids);
    sqf_checkpoint_close(&model->checkpoint);
    free(model);
}

/* The tensors of a layer, in the order of the list. */
typedef struct layer_tensors {
    const sqf_tensors *tensors;
    char prefix[SQF_MODULE_NAME];
    size_t next;
} layer_tensors;

static layer_tensors tensors_of_layer(const sqf_model *model, size_t layer)
{
    layer_tensors walk = {.tensors = model->checkpoint.tensors};
    snprintf(walk.prefix, sizeof walk.prefix, "model.layers.%zu.", layer);
    return walk;
}

/* The next one, NULL behind the last. */
static const sqf_tensor *next_tensor(layer_tensors *walk)
{
    while (walk->next < sqf_tensors_count(walk->tensors)) {
        const sqf_tensor *tensor = sqf_tensors_at(walk->tensors, walk->next++);
        if (strncmp(tensor->name, walk->prefix, strlen(walk->prefix)) == 0) {
            return tensor;
        }
    }
    return NULL;
}

/* Has the next layer fetched from disk while this one is repacked. */
static void expect_layer(const sqf_model *model, size_t layer)
{
    layer_tensors walk = tensors_of_layer(model, layer);
    for (const sqf_tensor *tensor; (tensor = next_tensor(&walk)) != NULL;) {
        sqf_mapping_expect(tensor->data, tensor->bytes);
    }
}

/* Stored parts of quantized modules were repacked and are not read again: their pages go back. Returns the bytes of the
 * layer. */
static size_t forget_layer(const sqf_model *model, size_t layer)
{
    size_t bytes = 0;
    layer_tensors walk = tensors_of_layer(model, layer);
    for (const sqf_tensor *tensor; (tensor = next_tensor(&walk)) != NULL;) {
        bytes += tensor->bytes;
        if (strstr(tensor->name, ".sq_")) {
            sqf_mapping_forget(tensor->data, tensor->bytes);
        }
    }
    return bytes;
}

/* Bytes of tensors outside of the layers, in use or not: what was read before the layers. */
static size_t bytes_outside_layers(const sqf_model *model)
{
    size_t bytes = 0;
    for (size_t i = 0; i < sqf_tensors_count(model->checkpoint.tensors); i++) {
        const sqf_tensor *tensor = sqf_tensors_at(model->checkpoint.tensors, i);
        bytes += strncmp(tensor->name, "model.layers.", 13) == 0 ? 0 : tensor->bytes;
    }
    return bytes;
}

/* In megabytes, because they take alike long wherever they belong: the time left that a display computes is right. */
static sqf_status report_loaded(const sqf_model *model, size_t bytes, sqf_error *err)
{
    const uint64_t unit = 1000000, total = (model->info.weight_bytes + unit - 1) / unit;
    const uint64_t done = bytes == model->info.weight_bytes ? total : bytes / unit;
    return sqf_progress(model->context, "MB of weights", done, total, err);
}

/* Progress is reported, and cancelling possible, between layers. */
static sqf_status load_layers(sqf_model *model, sqf_error *err)
{
    const size_t layers = model->checkpoint.config.layers;
    size_t bytes = bytes_outside_layers(model);
    for (size_t i = 0; i < layers; i++) {
        SQF_TRY(report_loaded(model, bytes, err));
        expect_layer(model, i + 1);
        SQF_TRY(model->backend->layer(model, i, err));
        bytes += forget_layer(model, i);
    }
    return report_loaded(model, model->info.weight_bytes, err);
}

/* A quantized output matrix as a layer; `stored` is read here alone. */
static sqf_status create_output(sqf_model *model, const char *module, const sqf_stored_linear *stored, sqf_error *err)
{
    const sqf_linear_params params = {.name = module,
                                      .rows = stored->matrix.rows,
                                      .columns = stored->matrix.columns,
                                      .matrix = &stored->matrix,
                                      .activations = stored->scheme.activations,
                                      .static_scale = stored->static_scale,
                                      .static_zero = stored->static_zero,
                                      .column_norm = stored->column_norm};
    return model->backend->output(model, &params, NULL, err);
}

static sqf_status create_dense_output(sqf_model *model, const sqf_tensor *tensor, sqf_error *err)
{
    const sqf_linear_params params = sqf_dense_params(tensor, NULL);
    return model->backend->output(model, &params, tensor, err);
}

/* The output matrix is the embedding where the two are tied: the same stored bytes, used as a linear layer. */
static sqf_status load_output(sqf_model *model, sqf_error *err)
{
    const sqf_checkpoint *checkpoint = &model->checkpoint;
    const sqf_config *config = &checkpoint->config;
    const char *module = sqf_output_module(config);
    const sqf_scheme scheme = sqf_module_schemes_get(checkpoint->schemes, module);
    if (config->tied && model->embedding.tensor) { /* which was checked as the embedding */
        return create_dense_output(model, model->embedding.tensor, err);
    }
    if (sqf_weight_spec_is_dense(&scheme.weights)) {
        const sqf_tensor *tensor;
        char name[SQF_MODULE_NAME];
        sqf_tensor_name(module, "weight", name);
        SQF_TRY(
            sqf_checkpoint_dense(checkpoint, model->context, name, config->vocabulary, config->hidden, &tensor, err));
        return create_dense_output(model, tensor, err);
    }
    if (config->tied) {
        return create_output(model, module, &model->embedding.stored, err);
    }
    sqf_stored_linear stored = {0};
    sqf_status status =
        sqf_checkpoint_linear(checkpoint, model->context, module, config->vocabulary, config->hidden, &stored, err);
    if (status == SQF_OK) {
        status = create_output(model, module, &stored, err);
    }
    sqf_stored_linear_clear(&stored);
    return status;
}

/* What can fail without reading weights comes first. What every decoded token reads is counted last: a model that was
 * not loaded holds no matrices, and keeps 0. */
static sqf_status load(sqf_model *model, const char *directory, const sqf_model_use *use, sqf_error *err)
{
    sqf_checkpoint *checkpoint = &model->checkpoint;
    const sqf_config *config = &checkpoint->config;
    SQF_TRY(sqf_checkpoint_open(directory, checkpoint, err));
    SQF_TRY(sqf_model_load_generation(model, err));
    SQF_TRY(sqf_model_count(model, err));
    SQF_TRY(model->backend->begin(model, use, err));
    SQF_TRY(report_loaded(model, 0, err));
    SQF_TRY(sqf_embedding_load(checkpoint, model->context, &model->embedding, err));
    SQF_TRY(sqf_checkpoint_floats(checkpoint, "model.norm.weight", config->hidden, 0, &model->norm, err));
    SQF_TRY(model->backend->embedding(model, err));
    SQF_TRY(load_output(model, err));
    SQF_TRY(load_layers(model, err));
    model->info.read_bytes = model->backend->read_bytes(model);
    return SQF_OK;
}

sqf_status sqf_model_open(sqf_context *context, const char *directory, sqf_model **out, sqf_error *err)
{
    return sqf_model_open_for(context, directory, &(sqf_model_use){0}, out, err);
}

/* A model is handed out whole or not at all. */
sqf_status sqf_model_open_for(sqf_context *context, const char *directory, const sqf_model_use *use, sqf_model **out,
                              sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(out, 1, "model", err));
    (*out)->context = context;
    (*out)->backend = context->device ? &sqf_device_backend : &sqf_host_backend;
    const sqf_status status = load(*out, directory, use, err);
    if (status != SQF_OK) {
        sqf_model_destroy(*out);
        *out = NULL;
    }
    return status;
}

/* Sums over the decoder's linear layers. */
typedef struct linear_sums {
    double weights, bits, weights_equivalent, activations_equivalent;
    sqf_cost cost;
} linear_sums;

/* The scheme that a dense module has in the file: its own dtype. */
static sqf_scheme stored_scheme(const sqf_checkpoint *checkpoint, const char *module)
{
    sqf_scheme scheme = sqf_module_schemes_get(checkpoint->schemes, module);
    char name[SQF_MODULE_NAME];
    sqf_tensor_name(module, "weight", name);
    const sqf_tensor *tensor = sqf_tensors_find(checkpoint->tensors, name);
    if (sqf_weight_spec_is_dense(&scheme.weights) && tensor) {
        scheme.weights.low = sqf_dtype_type(tensor->dtype);
    }
    return scheme;
}

/* Bytes of "module.weight" or of all its sq_ tensors. */
static sqf_status stored_bytes(const sqf_checkpoint *checkpoint, const char *module, const sqf_scheme *scheme,
                               size_t rows, size_t columns, size_t *bytes, sqf_error *err)
{
    sqf_stored_part parts[SQF_STORED_PARTS] = {{.suffix = "weight"}};
    size_t count = 1;
    if (!sqf_weight_spec_is_dense(&scheme->weights)) {
        SQF_TRY(sqf_stored_parts(scheme, rows, columns, parts, &count, err));
    }
    *bytes = 0;
    for (size_t i = 0; i < count; i++) {
        char name[SQF_MODULE_NAME];
        sqf_tensor_name(module, parts[i].suffix, name);
        *bytes += sqf_tensors_find(checkpoint->tensors, name)->bytes; /* it is there: the checkpoint was surveyed */
    }
    return SQF_OK;
}

/* Adds one linear layer to the figures. Equivalent bits are weighted by the number of weights, which is also the
 * number of multiply-accumulates a token. */
static sqf_status count_linear(sqf_model *model, size_t layer, sqf_linear_kind kind, linear_sums *sums, sqf_error *err)
{
    char module[SQF_MODULE_NAME];
    size_t rows, columns, bytes;
    sqf_linear_name(layer, kind, module);
    sqf_linear_shape(&model->checkpoint.config, kind, &rows, &columns);
    const sqf_scheme scheme = stored_scheme(&model->checkpoint, module);
    SQF_TRY(stored_bytes(&model->checkpoint, module, &scheme, rows, columns, &bytes, err));
    const sqf_scheme_bits bits = sqf_scheme_bits_of(&scheme);
    const double weights = (double)rows * (double)columns;
    sums->weights += weights;
    sums->bits += 8 * (double)bytes;
    sums->weights_equivalent += weights * bits.weights_equivalent;
    sums->activations_equivalent += weights * bits.activations_equivalent;
    const sqf_cost cost = sqf_cost_linear(&scheme, rows, columns);
    sqf_cost_add(&sums->cost, &cost);
    const bool bias = sqf_linear_has_bias(&model->checkpoint.config, kind);
    model->info.parameters += rows * columns + (bias ? rows : 0);
    model->info.quantized_weights += sqf_weight_spec_is_dense(&scheme.weights) ? 0 : rows * columns;
    return SQF_OK;
}

/* Embedding, output matrix and norms. */
static uint64_t count_dense(const sqf_config *config)
{
    const uint64_t matrix = (uint64_t)config->vocabulary * config->hidden;
    const uint64_t heads = config->architecture->query_key_norm ? 2 * config->head_dim : 0;
    return (config->tied ? 1 : 2) * matrix + config->hidden + config->layers * (2 * config->hidden + heads);
}

/* "BF16" where nothing is quantized, in the dtype of the first linear layer. */
static void name_scheme(sqf_model *model)
{
    const sqf_scheme main = model->checkpoint.schemes
                                ? sqf_module_schemes_main(model->checkpoint.schemes)
                                : stored_scheme(&model->checkpoint, "model.layers.0.self_attn.q_proj");
    sqf_scheme_print(&main, SQF_SPELLING_SHORT, model->scheme);
}

/* What the rotations at run time cost, and which there are. */
static void add_rotation(sqf_model *model, sqf_cost *sum)
{
    const sqf_config *config = &model->checkpoint.config;
    const sqf_rotation_spec spec = sqf_module_schemes_rotation(model->checkpoint.schemes);
    model->info.rotation = spec.residual;
    model->info.rotation_values = spec.values;
    model->info.rotation_down = spec.down;
    if (spec.down_factor > 0) {
        const sqf_cost cost = sqf_cost_rotation(config->intermediate, spec.down_factor, spec.down_mixed);
        model->info.rotation_operations = cost.operations * (double)config->layers;
        sum->operations += model->info.rotation_operations;
    }
}

/* The two matrices of the vocabulary, which figures by weight of the decoder's linear layers leave out. Bytes of
 * everything are known: what a token reads is all of it but the rows of an embedding that makes no logits. */
static sqf_status count_vocabulary(sqf_model *model, sqf_error *err)
{
    const sqf_checkpoint *checkpoint = &model->checkpoint;
    const sqf_config *config = &checkpoint->config;
    const char *const modules[] = {SQF_MODULE_EMBEDDING, SQF_MODULE_OUTPUT};
    char *const names[] = {model->embedding_scheme, model->output_scheme};
    model->info.token_bytes = model->info.weight_bytes;
    for (int i = 0; i < (config->tied ? 1 : 2); i++) {
        const sqf_scheme scheme = stored_scheme(checkpoint, modules[i]);
        const bool makes_logits = config->tied || i == 1;
        size_t bytes;
        SQF_TRY(stored_bytes(checkpoint, modules[i], &scheme, config->vocabulary, config->hidden, &bytes, err));
        sqf_scheme_print(&scheme, SQF_SPELLING_SHORT, names[i]);
        model->info.quantized_weights +=
            sqf_weight_spec_is_dense(&scheme.weights) ? 0 : config->vocabulary * config->hidden;
        if (makes_logits) {
            model->info.output_cost = sqf_cost_linear(&scheme, config->vocabulary, config->hidden);
        } else {
            model->info.token_bytes -= bytes;
        }
    }
    if (config->tied) {
        memcpy(model->output_scheme, model->embedding_scheme, sizeof model->output_scheme);
    }
    model->info.output_scheme = model->output_scheme;
    model->info.embedding_scheme = model->embedding_scheme;
    model->info.bits_per_parameter = 8.0 * (double)model->info.weight_bytes / (double)model->info.parameters;
    return SQF_OK;
}

/* bits_per_weight counts what the linear layers take in the files, scales and masks included, without biases. */
sqf_status sqf_model_count(sqf_model *model, sqf_error *err)
{
    const sqf_config *config = &model->checkpoint.config;
    linear_sums sums = {0};
    name_scheme(model);
    model->info = (sqf_model_info){.directory = model->checkpoint.directory,
                                   .architecture = config->architecture->name,
                                   .scheme = model->scheme,
                                   .hidden = config->hidden,
                                   .intermediate = config->intermediate,
                                   .layers = config->layers,
                                   .heads = config->heads,
                                   .kv_heads = config->kv_heads,
                                   .head_dim = config->head_dim,
                                   .vocabulary = config->vocabulary,
                                   .positions = config->positions,
                                   .parameters = count_dense(config)};
    for (size_t i = 0; i < config->layers * SQF_LINEAR_COUNT; i++) {
        SQF_TRY(count_linear(model, i / SQF_LINEAR_COUNT, (sqf_linear_kind)(i % SQF_LINEAR_COUNT), &sums, err));
    }
    for (size_t i = 0; i < sqf_tensors_count(model->checkpoint.tensors); i++) {
        model->info.weight_bytes += sqf_tensors_at(model->checkpoint.tensors, i)->bytes;
    }
    SQF_TRY(count_vocabulary(model, err));
    add_rotation(model, &sums.cost);
    model->info.bits_per_weight = sums.bits / sums.weights;
    model->info.weights_equivalent_bits = sums.weights_equivalent / sums.weights;
    model->info.activations_equivalent_bits = sums.activations_equivalent / sums.weights;
    model->info.cost = sums.cost;
    model->info.predicted_cost = sqf_cost_per_product(&sums.cost, NULL);
    return SQF_OK;
}

sqf_model_info sqf_model_info_get(const sqf_model *model)
{
    return model->info;
}

const uint32_t *sqf_model_end_ids(const sqf_model *model, size_t *count)
{
    *count = model->end_count;
    return model->end_ids;
}

sqf_sampling sqf_model_sampling(const sqf_model *model)
{
    return model->sampling;
}

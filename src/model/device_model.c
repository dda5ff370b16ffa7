/* Loading a model to a device: what it will take is added up before any weight is read; then layer by layer, each read
 * and checked as for the CPU, packed by the backend, and forgotten here.
 *
 * A dense embedding goes to the device as it is. A quantized one stays in the file: its rows are dequantized by the
 * host when they are asked for, a row of floats a token, which costs less than its floats on the device would. */
#include "model/device_model.h"

#include <string.h>

enum { STANDARD_POSITIONS = 2048, KEPT_ROWS = 3 };

/* ---- the plan ---- */

/* What one matrix of the model will take. Its contents are not read: shapes and schemes are enough. */
static sqf_status plan_linear(const sqf_model *model, const char *module, size_t rows, size_t columns,
                              sqf_device_plan *plan, sqf_error *err)
{
    const sqf_checkpoint *checkpoint = &model->checkpoint;
    const sqf_scheme scheme = sqf_module_schemes_get(checkpoint->schemes, module);
    sqf_linear_params params = {.name = module, .rows = rows, .columns = columns, .activations = scheme.activations};
    sqf_matrix matrix;
    uint64_t bytes;
    if (sqf_weight_spec_is_dense(&scheme.weights)) {
        char name[SQF_MODULE_NAME];
        const sqf_tensor *tensor;
        sqf_tensor_name(module, "weight", name);
        SQF_TRY(sqf_checkpoint_find_dense(checkpoint, name, rows, columns, &tensor, err));
        params = sqf_dense_params(tensor, NULL);
    } else {
        SQF_TRY(sqf_matrix_shape(&scheme.weights, rows, columns, sqf_scheme_border(&scheme, columns), &matrix, err));
        params.matrix = &matrix;
    }
    SQF_TRY(sqf_device_linear_plan(model->context, &params, &bytes, err));
    plan->weights += bytes;
    return SQF_OK;
}

/* The embedding's table, if it will be on the device. */
static sqf_status plan_embedding(const sqf_model *model, sqf_device_plan *plan, sqf_error *err)
{
    const sqf_config *config = &model->checkpoint.config;
    const sqf_scheme scheme = sqf_module_schemes_get(model->checkpoint.schemes, SQF_MODULE_EMBEDDING);
    const sqf_tensor *tensor;
    if (sqf_weight_spec_is_dense(&scheme.weights)) {
        SQF_TRY(sqf_checkpoint_find_dense(&model->checkpoint, SQF_MODULE_EMBEDDING ".weight", config->vocabulary,
                                          config->hidden, &tensor, err));
        plan->weights += tensor->bytes;
    }
    return SQF_OK;
}

/* Buffers for the tokens of a pass, two sets of hidden states, logits, rope angles. */
static void plan_use(const sqf_config *config, const sqf_model_use *use, sqf_device_plan *plan)
{
    const uint64_t sessions = use->sessions > 0 ? use->sessions : 1;
    const uint64_t wanted = use->positions > 0 ? use->positions : STANDARD_POSITIONS;
    const uint64_t positions = wanted < config->positions ? wanted : config->positions;
    const uint64_t all = positions * sessions, chunk = all < DEVICE_CHUNK ? all : DEVICE_CHUNK;
    const uint64_t rows = chunk < DEVICE_LOGITS ? chunk : DEVICE_LOGITS;
    plan->cache = sessions * sqf_device_cache_bytes(config, config->layers, positions, use->kv);
    plan->buffers = sqf_device_work_bytes(config, chunk) + chunk * 2 * sizeof(float) * config->hidden +
                    rows * sizeof(float) * config->vocabulary + positions * sizeof(float) * config->head_dim;
}

static sqf_status plan(const sqf_model *model, const sqf_model_use *use, sqf_error *err)
{
    const sqf_config *config = &model->checkpoint.config;
    sqf_device_plan sum = {0};
    char module[SQF_MODULE_NAME];
    for (size_t layer = 0; layer < config->layers; layer++) {
        for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
            size_t rows, columns;
            sqf_linear_name(layer, (sqf_linear_kind)kind, module);
            sqf_linear_shape(config, (sqf_linear_kind)kind, &rows, &columns);
            SQF_TRY(plan_linear(model, module, rows, columns, &sum, err));
        }
        sum.weights += 2 * sizeof(float) * config->hidden;
    }
    SQF_TRY(plan_linear(model, sqf_output_module(config), config->vocabulary, config->hidden, &sum, err));
    SQF_TRY(plan_embedding(model, &sum, err));
    plan_use(config, use, &sum);
    return sqf_device_plan_check(model->context->device, &sum, err);
}

/* ---- loading ---- */

static sqf_status begin(sqf_model *model, const sqf_model_use *use, sqf_error *err)
{
    SQF_TRY(plan(model, use, err));
    SQF_TRY(SQF_ALLOC(&model->device, 1, "model", err));
    model->device->context = model->context;
    model->device->device = model->context->device;
    SQF_TRY(SQF_ALLOC(&model->device->layers, model->checkpoint.config.layers, "layers", err));
    SQF_TRY(SQF_DEVICE_ALLOC(model->context->device, &model->device->uniform, 1, "sampling", err));
    SQF_TRY(SQF_DEVICE_ALLOC(model->context->device, &model->device->drawn, 1, "sampling", err));
    return sqf_device_work_create(model->context, &model->checkpoint.config, &model->device->work, err);
}

static sqf_status take_embedding(sqf_model *model, sqf_error *err)
{
    const sqf_device *device = model->context->device;
    const sqf_config *config = &model->checkpoint.config;
    const sqf_tensor *tensor = model->embedding.tensor;
    SQF_TRY(sqf_device_place(device, (void **)&model->device->norm, model->norm, config->hidden, sizeof *model->norm,
                             "norms", err));
    if (!tensor) {
        return SQF_OK;
    }
    model->device->table_type = sqf_dtype_type(tensor->dtype);
    return sqf_device_place(device, &model->device->table, tensor->data, tensor->bytes, 1, "embedding", err);
}

static sqf_status take_output(sqf_model *model, const sqf_linear_params *params, const sqf_tensor *dense,
                              sqf_error *err)
{
    (void)dense;
    return sqf_device_linear_create(model->context, params, &model->device->output, err);
}

/* A layer that is being read. */
typedef struct layer_reader {
    sqf_context *context;
    sqf_device_linear *linear; /* [SQF_LINEAR_COUNT] */
} layer_reader;

static sqf_status take_linear(void *user, sqf_linear_kind kind, const sqf_linear_params *params,
                              const sqf_tensor *dense, sqf_error *err)
{
    const layer_reader *reader = user;
    (void)dense;
    return sqf_device_linear_create(reader->context, params, &reader->linear[kind], err);
}

/* The host's layer is empty but for norms and rotation, and goes when they are on the device. */
static sqf_status take_layer(sqf_model *model, size_t index, sqf_error *err)
{
    sqf_device_layer *layer = &model->device->layers[index];
    sqf_device_linear linear[SQF_LINEAR_COUNT] = {0};
    layer_reader reader = {model->context, linear};
    sqf_layer host;
    sqf_status status =
        sqf_layer_read(&model->checkpoint, model->context, index, &(sqf_layer_sink){take_linear, &reader}, &host, err);
    if (status == SQF_OK) {
        status = sqf_device_layer_init(model->context, &model->checkpoint.config, &host, layer, err);
        sqf_layer_clear(&host);
    }
    memcpy(layer->linear, linear, sizeof linear); /* released with the model, whatever happened */
    for (size_t kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        sqf_product_counts_add(&model->device->layer_products, &linear[kind].per_token, 1);
    }
    return status;
}

static void clear_rows(sqf_device_model *device)
{
    while (device->free_rows) {
        device_rows *rows = device->free_rows;
        device->free_rows = rows->next;
        sqf_device_release(device->device, rows->data);
        free(rows);
    }
}

static void clear(sqf_model *model)
{
    sqf_device_model *device = model->device;
    if (!device) {
        return;
    }
    const sqf_cuda_ops *ops = device->device->ops;
    for (size_t i = 0; i < DEVICE_RECORDS; i++) {
        if (device->records[i].graph) {
            ops->graph_destroy(device->device->cuda, device->records[i].graph);
        }
    }
    for (size_t i = 0; device->layers && i < model->checkpoint.config.layers; i++) {
        sqf_device_layer_clear(model->context, &device->layers[i]);
    }
    sqf_device_linear_clear(model->context, &device->output);
    sqf_device_work_destroy(device->work);
    void *const memory[] = {device->norm,    device->table, device->stream, device->logits,
                            device->uniform, device->seen,  device->drawn};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
        sqf_device_release(device->device, memory[i]);
    }
    clear_rows(device);
    sqf_lookup_clear(&device->lookup);
    free(device->looked_up);
    free(device->layers);
    free(device);
    model->device = NULL;
}

static size_t linear_bytes(const sqf_device_model *device, const sqf_device_linear *linear)
{
    size_t bytes = 0;
    for (size_t i = 0; i < linear->part_count; i++) {
        bytes += device->device->ops->linear_bytes(linear->parts[i]);
    }
    return bytes;
}

static size_t read_bytes(const sqf_model *model)
{
    size_t bytes = linear_bytes(model->device, &model->device->output);
    for (size_t i = 0; i < model->checkpoint.config.layers; i++) {
        for (size_t k = 0; k < SQF_LINEAR_COUNT; k++) {
            bytes += linear_bytes(model->device, &model->device->layers[i].linear[k]);
        }
    }
    return bytes;
}

/* ---- hidden states ---- */

/* The smallest that is large enough, else a new one. */
sqf_status sqf_device_rows_take(sqf_device_model *model, size_t hidden, size_t count, device_rows **out, sqf_error *err)
{
    device_rows **best = NULL, *rows;
    for (device_rows **at = &model->free_rows; *at; at = &(*at)->next) {
        if ((*at)->capacity >= count && (!best || (*at)->capacity < (*best)->capacity)) {
            best = at;
        }
    }
    if (best) {
        rows = *best;
        *best = rows->next;
    } else {
        SQF_TRY(SQF_ALLOC(&rows, 1, "hidden states", err));
        const sqf_status status =
            sqf_device_alloc(model->device, (void **)&rows->data, count, hidden * sizeof(float), "hidden states", err);
        if (status != SQF_OK) {
            free(rows);
            return status;
        }
        rows->capacity = count;
    }
    rows->references = 1;
    *out = rows;
    return SQF_OK;
}

/* A few that nobody refers to are kept for the next calls; of more the smallest goes. */
void sqf_device_rows_drop(sqf_device_model *model, device_rows *rows)
{
    size_t count = 0;
    if (!rows || --rows->references > 0) {
        return;
    }
    rows->next = model->free_rows;
    model->free_rows = rows;
    device_rows **smallest = &model->free_rows;
    for (device_rows **at = &model->free_rows; *at; at = &(*at)->next, count++) {
        smallest = (*at)->capacity < (*smallest)->capacity ? at : smallest;
    }
    if (count > KEPT_ROWS) {
        rows = *smallest;
        *smallest = rows->next;
        sqf_device_release(model->device, rows->data);
        free(rows);
    }
}

const sqf_backend sqf_device_backend = {
    .begin = begin,
    .embedding = take_embedding,
    .output = take_output,
    .layer = take_layer,
    .clear = clear,
    .read_bytes = read_bytes,
    .session_create = sqf_device_session_create,
    .session_destroy = sqf_device_session_destroy,
    .position_bytes = sqf_device_session_position_bytes,
    .forward = sqf_device_session_forward,
    .keep = sqf_device_session_keep,
    .logits = sqf_device_session_logits,
    .last_logits = sqf_device_session_last_logits,
    .draw = sqf_device_session_draw,
    .step = sqf_device_session_step,
};

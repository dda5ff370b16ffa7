/* A checkpoint with persistent outlier channels that computes the same function: the inverse of smoothing, with factors
 * that are powers of two, so that nothing is rounded. docs/beds.md
 *
 * Tensors go through one at a time in the order of their names: what no factor touches is copied byte for byte. */
#include <math.h>
#include <string.h>

#include <sqf/bed.h>

#include "base/random.h"
#include "kernels/ops.h"
#include "ptq/output.h"

enum { FACTORS = 4 }; /* a channel's factor is the largest, or that over 2, 4 or 8 */

/* Factors of one decoder layer; NULL = 1. */
typedef struct layer_factors {
    const float *attention, *mlp; /* [hidden] of the norms; borrowed: the same in every layer */
    float *value;                 /* [kv_heads * head_dim] rows of v */
    float *output;                /* [heads * head_dim] the same, for each query head that reads them */
    float *up;                    /* [intermediate] rows of up */
} layer_factors;

/* One bed at work. */
typedef struct outlier_bed {
    sqf_context *context;
    const sqf_outlier_bed_options *options;
    sqf_checkpoint checkpoint;
    sqf_model_output output;
    float *attention, *mlp; /* [hidden] or NULL */
    layer_factors *layer;   /* [layers] */
    json_t *record;         /* bed.json */
    sqf_outlier_bed_summary summary;
} outlier_bed;

sqf_outlier_bed_options sqf_outlier_bed_options_default(void)
{
    return (sqf_outlier_bed_options){.inputs = SQF_BED_ALL, .channels = 4, .factor = 64};
}

/* ---- what is asked for ---- */

static bool layer_chosen(const sqf_outlier_bed_options *options, size_t layer)
{
    for (size_t i = 0; options->layers && i < options->layer_count; i++) {
        if (options->layers[i] == layer) {
            return true;
        }
    }
    return !options->layers;
}

static sqf_status check_options(const outlier_bed *bed, sqf_error *err)
{
    const sqf_outlier_bed_options *o = bed->options;
    const sqf_config *config = &bed->checkpoint.config;
    const struct {
        unsigned input;
        const char *name;
        size_t channels;
    } inputs[] = {{SQF_BED_QKV, "qkv", config->hidden},
                  {SQF_BED_O, "o", config->kv_heads * config->head_dim},
                  {SQF_BED_GATE_UP, "gate-up", config->hidden},
                  {SQF_BED_DOWN, "down", config->intermediate}};
    if (o->inputs == 0 || o->inputs > SQF_BED_ALL) {
        return sqf_fail(err, SQF_E_ARG, "bed: inputs: expected some of qkv, o, gate-up and down, found %#x", o->inputs);
    }
    if (o->factor < 1 << FACTORS || o->factor > 1 << 16 || (o->factor & (o->factor - 1)) != 0) {
        return sqf_fail(err, SQF_E_ARG, "bed: factor: expected a power of two from %d to %d, found %u", 1 << FACTORS,
                        1 << 16, o->factor);
    }
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        if ((o->inputs & inputs[i].input) && (o->channels < 1 || o->channels > inputs[i].channels)) {
            return sqf_fail(err, SQF_E_ARG, "bed: channels: expected 1 to %zu for the input of %s, found %zu",
                            inputs[i].channels, inputs[i].name, o->channels);
        }
    }
    for (size_t i = 0; o->layers && i < o->layer_count; i++) {
        if (o->layers[i] >= config->layers) {
            return sqf_fail(err, SQF_E_ARG, "bed: layers: expected 0 to %zu, found %zu", config->layers - 1,
                            o->layers[i]);
        }
    }
    return SQF_OK;
}

/* ---- drawing ---- */

/* Factors of n channels: `count` of them above 1. A generator of its own for each place, so that choosing other layers
 * or inputs does not change the rest. */
static sqf_status draw_factors(const outlier_bed *bed, uint64_t place, size_t n, float **out, sqf_error *err)
{
    sqf_random random = {.state = bed->options->seed + 0x9e3779b97f4a7c15u * (place + 1)};
    SQF_TRY(SQF_ALLOC(out, n, "outlier factors", err));
    for (size_t i = 0; i < n; i++) {
        (*out)[i] = 1.0f;
    }
    for (size_t left = bed->options->channels; left > 0;) {
        float *factor = &(*out)[sqf_random_below(&random, n)];
        if (*factor == 1.0f) {
            *factor = (float)(bed->options->factor >> sqf_random_below(&random, FACTORS));
            left--;
        }
    }
    return SQF_OK;
}

/* {"qkv": {"17": 64, ...}} in the record of a layer. */
static sqf_status record_factors(outlier_bed *bed, size_t layer, const char *input, const float *factors, size_t n,
                                 sqf_error *err)
{
    char name[32];
    snprintf(name, sizeof name, "%zu", layer);
    json_t *layers = json_object_get(bed->record, "layers"), *entry = json_object_get(layers, name);
    if (!entry && json_object_set_new(layers, name, json_object()) == 0) {
        entry = json_object_get(layers, name);
    }
    json_t *channels = json_object();
    bool good = entry && channels;
    for (size_t i = 0; good && i < n; i++) {
        if (factors[i] != 1.0f) {
            snprintf(name, sizeof name, "%zu", i);
            good = json_object_set_new(channels, name, json_integer((json_int_t)factors[i])) == 0;
            bed->summary.channels++;
        }
    }
    if (!good) {
        json_decref(channels);
    }
    return good && json_object_set_new(entry, input, channels) == 0 ? SQF_OK
                                                                    : sqf_fail(err, SQF_E_MEMORY, "bed: out of memory");
}

/* Query heads that share a key head read the same rows of v. */
static sqf_status spread_over_heads(const sqf_config *config, layer_factors *f, sqf_error *err)
{
    const size_t width = config->head_dim, shared = config->heads / config->kv_heads;
    SQF_TRY(SQF_ALLOC(&f->output, config->heads * width, "outlier factors", err));
    for (size_t head = 0; head < config->heads; head++) {
        memcpy(f->output + head * width, f->value + head / shared * width, width * sizeof *f->output);
    }
    return SQF_OK;
}

static sqf_status draw_layer(outlier_bed *bed, size_t index, sqf_error *err)
{
    const sqf_config *config = &bed->checkpoint.config;
    const unsigned inputs = bed->options->inputs;
    layer_factors *f = &bed->layer[index];
    const size_t value = config->kv_heads * config->head_dim;
    f->attention = bed->attention;
    f->mlp = bed->mlp;
    if (inputs & SQF_BED_QKV) {
        SQF_TRY(record_factors(bed, index, "qkv", f->attention, config->hidden, err));
    }
    if (inputs & SQF_BED_O) {
        SQF_TRY(draw_factors(bed, 2 * index + 1, value, &f->value, err));
        SQF_TRY(spread_over_heads(config, f, err));
        SQF_TRY(record_factors(bed, index, "o", f->value, value, err));
    }
    if (inputs & SQF_BED_GATE_UP) {
        SQF_TRY(record_factors(bed, index, "gate_up", f->mlp, config->hidden, err));
    }
    if (inputs & SQF_BED_DOWN) {
        SQF_TRY(draw_factors(bed, 2 * index + 2, config->intermediate, &f->up, err));
        SQF_TRY(record_factors(bed, index, "down", f->up, config->intermediate, err));
    }
    bed->summary.layers++;
    return SQF_OK;
}

/* The channels of the residual stream are drawn once: the same draw for both norms. */
static sqf_status draw(outlier_bed *bed, sqf_error *err)
{
    const sqf_config *config = &bed->checkpoint.config;
    bed->record =
        json_pack("{s:s, s:I, s:i, s:I, s:{}}", "bed", "outliers", "channels", (json_int_t)bed->options->channels,
                  "factor", (int)bed->options->factor, "seed", (json_int_t)bed->options->seed, "layers");
    if (!bed->record) {
        return sqf_fail(err, SQF_E_MEMORY, "bed: out of memory");
    }
    SQF_TRY(SQF_ALLOC(&bed->layer, config->layers, "outlier factors", err));
    if (bed->options->inputs & SQF_BED_QKV) {
        SQF_TRY(draw_factors(bed, 0, config->hidden, &bed->attention, err));
    }
    if (bed->options->inputs & SQF_BED_GATE_UP) {
        SQF_TRY(draw_factors(bed, 0, config->hidden, &bed->mlp, err));
    }
    for (size_t i = 0; i < config->layers; i++) {
        if (layer_chosen(bed->options, i)) {
            SQF_TRY(draw_layer(bed, i, err));
        }
    }
    return SQF_OK;
}

/* ---- tensors ---- */

/* What multiplies a tensor: element (n, k) times rows[n] over columns[k]; NULL = 1. */
typedef struct tensor_factors {
    const float *rows, *columns;
} tensor_factors;

static tensor_factors linear_factors(const layer_factors *f, sqf_linear_kind kind)
{
    switch (kind) {
    case SQF_LINEAR_V: return (tensor_factors){.rows = f->value, .columns = f->attention};
    case SQF_LINEAR_O: return (tensor_factors){.columns = f->output};
    case SQF_LINEAR_GATE: return (tensor_factors){.columns = f->mlp};
    case SQF_LINEAR_UP: return (tensor_factors){.rows = f->up, .columns = f->mlp};
    case SQF_LINEAR_DOWN: return (tensor_factors){.columns = f->up};
    default: return (tensor_factors){.columns = f->attention};
    }
}

/* The factors of the tensor of this name; none for tensors outside the decoder's layers. */
static tensor_factors find_factors(const outlier_bed *bed, const char *name)
{
    const tensor_factors none = {0};
    size_t layer;
    char known[SQF_MODULE_NAME], module[SQF_MODULE_NAME];
    if (sscanf(name, "model.layers.%4zu.", &layer) != 1 || layer >= bed->checkpoint.config.layers) {
        return none;
    }
    const layer_factors *f = &bed->layer[layer];
    for (int norm = 0; norm < 2; norm++) {
        snprintf(known, sizeof known, "model.layers.%zu.%s.weight", layer,
                 norm == 0 ? "input_layernorm" : "post_attention_layernorm");
        if (strcmp(known, name) == 0) {
            return (tensor_factors){.rows = norm == 0 ? f->attention : f->mlp};
        }
    }
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        const tensor_factors factors = linear_factors(f, (sqf_linear_kind)kind);
        sqf_linear_name(layer, (sqf_linear_kind)kind, module);
        sqf_tensor_name(module, "weight", known);
        if (strcmp(known, name) == 0) {
            return factors;
        }
        sqf_tensor_name(module, "bias", known);
        if (strcmp(known, name) == 0) {
            return (tensor_factors){.rows = factors.rows};
        }
    }
    return none;
}

/* One element of type `type` in place; false if the product is beyond the type. */
static bool multiply(uint8_t *at, sqf_type type, float factor, uint64_t *inexact)
{
    const size_t size = sqf_type_storage_bytes(type);
    float before, after;
    sqf_to_float(type, at, 1, &before);
    const float exact = before * factor;
    if (type == SQF_TYPE_FP32) {
        memcpy(at, &exact, size);
    } else {
        const uint16_t bits = type == SQF_TYPE_FP16 ? sqf_fp16_from_float(exact) : sqf_bf16_from_float(exact);
        memcpy(at, &bits, size);
    }
    sqf_to_float(type, at, 1, &after);
    /* a power of two moves the exponent alone: what does not come back has fallen below the normal numbers */
    *inexact += after / factor != before;
    return isfinite(after);
}

/* The tensor with its factors, in a buffer of its own. */
static sqf_status scale_tensor(outlier_bed *bed, const sqf_tensor *tensor, tensor_factors factors, uint8_t **out,
                               sqf_error *err)
{
    const sqf_type type = sqf_dtype_type(tensor->dtype);
    const size_t size = sqf_dtype_bytes(tensor->dtype), rows = tensor->shape[0];
    const size_t columns = tensor->dimensions > 1 ? tensor->shape[1] : 1;
    const sqf_tensor *checked;
    SQF_TRY(sqf_checkpoint_dense(&bed->checkpoint, bed->context, tensor->name, rows,
                                 tensor->dimensions > 1 ? columns : 0, &checked, err));
    SQF_TRY(SQF_ALLOC(out, tensor->bytes, "a tensor", err));
    memcpy(*out, checked->data, checked->bytes);
    for (size_t n = 0; n < rows; n++) {
        for (size_t k = 0; k < columns; k++) {
            const float factor =
                (factors.rows ? factors.rows[n] : 1.0f) / (factors.columns ? factors.columns[k] : 1.0f);
            if (factor == 1.0f) {
                continue;
            }
            bed->summary.changed++;
            if (!multiply(*out + (n * columns + k) * size, type, factor, &bed->summary.inexact)) {
                return sqf_fail(err, SQF_E_VALUE, "%s: tensor %s: row %zu column %zu times %g does not fit %s",
                                tensor->file, tensor->name, n, k, (double)factor, sqf_dtype_name(tensor->dtype));
            }
        }
    }
    return SQF_OK;
}

static sqf_status write_tensor(outlier_bed *bed, const sqf_tensor *tensor, sqf_error *err)
{
    const tensor_factors factors = find_factors(bed, tensor->name);
    uint8_t *scaled = NULL;
    sqf_status status = sqf_tensor_verify(tensor, err);
    if (status == SQF_OK && (factors.rows || factors.columns)) {
        status = scale_tensor(bed, tensor, factors, &scaled, err);
    }
    if (status == SQF_OK) {
        status = sqf_tensor_writer_add(bed->output.writer, tensor->name, tensor->dtype, tensor->dimensions,
                                       tensor->shape, scaled ? scaled : tensor->data, err);
    }
    free(scaled);
    return status;
}

/* ---- the whole ---- */

static sqf_status finish(outlier_bed *bed, sqf_error *err)
{
    char *text;
    SQF_TRY(sqf_model_output_seal(&bed->output, &bed->summary.bytes, err));
    SQF_TRY(sqf_json_print(bed->record, &text, err));
    const sqf_status status = sqf_model_output_commit_original(&bed->output, "bed.json", text, err);
    free(text);
    return status;
}

static sqf_status run(outlier_bed *bed, const char *model_directory, const char *output_directory, sqf_error *err)
{
    sqf_quantize_options options = sqf_quantize_options_default();
    options.force = bed->options->force;
    SQF_TRY(sqf_checkpoint_open(model_directory, &bed->checkpoint, err));
    if (bed->checkpoint.schemes) {
        return sqf_fail(err, SQF_E_ARG, "%s: is quantized already, expected an original checkpoint", model_directory);
    }
    SQF_TRY(check_options(bed, err));
    SQF_TRY(draw(bed, err));
    SQF_TRY(sqf_model_output_begin(bed->context, &bed->checkpoint, output_directory, &options, &bed->output, err));
    const size_t count = sqf_tensors_count(bed->checkpoint.tensors);
    for (size_t i = 0; i < count; i++) {
        SQF_TRY(write_tensor(bed, sqf_tensors_at(bed->checkpoint.tensors, i), err));
        SQF_TRY(sqf_progress(bed->context, "tensors", i + 1, count, err));
    }
    return finish(bed, err);
}

static void bed_clear(outlier_bed *bed)
{
    sqf_model_output_abort(&bed->output);
    for (size_t i = 0; bed->layer && i < bed->checkpoint.config.layers; i++) {
        free(bed->layer[i].value);
        free(bed->layer[i].output);
        free(bed->layer[i].up);
    }
    free(bed->layer);
    free(bed->attention);
    free(bed->mlp);
    json_decref(bed->record);
    sqf_checkpoint_close(&bed->checkpoint);
}

sqf_status sqf_bed_outliers(sqf_context *context, const char *model_directory, const char *output_directory,
                            const sqf_outlier_bed_options *options, sqf_outlier_bed_summary *summary, sqf_error *err)
{
    outlier_bed bed = {.context = context, .options = options};
    const sqf_status status = run(&bed, model_directory, output_directory, err);
    if (status == SQF_OK && summary) {
        *summary = bed.summary;
    }
    bed_clear(&bed);
    return status;
}

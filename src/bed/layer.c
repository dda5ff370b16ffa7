/* One linear layer measured as a model of one decoder layer: its weights are q_proj, its activations the rows of the
 * embedding, and the text is the tokens in order. Everything that a recipe can ask for so works as in a real model.
 *
 * The norm in front must not change an activation: rows are scaled down by a power of two until their mean square is
 * nothing beside the norm's epsilon of 1, and the norm's gain scales them up again. */
#define _GNU_SOURCE
#include "bed/layer.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include <sqf/cost.h>

#include "base/random.h"
#include "device/device.h"
#include "kernels/ops.h"
#include "model/model.h"

enum { HEAD = 8, INNER = 16, WINDOW = SQF_LAYER_BED_WINDOW, COLUMNS_MAX = 16384, ROWS_MAX = 1 << 16 };

sqf_status sqf_bed_layer_check(const sqf_layer_data *data, sqf_error *err)
{
    const size_t tokens[2] = {data->calibration_tokens, data->held_out_tokens};
    if (data->rows < 2 * HEAD || data->rows > ROWS_MAX || data->rows % HEAD != 0) {
        return sqf_fail(err, SQF_E_ARG, "layer bed: rows: expected a multiple of %d from %d to %d, found %zu", HEAD,
                        2 * HEAD, ROWS_MAX, data->rows);
    }
    if (data->columns < 16 || data->columns > COLUMNS_MAX || data->columns % 2 != 0) {
        return sqf_fail(err, SQF_E_ARG, "layer bed: columns: expected an even number from 16 to %d, found %zu",
                        COLUMNS_MAX, data->columns);
    }
    for (int i = 0; i < 2; i++) {
        if (tokens[i] < WINDOW || tokens[i] > 1 << 20 || tokens[i] % WINDOW != 0) {
            return sqf_fail(err, SQF_E_ARG, "layer bed: %s tokens: expected a multiple of %d up to %d, found %zu",
                            i == 0 ? "calibration" : "held-out", WINDOW, 1 << 20, tokens[i]);
        }
    }
    return SQF_OK;
}

/* ---- the model on disk ---- */

/* One measurement at work. */
typedef struct measurement {
    sqf_context *context;
    const sqf_layer_data *data;
    sqf_output *scratch;        /* a directory that goes away with everything in it */
    char *original, *quantized; /* directories in it */
    float scale;                /* of the embedding's rows: a power of two */
    sqf_tensor_writer *writer;
    sqf_model *model;     /* the quantized one */
    sqf_linear *exact;    /* the layer in float32 */
    sqf_input *input;     /* of either layer */
    float *seen;          /* [WINDOW, columns] the input that the quantized layer got, in its own basis */
    double *token_errors; /* [held-out tokens] */
} measurement;

static sqf_status write_config(const measurement *m, sqf_error *err)
{
    const sqf_layer_data *d = m->data;
    json_t *config = json_pack(
        "{s:[s], s:s, s:I, s:I, s:i, s:i, s:I, s:i, s:i, s:i, s:f, s:f, s:s, s:b}", "architectures", "LlamaForCausalLM",
        "model_type", "llama", "vocab_size", (json_int_t)(d->calibration_tokens + d->held_out_tokens), "hidden_size",
        (json_int_t)d->columns, "intermediate_size", INNER, "num_hidden_layers", 1, "num_attention_heads",
        (json_int_t)(d->rows / HEAD), "num_key_value_heads", 1, "head_dim", HEAD, "max_position_embeddings", WINDOW,
        "rms_norm_eps", 1.0, "rope_theta", 10000.0, "hidden_act", "silu", "tie_word_embeddings", 1);
    char *text = NULL, *path = NULL;
    sqf_status status = config ? sqf_json_print(config, &text, err) : sqf_fail(err, SQF_E_MEMORY, "out of memory");
    json_decref(config);
    if (status == SQF_OK) {
        status = sqf_path_join(&path, m->original, "config.json", err);
    }
    if (status == SQF_OK) {
        status = sqf_file_write(path, text, strlen(text), err);
    }
    free(text);
    free(path);
    return status;
}

/* The largest power of two that keeps the mean square of every row below 2^-26: 1 / sqrt(1 + 2^-26) rounds to 1. */
static sqf_status find_scale(measurement *m, sqf_error *err)
{
    const sqf_layer_data *d = m->data;
    const struct {
        const char *name;
        const float *x;
        size_t tokens;
    } texts[] = {{"calibration", d->calibration, d->calibration_tokens}, {"held-out", d->held_out, d->held_out_tokens}};
    double largest = 0.0;
    for (size_t i = 0; i < 2; i++) {
        for (size_t t = 0; t < texts[i].tokens; t++) {
            double squares = 0.0;
            for (size_t j = 0; j < d->columns; j++) {
                const double value = (double)texts[i].x[t * d->columns + j];
                squares += value * value;
            }
            if (!isfinite(squares)) {
                return sqf_fail(err, SQF_E_VALUE, "layer bed: %s token %zu holds a NaN or an infinity", texts[i].name,
                                t);
            }
            largest = squares > largest ? squares : largest;
        }
    }
    const double mean = largest > 0.0 ? largest / (double)d->columns : 1.0;
    m->scale = (float)exp2(floor(0.5 * log2(0x1p-26 / mean)));
    return SQF_OK;
}

static sqf_status add_tensor(measurement *m, const char *name, size_t rows, size_t columns, const float *values,
                             sqf_error *err)
{
    const size_t shape[2] = {rows, columns};
    return sqf_tensor_writer_add(m->writer, name, SQF_DTYPE_F32, columns == 0 ? 1 : 2, shape, values, err);
}

static sqf_status add_constant(measurement *m, const char *name, size_t n, float value, sqf_error *err)
{
    float *values;
    SQF_TRY(SQF_ALLOC(&values, n, name, err));
    for (size_t i = 0; i < n; i++) {
        values[i] = value;
    }
    const sqf_status status = add_tensor(m, name, n, 0, values, err);
    free(values);
    return status;
}

/* Modules beside q_proj: there because a decoder layer has them, small, and nothing that is measured reads them. */
static sqf_status add_filler(measurement *m, sqf_linear_kind kind, const sqf_config *config, float size, sqf_error *err)
{
    char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
    size_t rows, columns;
    float *values;
    sqf_random random = {.state = (uint64_t)kind};
    sqf_linear_name(0, kind, module);
    sqf_tensor_name(module, "weight", name);
    sqf_linear_shape(config, kind, &rows, &columns);
    SQF_TRY(SQF_ALLOC(&values, rows * columns, name, err));
    for (size_t i = 0; i < rows * columns; i++) {
        values[i] = size * (float)(sqf_random_unit(&random) - 0.5);
    }
    const sqf_status status = add_tensor(m, name, rows, columns, values, err);
    free(values);
    return status;
}

static sqf_status add_embedding(measurement *m, sqf_error *err)
{
    const sqf_layer_data *d = m->data;
    const size_t tokens = d->calibration_tokens + d->held_out_tokens;
    float *rows;
    SQF_TRY(SQF_ALLOC(&rows, tokens * d->columns, "activations", err));
    for (size_t i = 0; i < d->calibration_tokens * d->columns; i++) {
        rows[i] = m->scale * d->calibration[i];
    }
    for (size_t i = 0; i < d->held_out_tokens * d->columns; i++) {
        rows[d->calibration_tokens * d->columns + i] = m->scale * d->held_out[i];
    }
    const sqf_status status = add_tensor(m, "model.embed_tokens.weight", tokens, d->columns, rows, err);
    free(rows);
    return status;
}

static sqf_status add_tensors(measurement *m, sqf_error *err)
{
    const sqf_layer_data *d = m->data;
    const sqf_config config = {
        .hidden = d->columns, .intermediate = INNER, .heads = d->rows / HEAD, .kv_heads = 1, .head_dim = HEAD};
    const float ordinary = 0.02f, faint = 1e-6f * m->scale; /* what is added to the stream vanishes in it */
    SQF_TRY(add_embedding(m, err));
    SQF_TRY(add_tensor(m, "model.layers.0.self_attn.q_proj.weight", d->rows, d->columns, d->weights, err));
    SQF_TRY(add_filler(m, SQF_LINEAR_K, &config, ordinary, err));
    SQF_TRY(add_filler(m, SQF_LINEAR_V, &config, ordinary, err));
    SQF_TRY(add_filler(m, SQF_LINEAR_O, &config, faint, err));
    SQF_TRY(add_filler(m, SQF_LINEAR_GATE, &config, ordinary, err));
    SQF_TRY(add_filler(m, SQF_LINEAR_UP, &config, ordinary, err));
    SQF_TRY(add_filler(m, SQF_LINEAR_DOWN, &config, faint, err));
    SQF_TRY(add_constant(m, "model.layers.0.input_layernorm.weight", d->columns, 1.0f / m->scale, err));
    SQF_TRY(add_constant(m, "model.layers.0.post_attention_layernorm.weight", d->columns, 1.0f / m->scale, err));
    return add_constant(m, "model.norm.weight", d->columns, 1.0f, err);
}

static sqf_status write_model(measurement *m, sqf_error *err)
{
    SQF_TRY(find_scale(m, err));
    if (mkdir(m->original, 0777) != 0) {
        return sqf_fail(err, SQF_E_IO, "%s: cannot create", m->original);
    }
    SQF_TRY(write_config(m, err));
    SQF_TRY(sqf_tensor_writer_create(m->original, 0, &m->writer, err));
    SQF_TRY(add_tensors(m, err));
    return sqf_tensor_writer_finish(m->writer, err);
}

/* ---- quantizing ---- */

/* Passes warnings alone: a line for each of many small quantizations would tell nobody anything. */
static void log_warnings(void *user, sqf_log_level level, const char *line)
{
    const sqf_context_options *options = user;
    if (level == SQF_LOG_WARNING && options->log) {
        options->log(options->log_user, level, line);
    }
}

static sqf_status quantize(measurement *m, const sqf_recipe *recipe, uint64_t seed, sqf_error *err)
{
    sqf_context_options talk = m->context->options;
    sqf_quantize_options options = sqf_quantize_options_default();
    uint32_t *ids;
    SQF_TRY(SQF_ALLOC(&ids, m->data->calibration_tokens, "calibration ids", err));
    for (size_t i = 0; i < m->data->calibration_tokens; i++) {
        ids[i] = (uint32_t)i;
    }
    options.calibration_ids = ids;
    options.calibration_id_count = m->data->calibration_tokens;
    options.length = WINDOW;
    options.samples = m->data->calibration_tokens / WINDOW; /* the windows follow one another */
    options.seed = seed;
    m->context->options.log = log_warnings;
    m->context->options.log_user = &talk;
    const sqf_status status = sqf_quantize(m->context, m->original, m->quantized, recipe, &options, NULL, err);
    m->context->options = talk;
    free(ids);
    return status;
}

/* ---- measuring ---- */

static sqf_status see_input(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                            sqf_error *err)
{
    measurement *m = user;
    (void)err;
    if (kind == SQF_INPUT_QKV) {
        memcpy(m->seen, x, tokens * channels * sizeof *x);
    }
    return SQF_OK;
}

/* Outputs of a layer for one window, [WINDOW, rows]. */
static sqf_status run_linear(measurement *m, const sqf_linear *linear, const float *x, float *y, sqf_error *err)
{
    SQF_TRY(sqf_input_prepare(m->context, m->input, linear, x, WINDOW, err));
    return sqf_linear_forward(m->context, linear, m->input, y, err);
}

/* The window's rows of the quantized model's embedding through its decoder layer: m->seen. */
static sqf_status run_decoder(measurement *m, size_t first, sqf_workspace *workspace, float *stream,
                              const sqf_kv_cache *cache, sqf_error *err)
{
    const sqf_model *model = m->model;
    const sqf_layer_tap tap = {.input = see_input, .user = m};
    uint32_t ids[WINDOW];
    for (size_t t = 0; t < WINDOW; t++) {
        ids[t] = (uint32_t)(first + t);
    }
    sqf_lookup lookup = {0};
    const sqf_status status = sqf_embedding_rows(m->context, &model->embedding, &lookup, ids, WINDOW, stream, err);
    sqf_lookup_clear(&lookup);
    SQF_TRY(status);
    return sqf_layer_forward(m->context, &model->checkpoint.config, &model->layers[0], stream, WINDOW, 0,
                             sqf_kv_cache_layer(cache, 0), &tap, workspace, err);
}

/* Sums of the squares of some tokens. */
typedef struct error_sums {
    double error, square;
} error_sums;

static error_sums token_sums(const float *exact, const float *found, size_t n)
{
    error_sums sums = {0};
    for (size_t i = 0; i < n; i++) {
        const double off = (double)found[i] - (double)exact[i];
        sums.error += off * off;
        sums.square += (double)exact[i] * (double)exact[i];
    }
    return sums;
}

/* One window: tokens first .. first + WINDOW of the embedding, x the same as given. */
static sqf_status compare_window(measurement *m, const float *x, float *const y[2], double *token_errors,
                                 error_sums *total, sqf_error *err)
{
    SQF_TRY(run_linear(m, m->exact, x, y[0], err));
    SQF_TRY(run_linear(m, m->model->layers[0].linear[SQF_LINEAR_Q], m->seen, y[1], err));
    for (size_t t = 0; t < WINDOW; t++) {
        const size_t rows = m->data->rows;
        const error_sums sums = token_sums(y[0] + t * rows, y[1] + t * rows, rows);
        total->error += sums.error;
        total->square += sums.square;
        if (token_errors) {
            token_errors[t] = sums.square > 0 ? sums.error / sums.square : 0;
        }
    }
    return SQF_OK;
}

/* All windows of calibration or held-out text, which begin at row `first` of the embedding. */
static sqf_status compare_text(measurement *m, const float *x, size_t first, size_t tokens, double *token_errors,
                               double *out, sqf_error *err)
{
    const size_t columns = m->data->columns, rows = m->data->rows;
    sqf_workspace *workspace = NULL;
    sqf_kv_cache *cache = NULL;
    float *stream = NULL, *y[2] = {NULL, NULL};
    error_sums total = {0};
    sqf_status status;
    SQF_TRY_GOTO(status, sqf_workspace_create(&m->model->checkpoint.config, &workspace, err), done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&stream, WINDOW * columns, "a window", err), done);
    SQF_TRY_GOTO(status, sqf_kv_cache_create_layer(&m->model->checkpoint.config, WINDOW, &cache, err), done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&y[0], WINDOW * rows, "outputs", err), done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&y[1], WINDOW * rows, "outputs", err), done);
    for (size_t t = 0; t < tokens && status == SQF_OK; t += WINDOW) {
        status = run_decoder(m, first + t, workspace, stream, cache, err);
        if (status == SQF_OK) {
            status = compare_window(m, x + t * columns, y, token_errors ? token_errors + t : NULL, &total, err);
        }
    }
    *out = total.square > 0 ? total.error / total.square : 0;
done:
    sqf_workspace_destroy(workspace);
    free(stream);
    sqf_kv_cache_destroy(cache);
    free(y[0]);
    free(y[1]);
    return status;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double real_member(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

/* What the quantizer itself measured and counted for q_proj. */
static sqf_status read_report(const measurement *m, sqf_layer_errors *errors, sqf_error *err)
{
    char *path;
    json_t *report;
    SQF_TRY(sqf_path_join(&path, m->quantized, "report.json", err));
    const sqf_status status = sqf_json_load(path, 1 << 24, &report, err);
    free(path);
    SQF_TRY(status);
    const json_t *tensors = json_object_get(report, "tensors");
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const json_t *entry = json_array_get(tensors, i), *name = json_object_get(entry, "name");
        if (json_is_string(name) && strcmp(json_string_value(name), "model.layers.0.self_attn.q_proj") == 0) {
            errors->weight_error = real_member(entry, "weight_error");
            errors->weights_alone = real_member(entry, "output_error");
            errors->stored_bits = real_member(entry, "stored_bits");
        }
    }
    json_decref(report);
    return SQF_OK;
}

static sqf_status measure(measurement *m, sqf_layer_errors *errors, sqf_error *err)
{
    const sqf_layer_data *d = m->data;
    const sqf_linear_params params = {.name = "the layer",
                                      .rows = d->rows,
                                      .columns = d->columns,
                                      .dense = d->weights,
                                      .dense_type = SQF_TYPE_FP32,
                                      .activations = {.low = SQF_TYPE_FP32, .bank = 1, .clip = 1}};
    SQF_TRY(sqf_device_refuse(m->context, "layer bed", err));
    SQF_TRY(sqf_model_open(m->context, m->quantized, &m->model, err));
    SQF_TRY(sqf_linear_create(m->context, &params, &m->exact, err));
    SQF_TRY(sqf_input_create(&m->input, err));
    SQF_TRY(SQF_ALLOC(&m->seen, WINDOW * d->columns, "a window", err));
    SQF_TRY(SQF_ALLOC(&m->token_errors, d->held_out_tokens, "errors of tokens", err));
    SQF_TRY(compare_text(m, d->calibration, 0, d->calibration_tokens, NULL, &errors->calibration, err));
    SQF_TRY(compare_text(m, d->held_out, d->calibration_tokens, d->held_out_tokens, m->token_errors, &errors->held_out,
                         err));
    qsort(m->token_errors, d->held_out_tokens, sizeof *m->token_errors, compare_doubles);
    errors->median_token = m->token_errors[d->held_out_tokens / 2];
    errors->worst_token = m->token_errors[d->held_out_tokens - 1];
    const sqf_scheme scheme = sqf_module_schemes_get(m->model->checkpoint.schemes, "model.layers.0.self_attn.q_proj");
    const sqf_scheme_bits bits = sqf_scheme_bits_of(&scheme);
    errors->weights_equivalent_bits = bits.weights_equivalent;
    errors->activations_equivalent_bits = bits.activations_equivalent;
    errors->stored_bits = bits.weights_stored; /* dense weights have no entry in the report */
    errors->low_rate_share = bits.low_rate_share;
    errors->cost = sqf_scheme_cost(&scheme, NULL);
    errors->weight_error = errors->weights_alone = 0;
    return read_report(m, errors, err);
}

static sqf_status run(measurement *m, const sqf_recipe *recipe, uint64_t seed, const char *scratch,
                      sqf_layer_errors *errors, sqf_error *err)
{
    char *path;
    const char *standard = getenv("TMPDIR");
    SQF_TRY(sqf_bed_layer_check(m->data, err));
    SQF_TRY(sqf_path_join(&path, scratch ? scratch : standard ? standard : "/tmp", "sqf-layer-bed", err));
    const sqf_status status = sqf_output_begin(path, true, true, &m->scratch, err);
    free(path);
    SQF_TRY(status);
    SQF_TRY(sqf_path_join(&m->original, sqf_output_path(m->scratch), "original", err));
    SQF_TRY(sqf_path_join(&m->quantized, sqf_output_path(m->scratch), "quantized", err));
    SQF_TRY(write_model(m, err));
    SQF_TRY(quantize(m, recipe, seed, err));
    return measure(m, errors, err);
}

sqf_status sqf_bed_layer_measure(sqf_context *context, const sqf_layer_data *data, const sqf_recipe *recipe,
                                 uint64_t seed, const char *scratch, sqf_layer_errors *errors, sqf_error *err)
{
    measurement m = {.context = context, .data = data};
    const sqf_status status = run(&m, recipe, seed, scratch, errors, err);
    sqf_linear_destroy(m.exact);
    sqf_input_destroy(m.input);
    sqf_model_destroy(m.model);
    sqf_tensor_writer_destroy(m.writer);
    sqf_output_abort(m.scratch);
    free(m.original);
    free(m.quantized);
    free(m.seen);
    free(m.token_errors);
    return status;
}

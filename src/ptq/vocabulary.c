/* Quantizing the two matrices of the vocabulary, block of rows by block of rows. docs/algorithms.md, "Output matrix and
 * embedding" */
#include "ptq/vocabulary.h"

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "kernels/ops.h"
#include "ptq/mask/layer.h"
#include "ptq/rotation/rotation.h"

/* Floats of a block; its rows are a multiple of those that quantization takes together. Rows of one task of reading.
 * Sums that stand in for all rows where channels are chosen. */
enum { BLOCK_FLOATS = 1 << 23, BLOCK_ROWS = 128, READ_ROWS = 64, SKETCH_ROWS = 256 };

/* One matrix at work. Released by work_clear. */
typedef struct vocabulary_work {
    sqf_pipeline *pipeline;
    const char *module; /* that it is stored as */
    sqf_module_plan *plan;
    const sqf_tensor *tensor; /* of the checkpoint */
    const float *gain;        /* folded into the columns before they are turned; NULL = none */
    size_t rows, columns;
    size_t block_rows;
    float *block;   /* [block_rows, columns] */
    float *scratch; /* [threads, READ_ROWS, columns] of rows that are turned; NULL = none are */
    size_t first;   /* row of the block at hand */
    float largest;  /* magnitude of all weights; 0 = not asked for */
    bool calibrated;
    sqf_statistics statistics;
    sqf_factor factor;
    float *input_norm; /* [columns] */
    int32_t *channels; /* [columns] stored order, or NULL */
    size_t border;
    sqf_matrix_result sums; /* weighed by block, see add_result */
    sqf_stored_linear stored;
    float static_scale[2];
    int32_t static_zero[2];
    float *column_norm;
} vocabulary_work;

static void work_clear(vocabulary_work *work)
{
    free(work->block);
    free(work->scratch);
    free(work->input_norm);
    free(work->channels);
    free(work->column_norm);
    sqf_statistics_clear(&work->statistics);
    sqf_factor_clear(&work->factor);
    sqf_matrix_clear(&work->stored.matrix);
}

/* ---- rows of the original ---- */

static void read_task(void *user, size_t task, unsigned thread)
{
    const vocabulary_work *work = user;
    const size_t begin = task * READ_ROWS, n = work->columns, room = work->block_rows - begin;
    const size_t rest = work->rows - work->first - begin, most = rest < room ? rest : room;
    const size_t rows = most < READ_ROWS ? most : READ_ROWS;
    const sqf_tensor *tensor = work->tensor;
    float *out = work->block + begin * n;
    if (work->scratch) {
        sqf_rotation_turn_rows(work->pipeline, tensor, work->gain, work->first + begin, rows,
                               work->scratch + (size_t)thread * READ_ROWS * n, out);
    } else {
        sqf_to_float(sqf_dtype_type(tensor->dtype),
                     tensor->data + (work->first + begin) * n * sqf_dtype_bytes(tensor->dtype), rows * n, out);
    }
}

/* Fills the block with the rows from `first`; returns their number. */
static size_t read_block(vocabulary_work *work, size_t first)
{
    const size_t rest = work->rows - first, rows = rest < work->block_rows ? rest : work->block_rows;
    work->first = first;
    sqf_pool_run(work->pipeline->context->pool, sqf_ceil_div(rows, READ_ROWS), read_task, work);
    return rows;
}

/* Buffers of read_block. */
static sqf_status make_block(vocabulary_work *work, sqf_error *err)
{
    const sqf_pipeline *pipeline = work->pipeline;
    const size_t fitting = BLOCK_FLOATS / work->columns / BLOCK_ROWS * BLOCK_ROWS;
    work->block_rows = fitting > BLOCK_ROWS ? fitting : BLOCK_ROWS;
    work->block_rows = work->block_rows < work->rows ? work->block_rows : work->rows;
    SQF_TRY(SQF_ALLOC(&work->block, work->block_rows * work->columns, "rows of the vocabulary", err));
    if (pipeline->basis) {
        const size_t threads = sqf_pool_threads(pipeline->context->pool);
        SQF_TRY(SQF_ALLOC(&work->scratch, threads * READ_ROWS * work->columns, "rows of the vocabulary", err));
    }
    return SQF_OK;
}

/* `source`: the tensor's name in the checkpoint, whose contents are checked here. */
static sqf_status work_open(vocabulary_work *work, const char *source, sqf_error *err)
{
    sqf_pipeline *pipeline = work->pipeline;
    const sqf_config *config = &pipeline->checkpoint.config;
    work->rows = config->vocabulary;
    work->columns = work->border = config->hidden;
    return sqf_checkpoint_dense(&pipeline->checkpoint, pipeline->context, source, work->rows, work->columns,
                                &work->tensor, err);
}

/* ---- what calibration says about the input of the output matrix ---- */

static bool is_masked(const sqf_act_spec *act)
{
    return sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC;
}

/* Whether tokens of the input are looked at one by one. */
static bool needs_sample(const sqf_module_recipe *recipe)
{
    return sqf_clip_wanted(recipe) || (is_masked(&recipe->scheme.activations) && recipe->mask == SQF_MASK_SCORE_BEST);
}

/* Statistics of the normed hidden states behind the last layer, quantized layers before them. */
static sqf_status collect(vocabulary_work *work, const float *norm, sqf_error *err)
{
    sqf_pipeline *pipeline = work->pipeline;
    const sqf_calibration *calibration = &pipeline->calibration;
    const double start = sqf_clock_seconds();
    const size_t length = calibration->length, floats = length * work->columns;
    SQF_TRY(sqf_statistics_create(work->columns, true, &work->statistics, err));
    if (needs_sample(&work->plan->recipe)) {
        SQF_TRY(sqf_statistics_keep(&work->statistics, SQF_MASK_SAMPLE, (uint64_t)calibration->windows * length, err));
    }
    for (size_t w = 0; w < calibration->windows; w++) {
        sqf_rmsnorm(pipeline->context, pipeline->hidden + w * floats, norm, pipeline->checkpoint.config.norm_epsilon,
                    length, work->columns, pipeline->window);
        const sqf_status status =
            sqf_statistics_add(pipeline->context, &work->statistics, pipeline->window, length, err);
        if (status != SQF_OK) {
            return sqf_fail_within(err, status, "input of the output matrix");
        }
        SQF_TRY(sqf_pipeline_advance(pipeline, err));
    }
    sqf_statistics_finish(pipeline->context, &work->statistics);
    work->calibrated = true;
    SQF_TRY(SQF_ALLOC(&work->input_norm, work->columns, "input norms", err));
    for (size_t j = 0; j < work->columns; j++) {
        work->input_norm[j] = (float)sqrt(work->statistics.sum_square[j]);
    }
    pipeline->report.calibration_seconds += sqf_clock_seconds() - start;
    return SQF_OK;
}

/* Sums of rows with random signs, which keep lengths of columns and of outputs in the mean: what masks and clipping
 * ratios are chosen with in place of all rows. sketch [SKETCH_ROWS, columns], zeroed. */
static void add_to_sketch(const vocabulary_work *work, size_t rows, sqf_random *random, float *sketch)
{
    for (size_t i = 0; i < rows; i++) {
        const float sign = sqf_random_unit(random) < 0.5 ? -1.0f : 1.0f;
        const float *row = work->block + i * work->columns;
        float *sum = sketch + (work->first + i) % SKETCH_ROWS * work->columns;
        for (size_t j = 0; j < work->columns; j++) {
            sum[j] += sign * row[j];
        }
    }
}

static sqf_status choose_channels(vocabulary_work *work, const float *sketch, sqf_error *err)
{
    sqf_pipeline *pipeline = work->pipeline;
    sqf_module_recipe *recipe = &work->plan->recipe;
    sqf_act_spec *act = &recipe->scheme.activations;
    const sqf_statistics none = {.channels = work->columns}; /* enough for a random mask */
    const size_t rows = SKETCH_ROWS;
    const sqf_mask_input input = {.context = pipeline->context,
                                  .statistics = work->calibrated ? &work->statistics : &none,
                                  .weights = &sketch,
                                  .rows = &rows,
                                  .count = 1,
                                  .weight_group = recipe->scheme.weights.group};
    const sqf_mask_wishes wishes = {.score = recipe->mask,
                                    .search_clip = work->calibrated && sqf_clip_wanted(recipe),
                                    .seed = pipeline->options->seed};
    if (is_masked(act)) {
        SQF_TRY(SQF_ALLOC(&work->channels, work->columns, "channels", err));
    }
    return sqf_mask_choose(&input, &wishes, act, work->channels, &work->border, err);
}

/* Passes over all rows before they are quantized, where something needs them all. */
static sqf_status look_ahead(vocabulary_work *work, sqf_error *err)
{
    const sqf_module_recipe *recipe = &work->plan->recipe;
    const sqf_act_spec *act = &recipe->scheme.activations;
    const bool channels = is_masked(act) || (work->calibrated && sqf_clip_wanted(recipe));
    const bool units = recipe->scheme.weights.scale_type == SQF_TYPE_FP8;
    sqf_random random = {.state = SKETCH_ROWS};
    float *sketch = NULL;
    if (!channels && !units) {
        return SQF_OK;
    }
    SQF_TRY(SQF_ALLOC(&sketch, SKETCH_ROWS * work->columns, "sums of rows", err));
    for (size_t first = 0, rows; first < work->rows; first += rows) {
        rows = read_block(work, first);
        add_to_sketch(work, rows, &random, sketch);
        for (size_t i = 0; i < rows * work->columns; i++) {
            work->largest = fmaxf(work->largest, fabsf(work->block[i]));
        }
    }
    const sqf_status status = channels ? choose_channels(work, sketch, err) : SQF_OK;
    free(sketch);
    return status;
}

/* ---- quantizing ---- */

/* Relative errors of blocks become those of the whole by the sizes that they are relative to. */
static void add_result(vocabulary_work *work, const sqf_matrix_result *part)
{
    sqf_matrix_result *sums = &work->sums;
    sums->weight_error += part->weight_error * part->weight_square;
    sums->output_error += work->calibrated ? part->output_error * part->output_square : (double)NAN;
    sums->weight_square += part->weight_square;
    sums->output_square += part->output_square;
}

static double ratio(double part, double whole)
{
    return whole > 0.0 ? part / whole : isnan(part) ? part : 0.0;
}

/* The rows of a block into their place in the whole matrix. */
static void place_block(vocabulary_work *work, sqf_matrix *block)
{
    sqf_matrix *whole = &work->stored.matrix;
    sqf_matrix_part from[SQF_MATRIX_PARTS], to[SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(whole, to);
    sqf_matrix_parts(block, from);
    for (size_t i = 0; i < count; i++) {
        memcpy(*to[i].data + work->first * to[i].row_bytes, *from[i].data, block->rows * to[i].row_bytes);
    }
    memcpy(whole->scale_unit, block->scale_unit, sizeof whole->scale_unit);
}

static sqf_status quantize_block(vocabulary_work *work, size_t rows, sqf_error *err)
{
    const sqf_module_recipe *recipe = &work->plan->recipe;
    const sqf_matrix_job job = {.name = work->module,
                                .spec = recipe->scheme.weights,
                                .weights = work->block,
                                .rows = rows,
                                .columns = work->columns,
                                .border = work->border,
                                .channels = work->channels,
                                .factor = work->calibrated ? &work->factor : NULL,
                                .input_norm = work->input_norm,
                                .hessian = work->calibrated ? work->statistics.hessian : NULL,
                                .importance = recipe->importance,
                                .prune = recipe->prune,
                                .compensate = work->calibrated ? recipe->compensate : SQF_COMPENSATE_NONE,
                                .clip = recipe->clip,
                                .seed = work->pipeline->options->seed,
                                .first_row = work->first,
                                .largest = work->largest};
    sqf_matrix block;
    sqf_matrix_result result;
    SQF_TRY(work->pipeline->engine->quantize(work->pipeline, &job, &block, &result, err));
    place_block(work, &block);
    add_result(work, &result);
    sqf_matrix_clear(&block);
    return SQF_OK;
}

static bool is_weighted(const sqf_act_spec *act)
{
    return sqf_act_spec_is_split(act) && act->mask == SQF_MASK_DYNAMIC && act->dynamic_weighted;
}

/* What the scheme's activations ask for beside the matrix. */
static sqf_status find_extras(vocabulary_work *work, sqf_error *err)
{
    const sqf_act_spec *act = &work->plan->recipe.scheme.activations;
    if (!sqf_act_spec_is_float(act) && act->scale == SQF_ACT_STATIC) {
        sqf_static_scale_find(act, &work->statistics, work->channels, work->border, work->static_scale,
                              work->static_zero);
    }
    if (!is_weighted(act)) {
        return SQF_OK;
    }
    double *sums = NULL;
    SQF_TRY(SQF_ALLOC(&work->column_norm, work->columns, "column norms", err));
    SQF_TRY(SQF_ALLOC(&sums, work->columns, "column norms", err));
    const sqf_status status = sqf_matrix_add_squares(&work->stored.matrix, work->column_norm, sums, err);
    for (size_t j = 0; j < work->columns; j++) {
        work->column_norm[j] = (float)sqrt(sums[j]);
    }
    free(sums);
    return status;
}

/* Whether the checkpoint's own elements can be rounded where they lie. */
static bool rounds_directly(const vocabulary_work *work)
{
    const sqf_module_recipe *recipe = &work->plan->recipe;
    return !work->calibrated && !work->pipeline->basis && !is_masked(&recipe->scheme.activations) &&
           sqf_matrix_rounds(&recipe->scheme.weights, recipe->importance, recipe->prune, recipe->clip);
}

static sqf_status round_directly(vocabulary_work *work, sqf_error *err)
{
    const sqf_module_recipe *recipe = &work->plan->recipe;
    const sqf_matrix_job job = {.name = work->module,
                                .spec = recipe->scheme.weights,
                                .stored = work->tensor->data,
                                .stored_type = sqf_dtype_type(work->tensor->dtype),
                                .rows = work->rows,
                                .columns = work->columns,
                                .border = work->border,
                                .importance = recipe->importance,
                                .prune = recipe->prune,
                                .compensate = SQF_COMPENSATE_NONE,
                                .clip = recipe->clip,
                                .seed = work->pipeline->options->seed};
    SQF_TRY(sqf_matrix_round(work->pipeline->context, &job, &work->stored.matrix, &work->sums, err));
    work->sums.weight_square = 1.0; /* the error is relative to the whole already */
    return find_extras(work, err);
}

static sqf_status quantize_rows(vocabulary_work *work, sqf_error *err)
{
    const sqf_module_recipe *recipe = &work->plan->recipe;
    SQF_TRY(make_block(work, err));
    SQF_TRY(look_ahead(work, err));
    if (work->calibrated) {
        SQF_TRY(work->pipeline->engine->factor(work->pipeline, work->module, work->statistics.hessian, work->columns,
                                               work->channels, recipe->damping, &work->factor, err));
        work->pipeline->report.damped += work->factor.retries > 0;
    }
    SQF_TRY(sqf_matrix_create(&recipe->scheme.weights, work->rows, work->columns, work->border, work->channels,
                              &work->stored.matrix, err));
    for (size_t first = 0, rows; first < work->rows; first += rows) {
        rows = read_block(work, first);
        SQF_TRY(quantize_block(work, rows, err));
    }
    return find_extras(work, err);
}

static sqf_status write_quantized(vocabulary_work *work, double start, sqf_error *err)
{
    sqf_pipeline *pipeline = work->pipeline;
    work->stored.scheme = work->plan->recipe.scheme;
    work->stored.static_scale = work->static_scale;
    work->stored.static_zero = work->static_zero;
    work->stored.column_norm = work->column_norm;
    sqf_report_entry entry = {.name = work->module,
                              .recipe = &work->plan->recipe,
                              .alpha = SQF_SMOOTH_OFF,
                              .rows = work->rows,
                              .columns = work->columns,
                              .result = {.weight_error = ratio(work->sums.weight_error, work->sums.weight_square),
                                         .output_error = ratio(work->sums.output_error, work->sums.output_square)},
                              .damping = work->calibrated ? work->factor.damping : (double)NAN,
                              .tokens = work->calibrated ? work->statistics.tokens : 0,
                              .vocabulary = true};
    SQF_TRY(sqf_model_output_linear(&pipeline->output, work->module, &work->stored, &entry.bytes, err));
    entry.seconds = sqf_clock_seconds() - start;
    if (work->calibrated) {
        sqf_log(pipeline->context, SQF_LOG_INFO, "%s: output error %.3g, %.2f s", work->module,
                entry.result.output_error, entry.seconds);
    } else {
        sqf_log(pipeline->context, SQF_LOG_INFO, "%s: rounded without calibration, %.2f s", work->module,
                entry.seconds);
    }
    sqf_mapping_forget(work->tensor->data, work->tensor->bytes);
    return sqf_report_add(&pipeline->report, &entry, err);
}

/* norm: the final norm's gain where calibration text has come this far, else NULL. */
static sqf_status quantize_matrix(vocabulary_work *work, const char *source, const float *norm, sqf_error *err)
{
    const double start = sqf_clock_seconds();
    SQF_TRY(work_open(work, source, err));
    if (norm) {
        SQF_TRY(collect(work, norm, err));
    }
    SQF_TRY(rounds_directly(work) ? round_directly(work, err) : quantize_rows(work, err));
    return write_quantized(work, start, err);
}

/* ---- the embedding ---- */

/* The windows begin with what the quantized model will look up. */
static sqf_status replace_windows(vocabulary_work *work, sqf_error *err)
{
    const sqf_calibration *calibration = &work->pipeline->calibration;
    sqf_row row;
    SQF_TRY(sqf_row_create(&work->stored.matrix, &row, err));
    for (size_t t = 0; t < calibration->windows * calibration->length; t++) {
        sqf_matrix_dequantize_row(&work->stored.matrix, calibration->ids[t], &row,
                                  work->pipeline->hidden + t * work->columns);
    }
    sqf_row_clear(&row);
    return SQF_OK;
}

sqf_status sqf_vocabulary_write_embedding(sqf_pipeline *pipeline, sqf_error *err)
{
    sqf_vocabulary_plan *plan = &pipeline->plan.vocabulary;
    if (plan->shared) {
        return SQF_OK;
    }
    if (!plan->embedding.quantized) {
        return sqf_rotation_write_embedding(pipeline, err);
    }
    vocabulary_work work = {.pipeline = pipeline, .module = SQF_MODULE_EMBEDDING, .plan = &plan->embedding};
    sqf_status status = quantize_matrix(&work, SQF_MODULE_EMBEDDING ".weight", NULL, err);
    if (status == SQF_OK && pipeline->hidden) {
        status = replace_windows(&work, err);
    }
    work_clear(&work);
    return status;
}

/* ---- the output matrix ---- */

/* A matrix that was the embedding and is quantized no longer with it: its values under a name of its own. */
static sqf_status write_untied(sqf_pipeline *pipeline, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    const sqf_tensor *tensor;
    SQF_TRY(sqf_checkpoint_dense(&pipeline->checkpoint, pipeline->context, SQF_MODULE_EMBEDDING ".weight",
                                 config->vocabulary, config->hidden, &tensor, err));
    SQF_TRY(sqf_model_output_copy(&pipeline->output, "model.norm.weight", config->hidden, 0, err));
    return sqf_model_output_values(&pipeline->output, SQF_MODULE_OUTPUT ".weight", tensor->dtype, config->vocabulary,
                                   config->hidden, tensor->data, err);
}

/* gain [hidden] of the final norm, which goes into a turned matrix and leaves ones behind. */
static sqf_status quantize_output(sqf_pipeline *pipeline, const float *gain, float *ones, sqf_error *err)
{
    sqf_vocabulary_plan *plan = &pipeline->plan.vocabulary;
    const sqf_config *config = &pipeline->checkpoint.config;
    const bool turned = pipeline->basis != NULL;
    vocabulary_work work = {.pipeline = pipeline,
                            .module = plan->shared ? SQF_MODULE_EMBEDDING : SQF_MODULE_OUTPUT,
                            .plan = &plan->output,
                            .gain = turned ? gain : NULL};
    for (size_t i = 0; i < config->hidden; i++) {
        ones[i] = 1.0f;
    }
    const float *norm = turned ? ones : gain;
    SQF_TRY(turned ? sqf_model_output_values(&pipeline->output, "model.norm.weight", SQF_DTYPE_F32, config->hidden, 0,
                                             ones, err)
                   : sqf_model_output_copy(&pipeline->output, "model.norm.weight", config->hidden, 0, err));
    const char *source = config->tied ? SQF_MODULE_EMBEDDING ".weight" : SQF_MODULE_OUTPUT ".weight";
    const sqf_status status = quantize_matrix(&work, source, pipeline->plan.feeds_output ? norm : NULL, err);
    work_clear(&work);
    return status;
}

sqf_status sqf_vocabulary_write_output(sqf_pipeline *pipeline, sqf_error *err)
{
    const sqf_vocabulary_plan *plan = &pipeline->plan.vocabulary;
    const size_t hidden = pipeline->checkpoint.config.hidden;
    float *gain = NULL, *ones = NULL;
    if (!plan->output.quantized) {
        return plan->unties ? write_untied(pipeline, err) : sqf_rotation_write_head(pipeline, err);
    }
    sqf_status status = sqf_checkpoint_floats(&pipeline->checkpoint, "model.norm.weight", hidden, 0, &gain, err);
    if (status == SQF_OK) {
        status = SQF_ALLOC(&ones, hidden, "final norm", err);
    }
    if (status == SQF_OK) {
        status = quantize_output(pipeline, gain, ones, err);
    }
    free(gain);
    free(ones);
    return status;
}

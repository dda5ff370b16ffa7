/* What each candidate costs in each place: the rest of the model stays the original, held-out text runs through the
 * changed layer and on to the end, and the next token's distribution is compared with the original's.
 *
 * The pipeline walks the original model and collects the statistics of a layer's inputs once. Here every candidate
 * takes a fresh copy of the layer and of the statistics, smooths it, and quantizes one input's readers after the other,
 * each put back before the next. Smoothing and rotation fold inside the layer, so what enters and leaves it stays
 * comparable. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "budget/budget.h"
#include "kernels/kernels.h"
#include "kernels/ops.h"
#include "model/model.h"
#include "ptq/correct/passes.h"
#include "ptq/rotation/rotation.h"

/* Rows of logits in memory at a time; and the most bytes of the original's distributions that are kept rather than
 * computed again for each measurement. */
enum { ROW_CHUNK = 64, PARTS = 16 };
#define KEPT_LOGITS ((size_t)1 << 30)

/* The largest error of a place so far and the layer's output that has it (SQF_BUDGET_MEASURE_SLOPE). */
typedef struct worst_case {
    double error;
    float *output; /* [windows, length, hidden] */
} worst_case;

typedef struct measurement {
    const sqf_budget_task *task;
    sqf_model *model;               /* the original, in the basis that the recipe rotates it to */
    sqf_plan *plans;                /* [candidates] */
    size_t windows, length, floats; /* floats: of a stream [windows, length, hidden] */
    const uint32_t *ids;
    float *stream, *next;      /* inputs and outputs of the layer at work, original */
    float *output;             /* of the changed layer */
    float *final;              /* after the original's last layer */
    float *kept;               /* the original's distributions [windows * (length - 1), vocabulary]; NULL = too many */
    double *entropy, *kl;      /* [windows * (length - 1)]: sum p log p of the original's; of the setting at work */
    float *logits, *reference; /* [ROW_CHUNK, vocabulary] */
    float *scratch;            /* [vocabulary] */
    float *normed;             /* [ROW_CHUNK, hidden] */
    sqf_kv_cache *cache;       /* of the layer at work */
    sqf_input *input;
    sqf_workspace *workspace;
    worst_case worst[SQF_INPUT_COUNT];
    uint64_t done, total;
} measurement;

/* ---- the rest of the model ---- */

static sqf_status run_layer(measurement *m, const sqf_layer *layer, float *stream, sqf_error *err)
{
    const sqf_config *config = &m->model->checkpoint.config;
    for (size_t w = 0; w < m->windows; w++) {
        SQF_TRY(sqf_layer_forward(m->task->context, config, layer, stream + w * m->length * config->hidden, m->length,
                                  0, sqf_kv_cache_layer(m->cache, 0), NULL, m->workspace, err));
    }
    return SQF_OK;
}

static sqf_status output_rows(measurement *m, const float *rows, size_t count, float *logits, sqf_error *err)
{
    const sqf_config *config = &m->model->checkpoint.config;
    sqf_context *context = m->task->context;
    sqf_rmsnorm(context, rows, m->model->norm, config->norm_epsilon, count, config->hidden, m->normed);
    SQF_TRY(sqf_input_prepare(context, m->input, m->model->output, m->normed, count, err));
    return sqf_linear_forward(context, m->model->output, m->input, logits, err);
}

/* Rows of the next token's distribution as the original has it, in place of its logits; and sum p log p of each. */
static void make_reference(const measurement *m, float *logits, double *entropy, size_t rows)
{
    const size_t vocabulary = m->model->checkpoint.config.vocabulary;
    const sqf_kernels *kernels = m->task->context->kernels;
    for (size_t row = 0; row < rows; row++) {
        float *p = logits + row * vocabulary;
        const float largest = kernels->maximum(p, vocabulary);
        double sum = 0.0;
        memcpy(m->scratch, p, vocabulary * sizeof *p);
        const float total = kernels->exp_sum(p, largest, vocabulary);
        for (size_t i = 0; i < vocabulary; i++) {
            p[i] /= total;
            sum += (double)p[i] * ((double)m->scratch[i] - (double)largest);
        }
        entropy[row] = sum - log((double)total);
    }
}

/* Rows of a stream that has left the last layer: their KL divergence from the original's distribution. */
typedef struct row_job {
    const measurement *m;
    const float *reference;
    const double *entropy;
    double *kl;
} row_job;

/* sum p (log p - log q) with log q = z - log sum exp z, all z relative to the largest. Float32 sums in sixteen parts:
 * their error is far below that of a mean over some thousand tokens. */
static void row_divergence(void *user, size_t row, unsigned thread)
{
    const row_job *job = user;
    const size_t vocabulary = job->m->model->checkpoint.config.vocabulary;
    const sqf_kernels *kernels = job->m->task->context->kernels;
    const float *p = job->reference + row * vocabulary;
    float *z = job->m->logits + row * vocabulary;
    const float largest = kernels->maximum(z, vocabulary);
    float partial[PARTS] = {0};
    double dot = 0.0;
    (void)thread;
    for (size_t i = 0; i + PARTS <= vocabulary; i += PARTS) {
        for (size_t k = 0; k < PARTS; k++) {
            partial[k] += p[i + k] * (z[i + k] - largest);
        }
    }
    for (size_t i = vocabulary - vocabulary % PARTS; i < vocabulary; i++) {
        dot += (double)p[i] * ((double)z[i] - (double)largest);
    }
    for (size_t k = 0; k < PARTS; k++) {
        dot += (double)partial[k];
    }
    job->kl[row] = job->entropy[row] - dot + log((double)kernels->exp_sum(z, largest, vocabulary));
}

/* `at`: the token's place among all scored ones. */
static sqf_status score_rows(measurement *m, const float *stream, size_t window, size_t first, size_t rows, double *kl,
                             sqf_error *err)
{
    const sqf_config *config = &m->model->checkpoint.config;
    const size_t token = window * m->length + first, scored = window * (m->length - 1) + first;
    row_job job = {.m = m, .kl = kl + scored};
    if (m->kept) {
        job.reference = m->kept + scored * config->vocabulary;
        job.entropy = m->entropy + scored;
    } else {
        SQF_TRY(output_rows(m, m->final + token * config->hidden, rows, m->reference, err));
        make_reference(m, m->reference, m->entropy, rows);
        job.reference = m->reference;
        job.entropy = m->entropy;
    }
    SQF_TRY(output_rows(m, stream + token * config->hidden, rows, m->logits, err));
    sqf_pool_run(m->task->context->pool, rows, row_divergence, &job);
    return SQF_OK;
}

/* Mean and standard error. SQF_E_VALUE: a setting that makes logits infinite. */
static sqf_status summarize(const double *kl, size_t count, sqf_budget_item *item, sqf_error *err)
{
    double sum = 0.0, squares = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += kl[i];
    }
    const double mean = sum / (double)count;
    for (size_t i = 0; i < count; i++) {
        squares += (kl[i] - mean) * (kl[i] - mean);
    }
    if (!isfinite(mean)) {
        return sqf_fail(err, SQF_E_VALUE, "budget: logits with NaN or infinity");
    }
    item->kl = fmax(mean, 0.0);
    item->kl_error = count > 1 ? sqrt(squares / (double)(count - 1) / (double)count) : 0.0;
    return SQF_OK;
}

/* KL of a stream that leaves layer `layer` - 1; the stream is used up. */
static sqf_status score_stream(measurement *m, float *stream, size_t layer, sqf_budget_item *item, sqf_error *err)
{
    const size_t scored = m->length - 1;
    for (size_t i = layer; i < m->model->checkpoint.config.layers; i++) {
        SQF_TRY(run_layer(m, &m->model->layers[i], stream, err));
    }
    for (size_t w = 0; w < m->windows; w++) {
        for (size_t first = 0, rows; first < scored; first += rows) {
            rows = scored - first < ROW_CHUNK ? scored - first : ROW_CHUNK;
            SQF_TRY(score_rows(m, stream, w, first, rows, m->kl, err));
        }
    }
    return summarize(m->kl, m->windows * scored, item, err);
}

/* The whole original once: what all measurements are compared with. */
static sqf_status run_original(measurement *m, sqf_error *err)
{
    const sqf_config *config = &m->model->checkpoint.config;
    sqf_lookup lookup = {0};
    const sqf_status looked_up = sqf_embedding_rows(m->task->context, &m->model->embedding, &lookup, m->ids,
                                                    m->windows * m->length, m->stream, err);
    sqf_lookup_clear(&lookup);
    SQF_TRY(looked_up);
    memcpy(m->final, m->stream, m->floats * sizeof *m->final);
    for (size_t i = 0; i < config->layers; i++) {
        SQF_TRY(run_layer(m, &m->model->layers[i], m->final, err));
    }
    const size_t scored = m->length - 1;
    for (size_t i = 0, rows; m->kept && i < m->windows * scored; i += rows) {
        const size_t window = i / scored, first = i % scored;
        rows = scored - first < ROW_CHUNK ? scored - first : ROW_CHUNK;
        float *kept = m->kept + i * config->vocabulary;
        SQF_TRY(output_rows(m, m->final + (window * m->length + first) * config->hidden, rows, kept, err));
        make_reference(m, kept, m->entropy + i, rows);
    }
    return SQF_OK;
}

/* ---- one candidate in one place ---- */

/* The layer as the pipeline would have it just before quantizing, under a candidate's plan. */
static sqf_status prepare_copy(sqf_pipeline *pipeline, const sqf_layer_work *work, sqf_layer_work *copy, sqf_error *err)
{
    SQF_TRY(sqf_layer_work_load(pipeline, copy, err));
    SQF_TRY(sqf_layer_work_rotate(pipeline, copy, err));
    SQF_TRY(sqf_layer_work_linears(pipeline, copy, err));
    if (pipeline->original) {
        SQF_TRY(sqf_layer_work_keep_reference(pipeline, copy, err));
    }
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        if (work->statistics[input].channels > 0) { /* else nothing of the layer is quantized */
            SQF_TRY(sqf_statistics_copy(&work->statistics[input], &copy->statistics[input], err));
        }
    }
    SQF_TRY(sqf_layer_work_smooth(pipeline, copy, err));
    return sqf_layer_work_linears(pipeline, copy, err); /* of the smoothed weights */
}

/* Relative squared error of m->output against m->next. */
static double output_error(const measurement *m)
{
    double error = 0.0, size = 0.0;
    for (size_t i = 0; i < m->floats; i++) {
        const double off = (double)m->output[i] - (double)m->next[i];
        error += off * off;
        size += (double)m->next[i] * (double)m->next[i];
    }
    return size > 0.0 ? error / size : 0.0;
}

/* The changed layer on the held-out text, and the rest behind it. */
static sqf_status measure_item(measurement *m, const sqf_layer *layer, sqf_budget_place *place, sqf_budget_item *item,
                               sqf_error *err)
{
    memcpy(m->output, m->stream, m->floats * sizeof *m->output);
    SQF_TRY(run_layer(m, layer, m->output, err));
    item->error = output_error(m);
    item->measured = true;
    if (m->task->wishes->measure == SQF_BUDGET_MEASURE_FULL) {
        return score_stream(m, m->output, place->layer + 1, item, err);
    }
    worst_case *worst = &m->worst[place->input];
    item->kl_error = NAN;
    if (!worst->output) {
        SQF_TRY(SQF_ALLOC(&worst->output, m->floats, "held-out activations", err));
    }
    if (item->error > worst->error) {
        float *output = worst->output;
        worst->error = item->error;
        worst->output = m->output;
        m->output = output;
    }
    return SQF_OK;
}

/* Quantizes the readers of one input, measures, and puts the original ones back. */
static sqf_status measure_place(measurement *m, sqf_pipeline *pipeline, sqf_layer_work *copy, sqf_budget_place *place,
                                sqf_budget_item *item, sqf_error *err)
{
    float *saved[SQF_LINEAR_COUNT] = {NULL};
    const uint64_t bytes = pipeline->report.bytes;
    sqf_status status = SQF_OK;
    for (int kind = 0; kind < SQF_LINEAR_COUNT && status == SQF_OK; kind++) {
        size_t rows, columns;
        sqf_linear_shape(&pipeline->checkpoint.config, (sqf_linear_kind)kind, &rows, &columns);
        if (sqf_linear_input((sqf_linear_kind)kind) == place->input) {
            status = SQF_ALLOC(&saved[kind], rows * columns, "a copy of the layer", err);
            if (status == SQF_OK) {
                memcpy(saved[kind], copy->weights[kind], rows * columns * sizeof *saved[kind]);
            }
        }
    }
    if (status == SQF_OK) {
        status = sqf_layer_work_quantize(pipeline, copy, place->input, err);
    }
    item->bits = 8.0 * (double)(pipeline->report.bytes - bytes);
    if (status == SQF_OK) {
        status = measure_item(m, &copy->layer, place, item, err);
    }
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (saved[kind]) {
            free(copy->weights[kind]);
            copy->weights[kind] = saved[kind];
        }
    }
    return status == SQF_OK ? sqf_layer_work_linears(pipeline, copy, err) : status;
}

static bool is_wanted(const sqf_budget *budget, size_t layer, size_t candidate)
{
    for (size_t p = 0; p < budget->places; p++) {
        if (budget->place[p].layer == layer && !sqf_budget_item_at(budget, p, candidate)->measured) {
            return true;
        }
    }
    return false;
}

/* All places of a layer under one candidate. */
static sqf_status measure_candidate(measurement *m, sqf_pipeline *pipeline, const sqf_layer_work *work,
                                    size_t candidate, sqf_error *err)
{
    sqf_budget *budget = m->task->budget;
    sqf_layer_work copy = {.index = work->index,
                           .plan = &m->plans[candidate].layer[work->index],
                           .forward = true,
                           .feeds = true,
                           .chained = true};
    sqf_status status = prepare_copy(pipeline, work, &copy, err);
    for (size_t p = 0; p < budget->places && status == SQF_OK; p++) {
        sqf_budget_item *item = sqf_budget_item_at(budget, p, candidate);
        if (budget->place[p].layer == work->index && !item->measured) {
            status = measure_place(m, pipeline, &copy, &budget->place[p], item, err);
            m->done++;
            sqf_log(m->task->context, SQF_LOG_DEBUG, "%s: %s: KL %.3g, output error %.3g, %.4g stored bits",
                    budget->place[p].name, budget->candidates.text[candidate], item->kl, item->error,
                    item->bits / budget->place[p].products);
        }
        if (status == SQF_OK) {
            status = sqf_progress(m->task->context, "settings", m->done, m->total, err);
        }
    }
    sqf_layer_work_clear(&copy);
    /* the report is for a model that is written; here it would only grow */
    sqf_report_clear(&pipeline->report);
    return status;
}

/* SQF_BUDGET_MEASURE_SLOPE: the KL of a unit of error in each place, and with it that of all candidates. */
static sqf_status apply_slopes(measurement *m, size_t layer, const bool *fresh, sqf_error *err)
{
    sqf_budget *budget = m->task->budget;
    for (size_t p = 0; p < budget->places; p++) {
        worst_case *worst = &m->worst[budget->place[p].input];
        if (budget->place[p].layer != layer || worst->error == 0.0) {
            continue;
        }
        sqf_budget_item slope;
        SQF_TRY(score_stream(m, worst->output, layer + 1, &slope, err));
        for (size_t c = 0; c < budget->candidates.count; c++) {
            sqf_budget_item *item = sqf_budget_item_at(budget, p, c);
            if (fresh[p * budget->candidates.count + c]) {
                item->kl = slope.kl * item->error / worst->error;
            }
        }
        worst->error = 0.0;
    }
    return SQF_OK;
}

/* One layer of the pipeline's walk. */
static sqf_status measure_layer(void *user, sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    measurement *m = user;
    const sqf_budget *budget = m->task->budget;
    const size_t items = budget->places * budget->candidates.count;
    bool *fresh;
    memcpy(m->next, m->stream, m->floats * sizeof *m->next);
    SQF_TRY(run_layer(m, &m->model->layers[work->index], m->next, err));
    SQF_TRY(SQF_ALLOC(&fresh, items, "measurements", err));
    for (size_t i = 0; i < items; i++) {
        fresh[i] = !budget->item[i].measured;
    }
    sqf_status status = SQF_OK;
    for (size_t c = 0; c < budget->candidates.count && status == SQF_OK; c++) {
        if (is_wanted(budget, work->index, c)) {
            status = measure_candidate(m, pipeline, work, c, err);
        }
    }
    if (status == SQF_OK) {
        status = apply_slopes(m, work->index, fresh, err);
    }
    free(fresh);
    float *stream = m->stream;
    m->stream = m->next;
    m->next = stream;
    return status;
}

/* ---- the whole ---- */

/* The recipe without anything that quantizes: what is left is rotation. */
static sqf_status float_recipe(const sqf_recipe *recipe, sqf_recipe **out, sqf_error *err)
{
    sqf_module_recipe base = recipe->base;
    SQF_TRY(sqf_module_recipe_set(&base, "scheme", "FP32", err));
    base.smooth = SQF_SMOOTH_OFF;
    return sqf_recipe_create(&base, out, err);
}

/* The model that stands behind the layer at work. Where the recipe rotates the residual stream it is the original in
 * that basis, made by the pipeline itself and gone again as soon as it is mapped. */
static sqf_status open_original(measurement *m, sqf_error *err)
{
    const sqf_budget_task *task = m->task;
    sqf_recipe *recipe;
    sqf_output *scratch;
    char *path = NULL;
    if (task->recipe->base.rotate == SQF_ROTATE_OFF) {
        return sqf_model_open(task->context, task->model_directory, &m->model, err);
    }
    SQF_TRY(float_recipe(task->recipe, &recipe, err));
    sqf_status status = sqf_output_begin(task->output_directory, true, true, &scratch, err);
    if (status == SQF_OK) {
        status = sqf_path_join(&path, sqf_output_path(scratch), "rotated", err);
        if (status == SQF_OK) {
            status = sqf_quantize(task->context, task->model_directory, path, recipe, task->options, NULL, err);
        }
        if (status == SQF_OK) {
            status = sqf_model_open(task->context, path, &m->model, err);
        }
        free(path);
        sqf_output_abort(scratch);
    }
    sqf_recipe_destroy(recipe);
    return status;
}

static sqf_status make_plans(measurement *m, bool *follow_model, sqf_error *err)
{
    const sqf_budget_task *task = m->task;
    const size_t count = task->budget->candidates.count;
    *follow_model = false;
    SQF_TRY(SQF_ALLOC(&m->plans, count, "plans", err));
    for (size_t c = 0; c < count; c++) {
        sqf_recipe *recipe;
        SQF_TRY(sqf_budget_candidate_recipe(task, c, &recipe, err));
        const sqf_status status = sqf_plan_create(&m->model->checkpoint.config, recipe, true, &m->plans[c], err);
        sqf_recipe_destroy(recipe);
        if (status != SQF_OK) {
            char where[160];
            snprintf(where, sizeof where, "candidate '%.120s'", task->budget->candidates.text[c]);
            return sqf_fail_within(err, status, where);
        }
        *follow_model = *follow_model || m->plans[c].follows_model;
    }
    return SQF_OK;
}

static sqf_status make_buffers(measurement *m, sqf_error *err)
{
    const sqf_config *config = &m->model->checkpoint.config;
    size_t tokens, kept;
    float **const streams[] = {&m->stream, &m->next, &m->output, &m->final};
    if (!sqf_mul_size(&tokens, m->windows, m->length) || !sqf_mul_size(&m->floats, tokens, config->hidden)) {
        return sqf_fail(err, SQF_E_MEMORY, "held-out text: too many tokens");
    }
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        SQF_TRY(SQF_ALLOC(streams[i], m->floats, "held-out activations", err));
    }
    SQF_TRY(SQF_ALLOC(&m->logits, ROW_CHUNK * config->vocabulary, "logits", err));
    SQF_TRY(SQF_ALLOC(&m->reference, ROW_CHUNK * config->vocabulary, "logits", err));
    SQF_TRY(SQF_ALLOC(&m->entropy, tokens, "distributions", err));
    SQF_TRY(SQF_ALLOC(&m->kl, tokens, "distributions", err));
    SQF_TRY(SQF_ALLOC(&m->scratch, config->vocabulary, "logits", err));
    SQF_TRY(SQF_ALLOC(&m->normed, ROW_CHUNK * config->hidden, "hidden states", err));
    SQF_TRY(sqf_kv_cache_create_layer(config, m->length, &m->cache, err));
    if (sqf_mul_size(&kept, tokens, config->vocabulary) && kept <= KEPT_LOGITS / sizeof *m->kept) {
        SQF_TRY(SQF_ALLOC(&m->kept, kept, "distributions", err));
    }
    SQF_TRY(sqf_input_create(&m->input, err));
    return sqf_workspace_create(config, &m->workspace, err);
}

static void clear(measurement *m)
{
    for (size_t c = 0; m->plans && c < m->task->budget->candidates.count; c++) {
        sqf_plan_clear(&m->plans[c]);
    }
    float *const buffers[] = {m->stream, m->next, m->output, m->final, m->kept, m->logits, m->reference, m->normed};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        free(buffers[i]);
    }
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        free(m->worst[input].output);
    }
    free(m->entropy);
    free(m->kl);
    free(m->scratch);
    free(m->plans);
    sqf_kv_cache_destroy(m->cache);
    sqf_input_destroy(m->input);
    sqf_workspace_destroy(m->workspace);
    sqf_model_destroy(m->model);
}

static sqf_status measure(measurement *m, sqf_error *err)
{
    const sqf_budget_task *task = m->task;
    bool follow_model;
    sqf_recipe *recipe;
    SQF_TRY(open_original(m, err));
    SQF_TRY(make_plans(m, &follow_model, err));
    SQF_TRY(make_buffers(m, err));
    SQF_TRY(run_original(m, err));
    SQF_TRY(sqf_budget_candidate_recipe(task, 0, &recipe, err));
    const sqf_pipeline_visitor visitor = {.user = m, .layer = measure_layer};
    const sqf_status status =
        sqf_pipeline_measure(task->context, task->model_directory, recipe, task->options, follow_model, &visitor, err);
    sqf_recipe_destroy(recipe);
    return status;
}

sqf_status sqf_budget_measure_items(const sqf_budget_task *task, sqf_error *err)
{
    const sqf_budget *budget = task->budget;
    measurement m = {.task = task,
                     .windows = budget->held_out.windows,
                     .length = budget->held_out.length,
                     .ids = budget->held_out.ids};
    for (size_t i = 0; i < budget->places * budget->candidates.count; i++) {
        m.total += !budget->item[i].measured;
    }
    if (m.total == 0) {
        return SQF_OK;
    }
    const sqf_status status = measure(&m, err);
    clear(&m);
    return status;
}

/* The error that a quantized input makes in the outputs of its readers, on sampled calibration tokens. */
#include <math.h>
#include <string.h>

#include <cblas.h>

#include "base/memory.h"
#include "base/random.h"
#include "format/reference.h"
#include "ptq/mask/mask.h"

/* Tokens of one task, columns of one task of the outputs, and outputs at most: more are mixed into that many. */
enum { TOKENS = 32, TILE = 256, OUTPUTS = 256 };

/* ---- the outputs that are looked at ---- */

typedef struct outputs_work {
    const sqf_mask_input *input;
    size_t channels, outputs, rows;
    const float *signs; /* [outputs, rows]; NULL = every output is itself */
    float *weights;     /* [outputs, channels] */
} outputs_work;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The columns of one tile. */
static void outputs_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const outputs_work *work = user;
    const size_t n = work->channels, begin = task * TILE, width = smaller(TILE, n - begin);
    size_t row = 0;
    for (size_t m = 0; m < work->input->count; m++) {
        const float *weights = work->input->weights[m] + begin;
        const size_t rows = work->input->rows[m];
        if (work->signs) {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)work->outputs, (int)width, (int)rows, 1.0f,
                        work->signs + row, (int)work->rows, weights, (int)n, m > 0 ? 1.0f : 0.0f, work->weights + begin,
                        (int)n);
        }
        for (size_t i = 0; i < rows && !work->signs; i++) {
            memcpy(work->weights + (row + i) * n + begin, weights + i * n, width * sizeof *weights);
        }
        row += rows;
    }
}

/* Random signs over the root of the number of sums: the squared length of what they mix is kept in the mean. */
static void draw_signs(float *signs, size_t outputs, size_t rows)
{
    sqf_random random = {.state = outputs};
    const float one = 1.0f / sqrtf((float)outputs);
    for (size_t i = 0; i < outputs * rows; i++) {
        signs[i] = sqf_random_unit(&random) < 0.5 ? -one : one;
    }
}

static sqf_status find_outputs(sqf_output_error *measure, sqf_error *err)
{
    const sqf_mask_input *input = measure->input;
    outputs_work work = {.input = input, .channels = input->statistics->channels};
    float *signs = NULL;
    sqf_status status;
    for (size_t m = 0; m < input->count; m++) {
        work.rows += input->rows[m];
    }
    work.outputs = measure->outputs = smaller(work.rows, OUTPUTS);
    SQF_TRY_GOTO(status, SQF_ALLOC(&measure->weights, work.outputs * work.channels, "outputs", err), done);
    if (work.outputs < work.rows) {
        SQF_TRY_GOTO(status, SQF_ALLOC(&signs, work.outputs * work.rows, "random signs", err), done);
        draw_signs(signs, work.outputs, work.rows);
    }
    work.signs = signs;
    work.weights = measure->weights;
    sqf_pool_run(input->context->pool, sqf_ceil_div(work.channels, TILE), outputs_task, &work);
done:
    free(signs);
    return status;
}

/* ---- one measurement ---- */

/* One measurement: tasks of TOKENS tokens, each with its own sum. act NULL = the size of the outputs themselves. */
typedef struct error_work {
    const sqf_output_error *measure;
    const sqf_act_spec *act;
    const int32_t *order;
    size_t border;
    sqf_partition scale_groups;
    const float *static_scale;
    double *sums;
    sqf_status *status;
} error_work;

typedef struct error_scratch {
    sqf_act_row row;
    float *error;   /* [TOKENS, channels] */
    float *product; /* [TOKENS, outputs] */
} error_scratch;

static void scratch_clear(error_scratch *scratch)
{
    free(scratch->row.mask);
    free(scratch->row.value);
    free(scratch->row.scale_low);
    free(scratch->row.scale_high);
    free(scratch->row.zero_low);
    free(scratch->row.zero_high);
    free(scratch->error);
    free(scratch->product);
}

static sqf_status scratch_create(const error_work *work, error_scratch *out)
{
    const size_t n = work->measure->input->statistics->channels;
    *out = (error_scratch){0};
    SQF_TRY(SQF_ALLOC(&out->error, TOKENS * n, "errors", NULL));
    SQF_TRY(SQF_ALLOC(&out->product, TOKENS * work->measure->outputs, "errors", NULL));
    if (!work->act) {
        return SQF_OK;
    }
    const size_t groups = sqf_partition_count(&work->scale_groups);
    SQF_TRY(SQF_ALLOC(&out->row.mask, n, "an activation row", NULL));
    SQF_TRY(SQF_ALLOC(&out->row.value, n, "an activation row", NULL));
    SQF_TRY(SQF_ALLOC(&out->row.scale_low, groups, "an activation row", NULL));
    SQF_TRY(SQF_ALLOC(&out->row.scale_high, groups, "an activation row", NULL));
    SQF_TRY(SQF_ALLOC(&out->row.zero_low, groups, "an activation row", NULL));
    return SQF_ALLOC(&out->row.zero_high, groups, "an activation row", NULL);
}

/* error [channels] = q(x) - x in the original order; x itself without a spec. */
static void token_error(const error_work *work, const float *x, error_scratch *scratch, float *error)
{
    const size_t n = work->measure->input->statistics->channels;
    if (!work->act) {
        for (size_t j = 0; j < n; j++) {
            error[j] = x[j];
        }
        return;
    }
    const sqf_act_row *row = &scratch->row;
    sqf_act_quantize_row(work->act, x, n, work->order, work->border, &work->scale_groups, work->static_scale, NULL,
                         NULL, &scratch->row);
    for (size_t g = 0; g < sqf_partition_count(&work->scale_groups); g++) {
        size_t begin, end;
        sqf_partition_range(&work->scale_groups, g, &begin, &end);
        for (size_t j = begin; j < end; j++) {
            const size_t channel = work->order ? (size_t)work->order[j] : j;
            error[channel] = row->value[j] * (row->mask[j] ? row->scale_high[g] : row->scale_low[g]) - x[channel];
        }
    }
}

static void error_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const error_work *work = user;
    const sqf_output_error *measure = work->measure;
    const sqf_statistics *statistics = measure->input->statistics;
    const size_t n = statistics->channels, begin = task * TOKENS;
    const size_t count = smaller(TOKENS, measure->tokens - begin);
    error_scratch scratch;
    work->status[task] = scratch_create(work, &scratch);
    if (work->status[task] == SQF_OK) {
        for (size_t t = 0; t < count; t++) {
            token_error(work, sqf_output_error_token(measure, begin + t), &scratch, scratch.error + t * n);
        }
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, (int)measure->outputs, (int)n, 1.0f,
                    scratch.error, (int)n, measure->weights, (int)n, 0.0f, scratch.product, (int)measure->outputs);
        double sum = 0.0;
        for (size_t i = 0; i < count * measure->outputs; i++) {
            sum += (double)scratch.product[i] * (double)scratch.product[i];
        }
        work->sums[task] = sum;
    }
    scratch_clear(&scratch);
}

/* Runs the tasks and adds their sums in order. */
static sqf_status run(error_work *work, double *sum, sqf_error *err)
{
    const sqf_mask_input *input = work->measure->input;
    const size_t tasks = sqf_ceil_div(work->measure->tokens, TOKENS);
    sqf_status status;
    *sum = 0.0;
    SQF_TRY_GOTO(status, SQF_ALLOC(&work->sums, tasks, "errors", err), done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&work->status, tasks, "errors", err), done);
    sqf_pool_run(input->context->pool, tasks, error_task, work);
    for (size_t i = 0; i < tasks; i++) {
        if (work->status[i] != SQF_OK) {
            status = sqf_fail(err, work->status[i], "mask: out of memory for the error of a sample");
            goto done;
        }
        *sum += work->sums[i];
    }
done:
    free(work->sums);
    free(work->status);
    return status;
}

const float *sqf_output_error_token(const sqf_output_error *measure, size_t t)
{
    const sqf_statistics *statistics = measure->input->statistics;
    return statistics->sample + t * statistics->sample_tokens / measure->tokens * statistics->channels;
}

sqf_status sqf_output_error_create(const sqf_mask_input *input, size_t tokens, sqf_output_error *out, sqf_error *err)
{
    *out = (sqf_output_error){.input = input, .tokens = smaller(tokens, input->statistics->sample_tokens)};
    sqf_status status = find_outputs(out, err);
    error_work work = {.measure = out};
    status = status == SQF_OK ? run(&work, &out->size, err) : status;
    if (status != SQF_OK) {
        sqf_output_error_clear(out);
    }
    return status;
}

void sqf_output_error_clear(sqf_output_error *measure)
{
    free(measure->weights);
    *measure = (sqf_output_error){0};
}

/* As the pipeline makes them: from the largest calibrated magnitude of each part. */
static void static_scales(const sqf_output_error *measure, const sqf_act_spec *act, const int32_t *order, size_t border,
                          float scale[2])
{
    const sqf_statistics *statistics = measure->input->statistics;
    const float most[2] = {sqf_type_max(act->low), sqf_type_max(act->high)};
    float largest[2] = {0.0f, 0.0f};
    for (size_t j = 0; j < statistics->channels; j++) {
        const float value = statistics->max_abs[order ? (size_t)order[j] : j];
        largest[j >= border] = fmaxf(largest[j >= border], value);
    }
    for (int part = 0; part < 2; part++) {
        scale[part] = most[part] > 0.0f ? sqf_act_part_clip(act, part == 1) * largest[part] / most[part] : 0.0f;
    }
}

sqf_status sqf_output_error_measure(const sqf_output_error *measure, const sqf_act_spec *act, const int32_t *order,
                                    size_t border, double *error, sqf_error *err)
{
    const sqf_mask_input *input = measure->input;
    const size_t n = input->statistics->channels;
    const sqf_partition weights = sqf_partition_make(n, border, input->weight_group);
    float scale[2];
    if (act->scale == SQF_ACT_STATIC && act->zero != SQF_ACT_ZERO_NONE) {
        return sqf_fail(err, SQF_E_ARG, "mask: the error of static zero points is not measured");
    }
    static_scales(measure, act, order, border, scale);
    error_work work = {.measure = measure,
                       .act = act,
                       .order = order,
                       .border = border,
                       .scale_groups = sqf_act_scale_groups(act, &weights),
                       .static_scale = scale};
    double sum;
    SQF_TRY(run(&work, &sum, err));
    *error = measure->size > 0.0 ? sum / measure->size : 0.0;
    return SQF_OK;
}

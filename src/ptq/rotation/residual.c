/* The basis of the residual stream: making it, and the tensors outside the layers that are in it. */
#include <math.h>
#include <string.h>

#include <cblas.h>

#include "kernels/ops.h"
#include "ptq/rotation/basis.h"
#include "ptq/rotation/collect.h"
#include "ptq/rotation/fold.h"
#include "ptq/rotation/learn.h"
#include "ptq/rotation/rotation.h"

enum { BLOCK_ROWS = 64 };

/* ---- making it ---- */

/* Whether the stream's basis is found from calibration text. */
static bool fits_text(const sqf_rotation_choice *choice)
{
    return choice->residual == SQF_ROTATE_PCA || choice->residual == SQF_ROTATE_LEARNED;
}

size_t sqf_rotation_passes(const sqf_plan *plan)
{
    const bool parts = plan->rotation.values == SQF_ROTATE_PART_PCA || plan->rotation.down == SQF_ROTATE_PART_PCA;
    return plan->layers * ((size_t)fits_text(&plan->rotation) + parts);
}

/* From what the original model shows of its stream. */
static sqf_status fit_basis(sqf_pipeline *pipeline, uint64_t seed, double *basis, sqf_error *err)
{
    const size_t hidden = pipeline->checkpoint.config.hidden;
    const bool learned = pipeline->plan.rotation.residual == SQF_ROTATE_LEARNED;
    sqf_stream_sample sample;
    SQF_TRY(sqf_stream_collect(pipeline, learned, &sample, err));
    sqf_status status =
        sqf_basis_principal(&pipeline->plan.scheme.activations, hidden, sample.statistics.hessian, seed, basis, err);
    if (status == SQF_OK && learned) {
        sqf_learning learning;
        status = sqf_basis_learn(pipeline->context, &pipeline->plan.scheme.activations, &sample, basis, &learning, err);
        sqf_log(pipeline->context, SQF_LOG_INFO,
                "rotation learned in %u steps: error of held-out inputs %.4g before, %.4g after", learning.steps,
                learning.before, learning.after);
    }
    sqf_stream_clear(&sample);
    return status;
}

static sqf_status fill_basis(sqf_pipeline *pipeline, double *basis, sqf_error *err)
{
    const size_t hidden = pipeline->checkpoint.config.hidden;
    const uint64_t seed = pipeline->options->seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
    const bool random = pipeline->plan.rotation.residual == SQF_ROTATE_RANDOM;
    if (fits_text(&pipeline->plan.rotation)) {
        return fit_basis(pipeline, seed, basis, err);
    }
    return sqf_basis_fill(random ? SQF_ROTATE_PART_RANDOM : SQF_ROTATE_PART_HADAMARD, hidden, seed, basis, err);
}

/* The calibration windows, which begin as rows of the embedding, in the new basis. */
static sqf_status turn_windows(sqf_pipeline *pipeline, float *stream, sqf_error *err)
{
    const size_t tokens = pipeline->calibration.windows * pipeline->calibration.length;
    return stream ? sqf_fold_columns(pipeline->context, stream, tokens, pipeline->checkpoint.config.hidden, NULL,
                                     pipeline->basis, err)
                  : SQF_OK;
}

sqf_status sqf_rotation_prepare(sqf_pipeline *pipeline, sqf_error *err)
{
    const size_t hidden = pipeline->checkpoint.config.hidden;
    double *basis;
    if (pipeline->plan.rotation.residual == SQF_ROTATE_OFF) {
        return SQF_OK;
    }
    SQF_TRY(SQF_ALLOC(&pipeline->basis, hidden * hidden, "basis of the residual stream", err));
    SQF_TRY(SQF_ALLOC(&basis, hidden * hidden, "basis of the residual stream", err));
    const sqf_status status = fill_basis(pipeline, basis, err);
    for (size_t i = 0; i < hidden * hidden; i++) {
        pipeline->basis[i] = (float)basis[i];
    }
    free(basis);
    SQF_TRY(status);
    SQF_TRY(turn_windows(pipeline, pipeline->hidden, err));
    return turn_windows(pipeline, pipeline->original, err);
}

/* ---- embedding and output matrix ---- */

typedef struct rows_job {
    const sqf_pipeline *pipeline;
    const sqf_tensor *tensor;
    const float *gain;
    size_t rows, columns;
    sqf_type type;
    uint8_t *out;
    float *scratch; /* [threads, 2, BLOCK_ROWS, columns] */
} rows_job;

static void store_values(const rows_job *job, const float *values, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++) {
        if (job->type == SQF_TYPE_FP32) {
            memcpy(out + i * sizeof *values, values + i, sizeof *values);
        } else {
            const uint16_t half = sqf_fp16_from_float(values[i]);
            memcpy(out + i * sizeof half, &half, sizeof half);
        }
    }
}

void sqf_rotation_turn_rows(const sqf_pipeline *pipeline, const sqf_tensor *tensor, const float *gain, size_t first,
                            size_t rows, float *scratch, float *out)
{
    const size_t n = tensor->shape[1];
    sqf_to_float(sqf_dtype_type(tensor->dtype), tensor->data + first * n * sqf_dtype_bytes(tensor->dtype), rows * n,
                 scratch);
    for (size_t i = 0; gain && i < rows * n; i++) {
        scratch[i] *= gain[i % n];
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)n, (int)n, 1.0f, scratch, (int)n,
                pipeline->basis, (int)n, 0.0f, out, (int)n);
}

static void rows_task(void *user, size_t task, unsigned thread)
{
    const rows_job *job = user;
    const size_t n = job->columns, first = task * BLOCK_ROWS, left = job->rows - first;
    const size_t rows = left < BLOCK_ROWS ? left : BLOCK_ROWS;
    float *from = job->scratch + (size_t)thread * 2 * BLOCK_ROWS * n, *to = from + BLOCK_ROWS * n;
    sqf_rotation_turn_rows(job->pipeline, job->tensor, job->gain, first, rows, from, to);
    store_values(job, to, rows * n, job->out + first * n * sqf_type_storage_bytes(job->type));
}

/* Half floats, whose fraction is as fine as 2^-11: three bits more than a bfloat16 checkpoint has, so that rounding the
 * rotated values costs an eighth of what bfloat16 would. Float where the checkpoint or the scheme asks for it, or where
 * a value could overflow: no row of a rotated matrix is longer than it was. */
static sqf_type stored_type(const sqf_pipeline *pipeline, const sqf_tensor *tensor)
{
    const bool exact = pipeline->plan.scheme.weights.low == SQF_TYPE_FP32;
    return tensor->dtype == SQF_DTYPE_F32 || exact ? SQF_TYPE_FP32 : SQF_TYPE_FP16;
}

static bool overflows(const rows_job *job)
{
    for (size_t i = 0; job->type == SQF_TYPE_FP16 && i < job->rows * job->columns; i++) {
        uint16_t half;
        memcpy(&half, job->out + i * sizeof half, sizeof half);
        if ((half & 0x7c00) == 0x7c00) {
            return true;
        }
    }
    return false;
}

static sqf_status turn_rows(sqf_pipeline *pipeline, rows_job *job, sqf_error *err)
{
    size_t bytes;
    if (!sqf_mul_size(&bytes, job->rows * job->columns, sqf_type_storage_bytes(job->type))) {
        return sqf_fail(err, SQF_E_MEMORY, "%s: its size does not fit this machine", job->tensor->name);
    }
    SQF_TRY(SQF_ALLOC(&job->out, bytes, "rotated rows", err));
    sqf_pool_run(pipeline->context->pool, sqf_ceil_div(job->rows, BLOCK_ROWS), rows_task, job);
    if (!overflows(job)) {
        return SQF_OK;
    }
    free(job->out);
    job->out = NULL;
    job->type = SQF_TYPE_FP32;
    return turn_rows(pipeline, job, err);
}

/* Writes `name` <- tensor diag(gain) basis. */
static sqf_status write_turned(sqf_pipeline *pipeline, const char *name, const char *source, const float *gain,
                               sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    rows_job job = {.pipeline = pipeline, .gain = gain, .rows = config->vocabulary, .columns = config->hidden};
    SQF_TRY(sqf_checkpoint_dense(&pipeline->checkpoint, pipeline->context, source, job.rows, job.columns, &job.tensor,
                                 err));
    job.type = stored_type(pipeline, job.tensor);
    const size_t threads = sqf_pool_threads(pipeline->context->pool);
    SQF_TRY(SQF_ALLOC(&job.scratch, threads * 2 * BLOCK_ROWS * job.columns, "scratch of the threads", err));
    sqf_status status = turn_rows(pipeline, &job, err);
    if (status == SQF_OK) {
        status =
            sqf_model_output_values(&pipeline->output, name, job.type == SQF_TYPE_FP32 ? SQF_DTYPE_F32 : SQF_DTYPE_F16,
                                    job.rows, job.columns, job.out, err);
    }
    free(job.scratch);
    free(job.out);
    return status;
}

sqf_status sqf_rotation_write_embedding(sqf_pipeline *pipeline, sqf_error *err)
{
    const char *const name = "model.embed_tokens.weight";
    const sqf_config *config = &pipeline->checkpoint.config;
    return pipeline->basis ? write_turned(pipeline, name, name, NULL, err)
                           : sqf_model_output_copy(&pipeline->output, name, config->vocabulary, config->hidden, err);
}

/* The final norm's gain goes into the output matrix, which so is no longer the embedding. */
static sqf_status write_turned_head(sqf_pipeline *pipeline, float *gain, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    SQF_TRY(write_turned(pipeline, "lm_head.weight", config->tied ? "model.embed_tokens.weight" : "lm_head.weight",
                         gain, err));
    for (size_t i = 0; i < config->hidden; i++) {
        gain[i] = 1.0f;
    }
    return sqf_model_output_values(&pipeline->output, "model.norm.weight", SQF_DTYPE_F32, config->hidden, 0, gain, err);
}

sqf_status sqf_rotation_write_head(sqf_pipeline *pipeline, sqf_error *err)
{
    const sqf_config *config = &pipeline->checkpoint.config;
    sqf_model_output *output = &pipeline->output;
    float *gain;
    if (!pipeline->basis) {
        SQF_TRY(sqf_model_output_copy(output, "model.norm.weight", config->hidden, 0, err));
        return config->tied ? SQF_OK
                            : sqf_model_output_copy(output, "lm_head.weight", config->vocabulary, config->hidden, err);
    }
    SQF_TRY(sqf_checkpoint_floats(&pipeline->checkpoint, "model.norm.weight", config->hidden, 0, &gain, err));
    const sqf_status status = write_turned_head(pipeline, gain, err);
    free(gain);
    return status;
}

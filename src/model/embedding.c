/* Looking up rows of the embedding. */
#include "model/embedding.h"

#include "kernels/ops.h"

sqf_status sqf_embedding_load(const sqf_checkpoint *checkpoint, sqf_context *context, sqf_embedding *out,
                              sqf_error *err)
{
    const sqf_config *config = &checkpoint->config;
    const sqf_scheme scheme = sqf_module_schemes_get(checkpoint->schemes, SQF_MODULE_EMBEDDING);
    *out = (sqf_embedding){.columns = config->hidden};
    if (!sqf_weight_spec_is_dense(&scheme.weights)) {
        return sqf_checkpoint_linear(checkpoint, context, SQF_MODULE_EMBEDDING, config->vocabulary, config->hidden,
                                     &out->stored, err);
    }
    return sqf_checkpoint_dense(checkpoint, context, SQF_MODULE_EMBEDDING ".weight", config->vocabulary, config->hidden,
                                &out->tensor, err);
}

void sqf_embedding_clear(sqf_embedding *embedding)
{
    sqf_stored_linear_clear(&embedding->stored);
    *embedding = (sqf_embedding){0};
}

void sqf_lookup_clear(sqf_lookup *lookup)
{
    for (size_t i = 0; i < lookup->count; i++) {
        sqf_row_clear(&lookup->rows[i]);
    }
    free(lookup->rows);
    *lookup = (sqf_lookup){0};
}

sqf_status sqf_lookup_prepare(sqf_context *context, const sqf_embedding *embedding, sqf_lookup *lookup, sqf_error *err)
{
    const size_t threads = sqf_pool_threads(context->pool);
    if (lookup->rows || embedding->tensor) {
        return SQF_OK;
    }
    SQF_TRY(SQF_ALLOC(&lookup->rows, threads, "rows of the embedding", err));
    for (; lookup->count < threads; lookup->count++) {
        const sqf_status status = sqf_row_create(&embedding->stored.matrix, &lookup->rows[lookup->count], err);
        if (status != SQF_OK) {
            sqf_lookup_clear(lookup);
            return status;
        }
    }
    return SQF_OK;
}

typedef struct lookup_job {
    const sqf_embedding *embedding;
    const sqf_lookup *lookup;
    const uint32_t *ids;
    float *x;
} lookup_job;

static void lookup_task(void *user, size_t task, unsigned thread)
{
    const lookup_job *job = user;
    sqf_matrix_dequantize_row(&job->embedding->stored.matrix, job->ids[task], &job->lookup->rows[thread],
                              job->x + task * job->embedding->columns);
}

sqf_status sqf_embedding_rows(sqf_context *context, const sqf_embedding *embedding, sqf_lookup *lookup,
                              const uint32_t *ids, size_t count, float *x, sqf_error *err)
{
    const sqf_tensor *tensor = embedding->tensor;
    if (!tensor) {
        lookup_job job = {.embedding = embedding, .lookup = lookup, .ids = ids, .x = x};
        SQF_TRY(sqf_lookup_prepare(context, embedding, lookup, err));
        sqf_pool_run(context->pool, count, lookup_task, &job);
        return SQF_OK;
    }
    const size_t row_bytes = embedding->columns * sqf_dtype_bytes(tensor->dtype);
    for (size_t i = 0; i < count; i++) {
        sqf_to_float(sqf_dtype_type(tensor->dtype), tensor->data + ids[i] * row_bytes, embedding->columns,
                     x + i * embedding->columns);
    }
    return SQF_OK;
}

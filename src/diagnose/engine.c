/* Forward passes layer by layer, and scores. Unlike a session it keeps no cache between windows, may begin at any layer
 * and takes its layers from the caller. */
#include "diagnose/engine.h"

#include <string.h>

#include "kernels/ops.h"

/* Rows of logits at a time, as in an evaluation. */
enum { ROWS = 64 };

static sqf_status create_parts(sqf_engine *e, sqf_error *err)
{
    const sqf_config *config = &e->original->checkpoint.config;
    size_t floats, room;
    if (!sqf_mul_size(&floats, e->windows * e->length, config->hidden) ||
        !sqf_mul_size(&room, ROWS, config->vocabulary)) {
        return sqf_fail(err, SQF_E_MEMORY, "diagnosis: %zu tokens are too many", e->windows * e->length);
    }
    SQF_TRY(sqf_workspace_create(config, &e->workspace[0], err));
    SQF_TRY(sqf_workspace_create(&e->quantized->checkpoint.config, &e->workspace[1], err));
    SQF_TRY(sqf_input_create(&e->input, err));
    SQF_TRY(sqf_lookup_prepare(e->context, &e->original->embedding, &e->lookup[0], err));
    SQF_TRY(sqf_lookup_prepare(e->context, &e->quantized->embedding, &e->lookup[1], err));
    SQF_TRY(sqf_kv_cache_create_layer(config, e->length, &e->cache, err));
    SQF_TRY(SQF_ALLOC(&e->stream, e->length * config->hidden, "a window", err));
    SQF_TRY(SQF_ALLOC(&e->reference, floats, "hidden states", err));
    SQF_TRY(SQF_ALLOC(&e->normed, ROWS * config->hidden, "hidden states", err));
    SQF_TRY(SQF_ALLOC(&e->logits[0], room, "logits", err));
    SQF_TRY(SQF_ALLOC(&e->logits[1], room, "logits", err));
    return sqf_token_scores_create(e->windows * (e->length - 1), true, &e->scores, err);
}

sqf_status sqf_engine_create(sqf_engine *engine, sqf_error *err)
{
    return create_parts(engine, err);
}

void sqf_engine_clear(sqf_engine *engine)
{
    sqf_workspace_destroy(engine->workspace[0]);
    sqf_workspace_destroy(engine->workspace[1]);
    sqf_input_destroy(engine->input);
    sqf_lookup_clear(&engine->lookup[0]);
    sqf_lookup_clear(&engine->lookup[1]);
    sqf_kv_cache_destroy(engine->cache);
    free(engine->stream);
    free(engine->reference);
    free(engine->normed);
    free(engine->logits[0]);
    free(engine->logits[1]);
    sqf_token_scores_clear(&engine->scores);
    *engine = (sqf_engine){0};
}

void sqf_engine_embed(const sqf_engine *engine, const sqf_model *model, size_t window, float *x)
{
    sqf_lookup lookup = engine->lookup[model != engine->original]; /* prepared: nothing is allocated, nothing fails */
    (void)sqf_embedding_rows(engine->context, &model->embedding, &lookup, engine->ids + window * engine->length,
                             engine->length, x, NULL);
}

sqf_status sqf_engine_layer(sqf_engine *engine, bool quantized, const sqf_layer *layer, float *x,
                            const sqf_layer_tap *tap, sqf_error *err)
{
    const sqf_model *model = quantized ? engine->quantized : engine->original;
    return sqf_layer_forward(engine->context, &model->checkpoint.config, layer, x, engine->length, 0,
                             sqf_kv_cache_layer(engine->cache, 0), tap, engine->workspace[quantized], err);
}

static sqf_status find_logits(sqf_engine *e, const sqf_model *head, const float *rows, size_t count, float *logits,
                              sqf_error *err)
{
    const sqf_config *config = &head->checkpoint.config;
    sqf_rmsnorm(e->context, rows, head->norm, config->norm_epsilon, count, config->hidden, e->normed);
    SQF_TRY(sqf_input_prepare(e->context, e->input, head->output, e->normed, count, err));
    return sqf_linear_forward(e->context, head->output, e->input, logits, err);
}

/* Tokens from the second on; x holds the window after the last layer. */
static sqf_status score_window(sqf_engine *e, const sqf_model *head, size_t window, const float *x, sqf_error *err)
{
    const size_t hidden = head->checkpoint.config.hidden, end = e->length - 1;
    const float *reference = e->reference + window * e->length * hidden;
    const uint32_t *ids = e->ids + window * e->length;
    for (size_t first = 0, rows; first < end; first += rows) {
        rows = end - first < ROWS ? end - first : ROWS;
        SQF_TRY(find_logits(e, e->original, reference + first * hidden, rows, e->logits[0], err));
        SQF_TRY(find_logits(e, head, x + first * hidden, rows, e->logits[1], err));
        SQF_TRY(sqf_token_scores_add(&e->scores, e->context->pool, e->logits[1], e->logits[0], ids + first + 1, rows,
                                     head->checkpoint.config.vocabulary, err));
    }
    return SQF_OK;
}

sqf_status sqf_engine_advance(sqf_engine *engine, sqf_error *err)
{
    engine->done++;
    return sqf_progress(engine->context, "windows", engine->done, engine->total, err);
}

sqf_status sqf_engine_evaluate(sqf_engine *engine, const sqf_layer *layers, size_t first, const float *streams,
                               const sqf_model *head, sqf_eval_result *result, sqf_error *err)
{
    const sqf_config *config = &head->checkpoint.config;
    const size_t floats = engine->length * config->hidden;
    *result = (sqf_eval_result){.tokens = engine->windows * engine->length, .windows = engine->windows};
    engine->scores.count = 0;
    for (size_t w = 0; w < engine->windows; w++) {
        memcpy(engine->stream, streams + w * floats, floats * sizeof *streams);
        for (size_t i = first; i < config->layers; i++) {
            SQF_TRY(sqf_engine_layer(engine, head == engine->quantized, &layers[i], engine->stream, NULL, err));
        }
        SQF_TRY(score_window(engine, head, w, engine->stream, err));
        SQF_TRY(sqf_engine_advance(engine, err));
    }
    sqf_token_scores_summarize(&engine->scores, result);
    result->scored_tokens = engine->scores.count;
    return SQF_OK;
}

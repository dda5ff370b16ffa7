/* Running text through decoder layers of one's own choice, and scoring it against the original model. */
#ifndef SQF_DIAGNOSE_ENGINE_H
#define SQF_DIAGNOSE_ENGINE_H

#include "eval/score.h"
#include "model/model.h"

/* Two models of one shape on one text. The ids are the caller's; the rest is released by sqf_engine_clear. */
typedef struct sqf_engine {
    sqf_context *context;
    const sqf_model *original, *quantized;
    const uint32_t *ids; /* [windows, length] */
    size_t windows, length;
    sqf_workspace *workspace[2]; /* of the original's layers, of the quantized model's */
    sqf_lookup lookup[2];        /* the same, of their embeddings */
    sqf_input *input;            /* of the output matrix */
    sqf_kv_cache *cache;         /* of the layer at work */
    float *stream;               /* [length, hidden] */
    float *reference;            /* [windows, length, hidden] after the original's last layer */
    float *normed;               /* scratch of logits */
    float *logits[2];            /* the same: of the original, of what is scored */
    sqf_token_scores scores;     /* of the last evaluation */
    uint64_t done, total;        /* progress, in windows */
} sqf_engine;

/* Zeroed engine with context, models and text given: makes the rest. Release also after a failure. */
sqf_status sqf_engine_create(sqf_engine *engine, sqf_error *err);
void sqf_engine_clear(sqf_engine *engine);

/* Rows of a model's embedding for a window: x [length, hidden]. */
void sqf_engine_embed(const sqf_engine *engine, const sqf_model *model, size_t window, float *x);

/* A window through one layer, in place. `quantized` says whose workspace. tap may be NULL. */
sqf_status sqf_engine_layer(sqf_engine *engine, bool quantized, const sqf_layer *layer, float *x,
                            const sqf_layer_tap *tap, sqf_error *err);

/* Every window from its state before layer `first` (streams [windows, length, hidden], left as they are) through
 * layers[first ..], then scored with the norm and output matrix of `head` against engine->reference. Figures of tokens
 * stay in engine->scores. Each window is one unit of progress. */
sqf_status sqf_engine_evaluate(sqf_engine *engine, const sqf_layer *layers, size_t first, const float *streams,
                               const sqf_model *head, sqf_eval_result *result, sqf_error *err);

/* One unit of progress done. */
sqf_status sqf_engine_advance(sqf_engine *engine, sqf_error *err);

#endif

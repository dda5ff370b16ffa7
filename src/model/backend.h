/* Where a model computes: one struct of functions for the CPU, one for a device. model.c and session.c, which know
 * files, ids and lengths, call them; they know layers, caches and hidden states. */
#ifndef SQF_MODEL_BACKEND_H
#define SQF_MODEL_BACKEND_H

#include "model/layer.h"
#include "model/sampler.h"

/* What every session has; each backend's own begins with it. */
struct sqf_session {
    const sqf_model *model;
    size_t positions, length;
    size_t row_count; /* tokens of the last forward, whose hidden states are kept */
    bool listed;      /* seen in the list of sessions that is being checked */
};

/* Tokens for some sessions of a model, checked: ids below the vocabulary, room in each session. */
typedef struct sqf_session_call {
    sqf_session *const *sessions;
    size_t count;
    const uint32_t *const *ids;
    const size_t *counts;
} sqf_session_call;

/* Tokens of one session in a chunk: `count` from the call's token `begin` on. */
typedef struct sqf_slice {
    size_t session, begin, count;
} sqf_slice;

/* The next slices of a call, `most` tokens together at most, from token *begin of session *session on; both move on. A
 * session's tokens are cut as if it were alone, because attention may round by the number of tokens. `slices` has room
 * for one of each session. */
size_t sqf_cut_chunk(const sqf_session_call *call, size_t most, size_t *session, size_t *begin, sqf_slice *slices);

typedef struct sqf_backend {
    /* Loading, in this order. `clear` releases what the others made, also after a failure. */
    sqf_status (*begin)(sqf_model *model, const sqf_model_use *use, sqf_error *err); /* nothing has been read */
    sqf_status (*embedding)(sqf_model *model, sqf_error *err); /* the model's embedding and norm are there */
    /* The output matrix: `dense` is its tensor where params->dense is given. */
    sqf_status (*output)(sqf_model *model, const sqf_linear_params *params, const sqf_tensor *dense, sqf_error *err);
    sqf_status (*layer)(sqf_model *model, size_t index, sqf_error *err);
    void (*clear)(sqf_model *model);
    size_t (*read_bytes)(const sqf_model *model); /* of the matrices that every token reads */

    /* Sessions. *out is zeroed but for what the backend itself keeps; the head is the caller's to fill. */
    sqf_status (*session_create)(const sqf_model *model, size_t positions, sqf_kv_type kv, sqf_session **out,
                                 sqf_error *err);
    void (*session_destroy)(sqf_session *session);
    uint64_t (*position_bytes)(const sqf_session *session);
    /* Computes hidden states; they and the caches' new rows become current in `keep`, and after a failure never. */
    sqf_status (*forward)(const sqf_session_call *call, sqf_error *err);
    void (*keep)(const sqf_session_call *call);
    /* Logits of rows of the last forward; of the last row of each session. */
    sqf_status (*logits)(sqf_session *session, size_t first, size_t count, float *logits, sqf_error *err);
    sqf_status (*last_logits)(sqf_session *const *sessions, size_t count, float *logits, sqf_error *err);
    /* The next token after the last row; *seconds is what the logits took. drawn NULL: the logits alone. */
    sqf_status (*draw)(sqf_session *session, sqf_sampler *sampler, uint32_t *drawn, double *seconds, sqf_error *err);
    /* forward of one session's one token and `draw` at once; NULL = one after the other. Calls sqf_session_keep between
     * the two. */
    sqf_status (*step)(const sqf_session_call *call, sqf_sampler *sampler, uint32_t *drawn, double *seconds,
                       sqf_error *err);
} sqf_backend;

extern const sqf_backend sqf_host_backend, sqf_device_backend;

/* The tokens of a call that has succeeded belong to their sessions. */
void sqf_session_keep(const sqf_session_call *call);

/* sqf_session_forward, the logits after the last token, and a token drawn from them (drawn NULL: none is drawn).
 * *seconds is the time until the logits were there; on a device that of drawing is part of it. */
sqf_status sqf_session_step(sqf_session *session, sqf_sampler *sampler, const uint32_t *ids, size_t count,
                            uint32_t *drawn, double *seconds, sqf_error *err);

#endif

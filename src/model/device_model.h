/* A model on a device: its layers, its vocabulary's matrices, and what its sessions share there. Sessions of a context
 * compute one at a time, so that they have one workspace, one stream of hidden states and one row of logits. */
#ifndef SQF_MODEL_DEVICE_MODEL_H
#define SQF_MODEL_DEVICE_MODEL_H

#include "model/device_layer.h"
#include "model/model.h"

/* DEVICE_CHUNK: tokens that go through all layers at once. DEVICE_LOGITS: rows of logits computed at once. */
enum { DEVICE_CHUNK = 2048, DEVICE_LOGITS = 256, DEVICE_RECORDS = 4 };

/* Hidden states after the last layer of the tokens of a call, shared by the sessions of the call until each has had
 * another. */
typedef struct device_rows {
    struct device_rows *next; /* of the list of those that nobody refers to */
    float *data;              /* [capacity, hidden] device memory */
    size_t capacity;
    unsigned references;
} device_rows;

/* A recorded step of decoding: one token of each of `count` sequences whose caches are alike. It serves every step with
 * the same key; positions, ids and the places of the caches are read anew each time. */
typedef struct device_record {
    size_t count, capacity, reach;
    sqf_kv_type type;
    uint64_t version;      /* of the workspace */
    bool draws;            /* with logits and sampling */
    sqf_sampling sampling; /* if it draws; the seed is not part of the key */
    bool used;             /* the key is valid: the same operations have run once */
    sqf_cuda_graph *graph; /* NULL until the second time */
} device_record;

typedef struct sqf_device_model {
    sqf_context *context;
    const sqf_device *device;
    sqf_device_layer *layers; /* [config.layers] */
    sqf_device_linear output;
    float *norm; /* [hidden] device memory */
    void *table; /* dense embedding, device memory; NULL: its rows are looked up by the host */
    sqf_type table_type;
    sqf_lookup lookup; /* scratch of the host's look-ups */
    float *looked_up;  /* [DEVICE_CHUNK, hidden] host memory; made with the first of them */
    sqf_device_work *work;
    float *stream; /* [stream_rows, hidden] hidden states of recorded steps, and rows that were gathered */
    float *logits; /* [logits_rows, vocabulary] */
    size_t stream_rows, logits_rows;
    device_rows *free_rows;
    double *uniform;  /* [1] of a draw */
    uint8_t *seen;    /* [vocabulary] made when the first sampler asks for it */
    uint32_t *drawn;  /* [1] */
    uint64_t version; /* changes when one of these moves */
    device_record records[DEVICE_RECORDS];
    size_t next_record;
    sqf_product_counts layer_products; /* of one token in all layers */
} sqf_device_model;

/* The part of sqf_device_backend that stands in device_session.c. */
sqf_status sqf_device_session_create(const sqf_model *model, size_t positions, sqf_kv_type kv, sqf_session **out,
                                     sqf_error *err);
void sqf_device_session_destroy(sqf_session *session);
uint64_t sqf_device_session_position_bytes(const sqf_session *session);
sqf_status sqf_device_session_forward(const sqf_session_call *call, sqf_error *err);
void sqf_device_session_keep(const sqf_session_call *call);
sqf_status sqf_device_session_logits(sqf_session *session, size_t first, size_t count, float *logits, sqf_error *err);
sqf_status sqf_device_session_last_logits(sqf_session *const *sessions, size_t count, float *logits, sqf_error *err);
sqf_status sqf_device_session_draw(sqf_session *session, sqf_sampler *sampler, uint32_t *drawn, double *seconds,
                                   sqf_error *err);
sqf_status sqf_device_session_step(const sqf_session_call *call, sqf_sampler *sampler, uint32_t *drawn, double *seconds,
                                   sqf_error *err);

/* Rows for `count` tokens, referred to once; and one reference less. */
sqf_status sqf_device_rows_take(sqf_device_model *model, size_t hidden, size_t count, device_rows **out,
                                sqf_error *err);
void sqf_device_rows_drop(sqf_device_model *model, device_rows *rows);

#endif

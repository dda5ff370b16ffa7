/* Sessions on the CPU: KV caches, prefill in chunks, passes over several sessions at once, logits.
 *
 * Hidden states go to a second buffer that is swapped in on success, so that a call that fails leaves the former
 * ones. */
#include <string.h>

#include "base/file.h"
#include "kernels/ops.h"
#include "model/kv_cache.h"
#include "model/model.h"

/* CHUNK_TOKENS: tokens that go through all layers at once in a prefill. CHUNK_LOGITS: rows of logits computed at
 * once. Both bound the scratch memory of long prompts at no cost in speed. */
enum { CHUNK_TOKENS = 512, CHUNK_LOGITS = 64 };

/* One caller at a time; many sessions may share a model. */
typedef struct host_session {
    sqf_session base; /* the first member: a pointer to one is a pointer to the other */
    sqf_kv_cache *cache;
    sqf_workspace *workspace;
    sqf_input *input; /* of the output matrix */
    float *rows;      /* [row_count, hidden] after the last layer, of the last forward */
    float *next_rows; /* of the forward that is running: swapped when it succeeds */
    size_t row_capacity, next_capacity;
    float *normed;     /* [CHUNK_LOGITS, hidden] */
    float *drawn_from; /* [vocabulary] logits of a draw, made with the first one */
    sqf_lookup lookup; /* scratch of the embedding */
    /* Of passes over several sessions that this one is the first of. */
    sqf_layer_sequence *sequences; /* [slice_capacity] */
    sqf_slice *slices;             /* the same */
    size_t slice_capacity;
    float *stream; /* [CHUNK_TOKENS, hidden] made with the first such pass */
} host_session;

static host_session *host_of(sqf_session *session)
{
    return (host_session *)(void *)session;
}

static void destroy(sqf_session *base)
{
    host_session *session = host_of(base);
    sqf_kv_cache_destroy(session->cache);
    sqf_workspace_destroy(session->workspace);
    sqf_input_destroy(session->input);
    sqf_lookup_clear(&session->lookup);
    free(session->rows);
    free(session->next_rows);
    free(session->normed);
    free(session->drawn_from);
    free(session->sequences);
    free(session->slices);
    free(session->stream);
    free(session);
}

static sqf_status create_parts(const sqf_config *config, host_session *session, sqf_kv_type kv, sqf_error *err)
{
    SQF_TRY(sqf_kv_cache_create(config, config->layers, kv, &session->cache, err));
    SQF_TRY(SQF_ALLOC(&session->normed, CHUNK_LOGITS * config->hidden, "session", err));
    SQF_TRY(sqf_input_create(&session->input, err));
    return sqf_workspace_create(config, &session->workspace, err);
}

static sqf_status create(const sqf_model *model, size_t positions, sqf_kv_type kv, sqf_session **out, sqf_error *err)
{
    host_session *session;
    (void)positions; /* the cache grows with the sequence */
    SQF_TRY(SQF_ALLOC(&session, 1, "session", err));
    const sqf_status status = create_parts(&model->checkpoint.config, session, kv, err);
    if (status != SQF_OK) {
        destroy(&session->base);
        return status;
    }
    *out = &session->base;
    return SQF_OK;
}

static uint64_t position_bytes(const sqf_session *session)
{
    return sqf_kv_cache_position_bytes(((const host_session *)(const void *)session)->cache);
}

/* Room for the hidden states of `count` tokens, which are written before the former ones are given up. */
static sqf_status reserve_rows(host_session *session, size_t count, sqf_error *err)
{
    size_t elements;
    if (count <= session->next_capacity) {
        return SQF_OK;
    }
    if (!sqf_mul_size(&elements, count, session->base.model->checkpoint.config.hidden)) {
        return sqf_fail(err, SQF_E_MEMORY, "session: %zu tokens are too many", count);
    }
    free(session->next_rows);
    session->next_capacity = 0;
    SQF_TRY(SQF_ALLOC(&session->next_rows, elements, "hidden states", err));
    session->next_capacity = count;
    return SQF_OK;
}

/* Where the hidden states of a slice end up. */
static float *slice_rows(const sqf_session_call *c, const sqf_slice *piece)
{
    const host_session *session = host_of(c->sessions[piece->session]);
    return session->next_rows + piece->begin * session->base.model->checkpoint.config.hidden;
}

/* Slices through all layers. The states of a single one lie where they are to stay; those of several lie together
 * on their way. */
static sqf_status forward_chunk(const sqf_session_call *c, const sqf_slice *slices, size_t count, sqf_error *err)
{
    host_session *first = host_of(c->sessions[0]);
    const sqf_model *model = first->base.model;
    const size_t hidden = model->checkpoint.config.hidden;
    float *x = count == 1 ? slice_rows(c, &slices[0]) : first->stream;
    for (size_t i = 0, at = 0; i < count; at += slices[i++].count) {
        const sqf_slice *piece = &slices[i];
        first->sequences[i].tokens = piece->count;
        first->sequences[i].past = c->sessions[piece->session]->length + piece->begin;
        SQF_TRY(sqf_embedding_rows(model->context, &model->embedding, &first->lookup,
                                   c->ids[piece->session] + piece->begin, piece->count, x + at * hidden, err));
    }
    for (size_t layer = 0; layer < model->checkpoint.config.layers; layer++) {
        for (size_t i = 0; i < count; i++) {
            first->sequences[i].kv = sqf_kv_cache_layer(host_of(c->sessions[slices[i].session])->cache, layer);
        }
        SQF_TRY(sqf_layer_forward_all(model->context, &model->checkpoint.config, &model->layers[layer], x,
                                      first->sequences, count, NULL, first->workspace, err));
    }
    for (size_t i = 0, at = 0; count > 1 && i < count; at += slices[i++].count) {
        memcpy(slice_rows(c, &slices[i]), x + at * hidden, slices[i].count * hidden * sizeof *x);
    }
    return SQF_OK;
}

/* Scratch of a call in its first session. */
static sqf_status reserve_slices(host_session *first, size_t count, sqf_error *err)
{
    if (count > 1 && !first->stream) {
        SQF_TRY(SQF_ALLOC(&first->stream, CHUNK_TOKENS * first->base.model->checkpoint.config.hidden, "session", err));
    }
    if (count <= first->slice_capacity) {
        return SQF_OK;
    }
    free(first->sequences);
    free(first->slices);
    first->sequences = NULL;
    first->slices = NULL;
    first->slice_capacity = 0;
    SQF_TRY(SQF_ALLOC(&first->sequences, count, "session", err));
    SQF_TRY(SQF_ALLOC(&first->slices, count, "session", err));
    first->slice_capacity = count;
    return SQF_OK;
}

/* Prefill and decoding are the same call, with many tokens and with one. Chunks of a prefill go through all layers
 * one after the other; attention sees the keys of former chunks in the cache, so the cut changes nothing but the
 * rounding of sums. */
static sqf_status forward(const sqf_session_call *c, sqf_error *err)
{
    host_session *first = host_of(c->sessions[0]);
    for (size_t i = 0; i < c->count; i++) {
        host_session *session = host_of(c->sessions[i]);
        SQF_TRY(sqf_kv_cache_reserve(session->cache, session->base.length, session->base.length + c->counts[i],
                                     session->base.positions, err));
        SQF_TRY(reserve_rows(session, c->counts[i], err));
    }
    SQF_TRY(reserve_slices(first, c->count, err));
    for (size_t session = 0, begin = 0; session < c->count;) {
        const size_t count = sqf_cut_chunk(c, CHUNK_TOKENS, &session, &begin, first->slices);
        if (count > 0) {
            SQF_TRY(forward_chunk(c, first->slices, count, err));
        }
    }
    return SQF_OK;
}

/* The new hidden states become current; the former ones' memory is for the next call. */
static void keep(const sqf_session_call *c)
{
    for (size_t i = 0; i < c->count; i++) {
        host_session *session = host_of(c->sessions[i]);
        float *rows = session->rows;
        const size_t capacity = session->row_capacity;
        session->rows = session->next_rows;
        session->row_capacity = session->next_capacity;
        session->next_rows = rows;
        session->next_capacity = capacity;
    }
}

/* Final norm and output matrix for some rows x: the only place where logits come from. */
static sqf_status output_rows(host_session *session, const float *x, size_t count, float *logits, sqf_error *err)
{
    const sqf_model *model = session->base.model;
    const sqf_input_steps norm = {
        .gain = model->norm, .epsilon = model->checkpoint.config.norm_epsilon, .rows = session->normed};
    sqf_status status = sqf_input_prepare_steps(model->context, session->input, model->output, x, &norm, count, err);
    if (status == SQF_OK) {
        status = sqf_linear_forward(model->context, model->output, session->input, logits, err);
    }
    return status == SQF_OK ? SQF_OK : sqf_fail_within(err, status, "output matrix");
}

/* In chunks, because a chunk's normed rows and quantized input are scratch. */
static sqf_status logits_of(sqf_session *base, size_t first, size_t count, float *logits, sqf_error *err)
{
    host_session *session = host_of(base);
    const sqf_config *config = &base->model->checkpoint.config;
    const float *rows = session->rows + first * config->hidden;
    for (size_t begin = 0; begin < count; begin += CHUNK_LOGITS) {
        const size_t n = count - begin < CHUNK_LOGITS ? count - begin : CHUNK_LOGITS;
        SQF_TRY(output_rows(session, rows + begin * config->hidden, n, logits + begin * config->vocabulary, err));
    }
    return SQF_OK;
}

static sqf_status last_logits(sqf_session *const *sessions, size_t count, float *logits, sqf_error *err)
{
    const sqf_config *config = &sessions[0]->model->checkpoint.config;
    float *rows = host_of(sessions[0])->normed; /* normed where they lie */
    for (size_t begin = 0; begin < count; begin += CHUNK_LOGITS) {
        const size_t n = count - begin < CHUNK_LOGITS ? count - begin : CHUNK_LOGITS;
        for (size_t i = 0; i < n; i++) {
            const host_session *session = host_of(sessions[begin + i]);
            memcpy(rows + i * config->hidden, session->rows + (session->base.row_count - 1) * config->hidden,
                   config->hidden * sizeof *rows);
        }
        SQF_TRY(output_rows(host_of(sessions[0]), rows, n, logits + begin * config->vocabulary, err));
    }
    return SQF_OK;
}

static sqf_status draw(sqf_session *base, sqf_sampler *sampler, uint32_t *drawn, double *seconds, sqf_error *err)
{
    host_session *session = host_of(base);
    const double begin = sqf_clock_seconds();
    if (!session->drawn_from) {
        SQF_TRY(SQF_ALLOC(&session->drawn_from, base->model->checkpoint.config.vocabulary, "logits", err));
    }
    SQF_TRY(logits_of(base, base->row_count - 1, 1, session->drawn_from, err));
    *seconds = sqf_clock_seconds() - begin;
    return drawn ? sqf_sampler_draw(sampler, session->drawn_from, drawn, err) : SQF_OK;
}

/* ---- the model ---- */

static sqf_status begin_model(sqf_model *model, const sqf_model_use *use, sqf_error *err)
{
    (void)use;
    SQF_TRY(SQF_ALLOC(&model->layers, model->checkpoint.config.layers, "layers", err));
    return sqf_arena_create(model->info.weight_bytes, &model->arena, err);
}

static sqf_status take_embedding(sqf_model *model, sqf_error *err)
{
    (void)model; /* rows are looked up where they lie */
    (void)err;
    return SQF_OK;
}

static sqf_status take_output(sqf_model *model, const sqf_linear_params *params, const sqf_tensor *dense,
                              sqf_error *err)
{
    if (dense) {
        return sqf_dense_linear_of(model->context, dense, params->bias, &model->output, &model->output_owned, err);
    }
    sqf_linear_params repacked = *params;
    repacked.arena = model->arena;
    return sqf_linear_create(model->context, &repacked, &model->output, err);
}

static sqf_status take_layer(sqf_model *model, size_t index, sqf_error *err)
{
    return sqf_layer_load(&model->checkpoint, model->context, index, model->arena, &model->layers[index], err);
}

static void clear_model(sqf_model *model)
{
    for (size_t i = 0; model->layers && i < model->checkpoint.config.layers; i++) {
        sqf_layer_clear(&model->layers[i]);
    }
    sqf_linear_destroy(model->output);
    free(model->output_owned);
    free(model->layers);
    sqf_arena_destroy(model->arena);
}

static size_t read_bytes(const sqf_model *model)
{
    size_t bytes = sqf_linear_bytes(model->output);
    for (size_t i = 0; i < model->checkpoint.config.layers; i++) {
        for (size_t k = 0; k < SQF_LINEAR_COUNT; k++) {
            bytes += sqf_linear_bytes(model->layers[i].linear[k]);
        }
    }
    return bytes;
}

const sqf_backend sqf_host_backend = {
    .begin = begin_model,
    .embedding = take_embedding,
    .output = take_output,
    .layer = take_layer,
    .clear = clear_model,
    .read_bytes = read_bytes,
    .session_create = create,
    .session_destroy = destroy,
    .position_bytes = position_bytes,
    .forward = forward,
    .keep = keep,
    .logits = logits_of,
    .last_logits = last_logits,
    .draw = draw,
};

/* One sequence: KV cache, prefill in chunks, logits on demand.
 *
 * A forward call keeps the hidden states after the last layer, not logits: a prefill needs one row of logits, an
 * evaluation all of them, and a row of logits is as long as the vocabulary. The caller asks for the rows it wants.
 *
 * A call that fails leaves the session as it was: the length moves at the very end, hidden states go to a second
 * buffer that is swapped in on success, and cache rows beyond the length mean nothing. */
#include <string.h>

#include "kernels/ops.h"
#include "model/kv_cache.h"
#include "model/model.h"

/* CHUNK_TOKENS: tokens that go through all layers at once in a prefill. CHUNK_LOGITS: rows of logits computed at
 * once. Both bound the scratch memory of long prompts at no cost in speed. */
enum { CHUNK_TOKENS = 512, CHUNK_LOGITS = 64 };

/* One caller at a time; many sessions may share a model. */
struct sqf_session {
    const sqf_model *model;
    size_t positions, length;
    sqf_kv_cache *cache;
    sqf_workspace *workspace;
    sqf_input *input; /* of the output matrix */
    float *rows;      /* [row_count, hidden] after the last layer, of the last forward */
    float *next_rows; /* of the forward that is running: swapped when it succeeds */
    size_t row_count, row_capacity, next_capacity;
    float *normed;     /* [CHUNK_LOGITS, hidden] */
    sqf_lookup lookup; /* scratch of the embedding */
};

static sqf_status create_parts(sqf_session *session, sqf_kv_type kv, sqf_error *err)
{
    const sqf_config *config = &session->model->checkpoint.config;
    SQF_TRY(sqf_kv_cache_create(config, config->layers, kv, &session->cache, err));
    SQF_TRY(SQF_ALLOC(&session->normed, CHUNK_LOGITS * config->hidden, "session", err));
    SQF_TRY(sqf_input_create(&session->input, err));
    return sqf_workspace_create(config, &session->workspace, err);
}

sqf_status sqf_session_create(const sqf_model *model, size_t positions, sqf_session **out, sqf_error *err)
{
    return sqf_session_create_kv(model, positions, SQF_KV_F32, out, err);
}

sqf_status sqf_session_create_kv(const sqf_model *model, size_t positions, sqf_kv_type kv, sqf_session **out,
                                 sqf_error *err)
{
    const size_t most = model->checkpoint.config.positions;
    *out = NULL;
    if (positions < 1 || positions > most) {
        return sqf_fail(err, SQF_E_ARG, "session: positions: expected 1 to %zu (the model's), found %zu", most,
                        positions);
    }
    SQF_TRY(SQF_ALLOC(out, 1, "session", err));
    (*out)->model = model;
    (*out)->positions = positions;
    const sqf_status status = create_parts(*out, kv, err);
    if (status != SQF_OK) {
        sqf_session_destroy(*out);
        *out = NULL;
    }
    return status;
}

void sqf_session_destroy(sqf_session *session)
{
    if (!session) {
        return;
    }
    sqf_kv_cache_destroy(session->cache);
    sqf_workspace_destroy(session->workspace);
    sqf_input_destroy(session->input);
    sqf_lookup_clear(&session->lookup);
    free(session->rows);
    free(session->next_rows);
    free(session->normed);
    free(session);
}

void sqf_session_reset(sqf_session *session)
{
    session->length = 0;
    session->row_count = 0;
}

/* Cache rows beyond the length mean nothing, so moving the length is all. */
void sqf_session_truncate(sqf_session *session, size_t length)
{
    if (length < session->length) {
        session->length = length;
        session->row_count = 0;
    }
}

size_t sqf_session_length(const sqf_session *session)
{
    return session->length;
}

size_t sqf_session_positions(const sqf_session *session)
{
    return session->positions;
}

uint64_t sqf_session_kv_bytes(const sqf_session *session)
{
    return sqf_kv_cache_position_bytes(session->cache);
}

/* Room for the hidden states of `count` tokens, which are written before the former ones are given up. */
static sqf_status reserve_rows(sqf_session *session, size_t count, sqf_error *err)
{
    size_t elements;
    if (count <= session->next_capacity) {
        return SQF_OK;
    }
    if (!sqf_mul_size(&elements, count, session->model->checkpoint.config.hidden)) {
        return sqf_fail(err, SQF_E_MEMORY, "session: %zu tokens are too many", count);
    }
    free(session->next_rows);
    session->next_capacity = 0;
    SQF_TRY(SQF_ALLOC(&session->next_rows, elements, "hidden states", err));
    session->next_capacity = count;
    return SQF_OK;
}

/* Before anything is computed: ids index the embedding. */
static sqf_status check_ids(const sqf_session *session, const uint32_t *ids, size_t count, sqf_error *err)
{
    const size_t vocabulary = session->model->checkpoint.config.vocabulary;
    if (count > session->positions - session->length) {
        return sqf_fail(err, SQF_E_ARG, "session: %zu tokens do not fit: room for %zu of %zu positions is left", count,
                        session->positions - session->length, session->positions);
    }
    for (size_t i = 0; i < count; i++) {
        if (ids[i] >= vocabulary) {
            return sqf_fail(err, SQF_E_VALUE, "session: token %zu: expected an id from 0 to %zu, found %lu", i,
                            vocabulary - 1, (unsigned long)ids[i]);
        }
    }
    return SQF_OK;
}

/* Some tokens through all layers; x [count, hidden] receives what the last layer gives. */
static sqf_status forward_chunk(sqf_session *session, const uint32_t *ids, size_t count, size_t past, float *x,
                                sqf_error *err)
{
    const sqf_model *model = session->model;
    SQF_TRY(sqf_embedding_rows(model->context, &model->embedding, &session->lookup, ids, count, x, err));
    for (size_t i = 0; i < model->checkpoint.config.layers; i++) {
        SQF_TRY(sqf_layer_forward(model->context, &model->checkpoint.config, &model->layers[i], x, count, past,
                                  sqf_kv_cache_layer(session->cache, i), NULL, session->workspace, err));
    }
    return SQF_OK;
}

/* The new hidden states become current; the former ones' memory is for the next call. */
static void swap_rows(sqf_session *session, size_t count)
{
    float *rows = session->rows;
    const size_t capacity = session->row_capacity;
    session->rows = session->next_rows;
    session->row_capacity = session->next_capacity;
    session->row_count = count;
    session->next_rows = rows;
    session->next_capacity = capacity;
}

/* Prefill and decoding are the same call, with many tokens and with one. Chunks of a prefill go through all layers
 * one after the other; attention sees the keys of former chunks in the cache, so the cut changes nothing but the
 * rounding of sums. */
sqf_status sqf_session_forward(sqf_session *session, const uint32_t *ids, size_t count, sqf_error *err)
{
    const size_t hidden = session->model->checkpoint.config.hidden;
    SQF_TRY(check_ids(session, ids, count, err));
    SQF_TRY(sqf_kv_cache_reserve(session->cache, session->length, session->length + count, session->positions, err));
    SQF_TRY(reserve_rows(session, count, err));
    for (size_t begin = 0; begin < count; begin += CHUNK_TOKENS) {
        const size_t n = count - begin < CHUNK_TOKENS ? count - begin : CHUNK_TOKENS;
        SQF_TRY(
            forward_chunk(session, ids + begin, n, session->length + begin, session->next_rows + begin * hidden, err));
    }
    swap_rows(session, count);
    session->length += count;
    return SQF_OK;
}

/* Final norm and output matrix for some rows: the only place where logits come from. */
static sqf_status output_rows(sqf_session *session, size_t first, size_t count, float *logits, sqf_error *err)
{
    const sqf_model *model = session->model;
    const sqf_config *config = &model->checkpoint.config;
    sqf_rmsnorm(model->context, session->rows + first * config->hidden, model->norm, config->norm_epsilon, count,
                config->hidden, session->normed);
    SQF_TRY(sqf_input_prepare(model->context, session->input, model->output, session->normed, count, err));
    return sqf_linear_forward(model->context, model->output, session->input, logits, err);
}

/* In chunks, because a chunk's normed rows and quantized input are scratch. */
sqf_status sqf_session_logits(sqf_session *session, size_t first, size_t count, float *logits, sqf_error *err)
{
    const size_t vocabulary = session->model->checkpoint.config.vocabulary;
    if (first > session->row_count || count > session->row_count - first) {
        return sqf_fail(err, SQF_E_ARG, "logits: rows %zu and %zu more: the last call had %zu tokens", first, count,
                        session->row_count);
    }
    for (size_t begin = 0; begin < count; begin += CHUNK_LOGITS) {
        const size_t n = count - begin < CHUNK_LOGITS ? count - begin : CHUNK_LOGITS;
        const sqf_status status = output_rows(session, first + begin, n, logits + begin * vocabulary, err);
        if (status != SQF_OK) {
            return sqf_fail_within(err, status, "output matrix");
        }
    }
    return SQF_OK;
}

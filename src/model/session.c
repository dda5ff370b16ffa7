/* Sequences: KV caches, prefill in chunks, passes over several sessions at once, logits on demand.
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

/* Tokens of one session in a chunk: `count` from the call's token `begin` on. */
typedef struct slice {
    size_t session, begin, count;
} slice;

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
    /* Of passes over several sessions that this one is the first of. */
    sqf_layer_sequence *sequences; /* [slice_capacity] */
    slice *slices;                 /* the same */
    size_t slice_capacity;
    float *stream; /* [CHUNK_TOKENS, hidden] made with the first such pass */
    bool listed;   /* seen in the list of sessions that is being checked */
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
    free(session->sequences);
    free(session->slices);
    free(session->stream);
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

/* A call: some sessions with their new tokens. The first lends its scratch memory. */
typedef struct call {
    sqf_session *const *sessions;
    size_t count;
    const uint32_t *const *ids;
    const size_t *counts;
} call;

/* Where the hidden states of a slice end up. */
static float *slice_rows(const call *c, const slice *piece)
{
    const sqf_session *session = c->sessions[piece->session];
    return session->next_rows + piece->begin * session->model->checkpoint.config.hidden;
}

/* The next slices, CHUNK_TOKENS tokens at most, from token *begin of session *session on; both move on. A session's
 * tokens are cut as if it were alone, because attention may round by the number of tokens. */
static size_t cut_chunk(const call *c, size_t *session, size_t *begin, slice *slices)
{
    size_t count = 0, room = CHUNK_TOKENS;
    while (*session < c->count) {
        const size_t left = c->counts[*session] - *begin, n = left < CHUNK_TOKENS ? left : CHUNK_TOKENS;
        if (n > room) {
            break;
        }
        if (n > 0) {
            slices[count++] = (slice){*session, *begin, n};
        }
        room -= n;
        *begin = n < left ? *begin + n : 0;
        *session += n == left;
    }
    return count;
}

/* Slices through all layers. The states of a single one lie where they are to stay; those of several lie together
 * on their way. */
static sqf_status forward_chunk(const call *c, const slice *slices, size_t count, sqf_error *err)
{
    sqf_session *first = c->sessions[0];
    const sqf_model *model = first->model;
    const size_t hidden = model->checkpoint.config.hidden;
    float *x = count == 1 ? slice_rows(c, &slices[0]) : first->stream;
    for (size_t i = 0, at = 0; i < count; at += slices[i++].count) {
        const slice *piece = &slices[i];
        first->sequences[i].tokens = piece->count;
        first->sequences[i].past = c->sessions[piece->session]->length + piece->begin;
        SQF_TRY(sqf_embedding_rows(model->context, &model->embedding, &first->lookup,
                                   c->ids[piece->session] + piece->begin, piece->count, x + at * hidden, err));
    }
    for (size_t layer = 0; layer < model->checkpoint.config.layers; layer++) {
        for (size_t i = 0; i < count; i++) {
            first->sequences[i].kv = sqf_kv_cache_layer(c->sessions[slices[i].session]->cache, layer);
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
static sqf_status reserve_slices(sqf_session *first, size_t count, sqf_error *err)
{
    if (count > 1 && !first->stream) {
        SQF_TRY(SQF_ALLOC(&first->stream, CHUNK_TOKENS * first->model->checkpoint.config.hidden, "session", err));
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
static sqf_status forward(const call *c, sqf_error *err)
{
    sqf_session *first = c->sessions[0];
    for (size_t i = 0; i < c->count; i++) {
        sqf_session *session = c->sessions[i];
        SQF_TRY(check_ids(session, c->ids[i], c->counts[i], err));
        SQF_TRY(sqf_kv_cache_reserve(session->cache, session->length, session->length + c->counts[i],
                                     session->positions, err));
        SQF_TRY(reserve_rows(session, c->counts[i], err));
    }
    SQF_TRY(reserve_slices(first, c->count, err));
    for (size_t session = 0, begin = 0; session < c->count;) {
        const size_t count = cut_chunk(c, &session, &begin, first->slices);
        if (count > 0) {
            SQF_TRY(forward_chunk(c, first->slices, count, err));
        }
    }
    for (size_t i = 0; i < c->count; i++) {
        swap_rows(c->sessions[i], c->counts[i]);
        c->sessions[i]->length += c->counts[i];
    }
    return SQF_OK;
}

sqf_status sqf_session_forward(sqf_session *session, const uint32_t *ids, size_t count, sqf_error *err)
{
    return forward(&(call){&session, 1, &ids, &count}, err);
}

/* Sessions of one model, each once. */
static sqf_status check_sessions(sqf_session *const *sessions, size_t count, sqf_error *err)
{
    sqf_status status = count > 0 ? SQF_OK : sqf_fail(err, SQF_E_ARG, "sessions: expected at least one");
    size_t seen = 0;
    for (; status == SQF_OK && seen < count; seen++) {
        if (sessions[seen]->model != sessions[0]->model) {
            status = sqf_fail(err, SQF_E_ARG, "sessions: number %zu is of another model than the first", seen);
        } else if (sessions[seen]->listed) {
            status = sqf_fail(err, SQF_E_ARG, "sessions: number %zu is listed twice", seen);
        }
        sessions[seen]->listed = true;
    }
    for (size_t i = 0; i < seen; i++) {
        sessions[i]->listed = false;
    }
    return status;
}

sqf_status sqf_sessions_forward(sqf_session *const *sessions, size_t count, const uint32_t *const *ids,
                                const size_t *counts, sqf_error *err)
{
    SQF_TRY(check_sessions(sessions, count, err));
    for (size_t i = 0; i < count; i++) {
        if (counts[i] == 0) {
            return sqf_fail(err, SQF_E_ARG, "sessions: no tokens for number %zu, expected at least one", i);
        }
    }
    return forward(&(call){sessions, count, ids, counts}, err);
}

/* Final norm and output matrix for some rows x: the only place where logits come from. */
static sqf_status output_rows(sqf_session *session, const float *x, size_t count, float *logits, sqf_error *err)
{
    const sqf_model *model = session->model;
    const sqf_input_steps norm = {
        .gain = model->norm, .epsilon = model->checkpoint.config.norm_epsilon, .rows = session->normed};
    sqf_status status = sqf_input_prepare_steps(model->context, session->input, model->output, x, &norm, count, err);
    if (status == SQF_OK) {
        status = sqf_linear_forward(model->context, model->output, session->input, logits, err);
    }
    return status == SQF_OK ? SQF_OK : sqf_fail_within(err, status, "output matrix");
}

/* In chunks, because a chunk's normed rows and quantized input are scratch. */
sqf_status sqf_session_logits(sqf_session *session, size_t first, size_t count, float *logits, sqf_error *err)
{
    const size_t vocabulary = session->model->checkpoint.config.vocabulary;
    if (first > session->row_count || count > session->row_count - first) {
        return sqf_fail(err, SQF_E_ARG, "logits: rows %zu and %zu more: the last call had %zu tokens", first, count,
                        session->row_count);
    }
    const float *rows = session->rows + first * session->model->checkpoint.config.hidden;
    for (size_t begin = 0; begin < count; begin += CHUNK_LOGITS) {
        const size_t n = count - begin < CHUNK_LOGITS ? count - begin : CHUNK_LOGITS;
        SQF_TRY(output_rows(session, rows + begin * session->model->checkpoint.config.hidden, n,
                            logits + begin * vocabulary, err));
    }
    return SQF_OK;
}

sqf_status sqf_sessions_logits(sqf_session *const *sessions, size_t count, float *logits, sqf_error *err)
{
    SQF_TRY(check_sessions(sessions, count, err));
    const sqf_config *config = &sessions[0]->model->checkpoint.config;
    for (size_t i = 0; i < count; i++) {
        if (sessions[i]->row_count == 0) {
            return sqf_fail(err, SQF_E_ARG, "logits: the last call of number %zu had no tokens", i);
        }
    }
    float *rows = sessions[0]->normed; /* normed where they lie */
    for (size_t begin = 0; begin < count; begin += CHUNK_LOGITS) {
        const size_t n = count - begin < CHUNK_LOGITS ? count - begin : CHUNK_LOGITS;
        for (size_t i = 0; i < n; i++) {
            const sqf_session *session = sessions[begin + i];
            memcpy(rows + i * config->hidden, session->rows + (session->row_count - 1) * config->hidden,
                   config->hidden * sizeof *rows);
        }
        SQF_TRY(output_rows(sessions[0], rows, n, logits + begin * config->vocabulary, err));
    }
    return SQF_OK;
}

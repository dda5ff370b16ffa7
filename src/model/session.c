/* Sequences: appending tokens to one or several sessions, logits on demand. What computes is the model's backend; here
 * stand the rules that hold everywhere.
 *
 * A forward call keeps the hidden states after the last layer, not logits: a prefill needs one row of logits, an
 * evaluation all of them, and a row of logits is as long as the vocabulary. The caller asks for the rows it wants.
 *
 * A call that fails leaves the session as it was: the length moves at the very end, and cache rows beyond the length
 * mean nothing. */
#include "base/file.h"
#include "model/model.h"

static const sqf_backend *backend_of(const sqf_session *session)
{
    return session->model->backend;
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
    SQF_TRY(model->backend->session_create(model, positions, kv, out, err));
    **out = (sqf_session){.model = model, .positions = positions};
    return SQF_OK;
}

void sqf_session_destroy(sqf_session *session)
{
    if (session) {
        backend_of(session)->session_destroy(session);
    }
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
    return backend_of(session)->position_bytes(session);
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

size_t sqf_cut_chunk(const sqf_session_call *call, size_t most, size_t *session, size_t *begin, sqf_slice *slices)
{
    size_t count = 0, room = most;
    while (*session < call->count) {
        const size_t left = call->counts[*session] - *begin, n = left < most ? left : most;
        if (n > room) {
            break;
        }
        if (n > 0) {
            slices[count++] = (sqf_slice){*session, *begin, n};
        }
        room -= n;
        *begin = n < left ? *begin + n : 0;
        *session += n == left;
    }
    return count;
}

void sqf_session_keep(const sqf_session_call *call)
{
    call->sessions[0]->model->backend->keep(call);
    for (size_t i = 0; i < call->count; i++) {
        call->sessions[i]->length += call->counts[i];
        call->sessions[i]->row_count = call->counts[i];
    }
}

static sqf_status forward(const sqf_session_call *call, sqf_error *err)
{
    for (size_t i = 0; i < call->count; i++) {
        SQF_TRY(check_ids(call->sessions[i], call->ids[i], call->counts[i], err));
    }
    SQF_TRY(backend_of(call->sessions[0])->forward(call, err));
    sqf_session_keep(call);
    return SQF_OK;
}

sqf_status sqf_session_forward(sqf_session *session, const uint32_t *ids, size_t count, sqf_error *err)
{
    return forward(&(sqf_session_call){&session, 1, &ids, &count}, err);
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
    return forward(&(sqf_session_call){sessions, count, ids, counts}, err);
}

sqf_status sqf_session_logits(sqf_session *session, size_t first, size_t count, float *logits, sqf_error *err)
{
    if (first > session->row_count || count > session->row_count - first) {
        return sqf_fail(err, SQF_E_ARG, "logits: rows %zu and %zu more: the last call had %zu tokens", first, count,
                        session->row_count);
    }
    return backend_of(session)->logits(session, first, count, logits, err);
}

sqf_status sqf_sessions_logits(sqf_session *const *sessions, size_t count, float *logits, sqf_error *err)
{
    SQF_TRY(check_sessions(sessions, count, err));
    for (size_t i = 0; i < count; i++) {
        if (sessions[i]->row_count == 0) {
            return sqf_fail(err, SQF_E_ARG, "logits: the last call of number %zu had no tokens", i);
        }
    }
    return backend_of(sessions[0])->last_logits(sessions, count, logits, err);
}

sqf_status sqf_session_step(sqf_session *session, sqf_sampler *sampler, const uint32_t *ids, size_t count,
                            uint32_t *drawn, double *seconds, sqf_error *err)
{
    const sqf_backend *backend = backend_of(session);
    const sqf_session_call call = {&session, 1, &ids, &count};
    if (count == 1 && drawn && backend->step) {
        SQF_TRY(check_ids(session, ids, count, err));
        return backend->step(&call, sampler, drawn, seconds, err);
    }
    const double begin = sqf_clock_seconds();
    SQF_TRY(forward(&call, err));
    const double forward_seconds = sqf_clock_seconds() - begin;
    SQF_TRY(backend->draw(session, sampler, drawn, seconds, err));
    *seconds += forward_seconds;
    return SQF_OK;
}

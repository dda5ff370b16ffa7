/* Sessions on a device: prefill in chunks, decoding by recorded steps, logits and drawing there.
 *
 * The hidden states of a call lie one behind the other in one block of device memory (device_rows) that its sessions
 * share until each has had another call: so a failure leaves the former ones alone, and nothing is copied to and fro.
 *
 * A step of decoding - one token of each session - is the same list of kernels each time; only positions, ids and the
 * caches' places differ, and these lie in device memory. It is recorded the second time that it comes and replayed from
 * then on, which leaves the host one call a step. Grids are sized by the longest sequence that the record may meet
 * (reach), which doubles. */
#include <string.h>

#include "base/file.h"
#include "model/device_model.h"

/* A cache is allocated whole, as it was planned, but for sessions as long as nobody knows to need: WHOLE_POSITIONS. */
enum { FIRST_REACH = 256, WHOLE_POSITIONS = 1 << 15, FIRST_POSITIONS = 2048 };

typedef struct device_session {
    sqf_session base; /* the first member: a pointer to one is a pointer to the other */
    sqf_device_cache cache;
    device_rows *rows; /* of the last call; its first token here is number row_begin */
    size_t row_begin;
    device_rows *next_rows; /* of the call that is running; in its first session */
} device_session;

static device_session *device_of(sqf_session *session)
{
    return (device_session *)(void *)session;
}

static const sqf_config *config_of(const sqf_session *session)
{
    return &session->model->checkpoint.config;
}

sqf_status sqf_device_session_create(const sqf_model *model, size_t positions, sqf_kv_type kv, sqf_session **out,
                                     sqf_error *err)
{
    const sqf_config *config = &model->checkpoint.config;
    device_session *session;
    SQF_TRY(SQF_ALLOC(&session, 1, "session", err));
    const size_t first = positions <= WHOLE_POSITIONS ? positions : FIRST_POSITIONS;
    const sqf_status status =
        sqf_device_cache_create(model->context, config, config->layers, first, kv, &session->cache, err);
    if (status != SQF_OK) {
        free(session);
        return status;
    }
    *out = &session->base;
    return SQF_OK;
}

void sqf_device_session_destroy(sqf_session *base)
{
    device_session *session = device_of(base);
    sqf_device_rows_drop(base->model->device, session->rows);
    sqf_device_cache_clear(base->model->context, &session->cache);
    free(session);
}

uint64_t sqf_device_session_position_bytes(const sqf_session *session)
{
    const device_session *self = (const device_session *)(const void *)session;
    return self->cache.layer_bytes / self->cache.capacity * self->cache.layers;
}

/* ---- buffers ---- */

static sqf_status grow(sqf_device_model *model, float **buffer, size_t *rows, size_t count, size_t width,
                       const char *what, sqf_error *err)
{
    if (count <= *rows) {
        return SQF_OK;
    }
    sqf_device_release(model->device, *buffer);
    *buffer = NULL;
    *rows = 0;
    model->version++;
    SQF_TRY(sqf_device_alloc(model->device, (void **)buffer, count, width * sizeof(float), what, err));
    *rows = count;
    return SQF_OK;
}

/* The rows of a quantized embedding, by the host. */
static sqf_status look_up(const sqf_model *model, const sqf_device_sequence *sequences, size_t count, float *x,
                          sqf_error *err)
{
    sqf_device_model *device = model->device;
    const size_t hidden = model->checkpoint.config.hidden;
    size_t at = 0;
    if (!device->looked_up) {
        SQF_TRY(SQF_ALLOC(&device->looked_up, DEVICE_CHUNK * hidden, "embedding", err));
    }
    for (size_t i = 0; i < count; at += sequences[i++].tokens) {
        SQF_TRY(sqf_embedding_rows(model->context, &model->embedding, &device->lookup, sequences[i].ids,
                                   sequences[i].tokens, device->looked_up + at * hidden, err));
    }
    return device->device->ops->upload(device->device->cuda, x, device->looked_up, at * hidden * sizeof *x, err);
}

/* ---- prefill ---- */

static sqf_status run_layers(const sqf_model *model, float *x, sqf_error *err)
{
    for (size_t layer = 0; layer < model->checkpoint.config.layers; layer++) {
        SQF_TRY(sqf_device_layer_forward(model->device->work, &model->device->layers[layer], layer, x, NULL, err));
    }
    return SQF_OK;
}

/* Slices through all layers; their tokens lie one behind the other at x, as in the call. */
static sqf_status forward_chunk(const sqf_session_call *c, const sqf_slice *slices, sqf_device_sequence *sequences,
                                size_t count, float *x, sqf_error *err)
{
    const sqf_model *model = c->sessions[0]->model;
    sqf_device_model *device = model->device;
    for (size_t i = 0; i < count; i++) {
        device_session *session = device_of(c->sessions[slices[i].session]);
        sequences[i] = (sqf_device_sequence){.tokens = slices[i].count,
                                             .past = session->base.length + slices[i].begin,
                                             .cache = &session->cache,
                                             .ids = c->ids[slices[i].session] + slices[i].begin};
    }
    SQF_TRY(sqf_device_work_set(device->work, sequences, count, 0, err));
    if (device->table) {
        SQF_TRY(sqf_device_work_embed(device->work, device->table, device->table_type, x, err));
    } else {
        SQF_TRY(look_up(model, sequences, count, x, err));
    }
    return run_layers(model, x, err);
}

/* Chunks one after the other: attention sees the keys of former ones in the caches. */
static sqf_status forward_chunks(const sqf_session_call *c, sqf_slice *slices, sqf_device_sequence *sequences, float *x,
                                 sqf_error *err)
{
    for (size_t session = 0, begin = 0; session < c->count;) {
        const size_t count = sqf_cut_chunk(c, DEVICE_CHUNK, &session, &begin, slices);
        if (count > 0) {
            SQF_TRY(forward_chunk(c, slices, sequences, count, x, err));
        }
        for (size_t i = 0; i < count; i++) {
            x += slices[i].count * config_of(c->sessions[0])->hidden;
        }
    }
    return SQF_OK;
}

/* ---- logits ---- */

/* Final norm and output matrix for some rows x, to device->logits: the only place where logits come from. */
static sqf_status output_rows(const sqf_model *model, const float *x, size_t count, bool recorded, sqf_error *err)
{
    sqf_device_model *device = model->device;
    const sqf_config *config = &model->checkpoint.config;
    const sqf_cuda_steps norm = {.gain = device->norm, .epsilon = config->norm_epsilon};
    sqf_device_source source;
    SQF_TRY(grow(device, &device->logits, &device->logits_rows, count, config->vocabulary, "logits", err));
    sqf_device_source_init(device->work, x, &norm, count, recorded, &source);
    const sqf_status status = sqf_device_product(&source, &device->output, device->logits, SQF_CUDA_SET, err);
    return status == SQF_OK ? SQF_OK : sqf_fail_within(err, status, "output matrix");
}

/* In chunks, because the logits of a chunk lie on the device. */
static sqf_status logits_of_rows(const sqf_model *model, const float *x, size_t count, float *logits, sqf_error *err)
{
    sqf_device_model *device = model->device;
    const sqf_config *config = &model->checkpoint.config;
    for (size_t begin = 0; begin < count; begin += DEVICE_LOGITS) {
        const size_t n = count - begin < DEVICE_LOGITS ? count - begin : DEVICE_LOGITS;
        SQF_TRY(output_rows(model, x + begin * config->hidden, n, false, err));
        SQF_TRY(device->device->ops->download(device->device->cuda, logits + begin * config->vocabulary, device->logits,
                                              n * config->vocabulary * sizeof *logits, err));
        SQF_TRY(device->device->ops->finish(device->device->cuda, err));
    }
    return SQF_OK;
}

static const float *row_of(const device_session *session, size_t row)
{
    return session->rows->data + (session->row_begin + row) * config_of(&session->base)->hidden;
}

sqf_status sqf_device_session_logits(sqf_session *session, size_t first, size_t count, float *logits, sqf_error *err)
{
    return count == 0 ? SQF_OK : logits_of_rows(session->model, row_of(device_of(session), first), count, logits, err);
}

/* Sessions that were decoded together have their rows side by side; others are gathered. */
sqf_status sqf_device_session_last_logits(sqf_session *const *sessions, size_t count, float *logits, sqf_error *err)
{
    const sqf_model *model = sessions[0]->model;
    sqf_device_model *device = model->device;
    const size_t hidden = model->checkpoint.config.hidden;
    const float *rows = row_of(device_of(sessions[0]), sessions[0]->row_count - 1);
    bool together = true;
    for (size_t i = 0; i < count; i++) {
        together = together && row_of(device_of(sessions[i]), sessions[i]->row_count - 1) == rows + i * hidden;
    }
    if (together) {
        return logits_of_rows(model, rows, count, logits, err);
    }
    SQF_TRY(grow(device, &device->stream, &device->stream_rows, count, hidden, "hidden states", err));
    for (size_t i = 0; i < count; i++) {
        SQF_TRY(device->device->ops->copy(device->device->cuda, device->stream + i * hidden,
                                          row_of(device_of(sessions[i]), sessions[i]->row_count - 1),
                                          hidden * sizeof *rows, err));
    }
    return logits_of_rows(model, device->stream, count, logits, err);
}

/* ---- drawing ---- */

/* The random number of a draw and the tokens that were seen go to the device. */
static sqf_status begin_draw(const sqf_model *model, sqf_sampler *sampler, sqf_error *err)
{
    sqf_device_model *device = model->device;
    const sqf_cuda_ops *ops = device->device->ops;
    const sqf_sampling *sampling = sqf_sampler_sampling(sampler);
    const size_t vocabulary = model->checkpoint.config.vocabulary;
    if (sampling->temperature != 0) {
        const double unit = sqf_sampler_unit(sampler);
        SQF_TRY(ops->upload(device->device->cuda, device->uniform, &unit, sizeof unit, err));
    }
    if (sampling->repetition_penalty == 0 || sampling->repetition_penalty == 1) {
        return SQF_OK;
    }
    if (!device->seen) {
        SQF_TRY(SQF_DEVICE_ALLOC(device->device, &device->seen, vocabulary, "sampling", err));
    }
    return ops->upload(device->device->cuda, device->seen, sqf_sampler_seen(sampler), vocabulary, err);
}

/* Logits after the row x, and a token drawn from them. */
static sqf_status queue_draw(const sqf_model *model, const float *x, const sqf_sampling *sampling, bool recorded,
                             sqf_error *err)
{
    sqf_device_model *device = model->device;
    SQF_TRY(output_rows(model, x, 1, recorded, err));
    const bool penalty = sampling->repetition_penalty != 0 && sampling->repetition_penalty != 1;
    const sqf_cuda_sample job = {.logits = device->logits,
                                 .vocabulary = model->checkpoint.config.vocabulary,
                                 .sequences = 1,
                                 .sampling = *sampling,
                                 .uniform = device->uniform,
                                 .seen = penalty ? device->seen : NULL,
                                 .ids = device->drawn};
    return device->device->ops->sample(device->device->cuda, &job, err);
}

static sqf_status end_draw(const sqf_model *model, uint32_t *drawn, sqf_error *err)
{
    const sqf_device *device = model->device->device;
    uint32_t id;
    SQF_TRY(device->ops->download(device->cuda, &id, model->device->drawn, sizeof id, err));
    if (id >= model->checkpoint.config.vocabulary) {
        return sqf_fail(err, SQF_E_VALUE, "sampling: expected finite logits, found a NaN or infinity");
    }
    *drawn = id;
    return SQF_OK;
}

sqf_status sqf_device_session_draw(sqf_session *session, sqf_sampler *sampler, uint32_t *drawn, double *seconds,
                                   sqf_error *err)
{
    const sqf_model *model = session->model;
    const sqf_device *device = model->device->device;
    const float *x = row_of(device_of(session), session->row_count - 1);
    const double begin = sqf_clock_seconds();
    if (drawn) {
        SQF_TRY(begin_draw(model, sampler, err));
        SQF_TRY(queue_draw(model, x, sqf_sampler_sampling(sampler), false, err));
    } else {
        SQF_TRY(output_rows(model, x, 1, false, err));
    }
    SQF_TRY(device->ops->finish(device->cuda, err));
    if (drawn) {
        SQF_TRY(end_draw(model, drawn, err));
    }
    *seconds = sqf_clock_seconds() - begin;
    return SQF_OK;
}

/* ---- recorded steps ---- */

/* One token of each session, whose caches are alike: what a record serves. */
static bool is_step(const sqf_session_call *c)
{
    const sqf_device_cache *first = &device_of(c->sessions[0])->cache;
    bool alike = c->count <= DEVICE_CHUNK && c->sessions[0]->model->device->device->graphs;
    for (size_t i = 0; alike && i < c->count; i++) {
        const sqf_device_cache *cache = &device_of(c->sessions[i])->cache;
        alike = c->counts[i] == 1 && cache->type == first->type && cache->capacity == first->capacity;
    }
    return alike;
}

static bool same_sampling(const sqf_sampling *a, const sqf_sampling *b)
{
    return a->temperature == b->temperature && a->top_k == b->top_k && a->top_p == b->top_p && a->min_p == b->min_p &&
           a->repetition_penalty == b->repetition_penalty;
}

static bool same_key(const device_record *a, const device_record *b)
{
    return a->used && a->count == b->count && a->capacity == b->capacity && a->reach == b->reach &&
           a->type == b->type && a->version == b->version && a->draws == b->draws &&
           (!a->draws || same_sampling(&a->sampling, &b->sampling));
}

static device_record key_of(const sqf_session_call *c, const sqf_sampling *sampling)
{
    const sqf_device_cache *cache = &device_of(c->sessions[0])->cache;
    device_record key = {.count = c->count, .capacity = cache->capacity, .reach = FIRST_REACH, .type = cache->type};
    for (size_t i = 0; i < c->count; i++) {
        while (key.reach <= c->sessions[i]->length) {
            key.reach *= 2;
        }
    }
    key.reach = key.reach < cache->capacity ? key.reach : cache->capacity;
    if (sampling) {
        key.draws = true;
        key.sampling = *sampling;
    }
    return key;
}

/* The record of a key, or one that is made free for it. A key that asks for larger inputs than any before moves them:
 * the others are of no use then. */
static device_record *find_record(sqf_device_model *device, device_record *key)
{
    bool larger = true;
    for (size_t i = 0; i < DEVICE_RECORDS; i++) {
        const device_record *record = &device->records[i];
        larger = larger && !(record->used && record->count >= key->count && (record->draws || !key->draws));
    }
    for (int again = 0; again < 2; again++) {
        key->version = sqf_device_work_version(device->work) + device->version;
        for (size_t i = 0; i < DEVICE_RECORDS; i++) {
            if (same_key(&device->records[i], key)) {
                return &device->records[i];
            }
        }
        device->version += larger && again == 0;
    }
    device_record *record = &device->records[device->next_record];
    device->next_record = (device->next_record + 1) % DEVICE_RECORDS;
    if (record->graph) {
        device->device->ops->graph_destroy(device->device->cuda, record->graph);
    }
    *record = *key;
    return record;
}

/* What a record holds: embedding, layers, and with drawing the logits and the token. */
static sqf_status queue_step(const sqf_model *model, const device_record *record, sqf_error *err)
{
    sqf_device_model *device = model->device;
    if (device->table) {
        SQF_TRY(sqf_device_work_embed(device->work, device->table, device->table_type, device->stream, err));
    }
    SQF_TRY(run_layers(model, device->stream, err));
    return record->draws ? queue_draw(model, device->stream, &record->sampling, true, err) : SQF_OK;
}

/* The recording ends whatever happened in it. */
static sqf_status record_step(const sqf_model *model, device_record *record, sqf_error *err)
{
    const sqf_device *device = model->device->device;
    sqf_error later;
    SQF_TRY(device->ops->graph_begin(device->cuda, err));
    const sqf_status status = queue_step(model, record, err);
    const sqf_status ended = device->ops->graph_end(device->cuda, &record->graph, status == SQF_OK ? err : &later);
    return status == SQF_OK ? ended : status;
}

/* Queued for the first time, recorded the second, replayed then. */
static sqf_status run_record(const sqf_model *model, device_record *record, sqf_error *err)
{
    sqf_device_model *device = model->device;
    sqf_product_counts *products = &model->context->products;
    if (!record->used) {
        SQF_TRY(queue_step(model, record, err));
        record->used = true;
        return SQF_OK;
    }
    if (record->graph) {
        sqf_product_counts_add(products, &device->layer_products, record->count);
        if (record->draws) {
            sqf_product_counts_add(products, &device->output.per_token, 1);
        }
    } else {
        SQF_TRY(record_step(model, record, err));
    }
    return device->device->ops->graph_run(device->device->cuda, record->graph, err);
}

/* The step of a call to x. sequences: room for one of each session. */
static sqf_status forward_step(const sqf_session_call *c, sqf_device_sequence *sequences, const sqf_sampling *sampling,
                               float *x, sqf_error *err)
{
    const sqf_model *model = c->sessions[0]->model;
    sqf_device_model *device = model->device;
    const size_t hidden = model->checkpoint.config.hidden, vocabulary = model->checkpoint.config.vocabulary;
    device_record key = key_of(c, sampling);
    for (size_t i = 0; i < c->count; i++) {
        device_session *session = device_of(c->sessions[i]);
        sequences[i] = (sqf_device_sequence){
            .tokens = 1, .past = session->base.length, .cache = &session->cache, .ids = c->ids[i]};
    }
    SQF_TRY(grow(device, &device->stream, &device->stream_rows, c->count, hidden, "hidden states", err));
    SQF_TRY(grow(device, &device->logits, &device->logits_rows, 1, vocabulary, "logits", err));
    SQF_TRY(sqf_device_work_set(device->work, sequences, c->count, key.reach, err));
    if (!device->table) {
        SQF_TRY(look_up(model, sequences, c->count, device->stream, err));
    }
    SQF_TRY(run_record(model, find_record(device, &key), err));
    return device->device->ops->copy(device->device->cuda, x, device->stream, c->count * hidden * sizeof *x, err);
}

/* ---- calls ---- */

/* All tokens of a call to a block of rows. */
static sqf_status forward_to(const sqf_session_call *c, const sqf_sampling *sampling, float *x, sqf_error *err)
{
    sqf_slice *slices = NULL;
    sqf_device_sequence *sequences = NULL;
    sqf_status status = SQF_ALLOC(&slices, c->count, "sequences", err);
    if (status == SQF_OK) {
        status = SQF_ALLOC(&sequences, c->count, "sequences", err);
    }
    if (status == SQF_OK) {
        status =
            is_step(c) ? forward_step(c, sequences, sampling, x, err) : forward_chunks(c, slices, sequences, x, err);
    }
    free(slices);
    free(sequences);
    const sqf_device *device = c->sessions[0]->model->device->device;
    return status == SQF_OK ? device->ops->finish(device->cuda, err) : status;
}

static sqf_status forward(const sqf_session_call *c, const sqf_sampling *sampling, sqf_error *err)
{
    sqf_device_model *device = c->sessions[0]->model->device;
    device_rows *rows;
    size_t tokens = 0;
    for (size_t i = 0; i < c->count; i++) {
        device_session *session = device_of(c->sessions[i]);
        const size_t length = session->base.length;
        SQF_TRY(sqf_device_cache_reserve(session->base.model->context, config_of(&session->base), &session->cache,
                                         length, length + c->counts[i], session->base.positions, err));
        tokens += c->counts[i];
    }
    SQF_TRY(sqf_device_rows_take(device, config_of(c->sessions[0])->hidden, tokens, &rows, err));
    const sqf_status status = forward_to(c, sampling, rows->data, err);
    if (status != SQF_OK) {
        sqf_device_rows_drop(device, rows);
        return status;
    }
    device_of(c->sessions[0])->next_rows = rows;
    return SQF_OK;
}

sqf_status sqf_device_session_forward(const sqf_session_call *call, sqf_error *err)
{
    return forward(call, NULL, err);
}

void sqf_device_session_keep(const sqf_session_call *call)
{
    device_session *first = device_of(call->sessions[0]);
    device_rows *rows = first->next_rows;
    size_t begin = 0;
    first->next_rows = NULL;
    rows->references = (unsigned)call->count;
    for (size_t i = 0; i < call->count; i++) {
        device_session *session = device_of(call->sessions[i]);
        sqf_device_rows_drop(session->base.model->device, session->rows);
        session->rows = rows;
        session->row_begin = begin;
        begin += call->counts[i];
    }
}

sqf_status sqf_device_session_step(const sqf_session_call *call, sqf_sampler *sampler, uint32_t *drawn, double *seconds,
                                   sqf_error *err)
{
    sqf_session *session = call->sessions[0];
    double more = 0;
    const double begin = sqf_clock_seconds();
    if (!is_step(call)) {
        SQF_TRY(forward(call, NULL, err));
        sqf_session_keep(call);
        SQF_TRY(sqf_device_session_draw(session, sampler, drawn, &more, err));
    } else {
        SQF_TRY(begin_draw(session->model, sampler, err));
        SQF_TRY(forward(call, sqf_sampler_sampling(sampler), err));
        sqf_session_keep(call);
        SQF_TRY(end_draw(session->model, drawn, err));
    }
    *seconds = sqf_clock_seconds() - begin;
    return SQF_OK;
}

/* Text from a model: prefill, draw, stream, feed back. Joins session, sampler and text stream; holds no state of its
 * own between calls.
 *
 * The last drawn token is not fed back: nobody would look at its logits, and a caller who continues the session gives
 * it with the next prompt. */
#include <sqf/generate.h>

#include "model/backend.h"

/* What a generation holds while it runs. */
typedef struct generator {
    sqf_session *session;
    const sqf_tokenizer *tokenizer;
    const sqf_generate_options *options;
    sqf_sampler *sampler;
    sqf_text_stream *stream; /* NULL without a tokenizer */
    uint32_t next;           /* drawn and not yet handed out */
    sqf_generation *out;
} generator;

const char *sqf_stop_name(sqf_stop stop)
{
    static const char *const names[] = {"length", "end", "positions", "caller"};
    return (size_t)stop < sizeof names / sizeof *names ? names[stop] : "unknown";
}

static sqf_status append_id(sqf_ids *ids, uint32_t id, sqf_error *err)
{
    if (ids->count == ids->capacity) {
        const size_t capacity = ids->capacity == 0 ? 64 : ids->capacity * 2;
        uint32_t *data = realloc(ids->data, capacity * sizeof *data);
        if (!data) {
            return sqf_fail(err, SQF_E_MEMORY, "generated ids: out of memory");
        }
        ids->data = data;
        ids->capacity = capacity;
    }
    ids->data[ids->count++] = id;
    return SQF_OK;
}

static bool is_stop(const sqf_generate_options *options, uint32_t id)
{
    for (size_t i = 0; i < options->stop_count; i++) {
        if (options->stop_ids[i] == id) {
            return true;
        }
    }
    return false;
}

/* Feeds tokens, times them, and draws the one that follows, unless none is wanted. */
static sqf_status feed(generator *g, const uint32_t *ids, size_t count, size_t *tokens, double *seconds, sqf_error *err)
{
    const bool draws = g->options->max_tokens > 0;
    double taken;
    SQF_TRY(sqf_session_step(g->session, g->sampler, ids, count, draws ? &g->next : NULL, &taken, err));
    *tokens += count;
    *seconds += taken;
    return SQF_OK;
}

/* The text that an id makes certain. Ids beyond the tokenizer's (a padded vocabulary) have none, nor has the end. */
static sqf_status text_of(generator *g, uint32_t id, bool end, const char **text, sqf_error *err)
{
    *text = "";
    if (!g->stream || end || id >= sqf_tokenizer_vocabulary_size(g->tokenizer)) {
        return SQF_OK;
    }
    return sqf_text_stream_push(g->stream, id, text, err);
}

/* Hands out the token that was drawn. *stopped: nothing more is to be drawn. */
static sqf_status hand_out(generator *g, bool *stopped, sqf_error *err)
{
    const sqf_generate_options *options = g->options;
    const uint32_t id = g->next;
    const char *text;
    SQF_TRY(append_id(&g->out->ids, id, err));
    sqf_sampler_accept(g->sampler, id);
    const bool end = is_stop(options, id);
    SQF_TRY(text_of(g, id, end, &text, err));
    *stopped = true;
    if (options->token && !options->token(options->token_user, id, text)) {
        g->out->stop = SQF_STOP_CALLER;
    } else if (end) {
        g->out->stop = SQF_STOP_END;
    } else if (g->out->ids.count == options->max_tokens) {
        g->out->stop = SQF_STOP_LENGTH;
    } else if (sqf_session_length(g->session) == sqf_session_positions(g->session)) {
        g->out->stop = SQF_STOP_POSITIONS;
    } else {
        *stopped = false;
    }
    return SQF_OK;
}

/* Hand out what was drawn, then feed it unless it was the last: n drawn tokens cost n - 1 steps. */
static sqf_status decode(generator *g, sqf_error *err)
{
    bool stopped = g->options->max_tokens == 0;
    while (!stopped) {
        SQF_TRY(hand_out(g, &stopped, err));
        if (!stopped) {
            const uint32_t id = g->next;
            SQF_TRY(feed(g, &id, 1, &g->out->decode_tokens, &g->out->decode_seconds, err));
        }
    }
    return SQF_OK;
}

/* What the text stream held back. */
static sqf_status finish_text(generator *g, sqf_error *err)
{
    const char *text;
    if (!g->stream) {
        return SQF_OK;
    }
    SQF_TRY(sqf_text_stream_finish(g->stream, &text, err));
    if (g->options->token && *text) {
        (void)g->options->token(g->options->token_user, UINT32_MAX, text); /* nothing is left to stop */
    }
    return SQF_OK;
}

/* The prompt counts as seen for the repetition penalty, as in Hugging Face's processor. */
static sqf_status generate(generator *g, const sqf_model *model, const uint32_t *prompt, size_t count, sqf_error *err)
{
    const size_t vocabulary = sqf_model_info_get(model).vocabulary;
    SQF_TRY(sqf_sampler_create(&g->options->sampling, vocabulary, &g->sampler, err));
    if (g->tokenizer) {
        SQF_TRY(sqf_text_stream_create(g->tokenizer, prompt, count, &g->stream, err));
    }
    for (size_t i = 0; i < count; i++) {
        sqf_sampler_accept(g->sampler, prompt[i]);
    }
    SQF_TRY(feed(g, prompt, count, &g->out->prefill_tokens, &g->out->prefill_seconds, err));
    SQF_TRY(decode(g, err));
    return finish_text(g, err);
}

sqf_status sqf_generate(const sqf_model *model, sqf_session *session, const sqf_tokenizer *tokenizer,
                        const uint32_t *prompt, size_t count, const sqf_generate_options *options, sqf_generation *out,
                        sqf_error *err)
{
    generator g = {.session = session, .tokenizer = tokenizer, .options = options, .out = out};
    *out = (sqf_generation){0};
    if (count == 0) {
        return sqf_fail(err, SQF_E_ARG, "generate: the prompt: expected at least one token, found none");
    }
    const sqf_status status = generate(&g, model, prompt, count, err);
    sqf_sampler_destroy(g.sampler);
    sqf_text_stream_destroy(g.stream);
    return status;
}

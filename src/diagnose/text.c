/* The evaluation text through both models: statistics of every input, scores of every token, the worst of them. */
#include <math.h>
#include <string.h>

#include "diagnose/work.h"

/* Tokens of context that are shown before a damaged one. */
enum { CONTEXT_TOKENS = 10, STANDARD_WINDOW = 512 };

/* ---- the text ---- */

static sqf_status read_text(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_diagnose_options *o = work->options;
    const sqf_config *config = &work->original->checkpoint.config;
    sqf_buffer text;
    SQF_TRY(sqf_tokenizer_load(work->original->checkpoint.directory, &work->tokenizer, err));
    SQF_TRY(sqf_file_read(o->text, (size_t)1 << 32, &text, err));
    const sqf_status status =
        sqf_tokenizer_encode(work->tokenizer, text.data ? text.data : "", text.size, false, &work->ids, err);
    free(text.data);
    SQF_TRY(status);
    size_t window = o->window > 0 ? o->window : STANDARD_WINDOW;
    window = o->window == 0 && window > config->positions ? config->positions : window;
    if (window < 2 || window > config->positions) {
        return sqf_fail(err, SQF_E_ARG, "window: expected 2 to %zu tokens, found %zu", config->positions, window);
    }
    const size_t count = o->max_tokens > 0 && o->max_tokens < work->ids.count ? o->max_tokens : work->ids.count;
    for (size_t i = 0; i < count; i++) {
        if (work->ids.data[i] >= config->vocabulary) {
            return sqf_fail(err, SQF_E_VALUE, "%s: token %zu has id %u, expected less than the vocabulary, %zu",
                            o->text, i, work->ids.data[i], config->vocabulary);
        }
    }
    if (count < window) {
        return sqf_fail(err, SQF_E_ARG, "%s: %zu tokens, expected at least one window of %zu", o->text, count, window);
    }
    work->engine.ids = work->ids.data;
    work->engine.length = window;
    work->engine.windows = count / window;
    return SQF_OK;
}

/* ---- statistics ---- */

/* Which layer of which model the tap is looking at. */
typedef struct tapped {
    sqf_diagnose_work *work;
    size_t layer;
    bool quantized;
    float *ordered; /* [tokens, intermediate] scratch: down's input in the order of its channels */
} tapped;

static sqf_status see_input(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                            sqf_error *err)
{
    const tapped *t = user;
    sqf_diagnose_place *place = &t->work->places[t->layer * SQF_INPUT_COUNT + kind];
    sqf_statistics *statistics = t->quantized ? &place->quantized : &place->original;
    const int32_t *order = t->quantized ? t->work->quantized->layers[t->layer].down_order : NULL;
    if (kind == SQF_INPUT_DOWN && order) {
        for (size_t i = 0; i < tokens * channels; i++) {
            t->ordered[i / channels * channels + (size_t)order[i % channels]] = x[i];
        }
        x = t->ordered;
    }
    if (!statistics->max_abs) {
        SQF_TRY(sqf_statistics_create(channels, false, statistics, err));
    }
    return sqf_statistics_add(t->work->context, statistics, x, tokens, err);
}

/* Every window through all layers of one model with the tap; `last` (NULL or [windows, length, hidden]) keeps what
 * comes out. */
static sqf_status tap_model(sqf_diagnose_work *work, bool quantized, float *last, sqf_error *err)
{
    sqf_engine *e = &work->engine;
    const sqf_model *model = quantized ? work->quantized : work->original;
    const sqf_config *config = &model->checkpoint.config;
    const size_t floats = e->length * config->hidden;
    tapped t = {.work = work, .quantized = quantized};
    const sqf_layer_tap tap = {.input = see_input, .user = &t};
    sqf_status status = SQF_ALLOC(&t.ordered, e->length * config->intermediate, "an input", err);
    for (size_t w = 0; w < e->windows && status == SQF_OK; w++) {
        float *x = last ? last + w * floats : e->stream;
        sqf_engine_embed(e, model, w, x);
        for (t.layer = 0; t.layer < config->layers && status == SQF_OK; t.layer++) {
            status = sqf_engine_layer(e, quantized, &model->layers[t.layer], x, &tap, err);
        }
        if (status == SQF_OK) {
            status = sqf_engine_advance(e, err);
        }
    }
    free(t.ordered);
    return status;
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The largest channel's root mean square over the median one's. */
static sqf_status outlier_ratio(const sqf_statistics *s, double *out, sqf_error *err)
{
    float *rms;
    SQF_TRY(SQF_ALLOC(&rms, s->channels, "channels", err));
    for (size_t j = 0; j < s->channels; j++) {
        rms[j] = (float)sqrt(s->sum_square[j] / (double)s->tokens);
    }
    qsort(rms, s->channels, sizeof *rms, compare_floats);
    const double median = (double)rms[s->channels / 2], largest = (double)rms[s->channels - 1];
    *out = median > 0.0 ? largest / median : largest > 0.0 ? INFINITY : 1.0;
    free(rms);
    return SQF_OK;
}

/* The drift of the whole is that of the inputs of q, k and v: only there does calibration see what a text sees, through
 * the very same quantized layers. Inside a layer it saw the inputs that original modules make. */
static sqf_status compare_statistics(sqf_diagnose_work *work, sqf_error *err)
{
    double sum = 0.0;
    size_t count = 0;
    for (size_t i = 0; i < work->out->input_count; i++) {
        const sqf_diagnose_place *place = &work->places[i];
        sqf_diagnose_input *input = &work->out->inputs[i];
        SQF_TRY(outlier_ratio(&place->original, &input->outlier, err));
        if (place->calibrated && place->calibration.channels == place->quantized.channels) {
            sqf_profile seen;
            sqf_profile_make(&place->quantized, &seen);
            input->drift = sqf_profile_distance(&place->calibration, &seen);
            if (i % SQF_INPUT_COUNT == SQF_INPUT_QKV) {
                sum += input->drift;
                count++;
            }
        }
    }
    work->out->calibration_drift = count > 0 ? sum / (double)count : (double)NAN;
    return SQF_OK;
}

/* ---- tokens ---- */

/* The text before a token, one line, ending with the token in brackets. Cut at the front where it is too long. */
static sqf_status write_context(const sqf_diagnose_work *work, size_t position, char *out, size_t room, sqf_error *err)
{
    const size_t window = position / work->engine.length * work->engine.length;
    const size_t first = position - window > CONTEXT_TOKENS ? position - CONTEXT_TOKENS : window;
    char *before = NULL, *token = NULL;
    size_t n[2];
    sqf_status status =
        sqf_tokenizer_decode(work->tokenizer, work->ids.data + first, position - first, false, &before, &n[0], err);
    if (status == SQF_OK) {
        status = sqf_tokenizer_decode(work->tokenizer, work->ids.data + position, 1, false, &token, &n[1], err);
    }
    if (status == SQF_OK) {
        const size_t most = room - 4 - (n[1] < room / 2 ? n[1] : room / 2);
        size_t skip = n[0] > most ? n[0] - most : 0;
        while (((unsigned char)before[skip] & 0xc0) == 0x80) {
            skip++; /* not in the middle of a character */
        }
        size_t length = n[1] < room / 2 ? n[1] : room / 2;
        while (length < n[1] && ((unsigned char)token[length] & 0xc0) == 0x80) {
            length--;
        }
        snprintf(out, room, "%s[%.*s]", before + skip, (int)length, token);
        for (char *c = out; *c; c++) {
            *c = (unsigned char)*c < ' ' ? ' ' : *c;
        }
    }
    free(before);
    free(token);
    return status;
}

/* The tokens of largest KL, by repeated search: there are few to list. */
static sqf_status list_tokens(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_engine *e = &work->engine;
    const sqf_token_scores *scores = &e->scores;
    sqf_diagnosis *d = work->out;
    const size_t count = work->options->tokens < scores->count ? work->options->tokens : scores->count;
    SQF_TRY(SQF_ALLOC(&d->tokens, count, "tokens", err));
    double below = INFINITY;
    while (d->token_count < count) {
        size_t best = scores->count;
        for (size_t i = 0; i < scores->count; i++) {
            if (scores->kl[i] < below && (best == scores->count || scores->kl[i] > scores->kl[best])) {
                best = i;
            }
        }
        if (best == scores->count) {
            break; /* equal figures are listed once */
        }
        below = scores->kl[best];
        sqf_diagnose_token *token = &d->tokens[d->token_count++];
        token->position = best / (e->length - 1) * e->length + best % (e->length - 1) + 1;
        token->id = e->ids[token->position];
        token->kl = scores->kl[best];
        token->nll = scores->nll[best];
        token->reference_nll = scores->reference_nll[best];
        SQF_TRY(write_context(work, token->position, token->context, sizeof token->context, err));
    }
    return SQF_OK;
}

/* ---- the calibration text ---- */

/* Different ids among the first `count`. */
static sqf_status count_distinct(const uint32_t *ids, size_t count, size_t vocabulary, size_t *out, sqf_error *err)
{
    uint8_t *seen;
    SQF_TRY(SQF_ALLOC(&seen, vocabulary, "vocabulary", err));
    *out = 0;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < vocabulary) {
            *out += !seen[ids[i]];
            seen[ids[i]] = 1;
        }
    }
    free(seen);
    return SQF_OK;
}

/* How hard the original finds the text that the model was calibrated on, and how varied it is beside the evaluated one:
 * as many tokens of each. */
static sqf_status measure_ids(sqf_diagnose_work *work, const sqf_ids *ids, sqf_error *err)
{
    const size_t vocabulary = work->original->checkpoint.config.vocabulary;
    const size_t most = work->engine.windows * work->engine.length, count = ids->count < most ? ids->count : most;
    sqf_eval_options options = sqf_eval_options_default();
    sqf_eval_result result;
    size_t distinct[2];
    options.window = work->engine.length;
    SQF_TRY(count_distinct(ids->data, count, vocabulary, &distinct[0], err));
    SQF_TRY(count_distinct(work->ids.data, count, vocabulary, &distinct[1], err));
    SQF_TRY(sqf_eval_ids(work->context, work->original, NULL, work->tokenizer, ids->data, count, NULL, &options,
                         &result, err));
    work->out->calibration_perplexity = result.model.perplexity;
    work->out->calibration_variety = (double)distinct[0] / (double)distinct[1];
    return SQF_OK;
}

static sqf_status measure_file(sqf_diagnose_work *work, const char *path, sqf_error *err)
{
    sqf_buffer text;
    sqf_ids ids = {0};
    SQF_TRY(sqf_file_read(path, (size_t)1 << 32, &text, err));
    sqf_status status = sqf_tokenizer_encode(work->tokenizer, text.data ? text.data : "", text.size, false, &ids, err);
    if (status == SQF_OK) {
        status = measure_ids(work, &ids, err);
    }
    sqf_ids_clear(&ids);
    free(text.data);
    return status;
}

/* The text that was given, else the one that report.json names; its absence, or lines of JSON, are no failure then. */
static sqf_status measure_calibration(sqf_diagnose_work *work, sqf_error *err)
{
    const char *given = work->options->calibration;
    const char *named = json_string_value(json_object_get(json_object_get(work->report, "calibration"), "file"));
    const size_t length = named ? strlen(named) : 0;
    if (given) {
        const sqf_status status = measure_file(work, given, err);
        return status == SQF_OK ? SQF_OK : sqf_fail_within(err, status, "calibration text");
    }
    if (!named || !sqf_path_exists(named) || (length > 6 && strcmp(named + length - 6, ".jsonl") == 0)) {
        return SQF_OK;
    }
    sqf_error ignored = {0};
    const sqf_status status = measure_file(work, named, &ignored);
    return status == SQF_E_CANCELLED || status == SQF_E_MEMORY ? sqf_fail(err, status, "%s", ignored.text) : SQF_OK;
}

/* ---- all of it ---- */

sqf_status sqf_diagnose_run_text(sqf_diagnose_work *work, sqf_error *err)
{
    sqf_engine *e = &work->engine;
    SQF_TRY(read_text(work, err));
    e->context = work->context;
    e->original = work->original;
    e->quantized = work->quantized;
    SQF_TRY(sqf_engine_create(e, err));
    e->total = 3 * e->windows;
    SQF_TRY(tap_model(work, false, e->reference, err));
    SQF_TRY(tap_model(work, true, NULL, err));
    SQF_TRY(compare_statistics(work, err));
    float *streams;
    const size_t floats = e->length * work->quantized->checkpoint.config.hidden;
    SQF_TRY(SQF_ALLOC(&streams, e->windows * floats, "hidden states", err));
    for (size_t w = 0; w < e->windows; w++) {
        sqf_engine_embed(e, work->quantized, w, streams + w * floats);
    }
    const sqf_status status =
        sqf_engine_evaluate(e, work->quantized->layers, 0, streams, work->quantized, &work->out->eval, err);
    free(streams);
    SQF_TRY(status);
    work->out->evaluated = true;
    SQF_TRY(list_tokens(work, err));
    return measure_calibration(work, err);
}

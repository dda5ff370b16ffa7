/* Perplexity and the comparison of two models: windows go through both, logits are scored in chunks of rows.
 * Definitions (windowings, which tokens count, errors) stand in sqf/eval.h; the arithmetic of scores is in score.c.
 *
 * Both models run window by window, side by side, so that logits of the two meet in memory and never a whole text's
 * worth of them: with a vocabulary of 128k, a window of 2048 would be 1 GB a model. */
#include <math.h>
#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "eval/score.h"

/* Rows of logits in memory at a time: 64 x 128k tokens x 4 bytes = 32 MB a model. */
enum { ROW_CHUNK = 64 };

/* One of the two models while a text goes through it, with its share of time and products. */
typedef struct runner {
    sqf_context *context;
    const sqf_model *model;
    sqf_session *session;
    float *logits; /* [ROW_CHUNK, vocabulary] */
    double seconds;
    sqf_product_counts products;
} runner;

/* One call at work: the windows, the two models, and the scores so far. */
typedef struct evaluation {
    sqf_context *context;
    size_t window; /* tokens a window */
    size_t windows;
    size_t first_scored; /* first token of a window that is scored, >= 1 */
    size_t vocabulary;
    const uint32_t *replace; /* first token of each window, or NULL */
    runner model, reference; /* reference.model NULL = none */
    uint32_t *ids;           /* [window] the window that is being run */
    sqf_token_scores scores;
} evaluation;

sqf_eval_options sqf_eval_options_default(void)
{
    return (sqf_eval_options){.window = 2048};
}

/* The context counts for everything that runs on it; a model's own share is a difference. */
static void add_products(sqf_product_counts *sum, sqf_product_counts before, sqf_product_counts after)
{
    sum->dense += after.dense - before.dense;
    sum->floating += after.floating - before.floating;
    sum->integer_high += after.integer_high - before.integer_high;
    sum->integer_low += after.integer_low - before.integer_low;
    sum->dropped += after.dropped - before.dropped;
}

/* Runs the window (rows == 0) or fetches rows of its logits; time and products count for this model alone. */
static sqf_status runner_step(runner *r, const uint32_t *ids, size_t window, size_t first, size_t rows, sqf_error *err)
{
    const sqf_product_counts before = sqf_context_products(r->context);
    const double start = sqf_clock_seconds();
    sqf_status status;
    if (rows == 0) {
        sqf_session_reset(r->session);
        status = sqf_session_forward(r->session, ids, window, err);
    } else {
        status = sqf_session_logits(r->session, first, rows, r->logits, err);
    }
    r->seconds += sqf_clock_seconds() - start;
    add_products(&r->products, before, sqf_context_products(r->context));
    return status;
}

/* A session as long as one window: memory does not grow with the text. */
static sqf_status runner_create(runner *r, sqf_context *context, const sqf_model *model, size_t window, sqf_kv_type kv,
                                sqf_error *err)
{
    r->context = context;
    r->model = model;
    SQF_TRY(sqf_session_create_kv(model, window, kv, &r->session, err));
    size_t room;
    if (!sqf_mul_size(&room, ROW_CHUNK, sqf_model_info_get(model).vocabulary)) {
        return sqf_fail(err, SQF_E_MEMORY, "logits: the vocabulary is too large");
    }
    return SQF_ALLOC(&r->logits, room, "logits", err);
}

/* Fine with one that was never created. */
static void runner_clear(runner *r)
{
    sqf_session_destroy(r->session);
    free(r->logits);
}

/* Rows first .. first + rows - 1 of the window in ids; row t predicts token t + 1. */
static sqf_status score_rows(evaluation *e, size_t first, size_t rows, sqf_error *err)
{
    SQF_TRY(runner_step(&e->model, NULL, 0, first, rows, err));
    if (e->reference.model) {
        SQF_TRY(runner_step(&e->reference, NULL, 0, first, rows, err));
    }
    return sqf_token_scores_add(&e->scores, e->context->pool, e->model.logits,
                                e->reference.model ? e->reference.logits : NULL, e->ids + first + 1, rows,
                                e->vocabulary, err);
}

/* One window: both models run it, then rows are scored. The last row has no token behind it and is left out. */
static sqf_status score_window(evaluation *e, const uint32_t *ids, size_t index, sqf_error *err)
{
    memcpy(e->ids, ids + index * e->window, e->window * sizeof *ids);
    if (e->replace) {
        e->ids[0] = *e->replace;
    }
    SQF_TRY(runner_step(&e->model, e->ids, e->window, 0, 0, err));
    if (e->reference.model) {
        SQF_TRY(runner_step(&e->reference, e->ids, e->window, 0, 0, err));
    }
    const size_t end = e->window - 1;
    for (size_t first = e->first_scored - 1, rows; first < end; first += rows) {
        rows = end - first < ROW_CHUNK ? end - first : ROW_CHUNK;
        const sqf_status status = score_rows(e, first, rows, err);
        if (status != SQF_OK) {
            char where[64];
            snprintf(where, sizeof where, "window %zu: tokens %zu to %zu", index, first, first + rows - 1);
            return sqf_fail_within(err, status, where);
        }
        /* that last row counts as done with the window's end, so that the total is reached */
        SQF_TRY(sqf_progress(e->context, "tokens", index * e->window + first + rows + (first + rows == end),
                             e->windows * e->window, err));
    }
    return SQF_OK;
}

/* The token in front of every encoded text, if the tokenizer puts one there. */
static sqf_status find_first(const sqf_tokenizer *tokenizer, uint32_t *id, bool *found, sqf_error *err)
{
    sqf_ids plain = {0}, special = {0};
    sqf_status status = sqf_tokenizer_encode(tokenizer, "a", 1, false, &plain, err);
    if (status == SQF_OK) {
        status = sqf_tokenizer_encode(tokenizer, "a", 1, true, &special, err);
    }
    /* tokens at the end alone (EOS) leave the front as it was */
    *found = status == SQF_OK && special.count > plain.count && plain.count > 0 && special.data[0] != plain.data[0];
    if (*found) {
        *id = special.data[0];
    }
    sqf_ids_clear(&plain);
    sqf_ids_clear(&special);
    return status;
}

/* Bytes of text of tokens first .. count - 1, as what they add to the text before them: alone, a token may lose the
 * blank that a decoder strips at the start of a text. */
static sqf_status count_bytes(const sqf_tokenizer *tokenizer, const uint32_t *ids, size_t first, size_t count,
                              bool skip_special, uint64_t *bytes, sqf_error *err)
{
    char *text = NULL;
    size_t before, all;
    SQF_TRY(sqf_tokenizer_decode(tokenizer, ids, first, skip_special, &text, &before, err));
    free(text);
    text = NULL;
    SQF_TRY(sqf_tokenizer_decode(tokenizer, ids, count, skip_special, &text, &all, err));
    free(text);
    *bytes += all > before ? all - before : 0;
    return SQF_OK;
}

/* What one of the public calls was asked to do. */
typedef struct request {
    sqf_context *context;
    const sqf_model *model, *reference;
    const sqf_tokenizer *tokenizer; /* may be NULL for ids */
    const sqf_eval_options *options;
    const char *name; /* of the text, for messages */
} request;

/* A text shorter than one window is one window of its own in the standard windowing. */
static sqf_status choose_windows(evaluation *e, const request *r, size_t count, sqf_error *err)
{
    const bool halves = r->options->windowing == SQF_WINDOWING_LLAMA_CPP;
    const size_t window = r->options->window, least_window = halves ? 3 : 2, least = halves ? window : 2;
    if (window < least_window) {
        return sqf_fail(err, SQF_E_ARG, "window: found %zu tokens, expected at least %zu", window, least_window);
    }
    if (count < least) {
        return sqf_fail(err, SQF_E_ARG, "%s: too little text: %zu token%s, expected at least %zu", r->name, count,
                        count == 1 ? "" : "s", least);
    }
    e->window = count < window ? count : window;
    e->windows = count / e->window;
    e->first_scored = halves ? e->window / 2 + 1 : 1;
    return SQF_OK;
}

/* Positions beyond those trained on give figures, but no meaning; a shorter window is the caller's choice to make. */
static sqf_status check_positions(const sqf_model_info *info, size_t window, sqf_error *err)
{
    if (window > info->positions) {
        return sqf_fail(err, SQF_E_ARG, "%s: a window of %zu tokens, expected at most the model's %zu positions",
                        info->directory, window, info->positions);
    }
    return SQF_OK;
}

/* The window that was asked for must fit, also where the text is shorter. */
static sqf_status check_models(const request *r, sqf_error *err)
{
    const sqf_model_info info = sqf_model_info_get(r->model);
    SQF_TRY(check_positions(&info, r->options->window, err));
    if (r->options->paired && r->reference) {
        return sqf_fail(err, SQF_E_ARG, "%s: a reference and one that was run before, expected one of them", r->name);
    }
    if (!r->reference) {
        return SQF_OK;
    }
    const sqf_model_info other = sqf_model_info_get(r->reference);
    SQF_TRY(check_positions(&other, r->options->window, err));
    if (other.vocabulary != info.vocabulary) {
        return sqf_fail(err, SQF_E_ARG, "%s: a vocabulary of %zu tokens, expected %zu as in %s", other.directory,
                        other.vocabulary, info.vocabulary, info.directory);
    }
    return SQF_OK;
}

/* All memory of an evaluation: two sessions of one window, two chunks of logits, and some numbers a scored token. */
static sqf_status evaluation_create(evaluation *e, const request *r, sqf_error *err)
{
    e->vocabulary = sqf_model_info_get(r->model).vocabulary;
    SQF_TRY(SQF_ALLOC(&e->ids, e->window, "a window", err));
    SQF_TRY(runner_create(&e->model, e->context, r->model, e->window, r->options->kv, err));
    if (r->reference) {
        SQF_TRY(runner_create(&e->reference, e->context, r->reference, e->window, SQF_KV_F32, err));
    }
    const size_t room = e->windows * (e->window - e->first_scored);
    const sqf_eval_tokens *paired = r->options->paired;
    if (paired && paired->count != room) {
        return sqf_fail(err, SQF_E_ARG, "%s: %zu scored tokens, expected %zu as of the reference", r->name, room,
                        paired->count);
    }
    SQF_TRY(sqf_token_scores_create(room, r->reference != NULL, &e->scores, err));
    if (paired) {
        SQF_TRY(SQF_ALLOC(&e->scores.reference_nll, room, "token scores", err));
        memcpy(e->scores.reference_nll, paired->nll, room * sizeof *paired->nll);
    }
    return SQF_OK;
}

static void evaluation_clear(evaluation *e)
{
    free(e->ids);
    runner_clear(&e->model);
    runner_clear(&e->reference);
    sqf_token_scores_clear(&e->scores);
}

/* All windows, and the bytes of text that their scored tokens stand for. */
static sqf_status run_windows(evaluation *e, const request *r, const uint32_t *ids, uint64_t *bytes, sqf_error *err)
{
    const bool skip_special = r->options->special || r->options->windowing == SQF_WINDOWING_LLAMA_CPP;
    for (size_t i = 0; i < e->windows; i++) {
        SQF_TRY(score_window(e, ids, i, err));
        if (r->tokenizer) {
            SQF_TRY(count_bytes(r->tokenizer, e->ids, e->first_scored, e->window, skip_special, bytes, err));
        }
    }
    return SQF_OK;
}

/* Tokens run, not tokens scored, measure speed: the second halves of llama.cpp need the first ones too. */
static void finish_score(const runner *r, size_t tokens, sqf_eval_score *score)
{
    score->seconds = r->seconds;
    score->tokens_per_s = (double)tokens / r->seconds;
    score->products = r->products;
}

/* Figures that need more than scores: counts, bytes, times. */
static void finish_result(const evaluation *e, uint64_t bytes, sqf_eval_result *result)
{
    const size_t tokens = e->windows * e->window;
    *result = (sqf_eval_result){.tokens = tokens, .windows = e->windows, .scored_tokens = e->scores.count};
    sqf_token_scores_summarize(&e->scores, result);
    result->scored_bytes = bytes;
    result->perplexity_per_byte = bytes ? exp(result->model.nll_sum / (double)bytes) : NAN;
    finish_score(&e->model, tokens, &result->model);
    if (e->reference.model) {
        finish_score(&e->reference, tokens, &result->reference);
    }
}

void sqf_eval_tokens_clear(sqf_eval_tokens *tokens)
{
    if (tokens) {
        free(tokens->nll);
        *tokens = (sqf_eval_tokens){0};
    }
}

/* The scores change hands: nothing is left to fail. */
static void keep_tokens(evaluation *e, sqf_eval_tokens *keep)
{
    *keep = (sqf_eval_tokens){e->scores.count, e->scores.nll};
    e->scores.nll = NULL;
}

/* The three public calls end here. `first` may be NULL. */
static sqf_status eval_ids(const request *r, const uint32_t *ids, size_t count, const uint32_t *first,
                           sqf_eval_result *result, sqf_error *err)
{
    evaluation e = {.context = r->context};
    if (r->options->max_tokens > 0 && r->options->max_tokens < count) {
        count = r->options->max_tokens;
    }
    SQF_TRY(check_models(r, err));
    SQF_TRY(choose_windows(&e, r, count, err));
    e.replace = r->options->windowing == SQF_WINDOWING_LLAMA_CPP ? first : NULL;
    uint64_t bytes = 0;
    sqf_status status = evaluation_create(&e, r, err);
    if (status == SQF_OK) {
        status = run_windows(&e, r, ids, &bytes, err);
    }
    if (status == SQF_OK) {
        finish_result(&e, bytes, result);
        if (r->options->keep) {
            keep_tokens(&e, r->options->keep);
        }
    }
    evaluation_clear(&e);
    return status;
}

/* Encodes, then evaluates ids. Encoding is the same for both models: the reference is asked about the model's tokens.
 */
static sqf_status eval_text(const request *r, const char *text, size_t n, sqf_eval_result *result, sqf_error *err)
{
    const bool halves = r->options->windowing == SQF_WINDOWING_LLAMA_CPP;
    uint32_t first = 0;
    bool found = false;
    if (halves) {
        SQF_TRY(find_first(r->tokenizer, &first, &found, err));
    }
    sqf_ids ids = {0};
    sqf_status status = sqf_tokenizer_encode(r->tokenizer, text, n, r->options->special || halves, &ids, err);
    if (status != SQF_OK) {
        sqf_fail_within(err, status, r->name);
    } else {
        status = eval_ids(r, ids.data, ids.count, found ? &first : NULL, result, err);
    }
    sqf_ids_clear(&ids);
    return status;
}

sqf_status sqf_eval_ids(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                        const sqf_tokenizer *tokenizer, const uint32_t *ids, size_t count, const uint32_t *first,
                        const sqf_eval_options *options, sqf_eval_result *result, sqf_error *err)
{
    const request r = {context, model, reference, tokenizer, options, "text"};
    return eval_ids(&r, ids, count, first, result, err);
}

sqf_status sqf_eval_text(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                         const sqf_tokenizer *tokenizer, const char *text, size_t n, const sqf_eval_options *options,
                         sqf_eval_result *result, sqf_error *err)
{
    const request r = {context, model, reference, tokenizer, options, "text"};
    return eval_text(&r, text, n, result, err);
}

sqf_status sqf_eval_file(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                         const sqf_tokenizer *tokenizer, const char *path, const sqf_eval_options *options,
                         sqf_eval_result *result, sqf_error *err)
{
    const request r = {context, model, reference, tokenizer, options, path};
    sqf_mapping mapping;
    SQF_TRY(sqf_mapping_open(path, &mapping, err));
    const sqf_status status = eval_text(&r, (const char *)mapping.data, mapping.size, result, err);
    sqf_mapping_close(&mapping);
    return status;
}

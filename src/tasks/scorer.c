/* Log-likelihoods of continuations, and generated answers.
 *
 * The inputs of an item have most of their tokens in common: the context of a multiple choice, or its beginning. What
 * is common goes through the model once; for each option the session is taken back to there. The examples of a
 * few-shot prompt are kept in the same way from item to item. How an item is cut into calls depends on the item and on
 * the examples alone, never on what was asked before, so that a resumed run gives the same bits. */
#include "tasks/scorer.h"

#include <sqf/generate.h>
#include <string.h>

#include "base/context.h"

/* Rows of logits in memory at a time. */
enum { SCORER_ROWS = 64 };

void sqf_answer_clear(sqf_answer *answer)
{
    free(answer->log_likelihoods);
    free(answer->tokens);
    free(answer->generation);
    *answer = (sqf_answer){0};
}

sqf_status sqf_scorer_create(sqf_scorer *s, sqf_context *context, const sqf_model *model, sqf_kv_type kv,
                             const sqf_tokenizer *tokenizer, sqf_error *err)
{
    const sqf_model_info info = sqf_model_info_get(model);
    size_t room, end_count;
    const uint32_t *ends = sqf_model_end_ids(model, &end_count);
    *s = (sqf_scorer){.context = context,
                      .model = model,
                      .tokenizer = tokenizer,
                      .vocabulary = info.vocabulary,
                      .positions = info.positions,
                      .prefix = sqf_prefix_id(tokenizer, info.directory, end_count > 0 ? ends[0] : 0)};
    SQF_TRY(sqf_session_create_kv(model, info.positions, kv, &s->session, err));
    if (!sqf_mul_size(&room, SCORER_ROWS, info.vocabulary)) {
        return sqf_fail(err, SQF_E_MEMORY, "logits: the vocabulary is too large");
    }
    return SQF_ALLOC(&s->logits, room, "logits", err);
}

void sqf_scorer_clear(sqf_scorer *s)
{
    sqf_session_destroy(s->session);
    sqf_ids_clear(&s->examples);
    free(s->logits);
    *s = (sqf_scorer){0};
}

sqf_status sqf_scorer_set_examples(sqf_scorer *s, const char *text, sqf_error *err)
{
    sqf_ids_clear(&s->examples);
    sqf_session_reset(s->session);
    s->held = 0;
    if (*text == '\0') {
        return SQF_OK;
    }
    SQF_TRY(sqf_tokenizer_encode(s->tokenizer, text, strlen(text), true, &s->examples, err));
    /* longer ones are cut at the left in every input, and then no input begins with them */
    s->examples.count = s->examples.count <= s->positions ? s->examples.count : 0;
    return SQF_OK;
}

static sqf_status forward(sqf_scorer *s, const uint32_t *ids, size_t count, sqf_error *err)
{
    if (count > 0) {
        SQF_TRY(sqf_session_forward(s->session, ids, count, err));
        s->tokens_run += count;
    }
    return SQF_OK;
}

/* Leaves the session with as many of the first `most` ids as the examples give: *have. */
static sqf_status begin(sqf_scorer *s, const uint32_t *ids, size_t most, size_t *have, sqf_error *err)
{
    const size_t common = sqf_common_prefix(ids, most, s->examples.data, s->examples.count);
    *have = 0;
    /* a few tokens in common are chance, and not worth running the examples again for the next item */
    if (s->examples.count == 0 || common < s->examples.count / 2) {
        sqf_session_reset(s->session);
        s->held = 0;
        return SQF_OK;
    }
    if (s->held < common) {
        sqf_session_reset(s->session);
        s->held = 0;
        SQF_TRY(forward(s, s->examples.data, s->examples.count, err));
    } else {
        s->tokens_reused += common;
    }
    sqf_session_truncate(s->session, common);
    s->held = *have = common;
    return SQF_OK;
}

/* Sum over some rows of the last forward; *greedy becomes false where a target is not the most probable token. */
static sqf_status score_rows(sqf_scorer *s, size_t first, const uint32_t *targets, size_t rows, double *sum,
                             bool *greedy, sqf_error *err)
{
    sqf_token_scores scores;
    SQF_TRY(sqf_session_logits(s->session, first, rows, s->logits, err));
    SQF_TRY(sqf_token_scores_create(rows, false, &scores, err));
    const sqf_status status =
        sqf_token_scores_add(&scores, s->context->pool, s->logits, NULL, targets, rows, s->vocabulary, err);
    for (size_t i = 0; status == SQF_OK && i < rows; i++) {
        *sum -= scores.nll[i];
        *greedy = *greedy && sqf_is_top(s->logits + i * s->vocabulary, s->vocabulary, targets[i]);
    }
    sqf_token_scores_clear(&scores);
    return status;
}

/* One continuation; the session holds the first `shared` tokens of the input. */
static sqf_status score_option(sqf_scorer *s, const sqf_encoded *option, size_t shared, double *log_likelihood,
                               bool *greedy, sqf_error *err)
{
    const size_t targets = option->targets.count;
    for (size_t i = 0; i < targets; i++) {
        if (option->targets.data[i] >= s->vocabulary) {
            return sqf_fail(err, SQF_E_VALUE, "token %lu is beyond the model's vocabulary of %zu",
                            (unsigned long)option->targets.data[i], s->vocabulary);
        }
    }
    sqf_session_truncate(s->session, shared);
    SQF_TRY(forward(s, option->input.data + shared, option->input.count - shared, err));
    const size_t first = option->input.count - shared - targets;
    *log_likelihood = 0;
    *greedy = true;
    for (size_t done = 0, rows; done < targets; done += rows) {
        rows = targets - done < SCORER_ROWS ? targets - done : SCORER_ROWS;
        SQF_TRY(score_rows(s, first + done, option->targets.data + done, rows, log_likelihood, greedy, err));
    }
    return SQF_OK;
}

/* The tokens that go through the model once: common to all inputs, and in front of what is scored. */
static size_t shared_tokens(const sqf_encoded *options, size_t count)
{
    const sqf_ids *first = &options[0].input;
    size_t shared = count > 1 ? first->count : 0;
    for (size_t i = 0; i < count; i++) {
        const sqf_ids *input = &options[i].input;
        const size_t context = input->count - options[i].targets.count;
        const size_t common = sqf_common_prefix(first->data, first->count, input->data, input->count);
        shared = common < shared ? common : shared;
        shared = context < shared ? context : shared;
    }
    return shared;
}

static sqf_status score_options(sqf_scorer *s, const sqf_encoded *options, size_t count, sqf_answer *answer,
                                sqf_error *err)
{
    size_t shared = shared_tokens(options, count), have;
    /* a single option too begins with the examples */
    const size_t most = count > 1 ? shared : options[0].input.count - options[0].targets.count;
    SQF_TRY(begin(s, options[0].input.data, most, &have, err));
    shared = shared > have ? shared : have;
    SQF_TRY(forward(s, options[0].input.data + have, shared - have, err));
    s->tokens_reused += (count - 1) * shared;
    for (size_t i = 0; i < count; i++) {
        bool greedy = true;
        SQF_TRY(score_option(s, &options[i], shared, &answer->log_likelihoods[i], &greedy, err));
        answer->tokens[i] = options[i].targets.count;
        answer->truncated = answer->truncated || options[i].truncated;
        answer->greedy = i == 0 ? greedy : answer->greedy;
    }
    return SQF_OK;
}

/* The context of an option with the examples in front, for free(). */
static sqf_status full_context(const sqf_item *item, size_t option, const char *examples, char **out, sqf_error *err)
{
    return sqf_format_text(out, err, "%s%s", examples, sqf_item_context(item, option));
}

static sqf_status encode_option(const sqf_scorer *s, const sqf_task *task, const sqf_item *item, size_t option,
                                const char *examples, sqf_encoded *out, sqf_error *err)
{
    char where[32], *context = NULL, *continuation = NULL;
    snprintf(where, sizeof where, "choice %zu", option);
    sqf_status status = full_context(item, option, examples, &context, err);
    if (status == SQF_OK) {
        status = sqf_format_text(&continuation, err, "%s%s", task->definition.delimiter,
                                 sqf_item_continuation(item, option));
    }
    if (status == SQF_OK) {
        status = sqf_encode_pair(s->tokenizer, s->prefix, context, continuation, s->positions, where, out, err);
    }
    free(context);
    free(continuation);
    return status;
}

static sqf_status ask_options(sqf_scorer *s, const sqf_task *task, const sqf_item *item, const char *examples,
                              sqf_answer *answer, sqf_error *err)
{
    const size_t count = sqf_item_options(item);
    sqf_encoded *options;
    SQF_TRY(SQF_ALLOC(&answer->log_likelihoods, count, "log-likelihoods", err));
    SQF_TRY(SQF_ALLOC(&answer->tokens, count, "log-likelihoods", err));
    SQF_TRY(SQF_ALLOC(&options, count, "choices", err));
    sqf_status status = SQF_OK;
    for (size_t i = 0; status == SQF_OK && i < count; i++) {
        status = encode_option(s, task, item, i, examples, &options[i], err);
    }
    if (status == SQF_OK) {
        status = score_options(s, options, count, answer, err);
    }
    for (size_t i = 0; i < count; i++) {
        sqf_encoded_clear(&options[i]);
    }
    free(options);
    return status;
}

/* What a generation's callback needs to find a stop text. */
typedef struct stopper {
    const sqf_tokenizer *tokenizer;
    const sqf_text_list *stop;
    sqf_ids ids; /* in `room` places */
    size_t room;
} stopper;

/* Where the text ends: at the first of each stop text in turn, as str.split does it. */
static void cut(char *text, const sqf_text_list *stop)
{
    for (size_t i = 0; i < stop->count; i++) {
        char *found = strstr(text, stop->at[i]);
        if (found) {
            *found = '\0';
        }
    }
}

/* All of the new ids are decoded at each step: a stop text may span any number of tokens, and texts are short. */
static bool go_on(void *user, uint32_t id, const char *piece)
{
    stopper *w = user;
    char *text;
    size_t n;
    (void)piece;
    if (id >= sqf_tokenizer_vocabulary_size(w->tokenizer) || w->ids.count == w->room) {
        return true;
    }
    w->ids.data[w->ids.count++] = id;
    if (sqf_tokenizer_decode(w->tokenizer, w->ids.data, w->ids.count, true, &text, &n, NULL) != SQF_OK) {
        return true; /* the decoding at the end names the problem */
    }
    cut(text, w->stop);
    const bool whole = strlen(text) == n;
    free(text);
    return whole;
}

/* Ids beyond the tokenizer's (a padded vocabulary) have no text, end ids neither. */
static sqf_status decode_generation(const sqf_scorer *s, const sqf_generation *generation, const sqf_text_list *stop,
                                    char **text, sqf_error *err)
{
    uint32_t *ids;
    size_t count = 0, n;
    SQF_TRY(SQF_ALLOC(&ids, generation->ids.count, "tokens", err));
    for (size_t i = 0; i < generation->ids.count; i++) {
        ids[count] = generation->ids.data[i];
        count += ids[count] < sqf_tokenizer_vocabulary_size(s->tokenizer);
    }
    const sqf_status status = sqf_tokenizer_decode(s->tokenizer, ids, count, true, text, &n, err);
    free(ids);
    if (status == SQF_OK) {
        cut(*text, stop);
    }
    return status;
}

/* Greedy, from a prompt that is cut at the left so that all new tokens have positions. */
static sqf_status generate(sqf_scorer *s, const sqf_task *task, const sqf_ids *prompt, size_t max_new_tokens,
                           sqf_answer *answer, sqf_error *err)
{
    const size_t room = s->positions - max_new_tokens, count = prompt->count < room ? prompt->count : room;
    const uint32_t *ids = prompt->data + (prompt->count - count);
    const sqf_text_list *stop = &task->definition.stop;
    size_t have;
    stopper w = {.tokenizer = s->tokenizer, .stop = stop, .room = max_new_tokens};
    sqf_generate_options options = {.max_tokens = max_new_tokens, .token = go_on, .token_user = &w};
    sqf_generation generation = {0};
    options.stop_ids = sqf_model_end_ids(s->model, &options.stop_count);
    answer->truncated = count < prompt->count;
    SQF_TRY(begin(s, ids, count - 1, &have, err));
    SQF_TRY(SQF_ALLOC(&w.ids.data, max_new_tokens, "tokens", err));
    sqf_status status = sqf_generate(s->model, s->session, NULL, ids + have, count - have, &options, &generation, err);
    s->tokens_run += generation.prefill_tokens + generation.decode_tokens;
    if (status == SQF_OK) {
        status = decode_generation(s, &generation, stop, &answer->generation, err);
    }
    sqf_ids_clear(&generation.ids);
    sqf_ids_clear(&w.ids);
    return status;
}

static sqf_status ask_generation(sqf_scorer *s, const sqf_task *task, const sqf_item *item, const char *examples,
                                 size_t max_new_tokens, sqf_answer *answer, sqf_error *err)
{
    char *context;
    sqf_ids prompt = {0};
    SQF_TRY(full_context(item, 0, examples, &context, err));
    sqf_status status = sqf_tokenizer_encode(s->tokenizer, context, strlen(context), true, &prompt, err);
    free(context);
    if (status == SQF_OK && prompt.count == 0) {
        status = sqf_fail(err, SQF_E_VALUE, "the prompt has no token");
    }
    if (status == SQF_OK) {
        status = generate(s, task, &prompt, max_new_tokens, answer, err);
    }
    sqf_ids_clear(&prompt);
    return status;
}

sqf_status sqf_scorer_ask(sqf_scorer *s, const sqf_task *task, size_t index, const char *examples,
                          size_t max_new_tokens, sqf_answer *answer, sqf_error *err)
{
    const sqf_item *item = &task->items[index];
    if (task->definition.kind == SQF_TASK_GENERATE) {
        return ask_generation(s, task, item, examples, max_new_tokens, answer, err);
    }
    return ask_options(s, task, item, examples, answer, err);
}

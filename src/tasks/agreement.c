/* How far two models write the same text. Perplexity looks at one token after a given text; here a token that comes out
 * differently changes all that follows.
 *
 * Of each prompt: both models' greedy continuations; the first place where they differ; what the reference thinks of
 * both; and, for comparison, how often the model agrees when it is given the reference's text at each step. */
#include <math.h>
#include <sqf/generate.h>
#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "tasks/scorer.h"
#include "tasks/statistics.h"

/* ROWS: rows of logits in memory at a time. */
enum { ROWS = 64 };

/* Columns of a prompt's figures; from COLUMN_EQUAL on one a length. */
enum {
    COLUMN_FIRST,    /* equal tokens before the first other one */
    COLUMN_DIVERGED, /* 1 or 0 */
    COLUMN_AT_RISK,  /* tokens that were drawn after equal text */
    COLUMN_MODEL_NLL,
    COLUMN_REFERENCE_NLL,
    COLUMN_TEACHER,
    COLUMN_EQUAL,
    COLUMNS = COLUMN_EQUAL + SQF_AGREEMENT_LENGTHS
};

/* One model, and what it wrote last. */
typedef struct side {
    const sqf_model *model;
    sqf_session *session;
    float *logits;  /* [ROWS, vocabulary] */
    uint32_t *text; /* [prompt and new tokens] */
} side;

typedef struct comparison {
    sqf_context *context;
    const sqf_agreement_options *options;
    size_t vocabulary;
    side model, reference;
    double *values; /* [prompts, COLUMNS] */
    size_t prompts;
} comparison;

sqf_agreement_options sqf_agreement_options_default(void)
{
    return (sqf_agreement_options){
        .prompt_tokens = 64, .new_tokens = 128, .prompts = 100, .resamples = 1000, .seed = 1234};
}

/* new_tokens, half of it, ... */
static size_t length_at(const sqf_agreement_options *options, size_t index)
{
    return options->new_tokens >> index;
}

static sqf_status check_model(const sqf_agreement_options *options, const sqf_model *model, sqf_error *err)
{
    const sqf_model_info info = sqf_model_info_get(model);
    size_t total;
    if (!sqf_add_size(&total, options->prompt_tokens, options->new_tokens) || total > info.positions) {
        return sqf_fail(err, SQF_E_ARG, "%s: a prompt of %zu tokens and %zu new ones, expected at most %zu positions",
                        info.directory, options->prompt_tokens, options->new_tokens, info.positions);
    }
    return SQF_OK;
}

static sqf_status check(const comparison *c, size_t count, sqf_error *err)
{
    const sqf_agreement_options *options = c->options;
    const sqf_model_info model = sqf_model_info_get(c->model.model);
    const sqf_model_info reference = sqf_model_info_get(c->reference.model);
    if (options->prompt_tokens < 1 || options->new_tokens < 1 || options->resamples < 2) {
        return sqf_fail(err, SQF_E_ARG, "generation: expected at least one token of prompt, a new one and 2 resamples");
    }
    if (model.vocabulary != reference.vocabulary) {
        return sqf_fail(err, SQF_E_ARG, "%s: a vocabulary of %zu tokens, expected %zu as in %s", reference.directory,
                        reference.vocabulary, model.vocabulary, model.directory);
    }
    SQF_TRY(check_model(options, c->model.model, err));
    SQF_TRY(check_model(options, c->reference.model, err));
    if (count < options->prompt_tokens) {
        return sqf_fail(err, SQF_E_ARG, "too little text: %zu tokens, expected at least a prompt of %zu", count,
                        options->prompt_tokens);
    }
    return SQF_OK;
}

static sqf_status side_create(side *s, const comparison *c, sqf_kv_type kv, sqf_error *err)
{
    const size_t total = c->options->prompt_tokens + c->options->new_tokens;
    size_t room;
    SQF_TRY(sqf_session_create_kv(s->model, total, kv, &s->session, err));
    SQF_TRY(SQF_ALLOC(&s->text, total, "a text", err));
    if (!sqf_mul_size(&room, ROWS, c->vocabulary)) {
        return sqf_fail(err, SQF_E_MEMORY, "logits: the vocabulary is too large");
    }
    return SQF_ALLOC(&s->logits, room, "logits", err);
}

static void side_clear(side *s)
{
    sqf_session_destroy(s->session);
    free(s->logits);
    free(s->text);
}

/* The prompt and what the model makes of it. */
static sqf_status write_text(side *s, const comparison *c, const uint32_t *prompt, sqf_error *err)
{
    const size_t count = c->options->prompt_tokens;
    const sqf_generate_options options = {.max_tokens = c->options->new_tokens};
    sqf_generation generation;
    sqf_session_reset(s->session);
    sqf_status status = sqf_generate(s->model, s->session, NULL, prompt, count, &options, &generation, err);
    if (status == SQF_OK) {
        memcpy(s->text, prompt, count * sizeof *prompt);
        memcpy(s->text + count, generation.ids.data, generation.ids.count * sizeof *prompt);
    }
    sqf_ids_clear(&generation.ids);
    return status;
}

/* What a model thinks of the new tokens of a text: mean negative log-probability, share of most probable ones. */
static sqf_status read_text(side *s, const comparison *c, const uint32_t *text, double *nll, double *top,
                            sqf_error *err)
{
    const size_t prompt = c->options->prompt_tokens, n = c->options->new_tokens;
    sqf_token_scores scores;
    size_t tops = 0;
    sqf_session_reset(s->session);
    SQF_TRY(sqf_session_forward(s->session, text, prompt + n - 1, err));
    SQF_TRY(sqf_token_scores_create(n, false, &scores, err));
    sqf_status status = SQF_OK;
    for (size_t done = 0, rows; status == SQF_OK && done < n; done += rows) {
        rows = n - done < ROWS ? n - done : ROWS;
        const uint32_t *next = text + prompt + done;
        status = sqf_session_logits(s->session, prompt - 1 + done, rows, s->logits, err);
        if (status == SQF_OK) {
            status = sqf_token_scores_add(&scores, c->context->pool, s->logits, NULL, next, rows, c->vocabulary, err);
        }
        for (size_t i = 0; status == SQF_OK && i < rows; i++) {
            tops += sqf_is_top(s->logits + i * c->vocabulary, c->vocabulary, next[i]);
        }
    }
    *nll = 0;
    for (size_t i = 0; status == SQF_OK && i < n; i++) {
        *nll += scores.nll[i] / (double)n;
    }
    *top = (double)tops / (double)n;
    sqf_token_scores_clear(&scores);
    return status;
}

static sqf_status compare_prompt(comparison *c, const uint32_t *prompt, double *values, sqf_error *err)
{
    const size_t begin = c->options->prompt_tokens, n = c->options->new_tokens;
    double ignored;
    SQF_TRY(write_text(&c->reference, c, prompt, err));
    SQF_TRY(write_text(&c->model, c, prompt, err));
    const size_t equal = sqf_common_prefix(c->model.text + begin, n, c->reference.text + begin, n);
    values[COLUMN_FIRST] = (double)equal;
    values[COLUMN_DIVERGED] = equal < n;
    values[COLUMN_AT_RISK] = (double)(equal < n ? equal + 1 : n);
    for (size_t i = 0; i < SQF_AGREEMENT_LENGTHS; i++) {
        values[COLUMN_EQUAL + i] = equal >= length_at(c->options, i);
    }
    SQF_TRY(read_text(&c->reference, c, c->model.text, &values[COLUMN_MODEL_NLL], &ignored, err));
    SQF_TRY(read_text(&c->reference, c, c->reference.text, &values[COLUMN_REFERENCE_NLL], &ignored, err));
    return read_text(&c->model, c, c->reference.text, &ignored, &values[COLUMN_TEACHER], err);
}

/* Prompts stand at multiples of their length, spread evenly over the text. */
static sqf_status compare_prompts(comparison *c, const uint32_t *ids, size_t count, sqf_error *err)
{
    const size_t slots = count / c->options->prompt_tokens, wanted = c->options->prompts;
    c->prompts = wanted > 0 && wanted < slots ? wanted : slots;
    SQF_TRY(SQF_ALLOC(&c->values, c->prompts * COLUMNS, "figures", err));
    for (size_t i = 0; i < c->prompts; i++) {
        const size_t slot = (size_t)((unsigned __int128)i * slots / c->prompts);
        SQF_TRY(compare_prompt(c, ids + slot * c->options->prompt_tokens, c->values + i * COLUMNS, err));
        SQF_TRY(sqf_progress(c->context, "prompts", i + 1, c->prompts, err));
    }
    return SQF_OK;
}

/* Figures that have an error; from FIGURE_EQUAL on one a length. */
enum { FIGURE_FIRST, FIGURE_RATE, FIGURE_DIFFERENCE, FIGURE_EQUAL, FIGURES = FIGURE_EQUAL + SQF_AGREEMENT_LENGTHS };

static void figures_of(const double *mean, double *out)
{
    out[FIGURE_FIRST] = mean[COLUMN_FIRST];
    out[FIGURE_RATE] = mean[COLUMN_DIVERGED] / mean[COLUMN_AT_RISK];
    out[FIGURE_DIFFERENCE] = mean[COLUMN_MODEL_NLL] - mean[COLUMN_REFERENCE_NLL];
    memcpy(out + FIGURE_EQUAL, mean + COLUMN_EQUAL, SQF_AGREEMENT_LENGTHS * sizeof *out);
}

/* mean [COLUMNS] over all prompts; errors [FIGURES]. */
static void fill_result(const comparison *c, const double *mean, const double *errors, sqf_agreement *result)
{
    double figures[FIGURES];
    figures_of(mean, figures);
    *result = (sqf_agreement){.prompts = c->prompts,
                              .first_divergence = figures[FIGURE_FIRST],
                              .first_divergence_error = errors[FIGURE_FIRST],
                              .divergence_rate = figures[FIGURE_RATE],
                              .divergence_rate_error = errors[FIGURE_RATE],
                              .model_nll = mean[COLUMN_MODEL_NLL],
                              .reference_nll = mean[COLUMN_REFERENCE_NLL],
                              .nll_difference = figures[FIGURE_DIFFERENCE],
                              .nll_difference_error = errors[FIGURE_DIFFERENCE],
                              .teacher_top = mean[COLUMN_TEACHER]};
    for (size_t i = 0; i < SQF_AGREEMENT_LENGTHS && length_at(c->options, i) > 0; i++) {
        result->length[i] = length_at(c->options, i);
        result->equal[i] = figures[FIGURE_EQUAL + i];
        result->equal_error[i] = errors[FIGURE_EQUAL + i];
        result->lengths++;
    }
}

/* The same figures of each resample; their deviations are the errors. */
static sqf_status summarize(const comparison *c, sqf_agreement *result, sqf_error *err)
{
    const size_t resamples = c->options->resamples;
    double mean[COLUMNS] = {0}, errors[FIGURES], *means, *figures;
    for (size_t i = 0; i < c->prompts * COLUMNS; i++) {
        mean[i % COLUMNS] += c->values[i] / (double)c->prompts;
    }
    SQF_TRY(sqf_bootstrap_means(c->values, c->prompts, COLUMNS, resamples, c->options->seed, &means, err));
    const sqf_status status = SQF_ALLOC(&figures, resamples * FIGURES, "bootstrap", err);
    if (status == SQF_OK) {
        for (size_t r = 0; r < resamples; r++) {
            figures_of(means + r * COLUMNS, figures + r * FIGURES);
        }
        for (size_t f = 0; f < FIGURES; f++) {
            errors[f] = sqf_deviation(figures + f, resamples, FIGURES);
        }
        fill_result(c, mean, errors, result);
    }
    free(figures);
    free(means);
    return status;
}

sqf_status sqf_agreement_run(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                             const uint32_t *ids, size_t count, const sqf_agreement_options *options,
                             sqf_agreement *result, sqf_error *err)
{
    comparison c = {.context = context,
                    .options = options,
                    .vocabulary = sqf_model_info_get(model).vocabulary,
                    .model.model = model,
                    .reference.model = reference};
    sqf_status status = check(&c, count, err);
    if (status == SQF_OK) {
        status = side_create(&c.model, &c, c.options->kv, err);
    }
    if (status == SQF_OK) {
        status = side_create(&c.reference, &c, SQF_KV_F32, err);
    }
    if (status == SQF_OK) {
        status = compare_prompts(&c, ids, count, err);
    }
    if (status == SQF_OK) {
        status = summarize(&c, result, err);
    }
    side_clear(&c.model);
    side_clear(&c.reference);
    free(c.values);
    return status;
}

sqf_status sqf_agreement_file(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                              const sqf_tokenizer *tokenizer, const char *path, const sqf_agreement_options *options,
                              sqf_agreement *result, sqf_error *err)
{
    sqf_mapping text;
    sqf_ids ids = {0};
    SQF_TRY(sqf_mapping_open(path, &text, err));
    sqf_status status = sqf_tokenizer_encode(tokenizer, (const char *)text.data, text.size, false, &ids, err);
    sqf_mapping_close(&text);
    if (status == SQF_OK) {
        status = sqf_agreement_run(context, model, reference, ids.data, ids.count, options, result, err);
    }
    sqf_ids_clear(&ids);
    return status == SQF_OK ? SQF_OK : sqf_fail_within(err, status, path);
}

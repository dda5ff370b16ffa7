/* Times of prefill and decode on synthetic tokens, in the manner of llama-bench: a warm-up, then repetitions, each of
 * them reported. No statistics here: what to make of the times is the caller's choice (mean and deviation in sqf
 * bench, the median in sqf survey).
 *
 * Each step also computes the logits of its last token, because a generation would. */
#include <sqf/bench.h>

#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "base/random.h"

sqf_bench_options sqf_bench_options_default(void)
{
    return (sqf_bench_options){.prefill = 512, .decode = 64, .repetitions = 3, .batch = 1};
}

void sqf_bench_result_clear(sqf_bench_result *result)
{
    if (result) {
        free(result->prefill_tokens_per_s);
        free(result->decode_tokens_per_s);
        *result = (sqf_bench_result){0};
    }
}

void sqf_cpu_name(char name[SQF_BENCH_CPU])
{
    snprintf(name, SQF_BENCH_CPU, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) {
        return;
    }
    char line[512];
    /* Linux's file; on machines without a line "model name" (ARM) the name stays unknown. */
    while (fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (colon && strncmp(line, "model name", strlen("model name")) == 0) {
            const char *text = colon + 1 + strspn(colon + 1, " \t");
            snprintf(name, SQF_BENCH_CPU, "%.*s", (int)strcspn(text, "\n"), text);
            break;
        }
    }
    fclose(file);
}

/* What is the same in every run. */
typedef struct bench {
    sqf_context *context;
    sqf_session **sessions; /* [batch] */
    size_t batch;
    const uint32_t *ids;       /* as many as each session has positions */
    const uint32_t **next_ids; /* [batch] of a step */
    size_t *next_counts;       /* [batch] of a step: 1 */
    float *logits;             /* [batch, vocabulary] */
    size_t depth;              /* tokens that are in the cache before each run */
} bench;

enum { DEPTH_STEP = 512 };

/* Tokens before those that are timed. In steps: the scratch of one long prompt would be larger than the cache. */
static sqf_status fill_cache(const bench *b, sqf_session *session, sqf_error *err)
{
    for (size_t done = 0; done < b->depth; done += DEPTH_STEP) {
        const size_t rest = b->depth - done;
        SQF_TRY(sqf_session_forward(session, b->ids + done, rest < DEPTH_STEP ? rest : DEPTH_STEP, err));
    }
    return SQF_OK;
}

/* A prompt behind the tokens of the depth. */
static sqf_status run_prefill(const bench *b, size_t count, sqf_error *err)
{
    sqf_session_truncate(b->sessions[0], b->depth);
    SQF_TRY(sqf_session_forward(b->sessions[0], b->ids + b->depth, count, err));
    return sqf_session_logits(b->sessions[0], count - 1, 1, b->logits, err);
}

/* `count` tokens of every session, one a step. */
static sqf_status run_decode(const bench *b, size_t count, sqf_error *err)
{
    for (size_t i = 0; i < b->batch; i++) {
        sqf_session_truncate(b->sessions[i], b->depth);
    }
    for (size_t done = 0; done < count; done++) {
        for (size_t i = 0; i < b->batch; i++) {
            b->next_ids[i] = b->ids + b->depth + done;
        }
        SQF_TRY(sqf_sessions_forward(b->sessions, b->batch, b->next_ids, b->next_counts, err));
        SQF_TRY(sqf_sessions_logits(b->sessions, b->batch, b->logits, err));
    }
    return SQF_OK;
}

/* One warm-up, then the repetitions; *rates stays NULL where there is nothing to time. `sequences` is the number of
 * those that `run` gives `count` tokens each. `done` of `total` runs came before this call: progress counts over both
 * kinds. */
static sqf_status time_tokens(const bench *b, sqf_status (*run)(const bench *, size_t, sqf_error *), size_t count,
                              size_t sequences, size_t repetitions, size_t done, size_t total, double **rates,
                              sqf_product_counts *products, sqf_error *err)
{
    if (count == 0) {
        return SQF_OK;
    }
    SQF_TRY(SQF_ALLOC(rates, repetitions, "times", err));
    for (size_t i = 0; i <= repetitions; i++) {
        /* so that the counts are those of one run, the last */
        sqf_context_products_reset(b->context);
        const double start = sqf_clock_seconds();
        SQF_TRY(run(b, count, err));
        const double seconds = sqf_clock_seconds() - start;
        if (i > 0) {
            (*rates)[i - 1] = (double)count * (double)sequences / seconds;
        }
        SQF_TRY(sqf_progress(b->context, "repetitions", done + i + 1, total, err));
    }
    *products = sqf_context_products(b->context);
    return SQF_OK;
}

/* Any tokens will do: the time of a dense model does not depend on them. A fixed seed makes runs comparable. */
static sqf_status make_ids(size_t count, size_t vocabulary, uint32_t **ids, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(ids, count, "tokens", err));
    sqf_random random = {.state = 1};
    for (size_t i = 0; i < count; i++) {
        (*ids)[i] = (uint32_t)sqf_random_below(&random, vocabulary);
    }
    return SQF_OK;
}

static void bench_clear(bench *b)
{
    for (size_t i = 0; b->sessions && i < b->batch; i++) {
        sqf_session_destroy(b->sessions[i]);
    }
    free(b->sessions);
    free(b->next_ids);
    free(b->next_counts);
    free(b->logits);
}

/* Sessions for all runs, as long as the depth and the longest of them: their caches are allocated in the warm-up and
 * not while timing, and what stands before the timed tokens is computed once. */
static sqf_status bench_init(const sqf_model *model, const sqf_bench_options *options, size_t positions, bench *b,
                             sqf_error *err)
{
    size_t logits;
    if (!sqf_mul_size(&logits, b->batch, sqf_model_info_get(model).vocabulary)) {
        return sqf_fail(err, SQF_E_ARG, "bench: a batch of %zu sequences is too large", b->batch);
    }
    SQF_TRY(SQF_ALLOC(&b->sessions, b->batch, "sessions", err));
    SQF_TRY(SQF_ALLOC(&b->next_ids, b->batch, "sessions", err));
    SQF_TRY(SQF_ALLOC(&b->next_counts, b->batch, "sessions", err));
    SQF_TRY(SQF_ALLOC(&b->logits, logits, "logits", err));
    for (size_t i = 0; i < b->batch; i++) {
        b->next_counts[i] = 1;
        SQF_TRY(sqf_session_create_kv(model, positions, options->kv, &b->sessions[i], err));
        SQF_TRY(fill_cache(b, b->sessions[i], err));
    }
    return SQF_OK;
}

sqf_status sqf_bench_run(sqf_context *context, const sqf_model *model, const sqf_bench_options *options,
                         sqf_bench_result *result, sqf_error *err)
{
    *result = (sqf_bench_result){.repetitions = options->repetitions};
    const size_t longest = options->prefill > options->decode ? options->prefill : options->decode;
    if (options->repetitions == 0 || longest == 0) {
        return sqf_fail(err, SQF_E_ARG, "bench: nothing to time, expected at least one repetition and one token");
    }
    size_t positions;
    if (!sqf_add_size(&positions, longest, options->depth)) {
        return sqf_fail(err, SQF_E_ARG, "bench: %zu tokens after %zu: no model has so many positions", longest,
                        options->depth);
    }
    bench b = {.context = context,
               .batch = options->decode > 0 && options->batch > 1 ? options->batch : 1,
               .depth = options->depth};
    uint32_t *ids = NULL;
    const size_t runs = options->repetitions + 1;
    const size_t decode_done = options->prefill ? runs : 0, total = decode_done + (options->decode ? runs : 0);
    sqf_status status;
    SQF_TRY_GOTO(status, make_ids(positions, sqf_model_info_get(model).vocabulary, &ids, err), done);
    b.ids = ids;
    SQF_TRY_GOTO(status, bench_init(model, options, positions, &b, err), done);
    SQF_TRY_GOTO(status,
                 time_tokens(&b, run_prefill, options->prefill, 1, options->repetitions, 0, total,
                             &result->prefill_tokens_per_s, &result->prefill_products, err),
                 done);
    SQF_TRY_GOTO(status,
                 time_tokens(&b, run_decode, options->decode, b.batch, options->repetitions, decode_done, total,
                             &result->decode_tokens_per_s, &result->decode_products, err),
                 done);
    result->cache_bytes = sqf_session_kv_bytes(b.sessions[0]);
    sqf_cpu_name(result->cpu);
done:
    if (status != SQF_OK) {
        sqf_bench_result_clear(result);
    }
    bench_clear(&b);
    free(ids);
    return status;
}

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
    return (sqf_bench_options){.prefill = 512, .decode = 64, .repetitions = 3};
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
    sqf_session *session;
    const uint32_t *ids; /* as many as the session has positions */
    float *logits;       /* [vocabulary] */
    size_t depth;        /* tokens that are in the cache before each run */
} bench;

enum { DEPTH_STEP = 512 };

/* Tokens before those that are timed. In steps: the scratch of one long prompt would be larger than the cache. */
static sqf_status fill_cache(const bench *b, sqf_error *err)
{
    for (size_t done = 0; done < b->depth; done += DEPTH_STEP) {
        const size_t rest = b->depth - done;
        SQF_TRY(sqf_session_forward(b->session, b->ids + done, rest < DEPTH_STEP ? rest : DEPTH_STEP, err));
    }
    return SQF_OK;
}

/* `count` tokens behind those of the depth, `step` at a time, with the logits after each step. */
static sqf_status run_tokens(const bench *b, size_t count, size_t step, sqf_error *err)
{
    sqf_session_truncate(b->session, b->depth);
    for (size_t done = 0; done < count; done += step) {
        SQF_TRY(sqf_session_forward(b->session, b->ids + b->depth + done, step, err));
        SQF_TRY(sqf_session_logits(b->session, step - 1, 1, b->logits, err));
    }
    return SQF_OK;
}

/* One warm-up, then the repetitions; *rates stays NULL where there is nothing to time. `step` is `count` for a
 * prefill and 1 for decoding. `done` of `total` runs came before this call: progress counts over both kinds. */
static sqf_status time_tokens(const bench *b, size_t count, size_t step, size_t repetitions, size_t done, size_t total,
                              double **rates, sqf_product_counts *products, sqf_error *err)
{
    if (count == 0) {
        return SQF_OK;
    }
    SQF_TRY(SQF_ALLOC(rates, repetitions, "times", err));
    for (size_t i = 0; i <= repetitions; i++) {
        /* so that the counts are those of one run, the last */
        sqf_context_products_reset(b->context);
        const double start = sqf_clock_seconds();
        SQF_TRY(run_tokens(b, count, step, err));
        const double seconds = sqf_clock_seconds() - start;
        if (i > 0) {
            (*rates)[i - 1] = (double)count / seconds;
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

/* One session for all runs, as long as the depth and the longest of them: its cache is allocated in the warm-up and not
 * while timing, and what stands before the timed tokens is computed once. */
sqf_status sqf_bench_run(sqf_context *context, const sqf_model *model, const sqf_bench_options *options,
                         sqf_bench_result *result, sqf_error *err)
{
    *result = (sqf_bench_result){.repetitions = options->repetitions};
    const size_t vocabulary = sqf_model_info_get(model).vocabulary;
    const size_t longest = options->prefill > options->decode ? options->prefill : options->decode;
    if (options->repetitions == 0 || longest == 0) {
        return sqf_fail(err, SQF_E_ARG, "bench: nothing to time, expected at least one repetition and one token");
    }
    size_t positions;
    if (!sqf_add_size(&positions, longest, options->depth)) {
        return sqf_fail(err, SQF_E_ARG, "bench: %zu tokens after %zu: no model has so many positions", longest,
                        options->depth);
    }
    bench b = {.context = context, .depth = options->depth};
    uint32_t *ids = NULL;
    const size_t runs = options->repetitions + 1;
    const size_t decode_done = options->prefill ? runs : 0, total = decode_done + (options->decode ? runs : 0);
    sqf_status status;
    SQF_TRY_GOTO(status, sqf_session_create(model, positions, &b.session, err), done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&b.logits, vocabulary, "logits", err), done);
    SQF_TRY_GOTO(status, make_ids(positions, vocabulary, &ids, err), done);
    b.ids = ids;
    SQF_TRY_GOTO(status, fill_cache(&b, err), done);
    SQF_TRY_GOTO(status,
                 time_tokens(&b, options->prefill, options->prefill, options->repetitions, 0, total,
                             &result->prefill_tokens_per_s, &result->prefill_products, err),
                 done);
    SQF_TRY_GOTO(status,
                 time_tokens(&b, options->decode, 1, options->repetitions, decode_done, total,
                             &result->decode_tokens_per_s, &result->decode_products, err),
                 done);
    sqf_cpu_name(result->cpu);
done:
    if (status != SQF_OK) {
        sqf_bench_result_clear(result);
    }
    sqf_session_destroy(b.session);
    free(b.logits);
    free(ids);
    return status;
}

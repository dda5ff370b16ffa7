/* Passes over several sessions: each ends up as it would alone, to the rounding of float products, and lists that are
 * refused leave all as they were. Bits of integer models: whole/test_sessions.c. */
#include "fixture.h"

#include <math.h>

#include "base/random.h"

#define MODELS SQF_SOURCE_DIR "/tests/golden/models"

enum { SESSIONS = 11, VOCABULARY = 64, POSITIONS = 64, STEPS = 4 };

typedef struct batch {
    sqf_context *context;
    sqf_model *model;
    sqf_session *alone[SESSIONS], *together[SESSIONS];
} batch;

static void open_batch(batch *b, const char *name, sqf_kv_type kv, unsigned threads)
{
    sqf_error err = {0};
    char path[512];
    const sqf_context_options options = {.threads = threads};
    snprintf(path, sizeof path, MODELS "/%s", name);
    must(sqf_context_create(&options, &b->context, &err), &err);
    must(sqf_model_open(b->context, path, &b->model, &err), &err);
    for (size_t i = 0; i < SESSIONS; i++) {
        must(sqf_session_create_kv(b->model, POSITIONS, kv, &b->alone[i], &err), &err);
        must(sqf_session_create_kv(b->model, POSITIONS, kv, &b->together[i], &err), &err);
    }
}

static void close_batch(batch *b)
{
    for (size_t i = 0; i < SESSIONS; i++) {
        sqf_session_destroy(b->alone[i]);
        sqf_session_destroy(b->together[i]);
    }
    sqf_model_destroy(b->model);
    sqf_context_destroy(b->context);
}

static void compare(const float *found, const float *want, const char *name, size_t session)
{
    for (size_t i = 0; i < VOCABULARY; i++) {
        if (!(fabsf(found[i] - want[i]) <= 1e-4f)) {
            fail_msg("%s, session %zu, logit %zu: %.9g, alone %.9g", name, session, i, (double)found[i],
                     (double)want[i]);
        }
    }
}

/* One pass over some sessions in random order with random numbers of tokens, against the same tokens alone. */
static void check_step(batch *b, sqf_random *random, bool decode, const char *name)
{
    sqf_error err = {0};
    uint32_t tokens[SESSIONS][12];
    const uint32_t *ids[SESSIONS];
    size_t counts[SESSIONS], order[SESSIONS];
    sqf_session *sessions[SESSIONS];
    float logits[SESSIONS * VOCABULARY], want[VOCABULARY], row[VOCABULARY];
    const size_t count = 1 + sqf_random_below(random, SESSIONS), first = sqf_random_below(random, SESSIONS);
    for (size_t i = 0; i < count; i++) {
        order[i] = (first + 3 * i) % SESSIONS; /* 3 and 11 have no common factor: each once */
        sessions[i] = b->together[order[i]];
        counts[i] = decode ? 1 : 1 + sqf_random_below(random, 12);
        for (size_t t = 0; t < counts[i]; t++) {
            tokens[i][t] = (uint32_t)sqf_random_below(random, VOCABULARY);
        }
        ids[i] = tokens[i];
    }
    must(sqf_sessions_forward(sessions, count, ids, counts, &err), &err);
    must(sqf_sessions_logits(sessions, count, logits, &err), &err);
    for (size_t i = 0; i < count; i++) {
        sqf_session *alone = b->alone[order[i]];
        must(sqf_session_forward(alone, ids[i], counts[i], &err), &err);
        assert_int_equal(sqf_session_length(sessions[i]), sqf_session_length(alone));
        for (size_t t = 0; t < counts[i]; t++) {
            must(sqf_session_logits(alone, t, 1, want, &err), &err);
            must(sqf_session_logits(sessions[i], t, 1, row, &err), &err);
            compare(row, want, name, order[i]);
        }
        compare(logits + i * VOCABULARY, want, name, order[i]);
    }
}

static void check_model(const char *name, sqf_kv_type kv, unsigned threads)
{
    sqf_random random = {20 + threads};
    batch b;
    open_batch(&b, name, kv, threads);
    for (int step = 0; step < STEPS; step++) {
        check_step(&b, &random, step > 0 && step % 2 == 0, name);
    }
    close_batch(&b);
}

static void sessions_of_float_models_agree_to_rounding(void **state)
{
    (void)state;
    static const char *const models[] = {"original", "fp8-fp4", "uniform", "static-mask", "dynamic-mask", "zero-point"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        check_model(models[i], SQF_KV_F32, 1 + (unsigned)(i % 3));
    }
}

/* More tokens than go through the layers at once, in sessions of unequal length. */
static void long_prompts_are_cut_as_alone(void **state)
{
    (void)state;
    sqf_error err = {0};
    fixture f;
    open_fixture(&f, DEMO);
    enum { PROMPTS = 3 };
    static const size_t counts[PROMPTS] = {300, 700, 40};
    const size_t vocabulary = f.vocabulary;
    sqf_session *together[PROMPTS], *alone;
    uint32_t *ids[PROMPTS];
    sqf_random random = {31};
    float *logits = calloc(PROMPTS * vocabulary, sizeof *logits), *want = calloc(vocabulary, sizeof *want);
    for (size_t i = 0; i < PROMPTS; i++) {
        must(sqf_session_create(f.model, counts[i], &together[i], &err), &err);
        ids[i] = calloc(counts[i], sizeof **ids);
        for (size_t t = 0; t < counts[i]; t++) {
            ids[i][t] = (uint32_t)sqf_random_below(&random, vocabulary);
        }
    }
    must(sqf_sessions_forward(together, PROMPTS, (const uint32_t *const *)ids, counts, &err), &err);
    must(sqf_sessions_logits(together, PROMPTS, logits, &err), &err);
    for (size_t i = 0; i < PROMPTS; i++) {
        must(sqf_session_create(f.model, counts[i], &alone, &err), &err);
        const size_t first = counts[i] / 2; /* two calls: each of one piece */
        must(sqf_session_forward(alone, ids[i], first, &err), &err);
        must(sqf_session_forward(alone, ids[i] + first, counts[i] - first, &err), &err);
        must(sqf_session_logits(alone, counts[i] - first - 1, 1, want, &err), &err);
        for (size_t k = 0; k < vocabulary; k++) {
            assert_true(fabsf(logits[i * vocabulary + k] - want[k]) <= 1e-3f);
        }
        sqf_session_destroy(alone);
        sqf_session_destroy(together[i]);
        free(ids[i]);
    }
    free(logits);
    free(want);
    close_fixture(&f);
}

static void expect(sqf_status status, sqf_status wanted, const sqf_error *err, const char *part)
{
    if (status != wanted || !strstr(err->text, part)) {
        fail_msg("found %s \"%s\", expected \"...%s...\"", sqf_status_name(status), err->text, part);
    }
}

static void wrong_lists_change_no_session(void **state)
{
    (void)state;
    sqf_error err = {0};
    batch b, other;
    float logits[2 * VOCABULARY], before[VOCABULARY], after[VOCABULARY];
    open_batch(&b, "uniform", SQF_KV_F32, 1);
    open_batch(&other, "uniform", SQF_KV_F32, 1);
    const uint32_t good[2] = {3, 4}, bad[1] = {VOCABULARY}, long_text[POSITIONS] = {0};
    const uint32_t *ids[2] = {good, good};
    size_t counts[2] = {2, 1};
    sqf_session *sessions[2] = {b.together[0], b.together[0]};
    must(sqf_session_forward(b.together[0], good, 2, &err), &err);
    must(sqf_session_logits(b.together[0], 1, 1, before, &err), &err);
    expect(sqf_sessions_forward(sessions, 2, ids, counts, &err), SQF_E_ARG, &err, "number 1 is listed twice");
    sessions[1] = other.together[0];
    expect(sqf_sessions_forward(sessions, 2, ids, counts, &err), SQF_E_ARG, &err, "number 1 is of another model");
    expect(sqf_sessions_forward(sessions, 0, ids, counts, &err), SQF_E_ARG, &err, "at least one");
    sessions[1] = b.together[1];
    expect(sqf_sessions_logits(sessions, 2, logits, &err), SQF_E_ARG, &err, "number 1 had no tokens");
    counts[1] = 0;
    expect(sqf_sessions_forward(sessions, 2, ids, counts, &err), SQF_E_ARG, &err, "no tokens for number 1");
    counts[1] = 1;
    ids[1] = bad;
    expect(sqf_sessions_forward(sessions, 2, ids, counts, &err), SQF_E_VALUE, &err, "expected an id");
    ids[0] = long_text;
    counts[0] = POSITIONS - 1;
    expect(sqf_sessions_forward(sessions, 2, ids, counts, &err), SQF_E_ARG, &err, "do not fit");
    assert_int_equal(sqf_session_length(b.together[0]), 2);
    assert_int_equal(sqf_session_length(b.together[1]), 0);
    must(sqf_session_logits(b.together[0], 1, 1, after, &err), &err);
    assert_memory_equal(before, after, sizeof before);
    ids[0] = ids[1] = good;
    counts[0] = 1;
    must(sqf_sessions_forward(sessions, 2, ids, counts, &err), &err);
    close_batch(&b);
    close_batch(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_of_float_models_agree_to_rounding),
        cmocka_unit_test(long_prompts_are_cut_as_alone),
        cmocka_unit_test(wrong_lists_change_no_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

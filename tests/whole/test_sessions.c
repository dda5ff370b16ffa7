/* Passes over several sessions of models that are quantized to integers throughout: each session ends up with the bits
 * that it has alone, whatever the others and the number of threads. Models of floats, lists that are refused:
 * model/test_batch.c. */
#include "check.h"

#include <math.h>

#include <sqf/model.h>
#include <sqf/quantize.h>

#define DEMO SQF_SOURCE_DIR "/models/demo"

enum { SESSIONS = 11, VOCABULARY = 2048, POSITIONS = 64, STEPS = 4 };

/* xorshift: the library's own generator is not public. */
static size_t below(uint64_t *state, size_t n)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (size_t)(*state % n);
}

typedef struct batch {
    sqf_context *context;
    sqf_model *model;
    sqf_session *alone[SESSIONS], *together[SESSIONS];
} batch;

static void quantize(const char *name, const char *output)
{
    sqf_error err;
    sqf_scheme scheme;
    sqf_recipe *recipe;
    sqf_context *context;
    sqf_quantize_options options = sqf_quantize_options_default();
    options.calibration = SQF_SOURCE_DIR "/models/demo/text/calib.txt";
    options.samples = 2;
    options.length = 32;
    options.force = true;
    assert_ok(sqf_scheme_parse(name, &scheme, &err), &err);
    const sqf_module_recipe base = sqf_module_recipe_default(&scheme);
    assert_ok(sqf_context_create(NULL, &context, &err), &err);
    assert_ok(sqf_recipe_create(&base, &recipe, &err), &err);
    assert_ok(sqf_quantize(context, DEMO, output, recipe, &options, NULL, &err), &err);
    sqf_recipe_destroy(recipe);
    sqf_context_destroy(context);
}

static void open_batch(batch *b, const char *path, sqf_kv_type kv, unsigned threads)
{
    sqf_error err;
    const sqf_context_options options = {.threads = threads};
    assert_ok(sqf_context_create(&options, &b->context, &err), &err);
    assert_ok(sqf_model_open(b->context, path, &b->model, &err), &err);
    for (size_t i = 0; i < SESSIONS; i++) {
        assert_ok(sqf_session_create_kv(b->model, POSITIONS, kv, &b->alone[i], &err), &err);
        assert_ok(sqf_session_create_kv(b->model, POSITIONS, kv, &b->together[i], &err), &err);
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

/* To the bit, or to `tolerance` if it is not 0. */
static void compare(const float *found, const float *want, double tolerance, const char *name, size_t session)
{
    for (size_t i = 0; i < VOCABULARY; i++) {
        const double difference = fabs((double)found[i] - (double)want[i]);
        if (tolerance == 0 ? memcmp(&found[i], &want[i], sizeof *found) != 0 : !(difference <= tolerance)) {
            fail_msg("%s, session %zu, logit %zu: %.9g, alone %.9g", name, session, i, (double)found[i],
                     (double)want[i]);
        }
    }
}

/* One pass over some sessions in random order with random numbers of tokens, against the same tokens alone. */
static void check_step(batch *b, uint64_t *random, bool decode, const char *name)
{
    sqf_error err;
    uint32_t tokens[SESSIONS][12];
    const uint32_t *ids[SESSIONS];
    size_t counts[SESSIONS], order[SESSIONS];
    sqf_session *sessions[SESSIONS];
    float logits[SESSIONS * VOCABULARY], want[VOCABULARY], row[VOCABULARY];
    const size_t count = 1 + below(random, SESSIONS), first = below(random, SESSIONS);
    for (size_t i = 0; i < count; i++) {
        order[i] = (first + 3 * i) % SESSIONS; /* 3 and 11 have no common factor: each once */
        sessions[i] = b->together[order[i]];
        counts[i] = decode ? 1 : 1 + below(random, 12);
        for (size_t t = 0; t < counts[i]; t++) {
            tokens[i][t] = (uint32_t)below(random, VOCABULARY);
        }
        ids[i] = tokens[i];
    }
    assert_ok(sqf_sessions_forward(sessions, count, ids, counts, &err), &err);
    assert_ok(sqf_sessions_logits(sessions, count, logits, &err), &err);
    for (size_t i = 0; i < count; i++) {
        sqf_session *alone = b->alone[order[i]];
        assert_ok(sqf_session_forward(alone, ids[i], counts[i], &err), &err);
        assert_int_equal(sqf_session_length(sessions[i]), sqf_session_length(alone));
        for (size_t t = 0; t < counts[i]; t++) {
            assert_ok(sqf_session_logits(alone, t, 1, want, &err), &err);
            assert_ok(sqf_session_logits(sessions[i], t, 1, row, &err), &err);
            compare(row, want, 0, name, order[i]);
        }
        /* the demo's output matrix is of floats: a product for many tokens rounds otherwise */
        compare(logits + i * VOCABULARY, want, 1e-3, name, order[i]);
    }
}

static void check_model(const char *name, const char *path, sqf_kv_type kv, unsigned threads)
{
    uint64_t random = 20 + threads;
    batch b;
    open_batch(&b, path, kv, threads);
    for (int step = 0; step < STEPS; step++) {
        check_step(&b, &random, step > 0 && step % 2 == 0, name);
    }
    close_batch(&b);
}

static void sessions_of_integer_models_have_the_bits_they_have_alone(void **state)
{
    (void)state;
    static const char *const schemes[] = {
        "W4A8",           "W4A4", "W4A(SQ6)", "W(SQ5)A8", "W4A(SQ5);mask=dynamic", "W4A8;scale=group,group=64",
        "W8A8;zero=point"};
    static const sqf_kv_type types[] = {SQF_KV_F32, SQF_KV_F16, SQF_KV_INT8};
    char scratch[64], path[80];
    make_scratch(scratch);
    snprintf(path, sizeof path, "%s/model", scratch);
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        quantize(schemes[i], path);
        check_model(schemes[i], path, types[i % 3], 1 + (unsigned)(i % 3));
    }
    remove_scratch(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_of_integer_models_have_the_bits_they_have_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

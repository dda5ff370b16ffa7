/* Models on a device against the same on the CPU: every golden model (all forms of weights, all ways of quantizing
 * inputs), prefill, decoding by recorded steps, batches, KV caches of every type, and what leaves a session as it was.
 */
#include "device.h"

#include <sqf/generate.h>

enum { TOKENS = 12, POSITIONS = 24, VOCABULARY_MOST = 2048 };

/* Where all inputs are integers logits differ by the order of float sums. Inputs that stay in floating point are held
 * in bf16 or fp16 on a device where the weights are: of these models, whose weights are random, that moves logits by a
 * hundredth. */
#define INTEGER_TOLERANCE 1e-6
#define HALF_TOLERANCE    3e-2

static const uint32_t ids[TOKENS] = {28, 53, 48, 1, 46, 15, 32, 20, 9, 12, 61, 3};

/* Most have an output matrix in bf16. */
static const struct {
    const char *name;
    double tolerance;
} golden[] = {
    {"original", HALF_TOLERANCE},        {"uniform", HALF_TOLERANCE},
    {"vmask", HALF_TOLERANCE},           {"bitmask-tied", HALF_TOLERANCE},
    {"vmask-tied-int2", HALF_TOLERANCE}, {"fp8-fp4", HALF_TOLERANCE},
    {"half-high", HALF_TOLERANCE},       {"pruned", HALF_TOLERANCE},
    {"static-mask", HALF_TOLERANCE},     {"dynamic-mask", HALF_TOLERANCE},
    {"static-scale", HALF_TOLERANCE},    {"static-zero", HALF_TOLERANCE},
    {"zero-point", HALF_TOLERANCE},      {"tied-vocabulary", INTEGER_TOLERANCE},
    {"two-matrices", INTEGER_TOLERANCE},
};
enum { GOLDEN_COUNT = sizeof golden / sizeof *golden };

static void open_golden(pair *p, const char *name)
{
    char path[PATH_ROOM];
    snprintf(path, sizeof path, GOLDEN "/%s", name);
    open_pair(p, path);
}

static void compare(const float *found, const float *want, size_t n, double tolerance, const char *what, size_t number)
{
    const double off = distance(found, want, n);
    if (!(off <= tolerance)) {
        fail_msg("%s, row %zu: logits differ by %.3g", what, number, off);
    }
}

/* All tokens at once: the logits of each. */
static void prefill_agrees(const char *name, double tolerance)
{
    static float logits[PLACES][TOKENS * VOCABULARY_MOST];
    sqf_error err;
    pair p;
    open_golden(&p, name);
    for (int i = 0; i < PLACES; i++) {
        sqf_session *session = open_session(p.model[i], POSITIONS, SQF_KV_F32);
        assert_ok(sqf_session_forward(session, ids, TOKENS, &err), &err);
        assert_ok(sqf_session_logits(session, 0, TOKENS, logits[i], &err), &err);
        sqf_session_destroy(session);
    }
    for (size_t t = 0; t < TOKENS; t++) {
        compare(logits[GPU] + t * p.vocabulary, logits[CPU] + t * p.vocabulary, p.vocabulary, tolerance, name, t);
    }
    const sqf_product_counts a = sqf_context_products(p.context[CPU]), b = sqf_context_products(p.context[GPU]);
    assert_memory_equal(&a, &b, sizeof a);
    close_pair(&p);
}

/* A few tokens at once, then one at a time: queued, recorded and replayed steps. */
static void decoding_agrees(const char *name, sqf_kv_type kv, double tolerance)
{
    enum { PROMPT = 5 };
    float logits[PLACES][VOCABULARY_MOST];
    sqf_error err;
    pair p;
    open_golden(&p, name);
    sqf_session *session[PLACES];
    for (int i = 0; i < PLACES; i++) {
        session[i] = open_session(p.model[i], POSITIONS, kv);
        assert_ok(sqf_session_forward(session[i], ids, PROMPT, &err), &err);
    }
    for (size_t t = PROMPT; t < TOKENS; t++) {
        for (int i = 0; i < PLACES; i++) {
            assert_ok(sqf_session_forward(session[i], ids + t, 1, &err), &err);
            assert_ok(sqf_session_logits(session[i], 0, 1, logits[i], &err), &err);
        }
        compare(logits[GPU], logits[CPU], p.vocabulary, tolerance, name, t);
    }
    assert_int_equal(sqf_session_kv_bytes(session[CPU]) >= sqf_session_kv_bytes(session[GPU]), 1);
    const sqf_product_counts a = sqf_context_products(p.context[CPU]), b = sqf_context_products(p.context[GPU]);
    assert_memory_equal(&a, &b, sizeof a);
    for (int i = 0; i < PLACES; i++) {
        sqf_session_destroy(session[i]);
    }
    close_pair(&p);
}

static void test_prefills(void **state)
{
    (void)state;
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        prefill_agrees(golden[i].name, golden[i].tolerance);
    }
}

static void test_decoding(void **state)
{
    (void)state;
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        decoding_agrees(golden[i].name, SQF_KV_F32, golden[i].tolerance);
    }
    decoding_agrees("tied-vocabulary", SQF_KV_F16, INTEGER_TOLERANCE);
    decoding_agrees("two-matrices", SQF_KV_INT8, INTEGER_TOLERANCE);
}

/* The logits of one session's tokens, one step at a time, on a device with or without recorded steps. */
static void decode_steps(const char *graphs, float *logits, sqf_product_counts *products)
{
    sqf_error err;
    assert_int_equal(setenv("SQF_CUDA_GRAPHS", graphs, 1), 0);
    sqf_context *context = open_context("cuda:0");
    sqf_model *model;
    assert_ok(sqf_model_open(context, GOLDEN "/vmask", &model, &err), &err);
    const size_t vocabulary = sqf_model_info_get(model).vocabulary;
    sqf_session *session = open_session(model, POSITIONS, SQF_KV_F16);
    for (size_t t = 0; t < TOKENS; t++) {
        assert_ok(sqf_session_forward(session, ids + t, 1, &err), &err);
        assert_ok(sqf_session_logits(session, 0, 1, logits + t * vocabulary, &err), &err);
    }
    *products = sqf_context_products(context);
    sqf_session_destroy(session);
    sqf_model_destroy(model);
    sqf_context_destroy(context);
    assert_int_equal(unsetenv("SQF_CUDA_GRAPHS"), 0);
}

static void test_recorded_steps_have_the_bits_of_queued_ones(void **state)
{
    (void)state;
    static float logits[2][TOKENS * VOCABULARY_MOST];
    sqf_product_counts products[2];
    decode_steps("1", logits[0], &products[0]);
    decode_steps("0", logits[1], &products[1]);
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    assert_memory_equal(&products[0], &products[1], sizeof products[0]);
}

/* Sessions of several lengths, sizes and cache types in one pass: what each has alone. */
static void test_batches(void **state)
{
    (void)state;
    enum { SESSIONS = 4, STEPS = 4 };
    static const sqf_kv_type types[SESSIONS] = {SQF_KV_F32, SQF_KV_F32, SQF_KV_INT8, SQF_KV_F32};
    static const size_t positions[SESSIONS] = {POSITIONS, POSITIONS, POSITIONS, 64}, prompts[SESSIONS] = {3, 5, 2, 1};
    static float together[SESSIONS * VOCABULARY_MOST];
    float alone[VOCABULARY_MOST];
    sqf_session *many[SESSIONS], *one[SESSIONS];
    const uint32_t *next[SESSIONS];
    size_t counts[SESSIONS];
    sqf_error err;
    pair p;
    open_golden(&p, "tied-vocabulary");
    for (size_t i = 0; i < SESSIONS; i++) {
        many[i] = open_session(p.model[GPU], positions[i], types[i]);
        one[i] = open_session(p.model[CPU], positions[i], types[i]);
    }
    for (size_t step = 0; step < STEPS; step++) {
        for (size_t i = 0; i < SESSIONS; i++) {
            counts[i] = step == 0 ? prompts[i] : 1;
            next[i] = ids + sqf_session_length(many[i]);
        }
        const size_t count = step % 2 ? 2 : SESSIONS; /* the first two have caches alike: a recorded step */
        assert_ok(sqf_sessions_forward(many, count, next, counts, &err), &err);
        assert_ok(sqf_sessions_logits(many, count, together, &err), &err);
        for (size_t i = 0; i < count; i++) {
            assert_ok(sqf_session_forward(one[i], next[i], counts[i], &err), &err);
            assert_ok(sqf_session_logits(one[i], counts[i] - 1, 1, alone, &err), &err);
            compare(together + i * p.vocabulary, alone, p.vocabulary, INTEGER_TOLERANCE, "batch", i);
        }
    }
    assert_ok(sqf_sessions_logits(many + 1, SESSIONS - 1, together, &err), &err); /* of different calls: gathered */
    assert_ok(sqf_session_logits(many[3], 0, 1, alone, &err), &err);
    compare(together + 2 * p.vocabulary, alone, p.vocabulary, 0, "gathered", 3);
    for (size_t i = 0; i < SESSIONS; i++) {
        sqf_session_destroy(many[i]);
        sqf_session_destroy(one[i]);
    }
    close_pair(&p);
}

/* A refused call changes nothing; what was forgotten can be said again. */
static void test_failures_and_truncation(void **state)
{
    (void)state;
    float before[VOCABULARY_MOST], after[VOCABULARY_MOST];
    const uint32_t beyond = 64;
    sqf_error err;
    pair p;
    open_golden(&p, "two-matrices");
    sqf_session *session = open_session(p.model[GPU], TOKENS, SQF_KV_F32);
    assert_fails(sqf_session_logits(session, 0, 1, before, &err), SQF_E_ARG, &err, "the last call had 0 tokens");
    assert_ok(sqf_session_forward(session, ids, 6, &err), &err);
    assert_ok(sqf_session_logits(session, 5, 1, before, &err), &err);
    assert_fails(sqf_session_forward(session, &beyond, 1, &err), SQF_E_VALUE, &err, "found 64");
    assert_fails(sqf_session_forward(session, ids, TOKENS, &err), SQF_E_ARG, &err, "do not fit");
    assert_int_equal(sqf_session_length(session), 6);
    assert_ok(sqf_session_logits(session, 5, 1, after, &err), &err);
    assert_memory_equal(before, after, p.vocabulary * sizeof *before);
    assert_ok(sqf_session_forward(session, ids + 3, 3, &err), &err);
    sqf_session_truncate(session, 5);
    assert_fails(sqf_session_logits(session, 0, 1, after, &err), SQF_E_ARG, &err, "the last call had 0 tokens");
    assert_ok(sqf_session_forward(session, ids + 5, 1, &err), &err);
    assert_ok(sqf_session_logits(session, 0, 1, after, &err), &err);
    compare(after, before, p.vocabulary, INTEGER_TOLERANCE, "after truncation", 5);
    sqf_session_reset(session);
    assert_ok(sqf_session_forward(session, ids, 6, &err), &err);
    assert_ok(sqf_session_logits(session, 5, 1, after, &err), &err);
    assert_memory_equal(before, after, p.vocabulary * sizeof *before);
    sqf_session_destroy(session);
    close_pair(&p);
}

/* The same ids from the same seed. */
static void generation_agrees(const sqf_sampling *sampling)
{
    enum { DRAWN = 16 };
    sqf_generation out[PLACES];
    sqf_error err;
    pair p;
    open_golden(&p, "two-matrices");
    for (int i = 0; i < PLACES; i++) {
        const sqf_generate_options options = {.max_tokens = DRAWN, .sampling = *sampling};
        sqf_session *session = open_session(p.model[i], POSITIONS, SQF_KV_F32);
        assert_ok(sqf_generate(p.model[i], session, NULL, ids, 4, &options, &out[i], &err), &err);
        assert_int_equal(sqf_session_length(session), 4 + DRAWN - 1);
        sqf_session_destroy(session);
    }
    assert_int_equal(out[CPU].ids.count, out[GPU].ids.count);
    assert_memory_equal(out[CPU].ids.data, out[GPU].ids.data, out[CPU].ids.count * sizeof *out[CPU].ids.data);
    const sqf_product_counts a = sqf_context_products(p.context[CPU]), b = sqf_context_products(p.context[GPU]);
    assert_memory_equal(&a, &b, sizeof a);
    for (int i = 0; i < PLACES; i++) {
        sqf_ids_clear(&out[i].ids);
    }
    close_pair(&p);
}

static void test_generation(void **state)
{
    (void)state;
    generation_agrees(&(sqf_sampling){0});
    generation_agrees(&(sqf_sampling){.temperature = 1, .seed = 7});
    generation_agrees(&(sqf_sampling){.temperature = 0.8f, .top_k = 5, .repetition_penalty = 1.3f, .seed = 8});
    generation_agrees(&(sqf_sampling){.temperature = 1.2f, .top_p = 0.7f, .min_p = 0.01f, .seed = 9});
}

/* Several models on one device, one after the other and side by side. */
static void test_two_models_share_a_device(void **state)
{
    (void)state;
    float first[VOCABULARY_MOST], again[VOCABULARY_MOST];
    sqf_error err;
    sqf_context *context = open_context("cuda");
    sqf_model *model[2];
    sqf_session *session[2];
    assert_non_null(strstr(sqf_context_device(context), "cuda:0: "));
    assert_string_equal(sqf_context_device_name(context), "cuda:0");
    for (int i = 0; i < 2; i++) {
        assert_ok(sqf_model_open(context, i ? GOLDEN "/two-matrices" : GOLDEN "/fp8-fp4", &model[i], &err), &err);
        session[i] = open_session(model[i], POSITIONS, SQF_KV_F32);
    }
    const size_t vocabulary = sqf_model_info_get(model[0]).vocabulary;
    for (int round = 0; round < 2; round++) {
        for (size_t t = 0; t < 4; t++) {
            assert_ok(sqf_session_forward(session[0], ids + t, 1, &err), &err);
            assert_ok(sqf_session_forward(session[1], ids + t, 1, &err), &err);
        }
        assert_ok(sqf_session_logits(session[0], 0, 1, round ? again : first, &err), &err);
        sqf_session_reset(session[0]);
        sqf_session_reset(session[1]);
        assert_ok(sqf_session_forward(session[1], ids, TOKENS, &err), &err);
        sqf_session_reset(session[1]);
    }
    assert_memory_equal(first, again, vocabulary * sizeof *first);
    for (int i = 0; i < 2; i++) {
        sqf_session_destroy(session[i]);
        sqf_model_destroy(model[i]);
    }
    sqf_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefills),
        cmocka_unit_test(test_decoding),
        cmocka_unit_test(test_recorded_steps_have_the_bits_of_queued_ones),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_failures_and_truncation),
        cmocka_unit_test(test_generation),
        cmocka_unit_test(test_two_models_share_a_device),
    };
    return device_exists() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}

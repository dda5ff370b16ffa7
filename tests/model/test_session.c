/* Sessions: prefill and decoding agree, the cache holds what was fed, failures leave everything as it was. */
#include "tiny.h"

/* A tiny model with a sliding window, so that positions matter in every layer. */
typedef struct sample {
    tiny directory;
    sqf_context *context;
    sqf_model *model;
    uint32_t ids[48];
} sample;

enum { IDS = 48, VOCABULARY = 101 };

static void open_sample(sample *s, unsigned threads)
{
    sqf_error err = {0};
    sqf_context_options options = {.threads = threads};
    json_t *config =
        json_pack("{s:[s], s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:i, s:i, s:b}", "architectures", "Qwen2ForCausalLM",
                  "hidden_size", 36, "intermediate_size", 50, "num_attention_heads", 6, "num_key_value_heads", 2,
                  "vocab_size", VOCABULARY, "num_hidden_layers", 2, "max_position_embeddings", 2048,
                  "use_sliding_window", 1, "sliding_window", 9, "max_window_layers", 1, "tie_word_embeddings", 0);
    sqf_random random = {.state = 7};
    tiny_create(&s->directory, config, SQF_DTYPE_F32, 0);
    json_decref(config);
    must(sqf_context_create(&options, &s->context, &err), &err);
    must(sqf_model_open(s->context, s->directory.path, &s->model, &err), &err);
    for (size_t i = 0; i < IDS; i++) {
        s->ids[i] = (uint32_t)sqf_random_below(&random, VOCABULARY);
    }
}

static void close_sample(sample *s)
{
    sqf_model_destroy(s->model);
    sqf_context_destroy(s->context);
    tiny_remove(&s->directory);
}

/* Logits of all ids, fed `step` at a time; for free(). */
static float *feed(const sample *s, const uint32_t *ids, size_t count, size_t step)
{
    sqf_error err = {0};
    sqf_session *session;
    float *logits = calloc(count * VOCABULARY, sizeof *logits);
    must(sqf_session_create(s->model, count, &session, &err), &err);
    for (size_t i = 0; i < count; i += step) {
        const size_t n = count - i < step ? count - i : step;
        must(sqf_session_forward(session, ids + i, n, &err), &err);
        must(sqf_session_logits(session, 0, n, logits + i * VOCABULARY, &err), &err);
    }
    assert_int_equal(sqf_session_length(session), count);
    sqf_session_destroy(session);
    return logits;
}

static double largest_difference(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        const double difference = fabs((double)a[i] - (double)b[i]);
        worst = difference > worst || isnan(difference) ? difference : worst;
    }
    return worst;
}

static void test_prefill_and_decode_agree(void **state)
{
    sample s;
    (void)state;
    open_sample(&s, 2);
    float *whole = feed(&s, s.ids, IDS, IDS);
    for (size_t step = 1; step < IDS; step = step * 2 + 1) {
        float *parts = feed(&s, s.ids, IDS, step);
        assert_true(largest_difference(whole, parts, IDS * VOCABULARY) < 1e-4);
        free(parts);
    }
    free(whole);
    close_sample(&s);
}

/* Longer than a chunk of the prefill and than the first size of the cache. */
static void test_long_prefill_equals_parts(void **state)
{
    enum { LONG = 1100 };
    sample s;
    uint32_t ids[LONG];
    (void)state;
    open_sample(&s, 2);
    for (size_t i = 0; i < LONG; i++) {
        ids[i] = s.ids[i % IDS];
    }
    float *whole = feed(&s, ids, LONG, LONG), *parts = feed(&s, ids, LONG, 37);
    assert_true(largest_difference(whole, parts, (size_t)LONG * VOCABULARY) < 1e-4);
    free(whole);
    free(parts);
    close_sample(&s);
}

static void test_results_do_not_depend_on_threads(void **state)
{
    sample one, three;
    (void)state;
    open_sample(&one, 1);
    open_sample(&three, 3);
    float *a = feed(&one, one.ids, IDS, 13), *b = feed(&three, three.ids, IDS, 13);
    assert_memory_equal(a, b, IDS * VOCABULARY * sizeof *a);
    free(a);
    free(b);
    close_sample(&one);
    close_sample(&three);
}

static void test_failure_leaves_session_as_before(void **state)
{
    sample s;
    sqf_session *session;
    sqf_error err = {0};
    float before[VOCABULARY], after[VOCABULARY];
    (void)state;
    open_sample(&s, 2);
    must(sqf_session_create(s.model, 20, &session, &err), &err);
    must(sqf_session_forward(session, s.ids, 12, &err), &err);
    must(sqf_session_logits(session, 11, 1, before, &err), &err);
    assert_int_equal(sqf_session_forward(session, s.ids, 9, &err), SQF_E_ARG);
    assert_non_null(strstr(err.text, "9 tokens do not fit: room for 8 of 20"));
    const uint32_t beyond[] = {1, VOCABULARY};
    assert_int_equal(sqf_session_forward(session, beyond, 2, &err), SQF_E_VALUE);
    assert_non_null(strstr(err.text, "found 101"));
    assert_int_equal(sqf_session_logits(session, 11, 2, after, &err), SQF_E_ARG);
    assert_int_equal(sqf_session_length(session), 12);
    must(sqf_session_logits(session, 11, 1, after, &err), &err);
    assert_memory_equal(before, after, sizeof before);
    must(sqf_session_forward(session, s.ids + 12, 8, &err), &err);
    must(sqf_session_logits(session, 7, 1, after, &err), &err);
    float *whole = feed(&s, s.ids, 20, 20);
    assert_true(largest_difference(whole + 19 * VOCABULARY, after, VOCABULARY) < 1e-4);
    free(whole);
    sqf_session_destroy(session);
    close_sample(&s);
}

/* Other tokens behind a kept beginning give what they give in a session of their own, wherever it is cut. */
static void test_truncation_keeps_the_beginning(void **state)
{
    sample s;
    sqf_session *session;
    sqf_error err = {0};
    uint32_t other[IDS];
    float logits[VOCABULARY];
    (void)state;
    open_sample(&s, 2);
    must(sqf_session_create(s.model, IDS, &session, &err), &err);
    must(sqf_session_forward(session, s.ids, IDS, &err), &err);
    for (size_t kept = IDS - 1; kept > 0; kept = kept / 2) {
        memcpy(other, s.ids, sizeof other);
        for (size_t i = kept; i < IDS; i++) {
            other[i] = (uint32_t)((s.ids[i] + 1 + kept) % VOCABULARY);
        }
        float *expected = feed(&s, other, IDS, IDS);
        sqf_session_truncate(session, kept);
        assert_int_equal(sqf_session_length(session), kept);
        assert_int_equal(sqf_session_logits(session, 0, 1, logits, &err), SQF_E_ARG);
        must(sqf_session_forward(session, other + kept, IDS - kept, &err), &err);
        must(sqf_session_logits(session, IDS - kept - 1, 1, logits, &err), &err);
        assert_true(largest_difference(expected + (IDS - 1) * VOCABULARY, logits, VOCABULARY) < 1e-4);
        free(expected);
    }
    sqf_session_truncate(session, IDS + 5);
    assert_int_equal(sqf_session_length(session), IDS);
    must(sqf_session_logits(session, 0, 1, logits, &err), &err);
    sqf_session_destroy(session);
    close_sample(&s);
}

/* Every type of cache: growth, truncation and pieces keep what was stored; f16 and int8 are near f32 and not equal to
 * it; names go both ways. */
static void test_types_of_the_cache(void **state)
{
    enum { LONG = 600 }; /* the cache grows twice */
    sample s;
    sqf_error err = {0};
    sqf_kv_type type;
    uint32_t ids[LONG];
    float logits[3][VOCABULARY], again[VOCABULARY];
    uint64_t bytes[3];
    (void)state;
    open_sample(&s, 2);
    for (size_t i = 0; i < LONG; i++) {
        ids[i] = s.ids[i * 7 % IDS];
    }
    for (int kv = SQF_KV_F32; kv <= SQF_KV_INT8; kv++) {
        sqf_session *session;
        must(sqf_kv_type_parse(sqf_kv_type_name((sqf_kv_type)kv), &type, &err), &err);
        assert_int_equal(type, kv);
        must(sqf_session_create_kv(s.model, LONG, type, &session, &err), &err);
        bytes[kv] = sqf_session_kv_bytes(session);
        must(sqf_session_forward(session, ids, LONG, &err), &err);
        must(sqf_session_logits(session, LONG - 1, 1, logits[kv], &err), &err);
        sqf_session_destroy(session); /* one that grows with tokens in it */
        must(sqf_session_create_kv(s.model, LONG, type, &session, &err), &err);
        must(sqf_session_forward(session, ids, 250, &err), &err);
        sqf_session_truncate(session, 200);
        for (size_t i = 200, step = 1; i < LONG; i += step, step = step * 2 < LONG - i ? step * 2 : 1) {
            step = step < LONG - i ? step : LONG - i;
            must(sqf_session_forward(session, ids + i, step, &err), &err);
            must(sqf_session_logits(session, step - 1, 1, again, &err), &err);
        }
        assert_true(largest_difference(logits[kv], again, VOCABULARY) < (kv == SQF_KV_F32 ? 1e-4 : 2e-2));
        sqf_session_destroy(session);
    }
    const double half = largest_difference(logits[0], logits[1], VOCABULARY);
    const double byte = largest_difference(logits[0], logits[2], VOCABULARY);
    assert_true(half > 0 && half < 1e-2 && byte > half && byte < 0.3);
    assert_true(bytes[1] * 2 == bytes[0]);
    assert_true(bytes[2] == bytes[0] / 4 + 2 * 2 * 2 * sizeof(float)); /* 2 layers, keys and values, 2 heads */
    assert_int_equal(sqf_kv_type_parse("f8", &type, &err), SQF_E_ARG);
    assert_non_null(strstr(err.text, "expected f32, f16 or int8, found f8"));
    close_sample(&s);
}

static void test_reset_forgets(void **state)
{
    sample s;
    sqf_session *session;
    sqf_error err = {0};
    float first[VOCABULARY], again[VOCABULARY];
    (void)state;
    open_sample(&s, 2);
    must(sqf_session_create(s.model, 48, &session, &err), &err);
    must(sqf_session_forward(session, s.ids, 20, &err), &err);
    must(sqf_session_logits(session, 19, 1, first, &err), &err);
    must(sqf_session_forward(session, s.ids, 28, &err), &err);
    sqf_session_reset(session);
    assert_int_equal(sqf_session_logits(session, 0, 1, again, &err), SQF_E_ARG);
    must(sqf_session_forward(session, s.ids, 20, &err), &err);
    must(sqf_session_logits(session, 19, 1, again, &err), &err);
    assert_memory_equal(first, again, sizeof first);
    sqf_session_destroy(session);
    close_sample(&s);
}

static void test_positions_are_bounded_by_the_model(void **state)
{
    sample s;
    sqf_session *session;
    sqf_error err = {0};
    (void)state;
    open_sample(&s, 1);
    assert_int_equal(sqf_session_create(s.model, 0, &session, &err), SQF_E_ARG);
    assert_int_equal(sqf_session_create(s.model, 2049, &session, &err), SQF_E_ARG);
    assert_null(session);
    assert_non_null(strstr(err.text, "expected 1 to 2048"));
    assert_non_null(strstr(err.text, "found 2049"));
    close_sample(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefill_and_decode_agree),
        cmocka_unit_test(test_long_prefill_equals_parts),
        cmocka_unit_test(test_results_do_not_depend_on_threads),
        cmocka_unit_test(test_failure_leaves_session_as_before),
        cmocka_unit_test(test_truncation_keeps_the_beginning),
        cmocka_unit_test(test_types_of_the_cache),
        cmocka_unit_test(test_reset_forgets),
        cmocka_unit_test(test_positions_are_bounded_by_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

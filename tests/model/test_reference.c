/* Reference models: our logits, greedy texts and log-probabilities against those that PyTorch computed. */
#include "fixture.h"

#include <math.h>

#include "kernels/ops.h"

static void check_top(const float *logits, const json_t *top)
{
    double worst = 0;
    assert_int_equal(json_array_size(top), 20);
    for (size_t i = 0; i < 20; i++) {
        const json_t *pair = json_array_get(top, i);
        const size_t id = (size_t)json_integer_value(json_array_get(pair, 0));
        worst = fmax(worst, fabs((double)logits[id] - json_number_value(json_array_get(pair, 1))));
    }
    print_message("top-20 logits: largest deviation %.2g\n", worst);
    assert_true(worst < 2e-3);
}

static void top_two(const float *logits, size_t n, uint32_t *best, float *gap)
{
    float second = -INFINITY;
    *best = 0;
    for (size_t i = 1; i < n; i++) {
        if (logits[i] > logits[*best]) {
            second = logits[*best];
            *best = (uint32_t)i;
        } else {
            second = fmaxf(second, logits[i]);
        }
    }
    *gap = logits[*best] - second;
}

/* Greedy decoding agrees until the two largest logits are closer than float32 arithmetic can order. */
static void check_greedy(const fixture *f, sqf_session *session, const float *last, const json_t *expected)
{
    sqf_error err = {0};
    float *logits = calloc(f->vocabulary, sizeof *logits);
    memcpy(logits, last, f->vocabulary * sizeof *logits);
    size_t agreed = 0;
    for (; agreed < json_array_size(expected); agreed++) {
        uint32_t id;
        float gap;
        top_two(logits, f->vocabulary, &id, &gap);
        if (gap <= 1e-3f) {
            break;
        }
        assert_int_equal(id, json_integer_value(json_array_get(expected, agreed)));
        must(sqf_session_forward(session, &id, 1, &err), &err);
        must(sqf_session_logits(session, 0, 1, logits, &err), &err);
    }
    print_message("greedy: %zu of %zu ids compared\n", agreed, json_array_size(expected));
    assert_true(agreed >= 8);
    free(logits);
}

static double sum_logprob(const float *logits, size_t vocabulary, const uint32_t *ids, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i + 1 < count; i++) {
        sum += sqf_log_softmax(logits + i * vocabulary, vocabulary, ids[i + 1], NULL);
    }
    return sum;
}

static void check_prompt(const fixture *f, const json_t *ids_json, const json_t *top, const json_t *greedy,
                         const json_t *logprob)
{
    size_t count;
    sqf_session *session;
    uint32_t *ids = read_ids(ids_json, &count);
    float *logits = run(f, ids, count, &session);
    check_top(logits + (count - 1) * f->vocabulary, top);
    if (logprob) {
        const double sum = sum_logprob(logits, f->vocabulary, ids, count);
        assert_true(fabs(sum - json_number_value(logprob)) < 2e-3);
    }
    check_greedy(f, session, logits + (count - 1) * f->vocabulary, greedy);
    sqf_session_destroy(session);
    free(logits);
    free(ids);
}

static void test_demo_prompts_match_pytorch(void **state)
{
    fixture f;
    size_t i;
    json_t *item;
    (void)state;
    open_fixture(&f, DEMO);
    json_array_foreach(json_object_get(f.reference, "prompts"), i, item)
    {
        check_prompt(&f, json_object_get(item, "ids"), json_object_get(item, "last_logits_top20"),
                     json_object_get(item, "greedy_ids"), json_object_get(item, "sum_logprob"));
    }
    close_fixture(&f);
}

static void test_stories_prompt_matches_pytorch(void **state)
{
    fixture f;
    (void)state;
    need_file(STORIES);
    open_fixture(&f, STORIES);
    check_prompt(&f, json_object_get(f.reference, "prompt_ids_with_bos"),
                 json_object_get(f.reference, "last_logits_top20"), json_object_get(f.reference, "greedy_ids"), NULL);
    close_fixture(&f);
}

static void test_facts_of_the_demo_model(void **state)
{
    fixture f;
    size_t count;
    (void)state;
    open_fixture(&f, DEMO);
    const sqf_model_info info = sqf_model_info_get(f.model);
    assert_int_equal(info.parameters, 3672320);
    assert_int_equal(info.weight_bytes, 2 * 3672320);
    assert_int_equal(info.quantized_weights, 0);
    assert_string_equal(info.scheme, "BF16");
    assert_string_equal(info.architecture, "LlamaForCausalLM");
    assert_true(info.bits_per_weight == 16 && info.weights_equivalent_bits == 16);
    const uint32_t *end = sqf_model_end_ids(f.model, &count);
    assert_int_equal(count, 1);
    assert_int_equal(end[0], 2047);
    const sqf_sampling sampling = sqf_model_sampling(f.model);
    assert_true(sampling.temperature == 0.8f && sampling.top_p == 0.95f && sampling.top_k == 50);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_demo_prompts_match_pytorch),
        cmocka_unit_test(test_stories_prompt_matches_pytorch),
        cmocka_unit_test(test_facts_of_the_demo_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

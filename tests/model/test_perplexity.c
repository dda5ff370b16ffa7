/* Perplexity of the demo model on two texts, against the figures that PyTorch gave (reference.json). */
#include "fixture.h"

#include <math.h>

#include "kernels/ops.h"

static double sum_logprob(const float *logits, size_t vocabulary, const uint32_t *ids, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i + 1 < count; i++) {
        sum += sqf_log_softmax(logits + i * vocabulary, vocabulary, ids[i + 1], NULL);
    }
    return sum;
}

/* The sum of negative log-probabilities of one window, its first token not scored. */
static double window_nll(sqf_session *session, const uint32_t *ids, size_t count, float *logits, size_t vocabulary)
{
    sqf_error err = {0};
    sqf_session_reset(session);
    must(sqf_session_forward(session, ids, count, &err), &err);
    must(sqf_session_logits(session, 0, count, logits, &err), &err);
    return -sum_logprob(logits, vocabulary, ids, count);
}

static void check_perplexity(const fixture *f, const char *name, const json_t *expected)
{
    enum { WINDOW = 512, TOKENS = 32768 };
    sqf_error err = {0};
    sqf_buffer text;
    sqf_ids ids = {0};
    sqf_tokenizer *tokenizer;
    sqf_session *session;
    char path[1024];
    snprintf(path, sizeof path, "%s/data/%s", SHARED, name);
    need_file(path);
    must(sqf_file_read(path, 1 << 28, &text, &err), &err);
    must(sqf_tokenizer_load(DEMO, &tokenizer, &err), &err);
    must(sqf_tokenizer_encode(tokenizer, text.data, text.size, false, &ids, &err), &err);
    must(sqf_session_create(f->model, WINDOW, &session, &err), &err);
    float *logits = calloc((size_t)WINDOW * f->vocabulary, sizeof *logits);
    double sum = 0;
    for (size_t begin = 0; begin < TOKENS; begin += WINDOW) {
        sum += window_nll(session, ids.data + begin, WINDOW, logits, f->vocabulary);
    }
    const double perplexity = exp(sum / (TOKENS / WINDOW * (WINDOW - 1)));
    const double wanted = json_number_value(json_object_get(expected, "perplexity_per_token"));
    print_message("%s: perplexity %.6f, PyTorch %.6f\n", name, perplexity, wanted);
    assert_true(fabs(perplexity / wanted - 1) < 5e-4);
    free(logits);
    free(text.data);
    sqf_ids_clear(&ids);
    sqf_session_destroy(session);
    sqf_tokenizer_destroy(tokenizer);
}

static void check_demo_perplexity(const char *name)
{
    fixture f;
    need_file(SHARED "/data");
    open_fixture(&f, DEMO);
    check_perplexity(&f, name, json_object_get(json_object_get(f.reference, "perplexity"), name));
    close_fixture(&f);
}

static void test_heldout_perplexity_matches_pytorch(void **state)
{
    (void)state;
    check_demo_perplexity("heldout/test.txt");
}

static void test_wikitext_perplexity_matches_pytorch(void **state)
{
    (void)state;
    check_demo_perplexity("wikitext-2/test.txt");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heldout_perplexity_matches_pytorch),
        cmocka_unit_test(test_wikitext_perplexity_matches_pytorch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Generation: the text that streams is the text of the ids, and each reason to stop is told. */
#include "fixture.h"

#include <sqf/generate.h>

typedef struct listener {
    sqf_ids ids; /* fixed room below */
    uint32_t room[64];
    char text[1024];
    size_t stop_after; /* 0 = never */
} listener;

static bool listen(void *user, uint32_t id, const char *text)
{
    listener *l = user;
    strncat(l->text, text, sizeof l->text - strlen(l->text) - 1);
    if (id != UINT32_MAX) {
        l->room[l->ids.count++] = id;
    }
    return l->ids.count != l->stop_after;
}

typedef struct demo {
    fixture f;
    sqf_tokenizer *tokenizer;
    uint32_t *prompt;
    size_t count;
    const json_t *item;
} demo;

/* The second prompt of the reference: its greedy text has no near-tie. */
static void open_demo(demo *d)
{
    sqf_error err = {0};
    open_fixture(&d->f, DEMO);
    must(sqf_tokenizer_load(DEMO, &d->tokenizer, &err), &err);
    d->item = json_array_get(json_object_get(d->f.reference, "prompts"), 1);
    d->prompt = read_ids(json_object_get(d->item, "ids"), &d->count);
}

static void close_demo(demo *d)
{
    free(d->prompt);
    sqf_tokenizer_destroy(d->tokenizer);
    close_fixture(&d->f);
}

static sqf_generation generate(demo *d, size_t positions, const sqf_generate_options *options)
{
    sqf_error err = {0};
    sqf_session *session;
    sqf_generation g;
    must(sqf_session_create(d->f.model, positions, &session, &err), &err);
    must(sqf_generate(d->f.model, session, d->tokenizer, d->prompt, d->count, options, &g, &err), &err);
    assert_int_equal(sqf_session_length(session), d->count + g.decode_tokens);
    sqf_session_destroy(session);
    return g;
}

static void test_greedy_text_is_pytorchs(void **state)
{
    demo d;
    listener l = {0};
    (void)state;
    open_demo(&d);
    const sqf_generate_options options = {.max_tokens = 32, .token = listen, .token_user = &l};
    sqf_generation g = generate(&d, 512, &options);
    assert_string_equal(l.text, json_string_value(json_object_get(d.item, "greedy_text")));
    assert_int_equal(g.ids.count, 32);
    assert_int_equal(g.stop, SQF_STOP_LENGTH);
    assert_int_equal(g.prefill_tokens, d.count);
    assert_int_equal(g.decode_tokens, 31);
    assert_true(g.prefill_seconds > 0 && g.decode_seconds > 0);
    assert_memory_equal(l.room, g.ids.data, 32 * sizeof *l.room);
    sqf_ids_clear(&g.ids);
    close_demo(&d);
}

static void test_reasons_to_stop(void **state)
{
    demo d;
    listener l = {.stop_after = 3};
    (void)state;
    open_demo(&d);
    sqf_generate_options options = {.max_tokens = 8};
    sqf_generation plain = generate(&d, 512, &options);
    assert_int_equal(plain.ids.count, 8);

    options.stop_ids = &plain.ids.data[5];
    options.stop_count = 1;
    sqf_generation g = generate(&d, 512, &options);
    assert_int_equal(g.stop, SQF_STOP_END);
    assert_true(g.ids.count <= 6 && g.ids.data[g.ids.count - 1] == plain.ids.data[5]);
    sqf_ids_clear(&g.ids);

    options.stop_count = 0;
    g = generate(&d, d.count + 2, &options);
    assert_int_equal(g.stop, SQF_STOP_POSITIONS);
    assert_int_equal(g.ids.count, 3);
    sqf_ids_clear(&g.ids);

    options.token = listen;
    options.token_user = &l;
    g = generate(&d, 512, &options);
    assert_int_equal(g.stop, SQF_STOP_CALLER);
    assert_int_equal(g.ids.count, 3);
    sqf_ids_clear(&g.ids);

    options.max_tokens = 0;
    g = generate(&d, 512, &options);
    assert_int_equal(g.ids.count + g.decode_tokens, 0);
    sqf_ids_clear(&g.ids);
    sqf_ids_clear(&plain.ids);
    assert_string_equal(sqf_stop_name(SQF_STOP_POSITIONS), "positions");
    close_demo(&d);
}

/* A penalty that outweighs every logit: no token of the prompt or of the text comes again. */
static void test_prompt_and_text_count_for_the_penalty(void **state)
{
    demo d;
    (void)state;
    open_demo(&d);
    const sqf_generate_options options = {.max_tokens = 24, .sampling = {.repetition_penalty = 1000}};
    sqf_generation g = generate(&d, 512, &options);
    for (size_t i = 0; i < g.ids.count; i++) {
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(g.ids.data[i], g.ids.data[j]);
        }
        for (size_t j = 0; j < d.count; j++) {
            assert_int_not_equal(g.ids.data[i], d.prompt[j]);
        }
    }
    sqf_ids_clear(&g.ids);
    close_demo(&d);
}

static void test_bad_calls_are_refused(void **state)
{
    demo d;
    sqf_error err = {0};
    sqf_session *session;
    sqf_generation g;
    (void)state;
    open_demo(&d);
    must(sqf_session_create(d.f.model, 4, &session, &err), &err);
    sqf_generate_options options = {.max_tokens = 8};
    assert_int_equal(sqf_generate(d.f.model, session, NULL, d.prompt, 0, &options, &g, &err), SQF_E_ARG);
    assert_int_equal(sqf_generate(d.f.model, session, NULL, d.prompt, d.count, &options, &g, &err), SQF_E_ARG);
    options.sampling.top_p = 2;
    assert_int_equal(sqf_generate(d.f.model, session, NULL, d.prompt, 1, &options, &g, &err), SQF_E_ARG);
    assert_non_null(strstr(err.text, "top_p"));
    assert_int_equal(sqf_session_length(session), 0);
    sqf_session_destroy(session);
    close_demo(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_text_is_pytorchs),
        cmocka_unit_test(test_reasons_to_stop),
        cmocka_unit_test(test_prompt_and_text_count_for_the_penalty),
        cmocka_unit_test(test_bad_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

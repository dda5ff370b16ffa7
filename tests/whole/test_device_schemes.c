/* The demo model under the schemes that have kernels of their own, on a device against the CPU: perplexity of a short
 * text, and greedy text. */
#include "device.h"

#include <sqf/eval.h>
#include <sqf/generate.h>
#include <sqf/quantize.h>

enum { TOKENS = 7, DRAWN = 8, KEYS = 3 };

/* Of perplexities, relative. Where every product is one of integers and the cache holds float32, the two places differ
 * by the order of float sums; a code at the edge of rounding falls to the other side once in thousands of tokens, and
 * not in these. bf16 inputs of float layers, products of half floats in attention and int8 caches move more; over a
 * long text that averages out. */
#define INTEGER_TOLERANCE 2e-4
#define HALF_TOLERANCE    1e-2

typedef struct scheme_case {
    const char *scheme;
    const char *keys[KEYS][2]; /* of the recipe, beside the scheme */
    sqf_kv_type kv;
    double tolerance;
} scheme_case;

static const scheme_case cases[] = {
    {"W4A16", {{0}}, SQF_KV_F16, HALF_TOLERANCE},
    {"W4A16", {{0}}, SQF_KV_INT8, HALF_TOLERANCE},
    {"W8A8", {{"lm_head", "w8a8"}}, SQF_KV_F32, INTEGER_TOLERANCE},
    {"W4A8", {{"lm_head", "w8a8"}}, SQF_KV_F32, INTEGER_TOLERANCE},
    {"W4A(SQ6)", {{"lm_head", "w8a8"}}, SQF_KV_F32, INTEGER_TOLERANCE},
    {"W(SQ5)A8", {{"lm_head", "w8a8"}}, SQF_KV_F32, INTEGER_TOLERANCE},
    {"W(SQ5)A8", {{"scales", "tied"}, {"lm_head", "w8a8"}}, SQF_KV_F32, INTEGER_TOLERANCE},
    {"W4A4", {{"lm_head", "w8a8"}}, SQF_KV_F32, INTEGER_TOLERANCE},
    {"W4A(SQ6)", {{"mask_mode", "dynamic"}, {"lm_head", "w4a8"}}, SQF_KV_F32, INTEGER_TOLERANCE},
    {"W4A8", {{"rotate", "hadamard"}, {"lm_head", "w8a8"}}, SQF_KV_F32, INTEGER_TOLERANCE},
};
enum { CASES = sizeof cases / sizeof *cases };

static void quantize(const scheme_case *c, const char *output)
{
    sqf_error err;
    sqf_scheme scheme;
    sqf_recipe *recipe;
    sqf_context *context = open_context("cpu");
    sqf_quantize_options options = sqf_quantize_options_default();
    options.calibration = DEMO "/text/calib.txt";
    options.samples = 2;
    options.length = 32;
    options.force = true;
    assert_ok(sqf_scheme_parse(c->scheme, &scheme, &err), &err);
    sqf_module_recipe base = sqf_module_recipe_default(&scheme);
    for (size_t i = 0; i < KEYS && c->keys[i][0]; i++) {
        assert_ok(sqf_module_recipe_set(&base, c->keys[i][0], c->keys[i][1], &err), &err);
    }
    assert_ok(sqf_recipe_create(&base, &recipe, &err), &err);
    assert_ok(sqf_quantize(context, DEMO, output, recipe, &options, NULL, &err), &err);
    sqf_recipe_destroy(recipe);
    sqf_context_destroy(context);
}

/* Perplexity of the beginning of the evaluation text, and the greedy continuation of its first tokens. */
static double run(const pair *p, int place, const sqf_tokenizer *tokenizer, sqf_kv_type kv, uint32_t drawn[DRAWN])
{
    sqf_error err;
    sqf_eval_options options = sqf_eval_options_default();
    sqf_eval_result result;
    sqf_ids prompt = {0};
    sqf_generation out;
    const sqf_generate_options generate = {.max_tokens = DRAWN};
    options.window = TOKENS;
    options.max_tokens = TOKENS;
    options.kv = kv;
    assert_ok(sqf_eval_file(p->context[place], p->model[place], NULL, tokenizer, DEMO "/text/eval.txt", &options,
                            &result, &err),
              &err);
    assert_ok(sqf_tokenizer_encode(tokenizer, "The captain looked at", 21, true, &prompt, &err), &err);
    sqf_session *session = open_session(p->model[place], prompt.count + DRAWN, kv);
    assert_ok(sqf_generate(p->model[place], session, NULL, prompt.data, prompt.count, &generate, &out, &err), &err);
    memcpy(drawn, out.ids.data, DRAWN * sizeof *drawn);
    sqf_session_destroy(session);
    sqf_ids_clear(&out.ids);
    sqf_ids_clear(&prompt);
    return result.model.perplexity;
}

static void places_agree(const char *directory, const char *name, sqf_kv_type kv, double tolerance)
{
    uint32_t drawn[PLACES][DRAWN];
    double perplexity[PLACES];
    sqf_error err;
    sqf_tokenizer *tokenizer;
    pair p;
    open_pair(&p, directory);
    assert_ok(sqf_tokenizer_load(directory, &tokenizer, &err), &err);
    for (int i = 0; i < PLACES; i++) {
        perplexity[i] = run(&p, i, tokenizer, kv, drawn[i]);
    }
    print_message("%-10s perplexity %.6f, on the CPU %.6f\n", name, perplexity[GPU], perplexity[CPU]);
    if (!(fabs(perplexity[GPU] / perplexity[CPU] - 1) <= tolerance)) {
        fail_msg("%s: perplexity %.6f, on the CPU %.6f", name, perplexity[GPU], perplexity[CPU]);
    }
    assert_memory_equal(drawn[CPU], drawn[GPU], sizeof drawn[CPU]);
    sqf_tokenizer_destroy(tokenizer);
    close_pair(&p);
}

static void test_the_original(void **state)
{
    (void)state;
    places_agree(DEMO, "BF16", SQF_KV_F16, HALF_TOLERANCE);
}

static void test_schemes(void **state)
{
    (void)state;
    char directory[64], path[PATH_ROOM];
    make_scratch(directory);
    for (size_t i = 0; i < CASES; i++) {
        snprintf(path, sizeof path, "%s/%zu", directory, i);
        quantize(&cases[i], path);
        places_agree(path, cases[i].scheme, cases[i].kv, cases[i].tolerance);
    }
    remove_scratch(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_original),
        cmocka_unit_test(test_schemes),
    };
    return device_exists() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}

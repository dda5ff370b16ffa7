/* What a model says does not depend on the kernels that compute it: perplexity and 200 greedy tokens of the demo model
 * with each vector level of this machine on three threads, against the scalar kernels on one. The promise
 * is 0.02 % of perplexity and the same text; levels that compute alike to the bit keep it with nothing to spare. */
#include "check.h"

#include <math.h>

#include <sqf/eval.h>
#include <sqf/generate.h>
#include <sqf/quantize.h>

#define DEMO  SQF_SOURCE_DIR "/models/demo"
#define CALIB DEMO "/text/calib.txt"
#define EVAL  DEMO "/text/eval.txt"

enum { TOKENS = 200, WINDOW = 256, SCORED = 512, THREADS = 3 };

typedef struct outcome {
    double perplexity;
    uint32_t ids[TOKENS];
} outcome;

/* The output matrix too, so that nothing but attention and norms computes in floats. */
static void quantize(const char *scheme_name, const char *output)
{
    sqf_error err;
    sqf_scheme scheme;
    sqf_recipe *recipe;
    sqf_context *context;
    sqf_quantize_options options = sqf_quantize_options_default();
    options.calibration = CALIB;
    options.samples = 4;
    options.length = 64;
    options.force = true;
    assert_ok(sqf_scheme_parse(scheme_name, &scheme, &err), &err);
    sqf_module_recipe base = sqf_module_recipe_default(&scheme);
    assert_ok(sqf_scheme_parse("W8A8", &base.lm_head, &err), &err);
    assert_ok(sqf_context_create(NULL, &context, &err), &err);
    assert_ok(sqf_recipe_create(&base, &recipe, &err), &err);
    assert_ok(sqf_quantize(context, DEMO, output, recipe, &options, NULL, &err), &err);
    sqf_recipe_destroy(recipe);
    sqf_context_destroy(context);
}

static void run(const char *path, const char *level, unsigned threads, outcome *out)
{
    sqf_error err;
    sqf_context *context;
    sqf_model *model;
    sqf_tokenizer *tokenizer;
    sqf_session *session;
    sqf_eval_result result;
    sqf_generation generation = {0};
    const sqf_context_options options = {.threads = threads, .cpu = level};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    assert_ok(sqf_model_open(context, path, &model, &err), &err);
    assert_ok(sqf_tokenizer_load(DEMO, &tokenizer, &err), &err);
    sqf_eval_options eval = sqf_eval_options_default();
    eval.window = WINDOW;
    eval.max_tokens = SCORED;
    assert_ok(sqf_eval_file(context, model, NULL, tokenizer, EVAL, &eval, &result, &err), &err);
    out->perplexity = result.model.perplexity;
    const uint32_t prompt[] = {17, 523, 90, 1201, 344, 12};
    const sqf_generate_options greedy = {.max_tokens = TOKENS};
    assert_ok(sqf_session_create(model, TOKENS + 16, &session, &err), &err);
    assert_ok(sqf_generate(model, session, NULL, prompt, sizeof prompt / sizeof *prompt, &greedy, &generation, &err),
              &err);
    assert_int_equal(generation.ids.count, TOKENS);
    memcpy(out->ids, generation.ids.data, sizeof out->ids);
    sqf_ids_clear(&generation.ids);
    sqf_session_destroy(session);
    sqf_tokenizer_destroy(tokenizer);
    sqf_model_destroy(model);
    sqf_context_destroy(context);
}

static void check_scheme(const char *scheme)
{
    static outcome want, found;
    char scratch[64], path[80];
    make_scratch(scratch);
    snprintf(path, sizeof path, "%s/model", scratch);
    quantize(scheme, path);
    run(path, "scalar", 1, &want);
    for (const char *const *level = sqf_cpu_levels(); strcmp(*level, "scalar") != 0; level++) {
        run(path, *level, THREADS, &found);
        if (!(fabs(found.perplexity / want.perplexity - 1) <= 2e-4)) {
            fail_msg("%s, %s: perplexity %.9g, scalar %.9g", scheme, *level, found.perplexity, want.perplexity);
        }
        for (size_t i = 0; i < TOKENS; i++) {
            if (found.ids[i] != want.ids[i]) {
                fail_msg("%s, %s: token %zu is %u, scalar %u", scheme, *level, i, (unsigned)found.ids[i],
                         (unsigned)want.ids[i]);
            }
        }
    }
    remove_scratch(scratch);
}

static void uniform_activations_agree(void **state)
{
    (void)state;
    check_scheme("W4A8");
}

static void split_activations_agree(void **state)
{
    (void)state;
    check_scheme("W4A(SQ6)");
}

static void split_weights_agree(void **state)
{
    (void)state;
    check_scheme("W(SQ5)A8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uniform_activations_agree),
        cmocka_unit_test(split_activations_agree),
        cmocka_unit_test(split_weights_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

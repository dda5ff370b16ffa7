/* The rates that the named schemes promise: each product of the demo model's decoder is counted on the path that its
 * scheme names, an integer scheme has none in floating point, and only lm_head is dense. That counts are what runs, on
 * every CPU level, is proved by kernels/test_paths.c. */
#include "check.h"

#include <sqf/model.h>
#include <sqf/quantize.h>

/* Sixteenths of a decoder layer's multiply-accumulates by path. */
typedef struct expectation {
    const char *scheme;
    unsigned dense, floating, high, low, dropped;
} expectation;

static const expectation expectations[] = {
    {"BF16", 16, 0, 0, 0, 0},
    {"W8A8", 0, 0, 16, 0, 0},
    {"W8A16", 0, 16, 0, 0, 0},
    {"W4A16", 0, 16, 0, 0, 0},
    {"W4A8", 0, 0, 16, 0, 0},
    {"W4A4", 0, 0, 0, 16, 0},
    {"W4A(SQ6)", 0, 0, 8, 8, 0},
    {"W4A(SQ5)", 0, 0, 4, 12, 0},
    {"W4A(SQ4.5)", 0, 0, 2, 14, 0},
    {"W(SQ6)A8", 0, 0, 16, 0, 0},
    {"W(SQ5)A8", 0, 0, 16, 0, 0},
    {"W(SQ4.5)A8", 0, 0, 16, 0, 0},
    {"W(SQ6)A4", 0, 0, 8, 8, 0},
    {"W(SQ5)A4", 0, 0, 4, 12, 0},
    {"W(SQ6)A(SQ6)", 0, 0, 12, 4, 0},
    {"W(SQ5)A(SQ5)", 0, 0, 7, 9, 0},
    {"W(64-(8/2)-0.75)A8", 0, 0, 16, 0, 0},
    {"W(64-(fp8/fp4)-0.75)A8", 0, 4, 12, 0, 0}, /* fp4 is computed in integers, fp8 is not */
    {"W8A8-2:4", 0, 0, 8, 0, 8},
    {"W4A8-2:4", 0, 0, 8, 0, 8},
    /* not in the list: masks that are chosen token by token */
    {"W4A(SQ5);mask=dynamic", 0, 0, 4, 12, 0},
    {"W(SQ5)A(SQ5);mask=dynamic_weighted", 0, 0, 7, 9, 0},
    /* codes with zero points are as wide as codes without */
    {"W4A4;zero=point", 0, 0, 0, 16, 0},
    {"W4A(SQ5);scale=static,zero=point", 0, 0, 4, 12, 0},
};

static const char model_directory[] = SQF_SOURCE_DIR "/models/demo";

enum { EXPECTATIONS = sizeof expectations / sizeof *expectations, PREFILL = 12, DECODE = 2, LOGIT_ROWS = 3 };

static void quantize(const char *name, const char *output)
{
    sqf_error err;
    sqf_scheme scheme;
    sqf_recipe *recipe;
    sqf_context *context;
    sqf_quantize_options options = sqf_quantize_options_default();
    options.calibration = SQF_SOURCE_DIR "/models/demo/text/calib.txt";
    options.samples = 1;
    options.length = 64;
    assert_ok(sqf_scheme_parse(name, &scheme, &err), &err);
    sqf_module_recipe base = sqf_module_recipe_default(&scheme);
    base.quota = SQF_SEARCH_OFF; /* which spends the cost of the scheme to the last product */
    assert_ok(sqf_recipe_create(&base, &recipe, &err), &err);
    assert_ok(sqf_context_create(NULL, &context, &err), &err);
    assert_ok(sqf_quantize(context, model_directory, output, recipe, &options, NULL, &err), &err);
    sqf_context_destroy(context);
    sqf_recipe_destroy(recipe);
}

/* Prefill, then single tokens, then the logits of some rows. */
static void run_model(const sqf_model *model)
{
    sqf_error err;
    sqf_session *session;
    uint32_t ids[PREFILL];
    float *logits = malloc(LOGIT_ROWS * sqf_model_info_get(model).vocabulary * sizeof *logits);
    for (uint32_t i = 0; i < PREFILL; i++) {
        ids[i] = i * 31 % 2000;
    }
    assert_ok(sqf_session_create(model, PREFILL + DECODE, &session, &err), &err);
    assert_ok(sqf_session_forward(session, ids, PREFILL, &err), &err);
    assert_ok(sqf_session_logits(session, 0, LOGIT_ROWS, logits, &err), &err);
    for (size_t i = 0; i < DECODE; i++) {
        assert_ok(sqf_session_forward(session, ids + i, 1, &err), &err);
    }
    sqf_session_destroy(session);
    free(logits);
}

static void check_counts(const expectation *want, const char *directory)
{
    sqf_error err;
    sqf_context *context;
    sqf_model *model;
    const sqf_context_options options = {.threads = 2};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    assert_ok(sqf_model_open(context, directory, &model, &err), &err);
    sqf_context_products_reset(context);
    run_model(model);
    const sqf_model_info info = sqf_model_info_get(model);
    const sqf_product_counts found = sqf_context_products(context);
    const size_t key_columns = info.kv_heads * info.head_dim, head_columns = info.heads * info.head_dim;
    const uint64_t weights =
        (uint64_t)info.layers * info.hidden * (2 * head_columns + 2 * key_columns + 3 * info.intermediate);
    const uint64_t part = (PREFILL + DECODE) * weights / 16, head = LOGIT_ROWS * info.vocabulary * info.hidden;
    if (found.dense != want->dense * part + head || found.floating != want->floating * part ||
        found.integer_high != want->high * part || found.integer_low != want->low * part ||
        found.dropped != want->dropped * part) {
        fail_msg("%s: in sixteenths: dense %g beside lm_head, floating %g, high %g, low %g, dropped %g", want->scheme,
                 ((double)found.dense - (double)head) / (double)part, (double)found.floating / (double)part,
                 (double)found.integer_high / (double)part, (double)found.integer_low / (double)part,
                 (double)found.dropped / (double)part);
    }
    assert_int_equal(info.quantized_weights, want->dense ? 0 : weights);
    sqf_model_destroy(model);
    sqf_context_destroy(context);
}

/* What sqf_scheme_bits_of says of the scheme is the same figure. */
static void check_share(const expectation *want)
{
    sqf_error err;
    sqf_scheme scheme;
    assert_ok(sqf_scheme_parse(want->scheme, &scheme, &err), &err);
    const double share = (double)want->low / (16.0 - want->dropped);
    assert_float_equal(sqf_scheme_bits_of(&scheme).low_rate_share, share, 1e-9);
}

static void test_every_scheme_computes_at_the_rates_it_promises(void **state)
{
    (void)state;
    size_t count;
    const sqf_scheme_entry *entries = sqf_scheme_list(&count);
    char scratch[64], output[96];
    make_scratch(scratch);
    assert_true(count < EXPECTATIONS);
    for (size_t i = 0; i < EXPECTATIONS; i++) {
        if (i < count) {
            assert_string_equal(entries[i].name, expectations[i].scheme);
        }
        snprintf(output, sizeof output, "%s/%zu", scratch, i);
        quantize(expectations[i].scheme, output);
        check_counts(&expectations[i], output);
        check_share(&expectations[i]);
    }
    remove_scratch(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_scheme_computes_at_the_rates_it_promises),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

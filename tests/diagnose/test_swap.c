/* Float layers in a quantized model's frame: with all of them in place the quantized model is the original again. */
#include "ptq/small.h"

#include "diagnose/basis.h"
#include "diagnose/engine.h"
#include "diagnose/swap.h"

enum { WINDOW = 48, WINDOWS = 2 };

/* Embeddings of all windows, for free(). */
static float *embed_all(const sqf_engine *e, const sqf_model *model)
{
    const size_t floats = e->length * model->checkpoint.config.hidden;
    float *streams = calloc(e->windows * floats, sizeof *streams);
    for (size_t w = 0; w < e->windows; w++) {
        sqf_engine_embed(e, model, w, streams + w * floats);
    }
    return streams;
}

/* The original's last hidden states become what is compared with. */
static void make_reference(sqf_engine *e)
{
    sqf_error err = {0};
    const size_t floats = e->length * e->original->checkpoint.config.hidden;
    for (size_t w = 0; w < e->windows; w++) {
        float *x = e->reference + w * floats;
        sqf_engine_embed(e, e->original, w, x);
        for (size_t i = 0; i < e->original->checkpoint.config.layers; i++) {
            assert_ok(sqf_engine_layer(e, false, &e->original->layers[i], x, NULL, &err), &err);
        }
    }
}

/* Two models of one shape and an engine over some ids. */
typedef struct pair {
    sqf_model *original, *quantized;
    sqf_engine engine;
    uint32_t ids[WINDOW * WINDOWS];
} pair;

static void open_pair(pair *p, const small *s)
{
    sqf_error err = {0};
    *p = (pair){0};
    for (uint32_t i = 0; i < WINDOW * WINDOWS; i++) {
        p->ids[i] = i * 37 % 251;
    }
    assert_ok(sqf_model_open(s->context, s->model.path, &p->original, &err), &err);
    assert_ok(sqf_model_open(s->context, s->output, &p->quantized, &err), &err);
    p->engine = (sqf_engine){.context = s->context,
                             .original = p->original,
                             .quantized = p->quantized,
                             .ids = p->ids,
                             .windows = WINDOWS,
                             .length = WINDOW,
                             .total = 100};
    assert_ok(sqf_engine_create(&p->engine, &err), &err);
    make_reference(&p->engine);
}

static void close_pair(pair *p)
{
    sqf_engine_clear(&p->engine);
    sqf_model_destroy(p->original);
    sqf_model_destroy(p->quantized);
}

/* KL of the quantized model with some layers' modules replaced: float_layers NULL = as it is. */
static double divergence(pair *p, const sqf_float_layer *float_layers)
{
    sqf_error err = {0};
    sqf_eval_result result;
    const size_t count = p->quantized->checkpoint.config.layers;
    sqf_layer *layers = calloc(count, sizeof *layers);
    float *streams = embed_all(&p->engine, p->quantized);
    memcpy(layers, p->quantized->layers, count * sizeof *layers);
    for (size_t i = 0; float_layers && i < count; i++) {
        memcpy(layers[i].linear, float_layers[i].linear, sizeof layers[i].linear);
    }
    assert_ok(sqf_engine_evaluate(&p->engine, layers, 0, streams, p->quantized, &result, &err), &err);
    free(streams);
    free(layers);
    return result.kl;
}

/* KL of the quantized model, and of the same with every layer in float; smoothed: as the recipe says. */
static void measure(const small *s, bool smooth, bool rotated, double *quantized, double *restored)
{
    float *basis = NULL;
    pair p;
    sqf_error err = {0};
    const bool smoothed[SQF_INPUT_COUNT] = {smooth, smooth, smooth, smooth};
    open_pair(&p, s);
    if (rotated) {
        assert_ok(sqf_basis_between(p.original, p.quantized, &basis, &err), &err);
        assert_non_null(basis);
    }
    const size_t count = p.original->checkpoint.config.layers;
    sqf_float_layer *layers = calloc(count, sizeof *layers);
    for (size_t i = 0; i < count; i++) {
        assert_ok(sqf_float_layer_create(s->context, p.original, p.quantized, i, smoothed, basis, &layers[i], &err),
                  &err);
    }
    *quantized = divergence(&p, NULL);
    *restored = divergence(&p, layers);
    for (size_t i = 0; i < count; i++) {
        sqf_float_layer_clear(&layers[i]);
    }
    free(layers);
    free(basis);
    close_pair(&p);
}

static void test_float_layers_in_all_places_give_the_original_back(void **state)
{
    static const struct {
        const char *architecture, *type, *yaml;
        bool smooth, rotated;
    } cases[] = {
        {"LlamaForCausalLM", "llama", "scheme: W4A8\nsmooth: off\n", false, false},
        {"LlamaForCausalLM", "llama", "scheme: W8A(SQ6)\nsmooth: off\nmask: l2\n", false, false},
        {"LlamaForCausalLM", "llama", "scheme: W4A4\nsmooth: off\nrotate_down: hadamard\n", false, false},
        {"LlamaForCausalLM", "llama", "scheme: W8A(SQ6)\nsmooth: 0.5\n", true, false},
        {"Qwen2ForCausalLM", "qwen2", "scheme: W8A(SQ6)\nsmooth: 0.5\n", true, false},
        {"Qwen3ForCausalLM", "qwen3", "scheme: W8A4\nsmooth: 0.6\n", true, false},
        {"LlamaForCausalLM", "llama", "scheme: W4A4\nsmooth: off\nrotate: hadamard\n", false, true},
        {"Qwen2ForCausalLM", "qwen2", "scheme: W4A(SQ6)\nsmooth: off\nrotate: random\nmask: l2\n", false, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        small s;
        double quantized, restored;
        small_create(&s, cases[i].architecture, cases[i].type, false, SQF_DTYPE_BF16);
        small_must_quantize(&s, cases[i].yaml);
        measure(&s, cases[i].smooth, cases[i].rotated, &quantized, &restored);
        /* without smoothing nothing is fitted: what is left is rounding; a factor fitted to 8-bit rows is off by less
         * than a thousandth */
        const double most = cases[i].smooth ? 2e-3 * quantized : cases[i].rotated ? 1e-4 * quantized : 1e-9;
        if (!(restored <= most) || !(quantized > 1e-4)) {
            fail_msg("case %zu: KL %g as quantized, %g in float, expected at most %g", i, quantized, restored, most);
        }
        small_remove(&s);
    }
}

/* Weights alone: a model of float activations is itself, one of quantized activations loses what they cost. */
static void test_weights_alone_are_the_model_with_float_activations(void **state)
{
    static const char *const yaml[] = {"scheme: W4A16\nsmooth: off\n", "scheme: W4A(SQ6)\nsmooth: off\n"};
    double kl[2][2];
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        small s;
        pair p;
        sqf_error err = {0};
        sqf_float_layer layers[3] = {0};
        small_llama(&s);
        small_must_quantize(&s, yaml[i]);
        open_pair(&p, &s);
        for (size_t m = 0; m < (size_t)3 * SQF_LINEAR_COUNT; m++) {
            assert_ok(sqf_weights_alone_create(s.context, p.quantized, m / SQF_LINEAR_COUNT,
                                               (sqf_linear_kind)(m % SQF_LINEAR_COUNT),
                                               &layers[m / SQF_LINEAR_COUNT].linear[m % SQF_LINEAR_COUNT], &err),
                      &err);
        }
        kl[i][0] = divergence(&p, NULL);
        kl[i][1] = divergence(&p, layers);
        for (size_t l = 0; l < 3; l++) {
            sqf_float_layer_clear(&layers[l]);
        }
        close_pair(&p);
        small_remove(&s);
    }
    assert_true(fabs(kl[0][1] / kl[0][0] - 1) < 1e-3);
    assert_true(kl[1][1] < 0.9 * kl[1][0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float_layers_in_all_places_give_the_original_back),
        cmocka_unit_test(test_weights_alone_are_the_model_with_float_activations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

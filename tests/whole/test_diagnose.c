/* Models broken on purpose, each in one way: the diagnosis names it and the setting that mends it, and finds nothing in
 * models that are sound. On the demo model. */
#include "check.h"

#include <math.h>

#include <sqf/bed.h>
#include <sqf/diagnose.h>

#define DEMO  SQF_SOURCE_DIR "/models/demo"
#define CALIB DEMO "/text/calib.txt"

/* A context and a scratch directory with one quantized model at a time. */
typedef struct bench {
    sqf_context *context;
    char scratch[64], model[96], text[96];
} bench;

static void bench_open(bench *b, const char *cpu)
{
    sqf_error err = {0};
    sqf_context_options options = sqf_context_options_default();
    options.threads = 2;
    options.cpu = cpu;
    assert_ok(sqf_context_create(&options, &b->context, &err), &err);
    make_scratch(b->scratch);
    snprintf(b->model, sizeof b->model, "%s/model", b->scratch);
    snprintf(b->text, sizeof b->text, "%s/calib.txt", b->scratch);
}

static void bench_close(bench *b)
{
    sqf_context_destroy(b->context);
    remove_scratch(b->scratch);
}

static void quantize_from(bench *b, const char *original, const char *yaml, const char *calibration, size_t samples)
{
    sqf_recipe *recipe;
    sqf_error err = {0};
    sqf_quantize_options options = sqf_quantize_options_default();
    options.calibration = calibration;
    options.samples = samples;
    options.length = 256;
    options.force = true;
    assert_ok(sqf_recipe_parse(yaml, strlen(yaml), "recipe", &recipe, &err), &err);
    assert_ok(sqf_quantize(b->context, original, b->model, recipe, &options, NULL, &err), &err);
    sqf_recipe_destroy(recipe);
}

static void quantize(bench *b, const char *yaml)
{
    quantize_from(b, DEMO, yaml, CALIB, 10);
}

static sqf_diagnosis diagnose(bench *b, const char *original, sqf_attribute attribute)
{
    sqf_diagnosis d;
    sqf_error err = {0};
    sqf_diagnose_options options = sqf_diagnose_options_default();
    options.text = DEMO "/text/eval.txt";
    options.window = 256;
    options.max_tokens = 1024;
    options.attribute = attribute;
    assert_ok(sqf_diagnose(b->context, original, b->model, &options, &d, &err), &err);
    return d;
}

/* Without a text: speed and alignment. */
static sqf_diagnosis look(bench *b)
{
    sqf_diagnosis d;
    sqf_error err = {0};
    const sqf_diagnose_options options = sqf_diagnose_options_default();
    assert_ok(sqf_diagnose(b->context, DEMO, b->model, &options, &d, &err), &err);
    assert_false(d.evaluated);
    return d;
}

static const sqf_finding *find(const sqf_diagnosis *d, const char *kind)
{
    for (size_t i = 0; i < d->finding_count; i++) {
        if (strcmp(d->findings[i].kind, kind) == 0) {
            return &d->findings[i];
        }
    }
    return NULL;
}

/* The finding is there, its severity beyond a note, its remedy holds `part`. */
static const sqf_finding *must_find(const sqf_diagnosis *d, const char *kind, const char *part)
{
    const sqf_finding *f = find(d, kind);
    if (!f || f->severity == SQF_SEVERITY_NOTE || !strstr(f->remedy, part)) {
        fail_msg("%s: expected a finding with remedy ...%s..., found %s %s", kind, part, f ? f->text : "none",
                 f ? f->remedy : "");
    }
    assert_false(d->healthy);
    return f;
}

static void must_not_find(const sqf_diagnosis *d, const char *kind)
{
    const sqf_finding *f = find(d, kind);
    if (f) {
        fail_msg("%s: expected no such finding, found: %s", kind, f->text);
    }
}

static void must_be_healthy(const sqf_diagnosis *d, const char *what)
{
    if (!d->healthy) {
        fail_msg("%s: expected healthy, found %s: %s", what, d->findings[0].kind, d->findings[0].text);
    }
}

static void test_sound_models_raise_no_alarm(void **state)
{
    static const char *const yaml[] = {"scheme: W4A8\n", "scheme: W8A8\n", "scheme: W4A(SQ6)\n", "scheme: W(SQ6)A8\n",
                                       "scheme: W4A16\n"};
    bench b;
    (void)state;
    bench_open(&b, NULL);
    for (size_t i = 0; i < sizeof yaml / sizeof *yaml; i++) {
        quantize(&b, yaml[i]);
        sqf_diagnosis d = diagnose(&b, DEMO, SQF_ATTRIBUTE_AUTO);
        must_be_healthy(&d, yaml[i]);
        assert_true(d.calibration_drift < 0.05 && d.eval.kl > 0);
        assert_true(isnan(d.inputs[0].share)); /* nothing was swapped */
        sqf_diagnosis_clear(&d);
    }
    bench_close(&b);
}

static void test_one_layer_in_two_bits_is_named_with_its_remedy(void **state)
{
    bench b;
    (void)state;
    bench_open(&b, NULL);
    quantize(&b, "scheme: W4A8\noverrides:\n  - match: 'model\\.layers\\.1\\.mlp\\.down_proj'\n    low: int2\n"
                 "    compensate: none\n    smooth: off\n");
    sqf_diagnosis d = diagnose(&b, DEMO, SQF_ATTRIBUTE_ALWAYS);
    size_t worst = 0;
    double sum = 0;
    for (size_t i = 0; i < d.input_count; i++) {
        assert_true(isfinite(d.inputs[i].share) && isfinite(d.inputs[i].alone_kl));
        worst = d.inputs[i].share > d.inputs[worst].share ? i : worst;
        sum += d.inputs[i].alone_kl;
    }
    assert_int_equal(worst, 7); /* layer 1, down */
    assert_true(d.inputs[7].share > 0.5 && d.inputs[7].alone_kl > 0.5 * sum);
    assert_true(d.inputs[7].activations < 0.1); /* the weights are to blame */
    if (d.eval.ratio > 1.05) {
        must_find(&d, "collapse", "w4a8");
        const sqf_finding *f = must_find(&d, "responsible-input", "model\\.layers\\.1\\.mlp\\.down_proj");
        assert_string_equal(f->where, "model.layers.1 down");
        assert_non_null(strstr(f->remedy, "w4a8"));
    }
    sqf_diagnosis_clear(&d);
    bench_close(&b);
}

static void test_a_low_threshold_makes_the_two_bit_layer_a_finding(void **state)
{
    bench b;
    sqf_diagnosis d;
    sqf_error err = {0};
    sqf_diagnose_options options = sqf_diagnose_options_default();
    (void)state;
    bench_open(&b, NULL);
    quantize(&b, "scheme: W8A8\noverrides:\n  - match: 'model\\.layers\\.2\\.self_attn\\.[qkv]_proj'\n    low: int2\n"
                 "    compensate: none\n");
    options.text = DEMO "/text/eval.txt";
    options.window = 256;
    options.max_tokens = 1024;
    options.loss = 0.002;
    options.tokens = 5;
    assert_ok(sqf_diagnose(b.context, DEMO, b.model, &options, &d, &err), &err);
    assert_int_equal(d.findings[0].severity, SQF_SEVERITY_BAD);
    const sqf_finding *f = must_find(&d, "responsible-input", "self_attn\\.[qkv]_proj', scheme: w4a8");
    assert_string_equal(f->where, "model.layers.2 qkv");
    assert_int_equal(d.token_count, 5);
    for (size_t i = 0; i < d.token_count; i++) {
        const sqf_diagnose_token *t = &d.tokens[i];
        assert_true(i == 0 || t->kl <= d.tokens[i - 1].kl);
        assert_true(t->position % 256 != 0 && t->position < 1024 && t->kl <= d.eval.kl_max);
        assert_int_equal(t->context[strlen(t->context) - 1], ']');
    }
    sqf_diagnosis_clear(&d);
    bench_close(&b);
}

static void test_unsmoothed_outliers_are_found_and_their_remedy_mends_them(void **state)
{
    bench b;
    char bed[96];
    sqf_error err = {0};
    sqf_outlier_bed_options options = sqf_outlier_bed_options_default();
    (void)state;
    bench_open(&b, NULL);
    snprintf(bed, sizeof bed, "%s/bed", b.scratch);
    options.inputs = SQF_BED_QKV | SQF_BED_GATE_UP;
    assert_ok(sqf_bed_outliers(b.context, DEMO, bed, &options, NULL, &err), &err);
    quantize_from(&b, bed, "scheme: W4A4\nsmooth: off\n", CALIB, 10);
    sqf_diagnosis d = diagnose(&b, bed, SQF_ATTRIBUTE_AUTO);
    must_find(&d, "collapse", "");
    must_find(&d, "outliers", "smooth: 0.5");
    const sqf_finding *f = must_find(&d, "responsible-input", "smooth: 0.5");
    assert_true(strstr(f->where, "qkv") || strstr(f->where, "gate_up"));
    must_not_find(&d, "calibration-drift"); /* what is broken is not the calibration */
    sqf_diagnosis_clear(&d);
    quantize_from(&b, bed, "scheme: W4A4\nsmooth: 0.5\n", CALIB, 10);
    d = diagnose(&b, bed, SQF_ATTRIBUTE_NEVER);
    must_not_find(&d, "outliers");
    sqf_diagnosis_clear(&d);
    bench_close(&b);
}

/* ---- calibration ---- */

/* A whole file, NUL-terminated, for free(). */
static char *read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = calloc(1, 1 << 20);
    const size_t n = fread(text, 1, (1 << 20) - 1, file);
    assert_true(n > 0 && n < (1 << 20) - 1);
    fclose(file);
    return text;
}

/* The calibration text with its words in another order. */
static void write_shuffled(const bench *b)
{
    static char *words[1 << 16];
    size_t count = 0;
    uint64_t state = 1;
    char *text = read_file(CALIB), *rest = NULL;
    for (char *w = strtok_r(text, " \n", &rest); w && count < sizeof words / sizeof *words;
         w = strtok_r(NULL, " \n", &rest)) {
        words[count++] = w;
    }
    FILE *file = fopen(b->text, "w");
    for (; count > 0; count--) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const size_t at = (size_t)(state >> 33) % count;
        fprintf(file, "%s ", words[at]);
        words[at] = words[count - 1];
    }
    fclose(file);
    free(text);
}

static void write_repeated(const bench *b)
{
    FILE *file = fopen(b->text, "w");
    for (int i = 0; i < 1500; i++) {
        fputs("The old clock in the hall struck nine and nobody answered. ", file);
    }
    fclose(file);
}

static void write_program(const bench *b)
{
    char *text = read_file(SQF_SOURCE_DIR "/src/ptq/walk.c");
    FILE *file = fopen(b->text, "w");
    fputs(text, file);
    fclose(file);
    free(text);
}

static sqf_diagnosis calibrate_on_text(bench *b)
{
    quantize_from(b, DEMO, "scheme: W4A8\n", b->text, 10);
    return diagnose(b, DEMO, SQF_ATTRIBUTE_NEVER);
}

static void test_calibration_on_another_kind_of_text_is_seen(void **state)
{
    bench b;
    (void)state;
    bench_open(&b, NULL);
    write_program(&b);
    sqf_diagnosis d = calibrate_on_text(&b);
    must_find(&d, "calibration-drift", "--calib FILE");
    must_find(&d, "calibration-text", "--calib FILE");
    sqf_diagnosis_clear(&d);
    write_repeated(&b);
    d = calibrate_on_text(&b);
    must_find(&d, "calibration-drift", "--calib FILE");
    must_find(&d, "calibration-text", "--calib FILE");
    assert_true(d.calibration_variety < 0.1);
    sqf_diagnosis_clear(&d);
    /* shuffled words leave the channels as they are: the text itself gives them away */
    write_shuffled(&b);
    d = calibrate_on_text(&b);
    must_not_find(&d, "calibration-drift");
    must_find(&d, "calibration-text", "--calib FILE");
    sqf_diagnosis_clear(&d);
    bench_close(&b);
}

static void test_too_little_calibration_is_seen(void **state)
{
    bench b;
    (void)state;
    bench_open(&b, NULL);
    quantize_from(&b, DEMO, "scheme: W4A8\n", CALIB, 2);
    sqf_diagnosis d = diagnose(&b, DEMO, SQF_ATTRIBUTE_NEVER);
    must_find(&d, "calibration-small", "--calib-samples");
    sqf_diagnosis_clear(&d);
    bench_close(&b);
}

/* ---- speed and alignment ---- */

static void test_each_loss_of_speed_has_its_finding(void **state)
{
    static const struct {
        const char *yaml, *kind, *remedy;
    } cases[] = {
        {"scheme: W4A8\nignore: ['re:model\\.layers\\.2\\..*']\n", "left-dense", "ignore"},
        {"scheme: WFP8AFP8\n", "float-products", "w4a8"},
        {"scheme: W4A4,group=16;scale=group,group=16\n", "fine-scales", "act_group: 128"},
        {"scheme: W4A(SQ6)\nact_bank: 48\nmask: l2\n", "tail-banks", "divides the columns"},
        {"scheme: W(SQ6)A8\nbank: 48\n", "tail-banks", "divides the columns"},
        {"scheme: W4A8,group=12\nsmooth: off\n", "padding", "multiples of 8"},
        {"scheme: W4A(SQ6),group=86\nmask: l2\n", "short-groups", "bank_weights"},
        {"scheme: W4A(SQ6)\nmask: l2\nignore: ['re:.*gate_proj']\n", "gather-not-folded", "quantize gate_proj"},
    };
    bench b;
    (void)state;
    bench_open(&b, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        quantize_from(&b, DEMO, cases[i].yaml, CALIB, 1);
        sqf_diagnosis d = look(&b);
        must_find(&d, cases[i].kind, cases[i].remedy);
        sqf_diagnosis_clear(&d);
    }
    bench_close(&b);
}

static void test_figures_of_speed_are_those_of_schemes_and_shapes(void **state)
{
    bench b;
    (void)state;
    bench_open(&b, NULL);
    quantize_from(&b, DEMO, "scheme: W4A4\nignore: ['model.layers.0.mlp.down_proj']\n", CALIB, 1);
    sqf_diagnosis d = look(&b);
    /* 196608 of the 4 * 786432 products are down_proj's of one layer */
    assert_true(fabs(d.dense_share - 0.0625) < 1e-12 && fabs(d.low_rate_share - 0.9375) < 1e-12);
    assert_true(d.float_share == 0 && isnan(d.calibration_drift));
    /* half a unit a product, groups of 128 with two operations of 4 each; float products cost 2 */
    assert_true(fabs(d.cost - (0.9375 * (0.5 + 8.0 / 128) + 0.0625 * 2)) < 1e-3);
    sqf_diagnosis_clear(&d);
    bench_close(&b);
}

static void test_slow_kernels_are_seen(void **state)
{
    bench b;
    (void)state;
    if (strcmp(sqf_cpu_levels()[0], "scalar") == 0) {
        skip();
    }
    bench_open(&b, "scalar");
    quantize_from(&b, DEMO, "scheme: W8A16\n", NULL, 1);
    sqf_diagnosis d = look(&b);
    must_find(&d, "slow-kernels", "SQF_CPU");
    sqf_diagnosis_clear(&d);
    bench_close(&b);
}

static void test_what_cannot_be_diagnosed_is_refused(void **state)
{
    bench b;
    sqf_diagnosis d;
    sqf_error err;
    sqf_diagnose_options options = sqf_diagnose_options_default();
    (void)state;
    bench_open(&b, NULL);
    quantize_from(&b, DEMO, "scheme: W8A16\n", NULL, 1);
    assert_fails(sqf_diagnose(b.context, DEMO, DEMO, &options, &d, &err), SQF_E_ARG, &err,
                 "expected a quantized model");
    assert_fails(sqf_diagnose(b.context, b.model, b.model, &options, &d, &err), SQF_E_ARG, &err, "original checkpoint");
    options.text = DEMO "/text/eval.txt";
    options.window = 4096;
    assert_fails(sqf_diagnose(b.context, DEMO, b.model, &options, &d, &err), SQF_E_ARG, &err, "window: expected 2 to");
    options = sqf_diagnose_options_default();
    options.text = "nowhere.txt";
    assert_fails(sqf_diagnose(b.context, DEMO, b.model, &options, &d, &err), SQF_E_IO, &err, "nowhere.txt");
    options = sqf_diagnose_options_default();
    options.loss = 0;
    assert_fails(sqf_diagnose(b.context, DEMO, b.model, &options, &d, &err), SQF_E_ARG, &err, "loss: expected");
    bench_close(&b);
}

int main(void)
{
    unsetenv("SQF_CPU"); /* a lower level than the machine's is a finding of its own */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound_models_raise_no_alarm),
        cmocka_unit_test(test_one_layer_in_two_bits_is_named_with_its_remedy),
        cmocka_unit_test(test_a_low_threshold_makes_the_two_bit_layer_a_finding),
        cmocka_unit_test(test_unsmoothed_outliers_are_found_and_their_remedy_mends_them),
        cmocka_unit_test(test_calibration_on_another_kind_of_text_is_seen),
        cmocka_unit_test(test_too_little_calibration_is_seen),
        cmocka_unit_test(test_each_loss_of_speed_has_its_finding),
        cmocka_unit_test(test_figures_of_speed_are_those_of_schemes_and_shapes),
        cmocka_unit_test(test_slow_kernels_are_seen),
        cmocka_unit_test(test_what_cannot_be_diagnosed_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Outlier beds: the function stays bit for bit, in every family and type; smoothing takes the outliers away again. */
#include "ptq/small.h"

#include <sqf/bed.h>

/* s->output becomes a bed of s->model. */
static sqf_status make_bed(const small *s, const sqf_outlier_bed_options *options, sqf_outlier_bed_summary *summary,
                           sqf_error *err)
{
    return sqf_bed_outliers(s->context, s->model.path, s->output, options, summary, err);
}

static sqf_outlier_bed_options bed_options(void)
{
    sqf_outlier_bed_options options = sqf_outlier_bed_options_default();
    options.channels = 3;
    options.force = true;
    return options;
}

static void must_be_equal(float *a, float *b)
{
    for (size_t i = 0; i < 40 * 256; i++) {
        if (a[i] != b[i]) {
            fail_msg("logit %zu: %.9g and %.9g", i, (double)a[i], (double)b[i]);
        }
    }
    free(a);
    free(b);
}

static void test_logits_are_the_same_bit_for_bit_in_every_family(void **state)
{
    static const struct {
        const char *architecture, *type;
        sqf_dtype dtype;
    } families[] = {{"LlamaForCausalLM", "llama", SQF_DTYPE_BF16},
                    {"Qwen2ForCausalLM", "qwen2", SQF_DTYPE_BF16},
                    {"Qwen3ForCausalLM", "qwen3", SQF_DTYPE_F32}};
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        for (size_t set = 0; set < 5; set++) {
            small s;
            sqf_error err = {0};
            sqf_outlier_bed_summary summary;
            sqf_outlier_bed_options options = bed_options();
            options.inputs = set < 4 ? 1u << set : SQF_BED_ALL;
            small_create(&s, families[i].architecture, families[i].type, false, families[i].dtype);
            assert_ok(make_bed(&s, &options, &summary, &err), &err);
            assert_int_equal(summary.layers, 3);
            assert_int_equal(summary.channels, 3 * 3 * (size_t)__builtin_popcount(options.inputs));
            assert_true(summary.changed > 0);
            assert_int_equal(summary.inexact, 0);
            must_be_equal(small_logits(&s, s.model.path), small_logits(&s, s.output));
            small_remove(&s);
        }
    }
}

/* Channels that bed.json names, of one input of one layer. */
static json_t *recorded(const json_t *bed, const char *layer, const char *input)
{
    return json_object_get(json_object_get(json_object_get(bed, "layers"), layer), input);
}

static void test_outliers_of_norms_persist_and_only_chosen_layers_change(void **state)
{
    static const size_t layers[] = {0, 2};
    small s;
    char path[128];
    json_t *bed;
    sqf_error err = {0};
    sqf_outlier_bed_options options = bed_options();
    (void)state;
    small_llama(&s);
    options.layers = layers;
    options.layer_count = 2;
    assert_ok(make_bed(&s, &options, NULL, &err), &err);
    snprintf(path, sizeof path, "%s/bed.json", s.output);
    assert_ok(sqf_json_load(path, 1 << 20, &bed, &err), &err);
    assert_null(json_object_get(json_object_get(bed, "layers"), "1"));
    assert_int_equal(json_object_size(recorded(bed, "0", "qkv")), 3);
    assert_true(json_equal(recorded(bed, "0", "qkv"), recorded(bed, "2", "qkv")));
    assert_true(json_equal(recorded(bed, "0", "qkv"), recorded(bed, "2", "gate_up")));
    assert_false(json_equal(recorded(bed, "0", "down"), recorded(bed, "2", "down")));
    json_decref(bed);
    small_remove(&s);
}

static sqf_buffer read_weights(const char *directory)
{
    char *path;
    sqf_buffer bytes;
    sqf_error err = {0};
    assert_ok(sqf_path_join(&path, directory, "model.safetensors", &err), &err);
    assert_ok(sqf_file_read(path, 1 << 24, &bytes, &err), &err);
    free(path);
    return bytes;
}

/* Quantizes a directory with smoothing at 0.5; the weights' file. */
static sqf_buffer quantized(const small *s, const char *from, const char *yaml)
{
    char path[128];
    sqf_recipe *recipe;
    sqf_error err = {0};
    const sqf_quantize_options options = small_options(s);
    snprintf(path, sizeof path, "%s/quantized", s->scratch);
    assert_ok(sqf_recipe_parse(yaml, strlen(yaml), "recipe", &recipe, &err), &err);
    assert_ok(sqf_quantize(s->context, from, path, recipe, &options, NULL, &err), &err);
    sqf_recipe_destroy(recipe);
    return read_weights(path);
}

static void test_smoothing_at_one_half_gives_the_bytes_of_the_untouched_model(void **state)
{
    static const char *const recipes[] = {"scheme: W4A4\nsmooth: 0.5\n", "scheme: W4A(SQ6)\nsmooth: 0.5\n",
                                          "scheme: W(SQ6)A8\nsmooth: 0.5\ncompensate: none\n"};
    small s;
    sqf_error err = {0};
    sqf_outlier_bed_options options = bed_options();
    (void)state;
    small_llama(&s);
    options.inputs = SQF_BED_QKV | SQF_BED_GATE_UP;
    assert_ok(make_bed(&s, &options, NULL, &err), &err);
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        sqf_buffer plain = quantized(&s, s.model.path, recipes[i]), bed = quantized(&s, s.output, recipes[i]);
        assert_int_equal(plain.size, bed.size);
        assert_memory_equal(plain.data, bed.data, plain.size);
        free(plain.data);
        free(bed.data);
    }
    small_remove(&s);
}

static void test_options_out_of_range_are_named(void **state)
{
    static const size_t beyond[] = {3};
    small s;
    sqf_error err;
    sqf_outlier_bed_options options;
    (void)state;
    small_llama(&s);
    options = bed_options();
    options.factor = 24;
    assert_fails(make_bed(&s, &options, NULL, &err), SQF_E_ARG, &err, "factor: expected a power of two");
    options = bed_options();
    options.channels = 41;
    assert_fails(make_bed(&s, &options, NULL, &err), SQF_E_ARG, &err, "expected 1 to 40 for the input of qkv");
    options = bed_options();
    options.inputs = 0;
    assert_fails(make_bed(&s, &options, NULL, &err), SQF_E_ARG, &err, "inputs: ");
    options = bed_options();
    options.layers = beyond;
    options.layer_count = 1;
    assert_fails(make_bed(&s, &options, NULL, &err), SQF_E_ARG, &err, "layers: expected 0 to 2");
    assert_int_not_equal(access(s.output, F_OK), 0);
    options = bed_options();
    small_must_quantize(&s, "scheme: W8A8\n");
    assert_fails(sqf_bed_outliers(s.context, s.output, s.scratch, &options, NULL, &err), SQF_E_ARG, &err,
                 "is quantized already");
    small_remove(&s);
}

/* Half floats end at 65504: a factor that leads beyond is refused, not rounded to infinity. */
static void test_products_beyond_the_type_are_refused(void **state)
{
    small s;
    sqf_error err;
    sqf_outlier_bed_options options = bed_options();
    (void)state;
    small_create(&s, "LlamaForCausalLM", "llama", false, SQF_DTYPE_F16);
    options.factor = 1 << 16;
    options.channels = 40;
    options.inputs = SQF_BED_QKV;
    assert_fails(make_bed(&s, &options, NULL, &err), SQF_E_VALUE, &err, "does not fit F16");
    assert_int_not_equal(access(s.output, F_OK), 0);
    small_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_are_the_same_bit_for_bit_in_every_family),
        cmocka_unit_test(test_outliers_of_norms_persist_and_only_chosen_layers_change),
        cmocka_unit_test(test_smoothing_at_one_half_gives_the_bytes_of_the_untouched_model),
        cmocka_unit_test(test_options_out_of_range_are_named),
        cmocka_unit_test(test_products_beyond_the_type_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

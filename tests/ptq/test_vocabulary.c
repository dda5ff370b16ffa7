/* The output matrix and the embedding in quantized models: which matrices are stored and where, that blocks of rows
 * make the whole, what calibration brings, and what is refused. */
#include "small.h"

#include "ptq/algorithm.h"

static void small_tied(small *s, bool tied)
{
    small_create(s, "LlamaForCausalLM", "llama", tied, SQF_DTYPE_BF16);
}

/* ---- what is stored ---- */

static bool has(const sqf_tensors *tensors, const char *name)
{
    return sqf_tensors_find(tensors, name) != NULL;
}

static const char *how(const sqf_tensors *tensors, const char *module)
{
    char name[SQF_MODULE_NAME], part[SQF_MODULE_NAME];
    sqf_tensor_name(module, "weight", name);
    sqf_tensor_name(module, "sq_low", part);
    assert_false(has(tensors, name) && has(tensors, part));
    return has(tensors, name) ? "dense" : has(tensors, part) ? "quantized" : "absent";
}

/* The recipes' schemes are those of the facts, and one matrix is stored unless two are asked for. */
static void test_one_matrix_serves_tied_embeddings_unless_two_are_asked_for(void **state)
{
    static const struct {
        bool tied;
        const char *keys, *embedding, *output, *embedding_scheme, *output_scheme;
        bool stays_tied;
    } cases[] = {
        {true, "", "dense", "absent", "BF16", "BF16", true},
        {true, "lm_head: w4a8\n", "quantized", "absent", "W4A8", "W4A8", true},
        {true, "embedding: w8\n", "quantized", "absent", "W8A16", "W8A16", true},
        {true, "lm_head: w4a8\nembedding: w4\n", "quantized", "absent", "W4A8", "W4A8", true},
        {true, "lm_head: w4a8\nembedding: w8\n", "quantized", "quantized", "W8A16", "W4A8", false},
        {true, "lm_head: w4a8\nembedding: off\n", "dense", "quantized", "BF16", "W4A8", false},
        {true, "lm_head: off\nembedding: w4\n", "quantized", "dense", "W4A16", "BF16", false},
        {true, "lm_head: off\nembedding: off\n", "dense", "absent", "BF16", "BF16", true},
        {true, "lm_head: auto\nembedding: off\n", "dense", "absent", "BF16", "BF16", true},
        {true, "lm_head: w8a8\nrotate: hadamard\n", "dense", "quantized", "FP16", "W8A8", false},
        {true, "lm_head: w8a8\nembedding: w8\nrotate: hadamard\n", "quantized", "quantized", "W8A16", "W8A8", false},
        {false, "", "dense", "dense", "BF16", "BF16", false},
        {false, "lm_head: w8a16\n", "dense", "quantized", "BF16", "W8A16", false},
        {false, "embedding: w-sq6\n", "quantized", "dense", "W(SQ6)A16", "BF16", false},
        {false, "lm_head: w8a8\nembedding: w8a16\n", "quantized", "quantized", "W8A16", "W8A8", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        small s;
        sqf_error err = {0};
        sqf_model *model;
        sqf_tensors *tensors;
        char yaml[160];
        small_tied(&s, cases[i].tied);
        snprintf(yaml, sizeof yaml, "scheme: w8a8\n%s", cases[i].keys);
        small_must_quantize(&s, yaml);
        must(sqf_tensors_open(s.output, &tensors, &err), &err);
        must(sqf_model_open(s.context, s.output, &model, &err), &err);
        const sqf_model_info info = sqf_model_info_get(model);
        print_message("%d %s", cases[i].tied, cases[i].keys);
        assert_string_equal(how(tensors, "model.embed_tokens"), cases[i].embedding);
        assert_string_equal(how(tensors, "lm_head"), cases[i].output);
        assert_string_equal(info.embedding_scheme, cases[i].embedding_scheme);
        assert_string_equal(info.output_scheme, cases[i].output_scheme);
        const size_t matrices = 1 + !cases[i].stays_tied, layer = 40 * (3 * 76 + 40 + 20 + 20 + 40) + 2 * 40;
        assert_int_equal(info.parameters, matrices * 256 * 40 + 40 + 3 * layer);
        assert_true(fabs(info.bits_per_parameter - 8.0 * (double)info.weight_bytes / (double)info.parameters) < 1e-9);
        assert_true(cases[i].stays_tied ? info.token_bytes == info.weight_bytes : info.token_bytes < info.weight_bytes);
        assert_true(small_error(&s) < 0.6);
        sqf_model_destroy(model);
        sqf_tensors_close(tensors);
        small_remove(&s);
    }
}

/* ---- blocks ---- */

static void expect_part(const sqf_tensors *tensors, const char *name, const void *bytes)
{
    const sqf_tensor *tensor = sqf_tensors_find(tensors, name);
    assert_non_null(tensor);
    assert_memory_equal(tensor->data, bytes, tensor->bytes);
}

/* More floats than a block has; scales that are multiples of one number for all rows, and draws that go by the row. */
static void test_blocks_of_rows_make_the_matrix_that_is_quantized_whole(void **state)
{
    enum { ROWS = 9000, COLUMNS = 1024 };
    static const char yaml[] = "scheme: w8a8\nlm_head: w-16-8-4-0.75-a8\nimportance: random\noverrides:\n"
                               "  - match: lm_head\n    scale_type: fp8\n";
    sqf_error err = {0};
    small s;
    sqf_tensors *before, *after;
    sqf_matrix whole;
    sqf_recipe *recipe;
    sqf_module_recipe found;
    bool ignored;
    (void)state;
    json_t *config = json_pack(
        "{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:s, s:b}", "architectures", "LlamaForCausalLM",
        "model_type", "llama", "vocab_size", ROWS, "hidden_size", COLUMNS, "intermediate_size", 16, "num_hidden_layers",
        1, "num_attention_heads", 2, "num_key_value_heads", 1, "head_dim", 8, "max_position_embeddings", 64,
        "rms_norm_eps", 1e-5, "rope_theta", 10000.0, "hidden_act", "silu", "tie_word_embeddings", 0);
    small_create_from(&s, config, SQF_DTYPE_BF16);
    json_decref(config);
    sqf_quantize_options options = small_options(&s);
    options.calibration = NULL;
    options.seed = 77;
    must(small_quantize(&s, yaml, &options, NULL, &err), &err);
    must(sqf_recipe_parse(yaml, strlen(yaml), "recipe", &recipe, &err), &err);
    must(sqf_recipe_resolve(recipe, "lm_head", &found, &ignored, &err), &err);
    must(sqf_tensors_open(s.model.path, &before, &err), &err);
    must(sqf_tensors_open(s.output, &after, &err), &err);
    float *weights = malloc(sizeof *weights * ROWS * COLUMNS);
    const uint8_t *stored = sqf_tensors_find(before, "lm_head.weight")->data;
    for (size_t i = 0; i < (size_t)ROWS * COLUMNS; i++) {
        uint16_t half;
        memcpy(&half, stored + 2 * i, sizeof half);
        weights[i] = sqf_bf16_to_float(half);
    }
    const sqf_matrix_job job = {.name = "lm_head",
                                .spec = found.scheme.weights,
                                .weights = weights,
                                .rows = ROWS,
                                .columns = COLUMNS,
                                .border = COLUMNS,
                                .importance = SQF_IMPORTANCE_RANDOM,
                                .compensate = SQF_COMPENSATE_NONE,
                                .seed = 77};
    must(sqf_matrix_quantize(s.context, &job, &whole, NULL, &err), &err);
    expect_part(after, "lm_head.sq_low", whole.low);
    expect_part(after, "lm_head.sq_high", whole.high);
    expect_part(after, "lm_head.sq_scale_low", whole.scale_low);
    expect_part(after, "lm_head.sq_scale_high", whole.scale_high);
    expect_part(after, "lm_head.sq_scale_unit", whole.scale_unit);
    sqf_matrix_clear(&whole);
    sqf_tensors_close(before);
    sqf_tensors_close(after);
    sqf_recipe_destroy(recipe);
    free(weights);
    small_remove(&s);
}

/* ---- quantization ---- */

/* A number of a module in OUT/report.json. */
static double reported(const small *s, const char *module, const char *key)
{
    char path[128];
    snprintf(path, sizeof path, "%s/report.json", s->output);
    json_t *report = json_load_file(path, 0, NULL);
    double value = NAN;
    size_t i;
    json_t *entry;
    assert_non_null(report);
    json_array_foreach(json_object_get(report, "tensors"), i, entry)
    {
        if (strcmp(json_string_value(json_object_get(entry, "name")), module) == 0) {
            value = json_number_value(json_object_get(entry, key));
        }
    }
    json_decref(report);
    return value;
}

static void test_calibration_reaches_the_output_matrix(void **state)
{
    small s;
    (void)state;
    small_tied(&s, false);
    small_must_quantize(&s, "scheme: bf16\nlm_head: w3a8\n");
    const double gptq = reported(&s, "lm_head", "output_error"), tokens = reported(&s, "lm_head", "tokens");
    small_must_quantize(&s, "scheme: bf16\nlm_head: w3a8\noverrides:\n  - match: lm_head\n    compensate: none\n");
    const double rounded = reported(&s, "lm_head", "output_error");
    print_message("output error %.4f compensated, %.4f rounded\n", gptq, rounded);
    assert_true(gptq > 0 && gptq < 0.9 * rounded);
    assert_int_equal(tokens, 6 * 48);
    small_remove(&s);
}

static void test_every_kind_of_scheme_runs(void **state)
{
    static const char *const recipes[] = {
        "lm_head: w8a8",
        "lm_head: w4a-sq6",
        "lm_head: w4a-sq6\nmask: maxl2",
        "lm_head: w4a-sq6\nmask: random\nembedding: off",
        "lm_head: w-sq6-a-sq6\noverrides:\n  - match: lm_head\n    mask_mode: dynamic-weighted",
        "lm_head: w8a8\noverrides:\n  - match: lm_head\n    act_scale: static\n    act_zero_point: point",
        "lm_head: w-sq6-a8\noverrides:\n  - match: lm_head\n    layout: bitmask\n    scales: tied\n    clip: mse",
        "lm_head: w6a8\nact_clip: search",
        "lm_head: w4a-sq6\noverrides:\n  - match: lm_head\n    act_outliers: 20",
        "lm_head: w8a8-2:4\nembedding: off",
        "lm_head: w4a-sq6\nrotate: pca",
        "lm_head: w6a8\ncompensate: gptq-input",
    };
    (void)state;
    for (size_t tied = 0; tied < 2; tied++) {
        small s;
        small_tied(&s, tied == 1);
        for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
            char yaml[256];
            snprintf(yaml, sizeof yaml, "scheme: w8a8\n%s\n", recipes[i]);
            small_must_quantize(&s, yaml);
            const double error = small_error(&s);
            if (!(error < 0.9)) {
                fail_msg("%s: error of the logits %g", recipes[i], error);
            }
        }
        small_remove(&s);
    }
}

static void copy_file(const small *s, const char *to)
{
    char command[512];
    snprintf(command, sizeof command, "cat '%s'/*.safetensors '%s/config.json' > '%s/%s'", s->output, s->output,
             s->scratch, to);
    assert_int_equal(system(command), 0);
}

static void test_the_number_of_threads_changes_nothing(void **state)
{
    small s;
    char command[256];
    (void)state;
    small_tied(&s, false);
    for (unsigned threads = 1; threads <= 3; threads += 2) {
        small_context(&s, threads);
        small_must_quantize(&s, "scheme: w4a8\nlm_head: w4a-sq6\nembedding: w-sq5\nact_clip: search\n");
        copy_file(&s, threads == 1 ? "one" : "three");
    }
    snprintf(command, sizeof command, "cmp '%s/one' '%s/three'", s.scratch, s.scratch);
    assert_int_equal(system(command), 0);
    small_remove(&s);
}

/* ---- recipes ---- */

static void test_refusals_name_the_matrix_and_the_key(void **state)
{
    static const struct {
        const char *yaml, *text;
        bool calibrated;
    } cases[] = {
        {"lm_head: w4a8\nignore: [lm_head]", "lm_head: is on the ignore list and has a scheme", true},
        {"embedding: w4\nignore: ['re:model.embed.*']", "model.embed_tokens: is on the ignore list", true},
        {"lm_head: w4a-sq6", "lm_head: a static activation mask other than random needs calibration text", false},
        {"lm_head: w4a-sq6\nmask: paper", "lm_head: mask: expected l2, max, maxl2, random or best", true},
        {"lm_head: w4a8\noverrides:\n  - match: lm_head\n    smooth: 0.5", "lm_head: smooth: expected off", true},
        {"overrides:\n  - match: lm_head\n    clip: mse", "matches no linear layer", true},
        {"overrides:\n  - match: '.*q_proj'\n    lm_head: w8a8", "expected them in the base recipe alone", true},
        {"embedding: w4\noverrides:\n  - match: model.embed_tokens\n    scheme: w4a8",
         "model.embed_tokens: expected unquantized activations", true},
    };
    small s;
    (void)state;
    small_tied(&s, false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sqf_error err = {0};
        char yaml[200];
        sqf_quantize_options options = small_options(&s);
        options.calibration = cases[i].calibrated ? s.text : NULL;
        snprintf(yaml, sizeof yaml, "scheme: w8a8\n%s\n", cases[i].yaml);
        assert_int_equal(small_quantize(&s, yaml, &options, NULL, &err), SQF_E_ARG);
        if (!strstr(err.text, cases[i].text)) {
            fail_msg("%s: found \"%s\"", cases[i].yaml, err.text);
        }
    }
    small_remove(&s);
}

static void test_bad_values_are_refused_and_good_ones_print_as_they_were(void **state)
{
    static const char *const bad[][2] = {{"lm_head", "bf16"},   {"lm_head", "w5b8"},   {"lm_head", ""},
                                         {"embedding", "w4a8"}, {"embedding", "bf16"}, {"embedding", "4"}};
    static const char yaml[] = "scheme: w4a8\nlm_head: w4a-sq6\nembedding: off\n";
    sqf_error err = {0};
    sqf_module_recipe recipe = sqf_module_recipe_default(&(sqf_scheme){0});
    sqf_recipe *once, *twice;
    char *first, *second;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(sqf_module_recipe_set(&recipe, bad[i][0], bad[i][1], &err), SQF_E_ARG);
        assert_non_null(strstr(err.text, bad[i][0]));
        assert_true(recipe.lm_head.weights.bank == 0 && recipe.embedding.weights.bank == 0);
    }
    must(sqf_recipe_parse(yaml, strlen(yaml), "recipe", &once, &err), &err);
    must(sqf_recipe_print(once, &first, &err), &err);
    must(sqf_recipe_parse(first, strlen(first), "recipe", &twice, &err), &err);
    must(sqf_recipe_print(twice, &second, &err), &err);
    assert_string_equal(first, second);
    assert_non_null(strstr(first, "lm_head: low=int4"));
    assert_non_null(strstr(first, "embedding: off"));
    free(first);
    free(second);
    sqf_recipe_destroy(once);
    sqf_recipe_destroy(twice);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_matrix_serves_tied_embeddings_unless_two_are_asked_for),
        cmocka_unit_test(test_blocks_of_rows_make_the_matrix_that_is_quantized_whole),
        cmocka_unit_test(test_calibration_reaches_the_output_matrix),
        cmocka_unit_test(test_every_kind_of_scheme_runs),
        cmocka_unit_test(test_the_number_of_threads_changes_nothing),
        cmocka_unit_test(test_refusals_name_the_matrix_and_the_key),
        cmocka_unit_test(test_bad_values_are_refused_and_good_ones_print_as_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

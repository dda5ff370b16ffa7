/* What the pipeline refuses, and that nothing is left behind when it stops: no output, no temporary file. */
#define _GNU_SOURCE /* memmem */
#include "small.h"

#include <dirent.h>

#include "base/hash.h"

/* Entries of the scratch directory, "." and ".." left out. */
static size_t count_entries(const char *directory)
{
    size_t count = 0;
    DIR *d = opendir(directory);
    assert_non_null(d);
    while (readdir(d)) {
        count++;
    }
    closedir(d);
    return count - 2;
}

/* Quantizing must fail, and leave the calibration text alone in the scratch directory. */
static void expect_failure(const small *s, const char *yaml, const sqf_quantize_options *options, sqf_status status,
                           const char *part)
{
    sqf_error err = {0};
    sqf_quantize_summary summary = {.weights = 77};
    assert_fails(small_quantize(s, yaml, options, &summary, &err), status, &err, part);
    assert_int_equal(summary.weights, 77);
    assert_int_equal(count_entries(s->scratch), 1);
}

static void test_bad_options_are_refused(void **state)
{
    (void)state;
    small s;
    small_llama(&s);
    sqf_quantize_options options = small_options(&s);
    options.length = 65;
    expect_failure(&s, "scheme: W4A8", &options, SQF_E_ARG, "expected 1 to the model's 64 positions");
    options = small_options(&s);
    options.calibration = "/nowhere/text.txt";
    expect_failure(&s, "scheme: W4A8", &options, SQF_E_IO, "/nowhere/text.txt");
    small_write_text(s.text, 20);
    options = small_options(&s);
    expect_failure(&s, "scheme: W4A8", &options, SQF_E_ARG, "48 tokens needed for one window, 20 found");
    small_remove(&s);
}

static void test_recipes_that_do_not_fit_the_model_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *part;
    } cases[] = {
        {"scheme: W4A8\noverrides: [{match: '.*layers.7.*', scheme: W8A8}]",
         "override '.*layers.7.*': matches no linear layer"},
        {"scheme: W4A8\nignore: [model.layers.9.mlp.up_proj]", "ignore 'model.layers.9.mlp.up_proj': matches no"},
        {"scheme: W4A8\noverrides: [{match: '.*k_proj', scheme: W4A4}]",
         "model.layers.0.self_attn.q_proj and model.layers.0.self_attn.k_proj read the same input: expected equal "
         "activations"},
        {"scheme: W4A(SQ6)\noverrides: [{match: '.*up_proj', mask: l2}]",
         "model.layers.0.mlp.gate_proj and model.layers.0.mlp.up_proj read the same input"},
        {"scheme: W4A(SQ6)\noverrides: [{match: '.*up_proj', quota: equal}]",
         "model.layers.0.mlp.gate_proj and model.layers.0.mlp.up_proj read the same input"},
        {"scheme: W4A4\noverrides: [{match: '.*k_proj', act_clip: search}]",
         "self_attn.q_proj and model.layers.0.self_attn.k_proj read the same input"},
        {"scheme: W4A8\nsmooth: 0.4\noverrides: [{match: '.*v_proj', smooth: off}]",
         "self_attn.v_proj read the same input: expected equal values of smooth"},
        {"scheme: W4A(SQ6)\nmask_mode: dynamic\nact_scale: static", "act_scale static with a dynamic mask"},
        {"scheme: W(SQ6)A8\nhigh: int2", "weights: high=int2"},
    };
    small s;
    small_llama(&s);
    const sqf_quantize_options options = small_options(&s);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_failure(&s, cases[i].yaml, &options, SQF_E_ARG, cases[i].part);
    }
    small_remove(&s);
}

static void test_what_needs_calibration_says_so(void **state)
{
    (void)state;
    small s;
    small_llama(&s);
    sqf_quantize_options options = small_options(&s);
    options.calibration = NULL;
    expect_failure(&s, "scheme: W4A(SQ6)", &options, SQF_E_ARG,
                   "a static activation mask other than random needs calibration text, found none");
    expect_failure(&s, "scheme: W8A8\nact_scale: static", &options, SQF_E_ARG, "act_scale static needs calibration");
    expect_failure(&s, "scheme: W8A8\nsmooth: 0.5", &options, SQF_E_ARG, "smooth needs calibration");
    expect_failure(&s, "scheme: W8A8-2:4\nprune: wanda", &options, SQF_E_ARG, "prune wanda needs calibration");
    small_remove(&s);
}

/* Writes a NaN over the first element of a tensor of the model; with `hide`, its recorded hash follows. */
static void damage(const small *s, const char *name, bool hide)
{
    sqf_error err = {0};
    sqf_tensors *tensors;
    sqf_buffer file;
    char path[128], hash[SQF_HASH_TEXT];
    snprintf(path, sizeof path, "%s/model.safetensors", s->model.path);
    must(sqf_tensors_open(s->model.path, &tensors, &err), &err);
    const sqf_tensor *tensor = sqf_tensors_find(tensors, name);
    must(sqf_file_read(path, 1 << 24, &file, &err), &err);
    char *data = memmem(file.data, file.size, tensor->data, tensor->bytes);
    char *recorded = memmem(file.data, file.size, tensor->hash, strlen(tensor->hash));
    assert_true(data && recorded);
    memcpy(data, "\xc0\x7f", 2);
    sqf_hash_bytes(data, tensor->bytes, hash);
    if (hide) {
        memcpy(strchr(recorded, ':') + 1, hash, SQF_HASH_TEXT - 1);
    }
    sqf_tensors_close(tensors);
    must(sqf_file_write(path, file.data, file.size, &err), &err);
    free(file.data);
}

static void test_a_damaged_weight_is_named(void **state)
{
    (void)state;
    static const char *const names[] = {"model.layers.2.mlp.down_proj.weight", "model.layers.1.input_layernorm.weight",
                                        "model.embed_tokens.weight", "model.norm.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        small s;
        small_llama(&s);
        damage(&s, names[i], true);
        const sqf_quantize_options options = small_options(&s);
        char part[96];
        snprintf(part, sizeof part, "tensor %s: row 0 column 0: expected a finite number", names[i]);
        expect_failure(&s, "scheme: W4A8", &options, SQF_E_VALUE, part);
        small_remove(&s);
        small_llama(&s);
        damage(&s, names[i], false);
        expect_failure(&s, "scheme: W4A8", &options, SQF_E_HASH, names[i]);
        small_remove(&s);
    }
}

static void test_outputs_are_not_written_over_or_into_the_model(void **state)
{
    (void)state;
    small s;
    sqf_error err = {0};
    sqf_buffer file;
    small_llama(&s);
    sqf_quantize_options options = small_options(&s);
    must(sqf_file_write(s.output, "mine", 4, &err), &err);
    options.force = false;
    assert_fails(small_quantize(&s, "scheme: W4A8", &options, NULL, &err), SQF_E_EXISTS, &err, "/out: exists already");
    must(sqf_file_read(s.output, 9, &file, &err), &err);
    assert_string_equal(file.data, "mine");
    free(file.data);
    assert_int_equal(unlink(s.output), 0);

    options.force = true;
    snprintf(s.output, sizeof s.output, "%s/", s.model.path);
    expect_failure(&s, "scheme: W4A8", &options, SQF_E_ARG, "expected an output apart from the input");
    snprintf(s.output, sizeof s.output, "%s/inside", s.model.path);
    expect_failure(&s, "scheme: W4A8", &options, SQF_E_ARG, "expected an output apart from the input");
    snprintf(s.output, sizeof s.output, "/tmp"); /* holds the model */
    expect_failure(&s, "scheme: W4A8", &options, SQF_E_ARG, "expected an output apart from the input");
    snprintf(s.output, sizeof s.output, "%s/a/b", s.scratch);
    expect_failure(&s, "scheme: W4A8", &options, SQF_E_IO, "/a/b: ");
    snprintf(s.output, sizeof s.output, "/proc/out");
    expect_failure(&s, "scheme: W4A8", &options, SQF_E_IO, "/proc/out");
    assert_int_equal(count_entries(s.model.path), 3); /* config, weights, tokenizer */
    small_remove(&s);
}

static void test_a_quantized_model_is_not_quantized_again(void **state)
{
    (void)state;
    small s;
    sqf_error err = {0};
    sqf_recipe *recipe;
    char again[128];
    small_llama(&s);
    const sqf_quantize_options options = small_options(&s);
    small_must_quantize(&s, "scheme: W4A8");
    snprintf(again, sizeof again, "%s/again", s.scratch);
    must(sqf_recipe_parse("scheme: W8A8", 12, "recipe", &recipe, &err), &err);
    assert_fails(sqf_quantize(s.context, s.output, again, recipe, &options, NULL, &err), SQF_E_ARG, &err,
                 "is quantized already");
    assert_false(sqf_path_exists(again));
    sqf_recipe_destroy(recipe);
    small_remove(&s);
}

static void test_a_replaced_output_is_whole(void **state)
{
    (void)state;
    small s;
    char stale[128];
    sqf_error err = {0};
    small_llama(&s);
    small_must_quantize(&s, "scheme: W4A8");
    snprintf(stale, sizeof stale, "%s/stale", s.output);
    must(sqf_file_write(stale, "x", 1, &err), &err);
    small_must_quantize(&s, "scheme: W8A8");
    assert_false(sqf_path_exists(stale));
    assert_int_equal(count_entries(s.scratch), 2);
    assert_int_equal(count_entries(s.output), 5); /* config, weights, tokenizer, recipe, report */
    small_remove(&s);
}

/* ---- cancelling ---- */

typedef struct stop {
    bool at_end;
    uint64_t calls, total;
} stop;

static bool progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    stop *s = user;
    assert_true(strcmp(what, "windows") == 0 && done <= total);
    s->calls++;
    s->total = total;
    return s->at_end && done < total;
}

static void check_cancelling(bool at_end)
{
    small s;
    sqf_error err = {0};
    stop state = {.at_end = at_end};
    small_llama(&s);
    sqf_context_options context = sqf_context_options_default();
    context.progress = progress;
    context.progress_user = &state;
    sqf_context_destroy(s.context);
    must(sqf_context_create(&context, &s.context, &err), &err);
    const sqf_quantize_options options = small_options(&s);
    expect_failure(&s, "scheme: W4A8", &options, SQF_E_CANCELLED, "cancelled at");
    assert_true(state.calls > 0);
    assert_int_equal(state.total, 6 * (3 + 2)); /* the outputs of the last layer are nobody's inputs */
    small_remove(&s);
}

static void test_cancelling_leaves_nothing(void **state)
{
    (void)state;
    check_cancelling(false);
    check_cancelling(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_options_are_refused),
        cmocka_unit_test(test_recipes_that_do_not_fit_the_model_are_refused),
        cmocka_unit_test(test_what_needs_calibration_says_so),
        cmocka_unit_test(test_a_damaged_weight_is_named),
        cmocka_unit_test(test_outputs_are_not_written_over_or_into_the_model),
        cmocka_unit_test(test_a_quantized_model_is_not_quantized_again),
        cmocka_unit_test(test_a_replaced_output_is_whole),
        cmocka_unit_test(test_cancelling_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Recipes: what YAML says is what modules get, printing and reading agree, and every mistake is named with its line. */
#include "check.h"

#include <sqf/quantize.h>

#include "base/random.h"

#define MODULE "model.layers.3.mlp.down_proj"

static sqf_recipe *parse(const char *yaml)
{
    sqf_error err = {0};
    sqf_recipe *recipe;
    assert_ok(sqf_recipe_parse(yaml, strlen(yaml), "r.yaml", &recipe, &err), &err);
    return recipe;
}

static void expect_refusal(const char *yaml, const char *part)
{
    sqf_error err = {0};
    sqf_recipe *recipe = (sqf_recipe *)&err; /* must become NULL */
    assert_fails(sqf_recipe_parse(yaml, strlen(yaml), "r.yaml", &recipe, &err), SQF_E_FORMAT, &err, part);
    assert_null(recipe);
}

static sqf_module_recipe resolve(const char *yaml, const char *module, bool *ignored)
{
    sqf_error err = {0};
    sqf_module_recipe out;
    sqf_recipe *recipe = parse(yaml);
    assert_ok(sqf_recipe_resolve(recipe, module, &out, ignored, &err), &err);
    sqf_recipe_destroy(recipe);
    return out;
}

static bool recipes_equal(const sqf_module_recipe *a, const sqf_module_recipe *b)
{
    return sqf_scheme_equal(&a->scheme, &b->scheme) && a->importance == b->importance && a->mask == b->mask &&
           a->compensate == b->compensate && a->clip == b->clip && a->prune == b->prune && a->smooth == b->smooth &&
           a->damping == b->damping;
}

static void test_every_key_reaches_its_field(void **state)
{
    (void)state;
    bool ignored;
    const sqf_module_recipe r =
        resolve("damping: 0.05\nsmooth: 0.25\nprune: wanda\nclip: mse\ncompensate: none\n"
                "mask: maxl2\nimportance: gain\nact_clip: 0.5\nact_group: 32\nact_scale: group\n"
                "mask_mode: dynamic-weighted\nact_sparsity: 3/4\nact_bank: 32\nact_high: int6\n"
                "act_low: int3\nlayout: bitmask\nscales: tied\nscale_type: bf16\n"
                "sparsity: 0.875\nbank: 32\nhigh: int6\nlow: int2\nbank_weights: 64\n"
                "scheme: W(SQ5)A(SQ5)\n",
                MODULE, &ignored);
    const sqf_weight_spec *w = &r.scheme.weights;
    const sqf_act_spec *a = &r.scheme.activations;
    assert_false(ignored);
    assert_true(w->low == SQF_TYPE_INT2 && w->high == SQF_TYPE_INT6 && w->bank == 32 && w->high_per_bank == 4);
    assert_true(w->group == 64 && w->scale_type == SQF_TYPE_BF16 && w->scales == SQF_SCALES_TIED);
    assert_true(w->layout == SQF_LAYOUT_BITMASK);
    assert_true(a->low == SQF_TYPE_INT3 && a->high == SQF_TYPE_INT6 && a->bank == 32 && a->high_per_bank == 8);
    assert_true(a->mask == SQF_MASK_DYNAMIC && a->dynamic_weighted && a->scale == SQF_ACT_GROUP && a->group == 32);
    assert_true(a->clip == 0.5f && r.importance == SQF_IMPORTANCE_GAIN && r.mask == SQF_MASK_SCORE_MAXL2);
    assert_true(r.compensate == SQF_COMPENSATE_NONE && r.clip == SQF_CLIP_MSE && r.prune == SQF_PRUNE_WANDA);
    assert_true(r.smooth == 0.25f && r.damping == 0.05);
}

static void test_defaults_are_those_of_the_format(void **state)
{
    (void)state;
    bool ignored;
    const sqf_module_recipe r = resolve("scheme: W4A(SQ6)", MODULE, &ignored);
    const sqf_module_recipe standard = sqf_module_recipe_default(&r.scheme);
    assert_true(recipes_equal(&r, &standard));
    assert_true(r.importance == SQF_IMPORTANCE_OBS && r.mask == SQF_MASK_SCORE_BEST);
    assert_true(r.act_clip == SQF_SEARCH_AUTO && r.quota == SQF_SEARCH_AUTO);
    assert_true(r.compensate == SQF_COMPENSATE_GPTQ && r.clip == SQF_CLIP_ABSMAX && r.prune == SQF_PRUNE_SPARSEGPT);
    assert_true(r.smooth == SQF_SMOOTH_AUTO && r.damping == 0.01);
}

static void test_short_keys_speak_of_the_operand_in_banks(void **state)
{
    (void)state;
    bool ignored;
    const sqf_module_recipe weights = resolve("scheme: W(SQ6)A8\nbank: 32", MODULE, &ignored);
    assert_true(weights.scheme.weights.bank == 32 && weights.scheme.weights.high_per_bank == 16);
    assert_true(weights.scheme.weights.group == 32);
    const sqf_module_recipe acts = resolve("scheme: W4A(SQ6)\nbank: 32\nsparsity: 0.75\nlow: int2", MODULE, &ignored);
    assert_true(acts.scheme.activations.bank == 32 && acts.scheme.activations.high_per_bank == 8);
    assert_true(acts.scheme.activations.low == SQF_TYPE_INT2 && acts.scheme.weights.low == SQF_TYPE_INT4);
    assert_true(acts.scheme.weights.group == 128);
    const sqf_module_recipe uniform = resolve("scheme: W4A8\nbank: 64", MODULE, &ignored);
    assert_true(uniform.scheme.weights.group == 64);
    const sqf_module_recipe row = resolve("scheme: W4A8\nbank_weights: row", MODULE, &ignored);
    assert_true(row.scheme.weights.group == 0);
    const sqf_module_recipe bare = resolve("scheme: W(SQ6)A8\nhigh: 6\nlow: 0\nact_low: 4", MODULE, &ignored);
    assert_true(bare.scheme.weights.high == SQF_TYPE_INT6 && bare.scheme.weights.low == SQF_TYPE_NONE);
    assert_true(bare.scheme.weights.layout == SQF_LAYOUT_BITMASK && bare.scheme.activations.low == SQF_TYPE_INT4);
}

static void test_overrides_apply_in_order_to_whole_names(void **state)
{
    (void)state;
    static const char yaml[] = "scheme: W4A8\n"
                               "overrides:\n"
                               "  - match: '.*down_proj'\n"
                               "    scheme: W(SQ6)A8\n"
                               "    damping: 0.1\n"
                               "  - {match: 'model\\.layers\\.3\\..*', damping: 0.2}\n"
                               "  - match: down_proj\n"
                               "    damping: 9\n"
                               "ignore: ['model.layers.1.mlp.up_proj', 're:.*k_proj']\n";
    bool ignored;
    const sqf_module_recipe third = resolve(yaml, MODULE, &ignored);
    assert_false(ignored);
    assert_true(third.scheme.weights.high == SQF_TYPE_INT8 && third.damping == 0.2);
    assert_true(resolve(yaml, "model.layers.2.mlp.down_proj", &ignored).damping == 0.1);
    assert_true(resolve(yaml, "model.layers.2.mlp.up_proj", &ignored).damping == 0.01 && !ignored);
    resolve(yaml, "model.layers.1.mlp.up_proj", &ignored);
    assert_true(ignored);
    resolve(yaml, "model.layers.11.mlp.up_proj", &ignored);
    assert_false(ignored);
    resolve(yaml, "model.layers.0.self_attn.k_proj", &ignored);
    assert_true(ignored);
    resolve(yaml, "lm_head", &ignored);
    assert_true(ignored);
}

static void test_mistakes_are_named_with_their_line(void **state)
{
    (void)state;
    expect_refusal("", "r.yaml: line 1: expected a document");
    expect_refusal("- a\n", "r.yaml: line 1: expected a map of keys, found a list");
    expect_refusal("bank: 32\n", "r.yaml: scheme: expected the name of a scheme, found nothing");
    expect_refusal("scheme: W4A8\nbanc: 32\n", "r.yaml: line 2: unknown key 'banc'");
    expect_refusal("scheme: W4A8\nbank: 0\n",
                   "r.yaml: line 2: bank: expected a whole number from 1 to 65536, found '0'");
    expect_refusal("scheme: W4A8\nbank: 65537\n", "line 2: bank");
    expect_refusal("scheme: W4A8\nbank: 4294967297\n", "line 2: bank");
    expect_refusal("scheme: W4A8\nbank: [1]\n", "r.yaml: line 2: expected a value of bank, found a list");
    expect_refusal("scheme: nonsense\n", "r.yaml: line 1: ");
    expect_refusal("scheme: W(SQ6)A8\nsparsity: 0.7\n", "leaves 19.2 high elements in a bank of 64");
    expect_refusal("scheme: W4A8\nsmooth: nan\n",
                   "line 2: smooth: expected auto, off, awq, search or a number from 0 to 1");
    expect_refusal("scheme: W4A8\ndamping: 0x10\n", "line 2: damping");
    expect_refusal("scheme: W4A8\nscheme: W4A4\n", "r.yaml: line 2: scheme: given twice");
    expect_refusal("scheme: W4A8\nignore: []\nignore: []\n", "r.yaml: line 3: ignore: given twice");
    expect_refusal("scheme: W4A8\nignore: x\n", "r.yaml: line 2: expected ignore: a list of names, found a scalar");
    expect_refusal("scheme: W4A8\nignore: ['re:(']\n", "r.yaml: line 2: regular expression '('");
    expect_refusal("scheme: W4A8\noverrides:\n - {bank: 4}\n", "an override without match");
    expect_refusal("scheme: W4A8\noverrides:\n - {match: '(', bank: 4}\n", "regular expression '('");
    expect_refusal("scheme: W4A8\noverrides:\n - {match: a, match: b}\n", "line 3: match: given twice");
    expect_refusal("scheme: W4A8\noverrides:\n - match: a\n   importance: best\n", "line 4: importance");
    expect_refusal("scheme: W4A8\noverrides: [[[[[[]]]]]]\n", "line 2: expected an override (a map), found a list");
    expect_refusal("scheme: W4A8\noverrides:\n - {match: a, overrides: []}\n", "line 3: expected a value of overrides");
    expect_refusal("scheme: &a W4A8\n", "r.yaml: line 1: aliases, anchors, tags");
    expect_refusal("scheme: W4A8\nmask: *a\n", "aliases, anchors, tags");
    expect_refusal("scheme: !!str W4A8\n", "aliases, anchors, tags");
    expect_refusal("scheme: \"W4A8\\0\"\n", "NUL bytes");
    expect_refusal("scheme: W4A8\n---\nscheme: W4A8\n", "found another document");
    expect_refusal("scheme: \"W4A8\n", "r.yaml: line 2: not YAML");
}

static void test_deep_nesting_is_refused_at_once(void **state)
{
    (void)state;
    static char deep[1 << 19];
    memset(deep, '[', sizeof deep - 1);
    expect_refusal(deep, "r.yaml: line 1: ");
}

static void test_a_recipe_beyond_the_bound_is_refused(void **state)
{
    (void)state;
    static char large[(1 << 20) + 2];
    memset(large, '#', sizeof large - 1);
    expect_refusal(large, "expected at most 1048576 bytes, found 1048577");
}

static void test_a_value_that_does_not_fit_is_named_with_its_override(void **state)
{
    (void)state;
    sqf_error err = {0};
    sqf_module_recipe out;
    bool ignored;
    sqf_recipe *recipe = parse("scheme: W4A(SQ5)\noverrides: [{match: '.*', sparsity: 0.7}]\n");
    assert_fails(sqf_recipe_resolve(recipe, MODULE, &out, &ignored, &err), SQF_E_ARG, &err,
                 "override '.*': line 2: sparsity: 0.7 leaves 4.8");
    sqf_recipe_destroy(recipe);
    recipe = parse("scheme: W4A(SQ5)\nact_high: int2\n");
    assert_fails(sqf_recipe_resolve(recipe, MODULE, &out, &ignored, &err), SQF_E_ARG, &err, MODULE);
    sqf_recipe_destroy(recipe);
}

static void test_an_expression_that_takes_too_long_is_an_error(void **state)
{
    (void)state;
    sqf_error err = {0};
    sqf_module_recipe out;
    bool ignored;
    sqf_recipe *recipe = parse("scheme: W4A8\nignore: ['re:([a-z.0-9_]+)+([a-z.0-9_]+)+[!?]']\n");
    assert_fails(sqf_recipe_resolve(recipe, "model.layers.10.self_attn.q_proj.model.layers.10", &out, &ignored, &err),
                 SQF_E_ARG, &err, "cannot be decided");
    sqf_recipe_destroy(recipe);
}

/* ---- printing ---- */

static const char *random_choice(sqf_random *random, const char *const *choices, size_t count)
{
    return choices[sqf_random_below(random, count)];
}

#define CHOOSE(random, ...)                                                                                            \
    random_choice((random), (const char *const[]){__VA_ARGS__},                                                        \
                  sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* A value that the key accepts. */
static void random_value(sqf_random *random, const char *key, char *text, size_t room)
{
    if (strcmp(key, "scheme") == 0) {
        size_t count;
        const sqf_scheme_entry *schemes = sqf_scheme_list(&count);
        snprintf(text, room, "%s", schemes[sqf_random_below(random, count)].name);
    } else if (strcmp(key, "importance") == 0) {
        snprintf(text, room, "%s", CHOOSE(random, "obs", "hinv", "gain", "magnitude", "random"));
    } else if (strcmp(key, "mask") == 0) {
        snprintf(text, room, "%s", CHOOSE(random, "paper", "l1", "l2", "max", "maxl2", "random", "best"));
    } else if (strcmp(key, "quota") == 0) {
        snprintf(text, room, "%s", CHOOSE(random, "auto", "equal", "allotted"));
    } else if (strcmp(key, "act_clip") == 0 && sqf_random_below(random, 2)) {
        snprintf(text, room, "%s", CHOOSE(random, "auto", "search"));
    } else if (strcmp(key, "compensate") == 0) {
        snprintf(text, room, "%s", CHOOSE(random, "gptq", "none"));
    } else if (strcmp(key, "clip") == 0) {
        snprintf(text, room, "%s", CHOOSE(random, "absmax", "mse"));
    } else if (strcmp(key, "prune") == 0) {
        snprintf(text, room, "%s", CHOOSE(random, "sparsegpt", "wanda", "magnitude"));
    } else if (strcmp(key, "mask_mode") == 0) {
        snprintf(text, room, "%s", CHOOSE(random, "static", "dynamic", "dynamic-weighted"));
    } else if (strcmp(key, "act_scale") == 0) {
        snprintf(text, room, "%s", CHOOSE(random, "token", "group", "static"));
    } else if (strcmp(key, "smooth") == 0 && sqf_random_below(random, 2)) {
        snprintf(text, room, "%s", CHOOSE(random, "off", "auto"));
    } else if (strcmp(key, "smooth") == 0 || strcmp(key, "damping") == 0) {
        snprintf(text, room, "%.17g", sqf_random_unit(random));
    } else if (strcmp(key, "scale_type") == 0) {
        snprintf(text, room, "%s", CHOOSE(random, "fp16", "bf16", "fp32"));
    } else if (strcmp(key, "act_clip") == 0) {
        snprintf(text, room, "%.9g", 0.001 + 0.9 * sqf_random_unit(random));
    } else {
        text[0] = '\0';
    }
}

static void add_random_overrides(sqf_random *random, sqf_recipe *recipe)
{
    sqf_error err = {0};
    size_t keys;
    const sqf_recipe_key *key = sqf_recipe_key_list(&keys);
    for (uint64_t n = sqf_random_below(random, 4); n > 0; n--) {
        assert_ok(
            sqf_recipe_add_override(
                recipe, CHOOSE(random, ".*", "model\\.layers\\.[0-3]\\..*", ".*'q\"?: #_proj", ".*down_proj"), &err),
            &err);
        for (size_t i = 0; i < keys; i++) {
            char text[128];
            random_value(random, key[i].name, text, sizeof text);
            if (text[0] && sqf_random_below(random, 3) == 0) {
                assert_ok(sqf_recipe_override_set(recipe, key[i].name, text, &err), &err);
            }
        }
    }
    for (uint64_t n = sqf_random_below(random, 3); n > 0; n--) {
        assert_ok(sqf_recipe_add_ignore(recipe,
                                        CHOOSE(random, "lm_head", "re:.*k_proj", "- odd: 'name'", "re:\xc3\xa9"), &err),
                  &err);
    }
}

static sqf_recipe *random_recipe(sqf_random *random)
{
    sqf_error err = {0};
    sqf_recipe *recipe;
    size_t keys;
    const sqf_recipe_key *key = sqf_recipe_key_list(&keys);
    sqf_module_recipe base = {0};
    for (size_t i = 0; i < keys; i++) {
        char text[128];
        random_value(random, key[i].name, text, sizeof text);
        if (text[0]) {
            assert_ok(sqf_module_recipe_set(&base, key[i].name, text, &err), &err);
        }
    }
    assert_ok(sqf_recipe_create(&base, &recipe, &err), &err);
    add_random_overrides(random, recipe);
    return recipe;
}

static void test_a_printed_recipe_reads_back_to_the_same(void **state)
{
    (void)state;
    sqf_random random = {.state = test_seed("recipe round trip", 11)};
    for (int round = 0; round < 300; round++) {
        sqf_error err = {0};
        sqf_recipe *first = random_recipe(&random), *second;
        char *text, *again;
        assert_ok(sqf_recipe_print(first, &text, &err), &err);
        assert_ok(sqf_recipe_parse(text, strlen(text), "printed", &second, &err), &err);
        assert_ok(sqf_recipe_print(second, &again, &err), &err);
        assert_string_equal(text, again);
        assert_true(recipes_equal(sqf_recipe_base(first), sqf_recipe_base(second)));
        sqf_module_recipe a, b;
        bool ignored[2];
        const sqf_status status = sqf_recipe_resolve(first, MODULE, &a, &ignored[0], &err);
        assert_int_equal(status, sqf_recipe_resolve(second, MODULE, &b, &ignored[1], &err));
        assert_true(status != SQF_OK || (recipes_equal(&a, &b) && ignored[0] == ignored[1]));
        free(text);
        free(again);
        sqf_recipe_destroy(first);
        sqf_recipe_destroy(second);
    }
}

static void test_text_that_is_not_utf8_cannot_be_printed(void **state)
{
    (void)state;
    sqf_error err = {0};
    sqf_recipe *recipe = parse("scheme: W4A8");
    char *text;
    assert_ok(sqf_recipe_add_ignore(recipe, "\xff", &err), &err);
    assert_fails(sqf_recipe_print(recipe, &text, &err), SQF_E_ARG, &err, "UTF-8");
    assert_null(text);
    sqf_recipe_destroy(recipe);
}

static void test_a_file_is_named_when_it_cannot_be_read(void **state)
{
    (void)state;
    sqf_error err = {0};
    sqf_recipe *recipe;
    assert_fails(sqf_recipe_load("/nowhere/r.yaml", &recipe, &err), SQF_E_IO, &err, "/nowhere/r.yaml");
    assert_null(recipe);
    sqf_recipe_destroy(NULL);
}

static void test_setting_refuses_without_changing(void **state)
{
    (void)state;
    sqf_error err = {0};
    sqf_scheme scheme;
    assert_ok(sqf_scheme_parse("W4A8", &scheme, &err), &err);
    sqf_module_recipe recipe = sqf_module_recipe_default(&scheme);
    const sqf_module_recipe before = recipe;
    assert_fails(sqf_module_recipe_set(&recipe, "overrides", "x", &err), SQF_E_ARG, &err, "unknown key 'overrides'");
    size_t count;
    const sqf_recipe_key *keys = sqf_recipe_key_list(&count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(sqf_module_recipe_set(&recipe, keys[i].name, "?", &err), SQF_E_ARG);
        assert_true(recipes_equal(&recipe, &before));
        assert_true(keys[i].description[0] && keys[i].values[0]);
        if (keys[i].default_value[0]) {
            assert_ok(sqf_module_recipe_set(&recipe, keys[i].name, keys[i].default_value, &err), &err);
            assert_true(recipes_equal(&recipe, &before));
        }
    }
    sqf_recipe *none = parse("scheme: W4A8");
    assert_fails(sqf_recipe_override_set(none, "bank", "4", &err), SQF_E_ARG, &err, "no override yet");
    sqf_recipe_destroy(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_key_reaches_its_field),
        cmocka_unit_test(test_defaults_are_those_of_the_format),
        cmocka_unit_test(test_short_keys_speak_of_the_operand_in_banks),
        cmocka_unit_test(test_overrides_apply_in_order_to_whole_names),
        cmocka_unit_test(test_mistakes_are_named_with_their_line),
        cmocka_unit_test(test_deep_nesting_is_refused_at_once),
        cmocka_unit_test(test_a_recipe_beyond_the_bound_is_refused),
        cmocka_unit_test(test_a_value_that_does_not_fit_is_named_with_its_override),
        cmocka_unit_test(test_an_expression_that_takes_too_long_is_an_error),
        cmocka_unit_test(test_a_printed_recipe_reads_back_to_the_same),
        cmocka_unit_test(test_text_that_is_not_utf8_cannot_be_printed),
        cmocka_unit_test(test_a_file_is_named_when_it_cannot_be_read),
        cmocka_unit_test(test_setting_refuses_without_changing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* config.json: what is read, what is refused, and the rule of every default. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/config.h"

/* A good configuration in which `changes`, a JSON object, replaces members; for json_decref. */
static json_t *make_config(const char *changes)
{
    static const char good[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":48,"
                               "\"intermediate_size\":50,"
                               "\"num_attention_heads\":6,\"num_hidden_layers\":3,\"vocab_size\":101}";
    sqf_error err = {0};
    json_t *config, *update;
    assert_int_equal(sqf_json_parse(good, strlen(good), "good", &config, &err), SQF_OK);
    if (sqf_json_parse(changes, strlen(changes), "changes", &update, &err) != SQF_OK) {
        fail_msg("%s: %s", changes, err.text);
    }
    json_object_update(config, update);
    json_decref(update);
    return config;
}

static sqf_config parse(const char *changes)
{
    sqf_config config;
    sqf_error err = {0};
    json_t *json = make_config(changes);
    if (sqf_config_parse(json, "config.json", &config, &err) != SQF_OK) {
        fail_msg("%s: %s", changes, err.text);
    }
    json_decref(json);
    return config;
}

typedef struct bad_config {
    const char *changes;
    sqf_status status;
    const char *message;
} bad_config;

#define MISTRAL "\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\""
#define QWEN2   "\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\""
#define QWEN3   "\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\""

static const bad_config bad[] = {
    {"{\"architectures\":[\"GPT2LMHeadModel\"]}", SQF_E_SUPPORT, "found GPT2LMHeadModel"},
    {"{\"architectures\":[]}", SQF_E_FORMAT, "architectures: expected a list of one name"},
    {"{\"architectures\":[\"LlamaForCausalLM\",\"X\"]}", SQF_E_FORMAT, "found 2 members"},
    {"{\"architectures\":[7]}", SQF_E_FORMAT, "architectures: expected a list of one name"},
    {"{\"architectures\":\"LlamaForCausalLM\"}", SQF_E_FORMAT, "architectures: expected an array"},
    {"{\"architectures\":null,\"model_type\":\"gemma\"}", SQF_E_SUPPORT, "model_type: expected"},
    {"{\"architectures\":null,\"model_type\":null}", SQF_E_SUPPORT, "found nothing"},
    {"{\"model_type\":\"mistral\"}", SQF_E_SUPPORT, "model_type: expected llama for LlamaForCausalLM, found mistral"},
    {"{\"hidden_size\":null}", SQF_E_FORMAT, "hidden_size: expected a whole number"},
    {"{\"hidden_size\":0}", SQF_E_FORMAT, "hidden_size: expected a whole number from 1"},
    {"{\"hidden_size\":-4}", SQF_E_FORMAT, "hidden_size: expected a whole number from 1"},
    {"{\"hidden_size\":48.5}", SQF_E_FORMAT, "found 48.5"},
    {"{\"hidden_size\":\"48\"}", SQF_E_FORMAT, "hidden_size: expected a number, found a string"},
    {"{\"hidden_size\":1e18}", SQF_E_FORMAT, "hidden_size"},
    {"{\"hidden_size\":49}", SQF_E_FORMAT, "hidden_size: expected a multiple of 6 heads, found 49"},
    {"{\"hidden_size\":42}", SQF_E_FORMAT, "head_dim: expected an even number, found 7"},
    {"{\"intermediate_size\":4611686018427387904}", SQF_E_FORMAT, "intermediate_size"},
    {"{\"num_hidden_layers\":100000}", SQF_E_FORMAT, "num_hidden_layers: expected a whole number from 1 to 1024"},
    {"{\"vocab_size\":0}", SQF_E_FORMAT, "vocab_size"},
    {"{\"num_attention_heads\":0}", SQF_E_FORMAT, "num_attention_heads"},
    {"{\"num_key_value_heads\":4}", SQF_E_FORMAT, "num_key_value_heads: expected a divisor of 6, found 4"},
    {"{\"num_key_value_heads\":12}", SQF_E_FORMAT, "num_key_value_heads: expected a divisor of 6, found 12"},
    {"{\"num_attention_heads\":4194304,\"num_key_value_heads\":1,\"head_dim\":4194304}", SQF_E_FORMAT,
     "num_attention_heads times head_dim"},
    {"{\"max_position_embeddings\":0}", SQF_E_FORMAT, "max_position_embeddings"},
    {"{\"rms_norm_eps\":0}", SQF_E_FORMAT, "rms_norm_eps"},
    {"{\"rms_norm_eps\":\"x\"}", SQF_E_FORMAT, "rms_norm_eps: expected a number"},
    {"{\"hidden_act\":\"gelu\"}", SQF_E_SUPPORT, "hidden_act: expected silu, found gelu"},
    {"{\"attention_bias\":1}", SQF_E_FORMAT, "attention_bias: expected true or false"},
    {"{\"tie_word_embeddings\":\"no\"}", SQF_E_FORMAT, "tie_word_embeddings: expected true or false"},
    {"{\"rope_theta\":0}", SQF_E_FORMAT, "rope_theta"},
    {"{\"rope_scaling\":[]}", SQF_E_FORMAT, "rope_scaling: expected an object"},
    {"{\"rope_scaling\":{}}", SQF_E_SUPPORT, "rope_type: expected default, linear or llama3, found nothing"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}", SQF_E_SUPPORT, "found yarn"},
    {"{\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":4}}", SQF_E_SUPPORT, "found dynamic"},
    {"{\"rope_scaling\":{\"type\":\"mrope\",\"mrope_section\":[1]}}", SQF_E_SUPPORT, "found mrope"},
    {"{\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1]}}", SQF_E_SUPPORT, "found longrope"},
    {"{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":32}}", SQF_E_SUPPORT, "found yarn"},
    {"{\"rope_scaling\":{\"rope_type\":\"linear\"}}", SQF_E_FORMAT, "factor: expected a number, found nothing"},
    {"{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":0}}", SQF_E_FORMAT, "factor: expected"},
    {"{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2,\"beta\":1}}", SQF_E_SUPPORT, "beta: not supported"},
    {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", SQF_E_FORMAT, "low_freq_factor: expected a number"},
    {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,\"original_"
     "max_position_embeddings\":32}}",
     SQF_E_FORMAT, "high_freq_factor: expected more than low_freq_factor 4"},
    {"{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2},\"rope_parameters\":{\"rope_type\":\"default\"}}",
     SQF_E_FORMAT, "found two that differ"},
    {"{\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}}", SQF_E_FORMAT,
     "partial_rotary_factor"},
    {"{\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}", SQF_E_SUPPORT,
     "full_attention: not supported"},
    {"{\"partial_rotary_factor\":0.5}", SQF_E_SUPPORT, "partial_rotary_factor: it changes the computation"},
    {"{\"attn_logit_softcapping\":50.0}", SQF_E_SUPPORT, "attn_logit_softcapping"},
    {"{\"final_logit_softcapping\":30}", SQF_E_SUPPORT, "final_logit_softcapping"},
    {"{\"num_experts\":8}", SQF_E_SUPPORT, "num_experts"},
    {"{\"num_local_experts\":8}", SQF_E_SUPPORT, "num_local_experts"},
    {"{\"use_mrope\":true}", SQF_E_SUPPORT, "use_mrope"},
    {"{\"clip_qkv\":8}", SQF_E_SUPPORT, "clip_qkv"},
    {"{\"vision_config\":{\"a\":1}}", SQF_E_SUPPORT, "vision_config"},
    {"{\"embedding_multiplier\":12}", SQF_E_SUPPORT, "embedding_multiplier"},
    {"{\"layer_types\":[\"sliding_attention\",\"full_attention\",\"full_attention\"]}", SQF_E_FORMAT,
     "layer 0: sliding_attention without a sliding_window"},
    {"{" MISTRAL ",\"attention_bias\":true}", SQF_E_SUPPORT, "attention_bias: expected false for this architecture"},
    {"{" MISTRAL ",\"mlp_bias\":true}", SQF_E_SUPPORT, "mlp_bias: expected false for this architecture"},
    {"{" MISTRAL ",\"sliding_window\":0}", SQF_E_FORMAT, "sliding_window: expected a whole number from 1"},
    {"{" QWEN2 ",\"attention_bias\":false}", SQF_E_SUPPORT, "attention_bias: expected true for this architecture"},
    {"{" QWEN2 ",\"use_sliding_window\":3}", SQF_E_FORMAT, "use_sliding_window: expected true or false"},
    {"{" QWEN2 ",\"layer_types\":[\"full_attention\"]}", SQF_E_FORMAT, "layer_types: expected 3 names, found 1"},
    {"{" QWEN2 ",\"layer_types\":[\"full_attention\",\"chunked_attention\",\"full_attention\"]}", SQF_E_SUPPORT,
     "found chunked_attention"},
    {"{" QWEN2 ",\"layer_types\":[\"full_attention\",1,\"full_attention\"]}", SQF_E_SUPPORT, "found no string"},
};

static void test_bad_configurations_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sqf_config config;
        sqf_error err = {0};
        json_t *json = make_config(bad[i].changes);
        const sqf_status status = sqf_config_parse(json, "config.json", &config, &err);
        if (status != bad[i].status || !strstr(err.text, bad[i].message) ||
            strncmp(err.text, "config.json: ", 13) != 0) {
            fail_msg("%s: expected \"%s\", found status %d \"%s\"", bad[i].changes, bad[i].message, (int)status,
                     err.text);
        }
        json_decref(json);
    }
}

static void test_defaults_of_llama(void **state)
{
    (void)state;
    const sqf_config c = parse("{\"hidden_act\":\"swish\",\"use_mrope\":false,\"num_experts\":0,\"clip_qkv\":null}");
    assert_int_equal(c.kv_heads, 6);
    assert_int_equal(c.head_dim, 8);
    assert_int_equal(c.positions, 2048);
    assert_true(c.norm_epsilon == 1e-6f && c.rope_theta == 10000 && c.rope_kind == SQF_ROPE_DEFAULT);
    assert_false(c.tied || c.qkv_bias || c.output_bias || c.mlp_bias || c.quantized);
    assert_int_equal(c.bos, UINT32_MAX);
    assert_int_equal(sqf_config_window(&c, 0), 0);
    assert_int_equal(parse("{\"sliding_window\":4}").window, 0); /* not a member of this family */
    assert_int_equal(parse("{\"architectures\":null}").hidden, 48);
    assert_int_equal(parse("{\"hidden_size\":49,\"head_dim\":10}").head_dim, 10);
    assert_int_equal(parse("{\"bos_token_id\":5}").bos, 5);
}

static void test_biases_by_family(void **state)
{
    (void)state;
    const sqf_config llama = parse("{\"attention_bias\":true,\"mlp_bias\":true}");
    assert_true(llama.qkv_bias && llama.output_bias && llama.mlp_bias);
    const sqf_config qwen2 = parse("{" QWEN2 "}");
    assert_true(qwen2.qkv_bias && !qwen2.output_bias && !qwen2.mlp_bias);
    const sqf_config qwen3 = parse("{" QWEN3 ",\"attention_bias\":true}");
    assert_true(qwen3.qkv_bias && qwen3.output_bias);
    assert_int_equal(parse("{" QWEN3 "}").head_dim, 128);
    assert_false(parse("{" QWEN3 "}").qkv_bias);
}

static void test_windows_by_family(void **state)
{
    (void)state;
    assert_int_equal(parse("{" MISTRAL "}").window, 4096);
    assert_int_equal(parse("{" MISTRAL ",\"sliding_window\":null}").window, 0);
    const sqf_config mistral = parse("{" MISTRAL ",\"sliding_window\":7}");
    assert_int_equal(sqf_config_window(&mistral, 0), 7);
    assert_int_equal(sqf_config_window(&mistral, 2), 7);
    const sqf_config off = parse("{" QWEN2 ",\"sliding_window\":7,\"max_window_layers\":0}");
    assert_int_equal(sqf_config_window(&off, 2), 0);
    const sqf_config from_one =
        parse("{" QWEN2 ",\"sliding_window\":7,\"use_sliding_window\":true,\"max_window_layers\":1}");
    assert_int_equal(sqf_config_window(&from_one, 0), 0);
    assert_int_equal(sqf_config_window(&from_one, 1), 7);
    const sqf_config listed =
        parse("{" QWEN3 ",\"sliding_window\":7,\"use_sliding_window\":true,\"layer_types\":[\"sliding_attention\","
              "\"full_attention\",\"sliding_attention\"]}");
    assert_int_equal(sqf_config_window(&listed, 0), 7);
    assert_int_equal(sqf_config_window(&listed, 1), 0);
    assert_int_equal(sqf_config_window(&listed, 2), 7);
}

static void test_both_spellings_of_rope_agree(void **state)
{
    (void)state;
    const sqf_config older = parse("{\"rope_theta\":500,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}");
    const sqf_config newer =
        parse("{\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4.0,\"rope_theta\":500.0}}");
    float cosine[2][8], sine[2][8];
    sqf_config_rope(&older, 10, 2, cosine[0], sine[0]);
    sqf_config_rope(&newer, 10, 2, cosine[1], sine[1]);
    assert_memory_equal(cosine[0], cosine[1], sizeof cosine[0]);
    assert_memory_equal(sine[0], sine[1], sizeof sine[0]);
    /* second position 11, second frequency 500^(-2/8) / 4 */
    const double angle = 11 * pow(500, -0.25) / 4;
    assert_true(fabs((double)cosine[0][5] - cos(angle)) < 1e-6 && fabs((double)sine[0][5] - sin(angle)) < 1e-6);
}

static void test_llama3_rope_keeps_stretches_and_blends(void **state)
{
    float cosine[4], sine[4];
    (void)state;
    const sqf_config c = parse("{\"rope_theta\":10000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
                               "\"low_freq_factor\":1,\"high_freq_factor\":4,"
                               "\"original_max_position_embeddings\":128}}");
    sqf_config_rope(&c, 1, 1, cosine, sine);
    /* wavelengths 6.3, 62.8, 628, 6283 at borders 32 and 128: kept, blended, stretched, stretched */
    const double smooth = (128 / (2 * 3.14159265358979 / 0.1) - 1) / 3;
    const double expected[] = {1, (1 - smooth) * 0.1 / 8 + smooth * 0.1, 0.01 / 8, 0.001 / 8};
    for (size_t i = 0; i < 4; i++) {
        assert_true(fabs((double)sine[i] - sin(expected[i])) < 1e-6);
    }
}

#define QUANTIZATION(members)                                                                                          \
    "{\"quantization_config\":{\"quant_method\":\"sq-format\",\"format_version\":1" members "}}"

static const bad_config bad_schemes[] = {
    {"{\"quantization_config\":[]}", SQF_E_FORMAT, "quantization_config: expected an object"},
    {"{\"quantization_config\":{}}", SQF_E_SUPPORT, "quant_method: expected sq-format, found nothing"},
    {"{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}}", SQF_E_SUPPORT,
     "quant_method: expected sq-format, found gptq"},
    {"{\"quantization_config\":{\"quant_method\":\"sq-format\",\"scheme\":\"W4A8\"}}", SQF_E_FORMAT, "format_version"},
    {"{\"quantization_config\":{\"quant_method\":\"sq-format\",\"format_version\":2,\"scheme\":\"W4A8\"}}",
     SQF_E_SUPPORT, "format_version: expected 1, found 2"},
    {QUANTIZATION(""), SQF_E_FORMAT, "scheme: expected a string, found nothing"},
    {QUANTIZATION(",\"scheme\":7"), SQF_E_FORMAT, "scheme: expected a string"},
    {QUANTIZATION(",\"scheme\":\"W99\""), SQF_E_FORMAT, "quantization_config: scheme: "},
    {QUANTIZATION(",\"scheme\":\"W4A8\",\"kv\":1"), SQF_E_SUPPORT, "kv: an unknown member"},
    {QUANTIZATION(",\"scheme\":\"W4A8\",\"overrides\":[]"), SQF_E_FORMAT, "overrides: expected an object"},
    {QUANTIZATION(",\"scheme\":\"W4A8\",\"overrides\":{\"m\":1}"), SQF_E_FORMAT, "m: expected a scheme's name"},
    {QUANTIZATION(",\"scheme\":\"W4A8\",\"overrides\":{\"m\":\"W\"}"), SQF_E_FORMAT, "quantization_config: m: "},
    {QUANTIZATION(",\"scheme\":\"W4A8\",\"ignore\":[1]"), SQF_E_FORMAT, "ignore: expected a list of names"},
    {QUANTIZATION(",\"scheme\":\"W4A8\",\"ignore\":[\"m\",\"m\"]"), SQF_E_FORMAT, "m: named twice"},
    {QUANTIZATION(",\"scheme\":\"W4A8\",\"overrides\":{\"m\":\"W8A8\"},\"ignore\":[\"m\"]"), SQF_E_FORMAT,
     "m: named twice"},
};

static void test_bad_quantization_configs_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_schemes / sizeof *bad_schemes; i++) {
        sqf_module_schemes *schemes;
        sqf_error err = {0};
        json_t *json = make_config(bad_schemes[i].changes);
        const sqf_status status = sqf_module_schemes_load(json, "config.json", &schemes, &err);
        if (status != bad_schemes[i].status || !strstr(err.text, bad_schemes[i].message)) {
            fail_msg("%s: expected \"%s\", found status %d \"%s\"", bad_schemes[i].changes, bad_schemes[i].message,
                     (int)status, err.text);
        }
        assert_null(schemes);
        json_decref(json);
    }
}

static bool is_only_a(const void *user, const char *name)
{
    (void)user;
    return strcmp(name, "a") == 0;
}

static void test_schemes_by_module(void **state)
{
    sqf_module_schemes *schemes;
    sqf_error err = {0};
    sqf_scheme w4a8, w8a8;
    (void)state;
    json_t *json = make_config(QUANTIZATION(",\"scheme\":\"W4A8\",\"overrides\":{\"b\":\"W8A8\"},\"ignore\":[\"a\"]"));
    assert_int_equal(sqf_module_schemes_load(json, "config.json", &schemes, &err), SQF_OK);
    json_decref(json);
    assert_int_equal(sqf_scheme_parse("W4A8", &w4a8, &err), SQF_OK);
    assert_int_equal(sqf_scheme_parse("W8A8", &w8a8, &err), SQF_OK);
    sqf_scheme found = sqf_module_schemes_get(schemes, "c");
    assert_true(sqf_scheme_equal(&found, &w4a8));
    found = sqf_module_schemes_get(schemes, "b");
    assert_true(sqf_scheme_equal(&found, &w8a8));
    found = sqf_module_schemes_get(schemes, "a");
    assert_true(sqf_weight_spec_is_dense(&found.weights) && sqf_act_spec_is_float(&found.activations));
    assert_int_equal(sqf_scheme_check(&found, &err), SQF_OK);
    found = sqf_module_schemes_get(NULL, "c");
    assert_true(sqf_weight_spec_is_dense(&found.weights));
    assert_int_equal(sqf_module_schemes_check(schemes, is_only_a, NULL, &err), SQF_E_FORMAT);
    assert_non_null(strstr(err.text, "b: expected a linear layer of the model"));
    assert_non_null(sqf_module_schemes_json(schemes));
    sqf_module_schemes_destroy(schemes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_configurations_are_refused),
        cmocka_unit_test(test_defaults_of_llama),
        cmocka_unit_test(test_biases_by_family),
        cmocka_unit_test(test_windows_by_family),
        cmocka_unit_test(test_both_spellings_of_rope_agree),
        cmocka_unit_test(test_llama3_rope_keeps_stretches_and_blends),
        cmocka_unit_test(test_bad_quantization_configs_are_refused),
        cmocka_unit_test(test_schemes_by_module),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

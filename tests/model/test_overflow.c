/* Weights under which activations leave the range of float32: an error that names the module, not a NaN further on. */
#include "model/edit.h"

static json_t *make_config(void)
{
    return json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:s, s:b}", "architectures",
                     "LlamaForCausalLM", "model_type", "llama", "vocab_size", 50, "hidden_size", 32,
                     "intermediate_size", 48, "num_hidden_layers", 2, "num_attention_heads", 4, "num_key_value_heads",
                     2, "head_dim", 8, "max_position_embeddings", 64, "rms_norm_eps", 1e-5, "rope_theta", 10000.0,
                     "hidden_act", "silu", "tie_word_embeddings", 0);
}

static void expect_failure(sqf_context *context, const char *original, const char *tensor, const char *part)
{
    sqf_error err = {0};
    sqf_model *model;
    sqf_session *session;
    const uint32_t ids[] = {1, 2, 3};
    char path[64];
    copy_scaled(original, path, tensor, 2e38f);
    must(sqf_model_open(context, path, &model, &err), &err);
    must(sqf_session_create(model, 8, &session, &err), &err);
    assert_int_equal(sqf_session_forward(session, ids, 3, &err), SQF_E_VALUE);
    if (!strstr(err.text, part)) {
        fail_msg("%s: found \"%s\", expected \"%s\"", tensor, err.text, part);
    }
    assert_int_equal(sqf_session_length(session), 0);
    sqf_session_destroy(session);
    sqf_model_destroy(model);
    remove_copy(path);
}

static void test_an_overflow_names_the_module_that_reads_it(void **state)
{
    (void)state;
    sqf_error err = {0};
    sqf_context *context;
    tiny original;
    json_t *config = make_config();
    must(sqf_context_create(NULL, &context, &err), &err);
    tiny_create(&original, config, SQF_DTYPE_F32, 0);
    json_decref(config);
    expect_failure(context, original.path, "model.layers.1.self_attn.v_proj.weight", "model.layers.1.self_attn.o_proj");
    expect_failure(context, original.path, "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj");
    expect_failure(context, original.path, "model.layers.1.input_layernorm.weight", "model.layers.1.self_attn.");
    tiny_remove(&original);
    sqf_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_overflow_names_the_module_that_reads_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

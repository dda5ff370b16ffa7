/* Comparison of models of every family: biases and the norms of heads are compared, shapes that differ are named. */
#include "check.h"

#include "model/edit.h"

#include <sqf/inspect.h>

typedef struct family {
    const char *architecture, *type;
    const char *extra; /* a vector of its own kind, or NULL */
    size_t vectors;    /* of a layer, beside seven matrices */
} family;

static const family families[] = {
    {"LlamaForCausalLM", "llama", NULL, 2},
    {"Qwen2ForCausalLM", "qwen2", "model.layers.1.self_attn.k_proj.bias", 5},
    {"Qwen3ForCausalLM", "qwen3", "model.layers.0.self_attn.q_norm.weight", 4},
};

static json_t *make_config(const char *architecture, const char *type)
{
    return json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:s, s:b}", "architectures",
                     architecture, "model_type", type, "vocab_size", 50, "hidden_size", 32, "intermediate_size", 48,
                     "num_hidden_layers", 2, "num_attention_heads", 4, "num_key_value_heads", 2, "head_dim", 8,
                     "max_position_embeddings", 64, "rms_norm_eps", 1e-5, "rope_theta", 10000.0, "hidden_act", "silu",
                     "tie_word_embeddings", 0);
}

/* A model whose configuration has one member of another value; NULL = none. Steals value. */
static tiny make_model(const family *f, const char *key, json_t *value)
{
    tiny model;
    json_t *config = make_config(f->architecture, f->type);
    if (key) {
        json_object_set_new(config, key, value);
    }
    tiny_create(&model, config, SQF_DTYPE_F32, 0);
    json_decref(config);
    return model;
}

/* The one tensor that may differ. */
typedef struct expected {
    const char *name;
    size_t seen;
} expected;

static void see(void *user, const sqf_compare_entry *entry)
{
    expected *e = user;
    if (strcmp(entry->name, e->name) == 0) {
        e->seen++;
        assert_true(fabs(entry->relative_error - 0.5) < 1e-6); /* ||A - 1.5 A|| / ||A|| */
    } else if (entry->relative_error != 0) {
        fail_msg("%s: relative error %g, expected 0", entry->name, entry->relative_error);
    }
}

static void test_one_vector_that_differs_is_found_in_every_family(void **state)
{
    sqf_context *context = *state;
    sqf_error err;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const family *f = &families[i];
        sqf_compare_summary summary;
        char path[64];
        tiny model = make_model(f, NULL, NULL);
        const size_t tensors = 3 + 2 * (7 + f->vectors);
        assert_ok(sqf_compare_models(context, model.path, model.path, NULL, NULL, &summary, &err), &err);
        assert_int_equal(summary.tensors, tensors);
        assert_int_equal(summary.identical, tensors);
        if (f->extra) {
            expected e = {.name = f->extra};
            copy_scaled(model.path, path, f->extra, 1.5f);
            assert_ok(sqf_compare_models(context, model.path, path, see, &e, &summary, &err), &err);
            assert_int_equal(e.seen, 1);
            assert_int_equal(summary.identical, tensors - 1);
            remove_copy(path);
        }
        tiny_remove(&model);
    }
}

static void test_models_of_another_shape_are_refused(void **state)
{
    sqf_context *context = *state;
    static const struct {
        const char *key;
        int value;
        const char *text;
    } changes[] = {
        {"hidden_size", 40, "hidden_size: expected 32"},
        {"intermediate_size", 52, "intermediate_size: expected 48"},
        {"num_hidden_layers", 1, "num_hidden_layers: expected 2"},
        {"num_key_value_heads", 4, "num_key_value_heads: expected 2"},
        {"head_dim", 10, "head_dim: expected 8"},
        {"vocab_size", 51, "vocab_size: expected 50"},
    };
    sqf_error err;
    tiny model = make_model(&families[0], NULL, NULL), other;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        other = make_model(&families[0], changes[i].key, json_integer(changes[i].value));
        assert_fails(sqf_compare_models(context, model.path, other.path, NULL, NULL, NULL, &err), SQF_E_SHAPE, &err,
                     changes[i].text);
        tiny_remove(&other);
    }
    other = make_model(&families[0], "attention_bias", json_true());
    assert_fails(sqf_compare_models(context, model.path, other.path, NULL, NULL, NULL, &err), SQF_E_SHAPE, &err,
                 "bias: expected the same");
    tiny_remove(&other);
    other = make_model(&families[0], "tie_word_embeddings", json_true());
    assert_fails(sqf_compare_models(context, model.path, other.path, NULL, NULL, NULL, &err), SQF_E_SHAPE, &err,
                 "tie_word_embeddings: expected 0");
    tiny_remove(&other);
    other = make_model(&families[2], NULL, NULL);
    assert_fails(sqf_compare_models(context, model.path, other.path, NULL, NULL, NULL, &err), SQF_E_SHAPE, &err,
                 "architecture: expected LlamaForCausalLM");
    tiny_remove(&other);
    tiny_remove(&model);
}

static int set_up(void **state)
{
    sqf_error err;
    assert_ok(sqf_context_create(NULL, (sqf_context **)state, &err), &err);
    return 0;
}

static int tear_down(void **state)
{
    sqf_context_destroy(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_vector_that_differs_is_found_in_every_family),
        cmocka_unit_test(test_models_of_another_shape_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

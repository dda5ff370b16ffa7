/* Norms of heads, rotary embedding and the way into the caches against the CPU's: bit for bit. Embedding rows. */
#include "decoder.hpp"

/* Inputs of a pass: queries, keys, values, gains, and the angles of every position. */
struct inputs {
    sqf_cuda_attention_spec spec;
    batch tokens;
    bool norms;
    std::vector<float> query, key, value, query_norm, key_norm, cosine, sine;
};

static inputs make_inputs(sqf_random *random, sqf_kv_type type, size_t heads, size_t kv_heads, size_t head_dim,
                          const std::vector<sequence> &sequences, bool norms)
{
    inputs in = {{heads, kv_heads, head_dim, 0, 0, type, 1.0f}, batch(sequences), norms, {}, {}, {}, {}, {}, {}, {}};
    const size_t n = in.tokens.position.size();
    in.spec.capacity = in.tokens.reach + sqf_random_below(random, 4);
    in.query = random_floats(random, n * heads * head_dim, 1.0);
    in.key = random_floats(random, n * kv_heads * head_dim, 1.0);
    in.value = random_floats(random, n * kv_heads * head_dim, 1.0);
    in.query_norm = random_floats(random, head_dim, 1.0);
    in.key_norm = random_floats(random, head_dim, 1.0);
    in.cosine = random_floats(random, in.tokens.reach * (head_dim / 2), 0.5);
    in.sine = random_floats(random, in.tokens.reach * (head_dim / 2), 0.5);
    return in;
}

/* Numbers that fp16 and int8 treat each in its own way. */
static void add_rarities(inputs *in)
{
    static const float rare[] = {0.0f,     -0.0f,    65504.0f, 65519.9f, 65520.0f, -70000.0f, 1e30f,    6e-8f,
                                 2.98e-8f, 2.99e-8f, 6.1e-5f,  1e-40f,   NAN,      INFINITY,  -INFINITY};
    for (size_t i = 0; i < sizeof rare / sizeof *rare; i++) {
        in->value[i * in->spec.head_dim % in->value.size() + i % in->spec.head_dim] = rare[i];
        in->key[(i * in->spec.head_dim + i % in->spec.head_dim) % in->key.size()] = rare[i];
    }
    for (size_t i = 0; i < in->spec.head_dim; i++) {
        in->value[in->value.size() - 1 - i] = 0.0f; /* a head of zeros has no scale */
        /* halves between codes, of a scale of 1 */
        in->value[20 * in->spec.head_dim + i] = i == 0 ? 127.0f : (float)(i % 9) - 4.5f;
    }
}

/* What the CPU makes of the tokens of sequence s. */
static void store_on_cpu(const fixture *f, inputs *in, size_t s, cpu_cache *cache)
{
    const size_t tokens = in->tokens.sequences[s].tokens, past = in->tokens.sequences[s].past;
    const size_t dim = in->spec.head_dim, heads = in->spec.heads, kv_heads = in->spec.kv_heads;
    float *query = in->query.data() + (size_t)in->tokens.begin[s] * heads * dim;
    float *key = in->key.data() + (size_t)in->tokens.begin[s] * kv_heads * dim;
    const float *value = in->value.data() + (size_t)in->tokens.begin[s] * kv_heads * dim;
    const float *cosine = in->cosine.data() + past * (dim / 2), *sine = in->sine.data() + past * (dim / 2);
    if (in->norms) {
        sqf_rmsnorm(f->context, query, in->query_norm.data(), 1e-5f, tokens * heads, dim, query);
        sqf_rmsnorm(f->context, key, in->key_norm.data(), 1e-5f, tokens * kv_heads, dim, key);
    }
    sqf_rope_apply(f->context, query, cosine, sine, tokens, heads, dim);
    sqf_rope_apply(f->context, key, cosine, sine, tokens, kv_heads, dim);
    sqf_kv_store(f->context, &cache->view, past, tokens, key, value);
}

/* NaN are alike, whatever their bits: no format promises more. */
static void assert_same_floats(const float *found, const float *expected, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (memcmp(found + i, expected + i, sizeof *found) != 0 && !(isnan(found[i]) && isnan(expected[i]))) {
            fail_msg("element %zu is %.9g, expected %.9g", i, (double)found[i], (double)expected[i]);
        }
    }
}

static void check_cache(const inputs &in, size_t s, const host_cache &found, const cpu_cache &expected)
{
    cpu_cache same(in.spec);
    const size_t past = in.tokens.sequences[s].past, tokens = in.tokens.sequences[s].tokens;
    same.put(found, in.spec, past, tokens);
    if (in.spec.type == SQF_KV_F32) {
        assert_same_floats((const float *)same.view.key, (const float *)expected.view.key, same.key.size() / 4);
        assert_same_floats((const float *)same.view.value, (const float *)expected.view.value, same.value.size() / 4);
        return;
    }
    for (size_t slot = 0; slot < same.key_scales.size() && in.spec.type == SQF_KV_INT8; slot++) {
        assert_same_floats(&same.key_scales[slot], &expected.key_scales[slot], 1);
        assert_same_floats(&same.value_scales[slot], &expected.value_scales[slot], 1);
    }
    assert_true(same.key == expected.key);
    assert_true(same.value == expected.value);
}

static void check(const fixture *f, inputs in)
{
    sqf_error err;
    device_batch on_device(f->device, in.tokens);
    device_caches caches(f->device, in.spec, in.tokens.sequences.size());
    device_array<float> query(f->device, in.query), key(f->device, in.key), value(f->device, in.value);
    device_array<float> query_norm(f->device, in.query_norm), key_norm(f->device, in.key_norm);
    device_array<float> cosine(f->device, in.cosine), sine(f->device, in.sine);
    assert_ok(cuda_rope_store(f->device, &in.spec, &on_device.view, in.norms ? query_norm.pointer() : NULL,
                              in.norms ? key_norm.pointer() : NULL, 1e-5f, cosine.pointer(), sine.pointer(),
                              query.pointer(), key.pointer(), value.pointer(), caches.views.pointer(), &err),
              &err);
    for (size_t s = 0; s < in.tokens.sequences.size(); s++) {
        cpu_cache expected(in.spec);
        store_on_cpu(f, &in, s, &expected);
        check_cache(in, s, caches.get(s), expected);
    }
    assert_same_floats(query.get().data(), in.query.data(), in.query.size());
}

static void test_store(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {test_seed("rope", 71)};
    for (sqf_kv_type type : types) {
        for (size_t dim : {2, 6, 64, 80, 96, 128, 200, 256}) {
            for (int norms = 0; norms < 2; norms++) {
                check(f, make_inputs(&random, type, 6, 3, dim, {{1, 20}, {0, 3}, {5, 0}, {2, 33}}, norms));
                check(f, make_inputs(&random, type, 32, 1, dim, {{1, 7}}, norms));
            }
        }
        inputs rare = make_inputs(&random, type, 2, 2, 64, {{12, 3}}, false);
        add_rarities(&rare);
        check(f, rare);
    }
}

static void test_odd_head(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {72};
    sqf_error err;
    const inputs in = make_inputs(&random, SQF_KV_F32, 1, 1, 7, {{1, 0}}, false);
    device_batch on_device(f->device, in.tokens);
    assert_fails(cuda_rope_store(f->device, &in.spec, &on_device.view, NULL, NULL, 1e-5f, NULL, NULL, NULL, NULL, NULL,
                                 NULL, &err),
                 SQF_E_SHAPE, &err, "heads of 7 elements");
}

static void check_embed(const fixture *f, sqf_random *random, sqf_type dtype, size_t columns)
{
    enum { VOCABULARY = 37 };
    sqf_error err;
    std::vector<uint16_t> table(VOCABULARY * columns * 2);
    for (uint16_t &x : table) {
        x = (uint16_t)sqf_random_u64(random);
    }
    batch tokens({{5, 0}, {1, 0}});
    device_batch on_device(f->device, tokens);
    const std::vector<uint32_t> ids = {0, 36, 5, 5, 17, 1};
    device_array<uint32_t> ids_there(f->device, ids);
    device_array<uint16_t> table_there(f->device, table);
    device_array<float> x(f->device, std::vector<float>(ids.size() * columns));
    on_device.view.ids = ids_there.pointer();
    assert_ok(cuda_embed(f->device, table_there.pointer(), dtype, &on_device.view, columns, x.pointer(), &err), &err);
    const std::vector<float> found = x.get();
    std::vector<float> expected(columns);
    for (size_t i = 0; i < ids.size(); i++) {
        const size_t bytes = dtype == SQF_TYPE_FP32 ? 4 : 2;
        sqf_to_float(dtype, (const uint8_t *)table.data() + ids[i] * columns * bytes, columns, expected.data());
        assert_same_floats(found.data() + i * columns, expected.data(), columns);
    }
}

static void test_embed(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {73};
    for (sqf_type dtype : {SQF_TYPE_BF16, SQF_TYPE_FP16, SQF_TYPE_FP32}) {
        for (size_t columns : {1, 2, 7, 256, 514, 1023}) {
            check_embed(f, &random, dtype, columns);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_store), cmocka_unit_test(test_odd_head),
                                       cmocka_unit_test(test_embed)};
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}

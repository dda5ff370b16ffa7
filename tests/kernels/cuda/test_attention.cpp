/* Attention on the device against the CPU's over the same caches, and its kernels against one another. */
#include "decoder.hpp"

#include "kernels/cuda/decoder/attention_tile.h"

/* A problem whose caches hold random keys and values of `past + tokens` positions on both sides. */
struct problem {
    sqf_cuda_attention_spec spec;
    batch tokens;
    std::vector<float> query;
    std::vector<host_cache> caches;

    size_t width() const
    {
        return spec.heads * spec.head_dim;
    }
};

static void store(std::vector<uint8_t> *to, size_t at, sqf_kv_type type, float x, float scale)
{
    if (type == SQF_KV_F32) {
        memcpy(&(*to)[at * 4], &x, 4);
    } else if (type == SQF_KV_F16) {
        const uint16_t half = sqf_fp16_from_float(x);
        memcpy(&(*to)[at * 2], &half, 2);
    } else {
        (*to)[at] = (uint8_t)(int8_t)rintf(x / scale);
    }
}

/* Rows of values have sizes from 1/8 to 8 times `spread`. */
static host_cache random_cache(sqf_random *random, const sqf_cuda_attention_spec &spec, size_t positions, double spread)
{
    const size_t slots = spec.kv_heads * spec.capacity, dim = spec.head_dim;
    host_cache cache = {std::vector<uint8_t>(slots * dim * sqf_kv_element(spec.type), 0xff), {}, {}, {}};
    cache.value = cache.key;
    cache.key_scales.assign(slots, NAN);
    cache.value_scales.assign(slots, NAN);
    for (size_t i = 0; i < spec.kv_heads * positions; i++) {
        const size_t slot = i / positions * spec.capacity + i % positions;
        std::vector<float> rows[2] = {random_floats(random, dim, 1.0),
                                      random_floats(random, dim, spread * exp2(sqf_random_unit(random) * 6 - 3))};
        for (int which = 0; which < 2; which++) {
            float most = 0;
            for (float x : rows[which]) {
                most = fmaxf(most, fabsf(x));
            }
            const float scale = most / 127.0f;
            (which ? cache.value_scales : cache.key_scales)[slot] = scale;
            for (size_t d = 0; d < dim; d++) {
                store(which ? &cache.value : &cache.key, slot * dim + d, spec.type, rows[which][d], scale);
            }
        }
    }
    return cache;
}

static problem make_problem(sqf_random *random, sqf_kv_type type, size_t heads, size_t kv_heads, size_t head_dim,
                            size_t window, const std::vector<sequence> &sequences, double spread)
{
    problem p = {{heads, kv_heads, head_dim, window, 0, type, 1.0f / sqrtf((float)head_dim)}, batch(sequences), {}, {}};
    p.spec.capacity = p.tokens.reach + sqf_random_below(random, 3);
    p.query = random_floats(random, p.tokens.position.size() * p.width(), spread);
    for (const sequence &s : sequences) {
        p.caches.push_back(random_cache(random, p.spec, s.past + s.tokens, 1.0));
    }
    return p;
}

static void fill(const problem &p, device_caches *caches)
{
    for (size_t s = 0; s < p.caches.size(); s++) {
        caches->bytes[2 * s]->set(p.caches[s].key);
        caches->bytes[2 * s + 1]->set(p.caches[s].value);
        caches->scales[2 * s]->set(p.caches[s].key_scales);
        caches->scales[2 * s + 1]->set(p.caches[s].value_scales);
    }
}

/* `longest` and `reach` may be more than they are: what a graph has. */
static std::vector<float> attend(const fixture *f, const problem &p, size_t longest, size_t reach)
{
    sqf_error err;
    device_batch on_device(f->device, p.tokens);
    device_caches caches(f->device, p.spec, p.tokens.sequences.size());
    device_array<float> query(f->device, p.query), out(f->device, std::vector<float>(p.query.size(), NAN));
    fill(p, &caches);
    on_device.view.longest = longest;
    on_device.view.reach = reach;
    assert_ok(cuda_attention(f->device, &p.spec, &on_device.view, query.pointer(), caches.views.pointer(),
                             out.pointer(), &err),
              &err);
    return out.get();
}

static std::vector<float> attend_cpu(const fixture *f, const problem &p)
{
    sqf_error err;
    sqf_attention_scratch scratch = {};
    std::vector<float> out(p.query.size(), NAN);
    for (size_t s = 0; s < p.caches.size(); s++) {
        const sequence &from = p.tokens.sequences[s];
        const size_t at = (size_t)p.tokens.begin[s] * p.width();
        cpu_cache cache(p.spec);
        cache.put(p.caches[s], p.spec, 0, from.past + from.tokens);
        const sqf_attention_job job = {p.query.data() + at, cache.view,   out.data() + at, from.tokens,
                                       from.past,           p.spec.heads, p.spec.window,   p.spec.scale};
        assert_ok(sqf_attention(f->context, &job, 1, &scratch, &err), &err);
    }
    sqf_attention_scratch_clear(&scratch);
    return out;
}

/* The largest difference of a head as a share of the root mean square of the expected head, and the mean of them. */
struct difference {
    double most, mean;
};

static difference compare(const std::vector<float> &found, const std::vector<float> &expected, size_t dim)
{
    difference d = {0, 0};
    for (size_t i = 0; i < found.size(); i += dim) {
        double squares = 0, most = 0;
        for (size_t j = i; j < i + dim; j++) {
            if (!isfinite(found[j])) {
                fail_msg("element %zu is %g, expected %g", j, (double)found[j], (double)expected[j]);
            }
            squares += (double)expected[j] * (double)expected[j];
            most = fmax(most, fabs((double)found[j] - (double)expected[j]));
        }
        const double share = most / (sqrt(squares / (double)dim) + 1e-30);
        d.most = fmax(d.most, share);
        d.mean += share * (double)dim / (double)found.size();
    }
    return d;
}

/* What is left in float32, and what rounding queries and weights to fp16 may cost, which prompts over caches of fp16
 * and int8 do. */
static double bound_of(const problem &p)
{
    return p.spec.type == SQF_KV_F32 || p.tokens.longest <= 8 ? 3e-5 : 6e-3;
}

static void check(const fixture *f, const problem &p, const char *what)
{
    const std::vector<float> found = attend(f, p, p.tokens.longest, p.tokens.reach);
    const difference d = compare(found, attend_cpu(f, p), p.spec.head_dim);
    if (!(d.most <= bound_of(p))) {
        fail_msg("%s: %s, %zu/%zu heads of %zu, window %zu, %zu sequences, longest %zu, reach %zu: differs by %g "
                 "(mean %g)",
                 what, name_of(p.spec.type), p.spec.heads, p.spec.kv_heads, p.spec.head_dim, p.spec.window,
                 p.tokens.sequences.size(), p.tokens.longest, p.tokens.reach, d.most, d.mean);
    }
}

static void test_shapes(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {test_seed("attention", 61)};
    static const size_t dims[] = {64, 128, 96, 80, 256, 32, 48, 160};
    static const size_t groups[] = {1, 2, 3, 4, 7, 8, 32};
    for (int round = 0; round < 72; round++) {
        const size_t dim = dims[round % 24 / 3], group = groups[sqf_random_below(&random, 7)];
        const size_t kv_heads = group > 4 ? 1 : 1 + sqf_random_below(&random, 3);
        const size_t window = sqf_random_below(&random, 3) == 0 ? 1 + sqf_random_below(&random, 100) : 0;
        const bool decode = round / 24 != 1;
        std::vector<sequence> sequences;
        for (size_t s = 0; s < 1 + sqf_random_below(&random, 3); s++) {
            const size_t tokens =
                decode ? 1 + sqf_random_below(&random, round / 24 == 0 ? 1 : 8) : 9 + sqf_random_below(&random, 60);
            sequences.push_back({tokens, sqf_random_below(&random, decode ? 600 : 150)});
        }
        check(f, make_problem(&random, types[round % 3], group * kv_heads, kv_heads, dim, window, sequences, 1.0),
              decode ? "decode" : "prefill");
    }
}

/* Sequences without past, without tokens, at the edges of tiles and of stretches. */
static void test_edges(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {62};
    for (sqf_kv_type type : types) {
        check(f, make_problem(&random, type, 2, 1, 64, 0, {{1, 0}, {0, 5}, {1, 255}, {1, 256}, {1, 511}}, 1.0),
              "decode edges");
        check(f, make_problem(&random, type, 2, 1, 64, 0, {{64, 0}, {0, 0}, {65, 63}, {1, 0}, {31, 1}}, 1.0),
              "prefill edges");
        check(f, make_problem(&random, type, 2, 2, 64, 1, {{70, 30}, {1, 300}}, 1.0), "a window of one");
        check(f, make_problem(&random, type, 4, 2, 64, 256, {{2, 767}, {1, 511}, {3, 1020}}, 1.0),
              "windowed stretches");
    }
}

/* Decoded token by token and in a prompt, alone and in a batch: the same up to rounding, the latter to the bit. */
static void test_agreement(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {63};
    for (sqf_kv_type type : types) {
        const problem p = make_problem(&random, type, 4, 2, 64, 0, {{8, 290}, {5, 40}}, 1.0);
        const std::vector<float> decoded = attend(f, p, 8, p.tokens.reach);
        const std::vector<float> prompt = attend(f, p, 9, p.tokens.reach);
        const difference d = compare(decoded, prompt, p.spec.head_dim);
        print_message("%s: decode and prefill differ by %.2g at most\n", name_of(type), d.most);
        assert_true(d.most <= (type == SQF_KV_F32 ? 1e-5 : 3e-3));
        /* a bound of positions that is larger than need be: parts are the same */
        assert_true(attend(f, p, 8, 1600) == decoded);
        for (size_t s = 0; s < 2; s++) {
            problem alone = {p.spec, batch({p.tokens.sequences[s]}), {}, {p.caches[s]}};
            const size_t at = (size_t)p.tokens.begin[s] * p.width();
            const size_t n = p.tokens.sequences[s].tokens * p.width();
            alone.query.assign(p.query.begin() + (long)at, p.query.begin() + (long)(at + n));
            const std::vector<float> own = attend(f, alone, 8, p.tokens.reach);
            assert_memory_equal(own.data(), decoded.data() + at, n * sizeof(float));
        }
    }
}

/* Queries and values far beyond fp16, queries of nothing, scores that are all the same or hundreds apart. */
static void test_extremes(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {64};
    for (sqf_kv_type type : types) {
        for (size_t tokens : {1, 20}) {
            problem p = make_problem(&random, type, 2, 1, 64, 0, {{tokens, 100}}, 1.0);
            check(f, p, "plain");
            for (size_t i = 0; i < p.width(); i++) {
                p.query[i] = i < 64 ? 0.0f : p.query[i] * 1e-30f;
            }
            check(f, p, "queries of nothing");
            p.spec.scale *= 1e-12f;
            for (float &x : p.query) {
                x *= 1e12f;
            }
            check(f, p, "large queries");
            if (type == SQF_KV_INT8) {
                for (float &x : p.caches[0].value_scales) {
                    x *= 1e20f;
                }
                check(f, p, "large values");
                for (float &x : p.caches[0].value_scales) {
                    x *= 1e-30f;
                }
                check(f, p, "small values");
                p.caches[0].value_scales[0] = 0.0f; /* a row of zeros */
                check(f, p, "a value of nothing");
            }
        }
    }
}

/* Weights far below the largest, which are all that counts where its value is 0: the smallest of them would have three
 * bits in fp16 as they are. */
static void test_small_weights(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {69};
    for (sqf_kv_type type : {SQF_KV_F32, SQF_KV_F16}) {
        problem p = make_problem(&random, type, 1, 1, 64, 0, {{1, 200}}, 1.0);
        for (size_t d = 0; d < 64; d++) {
            p.query[d] = d == 0 ? 8.0f : 0.0f;
        }
        for (size_t i = 0; i <= 200; i++) {
            store(&p.caches[0].key, i * 64, type, i == 3 ? 14.0f : 0.001f * (float)i, 1.0f);
            for (size_t d = 0; i == 3 && d < 64; d++) {
                store(&p.caches[0].value, i * 64 + d, type, 0.0f, 1.0f);
            }
        }
        check(f, p, "small weights");
    }
}

/* NaN in what is seen is seen; beyond it, it is not (all caches here end in NaN). */
static void test_nan(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {65};
    for (sqf_kv_type type : types) {
        for (size_t tokens : {1, 12}) {
            problem p = make_problem(&random, type, 1, 1, 64, 0, {{tokens, 30}}, 1.0);
            if (type == SQF_KV_INT8) {
                p.caches[0].key_scales[7] = NAN;
            } else {
                memset(&p.caches[0].key[7 * 64 * sqf_kv_element(type)], 0xff, sqf_kv_element(type));
            }
            for (float x : attend(f, p, tokens, p.tokens.reach)) {
                assert_true(isnan(x));
            }
        }
    }
}

/* Heads that no matrix kernel takes. */
static void test_other_heads(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {66};
    for (sqf_kv_type type : types) {
        for (size_t dim : {6, 10, 72, 264}) {
            problem p = make_problem(&random, type, 4, 2, dim, dim == 10 ? 20 : 0, {{3, 140}, {1, 7}, {12, 0}}, 1.0);
            check(f, p, "other heads");
        }
    }
}

/* A recorded pass follows positions that change. */
static void test_graph(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {67};
    sqf_error err;
    for (sqf_kv_type type : types) {
        for (size_t window : {0, 300}) {
            const problem p = make_problem(&random, type, 4, 2, 64, window, {{1, 900}, {1, 700}}, 1.0);
            device_batch on_device(f->device, p.tokens);
            device_caches caches(f->device, p.spec, 2);
            device_array<float> query(f->device, p.query), out(f->device, p.query);
            sqf_cuda_graph *graph;
            fill(p, &caches);
            assert_ok(cuda_attention(f->device, &p.spec, &on_device.view, query.pointer(), caches.views.pointer(),
                                     out.pointer(), &err),
                      &err);
            assert_ok(cuda_graph_begin(f->device, &err), &err);
            assert_ok(cuda_attention(f->device, &p.spec, &on_device.view, query.pointer(), caches.views.pointer(),
                                     out.pointer(), &err),
                      &err);
            assert_ok(cuda_graph_end(f->device, &graph, &err), &err);
            for (size_t past : {0, 17, 255, 256, 640, 900}) {
                problem moved = p;
                moved.tokens = batch({{1, past}, {1, past / 2}});
                on_device.position.set(moved.tokens.position);
                assert_ok(cuda_graph_run(f->device, graph, &err), &err);
                assert_true(out.get() == attend(f, moved, 1, p.tokens.reach));
                check(f, moved, "moved");
            }
            cuda_graph_destroy(f->device, graph);
        }
    }
}

/* How far fp16 is from float32 at the sizes of the demonstration model, for scores of several sizes. */
static void test_precision(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {68};
    for (sqf_kv_type type : types) {
        for (double spread : {0.5, 2.0, 8.0}) {
            const problem p = make_problem(&random, type, 4, 2, 64, 0, {{64, 0}}, spread);
            const difference d = compare(attend(f, p, 64, 64), attend_cpu(f, p), 64);
            print_message("%s, queries times %g: differs by %.2g at most, %.2g in the mean\n", name_of(type), spread,
                          d.most, d.mean);
            assert_true(d.mean <= bound_of(p) * fmax(spread, 1.0) / 5);
        }
    }
}

static void test_refusals(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_error err;
    sqf_cuda_attention_spec spec = {6, 4, 64, 0, 16, SQF_KV_F16, 1.0f};
    sqf_cuda_batch none = {};
    assert_fails(cuda_attention(f->device, &spec, &none, NULL, NULL, NULL, &err), SQF_E_ARG, &err,
                 "6 heads of 64 over 4 key heads");
    spec = {4, 4, 8192, 0, 16, SQF_KV_F16, 1.0f};
    assert_fails(cuda_attention(f->device, &spec, &none, NULL, NULL, NULL, &err), SQF_E_SUPPORT, &err,
                 "too large for the device");
    spec.head_dim = 64;
    assert_ok(cuda_attention(f->device, &spec, &none, NULL, NULL, NULL, &err), &err);
}

/* The lanes of one phase of a load (8 of 16 bytes, 32 of 4) read different banks. */
static void assert_different(const std::vector<int> &banks, int count)
{
    uint32_t seen = 0;
    for (int bank : banks) {
        seen |= 1u << bank % count;
    }
    assert_int_equal(__builtin_popcount(seen), count);
    assert_int_equal(banks.size(), count);
}

template <sqf_kv_type type, int dim> static void check_banks(void)
{
    typedef attention_tile<type, dim, 32> tile;
    assert_int_equal(tile::bytes % 16, 0);
    std::vector<int> keys, values;
    if (type != SQF_KV_F32) { /* rows of ldmatrix */
        for (int row = 0; row < 8; row++) {
            keys.push_back(row * tile::key_stride / 16);
            values.push_back(row * tile::value_stride / 16);
        }
        assert_different(keys, 8);
        assert_different(values, 8);
        return;
    }
    for (int lane = 0; lane < 8; lane++) {
        keys.push_back(lane / 4 * tile::key_stride / 16 + lane % 4);
    }
    for (int lane = 0; lane < 32; lane++) {
        values.push_back(lane % 4 * 2 * tile::value_stride / 4 + lane / 4);
    }
    assert_different(keys, 8);
    assert_different(values, 32);
}

template <int dim> static void check_banks_of(void)
{
    check_banks<SQF_KV_F32, dim>();
    check_banks<SQF_KV_F16, dim>();
    check_banks<SQF_KV_INT8, dim>();
}

static void test_banks(void **state)
{
    (void)state;
    check_banks_of<64>();
    check_banks_of<96>();
    check_banks_of<128>();
    check_banks_of<256>();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),   cmocka_unit_test(test_edges),         cmocka_unit_test(test_agreement),
        cmocka_unit_test(test_extremes), cmocka_unit_test(test_nan),           cmocka_unit_test(test_other_heads),
        cmocka_unit_test(test_graph),    cmocka_unit_test(test_small_weights), cmocka_unit_test(test_precision),
        cmocka_unit_test(test_banks),    cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}

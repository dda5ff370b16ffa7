/* Drawing on the device against the sampler of the CPU with the same random numbers: the same tokens. */
#include "decoder.hpp"

extern "C" {
#include "model/sampler.h"
}

/* Kinds of logits: what makes the draw look into its bins once more, and ties. */
enum kind { NORMAL, COARSE, EQUAL, OUTLIER, CLUSTERS, PEAKED, KINDS };

static std::vector<float> make_logits(sqf_random *random, kind which, size_t n)
{
    std::vector<float> x = random_floats(random, n, which == PEAKED ? 9.0 : 3.0);
    for (size_t i = 0; i < n; i++) {
        switch (which) {
        case COARSE: x[i] = rintf(x[i]); break;
        case EQUAL: x[i] = 1.5f; break;
        case OUTLIER: x[i] *= i == n / 3 ? 1e30f : 1e-3f; break;
        case CLUSTERS: x[i] = (x[i] > 1 ? 5.0f : -3.0f) + x[i] * 1e-6f; break;
        default: break;
        }
    }
    return x;
}

static std::vector<uint32_t> draw(const fixture *f, const sqf_sampling &sampling, size_t vocabulary,
                                  const std::vector<float> &logits, const std::vector<double> &uniform,
                                  const std::vector<uint8_t> &seen)
{
    sqf_error err;
    device_array<float> logits_there(f->device, logits);
    device_array<double> uniform_there(f->device, uniform);
    device_array<uint8_t> seen_there(f->device, seen);
    device_array<uint32_t> ids(f->device, std::vector<uint32_t>(uniform.size(), 12345));
    const sqf_cuda_sample sample = {logits_there.pointer(),  vocabulary,           uniform.size(), sampling,
                                    uniform_there.pointer(), seen_there.pointer(), ids.pointer()};
    assert_ok(cuda_sample(f->device, &sample, &err), &err);
    return ids.get();
}

/* `sequences` draws in one call, each with a sampler of its own. */
static void check(const fixture *f, sqf_random *random, sqf_sampling sampling, kind which, size_t vocabulary,
                  size_t sequences)
{
    sqf_error err;
    std::vector<float> logits;
    std::vector<double> uniform;
    std::vector<uint8_t> seen;
    std::vector<uint32_t> expected;
    for (size_t s = 0; s < sequences; s++) {
        sqf_sampler *sampler, *twin;
        sampling.seed = sqf_random_u64(random);
        assert_ok(sqf_sampler_create(&sampling, vocabulary, &sampler, &err), &err);
        assert_ok(sqf_sampler_create(&sampling, vocabulary, &twin, &err), &err);
        for (int i = 0; i < 5; i++) {
            sqf_sampler_accept(sampler, (uint32_t)sqf_random_below(random, vocabulary));
        }
        const std::vector<float> own = make_logits(random, which, vocabulary);
        uint32_t id;
        assert_ok(sqf_sampler_draw(sampler, own.data(), &id, &err), &err);
        expected.push_back(id);
        uniform.push_back(sqf_sampler_unit(twin));
        logits.insert(logits.end(), own.begin(), own.end());
        const bool *accepted = sqf_sampler_seen(sampler);
        seen.insert(seen.end(), accepted, accepted + vocabulary);
        assert_float_equal(sqf_sampler_sampling(sampler)->temperature, sampling.temperature, 0);
        sqf_sampler_destroy(sampler);
        sqf_sampler_destroy(twin);
    }
    const std::vector<uint32_t> found = draw(f, sampling, vocabulary, logits, uniform, seen);
    for (size_t s = 0; s < sequences; s++) {
        if (found[s] != expected[s]) {
            fail_msg("temperature %g, top_k %u, top_p %g, min_p %g, penalty %g, logits %d of %zu, number %.17g: drew "
                     "%u (%.9g), expected %u (%.9g)",
                     (double)sampling.temperature, sampling.top_k, (double)sampling.top_p, (double)sampling.min_p,
                     (double)sampling.repetition_penalty, (int)which, vocabulary, uniform[s], found[s],
                     (double)logits[s * vocabulary + found[s] % vocabulary], expected[s],
                     (double)logits[s * vocabulary + expected[s]]);
        }
    }
}

static float choose(sqf_random *random, const std::vector<float> &from)
{
    return from[sqf_random_below(random, from.size())];
}

static sqf_sampling random_sampling(sqf_random *random, size_t vocabulary)
{
    sqf_sampling s = {};
    s.temperature = choose(random, {0.0f, 1e-3f, 0.3f, 1.0f, 1.0f, 3.0f, 100.0f});
    s.top_k = (uint32_t)choose(random, {0, 0, 1, 2, 50, (float)vocabulary / 2, (float)vocabulary});
    s.top_p = choose(random, {0.0f, 1.0f, 0.1f, 0.5f, 0.9f, 0.999f});
    s.min_p = choose(random, {0.0f, 0.0f, 0.01f, 0.3f, 1.0f});
    s.repetition_penalty = choose(random, {0.0f, 1.0f, 1.1f, 2.0f, 0.5f});
    return s;
}

static void test_against_cpu(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {test_seed("sample", 81)};
    static const size_t vocabularies[] = {1, 2, 31, 257, 1000, 2048, 2049, 5000};
    for (int round = 0; round < 700; round++) {
        const size_t vocabulary = vocabularies[sqf_random_below(&random, 8)];
        check(f, &random, random_sampling(&random, vocabulary), (kind)sqf_random_below(&random, KINDS), vocabulary,
              1 + sqf_random_below(&random, 4));
    }
}

/* More tokens matter than the list holds: every way of looking closer, with as many kinds of logits. */
static void test_flat(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {82};
    for (int which = 0; which < KINDS; which++) {
        for (float temperature : {0.7f, 1000.0f}) {
            check(f, &random, {temperature, 0, 0, 0, 0, 0}, (kind)which, 20000, 3);
            check(f, &random, {temperature, 0, 0.95f, 0, 0, 0}, (kind)which, 20000, 2);
            check(f, &random, {temperature, 7000, 0, 0, 0, 0}, (kind)which, 20000, 2);
            check(f, &random, {temperature, 7000, 0.9f, 0.05f, 1.3f, 0}, (kind)which, 20000, 2);
        }
    }
}

/* The largest vocabulary that there is today. */
static void test_large(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {83};
    check(f, &random, {1.0f, 50, 0.9f, 0, 1.1f, 0}, NORMAL, 262144, 1);
    check(f, &random, {1.0f, 0, 0, 0, 0, 0}, NORMAL, 262144, 1);
    check(f, &random, {0.0f, 0, 0, 0, 0, 0}, COARSE, 262144, 1);
}

/* Ends of the random numbers' range. */
static void test_ends(void **state)
{
    const fixture *f = (const fixture *)*state;
    const std::vector<float> logits = {1, 3, 3, 2};
    const std::vector<uint8_t> seen(12, 0);
    const std::vector<uint32_t> ids =
        draw(f, {1.0f, 0, 0, 0, 0, 0}, 4, {1, 3, 3, 2, 1, 3, 3, 2, 1, 3, 3, 2}, {0.0, 1 - 0x1p-53, 0.41}, seen);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], 0);
    assert_int_equal(ids[2], 2);
    /* on the steps exactly: a point belongs to the token behind it, a share that is reached is enough */
    const std::vector<float> equal(12, 1.0f);
    const std::vector<uint32_t> steps = draw(f, {1.0f, 0, 0, 0, 0, 0}, 4, equal, {0.25, 0.5, 0.75}, seen);
    assert_int_equal(steps[0], 1);
    assert_int_equal(steps[1], 2);
    assert_int_equal(steps[2], 3);
    const std::vector<uint32_t> half = draw(f, {1.0f, 0, 0.5f, 0, 0, 0}, 4, equal, {0.4999, 0.5, 0.9999}, seen);
    assert_int_equal(half[0], 0);
    assert_int_equal(half[1], 1);
    assert_int_equal(half[2], 1);
}

/* A logit that is no number is not drawn around. */
static void test_faults(void **state)
{
    const fixture *f = (const fixture *)*state;
    sqf_random random = {84};
    sqf_error err;
    for (float temperature : {0.0f, 1.0f}) {
        for (float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
            std::vector<float> logits = random_floats(&random, 2 * 3000, 1.0);
            logits[3000 + sqf_random_below(&random, 3000)] = bad;
            const std::vector<uint32_t> ids =
                draw(f, {temperature, 0, 0, 0, 0, 0}, 3000, logits, {0.5, 0.5}, std::vector<uint8_t>(6000, 0));
            assert_true(ids[0] < 3000);
            assert_int_equal(ids[1], UINT32_MAX);
        }
    }
    const sqf_cuda_sample none = {NULL, 0, 1, {}, NULL, NULL, NULL};
    assert_fails(cuda_sample(f->device, &none, &err), SQF_E_ARG, &err, "1 sequences of 0 logits");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_cpu), cmocka_unit_test(test_flat),
                                       cmocka_unit_test(test_large), cmocka_unit_test(test_ends),
                                       cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}

/* The sampler: every rule has the effect that its name says, and a seed repeats. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sqf/model.h>

#include "base/random.h"

enum { DRAWS = 20000 };

/* Probabilities of these at temperature 1: 0.5, 0.25, 0.125, 0.0625, 0.0625. */
static const float logits[] = {2 * 0.69314718f, 3 * 0.69314718f, 0.69314718f, 0, 0};
enum { N = sizeof logits / sizeof *logits };

/* Frequencies of the ids over many draws. */
static void draw_many(const sqf_sampling *sampling, double frequency[N])
{
    sqf_error err = {0};
    sqf_sampler *sampler;
    assert_int_equal(sqf_sampler_create(sampling, N, &sampler, &err), SQF_OK);
    memset(frequency, 0, N * sizeof *frequency);
    for (size_t i = 0; i < DRAWS; i++) {
        uint32_t id;
        assert_int_equal(sqf_sampler_draw(sampler, logits, &id, &err), SQF_OK);
        assert_true(id < N);
        frequency[id] += 1.0 / DRAWS;
    }
    sqf_sampler_destroy(sampler);
}

/* Five standard deviations of a frequency of one half. */
static void check(const double *frequency, const double *expected)
{
    for (size_t i = 0; i < N; i++) {
        assert_true(expected[i] == 0 ? frequency[i] == 0 : fabs(frequency[i] - expected[i]) < 5 * 0.5 / sqrt(DRAWS));
    }
}

static void test_temperature_one_draws_the_probabilities(void **state)
{
    double frequency[N];
    (void)state;
    draw_many(&(sqf_sampling){.temperature = 1, .seed = 3}, frequency);
    check(frequency, (const double[]){0.25, 0.5, 0.125, 0.0625, 0.0625});
}

static void test_temperature_half_squares_them(void **state)
{
    double frequency[N];
    const double sum = 0.25 + 0.0625 + 0.015625 + 2 * 0.00390625;
    (void)state;
    draw_many(&(sqf_sampling){.temperature = 0.5f, .seed = 4}, frequency);
    check(frequency, (const double[]){0.0625 / sum, 0.25 / sum, 0.015625 / sum, 0.00390625 / sum, 0.00390625 / sum});
}

static void test_greedy_takes_the_largest_and_the_lower_of_a_tie(void **state)
{
    sqf_error err = {0};
    sqf_sampler *sampler;
    uint32_t id;
    (void)state;
    assert_int_equal(sqf_sampler_create(&(sqf_sampling){0}, N, &sampler, &err), SQF_OK);
    assert_int_equal(sqf_sampler_draw(sampler, logits, &id, &err), SQF_OK);
    assert_int_equal(id, 1);
    const float tie[N] = {-1, 2, 5, 5, 0};
    assert_int_equal(sqf_sampler_draw(sampler, tie, &id, &err), SQF_OK);
    assert_int_equal(id, 2);
    sqf_sampler_destroy(sampler);
}

static void test_top_k_keeps_k(void **state)
{
    double frequency[N];
    (void)state;
    draw_many(&(sqf_sampling){.temperature = 1, .top_k = 2, .seed = 5}, frequency);
    check(frequency, (const double[]){1.0 / 3, 2.0 / 3, 0, 0, 0});
}

static void test_top_p_keeps_the_fewest_that_reach_it(void **state)
{
    double frequency[N];
    (void)state;
    draw_many(&(sqf_sampling){.temperature = 1, .top_p = 0.74f, .seed = 6}, frequency);
    check(frequency, (const double[]){1.0 / 3, 2.0 / 3, 0, 0, 0});
    draw_many(&(sqf_sampling){.temperature = 1, .top_p = 0.76f, .seed = 6}, frequency);
    check(frequency, (const double[]){2.0 / 7, 4.0 / 7, 1.0 / 7, 0, 0});
    draw_many(&(sqf_sampling){.temperature = 1, .top_p = 1e-6f, .seed = 6}, frequency);
    check(frequency, (const double[]){0, 1, 0, 0, 0});
}

static void test_min_p_is_relative_to_the_largest(void **state)
{
    double frequency[N];
    (void)state;
    draw_many(&(sqf_sampling){.temperature = 1, .min_p = 0.2f, .seed = 7}, frequency);
    check(frequency, (const double[]){2.0 / 7, 4.0 / 7, 1.0 / 7, 0, 0});
}

static void test_repetition_penalty_divides_or_multiplies(void **state)
{
    sqf_error err = {0};
    sqf_sampler *sampler;
    uint32_t id;
    (void)state;
    assert_int_equal(sqf_sampler_create(&(sqf_sampling){.repetition_penalty = 2}, 3, &sampler, &err), SQF_OK);
    sqf_sampler_accept(sampler, 0);
    sqf_sampler_accept(sampler, 77); /* beyond the vocabulary: ignored */
    assert_int_equal(sqf_sampler_draw(sampler, (const float[]){4, 1.9f, 0}, &id, &err), SQF_OK);
    assert_int_equal(id, 0); /* 4 / 2 is still the largest */
    assert_int_equal(sqf_sampler_draw(sampler, (const float[]){4, 2.1f, 0}, &id, &err), SQF_OK);
    assert_int_equal(id, 1);
    assert_int_equal(sqf_sampler_draw(sampler, (const float[]){-1, -1.5f, -9}, &id, &err), SQF_OK);
    assert_int_equal(id, 1); /* -1 * 2 is below -1.5 */
    sqf_sampler_destroy(sampler);
}

static void test_seed_repeats_and_differs(void **state)
{
    sqf_error err = {0};
    uint32_t drawn[3][64];
    const uint64_t seeds[] = {9, 9, 10};
    (void)state;
    for (size_t s = 0; s < 3; s++) {
        sqf_sampler *sampler;
        assert_int_equal(sqf_sampler_create(&(sqf_sampling){.temperature = 1, .seed = seeds[s]}, N, &sampler, &err),
                         SQF_OK);
        for (size_t i = 0; i < 64; i++) {
            assert_int_equal(sqf_sampler_draw(sampler, logits, &drawn[s][i], &err), SQF_OK);
        }
        sqf_sampler_destroy(sampler);
    }
    assert_memory_equal(drawn[0], drawn[1], sizeof drawn[0]);
    assert_memory_not_equal(drawn[0], drawn[2], sizeof drawn[0]);
}

static void test_bad_parameters_and_logits_are_named(void **state)
{
    const struct {
        sqf_sampling sampling;
        const char *name;
    } bad[] = {
        {{.temperature = -1}, "temperature"},
        {{.temperature = NAN}, "temperature"},
        {{.top_p = 1.5f}, "top_p"},
        {{.min_p = -0.1f}, "min_p"},
        {{.repetition_penalty = -2}, "repetition_penalty"},
    };
    sqf_error err = {0};
    sqf_sampler *sampler;
    uint32_t id = 42;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(sqf_sampler_create(&bad[i].sampling, N, &sampler, &err), SQF_E_ARG);
        assert_null(sampler);
        assert_non_null(strstr(err.text, bad[i].name));
    }
    assert_int_equal(sqf_sampler_create(&(sqf_sampling){.temperature = 1}, 2, &sampler, &err), SQF_OK);
    assert_int_equal(sqf_sampler_draw(sampler, (const float[]){0, NAN}, &id, &err), SQF_E_VALUE);
    assert_non_null(strstr(err.text, "logit 1"));
    assert_int_equal(sqf_sampler_draw(sampler, (const float[]){INFINITY, 0}, &id, &err), SQF_E_VALUE);
    assert_int_equal(id, 42);
    sqf_sampler_destroy(sampler);
}

/* ---- against the definition ---- */

/* A token, its logit after the penalty, its weight. */
typedef struct entry {
    double logit, weight;
    uint32_t id;
} entry;

static int compare_entries(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->logit != y->logit) {
        return x->logit > y->logit ? -1 : 1;
    }
    return (x->id > y->id) - (x->id < y->id);
}

/* Hugging Face's processors in their order on the whole sorted vocabulary; then inversion with one uniform number. */
static uint32_t draw_by_definition(const sqf_sampling *s, const float *x, const bool *seen, size_t n, double unit,
                                   entry *sorted)
{
    const double penalty = (double)s->repetition_penalty;
    size_t count = n;
    double sum = 0, kept = 0;
    for (size_t i = 0; i < n; i++) {
        const double value = (double)x[i];
        const bool changed = penalty != 0 && seen[i];
        sorted[i] = (entry){.logit = !changed    ? value
                                     : value > 0 ? value / penalty
                                                 : value * penalty,
                            .id = (uint32_t)i};
    }
    qsort(sorted, n, sizeof *sorted, compare_entries);
    if (s->temperature == 0) {
        return sorted[0].id;
    }
    count = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    for (size_t i = 0; i < count; i++) {
        sorted[i].weight = exp((sorted[i].logit - sorted[0].logit) / (double)s->temperature);
        sum += sorted[i].weight;
    }
    if (s->top_p > 0 && s->top_p < 1) {
        double before = sorted[0].weight;
        size_t nucleus = 1;
        while (nucleus < count && before < (double)s->top_p * sum) {
            before += sorted[nucleus++].weight;
        }
        count = nucleus;
    }
    while (count > 1 && sorted[count - 1].weight < (double)s->min_p) {
        count--;
    }
    for (size_t i = 0; i < count; i++) {
        kept += sorted[i].weight;
    }
    double point = unit * kept;
    for (size_t i = 0; i + 1 < count; i++) {
        point -= sorted[i].weight;
        if (point < 0) {
            return sorted[i].id;
        }
    }
    return sorted[count - 1].id;
}

/* Logits of many kinds: from nearly equal to one far above all, with ties, steps, zeros of both signs and masked ones.
 */
static void make_logits(sqf_random *random, size_t n, float *x)
{
    static const float spreads[] = {0, 1e-30f, 1e-3f, 1, 8, 40, 1e4f, 1e37f};
    const float spread = spreads[sqf_random_below(random, 8)];
    const size_t kind = (size_t)sqf_random_below(random, 4);
    for (size_t i = 0; i < n; i++) {
        float value = 0;
        for (int k = 0; k < 4; k++) {
            value += (float)(sqf_random_unit(random) - 0.5);
        }
        value = kind == 1 ? floorf(4 * value) : kind == 2 && value < 0 ? -0.0f : value;
        x[i] = kind == 3 && sqf_random_below(random, 3) == 0 ? -3e38f : spread * value;
    }
}

static void make_sampling(sqf_random *random, size_t n, sqf_sampling *s)
{
    static const float temperatures[] = {0, 1e-40f, 0.01f, 0.3f, 0.8f, 1, 1.7f, 30, 1e6f};
    static const float shares[] = {0, 0, 1e-6f, 0.1f, 0.5f, 0.9f, 0.95f, 0.999f, 0.9999999f, 1};
    static const float least[] = {0, 0, 0, 1e-45f, 1e-9f, 0.02f, 0.3f, 1};
    static const float penalties[] = {0, 1, 1.1f, 3, 0.5f};
    *s = (sqf_sampling){.temperature = temperatures[sqf_random_below(random, 9)],
                        .top_k = sqf_random_below(random, 3) ? 0 : (uint32_t)sqf_random_below(random, 2 * n),
                        .top_p = shares[sqf_random_below(random, 10)],
                        .min_p = least[sqf_random_below(random, 8)],
                        .repetition_penalty = penalties[sqf_random_below(random, 5)],
                        .seed = sqf_random_u64(random)};
}

static void check_draws(sqf_random *random, size_t n)
{
    enum { DRAWN = 4 };
    float *x = malloc(n * sizeof *x);
    entry *sorted = malloc(n * sizeof *sorted);
    bool *seen = calloc(n, sizeof *seen);
    sqf_error err = {0};
    sqf_sampling sampling;
    sqf_sampler *sampler;
    make_sampling(random, n, &sampling);
    sqf_random drawn = {.state = sampling.seed};
    assert_int_equal(sqf_sampler_create(&sampling, n, &sampler, &err), SQF_OK);
    for (size_t i = 0; i < DRAWN; i++) {
        uint32_t id = UINT32_MAX;
        make_logits(random, n, x);
        const double unit = sampling.temperature == 0 ? 0 : sqf_random_unit(&drawn);
        const uint32_t expected = draw_by_definition(&sampling, x, seen, n, unit, sorted);
        assert_int_equal(sqf_sampler_draw(sampler, x, &id, &err), SQF_OK);
        if (id != expected) {
            fail_msg("%zu tokens, temperature %g, top_k %u, top_p %.9g, min_p %g, penalty %g, seed %llu, draw %zu: "
                     "expected %u, found %u",
                     n, (double)sampling.temperature, sampling.top_k, (double)sampling.top_p, (double)sampling.min_p,
                     (double)sampling.repetition_penalty, (unsigned long long)sampling.seed, i, expected, id);
        }
        sqf_sampler_accept(sampler, id);
        seen[id] = true;
    }
    sqf_sampler_destroy(sampler);
    free(x);
    free(sorted);
    free(seen);
}

static void test_draws_are_those_of_the_whole_sorted_vocabulary(void **state)
{
    const char *wish = getenv("SQF_TEST_SEED");
    sqf_random random = {.state = wish ? strtoull(wish, NULL, 10) : 20};
    (void)state;
    print_message("draws: SQF_TEST_SEED=%llu\n", (unsigned long long)random.state);
    for (size_t i = 0; i < 6000; i++) {
        const size_t most = i % 50 == 0 ? 40000 : i % 3 == 0 ? 12 : 2000;
        check_draws(&random, 1 + (size_t)sqf_random_below(&random, most));
    }
}

/* Nuclei that end at a step but for the last bits of the sum: `most` tokens of weight 1 and as many of a weight just
 * below it, which is chosen so that top_p of the sum is a whole number. How the sum was rounded then decides whether
 * one more token is kept, and nearly every draw shows it. */
static void test_steps_that_rounding_could_move_are_decided_by_the_definition(void **state)
{
    enum { TIES = 4000 };
    static float x[TIES];
    static entry sorted[TIES];
    static bool seen[TIES];
    (void)state;
    for (size_t n = 3000; n < TIES; n += 10) {
        const sqf_sampling sampling = {.temperature = 1, .top_p = 0.3f, .seed = n};
        const double target = (double)sampling.top_p * (double)n, less = target - floor(target);
        const size_t most = n / 2;
        sqf_random drawn = {.state = sampling.seed};
        sqf_error err = {0};
        sqf_sampler *sampler;
        float logit = (float)log1p(-less / ((double)sampling.top_p * (double)(n - most)));
        assert_int_equal(sqf_sampler_create(&sampling, n, &sampler, &err), SQF_OK);
        for (size_t i = 0; i < 9; i++) {
            uint32_t id;
            logit = nextafterf(logit, i < 5 ? 0 : -1); /* in steps of a last bit there and back */
            for (size_t j = 0; j < n; j++) {
                x[j] = j % 2 == 0 && j / 2 < most ? 0 : logit;
            }
            const uint32_t expected = draw_by_definition(&sampling, x, seen, n, sqf_random_unit(&drawn), sorted);
            assert_int_equal(sqf_sampler_draw(sampler, x, &id, &err), SQF_OK);
            assert_int_equal(id, expected);
        }
        sqf_sampler_destroy(sampler);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_are_those_of_the_whole_sorted_vocabulary),
        cmocka_unit_test(test_steps_that_rounding_could_move_are_decided_by_the_definition),
        cmocka_unit_test(test_temperature_one_draws_the_probabilities),
        cmocka_unit_test(test_temperature_half_squares_them),
        cmocka_unit_test(test_greedy_takes_the_largest_and_the_lower_of_a_tie),
        cmocka_unit_test(test_top_k_keeps_k),
        cmocka_unit_test(test_top_p_keeps_the_fewest_that_reach_it),
        cmocka_unit_test(test_min_p_is_relative_to_the_largest),
        cmocka_unit_test(test_repetition_penalty_divides_or_multiplies),
        cmocka_unit_test(test_seed_repeats_and_differs),
        cmocka_unit_test(test_bad_parameters_and_logits_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

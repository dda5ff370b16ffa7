/* The sampler: every rule has the effect that its name says, and a seed repeats. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sqf/model.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
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

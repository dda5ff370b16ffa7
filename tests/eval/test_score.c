/* The figures of an evaluation, against their formulas and against sampling. */
#include "check.h"

#include <math.h>

#include "base/random.h"
#include "eval/score.h"

enum { VOCABULARY = 37, ROWS = 400 };

/* Logits of two models that are alike but for noise, and the tokens that came. */
typedef struct sample {
    float logits[ROWS * VOCABULARY], reference[ROWS * VOCABULARY];
    uint32_t next[ROWS];
} sample;

static float noise(sqf_random *random)
{
    float sum = 0;
    for (int i = 0; i < 12; i++) {
        sum += (float)sqf_random_unit(random);
    }
    return sum - 6; /* nearly normal, variance 1 */
}

static sample *make_sample(uint64_t seed)
{
    sample *s = malloc(sizeof *s);
    assert_non_null(s);
    sqf_random random = {.state = seed};
    for (size_t i = 0; i < ROWS * VOCABULARY; i++) {
        s->reference[i] = 3 * noise(&random);
        s->logits[i] = s->reference[i] + 0.3f * noise(&random);
    }
    for (size_t i = 0; i < ROWS; i++) {
        s->next[i] = (uint32_t)sqf_random_below(&random, VOCABULARY);
    }
    return s;
}

static sqf_eval_result score(const sample *s, const float *logits, const float *reference, sqf_token_scores *scores)
{
    sqf_error err;
    sqf_eval_result result = {0};
    assert_ok(sqf_token_scores_create(ROWS, reference != NULL, scores, &err), &err);
    /* in two calls of unequal size, as the last rows of a window come */
    assert_ok(sqf_token_scores_add(scores, NULL, logits, reference, s->next, 129, VOCABULARY, &err), &err);
    const size_t offset = 129 * VOCABULARY;
    assert_ok(sqf_token_scores_add(scores, NULL, logits + offset, reference ? reference + offset : NULL, s->next + 129,
                                   ROWS - 129, VOCABULARY, &err),
              &err);
    sqf_token_scores_summarize(scores, &result);
    return result;
}

static void assert_near(double found, double expected, double tolerance)
{
    if (!(fabs(found - expected) <= tolerance * fabs(expected))) {
        fail_msg("found %.17g, expected %.17g within %g", found, expected, tolerance);
    }
}

/* log(sum(exp)) the plain way in long double. */
static long double log_sum(const float *logits)
{
    long double sum = 0;
    for (size_t i = 0; i < VOCABULARY; i++) {
        sum += expl((long double)logits[i]);
    }
    return logl(sum);
}

static void test_perplexity_follows_its_formula(void **state)
{
    (void)state;
    sample *s = make_sample(test_seed("perplexity", 1));
    sqf_token_scores scores;
    const sqf_eval_result result = score(s, s->logits, NULL, &scores);
    long double sum = 0, squares = 0;
    for (size_t i = 0; i < ROWS; i++) {
        const float *row = s->logits + i * VOCABULARY;
        const long double nll = log_sum(row) - (long double)row[s->next[i]];
        sum += nll;
        squares += nll * nll;
    }
    const long double mean = sum / ROWS, variance = (squares - sum * mean) / (ROWS - 1);
    assert_near(result.model.nll, (double)mean, 1e-12);
    assert_near(result.model.nll_sum, (double)sum, 1e-12);
    assert_near(result.model.perplexity, (double)expl(mean), 1e-11);
    assert_near(result.model.perplexity_error, (double)(expl(mean) * sqrtl(variance / ROWS)), 1e-9);
    assert_false(result.compared);
    assert_true(isnan(result.kl) && isnan(result.ratio) && isnan(result.same_top));
    sqf_token_scores_clear(&scores);
    free(s);
}

static void test_identical_models_do_not_differ(void **state)
{
    (void)state;
    sample *s = make_sample(test_seed("identical", 2));
    sqf_token_scores scores;
    const sqf_eval_result result = score(s, s->logits, s->logits, &scores);
    assert_true(result.compared);
    assert_true(result.kl == 0 && result.kl_error == 0 && result.kl_max == 0);
    assert_true(result.same_top == 1);
    assert_true(result.ratio == 1 && result.ratio_error == 0);
    assert_true(result.difference == 0 && result.difference_error == 0);
    sqf_token_scores_clear(&scores);
    free(s);
}

/* A constant added to all logits of a row changes nothing. */
static void test_logits_count_up_to_a_constant(void **state)
{
    (void)state;
    sample *s = make_sample(test_seed("constant", 3));
    for (size_t i = 0; i < ROWS * VOCABULARY; i++) {
        s->reference[i] = s->logits[i] + 64.0f;
        s->logits[i] = s->reference[i] - 64.0f; /* so that rounding is the same on both sides */
    }
    sqf_token_scores scores;
    const sqf_eval_result result = score(s, s->logits, s->reference, &scores);
    assert_true(result.kl < 1e-14);
    assert_near(result.ratio, 1, 1e-13);
    assert_true(result.same_top == 1);
    sqf_token_scores_clear(&scores);
    free(s);
}

static void test_divergence_follows_its_formula(void **state)
{
    (void)state;
    sample *s = make_sample(test_seed("divergence", 4));
    sqf_token_scores scores;
    const sqf_eval_result result = score(s, s->logits, s->reference, &scores);
    long double kl = 0;
    size_t same = 0;
    for (size_t i = 0; i < ROWS; i++) {
        const float *p = s->reference + i * VOCABULARY, *q = s->logits + i * VOCABULARY;
        const long double p_sum = log_sum(p), q_sum = log_sum(q);
        size_t p_top = 0, q_top = 0;
        for (size_t v = 0; v < VOCABULARY; v++) {
            kl += expl((long double)p[v] - p_sum) * (((long double)p[v] - p_sum) - ((long double)q[v] - q_sum));
            p_top = p[v] > p[p_top] ? v : p_top;
            q_top = q[v] > q[q_top] ? v : q_top;
        }
        same += p_top == q_top;
    }
    assert_near(result.kl, (double)(kl / ROWS), 1e-11);
    assert_near(result.same_top, (double)same / ROWS, 1e-15);
    assert_true(result.kl > 0.001 && result.kl_error > 0 && result.kl_error < result.kl);
    assert_true(result.kl_max >= result.kl);
    sqf_token_scores_clear(&scores);
    free(s);
}

/* The errors of paired differences: against the spread of the figures over tokens drawn anew (bootstrap). */
static void test_paired_errors_match_the_bootstrap(void **state)
{
    (void)state;
    enum { DRAWS = 2000 };
    const uint64_t seed = test_seed("bootstrap", 5);
    sample *s = make_sample(seed);
    sqf_token_scores scores;
    const sqf_eval_result result = score(s, s->logits, s->reference, &scores);
    sqf_random random = {.state = seed};
    double ratio[2] = {0, 0}, difference[2] = {0, 0}; /* sums and sums of squares around the figure */
    for (int draw = 0; draw < DRAWS; draw++) {
        double model = 0, reference = 0;
        for (size_t i = 0; i < ROWS; i++) {
            const size_t token = (size_t)sqf_random_below(&random, ROWS);
            model += scores.nll[token] / ROWS;
            reference += scores.reference_nll[token] / ROWS;
        }
        const double r = exp(model - reference) - result.ratio, d = exp(model) - exp(reference) - result.difference;
        ratio[0] += r / DRAWS;
        ratio[1] += r * r / DRAWS;
        difference[0] += d / DRAWS;
        difference[1] += d * d / DRAWS;
    }
    assert_near(result.ratio, exp(result.model.nll - result.reference.nll), 1e-12);
    assert_near(result.difference, result.model.perplexity - result.reference.perplexity, 1e-12);
    assert_near(result.ratio_error, sqrt(ratio[1] - ratio[0] * ratio[0]), 0.15);
    assert_near(result.difference_error, sqrt(difference[1] - difference[0] * difference[0]), 0.15);
    /* pairing is what makes it small */
    assert_true(result.difference_error < 0.5 * result.model.perplexity_error);
    sqf_token_scores_clear(&scores);
    free(s);
}

static void test_bad_logits_are_named(void **state)
{
    (void)state;
    sample *s = make_sample(test_seed("bad", 6));
    sqf_token_scores scores;
    sqf_error err;
    s->reference[7 * VOCABULARY + 3] = NAN;
    assert_ok(sqf_token_scores_create(ROWS, true, &scores, &err), &err);
    assert_fails(sqf_token_scores_add(&scores, NULL, s->logits, s->reference, s->next, ROWS, VOCABULARY, &err),
                 SQF_E_VALUE, &err, "row 7: expected finite logits");
    assert_int_equal(scores.count, 0);
    s->reference[7 * VOCABULARY + 3] = 0;
    s->logits[9 * VOCABULARY] = INFINITY;
    assert_fails(sqf_token_scores_add(&scores, NULL, s->logits, s->reference, s->next, ROWS, VOCABULARY, &err),
                 SQF_E_VALUE, &err, "row 9: expected finite logits");
    sqf_token_scores_clear(&scores);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_perplexity_follows_its_formula),    cmocka_unit_test(test_identical_models_do_not_differ),
        cmocka_unit_test(test_logits_count_up_to_a_constant),     cmocka_unit_test(test_divergence_follows_its_formula),
        cmocka_unit_test(test_paired_errors_match_the_bootstrap), cmocka_unit_test(test_bad_logits_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

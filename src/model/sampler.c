/* Drawing tokens from logits, in the order of Hugging Face's logits processors: repetition penalty, temperature,
 * top-k, top-p, min-p. Float64 throughout and a sort with a total order (ties by id), so that a seed gives the same
 * text on every machine on which the logits agree.
 *
 * Cost: O(V log V) a token for the sort, V being the vocabulary; greedy drawing needs one pass. */
#include <math.h>
#include <string.h>

#include <sqf/model.h>

#include "base/memory.h"
#include "base/random.h"

/* A token that may be drawn. */
typedef struct candidate {
    double logit;
    double weight; /* exp(logit - largest) */
    uint32_t id;
} candidate;

/* The state of one generation: the generator, and which tokens have occurred. */
struct sqf_sampler {
    sqf_sampling sampling;
    size_t vocabulary;
    sqf_random random;
    candidate *candidates; /* [vocabulary] */
    bool *seen;            /* [vocabulary] */
};

static sqf_status check_range(const char *name, double value, double min, double max, sqf_error *err)
{
    if (!(value >= min && value <= max)) {
        return sqf_fail(err, SQF_E_ARG, "sampling: %s: expected %g to %g, found %g", name, min, max, value);
    }
    return SQF_OK;
}

static sqf_status check_sampling(const sqf_sampling *sampling, size_t vocabulary, sqf_error *err)
{
    SQF_TRY(check_range("temperature", (double)sampling->temperature, 0, 1e6, err));
    SQF_TRY(check_range("top_p", (double)sampling->top_p, 0, 1, err));
    SQF_TRY(check_range("min_p", (double)sampling->min_p, 0, 1, err));
    SQF_TRY(check_range("repetition_penalty", (double)sampling->repetition_penalty, 0, 1e3, err));
    return check_range("vocabulary", (double)vocabulary, 1, UINT32_MAX, err);
}

/* The vocabulary's worth of candidates is allocated once: drawing allocates nothing and cannot fail for memory. */
sqf_status sqf_sampler_create(const sqf_sampling *sampling, size_t vocabulary, sqf_sampler **out, sqf_error *err)
{
    *out = NULL;
    SQF_TRY(check_sampling(sampling, vocabulary, err));
    SQF_TRY(SQF_ALLOC(out, 1, "sampler", err));
    sqf_sampler *sampler = *out;
    sampler->sampling = *sampling;
    sampler->vocabulary = vocabulary;
    sampler->random.state = sampling->seed;
    sqf_status status = SQF_ALLOC(&sampler->candidates, vocabulary, "sampler", err);
    if (status == SQF_OK) {
        status = SQF_ALLOC(&sampler->seen, vocabulary, "sampler", err);
    }
    if (status != SQF_OK) {
        sqf_sampler_destroy(sampler);
        *out = NULL;
    }
    return status;
}

void sqf_sampler_destroy(sqf_sampler *sampler)
{
    if (sampler) {
        free(sampler->candidates);
        free(sampler->seen);
        free(sampler);
    }
}

void sqf_sampler_accept(sqf_sampler *sampler, uint32_t id)
{
    if (id < sampler->vocabulary) {
        sampler->seen[id] = true;
    }
}

/* The logit after the penalty: pushed down whatever its sign. */
static double penalized(const sqf_sampler *sampler, uint32_t id, float logit)
{
    const double penalty = (double)sampler->sampling.repetition_penalty, value = (double)logit;
    if (penalty == 0 || !sampler->seen[id]) {
        return value;
    }
    return value > 0 ? value / penalty : value * penalty;
}

/* Fills the candidates and returns the place of the largest; ties go to the lower id. */
static size_t collect(sqf_sampler *sampler, const float *logits)
{
    size_t best = 0;
    for (size_t i = 0; i < sampler->vocabulary; i++) {
        sampler->candidates[i] = (candidate){.logit = penalized(sampler, (uint32_t)i, logits[i]), .id = (uint32_t)i};
        best = sampler->candidates[i].logit > sampler->candidates[best].logit ? i : best;
    }
    return best;
}

/* Largest logit first, lower id on ties: a total order, so that qsort's instability does not show. */
static int compare_candidates(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) {
        return x->logit > y->logit ? -1 : 1;
    }
    return (x->id > y->id) - (x->id < y->id);
}

/* Turns logits into weights; the first candidate is the largest. Returns their sum. */
static double weigh(candidate *candidates, size_t count, double temperature)
{
    const double largest = candidates[0].logit;
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        candidates[i].weight = exp((candidates[i].logit - largest) / temperature);
        sum += candidates[i].weight;
    }
    return sum;
}

/* The fewest candidates whose probabilities reach top_p; at least one. */
static size_t cut_nucleus(const candidate *candidates, size_t count, double sum, double top_p)
{
    double before = 0;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && before >= top_p * sum) {
            return i;
        }
        before += candidates[i].weight;
    }
    return count;
}

/* How many of the sorted candidates stay. The nucleus is a share of the sum after top-k; min-p compares with the
 * largest weight, which no cut removes, so weights need not be normalized in between. */
static size_t cut(const sqf_sampler *sampler, size_t count, double sum)
{
    const sqf_sampling *s = &sampler->sampling;
    if (s->top_p > 0 && s->top_p < 1) {
        count = cut_nucleus(sampler->candidates, count, sum, (double)s->top_p);
    }
    while (count > 1 && sampler->candidates[count - 1].weight < (double)s->min_p) { /* the largest weight is 1 */
        count--;
    }
    return count;
}

/* By inversion: a uniform point in the sum of the weights. Rounding may leave the point just beyond the last step,
 * hence the last candidate as the end of all. */
static uint32_t draw(sqf_sampler *sampler)
{
    candidate *candidates = sampler->candidates;
    size_t count = sampler->vocabulary;
    qsort(candidates, count, sizeof *candidates, compare_candidates);
    if (sampler->sampling.top_k > 0 && sampler->sampling.top_k < count) {
        count = sampler->sampling.top_k;
    }
    count = cut(sampler, count, weigh(candidates, count, (double)sampler->sampling.temperature));
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += candidates[i].weight;
    }
    double point = sqf_random_unit(&sampler->random) * sum;
    for (size_t i = 0; i + 1 < count; i++) {
        point -= candidates[i].weight;
        if (point < 0) {
            return candidates[i].id;
        }
    }
    return candidates[count - 1].id;
}

/* Every logit is looked at: a NaN would make the order meaningless, and it is a fault of the model that must be seen.
 */
sqf_status sqf_sampler_draw(sqf_sampler *sampler, const float *logits, uint32_t *id, sqf_error *err)
{
    for (size_t i = 0; i < sampler->vocabulary; i++) {
        if (!isfinite(logits[i])) {
            return sqf_fail(err, SQF_E_VALUE, "sampling: logit %zu: expected a finite number, found %f", i,
                            (double)logits[i]);
        }
    }
    const size_t best = collect(sampler, logits);
    *id = sampler->sampling.temperature == 0 ? (uint32_t)best : draw(sampler);
    return SQF_OK;
}

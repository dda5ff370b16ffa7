/* Drawing tokens from logits, in the order of Hugging Face's logits processors: repetition penalty, temperature,
 * top-k, top-p, min-p. Float64 throughout and a total order (ties by id), so that a seed gives the same text on every
 * machine on which the logits agree.
 *
 * What is drawn is defined by draw_sorted: all V tokens of the vocabulary sorted. That costs O(V log V) a token, and
 * the sorted beginning is all that is looked at nearly always. So a histogram of the logits tells how far that
 * beginning reaches, and it alone is gathered and sorted: O(V). Where more than rounding errors would have to be known
 * of the rest to decide, all is sorted: the results are those of draw_sorted to the last bit. Greedy drawing needs one
 * pass. */
#include "model/sampler.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"

/* A token that may be drawn. */
typedef struct candidate {
    double logit;
    double weight; /* exp(logit - largest) */
    uint32_t id;
} candidate;

/* Bins of the histogram: the last one also holds all that lies beyond it. Its reach is that of weights that matter, or,
 * where tokens are counted, of logits. Lanes of sums and maxima, so that they are vectors. */
enum { BINS = 1024, WEIGHT_REACH = 32, LOGIT_REACH = 64, LANES = 8 };

/* The state of one generation: the generator, and which tokens have occurred. The rest is scratch of a draw. */
struct sqf_sampler {
    sqf_sampling sampling;
    size_t vocabulary;
    sqf_random random;
    bool *seen;            /* [vocabulary] */
    double *values;        /* [vocabulary] logits after the penalty */
    double largest, least; /* of the values */
    double bin_scale;      /* bins by a difference of logits */
    uint32_t bins[BINS];   /* tokens by their distance from the largest */
    candidate *candidates; /* [vocabulary] */
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
    if (status == SQF_OK) {
        status = SQF_ALLOC(&sampler->values, vocabulary, "sampler", err);
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
        free(sampler->values);
        free(sampler);
    }
}

void sqf_sampler_accept(sqf_sampler *sampler, uint32_t id)
{
    if (id < sampler->vocabulary) {
        sampler->seen[id] = true;
    }
}

double sqf_sampler_unit(sqf_sampler *sampler)
{
    return sqf_random_unit(&sampler->random);
}

const sqf_sampling *sqf_sampler_sampling(const sqf_sampler *sampler)
{
    return &sampler->sampling;
}

const bool *sqf_sampler_seen(const sqf_sampler *sampler)
{
    return sampler->seen;
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

/* min-p compares with the largest weight, which no cut removes and which is 1: weights need not be normalized. */
static size_t cut_small(const sqf_sampler *sampler, size_t count)
{
    while (count > 1 && sampler->candidates[count - 1].weight < (double)sampler->sampling.min_p) {
        count--;
    }
    return count;
}

/* How many of the sorted candidates stay. The nucleus is a share of the sum after top-k. */
static size_t cut(const sqf_sampler *sampler, size_t count, double sum)
{
    const sqf_sampling *s = &sampler->sampling;
    if (s->top_p > 0 && s->top_p < 1) {
        count = cut_nucleus(sampler->candidates, count, sum, (double)s->top_p);
    }
    return cut_small(sampler, count);
}

/* By inversion: the point of a uniform number in the sum of the weights. Rounding may leave it just beyond the last
 * step, hence the last candidate as the end of all. */
static uint32_t draw_from(const candidate *candidates, size_t count, double unit)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += candidates[i].weight;
    }
    double point = unit * sum;
    for (size_t i = 0; i + 1 < count; i++) {
        point -= candidates[i].weight;
        if (point < 0) {
            return candidates[i].id;
        }
    }
    return candidates[count - 1].id;
}

/* The candidates are the first `count` of the sorted vocabulary, and all that top-k leaves of it. */
static uint32_t draw_whole(sqf_sampler *sampler, size_t count, double unit)
{
    const double sum = weigh(sampler->candidates, count, (double)sampler->sampling.temperature);
    return draw_from(sampler->candidates, cut(sampler, count, sum), unit);
}

/* Sorts the candidates of `reach` bins and more; returns their number. */
static size_t gather(sqf_sampler *sampler, size_t reach)
{
    const double largest = sampler->largest, scale = sampler->bin_scale, limit = (double)reach;
    size_t count = 0;
    for (size_t i = 0; i < sampler->vocabulary; i++) {
        if (reach == BINS || (largest - sampler->values[i]) * scale < limit) {
            sampler->candidates[count++] = (candidate){.logit = sampler->values[i], .id = (uint32_t)i};
        }
    }
    qsort(sampler->candidates, count, sizeof *sampler->candidates, compare_candidates);
    return count;
}

/* The definition of all that follows. */
static uint32_t draw_sorted(sqf_sampler *sampler, double unit)
{
    const size_t count = gather(sampler, BINS);
    const size_t top_k = sampler->sampling.top_k;
    return draw_whole(sampler, top_k > 0 && top_k < count ? top_k : count, unit);
}

/* A bin's number grows with the distance, rounding or not: its tokens are neighbours in the sorted order, and equal
 * logits share one. */
static void fill_bins(sqf_sampler *sampler, double reach)
{
    const double span = sampler->largest - sampler->least, width = (span < reach ? span : reach) / BINS;
    sampler->bin_scale = width > 0 && 1 / width < 1e300 ? 1 / width : 0;
    memset(sampler->bins, 0, sizeof sampler->bins);
    for (size_t i = 0; i < sampler->vocabulary; i++) {
        const double bin = (sampler->largest - sampler->values[i]) * sampler->bin_scale;
        sampler->bins[bin < BINS - 1 ? (size_t)bin : BINS - 1]++;
    }
}

/* The first k of the sorted vocabulary. */
static uint32_t draw_top_k(sqf_sampler *sampler, size_t top_k, double unit)
{
    size_t reach = 0, count = 0;
    fill_bins(sampler, LOGIT_REACH);
    while (reach < BINS && count < top_k) {
        count += sampler->bins[reach++];
    }
    gather(sampler, reach);
    return draw_whole(sampler, top_k, unit);
}

/* exp(x) for x <= 0 with a relative error below 1e-13; below -700 as for -700. Vectors where the compiler makes them.
 */
static double exp_near(double x)
{
    static const double shifter = 0x1.8p52; /* its last bits are an integer's */
    x = x < -700 ? -700 : x;
    const double shifted = x * 1.4426950408889634 + shifter, n = shifted - shifter;
    const double r = (x - n * 0x1.62e42fefa38p-1) - n * 0x1.ef35793c7673p-45;
    double sum = 1.0 / 39916800;
    sum = sum * r + 1.0 / 3628800;
    sum = sum * r + 1.0 / 362880;
    sum = sum * r + 1.0 / 40320;
    sum = sum * r + 1.0 / 5040;
    sum = sum * r + 1.0 / 720;
    sum = sum * r + 1.0 / 120;
    sum = sum * r + 1.0 / 24;
    sum = sum * r + 1.0 / 6;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    uint64_t bits, exponent;
    memcpy(&bits, &sum, sizeof bits);
    memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 52;
    memcpy(&sum, &bits, sizeof sum);
    return sum;
}

/* The sum of all weights, within the relative error of `doubt`. */
static double sum_near(const sqf_sampler *sampler)
{
    const double largest = sampler->largest, temperature = (double)sampler->sampling.temperature;
    const size_t whole = sampler->vocabulary / LANES * LANES;
    double lanes[LANES] = {0}, sum = 0;
    for (size_t i = 0; i < whole; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            lanes[j] += exp_near((sampler->values[i + j] - largest) / temperature);
        }
    }
    for (size_t i = whole; i < sampler->vocabulary; i++) {
        sum += exp_near((sampler->values[i] - largest) / temperature);
    }
    for (size_t j = 0; j < LANES; j++) {
        sum += lanes[j];
    }
    return sum;
}

/* More than the relative error of a sum of V positive numbers in any order, of sum_near and of the sums that a draw
 * over the sorted vocabulary makes. */
static double doubt(const sqf_sampler *sampler)
{
    return 1e-11 + (double)sampler->vocabulary * 0x1p-50;
}

/* The least number of bins that certainly hold this part of the sum: what is in a bin weighs as at its far end at
 * least.
 */
static size_t reach_of(const sqf_sampler *sampler, double mass)
{
    const double step = sampler->bin_scale > 0 ? 1 / (sampler->bin_scale * (double)sampler->sampling.temperature) : 0;
    double held = 0;
    for (size_t reach = 0; reach < BINS; reach++) {
        held += sampler->bins[reach] * exp(-step * (double)(reach + 1));
        if (reach < BINS - 1 && held >= mass) {
            return reach + 1;
        }
    }
    return BINS;
}

/* Finds the nucleus among the first `count` sorted candidates, weighed. 0 = it ends too near to a step to be sure of,
 * or beyond them. */
static size_t find_nucleus(const sqf_sampler *sampler, size_t count, double sum)
{
    const double target = (double)sampler->sampling.top_p * sum, band = target * doubt(sampler);
    double before = 0;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && before >= target - band) {
            return before >= target + band ? i : 0;
        }
        before += sampler->candidates[i].weight;
    }
    return count == sampler->vocabulary ? 0 : before >= target + band ? count : 0;
}

/* A nucleus without top-k: the fewest candidates that reach top_p. */
static uint32_t draw_nucleus(sqf_sampler *sampler, double unit)
{
    const double sum = sum_near(sampler);
    fill_bins(sampler, WEIGHT_REACH * (double)sampler->sampling.temperature);
    const size_t gathered = gather(sampler, reach_of(sampler, (double)sampler->sampling.top_p * sum * (1 + 1e-6)));
    weigh(sampler->candidates, gathered, (double)sampler->sampling.temperature);
    size_t count = find_nucleus(sampler, gathered, sum);
    if (count == 0) {
        return draw_sorted(sampler, unit);
    }
    return draw_from(sampler->candidates, cut_small(sampler, count), unit);
}

/* Weights from min_p of the largest on, without top-k and top-p. */
static uint32_t draw_min_p(sqf_sampler *sampler, double unit)
{
    const double temperature = (double)sampler->sampling.temperature;
    const double distance = (1e-6 - log((double)sampler->sampling.min_p)) * temperature; /* that surely matters */
    fill_bins(sampler, WEIGHT_REACH * temperature);
    const double reach = distance * sampler->bin_scale + 2;
    const size_t count = gather(sampler, reach < BINS ? (size_t)reach : BINS);
    weigh(sampler->candidates, count, temperature);
    return draw_from(sampler->candidates, cut_small(sampler, count), unit);
}

/* All tokens: the point is walked to from the largest weight on, and must lie further from every step than rounding
 * errors may have moved it. */
static uint32_t draw_all(sqf_sampler *sampler, double unit)
{
    const double sum = sum_near(sampler), band = 2 * sum * doubt(sampler);
    double point = unit * sum;
    fill_bins(sampler, WEIGHT_REACH * (double)sampler->sampling.temperature);
    const size_t count = gather(sampler, reach_of(sampler, point * (1 + 1e-6)));
    weigh(sampler->candidates, count, (double)sampler->sampling.temperature);
    for (size_t i = 0; i + 1 < count; i++) {
        point -= sampler->candidates[i].weight;
        if (point < -band) {
            return sampler->candidates[i].id;
        }
        if (point <= band) {
            break;
        }
    }
    return draw_sorted(sampler, unit);
}

static uint32_t draw(sqf_sampler *sampler)
{
    const sqf_sampling *s = &sampler->sampling;
    const double unit = sqf_sampler_unit(sampler);
    if (s->top_k > 0 && s->top_k < sampler->vocabulary) {
        return draw_top_k(sampler, s->top_k, unit);
    }
    if (s->top_p > 0 && s->top_p < 1) {
        return draw_nucleus(sampler, unit);
    }
    return s->min_p > 0 ? draw_min_p(sampler, unit) : draw_all(sampler, unit);
}

/* Every logit is looked at: a NaN would make the order meaningless, and it is a fault of the model that must be seen.
 */
static sqf_status check_finite(const float *logits, size_t n, sqf_error *err)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, logits + i, sizeof bits);
        bad |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
    }
    for (size_t i = 0; bad && i < n; i++) {
        if (!isfinite(logits[i])) {
            return sqf_fail(err, SQF_E_VALUE, "sampling: logit %zu: expected a finite number, found %f", i,
                            (double)logits[i]);
        }
    }
    return SQF_OK;
}

/* Values, the largest and the least of them. */
static void take_values(sqf_sampler *sampler, const float *logits)
{
    const float penalty = sampler->sampling.repetition_penalty;
    double *values = sampler->values, most[LANES], least[LANES];
    const size_t n = sampler->vocabulary, whole = n / LANES * LANES;
    for (size_t i = 0; i < n; i++) {
        values[i] = (double)logits[i];
    }
    for (size_t i = 0; penalty != 0 && penalty != 1 && i < n; i++) {
        values[i] = penalized(sampler, (uint32_t)i, logits[i]);
    }
    for (size_t j = 0; j < LANES; j++) {
        most[j] = least[j] = values[0];
    }
    for (size_t i = 0; i < whole; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            most[j] = values[i + j] > most[j] ? values[i + j] : most[j];
            least[j] = values[i + j] < least[j] ? values[i + j] : least[j];
        }
    }
    sampler->largest = sampler->least = values[n - 1];
    for (size_t i = whole; i < n; i++) {
        sampler->largest = values[i] > sampler->largest ? values[i] : sampler->largest;
        sampler->least = values[i] < sampler->least ? values[i] : sampler->least;
    }
    for (size_t j = 0; j < LANES; j++) {
        sampler->largest = most[j] > sampler->largest ? most[j] : sampler->largest;
        sampler->least = least[j] < sampler->least ? least[j] : sampler->least;
    }
}

/* The first of the largest. Blocks: where it is, is looked for in one of them alone. */
static uint32_t draw_greedy(const sqf_sampler *sampler, const float *logits)
{
    enum { BLOCK = 512 };
    const float penalty = sampler->sampling.repetition_penalty;
    size_t best = 0;
    if (penalty != 0 && penalty != 1) {
        double largest = penalized(sampler, 0, logits[0]);
        for (size_t i = 1; i < sampler->vocabulary; i++) {
            const double value = penalized(sampler, (uint32_t)i, logits[i]);
            best = value > largest ? i : best;
            largest = value > largest ? value : largest;
        }
        return (uint32_t)best;
    }
    for (size_t begin = 0; begin < sampler->vocabulary; begin += BLOCK) {
        const size_t rest = sampler->vocabulary - begin, n = rest < BLOCK ? rest : BLOCK;
        float lanes[LANES];
        bool larger = false;
        for (size_t j = 0; j < LANES; j++) {
            lanes[j] = logits[best];
        }
        for (size_t i = 0; i + LANES <= n; i += LANES) {
            for (size_t j = 0; j < LANES; j++) {
                lanes[j] = logits[begin + i + j] > lanes[j] ? logits[begin + i + j] : lanes[j];
            }
        }
        for (size_t j = 0; j < LANES; j++) {
            larger = larger || lanes[j] > logits[best];
        }
        for (size_t i = larger ? 0 : n / LANES * LANES; i < n; i++) {
            best = logits[begin + i] > logits[best] ? begin + i : best;
        }
    }
    return (uint32_t)best;
}

sqf_status sqf_sampler_draw(sqf_sampler *sampler, const float *logits, uint32_t *id, sqf_error *err)
{
    SQF_TRY(check_finite(logits, sampler->vocabulary, err));
    if (sampler->sampling.temperature == 0) {
        *id = draw_greedy(sampler, logits);
        return SQF_OK;
    }
    take_values(sampler, logits);
    *id = draw(sampler);
    return SQF_OK;
}

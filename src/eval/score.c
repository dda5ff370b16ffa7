/* Log-probabilities, KL divergence, and the statistics over tokens. Float64 from the float32 logits on.
 *
 * Figures are kept by token until the end, because the comparison of two models needs them in pairs: both err on the
 * same hard tokens, and the error of a difference taken token by token is many times smaller than that of two means. */
#include "eval/score.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

sqf_status sqf_token_scores_create(size_t room, bool compared, sqf_token_scores *out, sqf_error *err)
{
    *out = (sqf_token_scores){0};
    sqf_status status;
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->nll, room, "token scores", err), failed);
    if (compared) {
        SQF_TRY_GOTO(status, SQF_ALLOC(&out->reference_nll, room, "token scores", err), failed);
        SQF_TRY_GOTO(status, SQF_ALLOC(&out->kl, room, "token scores", err), failed);
        SQF_TRY_GOTO(status, SQF_ALLOC(&out->same_top, room, "token scores", err), failed);
    }
    return SQF_OK;
failed:
    sqf_token_scores_clear(out);
    return status;
}

void sqf_token_scores_clear(sqf_token_scores *scores)
{
    free(scores->nll);
    free(scores->reference_nll);
    free(scores->kl);
    free(scores->same_top);
    *scores = (sqf_token_scores){0};
}

/* What normalizes a row: log(sum(exp(x))), and the most probable token (ties: the lower id). */
typedef struct row_norm {
    double log_sum;
    size_t top;
} row_norm;

/* log(sum(exp(x))) with the largest logit taken out, so that exp stays in 0..1. The result is NaN or infinite if and
 * only if a logit is NaN or +infinity, or all are -infinity: one test of it stands for a scan of the row. */
static row_norm normalize(const float *logits, size_t vocabulary)
{
    row_norm norm = {.top = 0};
    float largest = logits[0];
    for (size_t i = 1; i < vocabulary; i++) {
        if (logits[i] > largest) {
            largest = logits[i];
            norm.top = i;
        }
    }
    double sum = 0;
    for (size_t i = 0; i < vocabulary; i++) {
        sum += exp((double)logits[i] - (double)largest);
    }
    norm.log_sum = (double)largest + log(sum);
    return norm;
}

/* sum p_ref (log p_ref - log p_model). A token that the reference excludes (probability 0) adds nothing. */
static double divergence(const float *reference, double reference_log_sum, const float *logits, double log_sum,
                         size_t vocabulary)
{
    double kl = 0;
    for (size_t i = 0; i < vocabulary; i++) {
        const double log_p = (double)reference[i] - reference_log_sum;
        const double p = exp(log_p);
        if (p > 0) {
            kl += p * (log_p - ((double)logits[i] - log_sum));
        }
    }
    return kl > 0 ? kl : 0; /* rounding can take 0 below it; NaN is caught before */
}

/* What the rows of one call share. */
typedef struct score_job {
    sqf_token_scores *scores;
    const float *logits, *reference;
    const uint32_t *next;
    size_t vocabulary;
    uint8_t *bad; /* [rows] */
} score_job;

/* Each row writes places of its own, so that the order of the rows does not matter. */
static void score_row(void *user, size_t row, unsigned thread)
{
    (void)thread;
    const score_job *job = user;
    const size_t slot = job->scores->count + row;
    const float *logits = job->logits + row * job->vocabulary;
    const row_norm norm = normalize(logits, job->vocabulary);
    job->scores->nll[slot] = norm.log_sum - (double)logits[job->next[row]];
    bool finite = isfinite(job->scores->nll[slot]);
    if (job->reference) {
        const float *reference = job->reference + row * job->vocabulary;
        const row_norm reference_norm = normalize(reference, job->vocabulary);
        job->scores->reference_nll[slot] = reference_norm.log_sum - (double)reference[job->next[row]];
        job->scores->kl[slot] = divergence(reference, reference_norm.log_sum, logits, norm.log_sum, job->vocabulary);
        job->scores->same_top[slot] = norm.top == reference_norm.top;
        finite = finite && isfinite(job->scores->reference_nll[slot]);
    }
    job->bad[row] = !finite;
}

sqf_status sqf_token_scores_add(sqf_token_scores *scores, sqf_pool *pool, const float *logits, const float *reference,
                                const uint32_t *next, size_t rows, size_t vocabulary, sqf_error *err)
{
    /* a flag for each row in place of an early stop: the row that is named must not depend on the threads */
    uint8_t *bad;
    SQF_TRY(SQF_ALLOC(&bad, rows, "token scores", err));
    score_job job = {scores, logits, reference, next, vocabulary, bad};
    sqf_pool_run(pool, rows, score_row, &job);
    const uint8_t *found = memchr(bad, 1, rows);
    const size_t row = found ? (size_t)(found - bad) : 0;
    free(bad);
    if (found) {
        return sqf_fail(err, SQF_E_VALUE, "row %zu: expected finite logits, found NaN or infinity", row);
    }
    scores->count += rows;
    return SQF_OK;
}

typedef struct mean_error {
    double mean, error; /* error = sd / sqrt(n), sd with n - 1 */
} mean_error;

/* Of factor_a * a[i] - factor_b * b[i]; b may be NULL. Two passes, so that nothing cancels. */
static mean_error mean_of(const double *a, double factor_a, const double *b, double factor_b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += factor_a * a[i] - (b ? factor_b * b[i] : 0);
    }
    const double mean = sum / (double)n;
    double squares = 0;
    for (size_t i = 0; i < n; i++) {
        const double off = factor_a * a[i] - (b ? factor_b * b[i] : 0) - mean;
        squares += off * off;
    }
    const double error = n > 1 ? sqrt(squares / (double)(n - 1) / (double)n) : 0;
    return (mean_error){mean, error};
}

/* Mean, sum and perplexity of one model, with the standard error by the delta method. */
static void summarize_model(const double *nll, size_t n, sqf_eval_score *score)
{
    const mean_error m = mean_of(nll, 1, NULL, 0, n);
    score->nll = m.mean;
    score->nll_sum = m.mean * (double)n;
    score->perplexity = exp(m.mean);
    score->perplexity_error = score->perplexity * m.error; /* d exp(x) = exp(x) dx */
}

/* What needs both models' distributions of every token. */
static void summarize_distributions(const sqf_token_scores *scores, sqf_eval_result *result)
{
    const size_t n = scores->count;
    const mean_error kl = mean_of(scores->kl, 1, NULL, 0, n);
    result->kl = kl.mean;
    result->kl_error = kl.error;
    result->kl_max = 0;
    size_t same = 0;
    for (size_t i = 0; i < n; i++) {
        result->kl_max = scores->kl[i] > result->kl_max ? scores->kl[i] : result->kl_max;
        same += scores->same_top[i];
    }
    result->same_top = (double)same / (double)n;
}

/* Both models saw the same tokens: differences are taken token by token, where most of the spread cancels. */
static void summarize_comparison(const sqf_token_scores *scores, sqf_eval_result *result)
{
    const size_t n = scores->count;
    summarize_model(scores->reference_nll, n, &result->reference);
    /* ratio = exp(mean of the paired differences); its error by the delta method */
    const mean_error pair = mean_of(scores->nll, 1, scores->reference_nll, 1, n);
    result->ratio = exp(pair.mean);
    result->ratio_error = result->ratio * pair.error;
    /* difference P - R: to first order P dx - R dy, whose error pairs the tokens */
    const double p = result->model.perplexity, r = result->reference.perplexity;
    result->difference = p - r;
    result->difference_error = mean_of(scores->nll, p, scores->reference_nll, r, n).error;
}

void sqf_token_scores_summarize(const sqf_token_scores *scores, sqf_eval_result *result)
{
    summarize_model(scores->nll, scores->count, &result->model);
    result->compared = scores->reference_nll != NULL;
    result->kl = result->kl_error = result->kl_max = result->same_top = NAN;
    if (scores->kl) {
        summarize_distributions(scores, result);
    }
    if (result->compared) {
        summarize_comparison(scores, result);
        return;
    }
    result->ratio = result->ratio_error = result->difference = result->difference_error = NAN;
    result->reference = (sqf_eval_score){
        .nll = NAN, .nll_sum = NAN, .perplexity = NAN, .perplexity_error = NAN, .seconds = NAN, .tokens_per_s = NAN};
}

/* Static activation masks: which input channels are held high. Source: docs/format.md section 5, steps 2 to 4. */
#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "ptq/mask/mask.h"

/* What a score asks of the stacked weights' column j: the sum of W, |W| or W^2. */
static double column_term(sqf_mask_score score, double w)
{
    switch (score) {
    case SQF_MASK_SCORE_PAPER: return w;
    case SQF_MASK_SCORE_L1: return fabs(w);
    case SQF_MASK_SCORE_L2:
    case SQF_MASK_SCORE_MAXL2: return w * w;
    default: return 0.0;
    }
}

static void column_sums(sqf_mask_score score, const float *const *weights, const size_t *rows, size_t count,
                        size_t channels, double *sums)
{
    for (size_t m = 0; m < count; m++) {
        for (size_t n = 0; n < rows[m]; n++) {
            const float *row = weights[m] + n * channels;
            for (size_t j = 0; j < channels; j++) {
                sums[j] += column_term(score, (double)row[j]);
            }
        }
    }
}

static double channel_score(const sqf_statistics *s, sqf_mask_score score, size_t j, double column, sqf_random *random)
{
    const double tokens = s->tokens ? (double)s->tokens : 1.0;
    switch (score) {
    case SQF_MASK_SCORE_PAPER: return fabs(s->sum_abs[j] / tokens * column);
    case SQF_MASK_SCORE_L1: return s->sum_abs[j] / tokens * column;
    case SQF_MASK_SCORE_L2: return sqrt(s->sum_square[j] / tokens * column);
    case SQF_MASK_SCORE_MAX: return (double)s->max_abs[j];
    case SQF_MASK_SCORE_MAXL2: return (double)s->max_abs[j] * sqrt(column);
    default: return sqf_random_unit(random);
    }
}

size_t sqf_mask_order(const uint8_t *mask, size_t channels, int32_t *order)
{
    size_t n = 0;
    for (int high = 0; high < 2; high++) {
        for (size_t j = 0; j < channels; j++) {
            if (mask[j] == high) {
                order[n++] = (int32_t)j;
            }
        }
    }
    size_t border = 0;
    for (size_t j = 0; j < channels; j++) {
        border += mask[j] == 0;
    }
    return border;
}

sqf_status sqf_activation_mask(const sqf_statistics *statistics, const sqf_act_spec *spec, sqf_mask_score score,
                               const float *const *weights, const size_t *rows, size_t count, uint64_t seed,
                               int32_t *channels, size_t *border, sqf_error *err)
{
    const size_t n = statistics->channels;
    double *sums = NULL;
    float *scores = NULL;
    uint8_t *mask = NULL;
    sqf_status status;
    SQF_TRY_GOTO(status, SQF_ALLOC(&sums, n, "column sums", err), done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&scores, n, "channel scores", err), done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&mask, n, "channel mask", err), done);
    column_sums(score, weights, rows, count, n, sums);
    sqf_random random = {seed};
    for (size_t j = 0; j < n; j++) {
        scores[j] = (float)channel_score(statistics, score, j, sums[j], &random);
        if (!isfinite(scores[j])) {
            status = sqf_fail(err, SQF_E_VALUE, "activation mask: the score of channel %zu is %g, expected a number", j,
                              (double)scores[j]);
            goto done;
        }
    }
    for (size_t begin = 0; begin < n; begin += spec->bank) {
        const size_t width = n - begin < spec->bank ? n - begin : spec->bank;
        sqf_select_top(scores + begin, width, sqf_bank_high(spec->bank, spec->high_per_bank, width), mask + begin);
    }
    *border = sqf_mask_order(mask, n, channels);
done:
    free(sums);
    free(scores);
    free(mask);
    return status;
}

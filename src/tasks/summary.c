/* Figures with their errors. Both models' columns are resampled together, so that every difference is paired.
 *
 * Perplexity is kept as the mean of negative log-likelihoods until the end: resamples are exponentiated one by one. */
#include "tasks/summary.h"

#include <math.h>

#include "tasks/statistics.h"

enum { COLUMNS = SQF_METRIC_COUNT };

/* All that the columns are looked at with. */
typedef struct sample {
    const double *values; /* [n, width] */
    const double *means;  /* [resamples, width] */
    size_t n, width, resamples;
} sample;

static double scale(size_t metric, double mean)
{
    return metric == SQF_METRIC_PERPLEXITY ? exp(mean) : mean;
}

static double column_mean(const sample *s, size_t column)
{
    double sum = 0;
    for (size_t i = 0; i < s->n; i++) {
        sum += s->values[i * s->width + column];
    }
    return sum / (double)s->n;
}

/* Deviation over the resamples of the figure of column a, less that of column b (COLUMNS * 2: nothing). */
static sqf_status bootstrap_error(const sample *s, size_t metric, size_t a, size_t b, double *error, sqf_error *err)
{
    double *figures;
    SQF_TRY(SQF_ALLOC(&figures, s->resamples, "bootstrap", err));
    for (size_t r = 0; r < s->resamples; r++) {
        const double *mean = s->means + r * s->width;
        figures[r] = scale(metric, mean[a]) - (b < s->width ? scale(metric, mean[b]) : 0);
    }
    *error = sqf_deviation(figures, s->resamples, 1);
    free(figures);
    return SQF_OK;
}

static sqf_status make_figure(const sample *s, size_t metric, size_t column, sqf_task_figure *out, sqf_error *err)
{
    out->value = scale(metric, column_mean(s, column));
    out->analytic_error = sqf_deviation(s->values + column, s->n, s->width) / sqrt((double)s->n);
    if (metric == SQF_METRIC_PERPLEXITY) {
        out->analytic_error *= out->value; /* d exp(x) = exp(x) dx */
    }
    return bootstrap_error(s, metric, column, s->width, &out->error, err);
}

/* How often resampled means of the difference lie on the other side of zero, both sides counted; at least one, since
 * the items themselves are a sample too. */
static double bootstrap_p(const sample *s, size_t a, size_t b)
{
    size_t below = 1, above = 1;
    for (size_t r = 0; r < s->resamples; r++) {
        const double difference = s->means[r * s->width + a] - s->means[r * s->width + b];
        below += difference <= 0;
        above += difference >= 0;
    }
    const double p = 2.0 * (double)(below < above ? below : above) / (double)(s->resamples + 1);
    return p < 1 ? p : 1;
}

static sqf_status make_change(const sample *s, size_t metric, sqf_task_result *result, sqf_error *err)
{
    sqf_task_change *change = &result->change[metric];
    const size_t a = metric, b = COLUMNS + metric;
    change->difference = result->model[metric].value - result->reference[metric].value;
    if (metric == SQF_METRIC_PERPLEXITY) {
        change->p_value = bootstrap_p(s, a, b);
    } else {
        for (size_t i = 0; i < s->n; i++) {
            change->gained += s->values[i * s->width + a] > s->values[i * s->width + b];
            change->lost += s->values[i * s->width + a] < s->values[i * s->width + b];
        }
        change->p_value = sqf_mcnemar(change->gained, change->lost);
    }
    change->significant = change->p_value < 0.05;
    return bootstrap_error(s, metric, a, b, &change->error, err);
}

static void clear_figures(sqf_task_result *result)
{
    for (size_t m = 0; m < COLUMNS; m++) {
        result->model[m] = result->reference[m] = (sqf_task_figure){NAN, NAN, NAN};
        result->change[m] = (sqf_task_change){.difference = NAN, .error = NAN, .p_value = NAN};
    }
}

/* Model and reference side by side: [n, COLUMNS or twice that]. */
static sqf_status join(const double *model, const double *reference, size_t n, double **out, sqf_error *err)
{
    const size_t width = reference ? 2 * COLUMNS : COLUMNS;
    SQF_TRY(SQF_ALLOC(out, n * width, "verdicts", err));
    for (size_t i = 0; i < n; i++) {
        for (size_t m = 0; m < COLUMNS; m++) {
            (*out)[i * width + m] = model[i * COLUMNS + m];
            if (reference) {
                (*out)[i * width + COLUMNS + m] = reference[i * COLUMNS + m];
            }
        }
    }
    return SQF_OK;
}

static sqf_status make_all(const sample *s, bool compared, sqf_task_result *result, sqf_error *err)
{
    for (size_t m = 0; m < COLUMNS; m++) {
        if (isnan(s->values[m])) {
            continue; /* a figure that this kind of task does not have */
        }
        SQF_TRY(make_figure(s, m, m, &result->model[m], err));
        if (compared) {
            SQF_TRY(make_figure(s, m, COLUMNS + m, &result->reference[m], err));
            SQF_TRY(make_change(s, m, result, err));
        }
    }
    return SQF_OK;
}

sqf_status sqf_summarize(const double *model, const double *reference, size_t n, size_t resamples, uint64_t seed,
                         sqf_task_result *result, sqf_error *err)
{
    sample s = {.n = n, .width = reference ? 2 * COLUMNS : COLUMNS, .resamples = resamples};
    double *values = NULL, *means = NULL;
    clear_figures(result);
    sqf_status status = join(model, reference, n, &values, err);
    if (status == SQF_OK) {
        status = sqf_bootstrap_means(values, n, s.width, resamples, seed, &means, err);
    }
    if (status == SQF_OK) {
        s.values = values;
        s.means = means;
        status = make_all(&s, reference != NULL, result, err);
    }
    free(values);
    free(means);
    return status;
}

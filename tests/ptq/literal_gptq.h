/* Algorithm 1 written down literally: double precision, explicit inverse, one row and one column at a time. */
#ifndef SQF_TESTS_LITERAL_GPTQ_H
#define SQF_TESTS_LITERAL_GPTQ_H

#include "algorithm_data.h"

/* a [n, n] symmetric positive definite becomes its inverse (Gauss-Jordan; no pivots are needed). */
static inline void literal_invert(double *a, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        const double pivot = 1.0 / a[k * n + k];
        a[k * n + k] = 1.0;
        for (size_t j = 0; j < n; j++) {
            a[k * n + j] *= pivot;
        }
        for (size_t i = 0; i < n; i++) {
            const double f = a[i * n + k];
            if (i == k) {
                continue;
            }
            a[i * n + k] = 0.0;
            for (size_t j = 0; j < n; j++) {
                a[i * n + j] -= f * a[k * n + j];
            }
        }
    }
}

/* a becomes U, upper triangular, with U^T U = a. */
static inline void literal_cholesky_upper(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            if (j < i) {
                a[i * n + j] = 0.0;
                continue;
            }
            double sum = a[i * n + j];
            for (size_t k = 0; k < i; k++) {
                sum -= a[k * n + i] * a[k * n + j];
            }
            a[i * n + j] = i == j ? sqrt(sum) : sum / a[i * n + i];
        }
    }
}

/* The damped inverse in stored order. */
static inline double *literal_inverse(const float *hessian, size_t n, const int32_t *channels, double damping)
{
    double *a = make_array(n * n, sizeof *a), mean = 0.0;
    for (size_t j = 0; j < n; j++) {
        mean += (double)hessian[j * n + j] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            const size_t from = channels ? (size_t)channels[i] : i, to = channels ? (size_t)channels[j] : j;
            a[i * n + j] = (double)hessian[from * n + to];
        }
        a[i * n + i] = (a[i * n + i] == 0.0 ? 1.0 : a[i * n + i]) + damping * mean;
    }
    literal_invert(a, n);
    return a;
}

/* One row in work. */
typedef struct literal_row {
    const sqf_matrix_job *job;
    const sqf_matrix *shape; /* partitions */
    const double *inverse, *upper;
    const float *diagonal; /* of H, stored order */
    double *w, *score;
    float *x;
    sqf_row out;
} literal_row;

static inline double literal_score(const literal_row *row, size_t j)
{
    const size_t n = row->shape->columns;
    const double w = row->w[j], u = row->upper[j * n + j];
    const size_t channel = row->job->channels ? (size_t)row->job->channels[j] : j;
    if (row->job->spec.low == SQF_TYPE_NONE) {
        switch (row->job->prune) {
        case SQF_PRUNE_SPARSEGPT: return w * w / (u * u);
        case SQF_PRUNE_WANDA: return fabs(w) * (double)row->job->input_norm[channel];
        default: return fabs(w);
        }
    }
    switch (row->job->importance) {
    case SQF_IMPORTANCE_OBS: return w * w / (u * u);
    case SQF_IMPORTANCE_HINV: return w * w / (row->inverse[j * n + j] * row->inverse[j * n + j]);
    default: return fabs(w);
    }
}

/* The k highest of score [begin, end); the lower index wins. */
static inline void literal_top(const literal_row *row, size_t begin, size_t end, size_t k)
{
    memset(row->out.mask + begin, 0, end - begin);
    for (size_t i = 0; i < k; i++) {
        size_t best = SIZE_MAX;
        for (size_t j = begin; j < end; j++) {
            if (!row->out.mask[j] && (best == SIZE_MAX || row->score[j] > row->score[best])) {
                best = j;
            }
        }
        row->out.mask[best] = 1;
    }
}

static inline void literal_masks(const literal_row *row, size_t begin, size_t end)
{
    const sqf_weight_spec *spec = &row->job->spec;
    for (size_t bank = begin; bank < end; bank += spec->bank) {
        const size_t bank_end = bank + spec->bank < end ? bank + spec->bank : end;
        literal_top(row, bank, bank_end, sqf_bank_high(spec->bank, spec->high_per_bank, bank_end - bank));
    }
}

static inline sqf_group_scales literal_scales(const literal_row *row, size_t begin, size_t end, const uint8_t *mask)
{
    return sqf_group_scales_choose(&row->job->spec, row->x + begin, mask, row->diagonal + begin, end - begin,
                                   row->job->clip == SQF_CLIP_MSE);
}

static inline double literal_loss(sqf_type type, double x, float scale)
{
    const double d = x - (double)sqf_type_round(type, (float)x, scale) * (double)scale;
    return d * d;
}

static inline void literal_enter_group(const literal_row *row, size_t group, size_t begin, size_t end)
{
    const sqf_weight_spec *spec = &row->job->spec;
    const size_t n = row->shape->columns;
    sqf_group_scales scales;
    for (size_t j = begin; j < end; j++) {
        row->x[j] = (float)row->w[j];
        row->score[j] = literal_score(row, j);
    }
    if (spec->high == SQF_TYPE_NONE) {
        memset(row->out.mask + begin, 0, end - begin);
        scales = literal_scales(row, begin, end, NULL);
    } else if (spec->low == SQF_TYPE_NONE) {
        memset(row->out.mask + begin, 1, end - begin);
        scales = literal_scales(row, begin, end, row->out.mask + begin);
    } else {
        const bool gain = row->job->importance == SQF_IMPORTANCE_GAIN;
        if (spec->group != 0 && spec->group < spec->bank) { /* masks were chosen on entering the bank */
            scales = literal_scales(row, begin, end, row->out.mask + begin);
            row->out.scale_low[group] = scales.low;
            row->out.scale_high[group] = scales.high;
            return;
        }
        for (size_t j = begin; gain && j < end; j++) {
            row->score[j] = row->w[j] * row->w[j] / (row->upper[j * n + j] * row->upper[j * n + j]);
        }
        literal_masks(row, begin, end);
        scales = literal_scales(row, begin, end, row->out.mask + begin);
        for (size_t j = begin; gain && j < end; j++) {
            row->score[j] =
                (literal_loss(spec->low, row->w[j], scales.low) - literal_loss(spec->high, row->w[j], scales.high)) /
                (row->upper[j * n + j] * row->upper[j * n + j]);
        }
        if (gain) {
            literal_masks(row, begin, end);
            scales = literal_scales(row, begin, end, row->out.mask + begin);
        }
    }
    row->out.scale_low[group] = scales.low;
    row->out.scale_high[group] = scales.high;
    row->out.shift[group] = scales.shift;
}

static inline void literal_enter_bank(const literal_row *row, size_t begin, size_t end)
{
    for (size_t j = begin; j < end; j++) {
        row->score[j] = literal_score(row, j);
    }
    literal_masks(row, begin, end);
}

/* Quantizes row->w [columns], stored order, into row->out. */
static inline void literal_quantize(const literal_row *row)
{
    const sqf_weight_spec *spec = &row->job->spec;
    const size_t n = row->shape->columns;
    for (size_t j = 0; j < n; j++) {
        const size_t group = sqf_partition_find(&row->shape->groups, j);
        const bool inside = spec->high != SQF_TYPE_NONE && spec->group != 0 && spec->group < spec->bank;
        size_t begin, end;
        sqf_partition_range(&row->shape->banks, sqf_partition_find(&row->shape->banks, j), &begin, &end);
        if (inside && j == begin) {
            literal_enter_bank(row, begin, end);
        }
        sqf_partition_range(&row->shape->groups, group, &begin, &end);
        if (j == begin) {
            literal_enter_group(row, group, begin, end);
        }
        sqf_partition_range(&row->shape->banks, sqf_partition_find(&row->shape->banks, j), &begin, &end);
        if (!inside && spec->low == SQF_TYPE_NONE && j == begin) {
            literal_enter_bank(row, begin, end);
        }
        const bool high = row->out.mask[j];
        const float scale = high ? row->out.scale_high[group] : row->out.scale_low[group];
        const sqf_type type = high ? spec->high : spec->low;
        row->out.value[j] = type == SQF_TYPE_NONE ? 0.0f : sqf_type_round(type, (float)row->w[j], scale);
        const double error = (row->w[j] - (double)row->out.value[j] * (double)scale) / row->upper[j * n + j];
        for (size_t i = j + 1; i < n && row->job->compensate == SQF_COMPENSATE_GPTQ; i++) {
            row->w[i] -= error * row->upper[j * n + i];
        }
    }
}

#endif

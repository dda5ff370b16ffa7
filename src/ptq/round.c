/* Rounding to nearest without calibration, straight from a checkpoint's elements to packed rows: each row passes once
 * through the first cache, in the order convert, masks, scales, codes, errors, bits. The results are those of
 * sqf_matrix_quantize, bit for bit. Design and costs: docs/performance.md, quantization speed. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/kernels.h"
#include "ptq/gptq.h"

/* What one thread works with; [columns] but for the scales [groups]. */
typedef struct round_row {
    float *x, *difference;
    uint8_t *mask, *low, *high; /* high elements; codes of the low and of the high grid */
    float *scale_low, *scale_high;
    uint8_t *shift;
} round_row;

/* All that the tasks share. Every task writes its own elements alone. */
typedef struct round_work {
    const sqf_matrix_job *job;
    const sqf_kernels *kernels;
    sqf_matrix *out;
    round_row *rows;       /* [threads] */
    gptq_energy *energies; /* [tasks] */
    float *maxima;         /* [tasks] for the units of fp8 scales */
    size_t *bad;           /* [tasks] index of the first weight that is not finite, SIZE_MAX = none */
} round_work;

bool sqf_matrix_rounds(const sqf_weight_spec *spec, sqf_importance importance, sqf_prune prune, sqf_clip clip)
{
    const bool split = spec->low != SQF_TYPE_NONE && spec->high != SQF_TYPE_NONE;
    const bool ranked = importance == SQF_IMPORTANCE_GAIN || importance == SQF_IMPORTANCE_RANDOM;
    const bool low = spec->low == SQF_TYPE_NONE ? prune != SQF_PRUNE_WANDA : sqf_type_has_scale(spec->low);
    const bool high = spec->high == SQF_TYPE_NONE || sqf_type_has_scale(spec->high);
    return low && high && !(split && ranked) && clip == SQF_CLIP_ABSMAX;
}

static void row_clear(round_row *row)
{
    free(row->x);
    free(row->difference);
    free(row->mask);
    free(row->low);
    free(row->high);
    free(row->scale_low);
    free(row->scale_high);
    free(row->shift);
}

static sqf_status row_create(const sqf_matrix *matrix, round_row *row, sqf_error *err)
{
    const size_t columns = matrix->columns, groups = matrix->group_count;
    SQF_TRY(SQF_ALLOC(&row->x, columns, "a row of weights", err));
    SQF_TRY(SQF_ALLOC(&row->difference, columns, "a row of weights", err));
    SQF_TRY(SQF_ALLOC(&row->mask, columns, "a row's mask", err));
    SQF_TRY(SQF_ALLOC(&row->low, columns, "a row's codes", err));
    SQF_TRY(SQF_ALLOC(&row->high, columns, "a row's codes", err));
    SQF_TRY(SQF_ALLOC(&row->scale_low, groups, "a row's scales", err));
    SQF_TRY(SQF_ALLOC(&row->scale_high, groups, "a row's scales", err));
    return SQF_ALLOC(&row->shift, groups, "a row's shifts", err);
}

/* Row n as floats. */
static void load_row(const round_work *work, size_t n, float *x)
{
    const sqf_matrix_job *job = work->job;
    const size_t columns = job->columns;
    if (job->weights) {
        memcpy(x, job->weights + n * columns, columns * sizeof *x);
        return;
    }
    const uint8_t *row = (const uint8_t *)job->stored + n * columns * sqf_type_storage_bytes(job->stored_type);
    switch (job->stored_type) {
    case SQF_TYPE_BF16: work->kernels->from_bf16(row, columns, x); return;
    case SQF_TYPE_FP16: work->kernels->from_fp16(row, columns, x); return;
    default: memcpy(x, row, columns * sizeof *x); return;
    }
}

/* The k of each bank that are held high: the largest magnitudes, which is what every importance comes to without a
 * factor. */
static void choose_masks(const round_work *work, round_row *row)
{
    const sqf_weight_spec *spec = &work->job->spec;
    const sqf_partition *banks = &work->out->banks;
    const size_t count = sqf_partition_count(banks);
    for (size_t i = 0; i < count; i++) {
        size_t begin, end;
        sqf_partition_range(banks, i, &begin, &end);
        work->kernels->select_magnitudes(row->x + begin, end - begin,
                                         sqf_bank_high(spec->bank, spec->high_per_bank, end - begin),
                                         row->mask + begin);
    }
}

/* What is added to a grid value to make its code; floats do not care. The high plane holds int8 as it is. */
static int32_t code_offset(sqf_type type, bool high)
{
    return high && type == SQF_TYPE_INT8 ? 0 : (int32_t)sqf_type_limits[type];
}

/* Scales, codes and differences of one group. False if one of its weights is not finite. */
static bool round_group(const round_work *work, round_row *row, size_t g)
{
    const sqf_weight_spec *spec = &work->job->spec;
    const sqf_kernels *kernels = work->kernels;
    const bool prune = spec->low == SQF_TYPE_NONE, split = spec->high != SQF_TYPE_NONE && !prune;
    size_t begin, end;
    sqf_partition_range(&work->out->groups, g, &begin, &end);
    const size_t n = end - begin;
    const float *x = row->x + begin;
    float low_max = 0.0f, high_max = 0.0f;
    if (split) {
        kernels->part_maxima(x, row->mask + begin, n, &low_max, &high_max);
    } else {
        *(prune ? &high_max : &low_max) = kernels->absmax(x, n); /* pruned: the scale covers what is dropped too */
    }
    if (!isfinite(low_max) || !isfinite(high_max)) {
        return false;
    }
    const sqf_group_scales scales = sqf_group_scales_from_maxima(spec, work->out->scale_unit, low_max, high_max);
    row->scale_low[g] = scales.low;
    row->scale_high[g] = scales.high;
    row->shift[g] = scales.shift;
    float *difference = row->difference + begin;
    if (prune) {
        memcpy(difference, x, n * sizeof *x);
    } else {
        kernels->round_codes(spec->low, x, n, scales.low, code_offset(spec->low, false), NULL, row->low + begin,
                             difference);
    }
    if (split || prune) {
        kernels->round_codes(spec->high, x, n, scales.high, code_offset(spec->high, true), row->mask + begin,
                             row->high + begin, difference);
    }
    return true;
}

/* Moves the codes whose mask is `wanted` together; returns their number. Without a branch: masks are random bits. */
static size_t gather_codes(uint8_t *codes, const uint8_t *mask, uint8_t wanted, size_t n)
{
    size_t count = 0;
    for (size_t j = 0; j < n; j++) {
        codes[count] = codes[j];
        count += mask[j] == wanted;
    }
    return count;
}

/* Without a branch, for the same reason. */
static void put_sentinels(uint8_t *restrict codes, const uint8_t *restrict mask, uint8_t sentinel, size_t n)
{
    for (size_t j = 0; j < n; j++) {
        const uint8_t keep = (uint8_t)(mask[j] - 1);
        codes[j] = (uint8_t)((codes[j] & keep) | (sentinel & ~keep));
    }
}

/* The planes of row n. Masks and codes are used up. */
static void pack_planes(const round_work *work, round_row *row, size_t n)
{
    sqf_matrix *out = work->out;
    const sqf_weight_spec *spec = &out->spec;
    const size_t columns = out->columns;
    const bool split = spec->high != SQF_TYPE_NONE, bitmask = split && spec->layout == SQF_LAYOUT_BITMASK;
    if (out->low && bitmask) {
        gather_codes(row->low, row->mask, 0, columns);
    } else if (out->low && split) {
        put_sentinels(row->low, row->mask, (uint8_t)sqf_type_sentinel(spec->low), columns);
    }
    if (out->low) {
        sqf_codes_pack(row->low, out->low_count, sqf_type_bits(spec->low), out->low + n * out->low_row_bytes);
    }
    if (split) {
        gather_codes(row->high, row->mask, 1, columns);
        sqf_codes_pack(row->high, out->high_count, sqf_type_bits(spec->high), out->high + n * out->high_row_bytes);
    }
    if (out->mask) {
        sqf_codes_pack(row->mask, columns, 1, out->mask + n * out->mask_row_bytes);
    }
}

static size_t first_not_finite(const float *x, size_t n)
{
    size_t j = 0;
    while (j < n && isfinite(x[j])) {
        j++;
    }
    return j;
}

/* False if a weight of the row is not finite. */
static bool round_one(const round_work *work, round_row *row, size_t n)
{
    load_row(work, n, row->x);
    if (work->job->spec.high != SQF_TYPE_NONE) {
        choose_masks(work, row);
    }
    for (size_t g = 0; g < work->out->group_count; g++) {
        if (!round_group(work, row, g)) {
            return false;
        }
    }
    pack_planes(work, row, n);
    sqf_matrix_pack_scales(work->out, n, row->scale_low, row->scale_high, row->shift);
    return true;
}

static void round_task(void *user, size_t task, unsigned thread)
{
    round_work *work = user;
    round_row *row = &work->rows[thread];
    const size_t rows = work->job->rows, columns = work->job->columns, begin = task * GPTQ_ROWS;
    const size_t end = rows - begin < GPTQ_ROWS ? rows : begin + GPTQ_ROWS;
    gptq_energy *energy = &work->energies[task];
    work->bad[task] = SIZE_MAX;
    for (size_t n = begin; n < end; n++) {
        if (!round_one(work, row, n)) {
            work->bad[task] = n * columns + first_not_finite(row->x, columns);
            return;
        }
        work->kernels->square_sums(row->x, row->difference, columns, &energy->weight, &energy->weight_error);
    }
}

static void maximum_task(void *user, size_t task, unsigned thread)
{
    round_work *work = user;
    round_row *row = &work->rows[thread];
    const size_t rows = work->job->rows, begin = task * GPTQ_ROWS;
    const size_t end = rows - begin < GPTQ_ROWS ? rows : begin + GPTQ_ROWS;
    for (size_t n = begin; n < end; n++) {
        load_row(work, n, row->x);
        work->maxima[task] = fmaxf(work->maxima[task], work->kernels->absmax(row->x, work->job->columns));
    }
}

/* The units of fp8 scales, for the largest weight of the matrix: one more look at it. */
static sqf_status choose_units(sqf_context *context, round_work *work, size_t tasks, sqf_error *err)
{
    const sqf_weight_spec *spec = &work->job->spec;
    if (spec->scale_type != SQF_TYPE_FP8) {
        return SQF_OK; /* 1, as sqf_matrix_create left them */
    }
    SQF_TRY(SQF_ALLOC(&work->maxima, tasks, "blocks of rows", err));
    sqf_pool_run(context->pool, tasks, maximum_task, work);
    float max = 0.0f;
    for (size_t task = 0; task < tasks; task++) {
        max = fmaxf(max, work->maxima[task]);
    }
    work->out->scale_unit[0] = sqf_scale_unit(spec->scale_type, spec->low, max);
    work->out->scale_unit[1] = sqf_scale_unit(spec->scale_type, spec->high, max);
    return SQF_OK;
}

static sqf_status fail_value(const round_work *work, size_t at, sqf_error *err)
{
    const size_t columns = work->job->columns, n = at / columns;
    load_row(work, n, work->rows[0].x);
    return sqf_fail(err, SQF_E_VALUE, "%s: row %zu column %zu: found %g, expected a finite number", work->job->name, n,
                    at % columns, (double)work->rows[0].x[at % columns]);
}

/* Blocks are added in order: the sums do not depend on which thread had which. */
static sqf_matrix_result sum_errors(const round_work *work, size_t tasks)
{
    gptq_energy sum = {0};
    for (size_t task = 0; task < tasks; task++) {
        sum.weight += work->energies[task].weight;
        sum.weight_error += work->energies[task].weight_error;
    }
    return (sqf_matrix_result){.weight_error = sum.weight > 0.0 ? sum.weight_error / sum.weight : 0.0,
                               .output_error = (double)NAN};
}

static sqf_status round_blocks(sqf_context *context, round_work *work, sqf_matrix_result *result, sqf_error *err)
{
    const size_t tasks = sqf_ceil_div(work->job->rows, GPTQ_ROWS);
    const unsigned threads = sqf_pool_threads(context->pool);
    SQF_TRY(SQF_ALLOC(&work->bad, tasks, "blocks of rows", err));
    SQF_TRY(SQF_ALLOC(&work->energies, tasks, "blocks of rows", err));
    SQF_TRY(SQF_ALLOC(&work->rows, threads, "blocks of rows", err));
    for (unsigned i = 0; i < threads; i++) {
        SQF_TRY(row_create(work->out, &work->rows[i], err));
    }
    SQF_TRY(choose_units(context, work, tasks, err));
    sqf_pool_run(context->pool, tasks, round_task, work);
    for (size_t task = 0; task < tasks; task++) {
        if (work->bad[task] != SIZE_MAX) {
            return fail_value(work, work->bad[task], err);
        }
    }
    if (result) {
        *result = sum_errors(work, tasks);
    }
    return SQF_OK;
}

sqf_status sqf_matrix_round(sqf_context *context, const sqf_matrix_job *job, sqf_matrix *out, sqf_matrix_result *result,
                            sqf_error *err)
{
    *out = (sqf_matrix){0};
    if (job->factor || job->hessian || job->channels || job->compensate != SQF_COMPENSATE_NONE ||
        !sqf_matrix_rounds(&job->spec, job->importance, job->prune, job->clip)) {
        return sqf_fail(err, SQF_E_ARG, "%s: more is asked for than rounding to nearest", job->name);
    }
    SQF_TRY(sqf_matrix_create(&job->spec, job->rows, job->columns, job->border, NULL, out, err));
    round_work work = {.job = job, .kernels = context->kernels, .out = out};
    const sqf_status status = round_blocks(context, &work, result, err);
    for (unsigned i = 0; work.rows && i < sqf_pool_threads(context->pool); i++) {
        row_clear(&work.rows[i]);
    }
    free(work.rows);
    free(work.energies);
    free(work.maxima);
    free(work.bad);
    if (status != SQF_OK) {
        sqf_matrix_clear(out);
    }
    return status;
}

/* What calibration learns about one input: its Hessian and, for each channel, sums and largest magnitude. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include <cblas.h>

#include "base/memory.h"
#include "ptq/algorithm.h"

/* Tiles of the Hessian. Their size follows from the channels alone: small enough that a small model has several, large
 * enough that a large one multiplies at full speed. */
enum { TILE_SMALL = 128, TILE_LARGE = 512, TILE_LARGE_FROM = 2048 };
/* Channels that one task sums up. */
enum { STRIP = 256 };

/* One call's work: `tile_count` squared tasks for the Hessian, then one for each strip of channels. */
typedef struct statistics_work {
    sqf_statistics *statistics;
    const float *x;
    size_t tokens;
    size_t tile, tile_count;
    const float *factors;
} statistics_work;

static size_t tile_size(size_t channels)
{
    return channels >= TILE_LARGE_FROM ? TILE_LARGE : TILE_SMALL;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

sqf_status sqf_statistics_create(size_t channels, bool hessian, sqf_statistics *out, sqf_error *err)
{
    *out = (sqf_statistics){.channels = channels};
    size_t square = 0;
    if (hessian && !sqf_mul_size(&square, channels, channels)) {
        return sqf_fail(err, SQF_E_SHAPE, "Hessian of %zu channels: its size does not fit this machine", channels);
    }
    sqf_status status;
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->max_abs, channels, "channel statistics", err), failed);
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->lowest, channels, "channel statistics", err), failed);
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->largest, channels, "channel statistics", err), failed);
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->sum_abs, channels, "channel statistics", err), failed);
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->sum, channels, "channel statistics", err), failed);
    SQF_TRY_GOTO(status, SQF_ALLOC(&out->sum_square, channels, "channel statistics", err), failed);
    if (hessian) {
        SQF_TRY_GOTO(status, SQF_ALLOC(&out->hessian, square, "Hessian", err), failed);
    }
    return SQF_OK;
failed:
    sqf_statistics_clear(out);
    return status;
}

void sqf_statistics_clear(sqf_statistics *statistics)
{
    free(statistics->hessian);
    free(statistics->max_abs);
    free(statistics->lowest);
    free(statistics->largest);
    free(statistics->sum_abs);
    free(statistics->sum);
    free(statistics->sum_square);
    free(statistics->sample);
    *statistics = (sqf_statistics){0};
}

sqf_status sqf_statistics_keep(sqf_statistics *statistics, size_t room, uint64_t span, sqf_error *err)
{
    size_t floats;
    statistics->sample_room = span < room ? (size_t)span : room;
    statistics->sample_span = span;
    if (!sqf_mul_size(&floats, statistics->sample_room, statistics->channels)) {
        return sqf_fail(err, SQF_E_SHAPE, "a sample of %zu tokens of %zu channels does not fit this machine",
                        statistics->sample_room, statistics->channels);
    }
    return SQF_ALLOC(&statistics->sample, floats, "a sample of calibration tokens", err);
}

static sqf_status copy_arrays(const sqf_statistics *from, sqf_statistics *to, sqf_error *err)
{
    const size_t n = from->channels;
    to->tokens = from->tokens;
    if (from->hessian) {
        memcpy(to->hessian, from->hessian, n * n * sizeof *to->hessian);
    }
    memcpy(to->max_abs, from->max_abs, n * sizeof *to->max_abs);
    memcpy(to->lowest, from->lowest, n * sizeof *to->lowest);
    memcpy(to->largest, from->largest, n * sizeof *to->largest);
    memcpy(to->sum_abs, from->sum_abs, n * sizeof *to->sum_abs);
    memcpy(to->sum, from->sum, n * sizeof *to->sum);
    memcpy(to->sum_square, from->sum_square, n * sizeof *to->sum_square);
    if (!from->sample) {
        return SQF_OK;
    }
    SQF_TRY(sqf_statistics_keep(to, from->sample_room, from->sample_span, err));
    to->sample_tokens = from->sample_tokens;
    memcpy(to->sample, from->sample, from->sample_tokens * n * sizeof *to->sample);
    return SQF_OK;
}

sqf_status sqf_statistics_copy(const sqf_statistics *from, sqf_statistics *to, sqf_error *err)
{
    SQF_TRY(sqf_statistics_create(from->channels, from->hessian != NULL, to, err));
    const sqf_status status = copy_arrays(from, to, err);
    if (status != SQF_OK) {
        sqf_statistics_clear(to);
    }
    return status;
}

/* Token i of the span is kept where i * room / span steps to the next whole number. */
bool sqf_statistics_keeps(const sqf_statistics *s, uint64_t place)
{
    if (s->sample_tokens == s->sample_room) {
        return false;
    }
    const double step = (double)s->sample_room / (double)s->sample_span;
    return floor((double)(place + 1) * step) > floor((double)place * step);
}

static void keep_tokens(sqf_statistics *s, const float *x, size_t tokens)
{
    for (size_t t = 0; t < tokens; t++) {
        if (sqf_statistics_keeps(s, s->tokens + t)) {
            memcpy(s->sample + s->sample_tokens++ * s->channels, x + t * s->channels, s->channels * sizeof *x);
        }
    }
}

/* Adds x_I^T x_J to tile (I, J) of the upper triangle. */
static void add_tile(const statistics_work *work, size_t row, size_t column)
{
    const size_t channels = work->statistics->channels;
    const size_t i = row * work->tile, j = column * work->tile;
    const int height = (int)smaller(work->tile, channels - i), width = (int)smaller(work->tile, channels - j);
    const int tokens = (int)work->tokens, stride = (int)channels;
    float *tile = work->statistics->hessian + i * channels + j;
    if (row == column) {
        cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, width, tokens, 1.0f, work->x + j, stride, 1.0f, tile,
                    stride);
    } else {
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, height, width, tokens, 1.0f, work->x + i, stride,
                    work->x + j, stride, 1.0f, tile, stride);
    }
}

static void add_strip(const statistics_work *work, size_t begin, size_t end)
{
    sqf_statistics *s = work->statistics;
    for (size_t t = 0; t < work->tokens; t++) {
        const float *x = work->x + t * s->channels;
        for (size_t j = begin; j < end; j++) {
            const double value = (double)x[j], magnitude = fabs(value);
            s->max_abs[j] = fabsf(x[j]) > s->max_abs[j] ? fabsf(x[j]) : s->max_abs[j];
            s->lowest[j] = x[j] < s->lowest[j] ? x[j] : s->lowest[j];
            s->largest[j] = x[j] > s->largest[j] ? x[j] : s->largest[j];
            s->sum_abs[j] += magnitude;
            s->sum[j] += value;
            s->sum_square[j] += value * value;
        }
    }
}

static void add_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const statistics_work *work = user;
    const size_t tiles = work->tile_count * work->tile_count;
    if (task >= tiles) {
        const size_t begin = (task - tiles) * STRIP;
        add_strip(work, begin, smaller(begin + STRIP, work->statistics->channels));
    } else if (task / work->tile_count <= task % work->tile_count) {
        add_tile(work, task / work->tile_count, task % work->tile_count);
    }
}

sqf_status sqf_statistics_add(sqf_context *context, sqf_statistics *statistics, const float *x, size_t tokens,
                              sqf_error *err)
{
    const size_t channels = statistics->channels;
    if (tokens > INT_MAX) {
        return sqf_fail(err, SQF_E_SHAPE, "calibration: %zu tokens at once, expected at most %d", tokens, INT_MAX);
    }
    statistics_work work = {.statistics = statistics, .x = x, .tokens = tokens, .tile = tile_size(channels)};
    work.tile_count = statistics->hessian ? sqf_ceil_div(channels, work.tile) : 0;
    sqf_pool_run(context->pool, work.tile_count * work.tile_count + sqf_ceil_div(channels, STRIP), add_task, &work);
    keep_tokens(statistics, x, tokens);
    statistics->tokens += tokens;
    return sqf_statistics_check(statistics->sum_square, channels, err);
}

sqf_status sqf_statistics_check(const double *sum_square, size_t channels, sqf_error *err)
{
    for (size_t j = 0; j < channels; j++) {
        /* squares of floats cannot overflow a double, so only a NaN or an infinity of the input shows here */
        if (!isfinite(sum_square[j])) {
            return sqf_fail(err, SQF_E_VALUE, "calibration: activation channel %zu holds a NaN or an infinity", j);
        }
    }
    return SQF_OK;
}

/* Scales one tile of the upper triangle and writes its mirror image. */
static void finish_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const statistics_work *work = user;
    const size_t row = task / work->tile_count, column = task % work->tile_count;
    if (row > column) {
        return;
    }
    const size_t channels = work->statistics->channels;
    float *h = work->statistics->hessian;
    const double scale = 2.0 / (double)work->statistics->tokens;
    const size_t row_end = smaller((row + 1) * work->tile, channels);
    const size_t column_end = smaller((column + 1) * work->tile, channels);
    for (size_t i = row * work->tile; i < row_end; i++) {
        for (size_t j = row == column ? i : column * work->tile; j < column_end; j++) {
            const float value = (float)(scale * (double)h[i * channels + j]);
            h[i * channels + j] = value;
            h[j * channels + i] = value;
        }
    }
}

void sqf_statistics_finish(sqf_context *context, sqf_statistics *statistics)
{
    if (!statistics->hessian || statistics->tokens == 0) {
        return;
    }
    /* small tiles: a tile and its mirror image are read and written together */
    statistics_work work = {.statistics = statistics, .tile = TILE_SMALL};
    work.tile_count = sqf_ceil_div(statistics->channels, work.tile);
    sqf_pool_run(context->pool, work.tile_count * work.tile_count, finish_task, &work);
}

static void smooth_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const statistics_work *work = user;
    const size_t channels = work->statistics->channels;
    const size_t end = smaller((task + 1) * STRIP, channels);
    for (size_t i = task * STRIP; i < end; i++) {
        float *row = work->statistics->hessian + i * channels;
        for (size_t j = 0; j < channels; j++) {
            /* the product of the factors is symmetric, so the result is too */
            row[j] /= work->factors[i] * work->factors[j];
        }
    }
}

void sqf_statistics_smooth(sqf_context *context, sqf_statistics *statistics, const float *factors)
{
    for (size_t j = 0; j < statistics->channels; j++) {
        const double factor = (double)factors[j];
        statistics->max_abs[j] /= factors[j];
        statistics->lowest[j] /= factors[j];
        statistics->largest[j] /= factors[j];
        statistics->sum_abs[j] /= factor;
        statistics->sum[j] /= factor;
        statistics->sum_square[j] /= factor * factor;
    }
    for (size_t t = 0; t < statistics->sample_tokens; t++) {
        for (size_t j = 0; j < statistics->channels; j++) {
            statistics->sample[t * statistics->channels + j] /= factors[j];
        }
    }
    if (statistics->hessian) {
        statistics_work work = {.statistics = statistics, .factors = factors};
        sqf_pool_run(context->pool, sqf_ceil_div(statistics->channels, STRIP), smooth_task, &work);
    }
}

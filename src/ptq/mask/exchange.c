/* Exchanging channels of a mask within its banks.
 *
 * The low part of a token is rounded in steps of its largest channel, so a channel's place has two prices: its own
 * error, and what it adds to all others where it is the largest. Both are predicted for every channel from one look at
 * the sample; swaps that promise to save are made together, and kept if the measured error falls, else the better half
 * of them is tried. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "format/partition.h"
#include "format/type.h"
#include "ptq/mask/mask.h"

/* Measurements at most, tokens and channels of one task. */
enum { MEASUREMENTS = 24, TOKENS = 32, STRIP = 64 };

typedef struct token_state {
    float largest, second; /* magnitudes of the low part */
    size_t channel;        /* that has the largest */
    double error;          /* sum over the low channels of norm * error^2 */
} token_state;

typedef struct swap {
    size_t low, high; /* channels that trade places */
    double saving;
} swap;

typedef struct exchange {
    const sqf_output_error *measure;
    const sqf_act_spec *act;
    size_t channels, tokens;
    double *norm;          /* [channels] ||W_:,j||^2 */
    token_state *state;    /* [tokens] */
    double *price;         /* [channels] what a channel costs in the low part: one that is there, one that would come */
    uint8_t *mask, *trial; /* [channels] 1 = high */
    int32_t *order;
    swap *swaps; /* [channels] */
    size_t swap_count;
} exchange;

static double squared_error(const exchange *work, float x, float largest)
{
    const float most = sqf_type_max(work->act->low);
    const float scale = most > 0.0f ? work->act->clip * largest / most : 1.0f;
    const double error = (double)(sqf_type_round(work->act->low, x, scale) * scale - x);
    return error * error;
}

/* The low part of each token. */
static void token_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    exchange *work = user;
    const size_t n = work->channels;
    for (size_t t = task * TOKENS; t < (task + 1) * TOKENS && t < work->tokens; t++) {
        const float *x = sqf_output_error_token(work->measure, t);
        token_state state = {0};
        for (size_t j = 0; j < n; j++) {
            const float magnitude = work->mask[j] ? 0.0f : fabsf(x[j]);
            if (magnitude > state.largest) {
                state.second = state.largest;
                state.largest = magnitude;
                state.channel = j;
            } else if (magnitude > state.second) {
                state.second = magnitude;
            }
        }
        for (size_t j = 0; j < n; j++) {
            state.error += work->mask[j] ? 0.0 : work->norm[j] * squared_error(work, x[j], state.largest);
        }
        work->state[t] = state;
    }
}

/* Errors grow with the square of the scale. */
static double grown(float from, float to)
{
    return from > 0.0f ? (double)(to / from) * (double)(to / from) : 1.0;
}

/* What one channel costs the low part of one token. */
static double channel_price(const exchange *work, const token_state *state, float x, size_t j)
{
    const float largest = fmaxf(state->largest, fabsf(x));
    const double own = work->norm[j] * squared_error(work, x, largest);
    if (work->mask[j]) {
        return own + state->error * (grown(state->largest, largest) - 1.0);
    }
    return state->channel == j ? own + (state->error - own) * (1.0 - grown(state->largest, state->second)) : own;
}

/* The channels of a strip over all tokens. */
static void price_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    exchange *work = user;
    const size_t begin = task * STRIP, end = begin + STRIP < work->channels ? begin + STRIP : work->channels;
    memset(work->price + begin, 0, (end - begin) * sizeof *work->price);
    for (size_t t = 0; t < work->tokens; t++) {
        const float *x = sqf_output_error_token(work->measure, t);
        for (size_t j = begin; j < end; j++) {
            work->price[j] += channel_price(work, &work->state[t], x[j], j);
        }
    }
}

static int compare_swaps(const void *a, const void *b)
{
    const swap *left = a, *right = b;
    if (left->saving != right->saving) {
        return left->saving > right->saving ? -1 : 1;
    }
    return left->low < right->low ? -1 : left->low > right->low;
}

/* Dearest channel of a bank's low part that is not taken yet, or cheapest of its high part; SIZE_MAX if none. */
static size_t next_channel(const exchange *work, size_t begin, size_t end, bool high)
{
    size_t best = SIZE_MAX;
    for (size_t j = begin; j < end; j++) {
        if (work->trial[j] != high) {
            continue;
        }
        const bool better =
            best == SIZE_MAX || (high ? work->price[j] < work->price[best] : work->price[j] > work->price[best]);
        best = better ? j : best;
    }
    return best;
}

/* Swaps that promise to save, the best first. trial marks the channels that are taken by 2. */
static void find_swaps(exchange *work)
{
    const size_t bank = work->act->bank;
    memcpy(work->trial, work->mask, work->channels);
    work->swap_count = 0;
    for (size_t begin = 0; begin < work->channels; begin += bank) {
        const size_t end = work->channels - begin < bank ? work->channels : begin + bank;
        for (;;) {
            const size_t low = next_channel(work, begin, end, false), high = next_channel(work, begin, end, true);
            if (low == SIZE_MAX || high == SIZE_MAX || work->price[low] <= work->price[high]) {
                break;
            }
            work->swaps[work->swap_count++] = (swap){low, high, work->price[low] - work->price[high]};
            work->trial[low] = work->trial[high] = 2;
        }
    }
    qsort(work->swaps, work->swap_count, sizeof *work->swaps, compare_swaps);
}

/* The mask with the first `count` swaps. */
static sqf_status try_swaps(exchange *work, size_t count, double *error, sqf_error *err)
{
    memcpy(work->trial, work->mask, work->channels);
    for (size_t i = 0; i < count; i++) {
        work->trial[work->swaps[i].low] = 1;
        work->trial[work->swaps[i].high] = 0;
    }
    const size_t border = sqf_mask_order(work->trial, work->channels, work->order);
    return sqf_output_error_measure(work->measure, work->act, work->order, border, error, err);
}

static sqf_status improve(exchange *work, double *error, sqf_error *err)
{
    sqf_pool *pool = work->measure->input->context->pool;
    size_t left = MEASUREMENTS;
    bool better = true;
    while (better && left > 0) {
        sqf_pool_run(pool, sqf_ceil_div(work->tokens, TOKENS), token_task, work);
        sqf_pool_run(pool, sqf_ceil_div(work->channels, STRIP), price_task, work);
        find_swaps(work);
        better = false;
        for (size_t count = work->swap_count; count > 0 && left > 0 && !better; count /= 2, left--) {
            double tried;
            SQF_TRY(try_swaps(work, count, &tried, err));
            better = tried < *error;
            if (better) {
                *error = tried;
                memcpy(work->mask, work->trial, work->channels);
            }
        }
    }
    return SQF_OK;
}

static void find_norms(exchange *work)
{
    for (size_t n = 0; n < work->measure->outputs; n++) {
        for (size_t j = 0; j < work->channels; j++) {
            const double w = (double)work->measure->weights[n * work->channels + j];
            work->norm[j] += w * w;
        }
    }
}

static sqf_status exchange_create(exchange *work, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(&work->norm, work->channels, "a mask", err));
    SQF_TRY(SQF_ALLOC(&work->state, work->tokens, "a mask", err));
    SQF_TRY(SQF_ALLOC(&work->price, work->channels, "a mask", err));
    SQF_TRY(SQF_ALLOC(&work->mask, work->channels, "a mask", err));
    SQF_TRY(SQF_ALLOC(&work->trial, work->channels, "a mask", err));
    SQF_TRY(SQF_ALLOC(&work->order, work->channels, "a mask", err));
    return SQF_ALLOC(&work->swaps, work->channels, "a mask", err);
}

sqf_status sqf_mask_exchange(const sqf_output_error *measure, const sqf_act_spec *act, int32_t *order, size_t border,
                             double *error, sqf_error *err)
{
    const sqf_statistics *statistics = measure->input->statistics;
    exchange work = {.measure = measure, .act = act, .channels = statistics->channels, .tokens = measure->tokens};
    sqf_status status = exchange_create(&work, err);
    if (status == SQF_OK) {
        find_norms(&work);
        for (size_t j = border; j < work.channels; j++) {
            work.mask[order[j]] = 1;
        }
        status = improve(&work, error, err);
        sqf_mask_order(work.mask, work.channels, order); /* also after a failure: the best that was found */
    }
    free(work.norm);
    free(work.state);
    free(work.price);
    free(work.mask);
    free(work.trial);
    free(work.order);
    free(work.swaps);
    return status;
}

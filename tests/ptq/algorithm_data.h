/* Random matrices and correlated inputs for the tests of the algorithms, and a context to run them in. */
#ifndef SQF_TESTS_ALGORITHM_DATA_H
#define SQF_TESTS_ALGORITHM_DATA_H

#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "ptq/algorithm.h"

static inline sqf_context *make_context(unsigned threads)
{
    sqf_context_options options = sqf_context_options_default();
    options.threads = threads;
    sqf_context *context;
    sqf_error err = {0};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    return context;
}

static inline void *make_array(size_t count, size_t size)
{
    void *array;
    sqf_error err = {0};
    assert_ok(sqf_alloc_bytes(&array, count, size, "test data", &err), &err);
    return array;
}

static inline float *make_floats(size_t n)
{
    return make_array(n, sizeof(float));
}

/* About normal: the sum of four uniform numbers. */
static inline float random_normal(sqf_random *random)
{
    double sum = 0.0;
    for (int i = 0; i < 4; i++) {
        sum += sqf_random_unit(random) - 0.5;
    }
    return (float)(sum * 1.7320508);
}

/* Weights with a few large elements, as models have them. */
static inline float *make_weights(sqf_random *random, size_t rows, size_t columns)
{
    float *w = make_floats(rows * columns);
    for (size_t i = 0; i < rows * columns; i++) {
        w[i] = 0.05f * random_normal(random) * (sqf_random_below(random, 40) == 0 ? 6.0f : 1.0f);
    }
    return w;
}

/* Inputs [tokens, channels]: neighbours are correlated, and channels differ in size. */
static inline float *make_inputs(sqf_random *random, size_t tokens, size_t channels)
{
    float *x = make_floats(tokens * channels);
    for (size_t t = 0; t < tokens; t++) {
        float carried = 0.0f;
        for (size_t j = 0; j < channels; j++) {
            carried = 0.8f * carried + random_normal(random);
            x[t * channels + j] = carried * (0.3f + 2.0f * (float)(j % 7 == 3));
        }
    }
    return x;
}

static inline sqf_statistics make_statistics(sqf_context *context, const float *x, size_t tokens, size_t channels)
{
    sqf_statistics statistics;
    sqf_error err = {0};
    assert_ok(sqf_statistics_create(channels, true, &statistics, &err), &err);
    assert_ok(sqf_statistics_add(context, &statistics, x, tokens, &err), &err);
    sqf_statistics_finish(context, &statistics);
    return statistics;
}

#endif

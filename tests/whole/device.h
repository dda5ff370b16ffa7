/* What the tests of the device share: one model on the CPU and on the device, through the public headers. The device is
 * the emulation, which executes the CUDA backend's own kernels on the host; SQF_CUDA_LIBRARY names it. */
#ifndef SQF_TESTS_WHOLE_DEVICE_H
#define SQF_TESTS_WHOLE_DEVICE_H

#include "check.h"

#include <math.h>

#include <sqf/model.h>

#define DEMO   SQF_SOURCE_DIR "/models/demo"
#define GOLDEN SQF_SOURCE_DIR "/tests/golden/models"

enum { CPU = 0, GPU = 1, PLACES = 2, PATH_ROOM = 512 };

/* True if there is a device to test with. */
static inline bool device_exists(void)
{
    return getenv("SQF_CUDA_LIBRARY") != NULL;
}

static inline sqf_context *open_context(const char *device)
{
    sqf_error err;
    sqf_context *context;
    const sqf_context_options options = {.threads = 2, .device = device};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    return context;
}

/* A model at each place. */
typedef struct pair {
    sqf_context *context[PLACES];
    sqf_model *model[PLACES];
    size_t vocabulary;
} pair;

static inline void open_pair(pair *p, const char *directory)
{
    static const char *const devices[PLACES] = {"cpu", "cuda"};
    sqf_error err;
    for (int i = 0; i < PLACES; i++) {
        p->context[i] = open_context(devices[i]);
        assert_ok(sqf_model_open(p->context[i], directory, &p->model[i], &err), &err);
    }
    p->vocabulary = sqf_model_info_get(p->model[CPU]).vocabulary;
}

static inline void close_pair(pair *p)
{
    for (int i = 0; i < PLACES; i++) {
        sqf_model_destroy(p->model[i]);
        sqf_context_destroy(p->context[i]);
    }
}

static inline sqf_session *open_session(const sqf_model *model, size_t positions, sqf_kv_type kv)
{
    sqf_error err;
    sqf_session *session;
    assert_ok(sqf_session_create_kv(model, positions, kv, &session, &err), &err);
    return session;
}

/* The largest difference of n numbers in units of the largest one of `want`. */
static inline double distance(const float *found, const float *want, size_t n)
{
    double most = 0, largest = 1e-30;
    for (size_t i = 0; i < n; i++) {
        const double off = fabs((double)found[i] - (double)want[i]);
        most = off > most || isnan(off) ? off : most;
        largest = fabs((double)want[i]) > largest ? fabs((double)want[i]) : largest;
    }
    return most / largest;
}

#endif

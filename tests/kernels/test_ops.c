/* Norms, rotary embedding and logits against double precision, at every level that this machine has. */
#include "check.h"

#include <math.h>

#include "base/random.h"
#include "format/type.h"
#include "kernels/ops.h"

/* Largest difference relative to what float32 can keep; so written that NaN is the largest. */
static void assert_close(double found, double want, double allowed, const char *what, size_t at)
{
    if (!(fabs(found - want) <= allowed)) {
        fail_msg("%s [%zu]: %.9g, expected %.9g +- %.3g", what, at, found, want, allowed);
    }
}

static float random_float(sqf_random *random)
{
    return (float)(sqf_random_unit(random) * 4.0 - 2.0);
}

static float *random_floats(sqf_random *random, size_t n)
{
    float *x = malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = random_float(random);
    }
    return x;
}

static sqf_context *open_context(const char *level, unsigned threads)
{
    sqf_error err;
    sqf_context *context;
    const sqf_context_options options = {.threads = threads, .cpu = level};
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    return context;
}

/* Runs `check` at every level with 1, 2 and 3 threads; its output of n floats must have the same bytes each time. */
typedef void (*operation)(sqf_context *context, const void *data, float *out);

static void run_everywhere(operation run, const void *data, size_t n, float *out)
{
    float *again = malloc((n ? n : 1) * sizeof *again);
    for (size_t i = 0; sqf_cpu_levels()[i]; i++) {
        for (unsigned threads = 1; threads <= 3; threads++) {
            sqf_context *context = open_context(sqf_cpu_levels()[i], threads);
            float *to = i == 0 && threads == 1 ? out : again;
            run(context, data, to);
            assert_memory_equal(to, out, n * sizeof *out);
            sqf_context_destroy(context);
        }
    }
    free(again);
}

typedef struct norm_data {
    const float *x, *gain;
    size_t rows, n;
} norm_data;

static void run_rmsnorm(sqf_context *context, const void *data, float *out)
{
    const norm_data *d = data;
    sqf_rmsnorm(context, d->x, d->gain, 1e-5f, d->rows, d->n, out);
}

static void rmsnorm_agrees_with_double(void **state)
{
    (void)state;
    sqf_random random = {test_seed("rmsnorm", 1)};
    for (int round = 0; round < 20; round++) {
        const size_t rows = 1 + sqf_random_below(&random, 40), n = 1 + sqf_random_below(&random, 700);
        float *x = random_floats(&random, rows * n), *gain = random_floats(&random, n);
        float *y = malloc(rows * n * sizeof *y);
        const norm_data data = {x, gain, rows, n};
        run_everywhere(run_rmsnorm, &data, rows * n, y);
        for (size_t r = 0; r < rows; r++) {
            double squares = 0.0;
            for (size_t i = 0; i < n; i++) {
                squares += (double)x[r * n + i] * (double)x[r * n + i];
            }
            for (size_t i = 0; i < n; i++) {
                const double want = (double)gain[i] * (double)x[r * n + i] / sqrt(squares / (double)n + (double)1e-5f);
                assert_close((double)y[r * n + i], want, 2e-6 * fabs(want) + 1e-12, "rmsnorm", r * n + i);
            }
        }
        free(x);
        free(gain);
        free(y);
    }
}

typedef struct pair_data {
    const float *a, *b;
    size_t n;
} pair_data;

static void run_silu(sqf_context *context, const void *data, float *out)
{
    const pair_data *d = data;
    sqf_silu_mul(context, d->a, d->b, d->n, out);
}

static void silu_agrees_with_double(void **state)
{
    (void)state;
    sqf_random random = {test_seed("silu", 2)};
    static const size_t lengths[] = {0, 1, 15, 16, 17, 1000, 40000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const size_t n = lengths[i];
        float *gate = random_floats(&random, n), *up = random_floats(&random, n);
        for (size_t k = 0; k < n; k++) {
            gate[k] *= k % 3 == 0 ? 60.0f : k % 3 == 1 ? 1.0f : 1e-20f;
        }
        float *y = malloc((n + 1) * sizeof *y);
        const pair_data data = {gate, up, n};
        run_everywhere(run_silu, &data, n, y);
        for (size_t k = 0; k < n; k++) {
            const double want = (double)gate[k] / (1.0 + exp(-(double)gate[k])) * (double)up[k];
            assert_close((double)y[k], want, 5e-7 * fabs(want) + 1e-34, "silu", k);
        }
        free(gate);
        free(up);
        free(y);
    }
}

static void run_add(sqf_context *context, const void *data, float *out)
{
    const pair_data *d = data;
    memcpy(out, d->a, d->n * sizeof *out);
    sqf_add(context, out, d->b, d->n);
}

static void add_is_exact(void **state)
{
    (void)state;
    sqf_random random = {test_seed("add", 3)};
    const size_t n = 33333;
    float *a = random_floats(&random, n), *b = random_floats(&random, n), *y = malloc(n * sizeof *y);
    const pair_data data = {a, b, n};
    run_everywhere(run_add, &data, n, y);
    for (size_t i = 0; i < n; i++) {
        assert_true(y[i] == a[i] + b[i]);
    }
    free(a);
    free(b);
    free(y);
}

typedef struct rope_data {
    const float *x, *cosine, *sine;
    size_t tokens, heads, dim;
} rope_data;

static void run_rope(sqf_context *context, const void *data, float *out)
{
    const rope_data *d = data;
    memcpy(out, d->x, d->tokens * d->heads * d->dim * sizeof *out);
    sqf_rope_apply(context, out, d->cosine, d->sine, d->tokens, d->heads, d->dim);
}

static void rope_turns_halves_of_a_head(void **state)
{
    (void)state;
    sqf_random random = {test_seed("rope", 4)};
    static const size_t dims[] = {2, 6, 64, 80, 128};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        const size_t tokens = 37, heads = 3, dim = dims[i], half = dim / 2, n = tokens * heads * dim;
        float *x = random_floats(&random, n), *cosine = random_floats(&random, tokens * half);
        float *sine = random_floats(&random, tokens * half), *y = malloc(n * sizeof *y);
        const rope_data data = {x, cosine, sine, tokens, heads, dim};
        run_everywhere(run_rope, &data, n, y);
        for (size_t at = 0; at < n; at++) {
            const size_t t = at / (heads * dim), j = at % dim, angle = t * half + j % half;
            const double other = j < half ? -(double)x[at + half] : (double)x[at - half];
            const double want = (double)x[at] * (double)cosine[angle] + other * (double)sine[angle];
            assert_close((double)y[at], want, 2e-6, "rope", at);
        }
        free(x);
        free(cosine);
        free(sine);
        free(y);
    }
}

static void every_half_converts_exactly(void **state)
{
    (void)state;
    /* An odd address, as mapped files have them. */
    uint8_t *stored = malloc(2 * 65536 + 1);
    float *y = malloc(65536 * sizeof *y);
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const uint16_t half = (uint16_t)bits;
        memcpy(stored + 1 + 2 * bits, &half, sizeof half);
    }
    static const sqf_type types[] = {SQF_TYPE_BF16, SQF_TYPE_FP16};
    for (int i = 0; i < 2; i++) {
        sqf_to_float(types[i], stored + 1, 65536, y);
        for (uint32_t bits = 0; bits < 65536; bits++) {
            const float want = i == 0 ? sqf_bf16_to_float((uint16_t)bits) : sqf_fp16_to_float((uint16_t)bits);
            if (isnan(want)) {
                assert_true(isnan(y[bits]));
            } else {
                assert_memory_equal(&y[bits], &want, sizeof want);
            }
        }
        sqf_to_float(types[i], stored + 1, 3, y);
    }
    const float floats[] = {1.5f, -0.0f, INFINITY};
    sqf_to_float(SQF_TYPE_FP32, floats, 3, y);
    assert_memory_equal(y, floats, sizeof floats);
    free(stored);
    free(y);
}

static void log_softmax_sums_to_one(void **state)
{
    (void)state;
    sqf_random random = {test_seed("log_softmax", 7)};
    float *logits = random_floats(&random, 1000);
    double *all = malloc(1000 * sizeof *all), total = 0.0;
    logits[3] = 500.0f;
    logits[4] = 499.0f;
    const double target = sqf_log_softmax(logits, 1000, 4, all);
    for (size_t i = 0; i < 1000; i++) {
        total += exp(all[i]);
    }
    assert_close(total, 1.0, 1e-12, "sum of probabilities", 0);
    assert_true(target == all[4]);
    assert_close(target, -1.0 - log1p(exp(-1.0)), 1e-12, "log-probability", 4);
    assert_true(sqf_log_softmax(logits, 1000, 4, NULL) == target);
    free(logits);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_agrees_with_double),
        cmocka_unit_test(silu_agrees_with_double),
        cmocka_unit_test(add_is_exact),
        cmocka_unit_test(rope_turns_halves_of_a_head),
        cmocka_unit_test(every_half_converts_exactly),
        cmocka_unit_test(log_softmax_sums_to_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

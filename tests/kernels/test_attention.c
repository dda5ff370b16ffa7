/* Attention over every type of KV cache against double precision, at every level that this machine has. */
#include "check.h"

#include <math.h>
#include <stdint.h>

#include "base/memory.h"
#include "base/random.h"
#include "format/type.h"
#include "kernels/attention.h"

static const sqf_kv_type types[] = {SQF_KV_F32, SQF_KV_F16, SQF_KV_INT8};

static float *random_floats(sqf_random *random, size_t n, float spread)
{
    float *x = malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = spread * (float)(sqf_random_unit(random) * 4.0 - 2.0);
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

/* Memory for `positions`, full of NaN: whoever reads what was not stored shows it. */
static sqf_kv_view make_cache(sqf_kv_type type, size_t positions, size_t kv_heads, size_t dim)
{
    sqf_kv_view kv = {.type = type, .kv_heads = kv_heads, .head_dim = dim};
    kv.capacity = sqf_ceil_div(positions, SQF_KV_PANEL) * SQF_KV_PANEL;
    const size_t slots = kv_heads * kv.capacity, element = sqf_kv_element(type);
    kv.key = malloc(slots * dim * element);
    kv.value = malloc(slots * sqf_kv_value_width(dim) * element);
    kv.key_scales = malloc(slots * sizeof(float));
    kv.value_scales = malloc(slots * sizeof(float));
    memset(kv.key, 0xff, slots * dim * element);
    memset(kv.value, 0xff, slots * sqf_kv_value_width(dim) * element);
    memset(kv.key_scales, 0xff, slots * sizeof(float));
    memset(kv.value_scales, 0xff, slots * sizeof(float));
    return kv;
}

static void free_cache(sqf_kv_view *kv)
{
    free(kv->key);
    free(kv->value);
    free(kv->key_scales);
    free(kv->value_scales);
}

static double element(sqf_kv_type type, const void *from, size_t at)
{
    return type == SQF_KV_F32   ? (double)((const float *)from)[at]
           : type == SQF_KV_F16 ? (double)sqf_fp16_to_float(((const uint16_t *)from)[at])
                                : (double)((const int8_t *)from)[at];
}

static double stored_key(const sqf_kv_view *kv, size_t head, size_t position, size_t i)
{
    const size_t slot = head * kv->capacity + position;
    const double scale = kv->type == SQF_KV_INT8 ? (double)kv->key_scales[slot] : 1.0;
    return element(kv->type, kv->key, (slot / 16 * kv->head_dim + i) * 16 + slot % 16) * scale;
}

static double stored_value(const sqf_kv_view *kv, size_t head, size_t position, size_t i)
{
    const size_t slot = head * kv->capacity + position;
    const double scale = kv->type == SQF_KV_INT8 ? (double)kv->value_scales[slot] : 1.0;
    return element(kv->type, kv->value, slot * sqf_kv_value_width(kv->head_dim) + i) * scale;
}

/* One output vector by the definition over what the cache holds: all scores, softmax, sum. */
static void refer(const sqf_attention_job *job, size_t t, size_t h, double *out)
{
    const size_t dim = job->kv.head_dim, kv = h / (job->heads / job->kv.kv_heads), last = job->past + t;
    const size_t first = job->window && last + 1 > job->window ? last + 1 - job->window : 0;
    double *score = malloc((last + 1) * sizeof *score), largest = -INFINITY, total = 0.0;
    for (size_t p = first; p <= last; p++) {
        score[p] = 0.0;
        for (size_t i = 0; i < dim; i++) {
            score[p] += (double)job->query[(t * job->heads + h) * dim + i] * stored_key(&job->kv, kv, p, i);
        }
        score[p] *= (double)job->scale;
        largest = fmax(largest, score[p]);
    }
    memset(out, 0, dim * sizeof *out);
    for (size_t p = first; p <= last; p++) {
        const double weight = exp(score[p] - largest);
        total += weight;
        for (size_t i = 0; i < dim; i++) {
            out[i] += weight * stored_value(&job->kv, kv, p, i);
        }
    }
    for (size_t i = 0; i < dim; i++) {
        out[i] /= total;
    }
    free(score);
}

/* A problem, its input and its output in float32. */
typedef struct problem {
    size_t tokens, past, heads, kv_heads, dim, window;
    float *query, *key, *value, *out;
} problem;

static problem make_problem(sqf_random *random, size_t tokens, size_t past, size_t heads, size_t kv_heads, size_t dim,
                            size_t window, float spread)
{
    problem p = {tokens, past, heads, kv_heads, dim, window, NULL, NULL, NULL, NULL};
    p.query = random_floats(random, tokens * heads * dim, spread);
    p.key = random_floats(random, (past + tokens) * kv_heads * dim, 1.0f);
    p.value = random_floats(random, (past + tokens) * kv_heads * dim, 1.0f);
    p.out = random_floats(random, tokens * heads * dim, 1.0f);
    return p;
}

static void free_problem(problem *p)
{
    free(p->query);
    free(p->key);
    free(p->value);
    free(p->out);
}

static sqf_attention_job job_of(const problem *p, sqf_kv_view kv)
{
    return (sqf_attention_job){p->query, kv,       p->out,    p->tokens,
                               p->past,  p->heads, p->window, 1.0f / sqrtf((float)p->dim)};
}

/* Stores keys and values in pieces of up to 70 positions and runs the job; returns the view. */
static sqf_kv_view run(const problem *p, sqf_kv_type type, const char *level, unsigned threads)
{
    sqf_error err;
    sqf_context *context = open_context(level, threads);
    sqf_kv_view kv = make_cache(type, p->past + p->tokens, p->kv_heads, p->dim);
    const size_t all = p->past + p->tokens, width = p->kv_heads * p->dim;
    for (size_t at = 0, step = 1; at < all; at += step, step = step % 70 + 23) {
        sqf_kv_store(context, &kv, at, step < all - at ? step : all - at, p->key + at * width, p->value + at * width);
    }
    sqf_attention_scratch scratch = {0};
    const sqf_attention_job job = job_of(p, kv);
    assert_ok(sqf_attention(context, &job, 1, &scratch, &err), &err);
    sqf_attention_scratch_clear(&scratch);
    sqf_context_destroy(context);
    return kv;
}

/* Every level with 1, 2, 3 and 4 threads must leave the same bytes in the cache and in the output. */
static void check_levels(const problem *p, sqf_kv_type type, const sqf_kv_view *first, unsigned most_threads)
{
    const size_t n = p->tokens * p->heads * p->dim;
    float *want = malloc(n * sizeof *want);
    memcpy(want, p->out, n * sizeof *want);
    for (size_t i = 0; sqf_cpu_levels()[i]; i++) {
        for (unsigned threads = 1; threads <= most_threads; threads++) {
            memset(p->out, 0xff, n * sizeof *p->out);
            sqf_kv_view kv = run(p, type, sqf_cpu_levels()[i], threads);
            const size_t slots = kv.kv_heads * kv.capacity;
            assert_memory_equal(kv.key, first->key, slots * kv.head_dim * sqf_kv_element(type));
            assert_memory_equal(kv.value, first->value, slots * sqf_kv_value_width(kv.head_dim) * sqf_kv_element(type));
            assert_memory_equal(kv.key_scales, first->key_scales, slots * sizeof(float));
            assert_memory_equal(p->out, want, n * sizeof *want);
            free_cache(&kv);
        }
    }
    free(want);
}

static void check_problem(sqf_random *random, size_t tokens, size_t past, size_t heads, size_t kv_heads, size_t dim,
                          size_t window, float spread)
{
    problem p = make_problem(random, tokens, past, heads, kv_heads, dim, window, spread);
    double *want = malloc(dim * sizeof *want);
    for (size_t type = 0; type < 3; type++) {
        sqf_kv_view kv = run(&p, types[type], NULL, 1);
        const sqf_attention_job job = job_of(&p, kv);
        for (size_t t = 0; t < tokens; t++) {
            for (size_t h = 0; h < heads; h++) {
                refer(&job, t, h, want);
                for (size_t i = 0; i < dim; i++) {
                    /* scores of size 30 keep an absolute error of some 1e-5, which the exponential turns into a
                     * relative one */
                    const double found = (double)p.out[(t * heads + h) * dim + i];
                    if (!(fabs(found - want[i]) <= (spread > 1.0f ? 1e-4 : 5e-6))) {
                        fail_msg("%zu tokens after %zu, %zu/%zu heads of %zu, window %zu, type %zu: token %zu head "
                                 "%zu [%zu]: %.9g, expected %.9g",
                                 tokens, past, heads, kv_heads, dim, window, type, t, h, i, found, want[i]);
                    }
                }
            }
        }
        check_levels(&p, types[type], &kv, tokens * (past + tokens) * heads * dim < 2000000 ? 4 : 2);
        free_cache(&kv);
    }
    free_problem(&p);
    free(want);
}

static void attention_agrees_with_the_definition(void **state)
{
    (void)state;
    sqf_random random = {test_seed("attention", 6)};
    check_problem(&random, 1, 0, 2, 1, 8, 0, 1.0f);
    check_problem(&random, 1, 300, 4, 2, 64, 0, 1.0f);
    check_problem(&random, 1, 300, 4, 4, 40, 17, 1.0f);
    check_problem(&random, 1, 1100, 7, 1, 16, 0, 1.0f);
    check_problem(&random, 1, 800, 8, 1, 24, 517, 1.0f);
    check_problem(&random, 3, 126, 2, 1, 16, 0, 1.0f);
    check_problem(&random, 5, 650, 6, 2, 10, 3, 1.0f);
    check_problem(&random, 200, 0, 2, 1, 64, 0, 1.0f);
    check_problem(&random, 200, 77, 4, 2, 16, 0, 30.0f);
    check_problem(&random, 270, 10, 2, 2, 12, 33, 1.0f);
    check_problem(&random, 130, 0, 1, 1, 128, 1, 1.0f);
    check_problem(&random, 20, 30, 2, 1, 256, 0, 1.0f);
    for (int i = 0; i < 12; i++) {
        const size_t kv_heads = 1 + sqf_random_below(&random, 2);
        check_problem(&random, 1 + sqf_random_below(&random, 100), sqf_random_below(&random, 300),
                      kv_heads * (1 + sqf_random_below(&random, 8)), kv_heads, 1 + sqf_random_below(&random, 40),
                      sqf_random_below(&random, 2) * sqf_random_below(&random, 200), 1.0f);
    }
}

/* F16: half a unit in the last of 11 bits, 2^-12 relative to the power of two above, so |x| 2^-11 at most, and 2^-25
 * among subnormals. INT8: half a step, largest / 254; the rounding of the scale and of the division leave a part in a
 * million. */
static void stored_numbers_keep_their_bounds(void **state)
{
    (void)state;
    sqf_random random = {test_seed("kv store", 7)};
    sqf_context *context = open_context(NULL, 1);
    for (int round = 0; round < 20; round++) {
        const size_t dim = 1 + sqf_random_below(&random, 256), heads = 1 + sqf_random_below(&random, 3);
        const float spread = ldexpf(1.0f, (int)sqf_random_below(&random, 24) - 16);
        float *key = random_floats(&random, heads * dim, spread), *value = random_floats(&random, heads * dim, spread);
        for (size_t type = 0; type < 3; type++) {
            sqf_kv_view kv = make_cache(types[type], 40, heads, dim);
            const size_t position = sqf_random_below(&random, 40);
            sqf_kv_store(context, &kv, position, 1, key, value);
            for (size_t at = 0; at < heads * dim; at++) {
                const size_t h = at / dim;
                float largest[2] = {0, 0};
                for (size_t i = h * dim; i < (h + 1) * dim; i++) {
                    largest[0] = fmaxf(largest[0], fabsf(key[i]));
                    largest[1] = fmaxf(largest[1], fabsf(value[i]));
                }
                const double x[2] = {(double)key[at], (double)value[at]};
                const double y[2] = {stored_key(&kv, h, position, at % dim), stored_value(&kv, h, position, at % dim)};
                for (int i = 0; i < 2; i++) {
                    const double half_step = (double)largest[i] / 254 * (1 + 1e-6 * 254);
                    const double allowed = types[type] == SQF_KV_F32   ? 0.0
                                           : types[type] == SQF_KV_F16 ? fmax(fabs(x[i]) * 0x1p-11, 0x1p-25)
                                                                       : half_step;
                    assert_true(fabs(x[i] - y[i]) <= allowed);
                }
            }
            free_cache(&kv);
        }
        free(key);
        free(value);
    }
    sqf_context_destroy(context);
}

static void huge_numbers_stay_finite_and_nan_stays_nan(void **state)
{
    (void)state;
    sqf_context *context = open_context(NULL, 1);
    const float key[4] = {1e30f, -70000.0f, 0.0f, 1.0f}, value[4] = {1.0f, NAN, 2.0f, 3.0f};
    sqf_kv_view kv = make_cache(SQF_KV_F16, 1, 1, 4);
    sqf_kv_store(context, &kv, 0, 1, key, value);
    assert_true(stored_key(&kv, 0, 0, 0) == 65504.0 && stored_key(&kv, 0, 0, 1) == -65504.0);
    assert_true(isnan(stored_value(&kv, 0, 0, 1)) && stored_value(&kv, 0, 0, 2) == 2.0);
    free_cache(&kv);
    kv = make_cache(SQF_KV_INT8, 1, 1, 4);
    sqf_kv_store(context, &kv, 0, 1, key, value);
    assert_true(isnan(stored_value(&kv, 0, 0, 0)) && stored_key(&kv, 0, 0, 0) > 0.99e30);
    free_cache(&kv);
    sqf_context_destroy(context);
}

/* What attention loses to a narrower cache. An error e of each key element moves a score by at most
 * |q|_1 * scale * e = s, which moves each weight by a factor within exp(+-2 s): the output, a mean of values within
 * +-v, by at most v (exp(4 s) - 1), and by the values' own error. */
static void narrow_caches_stay_within_their_bounds(void **state)
{
    (void)state;
    sqf_random random = {test_seed("kv bounds", 8)};
    for (int round = 0; round < 4; round++) {
        problem p = make_problem(&random, 20, 300, 4, 2, 64, 0, 0.25f);
        const size_t n = p.tokens * p.heads * p.dim;
        float *exact = malloc(n * sizeof *exact);
        sqf_kv_view kv = run(&p, SQF_KV_F32, NULL, 1);
        free_cache(&kv);
        memcpy(exact, p.out, n * sizeof *exact);
        for (size_t type = 1; type < 3; type++) {
            const double e = types[type] == SQF_KV_F16 ? 2 * 0x1p-11 : 2.0 / 254 * 1.001; /* elements are within +-2 */
            kv = run(&p, types[type], NULL, 1);
            free_cache(&kv);
            for (size_t row = 0; row < p.tokens * p.heads; row++) {
                double length = 0.0;
                for (size_t i = 0; i < p.dim; i++) {
                    length += fabs((double)p.query[row * p.dim + i]);
                }
                const double allowed = 2.0 * (exp(4 * length / 8 * e) - 1) + e + 1e-5;
                for (size_t i = row * p.dim; i < (row + 1) * p.dim; i++) {
                    assert_true(fabs((double)p.out[i] - (double)exact[i]) <= allowed);
                }
            }
        }
        free(exact);
        free_problem(&p);
    }
}

/* Several sequences in one call, whatever their lengths, give what each gives alone. */
static void sequences_together_are_sequences_alone(void **state)
{
    (void)state;
    enum { COUNT = 6 };
    sqf_error err;
    sqf_random random = {test_seed("batch", 9)};
    problem p[COUNT];
    sqf_attention_job jobs[COUNT];
    float *want[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        const size_t tokens = i == 2 ? 37 : 1, heads = 6;
        p[i] = make_problem(&random, tokens, 500 * i + sqf_random_below(&random, 900), heads, 2, 16, 0, 1.0f);
        const sqf_kv_view kv = run(&p[i], types[i % 3], NULL, 1);
        want[i] = p[i].out;
        p[i].out = random_floats(&random, tokens * heads * 16, 1.0f);
        jobs[i] = job_of(&p[i], kv);
    }
    for (unsigned threads = 1; threads <= 3; threads++) {
        sqf_context *context = open_context(NULL, threads);
        sqf_attention_scratch scratch = {0};
        assert_ok(sqf_attention(context, jobs, COUNT, &scratch, &err), &err);
        for (size_t i = 0; i < COUNT; i++) {
            assert_memory_equal(p[i].out, want[i], p[i].tokens * p[i].heads * p[i].dim * sizeof(float));
            memset(p[i].out, 0, p[i].tokens * p[i].heads * p[i].dim * sizeof(float));
        }
        sqf_attention_scratch_clear(&scratch);
        sqf_context_destroy(context);
    }
    for (size_t i = 0; i < COUNT; i++) {
        free(want[i]);
        free_cache(&jobs[i].kv);
        free_problem(&p[i]);
    }
}

/* A prompt in pieces differs from a prompt in one by rounding alone. */
static void pieces_agree_with_the_whole(void **state)
{
    (void)state;
    sqf_error err;
    sqf_random random = {test_seed("pieces", 10)};
    problem p = make_problem(&random, 333, 0, 6, 2, 40, 0, 1.0f);
    sqf_kv_view kv = run(&p, SQF_KV_F32, NULL, 1);
    sqf_context *context = open_context(NULL, 2);
    sqf_attention_scratch scratch = {0};
    const size_t row = p.heads * p.dim;
    float *out = malloc(p.tokens * row * sizeof *out);
    for (size_t at = 0, step = 1; at < p.tokens; at += step, step = step * 3 % 101) {
        sqf_attention_job job = job_of(&p, kv);
        job.query += at * row;
        job.out = out + at * row;
        job.past = at;
        job.tokens = step < p.tokens - at ? step : p.tokens - at;
        assert_ok(sqf_attention(context, &job, 1, &scratch, &err), &err);
    }
    for (size_t i = 0; i < p.tokens * row; i++) {
        assert_true(fabsf(out[i] - p.out[i]) <= 5e-6f);
    }
    sqf_attention_scratch_clear(&scratch);
    sqf_context_destroy(context);
    free(out);
    free_cache(&kv);
    free_problem(&p);
}

/* After a first call, calls that need no more leave the scratch memory where it is. */
static void scratch_memory_stays(void **state)
{
    (void)state;
    sqf_error err;
    sqf_random random = {test_seed("scratch", 11)};
    sqf_context *context = open_context(NULL, 2);
    sqf_attention_scratch scratch = {0};
    problem p = make_problem(&random, 70, 1200, 4, 2, 32, 0, 1.0f);
    const sqf_kv_view kv = run(&p, SQF_KV_F16, NULL, 1);
    const sqf_attention_job prompt = job_of(&p, kv);
    sqf_attention_job token = prompt;
    token.tokens = 1;
    assert_ok(sqf_attention(context, &token, 1, &scratch, &err), &err);
    assert_ok(sqf_attention(context, &prompt, 1, &scratch, &err), &err);
    const sqf_attention_scratch before = scratch;
    for (token.past = 0; token.past < 1200; token.past += 199) {
        assert_ok(sqf_attention(context, &token, 1, &scratch, &err), &err);
        assert_memory_equal(&scratch, &before, sizeof before);
    }
    sqf_attention_scratch_clear(&scratch);
    sqf_context_destroy(context);
    sqf_kv_view copy = kv;
    free_cache(&copy);
    free_problem(&p);
}

static void attention_refuses_heads_that_do_not_divide(void **state)
{
    (void)state;
    sqf_error err;
    sqf_context *context = open_context(NULL, 1);
    sqf_attention_scratch scratch = {0};
    const sqf_attention_job job = {.heads = 3, .kv = {.kv_heads = 2, .head_dim = 4}};
    assert_fails(sqf_attention(context, &job, 1, &scratch, &err), SQF_E_ARG, &err, "3 heads over 2 key heads");
    sqf_attention_scratch_clear(&scratch);
    sqf_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_agrees_with_the_definition),
        cmocka_unit_test(stored_numbers_keep_their_bounds),
        cmocka_unit_test(huge_numbers_stay_finite_and_nan_stays_nan),
        cmocka_unit_test(narrow_caches_stay_within_their_bounds),
        cmocka_unit_test(sequences_together_are_sequences_alone),
        cmocka_unit_test(pieces_agree_with_the_whole),
        cmocka_unit_test(scratch_memory_stays),
        cmocka_unit_test(attention_refuses_heads_that_do_not_divide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The roofs of a machine, measured: what its threads together read from memory, and how many products they make when
 * they do nothing else. A benchmark without them says how fast, but not how fast it could be.
 *
 * Best of several rounds: whatever else runs can only make a round slower. */
#include <sqf/bench.h>

#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "base/memory.h"
#include "kernels/kernels.h"
#include "kernels/roof.h"

/* Rounds of products are short, about a millisecond, and many: one without an interruption is among them. */
enum { READ_ROUNDS = 7, PRODUCT_ROUNDS = 40 };

/* Far beyond every cache: 1 GiB for all threads, and never less than 64 MiB for one. */
static const size_t read_total = (size_t)1 << 30, read_least = (size_t)64 << 20;
static const uint64_t steps = 5000000 / SQF_ROOF_STEPS * SQF_ROOF_STEPS;

typedef struct roof_job {
    const sqf_roof_loop *loop; /* NULL: read */
    uint8_t *memory;
    size_t bytes;   /* of one thread */
    uint64_t *sink; /* [threads] results, so that no loop can be left out */
} roof_job;

/* 16 bytes: what every machine of ours loads at once. Memory is slower than that by far. */
typedef uint64_t wide __attribute__((vector_size(16)));

static uint64_t read_all(const uint8_t *memory, size_t bytes)
{
    const wide *blocks = (const wide *)(const void *)memory;
    wide sums[4] = {0};
    for (size_t i = 0; i < bytes / sizeof *blocks; i += 4) {
        for (size_t j = 0; j < 4; j++) {
            sums[j] += blocks[i + j];
        }
    }
    const wide sum = sums[0] + sums[1] + sums[2] + sums[3];
    return sum[0] + sum[1];
}

static void roof_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const roof_job *job = user;
    job->sink[task] = job->loop ? job->loop->run(steps) : read_all(job->memory + task * job->bytes, job->bytes);
}

/* Each thread brings in the pages that it will read. */
static void touch_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const roof_job *job = user;
    memset(job->memory + task * job->bytes, 1, job->bytes);
}

/* Seconds of the best round of one task a thread. `done` of `total` rounds came before this call. */
static sqf_status best_round(sqf_context *context, roof_job *job, size_t rounds, size_t done, size_t total,
                             double *seconds, sqf_error *err)
{
    *seconds = 0;
    const unsigned threads = sqf_pool_threads(context->pool);
    for (size_t i = 0; i < rounds; i++) {
        const double begin = sqf_clock_seconds();
        sqf_pool_run(context->pool, threads, roof_task, job);
        const double now = sqf_clock_seconds() - begin;
        *seconds = i == 0 || now < *seconds ? now : *seconds;
        SQF_TRY(sqf_progress(context, "rounds of roofs", done + i + 1, total, err));
    }
    return SQF_OK;
}

static sqf_status measure_products(sqf_context *context, roof_job *job, size_t total, sqf_bench_roofs *out,
                                   sqf_error *err)
{
    const sqf_roof_loop *loops = sqf_roof_loops(context->kernels->name);
    const unsigned threads = sqf_pool_threads(context->pool);
    for (size_t i = 0; loops[i].name; i++) {
        double seconds;
        job->loop = &loops[i];
        SQF_TRY(best_round(context, job, PRODUCT_ROUNDS, READ_ROUNDS + i * PRODUCT_ROUNDS, total, &seconds, err));
        const double rate = (double)loops[i].products * (double)steps * threads / seconds * 1e-9;
        if (!loops[i].integer) {
            out->float_gmac_per_s = rate;
        } else if (out->integer_count < SQF_BENCH_ROOFS) {
            out->integer[out->integer_count++] = (sqf_bench_roof){loops[i].name, rate};
        }
    }
    return SQF_OK;
}

sqf_status sqf_bench_roofs_measure(sqf_context *context, sqf_bench_roofs *out, sqf_error *err)
{
    *out = (sqf_bench_roofs){0};
    const unsigned threads = sqf_pool_threads(context->pool);
    roof_job job = {.bytes = read_total / threads / 64 * 64};
    job.bytes = job.bytes < read_least ? read_least : job.bytes;
    size_t total = READ_ROUNDS;
    for (const sqf_roof_loop *loop = sqf_roof_loops(context->kernels->name); loop->name; loop++) {
        total += PRODUCT_ROUNDS;
    }
    double seconds;
    sqf_status status;
    SQF_TRY_GOTO(status, SQF_ALLOC(&job.sink, threads, "sink", err), done);
    SQF_TRY_GOTO(status, sqf_alloc_unset((void **)&job.memory, threads, job.bytes, "memory to read", err), done);
    sqf_pool_run(context->pool, threads, touch_task, &job);
    SQF_TRY_GOTO(status, best_round(context, &job, READ_ROUNDS, 0, total, &seconds, err), done);
    out->read_gb_per_s = (double)job.bytes * threads / seconds * 1e-9;
    status = measure_products(context, &job, total, out, err);
done:
    if (status != SQF_OK) {
        *out = (sqf_bench_roofs){0};
    }
    free(job.memory);
    free(job.sink);
    return status;
}

double sqf_bench_roofs_integer(const sqf_bench_roofs *roofs)
{
    double best = 0;
    for (size_t i = 0; i < roofs->integer_count; i++) {
        best = roofs->integer[i].gmac_per_s > best ? roofs->integer[i].gmac_per_s : best;
    }
    return best;
}

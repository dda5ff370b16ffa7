/* How fast a model is quantized, beside what the machine's BLAS, memory and disk allow in the same run.
 *
 * Usage: bench_quantize_speed MODEL OUT [--windows N] [--length N] [--threads N] [--rounds N] [--scheme NAME]
 *
 * MODEL is a checkpoint as bench/make-checkpoint makes it; OUT is written and removed. Calibration text is drawn at
 * random: speed depends on shapes alone. bench/quantize-speed makes a checkpoint of two layers and runs this. */
#include <cblas.h>
#include <fcntl.h>
#include <jansson.h>
#include <lapacke.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <sqf/quantize.h>

#include "base/thread.h"

enum { ROUNDS_MAX = 32, ROOF_ROUNDS = 5, SIDE = 2048 };

typedef struct settings {
    const char *model, *out, *scheme;
    size_t windows, length, rounds;
    unsigned threads;
} settings;

/* Wall seconds of several rounds. */
typedef struct timing {
    double seconds[ROUNDS_MAX];
    size_t count;
} timing;

static double clock_of(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("bench_quantize_speed: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void add_time(timing *t, double seconds)
{
    if (t->count < ROUNDS_MAX) {
        t->seconds[t->count++] = seconds;
    }
}

/* share 0 = the least, 0.5 = the median */
static double pick(const timing *t, double share)
{
    timing sorted = *t;
    qsort(sorted.seconds, sorted.count, sizeof *sorted.seconds, compare_doubles);
    return sorted.seconds[(size_t)(share * (double)(sorted.count - 1) + 0.5)];
}

/* ---- roofs ---- */

typedef enum roof { ROOF_GEMM, ROOF_SYRK, ROOF_FACTOR, ROOF_COUNT } roof;

static const char *const roof_names[ROOF_COUNT] = {"sgemm", "ssyrk", "spotrf + strtri"};

/* One square problem for each thread, all threads at once. */
typedef struct roof_work {
    roof kind;
    float **a, **b, **c;
} roof_work;

static double roof_operations(roof kind)
{
    const double cube = (double)SIDE * SIDE * SIDE;
    return kind == ROOF_GEMM ? 2.0 * cube : kind == ROOF_SYRK ? cube : cube * 2.0 / 3.0;
}

static void roof_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const roof_work *work = user;
    float *a = work->a[task], *b = work->b[task], *c = work->c[task];
    switch (work->kind) {
    case ROOF_GEMM:
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, SIDE, SIDE, SIDE, 1.0f, a, SIDE, b, SIDE, 0.0f, c, SIDE);
        return;
    case ROOF_SYRK:
        cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, SIDE, SIDE, 1.0f, a, SIDE, 0.0f, c, SIDE);
        return;
    default:
        LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'L', SIDE, c, SIDE);
        LAPACKE_strtri_work(LAPACK_COL_MAJOR, 'L', 'N', SIDE, c, SIDE);
        return;
    }
}

static void fill(float *x, bool definite)
{
    for (size_t i = 0; i < (size_t)SIDE * SIDE; i++) {
        x[i] = definite ? (i % (SIDE + 1) == 0 ? (float)SIDE : 0.5f) : (float)(i * 2654435761u % 1000) / 1000.0f - 0.5f;
    }
}

static void measure_roofs(sqf_pool *pool, unsigned threads, timing roofs[ROOF_COUNT])
{
    float *blocks[3][256] = {{NULL}};
    for (unsigned t = 0; t < threads; t++) {
        for (int i = 0; i < 3; i++) {
            blocks[i][t] = calloc((size_t)SIDE * SIDE, sizeof(float));
            if (!blocks[i][t]) {
                fail("out of memory");
            }
            fill(blocks[i][t], false);
        }
    }
    for (int round = 0; round < ROOF_ROUNDS; round++) {
        for (int kind = 0; kind < ROOF_COUNT; kind++) {
            roof_work work = {(roof)kind, blocks[0], blocks[1], blocks[2]};
            for (unsigned t = 0; t < threads && kind == ROOF_FACTOR; t++) {
                fill(blocks[2][t], true);
            }
            const double start = clock_of(CLOCK_MONOTONIC);
            sqf_pool_run(pool, threads, roof_task, &work);
            add_time(&roofs[kind], clock_of(CLOCK_MONOTONIC) - start);
        }
    }
    for (unsigned t = 0; t < threads; t++) {
        for (int i = 0; i < 3; i++) {
            free(blocks[i][t]);
        }
    }
}

/* Operations a second of all threads together. */
static double roof_rate(const timing *roofs, roof kind, unsigned threads, double share)
{
    return (double)threads * roof_operations(kind) / pick(&roofs[kind], share);
}

/* The roof that a stage's work is measured by; ROOF_COUNT = none. */
static roof stage_roof(int stage)
{
    switch (stage) {
    case SQF_STAGE_FORWARD:
    case SQF_STAGE_REFORWARD:
    case SQF_STAGE_QUANTIZE:
    case SQF_STAGE_CORRECT: return ROOF_GEMM;
    case SQF_STAGE_HESSIAN: return ROOF_SYRK;
    case SQF_STAGE_FACTOR: return ROOF_FACTOR;
    default: return ROOF_COUNT;
    }
}

/* ---- runs ---- */

static void remove_output(const char *path)
{
    char command[4096];
    snprintf(command, sizeof command, "rm -rf -- '%s'", path);
    if (strchr(path, '\'') || system(command) != 0) {
        fail("%s: cannot remove", path);
    }
}

static sqf_quantize_summary quantize(const settings *s, sqf_context *context, const char *name, const uint32_t *ids,
                                     size_t count)
{
    sqf_scheme scheme;
    sqf_recipe *recipe;
    sqf_quantize_summary summary;
    sqf_error err = {0};
    if (sqf_scheme_parse(name, &scheme, &err) != SQF_OK) {
        fail("%s", err.text);
    }
    const sqf_module_recipe base = sqf_module_recipe_default(&scheme);
    sqf_quantize_options options = sqf_quantize_options_default();
    options.samples = s->windows;
    options.length = s->length;
    options.calibration_ids = ids;
    options.calibration_id_count = count;
    options.force = true;
    if (sqf_recipe_create(&base, &recipe, &err) != SQF_OK ||
        sqf_quantize(context, s->model, s->out, recipe, &options, &summary, &err) != SQF_OK) {
        fail("%s", err.text);
    }
    sqf_recipe_destroy(recipe);
    return summary;
}

/* Seconds to read the checkpoint and to write and sync as many bytes as the result has. */
static double copy_seconds(const settings *s, uint64_t bytes)
{
    static char buffer[1 << 20];
    char path[2][4096];
    snprintf(path[0], sizeof path[0], "%s/model.safetensors", s->model);
    snprintf(path[1], sizeof path[1], "%s.copy", s->out);
    const double start = clock_of(CLOCK_MONOTONIC);
    const int from = open(path[0], O_RDONLY), to = open(path[1], O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (from < 0 || to < 0) {
        fail("%s: cannot open", from < 0 ? path[0] : path[1]);
    }
    while (read(from, buffer, sizeof buffer) > 0) {
    }
    while (bytes > 0) {
        const ssize_t done = write(to, buffer, bytes < sizeof buffer ? (size_t)bytes : sizeof buffer);
        if (done <= 0) {
            fail("%s: cannot write", path[1]);
        }
        bytes -= (uint64_t)done;
    }
    fsync(to);
    const double seconds = clock_of(CLOCK_MONOTONIC) - start;
    close(from);
    close(to);
    unlink(path[1]);
    return seconds;
}

/* ---- tables ---- */

static void round_to_nearest(const settings *s, sqf_context *context)
{
    static const char *const names[] = {"W4A16", "W8A16", "W(SQ5)A16", "W(SQ6)A16"};
    printf("\nRounding to nearest, %u threads (min / median of 3)\n", s->threads);
    printf("%-12s %18s %18s %14s %22s\n", "scheme", "seconds", "read + write", "ratio", "Mweights/core-second");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        timing whole = {0}, copy = {0}, core = {0};
        double weights = 0.0;
        for (int round = 0; round < 3; round++) {
            const sqf_quantize_summary summary = quantize(s, context, names[i], NULL, 0);
            add_time(&whole, summary.seconds);
            add_time(&core, summary.stages[SQF_STAGE_QUANTIZE].cpu_seconds);
            add_time(&copy, copy_seconds(s, summary.file_bytes));
            weights = (double)summary.weights;
        }
        printf("%-12s %8.2f /%8.2f %8.2f /%8.2f %6.2f /%6.2f %10.0f /%10.0f\n", names[i], pick(&whole, 0.0),
               pick(&whole, 0.5), pick(&copy, 0.0), pick(&copy, 0.5), pick(&whole, 0.0) / pick(&copy, 0.0),
               pick(&whole, 0.5) / pick(&copy, 0.5), weights / pick(&core, 0.0) / 1e6,
               weights / pick(&core, 0.5) / 1e6);
    }
}

static double predicted_seconds(const sqf_quantize_stage *stage, int index, const timing *roofs, unsigned threads,
                                double share)
{
    const roof kind = stage_roof(index);
    return kind == ROOF_COUNT ? 0.0 : stage->work / roof_rate(roofs, kind, threads, share);
}

/* Every stage with its roof; the last lines are the sum and what 16 layers would take. */
static void print_stages(const settings *s, const sqf_quantize_summary *summary, const timing *measured,
                         const timing *roofs, size_t layers)
{
    double sums[4] = {0.0}, many = 0.0;
    printf("%-12s %10s %20s %20s %16s\n", "stage", "Gwork", "predicted", "measured", "ratio");
    for (int i = 0; i < SQF_STAGE_COUNT; i++) {
        const sqf_quantize_stage *stage = &summary->stages[i];
        const double predicted[2] = {predicted_seconds(stage, i, roofs, s->threads, 0.0),
                                     predicted_seconds(stage, i, roofs, s->threads, 0.5)};
        const double found[2] = {pick(&measured[i], 0.0), pick(&measured[i], 0.5)};
        const bool once = i == SQF_STAGE_VOCABULARY, fed = i == SQF_STAGE_PREPARE || i == SQF_STAGE_REFORWARD;
        many += once ? found[1] : fed ? found[1] / (double)(layers - 1) * 15.0 : found[1] / (double)layers * 16.0;
        for (int k = 0; k < 2; k++) {
            sums[k] += predicted[k];
            sums[2 + k] += found[k];
        }
        if (found[1] < 0.0005) {
            continue;
        }
        printf("%-12s %10.1f %9.2f /%9.2f %9.2f /%9.2f", sqf_stage_name((sqf_stage)i), stage->work / 1e9, predicted[0],
               predicted[1], found[0], found[1]);
        printf(predicted[0] > 0.0 ? " %6.2f /%6.2f\n" : "\n", found[0] / predicted[0], found[1] / predicted[1]);
    }
    printf("%-12s %10s %9.2f /%9.2f %9.2f /%9.2f %6.2f /%6.2f\n", "sum", "", sums[0], sums[1], sums[2], sums[3],
           sums[2] / sums[0], sums[3] / sums[1]);
    printf("16 layers would take %.0f s: the medians of stages that every layer has times 16 / %zu, of those that feed "
           "the next layer (prepare, reforward) times 15 / %zu, vocabulary once\n",
           many, layers, layers - 1);
}

/* What the pipeline said was left after each layer beside what was. */
static void print_predictions(const settings *s, double total)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/report.json", s->out);
    json_t *report = json_load_file(path, 0, NULL);
    const json_t *progress = json_object_get(report, "progress");
    for (size_t i = 0; i < json_array_size(progress); i++) {
        const json_t *entry = json_array_get(progress, i);
        const double at = json_number_value(json_object_get(entry, "seconds"));
        const double left = json_number_value(json_object_get(entry, "left_seconds"));
        printf("after layer %zu, %.1f s: said %.1f s left, were %.1f s\n", i + 1, at, left, total - at);
    }
    json_decref(report);
}

static size_t count_layers(const settings *s)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", s->model);
    json_t *config = json_load_file(path, 0, NULL);
    const json_int_t layers = json_integer_value(json_object_get(config, "num_hidden_layers"));
    json_decref(config);
    if (layers < 2) {
        fail("%s: expected a model of 2 layers or more", path);
    }
    return (size_t)layers;
}

static void calibrated(const settings *s, sqf_context *context, sqf_pool *pool)
{
    timing roofs[ROOF_COUNT] = {{{0.0}, 0}}, measured[SQF_STAGE_COUNT] = {{{0.0}, 0}};
    const size_t tokens = s->windows * s->length, layers = count_layers(s);
    uint32_t *ids = calloc(tokens + 1, sizeof *ids);
    sqf_quantize_summary summary = {0};
    if (!ids) {
        fail("out of memory");
    }
    for (size_t i = 0; i < tokens; i++) {
        ids[i] = (uint32_t)(i * 2654435761u >> 7 & 1023u);
    }
    for (size_t round = 0; round < s->rounds; round++) {
        measure_roofs(pool, s->threads, roofs);
        summary = quantize(s, context, s->scheme, ids, tokens);
        for (int i = 0; i < SQF_STAGE_COUNT; i++) {
            add_time(&measured[i], summary.stages[i].seconds);
        }
    }
    measure_roofs(pool, s->threads, roofs);
    printf("\nCalibrated, %s, %zu windows of %zu tokens, %zu layers, %u threads (min / median of %zu)\n", s->scheme,
           s->windows, s->length, layers, s->threads, s->rounds);
    for (int kind = 0; kind < ROOF_COUNT; kind++) {
        printf("roof %-16s %8.1f /%8.1f Goperations/s\n", roof_names[kind],
               roof_rate(roofs, (roof)kind, s->threads, 0.0) / 1e9,
               roof_rate(roofs, (roof)kind, s->threads, 0.5) / 1e9);
    }
    print_stages(s, &summary, measured, roofs, layers);
    print_predictions(s, summary.seconds);
    free(ids);
}

static settings read_settings(int argc, char **argv)
{
    settings s = {.scheme = "W4A8", .windows = 32, .length = 2048, .rounds = 1};
    if (argc < 3) {
        fail("expected MODEL OUT [--windows N] [--length N] [--threads N] [--rounds N] [--scheme NAME]");
    }
    s.model = argv[1];
    s.out = argv[2];
    for (int i = 3; i + 1 < argc; i += 2) {
        const size_t number = strtoul(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--scheme") == 0) {
            s.scheme = argv[i + 1];
        } else if (strcmp(argv[i], "--windows") == 0) {
            s.windows = number;
        } else if (strcmp(argv[i], "--length") == 0) {
            s.length = number;
        } else if (strcmp(argv[i], "--threads") == 0) {
            s.threads = (unsigned)number;
        } else if (strcmp(argv[i], "--rounds") == 0) {
            s.rounds = number < ROUNDS_MAX / ROOF_ROUNDS ? number : ROUNDS_MAX / ROOF_ROUNDS;
        } else {
            fail("%s: unknown option", argv[i]);
        }
    }
    return s;
}

int main(int argc, char **argv)
{
    settings s = read_settings(argc, argv);
    sqf_context_options options = sqf_context_options_default();
    sqf_context *context;
    sqf_pool *pool;
    sqf_error err = {0};
    options.threads = s.threads;
    if (sqf_context_create(&options, &context, &err) != SQF_OK) {
        fail("%s", err.text);
    }
    s.threads = sqf_context_threads(context);
    if (s.threads > 256 || sqf_pool_create(s.threads, &pool, &err) != SQF_OK) {
        fail("%u threads: expected at most 256", s.threads);
    }
    printf("kernels %s, BLAS %s\n", sqf_context_cpu(context), openblas_get_corename());
    round_to_nearest(&s, context);
    if (s.windows > 0 && s.rounds > 0) {
        calibrated(&s, context, pool);
    }
    remove_output(s.out);
    sqf_pool_destroy(pool);
    sqf_context_destroy(context);
    return 0;
}

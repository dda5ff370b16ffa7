/* Micro-benchmark of the CPU kernels: GMAC/s of products with many tokens and GB/s of products with one (of the weights
 * as the kernels hold them), for each scheme and kernel level, as shares of what this machine can do at most, measured
 * in the same run (sqf/bench.h).
 *
 * Usage: bench_kernels [THREADS] [TOKENS] [SCHEME or "attention"] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sqf/bench.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/attention.h"
#include "kernels/dispatch.h"
#include "kernels/linear.h"
#include "kernels/ops.h"

enum { ROUNDS = 5 };

static void check(sqf_status status, const sqf_error *err)
{
    if (status != SQF_OK) {
        fprintf(stderr, "bench_kernels: %s\n", err->text);
        exit(1);
    }
}

/* Processor time of all threads: what other work on the machine disturbs least. */
static double processor_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* From -2 to 2, for free(). */
static float *random_floats(size_t n)
{
    sqf_error err;
    float *x;
    check(SQF_ALLOC(&x, n, "numbers", &err), &err);
    sqf_random random = {1};
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(sqf_random_unit(&random) * 4.0 - 2.0);
    }
    return x;
}

static sqf_bench_roofs print_roofs(const char *level, unsigned threads)
{
    sqf_error err;
    sqf_context *context;
    const sqf_context_options options = {.threads = threads, .cpu = level};
    check(sqf_context_create(&options, &context, &err), &err);
    sqf_bench_roofs roofs;
    check(sqf_bench_roofs_measure(context, &roofs, &err), &err);
    printf("%-10s roof: read %.1f GB/s, float32 %.1f GMAC/s\n", level, roofs.read_gb_per_s, roofs.float_gmac_per_s);
    for (size_t i = 0; i < roofs.integer_count; i++) {
        printf("%-10s roof: %s %.0f GMAC/s\n", level, roofs.integer[i].name, roofs.integer[i].gmac_per_s);
    }
    sqf_context_destroy(context);
    return roofs;
}

/* ---- products ---- */

typedef struct weights {
    sqf_scheme scheme;
    size_t rows, columns;
    sqf_matrix matrix;
    int32_t *channels;
    uint16_t *dense;
} weights;

static sqf_type value_type(const sqf_weight_spec *spec, bool high)
{
    return high ? spec->high : spec->low;
}

static void fill_row(sqf_random *random, weights *w, sqf_row *row)
{
    const sqf_weight_spec *spec = &w->matrix.spec;
    for (size_t b = 0; b < sqf_partition_count(&w->matrix.banks); b++) {
        size_t begin, end;
        sqf_partition_range(&w->matrix.banks, b, &begin, &end);
        const size_t high = sqf_bank_high(spec->bank, spec->high_per_bank, end - begin);
        for (size_t k = begin; k < end; k++) {
            row->mask[k] = spec->high != SQF_TYPE_NONE && k - begin < high;
            const sqf_type type = value_type(spec, row->mask[k] != 0);
            const float x = (float)(sqf_random_unit(random) * 2.0 - 1.0) * sqf_type_max(type);
            row->value[k] = type == SQF_TYPE_NONE ? 0.0f : sqf_type_round(type, x, 1.0f);
        }
    }
    for (size_t g = 0; g < w->matrix.group_count; g++) {
        row->scale_low[g] = row->scale_high[g] = 0.01f;
        if (spec->scales == SQF_SCALES_TIED) {
            row->shift[g] = 2;
            row->scale_high[g] = row->scale_low[g] * 0.25f;
        }
    }
}

/* Random weights: every row alike, which costs nothing in time and little to make. */
static void make_weights(const char *scheme, size_t rows, size_t columns, weights *w)
{
    sqf_error err;
    sqf_random random = {1};
    *w = (weights){.rows = rows, .columns = columns};
    check(sqf_scheme_parse(scheme, &w->scheme, &err), &err);
    if (sqf_weight_spec_is_dense(&w->scheme.weights)) {
        check(SQF_ALLOC(&w->dense, rows * columns, "weights", &err), &err);
        for (size_t i = 0; i < rows * columns; i++) {
            w->dense[i] = (uint16_t)(0x3f80 + i % 64);
        }
        return;
    }
    const sqf_act_spec *act = &w->scheme.activations;
    size_t border = columns;
    if (sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC) {
        border = sqf_act_low_channels(act, columns);
        check(SQF_ALLOC(&w->channels, columns, "channels", &err), &err);
        for (size_t k = 0; k < columns; k++) {
            w->channels[k] = (int32_t)k;
        }
    }
    check(sqf_matrix_create(&w->scheme.weights, rows, columns, border, w->channels, &w->matrix, &err), &err);
    sqf_row row;
    check(sqf_row_create(&w->matrix, &row, &err), &err);
    fill_row(&random, w, &row);
    for (size_t n = 0; n < rows; n++) {
        sqf_matrix_pack_row(&w->matrix, n, &row);
    }
    sqf_row_clear(&row);
}

static void free_weights(weights *w)
{
    if (w->dense) {
        free(w->dense);
    } else {
        sqf_matrix_clear(&w->matrix);
        free(w->channels);
    }
}

typedef struct timing {
    double prepare, forward;
} timing;

static timing time_product(sqf_context *context, const sqf_linear *linear, sqf_input *input, const float *x,
                           size_t tokens, float *y)
{
    sqf_error err;
    timing best = {1e9, 1e9};
    const double start = sqf_clock_seconds();
    for (int round = 0; round < ROUNDS || sqf_clock_seconds() - start < 0.2; round++) {
        const double begin = sqf_clock_seconds();
        check(sqf_input_prepare(context, input, linear, x, tokens, &err), &err);
        const double middle = sqf_clock_seconds();
        check(sqf_linear_forward(context, linear, input, y, &err), &err);
        const double end = sqf_clock_seconds();
        best.prepare = middle - begin < best.prepare ? middle - begin : best.prepare;
        best.forward = end - middle < best.forward ? end - middle : best.forward;
    }
    return best;
}

enum { COPIES_MAX = 64 };

/* Seconds of one token through one layer, with layers enough that they do not fit the caches. */
static double time_decode(sqf_context *context, const sqf_linear_params *params, size_t copies, const float *x,
                          float *y)
{
    sqf_error err;
    sqf_linear *layers[COPIES_MAX];
    sqf_input *input;
    check(sqf_input_create(&input, &err), &err);
    for (size_t i = 0; i < copies; i++) {
        check(sqf_linear_create(context, params, &layers[i], &err), &err);
    }
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        const double begin = sqf_clock_seconds();
        for (size_t i = 0; i < copies; i++) {
            check(sqf_input_prepare(context, input, layers[i], x, 1, &err), &err);
            check(sqf_linear_forward(context, layers[i], input, y, &err), &err);
        }
        const double seconds = (sqf_clock_seconds() - begin) / (double)copies;
        best = seconds < best ? seconds : best;
    }
    for (size_t i = 0; i < copies; i++) {
        sqf_linear_destroy(layers[i]);
    }
    sqf_input_destroy(input);
    return best;
}

static void bench_scheme(const char *level, unsigned threads, const char *scheme, size_t rows, size_t columns,
                         size_t tokens, const sqf_bench_roofs *roofs)
{
    sqf_error err;
    sqf_context *context;
    const sqf_context_options options = {.threads = threads, .cpu = level};
    check(sqf_context_create(&options, &context, &err), &err);
    weights w;
    make_weights(scheme, rows, columns, &w);
    const sqf_linear_params params = {.name = scheme,
                                      .rows = rows,
                                      .columns = columns,
                                      .dense = w.dense,
                                      .dense_type = SQF_TYPE_BF16,
                                      .matrix = w.dense ? NULL : &w.matrix,
                                      .activations = w.scheme.activations};
    float *x, *y;
    check(SQF_ALLOC(&x, tokens * columns, "input", &err), &err);
    check(SQF_ALLOC(&y, tokens * rows, "output", &err), &err);
    for (size_t i = 0; i < tokens * columns; i++) {
        x[i] = (float)(i % 101) - 50.0f;
    }
    sqf_linear *linear;
    sqf_input *input;
    check(sqf_input_create(&input, &err), &err);
    const double begin = sqf_clock_seconds();
    check(sqf_linear_create(context, &params, &linear, &err), &err);
    const double load = sqf_clock_seconds() - begin;
    const timing many = time_product(context, linear, input, x, tokens, y);
    const double bytes = (double)sqf_linear_bytes(linear);
    const bool integer = !w.dense && !sqf_act_spec_is_float(&w.scheme.activations);
    const double roof = integer ? sqf_bench_roofs_integer(roofs) : roofs->float_gmac_per_s;
    const double rate = (double)(tokens * rows * columns) / many.forward * 1e-9;
    /* Dense layers borrow one array: only a matrix beyond the caches would be read from memory. */
    const size_t copies = w.dense ? 1 : 160e6 / bytes < COPIES_MAX ? (size_t)(160e6 / bytes) : COPIES_MAX;
    const double one = time_decode(context, &params, copies, x, y);
    printf(
        "%-10s %-14s N=%zu K=%zu: M=%zu %7.1f GMAC/s (%3.0f %% of the roof), input %5.2f GB/s;  M=1 %6.2f GB/s (%3.0f "
        "%%), %6.1f us; load %.1f ms\n",
        level, scheme, rows, columns, tokens, rate, 100 * rate / roof,
        (double)(tokens * columns * sizeof *x) / many.prepare * 1e-9, bytes / one * 1e-9,
        100 * bytes / one * 1e-9 / roofs->read_gb_per_s, one * 1e6, load * 1e3);
    fflush(stdout);
    sqf_input_destroy(input);
    sqf_linear_destroy(linear);
    free_weights(&w);
    free(x);
    free(y);
    sqf_context_destroy(context);
}

/* Cache memory with room for `positions`, filled with random rows. */
static sqf_kv_view make_cache(sqf_context *context, sqf_kv_type type, size_t positions, size_t kv_heads, size_t dim)
{
    sqf_error err;
    sqf_kv_view kv = {.type = type, .kv_heads = kv_heads, .head_dim = dim};
    kv.capacity = sqf_ceil_div(positions, SQF_KV_PANEL) * SQF_KV_PANEL;
    const size_t slots = kv_heads * kv.capacity, element = sqf_kv_element(type);
    check(sqf_alloc_bytes(&kv.key, slots * dim, element, "keys", &err), &err);
    check(sqf_alloc_bytes(&kv.value, slots * sqf_kv_value_width(dim), element, "values", &err), &err);
    check(SQF_ALLOC(&kv.key_scales, slots, "scales", &err), &err);
    check(SQF_ALLOC(&kv.value_scales, slots, "scales", &err), &err);
    float *x = random_floats(positions * kv_heads * dim);
    sqf_kv_store(context, &kv, 0, positions, x, x);
    free(x);
    return kv;
}

static void free_cache(sqf_kv_view *kv)
{
    free(kv->key);
    free(kv->value);
    free(kv->key_scales);
    free(kv->value_scales);
}

/* Prompts of several lengths, and one token after several, in the shape of a 1B model. */
static void bench_attention(const char *level, unsigned threads)
{
    enum { HEADS = 32, KV_HEADS = 8, DIM = 64, LONGEST = 8192 };
    static const struct {
        size_t tokens, past;
    } shapes[] = {{512, 0}, {2048, 0}, {4096, 0}, {1, 512}, {1, 4096}, {1, LONGEST}};
    static const char *const names[] = {"f32", "f16", "int8"};
    sqf_error err;
    sqf_context *context;
    const sqf_context_options options = {.threads = threads, .cpu = level};
    check(sqf_context_create(&options, &context, &err), &err);
    float *query = random_floats(4096 * HEADS * DIM), *out = random_floats(4096 * HEADS * DIM);
    sqf_attention_scratch scratch = {0};
    for (int type = SQF_KV_F32; type <= SQF_KV_INT8; type++) {
        sqf_kv_view kv = make_cache(context, (sqf_kv_type)type, LONGEST + 1, KV_HEADS, DIM);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            const sqf_attention_job job = {query, kv, out, shapes[i].tokens, shapes[i].past, HEADS, 0, 0.125f};
            double best = 1e9;
            for (int round = 0; round < ROUNDS; round++) {
                const double begin = processor_seconds();
                check(sqf_attention(context, &job, 1, &scratch, &err), &err);
                const double seconds = processor_seconds() - begin;
                best = seconds < best ? seconds : best;
            }
            const double seen = (double)job.tokens * ((double)job.past + (double)(job.tokens + 1) / 2);
            const double bytes = 2.0 * (double)((job.past + 1) * KV_HEADS) *
                                 (double)(DIM * sqf_kv_element(kv.type) + (type == SQF_KV_INT8 ? 4 : 0));
            printf("%-10s attention %-4s %4zu tokens after %4zu: %8.3f ms %6.1f GFLOP/s", level, names[type],
                   job.tokens, job.past, best * 1e3, 4 * seen * HEADS * DIM / best * 1e-9);
            printf(job.tokens == 1 ? " %6.1f GB/s\n" : "\n", bytes / best * 1e-9);
        }
        free_cache(&kv);
    }
    sqf_attention_scratch_clear(&scratch);
    free(query);
    free(out);
    const size_t n = 512 * 8192;
    float *gate, *up;
    check(SQF_ALLOC(&gate, n, "gate", &err), &err);
    check(SQF_ALLOC(&up, n, "up", &err), &err);
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        const double begin = sqf_clock_seconds();
        sqf_silu_mul(context, gate, up, n, gate);
        const double seconds = sqf_clock_seconds() - begin;
        best = seconds < best ? seconds : best;
    }
    printf("%-10s silu: %.2f ns an element\n", level, best * 1e9 / (double)n);
    free(gate);
    free(up);
    sqf_context_destroy(context);
}

int main(int argc, char **argv)
{
    static const char *const schemes[] = {"BF16",     "W8A8",     "W4A8",  "W4A4",  "W4A(SQ6)", "W4A(SQ5)",
                                          "W(SQ6)A8", "W(SQ5)A8", "W4A16", "W8A16", "W8A8-2:4", "W(SQ6)A4"};
    const unsigned threads = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1;
    const size_t tokens = argc > 2 ? strtoul(argv[2], NULL, 10) : 512;
    const char *only = argc > 3 ? argv[3] : NULL;
    for (const char *const *level = sqf_cpu_levels(); *level; level++) {
        if (strcmp(*level, "scalar") == 0) {
            continue; /* minutes, and nobody asks how slow it is */
        }
        const sqf_bench_roofs roofs = print_roofs(*level, threads);
        for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
            if (only && strcmp(only, schemes[i]) != 0) {
                continue;
            }
            bench_scheme(*level, threads, schemes[i], 2048, 2048, tokens, &roofs);
            bench_scheme(*level, threads, schemes[i], 2048, 8192, tokens, &roofs);
        }
        if (strcmp(*level, "scalar") != 0 && (!only || strcmp(only, "attention") == 0)) {
            bench_attention(*level, threads);
        }
    }
    return 0;
}

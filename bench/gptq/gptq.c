/* Time of GPTQ on one layer, int4 in groups of 128. bench/gptq/compare.sh runs it in turns with reference.py.
 *
 *   bench_gptq make ROWS COLUMNS DIRECTORY    writes weights.f32 [ROWS, COLUMNS] and hessian.f32 [COLUMNS, COLUMNS]
 *   bench_gptq run  ROWS COLUMNS DIRECTORY [THREADS]
 *                                             reads them, prints the seconds of both stages and the processor seconds
 *                                             of all threads, writes sqf.f32, the dequantized weights */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sqf/context.h>

#include "base/file.h"
#include "base/random.h"
#include "ptq/algorithm.h"

enum { TOKENS = 8192, TOKENS_AT_ONCE = 1024 };

typedef struct layer {
    size_t rows, columns;
    const char *directory;
} layer;

/* About normal. */
static float random_normal(sqf_random *random)
{
    double sum = 0.0;
    for (int i = 0; i < 4; i++) {
        sum += sqf_random_unit(random) - 0.5;
    }
    return (float)(sum * 1.7320508);
}

static sqf_status write_floats(const layer *l, const char *name, const float *data, size_t n, sqf_error *err)
{
    char *path;
    SQF_TRY(sqf_path_join(&path, l->directory, name, err));
    const sqf_status status = sqf_file_write(path, data, n * sizeof *data, err);
    free(path);
    return status;
}

/* Maps DIRECTORY/name, which must hold n floats. */
static sqf_status map_floats(const layer *l, const char *name, size_t n, sqf_mapping *out, sqf_error *err)
{
    char *path;
    SQF_TRY(sqf_path_join(&path, l->directory, name, err));
    const sqf_status status = sqf_mapping_open(path, out, err);
    free(path);
    SQF_TRY(status);
    if (out->size != n * sizeof(float)) {
        return sqf_fail(err, SQF_E_SHAPE, "%s: %zu bytes, expected %zu", name, out->size, n * sizeof(float));
    }
    return SQF_OK;
}

/* Neighbouring channels are correlated and a few are much larger than the rest, as in language models. */
static sqf_status add_inputs(sqf_context *context, sqf_random *random, sqf_statistics *statistics, sqf_error *err)
{
    float *x;
    SQF_TRY(SQF_ALLOC(&x, TOKENS_AT_ONCE * statistics->channels, "inputs", err));
    sqf_status status = SQF_OK;
    for (size_t t = 0; t < TOKENS && status == SQF_OK; t += TOKENS_AT_ONCE) {
        float carried = 0.0f;
        for (size_t i = 0; i < TOKENS_AT_ONCE * statistics->channels; i++) {
            carried = 0.8f * carried + random_normal(random);
            x[i] = carried * (i % statistics->channels % 97 == 5 ? 8.0f : 1.0f);
        }
        status = sqf_statistics_add(context, statistics, x, TOKENS_AT_ONCE, err);
    }
    free(x);
    return status;
}

static sqf_status make(sqf_context *context, const layer *l, sqf_error *err)
{
    sqf_random random = {1};
    float *weights;
    sqf_statistics statistics;
    SQF_TRY(SQF_ALLOC(&weights, l->rows * l->columns, "weights", err));
    for (size_t i = 0; i < l->rows * l->columns; i++) {
        weights[i] = 0.02f * random_normal(&random);
    }
    sqf_status status = write_floats(l, "weights.f32", weights, l->rows * l->columns, err);
    free(weights);
    SQF_TRY(status);
    SQF_TRY(sqf_statistics_create(l->columns, true, &statistics, err));
    const double begin = sqf_clock_seconds();
    SQF_TRY_GOTO(status, add_inputs(context, &random, &statistics, err), done);
    sqf_statistics_finish(context, &statistics);
    fprintf(stderr, "Hessian of %d tokens and %zu channels, random inputs included: %.2f s\n", TOKENS, l->columns,
            sqf_clock_seconds() - begin);
    status = write_floats(l, "hessian.f32", statistics.hessian, l->columns * l->columns, err);
done:
    sqf_statistics_clear(&statistics);
    return status;
}

static sqf_status write_dequantized(const layer *l, const sqf_matrix *matrix, sqf_error *err)
{
    float *back;
    sqf_row row;
    SQF_TRY(SQF_ALLOC(&back, l->rows * l->columns, "dequantized weights", err));
    sqf_status status = sqf_row_create(matrix, &row, err);
    if (status == SQF_OK) {
        for (size_t n = 0; n < l->rows; n++) {
            sqf_matrix_dequantize_row(matrix, n, &row, back + n * l->columns);
        }
        status = write_floats(l, "sqf.f32", back, l->rows * l->columns, err);
        sqf_row_clear(&row);
    }
    free(back);
    return status;
}

static sqf_status run(sqf_context *context, const layer *l, sqf_error *err)
{
    sqf_mapping weights, hessian;
    sqf_scheme scheme;
    sqf_factor factor;
    sqf_matrix matrix;
    SQF_TRY(sqf_scheme_parse("w4a16", &scheme, err));
    SQF_TRY(map_floats(l, "weights.f32", l->rows * l->columns, &weights, err));
    SQF_TRY(map_floats(l, "hessian.f32", l->columns * l->columns, &hessian, err));
    volatile uint8_t touched = 0; /* page both files in before the clock starts */
    for (size_t i = 0; i < hessian.size; i += 4096) {
        touched = hessian.data[i];
    }
    for (size_t i = 0; i < weights.size; i += 4096) {
        touched = weights.data[i];
    }
    (void)touched;
    const clock_t cpu = clock();
    const double begin = sqf_clock_seconds();
    SQF_TRY(sqf_factor_create(context, "layer", (const float *)(const void *)hessian.data, l->columns, NULL, 0.01,
                              &factor, err));
    const double factored = sqf_clock_seconds();
    const sqf_matrix_job job = {.name = "layer",
                                .spec = scheme.weights,
                                .weights = (const float *)(const void *)weights.data,
                                .rows = l->rows,
                                .columns = l->columns,
                                .border = l->columns,
                                .factor = &factor};
    SQF_TRY(sqf_matrix_quantize(context, &job, &matrix, NULL, err));
    const double end = sqf_clock_seconds();
    printf("sqf      %5zu x %5zu  factor %8.3f s  quantize %8.3f s  total %8.3f s  cpu %8.3f s\n", l->rows, l->columns,
           factored - begin, end - factored, end - begin, (double)(clock() - cpu) / CLOCKS_PER_SEC);
    return write_dequantized(l, &matrix, err); /* the process ends: what it holds goes with it */
}

int main(int count, char **arguments)
{
    if (count < 5 || count > 6 || (strcmp(arguments[1], "make") != 0 && strcmp(arguments[1], "run") != 0)) {
        fprintf(stderr, "usage: bench_gptq make|run ROWS COLUMNS DIRECTORY [THREADS]\n");
        return 2;
    }
    const layer l = {strtoull(arguments[2], NULL, 10), strtoull(arguments[3], NULL, 10), arguments[4]};
    sqf_context_options options = sqf_context_options_default();
    options.threads = count == 6 ? (unsigned)strtoul(arguments[5], NULL, 10) : 0;
    sqf_context *context;
    sqf_error err = {0};
    sqf_status status = sqf_context_create(&options, &context, &err);
    if (status == SQF_OK) {
        status = strcmp(arguments[1], "make") == 0 ? make(context, &l, &err) : run(context, &l, &err);
        sqf_context_destroy(context);
    }
    if (status != SQF_OK) {
        fprintf(stderr, "bench_gptq: %s\n", err.text);
    }
    return status == SQF_OK ? 0 : 1;
}

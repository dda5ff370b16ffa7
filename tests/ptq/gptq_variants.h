/* Layers with all that rounding them takes, and ways to round them: for tests that compare implementations of GPTQ. */
#ifndef SQF_TESTS_GPTQ_VARIANTS_H
#define SQF_TESTS_GPTQ_VARIANTS_H

#include "algorithm_data.h"

enum { ROWS = 150, TOKENS = 700 };

/* A layer with everything that quantizing it takes. */
typedef struct layer {
    size_t rows, columns;
    float *weights, *norm;
    int32_t *channels; /* a permutation, ascending in both sections of `border` */
    size_t border;
    sqf_statistics statistics;
} layer;

static sqf_context *context;

static layer make_layer(sqf_random *random, size_t rows, size_t columns, size_t border)
{
    layer l = {.rows = rows, .columns = columns, .border = border, .weights = make_weights(random, rows, columns)};
    float *x = make_inputs(random, TOKENS, columns);
    l.statistics = make_statistics(context, x, TOKENS, columns);
    free(x);
    l.norm = make_floats(columns);
    l.channels = make_array(columns, sizeof *l.channels);
    for (size_t j = 0; j < columns; j++) {
        l.norm[j] = (float)sqrt(l.statistics.sum_square[j]);
    }
    memset(l.weights + 3 * columns, 0, columns * sizeof *l.weights); /* a row whose scales are all 0 */
    /* every third channel goes behind the border until that part is full */
    const size_t high = columns - border;
    size_t low_at = 0, high_at = 0;
    for (size_t j = 0; j < columns; j++) {
        const bool to_high = high_at < high && (j % 3 == 1 || low_at == border);
        l.channels[to_high ? border + high_at++ : low_at++] = (int32_t)j;
    }
    return l;
}

static void free_layer(layer *l)
{
    free(l->weights);
    free(l->norm);
    free(l->channels);
    sqf_statistics_clear(&l->statistics);
}

static sqf_matrix_job make_job(const layer *l, const char *weights)
{
    char name[256];
    snprintf(name, sizeof name, "%s;low=fp32", weights);
    sqf_scheme scheme;
    sqf_error err = {0};
    assert_ok(sqf_scheme_parse(name, &scheme, &err), &err);
    return (sqf_matrix_job){.name = "layer",
                            .spec = scheme.weights,
                            .weights = l->weights,
                            .rows = l->rows,
                            .columns = l->columns,
                            .border = l->border,
                            .channels = l->border < l->columns ? l->channels : NULL,
                            .input_norm = l->norm,
                            .hessian = l->statistics.hessian};
}

/* One way to round a matrix of so many columns. */
typedef struct variant {
    const char *weights;
    size_t columns, border;
    sqf_importance importance;
    sqf_prune prune;
    sqf_compensate compensate;
    sqf_clip clip;
} variant;

static const variant variants[] = {
    {"low=int4,group=32", 300, 300, 0, 0, 0, 0},
    {"low=int4,group=48", 300, 300, 0, 0, 0, 0},
    {"low=int4,group=128", 700, 700, 0, 0, 0, 0},
    {"low=int4,group=192", 700, 700, 0, 0, 0, 0},
    {"low=int4,group=row", 300, 300, 0, 0, 0, 0},
    {"low=int8,group=row,scale_type=fp32", 130, 130, 0, 0, 0, 0},
    {"low=int3,group=48", 300, 170, 0, 0, 0, 0},
    {"low=int4,group=128", 700, 130, 0, 0, 0, 0},
    {"low=int4,group=row", 300, 37, 0, 0, 0, 0},
    {"low=fp4,group=64", 200, 200, 0, 0, 0, 0},
    {"low=fp8,group=64", 200, 200, 0, 0, 0, 0},
    {"low=int4,group=64", 200, 200, 0, 0, 0, SQF_CLIP_MSE},
    {"low=int4,group=64", 200, 200, 0, 0, SQF_COMPENSATE_NONE, 0},
    {"low=int4,high=int8,bank=64,high_per_bank=16", 300, 300, SQF_IMPORTANCE_OBS, 0, 0, 0},
    {"low=int4,high=int8,bank=64,high_per_bank=16", 300, 300, SQF_IMPORTANCE_HINV, 0, 0, 0},
    {"low=int4,high=int8,bank=64,high_per_bank=16", 300, 300, SQF_IMPORTANCE_GAIN, 0, 0, 0},
    {"low=int4,high=int8,bank=64,high_per_bank=16", 300, 300, SQF_IMPORTANCE_MAGNITUDE, 0, 0, 0},
    {"low=int4,high=int8,bank=64,high_per_bank=16", 300, 300, SQF_IMPORTANCE_OBS, 0, SQF_COMPENSATE_NONE, 0},
    {"low=int4,high=int8,bank=64,high_per_bank=16", 300, 170, SQF_IMPORTANCE_OBS, 0, 0, 0},
    {"low=int4,high=int8,bank=64,high_per_bank=16,scales=tied", 300, 300, 0, 0, 0, 0},
    {"low=int4,high=int8,bank=64,high_per_bank=16,scales=tied", 200, 200, 0, 0, 0, SQF_CLIP_MSE},
    {"low=int4,high=int8,bank=32,high_per_bank=4,group=192", 500, 500, 0, 0, 0, 0},
    {"low=int4,high=int8,bank=32,high_per_bank=4,group=row,layout=bitmask", 300, 100, 0, 0, 0, 0},
    {"low=int4,high=int8,bank=200,high_per_bank=20", 500, 500, 0, 0, 0, 0},
    {"low=int4,high=int8,bank=16,high_per_bank=0", 100, 100, 0, 0, 0, 0},
    {"low=int4,high=int8,bank=16,high_per_bank=16", 100, 100, 0, 0, 0, 0},
    {"low=int3,high=fp16,bank=96,high_per_bank=1,group=16", 300, 300, 0, 0, 0, 0},
    {"low=int4,high=int8,bank=192,high_per_bank=9,group=48", 500, 300, 0, 0, 0, 0},
    {"low=int4,high=int8,bank=512,high_per_bank=40,group=256", 700, 700, 0, 0, 0, SQF_CLIP_MSE},
    {"low=int4,high=int8,bank=65536,high_per_bank=4096,group=32", 300, 200, SQF_IMPORTANCE_HINV, 0, 0, 0},
    {"low=fp4,group=32,scale_type=e8m0", 200, 200, 0, 0, 0, SQF_CLIP_MSE},
    {"low=fp6,group=32,scale_type=e8m0", 200, 200, 0, 0, 0, 0},
    {"low=fp6e3m2,group=32", 200, 200, 0, 0, 0, 0},
    {"low=int2,high=fp16,bank=48,high_per_bank=6", 200, 200, 0, 0, 0, 0},
    {"low=int4,high=bf16,bank=64,high_per_bank=4", 200, 200, 0, 0, 0, 0},
    {"low=fp4,high=fp8,bank=64,high_per_bank=16", 200, 200, 0, 0, 0, 0},
    {"low=none,high=int8,bank=4,high_per_bank=2,group=128", 300, 300, 0, SQF_PRUNE_SPARSEGPT, 0, 0},
    {"low=none,high=int8,bank=4,high_per_bank=2,group=128", 300, 300, 0, SQF_PRUNE_WANDA, 0, 0},
    {"low=none,high=int8,bank=4,high_per_bank=2,group=128", 300, 300, 0, SQF_PRUNE_MAGNITUDE, 0, 0},
    {"low=none,high=int4,bank=4,high_per_bank=2,group=48", 300, 101, 0, SQF_PRUNE_SPARSEGPT, 0, 0},
    {"low=none,high=int8,bank=8,high_per_bank=4,group=row", 300, 300, 0, SQF_PRUNE_SPARSEGPT, 0, 0},
    {"low=none,high=int8,bank=192,high_per_bank=64,group=384", 500, 500, 0, SQF_PRUNE_SPARSEGPT, 0, 0},
    {"low=none,high=fp16,bank=4,high_per_bank=2,group=128", 200, 200, 0, SQF_PRUNE_SPARSEGPT, 0, 0},
    {"low=none,high=int8,bank=4,high_per_bank=2,group=128", 200, 200, 0, SQF_PRUNE_WANDA, SQF_COMPENSATE_NONE, 0},
};

#endif

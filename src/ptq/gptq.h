/* Inside of sqf_matrix_quantize: the plan of one matrix, and one block of rows on its way through the columns. */
#ifndef SQF_PTQ_GPTQ_H
#define SQF_PTQ_GPTQ_H

#include "base/random.h"
#include "ptq/algorithm.h"

/* Rows are independent of each other: one task takes a block of them through all columns. Everything that rounding
 * depends on follows from these constants and the shape, never from the number of threads. */
enum {
    GPTQ_ROWS = 128,  /* rows of a task; its floats for all columns should fit the second or third cache */
    GPTQ_LANES = 32,  /* rows that are quantized side by side: a leaf of them stays in the first cache */
    GPTQ_LEAF = 128,  /* columns whose errors are propagated one by one; wider ranges by matrix products */
    GPTQ_PENDING = 4, /* columns inside a leaf whose errors are propagated together */
    GPTQ_PANEL = 512  /* columns that are brought up to date by one product with all errors before them */
};

/* What begins at a column inside a leaf. */
enum { GPTQ_ENTER_GROUP = 1, GPTQ_ENTER_BANK = 2 };

typedef struct gptq_plan {
    const sqf_matrix_job *job;
    sqf_matrix *out;
    bool compensate;
    bool prune;       /* low = none: masks are chosen bank by bank, scales over whole groups */
    bool masks_first; /* groups lie inside banks: masks are chosen bank by bank, scales group by group after that */
    const sqf_partition *outer, *inner; /* groups and banks of `out`; the other way round with masks_first */
    uint32_t *group;                    /* [columns] scale group of each column */
    uint8_t *enters;     /* [columns] GPTQ_ENTER_*, only where the whole group or bank lies in one leaf */
    float *score_factor; /* [columns] the score of a weight is |w| times this */
    float *divisor;      /* [columns] U_jj, or 1 */
    uint64_t random_key; /* of (seed, name) */
} gptq_plan;

/* The workspace of one thread. */
typedef struct gptq_block {
    const gptq_plan *plan;
    size_t first_row, rows; /* rows <= GPTQ_ROWS; what is beyond is 0 and computed along */
    float *weights; /* [columns, GPTQ_ROWS] compensated weights; a finished column holds its errors (w - w') / U_jj */
    float *values;  /* [GPTQ_ROWS, columns] grid values */
    uint8_t *mask;  /* [GPTQ_ROWS, columns] */
    float *scale_low, *scale_high; /* [GPTQ_ROWS, groups] */
    uint8_t *shift;                /* [GPTQ_ROWS, groups] */
    float *x, *score;              /* [columns] a group of one row, gathered */
    uint8_t *ones;                 /* [columns] the mask of a group whose scale is chosen before its masks */
    float *product;                /* [GPTQ_ROWS, GPTQ_PANEL] scratch of the output error */
    bool overflow;                 /* an error became infinite or NaN */
} gptq_block;

/* Checks a job, makes `out` and the plan of how to fill it; gptq_plan_clear, also after a failure. */
sqf_status gptq_plan_create(sqf_context *context, const sqf_matrix_job *job, sqf_matrix *out, gptq_plan *plan,
                            sqf_error *err);
void gptq_plan_clear(gptq_plan *plan);

/* What is done on the way through the columns, in this order. */
typedef struct gptq_walker {
    /* weights [begin, end) take the errors of the columns [from, begin) */
    void (*catch_up)(void *user, size_t from, size_t begin, size_t end);
    /* [begin, end), wider than a leaf, is a group and/or bank (`what`): its scales, its masks */
    void (*enter)(void *user, unsigned what, size_t begin, size_t end);
    /* the columns [begin, end) are quantized one after another */
    void (*leaf)(void *user, size_t begin, size_t end);
    void *user;
} gptq_walker;
void gptq_walk(const gptq_plan *plan, const gptq_walker *walker);

/* Takes the loaded block through all columns: masks, scales, values, errors. */
void gptq_block_walk(gptq_block *block);

/* On entering columns [begin, end), which are a whole group and/or a whole bank (`what`): chooses masks and scales of
 * `lanes` rows from `lane`. source [end - begin, stride] holds the compensated weights, the first row at source[0]. */
void gptq_enter(gptq_block *block, unsigned what, const float *source, size_t stride, size_t lane, size_t lanes,
                size_t begin, size_t end);

/* After the walk: adds to the three sums of squares of one block, output energies only if the job has a Hessian.
 * Overwrites the block's weights. */
typedef struct gptq_energy {
    double weight, weight_error; /* ||W||^2, ||W - W'||^2 */
    double output, output_error; /* tr(W H W^T), tr((W - W') H (W - W')^T) */
} gptq_energy;

gptq_energy gptq_block_energy(gptq_block *block);

#endif

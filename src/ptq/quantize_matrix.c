/* Algorithm 1 on one matrix: checks, the plan, blocks of rows in parallel, packing, errors. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ptq/gptq.h"

/* All that the tasks share. Every task writes its own elements alone. */
typedef struct quantize_work {
    gptq_plan plan;
    gptq_block *blocks;    /* [threads] */
    gptq_energy *energies; /* [tasks] */
    size_t *bad;           /* [tasks] first row of a block that overflows, SIZE_MAX = none */
} quantize_work;

/* The same while weights are checked. */
typedef struct check_work {
    const sqf_matrix_job *job;
    size_t *bad; /* [tasks] index of the first weight that is not finite, SIZE_MAX = none */
} check_work;

static void check_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const check_work *work = user;
    const sqf_matrix_job *job = work->job;
    const size_t first = task * GPTQ_ROWS * job->columns;
    const size_t rows = job->rows - task * GPTQ_ROWS < GPTQ_ROWS ? job->rows - task * GPTQ_ROWS : GPTQ_ROWS;
    work->bad[task] = SIZE_MAX;
    for (size_t i = first; i < first + rows * job->columns; i++) {
        if (!isfinite(job->weights[i])) {
            work->bad[task] = i;
            return;
        }
    }
}

static sqf_status check_weights(sqf_context *context, const sqf_matrix_job *job, sqf_error *err)
{
    const size_t tasks = sqf_ceil_div(job->rows, GPTQ_ROWS);
    check_work work = {.job = job};
    sqf_status status = SQF_ALLOC(&work.bad, tasks, "blocks of rows", err);
    if (status == SQF_OK) {
        sqf_pool_run(context->pool, tasks, check_task, &work);
    }
    for (size_t task = 0; status == SQF_OK && task < tasks; task++) {
        const size_t at = work.bad[task];
        if (at != SIZE_MAX) {
            status = sqf_fail(err, SQF_E_VALUE, "%s: row %zu column %zu: found %g, expected a finite number", job->name,
                              at / job->columns, at % job->columns, (double)job->weights[at]);
        }
    }
    free(work.bad);
    return status;
}

static sqf_status check_job(const sqf_matrix_job *job, sqf_error *err)
{
    if (job->factor && job->factor->channels != job->columns) {
        return sqf_fail(err, SQF_E_SHAPE, "%s: a Hessian of %zu channels for %zu columns", job->name,
                        job->factor->channels, job->columns);
    }
    if (!job->factor && job->compensate != SQF_COMPENSATE_NONE) {
        return sqf_fail(err, SQF_E_ARG, "%s: compensate=gptq without calibration: expected none", job->name);
    }
    if (job->spec.low == SQF_TYPE_NONE && job->prune == SQF_PRUNE_WANDA && !job->input_norm) {
        return sqf_fail(err, SQF_E_ARG, "%s: prune=wanda without calibration: expected magnitude or sparsegpt",
                        job->name);
    }
    return SQF_OK;
}

/* A weight's score is |w| times this: squared it is the w^2 / U_jj^2 of obs, the w^2 / (H^-1_jj)^2 of hinv. Without
 * calibration the inverse is taken to be the identity. */
static float score_factor(const sqf_matrix_job *job, size_t j)
{
    const sqf_factor *f = job->factor;
    if (job->spec.low == SQF_TYPE_NONE) {
        if (job->prune == SQF_PRUNE_WANDA) {
            return job->input_norm[job->channels ? (size_t)job->channels[j] : j];
        }
        return f && job->prune == SQF_PRUNE_SPARSEGPT ? 1.0f / f->upper[j * job->columns + j] : 1.0f;
    }
    if (f && (job->importance == SQF_IMPORTANCE_OBS || job->importance == SQF_IMPORTANCE_GAIN)) {
        return 1.0f / f->upper[j * job->columns + j];
    }
    return f && job->importance == SQF_IMPORTANCE_HINV ? 1.0f / f->inverse_diagonal[j] : 1.0f;
}

/* Marks where the groups (or banks) begin that fit into a leaf. */
static void mark_entries(const sqf_partition *partition, uint8_t what, uint8_t *enters)
{
    const size_t count = sqf_partition_count(partition);
    for (size_t i = 0; i < count; i++) {
        size_t begin, end;
        sqf_partition_range(partition, i, &begin, &end);
        enters[begin] |= end - begin <= GPTQ_LEAF ? what : 0;
    }
}

/* A generator key of seed and name, so that equal matrices under other names draw other numbers. */
static uint64_t random_key(uint64_t seed, const char *name)
{
    sqf_random random = {seed};
    for (const char *c = name; *c; c++) {
        random.state = sqf_random_u64(&random) ^ (uint64_t)(unsigned char)*c;
    }
    return sqf_random_u64(&random);
}

void gptq_plan_clear(gptq_plan *plan)
{
    free(plan->group);
    free(plan->enters);
    free(plan->score_factor);
    free(plan->divisor);
}

static sqf_status make_plan(const sqf_matrix_job *job, sqf_matrix *out, gptq_plan *plan, sqf_error *err)
{
    *plan = (gptq_plan){.job = job, .out = out};
    plan->compensate = job->compensate != SQF_COMPENSATE_NONE;
    plan->prune = job->spec.low == SQF_TYPE_NONE;
    plan->masks_first = job->spec.high != SQF_TYPE_NONE && job->spec.group != 0 && job->spec.group < job->spec.bank;
    plan->outer = plan->masks_first ? &out->banks : &out->groups;
    plan->inner = plan->masks_first ? &out->groups : &out->banks;
    plan->random_key = random_key(job->seed, job->name);
    SQF_TRY(SQF_ALLOC(&plan->group, job->columns, "groups of columns", err));
    SQF_TRY(SQF_ALLOC(&plan->enters, job->columns, "groups of columns", err));
    SQF_TRY(SQF_ALLOC(&plan->score_factor, job->columns, "scores", err));
    SQF_TRY(SQF_ALLOC(&plan->divisor, job->columns, "diagonal of the factor", err));
    mark_entries(&out->groups, GPTQ_ENTER_GROUP, plan->enters);
    if (plan->prune || plan->masks_first) {
        mark_entries(&out->banks, GPTQ_ENTER_BANK, plan->enters);
    }
    for (size_t j = 0; j < job->columns; j++) {
        plan->group[j] = (uint32_t)sqf_partition_find(&out->groups, j);
        plan->score_factor[j] = score_factor(job, j);
        plan->divisor[j] = plan->compensate ? job->factor->upper[j * job->columns + j] : 1.0f;
    }
    return SQF_OK;
}

/* The units of fp8 scales, for the largest weight of the matrix. Compensated weights may become larger: their groups'
 * scales end at fp8's largest value. */
static void choose_units(const sqf_matrix_job *job, sqf_matrix *out)
{
    float max = job->largest;
    const bool find = max == 0.0f && job->spec.scale_type == SQF_TYPE_FP8;
    for (size_t i = 0; find && i < job->rows * job->columns; i++) {
        max = fmaxf(max, fabsf(job->weights[i]));
    }
    out->scale_unit[0] = sqf_scale_unit(job->spec.scale_type, job->spec.low, max);
    out->scale_unit[1] = sqf_scale_unit(job->spec.scale_type, job->spec.high, max);
}

sqf_status gptq_plan_create(sqf_context *context, const sqf_matrix_job *job, sqf_matrix *out, gptq_plan *plan,
                            sqf_error *err)
{
    *plan = (gptq_plan){0};
    *out = (sqf_matrix){0};
    SQF_TRY(check_job(job, err));
    SQF_TRY(sqf_matrix_create(&job->spec, job->rows, job->columns, job->border, job->channels, out, err));
    SQF_TRY(make_plan(job, out, plan, err));
    SQF_TRY(check_weights(context, job, err));
    choose_units(job, out);
    return SQF_OK;
}

static void block_clear(gptq_block *block)
{
    free(block->weights);
    free(block->values);
    free(block->mask);
    free(block->scale_low);
    free(block->scale_high);
    free(block->shift);
    free(block->x);
    free(block->score);
    free(block->ones);
    free(block->product);
}

static sqf_status block_create(const gptq_plan *plan, gptq_block *block, sqf_error *err)
{
    const size_t columns = plan->out->columns, groups = plan->out->group_count;
    block->plan = plan;
    /* GPTQ_ROWS rows of floats have a size: the Hessian's columns squared or sqf_matrix_create's checks say so */
    SQF_TRY(SQF_ALLOC(&block->weights, columns * GPTQ_ROWS, "weights of a block of rows", err));
    SQF_TRY(SQF_ALLOC(&block->values, columns * GPTQ_ROWS, "values of a block of rows", err));
    SQF_TRY(SQF_ALLOC(&block->mask, columns * GPTQ_ROWS, "masks of a block of rows", err));
    SQF_TRY(SQF_ALLOC(&block->scale_low, groups * GPTQ_ROWS, "scales of a block of rows", err));
    SQF_TRY(SQF_ALLOC(&block->scale_high, groups * GPTQ_ROWS, "scales of a block of rows", err));
    SQF_TRY(SQF_ALLOC(&block->shift, groups * GPTQ_ROWS, "scales of a block of rows", err));
    SQF_TRY(SQF_ALLOC(&block->x, columns, "weights of a group", err));
    SQF_TRY(SQF_ALLOC(&block->score, columns, "scores of a group", err));
    SQF_TRY(SQF_ALLOC(&block->ones, columns, "mask of a group", err));
    SQF_TRY(SQF_ALLOC(&block->product, (size_t)GPTQ_ROWS * GPTQ_PANEL, "outputs of a block of rows", err));
    memset(block->ones, 1, columns);
    return SQF_OK;
}

/* Columns in stored order, rows side by side; dead channels and rows beyond the last are 0. A few columns at a time: a
 * cache line of a row is read once. */
static void block_load(gptq_block *block)
{
    enum { AT_ONCE = 16 };
    const sqf_matrix_job *job = block->plan->job;
    const size_t columns = job->columns;
    if (block->rows < GPTQ_ROWS) {
        memset(block->weights, 0, columns * GPTQ_ROWS * sizeof *block->weights);
    }
    for (size_t first = 0; first < columns; first += AT_ONCE) {
        const size_t end = columns - first < AT_ONCE ? columns : first + AT_ONCE;
        for (size_t i = 0; i < block->rows; i++) {
            const float *row = job->weights + (block->first_row + i) * columns;
            for (size_t j = first; j < end; j++) {
                block->weights[j * GPTQ_ROWS + i] = row[job->channels ? (size_t)job->channels[j] : j];
            }
        }
    }
    for (size_t j = 0; job->factor && j < columns; j++) {
        if (job->factor->dead[j]) {
            memset(block->weights + j * GPTQ_ROWS, 0, GPTQ_ROWS * sizeof *block->weights);
        }
    }
}

static void block_pack(const gptq_block *block)
{
    sqf_matrix *out = block->plan->out;
    for (size_t i = 0; i < block->rows; i++) {
        const sqf_row row = {.mask = block->mask + i * out->columns,
                             .value = block->values + i * out->columns,
                             .scale_low = block->scale_low + i * out->group_count,
                             .scale_high = block->scale_high + i * out->group_count,
                             .shift = block->shift + i * out->group_count};
        sqf_matrix_pack_row(out, block->first_row + i, &row);
    }
}

static void quantize_task(void *user, size_t task, unsigned thread)
{
    quantize_work *work = user;
    gptq_block *block = &work->blocks[thread];
    const size_t rows = work->plan.job->rows;
    block->first_row = task * GPTQ_ROWS;
    block->rows = rows - block->first_row < GPTQ_ROWS ? rows - block->first_row : GPTQ_ROWS;
    block_load(block);
    gptq_block_walk(block);
    work->bad[task] = block->overflow ? block->first_row : SIZE_MAX;
    if (block->overflow) {
        return;
    }
    block_pack(block);
    work->energies[task] = gptq_block_energy(block);
}

static double ratio(double part, double whole)
{
    return whole > 0.0 ? part / whole : 0.0;
}

/* Blocks are added in order: the sums do not depend on which thread had which. */
static sqf_matrix_result sum_energies(const quantize_work *work, size_t tasks)
{
    gptq_energy sum = {0};
    for (size_t task = 0; task < tasks; task++) {
        sum.weight += work->energies[task].weight;
        sum.weight_error += work->energies[task].weight_error;
        sum.output += work->energies[task].output;
        sum.output_error += work->energies[task].output_error;
    }
    return (sqf_matrix_result){.weight_error = ratio(sum.weight_error, sum.weight),
                               .output_error =
                                   work->plan.job->hessian ? ratio(sum.output_error, sum.output) : (double)NAN,
                               .weight_square = sum.weight,
                               .output_square = sum.output};
}

static sqf_status quantize_blocks(sqf_context *context, quantize_work *work, sqf_matrix_result *result, sqf_error *err)
{
    const sqf_matrix_job *job = work->plan.job;
    const size_t tasks = sqf_ceil_div(job->rows, GPTQ_ROWS);
    const unsigned threads = sqf_pool_threads(context->pool);
    SQF_TRY(SQF_ALLOC(&work->bad, tasks, "blocks of rows", err));
    SQF_TRY(SQF_ALLOC(&work->energies, tasks, "blocks of rows", err));
    SQF_TRY(SQF_ALLOC(&work->blocks, threads, "blocks of rows", err));
    for (unsigned i = 0; i < threads; i++) {
        SQF_TRY(block_create(&work->plan, &work->blocks[i], err));
    }
    sqf_pool_run(context->pool, tasks, quantize_task, work);
    for (size_t task = 0; task < tasks; task++) {
        if (work->bad[task] != SIZE_MAX) {
            return sqf_fail(err, SQF_E_VALUE, "%s: rows from %zu: the compensated weights overflow", job->name,
                            work->bad[task]);
        }
    }
    if (result) {
        *result = sum_energies(work, tasks);
    }
    return SQF_OK;
}

sqf_status sqf_matrix_quantize(sqf_context *context, const sqf_matrix_job *job, sqf_matrix *out,
                               sqf_matrix_result *result, sqf_error *err)
{
    quantize_work work = {0};
    sqf_status status = gptq_plan_create(context, job, out, &work.plan, err);
    if (status == SQF_OK) {
        status = quantize_blocks(context, &work, result, err);
    }
    gptq_plan_clear(&work.plan);
    for (unsigned i = 0; work.blocks && i < sqf_pool_threads(context->pool); i++) {
        block_clear(&work.blocks[i]);
    }
    free(work.blocks);
    free(work.energies);
    free(work.bad);
    if (status != SQF_OK) {
        sqf_matrix_clear(out);
    }
    return status;
}

sqf_status sqf_matrix_trial_error(sqf_context *context, sqf_matrix_job job, const sqf_module_recipe *recipe,
                                  double *error, sqf_error *err)
{
    sqf_matrix matrix;
    sqf_matrix_result result;
    job.name = "search of smoothing factors";
    job.spec = recipe->scheme.weights;
    job.prune = SQF_PRUNE_MAGNITUDE;
    job.compensate = SQF_COMPENSATE_NONE;
    job.clip = recipe->clip;
    SQF_TRY(sqf_matrix_quantize(context, &job, &matrix, &result, err));
    sqf_matrix_clear(&matrix);
    *error = result.output_error;
    return SQF_OK;
}

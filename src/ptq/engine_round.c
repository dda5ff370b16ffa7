/* One matrix rounded on a device: what sqf_matrix_quantize is on the CPU. The checks, the plan and the packing of rows
 * are the same; between them the matrix is in the device's memory. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "device/device.h"
#include "ptq/engine.h"
#include "ptq/gptq.h"

/* The steps of the walk, as the device takes them. */
typedef struct step_list {
    sqf_cuda_gptq_step *steps; /* NULL while they are counted */
    size_t count;
} step_list;

static void add_step(step_list *list, sqf_cuda_gptq_step step)
{
    if (list->steps) {
        list->steps[list->count] = step;
    }
    list->count++;
}

static void add_catch_up(void *user, size_t from, size_t begin, size_t end)
{
    add_step(user, (sqf_cuda_gptq_step){.action = SQF_CUDA_GPTQ_CATCH_UP, .from = from, .begin = begin, .end = end});
}

static void add_enter(void *user, unsigned what, size_t begin, size_t end)
{
    add_step(user, (sqf_cuda_gptq_step){.action = SQF_CUDA_GPTQ_ENTER, .what = what, .begin = begin, .end = end});
}

static void add_leaf(void *user, size_t begin, size_t end)
{
    add_step(user, (sqf_cuda_gptq_step){.action = SQF_CUDA_GPTQ_LEAF, .begin = begin, .end = end});
}

static sqf_status list_steps(const gptq_plan *plan, step_list *list, sqf_error *err)
{
    const gptq_walker walker = {.catch_up = add_catch_up, .enter = add_enter, .leaf = add_leaf, .user = list};
    *list = (step_list){0};
    gptq_walk(plan, &walker);
    SQF_TRY(SQF_ALLOC(&list->steps, list->count, "steps through a matrix", err));
    list->count = 0;
    gptq_walk(plan, &walker);
    return SQF_OK;
}

/* Device memory of a job: pointers that go into it, to be released. */
enum { BUFFERS = 16 };
typedef struct device_job {
    const sqf_device *device;
    sqf_cuda_gptq job;
    void *owned[BUFFERS];
    size_t count;
    step_list list;
    /* what came back */
    float *values, *scale_low, *scale_high;
    uint8_t *mask, *shift;
    sqf_matrix *out;
} device_job;

static void job_clear(device_job *self)
{
    for (size_t i = 0; i < self->count; i++) {
        sqf_device_release(self->device, self->owned[i]);
    }
    free(self->list.steps);
    free(self->values);
    free(self->scale_low);
    free(self->scale_high);
    free(self->mask);
    free(self->shift);
}

/* Room for count elements, filled with those at `from` unless it is NULL. */
static sqf_status place(device_job *self, void *out, const void *from, size_t count, size_t size, sqf_error *err)
{
    void *memory;
    SQF_TRY(from ? sqf_device_place(self->device, &memory, from, count, size, "a matrix", err)
                 : sqf_device_alloc(self->device, &memory, count, size, "a matrix", err));
    self->owned[self->count++] = memory;
    memcpy(out, &memory, sizeof memory);
    return SQF_OK;
}

static sqf_status place_outputs(device_job *self, size_t weights, size_t groups, sqf_error *err)
{
    sqf_cuda_gptq *job = &self->job;
    SQF_TRY(place(self, &job->weights, NULL, weights, sizeof *job->weights, err));
    SQF_TRY(place(self, &job->values, NULL, weights, sizeof *job->values, err));
    SQF_TRY(place(self, &job->mask, NULL, weights, 1, err));
    SQF_TRY(place(self, &job->scale_low, NULL, groups, sizeof *job->scale_low, err));
    SQF_TRY(place(self, &job->scale_high, NULL, groups, sizeof *job->scale_high, err));
    SQF_TRY(place(self, &job->shift, NULL, groups, 1, err));
    SQF_TRY(SQF_ALLOC(&self->values, weights, "grid values", err));
    SQF_TRY(SQF_ALLOC(&self->mask, weights, "masks", err));
    SQF_TRY(SQF_ALLOC(&self->scale_low, groups, "scales", err));
    SQF_TRY(SQF_ALLOC(&self->scale_high, groups, "scales", err));
    return SQF_ALLOC(&self->shift, groups, "scales", err);
}

static sqf_status place_inputs(device_job *self, const sqf_matrix_job *from, const gptq_plan *plan, const float *upper,
                               sqf_error *err)
{
    sqf_cuda_gptq *job = &self->job;
    const sqf_factor *factor = from->factor;
    const size_t n = from->columns, f = sizeof(float);
    SQF_TRY(place(self, &job->original, from->weights, from->rows * n, f, err));
    SQF_TRY(place(self, &job->score_factor, plan->score_factor, n, f, err));
    SQF_TRY(place(self, &job->group, plan->group, n, sizeof *plan->group, err));
    SQF_TRY(place(self, &job->enters, plan->enters, n, 1, err));
    if (from->channels) {
        SQF_TRY(place(self, &job->channels, from->channels, n, sizeof *from->channels, err));
    }
    if (factor) {
        SQF_TRY(place(self, &job->dead, factor->dead, n, 1, err));
        SQF_TRY(place(self, &job->search_weight, factor->hessian_diagonal, n, f, err));
    }
    if (from->hessian) {
        SQF_TRY(place(self, &job->hessian, from->hessian, n * n, f, err));
    }
    if (plan->compensate && !upper) {
        return place(self, &job->upper, factor->upper, n * n, f, err);
    }
    job->upper = plan->compensate ? upper : NULL;
    return SQF_OK;
}

static sqf_status fetch(device_job *self, sqf_error *err)
{
    const sqf_cuda_gptq *job = &self->job;
    const sqf_cuda_ops *ops = self->device->ops;
    const size_t weights = job->rows * job->columns, groups = job->rows * job->group_count, f = sizeof(float);
    SQF_TRY(ops->download(self->device->cuda, self->values, job->values, weights * f, err));
    SQF_TRY(ops->download(self->device->cuda, self->mask, job->mask, weights, err));
    SQF_TRY(ops->download(self->device->cuda, self->scale_low, job->scale_low, groups * f, err));
    SQF_TRY(ops->download(self->device->cuda, self->scale_high, job->scale_high, groups * f, err));
    return ops->download(self->device->cuda, self->shift, job->shift, groups, err);
}

static void pack_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const device_job *self = user;
    sqf_matrix *out = self->out;
    const size_t begin = task * GPTQ_ROWS;
    for (size_t n = begin; n < begin + GPTQ_ROWS && n < out->rows; n++) {
        const sqf_row row = {.mask = self->mask + n * out->columns,
                             .value = self->values + n * out->columns,
                             .scale_low = self->scale_low + n * out->group_count,
                             .scale_high = self->scale_high + n * out->group_count,
                             .shift = self->shift + n * out->group_count};
        sqf_matrix_pack_row(out, n, &row);
    }
}

static double ratio(double part, double whole)
{
    return whole > 0.0 ? part / whole : 0.0;
}

static void describe(device_job *self, const sqf_matrix_job *from, const gptq_plan *plan)
{
    _Static_assert((int)GPTQ_LEAF == (int)SQF_CUDA_GPTQ_LEAF_COLUMNS &&
                       (int)GPTQ_ENTER_GROUP == (int)SQF_CUDA_GPTQ_GROUP &&
                       (int)GPTQ_ENTER_BANK == (int)SQF_CUDA_GPTQ_BANK,
                   "the device's names of the same things");
    self->job = (sqf_cuda_gptq){.spec = from->spec,
                                .rows = from->rows,
                                .columns = from->columns,
                                .group_count = plan->out->group_count,
                                .border = from->border,
                                .scale_unit = {plan->out->scale_unit[0], plan->out->scale_unit[1]},
                                .shift_max = sqf_shift_max(&from->spec),
                                .search = from->clip == SQF_CLIP_MSE,
                                .gain = from->importance == SQF_IMPORTANCE_GAIN,
                                .random = from->importance == SQF_IMPORTANCE_RANDOM,
                                .random_key = plan->random_key,
                                .first_row = from->first_row};
}

static sqf_status round_matrix(sqf_context *context, device_job *self, const sqf_matrix_job *from,
                               const gptq_plan *plan, const float *upper, sqf_matrix_result *result, sqf_error *err)
{
    sqf_cuda_gptq_result sums;
    describe(self, from, plan);
    SQF_TRY(list_steps(plan, &self->list, err));
    self->job.steps = self->list.steps;
    self->job.step_count = self->list.count;
    SQF_TRY(place_inputs(self, from, plan, upper, err));
    SQF_TRY(place_outputs(self, from->rows * from->columns, from->rows * self->job.group_count, err));
    SQF_TRY(self->device->ops->gptq(self->device->cuda, &self->job, &sums, err));
    if (sums.overflow_row != SIZE_MAX) {
        return sqf_fail(err, SQF_E_VALUE, "%s: rows from %zu: the compensated weights overflow", from->name,
                        sums.overflow_row / GPTQ_ROWS * GPTQ_ROWS);
    }
    SQF_TRY(fetch(self, err));
    self->out = plan->out;
    sqf_pool_run(context->pool, sqf_ceil_div(from->rows, GPTQ_ROWS), pack_task, self);
    if (result) {
        *result =
            (sqf_matrix_result){.weight_error = ratio(sums.weight_error, sums.weight),
                                .output_error = from->hessian ? ratio(sums.output_error, sums.output) : (double)NAN,
                                .weight_square = sums.weight,
                                .output_square = sums.output};
    }
    return SQF_OK;
}

sqf_status sqf_device_quantize(sqf_context *context, const sqf_matrix_job *job, const float *upper, sqf_matrix *out,
                               sqf_matrix_result *result, sqf_error *err)
{
    gptq_plan plan;
    device_job self = {.device = context->device};
    sqf_status status = gptq_plan_create(context, job, out, &plan, err);
    if (status == SQF_OK) {
        status = round_matrix(context, &self, job, &plan, upper, result, err);
    }
    job_clear(&self);
    gptq_plan_clear(&plan);
    if (status != SQF_OK) {
        sqf_matrix_clear(out);
    }
    return status;
}

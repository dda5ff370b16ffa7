/* Which weights of a bank are held high, and the scales of a group. Source: docs/format.md section 4, steps 3 and 4. */
#include <math.h>
#include <string.h>

#include "ptq/gptq.h"

/* The state of row n's generator; column j takes its j-th number, whatever was drawn before. */
static float random_score(const gptq_plan *plan, size_t row, size_t column)
{
    sqf_random seeded = {plan->random_key ^ (uint64_t)(plan->job->first_row + row) * 0xd1b54a32d192ed03u};
    sqf_random random = {sqf_random_u64(&seeded) + (uint64_t)column * 0x9e3779b97f4a7c15u};
    return (float)sqf_random_unit(&random);
}

static void scores(const gptq_block *block, const float *x, size_t row, size_t begin, size_t n, float *score)
{
    const gptq_plan *plan = block->plan;
    if (!plan->prune && plan->job->importance == SQF_IMPORTANCE_RANDOM) {
        for (size_t j = 0; j < n; j++) {
            score[j] = random_score(plan, row, begin + j);
        }
        return;
    }
    for (size_t j = 0; j < n; j++) {
        score[j] = fabsf(x[j]) * plan->score_factor[begin + j];
    }
}

/* The mask of each bank in a range that begins with a bank. */
static void select_banks(const gptq_plan *plan, const float *score, size_t n, uint8_t *mask)
{
    const sqf_weight_spec *spec = &plan->job->spec;
    for (size_t begin = 0; begin < n; begin += spec->bank) {
        const size_t width = n - begin < spec->bank ? n - begin : spec->bank;
        sqf_select_top(score + begin, width, sqf_bank_high(spec->bank, spec->high_per_bank, width), mask + begin);
    }
}

static float squared_error(sqf_type type, float x, float scale)
{
    const float d = x - sqf_type_round(type, x, scale) * scale;
    return d * d;
}

/* How much of a weight's error a high slot saves, with the scales that the masks by `obs` would have. */
static void gain_scores(const gptq_plan *plan, const float *x, size_t begin, size_t n, sqf_group_scales scales,
                        float *score)
{
    const sqf_weight_spec *spec = &plan->job->spec;
    for (size_t j = 0; j < n; j++) {
        const float saved = squared_error(spec->low, x[j], scales.low) - squared_error(spec->high, x[j], scales.high);
        score[j] = saved * plan->score_factor[begin + j] * plan->score_factor[begin + j];
    }
}

static sqf_group_scales choose_scales(const gptq_plan *plan, const float *x, const uint8_t *mask, size_t begin,
                                      size_t n)
{
    const sqf_matrix_job *job = plan->job;
    const float *weight = job->factor ? job->factor->hessian_diagonal + begin : NULL;
    return sqf_group_scales_choose_in(&job->spec, plan->out->scale_unit, x, mask, weight, n, job->clip == SQF_CLIP_MSE);
}

/* Masks of all banks in a range: by score, then with `gain` again, by what the scales that the first masks give over
 * the range save. */
static void enter_banks(gptq_block *block, size_t row, size_t begin, size_t n, uint8_t *mask)
{
    const gptq_plan *plan = block->plan;
    scores(block, block->x, row, begin, n, block->score);
    select_banks(plan, block->score, n, mask);
    if (!plan->prune && plan->job->importance == SQF_IMPORTANCE_GAIN) {
        gain_scores(plan, block->x, begin, n, choose_scales(plan, block->x, mask, begin, n), block->score);
        select_banks(plan, block->score, n, mask);
    }
}

/* Masks of all banks of a group, then its scales; where groups lie inside banks the masks are there already. With low =
 * none the scale covers what the group holds now, and the masks follow bank by bank. */
static sqf_group_scales enter_group(gptq_block *block, size_t row, size_t begin, size_t n, uint8_t *mask)
{
    const gptq_plan *plan = block->plan;
    if (plan->job->spec.high == SQF_TYPE_NONE) {
        return choose_scales(plan, block->x, NULL, begin, n);
    }
    if (plan->prune) {
        return choose_scales(plan, block->x, block->ones, begin, n);
    }
    if (!plan->masks_first) {
        enter_banks(block, row, begin, n, mask);
    }
    return choose_scales(plan, block->x, mask, begin, n);
}

void gptq_enter(gptq_block *block, unsigned what, const float *source, size_t stride, size_t lane, size_t lanes,
                size_t begin, size_t end)
{
    const gptq_plan *plan = block->plan;
    const size_t columns = plan->out->columns, groups = plan->out->group_count, n = end - begin;
    for (size_t i = lane; i < lane + lanes && i < block->rows; i++) {
        uint8_t *mask = block->mask + i * columns + begin;
        for (size_t j = 0; j < n; j++) {
            block->x[j] = source[j * stride + (i - lane)];
        }
        if (what & GPTQ_ENTER_GROUP) {
            const sqf_group_scales scales = enter_group(block, block->first_row + i, begin, n, mask);
            const size_t at = i * groups + plan->group[begin];
            block->scale_low[at] = scales.low;
            block->scale_high[at] = scales.high;
            block->shift[at] = scales.shift;
        }
        if (what & GPTQ_ENTER_BANK) {
            enter_banks(block, block->first_row + i, begin, n, mask);
        }
    }
}

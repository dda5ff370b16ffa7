/* GPTQ on a block of rows: from left to right through the columns, each column's rounding error pushed into the columns
 * right of it. Columns lie one after another with their rows side by side, so that a column of many rows is quantized
 * at once. Ranges nest: panels of groups, groups, banks,
 * leaves (banks, then groups where these lie inside); a range is brought up to date with all errors left of
 * it before anything is chosen inside it, which is what makes scales and masks see compensated weights. */
#include <math.h>
#include <string.h>

#include <cblas.h>

#include "ptq/gptq.h"

typedef enum walk_level { LEVEL_PANELS, LEVEL_OUTER, LEVEL_INNER, LEVEL_LEAVES } walk_level;

/* Columns of some rows while they are quantized. A column without scale has the divisor infinity, which rounds to 0. */
typedef struct leaf_state {
    float weights[GPTQ_LEAF][GPTQ_LANES];
    float values[GPTQ_LEAF][GPTQ_LANES];
    float low[GPTQ_LANES], high[GPTQ_LANES]; /* scales of the group */
    float low_divisor[GPTQ_LANES], high_divisor[GPTQ_LANES];
    uint32_t mask[GPTQ_LANES]; /* of one column, all ones = high */
    float largest;             /* |error|; NaN once there was one */
} leaf_state;

/* weights [begin, end) -= U[from..begin, begin..end)^T errors[from..begin) */
static void catch_up(void *user, size_t from, size_t begin, size_t end)
{
    const gptq_block *block = user;
    const gptq_plan *plan = block->plan;
    const size_t stride = plan->out->columns;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)(end - begin), GPTQ_ROWS, (int)(begin - from), -1.0f,
                plan->job->factor->upper + from * stride + begin, (int)stride, block->weights + from * GPTQ_ROWS,
                GPTQ_ROWS, 1.0f, block->weights + begin * GPTQ_ROWS, GPTQ_ROWS);
}

/* sqf_type_round for a whole column whose zero scales have become infinite divisors; `type` is a constant where this is
 * inlined, so that each case is one vector loop. Half floats have no scale and are rounded one by one. */
static inline __attribute__((always_inline)) void round_scaled(sqf_type type, const float *restrict x,
                                                               const float *restrict divisor, float *restrict out)
{
    const float limit = sqf_type_limits[type];
    for (int i = 0; i < GPTQ_LANES; i++) {
        const float q = sqf_clamp(x[i] / divisor[i], limit);
        out[i] = sqf_round_to_step(q, sqf_type_step(type, q));
    }
}

static void round_half(sqf_type type, const float *restrict x, float *restrict out)
{
    for (int i = 0; i < GPTQ_LANES; i++) {
        out[i] = sqf_type_round(type, x[i], 1.0f);
    }
}

static void round_column(sqf_type type, const float *restrict x, const float *restrict divisor, float *restrict out)
{
    switch (type) {
    case SQF_TYPE_INT2:
    case SQF_TYPE_INT3:
    case SQF_TYPE_INT4:
    case SQF_TYPE_INT5:
    case SQF_TYPE_INT6:
    case SQF_TYPE_INT8: {
        const float limit = sqf_type_limits[type];
        for (int i = 0; i < GPTQ_LANES; i++) {
            out[i] = sqf_round_to_step(sqf_clamp(x[i] / divisor[i], limit), 1.0f);
        }
        return;
    }
    case SQF_TYPE_FP4: round_scaled(SQF_TYPE_FP4, x, divisor, out); return;
    case SQF_TYPE_FP6: round_scaled(SQF_TYPE_FP6, x, divisor, out); return;
    case SQF_TYPE_FP6_E3M2: round_scaled(SQF_TYPE_FP6_E3M2, x, divisor, out); return;
    case SQF_TYPE_FP8: round_scaled(SQF_TYPE_FP8, x, divisor, out); return;
    case SQF_TYPE_FP8_E5M2: round_scaled(SQF_TYPE_FP8_E5M2, x, divisor, out); return;
    case SQF_TYPE_NONE: memset(out, 0, GPTQ_LANES * sizeof *out); return;
    case SQF_TYPE_FP16: round_half(SQF_TYPE_FP16, x, out); return;
    case SQF_TYPE_BF16: round_half(SQF_TYPE_BF16, x, out); return;
    default: return; /* no other type passes sqf_scheme_check */
    }
}

/* Reads the scales of the group of `column` for the rows from `lane`. */
static void load_scales(const gptq_block *block, leaf_state *leaf, size_t lane, size_t column)
{
    const size_t groups = block->plan->out->group_count;
    for (size_t i = 0; i < GPTQ_LANES; i++) {
        const size_t at = (lane + i) * groups + block->plan->group[column];
        leaf->low[i] = block->scale_low[at];
        leaf->high[i] = block->scale_high[at];
        leaf->low_divisor[i] = leaf->low[i] > 0.0f ? leaf->low[i] : INFINITY;
        leaf->high_divisor[i] = leaf->high[i] > 0.0f ? leaf->high[i] : INFINITY;
    }
}

static void load_mask(const gptq_block *block, leaf_state *leaf, size_t lane, size_t column)
{
    const size_t columns = block->plan->out->columns;
    for (size_t i = 0; i < GPTQ_LANES; i++) {
        leaf->mask[i] = -(uint32_t)block->mask[(lane + i) * columns + column];
    }
}

/* The grid values of one column; w becomes the error of the column, (w - w') / U_jj. */
static void quantize_column(const sqf_weight_spec *spec, leaf_state *leaf, float divisor, float *restrict w,
                            float *restrict value)
{
    float weight[GPTQ_LANES];
    round_column(spec->low, w, leaf->low_divisor, value);
    if (spec->high == SQF_TYPE_NONE) {
        for (int i = 0; i < GPTQ_LANES; i++) {
            weight[i] = value[i] * leaf->low[i];
        }
    } else {
        float high[GPTQ_LANES];
        round_column(spec->high, w, leaf->high_divisor, high);
        for (int i = 0; i < GPTQ_LANES; i++) {
            value[i] = leaf->mask[i] ? high[i] : value[i];
            weight[i] = value[i] * (leaf->mask[i] ? leaf->high[i] : leaf->low[i]);
        }
    }
    for (int i = 0; i < GPTQ_LANES; i++) {
        w[i] = (w[i] - weight[i]) / divisor;
    }
}

/* Not a maximum alone: a NaN must stay seen. */
static void watch_errors(leaf_state *leaf, const float *error)
{
    float sum = 0.0f;
    for (int i = 0; i < GPTQ_LANES; i++) {
        sum += fabsf(error[i]) * 0x1p-16f;
    }
    leaf->largest += sum;
}

/* w_j -= u_pj * e_p for the columns p in [first, next), one after another. */
static void apply_errors(leaf_state *leaf, const float *upper, size_t stride, size_t first, size_t next, size_t j)
{
    float *restrict w = leaf->weights[j];
    for (size_t p = first; p < next; p++) {
        const float *restrict error = leaf->weights[p];
        const float u = upper[p * stride + j];
        for (int i = 0; i < GPTQ_LANES; i++) {
            w[i] -= error[i] * u;
        }
    }
}

/* The same for GPTQ_PENDING columns at once: w is read and written once for all, which is what costs time. */
static void apply_four_errors(leaf_state *leaf, const float *upper, size_t stride, size_t first, size_t j)
{
    _Static_assert(GPTQ_PENDING == 4, "four columns are written out below");
    float *restrict w = leaf->weights[j];
    const float(*restrict error)[GPTQ_LANES] = (const float(*)[GPTQ_LANES])leaf->weights + first;
    const float *u = upper + first * stride + j;
    const float u0 = u[0], u1 = u[stride], u2 = u[2 * stride], u3 = u[3 * stride];
    for (int i = 0; i < GPTQ_LANES; i++) {
        w[i] = (((w[i] - error[0][i] * u0) - error[1][i] * u1) - error[2][i] * u2) - error[3][i] * u3;
    }
}

/* Pushes the errors of the pending columns [first, next) into the columns [next, end). */
static void propagate(leaf_state *leaf, const float *upper, size_t stride, size_t first, size_t next, size_t end)
{
    for (size_t j = next; j < end; j++) {
        if (next - first == GPTQ_PENDING) {
            apply_four_errors(leaf, upper, stride, first, j);
        } else {
            apply_errors(leaf, upper, stride, first, next, j);
        }
    }
}

/* What is chosen on entering an outer range, or an inner one. */
static unsigned kind_at(const gptq_plan *plan, bool outer)
{
    return outer == plan->masks_first ? GPTQ_ENTER_BANK : GPTQ_ENTER_GROUP;
}

/* Chooses what begins at this column: the range is that of the bank or group, which the plan found to lie in the leaf.
 */
static void enter_in_leaf(gptq_block *block, const leaf_state *leaf, size_t lane, size_t begin, size_t column)
{
    const gptq_plan *plan = block->plan;
    for (int k = 0; k < 2; k++) {
        const unsigned kind = kind_at(plan, k == 0);
        if (plan->enters[column] & kind) {
            const sqf_partition *partition = k == 0 ? plan->outer : plan->inner;
            size_t first, end;
            sqf_partition_range(partition, sqf_partition_find(partition, column), &first, &end);
            gptq_enter(block, kind, leaf->weights[column - begin], GPTQ_LANES, lane, GPTQ_LANES, first, end);
        }
    }
}

/* Quantizes the loaded columns one after another. Errors of up to GPTQ_PENDING columns wait until something is chosen
 * or there are enough of them; the column that is next always has them. */
static void quantize_columns(gptq_block *block, leaf_state *leaf, size_t lane, size_t begin, size_t count)
{
    const gptq_plan *plan = block->plan;
    const size_t stride = plan->out->columns;
    const float *upper = plan->compensate ? plan->job->factor->upper + begin * stride + begin : NULL;
    size_t pending = 0; /* the first column whose error waits */
    for (size_t j = 0; j < count; j++) {
        const size_t column = begin + j;
        if (upper && (plan->enters[column] || j - pending == GPTQ_PENDING)) {
            propagate(leaf, upper, stride, pending, j, count);
            pending = j;
        } else if (upper) {
            apply_errors(leaf, upper, stride, pending, j, j);
        }
        enter_in_leaf(block, leaf, lane, begin, column);
        if (j == 0 || plan->group[column] != plan->group[column - 1]) {
            load_scales(block, leaf, lane, column);
        }
        if (plan->job->spec.high != SQF_TYPE_NONE) {
            load_mask(block, leaf, lane, column);
        }
        quantize_column(&plan->job->spec, leaf, plan->divisor[column], leaf->weights[j], leaf->values[j]);
        watch_errors(leaf, leaf->weights[j]);
    }
}

/* Rows lane .. lane + GPTQ_LANES of the columns [begin, end). */
static void quantize_lanes(gptq_block *block, leaf_state *leaf, size_t lane, size_t begin, size_t end)
{
    const size_t columns = block->plan->out->columns, count = end - begin;
    for (size_t j = 0; j < count; j++) {
        memcpy(leaf->weights[j], block->weights + (begin + j) * GPTQ_ROWS + lane, sizeof leaf->weights[j]);
    }
    quantize_columns(block, leaf, lane, begin, count);
    for (size_t j = 0; j < count; j++) {
        memcpy(block->weights + (begin + j) * GPTQ_ROWS + lane, leaf->weights[j], sizeof leaf->weights[j]);
    }
    for (size_t i = 0; i < GPTQ_LANES; i++) {
        for (size_t j = 0; j < count; j++) {
            block->values[(lane + i) * columns + begin + j] = leaf->values[j][i];
        }
    }
}

static void quantize_leaf(void *user, size_t begin, size_t end)
{
    gptq_block *block = user;
    leaf_state leaf;
    leaf.largest = 0.0f;
    for (size_t lane = 0; lane < block->rows; lane += GPTQ_LANES) {
        quantize_lanes(block, &leaf, lane, begin, end);
    }
    block->overflow |= !isfinite(leaf.largest);
}

/* End of the child that begins at `begin`: as many whole ranges as the level's limit holds, at least one. */
static size_t child_end(const gptq_plan *plan, walk_level level, size_t begin, size_t end)
{
    if (level == LEVEL_LEAVES) {
        return end - begin < GPTQ_LEAF ? end : begin + GPTQ_LEAF;
    }
    const size_t limit = level == LEVEL_PANELS ? GPTQ_PANEL : GPTQ_LEAF;
    const sqf_partition *partition = level == LEVEL_INNER ? plan->inner : plan->outer;
    size_t index = sqf_partition_find(partition, begin);
    size_t first, child, next;
    sqf_partition_range(partition, index, &first, &child);
    while (child < end) {
        sqf_partition_range(partition, ++index, &first, &next);
        if (next - begin > limit) {
            break;
        }
        child = next;
    }
    return child;
}

/* A group or bank wider than a leaf: its weights are up to date, chosen for all rows before the descent. */
static void enter_wide(void *user, unsigned what, size_t begin, size_t end)
{
    gptq_block *block = user;
    gptq_enter(block, what, block->weights + begin * GPTQ_ROWS, GPTQ_ROWS, 0, GPTQ_ROWS, begin, end);
}

/* All columns of [begin, end), which errors left of `begin` have reached already. */
static void walk(const gptq_plan *plan, const gptq_walker *walker, walk_level level, size_t begin, size_t end)
{
    for (size_t child = begin, next; child < end; child = next) {
        next = child_end(plan, level, child, end);
        if (plan->compensate && child > begin) {
            walker->catch_up(walker->user, begin, child, next);
        }
        if (level == LEVEL_PANELS) {
            walk(plan, walker, LEVEL_OUTER, child, next);
        } else if (next - child <= GPTQ_LEAF) {
            walker->leaf(walker->user, child, next);
        } else {
            if (level == LEVEL_OUTER) {
                walker->enter(walker->user, kind_at(plan, true), child, next);
            } else if (plan->prune || plan->masks_first) {
                walker->enter(walker->user, kind_at(plan, false), child, next);
            }
            walk(plan, walker, level + 1, child, next);
        }
    }
}

void gptq_walk(const gptq_plan *plan, const gptq_walker *walker)
{
    walk(plan, walker, LEVEL_PANELS, 0, plan->out->columns);
}

void gptq_block_walk(gptq_block *block)
{
    const gptq_walker walker = {.catch_up = catch_up, .enter = enter_wide, .leaf = quantize_leaf, .user = block};
    block->overflow = false;
    memset(block->mask, 0, GPTQ_ROWS * block->plan->out->columns);
    gptq_walk(block->plan, &walker);
}

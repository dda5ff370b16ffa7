/* The cost model: products by rate and float operations, from a scheme and a shape. Spec: docs/format.md section 6. */
#include <sqf/cost.h>

#include <math.h>

#include "format/products.h"
#include "format/reference.h"
#include "format/zero_point.h"

enum { LOW, HIGH, PARTS };

/* Long enough that a tail and what is done once a row vanish: 2^20 columns. */
#define LONG_ROW ((size_t)1 << 20)

sqf_cost_model sqf_cost_model_default(void)
{
    return (sqf_cost_model){.low = 0.5, .high = 1.0, .wide = 2.0, .scale = 4.0};
}

/* `amount` products of a pair of types to the rate that they run at; those of a dropped part to none. */
static void add_products(sqf_cost *cost, sqf_type weight, sqf_type act, double amount)
{
    const unsigned a = sqf_type_bits(weight), b = sqf_type_bits(act), wider = a > b ? a : b;
    if (a > 0 && b > 0) {
        *(wider <= 4 ? &cost->low : wider <= 8 ? &cost->high : &cost->wide) += amount;
    }
}

/* Sums that a stretch of columns takes on the side of the weights: one a part, both as one with tied scales. */
static double weight_parts(const sqf_weight_spec *spec)
{
    const bool both = spec->high_per_bank > 0 && spec->high_per_bank < spec->bank && spec->low != SQF_TYPE_NONE;
    return spec->high != SQF_TYPE_NONE && both && spec->scales == SQF_SCALES_FREE ? 2.0 : 1.0;
}

/* Ranges of columns over which both cuts are constant. They nest (sqf_scheme_check), so it is the finer one that
 * counts, section by section. */
static double count_stretches(const sqf_partition *a, const sqf_partition *b)
{
    const size_t count_a = sqf_partition_count(a), count_b = sqf_partition_count(b);
    return (double)(count_a > count_b ? count_a : count_b);
}

/* Ranges of columns with a zero point of their own. Its share of an output is the zero point times a constant, the sum
 * of the weights' scales times the sums of their columns, so that it takes a multiplication and an addition. */
static double count_zeros(const sqf_act_spec *act, const sqf_partition *acts)
{
    const sqf_partition before = sqf_partition_make(acts->border, acts->border, acts->size);
    const double low_section = (double)sqf_partition_count(&before), all = (double)sqf_partition_count(acts);
    const double low = sqf_act_has_zero(act, false), high = sqf_act_has_zero(act, true);
    if (!sqf_act_spec_is_split(act)) {
        return low * all;
    }
    return act->mask == SQF_MASK_STATIC ? low * low_section + high * (all - low_section) : (low + high) * all;
}

/* Float operations of one output channel. With `sums` integer sums, each multiplied by the finer scale and added within
 * the coarser range, then `coarse` multiplications and coarse - 1 additions: 2 * sums + coarse - 1. */
static double row_operations(const sqf_scheme *scheme, size_t columns, size_t border)
{
    const sqf_act_spec *act = &scheme->activations;
    const sqf_partition weights = sqf_partition_make(columns, border, scheme->weights.group);
    sqf_partition acts = sqf_partition_make(columns, border, 0);
    if (!sqf_act_spec_is_float(act) && act->scale == SQF_ACT_GROUP) {
        acts = sqf_act_scale_groups(act, &weights);
    }
    const double of_weights = weight_parts(&scheme->weights);
    const double of_acts = sqf_act_spec_is_split(act) && act->mask == SQF_MASK_DYNAMIC ? 2.0 : 1.0;
    const double sums = count_stretches(&weights, &acts) * of_weights * of_acts;
    const double weight_ranges = (double)sqf_partition_count(&weights) * of_weights;
    const double act_ranges = (double)sqf_partition_count(&acts) * of_acts;
    return 2.0 * sums + fmin(weight_ranges, act_ranges) - 1.0 + 2.0 * count_zeros(act, &acts);
}

sqf_cost sqf_cost_linear(const sqf_scheme *scheme, size_t rows, size_t columns)
{
    const sqf_weight_spec *weights = &scheme->weights;
    const sqf_act_spec *act = &scheme->activations;
    const size_t border = sqf_act_low_channels(act, columns);
    const sqf_row_products products = sqf_row_products_count(weights, act, columns, border);
    const sqf_type weight_types[PARTS] = {weights->low, weights->high}, act_types[PARTS] = {act->low, act->high};
    sqf_cost cost = {.products = (double)rows * (double)columns};
    for (int a = LOW; a <= HIGH; a++) {
        for (int w = LOW; w <= HIGH; w++) {
            add_products(&cost, weight_types[w], act_types[a], (double)rows * (double)products.amount[a][w]);
        }
    }
    if (!sqf_weight_spec_is_dense(weights) && columns > 0) {
        cost.operations = (double)rows * row_operations(scheme, columns, border);
    }
    return cost;
}

sqf_cost sqf_cost_rotation(size_t channels, size_t factor, bool mixed)
{
    const double n = (double)channels, block = n / (double)factor;
    return (sqf_cost){.operations = n * (log2(block) + (mixed && factor > 1 ? 2.0 * (double)factor : 0.0))};
}

void sqf_cost_add(sqf_cost *sum, const sqf_cost *part)
{
    sum->products += part->products;
    sum->low += part->low;
    sum->high += part->high;
    sum->wide += part->wide;
    sum->operations += part->operations;
}

double sqf_cost_low_rate_share(const sqf_cost *cost)
{
    const double all = cost->low + cost->high + cost->wide;
    return all > 0.0 ? cost->low / all : 0.0;
}

double sqf_cost_per_product(const sqf_cost *cost, const sqf_cost_model *model)
{
    const sqf_cost_model weights = model ? *model : sqf_cost_model_default();
    const double units = weights.low * cost->low + weights.high * cost->high + weights.wide * cost->wide +
                         weights.scale * cost->operations;
    return cost->products > 0.0 ? units / cost->products : 0.0;
}

double sqf_scheme_cost(const sqf_scheme *scheme, const sqf_cost_model *model)
{
    const sqf_cost cost = sqf_cost_linear(scheme, 1, LONG_ROW);
    return sqf_cost_per_product(&cost, model);
}

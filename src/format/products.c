/* Products of one row by the parts that meet. All rows have the same counts: the number of high elements of a row
 * follows from the shape (docs/format.md section 2). */
#include "format/products.h"

enum { LOW, HIGH, PARTS };

/* Adds `columns` columns, cut into sections at `border`, of which `high_acts` are high for every token. */
static void count_columns(const sqf_weight_spec *weights, size_t columns, size_t border, uint64_t high_acts,
                          sqf_row_products *products)
{
    const sqf_partition banks = sqf_partition_make(columns, border, weights->bank);
    const bool split = weights->high != SQF_TYPE_NONE;
    const uint64_t high = split ? sqf_partition_high(&banks, weights->bank, weights->high_per_bank) : 0;
    const uint64_t amounts[PARTS] = {columns - high, high};
    for (int part = LOW; columns > 0 && part <= HIGH; part++) {
        const uint64_t with_high = amounts[part] * high_acts / columns;
        products->amount[HIGH][part] += with_high;
        products->amount[LOW][part] += amounts[part] - with_high;
    }
}

sqf_row_products sqf_row_products_count(const sqf_weight_spec *weights, const sqf_act_spec *activations, size_t columns,
                                        size_t border)
{
    sqf_row_products products = {0};
    if (!sqf_act_spec_is_split(activations)) {
        count_columns(weights, columns, border, 0, &products);
    } else if (activations->mask == SQF_MASK_STATIC) {
        count_columns(weights, border, border, 0, &products);
        count_columns(weights, columns - border, columns - border, columns - border, &products);
    } else {
        const sqf_partition banks = sqf_partition_make(columns, columns, activations->bank);
        const uint64_t high = sqf_partition_high(&banks, activations->bank, activations->high_per_bank);
        count_columns(weights, columns, border, high, &products);
    }
    return products;
}

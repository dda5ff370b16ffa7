/* How many products of a row meet in which parts: counted from the shape alone. The kernels count what they did by it,
 * the cost model what a scheme takes. */
#ifndef SQF_FORMAT_PRODUCTS_H
#define SQF_FORMAT_PRODUCTS_H

#include "format/partition.h"

/* Products of one output channel and one token by the parts of both operands (low 0, high 1). */
typedef struct sqf_row_products {
    uint64_t amount[2][2]; /* [activation part][weight part] */
} sqf_row_products;

/* `columns` stored columns, the first `border` of them the low section (== columns where there is only one). With
 * dynamic masks the share of high channels, which is fixed, is taken for both parts of the weights. Both
 * specifications have passed sqf_scheme_check. */
sqf_row_products sqf_row_products_count(const sqf_weight_spec *weights, const sqf_act_spec *activations, size_t columns,
                                        size_t border);

#endif

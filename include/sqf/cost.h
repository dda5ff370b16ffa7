/** @file cost.h
 *  The predicted cost of a linear layer, in units of one 8-bit product. Source: docs/format.md section 6.
 *
 *  A prediction of arithmetic, not of a machine: how many products run at which rate, and how many float operations
 *  the sums take on top. Compare schemes with it where no hardware is at hand that runs all of them. */
#ifndef SQF_COST_H
#define SQF_COST_H

#include <sqf/format.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What things cost, in units of one 8-bit product. */
typedef struct sqf_cost_model {
    double low;  /**< a product with both operands at 4 bits or fewer */
    double high; /**< a product with both operands at 8 bits or fewer */
    double wide; /**< a product with an operand of more than 8 bits */
    double
        scale; /**< a float operation: scaling a sum, adding it, a step of a rotation; 0 = hidden beside the products */
} sqf_cost_model;

/** The defaults: low 0.5, high 1, wide 2, scale 4. One lane of a 512-bit vector instruction multiplies and adds four
 *  pairs of bytes (VNNI) or one pair of floats, so a float operation costs as much as four products; a machine with
 *  4-bit products does twice as many of them. A GPU scales sums beside its tensor unit: set `scale` to 0 for it. */
SQF_API sqf_cost_model sqf_cost_model_default(void);

/** Work for one token, as counts that any cost model can weigh. Zero-initialised: no work. */
typedef struct sqf_cost {
    double products;   /**< multiply-accumulates of the full matrices, N * K of each */
    double low;        /**< of them: both operands at 4 bits or fewer */
    double high;       /**< of them: the wider operand at 5 to 8 bits */
    double wide;       /**< of them: the wider operand beyond 8 bits, or float; the rest of `products` is dropped */
    double operations; /**< float operations: sums that are scaled and added up, zero points, what callers add */
} sqf_cost;

/** The work of a linear layer with weights [rows, columns] for one token.
 *
 * Products are counted by the parts that meet, with the real borders and tails. Sums are taken over stretches of
 * columns with constant scales, once for each pair of parts that can meet in a stretch (tied scales make one of both
 * weight parts): every sum is scaled and added up, 2 operations; where the scales of both operands change within a row,
 * the coarser one is applied once to each of its own sums, so that equal groups on both sides take 3. A zero point
 * takes 2 operations for each range that has one of its own: the products of weight scales and column sums are
 * constants. Quantizing the input is left out: it is the same for every scheme and shared by all N outputs.
 * Unquantized weights have no sums to scale.
 * The scheme must pass sqf_scheme_check. Safe from any thread. */
SQF_API sqf_cost sqf_cost_linear(const sqf_scheme *scheme, size_t rows, size_t columns);

/** The work of a rotation of an input at run time for one token, docs/format.md section 8: log2(channels / factor)
 * additions a channel for the Hadamard transform, and if it is mixed 2 * factor for the dense factor. Products are
 * those of the layer behind it: none here. Factor: sqf_hadamard_factor, or the number of channels for a dense rotation.
 */
SQF_API sqf_cost sqf_cost_rotation(size_t channels, size_t factor, bool mixed);

/** Add the work of another part of the model to a sum. */
SQF_API void sqf_cost_add(sqf_cost *sum, const sqf_cost *part);

/** The part of the multiply-accumulates that have both operands at 4 bits or fewer, dropped ones left out; 0 without
 *  any. */
SQF_API double sqf_cost_low_rate_share(const sqf_cost *cost);

/** Cost per product: weighted work over `products`, so that 1 means "as 8-bit products without any scales".
 *  @param model  NULL for the defaults.
 *  @return 0 without products. */
SQF_API double sqf_cost_per_product(const sqf_cost *cost, const sqf_cost_model *model);

/** Cost per product of a scheme for long rows (2^20 columns): the figure of tables, free of tails and of what is done
 *  once a row. @param model  NULL for the defaults. */
SQF_API double sqf_scheme_cost(const sqf_scheme *scheme, const sqf_cost_model *model);

#ifdef __cplusplus
}
#endif
#endif

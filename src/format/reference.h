/* The scalar reference: activations quantized and the dual-path product computed literally as docs/format.md
 * sections 5 and 8 say. Slow on purpose; every kernel is checked against it. */
#ifndef SQF_FORMAT_REFERENCE_H
#define SQF_FORMAT_REFERENCE_H

#include "format/matrix.h"

/* One token's input, quantized, in STORED column order (after the gather). Arrays are the caller's. */
typedef struct sqf_act_row {
    sqf_type low, high; /* types of the parts; written by sqf_act_quantize_row */
    uint8_t *mask;      /* [columns] 1 = high; all 0 for uniform activations */
    float *value;       /* [columns] grid values; x itself for float activations */
    float *scale_low;   /* [groups of `scales`]; the one scale of the token repeated with SQF_ACT_TOKEN */
    float *scale_high;  /* [groups of `scales`] */
    int32_t *zero_low;  /* [groups of `scales`] codes of 0; NULL without zero points. value is the code less its zero */
    int32_t *zero_high;
} sqf_act_row;

/* The groups over which activation scales vary, for a matrix that reads this input: with SQF_ACT_GROUP and a group of
 * its own by spec->group, with the matrix's border; else `weights_groups`. */
sqf_partition sqf_act_scale_groups(const sqf_act_spec *spec, const sqf_partition *weights_groups);

/* Quantizes one token.
 * x        [columns] in original channel order; finite.
 * channels [columns] gather list or NULL; border: columns of the low section (static masks).
 * static_scale  SQF_ACT_STATIC: [2] scale of the low and of the high part, else NULL.
 * static_zero   the same for zero points, else NULL.
 * column_norm   dynamic masks that weigh by ||W_:,j||_2: [columns] in original order, else NULL.
 * Static masks: the low section is low, the high section high. Dynamic: top k by |x| in each bank of consecutive
 * channels (channels is NULL then). Scales are float32: clip * absmax / qmax over the part (and group). */
void sqf_act_quantize_row(const sqf_act_spec *spec, const float *x, size_t columns, const int32_t *channels,
                          size_t border, const sqf_partition *scale_groups, const float *static_scale,
                          const int32_t *static_zero, const float *column_norm, sqf_act_row *out);

/* y[n] for all rows of `weights` and one token, in float64 from exact integer sums. Pairs of parts of which one is not
 * an integer type (fp8, fp16, bf16, float activations) are summed as products in float64.
 * sums (may be NULL) [rows][G][2][2]: the integer sums by group, activation part, weight part (low 0, high 1) in units
 * of the products of grid values; 0 for pairs that are not integer. magnitude (may be NULL) [rows]: sum of |terms|,
 * the unit of the allowed float difference; a term is a scaled integer sum, or a single product where there is none.
 * SQF_E_SUPPORT if a group is so long that an int32 sum could overflow; SQF_E_MEMORY. */
sqf_status sqf_reference_product(const sqf_matrix *weights, const sqf_act_row *act, const sqf_partition *scale_groups,
                                 double *y, int32_t *sums, double *magnitude, sqf_error *err);

#endif

/** @file format.h
 *  SQ-format as data: element types, the specification of one operand and of a scheme, names, and bits.
 *
 *  Letters: M tokens, N output channels, K input channels, b bank size, k high elements of a bank, s = 1 - k/b
 * sparsity. Source: docs/format.md; the paper is arXiv 2512.05409. */
#ifndef SQF_FORMAT_H
#define SQF_FORMAT_H

#include <sqf/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Element types. SQF_TYPE_NONE: the element is dropped (its value is 0). */
typedef enum sqf_type {
    SQF_TYPE_NONE = 0,
    SQF_TYPE_INT2,
    SQF_TYPE_INT3,
    SQF_TYPE_INT4,
    SQF_TYPE_INT5,
    SQF_TYPE_INT6,
    SQF_TYPE_INT8,
    SQF_TYPE_FP4,      /**< E2M1 */
    SQF_TYPE_FP8,      /**< OCP E4M3, largest 448 */
    SQF_TYPE_FP16,     /**< high part or unquantized; carries no scale */
    SQF_TYPE_BF16,     /**< high part or unquantized; carries no scale */
    SQF_TYPE_FP32,     /**< scales and unquantized tensors only */
    SQF_TYPE_FP6,      /**< E2M3, largest 7.5 */
    SQF_TYPE_FP6_E3M2, /**< largest 28 */
    SQF_TYPE_FP8_E5M2, /**< OCP, largest 57344 */
    SQF_TYPE_E8M0,     /**< scales only: a power of two from 2^-127 to 2^127 */
    SQF_TYPE_COUNT
} sqf_type;

/** Bits of one element: 0 for none, 4 for int4 and fp4, ... */
SQF_API unsigned sqf_type_bits(sqf_type type);
/** Largest magnitude on the type's grid: 7 for int4, 6 for fp4, 448 for fp8; 0 for none and for types without scale. */
SQF_API float sqf_type_max(sqf_type type);
/** "int4", "fp8", "bf16", "none", ...; a static string. */
SQF_API const char *sqf_type_name(sqf_type type);
/** The inverse of sqf_type_name, any case; false if the name is unknown. */
SQF_API bool sqf_type_parse(const char *name, sqf_type *out);

typedef enum sqf_scales { SQF_SCALES_FREE = 0, SQF_SCALES_TIED } sqf_scales;
typedef enum sqf_layout { SQF_LAYOUT_VMASK = 0, SQF_LAYOUT_BITMASK } sqf_layout;

/** How a weight matrix is held. One parameterization covers SQ-format and its baselines:
 *  - unquantized: low = BF16, FP16 or FP32, high_per_bank = 0 (sqf_weight_spec_is_dense);
 *  - uniform: low = the type, high = NONE, high_per_bank = 0, bank, scales and layout unused;
 *  - SQ-format: low and high types, bank b, high_per_bank k, group = bank;
 *  - N:M pruning: low = NONE, high = the survivors' type, bank = M, high_per_bank = N, bitmask layout. */
typedef struct sqf_weight_spec {
    sqf_type low, high;
    uint32_t bank;          /**< b, consecutive stored columns; 1..SQF_BANK_MAX */
    uint32_t high_per_bank; /**< k, 0..b; a tail bank of b' columns has round-half-up(k*b'/b), at least 1 if k >= 1 */
    uint32_t group;         /**< columns that share scales: a multiple or a divisor of bank, or 0 = the whole row */
    sqf_type scale_type;    /**< FP16 (default), BF16, FP32, E8M0, or FP8 times one FP32 scale a tensor and part */
    sqf_scales scales;      /**< tied: integer parts only */
    sqf_layout layout;      /**< vmask: a sentinel in the low plane; bitmask: one bit an element */
} sqf_weight_spec;

enum { SQF_BANK_MAX = 1 << 16 };

typedef enum sqf_mask_mode { SQF_MASK_STATIC = 0, SQF_MASK_DYNAMIC } sqf_mask_mode;
typedef enum sqf_act_scale { SQF_ACT_TOKEN = 0, SQF_ACT_GROUP, SQF_ACT_STATIC } sqf_act_scale;
typedef enum sqf_act_zero { SQF_ACT_ZERO_NONE = 0, SQF_ACT_ZERO_POINT, SQF_ACT_ZERO_LOW } sqf_act_zero;

/** How the input of a matrix product is held.
 *  - float: low = FP32 (written A16), high_per_bank = 0;
 *  - uniform: low = the type, high = NONE, high_per_bank = 0;
 *  - SQ-format: low and high types, bank, high_per_bank, mask mode. */
typedef struct sqf_act_spec {
    sqf_type low, high;
    uint32_t bank, high_per_bank;
    sqf_mask_mode mask;
    bool dynamic_weighted; /**< dynamic masks: rank by |x_j| * ||W_:,j||_2 in place of |x_j| */
    sqf_act_scale scale;
    uint32_t group;  /**< SQF_ACT_GROUP: stored columns that share a scale; 0 = the borders of the weights' groups */
    float clip;      /**< scale = clip * absmax / qmax; 0.001..1, 1 = none */
    float high_clip; /**< the same for the high part of a split input; 0 = as clip */
    sqf_type scale_type; /**< what scales are rounded to: FP32 (NONE means it too), FP16, BF16, E8M0, or FP8 times one
                              FP32 scale a token and part; not with SQF_ACT_STATIC */
    sqf_act_zero zero; /**< SQF_ACT_ZERO_POINT: each scale of an integer part comes with the code that stands for 0, and
                            the codes cover lowest to largest value; needs a scale_type of FP32. SQF_ACT_ZERO_LOW: of
                            the low part of a split input alone */
} sqf_act_spec;

/** What a linear layer computes with. */
typedef struct sqf_scheme {
    sqf_weight_spec weights;
    sqf_act_spec activations;
} sqf_scheme;

/** True if the weights are not quantized. */
SQF_API bool sqf_weight_spec_is_dense(const sqf_weight_spec *spec);
/** True if the activations are not quantized. */
SQF_API bool sqf_act_spec_is_float(const sqf_act_spec *spec);
/** True if some elements are held high and some low (0 < k, two types). */
SQF_API bool sqf_act_spec_is_split(const sqf_act_spec *spec);

/** What the scales of quantized activations are rounded to: scale_type, FP32 where that is NONE. */
SQF_API sqf_type sqf_act_scale_type(const sqf_act_spec *spec);

/** The clipping ratio of a part. */
static inline float sqf_act_part_clip(const sqf_act_spec *spec, bool high)
{
    return high && spec->high_clip > 0.0f ? spec->high_clip : spec->clip;
}

/** Check that every field is in range and the combination has a meaning.
 *  @return SQF_OK; SQF_E_ARG with a line that names the field, what was found and what is possible. */
SQF_API sqf_status sqf_scheme_check(const sqf_scheme *scheme, sqf_error *err);

/** Read a scheme's name. Three spellings, any case, all documented by sqf_scheme_help and docs/format.md section 9:
 *  short "W4A(SQ6)", "W(SQ5)A8", "W4A16", "BF16", "W8A8-2:4"; shell-safe "w4a-sq6", "w-sq5-a8"; operands in full
 *  "W(64-(8/4)-0.75)A8", where an operand alone, "64-(8/4)-0.75", means weights with activations in float; and the long
 * form "low=int4,group=128;low=int4,high=int8,bank=16,high_per_bank=8" which reaches every field (weights;
 * activations), fields left out having their defaults. Fields may also follow a name and change it:
 * "W4A8,group=32;scale=group". A field that has no meaning for the scheme is an error. Fields without a meaning come
 * back as 0 or their default; the scheme has passed sqf_scheme_check.
 *  @return SQF_OK; SQF_E_ARG (a name that means nothing; *out untouched). */
SQF_API sqf_status sqf_scheme_parse(const char *name, sqf_scheme *out, sqf_error *err);

/** Room for any name that sqf_scheme_print writes. */
#define SQF_SCHEME_TEXT 512

typedef enum sqf_spelling {
    SQF_SPELLING_SHORT, /**< "W4A(SQ6)", "W4A8,group=32": a name and the fields that differ; rarely the long form */
    SQF_SPELLING_SHELL, /**< "w4a-sq6", "w4a8+scale=group": the same without parentheses and ";" */
    SQF_SPELLING_LONG   /**< every field that has a meaning; the form that files hold */
} sqf_spelling;

/** Write a scheme's name; sqf_scheme_parse reads each spelling back to an equal scheme.
 *  The scheme must pass sqf_scheme_check. */
SQF_API void sqf_scheme_print(const sqf_scheme *scheme, sqf_spelling spelling, char text[SQF_SCHEME_TEXT]);

/** Equality of meaning: fields that the scheme does not use are not compared. */
SQF_API bool sqf_scheme_equal(const sqf_scheme *a, const sqf_scheme *b);

/** Bits of the two operands. Equivalent bits y = (1-s)*h + s*l; stored bits count codes, masks and scales as in
 *  docs/format.md section 6, for whole banks and rows of any length (a scale for a whole row counts 0). Unquantized
 *  activations count 16 equivalent bits. Activations are not stored: their second figure does not exist. */
typedef struct sqf_scheme_bits {
    double weights_equivalent, activations_equivalent;
    double weights_stored;
    double low_rate_share; /**< part of the multiply-accumulates with both operands at 4 bits or fewer, dropped ones
                              left out */
} sqf_scheme_bits;

/** The bits of a scheme that passes sqf_scheme_check. Safe from any thread. */
SQF_API sqf_scheme_bits sqf_scheme_bits_of(const sqf_scheme *scheme);

/** One named scheme with a sentence on what it is. */
typedef struct sqf_scheme_entry {
    const char *name;       /**< "W4A(SQ6)" */
    const char *shell_name; /**< "w4a-sq6" */
    const char *description;
} sqf_scheme_entry;

/** The named schemes in the order of the demo's table; *count entries; static. */
SQF_API const sqf_scheme_entry *sqf_scheme_list(size_t *count);

/** Named schemes of other methods and of block formats that hardware runs, for comparisons (docs/rivals.md); those that
 * a name is not enough for are recipes under recipes/rivals/. *count entries; static. */
SQF_API const sqf_scheme_entry *sqf_scheme_rivals(size_t *count);

/** The grammar of scheme names for people, several lines that end with a line end; static. */
SQF_API const char *sqf_scheme_help(void);

#ifdef __cplusplus
}
#endif
#endif

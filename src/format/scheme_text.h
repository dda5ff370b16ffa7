/* What reading and writing of scheme names share. Grammar: docs/format.md section 9. */
#ifndef SQF_FORMAT_SCHEME_TEXT_H
#define SQF_FORMAT_SCHEME_TEXT_H

#include <sqf/format.h>

/* The fields of an operand. Weights and activations share the first ones. */
typedef enum scheme_field {
    FIELD_LOW,
    FIELD_HIGH,
    FIELD_BANK,
    FIELD_SPARSITY,
    FIELD_HIGH_PER_BANK,
    FIELD_GROUP,
    FIELD_SCALE_TYPE,
    FIELD_SCALES,    /* weights */
    FIELD_LAYOUT,    /* weights */
    FIELD_MASK,      /* activations */
    FIELD_SCALE,     /* activations */
    FIELD_CLIP,      /* activations */
    FIELD_HIGH_CLIP, /* activations */
    FIELD_ZERO,      /* activations */
    FIELD_COUNT
} scheme_field;

/* Bits of the fields that have a meaning for a specification, given its types (and scale mode). */
unsigned scheme_weight_fields(const sqf_weight_spec *spec);
unsigned scheme_act_fields(const sqf_act_spec *spec);

/* The defaults that depend on nothing else (docs/format.md section 10). Names are read and written with the same
 * ones: a short name leaves out what is a default. */
enum {
    SCHEME_WEIGHT_BANK = 64,
    SCHEME_ACT_BANK = 16,
    SCHEME_PRUNE_BANK = 4, /* 2:4 */
    SCHEME_GROUP = 128     /* uniform weights, and about so for N:M */
};

/* A block format by its name: elements of one type, groups along K, the type of their scales. */
typedef struct scheme_block {
    const char *name;
    sqf_type type;
    uint32_t group;
    sqf_type scale_type;
} scheme_block;

enum { SCHEME_BLOCKS = 6 };
extern const scheme_block scheme_blocks[SCHEME_BLOCKS];

/* The block format that types, group and scales of an operand or part are; NULL if none. */
const scheme_block *scheme_block_find(sqf_type type, uint32_t group, sqf_type scale_type);

/* An exact decimal: digits / 10^k; also the quotients that follow from it. */
typedef struct scheme_decimal {
    uint64_t numerator, denominator;
} scheme_decimal;

/* The float that a decimal stands for. */
static inline float scheme_decimal_float(scheme_decimal d)
{
    return (float)((double)d.numerator / (double)d.denominator);
}

/* Names of the enumerators in text, in the order of their values. */
extern const char *const scheme_field_names[FIELD_COUNT];
extern const char *const scheme_scales_names[2];
extern const char *const scheme_layout_names[2];
extern const char *const scheme_mask_names[3]; /* static, dynamic, dynamic_weighted */
extern const char *const scheme_scale_names[3];
extern const char *const scheme_zero_names[3]; /* none, point, low */

#endif

/* Specifications: what is valid, what is equal, and how many bits it takes. Spec: docs/format.md sections 6 and 9.
 *
 * sqf_scheme_check is the gate: every specification that comes from a name, a file or a caller passes it once, and
 * the code behind it relies on banks of at least 1, known enumerators and types that go together. */
#include "base/error.h"
#include "format/matrix.h"
#include "format/zero_point.h"

/* A clipping ratio below this leaves nothing of the input. */
#define CLIP_MIN 0.001f

/* Whether a type belongs to one of the families: with scales, fp16 or bf16, none. */
static bool is_one_of(sqf_type type, bool scaled, bool half, bool none)
{
    return (scaled && sqf_type_has_scale(type)) || (half && (type == SQF_TYPE_FP16 || type == SQF_TYPE_BF16)) ||
           (none && type == SQF_TYPE_NONE);
}

/* By the low type alone: a dense specification with a high part is invalid, not dense in another way. */
bool sqf_weight_spec_is_dense(const sqf_weight_spec *spec)
{
    return spec->low == SQF_TYPE_BF16 || spec->low == SQF_TYPE_FP16 || spec->low == SQF_TYPE_FP32;
}

bool sqf_act_spec_is_float(const sqf_act_spec *spec)
{
    return spec->low == SQF_TYPE_FP32;
}

bool sqf_act_spec_is_split(const sqf_act_spec *spec)
{
    return spec->high != SQF_TYPE_NONE && spec->high_per_bank > 0;
}

sqf_type sqf_act_scale_type(const sqf_act_spec *spec)
{
    return spec->scale_type == SQF_TYPE_NONE ? SQF_TYPE_FP32 : spec->scale_type;
}

/* The types, bank and count that both operands have. `operand` is "weights" or "activations". */
static sqf_status check_parts(const char *operand, sqf_type low, sqf_type high, uint32_t bank, uint32_t high_per_bank,
                              sqf_error *err)
{
    if (!is_one_of(low, true, false, true)) {
        return sqf_fail(err, SQF_E_ARG, "%s: low=%s: expected int2..int6, int8, fp4, fp6, fp8 or none", operand,
                        sqf_type_name(low));
    }
    if (!is_one_of(high, true, true, true)) {
        return sqf_fail(err, SQF_E_ARG, "%s: high=%s: expected int2..int6, int8, fp4, fp6, fp8, fp16, bf16 or none",
                        operand, sqf_type_name(high));
    }
    if (high == SQF_TYPE_NONE) {
        if (low == SQF_TYPE_NONE) {
            return sqf_fail(err, SQF_E_ARG, "%s: low=none and high=none: at least one part needs a type", operand);
        }
        if (high_per_bank != 0) {
            return sqf_fail(err, SQF_E_ARG, "%s: high_per_bank=%u with high=none: expected 0", operand, high_per_bank);
        }
        return SQF_OK;
    }
    if (sqf_type_bits(high) < sqf_type_bits(low)) {
        return sqf_fail(err, SQF_E_ARG, "%s: high=%s is narrower than low=%s", operand, sqf_type_name(high),
                        sqf_type_name(low));
    }
    if (bank < 1 || bank > SQF_BANK_MAX) {
        return sqf_fail(err, SQF_E_ARG, "%s: bank=%u: expected 1..%d", operand, bank, SQF_BANK_MAX);
    }
    if (high_per_bank > bank) {
        return sqf_fail(err, SQF_E_ARG, "%s: high_per_bank=%u: expected 0..%u, the bank", operand, high_per_bank, bank);
    }
    return SQF_OK;
}

/* floor(log2(qmax_high / qmax_low)) in integers: docs/format.md section 3, tied scales. */
int sqf_shift_max(const sqf_weight_spec *spec)
{
    const bool ints = sqf_type_multiplier(spec->low) == 1 && sqf_type_multiplier(spec->high) == 1;
    const int low = (int)sqf_type_max(spec->low), high = (int)sqf_type_max(spec->high);
    int shift = -1;
    while (ints && low << (shift + 1) <= high) {
        shift++;
    }
    return shift;
}

/* In the order in which one mistake makes the next meaningless: kind of weights, parts, scales, layout. */
static sqf_status check_weights(const sqf_weight_spec *spec, sqf_error *err)
{
    if (sqf_weight_spec_is_dense(spec)) {
        if (spec->high != SQF_TYPE_NONE || spec->high_per_bank != 0) {
            return sqf_fail(err, SQF_E_ARG, "weights: low=%s is unquantized: expected high=none and high_per_bank=0",
                            sqf_type_name(spec->low));
        }
        return SQF_OK;
    }
    SQF_TRY(check_parts("weights", spec->low, spec->high, spec->bank, spec->high_per_bank, err));
    if (!sqf_type_is_scale(spec->scale_type)) {
        return sqf_fail(err, SQF_E_ARG, "weights: scale_type=%s: expected fp16, bf16, fp32, fp8 or e8m0",
                        sqf_type_name(spec->scale_type));
    }
    if (spec->high == SQF_TYPE_NONE) {
        return SQF_OK; /* uniform: bank, scales and layout have no meaning */
    }
    if (spec->group % spec->bank != 0 && spec->bank % spec->group != 0) {
        return sqf_fail(err, SQF_E_ARG, "weights: group=%u: expected row, a multiple or a divisor of the bank, %u",
                        spec->group, spec->bank);
    }
    if (spec->scales != SQF_SCALES_FREE && spec->scales != SQF_SCALES_TIED) {
        return sqf_fail(err, SQF_E_ARG, "weights: scales=%d: expected free or tied", (int)spec->scales);
    }
    if (spec->scales == SQF_SCALES_TIED && sqf_shift_max(spec) < 0) {
        return sqf_fail(err, SQF_E_ARG, "weights: scales=tied with %s/%s: expected two integer types",
                        sqf_type_name(spec->high), sqf_type_name(spec->low));
    }
    if (spec->scales == SQF_SCALES_TIED && (spec->scale_type == SQF_TYPE_FP8 || spec->scale_type == SQF_TYPE_E8M0)) {
        return sqf_fail(err, SQF_E_ARG, "weights: scales=tied with scale_type=%s: expected fp16, bf16 or fp32",
                        sqf_type_name(spec->scale_type));
    }
    if (spec->layout != SQF_LAYOUT_VMASK && spec->layout != SQF_LAYOUT_BITMASK) {
        return sqf_fail(err, SQF_E_ARG, "weights: layout=%d: expected vmask or bitmask", (int)spec->layout);
    }
    if (spec->low == SQF_TYPE_NONE && spec->layout == SQF_LAYOUT_VMASK) {
        return sqf_fail(err, SQF_E_ARG, "weights: layout=vmask with low=none: expected bitmask, there is no low plane");
    }
    return SQF_OK;
}

static sqf_status check_zero(const sqf_act_spec *spec, sqf_error *err)
{
    const sqf_type scale_type = sqf_act_scale_type(spec);
    if (spec->zero == SQF_ACT_ZERO_NONE) {
        return SQF_OK;
    }
    if (spec->zero != SQF_ACT_ZERO_POINT && spec->zero != SQF_ACT_ZERO_LOW) {
        return sqf_fail(err, SQF_E_ARG, "activations: zero=%d: expected none, point or low", (int)spec->zero);
    }
    if (spec->zero == SQF_ACT_ZERO_LOW && spec->high == SQF_TYPE_NONE) {
        return sqf_fail(err, SQF_E_ARG, "activations: zero=low with high=none: expected none or point");
    }
    if (!sqf_act_has_zero(spec, false) && !sqf_act_has_zero(spec, true)) {
        return sqf_fail(err, SQF_E_ARG, "activations: a zero point with low=%s, high=%s: expected an integer type",
                        sqf_type_name(spec->low), sqf_type_name(spec->high));
    }
    if (scale_type != SQF_TYPE_FP32) {
        return sqf_fail(err, SQF_E_ARG, "activations: a zero point with scale_type=%s: expected fp32",
                        sqf_type_name(scale_type));
    }
    return SQF_OK;
}

/* A field that the types make meaningless is not looked at. */
static sqf_status check_activations(const sqf_act_spec *spec, sqf_error *err)
{
    if (sqf_act_spec_is_float(spec)) {
        if (spec->high != SQF_TYPE_NONE || spec->high_per_bank != 0) {
            return sqf_fail(err, SQF_E_ARG,
                            "activations: low=fp32 is unquantized: expected high=none, high_per_bank=0");
        }
        return SQF_OK;
    }
    SQF_TRY(check_parts("activations", spec->low, spec->high, spec->bank, spec->high_per_bank, err));
    if (spec->high != SQF_TYPE_NONE && spec->mask != SQF_MASK_STATIC && spec->mask != SQF_MASK_DYNAMIC) {
        return sqf_fail(err, SQF_E_ARG, "activations: mask=%d: expected static or dynamic", (int)spec->mask);
    }
    if (spec->scale != SQF_ACT_TOKEN && spec->scale != SQF_ACT_GROUP && spec->scale != SQF_ACT_STATIC) {
        return sqf_fail(err, SQF_E_ARG, "activations: scale=%d: expected token, group or static", (int)spec->scale);
    }
    const sqf_type scale_type = sqf_act_scale_type(spec);
    if (!sqf_type_is_scale(scale_type)) {
        return sqf_fail(err, SQF_E_ARG, "activations: scale_type=%s: expected fp32, fp16, bf16, fp8 or e8m0",
                        sqf_type_name(scale_type));
    }
    if (spec->scale == SQF_ACT_STATIC && scale_type != SQF_TYPE_FP32) {
        return sqf_fail(err, SQF_E_ARG, "activations: scale_type=%s with scale=static: expected fp32",
                        sqf_type_name(scale_type));
    }
    SQF_TRY(check_zero(spec, err));
    if (!(spec->clip >= CLIP_MIN && spec->clip <= 1.0f)) {
        return sqf_fail(err, SQF_E_ARG, "activations: clip=%g: expected %g..1", (double)spec->clip, (double)CLIP_MIN);
    }
    if (spec->high_clip != 0.0f && !(spec->high_clip >= CLIP_MIN && spec->high_clip <= 1.0f)) {
        return sqf_fail(err, SQF_E_ARG, "activations: high_clip=%g: expected %g..1, or 0 for that of the low part",
                        (double)spec->high_clip, (double)CLIP_MIN);
    }
    return SQF_OK;
}

/* The groups of activation scales must nest with the groups of the weights: one scaling for each integer sum. */
static sqf_status check_nesting(uint32_t weights, uint32_t activations, sqf_error *err)
{
    if (weights == 0 || activations == 0 || weights % activations == 0 || activations % weights == 0) {
        return SQF_OK;
    }
    return sqf_fail(err, SQF_E_ARG, "activations: group=%u: expected a divisor or a multiple of the weights' group, %u",
                    activations, weights);
}

sqf_status sqf_scheme_check(const sqf_scheme *scheme, sqf_error *err)
{
    SQF_TRY(check_weights(&scheme->weights, err));
    SQF_TRY(check_activations(&scheme->activations, err));
    if (sqf_weight_spec_is_dense(&scheme->weights)) {
        if (!sqf_act_spec_is_float(&scheme->activations)) {
            return sqf_fail(err, SQF_E_ARG, "activations: low=%s with unquantized weights: expected fp32 (unquantized)",
                            sqf_type_name(scheme->activations.low));
        }
        return SQF_OK;
    }
    if (!sqf_act_spec_is_float(&scheme->activations) && scheme->activations.scale == SQF_ACT_GROUP) {
        return check_nesting(scheme->weights.group, scheme->activations.group, err);
    }
    return SQF_OK;
}

/* Fields that mean nothing under these types may hold anything and are not compared. */
static bool weights_equal(const sqf_weight_spec *a, const sqf_weight_spec *b)
{
    if (a->low != b->low || a->high != b->high) {
        return false;
    }
    if (sqf_weight_spec_is_dense(a)) {
        return true;
    }
    const bool groups_equal = a->group == b->group && a->scale_type == b->scale_type;
    if (a->high == SQF_TYPE_NONE) {
        return groups_equal;
    }
    return groups_equal && a->bank == b->bank && a->high_per_bank == b->high_per_bank && a->scales == b->scales &&
           a->layout == b->layout;
}

/* As for weights. clip is compared exactly: it comes from a decimal that is read the same way everywhere. */
static bool activations_equal(const sqf_act_spec *a, const sqf_act_spec *b)
{
    if (a->low != b->low || a->high != b->high) {
        return false;
    }
    if (sqf_act_spec_is_float(a)) {
        return true;
    }
    if (a->scale != b->scale || a->clip != b->clip || a->zero != b->zero ||
        (a->scale == SQF_ACT_GROUP && a->group != b->group) || sqf_act_scale_type(a) != sqf_act_scale_type(b)) {
        return false;
    }
    if (a->high == SQF_TYPE_NONE) {
        return true;
    }
    return sqf_act_part_clip(a, true) == sqf_act_part_clip(b, true) && a->bank == b->bank &&
           a->high_per_bank == b->high_per_bank && a->mask == b->mask &&
           (a->mask == SQF_MASK_STATIC || a->dynamic_weighted == b->dynamic_weighted);
}

bool sqf_scheme_equal(const sqf_scheme *a, const sqf_scheme *b)
{
    return weights_equal(&a->weights, &b->weights) && activations_equal(&a->activations, &b->activations);
}

/* An operand as shares of its elements: [0] low, [1] high. */
typedef struct operand_parts {
    double share[2];
    double bits[2];
} operand_parts;

static operand_parts parts_of(sqf_type low, sqf_type high, uint32_t bank, uint32_t high_per_bank)
{
    const double share = high == SQF_TYPE_NONE ? 0.0 : (double)high_per_bank / bank;
    return (operand_parts){.share = {1.0 - share, share},
                           .bits = {(double)sqf_type_bits(low), (double)sqf_type_bits(high)}};
}

/* y = (1 - s) * h + s * l, here with k / b for 1 - s. */
static double equivalent_bits(const operand_parts *parts)
{
    return parts->share[0] * parts->bits[0] + parts->share[1] * parts->bits[1];
}

/* Bits a weight in the file, for whole banks and groups: the table of docs/format.md section 6. A scale for a whole
 * row counts 0, because its share depends on the length of the row. */
static double stored_bits(const sqf_weight_spec *spec, const operand_parts *parts)
{
    if (sqf_weight_spec_is_dense(spec)) {
        return parts->bits[0];
    }
    const double scale = sqf_type_bits(spec->scale_type);
    double scales = sqf_type_has_scale(spec->low) ? scale : 0.0;
    double bits = parts->bits[0];
    if (spec->high != SQF_TYPE_NONE) {
        const bool bitmask = spec->layout == SQF_LAYOUT_BITMASK;
        bits = (bitmask ? 1.0 + parts->share[0] * parts->bits[0] : parts->bits[0]) + parts->share[1] * parts->bits[1];
        scales += spec->scales == SQF_SCALES_TIED ? 8.0 : sqf_type_has_scale(spec->high) ? scale : 0.0;
    }
    return bits + (spec->group ? scales / spec->group : 0.0);
}

/* The share of products that a machine with a fast 4-bit path runs at that rate. Parts of the two operands meet
 * independently of each other: masks of weights are chosen by row, masks of activations by channel. Dropped elements
 * (0 bits) take no multiply-accumulate. */
static double low_rate_share(const operand_parts *weights, const operand_parts *activations)
{
    double low = 0.0, total = 0.0;
    for (int w = 0; w < 2; w++) {
        for (int a = 0; a < 2; a++) {
            const bool dropped = weights->bits[w] == 0.0 || activations->bits[a] == 0.0;
            const double share = dropped ? 0.0 : weights->share[w] * activations->share[a];
            low += weights->bits[w] <= 4.0 && activations->bits[a] <= 4.0 ? share : 0.0;
            total += share;
        }
    }
    return total > 0.0 ? low / total : 0.0;
}

sqf_scheme_bits sqf_scheme_bits_of(const sqf_scheme *scheme)
{
    const sqf_weight_spec *w = &scheme->weights;
    const sqf_act_spec *a = &scheme->activations;
    const operand_parts weights = parts_of(w->low, w->high, w->bank, w->high_per_bank);
    operand_parts activations = parts_of(a->low, a->high, a->bank, a->high_per_bank);
    if (sqf_act_spec_is_float(a)) {
        activations.bits[0] = 16.0; /* written A16 in the field: whatever float the machine computes in */
    }
    return (sqf_scheme_bits){.weights_equivalent = equivalent_bits(&weights),
                             .activations_equivalent = equivalent_bits(&activations),
                             .weights_stored = stored_bits(w, &weights),
                             .low_rate_share = low_rate_share(&weights, &activations)};
}

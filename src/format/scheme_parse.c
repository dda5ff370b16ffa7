/* Reading a scheme's name: the short and shell-safe spellings and the fields of the long form all fill two wishes,
 * which are then resolved to specifications with the defaults. Grammar: docs/format.md section 9; defaults: section
 * 10.
 *
 * The parser is a recursive descent over lower-case text: each function takes what its comment shows and leaves the
 * cursor behind it, or fails with the rest of the text and what would have been right. Numbers are exact decimals
 * until k is known, because k = (1 - s) * b must be whole and 0.875 * 64 must not depend on rounding. */
#include "format/scheme_text.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "format/type.h"

/* What the text says of one operand. Two sets of fields: those that a name implies can be changed by a field behind
 * it, those written out can be given once and must have a meaning. */
typedef struct wish {
    const char *operand; /* "weights" or "activations" */
    unsigned set;        /* bits of the fields that have a value here */
    unsigned given;      /* those that were written as field=value */
    sqf_type low, high;
    uint32_t bank, high_per_bank, group;
    scheme_decimal sparsity;
    sqf_type scale_type;
    int scales, layout, mask, scale, zero; /* indices into the lists of names */
    float clip, high_clip;
} wish;

/* The rest of the lower-case text. Copied where a message must point back to the start of a value. */
typedef struct cursor {
    const char *at;
    const char *name; /* the whole text as given, for messages */
    sqf_error *err;
} cursor;

const char *const scheme_field_names[FIELD_COUNT] = {
    [FIELD_LOW] = "low",
    [FIELD_HIGH] = "high",
    [FIELD_BANK] = "bank",
    [FIELD_SPARSITY] = "sparsity",
    [FIELD_HIGH_PER_BANK] = "high_per_bank",
    [FIELD_GROUP] = "group",
    [FIELD_SCALE_TYPE] = "scale_type",
    [FIELD_SCALES] = "scales",
    [FIELD_LAYOUT] = "layout",
    [FIELD_MASK] = "mask",
    [FIELD_SCALE] = "scale",
    [FIELD_CLIP] = "clip",
    [FIELD_HIGH_CLIP] = "high_clip",
    [FIELD_ZERO] = "zero",
};
/* A name that begins like another one stands before it. */
const scheme_block scheme_blocks[SCHEME_BLOCKS] = {
    {"mxfp4", SQF_TYPE_FP4, 32, SQF_TYPE_E8M0}, {"mxfp6e3m2", SQF_TYPE_FP6_E3M2, 32, SQF_TYPE_E8M0},
    {"mxfp6", SQF_TYPE_FP6, 32, SQF_TYPE_E8M0}, {"mxfp8e5m2", SQF_TYPE_FP8_E5M2, 32, SQF_TYPE_E8M0},
    {"mxfp8", SQF_TYPE_FP8, 32, SQF_TYPE_E8M0}, {"nvfp4", SQF_TYPE_FP4, 16, SQF_TYPE_FP8},
};
const char *const scheme_scales_names[2] = {"free", "tied"};
const char *const scheme_layout_names[2] = {"vmask", "bitmask"};
const char *const scheme_mask_names[3] = {"static", "dynamic", "dynamic_weighted"};
const char *const scheme_scale_names[3] = {"token", "group", "static"};
const char *const scheme_zero_names[3] = {"none", "point", "low"};

#define BIT(field) (1u << (field))
enum {
    TYPE_FIELDS = 1u << FIELD_LOW | 1u << FIELD_HIGH,
    SPLIT_FIELDS = 1u << FIELD_BANK | 1u << FIELD_SPARSITY | 1u << FIELD_HIGH_PER_BANK,
    WEIGHT_FIELDS = TYPE_FIELDS | SPLIT_FIELDS | 1u << FIELD_GROUP | 1u << FIELD_SCALE_TYPE | 1u << FIELD_SCALES |
                    1u << FIELD_LAYOUT,
    ACT_FIELDS = TYPE_FIELDS | SPLIT_FIELDS | 1u << FIELD_GROUP | 1u << FIELD_SCALE_TYPE | 1u << FIELD_MASK |
                 1u << FIELD_SCALE | 1u << FIELD_CLIP | 1u << FIELD_HIGH_CLIP | 1u << FIELD_ZERO
};

/* The column "meaningful" of the table in docs/format.md section 9, for each operand. */
unsigned scheme_weight_fields(const sqf_weight_spec *spec)
{
    if (sqf_weight_spec_is_dense(spec)) {
        return TYPE_FIELDS;
    }
    const unsigned uniform = TYPE_FIELDS | BIT(FIELD_GROUP) | BIT(FIELD_SCALE_TYPE);
    return spec->high == SQF_TYPE_NONE ? uniform : WEIGHT_FIELDS;
}

/* Zero points are of integer parts alone. */
static bool has_integers(const sqf_act_spec *spec)
{
    return sqf_type_multiplier(spec->low) == 1 || sqf_type_multiplier(spec->high) == 1;
}

unsigned scheme_act_fields(const sqf_act_spec *spec)
{
    if (sqf_act_spec_is_float(spec)) {
        return TYPE_FIELDS;
    }
    unsigned fields = spec->high == SQF_TYPE_NONE
                          ? ACT_FIELDS & ~(SPLIT_FIELDS | BIT(FIELD_MASK) | BIT(FIELD_HIGH_CLIP))
                          : ACT_FIELDS;
    fields &= spec->scale == SQF_ACT_STATIC ? ~BIT(FIELD_SCALE_TYPE) : ~0u;
    fields &= has_integers(spec) ? ~0u : ~BIT(FIELD_ZERO);
    return spec->scale == SQF_ACT_GROUP ? fields : fields & ~BIT(FIELD_GROUP);
}

/* Every syntax error: where the text stopped making sense, and what was expected there. */
static sqf_status fail_at(const cursor *c, const char *expected)
{
    return *c->at ? sqf_fail(c->err, SQF_E_ARG, "scheme \"%s\": at \"%s\": expected %s", c->name, c->at, expected)
                  : sqf_fail(c->err, SQF_E_ARG, "scheme \"%s\": at its end: expected %s", c->name, expected);
}

/* Takes `word` if it stands at the cursor. */
static bool accept(cursor *c, const char *word)
{
    const size_t n = strlen(word);
    if (strncmp(c->at, word, n) != 0) {
        return false;
    }
    c->at += n;
    return true;
}

static sqf_status expect(cursor *c, const char *word)
{
    return accept(c, word) ? SQF_OK : fail_at(c, word);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* digits ["." digits], at most 15 digits, so that the numerator and 10^15 are exact in double. No exponent, no sign;
 * the decimal point is "." in every locale. */
static sqf_status parse_decimal(cursor *c, const char *what, scheme_decimal *out)
{
    scheme_decimal d = {0, 1};
    unsigned digits = 0;
    bool point = false;
    const char *at = c->at;
    for (; is_digit(*at) || (*at == '.' && !point && digits > 0); at++) {
        if (*at == '.') {
            point = true;
            continue;
        }
        d.numerator = d.numerator * 10 + (unsigned)(*at - '0');
        d.denominator *= point ? 10 : 1;
        if (++digits > 15) {
            return fail_at(c, "a number of at most 15 digits");
        }
    }
    if (digits == 0 || at[-1] == '.') {
        return fail_at(c, what);
    }
    c->at = at;
    *out = d;
    return SQF_OK;
}

/* A whole number that fits 32 bits. */
static sqf_status parse_whole(cursor *c, const char *what, uint32_t *out)
{
    const cursor start = *c;
    scheme_decimal d;
    SQF_TRY(parse_decimal(c, what, &d));
    if (d.denominator != 1 || d.numerator > UINT32_MAX) {
        return fail_at(&start, what);
    }
    *out = (uint32_t)d.numerator;
    return SQF_OK;
}

/* "8", "fp4", "int5", "none", "0": the type of a part. "16" is for activations and is not a type here. The longest name
 * that fits is meant: fp8 is the beginning of fp8e5m2. */
static sqf_status parse_type(cursor *c, sqf_type *out)
{
    const cursor start = *c;
    for (int type = 0; type < SQF_TYPE_COUNT; type++) {
        cursor trial = start;
        const char *name = sqf_type_name((sqf_type)type);
        const bool is_int = strncmp(name, "int", 3) == 0;
        const bool fits = accept(&trial, name) || (is_int && accept(&trial, name + 3)) ||
                          (type == SQF_TYPE_NONE && accept(&trial, "0"));
        if (fits && trial.at > c->at) {
            *c = trial;
            *out = (sqf_type)type;
        }
    }
    return c->at > start.at ? SQF_OK : fail_at(c, "a type: 8, 6, 5, 4, 3, 2, fp4, fp6, fp8, fp16, bf16 or none");
}

/* The name of a block format; NULL if there is none at the cursor. */
static const scheme_block *accept_block(cursor *c)
{
    for (size_t i = 0; i < SCHEME_BLOCKS; i++) {
        if (accept(c, scheme_blocks[i].name)) {
            return &scheme_blocks[i];
        }
    }
    return NULL;
}

const scheme_block *scheme_block_find(sqf_type type, uint32_t group, sqf_type scale_type)
{
    for (size_t i = 0; i < SCHEME_BLOCKS; i++) {
        const scheme_block *block = &scheme_blocks[i];
        if (block->type == type && block->group == group && block->scale_type == scale_type) {
            return block;
        }
    }
    return NULL;
}

/* A type from the name; "low=" and "high=" behind it may still change it. */
static void set_type(wish *w, scheme_field field, sqf_type type)
{
    w->set |= BIT(field);
    *(field == FIELD_LOW ? &w->low : &w->high) = type;
}

/* Groups and scales of a block format; activations then have scales by group. */
static void set_block_scales(wish *w, const scheme_block *block)
{
    w->group = block->group;
    w->scale_type = block->scale_type;
    w->scale = SQF_ACT_GROUP;
    w->set |= BIT(FIELD_GROUP) | BIT(FIELD_SCALE_TYPE) | BIT(FIELD_SCALE);
}

static void set_block(wish *w, const scheme_block *block)
{
    set_type(w, FIELD_LOW, block->type);
    set_type(w, FIELD_HIGH, SQF_TYPE_NONE);
    set_block_scales(w, block);
}

/* SQ<y>: int8 over int4 with y = 4 + 4 * (1 - s) equivalent bits. */
static sqf_status parse_equivalent(cursor *c, wish *w)
{
    const cursor start = *c;
    scheme_decimal y;
    SQF_TRY(parse_decimal(c, "equivalent bits, e.g. 6, 5 or 4.5", &y));
    if (y.numerator < 4 * y.denominator || y.numerator > 8 * y.denominator) {
        return fail_at(&start, "4 to 8 equivalent bits");
    }
    set_type(w, FIELD_LOW, SQF_TYPE_INT4);
    set_type(w, FIELD_HIGH, SQF_TYPE_INT8);
    w->set |= BIT(FIELD_SPARSITY);
    w->sparsity = (scheme_decimal){8 * y.denominator - y.numerator, 4 * y.denominator};
    return SQF_OK;
}

/* A type of a split, or a block format whose scales both parts then share. */
static sqf_status parse_part(cursor *c, sqf_type *type, const scheme_block **block)
{
    *block = accept_block(c);
    if (*block) {
        *type = (*block)->type;
        return SQF_OK;
    }
    return parse_type(c, type);
}

/* "sq6" | "mxfp4" | "64-(8/4)-0.75" | "64-8-4-0.75" | "64-(mxfp8/mxfp4)-0.75" */
static sqf_status parse_split(cursor *c, wish *w)
{
    if (accept(c, "sq")) {
        return parse_equivalent(c, w);
    }
    const scheme_block *const whole = accept_block(c), *high_block, *low_block;
    if (whole) {
        set_block(w, whole);
        return SQF_OK;
    }
    SQF_TRY(parse_whole(c, "SQ6, MXFP4 or a split like 64-(8/4)-0.75", &w->bank));
    SQF_TRY(expect(c, "-"));
    const bool parentheses = accept(c, "(");
    const cursor start = *c;
    sqf_type low, high;
    SQF_TRY(parse_part(c, &high, &high_block));
    if (high == SQF_TYPE_NONE) {
        return fail_at(&start, "a high type: 8, 6, 5, 4, 3, 2, fp4, fp6, fp8, fp16 or bf16");
    }
    SQF_TRY(expect(c, parentheses ? "/" : "-"));
    SQF_TRY(parse_part(c, &low, &low_block));
    if (!high_block != !low_block ||
        (high_block && (high_block->group != low_block->group || high_block->scale_type != low_block->scale_type))) {
        return fail_at(&start, "two block formats with the same blocks and scales, or none");
    }
    if (high_block) {
        set_block_scales(w, high_block);
    }
    SQF_TRY(expect(c, parentheses ? ")-" : "-"));
    SQF_TRY(parse_decimal(c, "a sparsity from 0 to 1", &w->sparsity));
    set_type(w, FIELD_LOW, low);
    set_type(w, FIELD_HIGH, high);
    w->set |= BIT(FIELD_BANK) | BIT(FIELD_SPARSITY);
    return SQF_OK;
}

/* "4" | "fp8" | "(" split ")" | "-" split; "16" for activations that stay in float. */
static sqf_status parse_operand(cursor *c, bool weights, wish *w)
{
    if (accept(c, "(")) {
        SQF_TRY(parse_split(c, w));
        return expect(c, ")");
    }
    if (accept(c, "-")) {
        return parse_split(c, w);
    }
    sqf_type type = SQF_TYPE_FP32;
    if (weights || !accept(c, "16")) {
        const cursor start = *c;
        SQF_TRY(parse_type(c, &type));
        if (!sqf_type_has_scale(type)) {
            return fail_at(&start, weights ? "8, 6, 5, 4, 3, 2, fp4, fp6, fp8, (MXFP4) or a split like (SQ6) "
                                             "(unquantized is BF16)"
                                           : "16, 8, 6, 5, 4, 3, 2, fp4, fp6, fp8, (MXFP4) or a split like (SQ6)");
        }
    }
    set_type(w, FIELD_LOW, type);
    set_type(w, FIELD_HIGH, SQF_TYPE_NONE);
    return SQF_OK;
}

/* "-N:M" behind uniform weights: N of every M are kept, the others dropped. */
static sqf_status parse_pruning(cursor *c, wish *w)
{
    const cursor start = *c;
    uint32_t kept, bank;
    SQF_TRY(parse_whole(c, "N:M, e.g. 2:4", &kept));
    SQF_TRY(expect(c, ":"));
    SQF_TRY(parse_whole(c, "M of N:M", &bank));
    if (w->high != SQF_TYPE_NONE || kept > bank || bank == 0) {
        return fail_at(&start, "N:M with N <= M, behind weights of one type");
    }
    set_type(w, FIELD_HIGH, w->low);
    set_type(w, FIELD_LOW, SQF_TYPE_NONE);
    w->set |= BIT(FIELD_BANK) | BIT(FIELD_SPARSITY);
    w->bank = bank;
    w->sparsity = (scheme_decimal){bank - kept, bank};
    return SQF_OK;
}

/* The rule `name` of the grammar. */
static sqf_status parse_short(cursor *c, wish *weights, wish *activations)
{
    static const sqf_type dense[] = {SQF_TYPE_BF16, SQF_TYPE_FP16, SQF_TYPE_FP32};
    for (size_t i = 0; i < sizeof dense / sizeof *dense; i++) {
        if (accept(c, sqf_type_name(dense[i]))) {
            set_type(weights, FIELD_LOW, dense[i]);
            set_type(activations, FIELD_LOW, SQF_TYPE_FP32);
            return SQF_OK;
        }
    }
    const scheme_block *const block = accept_block(c);
    if (block) {
        set_block(weights, block);
        set_block(activations, block);
        if (!(*c->at == 'a' || (*c->at == '-' && c->at[1] == 'a'))) {
            return SQF_OK; /* both operands */
        }
        *activations = (wish){.operand = activations->operand};
    } else {
        if (!accept(c, "w")) {
            return fail_at(c, "BF16, FP16, FP32, MXFP4, NVFP4, W...A... (e.g. W4A8, W4A(SQ6)) or fields like low=int4");
        }
        SQF_TRY(parse_operand(c, true, weights));
    }
    accept(c, "-");
    SQF_TRY(expect(c, "a"));
    SQF_TRY(parse_operand(c, false, activations));
    return accept(c, "-") ? parse_pruning(c, weights) : SQF_OK;
}

/* One of a list of words, which must end where the value ends. */
static sqf_status parse_word(cursor *c, const char *const *words, int count, const char *expected, int *out)
{
    const size_t n = strcspn(c->at, ",;+");
    for (int i = 0; i < count; i++) {
        if (strlen(words[i]) == n && strncmp(c->at, words[i], n) == 0) {
            c->at += n;
            *out = i;
            return SQF_OK;
        }
    }
    return fail_at(c, expected);
}

/* "row" and "weights" stand for 0, each for its operand. */
static sqf_status parse_group(cursor *c, bool weights, uint32_t *out)
{
    if (accept(c, weights ? "row" : "weights")) {
        *out = 0;
        return SQF_OK;
    }
    const cursor start = *c;
    const char *expected = weights ? "a number of columns from 1 or row" : "a number of columns from 1 or weights";
    SQF_TRY(parse_whole(c, expected, out));
    return *out ? SQF_OK : fail_at(&start, expected);
}

/* The range is sqf_scheme_check's business, as for every value that is a number. */
static sqf_status parse_clip(cursor *c, float *out)
{
    scheme_decimal d;
    SQF_TRY(parse_decimal(c, "a clipping ratio up to 1", &d));
    *out = scheme_decimal_float(d);
    return SQF_OK;
}

/* What stands behind "field=". */
static sqf_status parse_value(cursor *c, bool weights, scheme_field field, wish *w)
{
    switch (field) {
    case FIELD_LOW: return parse_type(c, &w->low);
    case FIELD_HIGH: return parse_type(c, &w->high);
    case FIELD_BANK: return parse_whole(c, "a number of columns", &w->bank);
    case FIELD_SPARSITY: return parse_decimal(c, "a sparsity from 0 to 1", &w->sparsity);
    case FIELD_HIGH_PER_BANK: return parse_whole(c, "a number of elements", &w->high_per_bank);
    case FIELD_GROUP: return parse_group(c, weights, &w->group);
    case FIELD_SCALE_TYPE: return parse_type(c, &w->scale_type);
    case FIELD_SCALES: return parse_word(c, scheme_scales_names, 2, "free or tied", &w->scales);
    case FIELD_LAYOUT: return parse_word(c, scheme_layout_names, 2, "vmask or bitmask", &w->layout);
    case FIELD_MASK: return parse_word(c, scheme_mask_names, 3, "static, dynamic or dynamic_weighted", &w->mask);
    case FIELD_SCALE: return parse_word(c, scheme_scale_names, 3, "token, group or static", &w->scale);
    case FIELD_ZERO: return parse_word(c, scheme_zero_names, 3, "none, point or low", &w->zero);
    case FIELD_HIGH_CLIP: return parse_clip(c, &w->high_clip);
    default: return parse_clip(c, &w->clip);
    }
}

/* Fields of the other operand are unknown here, so that the message lists what is possible in this half. */
static sqf_status parse_field(cursor *c, bool weights, wish *w)
{
    const size_t n = strcspn(c->at, "=,;+");
    const unsigned allowed = weights ? WEIGHT_FIELDS : ACT_FIELDS;
    for (int field = 0; field < FIELD_COUNT; field++) {
        const char *name = scheme_field_names[field];
        if (!(allowed & BIT(field)) || strlen(name) != n || strncmp(c->at, name, n) != 0 || c->at[n] != '=') {
            continue;
        }
        if (w->given & BIT(field)) {
            return fail_at(c, "each field once");
        }
        c->at += n + 1;
        SQF_TRY(parse_value(c, weights, (scheme_field)field, w));
        w->given |= BIT(field);
        return SQF_OK;
    }
    return fail_at(c, weights ? "low=, high=, bank=, sparsity=, high_per_bank=, group=, scale_type=, scales= or layout="
                              : "low=, high=, bank=, sparsity=, high_per_bank=, group=, scale_type=, mask=, scale= "
                                "clip=, high_clip= or zero=");
}

/* field {"," field}, at least one. */
static sqf_status parse_fields(cursor *c, bool weights, wish *w)
{
    do {
        SQF_TRY(parse_field(c, weights, w));
    } while (accept(c, ","));
    return SQF_OK;
}

/* The start rule. The long form is known by its first "=" coming before any separator. */
static sqf_status parse_name(cursor *c, wish *weights, wish *activations)
{
    const size_t first = strcspn(c->at, "=,;+");
    const bool fields_only = c->at[first] == '=';
    if (!fields_only) {
        SQF_TRY(parse_short(c, weights, activations));
    }
    if (fields_only || accept(c, ",")) {
        SQF_TRY(parse_fields(c, true, weights));
    }
    if (accept(c, ";") || accept(c, "+")) {
        SQF_TRY(parse_fields(c, false, activations));
    }
    return *c->at ? fail_at(c, "\",\" and a field, \";\" and a field of the activations, or the end") : SQF_OK;
}

/* k = (1 - s) * b, which must be whole. Exact: at most 2^32 * 10^15 in 128 bits. */
static sqf_status resolve_high(const wish *w, uint32_t bank, uint32_t *high_per_bank, sqf_error *err)
{
    if (w->given & BIT(FIELD_HIGH_PER_BANK)) {
        if (w->given & BIT(FIELD_SPARSITY)) {
            return sqf_fail(err, SQF_E_ARG, "%s: sparsity and high_per_bank: expected only one of them", w->operand);
        }
        *high_per_bank = w->high_per_bank;
        return SQF_OK;
    }
    const scheme_decimal s = (w->set | w->given) & BIT(FIELD_SPARSITY) ? w->sparsity : (scheme_decimal){1, 2};
    if (s.numerator > s.denominator) {
        return sqf_fail(err, SQF_E_ARG, "%s: sparsity=%g: expected 0..1", w->operand,
                        (double)s.numerator / (double)s.denominator);
    }
    const unsigned __int128 product = (unsigned __int128)bank * (s.denominator - s.numerator);
    *high_per_bank = (uint32_t)(product / s.denominator);
    if (product % s.denominator == 0) {
        return SQF_OK;
    }
    return sqf_fail(err, SQF_E_ARG,
                    "%s: sparsity=%g of bank=%u: %g high elements, expected a whole number: sparsity %.10g or %.10g",
                    w->operand, (double)s.numerator / (double)s.denominator, bank,
                    (double)product / (double)s.denominator, 1.0 - (double)*high_per_bank / bank,
                    1.0 - (double)(*high_per_bank + 1) / bank);
}

/* True if the text says anything of this field, in the name or behind it. */
static bool has(const wish *w, scheme_field field)
{
    return (w->set | w->given) & BIT(field);
}

/* A field that was written and has no meaning is an error: nothing that a user says is ignored. */
static sqf_status check_given(const wish *w, unsigned meaningful, sqf_type low, sqf_type high, sqf_error *err)
{
    for (int field = 0; field < FIELD_COUNT; field++) {
        if (w->given & ~meaningful & BIT(field)) {
            return sqf_fail(err, SQF_E_ARG, "%s: %s has no meaning with low=%s, high=%s%s", w->operand,
                            scheme_field_names[field], sqf_type_name(low), sqf_type_name(high),
                            (FIELD_GROUP == field && meaningful & BIT(FIELD_SCALE)) ? " and without scale=group" : "");
        }
    }
    return SQF_OK;
}

/* Scales of pruned weights cover about 128 columns: whole banks, at least one. A bank of 0 is left to the check. */
static uint32_t pruned_group(uint32_t bank)
{
    return bank >= SCHEME_GROUP || bank == 0 ? bank : SCHEME_GROUP - SCHEME_GROUP % bank;
}

/* Wish to specification: what was said, else the default that goes with the types. The order matters: which fields
 * have a meaning depends on the types, and the default group on the bank. */
static sqf_status resolve_weights(const wish *w, sqf_weight_spec *out, sqf_error *err)
{
    sqf_weight_spec spec = {.low = has(w, FIELD_LOW) ? w->low : SQF_TYPE_BF16,
                            .high = has(w, FIELD_HIGH) ? w->high : SQF_TYPE_NONE,
                            .scale_type = has(w, FIELD_SCALE_TYPE) ? w->scale_type : SQF_TYPE_FP16};
    const bool pruned = spec.low == SQF_TYPE_NONE;
    SQF_TRY(check_given(w, scheme_weight_fields(&spec), spec.low, spec.high, err));
    if (sqf_weight_spec_is_dense(&spec)) {
        *out = spec;
        return SQF_OK;
    }
    if (spec.high == SQF_TYPE_NONE) {
        spec.group = has(w, FIELD_GROUP) ? w->group : SCHEME_GROUP;
        /* unused by uniform weights; a value in range keeps the specification harmless for whoever looks at it */
        spec.bank = spec.group == 0 || spec.group > SQF_BANK_MAX ? SQF_BANK_MAX : spec.group;
        *out = spec;
        return SQF_OK;
    }
    spec.bank = has(w, FIELD_BANK) ? w->bank : pruned ? SCHEME_PRUNE_BANK : SCHEME_WEIGHT_BANK;
    SQF_TRY(resolve_high(w, spec.bank, &spec.high_per_bank, err));
    spec.group = has(w, FIELD_GROUP) ? w->group : pruned ? pruned_group(spec.bank) : spec.bank;
    spec.scales = has(w, FIELD_SCALES) ? (sqf_scales)w->scales : SQF_SCALES_FREE;
    spec.layout = has(w, FIELD_LAYOUT) ? (sqf_layout)w->layout : pruned ? SQF_LAYOUT_BITMASK : SQF_LAYOUT_VMASK;
    *out = spec;
    return SQF_OK;
}

/* As for weights. A mask mode has one name for two fields: dynamic_weighted is dynamic, weighted by column norms. */
static sqf_status resolve_activations(const wish *w, sqf_act_spec *out, sqf_error *err)
{
    sqf_act_spec spec = {.low = has(w, FIELD_LOW) ? w->low : SQF_TYPE_FP32,
                         .high = has(w, FIELD_HIGH) ? w->high : SQF_TYPE_NONE,
                         .scale = has(w, FIELD_SCALE) ? (sqf_act_scale)w->scale : SQF_ACT_TOKEN,
                         .clip = has(w, FIELD_CLIP) ? w->clip : 1.0f,
                         .zero = has(w, FIELD_ZERO) ? (sqf_act_zero)w->zero : SQF_ACT_ZERO_NONE};
    SQF_TRY(check_given(w, scheme_act_fields(&spec), spec.low, spec.high, err));
    if (sqf_act_spec_is_float(&spec)) {
        *out = spec;
        return SQF_OK;
    }
    spec.group = has(w, FIELD_GROUP) && spec.scale == SQF_ACT_GROUP ? w->group : 0;
    spec.scale_type = has(w, FIELD_SCALE_TYPE) && spec.scale != SQF_ACT_STATIC ? w->scale_type : SQF_TYPE_FP32;
    if (spec.high != SQF_TYPE_NONE) {
        const int mask = has(w, FIELD_MASK) ? w->mask : 0;
        spec.bank = has(w, FIELD_BANK) ? w->bank : SCHEME_ACT_BANK;
        SQF_TRY(resolve_high(w, spec.bank, &spec.high_per_bank, err));
        spec.mask = mask == 0 ? SQF_MASK_STATIC : SQF_MASK_DYNAMIC;
        spec.dynamic_weighted = mask == 2;
        spec.high_clip = has(w, FIELD_HIGH_CLIP) ? w->high_clip : 0.0f;
    }
    *out = spec;
    return SQF_OK;
}

/* *out is written at the very end: a failure leaves it alone. */
static sqf_status parse_lower(cursor *c, sqf_scheme *out)
{
    wish weights = {.operand = "weights"}, activations = {.operand = "activations"};
    SQF_TRY(parse_name(c, &weights, &activations));
    sqf_scheme scheme;
    sqf_status status = resolve_weights(&weights, &scheme.weights, c->err);
    status = status == SQF_OK ? resolve_activations(&activations, &scheme.activations, c->err) : status;
    status = status == SQF_OK ? sqf_scheme_check(&scheme, c->err) : status;
    if (status == SQF_OK) {
        *out = scheme;
        return SQF_OK;
    }
    char prefix[SQF_SCHEME_TEXT + 16];
    snprintf(prefix, sizeof prefix, "scheme \"%s\"", c->name);
    return sqf_fail_within(c->err, status, prefix);
}

/* Works on a lower-case copy, so that the rest of the parser knows one case; messages show the name as given. */
sqf_status sqf_scheme_parse(const char *name, sqf_scheme *out, sqf_error *err)
{
    char text[SQF_SCHEME_TEXT];
    const size_t n = strlen(name);
    if (n >= sizeof text) {
        return sqf_fail(err, SQF_E_ARG, "scheme \"%.20s...\": %zu characters, expected at most %zu", name, n,
                        sizeof text - 1);
    }
    for (size_t i = 0; i <= n; i++) {
        text[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] + ('a' - 'A')) : name[i];
    }
    /* the name of an operand alone, as the paper writes it: weights, with activations in float */
    char whole[SQF_SCHEME_TEXT + 8];
    const bool operand = text[0] >= '0' && text[0] <= '9';
    const size_t length = strcspn(text, ",;+");
    snprintf(whole, sizeof whole, operand ? "w(%.*s)a16%s" : "%.*s%s", (int)length, text, text + length);
    cursor c = {whole, name, err};
    return parse_lower(&c, out);
}

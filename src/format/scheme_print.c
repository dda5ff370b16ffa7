/* Writing a scheme's name. A short name is the shortest one that the types, banks and sparsities allow, and behind it
 * the fields that differ from what that name means: the name is written, read back by the parser, and compared field
 * by field. So the two cannot disagree, whatever defaults are changed. Grammar: docs/format.md section 9. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "format/scheme_text.h"
#include "format/type.h"

typedef struct writer {
    char *text;
    size_t used;
    bool shell; /* lower case, "-" for parentheses, "+" for ";" */
} writer;

static void put(writer *w, const char *format, ...) SQF_PRINTF(2, 3);

static void put(writer *w, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int n = vsnprintf(w->text + w->used, SQF_SCHEME_TEXT - w->used, format, arguments);
    va_end(arguments);
    w->used += n > 0 ? (size_t)n : 0; /* the longest name has about 240 characters */
}

/* numerator / denominator as a decimal of at most 15 digits, exactly; false if it has none. */
static bool put_decimal(writer *w, uint64_t numerator, uint64_t denominator)
{
    char digits[16];
    int n = 0;
    uint64_t rest = numerator % denominator;
    while (rest != 0 && n < 14) {
        rest *= 10;
        digits[n++] = (char)('0' + rest / denominator);
        rest %= denominator;
    }
    if (rest != 0) {
        return false;
    }
    put(w, "%llu%s%.*s", (unsigned long long)(numerator / denominator), n ? "." : "", n, digits);
    return true;
}

/* The shortest decimal that reads back as the same float. Ends: 9 significant digits identify a float, and clip >=
 * 0.001. */
static void put_float(writer *w, float x)
{
    scheme_decimal d = {0, 1};
    do {
        d.numerator = (uint64_t)((double)x * (double)d.denominator + 0.5);
        if (scheme_decimal_float(d) == x) {
            break;
        }
        d.denominator *= 10;
    } while (d.denominator < 100000000000000u);
    put_decimal(w, d.numerator, d.denominator);
}

/* A type inside a name: "8", "fp4", "0". */
static const char *short_type(sqf_type type)
{
    const char *name = sqf_type_name(type);
    return type == SQF_TYPE_NONE ? "0" : strncmp(name, "int", 3) == 0 ? name + 3 : name;
}

/* A name in upper case, but for shells. */
static void put_upper(writer *w, const char *text)
{
    char name[16];
    snprintf(name, sizeof name, "%s", text);
    for (char *c = name; *c && !w->shell; c++) {
        *c = *c >= 'a' && *c <= 'z' ? (char)(*c - ('a' - 'A')) : *c;
    }
    put(w, "%s", name);
}

static void put_uniform(writer *w, sqf_type type)
{
    put_upper(w, short_type(type));
}

/* What one operand's elements and scales are, for names. */
typedef struct operand_text {
    sqf_type low, high;
    uint32_t bank, high_per_bank, default_bank;
    const scheme_block *low_block, *high_block; /* NULL = not those of a block format */
} operand_text;

static operand_text weights_text(const sqf_weight_spec *spec)
{
    return (operand_text){.low = spec->low,
                          .high = spec->high,
                          .bank = spec->bank,
                          .high_per_bank = spec->high_per_bank,
                          .default_bank = SCHEME_WEIGHT_BANK,
                          .low_block = scheme_block_find(spec->low, spec->group, spec->scale_type),
                          .high_block = scheme_block_find(spec->high, spec->group, spec->scale_type)};
}

static operand_text act_text(const sqf_act_spec *spec)
{
    const bool grouped = !sqf_act_spec_is_float(spec) && spec->scale == SQF_ACT_GROUP;
    return (operand_text){.low = spec->low,
                          .high = spec->high,
                          .bank = spec->bank,
                          .high_per_bank = spec->high_per_bank,
                          .default_bank = SCHEME_ACT_BANK,
                          .low_block = grouped ? scheme_block_find(spec->low, spec->group, spec->scale_type) : NULL,
                          .high_block = grouped ? scheme_block_find(spec->high, spec->group, spec->scale_type) : NULL};
}

/* "(MXFP4)", "-mxfp4" */
static void put_block(writer *w, const scheme_block *block)
{
    put(w, "%s", w->shell ? "-" : "(");
    put_upper(w, block->name);
    put(w, "%s", w->shell ? "" : ")");
}

/* "(SQ6)", "(64-(8/4)-0.75)", "-sq6", "-64-8-4-0.75"; false if the sparsity has no short decimal. */
static bool put_split(writer *w, const operand_text *o)
{
    bool decimal;
    const uint32_t bank = o->bank, k = o->high_per_bank;
    put(w, "%s", w->shell ? "-" : "(");
    if (o->low == SQF_TYPE_INT4 && o->high == SQF_TYPE_INT8 && bank == o->default_bank) {
        put(w, "%s", w->shell ? "sq" : "SQ");
        decimal = put_decimal(w, 4 * (uint64_t)bank + 4 * (uint64_t)k, bank);
    } else {
        const bool blocks = o->low_block && o->high_block;
        put(w, w->shell ? "%u-%s-%s-" : "%u-(%s/%s)-", bank, blocks ? o->high_block->name : short_type(o->high),
            blocks ? o->low_block->name : short_type(o->low));
        decimal = put_decimal(w, bank - k, bank);
    }
    put(w, "%s", w->shell ? "" : ")");
    return decimal;
}

/* A name without fields. False if a sparsity has no short decimal (1/3): only the long form can say it then. */
static bool put_short(writer *w, const sqf_scheme *scheme)
{
    const sqf_weight_spec *weights = &scheme->weights;
    const sqf_act_spec *acts = &scheme->activations;
    if (sqf_weight_spec_is_dense(weights)) {
        put_uniform(w, weights->low);
        return true;
    }
    const bool pruned = weights->low == SQF_TYPE_NONE && sqf_type_has_scale(weights->high);
    const operand_text weights_name = weights_text(weights), acts_name = act_text(acts);
    const scheme_block *const block = weights->high == SQF_TYPE_NONE ? weights_name.low_block : NULL;
    const scheme_block *const act_block = acts->high == SQF_TYPE_NONE ? acts_name.low_block : NULL;
    bool decimal = true;
    if (block && (block == act_block || sqf_act_spec_is_float(acts))) {
        put_upper(w, block->name);
        put(w, "%s", block == act_block ? "" : w->shell ? "a16" : "A16");
        return true;
    }
    put(w, "%s", w->shell ? "w" : "W");
    if (block) {
        put_block(w, block);
        put(w, "%s", w->shell ? "-" : "");
    } else if (weights->high == SQF_TYPE_NONE || pruned) {
        put_uniform(w, pruned ? weights->high : weights->low);
    } else {
        decimal = put_split(w, &weights_name);
        put(w, "%s", w->shell ? "-" : "");
    }
    put(w, "%s", w->shell ? "a" : "A");
    if (sqf_act_spec_is_float(acts)) {
        put(w, "16");
    } else if (act_block) {
        put_block(w, act_block);
    } else if (acts->high == SQF_TYPE_NONE) {
        put_uniform(w, acts->low);
    } else {
        decimal &= put_split(w, &acts_name);
    }
    if (pruned) {
        put(w, "-%u:%u", weights->high_per_bank, weights->bank);
    }
    return decimal;
}

static void put_group(writer *w, uint32_t group, const char *zero)
{
    if (group == 0) {
        put(w, "%s", zero);
    } else {
        put(w, "%u", group);
    }
}

static void put_weight_value(writer *w, const sqf_weight_spec *spec, scheme_field field)
{
    switch (field) {
    case FIELD_LOW: put(w, "%s", sqf_type_name(spec->low)); break;
    case FIELD_HIGH: put(w, "%s", sqf_type_name(spec->high)); break;
    case FIELD_BANK: put(w, "%u", spec->bank); break;
    case FIELD_HIGH_PER_BANK: put(w, "%u", spec->high_per_bank); break;
    case FIELD_GROUP: put_group(w, spec->group, "row"); break;
    case FIELD_SCALE_TYPE: put(w, "%s", sqf_type_name(spec->scale_type)); break;
    case FIELD_SCALES: put(w, "%s", scheme_scales_names[spec->scales]); break;
    default: put(w, "%s", scheme_layout_names[spec->layout]); break;
    }
}

static void put_act_value(writer *w, const sqf_act_spec *spec, scheme_field field)
{
    switch (field) {
    case FIELD_LOW: put(w, "%s", sqf_type_name(spec->low)); break;
    case FIELD_HIGH: put(w, "%s", sqf_type_name(spec->high)); break;
    case FIELD_BANK: put(w, "%u", spec->bank); break;
    case FIELD_HIGH_PER_BANK: put(w, "%u", spec->high_per_bank); break;
    case FIELD_GROUP: put_group(w, spec->group, "weights"); break;
    case FIELD_SCALE_TYPE: put(w, "%s", sqf_type_name(sqf_act_scale_type(spec))); break;
    case FIELD_MASK:
        put(w, "%s", scheme_mask_names[spec->mask == SQF_MASK_STATIC ? 0 : spec->dynamic_weighted ? 2 : 1]);
        break;
    case FIELD_SCALE: put(w, "%s", scheme_scale_names[spec->scale]); break;
    case FIELD_ZERO: put(w, "%s", scheme_zero_names[spec->zero]); break;
    case FIELD_HIGH_CLIP: put_float(w, spec->high_clip); break;
    default: put_float(w, spec->clip); break;
    }
}

/* The value of one field of one operand. */
static void put_value(writer *w, const sqf_scheme *scheme, bool weights, scheme_field field)
{
    if (weights) {
        put_weight_value(w, &scheme->weights, field);
    } else {
        put_act_value(w, &scheme->activations, field);
    }
}

/* Compared as text: what is printed is what matters, and every type of field is covered. */
static bool value_differs(const sqf_scheme *a, const sqf_scheme *b, bool weights, scheme_field field)
{
    char text[2][SQF_SCHEME_TEXT] = {"", ""};
    writer first = {.text = text[0]}, second = {.text = text[1]};
    put_value(&first, a, weights, field);
    put_value(&second, b, weights, field);
    return strcmp(text[0], text[1]) != 0;
}

/* The fields that have a meaning; with a base, those alone that differ from it. `separator` stands before the first. */
static void put_fields(writer *w, const sqf_scheme *scheme, const sqf_scheme *base, bool weights, const char *separator)
{
    const unsigned fields = weights ? scheme_weight_fields(&scheme->weights) : scheme_act_fields(&scheme->activations);
    for (int field = 0; field < FIELD_COUNT; field++) {
        /* high_per_bank says the same as sparsity; fp32 scales and missing zero points of activations go without
         * saying, because files that have no others are to be the same bytes as before there were any */
        const bool silent = field == FIELD_SPARSITY || (!base && !weights && field == FIELD_SCALE_TYPE &&
                                                        sqf_act_scale_type(&scheme->activations) == SQF_TYPE_FP32);
        const bool no_zero = !base && field == FIELD_ZERO && scheme->activations.zero == SQF_ACT_ZERO_NONE;
        const bool one_clip = !base && field == FIELD_HIGH_CLIP && scheme->activations.high_clip == 0.0f;
        const bool wanted = (fields >> field & 1u) && !silent && !no_zero && !one_clip;
        if (wanted && (!base || value_differs(scheme, base, weights, (scheme_field)field))) {
            put(w, "%s%s=", separator, scheme_field_names[field]);
            put_value(w, scheme, weights, (scheme_field)field);
            separator = ",";
        }
    }
}

/* If there is no short name, or the parser does not take it, the long form says everything. */
void sqf_scheme_print(const sqf_scheme *scheme, sqf_spelling spelling, char text[SQF_SCHEME_TEXT])
{
    const char *const semicolon = spelling == SQF_SPELLING_SHELL ? "+" : ";";
    writer w = {.text = text, .shell = spelling == SQF_SPELLING_SHELL};
    sqf_scheme base;
    text[0] = '\0';
    if (spelling != SQF_SPELLING_LONG && put_short(&w, scheme) && sqf_scheme_parse(text, &base, NULL) == SQF_OK) {
        put_fields(&w, scheme, &base, true, ",");
        put_fields(&w, scheme, &base, false, semicolon);
        return;
    }
    w.used = 0;
    put_fields(&w, scheme, NULL, true, "");
    put_fields(&w, scheme, NULL, false, semicolon);
}

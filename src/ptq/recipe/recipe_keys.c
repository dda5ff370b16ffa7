/* The keys of a recipe: one table from which the YAML reader, the command line and the documents take names, values,
 * defaults and meaning. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "format/partition.h"
#include "format/type.h"
#include "ptq/recipe/recipe.h"

static const char *const rotate_names[] = {"off", "hadamard", "random", "pca", "learned", NULL};
static const char *const rotate_values_names[] = {"auto", "off", "hadamard", "random", "pca", NULL};
static const char *const rotate_down_names[] = {"auto", "off", "hadamard", "random", "pca", "blocks", NULL};
static const char *const importance_names[] = {"obs", "hinv", "gain", "magnitude", "random", NULL};
static const char *const mask_names[] = {"paper", "l1", "l2", "max", "maxl2", "random", "best", NULL};
static const char *const quota_names[] = {"auto", "equal", "allotted", NULL};
static const char *const compensate_names[] = {"gptq", "none", "gptq-input", "gptq-model", NULL};
static const char *const clip_names[] = {"absmax", "mse", NULL};
static const char *const prune_names[] = {"sparsegpt", "wanda", "magnitude", NULL};
static const char *const scales_names[] = {"free", "tied", NULL};
static const char *const layout_names[] = {"vmask", "bitmask", NULL};
static const char *const act_scale_names[] = {"token", "group", "static", NULL};
static const char *const act_zero_names[] = {"none", "point", "low", NULL};
static const char *const mask_mode_names[] = {"static", "dynamic", "dynamic-weighted", NULL};

/* What setting and printing a key does. A choice is a field that holds an enumeration; it has names in place of `set`.
 */
typedef struct key_action {
    sqf_status (*set)(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err);
    void (*print)(const sqf_module_recipe *recipe, char text[SQF_RECIPE_VALUE]);
    const char *const *names; /* in the order of the enumeration */
    size_t offset;            /* of the choice in sqf_module_recipe */
    bool printed;             /* false = the long form of the scheme says it */
    bool later;               /* came after the first recipes: left out at its default, so that they keep their bytes */
} key_action;

static sqf_status fail_value(const sqf_recipe_key *key, const char *value, sqf_error *err)
{
    return sqf_fail(err, SQF_E_ARG, "%s: expected %s, found '%s'", key->name, key->values, value);
}

static sqf_status choose(const sqf_recipe_key *key, const char *const *names, const char *value, int *index,
                         sqf_error *err)
{
    for (int i = 0; names[i]; i++) {
        if (strcasecmp(names[i], value) == 0) {
            *index = i;
            return SQF_OK;
        }
    }
    return fail_value(key, value, err);
}

/* Decimal digits alone: strtoul would take signs, spaces and a second word. */
static bool parse_whole(const char *value, unsigned long most, uint32_t *out)
{
    if (value[0] == '\0' || strspn(value, "0123456789") != strlen(value) || strlen(value) > 9) {
        return false;
    }
    const unsigned long number = strtoul(value, NULL, 10);
    *out = (uint32_t)number;
    return number <= most;
}

static bool parse_real(const char *value, double least, double most, double *out)
{
    char *end;
    if (strspn(value, "0123456789.eE+-") != strlen(value)) {
        return false; /* no "nan", "inf" or hexadecimal */
    }
    *out = strtod(value, &end);
    return end != value && *end == '\0' && *out >= least && *out <= most;
}

/* "int4", or "4" and "0" as in the names of schemes. */
static sqf_status set_type(const sqf_recipe_key *key, sqf_type *type, const char *value, sqf_error *err)
{
    const char digit[] = {'i', 'n', 't', value[0], '\0'};
    const bool bare = strlen(value) == 1;
    const char *name = !bare ? value : value[0] == '0' ? "none" : digit;
    return sqf_type_parse(name, type) ? SQF_OK : fail_value(key, value, err);
}

/* The operand that low, high, bank and sparsity speak of: the weights, except where only the activations have banks. */
static bool speaks_of_activations(const sqf_module_recipe *recipe)
{
    return recipe->scheme.weights.high_per_bank == 0 && sqf_act_spec_is_split(&recipe->scheme.activations);
}

static sqf_status set_scheme(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    (void)key;
    return sqf_scheme_parse(value, &recipe->scheme, err);
}

static void print_scheme(const sqf_module_recipe *recipe, char text[SQF_RECIPE_VALUE])
{
    sqf_scheme_print(&recipe->scheme, SQF_SPELLING_LONG, text);
}

static sqf_status set_low(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    sqf_weight_spec *weights = &recipe->scheme.weights;
    if (speaks_of_activations(recipe)) {
        return set_type(key, &recipe->scheme.activations.low, value, err);
    }
    SQF_TRY(set_type(key, &weights->low, value, err));
    if (weights->low == SQF_TYPE_NONE) {
        weights->layout = SQF_LAYOUT_BITMASK; /* the only one without a low plane; key layout comes later */
    }
    return SQF_OK;
}

static sqf_status set_high(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    const bool act = speaks_of_activations(recipe);
    return set_type(key, act ? &recipe->scheme.activations.high : &recipe->scheme.weights.high, value, err);
}

static sqf_status set_act_low(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    return set_type(key, &recipe->scheme.activations.low, value, err);
}

static sqf_status set_act_high(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    return set_type(key, &recipe->scheme.activations.high, value, err);
}

static sqf_status parse_bank(const sqf_recipe_key *key, const char *value, uint32_t *bank, sqf_error *err)
{
    return parse_whole(value, SQF_BANK_MAX, bank) && *bank >= 1 ? SQF_OK : fail_value(key, value, err);
}

/* The sparsity stays: k moves with the bank, as it does in a tail bank. */
static uint32_t scaled_high(uint32_t old_bank, uint32_t high_per_bank, uint32_t bank)
{
    return old_bank == 0 || high_per_bank == 0 ? 0 : (uint32_t)sqf_bank_high(old_bank, high_per_bank, bank);
}

static sqf_status set_act_bank(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    sqf_act_spec *spec = &recipe->scheme.activations;
    uint32_t bank = SQF_BANK_MAX; /* longer than any row that can be stored in banks: one tail bank */
    if (strcasecmp(value, "row") != 0) {
        SQF_TRY(parse_bank(key, value, &bank, err));
    }
    spec->high_per_bank = scaled_high(spec->bank, spec->high_per_bank, bank);
    spec->bank = bank;
    return SQF_OK;
}

static sqf_status set_act_outliers(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value,
                                   sqf_error *err)
{
    uint32_t count = 0;
    if (strcasecmp(value, "off") != 0) {
        SQF_TRY(parse_bank(key, value, &count, err));
    }
    recipe->act_outliers = count;
    return SQF_OK;
}

static void print_act_outliers(const sqf_module_recipe *recipe, char text[SQF_RECIPE_VALUE])
{
    if (recipe->act_outliers) {
        snprintf(text, SQF_RECIPE_VALUE, "%u", recipe->act_outliers);
    } else {
        snprintf(text, SQF_RECIPE_VALUE, "off");
    }
}

static sqf_status set_bank(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    if (speaks_of_activations(recipe)) {
        return set_act_bank(key, recipe, value, err);
    }
    sqf_weight_spec *spec = &recipe->scheme.weights;
    uint32_t bank = 0;
    SQF_TRY(parse_bank(key, value, &bank, err));
    if (spec->group == spec->bank || spec->high == SQF_TYPE_NONE) {
        spec->group = bank; /* one pair of scales a bank; a uniform type's bank is its group */
    }
    spec->high_per_bank = scaled_high(spec->bank, spec->high_per_bank, bank);
    spec->bank = bank;
    return SQF_OK;
}

/* "0.75" or "3/4". */
static bool parse_sparsity(const char *value, double *out)
{
    const char *slash = strchr(value, '/');
    if (!slash) {
        return parse_real(value, 0.0, 1.0, out);
    }
    char above[16];
    uint32_t numerator, denominator;
    const size_t length = (size_t)(slash - value);
    if (length >= sizeof above) {
        return false;
    }
    memcpy(above, value, length);
    above[length] = '\0';
    if (!parse_whole(above, SQF_BANK_MAX, &numerator) || !parse_whole(slash + 1, SQF_BANK_MAX, &denominator) ||
        denominator == 0 || numerator > denominator) {
        return false;
    }
    *out = (double)numerator / denominator;
    return true;
}

static sqf_status set_high_per_bank(const sqf_recipe_key *key, uint32_t bank, uint32_t *high_per_bank,
                                    const char *value, sqf_error *err)
{
    double sparsity;
    if (!parse_sparsity(value, &sparsity)) {
        return fail_value(key, value, err);
    }
    const double exact = (1.0 - sparsity) * bank, whole = floor(exact + 0.5);
    if (fabs(exact - whole) > 0.01) { /* room for thirds written with a few digits */
        return sqf_fail(err, SQF_E_ARG,
                        "%s: %s leaves %g high elements in a bank of %u, expected a whole number (3/4 is also read)",
                        key->name, value, exact, bank);
    }
    *high_per_bank = (uint32_t)whole;
    return SQF_OK;
}

static sqf_status set_act_sparsity(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value,
                                   sqf_error *err)
{
    sqf_act_spec *spec = &recipe->scheme.activations;
    return set_high_per_bank(key, spec->bank, &spec->high_per_bank, value, err);
}

static sqf_status set_sparsity(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    if (speaks_of_activations(recipe)) {
        return set_act_sparsity(key, recipe, value, err);
    }
    sqf_weight_spec *spec = &recipe->scheme.weights;
    return set_high_per_bank(key, spec->bank, &spec->high_per_bank, value, err);
}

static sqf_status set_bank_weights(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value,
                                   sqf_error *err)
{
    sqf_weight_spec *spec = &recipe->scheme.weights;
    uint32_t group = 0;
    if (strcasecmp(value, "row") != 0) {
        SQF_TRY(parse_bank(key, value, &group, err));
    }
    spec->group = group;
    return SQF_OK;
}

static sqf_status set_scale_type(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value,
                                 sqf_error *err)
{
    sqf_type type;
    if (!sqf_type_parse(value, &type) || !sqf_type_is_scale(type)) {
        return fail_value(key, value, err);
    }
    recipe->scheme.weights.scale_type = type;
    return SQF_OK;
}

static sqf_status set_act_scale_type(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value,
                                     sqf_error *err)
{
    sqf_type type;
    if (!sqf_type_parse(value, &type) || !sqf_type_is_scale(type)) {
        return fail_value(key, value, err);
    }
    recipe->scheme.activations.scale_type = type;
    return SQF_OK;
}

static sqf_status set_mask_mode(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    int index = 0;
    SQF_TRY(choose(key, mask_mode_names, value, &index, err));
    recipe->scheme.activations.mask = index == 0 ? SQF_MASK_STATIC : SQF_MASK_DYNAMIC;
    recipe->scheme.activations.dynamic_weighted = index == 2;
    return SQF_OK;
}

static sqf_status set_act_group(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    uint32_t group = 0;
    if (strcasecmp(value, "weights") != 0) {
        SQF_TRY(parse_bank(key, value, &group, err));
    }
    recipe->scheme.activations.group = group;
    return SQF_OK;
}

static sqf_status set_act_clip(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    double clip;
    if (strcasecmp(value, "auto") == 0) {
        recipe->act_clip = SQF_SEARCH_AUTO;
    } else if (strcasecmp(value, "search") == 0) {
        recipe->act_clip = SQF_SEARCH_ON;
    } else if (parse_real(value, 0.001, 1.0, &clip)) {
        recipe->act_clip = SQF_SEARCH_OFF;
        recipe->scheme.activations.clip = (float)clip;
    } else {
        return fail_value(key, value, err);
    }
    return SQF_OK;
}

/* The fewest digits that read back as the same float: 0.6, not 0.600000024. */
static void print_real(float value, char text[SQF_RECIPE_VALUE])
{
    int digits = 0;
    do {
        digits++;
        snprintf(text, SQF_RECIPE_VALUE, "%.*g", digits, (double)value);
    } while (digits < 9 && strtof(text, NULL) != value);
}

static void print_act_clip(const sqf_module_recipe *recipe, char text[SQF_RECIPE_VALUE])
{
    if (recipe->act_clip == SQF_SEARCH_OFF) {
        print_real(recipe->scheme.activations.clip, text);
    } else {
        snprintf(text, SQF_RECIPE_VALUE, "%s", recipe->act_clip == SQF_SEARCH_AUTO ? "auto" : "search");
    }
}

static sqf_status set_smooth(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    double alpha;
    if (strcasecmp(value, "off") == 0) {
        recipe->smooth = SQF_SMOOTH_OFF;
    } else if (strcasecmp(value, "auto") == 0) {
        recipe->smooth = SQF_SMOOTH_AUTO;
    } else if (strcasecmp(value, "awq") == 0) {
        recipe->smooth = SQF_SMOOTH_AWQ;
    } else if (strcasecmp(value, "search") == 0) {
        recipe->smooth = SQF_SMOOTH_SEARCH;
    } else if (parse_real(value, 0.0, 1.0, &alpha)) {
        recipe->smooth = (float)alpha;
    } else {
        return fail_value(key, value, err);
    }
    return SQF_OK;
}

static void print_smooth(const sqf_module_recipe *recipe, char text[SQF_RECIPE_VALUE])
{
    if (recipe->smooth == SQF_SMOOTH_AWQ || recipe->smooth == SQF_SMOOTH_SEARCH) {
        snprintf(text, SQF_RECIPE_VALUE, "%s", recipe->smooth == SQF_SMOOTH_AWQ ? "awq" : "search");
    } else if (recipe->smooth >= 0.0f) {
        print_real(recipe->smooth, text);
    } else {
        snprintf(text, SQF_RECIPE_VALUE, "%s", recipe->smooth > SQF_SMOOTH_AUTO ? "off" : "auto");
    }
}

static sqf_status set_damping(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    double damping;
    if (!parse_real(value, 0.0, 1e6, &damping)) {
        return fail_value(key, value, err);
    }
    recipe->damping = damping;
    return SQF_OK;
}

static void print_damping(const sqf_module_recipe *recipe, char text[SQF_RECIPE_VALUE])
{
    snprintf(text, SQF_RECIPE_VALUE, "%.15g", recipe->damping);
    if (strtod(text, NULL) != recipe->damping) {
        snprintf(text, SQF_RECIPE_VALUE, "%.17g", recipe->damping);
    }
}

/* What stays as it is: unquantized weights stand for it. */
static const sqf_scheme left_alone = {.weights = {.low = SQF_TYPE_BF16, .bank = 1},
                                      .activations = {.low = SQF_TYPE_FP32, .bank = 1, .clip = 1.0f}};

/* "auto" and "off"; true if the value is one of them. */
static bool set_vocabulary_word(const char *value, sqf_scheme *scheme)
{
    const bool automatic = strcasecmp(value, "auto") == 0;
    if (automatic || strcasecmp(value, "off") == 0) {
        *scheme = automatic ? (sqf_scheme){0} : left_alone;
        return true;
    }
    return false;
}

static sqf_status set_lm_head(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    sqf_scheme scheme;
    if (set_vocabulary_word(value, &recipe->lm_head)) {
        return SQF_OK;
    }
    const sqf_status status = sqf_scheme_parse(value, &scheme, err);
    if (status != SQF_OK) {
        return sqf_fail_within(err, status, key->name);
    }
    if (sqf_weight_spec_is_dense(&scheme.weights)) {
        return fail_value(key, value, err);
    }
    recipe->lm_head = scheme;
    return SQF_OK;
}

/* "w4" is the name of W4A16: a row that is looked up meets no activations. */
static sqf_status set_embedding(const sqf_recipe_key *key, sqf_module_recipe *recipe, const char *value, sqf_error *err)
{
    sqf_scheme scheme;
    char whole[SQF_SCHEME_TEXT];
    if (set_vocabulary_word(value, &recipe->embedding)) {
        return SQF_OK;
    }
    snprintf(whole, sizeof whole, "%.*sa16", (int)sizeof whole - 4, value);
    sqf_status status = sqf_scheme_parse(value, &scheme, err);
    if (status != SQF_OK && sqf_scheme_parse(whole, &scheme, NULL) == SQF_OK) {
        status = SQF_OK;
    }
    if (status != SQF_OK) {
        return sqf_fail_within(err, status, key->name);
    }
    if (sqf_weight_spec_is_dense(&scheme.weights) || !sqf_act_spec_is_float(&scheme.activations)) {
        return fail_value(key, value, err);
    }
    recipe->embedding = scheme;
    return SQF_OK;
}

static void print_vocabulary(const sqf_scheme *scheme, char text[SQF_RECIPE_VALUE])
{
    if (scheme->weights.bank > 0 && !sqf_weight_spec_is_dense(&scheme->weights)) {
        sqf_scheme_print(scheme, SQF_SPELLING_LONG, text);
    } else {
        snprintf(text, SQF_RECIPE_VALUE, "%s", scheme->weights.bank > 0 ? "off" : "auto");
    }
}

static void print_lm_head(const sqf_module_recipe *recipe, char text[SQF_RECIPE_VALUE])
{
    print_vocabulary(&recipe->lm_head, text);
}

static void print_embedding(const sqf_module_recipe *recipe, char text[SQF_RECIPE_VALUE])
{
    print_vocabulary(&recipe->embedding, text);
}

#define TYPES       "a type: int2 (or 2) .. int6, int8, fp4, fp6, fp6e3m2, fp8, fp8e5m2, fp16, bf16, none (or 0)"
#define SCALE_TYPES "fp16, bf16, fp32, fp8 or e8m0 (a power of two)"
#define BANK        "a whole number from 1 to 65536"
#define SHARE       "a number from 0 to 1 or a fraction such as 3/4"
#define SQ_OF       " of the operand in SQ-format (the weights where both or none are)"

/* In the order in which keys take effect: a bank before the sparsity that counts elements in it. */
enum {
    KEY_SCHEME = 0,
    KEY_LOW,
    KEY_HIGH,
    KEY_BANK,
    KEY_SPARSITY,
    KEY_BANK_WEIGHTS,
    KEY_SCALE_TYPE,
    KEY_SCALES,
    KEY_LAYOUT,
    KEY_ACT_LOW,
    KEY_ACT_HIGH,
    KEY_ACT_BANK,
    KEY_ACT_SPARSITY,
    KEY_ACT_OUTLIERS,
    KEY_MASK_MODE,
    KEY_ACT_SCALE,
    KEY_ACT_GROUP,
    KEY_ACT_SCALE_TYPE,
    KEY_ACT_CLIP,
    KEY_ACT_ZERO,
    KEY_IMPORTANCE,
    KEY_MASK,
    KEY_QUOTA,
    KEY_COMPENSATE,
    KEY_CLIP,
    KEY_PRUNE,
    KEY_SMOOTH,
    KEY_DAMPING,
    KEY_ROTATE,
    KEY_ROTATE_VALUES,
    KEY_ROTATE_DOWN,
    KEY_LM_HEAD,
    KEY_EMBEDDING,
    KEY_COUNT
};
_Static_assert((int)KEY_COUNT <= (int)SQF_RECIPE_KEY_MAX, "sqf_recipe_values has room for every key");

static const sqf_recipe_key keys[KEY_COUNT] = {
    [KEY_SCHEME] = {"scheme", "the name of a scheme (sqf schemes lists them)", "",
                    "what weights and activations are held as"},
    [KEY_LOW] = {"low", TYPES, "", "low type" SQ_OF},
    [KEY_HIGH] = {"high", TYPES, "", "high type" SQ_OF},
    [KEY_BANK] = {"bank", BANK, "", "bank size" SQ_OF "; the sparsity stays"},
    [KEY_SPARSITY] = {"sparsity", SHARE, "", "part of a bank that is held low" SQ_OF},
    [KEY_BANK_WEIGHTS] = {"bank_weights", "row, or " BANK, "", "weights that share a scale, along the input channels"},
    [KEY_SCALE_TYPE] = {"scale_type", SCALE_TYPES, "fp16",
                        "storage type of the weights' scales; fp8 ones are multiples of an FP32 scale of the tensor"},
    [KEY_SCALES] = {"scales", "free or tied", "free", "high scales of their own, or the low one times a power of two"},
    [KEY_LAYOUT] = {"layout", "vmask or bitmask", "",
                    "high weights marked by a sentinel code (the default but for pruning), or by one bit an element"},
    [KEY_ACT_LOW] = {"act_low", TYPES, "", "low (or only) type of the activations"},
    [KEY_ACT_HIGH] = {"act_high", TYPES, "", "high type of the activations"},
    [KEY_ACT_BANK] = {"act_bank", "row, or " BANK, "16", "bank size of the activations; the sparsity stays"},
    [KEY_ACT_SPARSITY] = {"act_sparsity", SHARE, "", "part of a bank of activations that is held low"},
    [KEY_ACT_OUTLIERS] = {"act_outliers", "off or " BANK, "off",
                          "so many channels of each input are held high, wherever they are, in place of act_bank and "
                          "act_sparsity"},
    [KEY_MASK_MODE] = {"mask_mode", "static, dynamic or dynamic-weighted", "static",
                       "high activations: fixed channels, or the largest of each token, or the largest times the "
                       "norm of the weights that they meet"},
    [KEY_ACT_SCALE] = {"act_scale", "token, group or static", "token",
                       "activation scales: one a token, one a token and group, or from calibration"},
    [KEY_ACT_GROUP] = {"act_group", "weights, or " BANK, "weights",
                       "channels that share a scale with act_scale group; weights: the weights' groups"},
    [KEY_ACT_SCALE_TYPE] =
        {"act_scale_type", SCALE_TYPES, "fp32",
         "what the scales of the activations are rounded to; fp8 ones are multiples of an FP32 scale "
         "of the token"},
    [KEY_ACT_ZERO] =
        {"act_zero_point", "none, point or low", "none",
         "point: activation codes cover the range from the lowest to the largest value, and each scale has "
         "the code of 0 beside it; low: in the low part of a split input alone"},
    [KEY_ACT_CLIP] =
        {"act_clip", "auto, search or a number from 0.001 to 1", "auto",
         "activation scales are made for this part of the largest magnitude; search: the part of each input "
         "with the least output error on calibration tokens; auto: search with mask best, else 1"},
    [KEY_IMPORTANCE] = {"importance", "obs, hinv, gain, magnitude or random", "obs",
                        "which weights are held high (without calibration obs, hinv and gain see no Hessian)"},
    [KEY_MASK] = {"mask", "paper, l1, l2, max, maxl2, random or best", "best",
                  "which channels a static activation mask holds high; best: those with the least output error on "
                  "calibration tokens"},
    [KEY_QUOTA] =
        {"quota", "auto, equal or allotted", "auto",
         "high channels of a static mask: equally many of each input, or dealt out over the inputs of a layer "
         "at equal cost; auto: allotted with mask best"},
    [KEY_COMPENSATE] =
        {"compensate", "gptq, gptq-input, gptq-model or none", "gptq",
         "errors that the weights to come make up for: of weights, of the quantized input too, of all layers "
         "before too; none rounds to nearest"},
    [KEY_CLIP] = {"clip", "absmax or mse", "absmax",
                  "weight scales by the largest magnitude, or searched for the least error"},
    [KEY_PRUNE] = {"prune", "sparsegpt, wanda or magnitude", "sparsegpt", "which weights N:M pruning keeps"},
    [KEY_SMOOTH] =
        {"smooth", "auto, off, awq, search or a number from 0 to 1", "auto",
         "SmoothQuant's alpha; auto is 0.5 below 8-bit weights and before quantized activations; awq: AWQ's "
         "factors, searched for the least error of rounded weights; search: the alpha of each input with the least "
         "output error of rounded weights and activations"},
    [KEY_DAMPING] = {"damping", "a number from 0 to 1e6", "0.01",
                     "added to the Hessian's diagonal, as a part of the diagonal's mean"},
    [KEY_ROTATE] = {"rotate", "off, hadamard, random, pca or learned", "off",
                    "the basis of the residual stream, folded into the weights; for the whole model"},
    [KEY_ROTATE_VALUES] = {"rotate_values", "auto, off, hadamard, random or pca", "auto",
                           "the basis of the values of each key head, folded into v_proj and o_proj; for the whole "
                           "model; auto goes with rotate"},
    [KEY_ROTATE_DOWN] = {"rotate_down", "auto, off, hadamard, random, pca or blocks", "auto",
                         "the basis of down_proj's input, computed at run time; for the whole model; auto goes with "
                         "rotate"},
    [KEY_LM_HEAD] = {"lm_head", "auto, off or the name of a scheme", "auto",
                     "how the output matrix is held; off leaves it as it is; auto too, but where embeddings are tied "
                     "it is the embedding's matrix"},
    [KEY_EMBEDDING] = {"embedding", "auto, off, or weights alone such as w8 or w4", "auto",
                       "how the embedding is held, whose rows are looked up; off leaves it as it is; auto too, but "
                       "where embeddings are tied it is the output matrix"},
};

#define SCHEME_CHOICE(field, choice_names)                                                                             \
    {                                                                                                                  \
        .names = (choice_names), .offset = offsetof(sqf_module_recipe, scheme.field)                                   \
    }
#define CHOICE(field, choice_names)                                                                                    \
    {                                                                                                                  \
        .names = (choice_names), .offset = offsetof(sqf_module_recipe, field), .printed = true                         \
    }
#define LATER_CHOICE(field, choice_names)                                                                              \
    {                                                                                                                  \
        .names = (choice_names), .offset = offsetof(sqf_module_recipe, field), .printed = true, .later = true          \
    }

static const key_action actions[KEY_COUNT] = {
    [KEY_SCHEME] = {.set = set_scheme, .print = print_scheme, .printed = true},
    [KEY_LOW] = {.set = set_low},
    [KEY_HIGH] = {.set = set_high},
    [KEY_BANK] = {.set = set_bank},
    [KEY_SPARSITY] = {.set = set_sparsity},
    [KEY_BANK_WEIGHTS] = {.set = set_bank_weights},
    [KEY_SCALE_TYPE] = {.set = set_scale_type},
    [KEY_SCALES] = SCHEME_CHOICE(weights.scales, scales_names),
    [KEY_LAYOUT] = SCHEME_CHOICE(weights.layout, layout_names),
    [KEY_ACT_LOW] = {.set = set_act_low},
    [KEY_ACT_HIGH] = {.set = set_act_high},
    [KEY_ACT_BANK] = {.set = set_act_bank},
    [KEY_ACT_SPARSITY] = {.set = set_act_sparsity},
    [KEY_ACT_OUTLIERS] = {.set = set_act_outliers, .print = print_act_outliers, .printed = true, .later = true},
    [KEY_MASK_MODE] = {.set = set_mask_mode},
    [KEY_ACT_SCALE] = SCHEME_CHOICE(activations.scale, act_scale_names),
    [KEY_ACT_GROUP] = {.set = set_act_group},
    [KEY_ACT_SCALE_TYPE] = {.set = set_act_scale_type},
    [KEY_ACT_CLIP] = {.set = set_act_clip, .print = print_act_clip, .printed = true, .later = true},
    [KEY_ACT_ZERO] = SCHEME_CHOICE(activations.zero, act_zero_names),
    [KEY_IMPORTANCE] = CHOICE(importance, importance_names),
    [KEY_MASK] = CHOICE(mask, mask_names),
    [KEY_QUOTA] = LATER_CHOICE(quota, quota_names),
    [KEY_COMPENSATE] = CHOICE(compensate, compensate_names),
    [KEY_CLIP] = CHOICE(clip, clip_names),
    [KEY_PRUNE] = CHOICE(prune, prune_names),
    [KEY_SMOOTH] = {.set = set_smooth, .print = print_smooth, .printed = true},
    [KEY_DAMPING] = {.set = set_damping, .print = print_damping, .printed = true},
    [KEY_ROTATE] = LATER_CHOICE(rotate, rotate_names),
    [KEY_ROTATE_VALUES] = LATER_CHOICE(rotate_values, rotate_values_names),
    [KEY_ROTATE_DOWN] = LATER_CHOICE(rotate_down, rotate_down_names),
    [KEY_LM_HEAD] = {.set = set_lm_head, .print = print_lm_head, .printed = true, .later = true},
    [KEY_EMBEDDING] = {.set = set_embedding, .print = print_embedding, .printed = true, .later = true},
};

const sqf_recipe_key *sqf_recipe_key_list(size_t *count)
{
    *count = KEY_COUNT;
    return keys;
}

static sqf_status find_key(const char *name, size_t *index, sqf_error *err)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (strcmp(keys[i].name, name) == 0) {
            *index = i;
            return SQF_OK;
        }
    }
    return sqf_fail(err, SQF_E_ARG, "unknown key '%s'", name);
}

/* Every enumeration of a recipe is as wide as an int, so that choices are read and written alike. */
_Static_assert(sizeof(sqf_importance) == sizeof(int) && sizeof(sqf_mask_score) == sizeof(int) &&
                   sizeof(sqf_compensate) == sizeof(int) && sizeof(sqf_clip) == sizeof(int) &&
                   sizeof(sqf_prune) == sizeof(int) && sizeof(sqf_scales) == sizeof(int) &&
                   sizeof(sqf_layout) == sizeof(int) && sizeof(sqf_act_scale) == sizeof(int) &&
                   sizeof(sqf_act_zero) == sizeof(int),
               "enumerations are ints");

static sqf_status set_key(sqf_module_recipe *recipe, size_t index, const char *value, sqf_error *err)
{
    const key_action *action = &actions[index];
    if (!action->names) {
        return action->set(&keys[index], recipe, value, err);
    }
    int choice = 0;
    SQF_TRY(choose(&keys[index], action->names, value, &choice, err));
    memcpy((char *)recipe + action->offset, &choice, sizeof choice);
    return SQF_OK;
}

sqf_status sqf_module_recipe_set(sqf_module_recipe *recipe, const char *key, const char *value, sqf_error *err)
{
    size_t index = 0;
    SQF_TRY(find_key(key, &index, err));
    return set_key(recipe, index, value, err);
}

bool sqf_recipe_value_print(const sqf_module_recipe *recipe, size_t index, char text[SQF_RECIPE_VALUE])
{
    const key_action *action = &actions[index];
    if (!action->printed) {
        return false;
    }
    if (action->names) {
        int choice;
        memcpy(&choice, (const char *)recipe + action->offset, sizeof choice);
        snprintf(text, SQF_RECIPE_VALUE, "%s", action->names[choice]);
    } else {
        action->print(recipe, text);
    }
    return !action->later || strcmp(text, keys[index].default_value) != 0;
}

void sqf_recipe_values_clear(sqf_recipe_values *values)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        free(values->text[i]);
    }
    *values = (sqf_recipe_values){0};
}

sqf_status sqf_recipe_values_add(sqf_recipe_values *values, const char *key, const char *text, size_t line,
                                 sqf_error *err)
{
    size_t index = 0;
    SQF_TRY(find_key(key, &index, err));
    if (values->text[index]) {
        return sqf_fail(err, SQF_E_ARG, "%s: given twice", key);
    }
    values->line[index] = line;
    return sqf_copy_text(&values->text[index], text, strlen(text), err);
}

static sqf_status fail_line(sqf_error *err, sqf_status status, size_t line)
{
    char prefix[32];
    snprintf(prefix, sizeof prefix, "line %zu", line);
    return line ? sqf_fail_within(err, status, prefix) : status;
}

sqf_status sqf_recipe_values_apply(const sqf_recipe_values *values, sqf_module_recipe *recipe, sqf_error *err)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        const sqf_status status = values->text[i] ? set_key(recipe, i, values->text[i], err) : SQF_OK;
        if (status != SQF_OK) {
            return fail_line(err, status, values->line[i]);
        }
    }
    return SQF_OK;
}

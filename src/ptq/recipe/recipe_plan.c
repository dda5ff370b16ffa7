/* Resolving a recipe for a whole model, and everything that can be refused before work begins. */
#include "ptq/recipe/recipe_plan.h"

#include <string.h>

#include "base/memory.h"

/* The alpha of automatic smoothing. docs/format.md section 10 */
#define SMOOTH_ALPHA 0.5f

/* A number of outlier channels becomes a bank as long as the row of this module. */
static sqf_status place_outliers(const char *name, size_t columns, sqf_module_recipe *recipe, sqf_error *err)
{
    sqf_act_spec *act = &recipe->scheme.activations;
    if (recipe->act_outliers == 0) {
        return SQF_OK;
    }
    if (act->high == SQF_TYPE_NONE || columns > SQF_BANK_MAX) {
        return sqf_fail(err, SQF_E_ARG,
                        "%s: act_outliers: expected activations with a high type and at most %d channels", name,
                        SQF_BANK_MAX);
    }
    act->bank = (uint32_t)columns;
    act->high_per_bank = recipe->act_outliers < columns ? recipe->act_outliers : (uint32_t)columns;
    return SQF_OK;
}

static bool same_wish(const sqf_scheme *a, const sqf_scheme *b)
{
    return (a->weights.bank > 0) == (b->weights.bank > 0) && (a->weights.bank == 0 || sqf_scheme_equal(a, b));
}

/* The schemes of the vocabulary's matrices are the base's to say, as the rotation is. */
static sqf_status check_vocabulary_keys(const sqf_module_recipe *base, const sqf_module_recipe *recipe,
                                        const char *module, sqf_error *err)
{
    const bool same = same_wish(&base->lm_head, &recipe->lm_head) && same_wish(&base->embedding, &recipe->embedding);
    return same ? SQF_OK
                : sqf_fail(err, SQF_E_ARG,
                           "%s: an override sets lm_head or embedding: expected them in the base recipe alone", module);
}

static sqf_status resolve_module(const sqf_recipe *recipe, const char *name, size_t columns, sqf_module_plan *out,
                                 sqf_error *err)
{
    SQF_TRY(sqf_recipe_resolve(recipe, name, &out->recipe, &out->ignored, err));
    SQF_TRY(sqf_rotation_check_module(&recipe->base, &out->recipe, name, err));
    SQF_TRY(check_vocabulary_keys(&recipe->base, &out->recipe, name, err));
    out->quantized = !out->ignored && !sqf_weight_spec_is_dense(&out->recipe.scheme.weights);
    return out->quantized ? place_outliers(name, columns, &out->recipe, err) : SQF_OK;
}

/* True for names that may be ignored although they are not linear layers of the decoder. */
static bool may_be_ignored(const char *name)
{
    return sqf_recipe_is_vocabulary(name) || strcmp(name, "model.norm") == 0;
}

typedef sqf_status match_fn(const sqf_recipe *recipe, size_t index, const char *module, bool *matches, sqf_error *err);

static sqf_status match_override(const sqf_recipe *recipe, size_t index, const char *module, bool *matches,
                                 sqf_error *err)
{
    return sqf_recipe_override_matches(&recipe->overrides[index], module, matches, err);
}

static sqf_status match_ignore(const sqf_recipe *recipe, size_t index, const char *module, bool *matches,
                               sqf_error *err)
{
    return sqf_recipe_ignore_matches(&recipe->ignores[index], module, matches, err);
}

static sqf_status is_used(const sqf_recipe *recipe, size_t index, match_fn *match, size_t layers, bool *used,
                          sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    *used = false;
    if (recipe->base.lm_head.weights.bank > 0) {
        SQF_TRY(match(recipe, index, SQF_MODULE_OUTPUT, used, err));
    }
    if (recipe->base.embedding.weights.bank > 0 && !*used) {
        SQF_TRY(match(recipe, index, SQF_MODULE_EMBEDDING, used, err));
    }
    for (size_t layer = 0; layer < layers && !*used; layer++) {
        for (int kind = 0; kind < SQF_LINEAR_COUNT && !*used; kind++) {
            sqf_linear_name(layer, (sqf_linear_kind)kind, name);
            SQF_TRY(match(recipe, index, name, used, err));
        }
    }
    return SQF_OK;
}

/* An entry that no module has is a mistake in the recipe, not a wish. */
static sqf_status check_used(const sqf_recipe *recipe, size_t layers, sqf_error *err)
{
    bool used;
    for (size_t i = 0; i < recipe->override_count; i++) {
        SQF_TRY(is_used(recipe, i, match_override, layers, &used, err));
        if (!used) {
            return sqf_fail(err, SQF_E_ARG, "override '%s': matches no linear layer of the decoder",
                            recipe->overrides[i].match);
        }
    }
    for (size_t i = 0; i < recipe->ignore_count; i++) {
        bool matches = may_be_ignored(recipe->ignores[i].text);
        if (!matches && recipe->ignores[i].pattern) {
            SQF_TRY(match_ignore(recipe, i, "lm_head", &matches, err));
        }
        SQF_TRY(is_used(recipe, i, match_ignore, layers, &used, err));
        if (!used && !matches) {
            return sqf_fail(err, SQF_E_ARG, "ignore '%s': matches no linear layer", recipe->ignores[i].text);
        }
    }
    return SQF_OK;
}

/* What the module asks for and cannot have, alone or without calibration. */
static sqf_status check_module(const sqf_module_plan *module, bool calibrated, const char *name, sqf_error *err)
{
    const sqf_module_recipe *recipe = &module->recipe;
    const sqf_act_spec *act = &recipe->scheme.activations;
    const bool split = sqf_act_spec_is_split(act), fixed = !sqf_act_spec_is_float(act) && act->scale == SQF_ACT_STATIC;
    const char *wish = NULL;
    if (!module->quantized) {
        return SQF_OK;
    }
    if (fixed && split && act->mask == SQF_MASK_DYNAMIC) {
        return sqf_fail(err, SQF_E_ARG, "%s: act_scale static with a dynamic mask: expected token or group", name);
    }
    if (calibrated) {
        return SQF_OK;
    }
    if (fixed) {
        wish = "act_scale static";
    } else if (split && act->mask == SQF_MASK_STATIC && recipe->mask != SQF_MASK_SCORE_RANDOM) {
        wish = "a static activation mask other than random";
    } else if (recipe->smooth >= 0.0f) {
        wish = "smooth";
    } else if (recipe->scheme.weights.low == SQF_TYPE_NONE && recipe->prune == SQF_PRUNE_WANDA) {
        wish = "prune wanda";
    }
    return wish ? sqf_fail(err, SQF_E_ARG, "%s: %s needs calibration text, found none", name, wish) : SQF_OK;
}

/* Equal activations, whatever the weights are. */
static bool same_activations(const sqf_module_recipe *a, const sqf_module_recipe *b)
{
    const sqf_scheme left = {.weights = a->scheme.weights, .activations = a->scheme.activations};
    const sqf_scheme right = {.weights = a->scheme.weights, .activations = b->scheme.activations};
    const bool masked = sqf_act_spec_is_split(&a->scheme.activations) && a->scheme.activations.mask == SQF_MASK_STATIC;
    const bool clipped = !sqf_act_spec_is_float(&a->scheme.activations);
    return sqf_scheme_equal(&left, &right) && (!masked || (a->mask == b->mask && a->quota == b->quota)) &&
           (!clipped || a->act_clip == b->act_clip);
}

/* Two quantized modules that read one input split it once and share their smoothing factors. */
static sqf_status check_pair(const sqf_layer_plan *plan, size_t layer, sqf_linear_kind a, sqf_linear_kind b,
                             sqf_error *err)
{
    const sqf_module_recipe *left = &plan->module[a].recipe, *right = &plan->module[b].recipe;
    char first[SQF_MODULE_NAME], second[SQF_MODULE_NAME];
    sqf_linear_name(layer, a, first);
    sqf_linear_name(layer, b, second);
    if (!plan->module[a].quantized || !plan->module[b].quantized) {
        return SQF_OK;
    }
    if (!same_activations(left, right)) {
        return sqf_fail(err, SQF_E_ARG, "%s and %s read the same input: expected equal activations and masks", first,
                        second);
    }
    if (left->compensate != right->compensate && sqf_module_corrects(&plan->module[a]) &&
        sqf_module_corrects(&plan->module[b])) {
        return sqf_fail(err, SQF_E_ARG, "%s and %s read the same input: expected equal values of compensate", first,
                        second);
    }
    const bool explicit = left->smooth > SQF_SMOOTH_AUTO && right->smooth > SQF_SMOOTH_AUTO;
    if (explicit && left->smooth != right->smooth) {
        return sqf_fail(err, SQF_E_ARG, "%s and %s read the same input: expected equal values of smooth", first,
                        second);
    }
    return SQF_OK;
}

static sqf_status check_layer(const sqf_layer_plan *plan, bool calibrated, size_t layer, sqf_error *err)
{
    for (int a = 0; a < SQF_LINEAR_COUNT; a++) {
        char name[SQF_MODULE_NAME];
        sqf_linear_name(layer, (sqf_linear_kind)a, name);
        SQF_TRY(check_module(&plan->module[a], calibrated, name, err));
        for (int b = a + 1; b < SQF_LINEAR_COUNT; b++) {
            if (sqf_linear_input((sqf_linear_kind)a) == sqf_linear_input((sqf_linear_kind)b)) {
                SQF_TRY(check_pair(plan, layer, (sqf_linear_kind)a, (sqf_linear_kind)b, err));
            }
        }
    }
    return SQF_OK;
}

/* Section 10: before every scheme that quantizes activations or holds weights below 8 bits. */
static float automatic_alpha(const sqf_scheme *scheme)
{
    const sqf_weight_spec *weights = &scheme->weights;
    const bool eight = weights->high == SQF_TYPE_NONE && sqf_type_bits(weights->low) >= 8;
    return eight && sqf_act_spec_is_float(&scheme->activations) ? SQF_SMOOTH_OFF : SMOOTH_ALPHA;
}

/* The alpha that the readers of an input agree on: one that is said, else the largest automatic one. */
static float agreed_alpha(const sqf_layer_plan *plan, const sqf_rotation_choice *rotation, sqf_input_kind input)
{
    float automatic = SQF_SMOOTH_OFF;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        const sqf_module_recipe *recipe = &plan->module[kind].recipe;
        if (sqf_linear_input((sqf_linear_kind)kind) != input || !plan->module[kind].quantized) {
            continue;
        }
        if (recipe->smooth > SQF_SMOOTH_AUTO) {
            return recipe->smooth;
        }
        /* a rotation spreads the outliers that smoothing is for over all channels */
        const bool turned = sqf_rotation_turns_input(rotation, input);
        const float alpha = turned ? SQF_SMOOTH_OFF : automatic_alpha(&recipe->scheme);
        automatic = alpha > automatic ? alpha : automatic;
    }
    return automatic;
}

/* True if every tensor that smoothing of this input changes is rewritten anyway. */
static bool may_smooth(const sqf_layer_plan *plan, sqf_input_kind input)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (sqf_linear_input((sqf_linear_kind)kind) == input && !plan->module[kind].quantized) {
            return false;
        }
    }
    return (input != SQF_INPUT_O || plan->module[SQF_LINEAR_V].quantized) &&
           (input != SQF_INPUT_DOWN || plan->module[SQF_LINEAR_UP].quantized);
}

/* What smoothing divides must be a channel that some weights or a norm produce: down_proj's input after a rotation at
 * run time is not. */
static sqf_status check_smoothing(const sqf_layer_plan *plan, const sqf_rotation_choice *rotation, size_t layer,
                                  sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    if (!plan->module[SQF_LINEAR_DOWN].quantized || plan->module[SQF_LINEAR_DOWN].recipe.smooth < 0.0f ||
        rotation->down == SQF_ROTATE_PART_OFF) {
        return SQF_OK;
    }
    sqf_linear_name(layer, SQF_LINEAR_DOWN, name);
    return sqf_fail(
        err, SQF_E_ARG,
        "%s: smooth: expected off or auto behind rotate_down, whose channels nothing produces that could be "
        "divided",
        name);
}

/* Returns the number of inputs whose smoothing was given up. */
static size_t choose_alphas(sqf_layer_plan *plan, const sqf_rotation_choice *rotation, bool calibrated)
{
    size_t given_up = 0;
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        plan->alpha[input] = calibrated ? agreed_alpha(plan, rotation, (sqf_input_kind)input) : SQF_SMOOTH_OFF;
        if (plan->alpha[input] >= 0.0f && !may_smooth(plan, (sqf_input_kind)input)) {
            plan->alpha[input] = SQF_SMOOTH_OFF;
            given_up++;
        }
    }
    return given_up;
}

bool sqf_module_corrects(const sqf_module_plan *module)
{
    const sqf_compensate compensate = module->recipe.compensate;
    return module->quantized && (compensate == SQF_COMPENSATE_INPUT || compensate == SQF_COMPENSATE_MODEL);
}

static sqf_status resolve_layer(const sqf_config *config, const sqf_recipe *recipe, size_t layer, bool calibrated,
                                sqf_layer_plan *plan, sqf_error *err)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        char name[SQF_MODULE_NAME];
        size_t rows, columns;
        sqf_linear_name(layer, (sqf_linear_kind)kind, name);
        sqf_linear_shape(config, (sqf_linear_kind)kind, &rows, &columns);
        SQF_TRY(resolve_module(recipe, name, columns, &plan->module[kind], err));
        plan->quantized = plan->quantized || plan->module[kind].quantized;
        plan->corrects = plan->corrects || (calibrated && sqf_module_corrects(&plan->module[kind]));
    }
    return check_layer(plan, calibrated, layer, err);
}

bool sqf_layer_plan_corrects(const sqf_layer_plan *plan, sqf_input_kind input)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (sqf_linear_input((sqf_linear_kind)kind) == input && sqf_module_corrects(&plan->module[kind])) {
            return true;
        }
    }
    return false;
}

static bool follows_model(const sqf_layer_plan *plan)
{
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (plan->corrects && plan->module[kind].quantized &&
            plan->module[kind].recipe.compensate == SQF_COMPENSATE_MODEL) {
            return true;
        }
    }
    return false;
}

/* Refused by name is what an override asks for and cannot have. */
static sqf_status resolve_vocabulary_module(const sqf_config *config, const sqf_recipe *recipe, const char *name,
                                            bool calibrated, sqf_module_plan *out, sqf_error *err)
{
    SQF_TRY(resolve_module(recipe, name, config->hidden, out, err));
    if (!out->quantized) {
        return SQF_OK;
    }
    const sqf_act_spec *act = &out->recipe.scheme.activations;
    const bool masked = sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC;
    if (out->recipe.smooth != SQF_SMOOTH_OFF) {
        return sqf_fail(err, SQF_E_ARG, "%s: smooth: expected off: matrices of the vocabulary are not smoothed", name);
    }
    if (masked && (out->recipe.mask == SQF_MASK_SCORE_PAPER || out->recipe.mask == SQF_MASK_SCORE_L1)) {
        return sqf_fail(err, SQF_E_ARG,
                        "%s: mask: expected l2, max, maxl2, random or best: the sums that stand in for the rows of the "
                        "vocabulary have no other scores",
                        name);
    }
    return check_module(out, calibrated, name, err);
}

/* An ignored module with a scheme of its own is a contradiction. */
static sqf_status check_ignored(const sqf_scheme *scheme, const sqf_module_plan *module, const char *name,
                                sqf_error *err)
{
    const bool said = scheme->weights.bank > 0 && !sqf_weight_spec_is_dense(&scheme->weights);
    return said && module->ignored ? sqf_fail(err, SQF_E_ARG, "%s: is on the ignore list and has a scheme", name)
                                   : SQF_OK;
}

/* One stored matrix or two. A rotated residual stream has two whatever the model had: the final norm's gain went into
 * the output matrix alone. */
static void share_vocabulary(const sqf_config *config, const sqf_recipe *recipe, bool turned, sqf_vocabulary_plan *plan)
{
    const bool output_said = recipe->base.lm_head.weights.bank > 0;
    const bool embedding_said = recipe->base.embedding.weights.bank > 0;
    const bool either = plan->output.quantized || plan->embedding.quantized;
    if (!config->tied || turned || !either) {
        return;
    }
    sqf_scheme left = plan->output.recipe.scheme, right = plan->embedding.recipe.scheme;
    left.activations = right.activations;
    if (!output_said) {
        plan->output = plan->embedding;
        plan->shared = true;
    } else if (!embedding_said ||
               (plan->output.quantized && plan->embedding.quantized && sqf_scheme_equal(&left, &right))) {
        plan->shared = true;
    }
    plan->unties = !plan->shared;
    if (plan->shared) {
        plan->embedding.quantized = false;
    }
}

static sqf_status resolve_vocabulary(const sqf_config *config, const sqf_recipe *recipe, sqf_plan *plan, sqf_error *err)
{
    sqf_vocabulary_plan *vocabulary = &plan->vocabulary;
    SQF_TRY(resolve_vocabulary_module(config, recipe, SQF_MODULE_OUTPUT, plan->calibrated, &vocabulary->output, err));
    SQF_TRY(
        resolve_vocabulary_module(config, recipe, SQF_MODULE_EMBEDDING, plan->calibrated, &vocabulary->embedding, err));
    SQF_TRY(check_ignored(&recipe->base.lm_head, &vocabulary->output, SQF_MODULE_OUTPUT, err));
    SQF_TRY(check_ignored(&recipe->base.embedding, &vocabulary->embedding, SQF_MODULE_EMBEDDING, err));
    if (vocabulary->embedding.quantized && !sqf_act_spec_is_float(&vocabulary->embedding.recipe.scheme.activations)) {
        return sqf_fail(err, SQF_E_ARG, "%s: expected unquantized activations: its rows are looked up",
                        SQF_MODULE_EMBEDDING);
    }
    share_vocabulary(config, recipe, plan->rotation.residual != SQF_ROTATE_OFF, vocabulary);
    plan->feeds_output = plan->calibrated && vocabulary->output.quantized;
    return SQF_OK;
}

bool sqf_plan_feeds(const sqf_plan *plan, size_t layer)
{
    return layer + 1 < plan->passes || (layer + 1 == plan->layers && plan->feeds_output);
}

static sqf_status resolve_layers(const sqf_config *config, const sqf_recipe *recipe, sqf_plan *plan, sqf_error *err)
{
    SQF_TRY(sqf_scheme_check(&recipe->base.scheme, err)); /* config.json names it even if every module has another */
    SQF_TRY(sqf_rotation_choose(&recipe->base, plan->calibrated, &plan->rotation, err));
    plan->scheme = recipe->base.scheme;
    for (size_t i = 0; i < plan->layers; i++) {
        SQF_TRY(resolve_layer(config, recipe, i, plan->calibrated, &plan->layer[i], err));
        SQF_TRY(check_smoothing(&plan->layer[i], &plan->rotation, i, err));
        plan->unsmoothed += choose_alphas(&plan->layer[i], &plan->rotation, plan->calibrated);
        plan->passes = plan->layer[i].quantized ? i + 1 : plan->passes;
        plan->follows_model = plan->follows_model || follows_model(&plan->layer[i]);
    }
    SQF_TRY(resolve_vocabulary(config, recipe, plan, err));
    return check_used(recipe, plan->layers, err);
}

sqf_status sqf_plan_create(const sqf_config *config, const sqf_recipe *recipe, bool calibrated, sqf_plan *out,
                           sqf_error *err)
{
    *out = (sqf_plan){.layers = config->layers, .calibrated = calibrated};
    SQF_TRY(SQF_ALLOC(&out->layer, config->layers, "plan", err));
    const sqf_status status = resolve_layers(config, recipe, out, err);
    if (status != SQF_OK) {
        sqf_plan_clear(out);
        return status;
    }
    const bool all = sqf_rotation_needs_text(&out->rotation) || out->feeds_output;
    out->passes = !calibrated ? 0 : all ? out->layers : out->passes;
    return SQF_OK;
}

void sqf_plan_clear(sqf_plan *plan)
{
    free(plan->layer);
    *plan = (sqf_plan){0};
}

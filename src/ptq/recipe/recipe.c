/* A recipe: base, overrides by regular expression, modules left alone; and what it says of one module. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "ptq/recipe/recipe.h"

#include <pcre2.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

struct sqf_pattern {
    pcre2_code *code;
    pcre2_match_context *limits;
};

/* Module names are short: an expression that needs more steps than this was not meant. */
enum { MATCH_LIMIT = 100000 };

sqf_module_recipe sqf_module_recipe_default(const sqf_scheme *scheme)
{
    return (sqf_module_recipe){
        .scheme = *scheme, .mask = SQF_MASK_SCORE_BEST, .smooth = SQF_SMOOTH_AUTO, .damping = 0.01};
}

static void pattern_destroy(sqf_pattern *pattern)
{
    if (pattern) {
        pcre2_code_free(pattern->code);
        pcre2_match_context_free(pattern->limits);
        free(pattern);
    }
}

static sqf_status pattern_create(const char *expression, sqf_pattern **out, sqf_error *err)
{
    *out = NULL;
    int number;
    PCRE2_SIZE offset;
    sqf_pattern *pattern;
    SQF_TRY(SQF_ALLOC(&pattern, 1, "regular expression", err));
    pattern->code = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_ENDANCHORED,
                                  &number, &offset, NULL);
    if (!pattern->code) {
        PCRE2_UCHAR reason[128];
        pcre2_get_error_message(number, reason, sizeof reason);
        pattern_destroy(pattern);
        return sqf_fail(err, SQF_E_ARG, "regular expression '%s': %s at offset %zu", expression, (const char *)reason,
                        (size_t)offset);
    }
    pattern->limits = pcre2_match_context_create(NULL);
    if (!pattern->limits) {
        pattern_destroy(pattern);
        return sqf_fail(err, SQF_E_MEMORY, "regular expression '%s': out of memory", expression);
    }
    pcre2_set_match_limit(pattern->limits, MATCH_LIMIT);
    pcre2_set_depth_limit(pattern->limits, MATCH_LIMIT);
    *out = pattern;
    return SQF_OK;
}

static sqf_status pattern_matches(const sqf_pattern *pattern, const char *expression, const char *name, bool *matches,
                                  sqf_error *err)
{
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    if (!data) {
        return sqf_fail(err, SQF_E_MEMORY, "regular expression '%s': out of memory", expression);
    }
    const int found = pcre2_match(pattern->code, (PCRE2_SPTR)name, strlen(name), 0, 0, data, pattern->limits);
    pcre2_match_data_free(data);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH) {
        return sqf_fail(err, SQF_E_ARG, "regular expression '%s': cannot be decided for '%s' (PCRE2 error %d)",
                        expression, name, found);
    }
    *matches = found >= 0;
    return SQF_OK;
}

sqf_status sqf_recipe_create(const sqf_module_recipe *base, sqf_recipe **out, sqf_error *err)
{
    *out = NULL;
    SQF_TRY(SQF_ALLOC(out, 1, "recipe", err));
    (*out)->base = *base;
    return SQF_OK;
}

void sqf_recipe_destroy(sqf_recipe *recipe)
{
    if (!recipe) {
        return;
    }
    for (size_t i = 0; i < recipe->override_count; i++) {
        free(recipe->overrides[i].match);
        pattern_destroy(recipe->overrides[i].pattern);
        sqf_recipe_values_clear(&recipe->overrides[i].values);
    }
    for (size_t i = 0; i < recipe->ignore_count; i++) {
        free(recipe->ignores[i].text);
        pattern_destroy(recipe->ignores[i].pattern);
    }
    free(recipe->overrides);
    free(recipe->ignores);
    free(recipe);
}

sqf_module_recipe *sqf_recipe_base(sqf_recipe *recipe)
{
    return &recipe->base;
}

/* Room for one more element in an array of `count`; the array's capacity is the next power of two. */
static sqf_status grow(void **array, size_t count, size_t size, sqf_error *err)
{
    if (count != 0 && (count & (count - 1)) != 0) {
        return SQF_OK;
    }
    void *larger = realloc(*array, (count ? 2 * count : 1) * size);
    if (!larger) {
        return sqf_fail(err, SQF_E_MEMORY, "recipe: out of memory");
    }
    *array = larger;
    return SQF_OK;
}

sqf_status sqf_recipe_add_ignore(sqf_recipe *recipe, const char *pattern, sqf_error *err)
{
    SQF_TRY(grow((void **)&recipe->ignores, recipe->ignore_count, sizeof *recipe->ignores, err));
    sqf_recipe_ignore ignore = {0};
    if (strncmp(pattern, "re:", 3) == 0) {
        SQF_TRY(pattern_create(pattern + 3, &ignore.pattern, err));
    }
    const sqf_status status = sqf_copy_text(&ignore.text, pattern, strlen(pattern), err);
    if (status != SQF_OK) {
        pattern_destroy(ignore.pattern);
        return status;
    }
    recipe->ignores[recipe->ignore_count++] = ignore;
    return SQF_OK;
}

sqf_status sqf_recipe_add_override(sqf_recipe *recipe, const char *match, sqf_error *err)
{
    SQF_TRY(grow((void **)&recipe->overrides, recipe->override_count, sizeof *recipe->overrides, err));
    sqf_recipe_override override = {0};
    SQF_TRY(pattern_create(match, &override.pattern, err));
    const sqf_status status = sqf_copy_text(&override.match, match, strlen(match), err);
    if (status != SQF_OK) {
        pattern_destroy(override.pattern);
        return status;
    }
    recipe->overrides[recipe->override_count++] = override;
    return SQF_OK;
}

sqf_status sqf_recipe_override_set(sqf_recipe *recipe, const char *key, const char *value, sqf_error *err)
{
    if (recipe->override_count == 0) {
        return sqf_fail(err, SQF_E_ARG, "%s: there is no override yet", key);
    }
    return sqf_recipe_values_add(&recipe->overrides[recipe->override_count - 1].values, key, value, 0, err);
}

sqf_status sqf_recipe_override_matches(const sqf_recipe_override *override, const char *module, bool *matches,
                                       sqf_error *err)
{
    return pattern_matches(override->pattern, override->match, module, matches, err);
}

sqf_status sqf_recipe_ignore_matches(const sqf_recipe_ignore *ignore, const char *module, bool *matches, sqf_error *err)
{
    if (!ignore->pattern) {
        *matches = strcmp(ignore->text, module) == 0;
        return SQF_OK;
    }
    return pattern_matches(ignore->pattern, ignore->text, module, matches, err);
}

bool sqf_recipe_is_vocabulary(const char *module)
{
    return strcmp(module, "lm_head") == 0 || strcmp(module, "model.embed_tokens") == 0;
}

/* What a module starts from before overrides. The vocabulary's matrices are not smoothed: what stands before them could
 * not be divided without changing the look-up. *quantized: false where the base has no scheme for one of them. */
static sqf_module_recipe start_of(const sqf_recipe *recipe, const char *module, bool *quantized)
{
    sqf_module_recipe start = recipe->base;
    *quantized = true;
    if (!sqf_recipe_is_vocabulary(module)) {
        return start;
    }
    const sqf_scheme *scheme = strcmp(module, "lm_head") == 0 ? &start.lm_head : &start.embedding;
    *quantized = scheme->weights.bank > 0 && !sqf_weight_spec_is_dense(&scheme->weights);
    if (*quantized) {
        start.scheme = *scheme;
        start.smooth = SQF_SMOOTH_OFF;
        start.act_outliers = 0;
    }
    return start;
}

static sqf_status find_ignore(const sqf_recipe *recipe, const char *module, bool *ignored, sqf_error *err)
{
    for (size_t i = 0; i < recipe->ignore_count && !*ignored; i++) {
        SQF_TRY(sqf_recipe_ignore_matches(&recipe->ignores[i], module, ignored, err));
    }
    return SQF_OK;
}

/* Puts "override 'expression': " before an error of its keys. */
static sqf_status fail_override(sqf_error *err, sqf_status status, const char *match)
{
    char prefix[128];
    snprintf(prefix, sizeof prefix, "override '%.100s'", match);
    return sqf_fail_within(err, status, prefix);
}

sqf_status sqf_recipe_resolve(const sqf_recipe *recipe, const char *module, sqf_module_recipe *out, bool *ignored,
                              sqf_error *err)
{
    bool quantized;
    *out = start_of(recipe, module, &quantized);
    *ignored = !quantized;
    SQF_TRY(find_ignore(recipe, module, ignored, err));
    for (size_t i = 0; i < recipe->override_count; i++) {
        bool matches = false;
        SQF_TRY(sqf_recipe_override_matches(&recipe->overrides[i], module, &matches, err));
        const sqf_status status = matches ? sqf_recipe_values_apply(&recipe->overrides[i].values, out, err) : SQF_OK;
        if (status != SQF_OK) {
            return fail_override(err, status, recipe->overrides[i].match);
        }
    }
    const sqf_status status = sqf_scheme_check(&out->scheme, err);
    return status == SQF_OK ? SQF_OK : sqf_fail_within(err, status, module);
}

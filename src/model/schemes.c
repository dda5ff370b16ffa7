/* quantization_config: the main scheme, modules with another one, and modules left alone (docs/format.md section 7).
 * Looking a module up is a bisection in one sorted list of all modules that are named, ignored ones with a dense
 * scheme.
 *
 * The block comes from a file and is strict: an unknown member or version may change what the tensors mean. */
#include <stdio.h>
#include <string.h>

#include "model/modules.h"

/* A module that is named by overrides or ignore; the list is sorted by name. */
typedef struct named_scheme {
    const char *module; /* borrowed from json */
    sqf_scheme scheme;
} named_scheme;

/* The block of one config.json, read. `main` is the scheme of every linear layer of the decoder that is not named. */
struct sqf_module_schemes {
    json_t *json; /* quantization_config, a reference of ours */
    char *where;
    sqf_scheme main;
    named_scheme *named;
    size_t count;
    sqf_rotation_spec rotation;
};

/* What is not quantized. The dtype of the weights is in the file; BF16 stands for any of the dense ones. */
static sqf_scheme dense_scheme(void)
{
    return (sqf_scheme){.weights = {.low = SQF_TYPE_BF16, .bank = 1},
                        .activations = {.low = SQF_TYPE_FP32, .bank = 1, .clip = 1}};
}

void sqf_module_schemes_destroy(sqf_module_schemes *schemes)
{
    if (schemes) {
        json_decref(schemes->json);
        free(schemes->where);
        free(schemes->named);
        free(schemes);
    }
}

/* "a reader must reject an unknown member of the block" (docs/format.md section 7) */
static sqf_status check_members(json_t *json, const char *where, sqf_error *err)
{
    static const char *const known[] = {"quant_method", "format_version", "scheme", "overrides", "ignore", "rotation"};
    const char *key;
    json_t *value;
    json_object_foreach(json, key, value)
    {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
            found = found || strcmp(known[i], key) == 0;
        }
        if (!found) {
            return sqf_fail(err, SQF_E_SUPPORT, "%s: %.80s: an unknown member", where, key);
        }
    }
    return SQF_OK;
}

/* Is it ours at all? Asked before anything else, so that a model of another quantization is told so. */
static sqf_status check_method(json_t *json, const char *where, sqf_error *err)
{
    const char *method = "nothing";
    size_t version = 0;
    SQF_TRY(sqf_json_string_find(json, "quant_method", where, &method, err));
    if (strcmp(method, "sq-format") != 0) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: quant_method: expected sq-format, found %.80s", where, method);
    }
    SQF_TRY(check_members(json, where, err));
    SQF_TRY(sqf_json_size(json, "format_version", 0, UINT32_MAX, where, &version, err));
    if (version != 1) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: format_version: expected 1, found %zu", where, version);
    }
    return SQF_OK;
}

/* Names in files are read by the same grammar as names on a command line: a hand-written config.json may use short
 * ones, ours always has the long form, which no change of defaults can reinterpret. */
static sqf_status parse_scheme(const char *where, const char *module, const json_t *value, sqf_scheme *out,
                               sqf_error *err)
{
    const char *text = json_string_value(value);
    if (!text) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %.120s: expected a scheme's name", where, module);
    }
    const sqf_status status = sqf_scheme_parse(text, out, err);
    if (status != SQF_OK) {
        /* the name is wrong in a file, not in a call */
        sqf_fail_within(err, SQF_E_FORMAT, module);
        return sqf_fail_within(err, SQF_E_FORMAT, where);
    }
    return SQF_OK;
}

/* Module names are borrowed from the JSON, which schemes->json keeps alive. */
static sqf_status add_overrides(sqf_module_schemes *schemes, json_t *overrides, sqf_error *err)
{
    const char *module;
    json_t *value;
    json_object_foreach(overrides, module, value)
    {
        named_scheme *named = &schemes->named[schemes->count++];
        named->module = module;
        SQF_TRY(parse_scheme(schemes->where, module, value, &named->scheme, err));
    }
    return SQF_OK;
}

/* An ignored module is one with a dense scheme; only the list it stands in says that it was never meant to be
 * quantized. */
static sqf_status add_ignored(sqf_module_schemes *schemes, const json_t *ignore, sqf_error *err)
{
    for (size_t i = 0; i < json_array_size(ignore); i++) {
        const char *module = json_string_value(json_array_get(ignore, i));
        if (!module) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: ignore: expected a list of names of modules", schemes->where);
        }
        schemes->named[schemes->count++] = (named_scheme){.module = module, .scheme = dense_scheme()};
    }
    return SQF_OK;
}

static int compare_named(const void *a, const void *b)
{
    return strcmp(((const named_scheme *)a)->module, ((const named_scheme *)b)->module);
}

/* Names are sorted, so that a module named twice shows as neighbours. */
static sqf_status load_named(sqf_module_schemes *schemes, sqf_error *err)
{
    json_t *overrides, *ignore;
    SQF_TRY(sqf_json_member_find(schemes->json, "overrides", JSON_OBJECT, schemes->where, &overrides, err));
    SQF_TRY(sqf_json_member_find(schemes->json, "ignore", JSON_ARRAY, schemes->where, &ignore, err));
    SQF_TRY(SQF_ALLOC(&schemes->named, json_object_size(overrides) + json_array_size(ignore), "schemes", err));
    SQF_TRY(add_overrides(schemes, overrides, err));
    SQF_TRY(add_ignored(schemes, ignore, err));
    qsort(schemes->named, schemes->count, sizeof *schemes->named, compare_named);
    for (size_t i = 1; i < schemes->count; i++) {
        if (strcmp(schemes->named[i - 1].module, schemes->named[i].module) == 0) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: %.120s: named twice in overrides and ignore", schemes->where,
                            schemes->named[i].module);
        }
    }
    return SQF_OK;
}

/* Strict like the block around it: a member that is not known may be work that a reader must do. */
static sqf_status check_rotation_members(json_t *json, const char *where, sqf_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(json, key, value)
    {
        if (strcmp(key, "residual") != 0 && strcmp(key, "values") != 0 && strcmp(key, "down") != 0 &&
            strcmp(key, "down_factor") != 0) {
            return sqf_fail(err, SQF_E_SUPPORT, "%s: rotation: %.80s: an unknown member", where, key);
        }
    }
    return SQF_OK;
}

/* down and down_factor go together: the one says that there is a rotation, the other which. */
static sqf_status load_rotation(sqf_module_schemes *schemes, sqf_error *err)
{
    sqf_rotation_spec *rotation = &schemes->rotation;
    json_t *json;
    char where[256];
    *rotation = (sqf_rotation_spec){.residual = "off", .values = "off", .down = "off"};
    SQF_TRY(sqf_json_member_find(schemes->json, "rotation", JSON_OBJECT, schemes->where, &json, err));
    if (!json) {
        return SQF_OK;
    }
    SQF_TRY(check_rotation_members(json, schemes->where, err));
    snprintf(where, sizeof where, "%.200s: rotation", schemes->where);
    SQF_TRY(sqf_json_string_find(json, "residual", where, &rotation->residual, err));
    SQF_TRY(sqf_json_string_find(json, "values", where, &rotation->values, err));
    SQF_TRY(sqf_json_string_find(json, "down", where, &rotation->down, err));
    SQF_TRY(sqf_json_size_find(json, "down_factor", 1, SQF_WIDTH_MAX, where, &rotation->down_factor, err));
    rotation->down_mixed = rotation->down_factor > 1 && strcmp(rotation->down, "blocks") != 0;
    if ((rotation->down_factor > 0) != (strcmp(rotation->down, "off") != 0)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: down_factor: expected %s, found %zu", where,
                        rotation->down_factor > 0 ? "none where down is off" : "the factor of down's rotation",
                        rotation->down_factor);
    }
    return SQF_OK;
}

static sqf_status load(sqf_module_schemes *schemes, const json_t *config, const char *where, sqf_error *err)
{
    json_t *json, *main;
    SQF_TRY(sqf_format_text(&schemes->where, err, "%s: quantization_config", where));
    SQF_TRY(sqf_json_member(config, "quantization_config", JSON_OBJECT, where, &json, err));
    schemes->json = json_incref(json);
    SQF_TRY(check_method(json, schemes->where, err));
    SQF_TRY(sqf_json_member(json, "scheme", JSON_STRING, schemes->where, &main, err));
    SQF_TRY(parse_scheme(schemes->where, "scheme", main, &schemes->main, err));
    SQF_TRY(load_rotation(schemes, err));
    return load_named(schemes, err);
}

sqf_status sqf_module_schemes_load(const json_t *config_json, const char *where, sqf_module_schemes **out,
                                   sqf_error *err)
{
    const json_t *json = json_object_get(config_json, "quantization_config");
    *out = NULL;
    if (!json || json_is_null(json)) {
        return SQF_OK;
    }
    SQF_TRY(SQF_ALLOC(out, 1, "schemes", err));
    const sqf_status status = load(*out, config_json, where, err);
    if (status != SQF_OK) {
        sqf_module_schemes_destroy(*out);
        *out = NULL;
    }
    return status;
}

sqf_scheme sqf_module_schemes_main(const sqf_module_schemes *schemes)
{
    return schemes ? schemes->main : dense_scheme();
}

/* True for what the main scheme does not speak of: it holds for the linear layers of the decoder. */
static bool needs_name(const char *module)
{
    return strcmp(module, SQF_MODULE_OUTPUT) == 0 || strcmp(module, SQF_MODULE_EMBEDDING) == 0;
}

sqf_scheme sqf_module_schemes_get(const sqf_module_schemes *schemes, const char *module)
{
    const named_scheme key = {.module = module}, *found = NULL;
    if (schemes && schemes->count > 0) {
        found = bsearch(&key, schemes->named, schemes->count, sizeof key, compare_named);
    }
    return found ? found->scheme : needs_name(module) ? dense_scheme() : sqf_module_schemes_main(schemes);
}

/* Called with the model's own names: here nobody knows which modules exist, and a misspelt name would silently give a
 * module the main scheme. */
sqf_status sqf_module_schemes_check(const sqf_module_schemes *schemes,
                                    bool (*known)(const void *user, const char *name), const void *user, sqf_error *err)
{
    for (size_t i = 0; schemes && i < schemes->count; i++) {
        if (!known(user, schemes->named[i].module)) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: %.120s: expected a linear layer of the model, found no such module",
                            schemes->where, schemes->named[i].module);
        }
    }
    return SQF_OK;
}

sqf_rotation_spec sqf_module_schemes_rotation(const sqf_module_schemes *schemes)
{
    return schemes ? schemes->rotation : (sqf_rotation_spec){.residual = "off", .values = "off", .down = "off"};
}

const json_t *sqf_module_schemes_json(const sqf_module_schemes *schemes)
{
    return schemes ? schemes->json : NULL;
}

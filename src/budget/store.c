/* budget.json: what was measured, what was chosen, and why. Written beside a model, read to measure less next time. */
#include <math.h>
#include <string.h>

#include "budget/budget.h"

enum { BUDGET_LIMIT = 256 << 20, FORMAT_VERSION = 1 };

/* Takes over `value`. */
static bool set(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

/* An empty array as a member; NULL without memory, which json_array_append_new refuses. */
static json_t *add_array(json_t *object, const char *key)
{
    json_t *array = json_array();
    return set(object, key, array) ? array : NULL;
}

/* JSON has no NaN. */
static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *item_json(const sqf_budget *budget, size_t place, size_t candidate)
{
    const sqf_budget_item *item = sqf_budget_item_at(budget, place, candidate);
    const double products = budget->place[place].products;
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "setting", budget->candidates.text[candidate], "kl",
                     number(item->kl), "kl_error", number(item->kl_error), "output_error", number(item->error), "bits",
                     number(item->bits / products), "cost", number(item->cost / products));
}

static json_t *figures_json(const sqf_budget_figures *figures)
{
    if (!figures->setting) {
        return json_null();
    }
    return json_pack("{s:s, s:o, s:o, s:o}", "setting", figures->setting, "kl", number(figures->loss), "bits",
                     number(figures->bits), "cost", number(figures->cost));
}

static json_t *place_json(const sqf_budget *budget, size_t place)
{
    const sqf_budget_choice choice = sqf_budget_at(budget, place);
    json_t *object = json_object();
    bool done = set(object, "name", json_string(choice.name)) &&
                set(object, "weights", json_integer((json_int_t)budget->place[place].products)) &&
                set(object, "share", number(choice.share)) && set(object, "chosen", figures_json(&choice.chosen)) &&
                set(object, "better", figures_json(&choice.better)) &&
                set(object, "cheaper", figures_json(&choice.cheaper));
    json_t *settings = done ? add_array(object, "settings") : NULL;
    for (size_t c = 0; c < budget->candidates.count && done; c++) {
        done = json_array_append_new(settings, item_json(budget, place, c)) == 0;
    }
    if (!done) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* Without times: the file is the same for the same work. */
static json_t *summary_json(const sqf_budget_summary *summary)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:I}", "loss", number(summary->loss), "loss_error",
                     number(summary->loss_error), "predicted_loss", number(summary->predicted_loss), "kl",
                     number(summary->kl), "interaction", number(summary->interaction), "cost", number(summary->cost),
                     "reference_cost", number(summary->reference_cost), "bits", number(summary->bits), "rounds",
                     (int)summary->rounds, "held_out_tokens", (json_int_t)summary->tokens);
}

sqf_status sqf_budget_json(const sqf_budget *budget, json_t **out, sqf_error *err)
{
    *out = json_object();
    bool done = set(*out, "budget_version", json_integer(FORMAT_VERSION)) &&
                set(*out, "measured_for", json_string(budget->key)) &&
                set(*out, "summary", summary_json(&budget->summary));
    json_t *places = done ? add_array(*out, "places") : NULL;
    for (size_t p = 0; p < budget->places && done; p++) {
        done = json_array_append_new(places, place_json(budget, p)) == 0;
    }
    if (!done) {
        json_decref(*out);
        *out = NULL;
        return sqf_fail(err, SQF_E_MEMORY, "budget.json: out of memory");
    }
    return SQF_OK;
}

/* ---- reading ---- */

static size_t find_candidate(const sqf_budget *budget, const char *setting)
{
    size_t c = 0;
    while (c < budget->candidates.count && strcmp(budget->candidates.text[c], setting) != 0) {
        c++;
    }
    return c;
}

static sqf_status real_member(const json_t *object, const char *key, const char *where, double *out, sqf_error *err)
{
    *out = NAN;
    SQF_TRY(sqf_json_real_find(object, key, 0.0, 1e30, where, out, err));
    return isnan(*out) ? sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected a number, found none", where, key) : SQF_OK;
}

static sqf_status restore_item(const json_t *json, const char *where, sqf_budget *budget, size_t place, sqf_error *err)
{
    json_t *setting;
    SQF_TRY(sqf_json_member(json, "setting", JSON_STRING, where, &setting, err));
    const size_t candidate = find_candidate(budget, json_string_value(setting));
    if (candidate == budget->candidates.count) {
        return SQF_OK; /* not asked for this time */
    }
    sqf_budget_item *item = sqf_budget_item_at(budget, place, candidate);
    sqf_budget_item read = *item;
    double bits;
    SQF_TRY(real_member(json, "kl", where, &read.kl, err));
    SQF_TRY(real_member(json, "output_error", where, &read.error, err));
    SQF_TRY(real_member(json, "bits", where, &bits, err));
    read.kl_error = NAN;
    SQF_TRY(sqf_json_real_find(json, "kl_error", 0.0, 1e30, where, &read.kl_error, err));
    read.bits = bits * budget->place[place].products;
    read.measured = true;
    *item = read;
    return SQF_OK;
}

static sqf_status restore_place(const json_t *json, const char *where, sqf_budget *budget, sqf_error *err)
{
    json_t *name, *settings, *setting;
    size_t place = 0, index;
    SQF_TRY(sqf_json_member(json, "name", JSON_STRING, where, &name, err));
    SQF_TRY(sqf_json_member(json, "settings", JSON_ARRAY, where, &settings, err));
    while (place < budget->places && strcmp(budget->place[place].name, json_string_value(name)) != 0) {
        place++;
    }
    if (place == budget->places) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %.100s: expected an input of the model", where,
                        json_string_value(name));
    }
    json_array_foreach(settings, index, setting)
    {
        SQF_TRY(restore_item(setting, where, budget, place, err));
    }
    return SQF_OK;
}

static sqf_status restore(const json_t *json, const char *path, sqf_budget *budget, sqf_error *err)
{
    json_t *key, *places, *place;
    size_t version, index;
    SQF_TRY(sqf_json_size(json, "budget_version", FORMAT_VERSION, FORMAT_VERSION, path, &version, err));
    SQF_TRY(sqf_json_member(json, "measured_for", JSON_STRING, path, &key, err));
    if (strcmp(json_string_value(key), budget->key) != 0) {
        return sqf_fail(err, SQF_E_ARG, "%s: measured for another model, text, recipe or seed", path);
    }
    SQF_TRY(sqf_json_member(json, "places", JSON_ARRAY, path, &places, err));
    json_array_foreach(places, index, place)
    {
        SQF_TRY(restore_place(place, path, budget, err));
    }
    return SQF_OK;
}

sqf_status sqf_budget_restore(const char *path, sqf_budget *budget, sqf_error *err)
{
    json_t *json;
    SQF_TRY(sqf_json_load(path, BUDGET_LIMIT, &json, err));
    const sqf_status status = restore(json, path, budget, err);
    json_decref(json);
    return status;
}

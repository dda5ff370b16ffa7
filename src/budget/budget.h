/* The inside of a budget: places, candidates, and what was measured of each in each. */
#ifndef SQF_BUDGET_BUDGET_H
#define SQF_BUDGET_BUDGET_H

#include <sqf/budget.h>

#include "base/hash.h"
#include "base/json.h"
#include "budget/candidates.h"
#include "budget/solve.h"
#include "model/modules.h"
#include "ptq/calibration.h"

/* One candidate in one place. */
typedef struct sqf_budget_item {
    bool measured;
    double kl, kl_error; /* nats a token; kl_error NaN where a slope gave kl */
    double error;        /* squared error of the layer's output over its squared size */
    double bits;         /* stored, all of the place */
    double cost;         /* predicted, all of the place, in 8-bit products */
} sqf_budget_item;

/* An input of a layer with the quantized modules that read it. */
typedef struct sqf_budget_place {
    size_t layer;
    sqf_input_kind input;
    char name[SQF_MODULE_NAME];  /* "model.layers.0.self_attn.(q|k|v)_proj" */
    char match[SQF_MODULE_NAME]; /* the same as a regular expression */
    double products;             /* a token; also the number of weights */
} sqf_budget_place;

struct sqf_budget {
    sqf_candidates candidates;
    size_t places;
    sqf_budget_place *place;
    sqf_budget_item *item; /* [places * candidates.count] */
    size_t *choice;        /* [places] */
    /* modules outside the budget: they count in the whole and cannot change */
    double fixed_cost, fixed_bits;
    double products;               /* of the whole decoder */
    double limit_cost, limit_bits; /* of all that is not fixed, in products and bits; infinite = none */
    char key[SQF_HASH_TEXT];       /* of all that measurements depend on but the candidates */
    sqf_calibration held_out;
    sqf_budget_summary summary;
};

static inline sqf_budget_item *sqf_budget_item_at(const sqf_budget *budget, size_t place, size_t candidate)
{
    return &budget->item[place * budget->candidates.count + candidate];
}

/* What measuring needs. */
typedef struct sqf_budget_task {
    sqf_context *context;
    const char *model_directory, *output_directory;
    const sqf_recipe *recipe;
    const sqf_quantize_options *options; /* with `tokens` and so on as the final quantization will have them */
    const sqf_budget_options *wishes;
    sqf_budget *budget;
} sqf_budget_task;

/* The recipe with a candidate for all modules, `match` being ".*"; the caller's. */
sqf_status sqf_budget_candidate_recipe(const sqf_budget_task *task, size_t candidate, sqf_recipe **out, sqf_error *err);

/* Measures the items that are not measured yet. */
sqf_status sqf_budget_measure_items(const sqf_budget_task *task, sqf_error *err);

/* All of it as JSON (budget.json). */
sqf_status sqf_budget_json(const sqf_budget *budget, json_t **out, sqf_error *err);
/* Takes what is measured from a file whose key is that of the budget. SQF_E_FORMAT: not such a file; SQF_E_ARG: made
 * for another model, text or recipe. */
sqf_status sqf_budget_restore(const char *path, sqf_budget *budget, sqf_error *err);

#endif

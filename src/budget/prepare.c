/* Where a model can be given settings, what they cost there, which text is held out, and what identifies a measurement.
 */
#include "budget/prepare.h"

#include <math.h>
#include <string.h>

#include "model/checkpoint.h"
#include "ptq/recipe/recipe_plan.h"

/* The part of the calibration text that is held out where no text of its own is given: its last quarter. */
enum { HELD_OUT_PART = 4 };

sqf_status sqf_budget_candidate_recipe(const sqf_budget_task *task, size_t candidate, sqf_recipe **out, sqf_error *err)
{
    SQF_TRY(sqf_recipe_copy(task->recipe, out, err));
    const sqf_status status = sqf_candidate_apply(task->budget->candidates.text[candidate], ".*", *out, err);
    if (status != SQF_OK) {
        sqf_recipe_destroy(*out);
        *out = NULL;
    }
    return status;
}

/* ---- places ---- */

static void name_place(sqf_budget_place *place)
{
    static const char *const readers[SQF_INPUT_COUNT][2] = {
        {"self_attn.(q|k|v)_proj", "self_attn\\.(q|k|v)_proj"},
        {"self_attn.o_proj", "self_attn\\.o_proj"},
        {"mlp.(gate|up)_proj", "mlp\\.(gate|up)_proj"},
        {"mlp.down_proj", "mlp\\.down_proj"},
    };
    snprintf(place->name, sizeof place->name, "model.layers.%zu.%s", place->layer, readers[place->input][0]);
    snprintf(place->match, sizeof place->match, "model\\.layers\\.%zu\\.%s", place->layer, readers[place->input][1]);
}

static double weighted_cost(const sqf_budget_task *task, const sqf_scheme *scheme, size_t rows, size_t columns)
{
    const sqf_cost cost = sqf_cost_linear(scheme, rows, columns);
    return sqf_cost_per_product(&cost, task->wishes->cost_model) * cost.products;
}

static void count_fixed(const sqf_budget_task *task, const sqf_module_plan *module, size_t rows, size_t columns)
{
    sqf_scheme dense = module->recipe.scheme;
    dense.weights = (sqf_weight_spec){.low = SQF_TYPE_BF16, .bank = 1, .scale_type = SQF_TYPE_FP16};
    dense.activations = (sqf_act_spec){.low = SQF_TYPE_FP32, .bank = 1, .clip = 1.0f};
    task->budget->fixed_cost += weighted_cost(task, &dense, rows, columns);
    task->budget->fixed_bits += 16.0 * (double)rows * (double)columns;
}

/* The places of the model: inputs with a reader that is not ignored. `plan` is any candidate's. */
static sqf_status find_places(const sqf_budget_task *task, const sqf_config *config, const sqf_plan *plan,
                              sqf_error *err)
{
    sqf_budget *budget = task->budget;
    SQF_TRY(SQF_ALLOC(&budget->place, plan->layers * SQF_INPUT_COUNT, "places", err));
    for (size_t i = 0; i < plan->layers * SQF_INPUT_COUNT; i++) {
        sqf_budget_place place = {.layer = i / SQF_INPUT_COUNT, .input = (sqf_input_kind)(i % SQF_INPUT_COUNT)};
        for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
            const sqf_module_plan *module = &plan->layer[place.layer].module[kind];
            size_t rows, columns;
            sqf_linear_shape(config, (sqf_linear_kind)kind, &rows, &columns);
            if (sqf_linear_input((sqf_linear_kind)kind) != place.input) {
                continue;
            }
            budget->products += (double)rows * (double)columns;
            if (module->ignored) {
                count_fixed(task, module, rows, columns);
            } else {
                place.products += (double)rows * (double)columns;
            }
        }
        if (place.products > 0.0) {
            name_place(&place);
            budget->place[budget->places++] = place;
        }
    }
    return budget->places > 0 ? SQF_OK : sqf_fail(err, SQF_E_ARG, "budget: the recipe ignores every linear layer");
}

/* Of the readers that are not ignored. */
static double place_cost(const sqf_budget_task *task, const sqf_config *config, const sqf_plan *plan,
                         const sqf_budget_place *place, const sqf_scheme *scheme)
{
    double cost = 0.0;
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        const sqf_module_plan *module = &plan->layer[place->layer].module[kind];
        size_t rows, columns;
        sqf_linear_shape(config, (sqf_linear_kind)kind, &rows, &columns);
        if (sqf_linear_input((sqf_linear_kind)kind) == place->input && !module->ignored) {
            cost += weighted_cost(task, scheme ? scheme : &module->recipe.scheme, rows, columns);
        }
    }
    return cost;
}

static sqf_status find_costs(const sqf_budget_task *task, const sqf_config *config, const sqf_plan *plan,
                             size_t candidate, sqf_error *err)
{
    sqf_budget *budget = task->budget;
    sqf_scheme reference;
    SQF_TRY(sqf_scheme_parse("W4A8", &reference, err));
    if (candidate == 0) {
        SQF_TRY(find_places(task, config, plan, err));
        SQF_TRY(SQF_ALLOC(&budget->item, budget->places * budget->candidates.count, "measurements", err));
        SQF_TRY(SQF_ALLOC(&budget->choice, budget->places, "choice", err));
        budget->summary.reference_cost = budget->fixed_cost;
    }
    for (size_t p = 0; p < budget->places; p++) {
        sqf_budget_item *item = sqf_budget_item_at(budget, p, candidate);
        item->cost = place_cost(task, config, plan, &budget->place[p], NULL);
        if (candidate == 0) {
            budget->summary.reference_cost += place_cost(task, config, plan, &budget->place[p], &reference);
        }
    }
    return SQF_OK;
}

static sqf_status plan_candidate(const sqf_budget_task *task, const sqf_config *config, size_t candidate,
                                 sqf_error *err)
{
    sqf_recipe *recipe;
    sqf_plan plan;
    char where[160];
    snprintf(where, sizeof where, "candidate '%.120s'", task->budget->candidates.text[candidate]);
    SQF_TRY(sqf_budget_candidate_recipe(task, candidate, &recipe, err));
    sqf_status status = sqf_plan_create(config, recipe, true, &plan, err);
    sqf_recipe_destroy(recipe);
    if (status != SQF_OK) {
        return sqf_fail_within(err, status, where);
    }
    status = find_costs(task, config, &plan, candidate, err);
    sqf_plan_clear(&plan);
    return status;
}

/* ---- limits ---- */

/* Stored bits of the readers that are not ignored, in a scheme. */
static sqf_status scheme_bits(const sqf_config *config, const sqf_budget *budget, const sqf_plan *plan,
                              const sqf_scheme *scheme, double *bits, sqf_error *err)
{
    *bits = 0.0;
    for (size_t p = 0; p < budget->places; p++) {
        for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
            sqf_stored_part parts[SQF_STORED_PARTS];
            size_t rows, columns, count;
            sqf_linear_shape(config, (sqf_linear_kind)kind, &rows, &columns);
            if (sqf_linear_input((sqf_linear_kind)kind) != budget->place[p].input ||
                plan->layer[budget->place[p].layer].module[kind].ignored) {
                continue;
            }
            if (sqf_weight_spec_is_dense(&scheme->weights)) {
                *bits += (double)sqf_type_bits(scheme->weights.low) * (double)rows * (double)columns;
                continue;
            }
            SQF_TRY(sqf_stored_parts(scheme, rows, columns, parts, &count, err));
            for (size_t i = 0; i < count; i++) {
                const size_t second = parts[i].dimensions == 2 ? parts[i].shape[1] : 1;
                *bits += 8.0 * (double)sqf_dtype_bytes(sqf_dtype_of_name(parts[i].dtype)) * (double)parts[i].shape[0] *
                         (double)second;
            }
        }
    }
    return SQF_OK;
}

/* What a scheme costs and stores in all places. */
static sqf_status scheme_sums(const sqf_budget_task *task, const sqf_config *config, const char *name, double *cost,
                              double *bits, sqf_error *err)
{
    const sqf_budget *budget = task->budget;
    sqf_scheme scheme;
    sqf_recipe *recipe;
    sqf_plan plan;
    SQF_TRY(sqf_scheme_parse(name, &scheme, err));
    SQF_TRY(sqf_budget_candidate_recipe(task, 0, &recipe, err));
    sqf_status status = sqf_plan_create(config, recipe, true, &plan, err);
    sqf_recipe_destroy(recipe);
    SQF_TRY(status);
    *cost = 0.0;
    for (size_t p = 0; p < budget->places; p++) {
        *cost += place_cost(task, config, &plan, &budget->place[p], &scheme);
    }
    status = scheme_bits(config, budget, &plan, &scheme, bits, err);
    sqf_plan_clear(&plan);
    return status;
}

/* The wishes as sums over the places. */
static sqf_status find_limits(const sqf_budget_task *task, const sqf_config *config, sqf_error *err)
{
    const sqf_budget_options *wishes = task->wishes;
    sqf_budget *budget = task->budget;
    double cost, bits;
    budget->limit_cost = isnan(wishes->cost) ? INFINITY : wishes->cost * budget->products - budget->fixed_cost;
    budget->limit_bits = isnan(wishes->bits) ? INFINITY : wishes->bits * budget->products - budget->fixed_bits;
    if (!isnan(wishes->speed)) {
        const double limit = budget->summary.reference_cost / wishes->speed - budget->fixed_cost;
        budget->limit_cost = fmin(budget->limit_cost, limit);
    }
    if (wishes->cost_like) {
        SQF_TRY(scheme_sums(task, config, wishes->cost_like, &cost, &bits, err));
        budget->limit_cost = fmin(budget->limit_cost, cost);
    }
    if (wishes->bits_like) {
        SQF_TRY(scheme_sums(task, config, wishes->bits_like, &cost, &bits, err));
        budget->limit_bits = fmin(budget->limit_bits, bits);
    }
    return SQF_OK;
}

/* ---- held-out text ---- */

/* Windows that do not overlap, evenly spaced over ids[begin..end). */
static sqf_status cut_windows(const uint32_t *ids, size_t begin, size_t end, const char *name, size_t windows,
                              size_t length, sqf_calibration *out, sqf_error *err)
{
    const size_t most = (end - begin) / length;
    if (length < 2 || most == 0) {
        return sqf_fail(err, SQF_E_ARG, "%s: too little held-out text: %zu tokens needed for one window, %zu found",
                        name, length < 2 ? 2 : length, end - begin);
    }
    out->windows = windows < most ? windows : most;
    out->length = length;
    out->tokens = end - begin;
    SQF_TRY(SQF_ALLOC(&out->ids, out->windows * length, "held-out windows", err));
    for (size_t i = 0; i < out->windows; i++) {
        const size_t first = begin + sqf_calibration_window(i, out->windows, length, end - begin);
        memcpy(out->ids + i * length, ids + first, length * sizeof *ids);
    }
    return SQF_OK;
}

static sqf_status hold_out(const sqf_budget_task *task, const sqf_config *config, sqf_quantize_options *options,
                           sqf_error *err)
{
    sqf_quantize_options read = *options;
    sqf_ids ids;
    size_t begin = 0;
    if (task->wishes->text) {
        read.calibration = task->wishes->text;
        read.calibration_ids = NULL;
    }
    sqf_status status = sqf_calibration_encode(task->model_directory, config, &read, &ids, err);
    if (status == SQF_OK && !task->wishes->text) {
        if (options->tokens == 0 || options->tokens > ids.count) {
            options->tokens = ids.count - ids.count / HELD_OUT_PART;
        }
        begin = options->tokens;
    }
    if (status == SQF_OK) {
        const char *name = read.calibration ? read.calibration : "calibration ids";
        status = cut_windows(ids.data, begin, ids.count, name, task->wishes->windows, options->length,
                             &task->budget->held_out, err);
    }
    sqf_ids_clear(&ids);
    return status;
}

/* ---- the key ---- */

static sqf_status append_hash(sqf_buffer *buffer, const char *name, const void *bytes, size_t n, sqf_error *err)
{
    char hash[SQF_HASH_TEXT];
    sqf_hash_bytes(bytes, n, hash);
    return sqf_buffer_print(buffer, err, "%s %s\n", name, hash);
}

/* Everything that a measurement depends on: weights, texts as windows, recipe, seed, and how it is measured. */
static sqf_status append_all(const sqf_budget_task *task, const sqf_checkpoint *checkpoint,
                             const sqf_calibration *calibration, const char *recipe, sqf_buffer *buffer, sqf_error *err)
{
    const sqf_calibration *held_out = &task->budget->held_out;
    for (size_t i = 0; i < sqf_tensors_count(checkpoint->tensors); i++) {
        const sqf_tensor *tensor = sqf_tensors_at(checkpoint->tensors, i);
        SQF_TRY(append_hash(buffer, tensor->name, tensor->data, tensor->bytes, err));
        sqf_mapping_forget(tensor->data, tensor->bytes);
    }
    SQF_TRY(sqf_json_append(checkpoint->config_json, JSON_SORT_KEYS, buffer, err));
    SQF_TRY(append_hash(buffer, "calibration", calibration->ids,
                        calibration->windows * calibration->length * sizeof *calibration->ids, err));
    SQF_TRY(append_hash(buffer, "held out", held_out->ids, held_out->windows * held_out->length * sizeof *held_out->ids,
                        err));
    return sqf_buffer_print(buffer, err, "length %zu\nseed %llu\nmeasure %d\n%s", held_out->length,
                            (unsigned long long)task->options->seed, (int)task->wishes->measure, recipe);
}

static sqf_status make_key(const sqf_budget_task *task, const sqf_checkpoint *checkpoint, sqf_error *err)
{
    sqf_calibration calibration;
    sqf_buffer buffer = {0};
    char *recipe = NULL;
    sqf_status status =
        sqf_calibration_load(task->model_directory, &checkpoint->config, task->options, &calibration, err);
    if (status == SQF_OK) {
        status = sqf_recipe_print(task->recipe, &recipe, err);
    }
    if (status == SQF_OK) {
        status = append_all(task, checkpoint, &calibration, recipe, &buffer, err);
    }
    if (status == SQF_OK) {
        sqf_hash_bytes(buffer.data, buffer.size, task->budget->key);
    }
    free(recipe);
    free(buffer.data);
    sqf_calibration_clear(&calibration);
    return status;
}

static sqf_status prepare(sqf_budget_task *task, const sqf_checkpoint *checkpoint, sqf_quantize_options *options,
                          sqf_error *err)
{
    sqf_budget *budget = task->budget;
    const char *list = task->wishes->candidates;
    if (checkpoint->schemes) {
        return sqf_fail(err, SQF_E_ARG, "%s: is quantized already, expected an original checkpoint",
                        task->model_directory);
    }
    SQF_TRY(sqf_candidates_parse(list ? list : sqf_budget_default_candidates(), &budget->candidates, err));
    for (size_t c = 0; c < budget->candidates.count; c++) {
        SQF_TRY(plan_candidate(task, &checkpoint->config, c, err));
    }
    SQF_TRY(find_limits(task, &checkpoint->config, err));
    SQF_TRY(hold_out(task, &checkpoint->config, options, err));
    return make_key(task, checkpoint, err);
}

sqf_status sqf_budget_prepare(sqf_budget_task *task, sqf_quantize_options *options, sqf_error *err)
{
    sqf_checkpoint checkpoint;
    sqf_status status = sqf_checkpoint_open(task->model_directory, &checkpoint, err);
    if (status == SQF_OK) {
        status = prepare(task, &checkpoint, options, err);
    }
    sqf_checkpoint_close(&checkpoint);
    return status;
}

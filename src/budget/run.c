/* The automatic budget from beginning to end: measure, choose, quantize, verify, and where the whole loses more than
 * its parts said, scale what they said and choose again. */
#include <math.h>
#include <string.h>

#include <sqf/eval.h>

#include "base/file.h"
#include "budget/prepare.h"
#include "device/device.h"
#include "ptq/pipeline.h"

/* A model that loses less than this part of the target could be cheaper: another round is worth it. */
#define SLACK 0.85
/* What the correction grows by at least after a model that lost too much. */
#define STEP 1.03

static const char default_candidates[] =
    "w4a4 clip=mse bank_weights=128|row, w4a4 clip=mse act_scale=group act_group=128|64, "
    "w4a-sq4.5|w4a-sq5|w4a-sq6 quota=equal clip=mse act_scale=token|group act_group=128, w4a8 clip=mse, w8a8";

const char *sqf_budget_default_candidates(void)
{
    return default_candidates;
}

sqf_budget_options sqf_budget_options_default(void)
{
    return (sqf_budget_options){.loss = NAN, .bits = NAN, .cost = NAN, .speed = NAN, .windows = 16, .rounds = 6};
}

/* ---- what was chosen ---- */

sqf_budget_summary sqf_budget_summary_get(const sqf_budget *budget)
{
    return budget->summary;
}

size_t sqf_budget_count(const sqf_budget *budget)
{
    return budget->places;
}

static sqf_budget_figures figures_of(const sqf_budget *budget, size_t place, size_t candidate)
{
    const sqf_budget_item *item = sqf_budget_item_at(budget, place, candidate);
    const double products = budget->place[place].products;
    return (sqf_budget_figures){.setting = budget->candidates.text[candidate],
                                .loss = item->kl,
                                .cost = item->cost / products,
                                .bits = item->bits / products};
}

/* True if `a` costs less than `b`: in products, then in bits. */
static bool is_cheaper(const sqf_budget_figures *a, const sqf_budget_figures *b)
{
    return a->cost != b->cost ? a->cost < b->cost : a->bits < b->bits;
}

sqf_budget_choice sqf_budget_at(const sqf_budget *budget, size_t index)
{
    sqf_budget_choice choice = {.name = budget->place[index].name,
                                .share = budget->place[index].products / budget->products,
                                .chosen = figures_of(budget, index, budget->choice[index])};
    for (size_t c = 0; c < budget->candidates.count; c++) {
        const sqf_budget_figures other = figures_of(budget, index, c);
        if (other.loss < choice.chosen.loss && (!choice.better.setting || is_cheaper(&other, &choice.better))) {
            choice.better = other;
        }
        if (is_cheaper(&other, &choice.chosen) && (!choice.cheaper.setting || other.loss < choice.cheaper.loss)) {
            choice.cheaper = other;
        }
    }
    return choice;
}

void sqf_budget_destroy(sqf_budget *budget)
{
    if (budget) {
        sqf_candidates_clear(&budget->candidates);
        sqf_calibration_clear(&budget->held_out);
        free(budget->place);
        free(budget->item);
        free(budget->choice);
        free(budget);
    }
}

/* ---- choosing ---- */

/* The work of one call. */
typedef struct run {
    sqf_budget_task task;
    sqf_budget_problem problem;
    double (*figures)[SQF_QUANTITY_COUNT];
    sqf_model *original;
    size_t *best; /* the cheapest choice that was verified; best_found tells whether there is one */
    bool best_found;
    bool accept_always; /* the model at work is the last one */
    bool rejected;      /* it was given up for its loss */
    double kl;          /* sum of the measured losses of the choice at work */
} run;

static sqf_status make_problem(run *r, sqf_error *err)
{
    const sqf_budget *budget = r->task.budget;
    const sqf_budget_options *wishes = r->task.wishes;
    const size_t items = budget->places * budget->candidates.count;
    const bool has_loss = !isnan(wishes->loss);
    SQF_TRY(SQF_ALLOC(&r->figures, items, "budget", err));
    SQF_TRY(SQF_ALLOC(&r->best, budget->places, "budget", err));
    for (size_t i = 0; i < items; i++) {
        r->figures[i][SQF_QUANTITY_LOSS] = budget->item[i].kl;
        r->figures[i][SQF_QUANTITY_COST] = budget->item[i].cost;
        r->figures[i][SQF_QUANTITY_BITS] = budget->item[i].bits;
    }
    r->problem = (sqf_budget_problem){.places = budget->places,
                                      .settings = budget->candidates.count,
                                      .figures = r->figures,
                                      .limit = {INFINITY, INFINITY, INFINITY},
                                      .objective = !has_loss                              ? SQF_QUANTITY_LOSS
                                                   : wishes->objective == SQF_BUDGET_BITS ? SQF_QUANTITY_BITS
                                                                                          : SQF_QUANTITY_COST};
    r->problem.limit[SQF_QUANTITY_COST] = budget->limit_cost;
    r->problem.limit[SQF_QUANTITY_BITS] = budget->limit_bits;
    return SQF_OK;
}

/* The least sum of one quantity alone. */
static double least_sum(const run *r, sqf_budget_quantity quantity)
{
    double sum = 0.0;
    for (size_t p = 0; p < r->problem.places; p++) {
        double least = INFINITY;
        for (size_t c = 0; c < r->problem.settings; c++) {
            least = fmin(least, r->figures[p * r->problem.settings + c][quantity]);
        }
        sum += least;
    }
    return sum;
}

/* Cost and bits cannot be kept, whatever the loss. */
static sqf_status fail_limits(const run *r, sqf_error *err)
{
    const sqf_budget *budget = r->task.budget;
    const double cost = (least_sum(r, SQF_QUANTITY_COST) + budget->fixed_cost) / budget->products;
    const double bits = (least_sum(r, SQF_QUANTITY_BITS) + budget->fixed_bits) / budget->products;
    const double wanted_cost = (budget->limit_cost + budget->fixed_cost) / budget->products;
    const double wanted_bits = (budget->limit_bits + budget->fixed_bits) / budget->products;
    const double reference = budget->summary.reference_cost;
    if (wanted_cost < cost) {
        return sqf_fail(
            err, SQF_E_ARG,
            "budget: a speed of %.5g (predicted cost %.5g): expected at most %.5g (%.5g) with these candidates",
            reference / wanted_cost, wanted_cost, reference / cost, cost);
    }
    if (wanted_bits < bits) {
        return sqf_fail(err, SQF_E_ARG, "budget: %.5g stored bits: expected at least %.5g with these candidates",
                        wanted_bits, bits);
    }
    return sqf_fail(
        err, SQF_E_ARG,
        "budget: a cost of %.5g and %.5g bits: each can be reached alone (%.5g and %.5g at least), not both",
        wanted_cost, wanted_bits, cost, bits);
}

/* Chooses for a summed loss of at most `kl`; where none is low enough, for the least loss. */
static sqf_status choose(run *r, double kl, sqf_error *err)
{
    sqf_budget *budget = r->task.budget;
    sqf_budget_problem problem = r->problem;
    double sums[SQF_QUANTITY_COUNT];
    bool found;
    problem.limit[SQF_QUANTITY_LOSS] = kl;
    SQF_TRY(sqf_budget_solve(&problem, budget->choice, &found, err));
    if (!found && isfinite(kl)) {
        problem.limit[SQF_QUANTITY_LOSS] = INFINITY;
        problem.objective = SQF_QUANTITY_LOSS;
        SQF_TRY(sqf_budget_solve(&problem, budget->choice, &found, err));
    }
    if (!found) {
        return fail_limits(r, err);
    }
    sqf_budget_sums(&problem, budget->choice, sums);
    r->kl = sums[SQF_QUANTITY_LOSS];
    budget->summary.cost = (sums[SQF_QUANTITY_COST] + budget->fixed_cost) / budget->products;
    budget->summary.bits = (sums[SQF_QUANTITY_BITS] + budget->fixed_bits) / budget->products;
    return SQF_OK;
}

/* ---- quantizing and verifying ---- */

/* The caller's recipe with an override for each place. */
static sqf_status chosen_recipe(const run *r, sqf_recipe **out, sqf_error *err)
{
    const sqf_budget *budget = r->task.budget;
    SQF_TRY(sqf_recipe_copy(r->task.recipe, out, err));
    sqf_status status = SQF_OK;
    for (size_t p = 0; p < budget->places && status == SQF_OK; p++) {
        status = sqf_candidate_apply(budget->candidates.text[budget->choice[p]], budget->place[p].match, *out, err);
    }
    if (status != SQF_OK) {
        sqf_recipe_destroy(*out);
        *out = NULL;
    }
    return status;
}

static sqf_status write_budget(const sqf_budget *budget, const char *directory, json_t *json, sqf_error *err)
{
    char *text = NULL, *path = NULL;
    (void)budget;
    sqf_status status = sqf_json_print(json, &text, err);
    if (status == SQF_OK) {
        status = sqf_path_join(&path, directory, "budget.json", err);
    }
    if (status == SQF_OK) {
        status = sqf_file_write(path, text, strlen(text), err);
    }
    free(path);
    free(text);
    return status;
}

/* budget.json, and the same without the measurements for report.json. */
static sqf_status describe(const sqf_budget *budget, const char *directory, json_t **section, sqf_error *err)
{
    json_t *json, *place;
    size_t index;
    SQF_TRY(sqf_budget_json(budget, &json, err));
    sqf_status status = write_budget(budget, directory, json, err);
    if (status != SQF_OK) {
        json_decref(json);
        return status;
    }
    json_array_foreach(json_object_get(json, "places"), index, place)
    {
        json_object_del(place, "settings");
    }
    *section = json;
    return SQF_OK;
}

static sqf_status verify(run *r, const char *directory, sqf_eval_result *result, sqf_error *err)
{
    const sqf_calibration *held_out = &r->task.budget->held_out;
    const sqf_eval_options options = {.window = held_out->length};
    sqf_model *model;
    SQF_TRY(sqf_model_open(r->task.context, directory, &model, err));
    const sqf_status status = sqf_eval_ids(r->task.context, model, r->original, NULL, held_out->ids,
                                           held_out->windows * held_out->length, NULL, &options, result, err);
    sqf_model_destroy(model);
    return status;
}

/* Keeps the target and leaves little of it unused. */
static bool is_close(const run *r, double loss)
{
    const double target = r->task.wishes->loss;
    return loss <= target && log1p(loss) >= SLACK * log1p(target);
}

/* The pipeline's question whether a model that is written shall stand. */
static sqf_status look_at_output(void *user, const char *directory, json_t **section, sqf_error *err)
{
    run *r = user;
    sqf_budget_summary *summary = &r->task.budget->summary;
    sqf_eval_result result;
    SQF_TRY(verify(r, directory, &result, err));
    summary->rounds++;
    summary->loss = result.ratio - 1.0;
    summary->loss_error = result.ratio_error;
    summary->kl = result.kl;
    sqf_log(r->task.context, SQF_LOG_INFO,
            "budget: round %u: predicted loss %.3f %%, found %.3f +- %.3f %%; cost %.5g, %.5g bits", summary->rounds,
            100.0 * summary->predicted_loss, 100.0 * summary->loss, 100.0 * summary->loss_error, summary->cost,
            summary->bits);
    summary->interaction = r->kl > 0.0 ? log1p(summary->loss) / r->kl : 1.0;
    r->rejected = !r->accept_always && !is_close(r, summary->loss);
    if (r->rejected) {
        return sqf_fail(err, SQF_E_CANCELLED, "budget: another choice");
    }
    return describe(r->task.budget, directory, section, err);
}

/* Quantizes with the choice at work. A model that is given up is not a failure: r->rejected tells. */
static sqf_status attempt(run *r, bool last, sqf_quantize_summary *summary, sqf_error *err)
{
    const sqf_budget_task *task = &r->task;
    const sqf_pipeline_visitor visitor = {.user = r, .written = look_at_output};
    sqf_recipe *recipe;
    r->accept_always = last;
    r->rejected = false;
    SQF_TRY(chosen_recipe(r, &recipe, err));
    const sqf_status status = sqf_pipeline_quantize(task->context, task->model_directory, task->output_directory,
                                                    recipe, task->options, &visitor, summary, err);
    sqf_recipe_destroy(recipe);
    return r->rejected ? SQF_OK : status;
}

/* No target of loss: what keeps the limits best is taken as it is. */
static sqf_status fit_limits(run *r, sqf_quantize_summary *summary, sqf_error *err)
{
    SQF_TRY(choose(r, INFINITY, err));
    r->task.budget->summary.predicted_loss = expm1(r->kl);
    return attempt(r, true, summary, err);
}

static sqf_status fail_loss(const run *r, double best, double best_error, sqf_error *err)
{
    return sqf_fail(
        err, SQF_E_ARG,
        "budget: a loss of %.4g %%: expected at least %.4g %% (+- %.2g), the best found with these candidates",
        100.0 * r->task.wishes->loss, 100.0 * best, 100.0 * best_error);
}

/* A target of loss: predictions are the sum of measured losses times the interaction, which each verified model tells
 * anew. A model that keeps the target is remembered; one that falls far below it makes room for a cheaper one. */
static sqf_status fit_loss(run *r, sqf_quantize_summary *summary, sqf_error *err)
{
    sqf_budget *budget = r->task.budget;
    sqf_budget_summary *total = &budget->summary;
    const double target = log1p(r->task.wishes->loss);
    double interaction = 1.0, kept = INFINITY, least = INFINITY, least_error = 0.0, tried = -1.0, beyond = INFINITY;
    for (unsigned round = 0; round < r->task.wishes->rounds; round++) {
        SQF_TRY(choose(r, target / interaction, err));
        total->predicted_loss = expm1(interaction * r->kl);
        if (r->kl == tried || r->kl >= beyond) {
            break; /* the same choice again, or one that loses more than what lost too much */
        }
        tried = r->kl;
        SQF_TRY(attempt(r, false, summary, err));
        if (!r->rejected) {
            return SQF_OK;
        }
        const double found = log1p(total->loss);
        if (total->loss < least) {
            least = total->loss;
            least_error = total->loss_error;
        }
        if (found <= target) {
            const double worth = r->task.wishes->objective == SQF_BUDGET_BITS ? total->bits : total->cost;
            if (worth < kept) {
                kept = worth;
                memcpy(r->best, budget->choice, budget->places * sizeof *r->best);
                r->best_found = true;
            }
            interaction = fmax(total->interaction, 0.25 * interaction);
        } else {
            beyond = fmin(beyond, r->kl);
            interaction = fmax(total->interaction, STEP * interaction);
        }
    }
    if (!r->best_found) {
        return fail_loss(r, least, least_error, err);
    }
    memcpy(budget->choice, r->best, budget->places * sizeof *r->best);
    double sums[SQF_QUANTITY_COUNT];
    sqf_budget_sums(&r->problem, budget->choice, sums);
    r->kl = sums[SQF_QUANTITY_LOSS];
    total->cost = (sums[SQF_QUANTITY_COST] + budget->fixed_cost) / budget->products;
    total->bits = (sums[SQF_QUANTITY_BITS] + budget->fixed_bits) / budget->products;
    return attempt(r, true, summary, err);
}

/* ---- one call ---- */

static sqf_status check(const sqf_quantize_options *options, const sqf_budget_options *wishes, sqf_error *err)
{
    const bool limited =
        !isnan(wishes->bits) || !isnan(wishes->cost) || !isnan(wishes->speed) || wishes->bits_like || wishes->cost_like;
    if (isnan(wishes->loss) && !limited) {
        return sqf_fail(err, SQF_E_ARG, "budget: expected a target of loss, bits or cost, found none");
    }
    if (wishes->loss <= 0.0 || wishes->bits <= 0.0 || wishes->cost <= 0.0 || wishes->speed <= 0.0) {
        return sqf_fail(err, SQF_E_ARG, "budget: expected targets above 0");
    }
    if (wishes->windows < 1 || wishes->rounds < 1) {
        return sqf_fail(err, SQF_E_ARG, "budget: expected at least one held-out window and one round");
    }
    if (!options->calibration && !options->calibration_ids) {
        return sqf_fail(err, SQF_E_ARG, "budget: needs calibration text, found none");
    }
    return SQF_OK;
}

static sqf_status count_measured(const run *r, sqf_error *err)
{
    sqf_budget *budget = r->task.budget;
    const double start = sqf_clock_seconds();
    if (r->task.wishes->sensitivity) {
        SQF_TRY(sqf_budget_restore(r->task.wishes->sensitivity, budget, err));
    }
    for (size_t i = 0; i < budget->places * budget->candidates.count; i++) {
        budget->summary.measured += !budget->item[i].measured;
    }
    sqf_log(r->task.context, SQF_LOG_INFO, "budget: %zu settings in %zu places, %zu to measure on %zu held-out tokens",
            budget->candidates.count, budget->places, budget->summary.measured,
            budget->held_out.windows * budget->held_out.length);
    SQF_TRY(sqf_budget_measure_items(&r->task, err));
    budget->summary.seconds = sqf_clock_seconds() - start;
    return SQF_OK;
}

static sqf_status work(run *r, sqf_quantize_options *options, sqf_quantize_summary *summary, sqf_error *err)
{
    sqf_budget *budget = r->task.budget;
    sqf_budget_summary *total = &budget->summary;
    SQF_TRY(check(options, r->task.wishes, err));
    SQF_TRY(sqf_device_refuse(r->task.context, "budget", err));
    SQF_TRY(sqf_budget_prepare(&r->task, options, err));
    SQF_TRY(count_measured(r, err));
    total->reference_cost /= budget->products;
    total->candidates = budget->candidates.count;
    total->places = budget->places;
    total->tokens = budget->held_out.windows * budget->held_out.length;
    SQF_TRY(make_problem(r, err));
    SQF_TRY(sqf_model_open(r->task.context, r->task.model_directory, &r->original, err));
    return isnan(r->task.wishes->loss) ? fit_limits(r, summary, err) : fit_loss(r, summary, err);
}

sqf_status sqf_quantize_budget(sqf_context *context, const char *model_directory, const char *output_directory,
                               const sqf_recipe *recipe, const sqf_quantize_options *options,
                               const sqf_budget_options *budget, sqf_quantize_summary *summary, sqf_budget **out,
                               sqf_error *err)
{
    sqf_quantize_options copy = *options;
    run r = {.task = {.context = context,
                      .model_directory = model_directory,
                      .output_directory = output_directory,
                      .recipe = recipe,
                      .options = &copy,
                      .wishes = budget}};
    sqf_quantize_summary ignored;
    if (out) {
        *out = NULL;
    }
    SQF_TRY(SQF_ALLOC(&r.task.budget, 1, "budget", err));
    const sqf_status status = work(&r, &copy, summary ? summary : &ignored, err);
    sqf_model_destroy(r.original);
    free(r.figures);
    free(r.best);
    if (status == SQF_OK && out) {
        *out = r.task.budget;
    } else {
        sqf_budget_destroy(r.task.budget);
    }
    return status;
}

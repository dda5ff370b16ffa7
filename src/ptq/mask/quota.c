/* How many channels each input of a decoder layer may hold high. docs/algorithms.md, "Quotas"
 *
 * A channel held high costs every product that reads it twice; what it saves differs from input to input by an order
 * of magnitude. The error of each input is measured for every quota from none to all, and the layer's share of products
 * that the scheme holds high is dealt out where it saves most. */
#include <math.h>

#include "base/memory.h"
#include "format/partition.h"
#include "ptq/mask/layer.h"

/* Tokens of the sample that are looked at. */
enum { TOKENS = 256 };

static uint32_t high_at(const sqf_act_spec *act, size_t level, size_t levels)
{
    return (uint32_t)((act->bank * (uint64_t)level + levels / 2) / levels);
}

/* An activation specification with k of each bank high: uniform if that is none or all. */
static sqf_act_spec with_quota(const sqf_act_spec *act, uint32_t high_per_bank)
{
    sqf_act_spec out = *act;
    out.high_per_bank = high_per_bank;
    if (high_per_bank == 0 || high_per_bank == act->bank) {
        out.low = high_per_bank == 0 ? act->low : act->high;
        out.high = SQF_TYPE_NONE;
        out.high_per_bank = 0;
        out.high_clip = 0.0f;
        if (act->zero == SQF_ACT_ZERO_LOW) {
            out.zero = high_per_bank == 0 ? SQF_ACT_ZERO_POINT : SQF_ACT_ZERO_NONE;
        }
    }
    return out;
}

/* One quota: with the ratio that was best for fewer high channels, or larger ones, as long as they serve better. The
 * more channels are high, the less there is to clip. */
static sqf_status measure_level(const sqf_output_error *measure, sqf_act_spec *act, const int32_t *order, size_t border,
                                bool search, float *clip, double *error, sqf_error *err)
{
    if (!search || *clip == 0.0f) {
        SQF_TRY(search ? sqf_clip_search(measure, act, order, border, error, err)
                       : sqf_output_error_measure(measure, act, order, border, error, err));
        *clip = act->clip;
        return SQF_OK;
    }
    act->clip = *clip;
    act->high_clip = sqf_act_spec_is_split(act) ? 1.0f : 0.0f;
    SQF_TRY(sqf_output_error_measure(measure, act, order, border, error, err));
    while (act->clip < 1.0f) {
        double tried;
        act->clip = fminf(act->clip + 0.05f, 1.0f);
        SQF_TRY(sqf_output_error_measure(measure, act, order, border, &tried, err));
        if (tried >= *error) {
            break;
        }
        *error = tried;
        *clip = act->clip;
    }
    return SQF_OK;
}

/* The error of every quota, with the mask by norms. */
static sqf_status measure_curve(const sqf_mask_input *input, const sqf_mask_wishes *wishes, const sqf_act_spec *act,
                                sqf_quota_curve *curve, sqf_error *err)
{
    const size_t n = input->statistics->channels;
    sqf_output_error measure;
    int32_t *order = NULL;
    float clip = 0.0f;
    SQF_TRY(sqf_output_error_create(input, TOKENS, &measure, err));
    sqf_status status = SQF_ALLOC(&order, n, "channels", err);
    for (size_t level = 0; level <= curve->levels && status == SQF_OK; level++) {
        sqf_act_spec spec = with_quota(act, high_at(act, level, curve->levels));
        const bool split = sqf_act_spec_is_split(&spec);
        size_t border = n;
        if (split) {
            status = sqf_activation_mask(input->statistics, &spec, SQF_MASK_SCORE_L2, input->weights, input->rows,
                                         input->count, 0, order, &border, err);
        }
        if (status == SQF_OK) {
            status = measure_level(&measure, &spec, split ? order : NULL, border, wishes->search_clip, &clip,
                                   &curve->error[level], err);
        }
    }
    free(order);
    sqf_output_error_clear(&measure);
    return status;
}

void sqf_quota_deal(sqf_quota_curve *curve, size_t count, double budget)
{
    for (;;) {
        sqf_quota_curve *best = NULL;
        size_t best_level = 0;
        double best_rate = 0.0, best_price = 0.0;
        for (size_t i = 0; i < count; i++) {
            sqf_quota_curve *c = &curve[i];
            for (size_t level = c->level + 1; c->levels > 0 && level <= c->levels; level++) {
                const double price = c->products * (double)(level - c->level) / (double)c->levels;
                const double rate = (c->error[c->level] - c->error[level]) / price;
                if (price <= budget && rate > best_rate) {
                    best = c;
                    best_level = level;
                    best_rate = rate;
                    best_price = price;
                }
            }
        }
        if (!best) {
            return;
        }
        best->level = best_level;
        budget -= best_price;
    }
}

static bool wants_quota(const sqf_module_plan *module)
{
    const sqf_module_recipe *recipe = &module->recipe;
    const sqf_act_spec *act = &recipe->scheme.activations;
    const bool masked = module->quantized && sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC &&
                        act->high_per_bank < act->bank && act->scale != SQF_ACT_STATIC;
    return masked && sqf_search_wanted(recipe->quota, recipe);
}

sqf_status sqf_layer_work_allot(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err)
{
    sqf_quota_curve curve[SQF_INPUT_COUNT] = {0};
    double budget = 1e-6; /* of one product: sums of shares are not exact */
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        sqf_mask_readers readers;
        sqf_mask_readers_find(pipeline, work, (sqf_input_kind)input, &readers);
        const sqf_module_plan *first = readers.count > 0 ? &work->plan->module[readers.member[0]] : NULL;
        sqf_quota_curve *c = &curve[input];
        if (!first || !wants_quota(first) || readers.input.statistics->sample_tokens == 0) {
            continue;
        }
        const sqf_act_spec *act = &first->recipe.scheme.activations;
        c->levels = act->bank < SQF_QUOTA_LEVELS ? act->bank : SQF_QUOTA_LEVELS;
        for (size_t i = 0; i < readers.count; i++) {
            c->products += (double)readers.rows[i] * (double)readers.input.statistics->channels;
        }
        budget += c->products * act->high_per_bank / act->bank;
        SQF_TRY(measure_curve(&readers.input, &readers.wishes, act, c, err));
    }
    sqf_quota_deal(curve, SQF_INPUT_COUNT, budget);
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        const sqf_quota_curve *c = &curve[sqf_linear_input((sqf_linear_kind)kind)];
        sqf_act_spec *act = &work->plan->module[kind].recipe.scheme.activations;
        if (c->levels > 0 && work->plan->module[kind].quantized) {
            sqf_module_recipe *recipe = &work->plan->module[kind].recipe;
            const bool clipped = sqf_search_wanted(recipe->act_clip, recipe);
            recipe->act_clip = clipped ? SQF_SEARCH_ON : SQF_SEARCH_OFF; /* also where nothing is split any more */
            *act = with_quota(act, high_at(act, c->level, c->levels));
        }
    }
    return SQF_OK;
}

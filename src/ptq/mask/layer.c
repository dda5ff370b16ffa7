/* Masks, quotas and clipping of the inputs of one decoder layer: what the pipeline calls. */
#include "ptq/mask/layer.h"

#include "base/memory.h"

bool sqf_search_wanted(sqf_search search, const sqf_module_recipe *recipe)
{
    const sqf_act_spec *act = &recipe->scheme.activations;
    const bool best = sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC && recipe->mask == SQF_MASK_SCORE_BEST;
    return search == SQF_SEARCH_ON || (search == SQF_SEARCH_AUTO && best);
}

bool sqf_clip_wanted(const sqf_module_recipe *recipe)
{
    const sqf_act_spec *act = &recipe->scheme.activations;
    return !sqf_act_spec_is_float(act) && act->clip == 1.0f && act->high_clip == 0.0f &&
           sqf_search_wanted(recipe->act_clip, recipe);
}

/* A seed of its own for each input of each layer. */
static uint64_t mask_seed(const sqf_pipeline *pipeline, size_t layer, sqf_input_kind input)
{
    return pipeline->options->seed + 0x9e3779b97f4a7c15u * (1 + layer * SQF_INPUT_COUNT + (uint64_t)input);
}

void sqf_mask_readers_find(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input, sqf_mask_readers *out)
{
    *out = (sqf_mask_readers){0};
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (sqf_linear_input((sqf_linear_kind)kind) == input && work->plan->module[kind].quantized) {
            size_t columns;
            sqf_linear_shape(&pipeline->checkpoint.config, (sqf_linear_kind)kind, &out->rows[out->count], &columns);
            out->weights[out->count] = work->weights[kind];
            out->member[out->count++] = (sqf_linear_kind)kind;
        }
    }
    if (out->count == 0) {
        return;
    }
    /* all have equal activations (the plan checked): the first one speaks for them */
    const sqf_module_recipe *recipe = &work->plan->module[out->member[0]].recipe;
    out->input = (sqf_mask_input){.context = pipeline->context,
                                  .statistics = &work->statistics[input],
                                  .weights = out->weights,
                                  .rows = out->rows,
                                  .count = out->count,
                                  .weight_group = recipe->scheme.weights.group};
    out->wishes = (sqf_mask_wishes){
        .score = recipe->mask, .search_clip = sqf_clip_wanted(recipe), .seed = mask_seed(pipeline, work->index, input)};
}

sqf_status sqf_layer_work_mask(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input, int32_t **order,
                               size_t *border, sqf_error *err)
{
    sqf_mask_readers readers;
    sqf_mask_readers_find(pipeline, work, input, &readers);
    const sqf_act_spec *first = &work->plan->module[readers.member[0]].recipe.scheme.activations;
    sqf_act_spec act = *first;
    size_t rows, columns;
    sqf_linear_shape(&pipeline->checkpoint.config, readers.member[0], &rows, &columns);
    const sqf_statistics none = {.channels = columns}; /* enough for a random mask */
    if (!work->forward) {
        readers.input.statistics = &none;
    }
    if (sqf_act_spec_is_split(&act) && act.mask == SQF_MASK_STATIC) {
        SQF_TRY(SQF_ALLOC(order, columns, "channels", err));
    }
    SQF_TRY(sqf_mask_choose(&readers.input, &readers.wishes, &act, *order, border, err));
    for (size_t i = 0; i < readers.count; i++) {
        sqf_act_spec *mine = &work->plan->module[readers.member[i]].recipe.scheme.activations;
        mine->clip = act.clip;
        mine->high_clip = act.high_clip;
    }
    return SQF_OK;
}

sqf_status sqf_layer_work_keep_sample(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input,
                                      sqf_error *err)
{
    sqf_mask_readers readers;
    sqf_mask_readers_find(pipeline, work, input, &readers);
    if (readers.count == 0) {
        return SQF_OK;
    }
    const sqf_module_recipe *recipe = &work->plan->module[readers.member[0]].recipe;
    const sqf_act_spec *act = &recipe->scheme.activations;
    const bool masked = sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC;
    const bool smooth = work->plan->alpha[input] == SQF_SMOOTH_SEARCH;
    if (!pipeline->measuring && !smooth && !readers.wishes.search_clip &&
        !(masked && (recipe->mask == SQF_MASK_SCORE_BEST || sqf_search_wanted(recipe->quota, recipe)))) {
        return SQF_OK;
    }
    const sqf_calibration *calibration = &pipeline->calibration;
    return sqf_statistics_keep(&work->statistics[input], SQF_MASK_SAMPLE,
                               (uint64_t)calibration->windows * calibration->length, err);
}

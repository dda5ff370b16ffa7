/* The mask and the clipping ratios of one input. */
#include <math.h>

#include "format/type.h"
#include "ptq/mask/mask.h"

/* Clipping ratios are multiples of 1/STEPS; the search ends after WORSE ratios in a row that bring nothing. Parts of
 * more bits than this have steps so fine that clipping only costs. */
enum { STEPS = 20, WORSE = 2, CLIPPED_BITS = 6 };

/* Lowers *ratio, a member of *act, as long as the error falls. */
static sqf_status search_ratio(const sqf_output_error *measure, sqf_act_spec *act, float *ratio, const int32_t *order,
                               size_t border, double *error, sqf_error *err)
{
    float best = *ratio;
    int worse = 0;
    for (int step = STEPS - 1; step > 0 && worse < WORSE; step--) {
        double tried;
        *ratio = (float)step / STEPS;
        SQF_TRY(sqf_output_error_measure(measure, act, order, border, &tried, err));
        worse = tried < *error ? 0 : worse + 1;
        if (tried < *error) {
            best = *ratio;
            *error = tried;
        }
    }
    *ratio = best;
    return SQF_OK;
}

sqf_status sqf_clip_search(const sqf_output_error *measure, sqf_act_spec *act, const int32_t *order, size_t border,
                           double *error, sqf_error *err)
{
    act->clip = 1.0f;
    act->high_clip = sqf_act_spec_is_split(act) ? 1.0f : 0.0f;
    SQF_TRY(sqf_output_error_measure(measure, act, order, border, error, err));
    if (sqf_type_bits(act->low) <= CLIPPED_BITS && sqf_type_max(act->low) > 0.0f) {
        SQF_TRY(search_ratio(measure, act, &act->clip, order, border, error, err));
    }
    if (sqf_act_spec_is_split(act) && sqf_type_bits(act->high) <= CLIPPED_BITS) {
        SQF_TRY(search_ratio(measure, act, &act->high_clip, order, border, error, err));
    }
    act->high_clip = act->high_clip == act->clip ? 0.0f : act->high_clip;
    return SQF_OK;
}

/* Clipping before the exchange, so that channels are judged by the scales that they will get; once more behind it. */
static sqf_status refine(const sqf_mask_input *input, const sqf_mask_wishes *wishes, sqf_act_spec *act, int32_t *order,
                         size_t border, sqf_error *err)
{
    const bool exchange = order && wishes->score == SQF_MASK_SCORE_BEST;
    double error;
    sqf_output_error measure;
    SQF_TRY(sqf_output_error_create(input, SQF_MASK_SAMPLE, &measure, err));
    sqf_status status = wishes->search_clip ? sqf_clip_search(&measure, act, order, border, &error, err)
                                            : sqf_output_error_measure(&measure, act, order, border, &error, err);
    if (status == SQF_OK && exchange) {
        status = sqf_mask_exchange(&measure, act, order, border, &error, err);
    }
    if (status == SQF_OK && exchange && wishes->search_clip) {
        status = sqf_clip_search(&measure, act, order, border, &error, err);
    }
    sqf_output_error_clear(&measure);
    return status;
}

sqf_status sqf_mask_choose(const sqf_mask_input *input, const sqf_mask_wishes *wishes, sqf_act_spec *act,
                           int32_t *order, size_t *border, sqf_error *err)
{
    const bool masked = sqf_act_spec_is_split(act) && act->mask == SQF_MASK_STATIC;
    const bool sampled = input->statistics->sample_tokens > 0 && act->scale != SQF_ACT_STATIC;
    const bool best = wishes->score == SQF_MASK_SCORE_BEST;
    if (masked) {
        const sqf_mask_score score = best ? SQF_MASK_SCORE_L2 : wishes->score;
        SQF_TRY(sqf_activation_mask(input->statistics, act, score, input->weights, input->rows, input->count,
                                    wishes->seed, order, border, err));
    }
    if (!sampled || sqf_act_spec_is_float(act) || !(wishes->search_clip || (masked && best))) {
        return SQF_OK;
    }
    return refine(input, wishes, act, masked ? order : NULL, *border, err);
}

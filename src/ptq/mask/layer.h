/* Masks, quotas and clipping of the inputs of one decoder layer. */
#ifndef SQF_PTQ_MASK_LAYER_H
#define SQF_PTQ_MASK_LAYER_H

#include "ptq/mask/mask.h"
#include "ptq/pipeline.h"

/* The quantized modules that read one input. */
typedef struct sqf_mask_readers {
    sqf_linear_kind member[SQF_LINEAR_COUNT];
    size_t count;
    const float *weights[SQF_LINEAR_COUNT];
    size_t rows[SQF_LINEAR_COUNT];
    sqf_mask_input input; /* borrows this struct and the work */
    sqf_mask_wishes wishes;
} sqf_mask_readers;

/* *out must stay where it is. */
void sqf_mask_readers_find(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input, sqf_mask_readers *out);

/* Whether something is searched under a recipe: said, or by default with the mask `best`. */
bool sqf_search_wanted(sqf_search search, const sqf_module_recipe *recipe);

/* Whether clipping ratios will be searched; one that the scheme says stays. */
bool sqf_clip_wanted(const sqf_module_recipe *recipe);

/* Before the first module of a layer is quantized, its statistics and weights smoothed: the high channels of the
 * layer's inputs become what saves most at the cost of the scheme. Changes the plan of the layer. */
sqf_status sqf_layer_work_allot(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err);

/* The mask and the clipping ratios of one input; the ratios go into the plan of the layer. order [channels] = stored
 * order, NULL where there is no static mask; for free(). */
sqf_status sqf_layer_work_mask(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input, int32_t **order,
                               size_t *border, sqf_error *err);

/* Asks the statistics of an input to keep the tokens that its choices need. */
sqf_status sqf_layer_work_keep_sample(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input,
                                      sqf_error *err);

#endif

/* Calibration passes that see an input as it was meant and as it will be read. */
#ifndef SQF_PTQ_CORRECT_PASSES_H
#define SQF_PTQ_CORRECT_PASSES_H

#include "ptq/correct/correct.h"
#include "ptq/pipeline.h"

/* For compensate=gptq-model: a float32 copy of the layer before smoothing changes it. It runs on pipeline->original.
 * Released by sqf_layer_work_clear. */
sqf_status sqf_layer_work_keep_reference(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err);

/* Runs the original stream through the kept copy: the inputs of the next layer's copy. */
sqf_status sqf_layer_work_run_reference(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err);

/* One pass of the windows: the moments of an input of the layer as it stands, with the modules before it quantized.
 * `probe` says how the input is quantized; NULL = it is read in float. With work->reference the input is wanted as the
 * original model has it, else as this layer receives it. *out is the caller's: sqf_correction_clear, also after a
 * failure. */
sqf_status sqf_layer_work_correct(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_input_kind input,
                                  const sqf_linear *probe, sqf_correction *out, sqf_error *err);

#endif

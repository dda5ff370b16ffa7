/* Rotations of a model while it is quantized: the basis of the residual stream and of the values folded into the
 * weights, that of down_proj's input left to the run time. docs/algorithms.md, "Rotations" */
#ifndef SQF_PTQ_ROTATION_H
#define SQF_PTQ_ROTATION_H

#include "ptq/pipeline.h"

/* The basis of the residual stream, pipeline->basis [hidden, hidden] (column j: channel j of the new basis), by the
 * plan's choice; NULL where it is off. Calibration windows, where there are any, are turned into it. */
sqf_status sqf_rotation_prepare(sqf_pipeline *pipeline, sqf_error *err);

/* Windows that sqf_rotation_prepare and sqf_layer_work_rotate run through layers, for progress. */
size_t sqf_rotation_passes(const sqf_plan *plan);

/* Folds gains and basis into the layer's weights, biases and norms; then those of the values and of down_proj's input,
 * which may look at calibration text. For layers through which text runs their float32 linear layers must not be made
 * yet: they are here. */
sqf_status sqf_layer_work_rotate(sqf_pipeline *pipeline, sqf_layer_work *work, sqf_error *err);

/* Embedding, final norm and output matrix in the basis of the stream: the last two follow the layers. */
sqf_status sqf_rotation_write_embedding(sqf_pipeline *pipeline, sqf_error *err);
sqf_status sqf_rotation_write_head(sqf_pipeline *pipeline, sqf_error *err);

/* out [rows, columns] = rows from `first` of a tensor, times diag(gain) (NULL = 1), in the rotated basis. scratch as
 * large as out. */
void sqf_rotation_turn_rows(const sqf_pipeline *pipeline, const sqf_tensor *tensor, const float *gain, size_t first,
                            size_t rows, float *scratch, float *out);

#endif

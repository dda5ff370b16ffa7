/* Embedding, final norm and output matrix on their way into a quantized model: copied, turned or quantized, as
 * plan.vocabulary says. Matrices pass in blocks of rows: no float copy of a whole one is made. */
#ifndef SQF_PTQ_VOCABULARY_H
#define SQF_PTQ_VOCABULARY_H

#include "ptq/pipeline.h"

/* Before the first layer. A quantized embedding of its own takes the place of the original in the calibration windows.
 * A matrix that is shared with the output is written with it. */
sqf_status sqf_vocabulary_write_embedding(sqf_pipeline *pipeline, sqf_error *err);

/* After the last layer: the final norm and the output matrix. */
sqf_status sqf_vocabulary_write_output(sqf_pipeline *pipeline, sqf_error *err);

#endif

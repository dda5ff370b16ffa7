/* What the original model shows of its residual stream: the inputs of all modules that read it. */
#ifndef SQF_PTQ_ROTATION_COLLECT_H
#define SQF_PTQ_ROTATION_COLLECT_H

#include "ptq/pipeline.h"

/* Tokens that are kept of each input: some batches to learn from in turn, and a last one to judge by. */
enum { SQF_STREAM_BATCHES = 5, SQF_STREAM_SAMPLES = 128 };

/* Norm outputs before their gains, of every attention and every MLP. */
typedef struct sqf_stream_sample {
    sqf_statistics statistics; /* over all inputs and tokens; hessian = their pooled covariance times 2 */
    size_t inputs;             /* 2 a layer */
    size_t tokens;             /* kept of each input in each batch, at most SQF_STREAM_SAMPLES */
    float *values;             /* [batches, inputs, tokens, hidden]; NULL unless asked for */
    double *weight;            /* [inputs]: mean square of the outputs that noise of variance 1 in the input makes,
                                  over that of the outputs themselves; NULL unless asked for */
} sqf_stream_sample;

/* Runs the calibration windows through the layers as they are in the checkpoint; pipeline->hidden stays. Memory: a
 * second copy of it while this works, and one layer. */
sqf_status sqf_stream_collect(sqf_pipeline *pipeline, bool samples, sqf_stream_sample *out, sqf_error *err);
void sqf_stream_clear(sqf_stream_sample *sample);

#endif

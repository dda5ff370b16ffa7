/* Which channels of an input are held high, how its scales are clipped and how many channels each input of a layer may
 * hold high: choices made by the output error of sampled calibration tokens. docs/algorithms.md, "Which channels are
 * held high" */
#ifndef SQF_PTQ_MASK_H
#define SQF_PTQ_MASK_H

#include "ptq/algorithm.h"

/* Calibration tokens that are kept of each input, evenly spaced; they take 4 bytes a channel. */
enum { SQF_MASK_SAMPLE = 1024 };

/* An input and the weights that read it: what its choices are made from. Nothing is owned. */
typedef struct sqf_mask_input {
    sqf_context *context;
    const sqf_statistics *statistics; /* smoothed */
    const float *const *weights;      /* [count] matrices of rows[i] x channels, smoothed */
    const size_t *rows;
    size_t count;
    uint32_t weight_group; /* columns that share a weight scale; 0 = the row */
} sqf_mask_input;

/* Measures the error that the activations of an input alone make in the outputs of its readers,
 *
 *     sum_t ||W (q(x_t) - x_t)||^2 / sum_t ||W x_t||^2,
 *
 * over the sampled tokens, with the scalar reference as q. W are the stacked weights; where they have more than 512
 * rows, 512 sums of their rows with random signs stand in, which keeps the measure to a few percent and its time and
 * memory independent of the number of rows. */
typedef struct sqf_output_error {
    const sqf_mask_input *input; /* borrowed */
    size_t outputs;
    float *weights; /* [outputs, channels] */
    double size;    /* the denominator */
} sqf_output_error;

sqf_status sqf_output_error_create(const sqf_mask_input *input, sqf_output_error *out, sqf_error *err);
void sqf_output_error_clear(sqf_output_error *measure);
/* order [channels] = stored order with `border` low channels, or NULL; 0 if the sample is 0. act->scale static is
 * measured with scales of its own (SQF_E_ARG with zero points). */
sqf_status sqf_output_error_measure(const sqf_output_error *measure, const sqf_act_spec *act, const int32_t *order,
                                    size_t border, double *error, sqf_error *err);

/* The choice for one input: mask [channels] 1 = high, and the clipping ratio of the low part. */
typedef struct sqf_mask_choice {
    int32_t *order; /* [channels] stored order */
    size_t border;
    double error; /* on the sample */
} sqf_mask_choice;

/* Stored order from a mask: low channels, then high ones, ascending inside each part. Returns the border. */
size_t sqf_mask_order(const uint8_t *mask, size_t channels, int32_t *order);

/* Exchanges channels within the banks of a mask as long as the measured error falls. order, *border: a mask that keeps
 * the quota, and the better one; *error its error. Never raises it. */
sqf_status sqf_mask_exchange(const sqf_output_error *measure, const sqf_act_spec *act, int32_t *order, size_t *border,
                             double *error, sqf_error *err);

/* The clipping ratio of the low (or only) part with the least measured error, from 1 down in steps of 1/20. */
sqf_status sqf_clip_search(const sqf_output_error *measure, const sqf_act_spec *act, const int32_t *order,
                           size_t border, float *clip, double *error, sqf_error *err);

#endif

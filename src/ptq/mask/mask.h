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
 * over the sampled tokens, with the scalar reference as q. W are the stacked weights; where they have more than 256
 * rows, 256 sums of their rows with random signs stand in, which keeps the measure to a few percent and its time and
 * memory independent of the number of rows. */
typedef struct sqf_output_error {
    const sqf_mask_input *input; /* borrowed */
    size_t tokens;               /* of the sample, evenly spaced */
    size_t outputs;
    float *weights; /* [outputs, channels] */
    double size;    /* the denominator */
} sqf_output_error;

/* Looks at `tokens` tokens of the sample at most. */
sqf_status sqf_output_error_create(const sqf_mask_input *input, size_t tokens, sqf_output_error *out, sqf_error *err);
/* Token t of them, [channels]. */
const float *sqf_output_error_token(const sqf_output_error *measure, size_t t);
void sqf_output_error_clear(sqf_output_error *measure);
/* order [channels] = stored order with `border` low channels, or NULL; 0 if the sample is 0. act->scale static is
 * measured with scales of its own (SQF_E_ARG with zero points). */
sqf_status sqf_output_error_measure(const sqf_output_error *measure, const sqf_act_spec *act, const int32_t *order,
                                    size_t border, double *error, sqf_error *err);

/* Stored order from a mask, 1 = high: low channels, then high ones, ascending inside each part. Returns the border. */
size_t sqf_mask_order(const uint8_t *mask, size_t channels, int32_t *order);

/* Exchanges channels within the banks of a mask as long as the measured error falls. order [channels] with `border` low
 * channels: a mask that keeps the quota, and then the better one; *error its error, before and after. */
sqf_status sqf_mask_exchange(const sqf_output_error *measure, const sqf_act_spec *act, int32_t *order, size_t border,
                             double *error, sqf_error *err);

/* Sets act->clip (and act->high_clip) to the ratios with the least measured error, from 1 down in steps of 1/20, first
 * for the low (or only) part, then for a high part of at most 6 bits; one of more bits has no use for it. *error is the
 * error with them. The error is never larger than without clipping. */
sqf_status sqf_clip_search(const sqf_output_error *measure, sqf_act_spec *act, const int32_t *order, size_t border,
                           double *error, sqf_error *err);

/* The error of an input for every quota from none to all of a bank, in equal steps. */
enum { SQF_QUOTA_LEVELS = 32 };
typedef struct sqf_quota_curve {
    size_t levels;                      /* steps; 0 = the input takes no part */
    double error[SQF_QUOTA_LEVELS + 1]; /* of 0 .. levels steps */
    double products;                    /* of its readers, for one token */
    size_t level;                       /* the steps that it is given */
} sqf_quota_curve;

/* Deals out `budget` products to be held high, on top of the levels that the curves have: the step, of any length and
 * any input, that saves most error a product comes first, as long as there is one that fits and saves. */
void sqf_quota_deal(sqf_quota_curve *curve, size_t count, double budget);

/* What is to be chosen for one input beside the number of high channels. */
typedef struct sqf_mask_wishes {
    sqf_mask_score score;
    bool search_clip;
    uint64_t seed; /* of random masks */
} sqf_mask_wishes;

/* Chooses the stored order where `act` has a static mask (order, *border untouched elsewhere), and the clipping ratios,
 * which go into *act. Without sampled tokens `best` is `l2` and nothing is clipped. */
sqf_status sqf_mask_choose(const sqf_mask_input *input, const sqf_mask_wishes *wishes, sqf_act_spec *act,
                           int32_t *order, size_t *border, sqf_error *err);

#endif

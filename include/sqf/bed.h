/** @file bed.h
 *  Test beds: models and layers with properties that are known because they were put there.
 *
 *  An outlier bed is a checkpoint that computes the same function as another one and has persistent outlier channels,
 *  as large language models have and small ones lack. A layer bed is one matrix with activations drawn from a
 *  distribution. What each shows, and measured tables: docs/beds.md. */
#ifndef SQF_BED_H
#define SQF_BED_H

#include <sqf/quantize.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The distinct inputs of a decoder layer's linear layers, as bits of a set. */
enum {
    SQF_BED_QKV = 1 << 0, /**< made by a norm: its gain grows, the columns of q, k and v shrink */
    SQF_BED_O = 1 << 1,   /**< made by v: rows of v grow; columns of o, of every query head that reads them, shrink */
    SQF_BED_GATE_UP = 1 << 2, /**< made by a norm: its gain grows, the columns of gate and up shrink */
    SQF_BED_DOWN = 1 << 3,    /**< made by gate times up: rows of up grow, the columns of down shrink */
    SQF_BED_ALL = 15
};

/** Where outliers are put and how large they are. */
typedef struct sqf_outlier_bed_options {
    unsigned inputs; /**< set of SQF_BED_* */
    size_t channels; /**< outlier channels of an input; of o: rows of v, each read by every query head of its group */
    unsigned factor; /**< largest factor, a power of two from 16 to 65536; each channel draws one of factor/8, /4, /2
                          and /1 */
    uint64_t seed;   /**< chooses channels and factors */
    const size_t *layers; /**< decoder layers to change; NULL = all */
    size_t layer_count;
    bool force; /**< replace an existing output */
} sqf_outlier_bed_options;

/** All inputs of all layers, 4 channels each, factors from 8 to 64, seed 0. */
SQF_API sqf_outlier_bed_options sqf_outlier_bed_options_default(void);

/** What was done. */
typedef struct sqf_outlier_bed_summary {
    size_t layers;    /**< changed */
    size_t channels;  /**< outlier channels, over layers and inputs */
    uint64_t changed; /**< elements that were multiplied */
    uint64_t inexact; /**< of them: those whose product the tensor's type does not hold (below its normal numbers) */
    uint64_t bytes;   /**< of the safetensors */
} sqf_outlier_bed_summary;

/** Write a checkpoint that computes the same function and has persistent outlier channels.
 *
 * A channel's factor multiplies what produces an input and divides the columns that read it. Factors are powers of two,
 * so that BF16 weights and every float32 product stay exact: the output's logits are those of the original bit for
 * bit where `inexact` is 0. The inputs that norms make have the same channels and factors in every layer, as the
 * residual stream of a large model has; those of o and down are drawn for each layer.
 *
 * @param model_directory  an original checkpoint. @param output_directory must not exist (unless force).
 * @param summary  may be NULL.
 * Writes safetensors, bed.json (channels and factors by layer and input), config.json and the companions.
 * @return SQF_OK; SQF_E_ARG (options out of range: named; a quantized model); SQF_E_VALUE (a product that its type does
 * not hold, tensor and element named); SQF_E_EXISTS; errors of reading and writing; SQF_E_CANCELLED. */
SQF_API sqf_status sqf_bed_outliers(sqf_context *context, const char *model_directory, const char *output_directory,
                                    const sqf_outlier_bed_options *options, sqf_outlier_bed_summary *summary,
                                    sqf_error *err);

#ifdef __cplusplus
}
#endif
#endif

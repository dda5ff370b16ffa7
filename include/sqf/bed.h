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

/** Where a layer bed's activations come from. Every channel has a scale of its own (log-normal, sigma 0.5). */
typedef enum sqf_bed_activations {
    SQF_BED_GAUSSIAN = 0, /**< normal */
    SQF_BED_CHANNELS,     /**< normal; some channels are 20 to 100 times the median one in nearly all tokens */
    SQF_BED_TOKENS,       /**< normal; some tokens hold two values 1000 times the median, in the same two channels */
    SQF_BED_HEAVY,        /**< Student's t with 4 degrees of freedom */
    SQF_BED_MIXED         /**< heavy tails, outlier channels and massive tokens together */
} sqf_bed_activations;

/** The weights of a layer bed, of standard deviation 0.02. */
typedef enum sqf_bed_weights {
    SQF_BED_WEIGHTS_GAUSSIAN = 0,
    SQF_BED_WEIGHTS_HEAVY /**< Student's t with 5 degrees of freedom */
} sqf_bed_weights;

/** What is drawn. */
typedef struct sqf_layer_bed_options {
    size_t rows, columns;      /**< of the weights, N and K; N a multiple of 8 from 16, K even, from 16 to 16384 */
    size_t calibration_tokens; /**< a multiple of SQF_LAYER_BED_WINDOW */
    size_t held_out_tokens;    /**< the same; another draw of the same distribution */
    sqf_bed_activations activations;
    sqf_bed_weights weights;
    double outlier_share; /**< outlier channels of all channels, rounded up: 0..0.5 */
    double massive_share; /**< massive tokens of all tokens, rounded up: 0..0.5 */
    uint64_t seed;
} sqf_layer_bed_options;

enum { SQF_LAYER_BED_WINDOW = 256 };

/** 256 x 1024 Gaussian weights, mixed activations of 2048 and 2048 tokens, 0.5 % outlier channels, 1 in 512 tokens
 *  massive, seed 0. */
SQF_API sqf_layer_bed_options sqf_layer_bed_options_default(void);

/** Names for users: "gaussian", "channels", "tokens", "heavy", "mixed"; "gaussian", "heavy". NULL-terminated, static,
 *  in the order of the enumerations. */
SQF_API const char *const *sqf_bed_activation_names(void);
SQF_API const char *const *sqf_bed_weight_names(void);

/** A linear layer with its activations. For given arrays fill it and leave it to the caller's memory; drawn ones are
 *  released by sqf_bed_layer_clear. */
typedef struct sqf_layer_data {
    size_t rows, columns;      /**< as in sqf_layer_bed_options */
    float *weights;            /**< [rows, columns] */
    size_t calibration_tokens; /**< a multiple of SQF_LAYER_BED_WINDOW */
    float *calibration;        /**< [calibration_tokens, columns] */
    size_t held_out_tokens;    /**< the same */
    float *held_out;           /**< [held_out_tokens, columns] */
} sqf_layer_data;

/** Draw a layer bed. The same numbers on every machine up to the rounding of its log, cos and exp.
 *  @return SQF_OK; SQF_E_ARG (an option out of range: named); SQF_E_MEMORY. `out` is empty after a failure. */
SQF_API sqf_status sqf_bed_layer_draw(const sqf_layer_bed_options *options, sqf_layer_data *out, sqf_error *err);

/** Free the arrays of a drawn layer. A zeroed one is fine. */
SQF_API void sqf_bed_layer_clear(sqf_layer_data *data);

/** What quantization does to one layer. Errors are relative squares: ||Y - Y'||^2 / ||Y||^2. */
typedef struct sqf_layer_errors {
    double weight_error;  /**< of the weights, smoothed and rotated */
    double weights_alone; /**< of the outputs of calibration tokens, inputs unquantized; the basis of the recipe */
    double calibration;   /**< of the outputs of calibration tokens through the quantized layer, inputs quantized */
    double held_out;      /**< the same of held-out tokens: the measure */
    double median_token;  /**< of the held-out tokens' own relative errors the median: massive tokens do not hide it */
    double worst_token;   /**< the largest of them */
    double weights_equivalent_bits, activations_equivalent_bits, stored_bits;
    double low_rate_share; /**< of the products */
    double cost;           /**< predicted, sqf_scheme_cost with the default model */
} sqf_layer_errors;

/** Quantize one layer by a recipe and measure it on held-out tokens.
 *
 * The layer stands as q_proj in a model of one decoder layer whose embedding rows are the activations, so that every
 * key of a recipe works as in sqf_quantize, smoothing, rotation and the compensation of activation errors included.
 * That model, and the quantized one, live in a directory under `scratch` that is gone when the call returns.
 *
 * @param data     finite numbers. @param scratch an existing directory; NULL = the environment's TMPDIR, else /tmp.
 * @param recipe   as in sqf_quantize; ignore lists and overrides go by the modules of "model.layers.0".
 * @param seed     of the recipe's random choices.
 * @return SQF_OK; SQF_E_ARG (shapes out of range, recipe); SQF_E_VALUE (NaN or infinity); SQF_E_IO; SQF_E_MEMORY. */
SQF_API sqf_status sqf_bed_layer_measure(sqf_context *context, const sqf_layer_data *data, const sqf_recipe *recipe,
                                         uint64_t seed, const char *scratch, sqf_layer_errors *errors, sqf_error *err);

#ifdef __cplusplus
}
#endif
#endif

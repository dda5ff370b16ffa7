/** @file quantize.h
 *  From a Hugging Face checkpoint to an SQ-format model: recipes, calibration, the pipeline. */
#ifndef SQF_QUANTIZE_H
#define SQF_QUANTIZE_H

#include <sqf/context.h>
#include <sqf/format.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Which weights of a bank are held high. docs/algorithms.md */
typedef enum sqf_importance {
    SQF_IMPORTANCE_OBS = 0,   /**< w^2 / U_jj^2 */
    SQF_IMPORTANCE_HINV,      /**< w^2 / (H^-1_jj)^2 */
    SQF_IMPORTANCE_GAIN,      /**< ((w - Qlow(w))^2 - (w - Qhigh(w))^2) / U_jj^2 */
    SQF_IMPORTANCE_MAGNITUDE, /**< |w| */
    SQF_IMPORTANCE_RANDOM
} sqf_importance;

/** Which channels of an input a static mask holds high. */
typedef enum sqf_mask_score {
    SQF_MASK_SCORE_PAPER = 0, /**< | mean|x_j| * sum_n W_nj | */
    SQF_MASK_SCORE_L1,        /**< mean|x_j| * sum_n |W_nj| */
    SQF_MASK_SCORE_L2,        /**< rms(x_j) * ||W_:,j||_2 */
    SQF_MASK_SCORE_MAX,       /**< max|x_j| */
    SQF_MASK_SCORE_MAXL2,     /**< max|x_j| * ||W_:,j||_2 */
    SQF_MASK_SCORE_RANDOM
} sqf_mask_score;

typedef enum sqf_compensate { SQF_COMPENSATE_GPTQ = 0, SQF_COMPENSATE_NONE } sqf_compensate;
typedef enum sqf_clip { SQF_CLIP_ABSMAX = 0, SQF_CLIP_MSE } sqf_clip;
/** How N:M pruning chooses survivors. */
typedef enum sqf_prune { SQF_PRUNE_SPARSEGPT = 0, SQF_PRUNE_WANDA, SQF_PRUNE_MAGNITUDE } sqf_prune;

/** How one module is quantized. */
typedef struct sqf_module_recipe {
    sqf_scheme scheme;
    sqf_importance importance;
    sqf_mask_score mask;
    sqf_compensate compensate;
    sqf_clip clip;
    sqf_prune prune;
    float smooth;   /**< alpha in 0..1, negative = off */
    double damping; /**< fraction of mean(diag H) */
} sqf_module_recipe;

/** The defaults of docs/format.md section 10 for a scheme: obs, paper, gptq, absmax, sparsegpt, alpha 0.5 (off for schemes
 *  whose activations are float and weights have 8 or more bits, and for dense ones), damping 0.01. */
SQF_API sqf_module_recipe sqf_module_recipe_default(const sqf_scheme *scheme);

/** A recipe: a module recipe for all decoder linear layers, overrides by regular expression, modules left alone. */
typedef struct sqf_recipe sqf_recipe;

SQF_API sqf_status sqf_recipe_create(const sqf_module_recipe *base, sqf_recipe **out, sqf_error *err);
/** Read a recipe file (YAML; docs/cli.md describes it). Every unknown key, bad value and bad regular expression is an
 *  SQF_E_FORMAT that names file, line, key, expected and found. */
SQF_API sqf_status sqf_recipe_load(const char *path, sqf_recipe **out, sqf_error *err);
/** NULL is fine. */
SQF_API void sqf_recipe_destroy(sqf_recipe *recipe);
/** The base recipe, to be changed by the caller (command line flags come after a file). Borrowed. */
SQF_API sqf_module_recipe *sqf_recipe_base(sqf_recipe *recipe);
/** The recipe as YAML that sqf_recipe_load reads back to the same recipe; for free(). */
SQF_API sqf_status sqf_recipe_print(const sqf_recipe *recipe, char **yaml, sqf_error *err);
/** The recipe of one module, e.g. "model.layers.0.mlp.down_proj"; *ignored tells whether it is left alone. */
SQF_API sqf_status sqf_recipe_resolve(const sqf_recipe *recipe, const char *module, sqf_module_recipe *out,
                                      bool *ignored, sqf_error *err);

/** Where calibration text comes from and how the output is written. */
typedef struct sqf_quantize_options {
    const char *calibration;       /**< text file or .jsonl; NULL = none (rounding without statistics) */
    const char *calibration_field; /**< member of each .jsonl line; NULL = "text" */
    size_t samples;                /**< windows, default 32 */
    size_t length;                 /**< tokens a window, default 2048; more than the model's positions is an error */
    bool random_windows;           /**< draw window starts with the seed in place of evenly spaced ones */
    bool special;                  /**< encode the text with the tokenizer's special tokens */
    uint64_t seed;
    size_t shard_bytes;            /**< start a new file beyond this size; default 5e9 */
    bool force;                    /**< replace an existing output */
} sqf_quantize_options;

SQF_API sqf_quantize_options sqf_quantize_options_default(void);

/** What was done, for tables. The same and more, per tensor, is in OUT/report.json. */
typedef struct sqf_quantize_summary {
    double seconds, calibration_seconds;
    uint64_t calibration_tokens;
    uint64_t weights;              /**< quantized weights */
    double bits_per_weight;        /**< stored, of the quantized matrices */
    double weights_equivalent_bits, activations_equivalent_bits;
    uint64_t file_bytes;           /**< of all safetensors files */
    double mean_output_error;      /**< over matrices; NaN without calibration */
    unsigned damped;               /**< Cholesky factorizations that needed more damping than asked */
} sqf_quantize_summary;

/** Quantize a model directory into another. One decoder layer in float32 at a time; the output appears whole or not at all.
 *
 * Writes config.json (with quantization_config), safetensors with hashes, recipe.yaml, report.json, and copies of the
 * tokenizer and generation files. Logs one line a layer (SQF_LOG_INFO), progress in layers.
 * @param summary  may be NULL.
 * @return SQF_OK; SQF_E_EXISTS; SQF_E_ARG (recipe or options; among them too little calibration text: tokens needed and
 *         found are named); errors of reading and writing; SQF_E_CANCELLED. */
SQF_API sqf_status sqf_quantize(sqf_context *context, const char *model_directory, const char *output_directory,
                                const sqf_recipe *recipe, const sqf_quantize_options *options,
                                sqf_quantize_summary *summary, sqf_error *err);

#ifdef __cplusplus
}
#endif
#endif

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
    SQF_MASK_SCORE_RANDOM,
    SQF_MASK_SCORE_BEST /**< l2, then exchanges that lower the output error of sampled calibration tokens */
} sqf_mask_score;

/** Whether something is searched on calibration tokens. */
typedef enum sqf_search {
    SQF_SEARCH_AUTO = 0, /**< where a static mask is chosen by `best` */
    SQF_SEARCH_OFF,
    SQF_SEARCH_ON
} sqf_search;

/** Which errors the weights to come make up for. docs/algorithms.md */
typedef enum sqf_compensate {
    SQF_COMPENSATE_GPTQ = 0, /**< rounding errors of the weights before them */
    SQF_COMPENSATE_NONE,
    SQF_COMPENSATE_INPUT, /**< ... and the quantization of the layer's input */
    SQF_COMPENSATE_MODEL  /**< ... and the errors of all layers before: the original model's input is the target */
} sqf_compensate;
typedef enum sqf_clip { SQF_CLIP_ABSMAX = 0, SQF_CLIP_MSE } sqf_clip;
/** How N:M pruning chooses survivors. */
typedef enum sqf_prune { SQF_PRUNE_SPARSEGPT = 0, SQF_PRUNE_WANDA, SQF_PRUNE_MAGNITUDE } sqf_prune;

/** The basis of the residual stream. One for the whole model: every layer reads and writes the same stream. */
typedef enum sqf_rotate {
    SQF_ROTATE_OFF = 0,
    SQF_ROTATE_HADAMARD, /**< random signs and a Hadamard matrix (QuaRot) */
    SQF_ROTATE_RANDOM,   /**< a random orthogonal matrix */
    SQF_ROTATE_PCA,      /**< principal components of the inputs, mixed inside the high and the low part (as in ResQ) */
    SQF_ROTATE_LEARNED   /**< gradient steps on calibration data from `pca` or `hadamard` (as in SpinQuant) */
} sqf_rotate;

/** The basis of a part of a layer: of the values of each key head, or of the input of down_proj. */
typedef enum sqf_rotate_part {
    SQF_ROTATE_PART_AUTO = 0, /**< what goes with sqf_rotate */
    SQF_ROTATE_PART_OFF,
    SQF_ROTATE_PART_HADAMARD,
    SQF_ROTATE_PART_RANDOM,
    SQF_ROTATE_PART_PCA,
    SQF_ROTATE_PART_BLOCKS /**< only of down_proj: Hadamard inside blocks of a power of two, nothing between them */
} sqf_rotate_part;

/** The order of the dense factor in the Hadamard rotation of an input of this many channels (sqf_cost_rotation): 1 for
 * a power of two. */
SQF_API size_t sqf_hadamard_factor(size_t channels);

/** How one module is quantized. */
typedef struct sqf_module_recipe {
    sqf_scheme scheme;
    sqf_importance importance;
    sqf_mask_score mask;
    sqf_compensate compensate;
    sqf_clip clip;
    sqf_prune prune;
    float smooth;                  /**< alpha in 0..1, or one of the four values below */
    double damping;                /**< fraction of mean(diag H) */
    sqf_search act_clip;           /**< clipping ratios of the activations, where the scheme says none */
    sqf_search quota;              /**< high channels dealt out over the inputs of a layer, at equal cost */
    uint32_t act_outliers;         /**< high channels of each input, its bank the whole row; 0 = as the scheme says */
    sqf_rotate rotate;             /**< of the whole model: only the base recipe may say it */
    sqf_rotate_part rotate_values; /**< the same */
    sqf_rotate_part rotate_down;   /**< the same */
    sqf_scheme lm_head;   /**< of the output matrix; only the base recipe may say it. Zero (bank 0): as goes with the
                               embedding; unquantized weights: stays as it is. See sqf_recipe_resolve */
    sqf_scheme embedding; /**< of the embedding, weights alone; the same */
} sqf_module_recipe;

/** Values of `smooth`: no smoothing; AWQ's factors, searched for the least output error of rounded weights; and the
 *  default of docs/format.md section 10, which is 0.5 where the scheme
 *  quantizes activations or holds weights below 8 bits and there is calibration text, else off. Modules that read the
 *  same input share their factors: automatic ones follow one that says its alpha. */
#define SQF_SMOOTH_OFF  (-1.0f)
#define SQF_SMOOTH_AUTO (-2.0f)
#define SQF_SMOOTH_AWQ  2.0f
/** SmoothQuant's alpha of each input among 0.2, 0.3 .. 0.9: that of the least output error of rounded weights and
 *  activations on calibration tokens. */
#define SQF_SMOOTH_SEARCH 3.0f

/** The defaults of docs/format.md section 10 for a scheme: obs, best, gptq, absmax, sparsegpt, automatic smoothing,
 *  damping 0.01. */
SQF_API sqf_module_recipe sqf_module_recipe_default(const sqf_scheme *scheme);

/** One key of a recipe: a key of the YAML file and, with '-' for '_', a flag of the command line. */
typedef struct sqf_recipe_key {
    const char *name;          /**< "mask_mode" */
    const char *values;        /**< what may be given: "static|dynamic|dynamic-weighted" or "a number from 0 to 1" */
    const char *default_value; /**< "static"; "" = what the scheme says */
    const char *description;   /**< one line without a full stop */
} sqf_recipe_key;

/** All keys, *count of them, static. Keys take effect in the order of this list, however a file orders them: `scheme`
 *  first, then what changes a part of it. Who calls sqf_module_recipe_set for several keys keeps this order. */
SQF_API const sqf_recipe_key *sqf_recipe_key_list(size_t *count);

/** Set one field by its key, e.g. ("bank", "32"). `scheme` replaces the whole scheme; `bank` keeps the sparsity,
 * rounded to whole elements. Whether the fields fit together is for sqf_scheme_check, after the last one.
 *  @return SQF_OK; SQF_E_ARG: key, expected and found are named, the recipe is unchanged. */
SQF_API sqf_status sqf_module_recipe_set(sqf_module_recipe *recipe, const char *key, const char *value, sqf_error *err);

/** A recipe: a module recipe for all decoder linear layers, overrides by regular expression, modules left alone. */
typedef struct sqf_recipe sqf_recipe;

/** A recipe without overrides. `base` is copied. The caller owns *out: sqf_recipe_destroy. */
SQF_API sqf_status sqf_recipe_create(const sqf_module_recipe *base, sqf_recipe **out, sqf_error *err);
/** Read a recipe file (YAML, at most 1 MB): the keys of sqf_recipe_key_list (`scheme` is required), `overrides`, a list
 * of maps with `match` and keys, and `ignore`, a list of module names or "re:" expressions. Every unknown or repeated
 * key, bad value and bad regular expression is an SQF_E_FORMAT that names file, line, key, expected and found. */
SQF_API sqf_status sqf_recipe_load(const char *path, sqf_recipe **out, sqf_error *err);
/** sqf_recipe_load for bytes in memory; `name` stands for the path in messages. */
SQF_API sqf_status sqf_recipe_parse(const char *yaml, size_t n, const char *name, sqf_recipe **out, sqf_error *err);
/** NULL is fine. */
SQF_API void sqf_recipe_destroy(sqf_recipe *recipe);
/** The base recipe, to be changed by the caller (command line flags come after a file). Borrowed. */
SQF_API sqf_module_recipe *sqf_recipe_base(sqf_recipe *recipe);
/** Leave a module alone: its full name ("model.layers.0.mlp.down_proj"), or "re:" and a Perl regular expression that
 *  matches the whole name. lm_head and model.embed_tokens are left alone unless the base recipe has a scheme for
 *  them. SQF_E_ARG: an expression that does not compile. */
SQF_API sqf_status sqf_recipe_add_ignore(sqf_recipe *recipe, const char *pattern, sqf_error *err);
/** Begin an override: modules whose whole name matches the regular expression take the keys that
 *  sqf_recipe_override_set adds next, on top of the base and of earlier overrides. */
SQF_API sqf_status sqf_recipe_add_override(sqf_recipe *recipe, const char *match, sqf_error *err);
/** Give the newest override a key. SQF_E_ARG: no override yet, an unknown key, one given twice. Values are read when a
 *  module is resolved. */
SQF_API sqf_status sqf_recipe_override_set(sqf_recipe *recipe, const char *key, const char *value, sqf_error *err);
/** The recipe as YAML that sqf_recipe_load reads back to the same recipe; for free(). */
SQF_API sqf_status sqf_recipe_print(const sqf_recipe *recipe, char **yaml, sqf_error *err);
/** The recipe of one module, e.g. "model.layers.0.mlp.down_proj", checked by sqf_scheme_check; *ignored tells whether
 * it is left alone. SQF_E_ARG names the override and the key that do not fit.
 *
 * "lm_head" and "model.embed_tokens" have the base's scheme of their own in place of the base's scheme, no smoothing
 * and no act_outliers, and are left alone without such a scheme; overrides that match them come on top. Where a model
 * ties its embeddings, one stored matrix serves both with the output matrix's scheme, unless the base recipe says both
 * and their weights differ: then the quantized model has two (config.json: tie_word_embeddings false). */
SQF_API sqf_status sqf_recipe_resolve(const sqf_recipe *recipe, const char *module, sqf_module_recipe *out,
                                      bool *ignored, sqf_error *err);

/** Where calibration text comes from and how the output is written. */
typedef struct sqf_quantize_options {
    const char *calibration;         /**< text file or .jsonl; NULL = none (rounding without statistics) */
    const char *calibration_field;   /**< member of each .jsonl line; NULL = "text" */
    const uint32_t *calibration_ids; /**< token ids in place of a text, or NULL */
    size_t calibration_id_count;
    size_t samples;      /**< windows, default 32 */
    size_t length;       /**< tokens a window, default 2048; more than the model's positions is an error */
    size_t tokens;       /**< take windows from the first so many tokens of the text alone; 0 = all */
    bool random_windows; /**< draw window starts with the seed in place of evenly spaced ones */
    bool special;        /**< encode the text with the tokenizer's special tokens */
    uint64_t seed;
    size_t shard_bytes; /**< start a new file beyond this size; default 5e9 */
    bool force;         /**< replace an existing output */
} sqf_quantize_options;

/** The defaults above: no calibration text, 32 windows of 2048 tokens, nothing replaced. */
SQF_API sqf_quantize_options sqf_quantize_options_default(void);

/** The stages of a quantization, for where its time goes. */
typedef enum sqf_stage {
    SQF_STAGE_OTHER = 0,  /**< what is not named below; work in layers */
    SQF_STAGE_LOAD,       /**< weights to float32; work in weights */
    SQF_STAGE_FORWARD,    /**< calibration text through original layers; work in operations (2 a multiply-accumulate) */
    SQF_STAGE_HESSIAN,    /**< statistics of inputs; operations */
    SQF_STAGE_ROTATE,     /**< bases; weights */
    SQF_STAGE_SMOOTH,     /**< smoothing factors; weights */
    SQF_STAGE_MASK,       /**< masks, quotas, clipping; weights */
    SQF_STAGE_FACTOR,     /**< factor of the Hessian; operations */
    SQF_STAGE_CORRECT,    /**< weights that make up for errors of their input; operations */
    SQF_STAGE_QUANTIZE,   /**< scales, masks, codes, propagated errors, output errors; operations */
    SQF_STAGE_WRITE,      /**< tensors of layers to the file; weights */
    SQF_STAGE_PREPARE,    /**< quantized layers made ready to compute; weights */
    SQF_STAGE_REFORWARD,  /**< calibration text through quantized layers; operations */
    SQF_STAGE_VOCABULARY, /**< embedding and output matrix; operations, of the latter */
    SQF_STAGE_FINISH,     /**< the files put together; weights */
    SQF_STAGE_COUNT
} sqf_stage;

/** "forward"; "unknown" for numbers that are no stage. */
SQF_API const char *sqf_stage_name(sqf_stage stage);

/** Time and work of one stage. */
typedef struct sqf_quantize_stage {
    double seconds, cpu_seconds; /**< by the clock, and of all threads */
    double work;                 /**< in the unit of the stage */
} sqf_quantize_stage;

/** What was done, for tables. The same and more, per tensor, is in OUT/report.json. */
typedef struct sqf_quantize_summary {
    double seconds, calibration_seconds;
    uint64_t calibration_tokens;
    uint64_t weights;       /**< quantized weights of the decoder's linear layers */
    double bits_per_weight; /**< stored, of these */
    double weights_equivalent_bits, activations_equivalent_bits;
    uint64_t file_bytes;               /**< of all safetensors files */
    double mean_output_error;          /**< over matrices; NaN without calibration */
    unsigned damped;                   /**< Cholesky factorizations that needed more damping than asked */
    uint64_t vocabulary_weights;       /**< quantized weights of output matrix and embedding, one stored matrix once */
    double vocabulary_bits_per_weight; /**< stored, of these; NaN without any */
    sqf_quantize_stage stages[SQF_STAGE_COUNT];
} sqf_quantize_summary;

/** Quantize a model directory into another. One decoder layer in float32 at a time; the output appears whole or not at
 * all.
 *
 * Memory: the calibration activations and one decoder layer, whatever the number of layers. (With glibc a calling
 * program should fix M_MMAP_THRESHOLD by mallopt, as sqf does, so that freed blocks return to the system.)
 *
 * Writes config.json (with quantization_config), safetensors with hashes, recipe.yaml, report.json, and copies of the
 * tokenizer and generation files. Logs one line a layer (SQF_LOG_INFO); progress in windows of calibration, in layers
 * without. config.json and the safetensors are the same bytes whatever the number of threads; report.json holds times.
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

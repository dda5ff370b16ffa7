/** @file diagnose.h
 *  What is wrong with a quantized model: which layer loses the accuracy, whether calibration fits the text, where speed
 *  is lost, and the setting that would mend each. docs/diagnose.md */
#ifndef SQF_DIAGNOSE_H
#define SQF_DIAGNOSE_H

#include <sqf/cost.h>
#include <sqf/eval.h>

#ifdef __cplusplus
extern "C" {
#endif

/** How much a finding matters. */
typedef enum sqf_severity {
    SQF_SEVERITY_NOTE = 0, /**< a fact that helps to read the rest; the model counts as healthy */
    SQF_SEVERITY_WARNING,  /**< something is lost without need */
    SQF_SEVERITY_BAD       /**< the model is broken, or not what its scheme promises */
} sqf_severity;

/** One finding. `kind` is for programs and stays the same from version to version:
 *  accuracy: "collapse", "responsible-input", "calibration-drift", "calibration-text", "calibration-small",
 *  "outliers"; speed: "left-dense", "float-products", "slow-kernels", "fine-scales", "no-gain"; alignment:
 *  "tail-banks", "short-groups", "padding", "scattered-gather", "gather-not-folded"; "not-attributed". */
typedef struct sqf_finding {
    const char *kind; /**< static */
    sqf_severity severity;
    double weight;    /**< how much, on the kind's own scale; findings are sorted by severity, then by order of work */
    char where[96];   /**< "model.layers.3 down", "48 modules", ...; empty for the whole model */
    char text[384];   /**< what was found, a sentence with its figures */
    char remedy[256]; /**< what would mend it: keys of a recipe or options of sqf quantize; empty for notes */
} sqf_finding;

/** The part of one input of one decoder layer in the damage. NaN where it was not measured. */
typedef struct sqf_diagnose_input {
    size_t layer;
    const char *input; /**< "qkv", "o", "gate_up", "down"; static */
    char scheme[64];   /**< short name, of the first module that reads it */
    bool quantized;
    double restored_kl; /**< of the quantized model with this input and its readers in float again */
    double restored_perplexity;
    double alone_kl; /**< of the original model with this input and its readers quantized */
    double alone_perplexity;
    double share;       /**< of the damage that restoring it takes away: 1 - restored_kl / kl */
    double activations; /**< of the most responsible inputs: what float activations alone take away, as `share` */
    double drift;       /**< typical relative difference of the channels' sizes between calibration and this text:
                             the root of the mean squared logarithm of quotients of root mean squares */
    double outlier;     /**< the original's input: largest channel's root mean square over the median one's */
} sqf_diagnose_input;

/** A token that the quantized model predicts much worse. */
typedef struct sqf_diagnose_token {
    size_t position; /**< of the token in the evaluated text */
    uint32_t id;
    double kl;                 /**< KL(original || quantized) of the distribution before it */
    double nll, reference_nll; /**< of the token */
    char context[160];         /**< the text before it, ending with the token in brackets; UTF-8 */
} sqf_diagnose_token;

/** When layers are swapped one at a time. */
typedef enum sqf_attribute {
    SQF_ATTRIBUTE_AUTO = 0, /**< where the loss is beyond the threshold */
    SQF_ATTRIBUTE_ALWAYS,
    SQF_ATTRIBUTE_NEVER
} sqf_attribute;

/** What to look at. */
typedef struct sqf_diagnose_options {
    const char *text;  /**< file to evaluate on; NULL: weights and configuration alone are looked at */
    size_t window;     /**< tokens a window; 0 = 512 or the model's positions if fewer */
    size_t max_tokens; /**< of the text; 0 = all */
    double loss;       /**< of perplexity that counts as collapse: 0.05 */
    size_t tokens;     /**< of the largest damage that are listed: 8 */
    sqf_attribute attribute;
    const char *calibration; /**< the calibration text, to compare how hard both texts are; NULL = the file that
                                report.json names, where it is there */
} sqf_diagnose_options;

/** No text; 8192 tokens of one, loss 0.05, 8 tokens, SQF_ATTRIBUTE_AUTO. */
SQF_API sqf_diagnose_options sqf_diagnose_options_default(void);

/** All that was found. */
typedef struct sqf_diagnosis {
    bool healthy;          /**< no finding beyond a note */
    sqf_finding *findings; /**< worst first */
    size_t finding_count;
    bool evaluated; /**< there was a text: the next members hold something */
    sqf_eval_result eval;
    double calibration_drift;      /**< mean over the inputs of q, k and v, where calibration and text meet the same
                                      layers before them; NaN without calibration statistics in report.json */
    double calibration_perplexity; /**< of the original on the calibration text; NaN if that was not there */
    double calibration_variety;    /**< its different tokens over those of as many tokens of this text; NaN likewise */
    sqf_diagnose_input *inputs;    /**< in order of computation, 4 a layer */
    size_t input_count;
    sqf_diagnose_token *tokens; /**< largest damage first */
    size_t token_count;
    double low_rate_share; /**< of the decoder's products, from the schemes and shapes */
    double dense_share;    /**< of them: in modules that are not quantized */
    double float_share;    /**< of them: quantized weights computed in float */
    double cost;           /**< predicted, per product; 1 = 8-bit products without scales */
    double scale_cost;     /**< of that: scaling sums */
    const char *cpu_level; /**< the kernels in use; static */
} sqf_diagnosis;

/** Compare a quantized model with its original and say what is wrong with it.
 *
 * Smoothing is undone by the quotient of the norms and by factors fitted to v and up, so that single inputs can be put
 * back. A rotated residual stream is followed by the rotation between the two embeddings; nothing is put alone into the
 * original then. With rotated values o counts with qkv. A note says so.
 *
 * Memory: both models, one decoder layer in float32, hidden states of the evaluated tokens ([tokens, hidden] floats,
 * four times). Time: with attribution about 4 * layers evaluations of both models.
 *
 * @param diagnosis  written on success; release with sqf_diagnosis_clear.
 * @return SQF_OK whatever was found; SQF_E_ARG (the second model is not quantized; window; thresholds); SQF_E_SHAPE
 * (models of different shapes); the errors of sqf_model_open and of reading the text; SQF_E_CANCELLED.
 * Reports progress in "windows". */
SQF_API sqf_status sqf_diagnose(sqf_context *context, const char *original, const char *quantized,
                                const sqf_diagnose_options *options, sqf_diagnosis *diagnosis, sqf_error *err);

/** Free what a diagnosis holds. A zeroed one is fine. */
SQF_API void sqf_diagnosis_clear(sqf_diagnosis *diagnosis);

/** "note", "warning", "bad"; static. */
SQF_API const char *sqf_severity_name(sqf_severity severity);

#ifdef __cplusplus
}
#endif
#endif

/** @file budget.h
 *  The best recipe within a budget: how much loss each setting costs in each place is measured once, then settings are
 *  chosen for every input of every layer so that a target of loss, stored bits or predicted cost holds.
 *  docs/algorithms.md, "Automatic budget". */
#ifndef SQF_BUDGET_H
#define SQF_BUDGET_H

#include <sqf/cost.h>
#include <sqf/quantize.h>

#ifdef __cplusplus
extern "C" {
#endif

/** How the loss of a setting in one place is measured. */
typedef enum sqf_budget_measure {
    /** Run the rest of the model behind the changed layer: mean KL divergence of the next token's distribution. */
    SQF_BUDGET_MEASURE_FULL = 0,
    /** The squared error of the changed layer's output, times the KL a unit of such an error costs; that slope is
     *  measured by SQF_BUDGET_MEASURE_FULL for the setting with the largest error in each place. */
    SQF_BUDGET_MEASURE_SLOPE
} sqf_budget_measure;

/** What is made small where a loss is the target. */
typedef enum sqf_budget_objective { SQF_BUDGET_COST = 0, SQF_BUDGET_BITS } sqf_budget_objective;

/** Targets, and how to measure. At least one target must be said. */
typedef struct sqf_budget_options {
    double loss; /**< largest loss of perplexity on the held-out windows, 0.01 = 1 %; NaN = no such target */
    double bits; /**< most stored bits a weight of the decoder's linear layers, scales and masks included; NaN = none */
    double cost; /**< largest predicted cost per product (sqf_cost_per_product over the decoder's linear layers);
                      NaN = none */
    double speed;          /**< the same as a speed: least cost of W4A8 in all places over that of the choice; NaN */
    const char *bits_like; /**< at most the bits of this scheme in all places, or NULL */
    const char *cost_like; /**< at most the predicted cost of this scheme in all places, or NULL */
    sqf_budget_objective objective; /**< with a loss: what is made small; without one the loss is */
    /** Settings to choose from, separated by commas: a scheme, then recipe keys, separated by blanks, as in
     *  "w4a4, w4a-sq5 mask=l2, w4a-sq6 mask=l2|maxl2 act_scale=token|group". `|` stands for "one candidate each".
     *  NULL = sqf_budget_default_candidates. */
    const char *candidates;
    const char *text; /**< held-out text; NULL = the last quarter of the calibration text, which calibration then
                           leaves alone (as sqf_quantize_options.tokens does) */
    size_t windows;   /**< held-out windows, as long as the calibration's; default 16 */
    sqf_budget_measure measure;
    const char *sensitivity; /**< budget.json of an earlier run: what it has measured is not measured again; NULL */
    unsigned rounds;         /**< times that a model is quantized and verified, at most; default 6 */
    const sqf_cost_model *cost_model; /**< NULL = sqf_cost_model_default */
} sqf_budget_options;

/** No target; the defaults above. */
SQF_API sqf_budget_options sqf_budget_options_default(void);

/** The default of sqf_budget_options.candidates; static. */
SQF_API const char *sqf_budget_default_candidates(void);

/** One setting in one place. */
typedef struct sqf_budget_figures {
    const char *setting; /**< "w4a-sq5 mask=l2"; NULL: there is no such setting */
    double loss;         /**< KL that it alone costs, in nats a token */
    double cost;         /**< predicted cost per product of this place */
    double bits;         /**< stored bits a weight of this place */
} sqf_budget_figures;

/** What was chosen for one input of one layer and the modules that read it. */
typedef struct sqf_budget_choice {
    const char *name; /**< "model.layers.0.self_attn.(q|k|v)_proj" */
    double share;     /**< of the model's products */
    sqf_budget_figures chosen;
    sqf_budget_figures better;  /**< the setting with the next smaller loss that costs more: why not */
    sqf_budget_figures cheaper; /**< the setting with the next smaller cost (bits where those count) and more loss */
} sqf_budget_choice;

/** A budget at the end of its work. Immutable. */
typedef struct sqf_budget sqf_budget;

/** The whole of it. */
typedef struct sqf_budget_summary {
    double predicted_loss; /**< of perplexity, as the measured curve says, corrected by the verified models before */
    double loss;           /**< of perplexity, of the model that was written, on the held-out windows */
    double loss_error;     /**< its standard error */
    double kl;             /**< mean KL divergence there */
    double cost;           /**< predicted, per product */
    double reference_cost; /**< of W4A8 in all places */
    double bits;           /**< stored, a weight */
    double interaction;    /**< verified loss over the sum of the measured ones: what the correction multiplies with */
    unsigned rounds;       /**< models that were quantized and verified */
    size_t candidates, places;
    size_t measured; /**< settings in places that were measured; the others came from the sensitivity file */
    size_t tokens;   /**< held-out tokens */
    double seconds;  /**< of measuring */
} sqf_budget_summary;

SQF_API sqf_budget_summary sqf_budget_summary_get(const sqf_budget *budget);
/** Number of places. */
SQF_API size_t sqf_budget_count(const sqf_budget *budget);
/** Place `index`, in the order of computation. Strings are borrowed from the budget. */
SQF_API sqf_budget_choice sqf_budget_at(const sqf_budget *budget, size_t index);
/** NULL is fine. */
SQF_API void sqf_budget_destroy(sqf_budget *budget);

/** sqf_quantize with the settings chosen for it.
 *
 * The recipe gives everything that candidates do not say; modules it ignores stay as they are, its overrides come
 * before the choice. The output has, beside what sqf_quantize writes, budget.json (all that was measured and chosen);
 * its recipe.yaml says the choice in overrides, so that sqf_quantize with it, the same calibration options and `tokens`
 * as written in report.json gives the same tensors byte for byte.
 *
 * Memory: the original model mapped, one layer in float32 twice, activations of calibration and held-out windows.
 * Time: for each candidate and place the quantization of that place and, with SQF_BUDGET_MEASURE_FULL, a forward pass
 * of the held-out windows from that layer on.
 *
 * @param out  what was chosen; may be NULL. The caller owns it: sqf_budget_destroy.
 * @return SQF_OK; SQF_E_ARG: a target that cannot be reached (the best that can is named), candidates that cannot be
 *         read or do not fit, no target; else as sqf_quantize. The result does not depend on the number of threads. */
SQF_API sqf_status sqf_quantize_budget(sqf_context *context, const char *model_directory, const char *output_directory,
                                       const sqf_recipe *recipe, const sqf_quantize_options *options,
                                       const sqf_budget_options *budget, sqf_quantize_summary *summary,
                                       sqf_budget **out, sqf_error *err);

#ifdef __cplusplus
}
#endif
#endif

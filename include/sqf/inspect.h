/** @file inspect.h
 *  Looking at model directories without running them: what is in one, whether it is whole, how two differ. */
#ifndef SQF_INSPECT_H
#define SQF_INSPECT_H

#include <sqf/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/** An opened directory: configuration, names and shapes have been checked, contents not. Immutable. */
typedef struct sqf_inspection sqf_inspection;

/** A quantized module with all its tensors, or one other tensor. Strings are borrowed from the inspection. */
typedef struct sqf_inspect_entry {
    const char *name;  /**< "model.layers.0.mlp.down_proj", or of a tensor "model.norm.weight" */
    const char *dtype; /**< "BF16", ...; of a quantized module the short name of its scheme */
    bool quantized;
    bool linear; /**< a weight matrix of the decoder's linear layers, quantized or not */
    bool output; /**< a quantized output matrix (of tied embeddings that one matrix) */
    size_t dimensions;
    size_t shape[4]; /**< [N, K] of a quantized module */
    uint64_t elements;
    uint64_t bytes;     /**< in the file, scales, masks and channel lists included */
    sqf_scheme scheme;  /**< of linear layers; dense for other tensors */
    double stored_bits; /**< bytes * 8 / elements */
    double weights_equivalent_bits, activations_equivalent_bits; /**< as sqf_scheme_bits_of; 16 or 32 if dense */
    double cost;           /**< predicted, per product, of `linear` and `output` (cost.h, default model); else 0 */
    double low_rate_share; /**< of the same: products with both operands at 4 bits or fewer; else 0 */
} sqf_inspect_entry;

/** Open a model directory for looking at it.
 *
 * @param out  the inspection; NULL on every failure. The caller owns it: sqf_inspection_close. The context must outlive
 * it.
 * @return SQF_OK; the errors of sqf_model_open that do not need tensor contents. */
SQF_API sqf_status sqf_inspection_open(sqf_context *context, const char *directory, sqf_inspection **out,
                                       sqf_error *err);

/** Close an inspection. NULL is fine. */
SQF_API void sqf_inspection_close(sqf_inspection *inspection);

/** Sizes and facts of the model, as sqf_model_info_get gives them for a loaded one. Strings are borrowed. */
SQF_API sqf_model_info sqf_inspection_info(const sqf_inspection *inspection);

/** Number of entries. */
SQF_API size_t sqf_inspection_count(const sqf_inspection *inspection);

/** Entry `index` < sqf_inspection_count, in the order of names, numbers in them by value. Borrowed. */
SQF_API const sqf_inspect_entry *sqf_inspection_at(const sqf_inspection *inspection, size_t index);

/** The entry of this name; a module's name also finds its "NAME.weight", and a stored tensor's name ("NAME.sq_low") its
 *  module. NULL if there is none. Borrowed. */
SQF_API const sqf_inspect_entry *sqf_inspection_find(const sqf_inspection *inspection, const char *name);

/** What the codes, scales and masks of a quantized module look like. */
typedef struct sqf_inspect_statistics {
    uint64_t high;              /**< weights held high */
    double high_share;          /**< of all weights */
    size_t columns_never_high;  /**< input channels that no output channel holds high */
    size_t columns_always_high; /**< input channels that every output channel holds high */
    double busiest_share;       /**< part of the high weights in the tenth of the channels that has most; 0.1 = even */
    double low_zero_share;      /**< of the low weights: codes that stand for 0; NaN if there are none */
    double low_limit_share;     /**< of the low weights: codes at either end of the grid; NaN if there are none */
    float scale_low_min, scale_low_max;   /**< 0 without such scales */
    float scale_high_min, scale_high_max; /**< 0 without such scales */
    size_t channels_high;                 /**< static activation masks: input channels on the high path; else 0 */
} sqf_inspect_statistics;

/** Read a quantized module (hashes and codes are checked) and describe it.
 *  @return SQF_OK; SQF_E_ARG (the entry is not quantized: named); SQF_E_FORMAT, SQF_E_VALUE, SQF_E_HASH (damaged). */
SQF_API sqf_status sqf_inspection_statistics(const sqf_inspection *inspection, const sqf_inspect_entry *entry,
                                             sqf_inspect_statistics *out, sqf_error *err);

/** Receives one checked item: a file, module or tensor. `problem` is NULL if it is fine. */
typedef void (*sqf_check_fn)(void *user, const char *item, const sqf_error *problem);

/** What a check came to. */
typedef struct sqf_check_summary {
    size_t items, problems;
    size_t tensors; /**< in the files */
    size_t hashed;  /**< of them: those with a recorded hash */
    uint64_t bytes; /**< of all tensors */
} sqf_check_summary;

/** Check a whole model directory: configuration, headers, shapes, every hash, every code, count, scale and channel
 * list, NaN and infinity in what is not quantized, generation settings, and the tokenizer where there is one. Goes on
 * after a problem with one of them.
 *
 * @param report   called once an item; may be NULL.
 * @param summary  may be NULL; filled as far as the check came.
 * @return SQF_OK if nothing was wrong; else the status and sentence of the first problem; SQF_E_CANCELLED. */
SQF_API sqf_status sqf_check_model(sqf_context *context, const char *directory, sqf_check_fn report, void *user,
                                   sqf_check_summary *summary, sqf_error *err);

/** How one tensor differs between two models A and B. */
typedef struct sqf_compare_entry {
    const char *name;         /**< "model.layers.0.mlp.down_proj.weight"; borrowed for the call of the callback */
    size_t rows, columns;     /**< columns 1 for a vector */
    double relative_error;    /**< ||A - B|| / ||A||, Frobenius; 0 if both are zero, infinite if A alone is */
    double largest_error;     /**< max |a - b| */
    bool unfolded;            /**< B was scaled back by its smoothing factors before it was compared */
    bool codes_compared;      /**< both are quantized alike: the next three are meaningful */
    uint64_t codes;           /**< weights */
    uint64_t differing_codes; /**< weights whose code, or whether they are held high, differs at a stored place */
    uint64_t differing_scales;
} sqf_compare_entry;

/** Receives one tensor. */
typedef void (*sqf_compare_fn)(void *user, const sqf_compare_entry *entry);

/** The whole of a comparison. */
typedef struct sqf_compare_summary {
    size_t tensors, identical; /**< identical: no element differs */
    double relative_error;     /**< over all tensors together */
    size_t codes_compared;     /**< matrices that are quantized alike */
    uint64_t codes, differing_codes, differing_scales;
    bool unfolded; /**< of some tensor */
} sqf_compare_summary;

/** Compare the weights of two models of one shape, dequantized where they are quantized.
 *
 * Smoothing moves factors between matrices and what stands before them without changing the model. Where the norms of a
 * layer differ, it is undone for B: exactly where the input comes from a norm (q, k, v, gate, up: the quotient of the
 * norms), by the best fit for each channel of v_proj and up_proj, and with the same factors for o_proj and down_proj.
 *
 * @param report   called once a tensor in the order of computation; may be NULL.
 * @param summary  may be NULL.
 * @return SQF_OK, also if they differ; SQF_E_SHAPE (the models do not have one shape: what differs is named); SQF_E_ARG
 * (their weights are in different bases); the
 * errors of sqf_model_open; SQF_E_CANCELLED. Reports progress in "tensors". */
SQF_API sqf_status sqf_compare_models(sqf_context *context, const char *directory_a, const char *directory_b,
                                      sqf_compare_fn report, void *user, sqf_compare_summary *summary, sqf_error *err);

#ifdef __cplusplus
}
#endif
#endif

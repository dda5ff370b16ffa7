/** @file eval.h
 *  What quantization costs: perplexity, and the distance between two models on the same text.
 *
 *  All logarithms are natural. Log-probabilities are computed in float64 from the model's float32 logits; logits live
 *  only for a few rows at a time, so memory grows with the number of scored tokens by a few dozen bytes each. */
#ifndef SQF_EVAL_H
#define SQF_EVAL_H

#include <sqf/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/** How a text is cut and which of its tokens are scored. In both: consecutive windows that do not overlap, each run
 *  alone from position 0; an incomplete last window is left out. */
typedef enum sqf_windowing {
    /** Every token of a window from the second on. A text shorter than one window is one window. */
    SQF_WINDOWING_STANDARD = 0,
    /** As llama.cpp's llama-perplexity: the text is encoded with special tokens; where that puts a token in front
     *  (BOS), this token also replaces the first one of each window; scored are the tokens from window / 2 + 1 on. At
     *  least one whole window is needed. */
    SQF_WINDOWING_LLAMA_CPP
} sqf_windowing;

/** Negative log-probabilities of the scored tokens of a text, in its order. */
typedef struct sqf_eval_tokens {
    size_t count;
    double *nll; /**< natural logarithms; sqf_eval_tokens_clear */
} sqf_eval_tokens;

/** Frees them; NULL and zeros are fine. */
SQF_API void sqf_eval_tokens_clear(sqf_eval_tokens *tokens);

/** What to score. */
typedef struct sqf_eval_options {
    size_t window;     /**< tokens a window, >= 2 (llama.cpp: >= 3), at most the models' positions */
    size_t max_tokens; /**< only the first so many tokens of the text; 0 = all */
    sqf_windowing windowing;
    bool special; /**< encode the text with special tokens (implied by SQF_WINDOWING_LLAMA_CPP) */
    /** What an evaluation of a reference on the same text kept, in place of the reference: ratio and difference come
     *  with their paired errors without running it again; kl and same_top stay NaN. NULL = none. Borrowed. */
    const sqf_eval_tokens *paired;
    sqf_kv_type kv;        /**< type of the model's KV cache; a reference keeps float32 */
    sqf_eval_tokens *keep; /**< NULL, or where the scored tokens of the model go on success, for such a pairing */
} sqf_eval_options;

/** Windows of 2048 tokens, all of the text, standard windowing, no special tokens. */
SQF_API sqf_eval_options sqf_eval_options_default(void);

/** Figures of one model on one text. */
typedef struct sqf_eval_score {
    double nll;                  /**< mean negative log-probability of a scored token */
    double nll_sum;              /**< its sum */
    double perplexity;           /**< exp(nll) */
    double perplexity_error;     /**< standard error: perplexity * sd(nll of a token) / sqrt(scored tokens) */
    double seconds;              /**< in the forward pass and the output matrix */
    double tokens_per_s;         /**< tokens run (not only scored) a second of those */
    sqf_product_counts products; /**< what the linear layers did */
} sqf_eval_score;

/** Figures of a text; those of a comparison are NaN (or zero) without a reference model. Errors are standard errors of
 * a mean over tokens, taken as independent; those of differences are of paired differences token by token. */
typedef struct sqf_eval_result {
    size_t tokens; /**< tokens of the text that were run */
    size_t windows;
    size_t scored_tokens;
    uint64_t scored_bytes;      /**< bytes of text that the scored tokens stand for; 0 without a tokenizer */
    double perplexity_per_byte; /**< exp(nll_sum / scored_bytes); NaN without a tokenizer */
    sqf_eval_score model;
    bool compared; /**< there was a reference */
    sqf_eval_score reference;
    double kl, kl_error;       /**< mean KL(reference || model) of the next token's distribution */
    double kl_max;             /**< the largest of a token */
    double same_top;           /**< share of scored tokens where both models' most probable token is the same */
    double ratio, ratio_error; /**< perplexity / reference perplexity */
    double difference, difference_error; /**< perplexity - reference perplexity */
} sqf_eval_result;

/** Score token ids.
 *
 * @param model      opened with `context`.
 * @param reference  NULL, or a model with the same vocabulary size, opened with `context` too; run window by window
 * beside the model. May be `model` itself.
 * @param tokenizer  NULL, or what the ids came from: gives scored_bytes.
 * @param ids        the text, count ids; special tokens included where they are wanted.
 * @param first      SQF_WINDOWING_LLAMA_CPP: the id that replaces the first one of each window; NULL = none. Else
 * ignored.
 * @param result     written on success.
 * @return SQF_OK; SQF_E_ARG (window out of range or beyond a model's positions, both named; fewer than 2 tokens or no
 * whole window where one is needed; vocabularies that differ; `paired` together with a reference, or of another number
 * of tokens); SQF_E_VALUE (an id beyond the vocabulary; a NaN or infinite logit, window and token named);
 * SQF_E_MEMORY; SQF_E_CANCELLED.
 *
 * Reports progress in "tokens". The result does not depend on the number of threads. One call a context at a time. */
SQF_API sqf_status sqf_eval_ids(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                                const sqf_tokenizer *tokenizer, const uint32_t *ids, size_t count,
                                const uint32_t *first, const sqf_eval_options *options, sqf_eval_result *result,
                                sqf_error *err);

/** Score a text: encodes it as the options say, then sqf_eval_ids. Bytes need not be UTF-8. */
SQF_API sqf_status sqf_eval_text(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                                 const sqf_tokenizer *tokenizer, const char *text, size_t n,
                                 const sqf_eval_options *options, sqf_eval_result *result, sqf_error *err);

/** sqf_eval_text on the content of a regular file; messages about the text begin with its path. SQF_E_IO if it
 *  cannot be read. */
SQF_API sqf_status sqf_eval_file(sqf_context *context, const sqf_model *model, const sqf_model *reference,
                                 const sqf_tokenizer *tokenizer, const char *path, const sqf_eval_options *options,
                                 sqf_eval_result *result, sqf_error *err);

#ifdef __cplusplus
}
#endif
#endif

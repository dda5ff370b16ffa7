/** @file generate.h
 *  Text from a model: prefill, then tokens one by one, streamed as they come. */
#ifndef SQF_GENERATE_H
#define SQF_GENERATE_H

#include <sqf/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Why a generation ended. */
typedef enum sqf_stop {
    SQF_STOP_LENGTH = 0, /**< max_tokens were drawn */
    SQF_STOP_END,        /**< an end id was drawn; it is among the ids, but gives no text */
    SQF_STOP_POSITIONS,  /**< the session is full */
    SQF_STOP_CALLER      /**< the callback said so */
} sqf_stop;

/** The name of a reason, e.g. "end"; a static string. Safe from any thread. */
SQF_API const char *sqf_stop_name(sqf_stop stop);

/** Receives each drawn token: its id, and the text that became certain with it (valid UTF-8, possibly empty; valid
 * during the call). At the end one more call with id UINT32_MAX brings what was held back, if anything was.
 *  @return true to go on, false to stop. Called from the thread that called sqf_generate. */
typedef bool (*sqf_token_fn)(void *user, uint32_t id, const char *text);

/** What to generate. Zero-initialise and set what is wanted. */
typedef struct sqf_generate_options {
    size_t max_tokens;        /**< tokens to draw at most; 0 = prefill alone */
    sqf_sampling sampling;    /**< how to draw; zero: greedy */
    const uint32_t *stop_ids; /**< ids that end the text, e.g. sqf_model_end_ids */
    size_t stop_count;
    sqf_token_fn token; /**< NULL = none */
    void *token_user;
} sqf_generate_options;

/** What came of it, and how long it took. */
typedef struct sqf_generation {
    size_t prefill_tokens;  /**< tokens of the prompt */
    double prefill_seconds; /**< until the logits after the prompt were there */
    size_t decode_tokens;   /**< tokens that went through the model one by one */
    double decode_seconds;  /**< of those; the callback's time left out, and on the CPU that of drawing */
    sqf_ids ids;            /**< the drawn ids, the end id included; the caller releases it: sqf_ids_clear */
    sqf_stop stop;
} sqf_generation;

/** Continue a session by `prompt`, then by drawn tokens.
 *
 * The last drawn token is not fed back: afterwards the session holds its former tokens, the prompt, and every drawn
 * token but the last.
 * @param session    continued, not reset.
 * @param tokenizer  for the text; NULL: the callback receives empty texts.
 * @param prompt     [count] ids, at least one.
 * @param out        filled also after a failure, with what there was until then.
 * @return SQF_OK; SQF_E_ARG (an empty prompt, a sampling parameter out of range, no room for the prompt); SQF_E_VALUE
 * (an id beyond the vocabulary; NaN in an activation); SQF_E_MEMORY. */
SQF_API sqf_status sqf_generate(const sqf_model *model, sqf_session *session, const sqf_tokenizer *tokenizer,
                                const uint32_t *prompt, size_t count, const sqf_generate_options *options,
                                sqf_generation *out, sqf_error *err);

#ifdef __cplusplus
}
#endif
#endif

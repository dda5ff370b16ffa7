/** @file model.h
 *  A model directory as a thing that computes: load, prefill, decode, sample. */
#ifndef SQF_MODEL_H
#define SQF_MODEL_H

#include <sqf/context.h>
#include <sqf/cost.h>
#include <sqf/format.h>
#include <sqf/tokenizer.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A loaded model. Immutable; belongs to the context it was opened with. */
typedef struct sqf_model sqf_model;

/** Load a Hugging Face model directory (original or quantized by this library). Everything is checked before use.
 *
 * @param out  the model; NULL on every failure. The caller owns it: sqf_model_destroy.
 * @return SQF_OK; SQF_E_IO, SQF_E_FORMAT, SQF_E_SHAPE, SQF_E_VALUE, SQF_E_HASH (the directory is damaged);
 *         SQF_E_SUPPORT (an architecture, rope type or activation function that is not known: named); SQF_E_MEMORY. */
SQF_API sqf_status sqf_model_open(sqf_context *context, const char *directory, sqf_model **out, sqf_error *err);

/** How a session keeps keys and values. */
typedef enum sqf_kv_type {
    SQF_KV_F32 = 0, /**< float32: nothing is lost */
    SQF_KV_F16,     /**< fp16, rounded to nearest */
    SQF_KV_INT8     /**< int8, symmetric, one float32 scale a head and token; keys after the rotary embedding */
} sqf_kv_type;

/** How a model will be used: what its memory is planned by. Zero-initialise. */
typedef struct sqf_model_use {
    size_t sessions;  /**< at a time; 0 = 1 */
    size_t positions; /**< of each; 0 = 2048; never more than the model has */
    sqf_kv_type kv;   /**< type of their caches */
} sqf_model_use;

/** The same for a known use. On a device all that the model and its sessions will take is added up before any weight is
 *  read, and SQF_E_MEMORY says by how much it does not fit. On the CPU a use changes nothing. */
SQF_API sqf_status sqf_model_open_for(sqf_context *context, const char *directory, const sqf_model_use *use,
                                      sqf_model **out, sqf_error *err);

/** Destroy a model. Sessions on it must be destroyed before. NULL is fine. */
SQF_API void sqf_model_destroy(sqf_model *model);

/** Sizes and facts of a model. Strings are borrowed from it. */
typedef struct sqf_model_info {
    const char *directory, *architecture;
    const char *scheme; /**< short name of the main scheme: "BF16" (or the checkpoint's dtype) if not quantized */
    size_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, positions;
    uint64_t parameters;        /**< all weights, the embedding counted once */
    uint64_t quantized_weights; /**< weights of quantized matrices */
    uint64_t weight_bytes;      /**< of all stored tensors */
    uint64_t read_bytes;        /**< of the matrices that every decoded token reads, as the kernels hold them; 0 for a
                                     model that was inspected and not loaded */
    double bits_per_weight;     /**< stored bits of the decoder's linear layers per weight, scales and masks included */
    double weights_equivalent_bits, activations_equivalent_bits; /**< mean over the decoder's linear layers' weights */
    const char *rotation, *rotation_values, *rotation_down;      /**< bases of the residual stream, of the values and of
                                                                      down_proj's input: "off", "hadamard", ... */
    double rotation_operations; /**< float operations of rotations at run time for one token; `cost` has them too */
    sqf_cost cost;              /**< predicted work of the decoder's linear layers for one token (cost.h) */
    double predicted_cost;      /**< the same per product, by the default cost model */
    /* The whole model; the figures by weight above leave out its two matrices of the vocabulary. */
    const char *output_scheme, *embedding_scheme; /**< short names; one and the same where embeddings are tied */
    double bits_per_parameter; /**< stored bits of all tensors per parameter: embedding, output matrix and norms too */
    uint64_t token_bytes; /**< stored bytes that every decoded token reads: all tensors, but of an embedding that is
                               not the output matrix none */
    sqf_cost output_cost; /**< predicted work of the output matrix for one token */
} sqf_model_info;

/** The facts of a model. */
SQF_API sqf_model_info sqf_model_info_get(const sqf_model *model);

/** Ids that end a text (generation_config.json, else config.json); *count of them, borrowed. */
SQF_API const uint32_t *sqf_model_end_ids(const sqf_model *model, size_t *count);

/** How the next token is drawn. Zero-initialised: greedy. */
typedef struct sqf_sampling {
    float temperature;        /**< 0 = greedy (ties: the lower id) */
    uint32_t top_k;           /**< 0 = all */
    float top_p;              /**< nucleus; 0 or 1 = all */
    float min_p;              /**< drop tokens below min_p times the largest probability; 0 = none */
    float repetition_penalty; /**< 0 or 1 = none; as in Hugging Face: logits of seen tokens divided (positive) or
                                 multiplied */
    uint64_t seed;
} sqf_sampling;

/** Sampling defaults of generation_config.json, absent members as in Hugging Face: greedy unless do_sample is true,
 * then temperature 1 and top_k 50. */
SQF_API sqf_sampling sqf_model_sampling(const sqf_model *model);

/** "f32", "f16" or "int8"; a static string. Safe from any thread. */
SQF_API const char *sqf_kv_type_name(sqf_kv_type type);
/** The type of a name. SQF_E_ARG names what was found. Safe from any thread. */
SQF_API sqf_status sqf_kv_type_parse(const char *text, sqf_kv_type *type, sqf_error *err);

/** One sequence: its KV cache and scratch memory. One thread at a time; sessions of one context share its threads and
 *  must not compute at the same time. */
typedef struct sqf_session sqf_session;

/** Create a session for at most `positions` tokens, 1 .. the model's positions (SQF_E_ARG beyond: both are named).
 *  Keys and values are kept in float32. */
SQF_API sqf_status sqf_session_create(const sqf_model *model, size_t positions, sqf_session **out, sqf_error *err);
/** The same with a KV cache of another type than float32. */
SQF_API sqf_status sqf_session_create_kv(const sqf_model *model, size_t positions, sqf_kv_type kv, sqf_session **out,
                                         sqf_error *err);
/** Destroy a session. NULL is fine. */
SQF_API void sqf_session_destroy(sqf_session *session);
/** Forget all tokens. */
SQF_API void sqf_session_reset(sqf_session *session);
/** Forget the tokens from position `length` on; nothing if there are fewer. What comes next continues behind the tokens
 *  that are left, so that a common beginning is computed once. There are no logits until the next forward. */
SQF_API void sqf_session_truncate(sqf_session *session, size_t length);
/** Number of tokens so far. */
SQF_API size_t sqf_session_length(const sqf_session *session);
/** Number of tokens that it was created for. */
SQF_API size_t sqf_session_positions(const sqf_session *session);
/** Bytes of the KV cache that one position takes, all layers together. */
SQF_API uint64_t sqf_session_kv_bytes(const sqf_session *session);

/** Append `count` tokens (prefill if many, decode if one).
 *  @return SQF_OK; SQF_E_ARG (no room: needed and available are named); SQF_E_VALUE (an id beyond the vocabulary; a NaN
 *          in an activation). After a failure the session is as before. */
SQF_API sqf_status sqf_session_forward(sqf_session *session, const uint32_t *ids, size_t count, sqf_error *err);

/** Logits after tokens of the last sqf_session_forward: rows first .. first + count - 1 of it. Computed here, for these
 * rows alone: the session keeps the hidden states of the last call ([tokens, hidden] floats) and nothing of size
 * vocabulary.
 *  @param logits  [count, vocabulary] out.
 *  @return SQF_OK; SQF_E_ARG (rows that the last call did not have; no call yet); SQF_E_VALUE (NaN or infinity);
 *          SQF_E_MEMORY. */
SQF_API sqf_status sqf_session_logits(sqf_session *session, size_t first, size_t count, float *logits, sqf_error *err);

/** Append tokens to several sessions of one model in one pass: each linear layer reads its weights once for the tokens
 * of all of them, attention runs for each session over its own cache. Decoding a batch costs little more than decoding
 * one text as long as reading the weights is what takes the time.
 *
 *  Each session ends up as after sqf_session_forward of its tokens alone, bit for bit where linear layers multiply
 *  integers, whatever the batch and the order; layers in floating point (float weights or activations, fp8) sum more
 *  than 4 tokens by BLAS, whose rounding depends on the number of tokens.
 *
 *  @param sessions  [count] distinct, of one model, with whatever lengths and cache types; count >= 1.
 *  @param ids       [count] the tokens of each session.
 *  @param counts    [count] how many; >= 1 each. One each is a step of decoding.
 *  @return SQF_OK; SQF_E_ARG (a session named twice or of another model; no tokens; no room); SQF_E_VALUE and
 *          SQF_E_MEMORY as sqf_session_forward. After a failure all sessions are as before. One thread at a time. */
SQF_API sqf_status sqf_sessions_forward(sqf_session *const *sessions, size_t count, const uint32_t *const *ids,
                                        const size_t *counts, sqf_error *err);

/** Logits after the last token of each session, by one product with the output matrix.
 *  @param logits  [count, vocabulary] out.
 *  @return as sqf_session_logits; SQF_E_ARG too for sessions of different models. */
SQF_API sqf_status sqf_sessions_logits(sqf_session *const *sessions, size_t count, float *logits, sqf_error *err);

/** Draws tokens; reproducible for a seed. One thread at a time. */
typedef struct sqf_sampler sqf_sampler;
/** Create a sampler for logits of `vocabulary` numbers. SQF_E_ARG names a parameter out of range; SQF_E_MEMORY. */
SQF_API sqf_status sqf_sampler_create(const sqf_sampling *sampling, size_t vocabulary, sqf_sampler **out,
                                      sqf_error *err);
/** Destroy a sampler. NULL is fine. */
SQF_API void sqf_sampler_destroy(sqf_sampler *sampler);
/** Tell the sampler of a token of the text (prompt or drawn), for the repetition penalty. Ids
 *  beyond the vocabulary are ignored. */
SQF_API void sqf_sampler_accept(sqf_sampler *sampler, uint32_t id);
/** Draw from logits [vocabulary]. In the order of Hugging Face: repetition penalty, temperature, top_k, top_p, min_p.
 *  SQF_E_VALUE if a logit is NaN or infinite; *id untouched then. */
SQF_API sqf_status sqf_sampler_draw(sqf_sampler *sampler, const float *logits, uint32_t *id, sqf_error *err);

#ifdef __cplusplus
}
#endif
#endif

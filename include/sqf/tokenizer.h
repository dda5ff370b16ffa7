/** @file tokenizer.h
 *  Text to token ids and back, as tokenizer.json says and by that file alone. */
#ifndef SQF_TOKENIZER_H
#define SQF_TOKENIZER_H

#include <sqf/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A loaded tokenizer. Immutable: any number of threads may use one at a time. */
typedef struct sqf_tokenizer sqf_tokenizer;

/** A growing list of token ids. Zero-initialise; release with sqf_ids_clear. */
typedef struct sqf_ids {
    uint32_t *data;
    size_t count, capacity;
} sqf_ids;

/** Free the ids and zero the list. NULL is fine. */
SQF_API void sqf_ids_clear(sqf_ids *ids);

/** Load tokenizer.json (and, where present, add_bos_token / add_eos_token of tokenizer_config.json) of a directory.
 *
 * The model must be BPE. What the parts mean is what the library of the name "tokenizers" does with them; any part, and
 * any member of a part, that is not known is refused by name. `truncation` must be null, and `padding` one that leaves
 * a single text as it is. tokenizer_config.json is asked only if the post-processor prescribes nothing.
 * @param out  the tokenizer; NULL on every failure. The caller owns it: sqf_tokenizer_destroy.
 * @return SQF_OK; SQF_E_IO; SQF_E_FORMAT (damaged); SQF_E_SUPPORT (a part of another kind than this library knows; the
 *         message names it: nothing is ever ignored); SQF_E_MEMORY. */
SQF_API sqf_status sqf_tokenizer_load(const char *model_directory, sqf_tokenizer **out, sqf_error *err);

/** Destroy a tokenizer. NULL is fine. */
SQF_API void sqf_tokenizer_destroy(sqf_tokenizer *tokenizer);

/** Encode bytes.
 *
 * Every input has a defined result: each maximal subpart of the bytes that is not UTF-8 counts as one U+FFFD (Unicode
 * 15, section 3.9); NUL is a character like any other; a character without a token becomes the unknown token, or
 * nothing where the model names none. Time is O(n log n) in the bytes, apart from regular expressions of the file that
 * are themselves slower; Oniguruma's syntax is understood as far as it can be translated. Any number of threads may
 * encode with one tokenizer at a time.
 * @param bytes    [n]; may be NULL if n is 0.
 * @param special  true: put the tokens around the text that the post-processor (or add_bos_token) prescribes.
 * @param ids      the ids are appended; as it was on failure.
 * @return SQF_OK; SQF_E_MEMORY; SQF_E_VALUE (a character has no token and the unknown token that the model names does
 *         not exist; a regular expression of the file exceeds its limits on this text). */
SQF_API sqf_status sqf_tokenizer_encode(const sqf_tokenizer *tokenizer, const char *bytes, size_t n, bool special,
                                        sqf_ids *ids, sqf_error *err);

/** Decode ids to UTF-8, for free(); NUL-terminated (not counted).
 *
 *  What the tokens leave open is as the file's decoders say: bytes that are not UTF-8 come out as U+FFFD. Ids below
 *  sqf_tokenizer_vocabulary_size without a token give nothing. Any number of threads may decode at a time.
 *  @param skip_special  leave out the tokens marked special.
 *  @param bytes         the text; NULL on every failure. @param n its bytes.
 *  @return SQF_OK; SQF_E_VALUE (an id beyond the vocabulary; the message names it); SQF_E_MEMORY. */
SQF_API sqf_status sqf_tokenizer_decode(const sqf_tokenizer *tokenizer, const uint32_t *ids, size_t count,
                                        bool skip_special, char **bytes, size_t *n, sqf_error *err);

/** Number of ids: the largest id plus one. */
SQF_API size_t sqf_tokenizer_vocabulary_size(const sqf_tokenizer *tokenizer);

/** The vocabulary's own spelling of an id (e.g. "Ġthe"), NUL-terminated; NULL for an id without a token. Borrowed. */
SQF_API const char *sqf_tokenizer_token(const sqf_tokenizer *tokenizer, uint32_t id);

/** The id of a token in the vocabulary's own spelling; false if there is none. */
SQF_API bool sqf_tokenizer_find(const sqf_tokenizer *tokenizer, const char *token, uint32_t *id);

/** Text that comes token by token: gives out only whole, valid UTF-8. One thread at a time. */
typedef struct sqf_text_stream sqf_text_stream;

/** Create a stream that continues after `prompt` (may be empty): what decoders do at the start of a text (stripping a
 *  leading space) then applies to the prompt, not to the continuation. The tokenizer must outlive the stream. */
SQF_API sqf_status sqf_text_stream_create(const sqf_tokenizer *tokenizer, const uint32_t *prompt, size_t count,
                                          sqf_text_stream **out, sqf_error *err);

/** Add an id; special tokens and ids without a token (a model may have more rows than its tokenizer has tokens) give no
 *  text. *text (borrowed, valid until the next call, NUL-terminated) is what became
 *  certain, possibly empty. Bytes that can never become valid UTF-8 come out as U+FFFD. */
SQF_API sqf_status sqf_text_stream_push(sqf_text_stream *stream, uint32_t id, const char **text, sqf_error *err);

/** End of the text: what was held back (an incomplete character as U+FFFD). */
SQF_API sqf_status sqf_text_stream_finish(sqf_text_stream *stream, const char **text, sqf_error *err);

/** Destroy a stream. NULL is fine. */
SQF_API void sqf_text_stream_destroy(sqf_text_stream *stream);

#ifdef __cplusplus
}
#endif
#endif

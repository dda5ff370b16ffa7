/* The inside of a tokenizer. */
#ifndef SQF_TOKENIZER_INTERNAL_H
#define SQF_TOKENIZER_INTERNAL_H

#include <sqf/tokenizer.h>

#include "tokenizer/added.h"
#include "tokenizer/bpe.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pretokenizer.h"

/* In a template: the place of the text. */
#define SQF_TEMPLATE_TEXT UINT32_MAX

struct sqf_tokenizer {
    sqf_vocabulary vocabulary;
    sqf_bpe bpe;
    sqf_normalizers normalizers;
    sqf_pretokenizers pretokenizers;
    sqf_decoders decoders;
    sqf_added_set *raw_added;        /* searched in the text as it comes; NULL = none */
    sqf_added_set *normalized_added; /* searched in the normalized text; NULL = none */
    char **decoded;                  /* [vocabulary.size] what an id decodes from if not its text, NULL = its text;
                                        the whole list is NULL if there is no such id */
    sqf_ids template_ids;            /* ids and SQF_TEMPLATE_TEXT; empty = the text alone */
};

/* Reads a tokenizer from the bytes of tokenizer.json and, if config is not NULL, of tokenizer_config.json. */
sqf_status sqf_tokenizer_parse(const char *json, size_t n, const char *config, size_t config_size, sqf_tokenizer **out,
                               sqf_error *err);

/* Reads "post_processor" into template_ids; *prescribes: it says which tokens stand around a text. */
sqf_status sqf_template_load(const json_t *json, sqf_tokenizer *tokenizer, bool *prescribes, sqf_error *err);

/* Reads add_bos_token and add_eos_token of a tokenizer_config.json into template_ids. */
sqf_status sqf_template_load_config(const json_t *config, sqf_tokenizer *tokenizer, sqf_error *err);

/* Decodes; ids without a token give nothing. raw as in sqf_decoders_run. */
sqf_status sqf_tokenizer_decode_into(const sqf_tokenizer *tokenizer, const uint32_t *ids, size_t count,
                                     bool skip_special, bool raw, sqf_buffer *out, sqf_error *err);

#endif

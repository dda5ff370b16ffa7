/* Which tokens stand around a text: the post-processor, or the flags of tokenizer_config.json. */
#include <string.h>

#include "tokenizer/internal.h"
#include "tokenizer/settings.h"

static const char *const WHERE = "tokenizer.json: post_processor";

typedef struct template_reader {
    sqf_tokenizer *tokenizer;
    bool prescribes;
} template_reader;

static sqf_status add_id(sqf_tokenizer *tokenizer, const json_t *json, sqf_error *err)
{
    const json_int_t id = json_integer_value(json);
    if (!json_is_integer(json) || id < 0 || (size_t)id >= tokenizer->vocabulary.size ||
        !tokenizer->vocabulary.tokens[id].present) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: special_tokens: expected ids of the vocabulary, found another value",
                        WHERE);
    }
    return sqf_ids_append(&tokenizer->template_ids, (uint32_t)id, err);
}

static sqf_status add_special(sqf_tokenizer *tokenizer, const json_t *piece, const json_t *specials, sqf_error *err)
{
    const char *name;
    json_t *special, *ids, *id;
    size_t i;
    SQF_TRY(sqf_settings_string(piece, "id", WHERE, &name, err));
    SQF_TRY(sqf_json_member_find(specials, name, JSON_OBJECT, WHERE, &special, err));
    if (!special) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: special_tokens: \"%.64s\" is missing", WHERE, name);
    }
    SQF_TRY(sqf_json_member(special, "ids", JSON_ARRAY, WHERE, &ids, err));
    json_array_foreach(ids, i, id)
    {
        SQF_TRY(add_id(tokenizer, id, err));
    }
    return SQF_OK;
}

/* One piece of a template: {"SpecialToken": {...}} or {"Sequence": {"id": "A", ...}}. */
static sqf_status add_piece(sqf_tokenizer *tokenizer, const json_t *piece, const json_t *specials, sqf_error *err)
{
    const json_t *special = json_object_get(piece, "SpecialToken"), *sequence = json_object_get(piece, "Sequence");
    const char *name;
    if (json_object_size(piece) != 1 || (!json_is_object(special) && !json_is_object(sequence))) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: single: expected {\"SpecialToken\": ...} or {\"Sequence\": ...}",
                        WHERE);
    }
    if (special) {
        return add_special(tokenizer, special, specials, err);
    }
    SQF_TRY(sqf_settings_string(sequence, "id", WHERE, &name, err));
    if (strcmp(name, "A") != 0) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: single: expected the sequence \"A\", found \"%.16s\"", WHERE, name);
    }
    return sqf_ids_append(&tokenizer->template_ids, SQF_TEMPLATE_TEXT, err);
}

static sqf_status read_template(template_reader *reader, const json_t *json, sqf_error *err)
{
    static const char *const KNOWN[] = {"type", "single", "pair", "special_tokens", NULL};
    json_t *single, *specials, *piece;
    size_t i;
    SQF_TRY(sqf_settings_known(json, KNOWN, WHERE, err));
    SQF_TRY(sqf_json_member(json, "single", JSON_ARRAY, WHERE, &single, err));
    SQF_TRY(sqf_json_member(json, "special_tokens", JSON_OBJECT, WHERE, &specials, err));
    if (reader->prescribes) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: more than one TemplateProcessing", WHERE);
    }
    reader->prescribes = true;
    json_array_foreach(single, i, piece)
    {
        SQF_TRY(add_piece(reader->tokenizer, piece, specials, err));
    }
    return json_array_size(single) > 0 ? SQF_OK : sqf_fail(err, SQF_E_FORMAT, "%s: single: is empty", WHERE);
}

static sqf_status read_step(void *user, const json_t *json, const char *type, const char *where, sqf_error *err)
{
    /* offsets into the text are not computed here, so that trimming them has no meaning */
    static const char *const BYTE_LEVEL[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    if (strcmp(type, "ByteLevel") == 0) {
        return sqf_settings_known(json, BYTE_LEVEL, where, err);
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        return read_template(user, json, err);
    }
    return sqf_fail(err, SQF_E_SUPPORT, "%s: type \"%s\" is not supported", where, type);
}

sqf_status sqf_template_load(const json_t *json, sqf_tokenizer *tokenizer, bool *prescribes, sqf_error *err)
{
    template_reader reader = {.tokenizer = tokenizer};
    SQF_TRY(sqf_settings_walk(json, "processors", WHERE, read_step, &reader, err));
    *prescribes = reader.prescribes;
    return SQF_OK;
}

/* The token that a flag asks for; a token is written as a string or as an object with "content". */
static sqf_status add_flagged(const json_t *config, const char *flag, const char *key, sqf_tokenizer *tokenizer,
                              sqf_error *err)
{
    static const char *const where = "tokenizer_config.json";
    bool wanted = false;
    uint32_t id;
    SQF_TRY(sqf_json_bool_find(config, flag, where, &wanted, err));
    if (!wanted) {
        return SQF_OK;
    }
    const json_t *token = json_object_get(config, key);
    token = json_is_object(token) ? json_object_get(token, "content") : token;
    if (!json_is_string(token)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s is true but %s is no token", where, flag, key);
    }
    if (!sqf_vocabulary_find(&tokenizer->vocabulary, json_string_value(token), json_string_length(token), &id)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: %s \"%.64s\" is not in the vocabulary", where, key,
                        json_string_value(token));
    }
    return sqf_ids_append(&tokenizer->template_ids, id, err);
}

sqf_status sqf_template_load_config(const json_t *config, sqf_tokenizer *tokenizer, sqf_error *err)
{
    SQF_TRY(add_flagged(config, "add_bos_token", "bos_token", tokenizer, err));
    SQF_TRY(sqf_ids_append(&tokenizer->template_ids, SQF_TEMPLATE_TEXT, err));
    return add_flagged(config, "add_eos_token", "eos_token", tokenizer, err);
}

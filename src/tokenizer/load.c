/* Loading tokenizer.json. */
#include <string.h>

#include "base/file.h"
#include "tokenizer/internal.h"
#include "tokenizer/settings.h"

enum { FILE_LIMIT = 1 << 30, FREE_IDS = 1 << 20 };

static const char *const FILE_NAME = "tokenizer.json";

/* An entry of "added_tokens". */
typedef struct added_entry {
    sqf_added_token token;
    size_t id;
    bool normalized, special;
} added_entry;

static sqf_status read_added(const json_t *json, added_entry *entry, sqf_error *err)
{
    static const char *const where = "tokenizer.json: added_tokens";
    static const char *const KNOWN[] = {"id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL};
    *entry = (added_entry){0};
    if (!json_is_object(json)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: expected objects", where);
    }
    SQF_TRY(sqf_settings_known(json, KNOWN, where, err));
    SQF_TRY(sqf_settings_string(json, "content", where, &entry->token.text, err));
    SQF_TRY(sqf_json_size(json, "id", 0, UINT32_MAX - 1, where, &entry->id, err));
    SQF_TRY(sqf_settings_bool(json, "single_word", where, &entry->token.single_word, err));
    SQF_TRY(sqf_settings_bool(json, "lstrip", where, &entry->token.lstrip, err));
    SQF_TRY(sqf_settings_bool(json, "rstrip", where, &entry->token.rstrip, err));
    SQF_TRY(sqf_settings_bool(json, "normalized", where, &entry->normalized, err));
    SQF_TRY(sqf_settings_bool(json, "special", where, &entry->special, err));
    entry->token.size = strlen(entry->token.text);
    entry->token.id = (uint32_t)entry->id;
    return SQF_OK;
}

/* Both lists of tokens, as read from the file. */
typedef struct token_lists {
    json_t *model; /* "vocab" */
    added_entry *added;
    size_t added_count;
    size_t id_limit; /* ids must be smaller: memory stays in proportion to the file */
} token_lists;

static sqf_status read_added_list(const json_t *root, token_lists *lists, sqf_error *err)
{
    json_t *array, *entry;
    size_t i;
    SQF_TRY(sqf_json_member_find(root, "added_tokens", JSON_ARRAY, FILE_NAME, &array, err));
    SQF_TRY(SQF_ALLOC(&lists->added, json_array_size(array), "added tokens", err));
    json_array_foreach(array, i, entry)
    {
        added_entry *added = &lists->added[lists->added_count];
        SQF_TRY(read_added(entry, added, err));
        if (added->id >= lists->id_limit) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: added_tokens: \"%.64s\": expected an id below %zu, found %zu",
                            FILE_NAME, added->token.text, lists->id_limit, added->id);
        }
        lists->added_count += added->token.size > 0; /* a token without a text cannot occur */
    }
    return SQF_OK;
}

/* The size of the table of ids and of all texts together. */
static sqf_status measure(const token_lists *lists, size_t *size, size_t *bytes, sqf_error *err)
{
    const char *text;
    json_t *id;
    *size = 0;
    *bytes = 0;
    json_object_foreach(lists->model, text, id)
    {
        const json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || (size_t)value >= lists->id_limit) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: model: vocab: \"%.64s\": expected an id below %zu, found %s",
                            FILE_NAME, text, lists->id_limit, json_is_integer(id) ? "a larger one" : "another value");
        }
        *size = *size > (size_t)value ? *size : (size_t)value + 1;
        *bytes += strlen(text) + 1;
    }
    for (size_t i = 0; i < lists->added_count; i++) {
        *size = *size > lists->added[i].id ? *size : lists->added[i].id + 1;
        *bytes += lists->added[i].token.size + 1;
    }
    return *size > 0 ? SQF_OK : sqf_fail(err, SQF_E_FORMAT, "%s: model: vocab: is empty", FILE_NAME);
}

static sqf_status add_added(sqf_vocabulary *vocabulary, const added_entry *entry, sqf_error *err)
{
    uint32_t id;
    const sqf_added_token *token = &entry->token;
    if (!sqf_vocabulary_find(vocabulary, token->text, token->size, &id)) {
        SQF_TRY(sqf_vocabulary_add(vocabulary, token->text, token->size, token->id, false, err));
    } else if (id != token->id || vocabulary->tokens[id].special) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: added_tokens: \"%.64s\" has two entries, with ids %u and %u", FILE_NAME,
                        token->text, (unsigned)id, (unsigned)token->id);
    }
    vocabulary->tokens[token->id].special = entry->special;
    return SQF_OK;
}

static sqf_status fill_vocabulary(sqf_vocabulary *vocabulary, const token_lists *lists, sqf_error *err)
{
    size_t size, bytes;
    const char *text;
    json_t *id;
    SQF_TRY(measure(lists, &size, &bytes, err));
    SQF_TRY(sqf_vocabulary_create(vocabulary, size, json_object_size(lists->model) + lists->added_count, bytes, err));
    json_object_foreach(lists->model, text, id)
    {
        SQF_TRY(sqf_vocabulary_add(vocabulary, text, strlen(text), (uint32_t)json_integer_value(id), true, err));
    }
    for (size_t i = 0; i < lists->added_count; i++) {
        SQF_TRY(add_added(vocabulary, &lists->added[i], err));
    }
    return SQF_OK;
}

/* The normalized form of an added token: what is searched, and what it decodes from. */
static sqf_status normalize_added(sqf_tokenizer *tokenizer, added_entry *entry, sqf_error *err)
{
    sqf_buffer text = {0};
    if (tokenizer->normalizers.count == 0) {
        return SQF_OK;
    }
    if (tokenizer->decoded && tokenizer->decoded[entry->id]) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: added_tokens: \"%.64s\" is there twice", FILE_NAME, entry->token.text);
    }
    sqf_status status = sqf_normalizers_text(&tokenizer->normalizers, entry->token.text, entry->token.size, &text, err);
    if (status == SQF_OK && !tokenizer->decoded) {
        status = SQF_ALLOC(&tokenizer->decoded, tokenizer->vocabulary.size, "added tokens", err);
    }
    if (status != SQF_OK) {
        free(text.data);
        return status;
    }
    tokenizer->decoded[entry->id] = text.data;
    entry->token.text = text.data;
    entry->token.size = text.size;
    return SQF_OK;
}

static sqf_status build_sets(sqf_tokenizer *tokenizer, token_lists *lists, sqf_added_token *scratch, sqf_error *err)
{
    for (int normalized = 0; normalized < 2; normalized++) {
        size_t count = 0;
        for (size_t i = 0; i < lists->added_count; i++) {
            added_entry *entry = &lists->added[i];
            if (entry->normalized != (normalized == 1)) {
                continue;
            }
            if (entry->normalized) {
                SQF_TRY(normalize_added(tokenizer, entry, err));
            }
            if (entry->token.size > 0) {
                scratch[count++] = entry->token;
            }
        }
        sqf_added_set **set = normalized ? &tokenizer->normalized_added : &tokenizer->raw_added;
        if (count > 0) {
            SQF_TRY(sqf_added_set_create(scratch, count, set, err));
        }
    }
    return SQF_OK;
}

/* Cutting a text short or filling it up is the caller's business; a file that asks for it is not obeyed silently. */
static sqf_status check_lengths(const json_t *root, sqf_error *err)
{
    const json_t *truncation = json_object_get(root, "truncation"), *padding = json_object_get(root, "padding");
    if (truncation && !json_is_null(truncation)) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: truncation: expected null, found settings that cut texts short",
                        FILE_NAME);
    }
    const json_t *strategy = json_object_get(padding, "strategy"),
                 *multiple = json_object_get(padding, "pad_to_multiple_of");
    const bool harmless = json_is_string(strategy) && strcmp(json_string_value(strategy), "BatchLongest") == 0 &&
                          (!multiple || json_is_null(multiple));
    if (padding && !json_is_null(padding) && !harmless) {
        return sqf_fail(err, SQF_E_SUPPORT,
                        "%s: padding: expected null or BatchLongest, found settings that lengthen texts", FILE_NAME);
    }
    return SQF_OK;
}

static sqf_status check_root(const json_t *root, sqf_error *err)
{
    static const char *const KNOWN[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    const char *version = "1.0";
    if (!json_is_object(root)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: expected an object", FILE_NAME);
    }
    SQF_TRY(sqf_settings_known(root, KNOWN, FILE_NAME, err));
    SQF_TRY(sqf_json_string_find(root, "version", FILE_NAME, &version, err));
    if (strcmp(version, "1.0") != 0) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: version: expected \"1.0\", found \"%.16s\"", FILE_NAME, version);
    }
    return check_lengths(root, err);
}

/* The model's object. Files of older versions leave its type out; a vocabulary with merges is a BPE. */
static sqf_status find_model(const json_t *root, json_t **model, sqf_error *err)
{
    static const char *const where = "tokenizer.json: model";
    const char *type = NULL;
    SQF_TRY(sqf_json_member(root, "model", JSON_OBJECT, FILE_NAME, model, err));
    SQF_TRY(sqf_json_string_find(*model, "type", where, &type, err));
    if (!type && json_is_array(json_object_get(*model, "merges"))) {
        return SQF_OK;
    }
    if (!type || strcmp(type, "BPE") != 0) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: type: expected \"BPE\", found \"%.32s\"", where, type ? type : "none");
    }
    return SQF_OK;
}

static sqf_status load_vocabulary(sqf_tokenizer *tokenizer, const json_t *root, const json_t *model, token_lists *lists,
                                  sqf_error *err)
{
    SQF_TRY(sqf_json_member(model, "vocab", JSON_OBJECT, "tokenizer.json: model", &lists->model, err));
    SQF_TRY(read_added_list(root, lists, err));
    SQF_TRY(fill_vocabulary(&tokenizer->vocabulary, lists, err));
    return sqf_bpe_load(model, &tokenizer->vocabulary, &tokenizer->bpe, err);
}

static sqf_status load_parts(sqf_tokenizer *tokenizer, const json_t *root, token_lists *lists, bool *prescribes,
                             sqf_error *err)
{
    json_t *model;
    sqf_added_token *scratch;
    SQF_TRY(check_root(root, err));
    SQF_TRY(find_model(root, &model, err));
    SQF_TRY(sqf_normalizers_load(json_object_get(root, "normalizer"), &tokenizer->normalizers, err));
    SQF_TRY(sqf_pretokenizers_load(json_object_get(root, "pre_tokenizer"), &tokenizer->pretokenizers, err));
    SQF_TRY(sqf_decoders_load(json_object_get(root, "decoder"), &tokenizer->decoders, err));
    SQF_TRY(load_vocabulary(tokenizer, root, model, lists, err));
    SQF_TRY(sqf_template_load(json_object_get(root, "post_processor"), tokenizer, prescribes, err));
    SQF_TRY(SQF_ALLOC(&scratch, lists->added_count, "added tokens", err));
    const sqf_status status = build_sets(tokenizer, lists, scratch, err);
    free(scratch);
    return status;
}

/* The file must be sound even where the post-processor has the say and its flags do not count. */
static sqf_status load_config(sqf_tokenizer *tokenizer, const char *bytes, size_t n, bool counts, sqf_error *err)
{
    json_t *config;
    sqf_status status = SQF_OK;
    SQF_TRY(sqf_json_parse(bytes, n, "tokenizer_config.json", &config, err));
    if (!json_is_object(config)) {
        status = sqf_fail(err, SQF_E_FORMAT, "tokenizer_config.json: expected an object");
    } else if (counts) {
        status = sqf_template_load_config(config, tokenizer, err);
    }
    json_decref(config);
    return status;
}

sqf_status sqf_tokenizer_parse(const char *json, size_t n, const char *config, size_t config_size, sqf_tokenizer **out,
                               sqf_error *err)
{
    json_t *root;
    sqf_tokenizer *tokenizer;
    token_lists lists = {.id_limit = n + FREE_IDS};
    bool prescribes = false;
    *out = NULL;
    SQF_TRY(sqf_json_parse(json, n, FILE_NAME, &root, err));
    sqf_status status = SQF_ALLOC(&tokenizer, 1, "tokenizer", err);
    if (status == SQF_OK) {
        status = load_parts(tokenizer, root, &lists, &prescribes, err);
    }
    if (status == SQF_OK && config) {
        status = load_config(tokenizer, config, config_size, !prescribes, err);
    }
    free(lists.added);
    json_decref(root);
    if (status != SQF_OK) {
        sqf_tokenizer_destroy(tokenizer);
        return status;
    }
    *out = tokenizer;
    return SQF_OK;
}

static sqf_status read_files(const char *path, const char *config_path, sqf_tokenizer **out, sqf_error *err)
{
    sqf_buffer json = {0}, config = {0};
    sqf_status status = sqf_file_read(path, FILE_LIMIT, &json, err);
    if (status == SQF_OK && sqf_path_exists(config_path)) {
        status = sqf_file_read(config_path, FILE_LIMIT, &config, err);
    }
    if (status == SQF_OK) {
        status = sqf_tokenizer_parse(json.data, json.size, config.data, config.size, out, err);
    }
    free(json.data);
    free(config.data);
    return status;
}

sqf_status sqf_tokenizer_load(const char *model_directory, sqf_tokenizer **out, sqf_error *err)
{
    char *path, *config_path;
    *out = NULL;
    SQF_TRY(sqf_path_join(&path, model_directory, FILE_NAME, err));
    sqf_status status = sqf_path_join(&config_path, model_directory, "tokenizer_config.json", err);
    if (status == SQF_OK) {
        status = read_files(path, config_path, out, err);
        free(config_path);
    }
    free(path);
    /* the parts of the tokenizer name the file, not the directory */
    return status == SQF_OK || status == SQF_E_IO ? status : sqf_fail_within(err, status, model_directory);
}

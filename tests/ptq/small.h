/* Small models with a tokenizer and a calibration text, for tests of the whole pipeline. */
#ifndef SQF_TESTS_PTQ_SMALL_H
#define SQF_TESTS_PTQ_SMALL_H

#include "check.h"
#include "model/tiny.h"

#include <sqf/quantize.h>

/* A model directory, a text beside it, and a scratch directory for outputs. */
typedef struct small {
    tiny model;
    char scratch[64], text[96], output[96];
    sqf_context *context;
} small;

/* GPT-2's table: the character that stands for a byte in a byte-level vocabulary. */
static inline unsigned small_character(unsigned byte)
{
    unsigned shifted = 0;
    for (unsigned b = 0; b <= byte; b++) {
        const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte && printable) {
            return b;
        }
        shifted += !printable;
    }
    return 256 + shifted - 1;
}

/* A tokenizer.json whose tokens are the 256 bytes. */
static inline void small_write_tokenizer(const tiny *model)
{
    sqf_error err = {0};
    json_t *vocabulary = json_object();
    for (unsigned byte = 0; byte < 256; byte++) {
        const unsigned c = small_character(byte);
        const char utf8[3] = {(char)(c < 128 ? c : 0xc0 | c >> 6), (char)(c < 128 ? 0 : 0x80 | (c & 63)), 0};
        json_object_set_new(vocabulary, utf8, json_integer(byte));
    }
    json_t *file = json_pack("{s:s, s:[], s:n, s:{s:s, s:b, s:b, s:b}, s:n, s:{s:s, s:b, s:b, s:b}, "
                             "s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:o, s:[]}}",
                             "version", "1.0", "added_tokens", "normalizer", "pre_tokenizer", "type", "ByteLevel",
                             "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "post_processor", "decoder",
                             "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "model",
                             "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                             "fuse_unk", 0, "byte_fallback", 0, "vocab", vocabulary, "merges");
    char *text;
    must(sqf_json_print(file, &text, &err), &err);
    tiny_write(model, "tokenizer.json", text);
    free(text);
    json_decref(file);
}

/* config.json of a family with sizes that are multiples of nothing convenient, grouped query heads. */
static inline json_t *small_config(const char *architecture, const char *type, bool tied)
{
    return json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:s, s:b}", "architectures",
                     architecture, "model_type", type, "vocab_size", 256, "hidden_size", 40, "intermediate_size", 76,
                     "num_hidden_layers", 3, "num_attention_heads", 4, "num_key_value_heads", 2, "head_dim", 10,
                     "max_position_embeddings", 64, "rms_norm_eps", 1e-5, "rope_theta", 10000.0, "hidden_act", "silu",
                     "tie_word_embeddings", tied);
}

/* n pseudo-random letters, spaces and line ends. */
static inline void small_write_text(const char *path, size_t n)
{
    sqf_error err = {0};
    sqf_random random = {.state = 5};
    char *text = calloc(n + 1, 1);
    for (size_t i = 0; i < n; i++) {
        text[i] = "etaoinshrdlu \n"[sqf_random_below(&random, 14)];
    }
    must(sqf_file_write(path, text, n, &err), &err);
    free(text);
}

static inline void small_context(small *s, unsigned threads)
{
    sqf_error err = {0};
    sqf_context_options options = sqf_context_options_default();
    options.threads = threads;
    sqf_context_destroy(s->context);
    must(sqf_context_create(&options, &s->context, &err), &err);
}

static inline void small_create_from(small *s, const json_t *config, sqf_dtype dtype)
{
    *s = (small){0};
    tiny_create(&s->model, config, dtype, 0);
    small_write_tokenizer(&s->model);
    make_scratch(s->scratch);
    snprintf(s->text, sizeof s->text, "%s/calib.txt", s->scratch);
    snprintf(s->output, sizeof s->output, "%s/out", s->scratch);
    small_write_text(s->text, 1500);
    small_context(s, 2);
}

static inline void small_create(small *s, const char *architecture, const char *type, bool tied, sqf_dtype dtype)
{
    json_t *config = small_config(architecture, type, tied);
    small_create_from(s, config, dtype);
    json_decref(config);
}

static inline void small_llama(small *s)
{
    small_create(s, "LlamaForCausalLM", "llama", false, SQF_DTYPE_BF16);
}

static inline void small_remove(small *s)
{
    tiny_remove(&s->model);
    remove_scratch(s->scratch);
    sqf_context_destroy(s->context);
}

static inline sqf_quantize_options small_options(const small *s)
{
    sqf_quantize_options options = sqf_quantize_options_default();
    options.calibration = s->text;
    options.samples = 6;
    options.length = 48;
    options.force = true;
    return options;
}

/* Quantizes into s->output by a recipe in YAML. */
static inline sqf_status small_quantize(const small *s, const char *yaml, const sqf_quantize_options *options,
                                        sqf_quantize_summary *summary, sqf_error *err)
{
    sqf_recipe *recipe;
    must(sqf_recipe_parse(yaml, strlen(yaml), "recipe", &recipe, err), err);
    const sqf_status status = sqf_quantize(s->context, s->model.path, s->output, recipe, options, summary, err);
    sqf_recipe_destroy(recipe);
    return status;
}

static inline void small_must_quantize(const small *s, const char *yaml)
{
    sqf_error err = {0};
    const sqf_quantize_options options = small_options(s);
    must(small_quantize(s, yaml, &options, NULL, &err), &err);
}

/* Logits of 40 tokens by the model in a directory, for free(). */
static inline float *small_logits(const small *s, const char *directory)
{
    sqf_error err = {0};
    sqf_model *model;
    sqf_session *session;
    uint32_t ids[40];
    float *logits = calloc(40 * 256, sizeof *logits);
    for (uint32_t i = 0; i < 40; i++) {
        ids[i] = i * 37 % 251;
    }
    must(sqf_model_open(s->context, directory, &model, &err), &err);
    must(sqf_session_create(model, 40, &session, &err), &err);
    must(sqf_session_forward(session, ids, 40, &err), &err);
    must(sqf_session_logits(session, 0, 40, logits, &err), &err);
    sqf_session_destroy(session);
    sqf_model_destroy(model);
    return logits;
}

/* ||a - b|| / ||b|| of the logits of s->output and of the original. A NaN is a large error. */
static inline double small_error(const small *s)
{
    float *quantized = small_logits(s, s->output), *original = small_logits(s, s->model.path);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < 40 * 256; i++) {
        difference += pow((double)quantized[i] - (double)original[i], 2);
        norm += pow((double)original[i], 2);
    }
    free(quantized);
    free(original);
    return difference <= 1e30 ? sqrt(difference / norm) : 1e30;
}

#endif

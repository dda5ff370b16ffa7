/* Builds the tiny models of the damage tests. */
#include "victim.h"

#include <sqf/quantize.h>

#include "model/tiny.h"

enum { BYTES = 256, SPECIALS = 2, POSITIONS = 64 };

const char victim_text[] =
    "the model reads the text and the text reads the model: in the end there are tokens, and then there are none. "
    "There is 1 house on the hill, 22 houses in the town and 333 in the city; \xc3\xa9t\xc3\xa9 and "
    "\xe6\x97\xa5\xe6\x9c\xac.\n"
    "the hen and the hare then met in the heather, and the other then went another way to the end of the land.\n";

const char victim_recipe[] = "scheme: w4a-sq6\n"
                             "mask: l2\n"
                             "smooth: 0.5\n"
                             "lm_head: w-sq6-a-sq6\n"
                             "embedding: w8\n"
                             "ignore:\n"
                             "  - \"re:.*\\\\.o_proj\"\n"
                             "overrides:\n"
                             "  - match: \".*down_proj\"\n"
                             "    scheme: W8A8\n"
                             "    clip: mse\n";

static const char *const merges[] = {"t h",   "th e", "e n", "a n", "an d", "Ġ the",
                                     "Ġ and", "i n",  "r e", "o n", "e r",  "Ġ t"};
enum { MERGES = sizeof merges / sizeof *merges, VOCABULARY = BYTES + MERGES + SPECIALS };

static const char tokenizer_text[] =
    "{\"version\":\"1.0\",\"added_tokens\":["
    "{\"id\":268,\"content\":\"<begin>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
    "\"special\":true},"
    "{\"id\":269,\"content\":\"<end>\",\"single_word\":false,\"lstrip\":true,\"rstrip\":false,\"normalized\":true,"
    "\"special\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"``\"},\"content\":\"'\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}| ?\\\\p{L}+|\\\\s+(?!\\\\S)|[^\\\\p{L}\\\\p{N}]+\"},"
    "\"behavior\":\"Isolated\",\"invert\":false},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<begin>\",\"type_id\":"
    "0}},"
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
    "\"special_tokens\":{\"<begin>\":{\"id\":\"<begin>\",\"ids\":[268],\"tokens\":[\"<begin>\"]}}},"
    "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}}";

static const char config_text[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":32,\"intermediate_size\":40,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":8,\"vocab_size\":270,"
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"hidden_act\":\"silu\","
    "\"tie_word_embeddings\":true,\"bos_token_id\":268,\"eos_token_id\":269}";

/* The character that stands for a byte in a byte-level vocabulary, as UTF-8. */
static void byte_character(unsigned byte, char text[4])
{
    static const unsigned ranges[][2] = {{33, 126}, {161, 172}, {174, 255}};
    unsigned code = 256;
    for (unsigned b = 0; b <= byte; b++) {
        bool printable = false;
        for (size_t r = 0; r < 3; r++) {
            printable = printable || (b >= ranges[r][0] && b <= ranges[r][1]);
        }
        if (b == byte) {
            code = printable ? b : code;
        } else {
            code += printable ? 0 : 1;
        }
    }
    if (code < 128) {
        snprintf(text, 4, "%c", (int)code);
    } else {
        snprintf(text, 4, "%c%c", (int)(0xc0 | code >> 6), (int)(0x80 | (code & 63)));
    }
}

static json_t *vocabulary(void)
{
    json_t *object = json_object();
    char text[32];
    for (unsigned b = 0; b < BYTES; b++) {
        byte_character(b, text);
        json_object_set_new(object, text, json_integer(b));
    }
    for (int m = 0; m < MERGES; m++) {
        const char *space = strchr(merges[m], ' ');
        snprintf(text, sizeof text, "%.*s%s", (int)(space - merges[m]), merges[m], space + 1);
        json_object_set_new(object, text, json_integer(BYTES + m));
    }
    return object;
}

static json_t *tokenizer_json(void)
{
    json_t *root = json_loads(tokenizer_text, 0, NULL), *list = json_array();
    for (int m = 0; m < MERGES; m++) {
        json_array_append_new(list, json_string(merges[m]));
    }
    json_object_set_new(root, "model",
                        json_pack("{s:s,s:o,s:o}", "type", "BPE", "vocab", vocabulary(), "merges", list));
    return root;
}

static void write_tokenizer(const tiny *t)
{
    sqf_error err = {0};
    char *text;
    json_t *json = tokenizer_json();
    assert_non_null(json);
    must(sqf_json_print(json, &text, &err), &err);
    tiny_write(t, "tokenizer.json", text);
    tiny_write(t, "tokenizer_config.json", "{\"add_bos_token\": true, \"bos_token\": \"<begin>\"}\n");
    tiny_write(t, "generation_config.json",
               "{\"eos_token_id\": [269], \"do_sample\": true, \"temperature\": 0.7, "
               "\"top_k\": 20, \"top_p\": 0.9, \"repetition_penalty\": 1.1}\n");
    free(text);
    json_decref(json);
}

static void quantize(sqf_context *context, const victim *v, size_t kind, const char *scheme_name, bool calibrated,
                     size_t shard_bytes)
{
    sqf_error err = {0};
    sqf_scheme scheme;
    sqf_recipe *recipe;
    must(sqf_scheme_parse(scheme_name, &scheme, &err), &err);
    const sqf_module_recipe base = sqf_module_recipe_default(&scheme);
    must(sqf_recipe_create(&base, &recipe, &err), &err);
    sqf_quantize_options options = sqf_quantize_options_default();
    options.calibration = calibrated ? v->text_path : NULL;
    options.samples = 4;
    options.length = 16;
    options.shard_bytes = shard_bytes;
    must(sqf_quantize(context, v->path[0], v->path[kind], recipe, &options, NULL, &err), &err);
    sqf_recipe_destroy(recipe);
}

void victim_create(victim *v)
{
    sqf_error err = {0};
    sqf_context *context;
    tiny t;
    json_t *config;
    _Static_assert(VOCABULARY == 270, "config_text says the same number");
    must(sqf_json_parse(config_text, sizeof config_text - 1, "config", &config, &err), &err);
    tiny_create(&t, config, SQF_DTYPE_F32, 0);
    json_decref(config);
    write_tokenizer(&t);
    tiny_write(&t, "text.txt", victim_text);
    for (int kind = 0; kind < VICTIM_KINDS; kind++) {
        snprintf(v->path[kind], VICTIM_PATH, kind == 0 ? "%s" : "%s-%d", t.path, kind);
    }
    snprintf(v->text_path, VICTIM_PATH, "%s/text.txt", t.path);
    must(sqf_context_create(NULL, &context, &err), &err);
    quantize(context, v, 1, "W(SQ5)A8,bank=16,group=16", false, 0);
    quantize(context, v, 2, "W4A(SQ6),group=16;bank=8", true, 0);
    quantize(context, v, 3, "W(SQ6)A8,bank=16,group=16,scales=tied,layout=bitmask", false, 8192);
    sqf_context_destroy(context);
}

void victim_remove(const victim *v)
{
    for (int kind = 0; kind < VICTIM_KINDS; kind++) {
        char command[VICTIM_PATH + 16];
        snprintf(command, sizeof command, "rm -rf '%s'", v->path[kind]);
        assert_int_equal(system(command), 0);
    }
}

/* The table of damaged directories. What each one must be refused for is in its message. */
#include "damage.h"

#define ORIGINAL  BASE_ORIGINAL, "model.safetensors"
#define WEIGHTS   BASE_WEIGHTS, "model.safetensors"
#define ACTIVE    BASE_ACTIVATIONS, "model.safetensors"
#define TIED      BASE_TIED, "model-00001-of-00003.safetensors"
#define INDEX     BASE_TIED, "model.safetensors.index.json"
#define CONFIG    BASE_ORIGINAL, "config.json"
#define SCHEME    BASE_WEIGHTS, "config.json"
#define TOKENIZER BASE_ORIGINAL, "tokenizer.json"
#define SETTINGS  BASE_ORIGINAL, "tokenizer_config.json"
#define GENERATE  BASE_ORIGINAL, "generation_config.json"

#define MODEL  "erilqcb" /* every command that opens a checkpoint */
#define TENSOR "eriqcb"  /* contents are not read by a plain inspect */
#define CODES  "erib"    /* contents of a quantized model; comparing it with itself would do as well */
#define TOKENS "erit"    /* every command that needs the tokenizer */
#define RUNS   "erib"    /* every command that generates or scores */

#define EMBED   "\"model.embed_tokens.weight\":{\"dtype\":\"BF16\",\"shape\":[2048,256],\"data_offsets\":[0,1048576]}"
#define OFFSETS "\"data_offsets\":[0,1048576]"
#define SHAPE   "\"shape\":[2048,256]"
#define NORM    "model.layers.0.input_layernorm.weight"
#define QUERY   "model.layers.0.self_attn.q_proj"
#define DOWN    "model.layers.0.mlp.down_proj"

#define STEPS_4(inner) STEP(STEP(STEP(STEP(inner))))
#define STEP(inner)    "{\"type\":\"Sequence\",\"normalizers\":[" inner "]}"
#define NESTED_STEPS   STEPS_4(STEPS_4(STEPS_4(STEPS_4(STEPS_4("{\"type\":\"NFC\"}")))))

#define ADDED                                                                                                          \
    "{\"id\":2048,\"content\":\"zzz\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":true,"    \
    "\"special\":false}"

/* Edits of one text inside a file. */
#define EDIT(name, where, from, to, commands, message)                                                                 \
    {                                                                                                                  \
        name, where, ACTION_REPLACE, from, to, 0, commands, message                                                    \
    }
#define HEAD(name, where, from, to, commands, message)                                                                 \
    {                                                                                                                  \
        name, where, ACTION_HEADER_EDIT, from, to, 0, commands, message                                                \
    }
#define WHOLE(name, where, text, commands, message)                                                                    \
    {                                                                                                                  \
        name, where, ACTION_CONTENT, text, NULL, 0, commands, message                                                  \
    }
#define PLAIN(name, where, action, number, commands, message)                                                          \
    {                                                                                                                  \
        name, where, action, NULL, NULL, number, commands, message                                                     \
    }
/* Bytes of a tensor, its hash kept, and with the hashes forgotten. */
#define HASHED(name, where, tensor, at, hex, message)                                                                  \
    {                                                                                                                  \
        name, where, ACTION_DATA, tensor, hex, at, CODES, message                                                      \
    }
#define CONTENT(name, where, tensor, at, hex, message)                                                                 \
    {                                                                                                                  \
        name, where, ACTION_DATA_UNHASHED, tensor, hex, at, CODES, message                                             \
    }

const damage_case damage_cases[] = {
    /* ---- safetensors: the file itself ---- */
    PLAIN("weights-missing", ORIGINAL, ACTION_REMOVE, 0, MODEL, "No such file"),
    PLAIN("weights-empty", ORIGINAL, ACTION_EMPTY, 0, MODEL, "at least 8 bytes, found 0"),
    PLAIN("weights-directory", ORIGINAL, ACTION_DIRECTORY, 0, MODEL, "found a directory"),
    PLAIN("weights-pipe", ORIGINAL, ACTION_PIPE, 0, MODEL, "expected a file"),
    PLAIN("weights-dangling", ORIGINAL, ACTION_DANGLING, 0, MODEL, "No such file"),
    PLAIN("weights-loop", ORIGINAL, ACTION_LOOP, 0, MODEL, "symbolic links"),
    PLAIN("weights-unreadable", ORIGINAL, ACTION_UNREADABLE, 0, MODEL, "Permission denied"),
    PLAIN("cut-1", ORIGINAL, ACTION_CUT, 1, MODEL, "at least 8 bytes"),
    PLAIN("cut-7", ORIGINAL, ACTION_CUT, 7, MODEL, "at least 8 bytes"),
    PLAIN("cut-8", ORIGINAL, ACTION_CUT, 8, MODEL, "header length"),
    PLAIN("cut-9", ORIGINAL, ACTION_CUT, 9, MODEL, "header length"),
    PLAIN("cut-in-header", ORIGINAL, ACTION_CUT, 2000, MODEL, "header length"),
    PLAIN("cut-in-data", ORIGINAL, ACTION_CUT, 2000000, MODEL, "data_offsets"),
    PLAIN("cut-last-byte", ORIGINAL, ACTION_CUT, -1, MODEL, "data_offsets"),
    PLAIN("one-byte-more", ORIGINAL, ACTION_APPEND, 1, MODEL, "bytes of data"),
    PLAIN("page-more", ORIGINAL, ACTION_APPEND, 4096, MODEL, "bytes of data"),
    WHOLE("weights-are-text", ORIGINAL, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7348736\n",
          MODEL, "header length"),

    /* ---- safetensors: the length field ---- */
    PLAIN("length-0", ORIGINAL, ACTION_LENGTH, 0, MODEL, "begins with {"),
    PLAIN("length-1", ORIGINAL, ACTION_LENGTH, 1, MODEL, "begins with {"),
    PLAIN("length-2", ORIGINAL, ACTION_LENGTH, 2, MODEL, "not valid JSON"),
    PLAIN("length-300", ORIGINAL, ACTION_LENGTH, 300, MODEL, "not valid JSON"),
    PLAIN("length-100-MB", ORIGINAL, ACTION_LENGTH, 100000001, MODEL, "header length"),
    PLAIN("length-file", ORIGINAL, ACTION_LENGTH, 7348736, MODEL, "header length"),
    PLAIN("length-file-and-one", ORIGINAL, ACTION_LENGTH, 7348737, MODEL, "header length"),
    PLAIN("length-2-32", ORIGINAL, ACTION_LENGTH, 1LL << 32, MODEL, "header length"),
    PLAIN("length-2-62", ORIGINAL, ACTION_LENGTH, 1LL << 62, MODEL, "header length"),
    PLAIN("length-2-63", ORIGINAL, ACTION_LENGTH, (-0x7fffffffffffffffLL - 1), MODEL, "header length"),
    PLAIN("length-2-64", ORIGINAL, ACTION_LENGTH, -1, MODEL, "header length"),
    PLAIN("length-2-64-8", ORIGINAL, ACTION_LENGTH, -8, MODEL, "header length"),

    /* ---- safetensors: the header's text ---- */
    HEAD("header-last-brace", ORIGINAL, "]}}", "]}", MODEL, "not valid JSON"),
    {"header-cut-2", ORIGINAL, ACTION_HEADER_CUT, NULL, NULL, 200, MODEL, "not valid JSON"},
    {"header-cut-half", ORIGINAL, ACTION_HEADER_CUT, NULL, NULL, 2000, MODEL, "not valid JSON"},
    {"header-empty-object", ORIGINAL, ACTION_HEADER, "{}", NULL, 0, MODEL, "expected 0 bytes of data"},
    {"header-array", ORIGINAL, ACTION_HEADER, "[]", NULL, 0, MODEL, "begins with {"},
    {"header-number", ORIGINAL, ACTION_HEADER, "12345678", NULL, 0, MODEL, "begins with {"},
    {"header-zeros-behind", ORIGINAL, ACTION_HEADER, "{} x", NULL, 0, MODEL, "not valid JSON"},
    {"header-metadata-array", ORIGINAL, ACTION_HEADER, "{\"__metadata__\":[]}", NULL, 0, MODEL, "__metadata__"},
    {"header-metadata-number", ORIGINAL, ACTION_HEADER, "{\"__metadata__\":{\"a\":1}}", NULL, 0, MODEL, "__metadata__"},
    {"header-nested-2000", ORIGINAL, ACTION_HEADER_NEST, "[2048,256]", NULL, 2000, MODEL, "shape"},
    {"header-nested-200000", ORIGINAL, ACTION_HEADER_NEST, "[2048,256]", NULL, 200000, MODEL, "parsing depth"},
    HEAD("header-not-utf8", ORIGINAL, "embed_tokens", "embed_\xff\xfe", MODEL, "not valid JSON"),
    HEAD("header-overlong-utf8", ORIGINAL, "embed_tokens", "embed_\xc0\x80", MODEL, "not valid JSON"),
    HEAD("header-escaped-nul", ORIGINAL, "embed_tokens", "embed\\u0000tokens", MODEL, "model.safetensors"),
    HEAD("header-control-name", ORIGINAL, "model.embed_tokens", "model\\nsqf: fine\\u001b[2J", MODEL,
         "control character"),
    HEAD("header-empty-name", ORIGINAL, "model.embed_tokens.weight", "", MODEL, "name"),
    HEAD("header-duplicate", ORIGINAL, EMBED, EMBED "," EMBED, MODEL, "duplicate"),
    HEAD("header-duplicate-metadata", ORIGINAL, "\"__metadata__\"", "\"__metadata__\":{},\"__metadata__\"", MODEL,
         "duplicate"),
    HEAD("header-member-more", ORIGINAL, OFFSETS, OFFSETS ",\"stride\":[1]", MODEL, "embed_tokens"),
    HEAD("header-hash-of-nothing", ORIGINAL, "\"format\":\"pt\"", "\"hash.nobody\":\"xxh3-128:0\"", MODEL,
         "no such tensor"),
    HEAD("header-hash-foreign", ORIGINAL, "\"format\":\"pt\"", "\"hash.model.embed_tokens.weight\":\"crc32:12345678\"",
         TENSOR, "embed_tokens"),
    HEAD("header-hash-short", ORIGINAL, "\"format\":\"pt\"", "\"hash.model.embed_tokens.weight\":\"xxh3-128:\"", TENSOR,
         "content hash"),

    /* ---- safetensors: offsets ---- */
    HEAD("offsets-overlap", ORIGINAL, "[1049088,1180160]", "[1049086,1180158]", MODEL, "q_proj"),
    HEAD("offsets-same", ORIGINAL, "[1245696,1311232]", "[1180160,1245696]", MODEL, "overlaps"),
    HEAD("offsets-hole", ORIGINAL, OFFSETS, "\"data_offsets\":[2,1048578]", MODEL, "hole"),
    HEAD("offsets-reversed", ORIGINAL, OFFSETS, "\"data_offsets\":[1048576,0]", MODEL, "ascending"),
    HEAD("offsets-beyond", ORIGINAL, OFFSETS, "\"data_offsets\":[7340032,8388608]", MODEL, "data_offsets"),
    HEAD("offsets-negative", ORIGINAL, OFFSETS, "\"data_offsets\":[-1048576,0]", MODEL, "two whole numbers"),
    HEAD("offsets-real", ORIGINAL, OFFSETS, "\"data_offsets\":[0,1048576.0]", MODEL, "two whole numbers"),
    HEAD("offsets-exponent", ORIGINAL, OFFSETS, "\"data_offsets\":[0,1e6]", MODEL, "two whole numbers"),
    HEAD("offsets-2-63", ORIGINAL, OFFSETS, "\"data_offsets\":[0,9223372036854775807]", MODEL, "data_offsets"),
    HEAD("offsets-2-64", ORIGINAL, OFFSETS, "\"data_offsets\":[0,18446744073709551616]", MODEL, "model.safetensors"),
    HEAD("offsets-text", ORIGINAL, OFFSETS, "\"data_offsets\":[\"0\",\"1048576\"]", MODEL, "two whole numbers"),
    HEAD("offsets-one", ORIGINAL, OFFSETS, "\"data_offsets\":[1048576]", MODEL, "two whole numbers"),
    HEAD("offsets-three", ORIGINAL, OFFSETS, "\"data_offsets\":[0,1048576,0]", MODEL, "two whole numbers"),
    HEAD("offsets-missing", ORIGINAL, "," OFFSETS, "", MODEL, "embed_tokens"),

    /* ---- safetensors: shapes and dtypes ---- */
    HEAD("shape-overflow", ORIGINAL, SHAPE, "\"shape\":[4294967296,4294967296]", MODEL, "shape"),
    HEAD("shape-overflow-to-right", ORIGINAL, SHAPE, "\"shape\":[9223372036854775807,2]", MODEL, "shape"),
    HEAD("shape-overflow-by-dtype", ORIGINAL, SHAPE, "\"shape\":[9223372036854775807]", MODEL,
         "model.embed_tokens.weight"),
    HEAD("shape-zero-and-huge", ORIGINAL, SHAPE, "\"shape\":[0,9223372036854775807,9223372036854775807]", MODEL,
         "embed_tokens"),
    HEAD("shape-negative", ORIGINAL, SHAPE, "\"shape\":[-2048,-256]", MODEL, "not negative"),
    HEAD("shape-real", ORIGINAL, SHAPE, "\"shape\":[2048.0,256]", MODEL, "whole numbers"),
    HEAD("shape-20-dimensions", ORIGINAL, SHAPE, "\"shape\":[2048,256,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", MODEL,
         "shape"),
    HEAD("shape-is-null", ORIGINAL, SHAPE, "\"shape\":null", MODEL, "shape"),
    HEAD("shape-transposed", ORIGINAL, SHAPE, "\"shape\":[256,2048]", MODEL, "expected [2048, 256], found [256, 2048]"),
    HEAD("shape-flat", ORIGINAL, SHAPE, "\"shape\":[524288]", MODEL, "found [524288]"),
    HEAD("shape-three", ORIGINAL, SHAPE, "\"shape\":[2048,256,1]", MODEL, "[2048, 256, 1]"),
    HEAD("dtype-unknown", ORIGINAL, "\"dtype\":\"BF16\"", "\"dtype\":\"BF17\"", MODEL, "BF17"),
    HEAD("dtype-lower-case", ORIGINAL, "\"dtype\":\"BF16\"", "\"dtype\":\"bf16\"", MODEL, "dtype"),
    HEAD("dtype-number", ORIGINAL, "\"dtype\":\"BF16\"", "\"dtype\":16", MODEL, "dtype"),
    HEAD("dtype-integer", ORIGINAL, "\"dtype\":\"BF16\"", "\"dtype\":\"I16\"", MODEL, "embed_tokens"),
    HEAD("dtype-wider", ORIGINAL, "\"dtype\":\"BF16\"", "\"dtype\":\"F32\"", MODEL, "data_offsets"),
    HEAD("tensor-renamed", ORIGINAL, "model.norm.weight", "model.mron.weight", MODEL, "model.norm.weight"),
    HEAD("tensor-of-layer-4", ORIGINAL, "layers.3.mlp.down_proj", "layers.4.mlp.down_proj", MODEL, "mlp.down_proj"),
    HEAD("tensor-more", WEIGHTS, "\"" QUERY ".sq_low\":{",
         "\"" QUERY ".sq_shift\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"" QUERY ".sq_low\":{", MODEL,
         "sq_shift"),
    HEAD("bias-unasked", ORIGINAL, EMBED,
         EMBED ",\"" QUERY ".bias\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", MODEL, "q_proj.bias"),

    /* ---- contents of dense tensors ---- */
    {"nan-in-embedding", ORIGINAL, ACTION_DATA, "model.embed_tokens.weight", "c07f", 514, TENSOR, "model.safetensors"},
    {"nan-in-weight", ORIGINAL, ACTION_DATA, QUERY ".weight", "c07f", 1026, TENSOR, "row 2 column 1"},
    {"infinity-in-weight", ORIGINAL, ACTION_DATA, "model.layers.3.mlp.down_proj.weight", "807f", 0, TENSOR, "inf"},
    {"minus-infinity-in-norm", ORIGINAL, ACTION_DATA, NORM, "80ff", 0, TENSOR, "input_layernorm"},
    {"huge-norm", ORIGINAL, ACTION_DATA, "model.norm.weight", "7f7f7f7f7f7f7f7f", 0, "er", "-inf"},

    /* ---- contents of quantized tensors ---- */
    HASHED("flip-low", WEIGHTS, QUERY ".sq_low", 100, "5a", "content hash"),
    HASHED("flip-high", WEIGHTS, DOWN ".sq_high", 0, "80", "content hash"),
    HASHED("flip-scale", WEIGHTS, DOWN ".sq_scale_high", 1, "7c", "content hash"),
    HASHED("flip-channels", ACTIVE, DOWN ".sq_channels", 0, "ffffffff", "content hash"),
    HASHED("flip-mask", TIED, QUERY ".sq_mask", 0, "00", "content hash"),
    HASHED("flip-norm", WEIGHTS, NORM, 0, "00", "content hash"),
    CONTENT("no-sentinel", WEIGHTS, QUERY ".sq_low", 0,
            "0000000000000000000000000000000000000000000000000000000000000000", "expected 16"),
    CONTENT("all-sentinels", WEIGHTS, QUERY ".sq_low", 0,
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "64 high elements, expected 16"),
    CONTENT("code-minus-128", WEIGHTS, QUERY ".sq_high", 3, "80", "is not a value of int8"),
    CONTENT("scale-nan", WEIGHTS, QUERY ".sq_scale_low", 0, "007e", "nan"),
    CONTENT("scale-infinite", WEIGHTS, QUERY ".sq_scale_high", 0, "007c", "inf"),
    CONTENT("scale-negative", WEIGHTS, QUERY ".sq_scale_low", 2, "00b8", "sq_scale_low"),
    CONTENT("scale-minus-zero", WEIGHTS, QUERY ".sq_scale_low", 2, "0080", "sq_scale_low"),
    CONTENT("low-code-minus-8", ACTIVE, QUERY ".sq_low", 0, "ff", "is not a value of int4"),
    CONTENT("channel-beyond", ACTIVE, DOWN ".sq_channels", 0, "00030000", "sq_channels"),
    CONTENT("channel-negative", ACTIVE, DOWN ".sq_channels", 0, "ffffffff", "sq_channels"),
    CONTENT("channel-twice", ACTIVE, DOWN ".sq_channels", 4, "00000000", "sq_channels"),
    CONTENT("channels-of-one-bank", ACTIVE, QUERY ".sq_channels", 0,
            "0000000001000000020000000300000004000000050000000600000007000000"
            "08000000090000000a0000000b0000000c0000000d0000000e0000000f000000",
            "sq_channels"),
    CONTENT("act-scale-nan", ACTIVE, QUERY ".sq_act_scale", 0, "0000c07f", "sq_act_scale"),
    CONTENT("act-scale-infinite", ACTIVE, QUERY ".sq_act_scale", 4, "0000807f", "sq_act_scale"),
    CONTENT("act-scale-negative", ACTIVE, QUERY ".sq_act_scale", 0, "000080bf", "sq_act_scale"),
    CONTENT("mask-empty", TIED, QUERY ".sq_mask", 0, "0000000000000000", "0 high elements"),
    CONTENT("mask-full", TIED, QUERY ".sq_mask", 8, "ffffffffffffffff", "64 high elements"),
    CONTENT("shift-9", TIED, QUERY ".sq_shift", 0, "09", "shift 9"),
    CONTENT("shift-255", TIED, QUERY ".sq_shift", 1, "ff", "shift 255"),
    HEAD("quantized-tensor-missing", WEIGHTS, QUERY ".sq_high\":{", QUERY ".sq_hihg\":{", MODEL, "model.safetensors"),
    HEAD("quantized-dtype-wrong", WEIGHTS, QUERY ".sq_low\":{\"dtype\":\"U8\"", QUERY ".sq_low\":{\"dtype\":\"I8\"",
         MODEL, "sq_low"),
    HEAD("quantized-shape-wrong", WEIGHTS, QUERY ".sq_low\":{\"dtype\":\"U8\",\"shape\":[256,128]",
         QUERY ".sq_low\":{\"dtype\":\"U8\",\"shape\":[128,256]", MODEL, "sq_low"),

    /* ---- the index of shards ---- */
    PLAIN("index-empty", INDEX, ACTION_EMPTY, 0, MODEL, "not valid JSON"),
    PLAIN("index-missing", INDEX, ACTION_REMOVE, 0, MODEL, "model.safetensors"),
    PLAIN("index-pipe", INDEX, ACTION_PIPE, 0, MODEL, "expected a file"),
    PLAIN("shard-missing", TIED, ACTION_REMOVE, 0, MODEL, "model-00001-of-00003.safetensors"),
    PLAIN("shard-directory", TIED, ACTION_DIRECTORY, 0, MODEL, "found a directory"),
    PLAIN("shard-cut", TIED, ACTION_CUT, -1, MODEL, "data_offsets"),
    WHOLE("index-array", INDEX, "[]", MODEL, "JSON object"),
    WHOLE("index-no-map", INDEX, "{\"metadata\":{\"total_size\":3953152}}", MODEL, "weight_map"),
    WHOLE("index-empty-map", INDEX, "{\"weight_map\":{}}", MODEL, "sqf: "),
    EDIT("index-parent", INDEX, "\"model-00001-of-00003.safetensors\"", "\"../model-00001-of-00003.safetensors\"",
         MODEL, "weight_map"),
    EDIT("index-absolute", INDEX, "\"model-00001-of-00003.safetensors\"", "\"/etc/passwd\"", MODEL, "weight_map"),
    EDIT("index-itself", INDEX, "\"model-00001-of-00003.safetensors\"", "\"model.safetensors.index.json\"", MODEL,
         "weight_map"),
    EDIT("index-other-shard", INDEX, "\"model-00001-of-00003.safetensors\"", "\"model-00002-of-00003.safetensors\"",
         MODEL, "in another file"),
    EDIT("index-no-such-shard", INDEX, "\"model-00001-of-00003.safetensors\"", "\"model-00004-of-00003.safetensors\"",
         MODEL, "model-00004-of-00003.safetensors"),
    EDIT("index-tensor-renamed", INDEX, "\"model.embed_tokens.weight\"", "\"model.embed_tokens.wight\"", MODEL,
         "nowhere"),
    EDIT("index-number", INDEX, "\"model-00001-of-00003.safetensors\"", "1", MODEL, "weight_map"),
    {"index-nested", INDEX, ACTION_NEST, "\"model-00001-of-00003.safetensors\"", NULL, 200000, MODEL, "parsing depth"},

    /* ---- config.json ---- */
    PLAIN("config-missing", CONFIG, ACTION_REMOVE, 0, MODEL, "config.json"),
    PLAIN("config-empty", CONFIG, ACTION_EMPTY, 0, MODEL, "config.json"),
    PLAIN("config-directory", CONFIG, ACTION_DIRECTORY, 0, MODEL, "found a directory"),
    PLAIN("config-pipe", CONFIG, ACTION_PIPE, 0, MODEL, "expected a file"),
    PLAIN("config-dangling", CONFIG, ACTION_DANGLING, 0, MODEL, "No such file"),
    PLAIN("config-cut", CONFIG, ACTION_CUT, 300, MODEL, "not valid JSON"),
    {"config-nested-10-MB", CONFIG, ACTION_BYTES, "[", NULL, 10000000, MODEL, "config.json"},
    {"config-nested-objects", CONFIG, ACTION_BYTES, "{\"a\":", NULL, 100000, MODEL, "config.json"},
    WHOLE("config-array", CONFIG, "[1, 2, 3]", MODEL, "JSON object"),
    WHOLE("config-null", CONFIG, "null", MODEL, "config.json"),
    WHOLE("config-text", CONFIG, "hidden_size: 256\n", MODEL, "not valid JSON"),
    WHOLE("config-no-architecture", CONFIG, "{}", MODEL, "model_type"),
    WHOLE("config-two-documents", CONFIG, "{} {}", MODEL, "not valid JSON"),
    EDIT("config-nan", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": NaN", MODEL, "not valid JSON"),
    EDIT("config-infinity", CONFIG, "\"rope_theta\": 10000.0", "\"rope_theta\": 1e999", MODEL, "config.json"),
    EDIT("config-duplicate", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": 256, \"hidden_size\": 256", MODEL,
         "duplicate"),
    EDIT("hidden-1e30", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": 1e30", MODEL, "hidden_size"),
    EDIT("hidden-2-63", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": 9223372036854775807", MODEL, "hidden_size"),
    EDIT("hidden-2-64", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": 18446744073709551616", MODEL, "config.json"),
    EDIT("hidden-minus-1", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": -1", MODEL, "hidden_size"),
    EDIT("hidden-0", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": 0", MODEL, "hidden_size"),
    EDIT("hidden-real", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": 3.5", MODEL, "hidden_size"),
    EDIT("hidden-text", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": \"256\"", MODEL, "hidden_size"),
    EDIT("hidden-null", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": null", MODEL, "hidden_size"),
    EDIT("hidden-large", CONFIG, "\"hidden_size\": 256", "\"hidden_size\": 4194304", MODEL, "embed_tokens"),
    EDIT("intermediate-wrong", CONFIG, "\"intermediate_size\": 768", "\"intermediate_size\": 767", MODEL, "mlp"),
    EDIT("layers-0", CONFIG, "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 0", MODEL, "num_hidden_layers"),
    EDIT("layers-5", CONFIG, "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5", MODEL, "layers.4"),
    EDIT("layers-3", CONFIG, "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3", MODEL, "layers.3"),
    EDIT("layers-1e9", CONFIG, "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 1000000000", MODEL,
         "num_hidden_layers"),
    EDIT("heads-0", CONFIG, "\"num_attention_heads\": 4", "\"num_attention_heads\": 0", MODEL, "num_attention_heads"),
    EDIT("heads-3", CONFIG, "\"num_attention_heads\": 4", "\"num_attention_heads\": 3", MODEL, "num_key_value_heads"),
    EDIT("kv-heads-3", CONFIG, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", MODEL,
         "num_key_value_heads"),
    EDIT("kv-heads-8", CONFIG, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 8", MODEL,
         "num_key_value_heads"),
    EDIT("head-dim-odd", CONFIG, "\"head_dim\": 64", "\"head_dim\": 63", MODEL, "head_dim"),
    EDIT("head-dim-huge", CONFIG, "\"head_dim\": 64", "\"head_dim\": 4194304", MODEL, "head_dim"),
    EDIT("vocabulary-small", CONFIG, "\"vocab_size\": 2048", "\"vocab_size\": 1", MODEL, "expected [1, 256]"),
    EDIT("vocabulary-huge", CONFIG, "\"vocab_size\": 2048", "\"vocab_size\": 16777216", MODEL, "embed_tokens"),
    EDIT("positions-0", CONFIG, "\"max_position_embeddings\": 2048", "\"max_position_embeddings\": 0", MODEL,
         "max_position_embeddings"),
    EDIT("positions-1e18", CONFIG, "\"max_position_embeddings\": 2048",
         "\"max_position_embeddings\": 1000000000000000000", MODEL, "max_position_embeddings"),
    EDIT("epsilon-minus", CONFIG, "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1e-05", MODEL, "rms_norm_eps"),
    EDIT("theta-0", CONFIG, "\"rope_theta\": 10000.0", "\"rope_theta\": 0", MODEL, "rope_theta"),
    EDIT("architecture-unknown", CONFIG, "\"LlamaForCausalLM\"", "\"MambaForCausalLM\"", MODEL, "MambaForCausalLM"),
    EDIT("architecture-number", CONFIG, "\"LlamaForCausalLM\"", "17", MODEL, "architectures"),
    EDIT("architecture-two", CONFIG, "\"LlamaForCausalLM\"", "\"LlamaForCausalLM\", \"LlamaForCausalLM\"", MODEL,
         "architectures"),
    EDIT("architecture-control", CONFIG, "\"LlamaForCausalLM\"", "\"a\\nsqf: b\\u001b[31m\"", MODEL, "architectures"),
    EDIT("rope-unknown", CONFIG, "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}",
         MODEL, "yarn"),
    EDIT("rope-factor-missing", CONFIG, "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\"}", MODEL,
         "factor"),
    EDIT("rope-factor-0", CONFIG, "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}",
         MODEL, "factor"),
    EDIT("rope-array", CONFIG, "\"rope_scaling\": null", "\"rope_scaling\": [4]", MODEL, "rope_scaling"),
    EDIT("activation-unknown", CONFIG, "\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\"", MODEL, "relu"),
    EDIT("eos-beyond", CONFIG, "\"eos_token_id\": 2047", "\"eos_token_id\": 4096", RUNS, "eos_token_id"),
    EDIT("tied-text", CONFIG, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": \"yes\"", MODEL,
         "tie_word_embeddings"),
    EDIT("untied", CONFIG, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", MODEL, "lm_head.weight"),
    EDIT("experts", CONFIG, "\"use_cache\": true", "\"num_experts\": 8", MODEL, "num_experts"),

    /* ---- quantization_config ---- */
    EDIT("method-unknown", SCHEME, "\"sq-format\"", "\"gptq\"", MODEL, "gptq"),
    EDIT("method-missing", SCHEME, "\"quant_method\": \"sq-format\",", "", MODEL, "quant_method"),
    EDIT("version-2", SCHEME, "\"format_version\": 1", "\"format_version\": 2", MODEL, "format_version"),
    EDIT("version-text", SCHEME, "\"format_version\": 1", "\"format_version\": \"1\"", MODEL, "format_version"),
    EDIT("quantization-array", SCHEME, "\"quantization_config\": {", "\"quantization_config\": [], \"unused\": {",
         MODEL, "quantization_config"),
    EDIT("quantization-member-more", SCHEME, "\"format_version\": 1", "\"format_version\": 1, \"group_size\": 64",
         MODEL, "group_size"),
    EDIT("scheme-garbage", SCHEME, "\"low=int4", "\"low=int99", MODEL, "scheme"),
    EDIT("scheme-empty", SCHEME, "\"scheme\": \"low",
         "\"scheme\": \"\", \"ignore\": [], \"overrides\": {}}, \"unused\": {\"a\": \"low", MODEL,
         "quantization_config"),
    EDIT("scheme-number", SCHEME, "\"scheme\": \"low",
         "\"scheme\": 5, \"ignore\": [], \"overrides\": {}}, \"unused\": {\"a\": \"low", MODEL, "scheme"),
    EDIT("scheme-other-bank", SCHEME, "bank=64", "bank=32", MODEL, "sq_high"),
    EDIT("scheme-huge-bank", SCHEME, "bank=64,high_per_bank=16,group=64", "bank=65536,high_per_bank=16,group=65536",
         MODEL, "sqf: "),
    EDIT("scheme-bank-0", SCHEME, "bank=64", "bank=0", MODEL, "scheme"),
    EDIT("scheme-bank-2-64", SCHEME, "bank=64", "bank=18446744073709551680", MODEL, "scheme"),
    EDIT("override-unknown", SCHEME, "\"overrides\": {}",
         "\"overrides\": {\"model.layers.9.mlp.down_proj\": \"low=bf16,high=none;low=fp32,high=none\"}", MODEL,
         "model.layers.9.mlp.down_proj"),
    EDIT("override-pattern", SCHEME, "\"overrides\": {}",
         "\"overrides\": {\"re:.*\": \"low=bf16,high=none;low=fp32,high=none\"}", MODEL, "re:.*"),
    EDIT("override-head-twice", SCHEME, "\"overrides\": {}",
         "\"overrides\": {\"lm_head\": \"low=int8,high=none,group=128,scale_type=fp16;low=fp32,high=none\"}", MODEL,
         "lm_head: named twice"),
    EDIT("override-embedding-dense", SCHEME, "\"overrides\": {}",
         "\"overrides\": {\"model.embed_tokens\": \"low=int8,high=none,group=128,scale_type=fp16;low=fp32,high=none\"}",
         MODEL, "model.embed_tokens.sq_low"),
    EDIT("override-array", SCHEME, "\"overrides\": {}", "\"overrides\": []", MODEL, "overrides"),
    EDIT("ignore-twice", SCHEME, "\"lm_head\"", "\"" DOWN "\", \"" DOWN "\"", MODEL, "twice"),
    EDIT("ignore-stored", SCHEME, "\"lm_head\"", "\"" DOWN "\"", MODEL, "down_proj"),
    EDIT("ignore-number", SCHEME, "\"lm_head\"", "7", MODEL, "ignore"),
    EDIT("quantized-nowhere", CONFIG, "\"use_cache\": true",
         "\"quantization_config\": {\"quant_method\": \"sq-format\", \"format_version\": 1, \"scheme\": "
         "\"low=int4,high=none,group=128,scale_type=fp16;low=int8,high=none,scale=token,clip=1\"}",
         MODEL, "model.safetensors"),

    /* ---- tokenizer ---- */
    PLAIN("tokenizer-missing", TOKENIZER, ACTION_REMOVE, 0, "ert", "tokenizer.json"),
    PLAIN("tokenizer-empty", TOKENIZER, ACTION_EMPTY, 0, TOKENS, "tokenizer.json"),
    PLAIN("tokenizer-directory", TOKENIZER, ACTION_DIRECTORY, 0, TOKENS, "found a directory"),
    PLAIN("tokenizer-pipe", TOKENIZER, ACTION_PIPE, 0, TOKENS, "expected a file"),
    PLAIN("tokenizer-cut", TOKENIZER, ACTION_CUT, 30000, TOKENS, "not valid JSON"),
    {"tokenizer-nested-10-MB", TOKENIZER, ACTION_BYTES, "[", NULL, 10000000, TOKENS, "tokenizer.json"},
    EDIT("tokenizer-nested-steps", TOKENIZER, "\"normalizer\": null", "\"normalizer\": " NESTED_STEPS, TOKENS,
         "nested"),
    WHOLE("tokenizer-array", TOKENIZER, "[]", TOKENS, "tokenizer.json"),
    WHOLE("tokenizer-object", TOKENIZER, "{}", TOKENS, "tokenizer.json"),
    WHOLE("tokenizer-no-vocabulary", TOKENIZER, "{\"model\":{\"type\":\"BPE\"}}", TOKENS, "tokenizer.json"),
    EDIT("tokenizer-unigram", TOKENIZER, "\"type\": \"BPE\"", "\"type\": \"Unigram\"", TOKENS, "Unigram"),
    EDIT("tokenizer-member-more", TOKENIZER, "\"ignore_merges\": false", "\"shuffle\": true", TOKENS, "shuffle"),
    EDIT("tokenizer-dropout", TOKENIZER, "\"dropout\": null", "\"dropout\": 0.5", TOKENS, "dropout"),
    EDIT("tokenizer-id-huge", TOKENIZER, "\"!\": 0", "\"!\": 4294967295", TOKENS, "tokenizer.json"),
    EDIT("tokenizer-id-2-40", TOKENIZER, "\"!\": 0", "\"!\": 1099511627776", TOKENS, "tokenizer.json"),
    EDIT("tokenizer-id-minus-1", TOKENIZER, "\"!\": 0", "\"!\": -1", TOKENS, "tokenizer.json"),
    EDIT("tokenizer-id-real", TOKENIZER, "\"!\": 0", "\"!\": 0.5", TOKENS, "tokenizer.json"),
    EDIT("tokenizer-id-twice", TOKENIZER, "\"!\": 0", "\"!\": 1", TOKENS, "tokenizer.json"),
    EDIT("tokenizer-word-twice", TOKENIZER, "\"!\": 0", "\"\\\"\": 0", TOKENS, "duplicate"),
    EDIT("merge-three", TOKENIZER, "\"h e\"", "\"h e e\"", TOKENS, "merges"),
    EDIT("merge-one", TOKENIZER, "\"h e\"", "\"he\"", TOKENS, "merges"),
    EDIT("merge-number", TOKENIZER, "\"h e\"", "42", TOKENS, "merges"),
    EDIT("merge-unknown", TOKENIZER, "\"h e\"", "\"h \xe4\xb8\x96\"", TOKENS, "merges"),
    EDIT("merge-array", TOKENIZER, "\"h e\"", "[\"h\"]", TOKENS, "merges"),
    EDIT("added-id-negative", TOKENIZER, "\"id\": 2046", "\"id\": -2046", TOKENS, "tokenizer.json"),
    EDIT("added-id-huge", TOKENIZER, "\"id\": 2046", "\"id\": 4000000000", TOKENS, "tokenizer.json"),
    EDIT("added-empty", TOKENIZER, "\"content\": \"<|begin_of_text|>\"", "\"content\": \"\"", TOKENS, "special_tokens"),
    EDIT("added-twice", TOKENIZER, "],\n \"normalizer\": null",
         "," ADDED "," ADDED "], \"normalizer\": {\"type\": \"NFC\"}", TOKENS, "twice"),
    EDIT("regex-invalid", TOKENIZER, "\"Regex\": \"(?i:", "\"Regex\": \"((?i:", TOKENS, "tokenizer.json"),
    EDIT("regex-class-open", TOKENIZER, "\"Regex\": \"(?i:", "\"Regex\": \"[a-(?i:", TOKENS, "tokenizer.json"),
    EDIT("regex-number", TOKENIZER, "\"Regex\": \"(?i:", "\"Regex\": 5, \"Other\": \"(?i:", TOKENS, "tokenizer.json"),
    EDIT("regex-huge-repeat", TOKENIZER, "\"Regex\": \"(?i:", "\"Regex\": \"(?:(?:a{1000}){1000}){1000}|(?i:", TOKENS,
         "tokenizer.json"),
    EDIT("split-unknown", TOKENIZER, "\"behavior\": \"Isolated\"", "\"behavior\": \"Shuffled\"", TOKENS, "Shuffled"),
    EDIT("step-unknown", TOKENIZER, "\"type\": \"Split\"", "\"type\": \"Bert\"", TOKENS, "Bert"),
    EDIT("normalizer-unknown", TOKENIZER, "\"normalizer\": null", "\"normalizer\": {\"type\": \"Nmt\"}", TOKENS, "Nmt"),
    EDIT("template-unknown-token", TOKENIZER, "\"<|begin_of_text|>\": {", "\"<|other|>\": {", TOKENS, "tokenizer.json"),
    EDIT("truncation", TOKENIZER, "\"truncation\": null", "\"truncation\": {\"max_length\": 5}", TOKENS, "truncation"),
    WHOLE("settings-array", SETTINGS, "[]", TOKENS, "tokenizer_config.json"),
    WHOLE("settings-garbage", SETTINGS, "add_bos_token = yes", TOKENS, "tokenizer_config.json"),
    PLAIN("settings-pipe", SETTINGS, ACTION_PIPE, 0, TOKENS, "tokenizer_config.json"),

    /* ---- generation_config.json ---- */
    PLAIN("generation-empty", GENERATE, ACTION_EMPTY, 0, RUNS, "generation_config.json"),
    PLAIN("generation-directory", GENERATE, ACTION_DIRECTORY, 0, RUNS, "generation_config.json"),
    WHOLE("generation-array", GENERATE, "[]", RUNS, "generation_config.json"),
    {"generation-nested", GENERATE, ACTION_BYTES, "[", NULL, 200000, RUNS, "generation_config.json"},
    EDIT("generation-temperature-text", GENERATE, "0.8", "\"hot\"", RUNS, "temperature"),
    EDIT("generation-temperature-minus", GENERATE, "0.8", "-1", RUNS, "temperature"),
    EDIT("generation-top-p-2", GENERATE, "0.95", "2", RUNS, "top_p"),
    EDIT("generation-eos-minus", GENERATE, "2047", "-2047", RUNS, "eos_token_id"),
    EDIT("generation-eos-beyond", GENERATE, "2047", "[5, 2048]", RUNS, "eos_token_id"),
    EDIT("generation-eos-text", GENERATE, "2047", "\"2047\"", RUNS, "eos_token_id"),
    EDIT("generation-sample-number", GENERATE, "\"do_sample\": true", "\"do_sample\": 1", RUNS, "do_sample"),
};

const size_t damage_case_count = sizeof damage_cases / sizeof *damage_cases;

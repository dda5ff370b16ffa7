/* Writes a synthetic checkpoint in the shape of a published model: Gaussian weights (standard deviation 0.02), norms of
 * ones, no tokenizer. Speed depends on the shape and not on the values, so that anyone can repeat a measurement
 * without downloading a model. Can write the same weights as GGUF too, for programs that read nothing else.
 *
 * Usage: bench_make-checkpoint SHAPE OUT [--layers N] [--seed N] [--gguf FILE]
 *
 * Every row of every tensor has a generator of its own, so that rows can be written in any order and nothing larger
 * than a row is held. OUT is a new directory: config.json, then model.safetensors (bf16). */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/random.h"
#include "format/type.h"

typedef struct shape {
    const char *name;
    bool qwen3; /* Qwen3: norms of queries and keys; otherwise Llama */
    bool tied;  /* the output matrix is the embedding */
    size_t hidden, layers, intermediate, heads, kv_heads, head_dim, vocabulary, positions;
    double rope_theta, epsilon;
} shape;

/* Sizes as the config.json of each model has them. The scaling of rotary angles of Llama 3.x is left out. `tiny` is no
 * published model: a second's work for tests. */
static const shape shapes[] = {
    {"llama-3.2-1b", false, true, 2048, 16, 8192, 32, 8, 64, 128256, 131072, 500000, 1e-5},
    {"llama-3.2-3b", false, true, 3072, 28, 8192, 24, 8, 128, 128256, 131072, 500000, 1e-5},
    {"llama-3-8b", false, false, 4096, 32, 14336, 32, 8, 128, 128256, 8192, 500000, 1e-5},
    {"tinyllama-1.1b", false, false, 2048, 22, 5632, 32, 4, 64, 32000, 2048, 10000, 1e-5},
    {"qwen3-0.6b", true, true, 1024, 28, 3072, 16, 8, 128, 151936, 40960, 1000000, 1e-6},
    {"qwen3-1.7b", true, true, 2048, 28, 6144, 16, 8, 128, 151936, 40960, 1000000, 1e-6},
    {"qwen3-4b", true, true, 2560, 36, 9728, 32, 8, 128, 151936, 40960, 1000000, 1e-6},
    {"qwen3-8b", true, false, 4096, 36, 12288, 32, 8, 128, 151936, 40960, 1000000, 1e-6},
    {"tiny", false, true, 256, 2, 512, 4, 2, 64, 1024, 1024, 10000, 1e-5},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("make-checkpoint: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* ---- the tensors of a shape ---- */

enum { NAME = 96, PARTS_PER_LAYER = 11 };

typedef struct tensor {
    char name[NAME], gguf_name[NAME];
    size_t rows, columns; /* rows 0: a vector of norms */
    size_t heads;         /* > 0: GGUF has the rows of each head in another order, see gguf_row */
} tensor;

typedef struct tensor_list {
    tensor *items;
    size_t count;
} tensor_list;

static void add_tensor(tensor_list *list, const char *name, const char *gguf_name, size_t rows, size_t columns)
{
    tensor *t = &list->items[list->count++];
    *t = (tensor){.rows = rows, .columns = columns};
    snprintf(t->name, NAME, "%s.weight", name);
    snprintf(t->gguf_name, NAME, "%s.weight", gguf_name);
}

static void add_layer(tensor_list *list, const shape *s, size_t layer)
{
    const size_t query = s->heads * s->head_dim, key = s->kv_heads * s->head_dim;
    const struct {
        const char *name, *gguf_name;
        size_t rows, columns, heads;
        bool qwen3_only;
    } parts[PARTS_PER_LAYER] = {
        {"input_layernorm", "attn_norm", 0, s->hidden, 0, false},
        {"self_attn.q_proj", "attn_q", query, s->hidden, s->heads, false},
        {"self_attn.k_proj", "attn_k", key, s->hidden, s->kv_heads, false},
        {"self_attn.v_proj", "attn_v", key, s->hidden, 0, false},
        {"self_attn.o_proj", "attn_output", s->hidden, query, 0, false},
        {"self_attn.q_norm", "attn_q_norm", 0, s->head_dim, 0, true},
        {"self_attn.k_norm", "attn_k_norm", 0, s->head_dim, 0, true},
        {"post_attention_layernorm", "ffn_norm", 0, s->hidden, 0, false},
        {"mlp.gate_proj", "ffn_gate", s->intermediate, s->hidden, 0, false},
        {"mlp.up_proj", "ffn_up", s->intermediate, s->hidden, 0, false},
        {"mlp.down_proj", "ffn_down", s->hidden, s->intermediate, 0, false},
    };
    for (size_t i = 0; i < PARTS_PER_LAYER; i++) {
        if (parts[i].qwen3_only && !s->qwen3) {
            continue;
        }
        char name[NAME / 2 + 16], gguf_name[NAME / 2 + 16];
        snprintf(name, sizeof name, "model.layers.%zu.%s", layer, parts[i].name);
        snprintf(gguf_name, sizeof gguf_name, "blk.%zu.%s", layer, parts[i].gguf_name);
        add_tensor(list, name, gguf_name, parts[i].rows, parts[i].columns);
        list->items[list->count - 1].heads = s->qwen3 ? 0 : parts[i].heads;
    }
}

static tensor_list list_tensors(const shape *s)
{
    tensor_list list = {.items = calloc(s->layers * PARTS_PER_LAYER + 3, sizeof *list.items)};
    if (!list.items) {
        fail("out of memory");
    }
    add_tensor(&list, "model.embed_tokens", "token_embd", s->vocabulary, s->hidden);
    for (size_t i = 0; i < s->layers; i++) {
        add_layer(&list, s, i);
    }
    add_tensor(&list, "model.norm", "output_norm", 0, s->hidden);
    if (!s->tied) {
        add_tensor(&list, "lm_head", "output", s->vocabulary, s->hidden);
    }
    return list;
}

/* ---- values ---- */

enum { QUANTILES = 65536 };

typedef struct generator {
    uint64_t seed;
    uint16_t bf16[QUANTILES], fp16[QUANTILES]; /* the same numbers; fp16 rounds the few below its normal range */
} generator;

/* 0.02 times the normal distribution's quantiles (i + 1/2) / 65536, by Newton's method on erfc: four of them cost one
 * number of the generator, and nothing is computed per weight. The largest is 4.3 standard deviations. */
static void make_quantiles(generator *g, uint64_t seed)
{
    sqf_random random = {.state = seed};
    g->seed = sqf_random_u64(&random);
    double z = -4.3;
    for (size_t i = 0; i < QUANTILES; i++) {
        const double p = ((double)i + 0.5) / QUANTILES;
        for (int step = 0; step < 8; step++) {
            const double density = exp(-z * z / 2) / sqrt(2 * acos(-1.0));
            z -= (erfc(-z / sqrt(2)) / 2 - p) / density;
        }
        g->bf16[i] = sqf_bf16_from_float((float)(0.02 * z));
        g->fp16[i] = sqf_fp16_from_float(sqf_bf16_to_float(g->bf16[i]));
    }
}

static void make_row(const generator *g, const uint16_t *quantiles, size_t index, size_t row, size_t columns,
                     uint16_t *out)
{
    sqf_random mix = {.state = g->seed + ((uint64_t)index << 40) + row};
    sqf_random random = {.state = sqf_random_u64(&mix)};
    for (size_t i = 0; i < columns; i += 4) {
        uint64_t bits = sqf_random_u64(&random);
        for (size_t j = i; j < i + 4 && j < columns; j++, bits >>= 16) {
            out[j] = quantiles[bits & 0xffff];
        }
    }
}

/* ---- files ---- */

typedef struct output {
    FILE *file;
    const char *path;
    uint64_t size;
} output;

static void open_output(output *out, const char *path)
{
    *out = (output){.file = fopen(path, "wbx"), .path = path};
    if (!out->file) {
        fail("%s: %s", path, strerror(errno));
    }
    setvbuf(out->file, NULL, _IOFBF, (size_t)1 << 20);
}

static void put(output *out, const void *bytes, size_t n)
{
    if (fwrite(bytes, 1, n, out->file) != n) {
        fail("%s: %s", out->path, strerror(errno));
    }
    out->size += n;
}

static void put_text(output *out, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put(out, text, (size_t)length);
}

/* Zeros (spaces in a header) up to a multiple of `alignment`. */
static void pad(output *out, size_t alignment, char byte)
{
    while (out->size % alignment != 0) {
        put(out, &byte, 1);
    }
}

static void close_output(output *out)
{
    if (fclose(out->file) != 0) {
        fail("%s: %s", out->path, strerror(errno));
    }
}

static void write_config(const shape *s, const char *path)
{
    output out;
    open_output(&out, path);
    put_text(&out, "{\n  \"architectures\": [\"%s\"],\n", s->qwen3 ? "Qwen3ForCausalLM" : "LlamaForCausalLM");
    put_text(&out, "  \"model_type\": \"%s\",\n  \"hidden_size\": %zu,\n", s->qwen3 ? "qwen3" : "llama", s->hidden);
    put_text(&out, "  \"num_hidden_layers\": %zu,\n  \"intermediate_size\": %zu,\n", s->layers, s->intermediate);
    put_text(&out, "  \"num_attention_heads\": %zu,\n  \"num_key_value_heads\": %zu,\n", s->heads, s->kv_heads);
    put_text(&out, "  \"head_dim\": %zu,\n  \"vocab_size\": %zu,\n", s->head_dim, s->vocabulary);
    put_text(&out, "  \"max_position_embeddings\": %zu,\n  \"rope_theta\": %.1f,\n", s->positions, s->rope_theta);
    put_text(&out, "  \"rms_norm_eps\": %g,\n  \"hidden_act\": \"silu\",\n", s->epsilon);
    put_text(&out, "  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"bfloat16\"\n}\n", s->tied ? "true" : "false");
    close_output(&out);
}

static size_t element_count(const tensor *t)
{
    return (t->rows ? t->rows : 1) * t->columns;
}

static uint16_t *row_buffer(const tensor_list *list)
{
    size_t longest = 0;
    for (size_t i = 0; i < list->count; i++) {
        longest = list->items[i].columns > longest ? list->items[i].columns : longest;
    }
    uint16_t *row = malloc(longest * sizeof *row);
    if (!row) {
        fail("out of memory");
    }
    return row;
}

/* The header is written twice: first to learn its length, which stands before it. */
static void write_safetensors(const tensor_list *list, const generator *g, const char *path)
{
    output out;
    open_output(&out, path);
    put(&out, "\0\0\0\0\0\0\0\0", 8);
    put_text(&out, "{\"__metadata__\":{\"format\":\"pt\"}");
    uint64_t begin = 0;
    for (size_t i = 0; i < list->count; i++) {
        const tensor *t = &list->items[i];
        const uint64_t end = begin + 2 * element_count(t);
        put_text(&out, ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[", t->name);
        if (t->rows > 0) {
            put_text(&out, "%zu,", t->rows);
        }
        put_text(&out, "%zu],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", t->columns, begin, end);
        begin = end;
    }
    put_text(&out, "}");
    pad(&out, 64, ' ');
    const uint64_t length = out.size - 8;
    if (fseek(out.file, 0, SEEK_SET) != 0 || fwrite(&length, 8, 1, out.file) != 1 ||
        fseek(out.file, 0, SEEK_END) != 0) {
        fail("%s: %s", path, strerror(errno));
    }
    uint16_t *row = row_buffer(list);
    for (size_t i = 0; i < list->count; i++) {
        const tensor *t = &list->items[i];
        for (size_t k = 0; t->rows == 0 && k < t->columns; k++) {
            row[k] = 0x3f80; /* 1 */
        }
        for (size_t r = 0; r < (t->rows ? t->rows : 1); r++) {
            if (t->rows > 0) {
                make_row(g, g->bf16, i, r, t->columns, row);
            }
            put(&out, row, t->columns * sizeof *row);
        }
    }
    free(row);
    close_output(&out);
}

/* ---- GGUF, version 3 ---- */

/* Its numbers of value types and tensor types, of those used here. */
enum { GGUF_U32 = 4, GGUF_F32 = 6, GGUF_STRING = 8, GGUF_TENSOR_F32 = 0, GGUF_TENSOR_F16 = 1, GGUF_ALIGNMENT = 32 };

static void put_u32(output *out, uint32_t value)
{
    put(out, &value, sizeof value);
}

static void put_u64(output *out, uint64_t value)
{
    put(out, &value, sizeof value);
}

static void put_string(output *out, const char *text)
{
    put_u64(out, strlen(text));
    put(out, text, strlen(text));
}

static void put_member(output *out, size_t *count, const char *prefix, const char *key, uint32_t type)
{
    char name[NAME];
    snprintf(name, sizeof name, "%s.%s", prefix, key);
    put_string(out, name);
    put_u32(out, type);
    ++*count;
}

/* Returns the number of members. Without a vocabulary ("no_vocab") readers take the number of tokens from vocab_size.
 */
static size_t put_members(output *out, const shape *s)
{
    const char *family = s->qwen3 ? "qwen3" : "llama";
    size_t count = 0;
    const struct {
        const char *prefix, *key, *value;
    } strings[] = {
        {"general", "architecture", family},
        {"general", "name", s->name},
        {"tokenizer.ggml", "model", "no_vocab"},
    };
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        put_member(out, &count, strings[i].prefix, strings[i].key, GGUF_STRING);
        put_string(out, strings[i].value);
    }
    const struct {
        const char *prefix, *key;
        size_t value;
    } numbers[] = {
        {"general", "file_type", 1}, /* mostly F16 */
        {"general", "alignment", GGUF_ALIGNMENT},
        {"general", "quantization_version", 2},
        {family, "vocab_size", s->vocabulary},
        {family, "context_length", s->positions},
        {family, "embedding_length", s->hidden},
        {family, "block_count", s->layers},
        {family, "feed_forward_length", s->intermediate},
        {family, "attention.head_count", s->heads},
        {family, "attention.head_count_kv", s->kv_heads},
        {family, "attention.key_length", s->head_dim},
        {family, "attention.value_length", s->head_dim},
        {family, "rope.dimension_count", s->head_dim},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        put_member(out, &count, numbers[i].prefix, numbers[i].key, GGUF_U32);
        put_u32(out, (uint32_t)numbers[i].value);
    }
    const struct {
        const char *key;
        double value;
    } reals[] = {{"attention.layer_norm_rms_epsilon", s->epsilon}, {"rope.freq_base", s->rope_theta}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        const float value = (float)reals[i].value;
        put_member(out, &count, family, reals[i].key, GGUF_F32);
        put(out, &value, sizeof value);
    }
    return count;
}

static uint64_t gguf_bytes(const tensor *t)
{
    return element_count(t) * (t->rows ? 2 : 4);
}

static void put_tensor_infos(output *out, const tensor_list *list)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < list->count; i++) {
        const tensor *t = &list->items[i];
        put_string(out, t->gguf_name);
        put_u32(out, t->rows ? 2 : 1);
        put_u64(out, t->columns); /* the fastest dimension first */
        if (t->rows) {
            put_u64(out, t->rows);
        }
        put_u32(out, t->rows ? GGUF_TENSOR_F16 : GGUF_TENSOR_F32);
        put_u64(out, offset);
        offset += (gguf_bytes(t) + GGUF_ALIGNMENT - 1) / GGUF_ALIGNMENT * GGUF_ALIGNMENT;
    }
}

/* The row of the checkpoint that stands in row r of the file. The llama architecture of GGUF rotates neighbours (2i,
 * 2i + 1) where the checkpoint rotates halves (i, i + dim / 2), so that rows of queries and keys change places. */
static size_t gguf_row(const tensor *t, size_t r)
{
    if (t->heads == 0) {
        return r;
    }
    const size_t dim = t->rows / t->heads, head = r / dim, inside = r % dim;
    return head * dim + inside % 2 * (dim / 2) + inside / 2;
}

static void write_gguf(const shape *s, const tensor_list *list, const generator *g, const char *path)
{
    output out;
    open_output(&out, path);
    put(&out, "GGUF\3\0\0\0", 8);
    put_u64(&out, list->count);
    put_u64(&out, 0);
    const uint64_t members = put_members(&out, s);
    put_tensor_infos(&out, list);
    pad(&out, GGUF_ALIGNMENT, 0);
    if (fseek(out.file, 16, SEEK_SET) != 0 || fwrite(&members, 8, 1, out.file) != 1 ||
        fseek(out.file, 0, SEEK_END) != 0) {
        fail("%s: %s", path, strerror(errno));
    }
    uint16_t *row = row_buffer(list);
    const float one = 1.0f;
    for (size_t i = 0; i < list->count; i++) {
        const tensor *t = &list->items[i];
        for (size_t k = 0; t->rows == 0 && k < t->columns; k++) {
            put(&out, &one, sizeof one);
        }
        for (size_t r = 0; r < t->rows; r++) {
            make_row(g, g->fp16, i, gguf_row(t, r), t->columns, row);
            put(&out, row, t->columns * sizeof *row);
        }
        pad(&out, GGUF_ALIGNMENT, 0);
    }
    free(row);
    close_output(&out);
}

/* ---- command line ---- */

static void usage(void)
{
    fputs("usage: make-checkpoint SHAPE OUT [--layers N] [--seed N] [--gguf FILE]\nshapes:", stderr);
    for (size_t i = 0; i < SHAPES; i++) {
        fprintf(stderr, " %s", shapes[i].name);
    }
    fputc('\n', stderr);
    exit(2);
}

static uint64_t read_number(const char *text, uint64_t least, uint64_t most)
{
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value < least || value > most) {
        fail("expected a whole number from %" PRIu64 " to %" PRIu64 ", found '%s'", least, most, text);
    }
    return value;
}

static const shape *find_shape(const char *name)
{
    for (size_t i = 0; i < SHAPES; i++) {
        if (strcmp(shapes[i].name, name) == 0) {
            return &shapes[i];
        }
    }
    return NULL;
}

static char *join(const char *directory, const char *name)
{
    const size_t size = strlen(directory) + strlen(name) + 2;
    char *path = malloc(size);
    if (!path) {
        fail("out of memory");
    }
    snprintf(path, size, "%s/%s", directory, name);
    return path;
}

int main(int argc, char **argv)
{
    const shape *found = argc >= 3 ? find_shape(argv[1]) : NULL;
    if (!found || argc % 2 == 0) {
        usage();
    }
    shape s = *found;
    uint64_t seed = 1;
    const char *gguf = NULL;
    for (int i = 3; i < argc; i += 2) {
        if (strcmp(argv[i], "--layers") == 0) {
            s.layers = (size_t)read_number(argv[i + 1], 1, 1000);
        } else if (strcmp(argv[i], "--seed") == 0) {
            seed = read_number(argv[i + 1], 0, UINT32_MAX);
        } else if (strcmp(argv[i], "--gguf") == 0) {
            gguf = argv[i + 1];
        } else {
            usage();
        }
    }
    static generator g;
    make_quantiles(&g, seed);
    const tensor_list list = list_tensors(&s);
    if (mkdir(argv[2], 0777) != 0) {
        fail("%s: %s", argv[2], strerror(errno));
    }
    char *config = join(argv[2], "config.json"), *weights = join(argv[2], "model.safetensors");
    write_config(&s, config);
    write_safetensors(&list, &g, weights);
    if (gguf) {
        write_gguf(&s, &list, &g, gguf);
    }
    free(config);
    free(weights);
    free(list.items);
    return 0;
}

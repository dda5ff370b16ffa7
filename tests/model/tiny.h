/* Tiny random model directories for tests; the weights are those of data/make_variants.py. */
#ifndef SQF_TESTS_MODEL_TINY_H
#define SQF_TESTS_MODEL_TINY_H

#include <math.h>
#include <unistd.h>

#include "fixture.h"

#include "base/random.h"
#include "format/type.h"
#include "model/layer.h"

/* A temporary directory that holds a model. */
typedef struct tiny {
    char path[64];
    sqf_tensor_writer *writer;
    sqf_dtype dtype;
} tiny;

static inline uint64_t tiny_seed(const char *name)
{
    uint64_t state = 0xcbf29ce484222325u;
    for (const char *c = name; *c; c++) {
        state = (state ^ (unsigned char)*c) * 0x100000001b3u;
    }
    return state;
}

static inline bool tiny_ends(const char *name, const char *end)
{
    return strlen(name) >= strlen(end) && strcmp(name + strlen(name) - strlen(end), end) == 0;
}

/* [rows] or [rows, columns] values of a name, for free(). */
static inline float *tiny_values(const char *name, size_t rows, size_t columns)
{
    const size_t n = rows * (columns == 0 ? 1 : columns);
    sqf_random random = {.state = tiny_seed(name)};
    double amplitude = columns == 0 ? 1 : 3.0 / sqrt((double)columns), offset = 0;
    if (tiny_ends(name, "norm.weight")) {
        amplitude = 0.3;
        offset = 1;
    } else if (tiny_ends(name, ".bias")) {
        amplitude = 0.4;
    } else if (strcmp(name, "model.embed_tokens.weight") == 0) {
        amplitude = 1;
    }
    float *values = calloc(n, sizeof *values);
    for (size_t i = 0; i < n; i++) {
        values[i] = (float)((sqf_random_unit(&random) - 0.5) * 2 * amplitude + offset);
    }
    return values;
}

static inline void tiny_add(tiny *t, const char *name, size_t rows, size_t columns)
{
    sqf_error err = {0};
    float *values = tiny_values(name, rows, columns);
    const size_t n = rows * (columns == 0 ? 1 : columns), shape[] = {rows, columns};
    uint16_t *halves = calloc(n, sizeof *halves);
    for (size_t i = 0; i < n; i++) {
        halves[i] = t->dtype == SQF_DTYPE_F16 ? sqf_fp16_from_float(values[i]) : sqf_bf16_from_float(values[i]);
    }
    must(sqf_tensor_writer_add(t->writer, name, t->dtype, columns == 0 ? 1 : 2, shape,
                               t->dtype == SQF_DTYPE_F32 ? (void *)values : (void *)halves, &err),
         &err);
    free(values);
    free(halves);
}

static inline void tiny_add_linear(tiny *t, const sqf_config *config, size_t layer, sqf_linear_kind kind)
{
    char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
    size_t rows, columns;
    sqf_linear_name(layer, kind, module);
    sqf_linear_shape(config, kind, &rows, &columns);
    sqf_tensor_name(module, "weight", name);
    tiny_add(t, name, rows, columns);
    if (sqf_linear_has_bias(config, kind)) {
        sqf_tensor_name(module, "bias", name);
        tiny_add(t, name, rows, 0);
    }
}

static inline void tiny_add_layer(tiny *t, const sqf_config *config, size_t layer)
{
    static const char *const norms[] = {"input_layernorm", "post_attention_layernorm", "self_attn.q_norm",
                                        "self_attn.k_norm"};
    for (size_t i = 0; i < (config->architecture->query_key_norm ? 4 : 2); i++) {
        char name[SQF_MODULE_NAME];
        snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, norms[i]);
        tiny_add(t, name, i < 2 ? config->hidden : config->head_dim, 0);
    }
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        tiny_add_linear(t, config, layer, (sqf_linear_kind)kind);
    }
}

static inline void tiny_write(const tiny *t, const char *name, const char *text)
{
    sqf_error err = {0};
    char *path;
    must(sqf_path_join(&path, t->path, name, &err), &err);
    must(sqf_file_write(path, text, strlen(text), &err), &err);
    free(path);
}

/* Makes the directory with config.json and weights. */
static inline void tiny_create(tiny *t, const json_t *config_json, sqf_dtype dtype, size_t shard_limit)
{
    sqf_error err = {0};
    sqf_config config;
    char *text;
    *t = (tiny){.path = "/tmp/sqf-tiny-XXXXXX", .dtype = dtype};
    assert_non_null(mkdtemp(t->path));
    must(sqf_json_print(config_json, &text, &err), &err);
    tiny_write(t, "config.json", text);
    free(text);
    must(sqf_config_parse(config_json, "config", &config, &err), &err);
    must(sqf_tensor_writer_create(t->path, shard_limit, &t->writer, &err), &err);
    tiny_add(t, "model.embed_tokens.weight", config.vocabulary, config.hidden);
    tiny_add(t, "model.norm.weight", config.hidden, 0);
    if (!config.tied) {
        tiny_add(t, "lm_head.weight", config.vocabulary, config.hidden);
    }
    for (size_t i = 0; i < config.layers; i++) {
        tiny_add_layer(t, &config, i);
    }
    must(sqf_tensor_writer_finish(t->writer, &err), &err);
    sqf_tensor_writer_destroy(t->writer);
}

static inline void tiny_remove(const tiny *t)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%.63s'", t->path);
    assert_int_equal(system(command), 0);
}

static inline sqf_dtype tiny_dtype(const char *name)
{
    return strcmp(name, "F16") == 0 ? SQF_DTYPE_F16 : strcmp(name, "BF16") == 0 ? SQF_DTYPE_BF16 : SQF_DTYPE_F32;
}

#endif

/* Memory of the KV cache: one block a layer, that holds keys, values and their scales one behind the other. */
#include "model/kv_cache.h"

#include <string.h>

#include "base/memory.h"

enum { FIRST_POSITIONS = 256 }; /* the smallest cache */

static const char *const names[] = {[SQF_KV_F32] = "f32", [SQF_KV_F16] = "f16", [SQF_KV_INT8] = "int8"};

const char *sqf_kv_type_name(sqf_kv_type type)
{
    return names[type];
}

sqf_status sqf_kv_type_parse(const char *text, sqf_kv_type *type, sqf_error *err)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i]) == 0) {
            *type = (sqf_kv_type)i;
            return SQF_OK;
        }
    }
    return sqf_fail(err, SQF_E_ARG, "KV cache: expected f32, f16 or int8, found %.80s", text);
}

struct sqf_kv_cache {
    sqf_kv_type type;
    size_t kv_heads, head_dim, layers;
    size_t capacity; /* positions that every layer has room for */
    uint8_t **block; /* [layers] */
};

static size_t key_bytes(const sqf_kv_cache *cache)
{
    return cache->head_dim * sqf_kv_element(cache->type);
}

static size_t value_bytes(const sqf_kv_cache *cache)
{
    return sqf_kv_value_width(cache->head_dim) * sqf_kv_element(cache->type);
}

/* Of a position in one layer. Widths are bounded by the config: no overflow. */
static size_t layer_bytes(const sqf_kv_cache *cache)
{
    const size_t scales = cache->type == SQF_KV_INT8 ? 2 * sizeof(float) : 0;
    return cache->kv_heads * (key_bytes(cache) + value_bytes(cache) + scales);
}

uint64_t sqf_kv_cache_position_bytes(const sqf_kv_cache *cache)
{
    return (uint64_t)layer_bytes(cache) * cache->layers;
}

sqf_status sqf_kv_cache_create(const sqf_config *config, size_t layers, sqf_kv_type type, sqf_kv_cache **out,
                               sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(out, 1, "KV cache", err));
    sqf_kv_cache *cache = *out;
    *cache = (sqf_kv_cache){.type = type, .kv_heads = config->kv_heads, .head_dim = config->head_dim, .layers = layers};
    const sqf_status status = SQF_ALLOC(&cache->block, layers, "KV cache", err);
    if (status != SQF_OK) {
        free(cache);
        *out = NULL;
    }
    return status;
}

void sqf_kv_cache_destroy(sqf_kv_cache *cache)
{
    if (!cache) {
        return;
    }
    for (size_t i = 0; i < cache->layers; i++) {
        free(cache->block[i]);
    }
    free(cache->block);
    free(cache);
}

/* The parts of a block with room for `capacity` positions. Its offsets are multiples of 64 bytes, because capacities
 * are multiples of 16 positions. */
static sqf_kv_view view_of(const sqf_kv_cache *cache, uint8_t *block, size_t capacity)
{
    uint8_t *value = block + cache->kv_heads * capacity * key_bytes(cache);
    float *scales = (float *)(void *)(value + cache->kv_heads * capacity * value_bytes(cache));
    const bool scaled = cache->type == SQF_KV_INT8;
    return (sqf_kv_view){.type = cache->type,
                         .kv_heads = cache->kv_heads,
                         .head_dim = cache->head_dim,
                         .capacity = capacity,
                         .key = block,
                         .value = value,
                         .key_scales = scaled ? scales : NULL,
                         .value_scales = scaled ? scales + cache->kv_heads * capacity : NULL};
}

sqf_kv_view sqf_kv_cache_layer(const sqf_kv_cache *cache, size_t layer)
{
    return view_of(cache, cache->block[layer], cache->capacity);
}

/* Head by head, because heads lie `capacity` positions apart. Keys are copied in whole panels. */
static void copy_positions(const sqf_kv_cache *cache, const sqf_kv_view *to, const sqf_kv_view *from, size_t count)
{
    const size_t panels = sqf_ceil_div(count, SQF_KV_PANEL) * SQF_KV_PANEL;
    for (size_t h = 0; h < cache->kv_heads && count > 0; h++) {
        memcpy((uint8_t *)to->key + h * to->capacity * key_bytes(cache),
               (const uint8_t *)from->key + h * from->capacity * key_bytes(cache), panels * key_bytes(cache));
        memcpy((uint8_t *)to->value + h * to->capacity * value_bytes(cache),
               (const uint8_t *)from->value + h * from->capacity * value_bytes(cache), count * value_bytes(cache));
        if (to->key_scales) {
            memcpy(to->key_scales + h * to->capacity, from->key_scales + h * from->capacity, count * sizeof(float));
            memcpy(to->value_scales + h * to->capacity, from->value_scales + h * from->capacity, count * sizeof(float));
        }
    }
}

/* All blocks are made before any is replaced: a failure leaves the cache as it was. */
static sqf_status resize(sqf_kv_cache *cache, size_t used, size_t capacity, sqf_error *err)
{
    uint8_t **larger;
    size_t bytes;
    if (!sqf_mul_size(&bytes, capacity, layer_bytes(cache))) {
        return sqf_fail(err, SQF_E_MEMORY, "KV cache: %zu positions of %zu bytes are too many", capacity,
                        layer_bytes(cache));
    }
    SQF_TRY(SQF_ALLOC(&larger, cache->layers, "KV cache", err));
    sqf_status status = SQF_OK;
    for (size_t i = 0; i < cache->layers && status == SQF_OK; i++) {
        status = SQF_ALLOC(&larger[i], bytes, "KV cache", err);
    }
    for (size_t i = 0; i < cache->layers; i++) {
        if (status == SQF_OK) {
            const sqf_kv_view from = sqf_kv_cache_layer(cache, i), to = view_of(cache, larger[i], capacity);
            copy_positions(cache, &to, &from, used);
        }
        free(status == SQF_OK ? cache->block[i] : larger[i]);
    }
    if (status != SQF_OK) {
        free(larger);
        return status;
    }
    free(cache->block);
    cache->block = larger;
    cache->capacity = capacity;
    return SQF_OK;
}

sqf_status sqf_kv_cache_reserve(sqf_kv_cache *cache, size_t used, size_t positions, size_t most, sqf_error *err)
{
    size_t capacity = cache->capacity < FIRST_POSITIONS ? FIRST_POSITIONS : cache->capacity;
    if (positions <= cache->capacity) {
        return SQF_OK;
    }
    while (capacity < positions && capacity <= SIZE_MAX / 2) {
        capacity *= 2;
    }
    capacity = capacity < most ? capacity : most;
    if (capacity > SIZE_MAX - SQF_KV_PANEL) {
        return sqf_fail(err, SQF_E_MEMORY, "KV cache: %zu positions are too many", capacity);
    }
    return resize(cache, used, sqf_ceil_div(capacity, SQF_KV_PANEL) * SQF_KV_PANEL, err);
}

sqf_status sqf_kv_cache_create_layer(const sqf_config *config, size_t positions, sqf_kv_cache **out, sqf_error *err)
{
    SQF_TRY(sqf_kv_cache_create(config, 1, SQF_KV_F32, out, err));
    const sqf_status status = sqf_kv_cache_reserve(*out, 0, positions, positions, err);
    if (status != SQF_OK) {
        sqf_kv_cache_destroy(*out);
        *out = NULL;
    }
    return status;
}

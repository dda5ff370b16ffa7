/* Memory of KV caches on a device: one block a sequence, layer behind layer, in each the keys, the values and their
 * scales. */
#include "model/device_layer.h"

enum { CACHE_STEP = 64 }; /* capacities are multiples of it, so that every head begins at an aligned place */

static size_t capacity_of(size_t positions)
{
    return sqf_ceil_div(positions, CACHE_STEP) * CACHE_STEP;
}

/* Widths are bounded by the config. */
static uint64_t position_bytes(const sqf_config *config, sqf_kv_type type)
{
    return (uint64_t)config->kv_heads *
           (2 * config->head_dim * sqf_kv_element(type) + (type == SQF_KV_INT8 ? 2 * sizeof(float) : 0));
}

uint64_t sqf_device_cache_bytes(const sqf_config *config, size_t layers, size_t positions, sqf_kv_type type)
{
    return position_bytes(config, type) * capacity_of(positions) * layers;
}

sqf_status sqf_device_cache_create(sqf_context *context, const sqf_config *config, size_t layers, size_t positions,
                                   sqf_kv_type type, sqf_device_cache *out, sqf_error *err)
{
    const size_t capacity = capacity_of(positions);
    *out = (sqf_device_cache){.type = type,
                              .layers = layers,
                              .capacity = capacity,
                              .layer_bytes = (size_t)position_bytes(config, type) * capacity,
                              .kv_heads = config->kv_heads,
                              .head_dim = config->head_dim};
    return sqf_device_alloc(context->device, (void **)&out->memory, layers, out->layer_bytes, "KV cache", err);
}

void sqf_device_cache_clear(sqf_context *context, sqf_device_cache *cache)
{
    sqf_device_release(context->device, cache->memory);
    *cache = (sqf_device_cache){0};
}

/* Keys, values, then their scales. */
sqf_cuda_kv sqf_device_cache_layer(const sqf_device_cache *cache, size_t layer)
{
    const size_t elements = cache->kv_heads * cache->capacity, bytes = cache->head_dim * sqf_kv_element(cache->type);
    uint8_t *key = cache->memory + layer * cache->layer_bytes, *value = key + elements * bytes;
    float *scales = (float *)(void *)(value + elements * bytes);
    const bool scaled = cache->type == SQF_KV_INT8;
    return (sqf_cuda_kv){.key = key,
                         .value = value,
                         .key_scales = scaled ? scales : NULL,
                         .value_scales = scaled ? scales + elements : NULL};
}

/* The first positions of every head, which lie `capacity` positions apart. */
static sqf_status copy_layer(const sqf_device *device, const sqf_device_cache *to, const sqf_device_cache *from,
                             size_t layer, size_t used, sqf_error *err)
{
    const sqf_cuda_kv into = sqf_device_cache_layer(to, layer), old = sqf_device_cache_layer(from, layer);
    const size_t row = from->head_dim * sqf_kv_element(from->type);
    uint8_t *const tos[] = {into.key, into.value, (uint8_t *)into.key_scales, (uint8_t *)into.value_scales};
    uint8_t *const froms[] = {old.key, old.value, (uint8_t *)old.key_scales, (uint8_t *)old.value_scales};
    const size_t sizes[] = {row, row, sizeof(float), sizeof(float)};
    for (size_t h = 0; h < from->kv_heads; h++) {
        for (size_t i = 0; i < 4 && tos[i]; i++) {
            SQF_TRY(device->ops->copy(device->cuda, tos[i] + h * to->capacity * sizes[i],
                                      froms[i] + h * from->capacity * sizes[i], used * sizes[i], err));
        }
    }
    return SQF_OK;
}

sqf_status sqf_device_cache_reserve(sqf_context *context, const sqf_config *config, sqf_device_cache *cache,
                                    size_t used, size_t positions, size_t most, sqf_error *err)
{
    sqf_device_cache larger;
    size_t capacity = cache->capacity;
    if (positions <= capacity) {
        return SQF_OK;
    }
    while (capacity < positions) {
        capacity *= 2;
    }
    capacity = capacity < most ? capacity : most;
    SQF_TRY(sqf_device_cache_create(context, config, cache->layers, capacity, cache->type, &larger, err));
    for (size_t layer = 0; used > 0 && layer < cache->layers; layer++) {
        const sqf_status status = copy_layer(context->device, &larger, cache, layer, used, err);
        if (status != SQF_OK) {
            sqf_device_cache_clear(context, &larger);
            return status;
        }
    }
    sqf_device_cache_clear(context, cache);
    *cache = larger;
    return SQF_OK;
}

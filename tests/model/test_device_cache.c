/* KV caches on a device that grow: what was in them stays where attention looks for it. */
#include "check.h"

#include "model/device_layer.h"

enum { LAYERS = 2, HEADS = 2, DIM = 10, FIRST = 70, USED = 65 };

/* Every byte a number of its own, as far as bytes go. */
static void fill(uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bytes[i] = (uint8_t)(i * 7 + i / 251);
    }
}

/* Keys or values of a head at both capacities. */
static void compare_heads(const uint8_t *before, size_t old, const uint8_t *after, size_t now, size_t bytes)
{
    for (size_t h = 0; h < HEADS; h++) {
        assert_memory_equal(before + h * old * bytes, after + h * now * bytes, USED * bytes);
    }
}

static void cache_grows(sqf_kv_type type)
{
    sqf_error err;
    sqf_context *context;
    const sqf_context_options options = {.threads = 1, .device = "cuda"};
    const sqf_config config = {.kv_heads = HEADS, .head_dim = DIM};
    sqf_device_cache cache;
    assert_ok(sqf_context_create(&options, &context, &err), &err);
    const sqf_device *device = context->device;
    assert_ok(sqf_device_cache_create(context, &config, LAYERS, FIRST, type, &cache, &err), &err);
    const size_t old = cache.capacity, old_bytes = cache.layer_bytes;
    uint8_t *before = malloc(LAYERS * old_bytes);
    assert_non_null(before);
    fill(before, LAYERS * old_bytes);
    assert_ok(device->ops->upload(device->cuda, cache.memory, before, LAYERS * old_bytes, &err), &err);
    assert_ok(sqf_device_cache_reserve(context, &config, &cache, USED, FIRST, 1000, &err), &err);
    assert_int_equal(cache.capacity, old);
    assert_ok(sqf_device_cache_reserve(context, &config, &cache, USED, old + 1, 1000, &err), &err);
    assert_int_equal(cache.capacity, 2 * old);
    uint8_t *after = malloc(LAYERS * cache.layer_bytes);
    assert_non_null(after);
    assert_ok(device->ops->download(device->cuda, after, cache.memory, LAYERS * cache.layer_bytes, &err), &err);
    const size_t row = DIM * sqf_kv_element(type), now = cache.capacity;
    for (size_t layer = 0; layer < LAYERS; layer++) {
        const uint8_t *a = before + layer * old_bytes, *b = after + layer * cache.layer_bytes;
        compare_heads(a, old, b, now, row);
        compare_heads(a + HEADS * old * row, old, b + HEADS * now * row, now, row);
        if (type == SQF_KV_INT8) {
            a += 2 * HEADS * old * row;
            b += 2 * HEADS * now * row;
            compare_heads(a, old, b, now, sizeof(float));
            compare_heads(a + HEADS * old * sizeof(float), old, b + HEADS * now * sizeof(float), now, sizeof(float));
        }
    }
    assert_ok(sqf_device_cache_reserve(context, &config, &cache, USED, 290, 300, &err), &err);
    assert_true(cache.capacity >= 300 && cache.capacity < 400);
    free(before);
    free(after);
    sqf_device_cache_clear(context, &cache);
    sqf_context_destroy(context);
}

static void test_caches_grow(void **state)
{
    (void)state;
    cache_grows(SQF_KV_F32);
    cache_grows(SQF_KV_F16);
    cache_grows(SQF_KV_INT8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_caches_grow)};
    return getenv("SQF_CUDA_LIBRARY") ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}

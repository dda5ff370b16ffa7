/* The KV cache of one sequence: keys and values of some layers, grown as the sequence does. It knows no length: what
 * lies beyond the tokens in use means nothing, so that truncating is the owner's matter alone. */
#ifndef SQF_MODEL_KV_CACHE_H
#define SQF_MODEL_KV_CACHE_H

#include "kernels/attention.h"
#include "model/config.h"

typedef struct sqf_kv_cache sqf_kv_cache;

/* Without room for positions yet. */
sqf_status sqf_kv_cache_create(const sqf_config *config, size_t layers, sqf_kv_type type, sqf_kv_cache **out,
                               sqf_error *err);
/* One layer in float32 with room for `positions`: scratch of a pass layer by layer. */
sqf_status sqf_kv_cache_create_layer(const sqf_config *config, size_t positions, sqf_kv_cache **out, sqf_error *err);
void sqf_kv_cache_destroy(sqf_kv_cache *cache);

/* Room for `positions`, keeping the first `used`. It doubles, up to `most` positions: a short text in a long session
 * costs little. After a failure the cache is as it was. Views from before are no longer valid. */
sqf_status sqf_kv_cache_reserve(sqf_kv_cache *cache, size_t used, size_t positions, size_t most, sqf_error *err);

/* One layer as attention reads it; valid until the next reserve. */
sqf_kv_view sqf_kv_cache_layer(const sqf_kv_cache *cache, size_t layer);

/* Bytes that a position takes in all layers together, scales included. */
uint64_t sqf_kv_cache_position_bytes(const sqf_kv_cache *cache);

#endif

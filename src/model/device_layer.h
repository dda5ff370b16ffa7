/* One decoder layer on a device, and its forward pass: what layer.h is on the CPU. Used whole by the model
 * (device_model.h) and one at a time by the quantization pipeline, which looks at the inputs of a layer.
 *
 * Everything is queued on the device's stream; whoever wants results or errors waits (ops->finish, ops->download). x,
 * norms, caches and what a tap sees are device memory. Every function is for contexts that have a device. */
#ifndef SQF_MODEL_DEVICE_LAYER_H
#define SQF_MODEL_DEVICE_LAYER_H

#include "device/device.h"
#include "model/layer.h"

/* A linear layer on the device. Parts of the weights that no one form holds together (an fp8 or bf16 part beside
 * another) are two products, whose sum is the layer's. Zero-initialise. */
enum { SQF_DEVICE_PARTS = 2 };
typedef struct sqf_device_linear {
    sqf_cuda_linear *parts[SQF_DEVICE_PARTS]; /* NULL beyond part_count */
    size_t part_count;
    size_t rows, columns;
    sqf_product_counts per_token;
} sqf_device_linear;

/* What sqf_linear_create is on the CPU, from the same parameters. `dense` weights and the matrix are read on the
 * context's threads and not kept; `arena` is not used. Release with sqf_device_linear_clear, also after a failure. */
sqf_status sqf_device_linear_create(sqf_context *context, const sqf_linear_params *params, sqf_device_linear *out,
                                    sqf_error *err);
void sqf_device_linear_clear(sqf_context *context, sqf_device_linear *linear);

/* Device memory that it would take. Arrays of the matrix are not looked at: its shape is enough (sqf_matrix_shape). */
sqf_status sqf_device_linear_plan(sqf_context *context, const sqf_linear_params *params, uint64_t *bytes,
                                  sqf_error *err);

/* A layer that computes. Immutable once loaded. Zero-initialise. */
typedef struct sqf_device_layer {
    size_t index;
    sqf_device_linear linear[SQF_LINEAR_COUNT];
    float *attention_norm, *mlp_norm;       /* device memory */
    float *query_norm, *key_norm;           /* device memory, or NULL */
    size_t rotation_factor, rotation_block; /* of the DOWN input, as sqf_rotation; factor 0 = none */
    float *rotation_matrix;                 /* device memory, or NULL */
} sqf_device_layer;

/* The norms and the rotation of a host layer; its linear layers are left alone, those of *out are the caller's to make.
 * Release with sqf_device_layer_clear, also after a failure. */
sqf_status sqf_device_layer_init(sqf_context *context, const sqf_config *config, const sqf_layer *host,
                                 sqf_device_layer *out, sqf_error *err);
void sqf_device_layer_clear(sqf_context *context, sqf_device_layer *layer);

/* The KV cache of one sequence in some layers. Zero-initialise. */
typedef struct sqf_device_cache {
    sqf_kv_type type;
    size_t layers, capacity; /* capacity: positions */
    size_t layer_bytes;
    uint8_t *memory; /* device memory */
    size_t kv_heads, head_dim;
} sqf_device_cache;
sqf_status sqf_device_cache_create(sqf_context *context, const sqf_config *config, size_t layers, size_t positions,
                                   sqf_kv_type type, sqf_device_cache *out, sqf_error *err);
void sqf_device_cache_clear(sqf_context *context, sqf_device_cache *cache);
/* Room for `positions`, keeping the first `used`: twice as many, at most `most`. After a failure the cache is as it
 * was. */
sqf_status sqf_device_cache_reserve(sqf_context *context, const sqf_config *config, sqf_device_cache *cache,
                                    size_t used, size_t positions, size_t most, sqf_error *err);
/* One layer as attention reads it. */
sqf_cuda_kv sqf_device_cache_layer(const sqf_device_cache *cache, size_t layer);
/* Bytes of `positions` in `layers`. */
uint64_t sqf_device_cache_bytes(const sqf_config *config, size_t layers, size_t positions, sqf_kv_type type);

/* Called with each distinct input before it is quantized: x [tokens, channels] device memory, valid until it returns
 * (what it queues on the device is in time). Notes of sqf_layer_tap hold here too. */
typedef struct sqf_device_tap {
    sqf_status (*input)(void *user, sqf_input_kind kind, const float *x, size_t tokens, size_t channels,
                        sqf_error *err);
    void *user;
    bool stops; /* the pass ends once `last` was seen */
    sqf_input_kind last;
} sqf_device_tap;

/* Buffers of passes on a device: activations, positions, rope angles. They grow and are reused. `config` is borrowed.
 */
typedef struct sqf_device_work sqf_device_work;
sqf_status sqf_device_work_create(sqf_context *context, const sqf_config *config, sqf_device_work **out,
                                  sqf_error *err);
void sqf_device_work_destroy(sqf_device_work *work);

/* The tokens of one sequence in a pass: token t stands at position past + t. */
typedef struct sqf_device_sequence {
    size_t tokens, past;
    const sqf_device_cache *cache;
    const uint32_t *ids; /* for sqf_device_work_embed alone; may be NULL */
} sqf_device_sequence;

/* Says which tokens the next passes have: through any number of layers. reach: 0, or for passes that are recorded an
 * upper bound of past + tokens of every sequence; those have a prepared input of their own, which others do not move.
 */
sqf_status sqf_device_work_set(sqf_device_work *work, const sqf_device_sequence *sequences, size_t count, size_t reach,
                               sqf_error *err);

/* Changes when a buffer moves: what was recorded before is of no use then. */
uint64_t sqf_device_work_version(const sqf_device_work *work);
/* Bytes of buffers for passes of so many tokens, about. */
uint64_t sqf_device_work_bytes(const sqf_config *config, uint64_t tokens);

/* x [tokens, hidden] = the rows of the tokens' ids in a dense table, device memory. */
sqf_status sqf_device_work_embed(sqf_device_work *work, const void *table, sqf_type dtype, float *x, sqf_error *err);

/* An input of products: x [tokens, columns], device memory, with what is to be done to it. It is prepared by the first
 * product of each form; one at a time on a workspace. */
typedef struct sqf_device_source {
    sqf_device_work *work;
    sqf_cuda_input *input;
    const float *x;
    size_t tokens;
    sqf_cuda_steps steps;
    const sqf_cuda_linear *prepared; /* the layer that the workspace's input was prepared for; NULL = none yet */
} sqf_device_source;
void sqf_device_source_init(sqf_device_work *work, const float *x, const sqf_cuda_steps *steps, size_t tokens,
                            bool recorded, sqf_device_source *out);
/* y [tokens, rows], device memory. Adds to the context's product counts. Not SQF_CUDA_GATE. */
sqf_status sqf_device_product(sqf_device_source *source, const sqf_device_linear *linear, float *y,
                              sqf_cuda_store store, sqf_error *err);

/* x [tokens of all sequences one behind the other, hidden], device memory, goes through the layer in place; the tokens
 * are those of the last sqf_device_work_set, keys and values go to layer `cache_layer` of their caches. tap may be
 * NULL. Adds to the context's product counts. */
sqf_status sqf_device_layer_forward(sqf_device_work *work, const sqf_device_layer *layer, size_t cache_layer, float *x,
                                    const sqf_device_tap *tap, sqf_error *err);

#endif

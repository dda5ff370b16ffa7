/* Attention over a KV cache of one sequence or of several, and how keys and values lie in the cache. */
#ifndef SQF_KERNELS_ATTENTION_H
#define SQF_KERNELS_ATTENTION_H

#include "base/context.h"
#include "kernels/kernels.h"

/* Keys and values of one layer and one sequence. Heads lie one behind the other, so that a head's positions are one
 * stretch of memory:
 *
 *    key     [kv_heads][capacity / 16][head_dim][16]   16 positions are the lanes of a vector: no sum across lanes
 *    value   [kv_heads][capacity][value_width]         value_width: head_dim padded with zeros to a multiple of 16
 *    scales  [kv_heads][capacity]                      INT8 only: value = code * scale
 *
 * Elements are float, fp16 or int8 by `type`. What lies beyond the positions in use means nothing. */
typedef struct sqf_kv_view {
    sqf_kv_type type;
    size_t kv_heads, head_dim, capacity;
    void *key, *value;
    float *key_scales, *value_scales;
} sqf_kv_view;

static inline size_t sqf_kv_value_width(size_t head_dim)
{
    return (head_dim + SQF_KV_PANEL - 1) / SQF_KV_PANEL * SQF_KV_PANEL;
}

/* Writes keys (after the rotary embedding) and values [count, kv_heads * head_dim] of the positions from `first` on.
 * F16 rounds to nearest and keeps finite numbers finite; INT8 has one symmetric scale a head and position. */
void sqf_kv_store(sqf_context *context, const sqf_kv_view *kv, size_t first, size_t count, const float *key,
                  const float *value);

/* Scratch memory of attention: zero-initialise, reuse (it only grows), sqf_attention_scratch_clear. */
typedef struct sqf_attention_scratch {
    float *data;
    size_t floats;
    struct sqf_attention_plan *plans; /* one a job */
    size_t plan_count;
} sqf_attention_scratch;

void sqf_attention_scratch_clear(sqf_attention_scratch *scratch);

/* Causal attention of one sequence. Token t of `query` stands at position past + t and sees the positions
 * max(0, past + t - window + 1) .. past + t (window 0 = all), its own included: they are in the cache already.
 * Groups of heads / kv_heads query heads share a key head. */
typedef struct sqf_attention_job {
    const float *query; /* [tokens, heads, head_dim] */
    sqf_kv_view kv;
    float *out; /* [tokens, heads, head_dim] */
    size_t tokens, past, heads, window;
    float scale;
} sqf_attention_job;

/* Runs `count` jobs (one sequence each) at once. Time is O(tokens * positions seen); memory beyond the cache does not
 * grow with the positions of a prefill. Allocates only where the scratch memory has to grow. */
sqf_status sqf_attention(sqf_context *context, const sqf_attention_job *jobs, size_t count,
                         sqf_attention_scratch *scratch, sqf_error *err);

#endif

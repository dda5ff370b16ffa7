/* What stands between the projections and attention: the norm of each head, the rotary embedding, and the way of keys
 * and values into the caches. Every number is that of the CPU bit for bit (kernels/cpu/vector.h, kernels/attention.c):
 * sums of squares are 64 partial sums, element i in partial i % 64, folded in halves, and nothing is contracted.
 *
 * A warp has one head of one token. What is rotated is computed again where it is needed twice (a scale first, codes
 * then) instead of being kept: heads may have any size. */
#include "kernels/cuda/decoder/decoder.h"
#include "kernels/cuda/instructions/attention.h"

enum { ROPE_WARPS = 4 };

/* Passed by value. */
typedef struct rope_job {
    float *query;
    const float *key, *value;
    const float *query_norm, *key_norm, *cosine, *sine;
    const int32_t *position, *sequence;
    const sqf_cuda_kv *kv;
    float epsilon;
    int tokens, heads, kv_heads, head_dim, capacity;
    sqf_kv_type type;
} rope_job;

/* A head as it goes on: normed and rotated as it is read. gain, cosine: NULL = not. */
typedef struct rope_head {
    const float *x, *gain, *cosine, *sine;
    float factor;
    int half;
} rope_head;

/* 1 / sqrt(mean(x^2) + epsilon) of a head. */
static __device__ __forceinline__ float norm_factor(const float *x, int n, float epsilon, int lane)
{
    float partial[2] = {0.0f, 0.0f};
    for (int i = lane; i < n; i += 64) {
        partial[0] += x[i] * x[i];
        if (i + 32 < n) {
            partial[1] += x[i + 32] * x[i + 32];
        }
    }
    const float mean = warp_sum(partial[0] + partial[1]) / (float)n;
    return 1.0f / sqrtf(mean + epsilon);
}

static __device__ __forceinline__ float normed(const rope_head &head, int i)
{
    const float x = head.x[i];
    return head.gain ? (x * head.factor) * head.gain[i] : x;
}

/* Elements i and i + half. */
static __device__ __forceinline__ float2 rotated(const rope_head &head, int i)
{
    const float a = normed(head, i), b = normed(head, i + head.half);
    if (!head.cosine) {
        return make_float2(a, b);
    }
    const float c = head.cosine[i], s = head.sine[i];
    return make_float2(a * c - b * s, b * c + a * s);
}

/* Beyond 65504 there is only infinity: finite numbers stay below. */
static __device__ __forceinline__ uint16_t cached_half(float x)
{
    const float limited = x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
    return limited != limited ? (uint16_t)0x7e00u : half_from_float(limited);
}

/* The largest |x| as integers order it: NaN and infinity come out on top. */
static __device__ __forceinline__ float head_maximum(const rope_head &head, int lane)
{
    unsigned most = 0;
    for (int i = lane; i < head.half; i += 32) {
        const float2 x = rotated(head, i);
        most = max(most, max(__float_as_uint(x.x) & 0x7fffffffu, __float_as_uint(x.y) & 0x7fffffffu));
    }
    return __uint_as_float(__reduce_max_sync(0xffffffffu, most));
}

/* x / scale rounded to nearest, ties to even, and limited; 0 where a scale has no codes. */
static __device__ __forceinline__ int8_t cached_code(float x, float scale)
{
    if (!(scale > 0.0f) || __float_as_uint(scale) == 0x7f800000u) {
        return 0;
    }
    const float q = x / scale;
    return (int8_t)rintf(q < -127.0f ? -127.0f : q > 127.0f ? 127.0f : q);
}

/* The head becomes row `slot` of a cache. */
static __device__ __forceinline__ void store_head(const rope_head &head, sqf_kv_type type, void *to, float *scales,
                                                  size_t slot, int lane)
{
    const size_t row = slot * (size_t)(2 * head.half);
    float scale = 0.0f;
    if (type == SQF_KV_INT8) {
        scale = head_maximum(head, lane) / 127.0f;
        if (lane == 0) {
            scales[slot] = scale;
        }
    }
    for (int i = lane; i < head.half; i += 32) {
        const float2 x = rotated(head, i);
        const size_t first = row + (size_t)i, second = first + (size_t)head.half;
        if (type == SQF_KV_F32) {
            ((float *)to)[first] = x.x;
            ((float *)to)[second] = x.y;
        } else if (type == SQF_KV_F16) {
            ((uint16_t *)to)[first] = cached_half(x.x);
            ((uint16_t *)to)[second] = cached_half(x.y);
        } else {
            ((int8_t *)to)[first] = cached_code(x.x, scale);
            ((int8_t *)to)[second] = cached_code(x.y, scale);
        }
    }
}

/* Heads of a token: those of the queries, of the keys, of the values. */
static __global__ void __launch_bounds__(ROPE_WARPS * 32) rope_store(rope_job job)
{
    const int lane = (int)threadIdx.x % 32, token = (int)blockIdx.x;
    const int index = (int)blockIdx.y * ROPE_WARPS + (int)threadIdx.x / 32;
    if (index >= job.heads + 2 * job.kv_heads) {
        return;
    }
    const bool is_query = index < job.heads, is_value = index >= job.heads + job.kv_heads;
    const int which = is_query ? index : (index - job.heads) % job.kv_heads, position = job.position[token];
    const size_t kv_row = ((size_t)token * (size_t)job.kv_heads + (size_t)which) * (size_t)job.head_dim;
    const size_t angles = (size_t)position * (size_t)(job.head_dim / 2);
    float *query = job.query + ((size_t)token * (size_t)job.heads + (size_t)which) * (size_t)job.head_dim;
    rope_head head = {
        is_query ? query : (is_value ? job.value : job.key) + kv_row, NULL, NULL, NULL, 0.0f, job.head_dim / 2};
    if (!is_value) {
        head.gain = is_query ? job.query_norm : job.key_norm;
        head.cosine = job.cosine + angles;
        head.sine = job.sine + angles;
    }
    if (head.gain) {
        head.factor = norm_factor(head.x, job.head_dim, job.epsilon, lane);
    }
    if (is_query) {
        for (int i = lane; i < head.half; i += 32) {
            const float2 x = rotated(head, i);
            query[i] = x.x;
            query[i + head.half] = x.y;
        }
        return;
    }
    const sqf_cuda_kv kv = job.kv[job.sequence[token]];
    const size_t slot = (size_t)which * (size_t)job.capacity + (size_t)position;
    store_head(head, job.type, is_value ? kv.value : kv.key, is_value ? kv.value_scales : kv.key_scales, slot, lane);
}

sqf_status cuda_rope_store(sqf_cuda_device *device, const sqf_cuda_attention_spec *spec, const sqf_cuda_batch *batch,
                           const float *query_norm, const float *key_norm, float epsilon, const float *cosine,
                           const float *sine, float *query, const float *key, const float *value, const sqf_cuda_kv *kv,
                           sqf_error *err)
{
    if (spec->head_dim % 2 != 0) {
        return sqf_fail(err, SQF_E_SHAPE, "rope: heads of %zu elements, expected an even number", spec->head_dim);
    }
    if (batch->tokens == 0) {
        return SQF_OK;
    }
    const rope_job job = {query,
                          key,
                          value,
                          query_norm,
                          key_norm,
                          cosine,
                          sine,
                          batch->position,
                          batch->sequence,
                          kv,
                          epsilon,
                          (int)batch->tokens,
                          (int)spec->heads,
                          (int)spec->kv_heads,
                          (int)spec->head_dim,
                          (int)spec->capacity,
                          spec->type};
    const size_t heads = spec->heads + 2 * spec->kv_heads;
    CUDA_TRY(cuda_launch(device->stream, rope_store,
                         dim3((unsigned)batch->tokens, (unsigned)((heads + ROPE_WARPS - 1) / ROPE_WARPS)),
                         dim3(ROPE_WARPS * 32), 0, job),
             "rope");
    return SQF_OK;
}

/* Attention in tiles with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): tiles of queries and keys,
 * running maximum and sum, so that the scores of a long prompt are never in memory at once. */
#include "kernels/attention.h"

#include <math.h>
#include <string.h>

#include <cblas.h>

#include "base/memory.h"
#include "format/type.h"
#include "kernels/dispatch.h"

/* ---- storing ---- */

typedef struct store_job {
    const sqf_kernels *kernels;
    const sqf_kv_view *kv;
    const float *key, *value;
    size_t first, count;
} store_job;

enum { STORE_POSITIONS = 64, HEAD_BLOCK = 64 };

static uint16_t half_of(float x)
{
    const float limited = x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
    return sqf_fp16_from_float(limited);
}

/* A scale that is not finite stays one: the score or the output becomes NaN, as it would from the numbers. */
static float int8_scale(const sqf_kernels *kernels, const float *x, size_t n)
{
    return kernels->absmax(x, n) / 127.0f;
}

static void to_codes(const sqf_kernels *kernels, const float *x, size_t n, float scale, int8_t *codes)
{
    if (scale > 0.0f && isfinite(scale)) {
        kernels->quantize(x, n, scale, -127.0f, 127.0f, 0, codes);
    } else {
        memset(codes, 0, n);
    }
}

/* x, n elements of a head, to elements `stride` apart. */
static void store_elements(const store_job *job, const float *x, size_t n, float scale, void *to, size_t stride)
{
    int8_t codes[HEAD_BLOCK];
    for (size_t begin = 0; begin < n; begin += HEAD_BLOCK) {
        const size_t count = n - begin < HEAD_BLOCK ? n - begin : HEAD_BLOCK;
        if (job->kv->type == SQF_KV_INT8) {
            to_codes(job->kernels, x + begin, count, scale, codes);
        }
        for (size_t i = 0; i < count; i++) {
            const size_t at = (begin + i) * stride;
            switch (job->kv->type) {
            case SQF_KV_F32: ((float *)to)[at] = x[begin + i]; break;
            case SQF_KV_F16: ((uint16_t *)to)[at] = half_of(x[begin + i]); break;
            case SQF_KV_INT8: ((int8_t *)to)[at] = codes[i]; break;
            }
        }
    }
}

static void store_position(const store_job *job, size_t head, size_t i)
{
    const sqf_kv_view *kv = job->kv;
    const size_t dim = kv->head_dim, width = sqf_kv_value_width(dim), element = sqf_kv_element(kv->type);
    const size_t position = job->first + i, slot = head * kv->capacity + position;
    const float *key = job->key + (i * kv->kv_heads + head) * dim,
                *value = job->value + (i * kv->kv_heads + head) * dim;
    float key_scale = 0.0f, value_scale = 0.0f;
    if (kv->type == SQF_KV_INT8) {
        kv->key_scales[slot] = key_scale = int8_scale(job->kernels, key, dim);
        kv->value_scales[slot] = value_scale = int8_scale(job->kernels, value, dim);
    }
    const size_t panel = slot / SQF_KV_PANEL * SQF_KV_PANEL * dim + position % SQF_KV_PANEL;
    store_elements(job, key, dim, key_scale, (uint8_t *)kv->key + panel * element, SQF_KV_PANEL);
    uint8_t *row = (uint8_t *)kv->value + slot * width * element;
    store_elements(job, value, dim, value_scale, row, 1);
    memset(row + dim * element, 0, (width - dim) * element);
}

static void store_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const store_job *job = user;
    const size_t head = task % job->kv->kv_heads, begin = task / job->kv->kv_heads * STORE_POSITIONS;
    const size_t end = begin + STORE_POSITIONS < job->count ? begin + STORE_POSITIONS : job->count;
    for (size_t i = begin; i < end; i++) {
        store_position(job, head, i);
    }
}

void sqf_kv_store(sqf_context *context, const sqf_kv_view *kv, size_t first, size_t count, const float *key,
                  const float *value)
{
    store_job job = {context->kernels, kv, key, value, first, count};
    sqf_pool *pool = count > 1 ? context->pool : NULL; /* one position is not worth waking threads */
    sqf_pool_run(pool, kv->kv_heads * sqf_ceil_div(count, STORE_POSITIONS), store_task, &job);
}

void sqf_attention_scratch_clear(sqf_attention_scratch *scratch)
{
    free(scratch->data);
    *scratch = (sqf_attention_scratch){0};
}

/* ---- tiles as floats ---- */

static float element_of(sqf_kv_type type, const void *from, size_t at)
{
    switch (type) {
    case SQF_KV_F32: return ((const float *)from)[at];
    case SQF_KV_F16: return sqf_fp16_to_float(((const uint16_t *)from)[at]);
    default: return (float)((const int8_t *)from)[at];
    }
}

static void load_keys(const sqf_kv_view *kv, size_t head, size_t begin, size_t count, float *out)
{
    for (size_t i = 0; i < count; i++) {
        const size_t slot = head * kv->capacity + begin + i;
        const float scale = kv->type == SQF_KV_INT8 ? kv->key_scales[slot] : 1.0f;
        for (size_t d = 0; d < kv->head_dim; d++) {
            const size_t at = (slot / SQF_KV_PANEL * kv->head_dim + d) * SQF_KV_PANEL + slot % SQF_KV_PANEL;
            out[i * kv->head_dim + d] = element_of(kv->type, kv->key, at) * scale;
        }
    }
}

static void load_values(const sqf_kv_view *kv, size_t head, size_t begin, size_t count, float *out)
{
    const size_t width = sqf_kv_value_width(kv->head_dim);
    for (size_t i = 0; i < count; i++) {
        const size_t slot = head * kv->capacity + begin + i;
        const float scale = kv->type == SQF_KV_INT8 ? kv->value_scales[slot] : 1.0f;
        for (size_t d = 0; d < kv->head_dim; d++) {
            out[i * kv->head_dim + d] = element_of(kv->type, kv->value, slot * width + d) * scale;
        }
    }
}

/* ---- attention ---- */

enum {
    /* Tiles: 64 x 128 scores are 32 KiB, a tile of keys or values of heads with 128 dimensions 64 KiB; both stay in
     * L2. For a few queries (decoding) BLAS would spend more on copying keys than on products. */
    QUERY_TILE = 64,
    KEY_TILE = 128,
    DIRECT_QUERIES = 3 /* up to so many queries use dot products, beyond BLAS */
};

/* What all tasks of one attention share. */
typedef struct attention_tiles {
    const sqf_kernels *kernels;
    const sqf_attention_job *job;
    float *scratch;
    size_t scratch_floats; /* of one thread */
} attention_tiles;

/* Some queries of one head while the keys pass by: one task. Invariant after each tile of keys: sums and total are
 * those of all keys seen so far, with the weights exp(score - largest). */
typedef struct query_tile {
    const attention_tiles *tiles;
    size_t head, first, count; /* tokens of the query */
    float *scores;             /* [QUERY_TILE][KEY_TILE] */
    float *sums;               /* [QUERY_TILE][head_dim] of exp(score - largest) * value */
    float *tile;               /* [KEY_TILE][head_dim] keys or values as floats */
    float *largest, *total;    /* [QUERY_TILE] of the scores so far */
} query_tile;

/* First position that token `t` sees; the last is past + t. The token itself is always seen: no row is without
 * weights. */
static size_t first_visible(const sqf_attention_job *job, size_t t)
{
    const size_t position = job->past + t;
    return job->window == 0 || position < job->window ? 0 : position - job->window + 1;
}

/* scores[q][key] = query . key, not yet scaled */
static void tile_scores(const query_tile *self, size_t begin, size_t count)
{
    const sqf_attention_job *job = self->tiles->job;
    const size_t query_stride = job->heads * job->kv.head_dim, key_stride = job->kv.head_dim;
    const size_t kv_head = self->head / (job->heads / job->kv.kv_heads);
    const float *query = job->query + self->first * query_stride + self->head * job->kv.head_dim;
    const float *key = self->tile;
    load_keys(&job->kv, kv_head, begin, count, self->tile);
    if (self->count > DIRECT_QUERIES) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)self->count, (blasint)count,
                    (blasint)job->kv.head_dim, job->scale, query, (blasint)query_stride, key, (blasint)key_stride, 0.0f,
                    self->scores, KEY_TILE);
        return;
    }
    for (size_t q = 0; q < self->count; q++) {
        float *scores = self->scores + q * KEY_TILE;
        self->tiles->kernels->dots(key, key_stride, count, query + q * query_stride, job->kv.head_dim, scores);
        self->tiles->kernels->scale(scores, job->scale, count);
    }
}

/* Scores of query q over [begin, begin + count) become weights; what it does not see weighs 0. When the largest score
 * rises, what was summed before is scaled down to it (`shrink`); exp never sees a positive argument, so nothing
 * overflows. */
static void tile_softmax(const query_tile *self, size_t q, size_t begin, size_t count)
{
    const sqf_attention_job *job = self->tiles->job;
    const sqf_kernels *kernels = self->tiles->kernels;
    float *scores = self->scores + q * KEY_TILE;
    const size_t token = self->first + q, seen_from = first_visible(job, token), seen_to = job->past + token + 1;
    const size_t from = seen_from > begin ? seen_from - begin : 0;
    const size_t to = seen_to >= begin + count ? count : seen_to > begin ? seen_to - begin : 0;
    if (from >= to) {
        memset(scores, 0, count * sizeof *scores);
        return;
    }
    memset(scores, 0, from * sizeof *scores);
    memset(scores + to, 0, (count - to) * sizeof *scores);
    const float largest = fmaxf(self->largest[q], kernels->maximum(scores + from, to - from));
    float shrink = self->largest[q] - largest; /* -infinity for the first tile that is seen */
    kernels->exp_sum(&shrink, 0.0f, 1);
    self->total[q] = self->total[q] * shrink + kernels->exp_sum(scores + from, largest, to - from);
    kernels->scale(self->sums + q * job->kv.head_dim, shrink, job->kv.head_dim);
    self->largest[q] = largest;
}

/* sums[q] += weights[q][key] * value[key] */
static void tile_values(const query_tile *self, size_t begin, size_t count)
{
    const sqf_attention_job *job = self->tiles->job;
    const size_t value_stride = job->kv.head_dim;
    const size_t kv_head = self->head / (job->heads / job->kv.kv_heads);
    const float *value = self->tile;
    load_values(&job->kv, kv_head, begin, count, self->tile);
    if (self->count > DIRECT_QUERIES) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)self->count, (blasint)job->kv.head_dim,
                    (blasint)count, 1.0f, self->scores, KEY_TILE, value, (blasint)value_stride, 1.0f, self->sums,
                    (blasint)job->kv.head_dim);
        return;
    }
    for (size_t q = 0; q < self->count; q++) {
        self->tiles->kernels->weighted_sum(self->scores + q * KEY_TILE, value, value_stride, count, job->kv.head_dim,
                                           self->sums + q * job->kv.head_dim);
    }
}

/* One head and up to 64 queries: all keys from the first that the first query sees to the last that the last one
 * sees. */
static void attention_task(void *user, size_t task, unsigned thread)
{
    const attention_tiles *tiles = user;
    const sqf_attention_job *job = tiles->job;
    query_tile self = {.tiles = tiles, .head = task % job->heads, .first = task / job->heads * QUERY_TILE};
    self.count = job->tokens - self.first < QUERY_TILE ? job->tokens - self.first : QUERY_TILE;
    self.scores = tiles->scratch + thread * tiles->scratch_floats;
    self.largest = self.scores + QUERY_TILE * KEY_TILE;
    self.total = self.largest + QUERY_TILE;
    self.sums = self.total + QUERY_TILE;
    self.tile = self.sums + QUERY_TILE * job->kv.head_dim;
    for (size_t q = 0; q < self.count; q++) {
        self.largest[q] = -INFINITY;
        self.total[q] = 0.0f;
    }
    memset(self.sums, 0, self.count * job->kv.head_dim * sizeof *self.sums);
    const size_t end = job->past + self.first + self.count;
    for (size_t begin = first_visible(job, self.first); begin < end; begin += KEY_TILE) {
        const size_t count = end - begin < KEY_TILE ? end - begin : KEY_TILE;
        tile_scores(&self, begin, count);
        for (size_t q = 0; q < self.count; q++) {
            tile_softmax(&self, q, begin, count);
        }
        tile_values(&self, begin, count);
    }
    for (size_t q = 0; q < self.count; q++) {
        float *out = job->out + ((self.first + q) * job->heads + self.head) * job->kv.head_dim;
        memcpy(out, self.sums + q * job->kv.head_dim, job->kv.head_dim * sizeof *out);
        tiles->kernels->scale(out, 1.0f / self.total[q], job->kv.head_dim);
    }
}

static sqf_status run_job(sqf_context *context, const sqf_attention_job *job, sqf_attention_scratch *scratch,
                          sqf_error *err)
{
    if (job->kv.kv_heads == 0 || job->heads % job->kv.kv_heads != 0) {
        return sqf_fail(err, SQF_E_ARG, "attention: %zu heads over %zu key heads, expected a multiple", job->heads,
                        job->kv.kv_heads);
    }
    attention_tiles tiles = {.kernels = context->kernels, .job = job};
    tiles.scratch_floats =
        (QUERY_TILE * (KEY_TILE + 2 + job->kv.head_dim) + KEY_TILE * job->kv.head_dim + 15) / 16 * 16;
    const size_t floats = tiles.scratch_floats * sqf_pool_threads(context->pool);
    if (floats > scratch->floats) {
        sqf_attention_scratch_clear(scratch);
        SQF_TRY(SQF_ALLOC(&scratch->data, floats, "attention tiles", err));
        scratch->floats = floats;
    }
    tiles.scratch = scratch->data;
    sqf_pool_run(context->pool, job->heads * sqf_ceil_div(job->tokens, QUERY_TILE), attention_task, &tiles);
    return SQF_OK;
}

sqf_status sqf_attention(sqf_context *context, const sqf_attention_job *jobs, size_t count,
                         sqf_attention_scratch *scratch, sqf_error *err)
{
    for (size_t i = 0; i < count; i++) {
        SQF_TRY(run_job(context, &jobs[i], scratch, err));
    }
    return SQF_OK;
}

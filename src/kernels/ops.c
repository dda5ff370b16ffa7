/* The forward pass outside of the linear layers: each operation cut into tasks by its shape alone, never by the
 * number of threads, and computed by the level's vector kernels.
 *
 * Attention is the tiled one with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): tiles of queries
 * and keys, running maximum and sum, so that the scores of a long prompt are never in memory at once. */
#include "kernels/ops.h"

#include <math.h>
#include <string.h>

#include <cblas.h>

#include "base/memory.h"
#include "kernels/dispatch.h"

enum { ELEMENT_BLOCK = 1 << 14 }; /* elements of a task where every element stands alone */

/* ---- elementwise ---- */

/* Arguments of a task over rows; likewise below. */
typedef struct rows_job {
    const sqf_kernels *kernels;
    const float *x, *gain;
    float *y;
    float epsilon;
    size_t rows, n, rows_per_task;
} rows_job;

/* Rows are short (a hidden state): one row is one sum in the kernels' prescribed order. */
static void rmsnorm_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const rows_job *job = user;
    const size_t begin = task * job->rows_per_task;
    const size_t end = begin + job->rows_per_task < job->rows ? begin + job->rows_per_task : job->rows;
    for (size_t r = begin; r < end; r++) {
        const float *x = job->x + r * job->n;
        const float mean = job->kernels->sum_squares(x, job->n) / (float)job->n;
        job->kernels->scale_gain(x, job->gain, 1.0f / sqrtf(mean + job->epsilon), job->n, job->y + r * job->n);
    }
}

/* Rows that together have some ELEMENT_BLOCK elements. */
static size_t rows_in_task(size_t n)
{
    return n >= ELEMENT_BLOCK || n == 0 ? 1 : ELEMENT_BLOCK / n;
}

void sqf_rmsnorm(sqf_context *context, const float *x, const float *gain, float epsilon, size_t rows, size_t n,
                 float *y)
{
    rows_job job = {context->kernels, x, gain, y, epsilon, rows, n, rows_in_task(n)};
    sqf_pool_run(context->pool, sqf_ceil_div(rows, job.rows_per_task), rmsnorm_task, &job);
}

typedef struct rope_job {
    const sqf_kernels *kernels;
    float *x;
    const float *cosine, *sine;
    size_t tokens, heads, head_dim, tokens_per_task;
} rope_job;

/* Whole tokens: all heads of a token share its angles. */
static void rope_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const rope_job *job = user;
    const size_t half = job->head_dim / 2, begin = task * job->tokens_per_task;
    const size_t end = begin + job->tokens_per_task < job->tokens ? begin + job->tokens_per_task : job->tokens;
    for (size_t t = begin; t < end; t++) {
        for (size_t h = 0; h < job->heads; h++) {
            job->kernels->rotate(job->x + (t * job->heads + h) * job->head_dim, job->cosine + t * half,
                                 job->sine + t * half, half);
        }
    }
}

void sqf_rope_apply(sqf_context *context, float *x, const float *cosine, const float *sine, size_t tokens, size_t heads,
                    size_t head_dim)
{
    rope_job job = {context->kernels, x, cosine, sine, tokens, heads, head_dim, rows_in_task(heads * head_dim)};
    sqf_pool_run(context->pool, sqf_ceil_div(tokens, job.tokens_per_task), rope_task, &job);
}

typedef struct elements_job {
    const sqf_kernels *kernels;
    const float *a, *b;
    float *y;
    size_t n;
} elements_job;

/* Elements of this task's block: ELEMENT_BLOCK, fewer in the last. */
static size_t block_length(size_t n, size_t task)
{
    const size_t left = n - task * ELEMENT_BLOCK;
    return left < ELEMENT_BLOCK ? left : ELEMENT_BLOCK;
}

static void silu_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const elements_job *job = user;
    const size_t at = task * ELEMENT_BLOCK;
    job->kernels->silu_mul(job->a + at, job->b + at, block_length(job->n, task), job->y + at);
}

void sqf_silu_mul(sqf_context *context, const float *gate, const float *up, size_t n, float *y)
{
    elements_job job = {context->kernels, gate, up, y, n};
    sqf_pool_run(context->pool, sqf_ceil_div(n, ELEMENT_BLOCK), silu_task, &job);
}

static void add_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const elements_job *job = user;
    const size_t at = task * ELEMENT_BLOCK;
    job->kernels->add(job->y + at, job->b + at, block_length(job->n, task));
}

void sqf_add(sqf_context *context, float *x, const float *y, size_t n)
{
    elements_job job = {context->kernels, NULL, y, x, n};
    sqf_pool_run(context->pool, sqf_ceil_div(n, ELEMENT_BLOCK), add_task, &job);
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
    const size_t query_stride = job->heads * job->head_dim, key_stride = job->kv_heads * job->head_dim;
    const size_t kv_head = self->head / (job->heads / job->kv_heads);
    const float *query = job->query + self->first * query_stride + self->head * job->head_dim;
    const float *key = job->key + begin * key_stride + kv_head * job->head_dim;
    if (self->count > DIRECT_QUERIES) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)self->count, (blasint)count,
                    (blasint)job->head_dim, job->scale, query, (blasint)query_stride, key, (blasint)key_stride, 0.0f,
                    self->scores, KEY_TILE);
        return;
    }
    for (size_t q = 0; q < self->count; q++) {
        float *scores = self->scores + q * KEY_TILE;
        self->tiles->kernels->dots(key, key_stride, count, query + q * query_stride, job->head_dim, scores);
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
    kernels->scale(self->sums + q * job->head_dim, shrink, job->head_dim);
    self->largest[q] = largest;
}

/* sums[q] += weights[q][key] * value[key] */
static void tile_values(const query_tile *self, size_t begin, size_t count)
{
    const sqf_attention_job *job = self->tiles->job;
    const size_t value_stride = job->kv_heads * job->head_dim;
    const size_t kv_head = self->head / (job->heads / job->kv_heads);
    const float *value = job->value + begin * value_stride + kv_head * job->head_dim;
    if (self->count > DIRECT_QUERIES) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)self->count, (blasint)job->head_dim,
                    (blasint)count, 1.0f, self->scores, KEY_TILE, value, (blasint)value_stride, 1.0f, self->sums,
                    (blasint)job->head_dim);
        return;
    }
    for (size_t q = 0; q < self->count; q++) {
        self->tiles->kernels->weighted_sum(self->scores + q * KEY_TILE, value, value_stride, count, job->head_dim,
                                           self->sums + q * job->head_dim);
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
    for (size_t q = 0; q < self.count; q++) {
        self.largest[q] = -INFINITY;
        self.total[q] = 0.0f;
    }
    memset(self.sums, 0, self.count * job->head_dim * sizeof *self.sums);
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
        float *out = job->out + ((self.first + q) * job->heads + self.head) * job->head_dim;
        memcpy(out, self.sums + q * job->head_dim, job->head_dim * sizeof *out);
        tiles->kernels->scale(out, 1.0f / self.total[q], job->head_dim);
    }
}

sqf_status sqf_attention(sqf_context *context, const sqf_attention_job *job, sqf_error *err)
{
    if (job->kv_heads == 0 || job->heads % job->kv_heads != 0) {
        return sqf_fail(err, SQF_E_ARG, "attention: %zu heads over %zu key heads, expected a multiple", job->heads,
                        job->kv_heads);
    }
    attention_tiles tiles = {.kernels = context->kernels, .job = job};
    tiles.scratch_floats = (QUERY_TILE * (KEY_TILE + 2 + job->head_dim) + 15) / 16 * 16;
    SQF_TRY(SQF_ALLOC(&tiles.scratch, tiles.scratch_floats * sqf_pool_threads(context->pool), "attention tiles", err));
    sqf_pool_run(context->pool, job->heads * sqf_ceil_div(job->tokens, QUERY_TILE), attention_task, &tiles);
    free(tiles.scratch);
    return SQF_OK;
}

/* ---- conversion and logits ---- */

void sqf_to_float(sqf_type type, const void *from, size_t n, float *y)
{
    /* There is no context here, and none is needed: exact conversions are the same at every level. */
    if (type == SQF_TYPE_FP32) {
        memcpy(y, from, n * sizeof *y);
        return;
    }
    const sqf_kernels *kernels = sqf_kernels_find(NULL);
    if (type == SQF_TYPE_BF16) {
        kernels->from_bf16(from, n, y);
    } else {
        kernels->from_fp16(from, n, y);
    }
}

/* log p = x - (largest + log sum exp(x - largest)), in double and in order of the ids. */
double sqf_log_softmax(const float *logits, size_t n, size_t target, double *all)
{
    double largest = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        largest = fmax(largest, (double)logits[i]);
    }
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += exp((double)logits[i] - largest);
    }
    const double shift = largest + log(sum);
    for (size_t i = 0; all && i < n; i++) {
        all[i] = (double)logits[i] - shift;
    }
    return (double)logits[target] - shift;
}

float sqf_fitted_factor(const float *a, const float *b, size_t n)
{
    double product = 0.0, square = 0.0;
    for (size_t i = 0; i < n; i++) {
        product += (double)a[i] * (double)b[i];
        square += (double)b[i] * (double)b[i];
    }
    return square > 0.0 && product > 0.0 ? (float)(product / square) : 1.0f;
}

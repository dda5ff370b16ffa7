/* Attention in tiles with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022), cut into tasks by the shape
 * of the problem alone.
 *
 * The query heads that share a key head go through its keys and values together, as rows of one matrix: what is read
 * from the cache is read once for all of them. A prompt is cut into blocks of queries, each of which sees all its keys
 * in one task. Where there are few queries (decoding), the keys are cut into stretches too, at fixed positions, and the
 * parts are put together in order of the stretches. */
#include "kernels/attention.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* ---- storing ---- */

enum { STORE_POSITIONS = 64, ENCODED = 64 };

typedef struct store_job {
    const sqf_kernels *kernels;
    const sqf_kv_view *kv;
    const float *key, *value; /* [count, kv_heads, head_dim] */
    size_t first, count;
} store_job;

/* n floats as stored elements. A scale that is not finite has no codes; the product with it is NaN again, as what was
 * computed from the numbers would be. */
static void encode(const store_job *job, const float *x, size_t n, float scale, void *out)
{
    switch (job->kv->type) {
    case SQF_KV_F32: memcpy(out, x, n * sizeof *x); break;
    case SQF_KV_F16: job->kernels->to_halves(x, n, out); break;
    case SQF_KV_INT8:
        memset(out, 0, n);
        if (scale > 0.0f && isfinite(scale)) {
            job->kernels->quantize(x, n, scale, -127.0f, 127.0f, 0, out);
        }
        break;
    }
}

/* Elements to places SQF_KV_PANEL elements apart. */
static void scatter(const void *from, size_t n, size_t element, void *to)
{
    const uint8_t *bytes = from;
    const uint16_t *halves = from;
    const uint32_t *words = from;
    for (size_t i = 0; i < n; i++) {
        switch (element) {
        case 1: ((uint8_t *)to)[i * SQF_KV_PANEL] = bytes[i]; break;
        case 2: ((uint16_t *)to)[i * SQF_KV_PANEL] = halves[i]; break;
        default: ((uint32_t *)to)[i * SQF_KV_PANEL] = words[i]; break;
        }
    }
}

static void store_position(const store_job *job, size_t head, size_t i)
{
    const sqf_kv_view *kv = job->kv;
    const size_t dim = kv->head_dim, width = sqf_kv_value_width(dim), element = sqf_kv_element(kv->type);
    const size_t slot = head * kv->capacity + job->first + i, from = (i * kv->kv_heads + head) * dim;
    float key_scale = 0.0f, value_scale = 0.0f;
    if (kv->type == SQF_KV_INT8) {
        kv->key_scales[slot] = key_scale = job->kernels->absmax(job->key + from, dim) / 127.0f;
        kv->value_scales[slot] = value_scale = job->kernels->absmax(job->value + from, dim) / 127.0f;
    }
    uint8_t *panel = (uint8_t *)kv->key + (slot / SQF_KV_PANEL * dim * SQF_KV_PANEL + slot % SQF_KV_PANEL) * element;
    for (size_t at = 0; at < dim; at += ENCODED) {
        _Alignas(64) uint8_t encoded[ENCODED * sizeof(float)];
        const size_t n = dim - at < ENCODED ? dim - at : ENCODED;
        encode(job, job->key + from + at, n, key_scale, encoded);
        scatter(encoded, n, element, panel + at * SQF_KV_PANEL * element);
    }
    uint8_t *row = (uint8_t *)kv->value + slot * width * element;
    encode(job, job->value + from, dim, value_scale, row);
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
    sqf_pool *pool = count > SQF_KV_PANEL ? context->pool : NULL; /* few positions are not worth waking threads */
    sqf_pool_run(pool, kv->kv_heads * sqf_ceil_div(count, STORE_POSITIONS), store_task, &job);
}

void sqf_attention_scratch_clear(sqf_attention_scratch *scratch)
{
    free(scratch->data);
    free(scratch->plans);
    *scratch = (sqf_attention_scratch){0};
}

/* ---- the plan ---- */

enum {
    TASK_ROWS = 96,     /* queries times heads of a group in a task: a tile is converted once for so many */
    KEY_TILE = 128,     /* positions of a tile of a prompt: keys and values of 64 dimensions take 64 KiB as floats */
    STRETCH = 1024,     /* positions of a task of few queries */
    STRETCH_TILE = 256, /* of which so many are a tile; SQF_SCORE_STRIDE at most */
    SPLIT_TOKENS = 8,   /* up to so many queries are few */
    CONVERT_CALLS = 3   /* so many calls of the kernels over a tile make its conversion worth while */
};

/* log2(e): weights are powers of two. */
static const float LOG2_E = 1.44269504f;

/* How one job is cut: tasks are [blocks][kv heads]. A block is some queries, the last ones first because they see the
 * most, or a stretch of positions. */
typedef struct sqf_attention_plan {
    size_t group; /* query heads of a key head */
    size_t block_tokens, blocks;
    size_t first_stretch;
    bool split;                     /* blocks are stretches, of which there are several */
    size_t first_task, first_merge; /* tasks of the jobs before */
    size_t partial;                 /* offset of the parts in the scratch memory */
} plan;

/* Parts of one key head of a split job: largest scores and totals [rows][slots], sums [rows][blocks][width]. */
typedef struct parts {
    float *largest, *totals, *sums;
    size_t slots; /* blocks, padded to a multiple of 16 */
} parts;

/* What all tasks share. */
typedef struct attention_run {
    const sqf_kernels *kernels;
    const sqf_attention_job *jobs;
    const plan *plans;
    size_t count;
    float *scratch;
    size_t thread_floats; /* scratch of one thread; the parts of split jobs lie behind that of all threads */
    float *partial;
} attention_run;

/* First position that token `t` sees; the last is past + t. The token itself is always seen: no row is without
 * weights. */
static size_t first_visible(const sqf_attention_job *job, size_t t)
{
    const size_t position = job->past + t;
    return job->window == 0 || position < job->window ? 0 : position - job->window + 1;
}

static size_t round_up(size_t n)
{
    return sqf_ceil_div(n, SQF_KV_PANEL) * SQF_KV_PANEL;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static plan make_plan(const sqf_attention_job *job)
{
    plan p = {.group = job->heads / job->kv.kv_heads};
    p.block_tokens = larger(1, smaller(job->tokens, TASK_ROWS / p.group));
    p.blocks = sqf_ceil_div(job->tokens, p.block_tokens);
    if (job->tokens > 0 && job->tokens <= SPLIT_TOKENS) {
        p.block_tokens = job->tokens;
        p.first_stretch = first_visible(job, 0) / STRETCH;
        p.blocks = sqf_ceil_div(job->past + job->tokens, STRETCH) - p.first_stretch;
        p.split = p.blocks > 1;
    }
    return p;
}

static size_t rows_of(const sqf_attention_job *job)
{
    return job->tokens * (job->heads / job->kv.kv_heads);
}

static size_t part_floats(const sqf_attention_job *job, const plan *p)
{
    return rows_of(job) * (2 * round_up(p->blocks) + p->blocks * sqf_kv_value_width(job->kv.head_dim));
}

static parts parts_of(const attention_run *run, size_t index, size_t kv_head)
{
    const sqf_attention_job *job = &run->jobs[index];
    const plan *p = &run->plans[index];
    parts part = {.largest = run->partial + p->partial + kv_head * part_floats(job, p), .slots = round_up(p->blocks)};
    part.totals = part.largest + rows_of(job) * part.slots;
    part.sums = part.totals + rows_of(job) * part.slots;
    return part;
}

/* Scratch memory of a task: offsets in floats. */
typedef struct scratch_layout {
    size_t query, sums, totals, largest, scores, keys, values, end;
} scratch_layout;

static scratch_layout layout_of(const sqf_attention_job *job, const plan *p)
{
    const size_t calls = sqf_ceil_div(p->block_tokens * p->group, SQF_ATTENTION_ROWS);
    const size_t rows = calls * SQF_ATTENTION_ROWS, width = sqf_kv_value_width(job->kv.head_dim);
    const size_t converted = job->kv.type == SQF_KV_F32 ? 0 : SQF_SCORE_STRIDE;
    scratch_layout at = {0};
    at.sums = at.query + rows * width;
    at.totals = at.sums + rows * width;
    at.largest = at.totals + rows * SQF_KV_PANEL;
    at.scores = at.largest + round_up(rows);
    at.keys = at.scores + SQF_ATTENTION_ROWS * SQF_SCORE_STRIDE;
    at.values = at.keys + converted * width;
    at.end = at.values + converted * width;
    return at;
}

/* ---- a task ---- */

/* Some queries of one key head while the keys pass by. Invariant after each tile: sums and totals are those of all
 * keys seen so far, with the weights 2^(score - largest). Row r is head r % group of token first + r / group. */
typedef struct query_block {
    const sqf_kernels *kernels;
    const sqf_attention_job *job;
    size_t kv_head, group, first, rows;
    size_t call_rows;     /* rows of one call of the kernels */
    float *query;         /* [calls][head_dim][SQF_ATTENTION_ROWS] */
    float *sums;          /* [rows][width] */
    float *totals;        /* [rows][16] partial sums */
    float *largest;       /* [rows] */
    float *scores;        /* [SQF_ATTENTION_ROWS][SQF_SCORE_STRIDE] */
    float *keys, *values; /* a converted tile */
} query_block;

/* Queries times scale / ln 2, so that scores are exponents of two. */
static void pack_queries(const query_block *self)
{
    const sqf_attention_job *job = self->job;
    const size_t dim = job->kv.head_dim;
    const float factor = job->scale * LOG2_E;
    for (size_t r = 0; r < self->rows; r++) {
        const size_t token = self->first + r / self->group, head = self->kv_head * self->group + r % self->group;
        const float *from = job->query + (token * job->heads + head) * dim;
        float *to = self->query + r / self->call_rows * dim * SQF_ATTENTION_ROWS + r % self->call_rows;
        for (size_t i = 0; i < dim; i++) {
            to[i * SQF_ATTENTION_ROWS] = from[i] * factor;
        }
    }
}

static query_block begin_block(const attention_run *run, size_t index, size_t kv_head, size_t first, size_t count,
                               float *scratch)
{
    const sqf_attention_job *job = &run->jobs[index];
    const scratch_layout at = layout_of(job, &run->plans[index]);
    query_block self = {.kernels = run->kernels, .job = job, .kv_head = kv_head, .first = first};
    self.group = run->plans[index].group;
    self.rows = count * self.group;
    self.call_rows = sqf_ceil_div(self.rows, sqf_ceil_div(self.rows, SQF_ATTENTION_ROWS));
    self.query = scratch + at.query;
    self.sums = scratch + at.sums;
    self.totals = scratch + at.totals;
    self.largest = scratch + at.largest;
    self.scores = scratch + at.scores;
    self.keys = scratch + at.keys;
    self.values = scratch + at.values;
    memset(self.sums, 0, self.rows * sqf_kv_value_width(job->kv.head_dim) * sizeof *self.sums);
    memset(self.totals, 0, self.rows * SQF_KV_PANEL * sizeof *self.totals);
    for (size_t r = 0; r < self.rows; r++) {
        self.largest[r] = -1e30f; /* below every score, and finite: differences from it are no NaN */
    }
    pack_queries(&self);
    return self;
}

/* Positions [begin, end) of one key head as the kernels read them; `begin` is a multiple of 16. */
typedef struct cache_tile {
    sqf_kv_type type;
    const uint8_t *keys, *values;
    const float *key_scales, *value_scales; /* or NULL */
    const uint8_t *next;                    /* keys of the tile that follows, or NULL */
    size_t begin, end;
} cache_tile;

static cache_tile open_tile(const query_block *self, size_t begin, size_t end, bool more)
{
    const sqf_kv_view *kv = &self->job->kv;
    const size_t element = sqf_kv_element(kv->type), width = sqf_kv_value_width(kv->head_dim);
    const size_t slot = self->kv_head * kv->capacity + begin, count = end - begin;
    const bool scaled = kv->type == SQF_KV_INT8;
    cache_tile tile = {.type = kv->type,
                       .keys = (const uint8_t *)kv->key + slot * kv->head_dim * element,
                       .values = (const uint8_t *)kv->value + slot * width * element,
                       .key_scales = scaled ? kv->key_scales + slot : NULL,
                       .value_scales = scaled ? kv->value_scales + slot : NULL,
                       .begin = begin,
                       .end = end};
    tile.next = more ? tile.keys + round_up(count) * kv->head_dim * element : NULL;
    /* scales stay apart, so that the results are those of a tile that is not converted */
    if (kv->type != SQF_KV_F32 && self->rows >= CONVERT_CALLS * SQF_ATTENTION_ROWS) {
        self->kernels->cached_floats(kv->type, tile.keys, round_up(count) * kv->head_dim, self->keys);
        self->kernels->cached_floats(kv->type, tile.values, count * width, self->values);
        tile.next = NULL;
        tile.type = SQF_KV_F32;
        tile.keys = (const uint8_t *)self->keys;
        tile.values = (const uint8_t *)self->values;
    }
    return tile;
}

/* Positions that a row does not see get no weight, nor does what fills the last panel. */
static void hide(const query_block *self, size_t row, size_t begin, size_t end, float *scores)
{
    const size_t token = self->first + row / self->group, last = self->job->past + token;
    const size_t seen = first_visible(self->job, token);
    for (size_t p = begin; p < seen && p < end; p++) {
        scores[p - begin] = -INFINITY;
    }
    for (size_t p = larger(last + 1, begin); p < end; p++) {
        scores[p - begin] = -INFINITY;
    }
}

/* The rows of one call of the kernels over a tile: scores, weights, sums. */
static void attend_rows(const query_block *self, size_t row, const cache_tile *tile)
{
    const sqf_attention_job *job = self->job;
    const size_t dim = job->kv.head_dim, width = sqf_kv_value_width(dim), element = sqf_kv_element(tile->type);
    const size_t rows = smaller(self->call_rows, self->rows - row);
    const size_t first = self->first + row / self->group, last = self->first + (row + rows - 1) / self->group;
    const size_t seen = first_visible(job, first) / SQF_KV_PANEL * SQF_KV_PANEL;
    const size_t begin = larger(tile->begin, seen), end = smaller(tile->end, job->past + last + 1);
    if (begin >= end) {
        return;
    }
    const size_t skipped = begin - tile->begin, scored = round_up(end - begin);
    const uint8_t *values = tile->values + skipped * width * element;
    float shrink[SQF_ATTENTION_ROWS];
    const sqf_score_job score = {.query = self->query + row / self->call_rows * dim * SQF_ATTENTION_ROWS,
                                 .rows = (int)rows,
                                 .dim = dim,
                                 .keys = tile->keys + skipped * dim * element,
                                 .ahead = row == 0 ? values : tile->keys,
                                 .scales = tile->key_scales ? tile->key_scales + skipped : NULL,
                                 .panels = scored / SQF_KV_PANEL,
                                 .out = self->scores};
    self->kernels->scores(tile->type, &score);
    for (size_t r = 0; r < rows; r++) {
        float *scores = self->scores + r * SQF_SCORE_STRIDE;
        hide(self, row + r, begin, begin + scored, scores);
        shrink[r] = self->kernels->softmax(scores, scored, tile->value_scales ? tile->value_scales + skipped : NULL,
                                           self->largest + row + r, self->totals + (row + r) * SQF_KV_PANEL);
    }
    const sqf_value_job value = {.weights = self->scores,
                                 .shrink = shrink,
                                 .rows = (int)rows,
                                 .width = width,
                                 .values = values,
                                 .ahead = row == 0 && tile->next ? tile->next : values,
                                 .count = end - begin,
                                 .sums = self->sums + row * width};
    self->kernels->weigh_values(tile->type, &value);
}

/* All rows over the positions [begin, end) that some of them see. */
static void attend(const query_block *self, size_t begin, size_t end, size_t step)
{
    for (size_t at = begin / SQF_KV_PANEL * SQF_KV_PANEL; at < end; at += step) {
        const cache_tile tile = open_tile(self, at, smaller(end, at + step), at + step < end);
        for (size_t row = 0; row < self->rows; row += self->call_rows) {
            attend_rows(self, row, &tile);
        }
    }
}

/* The 16 partial sums of a row, in halves. */
static float fold(const float *partial)
{
    float sum[SQF_KV_PANEL];
    memcpy(sum, partial, sizeof sum);
    for (size_t half = SQF_KV_PANEL / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++) {
            sum[i] += sum[i + half];
        }
    }
    return sum[0];
}

static float *output_row(const sqf_attention_job *job, size_t kv_head, size_t group, size_t first, size_t row)
{
    const size_t token = first + row / group, head = kv_head * group + row % group;
    return job->out + (token * job->heads + head) * job->kv.head_dim;
}

static void finish_block(const query_block *self)
{
    const size_t dim = self->job->kv.head_dim, width = sqf_kv_value_width(dim);
    for (size_t r = 0; r < self->rows; r++) {
        float *out = output_row(self->job, self->kv_head, self->group, self->first, r);
        memcpy(out, self->sums + r * width, dim * sizeof *out);
        self->kernels->scale(out, 1.0f / fold(self->totals + r * SQF_KV_PANEL), dim);
    }
}

/* The rows of one stretch, to be merged. */
static void keep_parts(const query_block *self, const parts *part, size_t block, size_t blocks)
{
    const size_t width = sqf_kv_value_width(self->job->kv.head_dim);
    for (size_t r = 0; r < self->rows; r++) {
        part->largest[r * part->slots + block] = self->largest[r];
        part->totals[r * part->slots + block] = fold(self->totals + r * SQF_KV_PANEL);
        memcpy(part->sums + (r * blocks + block) * width, self->sums + r * width, width * sizeof *self->sums);
    }
}

/* ---- tasks ---- */

static void attention_task(void *user, size_t task, unsigned thread)
{
    const attention_run *run = user;
    size_t index = run->count - 1;
    while (run->plans[index].first_task > task) {
        index--;
    }
    const sqf_attention_job *job = &run->jobs[index];
    const plan *p = &run->plans[index];
    const size_t kv_head = (task - p->first_task) % job->kv.kv_heads;
    const size_t block = p->blocks - 1 - (task - p->first_task) / job->kv.kv_heads;
    float *scratch = run->scratch + thread * run->thread_floats;
    if (job->tokens <= SPLIT_TOKENS) {
        const query_block self = begin_block(run, index, kv_head, 0, job->tokens, scratch);
        const size_t begin = (p->first_stretch + block) * STRETCH, end = job->past + job->tokens;
        attend(&self, larger(begin, first_visible(job, 0)), smaller(begin + STRETCH, end), STRETCH_TILE);
        if (p->split) {
            const parts part = parts_of(run, index, kv_head);
            keep_parts(&self, &part, block, p->blocks);
        } else {
            finish_block(&self);
        }
        return;
    }
    const size_t first = block * p->block_tokens, count = smaller(p->block_tokens, job->tokens - first);
    const query_block self = begin_block(run, index, kv_head, first, count, scratch);
    attend(&self, first_visible(job, first), job->past + first + count, KEY_TILE);
    finish_block(&self);
}

/* One key head of a split job. A stretch that a row does not see has the largest score of a beginning, and so the
 * weight 0. */
static void merge_task(void *user, size_t task, unsigned thread)
{
    (void)thread;
    const attention_run *run = user;
    size_t index = run->count - 1;
    while (run->plans[index].first_merge > task) {
        index--;
    }
    const sqf_attention_job *job = &run->jobs[index];
    const plan *p = &run->plans[index];
    const size_t kv_head = task - p->first_merge, dim = job->kv.head_dim, width = sqf_kv_value_width(dim);
    const parts part = parts_of(run, index, kv_head);
    for (size_t r = 0; r < rows_of(job); r++) {
        float *weights = part.largest + r * part.slots, *totals = part.totals + r * part.slots;
        float largest = -1e30f, unused[SQF_KV_PANEL] = {0}, total = 0.0f;
        for (size_t i = p->blocks; i < part.slots; i++) {
            weights[i] = -INFINITY;
        }
        run->kernels->softmax(weights, part.slots, NULL, &largest, unused);
        for (size_t i = 0; i < p->blocks; i++) {
            total += weights[i] * totals[i];
        }
        float *out = output_row(job, kv_head, p->group, 0, r);
        memset(out, 0, dim * sizeof *out);
        run->kernels->weighted_sum(weights, part.sums + r * p->blocks * width, width, p->blocks, dim, out);
        run->kernels->scale(out, 1.0f / total, dim);
    }
}

/* ---- all jobs ---- */

static sqf_status reserve_plans(sqf_attention_scratch *scratch, size_t count, sqf_error *err)
{
    if (count > scratch->plan_count) {
        free(scratch->plans);
        scratch->plan_count = 0;
        SQF_TRY(SQF_ALLOC(&scratch->plans, count, "attention", err));
        scratch->plan_count = count;
    }
    return SQF_OK;
}

static sqf_status reserve_floats(sqf_attention_scratch *scratch, size_t floats, sqf_error *err)
{
    if (floats > scratch->floats) {
        free(scratch->data);
        scratch->floats = 0;
        SQF_TRY(SQF_ALLOC(&scratch->data, floats, "attention", err));
        scratch->floats = floats;
    }
    return SQF_OK;
}

/* Plans of all jobs one behind the other; *tasks, *merges and *partial are their sums. */
static sqf_status make_plans(const sqf_attention_job *jobs, attention_run *run, plan *plans, size_t *tasks,
                             size_t *merges, size_t *partial, sqf_error *err)
{
    *tasks = *merges = *partial = 0;
    for (size_t i = 0; i < run->count; i++) {
        const sqf_attention_job *job = &jobs[i];
        if (job->kv.kv_heads == 0 || job->heads % job->kv.kv_heads != 0) {
            return sqf_fail(err, SQF_E_ARG, "attention: %zu heads over %zu key heads, expected a multiple", job->heads,
                            job->kv.kv_heads);
        }
        plans[i] = make_plan(job);
        plans[i].first_task = *tasks;
        plans[i].first_merge = *merges;
        plans[i].partial = *partial;
        *tasks += plans[i].blocks * job->kv.kv_heads;
        if (plans[i].split) {
            *merges += job->kv.kv_heads;
            *partial += job->kv.kv_heads * part_floats(job, &plans[i]);
        }
        run->thread_floats = larger(run->thread_floats, layout_of(job, &plans[i]).end);
    }
    return SQF_OK;
}

sqf_status sqf_attention(sqf_context *context, const sqf_attention_job *jobs, size_t count,
                         sqf_attention_scratch *scratch, sqf_error *err)
{
    attention_run run = {.kernels = context->kernels, .jobs = jobs, .count = count};
    const unsigned threads = sqf_pool_threads(context->pool);
    size_t tasks, merges, partial;
    SQF_TRY(reserve_plans(scratch, count, err));
    SQF_TRY(make_plans(jobs, &run, scratch->plans, &tasks, &merges, &partial, err));
    SQF_TRY(reserve_floats(scratch, run.thread_floats * threads + partial, err));
    run.plans = scratch->plans;
    run.scratch = scratch->data;
    run.partial = scratch->data + run.thread_floats * threads;
    sqf_pool_run(context->pool, tasks, attention_task, &run);
    if (merges > 0) {
        sqf_pool_run(context->pool, merges, merge_task, &run);
    }
    return SQF_OK;
}

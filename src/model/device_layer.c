/* The forward pass of one decoder layer on a device, operation by operation what forward.c does on the CPU. An input is
 * prepared once for all the linear layers that read it in the same form; norm, gate and rotation are taken in the same
 * pass over it. Nothing here waits for the device. */
#include "model/device_layer.h"

#include <math.h>
#include <string.h>

/* FIRST_POSITIONS: of the rope angles. INPUT_STEP: tokens that prepared inputs are padded to. SUM_PARTS: what kernels
 * cut a sum into at most, about. */
enum { FIRST_POSITIONS = 256, INPUT_STEP = 128, SUM_PARTS = 4 };

/* Sequences one behind the other whose caches have the same type and capacity: what one call of attention serves. */
typedef struct group {
    size_t first, count;        /* sequences */
    size_t first_token, tokens; /* of all of them */
    size_t longest, reach;
    size_t capacity;
    sqf_kv_type type;
} group;

/* Places in the block of arrays that a pass uploads at once; they follow from the numbers of tokens and sequences. */
typedef struct places {
    size_t ids, position, sequence, begin, bytes;
} places;

struct sqf_device_work {
    sqf_context *context;
    const sqf_device *device;
    const sqf_config *config; /* borrowed */
    sqf_cuda_input *input, *recorded_input;
    size_t room;             /* tokens that the buffers hold */
    float *query, *attended; /* [room, heads, head_dim] */
    float *key, *value;      /* [room, kv_heads, head_dim] */
    float *gate, *up;        /* [room, intermediate] */
    float *stepped;          /* [stepped_room, the widest] an input after its steps, for taps */
    size_t stepped_room;
    float *cosine, *sine; /* [positions, head_dim / 2] */
    size_t positions;
    /* the tokens of the passes */
    size_t tokens, sequences, layers;
    bool recorded;
    group *groups; /* [sequence_room] */
    size_t group_count, sequence_room;
    places at;
    uint8_t *block, *host_block; /* device memory and its image */
    size_t block_bytes;
    sqf_cuda_kv *kv, *host_kv; /* [layers][sequences] the same */
    size_t kv_count, kv_room;
    uint64_t version; /* changes when something moves in device memory */
};

/* ---- memory ---- */

sqf_status sqf_device_work_create(sqf_context *context, const sqf_config *config, sqf_device_work **out, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(out, 1, "workspace", err));
    (*out)->context = context;
    (*out)->device = context->device;
    (*out)->config = config;
    sqf_status status = context->device->ops->input_create(context->device->cuda, &(*out)->input, err);
    if (status == SQF_OK) {
        status = context->device->ops->input_create(context->device->cuda, &(*out)->recorded_input, err);
    }
    if (status != SQF_OK) {
        sqf_device_work_destroy(*out);
        *out = NULL;
    }
    return status;
}

static void free_buffers(sqf_device_work *w)
{
    float **const buffers[] = {&w->query, &w->attended, &w->key, &w->value, &w->gate, &w->up};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        sqf_device_release(w->device, *buffers[i]);
        *buffers[i] = NULL;
    }
    w->room = 0;
}

static void free_rope(sqf_device_work *w)
{
    sqf_device_release(w->device, w->cosine);
    sqf_device_release(w->device, w->sine);
    w->cosine = w->sine = NULL;
    w->positions = 0;
}

void sqf_device_work_destroy(sqf_device_work *w)
{
    if (!w) {
        return;
    }
    free_buffers(w);
    free_rope(w);
    sqf_device_release(w->device, w->stepped);
    sqf_device_release(w->device, w->block);
    sqf_device_release(w->device, w->kv);
    sqf_cuda_input *const inputs[] = {w->input, w->recorded_input};
    for (size_t i = 0; i < 2; i++) {
        if (inputs[i]) {
            w->device->ops->input_destroy(w->device->cuda, inputs[i]);
        }
    }
    free(w->groups);
    free(w->host_block);
    free(w->host_kv);
    free(w);
}

uint64_t sqf_device_work_version(const sqf_device_work *w)
{
    return w->version;
}

/* The buffers below; two prepared inputs, of four bytes a channel at most, the one of a recorded step for few tokens;
 * and parts of sums that kernels add up for few tokens. */
uint64_t sqf_device_work_bytes(const sqf_config *config, uint64_t tokens)
{
    const uint64_t query = config->heads * config->head_dim, key = config->kv_heads * config->head_dim;
    const uint64_t widest = config->intermediate > query ? config->intermediate : query;
    const uint64_t padded = (tokens + INPUT_STEP - 1) / INPUT_STEP * INPUT_STEP + INPUT_STEP;
    const uint64_t split = tokens < INPUT_STEP ? tokens : INPUT_STEP;
    const uint64_t floats = tokens * 2 * (query + key + config->intermediate) + (padded + SUM_PARTS * split) * widest;
    return sizeof(float) * floats;
}

static sqf_status buffer(sqf_device_work *w, float **out, size_t width, size_t tokens, sqf_error *err)
{
    return sqf_device_alloc(w->device, (void **)out, tokens, width * sizeof(float), "buffers", err);
}

static sqf_status reserve_tokens(sqf_device_work *w, size_t tokens, sqf_error *err)
{
    const sqf_config *config = w->config;
    if (tokens <= w->room) {
        return SQF_OK;
    }
    free_buffers(w);
    w->version++;
    SQF_TRY(buffer(w, &w->query, config->heads * config->head_dim, tokens, err));
    SQF_TRY(buffer(w, &w->attended, config->heads * config->head_dim, tokens, err));
    SQF_TRY(buffer(w, &w->key, config->kv_heads * config->head_dim, tokens, err));
    SQF_TRY(buffer(w, &w->value, config->kv_heads * config->head_dim, tokens, err));
    SQF_TRY(buffer(w, &w->gate, config->intermediate, tokens, err));
    SQF_TRY(buffer(w, &w->up, config->intermediate, tokens, err));
    w->room = tokens;
    return SQF_OK;
}

/* For taps alone. */
static sqf_status reserve_stepped(sqf_device_work *w, sqf_error *err)
{
    const sqf_config *config = w->config;
    if (w->tokens <= w->stepped_room) {
        return SQF_OK;
    }
    sqf_device_release(w->device, w->stepped);
    w->stepped = NULL;
    w->stepped_room = 0;
    SQF_TRY(buffer(w, &w->stepped, config->hidden > config->intermediate ? config->hidden : config->intermediate,
                   w->tokens, err));
    w->stepped_room = w->tokens;
    return SQF_OK;
}

/* Angles of all positions below `positions`, twice as many each time. */
static sqf_status reserve_rope(sqf_device_work *w, size_t positions, sqf_error *err)
{
    const size_t half = w->config->head_dim / 2;
    size_t count = w->positions > 0 ? w->positions : FIRST_POSITIONS, floats;
    if (positions <= w->positions) {
        return SQF_OK;
    }
    while (count < positions) {
        count *= 2;
    }
    free_rope(w);
    w->version++;
    float *angles;
    if (!sqf_mul_size(&floats, count, 2 * half)) {
        return sqf_fail(err, SQF_E_MEMORY, "rope: %zu positions are too many", count);
    }
    SQF_TRY(SQF_ALLOC(&angles, floats, "rope", err));
    sqf_config_rope(w->config, 0, count, angles, angles + count * half);
    sqf_status status =
        sqf_device_place(w->device, (void **)&w->cosine, angles, count * half, sizeof *angles, "rope", err);
    if (status == SQF_OK) {
        status = sqf_device_place(w->device, (void **)&w->sine, angles + count * half, count * half, sizeof *angles,
                                  "rope", err);
    }
    free(angles);
    w->positions = status == SQF_OK ? count : 0;
    return status;
}

/* The block with its image, for the places of a pass. */
static sqf_status reserve_block(sqf_device_work *w, size_t bytes, sqf_error *err)
{
    if (bytes <= w->block_bytes) {
        return SQF_OK;
    }
    sqf_device_release(w->device, w->block);
    free(w->host_block);
    w->block = w->host_block = NULL;
    w->block_bytes = 0;
    w->version++;
    SQF_TRY(SQF_ALLOC(&w->host_block, bytes, "positions", err));
    SQF_TRY(SQF_DEVICE_ALLOC(w->device, &w->block, bytes, "positions", err));
    w->block_bytes = bytes;
    return SQF_OK;
}

static sqf_status reserve_kv(sqf_device_work *w, size_t count, sqf_error *err)
{
    if (count <= w->kv_room) {
        return SQF_OK;
    }
    sqf_device_release(w->device, w->kv);
    free(w->host_kv);
    w->kv = w->host_kv = NULL;
    w->kv_room = w->kv_count = 0;
    w->version++;
    SQF_TRY(SQF_ALLOC(&w->host_kv, count, "KV caches", err));
    SQF_TRY(SQF_DEVICE_ALLOC(w->device, &w->kv, count, "KV caches", err));
    w->kv_room = count;
    return SQF_OK;
}

static sqf_status reserve_groups(sqf_device_work *w, size_t count, sqf_error *err)
{
    if (count <= w->sequence_room) {
        return SQF_OK;
    }
    free(w->groups);
    w->groups = NULL;
    w->sequence_room = 0;
    SQF_TRY(SQF_ALLOC(&w->groups, count, "sequences", err));
    w->sequence_room = count;
    return SQF_OK;
}

/* ---- layers ---- */

static sqf_status place_floats(const sqf_device *device, float **out, const float *from, size_t n, sqf_error *err)
{
    return from ? sqf_device_place(device, (void **)out, from, n, sizeof *from, "norms", err) : SQF_OK;
}

sqf_status sqf_device_layer_init(sqf_context *context, const sqf_config *config, const sqf_layer *host,
                                 sqf_device_layer *out, sqf_error *err)
{
    const sqf_device *device = context->device;
    const sqf_rotation *rotation = &host->down_rotation;
    *out = (sqf_device_layer){
        .index = host->index, .rotation_factor = rotation->factor, .rotation_block = rotation->block};
    SQF_TRY(place_floats(device, &out->attention_norm, host->attention_norm, config->hidden, err));
    SQF_TRY(place_floats(device, &out->mlp_norm, host->mlp_norm, config->hidden, err));
    SQF_TRY(place_floats(device, &out->query_norm, host->query_norm, config->head_dim, err));
    SQF_TRY(place_floats(device, &out->key_norm, host->key_norm, config->head_dim, err));
    return place_floats(device, &out->rotation_matrix, rotation->matrix, rotation->factor * rotation->factor, err);
}

void sqf_device_layer_clear(sqf_context *context, sqf_device_layer *layer)
{
    float *const owned[] = {layer->attention_norm, layer->mlp_norm, layer->query_norm, layer->key_norm,
                            layer->rotation_matrix};
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        sqf_device_linear_clear(context, &layer->linear[kind]);
    }
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) {
        sqf_device_release(context->device, owned[i]);
    }
    *layer = (sqf_device_layer){0};
}

/* ---- the tokens of a pass ---- */

/* Cuts the sequences into groups; the longest reach of all of them is returned. */
static size_t make_groups(sqf_device_work *w, const sqf_device_sequence *sequences, size_t count, size_t reach)
{
    size_t at = 0, most = 0;
    w->group_count = 0;
    for (size_t s = 0; s < count; s++) {
        const sqf_device_sequence *sequence = &sequences[s];
        const size_t end = sequence->past + sequence->tokens;
        group *last = w->group_count > 0 ? &w->groups[w->group_count - 1] : NULL;
        if (!last || last->type != sequence->cache->type || last->capacity != sequence->cache->capacity) {
            last = &w->groups[w->group_count++];
            *last = (group){.first = s,
                            .first_token = at,
                            .capacity = sequence->cache->capacity,
                            .type = sequence->cache->type,
                            .reach = reach < sequence->cache->capacity ? reach : sequence->cache->capacity};
        }
        last->count++;
        last->tokens += sequence->tokens;
        last->longest = sequence->tokens > last->longest ? sequence->tokens : last->longest;
        last->reach = end > last->reach ? end : last->reach;
        most = last->reach > most ? last->reach : most;
        at += sequence->tokens;
    }
    w->tokens = at;
    return most;
}

static places find_places(size_t tokens, size_t begins)
{
    const size_t array = sqf_ceil_div(tokens * sizeof(uint32_t), 64) * 64;
    return (places){.ids = 0,
                    .position = array,
                    .sequence = 2 * array,
                    .begin = 3 * array,
                    .bytes = 3 * array + sqf_ceil_div(begins * sizeof(uint32_t), 64) * 64};
}

/* The arrays of all groups; sequences and first tokens are counted within a group. */
static void fill_block(const sqf_device_work *w, const sqf_device_sequence *sequences)
{
    uint32_t *ids = (uint32_t *)(void *)(w->host_block + w->at.ids);
    int32_t *position = (int32_t *)(void *)(w->host_block + w->at.position);
    int32_t *of = (int32_t *)(void *)(w->host_block + w->at.sequence);
    int32_t *begin = (int32_t *)(void *)(w->host_block + w->at.begin);
    size_t at = 0;
    for (size_t g = 0; g < w->group_count; g++) {
        const group *self = &w->groups[g];
        for (size_t i = 0; i < self->count; i++) {
            const sqf_device_sequence *sequence = &sequences[self->first + i];
            *begin++ = (int32_t)(at - self->first_token);
            for (size_t t = 0; t < sequence->tokens; t++, at++) {
                ids[at] = sequence->ids ? sequence->ids[t] : 0;
                position[at] = (int32_t)(sequence->past + t);
                of[at] = (int32_t)i;
            }
        }
        *begin++ = (int32_t)(at - self->first_token);
    }
}

/* Where the caches lie, of every layer; uploaded only where that has changed. */
static sqf_status set_caches(sqf_device_work *w, const sqf_device_sequence *sequences, size_t count, sqf_error *err)
{
    const size_t layers = sequences[0].cache->layers;
    bool same = w->kv_count == layers * count;
    SQF_TRY(reserve_kv(w, layers * count, err));
    for (size_t layer = 0; layer < layers; layer++) {
        for (size_t s = 0; s < count; s++) {
            const sqf_cuda_kv kv = sqf_device_cache_layer(sequences[s].cache, layer);
            sqf_cuda_kv *at = &w->host_kv[layer * count + s];
            same = same && at->key == kv.key && at->key_scales == kv.key_scales;
            *at = kv;
        }
    }
    w->layers = layers;
    w->kv_count = layers * count;
    const sqf_status status =
        same ? SQF_OK : w->device->ops->upload(w->device->cuda, w->kv, w->host_kv, w->kv_count * sizeof *w->kv, err);
    w->kv_count = status == SQF_OK ? w->kv_count : 0;
    return status;
}

sqf_status sqf_device_work_set(sqf_device_work *w, const sqf_device_sequence *sequences, size_t count, size_t reach,
                               sqf_error *err)
{
    SQF_TRY(reserve_groups(w, count, err));
    SQF_TRY(reserve_rope(w, make_groups(w, sequences, count, reach), err));
    SQF_TRY(reserve_tokens(w, w->tokens, err));
    w->sequences = count;
    w->recorded = reach > 0;
    w->at = find_places(w->tokens, count + w->group_count);
    SQF_TRY(reserve_block(w, w->at.bytes, err));
    fill_block(w, sequences);
    SQF_TRY(set_caches(w, sequences, count, err));
    return w->device->ops->upload(w->device->cuda, w->block, w->host_block, w->at.bytes, err);
}

/* The tokens of one group. */
static sqf_cuda_batch batch_of(const sqf_device_work *w, const group *self)
{
    const size_t g = (size_t)(self - w->groups);
    return (sqf_cuda_batch){
        .ids = (const uint32_t *)(const void *)(w->block + w->at.ids) + self->first_token,
        .position = (const int32_t *)(const void *)(w->block + w->at.position) + self->first_token,
        .sequence = (const int32_t *)(const void *)(w->block + w->at.sequence) + self->first_token,
        .begin = (const int32_t *)(const void *)(w->block + w->at.begin) + self->first + g,
        .tokens = self->tokens,
        .sequences = self->count,
        .longest = self->longest,
        .reach = self->reach,
    };
}

sqf_status sqf_device_work_embed(sqf_device_work *w, const void *table, sqf_type dtype, float *x, sqf_error *err)
{
    for (size_t g = 0; g < w->group_count; g++) {
        const sqf_cuda_batch batch = batch_of(w, &w->groups[g]);
        SQF_TRY(w->device->ops->embed(w->device->cuda, table, dtype, &batch, w->config->hidden,
                                      x + w->groups[g].first_token * w->config->hidden, err));
    }
    return SQF_OK;
}

/* ---- products ---- */

void sqf_device_source_init(sqf_device_work *work, const float *x, const sqf_cuda_steps *steps, size_t tokens,
                            bool recorded, sqf_device_source *out)
{
    *out = (sqf_device_source){
        .work = work, .input = recorded ? work->recorded_input : work->input, .x = x, .tokens = tokens};
    if (steps) {
        out->steps = *steps;
    }
}

/* The input in the form that `linear` reads, unless the product before left it so. */
static sqf_status prepare(sqf_device_source *source, const sqf_cuda_linear *linear, sqf_error *err)
{
    const sqf_cuda_ops *ops = source->work->device->ops;
    const sqf_cuda_steps *steps = &source->steps;
    const bool any = steps->gain || steps->gate || steps->rotation_factor > 0;
    if (source->prepared && (source->prepared == linear || ops->linear_same_input(source->prepared, linear))) {
        return SQF_OK;
    }
    source->prepared = NULL;
    SQF_TRY(ops->input_prepare(source->work->device->cuda, source->input, linear, source->x, any ? steps : NULL,
                               source->tokens, err));
    source->prepared = linear;
    return SQF_OK;
}

sqf_status sqf_device_product(sqf_device_source *source, const sqf_device_linear *linear, float *y,
                              sqf_cuda_store store, sqf_error *err)
{
    sqf_device_work *w = source->work;
    for (size_t i = 0; i < linear->part_count; i++) {
        SQF_TRY(prepare(source, linear->parts[i], err));
        SQF_TRY(w->device->ops->linear_forward(w->device->cuda, linear->parts[i], source->input, y,
                                               i == 0 ? store : SQF_CUDA_ADD, err));
    }
    sqf_product_counts_add(&w->context->products, &linear->per_token, source->tokens);
    return SQF_OK;
}

/* ---- the layer ---- */

/* One pass through a layer. */
typedef struct pass {
    sqf_device_work *work;
    const sqf_device_layer *layer;
    size_t cache_layer;
    const sqf_device_tap *tap;
    sqf_device_source source; /* the distinct input that is being read */
    bool stopped;             /* the tap has seen the last input that it asked for */
} pass;

/* A new distinct input. A tap sees it after the steps, which are then done at once; else they are done while it is
 * prepared. */
static sqf_status begin_input(pass *p, sqf_input_kind kind, const float *x, size_t channels,
                              const sqf_cuda_steps *steps, sqf_error *err)
{
    sqf_device_work *w = p->work;
    sqf_device_source_init(w, x, steps, w->tokens, w->recorded, &p->source);
    if (!p->tap) {
        return SQF_OK;
    }
    if (steps) {
        SQF_TRY(reserve_stepped(w, err));
        SQF_TRY(w->device->ops->apply_steps(w->device->cuda, x, steps, w->tokens, channels, w->stepped, err));
        sqf_device_source_init(w, w->stepped, NULL, w->tokens, w->recorded, &p->source);
    }
    p->stopped = p->tap->stops && p->tap->last == kind;
    return p->tap->input(p->tap->user, kind, p->source.x, w->tokens, channels, err);
}

static sqf_status project(pass *p, sqf_linear_kind kind, float *y, sqf_cuda_store store, sqf_error *err)
{
    const sqf_status status = sqf_device_product(&p->source, &p->layer->linear[kind], y, store, err);
    char name[SQF_MODULE_NAME];
    if (status == SQF_OK) {
        return SQF_OK;
    }
    sqf_linear_name(p->layer->index, kind, name);
    return sqf_fail_within(err, status, name);
}

/* Queries and keys turn, keys and values go to the caches, and each sequence attends over its own. */
static sqf_status attend(pass *p, sqf_error *err)
{
    sqf_device_work *w = p->work;
    const sqf_config *c = w->config;
    const size_t query = c->heads * c->head_dim, key = c->kv_heads * c->head_dim;
    for (size_t g = 0; g < w->group_count; g++) {
        const group *self = &w->groups[g];
        const sqf_cuda_batch batch = batch_of(w, self);
        const sqf_cuda_kv *kv = w->kv + p->cache_layer * w->sequences + self->first;
        const sqf_cuda_attention_spec spec = {.heads = c->heads,
                                              .kv_heads = c->kv_heads,
                                              .head_dim = c->head_dim,
                                              .window = sqf_config_window(c, p->layer->index),
                                              .capacity = self->capacity,
                                              .type = self->type,
                                              .scale = 1.0f / sqrtf((float)c->head_dim)};
        SQF_TRY(w->device->ops->rope_store(w->device->cuda, &spec, &batch, p->layer->query_norm, p->layer->key_norm,
                                           c->norm_epsilon, w->cosine, w->sine, w->query + self->first_token * query,
                                           w->key + self->first_token * key, w->value + self->first_token * key, kv,
                                           err));
        SQF_TRY(w->device->ops->attention(w->device->cuda, &spec, &batch, w->query + self->first_token * query, kv,
                                          w->attended + self->first_token * query, err));
    }
    return SQF_OK;
}

/* x += o(attention(norm(x))) */
static sqf_status attention_block(pass *p, float *x, sqf_error *err)
{
    sqf_device_work *w = p->work;
    const sqf_config *c = w->config;
    const sqf_cuda_steps norm = {.gain = p->layer->attention_norm, .epsilon = c->norm_epsilon};
    SQF_TRY(begin_input(p, SQF_INPUT_QKV, x, c->hidden, &norm, err));
    if (p->stopped) {
        return SQF_OK;
    }
    SQF_TRY(project(p, SQF_LINEAR_Q, w->query, SQF_CUDA_SET, err));
    SQF_TRY(project(p, SQF_LINEAR_K, w->key, SQF_CUDA_SET, err));
    SQF_TRY(project(p, SQF_LINEAR_V, w->value, SQF_CUDA_SET, err));
    SQF_TRY(attend(p, err));
    SQF_TRY(begin_input(p, SQF_INPUT_O, w->attended, c->heads * c->head_dim, NULL, err));
    return p->stopped ? SQF_OK : project(p, SQF_LINEAR_O, x, SQF_CUDA_ADD, err);
}

/* x += down(silu(gate(norm(x))) * up(norm(x))); the gate is taken while the input of down is prepared. */
static sqf_status mlp_block(pass *p, float *x, sqf_error *err)
{
    sqf_device_work *w = p->work;
    const sqf_config *c = w->config;
    const sqf_cuda_steps norm = {.gain = p->layer->mlp_norm, .epsilon = c->norm_epsilon};
    const sqf_cuda_steps gate = {.gate = w->gate,
                                 .rotation_factor = p->layer->rotation_factor,
                                 .rotation_block = p->layer->rotation_block,
                                 .rotation_matrix = p->layer->rotation_matrix};
    SQF_TRY(begin_input(p, SQF_INPUT_GATE_UP, x, c->hidden, &norm, err));
    if (p->stopped) {
        return SQF_OK;
    }
    SQF_TRY(project(p, SQF_LINEAR_GATE, w->gate, SQF_CUDA_SET, err));
    SQF_TRY(project(p, SQF_LINEAR_UP, w->up, SQF_CUDA_SET, err));
    SQF_TRY(begin_input(p, SQF_INPUT_DOWN, w->up, c->intermediate, &gate, err));
    return p->stopped ? SQF_OK : project(p, SQF_LINEAR_DOWN, x, SQF_CUDA_ADD, err);
}

sqf_status sqf_device_layer_forward(sqf_device_work *work, const sqf_device_layer *layer, size_t cache_layer, float *x,
                                    const sqf_device_tap *tap, sqf_error *err)
{
    pass p = {.work = work, .layer = layer, .cache_layer = cache_layer, .tap = tap};
    SQF_TRY(attention_block(&p, x, err));
    return p.stopped ? SQF_OK : mlp_block(&p, x, err);
}

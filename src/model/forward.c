/* The forward pass of one decoder layer, for the tokens of one sequence: norm, q/k/v, rope, attention over the cache,
 * o, residual; norm, gate/up, silu, down, residual. The order of operations is Hugging Face's, so that float models
 * agree with it to rounding.
 *
 * The point of the file is project(): an input is quantized once for all the linear layers that read it in the same
 * form. Only the inputs of linear layers are quantized; the stream, norms, and attention stay in float32; the cache has
 * its own type (kernels/attention.h). */
#include <math.h>
#include <string.h>

#include "kernels/ops.h"
#include "model/layer.h"

/* Buffers of a pass, for at most `tokens` tokens. They hold nothing between passes but the rope angles. */
struct sqf_workspace {
    const sqf_config *config; /* borrowed */
    sqf_input *input;
    size_t tokens;        /* what the buffers hold */
    float *normed;        /* [tokens, hidden] */
    float *query;         /* [tokens, heads, head_dim] */
    float *attended;      /* the same */
    float *key, *value;   /* [tokens, kv_heads, head_dim] on their way to the cache */
    float *gate, *up;     /* [tokens, intermediate] */
    float *delta;         /* [tokens, hidden] what a block adds to the stream */
    float *cosine, *sine; /* [tokens, head_dim / 2] for the positions from rope_first */
    size_t rope_first, rope_count;
    sqf_attention_scratch attention;
};

sqf_status sqf_workspace_create(const sqf_config *config, sqf_workspace **out, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(out, 1, "workspace", err));
    (*out)->config = config;
    const sqf_status status = sqf_input_create(&(*out)->input, err);
    if (status != SQF_OK) {
        sqf_workspace_destroy(*out);
        *out = NULL;
    }
    return status;
}

/* Also for a workspace of which only some buffers were made. */
static void free_buffers(sqf_workspace *workspace)
{
    float **const buffers[] = {&workspace->normed, &workspace->query, &workspace->attended, &workspace->key,
                               &workspace->value,  &workspace->gate,  &workspace->up,       &workspace->delta,
                               &workspace->cosine, &workspace->sine};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        free(*buffers[i]);
        *buffers[i] = NULL;
    }
    workspace->tokens = workspace->rope_count = 0;
}

void sqf_workspace_destroy(sqf_workspace *workspace)
{
    if (workspace) {
        free_buffers(workspace);
        sqf_attention_scratch_clear(&workspace->attention);
        sqf_input_destroy(workspace->input);
        free(workspace);
    }
}

static sqf_status buffer(float **out, size_t tokens, size_t width, sqf_error *err)
{
    size_t n;
    if (!sqf_mul_size(&n, tokens, width)) {
        return sqf_fail(err, SQF_E_MEMORY, "workspace: %zu tokens of %zu numbers are too many", tokens, width);
    }
    return SQF_ALLOC(out, n, "workspace", err);
}

/* Grows all buffers to `tokens`. What they held is lost, the rope angles too. */
static sqf_status reserve(sqf_workspace *w, size_t tokens, sqf_error *err)
{
    const sqf_config *config = w->config;
    if (tokens <= w->tokens) {
        return SQF_OK;
    }
    free_buffers(w);
    SQF_TRY(buffer(&w->normed, tokens, config->hidden, err));
    SQF_TRY(buffer(&w->query, tokens, config->heads * config->head_dim, err));
    SQF_TRY(buffer(&w->attended, tokens, config->heads * config->head_dim, err));
    SQF_TRY(buffer(&w->key, tokens, config->kv_heads * config->head_dim, err));
    SQF_TRY(buffer(&w->value, tokens, config->kv_heads * config->head_dim, err));
    SQF_TRY(buffer(&w->gate, tokens, config->intermediate, err));
    SQF_TRY(buffer(&w->up, tokens, config->intermediate, err));
    SQF_TRY(buffer(&w->delta, tokens, config->hidden, err));
    SQF_TRY(buffer(&w->cosine, tokens, config->head_dim / 2, err));
    SQF_TRY(buffer(&w->sine, tokens, config->head_dim / 2, err));
    w->tokens = tokens;
    return SQF_OK;
}

/* The angles are the same in every layer: computed once for a stretch of positions. */
static void prepare_rope(sqf_workspace *w, const sqf_config *config, size_t first, size_t count)
{
    /* fewer positions from the same first one are a prefix */
    if (w->rope_count < count || w->rope_first != first) {
        sqf_config_rope(config, first, count, w->cosine, w->sine);
        w->rope_first = first;
        w->rope_count = count;
    }
}

/* One pass through a layer. */
typedef struct pass {
    sqf_context *context;
    const sqf_config *config;
    const sqf_layer *layer;
    size_t tokens, past;
    const sqf_layer_tap *tap;
    sqf_workspace *work;
    const float *source;        /* the distinct input that is being read */
    const sqf_linear *prepared; /* the layer for which work->input holds `source`; NULL = none yet */
    bool stopped;               /* the tap has seen the last input that it asked for */
} pass;

/* A new distinct input: the tap sees it, and what was quantized before is no longer of use. */
static sqf_status begin_input(pass *p, sqf_input_kind kind, const float *x, size_t channels, sqf_error *err)
{
    p->source = x;
    p->prepared = NULL;
    if (!p->tap) {
        return SQF_OK;
    }
    p->stopped = p->tap->stops && p->tap->last == kind;
    return p->tap->input(p->tap->user, kind, x, p->tokens, channels, err);
}

/* y = linear(source), quantizing the input unless the layer before left it in the form that this one reads. */
static sqf_status project(pass *p, sqf_linear_kind kind, float *y, sqf_error *err)
{
    const sqf_linear *linear = p->layer->linear[kind];
    sqf_status status = SQF_OK;
    if (!p->prepared || !sqf_linear_same_input(p->prepared, linear)) {
        p->prepared = NULL;
        status = sqf_input_prepare(p->context, p->work->input, linear, p->source, p->tokens, err);
    }
    if (status == SQF_OK) {
        p->prepared = linear;
        status = sqf_linear_forward(p->context, linear, p->work->input, y, err);
    }
    if (status != SQF_OK) {
        char name[SQF_MODULE_NAME];
        sqf_linear_name(p->layer->index, kind, name);
        return sqf_fail_within(err, status, name);
    }
    return SQF_OK;
}

/* q, k, v of the tokens; k and v go into the cache. */
static sqf_status project_qkv(pass *p, const sqf_kv_view *kv, sqf_error *err)
{
    const sqf_config *c = p->config;
    sqf_workspace *w = p->work;
    SQF_TRY(project(p, SQF_LINEAR_Q, w->query, err));
    SQF_TRY(project(p, SQF_LINEAR_K, w->key, err));
    SQF_TRY(project(p, SQF_LINEAR_V, w->value, err));
    if (p->layer->query_norm) {
        sqf_rmsnorm(p->context, w->query, p->layer->query_norm, c->norm_epsilon, p->tokens * c->heads, c->head_dim,
                    w->query);
        sqf_rmsnorm(p->context, w->key, p->layer->key_norm, c->norm_epsilon, p->tokens * c->kv_heads, c->head_dim,
                    w->key);
    }
    prepare_rope(w, c, p->past, p->tokens);
    sqf_rope_apply(p->context, w->query, w->cosine, w->sine, p->tokens, c->heads, c->head_dim);
    sqf_rope_apply(p->context, w->key, w->cosine, w->sine, p->tokens, c->kv_heads, c->head_dim);
    sqf_kv_store(p->context, kv, p->past, p->tokens, w->key, w->value);
    return SQF_OK;
}

/* x += o(attention(norm(x))). Keys and values of this pass go behind the `past` ones of the cache before attention
 * reads them all. */
static sqf_status attention_block(pass *p, float *x, const sqf_kv_view *kv, sqf_error *err)
{
    const sqf_config *c = p->config;
    sqf_workspace *w = p->work;
    sqf_rmsnorm(p->context, x, p->layer->attention_norm, c->norm_epsilon, p->tokens, c->hidden, w->normed);
    SQF_TRY(begin_input(p, SQF_INPUT_QKV, w->normed, c->hidden, err));
    if (p->stopped) {
        return SQF_OK;
    }
    SQF_TRY(project_qkv(p, kv, err));
    const sqf_attention_job job = {.query = w->query,
                                   .kv = *kv,
                                   .out = w->attended,
                                   .tokens = p->tokens,
                                   .past = p->past,
                                   .heads = c->heads,
                                   .window = sqf_config_window(c, p->layer->index),
                                   .scale = 1.0f / sqrtf((float)c->head_dim)};
    SQF_TRY(sqf_attention(p->context, &job, 1, &w->attention, err));
    SQF_TRY(begin_input(p, SQF_INPUT_O, w->attended, c->heads * c->head_dim, err));
    if (p->stopped) {
        return SQF_OK;
    }
    SQF_TRY(project(p, SQF_LINEAR_O, w->delta, err));
    sqf_add(p->context, x, w->delta, p->tokens * c->hidden);
    return SQF_OK;
}

/* x += down(silu(gate(norm(x))) * up(norm(x))). The product overwrites gate, which nobody reads again. */
static sqf_status mlp_block(pass *p, float *x, sqf_error *err)
{
    const sqf_config *c = p->config;
    sqf_workspace *w = p->work;
    sqf_rmsnorm(p->context, x, p->layer->mlp_norm, c->norm_epsilon, p->tokens, c->hidden, w->normed);
    SQF_TRY(begin_input(p, SQF_INPUT_GATE_UP, w->normed, c->hidden, err));
    if (p->stopped) {
        return SQF_OK;
    }
    SQF_TRY(project(p, SQF_LINEAR_GATE, w->gate, err));
    SQF_TRY(project(p, SQF_LINEAR_UP, w->up, err));
    sqf_silu_mul(p->context, w->gate, w->up, p->tokens * c->intermediate, w->gate);
    if (p->layer->down_rotation.factor > 0) {
        SQF_TRY(sqf_rotation_apply(p->context, &p->layer->down_rotation, w->gate, p->tokens, err));
    }
    SQF_TRY(begin_input(p, SQF_INPUT_DOWN, w->gate, c->intermediate, err));
    if (p->stopped) {
        return SQF_OK;
    }
    SQF_TRY(project(p, SQF_LINEAR_DOWN, w->delta, err));
    sqf_add(p->context, x, w->delta, p->tokens * c->hidden);
    return SQF_OK;
}

/* One layer, x in place. Where x is quantized (Q), and what the tap sees:
 *
 *     x -> norm -> Q -> q k v -> rope -> attention -> Q -> o -> + x
 *     x -> norm -> Q -> gate up -> silu * -> (rotation ->) Q -> down -> + x */
sqf_status sqf_layer_forward(sqf_context *context, const sqf_config *config, const sqf_layer *layer, float *x,
                             size_t tokens, size_t past, sqf_kv_view kv, const sqf_layer_tap *tap,
                             sqf_workspace *workspace, sqf_error *err)
{
    pass p = {.context = context,
              .config = config,
              .layer = layer,
              .tokens = tokens,
              .past = past,
              .tap = tap,
              .work = workspace};
    SQF_TRY(reserve(workspace, tokens, err));
    SQF_TRY(attention_block(&p, x, &kv, err));
    return p.stopped ? SQF_OK : mlp_block(&p, x, err);
}

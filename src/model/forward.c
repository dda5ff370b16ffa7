/* The forward pass of one decoder layer, for the tokens of one sequence or of several: norm, q/k/v, rope, attention
 * over the caches, o, residual; norm, gate/up, silu, down, residual. The order of operations is Hugging Face's, so that
 * float models agree with it to rounding.
 *
 * The point of the file is project(): an input is quantized once for all the linear layers that read it in the same
 * form, and their products run as one job of the threads. Norms and rotations are taken while a token is quantized,
 * gates and residuals while a block of sums is stored. Only the inputs of linear layers are quantized; the stream,
 * norms and attention stay in float32; the cache has its own type (kernels/attention.h). */
#include <math.h>
#include <string.h>

#include "kernels/ops.h"
#include "model/layer.h"

/* Buffers of a pass, for at most `tokens` tokens. They hold nothing between passes but the rope angles. */
struct sqf_workspace {
    const sqf_config *config; /* borrowed */
    sqf_input *input;
    size_t tokens;        /* what the buffers hold */
    float *normed;        /* [tokens, hidden]; used where a tap or a layer of floats reads it */
    float *query;         /* [tokens, heads, head_dim] */
    float *attended;      /* the same */
    float *key, *value;   /* [tokens, kv_heads, head_dim] on their way to the cache */
    float *gated;         /* [tokens, intermediate] silu(gate) * up */
    float *cosine, *sine; /* [tokens, head_dim / 2] for the positions below */
    size_t *positions;    /* [tokens] of which rope_count have angles */
    size_t rope_count;
    sqf_attention_scratch attention;
    sqf_attention_job *jobs; /* [job_capacity] one a sequence */
    size_t job_capacity;
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
                               &workspace->value,  &workspace->gated, &workspace->cosine,   &workspace->sine};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        free(*buffers[i]);
        *buffers[i] = NULL;
    }
    free(workspace->positions);
    workspace->positions = NULL;
    workspace->tokens = workspace->rope_count = 0;
}

void sqf_workspace_destroy(sqf_workspace *workspace)
{
    if (workspace) {
        free_buffers(workspace);
        sqf_attention_scratch_clear(&workspace->attention);
        free(workspace->jobs);
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

/* Room for a pass's sequences. */
static sqf_status reserve_jobs(sqf_workspace *w, size_t count, sqf_error *err)
{
    if (count <= w->job_capacity) {
        return SQF_OK;
    }
    free(w->jobs);
    w->job_capacity = 0;
    SQF_TRY(SQF_ALLOC(&w->jobs, count, "attention", err));
    w->job_capacity = count;
    return SQF_OK;
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
    SQF_TRY(buffer(&w->gated, tokens, config->intermediate, err));
    SQF_TRY(buffer(&w->cosine, tokens, config->head_dim / 2, err));
    SQF_TRY(buffer(&w->sine, tokens, config->head_dim / 2, err));
    SQF_TRY(SQF_ALLOC(&w->positions, tokens, "workspace", err));
    w->tokens = tokens;
    return SQF_OK;
}

/* One pass through a layer. */
typedef struct pass {
    sqf_context *context;
    const sqf_config *config;
    const sqf_layer *layer;
    const sqf_layer_sequence *sequences;
    size_t sequence_count, tokens; /* tokens: of all sequences */
    const sqf_layer_tap *tap;
    sqf_workspace *work;
    const float *source;        /* the distinct input that is being read */
    sqf_input_steps steps;      /* what is left to be done to it */
    const sqf_linear *prepared; /* the layer for which work->input holds the input; NULL = none yet */
    bool stopped;               /* the tap has seen the last input that it asked for */
} pass;

/* The angles are the same in every layer: computed once for the positions of a pass. Fewer positions from the same
 * first one are a prefix. */
static void prepare_rope(const pass *p)
{
    sqf_workspace *w = p->work;
    const size_t half = p->config->head_dim / 2;
    size_t at = 0;
    for (size_t s = 0; s < p->sequence_count; s++) {
        const sqf_layer_sequence *sequence = &p->sequences[s];
        bool known = at + sequence->tokens <= w->rope_count;
        for (size_t t = 0; known && t < sequence->tokens; t++) {
            known = w->positions[at + t] == sequence->past + t;
        }
        if (!known) {
            sqf_config_rope(p->config, sequence->past, sequence->tokens, w->cosine + at * half, w->sine + at * half);
            for (size_t t = 0; t < sequence->tokens; t++) {
                w->positions[at + t] = sequence->past + t;
            }
            /* what stood behind may be of other positions, but it says so itself */
            w->rope_count = w->rope_count > at + sequence->tokens ? w->rope_count : at + sequence->tokens;
        }
        at += sequence->tokens;
    }
}

/* A new distinct input x, with what is to be done to it: what was quantized before is no longer of use. A tap sees it
 * after the steps, which are then done at once; else they are done while it is quantized. */
static sqf_status begin_input(pass *p, sqf_input_kind kind, float *x, size_t channels, const sqf_input_steps *steps,
                              sqf_error *err)
{
    p->source = x;
    p->steps = *steps;
    p->prepared = NULL;
    if (!p->tap) {
        return SQF_OK;
    }
    p->steps = (sqf_input_steps){0};
    if (steps->gain) {
        sqf_rmsnorm(p->context, x, steps->gain, steps->epsilon, p->tokens, channels, steps->rows);
        p->source = steps->rows;
    }
    if (steps->rotation) {
        SQF_TRY(sqf_rotation_apply(p->context, steps->rotation, x, p->tokens, err));
    }
    p->stopped = p->tap->stops && p->tap->last == kind;
    return p->tap->input(p->tap->user, kind, p->source, p->tokens, channels, err);
}

/* The input in the form that `linear` reads, unless the layer before left it so. */
static sqf_status prepare_input(pass *p, const sqf_linear *linear, sqf_error *err)
{
    if (p->prepared && sqf_linear_same_input(p->prepared, linear)) {
        return SQF_OK;
    }
    const bool steps = p->steps.gain || p->steps.rotation;
    p->prepared = NULL;
    SQF_TRY(sqf_input_prepare_steps(p->context, p->work->input, linear, p->source, steps ? &p->steps : NULL, p->tokens,
                                    err));
    p->prepared = linear;
    return SQF_OK;
}

/* Products of the input: those that read it in the same form, one after the other in the list, run as one job. `kind`
 * is that of the first; the others follow it. */
static sqf_status project(pass *p, sqf_linear_kind kind, const sqf_linear_job *jobs, size_t count, sqf_error *err)
{
    for (size_t i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && sqf_linear_same_input(jobs[i].linear, jobs[end].linear);) {
            end++;
        }
        sqf_status status = prepare_input(p, jobs[i].linear, err);
        if (status == SQF_OK) {
            status = sqf_linear_forward_jobs(p->context, jobs + i, end - i, p->work->input, err);
        }
        if (status != SQF_OK) {
            char name[SQF_MODULE_NAME];
            sqf_linear_name(p->layer->index, (sqf_linear_kind)((size_t)kind + i), name);
            return sqf_fail_within(err, status, name);
        }
    }
    return SQF_OK;
}

/* q, k, v of the tokens; k and v go into the caches. */
static sqf_status project_qkv(pass *p, sqf_error *err)
{
    const sqf_config *c = p->config;
    sqf_workspace *w = p->work;
    const sqf_linear_job jobs[] = {{.linear = p->layer->linear[SQF_LINEAR_Q], .y = w->query},
                                   {.linear = p->layer->linear[SQF_LINEAR_K], .y = w->key},
                                   {.linear = p->layer->linear[SQF_LINEAR_V], .y = w->value}};
    SQF_TRY(project(p, SQF_LINEAR_Q, jobs, sizeof jobs / sizeof *jobs, err));
    if (p->layer->query_norm) {
        sqf_rmsnorm(p->context, w->query, p->layer->query_norm, c->norm_epsilon, p->tokens * c->heads, c->head_dim,
                    w->query);
        sqf_rmsnorm(p->context, w->key, p->layer->key_norm, c->norm_epsilon, p->tokens * c->kv_heads, c->head_dim,
                    w->key);
    }
    prepare_rope(p);
    sqf_rope_apply(p->context, w->query, w->cosine, w->sine, p->tokens, c->heads, c->head_dim);
    sqf_rope_apply(p->context, w->key, w->cosine, w->sine, p->tokens, c->kv_heads, c->head_dim);
    const size_t width = c->kv_heads * c->head_dim;
    for (size_t s = 0, at = 0; s < p->sequence_count; at += p->sequences[s++].tokens) {
        const sqf_layer_sequence *sequence = &p->sequences[s];
        sqf_kv_store(p->context, &sequence->kv, sequence->past, sequence->tokens, w->key + at * width,
                     w->value + at * width);
    }
    return SQF_OK;
}

/* Attention of each sequence over its own cache. */
static sqf_status attend(pass *p, sqf_error *err)
{
    const sqf_config *c = p->config;
    sqf_workspace *w = p->work;
    for (size_t s = 0, at = 0; s < p->sequence_count; at += p->sequences[s++].tokens) {
        const sqf_layer_sequence *sequence = &p->sequences[s];
        w->jobs[s] = (sqf_attention_job){.query = w->query + at * c->heads * c->head_dim,
                                         .kv = sequence->kv,
                                         .out = w->attended + at * c->heads * c->head_dim,
                                         .tokens = sequence->tokens,
                                         .past = sequence->past,
                                         .heads = c->heads,
                                         .window = sqf_config_window(c, p->layer->index),
                                         .scale = 1.0f / sqrtf((float)c->head_dim)};
    }
    return sqf_attention(p->context, w->jobs, p->sequence_count, &w->attention, err);
}

/* x += o(attention(norm(x))). Keys and values of this pass go behind the former ones of the caches before attention
 * reads them all. */
static sqf_status attention_block(pass *p, float *x, sqf_error *err)
{
    const sqf_config *c = p->config;
    sqf_workspace *w = p->work;
    const sqf_input_steps norm = {.gain = p->layer->attention_norm, .epsilon = c->norm_epsilon, .rows = w->normed};
    SQF_TRY(begin_input(p, SQF_INPUT_QKV, x, c->hidden, &norm, err));
    if (p->stopped) {
        return SQF_OK;
    }
    SQF_TRY(project_qkv(p, err));
    SQF_TRY(attend(p, err));
    SQF_TRY(begin_input(p, SQF_INPUT_O, w->attended, c->heads * c->head_dim, &(sqf_input_steps){0}, err));
    if (p->stopped) {
        return SQF_OK;
    }
    const sqf_linear_job job = {.linear = p->layer->linear[SQF_LINEAR_O], .y = x, .store = SQF_STORE_ADD};
    return project(p, SQF_LINEAR_O, &job, 1, err);
}

/* silu(gate(x)) * up(x): in one job where both read the input in the same form. */
static sqf_status project_gated(pass *p, float *y, sqf_error *err)
{
    const sqf_linear *gate = p->layer->linear[SQF_LINEAR_GATE], *up = p->layer->linear[SQF_LINEAR_UP];
    if (sqf_linear_same_input(gate, up)) {
        const sqf_linear_job both = {.linear = up, .y = y, .gate = gate};
        return project(p, SQF_LINEAR_GATE, &both, 1, err);
    }
    const sqf_linear_job first = {.linear = up, .y = y}, then = {.linear = gate, .y = y, .store = SQF_STORE_GATE};
    SQF_TRY(project(p, SQF_LINEAR_UP, &first, 1, err));
    return project(p, SQF_LINEAR_GATE, &then, 1, err);
}

/* x += down(silu(gate(norm(x))) * up(norm(x))) */
static sqf_status mlp_block(pass *p, float *x, sqf_error *err)
{
    const sqf_config *c = p->config;
    sqf_workspace *w = p->work;
    const sqf_rotation *rotation = p->layer->down_rotation.factor > 0 ? &p->layer->down_rotation : NULL;
    const sqf_input_steps norm = {.gain = p->layer->mlp_norm, .epsilon = c->norm_epsilon, .rows = w->normed};
    const sqf_input_steps rotate = {.rotation = rotation, .rows = w->gated};
    SQF_TRY(begin_input(p, SQF_INPUT_GATE_UP, x, c->hidden, &norm, err));
    if (p->stopped) {
        return SQF_OK;
    }
    SQF_TRY(project_gated(p, w->gated, err));
    SQF_TRY(begin_input(p, SQF_INPUT_DOWN, w->gated, c->intermediate, &rotate, err));
    if (p->stopped) {
        return SQF_OK;
    }
    const sqf_linear_job job = {.linear = p->layer->linear[SQF_LINEAR_DOWN], .y = x, .store = SQF_STORE_ADD};
    return project(p, SQF_LINEAR_DOWN, &job, 1, err);
}

/* One layer, x in place. Where x is quantized (Q), and what the tap sees:
 *
 *     x -> norm -> Q -> q k v -> rope -> attention -> Q -> o -> + x
 *     x -> norm -> Q -> gate up -> silu * -> (rotation ->) Q -> down -> + x */
sqf_status sqf_layer_forward_all(sqf_context *context, const sqf_config *config, const sqf_layer *layer, float *x,
                                 const sqf_layer_sequence *sequences, size_t count, const sqf_layer_tap *tap,
                                 sqf_workspace *workspace, sqf_error *err)
{
    pass p = {.context = context,
              .config = config,
              .layer = layer,
              .sequences = sequences,
              .sequence_count = count,
              .tap = tap,
              .work = workspace};
    for (size_t s = 0; s < count; s++) {
        p.tokens += sequences[s].tokens;
    }
    SQF_TRY(reserve(workspace, p.tokens, err));
    SQF_TRY(reserve_jobs(workspace, count, err));
    SQF_TRY(attention_block(&p, x, err));
    return p.stopped ? SQF_OK : mlp_block(&p, x, err);
}

sqf_status sqf_layer_forward(sqf_context *context, const sqf_config *config, const sqf_layer *layer, float *x,
                             size_t tokens, size_t past, sqf_kv_view kv, const sqf_layer_tap *tap,
                             sqf_workspace *workspace, sqf_error *err)
{
    const sqf_layer_sequence sequence = {.tokens = tokens, .past = past, .kv = kv};
    return sqf_layer_forward_all(context, config, layer, x, &sequence, 1, tap, workspace, err);
}

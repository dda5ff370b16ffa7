/* Which layer and input lose how much: one input's modules at a time are put back in float into the quantized model,
 * and alone into the original; then, for the most responsible ones, weights and activations apart.
 *
 * Layers in front of the one at hand are the same in every swap: their result is kept, so that a swap costs the layers
 * behind it alone. */
#include <math.h>
#include <string.h>

#include "diagnose/basis.h"
#include "diagnose/swap.h"
#include "diagnose/work.h"

/* Inputs for which weights and activations are told apart: at most so many, of at least this share of the damage. */
enum { PROBED = 4 };
static const double probed_share = 0.1;

/* The state before the layer at hand of both models. */
typedef struct swaps {
    sqf_diagnose_work *work;
    float *basis;                /* [hidden, hidden] of the quantized model's stream; NULL = the original's */
    bool values;                 /* rotated: qkv and o go together */
    float *original, *quantized; /* [windows, length, hidden] */
    sqf_layer *layers;           /* [layers] scratch: shallow copies, never cleared */
} swaps;

static void smoothed_inputs(const swaps *s, size_t layer, bool smoothed[SQF_INPUT_COUNT])
{
    const sqf_diagnose_work *work = s->work;
    for (int input = 0; input < SQF_INPUT_COUNT; input++) {
        smoothed[input] = work->places[layer * SQF_INPUT_COUNT + (size_t)input].smoothed;
    }
    smoothed[SQF_INPUT_O] = smoothed[SQF_INPUT_O] && !s->values;
}

/* Whether a module is swapped with an input: it reads it; with rotated values o goes with q, k and v. */
static bool belongs(const swaps *s, sqf_linear_kind kind, sqf_input_kind input)
{
    const sqf_input_kind read = sqf_linear_input(kind);
    return read == input || (s->values && read == SQF_INPUT_O && input == SQF_INPUT_QKV);
}

/* All layers of the quantized model, one input's modules of one layer replaced. */
static sqf_status evaluate_restored(swaps *s, size_t layer, sqf_input_kind input, sqf_linear *const *modules,
                                    sqf_eval_result *result, sqf_error *err)
{
    const size_t count = s->work->quantized->checkpoint.config.layers;
    memcpy(s->layers, s->work->quantized->layers, count * sizeof *s->layers);
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (belongs(s, (sqf_linear_kind)kind, input) && modules[kind]) {
            s->layers[layer].linear[kind] = modules[kind];
        }
    }
    return sqf_engine_evaluate(&s->work->engine, s->layers, layer, s->quantized, s->work->quantized, result, err);
}

/* All layers of the original, this one quantized but for the modules of other inputs. */
static sqf_status evaluate_alone(swaps *s, size_t layer, sqf_input_kind input, const sqf_float_layer *exact,
                                 sqf_eval_result *result, sqf_error *err)
{
    const size_t count = s->work->original->checkpoint.config.layers;
    memcpy(s->layers, s->work->original->layers, count * sizeof *s->layers);
    s->layers[layer] = s->work->quantized->layers[layer];
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (!belongs(s, (sqf_linear_kind)kind, input)) {
            s->layers[layer].linear[kind] = exact->linear[kind];
        }
    }
    return sqf_engine_evaluate(&s->work->engine, s->layers, layer, s->original, s->work->original, result, err);
}

static bool is_swapped(const swaps *s, const sqf_diagnose_input *entry, sqf_input_kind input)
{
    return entry->quantized && !(s->values && input == SQF_INPUT_O);
}

static sqf_status swap_layer(swaps *s, size_t layer, sqf_error *err)
{
    sqf_diagnose_work *work = s->work;
    bool smoothed[SQF_INPUT_COUNT];
    sqf_float_layer exact;
    smoothed_inputs(s, layer, smoothed);
    sqf_status status =
        sqf_float_layer_create(work->context, work->original, work->quantized, layer, smoothed, s->basis, &exact, err);
    for (int input = 0; input < SQF_INPUT_COUNT && status == SQF_OK; input++) {
        sqf_diagnose_input *entry = &work->out->inputs[layer * SQF_INPUT_COUNT + (size_t)input];
        sqf_eval_result restored, alone;
        if (!is_swapped(s, entry, (sqf_input_kind)input)) {
            continue;
        }
        status = evaluate_restored(s, layer, (sqf_input_kind)input, exact.linear, &restored, err);
        if (status == SQF_OK) {
            entry->restored_kl = restored.kl;
            entry->restored_perplexity = restored.model.perplexity;
            entry->share = work->out->eval.kl > 0 ? 1 - restored.kl / work->out->eval.kl : 0;
        }
        if (status == SQF_OK && !s->basis) {
            status = evaluate_alone(s, layer, (sqf_input_kind)input, &exact, &alone, err);
            entry->alone_kl = alone.kl;
            entry->alone_perplexity = alone.model.perplexity;
        }
    }
    sqf_float_layer_clear(&exact);
    return status;
}

/* Both streams through the layer at hand, as it is. */
static sqf_status advance(swaps *s, size_t layer, sqf_error *err)
{
    sqf_engine *e = &s->work->engine;
    const size_t floats = e->length * s->work->original->checkpoint.config.hidden;
    for (size_t w = 0; w < e->windows; w++) {
        SQF_TRY(sqf_engine_layer(e, false, &s->work->original->layers[layer], s->original + w * floats, NULL, err));
        SQF_TRY(sqf_engine_layer(e, true, &s->work->quantized->layers[layer], s->quantized + w * floats, NULL, err));
    }
    return SQF_OK;
}

static void embed(swaps *s)
{
    const sqf_engine *e = &s->work->engine;
    const size_t floats = e->length * s->work->original->checkpoint.config.hidden;
    for (size_t w = 0; w < e->windows; w++) {
        sqf_engine_embed(e, s->work->original, w, s->original + w * floats);
        sqf_engine_embed(e, s->work->quantized, w, s->quantized + w * floats);
    }
}

/* The index of the input with the largest share that was not probed yet; input_count = none worth it. */
static size_t most_responsible(const sqf_diagnosis *d)
{
    size_t best = d->input_count;
    for (size_t i = 0; i < d->input_count; i++) {
        const sqf_diagnose_input *input = &d->inputs[i];
        if (input->share >= probed_share && !isfinite(input->activations) &&
            (best == d->input_count || input->share > d->inputs[best].share)) {
            best = i;
        }
    }
    return best;
}

/* The same weights with float activations: what disappears was theirs. */
static sqf_status probe(swaps *s, size_t index, sqf_error *err)
{
    sqf_diagnose_input *entry = &s->work->out->inputs[index];
    const size_t layer = entry->layer;
    const sqf_input_kind input = (sqf_input_kind)(index % SQF_INPUT_COUNT);
    sqf_linear *modules[SQF_LINEAR_COUNT] = {0};
    sqf_eval_result result;
    sqf_status status = SQF_OK;
    for (int kind = 0; kind < SQF_LINEAR_COUNT && status == SQF_OK; kind++) {
        const sqf_scheme scheme = sqf_diagnose_scheme(s->work, layer, (sqf_linear_kind)kind);
        if (belongs(s, (sqf_linear_kind)kind, input) && !sqf_weight_spec_is_dense(&scheme.weights)) {
            status = sqf_weights_alone_create(s->work->context, s->work->quantized, layer, (sqf_linear_kind)kind,
                                              &modules[kind], err);
        }
    }
    if (status == SQF_OK) {
        embed(s);
        for (size_t i = 0; i < layer && status == SQF_OK; i++) {
            status = advance(s, i, err);
        }
    }
    if (status == SQF_OK) {
        status = evaluate_restored(s, layer, input, modules, &result, err);
    }
    if (status == SQF_OK) {
        entry->activations = s->work->out->eval.kl > 0 ? 1 - result.kl / s->work->out->eval.kl : 0;
    }
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        sqf_linear_destroy(modules[kind]);
    }
    return status;
}

static size_t count_swaps(const swaps *s)
{
    const sqf_diagnosis *d = s->work->out;
    size_t count = 0;
    for (size_t i = 0; i < d->input_count; i++) {
        count += is_swapped(s, &d->inputs[i], (sqf_input_kind)(i % SQF_INPUT_COUNT));
    }
    return s->basis ? count : 2 * count;
}

static size_t count_probes(const sqf_diagnosis *d)
{
    size_t count = 0;
    for (size_t i = 0; i < d->input_count; i++) {
        count += d->inputs[i].share >= probed_share;
    }
    return count < PROBED ? count : PROBED;
}

static sqf_status run_swaps(swaps *s, sqf_error *err)
{
    sqf_diagnose_work *work = s->work;
    sqf_engine *e = &work->engine;
    const sqf_config *config = &work->original->checkpoint.config;
    const size_t floats = e->windows * e->length * config->hidden;
    SQF_TRY(SQF_ALLOC(&s->original, floats, "hidden states", err));
    SQF_TRY(SQF_ALLOC(&s->quantized, floats, "hidden states", err));
    SQF_TRY(SQF_ALLOC(&s->layers, config->layers, "layers", err));
    e->done = 0;
    e->total = count_swaps(s) * e->windows;
    embed(s);
    for (size_t i = 0; i < config->layers; i++) {
        SQF_TRY(swap_layer(s, i, err));
        SQF_TRY(advance(s, i, err));
    }
    e->done = 0;
    e->total = count_probes(work->out) * e->windows;
    for (size_t left = count_probes(work->out); left > 0; left--) {
        SQF_TRY(probe(s, most_responsible(work->out), err));
    }
    return SQF_OK;
}

/* What rotations leave undone. *possible = false: the stream's rotation was not found. */
static sqf_status follow_rotation(swaps *s, bool *possible, sqf_error *err)
{
    sqf_diagnose_work *work = s->work;
    const sqf_rotation_spec rotation = sqf_module_schemes_rotation(work->quantized->checkpoint.schemes);
    const bool residual = strcmp(rotation.residual, "off") != 0;
    sqf_finding *finding;
    *possible = true;
    s->values = strcmp(rotation.values, "off") != 0;
    if (residual) {
        SQF_TRY(sqf_basis_between(work->original, work->quantized, &s->basis, err));
        *possible = s->basis != NULL;
    }
    if (!residual && !s->values) {
        return SQF_OK;
    }
    SQF_TRY(sqf_diagnose_add(work, "not-attributed", SQF_SEVERITY_NOTE, 0, &finding, err));
    snprintf(finding->text, sizeof finding->text, "rotated (residual stream %.20s, values %.20s): %s",
             rotation.residual, rotation.values,
             !*possible  ? "the rotation was not found in the embeddings, layers were not swapped"
             : !residual ? "o counts with qkv"
             : s->values ? "o counts with qkv, nothing was put alone into the original"
                         : "nothing was put alone into the original");
    return SQF_OK;
}

sqf_status sqf_diagnose_attribute(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_attribute when = work->options->attribute;
    const bool lost = work->out->eval.ratio - 1 > work->options->loss;
    bool possible;
    if (when == SQF_ATTRIBUTE_NEVER || (when == SQF_ATTRIBUTE_AUTO && !lost)) {
        return SQF_OK;
    }
    swaps s = {.work = work};
    sqf_status status = follow_rotation(&s, &possible, err);
    if (status == SQF_OK && possible) {
        status = run_swaps(&s, err);
    }
    free(s.basis);
    free(s.original);
    free(s.quantized);
    free(s.layers);
    return status;
}

/* What the text showed: collapse, who is responsible and through what, whether calibration fits the text. */
#include <math.h>
#include <string.h>

#include "diagnose/work.h"

/* Thresholds, measured on the demo model (docs/diagnose.md): texts of one domain lie below them, others above. */
static const double drift_most = 0.06;    /* typical relative difference of the channels' sizes */
static const double text_factor = 2.5;    /* of the two texts' perplexities, either way */
static const double variety_least = 0.5;  /* of the different tokens */
static const double share_least = 0.15;   /* of the damage, for an input to be called responsible */
static const double bad_share = 0.5;      /* ... and to be called bad */
enum { RESPONSIBLE = 5 };                 /* so many are listed; the table has all */
static const double cause_share = 0.5;    /* of what restoring takes away, for activations to be the cause */
static const double outlier_least = 10.0; /* largest channel over the median one, for 4-bit inputs */

static void describe_place(const sqf_diagnose_input *input, sqf_finding *f)
{
    snprintf(f->where, sizeof f->where, "model.layers.%zu %s", input->layer, input->input);
}

/* The regular expression of the modules that read an input, for `overrides`. */
static const char *readers_pattern(size_t index)
{
    static const char *const patterns[SQF_INPUT_COUNT] = {"self_attn\\.[qkv]_proj", "self_attn\\.o_proj",
                                                          "mlp\\.(gate|up)_proj", "mlp\\.down_proj"};
    return patterns[index % SQF_INPUT_COUNT];
}

/* The scheme of the first quantized module that reads an input. */
static sqf_scheme input_scheme(const sqf_diagnose_work *work, size_t index)
{
    sqf_scheme scheme = {0};
    for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
        if (sqf_linear_input((sqf_linear_kind)kind) == (sqf_input_kind)(index % SQF_INPUT_COUNT)) {
            scheme = sqf_diagnose_scheme(work, index / SQF_INPUT_COUNT, (sqf_linear_kind)kind);
            if (!sqf_weight_spec_is_dense(&scheme.weights)) {
                break;
            }
        }
    }
    return scheme;
}

/* An input in few bits, one scale for all channels, nothing that takes its outliers away. */
static bool exposed(const sqf_diagnose_work *work, size_t index)
{
    const sqf_scheme scheme = input_scheme(work, index);
    const sqf_act_spec *a = &scheme.activations;
    const sqf_rotation_spec rotation = sqf_module_schemes_rotation(work->quantized->checkpoint.schemes);
    const bool rotated = strcmp(rotation.residual, "off") != 0;
    return !sqf_weight_spec_is_dense(&scheme.weights) && !sqf_act_spec_is_float(a) && !sqf_act_spec_is_split(a) &&
           sqf_type_bits(a->low) <= 4 && a->scale != SQF_ACT_GROUP && !work->places[index].smoothed && !rotated &&
           work->out->inputs[index].outlier > outlier_least;
}

/* Measured where it was; else the operand of fewer bits. */
static bool activations_guilty(const sqf_diagnose_input *input, const sqf_scheme *scheme)
{
    if (isfinite(input->activations)) {
        return input->activations > cause_share * input->share;
    }
    return sqf_type_bits(scheme->activations.low) <= sqf_type_bits(scheme->weights.low);
}

/* The setting that would mend an input, by what its damage comes from. */
static void write_remedy(const sqf_diagnose_work *work, size_t index, sqf_finding *f)
{
    const sqf_diagnose_input *input = &work->out->inputs[index];
    const sqf_scheme scheme = input_scheme(work, index);
    const bool activations = activations_guilty(input, &scheme);
    const char *keys = "scheme: w8a8";
    if (activations && exposed(work, index)) {
        keys = "smooth: 0.5";
    } else if (activations && scheme.activations.scale == SQF_ACT_STATIC) {
        keys = "act_scale: token";
    } else if (activations && sqf_type_bits(scheme.activations.low) < 8 &&
               !sqf_act_spec_is_split(&scheme.activations)) {
        keys = "scheme: w4a-sq6";
    } else if (activations && sqf_act_spec_is_split(&scheme.activations)) {
        keys = "act_sparsity: 0.5, mask: l2";
    } else if (!activations && sqf_type_bits(scheme.weights.low) < 4) {
        keys = "scheme: w4a8";
    } else if (!activations && scheme.weights.high == SQF_TYPE_NONE && scheme.weights.low != SQF_TYPE_NONE) {
        keys = "bank_weights: 32, clip: mse";
    }
    snprintf(f->remedy, sizeof f->remedy, "overrides: [{match: 'model\\.layers\\.%zu\\.%s', %s}]", input->layer,
             readers_pattern(index), keys);
}

static sqf_status find_collapse(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_eval_result *e = &work->out->eval;
    sqf_finding *f;
    SQF_TRY(sqf_diagnose_add(work, "collapse", SQF_SEVERITY_BAD, e->ratio - 1, &f, err));
    snprintf(f->text, sizeof f->text,
             "perplexity %.4g, that of the original is %.4g: %.3g %% lost (+- %.2g), more than %.3g %%; KL %.4g",
             e->model.perplexity, e->reference.perplexity, 100 * (e->ratio - 1), 100 * e->ratio_error,
             100 * work->options->loss, e->kl);
    snprintf(f->remedy, sizeof f->remedy,
             "see the findings below; if none stands out, more bits: scheme: w4a8, or "
             "rotate: hadamard");
    return SQF_OK;
}

/* Inputs whose restoring takes away much, the largest first. */
static sqf_status find_responsible(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_diagnosis *d = work->out;
    double below = INFINITY;
    for (int left = RESPONSIBLE; left > 0; left--) {
        size_t best = d->input_count;
        for (size_t i = 0; i < d->input_count; i++) {
            const double share = d->inputs[i].share;
            if (share >= share_least && share < below && (best == d->input_count || share > d->inputs[best].share)) {
                best = i;
            }
        }
        if (best == d->input_count) {
            break;
        }
        const sqf_diagnose_input *input = &d->inputs[best];
        below = input->share;
        sqf_finding *f;
        SQF_TRY(sqf_diagnose_add(work, "responsible-input",
                                 input->share >= bad_share ? SQF_SEVERITY_BAD : SQF_SEVERITY_WARNING, input->share, &f,
                                 err));
        describe_place(input, f);
        const int used = snprintf(f->text, sizeof f->text,
                                  "%s: in float again takes away %.0f %% of the damage (perplexity %.4g); alone it "
                                  "costs %.3g %%",
                                  input->scheme, 100 * input->share, input->restored_perplexity,
                                  100 * (input->alone_perplexity / d->eval.reference.perplexity - 1));
        if (isfinite(input->activations) && used > 0 && (size_t)used < sizeof f->text) {
            snprintf(f->text + used, sizeof f->text - (size_t)used, "; float activations alone take away %.0f %%",
                     100 * input->activations);
        }
        write_remedy(work, best, f);
    }
    return SQF_OK;
}

static sqf_status find_outliers(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_diagnosis *d = work->out;
    size_t count = 0, worst = 0;
    for (size_t i = 0; i < d->input_count; i++) {
        if (exposed(work, i)) {
            worst = count++ == 0 || d->inputs[i].outlier > d->inputs[worst].outlier ? i : worst;
        }
    }
    sqf_finding *f;
    if (count == 0) {
        return SQF_OK;
    }
    SQF_TRY(sqf_diagnose_add(work, "outliers", SQF_SEVERITY_WARNING, d->inputs[worst].outlier, &f, err));
    snprintf(f->text, sizeof f->text,
             "%zu inputs of 4 bits with one scale hold channels far above the rest, unsmoothed; worst layer %zu %s: "
             "%.0f times the median channel",
             count, d->inputs[worst].layer, d->inputs[worst].input, d->inputs[worst].outlier);
    snprintf(f->remedy, sizeof f->remedy, "smooth: 0.5, or rotate: hadamard, or act_scale: group with act_group: 128");
    return SQF_OK;
}

/* ---- calibration ---- */

static sqf_status find_drift(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_diagnosis *d = work->out;
    size_t worst = 0;
    sqf_finding *f;
    if (!(d->calibration_drift > drift_most)) {
        return SQF_OK;
    }
    for (size_t i = SQF_INPUT_QKV; i < d->input_count; i += SQF_INPUT_COUNT) {
        worst = !(d->inputs[i].drift <= d->inputs[worst].drift) ? i : worst;
    }
    SQF_TRY(sqf_diagnose_add(work, "calibration-drift", SQF_SEVERITY_WARNING, d->calibration_drift, &f, err));
    snprintf(f->text, sizeof f->text,
             "the channels that q, k and v read differ in size by typically %.0f %% between calibration and this text, "
             "for texts of one kind by less than %.0f %%; most in layer %zu: %.0f %%",
             100 * d->calibration_drift, 100 * drift_most, d->inputs[worst].layer, 100 * d->inputs[worst].drift);
    snprintf(f->remedy, sizeof f->remedy,
             "calibrate on text of the kind that the model will see: --calib FILE, "
             "--calib-random");
    return SQF_OK;
}

static sqf_status find_text(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_diagnosis *d = work->out;
    const double quotient = d->calibration_perplexity / d->eval.reference.perplexity;
    const bool repeated = d->calibration_variety < variety_least;
    sqf_finding *f;
    if (!repeated && !(quotient > text_factor) && !(quotient < 1 / text_factor)) {
        return SQF_OK;
    }
    SQF_TRY(sqf_diagnose_add(work, "calibration-text", SQF_SEVERITY_WARNING, quotient, &f, err));
    snprintf(f->text, sizeof f->text,
             "the calibration text is of another kind: the original's perplexity on it is %.4g, on this text %.4g; it "
             "has %.0f %% as many different tokens: %s",
             d->calibration_perplexity, d->eval.reference.perplexity, 100 * d->calibration_variety,
             repeated       ? "does it repeat itself?"
             : quotient > 1 ? "is it of another domain, shuffled or damaged?"
                            : "is it much plainer?");
    snprintf(f->remedy, sizeof f->remedy,
             "calibrate on ordinary text of the kind that the model will see: --calib "
             "FILE");
    return SQF_OK;
}

/* A Hessian of fewer tokens than channels has no inverse of its own: damping alone decides. */
static sqf_status find_small(sqf_diagnose_work *work, sqf_error *err)
{
    const sqf_diagnose_place *worst = NULL;
    size_t count = 0;
    sqf_finding *f;
    for (size_t i = 0; i < work->out->input_count; i++) {
        const sqf_diagnose_place *place = &work->places[i];
        if (place->calibrated && place->calibration.tokens < 2 * place->calibration.channels) {
            worst = !worst || place->calibration.channels > worst->calibration.channels ? place : worst;
            count++;
        }
    }
    if (!worst) {
        return SQF_OK;
    }
    SQF_TRY(sqf_diagnose_add(work, "calibration-small", SQF_SEVERITY_WARNING,
                             (double)worst->calibration.channels / (double)worst->calibration.tokens, &f, err));
    snprintf(f->where, sizeof f->where, "%zu inputs", count);
    snprintf(
        f->text, sizeof f->text,
        "calibration had %llu tokens for inputs of up to %zu channels: expected at least twice as many as channels",
        (unsigned long long)worst->calibration.tokens, worst->calibration.channels);
    snprintf(f->remedy, sizeof f->remedy, "--calib-samples 32 --calib-length 512 or more");
    return SQF_OK;
}

sqf_status sqf_diagnose_accuracy(sqf_diagnose_work *work, sqf_error *err)
{
    const bool lost = work->out->eval.ratio - 1 > work->options->loss;
    if (lost) {
        SQF_TRY(find_collapse(work, err));
        SQF_TRY(find_responsible(work, err));
        SQF_TRY(find_outliers(work, err));
    }
    SQF_TRY(find_drift(work, err));
    SQF_TRY(find_text(work, err));
    return find_small(work, err);
}

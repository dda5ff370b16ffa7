/* The order of a diagnosis: open, look at the files, run the text, swap layers where the loss asks for it, conclude. */
#include <math.h>
#include <string.h>

#include "device/device.h"
#include "diagnose/work.h"

sqf_diagnose_options sqf_diagnose_options_default(void)
{
    return (sqf_diagnose_options){.max_tokens = 8192, .loss = 0.05, .tokens = 8};
}

const char *sqf_severity_name(sqf_severity severity)
{
    return severity == SQF_SEVERITY_BAD ? "bad" : severity == SQF_SEVERITY_WARNING ? "warning" : "note";
}

void sqf_diagnosis_clear(sqf_diagnosis *diagnosis)
{
    free(diagnosis->findings);
    free(diagnosis->inputs);
    free(diagnosis->tokens);
    *diagnosis = (sqf_diagnosis){0};
}

sqf_status sqf_diagnose_add(sqf_diagnose_work *work, const char *kind, sqf_severity severity, double weight,
                            sqf_finding **out, sqf_error *err)
{
    sqf_diagnosis *d = work->out;
    *out = NULL;
    if (d->finding_count == work->finding_room) {
        sqf_finding *larger;
        const size_t room = work->finding_room == 0 ? 16 : 2 * work->finding_room;
        SQF_TRY(SQF_ALLOC(&larger, room, "findings", err));
        if (d->finding_count > 0) {
            memcpy(larger, d->findings, d->finding_count * sizeof *larger);
        }
        free(d->findings);
        d->findings = larger;
        work->finding_room = room;
    }
    *out = &d->findings[d->finding_count++];
    **out = (sqf_finding){.kind = kind, .severity = severity, .weight = weight};
    return SQF_OK;
}

sqf_scheme sqf_diagnose_scheme(const sqf_diagnose_work *work, size_t layer, sqf_linear_kind kind)
{
    char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
    sqf_linear_name(layer, kind, module);
    sqf_scheme scheme = sqf_module_schemes_get(work->quantized->checkpoint.schemes, module);
    sqf_tensor_name(module, "weight", name);
    const sqf_tensor *tensor = sqf_tensors_find(work->quantized->checkpoint.tensors, name);
    if (sqf_weight_spec_is_dense(&scheme.weights) && tensor) {
        scheme.weights.low = sqf_dtype_type(tensor->dtype);
    }
    return scheme;
}

/* ---- opening ---- */

static sqf_status check_shapes(const sqf_config *a, const sqf_config *b, const char *directory, sqf_error *err)
{
    const struct {
        const char *name;
        size_t a, b;
    } sizes[] = {
        {"hidden_size", a->hidden, b->hidden},
        {"intermediate_size", a->intermediate, b->intermediate},
        {"num_hidden_layers", a->layers, b->layers},
        {"num_attention_heads", a->heads, b->heads},
        {"num_key_value_heads", a->kv_heads, b->kv_heads},
        {"head_dim", a->head_dim, b->head_dim},
        {"vocab_size", a->vocabulary, b->vocabulary},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].a != sizes[i].b) {
            return sqf_fail(err, SQF_E_SHAPE, "%s: %s: expected %zu as in the original, found %zu", directory,
                            sizes[i].name, sizes[i].a, sizes[i].b);
        }
    }
    return SQF_OK;
}

static sqf_status load_report(sqf_diagnose_work *work, sqf_error *err)
{
    char *path;
    sqf_status status = SQF_OK;
    SQF_TRY(sqf_path_join(&path, work->quantized->checkpoint.directory, "report.json", err));
    if (sqf_path_exists(path)) {
        status = sqf_json_load(path, 256 << 20, &work->report, err);
    }
    free(path);
    return status;
}

/* Whether smoothing changed an input, from the entries of the modules that read it. */
static void read_smoothing(sqf_diagnose_work *work)
{
    const json_t *tensors = json_object_get(work->report, "tensors");
    const size_t layers = work->quantized->checkpoint.config.layers;
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const json_t *entry = json_array_get(tensors, i);
        const json_t *name = json_object_get(entry, "name");
        for (size_t m = 0; json_is_string(name) && m < layers * SQF_LINEAR_COUNT; m++) {
            const sqf_linear_kind kind = (sqf_linear_kind)(m % SQF_LINEAR_COUNT);
            char module[SQF_MODULE_NAME];
            sqf_linear_name(m / SQF_LINEAR_COUNT, kind, module);
            if (strcmp(module, json_string_value(name)) == 0) {
                work->places[m / SQF_LINEAR_COUNT * SQF_INPUT_COUNT + sqf_linear_input(kind)].smoothed =
                    json_is_number(json_object_get(entry, "smooth"));
            }
        }
    }
}

/* Without a report the norms tell for their own inputs, and the rest goes with them. */
static void guess_smoothing(sqf_diagnose_work *work)
{
    const sqf_config *config = &work->quantized->checkpoint.config;
    for (size_t i = 0; i < config->layers; i++) {
        const sqf_layer *a = &work->original->layers[i], *b = &work->quantized->layers[i];
        const size_t bytes = config->hidden * sizeof *a->mlp_norm;
        const bool attention = memcmp(a->attention_norm, b->attention_norm, bytes) != 0;
        const bool mlp = memcmp(a->mlp_norm, b->mlp_norm, bytes) != 0;
        sqf_diagnose_place *place = &work->places[i * SQF_INPUT_COUNT];
        place[SQF_INPUT_QKV].smoothed = attention;
        place[SQF_INPUT_GATE_UP].smoothed = mlp;
        place[SQF_INPUT_O].smoothed = place[SQF_INPUT_DOWN].smoothed = attention || mlp;
    }
}

static sqf_status read_profiles(sqf_diagnose_work *work, sqf_error *err)
{
    const json_t *inputs = json_object_get(work->report, "inputs");
    const size_t layers = work->quantized->checkpoint.config.layers;
    for (size_t i = 0; i < json_array_size(inputs); i++) {
        sqf_profile profile;
        size_t layer;
        sqf_input_kind input;
        SQF_TRY(sqf_profile_read(json_array_get(inputs, i), "report.json: inputs", &profile, &layer, &input, err));
        if (layer < layers) {
            sqf_diagnose_place *place = &work->places[layer * SQF_INPUT_COUNT + input];
            place->calibrated = true;
            place->calibration = profile;
        }
    }
    return SQF_OK;
}

static void name_inputs(sqf_diagnose_work *work)
{
    for (size_t i = 0; i < work->out->input_count; i++) {
        sqf_diagnose_input *input = &work->out->inputs[i];
        const sqf_input_kind kind = (sqf_input_kind)(i % SQF_INPUT_COUNT);
        *input = (sqf_diagnose_input){.layer = i / SQF_INPUT_COUNT, .input = sqf_input_kind_name(kind)};
        input->restored_kl = input->restored_perplexity = input->alone_kl = input->alone_perplexity = NAN;
        input->share = input->activations = input->drift = input->outlier = NAN;
        for (int k = 0; k < SQF_LINEAR_COUNT; k++) {
            char name[SQF_SCHEME_TEXT];
            const sqf_scheme scheme = sqf_diagnose_scheme(work, input->layer, (sqf_linear_kind)k);
            if (sqf_linear_input((sqf_linear_kind)k) != kind) {
                continue;
            }
            if (input->scheme[0] == '\0' || (!input->quantized && !sqf_weight_spec_is_dense(&scheme.weights))) {
                sqf_scheme_print(&scheme, SQF_SPELLING_SHORT, name);
                snprintf(input->scheme, sizeof input->scheme, "%.63s", name);
            }
            input->quantized |= !sqf_weight_spec_is_dense(&scheme.weights);
        }
    }
}

static sqf_status open_models(sqf_diagnose_work *work, const char *original, const char *quantized, sqf_error *err)
{
    SQF_TRY(sqf_device_refuse(work->context, "diagnosis", err));
    SQF_TRY(sqf_model_open(work->context, original, &work->original, err));
    SQF_TRY(sqf_model_open(work->context, quantized, &work->quantized, err));
    if (work->original->checkpoint.schemes) {
        return sqf_fail(err, SQF_E_ARG, "%s: expected an original checkpoint, found a quantized one", original);
    }
    if (!work->quantized->checkpoint.schemes) {
        return sqf_fail(err, SQF_E_ARG, "%s: expected a quantized model, found an original checkpoint", quantized);
    }
    const sqf_config *config = &work->quantized->checkpoint.config;
    SQF_TRY(check_shapes(&work->original->checkpoint.config, config, quantized, err));
    work->out->input_count = config->layers * SQF_INPUT_COUNT;
    SQF_TRY(SQF_ALLOC(&work->out->inputs, work->out->input_count, "inputs", err));
    SQF_TRY(SQF_ALLOC(&work->places, work->out->input_count, "inputs", err));
    SQF_TRY(load_report(work, err));
    if (work->report) {
        read_smoothing(work);
    } else {
        guess_smoothing(work);
    }
    name_inputs(work);
    return read_profiles(work, err);
}

/* ---- the whole ---- */

/* Worst first; findings of one severity stay in the order in which the parts found them. */
static void sort_findings(sqf_diagnosis *d)
{
    for (size_t i = 1; i < d->finding_count; i++) {
        const sqf_finding finding = d->findings[i];
        size_t at = i;
        for (; at > 0 && d->findings[at - 1].severity < finding.severity; at--) {
            d->findings[at] = d->findings[at - 1];
        }
        d->findings[at] = finding;
    }
}

static void conclude(sqf_diagnosis *d)
{
    sort_findings(d);
    d->healthy = d->finding_count == 0 || d->findings[0].severity == SQF_SEVERITY_NOTE;
}

static sqf_status run(sqf_diagnose_work *work, const char *original, const char *quantized, sqf_error *err)
{
    if (!(work->options->loss > 0.0)) {
        return sqf_fail(err, SQF_E_ARG, "diagnosis: loss: expected more than 0, found %g", work->options->loss);
    }
    SQF_TRY(open_models(work, original, quantized, err));
    if (work->options->text) {
        SQF_TRY(sqf_diagnose_run_text(work, err));
        SQF_TRY(sqf_diagnose_attribute(work, err));
        SQF_TRY(sqf_diagnose_accuracy(work, err));
    }
    SQF_TRY(sqf_diagnose_speed(work, err));
    SQF_TRY(sqf_diagnose_alignment(work, err));
    conclude(work->out);
    return SQF_OK;
}

static void work_clear(sqf_diagnose_work *work)
{
    for (size_t i = 0; work->places && i < work->out->input_count; i++) {
        sqf_statistics_clear(&work->places[i].original);
        sqf_statistics_clear(&work->places[i].quantized);
    }
    free(work->places);
    sqf_engine_clear(&work->engine);
    sqf_ids_clear(&work->ids);
    sqf_tokenizer_destroy(work->tokenizer);
    json_decref(work->report);
    sqf_model_destroy(work->original);
    sqf_model_destroy(work->quantized);
}

sqf_status sqf_diagnose(sqf_context *context, const char *original, const char *quantized,
                        const sqf_diagnose_options *options, sqf_diagnosis *diagnosis, sqf_error *err)
{
    *diagnosis = (sqf_diagnosis){.calibration_drift = NAN, .calibration_perplexity = NAN, .calibration_variety = NAN};
    sqf_diagnose_work work = {.context = context, .options = options, .out = diagnosis};
    const sqf_status status = run(&work, original, quantized, err);
    work_clear(&work);
    if (status != SQF_OK) {
        sqf_diagnosis_clear(diagnosis);
    }
    return status;
}

/* What quantization did, as JSON and as totals. */
#include "ptq/report.h"

#include <math.h>

#include "ptq/profile/profile.h"

void sqf_report_clear(sqf_report *report)
{
    json_decref(report->tensors);
    json_decref(report->budget);
    json_decref(report->inputs);
    json_decref(report->progress);
    *report = (sqf_report){0};
}

/* JSON has no NaN: what was not measured is null. */
static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

/* Takes over `value`. */
static bool set(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static json_t *entry_json(const sqf_report_entry *entry)
{
    char scheme[SQF_SCHEME_TEXT];
    const sqf_scheme_bits bits = sqf_scheme_bits_of(&entry->recipe->scheme);
    const double weights = (double)entry->rows * (double)entry->columns;
    sqf_scheme_print(&entry->recipe->scheme, SQF_SPELLING_SHORT, scheme);
    json_t *object = json_object();
    const bool done = set(object, "name", json_string(entry->name)) &&
                      set(object, "shape", json_pack("[I,I]", (json_int_t)entry->rows, (json_int_t)entry->columns)) &&
                      set(object, "scheme", json_string(scheme)) &&
                      set(object, "weights_equivalent_bits", number(bits.weights_equivalent)) &&
                      set(object, "activations_equivalent_bits", number(bits.activations_equivalent)) &&
                      set(object, "stored_bits", number(8.0 * (double)entry->bytes / weights)) &&
                      set(object, "weight_error", number(entry->result.weight_error)) &&
                      set(object, "output_error", number(entry->result.output_error)) &&
                      set(object, "smooth", entry->alpha >= 0.0f ? number((double)entry->alpha) : json_null()) &&
                      set(object, "damping", number(entry->damping)) &&
                      set(object, "tokens", json_integer((json_int_t)entry->tokens)) &&
                      set(object, "seconds", number(entry->seconds));
    if (!done) {
        json_decref(object);
        return NULL;
    }
    return object;
}

sqf_status sqf_report_add(sqf_report *report, const sqf_report_entry *entry, sqf_error *err)
{
    const sqf_scheme_bits bits = sqf_scheme_bits_of(&entry->recipe->scheme);
    const uint64_t weights = (uint64_t)entry->rows * entry->columns;
    if (!report->tensors) {
        report->tensors = json_array();
    }
    if (json_array_append_new(report->tensors, entry_json(entry)) != 0) {
        return sqf_fail(err, SQF_E_MEMORY, "report: out of memory");
    }
    if (entry->vocabulary) {
        report->vocabulary_weights += weights;
        report->vocabulary_bytes += entry->bytes;
        return SQF_OK;
    }
    report->matrices++;
    report->weights += weights;
    report->bytes += entry->bytes;
    report->weights_bits += bits.weights_equivalent * (double)weights;
    report->activations_bits += bits.activations_equivalent * (double)weights;
    report->output_error += entry->result.output_error;
    return SQF_OK;
}

sqf_status sqf_report_add_input(sqf_report *report, size_t layer, sqf_input_kind input,
                                const sqf_statistics *statistics, sqf_error *err)
{
    sqf_profile profile;
    sqf_profile_make(statistics, &profile);
    if (!report->inputs) {
        report->inputs = json_array();
    }
    if (json_array_append_new(report->inputs, sqf_profile_json(&profile, layer, input)) != 0) {
        return sqf_fail(err, SQF_E_MEMORY, "report: out of memory");
    }
    return SQF_OK;
}

sqf_status sqf_report_add_progress(sqf_report *report, size_t layer, const sqf_stages *stages, double seconds,
                                   sqf_error *err)
{
    if (!report->progress) {
        report->progress = json_array();
    }
    json_t *entry = json_pack("{s:I, s:f, s:f, s:f, s:f}", "layer", (json_int_t)layer, "seconds", seconds,
                              "left_seconds", sqf_stages_left(stages), "cpu_seconds", sqf_stages_cpu_spent(stages),
                              "left_cpu_seconds", sqf_stages_cpu_left(stages));
    return json_array_append_new(report->progress, entry) == 0 ? SQF_OK
                                                               : sqf_fail(err, SQF_E_MEMORY, "report: out of memory");
}

sqf_quantize_summary sqf_report_summary(const sqf_report *report, double seconds, uint64_t file_bytes)
{
    const double weights = (double)report->weights; /* 0 gives NaN: nothing was quantized, there is no mean */
    return (sqf_quantize_summary){
        .seconds = seconds,
        .calibration_seconds = report->calibration_seconds,
        .calibration_tokens = report->calibration_tokens,
        .weights = report->weights,
        .bits_per_weight = 8.0 * (double)report->bytes / weights,
        .weights_equivalent_bits = report->weights_bits / weights,
        .activations_equivalent_bits = report->activations_bits / weights,
        .file_bytes = file_bytes,
        .mean_output_error = report->output_error / (double)report->matrices,
        .damped = report->damped,
        .vocabulary_weights = report->vocabulary_weights,
        .vocabulary_bits_per_weight = 8.0 * (double)report->vocabulary_bytes / (double)report->vocabulary_weights,
    };
}

static json_t *calibration_json(const sqf_quantize_options *options, const sqf_calibration *calibration)
{
    if (!calibration) {
        return json_null();
    }
    json_t *file = options->calibration ? json_string(options->calibration) : json_null();
    file = file ? file : json_string("a name that is not UTF-8");
    return json_pack("{s:o, s:I, s:I, s:I, s:I, s:b, s:b, s:I}", "file", file, "windows",
                     (json_int_t)calibration->windows, "window_tokens", (json_int_t)calibration->length, "text_tokens",
                     (json_int_t)calibration->tokens, "tokens",
                     (json_int_t)(calibration->windows * calibration->length), "random_windows",
                     options->random_windows, "special_tokens", options->special, "seed", (json_int_t)options->seed);
}

/* The stages that took time or did work, in their order. */
static json_t *stages_json(const sqf_quantize_summary *summary)
{
    json_t *stages = json_object();
    for (int s = 0; s < SQF_STAGE_COUNT; s++) {
        const sqf_quantize_stage *stage = &summary->stages[s];
        json_t *entry = json_pack("{s:f, s:f, s:f}", "seconds", stage->seconds, "cpu_seconds", stage->cpu_seconds,
                                  "work", stage->work);
        if (!set(stages, sqf_stage_name((sqf_stage)s), entry)) {
            json_decref(stages);
            return NULL;
        }
    }
    return stages;
}

static json_t *totals_json(const sqf_quantize_summary *summary)
{
    json_t *totals = json_pack(
        "{s:I, s:o, s:o, s:o, s:I, s:o, s:i, s:f, s:f}", "weights", (json_int_t)summary->weights, "stored_bits",
        number(summary->bits_per_weight), "weights_equivalent_bits", number(summary->weights_equivalent_bits),
        "activations_equivalent_bits", number(summary->activations_equivalent_bits), "file_bytes",
        (json_int_t)summary->file_bytes, "mean_output_error", number(summary->mean_output_error), "damped",
        (int)summary->damped, "seconds", summary->seconds, "calibration_seconds", summary->calibration_seconds);
    if (totals && summary->vocabulary_weights > 0 &&
        (!set(totals, "vocabulary_weights", json_integer((json_int_t)summary->vocabulary_weights)) ||
         !set(totals, "vocabulary_stored_bits", number(summary->vocabulary_bits_per_weight)))) {
        json_decref(totals);
        return NULL;
    }
    return totals;
}

sqf_status sqf_report_print(const sqf_report *report, const sqf_quantize_summary *summary,
                            const sqf_module_recipe *base, const sqf_quantize_options *options,
                            const sqf_calibration *calibration, char **text, sqf_error *err)
{
    char scheme[SQF_SCHEME_TEXT];
    *text = NULL;
    sqf_scheme_print(&base->scheme, SQF_SPELLING_SHORT, scheme);
    json_t *object = json_object();
    const bool done =
        set(object, "software", json_pack("{s:s, s:s}", "name", "sqformat", "version", sqf_version())) &&
        set(object, "note", json_string("every member named seconds or *_seconds differs from run to run")) &&
        set(object, "scheme", json_string(scheme)) &&
        set(object, "calibration", calibration_json(options, calibration)) &&
        set(object, "totals", totals_json(summary)) && set(object, "stages", stages_json(summary)) &&
        (!report->progress || set(object, "progress", json_incref(report->progress))) &&
        (!report->budget || set(object, "budget", json_incref(report->budget))) &&
        (!report->inputs || set(object, "inputs", json_incref(report->inputs))) &&
        set(object, "tensors", report->tensors ? json_incref(report->tensors) : json_array());
    const sqf_status status =
        done ? sqf_json_print(object, text, err) : sqf_fail(err, SQF_E_MEMORY, "report: out of memory");
    json_decref(object);
    return status;
}

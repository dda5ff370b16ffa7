/* Bins of channels: made from statistics, compared, written and read. */
#include "ptq/profile/profile.h"

#include <math.h>
#include <string.h>

const char *sqf_input_kind_name(sqf_input_kind kind)
{
    static const char *const names[SQF_INPUT_COUNT] = {"qkv", "o", "gate_up", "down"};
    return names[kind];
}

void sqf_profile_make(const sqf_statistics *statistics, sqf_profile *out)
{
    const size_t channels = statistics->channels;
    *out = (sqf_profile){.channels = channels,
                         .tokens = statistics->tokens,
                         .bins = channels < SQF_PROFILE_BINS ? channels : SQF_PROFILE_BINS};
    for (size_t b = 0; b < out->bins; b++) {
        const size_t begin = b * channels / out->bins, end = (b + 1) * channels / out->bins;
        double square = 0.0, sum = 0.0;
        for (size_t j = begin; j < end; j++) {
            square += statistics->sum_square[j];
            sum += statistics->sum[j];
            out->largest[b] = fmaxf(out->largest[b], statistics->max_abs[j]);
        }
        const double n = (double)(end - begin) * (double)statistics->tokens;
        out->rms[b] = (float)sqrt(square / n);
        out->mean[b] = (float)(sum / n);
    }
}

double sqf_profile_distance(const sqf_profile *a, const sqf_profile *b)
{
    double sum = 0.0;
    size_t count = 0;
    for (size_t i = 0; i < a->bins && i < b->bins; i++) {
        if (a->rms[i] > 0.0f && b->rms[i] > 0.0f) {
            const double off = log((double)a->rms[i] / (double)b->rms[i]);
            sum += off * off;
            count++;
        }
    }
    return count > 0 ? sqrt(sum / (double)count) : 0.0;
}

/* In one string: a report of many layers stays a page that people can leaf through. Four digits are more than two texts
 * of one kind agree in. */
static json_t *numbers_json(const float *values, size_t n)
{
    char text[SQF_PROFILE_BINS * 16];
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%.4g", i > 0 ? " " : "", (double)values[i]);
    }
    return json_stringn(text, used);
}

json_t *sqf_profile_json(const sqf_profile *profile, size_t layer, sqf_input_kind input)
{
    return json_pack("{s:I, s:s, s:I, s:I, s:o, s:o, s:o}", "layer", (json_int_t)layer, "input",
                     sqf_input_kind_name(input), "channels", (json_int_t)profile->channels, "tokens",
                     (json_int_t)profile->tokens, "rms", numbers_json(profile->rms, profile->bins), "mean",
                     numbers_json(profile->mean, profile->bins), "largest",
                     numbers_json(profile->largest, profile->bins));
}

static sqf_status read_numbers(const json_t *json, const char *name, const char *where, size_t n, float *out,
                               sqf_error *err)
{
    const char *text = "";
    SQF_TRY(sqf_json_string_find(json, name, where, &text, err));
    for (size_t i = 0; i < n; i++) {
        char *end;
        out[i] = strtof(text, &end);
        const bool last = i + 1 == n;
        if (end == text || *end != (last ? '\0' : ' ') || !isfinite(out[i])) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected %zu finite numbers, found %zu", where, name, n, i);
        }
        text = end + !last;
    }
    return SQF_OK;
}

sqf_status sqf_profile_read(const json_t *json, const char *where, sqf_profile *out, size_t *layer,
                            sqf_input_kind *input, sqf_error *err)
{
    const char *name = "";
    size_t tokens = 1;
    *out = (sqf_profile){0};
    SQF_TRY(sqf_json_size(json, "layer", 0, SQF_LAYERS_MAX - 1, where, layer, err));
    SQF_TRY(sqf_json_size(json, "channels", 1, SQF_WIDTH_MAX, where, &out->channels, err));
    SQF_TRY(sqf_json_size(json, "tokens", 1, SIZE_MAX / 2, where, &tokens, err));
    SQF_TRY(sqf_json_string_find(json, "input", where, &name, err));
    int kind = 0;
    while (kind < SQF_INPUT_COUNT && strcmp(sqf_input_kind_name((sqf_input_kind)kind), name) != 0) {
        kind++;
    }
    if (kind == SQF_INPUT_COUNT) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: input: expected qkv, o, gate_up or down, found '%.40s'", where, name);
    }
    *input = (sqf_input_kind)kind;
    out->tokens = tokens;
    out->bins = out->channels < SQF_PROFILE_BINS ? out->channels : SQF_PROFILE_BINS;
    SQF_TRY(read_numbers(json, "rms", where, out->bins, out->rms, err));
    SQF_TRY(read_numbers(json, "mean", where, out->bins, out->mean, err));
    return read_numbers(json, "largest", where, out->bins, out->largest, err);
}

/* Rotary embedding: rope_scaling, its newer spelling rope_parameters, and the angles. Kinds that are not known are
 * refused with every member that they bring: a model with another angle at one position still talks, only worse, and
 * nobody would notice.
 *
 * Angles are computed as Hugging Face's code does it, in float32 where it uses float32: models were trained with
 * those roundings. */
#include <math.h>
#include <string.h>

#include "model/config.h"

/* Members of a scaling that this file reads. */
static bool is_known(const char *key)
{
    static const char *const keys[] = {"rope_type",
                                       "type",
                                       "rope_theta",
                                       "factor",
                                       "low_freq_factor",
                                       "high_freq_factor",
                                       "original_max_position_embeddings",
                                       "partial_rotary_factor"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(keys[i], key) == 0) {
            return true;
        }
    }
    return false;
}

static sqf_status refuse_unknown(json_t *scaling, const char *where, sqf_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(scaling, key, value)
    {
        if (!is_known(key)) {
            return sqf_fail(err, SQF_E_SUPPORT, "%s: %s: not supported", where, key);
        }
    }
    double part = 1;
    SQF_TRY(sqf_json_real_find(scaling, "partial_rotary_factor", 1, 1, where, &part, err));
    return SQF_OK;
}

/* Two spellings of the kind's name; a scaling without one is refused. A kind that is not known is refused by its name,
 * not by a member that it brings. */
static sqf_status read_kind(json_t *scaling, const char *where, sqf_rope_kind *kind, sqf_error *err)
{
    static const char *const names[] = {"default", "linear", "llama3"};
    const char *name = NULL;
    SQF_TRY(sqf_json_string_find(scaling, "type", where, &name, err)); /* the older key; rope_type has precedence */
    SQF_TRY(sqf_json_string_find(scaling, "rope_type", where, &name, err));
    if (!name) {
        SQF_TRY(refuse_unknown(scaling, where, err));
    }
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) == 0) {
            *kind = (sqf_rope_kind)i;
            return refuse_unknown(scaling, where, err);
        }
    }
    return sqf_fail(err, SQF_E_SUPPORT, "%s: rope_type: expected default, linear or llama3, found %.80s", where,
                    name ? name : "nothing");
}

/* A number that must be there; NAN stands for absence. */
static sqf_status need_real(const json_t *scaling, const char *key, double max, const char *where, double *out,
                            sqf_error *err)
{
    *out = NAN;
    SQF_TRY(sqf_json_real_find(scaling, key, 1e-3, max, where, out, err));
    return isnan(*out) ? sqf_fail(err, SQF_E_FORMAT, "%s: %s: expected a number, found nothing", where, key) : SQF_OK;
}

/* The three numbers of Llama 3.1's rule, all required: there is no default to guess. */
static sqf_status read_llama3(const json_t *scaling, const char *where, sqf_config *config, sqf_error *err)
{
    SQF_TRY(need_real(scaling, "low_freq_factor", 1e6, where, &config->rope_low_frequency, err));
    SQF_TRY(need_real(scaling, "high_freq_factor", 1e6, where, &config->rope_high_frequency, err));
    SQF_TRY(need_real(scaling, "original_max_position_embeddings", SQF_POSITIONS_MAX, where,
                      &config->rope_original_positions, err));
    if (!(config->rope_high_frequency > config->rope_low_frequency)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: high_freq_factor: expected more than low_freq_factor %g, found %g",
                        where, config->rope_low_frequency, config->rope_high_frequency);
    }
    return SQF_OK;
}

/* `where` names file and member: "config.json: rope_scaling". */
static sqf_status read_scaling(json_t *scaling, const char *where, sqf_config *config, sqf_error *err)
{
    SQF_TRY(read_kind(scaling, where, &config->rope_kind, err));
    SQF_TRY(sqf_json_real_find(scaling, "rope_theta", 1, 1e15, where, &config->rope_theta, err));
    config->rope_factor = 1;
    if (config->rope_kind != SQF_ROPE_DEFAULT) {
        SQF_TRY(need_real(scaling, "factor", 1e6, where, &config->rope_factor, err));
    }
    return config->rope_kind == SQF_ROPE_LLAMA3 ? read_llama3(scaling, where, config, err) : SQF_OK;
}

sqf_status sqf_config_parse_rope(const json_t *json, const char *where, sqf_config *config, sqf_error *err)
{
    json_t *older, *newer;
    config->rope_theta = 10000;
    SQF_TRY(sqf_json_real_find(json, "rope_theta", 1, 1e15, where, &config->rope_theta, err));
    SQF_TRY(sqf_json_member_find(json, "rope_scaling", JSON_OBJECT, where, &older, err));
    SQF_TRY(sqf_json_member_find(json, "rope_parameters", JSON_OBJECT, where, &newer, err));
    if (older && newer && !json_equal(older, newer)) {
        return sqf_fail(err, SQF_E_FORMAT,
                        "%s: rope_parameters: expected one of rope_scaling and rope_parameters, "
                        "found two that differ",
                        where);
    }
    if (!older && !newer) {
        return SQF_OK;
    }
    char *inside;
    SQF_TRY(sqf_format_text(&inside, err, "%s: %s", where, newer ? "rope_parameters" : "rope_scaling"));
    const sqf_status status = read_scaling(newer ? newer : older, inside, config, err);
    free(inside);
    return status;
}

/* Llama 3.1's rule: long waves are stretched by the factor, short ones stay, those between are blended. */
static float scale_llama3(const sqf_config *config, float frequency)
{
    const float factor = (float)config->rope_factor, low = (float)config->rope_low_frequency;
    const float high = (float)config->rope_high_frequency, positions = (float)config->rope_original_positions;
    const float wavelength = (float)(2 * 3.14159265358979323846) / frequency;
    if (wavelength > positions / low) {
        return frequency / factor;
    }
    if (wavelength < positions / high) {
        return frequency;
    }
    const float smooth = (positions / wavelength - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

/* theta^(-2i / head_dim), scaled: the angle of pair i advances by so much from one position to the next. */
static float inverse_frequency(const sqf_config *config, size_t i)
{
    const float exponent = (float)(2 * i) / (float)config->head_dim;
    const float frequency = 1.0f / (float)pow(config->rope_theta, (double)exponent);
    switch (config->rope_kind) {
    case SQF_ROPE_LINEAR: return frequency / (float)config->rope_factor;
    case SQF_ROPE_LLAMA3: return scale_llama3(config, frequency);
    default: return frequency;
    }
}

/* angle[t][i] = (first + t) * theta^(-2i / head_dim), scaled by the kind of rope */
void sqf_config_rope(const sqf_config *config, size_t first, size_t count, float *cosine, float *sine)
{
    const size_t half = config->head_dim / 2;
    for (size_t i = 0; i < half; i++) {
        const float frequency = inverse_frequency(config, i);
        for (size_t t = 0; t < count; t++) {
            const float angle = (float)(first + t) * frequency;
            cosine[t * half + i] = (float)cos((double)angle);
            sine[t * half + i] = (float)sin((double)angle);
        }
    }
}

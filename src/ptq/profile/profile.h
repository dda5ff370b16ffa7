/* The channels of one input in a few numbers: what report.json keeps of calibration, so that a later text can be held
 * against it. */
#ifndef SQF_PTQ_PROFILE_H
#define SQF_PTQ_PROFILE_H

#include "base/json.h"
#include "model/modules.h"
#include "ptq/algorithm.h"

enum { SQF_PROFILE_BINS = 128 };

/* Bins of consecutive channels, nearly equally wide, at most one a channel. */
typedef struct sqf_profile {
    size_t channels;
    uint64_t tokens;
    size_t bins;
    float rms[SQF_PROFILE_BINS];     /* root mean square over the bin's channels and all tokens */
    float mean[SQF_PROFILE_BINS];    /* mean over the same */
    float largest[SQF_PROFILE_BINS]; /* largest magnitude */
} sqf_profile;

/* Of statistics of at least one token. */
void sqf_profile_make(const sqf_statistics *statistics, sqf_profile *out);

/* How far the channels of two profiles of one width lie apart: 0 = alike. The root over bins of the mean squared
 * logarithm of the quotient of the root mean squares; 0.1 means that a channel's size typically differs by 10 %. Bins
 * that are zero in either are left out. */
double sqf_profile_distance(const sqf_profile *a, const sqf_profile *b);

/* A member of report.json, and back: SQF_E_FORMAT where it does not describe a profile. NULL = out of memory. */
json_t *sqf_profile_json(const sqf_profile *profile, size_t layer, sqf_input_kind input);
sqf_status sqf_profile_read(const json_t *json, const char *where, sqf_profile *out, size_t *layer,
                            sqf_input_kind *input, sqf_error *err);

/* "qkv", "o", "gate_up", "down"; static. */
const char *sqf_input_kind_name(sqf_input_kind kind);

#endif

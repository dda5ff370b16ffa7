/* What the parts of one diagnosis share. */
#ifndef SQF_DIAGNOSE_WORK_H
#define SQF_DIAGNOSE_WORK_H

#include <sqf/diagnose.h>

#include "diagnose/engine.h"
#include "ptq/profile/profile.h"

/* One input of one decoder layer. */
typedef struct sqf_diagnose_place {
    sqf_statistics original, quantized; /* on the evaluation text, without Hessians */
    bool calibrated;                    /* report.json has a profile */
    sqf_profile calibration;
    bool smoothed; /* report.json says so of a module that reads it; without a report: the norms differ */
} sqf_diagnose_place;

/* One diagnosis at work; out->inputs has the same indices as places: layer * SQF_INPUT_COUNT + input. */
typedef struct sqf_diagnose_work {
    sqf_context *context;
    const sqf_diagnose_options *options;
    sqf_model *original, *quantized;
    sqf_tokenizer *tokenizer; /* NULL without a text */
    sqf_ids ids;
    sqf_engine engine;
    json_t *report; /* report.json; NULL if it is not there */
    sqf_diagnose_place *places;
    size_t finding_room;
    sqf_diagnosis *out;
} sqf_diagnose_work;

/* Adds a finding; `where` and the texts are cut where their room ends. `text` is written by the caller into the finding
 * that comes back, which is NULL after SQF_E_MEMORY. */
sqf_status sqf_diagnose_add(sqf_diagnose_work *work, const char *kind, sqf_severity severity, double weight,
                            sqf_finding **out, sqf_error *err);

/* Module `kind` of a layer: its scheme, dense ones with the type of their tensor. */
sqf_scheme sqf_diagnose_scheme(const sqf_diagnose_work *work, size_t layer, sqf_linear_kind kind);

/* The parts of a diagnosis, each adding its findings: what the file promises in speed and how its parts align (no text
 * needed); statistics and scores on the text; the swaps; what follows from all of it. */
sqf_status sqf_diagnose_speed(sqf_diagnose_work *work, sqf_error *err);
sqf_status sqf_diagnose_alignment(sqf_diagnose_work *work, sqf_error *err);
sqf_status sqf_diagnose_run_text(sqf_diagnose_work *work, sqf_error *err);
sqf_status sqf_diagnose_attribute(sqf_diagnose_work *work, sqf_error *err);
sqf_status sqf_diagnose_accuracy(sqf_diagnose_work *work, sqf_error *err);

#endif

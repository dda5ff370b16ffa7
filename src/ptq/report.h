/* What quantization did: per tensor for report.json, in total for the caller. */
#ifndef SQF_PTQ_REPORT_H
#define SQF_PTQ_REPORT_H

#include "base/json.h"
#include "model/modules.h"
#include "ptq/algorithm.h"
#include "ptq/calibration.h"
#include "ptq/stages.h"

typedef struct sqf_report_entry {
    const char *name;
    const sqf_module_recipe *recipe;
    float alpha; /* smoothing of its input; negative = off */
    size_t rows, columns;
    uint64_t bytes; /* of all its stored tensors, biases left out */
    sqf_matrix_result result;
    double damping;  /* that was used; NaN without a Hessian */
    uint64_t tokens; /* that its statistics saw */
    double seconds;
    bool vocabulary; /* the output matrix or the embedding: counted apart */
} sqf_report_entry;

/* Zero-initialise; release with sqf_report_clear. */
typedef struct sqf_report {
    json_t *tensors;
    size_t matrices;
    uint64_t weights, bytes;
    double weights_bits, activations_bits; /* equivalent bits times weights */
    double output_error;                   /* sum over matrices */
    uint64_t vocabulary_weights, vocabulary_bytes;
    unsigned damped; /* factorizations that needed more damping */
    double calibration_seconds;
    uint64_t calibration_tokens;
    json_t *budget;   /* member "budget" of the report; NULL = none */
    json_t *progress; /* what was left after each layer; NULL = no layer yet */
    json_t *inputs;   /* profiles of calibrated inputs; NULL = none */
} sqf_report;

void sqf_report_clear(sqf_report *report);
sqf_status sqf_report_add(sqf_report *report, const sqf_report_entry *entry, sqf_error *err);
/* The channels of a calibrated input as its readers see them, smoothed and rotated. */
sqf_status sqf_report_add_input(sqf_report *report, size_t layer, sqf_input_kind input,
                                const sqf_statistics *statistics, sqf_error *err);

/* What the pipeline tells after a layer: time so far by the clock and of the processors, and what is left of both. */
sqf_status sqf_report_add_progress(sqf_report *report, size_t layer, const sqf_stages *stages, double seconds,
                                   sqf_error *err);

sqf_quantize_summary sqf_report_summary(const sqf_report *report, double seconds, uint64_t file_bytes);

/* report.json; calibration NULL = there was none. *text is for free(). */
sqf_status sqf_report_print(const sqf_report *report, const sqf_quantize_summary *summary,
                            const sqf_module_recipe *base, const sqf_quantize_options *options,
                            const sqf_calibration *calibration, char **text, sqf_error *err);

#endif

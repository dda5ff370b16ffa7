/* Calibration text as windows of token ids. */
#ifndef SQF_PTQ_CALIBRATION_H
#define SQF_PTQ_CALIBRATION_H

#include <sqf/quantize.h>
#include <sqf/tokenizer.h>

#include "model/config.h"

typedef struct sqf_calibration {
    size_t windows, length;
    size_t tokens; /* of the text, or of the part that options->tokens leaves of it */
    uint32_t *ids; /* [windows, length] */
} sqf_calibration;

/* Reads and tokenizes options->calibration with the tokenizer of the model directory and cuts the windows. A file whose
 * name ends in ".jsonl" has a JSON object on each line that is not empty; the texts of its field are joined by line
 * ends. SQF_E_ARG: no windows, a length beyond the model's positions, or too little text (tokens needed and found are
 * named); SQF_E_VALUE: an id beyond the vocabulary. */
sqf_status sqf_calibration_load(const char *model_directory, const sqf_config *config,
                                const sqf_quantize_options *options, sqf_calibration *out, sqf_error *err);
/* The first step of it: the token ids of the whole text, checked. sqf_ids_clear, also after a failure. */
sqf_status sqf_calibration_encode(const char *model_directory, const sqf_config *config,
                                  const sqf_quantize_options *options, sqf_ids *out, sqf_error *err);
void sqf_calibration_clear(sqf_calibration *calibration);

/* First token of evenly spaced window `index`: floor(index * (tokens - length) / max(1, windows - 1)); length <=
 * tokens. */
size_t sqf_calibration_window(size_t index, size_t windows, size_t length, size_t tokens);

/* The text of a .jsonl: the member `field` of each line, joined by line ends. `name` is used in messages;
 * free(out->data). */
sqf_status sqf_calibration_join(const char *lines, size_t n, const char *field, const char *name, sqf_buffer *out,
                                sqf_error *err);

#endif

/* Which rotations a recipe asks for, resolved and checked before any work begins. */
#ifndef SQF_PTQ_ROTATION_CHOICE_H
#define SQF_PTQ_ROTATION_CHOICE_H

#include <sqf/quantize.h>

#include "base/error.h"
#include "model/modules.h"

/* The rotations of one model. `auto` is resolved: it is never in here. */
typedef struct sqf_rotation_choice {
    sqf_rotate residual;
    sqf_rotate_part values, down;
} sqf_rotation_choice;

/* From the base recipe. SQF_E_ARG: pca or learned without calibration text. */
sqf_status sqf_rotation_choose(const sqf_module_recipe *base, bool calibrated, sqf_rotation_choice *out,
                               sqf_error *err);

/* SQF_E_ARG if a module's recipe asks for other rotations than the base: one stream runs through all layers. */
sqf_status sqf_rotation_check_module(const sqf_module_recipe *base, const sqf_module_recipe *recipe, const char *module,
                                     sqf_error *err);

/* True if the input of these layers is in a basis other than the checkpoint's. */
bool sqf_rotation_turns_input(const sqf_rotation_choice *choice, sqf_input_kind input);

/* True if a module's stored weights (its bias) differ from the checkpoint's because of a rotation. */
bool sqf_rotation_changes_weights(const sqf_rotation_choice *choice, sqf_linear_kind kind);
bool sqf_rotation_changes_bias(const sqf_rotation_choice *choice, sqf_linear_kind kind);

/* True if calibration text must run through every layer. */
bool sqf_rotation_needs_text(const sqf_rotation_choice *choice);

/* The factor of the rotation before down_proj, as a reader needs it (docs/format.md section 7); 0 = none. */
size_t sqf_rotation_down_factor(const sqf_rotation_choice *choice, size_t intermediate);

/* "hadamard"; static. */
const char *sqf_rotate_name(sqf_rotate rotate);
const char *sqf_rotate_part_name(sqf_rotate_part part);

#endif

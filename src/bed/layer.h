/* What drawing and measuring a layer share. */
#ifndef SQF_BED_LAYER_H
#define SQF_BED_LAYER_H

#include <sqf/bed.h>

#include "base/error.h"

/* Shapes that a bed can have; SQF_E_ARG names the one that is out of range. Arrays are not looked at. */
sqf_status sqf_bed_layer_check(const sqf_layer_data *data, sqf_error *err);

#endif

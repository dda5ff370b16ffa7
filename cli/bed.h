/* The kinds of `sqf bed`. */
#ifndef SQF_CLI_BED_H
#define SQF_CLI_BED_H

#include <sqf/bed.h>

#include "option.h"

/* Measures the recipes that the operands behind the first one give, on drawn layers. */
int run_layer_bed(const cli_arguments *arguments);

#endif

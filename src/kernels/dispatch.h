/* Which kernel levels this build has and this machine can run. */
#ifndef SQF_KERNELS_DISPATCH_H
#define SQF_KERNELS_DISPATCH_H

#include "kernels/kernels.h"

/* The table of a level by name, NULL = the best. NULL if this build or machine lacks it. Safe from any thread. */
const sqf_kernels *sqf_kernels_find(const char *name);

#endif

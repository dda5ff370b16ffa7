/* The inside of an inspection, for the check that reads what it lists. */
#ifndef SQF_EVAL_INSPECTION_H
#define SQF_EVAL_INSPECTION_H

#include <sqf/inspect.h>

#include "model/model.h"

/* An entry with the memory behind its strings; entry.name and entry.dtype point into it once the list is sorted. */
typedef struct sqf_named_entry {
    sqf_inspect_entry entry;
    char name[SQF_TENSOR_NAME];
    char scheme[SQF_SCHEME_TEXT];
} sqf_named_entry;

struct sqf_inspection {
    sqf_context *context;
    sqf_model model; /* its checkpoint, name and info alone: nothing is loaded */
    sqf_named_entry *entries;
    size_t count;
};

#endif

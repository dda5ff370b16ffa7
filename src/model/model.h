/* The inside of a loaded model, shared by the files that load it, run it (session.c) and look at it (src/eval). */
#ifndef SQF_MODEL_MODEL_H
#define SQF_MODEL_MODEL_H

#include <sqf/model.h>

#include "model/backend.h"
#include "model/embedding.h"
#include "model/layer.h"

/* Owned by the caller of sqf_model_open; the context is borrowed. Immutable once opened, so sessions may share it. */
struct sqf_model {
    sqf_context *context;
    const sqf_backend *backend;
    sqf_checkpoint checkpoint;
    sqf_embedding embedding;
    float *norm; /* [hidden] */
    /* on the CPU */
    sqf_layer *layers; /* [config.layers] */
    sqf_linear *output;
    void *output_owned; /* aligned copy of its weights, if one was needed */
    sqf_arena *arena;   /* repacked weights of the output matrix and all layers */
    /* on a device */
    struct sqf_device_model *device;
    sqf_model_info info;
    char scheme[SQF_SCHEME_TEXT], output_scheme[SQF_SCHEME_TEXT], embedding_scheme[SQF_SCHEME_TEXT];
    uint32_t *end_ids;
    size_t end_count;
    sqf_sampling sampling;
};

/* generation_config.json and config.json: end ids and sampling defaults. */
sqf_status sqf_model_load_generation(sqf_model *model, sqf_error *err);

/* Fills model->info from the checkpoint. */
sqf_status sqf_model_count(sqf_model *model, sqf_error *err);

#endif

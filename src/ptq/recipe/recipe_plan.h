/* What is done with every linear layer of a model: a recipe resolved and checked before any work begins. */
#ifndef SQF_PTQ_RECIPE_PLAN_H
#define SQF_PTQ_RECIPE_PLAN_H

#include "model/layer.h"
#include "ptq/recipe/recipe.h"
#include "ptq/rotation/choice.h"

typedef struct sqf_module_plan {
    sqf_module_recipe recipe;
    bool ignored;   /* tensors are copied as they are */
    bool quantized; /* false: ignored, or a scheme that leaves the weights dense */
} sqf_module_plan;

/* True if it is quantized and compensates errors of its input, not of its weights alone. */
bool sqf_module_corrects(const sqf_module_plan *module);

typedef struct sqf_layer_plan {
    sqf_module_plan module[SQF_LINEAR_COUNT];
    float alpha[SQF_INPUT_COUNT]; /* of smoothing; negative = off */
    bool quantized;               /* some module is */
    bool corrects;                /* some module compensates errors of its input */
} sqf_layer_plan;

/* True if some reader of the input compensates its errors. */
bool sqf_layer_plan_corrects(const sqf_layer_plan *plan, sqf_input_kind input);

/* What is done with the two matrices of the vocabulary. */
typedef struct sqf_vocabulary_plan {
    sqf_module_plan output;    /* the matrix that makes the logits, whatever it is called */
    sqf_module_plan embedding; /* never quantized where `shared` */
    bool shared;               /* tied embeddings: `output` is stored as model.embed_tokens and serves both */
    bool unties;               /* tied embeddings that become two matrices because their schemes differ */
} sqf_vocabulary_plan;

typedef struct sqf_plan {
    size_t layers;
    sqf_layer_plan *layer;
    size_t passes; /* layers up to the last one that is quantized: those through which calibration text runs */
    bool calibrated;
    sqf_vocabulary_plan vocabulary;
    bool feeds_output; /* calibration text runs on to the output matrix */
    sqf_rotation_choice rotation;
    sqf_scheme scheme;  /* the base recipe's */
    bool follows_model; /* some module compensates errors of all layers before it */
    size_t unsmoothed;  /* inputs whose smoothing was given up, see sqf_plan_create */
} sqf_plan;

/* Resolves the recipe for every module. SQF_E_ARG names the first of: an override or ignored name that no module has;
 * modules that read the same input but quantize it differently, or smooth it differently; what needs calibration where
 * there is none. An input that a module outside quantization reads, or whose producer is outside, is not smoothed:
 * folding would change tensors that must stay. */
sqf_status sqf_plan_create(const sqf_config *config, const sqf_recipe *recipe, bool calibrated, sqf_plan *out,
                           sqf_error *err);
/* True if the outputs of a layer are the inputs of another pass of the calibration text. */
bool sqf_plan_feeds(const sqf_plan *plan, size_t layer);
void sqf_plan_clear(sqf_plan *plan);

#endif

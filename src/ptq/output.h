/* The directory of a quantized model: appears whole or not at all. */
#ifndef SQF_PTQ_OUTPUT_H
#define SQF_PTQ_OUTPUT_H

#include "model/layer.h"
#include "ptq/recipe/recipe_plan.h"

/* Without a writer nothing is written but checked and counted as usual. */
typedef struct sqf_model_output {
    sqf_context *context;
    const sqf_checkpoint *checkpoint;
    sqf_output *output;
    sqf_tensor_writer *writer;
} sqf_model_output;

/* Refuses an output that exists (unless options->force) and one that is, holds or lies in the input directory. */
sqf_status sqf_model_output_begin(sqf_context *context, const sqf_checkpoint *checkpoint, const char *directory,
                                  const sqf_quantize_options *options, sqf_model_output *out, sqf_error *err);

/* A dense tensor of the checkpoint, byte for byte; its hash and values are checked. columns 0 = a vector. */
sqf_status sqf_model_output_copy(sqf_model_output *out, const char *name, size_t rows, size_t columns, sqf_error *err);

/* Values that were computed, as they are in memory. columns 0 = a vector. */
sqf_status sqf_model_output_values(sqf_model_output *out, const char *name, sqf_dtype dtype, size_t rows,
                                   size_t columns, const void *values, sqf_error *err);

/* The tensors of a quantized module; *bytes of them (may be NULL). `linear` has what its scheme asks for. */
sqf_status sqf_model_output_linear(sqf_model_output *out, const char *module, const sqf_stored_linear *linear,
                                   uint64_t *bytes, sqf_error *err);

/* Writes the rest of the safetensors; *bytes of all their files. */
sqf_status sqf_model_output_seal(sqf_model_output *out, uint64_t *bytes, sqf_error *err);

/* config.json with quantization_config, and recipe.yaml. */
sqf_status sqf_model_output_describe(const sqf_model_output *out, const sqf_plan *plan, const sqf_recipe *recipe,
                                     sqf_error *err);

/* The last file, tokenizer and generation files; then everything takes its place. After this, or a failure,
 * sqf_model_output_abort has nothing left to remove. */
sqf_status sqf_model_output_commit(sqf_model_output *out, const char *name, const char *text, sqf_error *err);

/* The same for a checkpoint that stays unquantized: config.json as it is, and a file of its own that says what was
 * done.
 */
sqf_status sqf_model_output_commit_original(sqf_model_output *out, const char *name, const char *text, sqf_error *err);

/* Removes what was written. A zeroed or committed output is fine. */
void sqf_model_output_abort(sqf_model_output *out);

#endif

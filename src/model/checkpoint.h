/* A checkpoint: a model directory whose configuration, schemes and tensors agree, and what its tensors hold, checked
 * before anybody computes with it. checkpoint.c looks at headers alone (names, shapes, dtypes), stored.c at contents
 * (hashes, values, codes), one module at a time, when it is asked for. */
#ifndef SQF_MODEL_CHECKPOINT_H
#define SQF_MODEL_CHECKPOINT_H

#include "io/safetensors.h"
#include "kernels/linear.h"
#include "kernels/rotation.h"
#include "model/modules.h"

/* An opened model directory: configuration, mapped tensors, schemes. Immutable. */
typedef struct sqf_checkpoint {
    char *directory;
    sqf_config config;
    json_t *config_json;
    sqf_tensors *tensors;
    sqf_module_schemes *schemes; /* NULL = nothing is quantized */
} sqf_checkpoint;

/* Opens a directory and checks that every tensor the configuration asks for is there with the right shape
 * and dtype (quantized ones included), and that nothing unknown of a decoder is (buffers named rotary_emb.inv_freq are
 * ignored). Hashes and contents are not read. Release with sqf_checkpoint_close, also after a failure. */
sqf_status sqf_checkpoint_open(const char *directory, sqf_checkpoint *out, sqf_error *err);
void sqf_checkpoint_close(sqf_checkpoint *checkpoint);

/* One tensor of a stored linear layer: "P." and the suffix. The one list that reader and writer share. */
typedef struct sqf_stored_part {
    const char *suffix, *dtype; /* "sq_low", "U8" */
    size_t dimensions, shape[2];
} sqf_stored_part;
enum { SQF_STORED_PARTS = SQF_MATRIX_PARTS + 5 };

#define SQF_PART_SCALE_UNIT  "sq_scale_unit"  /* F32 [2], fp8 scales: what the low and the high ones are multiples of */
#define SQF_PART_CHANNELS    "sq_channels"    /* I32 [K], static activation masks */
#define SQF_PART_ACT_SCALE   "sq_act_scale"   /* F32 [2], static activation scales: low, high */
#define SQF_PART_ACT_ZERO    "sq_act_zero"    /* I32 [2], static zero points of activations: low, high */
#define SQF_PART_COLUMN_NORM "sq_column_norm" /* F32 [K], weighted dynamic masks */

/* The tensors of a quantized module of this scheme, biases left out. */
sqf_status sqf_stored_parts(const sqf_scheme *scheme, size_t rows, size_t columns,
                            sqf_stored_part parts[SQF_STORED_PARTS], size_t *count, sqf_error *err);

/* Tensors by their headers alone, contents not yet read: "module.suffix" with the shape and dtype of `part`; a dense
 * tensor [rows, columns] (columns 0: a vector) in BF16, F16 or F32. SQF_E_FORMAT (absent, another dtype), SQF_E_SHAPE,
 * SQF_E_SUPPORT (a dense dtype that we do not compute with), naming file and tensor. */
sqf_status sqf_checkpoint_find_part(const sqf_checkpoint *checkpoint, const char *module, const sqf_stored_part *part,
                                    const sqf_tensor **out, sqf_error *err);
sqf_status sqf_checkpoint_find_dense(const sqf_checkpoint *checkpoint, const char *name, size_t rows, size_t columns,
                                     const sqf_tensor **out, sqf_error *err);

/* Columns of the low path: fewer than `columns` with a static mask alone. */
size_t sqf_scheme_border(const sqf_scheme *scheme, size_t columns);

/* A stored quantized module as a matrix that borrows the mapping; every row checked (in parallel), hashes verified.
 * static_scale, static_zero, column_norm: borrowed or NULL. Release with sqf_stored_linear_clear (also after a
 * failure). */
typedef struct sqf_stored_linear {
    sqf_scheme scheme;
    sqf_matrix matrix;
    const float *static_scale, *column_norm;
    const int32_t *static_zero;
    void *owned[4]; /* copies of what was not aligned in the file */
} sqf_stored_linear;
sqf_status sqf_checkpoint_linear(const sqf_checkpoint *checkpoint, sqf_context *context, const char *module,
                                 size_t rows, size_t columns, sqf_stored_linear *out, sqf_error *err);
void sqf_stored_linear_clear(sqf_stored_linear *linear);

/* The tensor of a layer's rotation at run time: "model.layers.N.mlp.down_rotation", F32 [K, K]; only where there is
 * a dense factor (docs/format.md section 7). */
#define SQF_PART_DOWN_ROTATION "down_rotation"
sqf_stored_part sqf_down_rotation_part(size_t factor);
void sqf_mlp_name(size_t layer, char name[SQF_MODULE_NAME]); /* "model.layers.3.mlp" */

/* The rotation of a layer's down_proj input; factor 0 without one. Contents are checked: rows of length 1. */
sqf_status sqf_checkpoint_rotation(const sqf_checkpoint *checkpoint, size_t layer, sqf_rotation *out, sqf_error *err);

/* A dense tensor in the mapping, its hash verified and its values checked (in parallel): NaN and infinity are
 * SQF_E_VALUE naming tensor and position. BF16, F16 or F32. */
sqf_status sqf_checkpoint_dense(const sqf_checkpoint *checkpoint, sqf_context *context, const char *name, size_t rows,
                                size_t columns, const sqf_tensor **out, sqf_error *err);
sqf_type sqf_dtype_type(sqf_dtype dtype); /* BF16, F16, F32; SQF_TYPE_NONE for the others */

/* The same as a float32 copy, for free(). */
sqf_status sqf_checkpoint_floats(const sqf_checkpoint *checkpoint, const char *name, size_t rows, size_t columns,
                                 float **out, sqf_error *err);

/* The parameters of a layer of a tensor that sqf_checkpoint_dense gave; the weights may lie at any address. */
sqf_linear_params sqf_dense_params(const sqf_tensor *tensor, const float *bias);

/* Such a tensor as a layer of the CPU: left in the mapping, or copied to *owned (for free()) where the
 * file does not align it. */
sqf_status sqf_dense_linear_of(sqf_context *context, const sqf_tensor *tensor, const float *bias, sqf_linear **out,
                               void **owned, sqf_error *err);

#endif

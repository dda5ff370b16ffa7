/* safetensors: reading (memory-mapped, hostile input expected) and writing (streamed, hashed, sharded). Header at
 * most 100 MB, offsets contiguous without holes or overlap, shape x dtype == length, no duplicate keys.
 *
 * This layer knows files and bytes; what a tensor is for, and whether its values make sense, is src/model's business.
 * The hashes in __metadata__ are ours (docs/format.md section 7); files without them are read all the same. */
#ifndef SQF_IO_SAFETENSORS_H
#define SQF_IO_SAFETENSORS_H

#include "base/file.h"

typedef enum sqf_dtype {
    SQF_DTYPE_U8 = 0,
    SQF_DTYPE_I8,
    SQF_DTYPE_F8_E4M3,
    SQF_DTYPE_F16,
    SQF_DTYPE_BF16,
    SQF_DTYPE_F32,
    SQF_DTYPE_I32,
    SQF_DTYPE_OTHER /* a dtype of the format that we never read: F64, I64, BOOL, ... */
} sqf_dtype;

size_t sqf_dtype_bytes(sqf_dtype dtype); /* 0 for OTHER */
const char *sqf_dtype_name(sqf_dtype dtype);
sqf_dtype sqf_dtype_of_name(const char *name); /* SQF_DTYPE_OTHER if it is none that we know */

/* Most dimensions of a tensor, and room for its name: longer ones are refused on reading. */
enum { SQF_TENSOR_DIMENSIONS = 4, SQF_TENSOR_NAME = 513 };

/* A tensor inside a mapped file: borrowed, valid as long as the sqf_tensors it comes from. */
typedef struct sqf_tensor {
    const char *name;
    const char *file; /* path, for messages */
    const char *hash; /* "xxh3-128:..." recorded in the file's metadata, or NULL */
    sqf_dtype dtype;
    size_t dimensions, shape[SQF_TENSOR_DIMENSIONS];
    const uint8_t *data;
    size_t bytes;
} sqf_tensor;

/* All tensors of a model directory: model.safetensors, or the shards of model.safetensors.index.json. */
typedef struct sqf_tensors sqf_tensors;

/* Maps the files and checks every header. SQF_E_IO, SQF_E_FORMAT. */
sqf_status sqf_tensors_open(const char *directory, sqf_tensors **out, sqf_error *err);
void sqf_tensors_close(sqf_tensors *tensors);

size_t sqf_tensors_count(const sqf_tensors *tensors);
const sqf_tensor *sqf_tensors_at(const sqf_tensors *tensors, size_t index);       /* in order of names */
const sqf_tensor *sqf_tensors_find(const sqf_tensors *tensors, const char *name); /* NULL if absent */

/* The tensor, or SQF_E_FORMAT naming it; then it must have this shape, SQF_E_SHAPE. */
sqf_status sqf_tensors_get_shaped(const sqf_tensors *tensors, const char *name, size_t dimensions, const size_t *shape,
                                  const sqf_tensor **out, sqf_error *err);

/* The same for a vector [rows] (columns 0) or a matrix [rows, columns]. */
sqf_status sqf_tensors_get(const sqf_tensors *tensors, const char *name, size_t rows, size_t columns,
                           const sqf_tensor **out, sqf_error *err);

/* Compares the bytes with the recorded hash: SQF_E_HASH naming file and tensor; SQF_OK if none is recorded. */
sqf_status sqf_tensor_verify(const sqf_tensor *tensor, sqf_error *err);

/* Writing. `directory` exists, and is the caller's to remove after a failure (see sqf_output). Tensors are appended in
 * any order; data goes to disk at once. Inside a file wide elements come first, so that each tensor is aligned to its
 * element; the header is padded so that the data begins at a multiple of 64. A new shard begins when a tensor would
 * take the current one past `shard_limit` bytes (0 = no limit). Files: model.safetensors, or
 * model-00001-of-0000n.safetensors with model.safetensors.index.json. The bytes do not depend on timing or threads. */
typedef struct sqf_tensor_writer sqf_tensor_writer;
sqf_status sqf_tensor_writer_create(const char *directory, size_t shard_limit, sqf_tensor_writer **out, sqf_error *err);
/* SQF_E_ARG: a name that was written before. After any failure the writer can only be destroyed. */
sqf_status sqf_tensor_writer_add(sqf_tensor_writer *writer, const char *name, sqf_dtype dtype, size_t dimensions,
                                 const size_t *shape, const void *data, sqf_error *err);
/* Writes headers and index and puts the names in place; checks every write. The writer stays to be destroyed. */
sqf_status sqf_tensor_writer_finish(sqf_tensor_writer *writer, sqf_error *err);
/* Bytes of all files after finish. */
size_t sqf_tensor_writer_bytes(const sqf_tensor_writer *writer);
void sqf_tensor_writer_destroy(sqf_tensor_writer *writer);

#endif

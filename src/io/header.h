/* The header of one safetensors file: from bytes to tensors. Apart from the file system, so that it can be fuzzed.
 *
 *     byte 0        8               8 + length
 *          | length | { JSON ... }  | data: tensors without holes, in any order |
 *                                  ^ data_offsets count from here */
#ifndef SQF_IO_HEADER_H
#define SQF_IO_HEADER_H

#include "base/json.h"
#include "io/safetensors.h"

/* A growing list of tensors. Zero-initialise; free(items). */
typedef struct sqf_tensor_list {
    sqf_tensor *items;
    size_t count, capacity;
} sqf_tensor_list;

/* Checks a whole file (header and length of the data) and appends its tensors, which borrow `file`, `bytes` and
 * the strings of *header; the caller releases that with json_decref after the tensors. NULL on failure.
 * Time n log n, memory proportional to the header. */
sqf_status sqf_header_parse(const char *file, const uint8_t *bytes, size_t n, sqf_tensor_list *list, json_t **header,
                            sqf_error *err);

/* The longest header that is read: the limit of the format's own library. */
enum { SQF_HEADER_LIMIT = 100000000 };

#define SQF_HASH_KEY  "hash."     /* __metadata__ member of a tensor's hash: this and its name */
#define SQF_HASH_KIND "xxh3-128:" /* begin of its value */

#endif

/* Files: reading whole, mapping read only, writing whole, and outputs that appear under their name only when
 * complete. Messages begin with the path. No function here follows the content of a file to another path. */
#ifndef SQF_BASE_FILE_H
#define SQF_BASE_FILE_H

#include <stdio.h>

#include "base/memory.h"

/* "directory/name", for free(). */
sqf_status sqf_path_join(char **out, const char *directory, const char *name, sqf_error *err);

/* Reads a whole regular file of at most `limit` bytes; the buffer is NUL-terminated (NUL not counted). */
sqf_status sqf_file_read(const char *path, size_t limit, sqf_buffer *out, sqf_error *err);

/* True if something stands at the path (also a dangling link). */
bool sqf_path_exists(const char *path);

/* A regular file mapped read only. An empty file maps to size 0 and a valid pointer. */
typedef struct sqf_mapping {
    const uint8_t *data;
    size_t size;
} sqf_mapping;

/* The file must not be cut short while it is mapped (reading beyond its new end would be SIGBUS); close takes any
 * mapping that open or {0} filled, also twice. */
sqf_status sqf_mapping_open(const char *path, sqf_mapping *out, sqf_error *err);
void sqf_mapping_close(sqf_mapping *mapping);

/* Says that a part of a mapping will be read soon, so that the system fetches from disk what it does not hold, while
 * something else is computed. */
void sqf_mapping_expect(const void *begin, size_t n);

/* Gives the whole pages of a part of a mapping back to the system; reading it again brings them back. A run over a
 * model that is larger than memory so holds no more of it than it works on. */
void sqf_mapping_forget(const void *begin, size_t n);

/* An output directory or file that appears whole or not at all. Everything is written into a temporary sibling
 * of `path`; commit renames it, abort removes it with all it holds. Signals reach neither: an interrupted program
 * cancels the library's call, which aborts its output on the way out. */
typedef struct sqf_output sqf_output;

/* directory: make a directory (true) or reserve a file name (false).
 * SQF_E_EXISTS if `path` exists and !force; nothing existing is touched before commit. */
sqf_status sqf_output_begin(const char *path, bool directory, bool force, sqf_output **out, sqf_error *err);

/* The temporary path to write to; valid until commit or abort. */
const char *sqf_output_path(const sqf_output *output);

/* Moves an existing target aside, renames the temporary to it, removes what was moved. The content was synced by
 * those who wrote it (sqf_file_write, the tensor writer). Frees `output` in every case; after a failure the former
 * target is in place and nothing temporary is left. */
sqf_status sqf_output_commit(sqf_output *output, sqf_error *err);
void sqf_output_abort(sqf_output *output);

/* Writes a whole file at `path` (inside an output) and checks every write, the disk being full included. */
sqf_status sqf_file_write(const char *path, const void *bytes, size_t n, sqf_error *err);

/* Copies a regular file byte for byte. */
sqf_status sqf_file_copy(const char *from, const char *to, sqf_error *err);

/* Seconds of a monotonic clock. */
double sqf_clock_seconds(void);

#endif

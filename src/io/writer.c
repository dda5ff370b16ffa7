/* Writing safetensors: data is streamed to a body file, then the shard is assembled behind its header.
 *
 * The header comes first in the format and its length is known last (it holds offsets and hashes), so the body is
 * copied once; that copy also puts the wide elements first, which leaves every tensor aligned to its element. Memory
 * stays at one tensor of the caller's and a copy buffer, whatever the size of the model. Space on disk peaks at one
 * shard more than the result.
 *
 * Names are given at the end, when the number of shards is known; until then files have names that no reader takes
 * for a model. The bytes depend on the calls alone, never on time: the same model is the same file. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "io/header.h"

/* The data begins at a multiple of this; the header is padded with spaces. */
enum { DATA_ALIGNMENT = 64, COPY_BYTES = 1 << 20 };

/* A tensor of the shard that is being written: in the body already, described in memory. */
typedef struct pending {
    char *name;
    sqf_dtype dtype;
    size_t dimensions, shape[SQF_TENSOR_DIMENSIONS];
    size_t offset, bytes; /* in the body */
    char hash[SQF_HASH_TEXT];
} pending;

/* A shard that is complete but for its name, which needs the number of shards. */
typedef struct finished {
    char *path;    /* its temporary one; NULL once it is renamed */
    json_t *names; /* array of tensor names, in the order of the file */
} finished;

/* `tensors` and `body_bytes` belong to the shard at hand, `shards` to those that are complete. Shards are closed
 * before they pass the limit, so there is always at most one body. */
struct sqf_tensor_writer {
    char *directory, *body_path;
    size_t shard_limit;
    int body; /* descriptor, -1 = none open */
    pending *tensors;
    size_t count, capacity, body_bytes;
    finished *shards;
    size_t shard_count, shard_capacity;
    size_t data_bytes, file_bytes; /* of all shards */
    json_t *seen;                  /* object: every name so far */
};

static sqf_status fail_write(const char *path, const char *action, sqf_error *err)
{
    const int number = errno;
    return sqf_fail(err, SQF_E_IO, "%s: %s: %s", path, action, strerror(number));
}

/* write may take less than it is given, or be interrupted; 0 is not an error to the system, but means that nothing
 * more will go. */
static sqf_status write_all(int descriptor, const char *path, const void *bytes, size_t n, sqf_error *err)
{
    const char *from = bytes;
    while (n > 0) {
        const ssize_t done = write(descriptor, from, n);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            errno = done == 0 ? ENOSPC : errno;
            return fail_write(path, "cannot write", err);
        }
        from += done;
        n -= (size_t)done;
    }
    return SQF_OK;
}

/* Data that is not yet on the disk may still fail: a full disk of a network file system is reported here. EINVAL: a
 * file system that cannot sync; then close is all there is. */
static sqf_status close_written(int descriptor, const char *path, sqf_error *err)
{
    const bool synced = fsync(descriptor) == 0 || errno == EINVAL;
    const sqf_status status = synced ? SQF_OK : fail_write(path, "cannot write", err);
    if (close(descriptor) != 0 && status == SQF_OK) {
        return fail_write(path, "cannot write", err);
    }
    return status;
}

/* O_EXCL: the directory is ours and empty; a file that is there already would be somebody else's. */
static sqf_status create_file(const char *path, int *descriptor, sqf_error *err)
{
    *descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return *descriptor < 0 ? fail_write(path, "cannot create", err) : SQF_OK;
}

sqf_status sqf_tensor_writer_create(const char *directory, size_t shard_limit, sqf_tensor_writer **out, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(out, 1, "tensor writer", err));
    sqf_tensor_writer *writer = *out;
    writer->body = -1;
    writer->shard_limit = shard_limit;
    sqf_status status = sqf_copy_text(&writer->directory, directory, strlen(directory), err);
    if (status == SQF_OK) {
        status = sqf_path_join(&writer->body_path, directory, ".body.tmp", err);
    }
    writer->seen = json_object();
    if (status == SQF_OK && !writer->seen) {
        status = sqf_fail(err, SQF_E_MEMORY, "tensor writer: out of memory");
    }
    if (status != SQF_OK) {
        sqf_tensor_writer_destroy(writer);
        *out = NULL;
    }
    return status;
}

/* Forgets the tensors of the shard; the body file goes. */
static void drop_body(sqf_tensor_writer *writer)
{
    if (writer->body >= 0) {
        close(writer->body);
        unlink(writer->body_path);
        writer->body = -1;
    }
    for (size_t i = 0; i < writer->count; i++) {
        free(writer->tensors[i].name);
    }
    writer->count = 0;
    writer->body_bytes = 0;
}

void sqf_tensor_writer_destroy(sqf_tensor_writer *writer)
{
    if (!writer) {
        return;
    }
    drop_body(writer);
    for (size_t i = 0; i < writer->shard_count; i++) {
        if (writer->shards[i].path) {
            unlink(writer->shards[i].path);
        }
        free(writer->shards[i].path);
        json_decref(writer->shards[i].names);
    }
    free(writer->tensors);
    free(writer->shards);
    free(writer->directory);
    free(writer->body_path);
    json_decref(writer->seen);
    free(writer);
}

/* Room for one more element in an array that doubles. */
static sqf_status grow(void **items, size_t count, size_t *capacity, size_t size, sqf_error *err)
{
    if (count < *capacity) {
        return SQF_OK;
    }
    void *larger;
    const size_t room = *capacity == 0 ? 64 : *capacity * 2;
    SQF_TRY(sqf_alloc_bytes(&larger, room, size, "tensor writer", err));
    if (count > 0) {
        memcpy(larger, *items, count * size);
    }
    free(*items);
    *items = larger;
    *capacity = room;
    return SQF_OK;
}

/* Wide elements first (each then stands at a multiple of its size), else as given. */
static int compare_pending(const void *a, const void *b)
{
    const pending *x = a, *y = b;
    const size_t wide_x = sqf_dtype_bytes(x->dtype), wide_y = sqf_dtype_bytes(y->dtype);
    if (wide_x != wide_y) {
        return wide_x > wide_y ? -1 : 1;
    }
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* False also for a value that is not UTF-8. */
static bool set_text(json_t *object, const char *key, const char *value)
{
    return json_object_set_new(object, key, json_string(value)) == 0;
}

static json_t *describe(const pending *tensor, size_t begin)
{
    json_t *shape = json_array();
    bool good = shape != NULL;
    for (size_t i = 0; good && i < tensor->dimensions; i++) {
        good = json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i])) == 0;
    }
    if (!good) {
        json_decref(shape);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", sqf_dtype_name(tensor->dtype), "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)(begin + tensor->bytes));
}

/* The header as JSON; tensors are sorted already. NULL if memory is short. */
static json_t *build_header(const sqf_tensor_writer *writer)
{
    json_t *header = json_object(), *metadata = json_object();
    bool good = header && metadata && set_text(metadata, "format", "pt") && set_text(metadata, "sq-format", "1");
    /* takes metadata over even if it fails */
    if (json_object_set_new(header, "__metadata__", metadata) != 0) {
        json_decref(header);
        return NULL;
    }
    size_t begin = 0;
    for (size_t i = 0; good && i < writer->count; i++) {
        const pending *tensor = &writer->tensors[i];
        sqf_buffer key = {0}, value = {0};
        good = sqf_buffer_print(&key, NULL, "%s%s", SQF_HASH_KEY, tensor->name) == SQF_OK &&
               sqf_buffer_print(&value, NULL, "%s%s", SQF_HASH_KIND, tensor->hash) == SQF_OK &&
               set_text(metadata, key.data, value.data) &&
               json_object_set_new(header, tensor->name, describe(tensor, begin)) == 0;
        begin += tensor->bytes;
        free(key.data);
        free(value.data);
    }
    if (!good) {
        json_decref(header);
        return NULL;
    }
    return header;
}

/* Length, JSON and padding: for free(). */
static sqf_status print_header(const sqf_tensor_writer *writer, sqf_buffer *out, sqf_error *err)
{
    static const uint8_t room[8];
    json_t *header = build_header(writer);
    if (!header) {
        return sqf_fail(err, SQF_E_MEMORY, "the header of a safetensors file: out of memory");
    }
    sqf_status status = sqf_buffer_append(out, room, sizeof room, err);
    if (status == SQF_OK) {
        status = sqf_json_append(header, JSON_COMPACT, out, err);
    }
    json_decref(header);
    SQF_TRY(status);
    /* spaces behind the JSON, which the format allows, until length and header together are aligned */
    const size_t padded = sqf_ceil_div(out->size, DATA_ALIGNMENT) * DATA_ALIGNMENT;
    const size_t length = padded - sizeof room;
    if (length > SQF_HEADER_LIMIT) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: the header of one file: expected at most %d bytes, found %zu",
                        writer->directory, SQF_HEADER_LIMIT, length);
    }
    for (unsigned i = 0; i < sizeof room; i++) {
        out->data[i] = (char)((uint64_t)length >> (8 * i));
    }
    return sqf_buffer_print(out, err, "%*s", (int)(padded - out->size), "");
}

/* n bytes of the body from `offset` on to the end of the open file `to`. */
static sqf_status copy_range(const sqf_tensor_writer *writer, size_t offset, size_t n, int to, const char *path,
                             char *buffer, sqf_error *err)
{
    while (n > 0) {
        const size_t want = n < COPY_BYTES ? n : COPY_BYTES;
        const ssize_t got = pread(writer->body, buffer, want, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            errno = got == 0 ? EIO : errno;
            return fail_write(writer->body_path, "cannot read back", err);
        }
        SQF_TRY(write_all(to, path, buffer, (size_t)got, err));
        offset += (size_t)got;
        n -= (size_t)got;
    }
    return SQF_OK;
}

/* Header, then the tensors in sorted order. Closes the file in every case. */
static sqf_status assemble(sqf_tensor_writer *writer, const char *path, sqf_error *err)
{
    sqf_buffer header = {0};
    char *buffer = NULL;
    int file = -1;
    sqf_status status = print_header(writer, &header, err);
    SQF_TRY_GOTO(status, status, done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&buffer, COPY_BYTES, "copy buffer", err), done);
    SQF_TRY_GOTO(status, create_file(path, &file, err), done);
    status = write_all(file, path, header.data, header.size, err);
    for (size_t i = 0; status == SQF_OK && i < writer->count; i++) {
        status = copy_range(writer, writer->tensors[i].offset, writer->tensors[i].bytes, file, path, buffer, err);
    }
    if (status == SQF_OK) {
        status = close_written(file, path, err);
        writer->file_bytes += header.size + writer->body_bytes;
        writer->data_bytes += writer->body_bytes;
    } else {
        close(file);
    }
done:
    free(header.data);
    free(buffer);
    return status;
}

/* Puts the finished shard on the list, under a temporary name. */
static sqf_status add_shard(sqf_tensor_writer *writer, finished **out, sqf_error *err)
{
    SQF_TRY(grow((void **)&writer->shards, writer->shard_count, &writer->shard_capacity, sizeof(finished), err));
    finished *shard = &writer->shards[writer->shard_count];
    *shard = (finished){0};
    SQF_TRY(sqf_format_text(&shard->path, err, "%s/.shard-%05zu.tmp", writer->directory, writer->shard_count + 1));
    writer->shard_count++;
    shard->names = json_array();
    for (size_t i = 0; i < writer->count; i++) {
        if (json_array_append_new(shard->names, json_string(writer->tensors[i].name)) != 0) {
            return sqf_fail(err, SQF_E_MEMORY, "tensor writer: out of memory");
        }
    }
    *out = shard;
    return SQF_OK;
}

/* Sorts, assembles and forgets the tensors of the shard at hand. */
static sqf_status close_shard(sqf_tensor_writer *writer, sqf_error *err)
{
    finished *shard = NULL;
    if (writer->count > 0) {
        qsort(writer->tensors, writer->count, sizeof *writer->tensors, compare_pending);
    }
    SQF_TRY(add_shard(writer, &shard, err));
    SQF_TRY(assemble(writer, shard->path, err));
    drop_body(writer);
    return SQF_OK;
}

/* Callers' mistakes, and *bytes of the data. Names are looked up in `seen`, which knows those of former shards too. */
static sqf_status check_tensor(const sqf_tensor_writer *writer, const char *name, sqf_dtype dtype, size_t dimensions,
                               const size_t *shape, size_t *bytes, sqf_error *err)
{
    *bytes = sqf_dtype_bytes(dtype);
    if (*bytes == 0 || dimensions > SQF_TENSOR_DIMENSIONS || name[0] == '\0') {
        return sqf_fail(err, SQF_E_ARG, "tensor %s: a name, a known dtype and at most %d dimensions are needed", name,
                        SQF_TENSOR_DIMENSIONS);
    }
    for (size_t i = 0; i < dimensions; i++) {
        if (!sqf_mul_size(bytes, *bytes, shape[i])) {
            return sqf_fail(err, SQF_E_ARG, "tensor %s: its size is beyond 64 bits", name);
        }
    }
    if (strcmp(name, "__metadata__") == 0 || json_object_get(writer->seen, name)) {
        return sqf_fail(err, SQF_E_ARG, "tensor %s: a name is written once", name);
    }
    return SQF_OK;
}

/* The hash is that of the bytes written. On failure the writer is left as it is: the contract allows nothing but
 * destroying it then. */
static sqf_status append(sqf_tensor_writer *writer, const char *name, sqf_dtype dtype, size_t dimensions,
                         const size_t *shape, const void *data, size_t bytes, sqf_error *err)
{
    if (writer->body < 0) {
        SQF_TRY(create_file(writer->body_path, &writer->body, err));
    }
    SQF_TRY(grow((void **)&writer->tensors, writer->count, &writer->capacity, sizeof(pending), err));
    pending *tensor = &writer->tensors[writer->count];
    *tensor = (pending){.dtype = dtype, .dimensions = dimensions, .offset = writer->body_bytes, .bytes = bytes};
    if (dimensions > 0) {
        memcpy(tensor->shape, shape, dimensions * sizeof *shape);
    }
    sqf_hash_bytes(data, bytes, tensor->hash);
    SQF_TRY(write_all(writer->body, writer->body_path, data, bytes, err));
    SQF_TRY(sqf_copy_text(&tensor->name, name, strlen(name), err));
    writer->count++;
    writer->body_bytes += bytes;
    if (json_object_set_new(writer->seen, name, json_true()) != 0) {
        return sqf_fail(err, SQF_E_MEMORY, "tensor %s: out of memory, or its name is not UTF-8", name);
    }
    return SQF_OK;
}

sqf_status sqf_tensor_writer_add(sqf_tensor_writer *writer, const char *name, sqf_dtype dtype, size_t dimensions,
                                 const size_t *shape, const void *data, sqf_error *err)
{
    size_t bytes, after;
    SQF_TRY(check_tensor(writer, name, dtype, dimensions, shape, &bytes, err));
    const bool fits =
        sqf_add_size(&after, writer->body_bytes, bytes) && (writer->shard_limit == 0 || after <= writer->shard_limit);
    if (!fits && writer->count > 0) {
        SQF_TRY(close_shard(writer, err));
    }
    return append(writer, name, dtype, dimensions, shape, data, bytes, err);
}

/* The last name; from here on destroying the writer leaves this file alone, it belongs to the caller's output. */
static sqf_status rename_shard(sqf_tensor_writer *writer, size_t index, const char *name, sqf_error *err)
{
    char *path;
    SQF_TRY(sqf_path_join(&path, writer->directory, name, err));
    const sqf_status status =
        rename(writer->shards[index].path, path) == 0 ? SQF_OK : fail_write(path, "cannot rename to it", err);
    if (status == SQF_OK) {
        free(writer->shards[index].path);
        writer->shards[index].path = NULL;
    }
    free(path);
    return status;
}

/* Adds the tensors of one file to the weight map. */
static bool map_names(json_t *map, const json_t *names, const char *file)
{
    for (size_t i = 0; i < json_array_size(names); i++) {
        if (!set_text(map, json_string_value(json_array_get(names, i)), file)) {
            return false;
        }
    }
    return true;
}

/* Gives the shards their names and fills the weight map. */
static sqf_status name_shards(sqf_tensor_writer *writer, json_t *map, sqf_error *err)
{
    for (size_t i = 0; i < writer->shard_count; i++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, writer->shard_count);
        SQF_TRY(rename_shard(writer, i, name, err));
        if (!map_names(map, writer->shards[i].names, name)) {
            return sqf_fail(err, SQF_E_MEMORY, "weight map: out of memory");
        }
    }
    return SQF_OK;
}

/* The file that readers of sharded models open first; counted like the others in file_bytes. */
static sqf_status write_index(sqf_tensor_writer *writer, json_t *index, sqf_error *err)
{
    char *path = NULL, *text = NULL;
    SQF_TRY(sqf_json_print(index, &text, err));
    sqf_status status = sqf_path_join(&path, writer->directory, "model.safetensors.index.json", err);
    if (status == SQF_OK) {
        status = sqf_file_write(path, text, strlen(text), err);
        writer->file_bytes += strlen(text);
    }
    free(path);
    free(text);
    return status;
}

/* Several files: final names, and the index that maps each tensor to its file. */
static sqf_status finish_shards(sqf_tensor_writer *writer, sqf_error *err)
{
    json_t *map = json_object();
    json_t *index =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)writer->data_bytes, "weight_map", map);
    if (!index) {
        return sqf_fail(err, SQF_E_MEMORY, "weight map: out of memory");
    }
    sqf_status status = name_shards(writer, map, err);
    if (status == SQF_OK) {
        status = write_index(writer, index, err);
    }
    json_decref(index);
    return status;
}

sqf_status sqf_tensor_writer_finish(sqf_tensor_writer *writer, sqf_error *err)
{
    /* a model without tensors still is a file */
    if (writer->count > 0 || writer->shard_count == 0) {
        SQF_TRY(close_shard(writer, err));
    }
    if (writer->shard_count == 1) {
        return rename_shard(writer, 0, "model.safetensors", err);
    }
    return finish_shards(writer, err);
}

size_t sqf_tensor_writer_bytes(const sqf_tensor_writer *writer)
{
    return writer->file_bytes;
}

/* A model directory's tensors: one file, or the shards of an index. Files are mapped, so opening a model reads its
 * headers alone; pages come in when somebody looks at a tensor, and several processes share them.
 *
 * What the index says is believed about nothing: it names the files, and then every tensor must be where it says and
 * nowhere else. */
#include "io/safetensors.h"

#include <string.h>

#include "base/hash.h"
#include "io/header.h"

#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE  "model.safetensors.index.json"

/* One mapped file. `header` is kept because names and hashes of its tensors point into it. */
typedef struct shard {
    char *path;
    const char *name; /* without the directory: the end of path */
    sqf_mapping mapping;
    json_t *header;
} shard;

/* An opened directory. Tensors of all files stand in one list; where one came from matters for messages alone. */
struct sqf_tensors {
    shard *shards;
    size_t shard_count;
    char *index_path;     /* for messages; NULL without an index */
    sqf_tensor_list list; /* sorted by name */
};

/* Also takes what sqf_tensors_open left half-built: shards beyond shard_count were never opened. */
void sqf_tensors_close(sqf_tensors *tensors)
{
    if (!tensors) {
        return;
    }
    for (size_t i = 0; i < tensors->shard_count; i++) {
        json_decref(tensors->shards[i].header);
        sqf_mapping_close(&tensors->shards[i].mapping);
        free(tensors->shards[i].path);
    }
    free(tensors->shards);
    free(tensors->index_path);
    free(tensors->list.items);
    free(tensors);
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const sqf_tensor *)a)->name, ((const sqf_tensor *)b)->name);
}

/* Sorts by name, for look-up by bisection and for an order that does not depend on the files; a name in two files is
 * refused (within a file the JSON reader refuses it). */
static sqf_status sort_tensors(sqf_tensors *tensors, sqf_error *err)
{
    sqf_tensor *items = tensors->list.items;
    if (tensors->list.count > 0) {
        qsort(items, tensors->list.count, sizeof *items, compare_tensors);
    }
    for (size_t i = 1; i < tensors->list.count; i++) {
        if (strcmp(items[i - 1].name, items[i].name) == 0) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: it is also in %s", items[i].file, items[i].name,
                            items[i - 1].file);
        }
    }
    return SQF_OK;
}

/* Maps and reads one more file; the caller made room for it. shard_count goes up as soon as there is something to
 * release, so that closing a half-opened model releases all of it. */
static sqf_status open_shard(sqf_tensors *tensors, const char *directory, const char *name, sqf_error *err)
{
    shard *file = &tensors->shards[tensors->shard_count];
    SQF_TRY(sqf_path_join(&file->path, directory, name, err));
    tensors->shard_count++;
    file->name = file->path + strlen(file->path) - strlen(name);
    SQF_TRY(sqf_mapping_open(file->path, &file->mapping, err));
    return sqf_header_parse(file->path, file->mapping.data, file->mapping.size, &tensors->list, &file->header, err);
}

/* A shard is a plain file of the directory: an index must not reach anywhere else. */
static sqf_status check_shard_name(const char *where, const char *tensor, const json_t *value, sqf_error *err)
{
    static const char suffix[] = ".safetensors";
    const char *name = json_string_value(value);
    const size_t length = name ? strlen(name) : 0;
    if (!name || length != json_string_length(value) || length <= strlen(suffix) || name[0] == '.' ||
        strchr(name, '/') || strcmp(name + length - strlen(suffix), suffix) != 0) {
        return sqf_fail(err, SQF_E_FORMAT,
                        "%s: weight_map: %s: expected the name of a .safetensors file in the same directory, "
                        "found %.80s",
                        where, tensor, name ? name : "no string");
    }
    return SQF_OK;
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of a weight map, sorted: *names for free(), the strings borrowed. A map has one entry a
 * tensor and a handful of files, so all are collected, sorted and thinned out. */
static sqf_status list_shards(const char *where, json_t *map, const char ***names, size_t *count, sqf_error *err)
{
    const char *tensor;
    json_t *value;
    size_t n = 0;
    SQF_TRY(SQF_ALLOC(names, json_object_size(map), "shard names", err));
    json_object_foreach(map, tensor, value)
    {
        const sqf_status status = check_shard_name(where, tensor, value, err);
        if (status != SQF_OK) {
            free(*names);
            return status;
        }
        (*names)[n++] = json_string_value(value);
    }
    qsort(*names, n, sizeof **names, compare_text);
    *count = 0;
    for (size_t i = 0; i < n; i++) {
        if (*count == 0 || strcmp((*names)[*count - 1], (*names)[i]) != 0) {
            (*names)[(*count)++] = (*names)[i];
        }
    }
    return SQF_OK;
}

/* Index and shards must list the same tensors in the same files. */
static sqf_status check_index(const sqf_tensors *tensors, const char *where, json_t *map, sqf_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value)
    {
        const sqf_tensor *tensor = sqf_tensors_find(tensors, name);
        const char *file = json_string_value(value);
        if (!tensor || strcmp(tensor->file + strlen(tensor->file) - strlen(file), file) != 0) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: weight_map: %s: expected it in %s, found it %s", where, name, file,
                            tensor ? "in another file" : "nowhere");
        }
    }
    for (size_t i = 0; i < tensors->list.count; i++) {
        if (!json_object_get(map, tensors->list.items[i].name)) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: it is not in the weight_map of %s",
                            tensors->list.items[i].file, tensors->list.items[i].name, where);
        }
    }
    return SQF_OK;
}

/* Files in the order of their names, so that messages and the list do not depend on the order of the index. */
static sqf_status open_shards(sqf_tensors *tensors, const char *directory, const char *where, json_t *map,
                              sqf_error *err)
{
    const char **names;
    size_t count;
    SQF_TRY(list_shards(where, map, &names, &count, err));
    sqf_status status = SQF_ALLOC(&tensors->shards, count, "shards", err);
    for (size_t i = 0; status == SQF_OK && i < count; i++) {
        status = open_shard(tensors, directory, names[i], err);
    }
    free(names);
    SQF_TRY(status);
    SQF_TRY(sort_tensors(tensors, err));
    return check_index(tensors, where, map, err);
}

/* The JSON of the index is needed while opening only: names of tensors come from the files' own headers. */
static sqf_status open_index(sqf_tensors *tensors, const char *directory, const char *path, sqf_error *err)
{
    json_t *index, *map;
    SQF_TRY(sqf_copy_text(&tensors->index_path, path, strlen(path), err));
    SQF_TRY(sqf_json_load(path, SQF_HEADER_LIMIT, &index, err));
    sqf_status status = SQF_OK;
    if (!json_is_object(index)) {
        status = sqf_fail(err, SQF_E_FORMAT, "%s: expected a JSON object", path);
    }
    if (status == SQF_OK) {
        status = sqf_json_member(index, "weight_map", JSON_OBJECT, path, &map, err);
    }
    if (status == SQF_OK) {
        status = open_shards(tensors, directory, path, map, err);
    }
    json_decref(index);
    return status;
}

static sqf_status open_single(sqf_tensors *tensors, const char *directory, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(&tensors->shards, 1, "shards", err));
    SQF_TRY(open_shard(tensors, directory, SINGLE_FILE, err));
    return sort_tensors(tensors, err);
}

/* The single file has precedence, as in Hugging Face's loader; if neither stands there the message is about it. */
static sqf_status open_any(sqf_tensors *tensors, const char *directory, sqf_error *err)
{
    char *single, *index = NULL;
    SQF_TRY(sqf_path_join(&single, directory, SINGLE_FILE, err));
    sqf_status status = sqf_path_join(&index, directory, INDEX_FILE, err);
    if (status == SQF_OK) {
        status = !sqf_path_exists(single) && sqf_path_exists(index) ? open_index(tensors, directory, index, err)
                                                                    : open_single(tensors, directory, err);
    }
    free(single);
    free(index);
    return status;
}

sqf_status sqf_tensors_open(const char *directory, sqf_tensors **out, sqf_error *err)
{
    SQF_TRY(SQF_ALLOC(out, 1, "tensors", err));
    const sqf_status status = open_any(*out, directory, err);
    if (status != SQF_OK) {
        sqf_tensors_close(*out);
        *out = NULL;
    }
    return status;
}

size_t sqf_tensors_count(const sqf_tensors *tensors)
{
    return tensors->list.count;
}

const sqf_tensor *sqf_tensors_at(const sqf_tensors *tensors, size_t index)
{
    return &tensors->list.items[index];
}

const sqf_tensor *sqf_tensors_find(const sqf_tensors *tensors, const char *name)
{
    const sqf_tensor key = {.name = name};
    if (tensors->list.count == 0) {
        return NULL;
    }
    return bsearch(&key, tensors->list.items, tensors->list.count, sizeof key, compare_tensors);
}

/* "[2048, 256]"; 4 numbers of at most 20 digits fit */
static void print_shape(const sqf_tensor *tensor, char text[128])
{
    size_t used = 0;
    text[used++] = '[';
    for (size_t i = 0; i < tensor->dimensions; i++) {
        used += (size_t)snprintf(text + used, 24, i == 0 ? "%zu" : ", %zu", tensor->shape[i]);
    }
    text[used] = ']';
    text[used + 1] = '\0';
}

/* Presence and shape in one call, because nearly every reader wants both; the shape is compared whole, so that a
 * transposed matrix is seen even where its size is right. */
sqf_status sqf_tensors_get_shaped(const sqf_tensors *tensors, const char *name, size_t dimensions, const size_t *shape,
                                  const sqf_tensor **out, sqf_error *err)
{
    *out = NULL;
    const sqf_tensor *tensor = sqf_tensors_find(tensors, name);
    if (!tensor) {
        const char *where = tensors->index_path ? tensors->index_path : tensors->shards[0].path;
        return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: expected it, found nothing", where, name);
    }
    bool same = tensor->dimensions == dimensions;
    sqf_tensor wanted = {.dimensions = dimensions};
    for (size_t i = 0; i < dimensions; i++) {
        wanted.shape[i] = shape[i];
        same = same && tensor->shape[i] == shape[i];
    }
    if (!same) {
        char expected[128], found[128];
        print_shape(&wanted, expected);
        print_shape(tensor, found);
        return sqf_fail(err, SQF_E_SHAPE, "%s: tensor %s: shape: expected %s, found %s", tensor->file, name, expected,
                        found);
    }
    *out = tensor;
    return SQF_OK;
}

sqf_status sqf_tensors_get(const sqf_tensors *tensors, const char *name, size_t rows, size_t columns,
                           const sqf_tensor **out, sqf_error *err)
{
    const size_t shape[] = {rows, columns};
    return sqf_tensors_get_shaped(tensors, name, columns == 0 ? 1 : 2, shape, out, err);
}

/* A hash of a kind that we do not know is an error and not "unverified": it was recorded to be checked. Reads all of
 * the tensor, at the speed of memory. */
sqf_status sqf_tensor_verify(const sqf_tensor *tensor, sqf_error *err)
{
    char digits[SQF_HASH_TEXT];
    if (!tensor->hash) {
        return SQF_OK;
    }
    if (strncmp(tensor->hash, SQF_HASH_KIND, strlen(SQF_HASH_KIND)) != 0) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: tensor %s: hash: expected %s..., found %.60s", tensor->file,
                        tensor->name, SQF_HASH_KIND, tensor->hash);
    }
    sqf_hash_bytes(tensor->data, tensor->bytes, digits);
    const char *recorded = tensor->hash + strlen(SQF_HASH_KIND);
    if (strcmp(recorded, digits) != 0) {
        return sqf_fail(err, SQF_E_HASH, "%s: tensor %s: content hash: expected %.40s, found %s", tensor->file,
                        tensor->name, recorded, digits);
    }
    return SQF_OK;
}

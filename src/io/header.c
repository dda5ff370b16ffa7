/* The header of one safetensors file: JSON to checked tensors. Every number in it is hostile: counts may be huge,
 * offsets may overlap, leave holes or point outside. After sqf_header_parse a tensor's shape, dtype and bytes agree
 * and its data lies inside the file, so no reader above checks any of it again.
 *
 * The format: 8 bytes of length, little-endian; that many bytes of JSON, an object of tensor names; the data, to
 * which the offsets relate. Reference: the safetensors library's own documentation. */
#include "io/header.h"

#include <string.h>

/* The dtypes of the format with the bytes of an element. Types of less than a byte (F4, F6) are not known here: none
 * of our models can hold one, and their sizes would need another rule. */
static const struct {
    const char *name;
    sqf_dtype dtype;
    size_t bytes;
} dtypes[] = {
    {"U8", SQF_DTYPE_U8, 1},         {"I8", SQF_DTYPE_I8, 1},      {"F8_E4M3", SQF_DTYPE_F8_E4M3, 1},
    {"F16", SQF_DTYPE_F16, 2},       {"BF16", SQF_DTYPE_BF16, 2},  {"F32", SQF_DTYPE_F32, 4},
    {"I32", SQF_DTYPE_I32, 4},       {"BOOL", SQF_DTYPE_OTHER, 1}, {"F8_E5M2", SQF_DTYPE_OTHER, 1},
    {"F8_E8M0", SQF_DTYPE_OTHER, 1}, {"I16", SQF_DTYPE_OTHER, 2},  {"U16", SQF_DTYPE_OTHER, 2},
    {"U32", SQF_DTYPE_OTHER, 4},     {"I64", SQF_DTYPE_OTHER, 8},  {"U64", SQF_DTYPE_OTHER, 8},
    {"F64", SQF_DTYPE_OTHER, 8},     {"C64", SQF_DTYPE_OTHER, 8},
};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

size_t sqf_dtype_bytes(sqf_dtype dtype)
{
    for (size_t i = 0; i < DTYPES && dtype != SQF_DTYPE_OTHER; i++) {
        if (dtypes[i].dtype == dtype) {
            return dtypes[i].bytes;
        }
    }
    return 0;
}

sqf_dtype sqf_dtype_of_name(const char *name)
{
    size_t i = 0;
    while (i < DTYPES && strcmp(dtypes[i].name, name) != 0) {
        i++;
    }
    return i < DTYPES ? dtypes[i].dtype : SQF_DTYPE_OTHER;
}

const char *sqf_dtype_name(sqf_dtype dtype)
{
    for (size_t i = 0; i < DTYPES && dtype != SQF_DTYPE_OTHER; i++) {
        if (dtypes[i].dtype == dtype) {
            return dtypes[i].name;
        }
    }
    return "another dtype";
}

/* Where a tensor stands in its file; `index` counts from the file's first tensor. */
typedef struct extent {
    uint64_t begin, end;
    size_t index;
} extent;

/* Names go into messages and tables: a control character in one could fake a line of output. */
static sqf_status check_name(const char *file, const char *name, sqf_error *err)
{
    const size_t length = strlen(name);
    if (length == 0 || length >= SQF_TENSOR_NAME) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: a tensor's name: expected 1 to %d bytes, found %zu", file,
                        SQF_TENSOR_NAME - 1, length);
    }
    for (const char *c = name; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: its name holds a control character", file, name);
        }
    }
    return SQF_OK;
}

/* A number that is a whole one, not negative. JSON reals are refused: the format writes none. */
static bool read_count(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return false;
    }
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* The dtype and the bytes of one element. */
static sqf_status read_dtype(const char *file, const json_t *entry, sqf_tensor *tensor, size_t *bytes, sqf_error *err)
{
    const char *text = json_string_value(json_object_get(entry, "dtype"));
    for (size_t i = 0; text && i < DTYPES; i++) {
        if (strcmp(dtypes[i].name, text) == 0) {
            tensor->dtype = dtypes[i].dtype;
            *bytes = dtypes[i].bytes;
            return SQF_OK;
        }
    }
    return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: dtype: expected one of the format, found %.40s", file,
                    tensor->name, text ? text : "none");
}

/* The shape; *bytes comes in as those of one element and goes out as those of all. */
static sqf_status read_shape(const char *file, const json_t *entry, sqf_tensor *tensor, size_t *bytes, sqf_error *err)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > SQF_TENSOR_DIMENSIONS) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: shape: expected an array of at most %d numbers", file,
                        tensor->name, SQF_TENSOR_DIMENSIONS);
    }
    tensor->dimensions = json_array_size(shape);
    for (size_t i = 0; i < tensor->dimensions; i++) {
        uint64_t length;
        if (!read_count(json_array_get(shape, i), &length)) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: shape: expected whole numbers that are not negative",
                            file, tensor->name);
        }
        tensor->shape[i] = (size_t)length;
        if (!sqf_mul_size(bytes, *bytes, tensor->shape[i])) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: shape: the product of its numbers is beyond 64 bits",
                            file, tensor->name);
        }
    }
    return SQF_OK;
}

/* Offsets inside the data and as far apart as dtype and shape say. */
static sqf_status read_offsets(const char *file, const json_t *entry, const sqf_tensor *tensor, size_t bytes,
                               size_t data_bytes, extent *out, sqf_error *err)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !read_count(json_array_get(offsets, 0), &out->begin) || !read_count(json_array_get(offsets, 1), &out->end)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: data_offsets: expected two whole numbers", file,
                        tensor->name);
    }
    if (out->begin > out->end || out->end > data_bytes) {
        return sqf_fail(err, SQF_E_FORMAT,
                        "%s: tensor %s: data_offsets: expected an ascending pair up to %zu, found %llu and %llu", file,
                        tensor->name, data_bytes, (unsigned long long)out->begin, (unsigned long long)out->end);
    }
    if (out->end - out->begin != bytes) {
        return sqf_fail(err, SQF_E_FORMAT,
                        "%s: tensor %s: data_offsets: expected %zu bytes for its dtype and shape, found %llu", file,
                        tensor->name, bytes, (unsigned long long)(out->end - out->begin));
    }
    return SQF_OK;
}

/* One member of the header. An unknown member of a tensor is refused: it could change what the bytes mean. */
static sqf_status read_tensor(const char *file, const char *name, const json_t *entry, const uint8_t *data,
                              size_t data_bytes, sqf_tensor *tensor, extent *place, sqf_error *err)
{
    size_t bytes = 0;
    *tensor = (sqf_tensor){.name = name, .file = file};
    SQF_TRY(check_name(file, name, err));
    if (!json_is_object(entry) || json_object_size(entry) != 3) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: expected an object with dtype, shape and data_offsets alone",
                        file, name);
    }
    SQF_TRY(read_dtype(file, entry, tensor, &bytes, err));
    SQF_TRY(read_shape(file, entry, tensor, &bytes, err));
    SQF_TRY(read_offsets(file, entry, tensor, bytes, data_bytes, place, err));
    tensor->data = data + place->begin;
    tensor->bytes = bytes;
    return SQF_OK;
}

/* By begin, then by end: an empty tensor comes before the one that begins where it stands. */
static int compare_extents(const void *a, const void *b)
{
    const extent *x = a, *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return (x->end > y->end) - (x->end < y->end);
}

/* Tensors must cover the data from its first to its last byte, each byte once: bytes that belong to no tensor would
 * be a place to hide content from every hash. Sorts the extents: n log n, whatever order the file has. Empty tensors
 * may stand anywhere between two others. */
static sqf_status check_cover(const char *file, const sqf_tensor *tensors, extent *extents, size_t count,
                              size_t data_bytes, sqf_error *err)
{
    uint64_t end = 0;
    qsort(extents, count, sizeof *extents, compare_extents);
    for (size_t i = 0; i < count; i++) {
        if (extents[i].begin != end) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: %s: expected its data at offset %llu, found %llu", file,
                            tensors[extents[i].index].name,
                            extents[i].begin < end ? "overlaps another tensor" : "a hole before it",
                            (unsigned long long)end, (unsigned long long)extents[i].begin);
        }
        end = extents[i].end;
    }
    if (end != data_bytes) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: expected %llu bytes of data after the header, found %zu", file,
                        (unsigned long long)end, data_bytes);
    }
    return SQF_OK;
}

/* Fills tensors[] and extents[] in the order of the JSON, then checks that the extents cover the data. */
static sqf_status read_tensors(const char *file, const json_t *header, const uint8_t *data, size_t data_bytes,
                               sqf_tensor *tensors, extent *extents, size_t *count, sqf_error *err)
{
    const char *name;
    json_t *entry;
    *count = 0;
    json_object_foreach((json_t *)(uintptr_t)header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) {
            continue;
        }
        extents[*count].index = *count;
        SQF_TRY(read_tensor(file, name, entry, data, data_bytes, &tensors[*count], &extents[*count], err));
        ++*count;
    }
    return check_cover(file, tensors, extents, *count, data_bytes, err);
}

/* __metadata__ maps text to text; our hashes must belong to tensors. */
static sqf_status check_metadata(const char *file, const json_t *header, sqf_error *err)
{
    json_t *metadata = json_object_get(header, "__metadata__"), *value;
    const char *key;
    if (metadata && !json_is_object(metadata)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: __metadata__: expected an object", file);
    }
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value)) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: __metadata__: %s: expected a string", file, key);
        }
        const bool is_hash = strncmp(key, SQF_HASH_KEY, strlen(SQF_HASH_KEY)) == 0;
        if (is_hash && !json_object_get(header, key + strlen(SQF_HASH_KEY))) {
            return sqf_fail(err, SQF_E_FORMAT, "%s: __metadata__: %s: there is no such tensor", file, key);
        }
    }
    return SQF_OK;
}

/* Each tensor's recorded hash, borrowed from the JSON; not yet verified, that reads the data. */
static void attach_hashes(const json_t *header, sqf_tensor *tensors, size_t count)
{
    const json_t *metadata = json_object_get(header, "__metadata__");
    char key[sizeof SQF_HASH_KEY + SQF_TENSOR_NAME];
    for (size_t i = 0; metadata && i < count; i++) {
        memcpy(key, SQF_HASH_KEY, strlen(SQF_HASH_KEY));
        strcpy(key + strlen(SQF_HASH_KEY), tensors[i].name); /* its length was checked */
        tensors[i].hash = json_string_value(json_object_get(metadata, key));
    }
}

/* Room for `more` tensors. Moving the items is safe: nothing points at them before all files are read. */
static sqf_status list_reserve(sqf_tensor_list *list, size_t more, sqf_error *err)
{
    if (list->capacity - list->count >= more) {
        return SQF_OK;
    }
    sqf_tensor *items;
    const size_t capacity = (list->count + more) * 2;
    SQF_TRY(SQF_ALLOC(&items, capacity, "tensor list", err));
    if (list->count > 0) {
        memcpy(items, list->items, list->count * sizeof *items);
    }
    free(list->items);
    list->items = items;
    list->capacity = capacity;
    return SQF_OK;
}

/* The JSON text of the header: its length is in the file's first 8 bytes, little-endian. */
static sqf_status find_header(const char *file, const uint8_t *bytes, size_t n, size_t *length, sqf_error *err)
{
    if (n < 8) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: expected at least 8 bytes, found %zu", file, n);
    }
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i++) {
        value |= (uint64_t)bytes[i] << (8 * i);
    }
    const size_t limit = n - 8 < SQF_HEADER_LIMIT ? n - 8 : SQF_HEADER_LIMIT;
    if (value > limit) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: header length: expected at most %zu, found %llu", file, limit,
                        (unsigned long long)value);
    }
    if (value < 2 || bytes[8] != '{') {
        return sqf_fail(err, SQF_E_FORMAT, "%s: header: expected a JSON object that begins with {", file);
    }
    *length = (size_t)value;
    return SQF_OK;
}

/* Tensors are counted only when all are right: after a failure the list is as it was. */
static sqf_status parse_object(const char *file, const uint8_t *bytes, size_t n, size_t length, const json_t *header,
                               sqf_tensor_list *list, sqf_error *err)
{
    const size_t members = json_object_size(header);
    extent *extents;
    size_t count = 0;
    SQF_TRY(check_metadata(file, header, err));
    SQF_TRY(list_reserve(list, members, err));
    SQF_TRY(SQF_ALLOC(&extents, members, "tensor offsets", err));
    sqf_tensor *tensors = list->items + list->count;
    const sqf_status status =
        read_tensors(file, header, bytes + 8 + length, n - 8 - length, tensors, extents, &count, err);
    free(extents);
    if (status == SQF_OK) {
        attach_hashes(header, tensors, count);
        list->count += count;
    }
    return status;
}

/* Length, JSON, then tensors: each step bounds what the next one may touch. */
sqf_status sqf_header_parse(const char *file, const uint8_t *bytes, size_t n, sqf_tensor_list *list, json_t **header,
                            sqf_error *err)
{
    size_t length = 0;
    *header = NULL;
    SQF_TRY(find_header(file, bytes, n, &length, err));
    /* jansson bounds the nesting at 2048, so that a deep header is an error and not a stack overflow. */
    SQF_TRY(sqf_json_parse((const char *)bytes + 8, length, file, header, err));
    const sqf_status status = parse_object(file, bytes, n, length, *header, list, err);
    if (status != SQF_OK) {
        json_decref(*header);
        *header = NULL;
    }
    return status;
}

/* fuzz_safetensors: any bytes as a file give either an error with one line, or tensors that lie inside the bytes, cover
 * the data exactly once, and have the size that their dtype and shape say. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/header.h"

#define CHECK(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tensor(const sqf_tensor *tensor, const uint8_t *bytes, size_t n)
{
    size_t product = sqf_dtype_bytes(tensor->dtype);
    CHECK(tensor->data >= bytes && tensor->bytes <= n && (size_t)(tensor->data - bytes) <= n - tensor->bytes);
    CHECK(tensor->dimensions <= SQF_TENSOR_DIMENSIONS && tensor->name[0] != '\0');
    for (size_t i = 0; i < tensor->dimensions; i++) {
        product *= tensor->shape[i];
    }
    CHECK(tensor->dtype == SQF_DTYPE_OTHER || product == tensor->bytes);
}

static void check_list(const sqf_tensor_list *list, const uint8_t *bytes, size_t n, size_t data_bytes)
{
    size_t sum = 0;
    for (size_t i = 0; i < list->count; i++) {
        sqf_error err = {0};
        check_tensor(&list->items[i], bytes, n);
        sum += list->items[i].bytes;
        if (sqf_tensor_verify(&list->items[i], &err) != SQF_OK) {
            CHECK(err.text[0] != '\0');
        }
    }
    CHECK(sum == data_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size + (size == 0)); /* exact: an overread by one byte is seen */
    sqf_tensor_list list = {0};
    sqf_error err = {0};
    json_t *header;
    if (size > 0) {
        memcpy(bytes, data, size);
    }
    if (sqf_header_parse("input", bytes, size, &list, &header, &err) == SQF_OK) {
        uint64_t length;
        memcpy(&length, bytes, sizeof length);
        check_list(&list, bytes, size, size - 8 - (size_t)length);
    } else {
        CHECK(err.text[0] != '\0' && !strchr(err.text, '\n') && !header && list.count == 0);
    }
    json_decref(header);
    free(list.items);
    free(bytes);
    return 0;
}

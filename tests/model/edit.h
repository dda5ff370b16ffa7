/* Copies of a model directory in which one tensor is another one. */
#ifndef SQF_TESTS_MODEL_EDIT_H
#define SQF_TESTS_MODEL_EDIT_H

#include "model/tiny.h"

#include "io/safetensors.h"

/* Copies config.json and the float32 weights of `from` into a new directory `to`; the elements of tensor `name` are
 * multiplied by `factor`. Removed by remove_copy. */
static inline void copy_scaled(const char *from, char to[64], const char *name, float factor)
{
    sqf_error err = {0};
    sqf_tensors *tensors;
    sqf_tensor_writer *writer;
    char command[200];
    bool found = false;
    strcpy(to, "/tmp/sqf-edit-XXXXXX");
    assert_non_null(mkdtemp(to));
    snprintf(command, sizeof command, "cp '%.63s/config.json' '%.63s'", from, to);
    assert_int_equal(system(command), 0);
    must(sqf_tensors_open(from, &tensors, &err), &err);
    must(sqf_tensor_writer_create(to, 0, &writer, &err), &err);
    for (size_t i = 0; i < sqf_tensors_count(tensors); i++) {
        const sqf_tensor *tensor = sqf_tensors_at(tensors, i);
        assert_int_equal(tensor->dtype, SQF_DTYPE_F32);
        float *values = malloc(tensor->bytes);
        memcpy(values, tensor->data, tensor->bytes);
        if (strcmp(tensor->name, name) == 0) {
            found = true;
            for (size_t k = 0; k < tensor->bytes / sizeof *values; k++) {
                values[k] *= factor;
            }
        }
        must(
            sqf_tensor_writer_add(writer, tensor->name, tensor->dtype, tensor->dimensions, tensor->shape, values, &err),
            &err);
        free(values);
    }
    must(sqf_tensor_writer_finish(writer, &err), &err);
    sqf_tensor_writer_destroy(writer);
    sqf_tensors_close(tensors);
    assert_true(found);
}

static inline void remove_copy(const char *path)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%.63s'", path);
    assert_int_equal(system(command), 0);
}

#endif

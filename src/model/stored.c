/* Contents of a checkpoint's tensors, checked before use: hashes, dense values, and every code, count, scale and
 * channel of a quantized module (docs/format.md section 7, what a reader must reject). Nothing below this file sees
 * bytes that were not checked, which is why kernels have no checks.
 *
 * Scans of matrices run on all threads in tasks of fixed size, and the first problem in the order of the file is
 * reported: the message does not depend on timing. */
#include <math.h>
#include <string.h>

#include "format/zero_point.h"
#include "kernels/ops.h"
#include "model/checkpoint.h"

/* Tensors are used where they lie in the file, which is little-endian. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a big-endian machine would have to swap every tensor");

/* Elements and rows of a task. */
enum { SCAN_ELEMENTS = 1 << 16, CHECK_ROWS = 64 };

sqf_type sqf_dtype_type(sqf_dtype dtype)
{
    switch (dtype) {
    case SQF_DTYPE_BF16: return SQF_TYPE_BF16;
    case SQF_DTYPE_F16: return SQF_TYPE_FP16;
    case SQF_DTYPE_F32: return SQF_TYPE_FP32;
    default: return SQF_TYPE_NONE;
    }
}

/* How many of n elements of 16 or 32 bits have all bits of the exponent set: NaN or infinity. Looks at these bits
 * alone: a scan of all weights must not convert them. No branch, so that compilers make vectors of it. */
static size_t count_not_finite16(const uint8_t *from, size_t n, uint16_t exponent)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, from + i * sizeof bits, sizeof bits);
        count += (bits & exponent) == exponent;
    }
    return count;
}

static size_t count_not_finite32(const uint8_t *from, size_t n)
{
    const uint32_t exponent = 0x7f800000u;
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i * sizeof bits, sizeof bits);
        count += (bits & exponent) == exponent;
    }
    return count;
}

static size_t count_not_finite(sqf_dtype dtype, const uint8_t *from, size_t n)
{
    switch (dtype) {
    case SQF_DTYPE_BF16: return count_not_finite16(from, n, 0x7f80);
    case SQF_DTYPE_F16: return count_not_finite16(from, n, 0x7c00);
    default: return count_not_finite32(from, n);
    }
}

/* The first element of begin..end that is not finite; `end` if all are. */
static size_t find_not_finite(const sqf_tensor *tensor, size_t begin, size_t end)
{
    const size_t width = sqf_dtype_bytes(tensor->dtype);
    if (count_not_finite(tensor->dtype, tensor->data + begin * width, end - begin) == 0) {
        return end;
    }
    while (count_not_finite(tensor->dtype, tensor->data + begin * width, 1) == 0) {
        begin++;
    }
    return begin;
}

/* The hash of one tensor and a search for NaN and infinity in it; each task of the search notes its own first find.
 * The hash is task 0: it cannot be divided, so the others go on beside it. */
typedef struct scan {
    const sqf_tensor *tensor;
    size_t elements;
    size_t *first; /* [tasks] */
    sqf_error hash;
} scan;

static void scan_task(void *user, size_t task, unsigned thread)
{
    scan *job = user;
    (void)thread;
    if (task == 0) {
        sqf_tensor_verify(job->tensor, &job->hash);
        return;
    }
    const size_t begin = (task - 1) * SCAN_ELEMENTS, rest = job->elements - begin;
    const size_t end = begin + (rest < SCAN_ELEMENTS ? rest : SCAN_ELEMENTS);
    const size_t found = find_not_finite(job->tensor, begin, end);
    job->first[task - 1] = found == end ? SIZE_MAX : found;
}

/* SQF_E_HASH, or SQF_E_VALUE naming the first element that is not finite. */
static sqf_status check_dense(const sqf_tensor *tensor, sqf_pool *pool, sqf_error *err)
{
    scan job = {.tensor = tensor, .elements = tensor->bytes / sqf_dtype_bytes(tensor->dtype)};
    const size_t tasks = sqf_ceil_div(job.elements, SCAN_ELEMENTS);
    size_t found = SIZE_MAX;
    SQF_TRY(SQF_ALLOC(&job.first, tasks, "scan", err));
    sqf_pool_run(pool, tasks + 1, scan_task, &job);
    for (size_t i = 0; i < tasks && found == SIZE_MAX; i++) {
        found = job.first[i];
    }
    free(job.first);
    if (job.hash.status != SQF_OK) {
        return sqf_fail(err, job.hash.status, "%s", job.hash.text);
    }
    if (found == SIZE_MAX) {
        return SQF_OK;
    }
    const size_t columns = tensor->dimensions == 2 ? tensor->shape[1] : 1;
    float value;
    sqf_to_float(sqf_dtype_type(tensor->dtype), tensor->data + found * sqf_dtype_bytes(tensor->dtype), 1, &value);
    return sqf_fail(err, SQF_E_VALUE, "%s: tensor %s: row %zu column %zu: expected a finite number, found %f",
                    tensor->file, tensor->name, found / columns, found % columns, (double)value);
}

sqf_status sqf_checkpoint_find_dense(const sqf_checkpoint *checkpoint, const char *name, size_t rows, size_t columns,
                                     const sqf_tensor **out, sqf_error *err)
{
    const sqf_tensor *tensor;
    *out = NULL;
    SQF_TRY(sqf_tensors_get(checkpoint->tensors, name, rows, columns, &tensor, err));
    if (sqf_dtype_type(tensor->dtype) == SQF_TYPE_NONE) {
        return sqf_fail(err, SQF_E_SUPPORT, "%s: tensor %s: dtype: expected BF16, F16 or F32, found %s", tensor->file,
                        name, sqf_dtype_name(tensor->dtype));
    }
    *out = tensor;
    return SQF_OK;
}

/* The same with its contents checked; pool NULL = on this thread, for vectors that are not worth waking others. */
static sqf_status get_dense(const sqf_checkpoint *checkpoint, sqf_pool *pool, const char *name, size_t rows,
                            size_t columns, const sqf_tensor **out, sqf_error *err)
{
    const sqf_tensor *tensor;
    *out = NULL;
    SQF_TRY(sqf_checkpoint_find_dense(checkpoint, name, rows, columns, &tensor, err));
    SQF_TRY(check_dense(tensor, pool, err));
    *out = tensor;
    return SQF_OK;
}

sqf_status sqf_checkpoint_dense(const sqf_checkpoint *checkpoint, sqf_context *context, const char *name, size_t rows,
                                size_t columns, const sqf_tensor **out, sqf_error *err)
{
    return get_dense(checkpoint, context->pool, name, rows, columns, out, err);
}

/* For norms and biases: small, used everywhere, so kept as float32. */
sqf_status sqf_checkpoint_floats(const sqf_checkpoint *checkpoint, const char *name, size_t rows, size_t columns,
                                 float **out, sqf_error *err)
{
    const sqf_tensor *tensor;
    *out = NULL;
    SQF_TRY(get_dense(checkpoint, NULL, name, rows, columns, &tensor, err));
    const size_t elements = tensor->bytes / sqf_dtype_bytes(tensor->dtype);
    SQF_TRY(SQF_ALLOC(out, elements, name, err));
    sqf_to_float(sqf_dtype_type(tensor->dtype), tensor->data, elements, *out);
    return SQF_OK;
}

/* The tensor's bytes at an address that fits its elements: in the mapping, or a copy that *owned receives. */
static sqf_status align_data(const sqf_tensor *tensor, const void **data, void **owned, sqf_error *err)
{
    *data = tensor->data;
    if ((uintptr_t)tensor->data % sqf_dtype_bytes(tensor->dtype) == 0) {
        return SQF_OK;
    }
    SQF_TRY(sqf_alloc_bytes(owned, tensor->bytes, 1, tensor->name, err));
    memcpy(*owned, tensor->data, tensor->bytes);
    *data = *owned;
    return SQF_OK;
}

sqf_linear_params sqf_dense_params(const sqf_tensor *tensor, const float *bias)
{
    return (sqf_linear_params){.name = tensor->name,
                               .rows = tensor->shape[0],
                               .columns = tensor->shape[1],
                               .bias = bias,
                               .dense = tensor->data,
                               .dense_type = sqf_dtype_type(tensor->dtype),
                               .activations = {.low = SQF_TYPE_FP32, .bank = 1, .clip = 1}};
}

/* Row-major as in the file; the bias is copied by the layer, the weights are not. */
sqf_status sqf_dense_linear_of(sqf_context *context, const sqf_tensor *tensor, const float *bias, sqf_linear **out,
                               void **owned, sqf_error *err)
{
    sqf_linear_params params = sqf_dense_params(tensor, bias);
    SQF_TRY(align_data(tensor, &params.dense, owned, err));
    return sqf_linear_create(context, &params, out, err);
}

/* Static masks with a high part reorder the columns; dynamic ones and k = 0 leave them. */
static bool has_channels(const sqf_act_spec *spec)
{
    return sqf_act_spec_is_split(spec) && spec->mask == SQF_MASK_STATIC;
}

static bool has_static_zero(const sqf_act_spec *spec)
{
    return !sqf_act_spec_is_float(spec) && spec->scale == SQF_ACT_STATIC && spec->zero != SQF_ACT_ZERO_NONE;
}

static bool has_column_norm(const sqf_act_spec *spec)
{
    return sqf_act_spec_is_split(spec) && spec->mask == SQF_MASK_DYNAMIC && spec->dynamic_weighted;
}

/* Here and not in src/format, because it joins the two halves of a scheme: activations decide how weights are stored.
 */
size_t sqf_scheme_border(const sqf_scheme *scheme, size_t columns)
{
    return has_channels(&scheme->activations) ? sqf_act_low_channels(&scheme->activations, columns) : columns;
}

/* The table of docs/format.md section 7 for one scheme and shape. */
sqf_status sqf_stored_parts(const sqf_scheme *scheme, size_t rows, size_t columns,
                            sqf_stored_part parts[SQF_STORED_PARTS], size_t *count, sqf_error *err)
{
    const sqf_act_spec *act = &scheme->activations;
    sqf_matrix matrix;
    sqf_matrix_part arrays[SQF_MATRIX_PARTS];
    SQF_TRY(sqf_matrix_shape(&scheme->weights, rows, columns, sqf_scheme_border(scheme, columns), &matrix, err));
    size_t n = sqf_matrix_parts(&matrix, arrays);
    for (size_t i = 0; i < n; i++) {
        parts[i] = (sqf_stored_part){arrays[i].suffix, arrays[i].dtype, 2, {rows, arrays[i].columns}};
    }
    if (!sqf_weight_spec_is_dense(&scheme->weights) && scheme->weights.scale_type == SQF_TYPE_FP8) {
        parts[n++] = (sqf_stored_part){SQF_PART_SCALE_UNIT, "F32", 1, {2}};
    }
    if (has_channels(act)) {
        parts[n++] = (sqf_stored_part){SQF_PART_CHANNELS, "I32", 1, {columns}};
    }
    if (!sqf_act_spec_is_float(act) && act->scale == SQF_ACT_STATIC) {
        parts[n++] = (sqf_stored_part){SQF_PART_ACT_SCALE, "F32", 1, {2}};
    }
    if (has_static_zero(act)) {
        parts[n++] = (sqf_stored_part){SQF_PART_ACT_ZERO, "I32", 1, {2}};
    }
    if (has_column_norm(act)) {
        parts[n++] = (sqf_stored_part){SQF_PART_COLUMN_NORM, "F32", 1, {columns}};
    }
    *count = n;
    return SQF_OK;
}

sqf_status sqf_checkpoint_find_part(const sqf_checkpoint *checkpoint, const char *module, const sqf_stored_part *part,
                                    const sqf_tensor **out, sqf_error *err)
{
    char name[SQF_MODULE_NAME];
    sqf_tensor_name(module, part->suffix, name);
    SQF_TRY(sqf_tensors_get_shaped(checkpoint->tensors, name, part->dimensions, part->shape, out, err));
    if (strcmp(sqf_dtype_name((*out)->dtype), part->dtype) != 0) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: tensor %s: dtype: expected %s, found %s", (*out)->file, name,
                        part->dtype, sqf_dtype_name((*out)->dtype));
    }
    return SQF_OK;
}

/* Scales and norms that come from a file: finite and not negative. */
static sqf_status check_positive(const sqf_tensor *tensor, const float *values, sqf_error *err)
{
    for (size_t i = 0; i < tensor->shape[0]; i++) {
        if (!(values[i] >= 0) || isinf(values[i])) {
            return sqf_fail(err, SQF_E_VALUE, "%s: tensor %s: element %zu: expected a finite number from 0, found %g",
                            tensor->file, tensor->name, i, (double)values[i]);
        }
    }
    return SQF_OK;
}

/* Zero points are codes of their part's type; 0 for a part that has none. */
static sqf_status check_zeros(const sqf_tensor *tensor, const sqf_act_spec *spec, const int32_t zeros[2],
                              sqf_error *err)
{
    const sqf_type types[2] = {spec->low, spec->high};
    for (size_t part = 0; part < 2; part++) {
        const bool has_zero = sqf_act_has_zero(spec, part == 1);
        const int32_t lowest = has_zero ? (int32_t)sqf_zero_lowest(types[part]) : 0;
        const int32_t largest = has_zero ? (int32_t)sqf_type_max(types[part]) : 0;
        if (zeros[part] < lowest || zeros[part] > largest) {
            return sqf_fail(err, SQF_E_VALUE, "%s: tensor %s: element %zu: expected %d..%d, found %d", tensor->file,
                            tensor->name, part, lowest, largest, zeros[part]);
        }
    }
    return SQF_OK;
}

/* Puts one part where it belongs: an array of the matrix, the channel list, or a vector of floats. What is read as
 * numbers wider than a byte is aligned first; the matrix's own arrays are read byte by byte. */
static sqf_status attach_part(sqf_stored_linear *out, const sqf_tensor *tensor, const char *suffix, sqf_error *err)
{
    sqf_matrix_part arrays[SQF_MATRIX_PARTS];
    const size_t count = sqf_matrix_parts(&out->matrix, arrays);
    const void *data;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(arrays[i].suffix, suffix) == 0) {
            *arrays[i].data = (uint8_t *)(uintptr_t)tensor->data; /* never written through: the mapping is read only */
            return SQF_OK;
        }
    }
    if (strcmp(suffix, SQF_PART_SCALE_UNIT) == 0) {
        memcpy(out->matrix.scale_unit, tensor->data, sizeof out->matrix.scale_unit);
        return check_positive(tensor, out->matrix.scale_unit, err);
    }
    if (strcmp(suffix, SQF_PART_CHANNELS) == 0) {
        SQF_TRY(align_data(tensor, &data, &out->owned[0], err));
        out->matrix.channels = data;
        const sqf_status status = sqf_channels_check(data, out->matrix.columns, out->matrix.border,
                                                     &out->scheme.activations, tensor->name, err);
        return status == SQF_OK ? SQF_OK : sqf_fail_within(err, status, tensor->file);
    }
    if (strcmp(suffix, SQF_PART_ACT_ZERO) == 0) {
        SQF_TRY(align_data(tensor, &data, &out->owned[3], err));
        out->static_zero = data;
        return check_zeros(tensor, &out->scheme.activations, data, err);
    }
    const bool is_scale = strcmp(suffix, SQF_PART_ACT_SCALE) == 0;
    SQF_TRY(align_data(tensor, &data, &out->owned[is_scale ? 1 : 2], err));
    *(is_scale ? &out->static_scale : &out->column_norm) = data;
    return check_positive(tensor, data, err);
}

/* The hashes of a module's tensors and its rows, all as tasks of one job, hashes first: a hash cannot be divided, so
 * the rows are checked beside it. */
typedef struct module_check {
    const sqf_tensor *const *tensors;
    size_t tensor_count;
    const sqf_matrix *matrix;
    const char *name;
    sqf_error *errors; /* [tasks] */
} module_check;

/* Finds the task's first bad row; check_module takes the lowest of all. */
static void check_task(void *user, size_t task, unsigned thread)
{
    const module_check *job = user;
    (void)thread;
    if (task < job->tensor_count) {
        sqf_tensor_verify(job->tensors[task], &job->errors[task]);
        return;
    }
    const size_t begin = (task - job->tensor_count) * CHECK_ROWS, rest = job->matrix->rows - begin;
    sqf_matrix_check_rows(job->matrix, begin, begin + (rest < CHECK_ROWS ? rest : CHECK_ROWS), job->name,
                          &job->errors[task]);
}

/* The first tensor whose hash is wrong, else the lowest failing row, whatever the number of threads. Messages of rows
 * do not name the file. rows false = hashes alone. */
static sqf_status check_module(const module_check *module, bool rows, sqf_context *context, sqf_error *err)
{
    module_check job = *module;
    const size_t tasks = job.tensor_count + (rows ? sqf_ceil_div(job.matrix->rows, CHECK_ROWS) : 0);
    sqf_status status = SQF_OK;
    SQF_TRY(SQF_ALLOC(&job.errors, tasks, "row checks", err));
    sqf_pool_run(context->pool, tasks, check_task, &job);
    for (size_t i = 0; i < tasks && status == SQF_OK; i++) {
        status = job.errors[i].status;
        if (status != SQF_OK) {
            sqf_fail(err, status, "%s", job.errors[i].text);
            status =
                i < job.tensor_count ? status : sqf_fail_within(err, status, job.tensors[job.tensor_count - 1]->file);
        }
    }
    free(job.errors);
    return status;
}

/* Hashes come before values in messages: where a part is refused for its values, its hash and those of the others may
 * say what happened to the file. Failing leaves *out to be cleared. */
sqf_status sqf_checkpoint_linear(const sqf_checkpoint *checkpoint, sqf_context *context, const char *module,
                                 size_t rows, size_t columns, sqf_stored_linear *out, sqf_error *err)
{
    sqf_stored_part parts[SQF_STORED_PARTS];
    const sqf_tensor *tensors[SQF_STORED_PARTS];
    size_t count;
    sqf_error refused = {0};
    *out = (sqf_stored_linear){.scheme = sqf_module_schemes_get(checkpoint->schemes, module)};
    SQF_TRY(sqf_stored_parts(&out->scheme, rows, columns, parts, &count, err));
    SQF_TRY(sqf_matrix_shape(&out->scheme.weights, rows, columns, sqf_scheme_border(&out->scheme, columns),
                             &out->matrix, err));
    for (size_t i = 0; i < count; i++) {
        SQF_TRY(sqf_checkpoint_find_part(checkpoint, module, &parts[i], &tensors[i], err));
    }
    sqf_status status = SQF_OK;
    for (size_t i = 0; i < count && status == SQF_OK; i++) {
        status = attach_part(out, tensors[i], parts[i].suffix, &refused);
    }
    const module_check job = {.tensors = tensors, .tensor_count = count, .matrix = &out->matrix, .name = module};
    SQF_TRY(check_module(&job, status == SQF_OK, context, err));
    return status == SQF_OK ? SQF_OK : sqf_fail(err, status, "%s", refused.text);
}

sqf_stored_part sqf_down_rotation_part(size_t factor)
{
    return (sqf_stored_part){SQF_PART_DOWN_ROTATION, "F32", 2, {factor, factor}};
}

void sqf_mlp_name(size_t layer, char name[SQF_MODULE_NAME])
{
    snprintf(name, SQF_MODULE_NAME, "model.layers.%zu.mlp", layer);
}

/* An orthogonal matrix keeps lengths, so its rows have length 1. This finds damage that the hash does not, at a cost
 * that is linear in its size; computing with any finite matrix is safe. */
static sqf_status check_unit_rows(const float *matrix, size_t n, const char *name, sqf_error *err)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (size_t j = 0; j < n; j++) {
            sum += (double)matrix[i * n + j] * (double)matrix[i * n + j];
        }
        if (!(fabs(sum - 1.0) <= 1e-3)) {
            return sqf_fail(err, SQF_E_VALUE, "tensor %s: row %zu: expected a row of length 1, found %g", name, i,
                            sqrt(sum));
        }
    }
    return SQF_OK;
}

sqf_status sqf_checkpoint_rotation(const sqf_checkpoint *checkpoint, size_t layer, sqf_rotation *out, sqf_error *err)
{
    const sqf_rotation_spec spec = sqf_module_schemes_rotation(checkpoint->schemes);
    const size_t factor = spec.down_factor, channels = checkpoint->config.intermediate;
    char module[SQF_MODULE_NAME], name[SQF_MODULE_NAME];
    float *matrix;
    *out = (sqf_rotation){0};
    if (!spec.down_mixed) {
        return factor == 0 ? SQF_OK : sqf_rotation_create(channels, factor, NULL, out, err);
    }
    sqf_mlp_name(layer, module);
    sqf_tensor_name(module, SQF_PART_DOWN_ROTATION, name);
    SQF_TRY(sqf_checkpoint_floats(checkpoint, name, factor, factor, &matrix, err));
    sqf_status status = check_unit_rows(matrix, factor, name, err);
    if (status == SQF_OK) {
        status = sqf_rotation_create(channels, factor, matrix, out, err);
    } else {
        sqf_fail_within(err, status, checkpoint->directory);
    }
    free(matrix);
    return status;
}

void sqf_stored_linear_clear(sqf_stored_linear *linear)
{
    for (size_t i = 0; i < sizeof linear->owned / sizeof *linear->owned; i++) {
        free(linear->owned[i]);
    }
    *linear = (sqf_stored_linear){0};
}

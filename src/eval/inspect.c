/* What is in a model directory: one entry for each quantized module and each other tensor, with its size in bits; and
 * for one module how its codes, scales and masks are distributed. Opening looks at headers alone; statistics read the
 * module. */
#include "eval/inspection.h"

#include <string.h>

/* "layers.9" before "layers.10": runs of digits compare as numbers. */
static int compare_names(const char *a, const char *b)
{
    while (*a && *b) {
        const size_t digits_a = strspn(a, "0123456789"), digits_b = strspn(b, "0123456789");
        if (digits_a > 0 && digits_b > 0 && digits_a != digits_b) {
            return digits_a < digits_b ? -1 : 1; /* names have no leading zeros */
        }
        if (*a != *b) {
            break;
        }
        a++;
        b++;
    }
    return (int)(unsigned char)*a - (int)(unsigned char)*b;
}

/* The order of the list, of qsort and of every look-up by bisection below. */
static int compare_entries(const void *a, const void *b)
{
    return compare_names(((const sqf_named_entry *)a)->name, ((const sqf_named_entry *)b)->name);
}

/* True for tensors "MODULE.sq_..." of the decoder, which belong to their module's entry; *length is the module's. The
 * checkpoint refuses those that belong to none, but lets tensors of other parts of a model have any name. */
static bool is_stored_part(const char *name, size_t *length)
{
    const char *dot = strrchr(name, '.');
    *length = dot ? (size_t)(dot - name) : 0;
    return dot && strncmp(dot, ".sq_", 4) == 0 &&
           (strncmp(name, "model.", 6) == 0 ||
            strncmp(name, SQF_MODULE_OUTPUT ".", strlen(SQF_MODULE_OUTPUT) + 1) == 0);
}

/* Figures that follow from scheme, bytes and elements. */
static void finish_entry(sqf_named_entry *e)
{
    sqf_inspect_entry *entry = &e->entry;
    const sqf_scheme_bits bits = sqf_scheme_bits_of(&entry->scheme);
    entry->weights_equivalent_bits = bits.weights_equivalent;
    entry->activations_equivalent_bits = bits.activations_equivalent;
    if (entry->linear || entry->output) {
        const sqf_cost cost = sqf_cost_linear(&entry->scheme, entry->shape[0], entry->shape[1]);
        entry->cost = sqf_cost_per_product(&cost, NULL);
        entry->low_rate_share = sqf_cost_low_rate_share(&cost);
    }
    entry->stored_bits = entry->elements ? 8.0 * (double)entry->bytes / (double)entry->elements : 0;
}

/* One entry stands for all the tensors of a module; its bytes are theirs together. */
static sqf_status add_quantized(sqf_inspection *inspection, const char *module, size_t rows, size_t columns,
                                const sqf_scheme *scheme, sqf_error *err)
{
    sqf_named_entry *e = &inspection->entries[inspection->count++];
    sqf_inspect_entry *entry = &e->entry;
    snprintf(e->name, sizeof e->name, "%s", module);
    sqf_scheme_print(scheme, SQF_SPELLING_SHORT, e->scheme);
    entry->dtype = e->scheme;
    entry->quantized = true;
    entry->output = strcmp(module, sqf_output_module(&inspection->model.checkpoint.config)) == 0;
    entry->linear = !entry->output && strcmp(module, SQF_MODULE_EMBEDDING) != 0;
    entry->dimensions = 2;
    entry->shape[0] = rows;
    entry->shape[1] = columns;
    entry->elements = (uint64_t)entry->shape[0] * entry->shape[1];
    entry->scheme = *scheme;
    sqf_stored_part parts[SQF_STORED_PARTS];
    size_t count;
    SQF_TRY(sqf_stored_parts(scheme, entry->shape[0], entry->shape[1], parts, &count, err));
    for (size_t i = 0; i < count; i++) {
        char name[SQF_MODULE_NAME];
        sqf_tensor_name(module, parts[i].suffix, name);
        entry->bytes += sqf_tensors_find(inspection->model.checkpoint.tensors, name)->bytes;
    }
    finish_entry(e);
    return SQF_OK;
}

/* A tensor of its own: norms, biases, embeddings, and linear layers that are not quantized. */
static void add_tensor(sqf_inspection *inspection, const sqf_tensor *tensor)
{
    sqf_named_entry *e = &inspection->entries[inspection->count++];
    sqf_inspect_entry *entry = &e->entry;
    snprintf(e->name, sizeof e->name, "%s", tensor->name);
    entry->dtype = sqf_dtype_name(tensor->dtype);
    entry->dimensions = tensor->dimensions;
    entry->elements = 1;
    for (size_t i = 0; i < tensor->dimensions; i++) {
        entry->shape[i] = tensor->shape[i];
        entry->elements *= tensor->shape[i];
    }
    entry->bytes = tensor->bytes;
    entry->scheme.weights = (sqf_weight_spec){.low = sqf_dtype_type(tensor->dtype), .bank = 1};
    entry->scheme.activations = (sqf_act_spec){.low = SQF_TYPE_FP32, .clip = 1};
    finish_entry(e);
}

/* An entry for the module if it is quantized. */
static sqf_status add_module(sqf_inspection *inspection, const char *module, size_t rows, size_t columns,
                             sqf_error *err)
{
    const sqf_scheme scheme = sqf_module_schemes_get(inspection->model.checkpoint.schemes, module);
    return sqf_weight_spec_is_dense(&scheme.weights) ? SQF_OK
                                                     : add_quantized(inspection, module, rows, columns, &scheme, err);
}

/* There are at most as many entries as tensors: every module has at least one. */
static sqf_status add_entries(sqf_inspection *inspection, sqf_error *err)
{
    const sqf_checkpoint *checkpoint = &inspection->model.checkpoint;
    const size_t tensors = sqf_tensors_count(checkpoint->tensors);
    SQF_TRY(SQF_ALLOC(&inspection->entries, tensors, "entries", err));
    for (size_t layer = 0; layer < checkpoint->config.layers; layer++) {
        for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
            char module[SQF_MODULE_NAME];
            sqf_linear_name(layer, (sqf_linear_kind)kind, module);
            size_t rows, columns;
            sqf_linear_shape(&checkpoint->config, (sqf_linear_kind)kind, &rows, &columns);
            SQF_TRY(add_module(inspection, module, rows, columns, err));
        }
    }
    const char *const vocabulary[] = {SQF_MODULE_EMBEDDING, SQF_MODULE_OUTPUT};
    for (size_t i = 0; i < sizeof vocabulary / sizeof *vocabulary; i++) {
        SQF_TRY(add_module(inspection, vocabulary[i], checkpoint->config.vocabulary, checkpoint->config.hidden, err));
    }
    for (size_t i = 0; i < tensors; i++) {
        const sqf_tensor *tensor = sqf_tensors_at(checkpoint->tensors, i);
        size_t length;
        if (!is_stored_part(tensor->name, &length)) {
            add_tensor(inspection, tensor);
        }
    }
    qsort(inspection->entries, inspection->count, sizeof *inspection->entries, compare_entries);
    return SQF_OK;
}

/* Marks the dense weights of linear layers, which have a scheme (that of their module) where other tensors have none.
 */
static void mark_linear(sqf_inspection *inspection)
{
    for (size_t layer = 0; layer < inspection->model.checkpoint.config.layers; layer++) {
        for (int kind = 0; kind < SQF_LINEAR_COUNT; kind++) {
            sqf_named_entry key;
            char module[SQF_MODULE_NAME];
            sqf_linear_name(layer, (sqf_linear_kind)kind, module);
            sqf_tensor_name(module, "weight", key.name);
            sqf_named_entry *found = bsearch(&key, inspection->entries, inspection->count, sizeof key, compare_entries);
            if (found) {
                found->entry.linear = true;
                found->entry.scheme = sqf_module_schemes_get(inspection->model.checkpoint.schemes, module);
                found->entry.scheme.weights.low =
                    sqf_dtype_type(sqf_tensors_find(inspection->model.checkpoint.tensors, key.name)->dtype);
                finish_entry(found);
            }
        }
    }
}

/* The entries' strings are set after sorting, because they point into entries that sorting moves. */
sqf_status sqf_inspection_open(sqf_context *context, const char *directory, sqf_inspection **out, sqf_error *err)
{
    *out = NULL;
    sqf_inspection *inspection;
    SQF_TRY(SQF_ALLOC(&inspection, 1, "inspection", err));
    inspection->context = context;
    sqf_status status = sqf_checkpoint_open(directory, &inspection->model.checkpoint, err);
    if (status == SQF_OK) {
        status = sqf_model_count(&inspection->model, err);
    }
    if (status == SQF_OK) {
        status = add_entries(inspection, err);
    }
    if (status != SQF_OK) {
        sqf_inspection_close(inspection);
        return status;
    }
    for (size_t i = 0; i < inspection->count; i++) {
        /* after sorting, because sorting moves the text */
        inspection->entries[i].entry.name = inspection->entries[i].name;
        if (inspection->entries[i].entry.quantized) {
            inspection->entries[i].entry.dtype = inspection->entries[i].scheme;
        }
    }
    mark_linear(inspection);
    *out = inspection;
    return SQF_OK;
}

void sqf_inspection_close(sqf_inspection *inspection)
{
    if (inspection) {
        sqf_checkpoint_close(&inspection->model.checkpoint);
        free(inspection->model.end_ids);
        free(inspection->entries);
        free(inspection);
    }
}

sqf_model_info sqf_inspection_info(const sqf_inspection *inspection)
{
    return inspection->model.info;
}

size_t sqf_inspection_count(const sqf_inspection *inspection)
{
    return inspection->count;
}

const sqf_inspect_entry *sqf_inspection_at(const sqf_inspection *inspection, size_t index)
{
    return &inspection->entries[index].entry;
}

/* The entry named by `length` bytes of `name` and a suffix. */
static const sqf_inspect_entry *find_exact(const sqf_inspection *inspection, const char *name, size_t length,
                                           const char *suffix)
{
    sqf_named_entry key;
    if (length + strlen(suffix) >= sizeof key.name) {
        return NULL;
    }
    snprintf(key.name, sizeof key.name, "%.*s%s", (int)length, name, suffix);
    const sqf_named_entry *found = bsearch(&key, inspection->entries, inspection->count, sizeof key, compare_entries);
    return found ? &found->entry : NULL;
}

/* In this order a name that exists is never taken for something else. */
const sqf_inspect_entry *sqf_inspection_find(const sqf_inspection *inspection, const char *name)
{
    const size_t length = strlen(name);
    size_t module;
    const sqf_inspect_entry *found = find_exact(inspection, name, length, "");
    if (!found) {
        found = find_exact(inspection, name, length, ".weight");
    }
    if (!found && is_stored_part(name, &module)) {
        found = find_exact(inspection, name, module, "");
    }
    return found;
}

/* Sums over the rows of a module. What can be counted once is added to *out at once; shares follow in finish_tally. */
typedef struct tally {
    sqf_inspect_statistics *out;
    uint64_t *column_high; /* [columns] rows that hold the channel high */
    uint64_t low, zero, limit;
} tally;

/* A largest of 0 means that none was seen yet. Scales of 0 belong to groups without weights and say nothing. */
static void tally_scales(const float *scales, size_t count, float *least, float *largest)
{
    for (size_t i = 0; i < count; i++) {
        if (scales[i] == 0) {
            continue;
        }
        *least = *largest == 0 || scales[i] < *least ? scales[i] : *least;
        *largest = scales[i] > *largest ? scales[i] : *largest;
    }
}

/* Values are on the grid, so that comparing with its ends is exact. */
static void tally_row(tally *t, const sqf_matrix *matrix, const sqf_row *row)
{
    const float limit = sqf_type_max(matrix->spec.low);
    for (size_t k = 0; k < matrix->columns; k++) {
        if (row->mask[k]) {
            t->column_high[k]++;
            t->out->high++;
        } else {
            t->low++;
            t->zero += row->value[k] == 0.0f;
            t->limit += limit > 0 && (row->value[k] == limit || row->value[k] == -limit);
        }
    }
    if (matrix->scale_low) {
        tally_scales(row->scale_low, matrix->group_count, &t->out->scale_low_min, &t->out->scale_low_max);
    }
    if (matrix->scale_high || matrix->shift) {
        tally_scales(row->scale_high, matrix->group_count, &t->out->scale_high_min, &t->out->scale_high_max);
    }
}

static int descending(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Shares and figures by channel. Sorts column_high: the busiest tenth are its first elements. */
static void finish_tally(tally *t, const sqf_matrix *matrix)
{
    sqf_inspect_statistics *out = t->out;
    uint64_t busiest = 0;
    out->high_share = (double)out->high / ((double)matrix->rows * (double)matrix->columns);
    for (size_t k = 0; k < matrix->columns; k++) {
        out->columns_never_high += t->column_high[k] == 0;
        out->columns_always_high += t->column_high[k] == matrix->rows;
    }
    qsort(t->column_high, matrix->columns, sizeof *t->column_high, descending);
    for (size_t k = 0; k < sqf_ceil_div(matrix->columns, 10); k++) {
        busiest += t->column_high[k];
    }
    out->busiest_share = out->high ? (double)busiest / (double)out->high : 0;
    out->low_zero_share = (double)t->zero / (double)t->low; /* NaN without low weights */
    out->low_limit_share = (double)t->limit / (double)t->low;
    out->channels_high = matrix->columns - matrix->border;
}

/* One row in memory at a time, after the whole module was verified. */
sqf_status sqf_inspection_statistics(const sqf_inspection *inspection, const sqf_inspect_entry *entry,
                                     sqf_inspect_statistics *out, sqf_error *err)
{
    if (!entry->quantized) {
        return sqf_fail(err, SQF_E_ARG, "%s: %s: expected a quantized module, found %s",
                        inspection->model.checkpoint.directory, entry->name, entry->dtype);
    }
    *out = (sqf_inspect_statistics){0};
    sqf_stored_linear linear = {0};
    sqf_row row = {0};
    tally t = {.out = out};
    sqf_status status;
    SQF_TRY_GOTO(status,
                 sqf_checkpoint_linear(&inspection->model.checkpoint, inspection->context, entry->name, entry->shape[0],
                                       entry->shape[1], &linear, err),
                 done);
    SQF_TRY_GOTO(status, sqf_row_create(&linear.matrix, &row, err), done);
    SQF_TRY_GOTO(status, SQF_ALLOC(&t.column_high, linear.matrix.columns, "columns", err), done);
    for (size_t n = 0; n < linear.matrix.rows; n++) {
        sqf_matrix_unpack_row(&linear.matrix, n, &row);
        tally_row(&t, &linear.matrix, &row);
    }
    finish_tally(&t, &linear.matrix);
done:
    free(t.column_high);
    sqf_row_clear(&row);
    sqf_stored_linear_clear(&linear);
    return status;
}

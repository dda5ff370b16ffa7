/* Whether a model directory is whole: every hash, code, count and scale is read. The checks themselves are those of
 * loading (stored.c, the tokenizer, the generation settings); this file sees to it that all of them run, goes on
 * after a problem where loading would stop, and counts. */
#include "base/file.h"
#include "eval/inspection.h"

/* The state of one check: where findings go, and what they have come to. */
typedef struct check {
    sqf_context *context;
    sqf_check_fn report;
    void *user;
    sqf_check_summary summary;
    sqf_error first; /* problem */
} check;

/* One item is done. The first problem becomes the sentence of the whole check. */
static void report_item(check *c, const char *item, sqf_status status, sqf_error *problem)
{
    c->summary.items++;
    if (status != SQF_OK) {
        problem->status = status;
        c->first = c->summary.problems++ == 0 ? *problem : c->first;
    }
    if (c->report) {
        c->report(c->user, item, status == SQF_OK ? NULL : problem);
    }
}

/* Hash and values of a tensor that is not part of a quantized module. */
static sqf_status check_tensor(const check *c, const sqf_checkpoint *checkpoint, const sqf_inspect_entry *entry,
                               sqf_error *err)
{
    const sqf_tensor *tensor = sqf_tensors_find(checkpoint->tensors, entry->name);
    if (tensor->dimensions < 1 || tensor->dimensions > 2 || sqf_dtype_type(tensor->dtype) == SQF_TYPE_NONE) {
        return sqf_tensor_verify(tensor, err); /* nothing of ours: no values to check */
    }
    return sqf_checkpoint_dense(checkpoint, c->context, entry->name, tensor->shape[0],
                                tensor->dimensions == 2 ? tensor->shape[1] : 0, &tensor, err);
}

/* Loading a module checks its hashes, every code, count and scale, and its channel list. */
static sqf_status check_module(const check *c, const sqf_checkpoint *checkpoint, const sqf_inspect_entry *entry,
                               sqf_error *err)
{
    sqf_stored_linear linear = {0};
    const sqf_status status =
        sqf_checkpoint_linear(checkpoint, c->context, entry->name, entry->shape[0], entry->shape[1], &linear, err);
    sqf_stored_linear_clear(&linear);
    return status;
}

/* A problem with one tensor does not keep the others from being checked; a cancelled call does. */
static sqf_status check_entries(check *c, const sqf_inspection *inspection, sqf_error *err)
{
    const sqf_checkpoint *checkpoint = &inspection->model.checkpoint;
    const size_t count = sqf_inspection_count(inspection);
    for (size_t i = 0; i < count; i++) {
        const sqf_inspect_entry *entry = sqf_inspection_at(inspection, i);
        sqf_error problem = {0};
        const sqf_status status = entry->quantized ? check_module(c, checkpoint, entry, &problem)
                                                   : check_tensor(c, checkpoint, entry, &problem);
        report_item(c, entry->name, status, &problem);
        SQF_TRY(sqf_progress(c->context, "items", i + 1, count, err));
    }
    return SQF_OK;
}

/* Models of other makers record no hashes: how many there are is part of the answer. */
static void count_tensors(check *c, const sqf_checkpoint *checkpoint)
{
    c->summary.tensors = sqf_tensors_count(checkpoint->tensors);
    for (size_t i = 0; i < c->summary.tensors; i++) {
        const sqf_tensor *tensor = sqf_tensors_at(checkpoint->tensors, i);
        c->summary.hashed += tensor->hash != NULL;
        c->summary.bytes += tensor->bytes;
    }
}

/* A directory without a tokenizer is whole: it can still be evaluated on ids. */
static sqf_status check_tokenizer(check *c, const char *directory, sqf_error *err)
{
    char *path;
    SQF_TRY(sqf_path_join(&path, directory, "tokenizer.json", err));
    if (sqf_path_exists(path)) {
        sqf_error problem = {0};
        sqf_tokenizer *tokenizer;
        const sqf_status status = sqf_tokenizer_load(directory, &tokenizer, &problem);
        report_item(c, "tokenizer.json", status, &problem);
        sqf_tokenizer_destroy(tokenizer);
    }
    free(path);
    return SQF_OK;
}

/* End ids and sampling defaults, which a plain look at a directory does not read. */
static void check_generation(check *c, sqf_inspection *inspection)
{
    sqf_error problem = {0};
    const sqf_status status = sqf_model_load_generation(&inspection->model, &problem);
    report_item(c, "generation settings", status, &problem);
}

/* Without sound headers there is nothing to look at further. */
static sqf_status check_directory(check *c, const char *directory, sqf_error *err)
{
    static const char structure[] = "configuration, headers and shapes";
    sqf_inspection *inspection;
    sqf_error problem = {0};
    sqf_status status = sqf_inspection_open(c->context, directory, &inspection, &problem);
    report_item(c, structure, status, &problem);
    if (status == SQF_OK) {
        count_tensors(c, &inspection->model.checkpoint);
        check_generation(c, inspection);
        status = check_entries(c, inspection, err);
        sqf_inspection_close(inspection);
        SQF_TRY(status);
    }
    return check_tokenizer(c, directory, err);
}

sqf_status sqf_check_model(sqf_context *context, const char *directory, sqf_check_fn report, void *user,
                           sqf_check_summary *summary, sqf_error *err)
{
    check c = {.context = context, .report = report, .user = user};
    sqf_status status = check_directory(&c, directory, err);
    if (summary) {
        *summary = c.summary;
    }
    if (status == SQF_OK && c.summary.problems > 0) {
        status = c.first.status;
        sqf_fail(err, status, "%s", c.first.text);
    }
    return status;
}

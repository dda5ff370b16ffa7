/* Opening a reference model in a test. */
#ifndef SQF_TESTS_MODEL_FIXTURE_H
#define SQF_TESTS_MODEL_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sqf/model.h>

#include "base/file.h"
#include "base/json.h"

#define DEMO    SQF_SOURCE_DIR "/models/demo"
#define SHARED  SQF_SOURCE_DIR "/../shared"
#define STORIES SHARED "/models/stories260k"

/* A model with its reference.json. */
typedef struct fixture {
    sqf_context *context;
    sqf_model *model;
    json_t *reference;
    size_t vocabulary;
} fixture;

static inline void must(sqf_status status, const sqf_error *err)
{
    if (status != SQF_OK) {
        fail_msg("%s", err->text);
    }
}

static inline void open_fixture(fixture *f, const char *directory)
{
    sqf_error err = {0};
    char *path;
    must(sqf_context_create(NULL, &f->context, &err), &err);
    must(sqf_model_open(f->context, directory, &f->model, &err), &err);
    must(sqf_path_join(&path, directory, "reference.json", &err), &err);
    must(sqf_json_load(path, 1 << 24, &f->reference, &err), &err);
    free(path);
    f->vocabulary = sqf_model_info_get(f->model).vocabulary;
}

static inline void close_fixture(fixture *f)
{
    json_decref(f->reference);
    sqf_model_destroy(f->model);
    sqf_context_destroy(f->context);
}

static inline void need_file(const char *path)
{
    if (!sqf_path_exists(path)) {
        print_message("%s is not here: skipped\n", path);
        skip();
    }
}

/* Ids of a JSON array, for free(). */
static inline uint32_t *read_ids(const json_t *array, size_t *count)
{
    *count = json_array_size(array);
    uint32_t *ids = calloc(*count + 1, sizeof *ids);
    for (size_t i = 0; i < *count; i++) {
        ids[i] = (uint32_t)json_integer_value(json_array_get(array, i));
    }
    return ids;
}

/* Runs ids through a fresh session; logits of all of them, for free(). */
static inline float *run(const fixture *f, const uint32_t *ids, size_t count, sqf_session **session)
{
    sqf_error err = {0};
    float *logits = calloc(count * f->vocabulary, sizeof *logits);
    const size_t positions = sqf_model_info_get(f->model).positions;
    must(sqf_session_create(f->model, positions < 512 ? positions : 512, session, &err), &err);
    must(sqf_session_forward(*session, ids, count, &err), &err);
    must(sqf_session_logits(*session, 0, count, logits, &err), &err);
    return logits;
}

#endif

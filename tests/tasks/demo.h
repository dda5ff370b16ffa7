/* The demo model with its tokenizer and a scratch folder, open for all tests of a program. */
#ifndef SQF_TESTS_TASKS_DEMO_H
#define SQF_TESTS_TASKS_DEMO_H

#include "check.h"

#include <sqf/tasks.h>

#define DEMO SQF_SOURCE_DIR "/models/demo"
#define DATA SQF_SOURCE_DIR "/tests/tasks/data"

typedef struct demo {
    sqf_context *context;
    sqf_model *model;
    sqf_tokenizer *tokenizer;
    char scratch[64];
} demo;

static inline int demo_open(void **state)
{
    static demo d;
    sqf_error err;
    assert_ok(sqf_context_create(NULL, &d.context, &err), &err);
    assert_ok(sqf_model_open(d.context, DEMO, &d.model, &err), &err);
    assert_ok(sqf_tokenizer_load(DEMO, &d.tokenizer, &err), &err);
    make_scratch(d.scratch);
    *state = &d;
    return 0;
}

static inline int demo_close(void **state)
{
    demo *d = *state;
    sqf_model_destroy(d->model);
    sqf_tokenizer_destroy(d->tokenizer);
    sqf_context_destroy(d->context);
    remove_scratch(d->scratch);
    return 0;
}

#endif

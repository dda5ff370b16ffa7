/* The items file: one line of JSON an item, written as soon as it is computed, read again to resume.
 *
 * Every line carries two hashes: of the models, and of the task with all settings that an answer depends on. A line
 * with another one is never mixed in. */
#ifndef SQF_TASKS_RECORD_H
#define SQF_TASKS_RECORD_H

#include <stdio.h>

#include "tasks/verdict.h"

/* What both models said about an item; known: it was computed, or read. */
typedef struct sqf_outcome {
    bool known;
    sqf_answer model, reference;
} sqf_outcome;

/* One task of a run. */
typedef struct sqf_task_run {
    const sqf_task *task;
    char hash[SQF_HASH_TEXT]; /* of task and settings */
    size_t count;             /* items that are run */
    sqf_outcome *outcomes;    /* [task->count] */
    size_t resumed;
} sqf_task_run;

typedef struct sqf_record {
    const char *path; /* NULL: nothing is written */
    FILE *file;
    char models[SQF_HASH_TEXT];
    bool compared;
} sqf_record;

/* Opens the items file; with `resume`, outcomes of the runs are filled from it first, and an incomplete last line is
 * cut off. Close also after a failure. */
sqf_status sqf_record_open(sqf_record *record, bool resume, sqf_task_run *runs, size_t count, sqf_error *err);

/* Appends one item. */
sqf_status sqf_record_write(const sqf_record *record, const sqf_task_run *run, size_t index, sqf_error *err);

/* SQF_E_IO if something could not be written. */
sqf_status sqf_record_close(sqf_record *record, sqf_error *err);

#endif

/* Points measured side by side, each in a process of its own, within a limit of memory. */
#ifndef SQF_CLI_SWEEP_WORKERS_H
#define SQF_CLI_SWEEP_WORKERS_H

#include "measure.h"
#include "store.h"

typedef enum work_state { WORK_WAITING = 0, WORK_RUNNING, WORK_FINISHED, WORK_FAILED } work_state;

/* A point, and how far it is. */
typedef struct sweep_task {
    const sweep_point *point;
    char id[ID_TEXT];
    work_state state;
    size_t twin;        /* an earlier point of the same identity, which is measured for both; else its own index */
    size_t *references; /* of each text: index of the scores it needs; NULL where the reference runs beside the point */
} sweep_task;

/* Scores of a reference, and how far they are. */
typedef struct reference_task {
    sweep_reference reference;
    work_state state;
    char error[SQF_ERROR_TEXT]; /* of the run that failed: the error of all points that need it */
} reference_task;

typedef struct sweep_work {
    sweep_task *tasks;
    size_t task_count;
    reference_task *references;
    size_t reference_count;
    unsigned jobs, threads; /* processes at most; threads that they share */
    uint64_t memory;        /* bytes that all processes together may take */
    const char *scratch;    /* directory for models and the processes' results */
    const char *keep;       /* directory where models stay; NULL = none stay */
    /* Receives each point that was measured (figures; the callee releases them) or failed (error). A code other than
     * EXIT_DONE ends the work. */
    int (*finish)(void *user, size_t task, json_t *figures, const char *error);
    void *user;
} sweep_work;

/* Runs all tasks that wait. EXIT_DONE also if points failed; else the code after a message: interrupted, or results
 * could not be written. No process is left behind. */
int workers_run(sweep_work *work);

#endif

/* The work of one process of a sweep: a reference's scores, or everything about one point. Runs in a child process:
 * results go through files, and a crash is that point's alone. */
#ifndef SQF_CLI_SWEEP_MEASURE_H
#define SQF_CLI_SWEEP_MEASURE_H

#include "grid.h"

/* A text as one model's reference scored it. Points that share it find the scores in a file. */
typedef struct sweep_reference {
    const json_t *settings; /* of some point that needs it: model, text, window, max_tokens */
    const char *text;
    char path[4096]; /* the file of its scores */
} sweep_reference;

/* What a point is measured with. */
typedef struct sweep_job {
    const sweep_point *point;
    const char *directory;                    /* of the quantized model, made and (unless keep) removed */
    const sweep_reference *const *references; /* one a text of the point; NULL where the reference runs beside it */
    unsigned threads;
    bool keep;
} sweep_job;

/* Scores a reference and writes its file. EXIT_DONE, or EXIT_BAD with *err filled. */
int measure_reference(const sweep_reference *reference, unsigned threads, sqf_error *err);

/* The figures of a point as an object; NULL with *err filled. */
json_t *measure_point(const sweep_job *job, sqf_error *err);

/* Largest resident memory of this process so far, in bytes. */
uint64_t peak_memory(void);

/* Removes a directory with what is in it; one that is not there is fine. */
void remove_directory(const char *path);

#endif

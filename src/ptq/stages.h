/* Where the time of a quantization goes, by stage, and how much of it is left. */
#ifndef SQF_PTQ_STAGES_H
#define SQF_PTQ_STAGES_H

#include <sqf/quantize.h>

enum { SQF_STAGE_DEPTH = 8 };

/* A stopwatch of nested stages: time counts for the innermost alone. One thread, that of the library's caller. */
typedef struct sqf_stages {
    sqf_quantize_stage stage[SQF_STAGE_COUNT]; /* what was done so far */
    double expected[SQF_STAGE_COUNT];          /* work of the whole run, in the units of `work` */
    sqf_stage stack[SQF_STAGE_DEPTH];
    size_t depth;
    double wall_mark, cpu_mark;
    double (*wall)(void), (*cpu)(void); /* seconds; tests bring their own */
} sqf_stages;

/* Begins to count, for SQF_STAGE_OTHER. Clocks of NULL: the machine's. */
void sqf_stages_start(sqf_stages *stages, double (*wall)(void), double (*cpu)(void));

/* Announces work to come. */
void sqf_stages_expect(sqf_stages *stages, sqf_stage stage, double work);

/* Enters a stage, and leaves it with some work done. Nested calls pair; without sqf_stages_start they do nothing. */
void sqf_stages_begin(sqf_stages *stages, sqf_stage stage);
void sqf_stages_end(sqf_stages *stages, double work);

/* Work of a stage that needs no stopwatch of its own. */
void sqf_stages_count(sqf_stages *stages, sqf_stage stage, double work);

/* Seconds that the rest of the announced work will take: each stage at its own speed so far. A stage that has not run
 * yet is taken to be as much slower or faster than usual as those that have. Negative: nothing is known yet. */
double sqf_stages_left(const sqf_stages *stages);

/* The same in processor seconds of all threads: what a machine that others use too cannot blur. */
double sqf_stages_cpu_left(const sqf_stages *stages);

/* Processor seconds of all stages so far. */
double sqf_stages_cpu_spent(const sqf_stages *stages);

#endif

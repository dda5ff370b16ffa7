/* The stopwatch of the pipeline and the time that is left.
 *
 * Steps of a quantization differ by orders of magnitude (a window of text through a layer, a small matrix, the factor
 * of a wide Hessian), so that a share of the steps says little about the time. Work is counted in each stage's own unit
 * (operations where it multiplies matrices, else elements), and what is left of it is timed by the stage's own speed in
 * this very run. After one layer every stage of a layer has been timed. */
#include "ptq/stages.h"

#include <time.h>

#include "base/file.h"

/* Name, and seconds for a unit of work on one processor of a few years ago. Only the ratios of the latter matter, and
 * only for stages that have not run yet. */
static const struct {
    const char *name;
    double usual;
} table[SQF_STAGE_COUNT] = {
    [SQF_STAGE_OTHER] = {"other", 1e-3},
    [SQF_STAGE_LOAD] = {"load", 5e-10},
    [SQF_STAGE_FORWARD] = {"forward", 2e-11},
    [SQF_STAGE_HESSIAN] = {"hessian", 2e-11},
    [SQF_STAGE_ROTATE] = {"rotate", 1e-9},
    [SQF_STAGE_SMOOTH] = {"smooth", 3e-9},
    [SQF_STAGE_MASK] = {"mask", 1e-9},
    [SQF_STAGE_FACTOR] = {"factor", 3e-11},
    [SQF_STAGE_CORRECT] = {"correct", 3e-11},
    [SQF_STAGE_QUANTIZE] = {"quantize", 4e-11},
    [SQF_STAGE_WRITE] = {"write", 5e-10},
    [SQF_STAGE_PREPARE] = {"prepare", 5e-9},
    [SQF_STAGE_REFORWARD] = {"reforward", 1e-11},
    [SQF_STAGE_VOCABULARY] = {"vocabulary", 4e-11},
    [SQF_STAGE_FINISH] = {"finish", 1e-9},
};

const char *sqf_stage_name(sqf_stage stage)
{
    return (unsigned)stage < SQF_STAGE_COUNT ? table[stage].name : "unknown";
}

static double processor_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void sqf_stages_start(sqf_stages *stages, double (*wall)(void), double (*cpu)(void))
{
    *stages = (sqf_stages){.wall = wall ? wall : sqf_clock_seconds, .cpu = cpu ? cpu : processor_seconds, .depth = 1};
    stages->stack[0] = SQF_STAGE_OTHER;
    stages->wall_mark = stages->wall();
    stages->cpu_mark = stages->cpu();
}

void sqf_stages_expect(sqf_stages *stages, sqf_stage stage, double work)
{
    stages->expected[stage] += work;
}

/* The time since the last mark belongs to the innermost stage. */
static void mark(sqf_stages *stages)
{
    sqf_quantize_stage *stage = &stages->stage[stages->stack[stages->depth - 1]];
    const double wall = stages->wall(), cpu = stages->cpu();
    stage->seconds += wall - stages->wall_mark;
    stage->cpu_seconds += cpu - stages->cpu_mark;
    stages->wall_mark = wall;
    stages->cpu_mark = cpu;
}

void sqf_stages_begin(sqf_stages *stages, sqf_stage stage)
{
    if (stages->depth > 0 && stages->depth < SQF_STAGE_DEPTH) {
        mark(stages);
        stages->stack[stages->depth++] = stage;
    }
}

void sqf_stages_end(sqf_stages *stages, double work)
{
    if (stages->depth > 1) {
        mark(stages);
        stages->stage[stages->stack[--stages->depth]].work += work;
    }
}

void sqf_stages_count(sqf_stages *stages, sqf_stage stage, double work)
{
    stages->stage[stage].work += work;
}

static double time_of(const sqf_quantize_stage *stage, bool cpu)
{
    return cpu ? stage->cpu_seconds : stage->seconds;
}

/* How much slower than usual the stages that have run were, all together. 0 = none has. */
static double slowness(const sqf_stages *stages, bool cpu)
{
    double measured = 0.0, usual = 0.0;
    for (int s = 0; s < SQF_STAGE_COUNT; s++) {
        if (stages->stage[s].work > 0.0) {
            measured += time_of(&stages->stage[s], cpu);
            usual += stages->stage[s].work * table[s].usual;
        }
    }
    return usual > 0.0 ? measured / usual : 0.0;
}

static double time_left(const sqf_stages *stages, bool cpu)
{
    const double factor = slowness(stages, cpu);
    double left = 0.0;
    for (int s = 0; s < SQF_STAGE_COUNT && factor > 0.0; s++) {
        const sqf_quantize_stage *stage = &stages->stage[s];
        const double more = stages->expected[s] - stage->work;
        const double each = stage->work > 0.0 ? time_of(stage, cpu) / stage->work : table[s].usual * factor;
        left += more > 0.0 ? more * each : 0.0;
    }
    return factor > 0.0 ? left : -1.0;
}

double sqf_stages_left(const sqf_stages *stages)
{
    return time_left(stages, false);
}

double sqf_stages_cpu_left(const sqf_stages *stages)
{
    return time_left(stages, true);
}

double sqf_stages_cpu_spent(const sqf_stages *stages)
{
    double spent = 0.0;
    for (int s = 0; s < SQF_STAGE_COUNT; s++) {
        spent += stages->stage[s].cpu_seconds;
    }
    return spent;
}
